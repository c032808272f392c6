"""Framework-independent parts of the layers of `svdinv.torch.nn` and `svdinv.keras`.

A class here defines which operator its layer calls, with which arguments, and checks
them; `Threshold` defines how thresholds are learned. Classes of the same name in the
two modules derive from it and from a base class for their framework. Texts that differ
between their docstrings replace placeholders such as ``{options}``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from svdinv.core.factors import Method, check_method
from svdinv.core.namespace import Array
from svdinv.core.tensors import pair, tilings
from svdinv.operators._arguments import as_integer, as_number
from svdinv.operators.statistics import Kind, check_kind

Pair: TypeAlias = int | tuple[int, int]
DataFormat: TypeAlias = Literal["channels_first", "channels_last"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
T = TypeVar("T", bound="Layer")


def described(texts: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Return a decorator that sets the docstring and signature of a framework's class.

    The texts replace placeholders; ``{operator}`` in them is the operator's name.
    """

    def describe(layer: type[T]) -> type[T]:
        described = layer.__bases__[0]
        doc = inspect.cleandoc(described.__doc__ or "").format_map(texts)
        layer.__doc__ = doc.replace("{operator}", layer._operator)
        parameters: dict[str, inspect.Parameter] = {}
        # The framework's initialiser, after that of Layer, defines the **options.
        for owner in (layer, described, super(Layer, layer)):
            further = inspect.signature(owner.__init__).parameters  # type: ignore[misc]
            for name, parameter in further.items():
                parameters.setdefault(name, parameter)
        del parameters["options"]
        order = sorted(parameters.values(), key=lambda parameter: parameter.kind)
        initialise = layer.__init__

        def __init__(self: T, *arguments: Any, **options: Any) -> None:
            initialise(self, *arguments, **options)

        __init__.__qualname__ = f"{layer.__qualname__}.__init__"
        __init__.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
        layer.__init__ = __init__  # type: ignore[method-assign, assignment]
        return layer

    return describe


class Layer:
    """A layer that calls an operator; frameworks define attributes without values."""

    _operator: ClassVar[str]
    _arguments: ClassVar[tuple[str, ...]]  # of the operator, besides tau and method
    _options: ClassVar[tuple[str, ...]] = ("method",)

    _operators: Callable[[], ModuleType]  # module of the framework's operators
    _try: Callable[..., None]  # calls the operator to check its arguments

    def _map(self, x: Any, training: bool) -> Any:
        return self._operate(x)

    def _operate(
        self, x: Any, *tau: Any, by: ModuleType | None = None, **changed: Any
    ) -> Any:
        names = (*self._arguments, *self._options)
        arguments = {name: getattr(self, name) for name in names} | changed
        return getattr(by or self._operators(), self._operator)(x, *tau, **arguments)


class Threshold(Layer):
    """A layer that learns thresholds: above 0 by softplus, or in (0, 1) by a sigmoid.

    The parameter is ``raw_threshold``, of shape (channels, num_values) without those
    that are None.
    """

    _axes = 2  # number of axes after those of batch and channels
    _batch_axes: int  # minimum number of batch axes
    _functions: ModuleType  # has sigmoid and softplus
    _xp: ModuleType  # namespace of initial thresholds

    _double: Callable[[Any], Any]  # array of _xp in double precision
    _learn: Callable[[tuple[int, ...]], None]  # adds the parameter, with _first_raw
    _raw: Callable[[], Any]  # the parameter as a real tensor
    _channel_error: Callable[[Any, int], Exception]  # for a shape, along an axis

    def __init__(
        self, threshold: Any, relative: bool, channels: int | None, method: Method,
        num_values: int | None = None, /, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.relative, self.method = relative, method
        self.channels, self.num_values = (
            None if count is None else as_integer(count, name, 1)
            for name, count in (("channels", channels), ("num_values", num_values))
        )
        check_method(method)
        self._start = start = self._double(threshold)
        if not ((start > 0) & (start < (1 if relative else math.inf))).all():
            range_ = "between 0 and 1" if relative else "positive and finite"
            raise ValueError(f"threshold must be {range_}, got {threshold}")
        shape = tuple(n for n in (self.channels, self.num_values) if n is not None)
        try:
            self._xp.broadcast_to(start, shape)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"threshold must broadcast to {shape}, got shape {tuple(start.shape)}"
            ) from error
        self._learn(shape)

    def _first_raw(self) -> Any:
        start, xp = self._start, self._xp
        if self.relative:
            return xp.log(start / (1 - start))
        return start + xp.log(-xp.expm1(-start))

    @property
    def threshold(self) -> Array:
        """Current threshold: one, or one for each channel, singular value, or both."""
        functions = self._functions
        positive = functions.sigmoid if self.relative else functions.softplus
        return positive(self._raw())

    def _map(self, x: Any, training: bool) -> Any:
        return self._operate(x, self._tau(x))

    def _tau(self, x: Any) -> Any:
        """Return the threshold for `x`, channels first, and check its channels."""
        ndim, axis = len(x.shape), -self._axes - 1
        if self.channels is not None and (
            ndim < self._batch_axes - axis or x.shape[axis] not in (None, self.channels)
        ):
            raise self._channel_error(x.shape, axis)
        tau = self.threshold
        if self.num_values is None:
            return tau
        return tau[(None,) * (ndim - 1 - len(tau.shape)) + (...,)]


class SingularValueThreshold(Threshold):
    """Soft-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or {array}
        Initial threshold; {an_array} gives one for each parameter.
    relative : bool, optional
        Whether thresholds are multiples of the largest singular value of each
        matrix, between 0 and 1; otherwise they are positive, in units of the input.
    num_values : int, optional
        Learn a threshold for each of this many singular values, min(m, n) (weighted
        nuclear norm). The derivative requires equal ones for equal singular values.
    channels : int, optional
        Learn a threshold for each {channel}.
    {each_option}{see_also}

    Examples
    --------
    {example}
    """

    _operator, _arguments = "svt", ("relative",)

    def __init__(
        self, threshold: Any = 0.1, *, relative: bool = True,
        num_values: int | None = None, channels: int | None = None,
        method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(threshold, relative, channels, method, num_values, **options)


class FirmThreshold(Threshold):
    """Firm-threshold the singular values of matrices, with a learned threshold.

    Parameters
    ----------
    threshold : float or {array}
        Initial threshold.
    gamma : float, optional
        Where shrinking ends, in multiples of the threshold; above 1. Not learned.
    relative, channels, {options}
        As for `SingularValueThreshold`.{see_also}
    """

    _operator, _arguments = "firm_threshold", ("gamma", "relative")

    def __init__(
        self, threshold: Any = 0.1, *, gamma: float = 3.0, relative: bool = True,
        channels: int | None = None, method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(threshold, relative, channels, method, **options)
        self.gamma = gamma
        self._try(0.5)


class SchattenProx(Threshold):
    """Proximal operator of the sum of s^p, with a learned weight.

    Parameters
    ----------
    p : float
        1/2, 2/3, 1 or 2.
    threshold : float or {array}
        Initial weight of the penalty, > 0, in units of the input to the power 2 - p.
    channels, {options}
        As for `SingularValueThreshold`.{see_also}
    """

    _operator, _arguments = "schatten_prox", ("p",)

    def __init__(
        self, p: float, threshold: Any = 0.1, *, channels: int | None = None,
        method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(threshold, False, channels, method, **options)
        self.p = p
        self._try(0.5)


class TensorSingularValueThreshold(Threshold):
    """Soft-threshold a tensor's singular values, with a learned threshold.

    Parameters
    ----------
    threshold : float or {array}
        Initial threshold; relative to the largest singular value of each frequency.
    axis : int, optional
        Fourier axis, {fourier_axes}.
    relative, channels, {options}
        As for `SingularValueThreshold`; {tensors}.{see_also}
    """

    _operator, _arguments = "tsvt", ("axis", "relative")
    _axes = 3
    _negative_axis: bool  # nonnegative ones would count batch and channels

    def __init__(
        self, threshold: Any = 0.1, *, axis: int = -1, relative: bool = True,
        channels: int | None = None, method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(threshold, relative, channels, method, **options)
        if self._negative_axis and axis not in (-3, -2, -1):
            raise ValueError(f"axis must be -3, -2 or -1, got {axis}")
        self.axis = axis


class LocalLowRank(Threshold):
    """Soft-threshold the blocks of a series, with a learned threshold.

    Parameters
    ----------
    block : int or (int, int)
        Height and width of a block.
    threshold : float or {array}
        Initial threshold; relative to the largest singular value of each block.
    stride : int or (int, int), optional
        Distance of neighbouring blocks, a divisor of `block`. Default: `block`.
    shift : "random", int or (int, int), optional
        First row and column of the first block; the tiling wraps around. With
        ``"random"``, it is drawn anew in every call while training, {random}.{seed}
    relative, channels, {options}
        As for `SingularValueThreshold`; {series}.{see_also}
    """

    _operator, _arguments = "local_low_rank", ("block", "stride", "shift", "relative")
    _axes = 3

    _pad: Callable[[Any, int, int], Any]  # with zeros, below and on the right
    _draw: Callable[[int, Any], Any]  # random integer below a bound, beside x
    _roll: Callable[[Any, Any, int], Any]  # by such an integer, along an axis

    def __init__(
        self, block: Pair, threshold: Any = 0.1, *, stride: Pair | None = None,
        shift: Pair | Literal["random"] = "random", relative: bool = True,
        channels: int | None = None, method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(threshold, relative, channels, method, **options)
        if isinstance(shift, str) and shift != "random":
            raise ValueError(f"shift must be 'random' or integers, got {shift!r}")
        self.block, self.stride, self.shift = block, stride, shift
        tilings((1, 1), block, stride, 0 if shift == "random" else shift)

    def _map(self, x: Any, training: bool) -> Any:
        tau = self._tau(x)
        if self.shift != "random":
            return self._operate(x, tau)
        if not training:
            return self._operate(x, tau, shift=0)
        # Rolled by index: a shift that is a number would be compiled in.
        *_, height, width = x.shape
        if None in (height, width):
            raise ValueError("the height and width of the series must be known")
        (h, w) = pair("block", self.block)
        steps = pair("stride", self.stride or self.block)
        x = self._pad(x, -height % h, -width % w)
        shifts = [self._draw(step, x) for step in steps]
        for axis, shift in zip((-2, -1), shifts, strict=True):
            x = self._roll(x, shift, axis)
        x = self._operate(x, tau, shift=0)
        for axis, shift in zip((-2, -1), shifts, strict=True):
            x = self._roll(x, -shift, axis)
        return x[..., :height, :width]


class LowRank(Layer):
    """Best approximation of matrices of a given rank.

    Parameters
    ----------
    rank : int
        Number of singular values to keep.
    multiplets, max_rank : optional
        Whether to leave out or keep a multiplet, a group of repeated singular values,
        that the rank would split; as for `low_rank`.
    {method}{see_also}
    """

    _operator, _arguments = "low_rank", ("rank", "multiplets", "max_rank")

    def __init__(
        self, rank: int, *, multiplets: bool | float | Literal["keep"] = False,
        max_rank: int | None = None, method: Method = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.rank, self.multiplets, self.method = rank, multiplets, method
        self.max_rank = max_rank
        self._try()
        check_method(method)


class Whitening(Layer):
    """Whiten features: decorrelated batch normalisation, with running statistics.

    While training, samples are whitened by the mean and covariance of their batch,
    which update the running statistics; in evaluation, by the running statistics.
    Samples are all positions along the batch and axes other than that of the features.

    Parameters
    ----------
    {features}epsilon : float, optional
        Number added to the variances.
    kind : {{"zca", "pca"}}, optional
        As for `whiten`. Use ``"zca"`` for training: the order of principal components,
        and possibly their signs, change from batch to batch.
    {momentum}{see_also}

    Notes
    -----
    The gradient goes through the statistics of the batch, and is exact where variances
    are equal. As there are as many covariances as pairs of features, a batch should
    hold several times as many samples as there are features.
    """

    _operator, _arguments = "whiten", ("epsilon", "kind")
    _options = ()

    _rows: Callable[[Any], tuple[Any, Callable[[Any], Any]]]  # samples, and the inverse
    _statistics: Callable[[], dict[str, Any]]  # running mean and covariance
    _follow: Callable[[Any, Any], None]  # updates these by those of a batch

    def __init__(
        self, *, momentum: float, epsilon: float = 1e-5, kind: Kind = "zca",
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.momentum, self.epsilon, self.kind = momentum, epsilon, kind
        if not 0 <= as_number(momentum, "momentum") <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        if not 0 <= as_number(epsilon, "epsilon") < math.inf:
            raise ValueError(f"epsilon must be >= 0 and finite, got {epsilon}")
        check_kind(kind)

    def _map(self, x: Any, training: bool) -> Any:
        rows, back = self._rows(x)
        given = {} if training else self._statistics()
        white, mean, covariance = self._operate(rows, **given)
        if training:
            self._follow(mean, covariance)
        return back(white)
