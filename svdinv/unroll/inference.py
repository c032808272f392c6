"""Application of a trained network to a problem of any size."""

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
"""Number of flipped, rotated or reversed versions that an ensemble averages over."""

NAMES = {False: "network", True: f"network, {VIEWS} views"}
"""Names of a network in tables, alone and as an ensemble."""

START = "network's start"
"""Name of the iterations without weights that precede the cells of a network.

Their image shows the contribution of the weights. Networks that start with the
zero-filled image, or with a simple fill of the samples, have no such entry."""

Arrays = NDArray[Any]

# A network that works on blocks processes an image larger than _LARGEST in tiles, with
# a margin of the effective reach of its layers.
_LARGEST, _TILE, _MARGIN = 1024, 768, 96


def weights_file(weights: str | Path) -> Path:
    """Return the path of weights: a file, the file in a folder, or shipped weights.

    Raises ValueError if there are no weights of that name or the file is not regular,
    FileNotFoundError if there is no such file.
    """
    path = Path(weights)
    if path.is_dir():
        path = path / WEIGHTS
    elif not path.suffix and path.name == str(weights) and not path.exists():
        path = pretrained.path(path.name)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    check_regular(path)
    return path


def open_network(weights: str | Path, device: str = "cpu") -> Network:
    """Load a network from a `weights_file`, in evaluation mode.

    Raises the errors of `weights_file`, and ValueError if the file is damaged.
    """
    # The data are in single precision, too.
    network = load(weights_file(weights), dtype=torch.float32)
    return network.to(device)


def task_of_network(network: Network) -> Task:
    """Return the task named in a network's file, or for its images; else ValueError."""
    recipe = network.recipe
    axes = getattr(recipe, "axes", None)
    return task_of(axes, getattr(recipe, "channels", None), network.task)


def device_of(name: str) -> str:
    """Return a device, for "auto" a GPU if any; ValueError if it is unusable."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).add_(1).cpu()
    except Exception as error:  # PyTorch raises different ones
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot compute on {name!r}: {reason}") from error
    return name


@torch.no_grad()
def reconstruct(
    network: Callable[..., torch.Tensor],
    problem: Problem,
    device: torch.device | str = "cpu",
) -> Arrays:
    """Reconstruct a problem of NumPy arrays; return the output of the network."""
    tensors = replace(problem, truth=None).single()
    tensors = tensors.replace_arrays(partial(tensor, device=torch.device(device)))
    return network(tensors)[0].cpu().contiguous().numpy()


def apply(
    network: Network,
    task: Task,
    problem: Problem,
    *,
    ensemble: bool = False,
    device: str = "cpu",
) -> Reconstruction:
    """Reconstruct with a network on a device, and finish the image as the task does.

    A network that thresholds the singular values of blocks processes large images in
    overlapping tiles, if the task allows it; one that thresholds those of whole images
    processes them at once. `ensemble` averages over the equivalent versions of the
    problem, defined by the task. Raises FloatingPointError if the image is not finite.
    """
    views = task.views(problem) if ensemble else [(problem, np.asarray)]
    total: Any = 0
    count = 0
    for view, inverse in views:  # one at a time, to save memory
        total = total + inverse(_tiled(network, task, view, device))
        count += 1
    if not np.isfinite(total).all():
        raise FloatingPointError("the image of the network is not finite")
    return Reconstruction(task.finished(np.ascontiguousarray(total / count)))


def shipped(task: Task, problem: Problem) -> str:
    """Return the name of svdinv's weights for a problem, "" if it has none."""
    name, names = task.weights_for(problem), pretrained.names()
    if name and name not in names:
        name = task.kind
    return name if name in names else ""


def learned(
    network: Network, task: Task, *, ensemble: bool = False, device: str = "cpu"
) -> dict[str, Method]:
    """Return the methods of a network by name: its `START`, if any, and the network."""
    methods: dict[str, Method] = {}
    if getattr(network.recipe, "has_start", False):

        def start(problem: Problem) -> torch.Tensor:
            return network.recipe.begin(problem)["x"]

        methods[START] = lambda problem: Reconstruction(
            reconstruct(start, problem, device)
        )

    def again(problem: Problem) -> Arrays:
        name = shipped(task, problem)
        own = open_network(pretrained.path(name), device) if name else network
        return reconstruct(own, problem, device)

    def image(problem: Problem) -> Reconstruction:
        found = apply(network, task, problem, ensemble=ensemble, device=device)
        return task.after_network(problem, found, again)

    methods[NAMES[ensemble]] = image
    return methods


def _tiled(network: Network, task: Task, problem: Problem, device: str) -> Arrays:
    """Reconstruct an image, a large one in tiles aligned with the network's blocks."""
    height, width = problem.y.shape[-2:]
    block = getattr(network.recipe, "block", None)
    if block is None or max(height, width) <= _LARGEST or not task.tiled(problem):
        return reconstruct(network, problem, device)
    unit = block * getattr(network.recipe, "fold", 1)
    size, margin = (math.ceil(n / unit) * unit for n in (_TILE, _MARGIN))
    image = np.empty_like(problem.y)
    for window, inside, kept in tiles(height, width, size, margin):
        part = reconstruct(network, task.part(problem, window), device)
        image[..., *kept] = part[..., *inside]
    return image
