"""Score reconstructions of the Kuopio Tomography Challenge 2023.

    python benchmarks/impedance.py FOLDER

FOLDER has level_1, level_3 and so on, true1.mat to true4.mat and Mesh_sparse.mat. The
weights are chosen on simulated tanks, not on the targets.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import scipy.io
from scipy.ndimage import zoom

from svdinv.unroll.algorithms.nonlinear import gauss_newton, truncated_svd
from svdinv.unroll.tasks.impedance.model import (
    Voltages,
    logarithmic,
    penalties,
    problem_of,
    smooth,
)
from svdinv.unroll.tasks.impedance.tank import (
    SIDE,
    calibrated,
    deviations,
    read_mesh,
    read_tank,
    score,
    segment,
)
from svdinv.unroll.untrained import HeldOut, Options, fit
from svdinv.unroll.untrained.presets import generator_for

TARGETS = (1, 2, 3, 4)
UNTRAINED = {"DIP": "dip", "deep decoder": "deep-decoder"}
CLASSICAL = ("TSVD, discrepancy", "TSVD, SURE", "Tikhonov", "TV", "TV, Gauss-Newton")
METHODS = (*CLASSICAL, *UNTRAINED)
SIZE, ITERATIONS = 64, 300  # of what untrained networks make
TUNED = ("Tikhonov", "TV", "TV, Gauss-Newton")
WEIGHTS = 10.0 ** np.arange(-4, 2)
PIXELS = 256


def picture(mesh):
    """From triangles to the pixels of the challenge: rows from top to bottom."""
    line = (np.arange(PIXELS) + 0.5) / PIXELS * SIDE - SIDE / 2
    X, Y = np.meshgrid(line, -line)
    index = mesh.at(np.stack([X, Y], -1))
    water = np.hypot(X, Y) < np.linalg.norm(mesh.nodes, axis=1).max()
    return lambda x: np.where(water, x[index], 0)


def methods(A, x0, L, y, noise, weights):
    """Give the change of the conductivity by each method, as functions."""
    D, zero = A.derivative(x0), np.zeros_like(x0)
    noise, exact = noise  # with the errors of the linear model, and without
    little = 0.02 * x0[0]
    C = smooth(A.mesh)

    def truncated(keep):
        """In standard form: x = C w, of the smallest w = L x."""
        like = np.zeros(len(L @ x0))
        found = truncated_svd(D * C, y, like, rank=60, noise=noise, keep=keep)
        return C.forward(found.image)

    def linear(name, **options):
        return gauss_newton(D, y, zero, L, weight=weights[name], noise=noise, **options)

    def newton():
        there = np.where(np.isfinite(y), exact, np.inf)
        steps = logarithmic(Voltages(A, x0[0], there))
        weight = weights["TV, Gauss-Newton"]
        return gauss_newton(
            steps, y / exact, zero, L, weight=weight, variation=0.02, iterations=5
        )

    functions = (
        lambda: truncated("discrepancy"),
        lambda: truncated("sure"),
        lambda: linear("Tikhonov", iterations=1),
        lambda: linear("TV", variation=little, iterations=5),
        newton,
    )
    found = dict(zip(CLASSICAL, functions, strict=True))
    for name, prior in UNTRAINED.items():
        found[name] = functools.partial(fitted, A, x0, y, exact, prior)
    return found


def simulated(A, x0, seed):
    """Make a tank with two ellipses, and its difference data with noise."""
    rng, c = np.random.default_rng(seed), A.mesh.centres / (SIDE / 2)
    kind, x = np.zeros(len(x0), np.uint8), x0.copy()
    for label, factor in ((1, 0.1), (2, 5.0)):
        r, turn = 0.55 * rng.random(), 2 * np.pi * rng.random()
        d = c - r * np.array([np.cos(turn), np.sin(turn)])
        inside = np.hypot(*(d / rng.uniform(0.15, 0.35, 2)).T) < 1
        kind[inside], x[inside] = label, factor * x0[inside]
    change = A.forward(x) - A.forward(x0)
    return kind, x, change * (1 + 0.01 * rng.standard_normal(change.shape))


def model_error(A, x0, count=20):
    """Root mean square of what the linear model leaves of simulated tanks.

    The approximation error of Kaipio and Somersalo, "Statistical and computational
    inverse problems", 2005, without its correlations.
    """
    D, squares = A.derivative(x0), 0.0
    for seed in range(100, 100 + count):
        _, x, y = simulated(A, x0, seed)
        squares = squares + (y - D.forward(x - x0)) ** 2 / count
    return np.sqrt(squares)


def fitted(A, x0, y, noise, name):
    """Fit an untrained network to the data; give its picture, of the challenge's size.

    Stopped by data that are held out.
    """
    problem = problem_of(A, x0[0], y, noise, SIZE)
    generator = generator_for(name, problem)
    options = Options(iterations=ITERATIONS, rule=HeldOut(), input_noise=0.03)
    found = fit(problem, generator, options, progress=False)
    image = zoom(found.image[0], PIXELS / SIZE, order=1, grid_mode=True, mode="nearest")
    return image - 0.5


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 3, 5, 7])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    mesh = read_mesh(options.folder / "Mesh_sparse.mat")
    L, draw = penalties(mesh), picture(mesh)
    truths = [
        scipy.io.loadmat(options.folder / f"true{t}.mat")["truth"] for t in TARGETS
    ]
    first = read_tank(options.folder / "level_1", 1)
    A, water, misfit = calibrated(mesh, first)
    x0 = np.full(len(mesh.triangles), water)
    print(f"water {water:.3f}, contact {A.contact[0]:.2e}, misfit {misfit:.2%}")
    error, V0 = model_error(A, x0), A.forward(x0)
    weights = {}
    for name in (name for name in TUNED if name in options.methods):
        found = {}
        for w in WEIGHTS:
            found[w] = 0.0
            for seed in range(2):
                kind, _, y = simulated(A, x0, seed)
                exact = deviations(V0, y, misfit)
                noise = np.hypot(exact, error), exact
                x = methods(A, x0, L, y, noise, {name: w})[name]()
                found[w] += score(segment(draw(x)), draw(kind).astype(int)) / 2
        weights[name] = max(found, key=found.get)
        print(name, {f"{w:.0e}": f"{s:.3f}" for w, s in found.items()}, flush=True)
    for level in options.levels:
        rows = {}
        for target, truth in zip(TARGETS, truths, strict=True):
            tank = read_tank(options.folder / f"level_{level}", target)
            y = tank.data - tank.reference
            exact = deviations(tank.reference, y, misfit)
            noise = np.hypot(exact, error), exact
            there = methods(A, x0, L, y, noise, weights)
            for name in options.methods:
                begin = time.perf_counter()
                x = there[name]()
                found = score(segment(x if x.ndim == 2 else draw(x)), truth)
                rows.setdefault(name, []).append((found, time.perf_counter() - begin))
        for name, results in rows.items():
            scores, seconds = np.transpose(results)
            line = " ".join(f"{s:.3f}" for s in scores)
            print(f"level {level} {name:18} {line}  mean {scores.mean():.3f}"
                  f"  {seconds.mean():.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
