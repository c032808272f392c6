"""Where a loss or gradient that is not finite came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svdinv.unroll.jobs.data import Batch
from svdinv.unroll.torch import Cell, Network

__all__ = ["Breakdown", "diagnose"]

# Relative: pairs this near, and values this small, are what LAPACK makes of repeated
# and of zero singular values in single precision.
_NEAR = 1e-6


@dataclass(frozen=True)
class Breakdown:
    """A step whose loss or gradient was not finite.

    Attributes
    ----------
    step : int
        The step, from 1; its update was not made.
    layer : str
        The first layer with something not finite behind it, such as "cells.2.svt", or
        "data" or "loss".
    pass_ : {"forward", "backward"}
        In which direction.
    spectrum : ndarray or None
        Singular values, largest first, of the matrix that caused it, if it was the
        low-rank step.
    """

    step: int
    layer: str
    pass_: str
    spectrum: np.ndarray | None = None

    def __str__(self) -> str:
        """Say it in a few lines."""
        what = "an output" if self.pass_ == "forward" else "a gradient"
        text = (
            f"step {self.step}: {what} that is not finite, first in {self.layer}, "
            f"{self.pass_} pass"
        )
        if self.spectrum is None:
            return text
        s = self.spectrum
        shown = ", ".join(f"{value:.7g}" for value in s[:8])
        text += f"\n  singular values there: {shown}{', ...' if len(s) > 8 else ''}"
        zeros = int((s <= _NEAR * s[0]).sum()) if s[0] > 0 else len(s)
        kept = s[: len(s) - zeros]
        pairs = int((kept[:-1] - kept[1:] <= _NEAR * s[0]).sum()) if len(kept) else 0
        return text + f"\n  of {len(s)}: {zeros} zero, {pairs} as large as the next one"


def diagnose(
    network: Network,
    step: int,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
) -> Breakdown:
    """Repeat a step that broke down, and look where.

    Parameters
    ----------
    network : Network
        With the weights from before the step.
    step : int
        Its number.
    batch : Batch
        Its data.
    loss : callable
        From network and batch to the loss.

    Returns
    -------
    Breakdown
        What was found; "nowhere in the repetition" if it went well this time.
    """
    given = (batch.samples, batch.truth, *batch.measurement)
    if not all(np.isfinite(x).all() for x in given):
        return Breakdown(step, "data", "forward")
    witness = _Witness()
    with witness.watching(network):
        try:
            value = loss(network, batch)
        except torch.linalg.LinAlgError:
            return witness.breakdown(step, "forward") or Breakdown(
                step, "a decomposition", "forward"
            )
        found = witness.breakdown(step, "forward")
        if found is not None:
            return found
        if not torch.isfinite(value):
            return Breakdown(step, "loss", "forward")
        network.zero_grad()
        value.backward()
        network.zero_grad()
    return witness.breakdown(step, "backward") or Breakdown(
        step, "nowhere in the repetition", "backward"
    )


class _Witness:
    """Notes what passes through the layers of a network, in the order it happens."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Tensor | None]] = []

    def breakdown(self, step: int, pass_: str) -> Breakdown | None:
        """Give the first event of this direction."""
        for layer, direction, matrices in self.seen:
            if direction == pass_:
                spectrum = None if matrices is None else _worst(matrices)
                return Breakdown(step, layer, pass_, spectrum)
        return None

    def watching(self, network: Network) -> _Watch:
        return _Watch(self, network)

    def passed(
        self, layer: str, inputs: Tensor, output: Tensor, matrices: Tensor | None
    ) -> None:
        if torch.isfinite(inputs).all() and not torch.isfinite(output).all():
            self.seen.append((layer, "forward", matrices))
        if not (inputs.requires_grad and output.requires_grad):
            return
        came: dict[str, bool] = {}
        output.register_hook(lambda g: came.update(good=_finite(g)))

        def returned(g: Tensor) -> None:
            if came.get("good", True) and not _finite(g):
                bad = None if matrices is None else matrices[_rows(g)]
                self.seen.append((layer, "backward", bad))

        inputs.register_hook(returned)


class _Watch:
    """Context in which a witness sees every layer of a network."""

    def __init__(self, witness: _Witness, network: Network) -> None:
        self.witness, self.network = witness, network
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self.network.named_modules():
            if isinstance(module, Cell):
                module.svt = partial(self._svt, f"{name}.svt", module.svt)  # type: ignore[method-assign]
            elif isinstance(module, nn.Conv2d | nn.Conv3d):
                hook = partial(self._convolution, name)
                self.handles.append(module.register_forward_hook(hook))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        for module in self.network.modules():
            if isinstance(module, Cell):
                del module.svt

    def _svt(
        self, name: str, svt: Callable[..., Tensor], matrices: Tensor, fraction: Tensor
    ) -> Tensor:
        # A view of its own: a hook would see the gradients of all uses of it.
        matrices = matrices.view_as(matrices)
        result = svt(matrices, fraction)
        self.witness.passed(name, matrices, result, matrices.detach())
        return result

    def _convolution(
        self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor
    ) -> None:
        if not torch.isfinite(output).all() and torch.isfinite(inputs[0]).all():
            self.witness.seen.append((name, "forward", None))


def _finite(g: Tensor) -> bool:
    return bool(torch.isfinite(g).all())


def _rows(g: Tensor) -> Tensor:
    """Which matrices have a gradient that is not finite."""
    return ~torch.isfinite(g).flatten(-2).all(-1)


def _worst(matrices: Tensor) -> np.ndarray | None:
    """Singular values of the first of the matrices that has any."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    for matrix in flat:
        if torch.isfinite(matrix).all():
            return torch.linalg.svdvals(matrix).cpu().numpy()
    return None
