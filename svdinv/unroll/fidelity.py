"""Data fidelities: how far what an image would give lies from what was measured.

A fidelity is a function D(z, y) of z = A(x) and the data y, the negative logarithm of
their likelihood. Algorithms and networks take it from the problem
(`svdinv.unroll.problem.Problem`); one of your own defines what they ask for:
`distance`, `slope` and the `curvature` of it, for algorithms that go down the slope, or
`prox`, for `PDHG`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import array_api_compat as compat

from svdinv.core.namespace import is_complex, real
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


class DataFidelity:
    """A function D(z, y): subclasses define `distance`, `slope` and perhaps `prox`."""

    def distance(self, z: Array, y: Array) -> Array:
        """Return the divergence D of ``z = A(x)`` and the data, summed: real, 0-d."""
        raise NotImplementedError

    def slope(self, z: Array, y: Array) -> Array:
        """Return the gradient of D in z, of its shape."""
        raise NotImplementedError

    def prox(self, z: Array, y: Array, step: Any) -> Array:
        """Apply the proximal operator of step D, for a positive number or 0-d array.

        ``argmin over w of step D(w, y) + |w - z|^2 / 2``.
        """
        raise NotImplementedError(f"{self!r} has no proximal operator")

    def curvature(self, y: Array) -> float:
        """Return the Lipschitz constant of `slope`, or infinity."""
        return math.inf

    def check(self, y: Array) -> None:
        """Check that it goes with data, before any work.

        Raises ValueError or TypeError if it does not, such as a weight of another
        shape.
        """

    def expected(self, z: Array) -> Array:
        """Return the data that are expected of an image with ``z = A(x)``.

        That is z, unless there is something beside it, such as a background.
        """
        return z

    def stacked(self, others: Sequence[Any], data: Array) -> DataFidelity:
        """Return one fidelity for a batch, of this one and those of the other items.

        It is for data with one more axis in front; `data` is what is measured of one
        item, of which the number of axes matters. Raises ValueError if they are not the
        same, and of no kind that can be stacked.
        """
        if all(alike(other, self) for other in others):
            return self
        raise ValueError("problems of a batch must share one data fidelity")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> DataFidelity:
        """Return the same fidelity, of arrays that have been converted.

        `convert` is applied to every array that it is made of, such as a weight: it
        moves it to a framework or a device, or turns it with the data.
        """
        return self

    def dual_step(
        self, dual: Array, z: Array, y: Array, sigma: Any, A: Operator
    ) -> Array:
        """Apply the proximal operator of sigma D*, at ``dual + sigma z``, by that of D.

        Moreau, Bull. Soc. Math. France 1965. ``A.project_to_samples`` keeps what in `y`
        is data.
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
        number = isinstance(value, int | float)
        if not (number or value is None or hasattr(value, "dtype")):
            raise TypeError(
                f"{self.name} must be a number or an array, got {type(value).__name__}"
            )
        if number and not (value > 0 or (self.may_be_0 and value == 0)):
            due = "not be negative" if self.may_be_0 else "be positive"
            raise ValueError(f"{self.name} must {due}, got {value}")

    def replace_arrays(self, convert: Callable[[Array], Array]) -> DataFidelity:
        value = getattr(self, self.name)
        made: Any = type(self)
        return made(convert(value)) if hasattr(value, "dtype") else self

    def stacked(self, others: Sequence[Any], data: Array) -> DataFidelity:
        every = [self, *others]
        values = [getattr(each, self.name, None) for each in every]
        one_class = all(type(each) is type(self) for each in every)
        if not (one_class and all(hasattr(value, "dtype") for value in values)):
            return super().stacked(others, data)
        made: Any = type(self)
        return made(stacked(values, len(data.shape)))

    def _own(self, z: Array) -> Any:
        """Return the parameter in the real precision of `z`."""
        value = getattr(self, self.name)
        if not hasattr(value, "dtype"):
            return value
        xp = namespace(z)
        return cast_like(value, real(z, xp), xp)


@dataclass(frozen=True, eq=False, repr=False)
class L2(_OfOneParameter):
    """Half the squared distance, of data with Gaussian noise.

    ``D(z, y) = sum w |z - y|^2 / 2``.

    Parameters
    ----------
    weight : float or array, optional
        w > 0, such as the inverse variance of the noise; an array has a shape that
        broadcasts to that of the data, and may be 0 where there are none. Without it, w
        is 1.

    Raises
    ------
    ValueError
        If `weight` is a number and not positive. What an array holds is looked at by
        `check`, as algorithms do.
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
        weight = one if self.weight is None else one * self._own(z)
        share = times(step, weight, xp)
        share = share / (1 + share)
        return z + times(share, y - z, xp)

    def check(self, y: Array) -> None:
        weights = hasattr(self.weight, "dtype")
        if weights and not _largest("weight", self.weight, y):
            raise ValueError("weight must be positive for some of the data")

    def curvature(self, y: Array) -> float:
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
        # The derivative by sigma sees the difference, where A^H does not hide it.
        moved = dual + times(sigma, A.project_to_samples(z - y), xp)
        w = 1.0 if self.weight is None else self._own(z)
        return times(w / (w + sigma), moved, xp)

    def _weighted(self, z: Array) -> Array:
        return z if self.weight is None else times(self._own(z), z, namespace(z))


@dataclass(frozen=True, eq=False, repr=False)
class PoissonKL(_OfOneParameter):
    """Kullback-Leibler divergence, of data that are counts.

    ``D(z, y) = sum (z + b) - y + y log(y / (z + b))``: the negative logarithm of the
    likelihood of Poisson noise (Shepp & Vardi, IEEE TMI 1982), 0 where z + b = y.

    Parameters
    ----------
    background : float or array
        b >= 0, what is counted without any image, such as randoms and scatter in PET.

    Raises
    ------
    ValueError
        If `background` is a negative number; what an array holds is looked at by
        `check`, as algorithms do.
    """

    background: Any = 0.0

    name, may_be_0 = "background", True

    def check(self, y: Array) -> None:
        if bool(namespace(y).any(y < 0)):
            raise ValueError("y must hold no negative counts")
        if hasattr(self.background, "dtype"):
            _largest("background", self.background, y)

    def distance(self, z: Array, y: Array) -> Array:
        """Return the divergence: infinite where counts have no mean."""
        xp = namespace(z)
        mean, counted = self.expected(z), y > 0
        one = xp.ones_like(mean)
        known = counted & (mean > 0)
        ratio = xp.where(known, y, one) / xp.where(known, mean, one)
        impossible = (counted & (mean <= 0)) | (mean < 0)
        each = mean - y + y * xp.log(ratio)
        return xp.sum(xp.where(impossible, math.inf * one, each))

    def slope(self, z: Array, y: Array) -> Array:
        """Return ``1 - y / (z + b)``, and 1 where nothing was counted.

        Minus infinity where there are counts without a mean, which is impossible.
        """
        xp = namespace(z)
        mean, y = self.expected(z), like(y, z, xp)
        one = xp.ones_like(mean)
        possible = mean > 0
        ratio = xp.where(possible, y, 0 * one) / xp.where(possible, mean, one)
        impossible = ~possible & (y > 0)
        return xp.where(impossible, -math.inf * one, one - ratio)

    def prox(self, z: Array, y: Array, step: Any) -> Array:
        """Solve the quadratic equation of each count."""
        xp = namespace(z)
        y = like(y, z, xp)
        one = xp.ones_like(z)
        shifted = self.expected(z) - times(step, one, xp)
        square = shifted**2 + 4 * times(step, y, xp)
        length = root(square, xp)
        # The form without cancellation, where the shift is negative.
        sum_ = xp.where(length - shifted > 0, length - shifted, one)
        small = 2 * times(step, y, xp) / sum_
        mean = xp.where(shifted < 0, small, (shifted + length) / 2)
        return z + (mean - self.expected(z))

    def expected(self, z: Array) -> Array:
        """Return ``z + b``."""
        return z + self._own(z)


def _largest(name: str, value: Array, y: Array) -> float:
    """Return the largest weight, after checking that the shapes fit the data."""
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
        raise ValueError(f"{name} must hold finite numbers >= 0")
    return highest
