"""Inputs of ``reconstruct`` and ``fit``: one measurement, and a network."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
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
    from svdinv.unroll.tasks.reading import source_of

    found = source_of(source)
    task, what = found.task, f"{source} is one of {found.entry.images}"
    if arguments.task is not None:
        own = task_named(arguments.task).kind
        if own != task.kind:
            raise ValueError(
                f"argument --task: {source} is not of the kind {own}, but {task.kind}"
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
