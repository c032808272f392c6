"""Forward operators, from images to measured data, and their adjoints."""

# ruff: noqa: I001  # one statement for each module
from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.operators.imaging import (
        MRI as MRI,
        Blur as Blur,
        Coils as Coils,
        Dense as Dense,
        Sampling as Sampling,
        gaussian_sensing as gaussian_sensing,
    )
    from svdinv.unroll.operators.linear import (
        Identity as Identity,
        Operator as Operator,
        dot_test as dot_test,
        operator_norm as operator_norm,
    )
    from svdinv.unroll.operators.stacks import Stack as Stack
    from svdinv.unroll.operators.tomography import (
        FanBeam as FanBeam,
        ParallelBeam as ParallelBeam,
    )
    from svdinv.unroll.operators.transforms import (
        Fourier as Fourier,
        Gradient as Gradient,
        TemporalFourier as TemporalFourier,
    )
    from svdinv.unroll.operators.wrapped import (
        Wrapped as Wrapped,
        WrappedNonlinear as WrappedNonlinear,
        from_matrix as from_matrix,
    )

__getattr__, __all__ = late_attributes(__name__)
