"""Classical methods of impedance tomography."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.algorithms.nonlinear import gauss_newton, truncated_svd
from svdinv.unroll.metrics import snr
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.impedance.dbar import boundary_map, dbar
from svdinv.unroll.tasks.impedance.model import (
    DECADE,
    RANK,
    Voltages,
    logarithmic,
    penalties,
    smooth,
)
from svdinv.unroll.tasks.task import Reconstruction, best_of

Floats = NDArray[Any]

_SMOOTHING = 0.02  # of total variation, for the logarithm of the conductivity
# Errors of the linear and nonlinear models, relative to the RMS of the data.
_LINEAR_ERROR, _MODEL_ERROR = 0.1, 0.01
_WEIGHTS = {
    "Tikhonov": (1e-3, 1e-2, 0.1, 1.0),
    "TV": (0.01, 0.1, 1.0, 10.0),
    "Gauss-Newton": (0.1, 1.0, 10.0),
}
_FIXED = {"Tikhonov": 0.1, "TV": 0.1, "Gauss-Newton": 1.0}
_CUTOFFS = (5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5)


def decibels(problem: Problem, image: Any) -> float:
    """Return the SNR of the deviation from the water, clipped to a decade, in dB."""
    return snr(problem.truth - 0.5, np.clip(image, 0, 1) - 0.5)


def _deviation(y: Floats, error: float) -> float:
    """Return the standard deviation of the noise, which is 1, plus model error."""
    y = y[y != 0]
    return math.hypot(1, error * math.sqrt(float(np.mean(y**2)))) if y.size else 1


def _picture(problem: Problem, change: Floats) -> Floats:
    """Return the picture of a change of the logarithm of the conductivity."""
    drawn = problem.scan.picture.draw(change / (2 * DECADE))
    return np.clip(0.5 + drawn, 0, 1).astype(np.float32)


def _data(problem: Problem) -> Floats:
    """Return the data, NaN where none were measured."""
    voltages = problem.scan.voltages
    return np.where(voltages.weight > 0, problem.y.astype(np.float64), np.nan)


def tsvd(problem: Problem, *, keep: Any) -> Reconstruction:
    """Solve the linearised problem by truncated SVD.

    `keep` selects the number of singular values, which the note states; see
    `svdinv.unroll.algorithms.nonlinear.truncated_svd`.
    """
    voltages = problem.scan.voltages
    C = smooth(voltages.model.mesh)
    D = voltages.derivative(np.ones(voltages.image_shape))
    y = _data(problem)
    rank = min(RANK, int(np.isfinite(y).sum()))
    found = truncated_svd(
        D * C, y, np.zeros(C.image_shape), rank=rank, keep=keep,
        noise=_deviation(problem.y, _LINEAR_ERROR),
    )  # fmt: skip
    image = _picture(problem, C.forward(found.image))
    return Reconstruction(image, f"{found.kept} of {rank} kept")


def penalised(problem: Problem, *, name: str) -> Reconstruction:
    """Solve the linearised or the nonlinear problem with a penalty on differences.

    "Tikhonov" penalises their squares and "TV" their magnitudes, for the linearised
    problem; "Gauss-Newton" solves the nonlinear problem with the TV penalty. The note
    states the weight, which is the best of a grid if the truth is known.
    """
    voltages, y = problem.scan.voltages, _data(problem)
    L, one = penalties(voltages.model.mesh), np.ones(voltages.image_shape)
    nonlinear = name == "Gauss-Newton"
    A = logarithmic(voltages) if nonlinear else voltages.derivative(one)

    def at(weight: float) -> Floats:
        found = gauss_newton(
            A, y, 0 * one, L, weight=weight,
            noise=_deviation(problem.y, _MODEL_ERROR if nonlinear else _LINEAR_ERROR),
            variation=None if name == "Tikhonov" else _SMOOTHING,
            iterations={"Tikhonov": 1, "TV": 5}.get(name, 30),
        )  # fmt: skip
        return _picture(problem, found)

    weights, usual = _WEIGHTS[name], _FIXED[name]
    return best_of(decibels, problem, at, weights, usual, "weight {:g}")


def direct(problem: Problem) -> Reconstruction:
    """Reconstruct a disc by the D-bar method, from its Dirichlet-to-Neumann map.

    The note states the cutoff of the low-pass: the best if the truth is known, else the
    largest at which the method converges. If it converges at none, the image is water.
    Raises ValueError unless electrodes surround a disc and all voltages were measured.
    """
    voltages = problem.scan.voltages
    model, angles = voltages.model, boundary_angles(voltages)
    if angles is None:
        raise ValueError("D-bar needs electrodes all around a disc, and all voltages")
    y = problem.y.astype(np.float64) / voltages.weight
    into, between = (np.linalg.pinv(w) for w in (model.currents.T, model.voltages))
    boundary = boundary_map(voltages.water * into @ y @ between, angles)
    points = model.mesh.centres / np.linalg.norm(model.mesh.nodes, axis=1).max()
    found: dict[float, Floats] = {}
    for cutoff in _CUTOFFS:
        try:
            change = np.log(np.clip(dbar(boundary, points, cutoff), 0.01, 100))
        except ValueError:  # too much noise for this resolution
            continue
        found[cutoff] = _picture(problem, change)
        if problem.truth is None:
            break
    if not found:
        return Reconstruction(
            _picture(problem, 0 * points[:, 0]), "no cutoff is low enough"
        )
    make, usual = found.__getitem__, max(found)
    return best_of(decibels, problem, make, found, usual, "cutoff {:g}")


def boundary_angles(voltages: Voltages) -> Floats | None:
    """Return the angles of the electrodes, None if they do not surround a disc."""
    model, mesh = voltages.model, voltages.model.mesh
    count = len(mesh.electrodes)
    middles = np.stack([mesh.nodes[e].mean(axis=(0, 1)) for e in mesh.electrodes])
    angles = np.arctan2(middles[:, 1], middles[:, 0])
    gaps = np.diff(np.unwrap(np.sort(angles)), append=np.min(angles) + 2 * np.pi)
    radius = np.linalg.norm(mesh.nodes, axis=1).max()
    ranks = (np.linalg.matrix_rank(w) for w in (model.currents, model.voltages))
    complete = (
        np.allclose(gaps, 2 * np.pi / count, rtol=0.05)
        and abs(mesh.areas.sum() / (np.pi * radius**2) - 1) < 0.02
        and (voltages.weight > 0).all()
        and all(rank == count - 1 for rank in ranks)
    )
    return angles if complete else None
