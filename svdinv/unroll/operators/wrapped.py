"""Operators of other libraries: from a matrix, or from a pair of functions.

Their derivative is registered with every framework, so that a projector written for
NumPy, in C or for a GPU, is trained through as svdinv's own operators are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import array_api_compat as compat
import numpy as np

from svdinv.core.namespace import cast
from svdinv.core.operation import Operation
from svdinv.unroll.arrays import (
    Array,
    backend,
    is_complex,
    is_tensorflow,
    namespace,
    to_numpy,
)
from svdinv.unroll.operators.linear import Operator

Function = Callable[..., Any]

_COMPLEX = "an operator's function gives complex data of real images"


class _OfFunctions(Operator):
    """What is made of functions, for one image at a time: they and its shapes."""

    def __init__(
        self,
        functions: dict[str, Any],
        image_shape: Sequence[int],
        data_shape: Sequence[int],
    ) -> None:
        for name, function in functions.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}")
        self.image_shape = tuple(int(n) for n in image_shape)
        self.data_shape = tuple(int(n) for n in data_shape)
        if not (self.image_shape and self.data_shape):
            raise ValueError("image_shape and data_shape must have at least one axis")

    def data_length(self, axis: int) -> int | None:
        if -axis > len(self.data_shape):
            raise NotImplementedError
        return self.data_shape[axis]

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, data_shape={self.data_shape}"


class Wrapped(_OfFunctions):
    """A linear operator made of two functions, A and its adjoint.

    Parameters
    ----------
    forward, adjoint : callable
        ``forward(x)`` from an image to data, ``adjoint(y)`` back, of one image at a
        time, in its precision or any other. Real images have real data.
    image_shape, data_shape : sequence of int
        Shapes of one image and of its data, without a batch.
    arrays : {"numpy", "own"}
        What the functions take: NumPy arrays, whatever the framework and the device of
        the data; or arrays of the framework that the data are of.

    Raises
    ------
    TypeError
        If `forward` or `adjoint` is no function.
    ValueError
        If a shape is empty, or `arrays` is none of the two.

    See Also
    --------
    svdinv.unroll.operators.dot_test : Whether one is the adjoint of the other.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.operators import Wrapped, dot_test
    >>> A = Wrapped(lambda x: 2 * x[::2], lambda y: 2 * np.repeat(y, 2, 0) *
    ...             np.array([[1.0], [0.0]] * 2), (4, 3), (2, 3))
    >>> dot_test(A, np.zeros((4, 3))) < 1e-15
    True
    """

    def __init__(
        self,
        forward: Function,
        adjoint: Function,
        image_shape: Sequence[int],
        data_shape: Sequence[int],
        *,
        arrays: Literal["numpy", "own"] = "numpy",
    ) -> None:
        functions = {"forward": forward, "adjoint": adjoint}
        super().__init__(functions, image_shape, data_shape)
        if arrays not in ("numpy", "own"):
            raise ValueError(f"arrays must be 'numpy' or 'own', got {arrays!r}")
        there = OnHost(forward, (self.image_shape,), self.data_shape)
        back = OnHost(adjoint, (self.data_shape,), self.image_shape)
        pair: list[Function] = [there, back]
        if arrays == "own":
            pair = [partial(_in_framework, there), partial(_in_framework, back)]
        self._forward, self._adjoint = Linear(*pair), Linear(*pair[::-1])

    def forward(self, x: Array) -> Array:
        """From images (..., *image_shape) to data (..., *data_shape)."""
        return _called(self._forward, self.image_shape, x, "images")

    def adjoint(self, y: Array) -> Array:
        return _called(self._adjoint, self.data_shape, y, "data")


class WrappedNonlinear(_OfFunctions):
    """An operator that is not linear, made of functions of NumPy arrays.

    Every framework differentiates through it once: in forward mode by `tangent`, in
    reverse mode by `cotangent`.

    Parameters
    ----------
    forward : callable
        ``forward(x)`` from one real image to its data.
    tangent : callable
        ``tangent(x, dx)``, the derivative at x along dx.
    cotangent : callable
        ``cotangent(x, y)``, its adjoint at x, of data y.
    image_shape, data_shape : sequence of int
        Shapes of one image and of its data, without a batch.

    Raises
    ------
    TypeError
        If one of the three is no function.
    ValueError
        If a shape is empty.
    """

    linear = False

    def __init__(
        self,
        forward: Function,
        tangent: Function,
        cotangent: Function,
        image_shape: Sequence[int],
        data_shape: Sequence[int],
    ) -> None:
        functions = {"forward": forward, "tangent": tangent, "cotangent": cotangent}
        super().__init__(functions, image_shape, data_shape)
        image, data = self.image_shape, self.data_shape
        self._operation = _Nonlinear(
            OnHost(forward, (image,), data),
            OnHost(tangent, (image, image), data),
            OnHost(cotangent, (image, data), image),
        )
        self._tangent, self._cotangent = tangent, cotangent

    def forward(self, x: Array) -> Array:
        """From real images (..., *image_shape) to data (..., *data_shape)."""
        return _called(self._operation, self.image_shape, x, "images", real=True)

    def derivative(self, x: Array) -> Operator:
        """Return the derivative at one image, for arrays of any framework.

        Nothing is differentiated with respect to that image. Raises ValueError if it
        has another shape than `image_shape`.
        """
        if tuple(x.shape) != self.image_shape:
            raise ValueError(
                f"x must have the shape {self.image_shape}, got {tuple(x.shape)}"
            )
        at = to_numpy(x)
        return Wrapped(
            lambda dx: self._tangent(at, dx),
            lambda y: self._cotangent(at, y),
            self.image_shape,
            self.data_shape,
        )


def from_matrix(
    matrix: Any, image_shape: Sequence[int], data_shape: Sequence[int] | None = None
) -> Wrapped:
    """Make an operator of a matrix: of SciPy, sparse or a `LinearOperator`, or dense.

    A matrix (m, n) multiplies an image of n elements, flattened; the data have the
    shape (m,), or another of m elements. It stays on the CPU; a dense one that is to
    follow the data is `svdinv.unroll.operators.Dense`. Raises ValueError if the shapes
    do not go together.
    """
    m, n = matrix.shape
    data_shape = (m,) if data_shape is None else tuple(data_shape)
    for name, shape, count in (
        ("image_shape", image_shape, n),
        ("data_shape", data_shape, m),
    ):
        if math.prod(shape) != count:
            raise ValueError(
                f"{name} must have {count} elements for a matrix {(m, n)}, got "
                f"{tuple(shape)}"
            )
    # A transposed copy of a sparse array multiplies several times as fast.
    function = hasattr(matrix, "matvec")  # a LinearOperator
    turned = matrix.adjoint() if function else matrix.conj().T
    turned = turned.tocsr() if hasattr(turned, "tocsr") else turned

    def forward(x: Any) -> Any:
        return (matrix @ x.reshape(-1)).reshape(data_shape)

    def adjoint(y: Any) -> Any:
        return (turned @ y.reshape(-1)).reshape(tuple(image_shape))

    return Wrapped(forward, adjoint, image_shape, data_shape)


@dataclass(frozen=True)
class OnHost:
    """A function of NumPy arrays, applied to arrays of any framework.

    It takes single arrays of the shapes `given`, and returns one of the shape `made`.
    No derivative goes through it; compiled functions call it.
    """

    function: Function
    given: tuple[tuple[int, ...], ...]
    made: tuple[int, ...]

    def each(self, *arrays: Any) -> list[Any]:
        """Apply the function to each item of a batch, arrays (b, *given)."""
        made = [self.function(*items) for items in zip(*arrays, strict=True)]
        for one in made:
            if tuple(one.shape) != self.made:
                raise ValueError(
                    f"an operator's function must give the shape {self.made}, got "
                    f"{tuple(one.shape)}"
                )
        return made

    def of_numpy(self, *arrays: np.ndarray) -> np.ndarray:
        """From arrays (..., *given) to one (..., *made), in the first one's dtype."""
        arrays = tuple(map(np.asarray, arrays))
        first = arrays[0]
        batch = first.shape[: first.ndim - len(self.given[0])]
        # SciPy knows no half precision, nor do many functions.
        half = first.dtype.itemsize == 2
        flat = [
            (x.astype(np.float32) if half else x).reshape(-1, *shape)
            for x, shape in zip(arrays, self.given, strict=True)
        ]
        made = [np.asarray(y) for y in self.each(*flat)]
        if first.dtype.kind != "c" and any(y.dtype.kind == "c" for y in made):
            raise TypeError(_COMPLEX)
        whole = np.stack(made) if made else np.empty((0, *self.made))
        whole = whole.reshape(*batch, *self.made)
        return np.ascontiguousarray(whole, dtype=first.dtype)

    def __call__(self, *arrays: Any) -> Any:
        """As `of_numpy`, of arrays of any framework."""
        x = arrays[0]
        if compat.is_numpy_array(x):
            return self.of_numpy(*arrays)
        if compat.is_torch_array(x):
            torch = sys.modules["torch"]
            there = [x.detach().cpu().resolve_conj() for x in arrays]
            # NumPy has no bfloat16.
            there = [x.float() if x.dtype == torch.bfloat16 else x for x in there]
            return torch.from_numpy(self.of_numpy(*(x.numpy() for x in there))).to(x)
        shape = (*tuple(x.shape)[: len(x.shape) - len(self.given[0])], *self.made)
        if compat.is_jax_array(x):
            jax = sys.modules["jax"]
            like = jax.ShapeDtypeStruct(shape, x.dtype)
            call = jax.pure_callback
            return call(self.of_numpy, like, *arrays, vmap_method="broadcast_all")
        if is_tensorflow(x):
            tf = sys.modules["tensorflow"]
            if tf.executing_eagerly():
                return tf.convert_to_tensor(self.of_numpy(*(x.numpy() for x in arrays)))
            made = tf.numpy_function(self.of_numpy, list(arrays), x.dtype)
            made.set_shape(shape)
            return made
        return namespace(x).asarray(self.of_numpy(*map(to_numpy, arrays)))


def _in_framework(function: OnHost, x: Any) -> Any:
    """Apply a function of arrays of the framework of `x`, (..., *given)."""
    xp, (given,) = namespace(x), function.given
    batch = tuple(x.shape)[: len(x.shape) - len(given)]
    shape = (*batch, *function.made)
    if 0 in batch:
        return xp.reshape(x, shape)
    made = xp.stack(function.each(xp.reshape(x, (-1, *given))))
    if is_complex(made, xp) and not is_complex(x, xp):
        raise TypeError(_COMPLEX)
    return cast(xp.reshape(made, shape), x, xp)


@dataclass(frozen=True)
class Linear(Operation):
    """x -> A x, of an A that no framework sees into, and of its adjoint."""

    forward: Function
    adjoint: Function
    saves_inputs = False

    def value(self, x: Any, xp: Any) -> tuple[Any, ...]:
        return (self.forward(x[0]),)

    def tangent(self, x: Any, y: Any, dx: Any, call: Any, xp: Any) -> tuple[Any, ...]:
        return call(self, dx[0])

    def cotangent(
        self, x: Any, y: Any, g: Any, wanted: Any, call: Any, xp: Any
    ) -> tuple[Any, ...]:
        return call(Linear(self.adjoint, self.forward), g[0])


@dataclass(frozen=True)
class _Derivative(Operation):
    """(x, v) -> A'(x) v, or the adjoint of it."""

    there: OnHost
    back: OnHost

    def value(self, x: Any, xp: Any) -> tuple[Any, ...]:
        return (self.there(*x),)

    def tangent(self, x: Any, y: Any, dx: Any, call: Any, xp: Any) -> tuple[Any, ...]:
        self._refuse(dx[0] is not None)
        return call(self, x[0], dx[1])

    def cotangent(
        self, x: Any, y: Any, g: Any, wanted: Any, call: Any, xp: Any
    ) -> tuple[Any, ...]:
        self._refuse(wanted[0])
        return None, *call(_Derivative(self.back, self.there), x[0], g[0])

    def _refuse(self, asked: bool) -> None:
        if asked:
            raise NotImplementedError("a WrappedNonlinear has one derivative, not two")


@dataclass(frozen=True)
class _Nonlinear(Operation):
    """x -> A(x) for an A that no framework sees into."""

    there: OnHost
    push: OnHost
    pull: OnHost

    def value(self, x: Any, xp: Any) -> tuple[Any, ...]:
        return (self.there(*x),)

    def tangent(self, x: Any, y: Any, dx: Any, call: Any, xp: Any) -> tuple[Any, ...]:
        return call(_Derivative(self.push, self.pull), x[0], dx[0])

    def cotangent(
        self, x: Any, y: Any, g: Any, wanted: Any, call: Any, xp: Any
    ) -> tuple[Any, ...]:
        return call(_Derivative(self.pull, self.push), x[0], g[0])


def _called(
    operation: Operation, due: tuple[int, ...], x: Array, what: str, real: bool = False
) -> Array:
    shape = tuple(x.shape)
    if shape[len(shape) - len(due) :] != due:
        raise ValueError(f"{what} must be (..., {str(due)[1:]}, got {shape}")
    kinds = ("real floating",) if real else ("real floating", "complex floating")
    if not namespace(x).isdtype(x.dtype, kinds):
        wanted = "real floating point" if real else "floating point or complex"
        raise TypeError(f"{what} must be {wanted}, got {x.dtype}")
    return backend(x).call(operation, x)[0]
