"""One framework of benchmarks/speed.py, in a process and with threads of its own.

Started as ``speed_worker.py FRAMEWORK DEVICE THREADS``; reads requests from standard
input and answers on standard output, each one line of JSON:

- ``{"prepare": contender, "case": path, "relative": bool}``: load the case, run it
  until warm, answer ``{"seconds": of one run, "error": of the gradient}``;
- ``{"time": contender}``: answer ``{"seconds": of one run}``;
- ``{"memory": contender, "case": path, "relative": bool}``: answer ``{"bytes": peak
  above what there was before}``, right in a process that has done nothing else;
- ``{"forget": true}``: drop the case.

What fails is answered with ``{"failed": name of the exception}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

HERE = Path(__file__).resolve().parent
LEAST = 0.02  # seconds to time at once: a shorter run is repeated
METHODS = ("auto", "svd", "gram", "matmul")
TRACED = ("auto", "gram", "matmul")  # where "auto" is "svd"
WARM = 0.3  # a shorter run is made once more, untimed, right before it is timed

# (A, tau, relative) -> result.
Operator: TypeAlias = Callable[[Any, float, bool], Any]
# () -> the gradient, once it is there.
Run: TypeAlias = Callable[[], Any]


class Torch:
    """PyTorch: svdinv by every method, PyTorch's own SVD, the published derivative."""

    package = "torch"

    def __init__(self, device: str, threads: int) -> None:
        import published
        import torch

        import svdinv.torch

        torch.set_num_threads(threads)
        self.torch, self.device = torch, torch.device(device)
        torch.ones(1, device=self.device)  # raises without the device

        def composed(svd: Callable[..., Any]) -> Operator:
            def operator(A: Any, tau: float, relative: bool) -> Any:
                U, S, Vh = svd(A, full_matrices=False)
                level = tau * S[..., :1] if relative else tau
                return (U * torch.relu(S - level)[..., None, :]) @ Vh

            return operator

        self.contenders = methods("svdinv.torch.svt", svdinv.torch.svt) | {
            "svdinv.torch.svd": composed(svdinv.torch.svd),
            "torch.linalg.svd": composed(torch.linalg.svd),
            "published": composed(published.svd),
        }

    def name(self) -> str:
        """Name of the device, if it is no CPU."""
        cuda = self.device.type == "cuda"
        return self.torch.cuda.get_device_name(self.device) if cuda else ""

    def run(
        self, operator: Operator, A: np.ndarray, G: np.ndarray, tau: float, rel: bool
    ) -> Run:
        """Forward and backward, waiting for the device."""
        A = self.torch.from_numpy(A).to(self.device).requires_grad_()
        G = self.torch.from_numpy(G).to(self.device)

        def run() -> Any:
            (gA,) = self.torch.autograd.grad(operator(A, tau, rel), A, G)
            if self.device.type == "cuda":
                self.torch.cuda.synchronize(self.device)
            return gA

        return run

    def to_numpy(self, gA: Any) -> np.ndarray:
        """Gradient as an array."""
        return gA.cpu().numpy()

    def peak(self, run: Run) -> int | None:
        """Most memory that a run takes, above what there was before."""
        if self.device.type != "cuda":
            return resident_peak(run)
        cuda = self.torch.cuda
        before = cuda.memory_allocated(self.device)
        cuda.reset_peak_memory_stats(self.device)
        run()
        return cuda.max_memory_allocated(self.device) - before


class TensorFlow:
    """TensorFlow: svdinv and TensorFlow's own SVD, each in a `tf.function`."""

    package = "tensorflow"

    def __init__(self, device: str, threads: int) -> None:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        import svdinv.tf

        tf.get_logger().setLevel("ERROR")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        if device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise RuntimeError("TensorFlow sees no GPU")
        self.tf = tf

        def composed(A: Any, tau: float, relative: bool) -> Any:
            s, u, v = tf.linalg.svd(A)
            level = tau * s[..., :1] if relative else tau
            value = tf.cast(tf.nn.relu(s - level), A.dtype)
            return tf.matmul(u * value[..., None, :], v, adjoint_b=True)

        self.contenders = methods("svdinv.tf.svt", svdinv.tf.svt, TRACED) | {
            "tf.linalg.svd": composed
        }

    def name(self) -> str:
        """Name of the device, which PyTorch tells."""
        return ""

    def run(
        self, operator: Operator, A: np.ndarray, G: np.ndarray, tau: float, rel: bool
    ) -> Run:
        """Forward and backward in one graph, whose results are both used."""
        tf = self.tf
        A, G = tf.constant(A), tf.constant(G)

        @tf.function
        def both(A: Any, G: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(A)
                Y = operator(A, tau, rel)
            return Y, tape.gradient(Y, A, output_gradients=G)

        def run() -> Any:
            _, gA = both(A, G)
            if "GPU" in gA.device:
                tf.test.experimental.sync_devices()
            return gA

        return run

    def to_numpy(self, gA: Any) -> np.ndarray:
        """Gradient as an array."""
        return gA.numpy()


class Jax:
    """JAX: svdinv and JAX's own SVD, each under `jax.jit`."""

    package = "jax"

    def __init__(self, device: str, threads: int) -> None:
        os.environ["JAX_PLATFORMS"] = device
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax
        import jax.numpy as jnp

        import svdinv.jax

        jax.devices()  # raises without the device
        self.jax = jax

        def composed(A: Any, tau: float, relative: bool) -> Any:
            U, S, Vh = jnp.linalg.svd(A, full_matrices=False)
            level = tau * S[..., :1] if relative else tau
            return (U * jnp.maximum(S - level, 0)[..., None, :]) @ Vh

        self.contenders = methods("svdinv.jax.svt", svdinv.jax.svt, TRACED) | {
            "jnp.linalg.svd": composed
        }

    def name(self) -> str:
        """Name of the device, which PyTorch tells."""
        return ""

    def run(
        self, operator: Operator, A: np.ndarray, G: np.ndarray, tau: float, rel: bool
    ) -> Run:
        """Forward and backward in one program, whose results are both used."""
        jax = self.jax

        @jax.jit
        def both(A: Any, G: Any) -> Any:
            Y, pullback = jax.vjp(lambda A: operator(A, tau, rel), A)
            return Y, pullback(G)[0]

        # JAX's cotangents are the conjugates of the others'.
        A, G = jax.device_put(A), jax.device_put(G.conj())
        return lambda: jax.block_until_ready(both(A, G))[1]

    def to_numpy(self, gA: Any) -> np.ndarray:
        """Gradient as an array, in the others' convention."""
        return np.asarray(gA).conj()


class CuPy:
    """CuPy: svdinv by every method, with its derivative by hand."""

    package = "cupy"

    def __init__(self, device: str, threads: int) -> None:
        import cupy

        import svdinv.cupy

        if device != "cuda" or not cupy.is_available():
            raise RuntimeError("CuPy is for GPUs")
        self.cupy = cupy
        self.contenders = methods("svdinv.cupy.svt", svdinv.cupy.svt_vjp)

    def name(self) -> str:
        """Name of the device, which PyTorch tells."""
        return ""

    def run(
        self, operator: Operator, A: np.ndarray, G: np.ndarray, tau: float, rel: bool
    ) -> Run:
        """Forward and backward, waiting for the device."""
        A, G = self.cupy.asarray(A), self.cupy.asarray(G)

        def run() -> Any:
            _, pullback = operator(A, tau, rel)
            gA, _ = pullback(G)
            self.cupy.cuda.Device().synchronize()
            return gA

        return run

    def to_numpy(self, gA: Any) -> np.ndarray:
        """Gradient as an array."""
        return self.cupy.asnumpy(gA)


def methods(
    name: str, svt: Callable[..., Any], given: tuple[str, ...] = METHODS
) -> dict[str, Operator]:
    """`svt` by each of its methods."""

    def by(method: str, A: Any, tau: float, relative: bool) -> Any:
        return svt(A, tau, relative=relative, method=method)

    return {
        name if method == "auto" else f"{name}, {method}": partial(by, method)
        for method in given
    }


def resident_peak(run: Run) -> int | None:
    """Peak of the resident memory in a run above that before; only Linux tells."""
    if not sys.platform.startswith("linux"):
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith(key)) * 1024

    before = status("VmRSS")
    run()
    return status("VmHWM") - before


class Worker:
    """What is prepared, and how to answer a request."""

    def __init__(self, framework: Any) -> None:
        self.framework = framework
        self.runs: dict[str, tuple[Run, int]] = {}

    def load(self, request: dict[str, Any], contender: str) -> tuple[Run, np.ndarray]:
        """Make the run of a contender, and give the exact gradient."""
        with np.load(request["case"]) as case:
            A, G, exact = case["A"], case["G"], case["exact"]
            tau = float(case["tau"])
        operator = self.framework.contenders[contender]
        return self.framework.run(operator, A, G, tau, request["relative"]), exact

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Warm a contender up; tell how far its gradient is from the exact one."""
        contender = request["prepare"]
        run, exact = self.load(request, contender)
        gA = self.framework.to_numpy(run())  # compiles, if anything is to be compiled
        error = np.linalg.norm(gA - exact) / np.linalg.norm(exact)
        run()
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        self.runs[contender] = run, max(1, round(LEAST / seconds))
        return {"seconds": seconds, "error": float(error)}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time one run, or the mean of several short ones."""
        run, count = self.runs[request["time"]]
        start = time.perf_counter()
        run()
        once = time.perf_counter() - start
        if once > WARM:  # so long that what ran before makes no difference
            return {"seconds": once}
        start = time.perf_counter()
        for _ in range(count):
            run()
        return {"seconds": (time.perf_counter() - start) / count}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Peak memory of one run, after a run of a few rows or of a small batch."""
        run, _ = self.load(request | {"case": request["small"]}, request["memory"])
        run()
        run, _ = self.load(request, request["memory"])
        return {"bytes": self.framework.peak(run)}

    def forget(self, request: dict[str, Any]) -> dict[str, Any]:
        """Drop what is prepared."""
        self.runs.clear()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request by the method that its first key names."""
        kind = next(iter(request))
        try:
            return getattr(self, kind)(request)
        except Exception as error:
            print(f"{request[kind]}: {error}", file=sys.stderr)
            return {"failed": type(error).__name__.lstrip("_")}


FRAMEWORKS = {"torch": Torch, "tf": TensorFlow, "jax": Jax, "cupy": CuPy}


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a framework prints is no answer
    name, device, threads = sys.argv[1:]
    if hasattr(os, "sched_setaffinity") and device == "cpu":
        # JAX takes as many threads as there are processors to run on.
        cores = sorted(os.sched_getaffinity(0))[: int(threads)]
        os.sched_setaffinity(0, cores)
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    kind = FRAMEWORKS[name]
    try:
        framework = kind(device, int(threads))
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=answers)
        return
    worker = Worker(framework)
    hello = {
        "contenders": list(framework.contenders),
        "version": sys.modules[kind.package].__version__,
        "device": framework.name(),
    }
    print(json.dumps(hello), file=answers)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
