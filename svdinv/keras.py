"""The low-rank operators as layers for Keras 3, with thresholds that are learned.

The layers run on the TensorFlow, JAX and PyTorch backends of Keras, by way of
`svdinv.tf`, `svdinv.jax` and `svdinv.torch`. The same weights give the same results
on each, and the same names are modules in `svdinv.torch.nn`. The learned weight is
``raw_threshold``; the attribute ``threshold`` is the current threshold.

Half precision, as with the policy ``"mixed_float16"``, is computed in single
precision, and the learned parameter stays in it. Complex tensors keep their dtype,
since Keras casts only real ones to that of a layer; `Whitening` refuses them. On
TensorFlow, Keras compiles models with these layers without XLA, whose decomposition
does not support complex matrices and is accurate only to 1e-6.
"""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import Any

from svdinv import layers
from svdinv._missing import needing
from svdinv.operators._arguments import as_integer

with needing("keras", "keras"):
    import keras

import numpy as np  # required by Keras
from keras import ops

__all__ = [
    "Casorati",
    "FirmThreshold",
    "LocalLowRank",
    "LowRank",
    "SchattenProx",
    "SingularValueThreshold",
    "TensorSingularValueThreshold",
    "Whitening",
]

_FACES = {"tensorflow": "svdinv.tf", "jax": "svdinv.jax", "torch": "svdinv.torch"}

_register = keras.saving.register_keras_serializable(package="svdinv")

_OPTIONS = "method, data_format, **kwargs"

_TEXTS = {
    "array": "nested list",
    "an_array": "a list or array",
    "channel": "channel",
    "each_option": """method : optional
    As for `svdinv.torch.svt`.
data_format : {"channels_last", "channels_first"}, optional
    Which axis is that of the channels, where there is one: (B, m, n) are
    matrices, (B, m, n, C) or (B, C, m, n) one for each channel. Default:
    `keras.config.image_data_format`.
**kwargs
    Of every layer: name, trainable, dtype.""",
    "example": """>>> import keras, svdinv.keras
>>> maps = keras.Input((None, None, 3))
>>> svdinv.keras.SingularValueThreshold(0.2, channels=3)(maps).shape
(None, None, None, 3)""",
    "features": "",
    "fourier_axes": """from -3 to -1, of the three that are not those of batch and
    channels""",
    "method": f"{_OPTIONS}\n    As for `SingularValueThreshold`.",
    "momentum": """momentum : float, optional
    Weight of the running statistics, against that of a batch.
data_format : {"channels_last", "channels_first"}, optional
    Whether the last axis is that of the features, or the first behind that of the
    batch. Default: `keras.config.image_data_format`.
**kwargs
    Of every layer: name, trainable, dtype.""",
    "options": _OPTIONS,
    "random": "and 0 otherwise",
    "see_also": "",
    "seed": "\nseed : int, optional\n    Of the random shift.",
    "series": """of series (B, T, H, W) or, with channels,
    (B, T, H, W, C) or (B, C, T, H, W). H and W must be known""",
    "tensors": """of (B, a, b, c) or, with channels,
    (B, a, b, c, C) or (B, C, a, b, c)""",
}


def _layer(layer: type) -> type:
    """Register a layer, and set its docstring and signature."""
    return _register(layers.described(_TEXTS)(layer))


class _Layer(keras.layers.Layer):
    """Base of layers that keep the shape, with channels first or last."""

    _axes = 2  # beside those of batch and channels
    _more: tuple[str, ...] = ()  # in the configuration, besides _arguments

    def __init__(
        self, *, data_format: layers.DataFormat | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if data_format is None:
            data_format = keras.config.image_data_format()
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(
                "data_format must be 'channels_first' or 'channels_last', got "
                f"{data_format!r}"
            )
        self.data_format = data_format
        self.supports_masking = True  # rows of zeros stay zero
        if keras.backend.backend() == "tensorflow":
            self.supports_jit = False

    def _operators(self) -> ModuleType:
        backend = keras.backend.backend()
        if backend not in _FACES:
            raise NotImplementedError(
                f"svdinv.keras runs on {', '.join(_FACES)}, not on Keras's {backend}"
            )
        return import_module(_FACES[backend])

    def _try(self, *tau: float) -> None:
        # With NumPy, so that nothing is compiled or put on a device.
        self._operate(np.zeros((1, 1)), *tau, by=import_module("svdinv.numpy"))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def compute_output_spec(self, x: Any, **_: Any) -> Any:
        """Return the shape and dtype of the input."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""
        first = -self._axes - 1
        if self.data_format == "channels_first" or len(x.shape) <= -first:
            return self._map(x, training)
        x = ops.moveaxis(x, -1, first)
        return ops.moveaxis(self._map(x, training), first, -1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        names = ("data_format", *self._arguments, *self._more, *self._options)
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class _Threshold(_Layer):
    _batch_axes = 1
    _more: tuple[str, ...] = ("channels",)
    _functions, _xp = ops, np
    raw_threshold: keras.Variable

    def _double(self, threshold: Any) -> Any:
        try:
            return np.asarray(threshold, dtype=np.float64)
        except (TypeError, ValueError) as error:
            kind = type(threshold).__name__
            raise TypeError(
                f"threshold must be a number or an array, got {kind}"
            ) from error

    def _learn(self, shape: tuple[int, ...]) -> None:
        first = np.broadcast_to(self._first_raw(), shape).copy()
        self.raw_threshold = self.add_weight(
            name="raw_threshold",
            shape=shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(first, dtype),
            autocast=False,
        )

    def _raw(self) -> Any:
        return ops.convert_to_tensor(self.raw_threshold)

    def _channel_error(self, shape: Any, axis: int) -> Exception:
        found = shape[axis] if len(shape) >= 1 - axis else "none"
        return ValueError(
            f"expected {self.channels} channels ({self.data_format}), got {found}"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"threshold": self._start.tolist(), **super().get_config()}


@_layer
class SingularValueThreshold(layers.SingularValueThreshold, _Threshold):
    _more = ("channels", "num_values")


@_layer
class FirmThreshold(layers.FirmThreshold, _Threshold): ...


@_layer
class SchattenProx(layers.SchattenProx, _Threshold): ...


@_layer
class TensorSingularValueThreshold(layers.TensorSingularValueThreshold, _Threshold):
    _negative_axis = True


@_layer
class LocalLowRank(layers.LocalLowRank, _Threshold):
    _more = ("seed", "channels")

    def __init__(
        self, block: layers.Pair, threshold: Any = 0.1, *, seed: int | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(block, threshold, **options)
        self.seed = seed
        if self.shift == "random":
            self.seed_generator = keras.random.SeedGenerator(seed)

    def _pad(self, x: Any, below: int, right: int) -> Any:
        return ops.pad(x, [(0, 0)] * (len(x.shape) - 2) + [(0, below), (0, right)])

    def _draw(self, end: int, x: Any) -> Any:
        return keras.random.randint((1,), 0, end, seed=self.seed_generator)

    def _roll(self, x: Any, shift: Any, axis: int) -> Any:
        order = ops.arange(x.shape[axis], dtype="int32") + shift
        return ops.take(x, ops.mod(order, x.shape[axis]), axis=axis)


@_layer
class LowRank(layers.LowRank, _Layer): ...


@_layer
class Whitening(layers.Whitening, _Layer):
    _more = ("momentum",)

    def __init__(self, *, momentum: float = 0.99, **options: Any) -> None:
        super().__init__(momentum=momentum, **options)
        self.supports_masking = False  # masked samples would count

    @property
    def _axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Any) -> None:
        """Create the running statistics."""
        features = input_shape[self._axis] if len(input_shape) >= 2 else None
        if not features:
            raise ValueError(
                "the input must have at least two axes and a known number of features "
                f"along axis {self._axis}, got shape {tuple(input_shape)}"
            )
        kwargs = {"trainable": False, "autocast": False}
        self.moving_mean = self.add_weight(
            name="moving_mean", shape=(features,), initializer="zeros", **kwargs
        )
        self.moving_covariance = self.add_weight(
            name="moving_covariance",
            shape=(features, features),
            initializer="identity",
            **kwargs,
        )

    def call(self, x: Any, training: bool = False) -> Any:
        """Whiten a tensor; by the running statistics if the layer is not trainable."""
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype.startswith("complex"):
            raise TypeError(
                f"x must be real, got {dtype}: Keras's weights, such as the running "
                "statistics, are; call whiten of svdinv.tf, svdinv.jax or svdinv.torch"
            )
        return self._map(x, training and self.trainable)

    def _rows(self, x: Any) -> Any:
        last = ops.moveaxis(x, self._axis, -1)
        size = ops.shape(last)
        rows = ops.reshape(last, (-1, self.moving_mean.shape[0]))
        if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16"):
            rows = ops.cast(rows, "float32")  # too imprecise for statistics

        def back(y: Any) -> Any:
            y = ops.reshape(ops.cast(y, x.dtype), size)
            return ops.moveaxis(y, -1, self._axis)

        return rows, back

    def _statistics(self) -> dict[str, Any]:
        kept = {"mean": self.moving_mean, "covariance": self.moving_covariance}
        return {name: ops.convert_to_tensor(x) for name, x in kept.items()}

    def _follow(self, mean: Any, covariance: Any) -> None:
        pairs = (self.moving_mean, mean), (self.moving_covariance, covariance)
        for kept, new in pairs:
            new = ops.cast(ops.stop_gradient(new), kept.dtype)
            kept.assign(self.momentum * kept + (1 - self.momentum) * new)


@_register
class Casorati(keras.layers.Wrapper):
    """A layer for matrices, applied to series as matrices of pixels by frames.

    Parameters
    ----------
    layer : keras.layers.Layer
        Keeps the shape of matrices: (B, pixels, T), with channels
        (B, pixels, T, C) or (B, C, pixels, T).
    spatial : int, optional
        Axes of a frame: 2 of an image, 3 of a volume.
    data_format : {"channels_last", "channels_first"}, optional
        Position of the axis of channels, if there is one: series are
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
        data_format: layers.DataFormat | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"layer must be a Keras layer, got {type(layer).__name__}")
        spatial = as_integer(spatial, "spatial", 1)
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        if data_format is None:
            data_format = getattr(layer, "data_format", None)
        self.data_format = data_format or keras.config.image_data_format()
        self.spatial = spatial

    def _first(self, ndim: int) -> int:
        """Return the axis of the frames, after the batch and any channels in front."""
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
        """Return the shape of the input."""
        return input_shape

    def compute_output_spec(self, x: Any, **_: Any) -> Any:
        """Return the shape of the input, and the dtype of the layer's output."""
        # The layer casts its input to the dtype of its own policy.
        converts = self.layer.autocast and keras.backend.is_float_dtype(x.dtype)
        dtype = self.layer.input_dtype if converts else x.dtype
        matrices = keras.KerasTensor(self._matrices(x.shape), dtype=dtype)
        inside = self.layer.compute_output_spec(matrices)
        return keras.KerasTensor(x.shape, dtype=inside.dtype)

    def call(self, x: Any) -> Any:
        """Apply the layer to a series."""
        first = self._first(len(x.shape))
        last = first + self.spatial
        x = ops.moveaxis(x, first, last)
        size = ops.shape(x)
        pixels = math.prod(size[first:last])
        matrices = ops.reshape(x, (*size[:first], pixels, *size[last:]))
        return ops.moveaxis(ops.reshape(self.layer(matrices), size), last, first)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"spatial": self.spatial, "data_format": self.data_format}
        return {**super().get_config(), **own}
