"""The low-rank operators in TensorFlow's own modes, against PyTorch's."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from operator_cases import CASES, as_tuple, case, matrices, torch_derivatives, weights

tf = pytest.importorskip("tensorflow")

import svdinv.tf as face

THRESHOLDS = [
    lambda A, t: face.svt(A, t),
    lambda A, t: face.svht(A, t),
    lambda A, t: face.firm_threshold(A, t, 2.5),
    lambda A, t: face.log_sum_threshold(A, t, 0.5),
    lambda A, t: face.schatten_prox(A, t, 0.5),
]
REAL = [name for name in CASES if "float64" in name]
# One of each kind: graphs take a second to trace.
SOME = [
    f"{name}, {dtype}"
    for dtype in ("float64", "complex128")
    for name in ("svt", "svt, weighted", "polar", "schatten_norm, 1.5", "tsvt", "sure",
                 "spectral_map")
]  # fmt: skip


def close(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (1 + abs(y).max()))


def inner(x, W):
    """Real part of <W, x>."""
    total = tf.reduce_sum(tf.math.real(x) * tf.constant(W.real, x.dtype.real_dtype))
    if not x.dtype.is_complex:
        return total
    return total + tf.reduce_sum(tf.math.imag(x) * W.imag)


def derivatives(function, directions, *x):
    """Values, gradients and Hessian-vector products."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = as_tuple(function(face, *x))
            parts = zip(results, weights(results), strict=True)
            loss = tf.add_n([inner(y, W) for y, W in parts])
        gradients = tape.gradient(loss, x)
        parts = zip(gradients, directions, strict=True)
        along = tf.add_n([inner(g, d) for g, d in parts])
    products = outer.gradient(along, x, unconnected_gradients="zero")
    return results, gradients, products


def shown(tensors):
    return [x.numpy() for x in tensors]


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_pytorch(name):
    pytest.importorskip("torch")
    function, inputs, directions = case(name)
    expected = torch_derivatives(name)
    found = derivatives(function, directions, *map(tf.constant, inputs))
    for x, y, tolerance in zip(found, expected, (1e-12, 1e-12, 1e-9), strict=True):
        close(shown(x), y, tolerance)


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("name", SOME)
def test_graphs(name, unknown):
    function, inputs, directions = case(name)
    x = tuple(map(tf.constant, inputs))
    expected = derivatives(function, directions, *x)
    given = [weights(expected[0])]

    def run(*x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                (result,) = as_tuple(function(face, *x))
                loss = inner(result, given[0][0])
            gradients = tape.gradient(loss, x)
            parts = zip(gradients, directions, strict=True)
            along = tf.add_n([inner(g, d) for g, d in parts])
        return (
            (result,),
            gradients,
            outer.gradient(along, x, unconnected_gradients="zero"),
        )

    shapes = [[None] * a.ndim if unknown else a.shape for a in inputs]
    signature = [
        tf.TensorSpec(shape, a.dtype) for shape, a in zip(shapes, inputs, strict=True)
    ]
    found = tf.function(run, input_signature=signature)(*x)
    for a, b, tolerance in zip(found, expected, (1e-12, 1e-11, 1e-9), strict=True):
        close(shown(a), shown(b), tolerance)


@pytest.mark.parametrize("name", ["kabsch, float64", "local_low_rank, complex128"])
def test_graphs_of_unknown_length(name):
    function, inputs, _ = case(name)
    x = tuple(map(tf.constant, inputs))

    def run(*x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = as_tuple(function(face, *x))
            loss = tf.add_n([tf.reduce_sum(tf.abs(y)) for y in results])
        return tape.gradient(loss, x)

    # Points and frames; of images the size is needed.
    signature = [
        tf.TensorSpec([None, None, *a.shape[2:]][: a.ndim], a.dtype) for a in inputs
    ]
    found = tf.function(run, input_signature=signature)(*x)
    close(shown(found), shown(run(*x)), 1e-12)
    if "local" in name:
        blind = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in inputs]
        with pytest.raises(ValueError, match="height and width"):
            tf.function(run, input_signature=blind).get_concrete_function()


@pytest.mark.parametrize("name", ["svt", "polar", "kabsch"])
def test_xla(name):
    function, inputs, _ = case(f"{name}, float64")
    x = tuple(tf.constant(a, tf.float32) for a in inputs)

    def run(*x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.add_n([tf.reduce_sum(y**2) for y in as_tuple(function(face, *x))])
            loss += tf.reduce_sum(as_tuple(function(face, *x))[0])
        return tape.gradient(loss, x)

    found = tf.function(run, jit_compile=True)(*x)
    close(shown(found), shown(run(*x)), 1e-4)


@pytest.mark.parametrize("name", ["svt, float64", "svt, gram, float64"])
def test_tapes_and_accumulators_agree(name):
    function, inputs, directions = case(name)
    x, d = list(map(tf.constant, inputs)), list(map(tf.constant, directions))

    def loss(*x):
        return tf.reduce_sum(tf.sin(tf.math.real(function(face, *x))))

    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            value = loss(*x)
        gradients = tape.gradient(value, x)
        slope = tf.add_n(
            [inner(g, v.numpy()) for g, v in zip(gradients, d, strict=True)]
        )
    close(shown(tape.gradient(value, x)), shown(gradients), 1e-14)
    products = outer.gradient(slope, x)
    with tf.autodiff.ForwardAccumulator(x, d) as forward:
        pushed = loss(*x)
    close([forward.jvp(pushed).numpy()], [slope.numpy()], 1e-12)
    # TensorFlow makes forward mode of two reverse ones: over a tape, of three.
    with tf.autodiff.ForwardAccumulator(x, d), tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(*x)
        with pytest.raises(NotImplementedError, match="two derivatives"):
            tape.gradient(value, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.autodiff.ForwardAccumulator(x, d) as forward:
            value = loss(*x)
        pushed = forward.jvp(value)
    close(shown(tape.gradient(pushed, x)), shown(products), 1e-12)


def test_tape_over_a_graph():
    A = tf.constant(matrices((4, 3)))
    threshold = tf.function(lambda A: face.svt(A, 0.5))
    found = []
    for function in (threshold, lambda A: face.svt(A, 0.5)):
        with tf.GradientTape() as outer:
            outer.watch(A)
            with tf.GradientTape() as tape:
                tape.watch(A)
                loss = tf.reduce_sum(tf.sin(function(A)))
            gradient = tape.gradient(loss, A)
        found.append([gradient, outer.gradient(gradient, A)])
    close(shown(found[0]), shown(found[1]), 1e-13)


def test_second_derivative_against_differences():
    A, direction = matrices((4, 3)), matrices((4, 3), seed=1)

    def gradient(A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            loss = tf.reduce_sum(tf.sin(face.svt(A, 0.4)))
        return tape.gradient(loss, A)

    x = tf.constant(A)
    with tf.GradientTape() as tape:
        tape.watch(x)
        along = tf.reduce_sum(gradient(x) * direction)
    step = 1e-6 * direction
    difference = gradient(tf.constant(A + step)) - gradient(tf.constant(A - step))
    close(shown([tape.gradient(along, x)]), shown([difference / 2e-6]), 1e-7)


@pytest.mark.parametrize("operator", ["polar", "nuclear_norm"])
def test_third_derivatives_are_refused(operator):
    A, W = tf.constant(matrices((3, 2))), matrices((3, 2), seed=1)

    def differentiated(function):
        def along(A):
            with tf.GradientTape() as tape:
                tape.watch(A)
                value = tf.reduce_sum(function(A) * W)
            return tape.gradient(value, A)

        return along

    # The norm's gradient is a map, so that one more derivative is at hand.
    first = differentiated(getattr(face, operator))
    second = differentiated(first)
    last = second if operator == "polar" else differentiated(second)
    assert np.isfinite(last(A)).all()
    with pytest.raises(NotImplementedError, match="two derivatives"):
        differentiated(last)(A)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_repeated_spectra(shape):
    torch = pytest.importorskip("torch")
    import svdinv.torch

    Q = np.linalg.qr(matrices((5, 5)))[0][: shape[0], : shape[1]]
    Q = 2.0 * (Q if shape[0] != shape[1] else np.linalg.qr(Q)[0])
    W = matrices(shape, seed=3)
    for name, arguments in [("polar", ()), ("svt", (0.5,)), ("nuclear_norm", ())]:
        A = torch.tensor(Q, requires_grad=True)
        loss = torch.sin(torch.tensor(W) * getattr(svdinv.torch, name)(A, *arguments))
        (expected,) = torch.autograd.grad(loss.sum(), A)
        x = tf.constant(Q)
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.sin(W * getattr(face, name)(x, *arguments)))
            gradient = tape.gradient(loss, x)
        close([gradient.numpy()], [expected.numpy()], 1e-13)
        hessian = outer.jacobian(gradient, x, experimental_use_pfor=False)
        assert np.isfinite(hessian).all()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    A = tf.cast(matrices((5, 3)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(A)
        result = face.svt(A, 0.5)
    gA = tape.gradient(result, A)
    assert result.dtype == gA.dtype == face.nuclear_norm(A).dtype == dtype
    expected = face.svt(tf.cast(A, tf.float32), 0.5)
    np.testing.assert_allclose(
        tf.cast(result, tf.float32), expected, rtol=1e-2, atol=1e-2
    )


def test_auto_looks_where_it_can():
    from svdinv.core.thresholds import Soft

    A, tau = tf.constant(matrices((4000, 20))), tf.constant([58.0], tf.float64)
    close(shown([face.svt(A, 58.0)]), shown([face.svt(A, 58.0, method="svd")]), 1e-13)
    factorise = face._operators._toolbox.factorise
    assert len(factorise(A, Soft(), tau)) == 2
    counted = []
    tf.function(lambda A: counted.append(len(factorise(A, Soft(), tau))))(A)
    assert counted == [3]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3, 0), (0, 3, 2)])
def test_empty_arrays(shape, graph):
    def run(A):
        results = []
        functions = [lambda A, f=f: f(A, 0.5) for f in THRESHOLDS]
        functions += [face.polar, face.nuclear_norm]
        functions += [lambda A: face.svt_divergence(A, 0.5)]
        for function in functions:
            with tf.GradientTape() as tape:
                tape.watch(A)
                result = function(A)
            results.append(tape.gradient(result, A))
        return results

    if graph:
        signature = [tf.TensorSpec([None] * len(shape), tf.float64)]
        run = tf.function(run, input_signature=signature)
    for gA in run(tf.zeros(shape, tf.float64)):
        assert gA.shape == shape


def test_errors():
    A = tf.constant(matrices((2, 4, 3)))
    with pytest.raises(TypeError, match="floating point"):
        face.svt(tf.ones((3, 3), tf.int32), 0.5)
    with pytest.raises(TypeError, match="must be real"):
        face.svt(A, 1j)
    with pytest.raises(TypeError, match="must be real"):
        face.svt(A, tf.ones(2, tf.complex128))
    with pytest.raises(TypeError, match="number or a tensor"):
        face.svt(A, "large")
    with pytest.raises(ValueError, match="at least 2"):
        face.polar(tf.ones(3))
    with pytest.raises(ValueError, match=">= 0"):
        face.svt(A, -1.0)
    with pytest.raises(ValueError, match="broadcast"):
        face.svt(A, tf.ones(3))
    with pytest.raises(ValueError, match="broadcast"):
        face.svt(A, tf.ones((2, 4)))
    with pytest.raises(ValueError, match="method"):
        face.svt(A, 0.5, method="fast")
    with pytest.raises(ValueError, match="at most"):
        face.ky_fan_norm(A, 4)
    with pytest.raises(ValueError, match="same shape"):
        face.procrustes(A, A[:, :2])
    unknown = tf.function(
        lambda A: face.svt(A, 0.5), input_signature=[tf.TensorSpec(None)]
    )
    with pytest.raises(ValueError, match="number of dimensions"):
        unknown.get_concrete_function()


def test_tau_of_any_kind():
    A = tf.constant(matrices((2, 4, 3)))
    expected = face.svt(A, tf.constant([1.0, 1.0]))
    for tau in (1, 1.0, np.float32(1), np.ones(2), np.ones((), int), tf.Variable(1.0)):
        np.testing.assert_array_equal(face.svt(A, tau), expected)


def test_variables_get_gradients():
    A, tau = tf.Variable(matrices((4, 3))), tf.Variable(0.3, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(face.svt(A, tau))
    assert all(g is not None for g in tape.gradient(loss, [A, tau]))


def test_the_same_operators_as_in_the_other_faces():
    torch = pytest.importorskip("svdinv.torch")
    names = [n for n, x in vars(torch).items() if inspect.ismethod(x)]
    assert len(names) > 15
    assert names == [n for n, x in vars(face).items() if inspect.ismethod(x)]
    assert pickle.loads(pickle.dumps(face.svt)) == face.svt
