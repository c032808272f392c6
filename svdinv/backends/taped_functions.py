"""The array functions that a tape can differentiate, around any array-API namespace.

Elementwise functions have a factor for each argument, by which tangents are
multiplied, and cotangents by its conjugate. Functions that move elements about are
linear and come with their transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from operator import attrgetter, index
from types import SimpleNamespace
from typing import Any

import numpy as np
from array_api_compat import device

from svdinv.backends import numpy_functions
from svdinv.backends.einsum import as_arrays
from svdinv.backends.numpy_functions import listed
from svdinv.backends.tape import (
    Traced,
    check_plain,
    innermost,
    is_moving,
    sum_to,
    untraced,
)
from svdinv.core.namespace import Array, Namespace, adjoint, conj, is_complex

# Functions of arrays whose derivative is 0.
_CONSTANT = frozenset([
    "all", "allclose", "any", "argmax", "argmin", "argsort", "array_equal", "ceil",
    "empty_like", "equal", "floor", "greater", "greater_equal", "isclose",
    "iscomplexobj", "isfinite", "isinf", "isnan", "isrealobj", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "ndim", "nonzero",
    "not_equal", "ones_like", "result_type", "round", "shape", "size", "zeros_like",
])  # fmt: skip
_OF_DTYPES = frozenset(("finfo", "isdtype"))
_PLAIN = int, slice, type(None), type(Ellipsis)  # indices whose parts are views
_EXTENSIONS = {
    "fft": (
        "fft", "fftn", "fftshift", "ifft", "ifftn", "ifftshift", "irfft", "rfft",
    ),
    "linalg": (
        "det", "diagonal", "eigh", "inv", "qr", "solve", "svd", "vector_norm",
    ),
}  # fmt: skip


class _Extension(SimpleNamespace):
    """An extension of the namespace; unlisted functions are wrapped on access."""

    def __init__(self, wrapped: Callable[[str], Any], name: str, known: Any) -> None:
        super().__init__(**known)
        self._wrapped, self._name = wrapped, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._wrapped(f"{self._name}.{name}")


def _of_angle(xp: Namespace, a: Array, b: Array, y: Array) -> tuple[Array, Array]:
    size = xp.abs(b + 1j * a)
    size = xp.where(untraced(size) != 0, size, 1.0)  # as the derivative of abs
    return tuple(xp.divide(xp.divide(x, size), size) for x in (b, -a))


def _of_circle(xp: Namespace, a: Array, function: Any, y: Array) -> Array:
    """Take the square root of 1 - a^2, for complex numbers on the branch of y."""
    return function(y) if is_complex(y, xp) else xp.sqrt((1.0 - a) * (1.0 + a))


# Derivatives in each argument: numbers, or a function of the namespace, the arguments
# and the result.
_FACTORS: dict[str, tuple[float, ...] | Callable[..., tuple[Any, ...]]] = {
    "add": (1.0, 1.0),
    "subtract": (1.0, -1.0),
    "multiply": lambda xp, a, b, y: (b, a),
    "maximum": lambda xp, a, b, y: xp.shares(a, b),
    "minimum": lambda xp, a, b, y: xp.shares(b, a),
    "negative": (-1.0,),
    "sqrt": lambda xp, a, y: (xp.divide(0.5, y),),
    "square": lambda xp, a, y: (2.0 * a,),
    "exp": lambda xp, a, y: (y,),
    "expm1": lambda xp, a, y: (y + 1.0,),
    "log": lambda xp, a, y: (xp.divide(1.0, a),),
    "log1p": lambda xp, a, y: (xp.divide(1.0, a + 1.0),),
    "log2": lambda xp, a, y: (xp.divide(1 / math.log(2), a),),
    "log10": lambda xp, a, y: (xp.divide(1 / math.log(10), a),),
    "sin": lambda xp, a, y: (xp.cos(a),),
    "cos": lambda xp, a, y: (-xp.sin(a),),
    "tan": lambda xp, a, y: (y * y + 1.0,),
    "atan": lambda xp, a, y: (xp.divide(1.0, a * a + 1.0),),
    "atan2": _of_angle,
    "asin": lambda xp, a, y: (xp.divide(1.0, _of_circle(xp, a, xp.cos, y)),),
    "acos": lambda xp, a, y: (xp.divide(-1.0, _of_circle(xp, a, xp.sin, y)),),
    "sinh": lambda xp, a, y: (xp.cosh(a),),
    "cosh": lambda xp, a, y: (xp.sinh(a),),
    "tanh": lambda xp, a, y: (1.0 - y * y,),
}


def _by_axes(name: str) -> Callable[..., Array]:
    """Make a Fourier transform over several axes from the one over a single axis."""

    def transform(
        xp: Namespace, x: Array, s: Any = None, axes: Any = None, norm: Any = None
    ) -> Array:
        if s is not None:
            raise TypeError(f"no derivative of fft.{name}n with s is known here")
        one = getattr(xp.fft, name)
        for axis in range(x.ndim) if axes is None else axes:
            x = one(x, axis=axis, norm=norm or "backward")
        return x

    return transform


def _shift(way: int) -> Callable[..., Array]:
    def shift(xp: Namespace, x: Array, axes: Any = None) -> Array:
        axes = listed(axes, x.ndim)
        by = tuple((x.shape[i] + (way < 0)) // 2 for i in axes)
        return xp.roll(x, by, axis=axes)

    return shift


_COMPOSED: dict[str, Callable[..., Array]] = {
    "fft.fftn": _by_axes("fft"),
    "fft.ifftn": _by_axes("ifft"),
    "fft.fftshift": _shift(1),
    "fft.ifftshift": _shift(-1),
    "linalg.inv": lambda xp, a: xp.inverse(a),
    "linalg.solve": lambda xp, a, b: xp.solution(*xp.arrays(a, b)),
    "linalg.vector_norm": numpy_functions.vector_norm,
    "std": numpy_functions.std,
    "var": numpy_functions.var,
}
"""Functions of the array API that are made of others."""


def _of_roll(xp: Namespace, a: Array, shift: Any, axis: Any = None) -> Any:
    several = isinstance(shift, tuple | list | range)
    back = tuple(-s for s in shift) if several else -shift
    return lambda g: xp.roll(g, back, axis=axis)


def _of_cumulative_sum(xp: Namespace, a: Array, axis: int | None = None) -> Any:
    axis = 0 if axis is None else axis  # of one axis

    def back(g: Array) -> Array:
        g = xp.flip(g, axis=axis)
        return xp.flip(xp.cumulative_sum(g, axis=axis), axis=axis)

    return back


def _of_sum(
    xp: Namespace, a: Array, axis: Any = None, *, keepdims: bool = False
) -> Any:
    shape = tuple(a.shape)
    axes = tuple(i % max(len(shape), 1) for i in listed(axis, len(shape)))
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return lambda g: xp.broadcast_to(xp.reshape(g, kept), shape)


def _of_diagonal(xp: Namespace, a: Array) -> Any:
    def back(g: Array) -> Array:
        *batch, m, n = a.shape
        whole = xp.zeros((*batch, m * n), dtype=g.dtype, device=device(g))
        whole[..., : g.shape[-1] * n : n + 1] = g
        return xp.reshape(whole, a.shape)

    return back


def _weighted(xp: Namespace, x: Array, axis: int, length: int, weight: float) -> Array:
    """Multiply the frequencies of a real array that stand for a conjugate pair."""
    count = x.shape[axis]
    weights = [weight if 0 < 2 * i < length else 1.0 for i in range(count)]
    shape = [1] * x.ndim
    shape[axis] = count
    row = xp.asarray(weights, dtype=x.dtype, device=device(x))
    return x * xp.reshape(row, tuple(shape))


# Normalisation of the adjoint of a Fourier transform, by that of the transform.
_DUAL = {
    None: "forward",
    "backward": "forward",
    "forward": "backward",
    "ortho": "ortho",
}


def _of_rfft(
    xp: Namespace, a: Array, *, axis: int = -1, norm: str | None = None
) -> Any:
    n = a.shape[axis]

    def back(g: Array) -> Array:
        g = _weighted(xp, g, axis, n, 0.5)
        return xp.fft.irfft(g, n=n, axis=axis, norm=_DUAL[norm])

    return back


def _of_irfft(
    xp: Namespace,
    a: Array,
    *,
    n: int | None = None,
    axis: int = -1,
    norm: str | None = None,
) -> Any:
    length = 2 * (a.shape[axis] - 1) if n is None else n
    if a.shape[axis] != length // 2 + 1:
        raise TypeError(
            f"no derivative of fft.irfft with n={n} of {a.shape[axis]} frequencies is "
            f"known here, but of {length // 2 + 1}"
        )

    def back(g: Array) -> Array:
        g = xp.fft.rfft(g, axis=axis, norm=_DUAL[norm])
        return _weighted(xp, g, axis, length, 2.0)

    return back


# Transposes of linear functions, made from the namespace and the arguments.
_TRANSPOSES: dict[str, Callable[..., Callable[[Array], Array]]] = {
    "broadcast_to": lambda xp, a, shape: lambda g: sum_to(g, tuple(a.shape), xp),
    "conj": lambda xp, a: xp.conj,
    "cumulative_sum": _of_cumulative_sum,
    "flip": lambda xp, a, *axis, **given: lambda g: xp.flip(g, *axis, **given),
    "imag": lambda xp, a: lambda g: 1j * xp.astype(g, a.dtype),
    "matrix_transpose": lambda xp, a: xp.matrix_transpose,
    "permute_dims": lambda xp, a, axes: (
        lambda g: xp.permute_dims(
            g, tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))
        )
    ),
    "real": lambda xp, a: lambda g: xp.astype(g, a.dtype),
    "reshape": lambda xp, a, shape: lambda g: xp.reshape(g, tuple(a.shape)),
    "roll": _of_roll,
    "tril": lambda xp, a, *k, **given: lambda g: xp.tril(g, *k, **given),
    "triu": lambda xp, a, *k, **given: lambda g: xp.triu(g, *k, **given),
    "linalg.diagonal": _of_diagonal,
    "fft.fft": lambda xp, a, *, axis=-1, norm="backward": (
        lambda g: xp.fft.ifft(g, axis=axis, norm=_DUAL[norm])
    ),
    "fft.ifft": lambda xp, a, *, axis=-1, norm="backward": (
        lambda g: xp.fft.fft(g, axis=axis, norm=_DUAL[norm])
    ),
    "fft.irfft": _of_irfft,
    "fft.rfft": _of_rfft,
}


class TapedNamespace:
    """An array-API namespace whose functions take traced arrays as well."""

    writable = False  # values may be traced by another tape
    clusters = None  # kernels do not compute with traced values

    def __init__(self, base: Namespace) -> None:
        self.base = base
        self.may_share = getattr(base, "may_share_memory", None)

    def __getattr__(self, name: str) -> Any:
        if name in _EXTENSIONS:
            known = {f: self._wrapped(f"{name}.{f}") for f in _EXTENSIONS[name]}
            function: Any = _Extension(self._wrapped, name, known)
        else:
            function = self._wrapped(name)
        self.__dict__[name] = function  # found at once next time
        return function

    def _wrapped(self, name: str) -> Any:
        if name in _COMPOSED:
            return partial(_COMPOSED[name], self)
        value = attrgetter(name)(self.base)
        if name in _FACTORS:
            return partial(self._elementwise, value, _FACTORS[name])
        if name in _TRANSPOSES:
            transpose = partial(numpy_functions.call, _TRANSPOSES[name], name)
            return partial(self._moving, value, transpose)
        if name in _CONSTANT:
            return partial(self._constant, value)
        if not callable(value) or isinstance(value, type) or name in _OF_DTYPES:
            return value
        return self._of_numpy(name) or partial(self._refused, value, name)

    def _of_numpy(self, name: str) -> Any:
        """Return a function that the array API lacks, or defines unlike NumPy."""
        function = numpy_functions.FUNCTIONS.get(name)
        return function and partial(numpy_functions.call, function, name, self)

    def named(self, name: str, module: str = "numpy") -> Any:
        """Return a function by its name and module in NumPy."""
        if module == "numpy.lib.scimath":  # other functions of the same names
            raise TypeError(f"no derivative of {module}.{name} is known here")
        part, name = module.split(".")[-1], numpy_functions.ALIASES.get(name, name)
        whole = f"{part}.{name}" if part in _EXTENSIONS else name
        found: Any
        if whole in numpy_functions.FUNCTIONS:
            found = self._of_numpy(whole)
        elif part in _EXTENSIONS:
            # Others do not return what NumPy's functions return.
            known = {f"linalg.{f}" for f in ("diagonal", "inv", "solve", "vector_norm")}
            extension = self.fft if part == "fft" else self.linalg
            has = part == "fft" or whole in known
            found = vars(extension).get(name) if has else None
        else:
            found = getattr(self, name, None)
        if found is None:
            own = name in ("eigh", "lstsq", "pinv", "svd", "svdvals")
            hint = f"; svdinv has its own {name}, which has one" if own else ""
            raise TypeError(f"no derivative of {module}.{name} is known here{hint}")
        if whole not in numpy_functions.FUNCTIONS:
            found = partial(numpy_functions.call, found, whole)
        return found

    @staticmethod
    def stop_gradient(x: Any) -> Any:
        return untraced(x)

    @staticmethod
    def on_host(report: Callable[[Array], None], x: Any) -> None:
        report(untraced(x))

    def arrays(self, *args: Any) -> tuple[Any, ...]:
        """Turn lists and tuples into arrays, as NumPy does."""
        if not any(map(_is_list, args)):
            return args
        return tuple(self.base.asarray(x) if _is_list(x) else x for x in args)

    # Calls that record a step on the tape, and calls that do not.

    def _refused(self, function: Any, name: str, *args: Any, **options: Any) -> Any:
        """Call a function without a known derivative; raise if one is needed."""
        if is_moving((*args, *options.values())):
            raise TypeError(f"no derivative of {name} is known here")
        return self._constant(function, *args, **options)

    def _constant(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call a function whose derivative is 0."""
        tape = innermost((*args, *options.values()))
        if tape is not None:
            tape.check_open()
        options = {name: untraced(x) for name, x in options.items()}
        result = function(*map(untraced, args), **options)
        if tape is None or not hasattr(result, "dtype"):
            return result
        masks = self.base.isdtype(result.dtype, ("bool", "integral"))
        if masks:
            return result
        constant = tape.constant(result)
        tape.link(args, (constant,))
        return constant

    def _record(
        self, value: Any, push: Any, pull: Any, *args: Any, reads: int | None = None
    ) -> Any:
        """Evaluate `value`, of plain arrays, on the tapes of its arguments.

        `push` and `pull` take the values of the arguments and of the result, then
        the tangents of the arguments or the cotangent. They may read constants only
        among the first `reads` arguments.
        """
        tape = innermost(args)
        if tape is None:
            return value(*args)
        for x in args:
            check_plain(x, "what is beside a traced array")
        y = self._record(value, push, pull, *map(tape.value, args), reads=reads)
        x = tape.kept(args, reads)
        return tape.record(
            args, (y,), lambda dx: (push(x, y, dx),), lambda g: pull(x, y, g[0])
        )[0]

    def _elementwise(self, function: Any, factors: Any, *args: Any) -> Any:
        """Call a function whose derivative is a factor for each argument."""
        fixed = isinstance(factors, tuple)
        args = self.arrays(*args)

        def slopes(x: Any, y: Array) -> Any:
            return factors if fixed else factors(self, *x, y)

        def push(x: Any, y: Array, dx: Any) -> Any:
            pairs = zip(slopes(x, y), dx, strict=True)
            return reduce(self.add, (times(f, d) for f, d in pairs if d is not None))

        def pull(x: Any, y: Array, g: Array) -> tuple[Any, ...]:
            # Cotangents of constants are not needed, and might overflow.
            return tuple(
                None if f is None or not moving else times(self._conj(f), g)
                for f, moving in zip(slopes(x, y), moves, strict=True)
            )

        def times(factor: Any, d: Array) -> Array:
            one = isinstance(factor, float) and factor == 1
            return d if one else self.multiply(factor, d)

        if any(isinstance(x, complex) for x in args):
            args = self.same_kind(*args)
        moves = tuple(map(is_moving, args))
        reads = 0 if fixed else None
        return self._record(
            lambda *x: function(*self.same_kind(*x)), push, pull, *args, reads=reads
        )

    def _moving(
        self, function: Any, transpose: Any, a: Array, *args: Any, **given: Any
    ) -> Any:
        """Call a linear function whose transpose is known."""
        args = tuple(map(self._fixed, args))
        given = {name: self._fixed(x) for name, x in given.items()}
        # Not `a` itself: a traced array kept by a rule would seem to be in use.
        back = transpose(self.base, untraced(a), *args, **given)
        return self.linear(lambda x: function(x, *args, **given), back, a)

    def _fixed(self, x: Any) -> Any:
        """Copy an argument that may change before the derivative is computed."""
        if isinstance(x, list):
            return list(map(self._fixed, x))
        return self.base.asarray(x, copy=True) if hasattr(x, "dtype") else x

    def linear(self, forward: Any, transpose: Any, a: Array) -> Array:
        """Call a linear function, whose adjoint is `transpose`."""
        result = self._record(
            forward,
            lambda x, y, dx: self.linear(forward, transpose, dx[0]),
            lambda x, y, g: (self.linear(transpose, forward, g),),
            a,
            reads=0,
        )
        if isinstance(result, Traced):
            result.tape.link((a,), (result,))
        return result

    def same_kind(self, *args: Any) -> tuple[Any, ...]:
        """Cast numbers and arrays to their common dtype."""
        base = self.base
        dtypes = [x.dtype for x in args if hasattr(x, "dtype")]
        if not dtypes:
            return tuple(base.asarray(1.0 * x) for x in args)
        if any(isinstance(x, complex) for x in args):
            dtypes.append(base.complex64)
        elif any(isinstance(x, float) for x in args) and all(
            base.isdtype(dtype, ("bool", "integral")) for dtype in dtypes
        ):
            dtypes = [base.asarray(1.0).dtype]
        dtype = dtypes[0]
        if any(other != dtype for other in dtypes):
            dtype = base.result_type(*dtypes)

        def turned(x: Any) -> Any:
            if not hasattr(x, "dtype"):
                return base.asarray(x, dtype=None if isinstance(x, bool) else dtype)
            return x if x.dtype == dtype else self.astype(x, dtype)

        return tuple(map(turned, args))

    def _conj(self, x: Any) -> Any:
        return conj(x, self) if hasattr(x, "dtype") else x.conjugate()

    # Elementwise functions.

    def divide(self, a, b):
        # By quotients: 1 / b is infinite for the smallest b.
        def push(x, y, dx):
            terms = [] if dx[0] is None else [dx[0]]
            if dx[1] is not None:
                terms.append(-self.multiply(y, dx[1]))
            return self.divide(reduce(self.add, terms), x[1])

        def pull(x, y, g):
            part = self.divide(g, self._conj(x[1]))
            return part, -self.multiply(self._conj(y), part) if moves else None

        a, b = self.arrays(a, b)
        if isinstance(a, complex) or isinstance(b, complex):
            a, b = self.same_kind(a, b)
        moves = is_moving(b)
        return self._record(
            lambda *x: self.base.divide(*self.same_kind(*x)), push, pull, a, b
        )

    def pow(self, a, b):
        moves = is_moving(b)

        def factors(xp, x, p, y):
            if not hasattr(p, "dtype") and p in (0, 1):
                slope = float(p)
            elif not hasattr(p, "dtype"):
                slope = p * xp.pow(x, p - 1)
            else:  # also for 0 to the power of 0
                some = (untraced(p) != 0) | (untraced(x) != 0)
                slope = p * xp.pow(x, xp.where(some, p - 1, 0.0))
            if not moves:
                return slope, None
            # 0 where the logarithm is not a number.
            plain = untraced(x)
            if is_complex(y, xp):
                x = xp.astype(x, y.dtype) if hasattr(x, "dtype") else complex(x)
                some = plain != 0
            else:
                some = plain > 0
            log = xp.log(xp.where(some, x, 1.0))
            return slope, xp.multiply(y, log)

        return self._elementwise(self.base.pow, factors, a, b)

    def shares(self, a, b):
        """Return the derivatives of max(a, b) in a and b, 1/2 where they are equal."""
        a, b = self.same_kind(untraced(a), untraced(b))
        one = self.base.ones_like(a + b)
        first = self.base.where(a > b, one, self.base.where(a < b, 0 * one, 0.5 * one))
        return first, 1 - first

    def where(self, condition, a, b):
        condition, a, b = self.arrays(condition, a, b)

        def push(x, y, dx):
            return self.where(x[0], *(0.0 if d is None else d for d in dx[1:]))

        def pull(x, y, g):
            # Not times 0, which NaN and infinity survive.
            return None, self.where(x[0], g, 0.0), self.where(x[0], 0.0, g)

        return self._record(
            lambda mask, *x: self.base.where(mask, *self.same_kind(*x)),
            push,
            pull,
            untraced(condition),
            a,
            b,
            reads=1,
        )

    def abs(self, a):
        # Where a is 0, there is no derivative, and 0 is used.
        def push(x, y, dx):
            return self.real(self.multiply(self._conj(self.sign(x[0])), dx[0]))

        def pull(x, y, g):
            return (self.multiply(self.sign(x[0]), g),)

        return self._record(self.base.abs, push, pull, a)

    def sign(self, a):
        """Sign; a / |a| of complex numbers, whose phase has a derivative."""
        if not is_complex(a, self):
            return self._constant(self.base.sign, a)
        size = self.abs(a)
        some = untraced(size) != 0
        size = self.where(some, size, 1.0)
        # By parts: for complex numbers, NumPy takes 1 / size, which may overflow.
        parts = (self.divide(x, size) for x in (self.real(a), self.imag(a)))
        re, im = (self.astype(x, a.dtype) for x in parts)
        return self.where(some, re + 1j * im, 0.0)

    def real(self, a):
        whole = is_complex(a, self)
        return self._moving(self.base.real, _TRANSPOSES["real"], a) if whole else a

    def full_like(self, x, fill_value, dtype=None):
        full = self.zeros_like(x) + fill_value
        return self.astype(full, x.dtype if dtype is None else dtype)

    def asarray(self, x, *, dtype=None, copy=None, **options):
        if not isinstance(x, Traced):
            return self.base.asarray(x, dtype=dtype, copy=copy, **options)
        return self.astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))

    def astype(self, a, dtype, *, copy=True):
        base, given = self.base, a.dtype
        dtype = base.zeros((), dtype=dtype).dtype  # of a type of Python, too

        def back(g):
            whole = is_complex(g, base) and not base.isdtype(given, "complex floating")
            return base.astype(base.real(g) if whole else g, given)

        if given == dtype and not copy:
            return a
        if not base.isdtype(dtype, ("real floating", "complex floating")):
            return self._constant(base.astype, a, dtype)
        return self.linear(lambda x: base.astype(x, dtype), back, a)

    # Products and sums.

    def matmul(self, a, b):
        a, b = self.arrays(a, b)
        traced = innermost((a, b)) is not None
        if traced and a.ndim == 1:
            product = self.matmul(a[None, :], b)
            return product[0] if b.ndim == 1 else product[..., 0, :]
        if traced and b.ndim == 1:
            return self.matmul(a, b[:, None])[..., 0]

        def push(x, y, dx):
            terms = []
            if dx[0] is not None:
                terms.append(self.matmul(dx[0], x[1]))
            if dx[1] is not None:
                terms.append(self.matmul(x[0], dx[1]))
            return reduce(self.add, terms)

        wanted = is_moving(a), is_moving(b)

        def pull(x, y, g):
            # Not for a constant, which may be a large matrix beside a vector.
            ga = self.matmul(g, adjoint(x[1], self)) if wanted[0] else None
            return ga, self.matmul(adjoint(x[0], self), g) if wanted[1] else None

        return self._record(
            lambda *x: self.base.matmul(*self.same_kind(*x)), push, pull, a, b
        )

    def solution(self, a, b):
        """Solution x of a x = b."""
        if b.ndim == 1:
            return self.solution(a, b[:, None])[..., 0]
        if a.shape[:-2] != b.shape[:-2]:  # CuPy's own does not broadcast
            batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            a, b = (self.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))

        def push(x, y, dx):
            terms = [] if dx[1] is None else [dx[1]]
            if dx[0] is not None:
                terms.append(-self.matmul(dx[0], y))
            return self.solution(x[0], reduce(self.add, terms))

        def pull(x, y, g):
            gb = self.solution(adjoint(x[0], self), g)
            return -self.matmul(gb, adjoint(y, self)), gb

        solve = self.base.linalg.solve
        return self._record(lambda *x: solve(*self.same_kind(*x)), push, pull, a, b)

    def inverse(self, a):
        def push(x, y, dx):
            return -self.matmul(y, self.matmul(dx[0], y))

        def pull(x, y, g):
            left = adjoint(y, self)
            return (-self.matmul(left, self.matmul(g, left)),)

        return self._record(self.base.linalg.inv, push, pull, a)

    def sum(self, a, axis=None, *, dtype=None, keepdims=False, where=True):
        a = a if dtype is None else self.astype(a, dtype)
        if where is not True:
            mask, shape = np.asarray(False) if where is False else where, tuple(a.shape)
            if not self.isdtype(mask.dtype, "bool"):
                raise TypeError(f"where must be a mask of bool, got {mask.dtype}")
            if np.broadcast_shapes(mask.shape, shape) != shape:
                raise ValueError(
                    f"where must broadcast to the shape {shape}, got {mask.shape}"
                )
            a = self.where(mask, a, 0.0)
        return self._moving(self.base.sum, _of_sum, a, axis=axis, keepdims=keepdims)

    def mean(self, a, axis=None, *, keepdims=False):
        if str(a.dtype) == "float16":  # summed in single precision, as NumPy does
            single = self.astype(a, self.base.float32)
            return self.astype(self.mean(single, axis, keepdims=keepdims), a.dtype)
        total = self.sum(a, axis=axis, keepdims=keepdims)
        count = math.prod(a.shape) // max(math.prod(total.shape), 1)
        return total / count

    def max(self, a, axis=None, *, keepdims=False):
        """Maximum; equal largest elements share its derivative."""
        base, plain = self.base, untraced(a)
        most = base.max(plain, axis=axis, keepdims=True)
        equal = (plain == most) | (plain != plain)  # NaN is the largest
        count = base.sum(base.astype(equal, plain.dtype), axis=axis, keepdims=True)

        def push(x, y, dx):
            shares = self.where(equal, dx[0] / count, 0.0)
            return self.sum(shares, axis=axis, keepdims=keepdims)

        def pull(x, y, g):
            return (self.where(equal, self.reshape(g, most.shape) / count, 0.0),)

        return self._record(
            lambda x: base.max(x, axis=axis, keepdims=keepdims), push, pull, a
        )

    def min(self, a, axis=None, *, keepdims=False):
        return -self.max(-a, axis, keepdims=keepdims)

    # What moves elements about.

    def permute_dims(self, a, axes=None):
        axes = tuple(range(a.ndim))[::-1] if axes is None else tuple(axes)
        function, transpose = self.base.permute_dims, _TRANSPOSES["permute_dims"]
        return self._moving(function, transpose, a, axes)

    def swap_axes(self, a, first, second):
        axes = list(range(a.ndim))
        axes[first], axes[second] = axes[second], axes[first]
        return self.permute_dims(a, axes)

    def take_part(self, a, key):
        base, shape = self.base, tuple(a.shape)
        key = key if isinstance(key, tuple) else (key,)
        key = tuple(map(_plain_index, key))
        if not all(isinstance(k, _PLAIN) for k in key):
            return self._take_each(a, tuple(map(self._fixed, key)))
        if Ellipsis not in key:  # `...` would make numbers arrays without axes
            rest = len(shape) - len(key) + key.count(None)
            key = (*key, *[slice(None)] * rest)
        # New axes by a reshape: the standard has no assignment to parts with them.
        kept = tuple(k for k in key if k is not None)

        def back(g):
            whole = base.zeros(shape, dtype=g.dtype, device=device(g))
            whole[kept] = g
            return whole

        part = self.linear(lambda x: x[kept], back, a)
        return self.reshape(part, untraced(a)[key].shape) if None in key else part

    def _take_each(self, a, key):
        """Elements at integers, which may repeat, or where a mask is true."""
        base, shape = self.base, tuple(a.shape)
        add = getattr(base.add, "at", None)
        if add is None:
            raise TypeError(
                "traced arrays take integers, slices, None and ... as indices; those "
                "of NumPy and CuPy also arrays of integers and masks"
            )

        def back(g):
            whole = base.zeros(shape, dtype=g.dtype, device=device(g))
            add(whole, key, g)
            return whole

        return self.linear(lambda x: x[key], back, a)

    def sort(
        self, a, axis=-1, kind=None, *, stable=None, descending=False
    ):  # the order of equal elements does not matter
        if is_moving(a):
            return numpy_functions.in_order(self, a, axis, descending)
        return self._constant(self.base.sort, a, axis=axis, descending=descending)

    def take(self, a, indices, *, axis=None):
        if is_moving(a):
            return numpy_functions.taken(self, a, indices, axis)
        return self._constant(self.base.take, a, indices, axis=axis)

    def concat(self, arrays, axis=0):
        arrays, places, start = as_arrays(self, arrays), [], 0
        if axis is None:
            arrays, axis = [self.reshape(x, (-1,)) for x in arrays], 0
        for x in arrays:
            part = slice(start, start + x.shape[axis])
            places.append((*[slice(None)] * (axis % x.ndim), part, ...))
            start = part.stop

        def push(x, y, dx):
            pairs = zip(x, dx, strict=True)
            moved = [self.zeros_like(t) if d is None else d for t, d in pairs]
            return self.concat(moved, axis=axis)

        return self._record(
            lambda *x: self.base.concat(x, axis=axis),
            push,
            lambda x, y, g: tuple(g[place] for place in places),
            *arrays,
            reads=0,
        )

    def stack(self, arrays, axis=0):
        arrays = as_arrays(self, arrays)
        axis = axis % (arrays[0].ndim + 1)
        place = (*[slice(None)] * axis, None, ...)
        return self.concat([x[place] for x in arrays], axis=axis)


def _is_list(x: Any) -> bool:
    return isinstance(x, list | tuple)


def _plain_index(k: Any) -> Any:
    """Convert an integer of NumPy, or an array without axes, to one of Python."""
    whole = hasattr(k, "__index__") and getattr(k, "ndim", 0) == 0
    return index(k) if whole and not isinstance(k, bool) else k
