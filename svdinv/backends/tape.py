"""A tape: derivatives of what NumPy, CuPy or any other namespace computes.

`vjp` and `jvp` call a function with `Traced` arrays. Every array function of
`svdinv.backends.taped_functions`, and every call of an operation, then leaves a step
on the tape: how tangents go through it, and how cotangents come back. The values of
one tape may be the traced arrays of another, so that derivatives can be
differentiated again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from svdinv.core.namespace import Array, Namespace, is_complex, real

__all__ = ["Tape", "Traced", "innermost", "is_moving", "jvp", "untraced", "vjp"]

Tangents = Sequence[Any]

# Of tapes within tapes the later one is the inner one, whatever a function closes over.
_levels = itertools.count()
Push = Callable[[Tangents], Tangents]
Pull = Callable[[Tangents], Tangents]


class _Step(NamedTuple):
    """One function: where its inputs and outputs stand on the tape, and its rules.

    `push` takes the inputs' tangents to the outputs', `pull` the outputs' cotangents
    to the inputs'; None is zero.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    push: Push
    pull: Pull


class Tape:
    """The steps of one evaluation.

    Attributes
    ----------
    xp : namespace
        Array functions that know traced arrays.
    level : int
        Of tapes within tapes, the innermost has the highest.
    values : list of array
        All arrays on the tape.
    """

    def __init__(self, xp: Namespace, level: int) -> None:
        self.xp = xp
        self.level = level
        self.values: list[Array] = []
        self._steps: list[_Step] = []

    def variable(self, value: Array) -> Traced:
        """Put an array on the tape."""
        self.values.append(value)
        return Traced(self, value, len(self.values) - 1)

    def constant(self, value: Array) -> Traced:
        """Give an array that does not move with those on the tape.

        Not every namespace leaves its operators to the other array.
        """
        return Traced(self, value, None)

    def record(
        self, inputs: Sequence[Any], outputs: Sequence[Any], push: Push, pull: Pull
    ) -> tuple[Any, ...]:
        """Leave a step, and give its outputs as traced arrays; None stays None."""
        if all(self._position(x) is None for x in inputs):
            return tuple(None if y is None else self.constant(y) for y in outputs)
        traced = tuple(None if y is None else self.variable(y) for y in outputs)
        self._steps.append(
            _Step(
                tuple(map(self._position, inputs)),
                tuple(map(self._position, traced)),
                push,
                pull,
            )
        )
        return traced

    def _position(self, x: Any) -> int | None:
        return x.position if isinstance(x, Traced) and x.tape is self else None

    def push(self, tangents: dict[int, Array]) -> dict[int, Array]:
        """Carry tangents of arrays forward to all that depends on them."""
        moved = dict(tangents)
        for step in self._steps:
            dx = tuple(None if i is None else moved.get(i) for i in step.inputs)
            if any(d is not None for d in dx):
                for i, dy in zip(step.outputs, step.push(dx), strict=True):
                    if i is not None and dy is not None:
                        moved[i] = self._like(dy, self.values[i])
        return moved

    def pull(self, cotangents: dict[int, Array]) -> dict[int, Array]:
        """Carry cotangents of arrays back to all that they depend on."""
        found = dict(cotangents)
        for step in reversed(self._steps):
            g = tuple(None if i is None else found.get(i) for i in step.outputs)
            if any(x is not None for x in g):
                for i, gx in zip(step.inputs, step.pull(g), strict=False):
                    if i is not None and gx is not None:
                        gx = self._like(gx, self.values[i])
                        found[i] = self.xp.add(found[i], gx) if i in found else gx
        return found

    def _like(self, g: Array, value: Array) -> Array:
        """`g` in the shape and dtype of what it belongs to."""
        xp = self.xp
        if is_complex(g, xp) and not is_complex(value, xp):
            g = real(g, xp)
        added = len(g.shape) - len(value.shape)
        if added > 0:
            g = xp.sum(g, axis=tuple(range(added)))
        repeated = tuple(
            axis
            for axis, (size, one) in enumerate(zip(g.shape, value.shape, strict=True))
            if one == 1 != size
        )
        if repeated:
            g = xp.sum(g, axis=repeated, keepdims=True)
        g = xp.broadcast_to(g, value.shape) if g.shape != value.shape else g
        return g if g.dtype == value.dtype else xp.astype(g, value.dtype)


class Traced:
    """An array on a tape, which operators and array functions leave steps for.

    Attributes
    ----------
    tape : Tape
        Where.
    value : array
        What it stands for: an array, or a traced array of an outer tape.
    position : int or None
        Its place on the tape; None for a constant.
    """

    __slots__ = ("position", "tape", "value")
    __hash__ = object.__hash__

    def __init__(self, tape: Tape, value: Array, position: int | None) -> None:
        self.tape = tape
        self.value = value
        self.position = position

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def device(self) -> Any:
        return self.value.device

    @property
    def mT(self) -> Traced:
        return self.tape.xp.matrix_transpose(self)

    @property
    def T(self) -> Traced:
        return self.tape.xp.permute_dims(self, tuple(range(self.ndim))[::-1])

    @property
    def real(self) -> Traced:
        """Real part, as in NumPy."""
        return real(self, self.tape.xp)

    @property
    def imag(self) -> Traced:
        """Imaginary part, as in NumPy."""
        return self.tape.xp.imag(self)

    def conj(self) -> Traced:
        """Complex conjugate, as in NumPy."""
        return self.tape.xp.conj(self)

    def sum(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Sum, as in NumPy."""
        return self.tape.xp.sum(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Maximum, as in NumPy."""
        return self.tape.xp.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Minimum, as in NumPy."""
        return self.tape.xp.min(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Mean, as in NumPy."""
        return self.tape.xp.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Traced:
        """Reshape, as in NumPy."""
        given = shape[0] if isinstance(shape[0], tuple | list) else shape
        return self.tape.xp.reshape(self, given)

    def astype(self, dtype: Any, copy: bool = True) -> Traced:
        """Cast, as in NumPy."""
        return self.tape.xp.astype(self, dtype)

    def __getitem__(self, key: Any) -> Traced:
        return self.tape.xp.take_part(self, key)

    def __neg__(self) -> Traced:
        return self.tape.xp.negative(self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return self.tape.xp.abs(self)

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(untraced(self))

    def __float__(self) -> float:
        return float(self._known("a Python number"))

    def __int__(self) -> int:
        return int(self._known("a Python number"))

    def __complex__(self) -> complex:
        return complex(self._known("a Python number"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._known("an array of NumPy").__array__(dtype)

    def _known(self, name: str) -> Array:
        """Give the value as what has no derivative."""
        if is_moving(self):
            raise TypeError(
                f"a traced array cannot become {name}, which would lose its "
                "derivative; put elements together with stack or concat"
            )
        return untraced(self)

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.tape.xp

    def __array_function__(self, function: Any, types: Any, args: Any, kw: Any) -> Any:
        return self.tape.xp.named(function.__name__, function.__module__)(*args, **kw)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kw: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return self.tape.xp.named(ufunc.__name__)(*args, **kw)


def _infix(name: str, reflected: bool) -> Callable[[Traced, Any], Any]:
    def operate(self: Traced, other: Any) -> Any:
        function = getattr(self.tape.xp, name)
        return function(other, self) if reflected else function(self, other)

    return operate


for _symbol, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide",
    "pow": "pow", "matmul": "matmul",
}.items():  # fmt: skip
    setattr(Traced, f"__{_symbol}__", _infix(_name, False))
    setattr(Traced, f"__r{_symbol}__", _infix(_name, True))
for _symbol, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    setattr(Traced, f"__{_symbol}__", _infix(_name, False))


def innermost(x: Any) -> Tape | None:
    """Give the innermost tape that any array in (nested) `x` is on."""
    if isinstance(x, Traced):
        return x.tape
    found = None
    if isinstance(x, tuple | list):
        for tape in map(innermost, x):
            if tape is not None and (found is None or tape.level > found.level):
                found = tape
    return found


def is_moving(x: Any) -> bool:
    """Tell whether `x`, or any array in it, is more than a constant on some tape."""
    if isinstance(x, tuple | list):
        return any(map(is_moving, x))
    while isinstance(x, Traced):
        if x.position is not None:
            return True
        x = x.value
    return False


def untraced(x: Any) -> Any:
    """Give the value of a traced array, on whatever tape it is."""
    while isinstance(x, Traced):
        x = x.value
    return x


def _flatten(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Leaves of (named) tuples, lists and dicts, and the way back; None is a leaf."""
    if isinstance(tree, dict):
        values, rebuild = _flatten(list(tree.values()))
        return values, lambda leaves: dict(zip(tree, rebuild(leaves), strict=True))
    if not isinstance(tree, tuple | list):
        return [tree], lambda leaves: leaves[0]
    parts = [_flatten(branch) for branch in tree]
    counts = [len(leaves) for leaves, _ in parts]

    def build(leaves: list[Any]) -> Any:
        rest = iter(leaves)
        branches = [
            make([next(rest) for _ in range(count)])
            for count, (_, make) in zip(counts, parts, strict=True)
        ]
        kind = type(tree)
        return kind(*branches) if hasattr(tree, "_fields") else kind(branches)

    return [leaf for leaves, _ in parts for leaf in leaves], build


def _matched(given: Any, tree: Any, name: str, xp: Namespace) -> list[Any]:
    """Check tangents or cotangents of a tree, as a list; None is zero."""
    if isinstance(tree, dict):
        keys = list(tree)
        given = None if given is None else [given.get(key) for key in keys]
        tree, names = list(tree.values()), [f"{name}[{key!r}]" for key in keys]
    elif isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None)
        names = [
            f"{name}.{fields[i]}" if fields else f"{name}[{i}]"
            for i in range(len(tree))
        ]
    else:
        return [
            None if given is None or tree is None else _checked(given, tree, name, xp)
        ]
    if given is None:
        given = [None] * len(tree)
    if not isinstance(given, tuple | list) or len(given) != len(tree):
        raise ValueError(f"{name} must have {len(tree)} parts, got {given!r}")
    return [
        leaf
        for parts in zip(given, tree, names, strict=True)
        for leaf in _matched(*parts, xp)
    ]


def _checked(g: Any, like: Array, name: str, xp: Namespace) -> Array:
    g = xp.asarray(g)
    if tuple(g.shape) != tuple(like.shape):
        raise ValueError(
            f"{name} must have shape {tuple(like.shape)}, got {tuple(g.shape)}"
        )
    if is_complex(g, xp) and not is_complex(like, xp):
        raise TypeError(f"{name} must be real, got {g.dtype}")
    return g if g.dtype == like.dtype else xp.astype(g, like.dtype)


class _Run(NamedTuple):
    """One evaluation of a function on a tape."""

    tape: Tape
    inputs: list[Traced]
    arguments: Callable[[list[Any]], Any]
    outputs: list[Any]
    results: Callable[[list[Any]], Any]

    def position(self, y: Any) -> int | None:
        """Give the place of an output on this tape, if it has one."""
        return y.position if isinstance(y, Traced) and y.tape is self.tape else None

    def values(self) -> list[Any]:
        """Give the outputs without this tape; copies, which the caller may change."""
        return [
            _copied(y.value, self.tape.xp)
            if isinstance(y, Traced) and y.tape is self.tape
            else y
            for y in self.outputs
        ]


def _copied(x: Array, xp: Namespace) -> Array:
    return x if isinstance(x, Traced) else xp.asarray(x, copy=True)


def _run(f: Callable[..., Any], args: tuple[Any, ...], xp: Namespace) -> _Run:
    leaves, arguments = _flatten(tuple(args))
    tape = Tape(xp, next(_levels))
    inputs = []
    for number, leaf in enumerate(leaves):
        # A copy, so that the caller may change the array before the pullback.
        x = leaf if isinstance(leaf, Traced) else xp.asarray(leaf, copy=True)
        if not xp.isdtype(x.dtype, ("real floating", "complex floating")):
            raise TypeError(
                f"argument {number} must be floating point or complex, got {x.dtype}"
            )
        inputs.append(tape.variable(x))
    outputs, results = _flatten(f(*arguments(list(inputs))))
    outputs = [
        xp.asarray(y) if isinstance(y, bool | int | float | complex) else y
        for y in outputs
    ]
    return _Run(tape, inputs, arguments, outputs, results)


def vjp(xp: Namespace, f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Evaluate `f`, and make the function that pulls cotangents back.

    See the function of that name in the modules of the frameworks.
    """
    run = _run(f, args, xp)
    values = run.values()

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        given = _matched(cotangents, run.results(values), "cotangent", xp)
        found: dict[int, Array] = {}
        for y, g in zip(run.outputs, given, strict=True):
            i = run.position(y)
            if g is not None and i is not None:
                found[i] = found[i] + g if i in found else g
        found = run.tape.pull(found)
        return run.arguments(
            [
                found[x.position] if x.position in found else xp.zeros_like(x.value)
                for x in run.inputs
            ]
        )

    return run.results(values), pullback


def jvp(
    xp: Namespace, f: Callable[..., Any], primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Evaluate `f` and its derivative along `tangents`.

    See the function of that name in the modules of the frameworks.
    """
    run = _run(f, tuple(primals), xp)
    points = run.arguments([x.value for x in run.inputs])
    given = _matched(tuple(tangents), points, "tangents", xp)
    moved = run.tape.push(
        {i: d for i, d in enumerate(given) if d is not None}  # the first on the tape
    )
    results = [
        moved[i]
        if (i := run.position(y)) is not None and i in moved
        else None
        if value is None
        else xp.zeros_like(xp.asarray(value))
        for y, value in zip(run.outputs, run.values(), strict=True)
    ]
    return run.results(run.values()), run.results(results)
