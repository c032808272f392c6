"""MLX: every call of an operation is one `mx.custom_function`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from svdinv.core import householder
from svdinv.core.backend import Backend
from svdinv.core.guarded import marked
from svdinv.core.namespace import adjoint, is_complex, real
from svdinv.core.operation import (
    Arrays,
    Operation,
    filled,
    in_front,
    padded,
    present,
    rebuilt,
)  # fmt: skip


def _has_values(x: Any) -> bool:
    """Whether `x` can be computed now: not in `mx.compile` and `mx.vmap`."""
    try:
        mx.eval(x)
    except ValueError:
        return False
    return True


def _guarded(decompose: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """NaN for a matrix with NaN or infinity, where LAPACK would fail for the batch."""

    def call(A: Any, **options: Any) -> tuple[Any, ...]:
        finite = mx.all(mx.isfinite(A), axis=(-2, -1), keepdims=True)
        factors = decompose(mx.where(finite, A, mx.zeros_like(A)), **options)
        return marked(A, factors, mx)

    return call


# Decompositions run on the CPU alone; memory is shared with the GPU.
def _svd(A: Any, *, full_matrices: bool) -> Any:
    (m, n), k = A.shape[-2:], min(A.shape[-2:])
    if full_matrices or m == n or k == 0:
        U, S, Vh = mx.linalg.svd(A, stream=mx.cpu)
        return (U, S, Vh) if full_matrices else (U[..., :k], S, Vh[..., :k, :])
    if m < n:
        V, S, Uh = _svd(adjoint(A, xp), full_matrices=False)
        return adjoint(Uh, xp), S, adjoint(V, xp)
    Q, R = _qr(A)  # MLX's own SVD forms a square U
    U, S, Vh = mx.linalg.svd(R, stream=mx.cpu)
    return Q @ U, S, Vh


def _qr(A: Any) -> tuple[Any, ...]:
    """QR; MLX's own takes no complex matrices and stops `mx.vmap`."""
    if is_complex(A, xp) or not _has_values(A):
        return householder.qr(A, xp)
    return tuple(mx.linalg.qr(A, stream=mx.cpu))


def _det(A: Any) -> Any:
    """Compute determinants; `mx.vmap` has no LU, which MLX uses from 4 x 4 on."""
    if A.shape[-1] < 4 or _has_values(A):
        return mx.linalg.det(A, stream=mx.cpu)
    return householder.det(A, xp)


# Tangents of MLX's own real transforms of odd length have the wrong length.
def _rfft(x: Any, *, axis: int) -> Any:
    if x.dtype == mx.float64:
        raise TypeError("MLX has no Fourier transform in double precision")
    n = x.shape[axis]
    if n % 2 == 0:
        return mx.fft.rfft(x, axis=axis)
    return mx.fft.fft(x, axis=axis)[..., : n // 2 + 1]


def _irfft(x: Any, *, n: int, axis: int) -> Any:
    if n % 2 == 0:
        return mx.fft.irfft(x, n=n, axis=axis)
    whole = mx.concat([x, mx.conj(x[..., :0:-1])], axis=axis)
    return mx.real(mx.fft.ifft(whole, axis=axis))


def _exp(x: Any) -> Any:
    if x.dtype == mx.float64:  # MLX's own is of single precision
        return mx.power(mx.array(math.e, dtype=x.dtype), x)
    return mx.exp(x)


def _sqrt(x: Any) -> Any:
    # A comparison has a cotangent of 0 in MLX, which times infinity is NaN.
    none = x == 0
    return mx.where(none, mx.zeros_like(x), mx.sqrt(mx.where(none, mx.ones_like(x), x)))


def _any_on_host(mask: Any) -> bool | None:
    on_cpu = mx.default_device().type == mx.cpu
    return bool(mx.any(mask)) if on_cpu and _has_values(mask) else None


# Functions in which `mlx.core` differs from the array API, and extensions of it.
_OWN = {
    "any_on_host": _any_on_host,
    "astype": lambda x, dtype, *, copy=True: x.astype(dtype),
    # There is no complex double precision, and none at all on GPUs.
    "double_precision": False,
    "exp": _exp,
    "eye": lambda n, *, dtype, device: mx.eye(n, dtype=dtype),
    "fft": SimpleNamespace(fft=mx.fft.fft, ifft=mx.fft.ifft, rfft=_rfft, irfft=_irfft),
    "linalg": SimpleNamespace(
        det=_det,
        diagonal=partial(mx.diagonal, axis1=-2, axis2=-1),
        eigh=_guarded(partial(mx.linalg.eigh, stream=mx.cpu)),
        qr=_qr,
        svd=_guarded(_svd),
    ),
    "roll": lambda x, shift, *, axis: mx.roll(x, shift, axis),
    "sqrt": _sqrt,
}
xp: Any = SimpleNamespace(**{**vars(mx), **_OWN})


def _kept(x: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(t for t in x if t is not None)


def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    if operation.transparent:
        return operation.composed(x, _call, xp)
    there = present(x)
    outputs: tuple[bool, ...] = ()

    # The one argument is a tuple: MLX would pass a single array without one. Custom
    # functions take only arrays, and must return every derivative.
    @mx.custom_function
    def function(kept: Any) -> tuple[Any, ...]:
        nonlocal outputs
        y = operation.value(filled(map(mx.stop_gradient, kept), there), xp)
        outputs = present(y)
        return _kept(y)

    @function.vjp
    def _(kept: Any, g: Any, y: Any) -> tuple[Any, ...]:
        x, y, g = filled(kept, there), filled(y, outputs), filled(g, outputs)
        return _or_zero(operation.cotangent(x, y, g, there, _call, xp), x)

    @function.jvp
    def _(kept: Any, dkept: Any) -> tuple[Any, ...]:
        x, dx = filled(kept, there), filled(dkept, there)
        y = _call(operation, *x)  # never computed if it is not used
        return _or_zero(operation.tangent(x, y, dx, _call, xp), y)

    @function.vmap
    def _(kept: Any, axes: Any) -> tuple[Any, ...]:
        y = _kept(_call(operation, *filled(in_front(kept, axes, xp), there)))
        return y, (0,) * len(y)

    values: Any = function(_kept(x))
    return filled(values, outputs)


def _or_zero(derivatives: Arrays, like: Arrays) -> tuple[Any, ...]:
    """Replace None by zeros like the array in `like`; drop what has no array there."""
    return tuple(
        mx.zeros_like(t) if d is None else d
        for d, t in zip(padded(derivatives, len(like)), like, strict=True)
        if t is not None
    )


def _constant(x: Any) -> Any:
    return rebuilt(x, (None if t is None else mx.stop_gradient(t) for t in x))


def _evaluated(operation: Operation, x: Any) -> Any:
    """Compute a value so that `mx.vmap` maps it as a whole, with one more batch axis.

    Mapped function by function, ``a & b`` of booleans is wrong in MLX 0.32 where one of
    them is not mapped.
    """
    there, made = present(x), []

    @mx.custom_function
    def function(kept: Any) -> tuple[Any, ...]:
        made.append(operation.value(filled(kept, there), xp))
        return _kept(made[-1])

    @function.vmap
    def _(kept: Any, axes: Any) -> tuple[Any, ...]:
        y = _kept(_evaluated(operation, filled(in_front(kept, axes, xp), there)))
        return y, (0,) * len(y)

    values: Any = function(_kept(x))
    return rebuilt(made[-1], filled(values, present(made[-1])))


class MLXBackend(Backend):
    """MLX arrays."""

    xp = xp
    call = staticmethod(_call)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        return _constant(_evaluated(operation, _constant(x)))

    def asarray(self, x: Any, name: str) -> Any:
        try:
            return mx.asarray(x)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array, got {x!r}") from error

    def parameter(self, value: Any, like: Any, name: str = "value") -> Any:
        given, dtype = self.asarray(value, name), real(like, xp).dtype
        if is_complex(given, xp):
            raise TypeError(f"{name} must be real, got {given.dtype}")
        # A number is made in this dtype: MLX's own default is single precision.
        return mx.array(value, dtype=dtype)

    def normal(self, shape: tuple[int, ...], like: Any, seed: Any) -> Any:
        key = mx.random.key(seed) if isinstance(seed, int) else seed
        return mx.random.normal(shape, dtype=like.dtype, key=key)

    def slope(self, f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return mx.grad(lambda x: mx.sum(f(x)))
