"""Options of the fit of a generator, and its result."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch

from svdinv.unroll.networks import Generator
from svdinv.unroll.options import check_ranges, option
from svdinv.unroll.priors import Prior
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, tensor
from svdinv.unroll.untrained.stopping import HeldOut, Rule

_EXACT = 1e-5  # residual relative to the data, below which the fit is exact
_PROBE = 0.1  # deviation of added noise, relative to the residual
_LEFT = 0.2  # least part of it in the residual, to estimate the noise of the data

Trained = Literal["all", "decoder", "singular values"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the fit of a generator.

    Attributes
    ----------
    iterations : int
        Maximum number of iterations.
    rate : float
        Learning rate of Adam.
    input_noise : float
        Standard deviation of the noise that is added to the input in each iteration.
    average : float
        Decay of the exponential average of the iterates, in [0, 1).
    rule : Rule or None
        Stopping rule; None makes all iterations and returns the last average.
    prior : Prior or None
        R, as in a classical method; smooth or nearly so, such as `HuberVariation`.
    penalty : float
        Weight of the generator's own penalty.
    trained : {"all", "decoder", "singular values"}
        Weights that are fitted: all; all but those of the encoder, which in an unrolled
        network is the first half of the cells; or only the singular values of each
        convolution as a matrix (Nittscher et al., SVD-DIP, PMLR 227).
    recorrupted : float
        Standard deviation of the white Gaussian noise in the data, for complex data of
        both parts together. If not 0, the network is fitted to recorrupted data, see
        `svdinv.unroll.untrained.fitting`, instead of using `input_noise`; any trained
        network can then be fitted, with a rule that does not leave data out.
    preconditioned : bool
        Whether the residual is weighted by
        `svdinv.unroll.operators.Operator.preconditioned`.
    consistent : bool
        Whether to apply a final data consistency step to the average. It needs
        `HeldOut`, whose held-out data determine its size, a linear operator and `L2`.
        With `Sampling` of real images, similar patches of low rank remove its noise.
    every : int
        Iterations between evaluations of the rule.
    seed : int
        Seed of the initial weights, the noise and the random choices of the rule.

    Raises
    ------
    ValueError
        If an attribute is invalid; the message names it.
    """

    iterations: int = option(2000, low=1)
    rate: float = option(1e-2, above=0, below=math.inf)
    input_noise: float = option(0.03, low=0, below=math.inf)
    average: float = option(0.99, low=0, below=1)
    rule: Rule | None = field(default_factory=HeldOut)
    prior: Prior | None = None
    penalty: float = option(0.0, low=0, below=math.inf)
    trained: Trained = "all"
    recorrupted: float = option(0.0, low=0, below=math.inf)
    preconditioned: bool = False
    consistent: bool = True
    every: int = option(10, low=1)
    seed: int = option(0, low=0)

    def __post_init__(self) -> None:
        check_ranges(self)
        allowed = ("all", "decoder", "singular values")
        if self.trained not in allowed:
            raise ValueError(f"trained must be one of {allowed}, got {self.trained!r}")
        if self.recorrupted and self.rule is not None and self.rule.withholds:
            raise ValueError(
                f"recorrupted: {type(self.rule).__name__} leaves data out; rule must "
                "be None or another"
            )


def educated(
    problem: Problem, network: Network, deviation: float | None = None, **changes: Any
) -> Options:
    """Return default `Options` to fine-tune a trained network on its own input.

    Parameters
    ----------
    problem : Problem
        Problem of one image, as for `fit`.
    network : Network
        The trained network.
    deviation : float, optional
        Standard deviation of the noise; by default estimated from the network's
        residual, without the part of the noise that the network reproduces.
    **changes
        Attributes to change.

    Returns
    -------
    Options
        For a hundred iterations, with recorrupted data and preconditioned residuals.
        The learning rate is 1e-4, for a generator 3e-4.

    Raises
    ------
    ValueError
        If the fidelity is not that of white Gaussian noise, `deviation` is not
        positive, or it is omitted and the network's residual does not tell the noise.
    """
    if not problem.has_white_noise:
        raise ValueError(
            "a trained network is fitted to data with white Gaussian noise (L2 without "
            f"weights) alone, not to those of {type(problem.fidelity).__name__}"
        )
    if deviation is None:
        deviation = _deviation(problem, network)
    elif not 0 < deviation < math.inf:
        raise ValueError(f"deviation must be positive, got {deviation!r}")
    defaults: dict[str, Any] = {
        "iterations": 100,
        "rate": 3e-4 if isinstance(network.recipe, Generator) else 1e-4,
        "average": 0.95,
        "rule": None,
        "recorrupted": deviation,
        "preconditioned": True,
    }
    return Options(**defaults | changes)


def _deviation(problem: Problem, network: Network) -> float:
    """Estimate the noise: the residual over that of added noise of deviation 1.

    Of an image without error this is exact to first order in the noise, and the ratio
    of norms is that of n data to n - 2 tr J + tr J^H J, for the derivative J of the
    network's data (for linear smoothers: Wahba, Spline Models for Observational Data,
    1990, section 4.7). Of a network that amplifies the added noise, as of data unlike
    its training's, it is the residual.
    """
    device = next(network.parameters()).device
    single = replace(problem, truth=None).single()
    single = single.replace_arrays(partial(tensor, device=device))
    y, A = single.y, single.A
    network = copy.deepcopy(network).to(y.real.dtype)

    def residual(y: torch.Tensor) -> torch.Tensor:
        return A.project_to_samples(A.forward(network(replace(single, y=y))) - y)

    with torch.no_grad():
        rest = residual(y)
        count = single.sampled_mask().sum().clamp(min=1)
        deviation = (rest.abs().square().sum() / count).sqrt()
        rng = torch.Generator().manual_seed(0)
        kind = torch.complex64 if y.is_complex() else torch.float32
        probe = torch.randn(y.shape, generator=rng, dtype=kind).to(y)
        probe = _PROBE * deviation * A.project_to_samples(probe)
        added = torch.linalg.norm(probe)
        left = torch.linalg.norm(residual(y + probe) - rest)
        exact = deviation <= _EXACT * y.abs().square().mean().sqrt()
        if exact or left <= _LEFT * added:
            raise ValueError(
                "the network fits the data with their noise, so it cannot estimate "
                "this: deviation must be passed (on the command line, --deviation)"
            )
        deviation = deviation * (added / left).clamp(min=1)
    # Rounded, because a resumed fit must have the same value, also on a GPU.
    return float(f"{float(deviation):.4g}")


@dataclass(frozen=True)
class Record:
    """State of a fit at one evaluation of the rule.

    Attributes
    ----------
    iteration : int
        Number of the iteration, from 1.
    loss : float
        The loss per datum.
    data : float
        Data fidelity of the iterate per datum.
    criterion : float
        Value of the rule, to be minimised; infinite if not available yet.
    decibels : float
        Quality of the averaged image, if measured; else NaN.
    """

    iteration: int
    loss: float
    data: float
    criterion: float
    decibels: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of a fit.

    Attributes
    ----------
    image : ndarray
        The average at the minimum of the rule, after the data consistency step.
    average : ndarray
        The same average without that step.
    last : ndarray
        The average of the iterates at the end.
    best : int
        Iteration of `image`.
    iterations : int
        Number of iterations.
    ending : {"rule", "iterations", "stopped", "broken"}
        Reason for the end; "broken" if the fit diverged repeatedly.
    trajectory : list of Record
        One for each evaluation of the rule.
    rollbacks : list of int
        Iterations at which the fit diverged and returned to earlier weights.
    network : Network
        The generator with its weights at the end.
    seconds : float
        Wall-clock time of this part.
    step : float
        Size of the data consistency step. For sampled pixels the fraction of the
        residual that was added, in [0, 1]; otherwise the penalty of `ADMM` on the
        distance from the average, relative to its default, so that smaller values are
        larger steps. 0 if no step was made.
    """

    image: Any
    average: Any
    last: Any
    best: int
    iterations: int
    ending: Literal["rule", "iterations", "stopped", "broken"]
    trajectory: list[Record]
    rollbacks: list[int]
    network: Network
    seconds: float
    step: float = 0.0
