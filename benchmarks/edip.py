"""Educated deep image prior for CT, beside an uneducated one and total variation.

    svdinv train ct-edip --output runs/ct
    python benchmarks/edip.py runs/ct --size 128

Phantoms of other kinds than the ellipses of the training. Total variation has its best
weight, chosen with the truth; every fit is stopped by its rule, which does not know it.
For each variant: PSNR at the start, at the best of its averaged iterates, and where the
rule stopped; iterations up to there, up to 0.1 dB below the best (rise), and up to the
PSNR at which the uneducated prior was stopped; seconds. A line is printed as soon as it
is known, then the means.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from svdinv.unroll.evaluation.inference import open_network
from svdinv.unroll.priors import HuberVariation
from svdinv.unroll.tasks.ct import Ct, CtOptions, tv
from svdinv.unroll.untrained import Options, directions, fit, fit_in_subspace

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
# What is fitted, whether from the weights of the training, and how fast.
VARIANTS = {
    "DIP": ("all", False, 1e-2),
    "EDIP": ("all", True, 3e-4),
    "EDIP-FE": ("decoder", True, 3e-4),
    "SVD-DIP": ("singular values", True, 1e-3),
}
COLUMNS = ("start", "best", "stopped", "iterations", "rise", "as DIP", "seconds")
KEPT, STEPS = 60, 25  # directions of the subspace, and steps in it


def main() -> None:
    """Print the lines, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="folder of svdinv train ct-edip")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--tv", type=float, default=0.0, help="weight in every fit")
    parser.add_argument("--iterations", type=int, default=2500, help="of DIP")
    parser.add_argument("--educated", type=int, default=1000, help="iterations of EDIP")
    parser.add_argument("--phantoms", nargs="+", default=PHANTOMS)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, "subspace"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="folder for the trajectories")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = open_network(options.weights)
    every = defaultdict(list)
    for name in options.phantoms:
        for what, found in compared(options, network, name).items():
            every[what].append(found)
            print(f"{name}, {what}: {told(found)}", flush=True)
    for what, rows in every.items():
        means = {k: np.mean([row[k] for row in rows if k in row]) for k in rows[0]}
        print(f"mean of {len(rows)}, {what}: {told(means)}")


def told(found: dict) -> str:
    """Say numbers in a line."""
    return "  ".join(
        f"{k} {v:.0f}" if k in COLUMNS[3:] else f"{k} {v:.2f}" for k, v in found.items()
    )


def compared(options: argparse.Namespace, network, name: str) -> dict:
    """Give the numbers of each method, for one phantom."""
    density = name.startswith("density:")
    asked = CtOptions(
        size=None if density else options.size,
        crop=options.size if density else None,
        views=options.views,
        noise=options.noise,
    )
    problem = TASK.measure(TASK.read(name, asked), asked)

    def decibels(image: np.ndarray) -> float:
        return TASK.decibels(problem, image)

    began = time.monotonic()
    baseline = decibels(tv(problem).image)
    found = {"TV": {"stopped": baseline, "seconds": time.monotonic() - began}}
    reached = None
    for what in options.variants:
        if what == "subspace":
            trajectory, seconds = in_subspace(problem, network, decibels)
            stopped = trajectory[-1]
        else:
            trained, educated, rate = VARIANTS[what]
            recipe = network.recipe
            done = fit(
                problem,
                recipe if educated else uneducated(recipe),
                Options(
                    iterations=options.educated if educated else options.iterations,
                    rate=rate,
                    trained=trained,
                    prior=HuberVariation(options.tv, 0.01) if options.tv else None,
                ),
                weights=network if educated else None,
                measure=decibels,
                progress=False,
            )
            trajectory, seconds = done.trajectory, done.seconds
            stopped = next(r for r in trajectory if r.iteration >= done.best)
        if what == "DIP":
            reached = stopped.decibels
        best = max(r.decibels for r in trajectory)
        row = {
            "start": trajectory[0].decibels,
            "best": best,
            "stopped": stopped.decibels,
            "iterations": stopped.iteration,
            "rise": first(trajectory, best - 0.1),
            "seconds": seconds,
        }
        if reached is not None and best >= reached:
            row["as DIP"] = first(trajectory, reached)
        found[what] = row
        if options.csv:
            options.csv.mkdir(parents=True, exist_ok=True)
            stem = f"{name.replace(':', '-')}-{what}.csv"
            with (options.csv / stem).open("w", newline="") as file:
                csv.writer(file).writerows(map(astuple, trajectory))
    return found


def uneducated(recipe):
    """Give the recipe with noise at its input."""
    return type(recipe)(
        **{**vars(recipe), "source": "noise", "depth": type(recipe).depth}
    )


def first(trajectory: list, decibels: float) -> int:
    """Give the iteration that is first as good."""
    return next(r.iteration for r in trajectory if r.decibels >= decibels)


def in_subspace(problem, network, decibels) -> tuple[list, float]:
    """Fit in directions of the beginning of a fit of the educated network."""
    begun = fit(
        problem,
        network.recipe,
        Options(iterations=2 * KEPT, rate=3e-4, rule=None, snapshots=2),
        weights=network,
        progress=False,
    )
    done = fit_in_subspace(
        problem,
        network,
        directions(begun.snapshots, KEPT // 2),
        steps=STEPS,
        measure=decibels,
    )
    return done.trajectory, begun.seconds + done.seconds


if __name__ == "__main__":
    main()
