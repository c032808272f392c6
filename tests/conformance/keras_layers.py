"""Operators and layers in models of Keras, compiled by XLA and not; see `table`.

Called for test_keras.py by interpreters.py, in a process that has one backend. Each
has a model of its own: TensorFlow takes twice as long for one of all.
"""

from __future__ import annotations

import traceback

import keras
import numpy as np
from frameworks import FRAMEWORKS, as_tuple
from keras import ops
from keras_checks import CASES as LAYERS
from keras_checks import draw
from operator_cases import ALL_CASES, problem
from table import ALL, TRANSFORMS, is_tried, limit
from table import LAYERS as LISTED

import svdinv.keras
from examples import NAMES, SCALES, check, first

BACKEND = keras.backend.backend()
COUNT = 3


class Operator(keras.layers.Layer):
    """An operator whose real arguments, tau or weights, are the layer's own weights."""

    def __init__(self, name):
        super().__init__()
        self.operator = name.split(",")[0]
        _, self.case = ALL_CASES[name]
        self.own = [
            self.add_weight(shape=np.shape(p), initializer="zeros")
            for p in self.case.parameters
        ]
        for weight, p in zip(self.own, self.case.parameters, strict=True):
            weight.assign(p)

    def call(self, *x):
        y = as_tuple(self.case.call(FRAMEWORKS[BACKEND].module, *x, *self.own))
        return [ops.real(t) for t in y]


def operator(name):
    """Layer, inputs and what comes out."""
    layer = Operator(name)
    _, case = ALL_CASES[name]
    inputs = problem(name)[0]
    inputs = inputs[: len(inputs) - len(case.parameters)]
    x = [np.stack([s * t for s in SCALES[:COUNT]]) for t in inputs]
    return (
        layer,
        x,
        as_tuple(case.call(FRAMEWORKS["numpy"].module, *x, *case.parameters)),
    )


def layer(name):
    make, shape = LAYERS[name]
    made, x = make(), draw((COUNT, *shape), "float32")
    return made, [x], (ops.convert_to_numpy(made(x)),)


def try_together(made, jit):
    """One model of some: outputs, and a step of training that changes all weights."""
    inputs, outputs, x, expected = [], [], [], []
    for of_layer, arrays, y in made:
        given = [keras.Input(t.shape[1:], dtype="float32") for t in arrays]
        inputs += given
        outputs += as_tuple(of_layer(*given))
        x += [t.astype(np.float32) for t in arrays]
        expected += y
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(1e-3), loss=["mse"] * len(outputs), jit_compile=jit
    )
    found = model.predict_on_batch(x)
    check(
        [np.asarray(y, np.float64) for y in as_tuple(found)],
        [np.asarray(y, np.float64) for y in expected],
        1e-4,
    )
    learned = [
        w
        for of_layer, _, _ in made
        for w in of_layer.trainable_weights
        # Of a threshold that only keeps or drops, the derivative is 0.
        if getattr(of_layer, "operator", "") != "svht"
    ]
    before = [np.array(ops.convert_to_numpy(w)) for w in learned]
    if not model.trainable_weights:  # of which Keras would warn
        return
    model.train_on_batch(x, [np.zeros_like(y) for y in as_tuple(found)])
    for old, new in zip(before, learned, strict=True):
        new = ops.convert_to_numpy(new)
        assert np.isfinite(new).all()
        assert (old != new).any()


def check_the_table_has_all_layers(folder):
    assert set(LISTED) == set(svdinv.keras.__all__)


def check_models_fail_where_the_table_says_so(folder):
    makers = {name: (operator, first(name)) for name in NAMES}
    makers |= {name: (layer, name) for name in LAYERS}
    wrong = []

    def attempt(names, jit):
        try:
            try_together([makers[n][0](makers[n][1]) for n in names], jit)
        except Exception:
            return traceback.format_exc()
        return None

    for transform in (t.name for t in TRANSFORMS["Keras"]):
        backend, _, jit = transform.partition(", ")
        if backend != BACKEND:
            continue
        rows = {}  # of the table, with the names of the cases of each
        for name in makers:
            row = name.split(",")[0]
            if is_tried("Keras", transform, row):
                rows.setdefault(row, []).append(name)
        listed = (*ALL, *LISTED)
        assert rows.keys() == {r for r in listed if is_tried("Keras", transform, r)}
        for row, names in rows.items():
            failure = attempt(names, bool(jit))
            if (failure is None) == bool(limit("Keras", transform, row)):
                wrong.append((transform, row, failure or "does not fail"))
    assert not wrong
