"""Non-local low-rank reconstruction as a classical method for tasks with images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np

from svdinv.unroll.algorithms.cross_validation import LEAST, drawn
from svdinv.unroll.algorithms.non_local import (
    best_non_local,
    denoise_non_local,
    noise_deviation,
)
from svdinv.unroll.fidelity import L2
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Arrays, Baseline, Reconstruction, Task, best_of
from svdinv.unroll.tiles import central

NAME = "non-local low rank"

_EXACT = 0.01  # relative to the largest magnitude
_LARGEST, _LARGEST_DENOISED = 512**2, 1024**2  # pixels
_SMALLEST = 32  # pixels a side that estimating the noise needs
_FACTORS = (0.7, 1.0, 1.4)  # times the noise, to search if the truth is known
# Noise of completed images: side of the crop, fraction of its samples that is left out
# and least number of their pixels; first deviations, between which others lie, and the
# factor between these; least gain, relative to the error.
_CROP, _LEFT_OUT, _FEW = 96, 0.1, 100
_DEVIATIONS, _FACTOR, _GAIN = (0.014, 0.06), 1.4, 0.015


def non_local(task: Task, problem: Problem) -> Reconstruction:
    """Reconstruct an image by low-rank approximation of groups of similar patches.

    Dong et al., IEEE TIP 2014. Incomplete data are reconstructed with `best_non_local`,
    by the score and the noise level if the truth is known. If the image is nearly free
    of noise, its samples are restored, unless the truth is known and nearer to the
    unrestored image. Complete noisy images are denoised with `denoise_non_local`, at
    the best of some noise levels or, without a truth, at the estimated one.

    The note states the noise level of the data, if any, and for incomplete data the
    final noise level of the image relative to its largest magnitude.
    """
    reduced = task.without_repeats(problem)
    if reduced is not problem:  # equal channels would bias the noise estimate
        found = non_local(task, reduced)
        image = np.broadcast_to(found.image, problem.y.shape)
        return found._replace(image=np.ascontiguousarray(image))

    def score(x: Arrays) -> float:
        return task.decibels(problem, x)

    projected = replace(problem, y=problem.A.project_to_samples(problem.y))
    has_truth = problem.truth is not None
    prefix = "best " if has_truth else ""
    noise = _noise(problem) if has_truth else None
    if _is_denoising(problem):
        usual = noise_deviation(projected.y) if noise is None else noise
        deviations = [factor * usual for factor in _FACTORS]
        make = partial(denoise_non_local, projected.y)
        found = best_of(task.decibels, problem, make, deviations, usual, "noise {:.3g}")
        return found._replace(image=task.finished(found.image))
    best = best_non_local(projected, score if has_truth else None, noise=noise)
    image, deviation = best.image, best.deviation
    exact = deviation <= _EXACT and (has_truth or not best.noise)
    if exact and problem.A.tight and problem.has_white_noise:
        restored = problem.A.consistent(image, projected.y)
        image = max(image, restored, key=score) if has_truth else restored
    suffix = f", noise {best.noise:.3g}" if best.noise else ""
    return Reconstruction(
        task.finished(image), f"{prefix}deviation {deviation:g}{suffix}"
    )


def without_noise(
    task: Task,
    problem: Problem,
    found: Reconstruction,
    complete: Callable[[Problem], Arrays],
) -> Reconstruction:
    """Denoise a completed image in which the samples have kept their white noise.

    Some samples of a crop are left out, and it is completed by `complete` from the
    others. The standard deviation of noise is that for which the denoised crop predicts
    these samples best. If all channels are sampled at the same places, the network errs
    more, and denoising would compensate for that, too: then the deviation is estimated
    by the least variance of a combination of channels, in which the errors that they
    share cancel. If the prediction is not significantly better than the crop's own, the
    image is returned. The note states the deviation.
    """
    height, width = problem.y.shape[-2:]
    crop = task.part(problem, (central(height, _CROP), central(width, _CROP)))
    measured, rng = np.asarray(crop.A.pixel_mask), np.random.default_rng(0)
    together = (measured == measured[:1]).all()
    held = drawn(measured[:1] if together else measured, _LEFT_OUT, rng) & measured
    if np.count_nonzero(held.any(0)) < _FEW:
        return found
    y = np.where(held, np.float32(0), crop.y)
    image = complete(replace(crop, y=y, A=Sampling(measured & ~held)))

    @cache
    def errors(deviation: float) -> Arrays:
        """Return the squared errors of the samples that were left out."""
        return (denoise_non_local(image, deviation) - crop.y)[held] ** 2

    def mean(deviation: float) -> float:
        return float(errors(deviation).mean())

    deviations: tuple[float, ...] = _DEVIATIONS
    factors: tuple[float, ...] = _FACTOR, 1 / _FACTOR
    if together:
        left = (image - crop.y)[held].reshape(len(image), -1)
        least = max(0.0, float(np.linalg.eigvalsh(np.cov(left))[0]))
        deviations, factors = (math.sqrt(least),), ()
    best = min(deviations, key=mean)
    gains = errors(0.0) - errors(best)
    error = float(gains.std()) / math.sqrt(gains.size)
    if not gains.mean() > max(2 * error, _GAIN * mean(0.0)):
        return found
    for factor in factors:
        while mean(best * factor) < mean(best):
            best *= factor
    if height * width > _LARGEST_DENOISED:
        return found._replace(note=f"noise {best:.2g}")
    image = task.finished(denoise_non_local(found.image, best))
    return Reconstruction(image, f"denoised, deviation {best:.2g}")


def applies(problem: Problem) -> bool:
    """Return whether there are enough data to estimate the noise or hold some out."""
    if not isinstance(problem.fidelity, L2):
        return False
    if _is_denoising(problem):
        return min(problem.y.shape[-2:]) >= _SMALLEST
    return bool(np.count_nonzero(problem.sampled_mask()) >= LEAST)


def baseline(task: Task, largest: int = _LARGEST) -> Baseline:
    """Return the method for a task, slow for images with more pixels than `largest`."""

    def slow(problem: Problem) -> bool:
        limit = _LARGEST_DENOISED if _is_denoising(problem) else largest
        return math.prod(problem.adjoint().shape[-2:]) > limit

    return Baseline(partial(non_local, task), lengthy=True, applies=applies, slow=slow)


def _is_denoising(problem: Problem) -> bool:
    """Return whether all pixels are sampled, with white noise."""
    masked = problem.A.pixel_mask is not None and problem.has_white_noise
    return masked and bool(problem.sampled_mask().all())


def _noise(problem: Problem) -> float:
    """Return the standard deviation of the noise, computed from the truth.

    Returns 0 if the phase of the image is unknown.
    """
    if not problem.phase_known:
        return 0.0
    weight = getattr(problem.fidelity, "weight", None)
    residual = np.abs(problem.A.forward(problem.truth) - problem.y)
    residual = residual * (1.0 if weight is None else np.sqrt(weight))
    return float(np.sqrt(np.mean(residual[problem.sampled_mask()] ** 2)))
