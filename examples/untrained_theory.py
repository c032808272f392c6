"""Why untrained networks work: the five figures of docs/untrained-theory.md.

Writes docs/figures/untrained-*.png; needs NumPy and Matplotlib, and half a minute on
one core::

    python examples/untrained_theory.py
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
from decoder_theory import (
    TwoLayer,
    error_bound,
    expected_values,
    smoothest,
    triangular_kernel,
    trigonometric_basis,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

N = 128
KERNEL = triangular_kernel(N, 8.0)
BASIS, VALUES = trigonometric_basis(N), expected_values(KERNEL)
STEPS = 3000
WIDTH = 512
WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
NOISE = 0.2
# Of the columns of the basis: up to how many periods.
BANDS = {"0 to 2 periods": (0, 5), "3 to 7": (5, 15), "8 to 15": (15, 31)}
BANDS |= {"16 to 31": (31, 63), "32 to 64": (63, 128)}


def signal() -> np.ndarray:
    """Give a smooth signal: two bumps and a cosine."""
    t = np.arange(N) / N
    bumps = np.exp(-(((t - 0.35) / 0.1) ** 2)) - 0.5 * np.exp(
        -(((t - 0.7) / 0.06) ** 2)
    )
    return bumps + 0.6 * np.cos(2 * np.pi * t)


def gaussian(m: int, seed: int) -> np.ndarray:
    """Draw m Gaussian measurements."""
    return np.random.default_rng(seed).standard_normal((m, N)) / np.sqrt(m)


def step_size(gram: np.ndarray) -> float:
    """Give the step 1 / L for the largest eigenvalue L of J J^T."""
    return 1 / np.linalg.eigvalsh(gram)[-1]


def panels(count: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Make a row of panels."""
    figure = Figure(figsize=(4.4 * count, height), layout="constrained")
    axes = figure.subplots(1, count)
    return figure, list(np.atleast_1d(axes))


def spectrum_figure(out: Path) -> None:
    """Compare singular values with their formula, and vectors with the basis."""
    figure, (left, right) = panels(2)
    left.semilogy(np.sort(VALUES)[::-1], "k", lw=3, alpha=0.4, label="formula")
    for k in (16, 256, 4096):
        C = np.random.default_rng(0).standard_normal((N, k))
        values, vectors = np.linalg.eigh(TwoLayer(KERNEL, k).gram(C))
        left.semilogy(np.sqrt(abs(values))[::-1], lw=1, label=f"measured, k = {k}")
    left.set(xlabel="index", ylabel="singular value of the Jacobian")
    left.legend(fontsize=8)
    image = right.imshow(abs(BASIS.T @ vectors[:, ::-1])[:48, :48], cmap="magma_r")
    right.set(xlabel="singular vector, k = 4096", ylabel="trigonometric basis")
    figure.colorbar(image, ax=right, label="|inner product|")
    figure.savefig(out / "untrained-spectrum.png", dpi=110)


def bound_figure(out: Path) -> None:
    """Draw the bound of the linear case beside the error."""
    figure, (axes,) = panels(1)
    x, J = signal(), BASIS * VALUES
    counts = (8, 16, 24, 32, 48, 64, 96, 120)
    errors, bounds = [], []
    for m in counts:
        drawn = [gaussian(m, seed) for seed in range(8)]
        errors.append([np.linalg.norm(smoothest(J, A, A @ x) - x) ** 2 for A in drawn])
        bounds.append([error_bound(J, A, x) ** 2 for A in drawn])
    for found, colour, label in (
        (errors, "tab:blue", "measured"),
        (bounds, "tab:red", "bound"),
    ):
        both = np.array(found) / (x @ x)
        axes.semilogy(counts, np.median(both, axis=1), "o-", color=colour, label=label)
        axes.fill_between(counts, both.min(1), both.max(1), color=colour, alpha=0.2)
    least, falling = np.sum((BASIS.T @ x / VALUES) ** 2), np.sort(VALUES)[::-1] ** 2
    order = [least * falling[m // 2 :].sum() / m / (x @ x) for m in counts]
    axes.semilogy(counts, order, "k--", lw=1, label="tail of the spectrum behind m / 2")
    axes.set(xlabel="measurements m of 128", ylabel="squared error, relative")
    axes.legend(fontsize=8)
    figure.savefig(out / "untrained-bound.png", dpi=110)


def frequencies_figure(out: Path) -> None:
    """Follow the residual of each band of frequencies, for two scales of the start."""
    figure, both = panels(2)
    y = signal() + NOISE * np.random.default_rng(2).standard_normal(N)
    first, generator = BASIS.T @ y, TwoLayer(KERNEL, WIDTH)
    for axes, scale in zip(both, (1, 8), strict=True):
        C = generator.start(0, scale)
        step = step_size(generator.gram(C))
        path = generator.descend(C, lambda x: x - y, step)
        rest = np.array([BASIS.T @ (y - x) for x, _ in islice(path, STEPS)])
        for i, (name, (low, high)) in enumerate(BANDS.items()):
            size = np.linalg.norm(first[low:high])
            left = np.linalg.norm(rest[:, low:high], axis=1) / size
            factors = (1 - step * VALUES**2) ** np.arange(STEPS)[:, None]
            linear = np.linalg.norm((factors * first)[:, low:high], axis=1) / size
            axes.loglog(left, color=f"C{i}", label=name)
            axes.loglog(linear, "--", color=f"C{i}", lw=1)
        axes.set(ylim=(1e-3, 1.3), xlabel="step", title=f"start of scale {scale}")
    both[0].set_ylabel("residual of the band, relative")
    both[0].legend(fontsize=8)
    figure.savefig(out / "untrained-frequencies.png", dpi=110)


def stopping_figure(out: Path) -> None:
    """Follow the error of compressed sensing, and that of denoising."""
    figure, (left, middle, right) = panels(3)
    x, generator = signal(), TwoLayer(KERNEL, WIDTH)
    C = generator.start(0)
    for m in (24, 48):
        A = gaussian(m, 0)
        step = step_size(A @ generator.gram(C) @ A.T)
        path = generator.descend(C, lambda z, A=A: A.T @ (A @ (z - x)), step)
        found = [z for z, _ in islice(path, STEPS)]
        error = [np.linalg.norm(z - x) / np.linalg.norm(x) for z in found]
        left.loglog(error, label=f"m = {m}")
    left.set(xlabel="step", ylabel="error, relative", title="compressed sensing")
    left.legend(fontsize=8)
    middle.plot(x, "k", lw=3, alpha=0.3, label="truth")
    middle.plot(found[-1], label=f"m = {m}, last step")
    y = x + NOISE * np.random.default_rng(2).standard_normal(N)
    step = 0.1 * step_size(generator.gram(C))  # to see the first ones apart
    noisy = [z for z, _ in islice(generator.descend(C, lambda z: z - y, step), STEPS)]
    error = [np.linalg.norm(z - x) / np.linalg.norm(x) for z in noisy]
    best = int(np.argmin(error))
    right.loglog(error)
    right.axhline(np.linalg.norm(y - x) / np.linalg.norm(x), color="k", ls=":", lw=1)
    right.set(xlabel="step", title="denoising; dotted: the noise")
    middle.plot(noisy[best], label=f"denoised, step {best}")
    middle.plot(noisy[-1], lw=0.7, label=f"denoised, step {STEPS}")
    middle.legend(fontsize=8)
    figure.savefig(out / "untrained-stopping.png", dpi=110)


def width_figure(out: Path) -> None:
    """Measure how far the Jacobian moves, for some widths."""
    figure, (axes,) = panels(1)
    x, moved, far = signal(), [], []
    for k in WIDTHS:
        generator = TwoLayer(KERNEL, k)
        C = generator.start(0)
        start = np.linalg.eigvalsh(generator.gram(C))[-1]
        path = generator.descend(C, lambda z: z - x, 1 / start)
        _, end = next(islice(path, min(200, STEPS), None))
        moved.append(np.sqrt(np.linalg.eigvalsh(generator.gram(end, C))[-1] / start))
        far.append(np.linalg.norm(end - C) / np.linalg.norm(C))
    axes.loglog(WIDTHS, moved, "o-", label="Jacobian, spectral norm")
    axes.loglog(WIDTHS, far, "s-", label="coefficients, Frobenius norm")
    axes.set(xlabel="width k", ylabel="change by the fit, relative to the start")
    axes.legend(fontsize=8)
    figure.savefig(out / "untrained-width.png", dpi=110)


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    out = parser.parse_args().output
    out.mkdir(parents=True, exist_ok=True)
    spectrum_figure(out)
    bound_figure(out)
    frequencies_figure(out)
    stopping_figure(out)
    width_figure(out)


if __name__ == "__main__":
    main()
