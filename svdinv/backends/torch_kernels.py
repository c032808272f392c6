"""PyTorch's decompositions: small ones on the CPU by kernels, on GPUs by cuSOLVER."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from array_api_compat import torch as compat
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from svdinv.core.approximate import svd_by_approximation, svd_in_double
from svdinv.core.gram import in_double
from svdinv.core.guarded import independent, marked
from svdinv.core.hermitian_operations import Eigh
from svdinv.core.operation import Operation
from svdinv.core.svd_operations import SVD
from svdinv.kernels import memory as by_memory
from svdinv.kernels import variants


def is_eager_cpu(*x: Tensor | None) -> bool:
    """Whether all arrays are on the CPU and have values now."""
    return memory.key(x) is not None


def is_eager() -> bool:
    """Whether nothing traces, transforms or watches what is computed."""
    c = torch._C
    return not (
        torch.compiler.is_compiling()
        or c._functorch.peek_interpreter_stack() is not None
        # What traces or watches one thread does not see the others.
        or c._get_tracing_state() is not None
        or c._len_torch_dispatch_stack()
        or c._len_torch_function_stack()
    )


class TorchMemory:
    """See `svdinv.kernels.memory.Memory`."""

    in_double = False

    def own(self, operation: Operation) -> Callable[..., Any] | None:
        if isinstance(operation, SVD):
            return partial(_own_svd, operation.full_matrices)
        if isinstance(operation, Eigh) and operation.triangle == "L":
            return _own_eigh
        return None

    def key(self, x: Any) -> Hashable:
        if not is_eager():
            return None
        recorded = torch.is_grad_enabled()
        found: list[Any] = []
        try:
            for t in x:
                if t is None:
                    found.append(None)
                    continue
                if (
                    type(t) not in _TYPES
                    or not t.is_cpu
                    or t.layout is not torch.strided
                    or (recorded and t.requires_grad)
                    # PyTorch's zero tensors, and freed storage, have no address.
                    or not (address := t.data_ptr())
                    or address % t.itemsize  # of a NumPy array that is not aligned
                ):
                    return None
                found += t.dtype, t.shape, t.stride(), t.is_conj() or t.is_neg()
        except RuntimeError:  # batched by the older vmap of is_grads_batched
            return None
        return tuple(found)

    def dtype(self, x: Tensor) -> str:
        return _NAMES.get(x.dtype, "")

    def resolved(self, x: Tensor) -> Tensor:
        return x.resolve_conj().resolve_neg() if x.is_conj() or x.is_neg() else x

    def contiguous(self, x: Tensor) -> Tensor:
        return self.resolved(x).contiguous()

    def strides(self, x: Tensor) -> tuple[int, ...]:
        parts = 2 if x.is_complex() else 1
        return tuple(parts * step for step in x.stride())

    address = staticmethod(Tensor.data_ptr)
    threads = staticmethod(torch.get_num_threads)

    def empty(
        self, shape: tuple[int, ...], dtype: str, transposed: bool
    ) -> Callable[[], Tensor]:
        steps: list[int] = []
        size = 1
        for length in reversed(shape):
            steps.insert(0, size)
            size *= length
        if transposed:
            steps[-2:] = 1, shape[-2]
        return partial(torch.empty_strided, shape, steps, dtype=_DTYPES[dtype])


def _own_svd(full_matrices: bool, x: Any, *_: Any) -> tuple[Tensor, ...]:
    # LAPACK does not always report infinity: it may return finite vectors, and
    # functions that drop small values would hide the NaN in S.
    factors = torch.linalg.svd(x[0], full_matrices=full_matrices)
    if math.isfinite(factors.S.sum().item()):
        return tuple(factors)
    return marked(x[0], tuple(factors), compat)


def _own_eigh(x: Any, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.linalg.eigh(x[0]))


_TYPES = Tensor, Parameter
_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
memory = TorchMemory()


def decomposes_quickly(A: Tensor) -> bool:
    return by_memory.decomposes(A, memory)


def clusters(*x: Any) -> Tensor | None:
    return by_memory.clusters(memory, torch, *x)


# Bytes of one product up to which a kernel is faster, and elements of both factors from
# which the gain exceeds the cost of a call by autograd.
_MOST_BYTES, _LEAST_ELEMENTS = 1152, 2**15


def runs_kernels(*x: Tensor) -> bool:
    """Whether kernels may run on these tensors, even if autograd records them."""
    eager = is_eager() and forward_ad._current_level < 0 and bool(variants())
    return eager and all(type(t) in _TYPES and t.is_cpu for t in x)


def multiplies_quickly(A: Tensor, B: Tensor) -> bool:
    """Whether kernels multiply A by B: PyTorch is slow at products of tiny matrices."""
    if not runs_kernels(A, B) or A.ndim < 3 or A.shape[:-2] != B.shape[:-2]:
        return False
    (m, k), n = A.shape[-2:], B.shape[-1]
    small = (m * k + k * n + m * n) * A.element_size() <= _MOST_BYTES
    return small and A.numel() + B.numel() >= _LEAST_ELEMENTS


def svd(A: Tensor, *, full_matrices: bool = True) -> tuple[Tensor, ...]:
    """Singular value decomposition, as `torch.linalg.svd`."""
    thin = not full_matrices or A.shape[-2] == A.shape[-1]
    if thin:
        factors = by_memory.decomposition("svd", A, memory)
        if factors is not None:
            return factors
        if suits_approximation(A):
            return svd_by_approximation(A, _approximate_svd, _thin_svd, compat)
        if _is_single_on_gpu(A):
            return svd_in_double(A, _thin_svd, compat)
    factors = tuple(torch.linalg.svd(A, full_matrices=full_matrices))
    if torch.compiler.is_exporting():
        # U comes in column order. To sort its strides, an export would need the number
        # of rows, which is to stay unknown.
        factors = tuple(x.contiguous() for x in factors)
    # As in `_own_svd`, but without reading values. `vmap` has no rule for `isfinite` of
    # a lazy conjugate.
    return marked(A.resolve_conj(), factors, compat)


# cuSOLVER's Jacobi iteration decomposes a batch at once for sides up to the first
# number. It is as fast as the approximation with its check if the sides of all matrices
# add up to less than the second.
_BATCHED_SIDE, _SUM_OF_SIDES = 32, 256


def suits_approximation(A: Tensor) -> bool:
    """Whether cuSOLVER's approximate SVD, with its check, is the faster one."""
    if not _is_single_on_gpu(A):  # before any size, which may be a symbol
        return False
    short, count = min(A.shape[-2:]), math.prod(A.shape[:-2])
    return short > _BATCHED_SIDE and short * count >= _SUM_OF_SIDES


def _is_single_on_gpu(A: Tensor) -> bool:
    """Whether A has values in single precision now, and cuSOLVER is to decompose it."""
    if not A.is_cuda or A.dtype not in (torch.float32, torch.complex64):
        return False
    recorded = torch.is_grad_enabled() and A.requires_grad
    if type(A) not in _TYPES or recorded or not is_eager() or not A.numel():
        return False
    preferred = torch.backends.cuda.preferred_linalg_library()
    return torch.version.cuda is not None and preferred != torch._C._LinalgBackend.Magma


def _approximate_svd(A: Tensor) -> tuple[Tensor, ...] | None:
    try:
        return tuple(torch.linalg.svd(A, full_matrices=False, driver="gesvda"))
    # PyTorch may warn that it uses another driver; the warning may be an error.
    except (torch.linalg.LinAlgError, UserWarning):
        return None


def _thin_svd(A: Tensor) -> tuple[Tensor, ...]:
    return marked(A, tuple(torch.linalg.svd(A, full_matrices=False)), compat)


def svdvals(A: Tensor) -> Tensor:
    """Singular values, as `torch.linalg.svdvals`."""
    if suits_approximation(A):
        return svd(A, full_matrices=False)[1]
    single = _is_single_on_gpu(A)  # as `svd_in_double`
    S = torch.linalg.svdvals(in_double(A, compat) if single else A)
    return marked(A, (S.float() if single else S,), compat)[0] if A.is_cuda else S


def eigh(A: Tensor) -> tuple[Tensor, ...]:
    """Eigendecomposition of Hermitian matrices, as `torch.linalg.eigh`."""
    factors = by_memory.decomposition("eigh", A, memory)
    if factors is not None:
        return factors
    found = tuple(torch.linalg.eigh(A))
    return marked(A.tril(), found, compat) if A.is_cuda else found


def qr(A: Tensor) -> tuple[Tensor, ...]:
    """Reduced QR decomposition, as `torch.linalg.qr`."""
    return tuple(torch.linalg.qr(independent(A, compat) if A.is_cuda else A))
