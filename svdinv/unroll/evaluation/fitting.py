"""An untrained network at work on a problem, for the command line."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from svdinv.unroll.evaluation.evaluation import classical
from svdinv.unroll.evaluation.reconstruction import Files, Watch, compare
from svdinv.unroll.files import replacing
from svdinv.unroll.networks import Recipe
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Estimate, Method, Task
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained import Fit, Options, Record, fit

__all__ = ["fitted"]


def fitted(
    task: Task,
    problem: Problem,
    generator: Recipe,
    options: Options,
    written: Files,
    table: Path,
    *,
    start: bool = True,
    weights: Network | None = None,
    exact: bool = False,
    baselines: bool = False,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> bool:
    """Fit, compare, print and write.

    Parameters
    ----------
    task : Task
        Of the problem.
    problem : Problem
        What to reconstruct.
    generator : Recipe
        Whose weights are fitted.
    options : Options
        How.
    written : Files
        Where to.
    table : Path
        Where the trajectory goes, as CSV.
    start : bool
        Whether to fit around what `Task.begun` gives.
    weights : Network, optional
        As for `svdinv.unroll.untrained.fit`.
    exact : bool
        Whether the data are without noise, and are put back into the image.
    baselines : bool
        Whether to apply the classical methods too.
    checkpoint : Path, optional
        As for `svdinv.unroll.untrained.fit`.
    device : str
        Where to compute.

    Returns
    -------
    bool
        False if Ctrl-C ended it before the fit; nothing is written then.

    Raises
    ------
    OSError
        If a file cannot be written.
    ValueError
        If the checkpoint is of another fit.
    """
    methods = dict(classical(task, slow=baselines))
    around = task.begun(problem) if start else None
    if around is not None:
        methods["start of the fit"] = lambda problem: Estimate(task.finished(around))
    found: list[Fit] = []

    def last(watch: Watch) -> Method:
        return partial(
            _fit, task, generator, options, around, weights, exact, checkpoint, device,
            watch, found,
        )  # fmt: skip

    steps = len(methods) + 1
    if not compare(task, problem, methods, {"fit": last}, written, steps):
        return False
    (done,) = found
    stream = io.StringIO()
    rows = csv.writer(stream)
    rows.writerow([f.name for f in fields(Record)])
    for record in done.trajectory:
        rows.writerow([getattr(record, f.name) for f in fields(Record)])
    with replacing(table) as file:
        file.write(stream.getvalue().encode())
    return True


def _fit(
    task: Task,
    generator: Recipe,
    options: Options,
    around: Any,
    weights: Network | None,
    exact: bool,
    checkpoint: Path | None,
    device: str,
    watch: Watch,
    found: list[Fit],
    problem: Problem,
) -> Estimate:
    """Fit one problem; what there is more than the image goes to `found`."""

    def finished(image: Any) -> Any:
        image = problem.A.consistent(image, problem.y) if exact else image
        return task.finished(np.ascontiguousarray(image))

    measure = None
    if problem.truth is not None:

        def measure(image: Any) -> float:
            return task.decibels(problem, finished(image))

    done = fit(
        problem,
        generator,
        options,
        around=around,
        weights=weights,
        measure=measure,
        checkpoint=checkpoint,
        stop=watch.interrupted,
        device=device,
    )
    found.append(done)
    why = {"rule": "stopped by its rule", "iterations": "all iterations done"}
    note = f"iteration {done.best} of {done.iterations}"
    note += f", {why.get(done.ending, 'interrupted')}"
    if done.rollbacks:
        note += f", {len(done.rollbacks)} times gone back"
    return Estimate(finished(done.image), note)
