"""PyTorch's small matrices on the CPU, by the kernels of `svdinv.kernels`."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter

from svdinv.kernels import Layout, operations, variants

__all__ = [
    "TorchMemory",
    "decomposes_quickly",
    "eigh",
    "is_eager_cpu",
    "svd",
    "tall_values",
    "tall_vectors",
]


def is_eager_cpu(*x: Tensor | None) -> bool:
    """Tell whether all arrays are on the CPU and hold numbers now."""
    c = torch._C
    if (
        torch.compiler.is_compiling()
        or c._functorch.peek_interpreter_stack() is not None
        # What traces or watches one thread does not see the others.
        or c._get_tracing_state() is not None
        or c._len_torch_dispatch_stack() != 0
        or c._len_torch_function_stack() != 0
    ):
        return False
    recorded = torch.is_grad_enabled()
    for t in x:
        if t is not None and (
            type(t) not in (Tensor, Parameter)
            or not t.is_cpu
            or t.layout is not torch.strided
            or (recorded and t.requires_grad)
        ):
            return False
    return True


class TorchMemory:
    """See `svdinv.kernels.operations.Memory`."""

    def suits(self, *x: Tensor | None) -> bool:
        if not is_eager_cpu(*x):
            return False
        try:
            # PyTorch's zero tensors, and storage that was freed, have no address.
            return all(t is None or t.data_ptr() for t in x)
        except RuntimeError:  # batched by the older vmap of is_grads_batched
            return False

    def dtype(self, x: Tensor) -> str:
        return _NAMES.get(x.dtype, "")

    def flat(self, x: Tensor, axes: int) -> tuple[Tensor, Layout]:
        if x.is_neg() or x.is_conj():
            x = x.resolve_conj().resolve_neg()
        steps = x.stride()
        lead = len(steps) - axes
        matrix = steps[lead - 1] if lead else 0
        if lead > 1:
            if not x.is_contiguous():
                x = x.reshape(prod(x.shape[:lead]), *x.shape[lead:])
                steps = x.stride()
                matrix = steps[0]
            else:  # where the step along an axis of length 1 may be any number
                matrix = prod(x.shape[lead:])
        if x.is_complex():
            matrix, steps = 2 * matrix, [2 * step for step in steps]
        row = steps[-2] if axes == 2 else 0
        return x, (x.data_ptr(), matrix, row, steps[-1])

    def empty(
        self, shape: tuple[int, ...], dtype: str, *, real: bool = False
    ) -> tuple[Tensor, int]:
        x = torch.empty(shape, dtype=(_REALS if real else _DTYPES)[dtype])
        return x, x.data_ptr()

    def threads(self) -> int:
        return torch.get_num_threads()


_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}
_REAL = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_REALS = {name: _REAL[dtype] for dtype, name in _NAMES.items()}
memory = TorchMemory()


def decomposes_quickly(A: Tensor) -> bool:
    """See `svdinv.core.namespace`."""
    return operations.takes(A, memory)


def _aligned(U: Tensor, S: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give factors the strides that the kernels give them."""
    return U.mT.contiguous().mT, S, Vh.contiguous()


def tall_values(A: Tensor) -> tuple[Tensor, ...] | None:
    """See `svdinv.core.namespace`."""
    return operations.tall_values(A, memory)


def tall_vectors(A: Tensor, W: Tensor) -> Tensor:
    """See `svdinv.kernels.operations`."""
    return operations.tall_vectors(A, W, memory)


@torch.library.custom_op("svdinv::svd", mutates_args=())
def _traced_svd(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD as one node of a traced graph."""
    return operations.svd(A, memory) or _aligned(
        *torch.linalg.svd(A, full_matrices=False)
    )


@_traced_svd.register_fake
def _(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    *batch, m, n = A.shape
    k = torch.sym_min(m, n)
    S = A.new_empty((*batch, k), dtype=_REAL[A.dtype])
    return A.new_empty((*batch, k, m)).mT, S, A.new_empty((*batch, k, n))


@torch.library.custom_op("svdinv::eigh", mutates_args=())
def _traced_eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition as one node of a traced graph."""
    found = operations.eigh(A, memory)
    if found is None:
        w, V = torch.linalg.eigh(A)
        return w, V.mT.contiguous().mT
    return found


@_traced_eigh.register_fake
def _(A: Tensor) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape[:-1], dtype=_REAL[A.dtype]), A.new_empty(A.shape).mT


def _traces(A: Tensor) -> bool:
    """Tell whether a graph for the CPU is traced, where the kernels are at hand."""
    return (
        torch.compiler.is_compiling()
        and A.device.type == "cpu"
        and A.dtype in _NAMES
        and bool(variants())
    )


def svd(A: Tensor, *, full_matrices: bool = True) -> tuple[Tensor, ...]:
    """Singular value decomposition, as `torch.linalg.svd`."""
    if not full_matrices and _traces(A):
        return _traced_svd(A)
    if not full_matrices or A.shape[-2] == A.shape[-1]:
        factors = operations.svd(A, memory)
        if factors is not None:
            return factors
    # Which also says what is wrong with a matrix.
    return torch.linalg.svd(A, full_matrices=full_matrices)


def eigh(A: Tensor) -> tuple[Tensor, ...]:
    """Eigendecomposition of Hermitian matrices, as `torch.linalg.eigh`."""
    if _traces(A):
        return _traced_eigh(A)
    factors = operations.eigh(A, memory)
    return torch.linalg.eigh(A) if factors is None else factors
