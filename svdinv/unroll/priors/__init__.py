"""Priors: penalties on images.

A prior has `value`, R(x) with its weight, summed over a batch, and the proximal
operator of a multiple of R (Parikh & Boyd, "Proximal algorithms", 2014)::

    prox(x, step) = argmin over z of  step R(z) + |z - x|^2 / 2,

or a `gradient`, if R is smooth. Arrays may come from any framework, real or complex;
derivatives with respect to x, step and weight are finite everywhere.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from svdinv.core.tensors import fourier_slices, tilings
from svdinv.unroll.arrays import (
    Array,
    as_complex,
    as_float,
    casorati,
    cast_like,
    from_casorati,
    is_complex,
    join_complex,
    namespace,
    nonnegative,
    operators,
    short_repr,
    times,
)
from svdinv.unroll.operators import Identity, Operator
from svdinv.unroll.plugins import late_attributes
from svdinv.unroll.priors.local_phase import conjugate_phase
from svdinv.unroll.priors.patch_matching import Groups

if TYPE_CHECKING:
    from svdinv.unroll.priors.sparsity import (
        HuberVariation,
        Sparse,
        Tikhonov,
        TotalVariation,
        shrink,
    )

__all__ = [
    "Casorati",
    "HuberVariation",
    "LocalLowRank",
    "NonLocalLowRank",
    "Nuclear",
    "Prior",
    "Schatten",
    "Sparse",
    "TensorNuclear",
    "Tikhonov",
    "TotalVariation",
    "WeightedNuclear",
    "shrink",
]

__getattr__, _ = late_attributes(__name__)

_RELATIVE_EPSILON = 1e-3  # default epsilon, relative to the largest magnitude


@dataclass(frozen=True)
class Prior:
    """A weighted function of an image; subclasses define `value` and `prox`.

    Smooth priors define ``gradient(x)``, and ``lipschitz(x)``, the Lipschitz constant
    of the gradient for images like x.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0.

    Raises
    ------
    ValueError
        If `weight` is a number that is negative or infinite, or not a single one.
    """

    weight: Any

    def __post_init__(self) -> None:
        if shape := tuple(getattr(self.weight, "shape", ())):
            raise ValueError(f"weight must be one number, got an array {shape}")
        if isinstance(self.weight, numbers.Real):
            # A Python float, because NumPy's would promote the dtype of the arrays.
            weight = float(self.weight)
            object.__setattr__(self, "weight", weight)
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"weight must be finite and not negative, got {self.weight}"
                )
        elif not hasattr(self.weight, "dtype"):
            raise ValueError(f"weight must be one number, got {self.weight!r}")

    def value(self, x: Array) -> Array:
        """Return R(x), a real 0-d array."""
        raise NotImplementedError

    def threshold(self, step: Any) -> Any:
        """Return ``step * weight``; ValueError if a number is negative or NaN.

        Arrays may be learned, and their values unknown: negative ones act as 0. NumPy
        arrays of one element count as numbers.
        """
        if isinstance(step, numbers.Real) and not float(step) >= 0:
            raise ValueError(f"step must be >= 0, got {step}")
        return nonnegative(step * self.weight, "step * weight")

    def prox(self, x: Array, step: Any) -> Array:
        """Apply the proximal operator of ``step R``, for one step >= 0."""
        raise NotImplementedError(f"{self!r} has no proximal operator")

    def split(self) -> tuple[Operator, Callable[[Array, Any], Array]]:
        """Return the operator K and ``prox(z, step)`` of Q, where R(x) = Q(K x)."""
        return Identity(), self.prox


class Casorati(Prior):
    """Nuclear norm of the Casorati matrix of a series, small for few temporal patterns.

    A series (..., T, H, W) is reshaped to a matrix of T rows and H W columns (Liang,
    ISBI 2007; Haldar & Liang, ISBI 2010). The prox soft-thresholds singular values.
    """

    def value(self, x: Array) -> Array:
        return nuclear(casorati(x, namespace(x)), self.weight)

    def prox(self, x: Array, step: Any) -> Array:
        xp = namespace(x)
        matrices = operators(x).svt(casorati(x, xp), self.threshold(step))
        return from_casorati(matrices, x, xp)


class Nuclear(Prior):
    """Nuclear norm of each image, as a matrix of its last two axes.

    The prox soft-thresholds singular values (Cai, Candès & Shen, SIAM J. Optim. 2010).
    """

    def value(self, x: Array) -> Array:
        return nuclear(x, self.weight)

    def prox(self, x: Array, step: Any) -> Array:
        return operators(x).svt(x, self.threshold(step))


@dataclass(frozen=True)
class WeightedNuclear(Prior):
    """Sum of ``weights[i] s_i`` over the singular values s of each image, as a matrix.

    Increasing weights shrink large singular values less (Gu, Zhang, Zuo & Feng, CVPR
    2014). The penalty is then not convex, but its prox is still a soft threshold, with
    one threshold for each singular value.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0.
    weights : sequence of float
        Nonnegative, nondecreasing weights of the min(H, W) singular values.

    Raises
    ------
    ValueError
        If the weights decrease or are negative, or `weight` is negative; from `value`
        and `prox`, if there is not one for each singular value.
    """

    weights: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = tuple(float(w) for w in self.weights)
        object.__setattr__(self, "weights", weights)
        pairs = zip((0.0, *weights), weights, strict=False)
        if not weights or any(not low <= high for low, high in pairs):
            raise ValueError(
                f"weights must be >= 0 and must not decrease, got {self.weights}"
            )

    def value(self, x: Array) -> Array:
        self._check_number(x)
        values, xp = operators(x).svdvals(x), namespace(x)
        return times(self.weight, xp.sum(self._weights_like(values) * values), xp)

    def prox(self, x: Array, step: Any) -> Array:
        xp = namespace(x)
        self._check_number(x)
        tau = self._weights_like(xp.real(x) if is_complex(x, xp) else x)
        tau = xp.reshape(tau, (1,) * (len(x.shape) - 2) + (len(self.weights),))
        return operators(x).svt(x, times(self.threshold(step), tau, xp))

    def _check_number(self, x: Array) -> None:
        lengths = x.shape[-2:]  # may be unknown in a graph
        known = all(isinstance(n, int) for n in lengths)
        if known and len(self.weights) != (count := min(lengths)):
            raise ValueError(
                f"weights must have one for each of the {count} singular values of an "
                f"image, got {len(self.weights)}"
            )

    def _weights_like(self, x: Array) -> Array:
        return cast_like(np.asarray(self.weights), x, namespace(x))


@dataclass(frozen=True)
class Schatten(Prior):
    """Sum of ``s^p`` over the singular values s of each image, as a matrix.

    For p < 1 it approximates the rank better than the nuclear norm; it is not convex.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0.
    p : float
        1/2, 2/3, 1 or 2, as for `svdinv.numpy.schatten_prox`.

    Raises
    ------
    ValueError
        If p is none of these, or `weight` is negative.
    """

    p: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(abs(self.p - q) < 1e-6 for q in (1 / 2, 2 / 3, 1, 2)):
            raise ValueError(f"p must be 1/2, 2/3, 1 or 2, got {self.p}")

    def value(self, x: Array) -> Array:
        xp, norms = namespace(x), operators(x).schatten_norm(x, self.p)
        positive = norms > 0
        powers = xp.where(positive, norms, xp.ones_like(norms)) ** self.p
        total = xp.sum(xp.where(positive, powers, xp.zeros_like(norms)))
        return times(self.weight, total, xp)

    def prox(self, x: Array, step: Any) -> Array:
        return operators(x).schatten_prox(x, self.threshold(step), self.p)


@dataclass(frozen=True)
class LocalLowRank(Prior):
    """Nuclear norms of the blocks of a series, each as a Casorati matrix.

    Trzasko & Manduca, Proc. ISMRM 2011. For overlapping blocks `value` is the mean over
    the tilings, and `prox` the mean of their proximal operators. That is the proximal
    operator of their proximal average (Bauschke, Goebel, Lucet & Wang, SIAM J. Optim.
    2008), which is slightly smaller than `value`.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0.
    block : int or (int, int)
        Height and width of a block.
    stride : int or (int, int), optional
        Distance between neighbouring blocks, a divisor of `block`. Default: `block`.
    shift : int or (int, int)
        First row and column of the first block.
    """

    block: int | tuple[int, int]
    _: KW_ONLY
    stride: int | tuple[int, int] | None = None
    shift: int | tuple[int, int] = 0

    def __post_init__(self) -> None:
        """Check the blocks, as `svdinv.numpy.local_low_rank` does."""
        super().__post_init__()
        tilings((1, 1), self.block, self.stride, self.shift)

    def value(self, x: Array) -> Array:
        xp = namespace(x)
        size = tuple(x.shape[-2:])
        parts = [
            nuclear(tiling.cut(x, xp), self.weight)
            for tiling in tilings(size, self.block, self.stride, self.shift)
        ]
        return sum(parts[1:], parts[0]) / len(parts)

    def prox(self, x: Array, step: Any) -> Array:
        return operators(x).local_low_rank(
            x, self.threshold(step), self.block, stride=self.stride, shift=self.shift
        )


@dataclass(frozen=True, eq=False, repr=False)
class NonLocalLowRank(Prior):
    """Low rank of groups of similar patches of an image.

    The patches of a group form the rows of a matrix that is nearly of low rank (Dong,
    Shi, Li, Ma & Huang, "Compressive sensing via nonlocal low-rank regularization",
    IEEE TIP 2014). Its singular values s have the penalty ``sum log(1 + s / epsilon)``,
    which shrinks large values little. Groups overlap: `value` is the sum over the
    groups divided by the mean number of patches that contain a pixel. `prox` averages
    at each pixel the results of the proximal operators of the groups. That is a
    proximal operator only if all pixels are contained in equally many patches.

    Groups are found once, in `guide`; in iterations, a new guide needs a new prior.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0, in units of the image squared. `prox` removes singular values below
        ``2 sqrt(step weight)``, and for small `epsilon` those up to about twice that.
    guide : array, shape (C, H, W)
        Image similar to those of `prox`, real or complex, of any framework. All images
        of a batch (..., C, H, W) have the same groups.
    patch, stride, count, reach : int
        As for `svdinv.unroll.priors.patch_matching.Groups`.
    epsilon : float, optional
        Singular value at which the penalty turns logarithmic; by default 1/1000 of the
        largest magnitude in `guide`.
    phase : float
        Standard deviation in pixels of the Gaussian mean of a complex `guide` whose
        phase is removed from images first. Real and imaginary part of the result are
        penalised separately. It suits images of smooth phase. With 0, the default,
        groups consist of complex patches.

    Raises
    ------
    ValueError
        As for `Groups`, or if `epsilon` is not positive, `weight` is negative, or
        `phase` is negative, not finite, or positive with a real `guide`.
    """

    guide: Array
    _: KW_ONLY
    patch: int = 4
    stride: int = 4
    count: int = 64
    reach: int = 10
    epsilon: float | None = None
    phase: float = 0.0
    groups: Groups = field(init=False, repr=False)
    _rotation: Any = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = {
            name: getattr(self, name) for name in ("patch", "stride", "count", "reach")
        }
        if not 0 <= self.phase < math.inf:
            raise ValueError(f"phase must be a number >= 0, got {self.phase!r}")
        guide, xp = self.guide, namespace(self.guide)
        if self.phase:
            if not is_complex(guide, xp):
                raise ValueError(f"phase needs a complex guide, got {guide.dtype}")
            rotation = conjugate_phase(guide, self.phase)
            object.__setattr__(self, "_rotation", rotation)
            guide = guide * rotation
        object.__setattr__(self, "groups", Groups(guide, **numbers))
        if self.epsilon is None:
            largest = as_float(xp.max(xp.abs(self.guide)))
            object.__setattr__(self, "epsilon", _RELATIVE_EPSILON * (largest or 1.0))
        elif not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")

    __repr__ = short_repr

    def value(self, x: Array) -> Array:
        xp = namespace(x)
        total = 0.0
        for part in self._parts(x):
            values = operators(part).svdvals(self.groups.cut(part))
            total = total + xp.sum(xp.log(1 + values / self.epsilon))
        return times(self.weight, total / self.groups.overlap, xp)

    def prox(self, x: Array, step: Any) -> Array:
        done = [self._threshold(part, step) for part in self._parts(x)]
        if self._rotation is None:
            return done[0]
        xp = namespace(x)
        rotation = cast_like(self._rotation, x, xp)
        return join_complex(done[0], done[1], x, xp) * xp.conj(rotation)

    def _parts(self, x: Array) -> tuple[Array, ...]:
        """Return x; or, with `phase`, both parts of x after removing the phase."""
        if self._rotation is None:
            return (x,)
        xp = namespace(x)
        if not is_complex(x, xp):
            raise ValueError(f"x must be complex, as phase is set, got {x.dtype}")
        x = x * cast_like(self._rotation, x, xp)
        return xp.real(x), xp.imag(x)

    def _threshold(self, x: Array, step: Any) -> Array:
        from svdinv.unroll.priors.gram_route import log_sum_by_gram

        threshold, tau = operators(x).log_sum_threshold, self.threshold(step)
        use_gram = isinstance(tau, float | int)
        parts = []
        for part in self.groups.parts(x):
            gram = log_sum_by_gram(part, tau, self.epsilon) if use_gram else None
            parts.append(threshold(part, tau, self.epsilon) if gram is None else gram)
        return self.groups.join(namespace(x).concat(parts, axis=-3))


@dataclass(frozen=True)
class TensorNuclear(Prior):
    """Tensor nuclear norm of the t-SVD, of the last three axes.

    The mean of the nuclear norms of the frontal slices of a tensor after an
    unnormalised Fourier transform along `axis` (Lu et al., IEEE TPAMI 2020). The prox
    is tensor singular value thresholding.

    Parameters
    ----------
    weight : float or 0-d array
        Factor >= 0.
    axis : int
        Fourier axis, from -3 to -1: that of time by default.

    Raises
    ------
    ValueError
        If `axis` is none of the last three, or `weight` is negative.
    """

    axis: int = -3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in (-3, -2, -1):
            raise ValueError(f"axis must be -3, -2 or -1, got {self.axis}")

    def value(self, x: Array) -> Array:
        xp = namespace(x)
        slices, _ = fourier_slices(as_complex(x, xp), self.axis, xp)
        return nuclear(slices, self.weight) / x.shape[self.axis]

    def prox(self, x: Array, step: Any) -> Array:
        return operators(x).tsvt(x, self.threshold(step), self.axis)


def nuclear(matrices: Array, weight: Any) -> Array:
    """Sum the nuclear norms of matrices, times a weight."""
    xp = namespace(matrices)
    norms = operators(matrices).nuclear_norm(matrices)
    return times(weight, xp.sum(norms), xp)
