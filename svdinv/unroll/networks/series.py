"""Networks for dynamic MRI: SLR-Net, L+S-Net and T2LR-Net.

Series are complex, (B, T, H, W). SVT thresholds the singular values of frames x pixels,
or of each frame, relative to the largest. E and D are convolutions in space and time
on real and imaginary part. One cell of each network, applied to a series x:

**SLR-Net** (Ke et al., IEEE TMI 2021), with the multiplier b::

    t = SVT(x)                                           frames x pixels
    r = x - p A^H (A x - y) - q (x + b - t)              gradient step
    x = r + D(soft(E(r), theta))                         learned sparse transform
    b = b + eta (x - t)                                  multiplier

The released code adds the second gradient, ``q (x + b - t)``, where descent subtracts
it, and it does not learn the threshold of the last cell.

**L+S-Net** (Huang et al., Medical Image Analysis 2021), with leaky ReLUs in D::

    L = SVT(x)                                           frames x pixels
    S = D(L, x)                                          learned in place of a prior
    x = L + S - gamma A^H (A (L + S) - y)                data consistency

The released code keeps gamma positive, and at 1 in the last cell.

**T2LR-Net** (Zhang, Hao & Hu, Computers in Biology and Medicine 2024), with the
auxiliary series a and w = mu / (1 + mu)::

    a = v + D(SVT(E(v))),  v = x + l                     each frame a matrix
    x = (a - l) - w A^H (A (a - l) - y)                  data consistency
    l = l + eta (x - a)                                  multiplier

The second line minimises ``|x - (a - l)|^2 + mu |A x - y|^2`` for one coil, and is a
gradient step for several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from svdinv.unroll.arrays import (
    Array,
    casorati,
    from_casorati,
    is_complex,
    like,
    namespace,
)
from svdinv.unroll.networks.functional import (
    at_least,
    check_image,
    fraction,
    low_rank_parts,
    one_of,
    positive,
    soft,
    to_channels,
    to_complex,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    Recipe,
    State,
    check_measurement,
    register,
)
from svdinv.unroll.operators import MRI, Operator
from svdinv.unroll.problem import Problem


@dataclass(frozen=True, kw_only=True)
class SeriesRecipe(Recipe):
    """A network that reconstructs complex series (B, T, H, W) from their k-space."""

    features: int = 16
    threshold: float = -2.0

    axes: ClassVar[str] = "B T H W"
    measurement: ClassVar[tuple[str, ...]] = ("mask", "maps")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features")

    def operator(self, *measurement: Array) -> Operator:
        """Return the operator that samples the k-space of each frame and coil.

        Takes a mask (B, T, H, W), and for several coils maps (B, C, H, W); None stands
        for no maps. The operator maps (B, T, H, W) to (B, T, H, W), or with maps to
        (B, T, C, H, W). Raises TypeError if the mask is missing or not an array of
        bool, ValueError if the shapes do not match.
        """
        return mri(self, measurement)


@dataclass(frozen=True, kw_only=True)
class ImageOrSeriesRecipe(Recipe):
    """A network of real images (B, C, H, W) or complex series (B, T, H, W).

    If an operator is passed, `images` only selects real or complex images.
    """

    images: Literal["image", "series"]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(("image", "series"), self, "images")

    @property
    def axes(self) -> str:  # type: ignore[override]
        """Axes of the images."""
        return SeriesRecipe.axes if self.images == "series" else "B C H W"

    @property
    def measurement(self) -> tuple[str, ...]:  # type: ignore[override]
        return (SeriesRecipe if self.images == "series" else Recipe).measurement

    def operator(self, *measurement: Array) -> Operator:
        if self.images == "series":
            return mri(self, measurement)
        return super().operator(*measurement)


def mri(recipe: Recipe, measurement: tuple[Any, ...]) -> Operator:
    """Make the MRI operator of a recipe, see `SeriesRecipe.operator`."""
    check_measurement(recipe, measurement, optional=1)
    mask, maps = (*measurement, None)[:2]
    if maps is None:
        return MRI(mask)
    if len(maps.shape) != 4:
        raise ValueError(f"maps must be (B, C, H, W), got {tuple(maps.shape)}")
    return MRI(mask, maps[:, None])


def zero_filled(problem: Problem) -> Array:
    """Return A^H y, checked to be complex series from complex k-space."""
    y = problem.y
    xp = namespace(y)
    if isinstance(problem.A, MRI) and not is_complex(y, xp):
        raise TypeError(f"the k-space must be complex, got {y.dtype}")
    x = problem.adjoint()
    check_image(x, SeriesRecipe.axes, complex_=True)
    return x


def low_rank_series(x: Array, layers: Layers) -> Array:
    """Threshold the singular values of the Casorati matrix, frames x pixels."""
    xp = namespace(x)
    matrices = layers.svt(casorati(x, xp), fraction(layers.threshold, xp))
    return from_casorati(matrices, x, xp)


@register
@dataclass(frozen=True, kw_only=True)
class SLR(SeriesRecipe):
    """Structure of an SLR-Net; the defaults are the published network.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Channels of the sparse transform.
    threshold : float
        Initial value of c, for low-rank thresholds ``sigmoid(c) * s_1``.
    sparsity : float
        Initial value of theta.
    step, coupling, multiplier : float
        Initial values of p, q and eta.
    """

    sparsity: float = 0.1
    step: float = 0.1
    coupling: float = 0.1
    multiplier: float = 0.01

    has_penalty: ClassVar[bool] = True

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "analysis": Convolutions((2, n, n, n), axes=3),
            "synthesis": Convolutions((n, n, n, 2), axes=3),
            "threshold": Number(self.threshold),
            "theta": Number(self.sparsity),
            "p": Number(self.step),
            "q": Number(self.coupling),
            "eta": None if last else Number(self.multiplier),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        return {"x": x, "b": namespace(x).zeros_like(x)}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, b = state["x"], state["b"]
        xp = namespace(x)
        t = low_rank_series(x, layers)
        p, q = (like(positive(s, xp), x, xp) for s in (layers.p, layers.q))
        r = x - p * problem.gradient(x) - q * (x + b - t)
        channels = to_channels(r, xp)
        code = layers.analysis(channels)
        corrected = channels + layers.synthesis(soft(code, layers.theta, xp))
        x = to_complex(corrected, r, xp)
        new = {"x": x, "b": b}
        if layers.eta is not None:
            new["b"] = b + like(positive(layers.eta, xp), x, xp) * (x - t)
        if "penalty" in state:
            asymmetry = layers.synthesis(code) - channels
            new["penalty"] = state["penalty"] + xp.mean(asymmetry**2) / self.cells
        return new


@register
@dataclass(frozen=True, kw_only=True)
class LS(SeriesRecipe):
    """Structure of an L+S-Net; the defaults are the published network.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    threshold : float
        Initial value of c, for low-rank thresholds ``sigmoid(c) * s_1``.
    step : float
        Initial value of gamma.
    slope : float
        Slope of the ReLUs below zero.
    """

    features: int = 32
    step: float = 1.0
    slope: float = 0.3

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "threshold": Number(self.threshold),
            "sparse": Convolutions((4, n, n, 2), axes=3, slope=self.slope),
            "gamma": Number(self.step),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        zero = namespace(x).zeros_like(x)
        return {"x": x, "low_rank": zero, "sparse": zero}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        M = state["x"]
        xp = namespace(M)
        L = low_rank_series(M, layers)
        stacked = xp.concat([to_channels(L, xp), to_channels(M, xp)], axis=1)
        S = to_complex(layers.sparse(stacked), M, xp)
        x = L + S
        x = x - like(layers.gamma, x, xp) * problem.gradient(x)
        return {"x": x, "low_rank": L, "sparse": S}


@register
@dataclass(frozen=True, kw_only=True)
class T2LR(SeriesRecipe):
    """Structure of a T2LR-Net; the defaults are the published network.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    threshold : float
        Initial value of c, for thresholds ``sigmoid(c) * s_1`` of each frame.
    data_weight : float
        Initial value of mu.
    multiplier : float
        Initial value of eta.
    """

    cells: int = 15
    data_weight: float = 0.1
    multiplier: float = 1.0

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "analysis": Convolutions((2, n, n, 2), axes=3),
            "synthesis": Convolutions((2, n, n, 2), axes=3),
            "threshold": Number(self.threshold),
            "mu": Number(self.data_weight),
            "eta": None if last else Number(self.multiplier),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        return {"x": x, "l": namespace(x).zeros_like(x)}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, l = state["x"], state["l"]
        xp = namespace(x)
        v = x + l
        a = low_rank_parts(v, layers)
        mu = like(positive(layers.mu, xp), v, xp)
        x = a - l - mu / (1 + mu) * problem.gradient(a - l)
        if layers.eta is not None:
            l = l + like(positive(layers.eta, xp), x, xp) * (x - a)
        return {"x": x, "l": l}
