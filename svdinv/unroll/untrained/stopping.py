"""Rules for stopping the fit of a network to noisy data, without the truth.

A generator fits an image before it fits noise, so the fit has to stop in between. A
rule computes a criterion of the average of the iterates. The average at its minimum is
returned, and the fit ends when the criterion has not decreased for some iterations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svdinv.unroll.algorithms.cross_validation import held_out
from svdinv.unroll.arrays import to_numpy
from svdinv.unroll.options import check_ranges, option
from svdinv.unroll.problem import Problem


class Seen(NamedTuple):
    """Input of the criterion of a rule."""

    z: Tensor  # expected data of the averaged image
    moved: Tensor  # the same for the second fit, for a rule that `probes`
    y: Tensor  # the data
    measured: Tensor  # bool, True where there are data
    chosen: Any  # result of the rule's `choose`
    image: Tensor  # of this iteration, not averaged


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A stopping rule; subclasses define the criterion. By default it never stops.

    Attributes
    ----------
    patience : int
        Iterations without a smaller value after which the fit ends.

    Raises
    ------
    ValueError
        If an attribute is invalid; the message names it.
    """

    patience: int = option(400, low=1)

    withholds: ClassVar[bool] = False
    """Whether the data selected by `choose` are left out of the fit."""

    probes: ClassVar[float] = 0.0
    """If not 0, a second fit is made to data plus this multiple of `choose`."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, problem: Problem) -> None:
        """Raise ValueError if the rule does not apply to the problem."""

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw an array of the shape of the data, or return None."""
        return None

    def buffers(self, image: Tensor) -> dict[str, Tensor]:
        """Return the initial arrays of the rule."""
        return {}

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the criterion, which is to be minimised.

        Infinity if it is not available yet, by default always. `own` holds the arrays
        from `buffers`, which are updated in place.
        """
        return math.inf

    def reached(self, value: float) -> bool:
        """Return whether a value of the criterion ends the fit immediately."""
        return False


@dataclass(frozen=True, kw_only=True)
class HeldOut(Rule):
    """Leave a part of the data out of the fit, and minimise the error there.

    The noise of these data does not change, so the error is smallest where predicted
    data are closest to the noiseless ones. No noise level is needed. The few data that
    are much larger than the others, such as the centre of k-space, are always fitted,
    since the reconstruction needs them and they would dominate the error. Errors are
    not squared, because a few samples at edges would dominate.

    Attributes
    ----------
    share : float
        Fraction of the data that is left out.
    """

    share: float = option(0.05, above=0, below=1)

    withholds: ClassVar[bool] = True

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw the data that are left out; the largest ones never are.

        Raises ValueError if there are too few data.
        """
        y, sampled = to_numpy(problem.y), to_numpy(measured)
        held = held_out(y, sampled, self.share, seed)
        return torch.from_numpy(held).to(measured.device)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the mean absolute error of the data that were left out."""
        error = (seen.z - seen.y)[seen.chosen]
        return float(error.abs().mean()) if error.numel() else math.inf


@dataclass(frozen=True, kw_only=True)
class MovingVariance(Rule):
    """Windowed moving variance of the iterates (Wang et al., arXiv 2112.06074).

    It is smallest when the image changes least, between learning the image and learning
    the noise. No noise level is needed; for noiseless data it only decreases.

    Attributes
    ----------
    window : int
        Number of iterates, one per evaluation of the rule.
    """

    window: int = option(20, low=2)

    def buffers(self, image: Tensor) -> dict[str, Tensor]:
        """Return arrays for a part of each image in the window."""
        count = min(_MOST, self._flat(image).numel())
        return {
            "window": torch.zeros(self.window, count, device=image.device),
            "count": torch.zeros(()),
        }

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the variance over the window, averaged over the pixels."""
        window, count = own["window"], int(own["count"])
        flat = self._flat(seen.image)
        positions = torch.arange(window.shape[1], device=flat.device)
        # Elements are spread evenly over the image, the same in every iteration.
        window[count % self.window] = flat[positions * flat.numel() // window.shape[1]]
        own["count"].add_(1)
        if count + 1 < self.window:
            return math.inf
        return float(window.var(dim=0, correction=0).mean())

    @staticmethod
    def _flat(image: Tensor) -> Tensor:
        real = torch.view_as_real(image) if image.is_complex() else image
        return real.reshape(-1)


@dataclass(frozen=True, kw_only=True)
class GaussianRule(Rule):
    """A rule that needs the level of white Gaussian noise.

    Attributes
    ----------
    deviation : float
        Standard deviation of the noise; for complex data of both parts together.
    """

    deviation: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.deviation < math.inf:
            raise ValueError(f"deviation must be positive, got {self.deviation!r}")

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the fidelity is `L2` without weights."""
        if not problem.has_white_noise:
            raise ValueError(
                f"rule {type(self).__name__} is for white Gaussian noise, an L2 "
                f"fidelity without weights, got {type(problem.fidelity).__name__}"
            )


@dataclass(frozen=True, kw_only=True)
class Discrepancy(GaussianRule):
    """Stop when the residual has decreased to the noise (Morozov, 1966).

    Attributes
    ----------
    factor : float
        Root mean square of the residual at which to stop, in units of `deviation`.
    """

    factor: float = option(1.0, above=0, below=math.inf)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the excess of the squared residual over the noise, relative to it."""
        error = float((seen.z - seen.y)[seen.measured].abs().square().mean())
        return max(error / (self.factor * self.deviation) ** 2 - 1, 0.0)

    def reached(self, value: float) -> bool:
        """Return whether the residual has decreased to the noise level."""
        return value == 0


@dataclass(frozen=True, kw_only=True)
class SURE(GaussianRule):
    """Stein's unbiased estimate of the predictive risk (Stein, Ann. Stat. 1981).

    ``|z - y|^2 - m s^2 + 2 s^2 tr(dz/dy)`` with z = A f. The trace is estimated by
    Monte Carlo (Ramani, Blu & Unser, IEEE TIP 2008): a second network is fitted with
    the same seeds to slightly perturbed data, which doubles the computation time.

    Attributes
    ----------
    probe : float
        Size of the perturbation, in units of `deviation`.
    """

    probe: float = option(0.1, above=0, below=math.inf)

    @property
    def probes(self) -> float:  # type: ignore[override]
        """Size of the perturbation of the data of the second fit."""
        return self.probe * self.deviation

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw random signs, or complex numbers of magnitude 1 for complex data."""
        rng = np.random.default_rng([seed, 2])
        signs = rng.choice([-1.0, 1.0], size=(2, *problem.y.shape))
        values = signs[0]
        if problem.y.is_complex():
            values = (signs[0] + 1j * signs[1]) / math.sqrt(2)
        return torch.where(measured, torch.from_numpy(values).to(problem.y), 0)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the estimated mean squared error of the predicted data."""
        count = int(seen.measured.sum())
        error = float((seen.z - seen.y)[seen.measured].abs().square().sum())
        change = (seen.chosen.conj() * (seen.moved - seen.z)).real
        trace = float(change.sum()) / self.probes
        return (error + 2 * self.deviation**2 * trace) / count - self.deviation**2


_MOST = 2**15  # maximum number of elements of an image in the window
