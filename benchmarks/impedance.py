"""Score reconstructions of the Kuopio Tomography Challenge 2023.

    python benchmarks/impedance.py FOLDER

FOLDER has level_1, level_3 and so on, true1.mat to true4.mat and Mesh_sparse.mat. The
weights are chosen on simulated tanks, not on the targets.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import scipy.io
from scipy.optimize import least_squares
from scipy.sparse import csc_array, diags_array, vstack
from scipy.sparse.linalg import splu

from svdinv.unroll.algorithms.nonlinear import gauss_newton, truncated_svd
from svdinv.unroll.data.tank import SIDE, read_mesh, read_tank, score, segment
from svdinv.unroll.operators import Wrapped
from svdinv.unroll.operators.impedance import Impedance, neighbours

TARGETS = (1, 2, 3, 4)
METHODS = ("TSVD, discrepancy", "TSVD, SURE", "Tikhonov", "TV", "TV, Gauss-Newton")
TUNED = ("Tikhonov", "TV")
WEIGHTS = 10.0 ** np.arange(-4, 1)
PIXELS = 256


def calibrated(mesh, tank):
    """Conductivity of the water and one contact impedance, from the reference."""
    there = np.isfinite(tank.reference)
    ones = np.ones(len(mesh.triangles))

    def model(p):
        A = Impedance(mesh, tank.currents, tank.voltages, np.exp(p[1]))
        return A, A.forward(np.exp(p[0]) * ones)

    def off(p):
        return (model(p)[1] - tank.reference)[there]

    p = least_squares(off, np.log([1.0, 1e-3]), diff_step=1e-3, max_nfev=20).x
    A, V = model(p)
    fit = np.linalg.norm((V - tank.reference)[there]) / np.linalg.norm(V[there])
    return A, np.exp(p[0]) * ones, fit


def penalties(mesh):
    """Differences between triangles, and a little of the image itself."""
    area = np.sqrt(mesh.areas)
    size = area / area.mean()
    return vstack([neighbours(mesh) / area.mean(), 0.1 * diags_array(size)])


def picture(mesh):
    """From triangles to the pixels of the challenge: rows from top to bottom."""
    line = (np.arange(PIXELS) + 0.5) / PIXELS * SIDE - SIDE / 2
    X, Y = np.meshgrid(line, -line)
    index = mesh.at(np.stack([X, Y], -1))
    water = np.hypot(X, Y) < np.linalg.norm(mesh.nodes, axis=1).max()
    return lambda x: np.where(water, x[index], 0)


def methods(A, x0, L, y, noise, weights):
    """Give the change of the conductivity by each method, as functions."""
    D, V0, zero = A.derivative(x0), A.forward(x0), np.zeros_like(x0)
    noise, exact = noise  # with the errors of the linear model, and without
    little = 0.02 * x0[0]

    def truncated(keep):
        """In standard form: x = C w, of the smallest w = L x."""
        solve = splu(csc_array(L.T @ L)).solve
        C = Wrapped(
            lambda w: solve(L.T @ w), lambda x: L @ solve(x), L.shape[:1], x0.shape
        )
        like = np.zeros(len(L @ x0))
        found = truncated_svd(D * C, y, like, rank=60, noise=noise, keep=keep)
        return C.forward(found.image)

    def linear(name, **options):
        return gauss_newton(D, y, zero, L, weight=weights[name], noise=noise, **options)

    def newton():
        found = gauss_newton(
            A, V0 + y, x0, L, weight=weights["TV"], noise=exact, variation=little,
            lower=little, iterations=5,
        )  # fmt: skip
        return found - x0

    functions = (
        lambda: truncated("discrepancy"),
        lambda: truncated("sure"),
        lambda: linear("Tikhonov", iterations=1),
        lambda: linear("TV", variation=little, iterations=5),
        newton,
    )
    return dict(zip(METHODS, functions, strict=True))


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


def deviations(reference, y, error, fit):
    """Give standard deviations for linear methods, and for others.

    What the model of the water alone misfits, `fit`, it will misfit of others.
    """
    reference = np.nan_to_num(np.abs(reference))
    measured = 5e-4 * reference + 1e-4 * reference.max()
    exact = measured + fit * np.sqrt(np.nanmean(y**2))
    return np.hypot(exact, error), exact


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
    A, x0, fit = calibrated(mesh, first)
    print(f"water {x0[0]:.3f}, contact {A.contact[0]:.2e}, misfit {fit:.2%}")
    error, V0 = model_error(A, x0), A.forward(x0)
    weights = {}
    for name in TUNED if {*METHODS[2:]} & {*options.methods} else ():
        found = {}
        for w in WEIGHTS:
            found[w] = 0.0
            for seed in range(2):
                kind, _, y = simulated(A, x0, seed)
                noise = deviations(V0, y, error, fit)
                x = methods(A, x0, L, y, noise, {name: w})[name]()
                found[w] += score(segment(draw(x)), draw(kind).astype(int)) / 2
        weights[name] = max(found, key=found.get)
        print(name, {f"{w:.0e}": f"{s:.3f}" for w, s in found.items()}, flush=True)
    for level in options.levels:
        rows = {}
        for target, truth in zip(TARGETS, truths, strict=True):
            tank = read_tank(options.folder / f"level_{level}", target)
            y = tank.data - tank.reference
            noise = deviations(tank.reference, y, error, fit)
            there = methods(A, x0, L, y, noise, weights)
            for name in options.methods:
                begin = time.perf_counter()
                found = score(segment(draw(there[name]())), truth)
                rows.setdefault(name, []).append((found, time.perf_counter() - begin))
        for name, results in rows.items():
            scores, seconds = np.transpose(results)
            line = " ".join(f"{s:.3f}" for s in scores)
            print(f"level {level} {name:18} {line}  mean {scores.mean():.3f}"
                  f"  {seconds.mean():.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
