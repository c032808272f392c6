"""One matrix: svdinv beside PyTorch's own decompositions, where Python counts.

Forward and backward, and without gradients, in turns in one thread. What is measured is
the processor's time of that thread, so that other processes disturb it little. Writes
docs/figures/speed-one-matrix.txt and, of medium size, speed-medium-matrix.txt::

    python benchmarks/one_matrix.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import svdinv.torch

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SIDES = (2, 4, 8, 16, 32)
MEDIUM = (
    *((33, 33), (64, 64), (100, 100), (200, 200)),
    *((1000, 8), (500, 16), (5000, 3), (1000, 64), (5000, 100)),
)


def own_svt(A: torch.Tensor) -> torch.Tensor:
    """Soft threshold as one writes it with PyTorch."""
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    return (U * (S - 0.5).clamp(min=0)[..., None, :]) @ Vh


def own_polar(A: torch.Tensor) -> torch.Tensor:
    """Polar factor as one writes it with PyTorch."""
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return U @ Vh


OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "svd": (lambda A: torch.linalg.svd(A, full_matrices=False), svdinv.torch.svd),
    "svt": (own_svt, lambda A: svdinv.torch.svt(A, 0.5)),
    "polar": (own_polar, svdinv.torch.polar),
    "eigh": (torch.linalg.eigh, svdinv.torch.eigh),
}


def step(f: Callable[..., Any], A: torch.Tensor) -> Callable[[], Any]:
    """Forward, and backward with random cotangents if A asks for a gradient."""
    if not A.requires_grad:
        return lambda: f(A)

    def outputs() -> tuple[torch.Tensor, ...]:
        y = f(A)
        return y if isinstance(y, tuple) else (y,)

    g = [torch.randn_like(y) for y in outputs()]
    return lambda: torch.autograd.grad(outputs(), A, g)


def seconds(run: Callable[[], Any], count: int) -> float:
    """Time of the processor for one run."""
    start = time.thread_time()
    for _ in range(count):
        run()
    return (time.thread_time() - start) / count


def compare(
    functions: tuple[Callable[..., Any], Callable[..., Any]],
    A: torch.Tensor,
    gradient: bool,
    rounds: int,
) -> tuple[float, float]:
    """Median times of PyTorch's own and of svdinv's, in microseconds."""
    A = A.requires_grad_(gradient)
    runs = [step(f, A) for f in functions]
    for run in runs:
        seconds(run, 3)
    count = max(1, min(100, int(0.02 / seconds(runs[0], 5))))
    times = [[seconds(run, count) for run in runs] for _ in range(rounds)]
    own, ours = (1e6 * statistics.median(t) for t in zip(*times, strict=True))
    return own, ours


def small(rounds: int) -> Iterator[str]:
    """Lines of the table of four operators of small matrices."""
    yield f"| | {' | '.join(f'{n}×{n}' for n in SIDES)} |"
    yield "|---" * (1 + len(SIDES)) + "|"
    for gradient in (True, False):
        for name in OPERATORS:
            cells = []
            for side in SIDES:
                A = torch.randn(side, side)
                A = A + A.mT if name == "eigh" else A
                own, ours = compare(OPERATORS[name], A, gradient, rounds)
                cells.append(f"{own / ours:.2f} ({ours:.0f} µs)")
            what = "" if gradient else ", no gradient"
            yield f"| `{name}`{what} | {' | '.join(cells)} |"


def medium(rounds: int) -> Iterator[str]:
    """Lines of the table of `svt` of larger ones, with tau an eighth of s_1."""
    yield f"| | {' | '.join(f'{m}×{n}' for m, n in MEDIUM)} |"
    yield "|---" * (1 + len(MEDIUM)) + "|"
    for dtype in (torch.float32, torch.float64):
        for gradient in (True, False):
            cells = []
            for shape in MEDIUM:
                A = torch.randn(shape, dtype=dtype)
                A *= 4 / torch.linalg.matrix_norm(A, 2)
                own, ours = compare(OPERATORS["svt"], A, gradient, rounds)
                cells.append(f"{own / ours:.2f}")
            what = "" if gradient else ", no gradient"
            name = str(dtype).removeprefix("torch.")
            yield f"| {name}{what} | {' | '.join(cells)} |"


def write(
    about: str | None, rounds: int, tables: dict[str, Callable[[int], Iterator[str]]]
) -> None:
    """Write tables to docs/figures by their names, or with ``--quick`` none."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="two rounds, no file")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, table in tables.items():
        lines = []
        for line in table(2 if quick else rounds):
            print(line, flush=True)
            lines.append(line)
        if not quick:
            text = "\n".join(lines) + "\n"
            (FIGURES / f"speed-{name}.txt").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the tables of ratios."""
    write(__doc__, 30, {"one-matrix": small, "medium-matrix": medium})


if __name__ == "__main__":
    main()
