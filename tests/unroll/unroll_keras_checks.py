"""Checks of the Keras networks on the backend that KERAS_BACKEND names.

Called for test_keras.py by interpreters.py, in a process that has one backend, with a
folder that holds what PyTorch made of each case.
"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import svdinv.unroll.keras as models
from svdinv.unroll import metrics
from svdinv.unroll.networks import (
    SLR,
    TLR,
    Generator,
    LearnedPrior,
    NonLocal,
    Number,
    PrimalDual,
    Unrolled,
    non_local,
)
from svdinv.unroll.operators import (
    Blur,
    Coils,
    Dense,
    ParallelBeam,
    Sampling,
    Stack,
    from_matrix,
)

BACKEND = keras.backend.backend()
vars(non_local).update(_ITERATIONS=4, _NEAREST=4, _LEVEL=-3.0)  # as for PyTorch
SMALL = {"cells": 2, "features": 4}


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def case(folder, name):
    """Give the file of a network, its input, truth, and what PyTorch found."""
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    inputs = tuple(arrays.pop(k) for k in ("y", "mask", "maps") if k in arrays)
    return folder / f"{name}.safetensors", inputs, arrays


def cases(folder):
    return sorted(path.stem for path in folder.glob("*.npz"))


def close(found, expected, tolerance=1e-5, message=""):
    """Compare relative to the largest element."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * scale, err_msg=message
    )


def predicted(model, inputs):
    """Give images: on JAX by one program, not by hundreds of one operation each."""
    found = model.predict_on_batch(inputs) if BACKEND == "jax" else model(inputs)
    return numpy(found)


def stepped(model, inputs, truth, **options):
    """Take a step of gradient descent; give the loss."""
    model.compile(keras.optimizers.SGD(1.0), models.MeanSquaredError(), **options)
    losses = model.fit(inputs, truth, batch_size=len(truth), verbose=0).history["loss"]
    return losses[0]


def check_files_images_and_a_training_step_are_those_of_pytorch(folder):
    assert len(cases(folder)) >= 8
    for name in cases(folder):
        path, inputs, expected = case(folder, name)
        penalty = 0.5 if "penalised" in expected else 0.0
        # Cells of one of them are recomputed.
        model = models.load(path, penalty=penalty, checkpoint=name == "T2LR")
        models.save(model, folder / "again")
        assert (folder / "again").read_bytes() == path.read_bytes(), name
        # A program takes TensorFlow and JAX a second, so some variants go without: of
        # a step in TensorFlow, and of an image in JAX, whose loss is compared.
        variant = "," in name
        if not variant or BACKEND != "jax":
            close(predicted(model, inputs), expected["image"], message=name)
        before = model.arrays()
        eagerly = BACKEND == "tensorflow" and variant
        loss = stepped(model, inputs, expected["truth"], run_eagerly=eagerly)
        assert abs(loss - expected["loss"]) < 1e-5 * abs(expected["loss"]), name
        for key, weight in model.arrays().items():
            gradient = expected[f"gradient {key}"]
            assert weight.shape == gradient.shape
            # The step hides what is below the round-off of the weight.
            np.testing.assert_allclose(
                before[key] - weight,
                gradient,
                rtol=1e-4,
                atol=1e-5 * abs(gradient).max() + 1e-6,
                err_msg=f"{name}: {key}",
            )


def check_counts(folder):
    """With an operator of the network's own, and a background beside the data."""
    counted(folder, "counts", checkpoint=False)


def check_frames_together(folder):
    """The same, with cells that are recomputed."""
    counted(folder, "frames", checkpoint=True)


def counted(folder, name, *, checkpoint):
    with np.load(folder / f"{name}.data") as file:
        held = dict(file)
    parts = [ParallelBeam((6, 5), np.arange(k, 180, 60.0)) for k in (0, 30)]
    A = Stack(parts, axis=-2)
    inputs = held["y"], held["background"]
    model = models.load(
        folder / f"{name}.safetensors",
        operator=lambda *background: A,
        checkpoint=checkpoint,
    )
    close(predicted(model, inputs), held["image"])
    before = model.arrays()
    stepped(model, inputs, held["truth"])
    for key, weight in model.arrays().items():
        close(before[key] - weight, held[f"gradient {key}"], 1e-3, key)


def derivatives(function, *arrays):
    """Give the derivatives of a real number by arrays, without their conventions."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given = [tf.constant(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(given)
            result = function(*given)
        return [g.numpy() for g in tape.gradient(result, given)]
    if BACKEND == "jax":
        import jax

        by = tuple(range(len(arrays)))
        found = jax.jit(jax.grad(function, argnums=by))(*arrays)
        return [np.array(g) for g in found]
    import torch

    given = [torch.tensor(x, requires_grad=True) for x in arrays]
    return [g.numpy() for g in torch.autograd.grad(function(*given), given)]


def check_derivatives_by_what_was_measured(folder):
    """By k-space and coil maps, whether cells are recomputed or not."""
    path, (y, mask, maps), _ = case(folder, "LS, coils")

    def function(model):
        def energy(y, maps):
            return ops.sum(ops.square(ops.abs(model((y, mask, maps)))))

        return energy

    one, other = (
        derivatives(function(models.load(path, checkpoint=c)), y, maps)
        for c in (False, True)
    )
    for a, b in zip(one, other, strict=True):
        assert abs(a).max() > 0
        close(b, a)


def check_steps_of_fit_do_not_know_of_each_other(folder):
    """Steps of gradient descent in one `fit` are as many with one step each."""
    path, (y, mask), expected = case(folder, "T2LR")
    model, truth = models.load(path), expected["truth"]
    if BACKEND == "torch":  # whose gradients Keras clears by `parameters`
        assert len(list(model.parameters())) == len(model.trainable_variables)
        pair = keras.Sequential([models.load(path), models.load(path)]).weights
        assert len({weight.path for weight in pair}) == len(pair)
    model.compile(keras.optimizers.SGD(1.0), models.MeanSquaredError())
    model.fit((y, mask), truth, batch_size=len(y), epochs=3, shuffle=False, verbose=0)
    single = models.load(path)
    for _ in range(3):
        arrays, single = single.arrays(), models.load(path)
        single.set_arrays(arrays)
        stepped(single, (y, mask), truth, run_eagerly=BACKEND == "tensorflow")
    for name, weight in single.arrays().items():
        close(model.arrays()[name], weight, 1e-6, name)


def check_fit_lowers_the_loss(folder):
    _, (y, mask), expected = case(folder, "T2LR")
    model = models.T2LRNet(**SMALL, seed=0)
    model.compile(
        keras.optimizers.Adam(3e-3),
        models.MeanSquaredError(),
        metrics=[models.PSNR("max")],
    )
    truth = expected["truth"]
    history = model.fit((y, mask), truth, epochs=5, batch_size=1, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["psnr"][-1] > history["psnr"][0]
    found = model.predict((y, mask), batch_size=1, verbose=0)
    assert found.dtype == np.complex64
    loss, psnr = model.evaluate((y, mask), truth, batch_size=2, verbose=0)
    assert abs(loss - np.mean(abs(found - truth) ** 2)) < 1e-5 * loss
    pairs = zip(truth, found, strict=True)
    expected = np.mean([metrics.psnr(a, b, peak="max") for a, b in pairs])
    assert abs(psnr - expected) < 1e-3


def check_a_refused_call_leaves_the_weights(folder):
    _, (y, mask), expected = case(folder, "T2LR")
    model = models.LSNet(cells=1, features=2, seed=0)
    model.compile("sgd", models.MeanSquaredError())
    before = model.arrays()
    wrong = y, mask.astype("float32")
    for call in (
        lambda: model.predict(wrong, verbose=0),
        lambda: model.evaluate(wrong, expected["truth"], verbose=0),
        lambda: model.fit(wrong, expected["truth"], verbose=0),
    ):
        with pytest.raises((TypeError, RuntimeError), match="array of bool"):
            call()
        np.testing.assert_equal(model.arrays(), before)
    predicted(model, (y, mask))


def check_steps_without_a_compiler_are_the_same(folder):
    _, (y, mask), expected = case(folder, "SLR")
    losses = []
    for options in ({}, {"jit_compile": False}, {"run_eagerly": True}):
        model = models.SLRNet(cells=1, features=2, seed=0)
        model.compile(keras.optimizers.SGD(0.1), models.MeanSquaredError(), **options)
        history = model.fit((y, mask), expected["truth"], epochs=2, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)


def check_losses_that_drop_the_imaginary_part(folder):
    model = models.LSNet(**SMALL)
    for loss in (
        "mse",
        keras.losses.MeanAbsoluteError(),
        keras.losses.mean_squared_error,
    ):
        with pytest.raises(TypeError, match=r"loss: .* drops the imaginary part"):
            model.compile("sgd", loss)
    with pytest.raises(TypeError, match=r"metrics: .* drops"):
        model.compile("sgd", models.MeanSquaredError(), metrics=[["mae"]])
    model.compile("sgd", lambda truth, image: ops.mean(ops.abs(truth - image)))
    models.TLRNet(**SMALL).compile("sgd", "mse", metrics=["mae"])


def check_keras_files(folder):
    path, inputs, _ = case(folder, "Unrolled, FISTA")
    model = models.load(path, checkpoint=True)
    model.compile(
        "sgd", models.MeanSquaredError(), metrics=[models.PSNR(2.0, name="dB")]
    )
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert loaded.recipe == model.recipe
    assert loaded.checkpoint
    np.testing.assert_array_equal(predicted(loaded, inputs), predicted(model, inputs))
    copy = keras.models.clone_model(model)
    assert copy.recipe == model.recipe
    named = models.SLRNet(**SMALL, penalty=0.25, name="mine", trainable=False)
    again = models.SLRNet.from_config(named.get_config())
    assert (again.name, again.penalty, again.trainable) == ("mine", 0.25, False)
    assert again.recipe == named.recipe
    own = models.TLRNet(**SMALL, operator=Blur(np.ones((1, 1))))
    with pytest.raises(ValueError, match=r"cannot be saved as \.keras"):
        own.save(folder / "own.keras")


def check_inputs_that_are_none(folder):
    def operator(mask, nothing):
        assert nothing is None
        return Sampling(mask)

    model = models.TLRNet(seed=0, operator=operator, **SMALL)
    y = np.ones((1, 3, 16, 16), np.float32)
    mask = np.ones(y.shape, bool)
    assert np.isfinite(numpy(model((y, mask, None)))).all()


def check_nan_goes_through_convolutions(folder):
    """A training that diverges must not look finite."""
    parts = models.TLRNet(seed=0, **SMALL).cells[0].parts.values()
    chain = next(part for part in parts if isinstance(part, models._Chain))
    x = np.full((1, chain.spec.widths[0], 8, 8), np.nan, np.float32)
    assert np.isnan(numpy(chain.apply(x))).all()


def check_export(folder):
    """For inputs as of the last call, but for their number; by TensorFlow."""
    model = models.TLRNet(seed=0, **SMALL)
    if BACKEND == "torch":
        with pytest.raises(NotImplementedError, match="where KERAS_BACKEND is tensor"):
            model.export(folder / "exported", verbose=False)
        return
    with pytest.raises(ValueError, match="input_signature must be given"):
        model.export(folder / "exported", verbose=False)
    if BACKEND == "jax":
        model(case(folder, "TLR, refined")[1])
        with (
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),
            pytest.warns(UserWarning, match="no singular value decomposition"),
        ):
            model.export(folder / "exported", verbose=False)
        return
    import tensorflow as tf

    _, inputs, _ = case(folder, "TLR, refined")
    expected = predicted(model, inputs)
    model.export(folder / "exported", verbose=False)
    loaded = tf.saved_model.load(folder / "exported")
    close(loaded.serve(inputs).numpy(), expected)
    twice = tuple(np.concatenate([x, x]) for x in inputs)
    close(loaded.serve(twice).numpy(), np.concatenate([expected, expected]))


def check_what_is_not_exported(folder):
    """Functions of NumPy: a saved graph has none, and may call those of another."""
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    import svdinv.tf

    matrix = np.eye(12, dtype=np.float32)
    A = from_matrix(matrix, (4, 3), (4, 3))
    recipe = PrimalDual(cells=1, features=2)
    model = models.Network(recipe, operator=A, seed=0)
    y = A(np.ones((2, 1, 4, 3), np.float32))
    model(y)
    with pytest.raises(ValueError, match="cannot be part of an exported"):
        model.export(folder / "refused", verbose=False)
    assert not (folder / "refused").exists()
    module, signature = tf.Module(), [tf.TensorSpec((None, 1, 4, 3))]
    module.A = tf.function(lambda x: A(x), input_signature=signature)
    close(module.A(tf.ones((2, 1, 4, 3))).numpy(), y)
    with svdinv.tf.portable(), pytest.raises(ValueError, match="cannot be part of"):
        tf.function(lambda x: A(x)).get_concrete_function(*signature)
    # Loaded where the callback of the same number is that of another operator.
    tf.saved_model.save(module, folder / "saved")
    graph = (folder / "saved" / "saved_model.pb").read_bytes()
    number = max(map(int, re.findall(rb"pyfunc_(\d+)", graph)))
    code = (
        "import sys, numpy, tensorflow as tf\n"
        "from svdinv.unroll.operators import from_matrix\n"
        "A = from_matrix(numpy.eye(12, dtype='f4'), (4, 3), (4, 3))\n"
        "x = tf.ones((1, 1, 4, 3))\n"
        "for _ in range(int(sys.argv[2]) + 1):\n"
        "    tf.function(lambda x: A(x), autograph=False)(x)\n"
        "tf.saved_model.load(sys.argv[1]).A(x)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "saved", str(number)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be part of an exported" in done.stderr


def check_functional_models(folder):
    path, inputs, expected = case(folder, "LS, coils")
    network = models.load(path)
    symbolic = [
        keras.Input(x.shape[1:], dtype=str(x.dtype), batch_size=None) for x in inputs
    ]
    image = network(symbolic)
    assert image.shape == (None, *expected["image"].shape[1:])
    assert image.dtype == "complex64"
    model = keras.Model(symbolic, image)
    close(model.predict(list(inputs), verbose=0), expected["image"])


def check_unknown_sizes(folder):
    """In TensorFlow a graph need not know the size of a batch, nor of an image."""
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    # What these do with sizes, others do too.
    known = ("TLR, fill", "T2LR", "NonLocal, coils", "Refined, noise alone")
    for name in cases(folder):
        if name in known:
            continue
        path, inputs, expected = case(folder, name)
        model = models.load(path)
        # A generator draws noise of the size of the image; groups of patches are
        # counted by it.
        recipes = model.recipe, getattr(model.recipe, "network", None)
        sized = any(isinstance(recipe, Generator | NonLocal) for recipe in recipes)
        shapes = [(None, *x.shape[1:]) if sized else (None,) * x.ndim for x in inputs]
        signature = [
            tf.TensorSpec(shape, x.dtype)
            for shape, x in zip(shapes, inputs, strict=True)
        ]

        def run(*inputs, model=model):
            return model(inputs)

        found = tf.function(run, input_signature=signature)(*inputs)
        close(found.numpy(), expected["image"], message=name)

    loss, metric = models.MeanSquaredError(), models.PSNR()
    image, any_ = np.ones((2, 3, 4, 5), "float32"), tf.TensorSpec((None,) * 4)
    for function in (loss, metric.update_state):
        compared = tf.function(function, input_signature=[any_, any_])
        compared(image, image)
        with pytest.raises(tf.errors.InvalidArgumentError, match="differ in shape"):
            compared(image[:, :1], image)
    kept = tf.TensorSpec((None,) * 4, tf.bool)
    sampled = tf.function(lambda y, m: Sampling(m)(y), input_signature=[any_, kept])
    np.testing.assert_array_equal(sampled(image, image[:, :1] > 0), image)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"mask .* not broadcast"):
        sampled(image[:, :1], image > 0)
    coils = tf.TensorSpec((None,) * 4, tf.complex64)
    joined = tf.function(lambda y, c: Coils(c).adjoint(y), input_signature=[coils] * 2)
    assert joined(image + 0j, image + 0j).shape == (2, 4, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"maps .* not broadcast"):
        joined(image[:, :1] + 0j, image + 0j)


def check_the_penalty_is_of_training_alone(folder):
    _, inputs, expected = case(folder, "SLR")
    values = []
    for penalty in (0.0, 3.0):
        model = models.SLRNet(**SMALL, seed=0, penalty=penalty)
        model.compile(loss=models.MeanSquaredError())
        values.append(model.evaluate(inputs, expected["truth"], verbose=0))
    assert values[0] == values[1]


def check_psnr(folder):
    rng = np.random.default_rng(0)
    real = rng.random((2, 4, 3, 6, 5)).astype("float32")
    phases = np.exp(1j * rng.random(real.shape)).astype("complex64")
    for truth, image in (real, real * phases):
        for peak in (1.0, 2.5, "max"):
            pairs = zip(truth, image, strict=True)
            expected = [metrics.psnr(a, b, peak=peak) for a, b in pairs]
            metric = models.PSNR(peak)
            metric.update_state(truth[:1], image[:1])
            metric.update_state(truth[1:], image[1:])
            assert abs(float(metric.result()) - np.mean(expected)) < 1e-4
            metric.reset_state()
            weights = np.array([1.0, 0.0, 2.0, 1.0])
            metric.update_state(truth, image, sample_weight=weights)
            mean = np.average(expected, weights=weights)
            assert abs(float(metric.result()) - mean) < 1e-4
    metric = models.PSNR()
    metric.update_state(real[0], real[0])
    assert float(metric.result()) == np.inf
    again = models.PSNR.from_config(models.PSNR("max", name="x").get_config())
    assert (again.peak, again.name) == ("max", "x")
    for peak in (0, -1.0, "mean", float("nan")):
        with pytest.raises(ValueError, match="peak must be positive"):
            models.PSNR(peak)
    with pytest.raises(ValueError, match="differ in shape"):
        metric.update_state(real[0], real[0][:1])


def check_the_loss(folder):
    rng = np.random.default_rng(1)
    real, other = rng.standard_normal((2, 3, 4, 5)).astype("float32")
    loss = models.MeanSquaredError()
    for a, b in ((real, other), (real + 1j * other, other - 1j * real)):
        squares = np.mean(abs(a - b) ** 2, axis=(1, 2))
        assert abs(float(loss(a, b)) - squares.mean()) < 1e-5
        weights = np.array([1.0, 0.0, 2.0])
        weighted = float(loss(a, b, sample_weight=weights))
        assert abs(weighted - np.mean(weights * squares)) < 1e-5
        found = models.MeanSquaredError(reduction="none")(a, b)
        np.testing.assert_allclose(numpy(found), squares, rtol=1e-5)
    mixed = float(loss(real, other + 1j * real))
    assert abs(mixed - np.mean(abs(real - other - 1j * real) ** 2)) < 1e-5
    with pytest.raises(ValueError, match="differ in shape"):
        loss(real[:1], other)
    with pytest.raises(TypeError, match=r"truth is .*complex"):
        loss(real + 1j * other, other)


def check_first_weights(folder):
    one, two = (models.LSNet(**SMALL, seed=s).arrays() for s in (1, 1))
    assert all((one[k] == two[k]).all() for k in one)
    keras.utils.set_random_seed(5)
    first, second = (models.LSNet(**SMALL).arrays() for _ in range(2))
    keras.utils.set_random_seed(5)
    again = models.LSNet(**SMALL).arrays()
    key = "cells.0.sparse.0.weight"
    assert (first[key] == again[key]).all()
    assert (first[key] != second[key]).any()


def check_precisions(folder):
    for name in ("TLR, fill", "SLR"):
        path, (y, mask), expected = case(folder, name)
        if BACKEND != "jax":  # which computes in double precision only if told to
            found = models.load(path, dtype="float64")((y, mask))
            wide = "complex128" if np.iscomplexobj(y) else "float64"
            assert keras.backend.standardize_dtype(found.dtype) == wide
            close(numpy(found), expected["image"])
        double = y.astype("complex128" if np.iscomplexobj(y) else "float64")
        if BACKEND != "jax":
            found = models.load(path)((double, mask))
            assert keras.backend.standardize_dtype(found.dtype) == str(y.dtype)
            close(numpy(found), expected["image"])
        model = models.load(path, dtype="mixed_bfloat16")
        found = numpy(model((y, mask)))
        assert found.dtype == y.dtype
        close(found, expected["image"], 3e-2)
        assert abs(found - expected["image"]).max() > 1e-6  # it did compute in less
        assert all(w.dtype == "float32" for w in model.trainable_weights)


class Own(LearnedPrior):
    """A prior with a layer of Keras's."""

    def layers(self, axes):
        return {
            "gain": Number(0.5),
            "own": lambda: keras.layers.Conv2D(
                3, 1, use_bias=False, data_format="channels_last"
            ),
        }

    def prox(self, v, step, layers):
        return layers.gain * v + ops.moveaxis(layers.own(ops.moveaxis(v, 1, -1)), -1, 1)


def check_layers_of_ones_own(folder):
    _, (y, mask), expected = case(folder, "TLR, fill")
    model = models.Network(Unrolled(cells=2, prior=Own(), images="image"))
    model((y, mask))
    assert len(model.trainable_weights) == 2 * 3
    before = [numpy(w) for w in model.trainable_weights]
    stepped(model, (y, mask), expected["truth"])
    after = [numpy(w) for w in model.trainable_weights]
    # Step and gain of the first cell have no effect: a step of 1 restores samples.
    moved = [(a != b).any() for a, b in zip(after, before, strict=True)]
    assert sum(moved) == 4, moved
    with pytest.raises(TypeError, match="is a layer of one framework only"):
        models.save(model, folder / "own")


class Normalised(LearnedPrior):
    """A prior with a layer that acts differently in training."""

    def layers(self, axes):
        return {
            "own": lambda: keras.Sequential(
                [keras.Input((3, None, None)), keras.layers.BatchNormalization(axis=1)]
            )
        }

    def prox(self, v, step, layers):
        return layers.own(v)


def check_layers_that_act_differently_in_training(folder):
    _, (y, mask), expected = case(folder, "TLR, fill")
    recipe = Unrolled(cells=1, prior=Normalised(), images="image")
    model = models.Network(recipe)
    model.compile("sgd", models.MeanSquaredError())
    model.fit((y, mask), expected["truth"], epochs=1, verbose=0)
    (moving,) = (w for w in model.weights if w.path.endswith("moving_mean"))
    assert (numpy(moving) != 0).all()
    with pytest.raises(ValueError, match="checkpoint must be False with layers that"):
        models.Network(recipe, checkpoint=True)


def check_own_operators_in_functional_models(folder):
    matrix = np.random.default_rng(0).standard_normal((50, 64)).astype("float32")
    network = models.Network(
        Unrolled(cells=1, images="image"), operator=Dense(matrix, (8, 8))
    )
    y = keras.Input((3, 50))
    image = network(y)
    assert image.shape == (None, 3, 8, 8)
    model = keras.Model(y, keras.layers.Flatten()(image))
    assert model.predict(np.ones((2, 3, 50), "float32"), verbose=0).shape == (2, 192)


def check_what_is_refused(folder):
    _, (y, mask), _ = case(folder, "T2LR")
    model = models.LSNet(cells=1, features=2)
    image = models.TLRNet(cells=1, features=2)
    own = models.TLRNet(cells=1, features=2, operator=Blur(np.ones((1, 1))))
    for call, error, words in (
        (lambda: model(y), TypeError, "LS needs after the measured values: mask"),
        (lambda: model((y, mask, y, y)), TypeError, "got 3 arguments"),
        (lambda: model({"y": y, "mask": mask}), TypeError, "inputs must be a tuple"),
        (lambda: model(y, mask), TypeError, "inputs must be a tuple.*got 2 arguments"),
        (lambda: model((y[0], mask[0])), ValueError, "axes B T H W"),
        (lambda: model((y, mask[..., 1:])), ValueError, "does not broadcast"),
        (lambda: model((y, mask.astype("float32"))), TypeError, "array of bool"),
        (lambda: model((y, mask, y[0])), ValueError, r"maps must be \(B, C, H, W\)"),
        (lambda: image((y, mask)), TypeError, "must be real and floating point"),
        (lambda: image((y.real[:, :2], mask[:, :2])), ValueError, "have 3 channels"),
        (lambda: own((y.real, mask)), TypeError, "this network has its operator"),
        (lambda: models.LSNet(cells=0), ValueError, "cells must be"),
        (lambda: models.LSNet(width=3), TypeError, "width"),
        (lambda: models.LSNet(TLR()), TypeError, "must be of the class LS"),
        (lambda: models.LSNet(penalty=0.1), ValueError, "penalty: LS has none"),
        (lambda: models.Network(), TypeError, "recipe must be of the class Recipe"),
        (lambda: model.set_arrays({}), ValueError, "the network needs"),
        (lambda: models.load(folder / "none"), FileNotFoundError, "there is no file"),
    ):
        with pytest.raises(error, match=words):
            call()
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="jit_compile must not be True"):
            model.compile("sgd", jit_compile=True)
        image.compile("sgd", jit_compile=True)
    models.save(models.Network(SLR(cells=1, features=2)), folder / "slr")
    content = (folder / "slr").read_bytes()
    (folder / "slr").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is not a safetensors file, or damaged"):
        models.load(folder / "slr")
