"""How PyTorch calls an operation: eagerly, inside transforms, and in traced graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from svdinv.backends import torch_namespace as xp
from svdinv.backends.torch_kernels import is_eager, memory
from svdinv.backends.torch_namespace import constant, full_precision
from svdinv.backends.torch_node import as_node, cotangents, first, is_node
from svdinv.core.operation import Operation, in_front, padded, some
from svdinv.kernels.memory import by_kernel, value


@constant
def inside_transform() -> bool:
    """Whether torch.func or forward mode is active; constant for one trace."""
    transform = torch._C._functorch.peek_interpreter_stack() is not None
    return transform or forward_ad._current_level >= 0


def _tracked(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Keep outer levels of forward mode on while a Function's jvp runs.

    PyTorch switches them off, and silently loses derivatives of derivatives.
    """

    @wraps(jvp)
    def call(*arguments: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(*arguments)

    return call


def _value(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Compute the value alone."""
    return value(operation, x, memory, xp)


def _by_arrays(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Compute the value where no kernel does."""
    with full_precision(first(x)):
        return tuple(operation.value(x, xp))


def is_recorded(x: Any) -> bool:
    """Whether autograd has to record what is computed from these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in x if t is not None)


def is_constant(*x: Any) -> bool:
    return is_eager() and forward_ad._current_level < 0 and not is_recorded(x)


def _split(ctx: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    """Split saved tensors into inputs, None if they were not saved, and outputs."""
    operation, count = ctx.operation, ctx.count
    if not operation.saves_inputs:
        return (None,) * count, saved
    return saved[:count], saved[count:]


def _alike(d: Tensor | None, like: Tensor | None) -> Tensor | None:
    """Cast a tangent to the precision of its tensor.

    PyTorch gives the product of a number and a tensor without axes a tangent in double
    precision.
    """
    if d is None or like is None or d.is_complex() != like.is_complex():
        return d
    return d.to(like.dtype)


def _pull(ctx: Any, g: tuple[Any, ...], call: Callable[..., Any]) -> tuple[Any, ...]:
    if not some(*g):
        return None, *padded((), ctx.count)
    x, y = _split(ctx, ctx.saved_tensors)
    wanted = ctx.needs_input_grad[1:]
    return None, *cotangents(ctx.operation, x, y, g, wanted, call)


class _Compiled(torch.autograd.Function):
    """For Dynamo, where it makes no node but traces the array functions."""

    @staticmethod
    def forward(operation: Operation, *x: Any) -> tuple[Any, ...]:
        return by_kernel(operation, x, memory, xp) or _by_arrays(operation, *x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        operation, *x = inputs
        ctx.operation, ctx.count = operation, len(x)
        ctx.set_materialize_grads(False)
        kept = (
            *(x if operation.saves_inputs else ()),
            *(output if operation.saves_outputs else ()),
        )
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[Any, ...]:
        return _pull(ctx, g, _value)


class _Transformed(_Compiled):
    # Dynamo refuses a Function that has its own jvp, hence two of them.
    @staticmethod
    def forward(operation: Operation, *x: Any) -> tuple[Any, ...]:
        # Forward mode accepts no outputs that are views of tensors computed inside.
        return tuple(
            y if y is None or not y._is_view() else y.data
            for y in _Compiled.forward(operation, *x)
        )

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[Any, ...]:
        # In forward mode, the cotangent or what was saved may have a tangent.
        kept = torch.is_grad_enabled() or forward_ad._current_level >= 0
        return _pull(ctx, g, call if kept else _value)

    @staticmethod
    @_tracked
    def jvp(ctx: Any, _: Any, *dx: Any) -> tuple[Any, ...]:
        # Without the tangents of the level that is being computed.
        saved = tuple(
            None if t is None else forward_ad.unpack_dual(t).primal
            for t in ctx.saved_tensors
        )
        x, y = _split(ctx, saved)
        known = x if ctx.operation.saves_inputs else y[:1] * len(x)
        dx = tuple(_alike(d, like) for d, like in zip_longest(dx, known))
        with full_precision(first((*saved, *dx))):
            tangents = ctx.operation.tangent(x, y, dx, call, xp)
        return tuple(None if t is None else t.resolve_conj() for t in tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, operation: Operation, *x: Any) -> Any:
        y = _Transformed.apply(operation, *in_front(x, in_dims[1:], xp))
        return y, tuple(None if t is None else 0 for t in y)


class _Plain(torch.autograd.Function):
    """For reverse mode only: support for transforms costs as much as a small SVD."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, *x: Any) -> tuple[Any, ...]:
        y = by_kernel(operation, x, memory, xp) or _by_arrays(operation, *x)
        ctx.operation, ctx.count = operation, len(x)
        ctx.set_materialize_grads(False)
        inputs = x if operation.saves_inputs else ()
        ctx.save_for_backward(*inputs, *(y if operation.saves_outputs else ()))
        return y

    backward = _Transformed.backward

    @classmethod
    def apply(cls, *x: Any) -> Any:
        # PyTorch's own `apply` binds the arguments to a signature first.
        plain: Any = super(torch.autograd.Function, cls)
        return plain.apply(*unwrap_dead_wrappers(x))


def value_by_kernel(operation: Operation, *x: Any) -> Any:
    """Compute the value by a kernel, unless it is to be differentiated."""
    # `memory.key` returns None for recorded tensors, but does not see forward mode.
    return (
        by_kernel(operation, x, memory, xp) if forward_ad._current_level < 0 else None
    )


def call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Call an operation so that PyTorch can differentiate, map and trace it."""
    if operation.transparent:
        return operation.composed(x, call, xp)
    if not torch.compiler.is_compiling():
        recorded = is_recorded(x)
        # First, because for one small matrix the other checks take as long.
        y = None if recorded else value_by_kernel(operation, *x)
        if y is not None:
            return y
        if inside_transform():
            return _Transformed.apply(operation, *x)
        if is_node(operation, x):
            return as_node(operation, *x)
        if recorded:
            return _Plain.apply(operation, *x)
        with torch.no_grad():
            return _by_arrays(operation, *unwrap_dead_wrappers(x))
    # Dynamo 2.13 silently drops a Function's own derivatives inside a transform
    # (pytorch/pytorch#193279). An error raised while it traces makes it run the caller
    # eagerly, or fail with fullgraph=True.
    if inside_transform():
        raise RuntimeError("torch.func or forward mode inside torch.compile")
    if is_node(operation, x):
        return as_node(operation, *x)
    # If nothing is differentiated, Dynamo passes one argument too many to a Function
    # that takes *x.
    return (_Compiled.apply if is_recorded(x) else _Compiled.forward)(operation, *x)


def _run_whole(function: Callable[..., Any]) -> None:
    """Keep Dynamo from compiling anything inside a function that it runs eagerly.

    It skips a caller in which it meets a transform, but compiles the functions called
    there, frame by frame, and fails in `_Plain.apply`.
    """
    try:
        from torch._C._dynamo.eval_frame import (
            _FrameAction,
            _FrameExecStrategy,
            set_code_exec_strategy,
        )
    except ImportError:
        return
    whole = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)
    set_code_exec_strategy(function.__code__, whole)


_run_whole(call)
