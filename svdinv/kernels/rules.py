"""Which operations the kernels compute: what is called, with which arrays.

A rule reads the shapes and dtypes of the arguments of an operation and returns a
`Plan`, or None where no kernel computes it, or not faster. How calls are made is not
decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from svdinv import kernels
from svdinv.core.alignment_operations import (
    AlignPull,
    FindMotion,
    FindSimilarity,
    Motion,
    SimilarityPull,
)
from svdinv.core.functions import (
    Polar,
    ProperRotation,
    Reciprocal,
    Tikhonov,
    TopSubgradient,
    Whitening,
)
from svdinv.core.hermitian import (
    HermitianFunction,
    InverseSquareRoot,
    Power,
    SquareRoot,
    differences,
)
from svdinv.core.hermitian_operations import (
    Eigh,
    FactoriseHermitian,
    GeneralizedPullback,
    HermitianDerivative,
    HermitianMap,
)
from svdinv.core.namespace import cast
from svdinv.core.operation import Operation
from svdinv.core.product_operations import Product
from svdinv.core.spectral import SVDFactors
from svdinv.core.spectral_operations import (
    Apply,
    Factorise,
    Map,
    Pull,
    Push,
    RelativeMap,
    RelativePull,
)
from svdinv.core.svd_operations import (
    SVD,
    Pullback,
    Recompose,
    RecomposePull,
    SingularValues,
)
from svdinv.core.thresholds import Hard, Rank, Soft
from svdinv.core.tolerances import DOUBLE_EPS, SINGLE_EPS, neighbour_rtol

_REALS = {"complex64": "float32", "complex128": "float64"}

# As in derivatives.c.
_CODES: dict[HermitianFunction, int] = {
    Power(): 1,
    SquareRoot(): 2,
    SquareRoot(cut=True): 3,
    InverseSquareRoot(): 4,
}
# As in functions.h.
_SOFT, _HARD, _RANK, _LARGEST = 1.0, 2.0, 3.0, 4.0
_RECIPROCAL, _TIKHONOV, _SAMPLED, _WHITENING = 5.0, 6.0, 7.0, 8.0
_RELATIVE, _GIVEN = 16.0, (0.0, 0.0)
_ONES = Polar()
_STEPS = Polar, ProperRotation  # whose values are given; no derived classes


class ArraySpec(NamedTuple):
    """Shape and dtype of an array; unknown lengths are None."""

    shape: tuple[Any, ...]
    dtype: str


class Operand(NamedTuple):
    """Argument number `source` of the operation, as array `slot` of the kernel.

    If `transposed`, it is the transpose. `real` marks a real matrix made by `further`.
    """

    slot: int
    source: int
    axes: int = 2
    transposed: bool = False
    double: bool = False
    real: bool = False


class Result(NamedTuple):
    """An output of the operation, written by the kernel as its array `slot`.

    `shape`, after the batch axes, consists of the letters m, n, k = min(m, n), b for
    the number of blocks of rows, and 1. If `transposed`, the kernel writes the
    transpose.
    """

    slot: int
    shape: str
    real: bool = False
    transposed: bool = False
    double: bool = False


class Plan(NamedTuple):
    """One call of a kernel."""

    kind: str
    dtype: str
    """The dtype of the matrices."""
    batch: tuple[Any, ...]
    m: Any
    n: Any
    operands: tuple[Operand, ...]
    results: tuple[Result | None, ...]
    """For each output of the operation; None for one that is zero or absent."""
    numbers: tuple[float, float] = (0.0, 0.0)
    further: Callable[[Any, Any], Any] | None = None
    """Makes one more argument from the arguments and a namespace."""
    double: bool = False
    """Whether the kernel computes in double precision."""
    outputs: Callable[[Any], Any] = tuple
    """Makes the outputs from the list of results."""
    lengths_from: tuple[int, int] = (0, 0)
    """Arguments that have m rows and n columns."""
    limits: str = ""
    """The kind whose limits of sizes hold; by default its own."""

    @property
    def computed_in(self) -> str:
        """The dtype that the kernel is compiled for."""
        return kernels.DOUBLE[self.dtype] if self.double else self.dtype

    @property
    def supports(self) -> bool | None:
        """Whether to use the kernel; None if that depends on unknown lengths."""
        m, n = self.m, self.n
        if self.kind.startswith("tall") and None in (*self.batch, m, n):
            return False  # otherwise a graph would need one more decision
        if None in (m, n):
            # Kernels suit long batches and square matrices best: assume these.
            m, n = m or n or 1, n or m or 1
            return None if self._suits(2**31, m, n) else False
        if None not in self.batch:
            return self._suits(prod(self.batch), m, n)
        if self._suits(1, m, n) and self._suits(2, m, n):  # and so any number
            return True
        return None if self._suits(2**31, m, n) else False

    def _suits(self, batch: int, m: int, n: int) -> bool:
        return kernels.supports(self.limits or self.kind, self.dtype, batch, m, n)

    def length(self, letter: str) -> Any:
        """Length of an axis of a `Result`, None if it is unknown."""
        if letter == "1":
            return 1
        if letter == "b":
            return kernels.tall_blocks(max(self.m, self.n))
        if letter == "k":
            return None if None in (self.m, self.n) else min(self.m, self.n)
        return self.m if letter == "m" else self.n

    def shape(self, result: Result) -> tuple[Any, ...]:
        """Shape of an output."""
        return *self.batch, *map(self.length, result.shape)

    @property
    def written(self) -> list[Result]:
        """The outputs that the kernel writes."""
        return [result for result in self.results if result is not None]

    def encoded(self, real: Sequence[bool], pairs: bool = False) -> list[int]:
        """Encode the call for a graph: operands in order, then written outputs.

        `real` says which operands are real, and `pairs` whether double precision comes
        as pairs of numbers of single precision.
        """
        arrays = [
            (o.slot, index, o.axes, o.transposed, real[index], pairs and o.double)
            for index, o in enumerate(self.operands)
        ]
        arrays += [
            (r.slot, index, len(r.shape), False, r.real, pairs and r.double)
            for index, r in enumerate(self.written, len(arrays))
        ]
        return kernels.plan(self.kind, self.computed_in, self.numbers, arrays)

    def result_dtype(self, result: Result) -> str:
        """Dtype of an output."""
        dtype = kernels.DOUBLE[self.dtype] if result.double else self.dtype
        return _REALS.get(dtype, dtype) if result.real else dtype


@dataclass(frozen=True)
class Decompose(Operation):
    """Matrices -> U, S and Vh, or w and V from lower triangles, by `linalg`."""

    kind: str

    def value(self, x: Any, xp: Any) -> tuple[Any, ...]:
        if self.kind == "eigh":
            return tuple(xp.linalg.eigh(x[0]))
        return tuple(xp.linalg.svd(x[0], full_matrices=False))


@dataclass(frozen=True)
class Clusters(Operation):
    """(s, M, NH, gS, block) -> block with the consistent rule where values are close.

    As `svdinv.core.clusters.in_clusters`; NH is None for eigenvalues.
    """

    near: float
    epsilon: float


@dataclass(frozen=True)
class Tall(Operation):
    """A step of the SVD of tall matrices by their Gram matrices, by kernels.

    ``"gram"``: A -> Gram matrices of blocks of rows. ``"eigen"``: these -> S, V and
    V diag(1 / S). ``"product"``: A, such W -> A W, or (A^H W)^H of a wide A.
    """

    step: str


def has_no_user_function(operation: Operation) -> bool:
    """Whether an operation applies functions of svdinv alone.

    One of a user may have no hash, refer to large objects, or use a tape.
    """
    function = getattr(operation, "function", None)
    return function is None or type(function).__module__.startswith("svdinv.")


def plan(operation: Operation, arrays: Any) -> Plan | None:
    """Plan the call of a kernel that computes an operation; None where there is none.

    `arrays` are those of the arguments, None for absent ones. Where lengths are
    unknown, `supports` of the plan may be None.
    """
    rule = RULES.get(type(operation))
    return rule and rule(operation, arrays)


def _plan(
    kind: str,
    A: ArraySpec,
    operands: Iterable[Operand],
    results: Iterable[Result | None],
    **options: Any,
) -> Plan | None:
    """Make a plan; None if the kernels do not support matrices such as A."""
    if len(A.shape) < 2:
        return None
    *batch, m, n = A.shape
    found = tuple(operands), tuple(results)
    plan = Plan(kind, A.dtype, tuple(batch), m, n, *found, **options)
    return None if plan.supports is False else plan


def _decompose(operation: Decompose, x: Any, limits: str = "") -> Plan | None:
    A, values = x[0], Result(1, "k", real=True)
    results: tuple[Result, ...]
    if operation.kind == "eigh":
        if len(A.shape) < 2 or A.shape[-1] is None or A.shape[-1] != A.shape[-2]:
            return None
        results = values, Result(2, "nn", transposed=True)
    else:
        results = Result(2, "mk", transposed=True), values, Result(3, "kn")
    return _plan(operation.kind, A, [Operand(0, 0)], results, limits=limits)


def knows(
    function: Any, A: ArraySpec, tau: ArraySpec | None
) -> tuple[float, float] | None:
    """Return the numbers that select a function in kernels; None if they lack it."""
    kind = type(function)
    if tau is not None and not _same(tau.shape, (*A.shape[:-2], 1)):
        return None
    if function in (Soft(), Hard()) and tau is not None:
        return (_SOFT if kind is Soft else _HARD), 0.0
    if kind is Rank and function.multiplet_rtol is None:
        return _RANK, float(min(function.rank, 2**31 - 1))
    if kind is TopSubgradient:
        count, sides = function.count, (n for n in A.shape[-2:] if n is not None)
        if count is None:
            return _LARGEST, 0.0
        return (_LARGEST, float(count)) if count <= min(sides, default=1) else None
    if kind is Reciprocal:
        return _RECIPROCAL, function.rcond
    if kind is Tikhonov:
        return _TIKHONOV, function.rcond
    if kind is Whitening:
        return _WHITENING, 0.0
    return None


def _same(shape: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether shapes are known to be the same, or unknown at the same axes."""
    return len(shape) == len(other) and all(
        a is b or a == b for a, b in zip(shape, other, strict=True)
    )


def _map(operation: Map | RelativeMap, x: Any) -> Plan | None:
    A, tau, *_ = x
    function, relative = operation.function, isinstance(operation, RelativeMap)
    numbers = knows(function, A, tau)
    if operation.kind is not SVDFactors or (relative and not numbers):
        return None
    operands, further = [Operand(0, 2), Operand(2, 4)], None
    if numbers:
        operands += [Operand(1, 3, 1)] + ([Operand(3, 1, 1)] if tau else [])
        numbers = numbers[0] + _RELATIVE * relative, numbers[1]
    elif function != _ONES:
        operands += [Operand(1, len(x), 1)]
        further = _values_of(operation)
    result, numbers = [Result(4, "mn")], numbers or _GIVEN
    return _plan("map", A, operands, result, numbers=numbers, further=further)


def _values_of(operation: Map | RelativeMap) -> Callable[[Any, Any], Any]:
    """Return a function that computes f(S) from the arguments."""

    def values(x: Any, xp: Any) -> Any:
        _, tau, _, S, _ = x
        y = cast(operation.function.value(S, tau, xp), S, xp)
        # A user's function may return one number for all values.
        return y if _same(tuple(y.shape), tuple(S.shape)) else y * xp.ones_like(S)

    return values


def _apply(operation: Apply, x: Any) -> Plan | None:
    """Plan a decomposition and a map of it in one call."""
    A, tau = x
    numbers = _GIVEN if operation.function == _ONES else knows(operation.function, *x)
    if operation.method not in ("auto", "svd") or not numbers:
        return None
    operands = [Operand(0, 0), Operand(1, 1, 1)] if tau else [Operand(0, 0)]
    numbers = numbers[0] + _RELATIVE * operation.relative, numbers[1]
    return _plan("spectral", A, operands, [Result(2, "mn")], numbers=numbers)


def _derivative(operation: Push | Pull | RelativePull, x: Any) -> Plan | None:
    A, tau, X = x[:3]
    dtau = x[3] if isinstance(operation, Push) else None
    function, numbers = operation.function, knows(operation.function, A, tau)
    given = type(function) in _STEPS
    if operation.kind is not SVDFactors or X is None or not (numbers or given):
        return None
    if dtau is not None and dtau != tau:
        return None
    U = len(x) - 3
    operands = [Operand(0, U), Operand(1, U + 2), Operand(2, 2), Operand(3, U + 1, 1)]
    operands += [Operand(4, 1, 1)] if tau else []
    operands += [Operand(5, 3, 1)] if dtau else []
    results: list[Result | None] = [Result(6, "mn")]
    if not isinstance(operation, Push):
        has_slope = tau is not None and not given
        results.append(Result(7, "1", real=True) if has_slope else None)
    relative = _RELATIVE * isinstance(operation, RelativePull)
    code, number = numbers or _GIVEN
    numbers = code + relative, number
    return _plan("derivative", A, operands, results, numbers=numbers)


def _recompose(operation: Recompose, x: Any) -> Plan | None:
    _, y, _, U, S, Vh = x
    if y != S or Vh.shape[-2] != U.shape[-1]:
        return None
    A = ArraySpec((*U.shape[:-1], Vh.shape[-1]), U.dtype)
    operands = Operand(0, 3), Operand(2, 5), Operand(1, 1, 1)
    return _plan("map", A, operands, [Result(4, "mn")], lengths_from=(3, 5))


def _recompose_pull(operation: RecomposePull, x: Any) -> Plan | None:
    G, y, differences, _, S, _ = x
    if y != S or differences != ArraySpec((*S.shape, S.shape[-1]), S.dtype):
        return None
    operands = [Operand(0, 3), Operand(1, 5), Operand(2, 0)]
    operands += [Operand(3, 4, 1), Operand(4, 1, 1), Operand(5, 2)]
    results = Result(6, "mn"), Result(7, "k", real=True)
    return _plan("derivative", G, operands, results, numbers=(_SAMPLED, 0.0))


def _precision(rule: SVD | Eigh, dtype: str) -> tuple[float, float]:
    """Gap up to which the consistent rule acts, and precision of cotangents."""
    epsilon = SINGLE_EPS if dtype in kernels.DOUBLE else DOUBLE_EPS
    epsilon = epsilon if rule.epsilon is None else rule.epsilon
    return neighbour_rtol(rule.rtol, epsilon), epsilon


def _pullback(operation: Pullback, x: Any) -> Plan | None:
    rule: Any = operation.rule
    order: tuple[int, ...]
    axes: tuple[int, ...]
    if isinstance(rule, SVD):
        U, S, Vh, gU, gS, gVh = x
        k = S.shape[-1]  # of unknown length, and then it may not be a thin SVD
        thin = k is not None and U.shape[-1] == k == Vh.shape[-2]
        A = ArraySpec((*U.shape[:-1], Vh.shape[-1]), U.dtype)
        if thin and gS and gU is None and gVh is None:
            factors = Operand(0, 0), Operand(1, 4, 1), Operand(2, 2)
            return _plan("map", A, factors, [Result(4, "mn")], lengths_from=(0, 2))
        if not thin or rule.repeated != "consistent":
            return None
        kind, axes = "svd_pull", (2, 1, 2) * 2
        order, lengths = tuple(range(6)), (0, 2)
    elif isinstance(rule, Eigh) and x[3] is not None:
        w, U, *_ = x
        x, order, lengths = (U, w, x[2], x[3]), (1, 0, 2, 3), (1, 1)
        kind, A, axes = "eigh_pull", U, (2, 1, 1, 2)
    else:
        return None
    operands = [
        Operand(slot, order[slot], axes[slot])
        for slot in range(len(x))
        if x[slot] is not None
    ]
    result, numbers = [Result(len(x), "mn")], _precision(rule, U.dtype)
    return _plan(kind, A, operands, result, numbers=numbers, lengths_from=lengths)


def _generalized_pullback(operation: GeneralizedPullback, x: Any) -> Plan | None:
    _, _, w, V, gw, gV = x
    plan = gV and _pullback(Pullback(operation.rule), (w, V, gw, gV))
    if not plan:
        return None
    place = {0: 3, 1: 2, 2: 4, 3: 5}
    operands = tuple(o._replace(source=place[o.slot]) for o in plan.operands)
    results = Result(4, "mn"), Result(5, "mn")
    return plan._replace(operands=operands, results=results, lengths_from=(3, 3))


def _clusters(operation: Clusters, x: Any) -> Plan | None:
    s, M, NH, gS, block = x
    values = _REALS.get(M.dtype, M.dtype)
    alike = all(t is None or t == M for t in (NH, block))
    if not alike or s != ArraySpec(M.shape[:-1], values) or gS != s:
        return None
    axes = 1, 2, 2, 1, 2
    slots = 0, 2, 3, 1, 4
    operands = [Operand(slots[i], i, axes[i]) for i in range(5) if x[i] is not None]
    numbers = operation.near, operation.epsilon
    return _plan("clusters", M, operands, [Result(5, "mn")], numbers=numbers)


def _find_motion(operation: FindMotion, x: Any) -> Plan | None:
    P = x[0]
    if not _of_points(*x):
        return None
    operands = Operand(0, 0), Operand(1, 1), Operand(2, 2, 1)
    results = [Result(7, "nn"), Result(8, "n"), Result(9, ""), Result(3, "nn")]
    results += [Result(4, "nn", transposed=True), Result(5, "n"), Result(6, "nn")]
    results += [Result(10, "n")]
    if not isinstance(operation, FindSimilarity):
        return _plan("align", P, operands, results, outputs=Motion._make)
    results += [Result(11, "")]
    return _plan("align", P, operands, results, numbers=(1.0, 0.0))


def _hermitian(operation: HermitianMap | HermitianDerivative, x: Any) -> Plan | None:
    """Plan V (D o V^H X V) V^H with divided differences D, or V diag(y) V^H."""
    derivative = isinstance(operation, HermitianDerivative)
    w, V = len(x) - 2, len(x) - 1
    if derivative and x[2].dtype != x[V].dtype:
        return None
    result = [Result(3, "nn")]
    operands = [Operand(0, V)] + ([Operand(2, 2)] if derivative else [])
    code = _CODES.get(operation.function) if has_no_user_function(operation) else None
    if code is not None:
        operands += [Operand(1, w, 1)] + ([] if x[1] is None else [Operand(4, 1, 0)])
        numbers = float(code), 0.0
        return _plan("hermitian", x[V], operands, result, numbers=numbers)

    def values(x: Any, xp: Any) -> Any:
        f, full = operation.at(x[1]), xp.ones_like(x[w])
        y = differences(f, x[w], xp) if derivative else f.value(x[w], xp)
        y = cast(y, x[w], xp)
        if derivative:
            full = full[..., :, None] * full[..., None, :]
        # A user's function may return what only broadcasts.
        return y if _same(tuple(y.shape), tuple(full.shape)) else y * full

    operands += [Operand(1, len(x), 2 if derivative else 1, real=True)]
    return _plan("hermitian", x[V], operands, result, further=values)


def _product(operation: Product, x: Any) -> Plan | None:
    A, B = x
    if A.dtype != B.dtype or A.shape[:-2] != B.shape[:-2]:
        return None
    (*batch, m, k), n = A.shape, B.shape[-1]
    if not k or not kernels.supports(
        "product", A.dtype, prod(batch), max(m, k), max(k, n)
    ):
        return None
    operands, AB = [Operand(0, 0), Operand(1, 1)], ArraySpec((*batch, m, n), A.dtype)
    return _plan("product", AB, operands, [Result(2, "mn")], numbers=(float(k), 0.0))


def _align_pull(operation: AlignPull, x: Any) -> Plan | None:
    P, Q, w, *_, gC = x
    if gC is not None or not _of_points(P, Q, w):
        return None
    operands = [Operand(0, 0), Operand(1, 1), Operand(2, 2, 1)]
    operands += [Operand(3, 7, transposed=True), Operand(4, 8, 1), Operand(5, 9)]
    operands += [Operand(6, 11), Operand(7, 12, 1), Operand(8, 13, 0)]
    given = [operand for operand in operands if x[operand.source] is not None]
    weights = Result(11, "m") if operation.weighted else None
    return _plan("align_pull", P, given, [Result(9, "mn"), Result(10, "mn"), weights])


def _similarity_pull(operation: SimilarityPull, x: Any) -> Plan | None:
    """Plan as for a motion, with the cotangent of c instead of that of weights."""
    *found, _, gR, gt, grmsd, gc = x
    if operation.weighted:
        return None
    plan = _align_pull(AlignPull(False), (*found, gR, gt, grmsd, None))
    if plan is None:
        return None
    # One more argument, c, is in front of the cotangents.
    operands = tuple(
        operand._replace(source=operand.source + (operand.source > 10))
        for operand in plan.operands
    )
    if gc is not None:
        operands += (Operand(11, 15, 0),)
    return plan._replace(operands=operands, numbers=(1.0, 0.0))


def _of_points(P: ArraySpec, Q: ArraySpec, w: ArraySpec) -> bool:
    """Whether these are points, of the same real dtype, and their weights."""
    return P.dtype in ("float32", "float64") and P.dtype == Q.dtype == w.dtype


def _tall(operation: Tall, x: Any) -> Plan | None:
    if operation.step == "gram":
        operands, results = [Operand(0, 0)], [Result(1, "bkk", double=True)]
    elif operation.step == "eigen":
        operands = [Operand(0, 1, 3, double=True)]
        results = [Result(1, "k", real=True), Result(2, "kk")]
        results += [Result(3, "kk", double=True)]
    else:
        operands = [Operand(0, 0), Operand(1, 1, double=True)]
        results = [Result(2, "mn")]
    return _plan(f"tall_{operation.step}", x[0], operands, results, double=True)


def values_plan(operation: SingularValues, x: Any) -> Plan | None:
    """Plan an SVD if that is faster than LAPACK's S alone: not for one large matrix."""
    plan = _decompose(Decompose("svd"), x)
    if plan is None:
        return None
    if prod(plan.batch) == 1 and not kernels.outruns_values(plan.m, plan.n):
        return None
    return plan._replace(outputs=lambda y: (y[1],))


def _factors(operation: SVD | Eigh | Factorise | FactoriseHermitian, x: Any) -> Any:
    """Plan an operation that is nothing but a decomposition."""
    hermitian = isinstance(operation, Eigh | FactoriseHermitian)
    if isinstance(operation, Eigh) and operation.triangle != "L":
        return None
    if isinstance(operation, SVD) and operation.full_matrices:
        return None
    if isinstance(operation, Factorise) and operation.method not in ("auto", "svd"):
        return None
    if not isinstance(operation, Factorise):
        return _decompose(Decompose("eigh" if hermitian else "svd"), x)
    plan = _decompose(Decompose("svd"), x, limits="spectral")
    return plan and plan._replace(outputs=SVDFactors._make)


RULES: dict[type, Callable[[Any, Any], Plan | None]] = {
    Decompose: _decompose,
    Apply: _apply,
    Map: _map,
    RelativeMap: _map,
    Push: _derivative,
    Pull: _derivative,
    Recompose: _recompose,
    RecomposePull: _recompose_pull,
    Pullback: _pullback,
    GeneralizedPullback: _generalized_pullback,
    Clusters: _clusters,
    HermitianMap: _hermitian,
    HermitianDerivative: _hermitian,
    Product: _product,
    FindMotion: _find_motion,
    AlignPull: _align_pull,
    FindSimilarity: _find_motion,
    SimilarityPull: _similarity_pull,
    Tall: _tall,
}
"""The rule of each operation that has one."""

DECOMPOSITIONS: dict[type, Callable[[Any, Any], Plan | None]] = {
    SVD: _factors,
    Eigh: _factors,
    Factorise: _factors,
    FactoriseHermitian: _factors,
    SingularValues: values_plan,
}
"""Rules for arrays with values, which do without `Decompose`."""

COMPOSED: dict[type, Callable[[Any, Any], Plan | None]] = {RelativePull: _derivative}
"""Rules for arrays with values; graphs use `composed`, for the derivatives."""
