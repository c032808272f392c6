"""PyTorch's DTensors: matrices whose longer side, or whose batch, is on many devices.

The formulas run on them as on other tensors, by PyTorch's own rules of which device
computes what. This module has what those rules leave open: when a sum is completed,
what each device computes for itself, and what is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor


def _module() -> Any:
    """PyTorch's module, if the user has imported it: else nothing is a DTensor."""
    return sys.modules.get("torch.distributed.tensor")


def is_sharded(x: Any) -> bool:
    """Whether a tensor is a DTensor."""
    if type(x) is Tensor:
        return False
    module = _module()
    return module is not None and isinstance(x, module.DTensor)


def is_spread(A: Tensor) -> bool:
    return is_sharded(A) and bool(_divided(A))


def _divided(A: Any) -> set[int]:
    """Which of the last two axes are divided, as -2 and -1."""
    axes = {p.dim % A.ndim - A.ndim for p in A.placements if p.is_shard()}
    return axes & {-2, -1}


def all_reduce(x: Any) -> Any:
    """Complete partial sums, by one collective for each axis of the mesh."""
    if not is_sharded(x) or not any(p.is_partial() for p in x.placements):
        return x
    whole = _module().Replicate()
    return x.redistribute(
        placements=[whole if p.is_partial() else p for p in x.placements]
    )


def check_placements(A: Any, name: str) -> None:
    """Refuse DTensors with which nothing can be computed without a gather."""
    if not is_sharded(A):
        return
    module = _module()
    if any(type(p) not in (module.Shard, module.Replicate) for p in A.placements):
        raise ValueError(
            f"{name} must have placements Shard or Replicate, got {A.placements}"
        )
    m, n = A.shape[-2:]
    if _divided(A) - {-2 if m >= n else -1}:
        longer = A.ndim - (2 if m >= n else 1)
        raise ValueError(
            f"{name} must be sharded along its longer side alone, Shard({longer}), or "
            f"along batch axes, got {A.placements} for shape {tuple(A.shape)}"
        )


def replicated(x: Tensor, like: Any) -> Any:
    """Replicate a plain tensor on the devices of the DTensor `like`."""
    if not is_sharded(like) or is_sharded(x):
        return x
    mesh, module = like.device_mesh, _module()
    whole = [module.Replicate()] * mesh.ndim
    return module.DTensor.from_local(x, mesh, whole, run_check=False)


def on_each_device(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Let a function of matrices accept DTensors that are divided along the batch only.

    PyTorch's own rules gather the batch, or even the matrices.
    """

    def call(A: Any, **options: Any) -> Any:
        if not is_sharded(A):
            return function(A, **options)
        A = all_reduce(A)  # the function needs the sum, not its parts
        if _divided(A):
            raise ValueError(
                f"{name} needs whole matrices on each device, got placements "
                f"{A.placements} for shape {tuple(A.shape)}; operators with method "
                '"auto" or "gram" do not, and A.redistribute() makes them whole'
            )

        def rebuilt(x: Tensor) -> Any:
            lead = A.ndim - 2
            shape = A.shape[:lead] + x.shape[lead:]
            return _module().DTensor.from_local(
                x.contiguous(),
                A.device_mesh,
                A.placements,
                run_check=False,
                shape=shape,
                stride=x.new_empty(shape, device="meta").stride(),
            )

        y = function(A.to_local(), **options)
        return rebuilt(y) if isinstance(y, Tensor) else tuple(map(rebuilt, y))

    return call
