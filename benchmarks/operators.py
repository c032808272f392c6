"""Other operators beside the same composed of `torch.linalg`, single and in batches.

Some of them where `torch.compile` compiles both, and second derivatives. Measured as by
one_matrix.py. Writes docs/figures/speed-operators.txt, -compiled.txt and -second.txt::

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
SQUARE = ((8, 8), (1000, 8, 8), (384, 32, 32), (8, 64, 64))
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


def hermitian(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """V diag(f(w)) V^H of A^H A as one writes it with PyTorch."""

    def map_values(A: Tensor) -> Tensor:
        w, V = linalg.eigh(A.mT @ A)
        return (V * f(w)[..., None, :]) @ V.mT

    return map_values


def slope(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gradient of a loss of the function, which can be differentiated."""

    def gradient(A: Tensor) -> Tensor:
        return torch.autograd.grad(f(A).sin().sum(), A, create_graph=True)[0]

    return gradient


TWICE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "svt": (
        composed(lambda S: torch.relu(S - LEVEL)),
        lambda A: st.svt(A, LEVEL),
    ),
    "low_rank": OPERATORS["low_rank"],
    "polar": (composed(torch.ones_like), st.polar),
    "nuclear_norm": OPERATORS["nuclear_norm"],
    "spectral_map": OPERATORS["spectral_map"],
    "sqrtm": (hermitian(torch.sqrt), lambda A: st.sqrtm(A.mT @ A)),
    "expm": (hermitian(torch.exp), lambda A: st.expm(A.mT @ A)),
}


def second(rounds: int) -> Iterator[str]:
    """Lines of the table of second derivatives, and times by svdinv."""
    yield f"| | {' | '.join('×'.join(map(str, shape)) for shape in SQUARE)} |"
    yield "|---" * (1 + len(SQUARE)) + "|"
    for name, functions in TWICE.items():
        cells = []
        for shape in SQUARE:
            own, ours = map(slope, functions)
            one, other = compare((own, ours), torch.randn(shape), True, rounds)
            cells.append(f"{one / other:.2g} ({other / 1000:.2g} ms)")
        yield f"| `{name}` | {' | '.join(cells)} |"


def main() -> None:
    """Write the tables of ratios."""
    write(__doc__, 15, {"operators": table, "compiled": compiled, "second": second})


if __name__ == "__main__":
    main()
