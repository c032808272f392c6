"""JAX: every call of an operation is one primitive.

A `custom_jvp` would transpose the tangent, and the pullback of the SVD is not the
transpose of its pushforward; a `custom_vjp` would forbid forward mode. So the
tangents are calls themselves, and the operations' cotangents are registered as the
transposes of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad, batching, mlir

from svdinv.backends import jax_kernels
from svdinv.core.backend import Backend, kind_of, number_within
from svdinv.core.operation import (
    Operation,
    filled,
    padded,
    present,
    rebuilt,
    some,
)
from svdinv.core.svd_operations import SingularValues
from svdinv.kernels.rules import RULES


def _is_on_cpu(x: Any) -> bool:
    return all(device.platform == "cpu" for device in x.devices())


class _Namespace(jax_kernels.Namespace):
    """`jax.numpy`, and what JAX has beyond the array API."""

    mapped = staticmethod(jax.vmap)
    choose = staticmethod(jax.lax.cond)
    constants_are_searched = True  # by `jax_debug_nans`
    stop_gradient = staticmethod(lax.stop_gradient)

    @property
    def double_precision(self) -> bool:
        return bool(jax.config.jax_enable_x64)

    @staticmethod
    def any_on_host(mask: Any) -> bool | None:
        if isinstance(mask, jax.core.Tracer):
            return None
        return bool(mask.any()) if _is_on_cpu(mask) else None

    @staticmethod
    def is_spread(A: Any) -> bool:
        if isinstance(A, jax.core.Tracer):
            return False
        axis = -2 if A.shape[-2] > A.shape[-1] else -1
        return A.sharding.shard_shape(A.shape)[axis] < A.shape[axis]

    @staticmethod
    def iterate_while(step: Any, running: Any, state: Any, steps: int) -> Any:
        def going(carry: Any) -> Any:
            return (carry[0] < steps) & jnp.any(running(carry[1]))

        def body(carry: Any) -> Any:
            return carry[0] + 1, step(carry[1])

        return lax.while_loop(going, body, (0, state))[1]

    @staticmethod
    def on_host(report: Callable[[Any], None], x: Any) -> None:
        @custom_vmap
        def call(x: Any) -> Any:
            jax.debug.callback(report, x)
            return x

        @call.def_vmap
        def _(size: int, batched: list[bool], x: Any) -> tuple[Any, bool]:
            return call(x), batched[0]  # once for all matrices

        call(x)


class _OnCPU(_Namespace):
    """The namespace on the CPU, with the kernels' decompositions."""

    class linalg(_Namespace.linalg):
        """As `jax.numpy.linalg`."""

        svd, eigh = staticmethod(jax_kernels.svd), staticmethod(jax_kernels.eigh)
        svdvals = staticmethod(jax_kernels.svdvals)
        qr = staticmethod(jnp.linalg.qr)

    decomposes_quickly = staticmethod(jax_kernels.decomposes_quickly)
    tall_values = staticmethod(jax_kernels.tall_values)
    tall_vectors = staticmethod(jax_kernels.tall_vectors)


xp, xp_on_cpu = _Namespace(), _OnCPU()


# Precision of products set around an operator, inside of which it is "highest".
_around: ContextVar[str | None] = ContextVar("_around")


@contextmanager
def full_precision(*_: Any) -> Iterator[None]:
    """Keep XLA from multiplying single precision in fewer digits.

    Its defaults are TensorFloat-32 on GPUs and bfloat16 on TPUs. Their errors, divided
    by gaps of singular values, would be the errors of derivatives.
    """
    token = _around.set(_around.get(jax.config.jax_default_matmul_precision))
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        _around.reset(token)


# Eps to which products are rounded on GPUs and on TPUs, for each setting.
_TF32, _BF16 = 2.0**-10, 2.0**-7
_BY_DEFAULT = _TF32, _BF16
_HIGH = _TF32, 2.0**-16  # on TPUs, by three products in bfloat16
_ROUNDED: dict[str | None, tuple[float | None, float | None]] = {
    None: _BY_DEFAULT,
    "default": _BY_DEFAULT,
    "bfloat16": _BY_DEFAULT,
    "high": _HIGH,
    "tensorfloat32": _HIGH,
    "TF32_TF32_F32": (_TF32, None),
    "F16_F16_F16": (_TF32, _TF32),
    "F16_F16_F32": (_TF32, _TF32),
    "BF16_BF16_BF16": (_BF16, _BF16),
    "BF16_BF16_F32": (_BF16, _BF16),
    "BF16_BF16_F32_X3": (2.0**-16, 2.0**-16),
}


def _device() -> Any:
    """Return the device JAX uses by default, because traced arrays have none."""
    default = jax.config.jax_default_device
    return default if hasattr(default, "platform") else jax.devices(default)[0]


def _eps_on(device: Any, precision: str | None) -> float | None:
    """Eps to which a device rounds products of single precision; None for its own."""
    on_gpu, on_tpu = _ROUNDED.get(precision, (None, None))
    if device.platform == "tpu":
        return on_tpu
    capability = getattr(device, "compute_capability", "").partition(".")[0]
    newer = capability.isdigit() and int(capability) >= 8  # has TensorFloat-32
    return on_gpu if device.platform == "gpu" and newer else None


@jax.custom_jvp
def _undifferentiated(x: jax.Array) -> jax.Array:
    return x


@_undifferentiated.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        "nothing is differentiated through products, also where the result is not "
        "used: pass what their functions depend on, and U and Vh of svd_residual, "
        "through jax.lax.stop_gradient"
    )


# Compiled as a whole: outside jit, JAX would compile each step by itself; inside,
# repeated calls are lowered once.
@partial(jax.jit, static_argnums=0)
@full_precision()
def _compiled(operation: Operation, *x: Any) -> tuple[Any, ...]:
    return operation.value(x, xp)


@partial(jax.jit, static_argnums=0)
@full_precision()
def _compiled_on_cpu(operation: Operation, *x: Any) -> tuple[Any, ...]:
    return jax_kernels.value(operation, x, xp_on_cpu)


@partial(jax.jit, static_argnums=(0, 1))
@jax_kernels.implementing
def svdinv_operation(operation: Operation, there: tuple[bool, ...], *x: Any) -> Any:
    """Call an operation outside of a trace; profiles show this name."""
    return _call_p.bind(*x, operation=operation, there=there)


def _check_precision(dtype: Any, name: str) -> None:
    """Refuse double precision where JAX would compute some of it in single."""
    if dtype in (jnp.float64, jnp.complex128) and not xp.double_precision:
        raise TypeError(
            f"{name} is {dtype.name}, and jax_enable_x64 is off: turn it on, or cast "
            f"{name} to single precision"
        )


def _outputs(
    operation: Operation, there: tuple[bool, ...], avals: Any
) -> tuple[Any, Any]:
    """Abstract outputs, and their structure with None for absent ones."""
    avals = tuple(avals)
    for aval in avals:
        _check_precision(aval.dtype, "an array")
    return _known_outputs(operation.anonymous(), there, avals, xp.double_precision)


@lru_cache(maxsize=1024)
def _known_outputs(
    operation: Operation, there: tuple[bool, ...], avals: Any, double: bool
) -> Any:
    def value(*x: Any) -> Any:
        return operation.value(filled(x, there), xp)

    closed, structure = jax.make_jaxpr(value, return_shape=True)(*avals)
    return closed.out_avals, structure


def _bind(operation: Operation, *x: Any) -> Any:
    there, kept = present(x), _varying_alike([t for t in x if t is not None])
    y = _call_p.bind(*kept, operation=operation, there=there)
    _, structure = _outputs(operation, there, map(jax.typeof, kept))
    return rebuilt(structure, filled(y, present(structure)))


def _varying_alike(x: list[Any]) -> list[Any]:
    """Let all arrays vary over each axis of a `shard_map` that one varies over."""
    axes = [_varying(t) for t in x]
    every: frozenset[Any] = frozenset().union(*axes)
    if not every:
        return x
    return [
        lax.pcast(t, tuple(every - own), to="varying") if every - own else t
        for t, own in zip(x, axes, strict=True)
    ]


def _varying(x: Any) -> frozenset[Any]:
    aval = jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if kind is None else kind.varying


def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    if _is_composed(operation) and type(operation) not in RULES:
        return operation.composed(x, _call, xp)
    return _bind(operation, *x)


def _is_composed(operation: Operation) -> bool:
    """Whether all derivatives of an operation are those of `composed`."""
    return operation.transparent and type(operation).cotangent is Operation.cotangent


def _implementation(
    *x: Any, operation: Operation, there: tuple[bool, ...]
) -> list[Any]:
    with jax.disable_jit(False):  # as for JAX's own primitives
        return svdinv_operation(operation.anonymous(), there, *x)


def _abstract(*avals: Any, operation: Operation, there: tuple[bool, ...]) -> Any:
    return _outputs(operation, there, avals)[0]


def _lowered(compiled: Any) -> Any:
    def values(*x: Any, operation: Operation, there: tuple[bool, ...]) -> list[Any]:
        y = compiled(operation.anonymous(), *filled(x, there))
        avals, structure = _outputs(operation, there, map(jax.typeof, x))
        # A kernel returns None for zero.
        pairs = [t for t, kept in zip(y, present(structure), strict=True) if kept]
        return [
            jnp.zeros(aval.shape, aval.dtype) if t is None else t
            for t, aval in zip(pairs, avals, strict=True)
        ]

    return mlir.lower_fun(values, multiple_results=True)


_lower, _lower_on_cpu = _lowered(_compiled), _lowered(_compiled_on_cpu)


def _lower_for_cpu(ctx: Any, *x: Any, **parameters: Any) -> Any:
    """Lower an operation by kernels, but not in a graph exported to run elsewhere."""
    exported = ctx.module_context.lowering_parameters.for_export
    by_kernels = jax_kernels.is_loaded() and not exported
    return (_lower_on_cpu if by_kernels else _lower)(ctx, *x, **parameters)


@full_precision()
def _jvp(
    primals: Any, tangents: Any, *, operation: Operation, there: tuple[bool, ...]
) -> Any:
    moved = [None if isinstance(t, ad.Zero) else t for t in tangents]
    x, dx = filled(primals, there), filled(moved, there)
    y = _bind(operation, *x)
    if operation.transparent:
        dy = _composed_tangent(operation, x, dx)
    else:
        dy = operation.tangent(x, y, dx, _call, xp)
    pairs = [(t, dt) for t, dt in zip(y, dy, strict=True) if t is not None]
    return [t for t, _ in pairs], [
        ad.Zero.from_primal_value(t) if dt is None else dt for t, dt in pairs
    ]


def _composed_tangent(operation: Operation, x: Any, dx: Any) -> tuple[Any, ...]:
    """Differentiate an operation through `composed`."""
    there = present(x)

    def composed(*t: Any) -> tuple[Any, ...]:
        return operation.composed(filled(t, there), _call, xp)

    pairs = [(t, dt) for t, dt in zip(x, dx, strict=True) if t is not None]
    moved = [jnp.zeros_like(t) if dt is None else dt for t, dt in pairs]
    return jax.jvp(composed, tuple(t for t, _ in pairs), tuple(moved))[1]


def _composed_transpose(
    cotangents: Any, x: Any, unknown: Any, operation: Operation, there: tuple[bool, ...]
) -> list[Any]:
    """Transpose `composed` in its `unknown` arguments, in which it is linear."""

    def linear(*moved: Any) -> Any:
        rest = iter(moved)
        given = [next(rest) if u else t for t, u in zip(x, unknown, strict=True)]
        y = operation.composed(filled(given, there), _call, xp)
        return [t for t in y if t is not None]

    structs = [t.aval for t, u in zip(x, unknown, strict=True) if u]
    g = [ad.instantiate_zeros(t) for t in cotangents]
    found = iter(jax.linear_transpose(linear, *structs)(g))
    return [next(found) if u else None for u in unknown]


@full_precision()
def _transpose(
    cotangents: Any, *x: Any, operation: Operation, there: tuple[bool, ...]
) -> list[Any]:
    unknown = [ad.is_undefined_primal(t) for t in x]
    if _is_composed(operation):
        return _composed_transpose(cotangents, x, unknown, operation, there)
    avals = [t.aval if u else jax.typeof(t) for t, u in zip(x, unknown, strict=True)]
    # JAX's cotangents are the conjugates of those of the formulas.
    given = [None if isinstance(g, ad.Zero) else jnp.conj(g) for g in cotangents]
    if all(g is None for g in given):
        return [None] * len(x)
    g = filled(given, present(_outputs(operation, there, avals)[1]))
    known = [None if u else t for t, u in zip(x, unknown, strict=True)]
    wanted = tuple(map(bool, filled(unknown, there)))
    found = operation.cotangent(filled(known, there), (), g, wanted, _call, xp)
    return [
        None if f is None or not want else jnp.conj(f)
        for f, want, is_there in zip(
            padded(found, len(there)), wanted, there, strict=True
        )
        if is_there
    ]


def _batch(x: Any, axes: Any, *, operation: Operation, there: tuple[bool, ...]) -> Any:
    # `vmap` knows over which axes of a mesh to shard arguments that are not mapped.
    in_front = jax.vmap(lambda *x: x, in_axes=tuple(axes))(*x)
    y = _call_p.bind(*in_front, operation=operation, there=there)
    return y, [0] * len(y)


_call_p = Primitive("svdinv_call")
_call_p.multiple_results = True
_call_p.def_impl(_implementation)
_call_p.def_abstract_eval(_abstract)
mlir.register_lowering(_call_p, _lower)
mlir.register_lowering(_call_p, _lower_for_cpu, platform="cpu")
ad.primitive_jvps[_call_p] = _jvp
ad.primitive_transposes[_call_p] = _transpose
batching.primitive_batchers[_call_p] = _batch


def _explicit_axes(x: Any) -> tuple[Any, ...]:
    """Return for each axis of an array the explicit axes of a mesh that divide it."""
    return tuple(getattr(getattr(jax.typeof(x), "sharding", None), "spec", ()))


class JAXBackend(Backend):
    """JAX arrays."""

    xp = xp
    triangle = None
    call = staticmethod(_call)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        x = tuple(None if t is None else lax.stop_gradient(t) for t in x)
        if operation.host and not any(isinstance(t, jax.core.Tracer) for t in x):
            on_cpu = all(t is None or _is_on_cpu(t) for t in x)
            return operation.value(x, xp_on_cpu if on_cpu else xp)
        return _bind(operation, *x)

    def is_floating(self, dtype: Any) -> bool:
        # Numbers of 8 bits and fewer have one to three digits, and some no sign.
        return super().is_floating(dtype) and dtype.itemsize > 1

    def is_constant(self, *x: Any) -> bool:
        return not any(isinstance(t, jax.core.Tracer) for t in x)

    def unless_differentiated(
        self,
        operation: SingularValues,
        f: Callable[[Any], Any],
        otherwise: Callable[[Any], Any],
        A: Any,
    ) -> Any:
        """Choose now for arrays with values; what JAX traces may be differentiated."""
        # XLA takes longer for singular values of tall matrices than for a Gram matrix,
        # and computes those of a matrix spread over devices on one device.
        by_gram = operation.method == "auto"
        if by_gram and (jax_kernels.tall(A) or xp.is_spread(A)):
            return otherwise(A)

        def of_singular_values(A: Any) -> Any:
            return f(*_bind(operation, A))

        if self.is_constant(A):
            return of_singular_values(A)
        differentiable = jax.custom_jvp(of_singular_values)
        differentiable.defjvp(
            lambda primals, tangents: jax.jvp(
                full_precision()(otherwise), primals, tangents
            )
        )
        return differentiable(A)

    def eps_of_products(self, A: Any, inside: bool) -> float | None:
        if A.dtype not in (jnp.float32, jnp.complex64):
            return None
        now = jax.config.jax_default_matmul_precision
        return _eps_on(_device(), _around.get(now) if inside else now)

    def asarray(self, x: Any, name: str) -> Any:
        if isinstance(x, jax.Array):
            _check_precision(x.dtype, name)
        try:
            return jnp.asarray(x)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array, got {kind_of(x)}") from error

    def without_derivative(self, x: Any) -> Any:
        return lax.stop_gradient(_undifferentiated(x))

    def matrices(self, A: Any, name: str, ndim: int = 2, **options: Any) -> Any:
        A, restore = super().matrices(A, name, ndim, **options)
        # JAX refuses products over explicit axes.
        spec = _explicit_axes(A)
        if ndim > 1 and len(spec) == A.ndim and some(*spec[-2:]):
            raise ValueError(
                f"{name} must be sharded along its rows or columns over axes of the "
                f"type Auto, not the explicit {spec}: make the mesh by "
                "jax.sharding.Mesh, or by jax.make_mesh with axis_types"
            )
        return A, restore

    def placed(self, values: Any, A: Any) -> Any:
        spec = _explicit_axes(A)[: values.ndim]
        # Outside `set_mesh` JAX itself makes the values of arrays agree.
        if _explicit_axes(values) == spec or jax.sharding.get_abstract_mesh().empty:
            return values
        return jax.sharding.reshard(values, jax.sharding.PartitionSpec(*spec))

    def parameter(self, value: Any, like: Any, name: str = "value") -> Any:
        convert = getattr(value, "__jax_array__", None)  # None for a tracer
        if convert is not None:  # such as a variable of Keras
            value = convert()
        real = jnp.finfo(like.dtype)
        value = number_within(value, float(real.max))
        try:
            if value is None:
                raise TypeError("there is no number")
            if isinstance(value, list | tuple):
                value = jnp.asarray(value)
            dtype = jnp.result_type(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number or an array") from error
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got {dtype}")
        return jnp.asarray(value, dtype=real.dtype)

    def normal(self, shape: tuple[int, ...], like: Any, seed: Any) -> Any:
        """Draw normal numbers; JAX has no global state, so that None is seed 0."""
        dtype = getattr(seed, "dtype", None)
        # Keys have a dtype of their own, or an axis; a number may be traced.
        own = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        is_key = own or getattr(seed, "ndim", 0) > 0
        key = seed if is_key else jax.random.key(0 if seed is None else seed)
        return jax.random.normal(key, shape, like.dtype)

    def slope(self, f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


class Jacobian:
    """Products with the Jacobian of a function, of batches of vectors at once.

    Parameters
    ----------
    f : callable
        From `theta` to one array.
    theta : pytree of Array
        Where to differentiate: real arrays of one dtype.
    chunk : int, optional
        Largest number of products at once.

    Attributes
    ----------
    at : Array
        `theta`, as `jax.flatten_util.ravel_pytree` orders it, shape (n,).
    value : Array
        ``f(theta)``.

    Raises
    ------
    TypeError
        If `theta` or ``f(theta)`` is not real floating point of one dtype.
    ValueError
        If `chunk` is below 1.
    """

    def __init__(
        self, f: Callable[[Any], Any], theta: Any, chunk: int | None = None
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self._chunk = chunk
        kinds = {jnp.result_type(t) for t in jax.tree.leaves(theta)}
        if len(kinds) != 1 or not jnp.issubdtype(next(iter(kinds)), jnp.floating):
            raise TypeError(
                "theta must be arrays of one real floating point dtype, got "
                f"{sorted(map(str, kinds))}"
            )
        self.at, rebuilt = ravel_pytree(theta)

        def flat(x: Any) -> Any:
            return f(rebuilt(x))

        self.value, self._push = jax.linearize(flat, self.at)
        if getattr(self.value, "dtype", None) != self.at.dtype:
            raise TypeError(
                f"f must return an array of the dtype of theta, {self.at.dtype}, got "
                f"{getattr(self.value, 'dtype', type(self.value))}"
            )
        _, self._pull = jax.vjp(flat, self.at)

    def forward(self, V: Any) -> Any:
        """Return J v for each row v of V, shape (l, n)."""
        return _each(self._push, V, self._chunk)

    def adjoint(self, U: Any) -> Any:
        """Return J^T u for each row u of U."""
        return _each(self._pull, U, self._chunk)[0]


# `product` is a pytree of what it saves at the point: compiled once for all points.
@partial(jax.jit, static_argnums=2)
def _each(product: Callable[[Any], Any], X: Any, chunk: int | None) -> Any:
    return lax.map(product, X, batch_size=chunk or X.shape[0])
