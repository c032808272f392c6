"""Weights that come with the package, as `svdinv.unroll.networks.weights` reads."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdinv.unroll.torch import Network

__all__ = ["load", "names", "path"]

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """List the weights that come with the package.

    Returns
    -------
    list of str
        Names, for `path` and `load`.
    """
    return sorted(file.stem for file in _FOLDER.glob("*.safetensors"))


def path(name: str) -> pathlib.Path:
    """Return the path of weights.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Path
        The safetensors file.

    Raises
    ------
    ValueError
        If there are none of that name.
    """
    if name not in names():
        there_are = f"there are {', '.join(names())}" if names() else "there are none"
        raise ValueError(f"no weights {name!r} come with this svdinv; {there_are}")
    return _FOLDER / f"{name}.safetensors"


def load(name: str, **options: Any) -> Network:
    """Make a network with weights that come with the package.

    Parameters
    ----------
    name : str
        One of `names`.
    **options
        `svd`, `operator` and `checkpoint` of `svdinv.unroll.torch.Network`, and
        `dtype` of `svdinv.unroll.torch.load`: float32 by default, whatever the file.

    Returns
    -------
    svdinv.unroll.torch.Network
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If there are none of that name, or the file is damaged.
    """
    import torch as framework

    from svdinv.unroll import torch

    return torch.load(path(name), **{"dtype": framework.float32, **options})
