"""Classical algorithms, unrolled, with learned priors.

Each cell is one iteration of an algorithm of `svdinv.unroll.algorithms`, with learned
step sizes and a learned prior in place of the proximal operator (Gregor & LeCun, ICML
2010; Monga, Li & Eldar, IEEE Signal Process. Mag. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from svdinv.core.namespace import real
from svdinv.unroll.algorithms.iterations import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
)
from svdinv.unroll.arrays import Array, conj, is_complex, namespace, root
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
from svdinv.unroll.priors.sparsity import shrink
from svdinv.unroll.problem import Problem

_FOURIER = TemporalFourier()

for _algorithm in (ADMM, FISTA, ISTA, PDHG, GradientDescent, LowRankPlusSparse):
    register(_algorithm)


@dataclass(frozen=True)
class LearnedPrior:
    """Learned replacement of a prior; subclasses define `layers` and `prox`.

    A registered class (`svdinv.unroll.networks.register`) is stored with the weights.

    Attributes
    ----------
    uses_step : bool
        Whether `prox` depends on the step. If no prior does, steps are not learned.

    Raises
    ------
    TypeError, ValueError
        If an attribute is invalid; the message names it.
    """

    uses_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_floats(self)

    def layers(self, axes: str) -> Mapping[str, Layer]:
        """Return the layers that a cell has for this prior, by name.

        Parameters
        ----------
        axes : str
            "B C H W" or "B T H W": axes of the images, real or complex.

        Returns
        -------
        mapping of str to Layer
            `Convolutions`, `Number`, or a function that makes a framework's layer.
        """
        raise NotImplementedError

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        """Apply the learned replacement of the proximal operator.

        Parameters
        ----------
        v : array
            Argument of the proximal operator.
        step : number or 0-d array
            Step of the algorithm, for priors that depend on it.
        layers : Layers
            The layers named by the method `layers`.

        Returns
        -------
        array
            An array of the shape of `v`.
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class LowRank(LearnedPrior):
    """Singular value thresholding at a learned fraction of the largest singular value.

    ``tau = sigmoid(threshold) * s_1``, for the Casorati matrix of each series, frames x
    pixels, or for each channel of each image.

    Attributes
    ----------
    threshold : float
        Initial value.
    joint : bool
        Whether the channels of an image form one matrix, channels x pixels, like the
        frames of a series. For channels that are energy bins or real-valued frames.
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
    """Soft thresholding at a learned multiple of the root mean square.

    ``tau = exp(threshold) * rms``, for each series after an orthonormal Fourier
    transform along time, or for each image directly.

    Attributes
    ----------
    threshold : float
        Initial value.
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
    """Singular value thresholding between two learned transforms, with a residual.

    ``v + D(SVT(E(v)))``, as in TLR-Net and T2LR-Net.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    channels : int
        Channels of real images; not used for series.
    threshold : float
        Initial value of c, for thresholds ``sigmoid(c) * s_1``.
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
        check_image(v, "B C H W", channels=self.channels)
        share = fraction(layers.threshold, xp)
        return v + layers.synthesis(layers.svt(layers.analysis(v), share))


@register
@dataclass(frozen=True, kw_only=True)
class Unrolled(ImageOrSeriesRecipe):
    """An unrolled classical algorithm.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    algorithm : Algorithm
        The iteration. Each cell learns the logarithms of its parameters, which
        therefore stay positive. Its `batch_axes` become 1, to treat images separately.
    prior : LearnedPrior or tuple of LearnedPrior
        Learned replacement of the proximal operator: a pair for `LowRankPlusSparse`;
        for `GradientDescent` a prior whose `prox` is the gradient.
    images : {"series", "image"}
        Complex series (B, T, H, W) measured by MRI, with mask and coil maps; or real
        images (B, C, H, W) sampled by a mask. With a passed operator: complex or real.
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
        is_pair = isinstance(self.algorithm, LowRankPlusSparse)
        if len(self.priors) != 1 + is_pair:
            number = "two priors" if is_pair else "one prior"
            raise ValueError(
                f"{type(self.algorithm).__name__} takes {number}, got {self.prior!r}"
            )

    @property
    def priors(self) -> tuple[LearnedPrior, ...]:
        """The priors as a tuple of one or two."""
        return self.prior if isinstance(self.prior, tuple) else (self.prior,)

    def layers(self, last: bool) -> Mapping[str, Layer]:
        unused = set(self.algorithm.unused_in_last if last else ())
        if not any(prior.uses_step for prior in self.priors):
            unused.update(self.algorithm.only_for_prox)
        layers: dict[str, Layer] = {
            f"log_{name}": None if name in unused else Number(math.log(value))
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
        # A parameter that a cell lacks has no effect there.
        p = {n: 1.0 if c is None else xp.exp(c) for n, c in numbers.items()}
        learned_priors = [
            _Learned(prior, Part(layers, label))
            for label, prior in zip(self._labels(), self.priors, strict=True)
        ]
        algorithm, prox = self.algorithm.bind(
            learned_priors if len(learned_priors) > 1 else learned_priors[0]
        )
        return algorithm.iterate(state, problem, prox, p)

    def _labels(self) -> list[str]:
        return ["prior_"] if len(self.priors) == 1 else ["low_rank_", "sparse_"]


class _Learned:
    """A `LearnedPrior` with its layers, with the interface of a fixed prior."""

    def __init__(self, prior: LearnedPrior, layers: Any) -> None:
        self.prior, self.layers = prior, layers

    def prox(self, v: Array, step: Any) -> Array:
        return self.prior.prox(v, step, self.layers)

    def gradient(self, x: Array) -> Array:
        return self.prior.prox(x, 1.0, self.layers)


def _soft(z: Array, c: Array) -> Array:
    """Soft-threshold at exp(c) times the root mean square of each image, (B, ...)."""
    xp = namespace(z)
    square = real(conj(z, xp) * z, xp)
    mean = xp.mean(square, axis=tuple(range(1, len(z.shape))), keepdims=True)
    return shrink(z, xp.exp(c) * root(mean, xp))
