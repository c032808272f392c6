"""Every operator on every framework: values and derivatives of both orders.

Against plain NumPy: see `operator_cases`.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from frameworks import FRAMEWORKS, as_tuple, params
from operator_cases import (
    CASES,
    COMPLEX,
    bound,
    difference,
    direction,
    inner,
    matrices,
    problem,
    with_values,
)

DIRECTIONS = range(30, 36)
NAMES = [*dict.fromkeys(name.rsplit(", ", 1)[0] for name in CASES)]
REPEATED = [name for name in NAMES if CASES[f"{name}, float64"][1].repeated]


def cases(names):
    """Frameworks by operators, with both dtypes in one test."""
    return [
        pytest.param(framework.values[0], name, id=f"{framework.id}-{name}",
                     marks=framework.marks)
        for framework in params(without=("mlx",))
        for name in names
    ]  # fmt: skip


def dtypes(framework, name):
    """Full names of the cases with an operator: compiling takes a second each."""
    for dtype in ("float64", "complex128"):
        full = f"{name}, {dtype}"
        compiled = framework.name == "jax" and dtype == "complex128"
        if full in CASES and not (compiled and not differs(name)):
            yield full


def differs(name):
    """Whether complex matrices have a formula that no case before this one has."""
    variant = "," in name and name not in (*COMPLEX, "svt, gram")
    return name.startswith(COMPLEX) and not variant


@functools.cache
def expected(name, spectrum):
    """Of the reference: values, and slopes of Re <cotangents, values>."""
    _, case = CASES[name]
    inputs, _, cotangents = problem(name, spectrum)
    slopes = [
        inner(
            cotangents,
            difference(lambda *x: as_tuple(case.reference(*x)), inputs, d),
        )
        for d in (direction(case, inputs, seed) for seed in DIRECTIONS)
    ]
    return as_tuple(case.reference(*inputs)), slopes


@functools.cache
def expected_products(name, spectrum):
    """Differences of NumPy's gradients, in several directions."""
    numpy = FRAMEWORKS["numpy"]
    function = bound(name, numpy)
    inputs, along, cotangents = problem(name, spectrum)

    def gradients(*x):
        return numpy.vjp(function, *x)[1](*cotangents)

    return difference(gradients, inputs, along)


def check(framework, name, spectrum):
    _, case = CASES[name]
    function = bound(name, framework)
    inputs, along, cotangents = problem(name, spectrum)
    values, slopes = expected(name, spectrum)
    products = expected_products(name, spectrum)
    found = framework.derivatives(function, inputs, along, cotangents)
    for x, y in zip(found[0], values, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * (1 + abs(y).max()))
    for x, g, h in zip(inputs, found[1], found[3], strict=True):
        assert (g.dtype, g.shape) == (h.dtype, h.shape) == (x.dtype, x.shape)
    size = 1 + inner(found[1], found[1]) ** 0.5
    for seed, slope in zip(DIRECTIONS, slopes, strict=True):
        d = direction(case, inputs, seed)
        assert abs(inner(found[1], d) - slope) < 1e-12 * size
        if case.bends or spectrum == "distinct":
            bend = inner(found[3], d) - inner(products, d)
            assert abs(bend) < 1e-9 * (1 + inner(products, products) ** 0.5)
    if framework.forward:  # the adjoint identity
        moved = inner(cotangents, found[2])
        assert abs(moved - inner(found[1], along)) < 1e-13 * size


@pytest.mark.parametrize(("framework", "name"), cases(NAMES))
def test_distinct_values(framework, name):
    for full in dtypes(framework.require(), name):
        check(framework, full, "distinct")


@pytest.mark.parametrize(("framework", "name"), cases(REPEATED))
def test_repeated_values(framework, name):
    for full in dtypes(framework.require(), name):
        check(framework, full, "repeated")


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("p", [1, 1.5, 3, 4, np.inf])
def test_third_derivatives_of_norms(p, dtype):
    """A norm's gradient is a map with two derivatives more."""
    numpy = FRAMEWORKS["numpy"]
    module = numpy.module

    def norm(A):
        if p == 1:
            return module.nuclear_norm(A)
        return module.spectral_norm(A) if p == np.inf else module.schatten_norm(A, p)

    def gradient(A):
        return module.vjp(norm, A)[1](np.ones(()))[0]

    cases = [matrices((4, 3), dtype)]
    # Two values far apart, near, nearer than a third of the digits, and equal.
    for gap in (0.3, 1e-3, 1e-6, 0.0):
        cases.append(with_values((2.2, 1.4 + gap, 1.4), (4, 3), dtype))
    W, d = (matrices((4, 3), dtype, seed) for seed in (1, 2))
    for A in cases:
        (found,) = numpy.hvp(gradient, [A], [d], [W])
        (expected,) = difference(
            lambda A: numpy.vjp(gradient, A)[1](W), [A], [d], step=2e-3
        )
        size = 1 + np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * size)
