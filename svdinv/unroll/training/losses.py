"""Losses: functions of an estimate, the truth and the problem, for PyTorch.

A user-defined loss is named in a configuration as ``package.module:function``; it has
the same three arguments and returns a 0-d tensor.
"""

from __future__ import annotations

import inspect
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


class LossError(ValueError):
    """A loss that cannot be trained with; the message states the reason."""


def _logarithm(error: Tensor, least: float) -> Tensor:
    """Return the mean over the items of the logarithm of their mean error."""
    # `least` keeps the logarithm finite for an item that is reconstructed exactly.
    return torch.log(error.flatten(1).mean(1) + least).mean()


def _error(x: Tensor, truth: Tensor | None) -> Tensor:
    """Return the magnitude of the error; LossError if the shapes differ."""
    if truth is None:
        raise LossError(
            "the problems of the task have no truth, without which training.loss must "
            "be 'measurement', or a function of one's own"
        )
    if x.shape != truth.shape:
        raise LossError(
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
    ``package.module:function``, whose value is checked at each call. Raises ValueError
    if there is no such loss, or it takes other arguments.
    """
    if name in LOSSES:
        return dict(zip(LOSSES, _FUNCTIONS, strict=True))[name]
    with naming("training.loss"):
        loss: Loss = imported(name)
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(f"training.loss {name} is not a function")
    try:
        inspect.signature(getattr(loss, "forward", loss)).bind(None, None, None)
    except ValueError:  # some functions do not state their arguments
        pass
    except TypeError as error:
        raise ValueError(
            f"training.loss {name} must take three arguments, the estimate, the truth "
            f"and the problem: {error}"
        ) from None

    def checked(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
        value = loss(x, truth, problem)
        found: object = value
        if isinstance(value, Tensor):
            found = f"{value.dtype} of shape {tuple(value.shape)}"
        if found is value or value.shape or not value.is_floating_point():
            raise LossError(
                f"training.loss {name} must return a real 0-d tensor, got {found}"
            )
        differentiable = x.requires_grad and torch.is_grad_enabled()
        if differentiable and not value.requires_grad:
            raise LossError(
                f"training.loss {name} must be differentiable with respect to the "
                "estimate, but its value does not require a gradient"
            )
        return value

    return checked
