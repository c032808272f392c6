"""Decompositions of a batch of small matrices on all of the CPU's cores.

PyTorch runs LAPACK over a batch in one thread, and releases Python's lock meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from svdinv.core.operation import Operation, rebuilt

__all__ = ["chunked", "is_eager_cpu", "threaded"]

# LAPACK itself takes several threads for matrices larger than this.
_LARGEST = 128
# Size, batch m n min(m, n), below which OpenMP's threads, which spin for a while after
# each call, hold up the others for longer than these help.
_LEAST = 12_000_000

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    key = os.getpid(), threads  # threads do not survive a fork
    if key not in _pools:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="svdinv")
        started, before = Barrier(threads), torch.get_num_threads()

        def start() -> None:
            # LAPACK in each of them would start threads of its own otherwise. To
            # ask first is what keeps PyTorch from setting the number anew later.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        for future in [pool.submit(start) for _ in range(threads)]:
            future.result()
        torch.set_num_threads(before)  # for threads to come, too
        _pools[key] = pool
    return _pools[key]


def _threads(A: Tensor) -> int:
    """How many threads are worth their while: 1 if the batch cannot be split."""
    if not is_eager_cpu(A) or A.ndim < 3 or max(A.shape[-2:]) > 16 * _LARGEST:
        return 1
    short = min(A.shape[-2:])
    if short > _LARGEST or A.numel() * short < _LEAST:
        return 1
    return min(torch.get_num_threads(), A.shape[:-2].numel() // 8)


def threaded(
    decompose: Callable[[Tensor], tuple[Tensor, ...]], A: Tensor
) -> tuple[Tensor, ...]:
    """Decompose A, shape (..., m, n), parts of its batch in threads of their own.

    As many threads as `torch.get_num_threads` allows.
    """
    threads = _threads(A)
    if threads < 2:
        return tuple(decompose(A))
    batch = A.shape[:-2]

    def run(part: Tensor) -> Any:
        with torch.no_grad():  # grad mode belongs to a thread
            return decompose(part)

    def joined(pieces: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            return torch.cat(pieces)

    pool = _pool(threads)
    try:
        parts = list(pool.map(run, A.flatten(0, -3).chunk(threads)))
    except torch.linalg.LinAlgError:
        return tuple(decompose(A))  # so that it names the matrix in the whole batch
    # Joined there, too: OpenMP's threads, once called, spin and hold up the pool's.
    whole = pool.map(joined, zip(*parts, strict=True))
    return tuple(x.unflatten(0, batch) for x in whole)


# Elements of an array that stays in a cache: what is larger costs more to allocate
# than to compute.
_CHUNK = 2**16


def chunked(
    operation: Operation, x: tuple[Tensor | None, ...], xp: Any
) -> tuple[Any, ...] | None:
    """Compute an operation on chunks of a batch of small matrices, one after another.

    Parameters
    ----------
    operation : Operation
        One that says it may be computed in chunks.
    x : tuple of Tensor or None
        The first is a batch of matrices, shape (..., m, n); the others have the same
        batch axes. None is passed on.
    xp : namespace
        Array namespace.

    Returns
    -------
    tuple of Tensor or None
        With the batch axes of the arrays; None where chunks are not worth their while,
        or the results of two chunks differ in kind.
    """
    A = x[0]
    if (
        not operation.chunkable
        or A is None
        or A.ndim < 3
        or not all(map(is_eager_cpu, x))
    ):
        return None
    batch = A.shape[:-2]
    size = max(_CHUNK // max(A.shape[-2:].numel(), 1), 1)
    count = -(-batch.numel() // size)
    if size < 32 or count < 2:
        return None
    size = -(-batch.numel() // count)  # all of about one size
    axes = len(batch)
    flat = [t if t is None else t.reshape(-1, *t.shape[axes:]) for t in x]
    parts = [
        [t if t is None else t[i * size : (i + 1) * size] for t in flat]
        for i in range(count)
    ]

    def run(part: list[Tensor | None]) -> tuple[Any, ...]:
        with torch.no_grad():  # grad mode belongs to a thread
            return operation.value(part, xp)

    large = A.numel() * min(A.shape[-2:]) >= _LEAST
    # Decompositions release Python's lock for long; nothing else gains by threads.
    split = operation.decomposes and large
    threads = min(torch.get_num_threads(), count) if split else 1
    each = map(run, parts) if threads < 2 else _pool(threads).map(run, parts)
    try:
        results = list(each)
    except torch.linalg.LinAlgError:
        return None  # for the whole batch, whose indices an error should name
    if len({type(result) for result in results}) != 1:
        return None  # one chunk came from a Gram matrix, another from an SVD
    whole = [
        None if pieces[0] is None else torch.cat(pieces).unflatten(0, batch)
        for pieces in zip(*results, strict=True)
    ]
    return rebuilt(results[0], whole)


def is_eager_cpu(x: Tensor | None) -> bool:
    """Tell whether an array holds numbers that any thread may read."""
    return x is None or (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and torch._C._functorch.peek_interpreter_stack() is None
        # What traces or watches one thread does not see the others.
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
    )
