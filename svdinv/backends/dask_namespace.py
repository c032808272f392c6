"""array-api-compat's namespace for Dask, with decompositions of its chunks.

Everything is lazy. A matrix may be cut along its longer side: what is computed from
its Gram matrix is summed over the chunks, as Dask reduces.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
from array_api_compat.dask import array as compat

from svdinv.backends import numpy_namespace as blocks

writable = False


def __getattr__(name: str) -> Any:
    return getattr(compat, name)


def is_spread(A: Any) -> bool:
    return A.numblocks[-2:] != (1, 1)


def concat(arrays: Sequence[Any], *, axis: int) -> Any:
    """Join arrays, in one chunk along the axis where each of them is in one."""
    joined = compat.concat(arrays, axis=axis)
    whole = all(x.numblocks[axis] == 1 for x in arrays)
    return joined.rechunk({axis: -1}) if whole else joined


def _by_blocks(
    function: Any, A: Any, *results: tuple[str, Any], **sizes: int
) -> tuple[Any, ...] | Any:
    """Apply a function of matrices (m, n) to chunks that hold whole ones.

    `results` are the axes and dtype of each result, `sizes` the lengths of new axes.
    """
    if is_spread(A):
        raise ValueError(
            f"a matrix must be in one chunk here, got chunks {A.chunks}: "
            "A.rechunk({-2: -1, -1: -1}) joins those of an array A"
        )
    batch = A.ndim - 2
    # Without `meta`, Dask would find dtypes by a cast that warns of complex numbers.
    meta = tuple(
        np.empty((0,) * (batch + len(axes.split(",")) * bool(axes)), dtype)
        for axes, dtype in results
    )
    one = len(results) == 1
    return da.apply_gufunc(
        function,
        "(m,n)->" + ",".join(f"({axes})" for axes, _ in results),
        A,
        meta=meta[0] if one else meta,
        output_sizes=sizes,
    )


def _svd(A: Any, *, full_matrices: bool = True) -> tuple[Any, ...]:
    m, n = A.shape[-2:]
    if not is_spread(A):
        k, real = min(m, n), np.finfo(A.dtype).dtype
        left, right = ("m,m", "n,n") if full_matrices else ("m,k", "k,n")
        results = (left, A.dtype), ("k", real), (right, A.dtype)
        svd = partial(blocks.linalg.svd, full_matrices=full_matrices)
        return _by_blocks(lambda A: tuple(svd(A)), A, *results, k=k)
    if A.ndim > 2 or full_matrices:
        raise ValueError(
            "the SVD of a matrix in several chunks must be thin and without a batch, "
            f"got chunks {A.chunks}; A.rechunk({{-2: -1, -1: -1}}) joins them, and "
            'operators with method "auto" or "gram" need none'
        )
    if m < n:
        V, S, Uh = _svd(A.T, full_matrices=False)
        return Uh.T, S, V.T
    Q, R = da.linalg.qr(A)
    U, S, Vh = _svd(R, full_matrices=False)
    return Q @ U, S, Vh


def _eigh(A: Any) -> tuple[Any, ...]:
    real = np.finfo(A.dtype).dtype
    results = ("n", real), ("m,n", A.dtype)
    return _by_blocks(lambda A: tuple(blocks.linalg.eigh(A)), A, *results)


def _qr(A: Any) -> tuple[Any, ...]:
    if A.ndim == 2:
        return tuple(compat.linalg.qr(A))
    # Dask's own takes no batch.
    results = ("m,k", A.dtype), ("k,n", A.dtype)
    qr = blocks.linalg.qr
    return _by_blocks(lambda A: tuple(qr(A)), A, *results, k=min(A.shape[-2:]))


def _det(A: Any) -> Any:
    return _by_blocks(blocks.linalg.det, A, ("", A.dtype))


def tril(A: Any, *, k: int = 0) -> Any:
    """Lower triangle; Dask's own warns of complex numbers."""
    return _by_blocks(partial(np.tril, k=k), A, ("m,n", A.dtype))


def triu(A: Any, *, k: int = 0) -> Any:
    """Upper triangle."""
    return _by_blocks(partial(np.triu, k=k), A, ("m,n", A.dtype))


linalg = SimpleNamespace(
    det=_det,
    diagonal=compat.linalg.diagonal,
    eigh=_eigh,
    inv=da.linalg.inv,
    qr=_qr,
    solve=da.linalg.solve,
    svd=_svd,
)
