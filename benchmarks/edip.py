"""Educated deep image prior for CT, beside an uneducated one and total variation.

    python benchmarks/edip.py --courses runs/edip --figure docs/figures/edip.png

Phantoms of other kinds than those of the training. Total variation has its best weight,
chosen with the truth; the uneducated prior is stopped by held-out data, and the others
after a number of iterations that is the same for all. For each: PSNR at the start, at
the best of its averaged iterates, and where it was stopped; iterations up to there, up
to 0.1 dB below the best (rise), and up to the PSNR at which the uneducated prior was
stopped; seconds. A line is printed as soon as it is known, then the means. The figure
shows the means of the courses in the folder, where other runs may have left some.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from subspace import directions, fit_in_subspace, fit_with_snapshots

from svdinv.unroll.inference import open_network, reconstruct
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions, tv
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained import Fit, educated, fit
from svdinv.unroll.untrained.presets import generator_for

TASK = Ct()
PHANTOMS = (
    "shepp-logan",
    "head-1",
    "head-2",
    "walnut-1",
    "walnut-2",
    "density:coffee",
    "density:chelsea",
    "density:flower",
)
# What is fitted, and how fast.
VARIANTS: dict[str, dict[str, Any]] = {
    "EDIP": {"trained": "all"},
    "EDIP-FE": {"trained": "decoder"},
    "SVD-DIP": {"trained": "singular values", "rate": 1e-3},
}
EVERY = ("TV", "DIP", *VARIANTS, "subspace")
COLUMNS = ("start", "best", "stopped", "iterations", "rise", "as DIP", "seconds")
# Of the subspace: fits to phantoms of the training, weights kept of each, iterations
# between them, directions, and steps along these.
FITS, KEPT, BETWEEN, RANK, STEPS = 3, 4, 8, 6, 4


def main() -> None:
    """Print the lines, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="ct", help="of a trained network")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--finer", type=int, default=1, help="as of svdinv reconstruct")
    parser.add_argument("--iterations", type=int, default=1000, help="of DIP")
    parser.add_argument("--educated", type=int, default=100, help="iterations of EDIP")
    parser.add_argument("--phantoms", nargs="+", default=PHANTOMS)
    parser.add_argument("--variants", nargs="+", default=EVERY)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--courses", type=Path, default=Path("runs/edip"), help="folder for CSV files"
    )
    parser.add_argument("--figure", type=Path, help="of the mean PSNR over iterations")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = open_network(options.weights)
    basis = None
    if "subspace" in options.variants:
        basis = moved(options, network)
    every = defaultdict(list)
    for name in options.phantoms:
        problem = measured(options, name)
        for what, found, course in compared(options, network, basis, problem):
            every[what].append(found)
            print(f"{name}, {what}: {told(found)}", flush=True)
            write(options.courses / f"{problem.name}, {what}.csv", course)
    for what, rows in every.items():
        means = {k: np.mean([row[k] for row in rows if k in row]) for k in rows[0]}
        print(f"mean of {len(rows)}, {what}: {told(means)}")
    if options.figure:
        draw(options.figure, options.courses)


def measured(options: argparse.Namespace, name: str, seed: int = 0) -> Problem:
    """Measure a phantom."""
    picture = name.startswith("density:")
    asked = CtOptions(
        size=None if picture else options.size,
        crop=options.size if picture else None,
        views=options.views,
        noise=options.noise,
        finer=options.finer,
        seed=seed,
    )
    return TASK.measure(TASK.read(name, asked), asked)


def told(found: Mapping[str, float]) -> str:
    """Say numbers in a line."""
    return "  ".join(
        f"{k} {v:.0f}" if k in COLUMNS[3:] else f"{k} {v:.2f}" for k, v in found.items()
    )


def compared(
    options: argparse.Namespace, network: Network, basis: Any, problem: Problem
) -> Any:
    """Give the name, the numbers and the course of each method."""

    def decibels(image: np.ndarray) -> float:
        return TASK.decibels(problem, TASK.finished(image))

    reached = None
    start = decibels(reconstruct(network, problem))
    for what in options.variants:
        if what == "TV":
            began = time.monotonic()
            level = decibels(tv(problem).image)
            seconds = time.monotonic() - began
            yield what, {"stopped": level, "seconds": seconds}, [(0, level)]
            continue
        if what == "DIP":
            done = fit(
                problem,
                generator_for("dip", problem),
                iterations=options.iterations,
                input_noise=TASK.input_noise,
                measure=decibels,
                progress=False,
            )
            reached = decibels(done.image)
        elif what == "subspace":
            done = fit_in_subspace(
                problem, network, basis, steps=STEPS, measure=decibels
            )
        else:
            done = fitted(options, network, problem, decibels, **VARIANTS[what])
        records = done.trajectory
        course = [(0, start)] if what != "DIP" else []
        course += [(r.iteration, r.decibels) for r in records]
        best = max(x for _, x in course)
        row = {
            "start": course[0][1],
            "best": best,
            "stopped": decibels(done.image),
            "iterations": done.best,
            "rise": first(course, best - 0.1),
            "seconds": done.seconds,
        }
        if reached is not None and what != "DIP":
            row["as DIP"] = first(course, reached)
        yield what, row, course


def fitted(
    options: argparse.Namespace,
    network: Network,
    problem: Problem,
    decibels: Any = None,
    **changes: Any,
) -> Fit:
    """Fit the trained network to a problem, as svdinv fit --prior edip does."""
    how = educated(problem, network, iterations=options.educated)
    return fit(
        problem,
        network.recipe,
        how,
        weights=network,
        measure=decibels,
        progress=False,
        **changes,
    )


def moved(options: argparse.Namespace, network: Network) -> Any:
    """Find directions along which the weights move in fits to other phantoms."""
    snapshots: list[Any] = []
    for seed in range(1, FITS + 1):
        problem = measured(options, "shapes", seed)
        how = educated(problem, network, iterations=KEPT * BETWEEN)
        snapshots += fit_with_snapshots(
            problem, network.recipe, BETWEEN, how, weights=network
        )[1]
    return directions(snapshots, RANK)


def first(course: Sequence[tuple[int, float]], decibels: float) -> float:
    """Give the iteration that is first as good."""
    return next((i for i, x in course if x >= decibels), np.nan)


def write(path: Path, course: Sequence[tuple[int, float]]) -> None:
    """Write the PSNR after so many iterations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("iteration", "PSNR / dB"), *course])


def draw(path: Path, folder: Path) -> None:
    """Draw the mean PSNR over iterations, of the phantoms that have every course.

    Left all, right what begins with a trained network.
    """
    found = {kind: sorted(folder.glob(f"*, {kind}.csv")) for kind in EVERY}
    found = {kind: files for kind, files in found.items() if files}
    names = [{file.name.rsplit(", ")[0] for file in files} for files in found.values()]
    shared = set.intersection(*names)
    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, files in found.items():
        courses = [
            np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
            for file in files
            if file.name.rsplit(", ")[0] in shared
        ]
        if kind == "TV":
            level = np.mean([course[0, 1] for course in courses])
            for axes in (left, right):
                axes.axhline(level, color="black", ls=":", label="TV, best weight")
            continue
        # A fit that has ended stays as it is.
        steps = max(courses, key=len)[:, 0]
        values = [np.interp(steps, *course.T) for course in courses]
        mean, color = np.mean(values, axis=0), f"C{EVERY.index(kind)}"
        left.plot(steps + 1, mean, color=color, label=kind)
        if kind != "DIP":
            right.plot(steps, mean, color=color, label=kind)
    left.set(xscale="log", xlabel="iteration + 1", ylabel="mean PSNR in dB")
    right.set(xlabel="iteration")
    left.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
