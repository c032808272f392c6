"""Dask: the tape of `svdinv.backends.arrays` on lazy arrays."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np

from svdinv.backends import dask_namespace as xp
from svdinv.backends.arrays import ArrayBackend
from svdinv.backends.tape import untraced


class DaskBackend(ArrayBackend):
    """Dask arrays of known shape, whose values are never read."""

    def __init__(self) -> None:
        super().__init__(xp, False, np.linalg.LinAlgError, da.random.default_rng)

    def matrices(self, A: Any, name: str, ndim: int = 2, **options: Any) -> Any:
        A, restore = super().matrices(A, name, ndim, **options)
        shape, chunks = A.shape, untraced(A).chunks
        if any(math.isnan(size) for size in shape):
            raise ValueError(
                f"{name} must have a known shape, got {shape}: call "
                f"{name}.compute_chunk_sizes()"
            )
        if ndim < 2:  # right-hand sides, which occur only in products
            return A, restore
        axis = -1 if shape[-2] >= shape[-1] else -2
        if len(chunks[axis]) > 1:
            raise ValueError(
                f"{name} must be in one chunk along its shorter side, got chunks "
                f"{chunks}: call {name}.rechunk({{{axis}: -1}})"
            )
        return A, restore
