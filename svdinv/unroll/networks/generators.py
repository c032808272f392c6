"""Generators: untrained networks used as image priors.

The image is the output of a network for an input that is not data, such as noise::

    x = f(z),  weights = argmin of  D(A f(z), y) + R(f(z))

(deep image prior; Ulyanov, Vedaldi & Lempitsky, CVPR 2018), fitted to one measurement
by `svdinv.unroll.untrained.fit`. Each is a recipe of one cell: the same weights
generate the same image in PyTorch and in Keras. A generator whose input is the adjoint
image can be trained, then fitted (educated prior, Barbano et al., arXiv 2111.11926).

Real images have `channels` channels. For complex series `channels` is the number of
frames; real and imaginary parts are 2 `channels` channels of one image, or with
`along_time` two channels of a volume with a time axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    cast_like,
    inner,
    like,
    namespace,
    root,
    sizes,
    times,
)
from svdinv.unroll.networks.functional import (
    at_least,
    check_features,
    check_image,
    fraction,
    halved,
    one_of,
    require,
    residual_gains,
    to_channels,
    to_complex,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Part,
    State,
    register,
)
from svdinv.unroll.networks.series import ImageOrSeriesRecipe, zero_filled
from svdinv.unroll.problem import Problem

_LARGEST = 0.1  # upper limit of the input noise


@dataclass(frozen=True, kw_only=True)
class Generator(ImageOrSeriesRecipe):
    """A network that generates an image from noise; subclasses define the layers.

    Attributes
    ----------
    cells : int
        1: a generator is a single network.
    images : {"image", "series"}
        Real images (B, C, H, W), or complex series (B, T, H, W).
    channels : int
        C or T.
    along_time : bool
        Whether convolutions also run along the frames of a series; T may then vary.
    source : {"noise", "adjoint"}
        Input of the network: uniform noise in [0, 0.1]; or A^H y, for real images the
        operator's approximate inverse, such as filtered back-projection.
    depth : int
        Channels of the noise.
    seed : int
        Seed of the noise.
    bounded : bool
        Whether a sigmoid maps real images to (0, 1); false for images not in [0, 1].
    slope : float
        Slope of the ReLUs below zero.
    """

    cells: int = 1
    images: Literal["image", "series"] = "image"
    channels: int = 3
    along_time: bool = False
    source: Literal["noise", "adjoint"] = "noise"
    depth: int = 32
    seed: int = 0
    bounded: bool = True
    slope: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "channels", "depth")
        at_least(0, self, "seed")
        require(self.cells == 1, self, "cells", "1")
        one_of(("noise", "adjoint"), self, "source")
        if self.along_time and self.images != "series":
            raise ValueError("along_time is for series")

    def _only_series_of_noise(self) -> None:
        if self.images != "series" or self.along_time or self.source != "noise":
            raise ValueError("images must be 'series', of noise, not along_time")

    @property
    def outputs(self) -> int:
        """Number of real channels that represent an image."""
        if self.along_time:
            return 2
        return self.channels * (2 if self.images == "series" else 1)

    @property
    def inputs(self) -> int:
        """Number of input channels of the network."""
        return self.depth if self.source == "noise" else self.outputs

    def layers(self, last: bool) -> Mapping[str, Layer]:
        return self.parts(self.inputs, self.outputs)

    def parts(self, inputs: int, outputs: int) -> Mapping[str, Layer]:
        """Return the layers that map `inputs` to `outputs` channels, by name."""
        raise NotImplementedError

    def noise_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Return height and width of the noise for an image of `rows` x `columns`."""
        return rows, columns

    def maps(self, z: Array, layers: Layers, H: int, W: int) -> Array:
        """Map inputs (B, inputs, ..., h, w) to the image (B, outputs, ..., H, W)."""
        raise NotImplementedError

    def begin(self, problem: Problem) -> State:
        """Return A^H y, its root mean square and the input of the network, ``"z"``."""
        if self.images == "series":
            x = zero_filled(problem)
        else:
            x = problem.adjoint()
            if self.source == "adjoint":
                x = problem.A.approximate_inverse(problem.y)
            check_image(x, self.axes, channels=self.channels)
        xp = namespace(x)
        B, T, H, W = sizes(x, xp)
        if not self.along_time and self.channels != T:
            raise ValueError(
                f"the network is for {self.channels} frames, got shape {(B, T, H, W)}"
            )
        Ax = problem.A.forward(x)
        data_axes = tuple(range(1, len(Ax.shape)))
        square, data_square = inner(x, x, axis=(1, 2, 3)), inner(Ax, Ax, axis=data_axes)
        one = xp.ones_like(square)
        # The scale of the multiple of x that fits the data best, for any norm of A.
        factor = inner(Ax, problem.A.project_to_samples(problem.y), axis=data_axes)
        factor = factor / xp.where(data_square > 0, data_square, one)
        scale = root(square / (T * H * W), xp) * factor
        scale = xp.where(scale > 0, scale, one)[:, None, None, None]
        if self.source == "adjoint":
            return {"x": x, "scale": scale, "z": self.as_maps(times(1 / scale, x, xp))}
        rng = np.random.default_rng(self.seed)
        shape = (*([T] if self.along_time else []), *self.noise_shape(H, W))
        drawn = rng.uniform(0, _LARGEST, (1, self.depth, *shape))
        z = like(cast_like(drawn, scale, xp), scale, xp)
        # The same noise for every item of the batch.
        zeros = xp.reshape(xp.zeros_like(scale), (-1, *[1] * (len(z.shape) - 1)))
        return {"x": x, "scale": scale, "z": z + zeros}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, z = state["x"], state["z"]
        xp = namespace(x)
        maps = self.maps(z, layers, *sizes(x, xp)[-2:])
        return state | {"x": self._as_image(maps, x, state["scale"], xp)}

    def as_maps(self, x: Array) -> Array:
        """Return an image as maps, (B, outputs, ..., H, W)."""
        xp = namespace(x)
        if self.images == "image":
            return x
        maps = to_channels(x, xp)
        if self.along_time:
            return maps
        B, _, T, H, W = sizes(maps, xp)
        return xp.reshape(maps, (B, 2 * T, H, W))

    def _as_image(self, maps: Array, x: Array, scale: Array, xp: Namespace) -> Array:
        if self.images == "image":
            return fraction(maps, xp) if self.bounded else scale * maps
        B, T, H, W = sizes(x, xp)
        maps = xp.reshape(maps, (B, 2, T, H, W))
        return times(scale, to_complex(maps, x, xp), xp)

    def _chain(self, *widths: int, side: int = 3, image: bool = False) -> Convolutions:
        """Return normalised convolutions; a chain to an image ends with a shift."""
        count = len(widths) - 1
        return Convolutions(
            widths,
            axes=3 if self.along_time else 2,
            slope=self.slope,
            last=not image,
            gains=residual_gains(count) if image else (1.0,) * count,
            side=side,
            normalised=True,
        )


@register
@dataclass(frozen=True, kw_only=True)
class Skip(Generator):
    """Encoder and decoder with skip connections (Ulyanov, Vedaldi & Lempitsky, 2018).

    With few skips, only at the coarse scales, and `source` "adjoint" it is the U-Net of
    the educated deep image prior.

    Attributes
    ----------
    features : tuple of int
        Channels at each scale, finest first.
    skips : tuple of int
        Channels of the skip connection at each scale; 0 for none.
    residual : bool
        Whether to add the input to the output; needs `source` "adjoint", not `bounded`.
    """

    features: tuple[int, ...] = (32, 32, 32, 32, 32)
    skips: tuple[int, ...] = (4, 4, 4, 4, 4)
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self, "features", 1)
        check_features(self, "skips", 0)
        one_each = len(self.skips) == len(self.features)
        require(one_each, self, "skips", "one for each scale")
        bounded = self.images == "image" and self.bounded
        if self.residual and (self.source != "adjoint" or bounded):
            raise ValueError("residual needs source 'adjoint' and bounded=False")

    def parts(self, inputs: int, outputs: int) -> Mapping[str, Layer]:
        layers: dict[str, Layer] = {}
        channels = inputs
        for scale, (width, skip) in enumerate(
            zip(self.features, self.skips, strict=True)
        ):
            skip_chain = self._chain(channels, skip, side=1) if skip else None
            layers[f"skip_{scale}"] = skip_chain
            layers[f"encoder_{scale}"] = self._chain(channels, width, width)
            channels = width
        for scale in reversed(range(len(self.features))):
            width = self.features[scale]
            joined = channels + self.skips[scale]
            layers[f"decoder_{scale}"] = self._chain(joined, width)
            channels = width
        layers["image"] = self._chain(channels, outputs, side=1, image=True)
        return layers

    def maps(self, z: Array, layers: Layers, H: int, W: int) -> Array:
        xp = namespace(z)
        maps, skips = z, []
        for scale in range(len(self.features)):
            skip = getattr(layers, f"skip_{scale}")
            skips.append((sizes(maps, xp)[-2:], skip and skip(maps)))
            maps = getattr(layers, f"encoder_{scale}")(halved(maps, xp))
        for scale in reversed(range(len(self.features))):
            (rows, columns), skip = skips[scale]
            maps = layers.doubled(maps)[..., :rows, :columns]
            if skip is not None:
                maps = xp.concat([maps, skip], axis=1)
            maps = getattr(layers, f"decoder_{scale}")(maps)
        return layers.image(maps)

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        """Generate an image, or with `residual` a correction of the input."""
        new = super().cell(state, problem, layers)
        return new | {"x": state["x"] + new["x"]} if self.residual else new


@register
@dataclass(frozen=True, kw_only=True)
class Decoder(Generator):
    """A decoder of coarse noise: deep decoder or ConvDecoder.

    With `side` 1 it is the deep decoder (Heckel & Hand, ICLR 2019), which has few
    weights: linear combinations of channels and upsampling. With `side` 3 it is the
    ConvDecoder (Darestani & Heckel, IEEE Trans. Comput. Imaging 2021).

    Attributes
    ----------
    features : tuple of int
        Channels at each scale, coarsest first.
    side : int
        Side of the kernels.
    """

    features: tuple[int, ...] = (64, 64, 64, 64, 64)
    side: Literal[1, 3] = 1
    depth: int = 64

    source: Literal["noise"] = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self, "features", 1)
        require(self.source == "noise", self, "source", "'noise'")
        self._chain(1, 1, side=self.side)

    def noise_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return self._sizes(rows)[0], self._sizes(columns)[0]

    def parts(self, inputs: int, outputs: int) -> Mapping[str, Layer]:
        widths = (inputs, *self.features)
        layers: dict[str, Layer] = {
            f"decoder_{scale}": self._chain(*widths[scale : scale + 2], side=self.side)
            for scale in range(len(self.features))
        }
        layers["image"] = self._chain(widths[-1], outputs, side=1, image=True)
        return layers

    def maps(self, z: Array, layers: Layers, H: int, W: int) -> Array:
        maps = z
        pairs = zip(self._sizes(H)[1:], self._sizes(W)[1:], strict=True)
        for scale, (rows, columns) in enumerate(pairs):
            maps = getattr(layers, f"decoder_{scale}")(maps)
            maps = layers.doubled(maps)[..., :rows, :columns]
        maps = getattr(layers, f"decoder_{len(self.features) - 1}")(maps)
        return layers.image(maps)

    def _sizes(self, size: int) -> list[int]:
        """Return the sizes at all scales, coarsest first."""
        sizes_ = [size]
        for _ in self.features[1:]:
            sizes_.append(-(-sizes_[-1] // 2))
        return sizes_[::-1]


@register
@dataclass(frozen=True, kw_only=True)
class Bilinear(Generator):
    """A series of low rank: generated images times functions of time.

    ``x_t = sum over r of U_r v_r(t)`` with `rank` complex images U_r, which `space`
    generates, and v_0 = 1 for the static part. The other functions are free parameters,
    or a network's output for learned codes of frames (Ahmed et al., arXiv 2106.15785).

    Attributes
    ----------
    rank : int
        Number of images.
    space : Decoder or Skip
        Generator of the images; its `images` and `channels` are replaced.
    time : tuple of int
        Widths of the network for the functions of time: length of a frame's code, then
        of each hidden layer. If empty, the functions are free parameters.
    """

    rank: int = 6
    space: Decoder | Skip = field(default_factory=Skip)
    time: tuple[int, ...] = ()
    images: Literal["image", "series"] = "series"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "rank")
        if self.time:
            check_features(self, "time", 1)
        self._only_series_of_noise()
        if not isinstance(self.space, (Decoder, Skip)):
            raise TypeError(f"space must be a Decoder or a Skip, got {self.space!r}")
        if self.space.along_time or self.space.source != "noise":
            raise ValueError("space must have source 'noise' and along_time=False")
        own = replace(self.space, images="series", channels=self.rank, depth=self.depth)
        object.__setattr__(self, "space", own)

    def noise_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return self.space.noise_shape(rows, columns)

    def parts(self, inputs: int, outputs: int) -> Mapping[str, Layer]:
        layers = dict(self.space.parts(inputs, self.space.outputs))
        if self.rank > 1:
            widths = (self.channels, *self.time, 2 * (self.rank - 1))
            gains = (1.0,) * (len(widths) - 1)
            layers["time"] = Convolutions(
                widths, axes=2, slope=self.slope, gains=gains, side=1
            )
        return layers

    def maps(self, z: Array, layers: Layers, H: int, W: int) -> Array:
        xp = namespace(z)
        maps = self.space.maps(z, layers, H, W)
        B = sizes(maps, xp)[0]
        parts = xp.reshape(maps, (B, 2, self.rank, H * W))
        zero = xp.zeros_like(parts[:, :, :1, :1])
        real, imaginary = (
            xp.concat([zero[:, k] + (1 - k)] * self.channels, axis=2) for k in range(2)
        )
        if self.rank > 1:
            # For a unit matrix, one column per frame, the layer returns the functions.
            frames = np.eye(self.channels, dtype=np.float32)[None, ..., None]
            frames = cast_like(frames, z, xp) + xp.zeros_like(z[:, :1, :1, :1])
            functions = layers.time(frames)
            functions = xp.reshape(functions, (B, 2, self.rank - 1, self.channels))
            real = xp.concat([real, functions[:, 0]], axis=1)
            imaginary = xp.concat([imaginary, functions[:, 1]], axis=1)
        a, b = xp.matrix_transpose(real), xp.matrix_transpose(imaginary)
        u, v = parts[:, 0], parts[:, 1]
        series = xp.stack([a @ u - b @ v, a @ v + b @ u], axis=1)
        return xp.reshape(series, (B, 2 * self.channels, H, W))


@register
@dataclass(frozen=True, kw_only=True)
class LowRankAndSparse(Generator):
    """The sum of two generators, the second one penalised to be sparse.

    The penalty is the sum of the magnitudes of the second, times the root mean square
    of the image, so that it scales like half the squared distance to the data.

    Attributes
    ----------
    low_rank : Bilinear
        The first generator; its `channels` are replaced.
    sparse : Decoder
        The second generator; its `images` and `channels` are replaced.
    """

    low_rank: Bilinear = field(default_factory=lambda: Bilinear(space=Decoder()))
    sparse: Decoder = field(default_factory=Decoder)
    images: Literal["image", "series"] = "series"

    has_penalty: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._only_series_of_noise()
        for name, kind in (("low_rank", Bilinear), ("sparse", Decoder)):
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {part!r}")
            generator = replace(
                part, channels=self.channels, images="series", depth=self.depth
            )
            object.__setattr__(self, name, generator)
        sizes_ = [g.noise_shape(2**20, 2**20) for g in (self.low_rank, self.sparse)]
        if sizes_[0] != sizes_[1]:
            raise ValueError("low_rank and sparse must have the same number of scales")

    def noise_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return self.sparse.noise_shape(rows, columns)

    def parts(self, inputs: int, outputs: int) -> Mapping[str, Layer]:
        named: dict[str, Layer] = {}
        for label in ("low_rank", "sparse"):
            for name, layer in getattr(self, label).parts(inputs, outputs).items():
                named[f"{label}_{name}"] = layer
        return named

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, z, scale = state["x"], state["z"], state["scale"]
        xp = namespace(x)
        H, W = sizes(x, xp)[-2:]
        maps = (
            getattr(self, label).maps(z, Part(layers, f"{label}_"), H, W)
            for label in ("low_rank", "sparse")
        )
        low_rank, sparse = (self._as_image(m, x, scale, xp) for m in maps)
        new = {"x": low_rank + sparse, "low_rank": low_rank, "sparse": sparse}
        if "penalty" in state:
            size = xp.sum(times(scale, xp.abs(sparse), xp))
            new["penalty"] = state["penalty"] + size
        return state | new
