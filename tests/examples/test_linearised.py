"""The linearised deep image prior, against Gaussian conditioning by dense matrices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from linearised import linearise

from svdinv.unroll.operators import Dense, Identity, Operator, Sampling

SHAPE = (4, 5)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def network():
    """A function of parameters, parameters, and its Jacobian in them."""
    theta = {"W": normal(3, 7), "b": normal(3, 1, seed=1), "v": normal(20, 3, seed=2)}
    z = normal(7, 1, seed=3)

    def f(t):
        return (t["v"] @ torch.tanh(t["W"] @ z + t["b"])).reshape(SHAPE)

    J = torch.func.jacrev(f)(theta)
    return f, theta, {name: part.reshape(20, -1) for name, part in J.items()}


class Conditioned:
    """N(mu, P) given d = A x + N(0, noise^2), by the formulas of textbooks."""

    def __init__(self, mu, P, A, d, noise):
        V = A @ P @ A.T + noise**2 * np.eye(len(A))
        gain = np.linalg.solve(V, A @ P).T
        rest = d - A @ mu
        self.mean, self.covariance = mu + gain @ rest, P - gain @ A @ P
        _, logarithm = np.linalg.slogdet(2 * np.pi * V)
        self.evidence = -0.5 * (rest @ np.linalg.solve(V, rest) + logarithm)


@pytest.mark.parametrize("m", [8, 30])
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_posterior_is_that_of_the_linear_model(network, m, kind, scaled):
    f, theta, parts = network
    scales = {"W": 0.5, "b": 2.0, "v": 1.0} if scaled else dict.fromkeys(theta, 1.0)
    centre = {name: 0.3 * theta[name] for name in ("v", "b", "W")}  # in any order
    matrix = normal(m, 20, seed=4)
    y = normal(m, seed=5)
    if kind == "complex":
        matrix, y = matrix + 1j * normal(m, 20, seed=6), y + 1j * normal(m, seed=7)
    found = linearise(
        f, theta, Dense(matrix, SHAPE), y, 0.3,
        rank=20, precision=2.5, scales=scales if scaled else None,
        prior_mean=centre, seed=0,
    )  # fmt: skip

    J = torch.cat([scales[name] * parts[name] for name in theta], dim=1).numpy()
    away = [(centre[name] - theta[name]).reshape(-1) for name in theta]
    unscaled = torch.cat([parts[name] for name in theta], dim=1).numpy()
    mu = f(theta).reshape(-1).numpy() + unscaled @ torch.cat(away).numpy()
    A, d = matrix.numpy(), y.numpy()
    if kind == "complex":
        A, d = np.concatenate([A.real, A.imag]), np.concatenate([d.real, d.imag])
    expected = Conditioned(mu, J @ J.T / 2.5, A, d, 0.3)
    np.testing.assert_allclose(found.mean.reshape(-1), expected.mean, atol=1e-9)
    std = np.sqrt(np.diag(expected.covariance))
    np.testing.assert_allclose(found.std.reshape(-1), std, rtol=1e-7, atol=1e-9)
    assert found.evidence == pytest.approx(expected.evidence, rel=1e-9)
    assert found.mean.shape == found.std.shape == found.image.shape == SHAPE
    assert found.neglected < 1e-20
    np.testing.assert_array_equal(found.image, f(theta))


def test_what_is_not_sampled_is_no_data(network):
    f, theta, _ = network
    mask = torch.arange(20).reshape(SHAPE) % 3 == 0
    y = normal(*SHAPE, seed=8)
    rows = torch.eye(20, dtype=torch.float64)[mask.reshape(-1)]
    for noise in (0.3, None):
        sampled, dense = (
            linearise(f, theta, A, data, noise, rank=12, seed=0)
            for A, data in (
                (Sampling(mask), torch.where(mask, y, math.nan)),
                (Dense(rows, SHAPE), y[mask]),
            )
        )
        np.testing.assert_allclose(sampled.mean, dense.mean, atol=1e-8)
        np.testing.assert_allclose(sampled.std, dense.std, rtol=1e-6)
        assert sampled.evidence == pytest.approx(dense.evidence, rel=1e-9)


@pytest.mark.parametrize("known", [{}, {"noise": 0.2}, {"precision": 1.7}])
def test_the_evidence_is_largest(network, known):
    f, theta, parts = network
    J = torch.cat(list(parts.values()), dim=1)
    x = f(theta) + (J @ normal(J.shape[1], seed=9)).reshape(SHAPE)
    A = Dense(normal(60, 20, seed=10), SHAPE)
    y = A(x) + 0.2 * normal(60, seed=11)
    found = linearise(f, theta, A, y, rank=20, seed=0, prior_mean=theta, **known)
    best = {"noise": found.noise, "precision": found.precision}
    for name, factor in itertools.product(best, (0.97, 1.03)):
        other = found.given(A, y, **{**best, name: factor * best[name]})
        assert (name in known) or other.evidence < found.evidence
    assert all(best[name] == value for name, value in known.items())
    assert best["noise"] == pytest.approx(0.2, rel=0.3)
    assert best["precision"] == pytest.approx(1, rel=0.8)


def test_truncation_neglects_what_it_says(network):
    f, theta, parts = network
    values = np.linalg.svd(torch.cat(list(parts.values()), dim=1))[1] ** 2
    found = linearise(
        f, theta, Identity(), normal(*SHAPE), 1.0, rank=2, precision=1.0, power=40,
        seed=0,
    )  # fmt: skip
    share = values[2:].sum() / values.sum()
    assert found.neglected == pytest.approx(share, rel=0.3)
    assert share > 0.1


def test_samples_have_the_moments(network):
    f, theta, _ = network
    y = normal(*SHAPE)
    found = linearise(f, theta, Identity(), y, 1.0, rank=6, precision=1.0)
    drawn = found.samples(4000, seed=1)
    assert drawn.shape == (4000, *SHAPE)
    error = (drawn.mean(0) - found.mean) / found.std * math.sqrt(4000)
    assert abs(error).max() < 4.5
    np.testing.assert_allclose(drawn.std(0), found.std, rtol=0.1)
    assert torch.equal(drawn, found.samples(4000, seed=1))


def generator_network():
    """A convolutional network of 16 x 16 pixels, and its parameters."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Conv2d(4, 12, 3, padding=1),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Conv2d(12, 1, 3, padding=1),
    ).double()
    z, theta = torch.randn(1, 4, 4, 4).double(), dict(module.named_parameters())
    theta = {name: t.detach() for name, t in theta.items()}
    return lambda t: torch.func.functional_call(module, t, (z,))[0, 0], theta


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Twenty problems from the prior, half of the pixels, noise and prior estimated."""
    f, theta = generator_network()
    held = []
    for seed in range(20):
        moved = {k: normal(*t.shape, seed=seed) / 2 for k, t in theta.items()}
        image, change = torch.func.jvp(f, (theta,), (moved,))
        truth = image + change
        A = Sampling(normal(16, 16, seed=100 + seed) > 0)
        y = A(truth + 0.2 * normal(16, 16, seed=200 + seed))
        found = linearise(f, theta, A, y, rank=120, power=1, seed=0, prior_mean=theta)
        assert found.neglected < 0.001
        held.append(((truth - found.mean).abs() < 1.6449 * found.std).double().mean())
    assert 0.85 < np.mean(held) < 0.95


class Lines(Operator):
    """Some lines of the Fourier transform, or rows of the image."""

    def __init__(self, lines, fourier):
        self.lines, self.fourier = list(lines), fourier

    def forward(self, x):
        k = torch.fft.fft2(x.to(torch.complex128), norm="ortho") if self.fourier else x
        return k[..., self.lines, :]


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize("criterion", ["information", "variance"])
def test_each_measurement_is_the_best_next_one(network, fourier, criterion):
    f, theta, _ = network
    found = linearise(
        f, theta, Lines([0], fourier), Lines([0], fourier)(normal(*SHAPE)), 0.5,
        rank=6, precision=1.0, seed=0,
    )  # fmt: skip
    candidates = Lines(range(4), fourier)
    chosen = found.next_measurements(candidates, 3, noise=0.7, criterion=criterion)

    spread = (found.U * found.S) @ found.factor
    P = (spread @ spread.T).numpy()
    eye = torch.eye(20, dtype=torch.float64).reshape(20, *SHAPE)
    rows = candidates(eye)
    rows = torch.view_as_real(rows) if fourier else rows
    rows = rows.permute(1, *range(2, rows.ndim), 0).reshape(4, -1, 20).numpy()
    left = list(range(4))
    for k in chosen:
        gains, after = {}, {}
        for i in left:
            A = rows[i]
            posterior = Conditioned(np.zeros(20), P, A, np.zeros(len(A)), 0.7)
            after[i] = posterior.covariance
            if criterion == "variance":
                gains[i] = np.trace(P - after[i])
            else:
                gains[i] = np.linalg.slogdet(np.eye(len(A)) + A @ P @ A.T / 0.49)[1] / 2
        assert gains[k] == pytest.approx(max(gains.values()), rel=1e-9)
        left.remove(k)
        P = after[k]
    assert found.next_measurements(candidates, 0) == []
    with pytest.raises(ValueError, match="count must be from 0 to 4"):
        found.next_measurements(candidates, 5)


def test_greedy_design_is_better_than_equidistant_and_random_lines():
    """In k-space, of images from the prior: the error, over ten of them."""
    f, theta = generator_network()
    left = list(range(1, 16))
    truths = []
    for seed in range(10):
        moved = {k: normal(*t.shape, seed=seed) / 2 for k, t in theta.items()}
        truths.append(sum(torch.func.jvp(f, (theta,), (moved,))))
    middle = Lines([0], True)
    start = linearise(
        f, theta, middle, middle(truths[0]), 0.1,
        rank=100, power=1, precision=4.0, prior_mean=theta, seed=0,
    )  # fmt: skip
    chosen = start.next_measurements(Lines(left, True), 4, criterion="variance")
    rng = np.random.default_rng(0)
    designs = {
        "greedy": [left[i] for i in chosen],
        "equidistant": [2, 4, 6, 8],  # of one half: the other is its conjugate
        "random": None,
    }
    errors = dict.fromkeys(designs, 0.0)
    for (name, lines), truth in itertools.product(designs.items(), truths):
        more = rng.permutation(left)[:4].tolist() if lines is None else lines
        A = Lines([0, *more], True)
        y = A(truth) + 0.1 * torch.view_as_complex(normal(5, 16, 2, seed=1))
        errors[name] += float((start.given(A, y).mean - truth).norm())
    assert errors["greedy"] < 0.9 * min(errors["equidistant"], errors["random"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise must be positive"),
        ({"precision": -1.0}, "precision must be positive"),
        ({"scales": {"W": 1.0}}, "scales must have the names of theta"),
        ({"scales": {"W": 1.0, "b": 0.0, "v": 1.0}}, "scales must be positive"),
        ({"prior_mean": {"W": normal(3, 7)}}, "prior_mean must have the names"),
        ({"prior_mean": dict.fromkeys("Wbv", normal(3, 1))}, "the shapes of theta"),
        ({"rank": 21}, "rank must be at most"),
        ({"A": Dense(torch.zeros(3, 20).double(), SHAPE), "y": torch.ones(3)},
         "do not depend on theta"),
    ],
)  # fmt: skip
def test_bad_arguments(network, options, message):
    f, theta, _ = network
    given = {"A": Identity(), "y": normal(*SHAPE), "rank": 2, **options}
    with pytest.raises(ValueError, match=message):
        linearise(f, theta, **given)


def test_an_unknown_criterion(network):
    f, theta, _ = network
    found = linearise(f, theta, Identity(), normal(*SHAPE), 1.0, rank=2)
    with pytest.raises(ValueError, match="criterion must be"):
        found.next_measurements(Identity(), 1, criterion="entropy")
