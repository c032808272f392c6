"""JAX's small matrices on the CPU, by a custom call of XLA.

Which operations are computed by kernels is decided when JAX lowers a primitive for
the CPU. There the batch may be divided among devices, and a mapped axis is one of the
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.mlir import ir

from svdinv import kernels
from svdinv.core.guarded import independent, marked
from svdinv.core.operation import Operation, filled, present
from svdinv.core.spectral_operations import Map, RelativeMap
from svdinv.core.svd_operations import SingularValues
from svdinv.kernels.rules import ArraySpec, Decompose, Plan, Tall, plan, values_plan

_TARGET = "svdinv_kernels"
# Elements up to which a kernel is faster than XLA for the product U diag(y) V^H.
_MOST_MAPPED = 256
_handler = kernels.xla_handler()
if _handler is not None:
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(_handler), platform="cpu")
    jax.ffi.register_ffi_target_as_batch_partitionable(_TARGET)


class Namespace:
    """`jax.numpy`, with an `eigh` that reads one triangle."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    class linalg:
        """As `jax.numpy.linalg`, without the silent errors of CUDA's libraries."""

        diagonal, det = staticmethod(jnp.linalg.diagonal), staticmethod(jnp.linalg.det)

        @staticmethod
        def svd(A: Any, *, full_matrices: bool = True) -> tuple[Any, ...]:
            # For some matrices with infinity, LAPACK never returns.
            known = jnp.where(jnp.isfinite(A), A, jnp.nan)
            factors = jnp.linalg.svd(known, full_matrices=full_matrices)
            return marked(A, tuple(factors), jnp)

        @staticmethod
        def svdvals(A: Any) -> Any:
            known = jnp.where(jnp.isfinite(A), A, jnp.nan)
            S = jnp.linalg.svd(known, compute_uv=False)
            return marked(A, (S,), jnp)[0]

        @staticmethod
        def eigh(A: Any) -> tuple[Any, ...]:
            factors = jnp.linalg.eigh(A, symmetrize_input=False)
            return marked(jnp.tril(A), tuple(factors), jnp)

        @staticmethod
        def qr(A: Any) -> tuple[Any, ...]:
            return tuple(jnp.linalg.qr(independent(A, jnp)))


def chosen() -> str:
    """Describe which kernels serve JAX on the CPU, or why none do."""
    return kernels.chosen()


def is_loaded() -> bool:
    """Whether XLA may call the kernels."""
    return _handler is not None and kernels.is_loaded()


def value(operation: Operation, x: Any, xp: Any) -> Any:
    """Compute an operation by a kernel, or else by its own array functions."""
    arrays = [None if t is None else ArraySpec(t.shape, t.dtype.name) for t in x]
    found = plan(operation, arrays) if is_loaded() else None
    if found:
        mapped = isinstance(operation, Map | RelativeMap)
        large = mapped and found.m * found.n > _MOST_MAPPED
        # For a kernel, XLA would gather a matrix that is spread over devices.
        alone = prod(found.batch) == 1
        if large or (alone and kernels.suits_alone(found.kind, found.m, found.n)):
            found = None
    return operation.value(x, xp) if found is None else _called(found, x, xp)


def _called(plan: Plan, x: Any, xp: Any) -> Any:
    """Call a kernel; an output that it does not compute is None."""
    if plan.further is not None:
        x = (*x, plan.further(x, xp))
    operands = [x[operand.source] for operand in plan.operands]
    numbers = plan.encoded([not jnp.iscomplexobj(t) for t in operands], pairs=True)
    shapes: list[Any] = []
    for result in plan.written:
        shape = [plan.length(letter) for letter in result.shape]
        shape = shape[::-1] if result.transposed else shape
        dtype = plan.dtype
        if result.double:  # JAX may have no double precision: pairs of single
            shape[-1] *= 2
        elif result.real:
            dtype = plan.result_dtype(result)
        shapes.append((tuple(shape), dtype))
    y = filled(
        _kernel_p.bind(
            *operands, plan=tuple(numbers), shapes=tuple(shapes), batch=plan.batch
        ),
        present(plan.results),
    )
    return plan.outputs(
        [
            jnp.matrix_transpose(t) if result and result.transposed else t
            for t, result in zip(y, plan.results, strict=True)
        ]
    )


_kernel_p = Primitive("svdinv_kernel")
_kernel_p.multiple_results = True


def implementing(bind: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that binds a primitive and is compiled to implement it.

    If `jax_debug_nans` finds NaN in its results, JAX then reports it, instead of
    running the function again without compilation.
    """
    bind._apply_primitive = True  # type: ignore[attr-defined]
    return bind


@cache
def _compiled(**parameters: Any) -> Any:
    @implementing
    def svdinv_kernel(*x: Any) -> Any:
        return _kernel_p.bind(*x, **parameters)

    return jax.jit(svdinv_kernel)


@_kernel_p.def_impl
def _(*x: Any, **parameters: Any) -> Any:
    with jax.disable_jit(False):
        return _compiled(**parameters)(*x)


@_kernel_p.def_abstract_eval
def _(*x: Any, plan: Any, shapes: Any, batch: Any) -> Any:
    def like(*x: Any) -> Any:
        """Return arrays that depend on the operands as the results do."""
        total = sum(
            jnp.sum(jnp.real(t), axis=tuple(range(len(batch), t.ndim))) for t in x
        )
        return [
            jnp.broadcast_to(
                total.reshape(*batch, *(1 for _ in shape)), (*batch, *shape)
            ).astype(dtype)
            for shape, dtype in shapes
        ]

    # Only of arrays with values does JAX say how devices share them.
    return jax.make_jaxpr(like)(*x).out_avals


def _lowering(ctx: Any, *x: Any, plan: Any, shapes: Any, batch: Any) -> Any:
    axes = ir.DictAttr.get({"num_batch_dims": ir.StringAttr.get(str(len(batch)))})
    rule = _sharding_rule(len(batch), ctx.avals_in, ctx.avals_out)
    shared = {
        "mhlo.frontend_attributes": axes,
        "sdy.sharding_rule": ir.Attribute.parse(rule),
    }
    lower = jax.ffi.ffi_lowering(_TARGET, extra_attributes=shared)
    return lower(ctx, *x, plan=np.asarray(plan, np.int64))


def _sharding_rule(batch: int, operands: Any, results: Any) -> str:
    """Shardy's rule: only axes of the batch are divided, those of all arrays alike."""
    sizes: list[int] = list(operands[0].shape[:batch])

    def axes(aval: Any) -> str:
        first = len(sizes)
        sizes.extend(aval.shape[batch:])
        factors = [*range(batch), *range(first, len(sizes))]
        return f"[{', '.join(map(_factor, factors))}]"

    given, found = (", ".join(map(axes, avals)) for avals in (operands, results))
    lengths = ", ".join(f"{_factor(i)}={size}" for i, size in enumerate(sizes))
    whole = ", ".join(_factor(i) for i in range(batch, len(sizes)))
    replicated = f" need_replication={{{whole}}}" if whole else ""
    return (
        f"#sdy.op_sharding_rule<({given})->({found}) {{{lengths}}}{replicated}, custom>"
    )


def _factor(index: int) -> str:
    """Shardy's names of factors: i to z, and then z_1 and so on."""
    return "ijklmnopqrstuvwxyz"[index] if index < 18 else f"z_{index - 17}"


mlir.register_lowering(_kernel_p, _lowering, platform="cpu")


def decomposes_quickly(A: Any) -> bool:
    return A.ndim > 1 and is_loaded() and _supports("svd", A)


def _supports(kind: str, A: Any) -> bool:
    return kernels.supports(kind, A.dtype.name, prod(A.shape[:-2]), *A.shape[-2:])


def svd(A: Any, *, full_matrices: bool = True) -> Any:
    """Singular value decomposition, as `jax.numpy.linalg.svd`."""
    if full_matrices and A.shape[-2] != A.shape[-1]:
        return Namespace.linalg.svd(A)
    return value(Decompose("svd"), (A,), Namespace())


def eigh(A: Any) -> Any:
    """Eigendecomposition from the lower triangles."""
    return value(Decompose("eigh"), (A,), Namespace())


def svdvals(A: Any) -> Any:
    """Singular values, as `jax.numpy.linalg.svdvals`."""
    arrays = (ArraySpec(A.shape, A.dtype.name),)
    found = values_plan(SingularValues(), arrays) if is_loaded() else None
    return (
        Namespace.linalg.svdvals(A) if found is None else _called(found, (A,), jnp)[0]
    )


def tall(A: Any) -> bool:
    """Whether kernels support the Gram matrix of matrices of the shape of A."""
    return is_loaded() and _supports("tall_gram", A)


def tall_values(A: Any) -> Any:
    if not tall(A):
        return None
    return value(Tall("eigen"), (A, *value(Tall("gram"), (A,), jnp)), jnp)


def tall_vectors(A: Any, W: Any) -> Any:
    """Compute A W, or (A^H W)^H of a wide A, for W of `tall_values`."""
    return value(Tall("product"), (A, W), jnp)[0]
