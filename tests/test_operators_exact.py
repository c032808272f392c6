"""How exact the low-rank operators are, at every spectrum, on every framework."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import spectral_oracle as exact
from oracle import POLAR, SPECTRA, TANH, adjoint, draw, relative_error

SHAPES = ((6, 6), (9, 6), (6, 11))
PRECISIONS = {
    "double": (np.float64, np.complex128),
    "single": (np.float32, np.complex64),
}
# Largest relative error of the gradient and of the result, of any draw.
BOUNDS = {"double": (2e-14, 2e-14), "single": (2e-6, 1e-6)}


# name: (call of a face, oracle)
OPERATORS = {
    "svt": (lambda f, A: f.svt(A, 0.35), exact.soft(0.35)),
    "svht": (lambda f, A: f.svht(A, 0.35), exact.hard()),
    "firm": (lambda f, A: f.firm_threshold(A, 0.35, 2.5), exact.firm(2.5)),
    "log-sum": (lambda f, A: f.log_sum_threshold(A, 0.1, 0.3), exact.log_sum(0.1, 0.3)),
    "schatten 1/2": (
        lambda f, A: f.schatten_prox(A, 0.1, 1 / 2),
        exact.schatten(1 / 2, 0.1),
    ),
    "schatten 2/3": (
        lambda f, A: f.schatten_prox(A, 0.1, 2 / 3),
        exact.schatten(2 / 3, 0.1),
    ),
    "schatten 1": (lambda f, A: f.schatten_prox(A, 0.35, 1), exact.soft(0.35)),
    "schatten 2": (lambda f, A: f.schatten_prox(A, 0.3, 2), exact.shrink(0.3)),
    "polar": (lambda f, A: f.polar(A), POLAR),
    "spectral_map": (lambda f, A: f.spectral_map(A, tanh_of(f)), TANH),
    "svt by svd": (lambda f, A: f.svt(A, 0.35, method="svd"), exact.soft(0.35)),
    "svt by gram": (lambda f, A: f.svt(A, 0.35, method="gram"), exact.soft(0.35)),
}


def tanh_of(face):
    name = face.__name__.removeprefix("svdinv.")
    if name == "torch":
        import torch

        return torch.tanh
    if name == "jax":
        import jax.numpy as jnp

        return jnp.tanh
    import tensorflow as tf

    return tf.tanh


def numpy_vjp(name, A, G):
    import svdinv.numpy as f

    calls = {
        "svt": lambda: f.svt_vjp(A, 0.35),
        "svht": lambda: f.svht_vjp(A, 0.35),
        "firm": lambda: f.firm_threshold_vjp(A, 0.35, 2.5),
        "log-sum": lambda: f.log_sum_threshold_vjp(A, 0.1, 0.3),
        "schatten 1/2": lambda: f.schatten_prox_vjp(A, 0.1, 1 / 2),
        "schatten 2/3": lambda: f.schatten_prox_vjp(A, 0.1, 2 / 3),
        "schatten 1": lambda: f.schatten_prox_vjp(A, 0.35, 1),
        "schatten 2": lambda: f.schatten_prox_vjp(A, 0.3, 2),
        "polar": lambda: f.polar_vjp(A),
        "spectral_map": lambda: f.spectral_map_vjp(A, np.tanh, slope_of_tanh),
        "svt by svd": lambda: f.svt_vjp(A, 0.35, method="svd"),
        "svt by gram": lambda: f.svt_vjp(A, 0.35, method="gram"),
    }
    result, pullback = calls[name]()
    found = pullback(G)
    return result, found[0] if isinstance(found, tuple) else found


def slope_of_tanh(s):
    return 1 / np.cosh(s) ** 2


def torch_vjp(name, A, G):
    import torch

    import svdinv.torch

    A = torch.tensor(A, requires_grad=True)
    Y = OPERATORS[name][0](svdinv.torch, A)
    (gA,) = torch.autograd.grad(Y, A, torch.tensor(G))
    return Y.detach().numpy(), gA.numpy()


def tensorflow_vjp(name, A, G):
    import tensorflow as tf

    import svdinv.tf

    A = tf.constant(A)
    with tf.GradientTape() as tape:
        tape.watch(A)
        Y = OPERATORS[name][0](svdinv.tf, A)
    return Y.numpy(), tape.gradient(Y, A, tf.constant(G)).numpy()


def jax_vjp(name, A, G):
    import jax

    import svdinv.jax

    with jax.enable_x64(True):
        Y, pullback = jax.vjp(
            lambda A: OPERATORS[name][0](svdinv.jax, A), jax.numpy.asarray(A)
        )
        (gA,) = pullback(jax.numpy.asarray(np.conj(G)))
        return np.asarray(Y), np.conj(np.asarray(gA))


VJPS = {
    "numpy": numpy_vjp,
    "torch": torch_vjp,
    "tensorflow": tensorflow_vjp,
    "jax": jax_vjp,
}


def errors(vjp, spectrum, dtypes, draws, shapes=SHAPES, names=OPERATORS):
    """Worst relative errors of gradient and result over all operators, and a count."""
    gradient, result, count = {}, {}, 0
    for name in names:
        oracle = OPERATORS[name][1]
        singular = spectrum in _SINGULAR or spectrum.startswith("condition")
        if singular and name == "polar":
            continue  # its derivative is conditioned like 1 / s
        for shape in shapes:
            for dtype in dtypes:
                seed = zlib.crc32(f"{name} {spectrum} {shape} {dtype}".encode())
                p = draw(spectrum, shape, draws=draws, dtype=dtype, seed=seed)
                Y, gA = vjp(name, p.A, p.G.astype(dtype))
                assert gA.dtype == Y.dtype == dtype
                y = (p.U * oracle.value(p.s)[..., None, :]) @ adjoint(p.V)
                found = relative_error(gA, p.exact_gradient(oracle)).max()
                gradient[name] = max(gradient.get(name, 0), found)
                result[name] = max(result.get(name, 0), relative_error(Y, y).max())
                count += draws
    return gradient, result, count


_SINGULAR = ("one zero", "zeros", "repeated and zeros")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spectrum", [*SPECTRA, "condition 1e6"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_every_draw_is_exact(name, spectrum, precision):
    pytest.importorskip(name)
    gradient, result, count = errors(
        VJPS[name], spectrum, PRECISIONS[precision], draws=18
    )
    assert count >= 1000
    bound, forward = BOUNDS[precision]
    assert max(gradient.values()) <= bound, gradient
    assert max(result.values()) <= forward, result


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_exact_on_every_framework(name, precision):
    pytest.importorskip(name)
    bound, forward = BOUNDS[precision]
    for spectrum in ("distinct", "two clusters", "gap 1e-07", "repeated and zeros"):
        for dtype in PRECISIONS[precision]:
            gradient, result, _ = errors(
                VJPS[name], spectrum, [dtype], draws=8, shapes=((9, 6),)
            )
            assert max(gradient.values()) <= bound, gradient
            if name == "tensorflow":  # made of its own SVD, which is 1.2e-6 exact
                assert result.pop("spectral_map") <= 2 * forward
            assert max(result.values()) <= forward, result
