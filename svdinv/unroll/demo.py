"""The demonstration: a photograph, and a training through both SVDs.

The network that comes with the package reconstructs a photograph that it has never
seen from a part of its samples, beside classical methods. Then it is trained a little
further at that sampling rate alone, first through `torch.linalg.svd`, whose gradients
soon cease to be finite, then through `svdinv.torch.svt`. Every number that is printed
is measured in the run that prints it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from svdinv.unroll.data import HELD_OUT, PHOTOS, Image, centre_crop, photograph, split
from svdinv.unroll.display import cells, line
from svdinv.unroll.display.panels import Entry, save_panel
from svdinv.unroll.evaluation.methods import applied
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
    zero_filled,
)
from svdinv.unroll.tasks.task import Method
from svdinv.unroll.torch import Network
from svdinv.unroll.training.command import train_with_bar
from svdinv.unroll.training.config import Config, Training
from svdinv.unroll.training.run import Outcome, Run

PANEL = "svdinv-demo.png"
"""Name of the picture in the output folder."""

_WIDTH = 48  # characters of a name in the table


@dataclass(frozen=True)
class DemoConfig:
    """What the demonstration does."""

    rate: float  # of the sampling, in (0, 1)
    photo: str  # of `PHOTOS` or, with a picture, whatever to call it
    output: Path  # an existing folder
    picture: Image | None = None  # of one's own, in [0, 1]
    seed: int = 0
    steps: int = 200  # of the training; 0 leaves it away
    minutes: float = 2.0  # of wall-clock time at most, for each of the two trainings
    threads: int = 1
    crop: int = 512  # most pixels a side of the photograph to reconstruct
    batch: int = 8  # patches in a training step
    patch: int = 64  # their side

    def quick(self) -> DemoConfig:
        """Make it small: everything is run, in seconds."""
        return replace(
            self,
            steps=min(self.steps, 10),
            minutes=min(self.minutes, 0.5),
            crop=96,
            batch=4,
            patch=32,
        )


def run(config: DemoConfig, network: Network, groups: Network | None = None) -> int:
    """Run the demonstration, and print its results.

    The network was trained on colour images at many sampling rates; `groups` is one
    with low rank of groups of patches behind it, which takes longer. Gives the exit
    code: 0, or 1 if the training through svdinv broke down.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    truth = photograph(config.photo) if config.picture is None else config.picture
    truth = centre_crop(truth, config.crop)
    given = sampled(config.photo, truth, config.rate, seed=config.seed)
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"{config.photo}, {truth.shape[0]}x{truth.shape[1]} pixels, from "
        f"{config.rate:.0%} of its samples (seed {config.seed}).\n"
        f"The network comes with svdinv: {weights:,} weights, trained on other "
        "photographs.\n"
    )
    table = _Table(given, truth)
    # BLAS threads gain little on matrices of this size, and lose several times over
    # where other work shares the cores: they spin while they wait.
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
    if groups is not None:
        table.add("low rank of groups behind it", partial(apply, groups, Colour()))
    _save(config, table)
    print(f"Picture: {config.output / PANEL} ({time.monotonic() - began:.0f} s)")
    if not config.steps:
        return 0

    print(
        f"\nNow a training: {config.steps} steps more, at {config.rate:.0%} alone. "
        "Ctrl-C ends it, not the demonstration."
    )
    theirs, _ = _tuned(config, network, "torch.linalg.svd")
    ours, tuned = _tuned(config, network, "svt")
    print(_compared(theirs, ours))
    if ours.breakdown is not None:
        return 1
    print()
    again = partial(apply, tuned, Colour(), ensemble=True)
    table.add("unrolled network, trained on", again)
    _save(config, table)
    print(f"Picture: {config.output / PANEL}\nTime: {time.monotonic() - began:.0f} s")
    return 0


class _Table:
    """Results, printed as they come, and their images for the picture."""

    def __init__(self, given: Problem, truth: Image) -> None:
        self.given, self.truth = given, truth
        self.entries: list[Entry] = []
        self.decibels: list[float] = []
        print(line("", COLOUR, _WIDTH))

    def add(self, name: str, method: Method) -> None:
        row, entry = applied(name, method, Colour(), self.given)
        full = f"{name}, {row.note}" if row.note else name
        print(line(f"  {full}", cells(row.values), _WIDTH), flush=True)
        self.entries.append(entry)
        self.decibels.append(next(iter(row.values.values())))


def _save(config: DemoConfig, table: _Table) -> None:
    save_panel(
        config.output / PANEL,
        Entry("truth", table.truth, f"{config.photo}, never trained on"),
        table.entries,
        title=f"{config.photo}, from {config.rate:.0%} of its samples",
    )


def _tuned(config: DemoConfig, network: Network, svd: str) -> tuple[Outcome, Network]:
    """Train a copy of the network on, behind a progress bar."""
    held_out = config.photo if config.photo in PHOTOS else HELD_OUT
    task = Colour(
        held_out=(held_out,), patch=config.patch, rates=(config.rate, config.rate)
    )
    training = Training(
        steps=config.steps,
        batch=config.batch,
        learning_rate=2e-4,
        warm_up=0.1,
        svd=svd,  # type: ignore[arg-type]
        validate_every=config.steps,
    )
    settings = Config(
        task=task,
        network=network.recipe,
        training=training,
        seed=config.seed,
        threads=config.threads,
    )
    photos = [photograph(name) for name in split(held_out)]
    source = Photographs(task, photos, {})
    job = Run(settings, source, weights=network.state_dict())
    deadline = time.monotonic() + 60 * config.minutes
    with interrupts() as interrupted:
        outcome = train_with_bar(
            job,
            lambda: interrupted() or time.monotonic() > deadline,
            f"through {svd}",
        )
    if outcome.ending == "stopped" and not interrupted():
        print(
            f"The {config.minutes:g} minutes are up after {outcome.step} of "
            f"{config.steps} steps: how many it is depends on the machine. --minutes "
            "gives more."
        )
    return outcome, job.mean


def _compared(theirs: Outcome, ours: Outcome) -> str:
    """Summarise how the two trainings ended."""
    each = {"torch.linalg.svd": theirs, "svdinv.torch.svt": ours}
    lines = []
    for name, outcome in each.items():
        how = str(outcome.breakdown).replace("\n", "\n  ")
        if outcome.breakdown is None:
            early = "" if outcome.ending == "finished" else ", stopped early"
            how = f"{outcome.step} steps in {outcome.seconds:.0f} s{early}"
            how += ", every gradient finite"
        lines.append(f"  {name}: {how}")
    if theirs.breakdown is None:
        lines.append("  No difference to be seen this time.")
    elif ours.breakdown is None and ours.step < theirs.breakdown.step:
        lines.append("  It did not get as far as the step where the other broke down.")
    elif ours.breakdown is None:
        lines.append("  Same weights, same batches, that step included.")
    return "\n".join(lines)
