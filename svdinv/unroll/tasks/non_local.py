"""Low rank of patches that look alike, as a classical method of tasks with images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from svdinv.unroll.algorithms.non_local import best_non_local
from svdinv.unroll.held_out import LEAST
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Arrays, Estimate, Task

__all__ = ["NAME", "effort", "non_local", "suits"]

NAME = "non-local low rank"

_EXACT = 0.01  # relative to the largest magnitude
_MOST = 0.95  # of the data
_LARGEST = 512**2  # pixels
_SECONDS = 2.8e-4  # measured, of each value


def non_local(task: Task, problem: Problem) -> Estimate:
    """Reconstruct an image by low rank of its patches that look alike.

    Dong et al., IEEE TIP 2014: `svdinv.unroll.algorithms.non_local_low_rank`, ended
    where it comes nearest to the truth; or where that is not known, to data that are
    left out first. Where a hundredth or less is taken for noise, data are put back,
    unless the truth is nearer to the image without.

    The note tells what was taken for noise at last, relative to the largest magnitude.
    """

    def score(x: Arrays) -> float:
        return task.decibels(problem, x)

    given = replace(problem, y=problem.A.measured(problem.y))
    known = problem.truth is not None
    image, deviation = best_non_local(given, score if known else None)
    if deviation <= _EXACT and problem.A.tight:
        restored = problem.A.consistent(image, given.y)
        image = max(image, restored, key=score) if known else restored
    said = "best " if known else ""
    return Estimate(task.finished(image), f"{said}deviation {deviation:g}")


def suits(problem: Problem) -> bool:
    """Tell whether patches that look alike help, and do not take too long.

    Something is missing, as noise alone hides which are alike; there are data enough to
    leave some out; and the image is not large.
    """
    if math.prod(problem.y.shape[-2:]) > _LARGEST:
        return False
    count = np.count_nonzero(problem.measured())
    return LEAST <= count < _MOST * problem.y.size


def effort(problem: Problem) -> float:
    """Give the seconds that it takes on one core; without the truth twice as many."""
    return _SECONDS * problem.y.size * (1 + (problem.truth is None))
