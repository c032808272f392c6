"""PyTorch: an operation becomes a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from itertools import zip_longest
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.overrides import is_tensor_like

from svdinv.backends import torch_namespace as xp
from svdinv.backends.torch_kernels import memory
from svdinv.backends.torch_sharded import check_placements, is_sharded, replicated
from svdinv.core.backend import Backend, number_within
from svdinv.core.operation import Operation, in_front, padded, some
from svdinv.kernels.memory import by_kernel, value

__all__ = ["Jacobian", "TorchBackend", "as_vector", "leaves_of", "without_autocast"]

_F = TypeVar("_F", bound=Callable[..., Any])

# LAPACK and cuSOLVER have no half precision.
_COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}
_PRECISIONS = {torch.float32, torch.float64, torch.complex64, torch.complex128}

_NOTHING = nullcontext()


def _constant(f: _F) -> _F:
    """Mark a constant of a traced graph, as `torch.compiler.assume_constant_result`.

    That would import Dynamo now, which takes as long as to import PyTorch.
    """
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


@_constant
def _inside_transform() -> bool:
    """Whether torch.func or forward mode is active; constant for one trace."""
    transform = torch._C._functorch.peek_interpreter_stack() is not None
    return transform or forward_ad._current_level >= 0


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from running the derivatives' products in half precision."""
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return _NOTHING


def _tracked(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let forward mode of an outer level follow what a Function's jvp computes.

    PyTorch switches it off meanwhile, and loses derivatives of derivatives silently.
    """

    @wraps(jvp)
    def call(*arguments: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(*arguments)

    return call


def _value(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Compute the value alone."""
    return value(operation, x, memory, xp)


def _by_arrays(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Compute the value where no kernel does."""
    with without_autocast(_first(x)):
        return tuple(operation.value(x, xp))


def _is_recorded(x: Any) -> bool:
    """Whether autograd has to know of what is computed from these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in x if t is not None)


def _first(x: Any) -> Tensor:
    for t in x:
        if t is not None:
            return t
    raise ValueError("there is no tensor")


def _split(ctx: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    """Split what was saved into inputs, None if they were not, and outputs."""
    operation, count = ctx.operation, ctx.count
    if not operation.saves_inputs:
        return (None,) * count, saved
    return saved[:count], saved[count:]


def _alike(d: Tensor | None, like: Tensor | None) -> Tensor | None:
    """Cast a tangent to the precision of what it belongs to.

    PyTorch gives the product of a number and a tensor without axes a tangent of double
    precision.
    """
    if d is None or like is None or d.is_complex() != like.is_complex():
        return d
    return d.to(like.dtype)


def _pull(ctx: Any, g: tuple[Any, ...], call: Callable[..., Any]) -> tuple[Any, ...]:
    if not some(*g):
        return None, *padded((), ctx.count)
    x, y = _split(ctx, ctx.saved_tensors)
    with without_autocast(_first(g)):
        wanted = ctx.needs_input_grad[1:]
        found = ctx.operation.cotangent(x, y, g, wanted, call, xp)
    pairs = zip(padded(found, ctx.count), wanted, strict=True)
    return None, *(t if want else None for t, want in pairs)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(operation: Operation, *x: Any) -> tuple[Any, ...]:
        return by_kernel(operation, x, memory, xp) or _by_arrays(operation, *x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        operation, *x = inputs
        ctx.operation, ctx.count = operation, len(x)
        ctx.set_materialize_grads(False)
        kept = (
            *(x if operation.saves_inputs else ()),
            *(output if operation.saves_outputs else ()),
        )
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[Any, ...]:
        return _pull(ctx, g, _value)


class _Transformed(_Compiled):
    # Dynamo refuses a Function that has its own jvp, hence two of them.
    @staticmethod
    def forward(operation: Operation, *x: Any) -> tuple[Any, ...]:
        # Forward mode takes no views of what was computed inside.
        return tuple(
            y if y is None or not y._is_view() else y.data
            for y in _Compiled.forward(operation, *x)
        )

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[Any, ...]:
        # A tangent of the cotangent, or of what was saved, is a derivative to be kept.
        kept = torch.is_grad_enabled() or forward_ad._current_level >= 0
        return _pull(ctx, g, _call if kept else _value)

    @staticmethod
    @_tracked
    def jvp(ctx: Any, _: Any, *dx: Any) -> tuple[Any, ...]:
        # Without the tangents of the level that is being computed.
        saved = tuple(
            None if t is None else forward_ad.unpack_dual(t).primal
            for t in ctx.saved_tensors
        )
        x, y = _split(ctx, saved)
        known = x if ctx.operation.saves_inputs else y[:1] * len(x)
        dx = tuple(_alike(d, like) for d, like in zip_longest(dx, known))
        with without_autocast(_first((*saved, *dx))):
            tangents = ctx.operation.tangent(x, y, dx, _call, xp)
        return tuple(None if t is None else t.resolve_conj() for t in tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, operation: Operation, *x: Any) -> Any:
        y = _Transformed.apply(operation, *in_front(x, in_dims[1:], xp))
        return y, tuple(None if t is None else 0 for t in y)


class _Plain(torch.autograd.Function):
    """For reverse mode alone: what the transforms need takes as long as a small SVD."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, *x: Any) -> tuple[Any, ...]:
        y = by_kernel(operation, x, memory, xp) or _by_arrays(operation, *x)
        ctx.operation, ctx.count = operation, len(x)
        ctx.set_materialize_grads(False)
        inputs = x if operation.saves_inputs else ()
        ctx.save_for_backward(*inputs, *(y if operation.saves_outputs else ()))
        return y

    backward = _Transformed.backward

    @classmethod
    def apply(cls, *x: Any) -> Any:
        # Without a signature to fill in.
        plain: Any = super(torch.autograd.Function, cls)
        return plain.apply(*unwrap_dead_wrappers(x))


def _by_kernel(operation: Operation, *x: Any) -> Any:
    """Compute the value by a kernel, unless it is to be differentiated."""
    # Forward mode is nothing that `memory.key` sees.
    if forward_ad._current_level >= 0 or _is_recorded(x):
        return None
    return by_kernel(operation, x, memory, xp)


def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    if operation.transparent:
        return operation.composed(x, _call, xp)
    if not torch.compiler.is_compiling():
        if _inside_transform():
            return _Transformed.apply(operation, *x)
        if _is_recorded(x):
            return _Plain.apply(operation, *x)
        y = by_kernel(operation, x, memory, xp)
        if y is not None:
            return y
        with torch.no_grad():
            return _by_arrays(operation, *unwrap_dead_wrappers(x))
    # Dynamo 2.13 drops a Function's own derivatives inside a transform, without a
    # word (pytorch/pytorch#193279). What is raised while it traces makes it run the
    # caller eagerly, or fail with fullgraph=True.
    if _inside_transform():
        raise RuntimeError("torch.func or forward mode inside torch.compile")
    # It passes a Function that takes *x one too many if nothing is differentiated.
    return (_Compiled.apply if _is_recorded(x) else _Compiled.forward)(operation, *x)


@_constant
def _constant_normal(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: Any
) -> Tensor:
    """Draw a constant of the traced graph; Dynamo traces no generators."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


def _represented(x: Any) -> Any:
    """Tensor of an object that stands for one by `__torch_function__`, else `x`.

    Such as a variable of Keras, of which the tensor is what is differentiated in.
    """
    if isinstance(x, Tensor) or not is_tensor_like(x):
        return x
    return torch.positive(x)  # x itself, by the protocol


def _unchanged(x: Any) -> Any:
    return x


class TorchBackend(Backend):
    """PyTorch tensors."""

    xp = xp
    shape_error = RuntimeError
    call = staticmethod(_call)

    by_kernel = staticmethod(_by_kernel)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        x = tuple(t if t is None else t.detach() for t in x)
        y = by_kernel(operation, x, memory, xp)
        if y is None:
            with torch.no_grad(), without_autocast(x[0]):
                y = value(operation, x, None, xp)
        return y

    def asarray(self, x: Any, name: str) -> Tensor:
        """See `Backend`; nothing but a tensor is one."""
        x = _represented(x)
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        return x

    def parameter(self, value: Any, like: Tensor, name: str = "value") -> Tensor:
        if type(value) in (float, int):  # `as_tensor` takes twice as long
            kind = {"dtype": like.real.dtype, "device": like.device}
            try:
                return replicated(torch.scalar_tensor(value, **kind), like)
            except (RuntimeError, OverflowError):
                value = number_within(value, torch.finfo(like.real.dtype).max)
        value = _represented(value)
        if isinstance(value, Tensor):
            if value.dtype.is_complex:
                raise TypeError(f"{name} must be real, got {value.dtype}")
            return replicated(value.to(like.device, like.real.dtype), like)
        dtype = getattr(value, "dtype", None)
        if getattr(dtype, "kind", None) == "c":  # of NumPy, whose cast but warns
            raise TypeError(f"{name} must be real, got {dtype}")
        try:
            tensor = torch.as_tensor(value, dtype=like.real.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be a number or a tensor") from error
        return replicated(tensor, like)

    def matrices(self, A: Any, name: str, ndim: int = 2, **options: Any) -> Any:
        if type(A) is Tensor and A.dtype in _PRECISIONS and A.ndim >= ndim:
            return A, _unchanged
        A, restore = super().matrices(A, name, ndim, **options)
        check_placements(A, name)
        return A, restore

    def stop_gradient(self, x: Tensor) -> Tensor:
        return x.detach()

    def normal(self, shape: tuple[int, ...], like: Tensor, seed: Any) -> Tensor:
        if is_sharded(like):
            raise ValueError("A must be no DTensor: each device would draw anew")
        if like.device.type == "meta":
            seed = None  # there are no values to draw
        elif isinstance(seed, Integral) and torch.compiler.is_compiling():
            one = _constant_normal(shape[-2:], like.dtype, like.device, seed)
            return one.expand(shape)
        if isinstance(seed, Integral):
            # The same for all matrices that a transform maps over, which may have no
            # random numbers of its own.
            generator = torch.Generator(like.device).manual_seed(int(seed))
            with torch._C._DisableFuncTorch():
                return torch.randn(
                    shape, dtype=like.dtype, device=like.device, generator=generator
                )
        if not (seed is None or isinstance(seed, torch.Generator)):
            raise TypeError(f"seed must be an integer or a Generator, got {seed!r}")
        return torch.randn(shape, dtype=like.dtype, device=like.device, generator=seed)

    def slope(self, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """See `Backend`; by reverse mode, because forward mode does not nest."""

        def slope(x: Tensor) -> Tensor:
            if torch.compiler.is_compiling() or _inside_transform():
                y, pullback = torch.func.vjp(f, x)
                return pullback(torch.ones_like(y))[0]
            # torch.func refuses hooks on what is saved, those of a checkpoint.
            recorded = _is_recorded((x,))
            with torch.enable_grad():
                if not x.requires_grad:  # autograd takes no inference tensors
                    x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
                y = f(x)
                if not y.requires_grad:
                    return torch.zeros_like(x)
                (found,) = torch.autograd.grad(
                    y.sum(), x, create_graph=recorded, materialize_grads=True
                )
                return found

        return slope

    def is_floating(self, dtype: torch.dtype) -> bool:
        return dtype.is_floating_point or dtype.is_complex

    def half_precision(self, dtype: torch.dtype) -> tuple[torch.dtype, float] | None:
        inner = _COMPUTED_IN.get(dtype)
        return None if inner is None else (inner, torch.finfo(dtype).eps)


def leaves_of(theta: Any) -> tuple[list[Tensor], Callable[[list[Any]], Any]]:
    """Return the tensors of parameters, and what makes such parameters of others."""
    if isinstance(theta, Tensor):
        return [theta], lambda leaves: leaves[0]
    if isinstance(theta, Mapping):
        names = list(theta)
        return list(theta.values()), lambda leaves: dict(
            zip(names, leaves, strict=True)
        )
    return list(theta), list


def as_vector(leaves: list[Tensor]) -> Tensor:
    """Put tensors one behind the other, without their derivatives."""
    return torch.cat([t.detach().reshape(-1) for t in leaves])


class Jacobian:
    """Products with the Jacobian of a function, of batches of vectors at once.

    Parameters
    ----------
    f : callable
        From `theta` to one tensor.
    theta : Tensor, or mapping or sequence of Tensor
        Where to take it: real, of one dtype and on one device.
    chunk : int, optional
        At most so many products at once.

    Attributes
    ----------
    at : Tensor
        `theta`, one behind the other, shape (n,).
    value : Tensor
        ``f(theta)``.

    Raises
    ------
    TypeError
        If `theta` or ``f(theta)`` is not real floating point of one dtype.
    """

    def __init__(
        self, f: Callable[[Any], Tensor], theta: Any, chunk: int | None = None
    ) -> None:
        self._f, self._chunk = f, chunk
        leaves, self._rebuilt = leaves_of(theta)
        kinds = {(t.dtype, t.device) for t in leaves}
        if len(kinds) != 1 or not leaves[0].is_floating_point():
            raise TypeError(
                "theta must be tensors of one real floating point dtype on one "
                f"device, got {sorted(map(str, kinds))}"
            )
        self._shapes = [t.shape for t in leaves]
        self.at = as_vector(leaves)
        with torch.no_grad():
            self.value, self._pull = torch.func.vjp(self._flat, self.at)

    def _flat(self, vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in self._shapes])
        pairs = zip(parts, self._shapes, strict=True)
        y = self._f(self._rebuilt([part.reshape(shape) for part, shape in pairs]))
        if not isinstance(y, Tensor) or y.dtype != vector.dtype:
            raise TypeError(
                f"f must return a tensor of the dtype of theta, {vector.dtype}, got "
                f"{getattr(y, 'dtype', type(y))}; split a complex one by view_as_real"
            )
        return y

    def forward(self, V: Tensor) -> Tensor:
        """Return J v for each of a block of v, shape (l, n)."""
        return self._each(lambda v: torch.func.jvp(self._flat, (self.at,), (v,))[1], V)

    def adjoint(self, U: Tensor) -> Tensor:
        """Return the transpose of J times u, for each of a block of u."""
        return self._each(lambda u: self._pull(u)[0], U)

    def _each(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.func.vmap(product, chunk_size=self._chunk)(X)
