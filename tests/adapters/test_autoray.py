"""autoray's decompositions by svdinv, and tensor networks of quimb that call them."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings

import numpy as np
import pytest

FRAMEWORKS = {"torch": "torch", "jax": "jax", "tensorflow": "tensorflow"}


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "autoray", None)
    monkeypatch.delitem(sys.modules, "svdinv.adapters.autoray", raising=False)
    with pytest.raises(ImportError, match="pip install autoray") as error:
        importlib.import_module("svdinv.adapters.autoray")
    assert error.value.name == "autoray"


@pytest.fixture
def ours():
    pytest.importorskip("autoray")
    module = importlib.import_module("svdinv.adapters.autoray")
    yield module
    module.unregister()


def repeated(shape=(4, 3)):
    """Matrix with the singular values 2, 2 and 1, and one to weigh its gradient by."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in shape)
    return (U * np.array([2.0, 2, 1])) @ V.T, rng.standard_normal(shape)


def gradient(framework, f, A):
    """Gradient of a function of an array of a framework, from and to NumPy."""
    if framework == "torch":
        import torch

        A = torch.tensor(A, requires_grad=True)
        f(A).backward()
        return A.grad.numpy()
    if framework == "jax":
        import jax

        with jax.enable_x64(True):
            return np.asarray(jax.jit(jax.grad(f))(jax.numpy.asarray(A)))
    import tensorflow as tf

    A = tf.Variable(A)
    with tf.GradientTape() as tape:
        y = f(tf.convert_to_tensor(A))
    return tape.gradient(y, A).numpy()


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestAutoray:
    def test_gradients_where_values_repeat(self, ours, framework):
        pytest.importorskip(framework)
        import autoray

        A, G = repeated()
        square = A.T @ A
        ours.register(framework)

        def weighed(x):
            weights = autoray.do("asarray", G[: x.shape[0]], like=x)
            return autoray.do("sum", weights * x)

        def cubed(x):  # A A^H A
            U, S, Vh = autoray.do("linalg.svd", x)
            return weighed((U * S[None, :] ** 3) @ Vh)

        def norm(x):
            return autoray.do("sum", autoray.do("linalg.svdvals", x))

        def squared(x):
            w, V = autoray.do("linalg.eigh", x)
            Vh = autoray.do("transpose", V)
            return weighed((V * w[None, :] ** 2) @ Vh)

        U, _, Vh = np.linalg.svd(A, full_matrices=False)
        H = G[:3] @ square + square @ G[:3]
        for f, x, expected in (
            (cubed, A, G @ square + A @ G.T @ A + A @ A.T @ G),
            (norm, A, U @ Vh),
            (squared, square, (H + H.T) / 2),
        ):
            found = gradient(framework, f, x)
            if f is squared and framework == "tensorflow":  # in the lower triangle
                found = (found + found.T) / 2
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)

    def test_taken_back(self, ours, framework):
        pytest.importorskip(framework)
        import autoray

        names = ("linalg.svd", "linalg.eigh")
        before = [autoray.get_lib_fn(framework, name) for name in names]
        ours.register(framework)
        ours.register(framework)
        during = [autoray.get_lib_fn(framework, name) for name in names]
        ours.unregister(framework)
        after = [autoray.get_lib_fn(framework, name) for name in names]
        assert before == after
        assert not set(before) & set(during)

    def test_taken_back_before_autoray_looked(self, ours, framework):
        import autoray

        key = framework, "linalg.svd"
        before = autoray.autoray._FUNCS.pop(key, None)
        try:
            ours.register(framework)
            assert key in autoray.autoray._FUNCS
            ours.unregister()
            assert key not in autoray.autoray._FUNCS
        finally:
            if before is not None:
                autoray.register_function(*key, before)


def test_registers_what_is_installed_and_imports_nothing(ours, monkeypatch):
    import autoray

    for name in FRAMEWORKS:
        monkeypatch.delitem(sys.modules, f"svdinv.{name}", raising=False)
    monkeypatch.setattr(ours, "find_spec", lambda name: name == "jax")
    ours.register()
    assert {key[0] for key in ours._before} == {"jax"}
    assert "svdinv.jax" not in sys.modules
    with pytest.raises(ValueError, match="framework must be one of"):
        ours.register("numpy")
    with pytest.raises(ValueError, match="framework must be one of"):
        ours.unregister("cupy")
    assert autoray.get_lib_fn("jax", "linalg.eigh").args == ("svdinv.jax",)


def heisenberg(n):
    """Two-site term of the Heisenberg model."""
    import quimb

    return np.asarray(quimb.ham_heis(n).real)


def chain(qtn, state, noise=0.0):
    """Energy by a compressed H psi, in which Schmidt values repeat and vanish."""
    psi, H = getattr(qtn, state)(6), qtn.MPO_ham_ising(6, j=1.0, bx=1.0)
    for network in psi, H:
        network.apply_to_arrays(lambda x: np.asarray(x).real.copy())
    rng = np.random.default_rng(0)
    psi.apply_to_arrays(lambda x: x + noise * rng.standard_normal(x.shape))

    def loss(psi, H):
        image = H.apply(psi)
        image.compress(max_bond=4, cutoff=0.0)
        return (image.H @ psi) / (psi.H @ psi)

    return psi, loss, {"H": H}


def lattice(qtn):
    """Energy of a PEPS whose bonds were widened by zeros, by boundary contraction."""
    sites = {(i, j): [1.0, 0.3][:: 1 - 2 * ((i + j) % 2)] for i in (0, 1, 2)
             for j in (0, 1, 2)}  # fmt: skip
    psi = qtn.PEPS.product_state({k: np.array(v) for k, v in sites.items()})
    psi.expand_bond_dimension_(2, rand_strength=0.0)
    terms = qtn.LocalHam2D(3, 3, H2=heisenberg(2)).terms

    def loss(psi, terms):
        return psi.compute_local_expectation(
            terms, max_bond=4, cutoff=0.0, normalized=True
        )

    return psi, loss, {"terms": terms}


CASES = {
    "GHZ": lambda qtn: chain(qtn, "MPS_ghz_state"),
    "Neel": lambda qtn: chain(qtn, "MPS_neel_state"),
    "W": lambda qtn: chain(qtn, "MPS_w_state"),
    "PEPS": lattice,
    "GHZ, noise": lambda qtn: chain(qtn, "MPS_ghz_state", 1e-8),
}


def jax_in_double(backend):
    if backend != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


@pytest.fixture
def network():
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quimb's own import
        return pytest.importorskip("quimb.tensor")


def optimizer(qtn, case, backend="torch", **options):
    psi, loss, constants = CASES[case](qtn)
    return qtn.TNOptimizer(
        psi,
        loss,
        loss_constants=constants,
        autodiff_backend=backend,
        progbar=False,
        **options,
    )


@pytest.mark.filterwarnings("ignore")  # quimb's and SciPy's own
class TestQuimb:
    # Not the Néel state: where rounding separates its values PyTorch's own is right.
    @pytest.mark.parametrize("case", ["GHZ", "W", "PEPS"])
    def test_breaks_without_and_runs_with_it(self, ours, network, case):
        qtn = network
        found = optimizer(qtn, case)
        start = found.vectorizer.vector.copy()
        without = found.vectorized_value_and_grad(start)[1].copy()
        ours.register("torch")
        found = optimizer(qtn, case)
        slopes = found.vectorized_value_and_grad(start)[1].copy()
        assert np.isfinite(slopes).all()
        assert not np.allclose(without, slopes, rtol=0.1, atol=0.1)  # NaN or wrong
        found.optimize(20)
        assert np.isfinite(found.losses).all()
        assert found.losses[-1] < found.losses[0] - 0.5

    @pytest.mark.parametrize("backend", ["torch", "jax"])
    # Of the GHZ state a change raises the rank: what passes through 0 would be lost.
    @pytest.mark.parametrize("case", ["Neel", "W", "PEPS", "GHZ, noise"])
    def test_gradient_against_differences(self, ours, network, case, backend):
        pytest.importorskip(backend)
        ours.register(backend)
        with jax_in_double(backend):
            self.check_gradient(optimizer(network, case, backend))

    def check_gradient(self, found):
        start, h = found.vectorizer.vector.copy(), 1e-4
        slopes = found.vectorized_value_and_grad(start)[1].copy()
        along = np.random.default_rng(0).standard_normal(start.shape)
        y = [
            float(found.vectorized_value_and_grad(start + k * h * along)[0])
            for k in (-2, -1, 1, 2)
        ]
        expected = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * h)
        np.testing.assert_allclose(slopes @ along, expected, rtol=1e-5, atol=1e-5)
