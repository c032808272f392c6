# Written by `make stubs` (tools/stubs.py): change what that reads.
"""Named tuples that operators return.

The stub beside this file makes them generic in the framework's type of array.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

Array = TypeVar("Array")

__all__ = [
    "Alignment",
    "Correlations",
    "EighResult",
    "LowRankAndSparse",
    "SVDResult",
    "Similarity",
    "Whitened",
]

class SVDResult(NamedTuple, Generic[Array]):
    """Factors of A = U diag(S) Vh."""

    U: Array
    S: Array
    Vh: Array

class EighResult(NamedTuple, Generic[Array]):
    """Factors of A = V diag(w) V^H."""

    w: Array
    V: Array

class Alignment(NamedTuple, Generic[Array]):
    """Rigid motion x -> R x + t, and the distance that remains."""

    rotation: Array
    translation: Array
    rmsd: Array

class Similarity(NamedTuple, Generic[Array]):
    """Similarity x -> c R x + t, and the distance that remains."""

    rotation: Array
    translation: Array
    rmsd: Array
    scale: Array

class LowRankAndSparse(NamedTuple, Generic[Array]):
    """A matrix of low rank and a sparse one, which add up to the data."""

    low_rank: Array
    sparse: Array

class Whitened(NamedTuple, Generic[Array]):
    """Features of covariance 1, and the statistics used to make them."""

    white: Array
    mean: Array
    covariance: Array

class Correlations(NamedTuple, Generic[Array]):
    """Canonical correlations, and the weights of the features that have them."""

    correlations: Array
    x_weights: Array
    y_weights: Array
