from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from array_frameworks import draw
from scipy.sparse import csr_array

from svdinv.unroll.arrays import namespace
from svdinv.unroll.operators import (
    MRI,
    Blur,
    Coils,
    Dense,
    FanBeam,
    Fourier,
    Gradient,
    Identity,
    Operator,
    ParallelBeam,
    Sampling,
    TemporalFourier,
    Wrapped,
    from_matrix,
    gaussian_sensing,
    operator_norm,
)
from svdinv.unroll.priors.sparsity import TotalVariation

RNG = np.random.default_rng(5)
T, C, H, W = 3, 2, 6, 5
MASK = RNG.random((H, W)) < 0.5
MASKS = RNG.random((T, H, W)) < 0.5
MAPS = RNG.standard_normal((C, H, W)) + 1j * RNG.standard_normal((C, H, W))
KERNEL = RNG.standard_normal((3, 4))
MATRIX = RNG.standard_normal((7, H * W))

# name: operator, shape of an image, of its measurement, whether that is complex
CASES = {
    "identity": (Identity(), (H, W), (H, W), False),
    "sampling": (Sampling(MASK), (2, H, W), (2, H, W), False),
    "fourier": (Fourier(), (2, H, W), (2, H, W), True),
    "temporal": (TemporalFourier(), (2, T, H, W), (2, T, H, W), True),
    "temporal, last": (TemporalFourier(-1), (2, H, W), (2, H, W), True),
    "coils": (Coils(MAPS), (2, H, W), (2, C, H, W), True),
    "coils, real": (Coils(MAPS.real), (H, W), (C, H, W), False),
    "mri": (MRI(MASK), (2, H, W), (2, H, W), True),
    "mri, coils": (MRI(MASK, MAPS), (H, W), (C, H, W), True),
    "mri, series": (MRI(MASKS, MAPS), (2, T, H, W), (2, T, C, H, W), True),
    "mri, batch": (
        MRI(np.stack([MASKS, ~MASKS]), np.stack([MAPS, 2 * MAPS])[:, None]),
        (2, T, H, W),
        (2, T, C, H, W),
        True,
    ),
    "blur": (Blur(KERNEL), (2, H, W), (2, H, W), False),
    "blur, complex": (Blur(MAPS[0]), (2, H, W), (2, H, W), True),
    "dense": (Dense(MATRIX, (H, W)), (2, 2, H, W), (2, 2, 7), False),
    "gaussian": (
        gaussian_sensing(4, (T, H, W), 3, dtype=np.complex64),
        (T, H, W),
        (4,),
        True,
    ),
    "gradient": (Gradient(), (2, H, W), (2, 2, H, W), False),
    "gradient, periodic": (
        Gradient((-3, -1), "periodic"),
        (T, H, W),
        (2, T, H, W),
        False,
    ),
    "product": (Fourier() * Blur(KERNEL), (H, W), (H, W), True),
    "sum": (Blur(KERNEL) + Sampling(MASK), (H, W), (H, W), False),
    "difference": (Identity() - Blur(KERNEL), (H, W), (H, W), False),
    "multiple": (np.float64(-3.0) * Sampling(MASK), (H, W), (H, W), False),
    "complex multiple": ((2 - 1j) * Blur(KERNEL), (H, W), (H, W), True),
    "adjoint": ((Fourier() * Coils(MAPS)).H, (C, H, W), (H, W), True),
    "fourier, even": (Fourier(), (2, 6, 4), (2, 6, 4), True),
}

DTYPES = ("float32", "float64", "complex64", "complex128")
COMPILED = ("float32", "complex64")


def complexified(dtype):
    return np.result_type(dtype, np.complex64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_adjoint_and_dtypes(name, dtype, arrays, rng):
    """<A x, y> = <x, A^H y>; NumPy's numbers, and the precision of the data is kept."""
    if arrays.name == "jax" and dtype != COMPILED[[*CASES].index(name) % 2]:
        pytest.skip("JAX compiles each operation for each dtype")
    A, image, measurement, is_complex = CASES[name]
    result = complexified(dtype) if is_complex else np.dtype(dtype)
    x, y = draw(dtype, rng, *image), draw(result, rng, *measurement)
    both = A(arrays.array(x)), A.H(arrays.array(y))
    assert all(map(arrays.owns, both))
    Ax, AHy = map(arrays.numpy, both)
    assert Ax.dtype == result
    assert Ax.shape == measurement
    assert AHy.shape == image
    assert AHy.dtype == result
    eps = np.finfo(dtype).eps
    tolerance = 30 * eps * np.linalg.norm(Ax) * np.linalg.norm(y)
    assert abs(np.vdot(Ax, y) - np.vdot(x, AHy)) <= tolerance
    np.testing.assert_allclose(Ax, A(x), rtol=0, atol=30 * eps * abs(Ax).max())


def test_parameters_of_the_framework_are_taken(arrays, rng):
    x = draw("complex128", rng, T, H, W)
    A = MRI(arrays.array(MASKS), arrays.array(MAPS)) * Blur(arrays.array(KERNEL))
    expected = (MRI(MASKS, MAPS) * Blur(KERNEL))(x)
    np.testing.assert_allclose(arrays.numpy(A(arrays.array(x))), expected, atol=1e-12)


def matrix_of(A, shape):
    """Columns A e_i."""
    identity = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([np.ravel(A(e)) for e in identity], axis=1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 6), (6, 2), (5, 3), (1, 4)])
def test_fourier_is_the_centred_unitary_matrix(shape):
    def dft(n):
        k = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)

    np.testing.assert_allclose(
        matrix_of(Fourier(), shape), np.kron(*map(dft, shape)), atol=1e-14
    )


def test_temporal_fourier_is_the_unitary_matrix():
    k = np.arange(T)
    dft = np.exp(-2j * np.pi * np.outer(k, k) / T) / np.sqrt(T)
    expected = np.kron(dft, np.eye(4))
    np.testing.assert_allclose(
        matrix_of(TemporalFourier(), (T, 2, 2)), expected, atol=1e-14
    )


def test_blur_is_the_circular_convolution(rng):
    x = rng.standard_normal((H, W))
    expected = np.zeros((H, W))
    h, w = KERNEL.shape
    for (i, j), value in np.ndenumerate(KERNEL):
        expected += value * np.roll(x, (i - h // 2, j - w // 2), (0, 1))
    np.testing.assert_allclose(Blur(KERNEL)(x), expected, atol=1e-13)
    with pytest.raises(ValueError, match=r"kernel \(2, 1, 1\) does not broadcast"):
        Blur(np.stack([KERNEL, KERNEL]))(x)


def test_gradient_takes_forward_differences(rng):
    x = rng.standard_normal((H, W))
    rows, columns = Gradient()(x)
    np.testing.assert_array_equal(rows[:-1], np.diff(x, axis=0))
    np.testing.assert_array_equal(columns[:, :-1], np.diff(x, axis=1))
    assert not rows[-1].any()
    assert not columns[:, -1].any()
    around = Gradient((-1,), "periodic")(x)[0]
    np.testing.assert_array_equal(around[:, -1], x[:, 0] - x[:, -1])


def test_gaussian_sensing_is_seeded_and_scaled():
    first, second = (gaussian_sensing(300, (10, 10), 4) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert first.matrix.dtype == np.float32
    assert (gaussian_sensing(300, (10, 10), 5).matrix != first.matrix).any()
    for dtype in (np.float64, np.complex128):
        matrix = gaussian_sensing(300, (10, 10), 4, dtype=dtype).matrix
        # 30 000 elements: the standard error of their power is below 1 %.
        assert 300 * np.mean(np.abs(matrix) ** 2) == pytest.approx(1, abs=0.03)


def test_algebra_is_that_of_matrices(rng):
    shape = (4, 3)
    n = 12
    P, Q = rng.standard_normal((2, n, n)) + 1j * rng.standard_normal((2, n, n))
    A = Dense(P, (n,)) * Dense(np.eye(n), shape)
    B = Dense(Q, (n,)) * Dense(np.eye(n), shape)
    F = Dense(Q, (n,))
    expected = {
        "sum": (A + B, P + Q),
        "difference": (A - B, P - Q),
        "negative": (-A, -P),
        "multiple": ((1 + 2j) * A, (1 + 2j) * P),
        "fraction": (A / 4, P / 4),
        "from the right": (A * 3, 3 * P),
        "product": (F * A, Q @ P),
        "three": (F * F * A, Q @ Q @ P),
        "product of sums": ((F + F) * (A - B), 2 * Q @ (P - Q)),
    }
    for name, (operator, matrix) in expected.items():
        found = matrix_of(operator, shape)
        np.testing.assert_allclose(found, matrix, atol=1e-12, err_msg=name)
        backwards = matrix_of(operator.H, (n,))
        np.testing.assert_allclose(backwards, matrix.conj().T, atol=1e-12)


def test_the_adjoint_of_the_adjoint_is_the_operator():
    A = Fourier() * Sampling(MASK)
    assert A.H.H is A


@pytest.mark.parametrize(
    ("A", "tight", "unitary"),
    [
        (Identity(), True, True),
        (Fourier() * TemporalFourier(-1), True, True),
        (Sampling(MASK) * Fourier(), True, False),
        (Fourier().H * Sampling(MASK) * Fourier(), True, False),
        ((Sampling(MASK) * Fourier()).H, True, False),
        (MRI(MASK), True, False),
        (MRI(MASK, MAPS), False, False),
        (Sampling(MASK) * Fourier() * Sampling(MASK), False, False),
        (2 * Fourier(), False, False),
        (Fourier() + Fourier(), False, False),
    ],
)
def test_tight_operators_are_partial_isometries(A, tight, unitary):
    assert (A.tight, A.unitary) == (tight, unitary)
    matrix = matrix_of(A, (H, W))
    projection = matrix @ matrix.conj().T
    assert np.allclose(projection @ projection, projection) or not tight
    assert np.allclose(projection, np.eye(len(projection))) == unitary


@pytest.mark.parametrize("name", CASES)
def test_numpy_parameters_follow_the_data_to_its_device(name):
    """PyTorch's device without memory stands for a GPU."""
    A, image, measurement, _ = CASES[name]
    y = A(torch.empty(image, dtype=torch.complex64, device="meta"))
    assert y.device.type == "meta"
    assert y.shape == measurement
    assert A.H(y).device.type == "meta"


@pytest.mark.parametrize("name", CASES)
def test_tensorflow_traces_unknown_shapes(name, rng):
    tf = pytest.importorskip("tensorflow")
    A, image, measurement, _ = CASES[name]
    x, y = draw("complex128", rng, *image), draw("complex128", rng, *measurement)
    stacked = isinstance(A, Gradient)  # how many differences, must be known
    inner = [n if name in ("dense", "gaussian") else None for n in image]
    outer = [n if stacked and i == 0 else None for i, n in enumerate(measurement)]

    def traced(function, shape):
        spec = tf.TensorSpec(shape, tf.complex128)
        return tf.function(function, input_signature=[spec], autograph=False)

    forward, adjoint = traced(A, inner), traced(A.H, outer)
    np.testing.assert_allclose(forward(tf.constant(x)), A(x), atol=1e-12)
    np.testing.assert_allclose(adjoint(tf.constant(y)), A.H(y), atol=1e-12)


class Turned(Operator):
    """An operator of one's own, as in the documentation."""

    unitary = True
    tight = True

    def forward(self, x):
        xp = namespace(x)
        return xp.flip(xp.matrix_transpose(x), axis=-1)

    def adjoint(self, y):
        xp = namespace(y)
        return xp.matrix_transpose(xp.flip(y, axis=-1))


def test_operators_of_ones_own(arrays, rng):
    x = draw("complex128", rng, 2, 5, 5)
    A = Fourier() * Turned()
    assert A.unitary
    assert repr(A.H) == "(Fourier() * Turned()).H"
    y = A(arrays.array(x))
    expected = Fourier()(np.rot90(x, -1, (-2, -1)))
    np.testing.assert_allclose(arrays.numpy(y), expected, atol=1e-12)
    np.testing.assert_allclose(arrays.numpy(A.H(y)), x, atol=1e-12)


@pytest.mark.parametrize("A", [Sampling(MASK), MRI(MASK), Fourier()])
def test_consistent_explains_the_measurement_and_moves_no_further(A, arrays, rng):
    truth, x = draw("complex128", rng, 2, H, W)
    y = A(truth)
    near = arrays.numpy(A.consistent(arrays.array(x), arrays.array(y)))
    np.testing.assert_allclose(A(near), y, atol=1e-12)
    # The change is orthogonal to what A does not see.
    unseen = truth - A.H(A(truth))
    assert abs(np.vdot(near - x, unseen)) < 1e-12


def test_sampling_puts_samples_back_bit_by_bit(rng):
    x, y = rng.standard_normal((2, H, W))
    found = Sampling(MASK).consistent(x, y)
    np.testing.assert_array_equal(found, np.where(MASK, y, x))


def test_sampling_does_not_look_at_the_other_entries(rng):
    x = np.where(MASK, rng.standard_normal((H, W)), np.nan)
    assert np.isfinite(Sampling(MASK)(x)).all()


def test_norm(arrays, rng):
    shape = (5, 4)
    matrix = rng.standard_normal((7, 20)) + 1j * rng.standard_normal((7, 20))
    x = arrays.array(draw("complex128", rng, 2, *shape))
    found = operator_norm(Dense(matrix, shape), x, iterations=500, rtol=1e-9)
    assert isinstance(found, float)
    assert found == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)


@pytest.mark.parametrize(
    ("A", "out"),
    [
        (Fourier(), (0, H, W)),
        (TemporalFourier(), (0, 3, H, W)),
        (MRI(MASK, MAPS), (0, 2, H, W)),
        (Blur(KERNEL), (0, H, W)),
    ],
    ids=repr,
)
def test_no_image_at_all(arrays, A, out):
    """A batch may be empty, though not every Fourier transform takes that."""
    shape = out if len(out) == 3 or isinstance(A, TemporalFourier) else (0, H, W)
    y = A(arrays.array(np.zeros(shape)))
    assert tuple(y.shape) == out
    assert tuple(A.H(y).shape) == shape


@pytest.mark.parametrize("peak", [1.1, 1.5, 3.0])
def test_norm_that_belongs_to_one_pixel(arrays, peak):
    """A random image hardly has a part in it, and seems to be an eigenvector."""
    maps = np.ones((1, 256, 256), np.float32)
    maps[0, 80, 90] = peak
    like = arrays.array(np.ones((256, 256), np.float32))
    assert operator_norm(Coils(maps), like) == pytest.approx(peak, rel=1e-4)


def test_norm_of_what_is_not_finite():
    assert np.isnan(operator_norm(Coils(np.full((1, 2, 2), np.nan)), np.ones((2, 2))))


def test_norms_that_are_known(rng):
    x = rng.standard_normal((64, 64))
    assert operator_norm(Fourier(), x + 0j) == pytest.approx(1, rel=1e-6)
    assert operator_norm(3j * Fourier(), x + 0j) == pytest.approx(3, rel=1e-6)
    assert operator_norm(0 * Identity(), x) == 0
    Q = np.linalg.qr(x)[0].astype(np.float32)
    zero = Wrapped(*[lambda v: v - Q @ (Q.T @ v)] * 2, (64,), (64,))  # up to rounding
    for seed in range(20):
        assert operator_norm(zero, np.ones(64, np.float32), rng=seed) < 1e-4
    with pytest.raises(ValueError, match=r"the adjoint of Wrapped.* is wrong"):
        operator_norm(Wrapped(np.copy, np.negative, (64, 64), (64, 64)), x)
    for operator in (Gradient(), Gradient((-3, -2, -1), "periodic")):
        found = operator_norm(operator, np.stack([x] * 4), iterations=300, rtol=1e-7)
        assert 0.97 * operator.norm_bound < found <= operator.norm_bound


def test_torch_differentiates_through_the_parameters(rng):
    kernel = torch.tensor(KERNEL, requires_grad=True)
    maps = torch.tensor(MAPS, requires_grad=True)
    x = torch.tensor(rng.standard_normal((H, W)), requires_grad=True)

    def loss(kernel, maps, x):
        return (MRI(MASK, maps) * Blur(kernel))(x).abs().square().sum()

    assert torch.autograd.gradcheck(loss, (kernel, maps, x))


def test_repr_reads_like_the_formula():
    A = Sampling(MASK) * Fourier() * Coils(MAPS)
    assert repr(A) == ("Sampling(mask (6, 5)) * Fourier() * Coils(maps (2, 6, 5))")
    assert repr(2 * Fourier().H) == "2.0 * Fourier().H"
    assert repr((Identity() + A).H).startswith("(Identity() + Sampling")
    assert repr((Fourier() * Identity()).H) == "(Fourier() * Identity()).H"
    assert repr(MRI(MASKS, MAPS)) == "MRI(mask (3, 6, 5), maps (2, 6, 5))"
    assert repr(Gradient()) == "Gradient(axes=(-2, -1), boundary='neumann')"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sampling(MASK.astype(float)), TypeError, "mask must be an array of b"),
        (lambda: Sampling([[True]]), TypeError, "got list"),
        (lambda: Sampling(MASK)(np.ones((4, 4))), ValueError, "mask .* broadcast"),
        (lambda: Sampling(MASKS)(np.ones((H, W))), ValueError, "mask .* broadcast"),
        (lambda: Coils(MASK), ValueError, "maps must be"),
        (lambda: Coils(MAPS)(np.ones((H, H))), ValueError, "maps .* broadcast"),
        (lambda: Coils(MAPS).H(np.ones((3, H, W))), ValueError, "maps .* broadcast"),
        (lambda: MRI(MASK, MAPS[:, :4]), ValueError, "mask .* do not match"),
        (lambda: MRI(MASK[:1], MAPS), ValueError, "mask .* do not match"),
        (
            lambda: MRI(MASKS[None], np.ones((4, 2, C, H, W))),
            ValueError,
            "mask .* do not match",
        ),
        (lambda: Blur(np.ones(3)), ValueError, "kernel must be"),
        (lambda: Blur(np.ones((7, 2)))(np.ones((6, 6))), ValueError, "larger than"),
        (lambda: Dense(MATRIX, (H, H)), ValueError, "matrix must be"),
        (lambda: Dense([[1.0]], (1,)), TypeError, "must be an array, got list"),
        (lambda: Dense(csr_array(MATRIX), (H, W)), TypeError, "take from_matrix"),
        (lambda: Dense(np.ma.array(MATRIX), (H, W)), TypeError, "matrix must not be"),
        (lambda: from_matrix(np.ma.array(MATRIX), (H, W)), TypeError, "a masked array"),
        (lambda: Sampling(np.ma.array(MASK)), TypeError, "mask must not be numpy.ma"),
        (lambda: Coils(np.ma.array(MAPS)), TypeError, "maps must not be numpy.ma"),
        (lambda: Blur(np.ma.array(MASK)), TypeError, "kernel must not be numpy.ma"),
        (lambda: Dense(MATRIX, (H, W))(np.ones(30)), ValueError, "images must be"),
        (lambda: gaussian_sensing(0, (3,), 1), ValueError, "measurements"),
        (lambda: Gradient(()), ValueError, "axes"),
        (lambda: Gradient((0,)), ValueError, "axes"),
        (lambda: Gradient((-1, -1)), ValueError, "axes"),
        (lambda: Gradient(boundary="dirichlet"), ValueError, "boundary"),
        (lambda: Gradient((-3,))(np.ones((2, 2))), ValueError, "no axis -3"),
        (lambda: Gradient().H(np.ones((3, 2, 2))), ValueError, "differences"),
        (lambda: TemporalFourier(0), ValueError, "axis must be negative"),
        (lambda: TemporalFourier()(np.ones((2, 2))), ValueError, "no axis -3"),
        (lambda: operator_norm(Identity(), np.ones(2), iterations=0), ValueError, "it"),
        (
            lambda: Dense(MATRIX, (H, W)).H(np.ones((2, 14))),
            ValueError,
            r"measurements must be \(\.\.\., 7\), got \(2, 14\)",
        ),
        (lambda: Identity() + 2, TypeError, "unsupported operand"),
        (lambda: Identity() - 2, TypeError, "unsupported operand"),
        (lambda: "2" * Identity(), TypeError, None),
        (lambda: Operator()(np.ones(2)), NotImplementedError, None),
        *(
            (partial(apply, np.ones(shape, np.uint8)), TypeError, "got uint8")
            for shape, apply in (
                ((H, W), Blur(np.ones((3, 3)) / 9)),
                ((H, W), Dense(MATRIX, (H, W))),
                ((7,), Dense(MATRIX, (H, W)).H),
                ((H, W), Coils(np.full((1, H, W), 0.5))),
                ((1, H, W), Coils(np.full((1, H, W), 0.5)).H),
                ((H, W), Gradient((-1,))),
                ((1, H, W), Gradient((-1,)).H),
                ((H, W), TotalVariation(1.0).value),
            )
        ),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_sign_of_matrix_products_applies_operators(rng):
    A, B, x = Dense(MATRIX, (H, W)), Gradient(), rng.standard_normal((H, W))
    np.testing.assert_array_equal(A @ x, A(x))
    np.testing.assert_array_equal((B @ B.H @ B)(x), B(B.H(B(x))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_matrix(MATRIX, (H, W)),
        lambda: ParallelBeam((H, W), [0.0, 50.0]),
        lambda: FanBeam((H, W), [0.0, 50.0], source=20, distance=30) / 2,
    ],
)
def test_operators_for_processes_can_be_pickled(make, rng):
    A, x = make(), rng.standard_normal((H, W))
    y = A(x)
    file = pickle.dumps(A)
    assert len(file) < 20_000  # without matrices that can be computed anew
    B = pickle.loads(file)
    np.testing.assert_array_equal(B(x), y)
    np.testing.assert_array_equal(B.H(y), A.H(y))
