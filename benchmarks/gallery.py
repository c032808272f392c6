"""What the low-rank operators do: the plots of docs/gallery.md.

Writes figures and a table into docs/figures; needs NumPy, PyTorch and Matplotlib,
and less than a minute on one core::

    python benchmarks/gallery.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import svdinv.numpy
import svdinv.torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle
import spectral_oracle

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

DRAWS = 100
OPERATOR_DRAWS = 30  # of three shapes, at every spectrum of the oracle
SHAPE = (8, 8)
TAU = 0.35  # soft threshold of oracle.SOFT
DTYPES = (np.float64, np.float32)


def problem(gap: float, dtype: Any) -> oracle.Problem:
    """Draw matrices with one pair of singular values `gap` apart, relative to them.

    For 0, signed permutations of a diagonal matrix, whose singular values come out
    equal bit for bit.
    """
    if gap > 0:
        return oracle.draw(f"gap {gap:.0e}", SHAPE, draws=DRAWS, dtype=dtype)
    rng = np.random.default_rng(1)
    p = oracle.draw("pair", SHAPE, draws=DRAWS, dtype=dtype)
    s = p.s.astype(np.float32).astype(np.float64)
    k = s.shape[-1]

    def signed_permutations() -> np.ndarray:
        order = np.argsort(rng.random((DRAWS, k)), axis=-1)
        return np.eye(k)[order] * rng.choice([-1.0, 1.0], (DRAWS, 1, k))

    U, V = signed_permutations(), signed_permutations()
    A = ((U * s[:, None]) @ oracle.adjoint(V)).astype(dtype)
    return oracle.Problem(A, U, s, V, p.G)


def by_factors(
    vjp: Callable[[np.ndarray], tuple[Any, Callable[..., Any]]],
) -> Callable[[oracle.Problem], np.ndarray]:
    """Differentiate U f(S) V^H through the SVD that `vjp` pulls back through."""

    def gradient(p: oracle.Problem) -> np.ndarray:
        factors, pullback = vjp(p.A)
        return pullback(*p.cotangents(factors, oracle.SOFT))

    return gradient


def by_rule(rule: str) -> Callable[[oracle.Problem], np.ndarray]:
    """Differentiate through one of svdinv's rules."""
    return by_factors(lambda A: svdinv.numpy.svd_vjp(A, repeated=rule))


def torch_vjp(A: np.ndarray) -> tuple[Any, Callable[..., Any]]:
    """Factors and pullback by PyTorch's own SVD."""
    matrix = torch.tensor(A, requires_grad=True)
    factors = torch.linalg.svd(matrix, full_matrices=False)

    def pullback(*cotangents: np.ndarray) -> np.ndarray:
        given = [torch.tensor(g) for g in cotangents]
        return torch.autograd.grad(factors, matrix, given)[0].numpy()

    return tuple(x.detach().numpy() for x in factors), pullback


def tensorflow_vjp(A: np.ndarray) -> tuple[Any, Callable[..., Any]]:
    """Restate TensorFlow's rule for real square matrices.

    1 / (s_j^2 - s_i^2) as x / (x^2 + 1e-20), off the diagonal.
    """
    U, S, Vh = np.linalg.svd(A, full_matrices=False)

    def pullback(gU: np.ndarray, gS: np.ndarray, gVh: np.ndarray) -> np.ndarray:
        square = S * S
        x = square[..., None, :] - square[..., :, None]
        F = x / (x * x + A.dtype.type(1e-20))
        M, N = oracle.adjoint(U) @ gU, Vh @ oracle.adjoint(gVh)
        block = (F * (M - oracle.adjoint(M))) * S[..., None, :]
        block = block + S[..., :, None] * (F * (N - oracle.adjoint(N)))
        diagonal = np.eye(S.shape[-1], dtype=A.dtype) * gS[..., None]
        return U @ (block + diagonal) @ Vh

    return (U, S, Vh), pullback


def by_svt(p: oracle.Problem) -> np.ndarray:
    """Differentiate the operator."""
    A = torch.tensor(p.A, requires_grad=True)
    Y = svdinv.torch.svt(A, TAU)
    return torch.autograd.grad(Y, A, torch.tensor(p.G.astype(p.A.dtype)))[0].numpy()


METHODS: dict[str, tuple[Callable[[oracle.Problem], np.ndarray], dict[str, Any]]] = {
    "torch.linalg.svd": (by_factors(torch_vjp), {"color": "tab:gray", "ls": "--"}),
    "TensorFlow's rule": (by_factors(tensorflow_vjp), {"color": "tab:orange"}),
    "Lorentzian": (by_rule("lorentz"), {"color": "tab:green"}),
    "minimum norm": (by_rule("minimum-norm"), {"color": "tab:purple"}),
    "svdinv svd": (by_rule("consistent"), {"color": "tab:blue", "lw": 2}),
    "svdinv svt": (by_svt, {"color": "black", "lw": 2.5}),
}


def gap_figure(out: Path) -> None:
    """Gradient error of a soft threshold against the relative gap, and its table."""
    gaps = (*oracle.GAPS, 0.0)
    position = [*oracle.GAPS, oracle.GAPS[-1] / 30]  # where 0 is drawn
    figure = Figure(figsize=(9.5, 4.4), layout="tight")
    rows = {name: [name] for name in METHODS}
    shown = {np.float64: (1e-4, 1e-8, 1e-12, 0.0), np.float32: (1e-2, 1e-4, 1e-6, 0.0)}
    axes = figure.subplots(1, 2, sharey=True)
    for axis, dtype in zip(axes, DTYPES, strict=True):
        drawn = [problem(gap, dtype) for gap in gaps]
        for name, (gradient, style) in METHODS.items():
            errors = [
                oracle.relative_error(gradient(p), p.exact_gradient(oracle.SOFT))
                for p in drawn
            ]
            median = [
                np.median(e[np.isfinite(e)]) if lost(e) < 1 else np.nan for e in errors
            ]
            axis.loglog(position, median, label=name, **style)
            nan = [i for i, e in enumerate(errors) if lost(e) > 0]
            axis.plot(
                [position[i] for i in nan], [30] * len(nan), "x", color=style["color"]
            )
            for gap in shown[dtype]:
                if gap in gaps:
                    rows[name].append(entry(errors[gaps.index(gap)]))
        axis.set_title(np.dtype(dtype).name)
        axis.set_xlabel("relative gap")
        axis.set_xticks([1e-1, 1e-4, 1e-8, 1e-12, 1e-16, position[-1]])
        axis.set_xticklabels(["1e-1", "1e-4", "1e-8", "1e-12", "1e-16", "0"])
        axis.minorticks_off()
        axis.set_ylim(1e-17, 100)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error of the gradient, median")
    axes[1].legend(fontsize=8, loc="lower right")
    save(figure, out / "gallery-gap.png")
    head = [f"{d.__name__}, {g:g}" for d in DTYPES for g in shown[d] if g in gaps]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (1 + len(head)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows.values()]
    text = "\n".join(lines) + "\n"
    (out / "gallery-gap-table.txt").write_text(text, encoding="utf-8")
    print(text)


def lost(e: np.ndarray) -> float:
    """Share of NaN and infinity."""
    return float(np.mean(~np.isfinite(e)))


def entry(e: np.ndarray) -> str:
    """Median error, and the share of NaN or infinity."""
    if lost(e) == 1:
        return "NaN"
    text = f"{np.median(e[np.isfinite(e)]):.0e}"
    return text if lost(e) == 0 else f"{text}, NaN in {lost(e):.0%}"


def applied(name: str, *arguments: Any) -> Callable[[np.ndarray], Any]:
    """Make a function of the matrix alone of an operator of `svdinv.numpy`."""
    operator = getattr(svdinv.numpy, name)
    return lambda A: operator(A, *arguments)


# With delta = 0.525, 1 / (1 + TAU / delta) is 0.6, and delta + TAU 0.875.
HUBER = spectral_oracle.numeric(
    "huber",
    lambda s: np.maximum(0.6 * s, s - TAU),
    lambda s: np.where(s < 0.875, 0.6, 1.0),
    kinks=(0.875,),
)

# name: (operator, its function in closed form or extended precision)
OPERATORS: dict[str, tuple[Callable[[np.ndarray], Any], oracle.SpectralFunction]] = {
    "`svt`": (applied("svt", TAU), spectral_oracle.soft(TAU)),
    "`svht`": (applied("svht", TAU), spectral_oracle.hard()),
    "`firm_threshold`, gamma = 2.5": (
        applied("firm_threshold", TAU, 2.5),
        spectral_oracle.firm(2.5),
    ),
    "`log_sum_threshold`, epsilon = 0.3": (
        applied("log_sum_threshold", 0.1, 0.3),
        spectral_oracle.log_sum(0.1, 0.3),
    ),
    "`schatten_prox`, p = 1/2": (
        applied("schatten_prox", 0.1, 1 / 2),
        spectral_oracle.schatten(1 / 2, 0.1),
    ),
    "`schatten_prox`, p = 2/3": (
        applied("schatten_prox", 0.1, 2 / 3),
        spectral_oracle.schatten(2 / 3, 0.1),
    ),
    "`huber_threshold`, delta = 0.525": (
        applied("huber_threshold", TAU, 0.525),
        HUBER,
    ),
    "`polar`": (svdinv.numpy.polar, oracle.POLAR),
    "`spectral_map`, tanh": (applied("spectral_map", np.tanh), oracle.TANH),
}


def operators_table(out: Path) -> None:
    """Median and worst gradient error of each operator over all spectra."""
    dtypes = (np.float64, np.complex128, np.float32, np.complex64)
    lines = ["| | " + " | ".join(d.__name__ for d in dtypes) + " |"]
    lines.append("|---" * (1 + len(dtypes)) + "|")
    for name, (operator, function) in OPERATORS.items():
        entries = []
        for dtype in dtypes:
            found = []
            for spectrum in oracle.SPECTRA:
                near_zero = (*oracle.WITH_ZEROS, "condition 1e12")
                if spectrum in near_zero and not function.smooth_at_zero:
                    continue  # no derivative, or one of the size of 1 / s
                for shape in ((8, 8), (12, 7), (6, 9)):
                    p = oracle.draw(spectrum, shape, draws=OPERATOR_DRAWS, dtype=dtype)
                    _, pullback = svdinv.numpy.vjp(operator, p.A)
                    (gA,) = pullback(p.G.astype(dtype))
                    exact = p.exact_gradient(function)
                    found.append(oracle.relative_error(gA, exact))
            e = np.concatenate(found)
            entries.append(f"{np.median(e):.0e} / {np.max(e):.0e}")
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    text = "\n".join(lines) + "\n"
    (out / "gallery-operators-table.txt").write_text(text, encoding="utf-8")
    print(text)


def thresholds_figure(out: Path) -> None:
    """Draw what each operator does to a singular value, and its slope."""
    s = np.linspace(0, 4, 801)
    A, one = s[:, None, None], np.ones((s.size, 1, 1))
    operators = {
        "svt, tau = 1": applied("svt", 1.0),
        "svht, tau = 1": applied("svht", 1.0),
        "firm_threshold, tau = 1, gamma = 2.5": applied("firm_threshold", 1.0, 2.5),
        "log_sum_threshold, tau = 1, epsilon = 0.5": applied(
            "log_sum_threshold", 1.0, 0.5
        ),
        "schatten_prox, tau = 1, p = 1/2": applied("schatten_prox", 1.0, 1 / 2),
        "schatten_prox, tau = 1, p = 2/3": applied("schatten_prox", 1.0, 2 / 3),
        "schatten_prox, tau = 1, p = 2": applied("schatten_prox", 1.0, 2),
        "huber_threshold, tau = 1, delta = 1": applied("huber_threshold", 1.0, 1.0),
    }
    figure = Figure(figsize=(9.5, 4.2), layout="tight")
    axes = figure.subplots(1, 2)
    for name, operator in operators.items():
        result, pullback = svdinv.numpy.vjp(operator, A)
        y, slope = result[:, 0, 0], pullback(one)[0][:, 0, 0]
        jumps = np.flatnonzero(np.abs(np.diff(y)) > 0.1)
        axes[0].plot(s, np.insert(y, jumps + 1, np.nan)[: s.size], lw=1.6, label=name)
        slope[jumps] = np.nan
        axes[1].plot(s, slope, lw=1.6, label=name)
    axes[0].plot(s, s, color="black", lw=0.6, ls=":")
    axes[0].set_ylabel("singular value of the result")
    axes[1].set_ylabel("its derivative")
    axes[1].set_ylim(-0.05, 2.5)
    axes[0].legend(fontsize=7)
    for axis in axes:
        axis.set_xlabel("singular value of A")
        axis.grid(alpha=0.3)
    save(figure, out / "gallery-thresholds.png")


def svd_rotation(P: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """Nearest rotation as one writes it with an SVD and its autograd."""
    p, q = P - P.mean(-2, keepdim=True), Q - Q.mean(-2, keepdim=True)
    U, _, Vh = torch.linalg.svd(q.mT @ p)
    d = torch.sign(torch.linalg.det(U.detach() @ Vh.detach()))
    one = torch.ones_like(d)
    return (U * torch.stack([one, one, d], dim=-1)[..., None, :]) @ Vh


METHODS_OF_ALIGNMENT = {
    "torch.linalg.svd": svd_rotation,
    "svdinv.torch.kabsch": lambda P, Q: svdinv.torch.kabsch(P, Q).rotation,
}


def turn(angle: float) -> np.ndarray:
    """Rotation about (1, 2, 3), in space."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), -axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def kabsch_figure(out: Path) -> None:
    """Norm of the gradient along two paths, ours and through the SVD's autograd."""
    rng = np.random.default_rng(0)
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    noise = rng.standard_normal(cube.shape)
    angle = np.arange(6) * np.pi / 3
    hexagon = np.stack([np.cos(angle), np.sin(angle), (-1.0) ** np.arange(6)], axis=-1)
    W = torch.tensor(rng.standard_normal((3, 3)))
    R, S = turn(0.7), turn(1.9)
    small = 10.0 ** -np.arange(17)
    sizes = np.append(small, 0.0)
    heights = np.linspace(-0.3, 0.3, 41)
    heights[20] = 0.0

    def perfect(size: float) -> tuple[np.ndarray, np.ndarray]:
        return cube @ S.T, cube @ (R @ S).T + size * noise

    def planar(height: float) -> tuple[np.ndarray, np.ndarray]:
        thick = hexagon * np.array([1.0, 1.0, 0.3])
        return hexagon * np.array([1.0, 1.0, height]) @ S.T, thick @ (R @ S).T

    paths = (
        ("a cube and its rotation with noise of size x", perfect, sizes),
        ("a hexagon puckered by x: planar at 0", planar, heights),
    )
    figure = Figure(figsize=(9.5, 6.6), layout="tight")
    grid = figure.subplots(2, 2)
    for axes, (title, path, values) in zip(grid.T, paths, strict=True):
        pairs = [path(value) for value in values]
        P, Q = (torch.tensor(np.stack(points)) for points in zip(*pairs, strict=True))
        exact = differences(lambda P, Q: (W * svd_rotation(P, Q)).sum((-2, -1)), P, Q)
        # 0 is drawn at the end of a logarithmic axis.
        where = np.append(small, small[-1] / 30) if values is sizes else values
        P.requires_grad_()
        for name, method in METHODS_OF_ALIGNMENT.items():
            (g,) = torch.autograd.grad((W * method(P, Q)).sum(), P)
            norm = g.flatten(1).norm(dim=1).numpy()
            error = (g - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
            error, nan = error.numpy(), np.isnan(norm)
            ours = method is not svd_rotation
            style = {"color": "black", "lw": 2} if ours else {"color": "tab:red"}
            for axis, shown, top in zip(axes, (norm, error), (0.7, 1.0), strict=True):
                axis.plot(where, shown, label=name, **style)
                axis.plot(where[nan], top * nan[nan], "x", color="tab:red")
            print(
                f"{title}: {name}: NaN in {nan.sum()} of {nan.size}, error of the "
                f"rest up to {np.nanmax(error):.0e}"
            )
        axes[0].set_title(title, fontsize=10)
        axes[0].set_ylim(0, 0.75)
        axes[0].set_ylabel("norm of the gradient in P")
        axes[1].set_yscale("log")
        axes[1].set_ylim(1e-12, 5)
        axes[1].set_ylabel("distance from finite differences")
        axes[1].set_xlabel("x")
        axes[1].legend(fontsize=8)
        for axis in axes:
            axis.grid(alpha=0.3)
            if values is sizes:
                axis.set_xscale("log")
                axis.set_xticks([1e0, 1e-4, 1e-8, 1e-12, 1e-16, where[-1]])
                axis.set_xticklabels(["1", "1e-4", "1e-8", "1e-12", "1e-16", "0"])
                axis.minorticks_off()
    save(figure, out / "gallery-kabsch.png")


def differences(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    P: torch.Tensor,
    Q: torch.Tensor,
    step: float = 1e-3,
) -> torch.Tensor:
    """Gradient in P by central differences of sixth order, without a derivative."""
    result = torch.zeros_like(P)
    for i in range(P.shape[-2]):
        for j in range(P.shape[-1]):
            for n, weight in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60)):
                for sign in (1, -1):
                    moved = P.clone()
                    moved[:, i, j] += sign * n * step
                    result[:, i, j] += sign * weight / step * loss(moved, Q)
    return result


def sure_figure(out: Path) -> None:
    """Stein's estimate and the true error over the threshold, and their minima."""
    rng = np.random.default_rng(0)
    m, n, rank, sigma = 60, 40, 5, 1.0
    X = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) * 1.5
    A = X + sigma * rng.standard_normal((m, n))
    tau = np.linspace(0, 30, 301)
    many = np.broadcast_to(A, (tau.size, m, n))
    estimate = svdinv.numpy.sure(many, tau, sigma)
    error = np.sum((svdinv.numpy.svt(many, tau) - X) ** 2, axis=(-2, -1))
    figure = Figure(figsize=(6.5, 4.2), layout="tight")
    axis = figure.subplots()
    for values, name, color in (
        (error, "squared error, with X", "black"),
        (estimate, "sure, without X", "tab:blue"),
    ):
        best = int(np.argmin(values))
        axis.plot(tau, values, color=color, label=name)
        axis.plot(tau[best], values[best], "o", color=color)
        print(f"{name}: least at tau = {tau[best]:.1f}, error {error[best]:.0f} there")
    axis.set_xlabel("tau")
    axis.set_ylabel("sum of squares")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, out / "gallery-sure.png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure without what changes from run to run."""
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Draw the gallery."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    out = parser.parse_args().output
    out.mkdir(parents=True, exist_ok=True)
    with np.errstate(all="ignore"):
        gap_figure(out)
        operators_table(out)
    thresholds_figure(out)
    kabsch_figure(out)
    sure_figure(out)


if __name__ == "__main__":
    main()
