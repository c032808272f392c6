"""Untrained priors beside classical methods, and how well the rule stops them.

    python benchmarks/untrained.py denoising --crop 128
    python benchmarks/untrained.py sampling --crop 128

Photographs of `svdinv.unroll.data.TEST`, cropped around their middle. Every classical
method has its best weight, chosen with the truth; the fit is stopped by its rule, which
does not know it. Beside it the best that the average of the same fit ever was. A line
is printed as soon as it is known, then the means.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch
from skimage.restoration import (
    denoise_nl_means,
    denoise_tv_chambolle,
    estimate_sigma,
)

from svdinv.unroll.data import TEST
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour import Colour, ColourOptions, biharmonic
from svdinv.unroll.untrained import HeldOut, fit
from svdinv.unroll.untrained.presets import generator_for

TASK = Colour()
DEVIATIONS = (15 / 255, 25 / 255, 50 / 255)
RATES = (0.4, 0.1)


def main() -> None:
    """Print the lines, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("denoising", "sampling"))
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--prior", default="dip")
    parser.add_argument("--images", nargs="+", default=TEST)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = defaultdict(list)
    for seed in range(options.seeds):
        for name in options.images:
            read = TASK.read(name, ColourOptions(crop=options.crop))
            levels = DEVIATIONS if options.what == "denoising" else RATES
            for level in levels:
                problem = measured(options.what, read.image, level, seed)
                found = compared(options, problem, seed)
                told = "  ".join(f"{k} {v:.2f}" for k, v in found.items())
                print(f"{name}, seed {seed}, {level:.3f}: {told}", flush=True)
                rows[level].append(found)
    for level, found in rows.items():
        means = {k: np.mean([row[k] for row in found]) for k in found[0]}
        told = "  ".join(f"{k} {v:.2f}" for k, v in means.items())
        print(f"mean of {len(found)}, {level:.3f}: {told}")
    lost = [row["best"] - row["fit"] for found in rows.values() for row in found]
    print(
        f"the rule loses at most 0.5 dB in {sum(x <= 0.5 for x in lost)} of {len(lost)}"
        f" runs, and {max(lost):.2f} dB at most"
    )


def measured(what: str, image: np.ndarray, level: float, seed: int) -> Problem:
    """Add noise, or sample."""
    rng = np.random.default_rng(seed)
    if what == "denoising":
        y = image + level * rng.standard_normal(image.shape)
        A = Sampling(np.ones(image.shape, bool))
        return Problem(y.astype(np.float32), A, truth=image)
    A = Sampling(rng.random(image.shape) < level)
    return Problem(A(image), A, truth=image)


def compared(options: argparse.Namespace, problem: Problem, seed: int) -> dict:
    """Give decibels by method, and the time of the fit."""

    def decibels(image: np.ndarray) -> float:
        if options.what == "sampling":  # exact samples are put back
            image = problem.A.consistent(image, problem.y)
        return TASK.decibels(problem, image)

    if options.what == "denoising":
        found = denoised(problem, decibels)
    else:
        found = {"biharmonic": decibels(biharmonic(problem).image)}
    began = time.monotonic()
    done = fit(
        problem,
        generator_for(options.prior, problem),
        iterations=options.iterations,
        rule=HeldOut() if options.what == "denoising" else None,
        seed=seed,
        measure=decibels,
        progress=False,
    )
    found["fit"] = decibels(done.image)
    found["best"] = max(record.decibels for record in done.trajectory)
    found["iterations"] = done.iterations
    found["seconds"] = time.monotonic() - began
    return found


def denoised(problem: Problem, decibels) -> dict:
    """Give the classical methods, at their best weights."""
    y = np.moveaxis(problem.y, 0, -1)
    weights = np.geomspace(0.02, 0.5, 12)
    tv = max(
        decibels(np.moveaxis(denoise_tv_chambolle(y, w, channel_axis=-1), -1, 0))
        for w in weights
    )
    deviation = float(np.mean(estimate_sigma(y, channel_axis=-1)))
    means = max(
        decibels(
            np.moveaxis(
                denoise_nl_means(
                    y,
                    patch_size=5,
                    patch_distance=6,
                    h=h * deviation,
                    sigma=deviation,
                    channel_axis=-1,
                ),
                -1,
                0,
            )
        )
        for h in (0.4, 0.6, 0.8, 1.0)
    )
    return {"TV": tv, "non-local means": means}


if __name__ == "__main__":
    main()
