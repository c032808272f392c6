from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from array_frameworks import FRAMEWORKS, Framework, draw, gauss

from svdinv.unroll.algorithms import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
    conjugate_gradients,
    solve,
)
from svdinv.unroll.arrays import namespace, times
from svdinv.unroll.networks import lls
from svdinv.unroll.operators import (
    MRI,
    Dense,
    Gradient,
    Identity,
    TemporalFourier,
    gaussian_sensing,
)
from svdinv.unroll.priors import (
    Casorati,
    HuberVariation,
    Nuclear,
    Sparse,
    Tikhonov,
    TotalVariation,
)
from svdinv.unroll.problem import Problem

T, C, H, W = 4, 3, 6, 5
PROXIMAL = {
    "ista": ISTA(),
    "fista": FISTA(),
    "fista, restart": FISTA(restart=True),
    "admm": ADMM(cg_iterations=5),
    "pdhg": PDHG(),
}


def problem(rng, *, coils):
    """A series of rank 2, half of its k-space, noise, and a prior."""
    x = gauss(rng, T, 2) @ gauss(rng, 2, H * W)
    mask = rng.random((T, H, W)) < 0.6
    maps = gauss(rng, C, H, W) / 2 if coils else None
    A = MRI(mask, maps)
    y = A(x.reshape(T, H, W))
    return y + 0.1 * A(A.H(gauss(rng, *y.shape))), A, Casorati(1.5)


@pytest.fixture(scope="module", params=[False, True], ids=["tight", "coils"])
def convex(request):
    return problem(np.random.default_rng(7), coils=request.param)


@pytest.fixture(scope="module")
def minimiser(convex):
    y, A, R = convex
    return solve(Problem(y, A), R, iterations=3000, rtol=1e-13, objective=False).image


def test_the_minimiser_is_one(convex, minimiser):
    """Optimality: A^H(y - A x) is a subgradient of the weighted nuclear norm."""
    y, A, R = convex
    g = A.H(y - A(minimiser))
    assert np.linalg.norm(g.reshape(T, -1), 2) <= R.weight * (1 + 1e-9)
    along = np.vdot(minimiser, g).real
    assert along == pytest.approx(float(R.value(minimiser)), rel=1e-9)
    assert np.linalg.matrix_rank(minimiser.reshape(T, -1), 1e-6) < T


@pytest.mark.parametrize("name", PROXIMAL)
def test_all_schemes_reach_the_minimiser(name, convex, minimiser):
    y, A, R = convex
    algorithm = PROXIMAL[name]
    found = solve(
        Problem(y, A),
        R,
        algorithm=algorithm,
        iterations=8000,
        rtol=1e-11,
        objective=False,
    )
    assert found.converged
    error = np.linalg.norm(found.image - minimiser)
    assert error <= 1e-7 * np.linalg.norm(minimiser)


@pytest.mark.parametrize(
    "R", [Tikhonov(0.3), Tikhonov(0.3, Gradient()), HuberVariation(0.3, 0.5)]
)
def test_gradient_descent_falls_to_a_stationary_point(R, rng):
    y, A, _ = problem(rng, coils=True)
    found = solve(Problem(y, A), R, iterations=6000, rtol=1e-13)
    assert np.diff(found.objective).max() <= 1e-13 * found.objective[0]
    slope = A.H(A(found.image) - y) + R.gradient(found.image)
    assert np.linalg.norm(slope) <= 1e-8 * np.linalg.norm(A.H(y))


@pytest.mark.parametrize("isotropic", [True, False])
def test_total_variation_by_two_ways(isotropic, rng):
    """PDHG splits the differences off; FISTA takes the prox with inner steps."""
    image = np.zeros((10, 9))
    image[2:6, 3:] = 1
    A = gaussian_sensing(70, image.shape, 2, dtype=np.float64)
    y = A(image) + 0.02 * rng.standard_normal(70)
    R = TotalVariation(0.05, isotropic=isotropic, iterations=300)
    how = {"iterations": 20000, "rtol": 1e-7, "objective": False}
    first = solve(Problem(y, A), R, **how)
    second = solve(Problem(y, A), R, algorithm=FISTA(restart=True), **how)
    assert first.converged
    values = [
        Problem(y, A).value(found.image) + R.value(found.image)
        for found in (first, second)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    np.testing.assert_allclose(first.image, second.image, atol=2e-3)
    assert np.linalg.norm(first.image - image) < 0.2 * np.linalg.norm(image)


@pytest.mark.parametrize("split", [False, True])
def test_pdhg_is_the_published_iteration(split, rng):
    """Algorithm 1 of Chambolle and Pock with theta = 1, for the stacked operator."""
    y, A, _ = problem(rng, coils=True)
    tau, sigma, weight = 0.3, 0.4, 0.7
    D = Gradient()
    algorithm = PDHG(D) if split else PDHG()
    _, prox = TotalVariation(weight).split() if split else (None, Casorati(0.7).prox)
    found = iterate(algorithm, y, A, prox, {"step": tau, "dual_step": sigma}, 5)
    x = ahead = A.H(y)
    q, w = np.zeros_like(y), np.zeros_like(D(x))
    for _ in range(5):
        q = (q + sigma * (A(ahead) - y)) / (1 + sigma)
        if split:
            w = w + sigma * D(ahead)
            # Onto the dual ball: vectors of length at most the weight.
            w = w / np.maximum(1, np.linalg.norm(w, axis=0) / weight)
            new = x - tau * (A.H(q) + D.H(w))
        else:
            new = prox(x - tau * A.H(q), tau)
        ahead, x = 2 * new - x, new
    np.testing.assert_allclose(found["x"], x, atol=1e-12)
    np.testing.assert_allclose(found["dual"], q, atol=1e-12)


def test_pdhg_takes_the_transform_of_the_regulariser(rng):
    y = rng.standard_normal((H, W))
    R = TotalVariation(0.2)
    expected = solve(Problem(y, Identity()), R, algorithm=PDHG(), iterations=20).image
    for algorithm in (PDHG(Gradient()), PDHG(Identity())):
        found = solve(
            Problem(y, Identity()), R, algorithm=algorithm, iterations=20
        ).image
        np.testing.assert_array_equal(found, expected)


def test_conjugate_gradients_solve_in_as_many_steps_as_unknowns(rng):
    B = gauss(rng, 9, 6)
    N = B.conj().T @ B + np.eye(6)
    b = gauss(rng, 6)
    found = conjugate_gradients(lambda x: N @ x, b, np.zeros_like(b), 6)
    np.testing.assert_allclose(found, np.linalg.solve(N, b), atol=1e-9)
    again = conjugate_gradients(lambda x: N @ x, b, found, 50)
    np.testing.assert_allclose(again, found, atol=1e-9)
    exact = np.zeros_like(b)
    np.testing.assert_array_equal(
        conjugate_gradients(lambda x: N @ x, exact, exact, 5), exact
    )


def test_frameworks_agree_without_negative_values(arrays, rng):
    y, prior = rng.standard_normal((3, 4, 5)), TotalVariation(0.1, channels=-3)

    def image(y):
        how = {"algorithm": PDHG(nonnegative=True), "iterations": 20}
        return solve(Problem(y, Identity()), prior, objective=False, **how).image

    found = arrays.numpy(image(arrays.array(y)))
    assert (found == 0).any()
    np.testing.assert_allclose(found, image(y), atol=1e-10)


@pytest.mark.parametrize("prior", [Casorati(1.0), TotalVariation(0.2, channels=-3)])
def test_pdhg_without_negative_values(prior, rng):
    """Optimality: what the slope of the data lacks to -R'(x) points into x >= 0."""
    A = Dense(rng.standard_normal((240, T * H * W)) / 15, (T, H, W))
    x = np.maximum(rng.standard_normal((T, 1, 1)) * rng.standard_normal((H, W)), 0)
    problem = Problem(A(x) + 0.3 * rng.standard_normal(240), A)
    how = {"iterations": 4000, "rtol": 1e-10, "objective": False}
    found = solve(problem, prior, algorithm=PDHG(nonnegative=True), **how)
    x, K = found.image, prior.split()[0]
    assert (x >= 0).all()
    assert 0 < np.count_nonzero(x) < x.size
    subgradient = found.state["transform_dual"]
    slope = problem.gradient(x) + K.adjoint(subgradient)
    assert slope.min() > -1e-6
    np.testing.assert_allclose(slope * x, 0, atol=1e-6)
    assert np.vdot(subgradient, K(x)) == pytest.approx(float(prior.value(x)), rel=1e-6)
    assert (prior.split()[1](subgradient, 1 - 1e-6) ** 2).sum() < 1e-9
    free = solve(problem, prior, algorithm=PDHG(), iterations=2000, objective=False)
    assert free.image.min() < -0.01


@pytest.mark.parametrize("size", [8, 96])
def test_conjugate_gradients_stay_at_the_solution_of_a_singular_system(rng, size):
    """Rounding leaves a residual where N is 0, and no step must follow it."""
    A = MRI(rng.random((size, size)) < 0.3)
    image = gauss(rng, 2, size, size).astype(np.complex64)
    image[1] *= 1e-6  # each with its own rounding
    b = A.adjoint(A(image))
    found = conjugate_gradients(
        lambda x: A.adjoint(A(x)), b, np.zeros_like(b), 60, batch_axes=1
    )
    away = np.linalg.norm(found - b, axis=(1, 2))
    assert (away < 1e-5 * np.linalg.norm(b, axis=(1, 2))).all()


def test_conjugate_gradients_stay_where_they_came_to_from_far_away(rng):
    """Rounding is then that of the first residual, far above that of b."""
    maps = gauss(rng, 3, 16, 16).astype(np.complex64)
    A = MRI(rng.random((16, 16)) < 0.2, maps / np.linalg.norm(maps, axis=0))
    far = gauss(rng, 16, 16).astype(np.complex64)
    for b in (np.zeros_like(far), A.adjoint(A(1e-4 * far[::-1]))):
        found = conjugate_gradients(lambda x: A.adjoint(A(x)), b, far, 600)
        assert np.linalg.norm(found) < 1.01 * np.linalg.norm(far)


def cases(rng):
    """Each algorithm with a tight and another operator, and what it takes as prox."""
    tight = problem(rng, coils=False)[:2]
    coils = problem(rng, coils=True)[:2]
    pair = (Casorati(0.5).prox, Sparse(0.2, TemporalFourier()).prox)
    gradient_prox = TotalVariation(0.3).split()[1]
    yield "gradient descent", GradientDescent(), coils, HuberVariation(1, 1).gradient
    yield "pdhg, split", PDHG(Gradient()), coils, gradient_prox
    yield "low rank plus sparse", LowRankPlusSparse(), coils, pair
    yield "admm, exact", ADMM(exact_data=True), tight, Casorati(0.5).prox
    for name, algorithm in (PROXIMAL | {"admm": ADMM(cg_iterations=3)}).items():
        yield f"{name}, tight", algorithm, tight, Casorati(0.5).prox
        yield f"{name}, coils", algorithm, coils, Casorati(0.5).prox


NAMES = [name for name, *_ in cases(np.random.default_rng(0))]
ONCE = ("gradient", "pdhg, s", "pdhg, c", "low rank", "admm", "fista, restart, c")
COMPILED = [name for name in NAMES if name.startswith(ONCE) and name != "admm, tight"]


def case(name, rng):
    return next(c[1:] for c in cases(rng) if c[0] == name)


def iterate(algorithm, y, A, prox, p, count=3):
    state = algorithm.start(Problem(y, A))
    for _ in range(count):
        state = algorithm.iterate(state, Problem(y, A), prox, p)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_frameworks_agree(name, arrays, rng):
    algorithm, (y, A), prox = case(name, rng)
    p = {key: 0.2 * value for key, value in algorithm.parameters.items()}
    expected = iterate(algorithm, y, A, prox, p)
    assert list(algorithm.start(Problem(y, A))) == list(expected)

    def learned(dtype):
        """Parameters as a network has them, in whatever precision."""
        return {key: arrays.array(dtype(value)) for key, value in p.items()}

    short = y.astype(np.complex64)
    runs = [(short, learned(np.float64), 1e-4)]
    # JAX compiles each operation for each dtype; below it takes double precision.
    if arrays.name != "jax":
        runs += [(y, p, 1e-10), (y, learned(np.float32), 1e-5), (short, p, 1e-4)]
    for given, parameters, exact in runs:
        found = iterate(algorithm, arrays.array(given), A, prox, parameters)
        assert expected.keys() == found.keys()
        for key, array in expected.items():
            other, kind = arrays.numpy(found[key]), array.dtype.kind
            precision = other.dtype.itemsize // (2 if kind == "c" else 1)
            assert (other.dtype.kind, precision) == (kind, given.real.itemsize)
            assert np.linalg.norm(other - array) <= exact * np.linalg.norm(array)


@pytest.mark.parametrize("name", NAMES)
def test_torch_differentiates_through_iterations(name, rng):
    algorithm, (y, A), prox = case(name, rng)
    y = torch.tensor(y, requires_grad=True)
    values = [
        torch.tensor(0.2 * value, dtype=torch.float64, requires_grad=True)
        for value in algorithm.parameters.values()
    ]

    def loss(y, *values):
        p = dict(zip(algorithm.parameters, values, strict=True))
        x = iterate(algorithm, y, A, prox, p, 2)["x"]
        return (x * x.conj()).real.sum()

    assert torch.autograd.gradcheck(loss, (y, *values), fast_mode=True, rtol=1e-3)


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
@pytest.mark.parametrize("name", COMPILED)
def test_iterations_are_compiled(name, framework, rng):
    framework = Framework(framework)
    algorithm, (y, A), prox = case(name, rng)
    p = {key: 0.2 * value for key, value in algorithm.parameters.items()}

    def image(y, p):
        return iterate(algorithm, y, A, prox, p, 2)["x"]

    with framework.double():
        if framework.name == "jax":
            compiled = framework.module.jit(image)
        else:
            compiled = framework.module.function(image, autograph=False)
        found = np.asarray(compiled(framework.array(y), p))
    np.testing.assert_allclose(found, image(y, p), rtol=1e-9, atol=1e-9)


def test_jax_takes_operators_apart_and_batches_iterations(rng):
    """Masks and maps may be arguments of a compiled function, images may be mapped."""
    jax = pytest.importorskip("jax")
    mask, maps = rng.random((H, W)) < 0.5, gauss(rng, C, H, W)
    y = MRI(mask, maps)(gauss(rng, 2, T, H, W))
    algorithm, R = FISTA(), Casorati(0.5)

    def two(mask, maps, y):
        return iterate(algorithm, y, MRI(mask, maps), R.prox, {"step": 0.1}, 2)["x"]

    with jax.enable_x64(True):
        mapped = jax.jit(jax.vmap(two, in_axes=(None, None, 0)))
        found = np.asarray(mapped(mask, maps, y))
    np.testing.assert_allclose(found, two(mask, maps, y), atol=1e-10)


def test_states_are_not_changed(rng):
    for _, algorithm, (y, A), prox in cases(rng):
        state = algorithm.start(Problem(y, A))
        before = {key: array.copy() for key, array in state.items()}
        algorithm.iterate(state, Problem(y, A), prox, algorithm.parameters)
        for key, array in before.items():
            np.testing.assert_array_equal(state[key], array)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ADMM(cg_iterations=0), ValueError, "cg_iterations"),
        (lambda: ADMM(cg_iterations=2.5), ValueError, "cg_iterations must be an int"),
        (lambda: ADMM(batch_axes=-1), ValueError, "batch_axes"),
        (lambda: FISTA(batch_axes="1"), ValueError, "batch_axes must be an integer"),
        (lambda: PDHG(3), TypeError, "transform must be an Operator, got 3"),
        (
            lambda: ADMM(exact_data=True).start(Problem(np.ones(2), 2 * Identity())),
            ValueError,
            "tight",
        ),
        (lambda: GradientDescent().bind(Nuclear(1)), TypeError, "gradient"),
        (lambda: LowRankPlusSparse().bind(Nuclear(1)), TypeError, "two priors"),
        (lambda: PDHG(Gradient()).bind(object()), TypeError, "split"),
        (
            lambda: ISTA().default_parameters(
                Problem(np.zeros(2), Dense(np.zeros((2, 3)), (3,))), np.ones(3), None
            ),
            ValueError,
            "no default step",
        ),
        (
            lambda: Algorithm().iterate({}, Problem(None, Identity()), None, {}),
            NotImplementedError,
            None,
        ),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Iterations written once, as a loop of whatever framework traces them


ROWS = [(0.5 * i, i + 1) for i in range(4)]


def values(dtype):
    return draw(dtype, np.random.default_rng(0), 2, 5, 4)


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


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_same_in_every_framework(name, dtype):
    framework = Framework(name)
    with framework.double():
        x = framework.array(values(dtype))
        last, before = lls.iterate(partial(body, []), (x, x), ROWS)
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
    last, _ = lls.iterate(partial(body, calls), (x, x), rows)
    assert calls == [beta for beta, _ in rows]
    assert (last is x) == (not rows)


def test_jax_traces_the_body_once_and_differentiates_it():
    jax = pytest.importorskip("jax")
    calls = []

    def size(x):
        last, _ = lls.iterate(partial(body, calls), (x, x), ROWS)
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
            last, _ = lls.iterate(partial(body, calls), (x, x), ROWS)
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
