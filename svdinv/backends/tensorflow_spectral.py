"""TensorFlow: spectral maps as custom gradients that can be differentiated twice.

The map, its pullback and its tangent are each other's derivatives; what comes after
the second raises. The factors enter as tensors without a derivative: each function
knows its own in A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from svdinv.backends import tensorflow_namespace as xp
from svdinv.backends.tensorflow import HALF_EPSILON, differentiable, look
from svdinv.core.factors import factorise as core_factorise
from svdinv.core.functions import SpectralFunction
from svdinv.core.namespace import sizes
from svdinv.core.operation import SVD, Options, leading_triplets
from svdinv.core.sampled import sampled_derivative
from svdinv.core.spectral import (
    spectral_derivative,
    spectral_map,
    spectral_second_derivative,
)
from svdinv.operators import relative_spectral

__all__ = ["Toolbox"]

Tensors: TypeAlias = tuple[tf.Tensor, ...]

_svd = differentiable(SVD)

# There is no control flow over tensors to convert, and converting takes long.
_plain = tf.autograph.experimental.do_not_convert


# A point is (A,), or (A, tau) if the function has a parameter, and so are its
# tangents and cotangents: custom gradients take tensors, and no None. All tensors
# are arguments, the factors included, because a gradient may be built in another
# graph than the one that closed over them.


def _custom(
    value: Callable[..., Any], gradient: Callable[..., Tensors], *parts: Tensors
) -> Any:
    """Evaluate `value(*parts)`, with `gradient(parts, *cotangents)`.

    The gradient may leave out the last parts, which get none then.
    """

    def split(tensors: Tensors) -> list[Tensors]:
        rest = iter(tensors)
        return [tuple(next(rest) for _ in part) for part in parts]

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> tuple[Any, Any]:
        def backward(*cotangents: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            given = gradient(split(tensors), *cotangents)
            return *given, *(None for _ in tensors[len(given) :])

        # Forward mode would differentiate what it sees here as well.
        return value(*split(tuple(map(tf.stop_gradient, tensors)))), backward

    # Tensors of this graph, for the gradient of a gradient is built in a third one.
    return run(*(tf.identity(x) for part in parts for x in part))


def _tau(point: Tensors) -> tf.Tensor | None:
    return point[1] if len(point) == 2 else None


def _given(gA: tf.Tensor, gtau: tf.Tensor | None) -> Tensors:
    return (gA,) if gtau is None else (gA, gtau)


def _map(function: SpectralFunction, point: Tensors, factors: Tensors) -> tf.Tensor:
    """F(A, tau)."""

    def value(point: Tensors, factors: Tensors) -> tf.Tensor:
        return spectral_map(function, point[0], _tau(point), factors, xp=xp)

    def gradient(parts: list[Tensors], G: tf.Tensor) -> Tensors:
        point, factors = parts
        return _pull(function, point, G, factors)

    return _custom(value, gradient, point, factors)


def _pull(
    function: SpectralFunction, point: Tensors, G: tf.Tensor, factors: Tensors
) -> Tensors:
    """Cotangents of A and tau from that of F(A, tau)."""

    def value(point: Tensors, G: Tensors, factors: Tensors) -> Tensors:
        A, tau = point[0], _tau(point)
        return _given(
            *spectral_derivative(
                function, A, tau, factors, G[0], transposed=True, xp=xp
            )
        )

    def gradient(parts: list[Tensors], *C: tf.Tensor) -> Tensors:
        point, (G,), factors = parts
        moved = _second(function, point, G, C)
        return *moved, _push(function, point, C, factors)

    result = _custom(value, gradient, point, (G,), factors)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _push(
    function: SpectralFunction, point: Tensors, dx: Tensors, factors: Tensors
) -> tf.Tensor:
    """Tangent of F(A, tau) along dx."""

    def value(point: Tensors, dx: Tensors, factors: Tensors) -> tf.Tensor:
        A, tau = point[0], _tau(point)
        return spectral_derivative(function, A, tau, factors, dx[0], _tau(dx), xp=xp)[0]

    def gradient(parts: list[Tensors], G: tf.Tensor) -> Tensors:
        point, dx, factors = parts
        moved = _second(function, point, G, dx)
        return *moved, *_pull(function, point, G, factors)

    return _custom(value, gradient, point, dx, factors)


def _second(
    function: SpectralFunction,
    point: Tensors,
    G: tf.Tensor,
    dx: Tensors,
) -> Tensors:
    """Differentiate `_pull` along dx; nothing can differentiate the result."""
    A, tau = point[0], _tau(point)
    # Anew, because vectors from a Gram matrix are not all orthogonal.
    factors = xp.linalg.svd(tf.stop_gradient(A), full_matrices=False)
    moved = spectral_second_derivative(
        function, A, tau, factors, G, dx[0], _tau(dx), xp=xp
    )
    return tuple(_last(x, *point) for x in _given(*moved))


@tf.custom_gradient
def _last(x: tf.Tensor, *point: tf.Tensor) -> tuple[tf.Tensor, Any]:
    def gradient(_: tf.Tensor) -> Tensors:
        raise NotImplementedError("svdinv's operators have two derivatives, not three")

    return tf.identity(x), gradient


@_plain
def factorise(
    A: tf.Tensor,
    function: SpectralFunction,
    tau: tf.Tensor | None = None,
    *,
    relative: bool = False,
    method: str = "auto",
) -> Tensors:
    """Factors of A for `spectral`, without a derivative."""
    if None in A.shape[-2:]:  # which side of the Gram matrix is smaller is not known
        method = "svd"
    factors = core_factorise(
        tf.stop_gradient(A),
        function,
        None if tau is None else tf.stop_gradient(tau),
        relative=relative,
        method=method,
        look=look,
        xp=xp,
    )
    return tuple(tf.stop_gradient(x) for x in factors)


@_plain
def spectral(
    A: tf.Tensor, function: SpectralFunction, tau: tf.Tensor | None, factors: Tensors
) -> tf.Tensor:
    """U f(S) V^H, differentiable twice in A and tau."""
    return _map(function, _given(A, tau), factors)


@_plain
def spectral_sum(
    A: tf.Tensor, value: tf.Tensor, function: SpectralFunction, factors: Tensors
) -> tf.Tensor:
    """`value`, a function of the singular values whose gradient is U f(S) V^H."""

    def gradient(parts: list[Tensors], g: tf.Tensor) -> Tensors:
        (A,), factors, _ = parts
        slope = spectral(A, function, None, factors)
        return (xp.astype(g, A.dtype)[..., None, None] * slope,)

    return _custom(
        lambda A, factors, value: tf.identity(value[0]),
        gradient,
        (A,),
        factors,
        (value,),
    )


@_plain
def rotate(
    A: tf.Tensor,
    y: tf.Tensor,
    minus: tf.Tensor,
    U: tf.Tensor,
    S: tf.Tensor,
    Vh: tf.Tensor,
) -> tf.Tensor:
    """U diag(y) V^H, whose derivative in the factors is that in A."""

    def value(x: Tensors, factors: Tensors) -> tf.Tensor:
        U, _, Vh, _ = factors
        return (U * xp.astype(x[1], U.dtype)[..., None, :]) @ Vh

    def gradient(parts: list[Tensors], G: tf.Tensor) -> Tensors:
        (_, y), (U, S, Vh, minus) = parts
        gA, K = sampled_derivative(U, S, Vh, y, minus, G, xp=xp)
        return gA, tf.math.real(tf.linalg.diag_part(K))

    return _custom(value, gradient, (A, y), (U, S, Vh, minus))


_LEADING = leading_triplets()


def leading(A: tf.Tensor, factors: Tensors) -> Tensors:
    """Give the factors, with their derivative in A."""

    def value(point: Tensors, factors: Tensors) -> Tensors:
        return tuple(tf.identity(x) for x in factors)

    def gradient(parts: list[Tensors], *cotangents: tf.Tensor) -> Tensors:
        (A,), factors = parts
        # Linked anew, so that a second derivative comes through here again.
        outputs = (*leading(A, factors), A)
        given = (*cotangents, None)
        return (_LEADING.pullback(outputs, given, Options(), xp, look),)

    return tuple(_custom(value, gradient, (A,), factors))


class Toolbox:
    """What `svdinv.operators` needs of TensorFlow."""

    xp: Any = xp
    shape_error: type[Exception] = ValueError
    factorise = staticmethod(factorise)
    spectral = staticmethod(spectral)
    spectral_sum = staticmethod(spectral_sum)

    def relative_spectral(
        self,
        A: tf.Tensor,
        function: SpectralFunction,
        ratio: tf.Tensor,
        factors: Tensors,
    ) -> tf.Tensor:
        """`spectral` with tau = ratio s_1."""
        return relative_spectral(self, A, function, ratio, factors)

    @staticmethod
    def matrices(
        A: Any, name: str, ndim: int = 2
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        """Check A; half precision is computed in single precision."""
        A = tf.convert_to_tensor(A, name=name)
        if not (A.dtype.is_floating or A.dtype.is_complex):
            raise TypeError(
                f"{name} must be floating point or complex, got {A.dtype.name}"
            )
        if A.shape.rank is None:
            raise ValueError(f"{name} must have a known number of dimensions")
        if A.shape.rank < ndim:
            raise ValueError(
                f"{name} must have at least {ndim} dimensions, got shape {A.shape}"
            )
        if A.dtype not in HALF_EPSILON:
            return A, lambda x: x
        given = A.dtype
        return tf.cast(A, tf.float32), lambda x: tf.cast(x, given)

    @staticmethod
    def parameter(value: Any, like: tf.Tensor, name: str = "value") -> tf.Tensor:
        """`value` in the real dtype of `like`."""
        if not tf.is_tensor(value):
            try:
                value = np.asarray(value)  # in double precision, unlike TensorFlow's
            except (TypeError, ValueError, NotImplementedError) as error:
                raise TypeError(f"{name} must be a number or a tensor") from error
            if value.dtype.kind not in "biufc":
                raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
            value = tf.convert_to_tensor(value)
        if value.dtype.is_complex:
            raise TypeError(f"{name} must be real, got {value.dtype.name}")
        return tf.cast(value, like.dtype.real_dtype)

    @staticmethod
    def stop_gradient(x: tf.Tensor) -> tf.Tensor:
        """`x` without its derivative."""
        return tf.stop_gradient(x)

    @staticmethod
    @_plain
    def svd(A: tf.Tensor) -> Tensors:
        """Thin U, S and Vh, differentiable."""
        return _svd(A, Options())

    @staticmethod
    def sketch(A: tf.Tensor, columns: int, seed: Any) -> tf.Tensor:
        """Draw a normal random matrix (..., n, columns)."""
        *batch, _, n = sizes(A, xp)
        shape = (*batch, n, columns)
        dtype = A.dtype.real_dtype

        def normal(part: int) -> tf.Tensor:
            if seed is None:
                return tf.random.normal(shape, dtype=dtype)
            return tf.random.stateless_normal(shape, (seed, part), dtype=dtype)

        return tf.complex(normal(0), normal(1)) if A.dtype.is_complex else normal(0)

    @staticmethod
    @_plain
    def leading_triplets(A: tf.Tensor, *factors: tf.Tensor) -> Tensors:
        """U, S and Vh from A and these."""
        return leading(A, factors)

    @staticmethod
    def derivative(f: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., tf.Tensor]:
        """Differentiate a function that acts element by element."""

        def slope(x: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            return tape.gradient(y, x, unconnected_gradients="zero")

        return slope

    @staticmethod
    def rotate(*tensors: tf.Tensor) -> tf.Tensor:
        """U diag(y) V^H from A, y, the divided differences, U, S and Vh."""
        return rotate(*tensors)
