"""Each framework's SVD, differentiated by that framework, NumPy in and NumPy out."""

from __future__ import annotations

import numpy as np
import pytest

from svdinv.core import svd, svd_pullback


class NumPy:
    def vjp(self, A, **options):
        import svdinv.numpy

        return svdinv.numpy.svd_vjp(A, **options)


class Strict:
    """The core alone, in the namespace that allows nothing but the standard."""

    def vjp(self, A, full_matrices=False, **options):
        import array_api_strict as xp

        factors = svd(xp.asarray(A), full_matrices=full_matrices)

        def pullback(*cotangents):
            given = [None if g is None else xp.asarray(g) for g in cotangents]
            return np.asarray(svd_pullback(*factors, *given, **options))

        return tuple(map(np.asarray, factors)), pullback


class Torch:
    def vjp(self, A, **options):
        import torch

        import svdinv.torch

        A = torch.tensor(A, requires_grad=True)
        factors = svdinv.torch.svd(A, **options)

        def pullback(*cotangents):
            used = [
                (x, torch.tensor(g))
                for x, g in zip(factors, cotangents, strict=True)
                if g is not None
            ]
            outputs, given = zip(*used, strict=True)
            return torch.autograd.grad(outputs, A, given, retain_graph=True)[0].numpy()

        return tuple(x.detach().numpy() for x in factors), pullback


class TensorFlow:
    def vjp(self, A, **options):
        import tensorflow as tf

        import svdinv.tf

        A = tf.constant(A)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(A)
            s, u, v = svdinv.tf.svd(A, **options)
            vh = tf.linalg.adjoint(v)

        def pullback(*cotangents):
            used = [
                (x, tf.constant(g))
                for x, g in zip((u, s, vh), cotangents, strict=True)
                if g is not None
            ]
            outputs, given = zip(*used, strict=True)
            return tape.gradient(list(outputs), A, list(given)).numpy()

        return (u.numpy(), s.numpy(), vh.numpy()), pullback


class JAX:
    def vjp(self, A, **options):
        import jax
        import jax.numpy as jnp

        import svdinv.jax

        with jax.enable_x64(True):
            factors, transpose = jax.vjp(
                lambda a: tuple(svdinv.jax.svd(a, **options)), jnp.asarray(A)
            )

        def pullback(*cotangents):
            with jax.enable_x64(True):
                # JAX's cotangents are the conjugates of the others'.
                given = tuple(
                    jnp.zeros_like(x) if g is None else jnp.conj(jnp.asarray(g))
                    for x, g in zip(factors, cotangents, strict=True)
                )
                return np.conj(np.asarray(transpose(given)[0]))

        return tuple(map(np.asarray, factors)), pullback


FRAMEWORKS = {
    "numpy": NumPy(),
    "array_api_strict": Strict(),
    "torch": Torch(),
    "tensorflow": TensorFlow(),
    "jax": JAX(),
}


def framework(name):
    pytest.importorskip(name)
    return FRAMEWORKS[name]
