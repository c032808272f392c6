"""An untrained network at work on a problem, for the command line."""

from __future__ import annotations

import sys
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from svdinv.unroll.algorithms import Interrupted
from svdinv.unroll.display import comma_separated
from svdinv.unroll.evaluation.methods import Files, classical, compare
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.inference import NAMES, learned
from svdinv.unroll.interrupts import interrupts
from svdinv.unroll.networks import Recipe
from svdinv.unroll.plugins import naming
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Reconstruction, Task
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained import Fit, Fitting, Options, Record


def fitted(
    task: Task,
    problem: Problem,
    generator: Recipe,
    options: Options,
    written: Files,
    table: Path,
    *,
    weights: Network | None = None,
    start: bool = True,
    exact: bool = False,
    baselines: bool = False,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> Fit | None:
    """Fit, compare, print and write, with the trajectory as CSV in a `table`.

    The fit begins with the `weights`, if there are some, whose own image is a row where
    they see the data; with `start` it is around what `Task.initial_image` returns. With
    `exact` the data are without noise, and are put back into the image. `baselines`
    applies the classical methods too; `checkpoint` and `device` are as for
    `svdinv.unroll.untrained.fit`.

    Returns the fit, also if Ctrl-C ended it; None where that came before the
    fit: nothing is written then. Raises ValueError if the options do not fit the
    problem, or the checkpoint is of another fit.
    """
    # A network that is given was trained for all channels.
    plain = task.without_repeats(problem) if weights is None else problem

    def finished(image: Any) -> Any:
        image = plain.A.consistent(image, plain.y) if exact else image
        if plain is not problem:
            image = np.broadcast_to(image, problem.y.shape)
        return task.finished(np.ascontiguousarray(image))

    def measure(image: Any) -> float:
        return task.decibels(problem, finished(image))

    fitting = Fitting(
        plain,
        generator,
        options,
        around=task.initial_image if start else None,
        weights=weights,
        measure=None if problem.truth is None else measure,
        device=device,
    )
    if checkpoint is not None and checkpoint.exists():  # before anything takes long
        with naming("argument --checkpoint"):
            fitting.load(checkpoint)
        print(f"Goes on from iteration {fitting.iteration}: {checkpoint}\n", flush=True)
    methods = classical(task, problem, which="all" if baselines else "first")
    sees = getattr(generator, "source", "adjoint") == "adjoint"  # the data
    if weights is not None and sees:
        name = NAMES[False]
        methods[name] = learned(weights, task, device=device)[name]
    around = fitting.arounds[0]
    if around is not None:
        begun = Reconstruction(task.finished(around[0].cpu().numpy()))
        methods["start of the fit"] = lambda problem: begun
    found: list[Fit] = []

    def fit(problem: Problem) -> Reconstruction:
        with interrupts() as interrupted:
            try:
                done = fitting.run(
                    checkpoint, stop=interrupted, progress=sys.stderr.isatty()
                )
            except Interrupted as press:  # what is without the step is worth keeping
                done = press.solution
            # Too late for the iterations, it may still have ended the step behind them.
            late = interrupted() and done.ending != "broken"
            found.append(replace(done, ending="stopped") if late else done)
        return Reconstruction(finished(found[0].image), _describe_ending(found[0]))

    def stopped() -> bool:
        return any(done.ending == "stopped" for done in found)

    methods["fit"] = fit
    if not compare(task, problem, methods, written, "fit", stopped=stopped).written:
        return None
    names = [f.name for f in fields(Record)]
    with replacing(table) as file:
        file.write(comma_separated(names, map(astuple, found[0].trajectory)))
    return found[0]


def _describe_ending(done: Fit) -> str:
    """Describe how a fit ended."""
    why = {
        "rule": "stopped by its rule",
        "iterations": "all iterations done",
        "broken": "broke down again and again",
    }
    note = f"iteration {done.best} of {done.iterations}"
    note += f", {why.get(done.ending, 'interrupted')}"
    if done.step:
        note += f", step towards the data {done.step:g}"
    if done.rollbacks:
        note += f", {len(done.rollbacks)} times gone back"
    return note
