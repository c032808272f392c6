"""PyTorch: an operation becomes a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch.autograd import forward_ad

from svdinv.backends import torch_namespace as xp
from svdinv.core.gauge import report_gauge
from svdinv.core.operation import Operation, Options

__all__ = [
    "COMPUTED_IN",
    "differentiable",
    "inside_transform",
    "look",
    "primals",
    "tracked",
    "without_autocast",
]

# LAPACK and cuSOLVER have no half precision.
COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def look(mask: torch.Tensor) -> bool | None:
    """Tell whether an element holds, unless that means waiting for a device."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        return bool(mask.any())
    except RuntimeError:  # under vmap, or a fake tensor: there is no value
        return None


@torch.compiler.assume_constant_result
def inside_transform() -> bool:
    """Tell whether torch.func or forward mode is active; constant for one trace."""
    transform = torch._C._functorch.peek_interpreter_stack() is not None
    return transform or forward_ad._current_level >= 0


def without_autocast(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from running the derivatives' products in half precision."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def tracked(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let forward mode of an outer level follow what a Function's jvp computes.

    PyTorch switches it off meanwhile, and loses derivatives of derivatives silently.
    """

    @wraps(jvp)
    def call(*arguments: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(*arguments)

    return call


def primals(ctx: Any) -> tuple[Any, ...]:
    """Give the saved tensors without the tangents of the level being computed."""
    return tuple(
        None if x is None else forward_ad.unpack_dual(x).primal
        for x in ctx.saved_tensors
    )


def _plain(x: torch.Tensor) -> torch.Tensor:
    """Take the values out of the wrappers of torch.func, batch axes first."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _functions(operation: Operation) -> tuple[Any, Any]:
    """Make an operation's autograd Function for Dynamo, and that for all else."""
    # Dynamo can follow a closure over functions, not one over an Operation.
    run, pull, push = operation.forward, operation.pullback, operation.pushforward
    measure = operation.dependence

    class Compiled(torch.autograd.Function):
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
            with without_autocast(outputs[0]):
                if options.gauge != "ignore":
                    with torch.no_grad():
                        dependence = measure(outputs, cotangents, options, xp)
                    epsilon = torch.finfo(outputs[0].dtype).eps
                    report_gauge(_plain(dependence), options.gauge, epsilon)
                gA = pull(outputs, cotangents, options, xp, look)
            return gA, None

    class Eager(Compiled):
        # Dynamo refuses a Function that has its own jvp, hence two of them.
        @staticmethod
        def vmap(
            info: Any, in_dims: tuple[int, None], A: torch.Tensor, options: Options
        ) -> tuple[tuple[torch.Tensor, ...], int]:
            # Core takes leading batch axes as they come.
            return Eager.apply(A.movedim(in_dims[0], 0), options), 0

        @staticmethod
        @tracked
        def jvp(ctx: Any, dA: torch.Tensor, _: None) -> tuple[torch.Tensor, ...]:
            outputs = ctx.saved_tensors
            with without_autocast(outputs[0]):
                tangents = push(outputs, dA, ctx.options, xp)
            return tuple(x.resolve_conj() for x in tangents)

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
        function = eager
        if torch.compiler.is_compiling():
            # Dynamo 2.13 drops a Function's own derivatives inside a transform,
            # without a word (pytorch/pytorch#193279). What is raised while it
            # traces makes it run the caller eagerly, or fail with fullgraph=True.
            if inside_transform():
                raise RuntimeError("torch.func or forward mode inside torch.compile")
            function = compiled
        inner = COMPUTED_IN.get(A.dtype)
        if inner is None:
            return function.apply(A, options)
        # The cotangents come back with the rounding errors of the outputs.
        epsilon = torch.finfo(A.dtype).eps
        outputs = function.apply(A.to(inner), replace(options, epsilon=epsilon))
        return tuple(
            x.to(A.dtype if x.dtype == inner else A.dtype.to_real()) for x in outputs
        )

    return apply
