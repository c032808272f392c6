"""Training of a `TLRNet` on patches of photographs, and reconstruction with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdinv.unroll.data import Image, patches
from svdinv.unroll.masks import uniform_mask
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import SVD, TLRNet

__all__ = ["Breakdown", "Training", "TrainingConfig", "reconstruct", "train"]

# The last part of the wall-clock cap is kept to bring the learning rate down.
_COOL_DOWN = 0.15


Ending = Literal["finished", "limited", "capped", "stopped", "broken"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes
    ----------
    steps : int
        Steps of Adam.
    batch, patch : int
        Patches in a step, and their side in pixels.
    rate : float
        Sampling rate; every patch gets a fresh mask.
    learning_rate : float
        Highest learning rate, after a linear warm-up and before a cosine decay to 0.
    warm_up : float
        Part of the steps that the warm-up takes.
    clip : float
        Longest gradient; longer ones are scaled down.
    seed : int
        Seed of the weights, patches and masks.
    """

    steps: int = 1000
    batch: int = 16
    patch: int = 32
    rate: float = 0.4
    learning_rate: float = 2e-3
    warm_up: float = 0.03
    clip: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Breakdown:
    """Where a training broke down.

    Attributes
    ----------
    step : int
        First step, counted from 1, whose gradient was not finite.
    weights, weights_lost : int
        Number of weights, and how many of them were NaN after that step.
    patches, dark_patches : int
        Number of patches in that batch, and how many of them have two or more rows,
        or two or more columns, that are black in all channels.
    """

    step: int
    weights: int
    weights_lost: int
    patches: int
    dark_patches: int


@dataclass
class Training:
    """What came of a training.

    Attributes
    ----------
    network : TLRNet
        The trained network, in evaluation mode.
    losses : list of float
        Mean squared error at each step.
    ending : {"finished", "limited", "capped", "stopped", "broken"}
        All steps done; stopped at `limit`, by the wall-clock cap, or by `on_step`; or
        the gradient was not finite.
    cooled_from : int or None
        Step from which on the cap brought the learning rate down, if it did.
    breakdown : Breakdown or None
        Where the gradient stopped being finite, if it did.
    seconds : float
        Wall-clock time.
    """

    network: TLRNet
    losses: list[float] = field(default_factory=list)
    ending: Ending = "finished"
    cooled_from: int | None = None
    breakdown: Breakdown | None = None
    seconds: float = 0.0


def train(
    photos: Sequence[Image],
    network: TLR,
    config: TrainingConfig,
    *,
    svd: SVD | None = None,
    limit: int | None = None,
    cap_seconds: float | None = None,
    on_step: Callable[[int, float], bool] | None = None,
) -> Training:
    """Train a network on patches of photographs, with Adam on the mean squared error.

    The same seed draws the same weights, patches and masks whatever `svd` is. A
    gradient that is not finite is applied, as any training loop would, and ends the
    training.

    Parameters
    ----------
    photos : sequence of ndarray of float32, shape (H, W, channels)
        Photographs in [0, 1], of different sizes if need be.
    network : TLR
        Structure of the network.
    config : TrainingConfig
        How to train.
    svd : callable, optional
        As for `svdinv.unroll.torch.Network`.
    limit : int, optional
        Stop after this many steps, in the middle of the schedule of the whole
        training.
    cap_seconds : float, optional
        Wall-clock time to stop at. A training that nears it, and has no `limit`,
        decays its learning rate in the time left, so its outcome then depends on the
        machine.
    on_step : callable, optional
        Called after each step with its number, from 1, and its loss; the training
        stops if it returns True.

    Returns
    -------
    Training
        The network and how the training went.
    """
    began = time.monotonic()
    net = TLRNet(network, svd=svd, seed=config.seed)
    rng = np.random.default_rng(config.seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    result = Training(net)
    for step in range(1, config.steps + 1):
        image, mask = _batch(photos, config, rng)
        rate = config.learning_rate * _schedule(step / config.steps, config.warm_up)
        left = _time_left(began, cap_seconds)
        if left < _COOL_DOWN and limit is None:
            result.cooled_from = result.cooled_from or step
            rate *= max(0.0, left / _COOL_DOWN)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        loss = torch.mean((net(image, mask) - image) ** 2)
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimiser.step()
        result.losses.append(loss.item())
        if not math.isfinite(length):
            result.ending = "broken"
            result.breakdown = _breakdown(step, net, image)
            break
        if on_step is not None and on_step(step, result.losses[-1]):
            result.ending = "stopped"
            break
        if step == limit:
            result.ending = "limited"
            break
        if step < config.steps and _time_left(began, cap_seconds) <= 0:
            result.ending = "capped"
            break
    net.eval()
    result.seconds = time.monotonic() - began
    return result


@torch.no_grad()
def reconstruct(
    network: TLRNet, samples: Image, mask: NDArray[np.bool_], *, ensemble: bool = True
) -> Image:
    """Reconstruct one image.

    Parameters
    ----------
    network : TLRNet
        A trained network.
    samples : ndarray of float32, shape (H, W, channels)
        Measured values; entries outside the mask are not looked at.
    mask : ndarray of bool, shape (H, W, channels)
        True where measured.
    ensemble : bool
        Average over the eight mirrored and turned versions of the image
        (Lim et al., EDSR, CVPRW 2017): no training, eight times the time.

    Returns
    -------
    ndarray of float32, shape (H, W, channels)
        The image, clipped to [0, 1].
    """
    y, m = _to_tensor(samples), _to_tensor(mask)
    total = torch.zeros_like(y)
    turns = [(k, flip) for k in range(4) for flip in (False, True)]
    for k, flip in turns if ensemble else turns[:1]:
        image = network(_turn(y, k, flip), _turn(m, k, flip))
        total += torch.rot90(image.flip(-1) if flip else image, -k, (-2, -1))
    total /= len(turns) if ensemble else 1
    return total[0].permute(1, 2, 0).clamp(0, 1).contiguous().numpy()


def _turn(image: Tensor, k: int, flip: bool) -> Tensor:
    turned = torch.rot90(image, k, (-2, -1))
    return turned.flip(-1) if flip else turned


def _to_tensor(image: NDArray[np.float32] | NDArray[np.bool_]) -> Tensor:
    """Move the channels of (H, W, C) or (B, H, W, C) to the front: (B, C, H, W)."""
    batch = image if image.ndim == 4 else image[None]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(batch, -1, 1)))


def _batch(
    photos: Sequence[Image], config: TrainingConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    drawn = patches(photos, config.batch, config.patch, rng)
    mask = uniform_mask(drawn.shape, config.rate, rng)
    return _to_tensor(drawn), _to_tensor(mask)


def _schedule(progress: float, warm_up: float) -> float:
    rise = min(1.0, progress / warm_up) if warm_up > 0 else 1.0
    return rise * (1 + math.cos(math.pi * progress)) / 2


def _time_left(began: float, cap_seconds: float | None) -> float:
    """Part of the wall-clock cap that is left; infinite without a cap."""
    if cap_seconds is None:
        return math.inf
    return 1 - (time.monotonic() - began) / cap_seconds


def _breakdown(step: int, network: TLRNet, image: Tensor) -> Breakdown:
    black = image.amax(dim=1) == 0
    rows, columns = (black.all(dim=side).sum(dim=1) >= 2 for side in (1, 2))
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    return Breakdown(
        step=step,
        weights=weights.numel(),
        weights_lost=int(weights.isnan().sum()),
        patches=len(image),
        dark_patches=int((rows | columns).sum()),
    )
