"""How exact the operators are, at every spectrum, on every framework.

NumPy and PyTorch look at their values, and so take one spectrum at a time; elsewhere
all spectra are one batch, for which few shapes have to be compiled.
"""

from __future__ import annotations

import functools
import itertools
import zlib

import hermitian_oracle
import numpy as np
import pytest
import spectral_oracle as exact
from frameworks import params
from oracle import POLAR, SPECTRA, TANH, WITH_ZEROS, adjoint, draw, relative_error

from svdinv import kernels
from svdinv.core import hermitian_operations
from svdinv.core.hermitian import Exponential
from svdinv.core.thresholds import Firm

SHAPES = ((6, 6), (9, 6), (6, 11))
PRECISIONS = {
    "double": (np.float64, np.complex128),
    "single": (np.float32, np.complex64),
}
# Largest relative error of the gradient and of the result, of any draw.
BOUNDS = {"double": (2e-14, 2e-14), "single": (2e-6, 1e-6)}
ALL = (*SPECTRA, "condition 1e6")

# name: (call of a framework, oracle)
OPERATORS = {
    "svt": (lambda f, A: f.module.svt(A, 0.35), exact.soft(0.35)),
    "svht": (lambda f, A: f.module.svht(A, 0.35), exact.hard()),
    "firm": (lambda f, A: f.module.firm_threshold(A, 0.35, 2.5), exact.firm(2.5)),
    "own function": (
        lambda f, A: f.module.spectral_operator(A, Firm(2.5), 0.35),
        exact.firm(2.5),
    ),
    "log-sum": (
        lambda f, A: f.module.log_sum_threshold(A, 0.1, 0.3),
        exact.log_sum(0.1, 0.3),
    ),
    "schatten 1/2": (
        lambda f, A: f.module.schatten_prox(A, 0.1, 1 / 2),
        exact.schatten(1 / 2, 0.1),
    ),
    "schatten 2/3": (
        lambda f, A: f.module.schatten_prox(A, 0.1, 2 / 3),
        exact.schatten(2 / 3, 0.1),
    ),
    "schatten 1": (lambda f, A: f.module.schatten_prox(A, 0.35, 1), exact.soft(0.35)),
    "schatten 2": (lambda f, A: f.module.schatten_prox(A, 0.3, 2), exact.shrink(0.3)),
    "polar": (lambda f, A: f.module.polar(A), POLAR),
    "spectral_map": (lambda f, A: f.module.spectral_map(A, f.tanh), TANH),
    "svt by svd": (lambda f, A: f.module.svt(A, 0.35, method="svd"), exact.soft(0.35)),
    "svt by gram": (
        lambda f, A: f.module.svt(A, 0.35, method="gram"),
        exact.soft(0.35),
    ),
}
HERMITIAN = {
    "expm": hermitian_oracle.EXP,
    "logm": hermitian_oracle.LOG,
    "sqrtm": hermitian_oracle.SQRT,
    "inv_sqrtm": hermitian_oracle.INVERSE_SQRT,
    "hermitian_map": hermitian_oracle.EXP,
    "powm": hermitian_oracle.power(-0.8),
}


@functools.cache
def operator(framework, name):
    """The same function whenever it is asked for."""
    if name in OPERATORS:
        return functools.partial(OPERATORS[name][0], framework)
    if name == "hermitian_map":
        return lambda A: framework.module.hermitian_map(A, Exponential())
    if name == "powm":
        return lambda A: framework.module.powm(A, -0.8)
    return getattr(framework.module, name)


def spectra_of(name):
    if name in HERMITIAN:
        return [
            spectrum
            for spectrum in hermitian_oracle.SPECTRA
            if not HERMITIAN[name].positive
            or (hermitian_oracle.positive(spectrum) and "condition" not in spectrum)
        ]
    # The derivative of the polar factor is conditioned like 1 / s.
    singular = WITH_ZEROS if name == "polar" else ()
    return [
        spectrum
        for spectrum in ALL
        if spectrum not in singular
        and not (name == "polar" and spectrum.startswith("condition"))
    ]


def drawn(name, spectrum, shape, dtype, draws):
    """Matrices, cotangents, and the exact results and gradients."""
    seed = zlib.crc32(f"{name} {spectrum} {shape} {dtype}".encode())
    if name in HERMITIAN:
        f = HERMITIAN[name]
        p = hermitian_oracle.draw(spectrum, draws=draws, dtype=dtype, seed=seed)
        return p.A, p.G.astype(dtype), p.value(f), p.derivative(f, p.G)
    f = OPERATORS[name][1]
    p = draw(spectrum, shape, draws=draws, dtype=dtype, seed=seed)
    value = (p.U * f.value(p.s)[..., None, :]) @ adjoint(p.V)
    return p.A, p.G.astype(dtype), value, p.exact_gradient(f)


def check(framework, name, dtype, arrays, bounds):
    A, G, value, gradient = arrays
    (found,), pullback = framework.vjp(operator(framework, name), A)
    (gA,) = pullback(G)
    assert found.dtype == gA.dtype == dtype
    if name in HERMITIAN:
        assert (found == adjoint(found)).all()
        assert (gA == adjoint(gA)).all()
    loose = framework.loose if dtype in PRECISIONS["single"] else 1
    assert relative_error(gA, gradient).max() <= bounds[0] * loose
    assert relative_error(found, value).max() <= bounds[1] * loose


@pytest.mark.parametrize("spectrum", ALL)
@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_every_draw_is_exact(framework, spectrum):
    for precision in PRECISIONS:
        check_draws(framework, spectrum, precision)


# Of PyTorch: the mathematics is the same.
SHAPE_OF = dict(zip(itertools.chain(*PRECISIONS.values()), itertools.cycle(SHAPES)))


def check_draws(framework, spectrum, precision):
    every = framework.name == "numpy"
    for name in OPERATORS:
        if spectrum in spectra_of(name):
            for dtype in PRECISIONS[precision]:
                shape = SHAPE_OF[dtype]
                if every:  # each shape with every spectrum, in one dtype or two
                    turn = SHAPES.index(shape) + ALL.index(spectrum)
                    shape = SHAPES[turn % len(SHAPES)]
                arrays = drawn(name, spectrum, shape, dtype, 8 if every else 4)
                check(framework, name, dtype, arrays, BOUNDS[precision])


@pytest.mark.parametrize("spectrum", hermitian_oracle.SPECTRA)
@pytest.mark.parametrize("framework", params("numpy", "torch"), indirect=True)
def test_every_hermitian_draw_is_exact(framework, spectrum):
    for precision in PRECISIONS:
        check_hermitian_draws(framework, spectrum, precision)


def check_hermitian_draws(framework, spectrum, precision):
    bound, _ = BOUNDS[precision]
    for name in HERMITIAN:
        if spectrum in spectra_of(name):
            for dtype in PRECISIONS[precision]:
                arrays = drawn(name, spectrum, None, dtype, 8)
                check(framework, name, dtype, arrays, (bound, bound))


@pytest.mark.parametrize("name", ["expm", "logm", "sqrtm", "inv_sqrtm"])
@pytest.mark.parametrize("framework", params("torch", "tensorflow"), indirect=True)
def test_lapack_of_single_precision_is_repaired(framework, name, monkeypatch):
    """How far LAPACK's own factors lead off differs between processors."""
    monkeypatch.setattr(kernels._kernels, "indices", {})

    def gradient(A, G):
        return framework.vjp(operator(framework, name), A)[1](G)[0]

    for dtype in PRECISIONS["single"]:
        arrays = drawn(name, "distinct", None, dtype, 60)
        check(framework, name, dtype, arrays, (1.2e-6, 1.5e-6))
        A, G, _, expected = arrays
        repaired = relative_error(gradient(A, G), expected)
        with monkeypatch.context() as patch:
            patch.setattr(hermitian_operations, "MOST_REPAIRED", 0)
            plain = relative_error(gradient(A, G), expected)
        assert np.median(repaired) < 0.8 * np.median(plain)


@functools.cache
def all_spectra(name, dtype):
    """Two draws of every spectrum in one batch."""
    parts = [
        drawn(name, spectrum, (9, 6), dtype, 2 + 6 * (spectrum in SOME))
        for spectrum in spectra_of(name)
    ]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


SOME = ("distinct", "two clusters", "gap 1e-07", "repeated and zeros")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*OPERATORS, *HERMITIAN])
@pytest.mark.parametrize("framework", params(without=("numpy", "torch")), indirect=True)
def test_every_framework_is_exact(framework, name, precision):
    bound, forward = BOUNDS[precision]
    if name in HERMITIAN:
        forward = bound
    if (framework.name, name) == ("tensorflow", "spectral_map"):
        forward = 2 * forward  # made of its own SVD, which is 1.2e-6 exact
    for dtype in PRECISIONS[precision]:
        # JAX compiles for seconds: real in single and complex in double precision.
        left_out = framework.name == "jax" and dtype in (np.float64, np.complex64)
        if dtype in framework.dtypes and not left_out:
            check(framework, name, dtype, all_spectra(name, dtype), (bound, forward))
