"""Demonstration: reconstruction of a photograph, and training through both SVDs.

The network included in the package reconstructs a photograph that it was not trained on
from a part of its samples, compared with classical methods. Then it is trained further
at that sampling rate, first through `torch.linalg.svd`, whose gradients soon become
infinite or NaN, then through `svdinv.torch.svt`. Printed numbers are those of the run.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from svdinv.unroll import pretrained
from svdinv.unroll.data import HELD_OUT, PHOTOS, Image, centre_crop, photograph, split
from svdinv.unroll.display import cells, line
from svdinv.unroll.display.panels import Entry, save_panel
from svdinv.unroll.evaluation import run_method
from svdinv.unroll.inference import apply
from svdinv.unroll.interrupts import interrupts
from svdinv.unroll.metrics import COLOUR
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import (
    Colour,
    Photographs,
    biharmonic,
    sampled,
    svt_completion,
)
from svdinv.unroll.tasks.task import Method, zero_filled
from svdinv.unroll.torch import Network
from svdinv.unroll.training.command import train_with_bar
from svdinv.unroll.training.config import Config, Training
from svdinv.unroll.training.run import Outcome, Run

PANEL = "svdinv-demo.png"
"""Name of the picture in the output folder."""

_WIDTH = 48  # width of the names in the table, in characters


def run(options: Any, picture: Image | None = None) -> int:
    """Run the demonstration with the options of ``svdinv demo``; return the exit code.

    The image is `picture`, or by default a photograph given by its name. The exit code
    is 0, or 1 if the training through svdinv broke down.
    """
    network = pretrained.load("colour")
    start = time.monotonic()
    torch.set_num_threads(options.threads)
    truth = photograph(options.photo) if picture is None else picture
    truth = centre_crop(truth, 96 if options.quick else 512)
    problem = sampled(options.photo, truth, options.rate, seed=options.seed)
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"{options.photo}, {truth.shape[0]}x{truth.shape[1]} pixels, from "
        f"{options.rate:.0%} of its samples (seed {options.seed}).\n"
        f"The network comes with svdinv: {weights:,} weights, trained on other "
        "photographs.\n"
    )
    table = _Table(problem, truth)
    # BLAS threads gain little for matrices of this size, and slow down several times
    # when cores are shared with other work, because they wait actively.
    with threadpool_limits(1, user_api="blas"):
        table.add("samples, zero-filled", zero_filled)
        table.add("SVT completion", svt_completion)
        table.add("biharmonic inpainting", biharmonic)
    table.add("unrolled network", partial(apply, network, Colour(), ensemble=True))
    *_, completion, smooth, own = table.decibels
    print(
        f"  The network: {own - completion:+.2f} dB on SVT completion, "
        f"{own - smooth:+.2f} dB on biharmonic inpainting."
    )
    groups = pretrained.load("colour-groups")  # slower
    table.add("low rank of groups behind it", partial(apply, groups, Colour()))
    _save(options, table)
    print(f"Picture: {options.output / PANEL} ({time.monotonic() - start:.0f} s)")
    if not options.steps:
        return 0

    print(
        f"\nNow a training: {options.steps} steps more, at {options.rate:.0%} alone. "
        "Ctrl-C ends it, not the demonstration."
    )
    sizes = {"batch": 4, "patch": 32} if options.quick else {}
    theirs, _ = _tuned(options, network, "torch.linalg.svd", **sizes)
    ours, tuned = _tuned(options, network, "svt", **sizes)
    print(_compared(theirs, ours))
    if ours.breakdown is not None:
        return 1
    print()
    retrained = partial(apply, tuned, Colour(), ensemble=True)
    table.add("unrolled network, trained on", retrained)
    _save(options, table)
    print(f"Picture: {options.output / PANEL}\nTime: {time.monotonic() - start:.0f} s")
    return 0


class _Table:
    """Results, printed as they arrive, and their images for the picture."""

    def __init__(self, problem: Problem, truth: Image) -> None:
        self.problem, self.truth = problem, truth
        self.entries: list[Entry] = []
        self.decibels: list[float] = []
        print(line("", COLOUR, _WIDTH))

    def add(self, name: str, method: Method) -> None:
        row, entry = run_method(name, method, Colour(), self.problem)
        full = f"{name}, {row.note}" if row.note else name
        print(line(f"  {full}", cells(row.values), _WIDTH), flush=True)
        self.entries.append(entry)
        self.decibels.append(next(iter(row.values.values())))


def _save(options: Any, table: _Table) -> None:
    save_panel(
        options.output / PANEL,
        Entry("truth", table.truth, f"{options.photo}, never trained on"),
        table.entries,
        title=f"{options.photo}, from {options.rate:.0%} of its samples",
    )


def _tuned(
    options: Any, network: Network, svd: Any, batch: int = 8, patch: int = 64
) -> tuple[Outcome, Network]:
    """Train a copy of the network further, with a progress bar."""
    held_out = options.photo if options.photo in PHOTOS else HELD_OUT
    task = Colour(held_out=(held_out,), patch=patch, rates=(options.rate, options.rate))
    training = Training(
        steps=options.steps,
        batch=batch,
        learning_rate=2e-4,
        warm_up=0.1,
        svd=svd,
        validate_every=options.steps,
    )
    settings = Config(
        task=task,
        network=network.recipe,
        training=training,
        seed=options.seed,
        threads=options.threads,
    )
    photos = [photograph(name) for name in split(held_out)]
    source = Photographs(task, photos, {})
    job = Run(settings, source, weights=network.state_dict())
    deadline = time.monotonic() + 60 * options.minutes
    with interrupts() as interrupted:
        outcome = train_with_bar(
            job, lambda: interrupted() or time.monotonic() > deadline, f"through {svd}"
        )
    if outcome.ending == "stopped" and not interrupted():
        print(
            f"The {options.minutes:g} minutes are up after {outcome.step} of "
            f"{options.steps} steps: how many it is depends on the machine. --minutes "
            "gives more."
        )
    return outcome, job.mean


def _compared(theirs: Outcome, ours: Outcome) -> str:
    """Return a summary of the end of both trainings."""
    outcomes = {"torch.linalg.svd": theirs, "svdinv.torch.svt": ours}
    lines = []
    for name, outcome in outcomes.items():
        result = str(outcome.breakdown).replace("\n", "\n  ")
        if outcome.breakdown is None:
            early = "" if outcome.ending == "finished" else ", stopped early"
            result = f"{outcome.step} steps in {outcome.seconds:.0f} s{early}"
            result += ", every gradient finite"
        lines.append(f"  {name}: {result}")
    if theirs.breakdown is None:
        lines.append("  No difference to be seen this time.")
    elif ours.breakdown is None and ours.step < theirs.breakdown.step:
        lines.append("  It did not get as far as the step where the other broke down.")
    elif ours.breakdown is None:
        lines.append("  Same weights, same batches, that step included.")
    return "\n".join(lines)
