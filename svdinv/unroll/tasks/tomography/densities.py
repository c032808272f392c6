"""Phantoms of tomography: random or named densities in [0, 1].

A pixel holds the mean density over its area, sampled on a finer grid.
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

    `density` is added to the image inside; a and b are the semi-axes or half the sides,
    x and y the centre, and `degrees` is the angle of the first axis against x.
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

    The result is float32 (size, size) in [0, 1]; `seed` determines random phantoms.
    Raises ValueError if there is no phantom of that name.
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
        # Only the window around the shape, since most shapes are small.
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

    Up to a few dozen shapes lie inside a large ellipse; the largest density is at least
    0.5. Without rectangles, this follows Adler & Öktem (Inverse Problems 2017).
    `rectangles` is the probability that a shape is a rectangle, `hollow` that it is a
    shell with an interior of another density.
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
        radius, angle = 0.75 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        limit = 0.9 - radius  # keeps the shape within the disc
        a, b = limit * np.exp(rng.uniform(np.log(0.08), 0, 2)) * 0.7
        shapes.append(
            Ellipse(
                rng.uniform(-0.4, 0.5),
                a,
                b,
                radius * math.cos(angle),
                radius * math.sin(angle),
                rng.uniform(0, 180),
                rng.random() < rectangles,
            )
        )
        if hollow and rng.random() < hollow:
            outer, inner = shapes[-1], rng.uniform(0.75, 0.97)
            change = -outer.density * rng.uniform(0.3, 1.2)
            interior = outer._replace(density=change, a=inner * a, b=inner * b)
            shapes.append(interior)
    image = drawn(shapes, size)
    return image * np.float32(rng.uniform(0.5, 1) / max(float(image.max()), 1e-3))


def textured(image: Image, rng: np.random.Generator) -> Image:
    """Add a random texture to an image, where its density is positive or everywhere.

    The texture is Gaussian with a spectrum that decays as a power of the frequency
    between 1 and 2, as in photographs (Field, J. Opt. Soc. Am. A 1987); its contrast
    and place are random. Image and result are float32 (H, W) in [0, 1].
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
    """Draw a shell of uneven thickness with a folded kernel inside, in [0, 1]."""
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
        place, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.008, 0.02)
        centre = 0.79 * np.array([np.cos(place), np.sin(place)])
        image[np.hypot(x - centre[0], y - centre[1]) < width] = 0.0
    return _coarser(image.astype(np.float32)).clip(0, 1)


def _varied(shapes: Sequence[Ellipse], rng: np.random.Generator) -> list[Ellipse]:
    """Move and stretch all shapes except the skull, and rotate the head."""
    turn = rng.uniform(-30, 30)
    t = math.radians(turn)
    varied = []
    for i, shape in enumerate(shapes):
        factors = rng.uniform(0.8, 1.15, 2) if i > 1 else np.ones(2)
        x, y = np.array([shape.x, shape.y]) + (rng.normal(0, 0.02, 2) if i > 1 else 0)
        varied.append(
            shape._replace(
                a=shape.a * factors[0],
                b=shape.b * factors[1],
                x=math.cos(t) * x - math.sin(t) * y,
                y=math.sin(t) * x + math.cos(t) * y,
                degrees=shape.degrees + turn,
            )
        )
    return varied


def _wave(
    angle: NDArray[np.floating], rng: np.random.Generator, most: int, size: float
) -> NDArray[np.floating]:
    """Draw a smooth random function of the angle, of the order of `size`."""
    total = np.zeros_like(angle)
    for k in range(1, most + 1):
        total += rng.normal() / math.sqrt(most) * np.cos(k * angle + rng.uniform(0, 6))
    return size * total


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the coordinates x and y of the finer grid."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    count = _FINER * size
    line = ((np.arange(count) + 0.5) * 2 / count - 1).astype(np.float32)
    x, y = np.meshgrid(line, -line)
    return x, y


def _coarser(image: NDArray[np.float32]) -> Image:
    size = len(image) // _FINER
    return image.reshape(size, _FINER, size, _FINER).mean(axis=(1, 3))
