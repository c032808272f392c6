"""When to stop fitting a network to noisy data, without the truth.

A generator fits an image before it fits noise, so that the fit has to end between the
two. Each rule gives a number for the average of the iterates so far; the image kept is
that of its least value, and the fit ends when it has not fallen for some time.
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
    """What a rule is asked about."""

    z: Tensor  # expected to be measured of the averaged image
    moved: Tensor  # the same of the fit to other data, for a rule that `probes`
    y: Tensor  # the data
    measured: Tensor  # bool, where there are data
    chosen: Any  # what the rule gave as `choose`
    image: Tensor  # of this iteration, not averaged


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: subclasses say what is to be small; by default it fits to the end.

    Attributes
    ----------
    patience : int
        Iterations without a smaller value after which the fit ends.

    Raises
    ------
    ValueError
        If an attribute makes no rule, which is named.
    """

    patience: int = option(400, low=1)

    withholds: ClassVar[bool] = False
    """Whether the data that it chooses are left out of the fit."""

    probes: ClassVar[float] = 0.0
    """If not 0, a second fit is to data perturbed by that multiple of its choice."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, problem: Problem) -> None:
        """Refuse a problem that the rule is not for, by ValueError."""

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw an array of the shape of the data, or nothing."""
        return None

    def buffers(self, image: Tensor) -> dict[str, Tensor]:
        """Return the initial arrays of the rule."""
        return {}

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the criterion, which is to be small.

        Infinity where it cannot be told yet, by default always. `own` is what `buffers`
        returned, to be changed in place.
        """
        return math.inf

    def reached(self, value: float) -> bool:
        """Return whether a value of the criterion ends the fit at once."""
        return False


@dataclass(frozen=True, kw_only=True)
class HeldOut(Rule):
    """Leave a part of the data out of the fit, and watch the error there.

    Noise is the same in every iteration, so that the error is least where the image as
    measured is nearest to the truth. Needs no noise level. The few data that are far
    larger than the others, such as the middle of k-space, are always fitted: without
    them the image is another one, and they alone would be the error. Nor are errors
    squared: of few samples some at edges would decide.

    Attributes
    ----------
    share : float
        Of the data.
    """

    share: float = option(0.05, above=0, below=1)

    withholds: ClassVar[bool] = True

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw them, evenly but for the largest.

        Raises ValueError if there are too few data.
        """
        y, known = to_numpy(problem.y), to_numpy(measured)
        held = held_out(y, known, self.share, seed)
        return torch.from_numpy(held).to(measured.device)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the mean absolute error of what was left out."""
        error = (seen.z - seen.y)[seen.chosen]
        return float(error.abs().mean()) if error.numel() else math.inf


@dataclass(frozen=True, kw_only=True)
class MovingVariance(Rule):
    """Windowed moving variance of the iterates (Wang et al., arXiv 2112.06074).

    It is least where the image stands still, between learning the image and learning
    the noise. Needs no noise level; of data without noise it only falls.

    Attributes
    ----------
    window : int
        Iterates, one for each time that the rule is asked.
    """

    window: int = option(20, low=2)

    def buffers(self, image: Tensor) -> dict[str, Tensor]:
        """Keep a part of each image of the window."""
        count = min(_MOST, self._flat(image).numel())
        return {
            "window": torch.zeros(self.window, count, device=image.device),
            "count": torch.zeros(()),
        }

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the variance over the window, the mean over the pixels."""
        window, count = own["window"], int(own["count"])
        flat = self._flat(seen.image)
        places = torch.arange(window.shape[1], device=flat.device)
        # Spread over the image, the same in every iteration.
        window[count % self.window] = flat[places * flat.numel() // window.shape[1]]
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
    """A rule that knows the level of white Gaussian noise.

    Attributes
    ----------
    deviation : float
        Standard deviation of the noise; of complex data, of both parts together.
    """

    deviation: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.deviation < math.inf:
            raise ValueError(f"deviation must be positive, got {self.deviation!r}")

    def check(self, problem: Problem) -> None:
        """Refuse other noise, by ValueError: no `L2`, or one with weights."""
        if not problem.has_white_noise:
            raise ValueError(
                f"rule {type(self).__name__} is for white Gaussian noise, an L2 "
                f"fidelity without weights, got {type(problem.fidelity).__name__}"
            )


@dataclass(frozen=True, kw_only=True)
class Discrepancy(GaussianRule):
    """End where the data are fitted as well as the noise allows (Morozov, 1966).

    Attributes
    ----------
    factor : float
        What the root mean square of the residual may be in units of `deviation`.
    """

    factor: float = option(1.0, above=0, below=math.inf)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the excess of the residual over the noise, relative to the noise."""
        error = float((seen.z - seen.y)[seen.measured].abs().square().mean())
        return max(error / (self.factor * self.deviation) ** 2 - 1, 0.0)

    def reached(self, value: float) -> bool:
        """Return whether the residual has come down to the noise."""
        return value == 0


@dataclass(frozen=True, kw_only=True)
class SURE(GaussianRule):
    """Stein's unbiased estimate of the predictive risk (Stein, Ann. Stat. 1981).

    ``|z - y|^2 - m s^2 + 2 s^2 tr(dz/dy)`` with z = A f, the trace by Monte Carlo
    (Ramani, Blu & Unser, IEEE TIP 2008): a second network is fitted beside the first,
    with the same seeds, to data that differ by a little noise. So it takes twice the
    time.

    Attributes
    ----------
    probe : float
        Size of that little noise, in units of `deviation`.
    """

    probe: float = option(0.1, above=0, below=math.inf)

    @property
    def probes(self) -> float:  # type: ignore[override]
        """How far the data of the second fit are moved."""
        return self.probe * self.deviation

    def choose(self, problem: Problem, measured: Tensor, seed: int) -> Any:
        """Draw signs, of complex data in both parts, of magnitude 1."""
        rng = np.random.default_rng([seed, 2])
        signs = rng.choice([-1.0, 1.0], size=(2, *problem.y.shape))
        drawn = signs[0]
        if problem.y.is_complex():
            drawn = (signs[0] + 1j * signs[1]) / math.sqrt(2)
        return torch.where(measured, torch.from_numpy(drawn).to(problem.y), 0)

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        """Return the estimate of the mean squared error as measured."""
        count = int(seen.measured.sum())
        error = float((seen.z - seen.y)[seen.measured].abs().square().sum())
        moved = (seen.chosen.conj() * (seen.moved - seen.z)).real
        trace = float(moved.sum()) / self.probes
        return (error + 2 * self.deviation**2 * trace) / count - self.deviation**2


_MOST = 2**15  # numbers of an image that a window keeps
