"""Forward operators: what a measurement makes of an image, and its adjoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.operators.imaging import (
        MRI,
        Blur,
        Coils,
        Dense,
        Sampling,
        gaussian_sensing,
    )
    from svdinv.unroll.operators.linear import (
        Identity,
        Operator,
        dot_test,
        operator_norm,
    )
    from svdinv.unroll.operators.stacks import Stack
    from svdinv.unroll.operators.tomography import FanBeam, ParallelBeam
    from svdinv.unroll.operators.transforms import Fourier, Gradient, TemporalFourier
    from svdinv.unroll.operators.wrapped import Wrapped, WrappedNonlinear, from_matrix

__all__ = [
    "MRI",
    "Blur",
    "Coils",
    "Dense",
    "FanBeam",
    "Fourier",
    "Gradient",
    "Identity",
    "Operator",
    "ParallelBeam",
    "Sampling",
    "Stack",
    "TemporalFourier",
    "Wrapped",
    "WrappedNonlinear",
    "dot_test",
    "from_matrix",
    "gaussian_sensing",
    "operator_norm",
]

_NAMES = {
    "imaging": ("Blur", "Coils", "Dense", "MRI", "Sampling", "gaussian_sensing"),
    "linear": ("Identity", "Operator", "dot_test", "operator_norm"),
    "stacks": ("Stack",),
    "tomography": ("FanBeam", "ParallelBeam"),
    "transforms": ("Fourier", "Gradient", "TemporalFourier"),
    "wrapped": ("Wrapped", "WrappedNonlinear", "from_matrix"),
}

__getattr__ = late_attributes(__name__, _NAMES)
