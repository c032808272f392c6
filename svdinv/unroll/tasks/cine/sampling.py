"""How the k-space of a series is sampled: patterns, masks, problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.masks import (
    equispaced_mask,
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem

# A pattern is a line in both, and nothing elsewhere. From the shape (T, H, W), the
# acceleration and randomness to a mask.
_MASKS: Mapping[str, Callable[..., NDArray[np.bool_]]] = {
    "radial": lambda shape, rate, rng: radial_mask(
        shape, max(1, round(sum(shape[1:]) / 2 / rate)), rng=rng
    ),
    "variable-density": lambda shape, rate, rng: variable_density_mask(
        shape, 1 / rate, rng
    ),
    "vista": vista_like_mask,
    "equispaced": lambda shape, rate, rng: equispaced_mask(shape, rate, rng=rng),
}

PATTERNS: Mapping[str, str] = {
    "radial": "golden-angle lines in each frame, an eighth of its rows: 16 of 128",
    "variable-density": "1/8 of the points, most of them near the centre",
    "vista": "1/8 of the phase-encode lines, spread over k-space and time",
    "equispaced": "1/8 of the phase-encode lines at equal distances, moved each frame",
}
"""Names of the sampling patterns, and what they are."""

MASKS = ("radial", "variable-density", "vista")
"""Those that are evaluated, and trained on unless a configuration says more."""

OF_SERIES = ("vista", "equispaced")
"""Those whose frames fill each other's gaps: of one frame the centre may be missing."""

ACCELERATION = 8
"""One part in this many of k-space is sampled, unless something is said."""


def sampling(
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    acceleration: float = ACCELERATION,
) -> NDArray[np.bool_]:
    """Draw a sampling pattern of `PATTERNS`, bool (T, H, W), true where sampled.

    One part in `acceleration` of k-space is sampled; of radial lines as many are taken
    as that is of the rows. Raises ValueError if there is no such pattern, or nothing
    would be left.
    """
    if name not in PATTERNS:
        raise ValueError(f"mask must be one of {', '.join(PATTERNS)}, got {name!r}")
    return _MASKS[name](shape, acceleration, rng)


def sampled(
    name: str,
    series: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    maps: NDArray[np.complex64] | None = None,
) -> Problem:
    """Sample the k-space of a complex series (T, H, W), by coils with maps (C, H, W).

    The problem has k-space (T, H, W), or (T, C, H, W) with maps.
    """
    A = MRI(mask, maps)
    return Problem(A(series).astype(np.complex64), A, truth=series, name=name)
