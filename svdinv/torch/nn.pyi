# Written by `make stubs` (tools/stubs.py): change what that reads.
"""The low-rank operators as modules, with thresholds that are learned.

Every module takes real and complex tensors, computes half precision in single
precision, also under autocast, and can be compiled, copied, pickled and saved. The
learned parameter is ``raw_threshold``; the attribute ``threshold`` is the current
threshold.
"""

from typing import Any, Literal

from torch import Tensor, nn

from svdinv.layers import Pair

class Casorati(nn.Module):
    """A module for matrices, applied to series as matrices of pixels by frames.

    Parameters
    ----------
    module : nn.Module
        Maps matrices (..., pixels, T). A result of the same shape is returned as a
        series, any other, such as a norm, unchanged.
    spatial : int, optional
        Axes of a frame: 2 of an image, 3 of a volume.

    Examples
    --------
    >>> import torch, svdinv.torch
    >>> series = torch.randn(1, 8, 32, 32, dtype=torch.complex64)
    >>> svdinv.torch.nn.Casorati(svdinv.torch.nn.LowRank(3))(series).shape
    torch.Size([1, 8, 32, 32])
    """

    module: nn.Module
    spatial: int
    def __init__(self, module: nn.Module, spatial: int = 2) -> None: ...
    def forward(self, x: Tensor) -> Tensor:
        """Apply the module to series of shape (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class FirmThreshold(nn.Module):
    """Firm-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        Initial threshold.
    gamma : float, optional
        Where shrinking ends, in multiples of the threshold; above 1. Not learned.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`.

    See Also
    --------
    svdinv.torch.firm_threshold : The operator.
    """

    gamma: float
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    raw_threshold: nn.Parameter
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        gamma: float = 3.0,
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        trainable: bool = True,
    ) -> None: ...
    @property
    def threshold(self) -> Tensor:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class LocalLowRank(nn.Module):
    """Soft-threshold the blocks of a series, with a learned threshold.

    Parameters
    ----------
    block : int or (int, int)
        Height and width of a block.
    threshold : float or array
        Initial threshold; relative to the largest singular value of each block.
    stride : int or (int, int), optional
        Distance of neighbouring blocks, a divisor of `block`. Default: `block`.
    shift : "random", int or (int, int), optional
        First row and column of the first block; the tiling wraps around. With
        ``"random"``, it is drawn anew in every call while training, from the random
        numbers of the input's device (`torch.manual_seed`), and 0 in evaluation;
        `torch.func.vmap` then needs ``randomness="same"`` or ``"different"``.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`; channels of an input (B, C, T, H, W).

    See Also
    --------
    svdinv.torch.local_low_rank : The operator.
    """

    block: Pair
    stride: Pair | None
    shift: Pair | Literal["random"]
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    raw_threshold: nn.Parameter
    def __init__(
        self,
        block: Pair,
        threshold: Any = 0.1,
        *,
        stride: Pair | None = None,
        shift: Pair | Literal["random"] = "random",
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        trainable: bool = True,
    ) -> None: ...
    @property
    def threshold(self) -> Tensor:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class LowRank(nn.Module):
    """Best approximation of matrices of a given rank.

    Parameters
    ----------
    rank : int
        Number of singular values to keep.
    multiplets, max_rank : optional
        Whether to leave out or keep a multiplet, a group of repeated singular values,
        that the rank would split; as for `low_rank`.
    method : optional
        As for `svdinv.torch.svt`.

    See Also
    --------
    svdinv.torch.low_rank : The operator.
    """

    rank: int
    multiplets: bool | float | Literal["keep"]
    max_rank: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    def __init__(
        self,
        rank: int,
        *,
        multiplets: bool | float | Literal["keep"] = False,
        max_rank: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> None: ...
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class NuclearNorm(SchattenNorm):
    """Sum of the singular values of matrices, as a loss.

    Parameters
    ----------
    reduction, method : optional
        As for `SchattenNorm`.

    See Also
    --------
    svdinv.torch.nuclear_norm : The operator.
    """

    reduction: Literal["mean", "sum", "none"]
    method: Literal["auto", "svd", "gram", "matmul"]
    def __init__(
        self,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> None: ...
    def forward(self, A: Tensor) -> Tensor:
        """Return the norm of matrices (..., m, n): a number, or of shape (...)."""
    def __call__(self, A: Tensor) -> Tensor: ...

class SchattenNorm(nn.Module):
    """p-norm of the singular values of matrices, as a loss.

    Parameters
    ----------
    p : float
        Positive, or infinity for the spectral norm.
    reduction : {"mean", "sum", "none"}, optional
        Reduction of the norms of all matrices.
    method : optional
        As for `svdinv.torch.svt`.

    See Also
    --------
    svdinv.torch.schatten_norm : The operator.
    """

    p: float
    reduction: Literal["mean", "sum", "none"]
    method: Literal["auto", "svd", "gram", "matmul"]
    def __init__(
        self,
        p: float,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
    ) -> None: ...
    def forward(self, A: Tensor) -> Tensor:
        """Return the norm of matrices (..., m, n): a number, or of shape (...)."""
    def __call__(self, A: Tensor) -> Tensor: ...

class SchattenProx(nn.Module):
    """Proximal operator of the sum of s^p, with a learned weight.

    Parameters
    ----------
    p : float
        1/2, 2/3, 1 or 2.
    threshold : float or array
        Initial weight of the penalty, > 0, in units of the input to the power 2 - p.
    channels, trainable, method : optional
        As for `SingularValueThreshold`.

    See Also
    --------
    svdinv.torch.schatten_prox : The operator.
    """

    p: float
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    raw_threshold: nn.Parameter
    def __init__(
        self,
        p: float,
        threshold: Any = 0.1,
        *,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        trainable: bool = True,
    ) -> None: ...
    @property
    def threshold(self) -> Tensor:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class SingularValueThreshold(nn.Module):
    """Soft-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        Initial threshold; an array gives one for each parameter.
    relative : bool, optional
        Whether thresholds are multiples of the largest singular value of each
        matrix, between 0 and 1; otherwise they are positive, in units of the input.
    num_values : int, optional
        Learn a threshold for each of this many singular values, min(m, n) (weighted
        nuclear norm). The derivative requires equal ones for equal singular values.
    channels : int, optional
        Learn a threshold for each channel of an input (B, C, m, n).
    trainable : bool, optional
        Whether the threshold is learned at all.
    method : optional
        As for `svdinv.torch.svt`.

    See Also
    --------
    svdinv.torch.svt : The operator.

    Examples
    --------
    >>> import torch, svdinv.torch
    >>> svdinv.torch.nn.SingularValueThreshold(0.2, channels=3)
    SingularValueThreshold(threshold=[0.2, 0.2, 0.2], relative=True, channels=3)
    """

    relative: bool
    num_values: int | None
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    raw_threshold: nn.Parameter
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        relative: bool = True,
        num_values: int | None = None,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        trainable: bool = True,
    ) -> None: ...
    @property
    def threshold(self) -> Tensor:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class TensorSingularValueThreshold(nn.Module):
    """Soft-threshold a tensor's singular values, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        Initial threshold; relative to the largest singular value of each frequency.
    axis : int, optional
        Fourier axis, one of the last three.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`; channels of an input (B, C, a, b, c).

    See Also
    --------
    svdinv.torch.tsvt : The operator.
    """

    axis: int
    relative: bool
    channels: int | None
    method: Literal["auto", "svd", "gram", "matmul"]
    raw_threshold: nn.Parameter
    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        axis: int = -1,
        relative: bool = True,
        channels: int | None = None,
        method: Literal["auto", "svd", "gram", "matmul"] = "auto",
        trainable: bool = True,
    ) -> None: ...
    @property
    def threshold(self) -> Tensor:
        """Current threshold: one, or one for each channel, singular value, or both."""
    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...

class Whitening(nn.Module):
    """Whiten features: decorrelated batch normalisation, with running statistics.

    While training, samples are whitened by the mean and covariance of their batch,
    which update the running statistics; in evaluation, by the running statistics.
    Samples are all positions along the batch and axes other than that of the features.

    Parameters
    ----------
    num_features : int
        Number of features.
    epsilon : float, optional
        Number added to the variances.
    kind : {"zca", "pca"}, optional
        As for `whiten`. Use ``"zca"`` for training: the order of principal components,
        and possibly their signs, change from batch to batch.
    momentum : float, optional
        Weight of a batch in the running statistics.
    axis : int, optional
        Axis of the features.

    See Also
    --------
    svdinv.torch.whiten : The operator.

    Notes
    -----
    The gradient goes through the statistics of the batch, and is exact where variances
    are equal. As there are as many covariances as pairs of features, a batch should
    hold several times as many samples as there are features.
    """

    num_features: int
    momentum: float
    axis: int
    epsilon: float
    kind: Literal["zca", "pca"]
    running_mean: Tensor
    running_covariance: Tensor
    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.1,
        axis: int = 1,
        epsilon: float = 1e-05,
        kind: Literal["zca", "pca"] = "zca",
    ) -> None: ...
    def reset_parameters(self) -> None:
        """Set the running statistics to those of white features."""
    def reset_running_stats(self) -> None:
        """Set the running statistics to those of white features."""
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
    def __call__(self, x: Tensor) -> Tensor: ...
