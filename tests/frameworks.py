"""One description of every framework: arrays of NumPy in, arrays of NumPy out.

Cotangents are those of dL = Re tr(g^H dx) on every framework.
"""

from __future__ import annotations

import functools
import importlib
import shutil
import warnings
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec

import numpy as np
import pytest

REAL = (np.float64, np.float32)
DTYPES = (np.float64, np.complex128, np.float32, np.complex64)


def as_tuple(results):
    """Give one result or several as a plain tuple."""
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


class Framework:
    """What tests ask of a framework.

    Attributes
    ----------
    name : str
        For test ids.
    package : str
        What has to be installed.
    shape_error : tuple of type
        What a wrong shape raises.
    forward : bool
        Whether there is a forward mode.
    dtypes : tuple
        What it computes in.
    """

    name: str
    package: str
    public = ""
    forward = True
    dtypes = DTYPES
    shape_error: type[Exception] = ValueError
    gauge_error: type[Exception] | None = None  # svdinv's own
    # How many times LAPACK's the errors of its decompositions in single precision are.
    loose = 1.0

    @functools.cached_property
    def module(self):
        """Public module of svdinv."""
        return importlib.import_module(f"svdinv.{self.public or self.name}")

    def require(self):
        """Skip the test where the framework is missing."""
        pytest.importorskip(self.package)
        return self

    def context(self):
        """Double precision, where that has to be asked for."""
        return nullcontext()

    def array(self, x):
        """Array of the framework, a copy."""
        raise NotImplementedError

    def numpy(self, x):
        """Array of NumPy."""
        return np.asarray(x)

    def zeros(self, like):
        """Cotangent that is 0."""
        return self.array(np.zeros(self.numpy(like).shape, self.numpy(like).dtype))

    def svd(self, A, **options):
        """U, S and Vh as arrays of the framework."""
        return tuple(self.module.svd(A, **options))

    def tanh(self, x):
        """A function for `spectral_map`."""
        raise NotImplementedError

    def wait(self):
        """Wait for reports."""

    @functools.cached_property
    def namespace(self):
        """What svdinv's mathematics computes with."""
        return self.module._backend.xp

    def arrays(self, arrays):
        return tuple(None if x is None else self.array(x) for x in arrays)

    def shown(self, arrays):
        return tuple(map(self.numpy, arrays))

    def value(self, f, *arrays):
        """Tuple of the results of `f`."""
        with self.context():
            return self.shown(as_tuple(f(*self.arrays(arrays))))

    def vjp(self, f, *arrays):
        """Tuple of results, and the function from their cotangents to the arguments'.

        A cotangent that is None is zero.
        """
        raise NotImplementedError

    def jvp(self, f, arrays, tangents):
        """Tuple of the tangents of the results."""
        raise NotImplementedError

    def hvp(self, f, arrays, directions, cotangents):
        """Derivative along the directions of the gradient of Re <cotangents, f>."""
        raise NotImplementedError

    def derivatives(self, f, arrays, directions, cotangents):
        """Results, gradients, tangents (None without a forward mode) and `hvp`."""
        values, pullback = self.vjp(f, *arrays)
        return (
            values,
            pullback(*cotangents),
            self.jvp(f, arrays, directions) if self.forward else None,
            self.hvp(f, arrays, directions, cotangents),
        )

    def __repr__(self):
        return self.name


class Looking:
    """A namespace whose arrays have values that may be asked for, and assigned to."""

    writable = True

    def __init__(self, xp):
        self._xp = xp

    def __getattr__(self, name):
        return getattr(self._xp, name)

    def any_on_host(self, mask):
        return bool(self._xp.any(mask))


class Taped(Framework):
    """NumPy, CuPy and any other namespace: `vjp` and `jvp` of svdinv itself."""

    @functools.cached_property
    def namespace(self):
        if self.name == "array_api_strict":
            return Looking(importlib.import_module(self.name))
        return Looking(importlib.import_module(f"array_api_compat.{self.name}"))

    def vjp(self, f, *arrays):
        results, pull = self.module.vjp(f, *self.arrays(arrays))

        def pullback(*cotangents):
            given = self.arrays(cotangents)
            return self.shown(pull(given if isinstance(results, tuple) else given[0]))

        return self.shown(as_tuple(results)), pullback

    def jvp(self, f, arrays, tangents):
        _, moved = self.module.jvp(f, self.arrays(arrays), self.arrays(tangents))
        return self.shown(as_tuple(moved))

    def hvp(self, f, arrays, directions, cotangents):
        given = self.arrays(cotangents)

        def gradients(*x):
            results, pull = self.module.vjp(f, *x)
            return pull(given if isinstance(results, tuple) else given[0])

        _, products = self.module.jvp(
            gradients, self.arrays(arrays), self.arrays(directions)
        )
        return self.shown(products)


class NumPy(Taped):
    name = package = "numpy"
    shape_error = np.linalg.LinAlgError

    def array(self, x):
        return np.array(x)

    def tanh(self, x):
        return np.tanh(x)


class Strict(Taped):
    """The namespace that allows nothing but the standard."""

    name = package = "array_api_strict"

    @functools.cached_property
    def module(self):
        import array_api_strict

        import svdinv

        return svdinv.for_namespace(array_api_strict)

    def array(self, x):
        import array_api_strict as xp

        return xp.asarray(np.array(x))

    def tanh(self, x):
        return x.__array_namespace__().tanh(x)


class CuPy(Taped):
    name = package = "cupy"
    shape_error = np.linalg.LinAlgError
    loose = 2.5  # cuSOLVER

    def require(self):
        if not pytest.importorskip("cupy").is_available():
            pytest.skip("no CUDA GPU")
        return self

    def array(self, x):
        import cupy

        return cupy.array(x)

    def numpy(self, x):
        import cupy

        return cupy.asnumpy(x)

    def tanh(self, x):
        return np.tanh(x)  # CuPy's own does not take what is traced


class Torch(Framework):
    name = package = "torch"
    shape_error = RuntimeError

    def array(self, x):
        import torch

        return torch.tensor(np.asarray(x))

    def numpy(self, x):
        return x.detach().resolve_conj().resolve_neg().cpu().numpy()

    def tanh(self, x):
        return x.tanh()

    def vjp(self, f, *arrays):
        import torch

        x = [a.requires_grad_() for a in self.arrays(arrays)]
        results = as_tuple(f(*x))

        def pullback(*cotangents):
            used = [
                (y, self.array(g))
                for y, g in zip(results, cotangents, strict=True)
                if g is not None
            ]
            outputs, given = zip(*used, strict=True)
            found = torch.autograd.grad(
                outputs, x, given, retain_graph=True, materialize_grads=True
            )
            return self.shown(found)

        return self.shown(results), pullback

    def jvp(self, f, arrays, tangents):
        from torch.autograd import forward_ad

        with warnings.catch_warnings(), forward_ad.dual_level():
            # Raised by PyTorch's own forward mode, on its first use.
            warnings.filterwarnings("ignore", ".torch.jit", DeprecationWarning)
            pairs = zip(self.arrays(arrays), self.arrays(tangents), strict=True)
            results = as_tuple(f(*(forward_ad.make_dual(x, d) for x, d in pairs)))
            moved = [forward_ad.unpack_dual(y) for y in results]
            return tuple(
                self.numpy(y.primal * 0 if y.tangent is None else y.tangent)
                for y in moved
            )

    def hvp(self, f, arrays, directions, cotangents):
        import torch

        x = [a.requires_grad_() for a in self.arrays(arrays)]
        gradients = torch.autograd.grad(
            as_tuple(f(*x)), x, self.arrays(cotangents), create_graph=True,
            materialize_grads=True,
        )  # fmt: skip
        used = [
            (g, self.array(d))
            for g, d in zip(gradients, directions, strict=True)
            if g.requires_grad
        ]
        outputs, given = zip(*used, strict=True)
        return self.shown(
            torch.autograd.grad(outputs, x, given, materialize_grads=True)
        )


class TorchCUDA(Torch):
    """PyTorch's tensors on a GPU."""

    name, public = "torch-cuda", "torch"
    loose = 2.5  # cuSOLVER

    def require(self):
        if not pytest.importorskip("torch").cuda.is_available():
            pytest.skip("no CUDA GPU")
        return self

    def array(self, x):
        return super().array(x).cuda()


class TensorFlow(Framework):
    name, public, package = "tensorflow", "tf", "tensorflow"
    forward = False

    def array(self, x):
        import tensorflow as tf

        return tf.constant(x)

    def numpy(self, x):
        return x.numpy()

    def svd(self, A, **options):
        import tensorflow as tf

        s, u, v = self.module.svd(A, **options)
        return u, s, tf.linalg.adjoint(v)

    def tanh(self, x):
        import tensorflow as tf

        return tf.tanh(x)

    def vjp(self, f, *arrays):
        import tensorflow as tf

        x = self.arrays(arrays)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            results = as_tuple(f(*x))

        def pullback(*cotangents):
            used = [
                (y, self.array(g))
                for y, g in zip(results, cotangents, strict=True)
                if g is not None
            ]
            outputs, given = map(list, zip(*used, strict=True))
            return self.shown(
                tape.gradient(outputs, x, given, unconnected_gradients="zero")
            )

        return self.shown(results), pullback

    def hvp(self, f, arrays, directions, cotangents):
        import tensorflow as tf

        x = self.arrays(arrays)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                results = list(as_tuple(f(*x)))
            gradients = tape.gradient(
                results, x, list(self.arrays(cotangents)), unconnected_gradients="zero"
            )
        products = outer.gradient(
            list(gradients), x, list(self.arrays(directions)),
            unconnected_gradients="zero",
        )  # fmt: skip
        return self.shown(products)


class JAX(Framework):
    name = package = "jax"
    # What a callback raises, JAX raises as its own error.
    gauge_error = RuntimeError

    @contextmanager
    def context(self):
        import jax

        with jax.enable_x64(True):
            yield

    def array(self, x):
        import jax.numpy as jnp

        return jnp.asarray(x)

    def tanh(self, x):
        import jax.numpy as jnp

        return jnp.tanh(x)

    def wait(self):
        import jax

        jax.effects_barrier()

    def vjp(self, f, *arrays):
        import jax

        with self.context():
            results, transpose = jax.vjp(
                lambda *x: as_tuple(f(*x)), *self.arrays(arrays)
            )

        def pullback(*cotangents):
            with self.context():
                # JAX's cotangents are the conjugates of the others'.
                given = tuple(
                    self.zeros(y) if g is None else self.array(np.conj(g))
                    for y, g in zip(results, cotangents, strict=True)
                )
                return tuple(np.conj(g) for g in self.shown(transpose(given)))

        return self.shown(results), pullback

    def jvp(self, f, arrays, tangents):
        import jax

        with self.context():
            x, d = self.arrays(arrays), self.arrays(tangents)
            return self.shown(jax.jvp(lambda *x: as_tuple(f(*x)), x, d)[1])

    def hvp(self, f, arrays, directions, cotangents):
        return self.derivatives(f, arrays, directions, cotangents)[-1]

    def derivatives(self, f, arrays, directions, cotangents):
        with self.context():
            given = map(self.arrays, (arrays, directions, map(np.conj, cotangents)))
            values, gradients, tangents, products = map(
                self.shown, self._compiled(f)(*given)
            )
        return (
            values,
            tuple(map(np.conj, gradients)),
            tangents,
            tuple(map(np.conj, products)),
        )

    @staticmethod
    @functools.cache  # compiling takes nearly all of the time
    def _compiled(f):
        import jax

        @jax.jit
        def everything(x, d, g):
            def gradients(*x):
                results, transpose = jax.vjp(lambda *x: as_tuple(f(*x)), *x)
                return results, transpose(g)

            found, moved = jax.jvp(gradients, x, d)
            return *found, *moved

        return everything


class MLX(Framework):
    """Single precision."""

    name, package = "mlx", "mlx.core"
    dtypes = (np.float32, np.complex64)

    def require(self):
        pytest.importorskip("svdinv.mlx")
        return self

    def array(self, x):
        import mlx.core as mx

        return mx.array(np.asarray(x))

    def numpy(self, x):
        return np.array(x)

    def tanh(self, x):
        import mlx.core as mx

        return mx.tanh(x)

    def vjp(self, f, *arrays):
        import mlx.core as mx

        x = list(self.arrays(arrays))
        results = as_tuple(f(*x))

        def pullback(*cotangents):
            given = [
                self.zeros(y) if g is None else self.array(g)
                for y, g in zip(results, cotangents, strict=True)
            ]
            return self.shown(mx.vjp(lambda *x: list(as_tuple(f(*x))), x, given)[1])

        return self.shown(results), pullback

    def jvp(self, f, arrays, tangents):
        import mlx.core as mx

        x, d = list(self.arrays(arrays)), list(self.arrays(tangents))
        return self.shown(mx.jvp(lambda *x: list(as_tuple(f(*x))), x, d)[1])

    def hvp(self, f, arrays, directions, cotangents):
        import mlx.core as mx

        given = list(self.arrays(cotangents))

        def gradients(*x):
            return mx.vjp(lambda *x: list(as_tuple(f(*x))), list(x), given)[1]

        x, d = list(self.arrays(arrays)), list(self.arrays(directions))
        return self.shown(mx.vjp(gradients, x, d)[1])


FRAMEWORKS = {
    f.name: f
    for f in (
        *(NumPy(), Strict(), Torch(), TensorFlow(), JAX(), MLX()),
        *(CuPy(), TorchCUDA()),
    )
}


ON_A_GPU = {"cupy", "torch-cuda"}


def _param(f):
    marks = pytest.mark.gpu if f.name in ON_A_GPU else ()
    return pytest.param(f, id=f.name, marks=marks)


def _plain(name):
    return name.removesuffix("-cuda")


def params(*names, without=()):
    """Frameworks to parametrise a test over: those named, or all.

    MLX and those of a GPU only where they could run, so as not to be skipped a hundred
    times. "torch" is PyTorch on a GPU, too.
    """
    there = [
        f
        for f in FRAMEWORKS.values()
        if (_plain(f.name) in names or not names)
        and _plain(f.name) not in without
        and (f.name != "mlx" or find_spec("svdinv.mlx"))
        and (f.name not in ON_A_GPU or shutil.which("nvidia-smi"))
    ]
    return [_param(f) for f in there]
