"""What a reconstruction will take, told before it is begun."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

import torch

from svdinv.unroll.evaluation.methods import Which
from svdinv.unroll.inference import VIEWS, reconstruct
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import InputImage, Options, Task
from svdinv.unroll.torch import Network

__all__ = ["available_memory", "check_memory", "check_unrolled", "forecast"]

# Worth a word: seconds, and bytes.
_LONG, _MUCH = 60.0, 2e9
_OF_FIT = 2200.0  # bytes for each pixel, measured of all untrained priors
# For each value of an image, that for series; 4,200 of colour, 8,900 of tomograms.
_OF_UNROLLED = 13_000.0
_WORTH = 8  # times a small problem, from which on a network is timed


def available_memory(device: str = "cpu") -> float:
    """Return the number of bytes of available memory.

    Of a GPU, those that are free; of Linux, those that can be had without swapping,
    within the limit of a container; of other systems all; infinity where that is not
    known.
    """
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


def check_memory(
    task: Task,
    given: InputImage | Problem,
    options: Options,
    device: str = "cpu",
    *,
    fitted: bool = False,
) -> float:
    """Return the bytes that a reconstruction or a fit needs.

    Raises ValueError if there are less.
    """
    needed = task.memory(given, options)
    if fitted:
        pixels = given.y if isinstance(given, Problem) else given.image
        needed = max(needed, _OF_FIT * math.prod(pixels.shape[-2:]))
    _check(task, given.name, needed, device)
    return needed


def check_unrolled(task: Task, problem: Problem, device: str = "cpu") -> None:
    """Raise ValueError if there is less memory than a fit of an unrolled network takes.

    All of its cells are differentiated at once.
    """
    needed = _OF_UNROLLED * math.prod(problem.adjoint().shape)
    _check(task, problem.name, needed, device)


def _check(task: Task, name: str, needed: float, device: str) -> None:
    there = available_memory(device)
    if needed > there:
        crop = " by --crop" if "crop" in task.options.of_files() else ""
        raise ValueError(
            f"{name} would take about {_gigabytes(needed)} of memory, and there "
            f"are {_gigabytes(there)}: reconstruct a smaller part of it{crop}, or on a "
            "larger machine"
        )


def forecast(
    network: Network | None,
    task: Task,
    problem: Problem,
    *,
    needed: float = 0.0,
    method: str = "",
    which: Which = "all",
    ensemble: bool = False,
    device: str = "cpu",
) -> str:
    """Describe the time and memory of a reconstruction, and what is faster.

    `needed` is in bytes, of `check_memory`. The network, on `device`, is timed on a
    small part of a large image. Empty if it is not worth a word.
    """
    effort = task.effort(problem, method)
    classical = learned = 0.0
    if effort is not None:
        asked = method in task.baselines()
        classical = effort.classical if which == "all" or asked else 0.0
        if network is not None and effort.times > _WORTH:
            began = time.monotonic()
            reconstruct(network, effort.small, device)
            learned = (time.monotonic() - began) * effort.times
            learned *= VIEWS if ensemble else 1
    if classical + learned <= _LONG and needed <= _MUCH:
        return ""
    line = f"This takes about {_span(classical + learned)} and {_gigabytes(needed)}"
    faster = {
        "without --baselines": 0.0 if method in task.baselines() else classical,
        "without --ensemble": learned * (1 - 1 / VIEWS) if ensemble else 0.0,
    }
    name = max(faster, key=lambda each: faster[each])
    if faster[name] > _LONG / 2:
        line += f"; {name} {_span(classical + learned - faster[name])}"
    return f"{line}."


def _gigabytes(count: float) -> str:
    return f"{max(count, 1e8) / 1e9:.1f} GB"


def _span(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"
