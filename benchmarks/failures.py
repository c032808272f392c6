"""Gradient errors of the frameworks' own SVDs, beside svdinv's.

The loss is Re<G, U f(S) V^H>, whose exact gradient is known in closed form. Each
column differentiates it end to end, as a user of that library would. Prints a
Markdown table; needs PyTorch, TensorFlow and JAX::

    python benchmarks/failures.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

import svdinv.jax
import svdinv.tf
import svdinv.torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle
import published

# TensorFlow warns of its own gradient of the cast from real to complex.
tf.get_logger().setLevel("ERROR")

DRAWS = 100
TAU = 0.35  # soft threshold of oracle.SOFT


@dataclass(frozen=True)
class Case:
    """A batch of matrices, the function of their singular values, the gradient."""

    name: str
    A: np.ndarray
    G: np.ndarray
    function: str
    scale: float
    exact: np.ndarray


def random_case(
    name: str,
    spectrum: str,
    function: str,
    *,
    dtype: Any = np.float64,
    scale: float = 1.0,
    argument: float = 1.0,
) -> Case:
    """Draw matrices U diag(s) V^H with random U and V.

    `scale` multiplies A and the function alike, which leaves the gradient as it
    was; `argument` multiplies A alone.
    """
    p = oracle.draw(spectrum, (8, 8), draws=DRAWS, dtype=dtype)
    p = oracle.Problem(p.A, p.U, argument * p.s, p.V, p.G)
    exact = p.exact_gradient(oracle.FUNCTIONS[function])
    A = (p.A * (scale * argument)).astype(dtype)
    return Case(name, A, p.G.astype(dtype), function, scale, exact)


def permutation_case(name: str) -> Case:
    """Signed permutations of diag(s): their singular values come out bit-equal."""
    rng = np.random.default_rng(1)
    s = np.array([1.5, 1.25, 1.25, 1.25, 0.75, 0.75, 0.5, 0.25])
    k = s.size

    def signed_permutations() -> np.ndarray:
        order = np.argsort(rng.random((DRAWS, k)), axis=-1)
        return np.eye(k)[order] * rng.choice([-1.0, 1.0], (DRAWS, 1, k))

    U, V = signed_permutations(), signed_permutations()
    G = rng.standard_normal((DRAWS, k, k))
    A = (U * s) @ oracle.adjoint(V)
    p = oracle.Problem(A, U, np.broadcast_to(s, (DRAWS, k)), V, G)
    exact = p.exact_gradient(oracle.SOFT)
    return Case(name, A, G, "soft threshold", 1.0, exact)


def zero_columns_case(name: str, function: str) -> Case:
    """Two columns of zeros: two singular values come out exactly 0."""
    p = oracle.draw("zeros", (12, 8), draws=DRAWS)
    V = np.zeros_like(p.V)
    V[:, :6, :6] = oracle.random_unitary((DRAWS, 6, 6), np.random.default_rng(1), False)
    V[:, 6:, 6:] = np.eye(2)
    A = (p.U * p.s[:, None]) @ oracle.adjoint(V)
    p = oracle.Problem(A, p.U, p.s, V, p.G)
    exact = p.exact_gradient(oracle.FUNCTIONS[function])
    return Case(name, A, p.G, function, 1.0, exact)


def cases() -> list[Case]:
    """Rows of the table."""
    soft, tanh = "soft threshold", "tanh"
    single = np.float32
    return [
        random_case("complex, distinct", "distinct", soft, dtype=np.complex128),
        permutation_case("repeated, bit for bit"),
        random_case("repeated, up to rounding", "triple", soft),
        random_case("relative gap 1e-6, float32", "gap 1e-06", soft, dtype=single),
        zero_columns_case("12 × 8, two columns of zeros", soft),
        zero_columns_case("the same, tanh", tanh),
        random_case("norm 1e-160", "distinct", soft, scale=1e-160),
        random_case("values near 1e-6, tanh", "distinct", tanh, argument=1e-6),
    ]


def torch_gradient(svd: Callable[..., Any]) -> Callable[[Case], np.ndarray]:
    """Differentiate with PyTorch."""

    def gradient(case: Case) -> np.ndarray:
        A = torch.tensor(case.A, requires_grad=True)
        U, S, Vh = svd(A, full_matrices=False)
        scaled = S / case.scale
        value = torch.tanh(scaled)
        if case.function == "soft threshold":
            value = torch.relu(scaled - TAU)
        Y = (U * (case.scale * value)[..., None, :]) @ Vh
        (torch.tensor(case.G).conj() * Y).real.sum().backward()
        return A.grad.numpy()

    return gradient


def tf_gradient(svd: Callable[..., Any]) -> Callable[[Case], np.ndarray]:
    """Differentiate with TensorFlow."""

    def gradient(case: Case) -> np.ndarray:
        A, G = tf.constant(case.A), tf.constant(case.G)
        with tf.GradientTape() as tape:
            tape.watch(A)
            s, u, v = svd(A, full_matrices=False)
            scaled = s / case.scale
            value = tf.tanh(scaled)
            if case.function == "soft threshold":
                value = tf.nn.relu(scaled - TAU)
            value = tf.cast(case.scale * value, A.dtype)
            Y = (u * value[..., None, :]) @ tf.linalg.adjoint(v)
            loss = tf.reduce_sum(tf.math.real(tf.math.conj(G) * Y))
        return tape.gradient(loss, A).numpy()

    return gradient


def jax_gradient(svd: Callable[..., Any]) -> Callable[[Case], np.ndarray]:
    """Differentiate with JAX."""

    def gradient(case: Case) -> np.ndarray:
        def loss(A: jax.Array) -> jax.Array:
            U, S, Vh = svd(A, full_matrices=False)
            scaled = S / case.scale
            value = jnp.tanh(scaled)
            if case.function == "soft threshold":
                value = jnp.maximum(scaled - TAU, 0)
            Y = (U * (case.scale * value)[..., None, :]) @ Vh
            return jnp.sum(jnp.real(jnp.conj(case.G) * Y))

        # JAX returns the conjugate of the gradient that the others return.
        return np.conj(jax.grad(loss)(jnp.asarray(case.A)))

    return gradient


LIBRARIES = {
    "torch.linalg.svd": torch_gradient(torch.linalg.svd),
    "tf.linalg.svd": tf_gradient(tf.linalg.svd),
    "jnp.linalg.svd": jax_gradient(jnp.linalg.svd),
    "SVD-inv, as published": torch_gradient(published.svd),
    "svdinv.torch": torch_gradient(svdinv.torch.svd),
    "svdinv.tf": tf_gradient(svdinv.tf.svd),
    "svdinv.jax": jax_gradient(svdinv.jax.svd),
}


def entry(case: Case, gradient: Callable[[Case], np.ndarray]) -> str:
    """Median error over the draws, and the share of NaN or infinity."""
    try:
        error = oracle.relative_error(gradient(case), case.exact)
    except (RuntimeError, ValueError, NotImplementedError) as raised:
        return type(raised).__name__
    finite = np.isfinite(error)
    if not finite.any():
        return "NaN"
    text = f"{np.median(error[finite]):.0e}"
    if finite.all():
        return text
    return f"NaN in {np.mean(~finite):.0%}, else {text}"


def main() -> None:
    """Print the table."""
    print("| matrix | " + " | ".join(LIBRARIES) + " |")
    print("|---" * (1 + len(LIBRARIES)) + "|")
    for case in cases():
        with np.errstate(all="ignore"), jax.enable_x64(True):
            entries = [entry(case, gradient) for gradient in LIBRARIES.values()]
        print(f"| {case.name} | " + " | ".join(entries) + " |", flush=True)


if __name__ == "__main__":
    main()
