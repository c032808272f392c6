"""Methods applied to one problem: how well each did, and pictures that compare them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from svdinv.unroll.display.panels import Entry
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Method, Task

__all__ = [
    "Row",
    "Which",
    "applied",
    "classical",
    "file_stem",
    "is_quick",
    "label",
    "save_pictures",
]

Which: TypeAlias = Literal["first", "quick", "all"]
"""Of the classical methods, those that are compared with."""


@dataclass(frozen=True)
class Row:
    """A method on a problem: names, metrics by name, and seconds of wall-clock time.

    `note` is what the method chose, such as a weight; it may be empty.
    """

    image: str
    setting: str
    method: str
    values: dict[str, float]
    seconds: float
    note: str = ""


def classical(
    task: Task, problem: Problem, *, which: Which = "all", asked: str = ""
) -> dict[str, Method]:
    """Choose the classical methods to compare with, by name: the first always.

    Further "all" that suit a problem and do not take too long for it, or those of them
    that are "quick", and in any case the one that is `asked` for.
    """
    methods = task.baselines()
    names = {next(iter(methods)), asked}
    if which != "first":
        names |= {name for name in methods if is_quick(task, name, problem)}
    if which == "quick":
        names -= {*task.lengthy} - {asked}
    return {name: method for name, method in methods.items() if name in names}


def is_quick(task: Task, name: str, problem: Problem) -> bool:
    """Check whether a classical method suits a problem, and takes not too long."""
    return task.applies(name, problem) and not task.slow(name, problem)


def applied(
    name: str, method: Method, task: Task, problem: Problem
) -> tuple[Row, Entry]:
    """Apply a method to a problem.

    Returns how well it did, without values where the truth is not known, and the image
    for panels.
    """
    began = time.monotonic()
    estimate = method(problem)
    seconds = time.monotonic() - began
    values = task.judge(problem, estimate.image)
    row = Row(problem.name, problem.setting, name, values, seconds, estimate.note)
    return row, Entry(name, task.for_display(estimate.image), label(values))


def file_stem(name: str) -> str:
    """Make a name a part of that of a file, without spaces, commas and the like."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def label(values: Mapping[str, float]) -> str:
    """Format the first metric of an image, and its SSIM."""
    if not values:
        return ""
    name, first = next(iter(values.items()))
    decibels = f"{name.partition(' ')[0]} {first:.2f} dB"
    return f"{decibels}, SSIM {values['SSIM']:.3f}" if "SSIM" in values else decibels


def save_pictures(
    panel: Path,
    animation: Path | None,
    task: Task,
    problem: Problem,
    entries: Sequence[Entry],
) -> None:
    """Write a panel of reconstructions, and perhaps an animation too."""
    title, truth = f"{problem.name}, {problem.setting}", None
    if problem.truth is not None:
        truth = Entry("truth", task.for_display(problem.truth), "")
    task.save_panel(panel, truth, entries, title=title)
    if animation is not None:
        task.save_animation(animation, truth, entries)
