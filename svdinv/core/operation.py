"""Operations that own their derivatives.

An operation is a frozen value with three rules, and the rules call other operations.
What a framework has to supply is one function, `call`, that makes a call of any
operation differentiable in its own way: so n operations and m frameworks cost n + m
pieces. `svdinv.core.svd_operations`, `svdinv.core.spectral_operations` and
`svdinv.core.hermitian_operations` hold the operations, `svdinv.backends` the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeAlias

from svdinv.core.namespace import Namespace

Arrays: TypeAlias = Sequence[Any]
"""Arrays, with None for what is zero or absent."""

Call: TypeAlias = Callable[..., tuple[Any, ...]]
"""``call(operation, *x)``, differentiable, returns the tuple of outputs."""


class Operation:
    """A function of arrays, its tangent and its cotangent; frozen and hashable.

    Every array has the same leading batch axes. Arguments that are None are absent.

    Attributes
    ----------
    saves_inputs, saves_outputs : bool
        What `tangent` and `cotangent` read of x and of y; the other is None there,
        where keeping it would cost memory.
    transparent : bool
        If true, frameworks differentiate through `composed`, which is made of array
        functions and calls, and do not call `tangent`. `cotangent` may be there all the
        same, for arguments that the operation is linear in.
    host : bool
        Whether `value` reads elements of arrays on the host, where they have values.
    """

    saves_inputs: ClassVar[bool] = True
    saves_outputs: ClassVar[bool] = False
    transparent: ClassVar[bool] = False
    host: ClassVar[bool] = False

    def value(self, x: Arrays, xp: Namespace) -> tuple[Any, ...]:
        """Compute the outputs, whatever `x` depends on; by default as `composed`."""
        if type(self).composed is Operation.composed:
            raise NotImplementedError
        return self.composed(x, direct(xp), xp)

    def tangent(
        self, x: Arrays, y: Arrays, dx: Arrays, call: Call, xp: Namespace
    ) -> tuple[Any, ...]:
        """Compute the tangents of the outputs; None in `dx` is zero."""
        raise NotImplementedError

    def cotangent(
        self,
        x: Arrays,
        y: Arrays,
        g: Arrays,
        wanted: Sequence[bool],
        call: Call,
        xp: Namespace,
    ) -> tuple[Any, ...]:
        """Compute the cotangents of the first arguments, as dL = Re tr(g^H dx).

        None in `g` is zero. Of those not `wanted`, any may be None, and so may `x` be
        there if the operation is linear in it.
        """
        raise NotImplementedError

    def composed(self, x: Arrays, call: Call, xp: Namespace) -> tuple[Any, ...]:
        """Compute the outputs in a way that can be differentiated, if `transparent`."""
        return self.value(x, xp)

    def anonymous(self) -> Operation:
        """Return the operation without what its value does not depend on."""
        return self


def direct(xp: Namespace) -> Call:
    """Make the call that computes values alone."""
    return lambda operation, *x: operation.value(x, xp)


def add(*terms: Any) -> Any:
    """Sum of what is not None, or None."""
    given = [term for term in terms if term is not None]
    return sum(given[1:], given[0]) if given else None


def rebuilt(outputs: Any, arrays: Iterable[Any]) -> Any:
    """Put arrays in the place of outputs, in a named tuple if these are one."""
    kind = type(outputs)
    return kind(*arrays) if hasattr(kind, "_fields") else tuple(arrays)


def some(*x: Any) -> bool:
    """Whether anything is not None."""
    return any(term is not None for term in x)


def when(given: bool, call: Call, operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Call an operation of up to two outputs if `given`; otherwise (None, None)."""
    return call(operation, *x) if given else (None, None)


def when_second(
    given: bool, call: Call, operation: Operation, points: Arrays, *x: Any
) -> tuple[Any, ...]:
    """Call a second derivative, which refuses a third at `points`, as `when` does."""
    return call(operation, *call(RefuseThird(), *points), *x) if given else (None, None)


def present(arrays: Iterable[Any]) -> tuple[bool, ...]:
    """Which arrays are there, not None."""
    return tuple(x is not None for x in arrays)


def filled(arrays: Iterable[Any], there: Iterable[bool]) -> tuple[Any, ...]:
    """Put None where nothing is there, for functions that take arrays alone."""
    rest = iter(arrays)
    return tuple(next(rest) if is_there else None for is_there in there)


def in_front(arrays: Arrays, axes: Sequence[int | None], xp: Namespace) -> list[Any]:
    """Move the axes that a framework maps over to the front; add one where none is.

    Operations accept arrays with the mapped axis in front.
    """
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    return [
        x
        if x is None
        else xp.broadcast_to(x, (size, *x.shape))
        if axis is None
        else xp.moveaxis(x, axis, 0)
        for x, axis in pairs
    ]


def padded(arrays: Arrays, count: int) -> tuple[Any, ...]:
    """Return `count` arrays, the last of them None if there are too few."""
    return (*arrays, *(None,) * (count - len(arrays)))[:count]


@dataclass(frozen=True)
class RefuseThird(Operation):
    """Arrays -> the same arrays; differentiating through it raises.

    A second derivative cannot raise in its own rules: some frameworks ask for the
    cotangents of all arguments and drop most of them. So it returns zeros, and these
    reach this operation only if they are needed.
    """

    def value(self, x: Arrays, xp: Namespace) -> tuple[Any, ...]:
        """See `Operation`."""
        return tuple(None if t is None else t + 0 for t in x)

    def tangent(self, *_: Any, **__: Any) -> NoReturn:
        """Raise NotImplementedError."""
        refuse_third()

    cotangent = tangent


def refuse_third() -> NoReturn:
    """Raise NotImplementedError."""
    raise NotImplementedError("svdinv's operators have two derivatives, not three")


def zeros_where(
    wanted: Sequence[bool], arrays: Arrays, xp: Namespace
) -> tuple[Any, ...]:
    """Return zeros like those arrays that are wanted, and None for the others."""
    pairs = zip(arrays, wanted, strict=False)
    return tuple(xp.zeros_like(x) if want else None for x, want in pairs)
