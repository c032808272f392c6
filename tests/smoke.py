"""Try an installed svdinv: ``python smoke.py EXTRA [--kernels]``; needs no pytest.

The gradient of singular value thresholding at the identity, whose singular values are
all equal, by the framework of one extra, and whether the kernels were found.
"""

from __future__ import annotations

import argparse


def with_numpy() -> list[float]:
    import numpy as np

    import svdinv.numpy

    def loss(A):
        return np.sum(svdinv.numpy.svt(A, 0.5) ** 2)

    _, pullback = svdinv.numpy.vjp(loss, np.eye(4))
    return np.diagonal(pullback(1.0)[0]).tolist()


def with_torch() -> list[float]:
    import torch

    import svdinv.torch

    A = torch.eye(4, requires_grad=True)
    svdinv.torch.svt(A, 0.5).square().sum().backward()
    return A.grad.diagonal().tolist()


def with_tensorflow() -> list[float]:
    import tensorflow as tf

    import svdinv.tf

    A = tf.eye(4)
    with tf.GradientTape() as tape:
        tape.watch(A)
        loss = tf.reduce_sum(svdinv.tf.svt(A, 0.5) ** 2)
    return tf.linalg.diag_part(tape.gradient(loss, A)).numpy().tolist()


def with_jax() -> list[float]:
    import jax
    import jax.numpy as jnp

    import svdinv.jax

    def loss(A):
        return jnp.sum(svdinv.jax.svt(A, 0.5) ** 2)

    return jnp.diagonal(jax.jit(jax.grad(loss))(jnp.eye(4))).tolist()


EXTRAS = {
    "numpy": with_numpy,
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "jax": with_jax,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Try an installed svdinv.")
    parser.add_argument("extra", choices=EXTRAS)
    parser.add_argument("--kernels", action="store_true", help="they must be there")
    arguments = parser.parse_args()

    import svdinv
    from svdinv import kernels

    found = EXTRAS[arguments.extra]()
    if max(abs(value - 1) for value in found) > 1e-6:
        raise SystemExit(f"svt of {arguments.extra}: gradient {found}, not ones")
    variants = kernels.variants()
    if arguments.kernels and not variants:
        raise SystemExit("the kernels are missing")
    print(f"svdinv {svdinv.__version__} with {arguments.extra}; kernels: {variants}")


if __name__ == "__main__":
    main()
