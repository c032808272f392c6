"""A group of patches in the network `colour-groups`: the picture of its page.

Writes docs/figures/group.png, of docs/network-non-local.md; needs PyTorch and
Matplotlib, and half a minute on one core::

    python benchmarks/groups.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from svdinv.unroll import pretrained
from svdinv.unroll.data.pictures import photograph
from svdinv.unroll.priors.patch_matching import nearest_patches
from svdinv.unroll.torch import Network

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

CORNER, SIDE = (60, 150), 97  # of the part of the photograph
REFERENCE = (75, 27)  # corner of a patch in it, multiples of the stride
RATE = 0.4


def thresholded(network: Network, *problem: Any) -> list[torch.Tensor]:
    """Run a network; stack, for each step, all groups before and after the threshold.

    Shape (2, groups, patches, values) for each step, the mean patch taken away.
    """
    cell, kept = network.cells[-1], []
    threshold = cell.svt

    def record(matrices: Any, tau: Any, scale: Any = None) -> Any:
        found = threshold(matrices, tau, scale)
        if scale is not None:  # not those of `colour`, relative to s_1
            kept.append(torch.stack([matrices, found]))
        return found

    cell.svt = record
    network(*problem)
    steps = network.recipe.rounds * network.recipe.steps
    parts = len(kept) // steps
    return [torch.cat(kept[i * parts :][:parts], dim=1) for i in range(steps)]


def main() -> int:
    """Draw the group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()

    (top, left), size = CORNER, SIDE
    photo = photograph("chelsea")[top : top + size, left : left + size]
    photo = np.moveaxis(photo, -1, 0)
    mask = np.random.default_rng(0).random(photo.shape) < RATE
    image, mask = (torch.from_numpy(x).float()[None] for x in (photo, mask))
    with torch.no_grad():
        guide = pretrained.load("colour")(image * mask, mask.bool())
        network = pretrained.load("colour-groups")
        recipe = network.recipe
        steps = thresholded(network, image * mask, mask.bool())

    patch, stride = recipe.patch, recipe.stride
    index = nearest_patches(guide[0].numpy(), patch, stride, recipe.count, recipe.reach)
    across = size - patch + 1
    row, column = (place // stride for place in REFERENCE)
    group = row * -(-across // stride) + column
    places = sorted(divmod(int(place), across) for place in index[group])

    figure = Figure(figsize=(11, 3.7), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    shown = guide[0].permute(1, 2, 0).clamp(0, 1).numpy()
    axes[0].imshow(shown)
    for y, x in [*places, REFERENCE]:
        colour, width = ("red", 2.0) if (y, x) == REFERENCE else ("yellow", 0.7)
        corner = x - 0.5, y - 0.5
        axes[0].add_patch(
            Rectangle(corner, patch, patch, fill=False, color=colour, linewidth=width)
        )
    axes[0].set_title(f"a patch and the {len(places)} most like it")
    patches = [shown[y : y + patch, x : x + patch] for y, x in places]
    rows = [np.concatenate(patches[i : i + 8], axis=1) for i in range(0, 64, 8)]
    axes[1].imshow(np.concatenate(rows, axis=0))
    axes[1].set_title(f"the group: a matrix of {len(places)} × {3 * patch**2}")
    for axis in axes[:2]:
        axis.set_axis_off()
    for step, colour in ((0, "C0"), (len(steps) - 1, "C1")):
        for values, style in zip(steps[step][:, group], ("--", "-"), strict=True):
            s = torch.linalg.svdvals(values).clamp(min=1e-5)
            when = "before" if style == "--" else "after"
            name = f"step {step + 1}, {when}"
            axes[2].semilogy(s, style, color=colour, label=name)
    axes[2].set_ylim(1e-3, None)
    axes[2].set_xlabel("number of the singular value")
    axes[2].set_title("singular values, before and after the threshold")
    axes[2].legend()
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "group.png", dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
