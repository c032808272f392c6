"""Calls of the kernels by the addresses of arrays that have values now."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, Protocol

from svdinv import kernels
from svdinv.core.alignment_operations import FindMotion
from svdinv.core.factors import Selection, cheapest, of_tall
from svdinv.core.hermitian_operations import Eigh
from svdinv.core.namespace import Namespace
from svdinv.core.operation import Operation
from svdinv.core.spectral_operations import Apply, Factorise, Map, RelativeMap
from svdinv.core.svd_operations import SVD, SingularValues
from svdinv.kernels.rules import (
    COMPOSED,
    DECOMPOSITIONS,
    RULES,
    ArraySpec,
    Clusters,
    Decompose,
    Operand,
    Plan,
    Tall,
    has_no_user_function,
    plan,
)


class Memory(Hashable, Protocol):
    """Access to the memory of a framework's arrays.

    Attributes
    ----------
    in_double : bool
        Whether the framework's decompositions compute single precision in double.
    """

    in_double: bool

    def own(self, operation: Operation) -> Callable[..., Any] | None:
        """Return the framework's own function for an operation, or None.

        It is called like `_Prepared`.
        """

    def key(self, x: Any) -> Hashable:
        """Dtype, shape and strides of each array; arrays may be None.

        Returns None unless all of them are on the CPU and have values now.
        """

    def dtype(self, x: Any) -> str:
        """Name of the dtype, "" for one of another byte order."""

    def resolved(self, x: Any) -> Any:
        """`x` itself, or a copy if it is a lazy conjugate of what is in memory."""

    def contiguous(self, x: Any) -> Any:
        """`x`, resolved, or a copy in the order of C."""

    def strides(self, x: Any) -> tuple[int, ...] | None:
        """Strides in units of one real number; None if they are not whole."""

    def address(self, x: Any) -> int:
        """Address of the first element."""

    def empty(
        self, shape: tuple[int, ...], dtype: str, transposed: bool
    ) -> Callable[[], Any]:
        """Return a function that makes uninitialised arrays, or transposed ones."""

    def threads(self) -> int:
        """Return the number of threads to use at most."""


class _Prepared:
    """A call for arguments of certain dtypes, shapes and strides."""

    def __init__(self, plan: Plan, x: Any, memory: Memory) -> None:
        strides: list[tuple[int, int, int]] = [(0, 0, 0)] * 12
        self._operands: list[tuple[int, int, Any]] = []
        for operand in plan.operands:
            made: Any = memory.contiguous
            if operand.source < len(x):
                given = x[operand.source]
                steps, copied = _strides(given, operand, memory)
                if not copied:
                    resolved = memory.resolved(given) is given
                    made = None if resolved else memory.resolved
            else:
                steps = _contiguous(plan, operand)
            strides[operand.slot] = steps
            self._operands.append((operand.slot, operand.source, made))
        self._results: list[tuple[int, Callable[[], Any]] | None] = []
        for result in plan.results:
            if result is None:
                self._results.append(None)
                continue
            shape, dtype = plan.shape(result), plan.result_dtype(result)
            written = shape[len(plan.batch) :]
            written = written[::-1] if result.transposed else written
            strides[result.slot] = _steps(written, dtype)
            new = memory.empty(shape, dtype, result.transposed)
            self._results.append((result.slot, new))
        batch, dtype = prod(plan.batch), plan.computed_in
        shape = batch, plan.m, plan.n
        self._call = kernels.packed(plan.kind, dtype, shape, plan.numbers, strides)
        self._further, self._outputs = plan.further, plan.outputs

    def __call__(self, x: Any, memory: Memory, xp: Namespace) -> Any:
        """Run the kernel; None if a matrix could not be decomposed."""
        if self._further is not None:
            x = (*x, self._further(x, xp))
        address, addresses = memory.address, [0] * 12
        kept: list[Any] = []
        y: list[Any] = []
        for slot, source, made in self._operands:
            t = x[source]
            if made is not None:
                t = made(t)
                kept.append(t)  # until the kernel has read it
            addresses[slot] = address(t)
        for result in self._results:
            if result is None:
                y.append(None)
                continue
            slot, new = result
            t = new()
            addresses[slot] = address(t)
            y.append(t)
        if kernels.run(self._call, addresses, memory.threads()):
            return None
        return self._outputs(y)


def _steps(shape: tuple[int, ...], dtype: str) -> tuple[int, int, int]:
    """Strides of a matrix, a row and a column of contiguous arrays."""
    parts = 2 if dtype[0] == "c" else 1
    if not shape:
        return parts, 0, parts
    row = shape[-1] * parts
    return (row, 0, parts) if len(shape) == 1 else (shape[-2] * row, row, parts)


def _contiguous(plan: Plan, operand: Operand) -> tuple[int, int, int]:
    """Strides of the argument made by `further`: values, or square matrices."""
    if operand.axes == 1:
        return _steps((plan.length("k"),), "float")
    return _steps((plan.n, plan.n), "float" if operand.real else plan.dtype)


def _strides(
    x: Any, operand: Operand, memory: Memory
) -> tuple[tuple[int, int, int], bool]:
    """Strides of a matrix, a row and a column, and whether x must be copied first."""
    found = _uniform(x, operand, memory)
    core = tuple(x.shape)[len(x.shape) - operand.axes :]
    matrix, row, column = found or _steps(core, memory.dtype(x))
    if operand.transposed:
        row, column = column, row
    return (matrix, row, column), found is None


def _uniform(x: Any, operand: Operand, memory: Memory) -> tuple[int, int, int] | None:
    """Strides of x as it is, None if its batch has no single stride."""
    shape, steps = tuple(x.shape), memory.strides(memory.resolved(x))
    if steps is None:
        return None
    lead = len(shape) - operand.axes
    # The stride of an axis of length 1 does not matter.
    axes = [(n, step) for n, step in zip(shape[:lead], steps, strict=False) if n > 1]
    if any(outer != n * inner for (_, outer), (n, inner) in pairwise(axes)):
        return None
    matrix = axes[-1][1] if axes else 0
    row = steps[-2] if operand.axes > 1 else 0
    column = steps[-1] if operand.axes else 0
    if operand.axes < 3:
        return matrix, row, column
    return None if steps[lead] != shape[-2] * row else (steps[lead], row, column)


def _arrays(x: Any, memory: Memory) -> list[Any]:
    """Shapes and dtypes of arrays, which may be None."""
    return [
        None if t is None else ArraySpec(tuple(t.shape), memory.dtype(t)) for t in x
    ]


class _Factorised:
    """Factors, or a map, of matrices whose SVD no kernel computes.

    For tall or wide ones in single precision there are three kernels, with a decision
    in between.
    """

    def __init__(self, operation: Any, A: ArraySpec, svd: Any) -> None:
        self._operation, self._svd = operation, svd
        tall = plan(Tall("gram"), (A,))
        self._steps: dict[str, _Prepared] | None = {} if tall else None
        self._maps: dict[Any, Callable[..., Any]] = {}

    def __call__(self, x: Any, memory: Memory, xp: Namespace) -> Any:
        A, tau = x
        f = self._operation
        selection = Selection(f.function, tau, f.relative)
        factors = None if self._steps is None else self._tall(A, selection, memory, xp)
        if factors is None:
            tried = self._steps is not None
            factors = cheapest(A, selection, xp, lambda A: self._svd((A,)), tried)
        if not isinstance(f, Apply):
            return factors
        key = type(factors), memory.key(factors)
        if key not in self._maps:
            self._maps[key] = self._map(type(factors), (A, tau, *factors), memory)
        return self._maps[key]((A, tau, *factors), memory, xp)

    def _map(self, kind: type, x: Any, memory: Memory) -> Callable[..., Any]:
        """Prepare the map of factors of a kind, laid out in memory as those in `x`."""
        f = self._operation
        mapped = (RelativeMap if f.relative else Map)(f.function, kind)
        found = plan(mapped, _arrays(x, memory))
        if found is not None:
            return _Prepared(found, x, memory)
        return partial(_by_arrays, mapped)

    def _tall(self, A: Any, selection: Selection, memory: Memory, xp: Namespace) -> Any:
        S, V, W = self._step("eigen", (A, *self._step("gram", (A,), memory)), memory)

        def vectors() -> Any:
            return self._step("product", (A, W), memory)[0]

        return of_tall(A, S, V, vectors, selection, xp)

    def _step(self, name: str, x: Any, memory: Memory) -> Any:
        steps: Any = self._steps
        if name not in steps:
            found: Any = plan(Tall(name), _arrays(x, memory))
            steps[name] = _Prepared(found, x, memory)
        return steps[name](x, memory, None)


def _by_arrays(operation: Operation, x: Any, memory: Memory, xp: Namespace) -> Any:
    return operation.value(x, xp)


_MOST_PREPARED = 512
_RULES = {**RULES, **DECOMPOSITIONS, **COMPOSED}
_ITSELF = SVD, Eigh, Decompose  # which frameworks have functions for
_prepared: dict[Any, Callable[..., Any] | None] = {}


def by_kernel(operation: Operation, x: Any, memory: Memory, xp: Namespace) -> Any:
    """Compute an operation by a kernel; None where there is none for it.

    The kernel and its call are prepared once for arguments of certain dtypes, shapes
    and strides.
    """
    if type(operation) not in _RULES or not kernels.is_loaded():
        return None
    arguments = memory.key(x)
    if arguments is None:
        return None
    key = memory, operation, arguments
    try:
        prepared = _prepared[key]
    except (KeyError, TypeError):  # a user's function may have no hash
        prepared = _prepare(operation, x, memory)
        if has_no_user_function(operation):
            if len(_prepared) >= _MOST_PREPARED:
                _prepared.clear()
            _prepared[key] = prepared
    return prepared and prepared(x, memory, xp)


def _prepare(operation: Operation, x: Any, memory: Memory) -> Callable[..., Any] | None:
    """Choose and prepare the kernel, or another way of the framework's memory."""
    arrays = _arrays(x, memory)
    found = _RULES[type(operation)](operation, arrays)
    # NumPy's own decompositions compute in double precision, and a second
    # derivative needs the same signs of singular vectors as they return.
    single = memory.in_double and found and found.dtype in kernels.DOUBLE
    if single and isinstance(operation, (Apply, FindMotion, *DECOMPOSITIONS)):
        found = None
    if found and isinstance(operation, _ITSELF) and prod(found.batch) == 1:
        found = found if kernels.outruns_lapack(found.m, found.n) else None
    if found:
        return _Prepared(found, x, memory)
    # Where no kernel computes a map in one call, one may compute the factors.
    automatic = isinstance(operation, Factorise) and operation.method == "auto"
    automatic = automatic and not _RULES[Factorise](operation, arrays)
    usual = has_no_user_function(operation) and not memory.in_double
    if automatic and usual and 0 not in arrays[0].shape:
        return _Factorised(operation, arrays[0], memory.own(SVD()))
    if isinstance(operation, SingularValues):
        return partial(_by_arrays, operation)
    return memory.own(operation)


def value(operation: Operation, x: Any, memory: Memory | None, xp: Namespace) -> Any:
    """Compute an operation by a kernel, or else by its own array functions."""
    y = None if memory is None else by_kernel(operation, x, memory, xp)
    return operation.value(x, xp) if y is None else y


def decomposes(A: Any, memory: Memory) -> bool:
    """Whether kernels decompose A now, and faster than the framework does."""
    if len(A.shape) < 2 or memory.key((A,)) is None:
        return False
    *batch, m, n = A.shape
    if not kernels.supports("svd", memory.dtype(A), prod(batch), m, n):
        return False
    return prod(batch) > 1 or kernels.outruns_lapack(m, n)


def decomposition(kind: str, A: Any, memory: Memory) -> Any:
    """Thin SVD, or eigendecomposition from lower triangles, as `Decompose`.

    None if kernels do not support A, or fail for one of its matrices.
    """
    return by_kernel(Decompose(kind), (A,), memory, None)


def clusters(memory: Memory, xp: Namespace, *x: Any) -> Any:
    """Overwrite a block within clusters, by a kernel; the last two are numbers."""
    *arrays, near, epsilon = x
    try:
        found = by_kernel(Clusters(near, epsilon), arrays, memory, xp)
    except MemoryError:  # of workspace, which the array functions do not need
        return None
    return found and found[0]
