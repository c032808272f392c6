"""Search for the origin of a loss or gradient that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Cell, Network

# In single precision LAPACK computes repeated singular values with relative differences
# up to this, and zero ones with relative size up to this.
_NEAR = 1e-6


_NOWHERE, _UNKNOWN = "nowhere", "unknown"


@dataclass(frozen=True)
class Breakdown:
    """A step whose loss or gradient was not finite.

    `layer` is the first layer with an output or gradient that is not finite, such as
    "cells.2.svt"; "data" or the name of a weight that is not finite itself; "start" if
    the input of the first cell is not finite; "loss" or the name of a weight if no
    layer is at fault; "nowhere" if the repeated step is finite; else "unknown".
    """

    step: int  # from 1; its update was skipped
    layer: str
    pass_: Literal["forward", "backward"]
    # Singular values of the matrix that caused it, in descending order, if known.
    spectrum: np.ndarray | None = None

    @property
    def found(self) -> bool:
        """Whether the origin is known."""
        return self.layer not in (_NOWHERE, _UNKNOWN)

    @property
    def sound(self) -> bool:
        """Whether the weights are usable: the data or a derivative are at fault."""
        derivative = self.pass_ == "backward" and self.layer.endswith(".svt")
        return derivative or self.layer in ("data", _NOWHERE)

    def __str__(self) -> str:
        """Describe the breakdown in a few lines."""
        description = "an output" if self.pass_ == "forward" else "a gradient"
        description += f" that is not finite, first in {self.layer}, {self.pass_} pass"
        descriptions = {
            _UNKNOWN: "a loss or gradient that is not finite; the search for it failed",
            _NOWHERE: "a gradient that is not finite, but not when the step was "
            "repeated",
            "data": "the data are not finite",
        }
        text = f"step {self.step}: {descriptions.get(self.layer, description)}"
        if self.spectrum is None:
            return text
        s = self.spectrum
        leading = ", ".join(f"{value:.7g}" for value in s[:8])
        text += f"\n  singular values there: {leading}{', ...' if len(s) > 8 else ''}"
        zeros = int((s <= _NEAR * s[0]).sum())
        nonzero = s[: len(s) - zeros]
        pairs = int((nonzero[:-1] - nonzero[1:] <= _NEAR * s[0]).sum())
        return text + f"\n  of {len(s)}: {zeros} zero, {pairs} as large as the next one"


def diagnose(
    network: Network,
    step: int,
    batch: Problem,
    loss: Callable[[nn.Module, Problem], Tensor],
) -> Breakdown:
    """Repeat a step whose loss or gradient was not finite, and locate the origin.

    `network` has the weights from before the step; `loss` is a function of it and of
    the batch.
    """
    finite: list[bool] = []

    def check(x: Any) -> Any:
        finite.append(bool(np.isfinite(np.asarray(x)).all()))
        return x

    batch.replace_arrays(check)
    if not all(finite):
        return Breakdown(step, "data", "forward")
    for name, parameter in network.named_parameters():
        if not _finite(parameter):
            return Breakdown(step, name, "forward")
    monitor = _Monitor(step)
    network.zero_grad()
    try:
        with _monitored(network, monitor):
            value = loss(network, batch)
            if monitor.first is None and _finite(value):
                value.backward()
    except torch.linalg.LinAlgError:
        monitor.report("start", "forward")  # ignored if raised in a cell
    else:
        if not _finite(value):
            monitor.report("loss", "forward")
        for name, parameter in network.named_parameters():
            g = parameter.grad
            # The square of the norm has to be finite, too.
            if g is not None and not _finite(torch.linalg.vector_norm(g)):
                monitor.report(name, "backward")
    network.zero_grad()
    return monitor.first or Breakdown(step, _NOWHERE, "backward")


class _Monitor:
    """Records the first layer with an output or gradient that is not finite."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.first: Breakdown | None = None

    def report(
        self,
        layer: str,
        pass_: Literal["forward", "backward"],
        spectrum: np.ndarray | None = None,
    ) -> None:
        if self.first is None:
            self.first = Breakdown(self.step, layer, pass_, spectrum)

    def svt(
        self,
        layer: str,
        svt: Callable[..., Tensor],
        matrices: Tensor,
        fraction: Tensor,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Threshold singular values, and check the result and later its gradient."""
        # A view, because a hook on the tensor would see the gradients of all its uses.
        matrices = matrices.view_as(matrices)
        values = matrices.detach()
        try:
            result = svt(matrices, fraction, scale)
        except torch.linalg.LinAlgError:
            self.report(layer, "forward")
            raise
        if _finite(values) and not _finite(result):
            self.report(layer, "forward", _spectrum(values, _rows(result)))
        finite: list[bool] = []  # of the gradients of the result, which come first

        def returned(g: Tensor) -> None:
            if all(finite) and not _finite(g):
                self.report(layer, "backward", _spectrum(values, _rows(g)))

        if matrices.requires_grad and result.requires_grad:
            result.register_hook(lambda g: finite.append(_finite(g)))
            matrices.register_hook(returned)
        return result

    def start(self, module: nn.Module, inputs: Any) -> None:
        """Check the input of the first cell."""
        if not _all_finite(inputs):
            self.report("start", "forward")

    def layer(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Check the input and output of a convolution or a cell."""
        if _all_finite(inputs) and not _all_finite(output):
            self.report(name, "forward")


@contextmanager
def _monitored(network: Network, monitor: _Monitor) -> Iterator[None]:
    """Attach a monitor to every layer of a network."""
    with ExitStack() as stack:
        first = network.cells[0].register_forward_pre_hook(monitor.start)
        stack.callback(first.remove)
        for name, module in network.named_modules():
            if isinstance(module, Cell | nn.Conv2d | nn.Conv3d):
                handle = module.register_forward_hook(partial(monitor.layer, name))
                stack.callback(handle.remove)
            if isinstance(module, Cell):
                monitored = partial(monitor.svt, f"{name}.svt", module.svt)
                module.svt = monitored  # type: ignore[method-assign]
                stack.callback(delattr, module, "svt")
        yield


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _all_finite(values: Any) -> bool:
    """Return whether all tensors in nested tuples and dictionaries are finite."""
    if isinstance(values, Tensor):
        return _finite(values)
    if isinstance(values, dict):
        return all(map(_all_finite, values.values()))
    return all(map(_all_finite, values)) if isinstance(values, tuple) else True


def _rows(x: Tensor) -> Tensor:
    """Return which matrices have an element that is not finite."""
    return ~torch.isfinite(x).flatten(-2).all(-1)


def _spectrum(matrices: Tensor, which: Tensor) -> np.ndarray | None:
    """Return the singular values of the first selected matrix that is finite."""
    for matrix in matrices[which.to(matrices.device)]:
        if _finite(matrix):
            with suppress(np.linalg.LinAlgError):
                # In double precision, so that it succeeds where the step failed.
                double = np.complex128 if matrix.is_complex() else np.float64
                values = matrix.cpu().numpy().astype(double)
                return np.linalg.svd(values, compute_uv=False)
    return None
