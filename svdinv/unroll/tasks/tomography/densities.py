"""Phantoms of tomography: densities in [0, 1], drawn by a seed or known by name.

Pixels hold the mean of the shapes over their area, sampled on a finer grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.tasks.tomography import DENSITIES

Image = NDArray[np.float32]

_FINER = 4  # points a side in each pixel


class Ellipse(NamedTuple):
    """An ellipse, or a rectangle, in the image [-1, 1]^2, with y up.

    What it adds to the density; its semi-axes a and b, or half its sides; its centre;
    and the angle of the first axis against x.
    """

    density: float
    a: float
    b: float
    x: float = 0.0
    y: float = 0.0
    degrees: float = 0.0
    rectangle: bool = False


# Densities of Toft's variant (PhD thesis, DTU 1996, appendix B).
SHEPP_LOGAN: tuple[Ellipse, ...] = (
    Ellipse(1.0, 0.69, 0.92),
    Ellipse(-0.8, 0.6624, 0.874, 0, -0.0184),
    Ellipse(-0.2, 0.11, 0.31, 0.22, 0, -18),
    Ellipse(-0.2, 0.16, 0.41, -0.22, 0, 18),
    Ellipse(0.1, 0.21, 0.25, 0, 0.35),
    Ellipse(0.1, 0.046, 0.046, 0, 0.1),
    Ellipse(0.1, 0.046, 0.046, 0, -0.1),
    Ellipse(0.1, 0.046, 0.023, -0.08, -0.605),
    Ellipse(0.1, 0.023, 0.023, 0, -0.606),
    Ellipse(0.1, 0.023, 0.046, 0.06, -0.605),
)
"""The head of Shepp & Logan (IEEE Trans. Nucl. Sci. 1974), with more contrast."""


def density(name: str, size: int, *, seed: int = 0) -> Image:
    """Return a phantom of `svdinv.unroll.tasks.tomography.DENSITIES`.

    Float32 in [0, 1], with so many rows and columns; `seed` draws those that are
    random. Raises ValueError if there is none of that name.
    """
    rng = np.random.default_rng(seed)
    if name == "shepp-logan":
        return drawn(SHEPP_LOGAN, size)
    if name in ("head-1", "head-2"):
        return drawn(_varied(SHEPP_LOGAN, np.random.default_rng(int(name[-1]))), size)
    if name in ("walnut-1", "walnut-2"):
        return walnut(size, np.random.default_rng(int(name[-1])))
    if name == "ellipses":
        return random_shapes(size, rng, 0.0)
    if name == "shapes":
        return random_shapes(size, rng)
    raise ValueError(f"there is no phantom {name!r}; there are {', '.join(DENSITIES)}")


def drawn(shapes: Sequence[Ellipse], size: int) -> Image:
    """Add up shapes in an image (size, size), clipped to [0, 1]."""
    x, y = _grid(size)
    image = np.zeros(x.shape, np.float32)
    for shape in shapes:
        # Around the shape alone: most are small.
        reach = math.hypot(shape.a, shape.b)
        rows = np.flatnonzero(np.abs(y[:, 0] - shape.y) <= reach)
        columns = np.flatnonzero(np.abs(x[0] - shape.x) <= reach)
        window = np.ix_(rows, columns)
        t = math.radians(shape.degrees)
        dx, dy = x[window] - shape.x, y[window] - shape.y
        u = (math.cos(t) * dx + math.sin(t) * dy) / shape.a
        v = (math.cos(t) * dy - math.sin(t) * dx) / shape.b
        inside = np.maximum(abs(u), abs(v)) < 1 if shape.rectangle else u**2 + v**2 < 1
        image[window] += np.float32(shape.density) * inside
    return _coarser(image).clip(0, 1)


def random_shapes(
    size: int, rng: np.random.Generator, rectangles: float = 0.5, hollow: float = 0.0
) -> Image:
    """Draw ellipses and rectangles within a disc, float32 (size, size) in [0, 1].

    Without rectangles, some dozens of any density, as Adler & Öktem train on (Inverse
    Problems 2017). The first is a body, the others are in it, and the largest density
    is at least 0.5.
    `rectangles` says how likely each is a rectangle, `hollow` how likely a shell around
    something of another density.
    """
    shapes = [
        Ellipse(
            rng.uniform(0.1, 0.4),
            rng.uniform(0.5, 0.85),
            rng.uniform(0.5, 0.85),
            degrees=rng.uniform(0, 180),
        )
    ]
    for _ in range(int(rng.integers(5, 40))):
        far, at = 0.75 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        most = 0.9 - far  # so that it lies within the disc
        a, b = most * np.exp(rng.uniform(np.log(0.08), 0, 2)) * 0.7
        shapes.append(
            Ellipse(
                rng.uniform(-0.4, 0.5),
                a,
                b,
                far * math.cos(at),
                far * math.sin(at),
                rng.uniform(0, 180),
                rng.random() < rectangles,
            )
        )
        if hollow and rng.random() < hollow:
            outer, inner = shapes[-1], rng.uniform(0.75, 0.97)
            less = -outer.density * rng.uniform(0.3, 1.2)
            within = outer._replace(density=less, a=inner * a, b=inner * b)
            shapes.append(within)
    image = drawn(shapes, size)
    return image * np.float32(rng.uniform(0.5, 1) / max(float(image.max()), 1e-3))


def textured(image: Image, rng: np.random.Generator) -> Image:
    """Return an image with a texture: where it has some density, or everywhere.

    Gaussian, of a spectrum that falls by a power of the frequency between 1 and 2, as
    that of photographs does (Field, J. Opt. Soc. Am. A 1987). The texture, its
    contrast, and where it is are drawn. Of float32 (H, W) in [0, 1], as is the result.
    """
    down, right = (np.fft.fftfreq(n)[:, None] for n in image.shape)
    frequency = np.hypot(down, right.T)
    frequency[0, 0] = np.inf
    white = np.fft.fft2(rng.standard_normal(image.shape))
    field = np.fft.ifft2(white * frequency ** -rng.uniform(1, 2)).real
    field *= rng.uniform(0.03, 0.2) / field.std()
    if rng.random() < 0.5:
        found = image + field * (image > 0)
    else:
        found = image + field + rng.uniform(0, 0.4)
    found = np.maximum(found, 0)
    return (found / max(float(found.max()), 1.0)).astype(np.float32)


def walnut(size: int, rng: np.random.Generator) -> Image:
    """Draw a shell of uneven thickness, with a kernel in folds within; in [0, 1]."""
    x, y = _grid(size)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    outer = 0.82 + _wave(angle, rng, 5, 0.03)
    shell = 0.06 + np.abs(_wave(angle, rng, 7, 0.02))
    inner = outer - shell
    folds = inner - 0.06 - np.abs(_wave(angle, rng, 9, 0.05))
    folds *= 1 - 0.75 * np.exp(-((np.sin(angle + rng.uniform(0, np.pi)) / 0.12) ** 2))
    ripples = np.sin(9 * radius * (1 + _wave(angle, rng, 4, 0.2)) + 3 * angle)
    kernel = (radius < folds) & (ripples > -0.75)
    image = np.where(kernel, 0.45 + 0.1 * ripples, 0.0)
    image = np.where((radius > inner) & (radius < outer), 0.9, image)
    for _ in range(12):  # pores in the shell
        at, wide = rng.uniform(-np.pi, np.pi), rng.uniform(0.008, 0.02)
        middle = 0.79 * np.array([np.cos(at), np.sin(at)])
        image[np.hypot(x - middle[0], y - middle[1]) < wide] = 0.0
    return _coarser(image.astype(np.float32)).clip(0, 1)


def _varied(shapes: Sequence[Ellipse], rng: np.random.Generator) -> list[Ellipse]:
    """Move and stretch all but the skull, and turn the whole."""
    turn = rng.uniform(-30, 30)
    t = math.radians(turn)
    varied = []
    for i, shape in enumerate(shapes):
        by = rng.uniform(0.8, 1.15, 2) if i > 1 else np.ones(2)
        x, y = np.array([shape.x, shape.y]) + (rng.normal(0, 0.02, 2) if i > 1 else 0)
        varied.append(
            shape._replace(
                a=shape.a * by[0],
                b=shape.b * by[1],
                x=math.cos(t) * x - math.sin(t) * y,
                y=math.sin(t) * x + math.cos(t) * y,
                degrees=shape.degrees + turn,
            )
        )
    return varied


def _wave(
    angle: NDArray[np.floating], rng: np.random.Generator, most: int, size: float
) -> NDArray[np.floating]:
    """Draw a smooth function of the angle, of a typical size."""
    total = np.zeros_like(angle)
    for k in range(1, most + 1):
        total += rng.normal() / math.sqrt(most) * np.cos(k * angle + rng.uniform(0, 6))
    return size * total


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of the points of the finer grid, x and y."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    count = _FINER * size
    line = ((np.arange(count) + 0.5) * 2 / count - 1).astype(np.float32)
    x, y = np.meshgrid(line, -line)
    return x, y


def _coarser(image: NDArray[np.float32]) -> Image:
    size = len(image) // _FINER
    return image.reshape(size, _FINER, size, _FINER).mean(axis=(1, 3))
