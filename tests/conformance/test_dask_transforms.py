"""All operators of lazy arrays; see `table`."""

from __future__ import annotations

import pytest

da = pytest.importorskip("dask.array", reason="Dask is not installed")

from cells import cells
from frameworks import as_tuple
from operator_cases import ALL_CASES

import svdinv.dask
from examples import batch, check, example, first


def lazy(arrays):
    """In chunks of two along the first axis."""
    return tuple(da.from_array(x, chunks=(2, *x.shape[1:])) for x in arrays)


def called(e):
    call = ALL_CASES[e.name][1].call
    return lambda *x: as_tuple(call(svdinv.dask, *x))


def computed(arrays):
    assert all(isinstance(x, da.Array) for x in arrays)
    return da.compute(*arrays)


def try_chunks(e):
    e = batch(e.name)
    check(computed(called(e)(*lazy(e.inputs))), e.values)


def try_vjp(e):
    f = called(e)
    e = batch(e.name)
    y, pull = svdinv.dask.vjp(f, *lazy(e.inputs))
    check(computed(y), e.values)
    found = pull(lazy(e.cotangents))
    check(computed(found), e.gradients, hermitian=e.hermitian)


def try_jvp(e):
    f = called(e)
    e = batch(e.name)
    _, moved = svdinv.dask.jvp(f, lazy(e.inputs), lazy(e.directions))
    check(computed(moved), e.tangents)


TRIES = {"chunks": try_chunks, "vjp": try_vjp, "jvp": try_jvp}


@pytest.mark.parametrize(("transform", "operator"), cells("Dask", TRIES))
def test_transform(transform, operator):
    """One example each: the chunks are computed by `svdinv.numpy`'s functions."""
    TRIES[transform](example(first(operator)))
