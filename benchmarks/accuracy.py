"""Accuracy of the gradient: the study behind docs/accuracy.md and docs/choosing.md.

Matrices with known factors are drawn by the test suite's oracle, the cotangents of
the computed factors are pulled back, and the result is compared with the exact
gradient in float64. Writes tables and figures into docs/figures; needs NumPy,
PyTorch and Matplotlib, and about a minute on one core::

    python benchmarks/accuracy.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import svdinv.numpy
from svdinv.core.degenerate import REPEATED_RULES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

SHAPES = ((8, 8), (12, 7), (6, 9))
DTYPES = (np.float64, np.complex128, np.float32, np.complex64)
DRAWS = 350  # for each of three shapes: 1050 matrices, each with every loss
RULE_DRAWS = 100

RULE_SPECTRA = {
    "distinct": "distinct",
    "repeated": "triple",
    "gap 1e-3": "gap 1e-03",
    "gap 1e-6": "gap 1e-06",
    "gap 1e-9": "gap 1e-09",
    "zeros": "zeros",
}

RTOL_SPECTRA = {
    "gap 1e-3": "gap 1e-03",
    "gap 1e-4": "gap 1e-04",
    "gap 1e-5": "gap 1e-05",
    "gap 1e-6": "gap 1e-06",
    "repeated": "triple",
}
RTOLS = (0.0, 1e-6, None, 1e-2, 1e-1)


def by_rule(
    rule: str, rtol: float | None = None
) -> Callable[[np.ndarray], tuple[Any, Callable[..., Any]]]:
    """Factors and pullback by one of svdinv's rules."""
    return lambda A: svdinv.numpy.svd_vjp(A, repeated=rule, rtol=rtol)


def by_torch(A: np.ndarray) -> tuple[Any, Callable[..., Any]]:
    """Factors and pullback by PyTorch's own SVD."""
    matrix = torch.tensor(A, requires_grad=True)
    factors = torch.linalg.svd(matrix, full_matrices=False)

    def pullback(*cotangents: np.ndarray) -> np.ndarray:
        given = [torch.tensor(g) for g in cotangents]
        return torch.autograd.grad(factors, matrix, given, retain_graph=True)[0].numpy()

    return tuple(x.detach().numpy() for x in factors), pullback


def errors(
    vjp: Callable[[np.ndarray], tuple[Any, Callable[..., Any]]],
    spectrum: str,
    dtypes: Sequence[Any],
    draws: int,
) -> np.ndarray:
    """Relative gradient errors over shapes, dtypes, draws and losses."""
    found = []
    for shape, dtype in product(SHAPES, dtypes):
        problem = oracle.draw(spectrum, shape, draws=draws, dtype=dtype)
        factors, pullback = vjp(problem.A)
        for f, penalty in oracle.differentiable(spectrum):
            gA = pullback(*problem.cotangents(factors, f, penalty))
            exact = problem.exact_gradient(f, penalty)
            found.append(oracle.relative_error(gA, exact))
    return np.concatenate(found)


def plain(name: str) -> str:
    """Name of a spectrum as it is printed: "gap 1e-03" becomes "gap 1e-3"."""
    return name.replace("e-0", "e-")


def accuracy_table(out: Path) -> dict[tuple[str, Any], np.ndarray]:
    """Median, 99th percentile and worst error for each spectrum and dtype."""
    found = {}
    lines = [
        "| singular values | " + " | ".join(np.dtype(d).name for d in DTYPES) + " |",
        "|---" * (1 + len(DTYPES)) + "|",
    ]
    for spectrum in oracle.SPECTRA:
        entries = []
        for dtype in DTYPES:
            e = errors(by_rule("consistent"), spectrum, [dtype], DRAWS)
            found[spectrum, dtype] = e
            numbers = (np.median(e), np.percentile(e, 99), np.max(e))
            entries.append(" / ".join(f"{x:.0e}" for x in numbers))
        lines.append(f"| {plain(spectrum)} | " + " | ".join(entries) + " |")
    text = "\n".join(lines) + "\n"
    (out / "accuracy-table.txt").write_text(text, encoding="utf-8")
    print(text)
    return found


def rules_table(out: Path) -> None:
    """Median error of each rule, and of PyTorch."""
    lines = ["| rule | " + " | ".join(RULE_SPECTRA) + " |"]
    lines.append("|---" * (1 + len(RULE_SPECTRA)) + "|")
    methods = {f'`"{rule}"`': by_rule(rule) for rule in REPEATED_RULES}
    methods["`torch.linalg.svd`"] = by_torch
    for name, vjp in methods.items():
        entries = []
        for spectrum in RULE_SPECTRA.values():
            both = (
                errors(vjp, spectrum, dtypes, RULE_DRAWS)
                for dtypes in (DTYPES[:2], DTYPES[2:])
            )
            entries.append(", ".join(map(_median, both)))
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    text = "\n".join(lines) + "\n"
    (out / "rules-table.txt").write_text(text, encoding="utf-8")
    print(text)


def rtol_table(out: Path) -> None:
    """Median and 99th percentile in single precision for several `rtol`."""
    lines = ["| rtol | " + " | ".join(RTOL_SPECTRA) + " |"]
    lines.append("|---" * (1 + len(RTOL_SPECTRA)) + "|")
    for rtol in RTOLS:
        entries = []
        for spectrum in RTOL_SPECTRA.values():
            e = errors(by_rule("consistent", rtol), spectrum, DTYPES[2:], RULE_DRAWS)
            entries.append(f"{np.median(e):.0e} / {np.percentile(e, 99):.0e}")
        name = "default" if rtol is None else f"{rtol:g}"
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    text = "\n".join(lines) + "\n"
    (out / "rtol-table.txt").write_text(text, encoding="utf-8")
    print(text)


def shared_table(out: Path) -> None:
    """Two functions of one SVD with a triple value, in one call or in two."""
    found: dict[str, list[np.ndarray]] = {
        "one call": [],
        "a call for each function": [],
        'one call, `repeated="minimum-norm"`': [],
    }
    together, apart, minimum = found.values()
    for seed, shape in enumerate(SHAPES):
        first = oracle.draw("triple", shape, draws=RULE_DRAWS)
        G = np.random.default_rng(seed).standard_normal(first.G.shape)
        second = oracle.Problem(first.A, first.U, first.s, first.V, G)
        exact = first.exact_gradient(oracle.SOFT) + second.exact_gradient(oracle.TANH)
        for rule, one_call in (("consistent", together), ("minimum-norm", minimum)):
            factors, pullback = svdinv.numpy.svd_vjp(first.A, repeated=rule)
            a = first.cotangents(factors, oracle.SOFT)
            b = second.cotangents(factors, oracle.TANH)
            sums = (x + y for x, y in zip(a, b, strict=True))
            one_call.append(oracle.relative_error(pullback(*sums), exact))
            if one_call is together:
                gA = pullback(*a) + pullback(*b)
                apart.append(oracle.relative_error(gA, exact))
    lines = ["| | median | worst |", "|---|---|---|"]
    for name, parts in found.items():
        e = np.concatenate(parts)
        lines.append(f"| {name} | {np.median(e):.0e} | {np.max(e):.0e} |")
    text = "\n".join(lines) + "\n"
    (out / "shared-table.txt").write_text(text, encoding="utf-8")
    print(text)


def _median(e: np.ndarray) -> str:
    """Median of the finite errors, and how many are not finite."""
    finite = np.isfinite(e)
    lost = np.mean(~finite)
    if lost == 1:
        return "NaN"
    text = f"{np.median(e[finite]):.0e}"
    return text if lost == 0 else f"{text} (NaN {lost:.0%})"


def gap_figure(out: Path) -> None:
    """Median error against the gap, for each rule and for PyTorch."""
    methods = {rule: by_rule(rule) for rule in REPEATED_RULES if rule != "none"}
    methods["torch.linalg.svd"] = by_torch
    figure = Figure(figsize=(9.5, 4.2), layout="tight")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, dtypes in zip(axes, (DTYPES[:2], DTYPES[2:]), strict=True):
        for name, vjp in methods.items():
            median = []
            for gap in oracle.GAPS:
                e = errors(vjp, f"gap {gap:.0e}", dtypes, RULE_DRAWS)
                median.append(np.median(np.where(np.isnan(e), np.inf, e)))
            bold = name == "consistent"
            style = {"color": "black", "linewidth": 2.5} if bold else {}
            if name == "torch.linalg.svd":
                style = {"color": "tab:gray", "linestyle": "--"}
            axis.loglog(oracle.GAPS, median, label=name, **style)
        axis.set_title(" and ".join(np.dtype(d).name for d in dtypes))
        axis.set_xlabel("relative gap")
        axis.set_ylim(1e-16, 10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error of the gradient, median")
    axes[1].legend(fontsize=8)
    figure.savefig(out / "error-against-gap.png", dpi=120, metadata={"Software": None})


def distribution_figure(out: Path, found: dict[tuple[str, Any], np.ndarray]) -> None:
    """Median, 99th percentile and worst error of the consistent rule."""
    figure = Figure(figsize=(8.5, 4.2), layout="tight")
    axis = figure.subplots()
    for dtypes, color in ((DTYPES[:2], "tab:blue"), (DTYPES[2:], "tab:red")):
        pooled = [
            np.concatenate([found[f"gap {gap:.0e}", dtype] for dtype in dtypes])
            for gap in oracle.GAPS
        ]
        name = " and ".join(np.dtype(d).name for d in dtypes)
        for style, label, statistic in (
            ("-", "median", np.median),
            ("--", "99th percentile", lambda e: np.percentile(e, 99)),
            (":", "worst", np.max),
        ):
            values = [statistic(e) for e in pooled]
            axis.loglog(
                oracle.GAPS, values, style, color=color, label=f"{name}, {label}"
            )
    axis.set_xlabel("relative gap")
    axis.set_ylabel("relative error of the gradient")
    axis.set_ylim(1e-16, 1)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out / "distribution.png", dpi=120, metadata={"Software": None})


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    out = parser.parse_args().output
    out.mkdir(parents=True, exist_ok=True)
    with np.errstate(all="ignore"):
        found = accuracy_table(out)
        rules_table(out)
        rtol_table(out)
        shared_table(out)
        gap_figure(out)
        distribution_figure(out, found)


if __name__ == "__main__":
    main()
