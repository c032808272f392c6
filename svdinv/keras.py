"""The low-rank operators as layers for Keras 3, with thresholds that are learned.

The layers run on the TensorFlow, JAX and PyTorch backends of Keras, by way of
`svdinv.tf`, `svdinv.jax` and `svdinv.torch`. The same weights give the same results
on each, and the same names are modules in `svdinv.torch.nn`. What is learned is the
weight ``raw_threshold``; the attribute ``threshold`` is what it stands for at present.

Half precision, as with the policy ``"mixed_float16"``, is computed in single
precision, and the learned parameter stays in it. Complex tensors pass as they are:
Keras casts only real ones to a layer's dtype. Without XLA, that is, on TensorFlow:
its decomposition knows no complex matrices and stops at 1e-6, so that models with
these layers are compiled without it, unless ``jit_compile=True`` asks for it.
"""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, TypeAlias

from svdinv._missing import explain_missing
from svdinv.core.factors import check_method

try:
    import keras
except ImportError as error:
    if error.name != "keras":  # the framework that Keras is told to run on
        raise
    raise explain_missing("keras", "keras") from error

import numpy as np  # which Keras itself needs
from keras import ops

__all__ = [
    "Casorati",
    "FirmThreshold",
    "LocalLowRank",
    "LowRank",
    "SchattenProx",
    "SingularValueThreshold",
    "TensorSingularValueThreshold",
]

Pair: TypeAlias = int | tuple[int, int]

_FACES = {"tensorflow": "svdinv.tf", "jax": "svdinv.jax", "torch": "svdinv.torch"}

_register = keras.saving.register_keras_serializable(package="svdinv")


def _face() -> ModuleType:
    """Give the functions for the framework that Keras runs on."""
    backend = keras.backend.backend()
    if backend not in _FACES:
        raise NotImplementedError(
            f"svdinv.keras runs on {', '.join(_FACES)}, not on Keras's {backend}"
        )
    return import_module(_FACES[backend])


class _Layer(keras.layers.Layer):
    """What keeps the shape and takes channels first or last."""

    core = 2  # axes of what is thresholded, beside those of batch and channels

    def __init__(self, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if data_format is None:
            data_format = keras.config.image_data_format()
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(
                "data_format must be 'channels_first' or 'channels_last', got "
                f"{data_format!r}"
            )
        self.data_format = data_format
        if keras.backend.backend() == "tensorflow":
            self.supports_jit = False

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Give the shape of the input."""
        return input_shape

    def compute_output_spec(self, x: Any, **_: Any) -> Any:
        """Give the shape and dtype of the input."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Map a tensor."""
        last = self.data_format == "channels_last" and len(x.shape) > self.core + 1
        if not last:
            return self._map(x, training)
        ndim, front = len(x.shape), len(x.shape) - self.core - 1
        order = (*range(front), ndim - 1, *range(front, ndim - 1))
        back = (*range(front), *range(front + 1, ndim), front)
        return ops.transpose(self._map(ops.transpose(x, order), training), back)

    def _map(self, x: Any, training: bool) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this layer."""
        return {**super().get_config(), "data_format": self.data_format}


class _Threshold(_Layer):
    """What learns a threshold: positive by softplus, or in (0, 1) by a sigmoid."""

    def __init__(
        self,
        threshold: Any,
        *,
        relative: bool = False,
        channels: int | None = None,
        num_values: int | None = None,
        method: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.relative = relative
        self.channels = channels
        self.num_values = num_values
        self.method = method
        check_method(method)
        shape = tuple(n for n in (channels, num_values) if n is not None)
        start = np.asarray(threshold, dtype=np.float64)
        if not np.all((start > 0) & (start < (1 if relative else np.inf))):
            range_ = "between 0 and 1" if relative else "positive and finite"
            raise ValueError(f"threshold must be {range_}, got {threshold}")
        if np.broadcast_shapes(start.shape, shape) != shape:
            raise ValueError(
                f"threshold must broadcast to {shape}, got shape {start.shape}"
            )
        self._start = start
        inverse = np.log(start) - np.log1p(-start) if relative else _inverted(start)
        raw = np.broadcast_to(inverse, shape).copy()
        self.raw_threshold = self.add_weight(
            name="raw_threshold",
            shape=shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(raw, dtype),
            autocast=False,
        )

    @property
    def threshold(self) -> Any:
        """Current threshold: one number, or of shape (channels,)."""
        raw = ops.convert_to_tensor(self.raw_threshold)
        return ops.sigmoid(raw) if self.relative else ops.softplus(raw)

    def _tau(self, x: Any) -> Any:
        """Threshold for `x`, channels first, of which it checks the channels."""
        ndim, axis = len(x.shape), -self.core - 1
        # The first axis is that of the batch.
        if self.channels is not None and (
            ndim < 1 - axis or x.shape[axis] not in (None, self.channels)
        ):
            raise ValueError(
                f"expected {self.channels} channels ({self.data_format}), got "
                f"{x.shape[axis] if ndim >= 1 - axis else 'none'}"
            )
        tau = self.threshold
        if self.num_values is None:
            return tau
        shape = tuple(tau.shape)
        return ops.reshape(tau, (1,) * (ndim - 1 - len(shape)) + shape)

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this layer."""
        config = {"threshold": self._start.tolist(), **super().get_config()}
        return {**config, **{name: getattr(self, name) for name in self._arguments()}}

    def _arguments(self) -> tuple[str, ...]:
        return "relative", "channels", "method"


@_register
class SingularValueThreshold(_Threshold):
    """Soft-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        First threshold; a list or array gives one for each parameter.
    relative : bool, optional
        Whether thresholds are multiples of the largest singular value of each
        matrix, between 0 and 1; otherwise they are positive, in units of the input.
    num_values : int, optional
        Learn a threshold for each of this many singular values, min(m, n) (weighted
        nuclear norm). The derivative needs equal ones for equal singular values.
    channels : int, optional
        Learn a threshold for each channel.
    method : optional
        As for `svdinv.torch.svt`.
    data_format : {"channels_last", "channels_first"}, optional
        Which axis is that of the channels, where there is one: (B, m, n) are
        matrices, (B, m, n, C) or (B, C, m, n) one for each channel. Default:
        `keras.config.image_data_format`.
    **kwargs
        Of every layer: name, trainable, dtype.

    Examples
    --------
    >>> import keras, svdinv.keras
    >>> maps = keras.Input((None, None, 3))
    >>> svdinv.keras.SingularValueThreshold(0.2, channels=3)(maps).shape
    (None, None, None, 3)
    """

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        relative: bool = True,
        num_values: int | None = None,
        channels: int | None = None,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            num_values=num_values,
            method=method,
            data_format=data_format,
            **kwargs,
        )

    def _map(self, x: Any, training: bool) -> Any:
        tau = self._tau(x)
        return _face().svt(x, tau, relative=self.relative, method=self.method)

    def _arguments(self) -> tuple[str, ...]:
        return "num_values", *super()._arguments()


@_register
class FirmThreshold(_Threshold):
    """Firm-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        First threshold.
    gamma : float, optional
        Where shrinking ends, in multiples of the threshold; above 1. Not learned.
    relative, channels, method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        gamma: float = 3.0,
        relative: bool = True,
        channels: int | None = None,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            method=method,
            data_format=data_format,
            **kwargs,
        )
        self.gamma = gamma

    def _map(self, x: Any, training: bool) -> Any:
        tau = self._tau(x)
        return _face().firm_threshold(
            x, tau, self.gamma, relative=self.relative, method=self.method
        )

    def _arguments(self) -> tuple[str, ...]:
        return "gamma", *super()._arguments()


@_register
class SchattenProx(_Threshold):
    """Proximal operator of the sum of s^p, with a learned weight.

    Parameters
    ----------
    p : float
        1/2, 2/3, 1 or 2.
    threshold : float or nested list
        First weight of the penalty, positive, in units of the input to 2 - p.
    channels, method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    def __init__(
        self,
        p: float,
        threshold: Any = 0.1,
        *,
        channels: int | None = None,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            threshold,
            channels=channels,
            method=method,
            data_format=data_format,
            **kwargs,
        )
        self.p = p

    def _map(self, x: Any, training: bool) -> Any:
        return _face().schatten_prox(x, self._tau(x), self.p, method=self.method)

    def _arguments(self) -> tuple[str, ...]:
        return "p", "channels", "method"


@_register
class TensorSingularValueThreshold(_Threshold):
    """Soft-threshold a tensor's singular values, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        First threshold; relative to the largest singular value of each frequency.
    axis : int, optional
        Fourier axis, from -3 to -1, of the three that are not those of batch and
        channels.
    relative, channels, method, data_format, **kwargs
        As for `SingularValueThreshold`; of (B, a, b, c) or, with channels,
        (B, a, b, c, C) or (B, C, a, b, c).
    """

    core = 3

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        axis: int = -1,
        relative: bool = True,
        channels: int | None = None,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            method=method,
            data_format=data_format,
            **kwargs,
        )
        if axis not in (-3, -2, -1):  # others would count batch and channels
            raise ValueError(f"axis must be -3, -2 or -1, got {axis}")
        self.axis = axis

    def _map(self, x: Any, training: bool) -> Any:
        tau = self._tau(x)
        return _face().tsvt(
            x, tau, self.axis, relative=self.relative, method=self.method
        )

    def _arguments(self) -> tuple[str, ...]:
        return "axis", *super()._arguments()


@_register
class LocalLowRank(_Threshold):
    """Soft-threshold the blocks of a series, with a learned threshold.

    Parameters
    ----------
    block : int or (int, int)
        Height and width of a block.
    threshold : float or nested list
        First threshold; relative to the largest singular value of each block.
    stride : int or (int, int), optional
        Distance of neighbouring blocks, a divisor of `block`. Default: `block`.
    shift : "random", int or (int, int), optional
        First row and column of the first block; the tiling wraps around. With
        ``"random"``, it is drawn anew in every call while training, and 0 otherwise.
    seed : int, optional
        Of the random shift.
    relative, channels, method, data_format, **kwargs
        As for `SingularValueThreshold`; of series (B, T, H, W) or, with channels,
        (B, T, H, W, C) or (B, C, T, H, W). H and W must be known.
    """

    core = 3

    def __init__(
        self,
        block: Pair,
        threshold: Any = 0.1,
        *,
        stride: Pair | None = None,
        shift: Pair | Literal["random"] = "random",
        seed: int | None = None,
        relative: bool = True,
        channels: int | None = None,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            method=method,
            data_format=data_format,
            **kwargs,
        )
        if isinstance(shift, str) and shift != "random":
            raise ValueError(f"shift must be 'random' or integers, got {shift!r}")
        self.block, self.stride, self.shift = block, stride, shift
        self.seed = seed
        if shift == "random":
            self.seed_generator = keras.random.SeedGenerator(seed)

    def _map(self, x: Any, training: bool) -> Any:
        if self.shift != "random":
            return self._apply_operator(x, self.shift)
        if not training:
            return self._apply_operator(x, 0)
        # Rolled by index, for a shift that is a number would be compiled in.
        *_, height, width = x.shape
        (h, w), steps = _pair(self.block), _pair(self.stride or self.block)
        if None in (height, width):
            raise ValueError("the height and width of the series must be known")
        before = [(0, 0)] * (len(x.shape) - 2)
        x = ops.pad(x, [*before, (0, -height % h), (0, -width % w)])
        orders = []
        for axis, step in zip((-2, -1), steps, strict=True):
            size = x.shape[axis]
            shift = keras.random.randint((1,), 0, step, seed=self.seed_generator)
            places = ops.arange(size, dtype="int32")
            orders.append((axis, ops.mod(places - shift, size)))
            x = ops.take(x, ops.mod(places + shift, size), axis=axis)
        x = self._apply_operator(x, 0)
        for axis, order in orders:
            x = ops.take(x, order, axis=axis)
        return x[..., :height, :width]

    def _apply_operator(self, x: Any, shift: Any) -> Any:
        return _face().local_low_rank(
            x,
            self._tau(x),
            self.block,
            stride=self.stride,
            shift=shift,
            relative=self.relative,
            method=self.method,
        )

    def _arguments(self) -> tuple[str, ...]:
        return "block", "stride", "shift", "seed", *super()._arguments()


@_register
class LowRank(_Layer):
    """Best approximation of matrices of a given rank.

    Parameters
    ----------
    rank : int
        Number of singular values to keep.
    method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    def __init__(
        self,
        rank: int,
        *,
        method: str = "auto",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.rank, self.method = rank, method
        check_method(method)

    def _map(self, x: Any, training: bool) -> Any:
        return _face().low_rank(x, self.rank, method=self.method)

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this layer."""
        return {**super().get_config(), "rank": self.rank, "method": self.method}


@_register
class Casorati(keras.layers.Wrapper):
    """A layer of matrices applied to series, pixels by frames.

    Parameters
    ----------
    layer : keras.layers.Layer
        Takes matrices and keeps their shape: (B, pixels, T), with channels
        (B, pixels, T, C) or (B, C, pixels, T).
    spatial : int, optional
        Axes of a frame: 2 of an image, 3 of a volume.
    data_format : {"channels_last", "channels_first"}, optional
        Which axis is that of the channels, where there is one: series are
        (B, T, H, W), with channels (B, T, H, W, C) or (B, C, T, H, W). Default:
        that of `layer`, or `keras.config.image_data_format`.
    **kwargs
        Of every layer: name, trainable, dtype. Default dtype: that of `layer`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        spatial: int = 2,
        *,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        if data_format is None:
            data_format = getattr(layer, "data_format", None)
        self.data_format = data_format or keras.config.image_data_format()
        self.spatial = spatial

    def _first(self, ndim: int) -> int:
        """Axis of the frames: behind those of the batch and of channels first."""
        if ndim not in (self.spatial + 2, self.spatial + 3):
            raise ValueError(
                f"expected {self.spatial + 2} axes, or {self.spatial + 3} with "
                f"channels, got {ndim}"
            )
        channels = ndim == self.spatial + 3
        return 2 if channels and self.data_format == "channels_first" else 1

    def _matrices(self, shape: Any) -> tuple[Any, ...]:
        first = self._first(len(shape))
        end = first + 1 + self.spatial
        frame = shape[first + 1 : end]
        pixels = None if None in frame else math.prod(frame)
        return *shape[:first], pixels, shape[first], *shape[end:]

    def build(self, input_shape: Any) -> None:
        """Build the layer for the matrices."""
        super().build(self._matrices(input_shape))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Give the shape of the input."""
        return input_shape

    def compute_output_spec(self, x: Any, **_: Any) -> Any:
        """Give the shape of the input, and the dtype that the layer makes of it."""
        matrices = keras.KerasTensor(self._matrices(x.shape), dtype=x.dtype)
        inside = self.layer.compute_output_spec(matrices)
        return keras.KerasTensor(x.shape, dtype=inside.dtype)

    def call(self, x: Any) -> Any:
        """Apply the layer to a series."""
        ndim, first = len(x.shape), self._first(len(x.shape))
        end = first + 1 + self.spatial
        order = (*range(first), *range(first + 1, end), first, *range(end, ndim))
        x = ops.transpose(x, order)
        size = [
            length if length is not None else traced
            for length, traced in zip(x.shape, ops.shape(x), strict=True)
        ]
        pixels = math.prod(size[first : end - 1])
        matrices = ops.reshape(x, (*size[:first], pixels, *size[end - 1 :]))
        result = ops.reshape(self.layer(matrices), size)
        back = (*range(first), end - 1, *range(first, end - 1), *range(end, ndim))
        return ops.transpose(result, back)

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this layer."""
        own = {"spatial": self.spatial, "data_format": self.data_format}
        return {**super().get_config(), **own}


def _inverted(threshold: Any) -> Any:
    """Invert softplus."""
    return threshold + np.log(-np.expm1(-threshold))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
