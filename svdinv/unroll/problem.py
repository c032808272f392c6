"""A reconstruction problem: data, forward operator and noise model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from svdinv.unroll.arrays import (
    Array,
    as_float,
    cast_like,
    check_floating,
    namespace,
    real,
    short_repr,
)
from svdinv.unroll.fidelity import L2, DataFidelity
from svdinv.unroll.operators import Operator

__all__ = ["Problem", "batch"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, forward operator and likelihood of a reconstruction problem.

    This is the input of algorithms, networks, baselines and untrained priors.

    Parameters
    ----------
    y : array
        Measured data, of any framework; 0 where nothing was measured.
    A : Operator
        Forward operator.
    fidelity : DataFidelity
        Negative log-likelihood of the data.
    truth : array, optional
        The true image, if known.
    name : str
        Name of the image.
    setting : str
        Description of the measurement, such as "rate 0.4".
    scale : float
        Number by which data and image were divided.
    phase_known : bool
        Whether the phase of an image is comparable to that of the truth; false if coil
        maps were estimated, whose common phase is arbitrary, or the truth has no phase.
    scan : object
        Additional information for the task, such as the geometry of a scan.

    Raises
    ------
    TypeError
        If `A` is not an operator or `fidelity` not a data fidelity.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.operators import Sampling
    >>> from svdinv.unroll.problem import Problem
    >>> image = np.arange(6.0).reshape(2, 3)
    >>> A = Sampling(image % 2 == 0)
    >>> problem = Problem(A(image), A, truth=image)
    >>> problem.gradient(np.ones((2, 3)))
    array([[ 1.,  0., -1.],
           [ 0., -3.,  0.]])
    """

    y: Any
    A: Operator
    fidelity: DataFidelity = field(default_factory=L2)
    truth: Any = None
    name: str = ""
    setting: str = ""
    scale: float = 1.0
    phase_known: bool = True
    scan: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # File names may not be valid Unicode, which tables and pictures need.
        name = str(self.name).encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "name", name)
        for name, kind, expected in (
            ("A", Operator, "an Operator, as from_matrix makes of a matrix"),
            ("fidelity", DataFidelity, "a DataFidelity"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                got = type(value).__name__
                raise TypeError(f"{name} must be {expected}, got {got}")

    __repr__ = short_repr

    def value(self, x: Array) -> Array:
        """Return the data fidelity D(A(x), y) of an image x as a real 0-d array."""
        return self.fidelity.distance(self.A.forward(x), self.y)

    def gradient(self, x: Array) -> Array:
        """Return the gradient of `value` at an image, ``A'(x)^H D'(A(x), y)``."""
        slope = self.fidelity.slope(self.A.forward(x), self.y)
        return self.A.derivative(x).adjoint(slope)

    def adjoint(self) -> Array:
        """Return ``A^H y``, or for nonlinear A its `Operator.approximate_inverse`."""
        linear = self.A.linear
        return (self.A.adjoint if linear else self.A.approximate_inverse)(self.y)

    @property
    def has_white_noise(self) -> bool:
        """Whether the fidelity is that of white Gaussian noise: L2 without weights."""
        return isinstance(self.fidelity, L2) and self.fidelity.weight is None

    def sampled_mask(self) -> Array:
        """Return True where data were measured, with the shape of `y`.

        Data of weight 0 count as not measured.
        """
        measured = self.A.project_to_samples(namespace(self.y).ones_like(self.y)) != 0
        weight = getattr(self.fidelity, "weight", None)
        if hasattr(weight, "dtype"):
            xp = namespace(self.y)
            measured = measured & (cast_like(weight, real(self.y, xp), xp) > 0)
        return measured

    def only_measured(self) -> Problem:
        """Set unmeasured data to 0.

        Raises TypeError if the data are not real or complex floating point, ValueError
        if there are none or measured ones are not finite, and the errors of
        `DataFidelity.check`.
        """
        xp = namespace(self.y)
        check_floating("y", self.y)
        if 0 in self.y.shape:
            raise ValueError(f"y must have elements, got shape {tuple(self.y.shape)}")
        self.fidelity.check(self.y)
        y = xp.where(self.sampled_mask(), self.y, xp.zeros_like(self.y))
        if not as_float(xp.max(xp.abs(y))) < math.inf:
            raise ValueError("y contains NaN or infinity where it was measured")
        return replace(self, y=y)

    def compared(self, image: Array) -> tuple[Array, Array]:
        """Return truth and image, or their magnitudes if the phase is not known.

        Raises ValueError if the truth is not known.
        """
        if self.truth is None:
            raise ValueError(f"the truth of {self.name or 'this problem'} is not known")
        if self.phase_known:
            return self.truth, image
        return abs(self.truth), abs(image)

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Problem:
        """Convert data, truth and arrays of the operator, e.g. to another device."""
        truth = None if self.truth is None else convert(self.truth)
        A = self.A.replace_arrays(convert)
        fidelity = self.fidelity.replace_arrays(convert)
        return replace(self, y=convert(self.y), A=A, fidelity=fidelity, truth=truth)

    def single(self) -> Problem:
        """Return the same problem as a batch of one."""
        truth = None if self.truth is None else self.truth[None]
        return replace(self, y=self.y[None], truth=truth)


def batch(problems: Sequence[Problem]) -> Problem:
    """Combine problems of the same size into one with a batch axis in front.

    Arrays are of NumPy or PyTorch; either all problems have their truth or none has.
    Operators, and fidelities, must be the same or of one class that defines `stacked`.
    The result has no name and no scale. Raises ValueError if this is not possible.
    """
    if not problems:
        raise ValueError("a batch needs at least one problem")
    first, *others = problems
    if len({tuple(problem.y.shape) for problem in problems}) > 1:
        shapes = ", ".join(str(tuple(problem.y.shape)) for problem in problems)
        raise ValueError(f"data of a batch must have one shape, got {shapes}")
    if len({problem.truth is None for problem in problems}) > 1:
        raise ValueError("either all problems of a batch have their truth, or none")
    xp = namespace(first.y)
    y = xp.stack([problem.y for problem in problems])
    truth = None
    if first.truth is not None:
        truth = xp.stack([problem.truth for problem in problems])
    A = first.A.stacked([problem.A for problem in others], first.y)
    fidelities = [problem.fidelity for problem in others]
    return Problem(y, A, first.fidelity.stacked(fidelities, first.y), truth)
