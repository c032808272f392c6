# Written by `make stubs` (tools/stubs.py): change what that reads.
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

from typing import Any, Literal

import keras

from svdinv.layers import Pair

class Casorati(keras.layers.Layer):
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

    layer: keras.layers.Layer
    spatial: int
    data_format: Literal["channels_first", "channels_last"] | None
    def __init__(
        self,
        layer: keras.layers.Layer,
        spatial: int = 2,
        *,
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    def call(self, x: Any) -> Any:
        """Apply the layer to a series."""

class FirmThreshold(keras.layers.Layer):
    """Firm-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        Initial threshold.
    gamma : float, optional
        Where shrinking ends, in multiples of the threshold; above 1. Not learned.
    relative, channels, method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    gamma: float
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    raw_threshold: keras.Variable
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        gamma: float = 3.0,
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def threshold(self) -> Any:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class LocalLowRank(keras.layers.Layer):
    """Soft-threshold the blocks of a series, with a learned threshold.

    Parameters
    ----------
    block : int or (int, int)
        Height and width of a block.
    threshold : float or nested list
        Initial threshold; relative to the largest singular value of each block.
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

    block: Pair
    seed: int | None
    stride: Pair | None
    shift: Pair | Literal["random"]
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    raw_threshold: keras.Variable
    def __init__(
        self,
        block: Pair,
        threshold: Any = 0.1,
        *,
        seed: int | None = None,
        stride: Pair | None = None,
        shift: Pair | Literal["random"] = "random",
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def threshold(self) -> Any:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class LowRank(keras.layers.Layer):
    """Best approximation of matrices of a given rank.

    Parameters
    ----------
    rank : int
        Number of singular values to keep.
    multiplets, max_rank : optional
        Whether to leave out or keep a multiplet, a group of repeated singular values,
        that the rank would split; as for `low_rank`.
    method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    rank: int
    multiplets: bool | float | Literal["keep"]
    max_rank: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    def __init__(
        self,
        rank: int,
        *,
        multiplets: bool | float | Literal["keep"] = False,
        max_rank: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class SchattenProx(keras.layers.Layer):
    """Proximal operator of the sum of s^p, with a learned weight.

    Parameters
    ----------
    p : float
        1/2, 2/3, 1 or 2.
    threshold : float or nested list
        Initial weight of the penalty, > 0, in units of the input to the power 2 - p.
    channels, method, data_format, **kwargs
        As for `SingularValueThreshold`.
    """

    p: float
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    raw_threshold: keras.Variable
    def __init__(
        self,
        p: float,
        threshold: Any = 0.1,
        *,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def threshold(self) -> Any:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class SingularValueThreshold(keras.layers.Layer):
    """Soft-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        Initial threshold; a list or array gives one for each parameter.
    relative : bool, optional
        Whether thresholds are multiples of the largest singular value of each
        matrix, between 0 and 1; otherwise they are positive, in units of the input.
    num_values : int, optional
        Learn a threshold for each of this many singular values, min(m, n) (weighted
        nuclear norm). The derivative requires equal ones for equal singular values.
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

    relative: bool
    num_values: int | None
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    raw_threshold: keras.Variable
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        relative: bool = True,
        num_values: int | None = None,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def threshold(self) -> Any:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class TensorSingularValueThreshold(keras.layers.Layer):
    """Soft-threshold a tensor's singular values, with a learned threshold.

    Parameters
    ----------
    threshold : float or nested list
        Initial threshold; relative to the largest singular value of each frequency.
    axis : int, optional
        Fourier axis, from -3 to -1, of the three that are not those of batch and
        channels.
    relative, channels, method, data_format, **kwargs
        As for `SingularValueThreshold`; of (B, a, b, c) or, with channels,
        (B, a, b, c, C) or (B, C, a, b, c).
    """

    axis: int
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    data_format: Literal["channels_first", "channels_last"] | None
    raw_threshold: keras.Variable
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        axis: int = -1,
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def threshold(self) -> Any:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def call(self, x: Any, training: bool = False) -> Any:
        """Apply the operator to a tensor."""

class Whitening(keras.layers.Layer):
    """Whiten features: decorrelated batch normalisation, with running statistics.

    While training, samples are whitened by the mean and covariance of their batch,
    which update the running statistics; in evaluation, by the running statistics.
    Samples are all positions along the batch and axes other than that of the features.

    Parameters
    ----------
    epsilon : float, optional
        Number added to the variances.
    kind : {"zca", "pca"}, optional
        As for `whiten`. Use ``"zca"`` for training: the order of principal components,
        and possibly their signs, change from batch to batch.
    momentum : float, optional
        Weight of the running statistics, against that of a batch.
    data_format : {"channels_last", "channels_first"}, optional
        Whether the last axis is that of the features, or the first behind that of the
        batch. Default: `keras.config.image_data_format`.
    **kwargs
        Of every layer: name, trainable, dtype.

    Notes
    -----
    The gradient goes through the statistics of the batch, and is exact where variances
    are equal. As there are as many covariances as pairs of features, a batch should
    hold several times as many samples as there are features.
    """

    momentum: float
    epsilon: float
    kind: Literal["zca", "pca"]
    data_format: Literal["channels_first", "channels_last"] | None
    def __init__(
        self,
        *,
        momentum: float = 0.99,
        epsilon: float = 1e-05,
        kind: Literal["zca", "pca"] = "zca",
        data_format: Literal["channels_first", "channels_last"] | None = None,
        **kwargs: Any,
    ) -> None: ...
    def call(self, x: Any, training: bool = False) -> Any:
        """Whiten a tensor; by the running statistics if the layer is not trainable."""
