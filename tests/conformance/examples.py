"""What every transform is asked for: examples of all operators, and their answers.

The answers are those of `svdinv.numpy`, eager and without a transform, which other
tests compare with the formulas of the literature. An operator is here by being in the
registry; `test_table` fails for one without an example in `operator_cases`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
from frameworks import FRAMEWORKS, as_tuple
from operator_cases import ALL_CASES, COMPLEX, FURTHER, bound, problem

from svdinv import kernels
from svdinv.operators import OPERATORS

NAMES = ("svd", *sorted(OPERATORS))

# Members of a batch, in multiples of the example: far from kinks and repeated values.
SCALES = (1.0, 0.9, 1.1, 1.05)


class Example(NamedTuple):
    """An operator with arguments, and what comes of it.

    Attributes
    ----------
    name : str
        As in `operator_cases`.
    inputs, directions, cotangents : tuple of array
        Where to take it and its derivatives.
    values, gradients, tangents, products : tuple of array
        The results, the gradient of Re <cotangents, results>, the derivative of the
        results along the directions, and that of the gradient.
    """

    name: str
    inputs: tuple
    directions: tuple
    cotangents: tuple
    values: tuple
    gradients: tuple
    tangents: tuple
    products: tuple

    @property
    def hermitian(self):
        return ALL_CASES[self.name][1].hermitian

    @property
    def operator(self):
        return self.name.split(",")[0]

    def function(self, framework):
        """From arrays of the framework to a tuple of them."""
        call = bound(self.name, FRAMEWORKS[framework])
        return lambda *x: as_tuple(call(*x))


def of_operator(operator):
    """Names of the examples of an operator: real, and complex where that differs."""
    return [
        name
        for name in ALL_CASES
        if name.split(",")[0] == operator
        and ("float64" in name or name in FURTHER or name.startswith(COMPLEX))
    ]


def first(operator, dtype="float64"):
    """Name of the first example of an operator that takes batches, or None."""
    for name in ALL_CASES:
        if name.split(",")[0] == operator and dtype in name and takes_batches(name):
            return name
    return None


def takes_batches(name):
    """Whether the operator takes batches, not only a framework's map over it.

    A function of one's own, for `spectral_map`, has parameters of its own shape.
    """
    return not name.startswith("spectral_map") or "df" in name


@functools.cache
def example(name):
    inputs, directions, cotangents = problem(name)
    return _solved(name, inputs, directions, cotangents)


def _solved(name, inputs, directions, cotangents):
    # In the dtype of what they are directions of.
    directions = [_cast(d, x) for d, x in zip(directions, inputs, strict=True)]
    function = bound(name, FRAMEWORKS["numpy"])
    values = FRAMEWORKS["numpy"].value(function, *inputs)
    cotangents = [_cast(g, y) for g, y in zip(cotangents, values, strict=True)]
    found = FRAMEWORKS["numpy"].derivatives(function, inputs, directions, cotangents)
    return Example(name, *map(tuple, (inputs, directions, cotangents, *found)))


def _cast(x, like):
    return (x if np.iscomplexobj(like) else x.real).astype(like.dtype)


@functools.cache
def batch(name):
    """Examples along a new axis in front; cotangents and directions are the same."""
    first = example(name)
    members = [
        _solved(name, [s * x for x in first.inputs], first.directions, first.cotangents)
        for s in SCALES
    ]
    stacked = (
        tuple(np.stack(arrays) for arrays in zip(*parts, strict=True))
        for parts in list(zip(*members, strict=True))[1:]
    )
    return Example(name, *stacked)


def check(found, expected, tolerance=1e-10, *, hermitian=False):
    """Compare arrays, up to the tolerance relative to each one's largest element.

    Of Hermitian arguments, a gradient may be all in one triangle.
    """
    found, expected = as_tuple(found), as_tuple(expected)
    for index, (x, y) in enumerate(zip(found, expected, strict=True)):
        x = np.asarray(x)
        assert x.shape == y.shape
        assert x.dtype.kind == y.dtype.kind
        if hermitian and index == 0:
            x, y = (z + np.conj(np.swapaxes(z, -1, -2)) for z in (x, y))
        size = tolerance * (1 + np.abs(y).max(initial=0))
        np.testing.assert_allclose(x, y, rtol=0, atol=size)


@pytest.fixture(params=["kernels", "no kernels"], scope="module")
def with_kernels(request):
    """Whether the compiled kernels serve: with them, and without."""
    there = dict(kernels._kernels.indices)
    if request.param == "kernels" and not there:
        pytest.skip(f"no kernels: {kernels.status()}")
    if request.param == "no kernels":
        kernels._kernels.indices = {}
    yield request.param == "kernels"
    kernels._kernels.indices = there
