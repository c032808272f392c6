"""How a generator is fitted, and what a fit returns."""

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

_EXACT = 1e-5  # relative to the data

Trained = Literal["all", "decoder", "singular values"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a generator is fitted.

    Attributes
    ----------
    iterations : int
        Iterations, at most.
    rate : float
        Learning rate of Adam.
    input_noise : float
        Standard deviation of the noise that is added to the input in each iteration.
    average : float
        Share that the average of the iterates keeps in an iteration, in [0, 1).
    rule : Rule or None
        When to stop; None fits to the end, and keeps the last average.
    prior : Prior or None
        R, weighted as beside the data fidelity in a classical method. It has to be
        smooth or nearly so (`HuberVariation` for total variation).
    penalty : float
        Weight of the generator's own penalty.
    trained : {"all", "decoder", "singular values"}
        What is fitted: all weights; those of no encoder, which of an unrolled network
        is the first half of the cells; or of each convolution as a matrix the singular
        values alone (Nittscher et al., SVD-DIP, PMLR 227).
    recorrupted : float
        Standard deviation of the noise in the data, Gaussian and white; of complex
        data, of both parts together. Other than 0, the network sees data with more
        noise and is fitted to others, as at the top of this module, in place of
        `input_noise`; any trained network will do then, and no rule that leaves data
        out.
    preconditioned : bool
        Whether the residual is weighted as
        `svdinv.unroll.operators.Operator.preconditioned` tells.
    consistent : bool
        Whether the average takes a step towards the data at the end. Only with
        `HeldOut`, whose data say how far, a linear operator and `L2`; else it is left
        as it is. Of real images of which `Sampling` takes values, low rank of patches
        that look alike takes out the noise of the step.
    every : int
        Iterations from one look at the rule to the next.
    seed : int
        Of first weights, of the noise and of what the rule draws.

    Raises
    ------
    ValueError
        If an attribute makes no fit, which is named.
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
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        known = ("all", "decoder", "singular values")
        if self.trained not in known:
            raise ValueError(f"trained must be one of {known}, got {self.trained!r}")
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
        Of one image, as for `fit`.
    network : Network
        The trained network.
    deviation : float, optional
        Standard deviation of the noise in the data; by default the root mean square of
        what the network leaves of them.
    **changes
        Attributes to change.

    Returns
    -------
    Options
        Of a hundred iterations, to recorrupted data and with preconditioned residuals.
        The learning rate is 1e-4, and 3e-4 of a generator.

    Raises
    ------
    ValueError
        If the fidelity is none of white Gaussian noise, `deviation` is not positive,
        or none is given and the network explains the data exactly, noise and all.
    """
    if not problem.has_white_noise:
        raise ValueError("problem must have an L2 fidelity without weights")
    if deviation is None:
        device = next(network.parameters()).device
        single = replace(problem, truth=None).single()
        single = single.replace_arrays(partial(tensor, device=device))
        network = copy.deepcopy(network).to(single.y.real.dtype)
        with torch.no_grad():
            rest = single.A.project_to_samples(
                single.A.forward(network(single)) - single.y
            )
            count = single.sampled_mask().sum().clamp(min=1)
            deviation = float((rest.abs().square().sum() / count).sqrt())
            exact = deviation <= _EXACT * float(single.y.abs().square().mean().sqrt())
        if exact:
            raise ValueError(
                "the network explains the data exactly, so that it does not tell their "
                "noise: deviation must be given"
            )
        # A fit goes on from its checkpoint where the last bits are others, as on a GPU.
        deviation = float(f"{deviation:.4g}")
    elif not 0 < deviation < math.inf:
        raise ValueError(f"deviation must be positive, got {deviation!r}")
    usual: dict[str, Any] = {
        "iterations": 100,
        "rate": 3e-4 if isinstance(network.recipe, Generator) else 1e-4,
        "average": 0.95,
        "rule": None,
        "recorrupted": deviation,
        "preconditioned": True,
    }
    return Options(**usual | changes)


@dataclass(frozen=True)
class Record:
    """How far a fit has come at one iteration.

    Attributes
    ----------
    iteration : int
        From 1.
    loss : float
        What is minimised, for each datum.
    data : float
        Data fidelity of the iterate, for each datum.
    criterion : float
        What the rule wants small; infinite where there is none yet.
    decibels : float
        Of the averaged image, where somebody knows the truth; NaN else.
    """

    iteration: int
    loss: float
    data: float
    criterion: float
    decibels: float


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit gives.

    Attributes
    ----------
    image : ndarray
        The average of the iterates where the rule was least, or what the step towards
        the data makes of it.
    average : ndarray
        That average.
    last : ndarray
        The average of the iterates at the end.
    best : int
        Iteration of `image`.
    iterations : int
        Iterations done.
    ending : {"rule", "iterations", "stopped", "broken"}
        Why it ended; "broken" where it broke down again and again.
    trajectory : list of Record
        One for each look at the rule.
    rollbacks : list of int
        Iterations at which the fit had broken down, and went back to earlier weights.
    network : Network
        The generator with its weights at the end.
    seconds : float
        Wall-clock time of this part.
    step : float
        How large the step towards the data was: of values of pixels the part of what
        was left that was brought back, in [0, 1]; else the penalty on leaving the
        average, where that of `ADMM` is 1, so that less is more of a step. 0 where none
        was taken.
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
