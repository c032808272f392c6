"""The weight of a prior with which a reconstruction comes nearest to a known truth.

It shows the best that a classical method can do: an advantage over every method that
has to do without the truth.
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

_FACTOR = 10**0.5  # of neighbouring numbers, before the best is between two of them
_GOLDEN = (3 - 5**0.5) / 2
_CLEARLY = 5  # tolerances
_PERIOD = 4  # iterations between two scores
_SECTIONS = 4  # beside the best, at most


@dataclass(frozen=True)
class DouglasRachford(ADMM):
    """Douglas-Rachford splitting, with several priors in turn.

    For R that is the mean of n priors, each with a copy s_i of the image; in an
    iteration one of them moves (Combettes & Pesquet, SIAM J. Optim. 25, 2015)::

        x <- argmin |A x - y|^2 / 2 + penalty |x - mean of s|^2 / 2
        s_i <- s_i + relaxation (prox_i(2 x - s_i, 1 / penalty) - x)

    Converges for a relaxation below 2. With one prior and relaxation 1 it is ADMM,
    whose options it has. For NumPy. `solve` sets the number of copies.
    """

    copies: int = 1

    parameters: ClassVar[dict[str, float]] = {"penalty": 1.0, "relaxation": 1.5}
    idle_at_last: ClassVar[tuple[str, ...]] = ("relaxation",)
    watched: ClassVar[tuple[str, ...]] = ("mean",)

    def bind(self, prior: Any) -> tuple[Algorithm, Any]:
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
        moved = times(p["relaxation"], prox[turn](2 * x - copy, 1 / rho) - x, xp)
        return {
            **state,
            "x": x,
            "mean": state["mean"] + moved / self.copies,
            "turn": np.asarray((turn + 1) % self.copies, np.float32),
            f"copy {turn}": copy + moved,
        }

    def suited(self, problem: Problem, x: Array, prior: Any) -> dict[str, float]:
        penalty = super().suited(problem, x, prior)["penalty"]
        return {"penalty": penalty, "relaxation": 1.5}


def largest(
    score: Callable[[float], float],
    first: float,
    *,
    low: float,
    high: float,
    tolerance: float = 0.01,
) -> float:
    """Find the positive number that scores best, of all that are tried.

    By steps of a factor from `first`, downwards and, if that is no better, upwards,
    between `low` and `high`, until a score is clearly worse than the best or two in a
    row are no better; then by a few golden sections of the logarithm (Kiefer, Proc. AMS
    4, 1953) beside the best, until a parabola through it and its neighbours promises
    hardly more. A difference of `tolerance` does not matter. Raises
    ValueError unless ``0 < low <= first <= high``.
    """
    if not 0 < low <= first <= high:
        raise ValueError(f"first must lie in [low, high], got {first}, {low}, {high}")
    found = {first: score(first)}

    def best() -> float:
        return max(found, key=lambda x: found[x])

    for factor in (1 / _FACTOR, _FACTOR):
        x, idle = first, 0
        while idle < 2 and low <= x * factor <= high:
            x, before = x * factor, found[best()]
            found[x] = score(x)
            gain = found[x] - before
            idle += 2 if gain < -_CLEARLY * tolerance else gain <= tolerance
        if best() < first:
            break
    for _ in range(_SECTIONS):
        middle = best()
        left = max((x for x in found if x < middle), default=middle)
        right = min((x for x in found if x > middle), default=middle)
        points = [(math.log(x / middle), found[x]) for x in (left, middle, right)]
        if _promise(*points) <= 2 * tolerance:
            break
        wider = max(left, right, key=lambda x: abs(math.log(x / middle)))
        x = middle * (wider / middle) ** _GOLDEN
        found[x] = score(x)
    return best()


def _promise(*points: tuple[float, float]) -> float:
    """How far the parabola through three points rises above that in the middle."""
    (a, fa), (b, fb), (c, fc) = points
    if a == b or b == c:
        return abs(fc - fa) / 8  # the end of the range
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    slope = (left * (c - b) + right * (b - a)) / (c - a)
    bend = 2 * (left - right) / (c - a)
    return slope**2 / (2 * bend) if bend > 0 else 0.0


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
    """Reconstruct with the weight that scores best, and give both.

    Each weight makes a prior, or a pair of them, and parameters of the algorithm. The
    search for it is that of `largest`, with its options. Each starts from the solution
    with the nearest weight so far, the first from `state`, or else `x0`, and ends after
    `iterations` or when the score, in decibels of an image, has settled. With `rtol` it
    stops as `solve` does instead; with `early`, too, the best image on the way counts,
    not the last one.

    Raises KeyboardInterrupt on Ctrl-C, for half a solution is none to judge; ValueError
    as `largest` and `solve`.
    """
    found: dict[float, tuple[float, Solution]] = {}

    def solved(weight: float) -> float:
        near = min(found, key=lambda w: abs(math.log(w / weight)), default=None)
        start = state if near is None else found[near][1].state
        points: list[tuple[float, State]] = []
        changes: list[tuple[float, float]] = []  # of the score, and of the state
        passed: list[tuple[float, Array]] = []

        def settled(iteration: int, state: State) -> bool:
            if iteration % _PERIOD:
                return False
            points.append((score(state["x"]), state))
            if len(points) > 1:
                (before, old), (now, new) = points.pop(0), points[-1]
                moves = [as_float(norm(new[n] - old[n])) for n in algorithm.watched]
                changes.append((abs(now - before), math.hypot(*moves)))
            few = 2 if near is None else 1  # beside a solution nothing turns
            return len(changes) > few and _rest(changes[-3:]) <= tolerance

        def keep(iteration: int, state: State) -> None:
            now = score(state["x"])
            if not passed or now > passed[0][0]:
                passed[:] = [(now, state["x"])]

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
        if passed:
            solution = replace(solution, image=passed[0][1])
        found[weight] = score(solution.image), solution
        return found[weight][0]

    weight = largest(solved, first, low=low, high=high, tolerance=tolerance)
    return weight, found[weight][1]


def _rest(changes: list[tuple[float, float]]) -> float:
    """Estimate what comes, were the changes of the state a geometric series."""
    first, last = changes[0][1], changes[-1][1]
    share = (last / first) ** (1 / (len(changes) - 1)) if first else 0.0
    return max(score for score, _ in changes) / (1 - share) if share < 1 else math.inf
