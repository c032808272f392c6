"""The step from the average of a fit towards the data that it left unexplained."""

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
"""Steps of conjugate gradients that replace left-out data."""

# Of the distance from the average in the step towards the data, relative to |A|^2.
_WEIGHTS = tuple(10 ** (1 - i / 3) for i in range(13))
_CLEARLY = 1e-4


def cleaned(
    average: Image, y: Image, measured: Image, held: Image
) -> tuple[Image, float]:
    """Bring back a part of the residual, and take its noise out by low rank of patches.

    Details come with the noise, and patches that look alike tell them apart: as the
    iterations of Gu et al. (weighted nuclear norm, CVPR 2014) feed noise back.

    All arrays are (C, H, W): the fit; data, each the value of a pixel with noise; where
    there are some; and which of them were not fitted. The last say how large the noise
    is, and which part is best. Returns the image and the part, in [0, 1]; the fit
    itself and 0 where no part comes nearer to what was held out.
    """
    if not np.isfinite(average).all():
        return average, 0.0
    residual = np.where(measured, y - average, 0)
    variance = float(np.mean(residual[held] ** 2))
    known = np.where(held, 0, residual)

    def image(part: float, residual: Image) -> Image:
        sigma = part * math.sqrt(variance)
        given = (average + part * residual).astype(average.dtype)
        return denoise_non_local(given, sigma)

    best, least = 0.0, variance
    for part in _PARTS if variance else ():
        error = float(np.mean((y - image(part, known))[held] ** 2))
        if error < least:
            best, least = part, error
    return (image(best, residual) if best else average), best


def towards_data(
    problem: Problem, average: Tensor, held: Tensor, measured: Tensor
) -> tuple[Tensor, float]:
    """Step from an average towards the data, as far as held-out data improve.

    Of a problem of one image, of tensors with a batch axis, which the average has not.
    It stays as it is unless the operator is linear and the fidelity `L2`. Returns the
    image, and how large the step was, as `Fit.step`.
    """
    fidelity = problem.fidelity
    if not (problem.A.linear and isinstance(fidelity, L2)):
        return average, 0.0
    pixels = problem.A.pixel_mask is not None and not average.is_complex()
    if pixels and problem.has_white_noise:
        given = (average, problem.y[0], measured[0], held[0])
        found, part = cleaned(*(array.cpu().numpy() for array in given))
        return torch.from_numpy(found).to(average), part
    x = image = average[None]
    admm = ADMM(cg_iterations=2 * STEPS, batch_axes=1)
    norm = admm.suited(problem, x, None)["penalty"]
    known = restricted(problem, (~held).to(problem.y.real.dtype), fidelity.weight)

    def error(image: Tensor) -> float:
        seen = (problem.A.forward(image) - problem.y)[held]
        return float(seen.abs().square().sum())

    best, least = 0.0, error(x)
    for weight in _WEIGHTS:
        image = admm.explain(x, image, known, weight * norm)
        value = error(image)
        # Of data that say nothing of one another only rounding changes.
        if value < (1 - _CLEARLY) * least:
            best, least = weight, value
    if not best:
        return average, 0.0
    return admm.explain(x, x, problem, best * norm)[0], best
