"""Train the weights for series that come with the package, from those of before.

The loop is that of `svdinv train`. The iterations in front of the first cell have no
weights, and take half of the time of a step; so what they make of an item is kept, and
most steps take items that were seen before, mirrored, turned and reversed in time along
with it. Every item is still a function of the seed and the step: a training that was
interrupted goes on with ``--resume`` and the same ``--new``, ``--fresh`` and
``--output``, and makes the items that it needs again.

    python benchmarks/train_hearts.py series.npz --photographs photographs \
        --output runs/hearts
    torchrun --nproc-per-node 2 benchmarks/train_hearts.py series.npz ...
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.std import EMA

from svdinv.unroll import pretrained
from svdinv.unroll.interrupts import interrupts
from svdinv.unroll.networks import LLS
from svdinv.unroll.networks import weights as files
from svdinv.unroll.networks.recipe import register
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.training import Hearts
from svdinv.unroll.training.command import processes
from svdinv.unroll.training.config import changed, preset, write
from svdinv.unroll.training.run import CONFIG, Run, to_resume

HELD_OUT = ("short_00", "short_10", "short_19", "long_00", "long_07", "long_13")
"""The outermost slices of each stack, and one of its middle."""

_TURNS = 2**32 - 2  # number of no item, for how those of a step are turned
_CHOICE = 2**32 - 3


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Started(Problem):
    """A problem with what was kept of the classical iterations."""

    start: Any = None


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class BegunLLS(LLS):
    """An LLS-Net that is handed what its classical iterations give."""

    def _classical(self, x: Any, problem: Problem, known: Any) -> Any:
        kept = getattr(problem, "start", None)
        return kept or super()._classical(x, problem, known)


class Kept:
    """Items of a training, with what the network starts from.

    Parameters
    ----------
    hearts : Hearts
        Makes items.
    recipe : LLS
        Whose classical iterations are kept.
    new : float
        Share of the steps that make new items, in (0, 1].
    fresh : int
        Steps that make new items, before any is taken again; at least 1.
    """

    def __init__(self, hearts: Hearts, recipe: LLS, new: float, fresh: int) -> None:
        self.hearts, self.recipe, self.new, self.fresh = hearts, recipe, new, fresh
        self._kept: dict[tuple[int, int, int, int], Any] = {}

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Give a batch as `Hearts.batch` does, and its start to the network."""
        source = step
        if not self._makes(seed, step):
            before = [s for s in range(1, step) if self._makes(seed, s)]
            rng = np.random.default_rng((seed, step, items.start, _CHOICE))
            source = before[int(rng.integers(len(before)))]
        key = seed, source, items.start, items.stop
        if key not in self._kept:
            self._kept[key] = self._make(seed, source, items)
        arrays = self._kept[key]
        rng = np.random.default_rng((seed, step, items.start, _TURNS))
        flips, swap, back = rng.integers(2, size=2), rng.integers(2), rng.integers(2)
        factor = np.exp(2j * np.pi * rng.random()).astype(np.complex64)
        turned = {}
        for name, array in arrays.items():
            for axis, flip in zip((-2, -1), flips, strict=True):
                if flip:  # about the middle, which is at n // 2, in both spaces
                    array = np.roll(np.flip(array, axis), 1, axis)
            if swap:
                array = np.swapaxes(array, -2, -1)
            if back and name != "maps":
                array = array[:, ::-1]
            if name not in ("mask", "maps"):
                array = factor * array
            turned[name] = np.ascontiguousarray(array)
        start = tuple(torch.from_numpy(turned.pop(name)) for name in ("x", "before"))
        A = MRI(turned["mask"], turned.get("maps"))
        return Started(turned["y"], A, truth=turned["truth"], start=start)

    def validation(self) -> list[Problem]:
        """Give the problems of the series that are held out."""
        return self.hearts.validation()

    def _makes(self, seed: int, step: int) -> bool:
        fresh = step <= self.fresh
        return fresh or np.random.default_rng((seed, step, _CHOICE)).random() < self.new

    def _make(self, seed: int, step: int, items: range) -> dict[str, Any]:
        batch = self.hearts.batch(seed, step, items)
        with torch.no_grad():
            state = self.recipe.begin(batch.replace_arrays(torch.from_numpy))
        A: Any = batch.A
        arrays = {"y": batch.y, "truth": batch.truth, "mask": A.mask}
        if A.maps is not None:
            arrays["maps"] = A.maps
        return arrays | {name: state[name].numpy() for name in ("x", "before")}


def told(recipe: LLS, weights: files.Weights) -> tuple[LLS, files.Weights]:
    """Make a network know the noise that did not, and gives the same as before."""
    if recipe.noise:
        return recipe, weights
    new = dataclasses.replace(recipe, noise=True)
    wide = {}
    for name, shape in files.shapes(new).items():
        wide[name] = np.zeros(shape, np.float32)
        if name in weights:
            old = weights[name]
            wide[name][tuple(slice(n) for n in old.shape)] = old
    return new, wide


def main() -> int:
    """Train, or go on; write the weights as those of an LLS-Net."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", nargs="*", help="files of real series")
    parser.add_argument("--photographs", nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--first", type=Path, help="first weights; the package's")
    parser.add_argument("--new", type=float, default=0.3, help="share of new items")
    parser.add_argument(
        "--fresh", type=int, default=60, help="steps of new items before any is kept"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=TOML")
    options = parser.parse_args()
    if not 0 < options.new <= 1:
        parser.error(f"--new must lie in (0, 1], got {options.new}")
    if options.fresh < 1:
        parser.error(f"--fresh must be at least 1, got {options.fresh}")
    first = files.read(options.first or pretrained.path("cine"))
    recipe, weights = told(*first[:2])
    begun = BegunLLS(**vars(recipe))
    options.output.mkdir(parents=True, exist_ok=True)
    if options.resume:
        config = to_resume(options.output)
    else:
        told_ = {"task.real": options.real, "task.photographs": options.photographs}
        told_["task.held_out"] = HELD_OUT if options.real else ()
        for each in options.set:
            name, _, value = each.partition("=")
            told_ |= {name: tomllib.loads(f"value = {value}")["value"]}
        config = changed(preset("cine"), told_)
        config = dataclasses.replace(config, network=begun)
        write(config, options.output / CONFIG)
    with processes("cpu") as (rank, _), interrupts() as interrupted:
        source = Kept(config.task.load(), begun, options.new, options.fresh)
        run = Run(
            config,
            source,
            options.output,
            resume=options.resume,
            weights=None
            if options.resume
            else {n: torch.from_numpy(x) for n, x in weights.items()},
        )
        mean, began = EMA(0.02), time.monotonic()

        def on_step(step: int, loss: float) -> None:
            smooth = mean(loss)
            if rank == 0 and step % 20 == 0:
                print(
                    f"{step} {smooth:.4f} {time.monotonic() - began:.0f} s", flush=True
                )

        def on_validation(step: int, decibels: float) -> None:
            if rank == 0:
                print(f"{step} validation: {decibels:.2f} dB", flush=True)

        outcome = run.train(
            stop=interrupted, on_step=on_step, on_validation=on_validation
        )
        if rank == 0:
            print(outcome.ending, outcome.step, outcome.breakdown or "", flush=True)
    if rank == 0:
        _, trained, _ = files.read(options.output / WEIGHTS)
        files.write(options.output / "cine.safetensors", recipe, trained)
    return 0


if __name__ == "__main__":
    sys.exit(main())
