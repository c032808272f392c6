"""array-api-compat's namespace for PyTorch, with some of PyTorch's own functions.

The conjugate there copies, which costs an array for every adjoint; neither it nor the
transpose and the diagonal work in all of PyTorch's ways of batching gradients. The
others do what is asked of them here without promoting dtypes first.
"""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import torch
from array_api_compat.torch import *  # noqa: F403
from array_api_compat.torch import fft, finfo, isdtype
from torch import Tensor, any, conj, sum, where
from torch import amax as max

from svdinv.backends.torch_threads import is_plain, over_threads

__all__ = [
    "add_product",
    "any",
    "concat",
    "conj",
    "fft",
    "finfo",
    "isdtype",
    "linalg",
    "matrix_transpose",
    "max",
    "sum",
    "where",
]


def matrix_transpose(x: Tensor) -> Tensor:
    """Transpose the last two axes."""
    return x.mT


def concat(arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along an axis; `torch.concat` cannot be batched in forward mode."""
    return torch.cat(tuple(arrays), dim=axis)


def add_product(C: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Add A B to C in place, without an array for the product."""
    simple = (
        is_plain(C)
        and is_plain(A)
        and is_plain(B)
        and A.ndim == B.ndim == C.ndim > 1
        and C.is_contiguous()
    )
    if not simple:
        return C + A @ B
    if C.ndim == 2:
        return C.addmm_(A, B)
    batches = (x.reshape(-1, *x.shape[-2:]) for x in (C, A, B))
    flat, A, B = batches
    flat.baddbmm_(A, B)
    return C


def _diagonal(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1)


def _eigh(x: Tensor) -> tuple[Tensor, ...]:
    return over_threads(torch.linalg.eigh, x)


def _svd(x: Tensor, *, full_matrices: bool) -> tuple[Tensor, ...]:
    return over_threads(partial(torch.linalg.svd, full_matrices=full_matrices), x)


linalg = SimpleNamespace(
    det=torch.linalg.det,
    diagonal=_diagonal,
    eigh=_eigh,
    qr=torch.linalg.qr,
    svd=_svd,
)
