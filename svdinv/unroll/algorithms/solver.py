"""Classical reconstruction, by an iterative algorithm with an operator and a prior."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from inspect import Parameter, ismethod, signature
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from array_api_compat import is_numpy_array

from svdinv.backends.tape import untraced
from svdinv.core.namespace import real
from svdinv.core.tolerances import eps
from svdinv.operators._arguments import as_integer
from svdinv.unroll.algorithms.iterations import (
    FISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
    State,
)
from svdinv.unroll.arrays import (
    Array,
    as_float,
    cast_like,
    inner,
    is_complex,
    namespace,
    on_device,
    to_numpy,
)
from svdinv.unroll.fidelity import DataFidelity, PoissonKL
from svdinv.unroll.interrupts import progress_bar
from svdinv.unroll.priors import Prior
from svdinv.unroll.problem import Problem

Stop: TypeAlias = Literal["converged", "iterations", "callback", "interrupted"]


_RISES = 20  # of the objective in a row, if the iterations diverge


@dataclass(frozen=True)
class Solution:
    """Result of `solve`.

    Attributes
    ----------
    image : array
        The reconstruction.
    objective : list of float
        ``D(A x, y) + R(x)`` after each iteration; empty if not recorded.
    iterations : int
        Iterations of this call.
    stopped : {"converged", "iterations", "callback", "interrupted"}
        Reason for the end; "interrupted" only in `Interrupted`.
    state : dict of str to array
        State from which another call continues as if this one had not stopped.
    parameters : dict of str to float
        Steps and penalties that were used.
    """

    image: Array
    objective: list[float]
    iterations: int
    stopped: Stop
    state: State
    parameters: dict[str, Any]

    @property
    def converged(self) -> bool:
        """Whether the last iteration changed less than `rtol`."""
        return self.stopped == "converged"

    @property
    def low_rank(self) -> Array | None:
        """The low-rank part, for `LowRankPlusSparse`."""
        return self.state.get("low_rank")

    @property
    def sparse(self) -> Array | None:
        """The sparse part, for `LowRankPlusSparse`."""
        return self.state.get("sparse")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a reconstruction: has the state reached so far, not a result.

    Attributes
    ----------
    solution : Solution or Fit
        From `solve`, after the last complete iteration; its ``state`` can be continued.
        From `svdinv.unroll.untrained.fit`, without the final data consistency step.
    """

    def __init__(self, solution: Any) -> None:
        super().__init__(f"interrupted after {solution.iterations} iterations")
        self.solution = solution


def solve(
    problem: Problem,
    prior: Any,
    *,
    algorithm: Algorithm | None = None,
    iterations: int = 200,
    rtol: float = 1e-5,
    x0: Array | None = None,
    state: State | None = None,
    parameters: Mapping[str, Any] | None = None,
    callback: Callable[[int, State], Any] | None = None,
    objective: bool = True,
    progress: bool = False,
) -> Solution:
    """Reconstruct the image of a problem, ``min_x D(A x, y) + R(x)``.

    Ctrl-C raises `Interrupted`, so that an unfinished image is not mistaken for a
    result; its `solution` can be continued.

    Parameters
    ----------
    problem : Problem
        Data, forward operator and data fidelity D.
    prior : Prior, pair of them or None
        R; for `LowRankPlusSparse` the priors of the low-rank and of the sparse part.
        None means R = 0, which `GradientDescent` does not accept. Any object works that
        has ``value(x)`` and, as in `Prior`, either ``prox(x, step)``, or
        ``gradient(x)`` and its Lipschitz constant ``lipschitz(x)``, or ``split()``.
    algorithm : Algorithm, optional
        By default `LowRankPlusSparse` for a pair, `PDHG` for `TotalVariation` and for a
        prior that has ``split`` but no ``prox``, `GradientDescent` for one with
        ``gradient`` and ``lipschitz``, else `FISTA` with restarts. For a data fidelity
        without gradient steps `PDHG`, for `PoissonKL` with ``nonnegative``, or `EM` if
        there is no prior.
    iterations : int
        Maximum number of iterations.
    rtol : float
        Stop when the relative changes of image and dual variables are at most this, of
        each image if the algorithm has `batch_axes`, else of all together; for `FISTA`
        that of the extrapolated image, too, and for ten iterations after a start or
        restart at most a tenth of this.
    x0 : array, optional
        First image, of the framework of y or of NumPy. Default: A^H y; for `PDHG` and
        `LowRankPlusSparse` with `L2`, and `PDHG` with `PoissonKL`, and default steps,
        ``A^H y / |A|^2``.
    state : dict of str to array, optional
        State of an earlier solution to continue; of that framework or of NumPy. If A is
        not linear, default steps depend on the image: pass `parameters` of the earlier
        solution, too.
    parameters : mapping, optional
        Steps and penalties; others are computed from these and the norm of A.
    callback : callable, optional
        Called as ``callback(iteration, state)`` after each iteration, counted from
        1; a true result ends the iterations.
    objective : bool
        Whether to record the objective, which applies A and evaluates R, for low-rank
        priors by singular values, in each iteration.
    progress : bool
        Whether to show a progress bar, which needs tqdm.

    Returns
    -------
    Solution
        The image, with a record of the iterations.

    Raises
    ------
    TypeError
        If `problem` is not a `Problem`, data are not floating point, `x0` is complex
        where images are real, or the algorithm cannot use the prior or fidelity.
    ValueError
        If data or `x0` are NaN or infinite, or so large or small that their squares
        overflow or underflow, a shape is wrong, or an option is out of range.
    FloatingPointError
        If the image becomes NaN or infinite, or the objective, if it is recorded, has
        risen in each of the last 20 iterations, by a million times its first value: a
        step is too large.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt with the state reached so far.

    Notes
    -----
    If the norm of A is far from 1, A^H y is far from the image, and convergence may be
    slow: divide A and y by the norm, and weights of priors with `L2` by its square.
    `PDHG` with `L2` or `PoissonKL`, and `LowRankPlusSparse`, do not need this with
    default steps. Nor does `EM`.

    If a framework records derivatives, such as PyTorch or `svdinv.numpy.vjp` for a
    learned weight, it records all iterations; `torch.no_grad` prevents that. Default
    parameters, restarts and the number of iterations count as constants, though they
    may depend on data, weight and operator: the derivative is that of iterations with
    the same `parameters`, and of the limit if they converge. JAX cannot trace `solve`,
    which reads values; it can trace ``algorithm.start`` and ``algorithm.iterate``.
    """
    iterations = as_integer(iterations, "iterations", 1)
    if not rtol >= 0:
        raise ValueError(f"rtol must not be negative, got {rtol}")
    if x0 is not None and state is not None:
        raise ValueError("x0 and state both define the start: pass one of them")
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}")
    _check_prior(prior, objective)
    problem = _on_device(problem.only_measured())
    algorithm, prox = _bound(algorithm, problem, prior)
    start, name = x0, "x0"
    if not problem.A.linear and state is not None:
        # There is no A^H y to tell what images are like.
        if not (isinstance(state, Mapping) and "x" in state):
            raise TypeError(f"state must be the state of a Solution, got {state!r}")
        start, name = state["x"], "x of state"
    like = _like_image(problem, start, name)
    current = _first_state(algorithm, problem, like, start, state)
    passed = _checked_parameters(algorithm, parameters or {})
    p = algorithm.with_defaults(passed, problem, like, prior)
    if x0 is None and state is None and not passed:
        first = algorithm.first_image(problem, like, p)
        current = current if first is like else algorithm.start(problem, first)
    plain = _untraced(current)
    history: list[float] = []
    count = 0
    stopped: Stop = "iterations"
    try:
        with (
            progress_bar(iterations, visible=True, unit="it")
            if progress
            else nullcontext() as bar
        ):
            while count < iterations:
                next_ = algorithm.iterate(current, problem, prox, p)
                before, plain = plain, _untraced(next_)
                converged = _changed_little(algorithm, before, plain, rtol)
                if objective:
                    value = objective_value(plain, problem, prior)
                    history.append(as_float(value))
                current, count = next_, count + 1
                if bar is not None:
                    entries = {"objective": f"{history[-1]:.6g}"} if history else {}
                    bar.set_postfix(entries, refresh=False)
                    bar.update()
                if callback is not None and callback(count, plain):
                    stopped = "callback"
                    break
                if converged:
                    stopped = "converged"
                    break
    except KeyboardInterrupt as interrupt:
        part = Solution(current["x"], history[:count], count, "interrupted", current, p)
        raise Interrupted(part) from interrupt
    if stopped == "iterations" and _grows(history, problem, current["x"]):
        raise FloatingPointError(
            f"{algorithm!r} diverges: the objective rose in each of the last "
            f"{_RISES} iterations, to {history[-1]:.3g}; its steps are too large"
        )
    return Solution(current["x"], history, count, stopped, current, p)


def _check_prior(prior: Any, objective: bool) -> None:
    """Raise TypeError for a prior, or one of several, that is no object of its kind."""
    several = isinstance(prior, Sequence) and not isinstance(prior, str)
    for each in prior if several else (prior,):
        usable = any(hasattr(each, name) for name in ("prox", "gradient", "split"))
        if isinstance(each, type | str) or (callable(each) and not usable):
            raise TypeError(
                f"prior must be an object, such as TotalVariation(0.01), got {each!r}"
            )
        if objective and usable and not hasattr(each, "value"):
            raise TypeError(f"prior needs value(x), or objective=False: {each!r}")


def _bound(
    algorithm: Algorithm | None, problem: Problem, prior: Any
) -> tuple[Algorithm, Any]:
    """Return the algorithm for a prior, and the checked functions of the prior."""
    algorithm = _default_algorithm(problem, prior) if algorithm is None else algorithm
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be an Algorithm, got {algorithm!r}")
    try:
        algorithm, prox = algorithm.bind(prior)
    except AttributeError as error:
        hint = "; PDHG can" if hasattr(prior, "split") else ""
        raise TypeError(f"{algorithm!r} cannot use {prior!r}: {error}{hint}") from error
    if getattr(algorithm, "exact_data", False):
        _check_no_zero_weights(problem)
    for each in prox if isinstance(prox, Sequence) else (prox,):
        if getattr(each, "__func__", None) is Prior.prox:
            raise TypeError(
                f"{algorithm!r} needs a prox, which {prior!r} does not have"
            )
        _check_step(each, prior)
    return algorithm, _checked(prox, prior)


def _check_no_zero_weights(problem: Problem) -> None:
    """Raise ValueError if data that are restored exactly have the weight 0."""
    weight = getattr(problem.fidelity, "weight", None)
    if not hasattr(weight, "dtype"):
        return
    y = untraced(problem.y)
    xp = namespace(y)
    sampled = untraced(problem.A.project_to_samples(xp.ones_like(y)))
    if bool(xp.any((sampled != 0) & (untraced(weight) == 0))):
        rule = "positive weights: leave out data by the operator, such as Sampling"
        raise ValueError(f"exact_data restores all data and needs {rule}")


def _checked_parameters(
    algorithm: Algorithm, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return steps and penalties, as floats or arrays, after checking their names."""
    checked = dict(parameters)
    names = {*algorithm.parameters, *algorithm.optional_parameters}
    if unknown := sorted(checked.keys() - names):
        raise ValueError(
            f"{algorithm!r} has the parameters {sorted(algorithm.parameters)}, got "
            f"{unknown} as well"
        )
    for name, value in checked.items():
        if not isinstance(value, numbers.Real):
            if not hasattr(value, "dtype"):
                raise TypeError(f"parameter {name} must be a number, got {value!r}")
        elif not 0 < float(value) < math.inf:
            raise ValueError(f"parameter {name} must be positive, got {value!r}")
        else:
            checked[name] = float(value)  # of NumPy, too
    return checked


def _grows(objective: list[float], problem: Problem, x: Array) -> bool:
    """Whether the objective rises steadily, by a million times its first value.

    Or by a million times the data term of an image of zeros, if that is larger.
    """
    last = objective[-_RISES - 1 :]
    if len(last) <= _RISES or any(a >= b for a, b in pairwise(last)):
        return False
    first = objective[0]
    of_zeros = as_float(problem.value(namespace(x).zeros_like(x)))
    return last[-1] - first > 1e6 * max(abs(first), abs(of_zeros))


def _on_device(problem: Problem) -> Problem:
    """Convert NumPy arrays to the framework of y once, not in each application of A."""
    y = problem.y
    if is_numpy_array(untraced(y)):
        return problem
    xp = namespace(y)

    def convert(x: Array) -> Array:
        return xp.asarray(x, **on_device(y)) if is_numpy_array(x) else x

    fidelity = problem.fidelity.replace_arrays(convert)
    return replace(problem, A=problem.A.replace_arrays(convert), fidelity=fidelity)


def _untraced(state: State) -> State:
    return {name: untraced(array) for name, array in state.items()}


def _check_step(prox: Any, prior: Any) -> None:
    """Raise TypeError if the step is the keyword ``gamma``, as in DeepInverse."""
    if ismethod(prox):
        found = signature(prox).parameters
        kinds = [p.kind for p in found.values()]
        if kinds[1:2] == [Parameter.VAR_POSITIONAL] and "gamma" in found:
            raise TypeError(
                f"prior must have prox(x, step), {prior!r} has prox{signature(prox)}"
            )


def _checked(prox: Any, prior: Any) -> Any:
    """Wrap functions of priors: TypeError unless shape and dtype are preserved."""
    if isinstance(prox, Sequence):
        return tuple(map(_checked, prox, prior))
    if not callable(prox):
        return prox

    def checked(x: Array, *step: Any) -> Array:
        found = prox(x, *step)
        wanted, got = (
            (getattr(t, "shape", None), getattr(t, "dtype", None)) for t in (x, found)
        )
        if got != wanted:
            raise TypeError(
                f"the {getattr(prox, '__name__', 'prox')} of {prior!r} must return an "
                f"array of the shape and dtype {wanted} of its argument, got {got}"
            )
        return found

    return checked


def objective_value(state: State, problem: Problem, prior: Any) -> Array:
    """Return ``D(A x, y) + R(x)`` as a real 0-d array.

    `state` is that of an algorithm, or ``{"x": image}``. For several priors R is their
    mean, as in Douglas-Rachford splitting; but if x has a low-rank and a sparse part,
    it is the sum of one prior for each part.
    """
    data = problem.value(state["x"])
    if prior is None:
        return data
    if not isinstance(prior, Sequence):
        return data + prior.value(state["x"])
    if "low_rank" in state:
        low_rank, sparse = prior
        parts = low_rank.value(state["low_rank"]) + sparse.value(state["sparse"])
        return data + parts
    values = [each.value(state["x"]) for each in prior]
    return data + sum(values[1:], values[0]) / len(values)


def _default_algorithm(problem: Problem, prior: Any) -> Algorithm:
    if isinstance(prior, Sequence):
        return LowRankPlusSparse()
    fidelity = problem.fidelity
    if prior is None and isinstance(fidelity, PoissonKL):
        from svdinv.unroll.algorithms.em import EM

        return EM()
    unbounded = not math.isfinite(fidelity.lipschitz(problem.y))
    if unbounded and type(fidelity).prox is DataFidelity.prox:
        raise TypeError(
            f"{fidelity!r} must have a prox, or for gradient steps a finite "
            "lipschitz(y)"
        )
    has_prox = prior is None or _defines(prior, "prox")
    if unbounded and not (has_prox or _defines(prior, "split")):
        hint = "; EM can use its gradient" if isinstance(fidelity, PoissonKL) else ""
        raise TypeError(f"{prior!r} has no prox, which {fidelity!r} needs{hint}")
    from svdinv.unroll.priors import TotalVariation

    if isinstance(prior, TotalVariation) or unbounded:
        return PDHG(nonnegative=isinstance(fidelity, PoissonKL))
    if hasattr(prior, "gradient") and hasattr(prior, "lipschitz"):
        return GradientDescent()
    only_split = _defines(prior, "split") and not has_prox
    return PDHG() if only_split else FISTA(restart=True)


def _defines(prior: Any, name: str) -> bool:
    """Return whether a prior has a method other than the default of `Prior`."""
    method, default = getattr(prior, name, None), getattr(Prior, name)
    return method is not None and getattr(method, "__func__", None) is not default


def _first_state(
    algorithm: Algorithm,
    problem: Problem,
    zero_filled: Array,
    x0: Array | None,
    state: State | None,
) -> State:
    xp = namespace(zero_filled)
    x = None if x0 is None else cast_like(x0, zero_filled, xp)
    start = algorithm.start(problem, x)
    if state is None:
        return start
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a dict, the state of a Solution, got {type(state).__name__}"
        )
    expected = {name: tuple(array.shape) for name, array in start.items()}
    got = {name: tuple(getattr(x, "shape", ())) for name, x in state.items()}
    if expected != got:
        raise ValueError(
            f"state must be that of {algorithm!r}, with the shapes {expected}, got "
            f"{got}"
        )
    return {name: cast_like(state[name], array, xp) for name, array in start.items()}


def _changed_little(algorithm: Algorithm, old: State, new: State, rtol: float) -> bool:
    names, batch = algorithm.convergence_variables, getattr(algorithm, "batch_axes", 0)
    xp = namespace(new["x"])

    def norms(x: Array) -> Array:
        return xp.sqrt(
            inner(x, x, tuple(range(batch, len(x.shape))) if batch else None)
        )

    found = [norms(new[name]) for name in names]
    found += [norms(new[name] - old[name]) for name in names]
    # All at once, because each transfer from a GPU waits for it.
    sizes, changes = np.split(to_numpy(xp.stack(found)).astype(float), 2)
    for name, size in zip(names, sizes, strict=True):
        if not np.isfinite(size).all():
            raise FloatingPointError(
                f"{algorithm!r} diverged: {name!r} is not finite; its steps are too "
                "large"
            )
    if algorithm.is_slow(new):
        rounding = 4 * eps(new["x"], namespace(new["x"]))
        rtol = min(rtol, max(rtol / 10, rounding))
    return bool((changes <= rtol * sizes).all())


def _check_start(x0: Array, y: Array, name: str) -> None:
    """Check that `x0` is an array of numbers, of NumPy or of the framework of `y`."""
    try:
        x0, y = untraced(x0), untraced(y)
        known = is_numpy_array(x0) or namespace(x0) is namespace(y)
    except TypeError:  # no array
        known = False
    if not known:
        kinds = "a NumPy array"
        if not is_numpy_array(y):
            kinds += f" or, as y is, {type(y).__name__}"
        raise TypeError(f"{name} must be {kinds}, got {type(x0).__name__}")
    if not as_float(namespace(x0).max(abs(x0))) < math.inf:
        raise ValueError(f"{name} contains NaN or infinity")


def _like_image(problem: Problem, x0: Array | None, name: str) -> Array:
    """Return A^H y, or x0 if A is not linear, after checking shapes, dtypes and units.

    Other images of the reconstruction have its shape, dtype and framework.
    """
    A, y = problem.A, problem.y
    if x0 is None and not A.linear:
        raise ValueError(f"x0 is required if A is not linear: {A!r}")
    if x0 is not None:
        _check_start(x0, y, name)
    xp = namespace(y)
    image = problem.adjoint() if A.linear else cast_like(x0, real(y, xp), xp)
    shape = tuple(A.forward(image).shape)
    if shape != tuple(y.shape):
        raise ValueError(
            f"y has the shape {tuple(y.shape)}, but {A!r} has data of the shape {shape}"
        )
    if x0 is not None and tuple(x0.shape) != tuple(image.shape):
        raise ValueError(
            f"x0 must have the shape {tuple(image.shape)}, got {tuple(x0.shape)}"
        )
    is_real = not is_complex(image, namespace(image))
    if x0 is not None and is_real and is_complex(x0, namespace(x0)):
        raise TypeError(f"x0 must be real, because A^H y is, got {x0.dtype}")
    if not math.isfinite(_largest(image)):
        check_units("y", y)  # too large data are one cause
        name = "A^H y" if A.linear else name
        raise ValueError(f"{name} is not finite for {A!r}, but y is")
    check_units("y" if A.linear else name, image)
    return image


def _largest(x: Array) -> float:
    xp = namespace(x)
    return as_float(xp.max(xp.abs(x))) if math.prod(x.shape) else 0.0


def check_units(name: str, x: Array) -> None:
    """Raise ValueError, naming `x`, unless sums of its squares are normal numbers.

    Algorithms divide and compare squares: if these underflow, an image that changes
    slightly seems to have converged.
    """
    xp = namespace(x)
    info, size = xp.finfo(x.dtype), _largest(x)
    least, most, eps = map(float, (info.smallest_normal, info.max, info.eps))
    low, high = (least / eps) ** 0.5, (most * eps) ** 0.5
    if size and not low <= size <= high:
        raise ValueError(
            f"{name} must have other units, or another dtype: its largest magnitude is "
            f"to be {low:.3g} to {high:.3g} in {x.dtype}, got {size:.3g}"
        )
