"""Search for the weight of a prior that minimises the error to a known truth.

It shows the best result of a classical method, which has an advantage over methods
that do not know the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from svdinv.unroll.algorithms.iterations import ADMM, Algorithm, Parameters, State
from svdinv.unroll.algorithms.solver import Solution, solve
from svdinv.unroll.arrays import Array, as_float, namespace, norm, times
from svdinv.unroll.problem import Problem

_FACTOR = 10**0.5  # between neighbouring numbers of the coarse search
_GOLDEN = (3 - 5**0.5) / 2
_CLEARLY = 5  # tolerances by which a score is clearly worse
_PERIOD = 4  # iterations between two scores
_WORST = -1e30  # least score, so that parabolas stay finite
_SECTIONS = 4  # maximum number of golden sections


@dataclass(frozen=True)
class DouglasRachford(ADMM):
    """Douglas-Rachford splitting with several priors, used cyclically.

    R is the mean of n priors, each with a copy s_i of the image. Each iteration updates
    one copy (Combettes & Pesquet, SIAM J. Optim. 25, 2015)::

        x <- argmin |A x - y|^2 / 2 + penalty |x - mean of s|^2 / 2
        s_i <- s_i + relaxation (prox_i(2 x - s_i, 1 / penalty) - x)

    Converges for relaxation below 2. With one prior and relaxation 1 it is ADMM, whose
    options it has. For NumPy. `solve` sets the number of copies.
    """

    copies: int = 1

    parameters: ClassVar[dict[str, float]] = {"penalty": 1.0, "relaxation": 1.5}
    unused_in_last: ClassVar[tuple[str, ...]] = ("relaxation",)
    convergence_variables: ClassVar[tuple[str, ...]] = ("mean",)

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
        if not (isinstance(prior, list | tuple) and prior):
            raise TypeError(
                f"DouglasRachford needs a list of priors, not empty, got {prior!r}"
            )
        algorithm = replace(self, copies=len(prior))
        return algorithm, tuple(part.prox for part in prior)

    def start(self, problem: Problem, x: Array | None = None) -> State:
        x = super().start(problem, x)["x"]
        copies = {f"copy {i}": x for i in range(self.copies)}
        return {"x": x, "mean": x, "turn": np.zeros((), np.float32), **copies}

    def iterate(
        self, state: State, problem: Problem, prox: Any, p: Parameters
    ) -> State:
        rho, xp = p["penalty"], namespace(state["x"])
        turn = int(state["turn"])
        copy = state[f"copy {turn}"]
        x = self.explain(state["mean"], state["x"], problem, rho)
        change = times(p["relaxation"], prox[turn](2 * x - copy, 1 / rho) - x, xp)
        return {
            **state,
            "x": x,
            "mean": state["mean"] + change / self.copies,
            "turn": np.asarray((turn + 1) % self.copies, np.float32),
            f"copy {turn}": copy + change,
        }

    def default_parameters(self, problem: Problem, x: Array, prior: Any) -> Parameters:
        penalty = super().default_parameters(problem, x, prior)["penalty"]
        return {"penalty": penalty, "relaxation": 1.5}


def largest(
    score: Callable[[float], float],
    first: float,
    *,
    low: float,
    high: float,
    tolerance: float = 0.01,
) -> float:
    """Return the positive number with the highest score of those tried.

    The search goes in steps of a factor from `first` downwards and then upwards, until
    a score is clearly worse than the best or an end, `low` or `high`, was tried. Where
    scores hardly differ, the steps become longer. A few golden sections of the
    logarithm (Kiefer, Proc. AMS 4, 1953) next to the best follow, until a parabola
    through it and its neighbours predicts little improvement. `tolerance` is a
    negligible difference of scores; NaN is the lowest score. Raises ValueError unless
    ``0 < low <= first <= high``.
    """
    if not 0 < low <= first <= high:
        raise ValueError(f"first must lie in [low, high], got {first}, {low}, {high}")

    def scored(x: float) -> float:
        found = score(x)
        return found if found > _WORST else _WORST  # also for NaN

    scores = {first: scored(first)}

    def best() -> float:
        return max(scores, key=lambda x: scores[x])

    for factor, end in ((1 / _FACTOR, low), (_FACTOR, high)):
        x, flat = first, 0
        while x != end:
            steps = 2 ** max(flat - 1, 0)
            x, previous = min(max(x * factor**steps, low), high), scores[best()]
            x = end if math.isclose(x, end) else x
            scores[x] = scored(x)
            if scores[x] < previous - _CLEARLY * tolerance:
                break
            flat = 0 if scores[x] > previous + tolerance else flat + 1
    for section in range(_SECTIONS):
        middle = best()
        left = max((x for x in scores if x < middle), default=middle)
        right = min((x for x in scores if x > middle), default=middle)
        points = [(math.log(x / middle), scores[x]) for x in (left, middle, right)]
        # For a peak narrower than the steps the parabola is too low, so one section
        # is always tried, except on a plateau.
        rise = points[1][1] - min(points[0][1], points[2][1])
        if rise <= _CLEARLY * tolerance or (
            section and _predicted_gain(*points) <= 2 * tolerance
        ):
            break
        wider = max(left, right, key=lambda x: abs(math.log(x / middle)))
        x = middle * (wider / middle) ** _GOLDEN
        scores[x] = scored(x)
    return best()


def _predicted_gain(*points: tuple[float, float]) -> float:
    """Return how far a parabola through three points rises above the middle one."""
    (a, fa), (b, fb), (c, fc) = points
    if a == b or b == c:
        return abs(fc - fa) / 8  # at the end of the range
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    slope = (left * (c - b) + right * (b - a)) / (c - a)
    curvature = 2 * (left - right) / (c - a)
    return slope**2 / (2 * curvature) if curvature > 0 else 0.0


def best_solution(
    problem: Problem,
    prior: Callable[[float], Any],
    score: Callable[[Array], float],
    *,
    algorithm: Algorithm,
    first: float,
    low: float,
    high: float,
    parameters: Callable[[float], Mapping[str, Any]] = lambda weight: {},
    state: State | None = None,
    x0: Array | None = None,
    iterations: int = 200,
    rtol: float | None = None,
    early: bool = False,
    tolerance: float = 0.01,
) -> tuple[float, Solution]:
    """Reconstruct with the weight that has the highest score; return weight, solution.

    `prior` and `parameters` are functions of the weight that return a prior, or a pair,
    and parameters of the algorithm. The search is that of `largest`, with its options.
    Each reconstruction starts from the solution with the nearest weight so far, the
    first one from `state` or else `x0`, and ends after `iterations` or when the score,
    in decibels, has settled. With `rtol` it stops as `solve` does instead; with `early`
    as well, the best image of all iterations counts, not the last one. Unfinished
    images may score more with too small a weight: `first` should rather be too large,
    with which they settle sooner; ADMM may need `rtol`, such as 1e-6. Of an error,
    pass the negative, or ``-10 log10`` of its square.

    Raises KeyboardInterrupt on Ctrl-C; TypeError if `prior` is not callable; ValueError
    as `largest` and `solve`.
    """
    if not callable(prior):
        raise TypeError(
            "prior must be a function of the weight that returns a prior, such as "
            f"lambda weight: Nuclear(weight), got {type(prior).__name__}"
        )
    solutions: dict[float, tuple[float, Solution]] = {}

    def solved(weight: float) -> float:
        nearest = min(solutions, key=lambda w: abs(math.log(w / weight)), default=None)
        start = state if nearest is None else solutions[nearest][1].state
        history: list[tuple[float, State]] = []
        changes: list[tuple[float, float]] = []  # of the score, and of the state
        best: list[tuple[float, Array]] = []

        def settled(iteration: int, state: State) -> bool:
            if iteration % _PERIOD:
                return False
            history.append((score(state["x"]), state))
            if len(history) > 1:
                (before, old), (now, new) = history.pop(0), history[-1]
                names = algorithm.convergence_variables
                moves = [as_float(norm(new[n] - old[n])) for n in names]
                changes.append((abs(now - before), math.hypot(*moves)))
            few = 2 if nearest is None else 1  # a start nearby does not oscillate
            return len(changes) > few and _remaining(changes[-3:]) <= tolerance

        def keep(iteration: int, state: State) -> None:
            now = score(state["x"])
            if not best or not best[0][0] >= now:  # also after NaN
                best[:] = [(now, state["x"])]

        solution = solve(
            problem,
            prior(weight),
            algorithm=algorithm,
            iterations=iterations,
            rtol=rtol or 0,
            state=start,
            x0=x0 if start is None else None,
            parameters=parameters(weight),
            callback=settled if rtol is None else keep if early else None,
            objective=False,
        )
        if best:
            solution = replace(solution, image=best[0][1])
        solutions[weight] = score(solution.image), solution
        return solutions[weight][0]

    weight = largest(solved, first, low=low, high=high, tolerance=tolerance)
    return weight, solutions[weight][1]


def _remaining(changes: list[tuple[float, float]]) -> float:
    """Estimate the remaining change of the score, for changes in geometric series."""
    first, last = changes[0][1], changes[-1][1]
    ratio = (last / first) ** (1 / (len(changes) - 1)) if first else 0.0
    return max(score for score, _ in changes) / (1 - ratio) if ratio < 1 else math.inf
