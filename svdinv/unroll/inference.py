"""A trained network at work on a problem, whatever its size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svdinv.unroll import pretrained
from svdinv.unroll.formats.checks import check_regular
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Method, Reconstruction, Task, task_of
from svdinv.unroll.tiles import tiles
from svdinv.unroll.torch import Network, load, tensor

VIEWS = 8
"""Mirrored, turned or reversed versions of a problem that an ensemble averages over."""

NAMES = {False: "network", True: f"network, {VIEWS} views"}
"""What a network is called in tables, alone and as an ensemble."""

START = "network's start"
"""What the iterations in front of a network are called, which learn nothing.

Beside their image one sees what the weights bring. There is none where a network begins
with the zero-filled image, or as one of pictures with a fill that is no rival."""

Arrays = NDArray[Any]

# A network that works on blocks sees a picture in tiles if it is larger than this,
# each with a margin as wide as what the layers reach in practice.
_LARGEST, _TILE, _MARGIN = 1024, 768, 96


def open_network(weights: str | Path, device: str = "cpu") -> Network:
    """Make a network of weights, in evaluation mode.

    They are the name of those that come with the package, a safetensors file, or the
    folder of a training. Raises FileNotFoundError if there is no such file, ValueError
    if there are none of that name or the file is damaged.
    """
    if Path(weights).is_dir():
        weights = Path(weights) / WEIGHTS
    elif not Path(weights).suffix:
        weights = pretrained.path(str(weights))
    if Path(weights).exists():  # else PyTorch says that there is none
        check_regular(weights)
    network = load(weights, dtype=torch.float32)  # of the data
    return network.to(device)


def task_of_network(network: Network) -> Task:
    """Return the task of a network: as its file says, or by its images.

    Raises ValueError if there is none for such images.
    """
    recipe = network.recipe
    axes = getattr(recipe, "axes", None)
    return task_of(axes, getattr(recipe, "channels", None), network.task)


def device_of(name: str) -> str:
    """Choose a device, "auto" for a GPU if there is one.

    Raises ValueError if PyTorch cannot compute on it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).add_(1).cpu()
    except Exception as error:  # PyTorch has one for each reason
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot compute on {name!r}: {reason}") from error
    return name


@torch.no_grad()
def reconstruct(
    network: Callable[..., torch.Tensor],
    problem: Problem,
    device: torch.device | str = "cpu",
) -> Arrays:
    """Reconstruct one problem of NumPy arrays, as it comes from the network."""
    given = replace(problem, truth=None).single()
    given = given.replace_arrays(partial(tensor, device=torch.device(device)))
    return network(given)[0].cpu().contiguous().numpy()


def apply(
    network: Network,
    task: Task,
    problem: Problem,
    *,
    ensemble: bool = False,
    device: str = "cpu",
) -> Reconstruction:
    """Reconstruct, finished as the task wants it, with a network on a device.

    A network that thresholds the singular values of blocks sees large images in
    overlapping tiles, where the task allows it; one that thresholds those of whole
    images sees them whole. `ensemble` averages over the equivalent versions of the
    problem that the task knows. Raises FloatingPointError if the image is not finite.
    """
    views = task.views(problem) if ensemble else [(problem, np.asarray)]
    total: Any = 0
    count = 0
    for view, undone in views:  # one at a time: they are as large as the image
        total = total + undone(_tiled(network, task, view, device))
        count += 1
    if not np.isfinite(total).all():
        raise FloatingPointError("the image of the network is not finite")
    return Reconstruction(task.finished(np.ascontiguousarray(total / count)))


def learned(
    network: Network, task: Task, *, ensemble: bool = False, device: str = "cpu"
) -> dict[str, Method]:
    """Return what a network can do, by name.

    Its start, as of `START`, if it has one, and the network itself, alone or as an
    ensemble.
    """
    methods: dict[str, Method] = {}
    if getattr(network.recipe, "has_start", False):

        def begin(problem: Problem) -> torch.Tensor:
            return network.recipe.begin(problem)["x"]

        methods[START] = lambda problem: Reconstruction(
            reconstruct(begin, problem, device)
        )
    options: Any = {"ensemble": ensemble, "device": device}
    methods[NAMES[ensemble]] = partial(apply, network, task, **options)
    return methods


def _tiled(network: Network, task: Task, problem: Problem, device: str) -> Arrays:
    """Reconstruct; large images in tiles on the grid of the network's blocks."""
    height, width = problem.y.shape[-2:]
    block = getattr(network.recipe, "block", None)
    if block is None or max(height, width) <= _LARGEST or not task.tiled(problem):
        return reconstruct(network, problem, device)
    unit = block * getattr(network.recipe, "fold", 1)
    size, margin = (math.ceil(n / unit) * unit for n in (_TILE, _MARGIN))
    whole = np.empty_like(problem.y)
    for seen, inside, kept in tiles(height, width, size, margin):
        part = reconstruct(network, task.part(problem, seen), device)
        whole[..., *kept] = part[..., *inside]
    return whole
