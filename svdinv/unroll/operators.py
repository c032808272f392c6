"""Forward operators: what a measurement makes of an image, and its adjoint.

``y = A(x)`` measures, ``A.H(y)`` is the adjoint; ``A * B`` is A after B, ``A + B``
their sum, ``2 * A`` a multiple. The arrays may come from any framework and carry any
batch axes in front; a series is a batch of frames, with the axes (..., T, H, W).
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

from svdinv.unroll.arrays import Array, namespace

__all__ = ["MRI", "Coils", "Fourier", "Operator", "Sampling"]


class Operator:
    """A linear operator: subclasses define `forward` and `adjoint`.

    Attributes
    ----------
    tight : bool
        Whether ``A A^H`` is the identity on what A can give, so that
        ``x - A^H(A x - y)`` is the image nearest to x that explains y.
    """

    tight = False

    def forward(self, x: Array) -> Array:
        """Apply the operator."""
        raise NotImplementedError

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Measure `x`."""
        return self.forward(x)

    @property
    def H(self) -> Operator:
        """The adjoint, an operator itself."""
        return _Adjoint(self)

    def consistent(self, x: Array, y: Array) -> Array:
        """Project `x` onto the images that explain `y`, of a tight operator.

        Parameters
        ----------
        x : array
            An image.
        y : array
            Measurements.

        Returns
        -------
        array
            ``x - A^H(A x - y)``.
        """
        return x - self.adjoint(self.forward(x) - y)

    def __mul__(self, other: Operator) -> Operator:
        """Give A B, that is B first."""
        if not isinstance(other, Operator):
            return NotImplemented
        return _Product([*_factors(self), *_factors(other)])

    def __rmul__(self, scalar: complex) -> Operator:
        """Give a multiple."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return _Multiple(scalar, self)

    def __add__(self, other: Operator) -> Operator:
        """Give A + B."""
        if not isinstance(other, Operator):
            return NotImplemented
        return _Sum(self, other)

    def __sub__(self, other: Operator) -> Operator:
        """Give A - B."""
        return self + (-1) * other

    def __neg__(self) -> Operator:
        """Give -A."""
        return (-1) * self


class _Adjoint(Operator):
    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def forward(self, x: Array) -> Array:
        return self.operator.adjoint(x)

    def adjoint(self, y: Array) -> Array:
        return self.operator.forward(y)

    @property
    def H(self) -> Operator:
        return self.operator


class _Product(Operator):
    def __init__(self, factors: Sequence[Operator]) -> None:
        self.factors = tuple(factors)

    def forward(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor.forward(x)
        return x

    def adjoint(self, y: Array) -> Array:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y


def _factors(operator: Operator) -> tuple[Operator, ...]:
    return operator.factors if type(operator) is _Product else (operator,)


class _Sum(Operator):
    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second

    def forward(self, x: Array) -> Array:
        return self.first.forward(x) + self.second.forward(x)

    def adjoint(self, y: Array) -> Array:
        return self.first.adjoint(y) + self.second.adjoint(y)


class _Multiple(Operator):
    def __init__(self, scalar: complex, operator: Operator) -> None:
        self.scalar, self.operator = scalar, operator

    def forward(self, x: Array) -> Array:
        return self.scalar * self.operator.forward(x)

    def adjoint(self, y: Array) -> Array:
        return self.scalar.conjugate() * self.operator.adjoint(y)


class Sampling(Operator):
    """Measure the entries that a mask marks; the others become 0.

    Of an image this is inpainting, of a k-space undersampling.

    Parameters
    ----------
    mask : array of bool
        True where sampled; its shape broadcasts with that of the data.
    """

    tight = True

    def __init__(self, mask: Array) -> None:
        self.mask = mask

    def forward(self, x: Array) -> Array:
        """Set what is not sampled to 0."""
        xp = namespace(x)
        return xp.where(self.mask, x, xp.zeros_like(x))

    def adjoint(self, y: Array) -> Array:
        """Set what is not sampled to 0."""
        return self.forward(y)

    def consistent(self, x: Array, y: Array) -> Array:
        """Put the samples back in, bit by bit."""
        return namespace(x).where(self.mask, y, x)


class Fourier(Operator):
    """Centred orthonormal Fourier transform of the last two axes.

    ``fftshift(fft2(ifftshift(x), norm="ortho"))``: the zero frequency lies at
    (H // 2, W // 2), and the inverse is the adjoint.
    """

    tight = True

    def forward(self, x: Array) -> Array:
        """From an image to its k-space."""
        return _centred(x, "fftn")

    def adjoint(self, y: Array) -> Array:
        """From a k-space to its image."""
        return _centred(y, "ifftn")


class Coils(Operator):
    """Weight an image by the sensitivity of each coil.

    Parameters
    ----------
    maps : array, shape (..., C, H, W)
        Sensitivity maps; for a batch of series (B, 1, C, H, W).
    """

    def __init__(self, maps: Array) -> None:
        self.maps = maps

    def forward(self, x: Array) -> Array:
        """From an image (..., H, W) to coil images (..., C, H, W)."""
        return self.maps * x[..., None, :, :]

    def adjoint(self, y: Array) -> Array:
        """Add up the coil images, each weighted by its conjugate map."""
        xp = namespace(y)
        return xp.sum(xp.conj(self.maps) * y, axis=-3)


class MRI(Operator):
    """Undersampled Cartesian magnetic resonance imaging.

    ``A = Sampling(mask) * Fourier() * Coils(maps)`` (Pruessmann et al., SENSE, MRM
    1999), without the coils where there are no maps.

    Parameters
    ----------
    mask : array of bool, shape (..., H, W)
        True where the k-space is sampled, of a series (..., T, H, W).
    maps : array, shape (..., C, H, W), optional
        Coil sensitivity maps, whose squared magnitudes should add up to 1; for a
        batch of series (B, 1, C, H, W).
    """

    def __init__(self, mask: Array, maps: Array | None = None) -> None:
        self.mask, self.maps = mask, maps
        self.tight = maps is None
        if maps is None:
            self._chain = Sampling(mask) * Fourier()
        else:
            self._chain = Sampling(mask[..., None, :, :]) * Fourier() * Coils(maps)

    def forward(self, x: Array) -> Array:
        """From an image (..., H, W) to its k-space, (..., C, H, W) with coils."""
        return self._chain.forward(x)

    def adjoint(self, y: Array) -> Array:
        """From a k-space to the zero-filled image."""
        return self._chain.adjoint(y)


def _centred(x: Array, transform: str) -> Array:
    xp = namespace(x)
    axes = (-2, -1)
    shifted = xp.fft.ifftshift(x, axes=axes)
    result = getattr(xp.fft, transform)(shifted, axes=axes, norm="ortho")
    return xp.fft.fftshift(result, axes=axes)
