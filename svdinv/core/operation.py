"""Operations that own their derivatives.

An operation is a frozen value with three rules, and the rules call other operations.
A framework supplies one function, `call`, that makes a call of any operation
differentiable: n operations and m frameworks take n + m pieces of code.
`svdinv.core.svd_operations`, `svdinv.core.spectral_operations` and
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
        Whether `tangent` and `cotangent` read x, and whether they read y. What they do
        not read is passed as None, so that it need not be kept.
    transparent : bool
        If true, frameworks differentiate through `composed`, which consists of array
        functions and calls, and do not call `tangent`. There may still be a
        `cotangent`, for arguments in which the operation is linear.
    host : bool
        Whether `value` reads elements of arrays on the host, where they have values.
    """

    saves_inputs: ClassVar[bool] = True
    saves_outputs: ClassVar[bool] = False
    transparent: ClassVar[bool] = False
    host: ClassVar[bool] = False

    def value(self, x: Arrays, xp: Namespace) -> tuple[Any, ...]:
        """Compute the outputs without derivatives; by default by `composed`."""
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
        """Compute the cotangents of the first arguments, with dL = Re tr(g^H dx).

        None in `g` is zero. A cotangent that is not `wanted` may be None. So may its
        argument in `x`, if the operation is linear in that argument.
        """
        raise NotImplementedError

    def composed(self, x: Arrays, call: Call, xp: Namespace) -> tuple[Any, ...]:
        """Compute the outputs in a way that can be differentiated, if `transparent`."""
        return self.value(x, xp)

    def anonymous(self) -> Operation:
        """Return the operation without fields that its value does not depend on."""
        return self


def direct(xp: Namespace) -> Call:
    """Return the `Call` that computes values without derivatives."""
    return lambda operation, *x: operation.value(x, xp)


def add(*terms: Any) -> Any:
    """Sum of the terms that are not None; None if all are."""
    given = [term for term in terms if term is not None]
    return sum(given[1:], given[0]) if given else None


def rebuilt(outputs: Any, arrays: Iterable[Any]) -> Any:
    """Tuple of `arrays`, of the named tuple type of `outputs` if they are one."""
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
    """As `when`, for a second derivative at `points`, where a third one raises."""
    return call(operation, *call(RefuseThird(), *points), *x) if given else (None, None)


def present(arrays: Iterable[Any]) -> tuple[bool, ...]:
    """Which arrays are not None."""
    return tuple(x is not None for x in arrays)


def filled(arrays: Iterable[Any], there: Iterable[bool]) -> tuple[Any, ...]:
    """Undo the removal of None: the next array where `there` is true, else None."""
    rest = iter(arrays)
    return tuple(next(rest) if is_there else None for is_there in there)


def in_front(arrays: Arrays, axes: Sequence[int | None], xp: Namespace) -> list[Any]:
    """Move each mapped axis to the front; broadcast arrays without one along it.

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
        return tuple(None if t is None else t + 0 for t in x)

    def tangent(self, *_: Any, **__: Any) -> NoReturn:
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
