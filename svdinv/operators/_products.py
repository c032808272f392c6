"""Matrices given by their products with vectors."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.namespace import Array, any_on_host, cast, each, norm

# Rounding, single precision and the usual mismatch of projectors are well below.
MISMATCH = 0.05


def is_product(A: Any) -> bool:
    """Whether `A` is a pair of functions, an operator or sparse, not an array."""
    pair = isinstance(A, (tuple, list)) and len(A) == 2 and all(map(callable, A))
    known = ("forward", "adjoint"), ("matmat", "rmatmat"), ("tocsr",)
    return pair or any(_has(A, *methods) for methods in known)


def _has(A: Any, *methods: str) -> bool:
    return all(callable(getattr(A, method, None)) for method in methods)


class Products:
    """A linear map of arrays shaped as `like`, as products with matrices of columns."""

    def __init__(self, backend: Backend, A: Any, like: Any) -> None:
        xp = self.xp = backend.xp
        if _has(A, "tocsr"):  # sparse, of SciPy or CuPy
            if len(A.shape) != 2:
                raise ValueError(f"A must have two axes, got the shape {A.shape}")
            A = A.tocsr()
            matmat, rmatmat = A.__matmul__, A.conj(copy=False).T.__matmul__
            A = SimpleNamespace(
                shape=A.shape, dtype=A.dtype, matmat=matmat, rmatmat=rmatmat
            )
        self.backend, self.A = backend, A
        self.as_matrix = _has(A, "matmat", "rmatmat")
        name = "A" if like is None else "like"
        if like is None:
            if not self.as_matrix:
                raise TypeError(
                    "like must be given: an array of the shape and dtype of what A "
                    "is applied to"
                )
            like = xp.zeros((A.shape[1],), dtype=getattr(xp, str(A.dtype)))
        self.given = backend.stop_gradient(backend.asarray(like, "like"))
        self.like, self.restore = backend.matrices(self.given, name, ndim=0)
        self.image_shape = tuple(self.given.shape)
        self.data_shape: tuple[int, ...] | None = None
        self.columns = math.prod(self.image_shape)
        if self.as_matrix and A.shape[1] != self.columns:
            raise ValueError(
                f"like must have the {A.shape[1]} elements of a row of A, got shape "
                f"{self.image_shape}"
            )

    def times(self, X: Array) -> Array:
        """Return A X for X of shape (n, l)."""
        if self.as_matrix:
            return self._checked(self.A.matmat(cast(X, self.given, self.xp)))
        Y = self._applied(0, X, self.image_shape)
        self.data_shape = tuple(Y.shape[1:])
        return self._as_columns(Y)

    def adjoint_times(self, Y: Array) -> Array:
        """Return A^H Y for Y of shape (m, l)."""
        if self.as_matrix:
            Y = cast(Y, self.given, self.xp)
            try:
                X = self.A.rmatmat(Y)
            except (TypeError, NotImplementedError) as error:
                raise TypeError("A must have an adjoint, such as rmatvec") from error
            return self._checked(X)
        shape = (Y.shape[0],) if self.data_shape is None else self.data_shape
        X = self._applied(1, Y, shape)
        if tuple(X.shape[1:]) != self.image_shape:
            raise ValueError(
                f"the adjoint must give the shape of like, {self.image_shape}, got "
                f"{tuple(X.shape[1:])}"
            )
        return self._as_columns(X)

    def check_adjoint(self, one: Array, other: Array) -> None:
        """Raise if U^H (A X) and (A^H U)^H X differ by more than `MISMATCH`."""
        xp = self.xp
        if any_on_host(norm(one - other, xp) > MISMATCH * norm(one, xp), xp):
            raise ValueError("the second function must be the adjoint of the first")

    def _applied(self, which: int, X: Array, shape: tuple[int, ...]) -> Array:
        """Apply the product, or the adjoint one, to each column of X."""
        xp, count = self.xp, X.shape[1]
        X = cast(X, self.given, xp)
        block = xp.reshape(xp.matrix_transpose(X), (count, *shape))
        if isinstance(self.A, (tuple, list)):
            return self._checked(each(self.A[which], block, xp))
        method = self.A.adjoint if which else self.A.forward
        Y = self._checked(method(block))
        if Y.shape[0] != count:
            raise ValueError(
                f"A must keep the batch axis in front, of length {count}, got shape "
                f"{tuple(Y.shape)}"
            )
        return Y

    def _checked(self, Y: Any) -> Array:
        Y = self.backend.without_derivative(self.backend.asarray(Y, "what A gives"))
        if Y.dtype != self.given.dtype:
            raise TypeError(
                f"A and its adjoint must keep the dtype of like, {self.given.dtype}, "
                f"got {Y.dtype}"
            )
        return cast(Y, self.like, self.xp)

    def _as_columns(self, Y: Array) -> Array:
        flat = self.xp.reshape(Y, (Y.shape[0], math.prod(Y.shape[1:])))
        return self.xp.matrix_transpose(flat)
