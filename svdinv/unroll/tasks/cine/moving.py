"""Series to train on: phantoms, and photographs that move as hearts do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.pictures import Image, shrunk
from svdinv.unroll.tasks.cine.hearts import smooth_phase
from svdinv.unroll.tasks.cine.phantom import heart

# Series that are never trained on begin here, so that no number of them collides.
_FIRST_TEST = 1_000_000


def phantom_series(
    index: int, frames: int, size: int, *, perfusion: float = 0.4
) -> NDArray[np.complex64]:
    """Make a series of the phantom, each index another patient and another scan.

    Complex64, (frames, size, size), of largest magnitude 1; a share `perfusion` of the
    indices shows first-pass perfusion.
    """
    rng = np.random.default_rng((3, index))
    return heart(
        frames,
        size,
        size,
        seed=index,
        contrast="perfusion" if rng.random() < perfusion else "cine",
        heart_rate=float(rng.uniform(50, 95)),
        breathing_rate=float(rng.uniform(10, 20)),
        breathing=float(rng.uniform(0, 1.2)),
    ).series


def moving_photograph(
    photo: Image, frames: int, size: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Make a series of a photograph, for the texture that a phantom lacks.

    Its colours stand for the density and the relaxation of a tissue: the magnitude
    recovers towards the one at a rate set by the other, as after an inversion or a
    saturation, or hardly changes. The picture is moved as by breathing, here more than
    there, from frame to frame or, where heartbeats lie between frames, at random. It
    has a smooth phase, and a grain of its own in every frame.

    From float32 (H, W, 3) in [0, 1], of at least `size` pixels a side, to complex64
    (frames, size, size), of largest magnitude 1.
    """
    # From details as they are to those of a picture that has been scaled down.
    least = min(photo.shape[:2]) // size
    photo = shrunk(photo, -(-max(photo.shape[:2]) // int(rng.integers(1, least + 1))))
    top, left = (int(rng.integers(n - size + 1)) for n in photo.shape[:2])
    patch = photo[top : top + size, left : left + size]
    density, relaxation = (patch @ rng.dirichlet(np.ones(3)) for _ in range(2))
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    if rng.random() < 0.5:  # a body in air
        radii = rng.uniform(0.6, 1.1, 2)
        density = density * ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1)
    time = np.linspace(0, 1, frames)
    relaxation = (relaxation - relaxation.mean()) / (relaxation.std() + 1e-3)
    rate = rng.uniform(1, 8) * np.exp(rng.normal(0, 1) * relaxation)
    lost = rng.choice([0.0, 1.0, 2.0]) * rng.uniform(0.5, 1)
    series = np.abs(density * (1 - lost * np.exp(-rate * time[:, None, None])))
    cycle = rng.random() + rng.uniform(0.2, 2) * time
    moved = np.sin(np.pi * cycle) ** 2 if rng.random() < 0.5 else rng.random(frames)
    series = warped(series, moved, _breathing(size, rng))
    waves = rng.normal(0, 1.5, 5)
    phase = waves[0] * x + waves[1] * y + waves[2] * x * y + waves[3] * (x**2 - y**2)
    turn = 0.2 * waves[4] * np.sin(2 * np.pi * cycle)
    series = series * np.exp(1j * (phase + turn[:, None, None]))
    # What no prior explains, as in any measured image.
    grain = rng.standard_normal((2, *series.shape), dtype=np.float32)
    deviation = 0.15 * rng.random() ** 2 * np.sqrt(np.mean(np.abs(series) ** 2))
    series = series + deviation * (grain[0] + 1j * grain[1])
    return (series / max(np.abs(series).max(), 1e-6)).astype(np.complex64)


def _breathing(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how far each pixel moves at most, (2, H, W), in pixels."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    angle, place, width = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.5), rng.random()
    # On one side of a line, blurred, it moves fully; on the other it hardly does.
    across = np.cos(angle) * x + np.sin(angle) * y - place
    share = 1 / (1 + np.exp(-across / (0.05 + width)))
    farthest = 0.06 * size * rng.random() ** 2 * (rng.random() < 0.8)
    way = rng.standard_normal(2)
    way *= farthest / np.hypot(*way)
    return way[:, None, None] * share


def warped(
    series: NDArray[np.float64],
    shares: NDArray[np.float64],
    displacement: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move what a series of magnitudes (T, H, W) shows.

    By a share for each frame of a displacement (2, H, W), down and to the right, in
    pixels: ``series[t](p - shares[t] * displacement(p))`` by cubic splines, mirrored at
    the borders. No magnitude is negative.
    """
    from scipy.ndimage import map_coordinates

    here = np.stack(np.meshgrid(*map(np.arange, series.shape[1:]), indexing="ij"))
    frames = [
        map_coordinates(frame, here - share * displacement, order=3, mode="mirror")
        for frame, share in zip(series, shares, strict=True)
    ]
    return np.maximum(np.stack(frames), 0)


def in_the_middle(
    magnitude: NDArray[np.float32], frames: int, size: int
) -> NDArray[np.complex64]:
    """Crop a real series around its middle, and give it a phase that is always one."""
    H, W = magnitude.shape[1:]
    side = min(size, H, W)
    top, left = (H - side) // 2, (W - side) // 2
    part = magnitude[:frames, top : top + side, left : left + side]
    phase = smooth_phase(len(part), side, np.random.default_rng(0))
    return part / np.float32(part.max() or 1) * phase


def unseen_series(
    index: int, frames: int = 12, size: int = 128
) -> NDArray[np.complex64]:
    """Make a series of the phantom that no training and no validation has seen.

    As `phantom_series`; the index counts from 0.
    """
    return phantom_series(_FIRST_TEST + index, frames, size)
