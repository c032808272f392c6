"""Data fidelities, which measure how well an image explains the data.

A fidelity is a function D(z, y) of z = A(x) and the data y, their negative
log-likelihood. Algorithms and networks use that of the problem
(`svdinv.unroll.problem.Problem`). A user-defined fidelity defines `distance` and
`slope`; also its `lipschitz` for gradient-based algorithms, or `prox` for `PDHG`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import array_api_compat as compat

from svdinv.backends.tape import check_plain, untraced
from svdinv.core.namespace import is_complex, real, safe_divide
from svdinv.core.tolerances import eps
from svdinv.unroll.arrays import (
    Array,
    as_float,
    cast_like,
    check_broadcast,
    inner,
    like,
    namespace,
    root,
    short_repr,
    stacked,
    times,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.operators.linear import alike

__all__ = ["L2", "DataFidelity", "PoissonKL"]

_TERMS = 17  # of the series of PoissonKL, up to the rounding of double precision


class DataFidelity:
    """A function D(z, y); subclasses define `distance`, `slope` and maybe `prox`."""

    def distance(self, z: Array, y: Array) -> Array:
        """Return D summed over all data, for ``z = A(x)``, as a real 0-d array."""
        raise NotImplementedError

    def slope(self, z: Array, y: Array) -> Array:
        """Return the gradient of D with respect to z, with the shape of z."""
        raise NotImplementedError

    def prox(self, z: Array, y: Array, step: Any) -> Array:
        """Apply the proximal operator of step D, for a positive number or 0-d array.

        This is ``argmin over w of step D(w, y) + |w - z|^2 / 2``.
        """
        raise NotImplementedError(f"{self!r} has no proximal operator")

    def lipschitz(self, y: Array) -> float:
        """Return the Lipschitz constant of `slope`, or infinity."""
        return math.inf

    def check(self, y: Array) -> None:
        """Check that the fidelity matches the data; called before a reconstruction.

        Raises ValueError or TypeError otherwise, e.g. for a weight of another shape.
        """

    def expected(self, z: Array) -> Array:
        """Return the expected data of an image with ``z = A(x)``.

        By default z; a background, for example, is added to it.
        """
        return z

    def stacked(self, others: Sequence[Any], data: Array) -> DataFidelity:
        """Return one fidelity for a batch, from this one and those of the other items.

        Its data have one more axis in front; `data` are those of one item, for their
        number of axes. Raises ValueError if fidelities differ and cannot be stacked.
        """
        if all(alike(other, self) for other in others):
            return self
        raise ValueError("problems of a batch must share one data fidelity")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> DataFidelity:
        """Return the same fidelity with converted arrays.

        `convert` is applied to every array, such as a weight, to move it to another
        framework or device, or to flip or rotate it with the data.
        """
        return self

    def dual_step(
        self, dual: Array, z: Array, y: Array, sigma: Any, A: Operator
    ) -> Array:
        """Apply the proximal operator of sigma D* at ``dual + sigma z``, by that of D.

        Moreau, Bull. Soc. Math. France 1965. Unmeasured data are set to 0.
        """
        xp = namespace(z)
        v = dual + times(sigma, z, xp)
        nearest = self.prox(times(1 / sigma, v, xp), y, 1 / sigma)
        return A.project_to_samples(v - times(sigma, nearest, xp))


class _OfOneParameter(DataFidelity):
    """A fidelity with one parameter, a number or an array like the data."""

    name: ClassVar[str]
    may_be_0: ClassVar[bool]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        value = getattr(self, self.name)
        number = isinstance(value, numbers.Real)
        if not (number or value is None or hasattr(value, "dtype")):
            raise TypeError(
                f"{self.name} must be a number or an array, got {type(value).__name__}"
            )
        usable = number and (0 < value < math.inf or (self.may_be_0 and value == 0))
        if number and not usable:
            rule = "not negative" if self.may_be_0 else "positive"
            requirement = f"be finite and {rule}"
            raise ValueError(f"{self.name} must {requirement}, got {value}")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> DataFidelity:
        value = getattr(self, self.name)
        constructor: Any = type(self)
        return constructor(convert(value)) if hasattr(value, "dtype") else self

    def stacked(self, others: Sequence[Any], data: Array) -> DataFidelity:
        fidelities = [self, *others]
        values = [getattr(each, self.name, None) for each in fidelities]
        one_class = all(type(each) is type(self) for each in fidelities)
        if not (one_class and all(hasattr(value, "dtype") for value in values)):
            return super().stacked(others, data)
        constructor: Any = type(self)
        return constructor(stacked(values, len(data.shape)))

    def _parameter(self, z: Array) -> Any:
        """Return the parameter in the real precision of `z`."""
        value = getattr(self, self.name)
        if not hasattr(value, "dtype"):
            return value
        xp = namespace(z)
        return cast_like(value, real(z, xp), xp)


@dataclass(frozen=True, eq=False, repr=False)
class L2(_OfOneParameter):
    """Half the weighted squared distance, for data with Gaussian noise.

    ``D(z, y) = sum w |z - y|^2 / 2``.

    Parameters
    ----------
    weight : float or array, optional
        w > 0, such as the inverse variance of the noise; 1 by default. An array must
        broadcast to the data, and may be 0 for missing data.

    Raises
    ------
    ValueError
        If `weight` is a number and not positive. Elements of an array are checked by
        `check`, which algorithms call.
    """

    weight: Any = None

    name, may_be_0 = "weight", False

    def distance(self, z: Array, y: Array) -> Array:
        difference = z - y
        return inner(difference, self._weighted(difference)) / 2

    def slope(self, z: Array, y: Array) -> Array:
        """Return ``w (z - y)``."""
        return self._weighted(z - y)

    def prox(self, z: Array, y: Array, step: Any) -> Array:
        """Return ``(z + step w y) / (1 + step w)``."""
        xp = namespace(z)
        one = xp.ones_like(real(z, xp))
        weight = one if self.weight is None else one * self._parameter(z)
        share = times(step, weight, xp)
        share = share / (1 + share)
        return z + times(share, y - z, xp)

    def check(self, y: Array) -> None:
        weights = hasattr(self.weight, "dtype")
        if weights and not _largest("weight", self.weight, y):
            raise ValueError("weight must be positive for some of the data")

    def lipschitz(self, y: Array) -> float:
        if self.weight is None:
            return 1.0
        if not hasattr(self.weight, "dtype"):
            return float(self.weight)
        return as_float(namespace(self.weight).max(self.weight))

    def dual_step(
        self, dual: Array, z: Array, y: Array, sigma: Any, A: Operator
    ) -> Array:
        """Return ``(dual + sigma (z - y)) w / (w + sigma)``."""
        xp = namespace(z)
        # Masked: A^H ignores unmeasured entries, but the derivative by sigma does not.
        moved = dual + times(sigma, A.project_to_samples(z - y), xp)
        w = 1.0 if self.weight is None else self._parameter(z)
        return times(w / (w + sigma), moved, xp)

    def _weighted(self, z: Array) -> Array:
        return z if self.weight is None else times(self._parameter(z), z, namespace(z))


@dataclass(frozen=True, eq=False, repr=False)
class PoissonKL(_OfOneParameter):
    """Kullback-Leibler divergence, for data that are counts.

    ``D(z, y) = sum (z + b) - y + y log(y / (z + b))``, the negative log-likelihood of
    Poisson noise (Shepp & Vardi, IEEE TMI 1982), 0 for z + b = y.

    Parameters
    ----------
    background : float or array
        b >= 0, expected counts without an object, such as randoms and scatter in PET.

    Raises
    ------
    ValueError
        If `background` is a negative number. Elements of an array are checked by
        `check`, which algorithms call.
    """

    background: Any = 0.0

    name, may_be_0 = "background", True

    def check(self, y: Array) -> None:
        if is_complex(y, namespace(y)):
            raise TypeError(f"y must be counts, which are real, got {y.dtype}")
        if bool(namespace(y).any(y < 0)):
            raise ValueError("y must not contain negative counts")
        if hasattr(self.background, "dtype"):
            _largest("background", self.background, y)

    def distance(self, z: Array, y: Array) -> Array:
        """Return the divergence, infinite for positive counts with mean 0.

        A negative mean within the rounding errors of the largest mean counts as 0.
        """
        xp = namespace(z)
        mean, counted = self.expected(z), y > 0
        known = untraced(mean)
        rounding = xp.max(xp.abs(known)) * (64 * eps(known, xp))
        mean = xp.where((known < 0) & (known >= -rounding), 0 * mean, mean)
        valid = counted & (mean > 0)
        one, excess = xp.ones_like(mean), y - mean
        ratio = safe_divide(y, mean, valid, xp, one)
        # Where y log(ratio) and the excess cancel, a series of their difference.
        near = valid & (xp.abs(ratio - 1) < 1 / 8)
        ratio = xp.where(ratio > 0, ratio, one)  # if it underflows, y is negligible
        small = safe_divide(excess, mean, near, xp)
        series = 0 * small
        for k in range(_TERMS, 1, -1):
            series = 1 / (k * (k - 1)) - small * series
        each = xp.where(near, excess * small * series, y * xp.log(ratio) - excess)
        impossible = (counted & (mean <= 0)) | (mean < 0)
        return xp.sum(xp.where(impossible, math.inf * one, each))

    def slope(self, z: Array, y: Array) -> Array:
        """Return ``1 - y / (z + b)``; 1 for y = 0, else -infinity for z + b <= 0."""
        xp = namespace(z)
        mean, y = self.expected(z), like(y, z, xp)
        one = xp.ones_like(mean)
        possible = mean > 0
        ratio = xp.where(possible, y, 0 * one) / xp.where(possible, mean, one)
        impossible = ~possible & (y > 0)
        return xp.where(impossible, -math.inf * one, one - ratio)

    def prox(self, z: Array, y: Array, step: Any) -> Array:
        """Solve the quadratic equation of each count."""
        xp, expected = namespace(z), self.expected(z)
        linear = times(step, xp.ones_like(z), xp) - expected
        mean = positive_root(1.0, linear, times(step, like(y, z, xp), xp), xp)
        return z + (mean - expected)

    def expected(self, z: Array) -> Array:
        """Return ``z + b``."""
        return z + self._parameter(z)


def positive_root(L: Any, linear: Array, e: Array, xp: Any) -> Array:
    """Solve ``L u^2 + linear u = e`` for u >= 0, with e >= 0.

    L is a number >= 0, or a positive array that broadcasts. If L is the number 0, u is
    0 where `linear` is not positive.
    """
    one = xp.ones_like(linear)
    square = linear**2 + 4 * times(L, e, xp)
    length = root(square, xp)
    # Of the two forms of the root, use the one without cancellation.
    positive = linear > 0
    quotient = safe_divide(2 * e, linear + length, positive, xp)
    if not hasattr(L, "dtype") and not L:
        return xp.where(positive, quotient, 0 * one)
    return xp.where(positive, quotient, times(1 / (2 * L), length - linear, xp))


def _largest(name: str, value: Array, y: Array) -> float:
    """Return the largest element, after checking that the array matches the data."""
    check_plain(value, name)
    value, y = untraced(value), untraced(y)
    xp = namespace(value)
    if not compat.is_numpy_array(value) and xp is not namespace(y):
        raise TypeError(
            f"{name} must be an array of NumPy, or of the framework of the data, got "
            f"{type(value).__name__}"
        )
    if is_complex(value, xp):
        raise TypeError(f"{name} must be real, got {value.dtype}")
    check_broadcast(name, value.shape, y.shape)
    lowest, highest = as_float(xp.min(value)), as_float(xp.max(value))
    if not (lowest >= 0 and highest < math.inf):
        raise ValueError(f"{name} must contain finite numbers >= 0")
    return highest
