"""What a framework does for the operators, and what they check for all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from svdinv.core.namespace import Array, DType, Namespace, cast, real
from svdinv.core.operation import Operation
from svdinv.core.svd_operations import SingularValues

__all__ = ["Backend", "number_within"]


def number_within(value: Any, largest: float) -> Any:
    """Return a Python number as a float, or infinity if it is beyond `largest`.

    Anything else is returned unchanged. Casts of larger numbers may warn or raise.
    """
    if not isinstance(value, (int, float)):
        return value
    if abs(value) > largest:
        return math.inf if value > 0 else -math.inf
    return float(value)


def kind_of(x: Any) -> str:
    """Describe an object that is not an array, for error messages."""
    kind = type(x).__name__
    if kind == "KerasTensor":
        advice = "use a layer of svdinv.keras, or call this in one of your own"
        return f"{kind}, a symbol of Keras: {advice}"
    return f"{kind} of {x.dtype}" if hasattr(x, "dtype") else kind


class Backend(ABC):
    """One framework, as `svdinv.operators` sees it.

    Attributes
    ----------
    xp : namespace
        Array functions that the framework differentiates, with its extensions of the
        array API: see `svdinv.core.namespace`.
    shape_error : type
        Exception that the framework raises for an array of the wrong shape.
    triangle : {"L", None}
        Which triangle the framework's own `eigh` reads; None for the mean of both.
    gradient_in_triangle : bool
        Whether its gradient is in that triangle alone, not Hermitian.
    """

    xp: Namespace
    shape_error: type[Exception] = ValueError
    triangle: str | None = "L"
    gradient_in_triangle: bool = False

    @abstractmethod
    def call(self, operation: Operation, *x: Any) -> tuple[Any, ...]:
        """Call an operation so that the framework can differentiate it."""

    @abstractmethod
    def evaluate(self, operation: Operation, *x: Any) -> Any:
        """Compute the value of an operation, without a derivative."""

    def by_kernel(self, operation: Operation, *x: Any) -> Any:
        """Value by one kernel; None if there is none or a derivative may be needed."""
        return None

    def is_constant(self, *x: Array) -> bool:
        """Whether derivatives in these arrays are known not to be needed."""
        return False

    def unless_differentiated(
        self,
        operation: SingularValues,
        f: Callable[[Array], Any],
        otherwise: Callable[[Array], Any],
        A: Array,
    ) -> Any:
        """Compute ``f(S)`` if no derivative is needed; otherwise ``otherwise(A)``.

        Also ``otherwise(A)`` if it is not known whether one is needed.
        """
        y = self.by_kernel(operation, A)
        return otherwise(A) if y is None else f(*y)

    @abstractmethod
    def asarray(self, x: Any, name: str) -> Array:
        """Convert `x` to an array of the framework, or raise TypeError."""

    @abstractmethod
    def parameter(self, value: Any, like: Array, name: str = "value") -> Array:
        """Convert to the real dtype and the device of `like`, or raise TypeError."""

    def placed(self, values: Array, A: Array) -> Array:
        """Distribute values for each matrix of A over the devices as A is."""
        return values

    def stop_gradient(self, x: Array) -> Array:
        """`x` as a constant, with derivatives of 0."""
        return self.xp.stop_gradient(x)

    def without_derivative(self, x: Array) -> Array:
        """`x` as a constant; JAX raises if it is differentiated."""
        return self.stop_gradient(x)

    def materialised(self, x: Array) -> Array:
        """`x` with lazy conjugation carried out."""
        return x

    @abstractmethod
    def normal(self, shape: tuple[Any, ...], like: Array, seed: Any) -> Array:
        """Draw normal random numbers in the dtype of `like`."""

    @abstractmethod
    def slope(self, f: Callable[[Array], Array]) -> Callable[[Array], Array] | None:
        """Differentiate a function that acts element by element.

        None where a graph is traced that cannot hold such derivatives.
        """

    def half_precision(self, dtype: DType) -> tuple[DType, float] | None:
        """Dtype to compute in and eps of a half precision dtype; None for others."""
        xp = self.xp
        if xp.finfo(dtype).bits >= 32:
            return None
        return xp.float32, float(xp.finfo(dtype).eps)

    def eps_of_products(self, A: Array, inside: bool) -> float | None:
        """Return the eps of matrix products around an operator; None if it is A's.

        `inside` says that the call comes from within the operator, whose own products
        are in full precision.
        """
        return None

    def is_floating(self, dtype: DType) -> bool:
        """Whether a dtype is floating point or complex."""
        return self.xp.isdtype(dtype, ("real floating", "complex floating"))

    def rank(self, A: Array) -> int | None:
        """Return the number of dimensions, None where that is unknown."""
        return len(A.shape)

    def matrices(
        self, A: Any, name: str, ndim: int = 2, *, any_rank: bool = False
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Check A; return it in the dtype to compute in, and a cast of results back.

        Half precision is computed in single: LAPACK and cuSOLVER have no half. A must
        have at least `ndim` dimensions; with `any_rank` their number may be unknown, as
        in a traced graph. `name` is that of the argument, for messages.
        """
        xp, A = self.xp, self.asarray(A, name)
        if not self.is_floating(A.dtype):
            dtype = getattr(A.dtype, "name", A.dtype)
            raise TypeError(
                f"{name} must be floating point or complex, of half to double "
                f"precision, got {dtype}"
            )
        rank = self.rank(A)
        if rank is None and not any_rank:
            raise self.shape_error(f"{name} must have a known number of dimensions")
        if rank is not None and rank < ndim:
            number = {1: "one dimension", 2: "two dimensions", 3: "three dimensions"}
            raise self.shape_error(
                f"{name} must have at least {number[ndim]}, got shape {tuple(A.shape)}"
            )
        half = self.half_precision(A.dtype)
        if half is None:
            return A, lambda x: x
        inner = xp.astype(A, half[0], copy=False)
        # For complex A, real results are cast to its real dtype.
        examples = {inner.dtype: A, real(inner, xp).dtype: real(A, xp)}
        return inner, lambda x: cast(x, examples.get(x.dtype, A), xp)
