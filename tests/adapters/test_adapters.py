"""The adapters, each where the package is installed that it is for."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest

from svdinv.unroll.operators import Fourier, Operator, Sampling, dot_test
from svdinv.unroll.priors import (
    Casorati,
    HuberVariation,
    LocalLowRank,
    Nuclear,
    Schatten,
    Sparse,
    TensorNuclear,
    TotalVariation,
    WeightedNuclear,
)

SHAPE = (3, 2, 6, 5)  # a batch of series of two frames
PRIORS = {
    "nuclear": Nuclear(0.7),
    "weighted": WeightedNuclear(0.7, (0, 0.5, 1, 1, 2)),
    "schatten": Schatten(0.7, 2 / 3),
    "casorati": Casorati(0.7),
    "local": LocalLowRank(0.7, (3, 5)),
    "tensor": TensorNuclear(0.7),
}
priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def adapter(package):
    """Import an adapter, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own import
        try:
            importlib.import_module(package)
        except ImportError as error:
            pytest.skip(f"{package} cannot be imported: {error}")
        return importlib.import_module(f"svdinv.adapters.{package}")


def series(dtype=complex):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE)
    return x + 1j * rng.standard_normal(SHAPE) if dtype is complex else x


class TestDeepInverse:
    @pytest.fixture
    def ours(self):
        return adapter("deepinv")

    @priors
    @pytest.mark.parametrize("dtype", [float, complex])
    def test_each_image_has_its_value_and_prox(self, ours, prior, dtype):
        torch = pytest.importorskip("torch")
        x = series(dtype)
        given, theirs = torch.asarray(x), ours.Prior(prior)
        np.testing.assert_allclose(
            theirs.fn(given, None), [prior.value(one) for one in x]
        )
        for gamma in (0.9, torch.tensor([0.9], dtype=torch.float64)):
            found = theirs.prox(given, None, gamma=gamma)
            np.testing.assert_allclose(found, prior.prox(x, 0.9), atol=1e-12)
        steps = torch.tensor([0.3, 0.6, 0.9]).reshape(3, 1, 1, 1)
        found = theirs.prox(given, gamma=steps)
        for one, image, step in zip(found, x, steps.flatten(), strict=True):
            np.testing.assert_allclose(one, prior.prox(image, float(step)), atol=1e-6)
        torch.testing.assert_close(theirs.prox(given, gamma=[0.3, 0.6, 0.9]), found)
        for wrong in (torch.ones(2), [0.3, 0.6]):
            with pytest.raises(ValueError, match="gamma must be one number or 3"):
                theirs.prox(given, gamma=wrong)
        assert theirs.fn(given[:0]).shape == (0,)

    def test_two_channels_are_one_complex_image(self, ours):
        torch = pytest.importorskip("torch")
        x = series()
        pair = torch.stack([torch.asarray(x.real), torch.asarray(x.imag)], 1)
        prior = Casorati(0.7)
        theirs = ours.Prior(prior, two_channels=True)
        found = theirs.prox(pair, gamma=0.9)
        expected = prior.prox(x, 0.9)
        np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], expected, atol=1e-12)
        np.testing.assert_allclose(theirs.fn(pair), [prior.value(one) for one in x])
        with pytest.raises(ValueError, match=r"shape \(B, 2"):
            theirs.prox(pair[:, :1])
        half = pair.bfloat16()
        for call in (theirs.prox, theirs.fn):
            found = call(half)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found, call(half.double()).bfloat16())

    @pytest.mark.parametrize(
        "prior", [*PRIORS.values(), TotalVariation(0.7, axes=(-3, -2, -1))]
    )
    def test_images_of_a_batch_are_apart(self, ours, prior):
        """Those of two channels too, which have no axis of frames."""
        torch = pytest.importorskip("torch")
        x = torch.asarray(series(float))  # (B, 2, H, W)
        theirs = ours.Prior(prior, two_channels=True)
        z = theirs.prox(x, gamma=0.8)
        each = [theirs.prox(one[None], gamma=0.8)[0] for one in x]
        torch.testing.assert_close(z, torch.stack(each))
        torch.testing.assert_close(
            theirs.prox(x, gamma=[0.8] * 3), z, atol=1e-6, rtol=0
        )
        values = [theirs.fn(one[None])[0] for one in x]
        torch.testing.assert_close(theirs.fn(x), torch.stack(values))

    def test_steps_are_those_of_images_not_of_channels(self, ours):
        torch = pytest.importorskip("torch")
        x = torch.ones(3, 3, 5, 4)
        with pytest.raises(ValueError, match="gamma must be one number or 3"):
            ours.Prior(Nuclear(1.0)).prox(x, gamma=torch.ones(1, 3, 1, 1))
        assert ours.Prior(Nuclear(1.0)).prox(x[:0], gamma=torch.ones(0)).shape[0] == 0

    def test_a_learned_weight_is_a_parameter(self, ours):
        torch = pytest.importorskip("torch")
        weight = torch.nn.Parameter(torch.tensor(0.7))
        denoiser = ours.Denoiser(Nuclear(weight))
        assert list(denoiser.state_dict()) == ["prior.weight"]
        x = torch.ones(1, 1, 4, 4)
        denoiser(x, 0.1).sum().backward()
        assert weight.grad < 0
        other = {"prior.weight": torch.tensor(2.0)}
        found = torch.func.functional_call(denoiser, other, (x, 0.1))
        torch.testing.assert_close(found, Nuclear(2.0).prox(x, 0.1))

    def test_its_priors_are_none_of_svdinv(self, ours):
        """Their `prox` would take the step for another argument."""
        torch = pytest.importorskip("torch")
        from svdinv.unroll.algorithms import solve
        from svdinv.unroll.operators import Identity
        from svdinv.unroll.problem import Problem

        problem = Problem(torch.ones(1, 1, 4, 4), Identity())
        with pytest.raises(TypeError, match=r"prior must have prox\(x, step\)"):
            solve(problem, ours.Prior(Nuclear(1.0)), objective=False)

    def test_what_is_no_physics_or_operator(self, ours):
        with pytest.raises(TypeError, match="physics must be a Physics"):
            ours.Physics(3)
        with pytest.raises(TypeError, match="operator must be an Operator"):
            ours.to_physics(3)

    def test_the_gradient_is_the_subgradient(self, ours):
        torch = pytest.importorskip("torch")
        x = torch.asarray(series(float))
        U, _, Vh = torch.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(
            ours.Prior(Nuclear(2.0)).grad(x).detach(), 2 * U @ Vh, atol=1e-12
        )

    def test_its_own_optimiser_completes_a_matrix(self, ours):
        """By proximal gradients; and svdinv's own algorithm finds the same image."""
        torch = pytest.importorskip("torch")
        from svdinv.unroll.algorithms import solve
        from svdinv.unroll.problem import Problem

        deepinv = importlib.import_module("deepinv")
        rng = np.random.default_rng(0)
        image = np.outer(rng.standard_normal(12), rng.standard_normal(10))
        mask = rng.random(image.shape) < 0.6
        physics = ours.to_physics(Sampling(mask))
        y = physics(torch.asarray(image)[None, None])
        model = deepinv.optim.PGD(
            prior=ours.Prior(Nuclear(1.0)),
            data_fidelity=deepinv.optim.L2(),
            stepsize=1.0,
            lambda_reg=0.1,
            max_iter=500,
        )
        found = model(y, physics)[0, 0]
        problem = Problem(np.where(mask, image, 0.0), Sampling(mask))
        expected = solve(problem, Nuclear(0.1), iterations=2000, rtol=1e-9).image
        np.testing.assert_allclose(found, expected, atol=1e-3)

    def test_an_unfolded_network_learns_its_threshold(self, ours):
        torch = pytest.importorskip("torch")
        deepinv = importlib.import_module("deepinv")
        model = deepinv.optim.PGD(
            prior=ours.Prior(Casorati(1.0)),
            data_fidelity=deepinv.optim.L2(),
            stepsize=0.9,
            lambda_reg=0.3,
            trainable_params=["stepsize", "lambda_reg"],
            max_iter=2,
            unfold=True,
        )
        x = torch.asarray(series(float)).float()
        physics = deepinv.physics.Denoising()
        model(x, physics).square().sum().backward()
        gradients = [p.grad for p in model.parameters()]
        assert gradients
        assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)

    def test_the_denoiser_follows_the_noise(self, ours):
        torch = pytest.importorskip("torch")
        x = torch.asarray(series(float))
        denoiser = ours.Denoiser(Nuclear(1.5))
        expected = Nuclear(1.0).prox(x, 0.3)
        np.testing.assert_allclose(denoiser(x, 0.2), expected, atol=1e-12)
        np.testing.assert_allclose(
            denoiser(5 * x, torch.full((3,), 1.0)), 5 * expected, atol=1e-6
        )

    def test_physics_there_and_back(self, ours):
        torch = pytest.importorskip("torch")
        deepinv = importlib.import_module("deepinv")
        x = torch.zeros(2, 1, 8, 8)
        blur = deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular")
        operator = ours.Physics(blur)
        assert dot_test(operator, x) < 1e-6
        again = ours.to_physics(operator)
        y = torch.randn(2, 1, 8, 8)
        np.testing.assert_allclose(again.A_adjoint(y), blur.A_adjoint(y))
        fourier = ours.to_physics(Fourier())
        assert fourier.adjointness_test(series_tensor(torch)).abs() < 1e-6

    def test_composed_physics_are_taken_and_stacked_are_refused(self, ours):
        torch = pytest.importorskip("torch")
        deepinv = importlib.import_module("deepinv")
        x = torch.zeros(2, 1, 8, 8)
        half = deepinv.physics.Downsampling((1, 8, 8), filter=None)
        blur = deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular")
        assert dot_test(ours.Physics(half * blur), x) < 1e-6
        both = deepinv.physics.stack(*(deepinv.physics.Denoising() for _ in range(2)))
        for stacked in (both, both * half):
            with pytest.raises(TypeError, match="physics must return one tensor"):
                ours.Physics(stacked)

    def test_what_is_not_linear_has_its_derivative(self, ours):
        torch = pytest.importorskip("torch")
        deepinv = importlib.import_module("deepinv")
        x = torch.asarray(series(float))
        theirs = ours.Physics(deepinv.physics.Physics(A=lambda x, **_: x**2))
        assert not theirs.linear
        d = theirs.derivative(x)
        np.testing.assert_allclose(d.forward(x), 2 * x**2)
        assert dot_test(d, x) < 1e-12

        class Square(Operator):
            linear = False

            def forward(self, x):
                return x**2

            def derivative(self, x):
                return Times(2 * x)

        physics = ours.to_physics(Square())
        np.testing.assert_allclose(physics.A_vjp(x, torch.ones_like(x)), 2 * x)


class Times(Operator):
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        return self.factor * x

    adjoint = forward


def series_tensor(torch):
    return torch.asarray(series()).to(torch.complex64)


@priors
def test_sigpy(prior):
    ours, x = adapter("sigpy"), series()
    found = ours.Prox(prior, SHAPE)(0.9, x)
    np.testing.assert_allclose(found, prior.prox(x, 0.9), atol=1e-12)
    with pytest.raises(RuntimeError):
        ours.Prox(prior, SHAPE)(0.9, x[..., :1])


def test_an_algorithm_of_sigpy():
    """Denoising by its proximal gradients."""
    ours, x = adapter("sigpy"), series()
    sigpy = importlib.import_module("sigpy")
    app = sigpy.app.LinearLeastSquares(
        sigpy.linop.Identity(SHAPE),
        x,
        proxg=ours.Prox(Nuclear(1.0), SHAPE),
        max_iter=200,
        show_pbar=False,
    )
    np.testing.assert_allclose(app.run(), Nuclear(1.0).prox(x, 1.0), atol=1e-4)


@pytest.mark.parametrize("prior", [*PRIORS.values(), Sparse(0.7), TotalVariation(0.7)])
def test_sigpy_with_a_step_for_each(prior):
    ours, x = adapter("sigpy"), series()
    alpha = np.array([0.3, 0.6, 0.9])
    found = ours.Prox(prior, SHAPE)(alpha.reshape(3, 1, 1, 1), x)
    expected = [prior.prox(*each) for each in zip(x, alpha, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    elements = np.random.default_rng(1).random(SHAPE)
    refused = [alpha, -alpha.reshape(3, 1, 1, 1), elements]
    if isinstance(prior, Sparse):  # a step for each element is one of its own
        refused.pop()
        found = ours.Prox(prior, SHAPE)(elements, x)
        np.testing.assert_allclose(found, prior.prox(x, elements), atol=1e-12)
    for wrong in refused:
        with pytest.raises(RuntimeError) as error:
            ours.Prox(prior, SHAPE)(wrong, x)
        assert "alpha must be" in str(error.value.__cause__)


@pytest.mark.parametrize("prior", [3.0, Nuclear, HuberVariation(1.0, delta=0.1)])
@pytest.mark.parametrize(
    "package", ["deepinv", "sigpy", "pyproximal", "scico", "mrpro"]
)
def test_what_has_no_proximal_operator(prior, package):
    ours = adapter(package)
    make = getattr(ours, ours.__all__[-2 if package == "deepinv" else 0])
    shape = [SHAPE] if package in ("sigpy", "pyproximal") else []
    with pytest.raises(TypeError, match="prior must have a proximal operator"):
        make(prior, *shape)


@priors
def test_pyproximal(prior, monkeypatch):
    monkeypatch.setenv("CUPY_PYLOPS", "0")  # it fails on a CuPy without a GPU
    monkeypatch.setenv("CUPY_PYPROXIMAL", "0")
    ours, x = adapter("pyproximal"), series()
    theirs = ours.Prox(prior, SHAPE)
    z = theirs.prox(x.ravel(), 0.9)
    np.testing.assert_allclose(z, prior.prox(x, 0.9).ravel(), atol=1e-12)
    assert theirs(x.ravel()) == pytest.approx(float(prior.value(x)))
    # By Moreau's identity.
    dual = theirs.proxdual(x.ravel(), 0.5)
    np.testing.assert_allclose(
        dual + 0.5 * theirs.prox(x.ravel() / 0.5, 2.0), x.ravel(), atol=1e-12
    )
    with pytest.raises(ValueError, match="tau must be positive"):
        theirs.prox(x.ravel(), 0.0)
    with pytest.raises(ValueError, match="tau must be one number"):
        theirs.prox(x.ravel(), np.full(x.size, 0.5))
    with pytest.raises(ValueError, match="x must have the elements of"):
        theirs.prox(x.ravel()[1:], 1.0)


@priors
def test_scico(prior):
    ours, x = adapter("scico"), series().astype(np.complex64)
    jax = importlib.import_module("jax")
    theirs = ours.Functional(prior)
    given = jax.numpy.asarray(x)
    np.testing.assert_allclose(theirs.prox(given, 0.9), prior.prox(x, 0.9), atol=1e-5)
    assert float(theirs(given)) == pytest.approx(float(prior.value(x)), rel=1e-5)
    assert float((2 * theirs)(given)) == pytest.approx(2 * float(theirs(given)))
    assert np.isfinite(theirs.grad(given)).all()


@priors
def test_mrpro(prior):
    ours, x = adapter("mrpro"), series()
    torch = importlib.import_module("torch")
    theirs = ours.Functional(prior)
    given = torch.asarray(x)
    (z,) = theirs.prox(given, 0.9)
    np.testing.assert_allclose(z, prior.prox(x, 0.9), atol=1e-12)
    np.testing.assert_allclose(theirs(given)[0], prior.value(x))
    np.testing.assert_allclose(
        (2.0 * theirs).prox(given, 0.9)[0], prior.prox(x, 1.8), atol=1e-12
    )
    (dual,) = theirs.prox_convex_conj(given, 0.5)
    back = dual + 0.5 * theirs.prox(given / 0.5, 2.0)[0]
    np.testing.assert_allclose(back, given, atol=1e-12)
    with pytest.raises(ValueError, match="positive"):
        theirs.prox(given, -1.0)
    # Time in front of coils and z, as in MRpro.
    frames = given[0].reshape(2, 1, 1, 6, 5)
    theirs = ours.Functional(prior, time=0)
    expected = prior.prox(x[0], 0.9)
    for sigma in (0.9, torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)):
        (z,) = theirs.prox(frames, sigma)
        np.testing.assert_allclose(z.reshape(2, 6, 5), expected, atol=1e-12)
    np.testing.assert_allclose(theirs(frames)[0], prior.value(x[0]))
    learned = Nuclear(torch.nn.Parameter(torch.tensor(0.7)))
    assert list(ours.Functional(learned).state_dict()) == ["weight"]


@priors
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (2, 1, 1, 1, 1), (2, 3, 1, 1, 1)])
def test_mrpro_with_a_step_for_each(prior, shape):
    """Steps broadcast to the images, as those of MRpro's own functionals do."""
    ours, torch = adapter("mrpro"), importlib.import_module("torch")
    x = np.stack([series(), 2 * series()])
    sigma = torch.linspace(0.3, 0.9, np.prod(shape), dtype=torch.float64)
    sigma = sigma.reshape(shape)
    (z,) = ours.Functional(prior).prox(torch.asarray(x), sigma)
    steps = np.broadcast_to(sigma.numpy(), x.shape)[..., 0, 0, 0]
    for place in np.ndindex(2, 3):
        expected = prior.prox(x[place], steps[place])
        np.testing.assert_allclose(z[place], expected, atol=1e-12)
    with pytest.raises(ValueError, match="sigma must be one number, or have one for"):
        ours.Functional(prior).prox(torch.asarray(x), torch.ones(x.shape))
    frames = torch.ones(2, 3, 2, 1, 1)
    if isinstance(prior, (Casorati, LocalLowRank, TensorNuclear)):
        with pytest.raises(ValueError, match="sigma must not vary along axes"):
            ours.Functional(prior).prox(torch.asarray(x), frames)
