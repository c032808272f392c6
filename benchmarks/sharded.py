"""Matrices spread over devices: memory, communication, and a prediction.

Writes the tables of docs/more-than-one-machine.md into docs/figures; needs PyTorch and
JAX, and two minutes on one core::

    python benchmarks/sharded.py

Memory and bytes do not depend on what else the machine does. Times are those of the
processor (`time.process_time`), not of the clock, for the same reason.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
ROWS, COLUMNS = 196_608, 32
COUNTS = (1, 2, 4, 8)


def run(part: str, devices: int) -> dict[str, Any]:
    """Run one part in a process of its own."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, "--devices", str(devices)],
        env={**os.environ, "XLA_FLAGS": flag, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# JAX: bytes that the compiled program reserves on each device, and sends.


def with_jax(devices: int) -> dict[str, Any]:
    """Ask the compiler."""
    import re

    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import svdinv.jax

    jax.config.update("jax_enable_x64", True)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    rows = NamedSharding(mesh, P("rows", None))

    def loss(A: Any) -> Any:
        return jnp.sum(jnp.abs(svdinv.jax.svt(A, 400.0, method="gram")) ** 2)

    def program(dtype: Any) -> tuple[Any, int]:
        A = jax.ShapeDtypeStruct((ROWS, COLUMNS), dtype, sharding=rows)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(A).compile()
        m = compiled.memory_analysis()
        given, made = m.argument_size_in_bytes, m.output_size_in_bytes
        return compiled, given + made + m.temp_size_in_bytes

    compiled, memory = program(np.float64)
    _, complex_memory = program(np.complex64)
    shapes = re.findall(r"= (.*) all-reduce\(", compiled.as_text())
    sizes = [
        math.prod(int(n) for n in size.split(",") if n)
        for shape in shapes
        for size in re.findall(r"f64\[([\d,]*)\]", shape)
    ]
    return {
        "memory": memory,
        "copies": complex_memory * devices / (8 * ROWS * COLUMNS),
        "sent": 8 * sum(sizes),
    }


# PyTorch: the most memory that a process held, beyond what it began with.


def with_torch(devices: int) -> dict[str, Any]:
    """Ask the first of the processes."""
    import torch

    import svdinv.torch  # noqa: F401 - once, before the processes are forked

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = devices, f"{folder}/group", f"{folder}/found.json"
        torch.multiprocessing.start_processes(
            _torch_process, arguments, devices, start_method="fork"
        )
        return json.loads(Path(arguments[-1]).read_text())


def _torch_process(rank: int, devices: int, group: str, found: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.utils._python_dispatch import TorchDispatchMode

    import svdinv.torch

    class Sent(TorchDispatchMode):
        """Counts the bytes that all-reduces are given."""

        bytes = 0

        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            if "DTensor" in str(types):
                return NotImplemented
            if "all_reduce" in str(f):
                Sent.bytes += args[0].numel() * args[0].element_size()
            return f(*args, **(kwargs or {}))

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{group}", rank=rank, world_size=devices
    )
    mesh = init_device_mesh("cpu", (devices,))

    def step(rows: int) -> tuple[float, float]:
        torch.manual_seed(rank)
        local = torch.randn(rows // devices, COLUMNS, dtype=torch.float64)
        A = DTensor.from_local(local, mesh, [Shard(0)]).requires_grad_()
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        Y = svdinv.torch.svt(A, 400.0, method="gram")
        (gA,) = torch.autograd.grad(Y, A, Y.detach())
        seconds = time.process_time() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        del gA
        # With the matrix itself, which was there before.
        held = 1024 * (after.ru_maxrss - before.ru_maxrss)
        return held + local.numel() * local.element_size(), seconds

    step(64 * devices)  # what is set up once
    memory, _ = step(ROWS)
    seconds = min(step(ROWS)[1] for _ in range(3))
    with Sent():
        step(64 * devices)  # the bytes do not depend on the number of rows
    if rank == 0:
        result = {"memory": memory, "seconds": seconds, "sent": Sent.bytes}
        Path(found).write_text(json.dumps(result))
    dist.destroy_process_group()


# The prediction.


@dataclass(frozen=True)
class Machine:
    """What one device does, and what joins them."""

    rate: float  # real floating point operations a second, in products
    eigh: float  # seconds for the eigenvectors of one n x n matrix
    bandwidth: float  # bytes a second, of one device
    latency: float  # seconds for one message


@dataclass(frozen=True)
class Series:
    """A Casorati matrix in complex64."""

    voxels: int = 256 * 192 * 96
    frames: int = 500

    @property
    def bytes(self) -> int:
        return 8 * self.voxels * self.frames

    @property
    def operations(self) -> float:
        """Of `svt` and its gradient: seven products, each four real ones.

        N and A V in double precision, which counts twice, and U diag(f(s)) V^H; back
        X V, U^H (X V), and one with U and one with V^H.
        """
        return 9 * 4 * 2 * self.voxels * self.frames**2


def all_reduce(size: int, devices: int, machine: Machine) -> float:
    """Seconds of a ring: R. Thakur, R. Rabenseifner and W. Gropp, 2005."""
    if devices == 1:
        return 0.0
    share = (devices - 1) / devices
    return 2 * share * size / machine.bandwidth + 2 * (devices - 1) * machine.latency


def predict(devices: int, series: Series, machine: Machine) -> dict[str, float]:
    """Seconds of a forward and a backward pass."""
    gram = 16 * series.frames**2  # in double precision
    return {
        "products": series.operations / devices / machine.rate,
        "eigh": machine.eigh,
        "sent": 2 * all_reduce(gram, devices, machine),
    }


def measured() -> tuple[float, float]:
    """Operations a second of one core, and seconds of the eigenvectors."""
    rng = np.random.default_rng(0)
    m, n = 8192, Series().frames
    A = rng.standard_normal((m, n, 2)).astype(np.float32).view(np.complex64)[..., 0]
    N = (A.conj().T @ A).astype(np.complex128)

    def least(f: Any, repeats: int = 5) -> float:
        found = []
        for _ in range(repeats):
            start = time.process_time()
            f()
            found.append(time.process_time() - start)
        return min(found)

    seconds = least(lambda: A.conj().T @ A)
    return 8 * m * n**2 / seconds, least(lambda: np.linalg.eigh(N))


def with_rates(devices: int) -> dict[str, Any]:
    """Measure with one thread."""
    rate, eigh = measured()
    return {"rate": rate, "eigh": eigh}


def prediction(cores: int, bandwidth: float, latency: float) -> str:
    """Table of the prediction, and what it rests on."""
    core = run("rates", 1)
    machine = Machine(cores * core["rate"], core["eigh"], bandwidth, latency)
    series = Series()
    one = sum(predict(1, series, machine).values())
    copies = run("jax", max(COUNTS))["copies"]
    lines = [
        "| devices | memory of each | products | eigenvectors | all-reduces | in all "
        "| speed-up |",
        "|---|---|---|---|---|---|---|",
    ]
    for devices in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        t = predict(devices, series, machine)
        total = sum(t.values())
        memory = copies * series.bytes / devices / 1e9
        lines.append(
            f"| {devices} | {memory:.3g} GB | {t['products']:.3g} s "
            f"| {t['eigh']:.2g} s | {1e3 * t['sent']:.3g} ms | {total:.3g} s "
            f"| {one / total:.3g} |"
        )
    basis = (
        f"A device is a workstation of {cores} cores, each with the "
        f"{core['rate'] / 1e9:.0f} · 10⁹ operations a second that one core of this "
        f"machine was measured to do in a product of complex64 matrices; the "
        f"eigenvectors take the {core['eigh']:.2f} s that one core was measured to "
        f"take. The network has {bandwidth / 1e9:g} GB/s for each device and a latency "
        f"of {1e6 * latency:g} µs: assumed, as of 100 Gbit/s Ethernet. Memory is "
        f"{copies:.1f} times the matrix, as JAX's compiler reserves for complex64 with "
        "the Gram matrix in double precision."
    )
    return "\n".join([*lines, "", basis, ""])


def measurement() -> str:
    """Table of memory, bytes and processor time."""
    bound = 2 * 8 * COLUMNS**2
    lines = [
        "| devices | JAX: memory of each | sent | PyTorch: memory of each | sent | "
        "processor time of each |",
        "|---|---|---|---|---|---|",
    ]
    for devices in COUNTS:
        jax, torch = run("jax", devices), run("torch", devices)
        lines.append(
            f"| {devices} | {jax['memory'] / 2**20:.1f} MiB | {jax['sent']} B "
            f"| {torch['memory'] / 2**20:.0f} MiB | {torch['sent']} B "
            f"| {torch['seconds']:.2f} s |"
        )
        print(lines[-1], flush=True)
    size = 8 * ROWS * COLUMNS / 2**20
    note = (
        f"`svt` and its gradient of a {ROWS} × {COLUMNS} matrix in float64, which "
        f"itself takes {size:.0f} MiB. *Sent* is what each device gives to "
        f"all-reduces; the bound 2 n² times 8 bytes is {bound} B."
    )
    return "\n".join([*lines, "", note, ""])


PARTS = {"jax": with_jax, "torch": with_torch, "rates": with_rates}


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=16, help="cores of a workstation")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes/s")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.devices)))
        return
    table = prediction(given.cores, given.bandwidth, given.latency)
    (FIGURES / "sharded-prediction.txt").write_text(table, encoding="utf-8")
    print(table)
    table = measurement()
    (FIGURES / "sharded-measured.txt").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
