"""Any of the classical algorithms, unrolled, with what is learned in its iterations.

Each cell is one iteration of an algorithm of `svdinv.unroll.algorithms`, with steps of
its own and a learned prior in place of the proximal operator of a fixed one (Gregor &
LeCun, ICML 2010; Monga, Li & Eldar, IEEE Signal Process. Mag. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from svdinv.core.namespace import real, safe_divide
from svdinv.unroll.algorithms.iterations import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
)
from svdinv.unroll.arrays import (
    Array,
    conj,
    is_complex,
    namespace,
    root,
    times,
)
from svdinv.unroll.networks.functional import (
    at_least,
    check_floats,
    check_image,
    fraction,
    low_rank_parts,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    Part,
    State,
    register,
)
from svdinv.unroll.networks.series import (
    ImageOrSeriesRecipe,
    low_rank_series,
    zero_filled,
)
from svdinv.unroll.operators import TemporalFourier
from svdinv.unroll.problem import Problem

_FOURIER = TemporalFourier()

for _algorithm in (ADMM, FISTA, ISTA, PDHG, GradientDescent, LowRankPlusSparse):
    register(_algorithm)


@dataclass(frozen=True)
class LearnedPrior:
    """What is learned in place of a prior: subclasses define `layers` and `prox`.

    Registered (`svdinv.unroll.networks.register`), it goes into the files.

    Attributes
    ----------
    uses_step : bool
        Whether `prox` depends on the step. Where no prior does, what would only set
        the step is not learned.

    Raises
    ------
    TypeError, ValueError
        If an attribute makes no network, which is named.
    """

    uses_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_floats(self)

    def layers(self, axes: str) -> Mapping[str, Layer]:
        """Name the layers that a cell has for it.

        Parameters
        ----------
        axes : str
            "B C H W" or "B T H W": axes of the images, real or complex.

        Returns
        -------
        mapping of str to Layer
            `Convolutions`, `Number`, or a function that makes a layer of the user's
            framework.
        """
        raise NotImplementedError

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        """Stand for the proximal operator.

        Parameters
        ----------
        v : array
            What the algorithm gives to a proximal operator.
        step : number or 0-d array
            The step of the algorithm, for priors that depend on it.
        layers : Layers
            Those that `layers` named.

        Returns
        -------
        array
            Of the shape of `v`.
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class LowRank(LearnedPrior):
    """Singular value thresholding at a learned part of the largest singular value.

    ``tau = sigmoid(threshold) * s_1``: of the Casorati matrix of each series, frames x
    pixels, or of each channel of each image.

    Attributes
    ----------
    threshold : float
        First value.
    joint : bool
        Whether the channels of an image are one matrix, channels x pixels, as the
        frames of a series are: bins of energy, or frames of real numbers.
    """

    threshold: float = -2.0
    joint: bool = False

    uses_step: ClassVar[bool] = False

    def layers(self, axes: str) -> Mapping[str, Layer]:
        return {"threshold": Number(self.threshold)}

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        xp = namespace(v)
        if not (self.joint or is_complex(v, xp)):
            return layers.svt(v, fraction(layers.threshold, xp))
        return low_rank_series(v, layers)


@register
@dataclass(frozen=True)
class Sparse(LearnedPrior):
    """Soft threshold at a learned multiple of the root mean square.

    ``tau = exp(threshold) * rms``, of each series after an orthonormal Fourier
    transform along time, or of each image as it is.

    Attributes
    ----------
    threshold : float
        First value.
    """

    threshold: float = 0.0

    uses_step: ClassVar[bool] = False

    def layers(self, axes: str) -> Mapping[str, Layer]:
        return {"threshold": Number(self.threshold)}

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        if not is_complex(v, namespace(v)):
            return _soft(v, layers.threshold)
        return _FOURIER.H(_soft(_FOURIER(v), layers.threshold))


@register
@dataclass(frozen=True)
class Convolved(LearnedPrior):
    """Singular value thresholding between two learned transforms, and a residual.

    ``v + D(SVT(E(v)))``, as in TLR-Net and T2LR-Net.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    channels : int
        Channels of real images.
    threshold : float
        First value of c, for thresholds ``sigmoid(c) * s_1``.
    """

    features: int = 16
    channels: int = 3
    threshold: float = -2.0

    uses_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "channels")

    def layers(self, axes: str) -> Mapping[str, Layer]:
        series = "T" in axes
        outer, hidden = 2 if series else self.channels, self.features
        chain = Convolutions((outer, hidden, hidden, outer), axes=3 if series else 2)
        return {
            "analysis": chain,
            "threshold": Number(self.threshold),
            "synthesis": chain,
        }

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        xp = namespace(v)
        if is_complex(v, xp):
            return low_rank_parts(v, layers)
        share = fraction(layers.threshold, xp)
        return v + layers.synthesis(layers.svt(layers.analysis(v), share))


@register
@dataclass(frozen=True, kw_only=True)
class Unrolled(ImageOrSeriesRecipe):
    """A classical algorithm, unrolled.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    algorithm : Algorithm
        Its iteration; the numbers that it takes are learned for each cell as their
        logarithms, and so stay positive. Its `batch_axes` become 1: images do not
        depend on what else is in the batch.
    prior : LearnedPrior or tuple of LearnedPrior
        What is learned in place of the proximal operator; for `LowRankPlusSparse` a
        pair, for `GradientDescent` a prior whose `prox` is the gradient.
    images : {"series", "image"}
        Complex series (B, T, H, W) measured by MRI, from mask and coil maps; or real
        images (B, C, H, W) sampled by a mask. With an operator of one's own only real
        or complex matters.
    """

    algorithm: Algorithm = field(default_factory=ISTA)
    prior: LearnedPrior | tuple[LearnedPrior, ...] = field(default_factory=LowRank)
    images: Literal["image", "series"] = "series"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.algorithm, Algorithm):
            raise TypeError(f"algorithm must be an Algorithm, got {self.algorithm!r}")
        if getattr(self.algorithm, "batch_axes", 1) != 1:
            algorithm: Any = self.algorithm
            object.__setattr__(self, "algorithm", replace(algorithm, batch_axes=1))
        for prior in self.priors:
            if not isinstance(prior, LearnedPrior):
                raise TypeError(
                    f"prior must be a LearnedPrior or a tuple, got {self.prior!r}"
                )
        both = isinstance(self.algorithm, LowRankPlusSparse)
        if len(self.priors) != 1 + both:
            number = "two priors" if both else "one prior"
            raise ValueError(
                f"{type(self.algorithm).__name__} takes {number}, got {self.prior!r}"
            )

    @property
    def priors(self) -> tuple[LearnedPrior, ...]:
        """The prior, or both."""
        return self.prior if isinstance(self.prior, tuple) else (self.prior,)

    def layers(self, last: bool) -> Mapping[str, Layer]:
        idle = set(self.algorithm.idle_at_last if last else ())
        if not any(prior.uses_step for prior in self.priors):
            idle.update(self.algorithm.only_for_prox)
        layers: dict[str, Layer] = {
            f"log_{name}": None if name in idle else Number(math.log(value))
            for name, value in self.algorithm.parameters.items()
        }
        for label, prior in zip(self._labels(), self.priors, strict=True):
            for name, layer in prior.layers(self.axes).items():
                layers[label + name] = layer
        return layers

    def begin(self, problem: Problem) -> State:
        if self.images == "series":
            return self.algorithm.start(problem, zero_filled(problem))
        x = problem.adjoint()
        check_image(x, self.axes)
        return self.algorithm.start(problem, x)

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        xp = namespace(state["x"])
        names = self.algorithm.parameters
        numbers = {name: getattr(layers, f"log_{name}") for name in names}
        # What a cell lacks has no effect there.
        p = {n: 1.0 if c is None else xp.exp(c) for n, c in numbers.items()}
        joined = [
            _Learned(prior, Part(layers, label))
            for label, prior in zip(self._labels(), self.priors, strict=True)
        ]
        algorithm, prox = self.algorithm.bind(joined if len(joined) > 1 else joined[0])
        return algorithm.iterate(state, problem, prox, p)

    def _labels(self) -> list[str]:
        return ["prior_"] if len(self.priors) == 1 else ["low_rank_", "sparse_"]


class _Learned:
    """A prior with its layers, in place of one that is fixed."""

    def __init__(self, prior: LearnedPrior, layers: Any) -> None:
        self.prior, self.layers = prior, layers

    def prox(self, v: Array, step: Any) -> Array:
        return self.prior.prox(v, step, self.layers)

    def gradient(self, x: Array) -> Array:
        return self.prior.prox(x, 1.0, self.layers)


def _soft(z: Array, c: Array) -> Array:
    """Soft threshold at exp(c) times the root mean square of each image, (B, ...)."""
    xp = namespace(z)
    square = real(conj(z, xp) * z, xp)
    inside = tuple(range(1, len(z.shape)))
    tau = xp.exp(c) * root(xp.mean(square, axis=inside, keepdims=True), xp)
    size = root(square, xp)
    kept = size > tau
    inverse = safe_divide(xp.ones_like(size), size, kept, xp)
    gain = xp.where(kept, 1 - tau * inverse, xp.zeros_like(size))
    return times(gain, z, xp)
