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

from svdinv.backends.tape import Traced, innermost, is_moving, untraced
from svdinv.core.namespace import Array, Namespace, conj, is_complex

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
_CONSTANT = frozenset(
    [
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "equal",
        "not_equal",
        "isnan",
        "isinf",
        "isfinite",
        "sign",
        "argmax",
        "argmin",
        "all",
        "any",
        "nonzero",
        "logical_and",
        "logical_or",
        "logical_not",
        "floor",
        "ceil",
        "round",
        "shape",
        "ndim",
        "size",
    ]
)

_OF_DTYPES = frozenset(("finfo", "isdtype", "result_type"))

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

    def __init__(self, base: Namespace) -> None:
        self.base = base
        self.writable = False  # values may be traced by another tape
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
        if name in _FACTORS:
            return partial(self._elementwise, name, _FACTORS[name])
        value = getattr(self.base, name)
        if name in _CONSTANT:
            return partial(self._constant, value)
        if not callable(value) or isinstance(value, type) or name in _OF_DTYPES:
            return value
        return self._refuse(name, value)

    def _constant(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call a function whose result does not move with its arguments."""
        result, tape = function(*map(untraced, args), **options), innermost(args)
        if tape is None or not hasattr(result, "dtype"):
            return result
        masks = self.base.isdtype(result.dtype, ("bool", "integral"))
        return result if masks else tape.constant(result)

    def named(self, name: str, module: str = "numpy") -> Any:
        """Give a function by the name and the module that NumPy has for it."""
        part, name = module.split(".")[-1], _ALIASES.get(name, name)
        if part == "fft":
            found = getattr(self.fft, name, None)
        elif part == "linalg":
            found = self.matmul if name == "matmul" else None
        else:
            found = _OF_NUMPY.get(name)
            found = getattr(self, name, None) if found is None else partial(found, self)
        if found is None:
            raise TypeError(f"no derivative of {module}.{name} is known here")
        return found

    @staticmethod
    def on_host(report: Callable[[Array], None], x: Any) -> None:
        report(untraced(x))

    def _refuse(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            if any(map(is_moving, (*args, *kw.values()))):
                raise TypeError(f"no derivative of {name} is known here")
            return self._constant(function, *args, **kw)

        return call

    def _record(
        self,
        args: tuple[Any, ...],
        value: Callable[..., Array],
        push: Callable[..., Any],
        pull: Callable[..., Any],
    ) -> Any:
        """Evaluate `value`, on the innermost tape of its arguments.

        `push` and `pull` take the values of the arguments and of the result, then
        the tangents of the arguments or the cotangent.
        """
        tape = innermost(args)
        if tape is None:
            return value(*args)
        x = tuple(
            t.value if isinstance(t, Traced) and t.tape is tape else t for t in args
        )
        y = value(*x)
        return tape.record(
            args, (y,), lambda dx: (push(x, y, dx),), lambda g: pull(x, y, g[0])
        )[0]

    def _elementwise(self, name: str, factors: Callable[..., Any], *args: Any) -> Any:
        """Call a function whose derivative is a factor for each argument."""
        if innermost(args) is None:
            return getattr(self.base, name)(*self._same_kind(args))
        if any(isinstance(x, complex) for x in args):
            args = tuple(self._whole(x) for x in args)

        def value(*x: Any) -> Any:
            return self._elementwise(name, factors, *x)

        def push(x: Any, y: Array, dx: Any) -> Any:
            pairs = zip(factors(self, *x, y), dx, strict=True)
            terms = (self._times(f, d) for f, d in pairs if d is not None)
            return reduce(self.add, terms)

        def pull(x: Any, y: Array, g: Array) -> tuple[Any, ...]:
            return tuple(
                None if f is None else self._times(self._conj(f), g)
                for f in factors(self, *x, y)
            )

        return self._record(args, value, push, pull)

    def _whole(self, x: Any) -> Any:
        if not hasattr(x, "dtype") or is_complex(x, self):
            return x
        return self.astype(x, self.base.result_type(x.dtype, self.base.complex64))

    def pow(self, a, b):
        def factors(xp, x, p, y):
            if not hasattr(p, "dtype") and p in (0, 1):
                slope = float(p)
            else:
                slope = p * xp.pow(x, p - 1)
            if not is_moving(b):
                return slope, None
            # 0 where the logarithm is not a number.
            positive = untraced(x) > 0
            log = xp.log(xp.where(positive, x, xp.ones_like(x)))
            return slope, xp.multiply(y, log)

        return self._elementwise("pow", factors, a, b)

    def _times(self, factor: Any, d: Array) -> Array:
        if isinstance(factor, float) and factor == 1:
            return d
        return self.multiply(factor, d)

    def _same_kind(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give real arrays beside complex ones a complex dtype, as the standard has."""
        base = self.base
        arrays = [x for x in args if hasattr(x, "dtype")]
        if not arrays:
            return tuple(base.asarray(1.0 * x) for x in args)
        whole = [x for x in arrays if is_complex(x, base)]
        like = (whole or arrays)[0].dtype
        if not whole and any(isinstance(x, complex) for x in args):
            like = base.result_type(like, base.complex64)
        if base.isdtype(like, ("bool", "integral")) and any(
            isinstance(x, float) for x in args
        ):
            like = base.asarray(1.0).dtype
        turned = base.isdtype(like, "complex floating")
        return tuple(
            base.asarray(x, dtype=None if isinstance(x, bool) else like)
            if not hasattr(x, "dtype")
            else base.astype(x, like)
            if (turned and not is_complex(x, base)) or like != arrays[0].dtype
            else x
            for x in args
        )

    def _conj(self, x):
        return conj(x, self) if hasattr(x, "dtype") else x.conjugate()

    def _linear(
        self,
        forward: Callable[[Array], Array],
        transpose: Callable[[Array], Array],
        x: Array,
    ) -> Array:
        """Apply a linear function with a known transpose."""
        return self._record(
            (x,),
            lambda x: (
                self._linear(forward, transpose, x)
                if isinstance(x, Traced)
                else forward(x)
            ),
            lambda x, y, dx: self._linear(forward, transpose, dx[0]),
            lambda x, y, g: (self._linear(transpose, forward, g),),
        )

    def asarray(self, x, **options):
        return x if isinstance(x, Traced) else self.base.asarray(x, **options)

    def shares(self, a: Any, b: Any) -> tuple[Array, Array]:
        """Give the share of each in the maximum, half where they are equal."""
        a, b = self._same_kind((untraced(a), untraced(b)))
        one = self.base.ones_like(a + b)
        first = self.base.where(a > b, one, self.base.where(a < b, 0 * one, 0.5 * one))
        return first, 1 - first

    def where(self, condition, a, b):
        if innermost((a, b)) is None:
            return self.base.where(untraced(condition), *self._same_kind((a, b)))

        def chosen(x, y):
            return self.where(condition, x, y)

        def parts(x, y, g):
            # Not times 0, which NaN and infinity survive.
            return chosen(g, self.zeros_like(g)), chosen(self.zeros_like(g), g)

        def push(x, y, dx):
            return chosen(*(self.zeros_like(y) if d is None else d for d in dx))

        return self._record((a, b), chosen, push, parts)

    def abs(self, a):
        if not is_complex(a, self):
            return self._elementwise("abs", lambda xp, x, y: (xp.sign(x),), a)

        def direction(x: Array, y: Array) -> Array:
            # 0 where x is: there is no derivative.
            safe = self.where(y > 0, y, self.ones_like(y))
            return self.divide(x, self.astype(safe, x.dtype))

        return self._record(
            (a,),
            lambda x: self.abs(x) if isinstance(x, Traced) else self.base.abs(x),
            lambda x, y, dx: self.real(
                self.multiply(conj(direction(x[0], y), self), dx[0])
            ),
            lambda x, y, g: (self.multiply(direction(x[0], y), g),),
        )

    # Real and imaginary parts: linear over the reals.

    def conj(self, a):
        return self._linear(self.base.conj, self.base.conj, a)

    def real(self, a):
        if not is_complex(a, self):
            return a
        return self._linear(self.base.real, lambda g: self._complex(g, a.dtype), a)

    def imag(self, a):
        return self._linear(self.base.imag, lambda g: 1j * self._complex(g, a.dtype), a)

    def _complex(self, x: Array, dtype: Any) -> Array:
        return self.base.astype(x, dtype)

    def astype(self, a, dtype, *, copy=True):
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

    # Products.

    def matmul(self, a, b):
        if innermost((a, b)) is None:
            return self.base.matmul(*self._same_kind((a, b)))
        if a.ndim == 1:
            product = self.matmul(a[None, :], b)
            return product[0] if b.ndim == 1 else product[..., 0, :]
        if b.ndim == 1:
            return self.matmul(a, b[:, None])[..., 0]

        def adjoint(x: Array) -> Array:
            return conj(self.matrix_transpose(x), self)

        def push(x: Any, y: Array, dx: Any) -> Any:
            terms = []
            if dx[0] is not None:
                terms.append(self.matmul(dx[0], x[1]))
            if dx[1] is not None:
                terms.append(self.matmul(x[0], dx[1]))
            return reduce(self.add, terms)

        return self._record(
            (a, b),
            self.matmul,
            push,
            lambda x, y, g: (
                self.matmul(g, adjoint(x[1])),
                self.matmul(adjoint(x[0]), g),
            ),
        )

    # What moves elements about.

    def reshape(self, a, shape, *, copy=None):
        base, before, after = self.base, tuple(a.shape), tuple(shape)
        return self._linear(
            lambda x: base.reshape(x, after), lambda g: base.reshape(g, before), a
        )

    def permute_dims(self, a, axes=None):
        base = self.base
        axes = tuple(range(a.ndim))[::-1] if axes is None else tuple(axes)
        inverse = tuple(axes.index(i) for i in range(len(axes)))
        return self._linear(
            lambda x: base.permute_dims(x, axes),
            lambda g: base.permute_dims(g, inverse),
            a,
        )

    def swap_axes(self, a, first, second):
        axes = list(range(a.ndim))
        axes[first], axes[second] = axes[second], axes[first]
        return self.permute_dims(a, tuple(axes))

    def matrix_transpose(self, a):
        transpose = self.base.matrix_transpose
        return self._linear(transpose, transpose, a)

    def broadcast_to(self, a, shape):
        base, before, after = self.base, tuple(a.shape), tuple(shape)
        padded = (1,) * (len(after) - len(before)) + before
        axes = tuple(
            i for i, (p, n) in enumerate(zip(padded, after, strict=True)) if p != n
        )

        def back(g: Array) -> Array:
            total = base.sum(g, axis=axes, keepdims=True) if axes else g
            return base.reshape(total, before)

        return self._linear(lambda x: base.broadcast_to(x, after), back, a)

    def sum(self, a, axis=None, *, keepdims=False):
        base, before = self.base, tuple(a.shape)
        given = range(len(before)) if axis is None else axis if _many(axis) else (axis,)
        axes = tuple(i % len(before) for i in given)
        kept = tuple(1 if i in axes else n for i, n in enumerate(before))
        return self._linear(
            lambda x: base.sum(x, axis=axes, keepdims=keepdims),
            lambda g: base.broadcast_to(base.reshape(g, kept), before),
            a,
        )

    def mean(self, a, axis=None, *, keepdims=False):
        total = self.sum(a, axis=axis, keepdims=keepdims)
        count = math.prod(a.shape) // max(math.prod(total.shape), 1)
        return total / count

    def max(self, a, axis=None, *, keepdims=False):
        """Maximum; equal largest elements share its derivative."""
        plain = untraced(a)
        most = self.base.max(plain, axis=axis, keepdims=True)
        equal = plain == most
        count = self.base.sum(
            self.base.astype(equal, plain.dtype), axis=axis, keepdims=True
        )

        def value(x):
            if isinstance(x, Traced):
                return self.max(x, axis, keepdims=keepdims)
            return self.base.max(x, axis=axis, keepdims=keepdims)

        def spread(g):
            whole = self.broadcast_to(self.reshape(g, most.shape), plain.shape)
            return self.where(equal, whole / count, self.zeros_like(whole))

        def gathered(dx):
            kept = self.where(equal, dx / count, self.zeros_like(dx))
            return self.sum(kept, axis=axis, keepdims=keepdims)

        return self._record(
            (a,),
            value,
            lambda x, y, dx: gathered(dx[0]),
            lambda x, y, g: (spread(g),),
        )

    def min(self, a, axis=None, *, keepdims=False):
        return -self.max(-a, axis, keepdims=keepdims)

    def take_part(self, a, key):
        base, shape = self.base, tuple(a.shape)
        key = key if isinstance(key, tuple) else (key,)
        if not all(
            k is None or k is Ellipsis or isinstance(k, slice | int) for k in key
        ):
            raise TypeError(
                "traced arrays take integers, slices, None and ... as indices"
            )
        # New axes by a reshape: the standard assigns to no part with them.
        kept = tuple(k for k in key if k is not None)
        kept = kept if Ellipsis in kept else (*kept, Ellipsis)

        def back(g: Array) -> Array:
            whole = base.zeros(shape, dtype=g.dtype, device=g.device)
            whole[kept] = g
            return whole

        part = self._linear(lambda x: x[kept], back, a)
        if None not in key:
            return part
        rest = key if Ellipsis in key else (*key, Ellipsis)
        return self.reshape(part, tuple(untraced(a)[rest].shape))

    def concat(self, arrays, axis=0):
        arrays = tuple(arrays)
        if innermost(arrays) is None:
            return self.base.concat(arrays, axis=axis)
        places, start = [], 0
        for x in arrays:
            part = slice(start, start + x.shape[axis])
            places.append((*[slice(None)] * (axis % x.ndim), part))
            start = part.stop
        return self._record(
            arrays,
            lambda *x: self.concat(x, axis=axis),
            lambda x, y, dx: self.concat(
                [
                    self.zeros_like(t) if d is None else d
                    for t, d in zip(x, dx, strict=True)
                ],
                axis=axis,
            ),
            lambda x, y, g: tuple(g[(*place, ...)] for place in places),
        )

    def stack(self, arrays, axis=0):
        arrays = tuple(arrays)
        ndim = arrays[0].ndim + 1
        place = (*[slice(None)] * (axis % ndim), None)
        return self.concat([x[(*place, ...)] for x in arrays], axis=axis % ndim)

    def roll(self, a, shift, axis=None):
        base = self.base
        back = tuple(-s for s in shift) if _many(shift) else -shift
        return self._linear(
            lambda x: base.roll(x, shift, axis=axis),
            lambda g: base.roll(g, back, axis=axis),
            a,
        )

    def flip(self, a, axis=None):
        def flip(x: Array) -> Array:
            return self.base.flip(x, axis=axis)

        return self._linear(flip, flip, a)

    def tril(self, a, k=0):
        def lower(x: Array) -> Array:
            return self.base.tril(x, k=k)

        return self._linear(lower, lower, a)

    def triu(self, a, k=0):
        def upper(x: Array) -> Array:
            return self.base.triu(x, k=k)

        return self._linear(upper, upper, a)

    def diagonal(self, a):
        base = self.base
        m, n = a.shape[-2:]

        def back(g: Array) -> Array:
            whole = base.zeros((*g.shape[:-1], m, n), dtype=g.dtype, device=g.device)
            for i in range(min(m, n)):
                whole[..., i, i] = g[..., i]
            return whole

        return self._linear(base.linalg.diagonal, back, a)

    # Fourier transforms, not normalised forwards.

    def _fft(self, a, *, axis=-1):
        fft, length = self.base.fft, a.shape[axis]
        return self._linear(
            lambda x: fft.fft(x, axis=axis),
            lambda g: fft.ifft(g, axis=axis) * length,
            a,
        )

    def _ifft(self, a, *, axis=-1):
        fft, length = self.base.fft, a.shape[axis]
        return self._linear(
            lambda x: fft.ifft(x, axis=axis),
            lambda g: fft.fft(g, axis=axis) / length,
            a,
        )

    def _rfft(self, a, *, axis=-1):
        fft, length = self.base.fft, a.shape[axis]
        return self._linear(
            lambda x: fft.rfft(x, axis=axis),
            lambda g: (
                fft.irfft(self._halved(g, axis, length), n=length, axis=axis) * length
            ),
            a,
        )

    def _irfft(self, a, *, n=None, axis=-1):
        fft = self.base.fft
        length = 2 * (a.shape[axis] - 1) if n is None else n

        def back(g: Array) -> Array:
            doubled = self._halved(fft.rfft(g, axis=axis), axis, length, 2.0)
            return doubled / length

        return self._linear(lambda x: fft.irfft(x, n=length, axis=axis), back, a)

    def _halved(self, x: Array, axis: int, length: int, factor: float = 0.5) -> Array:
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
