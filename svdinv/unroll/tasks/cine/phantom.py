"""Analytic phantom of a beating heart for cardiac MRI, with any number of pixels.

The phantom is a short-axis slice through the chest. Every frame maps its pixels back to
the tissue at end-diastole and end-expiration, where the tissue is painted, so that
walls thicken as they contract and textures move with the tissue.

Lengths are in half the side of the field of view, x to the patient's left (right in
the image) and y to the back (down); a typical field of view is 360 mm wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.masks import is_integer
from svdinv.unroll.tasks.cine.signals import CINE, contraction, first_pass, of_frames

LABELS = ("other", "left ventricle", "myocardium", "right ventricle")
"""Meanings of the numbers in `Phantom.labels`."""

Array = NDArray[np.floating]
Number = float | Array

_TORSO = (0.94, 0.74)  # semi-axes
_EDGE = 0.6  # width in pixels of the transition between tissues
_MARGIN = 0.16  # bound on the motion of tissue


class Phantom(NamedTuple):
    """A series of the heart, with coil maps and labels.

    `series` (T, H, W) has largest magnitude 1; `maps` (C, H, W) are coil sensitivities
    whose squared magnitudes add up to 1 at every pixel, or None; `labels` (T, H, W) are
    indices into `LABELS` of the tissue that fills most of a pixel; and `times` (T,) are
    in seconds from the first frame.
    """

    series: NDArray[np.complex64]
    maps: NDArray[np.complex64] | None
    labels: NDArray[np.uint8]
    times: Array


def heart(
    frames: int,
    height: int,
    width: int,
    *,
    seed: int,
    coils: int | None = None,
    contrast: str = "cine",
    frame_time: float | None = None,
    heart_rate: float = 66.0,
    breathing_rate: float = 14.0,
    breathing: float = 1.0,
) -> Phantom:
    """Make a complex image series of a beating heart in a breathing chest.

    The ventricle contracts as an incompressible ring that twists, and fills in two
    phases as in a healthy heart; breathing follows Lujan et al. (Med. Phys. 26, 1999)
    and rests at end-expiration. The phase is smooth, drifts with time and breathing,
    and follows the flow in the blood. Position, size, shape and texture of the organs
    are drawn from the seed.

    H and W are 16 or more. The `contrast` "cine" is real-time balanced SSFP, in which
    blood is always bright; "perfusion" is the first pass of a contrast agent through
    the right ventricle, the left, and the myocardium, where a subendocardial segment
    lacks perfusion, with one frame per beat, always in diastole. `frame_time` is in
    seconds, by default 0.05 for "cine" and one beat for "perfusion"; rates are per
    minute; `breathing` in [0, 1.5] is its depth, 1 for free breathing and 0 for a held
    breath. There are maps if `coils`, a number of coils around the chest, is given.
    Raises ValueError if an argument is out of range.
    """
    _check_size(frames, height, width)
    if contrast not in ("cine", "perfusion"):
        raise ValueError(f'contrast must be "cine" or "perfusion", got {contrast!r}')
    if not all(0 < rate < math.inf for rate in (heart_rate, breathing_rate)):
        raise ValueError("heart_rate and breathing_rate must be positive")
    if not 0 <= breathing <= 1.5:
        raise ValueError(f"breathing must lie in [0, 1.5], got {breathing}")
    perfusion = contrast == "perfusion"
    if frame_time is None:
        frame_time = 60 / heart_rate if perfusion else 0.05
    if not 0 < frame_time < math.inf:
        raise ValueError(f"frame_time must be positive seconds, got {frame_time}")
    maps = None if coils is None else coil_maps(coils, height, width, seed=seed)
    # Separate streams, so that neither the contrast nor T changes the anatomy.
    rng, timing, levels = (np.random.default_rng([seed, k]) for k in (0, 2, 3))
    body = _Body.draw(rng)
    times = frame_time * np.arange(frames)
    first_beat, first_breath = timing.random(2)
    beat = first_beat + times * heart_rate / 60
    if perfusion:  # triggered, with jitter
        beat = 0.72 + 0.02 * timing.standard_normal(frames)
    squeeze = contraction(beat)
    cycle = first_breath + times * breathing_rate / 60
    breath = breathing * np.sin(np.pi * cycle) ** 4
    x, y = _grid(height, width)
    tissue_x, tissue_y = body.tissue_at(x, y, of_frames(squeeze), of_frames(breath))
    level = np.ones((frames, 1, 1), dtype=np.float32)
    steady = {name: value * level for name, value in CINE.items()}
    signal = first_pass(times) if perfusion else steady
    for name in CINE:  # variation between scanners and patients
        factor = np.float32(levels.uniform(0.85, 1.15))
        for tissue in (name, "defect") if name == "myocardium" else (name,):
            if tissue in signal and name not in ("left", "right"):
                signal[tissue] = factor * signal[tissue]
    canvas = _Canvas(tissue_x, tissue_y, x, y)
    blood, labels = _paint(canvas, body, signal, of_frames(squeeze), perfusion, rng)
    phase = _phase(x, y, of_frames(times), of_frames(breath), rng)
    if not perfusion:
        speed = (contraction(beat + 0.01) - contraction(beat - 0.01)) / 0.02
        phase = phase + 0.15 * of_frames(speed) * blood
    series = (canvas.image * np.exp(1j * phase)).astype(np.complex64)
    series /= np.abs(series).max()
    return Phantom(series, maps, labels, times)


def coil_maps(
    coils: int, height: int, width: int, *, seed: int
) -> NDArray[np.complex64]:
    """Compute sensitivities of loop coils on a belt around the chest, (C, H, W).

    The sensitivity is the transverse field ``B_x - i B_y`` of a unit current in the
    loop (Hoult 2000), by the law of Biot and Savart in the static approximation. The
    sum of the squared magnitudes is 1 at every pixel. The seed determines the position
    of the first coil and the phase of every coil. Raises ValueError unless C >= 1, and
    H and W are 16 or more.
    """
    _check_size(1, height, width)
    if not is_integer(coils) or coils < 1:
        raise ValueError(f"coils must be a positive integer, got {coils!r}")
    rng = np.random.default_rng([seed, 1])
    x, y = _grid(height, width)
    turns = (np.arange(coils) + rng.random()) / coils + 0.01 * rng.random(coils)
    radius = min(0.65, 4 / coils)
    maps = np.stack(
        [
            _loop_field(x, y, 1.5 * math.cos(a), 1.35 * math.sin(a), a, radius)
            for a in 2 * np.pi * turns
        ]
    )
    maps *= np.exp(2j * np.pi * rng.random(coils))[:, None, None]
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    return maps.astype(np.complex64)


def _loop_field(
    x: Array,
    y: Array,
    x0: float,
    y0: float,
    angle: float,
    radius: float,
    *,
    wire: float = 0.15,
    points: int = 24,
) -> NDArray[np.complexfloating]:
    """Integrate ``B_x - i B_y`` of a loop around (x0, y0) with axis at `angle`."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    across, up = radius * np.cos(turn), radius * np.sin(turn)
    tx, ty = -math.sin(angle), math.cos(angle)  # the loop spans this direction and z
    dx = x[..., None] - (x0 + across * tx)
    dy = y[..., None] - (y0 + across * ty)
    step = 2 * np.pi / points
    jx, jy, jz = -up * tx * step, -up * ty * step, across * step
    cube = (dx**2 + dy**2 + up**2 + wire**2) ** 1.5
    field_x = np.sum((-jy * up - jz * dy) / cube, axis=-1)
    field_y = np.sum((jz * dx + jx * up) / cube, axis=-1)
    return field_x - 1j * field_y


@dataclass(frozen=True)
class _Body:
    """Random parameters of the anatomy."""

    centre: tuple[float, float]  # of the left ventricle
    cavity: float  # its radius at end-diastole
    wall: float
    flat: float  # axis ratio of the ventricle
    tilt: float
    ejection: float  # share of the radius lost at end-systole
    twist: float
    right_angle: float  # where the right ventricle lies
    shift: tuple[float, float]  # of the heart at full inspiration
    chest: float  # rise of the chest wall
    defect: float  # direction from the centre to the perfusion defect
    size: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Body:
        def about(value: float, spread: float) -> float:
            return value + spread * rng.uniform(-1, 1)

        return cls(
            centre=(about(0.16, 0.06), about(-0.05, 0.06)),
            cavity=about(0.163, 0.025),
            wall=about(0.068, 0.014),
            flat=about(0.93, 0.05),
            tilt=about(0.4, 0.3),
            ejection=about(0.38, 0.07),
            twist=about(0.15, 0.05),
            right_angle=about(3.35, 0.25),
            shift=(about(-0.015, 0.01), about(0.06, 0.015)),
            chest=about(0.03, 0.01),
            defect=about(0.0, math.pi),
            size=about(0.98, 0.04),
        )

    def tissue_at(
        self, x: Array, y: Array, squeeze: Array, breath: Array
    ) -> tuple[Array, Array]:
        """Return the position at rest of the tissue at (x, y), shape (T, H, W)."""
        x0, y0 = self.centre
        near = np.exp(-((x - x0) ** 2 + (y - y0 - 0.1) ** 2) / (2 * 0.42**2))
        front = _step(-(y + 0.25) / 0.12)
        x = x - breath * self.shift[0] * near
        y = y - breath * (self.shift[1] * near - self.chest * front)
        # Polar coordinates of the ventricle, in which its wall is a ring.
        u, v = _turn(x - x0, y - y0, self.tilt)
        u = u / self.flat
        square = u**2 + v**2
        rest, now = self.cavity, self.cavity * (1 - self.ejection * squeeze)
        fade = _step((0.16 - square) / 0.03)
        outside = square + (rest**2 - now**2) * fade
        inside = square * (rest / now) ** 2
        stretch = np.sqrt(
            np.where(square < now**2, inside, outside) / np.maximum(square, 1e-12)
        )
        angle = self.twist * squeeze * fade
        u, v = _turn(u * stretch, v * stretch, angle)
        u, v = _turn(u * self.flat, v, -self.tilt)
        return u + x0, v + y0


@dataclass
class _Canvas:
    """A series to paint on, in the coordinates of the tissue at rest."""

    tissue_x: Array
    tissue_y: Array
    x: Array
    y: Array
    image: Array = field(init=False)

    def __post_init__(self) -> None:
        self.image = np.zeros_like(self.tissue_x)
        self.pixel = float(self.y[1, 0] - self.y[0, 0])

    def paint(self, value: Number, form: _Form, within: _Form | None = None) -> None:
        """Paint the inside of a form, optionally only within another form."""
        rows, columns = self.window(form)
        cover = self.cover(form, rows, columns)
        if within is not None:
            cover *= self.cover(within, rows, columns)
        part = self.image[:, rows, columns]
        part += cover * (np.asarray(value, dtype=np.float32) - part)

    def cover(
        self, form: _Form, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Array:
        """Fraction of each pixel that lies inside a form."""
        depth = form.depth(
            self.tissue_x[:, rows, columns], self.tissue_y[:, rows, columns]
        )
        return _step(2 * depth / (_EDGE * self.pixel))

    def window(self, form: _Form) -> tuple[slice, slice]:
        """Return the rows and columns that a form can reach."""
        reach = 1.3 * max(float(np.max(axis)) for axis in form.axes) + _MARGIN
        span = []
        for line, centre in ((self.y[:, 0], form.y), (self.x[0], form.x)):
            low = np.searchsorted(line, np.min(centre) - reach)
            high = np.searchsorted(line, np.max(centre) + reach)
            span.append(slice(int(low), int(high)))
        return span[0], span[1]


@dataclass(frozen=True)
class _Form:
    """An ellipse, optionally with a wavy border; numbers or arrays (T, 1, 1)."""

    x: Number
    y: Number
    axes: tuple[Number, Number]
    turn: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()  # per turn, height, phase
    power: float = 2.0

    def depth(self, x: Array, y: Array) -> Array:
        """Signed distance to the border, positive inside, to first order near it."""
        x0, y0 = (np.asarray(value, x.dtype) for value in (self.x, self.y))
        u, v = _turn(x - x0, y - y0, self.turn)
        a, b = (np.asarray(axis, x.dtype) for axis in self.axes)
        p, q = np.abs(u / a), np.abs(v / b)
        if self.power == 2:
            radius = np.sqrt(p * p + q * q)
            slope = np.sqrt((p / a) ** 2 + (q / b) ** 2) / np.maximum(radius, 1e-6)
        else:
            n = self.power
            radius = (p**n + q**n) ** (1 / n)
            slope = np.hypot(p ** (n - 1) / a, q ** (n - 1) / b)
            slope /= np.maximum(radius, 1e-6) ** (n - 1)
        border = np.ones((), x.dtype)
        if self.waves:
            angle = np.arctan2(v, u)
            for count, height, phase in self.waves:
                border = border + height * np.cos(count * angle + phase)
        return (border - radius) / np.maximum(slope, 1e-6)


def _paint(
    canvas: _Canvas,
    body: _Body,
    signal: dict[str, Array],
    squeeze: Array,
    perfusion: bool,
    rng: np.random.Generator,
) -> tuple[Array, NDArray[np.uint8]]:
    """Paint the slice; return the fraction of blood in each pixel, and labels."""
    _paint_chest(canvas, body, signal, rng)
    _paint_abdomen(canvas, signal, rng)
    x0, y0 = body.centre
    outer = body.cavity + body.wall
    right = _right_ventricle(body, squeeze, rng)
    for rim in (0.05, 0.02):  # fat around the right ventricle, and its wall
        axes = (right.axes[0] + rim, right.axes[1] + rim)
        layer = _Form(right.x, right.y, axes, right.turn, right.waves[:4])
        canvas.paint(signal["myocardium" if rim < 0.03 else "fat"] * 0.9, layer)
    fat = _Form(x0, y0 + 0.01, (outer + 0.02, outer + 0.035), 0.3, _waves(rng, 0.03))
    canvas.paint(0.8 * signal["fat"], fat)
    canvas.paint(signal["right"], right)
    axes = (body.flat * outer, outer)
    wall = _Form(x0, y0, axes, body.tilt, _waves(rng, 0.012))
    canvas.paint(signal["myocardium"], wall)
    if perfusion:
        canvas.paint(signal["defect"], _defect(body), wall)
    rough = _waves(rng, 0.018, low=2) + _waves(rng, 0.016, low=7, number=6)
    axes = (body.flat * body.cavity, body.cavity)
    cavity = _Form(x0, y0, axes, body.tilt, rough)
    canvas.paint(signal["left"], cavity)
    blood = canvas.cover(cavity)
    for muscle in _papillary(body, rng):
        canvas.paint(signal["myocardium"], muscle)
        blood *= 1 - canvas.cover(muscle)
    in_wall = canvas.cover(wall)
    in_right = canvas.cover(right) * (1 - in_wall)
    labels = np.zeros(canvas.image.shape, dtype=np.uint8)
    labels[in_right > 0.5] = 3
    labels[in_wall > 0.5] = 2
    labels[canvas.cover(cavity) > 0.5] = 1
    grain = _noise(canvas.tissue_x, canvas.tissue_y, rng, number=24, low=20, high=110)
    eddies = _noise(canvas.tissue_x, canvas.tissue_y, rng, number=6, low=8, high=25)
    flowing = blood + in_right
    canvas.image *= 1 + 0.04 * grain * (1 - flowing)
    canvas.image *= 1 - 0.1 * flowing * squeeze * (0.5 + eddies).clip(0, 1)
    return flowing, labels


def _right_ventricle(body: _Body, squeeze: Array, rng: np.random.Generator) -> _Form:
    """Return an ellipse that the left ventricle later covers up to a crescent."""
    away = body.cavity + body.wall - 0.02 - 0.035 * squeeze
    shrunk = 1 - 0.2 * squeeze
    return _Form(
        body.centre[0] + away * math.cos(body.right_angle),
        body.centre[1] + away * math.sin(body.right_angle),
        (rng.uniform(0.15, 0.17) * shrunk, rng.uniform(0.21, 0.24) * shrunk),
        body.right_angle - math.pi - 0.1,
        _waves(rng, 0.03) + _waves(rng, 0.014, low=7, number=5),
    )


def _papillary(body: _Body, rng: np.random.Generator) -> list[_Form]:
    """Return two papillary muscles at the free wall, and trabeculae between them."""
    forms = []
    spots = [(0.5, 0.6, 0.21), (2.2, 0.6, 0.19)]
    spots += [(a, 0.88, 0.06) for a in rng.uniform(-0.8, 3.4, 6)]
    for angle, out, size in spots:
        angle = angle + 0.2 * rng.uniform(-1, 1)
        radius = body.cavity * size * rng.uniform(0.85, 1.15)
        x = body.centre[0] + out * body.cavity * math.cos(angle)
        y = body.centre[1] + out * body.cavity * math.sin(angle)
        forms.append(_Form(x, y, (radius * 1.25, radius), angle))
    return forms


def _defect(body: _Body) -> _Form:
    """Return the segment with reduced perfusion, to be painted within the wall."""
    angle = body.defect
    x = body.centre[0] + 0.5 * body.cavity * math.cos(angle)
    y = body.centre[1] + 0.5 * body.cavity * math.sin(angle)
    depth = 0.5 * body.cavity + 0.6 * body.wall
    return _Form(x, y, (depth, 1.35 * depth), angle)


def _paint_chest(
    canvas: _Canvas, body: _Body, signal: dict[str, Array], rng: np.random.Generator
) -> None:
    a, b = (body.size * axis for axis in _TORSO)
    form = _waves(rng, 0.008)
    canvas.paint(0.5 * signal["muscle"], _Form(0, 0, (a, b), 0, form, 2.5))
    canvas.paint(signal["fat"], _Form(0, 0, (a - 0.012, b - 0.012), 0, form, 2.5))
    layer = rng.uniform(0.05, 0.08)
    inner = (a - layer, b - layer)
    canvas.paint(signal["muscle"], _Form(0, 0, inner, 0, _waves(rng, 0.012), 2.4))
    for turn in np.arange(14) / 14 + 0.015 * rng.standard_normal(14):
        angle = 2 * np.pi * turn
        x, y = (a - layer - 0.05) * np.cos(angle), (b - layer - 0.045) * np.sin(angle)
        along = math.atan2(a * np.cos(angle), -b * np.sin(angle)) - 0.15
        canvas.paint(signal["cortex"], _Form(x, y, (0.075, 0.021), along))
        canvas.paint(signal["marrow"], _Form(x, y, (0.06, 0.011), along))
    between = (a - layer - 0.12, b - layer - 0.105)
    canvas.paint(
        0.55 * signal["fat"], _Form(0, 0, (between[0] + 0.02, between[1] + 0.02), 0)
    )
    canvas.paint(signal["lung"], _Form(0, 0, between, 0, _waves(rng, 0.01)))
    for _ in range(60):
        angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.9)
        x, y = out * between[0] * np.cos(angle), out * between[1] * np.sin(angle)
        radius = 0.028 * (1.2 - out) * rng.uniform(0.4, 1.2)
        vessel = _Form(x, y, (radius * rng.uniform(1, 2.5), radius), angle)
        canvas.paint(signal["vessel"] * rng.uniform(0.5, 1), vessel)
    # The mediastinum, from the breastbone to the spine.
    canvas.paint(0.8 * signal["fat"], _Form(0.03, -0.38, (0.24, 0.11), 0.1))
    canvas.paint(0.65 * signal["fat"], _Form(0.03, -0.2, (0.13, 0.2), 0.2))
    middle = _Form(0.02, 0.2, (0.16, 0.36), 0, _waves(rng, 0.05))
    canvas.paint(0.5 * signal["fat"], middle)
    bone = _Form(0, -b + layer + 0.075, (0.1, 0.035))
    canvas.paint(signal["cortex"], _Form(bone.x, bone.y, (0.115, 0.047)))
    canvas.paint(signal["marrow"], bone)


def _paint_abdomen(
    canvas: _Canvas, signal: dict[str, Array], rng: np.random.Generator
) -> None:
    def about(value: float, spread: float = 0.02) -> float:
        return value + spread * rng.uniform(-1, 1)

    x, y = about(-0.42), about(0.24)
    liver = _Form(
        x, y, (about(0.36), about(0.25)), about(-0.25, 0.1), _waves(rng, 0.05)
    )
    canvas.paint(signal["liver"], liver)
    for _ in range(9):
        angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.75)
        u, v = 0.3 * out * math.cos(angle), 0.2 * out * math.sin(angle)
        size = rng.uniform(0.009, 0.02)
        vein = _Form(x + u, y + v, (size * rng.uniform(1, 3), size), angle)
        canvas.paint(0.5 * (signal["liver"] + signal["left"]), vein)
    spleen = _Form(about(0.56), about(0.3), (about(0.13), about(0.2)), about(0.5, 0.2))
    canvas.paint(signal["spleen"], spleen)
    canvas.paint(signal["muscle"], _Form(-0.2, 0.56, (0.15, 0.085), -0.25))
    canvas.paint(signal["muscle"], _Form(0.2, 0.56, (0.15, 0.085), 0.25))
    disc = (about(0.0, 0.01), about(0.4, 0.01))
    for tissue, rim in (("cortex", 0.013), ("marrow", 0.0)):
        form = _Form(disc[0], disc[1], (0.112 + rim, 0.087 + rim))
        canvas.paint(signal[tissue], form)
    canvas.paint(signal["cortex"], _Form(disc[0], disc[1] + 0.17, (0.03, 0.09)))
    canvas.paint(signal["fluid"], _Form(disc[0], disc[1] + 0.125, (0.05, 0.04)))
    canvas.paint(signal["cord"], _Form(disc[0], disc[1] + 0.125, (0.028, 0.022)))
    aorta = _Form(disc[0] + 0.15, disc[1] - 0.08, (0.056, 0.054))
    canvas.paint(signal["muscle"], _Form(aorta.x, aorta.y, (0.066, 0.064)))
    canvas.paint(signal["left"], aorta)
    cava = _Form(about(-0.13), about(0.2), (0.055, 0.042), about(0.3, 0.3))
    canvas.paint(signal["right"], cava)
    gullet = _Form(disc[0] + 0.03, disc[1] - 0.15, (0.04, 0.025))
    canvas.paint(signal["muscle"], gullet)


def _phase(
    x: Array, y: Array, times: Array, breath: Array, rng: np.random.Generator
) -> Array:
    """Smooth phase in radians that drifts and follows the breathing."""
    a, b, c, d, e = rng.uniform(-1, 1, 5)
    still = 1.2 * (a * x + b * y) + 0.7 * (c * x * x + d * x * y + e * y * y)
    still = still + 0.4 * _noise(x, y, rng, number=4, low=2, high=5)
    drift = _noise(x, y, rng, number=3, low=0.5, high=2)
    moved = _noise(x, y, rng, number=3, low=1, high=3)
    drifting = 0.05 * times + 0.06 * times * drift / (1 + 0.1 * times)
    return still + drifting + 0.25 * breath * (moved + 0.5)


def _noise(
    x: Array,
    y: Array,
    rng: np.random.Generator,
    *,
    number: int,
    low: float,
    high: float,
) -> Array:
    """Sum of plane waves of `low` to `high` radians per unit, with variance about 1."""
    total = np.zeros_like(x)
    for _ in range(number):
        wave, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
        kx, ky = np.float32(wave * np.cos(angle)), np.float32(wave * np.sin(angle))
        total += np.cos(kx * x + ky * y + np.float32(rng.uniform(0, 2 * np.pi)))
    return total * np.float32(math.sqrt(2 / number))


def _waves(
    rng: np.random.Generator, height: float, *, low: int = 2, number: int = 4
) -> tuple[tuple[int, float, float], ...]:
    """Waves of random height and phase along the border of a form."""
    return tuple(
        (low + k, height * rng.uniform(0.3, 1), rng.uniform(0, 2 * np.pi))
        for k in range(number)
    )


def _grid(height: int, width: int) -> tuple[Array, Array]:
    """Coordinates (H, W) of square pixels, with the torso just inside the image."""
    pixel = 2 / min(width, height / 0.82)
    x = (np.arange(width) - (width - 1) / 2) * pixel
    y = (np.arange(height) - (height - 1) / 2) * pixel
    across, down = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return across, down


def _step(x: Array) -> Array:
    """Logistic function, written as tanh to avoid overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _turn(x: Array, y: Array, angle: Number) -> tuple[Array, Array]:
    """Coordinates in axes rotated by an angle."""
    cos = np.asarray(np.cos(angle), x.dtype)
    sin = np.asarray(np.sin(angle), x.dtype)
    return cos * x + sin * y, cos * y - sin * x


def _check_size(frames: int, height: int, width: int) -> None:
    if not all(is_integer(n) for n in (frames, height, width)):
        raise ValueError("frames, height and width must be integers")
    if frames < 1 or min(height, width) < 16:
        raise ValueError(
            "frames must be at least 1, height and width at least 16, got "
            f"{frames}, {height}, {width}"
        )
