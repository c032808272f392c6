"""Functions beyond the array API that the formulas need, written in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from array_api_compat import array_namespace as array_namespace

Array: TypeAlias = Any
Namespace: TypeAlias = Any
DType: TypeAlias = Any

State: TypeAlias = tuple[Array, ...]


def is_complex(x: Array, xp: Namespace) -> bool:
    """Whether `x` has a complex dtype."""
    return xp.isdtype(x.dtype, "complex floating")


def conj(x: Array, xp: Namespace) -> Array:
    """Complex conjugate; a real `x` is returned as it is."""
    return xp.conj(x) if is_complex(x, xp) else x


def real(x: Array, xp: Namespace) -> Array:
    """Real part; a real `x` is returned as it is."""
    return xp.real(x) if is_complex(x, xp) else x


def adjoint(x: Array, xp: Namespace) -> Array:
    """Conjugate transpose of the last two axes."""
    return conj(xp.matrix_transpose(x), xp)


def herm(x: Array, xp: Namespace) -> Array:
    """Hermitian part, (X + X^H) / 2."""
    return 0.5 * (x + adjoint(x, xp))


def skew(x: Array, xp: Namespace) -> Array:
    """Skew-Hermitian part, (X - X^H) / 2."""
    return 0.5 * (x - adjoint(x, xp))


def cast(x: Array, like: Array, xp: Namespace) -> Array:
    """`x` in the dtype of `like`: not every framework mixes real and complex."""
    return x if x.dtype == like.dtype else xp.astype(x, like.dtype, copy=False)


def last_size(x: Array, xp: Namespace) -> Any:
    """Length of the last axis: an int, or a traced number where it is unknown."""
    size = x.shape[-1]
    return xp.dynamic_shape(x)[-1] if size is None else size


def first(x: Array, axis: int = -1) -> Array:
    """Slice 0:1 along an axis counted from the end; empty if the axis is."""
    if known_equal(x.shape[axis], 0):
        return x  # the standard allows no slice beyond the end
    return x[(..., slice(0, 1), *[slice(None)] * (-axis - 1))]


def sizes(x: Array, xp: Namespace) -> tuple[Any, ...]:
    """Shape of `x`, with traced numbers for the lengths that are unknown."""
    shape = tuple(x.shape)
    if None not in shape:
        return shape
    traced = xp.dynamic_shape(x)
    return tuple(traced[i] if n is None else n for i, n in enumerate(shape))


def known_shape(x: Array) -> tuple[int | None, ...]:
    """Shape of `x`, with None for lengths that are traced symbols or unknown."""
    return tuple(n if isinstance(n, int) else None for n in x.shape)


def known_equal(a: Any, b: Any) -> bool:
    """Whether two lengths are known to be equal."""
    return isinstance(a, int) and isinstance(b, int) and a == b


def identity_like(x: Array, xp: Namespace) -> Array:
    """Identity matrices in the shape, dtype and device of the square `x`."""
    # Built from x itself, because a traced shape may be unknown.
    return xp.triu(xp.tril(xp.ones_like(x)))


def off_diagonal(mask: Array, eye: Array, xp: Namespace) -> Array:
    """Mask of square matrices without its diagonal, given identity matrices."""
    # Not by `&`: under `mx.vmap` over one operand, MLX's `&` reads wrong memory.
    return xp.where(eye == 0, mask, False)


def inner(X: Array, Y: Array, xp: Namespace) -> Array:
    """Re tr(X^H Y) of each matrix, shape (...)."""
    return all_reduce(xp.sum(real(conj(X, xp) * Y, xp), axis=(-2, -1)), xp)


def norm(X: Array, xp: Namespace) -> Array:
    """Frobenius norm of each matrix, kept as (..., 1, 1)."""
    return xp.sqrt(xp.sum(xp.abs(X) ** 2, axis=(-2, -1), keepdims=True))


def is_wide(A: Array) -> bool:
    """Whether A A^H is known to be smaller than A^H A."""
    m, n = A.shape[-2], A.shape[-1]
    return isinstance(m, int) and isinstance(n, int) and m < n


def add_product(C: Array, A: Array, B: Array, xp: Namespace) -> Array:
    """C + A B; a namespace may overwrite C, which must not be needed afterwards."""
    add = getattr(xp, "add_product", None)
    return C + A @ B if add is None else add(C, A, B)


def abs_max(x: Array, xp: Namespace, axis: tuple[int, ...] = (-2, -1)) -> Array:
    """Largest real or imaginary part of each matrix, kept as (..., 1, 1); 0 if empty.

    Not the magnitude, whose derivative is NaN near underflow.
    """
    part = xp.abs(real(x, xp))
    if is_complex(x, xp):
        part = xp.maximum(part, xp.abs(xp.imag(x)))
    # `max` of an empty array raises; `sum` is 0.
    nothing = any(known_equal(x.shape[i], 0) for i in axis)
    most = (xp.sum if nothing else xp.max)(part, axis=axis, keepdims=True)
    return all_reduce(most, xp)


# Sizes beyond 2^(+-part/32 of the largest exponent) are rescaled.
_PARTS = 6, 11, 16, 21, 26


# Elements of the largest matrices whose maximum Python finds sooner than a framework.
_FEW = 256


def _usual_edge(x: Array, xp: Namespace) -> float:
    _, bits = math.frexp(float(xp.finfo(x.dtype).max))
    return 2.0 ** (_PARTS[0] * bits // 32)


def is_small_and_usual(A: Array, xp: Namespace) -> bool:
    """Whether A is one small matrix whose `binary_scale` is known to be 1."""
    sides = [n for n in known_shape(A) if n is not None]
    if not len(A.shape) == len(sides) == 2 or not 0 < math.prod(sides) <= _FEW:
        return False
    known: list[Any] | None = numbers(A, xp)
    if known is None:
        return False
    if is_complex(A, xp):
        known = [part for z in known for part in (z.real, z.imag)]
    edge = _usual_edge(A, xp)
    return 1 / edge <= max(max(known), -min(known)) <= edge


def is_finite(size: Array, xp: Namespace) -> Array:
    """Whether absolute values are finite.

    TensorFlow's `enable_check_numerics` would report a comparison with infinity.
    """
    return size <= float(xp.finfo(size.dtype).max)


def is_usual(size: Array, xp: Namespace) -> bool:
    """Whether `binary_scale` is known to be 1 everywhere."""
    edge = _usual_edge(size, xp)
    known = numbers(size, xp) if all(n == 1 for n in known_shape(size)) else None
    if known is not None:  # a single number, which Python compares sooner
        return 1 / edge <= known[0] <= edge
    return any_on_host((size > edge) | (size < 1 / edge), xp) is False


def binary_scale(size: Array, xp: Namespace) -> Array:
    """Power of two to divide by, so that powers of `size` neither over- nor underflow.

    1 for all usual sizes, for 0, and for what is not finite. For other sizes, it is so
    close that its square is finite whenever that of `size` is; an even power of two.
    """
    scale = one = xp.ones_like(size)
    if is_usual(size, xp):
        return one
    _, bits = math.frexp(float(xp.finfo(size.dtype).max))
    for part in _PARTS:
        bound, to = part * bits // 32, (2 * part + 5) * bits // 64
        large = (size > 2.0**bound) & is_finite(size, xp)
        small = (size < 2.0**-bound) & (size > 0)
        scale = xp.where(large, 2.0**to * one, scale)
        scale = xp.where(small, 2.0**-to * one, scale)
    return scale


# Functions beyond the array API: a backend may define them in its namespace, under
# these names. A plain namespace has none of them.


def held(scale: Array, xp: Namespace) -> Array:
    """`scale` as a constant: its derivatives cancel, but might not be finite."""
    hold = getattr(xp, "stop_gradient", None)
    return scale if hold is None else hold(scale)


def nan_unless(condition: Array, x: Array, xp: Namespace) -> Array:
    """`x`, NaN where the condition does not hold."""
    if getattr(xp, "constants_are_searched", False):
        one = xp.where(condition, xp.ones_like(x), xp.zeros_like(x))
        return x * (one / one)
    return xp.where(condition, x, xp.full_like(x, math.nan))


def any_on_host(mask: Array, xp: Namespace) -> bool | None:
    """Whether any element is true; None where reading it would wait for a device.

    None, too, where arrays have no values yet, as in a traced function.
    """
    ask = getattr(xp, "any_on_host", None)
    return None if ask is None else ask(mask)


def has_values(A: Array, xp: Namespace) -> bool:
    """Whether elements can be read now, without waiting for a device."""
    return any_on_host(A[..., :1, :1] != A[..., :1, :1], xp) is not None


def numbers(x: Array, xp: Namespace) -> list[float] | None:
    """Elements of a small array as Python numbers; None if that waits for a device."""
    ask = getattr(xp, "numbers", None)
    return ask and ask(x)


def may_ask(xp: Namespace) -> bool:
    """Whether `any_on_host` can answer: not while a framework traces."""
    ask = getattr(xp, "may_ask", None)
    return hasattr(xp, "any_on_host") if ask is None else ask()


def is_spread(A: Array, xp: Namespace) -> bool:
    """Whether each matrix is known to lie on several devices, or in chunks."""
    ask = getattr(xp, "is_spread", None)
    return ask is not None and ask(A)


def all_reduce(x: Array, xp: Namespace) -> Array:
    """Sum `x` over the devices that an axis is spread over; all get the result.

    It is explicit, because a framework might distribute the small result once more.
    """
    reduce = getattr(xp, "all_reduce", None)
    return x if reduce is None else reduce(x)


def is_writable(xp: Namespace) -> bool:
    """Whether arrays that have values support item assignment."""
    return getattr(xp, "writable", False)


def decomposes_quickly(A: Array, xp: Namespace) -> bool:
    """Whether `linalg` decomposes such a batch by svdinv's kernels.

    Nothing is faster then, and their single precision needs no repair.
    """
    ask = getattr(xp, "decomposes_quickly", None)
    return ask is not None and ask(A)


def runs_kernels(A: Array, xp: Namespace) -> bool:
    """Whether kernels may run on A now: nothing transforms or traces it."""
    ask = getattr(xp, "runs_kernels", None)
    return ask is not None and ask(A)


def clusters(
    s: Array,
    M: Array,
    NH: Array | None,
    gS: Array,
    block: Array,
    near: float,
    epsilon: float,
    xp: Namespace,
) -> Array | None:
    """Overwrite a block within clusters by the consistent rule, by kernels.

    See `svdinv.core.degenerate`. For eigenvalues, `NH` is None. Returns None where no
    kernel does it.
    """
    compute = getattr(xp, "clusters", None)
    return None if compute is None else compute(s, M, NH, gS, block, near, epsilon)


def tall_values(A: Array, xp: Namespace) -> tuple[Array, Array, Array] | None:
    """Singular values of tall or wide A in single precision by kernels, or None.

    From its Gram matrix in double precision: S, the eigenvectors V of the smaller side,
    and V diag(1 / S) in double precision, with a lower bound for S, for `tall_vectors`.
    """
    compute = getattr(xp, "tall_values", None)
    return None if compute is None else compute(A)


def triangle(A: Array, xp: Namespace) -> tuple[Array, Callable[[Array], Array]] | None:
    """R of the thin QR decomposition of tall A, and the function from X to Q X.

    None where the namespace has no R without Q.
    """
    compute = getattr(xp, "triangle", None)
    return compute and compute(A)


def decomposes_in_double(xp: Namespace) -> bool:
    """Whether `linalg` decomposes single precision in double, and rounds the result."""
    return getattr(xp, "decomposes_in_double", False)


def has_double_precision(xp: Namespace) -> bool:
    """Whether the framework has double precision now."""
    return getattr(xp, "double_precision", True)


def while_loop(
    step: Callable[[State], State],
    running: Callable[[State], Array],
    state: State,
    steps: int,
    blind_steps: int,
    xp: Namespace,
) -> State:
    """Apply `step` while `running` holds anywhere, at most `steps` times.

    Where the values of `running` cannot be read, `blind_steps` times.
    """
    loop = getattr(xp, "iterate_while", None)
    if loop is not None:
        return loop(step, running, state, steps)
    for count in range(steps):
        more = any_on_host(running(state), xp)
        if more is False or (more is None and count >= blind_steps):
            break
        state = step(state)
    return state


def each(f: Callable[[Array], Array], x: Array, xp: Namespace) -> Array:
    """Stack f(x[i]) over all i, computed at once where the namespace can."""
    mapped = getattr(xp, "mapped", None)
    if mapped is not None:
        return mapped(f)(x)
    return xp.stack([f(x[i, ...]) for i in range(x.shape[0])])


def on_host(report: Callable[[Array], None], x: Array, xp: Namespace) -> None:
    """Call `report` with `x` on the host; in a traced graph, when the graph runs."""
    call = getattr(xp, "on_host", None)
    if call is None:
        report(x)
    else:
        call(report, x)


def safe_divide(
    numerator: Array,
    denominator: Array,
    where: Array,
    xp: Namespace,
    otherwise: Array | None = None,
) -> Array:
    """``numerator / denominator`` where `where` holds, else `otherwise`, or 0.

    The denominator is replaced before the division, not the quotient after it:
    otherwise the derivative of the branch not taken is 0 * inf = NaN.
    """
    divisor = cast(xp.where(where, denominator, 1.0), numerator, xp)
    return xp.where(where, numerator / divisor, 0.0 if otherwise is None else otherwise)


def scaled(x: Array, xp: Namespace) -> tuple[Array, Array]:
    """`x` over a power of two near its largest modulus, and that as (..., 1).

    It is 1 where all are 0. A divisor that is no power of two would round the quotients
    and so change the gaps between close values by a fraction.
    """
    top = held(xp.max(xp.abs(x), axis=-1, keepdims=True), xp)
    info, one = xp.finfo(x.dtype), xp.ones_like(top)
    top = xp.where(top >= float(info.smallest_normal), top, one)
    # A sum with a number 1 / eps times as large keeps only the leading bit.
    eps, (_, bits) = float(info.eps), math.frexp(float(info.max))
    unit = xp.where(top > 1, 0.25 * eps * one, one)  # against overflow
    part = top * unit
    nearest = (part + part / eps) - part / eps
    nearest = xp.minimum(nearest, 2.0 ** (bits - 1) * unit) / unit
    return x / nearest, nearest
