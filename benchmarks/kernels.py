"""Small matrices: the kernels beside the frameworks' own decompositions.

Forward and backward of each operator by svdinv and by the framework's own SVD or
eigendecomposition with its autodiff, in turns in one process for each framework. Writes
docs/figures/speed-kernels.{txt,json,png}. Run it on a machine that does nothing else::

    python benchmarks/kernels.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX, jitted", "tf": "TensorFlow, eager"}
RATIO = 0.12  # of tau to s_1
ROWS = [
    ("svt", (384, 32, 32), "float32"),
    ("svt", (32, 64, 64), "float32"),
    ("svt", (1000, 16, 16), "float32"),
    ("svt", (36864, 18), "complex64"),
    ("svt", (4, 2048, 64), "float32"),
    ("svt", (3, 512, 512), "float32"),
    ("svd", (384, 32, 32), "float32"),
    ("svd", (1000, 16, 16), "float32"),
    ("svd", (1000, 8, 8), "float32"),
    ("svd", (384, 32, 32), "float64"),
    ("svd", (384, 32, 32), "complex64"),
    ("svd", (32, 64, 64), "float32"),
    ("kabsch", (100000, 8, 3), "float32"),
    ("svd", (100000, 3, 3), "float32"),
    ("eigh", (384, 32, 32), "float32"),
    ("eigh", (384, 32, 32), "float64"),
    *(
        (name, (side, side), "float32")
        for name in ("svd", "svt")
        for side in (3, 8, 16, 32)
    ),
]
BATCHES, SIDES = (1, 10, 100, 1000, 10000), (2, 4, 8, 16, 32, 64, 128)


def matrices(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Low rank plus noise, as in `speed.py`."""
    rng = np.random.default_rng(0)
    *batch, m, n = shape
    rank = max(min(m, n) // 4, 1)

    def normal(*size: int) -> np.ndarray:
        x = rng.standard_normal((*batch, *size))
        if dtype.startswith("complex"):
            x = (x + 1j * rng.standard_normal(x.shape)) / math.sqrt(2)
        return x

    A = normal(m, rank) @ normal(rank, n) / math.sqrt(rank) + 0.1 * normal(m, n)
    return A.astype(dtype)


def losses(own: Any, module: Any, ops: Any, name: str, tau: float) -> tuple[Any, Any]:
    """Two functions of A: the framework's own way, and svdinv's.

    `own` has svd and eigh, `ops` what else differs between the frameworks.
    """

    def scaled(U: Any, y: Any) -> Any:
        return U * ops.cast(y, U)[..., None, :]

    def shrink(svd: Any) -> Any:
        def run(A: Any) -> Any:
            U, S, Vh = svd(A)
            return scaled(U, ops.relu(S - tau)) @ Vh

        return run

    def rational(svd: Any) -> Any:
        def run(A: Any) -> Any:
            U, S, Vh = svd(A)
            return scaled(U, S / (1 + S)) @ Vh

        return run

    def hermitian(eigh: Any) -> Any:
        def run(A: Any) -> Any:
            w, V = eigh((A + ops.adjoint(A)) / 2)
            return scaled(V, w / (1 + w * w)) @ ops.adjoint(V)

        return run

    def rotation(A: Any) -> Any:  # Kabsch's, of A onto the same points in disorder
        A, B = (x - ops.mean(x) for x in (A, ops.reverse(A)))
        U, _, Vh = own.svd(ops.adjoint(A) @ B)
        sign = ops.sign(ops.det(U @ Vh))[..., None]
        d = ops.concat([ops.ones_like(sign), ops.ones_like(sign), sign])
        return scaled(U, d) @ Vh

    return {
        "svt": (shrink(own.svd), lambda A: module.svt(A, tau)),
        "svd": (rational(own.svd), rational(lambda A: ops.order(*module.svd(A)))),
        "eigh": (hermitian(own.eigh), hermitian(module.eigh)),
        "kabsch": (
            rotation,
            lambda A: ops.adjoint(module.kabsch(A, ops.reverse(A)).rotation),
        ),
    }[name]


class Torch:
    """PyTorch, eagerly."""

    def __init__(self) -> None:
        import torch

        import svdinv.torch as module

        self.torch, self.module = torch, module
        self.relu, self.sign, self.det = torch.relu, torch.sign, torch.linalg.det
        self.ones_like = torch.ones_like

    def cast(self, x: Any, like: Any) -> Any:
        return x.to(like.dtype)

    def adjoint(self, x: Any) -> Any:
        return x.mH

    def concat(self, x: Any) -> Any:
        return self.torch.cat(x, dim=-1)

    def mean(self, x: Any) -> Any:
        return x.mean(dim=-2, keepdim=True)

    def reverse(self, x: Any) -> Any:
        return x.flip(0)

    def order(self, U: Any, S: Any, Vh: Any) -> Any:
        return U, S, Vh

    def svd(self, A: Any) -> Any:
        return self.torch.linalg.svd(A, full_matrices=False)

    def eigh(self, A: Any) -> Any:
        return self.torch.linalg.eigh(A)

    def runner(self, f: Any, A: np.ndarray, G: np.ndarray) -> Any:
        x, g = self.torch.from_numpy(A).requires_grad_(), self.torch.from_numpy(G)

        def run() -> Any:
            return self.torch.autograd.grad(f(x), x, g)[0].numpy()

        return run


class JAX:
    """JAX under jit."""

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        import svdinv.jax as module

        jax.config.update("jax_enable_x64", True)
        self.jax, self.jnp, self.module = jax, jnp, module
        self.relu, self.sign, self.det = jax.nn.relu, jnp.sign, jnp.linalg.det
        self.ones_like = jnp.ones_like

    def cast(self, x: Any, like: Any) -> Any:
        return x.astype(like.dtype)

    def adjoint(self, x: Any) -> Any:
        return self.jnp.conj(self.jnp.matrix_transpose(x))

    def concat(self, x: Any) -> Any:
        return self.jnp.concatenate(x, axis=-1)

    def mean(self, x: Any) -> Any:
        return x.mean(axis=-2, keepdims=True)

    def reverse(self, x: Any) -> Any:
        return x[::-1]

    def order(self, U: Any, S: Any, Vh: Any) -> Any:
        return U, S, Vh

    def svd(self, A: Any) -> Any:
        return self.jnp.linalg.svd(A, full_matrices=False)

    def eigh(self, A: Any) -> Any:
        return self.jnp.linalg.eigh(A)

    def runner(self, f: Any, A: np.ndarray, G: np.ndarray) -> Any:
        x, g = self.jnp.asarray(A), self.jnp.asarray(G)

        @self.jax.jit
        def step(x: Any, g: Any) -> Any:
            return self.jax.vjp(f, x)[1](g)[0]

        # JAX's cotangents are the conjugates of the other frameworks'.
        return lambda: np.asarray(step(x, g.conj()).conj())


class TensorFlow:
    """TensorFlow, eagerly."""

    def __init__(self) -> None:
        import tensorflow as tf

        import svdinv.tf as module

        self.tf, self.module = tf, module
        self.relu, self.sign, self.det = tf.nn.relu, tf.sign, tf.linalg.det
        self.ones_like, self.cast = tf.ones_like, lambda x, y: tf.cast(x, y.dtype)
        self.adjoint = tf.linalg.adjoint

    def concat(self, x: Any) -> Any:
        return self.tf.concat(x, axis=-1)

    def mean(self, x: Any) -> Any:
        return self.tf.reduce_mean(x, axis=-2, keepdims=True)

    def reverse(self, x: Any) -> Any:
        return self.tf.reverse(x, [0])

    def order(self, s: Any, u: Any, v: Any) -> Any:
        return u, s, self.tf.linalg.adjoint(v)

    def svd(self, A: Any) -> Any:
        return self.order(*self.tf.linalg.svd(A))

    def eigh(self, A: Any) -> Any:
        w, V = self.tf.linalg.eigh(A)
        return self.tf.math.real(w), V

    def runner(self, f: Any, A: np.ndarray, G: np.ndarray) -> Any:
        x, g = self.tf.constant(A), self.tf.constant(G)

        def run() -> Any:
            with self.tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            return tape.gradient(y, x, output_gradients=g).numpy()

        return run


def compare(ops: Any, name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Median times in milliseconds, and the difference of the gradients."""
    A = matrices(shape, dtype)
    result = (*shape[:-2], shape[-1], shape[-1]) if name == "kabsch" else shape
    G = matrices(result, dtype)[::-1].copy()
    tau = RATIO * float(np.linalg.svd(A[:20], compute_uv=False).max(axis=-1).mean())
    pair = losses(ops, ops.module, ops, name, tau)
    runs = [ops.runner(f, A, G) for f in pair]
    times: list[list[float]] = [[], []]
    gradients = [run() for run in runs]
    start = time.perf_counter()
    for run in runs:
        run()
    once = time.perf_counter() - start
    repeat = max(1, int(0.02 / once))
    for _ in range(max(5, min(15, int(1.5 / once)))):
        for run, into in zip(runs, times, strict=True):
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            into.append((time.perf_counter() - start) / repeat)
    own, ours = (1000 * statistics.median(t) for t in times)
    size = np.linalg.norm(gradients[1])
    gap = np.linalg.norm(gradients[0] - gradients[1]) / size
    row = {"name": name, "shape": shape, "dtype": dtype, "own": own, "svdinv": ours}
    return row | {"difference": float(gap)}


def work(framework: str, quick: bool) -> None:
    """Print one line of JSON for each comparison."""
    ops: Any = {"torch": Torch, "jax": JAX, "tf": TensorFlow}[framework]()
    for row in ROWS[:2] if quick else ROWS:
        print(json.dumps(compare(ops, *row)), flush=True)
    if framework != "torch" or quick:
        return
    for name in ("svt", "svd"):
        for batch in BATCHES:
            for side in SIDES:
                if batch * side**3 <= 1e8:
                    row = compare(ops, name, (batch, side, side), "float32")
                    print(json.dumps({"map": True, **row}), flush=True)


def copies() -> dict[str, tuple[Any, Any, tuple[Any, ...]]]:
    """Operators as repositories copy them for PyTorch, svdinv's, and their inputs.

    Batches of 10,000 small problems in single precision.
    """
    import torch

    import svdinv.torch as ours

    eigh, svd, eye = torch.linalg.eigh, torch.linalg.svd, torch.eye
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(10000, *shape, generator=generator)

    def definite(n: int) -> Any:
        X = normal(n, n)
        return X @ X.mT + 0.3 * eye(n)

    def of_values(A: Any, f: Any) -> Any:
        w, V = eigh(A)
        return (V * f(w)[..., None, :]) @ V.mT

    def power(A: Any, p: float) -> Any:
        return of_values(A, lambda w: w**p)

    def rotation(A: Any) -> Any:
        U, _, Vh = svd(A)
        sign = torch.linalg.det(U @ Vh).sign()[..., None]
        signs = torch.cat([torch.ones_like(A[..., 0, :-1]), sign], dim=-1)
        return (U * signs[..., None, :]) @ Vh

    def similarity(P: Any, Q: Any) -> Any:
        p, q = P.mean(-2, keepdim=True), Q.mean(-2, keepdim=True)
        X, Y = P - p, Q - q
        C = Y.mT @ X
        R = rotation(C)
        c = (R * C).sum((-2, -1)) / X.square().sum((-2, -1))
        return R, (q - c[..., None, None] * p @ R.mT)[..., 0, :], c

    def our_similarity(P: Any, Q: Any) -> Any:
        R, t, _, c = ours.kabsch(P, Q, scale=True)
        return R, t, c

    def pinv(A: Any) -> Any:
        U, S, Vh = svd(A, full_matrices=False)
        return (Vh.mT / S[..., None, :]) @ U.mT

    def generalised(A: Any, B: Any) -> Any:
        L = torch.linalg.inv(torch.linalg.cholesky(B))
        w, Y = eigh(L @ A @ L.mT)
        V = L.mT @ Y
        return (V * (w * w)[..., None, :]) @ V.mT

    def our_generalised(A: Any, B: Any) -> Any:
        w, V = ours.eigh_generalized(A, B)
        return (V * (w * w)[..., None, :]) @ V.mT

    def bures(A: Any, B: Any) -> Any:
        root = power(A, 0.5)
        difference = A + B - 2 * power(root @ B @ root, 0.5)
        return difference.diagonal(dim1=-2, dim2=-1).sum(-1)

    def covariance(X: Any, Y: Any, ridge: float = 0.0) -> Any:
        X, Y = (x - x.mean(-2, keepdim=True) for x in (X, Y))
        return X.mT @ Y / X.shape[-2] + ridge * eye(X.shape[-1])

    def whiten(X: Any) -> Any:
        W = power(covariance(X, X, 1e-3), -0.5)
        return (X - X.mean(-2, keepdim=True)) @ W

    def cca(X: Any, Y: Any) -> Any:
        one, other = (power(covariance(x, x, 1e-3), -0.5) for x in (X, Y))
        return torch.linalg.svdvals(one @ covariance(X, Y) @ other).sum(-1)

    pair, points = (definite(3), definite(3)), (normal(8, 3), normal(8, 3))
    samples = normal(16, 4), normal(16, 4)
    return {
        "sqrtm 4×4": (lambda A: power(A, 0.5), ours.sqrtm, (definite(4),)),
        "powm 4×4": (
            lambda A: power(A, -0.3), lambda A: ours.powm(A, -0.3), (definite(4),)
        ),
        "psd_project 4×4": (
            lambda A: of_values(A, lambda w: w.clamp(min=0.1)),
            lambda A: ours.psd_project(A, 0.1),
            (definite(4) - eye(4),),
        ),
        "polar, special 3×3": (
            rotation, lambda A: ours.polar(A, special=True), (normal(3, 3),)
        ),
        "kabsch, scale 8×3": (similarity, our_similarity, points),
        "pinv 6×4": (pinv, ours.pinv, (normal(6, 4),)),
        "lstsq 6×4": (
            lambda A, b: torch.linalg.lstsq(A, b)[0],
            ours.lstsq,
            (normal(6, 4), normal(6, 1)),
        ),
        "eigh_generalized 3×3": (generalised, our_generalised, pair),
        "bures_distance 3×3": (
            bures, lambda A, B: ours.bures_distance(A, B, squared=True), pair
        ),
        "whiten 16×4": (whiten, lambda X: ours.whiten(X, 1e-3).white, samples[:1]),
        "cca 16×4": (
            cca,
            lambda X, Y: ours.cca(X, Y, ridge=1e-3).correlations.sum(-1),
            samples,
        ),
    }  # fmt: skip


def operators() -> None:
    """Print the ratios of `copies`, forward and backward, on one thread."""
    import torch

    torch.set_num_threads(1)
    print("| 10,000 problems | copied | svdinv | ratio |\n|---|---|---|---|")
    for name, (*pair, given) in copies().items():
        x = [z.requires_grad_() for z in given]

        def run(f: Any, x: Any = x) -> float:
            start = time.process_time()
            y = f(*x)
            y = y if isinstance(y, tuple) else (y,)
            torch.autograd.grad(y, x, [torch.ones_like(z) for z in y])
            return time.process_time() - start

        times = [[run(f) for f in pair] for _ in range(12)][2:]
        # The least: other work on the machine only adds.
        own, ours = (1000 * min(t) for t in zip(*times, strict=True))
        print(f"| `{name}` | {own:.1f} ms | {ours:.1f} ms | {own / ours:.2g} |")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Ratios of all rows, a column for each framework."""
    head = ["input", *(FRAMEWORKS[f] for f in results)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for index, (name, shape, dtype) in enumerate(ROWS):
        cells = [f"`{name}` {'×'.join(map(str, shape))} {dtype}"]
        for rows in results.values():
            if index < len(rows):
                row = rows[index]
                ratio = row["own"] / row["svdinv"]
                cells.append(f"{ratio:.2g} ({row['svdinv']:.3g} ms)")
            else:
                cells.append("–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Heat maps of the ratio over batch and side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("svt", "svd"), strict=True):
        ratio = np.full((len(BATCHES), len(SIDES)), np.nan)
        for row in rows:
            if row["name"] == name:
                batch, side, _ = row["shape"]
                value = row["own"] / row["svdinv"]
                ratio[BATCHES.index(batch), SIDES.index(side)] = value
        image = axes.imshow(np.log2(ratio), cmap="RdBu", vmin=-4, vmax=4, aspect="auto")
        for i, j in np.argwhere(np.isfinite(ratio)):
            axes.text(j, i, f"{ratio[i, j]:.2g}", ha="center", va="center", size=8)
        axes.set_xticks(range(len(SIDES)), SIDES)
        axes.set_yticks(range(len(BATCHES)), BATCHES)
        axes.set(title=f"{name}, float32", xlabel="side", ylabel="matrices")
    bar = figure.colorbar(image, ax=figure.axes)
    bar.set_ticks(range(-4, 5, 2), labels=["1/16", "1/4", "1", "4", "16"])
    bar.set_label("PyTorch ÷ svdinv, time")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run every framework in a process of its own, and write what they print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="two rows, no map")
    parser.add_argument(
        "--operators", action="store_true", help="what is copied for PyTorch, alone"
    )
    arguments = parser.parse_args()
    if arguments.operators:
        operators()
        return
    if arguments.worker:
        work(arguments.worker, arguments.quick)
        return
    results: dict[str, list[dict[str, Any]]] = {}
    cells: list[dict[str, Any]] = []
    for framework in FRAMEWORKS:
        command = [sys.executable, __file__, "--worker", framework]
        command += ["--quick"] * arguments.quick
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        cells += [row for row in found if "map" in row]
        results[framework] = [row for row in found if "map" not in row]
    text = table(results)
    print(text)
    if not arguments.quick:
        (FIGURES / "speed-kernels.txt").write_text(text)
        raw = json.dumps({**results, "map": cells}, indent=1)
        (FIGURES / "speed-kernels.json").write_text(raw + "\n")
        draw(cells, FIGURES / "speed-kernels.png")


if __name__ == "__main__":
    main()
