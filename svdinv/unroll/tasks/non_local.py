"""Low rank of patches that look alike, as a classical method of tasks with images."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from svdinv.unroll.algorithms.cross_validation import LEAST
from svdinv.unroll.algorithms.non_local import (
    best_non_local,
    denoise_non_local,
    noise_deviation,
)
from svdinv.unroll.fidelity import L2
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Arrays, Baseline, Reconstruction, Task, best_of

NAME = "non-local low rank"

_EXACT = 0.01  # relative to the largest magnitude
_LARGEST, _LARGEST_ALONE = 512**2, 1024**2  # pixels
_SMALLEST = 32  # pixels a side, to tell the noise
_FACTORS = (0.7, 1.0, 1.4)  # of the noise that there is, where the truth may choose


def non_local(task: Task, problem: Problem) -> Reconstruction:
    """Reconstruct an image by low rank of its patches that look alike.

    Dong et al., IEEE TIP 2014: `svdinv.unroll.algorithms.non_local_low_rank`, told the
    noise, and ended where it comes nearest to the truth; where that is not known,
    `best_non_local`. Data of an exact image are put back, unless the truth is nearer to
    the image without. Of noise alone `denoise_non_local`, by the deviation that is
    best, or that the image tells.

    The note tells the noise in the data, if there is some, and where something is
    missing what was taken for noise in the image at last, relative to the largest
    magnitude.
    """
    plain = task.without_repeats(problem)
    if plain is not problem:  # noise is told by what differs
        found = non_local(task, plain)
        image = np.broadcast_to(found.image, problem.y.shape)
        return found._replace(image=np.ascontiguousarray(image))

    def score(x: Arrays) -> float:
        return task.decibels(problem, x)

    given = replace(problem, y=problem.A.project_to_samples(problem.y))
    known = problem.truth is not None
    said = "best " if known else ""
    noise = _noise(problem) if known else None
    if _noise_alone(problem):
        usual = noise_deviation(given.y) if noise is None else noise
        tried = [factor * usual for factor in _FACTORS]
        make = partial(denoise_non_local, given.y)
        found = best_of(task.decibels, problem, make, tried, usual, "noise {:.3g}")
        return found._replace(image=task.finished(found.image))
    best = best_non_local(given, score if known else None, noise=noise)
    image, deviation = best.image, best.deviation
    exact = deviation <= _EXACT and (known or not best.noise)
    if exact and problem.A.tight and problem.has_white_noise:
        restored = problem.A.consistent(image, given.y)
        image = max(image, restored, key=score) if known else restored
    told = f", noise {best.noise:.3g}" if best.noise else ""
    return Reconstruction(task.finished(image), f"{said}deviation {deviation:g}{told}")


def applies(problem: Problem) -> bool:
    """Return whether there are data enough to leave some out."""
    if not isinstance(problem.fidelity, L2):
        return False
    if _noise_alone(problem):
        return min(problem.y.shape[-2:]) >= _SMALLEST
    return bool(np.count_nonzero(problem.sampled_mask()) >= LEAST)


def baseline(task: Task, largest: int = _LARGEST) -> Baseline:
    """Return the method for a task, slow for images with more pixels than `largest`."""

    def slow(problem: Problem) -> bool:
        most = _LARGEST_ALONE if _noise_alone(problem) else largest
        return math.prod(problem.adjoint().shape[-2:]) > most

    return Baseline(partial(non_local, task), lengthy=True, applies=applies, slow=slow)


def _noise_alone(problem: Problem) -> bool:
    """Return whether all values of an image are known, but for white noise."""
    every = problem.A.pixel_mask is not None and problem.has_white_noise
    return every and bool(problem.sampled_mask().all())


def _noise(problem: Problem) -> float:
    """Return the standard deviation of the noise, by the truth.

    Data of an object of unknown phase do not tell it: 0.
    """
    if not problem.phase_known:
        return 0.0
    weight = getattr(problem.fidelity, "weight", None)
    rest = np.abs(problem.A.forward(problem.truth) - problem.y)
    rest = rest * (1.0 if weight is None else np.sqrt(weight))
    return float(np.sqrt(np.mean(rest[problem.sampled_mask()] ** 2)))
