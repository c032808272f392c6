"""JAX's transforms by all operators; see `table`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from cells import cells
from interpreters import run
from jax import export, lax
from table import ALL, is_tried, limit

from examples import batch, check, example, first, with_kernels  # noqa: F401

DEVICES = Path(__file__).with_name("jax_devices.py")


@pytest.fixture(scope="module", autouse=True)
def compiled_anew(with_kernels):  # noqa: F811
    """Programs with kernels do not serve without, and the other way round."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def loss_of(e):
    """The function, and Re <cotangents, f>; batches are summed over."""
    f = e.function("jax")
    cotangents = [jnp.asarray(g) for g in example(e.name).cotangents]

    def loss(*x):
        pairs = zip(cotangents, f(*x), strict=True)
        return sum(jnp.sum(jnp.real(jnp.conj(g) * y)) for g, y in pairs)

    return f, loss


def gradient_of(f, count):
    """As of the other frameworks: JAX's is the conjugate."""
    g = jax.grad(f, tuple(range(count)))
    return lambda *x: tuple(map(jnp.conj, g(*x)))


def both_of(e):
    """Value and gradient as one function."""
    f, loss = loss_of(e)
    return lambda *x: (f(*x), gradient_of(loss, len(x))(*x))


def nested(arrays):
    """Split the batch axis in two."""
    return tuple(x.reshape(2, -1, *x.shape[1:]) for x in arrays)


def try_jit(e):
    """In single precision: in double, `test_derivatives` compiles all."""
    with jax.enable_x64(False):
        y, g = jax.jit(both_of(e))(*e.inputs)
    assert all(t.dtype in (jnp.float32, jnp.complex64) for t in (*y, *g))
    check(y, e.values, 1e-4)
    check(g, e.gradients, 1e-3, hermitian=e.hermitian)


def try_jvp(e):
    f, _ = loss_of(e)
    found = jax.jit(lambda x, d: jax.jvp(f, x, d)[1])(e.inputs, e.directions)
    check(found, e.tangents)


def try_vmap(e):
    f, loss = loss_of(e)
    e = batch(e.name)

    def total(*x):
        return jnp.sum(jax.vmap(loss)(*x))

    def both(*x):
        return jax.vmap(f)(*x), gradient_of(total, len(x))(*x)

    y, g = jax.jit(both)(*e.inputs)
    check(y, e.values)
    check(g, e.gradients, hermitian=e.hermitian)


def try_vmap_of_grad(e):
    _, loss = loss_of(e)
    e = batch(e.name)
    slope = jax.vmap(jax.vmap(gradient_of(loss, len(e.inputs))))
    found = jax.jit(slope)(*nested(e.inputs))
    check(found, nested(e.gradients), hermitian=e.hermitian)


def try_hessian(e):
    _, loss = loss_of(e)
    e = batch(e.name)
    slope = gradient_of(loss, len(e.inputs))
    product = jax.vmap(lambda x, d: jax.jvp(slope, x, d)[1])
    found = jax.jit(product)(e.inputs, e.directions)
    check(found, e.products, 1e-8, hermitian=e.hermitian)


def try_scan(e):
    f, loss = loss_of(e)
    e = batch(e.name)

    @jax.checkpoint
    def step(total, x):
        return total + loss(*x), f(*x)

    def total(*x):
        return lax.scan(step, 0.0, x)

    g, y = jax.jit(jax.grad(total, tuple(range(len(e.inputs))), has_aux=True))(
        *e.inputs
    )
    check(y, e.values)
    check(tuple(map(jnp.conj, g)), e.gradients, hermitian=e.hermitian)


def try_export(e):
    """With a batch of any size, called for three matrices."""
    both = both_of(e)
    e = batch(e.name)
    (size,) = export.symbolic_shape("b")
    structs = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in e.inputs]
    program = export.export(jax.jit(both))(*structs)
    y, g = program.call(*(x[:3] for x in e.inputs))
    check(y, tuple(t[:3] for t in e.values))
    check(g, tuple(t[:3] for t in e.gradients), hermitian=e.hermitian)


def try_export_rows(e):
    """With any number of rows, of all arrays that have as many as the first."""
    f, _ = loss_of(e)
    (size,) = export.symbolic_shape("m", constraints=["m >= 8"])
    rng, rows = np.random.default_rng(0), e.inputs[0].shape[-2]
    structs, many = [], []
    for x in e.inputs:
        longer = x.ndim > 1 and x.shape[-2] == rows
        shape = (*x.shape[:-2], size, x.shape[-1]) if longer else x.shape
        structs.append(jax.ShapeDtypeStruct(shape, x.dtype))
        more = rng.standard_normal((*x.shape[:-2], 9, x.shape[-1])) if longer else x
        many.append(more.astype(x.dtype))
    program = export.export(jax.jit(f))(*structs)
    check(program.call(*many), tuple(map(np.asarray, f(*many))))


TRIES = {
    "jit": try_jit,
    "jvp": try_jvp,
    "vmap": try_vmap,
    "vmap of grad": try_vmap_of_grad,
    "hessian": try_hessian,
    "scan": try_scan,
    "export": try_export,
    "export rows": try_export_rows,
}
# The others contain no rule of differentiation or batching that these do not.
AGAIN = ("hessian", "export")


@pytest.mark.parametrize(("transform", "operator"), cells("JAX", TRIES))
def test_transform(with_kernels, transform, operator):  # noqa: F811
    if not with_kernels and transform not in AGAIN:
        pytest.skip("tried with the kernels")
    with jax.enable_x64(True):
        TRIES[transform](example(first(operator)))


def test_devices(with_kernels, tmp_path):  # noqa: F811
    """All operators at once: `jax_devices.py` takes one process with two devices."""
    file = tmp_path / "failed.json"
    environment = {} if with_kernels else {"SVDINV_ISA": "none"}
    done = run("-W", "error", DEVICES, file, **environment)
    assert done.returncode == 0, done.stderr
    failures = json.loads(file.read_text())
    wrong = []
    for transform in ("shard_map", "sharded"):
        for operator in ALL:
            if not is_tried("JAX", transform, operator):
                continue
            failed = failures[transform][operator] is not None
            if failed != bool(limit("JAX", transform, operator)):
                wrong.append((transform, operator, failures[transform][operator]))
    assert not wrong
