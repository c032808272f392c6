"""Weights in a safetensors file, with the recipe of their network.

One file serves every framework. The names are those of PyTorch's ``state_dict``, such
as ``cells.0.analysis.1.weight``, and so are the shapes: a convolution is
(out, in, 3, 3), for series (out, in, 3, 3, 3).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Number,
    Recipe,
    from_json,
    to_json,
)
from svdinv.unroll.plugins import naming

WEIGHTS = "weights.safetensors"
"""Name of the file in the folder of a training."""

Weights = dict[str, NDArray[Any]]
"""Arrays by name."""


class Stored(NamedTuple):
    """What a file of weights holds: the network, its weights, and their task.

    The task is the one they were trained for, as passed to `write`; empty if unknown.
    """

    recipe: Recipe
    weights: Weights
    task: str


# Of the metadata, which safetensors keeps as strings.
_KEY, _TASK = "svdinv", "svdinv.task"
# Cells of a network that has no weights.
_MOST_WEIGHTLESS = 100


def shapes(recipe: Recipe, *, foreign: bool = False) -> dict[str, tuple[int, ...]]:
    """Name the weights of a network and give their shapes, by cells and their layers.

    Raises TypeError if a layer is a framework's own, no `Convolutions` or `Number`;
    with `foreign` those are left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    for prefix, layer in _layers(recipe):
        if isinstance(layer, Number):
            found[prefix] = ()
        elif isinstance(layer, Convolutions):
            found |= {f"{prefix}.{name}": n for name, n in layer.shapes().items()}
        elif layer is not None and not foreign:
            raise TypeError(f"{prefix} is a layer of one framework only")
    return found


def first_kernel(
    shape: tuple[int, ...], rng: np.random.Generator, gain: float | None = None
) -> NDArray[np.float32]:
    """Draw the kernel of a convolution (out, in, ...), uniform.

    With a gain, within ``gain * sqrt(6 / fan_in)`` (He et al., ICCV 2015). Otherwise as
    the released networks had it: for images, as by PyTorch's default, within
    ``1 / sqrt(fan_in)``; for series, as by Keras's, within
    ``sqrt(6 / (fan_in + fan_out))`` (Glorot & Bengio, AISTATS 2010).
    """
    outputs, inputs, *sides = shape
    taps = int(np.prod(sides))
    if gain is not None:
        limit = gain * np.sqrt(6 / (inputs * taps))
    else:
        images = len(sides) == 2
        limit = np.sqrt((1 / inputs if images else 6 / (inputs + outputs)) / taps)
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def first_weights(
    layer: Convolutions, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the initial value of one of `Convolutions.shapes`.

    A kernel as `first_kernel` draws it, a scale of 1, or a shift of 0.
    """
    index, _, kind = name.partition(".")
    if kind == "weight":
        return first_kernel(shape, rng, layer.gain(int(index)))
    return np.full(shape, kind == "scale", dtype=np.float32)


def initial(recipe: Recipe, rng: np.random.Generator) -> Weights:
    """Draw the first weights of a network, by name and in float32.

    The same state of the generator gives the same weights, whatever the framework.
    Layers of a framework's own are left to it.
    """
    drawn: Weights = {}
    for prefix, layer in _layers(recipe):
        if isinstance(layer, Number):
            drawn[prefix] = np.asarray(layer.initial, dtype=np.float32)
        elif isinstance(layer, Convolutions):
            for name, shape in layer.shapes().items():
                drawn[f"{prefix}.{name}"] = first_weights(layer, name, shape, rng)
    return drawn


def write(
    path: str | Path, recipe: Recipe, weights: Mapping[str, Any], task: str = ""
) -> None:
    """Write weights by name, and their recipe, to a safetensors file.

    An existing file is replaced, and only by a complete one. The task that they were
    trained for is as a configuration names it. Raises TypeError if the recipe is not
    registered, or a weight is no floating-point number; ValueError if one is not
    finite.
    """
    arrays = {name: np.array(array, order="C") for name, array in weights.items()}
    _check_numbers(arrays)
    metadata = {_KEY: to_json(recipe)} | ({_TASK: task} if task else {})
    content = _in_order(_safetensors().save(arrays, metadata=metadata))
    with replacing(path) as stream:
        stream.write(content)


def _header(content: bytes) -> dict[str, Any]:
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:end])
    return header


def _in_order(content: bytes) -> bytes:
    """Sort the metadata, whose order safetensors draws anew in each process."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _header(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that arrays are aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def read(path: str | Path) -> Stored:
    """Read what `write` wrote, at once; nothing in the file is run.

    Raises FileNotFoundError if there is no such file; ValueError, naming it, if it is
    damaged, was not written by svdinv, holds what is no finite floating-point number,
    or lacks weights of its network.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is no file")
    numpy_io, safetensors = _safetensors(), _safetensors("safetensors")
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        weights = numpy_io.load(content)
        metadata = _header(content).get("__metadata__") or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file, or damaged: {error}"
        ) from error
    except KeyError as error:  # of a dtype that NumPy lacks
        raise ValueError(f"{path} holds numbers of the type {error}") from error
    if _KEY not in metadata:
        raise ValueError(f"{path} holds weights, but not which network they are of")
    with naming(path, TypeError):
        _check_numbers(weights)
        recipe = from_json(metadata[_KEY])
        if not isinstance(recipe, Recipe):
            raise ValueError(f"{type(recipe).__name__} is no network")
        # Before a network of that many cells is made.
        if recipe.cells > max(len(weights), _MOST_WEIGHTLESS):
            raise ValueError(f"{recipe.cells} cells of {len(weights)} weights in all")
        # Layers of a framework's own are left to it.
        expected = shapes(recipe, foreign=True)
        check({n: weights[n] for n in expected if n in weights}, expected)
    return Stored(recipe, weights, str(metadata.get(_TASK, "")))


def check(weights: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check names and shapes of weights, expected as `shapes` gives them.

    Raises ValueError naming what is missing, too many, or misshapen.
    """
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    for what, names in (("needs", missing), ("has no", surplus)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"the network {what} {', '.join(names[:3])}{more}")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape}, got {tuple(weights[name].shape)}"
            )


def _layers(recipe: Recipe) -> Iterator[tuple[str, Layer]]:
    for i in range(recipe.cells):
        for name, layer in recipe.layers(i == recipe.cells - 1).items():
            yield f"cells.{i}.{name}", layer


def _check_numbers(weights: Weights) -> None:
    for name, array in weights.items():
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must be floating point, got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")


def _safetensors(module: str = "safetensors.numpy") -> Any:
    with needing("safetensors", "unroll"):
        return import_module(module)
