"""Iterations of proximal algorithms, for solvers and for unrolled networks.

All minimise over images x the sum of the data fidelity of a problem and a penalty::

    minimise over x   D(A x, y) + R(x),

where D is ``|A x - y|^2 / 2`` by default. The state is a dict of arrays in which "x" is
the current image. An iteration consists of array operations without branches on data:
it can be traced, and is differentiable in the state, y, the proximal operator and the
parameters. In a network each iteration has its own `prox` and parameters.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from svdinv.backends.tape import untraced
from svdinv.core.namespace import is_complex, safe_divide
from svdinv.core.tolerances import eps
from svdinv.unroll.arrays import (
    Array,
    as_float,
    check_count,
    inner,
    like,
    namespace,
    norm,
    times,
    to_numpy,
)
from svdinv.unroll.fidelity import L2, PoissonKL
from svdinv.unroll.operators import Identity, Operator, operator_norm
from svdinv.unroll.problem import Problem

State: TypeAlias = dict[str, Array]
Prox: TypeAlias = Callable[[Array, Any], Array]
Parameters: TypeAlias = Mapping[str, Any]

# Upper bound of the ratio of the true norm to its estimate.
_MARGIN = 1.01
_MOMENTUM = 6.0  # that FISTA reaches in ten iterations
_ROUNDING = 16.0  # times eps: negligible residual, relative to b and the first one
# Ratio of the two steps of PDHG.
_LARGEST_RATIO = 1e4


@dataclass(frozen=True)
class Algorithm:
    """An iterative algorithm: its initial state, and one iteration.

    Attributes
    ----------
    parameters : dict of str to float
        Names of the parameters of an iteration, with values for operators of norm 1,
        which are the initial values of a network.
    convergence_variables : tuple of str
        Arrays of the state whose change measures convergence.
    optional_parameters : tuple of str
        Names of further parameters, which `default_parameters` may return.
    unused_in_last : tuple of str
        Parameters that do not affect the image of their own iteration, so that those of
        the last iteration are not learned.
    """

    parameters: ClassVar[dict[str, float]] = {}
    convergence_variables: ClassVar[tuple[str, ...]] = ("x",)
    optional_parameters: ClassVar[tuple[str, ...]] = ()
    unused_in_last: ClassVar[tuple[str, ...]] = ()

    @property
    def only_for_prox(self) -> tuple[str, ...]:
        """Parameters whose only effect is on the step of the proximal operator."""
        return ()

    def start(self, problem: Problem, x: Array | None = None) -> State:
        """Return the first state, from an image or by default from ``A^H y``."""
        return {"x": problem.adjoint() if x is None else x}

    def first_image(self, problem: Problem, adjoint: Array, p: Parameters) -> Array:
        """Return the image to start from, given ``A^H y`` and the default parameters.

        By default it is ``A^H y``.
        """
        return adjoint

    def iterate(
        self, state: State, problem: Problem, prox: Any, p: Parameters
    ) -> State:
        """Return the next state, with the same structure.

        `prox` is ``prox(v, step)``, the proximal operator of step R or a network in its
        place (some algorithms require another function); `p` has values for the names
        in `parameters`. The state itself is not changed.
        """
        raise NotImplementedError

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        """Return the algorithm for a prior or None, and the `prox` for `iterate`."""
        return self, _unchanged if prior is None else prior.prox

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        """Return default parameters for which the algorithm converges, if A is linear.

        Those of a nonlinear A are found from its derivative at `x`, and may be too
        large for other images. Images are like `x`, whose shape, dtype and framework
        are used; `prior` is as for `svdinv.unroll.algorithms.solve`.
        """
        return {"step": 1 / _lipschitz(problem, x)}

    def is_slow(self, state: State) -> bool:
        """Return whether the image may change little only for lack of momentum."""
        return False

    def with_defaults(
        self, given: Parameters, problem: Problem, x: Array, prior: Any
    ) -> dict[str, Any]:
        """Return the parameters in `given`, and the default values of the others."""
        if set(given) == set(self.parameters):
            return dict(given)
        return {**self.default_parameters(problem, x, prior), **given}


class GradientDescent(Algorithm):
    """Gradient descent, for a smooth R.

    ``x <- x - step (A^H(A x - y) + gradient(x))``, where `iterate` requires
    ``gradient(x)`` instead of `prox`. Converges for steps below 2 / L, where L is the
    squared norm of A plus the Lipschitz constant of the gradient of R.
    """

    parameters: ClassVar[dict[str, float]] = {"step": 1.0}

    def iterate(
        self, state: State, problem: Problem, prox: Any, p: Parameters
    ) -> State:
        x = state["x"]
        slope = problem.gradient(x) + prox(x)
        return {"x": x - times(p["step"], slope, namespace(x))}

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        """Return the algorithm and the gradient of R; TypeError if `prior` has none."""
        if not hasattr(prior, "gradient"):
            raise TypeError(
                f"GradientDescent needs a prior with a gradient; for {prior!r} use ISTA"
            )
        return self, prior.gradient

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        """Return the step 1 / L."""
        if not hasattr(prior, "lipschitz"):
            raise TypeError(
                f"{prior!r} has no lipschitz(x), the Lipschitz constant of its "
                "gradient, so there is no default step: pass one"
            )
        return {"step": 1 / (_lipschitz(problem, x) + as_float(prior.lipschitz(x)))}


class ISTA(Algorithm):
    """Proximal gradient descent, also called iterative shrinkage.

    ``x <- prox(x - step A^H(A x - y), step)`` (Daubechies, Defrise & De Mol, Comm. Pure
    Appl. Math. 2004; Combettes & Wajs, 2005). For convex R it converges for steps below
    ``2 / |A|^2``, and the objective decreases in every iteration. With steps of at most
    ``1 / |A|^2`` it decreases for any R.
    """

    parameters: ClassVar[dict[str, float]] = {"step": 1.0}

    def iterate(
        self, state: State, problem: Problem, prox: Prox, p: Parameters
    ) -> State:
        return {"x": self.forward_backward(state["x"], problem, prox, p["step"])}

    def forward_backward(
        self, x: Array, problem: Problem, prox: Prox, step: Any
    ) -> Array:
        """Apply a gradient step, then the proximal operator."""
        return prox(x - times(step, problem.gradient(x), namespace(x)), step)


@dataclass(frozen=True)
class FISTA(ISTA):
    """Proximal gradient descent with momentum (Beck & Teboulle, SIAM J. Imaging 2009).

    With steps of at most ``1 / |A|^2`` the objective is within
    ``2 |x_0 - x*|^2 / (step (k + 1)^2)`` of the minimum after k iterations.

    Parameters
    ----------
    restart : bool
        Whether to reset momentum that points uphill (O'Donoghue & Candès, Found.
        Comput. Math. 2015).
    batch_axes : int
        Number of leading batch axes; the momentum of each image is separate.

    Raises
    ------
    ValueError
        If `batch_axes` is not a nonnegative integer.
    """

    restart: bool = False
    batch_axes: int = 0

    # Where the momentum turns, the image hardly changes in one iteration.
    convergence_variables: ClassVar[tuple[str, ...]] = ("x", "ahead")

    def __post_init__(self) -> None:
        check_count("batch_axes", self.batch_axes, 0)

    def start(self, problem: Problem, x: Array | None = None) -> State:
        x = super().start(problem, x)["x"]
        momentum = namespace(x).ones_like(self._inner(x, x))
        return {"x": x, "ahead": x, "momentum": momentum}

    def iterate(
        self, state: State, problem: Problem, prox: Prox, p: Parameters
    ) -> State:
        x, ahead, t = state["x"], state["ahead"], state["momentum"]
        xp = namespace(x)
        new = self.forward_backward(ahead, problem, prox, p["step"])
        if self.restart:
            uphill = self._inner(ahead - new, new - x) > 0
            t = xp.where(uphill, xp.ones_like(t), t)
        next_t = (1 + xp.sqrt(1 + 4 * t * t)) / 2
        ahead = new + times((t - 1) / next_t, new - x, xp)
        return {"x": new, "ahead": ahead, "momentum": next_t}

    def is_slow(self, state: State) -> bool:
        """Return whether this is one of the first iterations, or after a restart."""
        return as_float(namespace(state["x"]).min(state["momentum"])) < _MOMENTUM

    def _inner(self, x: Array, y: Array) -> Array:
        """Return Re <x, y> of each image, or without `batch_axes` of all together."""
        if not self.batch_axes:
            return inner(x, y)
        axes = tuple(range(self.batch_axes, len(x.shape)))
        return inner(x, y, axes, keepdims=True)


@dataclass(frozen=True)
class ADMM(Algorithm):
    """Alternating direction method of multipliers (Boyd et al., 2011).

    With the scaled multiplier l and the penalty rho::

        z <- prox(x + l, 1 / rho)
        x <- argmin |A x - y|^2 / 2 + rho |x - (z - l)|^2 / 2
        l <- l + dual_step (x - z)

    The second line has a closed form for tight A; otherwise conjugate gradients start
    from the current x. Converges for rho > 0 and dual steps below (1 + sqrt(5)) / 2
    (Glowinski, 1984), if `cg_iterations` suffice.

    Parameters
    ----------
    cg_iterations : int
        Conjugate gradient steps.
    batch_axes : int
        Number of leading batch axes; conjugate gradients treat each image separately.
    exact_data : bool
        Whether to require A x = y instead of a small ``|A x - y|^2``, for tight A: the
        second line becomes the projection ``A.consistent(z - l, y)``.

    Raises
    ------
    ValueError
        If `cg_iterations` is not an integer > 0, or `batch_axes` not one >= 0.
    """

    cg_iterations: int = 10
    batch_axes: int = 0
    exact_data: bool = False

    parameters: ClassVar[dict[str, float]] = {"penalty": 1.0, "dual_step": 1.0}
    unused_in_last: ClassVar[tuple[str, ...]] = ("dual_step",)
    convergence_variables: ClassVar[tuple[str, ...]] = ("x", "multiplier")

    def __post_init__(self) -> None:
        check_count("cg_iterations", self.cg_iterations, 1)
        check_count("batch_axes", self.batch_axes, 0)

    @property
    def only_for_prox(self) -> tuple[str, ...]:
        """The penalty, if `exact_data`."""
        return ("penalty",) if self.exact_data else ()

    def start(self, problem: Problem, x: Array | None = None) -> State:
        """Return the first state, with the multiplier.

        Raises ValueError if `exact_data` is set and A is not tight, TypeError if the
        data fidelity is not `L2`, or A is not linear.
        """
        self.check(problem)
        x = super().start(problem, x)["x"]
        return {"x": x, "multiplier": namespace(x).zeros_like(x)}

    def check(self, problem: Problem) -> None:
        """Raise the errors of `start`."""
        _check_linear(self, problem)
        if self.exact_data and not problem.A.tight:
            raise ValueError(f"exact_data needs a tight operator, not {problem.A!r}")
        if not (self.exact_data or isinstance(problem.fidelity, L2)):
            raise TypeError(
                f"ADMM needs the data fidelity L2, not {problem.fidelity!r}: use PDHG "
                "or ISTA"
            )

    def iterate(
        self, state: State, problem: Problem, prox: Prox, p: Parameters
    ) -> State:
        x, l, rho = state["x"], state["multiplier"], p["penalty"]
        xp = namespace(x)
        z = prox(x + l, 1 / rho)
        x = self.explain(z - l, x, problem, rho)
        return {"x": x, "multiplier": l + times(p["dual_step"], x - z, xp)}

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        """Return the penalty ``|A|^2``, the Lipschitz constant of the data term."""
        return {"penalty": _lipschitz(problem, x), "dual_step": 1.0}

    def explain(self, v: Array, x: Array, problem: Problem, rho: Any) -> Array:
        """Minimise ``D(A x, y) + rho |x - v|^2 / 2`` over x, starting at `x`."""
        xp, A, fidelity = namespace(v), problem.A, problem.fidelity
        if self.exact_data:
            return A.consistent(v, problem.y)
        weight = getattr(fidelity, "weight", None)
        if A.tight and not hasattr(weight, "dtype"):
            scale = 1 if weight is None else weight
            return v - times(1 / (scale + rho), problem.gradient(v), xp)
        zero = xp.zeros_like(problem.y)

        def normal(w: Array) -> Array:
            return A.adjoint(fidelity.slope(A.forward(w), zero)) + times(rho, w, xp)

        right = A.adjoint(-fidelity.slope(zero, problem.y)) + times(rho, v, xp)
        return conjugate_gradients(
            normal, right, x, self.cg_iterations, batch_axes=self.batch_axes
        )


@dataclass(frozen=True)
class PDHG(Algorithm):
    """Primal-dual hybrid gradient method.

    Chambolle & Pock, J. Math. Imaging Vis. 2011, with a dual variable q for the data.
    For R(x) = Q(K x), where `iterate` requires the proximal operator of Q::

        q <- prox_(dual_step D*)(q + dual_step A a)
        w <- (1 - s prox_(Q / s) / s)(w + s K a),  s = dual_step transform_ratio
        x <- x - step (A^H q + K^H w);  a <- 2 x - (x before)

    Without K the third line applies the proximal operator of R, and there is no w.
    Converges for ``step dual_step (|A|^2 + transform_ratio |K|^2) <= 1``. The ratio is
    1 unless it is passed or `solve` chooses a step. With `L2` and `PoissonKL` it is
    then ``|A|^2``: the iterations do not depend on the units of images and data.

    Parameters
    ----------
    transform : Operator, optional
        K, such as `svdinv.unroll.operators.Gradient`; `solve` uses that of the prior.
    nonnegative : bool
        Whether x, which must be real, is constrained to x >= 0, by a projection after
        the third line. `solve` then uses K = 1 for priors without a transform, since R
        and the constraint have no joint proximal operator.

    Raises
    ------
    TypeError
        If `transform` is not an operator.
    """

    transform: Operator | None = None
    nonnegative: bool = False

    parameters: ClassVar[dict[str, float]] = {"step": 0.5, "dual_step": 0.5}
    optional_parameters: ClassVar[tuple[str, ...]] = ("transform_ratio",)

    @property
    def convergence_variables(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x", "dual", "transform_dual")[: 2 if self.transform is None else 3]

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Operator | None):
            raise TypeError(f"transform must be an Operator, got {self.transform!r}")

    def start(self, problem: Problem, x: Array | None = None) -> State:
        """Return the first state, with dual variables; TypeError if A is not linear."""
        _check_linear(self, problem)
        x = super().start(problem, x)["x"]
        if self.nonnegative and is_complex(x, namespace(x)):
            raise TypeError(f"nonnegative images must be real, got {x.dtype}")
        zeros = namespace(x).zeros_like
        state = {"x": x, "ahead": x, "dual": zeros(problem.A.forward(x))}
        if self.transform is not None:
            state["transform_dual"] = zeros(self.transform.forward(x))
        return state

    def iterate(
        self, state: State, problem: Problem, prox: Prox, p: Parameters
    ) -> State:
        x, ahead, step, sigma = state["x"], state["ahead"], p["step"], p["dual_step"]
        xp, K, A = namespace(x), self.transform, problem.A
        z, y = A.forward(ahead), problem.y
        dual = problem.fidelity.dual_step(state["dual"], z, y, sigma, A)
        duals = {"dual": dual}
        slope = A.adjoint(dual)
        if K is None:
            new = prox(x - times(step, slope, xp), step)
        else:
            s = sigma * p.get("transform_ratio", 1.0)
            w = state["transform_dual"] + times(s, K.forward(ahead), xp)
            # Moreau: the proximal operator of the conjugate from that of Q.
            w = w - times(s, prox(times(1 / s, w, xp), 1 / s), xp)
            duals["transform_dual"] = w
            new = x - times(step, slope + K.adjoint(w), xp)
        if self.nonnegative:
            new = xp.where(new > 0, new, xp.zeros_like(new))
        return {"x": new, "ahead": 2 * new - x, **duals}

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        """Return the algorithm with the prior's K, and the proximal operator of Q.

        Raises TypeError if there is a `transform` and the prior has no ``split()``.
        """
        if hasattr(prior, "split"):
            split = prior.split()
            pair = isinstance(split, tuple) and len(split) == 2
            if not pair or not callable(split[1]):
                raise TypeError(
                    f"split() of {prior!r} must return an operator K and a function "
                    f"prox(z, step), got {split!r}"
                )
            K, prox = split
            unneeded = isinstance(K, Identity) and not self.nonnegative
            return replace(self, transform=None if unneeded else K), prox
        if self.transform is not None:
            raise TypeError(f"{self!r} needs a prior with split()")
        if self.nonnegative and prior is not None:
            return replace(self, transform=Identity()), prior.prox
        return super().bind(prior)

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        """Return steps in the ratio of the image to its dual variables.

        The bound of Chambolle & Pock is smallest if the steps have the ratio of the
        squared distances from the start to the solution. `transform_dual` is bounded by
        the weight; the geometric mean of that ratio and equal steps works well. Dual
        variables are proportional to the weight of `L2`, so a mean of it is used.
        """
        squared = total = _squared_norm(problem.A, x)
        differences = not isinstance(self.transform, Identity | None)
        unit = _usual_weight(problem, differences)
        known = isinstance(problem.fidelity, L2 | PoissonKL)
        of_transform = squared if known else 1.0
        if self.transform is None:
            return {"step": 1 / (total * unit), "dual_step": unit}
        total += of_transform * _squared_norm(self.transform, x)
        ratio = 1.0
        weight = getattr(prior, "weight", None)
        single = (
            isinstance(weight, numbers.Real) or getattr(weight, "shape", None) == ()
        )
        weight = as_float(weight) if single else 0.0
        size = as_float(norm(x)) / math.sqrt(max(math.prod(x.shape), 1))
        if weight > 0 and size > 0:  # x is A^H y, of |A|^2 times the size of the image
            ratio = size * unit / weight
            ratio = min(max(ratio, 1 / _LARGEST_RATIO), _LARGEST_RATIO)
        length = (total * of_transform) ** -0.5
        return {
            "step": length * ratio**0.5 / unit,
            "dual_step": length / ratio**0.5 * of_transform * unit,
            "transform_ratio": of_transform,
        }

    def first_image(self, problem: Problem, adjoint: Array, p: Parameters) -> Array:
        """Return ``A^H y / |A|^2``, of the size of the image, for known fidelities."""
        scale = 1 / p.get("transform_ratio", 1.0)
        known = isinstance(problem.fidelity, L2 | PoissonKL)
        if known and self.transform is None:
            scale = p["step"] * p["dual_step"]
        return times(scale, adjoint, namespace(adjoint))

    def with_defaults(
        self, given: Parameters, problem: Problem, x: Array, prior: Any
    ) -> dict[str, Any]:
        """Return both steps; a missing one follows from the product of the defaults.

        Raises ValueError for a `transform_ratio` without both steps.
        """
        missing = self.parameters.keys() - given.keys()
        if not missing:
            return dict(given)
        if "transform_ratio" in given:
            raise ValueError("transform_ratio needs step and dual_step beside it")
        found = dict(self.default_parameters(problem, x, prior))
        product = found["step"] * found["dual_step"]
        if given:
            ((name, value),) = given.items()
            (other,) = missing
            found |= {name: value, other: product / value}
        return found


class LowRankPlusSparse(Algorithm):
    """Decomposition of a series into a low-rank part and a sparse part.

    Otazo, Candès & Sodickson, MRM 2015, by proximal gradient steps in both parts::

        r <- step A^H(A(L + S) - y)
        L, S <- prox_L(L - r, step), prox_S(S - r, step);  x <- L + S

    Converges for steps below ``1 / |A|^2``, since both parts move at once. `iterate`
    requires two proximal operators instead of `prox`, of L and of S.
    """

    parameters: ClassVar[dict[str, float]] = {"step": 0.9}
    convergence_variables: ClassVar[tuple[str, ...]] = ("x", "low_rank", "sparse")

    def first_image(self, problem: Problem, adjoint: Array, p: Parameters) -> Array:
        """Return ``A^H y / |A|^2``, of the size of the image, for the fidelity `L2`."""
        if not isinstance(problem.fidelity, L2):
            return adjoint
        curvature = problem.fidelity.lipschitz(problem.y)
        scale = curvature * p["step"] / self.parameters["step"]
        return times(scale, adjoint, namespace(adjoint))

    def start(self, problem: Problem, x: Array | None = None) -> State:
        x = super().start(problem, x)["x"]
        return {"x": x, "low_rank": x, "sparse": namespace(x).zeros_like(x)}

    def iterate(
        self, state: State, problem: Problem, prox: Sequence[Prox], p: Parameters
    ) -> State:
        x, step = state["x"], p["step"]
        move = times(step, problem.gradient(x), namespace(x))
        low_rank = prox[0](state["low_rank"] - move, step)
        sparse = prox[1](state["sparse"] - move, step)
        return {"x": low_rank + sparse, "low_rank": low_rank, "sparse": sparse}

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        """Return the algorithm and both proximal operators; TypeError if not a pair."""
        if not isinstance(prior, Sequence) or len(prior) != 2:
            raise TypeError(
                "LowRankPlusSparse needs two priors, for the low-rank and the sparse "
                f"part, got {prior!r}"
            )
        return self, tuple(part.prox for part in prior)

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        """Return the step ``0.9 / |A|^2``."""
        return {"step": 0.9 / _lipschitz(problem, x)}


def conjugate_gradients(
    normal: Callable[[Array], Array],
    right: Array,
    x: Array,
    iterations: int,
    *,
    batch_axes: int = 0,
    precondition: Callable[[Array], Array] = lambda residual: residual,
    rtol: float = 0.0,
) -> Array:
    """Solve N x = b for a Hermitian N >= 0 with b in its range, by conjugate gradients.

    Hestenes & Stiefel, J. Res. Natl. Bur. Stand. 1952, from a first estimate `x`.
    `normal` applies N, `right` is b, and the first `batch_axes` axes enumerate systems
    of equations. A system solved up to rounding errors is not changed further: for
    singular N they leave a residual that no step can reduce, and steps along it would
    grow without bound. With `rtol` iterations end early when the largest norm of a
    residual r has decreased by that factor, where the squared norm is
    ``<r, precondition(r)>``; `precondition` applies an approximate inverse of N.
    """
    xp = namespace(right)
    axes = tuple(range(batch_axes, len(right.shape)))

    def ratio(a: Array, b: Array, minimum: Any = 0.0) -> Array:
        return like(safe_divide(a, b, (b > 0) & (a > minimum), xp), right, xp)

    residual = right - normal(x)
    direction = precondition(residual)
    first = power = inner(residual, direction, axes, keepdims=True)
    rounding = (_ROUNDING * eps(right, xp)) ** 2
    size = inner(right, precondition(right), axes, keepdims=True)
    rounding = rounding * (size + power)
    for _ in range(iterations):
        if rtol and as_float(xp.max(power)) <= rtol**2 * as_float(xp.max(first)):
            break
        product = normal(direction)
        curvature = inner(direction, product, axes, keepdims=True)
        length = ratio(power, curvature, rounding)
        x = x + length * direction
        residual = residual - length * product
        preconditioned = precondition(residual)
        previous, power = power, inner(residual, preconditioned, axes, keepdims=True)
        direction = preconditioned + ratio(power, previous) * direction
    return x


def least_squares_near(
    v: Array, A: Operator, y: Array, mu: Array, iterations: int
) -> Array:
    """Approximate the argmin of ``|A x - y|^2 + mu |x - v|^2`` by conjugate gradients.

    Images have one batch axis, and `mu` broadcasts to them; `v` is the first image.
    """
    xp = namespace(v)

    def normal(x: Array) -> Array:
        return A.adjoint(A.forward(x)) + times(mu, x, xp)

    right = A.adjoint(y) + times(mu, v, xp)
    return conjugate_gradients(normal, right, v, iterations, batch_axes=1)


def _lipschitz(problem: Problem, x: Array) -> float:
    """Return a bound of the Lipschitz constant of the data term's gradient."""
    curvature = problem.fidelity.lipschitz(problem.y)
    if not math.isfinite(curvature):
        raise TypeError(
            f"the gradient of {problem.fidelity!r} has no Lipschitz constant, so there "
            "is no default step: pass one, or use PDHG"
        )
    return _squared_norm(problem.A.derivative(x), x) * curvature


def _usual_weight(problem: Problem, differences: bool) -> float:
    """Return the mean of the positive weights of `L2`; 1 for unknown fidelities.

    The arithmetic mean for priors of `differences`, which carry an error to where
    weights are large, else the geometric one: found to need the fewest iterations.
    `PoissonKL` is near its minimum like `L2` with the inverses of the counts.
    """
    fidelity = problem.fidelity
    if isinstance(fidelity, PoissonKL):
        y = untraced(problem.y)
        return 1 / (as_float(namespace(y).mean(y)) or 1.0)
    weight: Any = fidelity.weight if isinstance(fidelity, L2) else None
    if not hasattr(weight, "dtype"):
        return float(weight or 1.0)
    w = to_numpy(untraced(weight)).astype(float)
    w = w[w > 0]
    return float(np.mean(w) if differences else np.exp(np.mean(np.log(w))))


def _unchanged(x: Array, step: Any) -> Array:
    """Apply the proximal operator of zero."""
    return x


def _squared_norm(A: Operator, x: Array) -> float:
    bound = getattr(A, "norm_bound", 1.0 if A.tight else None)
    if bound is None:
        bound = _MARGIN * operator_norm(A, x)
    if bound == 0:
        raise ValueError(f"{A!r} is 0 for every image: there is no default step")
    return bound**2


def _check_linear(algorithm: Algorithm, problem: Problem) -> None:
    if not problem.A.linear:
        raise TypeError(
            f"{type(algorithm).__name__} needs a linear operator, not {problem.A!r}: "
            "use GradientDescent, ISTA, FISTA or LowRankPlusSparse"
        )
