"""TensorFlow's transforms by all operators; see `table`."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from cells import cells
from table import REPRESENTATIVES

from examples import (  # noqa: F401 - a fixture
    batch,
    check,
    example,
    first,
    with_kernels,
)


def loss_of(e):
    """The function, and Re <cotangents, f>; batches are summed over."""
    f = e.function("tensorflow")
    cotangents = [tf.constant(g) for g in example(e.name).cotangents]

    def loss(*x):
        pairs = zip(cotangents, f(*x), strict=True)
        terms = [tf.reduce_sum(tf.math.real(tf.math.conj(g) * y)) for g, y in pairs]
        return tf.add_n(terms)

    return f, loss


def tensors(arrays):
    return tuple(map(tf.constant, arrays))


def gradient_of(loss):
    def gradient(*x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(*x)
        return tape.gradient(value, x, unconnected_gradients="zero")

    return gradient


def both_of(e):
    """Value and gradient as one function."""
    f, loss = loss_of(e)
    return lambda *x: (f(*x), gradient_of(loss)(*x))


def try_tape(e):
    """Persistent, and of a tape."""
    _, loss = loss_of(e)
    x, d = tensors(e.inputs), tensors(e.directions)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            value = loss(*x)
        first = tape.gradient(value, x, unconnected_gradients="zero")
    again = tape.gradient(value, x, unconnected_gradients="zero")
    check(first, e.gradients, hermitian=e.hermitian)
    check(again, e.gradients, hermitian=e.hermitian)
    for _ in range(2):
        found = outer.gradient(first, x, d, unconnected_gradients="zero")
        check(found, e.products, 1e-8, hermitian=e.hermitian)


def try_jacobian(e):
    """By the parallel loop over cotangents; in the first argument, a real one."""
    if any(np.iscomplexobj(x) for x in e.inputs):
        return
    f, _ = loss_of(e)
    x = tensors(e.inputs)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        results = f(*x)
    total = 0
    for y, g in zip(results, e.cotangents, strict=True):
        J = tape.jacobian(y, x[0])
        total += np.tensordot(g, J.numpy(), g.ndim)
    check([total], e.gradients[:1], hermitian=e.hermitian)


def pushed(f, x, d):
    with tf.autodiff.ForwardAccumulator(x, d) as forward:
        results = f(*x)
    return [forward.jvp(y, unconnected_gradients="zero") for y in results]


def try_accumulator(e):
    f, _ = loss_of(e)
    found = pushed(f, tensors(e.inputs), tensors(e.directions))
    check(found, e.tangents)


def try_hessian(e):
    _, loss = loss_of(e)
    x, d = tensors(e.inputs), tensors(e.directions)
    with tf.autodiff.ForwardAccumulator(x, d) as forward:
        gradients = gradient_of(loss)(*x)
    found = [forward.jvp(g, unconnected_gradients="zero") for g in gradients]
    check(found, e.products, 1e-8, hermitian=e.hermitian)
    found = gradient_of(lambda *x: pushed(lambda *x: [loss(*x)], x, d)[0])(*x)
    check(found, e.products, 1e-8, hermitian=e.hermitian)


def try_accumulator_in_function(e):
    f, _ = loss_of(e)
    traced = tf.function(lambda x, d: pushed(f, x, d), autograph=False)
    check(traced(tensors(e.inputs), tensors(e.directions)), e.tangents)


def in_graph(f, x, shapes, **options):
    signature = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, x, strict=True)]
    return tf.function(f, input_signature=signature, autograph=False, **options)


def try_unknown_batch(e):
    both = both_of(e)
    e = batch(e.name)
    graph = in_graph(both, e.inputs, [(None, *x.shape[1:]) for x in e.inputs])
    y, g = graph(*tensors(x[:3] for x in e.inputs))
    check(y, tuple(t[:3] for t in e.values))
    check(g, tuple(t[:3] for t in e.gradients), hermitian=e.hermitian)


def try_unknown_rows(e):
    """Of the first argument."""
    A, *rest = e.inputs
    shapes = [(*A.shape[:-2], None, A.shape[-1]), *(x.shape for x in rest)]
    f, _ = loss_of(e)
    check(in_graph(f, e.inputs, shapes)(*tensors(e.inputs)), e.values)


def try_xla(e):
    """Its decompositions stop at errors of 1e-6."""
    shapes = [x.shape for x in e.inputs]
    y, g = in_graph(both_of(e), e.inputs, shapes, jit_compile=True)(*tensors(e.inputs))
    check(y, e.values, 1e-4)
    check(g, e.gradients, 1e-3, hermitian=e.hermitian)


def try_vectorized_map(e):
    slope = gradient_of(loss_of(e)[1])
    e = batch(e.name)
    found = tf.vectorized_map(lambda x: slope(*x), tensors(e.inputs))
    check(found, e.gradients, hermitian=e.hermitian)


def try_saved_model(e, folder):
    f, _ = loss_of(e)
    b = batch(e.name)
    module = tf.Module()
    module.f = in_graph(f, b.inputs, [(None, *x.shape[1:]) for x in b.inputs])
    tf.saved_model.save(module, folder)
    loaded = tf.saved_model.load(folder).f
    x = tensors(b.inputs)
    check(loaded(*x), b.values)

    def loss(*x):
        pairs = zip(e.cotangents, loaded(*x), strict=True)
        return tf.add_n([tf.reduce_sum(tf.math.real(np.conj(g) * y)) for g, y in pairs])

    check(gradient_of(loss)(*x), b.gradients, hermitian=e.hermitian)


EAGER = {
    "tape": try_tape,
    "jacobian": try_jacobian,
    "ForwardAccumulator": try_accumulator,
    "hessian": try_hessian,
}
# In graphs, which hold no kernels: of one example each, because tracing takes a second.
TRACED = {
    "ForwardAccumulator in a function": try_accumulator_in_function,
    "unknown batch": try_unknown_batch,
    "unknown rows": try_unknown_rows,
    "vectorized_map": try_vectorized_map,
    "XLA": try_xla,
    "SavedModel": try_saved_model,
}


@pytest.mark.parametrize(("transform", "operator"), cells("TensorFlow", EAGER))
def test_transform(with_kernels, transform, operator):  # noqa: F811
    representative = operator in REPRESENTATIVES
    if not with_kernels and not (representative and transform == "tape"):
        pytest.skip("tried with the kernels")
    # `test_derivatives` takes tapes of tapes of all else.
    dtypes = ("float64", "complex128") if representative else ("float64",)
    names = filter(None, (first(operator, dtype) for dtype in dtypes))
    for name in names:
        EAGER[transform](example(name))


@pytest.mark.parametrize(("transform", "operator"), cells("TensorFlow", TRACED))
def test_graph(transform, operator, tmp_path):
    more = (tmp_path,) if transform == "SavedModel" else ()
    TRACED[transform](example(first(operator)), *more)


@pytest.mark.parametrize(
    ("transform", "operator"), cells("TensorFlow", ["complex XLA"])
)
def test_complex_xla(transform, operator):
    if (name := first(operator, "complex128")) is None:
        pytest.skip("is of real arrays")
    try_xla(example(name))
