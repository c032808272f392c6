"""What JAX makes of matrices on eight devices, as JSON: run by test_sharded.py."""

from __future__ import annotations

import json
import os
import re
import sys
from functools import partial
from pathlib import Path

DEVICES = 8
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count={DEVICES}"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import svdinv.jax

jax.config.update("jax_enable_x64", True)
MESH = Mesh(np.array(jax.devices()), ("rows",))
ROWS = NamedSharding(MESH, P("rows", None))
COLLECTIVE = re.compile(
    r"= (.*) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\("
)
SHAPE = re.compile(r"f64\[([\d,]*)\]")


def collectives(f, *x):
    """Give the names of the collectives of a compiled function, and their numbers."""
    text = jax.jit(f).lower(*x).compile().as_text()
    return [
        (name, int(np.prod([int(n) for n in shape.split(",") if n])))
        for shapes, name in COLLECTIVE.findall(text)
        for shape in SHAPE.findall(shapes)  # several may be sent as one
    ]


def error(X, x):
    return float(abs(np.asarray(X) - x).max() / abs(x).max())


def main(results):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((4096, 12))
    many = jax.device_put(A, ROWS)
    o = svdinv.jax
    found = {}
    for name, f in {
        "svt": partial(o.svt, tau=20.0, method="gram"),
        "nuclear norm": partial(o.nuclear_norm, method="gram"),
    }.items():
        value = jax.value_and_grad(lambda A, f=f: jnp.sum(f(A) ** 2))
        compiled = jax.jit(value)
        (y, g), (Y, G) = compiled(A), compiled(many)
        found[name] = {
            "value": error(Y, np.asarray(y)),
            "gradient": error(G, np.asarray(g)),
            "kept": G.sharding.is_equivalent_to(ROWS, 2),
            "both": collectives(value, many),
        }
    # Outside jit, "auto" knows how the matrix lies.
    steep = rng.standard_normal((4096, 4)) * [1, 1e-4, 1e-9, 1e-10]
    thin = jax.device_put(steep, ROWS)
    Y = o.svt(thin, 1e-12)
    G = jax.grad(lambda A: jnp.sum(o.svt(A, 20.0) ** 2))(many)
    exact = jax.grad(lambda A: jnp.sum(o.svt(A, 20.0, method="svd") ** 2))(A)
    found["auto"] = {
        "value": error(Y, np.asarray(o.svt(steep, 1e-12))),
        "gradient": error(G, np.asarray(exact)),
        "kept": Y.sharding.is_equivalent_to(ROWS, 2)
        and G.sharding.is_equivalent_to(ROWS, 2),
    }
    wide = rng.standard_normal((4096, 80))
    S, decompose = np.linalg.svd(wide, compute_uv=False), jnp.linalg.svd

    def refused(*x, **options):
        raise RuntimeError("of all rows on one device")

    jnp.linalg.svd = refused
    spread = jax.device_put(wide, ROWS)
    found["norms"] = max(
        error(o.nuclear_norm(spread), S.sum()),
        error(o.spectral_norm(spread), S.max()),
        error(o.schatten_norm(spread, 3.0), (S**3).sum() ** (1 / 3)),
    )
    jnp.linalg.svd = decompose
    # Rows that are no multiple of the devices, filled up with zeros.
    filled = np.concatenate([A[:-6], np.zeros((6, 12))])
    Y = jax.jit(partial(o.svt, tau=20.0, method="gram"))(jax.device_put(filled, ROWS))
    found["filled"] = error(Y[:-6], np.asarray(o.svt(A[:-6], 20.0)))
    # Explicit axes: of the batch only.
    mesh = jax.make_mesh((DEVICES,), ("i",), axis_types=(AxisType.Explicit,))
    batch = jax.device_put(A.reshape(8, 512, 12), NamedSharding(mesh, P("i")))
    Y = o.svt(batch, 20.0, method="gram")
    found["explicit batch"] = error(Y, np.asarray(o.svt(A.reshape(8, 512, 12), 20.0)))
    B, b = rng.standard_normal((8, 6, 4)), rng.standard_normal((8, 6))
    pair = [jax.device_put(x, NamedSharding(mesh, P("i"))) for x in (B, b)]
    with jax.set_mesh(mesh):
        found["explicit vectors"] = error(o.lstsq(*pair), np.asarray(o.lstsq(B, b)))
        # Mapped, beside what is not, and with a further map inside the first.
        shared = B[0]
        for name, f in {
            "target": lambda X: jax.grad(lambda Y: o.kabsch(X, Y).rmsd)(shared),
            "jacobian": jax.jacrev(lambda X: o.svt(X, 0.5)),
            "tangents": jax.jacfwd(o.polar),
            "factor": jax.jacrev(lambda X: o.svd(X).U[0]),
            "blocks": lambda X: o.local_low_rank(X[None], 0.5, 2),
        }.items():
            mapped = jax.jit(jax.vmap(f))
            found["explicit " + name] = error(mapped(pair[0]), np.asarray(mapped(B)))
        # Thresholds that all devices share.
        for name, tau, options in [
            ("number", 0.5, {}),
            ("relative", 0.5, {"relative": True}),
            ("each", jnp.full(8, 0.5), {"method": "gram"}),
            ("weights", jnp.full((8, 4), 0.5), {}),
        ]:

            def loss(A, tau, options=options):
                return jnp.sum(o.svt(A, tau, **options) ** 2)

            slopes = jax.grad(loss, (0, 1))
            for way, f in (("jit", jax.jit(slopes)), ("eager", slopes)):
                pairs = zip(f(pair[0], tau), f(B, tau), strict=True)
                errors = [error(Y, np.asarray(y)) for Y, y in pairs]
                found[f"explicit threshold, {name}, {way}"] = max(errors)
        # And thresholds that are distributed, of matrices that all devices share.
        spread = jax.device_put(np.full(8, 0.5), NamedSharding(mesh, P("i")))
        Y = o.svt(jax.device_put(B, NamedSharding(mesh, P())), spread)
        found["explicit threshold, spread"] = error(Y, np.asarray(o.svt(B, 0.5)))
    try:
        o.svt(jax.device_put(A, NamedSharding(mesh, P("i", None))), 20.0)
    except ValueError as refused:
        found["explicit rows"] = str(refused)
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
