"""Sampling masks and the beating heart: the pictures of docs/data.md.

Writes docs/figures/masks.png and docs/figures/phantom.webp; needs NumPy, Matplotlib
and Pillow, and ten seconds on one core::

    python benchmarks/data_gallery.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from svdinv.unroll.data.masks import (
    cartesian_mask,
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.tasks.cine.phantom import heart

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

SHAPE = (24, 128, 128)
SIDE = 224  # pixels of a panel of the animation
FRAMES = 64  # five beats and one breath, so that the loop closes
FRAME_TIME = 4 / FRAMES
SEED = 2


def masks() -> dict[str, np.ndarray]:
    """Draw a mask of each kind, about eightfold."""
    rng = np.random.default_rng(0)
    return {
        "variable density": variable_density_mask(SHAPE, 1 / 8, rng),
        "Cartesian": cartesian_mask(SHAPE, 8, rng),
        "radial, golden angle": radial_mask(SHAPE, 16),
        "VISTA-like": vista_like_mask(SHAPE, 8, rng),
    }


def plot_masks(path: Path) -> None:
    """Show the first frame of each mask above a column of all its frames."""
    drawn = masks()
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    rows = figure.subplots(2, len(drawn))
    style = {"cmap": "gray", "interpolation": "nearest"}
    for (name, mask), top, bottom in zip(drawn.items(), *rows, strict=True):
        top.imshow(mask[0], **style)
        top.set_title(f"{name}\n{mask.mean():.1%} sampled", fontsize=10)
        bottom.imshow(mask[:, :, SHAPE[2] // 2 + 9].T, aspect="auto", **style)
        bottom.set_xlabel("frame", fontsize=9)
        for axes in (top, bottom):
            axes.set_xticks([])
            axes.set_yticks([])
    rows[0, 0].set_ylabel("first frame", fontsize=9)
    rows[1, 0].set_ylabel("one column, all frames", fontsize=9)
    figure.savefig(path, dpi=100)


def animate_phantom(path: Path) -> None:
    """Show cine magnitude and phase, and the first pass of a contrast agent."""
    height = round(0.84 * SIDE)
    cine = heart(
        FRAMES,
        height,
        SIDE,
        seed=SEED,
        frame_time=FRAME_TIME,
        heart_rate=75,
        breathing_rate=15,
    ).series
    perfusion = heart(FRAMES, height, SIDE, seed=SEED, contrast="perfusion").series
    phase = colormaps["twilight_shifted"](np.angle(cine) / (2 * np.pi) + 0.5)[..., :3]
    phase *= np.minimum(1, np.abs(cine) / 0.1)[..., None]
    panels = (grey(np.abs(cine)), phase, grey(np.abs(perfusion)))
    frames = np.concatenate(panels, axis=2)
    images = [Image.fromarray(np.uint8(255 * frame + 0.5)) for frame in frames]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 * FRAME_TIME),
        loop=0,
        quality=80,
        method=4,
    )


def grey(magnitude: np.ndarray) -> np.ndarray:
    """Show magnitudes in grey, the brightest a little clipped."""
    return np.repeat(np.clip(magnitude / 0.95, 0, 1)[..., None], 3, axis=-1)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    output = parser.parse_args(sys.argv[1:]).output
    output.mkdir(parents=True, exist_ok=True)
    plot_masks(output / "masks.png")
    animate_phantom(output / "phantom.webp")


if __name__ == "__main__":
    main()
