"""Weights that come with the package, see `svdinv.unroll.networks.weights`."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdinv.unroll.torch import Network

__all__ = ["load", "names", "path"]

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """List the names of the weights that come with the package."""
    return sorted(file.stem for file in _FOLDER.glob("*.safetensors"))


def path(name: str) -> pathlib.Path:
    """Return the safetensors file of weights; ValueError if there is none."""
    if name not in names():
        there_are = f"there are {', '.join(names())}" if names() else "there are none"
        raise ValueError(f"no weights {name!r} come with this svdinv; {there_are}")
    return _FOLDER / f"{name}.safetensors"


def load(name: str, **options: Any) -> Network:
    """Make a `svdinv.unroll.torch.Network` of weights that come with the package.

    It is on the CPU, in evaluation mode. The options are those of
    `svdinv.unroll.torch.load`; its `dtype` is float32 by default, whatever the file.
    Raises ValueError if there are no such weights, or the file is damaged.
    """
    import torch as framework

    from svdinv.unroll import torch

    return torch.load(path(name), **{"dtype": framework.float32, **options})
