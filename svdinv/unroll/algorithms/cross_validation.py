"""Cross-validation of reconstructions on held-out data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.arrays import Array, cast_like, namespace
from svdinv.unroll.fidelity import L2
from svdinv.unroll.problem import Problem

LEAST = 20
"""Minimum number of data, so that some can be held out."""

_LARGE = 3.0  # times the 90th percentile
_FEW = 0.03  # largest share of the data that is kept for being too large


def held_out(
    y: NDArray[Any], measured: NDArray[Any], share: float, seed: int
) -> NDArray[Any]:
    """Draw a random share of the measured data, as a bool array.

    All data have equal probability, except the few that are much larger than the
    others, such as the centre of k-space, which are always kept: the reconstruction
    needs them. Raises ValueError if there are fewer than `LEAST` data.
    """
    count = int(np.count_nonzero(measured))
    if count < LEAST:
        raise ValueError(f"holding out needs at least {LEAST} data, got {count}")
    sizes = np.abs(y)
    common, limit = np.quantile(sizes[measured], [0.9, 1 - _FEW])
    # Without the second limit all of a bright object on dark ground would be kept.
    small = sizes <= max(_LARGE * (common or np.inf), limit)
    return drawn(measured & small, share, np.random.default_rng([seed, 1]))


def drawn(
    where: NDArray[Any], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a share of the true elements of a bool array, at least one."""
    places = np.flatnonzero(where)
    held = np.zeros(where.shape, bool)
    held.flat[rng.permutation(places)[: max(1, round(share * len(places)))]] = True
    return held


def restricted(problem: Problem, kept: Array, weight: Any = None) -> Problem:
    """Restrict a least-squares problem to the data that are kept.

    `kept` is 1 for them, else 0, in the real dtype; `weight` is that of all data.
    """
    if hasattr(weight, "dtype"):
        weight = cast_like(weight, kept, namespace(kept))
    return replace(problem, fidelity=L2(kept if weight is None else weight * kept))
