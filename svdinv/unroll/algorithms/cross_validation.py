"""Data that are left out of a reconstruction, to judge it by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.arrays import Array, cast_like, namespace
from svdinv.unroll.fidelity import L2
from svdinv.unroll.problem import Problem

LEAST = 20
"""Data of which some can be left out."""

_LARGE = 3.0  # times the 90th percentile
_FEW = 0.03  # share of the data that may be too large to be left out


def held_out(
    y: NDArray[Any], measured: NDArray[Any], share: float, seed: int
) -> NDArray[Any]:
    """Draw a share of the data that are measured, as a bool array.

    Evenly, but for the few that are far larger than the others, such as the middle of
    k-space: without them the image is another one, and they alone would be the error.
    Raises ValueError if there are fewer than `LEAST` data.
    """
    count = int(np.count_nonzero(measured))
    if count < LEAST:
        raise ValueError(f"to leave some out takes at least {LEAST} data, got {count}")
    sizes = np.abs(y)
    usual, most = np.quantile(sizes[measured], [0.9, 1 - _FEW])
    # Without the second, all of a bright object on a dark ground would be fitted.
    small = sizes <= max(_LARGE * (usual or np.inf), most)
    return drawn(measured & small, share, np.random.default_rng([seed, 1]))


def drawn(
    where: NDArray[Any], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a share of the places where a bool array is true, one at least."""
    places = np.flatnonzero(where)
    held = np.zeros(where.shape, bool)
    held.flat[rng.permutation(places)[: max(1, round(share * len(places)))]] = True
    return held


def restricted(problem: Problem, kept: Array, weight: Any = None) -> Problem:
    """Restrict a least-squares problem to the data that are kept.

    `kept`, of the real dtype of the data, is 1 there and 0 elsewhere; `weight` is that
    of all data, if they have some.
    """
    if hasattr(weight, "dtype"):
        weight = cast_like(weight, kept, namespace(kept))
    return replace(problem, fidelity=L2(kept if weight is None else weight * kept))
