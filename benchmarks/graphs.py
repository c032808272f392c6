"""TensorFlow and Keras: svdinv beside what is made of TensorFlow's own SVD.

A step of a traced graph with an unknown batch, forward and backward, and a step of
Keras's `fit` of a model with a layer before it; eagerly, one matrix. One core, the time
of the process, in turns. Writes docs/figures/speed-graphs.txt and speed-eager.txt::

    python benchmarks/graphs.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ |= {
    "KERAS_BACKEND": "tensorflow",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

import keras
import tensorflow as tf
from one_matrix import write

import svdinv.tf

SHAPES = [(384, 32, 32), (1000, 16, 16), (32, 64, 64), (3, 512, 512)]
SIDES = [2, 8, 32]


def own(x: Any, tau: Any) -> Any:
    """Soft threshold as one writes it with TensorFlow."""
    s, u, v = tf.linalg.svd(x)
    return tf.matmul(u * tf.nn.relu(s - tau)[..., None, :], v, adjoint_b=True)


def graph(f: Callable[..., Any], x: Any) -> Callable[[], Any]:
    """Forward and backward, traced for any batch."""
    specification = tf.TensorSpec([None, *x.shape[1:]])

    @tf.function(input_signature=[specification] * 2)
    def step(x: Any, g: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x, 0.5)
        return tape.gradient(y, x, output_gradients=g)

    g = tf.random.normal(x.shape)
    return lambda: step(x, g).numpy()


class Threshold(keras.layers.Layer):
    """A threshold that is learned."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f

    def build(self, shape: Any) -> None:
        """Make tau."""
        self.tau = self.add_weight(shape=(), initializer="ones")

    def call(self, x: Any) -> Any:
        """Apply the threshold."""
        return self.f(x, self.tau)


def fit(f: Callable[..., Any], x: Any) -> Callable[[], Any]:
    """Prepare steps of `fit`, several of which are timed together."""
    given = keras.Input(x.shape[1:])
    model = keras.Model(given, Threshold(f)(keras.layers.Dense(x.shape[-1])(given)))
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((x, x)).repeat()
    return lambda: model.fit(data, steps_per_epoch=8, verbose=0)


EAGER: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "svd": (tf.linalg.svd, svdinv.tf.svd),
    "svt": (lambda x: own(x, 0.5), lambda x: svdinv.tf.svt(x, 0.5)),
}


def eagerly(f: Callable[[Any], Any], x: Any, gradient: bool) -> Callable[[], Any]:
    """Prepare 100 calls, with the gradient of the sum of all outputs or without."""

    def differentiated() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    run = differentiated if gradient else lambda: f(x)
    return lambda: [run() for _ in range(100)]


def eager(rounds: int) -> Iterator[str]:
    """Lines of the table of one matrix, eagerly."""
    yield f"| 100 calls | {' | '.join(f'{n}×{n}' for n in SIDES)} |"
    yield "|---" * (1 + len(SIDES)) + "|"
    for gradient in (True, False):
        for name, both in EAGER.items():
            inputs = [tf.random.stateless_normal((n, n), seed=[0, 0]) for n in SIDES]
            cells = [
                ratio([eagerly(f, x, gradient) for f in both], rounds) for x in inputs
            ]
            what = "" if gradient else ", no gradient"
            yield f"| `{name}`{what} | {' | '.join(cells)} |"


def ratio(runs: list[Callable[[], Any]], rounds: int) -> str:
    """Medians of what TensorFlow's own takes over svdinv's, with svdinv's time."""
    times: list[list[float]] = []
    for _ in range(rounds + 1):
        times.append([])
        for run in runs:
            start = time.process_time()
            run()
            times[-1].append(1000 * (time.process_time() - start))
    theirs, ours = (statistics.median(t) for t in zip(*times[1:], strict=True))
    return f"{theirs / ours:.2g} ({ours:.3g} ms)"


def graphs(rounds: int) -> Iterator[str]:
    """Lines of the table of graphs and of `fit`."""
    yield "| input | graph, a step | `fit`, 8 steps |"
    yield "|---|---|---|"
    for shape in SHAPES:
        x = tf.random.stateless_normal(shape, seed=[0, 0])
        both = own, svdinv.tf.svt
        cells = [ratio([make(f, x) for f in both], rounds) for make in (graph, fit)]
        yield f"| `svt` {'×'.join(map(str, shape))} | {' | '.join(cells)} |"


def main() -> None:
    """Write the tables."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    write(__doc__, 7, {"graphs": graphs, "eager": eager})


if __name__ == "__main__":
    main()
