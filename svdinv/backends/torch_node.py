"""An operation as one node of a graph that PyTorch traces.

Dynamo, `torch.export` and `torch.jit.trace` would otherwise follow its array functions,
and lose its derivatives: the last two keep no `autograd.Function`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from svdinv.backends import torch_namespace as xp
from svdinv.backends.torch_kernels import memory
from svdinv.backends.torch_namespace import (
    autocasts,
    full_precision,
    rounds_products,
)
from svdinv.backends.torch_sharded import is_sharded
from svdinv.core.operation import Call, Operation, filled, in_front, padded, some
from svdinv.core.operation_text import from_text, to_text
from svdinv.core.spectral import SVDFactors
from svdinv.core.spectral_operations import Factorise
from svdinv.core.svd_operations import SVD
from svdinv.kernels import variants
from svdinv.kernels.memory import value


def is_kept() -> bool:
    """Whether a graph is traced that outlives this call of the function."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._get_tracing_state() is not None


def is_node(operation: Operation, x: Any) -> bool:
    """Whether this call is traced, and the operation becomes a node of the graph.

    A graph exported under `torch.no_grad` has none: it has values alone, and is made of
    PyTorch's own functions. For Dynamo there is none if a report of the gauge reads
    values, or if array functions do as well: without kernels, as on a GPU, and where
    PyTorch does not round products, as it does in a compiled backward pass in autocast.
    """
    if not torch.compiler.is_compiling():
        tracing = torch._C._get_tracing_state() is not None
        return tracing and (torch.is_grad_enabled() or _has_text(operation))
    if torch.compiler.is_exporting():
        return torch.is_grad_enabled()
    if getattr(operation, "gauge", "ignore") != "ignore":
        return False
    there = [t for t in x if t is not None]
    if any(is_sharded(t) for t in there):
        return False
    by_kernel = bool(variants()) and all(t.device.type == "cpu" for t in there)
    single = there[0].dtype in (torch.float32, torch.complex64)
    rounded = single and (autocasts() or rounds_products(there[0]))
    return (by_kernel or rounded) and _has_text(operation)


def _has_text(operation: Operation) -> bool:
    return to_text(operation, []) is not None


def as_node(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Call an operation as a node; see `svdinv.core.operation.Call`."""
    if operation.transparent:
        return operation.composed(x, as_node, xp)
    return _node_of(operation, *x)


def factors_by_node(operation: Operation, *x: Any) -> Any:
    """Make a node of an operation without derivatives; None where that cannot be.

    The factors of matrices are those of an SVD: only values tell whether others are
    accurate enough.
    """
    if not isinstance(operation, Factorise):
        return _node_of(operation, *x, constant=True)
    if operation.method not in ("auto", "svd"):
        return None
    operation = Factorise(operation.function, method="svd")
    return SVDFactors(*_node_of(operation, x[0], None, constant=True))


def _node_of(operation: Operation, *x: Any, constant: bool = False) -> tuple[Any, ...]:
    """Make a node of an operation; that of a transparent one has no derivative."""
    numbers: list[Any] = []
    text = to_text(operation, numbers)
    if text is None:
        raise TypeError(
            f"{operation!r} cannot be in a graph that keeps gradients: it holds a "
            "function or a class of other code than svdinv's. Trace it under "
            "torch.no_grad(), for values alone"
        )
    there = "".join("0" if t is None else "1" for t in x)
    kind = "constant" if constant else ""
    given = [t for t in x if t is not None]
    y = torch.ops.svdinv.operation(given, f"{there} {kind} {text}", numbers)
    return tuple(None if t.dtype == torch.bool else t for t in y)


def _read(name: str, numbers: Any) -> tuple[Operation, tuple[bool, ...], bool]:
    """Return the operation, which arguments are not None, and if it is constant."""
    there, kind, text = name.split(" ", 2)
    operation = from_text(text, tuple(float(number) for number in numbers))
    return operation, tuple(mark == "1" for mark in there), kind == "constant"


def _outputs(y: Any, like: Tensor) -> list[Tensor]:
    """Return outputs that share no memory, with an empty tensor of bool for None."""
    return [like.new_empty(0, dtype=torch.bool) if t is None else _own(t) for t in y]


def _own(t: Tensor) -> Tensor:
    t = t.resolve_conj().resolve_neg()
    if t._is_view() or not t.is_contiguous():
        return t.clone(memory_format=torch.contiguous_format)
    return t


@contextlib.contextmanager
def _lazy_views() -> Iterator[None]:
    """Make arithmetic respect lazy conjugates and negatives of tensors.

    PyTorch excludes their dispatch keys in the first run of a graph that it compiled.
    """
    keys = torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative
    excluded = [k for k in keys if torch._C._dispatch_tls_is_dispatch_key_excluded(k)]
    for key in excluded:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    try:
        yield
    finally:
        for key in excluded:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, True)


@torch.library.custom_op("svdinv::operation", mutates_args=())
def _node(x: list[Tensor], name: str, numbers: Sequence[float]) -> list[Tensor]:
    """Compute an operation."""
    # PyTorch would drop the tangents silently, and does not always show them here.
    if forward_ad._current_level >= 0:
        raise NotImplementedError("a traced operation of svdinv has no forward mode")
    operation, there, _ = _read(name, numbers)
    with _lazy_views(), full_precision(x[0]):
        return _outputs(value(operation, filled(x, there), memory, xp), x[0])


@_node.register_fake
def _(x: list[Tensor], name: str, numbers: Sequence[float]) -> list[Tensor]:
    operation, there, _ = _read(name, numbers)
    thin = isinstance(operation, SVD) and not operation.full_matrices
    if thin or isinstance(operation, Factorise):
        # By shapes alone, which may be symbols.
        (*batch, m, n), A = x[0].shape, x[0]
        k = torch.sym_min(m, n)
        S = A.new_empty((*batch, k), dtype=A.dtype.to_real())
        return [A.new_empty((*batch, m, k)), S, A.new_empty((*batch, k, n))]
    with full_precision(x[0]):
        return _outputs(operation.value(filled(x, there), xp), x[0])


def first(x: Any) -> Tensor:
    """Return the first tensor that is not None."""
    for t in x:
        if t is not None:
            return t
    raise ValueError("there is no tensor")


def cotangents(
    operation: Operation, x: Any, y: Any, g: Any, wanted: Any, call: Call
) -> tuple[Any, ...]:
    """Cotangents of all arguments, None for those that are zero or not `wanted`."""
    if not torch.compiler.is_compiling() and any(map(_is_batched, g)):
        return _of_batch(operation, x, y, g, wanted, call)
    with full_precision(first(g)):
        found = operation.cotangent(x, y, g, wanted, call, xp)
    pairs = zip(padded(found, len(wanted)), wanted, strict=True)
    return tuple(t if want else None for t, want in pairs)


def _is_batched(t: Tensor | None) -> bool:
    """Whether a tensor is one of `is_grads_batched`, by PyTorch's older vmap."""
    return t is not None and torch._C._functorch.is_legacy_batchedtensor(t)


def _of_batch(
    operation: Operation, x: Any, y: Any, g: Any, wanted: Any, call: Call
) -> tuple[Any, ...]:
    """Cotangents under PyTorch's older vmap, computed with the batch axis in front.

    That vmap silently drops the derivatives of a Function, and has no rule for custom
    operations.
    """
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    arrays = [*x, *y, *g]
    dims = [0 if _is_batched(t) else None for t in arrays]
    plain = [
        t if dim is None else torch._remove_batch_dim(t, level, 1, 0)
        for t, dim in zip(arrays, dims, strict=True)
    ]
    whole = iter(in_front(plain, dims, xp))
    x, y, g = (tuple(islice(whole, len(part))) for part in (x, y, g))
    found = cotangents(operation, x, y, g, wanted, call)
    return tuple(
        None if t is None else torch._add_batch_dim(t, 0, level) for t in found
    )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, name, numbers = inputs
    ctx.operation, ctx.there, ctx.constant = _read(name, numbers)
    ctx.numbers = len(numbers)
    ctx.set_materialize_grads(False)
    kept = x if ctx.operation.saves_inputs and not ctx.constant else ()
    ctx.inputs = len(kept)
    ctx.save_for_backward(*kept, *(output if ctx.operation.saves_outputs else ()))


def _pull(ctx: Any, g: Any) -> Any:
    operation, there = ctx.operation, ctx.there
    saved = ctx.saved_tensors
    x: Any = (None,) * len(there)
    if operation.saves_inputs and not ctx.constant:
        x = filled(saved[: ctx.inputs], there)
    y = tuple(None if t.dtype == torch.bool else t for t in saved[ctx.inputs :])
    wanted = filled(ctx.needs_input_grad[0], there)
    found: tuple[Any, ...] = (None,) * len(there)
    if some(*g) and not ctx.constant:
        call = as_node if torch.is_grad_enabled() else _node_of
        found = cotangents(operation, x, y, g, tuple(map(bool, wanted)), call)
    of_given = [t for t, given in zip(found, there, strict=True) if given]
    # PyTorch takes an empty list of numbers for a list of tensors.
    return of_given, None, None if ctx.numbers else []


_node.register_autograd(_pull, setup_context=_keep)


@_node.register_vmap
def _(info: Any, in_dims: Any, x: Any, name: str, numbers: Any) -> Any:
    y = _node(in_front(x, in_dims[0], xp), name, numbers)
    return y, [0] * len(y)
