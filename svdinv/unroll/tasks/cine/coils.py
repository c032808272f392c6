"""Estimation of coil sensitivities from k-space."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv._missing import needing
from svdinv.unroll.data.masks import middle


def estimate_maps(
    kspace: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    calibration: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.0,
) -> NDArray[np.complex64]:
    """Estimate coil sensitivity maps by ESPIRiT, from the centre of k-space.

    ESPIRiT (Uecker et al., MRM 71, 2014) as implemented in SigPy: the maps are the
    eigenvectors for the eigenvalue 1 of the projection onto the row space of the
    calibration matrix, spanned by the singular vectors whose singular values exceed
    `threshold` times the largest. The frames of a series are averaged first, each point
    over the frames that sample it.

    `kspace` (C, H, W) or (T, C, H, W) has its centre at ``(H // 2, W // 2)``; `mask`
    (H, W) or (T, H, W) is by default true where some coil is not zero. `calibration` is
    the side of the central square, each of whose points must be sampled in a frame;
    `kernel`, at most that, is the side of the kernels. Maps are zero where the
    eigenvalue is at most `crop`, as outside the object; with 0 they are everywhere.

    Returns maps (C, H, W), whose squared magnitudes add up to 1, or 0 where cropped.
    The first coil is real and nonnegative, because only relative phases are determined;
    they are less accurate where that coil receives little signal. Raises ValueError for
    unsuitable data or arguments, and ImportError if SigPy is missing.
    """
    data = np.asarray(kspace)
    if data.ndim not in (3, 4) or not data.size:
        raise ValueError(
            f"kspace must be (C, H, W) or (T, C, H, W), got the shape {data.shape}"
        )
    if not np.isfinite(data).all():
        raise ValueError("kspace must be finite")
    height, width = data.shape[-2:]
    if not 1 <= calibration <= min(height, width):
        raise ValueError(
            f"calibration must be 1 to {min(height, width)}, got {calibration}"
        )
    if not 1 <= kernel <= calibration:
        raise ValueError(f"kernel must be 1 to {calibration}, got {kernel}")
    if not 0 < threshold < 1 or not 0 <= crop < 1:
        raise ValueError("threshold must lie in (0, 1) and crop in [0, 1)")
    rows, columns = middle(height, calibration), middle(width, calibration)
    if not data.any():
        raise ValueError("kspace is zero")
    mean, sampled = _time_average(data, mask)
    missing = np.count_nonzero(~sampled[rows, columns])
    if missing:
        raise ValueError(
            f"{missing} of the {calibration}x{calibration} points of calibration are "
            "sampled in no frame; choose a smaller calibration"
        )
    centre = np.zeros_like(mean)
    centre[:, rows, columns] = mean[:, rows, columns]
    scale = float(np.abs(centre).max())
    if scale == 0:
        raise ValueError("kspace is zero in the calibration square")
    with warnings.catch_warnings():
        # SigPy imports CuPy, if installed, which may warn about CUDA.
        warnings.simplefilter("ignore")
        with needing("sigpy", "mri"):
            from sigpy.mri.app import EspiritCalib
        maps = EspiritCalib(
            centre / scale,
            calib_width=calibration,
            thresh=threshold,
            kernel_width=kernel,
            crop=crop,
            show_pbar=False,
        ).run()
    maps = np.nan_to_num(np.asarray(maps))  # SigPy divides by the first coil
    energy = np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    size = np.abs(maps[0])
    phase = np.where(size > 0, maps[0].conj() / np.where(size > 0, size, 1), 1)
    normalised = maps * phase / np.where(energy > 0, energy, 1)
    normalised[0] = np.abs(normalised[0])
    return normalised.astype(np.complex64)


def _time_average(
    data: NDArray, mask: ArrayLike | None
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Average each point over the frames that sample it; return mean and mask."""
    frames = data if data.ndim == 4 else data[None]
    grid = frames.shape[-2:]
    if mask is None:
        where = (frames != 0).any(axis=1)
    else:
        where = np.asarray(mask, dtype=bool)
        allowed = (grid, (len(frames), *grid))
        if where.shape not in allowed:
            raise ValueError(
                f"mask must have the shape {grid} or {allowed[1]}, got {where.shape}"
            )
    where = np.broadcast_to(where, (len(frames), *grid))
    total = np.einsum("tchw,thw->chw", frames, where.astype(np.float32))
    counts = where.sum(axis=0)
    return (total / np.maximum(counts, 1)).astype(np.complex64), counts > 0
