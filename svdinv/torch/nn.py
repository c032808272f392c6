"""The low-rank operators as modules, with thresholds that are learned.

Every module takes real and complex tensors, computes half precision in single
precision, under autocast too, and can be compiled, copied, pickled and saved. What is
learned is the parameter ``raw_threshold``; the attribute ``threshold`` is what it
stands for at present.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import svdinv.torch
from svdinv.core.factors import check_method
from svdinv.core.tensors import tilings

__all__ = [
    "Casorati",
    "FirmThreshold",
    "LocalLowRank",
    "LowRank",
    "NuclearNorm",
    "SchattenNorm",
    "SchattenProx",
    "SingularValueThreshold",
    "TensorSingularValueThreshold",
]

Pair: TypeAlias = int | tuple[int, int]

_REDUCTIONS = {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}


class _Threshold(nn.Module):
    """What learns a threshold: positive by softplus, or in (0, 1) by a sigmoid."""

    core = 2  # axes of what is thresholded, behind those of batch and channels

    def __init__(
        self,
        threshold: Any,
        *,
        relative: bool = False,
        channels: int | None = None,
        num_values: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__()
        self.relative = relative
        self.channels = channels
        self.num_values = num_values
        self.method = method
        check_method(method)
        shape = [n for n in (channels, num_values) if n is not None]
        # On the CPU, whatever the default device: that of a large model may be meta.
        start = torch.as_tensor(threshold, dtype=torch.float64, device="cpu")
        if not ((start > 0) & (start < (1 if relative else torch.inf))).all():
            range_ = "between 0 and 1" if relative else "positive and finite"
            raise ValueError(f"threshold must be {range_}, got {threshold}")
        try:
            self._start = start.expand(shape).clone()
        except RuntimeError as error:
            raise ValueError(
                f"threshold must broadcast to {tuple(shape)}, got shape "
                f"{tuple(start.shape)}"
            ) from error
        self.raw_threshold = nn.Parameter(torch.empty(shape), requires_grad=trainable)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the threshold to its first value."""
        start = self._start
        raw = start.logit() if self.relative else start + (-(-start).expm1()).log()
        with torch.no_grad():
            self.raw_threshold.copy_(raw)

    @property
    def threshold(self) -> Tensor:
        """Current threshold: one number, or of shape (channels,)."""
        raw = self.raw_threshold
        raw = raw.real if raw.is_complex() else raw  # after module.to(torch.complex64)
        return raw.sigmoid() if self.relative else F.softplus(raw)

    def _tau(self, x: Tensor) -> Tensor:
        """Threshold for `x`, of which it checks the channels."""
        axis = -self.core - 1
        if self.channels is not None and (
            x.ndim < -axis or x.shape[axis] != self.channels
        ):
            raise RuntimeError(
                f"expected {self.channels} channels along axis {axis}, got shape "
                f"{tuple(x.shape)}"
            )
        tau = self.threshold
        if self.num_values is None:
            return tau
        return tau.reshape((1,) * (x.ndim - 1 - tau.ndim) + tau.shape)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        parts = [f"threshold={_numbers(self.threshold)}", *self._options()]
        for name in ("channels", "num_values"):
            if (value := getattr(self, name)) is not None:
                parts.append(f"{name}={value}")
        if not self.raw_threshold.requires_grad:
            parts.append("trainable=False")
        if self.method != "auto":
            parts.append(f"method={self.method!r}")
        return ", ".join(parts)

    def _options(self) -> list[str]:
        return [f"relative={self.relative}"]


class SingularValueThreshold(_Threshold):
    """Soft-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        First threshold; an array gives one for each parameter.
    relative : bool, optional
        Whether thresholds are multiples of the largest singular value of each
        matrix, between 0 and 1; otherwise they are positive, in units of the input.
    num_values : int, optional
        Learn a threshold for each of this many singular values, min(m, n) (weighted
        nuclear norm). The derivative needs equal ones for equal singular values.
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

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        relative: bool = True,
        num_values: int | None = None,
        channels: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            num_values=num_values,
            trainable=trainable,
            method=method,
        )

    def forward(self, A: Tensor) -> Tensor:
        """Threshold matrices of shape (..., m, n)."""
        return svdinv.torch.svt(
            A, self._tau(A), relative=self.relative, method=self.method
        )


class FirmThreshold(_Threshold):
    """Firm-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        First threshold.
    gamma : float, optional
        Where shrinking ends, in multiples of the threshold; above 1. Not learned.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`.

    See Also
    --------
    svdinv.torch.firm_threshold : The operator.
    """

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        gamma: float = 3.0,
        relative: bool = True,
        channels: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            trainable=trainable,
            method=method,
        )
        self.gamma = gamma
        _try(svdinv.torch.firm_threshold, 0.5, gamma)

    def forward(self, A: Tensor) -> Tensor:
        """Threshold matrices of shape (..., m, n)."""
        tau = self._tau(A)
        return svdinv.torch.firm_threshold(
            A, tau, self.gamma, relative=self.relative, method=self.method
        )

    def _options(self) -> list[str]:
        return [f"gamma={self.gamma:g}", *super()._options()]


class SchattenProx(_Threshold):
    """Proximal operator of the sum of s^p, with a learned weight.

    Parameters
    ----------
    p : float
        1/2, 2/3, 1 or 2.
    threshold : float or array
        First weight of the penalty, positive, in units of the input to 2 - p.
    channels, trainable, method : optional
        As for `SingularValueThreshold`.

    See Also
    --------
    svdinv.torch.schatten_prox : The operator.
    """

    def __init__(
        self,
        p: float,
        threshold: Any = 0.1,
        *,
        channels: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(
            threshold, channels=channels, trainable=trainable, method=method
        )
        self.p = p
        _try(svdinv.torch.schatten_prox, 0.5, p)

    def forward(self, A: Tensor) -> Tensor:
        """Map matrices of shape (..., m, n)."""
        return svdinv.torch.schatten_prox(A, self._tau(A), self.p, method=self.method)

    def _options(self) -> list[str]:
        return [f"p={self.p:g}"]


class TensorSingularValueThreshold(_Threshold):
    """Soft-threshold a tensor's singular values, with a learned threshold.

    Parameters
    ----------
    threshold : float or array
        First threshold; relative to the largest singular value of each frequency.
    axis : int, optional
        Fourier axis, one of the last three.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`; channels of an input (B, C, a, b, c).

    See Also
    --------
    svdinv.torch.tsvt : The operator.
    """

    core = 3

    def __init__(
        self,
        threshold: Any = 0.1,
        *,
        axis: int = -1,
        relative: bool = True,
        channels: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            trainable=trainable,
            method=method,
        )
        self.axis = axis

    def forward(self, X: Tensor) -> Tensor:
        """Threshold tensors of shape (..., a, b, c)."""
        return svdinv.torch.tsvt(
            X, self._tau(X), self.axis, relative=self.relative, method=self.method
        )

    def _options(self) -> list[str]:
        return [f"axis={self.axis}", *super()._options()]


class LocalLowRank(_Threshold):
    """Soft-threshold the blocks of a series, with a learned threshold.

    Parameters
    ----------
    block : int or (int, int)
        Height and width of a block.
    threshold : float or array
        First threshold; relative to the largest singular value of each block.
    stride : int or (int, int), optional
        Distance of neighbouring blocks, a divisor of `block`. Default: `block`.
    shift : "random", int or (int, int), optional
        First row and column of the first block; the tiling wraps around. With
        ``"random"``, it is drawn anew in every call while training, from the random
        numbers of the input's device (`torch.manual_seed`), and 0 in evaluation.
    relative, channels, trainable, method : optional
        As for `SingularValueThreshold`; channels of an input (B, C, T, H, W).

    See Also
    --------
    svdinv.torch.local_low_rank : The operator.
    """

    core = 3

    def __init__(
        self,
        block: Pair,
        threshold: Any = 0.1,
        *,
        stride: Pair | None = None,
        shift: Pair | Literal["random"] = "random",
        relative: bool = True,
        channels: int | None = None,
        trainable: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(
            threshold,
            relative=relative,
            channels=channels,
            trainable=trainable,
            method=method,
        )
        if isinstance(shift, str) and shift != "random":
            raise ValueError(f"shift must be 'random' or integers, got {shift!r}")
        self.block, self.stride, self.shift = block, stride, shift
        tilings((1, 1), block, stride, 0 if shift == "random" else shift)

    def forward(self, x: Tensor) -> Tensor:
        """Threshold series of shape (..., T, H, W)."""
        tau = self._tau(x)
        if self.shift != "random":
            return self._apply_operator(x, tau, self.shift)
        if not self.training:
            return self._apply_operator(x, tau, 0)
        # Rolled by index, for a shift that is a number would be compiled in.
        *_, height, width = x.shape
        (h, w), steps = _pair(self.block), _pair(self.stride or self.block)
        x = F.pad(x, (0, -width % w, 0, -height % h))
        orders = [
            torch.arange(size, device=x.device)
            + torch.randint(step, (1,), device=x.device)
            for size, step in zip(x.shape[-2:], steps, strict=True)
        ]
        for axis, order in zip((-2, -1), orders, strict=True):
            x = x.index_select(axis, order % x.shape[axis])
        x = self._apply_operator(x, tau, 0)
        for axis, order in zip((-2, -1), orders, strict=True):
            x = x.index_select(axis, (order % x.shape[axis]).argsort())
        return x[..., :height, :width]

    def _apply_operator(self, x: Tensor, tau: Tensor, shift: Any) -> Tensor:
        return svdinv.torch.local_low_rank(
            x,
            tau,
            self.block,
            stride=self.stride,
            shift=shift,
            relative=self.relative,
            method=self.method,
        )

    def _options(self) -> list[str]:
        places = [f"{name}={getattr(self, name)!r}" for name in ("block", "shift")]
        if self.stride is not None:
            places.insert(1, f"stride={self.stride!r}")
        return [*places, *super()._options()]


class LowRank(nn.Module):
    """Best approximation of matrices of a given rank.

    Parameters
    ----------
    rank : int
        Number of singular values to keep.
    method : optional
        As for `svdinv.torch.svt`.

    See Also
    --------
    svdinv.torch.low_rank : The operator.
    """

    def __init__(self, rank: int, *, method: str = "auto") -> None:
        super().__init__()
        self.rank, self.method = rank, method
        _try(svdinv.torch.low_rank, rank, method=method)

    def forward(self, A: Tensor) -> Tensor:
        """Approximate matrices of shape (..., m, n)."""
        return svdinv.torch.low_rank(A, self.rank, method=self.method)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"rank={self.rank}"


class Casorati(nn.Module):
    """A module of matrices applied to series, pixels by frames.

    Parameters
    ----------
    module : nn.Module
        Takes matrices (..., pixels, T). A result of the same shape comes back as a
        series, any other, such as a norm, as it is.
    spatial : int, optional
        Axes of a frame: 2 of an image, 3 of a volume.

    Examples
    --------
    >>> import torch, svdinv.torch
    >>> series = torch.randn(1, 8, 32, 32, dtype=torch.complex64)
    >>> svdinv.torch.nn.Casorati(svdinv.torch.nn.LowRank(3))(series).shape
    torch.Size([1, 8, 32, 32])
    """

    def __init__(self, module: nn.Module, spatial: int = 2) -> None:
        super().__init__()
        self.module, self.spatial = module, spatial

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module to series of shape (..., T, H, W)."""
        matrices = x.flatten(-self.spatial).mT
        result = self.module(matrices)
        if result.shape != matrices.shape:
            return result
        return result.mT.unflatten(-1, x.shape[-self.spatial :])

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"spatial={self.spatial}"


class SchattenNorm(nn.Module):
    """p-norm of the singular values of matrices, as a loss.

    Parameters
    ----------
    p : float
        Positive, or infinity for the spectral norm.
    reduction : {"mean", "sum", "none"}, optional
        Of the norms of all matrices.
    method : optional
        As for `svdinv.torch.svt`.

    See Also
    --------
    svdinv.torch.schatten_norm : The operator.
    """

    def __init__(
        self, p: float, *, reduction: str = "mean", method: str = "auto"
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction must be one of {list(_REDUCTIONS)}, got {reduction!r}"
            )
        self.p, self.reduction, self.method = p, reduction, method
        _try(svdinv.torch.schatten_norm, p, method=method)

    def forward(self, A: Tensor) -> Tensor:
        """Norm of matrices of shape (..., m, n): a number, or of shape (...)."""
        norms = svdinv.torch.schatten_norm(A, self.p, method=self.method)
        return _REDUCTIONS[self.reduction](norms)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"p={self.p:g}, reduction={self.reduction!r}"


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

    def __init__(self, *, reduction: str = "mean", method: str = "auto") -> None:
        super().__init__(1, reduction=reduction, method=method)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"reduction={self.reduction!r}"


def _try(operator: Callable[..., Tensor], *arguments: Any, **options: Any) -> None:
    """Let an operator refuse bad arguments before a network is built of it."""
    operator(torch.zeros(1, 1, device="cpu"), *arguments, **options)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _numbers(values: Tensor) -> str:
    """Few numbers one by one, many by their range."""
    if values.is_meta:
        return "?"
    numbers = values.detach().flatten().tolist()
    if values.ndim == 0:
        return f"{numbers[0]:.3g}"
    if len(numbers) <= 4:
        return f"[{', '.join(f'{x:.3g}' for x in numbers)}]"
    return f"[{min(numbers):.3g} to {max(numbers):.3g}]"
