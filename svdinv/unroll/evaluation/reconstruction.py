"""Reconstruction of one image, for the command line."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from svdinv.unroll.tasks.task import Task
from svdinv.unroll.torch import Network
from svdinv.unroll.training.run import interrupts

__all__ = ["Files", "files", "reconstruct"]


class Files(NamedTuple):
    """Where a reconstruction goes.

    Attributes
    ----------
    image, panel : Path
        The picture or series itself, and the picture that compares.
    animation : Path or None
        Of a series.
    """

    image: Path
    panel: Path
    animation: Path | None


def files(output: Path, task: Task, name: str, movie: str = ".gif") -> Files:
    """Name what is written.

    Parameters
    ----------
    output : Path
        Folder, or the file of the reconstruction: whatever has a suffix that begins
        with a letter, unlike ``rate0.1``, and is no folder.
    task : Task
        Of what is reconstructed.
    name : str
        What that is called.
    movie : str
        Suffix of the animation of a series.

    Returns
    -------
    Files
        The files, side by side.

    Raises
    ------
    ValueError
        If a reconstruction cannot be written to a file of that suffix.
    """
    endings = task.endings
    if output.suffix[1:2].isalpha() and not output.is_dir():
        suffix = ending(output, endings)
        if not suffix:
            raise ValueError(
                f"{output} must be a folder or end in {', '.join(endings)}"
            )
        base, image = output.with_name(output.name[: -len(suffix)]), output
    else:
        base = output / Path(name).name
        image = base.with_name(f"{base.name}-reconstruction{endings[0]}")
    panel = base.with_name(f"{base.name}-panel.png")
    animation = base.with_name(f"{base.name}-animation{movie}")
    return Files(image, panel, animation if task.moving else None)


def reconstruct(
    task: Task,
    problem: Problem,
    network: Network,
    written: Files,
    *,
    baselines: bool = True,
    ensemble: bool = False,
    device: str = "cpu",
) -> bool:
    """Reconstruct, compare, print and write.

    Parameters
    ----------
    task : Task
        Of the problem.
    problem : Problem
        What to reconstruct.
    network : Network
        Of that kind, on `device`.
    written : Files
        Where to.
    baselines : bool
        Whether to apply the classical methods too.
    ensemble : bool
        As for `svdinv.unroll.evaluation.inference.apply`.
    device : str
        Where the network is.

    Returns
    -------
    bool
        False if Ctrl-C ended it; nothing is written then.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    methods = classical(task, slow=baselines)
    if baselines:
        methods |= start(network, device)
    steps = len(methods) + parts(network, task, problem, ensemble=ensemble)
    width = 2 + max(18, *map(len, task.baselines()))
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

        last = NAMES[ensemble]
        methods[last] = partial(
            apply, network, task, ensemble=ensemble, device=device, on_part=advance
        )
        try:
            for name, method in methods.items():
                bar.set_description(name)
                row, entry = applied(name, method, task, problem)
                if not entries:
                    head = line("", [*row.values, "seconds"], width)
                    bar.write(head, file=sys.stdout)
                bar.write(_told(row, width), file=sys.stdout)
                entries.append(entry)
                if name != last:
                    advance()
        except KeyboardInterrupt:
            return False
    task.save(written.image, entries[-1].image, problem)
    save_pictures(written.panel, written.animation, task, problem, entries)
    return True


def _told(row: Row, width: int) -> str:
    numbers = cells({**row.values, "seconds": row.seconds})
    return f"{line(f'  {row.method}', numbers, width)}   {row.note}".rstrip()
