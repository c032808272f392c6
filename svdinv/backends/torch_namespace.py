"""array-api-compat's namespace for PyTorch, with some of PyTorch's own functions.

array-api-compat's conjugate copies, which costs an array for every adjoint; its
conjugate, transpose and diagonal do not work in all of PyTorch's ways of batching
gradients. The other functions here save a promotion of dtypes that is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from array_api_compat import torch as compat
from array_api_compat.torch import *  # noqa: F403
from array_api_compat.torch import fft, finfo, isdtype
from torch import Tensor, any, conj, sum, where
from torch import amax as max
from torch import movedim as moveaxis  # `torch.moveaxis` cannot be batched

from svdinv.backends.torch_kernels import (
    clusters,
    decomposes_quickly,
    eigh,
    is_eager_cpu,
    multiplies_quickly,
    qr,
    runs_kernels,
    svd,
    svdvals,
)
from svdinv.backends.torch_sharded import all_reduce, is_spread, on_each_device

writable = True


_F = TypeVar("_F", bound=Callable[..., Any])
_NOTHING = nullcontext()
_SAFE_ROWS = 64  # of matrices that LU factorizes side by side
_ROUNDED = {"tf32": 2.0**-10, "bf16": 2.0**-7}  # to which eps
_lock, _users = Lock(), {"cuda": 0, "mkldnn": 0}
_before: dict[str, tuple[str, str]] = {}  # what was set, and what held


def constant(f: _F) -> _F:
    """Mark a function whose result is constant in a traced graph.

    `torch.compiler.assume_constant_result` would import Dynamo, which takes as long as
    importing PyTorch.
    """
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


def _library(x: Tensor) -> str:
    """Name of the library of products, cuBLAS or oneDNN, in PyTorch's settings."""
    return "cuda" if x.is_cuda else "mkldnn"


def _precision(library: str) -> str:
    return torch._C._get_fp32_precision_getter(library, "matmul")


def _set_precision(library: str, precision: str) -> None:
    torch._C._set_fp32_precision_setter(library, "matmul", precision)


def _own_precision(library: str) -> str:
    """Precision set for products by a library itself; "none" where it is inherited."""
    found = _precision(library)
    _set_precision(library, "none")
    return "none" if _precision(library) == found else found


@constant
def _is_rounded(library: str) -> bool:
    return _precision(library) in _ROUNDED


def rounds_products(x: Tensor) -> bool:
    """Whether PyTorch is set to round what it multiplies, as by TensorFloat-32."""
    return _is_rounded(_library(x))


_LIBRARIES = ("mkldnn", "cuda") if torch.version.cuda else ("mkldnn",)


@constant
def may_round() -> bool:
    """Whether PyTorch, apart from autocast, may round products of some tensor."""
    for library in _LIBRARIES:
        if _users[library] or _precision(library) in _ROUNDED:
            return True
    return False


@contextmanager
def _unrounded(library: str, inner: AbstractContextManager[Any]) -> Iterator[None]:
    """Set the precision of products for all threads, until the last of them is done."""
    with _lock:
        # Counted whenever the setting may hold: other threads read the count unlocked.
        _users[library] += 1
        if _users[library] == 1:
            held = _precision(library)
            _before[library] = _own_precision(library), held
            _set_precision(library, "ieee")
    try:
        with inner:
            yield
    finally:
        with _lock:
            if _users[library] == 1:
                _set_precision(library, _before.pop(library)[0])
            _users[library] -= 1


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Keep products of single precision from being rounded to fewer digits.

    Autocast and TensorFloat-32 do that. Their errors, divided by gaps of singular
    values, would be the errors of derivatives.
    """
    wide = _NOTHING
    if torch._C._is_any_autocast_enabled():
        device = x.device.type
        known = torch.amp.is_autocast_available(device)
        if known and torch.is_autocast_enabled(device):
            wide = torch.autocast(device, enabled=False, cache_enabled=False)
    if torch.compiler.is_compiling():  # the precision is set when the graph runs
        return wide
    library = _library(x)
    if not (_users[library] or _is_rounded(library)):
        return wide
    return _unrounded(library, wide)


def autocasts() -> bool:
    """Whether autocast is on around an operator, inside of which it is off.

    Autocast rounds a backward pass within it, and every backward pass of functions
    compiled within it, even where the user turned it off again. Its cache is off where
    `full_precision` turned autocast off.
    """
    if not torch.is_autocast_cache_enabled():
        return True
    return torch.compiler.is_compiling() and _is_nested()


@constant
def _is_nested(least: int = 1) -> bool:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting() >= least


def eps_of_products(A: Tensor, inside: bool = False) -> float | None:
    """Eps to which products around an operator are rounded; None if that of A.

    Autocast may round them, if `inside` that around the `full_precision` of the
    operator, and on a GPU TensorFloat-32.
    """
    if A.dtype not in (torch.float32, torch.complex64):
        return None
    around = inside and autocasts() and _is_nested(2)
    if (around or torch._C._is_any_autocast_enabled()) and not A.is_complex():
        device = A.device.type
        known = torch.amp.is_autocast_available(device)
        if known and (around or torch.is_autocast_enabled(device)):
            return _eps_of_autocast(device)
    return _eps_of_cuda() if A.is_cuda else None


@constant
def _eps_of_autocast(device: str) -> float:
    return torch.finfo(torch.get_autocast_dtype(device)).eps


@constant
def _eps_of_cuda() -> float | None:
    with _lock:
        held = _before["cuda"][1] if _users["cuda"] else _precision("cuda")
    return _ROUNDED.get(held)


def guarded(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return A and B in one batch shape if PyTorch may round A B's derivative."""
    if not (autocasts() or may_round()):
        return None
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    return A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:])


def may_ask() -> bool:
    """Whether code may depend on values: not while a graph is traced."""
    return not (torch.compiler.is_compiling() or torch._C._get_tracing_state())


_MODES = torch._C._TorchDispatchModeKey
_TRACERS = _MODES.FAKE, _MODES.PROXY, _MODES.FUNCTIONAL


def _has_values(x: Tensor) -> bool:
    """Whether `x` is on the CPU and has values, unlike a symbol of a tracer."""
    if not x.is_cpu or not may_ask():
        return False
    if torch._C._len_torch_dispatch_stack():  # there may be modes that only watch
        for mode in _TRACERS:
            if torch._C._get_dispatch_mode(mode) is not None:
                return False
    return not hasattr(x, "fake_mode")


def any_on_host(mask: Tensor) -> bool | None:
    if not _has_values(mask):
        return None
    try:
        return mask.any().item()
    except RuntimeError:  # under vmap, or a fake tensor: there is no value
        return None


def numbers(x: Tensor) -> list[float] | None:
    if not _has_values(x):
        return None
    try:
        return x.reshape(-1).tolist()
    except RuntimeError:  # as above
        return None


def triangle(A: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    if not A.is_cpu:
        return None
    reflections, scales = torch.geqrf(A)
    n = A.shape[-1]

    def multiplied(X: Tensor) -> Tensor:
        below = X.new_zeros((*A.shape[:-2], A.shape[-2] - n, X.shape[-1]))
        return torch.ormqr(reflections, scales, torch.cat((X, below), dim=-2))

    return reflections[..., :n, :].triu(), multiplied


def on_host(report: Callable[[Tensor], None], x: Tensor) -> None:
    """Report the values of `x`, unwrapped from torch.func, with batch axes first."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    with torch._C._DisableFuncTorch():
        report(x.detach())


def stop_gradient(x: Tensor) -> Tensor:
    return x.detach()


def matrix_transpose(x: Tensor) -> Tensor:
    """Transpose the last two axes."""
    return x.mT


def imag(x: Tensor) -> Tensor:
    """Imaginary part; for a conjugate, PyTorch's is a view that cannot be batched."""
    if torch.compiler.is_compiling():  # Dynamo knows no `is_conj`, nor batches here
        return x.imag
    return -x.conj().imag if x.is_conj() else x.imag


def concat(arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along an axis; `torch.concat` cannot be batched in forward mode."""
    return torch.cat(tuple(arrays), dim=axis)


def cumulative_sum(x: Tensor, *, axis: int = 0) -> Tensor:
    """Sum of the elements up to each one, along an axis.

    In array-api-compat's function, Dynamo warns of a constant.
    """
    return torch.cumsum(x, axis)


def add_product(C: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Add A B to C in place, without an array for the product."""
    simple = is_eager_cpu(A, B, C) and A.ndim == B.ndim == C.ndim > 1
    simple = simple and C.is_contiguous() and C.numel() > 0
    if not simple:
        return C + A @ B
    if C.ndim == 2:
        return C.addmm_(A, B)
    batches = (x.reshape(-1, *x.shape[-2:]) for x in (C, A, B))
    flat, A, B = batches
    flat.baddbmm_(A, B)
    return C


tril, triu = on_each_device(compat.tril, "tril"), on_each_device(compat.triu, "triu")


def _diagonal(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1)


def _one_by_one(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a function that factorizes by LU to one large matrix at a time on the CPU.

    After `torch.set_num_threads`, PyTorch lets MKL factorize several matrices at once,
    and with 150 rows or more gets wrong factors or waits for ever (its issue 142815).
    """

    def of_each(A: Tensor) -> Tensor:
        *batch, rows, _ = A.shape
        if A.device.type != "cpu" or rows <= _SAFE_ROWS or math.prod(batch) <= 1:
            return f(A)
        y = torch.stack([f(x) for x in A.reshape(-1, rows, rows)])
        return y.reshape(*batch, *y.shape[1:])

    return of_each


linalg = SimpleNamespace(
    det=_one_by_one(torch.linalg.det),
    diagonal=on_each_device(_diagonal, "diagonal"),
    eigh=on_each_device(eigh, "eigh"),
    inv=_one_by_one(torch.linalg.inv),
    qr=on_each_device(qr, "qr"),
    svd=on_each_device(svd, "svd"),
    svdvals=svdvals,
)
