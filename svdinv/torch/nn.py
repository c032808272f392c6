"""The low-rank operators as modules, with thresholds that are learned.

Every module takes real and complex tensors, computes half precision in single
precision, also under autocast, and can be compiled, copied, pickled and saved. The
learned parameter is ``raw_threshold``; the attribute ``threshold`` is the current
threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import svdinv.torch
from svdinv import layers
from svdinv.backends.torch_sharded import is_sharded
from svdinv.core.factors import Method
from svdinv.operators._arguments import as_integer

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
    "Whitening",
]

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda x: x,
}

_METHOD = """method : optional
    As for `svdinv.torch.svt`."""

_TEXTS = {
    "array": "array",
    "an_array": "an array",
    "channel": "channel of an input (B, C, m, n)",
    "each_option": f"""trainable : bool, optional
    Whether the threshold is learned at all.
{_METHOD}""",
    "example": """>>> import torch, svdinv.torch
>>> svdinv.torch.nn.SingularValueThreshold(0.2, channels=3)
SingularValueThreshold(threshold=[0.2, 0.2, 0.2], relative=True, channels=3)""",
    "features": """num_features : int
    Number of features.
""",
    "fourier_axes": "one of the last three",
    "method": _METHOD,
    "momentum": """momentum : float, optional
    Weight of a batch in the running statistics.
axis : int, optional
    Axis of the features.""",
    "options": "trainable, method : optional",
    "random": """from the random
    numbers of the input's device (`torch.manual_seed`), and 0 in evaluation;
    `torch.func.vmap` then needs ``randomness="same"`` or ``"different"``""",
    "see_also": """

See Also
--------
svdinv.torch.{operator} : The operator.""",
    "seed": "",
    "series": "channels of an input (B, C, T, H, W)",
    "tensors": "channels of an input (B, C, a, b, c)",
}
_described = layers.described(_TEXTS)


class _Layer(nn.Module):
    _more: tuple[str, ...] = ()  # also printed, after _arguments

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # raises TypeError for any

    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., m, n), tensors (..., a, b, c) or series (..., T, H, W)."""
        return self._map(x, self.training)

    def _operators(self) -> ModuleType:
        return svdinv.torch

    def _try(self, *tau: float) -> None:
        self._operate(torch.zeros(1, 1, device="cpu"), *tau)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        names = (*self._arguments, *self._more)
        values = {name: getattr(self, name) for name in names}
        return ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in values.items()
            if value is not None
        )


class _Threshold(_Layer):
    _batch_axes = 0
    _more = ("channels", "num_values")
    _functions, _xp = F, torch
    raw_threshold: nn.Parameter

    def __init__(self, *, trainable: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._trainable = trainable  # initially

    def _double(self, threshold: Any) -> Tensor:
        # On the CPU, whatever the default device: that of a large model may be meta.
        try:
            start = torch.as_tensor(threshold, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(threshold).__name__
            if getattr(threshold, "is_meta", False):
                kind = "one on the device meta, which has no values"
            raise TypeError(
                f"threshold must be a number or a tensor, got {kind}"
            ) from error
        return start.detach().clone()

    def _learn(self, shape: tuple[int, ...]) -> None:
        self.raw_threshold = nn.Parameter(torch.empty(shape), self._trainable)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the threshold to its initial value."""
        with torch.no_grad():
            self.raw_threshold.copy_(self._first_raw())

    def _raw(self) -> Tensor:
        raw = self.raw_threshold
        return raw.real if raw.is_complex() else raw  # after module.to(torch.complex64)

    def _channel_error(self, shape: Any, axis: int) -> Exception:
        return RuntimeError(
            f"expected {self.channels} channels along axis {axis}, got shape "
            f"{tuple(shape)}"
        )

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        parts = [f"threshold={_numbers(self.threshold)}", super().extra_repr()]
        if not self.raw_threshold.requires_grad:
            parts.append("trainable=False")
        if self.method != "auto":
            parts.append(f"method={self.method!r}")
        return ", ".join(parts)


@_described
class SingularValueThreshold(layers.SingularValueThreshold, _Threshold): ...


@_described
class FirmThreshold(layers.FirmThreshold, _Threshold): ...


@_described
class SchattenProx(layers.SchattenProx, _Threshold): ...


@_described
class TensorSingularValueThreshold(layers.TensorSingularValueThreshold, _Threshold):
    _negative_axis = False


@_described
class LocalLowRank(layers.LocalLowRank, _Threshold):
    def _pad(self, x: Tensor, below: int, right: int) -> Tensor:
        return F.pad(x, (0, right, 0, below))

    def _draw(self, end: int, x: Tensor) -> Tensor:
        return torch.randint(end, (1,), device=x.device)

    def _roll(self, x: Tensor, shift: Tensor, axis: int) -> Tensor:
        order = torch.arange(x.shape[axis], device=x.device) + shift
        return x.index_select(axis, order % x.shape[axis])


@_described
class LowRank(layers.LowRank, _Layer): ...


@_described
class Whitening(layers.Whitening, _Layer):
    _more = ("momentum", "axis")
    running_mean: Tensor
    running_covariance: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.1,
        axis: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(momentum=momentum, **options)
        self.num_features = as_integer(num_features, "num_features", 1)
        self.axis = as_integer(axis, "axis", -math.inf)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_covariance", torch.eye(num_features))

    def reset_parameters(self) -> None:
        """Set the running statistics to those of white features."""
        self.running_mean.zero_()
        self.running_covariance.copy_(torch.eye(self.num_features))

    reset_running_stats = reset_parameters

    def _rows(self, x: Tensor) -> Any:
        fits = x.ndim >= 2 and -x.ndim <= self.axis < x.ndim
        if not fits or x.shape[self.axis] != self.num_features:
            raise RuntimeError(
                f"expected {self.num_features} features along axis {self.axis} of two "
                f"or more, got shape {tuple(x.shape)}"
            )
        last = x.movedim(self.axis, -1)
        # Half precision is too imprecise for the running statistics.
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = last.reshape(-1, self.num_features).to(wide)
        if self.training and rows.shape[0] == 1:  # as in `BatchNorm1d`
            raise ValueError(
                f"expected more than one sample in training, got shape {tuple(x.shape)}"
            )
        return rows, lambda y: y.to(x.dtype).reshape(last.shape).movedim(-1, self.axis)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *arguments: Any
    ) -> None:
        for name in ("running_mean", "running_covariance"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(saved, Tensor) and saved.is_complex():
                setattr(self, name, own.to(torch.promote_types(own.dtype, saved.dtype)))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _statistics(self) -> dict[str, Tensor]:
        return {"mean": self.running_mean, "covariance": self.running_covariance}

    def _follow(self, mean: Tensor, covariance: Tensor) -> None:
        with torch.no_grad():
            if mean.is_complex() and not self.running_mean.is_complex():
                dtype = mean.dtype
                self.running_mean = self.running_mean.to(dtype)
                self.running_covariance = self.running_covariance.to(dtype)
            kept = self.running_mean, self.running_covariance
            for x, new in zip(kept, (mean, covariance), strict=True):
                x.lerp_(new.to(x.dtype), self.momentum)

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"{self.num_features}, {super().extra_repr()}"


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

    def __init__(self, module: nn.Module, spatial: int = 2) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a Module, got {type(module).__name__}")
        self.module, self.spatial = module, as_integer(spatial, "spatial", 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module to series of shape (..., T, H, W)."""
        if x.ndim <= self.spatial:
            raise RuntimeError(
                f"expected time and {self.spatial} axes of a frame, got shape "
                f"{tuple(x.shape)}"
            )
        matrices = x.flatten(-self.spatial).mT
        result = self.module(matrices)
        if result.shape != matrices.shape:
            return result
        return result.mT.unflatten(-1, x.shape[-self.spatial :])

    def extra_repr(self) -> str:
        """Describe the module in a printed network."""
        return f"spatial={self.spatial}"


class SchattenNorm(_Layer, layers.Layer):
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

    _operator = "schatten_norm"
    _arguments: ClassVar[tuple[str, ...]] = ("p",)
    _more = ("reduction",)

    def __init__(
        self, p: float, *, reduction: layers.Reduction = "mean", method: Method = "auto"
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction must be one of {list(_REDUCTIONS)}, got {reduction!r}"
            )
        self.p, self.reduction, self.method = p, reduction, method
        self._try()

    def forward(self, A: Tensor) -> Tensor:
        """Return the norm of matrices (..., m, n): a number, or of shape (...)."""
        return _REDUCTIONS[self.reduction](self._operate(A))


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

    _operator = "nuclear_norm"
    _arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *, reduction: layers.Reduction = "mean", method: Method = "auto"
    ) -> None:
        super().__init__(1, reduction=reduction, method=method)


def _numbers(values: Tensor) -> str:
    """Format a few numbers individually, many by their range."""
    if values.is_meta or is_sharded(values):
        return "?"
    numbers = values.detach().flatten().tolist()
    if values.ndim == 0:
        return f"{numbers[0]:.3g}"
    if len(numbers) <= 4:
        return f"[{', '.join(f'{x:.3g}' for x in numbers)}]"
    return f"[{min(numbers):.3g} to {max(numbers):.3g}]"
