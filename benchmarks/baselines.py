"""Time the classical methods, and compare them with a grid of weights.

The weights of these methods are those that come nearest to the truth. A search finds
them; beside it stands what it took the place of, a grid from large weights to small
ones, each solved by FISTA from the solution with the one before.

    python benchmarks/baselines.py

Processor time, one thread if OMP_NUM_THREADS is 1. Inputs are small: two photographs at
two sampling rates, and two series at two patterns, one also with noise or with coils.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from svdinv.unroll.algorithms import FISTA, LowRankPlusSparse, solve
from svdinv.unroll.data import TEST, centre_crop, photograph
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.metrics import psnr, snr
from svdinv.unroll.operators import TemporalFourier
from svdinv.unroll.priors import Casorati, LocalLowRank, Nuclear, Sparse
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import heart_series
from svdinv.unroll.tasks.cine.kspace import sampled as sampled_series
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.tasks.colour.task import sampled as sampled_photograph

WEIGHTS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
THRESHOLDS = (*np.geomspace(0.2, 0.001, 10), 0.0005)


def problems(size: int) -> Iterator[Problem]:
    """Give photographs and series, small ones."""
    for name in TEST[:2]:
        for rate in (0.4, 0.1):
            image = centre_crop(photograph(name), 2 * size)
            problem = sampled_photograph(name, image, rate, seed=0)
            yield replace(problem, setting=f"rate {rate}")
    real = heart_series("short-axis").astype(np.complex64)[:20]
    top, left = ((n - size) // 2 for n in real.shape[-2:])
    heart = real[:, top : top + size, left : left + size]
    phantom = unseen_series(0, 20, size)
    maps = coil_maps(3, size, size, seed=0)
    for name, series, pattern in (
        ("heart", heart, "radial"),
        ("phantom", phantom, "vista"),
    ):
        mask = sampling(pattern, series.shape, np.random.default_rng(0))
        problem = replace(sampled_series(name, series, mask), setting=pattern)
        yield problem
        if name == "heart":
            yield replace(noisy(problem, 0.03, seed=0), setting="radial, noise")
            problem = sampled_series(name, series, mask, maps)
            yield replace(problem, setting="radial, 3 coils")


def on_grid(problem: Problem, method: str) -> Any:
    """Give the image of a grid of weights that comes nearest to the truth."""
    start = problem.adjoint()
    if method == "SVT completion":
        top = float(np.linalg.norm(start, 2, axis=(-2, -1)).max())
        return _followed(
            problem, [Nuclear(t * top) for t in THRESHOLDS], np.zeros_like(start), 100
        )
    top = float(np.linalg.norm(start.reshape(len(start), -1), 2))
    if method == "low-rank":
        return _followed(problem, [Casorati(w * top) for w in WEIGHTS], start)
    if method == "local low-rank":
        top *= 8 / np.prod(start.shape[-2:]) ** 0.5
        priors = [LocalLowRank(w * top, 8, stride=4) for w in WEIGHTS]
        return _followed(problem, priors, start)
    peak, F = float(np.abs(start).max()), TemporalFourier()
    pairs = [(Casorati(0.1 * top), Sparse(w * peak, F)) for w in WEIGHTS]
    return _followed(problem, pairs, start)


def _followed(problem: Problem, priors: list[Any], start: Any, most: int = 200) -> Any:
    score, best, state = _score(problem), (-np.inf, None), None
    pair = isinstance(priors[0], tuple)
    for prior in priors:
        solution = solve(
            problem,
            prior,
            algorithm=LowRankPlusSparse() if pair else FISTA(restart=True),
            iterations=most,
            rtol=3e-4 if pair else 1e-4,
            x0=start if state is None else None,
            state=state,
            objective=False,
        )
        state = solution.state
        best = max(best, (score(solution.image), solution.image), key=lambda b: b[0])
    return best[1]


def _score(problem: Problem) -> Callable[[Any], float]:
    if np.iscomplexobj(problem.y):
        return lambda x: snr(problem.truth, x)
    mask = problem.A.mask
    return lambda x: psnr(problem.truth, np.clip(np.where(mask, problem.y, x), 0, 1))


def _timed(problem: Problem, method: Callable[[Problem], Any]) -> tuple[float, float]:
    began = time.process_time()
    image = method(problem)
    return time.process_time() - began, _score(problem)(image)


def main() -> int:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="of series, in pixels")
    parser.add_argument("--methods", nargs="*", help="by default all with a weight")
    options = parser.parse_args()
    print(f"{'':42} {'grid':>12} {'search':>14}   faster  nearer")
    total: dict[str, list[float]] = {}
    for problem in problems(options.size):
        task = Cine() if np.iscomplexobj(problem.y) else Colour()
        for name, method in task.baselines().items():
            if name in ("zero-filled", "view sharing", "biharmonic"):
                continue
            if options.methods and name not in options.methods:
                continue
            before, old = _timed(problem, functools.partial(on_grid, method=name))
            after, new = _timed(problem, lambda p, m=method: m(p).image)
            what = f"{problem.name}, {problem.setting}: {name}"
            print(
                f"{what:42} {before:5.2f} s {old:5.2f} {after:5.2f} s {new:5.2f} dB"
                f" {before / after:6.1f} {new - old:+8.2f}",
                flush=True,
            )
            of = f"{name}, coils" if "coils" in problem.setting else name
            sums = total.setdefault(of, [0.0, 0.0])
            sums[0] += before
            sums[1] += after
    for name, (before, after) in total.items():
        print(f"{name}: {before / after:.1f} times faster")
    return 0


if __name__ == "__main__":
    sys.exit(main())
