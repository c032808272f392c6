"""PyTorch: spectral maps as autograd Functions that can be differentiated twice.

`_Map`, its transposed derivative `_Pullback` and its derivative `_Tangent` are
each other's derivatives; what comes after the second raises. The factors enter as
arrays without a derivative: each Function knows its own in A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from svdinv.backends import torch_namespace as xp
from svdinv.backends.torch import (
    COMPUTED_IN,
    differentiable,
    inside_transform,
    look,
    primals,
    tracked,
    without_autocast,
)
from svdinv.backends.torch_threads import by_blocks
from svdinv.core.factors import factorise as core_factorise
from svdinv.core.factors import largest_value
from svdinv.core.functions import Leading, SpectralFunction
from svdinv.core.operation import SVD, Options, leading_triplets
from svdinv.core.sampled import sampled_derivative
from svdinv.core.spectral import (
    spectral_derivative,
    spectral_map,
    spectral_second_derivative,
)
from svdinv.operators import leading_sum

__all__ = ["Toolbox"]

Factors: TypeAlias = tuple[Tensor, ...]

_svd = differentiable(SVD)


class _Last(torch.autograd.Function):
    """Pass a second derivative on, and refuse to differentiate it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *inputs: Tensor | None) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise NotImplementedError("svdinv's operators have two derivatives, not three")

    jvp = backward


def _second(
    function: SpectralFunction,
    A: Tensor,
    tau: Tensor | None,
    G: Tensor,
    X: Tensor,
    dtau: Tensor | None,
    dtau_G: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    # Anew, because vectors from a Gram matrix are not all orthogonal.
    with torch.no_grad():
        factors = tuple(xp.linalg.svd(A, full_matrices=False))
    gA, gtau = spectral_second_derivative(
        function, A, tau, factors, G, X, dtau, dtau_G, xp=xp
    )
    if torch.is_grad_enabled():
        gA = _Last.apply(gA, A, tau)
        gtau = None if gtau is None else _Last.apply(gtau, A, tau)
    return gA, gtau


def _batched(info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    """Bring the batch axis of vmap to the front of every tensor."""
    return tuple(
        x
        if not isinstance(x, Tensor)
        else x.expand(info.batch_size, *x.shape)
        if axis is None
        else x.movedim(axis, 0)
        for x, axis in zip(arguments, in_dims, strict=True)
    )


def _add(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _value(
    function: SpectralFunction, A: Tensor, tau: Tensor | None, factors: Factors
) -> Tensor:
    def run(A: Tensor, tau: Tensor | None, *factors: Tensor) -> tuple[Tensor]:
        return (spectral_map(function, A, tau, factors, xp=xp),)

    with without_autocast(A):
        (result,) = by_blocks(run, A, tau, *factors) or run(A, tau, *factors)
    # A Function may not return a view of what it is given.
    return result.clone() if len(factors) == 1 else result


def _derivative(
    function: SpectralFunction,
    A: Tensor,
    tau: Tensor | None,
    ratio: Tensor | None,
    G: Tensor,
    factors: Sequence[Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Cotangents of A, and of tau or of the ratio that it is of s_1."""

    def run(A: Tensor, tau: Any, ratio: Any, G: Tensor, *factors: Tensor) -> Any:
        gA, gtau = spectral_derivative(
            function, A, tau, factors, G, transposed=True, ratio=ratio, xp=xp
        )
        return (gA,) if gtau is None else (gA, gtau)

    arguments = A, tau, ratio, G, *factors
    gA, *gtau = by_blocks(run, *arguments) or run(*arguments)
    return gA, gtau[0] if gtau else None


class _CompiledMap(torch.autograd.Function):
    """F(A, tau), for Dynamo, which refuses a Function that has its own jvp."""

    @staticmethod
    def forward(
        A: Tensor, tau: Tensor | None, function: SpectralFunction, *factors: Tensor
    ) -> Tensor:
        return _value(function, A, tau, factors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        A, tau, ctx.function, *factors = inputs
        ctx.save_for_backward(A, tau, *factors)
        ctx.save_for_forward(A, tau, *factors)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        A, tau, *factors = ctx.saved_tensors
        with without_autocast(A):
            gA, gtau = _derivative(ctx.function, A, tau, None, G, factors)
        return gA, gtau, None, *(None for _ in factors)


class _CompiledRelative(_CompiledMap):
    """F(A, ratio s_1)."""

    @staticmethod
    def forward(
        A: Tensor, ratio: Tensor, function: SpectralFunction, *factors: Tensor
    ) -> Tensor:
        return _value(function, A, ratio * largest_value(A, factors, xp), factors)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        A, ratio, *factors = ctx.saved_tensors
        tau = ratio * largest_value(A, factors, xp)
        with without_autocast(A):
            gA, gratio = _derivative(ctx.function, A, tau, ratio, G, factors)
        return gA, gratio, None, *(None for _ in factors)


class _Relative(_CompiledRelative):
    """F(A, ratio s_1), which further derivatives see as composed of its parts."""

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return _CompiledRelative.backward(ctx, G)
        A, ratio, *factors = ctx.saved_tensors
        top = leading_sum(Toolbox(), A, 1, factors)[..., None]
        gA, gtau = _Pullback.apply(A, ratio * top, G, ctx.function, *factors)
        leading = _Map.apply(A, None, Leading(1), *factors)
        gtop = (ratio * gtau).sum(-1, keepdim=True)
        return (
            gA + gtop[..., None] * leading,
            gtau * top,
            None,
            *(None for _ in factors),
        )

    @staticmethod
    @tracked
    def jvp(ctx: Any, dA: Any, dratio: Any, *_: Any) -> Tensor:
        A, ratio, *factors = primals(ctx)
        top = leading_sum(Toolbox(), A, 1, tuple(factors))[..., None]
        dtau = None if dratio is None else dratio * top
        if dA is not None:
            leading = _Map.apply(A, None, Leading(1), *factors)
            dtop = (leading.conj() * dA).real.sum((-2, -1))[..., None]
            dtau = _add(dtau, ratio * dtop)
        dA = torch.zeros_like(A) if dA is None else dA
        return _Tangent.apply(A, ratio * top, dA, dtau, ctx.function, *factors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Relative.apply(*_batched(info, in_dims, arguments)), 0


class _Map(_CompiledMap):
    """F(A, tau)."""

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return _CompiledMap.backward(ctx, G)
        A, tau, *factors = ctx.saved_tensors
        gA, gtau = _Pullback.apply(A, tau, G, ctx.function, *factors)
        return gA, gtau if tau is not None else None, None, *(None for _ in factors)

    @staticmethod
    def jvp(ctx: Any, dA: Tensor, dtau: Tensor | None, *_: Any) -> Tensor:
        A, tau, *factors = ctx.saved_tensors
        return _Tangent.apply(A, tau, dA, dtau, ctx.function, *factors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Map.apply(*_batched(info, in_dims, arguments)), 0


class _Pullback(torch.autograd.Function):
    """(A, tau, G) -> cotangents of A and tau."""

    @staticmethod
    def forward(
        A: Tensor,
        tau: Tensor | None,
        G: Tensor,
        function: SpectralFunction,
        *factors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with without_autocast(A):
            gA, gtau = spectral_derivative(
                function, A, tau, factors, G, transposed=True, xp=xp
            )
        return gA, gA.new_zeros(()) if gtau is None else gtau

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        A, tau, G, ctx.function, *factors = inputs
        ctx.save_for_backward(A, tau, G, *factors)
        ctx.save_for_forward(A, tau, G, *factors)

    @staticmethod
    def backward(ctx: Any, C: Tensor, c: Tensor) -> Any:
        A, tau, G, *factors = ctx.saved_tensors
        c = None if tau is None else c
        with without_autocast(A):
            gA, gtau = _second(ctx.function, A, tau, G, C, c)
            gG = _Tangent.apply(A, tau, C, c, ctx.function, *factors)
        return gA, gtau, gG, None, *(None for _ in factors)

    @staticmethod
    def jvp(ctx: Any, dA: Any, dtau: Any, dG: Any, *_: Any) -> Any:
        A, tau, G, *factors = ctx.saved_tensors
        gA = gtau = None
        if dG is not None:
            gA, gtau = _Pullback.apply(A, tau, dG, ctx.function, *factors)
            gtau = None if tau is None else gtau
        if dA is not None or dtau is not None:
            dA = torch.zeros_like(A) if dA is None else dA
            moved = _second(ctx.function, A, tau, G, dA, dtau)
            gA, gtau = _add(gA, moved[0]), _add(gtau, moved[1])
        return gA, A.new_zeros(()) if gtau is None else gtau

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        arguments = _batched(info, in_dims, arguments)
        gA, gtau = _Pullback.apply(*arguments)
        return (gA, gtau), (0, None if arguments[1] is None else 0)


class _Tangent(torch.autograd.Function):
    """(A, tau, dA, dtau) -> tangent of F(A, tau)."""

    @staticmethod
    def forward(
        A: Tensor,
        tau: Tensor | None,
        dA: Tensor,
        dtau: Tensor | None,
        function: SpectralFunction,
        *factors: Tensor,
    ) -> Tensor:
        with without_autocast(A):
            return spectral_derivative(function, A, tau, factors, dA, dtau, xp=xp)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        A, tau, dA, dtau, ctx.function, *factors = inputs
        ctx.save_for_backward(A, tau, dA, dtau, *factors)
        ctx.save_for_forward(A, tau, dA, dtau, *factors)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        A, tau, dA, dtau, *factors = ctx.saved_tensors
        gdA, gdtau = _Pullback.apply(A, tau, G, ctx.function, *factors)
        with without_autocast(A):
            gA, gtau = _second(ctx.function, A, tau, G, dA, dtau)
        given = None if dtau is None else gdtau
        return gA, gtau, gdA, given, None, *(None for _ in factors)

    @staticmethod
    def jvp(ctx: Any, vA: Any, vtau: Any, vdA: Any, vdtau: Any, *_: Any) -> Tensor:
        A, tau, dA, dtau, *factors = ctx.saved_tensors
        result: Any = None
        if vdA is not None or vdtau is not None:
            vdA = torch.zeros_like(A) if vdA is None else vdA
            result = _Tangent.apply(A, tau, vdA, vdtau, ctx.function, *factors)
        if vA is not None or vtau is not None:
            vA = torch.zeros_like(A) if vA is None else vA
            moved = _second(ctx.function, A, tau, dA, vA, vtau, dtau)[0]
            result = _add(result, moved)
        return torch.zeros_like(A) if result is None else result

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Tangent.apply(*_batched(info, in_dims, arguments)), 0


def factorise(
    A: Tensor,
    function: SpectralFunction,
    tau: Tensor | None = None,
    *,
    relative: bool = False,
    method: str = "auto",
) -> Factors:
    """Factors of A for `spectral`, without a derivative."""
    if method == "auto" and torch.compiler.is_compiling():
        method = "svd"  # as it would be, without guards on the shape

    def run(A: Tensor, tau: Tensor | None) -> Factors:
        return core_factorise(
            A, function, tau, relative=relative, method=method, look=look, xp=xp
        )

    with torch.no_grad(), without_autocast(A):
        A, tau = A.detach(), None if tau is None else tau.detach()
        return by_blocks(run, A, tau, in_threads=True) or run(A, tau)


def _compiling() -> bool:
    """Tell whether Dynamo is tracing; see `svdinv.backends.torch` on transforms."""
    if torch.compiler.is_compiling():
        if inside_transform():
            raise RuntimeError("torch.func or forward mode inside torch.compile")
        return True
    return False


def _apply(compiled: Any, eager: Any, *arguments: Any) -> Tensor:
    """Apply the one of two Functions that the mode asks for."""
    if not _compiling():
        return eager.apply(*arguments)
    # Dynamo 2.13 passes a Function that takes *arguments one too many if nothing is
    # to be differentiated.
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return (compiled.apply if wanted else compiled.forward)(*arguments)


def spectral(
    A: Tensor, function: SpectralFunction, tau: Tensor | None, factors: Factors
) -> Tensor:
    """U f(S) V^H, differentiable twice in A and tau."""
    return _apply(_CompiledMap, _Map, A, tau, function, *factors)


def relative_spectral(
    A: Tensor, function: SpectralFunction, ratio: Tensor, factors: Factors
) -> Tensor:
    """`spectral` with tau = ratio s_1, in as many products."""
    return _apply(_CompiledRelative, _Relative, A, ratio, function, *factors)


class _CompiledSum(torch.autograd.Function):
    """A value that is given, with the gradient U f(S) V^H."""

    @staticmethod
    def forward(
        A: Tensor, value: Tensor, function: SpectralFunction, *factors: Tensor
    ) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        A, _, ctx.function, *factors = inputs
        ctx.save_for_backward(A, *factors)
        ctx.save_for_forward(A, *factors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        A, *factors = ctx.saved_tensors
        with without_autocast(A):
            gradient = spectral(A, ctx.function, None, tuple(factors))
        return g[..., None, None] * gradient, None, None, *(None for _ in factors)


class _Sum(_CompiledSum):
    @staticmethod
    @tracked
    def jvp(ctx: Any, dA: Tensor, *_: Any) -> Tensor:
        A, *factors = primals(ctx)
        gradient = spectral(A, ctx.function, None, tuple(factors))
        return (gradient.conj() * dA).real.sum((-2, -1)).resolve_conj()

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Sum.apply(*_batched(info, in_dims, arguments)), 0


def spectral_sum(
    A: Tensor, value: Tensor, function: SpectralFunction, factors: Factors
) -> Tensor:
    """`value`, a function of the singular values whose gradient is U f(S) V^H."""
    return _apply(_CompiledSum, _Sum, A, value, function, *factors)


class _CompiledRotate(torch.autograd.Function):
    """U diag(y) V^H, whose derivative in the factors is that in A."""

    @staticmethod
    def forward(
        A: Tensor, y: Tensor, minus: Tensor, U: Tensor, S: Tensor, Vh: Tensor
    ) -> Tensor:
        return (U * y.to(U.dtype)[..., None, :]) @ Vh

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        y, minus, U, S, Vh = ctx.saved_tensors
        with without_autocast(U):
            gA, K = sampled_derivative(U, S, Vh, y, minus, G, xp=xp)
        return gA, K.diagonal(dim1=-2, dim2=-1).real, None, None, None, None


class _Rotate(_CompiledRotate):
    @staticmethod
    @tracked
    def jvp(ctx: Any, dA: Tensor | None, dy: Tensor | None, *_: Any) -> Tensor:
        y, minus, U, S, Vh = primals(ctx)
        with without_autocast(U):
            result = None
            if dA is not None:
                result, _ = sampled_derivative(U, S, Vh, y, minus, dA, xp=xp)
            if dy is not None:
                result = _add(result, (U * dy.to(U.dtype)[..., None, :]) @ Vh)
        return torch.zeros_like(U @ Vh) if result is None else result.resolve_conj()

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Rotate.apply(*_batched(info, in_dims, arguments)), 0


_LEADING = leading_triplets()


class _CompiledTriplets(torch.autograd.Function):
    """U, S and Vh as they are given, with their derivative in A."""

    @staticmethod
    def forward(
        A: Tensor, U: Tensor, S: Tensor, Vh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return U.clone(), S.clone(), Vh.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output, inputs[0])
        ctx.save_for_forward(*output, inputs[0])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        with without_autocast(saved[0]):
            given = (*cotangents, None)
            gA = _LEADING.pullback(saved, given, Options(), xp, look)
        return gA, None, None, None


class _Triplets(_CompiledTriplets):
    @staticmethod
    @tracked
    def jvp(ctx: Any, dA: Tensor, *_: Any) -> tuple[Tensor, ...]:
        saved = primals(ctx)
        with without_autocast(saved[0]):
            *tangents, _ = _LEADING.pushforward(saved, dA, Options(), xp)
        return tuple(x.resolve_conj() for x in tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _Triplets.apply(*_batched(info, in_dims, arguments)), 0


@torch.compiler.assume_constant_result
def _constant_sketch(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> Tensor:
    """Draw the sketch of one matrix; Dynamo traces no generators."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


class Toolbox:
    """What `svdinv.operators` needs of PyTorch."""

    xp: Any = xp
    shape_error: type[Exception] = RuntimeError
    factorise = staticmethod(factorise)
    spectral = staticmethod(spectral)
    relative_spectral = staticmethod(relative_spectral)
    spectral_sum = staticmethod(spectral_sum)

    @staticmethod
    def matrices(
        A: Any, name: str, ndim: int = 2
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Check A; half precision is computed in single precision."""
        if not isinstance(A, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(A).__name__}")
        if not (A.dtype.is_floating_point or A.dtype.is_complex):
            raise TypeError(f"{name} must be floating point or complex, got {A.dtype}")
        if A.ndim < ndim:
            raise RuntimeError(
                f"{name} must have at least {ndim} dimensions, got shape "
                f"{tuple(A.shape)}"
            )
        inner = COMPUTED_IN.get(A.dtype)
        if inner is None:
            return A, lambda x: x
        given, real = A.dtype, A.real.dtype
        return A.to(inner), lambda x: x.to(given if x.dtype == inner else real)

    @staticmethod
    def parameter(value: Any, like: Tensor, name: str = "value") -> Tensor:
        """`value` in the real dtype and on the device of `like`."""
        if isinstance(value, Tensor):
            if value.dtype.is_complex:
                raise TypeError(f"{name} must be real, got {value.dtype}")
            return value.to(like.device, like.real.dtype)
        try:
            return torch.as_tensor(value, dtype=like.real.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be a number or a tensor") from error

    @staticmethod
    def stop_gradient(x: Tensor) -> Tensor:
        """`x` without its derivative."""
        return x.detach()

    @staticmethod
    def svd(A: Tensor) -> tuple[Tensor, ...]:
        """Thin U, S and Vh, differentiable."""
        return _svd(A, Options())

    @staticmethod
    def sketch(A: Tensor, columns: int, seed: Any) -> Tensor:
        """Draw a normal random matrix (..., n, columns)."""
        shape = (*A.shape[:-2], A.shape[-1], columns)
        if A.device.type == "meta":
            seed = None  # there are no values to draw
        elif isinstance(seed, int) and _compiling():
            return _constant_sketch(shape[-2:], A.dtype, A.device, seed).expand(shape)
        if isinstance(seed, int):
            seed = torch.Generator(A.device).manual_seed(seed)
        return torch.randn(shape, dtype=A.dtype, device=A.device, generator=seed)

    @staticmethod
    def leading_triplets(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, S and Vh from A and these."""
        call = _CompiledTriplets if _compiling() else _Triplets
        return call.apply(*tensors)

    @staticmethod
    def derivative(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Differentiate a function that acts element by element."""

        def slope(x: Tensor) -> Tensor:
            # Reverse mode: forward mode does not nest.
            y, pullback = torch.func.vjp(f, x)
            return pullback(torch.ones_like(y))[0]

        return slope

    @staticmethod
    def rotate(*arrays: Tensor) -> Tensor:
        """U diag(y) V^H from A, y, the divided differences, U, S and Vh."""
        call = _CompiledRotate if _compiling() else _Rotate
        return call.apply(*arrays)
