"""Decompositions of batches of small matrices: every library on one core.

Microseconds for each matrix, of the thin SVD with vectors alone, and with the gradient
of a loss in all three factors. Each library runs in a process of its own that is bound
to one processor, and what is counted is that process's time. Writes
docs/figures/speed-batches.txt::

    python benchmarks/batches.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
ROWS = [
    *((10000, n, n, "float32") for n in (2, 3, 4, 8)),
    *((10000, n, n, "float64") for n in (3, 8)),
    (10000, 8, 8, "complex64"),
    *((1000, 16, 16, dtype) for dtype in ("float32", "float64", "complex64")),
    *((384, 32, 32, dtype) for dtype in ("float32", "float64", "complex64")),
    *((64, 64, 64, dtype) for dtype in ("float32", "float64")),
]
Steps = tuple[Callable[[], Any], Callable[[], Any] | None]


def matrices(batch: int, m: int, n: int, dtype: str) -> np.ndarray:
    """Draw normal matrices."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((batch, m, n))
    if dtype.startswith("complex"):
        A = A + 1j * rng.standard_normal(A.shape)
    return A.astype(dtype)


def with_numpy(A: np.ndarray) -> Steps:
    """LAPACK in a loop in C."""
    return lambda: np.linalg.svd(A, full_matrices=False), None


def with_scipy(A: np.ndarray) -> Steps:
    """LAPACK in SciPy's loop."""
    import scipy.linalg

    return lambda: scipy.linalg.svd(A, full_matrices=False), None


def with_torch(A: np.ndarray, svd: Any = None) -> Steps:
    """PyTorch's own, or another `svd` of its tensors."""
    import torch

    svd = svd or (lambda A: torch.linalg.svd(A, full_matrices=False))
    x = torch.from_numpy(A)
    y = x.clone().requires_grad_()
    torch.manual_seed(0)
    cotangents = [torch.randn_like(part) for part in svd(x)]
    if x.is_complex():  # PyTorch refuses what depends on the phases of the vectors
        cotangents = [part + 0 for part in svd(x)]
    return lambda: svd(x), lambda: torch.autograd.grad(tuple(svd(y)), y, cotangents)


def with_svdinv(A: np.ndarray) -> Steps:
    """Call the kernels, by svdinv.torch."""
    import svdinv.torch

    return with_torch(A, svdinv.torch.svd)


def with_jax(A: np.ndarray) -> Steps:
    """JAX under jit."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    x = jnp.asarray(A)
    run = jax.jit(lambda A: jnp.linalg.svd(A, full_matrices=False))
    g = run(x)
    pull = jax.jit(lambda A, g: jax.vjp(run, A)[1](g)[0])
    return lambda: jax.block_until_ready(run(x)), lambda: pull(x, g).block_until_ready()


def with_tensorflow(A: np.ndarray) -> Steps:
    """TensorFlow in a graph, which calls Eigen."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    x = tf.constant(A)
    run = tf.function(tf.linalg.svd)
    g = run(x)

    @tf.function
    def pull(x: Any, g: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.linalg.svd(x)
        return tape.gradient(y, x, output_gradients=g)

    return lambda: run(x), lambda: pull(x, g).numpy()


LIBRARIES = {
    "svdinv": with_svdinv,
    "NumPy": with_numpy,
    "SciPy": with_scipy,
    "PyTorch": with_torch,
    "JAX": with_jax,
    "TensorFlow": with_tensorflow,
}


def microseconds(run: Callable[[], Any], batch: int, rounds: int) -> float:
    """Median of the time for one matrix."""
    times = []
    run()
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e6 * statistics.median(times) / batch


def work(library: str, rounds: int) -> None:
    """Print, as JSON, the time of each row without and with a gradient."""
    found = []
    for *shape, dtype in ROWS:
        steps = LIBRARIES[library](matrices(*shape, dtype))
        found.append([run and microseconds(run, shape[0], rounds) for run in steps])
    print(json.dumps(found))


def main() -> None:
    """Run every library, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, no file")
    parser.add_argument("--library", choices=LIBRARIES)
    options = parser.parse_args()
    rounds = 1 if options.quick else 7
    if options.library:
        work(options.library, rounds)
        return
    command = [sys.executable, __file__, *(["--quick"] if options.quick else [])]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def bound() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])

    times = {
        library: json.loads(
            subprocess.run(
                [*command, "--library", library],
                env={**os.environ, **one, "TF_CPP_MIN_LOG_LEVEL": "3"},
                preexec_fn=bound,
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for library in LIBRARIES
    }
    head = " | ".join(LIBRARIES)
    lines = [f"| | {head} |", "|---" * (len(LIBRARIES) + 1) + "|"]
    for index, (batch, m, n, dtype) in enumerate(ROWS):
        cells = [
            " / ".join("–" if x is None else f"{x:.3g}" for x in times[library][index])
            for library in LIBRARIES
        ]
        lines.append(f"| {batch}×{m}×{n} {dtype} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        (FIGURES / "speed-batches.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
