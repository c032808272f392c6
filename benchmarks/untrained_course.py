"""The course of a fit, and of one in a subspace: docs/figures/untrained-course.png.

Left, a photograph with noise of 25/255: PSNR of the averaged iterates, and the numbers
that do not know the truth, each relative to its first. Right, what a fit of sampled
pixels has reached after so many seconds: by Adam alone, and where after some iterations
the method of Levenberg and Marquardt goes on in the subspace of what these have moved.
Needs the packages of the extra `train`, and three minutes on one core::

    python benchmarks/untrained_course.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from subspace import directions, fit_in_subspace, fit_with_snapshots

from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions
from svdinv.unroll.untrained import HeldOut, MovingVariance, fit
from svdinv.unroll.untrained.presets import generator_for

FIGURE = Path(__file__).resolve().parents[1] / "docs/figures/untrained-course.png"
TASK = Colour()
BEGUN, EVERY, RANK, STEPS = 80, 2, 30, 12  # of the subspace
ITERATIONS, ALONE = 1500, 300


def measured(crop: int, rate: float, noise: float) -> Problem:
    """Sample a photograph, or add noise."""
    image = TASK.read("coffee", ColourOptions(crop=crop)).image
    rng = np.random.default_rng(0)
    A = Sampling(rng.random(image.shape) < rate)
    y = A(image + noise * rng.standard_normal(image.shape).astype(np.float32))
    return Problem(y, A, truth=image)


def course(axes: Axes) -> None:
    """Draw what can be watched while a fit goes on."""
    problem = measured(96, 2.0, 25 / 255)
    right = axes.twinx()
    for name, rule in {
        "held-out error": HeldOut(patience=ITERATIONS),
        "moving variance": MovingVariance(patience=ITERATIONS),
    }.items():
        done = fit(
            problem,
            generator_for("dip", problem),
            iterations=ITERATIONS,
            rule=rule,
            measure=lambda image: TASK.decibels(problem, image),
            progress=False,
        )
        records = done.trajectory
        at = [r.iteration for r in records]
        seen = [(i, r.criterion) for i, r in zip(at, records, strict=True)]
        seen = [(i, x) for i, x in seen if np.isfinite(x)]
        first = seen[0][1]
        right.plot(*zip(*[(i, x / first) for i, x in seen], strict=True), label=name)
        right.axvline(done.best, color=right.lines[-1].get_color(), ls=":", lw=1)
        stopped = records[at.index(done.best)].decibels
        best = max(r.decibels for r in records)
        print(f"{name}: stopped {stopped:.2f} dB, at best {best:.2f} dB")
        if name == "held-out error":
            axes.plot(at, [r.decibels for r in records], "k", lw=2)
            loss = [r.data / records[0].data for r in records]
            right.plot(at, loss, color="grey", label="data fidelity")
    axes.set(xlabel="iteration", ylabel="PSNR in dB (black)", title="Noise of 25/255")
    right.set(yscale="log", ylabel="relative to the first")
    right.legend(frameon=False, fontsize="small", loc="center right")


def subspace(axes: Axes) -> None:
    """Draw how far a fit has come, and how long it took."""
    problem = measured(96, 0.4, 0.0)

    def decibels(image: np.ndarray) -> float:
        return TASK.decibels(problem, problem.A.consistent(image, problem.y))

    def adam(iterations: int):
        return fit_with_snapshots(
            problem,
            generator_for("dip", problem),
            EVERY,
            iterations=iterations,
            rule=None,
            average=0.0,  # for a comparison of iterates
            input_noise=0.0,
            measure=decibels,
        )

    begun, snapshots = adam(BEGUN)
    whole, _ = adam(ALONE)
    basis = directions(snapshots, RANK)
    moved = fit_in_subspace(
        problem, begun.network, basis, steps=STEPS, measure=decibels
    )
    for name, done, before in (
        ("Adam", whole, 0.0),
        (f"in {RANK} directions", moved, begun.seconds),
    ):
        each = done.seconds / len(done.trajectory)
        at = [before + each * (i + 1) for i in range(len(done.trajectory))]
        axes.plot(at, [r.decibels for r in done.trajectory], label=name)
        last = done.trajectory[-1]
        reached = f"{last.decibels:.2f} dB, data {last.data:.2e}"
        print(f"{name}: {reached}, after {at[-1]:.0f} s")
    start = next(r for r in whole.trajectory if r.iteration == BEGUN)
    print(f"where the subspace begins: {start.decibels:.2f} dB, data {start.data:.2e}")
    axes.set(xlabel="seconds", ylabel="PSNR in dB", title="40 % of the values")
    axes.legend(frameon=False, fontsize="small", loc="lower right")


def main() -> None:
    """Draw both."""
    torch.set_num_threads(1)
    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    course(left)
    subspace(right)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
