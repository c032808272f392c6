"""PyTorch's transforms by all operators; see `table`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cells import cells
from table import REPRESENTATIVES
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from examples import (  # noqa: F401 - a fixture
    Example,
    batch,
    check,
    example,
    first,
    of_operator,
    with_kernels,
)

# Raised by PyTorch's own forward mode and code generation, on their first use.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def tensors(arrays):
    return tuple(torch.tensor(x) for x in arrays)


def numpy(results):
    return tuple(y.detach().resolve_conj().resolve_neg().numpy() for y in results)


def loss_of(e):
    """The function, and Re <cotangents, f>."""
    f = e.function("torch")
    cotangents = tensors(example(e.name).cotangents)

    def loss(*x):
        pairs = zip(cotangents, f(*x), strict=True)
        return sum((g.conj() * y).real.sum() for g, y in pairs)

    return f, loss


def every(x):
    return tuple(range(len(x)))


def gradient(results, x):
    """Of a real tensor, zero where it does not depend on one of `x`."""
    return torch.autograd.grad(results, x, materialize_grads=True)


def leaves(arrays):
    return tuple(x.requires_grad_() for x in tensors(arrays))


def nested(arrays):
    """Split the batch axis in two."""
    return tuple(x.reshape(2, -1, *x.shape[1:]) for x in arrays)


def try_jvp(e):
    f, _ = loss_of(e)
    x, d = tensors(e.inputs), tensors(e.directions)
    check(numpy(jvp(f, x, d)[1]), e.tangents)
    with forward_ad.dual_level():
        pairs = zip(x, d, strict=True)
        results = f(*(forward_ad.make_dual(*pair) for pair in pairs))
        check(numpy(forward_ad.unpack_dual(y).tangent for y in results), e.tangents)


def try_batched_gradient(e):
    f, _ = loss_of(e)
    x = leaves(e.inputs)
    g = tuple(torch.stack([t, -2 * t]) for t in tensors(e.cotangents))
    found = torch.autograd.grad(
        f(*x), x, g, is_grads_batched=True, materialize_grads=True
    )
    for k, scale in enumerate((1, -2)):
        expected = tuple(scale * t for t in e.gradients)
        check(numpy(t[k] for t in found), expected, hermitian=e.hermitian)


def try_vmap(e):
    f, loss = loss_of(e)
    e = batch(e.name)
    x = leaves(e.inputs)
    check(numpy(vmap(f)(*x)), e.values)
    found = gradient(vmap(loss)(*x).sum(), x)
    check(numpy(found), e.gradients, hermitian=e.hermitian)
    x = tuple(t.detach() for t in x)
    check(numpy(vmap(f, in_dims=-1)(*(t.movedim(0, -1) for t in x))), e.values)
    if any(t.is_complex() for t in x):  # conjugates that are none in memory
        conjugates = (t.conj().resolve_conj() for t in x)
        found = vmap(lambda *x: f(*(t.conj() for t in x)))(*conjugates)
        check(numpy(found), e.values)


def try_nested_vmap(e):
    f, loss = loss_of(e)
    e = batch(e.name)
    x = leaves(nested(e.inputs))
    check(numpy(vmap(vmap(f))(*x)), nested(e.values))
    found = gradient(vmap(vmap(loss))(*x).sum(), x)
    check(numpy(found), nested(e.gradients), hermitian=e.hermitian)


def try_vmap_of_grad(e):
    _, loss = loss_of(e)
    e = batch(e.name)
    x = tensors(e.inputs)
    found = vmap(grad(loss, every(x)))(*x)
    check(numpy(found), e.gradients, hermitian=e.hermitian)
    found = vmap(vmap(grad(loss, every(x))))(*nested(x))
    check(numpy(found), nested(e.gradients), hermitian=e.hermitian)


def contracted(jacobian, x, axes):
    """Sum over the last `axes` axes with `x`."""
    return torch.tensordot(jacobian, x, axes)


def try_jacobian(e):
    """In the first argument; of complex functions PyTorch has none."""
    f, _ = loss_of(e)
    if any(np.iscomplexobj(x) for x in e.inputs):
        return
    x, g = tensors(e.inputs), tensors(e.cotangents)
    d = tensors(e.directions)
    expected = jvp(lambda A: f(A, *x[1:]), x[:1], d[:1])[1]
    for transform in (jacrev, jacfwd):
        for J, dy in zip(transform(f)(*x), expected, strict=True):
            along = torch.tensordot(J, d[0], d[0].ndim)
            check(numpy([along]), numpy([dy]))
        found = sum(
            torch.tensordot(y, J, y.ndim)
            for J, y in zip(transform(f)(*x), g, strict=True)
        )
        check(numpy([found]), e.gradients[:1], hermitian=e.hermitian)
    b = batch(e.name)
    x = tensors(b.inputs)
    for transform in (jacrev, jacfwd):
        found = sum(
            torch.tensordot(J, y, ([*range(1, y.ndim + 1)], [*range(y.ndim)]))
            for J, y in zip(vmap(transform(f))(*x), g, strict=True)
        )
        check(numpy([found]), b.gradients[:1], hermitian=e.hermitian)


def try_vmap_of_hessian(e):
    if any(np.iscomplexobj(x) for x in e.inputs):
        return
    _, loss = loss_of(e)
    e = batch(e.name)
    x, d = tensors(e.inputs), tensors(example(e.name).directions)
    rows = vmap(hessian(loss, every(x)))(*x)
    found = [
        sum(torch.tensordot(H, t, t.ndim) for H, t in zip(row, d, strict=True))
        for row in rows
    ]
    check(numpy(found), e.products, 1e-8, hermitian=e.hermitian)


def try_checkpoint(e):
    _, loss = loss_of(e)
    x = leaves(e.inputs)
    y = torch.utils.checkpoint.checkpoint(loss, *x, use_reentrant=False)
    check(numpy(gradient(y, x)), e.gradients, hermitian=e.hermitian)


def try_autocast(e):
    f, _ = loss_of(e)
    single = {"float64": torch.float32, "complex128": torch.complex64}
    x = tuple(torch.tensor(t, dtype=single.get(t.dtype.name)) for t in e.inputs)
    x = tuple(t.requires_grad_(t.is_floating_point() or t.is_complex()) for t in x)
    with torch.autocast("cpu", torch.bfloat16):
        y = f(*x)
    g = (t.to(v.dtype) for t, v in zip(tensors(e.cotangents), y, strict=True))
    found = torch.autograd.grad(y, x, tuple(g), materialize_grads=True)
    # Of factors, the example itself has products, which are rounded.
    tolerance = 5e-2 if any(t.dtype == torch.bfloat16 for t in y) else 1e-3
    check(as_given(y, e.values), e.values, tolerance)
    check(as_given(found, e.gradients), e.gradients, tolerance, hermitian=e.hermitian)


def as_given(results, like):
    """As arrays of the dtypes of others."""
    pairs = zip(results, like, strict=True)
    return numpy(t.to(getattr(torch, x.dtype.name)) for t, x in pairs)


def check_program(program, e):
    """Compare value and gradient of a function that was traced."""
    x = leaves(e.inputs)
    y = program(*x)
    check(numpy(y), e.values)
    found = torch.autograd.grad(y, x, tensors(e.cotangents), materialize_grads=True)
    check(numpy(found), e.gradients, hermitian=e.hermitian)


def try_compile(e):
    f, _ = loss_of(e)
    torch._dynamo.reset()
    check_program(torch.compile(f, fullgraph=True, backend="aot_eager"), e)


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def try_export(e):
    f, _ = loss_of(e)
    whole = batch(e.name)
    shapes = (tuple({0: torch.export.Dim("batch", min=2)} for _ in e.inputs),)
    x = tensors(whole.inputs)
    program = torch.export.export(Module(f), x, dynamic_shapes=shapes).module()
    check_program(program, whole)
    parts = (tuple(t[:3] for t in arrays) for arrays in whole[1:])
    check_program(program, Example(e.name, *parts))


def try_trace(e):
    f, _ = loss_of(e)
    with warnings.catch_warnings():
        # That it is for arrays of these shapes.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        program = torch.jit.trace(f, tensors(e.inputs))
    check_program(program, e)


TRIES = {
    "jvp": try_jvp,
    "batched gradient": try_batched_gradient,
    "vmap": try_vmap,
    "nested vmap": try_nested_vmap,
    "vmap of grad": try_vmap_of_grad,
    "jacobian": try_jacobian,
    "vmap of hessian": try_vmap_of_hessian,
    "checkpoint": try_checkpoint,
    "autocast": try_autocast,
}
# Of one example each, because tracing takes a second.
TRACED = {"compile": try_compile, "export": try_export, "trace": try_trace}


@pytest.mark.parametrize(("transform", "operator"), cells("PyTorch", TRIES))
def test_transform(with_kernels, transform, operator):  # noqa: F811
    if not with_kernels and operator not in REPRESENTATIVES:
        pytest.skip("is no representative")
    for name in of_operator(operator):
        TRIES[transform](example(name))


@pytest.mark.parametrize(("transform", "operator"), cells("PyTorch", TRACED))
def test_graph(with_kernels, transform, operator):  # noqa: F811
    """Without kernels Dynamo goes through the array functions, as on a GPU."""
    if not with_kernels and (transform != "compile" or operator == "svd_lowrank"):
        pytest.skip("has the same graph, or traces the steps of an iteration")
    TRACED[transform](example(first(operator)))
