"""A tape: derivatives of what NumPy, CuPy or any other namespace computes.

`vjp` and `jvp` call a function with `Traced` arrays. Every array function of
`svdinv.backends.taped_functions`, and every call of an operation, then records a step
on the tape: how tangents go through it, and how cotangents come back. The values of
one tape may be the traced arrays of another, so that derivatives can be
differentiated again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any, NamedTuple, TypeAlias
from weakref import ref

from svdinv.core.namespace import Array, Namespace, cast, conj, is_complex, real

Rule: TypeAlias = Callable[[tuple[Any, ...]], Sequence[Any]]

# Methods of NumPy's arrays that are functions of NumPy.
METHODS = frozenset((
    "argmax", "argmin", "clip", "copy", "cumsum", "diagonal", "dot", "flatten",
    "ravel", "repeat", "squeeze", "std", "swapaxes", "take", "trace", "var",
))  # fmt: skip
# What to do instead, in messages.
_STACK = "put elements together with stack or concat"
_LINEAR = f"{_STACK}, and make products with SciPy's matrices known by `linear`"
_COMPOSE = "take Python's operators, and functions of NumPy or of its namespace"

# Smaller constants, in bytes, are copied faster than they are compared.
_SMALL = 2**14

# Of nested tapes, the later one is the inner one, whatever a function closes over.
_levels = itertools.count()


class _Step(NamedTuple):
    """Positions of inputs and outputs on the tape, and rules, in which None is zero."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    push: Rule
    pull: Rule


class Tape:
    """The steps of one evaluation; `xp` holds array functions of traced arrays.

    Of nested tapes, the innermost has the highest level.
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        self.level = next(_levels)
        self.ended = False  # whether the function on this tape has ended
        self._values: list[Array] = []
        self._steps: list[_Step] = []
        self._copies: dict[Any, Array] = {}

    def variable(self, value: Array) -> Traced:
        """Put an array on the tape."""
        self._values.append(value)
        return Traced(self, value, len(self._values) - 1)

    def constant(self, value: Array) -> Traced:
        """Make a plain array a constant of the tape; return a traced array as it is.

        Operators of some namespaces do not defer to those of the other operand.
        """
        return value if isinstance(value, Traced) else Traced(self, value, None)

    def value(self, x: Any) -> Any:
        """Return the value of an array on this tape, and anything else as it is."""
        return x.value if isinstance(x, Traced) and x.tape is self else x

    def position(self, x: Any) -> int | None:
        """Return the place of an array on this tape, if it has one."""
        return x.position if isinstance(x, Traced) and x.tape is self else None

    def record(
        self, inputs: Sequence[Any], outputs: Sequence[Any], push: Rule, pull: Rule
    ) -> tuple[Any, ...]:
        """Record a step, and return its outputs as traced arrays; None stays None."""
        self.check_open()
        places = tuple(map(self.position, inputs))
        if all(place is None for place in places):
            return tuple(None if y is None else Traced(self, y, None) for y in outputs)
        traced = tuple(None if y is None else self.variable(y) for y in outputs)
        found = tuple(map(self.position, traced))
        self._steps.append(_Step(places, found, push, pull))
        return traced

    def check_open(self) -> None:
        """Raise RuntimeError if the function has ended: nothing reads later steps."""
        if self.ended:
            raise RuntimeError(
                "this array belongs to a call of vjp or jvp that has ended: return it "
                "from the function to get a plain array, and make constants outside of "
                "the function"
            )

    def link(self, inputs: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Note which outputs may share memory with an input, as views do.

        All do where the namespace cannot tell.
        """
        shares = self.xp.may_share
        for x, y in itertools.product(inputs, outputs):
            both = isinstance(x, Traced) and isinstance(y, Traced) and x is not y
            if both and (shares is None or shares(untraced(x), untraced(y))):
                y.sharers = x.sharers = x.sharers or [ref(x)]
                y.sharers.append(ref(y))

    def kept(self, inputs: Sequence[Any], reads: int | None = None) -> tuple[Any, ...]:
        """Return the values of inputs; the rules of a step read the first `reads`.

        Inputs that are read, but are not on the tape, are copied: the function may
        change them later, such as a buffer that it uses again.
        """
        values = list(map(self.value, inputs))
        for i, x in enumerate(inputs[:reads]):
            if self.position(x) is None:
                values[i] = self._copied(values[i])
        return tuple(values)

    def _copied(self, x: Any) -> Any:
        """Copy an array that may change; reuse the copy while it does not."""
        if isinstance(x, Traced):
            return x.again()
        if not _may_change(x):
            return x
        memory = getattr(x, "__array_interface__", None)
        memory = memory or getattr(x, "__cuda_array_interface__", None)
        if memory is None or x.nbytes < _SMALL:
            return self.xp.asarray(x, copy=True)
        # A matrix used in every iteration is compared, not copied again.
        place = (memory["data"][0], x.shape, x.strides, x.dtype)
        copy = self._copies.get(place)
        if copy is None or not _equal(copy, x):
            copy = self._copies[place] = self.xp.asarray(x, copy=True)
        return copy

    def push(self, tangents: dict[int | None, Array]) -> None:
        """Propagate tangents, keyed by position, forward through all steps."""
        for step in self._steps:
            dx = tuple(map(tangents.get, step.inputs))
            if any(d is not None for d in dx):
                for i, dy in zip(step.outputs, step.push(dx), strict=True):
                    if i is not None and dy is not None:
                        tangents[i] = self._fitted(dy, self._values[i])

    def pull(self, cotangents: dict[int | None, Array]) -> None:
        """Propagate cotangents, keyed by position, back through all steps."""
        for step in reversed(self._steps):
            g = tuple(map(cotangents.get, step.outputs))
            if any(x is not None for x in g):
                for i, gx in zip(step.inputs, step.pull(g), strict=False):
                    if i is not None and gx is not None:
                        self.collect(cotangents, i, self._fitted(gx, self._values[i]))

    def collect(self, cotangents: dict[int | None, Array], i: int, g: Array) -> None:
        """Add a cotangent to those of the same position."""
        cotangents[i] = self.xp.add(cotangents[i], g) if i in cotangents else g

    def _fitted(self, g: Array, value: Array) -> Array:
        """`g` in the shape and dtype of `value`, whose cotangent it is."""
        xp = self.xp
        if is_complex(g, xp) and not is_complex(value, xp):
            g = real(g, xp)
        # A tangent may have fewer axes.
        g = g if len(g.shape) < len(value.shape) else sum_to(g, value.shape, xp)
        g = xp.broadcast_to(g, value.shape) if g.shape != value.shape else g
        return cast(g, value, xp)


class _UntraceableError(TypeError):
    """A traced array would lose its derivative."""


class Traced:
    """An array on a tape, on which operators and array functions record steps.

    It has the attributes and methods that arrays have in NumPy. Its value may be a
    traced array of an outer tape. A constant has no position on the tape.

    Values are never written into: an update in place computes a new value, which this
    object then holds. `sharers` are references to all objects whose arrays may share
    memory with this one, and which an update would have to change as well.
    """

    shape: tuple[int, ...]
    size: int
    dtype: Any
    device: Any

    __slots__ = ("__weakref__", "position", "sharers", "tape", "value")
    __hash__ = object.__hash__

    def __init__(self, tape: Tape, value: Array, position: int | None) -> None:
        self.tape = tape
        self.value = value
        self.position = position
        self.sharers: list[Callable[[], Any]] = []

    def again(self) -> Traced:
        """Return a new object with the present value, which later updates leave."""
        return Traced(self.tape, self.value, self.position)

    def share(self) -> None:
        """Mark the values as shared with a plain array, so that updates raise."""
        self.sharers.append(lambda: True)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def transpose(self, *axes: Any) -> Traced:
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return self.tape.xp.permute_dims(self, given or None)

    def reshape(self, *shape: Any) -> Traced:
        given = shape[0] if isinstance(shape[0], tuple | list) else shape
        return self.tape.xp.reshape(self, given)

    def astype(self, dtype: Any, copy: bool = True) -> Traced:
        return self.tape.xp.astype(self, dtype, copy=copy)

    def conj(self) -> Traced:
        return conj(self, self.tape.xp)

    conjugate = conj

    def __getitem__(self, key: Any) -> Traced:
        return self.tape.xp.take_part(self, key)

    def __copy__(self, memo: Any = None) -> Traced:
        return self.copy()

    __pos__ = __deepcopy__ = __copy__

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length, and no elements")
        return self.shape[0]

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(untraced(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        value = self._known("an array of NumPy", _LINEAR)
        self.share()
        return value.__array__(dtype)

    def __dask_tokenize__(self) -> Any:
        # Dask calls this for everything that it puts into a graph.
        return self._known("a part of a graph of Dask", _COMPOSE)

    def __format__(self, form: str) -> str:
        return format(untraced(self), form)

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return partial(self.tape.xp.named(name), self)
        raise AttributeError(f"a traced array has no {name!r}; {_COMPOSE}")

    def _known(self, name: str, instead: str = _STACK) -> Array:
        """Return the plain value of a constant; raise for anything else."""
        if is_moving(self):
            self.tape.check_open()
            raise _UntraceableError(
                f"a traced array cannot become {name}, which would lose its "
                f"derivative; {instead}"
            )
        return untraced(self)

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.tape.xp

    def __array_function__(self, function: Any, types: Any, args: Any, kw: Any) -> Any:
        return self.tape.xp.named(function.__name__, function.__module__)(*args, **kw)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(f"elements of a traced array cannot be set; {_STACK}")

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kw: Any) -> Any:
        if method != "__call__":
            name = f"numpy.{ufunc.__name__}.{method}"
            raise TypeError(f"no derivative of {name} is known here; {_COMPOSE}")
        if any(isinstance(x, Traced) for x in kw.get("out", ())):
            raise TypeError("out must not be a traced array; leave it out")
        if "out" in kw:  # as of `x += traced`
            self._known("an array of NumPy")
        return self.tape.xp.named(ufunc.__name__)(*args, **kw)


def _method(name: str, reflected: bool = False) -> Callable[..., Any]:
    """Make a method of traced arrays that is a function of the namespace."""

    def call(self: Traced, *args: Any, **options: Any) -> Any:
        args = (*args, self) if reflected else (self, *args)
        return getattr(self.tape.xp, name)(*args, **options)

    return call


def _in_place(method: str, name: str, sign: str) -> Callable[[Traced, Any], Any]:
    """Make the method of traced arrays that updates them, such as ``x += y``."""

    def update(self: Traced, other: Any) -> Any:
        if not hasattr(untraced(self), method):
            return NotImplemented  # NumPy's numbers are replaced, as Python's are
        tape, xp = self.tape, self.tape.xp
        y = getattr(xp, name)(self, other)
        others = [x() for x in self.sharers]
        if y.tape is not tape or any(x is not None and x is not self for x in others):
            raise TypeError(
                f"x {sign}= y would change other arrays too: the traced array x is an "
                "argument, or shares memory with an array that is in use; write "
                f"x = x {sign} y, or update a copy"
            )
        if y.shape != self.shape:
            raise ValueError(
                f"x {sign}= y must keep the shape {self.shape} of x, got {y.shape}"
            )
        if is_complex(y, xp) and not is_complex(self, xp):
            raise TypeError(f"x {sign}= y must keep x real, got {y.dtype}")
        y = cast(y, self, xp)
        if not y.shape:  # NumPy makes it a number, which x was not
            y = xp.broadcast_to(y, ())
        self.value, self.position = y.value, y.position
        return self

    return update


def _number(kind: type) -> Callable[[Traced], Any]:
    """Make the method that turns a traced array into a number of Python."""
    return lambda self: kind(self._known("a Python number"))


for _kind in (float, int, complex):
    setattr(Traced, f"__{_kind.__name__}__", _number(_kind))
for _name in ("shape", "size", "dtype", "device"):
    setattr(Traced, _name, property(attrgetter(f"value.{_name}")))
for _symbol, _name, _sign in (
    ("add", "add", "+"), ("sub", "subtract", "-"), ("mul", "multiply", "*"),
    ("truediv", "divide", "/"), ("pow", "pow", "**"), ("matmul", "matmul", "@"),
):  # fmt: skip
    _update = f"__i{_symbol}__"
    setattr(Traced, f"__{_symbol}__", _method(_name))
    setattr(Traced, f"__r{_symbol}__", _method(_name, reflected=True))
    setattr(Traced, _update, _in_place(_update, _name, _sign))
for _symbol, _name in {
    "__lt__": "less", "__le__": "less_equal", "__gt__": "greater",
    "__ge__": "greater_equal", "__eq__": "equal", "__ne__": "not_equal",
    "__neg__": "negative", "__abs__": "abs", "sum": "sum", "max": "max",
    "min": "min", "mean": "mean",
}.items():  # fmt: skip
    setattr(Traced, _symbol, _method(_name))
for _symbol, _name in {
    "mT": "matrix_transpose", "T": "permute_dims", "real": "real", "imag": "imag",
}.items():  # fmt: skip
    setattr(Traced, _symbol, property(_method(_name)))


# Attributes of masked arrays, `numpy.matrix` and sparse arrays; what to use instead.
_ODD = {
    "filled": "the array and its mask, apart",
    "A1": "an array of NumPy, by np.asarray",
    "tocsr": "a function made by `linear` from the products with it and its adjoint",
}


def check_plain(x: Any, name: str) -> None:
    """Raise TypeError for arrays with operators of their own, masked or sparse."""
    if isinstance(x, Traced):
        return
    for attribute, instead in _ODD.items():
        if hasattr(x, attribute):
            raise TypeError(
                f"{name} must not be {type(x).__module__}.{type(x).__name__}; take "
                f"{instead}"
            )


def innermost(arrays: Iterable[Any]) -> Tape | None:
    """Return the innermost tape that any of the arrays, nested or not, is on."""
    found = None
    for x in arrays:
        tape = None
        if isinstance(x, Traced):
            tape = x.tape
        elif isinstance(x, tuple | list):
            tape = innermost(x)
        if tape is not None and (found is None or tape.level > found.level):
            found = tape
    return found


def is_moving(x: Any) -> bool:
    """Whether `x`, or an array in it, is on some tape and not constant there."""
    if isinstance(x, tuple | list):
        return any(map(is_moving, x))
    while isinstance(x, Traced):
        if x.position is not None:
            return True
        x = x.value
    return False


def _equal(x: Array, y: Array) -> bool:
    """Whether all elements are equal, or NaN in both."""
    same = x == y
    return bool(same.all()) or bool((same | ((x != x) & (y != y))).all())


def _may_change(x: Any) -> bool:
    """Whether the values of an array, or of what it is a view of, may be changed."""
    flags = getattr(x, "flags", None)
    if flags is None:
        return hasattr(x, "__setitem__")
    # Some have no such flag, as they are never read-only.
    return getattr(flags, "writeable", True) or (
        hasattr(x.base, "flags") and _may_change(x.base)
    )


def untraced(x: Any) -> Any:
    """Return the plain value of an array, below all tapes."""
    while isinstance(x, Traced):
        x = x.value
    return x


def sum_to(g: Array, shape: tuple[int, ...], xp: Namespace) -> Array:
    """Sum over the axes that an array of that shape was broadcast along."""
    added = len(g.shape) - len(shape)
    axes = tuple(
        axis
        for axis, (one, size) in enumerate(
            zip((1,) * added + tuple(shape), g.shape, strict=True)
        )
        if axis < added or one == 1 != size
    )
    total = xp.sum(g, axis=axes, keepdims=True) if axes else g
    return xp.reshape(total, tuple(total.shape)[added:]) if added else total


def checked_like(g: Any, like: Array, name: str, xp: Namespace) -> Array:
    """Check a tangent or cotangent of an array; None stays None."""
    if g is None:
        return None
    check_plain(g, name)
    g = g if type(g) is type(like) else xp.asarray(g)
    if g.shape != like.shape:
        raise ValueError(
            f"{name} must have shape {tuple(like.shape)}, got {tuple(g.shape)}"
        )
    if g.dtype == like.dtype:
        return g
    if is_complex(g, xp) and not is_complex(like, xp):
        raise TypeError(f"{name} must be real, got {g.dtype}")
    return xp.astype(g, like.dtype)


def _mapped(f: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to the leaves of (named) tuples, lists and dicts."""
    if isinstance(tree, dict):
        return {key: _mapped(f, branch) for key, branch in tree.items()}
    if not isinstance(tree, tuple | list):
        return f(tree)
    kind, branches = type(tree), [_mapped(f, branch) for branch in tree]
    return kind(*branches) if hasattr(kind, "_fields") else kind(branches)


def _given(
    given: Any, tree: Any, name: str, xp: Namespace
) -> Iterator[tuple[Any, Array]]:
    """Leaves of a tree with their tangents or cotangents, checked; None is zero."""
    if given is None or tree is None:
        return
    if isinstance(tree, dict):
        if not isinstance(given, dict) or not given.keys() <= tree.keys():
            raise ValueError(
                f"{name} must be a dict with keys among {list(tree)}, got {given!r}"
            )
        given = [given.get(key) for key in tree]
        names, tree = [f"[{key!r}]" for key in tree], list(tree.values())
    elif isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None)
        names = (
            [f".{x}" for x in fields]
            if fields
            else [f"[{i}]" for i in range(len(tree))]
        )
    else:
        yield tree, checked_like(given, tree, name, xp)
        return
    if not isinstance(given, tuple | list) or len(given) != len(tree):
        raise ValueError(f"{name} must have {len(tree)} parts, got {given!r}")
    for part, branch, label in zip(given, tree, names, strict=True):
        yield from _given(part, branch, name + label, xp)


def _run(f: Callable[..., Any], args: Any, xp: Namespace) -> tuple[Tape, Any, Any, Any]:
    """Evaluate `f` on a tape; return tape, traced inputs and outputs, and values."""
    tape, numbers = Tape(xp), itertools.count()

    def variable(x: Any) -> Traced:
        number = next(numbers)
        check_plain(x, f"argument {number} of the function")
        # A copy, so that the caller may change the array before the pullback.
        given, x = x, _apart(x, xp)
        if not xp.isdtype(x.dtype, ("real floating", "complex floating")):
            raise TypeError(
                f"argument {number} must be floating point or complex, got {x.dtype}"
            )
        if not hasattr(given, "__iadd__"):
            x = x[()]  # a number, which no update in place changes
        found = tape.variable(x)
        found.share()
        return found

    def output(y: Any) -> Any:
        if isinstance(y, Traced):
            return y.again()
        return xp.asarray(y) if isinstance(y, bool | int | float | complex) else y

    def value(y: Any) -> Any:
        x = tape.value(y)
        return x if x is y and not isinstance(x, Traced) else _apart(x, xp)

    inputs = _mapped(variable, tuple(args))
    try:
        outputs = _mapped(output, f(*_mapped(lambda x: x, inputs)))
        values = _mapped(value, outputs)
    except ValueError as error:  # which NumPy may raise from our TypeError
        if isinstance(error.__cause__, _UntraceableError):
            raise TypeError(str(error.__cause__)) from error
        raise
    finally:
        tape.ended = True
    return tape, inputs, outputs, values


def _apart(x: Any, xp: Namespace) -> Any:
    """Return a copy that later changes of the given array do not affect."""
    return x.again() if isinstance(x, Traced) else xp.asarray(x, copy=True)


def vjp(xp: Namespace, f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Evaluate `f`, and make the function that pulls cotangents back.

    See the function of that name in the modules of the frameworks.
    """
    tape, inputs, outputs, values = _run(f, args, xp)

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        found: dict[int | None, Array] = {}
        known: list[Array] = []
        for y, g in _given(cotangents, outputs, "cotangent", xp):
            known.append(g)
            if (i := tape.position(y)) is not None:
                tape.collect(found, i, g)
        tape.pull(found)

        def gradient(x: Traced) -> Any:
            g = found.get(x.position)
            return xp.zeros_like(x.value) if g is None else _owned(g, known, xp)

        return _mapped(gradient, inputs)

    return values, pullback


def jvp(
    xp: Namespace, f: Callable[..., Any], primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Evaluate `f` and its derivative along `tangents`.

    See the function of that name in the modules of the frameworks.
    """
    for name, x in (("primals", primals), ("tangents", tangents)):
        if not isinstance(x, tuple | list):
            raise TypeError(
                f"{name} must be a tuple with one part for each argument of f, got "
                f"{type(x).__name__}"
            )
    tape, inputs, outputs, values = _run(f, primals, xp)
    moved: dict[int | None, Array] = {
        x.position: d for x, d in _given(tuple(tangents), inputs, "tangents", xp)
    }
    known = list(moved.values())
    tape.push(moved)

    def tangent(y: Any) -> Any:
        found = moved.get(tape.position(y))
        if found is None and y is not None:
            return xp.zeros_like(tape.value(y))
        return found if found is None else _owned(found, known, xp)

    return values, _mapped(tangent, outputs)


def _owned(x: Any, known: list[Any], xp: Namespace) -> Any:
    """Return `x`, or a copy if it is read-only or may share memory with `known`.

    What is returned is added to `known`. Without ``may_share_memory`` only the same
    array counts, as in Dask, whose arrays cannot be changed.
    """
    if isinstance(x, Traced):
        x = x.again()
    else:
        shares = xp.may_share or is_
        writeable = getattr(getattr(x, "flags", None), "writeable", True)
        if not writeable or any(
            shares(x, y) for y in known if not isinstance(y, Traced)
        ):
            x = xp.asarray(x, copy=True)
    known.append(x)
    return x
