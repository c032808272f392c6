"""Reconstruction of one image, for the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svdinv.unroll.data.formats import ending
from svdinv.unroll.display.panels import Entry
from svdinv.unroll.display.tables import cells, line
from svdinv.unroll.evaluation.evaluation import (
    Row,
    applied,
    classical,
    save_pictures,
)
from svdinv.unroll.evaluation.inference import NAMES, apply, parts, start
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Method, Task
from svdinv.unroll.torch import Network
from svdinv.unroll.training.run import interrupts

__all__ = ["Files", "Watch", "compare", "files", "reconstruct"]


class Files(NamedTuple):
    """Where a reconstruction goes, a picture that compares, and a series' animation."""

    image: Path
    panel: Path
    animation: Path | None


def files(output: Path, task: Task, problem: Problem, movie: str = ".gif") -> Files:
    """Name what is written, side by side.

    `output` is a folder, or the file of the reconstruction: whatever has a suffix that
    begins with a letter, unlike ``rate0.1``, and is no folder. Raises ValueError if
    a reconstruction cannot be written to a file of that suffix.
    """
    endings = task.endings
    if output.suffix[1:2].isalpha() and not output.is_dir():
        suffix = ending(output, endings)
        if not suffix:
            raise ValueError(
                f"argument --output: must be a folder or end in {', '.join(endings)}, "
                f"got {output}"
            )
        base, image = output.with_name(output.name[: -len(suffix)]), output
    else:
        base = output / Path(problem.name).name
        image = base.with_name(f"{base.name}-reconstruction{endings[0]}")
    panel = base.with_name(f"{base.name}-panel.png")
    animation = base.with_name(f"{base.name}-animation{movie}")
    return Files(image, panel, animation if task.moves(problem) else None)


def reconstruct(
    task: Task,
    problem: Problem,
    network: Network | None,
    written: Files,
    *,
    baselines: bool = True,
    ensemble: bool = False,
    device: str = "cpu",
) -> bool:
    """Reconstruct, compare, print and write; False if Ctrl-C ended it.

    Nothing is written then. Without a network the last classical method is what is
    reconstructed. Otherwise as `svdinv.unroll.evaluation.inference.apply`.
    """
    methods = classical(task, problem, slow=baselines)
    if network is None:
        name, chosen = methods.popitem()
        only = {name: lambda watch: chosen}
        return compare(task, problem, methods, only, written, len(methods))
    if baselines:
        methods |= start(network, device)
    steps = len(methods) + parts(network, task, problem, ensemble=ensemble)
    options: Any = {"ensemble": ensemble, "device": device}

    def last(watch: Watch) -> Method:
        return partial(apply, network, task, on_part=watch.advance, **options)

    return compare(task, problem, methods, {NAMES[ensemble]: last}, written, steps)


class Watch(NamedTuple):
    """What a method that takes long is given.

    `advance` is to be called after each part of the work, and raises KeyboardInterrupt
    when the user wants an end; `interrupted` tells whether the user does.
    """

    advance: Callable[[], None]
    interrupted: Callable[[], bool]


def compare(
    task: Task,
    problem: Problem,
    methods: Mapping[str, Method],
    last: Mapping[str, Callable[[Watch], Method]],
    written: Files,
    steps: int,
) -> bool:
    """Apply methods, print how they did, and write the image of the last one.

    The last is made of a `Watch`. `steps` counts the parts of the work: one for each of
    `methods`, and those of the last. False if Ctrl-C ended it; nothing is written then.
    """
    width = 2 + max(18, *map(len, [*task.baselines(), *last]))
    entries: list[Entry] = []
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        tqdm(total=steps, leave=False, smoothing=0, file=sys.stderr) as bar,
    ):

        def advance() -> None:
            bar.update()
            if interrupted():
                raise KeyboardInterrupt

        watch = Watch(advance, interrupted)
        every = {**methods, **{name: make(watch) for name, make in last.items()}}
        try:
            for name, method in every.items():
                bar.set_description(name)
                row, entry = applied(name, method, task, problem)
                if not entries:
                    head = line("", [*row.values, "seconds"], width)
                    bar.write(head, file=sys.stdout)
                bar.write(_told(row, width), file=sys.stdout)
                entries.append(entry)
                if name not in last:
                    advance()
        except KeyboardInterrupt:
            return False
    task.save(written.image, entries[-1].image, problem)
    save_pictures(written.panel, written.animation, task, problem, entries)
    return True


def _told(row: Row, width: int) -> str:
    numbers = cells({**row.values, "seconds": row.seconds})
    return f"{line(f'  {row.method}', numbers, width)}   {row.note}".rstrip()
