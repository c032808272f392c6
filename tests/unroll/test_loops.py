"""Iterations written once, as a loop of whatever framework traces them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from array_frameworks import FRAMEWORKS, Framework

from svdinv.unroll.algorithms.loops import iterate
from svdinv.unroll.arrays import namespace, times

ROWS = [(0.5 * i, i + 1) for i in range(4)]


def body(calls, x, before, beta, shift):
    """Momentum, and a shift by rows: what the loops of the networks are made of."""
    calls.append(beta)
    xp = namespace(x)
    v = x + times(beta, x - before, xp)
    return xp.roll(v, (shift, -shift), axis=(-2, -1)) * 0.5 + 1, x


def expected(x):
    before = x
    for beta, shift in ROWS:
        v = x + beta * (x - before)
        x, before = np.roll(v, (shift, -shift), (-2, -1)) * 0.5 + 1, x
    return x


def values(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4)) + 1j * rng.standard_normal((2, 5, 4))
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_same_in_every_framework(name, dtype):
    framework = Framework(name)
    with framework.double():
        x = framework.array(values(dtype))
        last, before = iterate(partial(body, []), (x, x), ROWS)
        assert framework.numpy(last).dtype == dtype
        tolerance = 1e-5 if dtype == "complex64" else 1e-13
        np.testing.assert_allclose(
            framework.numpy(last), expected(values(dtype)), atol=tolerance
        )
        assert before.shape == x.shape


@pytest.mark.parametrize("rows", [[], ROWS[:1]], ids=len)
def test_few_rows_are_no_loop(rows):
    calls = []
    x = values("complex128")
    last, _ = iterate(partial(body, calls), (x, x), rows)
    assert calls == [beta for beta, _ in rows]
    assert (last is x) == (not rows)


def test_jax_traces_the_body_once_and_differentiates_it():
    jax = pytest.importorskip("jax")
    calls = []

    def size(x):
        last, _ = iterate(partial(body, calls), (x, x), ROWS)
        return (abs(last) ** 2).sum()

    with jax.enable_x64(True):
        x = jax.numpy.asarray(values("complex128"))
        gradient = jax.jit(jax.grad(size))(x)
        step = 1e-6
        along = (size(x + step) - size(x - step)) / (2 * step)
        assert float(gradient.real.sum()) == pytest.approx(float(along), rel=1e-6)
    assert len(calls) < 3 * len(ROWS)


@pytest.mark.parametrize("known", [True, False])
def test_a_graph_of_tensorflow_holds_the_body_once_and_differentiates_it(known):
    tf = pytest.importorskip("tensorflow")
    calls = []

    @tf.function(
        input_signature=[
            tf.TensorSpec((2, 5, 4) if known else (None, None, None), tf.complex128)
        ]
    )
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            last, _ = iterate(partial(body, calls), (x, x), ROWS)
            size = tf.reduce_sum(tf.abs(last) ** 2)
        return tape.gradient(size, x), last

    g, last = gradient(tf.constant(values("complex128")))
    np.testing.assert_allclose(last, expected(values("complex128")), atol=1e-13)
    assert len(calls) < len(ROWS)
    step = 1e-6
    one, other = (
        (np.abs(expected(values("complex128") + s)) ** 2).sum() for s in (step, -step)
    )
    assert g.numpy().real.sum() == pytest.approx((one - other) / (2 * step), rel=1e-6)
