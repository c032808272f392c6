from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from svdinv.unroll.operators import Fourier, Gradient, Identity, TemporalFourier
from svdinv.unroll.priors import (
    Casorati,
    HuberVariation,
    LocalLowRank,
    Nuclear,
    Prior,
    Schatten,
    Sparse,
    TensorNuclear,
    Tikhonov,
    TotalVariation,
    WeightedNuclear,
    shrink,
)

SHAPE = (2, 4, 6, 5)  # a batch of two series
WEIGHT, STEP = 0.7, 0.9

NORMS = {
    "casorati": Casorati(WEIGHT),
    "nuclear": Nuclear(WEIGHT),
    "local": LocalLowRank(WEIGHT, (3, 2), shift=1),
    "tensor": TensorNuclear(WEIGHT),
    "tensor, last": TensorNuclear(WEIGHT, -1),
    "weighted, equal": WeightedNuclear(WEIGHT, (1.3,) * 5),
    "schatten 1": Schatten(WEIGHT, 1),
    "sparse": Sparse(WEIGHT),
    "sparse, temporal": Sparse(WEIGHT, TemporalFourier()),
    "variation": TotalVariation(WEIGHT, iterations=3000),
    "variation, anisotropic": TotalVariation(WEIGHT, isotropic=False, iterations=3000),
    "variation, in time": TotalVariation(
        WEIGHT, axes=(-3, -2, -1), boundary="periodic", iterations=3000
    ),
    "variation, nuclear": TotalVariation(WEIGHT, channels=-3, iterations=3000),
}
SMOOTH = {
    "tikhonov": Tikhonov(WEIGHT),
    "tikhonov, differences": Tikhonov(WEIGHT, Gradient()),
    "huber": HuberVariation(WEIGHT, 0.8),
    "huber, in time": HuberVariation(WEIGHT, 0.8, axes=(-3,), boundary="periodic"),
}

NOT_CONVEX = {
    "weighted": WeightedNuclear(WEIGHT, (0, 0.5, 1, 1, 2)),
    "schatten 1/2": Schatten(WEIGHT, 1 / 2),
    "schatten 2/3": Schatten(WEIGHT, 2 / 3),
}


def draw(dtype, rng):
    x = rng.standard_normal(SHAPE)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(SHAPE)
    return x.astype(dtype)


def dot(a, b):
    return float(np.real(np.vdot(a, b)))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", NORMS)
def test_prox_of_a_norm(name, dtype, rng):
    """(x - z) / step is a subgradient at z: <g, z> = R(z), and <g, v> <= R(v)."""
    R, x = NORMS[name], draw(dtype, rng)
    z = R.prox(x, STEP)
    assert z.dtype == x.dtype
    assert 0 < np.linalg.norm(z) < 0.95 * np.linalg.norm(x)
    g = (x - z) / STEP
    exact = 1e-5 if "variation" in name else 1e-12
    assert dot(g, z) == pytest.approx(float(R.value(z)), rel=exact)
    for v in (x, -z, g, *(draw(dtype, rng) for _ in range(20))):
        assert dot(g, v) <= float(R.value(v)) * (1 + exact)


def test_prox_of_squares(rng):
    x = draw("complex128", rng)
    expected = x / (1 + WEIGHT * STEP)
    np.testing.assert_allclose(SMOOTH["tikhonov"].prox(x, STEP), expected, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", NOT_CONVEX)
def test_prox_of_what_is_not_convex_is_the_best_of_many(name, dtype, rng):
    """Beside moves of any direction, those of the singular values alone, the worst."""
    R, x = NOT_CONVEX[name], draw(dtype, rng)
    z = R.prox(x, STEP)
    assert z.dtype == x.dtype
    U, S, Vh = np.linalg.svd(z, full_matrices=False)
    others = [(U * np.maximum(S + d, 0)[..., None, :]) @ Vh
              for d in 0.3 * rng.standard_normal((30, *S.shape))]  # fmt: skip
    others += [z + size * draw(dtype, rng) for size in (1e-4, 1e-2, 1) for _ in "123"]

    def objective(z):
        return STEP * float(R.value(z)) + dot(z - x, z - x) / 2

    for other in (*others, x, 0 * x):
        assert objective(other) >= objective(z) - 1e-9


def test_schatten_has_a_finite_gradient_at_zero():
    x = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    value = Schatten(WEIGHT, 1 / 2).value(x)
    value.backward()
    assert value == 0
    assert not x.grad.any()


@pytest.mark.parametrize("name", [*NORMS, "tikhonov"])
def test_step_and_weight_count_alike(name, rng):
    R, x = {**NORMS, **SMOOTH}[name], draw("complex128", rng)
    R = replace(R, iterations=20) if "variation" in name else R
    other = replace(R, weight=3 * WEIGHT)
    np.testing.assert_allclose(R.prox(x, 3 * STEP), other.prox(x, STEP), atol=1e-12)
    assert float(other.value(x)) == pytest.approx(3 * float(R.value(x)))
    np.testing.assert_allclose(replace(R, weight=0).prox(x, STEP), x, atol=1e-12)


@pytest.mark.parametrize("name", [*NORMS, *SMOOTH])
def test_value_is_the_sum_over_the_batch(name, rng):
    R, x = {**NORMS, **SMOOTH}[name], draw("complex128", rng)
    parts = [float(R.value(part)) for part in x]
    assert float(R.value(x)) == pytest.approx(sum(parts))
    assert np.shape(R.value(x)) == ()


def test_values_by_their_definitions(rng):
    x = draw("complex128", rng)[0]
    T, H, W = x.shape

    def nuclear(matrix):
        return np.linalg.svd(matrix, compute_uv=False).sum()

    frequencies = np.fft.fft(x, axis=0)
    expected = {
        "casorati": nuclear(x.reshape(T, H * W)),
        "nuclear": sum(map(nuclear, x)),
        "tensor": sum(map(nuclear, frequencies)) / T,
        "sparse": np.abs(x).sum(),
        "sparse, temporal": np.abs(frequencies).sum() / np.sqrt(T),
        "tikhonov": np.linalg.norm(x) ** 2 / 2,
    }
    for name, value in expected.items():
        R = {**NORMS, **SMOOTH}[name]
        assert float(R.value(x)) == pytest.approx(WEIGHT * value), name
    down = np.diff(x, axis=1, append=x[:, -1:])
    right = np.diff(x, axis=2, append=x[:, :, -1:])
    assert float(NORMS["variation"].value(x)) == pytest.approx(
        WEIGHT * np.sqrt(np.abs(down) ** 2 + np.abs(right) ** 2).sum()
    )
    assert float(NORMS["variation, anisotropic"].value(x)) == pytest.approx(
        WEIGHT * (np.abs(down).sum() + np.abs(right).sum())
    )
    jacobians = [
        np.stack([down[:, i, j], right[:, i, j]], axis=1)
        for i in range(H)
        for j in range(W)
    ]
    assert float(NORMS["variation, nuclear"].value(x)) == pytest.approx(
        WEIGHT * sum(map(nuclear, jacobians))
    )


def test_one_channel_has_the_usual_variation(rng):
    """A nuclear norm of one row is its length; of channels that are equal, its root."""
    x = draw("float64", rng)[:, :1]
    usual, nuclear = TotalVariation(WEIGHT), TotalVariation(WEIGHT, channels=-3)
    assert float(nuclear.value(x)) == pytest.approx(float(usual.value(x)))
    np.testing.assert_allclose(nuclear.prox(x, STEP), usual.prox(x, STEP), atol=1e-12)
    same = np.repeat(x, 4, axis=1)
    assert float(nuclear.value(same)) == pytest.approx(2 * float(usual.value(x)))
    # The axis of the channels may be any without differences.
    turned, last = (
        np.moveaxis(draw("float64", rng), 1, 0),
        replace(nuclear, channels=-4),
    )
    given = np.moveaxis(turned, 0, 1)
    np.testing.assert_allclose(
        last.prox(turned, STEP), np.moveaxis(nuclear.prox(given, STEP), 1, 0),
        atol=1e-12,
    )  # fmt: skip


def test_value_of_blocks(rng):
    x = draw("complex128", rng)[0]
    blocks = [
        x[:, i : i + 3, j : j + 2].reshape(4, -1)
        for i in range(0, 6, 3)
        for j in range(0, 5, 2)
    ]
    expected = sum(np.linalg.svd(b, compute_uv=False).sum() for b in blocks)
    assert float(LocalLowRank(2.0, (3, 2)).value(x)) == pytest.approx(2 * expected)


def test_overlapping_blocks_are_the_mean_over_the_tilings(rng):
    x = draw("float64", rng)
    overlapping = LocalLowRank(WEIGHT, (2, 2), stride=(1, 2))
    tilings = [LocalLowRank(WEIGHT, 2, shift=(row, 0)) for row in (0, 1)]
    prox = np.mean([R.prox(x, STEP) for R in tilings], axis=0)
    np.testing.assert_allclose(overlapping.prox(x, STEP), prox, atol=1e-12)
    values = [float(R.value(x)) for R in tilings]
    assert float(overlapping.value(x)) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_is_the_derivative(name, dtype, rng):
    R, x, d = SMOOTH[name], draw(dtype, rng), draw(dtype, rng)
    h = 1e-6
    slope = float(R.value(x + h * d) - R.value(x - h * d)) / (2 * h)
    assert dot(R.gradient(x), d) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("name", SMOOTH)
def test_curvature_bounds_the_gradient(name, rng):
    R, x = SMOOTH[name], draw("float64", rng)
    bound = float(R.lipschitz(x)) * 1.01  # found from below
    # Checkerboards in space and alternating frames: the steepest images.
    steep = (-1.0) ** np.indices(SHAPE)[1:].sum(0)
    alternating = (-1.0) ** np.indices(SHAPE)[1]
    ratios = [
        np.linalg.norm(R.gradient(x + 1e-4 * d) - R.gradient(x))
        / np.linalg.norm(1e-4 * d)
        for x in (x, np.zeros(SHAPE))
        for d in (draw("float64", rng), steep, alternating)
    ]
    assert 0.6 * bound < max(ratios) <= bound


@pytest.mark.parametrize("name", ["huber", "huber, in time"])
def test_huber_approaches_the_total_variation(name, rng):
    R, x = SMOOTH[name], draw("float64", rng)
    sharp = TotalVariation(WEIGHT, axes=R.axes, boundary=R.boundary)
    gap = float(sharp.value(x) - replace(R, delta=1e-6).value(x))
    assert 0 <= gap <= WEIGHT * 1e-6 * x.size
    assert float(R.value(x)) < float(sharp.value(x))


def test_split_is_the_same_function(rng):
    x = draw("complex128", rng)
    for R in NORMS.values():
        K, prox = R.split()
        Kx = K(x)
        z = prox(Kx, STEP)
        g = (Kx - z) / STEP
        assert dot(g, Kx) <= float(R.value(x)) * (1 + 1e-12)
        if K.unitary:
            np.testing.assert_array_equal(z, R.prox(x, STEP))
        else:
            weight = WEIGHT * STEP
            if R.channels is not None:
                matrices = np.moveaxis(Kx, (0, R.channels), (-1, -2))
                u, s, v = np.linalg.svd(matrices, full_matrices=False)
                due = (u * np.maximum(s - weight, 0)[..., None, :]) @ v
                due = np.moveaxis(due, (-1, -2), (0, R.channels))
                np.testing.assert_allclose(z, due, atol=1e-12)
                continue
            joint = 0 if R.isotropic else None
            np.testing.assert_allclose(z, shrink(Kx, weight, joint), atol=1e-14)


def test_shrink():
    x = np.array([3 - 4j, 0.3 + 0.4j, 0, -2])
    expected = [0.8 * (3 - 4j), 0, 0, -1]
    np.testing.assert_allclose(shrink(x, 1.0), expected, atol=1e-15)
    np.testing.assert_allclose(
        shrink(np.array([[3.0, 0.1], [4.0, 0.2]]), 1.0, 0),
        [[2.4, 0], [3.2, 0]],
        atol=1e-15,
    )
    np.testing.assert_array_equal(shrink(x, 0.0), x)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("name", [*NORMS, *SMOOTH])
def test_frameworks_agree(name, dtype, arrays, rng):
    turn = ("float32", "complex64")[[*NORMS, *SMOOTH].index(name) % 2]
    if arrays.name == "jax" and dtype != turn:
        pytest.skip("JAX compiles each operation for each dtype")
    R = {**NORMS, **SMOOTH}[name]
    R = replace(R, iterations=10) if "variation" in name else R
    x = draw(dtype, rng)
    given = arrays.array(x)
    value = R.value(given)
    assert arrays.owns(value) or arrays.name == "numpy"
    assert float(value) == pytest.approx(float(R.value(x)), rel=1e-5)
    if hasattr(R, "gradient"):
        found, expected = R.gradient(given), R.gradient(x)
    else:
        found, expected = R.prox(given, STEP), R.prox(x, STEP)
    assert arrays.owns(found)
    assert arrays.numpy(found).dtype == dtype
    np.testing.assert_allclose(arrays.numpy(found), expected, atol=3e-5)


@pytest.mark.parametrize("name", [*NORMS, "tikhonov"])
def test_steps_may_be_arrays_of_another_precision(name, arrays, rng):
    R = {**NORMS, **SMOOTH}[name]
    R = replace(R, iterations=10) if "variation" in name else R
    x = draw("complex128", rng)
    step = arrays.array(np.float32(STEP))
    found = arrays.numpy(R.prox(arrays.array(x), step))
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found, R.prox(x, float(np.float32(STEP))), atol=1e-6)


@pytest.mark.parametrize("name", [*NORMS, "tikhonov", "huber"])
def test_torch_differentiates(name, rng):
    R = {**NORMS, **SMOOTH}[name]
    R = replace(R, iterations=3) if "variation" in name else R
    x = torch.tensor(draw("complex128", rng), requires_grad=True)
    step = torch.tensor(STEP, dtype=torch.float64, requires_grad=True)

    def loss(x, step):
        z = R.gradient(x) * step if name == "huber" else R.prox(x, step)
        return (z * z.conj()).real.sum() + R.value(z)

    assert torch.autograd.gradcheck(loss, (x, step), fast_mode=True)
    zero = torch.zeros_like(x, requires_grad=True)
    step.grad = None
    loss(zero, step).backward()
    assert torch.isfinite(torch.view_as_real(zero.grad)).all()
    assert torch.isfinite(step.grad)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Casorati(-1), ValueError, "weight"),
        (lambda: Nuclear(float("nan")), ValueError, "weight"),
        (lambda: Nuclear(np.ones(2)), ValueError, "weight must be one number"),
        (lambda: LocalLowRank(1, 0), ValueError, "block"),
        (lambda: WeightedNuclear(1, ()), ValueError, "weights must be >= 0"),
        (lambda: WeightedNuclear(1, (2, 1)), ValueError, "weights must be >= 0"),
        (lambda: WeightedNuclear(1, (-1, 1)), ValueError, "weights must be >= 0"),
        (lambda: WeightedNuclear(1, (0, np.nan)), ValueError, "weights must be >= 0"),
        (
            lambda: WeightedNuclear(1, (0, 1, 2)).prox(np.ones((3, 4, 4)), 1),
            ValueError,
            "weights must have one for each of the 4",
        ),
        (lambda: Schatten(1, 0.7), ValueError, "p must be"),
        (lambda: LocalLowRank(1, (4, 4), stride=3), ValueError, "stride"),
        (lambda: TensorNuclear(1, -4), ValueError, "axis"),
        (lambda: Sparse(1, Gradient()), ValueError, "unitary"),
        (lambda: TotalVariation(1, iterations=0), ValueError, "iterations"),
        (lambda: TotalVariation(1, axes=(1,)), ValueError, "axes"),
        (lambda: TotalVariation(1, channels=-1), ValueError, "channels must be a neg"),
        (lambda: TotalVariation(1, channels=0), ValueError, "channels must be a neg"),
        (
            lambda: TotalVariation(1, channels=-3, isotropic=False),
            ValueError,
            "channels must be None",
        ),
        (lambda: HuberVariation(1, 0), ValueError, "delta"),
        (lambda: HuberVariation(1, 1, boundary="no"), ValueError, "boundary"),
        (lambda: Tikhonov(1, Gradient()).prox(np.ones(3), 1), ValueError, "unitary"),
        (lambda: HuberVariation(1, 1).prox(1, 1), NotImplementedError, "no proximal"),
        (lambda: Prior(1).value(1), NotImplementedError, None),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_weights_of_singular_values_in_a_graph_of_unknown_size(rng):
    tf = pytest.importorskip("tensorflow")
    x = draw("float64", rng)
    R = WeightedNuclear(0.3, np.arange(min(x.shape[-2:])))
    unknown = [tf.TensorSpec((None,) * 4, tf.float64)]
    graph = tf.function(lambda x: R.prox(x, 1.0), input_signature=unknown)
    np.testing.assert_allclose(graph(x), R.prox(x, 1.0), atol=1e-12)


def test_numpy_weights_do_not_raise_the_precision(rng):
    x = draw("complex64", rng)
    for weight in np.array([0.5]):
        for R in (Casorati(weight), Sparse(weight, Fourier()), TotalVariation(weight)):
            assert R.prox(x, 1.0).dtype == x.dtype
    assert Sparse(1).transform.unitary
    assert isinstance(Sparse(1).transform, Identity)


def test_a_series_has_three_axes():
    for call in (Casorati(1.0).value, lambda x: Casorati(1.0).prox(x, 0.1)):
        with pytest.raises(ValueError, match=r"\(\.\.\., T, H, W\), got \(4, 5\)"):
            call(np.ones((4, 5)))
