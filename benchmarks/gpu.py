"""Operators on a GPU, beside the same composed of the framework's own SVD.

Forward and backward, each waited for, and run in turns; CuPy's SVD without a gradient,
which CuPy has not. Writes docs/figures/speed-gpu.txt::

    python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

FIGURE = HERE.parent / "docs" / "figures" / "speed-gpu.txt"
SHAPES = (
    *((1000, 8, 8), (384, 32, 32), (32, 64, 64), (200, 64, 64)),
    *((36864, 18), (4, 2048, 64), (3, 512, 512), (1024, 1024)),
)
# JAX compiles for seconds.
FEW = (SHAPES[1], SHAPES[2], SHAPES[6])
RATIO, SECONDS, MOST = 0.3, 0.2, 20

Run = Callable[[], object]


def composed(svd: Callable[[Any], Any], relu: Callable[[Any], Any]) -> Any:
    """Soft thresholding as one writes it with a framework's own SVD."""

    def svt(A: Any) -> Any:
        U, S, Vh = svd(A)
        return (U * relu(S - RATIO * S[..., :1])[..., None, :]) @ Vh

    return svt


def torch_runs(shape: tuple[int, ...]) -> Iterator[tuple[str, Run, Run]]:
    """Forward and backward in PyTorch."""
    import torch

    import svdinv.torch as st

    def own_svd(A: Any) -> Any:
        return torch.linalg.svd(A, full_matrices=False)

    pairs: dict[str, tuple[Any, Any]] = {
        "svt": (
            composed(own_svd, torch.relu),
            lambda A: st.svt(A, RATIO, relative=True),
        ),
        "svd": (own_svd, lambda A: tuple(st.svd(A))),
        "nuclear_norm": (lambda A: torch.linalg.matrix_norm(A, "nuc"), st.nuclear_norm),
        "pinv": (torch.linalg.pinv, st.pinv),
    }

    def ready(f: Any) -> Run:
        A = torch.randn(
            shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0)
        ).requires_grad_()
        y = f(A)
        outputs = tuple(y) if isinstance(y, tuple) else (y,)
        given = [torch.ones_like(t) for t in outputs]

        def run() -> None:
            y = f(A)
            torch.autograd.grad(tuple(y) if isinstance(y, tuple) else (y,), A, given)
            torch.cuda.synchronize()

        return run

    for name, (own, ours) in pairs.items():
        yield f"PyTorch {name}", ready(own), ready(ours)


def jax_runs(shape: tuple[int, ...]) -> Iterator[tuple[str, Run, Run]]:
    """Forward and backward in JAX, in one program."""
    import jax
    import jax.numpy as jnp

    import svdinv.jax as sj

    A = jax.random.normal(jax.random.key(0), shape)

    def own_svd(A: Any) -> Any:
        return jnp.linalg.svd(A, full_matrices=False)

    def ready(f: Any) -> Run:
        both = jax.jit(jax.value_and_grad(lambda A: (f(A) ** 2).sum()))
        return lambda: jax.block_until_ready(both(A))

    own = ready(composed(own_svd, jax.nn.relu))
    for method in ("auto", "gram", "matmul"):

        def svt(A: Any, method: Any = method) -> Any:
            return sj.svt(A, RATIO, relative=True, method=method)

        yield f"JAX svt, {method}", own, ready(svt)


def cupy_runs(shape: tuple[int, ...]) -> Iterator[tuple[str, Run, Run]]:
    """Forward alone in CuPy."""
    import cupy

    import svdinv.cupy as sc

    A = cupy.random.default_rng(0).standard_normal(shape, dtype=cupy.float32)

    def ready(f: Any) -> Run:
        def run() -> None:
            f(A)
            cupy.cuda.Device().synchronize()

        return run

    own = ready(lambda A: cupy.linalg.svd(A, full_matrices=False))
    yield "CuPy svd, no gradient", own, ready(sc.svd)


def clock(run: Run) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(own: Run, ours: Run) -> tuple[float, float]:
    """Medians of both, in seconds, run in turns."""
    for run in (own, ours):
        run()
    once = clock(own) + clock(ours)
    rounds = max(5, min(MOST, int(SECONDS / once)))
    times = [(clock(own), clock(ours)) for _ in range(rounds)]
    one, other = zip(*times, strict=True)
    return median(one), median(other)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    names = ["×".join(map(str, shape)) for shape in SHAPES]
    rows: dict[str, dict[str, str]] = {}
    for runs, shapes in ((torch_runs, SHAPES), (cupy_runs, SHAPES), (jax_runs, FEW)):
        for shape in shapes:
            for name, own, ours in runs(shape):
                one, other = compare(own, ours)
                cell = f"{one / other:.2f} ({other * 1e3:.1f})"
                rows.setdefault(name, {})["×".join(map(str, shape))] = cell
                print(name, shape, f"{one * 1e3:.2f} ms / {other * 1e3:.2f} ms")
        lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        lines += [
            f"| {name} | {' | '.join(cells.get(shape, '') for shape in names)} |"
            for name, cells in rows.items()
        ]
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
