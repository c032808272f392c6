"""What `method="auto"` costs beside `"svd"`: `svt` of matrices that kernels leave.

Ratios of the two, without and with a gradient, in PyTorch on one thread, in that
thread's own time, in turns: above 1 `auto` is faster. The spectra are those of random
numbers, of values that decay to 1e-3, and of low rank plus noise; tau is low or high
relative to the largest value, so that every way of `auto` is taken, and the Gram
matrix asked for in vain. Writes docs/figures/speed-auto.txt::

    python benchmarks/auto.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

import svdinv.torch

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
SHAPES = [
    *((300, 50), (400, 64), (1000, 64), (200, 100), (1000, 100), (2000, 128)),
    *((4000, 128), (128, 128), (256, 256), (400, 200), (600, 300), (4, 300, 50)),
]
TAUS = 0.05, 0.3
DTYPES = torch.float32, torch.float64, torch.complex64


def spectra(k: int) -> dict[str, torch.Tensor]:
    """Singular values from 1 downwards, float64, of shape (k,)."""
    return {
        "decay": torch.logspace(0, -3, k, dtype=torch.float64),
        "low rank and noise": torch.full((k,), 0.01, dtype=torch.float64).index_fill_(
            0, torch.arange(max(k // 8, 1)), 1.0
        ),
    }


def matrices(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Matrices of each spectrum, their largest singular value about 1."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    A = torch.randn(shape, dtype=wide)
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    made = {"random": A / S.amax()}
    made |= {name: (U * s) @ Vh for name, s in spectra(min(shape[-2:])).items()}
    return {name: B.to(dtype).contiguous() for name, B in made.items()}


def ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Quotient of the least times of two functions, called in turns."""
    best = [float("inf")] * 2
    count = 1
    for turn in range(8):
        for which, f in enumerate((first, second)):
            start = time.thread_time()
            for _ in range(count):
                f()
            seconds = (time.thread_time() - start) / count
            if turn:  # the first warms up
                best[which] = min(best[which], seconds)
            else:
                count = max(count, min(60, int(0.02 / seconds)))
    return best[0] / best[1]


def step(A: torch.Tensor, tau: float, method: str) -> Callable[[], object]:
    """Make a call of the threshold, and of its gradient if A asks for one."""
    G = torch.randn_like(A)

    def run() -> object:
        Y = svdinv.torch.svt(A, tau, method=method)
        return torch.autograd.grad(Y, A, G) if A.requires_grad else Y

    return run


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three shapes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = ["matrix", "values", *(f"tau = {tau:g}" for tau in TAUS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for dtype in DTYPES[: 1 if quick else None]:
        for shape in SHAPES[: 3 if quick else None]:
            for name, A in matrices(shape, dtype).items():
                cells = []
                for tau in TAUS:
                    pair = [
                        ratio(step(B, tau, "svd"), step(B, tau, "auto"))
                        for B in (A, A.clone().requires_grad_())
                    ]
                    cells.append(" / ".join(f"{value:.2f}" for value in pair))
                size = "×".join(map(str, shape))
                lines.append(
                    f"| {size} {str(dtype)[6:]} | {name} | {' | '.join(cells)} |"
                )
                print(lines[-1], flush=True)
    if not quick:
        (FIGURES / "speed-auto.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
