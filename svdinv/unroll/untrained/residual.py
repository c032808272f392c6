"""The final data consistency step of a fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdinv.unroll.algorithms import ADMM
from svdinv.unroll.algorithms.cross_validation import restricted
from svdinv.unroll.algorithms.non_local import denoise_non_local
from svdinv.unroll.fidelity import L2
from svdinv.unroll.problem import Problem

Image = NDArray[Any]

_PARTS = (0.25, 0.5, 0.75, 1.0)

STEPS = 10
"""Conjugate gradient steps that replace left-out data."""

# Trial weights of the distance from the average, relative to |A|^2.
_WEIGHTS = tuple(10 ** (1 - i / 3) for i in range(13))
_CLEARLY = 1e-4  # relative improvement of the error that counts


def cleaned(
    average: Image, y: Image, measured: Image, held: Image
) -> tuple[Image, float]:
    """Add a part of the residual and remove its noise by low rank of patches.

    The residual contains details and noise, which similar patches distinguish, as in
    the feedback iterations of Gu et al. (weighted nuclear norm, CVPR 2014).

    All arrays are (C, H, W): the fit, the data (noisy values of pixels), where pixels
    are measured, and which of them were held out. The held-out data determine the noise
    level and the best part. Returns the image and the part, in [0, 1]; the fit and 0 if
    no part reduces the error of the held-out data.
    """
    if not np.isfinite(average).all():
        return average, 0.0
    residual = np.where(measured, y - average, 0)
    variance = float(np.mean(residual[held] ** 2))
    fitted = np.where(held, 0, residual)

    def image(part: float, residual: Image) -> Image:
        sigma = part * math.sqrt(variance)
        noisy = (average + part * residual).astype(average.dtype)
        return denoise_non_local(noisy, sigma)

    best, least = 0.0, variance
    for part in _PARTS if variance else ():
        error = float(np.mean((y - image(part, fitted))[held] ** 2))
        if error < least:
            best, least = part, error
    return (image(best, residual) if best else average), best


def towards_data(
    problem: Problem, average: Tensor, held: Tensor, measured: Tensor
) -> tuple[Tensor, float]:
    """Step from an average towards the data, as far as held-out data improve.

    The problem is of one image, of tensors with a batch axis, which the average lacks.
    The average is returned unless the operator is linear and the fidelity `L2`. Returns
    the image and the size of the step, see `Fit.step`.
    """
    fidelity = problem.fidelity
    if not (problem.A.linear and isinstance(fidelity, L2)):
        return average, 0.0
    pixels = problem.A.pixel_mask is not None and not average.is_complex()
    if pixels and problem.has_white_noise:
        arrays = (average, problem.y[0], measured[0], held[0])
        result, part = cleaned(*(array.cpu().numpy() for array in arrays))
        return torch.from_numpy(result).to(average), part
    x = image = average[None]
    admm = ADMM(cg_iterations=2 * STEPS, batch_axes=1)
    norm = admm.default_parameters(problem, x, None)["penalty"]
    fitted = restricted(problem, (~held).to(problem.y.real.dtype), fidelity.weight)

    def error(image: Tensor) -> float:
        residual = (problem.A.forward(image) - problem.y)[held]
        return float(residual.abs().square().sum())

    best, least = 0.0, error(x)
    for weight in _WEIGHTS:
        image = admm.explain(x, image, fitted, weight * norm)
        value = error(image)
        # If the fitted data do not affect the held-out data, only rounding changes.
        if value < (1 - _CLEARLY) * least:
            best, least = weight, value
    if not best:
        return average, 0.0
    return admm.explain(x, x, problem, best * norm)[0], best
