"""Reconstruction by an iterative algorithm, without a network.

The yardstick for what is learned, and often all that is needed: an operator, a
prior and `solve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from svdinv.unroll.algorithms.iterations import (
    FISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
    State,
)
from svdinv.unroll.arrays import Array, as_float, cast_like, is_complex, namespace, norm
from svdinv.unroll.fidelity import DataFidelity
from svdinv.unroll.interrupts import progress_bar
from svdinv.unroll.priors import Prior
from svdinv.unroll.problem import Problem

Stop: TypeAlias = Literal["converged", "iterations", "callback", "interrupted"]


@dataclass(frozen=True)
class Solution:
    """What `solve` gives.

    Attributes
    ----------
    image : array
        The reconstruction.
    objective : list of float
        ``D(A x, y) + R(x)`` after each iteration; empty if not asked for.
    iterations : int
        Iterations made in this call.
    stopped : {"converged", "iterations", "callback", "interrupted"}
        Why it ended; "interrupted" in `Interrupted` alone.
    state : dict of str to array
        From which another call goes on as if there had been no end.
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
        """The part of low rank, of `LowRankPlusSparse`."""
        return self.state.get("low_rank")

    @property
    def sparse(self) -> Array | None:
        """The sparse part, of `LowRankPlusSparse`."""
        return self.state.get("sparse")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a solution: carries the state reached, which is no result.

    Attributes
    ----------
    solution : Solution or Fit
        Of `solve`, after the last whole iteration, to go on from with its ``state``; of
        `svdinv.unroll.untrained.fit`, without the step towards the data.
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

    Ctrl-C raises `Interrupted`, so that an unfinished image is never taken for a
    finished one; its `solution` is what has been reached, to go on from.

    Parameters
    ----------
    problem : Problem
        What was measured, by what, and its data fidelity D.
    prior : Prior, pair of them or None
        R; for `LowRankPlusSparse` those of the low-rank and of the sparse part, for
        `EM` also None. Anything else with ``value(x)`` and ``prox(x, step)`` does.
    algorithm : Algorithm, optional
        Algorithm. By default `LowRankPlusSparse` for a pair, `PDHG` for
        `TotalVariation`, `GradientDescent` where there is a gradient, and `FISTA` with
        restarts for the others.
    iterations : int
        Most iterations.
    rtol : float
        Stop once an iteration changes what the algorithm watches, the image and dual
        variables, by at most this, relatively to each.
    x0 : array, optional
        First image, of the framework of y or of NumPy; A^H y by default.
    state : dict of str to array, optional
        State to go on from, of an earlier solution; of that framework or of NumPy.
    parameters : mapping, optional
        Steps and penalties; those missing are found from the norm of A, and so that
        they go with those given.
    callback : callable, optional
        Called as ``callback(iteration, state)`` after each iteration, counted from
        1; a true result ends the iterations.
    objective : bool
        Whether to record the objective, which costs a value of R, for low-rank ones
        singular values, and a measurement in each iteration.
    progress : bool
        Whether to show a bar, which needs tqdm.

    Returns
    -------
    Solution
        The image, and how it came about.

    Raises
    ------
    TypeError
        If `problem` is none, its data are no floating point array, `x0` is complex
        where images are real, or the algorithm cannot use the prior or the fidelity.
    ValueError
        If the data hold NaN or infinity, an array has the wrong shape, or an option is
        out of range.
    FloatingPointError
        If the image becomes NaN or infinite: a step is too large.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt that carries what has been reached.

    Notes
    -----
    Where a framework records derivatives, such as PyTorch for a learned weight, all
    iterations are recorded; `torch.no_grad` prevents that.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if not rtol >= 0:
        raise ValueError(f"rtol must not be negative, got {rtol}")
    if x0 is not None and state is not None:
        raise ValueError("x0 and state are two ways to start: give one of them")
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}")
    problem = problem.only_measured()
    algorithm, prox = (algorithm or _usual_algorithm(problem, prior)).bind(prior)
    if x0 is None and not problem.A.linear:
        raise ValueError(f"x0 must be given where A is not linear: {problem.A!r}")
    like = problem.adjoint() if problem.A.linear else x0
    _check_shapes(problem, like, x0)
    present = _first_state(algorithm, problem, like, x0, state)
    given = dict(parameters or {})
    if unknown := sorted(given.keys() - algorithm.parameters.keys()):
        raise ValueError(
            f"{algorithm!r} has the parameters {sorted(algorithm.parameters)}, got "
            f"{unknown} as well"
        )
    p = algorithm.completed(given, problem, like, prior)
    history: list[float] = []
    done = 0
    stopped: Stop = "iterations"
    try:
        with (
            progress_bar(iterations, shown=True, unit="it")
            if progress
            else nullcontext() as bar
        ):
            while done < iterations:
                following = algorithm.iterate(present, problem, prox, p)
                small = _changed_little(algorithm, present, following, rtol)
                if objective:
                    value = objective_value(following, problem, prior)
                    history.append(as_float(value))
                present, done = following, done + 1
                if bar is not None:
                    shown = {"objective": f"{history[-1]:.6g}"} if history else {}
                    bar.set_postfix(shown, refresh=False)
                    bar.update()
                if callback is not None and callback(done, present):
                    stopped = "callback"
                    break
                if small:
                    stopped = "converged"
                    break
    except KeyboardInterrupt as press:
        whole = Solution(present["x"], history[:done], done, "interrupted", present, p)
        raise Interrupted(whole) from press
    return Solution(present["x"], history, done, stopped, present, p)


def objective_value(state: State, problem: Problem, prior: Any) -> Array:
    """Return ``D(A x, y) + R(x)``, real and 0-d, or the sum over both parts of x.

    Of the state of an algorithm, or ``{"x": image}``; R is a prior or a pair of them.
    """
    data = problem.value(state["x"])
    if prior is None:
        return data
    if isinstance(prior, Sequence):
        low_rank, sparse = prior
        parts = low_rank.value(state["low_rank"]) + sparse.value(state["sparse"])
        return data + parts
    return data + prior.value(state["x"])


def _usual_algorithm(problem: Problem, prior: Any) -> Algorithm:
    if isinstance(prior, Sequence):
        return LowRankPlusSparse()
    fidelity = problem.fidelity
    steep = not math.isfinite(fidelity.curvature(problem.y))
    if steep and type(fidelity).prox is DataFidelity.prox:
        raise TypeError(
            f"{fidelity!r} must have a finite curvature(y), to go down its slope, or a "
            "prox"
        )
    if steep and getattr(type(prior), "prox", Prior.prox) is Prior.prox:
        raise TypeError(f"{prior!r} has no prox, which {fidelity!r} needs")
    from svdinv.unroll.priors import TotalVariation

    if isinstance(prior, TotalVariation) or steep:
        return PDHG()
    return GradientDescent() if hasattr(prior, "gradient") else FISTA(restart=True)


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
    expected = {name: tuple(array.shape) for name, array in start.items()}
    got = {name: tuple(array.shape) for name, array in state.items()}
    if expected != got:
        raise ValueError(
            f"state must be that of {algorithm!r}, with the shapes {expected}, got "
            f"{got}"
        )
    return {name: cast_like(state[name], array, xp) for name, array in start.items()}


def _changed_little(algorithm: Algorithm, old: State, new: State, rtol: float) -> bool:
    settled = True
    for name in algorithm.watched:
        size = as_float(norm(new[name]))
        if not math.isfinite(size):
            raise FloatingPointError(
                f"{algorithm!r} diverged: {name!r} is not finite; its steps are too "
                "large"
            )
        settled &= as_float(norm(new[name] - old[name])) <= rtol * size
    return settled


def _check_shapes(problem: Problem, image: Array, x0: Array | None) -> None:
    measured = tuple(problem.A.forward(image).shape)
    if measured != tuple(problem.y.shape):
        raise ValueError(
            f"y has the shape {tuple(problem.y.shape)}, but {problem.A!r} gives "
            f"{measured}"
        )
    if x0 is not None and tuple(x0.shape) != tuple(image.shape):
        raise ValueError(
            f"x0 must have the shape {tuple(image.shape)}, got {tuple(x0.shape)}"
        )
    real = not is_complex(image, namespace(image))
    if x0 is not None and real and is_complex(x0, namespace(x0)):
        raise TypeError(f"x0 must be real, because A^H y is, got {x0.dtype}")
