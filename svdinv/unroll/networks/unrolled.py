"""Any of the classical schemes, unrolled, with what is learned in its iterations.

Each cell is one iteration of a scheme of `svdinv.unroll.schemes`, with steps of its own
and a learned prior in place of the proximal operator of a fixed one (Gregor & LeCun,
ICML 2010; Monga, Li & Eldar, IEEE Signal Process. Mag. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from svdinv.core.namespace import real, safe_divide
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    casorati,
    conj,
    from_casorati,
    is_complex,
    namespace,
    operators,
    times,
)
from svdinv.unroll.networks.parts import (
    check_image,
    fraction,
    root,
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
    at_least,
    check_floats,
    check_measurement,
    register,
)
from svdinv.unroll.networks.series import SeriesRecipe, mri, zero_filled
from svdinv.unroll.operators import Identity, Operator, Sampling, TemporalFourier
from svdinv.unroll.schemes import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    GradientDescent,
    LowRankPlusSparse,
    Scheme,
)

__all__ = ["Convolved", "LowRank", "Prior", "Sparse", "Unrolled"]

Pullback: TypeAlias = Callable[[Array], tuple[Array, Any]]
"""From the cotangent of a result to those of what it was made of."""

_FOURIER = TemporalFourier()

for _scheme in (ADMM, FISTA, ISTA, PDHG, GradientDescent, LowRankPlusSparse):
    register(_scheme)


@dataclass(frozen=True)
class Prior:
    """What is learned in place of a regulariser: subclasses define `layers` and `prox`.

    Registered (`svdinv.unroll.networks.register`), it goes into the files.

    Attributes
    ----------
    uses_step : bool
        Whether `prox` depends on the step. Where no prior does, what would only set
        the step is not learned.
    """

    uses_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what makes no network.

        Raises
        ------
        TypeError, ValueError
            Naming the attribute.
        """
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
            What the scheme gives to a proximal operator.
        step : number or 0-d array
            The step of the scheme, for priors that depend on it.
        layers : Layers
            Those that `layers` named.

        Returns
        -------
        array
            Of the shape of `v`.
        """
        raise NotImplementedError

    def prox_vjp(
        self, v: Array, step: Any, layers: Layers
    ) -> tuple[Array, Callable[[Array], tuple[Array, dict[str, Array]]]]:
        """Give `prox` and its derivative by hand, which only NumPy and CuPy need.

        Parameters
        ----------
        v, step, layers
            As for `prox`.

        Returns
        -------
        array
            The result of `prox`.
        callable
            From the cotangent G of the result, where ``dL = Re <G, dresult>``, to the
            cotangent of `v`, and those of the numbers among the layers by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prox_vjp")


@register
@dataclass(frozen=True)
class LowRank(Prior):
    """Singular value thresholding at a learned part of the largest singular value.

    ``tau = sigmoid(threshold) * s_1``: of the Casorati matrix of each series, frames x
    pixels, or of each channel of each image.

    Attributes
    ----------
    threshold : float
        First value.
    """

    threshold: float = -2.0

    uses_step: ClassVar[bool] = False

    def layers(self, axes: str) -> Mapping[str, Layer]:
        """Name the threshold."""
        return {"threshold": Number(self.threshold)}

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        """Threshold."""
        xp = namespace(v)
        share = fraction(layers.threshold, xp)
        if not is_complex(v, xp):
            return layers.svt(v, share)
        return from_casorati(layers.svt(casorati(v, xp), share), v, xp)

    def prox_vjp(
        self, v: Array, step: Any, layers: Layers
    ) -> tuple[Array, Callable[[Array], tuple[Array, dict[str, Array]]]]:
        """Threshold, with the derivative of `svt_vjp`."""
        xp = namespace(v)
        share = fraction(layers.threshold, xp)
        matrices = casorati(v, xp) if is_complex(v, xp) else v
        result, back = operators(v).svt_vjp(matrices, share, relative=True)

        def pullback(G: Array) -> tuple[Array, dict[str, Array]]:
            gmatrices, gshare = back(from_casorati(G, matrices, xp))
            slope = share * (1 - share)
            return from_casorati(gmatrices, v, xp), {"threshold": gshare * slope}

        return from_casorati(result, v, xp), pullback


@register
@dataclass(frozen=True)
class Sparse(Prior):
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
        """Name the threshold."""
        return {"threshold": Number(self.threshold)}

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        """Threshold."""
        if not is_complex(v, namespace(v)):
            return _soft(v, layers.threshold)
        return _FOURIER.H(_soft(_FOURIER(v), layers.threshold))

    def prox_vjp(
        self, v: Array, step: Any, layers: Layers
    ) -> tuple[Array, Callable[[Array], tuple[Array, dict[str, Array]]]]:
        """Threshold, with the derivative written out."""
        transform = _FOURIER if is_complex(v, namespace(v)) else Identity()
        result, back = _soft_vjp(transform(v), layers.threshold)

        def pullback(G: Array) -> tuple[Array, dict[str, Array]]:
            gz, gc = back(transform(G))
            return transform.H(gz), {"threshold": gc}

        return transform.H(result), pullback


@register
@dataclass(frozen=True)
class Convolved(Prior):
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
        """Refuse what makes no network.

        Raises
        ------
        TypeError, ValueError
            Naming the attribute.
        """
        super().__post_init__()
        at_least(1, self, "features", "channels")

    def layers(self, axes: str) -> Mapping[str, Layer]:
        """Name both transforms and the threshold."""
        series = "T" in axes
        outer, hidden = 2 if series else self.channels, self.features
        chain = Convolutions((outer, hidden, hidden, outer), axes=3 if series else 2)
        return {
            "analysis": chain,
            "threshold": Number(self.threshold),
            "synthesis": chain,
        }

    def prox(self, v: Array, step: Any, layers: Layers) -> Array:
        """Transform, threshold, transform back, add."""
        xp = namespace(v)
        share = fraction(layers.threshold, xp)
        if not is_complex(v, xp):
            return v + layers.synthesis(layers.svt(layers.analysis(v), share))
        channels = to_channels(v, xp)
        maps = layers.svt(to_complex(layers.analysis(channels), v, xp), share)
        return to_complex(channels + layers.synthesis(to_channels(maps, xp)), v, xp)


@register
@dataclass(frozen=True, kw_only=True)
class Unrolled(Recipe):
    """A classical scheme, unrolled.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    scheme : Scheme
        Its iteration; the numbers that it takes are learned for each cell as their
        logarithms, and so stay positive. Its `batch_axes` become 1: images do not
        depend on what else is in the batch.
    prior : Prior or tuple of Prior
        What is learned in place of the proximal operator; for `LowRankPlusSparse` a
        pair, for `GradientDescent` a prior whose `prox` is the gradient.
    kind : {"series", "image"}
        Complex series (B, T, H, W) measured by MRI, from mask and coil maps; or real
        images (B, C, H, W) sampled by a mask. With an operator of one's own only real
        or complex matters.
    """

    scheme: Scheme = field(default_factory=ISTA)
    prior: Prior | tuple[Prior, ...] = field(default_factory=LowRank)
    kind: Literal["series", "image"] = "series"

    def __post_init__(self) -> None:
        """Refuse what makes no network.

        Raises
        ------
        ValueError, TypeError
            Naming the attribute.
        """
        super().__post_init__()
        if self.kind not in ("series", "image"):
            raise ValueError(f"kind must be 'series' or 'image', got {self.kind!r}")
        if not isinstance(self.scheme, Scheme):
            raise TypeError(f"scheme must be a Scheme, got {self.scheme!r}")
        if getattr(self.scheme, "batch_axes", 1) != 1:
            scheme: Any = self.scheme
            object.__setattr__(self, "scheme", replace(scheme, batch_axes=1))
        for prior in self.priors:
            if not isinstance(prior, Prior):
                raise TypeError(f"prior must be a Prior or a tuple, got {self.prior!r}")
        both = isinstance(self.scheme, LowRankPlusSparse)
        if len(self.priors) != 1 + both:
            number = "two priors" if both else "one prior"
            raise ValueError(
                f"{type(self.scheme).__name__} takes {number}, got {self.prior!r}"
            )

    @property
    def axes(self) -> str:  # type: ignore[override]
        """Axes of the images."""
        return SeriesRecipe.axes if self.kind == "series" else "B C H W"

    @property
    def measurement(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of what `operator` takes."""
        return SeriesRecipe.measurement if self.kind == "series" else ("mask",)

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The prior, or both."""
        return self.prior if isinstance(self.prior, tuple) else (self.prior,)

    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Name the numbers of the scheme and the layers of the priors."""
        idle = set(self.scheme.idle_at_last if last else ())
        if not any(prior.uses_step for prior in self.priors):
            idle.update(self.scheme.only_for_prox)
        layers: dict[str, Layer] = {
            f"log_{name}": None if name in idle else Number(math.log(value))
            for name, value in self.scheme.parameters.items()
        }
        for label, prior in zip(self._labels(), self.priors, strict=True):
            for name, layer in prior.layers(self.axes).items():
                layers[label + name] = layer
        return layers

    def operator(self, *measurement: Array) -> Operator:
        """Make the operator: for series that of MRI, for images a sampling."""
        if self.kind == "series":
            return mri(self, measurement)
        check_measurement(self, measurement)
        return Sampling(*measurement)

    def begin(self, y: Array, A: Operator) -> State:
        """Start as the scheme does, from A^H y."""
        if self.kind == "series":
            return self.scheme.start(y, A, zero_filled(y, A))
        x = A.H(y)
        check_image(x, self.axes, False, namespace(x))
        return self.scheme.start(y, A, x)

    def cell(self, state: State, y: Array, A: Operator, layers: Layers) -> State:
        """Iterate once."""
        return self.iterate(state, y, A, layers, Learned)

    def iterate(
        self,
        state: State,
        y: Array,
        A: Operator,
        layers: Layers,
        learned: Callable[[Prior, Layers, str], Learned],
    ) -> State:
        """Iterate once, with what joins a prior and its layers chosen by the caller.

        Parameters
        ----------
        state, y, A, layers
            As for `cell`.
        learned : callable
            Makes of a prior, its layers and the prefix of their names something with a
            ``prox(v, step)``.

        Returns
        -------
        dict of str to array
            The next state.
        """
        xp = namespace(state["x"])
        names = self.scheme.parameters
        numbers = {name: getattr(layers, f"log_{name}") for name in names}
        # What a cell lacks has no effect there.
        p = {n: 1.0 if c is None else xp.exp(c) for n, c in numbers.items()}
        joined = [
            learned(prior, _Part(layers, label), label)
            for label, prior in zip(self._labels(), self.priors, strict=True)
        ]
        scheme, prox = self.scheme.bind(joined if len(joined) > 1 else joined[0])
        return scheme.iterate(state, y, A, prox, p)

    def _labels(self) -> list[str]:
        return ["prior_"] if len(self.priors) == 1 else ["low_rank_", "sparse_"]


class Learned:
    """A prior with its layers, in place of a regulariser."""

    def __init__(self, prior: Prior, layers: Layers, label: str) -> None:
        self.prior, self.layers, self.label = prior, layers, label

    def prox(self, v: Array, step: Any) -> Array:
        """Give the prior's proximal operator."""
        return self.prior.prox(v, step, self.layers)

    def gradient(self, x: Array) -> Array:
        """Give the prior's gradient, of a scheme that asks for one."""
        return self.prior.prox(x, 1.0, self.layers)


class _Part:
    """The layers of one prior among those of a cell."""

    def __init__(self, layers: Layers, label: str) -> None:
        self._layers, self._label = layers, label
        self.index = layers.index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layers, self._label + name)

    def svt(
        self, matrices: Array, fraction: Array, scale: Array | None = None
    ) -> Array:
        return self._layers.svt(matrices, fraction, scale)


class _Shrinkage(NamedTuple):
    """What a soft threshold at a multiple of the root mean square is made of."""

    factor: Array
    """exp(c)."""
    rms: Array
    tau: Array
    inverse: Array
    """1 / |z| where that exceeds tau, else 0."""
    gain: Array
    """1 - tau / |z| where |z| exceeds tau, else 0."""


def _shrinkage(z: Array, c: Array, xp: Namespace) -> _Shrinkage:
    square = real(conj(z, xp) * z, xp)
    rms = root(xp.mean(square, axis=_inside(z), keepdims=True), xp)
    factor = xp.exp(c)
    tau, size = factor * rms, root(square, xp)
    kept = size > tau
    inverse = safe_divide(xp.ones_like(size), size, kept, xp)
    gain = xp.where(kept, 1 - tau * inverse, xp.zeros_like(size))
    return _Shrinkage(factor, rms, tau, inverse, gain)


def _soft(z: Array, c: Array) -> Array:
    """Soft threshold at exp(c) times the root mean square of each image, (B, ...)."""
    xp = namespace(z)
    return times(_shrinkage(z, c, xp).gain, z, xp)


def _soft_vjp(z: Array, c: Array) -> tuple[Array, Pullback]:
    """`_soft`, and the function from a cotangent to those of z and c."""
    xp = namespace(z)
    s = _shrinkage(z, c, xp)

    def pullback(G: Array) -> tuple[Array, Array]:
        # Along the phase u of z the result moves as z does; across, by the gain.
        u = times(s.inverse, z, xp)
        along = real(conj(u, xp) * G, xp)
        gz = times(s.gain, G, xp) + times(s.tau * s.inverse * along, u, xp)
        gtau = -xp.sum(along, axis=_inside(z), keepdims=True)
        count = math.prod(z.shape[1:])
        slope = safe_divide(gtau * s.factor, s.rms * count, s.rms > 0, xp)
        return gz + times(slope, z, xp), xp.sum(gtau * s.tau)

    return times(s.gain, z, xp), pullback


def _inside(z: Array) -> tuple[int, ...]:
    return tuple(range(1, len(z.shape)))
