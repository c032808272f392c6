"""TensorFlow's own modes: graphs, unknown shapes, XLA, Keras."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from array_api_compat import numpy as compat_numpy
from frameworks import FRAMEWORKS, as_tuple
from interpreters import run as run_python
from operator_cases import bound, problem, weights, with_values
from operator_cases import matrices as numbers
from oracle import FUNCTIONS, draw, relative_error

tf = pytest.importorskip("tensorflow")

import svdinv.numpy
import svdinv.tf
import svdinv.tf as face
from svdinv import kernels
from svdinv.backends import tensorflow, tensorflow_kernels, tensorflow_namespace
from svdinv.core import factors
from svdinv.core.hermitian import HermitianFunction
from svdinv.core.spectral_operations import Factorise
from svdinv.core.thresholds import Soft
from svdinv.operators import OPERATORS
from svdinv.tf import svd, svdvals

SHAPES = [(4, 4), (5, 3), (3, 5), (2, 4, 3)]
EMPTY = [(0, 3), (3, 0), (2, 3, 0), (0, 3, 2)]

# AutoGraph never converts the package; to convert tests is a third of their tracing.
traced = functools.partial(tf.function, autograph=False)

MODES = {
    "eager": lambda function, A: function,
    "graph": lambda function, A: tf.function(function),
    "unknown dimensions": lambda function, A: traced(
        function, input_signature=[tf.TensorSpec([None] * A.ndim, A.dtype)]
    ),
    "unknown rank": lambda function, A: traced(
        function, input_signature=[tf.TensorSpec(None, A.dtype)]
    ),
}


def matrices(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if dtype == np.complex128:
        A = A + 1j * rng.standard_normal(shape)
    return A.astype(dtype)


def spectral(A, f=tf.tanh):
    s, u, v = svd(A)
    return tf.matmul(u * tf.cast(f(s)[..., None, :], u.dtype), v, adjoint_b=True)


def full_invariants(A):
    s, u, v = svd(A, full_matrices=True)
    k = tf.shape(s)[-1]
    u2, v2 = u[..., k:], v[..., k:]
    return tf.concat(
        [
            tf.reshape(tf.matmul(x, x, adjoint_b=True), [-1])
            for x in (u2, v2)
        ],
        axis=0,
    )  # fmt: skip


def gradient(function):
    """Gradient of a sum of sines of the function's real part."""

    def inner(A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            loss = tf.reduce_sum(tf.sin(tf.math.real(function(A))))
        return tape.gradient(loss, A)

    return inner


def slope(function, A, direction, step=1e-6):
    """Central difference of the loss of `gradient` along a direction."""

    def loss(A):
        return tf.reduce_sum(tf.sin(tf.math.real(function(tf.constant(A))))).numpy()

    return (loss(A + step * direction) - loss(A - step * direction)) / (2 * step)


def over_shapes(function, mode, arrays):
    """Results in a mode: what is unknown when traced is one graph for many shapes."""
    graphs = {}
    for A in arrays:
        key = {"unknown rank": None, "unknown dimensions": A.ndim}.get(mode, A.shape)
        if key not in graphs:
            graphs[key] = MODES[mode](function, A)
        yield A, graphs[key](tf.constant(A)).numpy()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
# An unknown rank is unknown dimensions, too.
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown rank"])
@pytest.mark.parametrize("function", [spectral, full_invariants])
def test_gradient_against_finite_differences(function, mode, dtype):
    arrays = [matrices(shape, dtype) for shape in SHAPES]
    for A, gA in over_shapes(gradient(function), mode, arrays):
        shape = A.shape
        direction = matrices(shape, dtype, seed=1)
        expected = slope(function, A, direction)
        found = np.sum((np.conj(gA) * direction).real)
        assert abs(found - expected) < 1e-7 * (1 + abs(expected)), shape


@pytest.mark.parametrize("n", [1, 3, 4])
def test_rotations_of_any_dimension_by_xla(n):
    A = tf.constant(matrices((3, 6, n), np.float32))

    def rotations(A):
        square = tf.linalg.matmul(A, A[:, ::-1], transpose_a=True)
        turned = svdinv.tf.kabsch(A, A[:, ::-1] ** 2).rotation
        return tf.stack([turned, svdinv.tf.polar(square, special=True)])

    found = traced(rotations, jit_compile=True)(A)
    np.testing.assert_allclose(found, rotations(A), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_empty_shapes(mode):
    for A, gA in over_shapes(gradient(spectral), mode, map(np.zeros, EMPTY)):
        assert gA.shape == A.shape


@pytest.mark.parametrize("mode", ["eager", "graph", "unknown rank"])
def test_second_and_third_derivatives(mode):
    A, direction = matrices((4, 3)), matrices((4, 3), seed=1)

    def along(function):
        def inner(A):
            with tf.GradientTape() as tape:
                tape.watch(A)
                product = tf.reduce_sum(function(A) * direction)
            return tape.gradient(product, A)

        return inner

    derivatives = [gradient(spectral)]
    for _ in range(1 if mode == "unknown rank" else 2):  # a third takes ten seconds
        derivatives.append(along(derivatives[-1]))
    for lower, upper in pairwise(derivatives):
        found = MODES[mode](upper, A)(tf.constant(A)).numpy()
        step = 1e-6 * direction
        plus, minus = lower(tf.constant(A + step)), lower(tf.constant(A - step))
        difference = (plus - minus).numpy() / 2e-6
        np.testing.assert_allclose(found, difference, atol=2e-8 * np.abs(found).max())
    finite = derivatives[1](tf.eye(4, 3, dtype=tf.float64))
    assert np.isfinite(finite.numpy()).all()


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 5)])
def test_xla(shape):
    A = matrices(shape)
    compiled = traced(gradient(spectral), jit_compile=True)(tf.constant(A))
    expected = gradient(spectral)(tf.constant(A))
    # XLA's own decomposition stops iterating at 1e-6, in double precision too.
    np.testing.assert_allclose(compiled, expected, atol=1e-5)


def test_xla_at_repeated_values():
    compiled = traced(gradient(spectral), jit_compile=True)
    gA = compiled(tf.eye(4, dtype=tf.float32))
    expected = gradient(spectral)(tf.eye(4, dtype=tf.float32))
    np.testing.assert_allclose(gA, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (6, 11)])
def test_distinct_spectra_agree_with_tensorflow(shape, dtype):
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=8)
    A = tf.constant(problem.A)
    found = []
    for decompose in (svd, tf.linalg.svd):
        with tf.GradientTape() as tape:
            tape.watch(A)
            s, u, v = decompose(A)
        factors = (u.numpy(), s.numpy(), np.conj(np.swapaxes(v.numpy(), -1, -2)))
        gU, gS, gVh = problem.cotangents(factors, FUNCTIONS["tanh"])
        gV = np.conj(np.swapaxes(gVh, -1, -2))
        given = [tf.constant(g) for g in (gS, gU, gV)]
        found.append(tape.gradient([s, u, v], A, given).numpy())
    # TensorFlow's quotients of squared singular values lose some digits.
    assert relative_error(*found).max() < 200 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    A = tf.cast(matrices((5, 3)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(A)
        factors = svd(A)
        loss = tf.reduce_sum(tf.cast(factors.s, tf.float32) ** 2)
    assert all(x.dtype == dtype for x in factors)
    gA = tape.gradient(loss, A)
    assert gA.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(gA, tf.float32), 2 * tf.cast(A, tf.float32), rtol=2e-2, atol=2e-2
    )


def test_compute_uv_and_svdvals():
    A = tf.Variable(tf.eye(3, dtype=tf.float64))
    with tf.GradientTape(persistent=True) as tape:
        alone = tf.reduce_sum(svd(A, compute_uv=False))
        values = tf.reduce_sum(svdvals(A))
    for loss in (alone, values):
        np.testing.assert_allclose(tape.gradient(loss, A), np.eye(3), atol=1e-14)


def test_gauge_inside_a_graph():
    A = tf.constant(np.linalg.qr(matrices((4, 4)))[0])

    def backward(gauge):
        @tf.function
        def run(A):
            with tf.GradientTape() as tape:
                tape.watch(A)
                loss = tf.reduce_sum(svd(A, gauge=gauge).u * matrices((4, 4), seed=2))
            return tape.gradient(loss, A)

        return run(A)

    monitor = svdinv.GaugeMonitor()
    assert np.isfinite(backward(monitor).numpy()).all()
    assert np.asarray(monitor.last).item() > 1e-2
    with pytest.raises(tf.errors.OpError, match="in 1 of 1 matrices"):
        backward("error")


with_kernels = pytest.mark.skipif(
    tensorflow_kernels.chosen().startswith("none"),
    reason=f"kernels {tensorflow_kernels.chosen()}",
)


def operations(graph):
    """Types of the operations of a graph and of the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [definition.node, *(f.node_def for f in definition.library.function)]
    return {node.op for part in nodes for node in part}


@with_kernels
@pytest.mark.parametrize("signature", [[None, 128, 64], [None, None, 64]])
@pytest.mark.parametrize("function", [spectral, lambda A: face.svt(A, 3.0)])
def test_graphs_decide_by_lengths_whether_kernels_serve(function, signature):
    """One matrix of 128x64 leaves most lanes empty, forty of them do not."""

    def derivatives(A):
        return function(A), gradient(function)(A)

    given = [tf.TensorSpec(signature, tf.float64)]
    graph = traced(derivatives, input_signature=given)
    found = operations(graph.get_concrete_function().graph)
    assert {"Svdinv>Kernel", "Svd"} <= found
    assert found & {"If", "StatelessIf"}
    for batch in (1, 40):
        A = tf.constant(matrices((batch, 128, 64)))
        with face.portable():
            expected = derivatives(A)
        close(shown(graph(A)), shown(expected), 1e-11)


LOADED = """
import json, sys
import numpy as np, tensorflow as tf
folder, A = sys.argv[1], tf.constant(np.load(sys.argv[1] + "/A.npy"))

def values(name):
    module = tf.saved_model.load(f"{folder}/{name}")
    if name.startswith("keras"):
        return [module.serve(A).numpy().tolist()]
    return [x.numpy().tolist() for x in module.threshold(A)]

found, names = {}, sys.argv[2:]
for name in names:
    try:
        found[name] = values(name)
    except Exception as error:
        found[name] = str(error)
assert "svdinv" not in sys.modules
import svdinv.tf
for name in names:
    found[name + " with svdinv"] = values(name)
print(json.dumps(found))
"""


@with_kernels
@pytest.mark.slow
# Keras converts its own variables in NumPy's old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saved_graphs_need_svdinv_unless_they_are_portable(tmp_path):
    keras = pytest.importorskip("keras")
    from svdinv.keras import SingularValueThreshold

    def threshold(A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            Y = face.svt(A, 0.5)
            loss = tf.reduce_sum(tf.sin(Y))
        return Y, tape.gradient(loss, A)

    A = matrices((6, 4, 5), np.float32)
    np.save(tmp_path / "A.npy", A)
    model = keras.Sequential([keras.Input((4, 5)), SingularValueThreshold(0.3)])
    expected = {
        "module": shown(threshold(tf.constant(A))),
        "keras": [keras.ops.convert_to_numpy(model(A))],
    }
    names = []
    for way in (contextlib.nullcontext, face.portable):
        module = tf.Module()
        signature = [tf.TensorSpec([None, None, 5], tf.float32)]
        module.threshold = tf.function(threshold, input_signature=signature)
        names += [f"module-{way.__name__}", f"keras-{way.__name__}"]
        with way():
            tf.saved_model.save(module, str(tmp_path / names[-2]))
            model.export(tmp_path / names[-1], verbose=False)
    done = run_python("-c", LOADED, tmp_path, *names)
    assert done.returncode == 0, done.stderr
    for name, values in json.loads(done.stdout).items():
        kind, _, way = name.partition("-")
        if way == "nullcontext":
            assert "Svdinv>Kernel" in values, name
        else:
            close([np.asarray(x) for x in values], expected[kind], 1e-5)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite_converts_what_takes_products_alone():
    def polar(A):
        return face.polar(A, method="matmul")

    A = tf.constant(matrices((4, 6, 5), np.float32))
    with face.portable():
        concrete = tf.function(polar).get_concrete_function(A)
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    lite = tf.lite.Interpreter(model_content=content)
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], A.numpy())
    lite.invoke()
    found = lite.get_tensor(lite.get_output_details()[0]["index"])
    close([found], [polar(A).numpy()], 1e-5)


def test_vectorized_map():
    A = tf.constant(np.stack([np.eye(3), matrices((3, 3))]))
    mapped = tf.vectorized_map(lambda a: svdvals(a), A)
    np.testing.assert_allclose(mapped, svdvals(A), atol=1e-14)


THRESHOLDS = [
    lambda A, t: face.svt(A, t),
    lambda A, t: face.svht(A, t),
    lambda A, t: face.firm_threshold(A, t, 2.5),
    lambda A, t: face.log_sum_threshold(A, t, 0.5),
    lambda A, t: face.schatten_prox(A, t, 0.5),
]
# One of each kind: graphs take a second to trace.
SOME = [
    f"{name}, {dtype}"
    for dtype, names in (
        ("float64", ("svt", "polar", "schatten_norm, 1.5", "sure", "spectral_map")),
        ("complex128", ("svt, weighted", "tsvt", "spectral_map")),
    )
    for name in names
]


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
            results = as_tuple(function(*x))
            parts = zip(results, weights(shown(results)), strict=True)
            loss = tf.add_n([inner(y, W) for y, W in parts])
        gradients = tape.gradient(loss, x)
        parts = zip(gradients, directions, strict=True)
        along = tf.add_n([inner(g, d) for g, d in parts])
    products = outer.gradient(along, x, unconnected_gradients="zero")
    return results, gradients, products


def shown(tensors):
    return [x.numpy() for x in tensors]


@pytest.mark.parametrize("name", SOME)
def test_graphs(name):
    unknown = SOME.index(name) % 2 == 0
    function = bound(name, FRAMEWORKS["tensorflow"])
    inputs, directions, _ = problem(name)
    x = tuple(map(tf.constant, inputs))
    expected = derivatives(function, directions, *x)
    given = [weights(shown(expected[0]))]

    def run(*x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                (result,) = as_tuple(function(*x))
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
    found = traced(run, input_signature=signature)(*x)
    for a, b, tolerance in zip(found, expected, (1e-12, 1e-11, 1e-9), strict=True):
        close(shown(a), shown(b), tolerance)


@pytest.mark.parametrize("signature", [[None, 4], [4, None]])
def test_graphs_in_which_one_size_is_unknown(signature):
    """Rows or columns."""
    A = tf.constant(numbers([n or 5 for n in signature]))
    functions = (
        spectral,
        lambda A: face.svt(A, 0.5),
        lambda A: face.svt(A, 0.5, method="svd"),
        lambda A: face.svt(A, 0.5, method="gram"),
        face.polar,
    )

    def gradients(A):
        return [gradient(function)(A) for function in functions]

    graph = traced(gradients, input_signature=[tf.TensorSpec(signature, A.dtype)])
    close(shown(graph(A)), shown(gradients(A)), 1e-11)


@pytest.mark.parametrize("name", ["kabsch, float64", "local_low_rank, complex128"])
def test_graphs_of_unknown_length(name):
    function = bound(name, FRAMEWORKS["tensorflow"])
    inputs, _, _ = problem(name)
    x = tuple(map(tf.constant, inputs))

    def run(*x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = as_tuple(function(*x))
            loss = tf.add_n([tf.reduce_sum(tf.abs(y)) for y in results])
        return tape.gradient(loss, x)

    # Points and frames; of images the size is needed.
    signature = [
        tf.TensorSpec([None, None, *a.shape[2:]][: a.ndim], a.dtype) for a in inputs
    ]
    found = traced(run, input_signature=signature)(*x)
    close(shown(found), shown(run(*x)), 1e-12)
    if "local" in name:
        blind = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in inputs]
        with pytest.raises(ValueError, match="height and width"):
            tf.function(run, input_signature=blind).get_concrete_function()


@pytest.mark.parametrize("name", ["svt", "polar", "kabsch"])
def test_xla_of_operators(name):
    function = bound(f"{name}, float64", FRAMEWORKS["tensorflow"])
    inputs, _, _ = problem(f"{name}, float64")
    x = tuple(tf.constant(a, tf.float32) for a in inputs)

    def run(*x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.add_n([tf.reduce_sum(y**2) for y in as_tuple(function(*x))])
            loss += tf.reduce_sum(as_tuple(function(*x))[0])
        return tape.gradient(loss, x)

    found = traced(run, jit_compile=True)(*x)
    close(shown(found), shown(run(*x)), 1e-4)


@pytest.mark.parametrize("name", ["svt, float64", "svt, gram, float64"])
def test_tapes_and_accumulators_agree(name):
    function = bound(name, FRAMEWORKS["tensorflow"])
    inputs, directions, _ = problem(name)
    x, d = list(map(tf.constant, inputs)), list(map(tf.constant, directions))

    def loss(*x):
        return tf.reduce_sum(tf.sin(tf.math.real(function(*x))))

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
    with tf.autodiff.ForwardAccumulator(x, d) as forward, tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(*x)
        gradients = tape.gradient(value, x)
    close(shown(map(forward.jvp, gradients)), shown(products), 1e-12)
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.autodiff.ForwardAccumulator(x, d) as forward:
            value = loss(*x)
        pushed = forward.jvp(value)
    close(shown(tape.gradient(pushed, x)), shown(products), 1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 90, 80)])
@pytest.mark.parametrize("function", [face.svdvals, face.nuclear_norm, face.pinv])
def test_gradients_that_a_vectorized_loop_drops_are_errors(function, shape):
    """They were zeros: TensorFlow makes a plain identity of a custom gradient."""
    A = tf.constant(numbers(shape))

    def gradient(mapped):
        with tf.GradientTape() as tape:
            tape.watch(A)
            loss = tf.reduce_sum(mapped(function, A) ** 2)
        return tape.gradient(loss, A)

    assert tf.norm(gradient(tf.map_fn)) > 0.1
    in_graph = tf.function(gradient, autograph=False, reduce_retracing=True)
    assert tf.norm(in_graph(tf.map_fn)) > 0.1
    for run in (gradient, in_graph):
        with pytest.raises(LookupError, match=r"tf\.map_fn"):
            run(tf.vectorized_map)
        with face.portable(), pytest.raises(LookupError, match=r"tf\.map_fn"):
            run(tf.vectorized_map)


@pytest.mark.parametrize("function", [face.svdvals, face.expm])
def test_derivatives_of_a_jacobian_by_a_vectorized_loop_are_errors(function):
    A = tf.constant(numbers((4, 4)))

    def gradient(vectorized):
        with tf.GradientTape() as outer:
            outer.watch(A)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(A)
                y = function(A)
            jacobian = tape.jacobian(y, A, experimental_use_pfor=vectorized)
            loss = tf.reduce_sum(tf.sin(jacobian))
        return outer.gradient(loss, A)

    assert tf.norm(gradient(False)) > 0.1
    with face.portable():
        if function is face.svdvals:  # of its gradient the loop drops nothing there
            np.testing.assert_allclose(gradient(True), gradient(False), atol=1e-12)
        else:
            with pytest.raises(LookupError, match="experimental_use_pfor"):
                gradient(True)
    with pytest.raises(LookupError, match="experimental_use_pfor"):
        gradient(True)


def test_tape_over_a_graph():
    A = tf.constant(numbers((4, 3)))
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


# In graphs, which take seconds to trace, one of each kind of decomposition.
@pytest.mark.parametrize(("function", "graph"), [
    (lambda A: face.svt(A, 0.5), False),
    (face.polar, False),
    (lambda A: face.svt(A, tf.reduce_mean(A * A), relative=True), False),
    (lambda A: face.svt(A, tf.reduce_mean(A * A), relative=True), True),
    (lambda A: face.expm(tf.matmul(A, A, transpose_a=True)), False),
    (lambda A: face.expm(tf.matmul(A, A, transpose_a=True)), True),
])  # fmt: skip
def test_products_with_the_hessian_are_linear_in_the_vector(function, graph):
    A, v, w = (tf.constant(numbers((4, 3), seed=i)) for i in range(3))

    def product(v, A=A):
        with tf.GradientTape() as outer:
            outer.watch(A)
            with tf.GradientTape() as tape:
                tape.watch(A)
                loss = tf.reduce_sum(tf.sin(function(A)))
            slope = tf.reduce_sum(tape.gradient(loss, A) * v)
        return outer.gradient(slope, A)

    def transposed(v, w):
        with tf.GradientTape() as tape:
            tape.watch(v)
            total = tf.reduce_sum(product(v) * w)
        return tape.gradient(total, v)

    run = traced(transposed) if graph else transposed
    close(shown([run(v, w)]), shown([product(w)]), 1e-13)
    with tf.GradientTape() as tape:
        tape.watch(A)
        bent = product(v)
        with pytest.raises(NotImplementedError, match="two derivatives"):
            tape.gradient(bent, A)


# TensorFlow loses the tape around an accumulator where the operation is a function.
@pytest.mark.parametrize("rows", [3, None])
@pytest.mark.parametrize(
    "function",
    [
        face.svt,
        face.nuclear_norm,
        face.polar,
        face.pinv,
        face.spectral_map,
        face.svdvals,
    ],
)
def test_a_tape_around_an_accumulator_in_a_function(function, rows):
    A, d = (tf.constant(numbers((3, 2), seed=i)) for i in range(2))
    options = {face.svt: (0.3,), face.spectral_map: (tf.tanh,)}.get(function, ())

    def loss(A):
        return tf.reduce_sum(tf.sin(function(A, *options)))

    def forward(A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            with tf.autodiff.ForwardAccumulator(A, d) as accumulator:
                value = loss(A)
            slope = accumulator.jvp(value)
        return slope, tape.gradient(slope, A)

    def reverse(A):
        with tf.GradientTape() as outer:
            outer.watch(A)
            with tf.GradientTape() as tape:
                tape.watch(A)
                value = loss(A)
            slope = tf.reduce_sum(d * tape.gradient(value, A))
        return slope, outer.gradient(slope, A)

    signature = [tf.TensorSpec((rows, 2), A.dtype)]
    found = tf.function(forward, input_signature=signature, autograph=False)(A)
    close(shown(found), shown(reverse(A)), 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("values", [(2, 2, 1), (1, 1, 1), (2, 1, 0)])
def test_tangents_at_repeated_values_are_those_of_numpy(values, dtype):
    """TensorFlow transposes a pullback for them, and this one has no transpose."""
    Q, R = (np.linalg.qr(matrices((3, 3), dtype, i))[0] for i in (1, 2))
    d = matrices((3, 3), dtype, 3)

    def of(name):
        framework = FRAMEWORKS[name]

        def function(A):
            U, S, Vh = framework.svd(A)
            H = A @ framework.namespace.conj(framework.namespace.matrix_transpose(A))
            yield (U * framework.namespace.astype(S**3, U.dtype)) @ Vh
            yield framework.module.spectral_map(A, framework.tanh)
            for s in (framework.module.svdvals(A), framework.module.eigh(H)[0]):
                yield framework.namespace.sum(s**3)

        return lambda A: tuple(function(A))

    def pushed(A):
        with tf.autodiff.ForwardAccumulator(A, d) as forward:
            results = of("tensorflow")(A)
        return [forward.jvp(y) for y in results]

    ways = pushed, traced(pushed)
    for A in (np.diag(values).astype(dtype), (Q * values) @ R):
        _, expected = svdinv.numpy.jvp(of("numpy"), (A,), (d,))
        for way in ways:
            close(shown(way(tf.constant(A))), expected, 1e-13)


def test_tangents_of_a_branch_in_a_function():
    A, d = (tf.constant(numbers((3, 2), seed=i)) for i in range(2))

    def slope():
        with tf.autodiff.ForwardAccumulator(A, d) as accumulator:
            value = tf.cond(tf.norm(A) > 0, lambda: face.svt(A, 0.3), lambda: A)
        return accumulator.jvp(value)

    close(shown([traced(slope)()]), shown([slope()]), 1e-13)


@pytest.mark.parametrize("function", [lambda A: face.svd(A).s ** 3, face.polar])
def test_gradients_of_a_compiled_function_in_a_function(function):
    """TensorFlow traces the gradient in a graph that does not say that XLA compiles."""
    A = tf.constant(numbers((3, 2)))
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def gradient(function, A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            value = tf.reduce_sum(tf.sin(function(A)))
        return tape.gradient(value, A)

    def of_gradient(function, A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            value = tf.reduce_sum(gradient(function, A) ** 2)
        return tape.gradient(value, A)

    for derivative in (gradient, of_gradient):
        found = traced(functools.partial(derivative, compiled))(A)
        close(shown([found]), shown([derivative(function, A)]), 1e-12)


@pytest.mark.parametrize("function", [lambda A: face.svd(A).s ** 3, face.sqrtm])
def test_second_derivatives_where_functions_run_eagerly(function):
    A = numbers((3, 3))
    A = tf.constant(A @ A.T)

    def second():
        with tf.GradientTape() as outer:
            outer.watch(A)
            with tf.GradientTape() as tape:
                tape.watch(A)
                value = tf.reduce_sum(tf.sin(function(A)))
            slope = tf.reduce_sum(tape.gradient(value, A) ** 2)
        return outer.gradient(slope, A)

    expected = second()
    tf.config.run_functions_eagerly(True)
    try:
        close(shown([second()]), shown([expected]), 1e-12)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("operator", ["polar", "nuclear_norm"])
def test_third_derivatives_are_refused(operator):
    A, W = tf.constant(numbers((3, 2))), numbers((3, 2), seed=1)

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


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_of_an_operator(dtype):
    A = tf.cast(numbers((5, 3)), dtype)
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
    A, tau = tf.constant(numbers((12_000, 20))), tf.constant([105.0], tf.float64)
    close(shown([face.svt(A, 105.0)]), shown([face.svt(A, 105.0, method="svd")]), 1e-13)

    def factorise(A, function, tau):
        return face._backend.evaluate(Factorise(function), A, tau)

    assert len(factorise(A, Soft(), tau)) == 2
    counted = []
    tf.function(lambda A: counted.append(len(factorise(A, Soft(), tau))))(A)
    assert counted == [3]


@pytest.mark.parametrize("shape", [(None, None), (6, None), (None, None, None)])
@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitening_of_any_number_of_features_in_a_graph(shape, kind):
    X = np.random.default_rng(0).standard_normal((2, 6, 3))
    X = X[0] if len(shape) == 2 else X
    call = functools.partial(svdinv.tf.whiten, epsilon=0.1, kind=kind)
    graph = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.float64)])
    for found, expected in zip(graph(X), call(tf.constant(X)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("shapes", [[(0, 3), (3, 0)], [(2, 3, 0), (0, 3, 2)]])
def test_empty_arrays(shapes, graph):
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
        signature = [tf.TensorSpec([None] * len(shapes[0]), tf.float64)]
        run = traced(run, input_signature=signature)
    for shape in shapes:
        for gA in run(tf.zeros(shape, tf.float64)):
            assert gA.shape == shape


@pytest.mark.parametrize("graph", [False, True])
def test_nothing_that_is_not_a_number_is_on_the_way(graph):
    """At repeated values; of what TensorFlow searches for NaN and infinity."""
    weight = tf.constant([0.0, 1, 2, 3], tf.float64)
    functions = {
        "svd": lambda A: spectral(A, tf.nn.relu),
        "svt": lambda A: face.svt(A, 1.0, method="gram"),
        "pinv": face.pinv,
        "kabsch": lambda A: face.kabsch(A[:, :3], 2 * A[:, :3] + 1, weight).rmsd,
        "sure": lambda A: face.sure(A, 1.0, 0.1),
        "robust_pca": lambda A: face.robust_pca(A, iterations=2)[0],
        "logm": face.logm,
        "inv_sqrtm": face.inv_sqrtm,
    }
    A = tf.linalg.diag(tf.constant([2.0, 2, 2, 1], tf.float64))
    tf.debugging.enable_check_numerics()
    try:
        for name, function in functions.items():
            slope = gradient(function)
            found = (traced(slope) if graph else slope)(A)
            assert np.isfinite(found).all(), name
    finally:
        tf.debugging.disable_check_numerics()


def test_the_divergence_of_large_matrices_in_a_graph():
    """Grappler adds up derivatives in another order: of two that cancel, first one."""
    A = numbers((4, 3))
    slope = gradient(lambda A: face.svt_divergence(A, 7e19))
    expected = slope(tf.constant(1e20 * A))
    found = traced(slope)(tf.constant(1e20 * A))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_xla_of_matrices_of_any_size():
    A = numbers((2, 4, 3))
    expected = face.svt(A, 0.5).numpy()
    for c in (1e-200, 1e-8, 1e200):
        compiled = tf.function(lambda A, t: face.svt(A, t), jit_compile=True)
        found = compiled(tf.constant(c * A), tf.constant(0.5 * c, tf.float64))
        np.testing.assert_allclose(found / c, expected, atol=1e-6)


def test_xla_of_factors_that_are_not_orthonormal(monkeypatch):
    """They are computed again in double precision, of matrices of any size, too."""
    monkeypatch.setattr(
        tensorflow_namespace, "_orthonormal", lambda Q: tf.constant(False)
    )
    A = numbers((4, 3)).astype(np.float32)
    for c in (1.0, 1e-8):
        found = tf.function(lambda A: face.svd(A)[0], jit_compile=True)(c * A)
        expected = np.linalg.svd(A, compute_uv=False)
        np.testing.assert_allclose(found / c, expected, rtol=1e-5)


def test_variables_get_gradients():
    A, tau = tf.Variable(numbers((4, 3))), tf.Variable(0.3, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(face.svt(A, tau))
    assert all(g is not None for g in tape.gradient(loss, [A, tau]))


def test_the_same_operators_as_in_the_other_faces():
    torch = pytest.importorskip("svdinv.torch", exc_type=ImportError)
    own = {"nn", "Jacobian", "jacobian_svd"}
    assert set(face.__all__) - {"SUVResult", "portable"} == set(torch.__all__) - own
    for name in OPERATORS:
        assert inspect.signature(getattr(face, name)) == inspect.signature(
            getattr(torch, name)
        )
    assert pickle.loads(pickle.dumps(face.svt)) == face.svt


class TestKeras:
    keras = pytest.importorskip("keras")

    def model(self):
        keras = self.keras

        @keras.saving.register_keras_serializable("svdinv-tests")
        class Shrink(keras.layers.Layer):
            """Learned soft threshold of each channel's singular values."""

            def build(self, shape):
                self.threshold = self.add_weight(
                    shape=(), initializer=keras.initializers.Constant(0.1)
                )

            def call(self, x):
                s, u, v = svd(x)
                s = tf.nn.relu(s - self.threshold * s[..., :1])
                return tf.matmul(u * s[..., None, :], v, adjoint_b=True)

        inputs = keras.Input((6, 5))
        return keras.Model(inputs, keras.layers.Dense(5)(Shrink()(inputs)))

    # Keras converts its own variables in NumPy's old way.
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_fit_save_and_load(self, tmp_path):
        keras = self.keras
        keras.utils.set_random_seed(0)
        x = matrices((16, 6, 5), np.float32)
        x[0], x[1] = np.eye(6, 5), 0  # repeated and zero singular values
        model = self.model()
        model.compile(optimizer="adam", loss="mse")
        before = [w.numpy() for w in model.trainable_variables]
        history = model.fit(x, 0.5 * x, epochs=3, batch_size=8, verbose=0)
        losses = history.history["loss"]
        assert losses[-1] < losses[0]
        after = [w.numpy() for w in model.trainable_variables]
        assert all((a != b).any() for a, b in zip(before, after, strict=True))

        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            again.predict(x, verbose=0), model.predict(x, verbose=0)
        )


def spd(rng, *shape):
    A = rng.standard_normal(shape).astype(np.float32)
    return A @ np.swapaxes(A, -1, -2) + np.eye(shape[-1], dtype=np.float32)


@pytest.mark.parametrize("batches", [((2, 1), ()), ((), (3, 1)), ((2, 1), (1,))])
@pytest.mark.parametrize("graph", [False, True])
def test_products_of_batches_that_broadcast(monkeypatch, batches, graph):
    """TensorFlow's own, of several batch axes, writes beyond its memory."""
    rng, multiply, seen = np.random.default_rng(0), tf.matmul, []

    def watched(A, B, **options):
        seen.append((A.shape.rank, B.shape.rank))
        return multiply(A, B, **options)

    monkeypatch.setattr(tf, "matmul", watched)
    A, B = (spd(rng, *batch, 16, 16) for batch in batches)
    eigenvalues = lambda A, B: svdinv.tf.eigh_generalized(A, B)[0]  # noqa: E731
    if graph:
        lengths = [tf.TensorSpec([None] * len(b) + [16, 16]) for b in batches]
        eigenvalues = tf.function(eigenvalues, input_signature=lengths)
    found = eigenvalues(tf.constant(A), tf.constant(B)).numpy()
    assert seen
    assert all(a == b for a, b in seen)
    expected = svdinv.numpy.eigh_generalized(np.float64(A), np.float64(B))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def gpu(monkeypatch):
    """TensorFlow finds a GPU that has TensorFloat-32."""
    asked = tensorflow._has_short_products, tensorflow._warn_of_rounded_products
    for function in asked:
        function.cache_clear()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [kind])
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: {"compute_capability": (8, 0)},
    )
    yield
    for function in asked:
        function.cache_clear()


def test_without_a_gpu_there_is_no_warning():
    tensorflow._warn_of_rounded_products.cache_clear()
    face.svt(tf.eye(3), 0.5)


@pytest.mark.usefixtures("gpu")
def test_rounded_products_on_gpus_are_warned_of():
    face.svt(tf.eye(3, dtype=tf.float64), 0.5)
    with pytest.warns(UserWarning, match="TensorFloat-32"):
        face.svt(tf.eye(3), 0.5)
    face.svt(tf.eye(3), 0.5)  # once


@tf.custom_gradient
def product19(A, B):
    """In TensorFloat-32, whose numbers have 19 bits."""
    bits = [(tf.bitcast(x, tf.int32) + 0x1000) & ~0x1FFF for x in (A, B)]
    A, B = (tf.bitcast(x, tf.float32) for x in bits)

    def gradient(G):
        transposed = map(tf.linalg.matrix_transpose, (B, A))
        return product19(G, next(transposed)), product19(next(transposed), G)

    return A @ B, gradient


@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore:TensorFlow rounds")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("enabled", [True, False])
def test_cotangents_may_come_from_rounded_products(enabled, graph):
    """Their errors say nothing of the function's slope at repeated values."""
    multiply = product19 if enabled else tf.matmul
    rng = np.random.default_rng(0)
    Q, R = np.linalg.qr(rng.standard_normal((2, 100, 4, 4)))[0]
    A = 2 * Q @ np.diag([1, 1, 1, 1 - 1e-4]) @ np.swapaxes(R, -1, -2)
    A, G = (tf.constant(x, tf.float32) for x in (A, rng.standard_normal(A.shape)))

    def by_factors(A):
        s, u, v = face.svd(A)
        return multiply(u * tf.nn.relu(s - 0.5)[:, None], tf.linalg.matrix_transpose(v))

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(enabled)
    try:
        gradients = []
        for function in (by_factors, lambda A: face.svt(A, 0.5)):
            with tf.GradientTape() as tape:
                tape.watch(A)
                B = (traced(function) if graph else function)(A)
            gradients.append(tape.gradient(B, A, G).numpy())
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    found, exact = gradients
    error = np.linalg.norm(found - exact, axis=(1, 2)).max()
    assert (
        error < (4e-3 if enabled else 4e-4) * np.linalg.norm(exact, axis=(1, 2)).min()
    )


def test_factors_of_nan_are_nan_where_those_of_the_library_are_not(monkeypatch):
    """As of cuSOLVER, up to 32 x 32."""

    def library(A, original=tf.linalg.svd, **options):
        return original(tf.where(tf.math.is_nan(A), tf.ones_like(A), A), **options)

    monkeypatch.setattr(tf.linalg, "svd", library)
    A = np.stack([np.eye(70), np.eye(70), np.eye(70)])  # for which there is no kernel
    A[1, 2, 3] = np.nan
    for x in traced(lambda A: tuple(face.svd(A)))(tf.constant(A)):
        lost = np.isnan(x.numpy().reshape(3, -1)).all(-1)
        np.testing.assert_array_equal(lost, [False, True, False])


def test_a_graph_decides_for_the_gram_matrix(monkeypatch):
    monkeypatch.setattr(factors, "MIN_GRAM_WORK", 1)
    monkeypatch.setattr(kernels._kernels, "indices", {})
    s = np.array([[1, 0.9, 0.8, 1e-3, 1e-4, 0], np.logspace(0, -4, 6)])
    A = np.stack([with_values(row, (9, 6)) for row in s])
    G = numbers((2, 9, 6))

    @traced
    def both(A, tau, method):
        with tf.GradientTape() as tape:
            tape.watch(A)
            y = face.svt(A, tau, method=method)
        return y, tape.gradient(y, A, output_gradients=tf.constant(G))

    graph = both.get_concrete_function(tf.constant(A), tf.constant(0.3), "auto")
    assert any(op.type in ("If", "StatelessIf") for op in graph.graph.get_operations())
    for tau in (0.3, 1e-3, 2.0):
        for scale in (1.0, 1e-100):
            given = tf.constant(A * scale), tf.constant(tau * scale, tf.float64)
            found, expected = (both(*given, method) for method in ("auto", "svd"))
            for x, y, size in zip(found, expected, (scale, 1), strict=True):
                assert abs(x - y).numpy().max() / size < 1e-13


ONE = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4))
OF_TWO = {
    *("add", "atan2", "divide", "equal", "greater", "greater_equal", "hypot", "less"),
    *("less_equal", "multiply", "not_equal", "pow", "subtract"),
}
OF_MASKS = {"logical_and", "logical_or", "logical_xor"}
OF_OTHERS = {
    "acosh": (ONE + 1,),
    "argsort": (ONE, {"axis": 0}),
    "clip": (ONE, 0.2, {"max": 0.5}),
    "cumulative_prod": (ONE, {"axis": 1}),
    "diff": (ONE, {"axis": 0}),
    "expand_dims": (ONE, {"axis": 1}),
    "full": ((2, 3), 0.1, {"dtype": np.float64}),
    "full_like": (ONE, 0.1),
    "logical_not": (ONE > 0.5,),
    "moveaxis": (ONE, 0, 1),
    "ones": ((2, 3),),
    "repeat": (ONE, 2, {"axis": 0}),
    "sort": (ONE, {"axis": 0}),
    "squeeze": (ONE[None], {"axis": 0}),
    "take_along_axis": (ONE, np.argsort(ONE, axis=0), {"axis": 0}),
    "tensordot": (ONE, ONE.T, {"axes": 1}),
    "tile": (ONE, (2, 1)),
}


def test_functions_for_operators_of_users():
    """They are those of the array API, as NumPy has them."""
    constants = {"bool", "e", "inf", "int64", "nan", "newaxis", "pi"}
    names = tensorflow_namespace._OF_MATH | tensorflow_namespace._OTHERS.keys()
    for name in names - constants:
        given = OF_OTHERS.get(name, (ONE,))
        given = (ONE, ONE[::-1]) if name in OF_TWO else given
        given = (ONE > 0.5, ONE > 0.3) if name in OF_MASKS else given
        options = given[-1] if isinstance(given[-1], dict) else {}
        args = given[:-1] if options else given
        expected = getattr(compat_numpy, name)(*args, **options)
        args = [tf.constant(x) if isinstance(x, np.ndarray) else x for x in args]
        found = getattr(tensorflow_namespace, name)(*args, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)
    with pytest.raises(AttributeError, match="no 'nonzero' of the array API"):
        tensorflow_namespace.nonzero(tf.constant(ONE))


class Square(HermitianFunction):
    """w^2, by the derivative of w^3 / 3 that a tape finds."""

    def value(self, w, xp):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = w**3 / 3
        return tape.gradient(y, w)

    def difference(self, a, b, xp):
        return a.s + b.s

    def second_difference(self, points, d, xp):
        return 1 + 0 * d[0]


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_functions_of_users_may_have_tapes(graph, watched):
    A = numbers((5, 4, 4), np.float64)
    A = tf.constant(A @ A.transpose(0, 2, 1))
    call = functools.partial(face.hermitian_map, function=Square())
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if watched:
            tape.watch(A)
        found = (tf.function(call) if graph else call)(A)
    np.testing.assert_allclose(found, A @ A, rtol=1e-12)
    if watched:
        gradient, ones = tape.gradient(found, A), tf.ones_like(A)
        np.testing.assert_allclose(gradient, A @ ones + ones @ A, rtol=1e-10)


def test_a_threshold_of_unknown_rank_is_refused():
    signature = [tf.TensorSpec((None, 3, 3)), tf.TensorSpec(None)]
    with pytest.raises(ValueError, match="tau must have a known number of dimensions"):
        traced(face.svt, input_signature=signature).get_concrete_function()
