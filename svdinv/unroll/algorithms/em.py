"""Expectation maximisation for counts, as in emission tomography.

Counts are Poisson variables with mean A x + b: the data fidelity is
`svdinv.unroll.fidelity.PoissonKL` with the background b. A has nonnegative entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from svdinv.core.namespace import safe_divide
from svdinv.unroll.algorithms.iterations import Algorithm, Parameters, State
from svdinv.unroll.arrays import Array, as_float, cast_like, like, namespace, times
from svdinv.unroll.fidelity import PoissonKL, positive_root
from svdinv.unroll.operators import Operator, Stack
from svdinv.unroll.problem import Problem

_LEAST = 1e-3  # minimum relative to the mean of the first image


_Subset: TypeAlias = tuple[Operator, Array, Any]  # with counts and background


@dataclass(frozen=True)
class EM(Algorithm):
    """Expectation maximisation, alone or with a prior.

    With ``s = A^T 1`` and ``e = x A^T(y / (A x + b))``:

    - Without a prior ``x <- e / s`` (MLEM: Shepp & Vardi, IEEE TMI 1982). The
      likelihood never decreases, and without background the total count is preserved,
      ``sum(s x) = sum(y)``.
    - A prior with a gradient g and curvature L is majorised at x by a quadratic
      function (De Pierro, IEEE TMI 1995): x becomes the positive root of
      ``L u^2 + (s + g - L x) u = e``. The objective never increases.
    - A prior with only a proximal operator, such as one of low rank, denoises each
      iterate, ``x <- prox(e / s, step mean(x) / mean(s))`` (as EM-TV: Sawatzky et al.,
      IEEE NSS 2008, with one weight for all pixels). Its fixed point is not the
      maximum of the posterior, and the best weight may be ten times that of `PDHG`.

    The operators of a `svdinv.unroll.operators.Stack` are subsets, used in turn (OSEM:
    Hudson & Larkin, IEEE TMI 1994): faster by their number, but without convergence.
    Where a subset has less than half of its share of the counts of an image or frame,
    this changes by only the fraction 1 / subsets of each step: a subset without counts
    would leave no activity.
    """

    parameters: ClassVar[dict[str, float]] = {"step": 1.0}

    def start(self, problem: Problem, x: Array | None = None) -> State:
        """Return a positive first image and the sensitivities of the subsets.

        By default the image is constant, with the measured total count. Elements below
        a thousandth of the mean are raised to that, since zeros would remain 0. Raises
        TypeError if the data fidelity is not `PoissonKL`, ValueError if there are
        counts but no positive element, and errors of the fidelity's `check`.
        """
        if not isinstance(problem.fidelity, PoissonKL):
            raise TypeError(
                f"EM is for the data fidelity PoissonKL, not {problem.fidelity!r}"
            )
        problem.fidelity.check(problem.y)  # networks skip this check
        like_x = problem.adjoint() if x is None else x
        xp, state = namespace(like_x), sensitivities(problem, like_x)
        one = xp.ones_like(like_x)
        if x is None:
            x = xp.sum(problem.y) / xp.sum(state["sensitivity"]) * one
        x = xp.where(x > 0, x, 0 * one)
        if not as_float(xp.max(x)) > 0 and as_float(xp.max(problem.y)) > 0:
            raise ValueError(
                "EM multiplies its first image, which has no positive element: pass "
                "another x0, or an operator without negative entries"
            )
        minimum = _LEAST * xp.mean(x) * one
        return state | {"x": xp.where(x > minimum, x, minimum)}

    def iterate(
        self, state: State, problem: Problem, prox: Any, p: Parameters
    ) -> State:
        x, sensitivity = state["x"], state["sensitivity"]
        xp, count = namespace(x), sensitivity.shape[0]
        for k, subset in enumerate(subsets(problem, x)):
            e, s = expected(x, subset, state, k)
            if hasattr(prox, "gradient"):
                # Maximise the surrogate of a subset, with its share of the prior.
                L = prox.lipschitz(x) / count
                slope = times(1 / count, prox.gradient(x), xp)
                x = positive_root(L, s + slope - times(L, x, xp), e, xp)
            else:
                x = safe_divide(e, s, s > 0, xp)
        if callable(prox):
            step = p["step"] * xp.mean(x) / xp.mean(xp.sum(sensitivity, axis=0))
            x = prox(x, step)
            x = xp.where(x > 0, x, xp.zeros_like(x))
        return state | {"x": x}

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        """Return the prior if it has a gradient, else its proximal operator."""
        if prior is None or hasattr(prior, "gradient"):
            return self, prior
        return self, prior.prox

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        return {"step": 1.0}


def expected(x: Array, subset: _Subset, state: State, k: int) -> tuple[Array, Array]:
    """Return the expected counts emitted by each pixel, and the sensitivity s.

    The counts are ``x A^T(y / (A x + b))`` for subset k. If the step is below 1, they
    lie at that fraction of the way from ``s x``, which would keep x, to these.
    """
    xp, (A, y, background), s = namespace(x), subset, state["sensitivity"][k, ...]
    mean = A.forward(x) + background
    e = x * A.adjoint(safe_divide(like(y, mean, xp), mean, mean > 0, xp))
    if "step" in state:
        step, unchanged = state["step"], s * x
        e = xp.where(step < 1, unchanged + step * (e - unchanged), e)
    return e, s


def sensitivities(problem: Problem, x: Array) -> State:
    """Return ``A^T 1`` of each subset for images like x, and their steps if several."""
    parts, xp = subsets(problem, x), namespace(x)
    s = xp.stack([A.adjoint(xp.ones_like(y)) for A, y, _ in parts])
    if not isinstance(problem.A, Stack):
        return {"sensitivity": s}
    return {"sensitivity": s, "step": _steps(problem, s)}


def _steps(problem: Problem, s: Array) -> Array:
    """Return the fraction of a step for each image, (..., 1, 1).

    It is 1, or 1 / subsets if a subset has less than half of its share of the counts of
    an image; shares are proportional to the total sensitivity s (subsets, ...).
    """
    xp = namespace(s)
    axes = _image_axes(problem.A, len(s.shape) - 1)
    before = len(s.shape) - 1 - axes
    share = xp.sum(s, axis=tuple(range(1 + before, len(s.shape))))
    counts = xp.stack(
        [
            xp.sum(like(y, s, xp), axis=tuple(range(before, len(y.shape))))
            for _, y, _ in subsets(problem, s[0, ...])
        ]
    )
    due = share * xp.sum(counts, axis=0) / 2
    few = xp.any(counts * xp.sum(share, axis=0) < due, axis=0)
    one = xp.ones_like(counts[0, ...])
    return xp.where(few, one / counts.shape[0], one)[(..., *[None] * axes)]


def _image_axes(A: Any, most: int) -> int:
    """Return the number of axes of one image; `most` if it is unknown."""
    while not hasattr(A, "image_shape"):
        if not getattr(A, "parts", ()):
            return most
        A = A.parts[-1]
    return len(A.image_shape)


def subsets(problem: Problem, x: Array) -> Iterator[_Subset]:
    """Yield the operators with their counts and backgrounds."""
    A, y, b = problem.A, problem.y, problem.fidelity.background  # type: ignore[attr-defined]
    if hasattr(b, "dtype"):
        b = cast_like(b, x, namespace(x)) + namespace(x).zeros_like(
            like(y, x, namespace(x))
        )
    if not isinstance(A, Stack):
        yield A, y, b
        return
    parts = A.split(b) if hasattr(b, "dtype") else [b] * len(A.operators)
    yield from zip(A.operators, A.split(y), parts, strict=True)
