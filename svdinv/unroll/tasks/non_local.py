"""Low rank of patches that look alike, as a classical method of tasks with images."""

from __future__ import annotations

from dataclasses import replace

from svdinv.unroll.algorithms.non_local import best_non_local
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Arrays, Estimate, Task

__all__ = ["NAME", "non_local"]

NAME = "non-local low rank"

_EXACT = 0.01  # relative to the largest magnitude


def non_local(task: Task, problem: Problem) -> Estimate:
    """Reconstruct an image by low rank of its patches that look alike.

    Dong et al., IEEE TIP 2014: `svdinv.unroll.algorithms.non_local_low_rank`, ended
    where it comes nearest to the truth; or where that is not known, to data that are
    left out first. Where a hundredth or less is taken for noise, data are put back.

    The note tells what was taken for noise at last, relative to the largest magnitude.
    """

    def score(x: Arrays) -> float:
        return task.decibels(problem, x)

    given = replace(problem, y=problem.A.measured(problem.y))
    known = problem.truth is not None
    image, deviation = best_non_local(given, score if known else None)
    if deviation <= _EXACT and problem.A.tight:
        image = problem.A.consistent(image, given.y)
    said = "best " if known else ""
    return Estimate(task.finished(image), f"{said}deviation {deviation:g}")
