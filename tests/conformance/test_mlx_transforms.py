"""MLX's transforms by all operators; see `table`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mlx.core")

import mlx.core as mx
from cells import cells

from examples import batch, check, example, of_operator


def arrays(given):
    """In single precision, which is all that MLX has of complex numbers."""
    return [
        mx.array(x.astype(np.complex64 if np.iscomplexobj(x) else np.float32))
        for x in given
    ]


def numpy(results):
    return [np.array(y) for y in results]


def loss_of(e):
    """The function, and Re <cotangents, f>."""
    f = e.function("mlx")
    cotangents = arrays(example(e.name).cotangents)

    def loss(*x):
        pairs = zip(cotangents, f(*x), strict=True)
        return sum(mx.sum(mx.real(mx.conj(g) * y)) for g, y in pairs)

    return f, loss


def gradient_of(loss, count):
    gradient = mx.grad(loss, list(range(count)))
    # Of one argument it is no tuple.
    return gradient if count > 1 else lambda *x: [gradient(*x)]


def try_jvp(e):
    f, _ = loss_of(e)
    x, d = arrays(e.inputs), arrays(e.directions)
    check(numpy(mx.jvp(lambda *x: list(f(*x)), x, d)[1]), e.tangents, 1e-3)


def try_vmap(e):
    f, loss = loss_of(e)
    e = batch(e.name)
    x = arrays(e.inputs)
    check(numpy(mx.vmap(lambda *x: list(f(*x)))(*x)), e.values, 1e-4)

    def total(*x):
        return mx.sum(mx.vmap(loss)(*x))

    found = gradient_of(total, len(x))(*x)
    check(numpy(found), e.gradients, 1e-3, hermitian=e.hermitian)


def try_vmap_of_grad(e):
    _, loss = loss_of(e)
    e = batch(e.name)
    x = arrays(e.inputs)
    slope = gradient_of(loss, len(x))
    found = mx.vmap(lambda *x: list(slope(*x)))(*x)
    check(numpy(found), e.gradients, 1e-3, hermitian=e.hermitian)


def try_compile(e):
    """Traced, but not run: then a C++ compiler works for seconds; see `test_mlx`."""
    f, loss = loss_of(e)
    x = arrays(e.inputs)
    for traced, expected in (
        (mx.compile(lambda *x: list(f(*x))), e.values),
        (mx.compile(gradient_of(loss, len(x))), e.gradients),
    ):
        for y, like in zip(traced(*x), expected, strict=True):
            assert y.shape == like.shape
            assert y.dtype == (mx.complex64 if np.iscomplexobj(like) else mx.float32)


TRIES = {
    "jvp": try_jvp,
    "vmap": try_vmap,
    "vmap of grad": try_vmap_of_grad,
    "compile": try_compile,
}


@pytest.mark.parametrize(("transform", "operator"), cells("MLX", TRIES))
def test_transform(transform, operator):
    for name in of_operator(operator):
        TRIES[transform](example(name))
