"""What four processes make of a DTensor, as JSON: run by test_sharded.py."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.debug import CommDebugMode

import svdinv.torch

DEVICES = 4
ROWS, BATCHED, LAST, BOTH = [Shard(0)], [Shard(1)], [Shard(-1)], [Shard(0), Shard(1)]


def spectrum(shape, values, dtype=torch.float64):
    Q, _ = torch.linalg.qr(torch.randn(*shape, dtype=dtype))
    V, _ = torch.linalg.qr(torch.randn(shape[-1], shape[-1], dtype=dtype))
    return (Q * torch.as_tensor(values, dtype=dtype)) @ V.mH


def cases():
    """Give for each case a function, a matrix, the placements, and parameters."""
    torch.manual_seed(0)
    o = svdinv.torch
    A = torch.randn(41, 5, dtype=torch.float64)  # not a multiple of the processes
    A[0] = 0
    C = torch.randn(40, 5, dtype=torch.complex64)
    repeated = spectrum((40, 5), [3, 3, 1, 1, 1])
    # Kept values far below what one Gram matrix resolves.
    steep = spectrum((40, 5), [1, 1e-3, 1e-9, 1e-11, 1e-12])
    batch = torch.randn(3, 40, 5, dtype=torch.float64)
    tau = torch.tensor(2.0, requires_grad=True)
    taus = torch.tensor([1.0, 2, 3], dtype=torch.float64, requires_grad=True)
    yield "svt", lambda A: o.svt(A, tau), A, ROWS, tau
    yield "svt, complex", lambda A: o.svt(A, tau), C, ROWS, tau
    yield "svt, repeated", lambda A: o.svt(A, 0.5), repeated, ROWS
    yield "svt, small", lambda A: o.svt(A, 1e-12), steep, ROWS
    yield "svt, wide", lambda A: o.svt(A, 3.0), A.mT.contiguous(), LAST
    yield "svt, batch", lambda A: o.svt(A, taus), batch, BATCHED, taus
    yield "svt, over the batch", lambda A: o.svt(A, 2.0), batch.repeat(2, 1, 1), ROWS
    yield "svt, mesh", lambda A: o.svt(A, 2.0), batch[:2], BOTH
    yield "nuclear norm", o.nuclear_norm, A, ROWS
    yield "low rank", lambda A: o.low_rank(A, 2), A, ROWS
    yield "pinv", lambda A: o.pinv(A).mT, A, ROWS
    yield "whiten", lambda A: o.whiten(A)[0], A, ROWS
    # The loss below sees no more of an orthogonal matrix than that.
    yield "procrustes", lambda A: 1 + o.procrustes(A, A * A), A, ROWS
    yield "kabsch", lambda A: 1 + o.kabsch(A, A * A).rotation, A, ROWS


def sent(comm):
    return {str(name).split(".")[-1]: n for name, n in comm.get_comm_counts().items()}


def compare(meshes, f, A, placements, *free):
    """Give errors beside one device, placements, and the collectives."""
    mesh = meshes[len(placements) - 1]
    one = A.clone().requires_grad_()
    y = f(one)
    weights = torch.linspace(1, 2, y.numel(), dtype=y.real.dtype).reshape(y.shape)
    gA, *gfree = torch.autograd.grad((y.abs() ** 2 * weights).sum(), [one, *free])

    many = distribute_tensor(A, mesh, placements).requires_grad_()
    with CommDebugMode() as forward:
        Y = f(many)
    whole = [Replicate()] * mesh.ndim
    spread = distribute_tensor(weights, mesh, Y.placements)
    total = (Y.abs() ** 2 * spread).sum().redistribute(placements=whole)
    with CommDebugMode() as backward:
        GA, *Gfree = torch.autograd.grad(total, [many, *free])

    def error(X, x):
        X = X.full_tensor() if isinstance(X, DTensor) else X
        return float(((X - x).abs().max() / x.abs().max()).detach())

    return {
        "value": error(Y, y),
        "gradient": max(map(error, [GA, *Gfree], [gA, *gfree])),
        "placements": [str(Y.placements), str(GA.placements)],
        "given": str(many.placements),
        "forward": sent(forward),
        "backward": sent(backward),
        "eps": torch.finfo(A.dtype).eps,
    }


def refused(mesh):
    """Give what is said where nothing can be done."""
    A = distribute_tensor(torch.randn(8, 6), mesh, ROWS)
    summands = DTensor.from_local(torch.ones(8, 6), mesh, [Partial()])
    o = svdinv.torch
    attempts = {
        "svd": lambda: o.svd(A),
        "square": lambda: o.polar(distribute_tensor(torch.eye(8), mesh, ROWS)),
        "method svd": lambda: o.svt(A, 1.0, method="svd"),
        "rows of a wide matrix": lambda: o.svt(A.mT.redistribute(placements=ROWS), 1.0),
        "partial": lambda: o.svt(summands, 1.0),
        "svd_lowrank": lambda: o.svd_lowrank(A, 2),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            said[name] = repr(attempt())
        except ValueError as error:
            said[name] = f"ValueError: {error}"
    return said


def printed(mesh):
    """Print a module whose thresholds are spread over the devices, by fully_shard."""
    module = svdinv.torch.nn.SingularValueThreshold(0.3, channels=2 * DEVICES)
    fully_shard(module, mesh=mesh)
    module(torch.randn(1, 2 * DEVICES, 4, 3)).sum().backward()
    return repr(module)


def work(rank, path, results):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=DEVICES
    )
    mesh = init_device_mesh("cpu", (DEVICES,))
    meshes = mesh, init_device_mesh("cpu", (2, DEVICES // 2))
    compared = {name: compare(meshes, f, *given) for name, f, *given in cases()}
    found = {"cases": compared, "refused": refused(mesh)}
    found["printed"] = printed(mesh)
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        arguments = f"{folder}/group", sys.argv[1]
        # Forked, so that PyTorch is imported once.
        torch.multiprocessing.start_processes(
            work, arguments, DEVICES, start_method="fork"
        )
