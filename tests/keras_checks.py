"""Checks of the Keras layers on the backend that KERAS_BACKEND names.

Called for test_keras.py by interpreters.py, in a process that has one backend, with a
folder for the arrays that all backends must agree on.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

import keras
import numpy as np
import pytest
from keras import ops

import svdinv.keras as layers

FIRST, LAST = {"data_format": "channels_first"}, {"data_format": "channels_last"}

# Layers, and the shapes of what they take, without the batch.
CASES = {
    "SingularValueThreshold": (
        lambda: layers.SingularValueThreshold([0.1, 0.3], channels=2, **FIRST),
        (2, 6, 5),
    ),
    "SingularValueThreshold, weighted": (
        lambda: layers.SingularValueThreshold(
            [[0.2, 0.1, 0.2, 0.3]], num_values=4, channels=3, relative=False, **LAST
        ),
        (4, 5, 3),
    ),
    "FirmThreshold": (lambda: layers.FirmThreshold(0.3, gamma=2), (6, 5)),
    "SchattenProx": (lambda: layers.SchattenProx(2 / 3, 0.05), (6, 5)),
    "TensorSingularValueThreshold": (
        lambda: layers.TensorSingularValueThreshold(0.4, axis=-3),
        (3, 4, 5),
    ),
    "LocalLowRank": (
        lambda: layers.LocalLowRank((4, 2), 0.3, stride=2, channels=2, **FIRST),
        (2, 3, 7, 6),
    ),
    "Whitening": (
        lambda: layers.Whitening(momentum=0.9, epsilon=1e-2, **LAST),
        (4, 3),
    ),
    "LowRank": (lambda: layers.LowRank(2, multiplets=0.1, max_rank=3), (6, 5)),
    "Casorati": (
        lambda: layers.Casorati(layers.SingularValueThreshold(0.3)),
        (4, 3, 5),
    ),
}


def draw(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, *shape)) / 4
    return (parts[0] + 1j * parts[1] if "complex" in dtype else parts[0]).astype(dtype)


def weights(layer):
    return [np.array(ops.convert_to_numpy(w)) for w in layer.trainable_weights]


def run(layer, x, **kwargs):
    return np.array(ops.convert_to_numpy(layer(x, **kwargs)))


def outputs():
    """Give the results of all layers, with weights that are set."""
    found = {}
    for dtype in ("float32", "complex64"):
        # The statistics of Whitening are real.
        cases = {k: v for k, v in CASES.items() if dtype[0] == "f" or k != "Whitening"}
        made = [make() for make, _ in cases.values()]
        for layer in made:
            layer.set_weights([w + 0.25 for w in layer.get_weights()])
        inputs = [keras.Input(shape, dtype=dtype) for _, shape in cases.values()]
        results = [layer(x) for layer, x in zip(made, inputs, strict=True)]
        # One model, which JAX compiles as one.
        x = [draw((2, *shape), dtype) for _, shape in cases.values()]
        y = keras.Model(inputs, results).predict_on_batch(x)
        assert all(a.shape == b.shape for a, b in zip(x, y, strict=True))
        assert all(a.dtype == dtype for a in y)
        found |= {f"{name}, {dtype}": a for name, a in zip(cases, y, strict=True)}
    return found


def check_all_layers_have_results_to_compare(folder):
    np.savez(folder / "outputs.npz", **outputs())


def network():
    """Every layer, one after another, on a series with two channels."""
    series = keras.Input((4, 8, 6, 2))
    x = layers.LocalLowRank(4, stride=2, channels=2, seed=1, **LAST)(series)
    x = layers.TensorSingularValueThreshold(channels=2, axis=-3, **LAST)(x)
    for layer in (
        layers.SingularValueThreshold(channels=2, num_values=4, **LAST),
        layers.FirmThreshold(0.5, **LAST),
        layers.SchattenProx(1 / 2, 1e-3, **LAST),
        layers.LowRank(3, **LAST),
    ):
        x = layers.Casorati(layer)(x)
    return keras.Model(series, x)


def check_a_model_trains_and_survives_a_file(folder):
    x = draw((4, 4, 8, 6, 2), "float32")
    model = network()
    before = weights(model)
    assert len(before) == 5
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    losses = model.fit(x, x, epochs=3, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    changed = [(a != b).any() for a, b in zip(weights(model), before, strict=True)]
    assert all(changed), changed
    expected = model.predict(x, verbose=0)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)


def operators_of(operators):
    """Calls with a weight of a layer as every argument that takes an array."""
    x = ops.convert_to_tensor(draw((2, 4, 6, 5), "float32"))
    points = x[..., :3]
    yield partial(operators.svt, x)
    yield partial(operators.svht, x)
    yield partial(operators.firm_threshold, x)
    yield partial(operators.tsvt, x)
    yield partial(operators.log_sum_threshold, x, epsilon=0.4)
    yield partial(operators.huber_threshold, x, delta=0.4)
    yield partial(operators.schatten_prox, x, p=0.5)
    yield partial(operators.schatten_prox, x, p=2)
    yield partial(operators.local_low_rank, x, block=3)
    yield partial(operators.svt_divergence, x)
    yield lambda w: operators.sure(x, w, w)
    matrix = keras.Variable(x)
    yield lambda w: operators.svt(matrix, w)
    yield lambda w: operators.svdvals(matrix)
    other = keras.Variable(points)
    weights = keras.Variable(np.arange(1.0, 7), dtype="float32")
    yield lambda w: operators.kabsch(other, points + 1, weights).translation


def check_weights_of_layers_are_arguments_of_operators(folder):
    operators = import_module(layers._FACES[keras.backend.backend()])
    weight = keras.Variable(0.3, dtype="float32")
    for call in operators_of(operators):
        found = ops.convert_to_numpy(call(weight))
        expected = ops.convert_to_numpy(call(ops.convert_to_tensor(weight)))
        np.testing.assert_array_equal(found, expected)


def check_weights_of_layers_are_learned_through_operators(folder):
    operators = import_module(layers._FACES[keras.backend.backend()])

    class Threshold(keras.layers.Layer):
        def build(self, shape):
            self.tau = self.add_weight(shape=(), initializer="ones")
            self.weights_of_values = self.add_weight(shape=(1, 5), initializer="ones")

        def call(self, x):
            x = operators.svt(x, self.weights_of_values)
            return operators.huber_threshold(x, self.tau, 0.2)

        def compute_output_shape(self, shape):
            return shape

    x = draw((4, 6, 5), "float32")
    model = keras.Sequential([keras.Input((6, 5)), Threshold()])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    model.set_weights([np.float32(0.1), np.full((1, 5), 0.1, "f")])
    before = weights(model)
    model.fit(x, x, epochs=2, verbose=0)
    for a, b in zip(weights(model), before, strict=True):
        assert (a < b).all()


def check_configurations(folder):
    for make, _ in CASES.values():
        layer = make()
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()
        assert copy.name == layer.name


def check_complex_input_trains(folder):
    x = draw((4, 6, 5), "complex64")
    inputs = keras.Input((6, 5), dtype="complex64")
    threshold = layers.SingularValueThreshold(0.3)
    magnitude = keras.layers.Lambda(ops.abs, output_shape=lambda shape: shape)
    model = keras.Model(inputs, magnitude(threshold(inputs)))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    before = weights(model)
    model.fit(x, np.abs(x), verbose=0)
    assert weights(model) < before  # less is to be taken away


def check_mixed_precision(folder):
    x = draw((4, 6, 5), "float32")
    layer = layers.SingularValueThreshold(0.3, dtype="mixed_float16")
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert keras.backend.standardize_dtype(layer.threshold.dtype) == "float32"
    expected = run(layers.SingularValueThreshold(0.3), x)
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=2e-3)
    inputs = keras.Input((6, 5))
    assert layer(inputs).dtype == "float16"
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.fit(x, x, verbose=0)
    assert float(ops.convert_to_numpy(layer.threshold)) < 0.3
    volume = layers.Casorati(layer, spatial=3)(keras.Input((4, 2, 3, 5)))
    assert (volume.dtype, volume.shape) == ("float16", (None, 4, 2, 3, 5))


def check_unknown_shapes(folder):
    inputs = keras.Input((None, None, None))
    layer = layers.Casorati(layers.SingularValueThreshold(0.3))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, None)
    x = draw((2, 3, 5, 4), "float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), run(layer, x), atol=1e-6)


def check_masks_are_passed_on(folder):
    x = np.ones((2, 6, 5), np.float32)
    x[0, 4:] = 0
    layer = layers.SingularValueThreshold(0.2)
    y = keras.Sequential([keras.layers.Masking(), layer])(x)
    kept = keras.ops.convert_to_numpy(y._keras_mask)
    np.testing.assert_array_equal(kept, x.any(-1))
    assert not keras.ops.convert_to_numpy(y)[0, 4:].any()
    assert not layers.Whitening().supports_masking


def check_whitening(folder):
    x = draw((30, 3, 4), "float32") * np.array([3, 2, 1])[:, None] + 1
    layer = layers.Whitening(momentum=0.5, epsilon=0, **FIRST)
    y = run(layer, x, training=True)
    rows, white = (np.moveaxis(z, 1, -1).reshape(-1, 3) for z in (x, y))
    np.testing.assert_allclose(white.T @ white / 120, np.eye(3), atol=1e-5)
    centred = rows - rows.mean(0)
    covariance = (centred.T @ centred / 120 + np.eye(3)) / 2
    moved = [np.array(ops.convert_to_numpy(w)) for w in layer.non_trainable_weights]
    np.testing.assert_allclose(moved[0], rows.mean(0) / 2, atol=1e-5)
    np.testing.assert_allclose(moved[1], covariance, atol=1e-5)
    w, V = np.linalg.eigh(covariance)
    expected = (rows - rows.mean(0) / 2) @ ((V / w**0.5) @ V.T)
    evaluated = run(layer, x)
    found = np.moveaxis(evaluated, 1, -1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    layer.trainable = False  # as a frozen BatchNormalization
    np.testing.assert_array_equal(run(layer, x, training=True), evaluated)
    # Features that are nearly equal: half precision is too short for their covariance.
    x = draw((256, 1), "float32") + 0.02 * draw((256, 4), "float32", 1)
    half = layers.Whitening(momentum=0.0, dtype="mixed_bfloat16")
    single = layers.Whitening(momentum=0.0)
    rounded = ops.cast(x, "bfloat16")
    half(rounded, training=True)
    single(ops.cast(rounded, "float32"), training=True)
    for one, other in zip(half.weights, single.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def check_random_shift(folder):
    def make():
        return layers.LocalLowRank(4, 0.5, stride=(2, 1), seed=3)

    x = draw((2, 3, 7, 6), "float32")
    layer, same = make(), make()
    y = [run(layer, x, training=True) for _ in range(6)]
    np.testing.assert_array_equal(run(same, x, training=True), y[0])
    fixed = [
        run(layers.LocalLowRank(4, 0.5, stride=(2, 1), shift=(i, 0)), x) for i in (0, 1)
    ]
    assert all(min(abs(a - b).max() for b in fixed) < 1e-5 for a in y)
    assert max(abs(a - y[0]).max() for a in y) > 1e-3
    np.testing.assert_allclose(run(layer, x), fixed[0], atol=1e-5)


def check_what_is_refused(folder):
    for call, words in (
        (lambda: layers.SingularValueThreshold(1.0), "between 0 and 1"),
        (lambda: layers.SchattenProx(1, 0.0), "positive"),
        (lambda: layers.FirmThreshold([0.1, 0.2]), "broadcast"),
        (lambda: layers.FirmThreshold(data_format="last"), "data_format"),
        (lambda: layers.FirmThreshold(gamma=0.5), "gamma must be above 1"),
        (lambda: layers.SchattenProx(0.3), "p must be"),
        (lambda: layers.LowRank(-1), "rank must be at least 0"),
        (lambda: layers.SingularValueThreshold(channels=0), "channels must be at"),
        (lambda: layers.LocalLowRank(4, shift="no"), "shift"),
        (lambda: layers.TensorSingularValueThreshold(axis=1), "axis"),
        (
            lambda: layers.FirmThreshold(channels=3)(draw((1, 4, 5, 2), "float32")),
            "expected 3 channels",
        ),
        (
            lambda: layers.FirmThreshold(channels=3)(draw((1, 4, 5), "float32")),
            "expected 3 channels",
        ),
        (
            lambda: layers.Casorati(layers.LowRank(1))(draw((1, 4, 5), "float32")),
            "axes",
        ),
        (lambda: layers.Whitening(momentum=1.01), "momentum must lie in"),
        (lambda: layers.Whitening(epsilon=-1.0), "epsilon must be >= 0"),
        (lambda: layers.Whitening()(draw((5,), "float32")), "at least two axes"),
        (lambda: layers.Whitening()(draw((5, 0), "float32")), "number of features"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for call, words in (
        (lambda: layers.SingularValueThreshold("a"), "threshold must be a number"),
        (lambda: layers.FirmThreshold(channels=1.5), "channels must be an integer"),
        (lambda: layers.LowRank("a"), "rank must be an integer"),
        (lambda: layers.Casorati(3), "layer must be a Keras layer"),
        (lambda: layers.Whitening()(draw((5, 4), "complex64")), "x must be real"),
        (
            lambda: import_module(layers._FACES[keras.backend.backend()]).svt(
                keras.Input((6, 5)), 0.1
            ),
            "got KerasTensor, a symbol of Keras: use a layer .* in one of your own$",
        ),
    ):
        with pytest.raises(TypeError, match=words):
            call()
