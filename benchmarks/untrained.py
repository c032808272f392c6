"""Untrained priors beside classical methods, and how well the rule stops them.

    python benchmarks/untrained.py denoising --crop 128
    python benchmarks/untrained.py sampling --crop 128
    python benchmarks/untrained.py mri
    python benchmarks/untrained.py series

Photographs of `svdinv.unroll.data.TEST`, cropped around their middle; for `mri` the
first frames of the hearts of the package, made complex by a smooth phase, and of four
phantoms, a quarter of k-space with noise; for `series` all their frames, twenty of a
phantom, an eighth of k-space along radial lines. Every classical method has its best
weight, chosen with the truth, but for non-local low rank; that and the fit are stopped
by data that are held out. Beside the fit the best that its average ever was. A line is
printed as soon as it is known, then the means.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from skimage.restoration import (
    denoise_nl_means,
    denoise_tv_chambolle,
    estimate_sigma,
)

from svdinv.unroll.algorithms import PDHG
from svdinv.unroll.algorithms.non_local import best_non_local, denoise_non_local
from svdinv.unroll.algorithms.search import best_solution
from svdinv.unroll.data import TEST
from svdinv.unroll.operators import Sampling
from svdinv.unroll.priors import HuberVariation, TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import HEARTS, heart_series, smooth_phase
from svdinv.unroll.tasks.cine.phantom import heart
from svdinv.unroll.tasks.cine.task import Cine, CineOptions
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions, biharmonic
from svdinv.unroll.tasks.task import InputImage
from svdinv.unroll.untrained import HeldOut, fit
from svdinv.unroll.untrained.presets import generator_for

LEVELS = {
    "denoising": (15 / 255, 25 / 255, 50 / 255),
    "sampling": (0.4, 0.1),
    "mri": (
        "radial",
        "radial, 8 coils",
        "variable-density",
        "variable-density, 8 coils",
    ),
    "series": ("radial",),
}
PHANTOMS = ("phantom-0", "phantom-1", "phantom-2", "phantom-3")
SIZE, FRAMES = 96, 20  # of a heart
MRI_NOISE = 0.01  # relative to the largest magnitude


def main() -> None:
    """Print the lines, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tuple(LEVELS))
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--prior", default="dip")
    parser.add_argument("--images", nargs="+")
    parser.add_argument("--levels", nargs="+", help="some of those that are printed")
    parser.add_argument("--tv", type=float, default=0.0, help="in the fits of mri")
    parser.add_argument("--phase", type=float, default=0.0, help="of patches, for mri")
    parser.add_argument("--fit", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hearts = (*HEARTS, *PHANTOMS)
    usual = {"mri": hearts, "series": hearts}
    names = options.images or usual.get(options.what, TEST)
    rows = defaultdict(list)
    for seed in range(options.seeds):
        for name in names:
            for level in LEVELS[options.what]:
                label = level if isinstance(level, str) else f"{level:.3f}"
                if options.levels and label not in options.levels:
                    continue
                found = compared(options, *measured(options, name, level, seed), seed)
                told = "  ".join(f"{k} {v:.2f}" for k, v in found.items())
                print(f"{name}, seed {seed}, {label}: {told}", flush=True)
                rows[label].append(found)
    for level, found in rows.items():
        means = {k: np.mean([row[k] for row in found]) for k in found[0]}
        told = "  ".join(f"{k} {v:.2f}" for k, v in means.items())
        print(f"mean of {len(found)}, {level}: {told}")
    if not options.fit:
        return
    lost = [row["best"] - row["average"] for found in rows.values() for row in found]
    print(
        f"the rule loses at most 0.5 dB in {sum(x <= 0.5 for x in lost)} of {len(lost)}"
        f" runs, and {max(lost):.2f} dB at most"
    )


def measured(options: argparse.Namespace, name: str, level, seed: int):
    """Give a task and a problem: with noise, sampled, or both."""
    if options.what == "mri":
        return Cine(), sampled_heart(name, level, seed)
    if options.what == "series":
        asked = CineOptions(mask=level, acceleration=8, seed=seed)
        if name in HEARTS:
            given = Cine().read(name, asked)
        else:
            given = InputImage(name, phantom(name, FRAMES))
        return Cine(), Cine().measure(given, asked)
    task = Colour()
    image = task.read(name, ColourOptions(crop=options.crop)).image
    rng = np.random.default_rng(seed)
    if options.what == "denoising":
        y = image + level * rng.standard_normal(image.shape)
        A = Sampling(np.ones(image.shape, bool))
        return task, Problem(y.astype(np.float32), A, truth=image)
    A = Sampling(rng.random(image.shape) < level)
    return task, Problem(A(image), A, truth=image)


def sampled_heart(name: str, level: str, seed: int) -> Problem:
    """Sample a quarter of the k-space of one frame, with noise."""
    if name in HEARTS:
        phase = smooth_phase(1, SIZE, np.random.default_rng(seed))
        image = (heart_series(name)[:1] * phase).astype(np.complex64)
    else:
        image = phantom(name, 1)
    mask, *several = level.split(", ")
    asked = CineOptions(
        mask=mask,
        acceleration=4,
        coils=8 if several else None,
        noise=MRI_NOISE,
        seed=seed,
    )
    return Cine().measure(InputImage(name, image), asked)


def phantom(name: str, frames: int) -> np.ndarray:
    """Give a heart that is computed, none of those that are trained on."""
    return heart(frames, SIZE, SIZE, seed=1000 + PHANTOMS.index(name)).series


def compared(options: argparse.Namespace, task, problem: Problem, seed: int) -> dict:
    """Give decibels by method, and the time of the fit."""

    def decibels(image: np.ndarray) -> float:
        if options.what in ("sampling", "series"):  # exact samples are put back
            image = problem.A.consistent(image, problem.y)
        return task.decibels(problem, image)

    prior = None
    if options.what == "denoising":
        found = denoised(problem, decibels)
    elif options.what == "mri":
        top = float(np.abs(problem.adjoint()).max())
        found = {"TV": total_variation(problem, decibels, top)}
        prior = HuberVariation(options.tv * top, 0.003) if options.tv else None
    elif options.what == "series":
        names = ("view sharing", "low-rank", "local low-rank")
        methods = {name: task.baselines()[name] for name in names}
        found = {k: decibels(method(problem).image) for k, method in methods.items()}
    else:
        found = {"biharmonic": decibels(biharmonic(problem).image)}
    if options.what in ("denoising", "mri", "sampling"):
        began = time.monotonic()
        if options.what == "denoising":
            image = denoise_non_local(problem.y)
        else:
            blind = replace(problem, truth=None)
            image = best_non_local(blind, seed=seed, phase=options.phase).image
        found["non-local low rank"] = decibels(image)
        found["its seconds"] = time.monotonic() - began
    if not options.fit:
        return found
    began = time.monotonic()
    done = fit(
        problem,
        generator_for(options.prior, problem),
        around=task.initial_image if options.what == "series" else None,
        iterations=options.iterations,
        input_noise=task.input_noise,
        rule=HeldOut(),
        prior=prior,
        seed=seed,
        measure=decibels,
        progress=False,
    )
    found["fit"] = decibels(done.image)
    found["average"] = decibels(done.average)
    found["best"] = max(record.decibels for record in done.trajectory)
    found["iterations"] = done.iterations
    found["seconds"] = time.monotonic() - began
    return found


def total_variation(problem: Problem, decibels, top: float) -> float:
    """Give what total variation reaches at its best weight."""
    _, solution = best_solution(
        problem,
        lambda weight: TotalVariation(weight * top),
        decibels,
        algorithm=PDHG(),
        first=3e-3,
        low=1e-5,
        high=0.3,
        iterations=400,
        rtol=1e-4,
    )
    return decibels(solution.image)


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
