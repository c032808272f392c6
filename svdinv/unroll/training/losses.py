"""Losses: functions of an estimate, the truth and the problem, for PyTorch.

A user-defined loss is named in a configuration as ``package.module:function``; it has
the same three arguments and returns a 0-d tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from svdinv.unroll.plugins import imported, naming
from svdinv.unroll.problem import Problem
from svdinv.unroll.training.config import LOSSES

Loss: TypeAlias = Callable[[Tensor, Tensor, Problem], Tensor]

# Far below the error of any reconstruction from few samples, for a peak of 1.
_LEAST_ERROR = 1e-7


def _logarithm(error: Tensor, least: float) -> Tensor:
    """Return the mean over the items of the logarithm of their mean error."""
    # `least` keeps the logarithm finite for an item that is reconstructed exactly.
    return torch.log(error.flatten(1).mean(1) + least).mean()


def _error(x: Tensor, truth: Tensor) -> Tensor:
    """Return the magnitude of the error; ValueError if the shapes differ."""
    if x.shape != truth.shape:
        raise ValueError(
            f"the truth must have the shape {tuple(x.shape)} of the images of the "
            f"network, got {tuple(truth.shape)}"
        )
    return torch.abs(x - truth)


_FUNCTIONS: tuple[Loss, ...] = (
    lambda x, truth, problem: torch.mean(_error(x, truth)),
    lambda x, truth, problem: torch.mean(_error(x, truth) ** 2),
    lambda x, truth, problem: _logarithm(_error(x, truth), _LEAST_ERROR),
    lambda x, truth, problem: _logarithm(_error(x, truth) ** 2, _LEAST_ERROR**2),
    lambda x, truth, problem: problem.value(x) / problem.y.numel(),  # needs no truth
)


def loss_of(name: str) -> Loss:
    """Return a loss, ``loss(estimate, truth, problem)``, by its name.

    The name is in `svdinv.unroll.training.config.LOSSES`, or is
    ``package.module:function``. Raises ValueError if there is no such loss.
    """
    if name in LOSSES:
        return dict(zip(LOSSES, _FUNCTIONS, strict=True))[name]
    with naming("training.loss"):
        loss: Loss = imported(name)
    if not callable(loss):
        raise ValueError(f"training.loss {name} is not a function")
    return loss
