"""Named tuples that operators return.

The stub beside this file makes them generic in the framework's type of array.
"""

from __future__ import annotations

from typing import NamedTuple

from svdinv.core.namespace import Array

__all__ = [
    "Alignment",
    "Correlations",
    "EighResult",
    "LowRankAndSparse",
    "SVDResult",
    "Similarity",
    "Whitened",
]


class SVDResult(NamedTuple):
    """Factors of A = U diag(S) Vh."""

    U: Array
    S: Array
    Vh: Array


class EighResult(NamedTuple):
    """Factors of A = V diag(w) V^H."""

    w: Array
    V: Array


class Alignment(NamedTuple):
    """Rigid motion x -> R x + t, and the distance that remains."""

    rotation: Array
    translation: Array
    rmsd: Array


class Similarity(NamedTuple):
    """Similarity x -> c R x + t, and the distance that remains."""

    rotation: Array
    translation: Array
    rmsd: Array
    scale: Array


class LowRankAndSparse(NamedTuple):
    """A matrix of low rank and a sparse one, which add up to the data."""

    low_rank: Array
    sparse: Array


class Whitened(NamedTuple):
    """Features of covariance 1, and the statistics used to make them."""

    white: Array
    mean: Array
    covariance: Array


class Correlations(NamedTuple):
    """Canonical correlations, and the weights of the features that have them."""

    correlations: Array
    x_weights: Array
    y_weights: Array
