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
from svdinv.core.operation import SVD, Options
from svdinv.core.sampled import sampled_derivative
from svdinv.core.spectral import (
    spectral_derivative,
    spectral_map,
    spectral_second_derivative,
)

__all__ = ["Toolbox"]

Tensors: TypeAlias = tuple[tf.Tensor, ...]

_svd = differentiable(SVD)

# There is no control flow over tensors to convert, and converting takes long.
_plain = tf.autograph.experimental.do_not_convert


# A point is (A,), or (A, tau) if the function has a parameter, and so are its
# tangents and cotangents: custom gradients take tensors, and no None.


@tf.custom_gradient
def _last(x: tf.Tensor, *point: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Link a second derivative to its point, and refuse to differentiate it."""

    def gradient(_: tf.Tensor) -> Tensors:
        raise NotImplementedError("svdinv's operators have two derivatives, not three")

    return tf.identity(x), gradient


class _Map:
    """The map of one function at given factors, with its derivatives."""

    def __init__(self, function: SpectralFunction, factors: Tensors) -> None:
        self._function = function
        self._factors = factors
        self._size = 2 if function.has_tau else 1

    def _split(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        return tensors[: self._size], tensors[self._size :]

    def value(self, *point: tf.Tensor) -> tf.Tensor:
        """F(A, tau)."""

        @tf.custom_gradient
        def run(*point: tf.Tensor) -> tuple[tf.Tensor, Any]:
            result = spectral_map(
                self._function, point[0], _tau(point), self._factors, xp=xp
            )
            return result, lambda G: self.pull(*point, G)

        return run(*point)

    def pull(self, *tensors: tf.Tensor) -> Tensors:
        """(A, tau, G) -> cotangents of A and tau."""

        @tf.custom_gradient
        def run(*tensors: tf.Tensor) -> tuple[Tensors, Any]:
            point, (G,) = self._split(tensors)
            gA, gtau = spectral_derivative(
                *(self._function, point[0], _tau(point), self._factors, G),
                transposed=True,
                xp=xp,
            )

            def gradient(*C: tf.Tensor) -> Tensors:
                return *self._second(point, G, C), self.push(*point, *C)

            return (gA,) if gtau is None else (gA, gtau), gradient

        return _tuple(run(*tensors))

    def push(self, *tensors: tf.Tensor) -> tf.Tensor:
        """(A, tau, dA, dtau) -> tangent of F(A, tau)."""

        @tf.custom_gradient
        def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Any]:
            point, dx = self._split(tensors)
            result, _ = spectral_derivative(
                *(self._function, point[0], _tau(point), self._factors),
                *(dx[0], _tau(dx)),
                xp=xp,
            )

            def gradient(G: tf.Tensor) -> Tensors:
                return *self._second(point, G, dx), *self.pull(*point, G)

            return result, gradient

        return run(*tensors)

    def _second(self, point: Tensors, G: tf.Tensor, dx: Tensors) -> Tensors:
        factors = self._factors
        if len(factors) != 3:
            factors = xp.linalg.svd(tf.stop_gradient(point[0]), full_matrices=False)
        gA, gtau = spectral_second_derivative(
            *(self._function, point[0], _tau(point), factors, G, dx[0], _tau(dx)),
            xp=xp,
        )
        moved = (gA,) if gtau is None else (gA, gtau)
        return tuple(_last(x, *point) for x in moved)


def _tau(point: Tensors) -> tf.Tensor | None:
    return point[1] if len(point) == 2 else None


def _tuple(x: Any) -> Tensors:
    return tuple(x) if isinstance(x, tuple | list) else (x,)


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
    return _Map(function, factors).value(*((A,) if tau is None else (A, tau)))


@_plain
def spectral_sum(
    A: tf.Tensor, value: tf.Tensor, function: SpectralFunction, factors: Tensors
) -> tf.Tensor:
    """`value`, a function of the singular values whose gradient is U f(S) V^H."""

    @tf.custom_gradient
    def run(A: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(g: tf.Tensor) -> tuple[tf.Tensor, None]:
            weight = xp.astype(g, A.dtype)[..., None, None]
            return weight * spectral(A, function, None, factors), None

        return tf.identity(value), gradient

    return run(A, value)


@_plain
@tf.custom_gradient
def rotate(
    A: tf.Tensor,
    y: tf.Tensor,
    minus: tf.Tensor,
    U: tf.Tensor,
    S: tf.Tensor,
    Vh: tf.Tensor,
) -> tuple[tf.Tensor, Any]:
    """U diag(y) V^H, whose derivative in the factors is that in A."""

    def gradient(G: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        gA, K = sampled_derivative(U, S, Vh, y, minus, G, xp=xp)
        return gA, tf.math.real(tf.linalg.diag_part(K)), None, None, None, None

    return (U * xp.astype(y, U.dtype)[..., None, :]) @ Vh, gradient


class Toolbox:
    """What `svdinv.operators` needs of TensorFlow."""

    xp: Any = xp
    shape_error: type[Exception] = ValueError
    factorise = staticmethod(factorise)
    spectral = staticmethod(spectral)
    spectral_sum = staticmethod(spectral_sum)

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
