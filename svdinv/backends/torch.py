"""PyTorch: an operation becomes a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from array_api_compat import torch as xp

from svdinv.core.gauge import report_gauge
from svdinv.core.operation import Operation, Options

__all__ = ["differentiable"]

# LAPACK and cuSOLVER have no half precision.
_COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def _may(mask: torch.Tensor) -> bool:
    """Tell whether an element may hold, without waiting for a device."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    try:
        return bool(mask.any())
    except RuntimeError:  # under vmap, or a fake tensor: there is no value
        return True


def _functions(operation: Operation) -> tuple[Any, Any]:
    """Make an operation's autograd Function for Dynamo, and that for all else."""
    # Dynamo can follow a closure over functions, not one over an Operation.
    run, pull, push = operation.forward, operation.pullback, operation.pushforward
    measure = operation.dependence

    class Compiled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(A: torch.Tensor, options: Options) -> tuple[torch.Tensor, ...]:
            return tuple(run(A, options, xp))

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.options = inputs[1]
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*output)
            ctx.save_for_forward(*output)

        @staticmethod
        def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, None]:
            outputs, options = ctx.saved_tensors, ctx.options
            with torch.autocast(outputs[0].device.type, enabled=False):
                if options.gauge != "ignore":
                    with torch.no_grad():
                        dependence = measure(outputs, cotangents, options, xp)
                    epsilon = torch.finfo(outputs[0].dtype).eps
                    report_gauge(dependence, options.gauge, epsilon)
                gA = pull(outputs, cotangents, options, xp, _may)
            return gA, None

    class Eager(Compiled):
        # Dynamo refuses a Function that has its own jvp, hence two of them.
        @staticmethod
        def jvp(ctx: Any, dA: torch.Tensor, _: None) -> tuple[torch.Tensor, ...]:
            outputs = ctx.saved_tensors
            with torch.autocast(outputs[0].device.type, enabled=False):
                return tuple(push(outputs, dA, ctx.options, xp))

    return Compiled, Eager


def differentiable(
    operation: Operation,
) -> Callable[[torch.Tensor, Options], tuple[torch.Tensor, ...]]:
    """Turn an operation into a function that every mode of PyTorch differentiates."""
    compiled, eager = _functions(operation)

    def apply(A: torch.Tensor, options: Options) -> tuple[torch.Tensor, ...]:
        if not isinstance(A, torch.Tensor):
            raise TypeError(f"A must be a torch.Tensor, got {type(A).__name__}")
        if not (A.dtype.is_floating_point or A.dtype.is_complex):
            raise TypeError(f"A must be floating point or complex, got {A.dtype}")
        function = compiled if torch.compiler.is_compiling() else eager
        inner = _COMPUTED_IN.get(A.dtype)
        if inner is None:
            return function.apply(A, options)
        outputs = function.apply(A.to(inner), options)
        return tuple(
            x.to(A.dtype if x.dtype == inner else A.dtype.to_real()) for x in outputs
        )

    return apply
