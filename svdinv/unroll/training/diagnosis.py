"""Where a loss or gradient that is not finite came from."""

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

# Relative: pairs this near, and values this small, are what LAPACK makes of repeated
# and of zero singular values in single precision.
_NEAR = 1e-6


_NOWHERE, _UNKNOWN = "nowhere", "unknown"


@dataclass(frozen=True)
class Breakdown:
    """A step whose loss or gradient was not finite.

    The layer is the first with something not finite behind it, such as "cells.2.svt";
    "data" or the name of a weight, if that is not finite itself; "start", if what the
    first cell is given is not; "loss" or the name of a weight, if all layers are
    innocent; "nowhere", if the step went well when it was repeated; "unknown", if the
    search failed.
    """

    step: int  # from 1; its update was not made
    layer: str
    pass_: Literal["forward", "backward"]
    # Of the matrix that caused it, if it was the low-rank step, the largest first.
    spectrum: np.ndarray | None = None

    @property
    def found(self) -> bool:
        """Whether it is known where it came from."""
        return self.layer not in (_NOWHERE, _UNKNOWN)

    @property
    def sound(self) -> bool:
        """Whether the weights are good ones: the data or a derivative are to blame."""
        derivative = self.pass_ == "backward" and self.layer.endswith(".svt")
        return derivative or self.layer in ("data", _NOWHERE)

    def __str__(self) -> str:
        """Describe the breakdown in a few lines."""
        what = "an output" if self.pass_ == "forward" else "a gradient"
        what += f" that is not finite, first in {self.layer}, {self.pass_} pass"
        known = {
            _UNKNOWN: "a loss or gradient that is not finite; the search for it failed",
            _NOWHERE: "a gradient that is not finite, but not when the step was "
            "repeated",
            "data": "the data are not finite",
        }
        text = f"step {self.step}: {known.get(self.layer, what)}"
        if self.spectrum is None:
            return text
        s = self.spectrum
        shown = ", ".join(f"{value:.7g}" for value in s[:8])
        text += f"\n  singular values there: {shown}{', ...' if len(s) > 8 else ''}"
        zeros = int((s <= _NEAR * s[0]).sum())
        kept = s[: len(s) - zeros]
        pairs = int((kept[:-1] - kept[1:] <= _NEAR * s[0]).sum())
        return text + f"\n  of {len(s)}: {zeros} zero, {pairs} as large as the next one"


def diagnose(
    network: Network,
    step: int,
    batch: Problem,
    loss: Callable[[nn.Module, Problem], Tensor],
) -> Breakdown:
    """Repeat a step that broke down, and look where.

    `network` has the weights from before the step, and `loss` is a function of it and
    of the batch.
    """
    finite: list[bool] = []

    def look(x: Any) -> Any:
        finite.append(bool(np.isfinite(np.asarray(x)).all()))
        return x

    batch.replace_arrays(look)
    if not all(finite):
        return Breakdown(step, "data", "forward")
    for name, parameter in network.named_parameters():
        if not _finite(parameter):
            return Breakdown(step, name, "forward")
    witness = _Witness(step)
    network.zero_grad()
    try:
        with _watched(network, witness):
            value = loss(network, batch)
            if witness.first is None and _finite(value):
                value.backward()
    except torch.linalg.LinAlgError:
        witness.tell("start", "forward")  # of those in cells the witness was told
    else:
        if not _finite(value):
            witness.tell("loss", "forward")
        for name, parameter in network.named_parameters():
            g = parameter.grad
            # The square of its length has to be finite too.
            if g is not None and not _finite(torch.linalg.vector_norm(g)):
                witness.tell(name, "backward")
    network.zero_grad()
    return witness.first or Breakdown(step, _NOWHERE, "backward")


class _Witness:
    """Remembers the first layer that made something not finite."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.first: Breakdown | None = None

    def tell(
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
        """Threshold singular values as usual, and check the result."""
        # A view of its own: a hook would see the gradients of all uses of it.
        matrices = matrices.view_as(matrices)
        held = matrices.detach()
        try:
            result = svt(matrices, fraction, scale)
        except torch.linalg.LinAlgError:
            self.tell(layer, "forward")
            raise
        if _finite(held) and not _finite(result):
            self.tell(layer, "forward", _spectrum(held, _rows(result)))
        came: list[bool] = []  # whether gradients of the result, the first, are finite

        def returned(g: Tensor) -> None:
            if all(came) and not _finite(g):
                self.tell(layer, "backward", _spectrum(held, _rows(g)))

        if matrices.requires_grad and result.requires_grad:
            result.register_hook(lambda g: came.append(_finite(g)))
            matrices.register_hook(returned)
        return result

    def start(self, module: nn.Module, inputs: Any) -> None:
        """Check the input of the first cell."""
        if not _all_finite(inputs):
            self.tell("start", "forward")

    def layer(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Check the input and output of a convolution or a cell."""
        if _all_finite(inputs) and not _all_finite(output):
            self.tell(name, "forward")


@contextmanager
def _watched(network: Network, witness: _Witness) -> Iterator[None]:
    """Attach a witness to every layer of a network."""
    with ExitStack() as undo:
        first = network.cells[0].register_forward_pre_hook(witness.start)
        undo.callback(first.remove)
        for name, module in network.named_modules():
            if isinstance(module, Cell | nn.Conv2d | nn.Conv3d):
                handle = module.register_forward_hook(partial(witness.layer, name))
                undo.callback(handle.remove)
            if isinstance(module, Cell):
                watching = partial(witness.svt, f"{name}.svt", module.svt)
                module.svt = watching  # type: ignore[method-assign]
                undo.callback(delattr, module, "svt")
        yield


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _all_finite(given: Any) -> bool:
    """Whether the tensors are, in whatever tuples and dictionaries they are."""
    if isinstance(given, Tensor):
        return _finite(given)
    if isinstance(given, dict):
        return all(map(_all_finite, given.values()))
    return all(map(_all_finite, given)) if isinstance(given, tuple) else True


def _rows(x: Tensor) -> Tensor:
    """Which matrices have an element that is not finite."""
    return ~torch.isfinite(x).flatten(-2).all(-1)


def _spectrum(matrices: Tensor, which: Tensor) -> np.ndarray | None:
    """Singular values of the first of these matrices that has any."""
    for matrix in matrices[which.to(matrices.device)]:
        if _finite(matrix):
            with suppress(np.linalg.LinAlgError):
                # In double precision: this must not fail where that failed.
                double = np.complex128 if matrix.is_complex() else np.float64
                values = matrix.cpu().numpy().astype(double)
                return np.linalg.svd(values, compute_uv=False)
    return None
