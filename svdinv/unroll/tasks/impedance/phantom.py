"""Phantoms of tanks with objects in water, random or named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def phantom(name: str, size: int, seed: int) -> NDArray[np.float32]:
    """Draw a phantom of `svdinv.unroll.tasks.impedance.TANKS`, (1, size, size)."""
    if name == "lungs":
        return _drawn(
            size,
            [(-0.4, 0.05, 0.26, 0.5, 10.0, 0.25), (0.4, 0.05, 0.26, 0.5, -10.0, 0.25),
             (0.05, -0.5, 0.2, 0.16, 20.0, 0.7)],
        )  # fmt: skip
    return random_tank(size, np.random.default_rng([seed, 5]))


def random_tank(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw up to three ellipses, alternately resistive and conductive."""
    shapes: list[tuple[float, ...]] = []
    for k in range(int(rng.integers(2, 4))):
        for _ in range(50):
            radius, angle = 0.65 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            a, b = rng.uniform(0.12, 0.28, 2)
            reach = max(a, b)
            if all(math.hypot(x - s[0], y - s[1]) > reach + max(s[2:4]) + 0.05
                   for s in shapes):  # fmt: skip
                break
        else:
            continue
        value = rng.uniform(0.0, 0.3) if k % 2 == 0 else rng.uniform(0.7, 1.0)
        shapes.append((x, y, a, b, rng.uniform(0, 180), value))
    return _drawn(size, shapes)


def _drawn(size: int, shapes: Sequence[tuple[float, ...]]) -> NDArray[np.float32]:
    """Draw ellipses (x, y, semi-axes, degrees, value) in water."""
    finer = 4
    line = (np.arange(finer * size) + 0.5) / (finer * size) * 2 - 1
    X, Y = np.meshgrid(line, -line)
    image = np.full(X.shape, 0.5)
    for x, y, a, b, degrees, value in shapes:
        t = math.radians(degrees)
        dx, dy = X - x, Y - y
        u = (math.cos(t) * dx + math.sin(t) * dy) / a
        v = (math.cos(t) * dy - math.sin(t) * dx) / b
        image[u**2 + v**2 < 1] = value
    return reduced(image, size)[None]


def reduced(image: Floats, size: int) -> NDArray[np.float32]:
    """Downsample by block means, or by nearest pixels if sizes do not divide."""
    count = len(image)
    if count % size == 0:
        part = count // size
        image = image.reshape(size, part, size, part).mean(axis=(1, 3))
        return image.astype(np.float32)
    nearest = (np.arange(size) * count) // size
    return image[np.ix_(nearest, nearest)].astype(np.float32)
