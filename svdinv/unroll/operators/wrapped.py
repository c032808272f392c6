"""Operators of other libraries, from a matrix or from a pair of functions.

Their derivatives are registered with every framework, so networks can be trained
through a projector that is written for NumPy, in C or for a GPU.
"""

from __future__ import annotations

import math
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import array_api_compat as compat
import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.core.namespace import cast
from svdinv.core.operation import Operation
from svdinv.operators._arguments import as_shape
from svdinv.unroll.arrays import (
    Array,
    backend,
    cast_like,
    check_floating,
    is_complex,
    is_tensorflow,
    namespace,
    sizes,
    to_numpy,
)
from svdinv.unroll.operators.linear import Operator

Function = Callable[..., Any]

_LEAST_ROWS, _MOST_ROWS = 8, 16  # multiplied by a matrix at once

_NOT_SAVED = (
    "an operator that is computed by functions of NumPy cannot be part of an exported "
    "model or a saved graph, which has no copy of these functions"
)
_exporting = ContextVar("exporting", default=False)


@contextmanager
def exporting() -> Iterator[None]:
    """Refuse operators that are computed by NumPy: they are not saved with a graph."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


_COMPLEX = (
    "a function of an operator must return real data for real images; convert the "
    "image to a complex dtype for an operator with complex data"
)


class _OfFunctions(Operator):
    """Base of operators made of functions."""

    def __init__(
        self,
        functions: dict[str, Any],
        image_shape: Sequence[int],
        data_shape: Sequence[int],
    ) -> None:
        for name, function in functions.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}")
        self.image_shape = as_shape(image_shape, "image_shape")
        self.data_shape = as_shape(data_shape, "data_shape")
        if not (self.image_shape and self.data_shape):
            raise ValueError("image_shape and data_shape must have at least one axis")

    def data_length(self, axis: int) -> int | None:
        if -axis > len(self.data_shape):
            raise NotImplementedError
        return self.data_shape[axis]

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, data_shape={self.data_shape}"


class Wrapped(_OfFunctions):
    """A linear operator from two functions, A and its adjoint.

    Parameters
    ----------
    forward, adjoint : callable
        ``forward(x)`` maps one image to data, ``adjoint(y)`` data to an image; unless
        `batched`. They may return any precision, but real arrays for real ones.
    image_shape, data_shape : sequence of int
        Shapes of one image and of its data, without a batch.
    arrays : {"numpy", "own"}
        Arrays that the functions accept: NumPy arrays, for data of any framework and
        device; or arrays of the framework of the data, which they must not change.
        Derivatives are only with respect to images and data, not to parameters within
        the functions: for these, write a subclass of `Operator`.
    batched : bool
        Whether `forward` maps n images at once, ``(n, *image_shape)`` to
        ``(n, *data_shape)``, and `adjoint` n data to images, for any n.

    Raises
    ------
    TypeError
        If `forward` or `adjoint` is not a function, or a shape not integers.
    ValueError
        If a shape is empty or not positive, or `arrays` is neither of the two.

    See Also
    --------
    svdinv.unroll.operators.dot_test : Test whether the adjoint is right.

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
        batched: bool = False,
    ) -> None:
        functions = {"forward": forward, "adjoint": adjoint}
        super().__init__(functions, image_shape, data_shape)
        if arrays not in ("numpy", "own"):
            raise ValueError(f"arrays must be 'numpy' or 'own', got {arrays!r}")
        there = OnHost(forward, (self.image_shape,), self.data_shape, batched)
        back = OnHost(adjoint, (self.data_shape,), self.image_shape, batched)
        pair: list[Function] = [there, back]
        if arrays == "own":
            pair = [partial(_in_framework, there), partial(_in_framework, back)]
        self._forward, self._adjoint = Linear(*pair), Linear(*pair[::-1])

    def forward(self, x: Array) -> Array:
        """Map images (..., *image_shape) to data (..., *data_shape)."""
        return _called(self._forward, self.image_shape, x, "images")

    def adjoint(self, y: Array) -> Array:
        return _called(self._adjoint, self.data_shape, y, "data")


class WrappedNonlinear(_OfFunctions):
    """A nonlinear operator from functions of NumPy arrays.

    Frameworks differentiate it once: forward by `tangent`, reverse by `cotangent`.

    Parameters
    ----------
    forward : callable
        ``forward(x)`` maps one real image to its data.
    tangent : callable
        ``tangent(x, dx)``, the derivative at x in the direction dx.
    cotangent : callable
        ``cotangent(x, y)``, the adjoint of the derivative at x, applied to data y.
    image_shape, data_shape : sequence of int
        Shapes of one image and of its data, without a batch.

    Raises
    ------
    TypeError
        If `forward`, `tangent` or `cotangent` is not a function.
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

    def forward(self, x: Array) -> Array:
        """Map real images (..., *image_shape) to data (..., *data_shape)."""
        return _called(self._operation, self.image_shape, x, "images", real=True)

    def derivative(self, x: Array) -> Operator:
        """Return the derivative at images ``(..., *image_shape)``, of any framework.

        Differentiating it in turn with respect to `x` raises NotImplementedError.
        Raises ValueError if `x` does not have that shape.
        """
        _check_tail("x", x, self.image_shape)
        return _DerivativeAt(self._operation, x)


class _DerivativeAt(_OfFunctions):
    """The derivative at images, which broadcast to the batch of its argument."""

    def __init__(self, operation: _Nonlinear, x: Array) -> None:
        super().__init__({}, *operation.pull.inputs)
        self._push = _Derivative(operation.push, operation.pull)
        self._pull = _Derivative(operation.pull, operation.push)
        self._x = 1 * x  # a copy, which updates in place do not change

    def forward(self, x: Array) -> Array:
        return self._called(self._push, x)

    def adjoint(self, y: Array) -> Array:
        return self._called(self._pull, y)

    def _called(self, operation: _Derivative, v: Array) -> Array:
        image, data = operation.there.inputs
        _check_tail("images and data", v, data)
        xp, x = namespace(v), self._x
        x = cast_like(x if namespace(x) is xp else to_numpy(x), v, xp)
        batch = sizes(v, xp)[: len(v.shape) - len(data)]
        x = xp.broadcast_to(x, (*batch, *image))
        return backend(v).call(operation, x, _value(v))[0]


def from_matrix(
    matrix: Any, image_shape: Sequence[int], data_shape: Sequence[int] | None = None
) -> Wrapped:
    """Return the operator of a matrix: dense, sparse or a `LinearOperator` of SciPy.

    A matrix (m, n) multiplies a flattened image of n elements; data have the shape (m,)
    by default, or any shape of m elements. A complex matrix multiplies complex images.
    A batch is multiplied at once, so that rounding may depend on its length.
    The matrix stays on the CPU; use `svdinv.unroll.operators.Dense` for a dense one on
    the device of the data. Any object with `shape`, `matvec`, `rmatvec` and a `dtype`
    of NumPy counts as a LinearOperator. Raises ValueError if the shapes do not match,
    or if it has no `rmatvec`.
    """
    if isinstance(matrix, np.ma.MaskedArray):
        raise TypeError("matrix must not be a masked array")
    if not hasattr(matrix, "shape") or isinstance(matrix, np.matrix):
        matrix = np.asarray(matrix)  # products with np.matrix have two axes
    if len(matrix.shape) != 2:
        raise ValueError(f"matrix must have two axes, got shape {tuple(matrix.shape)}")
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
    # A copy of the transpose in CSR format multiplies several times as fast.
    is_operator = hasattr(matrix, "matvec")  # a LinearOperator
    if is_operator:
        with needing("scipy", "train"):
            from scipy.sparse.linalg import aslinearoperator
        matrix = aslinearoperator(matrix)
    adjoint_ = matrix.adjoint() if is_operator else matrix.conj().T
    adjoint_ = adjoint_.tocsr() if hasattr(adjoint_, "tocsr") else adjoint_
    if is_operator:
        try:
            adjoint_ @ np.zeros(m, matrix.dtype)
        except (NotImplementedError, TypeError) as error:  # SciPy calls None
            raise ValueError(
                "matrix must have an adjoint: make the LinearOperator with rmatvec"
            ) from error
    forward = partial(_multiplied, matrix, data_shape)
    adjoint = partial(_multiplied, adjoint_, tuple(image_shape))
    return Wrapped(forward, adjoint, image_shape, data_shape, batched=True)


def _multiplied(matrix: Any, shape: tuple[int, ...], x: NDArray[Any]) -> Any:
    """Multiply flattened arrays by a matrix, and reshape the products to `shape`."""
    return products(matrix, x.reshape(-1, matrix.shape[1])).reshape(-1, *shape)


def products(matrix: Any, x: NDArray[Any]) -> Any:
    """Return x M^T for rows x (b, n) and a matrix M (m, n), dense, sparse or linear.

    About 16 rows are multiplied at once, unless there are fewer than 8.
    """
    several = isinstance(matrix, np.ndarray) or hasattr(matrix, "tocsr")
    if not several or len(x) < _LEAST_ROWS:
        return np.stack([matrix @ row for row in x])
    parts = np.array_split(x, -(-len(x) // _MOST_ROWS))
    return np.concatenate([(matrix @ part.T).T for part in parts])


@dataclass(frozen=True)
class OnHost:
    """Apply a function of NumPy arrays to arrays of any framework.

    The function maps arrays of the shapes `inputs` to one of the shape `output`, or if
    it is `batched`, several such arrays at once. It is not differentiable; compiled
    functions can call it.
    """

    function: Function
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    batched: bool = False

    def each(self, *arrays: Any) -> Iterator[Any]:
        """Apply the function to each item of a batch, arrays (b, *shape).

        If it is `batched`, yield its only result. Else each result has to be copied
        before the next is computed: the function may write all of them into one array.
        """
        count = tuple(arrays[0].shape)[:1]
        shape = (*count, *self.output) if self.batched else self.output
        for items in [arrays] if self.batched else zip(*arrays, strict=True):
            result = self.function(*items)
            if not hasattr(result, "shape"):
                raise TypeError(
                    "a function of an operator must return an array, got "
                    f"{type(result).__name__}"
                )
            found = tuple(result.shape)
            # Graphs of TensorFlow may not know the length of a batch.
            unknown = self.batched and None in (*count, *found[:1])
            if found[unknown:] != shape[unknown:] or len(found) != len(shape):
                raise ValueError(
                    f"a function of an operator must return the shape {shape}, got "
                    f"{found}"
                )
            yield result

    def of_numpy(self, *arrays: np.ndarray) -> np.ndarray:
        """Map arrays (..., *shape) to (..., *output), in the dtype of the first one."""
        arrays = tuple(map(np.asarray, arrays))
        first = arrays[0]
        batch = first.shape[: first.ndim - len(self.inputs[0])]
        # SciPy and many functions do not support half precision. A copy, because a
        # function may write into its argument.
        half = first.dtype.itemsize == 2
        flat = [
            np.array(x, np.float32 if half else x.dtype).reshape(-1, *shape)
            for x, shape in zip(arrays, self.inputs, strict=True)
        ]
        results = np.empty((math.prod(batch), *self.output), first.dtype)
        for i, result in enumerate(() if 0 in batch else self.each(*flat)):
            y = np.asarray(result)
            if first.dtype.kind != "c" and y.dtype.kind == "c":
                raise TypeError(_COMPLEX)
            results[... if self.batched else i] = y
        return results.reshape(*batch, *self.output)

    def __call__(self, *arrays: Any) -> Any:
        """Apply `of_numpy` to arrays of any framework.

        Raises ValueError while a graph is traced that may be saved: it would contain
        the result as a constant, or a callback of this process.
        """
        if _exporting.get():
            raise ValueError(_NOT_SAVED)
        x = arrays[0]
        if compat.is_numpy_array(x):
            return self.of_numpy(*arrays)
        if compat.is_torch_array(x):
            return self._of_torch(*arrays)
        shape = (*tuple(x.shape)[: len(x.shape) - len(self.inputs[0])], *self.output)
        if compat.is_jax_array(x):
            jax = sys.modules["jax"]
            like = jax.ShapeDtypeStruct(shape, x.dtype)
            call = jax.pure_callback
            return call(self.of_numpy, like, *arrays, vmap_method="broadcast_all")
        if is_tensorflow(x) and not sys.modules["tensorflow"].executing_eagerly():
            return self._in_graph(arrays, shape)
        return namespace(x).asarray(self.of_numpy(*map(to_numpy, arrays)))

    def _of_torch(self, *arrays: Any) -> Any:
        torch, x = sys.modules["torch"], arrays[0]
        proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
        if torch.jit.is_tracing() or (proxies and proxies.get_proxy_mode()):
            raise ValueError(_NOT_SAVED)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return backend(x).call(_Constant(self), *arrays)[0]
        return torch.from_numpy(self.of_numpy(*map(to_numpy, arrays))).to(x)

    def _in_graph(self, arrays: tuple[Any, ...], shape: tuple[Any, ...]) -> Any:
        """Call back from a graph of TensorFlow, in this process only."""
        if sys.modules["svdinv.backends.tensorflow_kernels"].is_portable():
            raise ValueError(_NOT_SAVED)
        # Graphs store the number of a callback in its process: in another process,
        # which loads the graph, this number may belong to another operator.
        own = uuid.uuid4().bytes

        def call(given: bytes, *arrays: np.ndarray) -> np.ndarray:
            if given != own:
                raise ValueError(_NOT_SAVED)
            return self.of_numpy(*arrays)

        tf, dtype = sys.modules["tensorflow"], arrays[0].dtype
        result = tf.numpy_function(call, [own, *arrays], dtype)
        result.set_shape(shape)
        return result


def _in_framework(function: OnHost, x: Any) -> Any:
    """Apply a function to arrays of the framework of `x`, (..., *shape)."""
    xp, (shape_in,) = namespace(x), function.inputs
    batch = len(x.shape) - len(shape_in)
    shape = (*sizes(x, xp)[:batch], *function.output)
    if 0 in tuple(x.shape)[:batch]:
        return xp.reshape(x, shape)
    results = function.each(xp.reshape(x, (-1, *shape_in)))
    output = xp.stack([xp.astype(y, y.dtype, copy=True) for y in results])
    if is_complex(output, xp) and not is_complex(x, xp):
        raise TypeError(_COMPLEX)
    return cast(xp.reshape(output, shape), x, xp)


@dataclass(frozen=True)
class _Constant(Operation):
    """x -> f(x) with derivative 0, for the function transforms of PyTorch."""

    function: OnHost
    saves_inputs = False

    def value(self, x: Any, xp: Any) -> tuple[Any, ...]:
        return (self.function(*x),)

    def tangent(self, x: Any, y: Any, dx: Any, call: Any, xp: Any) -> tuple[Any, ...]:
        return (None,)

    def cotangent(
        self, x: Any, y: Any, g: Any, wanted: Any, call: Any, xp: Any
    ) -> tuple[Any, ...]:
        return (None,) * len(wanted)


@dataclass(frozen=True)
class Linear(Operation):
    """x -> A x for linear A that frameworks cannot differentiate, with its adjoint."""

    forward: Function
    adjoint: Function
    saves_inputs = False

    def __call__(self, x: Array) -> Array:
        """Return A x, which tapes and frameworks differentiate by the adjoint."""
        result: Array = backend(x).call(self, x)[0]
        return result

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
    """(x, v) -> A'(x) v, or the adjoint of A'(x) applied to v."""

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

    def _refuse(self, requested: bool) -> None:
        if requested:
            raise NotImplementedError(
                "a WrappedNonlinear has no second derivative, with which networks of "
                "several cells are trained through it"
            )


@dataclass(frozen=True)
class _Nonlinear(Operation):
    """x -> A(x) for a nonlinear A that frameworks cannot differentiate."""

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


def _check_tail(what: str, x: Array, tail: tuple[int, ...]) -> None:
    shape = tuple(x.shape)
    if shape[len(shape) - len(tail) :] != tail:
        wanted = ", ".join(map(str, tail))
        raise ValueError(f"{what} must be (..., {wanted}), got {shape}")


def _called(
    operation: Operation, tail: tuple[int, ...], x: Array, what: str, real: bool = False
) -> Array:
    _check_tail(what, x, tail)
    check_floating(what, x)
    if real and is_complex(x, namespace(x)):
        raise TypeError(f"{what} must be real floating point, got {x.dtype}")
    return backend(x).call(operation, _value(x))[0]


def _value(x: Array) -> Array:
    """Return an array, or the value of a TensorFlow variable."""
    return sys.modules["tensorflow"].convert_to_tensor(x) if is_tensorflow(x) else x
