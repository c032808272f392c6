"""The algebra of operators: products, sums, multiples, stacks, adjoints, norms.

``A(x)`` applies, ``A.H(y)`` is the adjoint; ``A * B`` is A after B, ``A + B`` their
sum, ``2 * A`` a multiple, ``Stack([A, B])`` both. A linear operator of one's own
defines `forward` and `adjoint`, one that is not linear `forward` and `derivative`.
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
    inner,
    is_complex,
    namespace,
    norm,
)


class Operator:
    """What a measurement makes of an image.

    Subclasses define `forward` and, if they are linear, `adjoint`; others set `linear`
    to False and define `derivative`.

    Attributes
    ----------
    linear : bool
        Whether it is linear: then it is its own derivative.
    tight : bool
        Whether ``A A^H`` is the identity on what A can give, so that
        ``x - A^H(A x - y)`` is the image nearest to x that explains y.
    unitary : bool
        Whether ``A^H`` is the inverse of A.
    keeps_size : bool
        Whether the data have the size of the image.
    arrays : tuple of str
        Names of the arguments of the class, if they are arrays or None, and kept under
        these names.
    """

    linear = True
    tight = False
    unitary = False
    keeps_size = False
    arrays: tuple[str, ...] = ()

    pixel_mask: Array | None = None
    """True where pixels are sampled; None for operators that measure no pixels."""

    # A NumPy number on the left then leaves the multiplication to __rmul__.
    __array_ufunc__ = None

    def forward(self, x: Array) -> Array:
        """Apply the operator."""
        raise NotImplementedError

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint of a linear operator."""
        raise NotImplementedError(f"{self!r} has no adjoint: take derivative(x).H")

    def approximate_inverse(self, y: Array) -> Array:
        """Return a rough inverse of measurements, as the first image of a network.

        ``A^H y``, unless a subclass knows better: tomography gives the filtered
        back-projection.
        """
        return self.adjoint(y)

    def preconditioned(self, y: Array) -> Array:
        """Weight data, or what remains of them, so that a descent on them is fast.

        ``M y``, with M symmetric, positive, and ``A^H M A`` nearer to a multiple of the
        identity than ``A^H A``: y, unless a subclass knows better; tomography gives the
        ramp filter, of mean 1.
        """
        return y

    def derivative(self, x: Array) -> Operator:
        """Return the derivative ``A'(x)``; the operator itself if it is linear."""
        if self.linear:
            return self
        raise NotImplementedError(f"{type(self).__name__} must define derivative(x)")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        """Return the same operator with converted arrays.

        `convert` is applied to every array that it is made of, such as a mask: it moves
        it to a framework or a device. An operator that tells of no arrays is returned
        itself.
        """
        if not self.arrays:
            return self
        held = (getattr(self, name) for name in self.arrays)
        made: Any = type(self)
        return made(*(None if x is None else convert(x) for x in held))

    def data_length(self, axis: int) -> int | None:
        """Return the length of a negative axis of the data, which `Stack` needs.

        None where it is that of the image.
        """
        if self.keeps_size:
            return None
        raise NotImplementedError

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        """Combine operators of single images, this and others, into one for a batch.

        It is for images with one more axis in front; `data` is what one of them
        measures, of which the number of axes matters. Raises ValueError if they are not
        of one kind, or this kind cannot be stacked.
        """
        if all(alike(other, self) for other in others):
            return self
        raise ValueError(
            f"operators that differ cannot be one batch, unless their class defines "
            f"stacked(others): {type(self).__name__}"
        )

    def __call__(self, x: Array) -> Array:
        """Measure `x`."""
        return self.forward(x)

    @property
    def H(self) -> Operator:
        """The adjoint, an operator itself."""
        if not self.linear:
            raise TypeError(f"{self!r} is not linear: its derivative(x) has an adjoint")
        return _Adjoint(self)

    def consistent(self, x: Array, y: Array) -> Array:
        """Project `x` onto the images that explain `y`, of a tight operator.

        ``x - A^H(A x - y)``.
        """
        return x - self.adjoint(self.forward(x) - y)

    def project_to_samples(self, y: Array) -> Array:
        """Set to 0 what was not measured, such as NaN outside a mask; here nothing."""
        return y

    def __mul__(self, other: Any) -> Operator:
        """Return the product A B, or a multiple of A."""
        if isinstance(other, Operator):
            return Product([*factors_of(self), *factors_of(other)])
        return self.__rmul__(other)

    def __rmul__(self, scalar: Any) -> Operator:
        """Return a multiple."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return _Multiple(scalar, self)

    def __truediv__(self, scalar: complex) -> Operator:
        """Return a fraction."""
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
        """Describe the parameters, for ``repr``: by default the shapes of arrays."""
        held = {name: getattr(self, name) for name in self.arrays}
        shapes = {name: tuple(x.shape) for name, x in held.items() if x is not None}
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


class Identity(Operator):
    """Leave an image as it is: the measurement of denoising."""

    tight = True
    unitary = True
    keeps_size = True

    def forward(self, x: Array) -> Array:
        return x

    def adjoint(self, y: Array) -> Array:
        return y


class Compound(Operator):
    """An operator made of others, `parts`, which `rebuilt` makes anew of such parts."""

    parts: tuple[Operator, ...]

    def rebuilt(self, parts: Sequence[Operator]) -> Operator:
        """Return the same operator of other parts."""
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
    """Operators one after the other, the last one first."""

    def __init__(self, factors: Sequence[Operator]) -> None:
        self.factors = self.parts = tuple(factors)
        others = [factor for factor in self.factors if not factor.unitary]
        self.linear = all(factor.linear for factor in self.factors)
        self.unitary = not others
        # Of two projections the product need not be one.
        self.tight = len(others) < 2 and all(factor.tight for factor in others)

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
        # What the inner ones measure is not known: they have to be the same.
        if any(
            len(own) != len(self.factors) - 1
            or not all(map(alike, own, self.factors[1:]))
            for own in inner
        ):
            return super().stacked(others, data)
        outer = self.factors[0].stacked([other.factors[0] for other in others], data)
        return Product([outer, *self.factors[1:]])

    def project_to_samples(self, y: Array) -> Array:
        return self.factors[0].project_to_samples(y)

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))


def factors_of(operator: Operator) -> tuple[Operator, ...]:
    """Return the factors of a product, or the one operator."""
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
        # Python's numbers: NumPy's would raise the precision of the arrays.
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

    def __getattr__(self, name: str) -> Any:
        # A bound on the norm, where the operator has one.
        if name != "norm_bound":
            raise AttributeError(name)
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
    """Return whether two objects are identical or equal in class and attributes."""
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
    """Largest singular value of an operator, by Lanczos's method on A^H A.

    From a random start it finds the largest eigenvalue where it belongs to a few
    pixels only, too, which power iteration would take long to notice (Kuczynski &
    Wozniakowski, SIAM J. Matrix Anal. Appl. 1992).

    Parameters
    ----------
    A : Operator
        Linear operator.
    like : array
        An image that A can be applied to; of it the shape, the dtype and the
        framework matter. Of a batch the largest norm is found.
    iterations : int
        Most iterations.
    rtol : float
        Stop once the residual of the squared norm, as an eigenvalue of A^H A, is less
        than this times it.
    rng : numpy.random.Generator or int
        Source of the first image, or its seed.

    Returns
    -------
    float
        The norm, from below: the true one is larger by a little where the largest
        singular values are close to each other. 0 for the zero operator, NaN where
        A gives what is not finite.

    Raises
    ------
    ValueError
        If `iterations` is not positive.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    xp = namespace(like)
    x = _drawn(like, np.random.default_rng(rng))
    x = x / as_float(norm(x))
    before, off = xp.zeros_like(x), 0.0
    T = np.zeros((iterations, iterations))
    squared = 0.0
    for k in range(iterations):
        following = A.adjoint(A.forward(x)) - off * before
        along = as_float(inner(x, following))
        following = following - along * x
        off = as_float(norm(following))
        if not math.isfinite(off):
            return math.nan
        T[k, k] = along
        values, vectors = np.linalg.eigh(T[: k + 1, : k + 1])
        squared = max(float(values[-1]), 0.0)
        if off * abs(vectors[-1, -1]) <= rtol * squared or k + 1 == iterations:
            break
        T[k, k + 1] = T[k + 1, k] = off
        before, x = x, following / off
    return math.sqrt(squared)


def dot_test(A: Operator, like: Array, *, rng: np.random.Generator | int = 0) -> float:
    """Compare <A x, y> with <x, A^H y> for random x and y.

    Of a linear operator, or the derivative of another, and images of the shape, dtype
    and framework of `like`. Returns ``|<A x, y> - <x, A^H y>| / (|A x| |y|)``, real
    parts: of the size of rounding errors if the adjoint is right.
    """
    rng = np.random.default_rng(rng)
    if not namespace(like).isdtype(like.dtype, ("real floating", "complex floating")):
        raise TypeError(f"like must be floating point or complex, got {like.dtype}")

    x = _drawn(like, rng)
    measured = A.forward(x)
    y = _drawn(measured, rng)
    one, other = inner(measured, y), inner(x, A.adjoint(y))
    size = as_float(norm(measured)) * as_float(norm(y))
    return abs(as_float(one) - as_float(other)) / size if size else as_float(abs(other))


def _drawn(like: Array, rng: np.random.Generator) -> Array:
    """Draw standard normal numbers, of complex arrays both parts."""
    xp, shape = namespace(like), tuple(like.shape)
    values = rng.standard_normal(shape)
    if is_complex(like, xp):
        values = values + 1j * rng.standard_normal(shape)
    return cast_like(values, like, xp)
