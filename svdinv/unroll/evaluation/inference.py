"""A trained network at work on a case, whatever its size, and how well it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from svdinv.unroll import pretrained
from svdinv.unroll.evaluation.baselines import Estimate, Method
from svdinv.unroll.metrics import COLOUR, SERIES
from svdinv.unroll.networks import LLS
from svdinv.unroll.tasks.colour import channels_last
from svdinv.unroll.tiles import Tile, tiles
from svdinv.unroll.torch import Network, load
from svdinv.unroll.training.batches import Case
from svdinv.unroll.training.run import reconstruct

__all__ = [
    "NAMES",
    "START",
    "VIEWS",
    "apply",
    "check_device",
    "judge",
    "kind_of",
    "open_network",
    "parts",
    "start",
]

VIEWS = 8
"""Mirrored, turned or reversed versions of a case that an ensemble averages over."""

NAMES = {False: "network", True: f"network, {VIEWS} views"}
"""What a network is called in tables, alone and as an ensemble."""

START = "network's start"
"""What the iterations in front of a network are called, which learn nothing."""

Arrays = NDArray[Any]
View: TypeAlias = tuple[Case, Callable[[Arrays], Arrays]]

_KINDS = {"B C H W": "colour", "B T H W": "cine"}
# A network that works on blocks sees a picture in tiles if it is larger than this,
# each with a margin as wide as what the layers reach in practice.
_LARGEST, _TILE, _MARGIN = 1024, 768, 96


def open_network(weights: str | Path, device: str = "cpu") -> Network:
    """Make a network of weights.

    Parameters
    ----------
    weights : str or Path
        Name of weights that come with the package, or else, with a suffix, a
        safetensors file.
    device : str
        Where to compute.

    Returns
    -------
    Network
        In evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If there are no weights of that name, or the file is damaged.
    """
    if not Path(weights).suffix:
        weights = pretrained.path(str(weights))
    network: Network = load(weights)
    return network.to(device)


def kind_of(network: Network) -> str:
    """Tell what a network reconstructs.

    Parameters
    ----------
    network : Network
        The network.

    Returns
    -------
    {"colour", "cine"}
        By the axes of its images.

    Raises
    ------
    ValueError
        If it reconstructs neither colour images nor series.
    """
    axes = getattr(network.recipe, "axes", None)
    if axes not in _KINDS:
        raise ValueError(
            "a network of colour images or of series is needed, not "
            f"{type(network.recipe).__name__}"
        )
    return _KINDS[axes]


def check_device(device: str) -> None:
    """Check that PyTorch can compute on a device.

    Parameters
    ----------
    device : str
        Such as "cpu" or "cuda:0".

    Raises
    ------
    ValueError
        If it cannot.
    """
    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except Exception as error:  # PyTorch has one for each reason
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot compute on {device!r}: {reason}") from error


def parts(network: Network, case: Case, *, ensemble: bool = False) -> int:
    """Count the parts in which `apply` does its work.

    Parameters
    ----------
    network : Network
        The network.
    case : Case
        The case.
    ensemble : bool
        As for `apply`.

    Returns
    -------
    int
        How often it calls `on_part`.
    """
    views = [case for case, _ in _views(case)] if ensemble else [case]
    return sum(len(_tiles(network, view)) or 1 for view in views)


def apply(
    network: Network,
    case: Case,
    *,
    ensemble: bool = False,
    device: str = "cpu",
    on_part: Callable[[], Any] = lambda: None,
) -> Estimate:
    """Reconstruct a case with a network.

    A network that thresholds the singular values of blocks sees large pictures in
    overlapping tiles; one that thresholds those of whole images sees them whole.

    Parameters
    ----------
    network : Network
        On `device`.
    case : Case
        Of the kind of the network.
    ensemble : bool
        Average over eight versions of the case: of pictures mirrored and turned ones
        (Lim et al., EDSR, CVPRW 2017), of series mirrored and reversed ones.
    device : str
        Where the network is.
    on_part : callable
        Called after each of `parts`.

    Returns
    -------
    Estimate
        Colour images are clipped to [0, 1].
    """
    views = list(_views(case)) if ensemble else [(case, lambda image: image)]
    total: Any = 0
    for view, undone in views:
        total = total + undone(_tiled(network, view, device, on_part))
    image = np.ascontiguousarray(total / len(views))
    return Estimate(image if np.iscomplexobj(image) else np.clip(image, 0, 1))


def start(network: Network, device: str = "cpu") -> dict[str, Method]:
    """Give what a network makes of a case before its first cell, as a method.

    Beside it one sees what the weights bring.

    Parameters
    ----------
    network : Network
        On `device`.
    device : str
        Where the network is.

    Returns
    -------
    dict of str to callable
        The method by its name, `START`; nothing for a network that begins with the
        zero-filled image, or as one of pictures with a fill that is no rival.
    """
    recipe = network.recipe
    if not (isinstance(recipe, LLS) and (recipe.static or any(recipe.start))):
        return {}

    def begin(samples: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return recipe.begin(samples, recipe.operator(*given))["x"]

    return {START: lambda case: Estimate(reconstruct(begin, case, device))}


def judge(case: Case, image: Arrays) -> dict[str, float]:
    """Measure how near an image comes to the truth.

    Parameters
    ----------
    case : Case
        What was reconstructed, with its truth if that is known.
    image : ndarray
        What was found, of the shape of the truth.

    Returns
    -------
    dict of str to float
        The metrics of `svdinv.unroll.metrics.COLOUR` or `SERIES`, by name, of
        magnitudes where the phase is not known; none where the truth is not.
    """
    if case.truth is None:
        return {}
    metrics: Mapping[str, Callable[..., float]] = SERIES
    truth, image = case.compared(np.asarray(image))
    if not np.iscomplexobj(case.samples):
        metrics = COLOUR
        truth, image = channels_last(truth), channels_last(image)
    return {name: metric(truth, image) for name, metric in metrics.items()}


def _tiled(
    network: Network, case: Case, device: str, on_part: Callable[[], Any]
) -> Arrays:
    every = _tiles(network, case)
    if not every:
        image = reconstruct(network, case, device)
        on_part()
        return image
    (mask,) = case.measurement
    whole = np.empty_like(case.samples)
    for seen, inside, kept in every:
        part = replace(
            case,
            samples=np.ascontiguousarray(case.samples[..., *seen]),
            measurement=(np.ascontiguousarray(mask[..., *seen]),),
            truth=None,
        )
        whole[..., *kept] = reconstruct(network, part, device)[..., *inside]
        on_part()
    return whole


def _tiles(network: Network, case: Case) -> list[Tile]:
    """Cut what is too large, where the blocks of the network are; or nothing."""
    height, width = case.samples.shape[-2:]
    block = getattr(network.recipe, "block", None)
    if (
        block is None
        or max(height, width) <= _LARGEST
        or case.samples.dtype.kind == "c"
    ):
        return []
    unit = block * getattr(network.recipe, "fold", 1)
    size, margin = (math.ceil(n / unit) * unit for n in (_TILE, _MARGIN))
    return list(tiles(height, width, size, margin))


def _views(case: Case) -> Iterator[View]:
    return _series_views(case) if np.iscomplexobj(case.samples) else _turned(case)


def _turned(case: Case) -> Iterator[View]:
    """Mirror and turn a colour image in all eight ways."""
    (mask,) = case.measurement
    for quarter in range(4):
        for mirrored in (False, True):

            def turn(x: Arrays, k: int = quarter, flip: bool = mirrored) -> Arrays:
                turned = np.rot90(x, k, (-2, -1))
                return np.ascontiguousarray(turned[..., ::-1] if flip else turned)

            def undo(x: Arrays, k: int = quarter, flip: bool = mirrored) -> Arrays:
                return np.rot90(x[..., ::-1] if flip else x, -k, (-2, -1))

            yield _changed(case, turn(case.samples), (turn(mask),)), undo


def _series_views(case: Case) -> Iterator[View]:
    """Mirror a series along its rows, its columns and in time, in all eight ways.

    Around the centre (H // 2, W // 2), which the Fourier transform leaves where it is:
    what is done to the images is done to their k-space.
    """
    mask, *maps = case.measurement
    for axes in ((), (-2,), (-1,), (-2, -1)):
        for reversed_ in (False, True):

            def mirror(x: Arrays, axes: tuple[int, ...] = axes) -> Arrays:
                for axis in axes:
                    x = np.flip(x, axis)
                    if x.shape[axis] % 2 == 0:
                        x = np.roll(x, 1, axis)
                return np.ascontiguousarray(x)

            def change(
                x: Arrays, mirror: Any = mirror, back: bool = reversed_
            ) -> Arrays:
                return mirror(x[::-1] if back else x)

            given = (change(mask), *(mirror(m) for m in maps))
            yield _changed(case, change(case.samples), given), change


def _changed(case: Case, samples: Arrays, measurement: tuple[Arrays, ...]) -> Case:
    return replace(case, samples=samples, measurement=measurement, truth=None)
