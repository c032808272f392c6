"""Weights in a safetensors file, with the recipe of their network.

One file works with every framework. Names and shapes are those of PyTorch's
``state_dict``, such as ``cells.0.analysis.1.weight``; a kernel has the shape
(out, in, 3, 3), for series (out, in, 3, 3, 3).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

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
"""Name of the weights file in the folder of a training."""

Weights = dict[str, NDArray[Any]]
"""Arrays by name."""


# Keys of the metadata, whose values safetensors stores as strings.
_KEY, _TASK = "svdinv", "svdinv.task"
# Upper limit of the number of cells of a network with few weights.
_MOST_WEIGHTLESS = 100


def shapes(recipe: Recipe, *, foreign: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a network by name, in the order of its cells.

    Raises TypeError if a layer is neither `Convolutions` nor `Number` but specific to a
    framework; with `foreign` such layers are left out.
    """
    by_name: dict[str, tuple[int, ...]] = {}
    for prefix, layer in _layers(recipe):
        if isinstance(layer, Number):
            by_name[prefix] = ()
        elif isinstance(layer, Convolutions):
            by_name |= {f"{prefix}.{name}": n for name, n in layer.shapes().items()}
        elif layer is not None and not foreign:
            raise TypeError(f"{prefix} is a layer of one framework only")
    return by_name


def first_kernel(
    shape: tuple[int, ...], rng: np.random.Generator, gain: float | None = None
) -> NDArray[np.float32]:
    """Draw a kernel (out, in, ...) from a uniform distribution.

    With a gain its limits are +-``gain * sqrt(6 / fan_in)`` (He et al., ICCV 2015).
    Otherwise they are those of the released networks: for images, PyTorch's default,
    ``1 / sqrt(fan_in)``; for series, Keras's default,
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
    """Return an initial kernel (`first_kernel`), scale (1) or shift (0)."""
    index, _, kind = name.partition(".")
    if kind == "weight":
        return first_kernel(shape, rng, layer.gain(int(index)))
    return np.full(shape, kind == "scale", dtype=np.float32)


def initial(recipe: Recipe, rng: np.random.Generator) -> Weights:
    """Draw the initial weights of a network, by name, in float32.

    They depend only on `rng`; framework-specific layers are left out.
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

    An existing file is replaced atomically. `task` is the name of the task of the
    training in a configuration. Raises TypeError if the recipe is not registered or a
    weight is not floating point; ValueError if a weight is not finite.
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
    """Sort the metadata, whose order in safetensors differs between processes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _header(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the arrays
    return len(text).to_bytes(8, "little") + text + content[end:]


def read(path: str | Path) -> tuple[Recipe, Weights, str]:
    """Read network, weights and task, "" if unknown; no code in the file is run.

    Raises FileNotFoundError if the file does not exist; ValueError, naming the file, if
    it is damaged, was not written by svdinv, contains values that are not finite
    floating-point numbers, or lacks weights of its network.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file")
    numpy_io, safetensors = _safetensors(), _safetensors("safetensors")
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        weights = numpy_io.load(content)
        metadata = _header(content).get("__metadata__") or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or damaged: {error}"
        ) from error
    except KeyError as error:  # a dtype unknown to NumPy
        raise ValueError(f"{path} contains numbers of the type {error}") from error
    if _KEY not in metadata:
        raise ValueError(f"{path} contains weights without the name of their network")
    with naming(path, TypeError):
        _check_numbers(weights)
        recipe = from_json(metadata[_KEY])
        if not isinstance(recipe, Recipe):
            raise ValueError(f"{type(recipe).__name__} is not a network")
        # Check this before making a network of that many cells.
        if recipe.cells > max(len(weights), _MOST_WEIGHTLESS):
            raise ValueError(f"{recipe.cells} cells with {len(weights)} weights in all")
        # Framework-specific layers are checked by the framework.
        expected = shapes(recipe, foreign=True)
        check({n: weights[n] for n in expected if n in weights}, expected)
    return recipe, weights, str(metadata.get(_TASK, ""))


def check(weights: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check the names and shapes of weights against those of `shapes`.

    Raises ValueError naming missing, unexpected or misshapen weights.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    for problem, names in (("needs", missing), ("has no", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"the network {problem} {', '.join(names[:3])}{more}")
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
