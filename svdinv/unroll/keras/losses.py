"""A loss and a metric for Keras that support complex images."""

from __future__ import annotations

import sys
from typing import Any

import keras
from keras import ops

from svdinv.unroll.arrays import Array, assert_in_graph, is_complex, namespace

_register = keras.saving.register_keras_serializable(package="svdinv")


@_register
class MeanSquaredError(keras.losses.Loss):
    """Mean of ``|truth - image|^2``, for real and complex images.

    Keras's own loss casts to a real dtype, which drops the imaginary part.

    Raises
    ------
    ValueError
        If the shapes differ, since arrays are not broadcast.
    TypeError
        If the truth is complex and the image real.
    """

    def __init__(self, name: str = "mean_squared_error", **options: Any) -> None:
        super().__init__(name=name, **options)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss, weighted and reduced as in Keras."""
        truth, image = _alike(y_true, y_pred)
        error = _parts(image - truth)
        return super().__call__(ops.zeros_like(error), error, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image; the last axis has real and imaginary part."""
        return _mean(ops.sum(ops.square(y_pred - y_true), axis=-1))


@_register
class PSNR(keras.metrics.Mean):
    """Peak signal-to-noise ratio in dB, averaged over the images.

    ``10 log10(peak**2 / mean((truth - image)**2))`` of each image, for complex images
    of magnitudes, as `svdinv.unroll.metrics.psnr`; infinite for equal images.

    Parameters
    ----------
    peak : float or "max"
        The largest possible value: 1 for images in [0, 1]. "max" is the largest value
        or magnitude of each true image, which must not be zero.
    name : str
        Name of the metric.
    dtype : str, optional
        Dtype of the computation.

    Raises
    ------
    ValueError
        If `peak` is neither positive nor "max"; when called, if the shapes differ.
    """

    def __init__(
        self, peak: float | str = 1.0, name: str = "psnr", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if peak != "max" and (isinstance(peak, str) or not peak > 0):
            raise ValueError(f'peak must be positive or "max", got {peak!r}')
        self.peak = peak
        self._direction = "up"

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Update the mean with a batch of true and reconstructed images, (B, ...)."""
        truth, image = (
            ops.cast(ops.abs(x) if _is_complex(x) else x, self.dtype)
            for x in _alike(y_true, y_pred)
        )
        error = _mean(ops.square(truth - image))
        if self.peak == "max":
            peak = ops.max(truth, axis=tuple(range(1, len(truth.shape))))
        else:
            peak = ops.full_like(error, self.peak)
        decibels = 10 * (2 * ops.log10(peak) - ops.log10(error))
        super().update_state(decibels, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the metric."""
        return {"peak": self.peak, "name": self.name, "dtype": self.dtype}


def _is_complex(x: Array) -> bool:
    return is_complex(x, namespace(x))


def _alike(y_true: Any, y_pred: Any) -> tuple[Array, Array]:
    """Return both as tensors of the same shape and dtype."""
    truth, image = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    shapes = tuple(truth.shape), tuple(image.shape)
    same_shape = len(shapes[0]) == len(shapes[1]) and all(
        a == b or None in (a, b) for a, b in zip(*shapes, strict=True)
    )
    if not same_shape:
        raise ValueError(f"truth and image differ in shape: {shapes[0]}, {shapes[1]}")
    if any(None in shape for shape in shapes):  # known when the graph runs
        message = f"truth and image differ in shape, where {shapes[0]} has None"
        tf = sys.modules["tensorflow"]
        assert_in_graph(tf.shape(truth) == tf.shape(image), message)
    if _is_complex(truth) and not _is_complex(image):
        raise TypeError(f"truth is {truth.dtype}, but the image {image.dtype}")
    return ops.cast(truth, keras.backend.standardize_dtype(image.dtype)), image


def _parts(x: Array) -> Array:
    """Stack real and imaginary part, or only a real one, along a new last axis."""
    xp = namespace(x)
    parts = [xp.real(x), xp.imag(x)] if is_complex(x, xp) else [x]
    return ops.stack(parts, axis=-1)


def _mean(x: Array) -> Array:
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))
