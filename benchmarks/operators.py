"""Other operators beside the same composed of `torch.linalg`, single and in batches.

And some of them where `torch.compile` compiles both. Measured as by one_matrix.py.
Writes docs/figures/speed-operators.txt and speed-compiled.txt::

    python benchmarks/operators.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from one_matrix import OPERATORS as DECOMPOSITIONS
from one_matrix import compare, write
from torch import Tensor, linalg

import svdinv.torch as st

SHAPES = ((8, 8), (1000, 8, 8), (64, 64, 16), (384, 32, 32))
RANK, LEVEL, DAMPING = 3, 2.0, 0.5


def composed(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """U diag(f(S)) V^H as one writes it with PyTorch."""

    def map_values(A: Tensor) -> Tensor:
        U, S, Vh = linalg.svd(A, full_matrices=False)
        return (U * f(S)[..., None, :]) @ Vh

    return map_values


def own_low_rank(A: Tensor) -> Tensor:
    """Best approximation of a rank."""
    U, S, Vh = linalg.svd(A, full_matrices=False)
    return (U[..., :RANK] * S[..., None, :RANK]) @ Vh[..., :RANK, :]


def right_side(A: Tensor) -> Tensor:
    """Right-hand side of least squares that depends on the shape of A alone."""
    return torch.linspace(-1, 1, A.shape[-2]).expand(A.shape[:-1])[..., None]


def own_damped(A: Tensor) -> Tensor:
    """Damped least squares by the normal equations, which lose half the digits."""
    M = A.mT @ A + DAMPING**2 * torch.eye(A.shape[-1])
    return linalg.solve(M, A.mT @ right_side(A))


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "svdvals": (linalg.svdvals, st.svdvals),
    "nuclear_norm": (lambda A: linalg.matrix_norm(A, "nuc"), st.nuclear_norm),
    "spectral_norm": (lambda A: linalg.matrix_norm(A, 2), st.spectral_norm),
    "low_rank": (own_low_rank, lambda A: st.low_rank(A, RANK)),
    "svht": (composed(lambda S: S * (S > LEVEL)), lambda A: st.svht(A, LEVEL)),
    "pinv": (linalg.pinv, st.pinv),
    "lstsq": (
        lambda A: linalg.pinv(A) @ right_side(A),
        lambda A: st.lstsq(A, right_side(A)),
    ),
    "lstsq, damped": (
        own_damped,
        lambda A: st.lstsq(A, right_side(A), damping=DAMPING),
    ),
    "spectral_map": (composed(torch.tanh), lambda A: st.spectral_map(A, torch.tanh)),
}


def table(rounds: int) -> Iterator[str]:
    """Lines of the table: how many times as long PyTorch takes as svdinv."""
    names = ["×".join(map(str, shape)) for shape in SHAPES]
    columns = [*names, *(f"{name}, no gradient" for name in names)]
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, functions in OPERATORS.items():
        cells = []
        for gradient in (True, False):
            for shape in SHAPES:
                own, ours = compare(functions, torch.randn(shape), gradient, rounds)
                cells.append(f"{own / ours:.2g}")
        yield f"| `{name}` | {' | '.join(cells)} |"


def compiled(rounds: int) -> Iterator[str]:
    """Lines of the table of compiled functions: the ratios, and times by svdinv."""
    yield f"| | {' | '.join('×'.join(map(str, shape)) for shape in SHAPES)} |"
    yield "|---" * (1 + len(SHAPES)) + "|"
    chosen = {name: DECOMPOSITIONS[name] for name in ("svd", "svt")}
    chosen |= {name: OPERATORS[name] for name in ("low_rank", "nuclear_norm")}
    for name, (theirs, mine) in chosen.items():
        cells = []
        for shape in SHAPES:
            torch.compiler.reset()
            functions = torch.compile(theirs), torch.compile(mine)
            own, ours = compare(functions, torch.randn(shape), True, rounds)
            cells.append(f"{own / ours:.2g} ({ours / 1000:.2g} ms)")
        yield f"| `{name}` | {' | '.join(cells)} |"


def main() -> None:
    """Write the tables of ratios."""
    write(__doc__, 15, {"operators": table, "compiled": compiled})


if __name__ == "__main__":
    main()
