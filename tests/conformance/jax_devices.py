"""All operators on two devices of JAX: run by `test_jax_transforms`, writes JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # which has as many devices as one asks for
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from table import is_tried
from test_jax_transforms import both_of, gradient_of, loss_of

from examples import NAMES, batch, check, example, first

jax.config.update("jax_enable_x64", True)
MESH = Mesh(jax.devices(), ("d",))


def check_shard_map(name):
    f, loss = loss_of(example(name))
    e = batch(name)
    count = len(e.inputs)

    def over_devices(f):
        return jax.shard_map(f, mesh=MESH, in_specs=P("d"), out_specs=P("d"))

    def total(*x):
        return over_devices(lambda *x: loss(*x)[None])(*x).sum()

    def all_three(*x):
        inside = over_devices(gradient_of(loss, count))
        return over_devices(f)(*x), inside(*x), gradient_of(total, count)(*x)

    y, inside, outside = jax.jit(all_three)(*e.inputs)
    check(y, e.values)
    check(inside, e.gradients, hermitian=e.hermitian)
    check(outside, e.gradients, hermitian=e.hermitian)


def check_sharded(name):
    """What is sharded over the batch stays so, and nothing is gathered."""
    both, e = both_of(example(name)), batch(name)
    sharding = NamedSharding(MESH, P("d"))
    x = [jax.device_put(t, sharding) for t in e.inputs]
    compiled = jax.jit(both).lower(*x).compile()
    y, g = compiled(*x)
    check(y, e.values)
    check(g, e.gradients, hermitian=e.hermitian)
    text = compiled.as_text()
    assert "all-gather" not in text
    for t in (*y, *g):
        assert t.sharding.is_equivalent_to(sharding, t.ndim), t.sharding


def main(file):
    failed = {"shard_map": {}, "sharded": {}}
    tests = {"shard_map": check_shard_map, "sharded": check_sharded}
    for transform, test in tests.items():
        found = failed[transform]
        for name in NAMES:
            if not is_tried("JAX", transform, name):
                continue
            try:
                test(first(name))
                found[name] = None
            except Exception:
                found[name] = traceback.format_exc()
    Path(file).write_text(json.dumps(failed))


if __name__ == "__main__":
    main(sys.argv[1])
