"""Operator base class and algebra: products, sums, multiples, adjoints, norms.

``A(x)`` applies A and ``A.H(y)`` its adjoint; ``A * B`` is A after B, ``A + B`` a sum,
``2 * A`` a multiple. A user-defined linear operator defines `forward` and `adjoint`, a
nonlinear one `forward` and `derivative`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from svdinv.unroll.arrays import (
    Array,
    as_complex,
    as_float,
    cast_like,
    check_floating,
    inner,
    is_complex,
    namespace,
    norm,
    to_numpy,
)


class Operator:
    """A forward operator, from an image to its data.

    Subclasses define `forward` and, if they are linear, `adjoint`; others set `linear`
    to False and define `derivative`. These return new arrays, or views of their
    argument, and do not change it; `Wrapped` takes functions that do otherwise.

    Attributes
    ----------
    linear : bool
        Whether the operator is linear, and therefore its own derivative.
    tight : bool
        Whether ``A A^H`` is the identity on the range of A, so that
        ``x - A^H(A x - y)`` is the image nearest to x with ``A x = y``.
    unitary : bool
        Whether ``A^H`` is the inverse of A.
    keeps_size : bool
        Whether the data have the size of the image.
    arrays : tuple of str
        Names of the constructor's arguments, if all are arrays or None and stored as
        attributes of the same names.
    """

    linear = True
    tight = False
    unitary = False
    keeps_size = False
    arrays: tuple[str, ...] = ()

    pixel_mask: Array | None = None
    """True where pixels are sampled; None for operators that measure no pixels."""

    # Makes a NumPy number on the left defer to __rmul__.
    __array_ufunc__ = None

    def forward(self, x: Array) -> Array:
        """Apply the operator."""
        raise NotImplementedError

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint of a linear operator."""
        if self.linear:
            raise NotImplementedError(f"{self!r} is linear and must define adjoint(y)")
        raise NotImplementedError(
            f"{self!r} has no adjoint: take derivative(x).H, and for the first image "
            "of a network define approximate_inverse(y)"
        )

    def approximate_inverse(self, y: Array) -> Array:
        """Return a first image: ``A^H y``, in tomography filtered back-projection."""
        return self.adjoint(y)

    def preconditioned(self, y: Array) -> Array:
        """Precondition data or residuals, so that gradient descent converges faster.

        Returns ``M y``, with M symmetric and positive, and ``A^H M A`` closer to a
        multiple of the identity than ``A^H A``; in tomography by the ramp filter.
        """
        return y

    def derivative(self, x: Array) -> Operator:
        """Return the derivative ``A'(x)``; the operator itself if it is linear."""
        if self.linear:
            return self
        raise NotImplementedError(f"{type(self).__name__} must define derivative(x)")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        """Return the same operator with converted arrays.

        `convert` is applied to every array, to move it to a framework or device.
        """
        if not self.arrays:
            return self
        values = (getattr(self, name) for name in self.arrays)
        constructor: Any = type(self)
        return constructor(*(None if x is None else convert(x) for x in values))

    def data_length(self, axis: int) -> int | None:
        """Return the length of data along a negative axis, None for the image's."""
        if self.keeps_size:
            return None
        raise NotImplementedError

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        """Combine this operator and others, of single images, into one for a batch.

        Its images have one more axis in front. `data` is the measurement of one of the
        operators, used for its number of axes. Raises ValueError if the operators are
        of different classes, or of one that cannot be stacked.
        """
        if all(alike(other, self) for other in others):
            return self
        raise ValueError(
            f"different operators cannot form a batch, unless their class defines "
            f"stacked(others, data): {type(self).__name__}"
        )

    def __call__(self, x: Array) -> Array:
        """Apply the operator to `x`."""
        return self.forward(x)

    @property
    def H(self) -> Operator:
        """The adjoint operator."""
        if not self.linear:
            raise TypeError(f"{self!r} is not linear: take derivative(x).H")
        return _Adjoint(self)

    def consistent(self, x: Array, y: Array) -> Array:
        """Project `x` onto images with data `y`: ``x - A^H(A x - y)``, for tight A."""
        return x - self.adjoint(self.forward(x) - y)

    def project_to_samples(self, y: Array) -> Array:
        """Set unmeasured data, such as NaN outside a mask, to 0; by default none."""
        return y

    def __mul__(self, other: Any) -> Operator:
        """Return the product A B, or a multiple of A."""
        if isinstance(other, Operator):
            return Product([*factors_of(self), *factors_of(other)])
        return self.__rmul__(other)

    def __matmul__(self, x: Any) -> Any:
        """Apply the operator to an array, or return the product with another one."""
        if isinstance(x, numbers.Number):
            return NotImplemented
        return self * x if isinstance(x, Operator) else self(x)

    def __rmul__(self, scalar: Any) -> Operator:
        """Return a multiple."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return _Multiple(scalar, self)

    def __truediv__(self, scalar: complex) -> Operator:
        """Return A divided by a number."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return (1 / scalar) * self

    def __add__(self, other: Operator) -> Operator:
        """Return A + B."""
        if not isinstance(other, Operator):
            return NotImplemented
        return _Sum(self, other)

    def __sub__(self, other: Operator) -> Operator:
        """Return A - B."""
        if not isinstance(other, Operator):
            return NotImplemented
        return self + (-1) * other

    def __neg__(self) -> Operator:
        """Return -A."""
        return (-1) * self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``: by default the shapes of the arrays."""
        arrays = {name: getattr(self, name) for name in self.arrays}
        shapes = {name: tuple(x.shape) for name, x in arrays.items() if x is not None}
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


class Identity(Operator):
    """The identity, the operator of denoising."""

    tight = True
    unitary = True
    keeps_size = True

    def forward(self, x: Array) -> Array:
        return x

    def adjoint(self, y: Array) -> Array:
        return y


class Compound(Operator):
    """An operator composed of others, its `parts`."""

    parts: tuple[Operator, ...]

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        """Return the same operator with other parts."""
        raise NotImplementedError

    def derivative(self, x: Array) -> Operator:
        if self.linear:
            return self
        return self.rebuilt([part.derivative(x) for part in self.parts])

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        return self.rebuilt([part.replace_arrays(convert) for part in self.parts])


class _Adjoint(Compound):
    def __init__(self, operator: Operator) -> None:
        self.operator, self.parts = operator, (operator,)
        self.tight, self.unitary = operator.tight, operator.unitary

    def forward(self, x: Array) -> Array:
        return self.operator.adjoint(x)

    def adjoint(self, y: Array) -> Array:
        return self.operator.forward(y)

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return parts[0].H

    @property
    def H(self) -> Operator:
        return self.operator

    def __repr__(self) -> str:
        compound = type(self.operator) in (Product, _Multiple)
        return f"({self.operator!r}).H" if compound else f"{self.operator!r}.H"


class Product(Compound):
    """A product of operators, which applies the last one first."""

    def __init__(self, factors: Sequence[Operator]) -> None:
        self.factors = self.parts = tuple(factors)
        rest = [factor for factor in self.factors if not factor.unitary]
        self.linear = all(factor.linear for factor in self.factors)
        self.unitary = not rest
        # A product of two projections is in general not a projection.
        self.tight = len(rest) < 2 and all(factor.tight for factor in rest)

    def forward(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor.forward(x)
        return x

    def adjoint(self, y: Array) -> Array:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y

    def approximate_inverse(self, y: Array) -> Array:
        for factor in self.factors:
            y = factor.approximate_inverse(y)
        return y

    def preconditioned(self, y: Array) -> Array:
        return self.factors[0].preconditioned(y)

    def derivative(self, x: Array) -> Operator:
        if self.linear:
            return self
        chain: list[Operator] = []
        for factor in reversed(self.factors):
            chain.insert(0, factor.derivative(x))
            x = factor.forward(x)
        return Product(chain)

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return Product(parts)

    def data_length(self, axis: int) -> int | None:
        for factor in self.factors:
            length = factor.data_length(axis)
            if length is not None:
                return length
        return None

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        inner = [getattr(other, "factors", ())[1:] for other in others]
        # The shape of the data of inner factors is unknown, so these must be the same.
        if any(
            len(rest) != len(self.factors) - 1
            or not all(map(alike, rest, self.factors[1:]))
            for rest in inner
        ):
            return super().stacked(others, data)
        outer = self.factors[0].stacked([other.factors[0] for other in others], data)
        return Product([outer, *self.factors[1:]])

    def project_to_samples(self, y: Array) -> Array:
        return self.factors[0].project_to_samples(y)

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))


def factors_of(operator: Operator) -> tuple[Operator, ...]:
    """Return the factors of a product, or the operator itself."""
    return operator.factors if type(operator) is Product else (operator,)


class _Sum(Compound):
    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = self.parts = first, second
        self.linear = first.linear and second.linear

    def forward(self, x: Array) -> Array:
        return self.first.forward(x) + self.second.forward(x)

    def adjoint(self, y: Array) -> Array:
        return self.first.adjoint(y) + self.second.adjoint(y)

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return _Sum(*parts)

    def data_length(self, axis: int) -> int | None:
        return self.first.data_length(axis)

    def __repr__(self) -> str:
        return f"({self.first!r} + {self.second!r})"


class _Multiple(Compound):
    def __init__(self, scalar: Any, operator: Operator) -> None:
        # Python numbers: NumPy's would promote the dtype of the arrays.
        number = complex(scalar)
        self.scalar = number if number.imag else number.real
        self.operator, self.parts = operator, (operator,)
        self.linear = operator.linear

    def forward(self, x: Array) -> Array:
        return _times(self.scalar, self.operator.forward(x))

    def adjoint(self, y: Array) -> Array:
        return _times(self.scalar.conjugate(), self.operator.adjoint(y))

    def approximate_inverse(self, y: Array) -> Array:
        return self.operator.approximate_inverse(_times(1 / self.scalar, y))

    def preconditioned(self, y: Array) -> Array:
        return self.operator.preconditioned(y)

    @property
    def norm_bound(self) -> float:
        # AttributeError if the operator has no bound.
        return abs(self.scalar) * self.operator.norm_bound  # type: ignore[attr-defined]

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        return _Multiple(self.scalar, parts[0])

    def data_length(self, axis: int) -> int | None:
        return self.operator.data_length(axis)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        if any(getattr(other, "scalar", None) != self.scalar for other in others):
            return super().stacked(others, data)
        inner = [other.operator for other in others]
        return self.rebuilt([self.operator.stacked(inner, data)])

    def project_to_samples(self, y: Array) -> Array:
        return self.operator.project_to_samples(y)

    def __repr__(self) -> str:
        return f"{self.scalar} * {self.operator!r}"


def alike(one: Any, other: Any) -> bool:
    """Return whether two objects are identical, or equal in class and attributes."""
    if one is other:
        return True
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    pairs = [(value, vars(other)[name]) for name, value in vars(one).items()]
    plain = (bool, int, float, complex, str, tuple, type(None))
    return all(a is b or (isinstance(a, plain) and a == b) for a, b in pairs)


def _times(scalar: complex, x: Array) -> Array:
    return scalar * (as_complex(x, namespace(x)) if isinstance(scalar, complex) else x)


def operator_norm(
    A: Operator,
    like: Array,
    *,
    iterations: int = 100,
    rtol: float = 1e-4,
    rng: np.random.Generator | int = 0,
) -> float:
    """Estimate the largest singular value of an operator, by Lanczos on A^H A.

    With a random start the method also finds an eigenvalue that belongs to few pixels,
    for which power iteration would be slow (Kuczynski & Wozniakowski, SIAM J. Matrix
    Anal. Appl. 1992).

    Parameters
    ----------
    A : Operator
        Linear operator.
    like : array
        An image for A, whose shape, dtype and framework are used. For a batch the
        largest norm is returned.
    iterations : int
        Maximum number of iterations.
    rtol : float
        Stop when the residual of the squared norm, as an eigenvalue of A^H A, is less
        than `rtol` times the squared norm.
    rng : numpy.random.Generator or int
        Generator for the first image, or its seed.

    Returns
    -------
    float
        A lower bound of the norm, slightly too small if the largest singular values are
        close to each other. 0 for the zero operator, NaN if data of A are not finite.

    Raises
    ------
    ValueError
        If `iterations` is not positive, or ``<x, A^H A x>`` is negative for the first
        image x, so that the adjoint is wrong.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    xp = namespace(like)
    x = _drawn(like, np.random.default_rng(rng))
    x = x / as_float(norm(x))
    previous, beta = xp.zeros_like(x), 0.0
    T = np.zeros((iterations, iterations))
    squared = 0.0
    for k in range(iterations):
        next_ = A.adjoint(A.forward(x))
        if is_complex(next_, xp):
            x, previous = as_complex(x, xp), as_complex(previous, xp)
        next_ = next_ - beta * previous
        alpha = as_float(inner(x, next_))
        # Smaller negative values may be rounding errors of the zero operator.
        if not k and -alpha > max(0.01 * as_float(norm(next_)), 1e-6):
            raise ValueError(
                f"the adjoint of {A!r} is wrong: <x, A^H A x> is negative for a random "
                "image x; see dot_test"
            )
        next_ = next_ - alpha * x
        beta = as_float(norm(next_))
        if not math.isfinite(beta):
            return math.nan
        T[k, k] = alpha
        values, vectors = np.linalg.eigh(T[: k + 1, : k + 1])
        squared = max(float(values[-1]), 0.0)
        if beta * abs(vectors[-1, -1]) <= rtol * squared or k + 1 == iterations:
            break
        T[k, k + 1] = T[k + 1, k] = beta
        previous, x = x, next_ / beta
    return math.sqrt(squared)


def dot_test(A: Operator, like: Array, *, rng: np.random.Generator | int = 0) -> float:
    """Compare <A x, y> with <x, A^H y> for random x and y.

    A is linear, or the derivative of an operator; images have the shape, dtype and
    framework of `like`. Returns ``|<A x, y> - <x, A^H y>| / (|A x| |y|)`` of the real
    parts: of the order of the rounding errors if the adjoint is right. If A is `tight`
    or `unitary`, this is tested for x too, and the largest relative error is returned.
    """
    rng = np.random.default_rng(rng)
    check_floating("like", like)
    x = _drawn(like, rng)
    Ax = A.forward(x)
    y = _drawn(Ax, rng)
    a, b = inner(Ax, y), inner(x, A.adjoint(y))
    size = as_float(norm(Ax)) * as_float(norm(y))
    error = abs(as_float(a) - as_float(b)) / size if size else as_float(abs(b))
    pairs = [(A.forward(A.adjoint(Ax)), Ax)] if A.tight else []
    pairs += [(A.adjoint(Ax), x)] if A.unitary else []
    for u, v in pairs:
        difference = np.linalg.norm(np.ravel(to_numpy(u) - to_numpy(v)))
        error = max(error, float(difference) / (as_float(norm(v)) or 1.0))
    return error


def _drawn(like: Array, rng: np.random.Generator) -> Array:
    """Draw standard normal numbers; for a complex `like` real and imaginary parts."""
    xp, shape = namespace(like), tuple(like.shape)
    values = rng.standard_normal(shape)
    if is_complex(like, xp):
        values = values + 1j * rng.standard_normal(shape)
    return cast_like(values, like, xp)
