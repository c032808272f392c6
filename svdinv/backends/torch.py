"""PyTorch's backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.overrides import is_tensor_like

from svdinv.backends import torch_namespace as xp
from svdinv.backends.torch_calls import (
    call,
    inside_transform,
    is_constant,
    is_recorded,
    value_by_kernel,
)
from svdinv.backends.torch_kernels import memory
from svdinv.backends.torch_namespace import (
    constant,
    eps_of_products,
    full_precision,
)
from svdinv.backends.torch_node import factors_by_node, is_kept, is_node
from svdinv.backends.torch_sharded import check_placements, is_sharded, replicated
from svdinv.core.backend import Backend, kind_of, number_within
from svdinv.core.operation import Operation
from svdinv.kernels.memory import by_kernel, value

# LAPACK and cuSOLVER have no half precision.
_COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}
_PRECISIONS = {torch.float32, torch.float64, torch.complex64, torch.complex128}


@constant
def _constant_normal(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: Any
) -> Tensor:
    """Draw a constant of the traced graph; Dynamo traces no generators."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


def _represented(x: Any) -> Any:
    """Tensor of an object that stands for one by `__torch_function__`, else `x`.

    An example is a variable of Keras; derivatives are those in its tensor.
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
    call = staticmethod(call)

    by_kernel = staticmethod(value_by_kernel)
    is_constant = staticmethod(is_constant)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        x = tuple(t if t is None else t.detach() for t in x)
        if is_node(operation, x):
            y = factors_by_node(operation, *x)
        else:
            y = by_kernel(operation, x, memory, xp)
        if y is None:
            with torch.no_grad(), full_precision(x[0]):
                y = value(operation, x, None, xp)
        return y

    def asarray(self, x: Any, name: str) -> Tensor:
        """Return the tensor that `x` is or stands for; nothing else is converted."""
        x = _represented(x)
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {kind_of(x)}")
        return x

    def parameter(self, value: Any, like: Tensor, name: str = "value") -> Tensor:
        # `as_tensor` takes twice as long, and makes symbols constant.
        if type(value) in (float, int, torch.SymInt, torch.SymFloat):
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
        if getattr(dtype, "kind", None) == "c":  # of NumPy, whose cast only warns
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

    def materialised(self, x: Tensor) -> Tensor:
        # `mH` marks a tensor as conjugate, and `Tensor.numpy` refuses those.
        return x.resolve_conj()

    def normal(self, shape: tuple[int, ...], like: Tensor, seed: Any) -> Tensor:
        if is_sharded(like):
            raise ValueError("A must be no DTensor: each device would draw anew")
        if like.device.type == "meta":
            seed = None  # there are no values to draw
        elif isinstance(seed, Integral) and torch.compiler.is_compiling():
            # `index` makes a length constant that Dynamo takes for a symbol.
            sides = index(shape[-2]), index(shape[-1])
            one = _constant_normal(sides, like.dtype, like.device, seed)
            return one.expand(shape)
        if isinstance(seed, Integral):
            # The same for all matrices that a transform maps over; the transform may
            # allow no random numbers.
            generator = torch.Generator(like.device).manual_seed(int(seed))
            with torch._C._DisableFuncTorch():
                return torch.randn(
                    shape, dtype=like.dtype, device=like.device, generator=generator
                )
        if not (seed is None or isinstance(seed, torch.Generator)):
            raise TypeError(f"seed must be an integer or a Generator, got {seed!r}")
        # With generator=None, PyTorch accepts no symbolic lengths of an export.
        source = {} if seed is None else {"generator": seed}
        return torch.randn(shape, dtype=like.dtype, device=like.device, **source)

    def slope(self, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor] | None:
        """Differentiate `f` by reverse mode, because forward mode does not nest."""
        if is_kept():
            return None

        def slope(x: Tensor) -> Tensor:
            if torch.compiler.is_compiling() or inside_transform():
                y, pullback = torch.func.vjp(f, x)
                return pullback(torch.ones_like(y))[0]
            # torch.func refuses hooks on saved tensors, such as those of a checkpoint.
            recorded = is_recorded((x,))
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
        return dtype in _PRECISIONS or dtype in _COMPUTED_IN  # none of 8 bits

    def half_precision(self, dtype: torch.dtype) -> tuple[torch.dtype, float] | None:
        inner = _COMPUTED_IN.get(dtype)
        return None if inner is None else (inner, torch.finfo(dtype).eps)

    def eps_of_products(self, A: Tensor, inside: bool) -> float | None:
        return eps_of_products(A, inside)


def leaves_of(theta: Any) -> tuple[list[Tensor], Callable[[list[Any]], Any]]:
    """Return the tensors in `theta`, and the function that replaces them by others."""
    if isinstance(theta, Tensor):
        return [theta], lambda leaves: leaves[0]
    if isinstance(theta, Mapping):
        names = list(theta)
        return list(theta.values()), lambda leaves: dict(
            zip(names, leaves, strict=True)
        )
    return list(theta), list


def as_vector(leaves: list[Tensor]) -> Tensor:
    """Concatenate flattened tensors, without their derivatives."""
    return torch.cat([t.detach().reshape(-1) for t in leaves])


class Jacobian:
    """Products with the Jacobian of a function, of batches of vectors at once.

    Parameters
    ----------
    f : callable
        From `theta` to one tensor.
    theta : Tensor, or mapping or sequence of Tensor
        Where to differentiate: real tensors of one dtype on one device.
    chunk : int, optional
        Largest number of products at once.

    Attributes
    ----------
    at : Tensor
        `theta`, flattened and concatenated, shape (n,).
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
        """Return J v for each row v of V, shape (l, n)."""
        return self._each(lambda v: torch.func.jvp(self._flat, (self.at,), (v,))[1], V)

    def adjoint(self, U: Tensor) -> Tensor:
        """Return J^T u for each u along the first axis of U."""
        return self._each(lambda u: self._pull(u)[0], U)

    def _each(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.func.vmap(product, chunk_size=self._chunk)(X)
