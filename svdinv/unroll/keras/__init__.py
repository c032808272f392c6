"""The networks as Keras 3 models, on TensorFlow, JAX and PyTorch.

The input of a model is a tuple: ``model((kspace, mask))`` or
``model((kspace, mask, maps))``; ``model.fit((kspace, mask), series)`` trains it. Series
are complex. Keras's own losses would drop the imaginary part, which the
`MeanSquaredError` of this module does not.
"""

from __future__ import annotations

import inspect
import itertools
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from svdinv._missing import needing

with needing("keras", "keras"):
    import keras

import numpy as np
from keras import ops

from svdinv.unroll.arrays import Array, is_bool, is_complex, namespace, to_numpy
from svdinv.unroll.keras.losses import PSNR, MeanSquaredError
from svdinv.unroll.networks import (
    Convolutions,
    Number,
    Recipe,
    State,
    from_json,
    to_json,
)
from svdinv.unroll.networks import weights as files
from svdinv.unroll.networks.functional import doubled, svt, to_channels, to_complex
from svdinv.unroll.networks.recipe import (
    EPSILON,
    choose,
    first_state,
    make_problem,
    next_state,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.operators.wrapped import exporting
from svdinv.unroll.plugins import naming
from svdinv.unroll.problem import Problem

__all__ = [
    "PSNR",
    "LSNet",
    "MeanSquaredError",
    "Network",
    "SLRNet",
    "T2LRNet",
    "TLRNet",
    "load",
    "save",
]

_numbers = itertools.count()  # of cells, whose names must differ

_register = keras.saving.register_keras_serializable(package="svdinv")


@_register
class Network(keras.Model):
    """An unrolled network.

    Its input is a tuple of the measured values and the arguments of the forward
    operator: ``model((samples, mask))`` for images (B, C, H, W), ``model((kspace,
    mask))`` or ``model((kspace, mask, maps))`` for series (B, T, H, W); or the measured
    values alone if the model has an operator.

    Parameters
    ----------
    recipe : Recipe
        Definition of the cells and its options, such as `svdinv.unroll.networks.TLR`.
    operator : Operator or callable, optional
        Forward operator to use instead of the recipe's, or a function that makes one
        from the arguments that follow the measured values. Not saved with the model.
    penalty : float
        Weight of the recipe's penalty in the loss, such as the asymmetry of SLR-Net.
    checkpoint : bool
        Whether to recompute each cell in the backward pass instead of storing its
        intermediate results, by `keras.remat`. ValueError for user-defined layers that
        change when they are called, such as BatchNormalization. On TensorFlow, tensors
        in an `Operator` then have an incomplete gradient; tensors in the input do not.
    seed : int, optional
        Seed of the initial weights, which are the same in every framework; by default
        determined by `keras.utils.set_random_seed`.
    dtype : str or keras.dtype_policies.DTypePolicy, optional
        As for other layers; mixed precision affects only the convolutions.
    """

    recipe_name: ClassVar[str] = ""  # name of the recipe, if fixed by the class

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        operator: Operator | Callable[..., Operator] | None = None,
        penalty: float = 0.0,
        checkpoint: bool = False,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=False)
        self.recipe = choose(recipe, self.recipe_name, options)
        self.operator = operator
        self.penalty = penalty
        self.checkpoint = checkpoint
        self.cells = [
            _Cell(self.recipe, i, self.dtype_policy) for i in range(self.recipe.cells)
        ]
        self.built = True
        self._last_inputs: Any = None
        if keras.backend.backend() == "tensorflow":
            # XLA has no SVD of complex matrices, and real ones only to 1e-6.
            self.supports_jit = False
        if penalty and not self.recipe.has_penalty:
            raise ValueError(f"penalty: {type(self.recipe).__name__} has none")
        if checkpoint and any(cell.changes() for cell in self.cells):
            raise ValueError(
                "checkpoint must be False with layers that change when they are "
                "called, such as BatchNormalization and Dropout"
            )
        if seed is None:  # from the generator that Keras uses for seeds
            seed = random.randrange(2**31)
        self.set_arrays(files.initial(self.recipe, np.random.default_rng(seed)))

    def call(self, inputs: Any, *more: Any, training: bool = False) -> Array:
        """Reconstruct images.

        Parameters
        ----------
        inputs : tuple of tensor
            Measured values, followed by the arguments of the forward operator.
        training : bool
            Whether to add the penalty to the loss.

        Returns
        -------
        tensor
            Images, not clipped, with the axes that ``recipe.axes`` names.
        """
        if more or isinstance(inputs, dict):
            got = f"{1 + len(more)} arguments"
            if not more:
                got = f"a dict of {', '.join(map(str, inputs))}"
            raise TypeError(
                "inputs must be a tuple, of the measured values and the arguments of "
                f"the forward operator, got {got}"
            )
        y, *measurement = inputs if isinstance(inputs, tuple | list) else (inputs,)
        self._last_inputs = keras.tree.map_structure(_input_spec, inputs)
        dtype = self._precision(y.dtype)
        if dtype != keras.backend.standardize_dtype(y.dtype):
            y = ops.cast(y, dtype)
        # Without jit, Keras on JAX passes NumPy's arrays beside traced weights.
        y, *measurement = map(_as_tensor, (y, *measurement))

        def make(y: Array, measurement: Sequence[Any]) -> Problem:
            return make_problem(self.recipe, self.operator, y, tuple(measurement))

        problem = make(y, measurement)
        state = first_state(self.recipe, problem)
        penalised = bool(self.penalty) and training
        if penalised:
            state["penalty"] = self.recipe.no_penalty(state["x"])
        for cell in self.cells:
            if self.checkpoint:
                state = cell.recomputed(state, y, make, measurement, training)
            else:
                state = cell.iterate(state, problem, training)
        if penalised:
            penalty = self.penalty * state["penalty"]
            if keras.backend.backend() == "tensorflow":  # adds losses of one dtype
                penalty = ops.cast(penalty, keras.config.floatx())
            self.add_loss(penalty)
        return state["x"]

    def export(self, filepath: Any, *args: Any, **options: Any) -> None:
        """Export as `keras.Model.export` does, for inputs like those of the last call.

        The number of images is free. Raises NotImplementedError on PyTorch, where Keras
        exports no model of several inputs; ValueError before the first call without an
        `input_signature`, or if NumPy computes the operator, such as one of a matrix,
        of CT or of another library.
        """
        if keras.backend.backend() == "torch":
            raise NotImplementedError(
                f"Keras on PyTorch exports no model of several inputs; {_ON_TENSORFLOW}"
            )
        signature = inspect.signature(keras.Model.export)
        arguments = signature.bind(self, filepath, *args, **options).arguments
        if arguments.get("input_signature") is None:
            if self._last_inputs is None:
                raise ValueError("input_signature must be given before the first call")
            options["input_signature"] = [self._last_inputs]
        if keras.backend.backend() == "jax":
            warnings.warn(
                "TensorFlow on the CPU runs no singular value decomposition that was "
                f"exported by JAX; {_ON_TENSORFLOW}",
                stacklevel=2,
            )
        with exporting():
            super().export(filepath, *args, **options)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile; TypeError if a Keras loss or metric would drop imaginary parts.

        ValueError if PyTorch's compiler is requested, too: with the default memory
        format it returns wrong gradients for complex images, as of version 2.13.
        """
        if "T" in self.recipe.axes:
            signature = inspect.signature(keras.Model.compile)
            arguments = signature.bind(self, *args, **options).arguments
            if (
                arguments.get("jit_compile") is True
                and keras.backend.backend() == "torch"
            ):
                raise ValueError(
                    "jit_compile must not be True on PyTorch, whose compiler returns "
                    "wrong gradients for complex images"
                )
            for kind in ("loss", "metrics", "weighted_metrics"):
                for value in keras.tree.flatten(arguments.get(kind)):
                    if _is_from_keras(value):
                        raise TypeError(
                            f"{kind}: {value!r} of Keras drops the imaginary part; "
                            "svdinv.unroll.keras has MeanSquaredError and PSNR"
                        )
        super().compile(*args, **options)

    def _purge_model_variables(self, **_: bool) -> None:
        """Keep the weights, which Keras's trainer for JAX takes from a model it calls.

        It does not put them back if the call ends in an error: of a wrong mask in
        `predict`, or of Ctrl-C, the trained weights would be lost.
        """

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile like the saved model."""
        # Keras does this only for models that do not override `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_output_spec(self, inputs: Any, **_: Any) -> keras.KerasTensor:
        """Return shape and dtype of the images without computing them."""
        if self.operator is not None:
            return super().compute_output_spec(inputs)
        y, *measurement = inputs if isinstance(inputs, tuple | list) else (inputs,)
        shape = tuple(y.shape)
        if len(measurement) == 2 and len(shape) > len(self.recipe.axes.split()):
            shape = (*shape[:-3], *shape[-2:])
        return keras.KerasTensor(shape, dtype=self._precision(y.dtype))

    def arrays(self) -> files.Weights:
        """Return the weights with the names and shapes of files.

        Only those of `Convolutions` and `Number`; others have no names in files.
        """
        return {
            name: to_numpy(variable.value).copy().transpose(_file_axes(variable))
            for name, variable in self._named().items()
        }

    def set_arrays(self, weights: files.Weights) -> None:
        """Set the weights, as from `arrays`; ValueError if names or shapes differ."""
        named = self._named()
        expected = {
            name: tuple(variable.shape[axis] for axis in _file_axes(variable))
            for name, variable in named.items()
        }
        files.check(weights, expected)
        for name, variable in named.items():
            axes = np.argsort(_file_axes(variable))
            variable.assign(np.transpose(weights[name], axes))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the model."""
        if self.operator is not None:
            raise ValueError(
                "a model with its own operator cannot be saved as .keras: save its "
                "weights with svdinv.unroll.keras.save"
            )
        return {
            "recipe": to_json(self.recipe),
            "penalty": self.penalty,
            "checkpoint": self.checkpoint,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Network:
        """Make a model from a configuration of `get_config`."""
        config = dict(config)
        config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        return cls(from_json(config.pop("recipe")), **config)

    def _precision(self, dtype: Any) -> str:
        """Return the dtype of the computation for real or complex data of a dtype."""
        name = keras.backend.standardize_dtype(dtype)
        if name.startswith("complex"):
            return "complex128" if self.variable_dtype == "float64" else "complex64"
        return self.variable_dtype if "float" in name else name

    def _named(self) -> dict[str, Any]:
        """Return the weights by their names in files."""
        named: dict[str, Any] = {}
        for i, cell in enumerate(self.cells):
            for name, part in cell.parts.items():
                label = f"cells.{i}.{name}"
                if isinstance(part, _Chain):
                    chain = part.weights_by_name.items()
                    named |= {f"{label}.{key}": variable for key, variable in chain}
                elif isinstance(part, keras.Variable):
                    named[label] = part
        return named


@_register
class TLRNet(Network):
    """TLR-Net: `Network` of `svdinv.unroll.networks.TLR`, with its options."""

    recipe_name = "TLR"


@_register
class SLRNet(Network):
    """SLR-Net: `Network` of `svdinv.unroll.networks.SLR`, with its options."""

    recipe_name = "SLR"


@_register
class LSNet(Network):
    """L+S-Net: `Network` of `svdinv.unroll.networks.LS`, with its options."""

    recipe_name = "LS"


@_register
class T2LRNet(Network):
    """T2LR-Net: `Network` of `svdinv.unroll.networks.T2LR`, with its options."""

    recipe_name = "T2LR"


_ON_TENSORFLOW = (
    "to export it, load the saved weights where KERAS_BACKEND is tensorflow"
)


def _input_spec(x: Any) -> keras.InputSpec | None:
    """Describe an input for `Network.export`, with any number of images."""
    if x is None:
        return None
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.InputSpec(shape=(None, *x.shape[1:]), dtype=dtype)


class _Cell(keras.layers.Layer):
    """The layers of one cell, with all weights created immediately."""

    def __init__(self, recipe: Recipe, index: int, dtype: Any) -> None:
        # TensorFlow rejects a leading "_", which the name of the class has.
        super().__init__(name=f"cell_{next(_numbers)}", dtype=dtype)
        self.recipe, self.index = recipe, index
        last = index == recipe.cells - 1
        self.parts: dict[str, Any] = {}
        for name, layer in recipe.layers(last).items():
            if isinstance(layer, Number):
                number = self.add_weight(shape=(), name=name, autocast=False)
                self.parts[name] = number
            elif isinstance(layer, Convolutions):
                # Keras identifies PyTorch's parameters by these names; if names are
                # equal, it does not clear some gradients.
                self.parts[name] = _Chain(layer, f"{self.name}_{name}", dtype)
            else:
                self.parts[name] = None if layer is None else layer()
        self.built = True

    def changes(self) -> bool:
        """Return whether a user-defined layer has state, such as a mean or a seed."""
        own = [x for x in self.parts.values() if isinstance(x, keras.layers.Layer)]
        return any(
            (x.trainable and x.non_trainable_weights)
            or len(x.variables) > len(x.weights)
            for x in own
        )

    def iterate(self, state: State, problem: Problem, training: bool) -> State:
        layers = _Layers(self.index, self.parts, training)
        return next_state(self.recipe, state, problem, layers)

    def recomputed(
        self,
        state: State,
        y: Array,
        make: Callable[[Array, Sequence[Any]], Problem],
        measurement: Sequence[Any],
        training: bool,
    ) -> State:
        """Apply one iteration, which is recomputed in the backward pass."""
        arguments = dict(enumerate(measurement))
        tensors = {i: x for i, x in arguments.items() if hasattr(x, "dtype")}
        tensors = {i: x for i, x in tensors.items() if not is_bool(x)}
        inputs: dict[Any, Array] = {**state, "measured": y, **tensors}

        # TensorFlow recomputes only real arrays, and gradients are those of the
        # arguments only, so all that may need one are passed.
        def step(*arrays: Array) -> tuple[Array, ...]:
            previous = _joined(arrays, inputs)
            values = [previous.pop(i, x) for i, x in arguments.items()]
            problem = make(previous.pop("measured"), values)
            new = self.iterate(previous, problem, training)
            return _split(new[name] for name in state)

        return _joined(keras.remat(step)(*_split(inputs.values())), state)


def _split(arrays: Iterable[Array]) -> tuple[Array, ...]:
    """Convert complex arrays to real ones with two channels."""
    spaces = [(x, namespace(x)) for x in arrays]
    return tuple(to_channels(x, xp) if is_complex(x, xp) else x for x, xp in spaces)


def _joined(arrays: Iterable[Array], state: Mapping[Any, Array]) -> dict[Any, Array]:
    """Invert `_split`, with the names and dtypes of a state."""
    joined = {}
    for (name, like), x in zip(state.items(), arrays, strict=True):
        xp = namespace(like)
        joined[name] = to_complex(x, like, xp) if is_complex(like, xp) else x
    return joined


class _Layers:
    def __init__(self, index: int, parts: dict[str, Any], training: bool) -> None:
        self.index, self._parts, self._training = index, parts, training

    def __getattr__(self, name: str) -> Any:
        part = self._parts[name]
        if isinstance(part, _Chain):
            return part.apply
        if isinstance(part, keras.Variable):
            return part.value
        # In `fit` of Keras on JAX, and in recomputed cells, layers lack `training`.
        has_argument = getattr(part, "_call_has_training_arg", False)
        return partial(part, training=self._training) if has_argument else part

    svt = staticmethod(svt)
    doubled = staticmethod(doubled)


class _Chain(keras.layers.Layer):
    """A chain of convolutions, see `Convolutions`; channels first outside."""

    def __init__(self, spec: Convolutions, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.spec = spec
        self.weights_by_name = {
            key: self.add_weight(
                shape=(*shape[2:], *shape[1::-1]), name=key.replace(".", "_")
            )
            for key, shape in spec.shapes().items()
        }
        self.built = True

    def apply(self, x: Array) -> Array:
        """Apply the convolutions; return the result in the precision of `x`."""
        return ops.cast(self(x), x.dtype) if self.compute_dtype != x.dtype else self(x)

    def call(self, x: Array) -> Array:
        # On a CPU, TensorFlow supports convolutions only with channels last.
        x = ops.moveaxis(x, 1, -1)
        weights, axes = self.weights_by_name, tuple(range(1, self.spec.axes + 1))
        for i in range(len(self.spec.kernels)):
            kernel = weights[f"{i}.weight"]
            x = ops.conv(x, kernel, padding="same", data_format="channels_last")
            if self.spec.normalised and self.spec.active(i):
                mean, variance = ops.moments(x, axes=axes, keepdims=True)
                x = (x - mean) * (weights[f"{i}.scale"] * ops.rsqrt(variance + EPSILON))
            if self.spec.normalised:
                x = x + weights[f"{i}.shift"]
            if self.spec.active(i):
                # Not by leaky_relu, whose slope TensorFlow has in single precision.
                slope = self.spec.slope
                x = ops.where(x > 0, x, slope * x) if slope else ops.relu(x)
        return ops.moveaxis(x, -1, 1)


def save(model: Network, path: str | Path) -> None:
    """Write the weights and the recipe of a model to a safetensors file.

    An existing file is replaced atomically. Raises TypeError if the recipe is not
    registered (`svdinv.unroll.networks.register`) or has Keras-specific layers,
    ValueError if a weight is not finite, OSError if the file cannot be written.
    """
    files.shapes(model.recipe)
    files.write(path, model.recipe, model.arrays())


def load(path: str | Path, **options: Any) -> Network:
    """Load a model from a safetensors file, written by any framework.

    `options` are `operator`, `penalty`, `checkpoint`, `name` and `dtype` of `Network`;
    the default precision is Keras's, not that of the file. Raises FileNotFoundError if
    the file does not exist, ValueError if it is damaged or has no weights of a network.
    """
    recipe, weights, _ = files.read(path)
    model = Network(recipe, **options)
    with naming(path, TypeError):
        model.set_arrays(weights)
    return model


def _as_tensor(x: Any) -> Any:
    return ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x


def _is_from_keras(value: Any) -> bool:
    cls = value if isinstance(value, type) or inspect.isroutine(value) else type(value)
    return isinstance(value, str) or cls.__module__.split(".")[0] == "keras"


def _file_axes(variable: Any) -> tuple[int, ...]:
    """Return axes that permute a kernel (3, 3, in, out) to (out, in, 3, 3)."""
    n = len(variable.shape)
    return (n - 1, n - 2, *range(n - 2)) if n > 1 else tuple(range(n))
