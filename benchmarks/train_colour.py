"""Train the refinement of the weights for colour that come with the package.

The network inside stays as it is. So what it makes of a crop is computed once, before
the training, and the refinement alone is trained on parts of the crops, mirrored,
turned and with their colours in another order. It takes steps of Muon (Jordan et al.,
2024): the momentum of a kernel as a matrix, with its singular values brought to about
1 by five iterations of Newton and Schulz.

    python benchmarks/train_colour.py photographs --output refined.safetensors

With ``--inside denoise`` it is that of photographs with noise, of which all values are
known.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svdinv.unroll import pretrained
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.data.pictures import centre_crop, patches, shrunk
from svdinv.unroll.networks import Refined
from svdinv.unroll.networks.recipe import Part
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions, channels_first
from svdinv.unroll.tasks.task import InputImage
from svdinv.unroll.torch import Network, load, save

PATCH = 64  # pixels a side
RATES = (0.04, 0.5)
NOISES = (0.01, 0.2)
# Mean squared error of a patch below which little is to be won: in all, and beside the
# variance of its noise.
_FLAT, _FLAT_OF_NOISE = 1e-5, 0.1
_LAST = 0.2  # learning rate of the last convolution, relative to that of the others


class Muon(torch.optim.Optimizer):
    """Steps along the polar factor of the momentum of each kernel.

    Parameters
    ----------
    groups : iterable
        Parameters, or groups of them.
    lr : float
        Spectral norm of a step of a kernel as a matrix, outputs x (inputs, sides).
    momentum : float
        Decay of the mean gradient.
    """

    def __init__(self, groups: Any, lr: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take a step."""
        for group in self.param_groups:
            for kernel in group["params"]:
                mean = self.state[kernel].setdefault("mean", torch.zeros_like(kernel))
                mean.lerp_(kernel.grad, 1 - group["momentum"])
                ahead = kernel.grad.lerp(mean, group["momentum"])
                step = polar(ahead.flatten(1)).reshape(kernel.shape)
                kernel.add_(step, alpha=-group["lr"])


def polar(matrix: Tensor) -> Tensor:
    """Bring the singular values of a wide matrix to between 0.7 and 1.2, or so."""
    x = matrix / (matrix.norm() + 1e-12)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def crops(
    inside: Network, photos: list[Any], count: int, crop: int, seed: int
) -> list[Any]:
    """Draw crops and their data; give for each what the network makes of it.

    They are the estimate, the truth, the data and the mask, and the deviation of the
    noise.
    """
    sizes = [photos, *([shrunk(x, max(x.shape) // 2 + 1) for x in photos],) * 2]
    found = []
    for item in range(count):
        rng = np.random.default_rng((seed, item))
        pool = [x for x in sizes[rng.integers(3)] if min(x.shape[:2]) >= crop]
        (patch,) = patches(pool, 1, crop, rng)
        truth = channels_first(patch)
        if _exact(inside):
            noise, rate = 0.0, math.exp(rng.uniform(*map(math.log, RATES)))
            mask = channels_first(uniform_mask(patch.shape, rate, rng))
            y = np.where(mask, truth, np.float32(0))
        else:
            noise, mask = rng.uniform(*NOISES), np.ones_like(truth, dtype=bool)
            drawn = rng.standard_normal(truth.shape, dtype=np.float32)
            y = truth + np.float32(noise) * drawn
        arrays = reconstructed(inside, y, mask), truth, y, mask
        found.append((arrays, noise))
    return found


def _exact(network: Network) -> bool:
    return bool(getattr(network.recipe, "exact", True))


@torch.no_grad()
def reconstructed(network: Network, y: Any, mask: Any) -> Any:
    """Apply a network to the data of one image."""
    arrays = (torch.from_numpy(x)[None] for x in (y, mask))
    return network(*arrays)[0].numpy()


def batch(items: list[Any], size: int, rng: np.random.Generator) -> list[Tensor]:
    """Cut patches out: estimates, truths, data and masks; and their noise."""
    drawn, noises = [], []
    for _ in range(size):
        arrays, noise = items[rng.integers(len(items))]
        top, left = rng.integers(arrays[0].shape[-1] - PATCH + 1, size=2)
        colours, turns, flip = rng.permutation(3), rng.integers(4), rng.integers(2)
        for x in arrays:
            part = x[colours, top : top + PATCH, left : left + PATCH]
            part = np.rot90(part, turns, (1, 2))
            drawn.append(part[:, :, ::-1] if flip else part)
        noises.append(noise)
    parts = [torch.from_numpy(np.stack(drawn[i::4])) for i in range(4)]
    return [*parts, torch.tensor(noises, dtype=torch.float32)]


def validate(network: Network, aside: dict[str, Any]) -> str:
    """Score whole photographs, at a rate or noise each: mean PSNR in dB."""
    exact, found = _exact(network), []
    for level in (0.1, 0.3, 0.4) if exact else (0.03, 0.1, 0.2):
        values = []
        for seed, (name, photo) in enumerate(aside.items()):
            given = InputImage(name, channels_first(centre_crop(photo, 256)))
            how = {"rate": level} if exact else {"rate": 1.0, "noise": level}
            case = Colour().measure(given, ColourOptions(**how, seed=seed))
            image = reconstructed(network, case.y, case.A.mask)
            values.append(Colour().decibels(case, image))
        found.append(f"{level}: {np.mean(values):.2f} dB")
    return ", ".join(found)


def main() -> int:
    """Train, and write the weights of the whole network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", help="folder of photographs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--inside", default="tlr", help="weights that stay as they are")
    parser.add_argument("--first", type=Path, help="refined weights to go on from")
    parser.add_argument("--features", type=int, nargs="+", default=[48, 96, 128])
    parser.add_argument("--fold", type=int, default=2)
    parser.add_argument("--crops", type=int, default=1100)
    parser.add_argument("--crop", type=int, default=192, help="side of one in pixels")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.012)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    inside = pretrained.load(options.inside)
    photos = Colour(photographs=(options.photographs,)).load()
    items = crops(inside, photos.training, options.crops, options.crop, options.seed)

    features = tuple(options.features)
    recipe = Refined(
        network=inside.recipe,
        features=features,
        fold=options.fold,
        exact=_exact(inside),
    )
    network = Network(recipe, seed=options.seed)
    network.load_state_dict(network.state_dict() | inside.state_dict())
    if options.first is not None:
        network.load_state_dict(load(options.first, dtype=torch.float32).state_dict())
    mean = Network(recipe, seed=0)
    mean.load_state_dict(network.state_dict())
    layers = Part(network.cells[-1], "refinement_")
    named = {n: p for n, p in network.named_parameters() if "refinement" in n}
    means = dict(mean.named_parameters())
    last = [p for n, p in named.items() if "image" in n]
    others = [p for n, p in named.items() if "image" not in n]
    optimiser = Muon([{"params": others}, {"params": last}])

    rng, began = np.random.default_rng(options.seed), time.monotonic()
    for step in range(1, options.steps + 1):
        # Constant after a short rise, then linear to zero in the last 40 %.
        fall = min(1.0, (1 - (step - 1) / options.steps) / 0.4)
        rate = options.learning_rate * min(1.0, step / 100) * fall
        for group, factor in zip(optimiser.param_groups, (1.0, _LAST), strict=True):
            group["lr"] = rate * factor
        x, truth, y, mask, noise = batch(items, options.batch, rng)
        if recipe.exact:
            image = recipe.refine(x, Problem(y, Sampling(mask)), layers)
        else:
            image = recipe.denoise(x, y, noise, layers)
        error = (image - truth).square().mean((1, 2, 3))
        flat = _FLAT + _FLAT_OF_NOISE * noise**2
        optimiser.zero_grad()
        (error + flat).log().mean().backward()
        optimiser.step()
        weight = max(1e-3, 19 / (20 + step))
        with torch.no_grad():
            for name, parameter in named.items():
                means[name].lerp_(parameter, weight)
        if step % 500 == 0 or step == options.steps:
            save(mean, options.output)
            seconds = time.monotonic() - began
            print(f"{step} {seconds:.0f} s {validate(mean, photos.aside)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
