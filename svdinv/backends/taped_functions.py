"""The array functions that a tape can differentiate, around any array-API namespace.

Elementwise functions have a factor for each argument, by which tangents are
multiplied, and cotangents by its conjugate. Functions that move elements about are
linear and come with their transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from types import SimpleNamespace
from typing import Any

from svdinv.backends.tape import Traced, innermost, is_moving, sum_to, untraced
from svdinv.core.namespace import Array, Namespace, adjoint, conj, is_complex

__all__ = ["TapedNamespace"]

# What NumPy calls otherwise.
_ALIASES = {
    "power": "pow",
    "true_divide": "divide",
    "concatenate": "concat",
    "transpose": "permute_dims",
    "conjugate": "conj",
    "absolute": "abs",
    "amax": "max",
    "swapaxes": "swap_axes",
}
# Functions of NumPy that the array API lacks or has with another meaning.
_OF_NUMPY: dict[str, Callable[..., Any]] = {
    "clip": lambda xp, x, low, high: xp.minimum(xp.maximum(x, low), high),
    "diagonal": lambda xp, x: xp.diagonal(
        xp.permute_dims(x, (*range(2, x.ndim), 0, 1))
    ),
    "dot": lambda xp, a, b: xp.matmul(a, b),
    "expand_dims": lambda xp, x, axis: xp.stack([x], axis=axis),
    "outer": lambda xp, a, b: xp.reshape(a, (-1, 1)) * xp.reshape(b, (1, -1)),
    "ravel": lambda xp, x: xp.reshape(x, (-1,)),
    "trace": lambda xp, x: xp.sum(_OF_NUMPY["diagonal"](xp, x), axis=-1),
}
# Functions of arrays whose results do not move with them.
_CONSTANT = frozenset([
    "all", "any", "argmax", "argmin", "ceil", "empty_like", "equal", "floor",
    "full_like", "greater", "greater_equal", "isfinite", "isinf", "isnan", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "ndim", "nonzero",
    "not_equal", "ones_like", "round", "shape", "sign", "size", "zeros_like",
])  # fmt: skip
_OF_DTYPES = frozenset(("finfo", "isdtype", "result_type"))
# Linear functions, over the real numbers, that are their own transposes.
_SYMMETRIC = frozenset(("conj", "flip", "matrix_transpose", "tril", "triu"))

# The derivative in each argument: of the namespace, the arguments, and the result.
_FACTORS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "add": lambda xp, a, b, y: (1.0, 1.0),
    "subtract": lambda xp, a, b, y: (1.0, -1.0),
    "multiply": lambda xp, a, b, y: (b, a),
    "divide": lambda xp, a, b, y: (xp.divide(1.0, b), xp.divide(-y, b)),
    "maximum": lambda xp, a, b, y: xp.shares(a, b),
    "minimum": lambda xp, a, b, y: xp.shares(b, a),
    "negative": lambda xp, a, y: (-1.0,),
    "sqrt": lambda xp, a, y: (xp.divide(0.5, y),),
    "square": lambda xp, a, y: (2.0 * a,),
    "exp": lambda xp, a, y: (y,),
    "expm1": lambda xp, a, y: (y + 1.0,),
    "log": lambda xp, a, y: (xp.divide(1.0, a),),
    "log1p": lambda xp, a, y: (xp.divide(1.0, a + 1.0),),
    "sin": lambda xp, a, y: (xp.cos(a),),
    "cos": lambda xp, a, y: (-xp.sin(a),),
    "tanh": lambda xp, a, y: (1.0 - y * y,),
}


class TapedNamespace:
    """An array-API namespace whose functions take traced arrays as well.

    Parameters
    ----------
    base : namespace
        What computes.
    """

    writable = False  # values may be traced by another tape

    def __init__(self, base: Namespace) -> None:
        self.base = base
        self.linalg = SimpleNamespace(
            **{
                name: self._refuse(f"linalg.{name}", getattr(base.linalg, name))
                for name in ("det", "eigh", "qr", "svd")
            },
            diagonal=self.diagonal,
        )
        self.fft = SimpleNamespace(
            fft=self._fft, ifft=self._ifft, rfft=self._rfft, irfft=self._irfft
        )

    def __getattr__(self, name: str) -> Any:
        function = self.__dict__[name] = self._wrapped(name)  # found at once next time
        return function

    def _wrapped(self, name: str) -> Any:
        value = getattr(self.base, name)
        if name in _FACTORS:
            return partial(self._elementwise, name, _FACTORS[name])
        if name in _CONSTANT:
            return partial(self._constant, value)
        if name in _SYMMETRIC:
            return partial(self._symmetric, value)
        if not callable(value) or isinstance(value, type) or name in _OF_DTYPES:
            return value
        return self._refuse(name, value)

    def named(self, name: str, module: str = "numpy") -> Any:
        """Give a function by the name and the module that NumPy has for it."""
        part, name = module.split(".")[-1], _ALIASES.get(name, name)
        if part == "fft":
            found = getattr(self.fft, name, None)
        elif part == "linalg":
            found = self.matmul if name == "matmul" else None
        elif name in _OF_NUMPY:
            found = partial(_OF_NUMPY[name], self)
        else:
            found = getattr(self, name, None)
        if found is None:
            raise TypeError(f"no derivative of {module}.{name} is known here")
        return found

    @staticmethod
    def on_host(report: Callable[[Array], None], x: Any) -> None:
        report(untraced(x))

    # What leaves a step on the tape, and what does not.

    def _refuse(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            if any(map(is_moving, (*args, *kw.values()))):
                raise TypeError(f"no derivative of {name} is known here")
            return self._constant(function, *args, **kw)

        return call

    def _constant(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call a function whose result does not move with its arguments."""
        result, tape = function(*map(untraced, args), **options), innermost(args)
        if tape is None or not hasattr(result, "dtype"):
            return result
        masks = self.base.isdtype(result.dtype, ("bool", "integral"))
        return result if masks else tape.constant(result)

    def _record(
        self,
        args: tuple[Any, ...],
        value: Callable[..., Array],
        push: Callable[..., Any],
        pull: Callable[..., Any],
    ) -> Any:
        """Evaluate `value`, of plain arrays, on the tapes of its arguments.

        `push` and `pull` take the values of the arguments and of the result, then
        the tangents of the arguments or the cotangent.
        """
        tape = innermost(args)
        if tape is None:
            return value(*args)
        x = tuple(map(tape.value, args))
        y = self._record(x, value, push, pull)
        return tape.record(
            args, (y,), lambda dx: (push(x, y, dx),), lambda g: pull(x, y, g[0])
        )[0]

    def _elementwise(self, name: str, factors: Callable[..., Any], *args: Any) -> Any:
        """Call a function whose derivative is a factor for each argument."""
        function = getattr(self.base, name)

        def push(x: Any, y: Array, dx: Any) -> Any:
            pairs = zip(factors(self, *x, y), dx, strict=True)
            return reduce(self.add, (times(f, d) for f, d in pairs if d is not None))

        def pull(x: Any, y: Array, g: Array) -> tuple[Any, ...]:
            return tuple(
                None if f is None else times(self._conj(f), g)
                for f in factors(self, *x, y)
            )

        def times(factor: Any, d: Array) -> Array:
            one = isinstance(factor, float) and factor == 1
            return d if one else self.multiply(factor, d)

        if any(isinstance(x, complex) for x in args):
            args = self._same_kind(args)
        return self._record(args, lambda *x: function(*self._same_kind(x)), push, pull)

    def _linear(
        self,
        forward: Callable[[Array], Array],
        transpose: Callable[[Array], Array],
        x: Array,
    ) -> Array:
        """Apply a linear function of plain arrays with a known transpose."""
        return self._record(
            (x,),
            forward,
            lambda x, y, dx: self._linear(forward, transpose, dx[0]),
            lambda x, y, g: (self._linear(transpose, forward, g),),
        )

    def _symmetric(self, function: Any, x: Array, *args: Any, **options: Any) -> Array:
        def apply(x: Array) -> Array:
            return function(x, *args, **options)

        return self._linear(apply, apply, x)

    def _same_kind(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give numbers, and real arrays beside complex ones, the dtype of all."""
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

    def pow(self, a: Any, b: Any) -> Array:
        def factors(xp: Namespace, x: Any, p: Any, y: Array) -> tuple[Any, Any]:
            if not hasattr(p, "dtype") and p in (0, 1):
                slope = float(p)
            else:
                slope = p * xp.pow(x, p - 1)
            if not is_moving(b):
                return slope, None
            # 0 where the logarithm is not a number.
            log = xp.log(xp.where(untraced(x) > 0, x, 1.0))
            return slope, xp.multiply(y, log)

        return self._elementwise("pow", factors, a, b)

    def shares(self, a: Any, b: Any) -> tuple[Array, Array]:
        """Give the share of each in the maximum, half where they are equal."""
        a, b = self._same_kind((untraced(a), untraced(b)))
        one = self.base.ones_like(a + b)
        first = self.base.where(a > b, one, self.base.where(a < b, 0 * one, 0.5 * one))
        return first, 1 - first

    def where(self, condition: Any, a: Any, b: Any) -> Array:
        mask = untraced(condition)

        def pull(x: Any, y: Array, g: Array) -> Any:
            # Not times 0, which NaN and infinity survive.
            return self.where(mask, g, 0.0), self.where(mask, 0.0, g)

        return self._record(
            (a, b),
            lambda a, b: self.base.where(mask, *self._same_kind((a, b))),
            lambda x, y, dx: self.where(mask, *(0.0 if d is None else d for d in dx)),
            pull,
        )

    def abs(self, a: Array) -> Array:
        def direction(x: Array, y: Array) -> Array:
            # 0 where x is: there is no derivative.
            if not is_complex(x, self):
                return self.sign(x)
            safe = self.where(y > 0, y, self.ones_like(y))
            return self.divide(x, self.astype(safe, x.dtype))

        return self._record(
            (a,),
            self.base.abs,
            lambda x, y, dx: self.real(
                self.multiply(conj(direction(x[0], y), self), dx[0])
            ),
            lambda x, y, g: (self.multiply(direction(x[0], y), g),),
        )

    def real(self, a: Array) -> Array:
        if not is_complex(a, self):
            return a
        return self._linear(self.base.real, lambda g: self._whole(g, a.dtype), a)

    def imag(self, a: Array) -> Array:
        return self._linear(self.base.imag, lambda g: 1j * self._whole(g, a.dtype), a)

    def _whole(self, x: Array, dtype: Any) -> Array:
        return self.base.astype(x, dtype)

    def asarray(self, x: Any, **options: Any) -> Array:
        return x if isinstance(x, Traced) else self.base.asarray(x, **options)

    def astype(self, a: Array, dtype: Any, *, copy: bool = True) -> Array:
        base, given = self.base, a.dtype
        dtype = base.zeros((), dtype=dtype).dtype  # of a type of Python, too

        def back(g: Array) -> Array:
            whole = is_complex(g, base) and not base.isdtype(given, "complex floating")
            return base.astype(base.real(g) if whole else g, given)

        if given == dtype and not copy:
            return a
        if not base.isdtype(dtype, ("real floating", "complex floating")):
            return self._constant(base.astype, a, dtype)
        return self._linear(lambda x: base.astype(x, dtype), back, a)

    # Products and sums.

    def matmul(self, a: Array, b: Array) -> Array:
        if innermost((a, b)) is not None and a.ndim == 1:
            product = self.matmul(a[None, :], b)
            return product[0] if b.ndim == 1 else product[..., 0, :]
        if innermost((a, b)) is not None and b.ndim == 1:
            return self.matmul(a, b[:, None])[..., 0]

        def push(x: Any, y: Array, dx: Any) -> Any:
            terms = []
            if dx[0] is not None:
                terms.append(self.matmul(dx[0], x[1]))
            if dx[1] is not None:
                terms.append(self.matmul(x[0], dx[1]))
            return reduce(self.add, terms)

        def pull(x: Any, y: Array, g: Array) -> Any:
            return (
                self.matmul(g, adjoint(x[1], self)),
                self.matmul(adjoint(x[0], self), g),
            )

        return self._record(
            (a, b), lambda *x: self.base.matmul(*self._same_kind(x)), push, pull
        )

    def sum(self, a: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
        base, before = self.base, tuple(a.shape)
        given = range(len(before)) if axis is None else axis if _many(axis) else (axis,)
        axes = tuple(i % len(before) for i in given)
        kept = tuple(1 if i in axes else n for i, n in enumerate(before))
        return self._linear(
            lambda x: base.sum(x, axis=axes, keepdims=keepdims),
            lambda g: base.broadcast_to(base.reshape(g, kept), before),
            a,
        )

    def mean(self, a: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
        total = self.sum(a, axis=axis, keepdims=keepdims)
        count = math.prod(a.shape) // max(math.prod(total.shape), 1)
        return total / count

    def max(self, a: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
        """Maximum; equal largest elements share its derivative."""
        base, plain = self.base, untraced(a)
        most = base.max(plain, axis=axis, keepdims=True)
        equal = plain == most
        count = base.sum(base.astype(equal, plain.dtype), axis=axis, keepdims=True)

        def push(x: Any, y: Array, dx: Any) -> Array:
            shares = self.where(equal, dx[0] / count, 0.0)
            return self.sum(shares, axis=axis, keepdims=keepdims)

        def pull(x: Any, y: Array, g: Array) -> tuple[Array]:
            return (self.where(equal, self.reshape(g, most.shape) / count, 0.0),)

        return self._record(
            (a,), lambda x: base.max(x, axis=axis, keepdims=keepdims), push, pull
        )

    def min(self, a: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
        return -self.max(-a, axis, keepdims=keepdims)

    # What moves elements about.

    def reshape(self, a: Array, shape: Any, *, copy: bool | None = None) -> Array:
        base, before, after = self.base, tuple(a.shape), tuple(shape)
        return self._linear(
            lambda x: base.reshape(x, after), lambda g: base.reshape(g, before), a
        )

    def permute_dims(self, a: Array, axes: Any = None) -> Array:
        base = self.base
        axes = tuple(range(a.ndim))[::-1] if axes is None else tuple(axes)
        inverse = tuple(axes.index(i) for i in range(len(axes)))
        return self._linear(
            lambda x: base.permute_dims(x, axes),
            lambda g: base.permute_dims(g, inverse),
            a,
        )

    def swap_axes(self, a: Array, first: int, second: int) -> Array:
        axes = list(range(a.ndim))
        axes[first], axes[second] = axes[second], axes[first]
        return self.permute_dims(a, axes)

    def broadcast_to(self, a: Array, shape: Any) -> Array:
        base, before, after = self.base, tuple(a.shape), tuple(shape)
        return self._linear(
            lambda x: base.broadcast_to(x, after), lambda g: sum_to(g, before, base), a
        )

    def take_part(self, a: Array, key: Any) -> Array:
        base, shape = self.base, tuple(a.shape)
        key = key if isinstance(key, tuple) else (key,)
        if not all(
            k is None or k is Ellipsis or isinstance(k, slice | int) for k in key
        ):
            raise TypeError(
                "traced arrays take integers, slices, None and ... as indices"
            )
        key = key if Ellipsis in key else (*key, Ellipsis)
        # New axes by a reshape: the standard assigns to no part with them.
        kept = tuple(k for k in key if k is not None)

        def back(g: Array) -> Array:
            whole = base.zeros(shape, dtype=g.dtype, device=g.device)
            whole[kept] = g
            return whole

        part = self._linear(lambda x: x[kept], back, a)
        if None not in key:
            return part
        return self.reshape(part, untraced(a)[key].shape)

    def concat(self, arrays: Any, axis: int = 0) -> Array:
        arrays = tuple(arrays)
        places, start = [], 0
        for x in arrays:
            part = slice(start, start + x.shape[axis])
            places.append((*[slice(None)] * (axis % x.ndim), part, ...))
            start = part.stop

        def push(x: Any, y: Array, dx: Any) -> Array:
            pairs = zip(x, dx, strict=True)
            moved = [self.zeros_like(t) if d is None else d for t, d in pairs]
            return self.concat(moved, axis=axis)

        return self._record(
            arrays,
            lambda *x: self.base.concat(x, axis=axis),
            push,
            lambda x, y, g: tuple(g[place] for place in places),
        )

    def stack(self, arrays: Any, axis: int = 0) -> Array:
        arrays = tuple(arrays)
        axis = axis % (arrays[0].ndim + 1)
        place = (*[slice(None)] * axis, None, ...)
        return self.concat([x[place] for x in arrays], axis=axis)

    def roll(self, a: Array, shift: Any, axis: Any = None) -> Array:
        back = tuple(-s for s in shift) if _many(shift) else -shift
        forth, back = (
            partial(self.base.roll, shift=s, axis=axis) for s in (shift, back)
        )
        return self._linear(forth, back, a)

    def diagonal(self, a: Array) -> Array:
        base, shape = self.base, a.shape[-2:]

        def back(g: Array) -> Array:
            whole = base.zeros((*g.shape[:-1], *shape), dtype=g.dtype, device=g.device)
            for i in range(min(shape)):
                whole[..., i, i] = g[..., i]
            return whole

        return self._linear(base.linalg.diagonal, back, a)

    # Fourier transforms, not normalised forwards.

    def _fft(self, a: Array, *, axis: int = -1) -> Array:
        fft, length = self.base.fft, a.shape[axis]
        return self._linear(
            partial(fft.fft, axis=axis), lambda g: fft.ifft(g, axis=axis) * length, a
        )

    def _ifft(self, a: Array, *, axis: int = -1) -> Array:
        fft, length = self.base.fft, a.shape[axis]
        return self._linear(
            partial(fft.ifft, axis=axis), lambda g: fft.fft(g, axis=axis) / length, a
        )

    def _rfft(self, a: Array, *, axis: int = -1) -> Array:
        fft, length = self.base.fft, a.shape[axis]

        def back(g: Array) -> Array:
            half = self._weighted(g, axis, length, 0.5)
            return fft.irfft(half, n=length, axis=axis) * length

        return self._linear(partial(fft.rfft, axis=axis), back, a)

    def _irfft(self, a: Array, *, n: int | None = None, axis: int = -1) -> Array:
        fft = self.base.fft
        length = 2 * (a.shape[axis] - 1) if n is None else n

        def back(g: Array) -> Array:
            return self._weighted(fft.rfft(g, axis=axis), axis, length, 2.0) / length

        return self._linear(partial(fft.irfft, n=length, axis=axis), back, a)

    def _weighted(self, x: Array, axis: int, length: int, factor: float) -> Array:
        """Multiply the frequencies that stand for their conjugates as well."""
        weights = [1.0] + [factor] * (x.shape[axis] - 1)
        if length % 2 == 0 and len(weights) > 1:
            weights[-1] = 1.0
        shape = [1] * x.ndim
        shape[axis] = len(weights)
        base = self.base
        row = base.asarray(weights, dtype=x.dtype, device=x.device)
        return x * base.reshape(row, tuple(shape))


def _many(x: Any) -> bool:
    return isinstance(x, tuple | list | range)
