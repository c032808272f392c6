"""Inputs of ``reconstruct`` and ``fit``: one measurement, and a network."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdinv.cli.arguments import naming_flags, need, refuse_options, task_settings

if TYPE_CHECKING:
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.task import Options, Task


class Input(NamedTuple):
    """An input, read and measured; `is_measured` if it came as measured data."""

    task: Task
    problem: Problem
    options: Options
    is_measured: bool


def read_input(
    arguments: argparse.Namespace,
    source: str,
    *,
    check: Callable[[Task, Any, Options], Any] = lambda task, given, options: None,
    truth: bool = True,
) -> Input:
    """Read an input, and check it and the options of its task against each other.

    `check` is called with the task, what was read, and the options, before it is
    measured; without `truth` what is read is not the truth, or is not to be known. A
    ValueError names the argument.
    """
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks import task_named
    from svdinv.unroll.tasks.reading import opened

    with opened(source) as found:
        task, what = found.task, f"{source} is one of {found.entry.images}"
        if arguments.task is not None:
            own = task_named(arguments.task).kind
            if own != task.kind:
                raise ValueError(
                    f"argument --task: {source} is not of the kind {own}, but "
                    f"{task.kind}"
                )
        need(arguments.parser, found.entry.needs, "train")
        (options,) = task_settings(arguments, task, what)
        with naming_flags(arguments, task):
            given = found.read(options)
        check(task, given, options)
        measured = isinstance(given, Problem)
        what = f"{source} is measured already" if measured else what
        refuse_options(arguments, task, what, but=found.applicable(given))
    if isinstance(given, Problem):
        problem = given
    else:
        options = options if truth else task.options_without_truth(options)
        with naming_flags(arguments, task):
            problem = task.measure(given, options)
    if not truth:
        problem = dataclasses.replace(problem, truth=None)
    return Input(task, problem, options, measured)


def check_memory(task: Task, name: str, needed: float, device: str) -> None:
    """Refuse, by a ValueError, what needs more bytes than there are."""
    there = available_memory(device)
    if needed > there:
        crop = " by --crop" if "crop" in task.options.of_files() else ""
        raise ValueError(
            f"{name} would take about {needed / 1e9:.2g} GB of memory, and there are "
            f"{there / 1e9:.2g} GB: reconstruct a smaller part of it{crop}, or on a "
            "larger machine"
        )


def available_memory(device: str = "cpu") -> float:
    """Return the number of bytes of available memory.

    Of a GPU, those that are free; of Linux, those that can be had without swapping,
    within the limit of a container; of other systems all; infinity where that is not
    known.
    """
    import torch

    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
        found.append(1024.0 * int(words.split()[0]))
    with contextlib.suppress(OSError, ValueError, IndexError):
        folder = Path("/sys/fs/cgroup")
        taken = (folder / "memory.stat").read_text().partition("anon ")[2]
        limit = int((folder / "memory.max").read_text())  # or the word max
        found.append(max(0.0, float(limit - int(taken.split()[0]))))
    return min(found)


def check_open(source: str, problem: Problem) -> None:
    """Refuse, by a ValueError, data that are the truth, which is to be found."""
    import numpy as np

    whole = problem.A.pixel_mask is not None
    if whole and np.array_equal(problem.y, problem.truth):
        raise ValueError(
            f"argument INPUT: all of {source} is sampled, without noise, which leaves "
            "nothing to reconstruct; for noise that it has already: --no-truth"
        )


def check_network(
    network: Any, task: Task, source: str, given: Any, argument: str = "--weights"
) -> None:
    """Refuse, by a ValueError, a network for images of another task, or channels."""
    from svdinv.unroll.inference import task_of_network

    own = task_of_network(network)
    if own.kind != task.kind:
        raise ValueError(
            f"argument {argument}: these are for {own.kind}, but {source} is of the "
            f"kind {task.kind}"
        )
    channels = getattr(network.recipe, "channels", None)
    if channels is None or task.channels is not None:
        return
    # They lead the data too.
    found = len(given.y if hasattr(given, "y") else given.image)
    if found != channels:
        raise ValueError(
            f"argument {argument}: these are for images of {channels} channels, but "
            f"{source} has {found}"
        )
