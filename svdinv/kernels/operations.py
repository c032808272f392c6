"""Operations that the kernels compute: the same values in fewer passes over memory.

Each function gives None where the kernels do not suit, and the operation's own array
functions are taken. `Memory` is all that is known of a framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from svdinv import kernels
from svdinv.core.alignment_operations import AlignPull, FindMotion, Motion
from svdinv.core.functions import Polar, ProperRotation
from svdinv.core.hermitian_operations import Eigh
from svdinv.core.namespace import Array, Namespace, decomposes_in_double
from svdinv.core.operation import Operation
from svdinv.core.spectral import SVDFactors
from svdinv.core.spectral_operations import Map, Pull, Push
from svdinv.core.svd_operations import SVD, Pullback
from svdinv.core.thresholds import Soft
from svdinv.core.tolerances import eps, neighbour_rtol
from svdinv.kernels import Layout

__all__ = [
    "DOUBLE",
    "Memory",
    "by_kernel",
    "derives",
    "eigh",
    "has_kernel",
    "knows",
    "precision",
    "pulls",
    "svd",
    "takes",
    "tall_values",
    "tall_vectors",
    "value",
]


DOUBLE = {"float32": "float64", "complex64": "complex128"}
_SOFT = Soft()
_STEPS = Polar(), ProperRotation()


class Memory(Protocol):
    """Arrays of a framework as addresses."""

    def suits(self, *x: Array | None) -> bool:
        """Tell whether all arrays are on the CPU and have values now."""

    def dtype(self, x: Array) -> str:
        """Name of the dtype."""

    def flat(self, x: Array, axes: int) -> tuple[Array, Layout]:
        """Give x with one batch axis and `axes` more, and its layout; may copy."""

    def empty(
        self, shape: tuple[int, ...], dtype: str, *, real: bool = False
    ) -> tuple[Any, int]:
        """Uninitialised memory, in the real dtype of `dtype` if `real`, and where."""

    def threads(self) -> int:
        """Give the number of threads that may be used."""


def _fits(suits: Callable[..., bool], A: Array, memory: Memory) -> bool:
    """Ask a rule of `svdinv.kernels` about the shape of A."""
    *batch, m, n = A.shape
    return suits(memory.dtype(A), _count(batch), m, n)


def _count(batch: Any) -> int:
    count = 1
    for size in batch:
        count *= size
    return count


def _turned(layout: Layout | None) -> Layout | None:
    """Exchange rows and columns."""
    return layout and (*layout[:2], layout[3], layout[2])


class _Run:
    """The arguments of one call, and what keeps their memory alive."""

    def __init__(self, memory: Memory, like: Array, shape: tuple[int, ...]) -> None:
        *self.batch, m, n = shape
        self.memory, self.dtype = memory, memory.dtype(like)
        self.turned = m < n
        self.shape = _count(self.batch), max(m, n), min(m, n)
        self.alive: list[Any] = []

    def matrices(self, x: Array | None) -> Layout | None:
        """Layout of matrices, as adjoints if these are the tall ones."""
        if x is None:
            return None
        x, layout = self.memory.flat(x, 2)
        self.alive.append(x)
        return _turned(layout) if self.turned else layout

    def values(self, x: Array | None) -> Layout | None:
        """Layout of an array with one number, or some, for each matrix."""
        if x is None:
            return None
        x, layout = self.memory.flat(x, 1)
        self.alive.append(x)
        return layout

    def number(self, x: Array | None) -> Layout | None:
        """Layout of an array with the batch axes alone."""
        return self.values(None if x is None else x[..., None])

    def new(
        self, *shape: int, real: bool = False, double: bool = False
    ) -> tuple[Array, Layout]:
        """Give an array for a result, with the batch axes, and its plain layout."""
        dtype = DOUBLE[self.dtype] if double else self.dtype
        x, address = self.memory.empty((*self.batch, *shape), dtype, real=real)
        parts = 1 if real or self.dtype[0] == "f" else 2
        row = parts * shape[-1] if shape else parts
        if len(shape) > 1:  # with another axis in front, matrices of a longer batch
            return x, (address, shape[-2] * row, row, parts)
        return x, (address, row, 0, parts)

    def result(self, m: int, n: int) -> tuple[Array, Layout | None]:
        """Give matrices for a result, which are adjoints as those in `matrices`."""
        x, layout = self.new(m, n)
        return x, _turned(layout) if self.turned else layout

    def __call__(
        self, kind: str, arrays: Any, *, double: bool = False, **options: Any
    ) -> int:
        threads = self.memory.threads()
        dtype = DOUBLE[self.dtype] if double else self.dtype
        return kernels.run(kind, dtype, self.shape, arrays, threads=threads, **options)


def takes(A: Array, memory: Memory) -> bool:
    """Tell whether the kernels decompose A."""
    return A.ndim > 1 and memory.suits(A) and _fits(kernels.suits, A, memory)


def svd(A: Array, memory: Memory) -> tuple[Array, Array, Array] | None:
    """Thin SVD; None where the kernels do not suit, or not for every matrix."""
    if not takes(A, memory):
        return None
    run = _Run(memory, A, A.shape)
    m, n = A.shape[-2:]
    k = min(m, n)
    Uh, left = run.new(k, m)
    S, values = run.new(k, real=True)
    Vh, right = run.new(k, n)
    # Vectors are rows to the kernel. A wide matrix is A^T = conj(V) S U^T.
    if run.turned:
        left, right = right, left
    if run("svd", (run.matrices(A), values, left, right)):
        return None
    return Uh.mT, S, Vh


def eigh(A: Array, memory: Memory) -> tuple[Array, Array] | None:
    """Eigendecomposition from the lower triangles; None as for `svd`."""
    if not takes(A, memory) or A.shape[-2] != A.shape[-1]:
        return None
    run = _Run(memory, A, A.shape)
    n = A.shape[-1]
    w, values = run.new(n, real=True)
    Vt, vectors = run.new(n, n)
    return None if run("eigh", (run.matrices(A), values, vectors)) else (w, Vt.mT)


def tall_values(A: Array, memory: Memory) -> tuple[Array, Array, Array] | None:
    """See `svdinv.core.namespace`."""
    if not (memory.suits(A) and _fits(kernels.suits_tall, A, memory)):
        return None
    run = _Run(memory, A, A.shape)
    _, m, n = run.shape
    _sums, products = run.new(kernels.tall_blocks(m), n, n, double=True)
    S, values = run.new(n, real=True)
    V, vectors = run.new(n, n)
    W, scaled = run.new(n, n, double=True)
    run("tall_gram", (run.matrices(A), products), double=True, adjoint=run.turned)
    run("tall_eigen", (products, values, vectors, scaled), double=True)
    return S, V, W


def tall_vectors(A: Array, W: Array, memory: Memory) -> Array:
    """Compute A W, or (A^H W)^H of a wide A, for W of `tall_values`."""
    run = _Run(memory, A, A.shape)
    image, result = run.result(*A.shape[-2:])
    W, layout = memory.flat(W, 2)
    arrays = run.matrices(A), layout, result
    run("tall_product", arrays, double=True, adjoint=run.turned)
    return image


def has_kernel(operation: Operation) -> bool:
    """Tell whether there are kernels for operations of this kind."""
    return type(operation) in _RULES


def by_kernel(operation: Operation, x: Any, memory: Memory, xp: Namespace) -> Any:
    """Compute an operation by a kernel; None where there is none for it."""
    rule = _RULES.get(type(operation))
    if rule is None or not memory.suits(*x):
        return None
    return rule(operation, x, memory, xp)


def value(operation: Operation, x: Any, memory: Memory | None, xp: Namespace) -> Any:
    """Compute an operation by a kernel, or else by its own array functions."""
    y = None if memory is None else by_kernel(operation, x, memory, xp)
    return operation.value(x, xp) if y is None else y


def knows(function: Any, A: Array, tau: Any) -> bool:
    """Tell whether the kernels know a function by themselves: the soft threshold."""
    return function == _SOFT and tuple(tau.shape) == (*A.shape[:-2], 1)


def derives(function: Any, A: Array, tau: Any) -> tuple[float, float] | None:
    """Numbers for the kernel that has the derivative of a function, if one has."""
    if function in _STEPS:
        return 0.0, 1.0
    return (float(not function.needs_unitary), 0.0) if knows(function, A, tau) else None


def _map(operation: Map, x: Any, memory: Memory, xp: Namespace) -> Any:
    A, tau, *factors = x
    if operation.kind is not SVDFactors or not _fits(kernels.derives, A, memory):
        return None
    U, S, Vh = factors
    known = knows(operation.function, A, tau)
    y = S if known else operation.function.value(S, tau, xp)
    run = _Run(memory, A, A.shape)
    F, result = run.result(*A.shape[-2:])
    left, right = run.matrices(U), run.matrices(Vh)
    if run.turned:
        left, right = right, left
    level = run.values(tau) if known else None
    run("map", (left, run.values(y), right, level, result), adjoint=run.turned)
    return (F,)


def _derivative(
    operation: Any,
    A: Array,
    tau: Any,
    X: Array,
    dtau: Any,
    factors: Any,
    memory: Memory,
) -> Any:
    numbers = derives(operation.function, A, tau)
    fits = operation.kind is SVDFactors and _fits(kernels.derives, A, memory)
    if numbers is None or not fits:
        return None
    if dtau is not None and (dtau.shape != tau.shape or dtau.dtype != tau.dtype):
        return None
    U, S, Vh = factors
    run = _Run(memory, A, A.shape)
    found, result = run.result(*A.shape[-2:])
    gtau, slope = None, None
    if operation.function not in _STEPS:
        gtau, slope = run.new(1, real=True)
    left, right = run.matrices(U), run.matrices(Vh)
    if run.turned:
        left, right = right, left
    values = run.values(S), run.values(tau), run.values(dtau)
    run(
        "derivative",
        (left, right, run.matrices(X), *values, result, slope),
        numbers=numbers,
        adjoint=run.turned,
    )
    return found, gtau


def _push(operation: Push, x: Any, memory: Memory, xp: Namespace) -> Any:
    A, tau, dA, dtau, *factors = x
    if dA is None:
        return None
    found = _derivative(operation, A, tau, dA, dtau, factors, memory)
    return found and found[:1]


def _pull(operation: Pull, x: Any, memory: Memory, xp: Namespace) -> Any:
    A, tau, G, *factors = x
    return _derivative(operation, A, tau, G, None, factors, memory)


def precision(rule: SVD | Eigh, values: Array, xp: Namespace) -> tuple[float, float]:
    """Gap up to which the consistent rule acts, and precision of cotangents."""
    epsilon = eps(values, xp) if rule.epsilon is None else rule.epsilon
    return neighbour_rtol(rule.rtol, epsilon), epsilon


def pulls(rule: Any, x: Any, dtype: Callable[[Array], str]) -> bool:
    """Tell whether a kernel knows the pullback of a decomposition, and is faster."""
    if isinstance(rule, SVD):
        U, S, Vh, gU, _, gVh = x
        thin = U.shape[-1] == S.shape[-1] == Vh.shape[-2]
        if rule.repeated != "consistent" or not thin or (gU is None and gVh is None):
            return False
        return kernels.pulls(dtype(U), _count(S.shape[:-1]), U.shape[-2], Vh.shape[-1])
    if not isinstance(rule, Eigh) or x[3] is None:
        return False
    V = x[1]
    return kernels.pulls(dtype(V), _count(V.shape[:-2]), *V.shape[-2:])


def _pullback(operation: Pullback, x: Any, memory: Memory, xp: Namespace) -> Any:
    rule: Any = operation.rule
    if not pulls(rule, x, memory.dtype):
        thin = _is_thin(rule, x, memory)
        return (rule.pull(x, _WithMiddle(xp, memory)),) if thin else None
    return (_svd_pull if isinstance(rule, SVD) else _eigh_pull)(rule, x, memory, xp)


def _svd_pull(rule: SVD, x: Any, memory: Memory, xp: Namespace) -> Any:
    U, S, Vh, gU, gS, gVh = x
    m, n = U.shape[-2], Vh.shape[-1]
    run = _Run(memory, U, (*S.shape[:-1], m, n))
    gA, result = run.result(m, n)
    left, right, gleft, gright = (run.matrices(z) for z in (U, Vh, gU, gVh))
    if run.turned:
        left, right, gleft, gright = right, left, gright, gleft
    given = (left, run.values(S), right, gleft, run.values(gS), gright)
    run(
        "svd_pull",
        (*given, result),
        numbers=precision(rule, S, xp),
        adjoint=run.turned,
    )
    return (gA,)


class _WithMiddle:
    """A namespace, and kernels for the middle factor of the pullback of the SVD."""

    def __init__(self, xp: Namespace, memory: Memory) -> None:
        self._xp, self._memory = xp, memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def middle_factor(
        self, s: Array, M: Array, NH: Array, gS: Array, near: float, epsilon: float
    ) -> Array:
        """Compute the pullback with U and V the identity."""
        run = _Run(self._memory, M, M.shape)
        block, result = run.new(*M.shape[-2:])
        one, identity = run.new(*M.shape[-2:])
        one[...] = self._xp.eye(M.shape[-1], dtype=M.dtype)
        cotangents = run.matrices(M), run.values(gS), run.matrices(NH)
        arrays = identity, run.values(s), identity, *cotangents, result
        run("svd_pull", arrays, numbers=(near, epsilon))
        return block


def _is_thin(rule: Any, x: Any, memory: Memory) -> bool:
    """Tell whether k x k matrices are small, where the larger ones are not."""
    if not isinstance(rule, SVD) or rule.repeated != "consistent":
        return False
    S, k = x[1], x[1].shape[-1]
    return kernels.handles(memory.dtype(x[0]), _count(S.shape[:-1]), k, k)


def _eigh_pull(rule: Eigh, x: Any, memory: Memory, xp: Namespace) -> Any:
    w, V, gw, gV = x
    run = _Run(memory, V, V.shape)
    gA, result = run.new(*V.shape[-2:])
    given = run.matrices(V), run.values(w), run.values(gw), run.matrices(gV)
    run("eigh_pull", (*given, result), numbers=precision(rule, w, xp))
    return (gA,)


def _points(x: Any, memory: Memory, xp: Namespace) -> Any:
    """Begin a call with points P, Q, weights; None where the kernels do not suit."""
    P, Q, w = x
    *batch, m, n = P.shape
    dtype, count = memory.dtype(P), _count(batch)
    if (
        dtype not in ("float32", "float64")
        or m == 0
        or P.dtype != Q.dtype
        or P.dtype != w.dtype
        or not kernels.suits(dtype, count, n, n)
        or not kernels.handles(dtype, count, m, n)
        # A second derivative finds the same signs in the same singular vectors.
        or (decomposes_in_double(xp) and dtype != "float64")
    ):
        return None
    run = _Run(memory, P, P.shape)
    run.turned, run.shape = False, (count, m, n)  # points are rows, however few
    return run, (run.matrices(P), run.matrices(Q), run.values(w))


def _find_motion(operation: FindMotion, x: Any, memory: Memory, xp: Namespace) -> Any:
    begun = _points(x, memory, xp)
    if begun is None:
        return None
    run, given = begun
    n = run.shape[-1]
    shapes: Any = ((n, n), (n, n), (n,), (n, n), (n, n), (n,), (), (n,))
    results, layouts = zip(*(run.new(*shape) for shape in shapes), strict=True)
    if run("align", (*given, *layouts)):
        return None
    C, Uh, S, Vh, R, t, rmsd, signs = results
    return Motion(R, t, rmsd, C, Uh.mT, S, Vh, signs)


def _align_pull(operation: AlignPull, x: Any, memory: Memory, xp: Namespace) -> Any:
    P, Q, w, *motion, gR, gt, grmsd, gC = x
    begun = None if gC is not None else _points((P, Q, w), memory, xp)
    if begun is None:
        return None
    run, given = begun
    m, n = run.shape[1:]
    *_, U, S, Vh, _ = motion
    factors = _turned(run.matrices(U)), run.values(S), run.matrices(Vh)
    cotangents = run.matrices(gR), run.values(gt), run.number(grmsd)
    (gP, toP), (gQ, toQ) = run.new(m, n), run.new(m, n)
    gw, tow = run.new(m) if operation.weighted else (None, None)
    run("align_pull", (*given, *factors, *cotangents, toP, toQ, tow))
    return gP, gQ, gw


_RULES: dict[type, Callable[..., Any]] = {
    Map: _map,
    Push: _push,
    Pull: _pull,
    Pullback: _pullback,
    FindMotion: _find_motion,
    AlignPull: _align_pull,
}
