"""Computed tomography: densities from line integrals along few or limited angles."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from svdinv.unroll.algorithms import FISTA, PDHG, solve
from svdinv.unroll.algorithms.search import best_solution
from svdinv.unroll.data import centre_crop
from svdinv.unroll.data.noise import counted, white_noise
from svdinv.unroll.fidelity import L2
from svdinv.unroll.metrics import COLOUR, psnr
from svdinv.unroll.operators import FanBeam, Operator, ParallelBeam
from svdinv.unroll.operators.tomography import Window
from svdinv.unroll.priors import TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks import non_local
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Reconstruction,
    Simulated,
    best_of,
    option,
)
from svdinv.unroll.tasks.tomography import CT, DENSITIES
from svdinv.unroll.tasks.tomography.densities import density, random_shapes, textured
from svdinv.unroll.tasks.tomography.htc import read_htc
from svdinv.unroll.tasks.tomography.sinograms import (
    LEAST,
    MOST,
    FinerOptions,
    FinerTask,
    coarser,
    grey_picture,
    phantom_size,
    read_geometry,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from svdinv.unroll.formats.hdf5 import Datasets

_PREFIX = "density:"  # of a picture that is read as a density
_BEAMS = ("parallel", "fan")
_VIEWS = 60
_ATTENUATION = 4.0  # of density 1 along a side of the image
_SOURCE, _DISTANCE = 2.0, 3.0  # of a fan, in sides of the image
PHOTONS = 1e5
"""Default number of photons that a detector counts without an object."""

_PIXELS, _DETECTORS = 512, 560  # of the challenge's images and views
_LARGEST = 256**2  # pixels up to which non-local low rank takes seconds
_WINDOWS: tuple[Window, ...] = ("ram-lak", "cosine", "hann")
# Of TV, for an A of norm 1.
_WEIGHTS: dict[str, Any] = {"first": 1e-4, "low": 1e-7, "high": 10.0}
_FIXED_WEIGHT = 1e-3  # without a truth
_ITERATIONS = 100
_CHANGE = 3e-4  # below which TV has converged
_HIGHEST = 99.9  # percentile that counts as the highest density
_MARGIN = 1.3  # for structures as thin as a pixel
_MEASURED = 0.05  # mean, relative to that of the maxima, that is more than noise
_FEW = 8  # views of which each may see gaps between objects
_OF_NOISE = 1.4826 / 6**0.5  # deviation of noise / median of second differences
_GAP = 20.0  # degrees without a view, from which an arc is limited


class Geometry(NamedTuple):
    """Geometry of a sinogram, as `arrays_to_save` writes it.

    Rows and columns of the image, and lengths as in `svdinv.unroll.operators.FanBeam`;
    source and distance are 0 for parallel beams.
    """

    rows: int
    columns: int
    pixel: float
    spacing: float
    offset: float = 0.0
    source: float = 0.0
    distance: float = 0.0


@functools.lru_cache(maxsize=32)
def _operator(
    geometry: Geometry, angles: tuple[float, ...], detectors: int | None
) -> Operator:
    """Return the projector divided by a bound on its norm."""
    A = _projector(geometry, angles, detectors)
    bound = A.norm_bound
    if not bound:
        raise ValueError("no ray runs through the image")
    return A / bound


def _projector(
    geometry: Geometry,
    angles: tuple[float, ...],
    detectors: int | None,
    matrix: bool = True,
) -> ParallelBeam | FanBeam:
    rows, columns, pixel, spacing, offset, source, distance = geometry
    if distance and not source:
        raise ValueError("distance must be 0, for parallel beams, where source is")
    fan = {"source": source, "distance": distance} if source else {}
    kind: Any = FanBeam if fan else ParallelBeam
    return kind(
        (rows, columns), angles, detectors=detectors, spacing=spacing, offset=offset,
        pixel=pixel, matrix=matrix, **fan,
    )  # fmt: skip


def _finer(
    image: Any, geometry: Geometry, angles: tuple[float, ...], detectors: int, n: int
) -> Any:
    """Project an image with n x n pixels per pixel and n detectors per detector."""
    rows, columns, pixel, spacing, *rest = geometry
    fine = Geometry(n * rows, n * columns, pixel / n, spacing / n, *rest)
    y = _projector(fine, angles, n * detectors, matrix=False)(image)
    return y.reshape(*y.shape[:-1], -1, n).mean(-1)


@dataclass(frozen=True, kw_only=True)
class CtOptions(FinerOptions):
    """Options for reading densities and simulating projections."""

    views: int | None = option(
        None, f"views of a tomogram (default {_VIEWS})", low=1, high=10_000
    )
    arc: float | None = option(
        None,
        "angular range of the views of a tomogram in degrees (default 180 for "
        "parallel beams, 360 for a fan)",
        low=1,
        high=360,
    )
    beam: str | None = option(
        None,
        f"rays of a tomogram: {' or '.join(_BEAMS)} (default parallel)",
        choices=_BEAMS,
    )
    photons: float | None = option(
        None,
        "photons, of all energies, that a detector of a tomogram counts without an "
        f"object (default {PHOTONS:g}, unless --noise is given)",
        low=10,
        high=1_000_000_000,
    )
    noise: float | None = option(
        None,
        "noise of a sinogram relative to its mean (default: photon noise only)",
        low=0,
        high=10,
    )
    size: int | None = option(
        None,
        "rows and columns of a phantom in pixels (default 128)",
        low=LEAST,
        high=MOST,
        of_file=True,
    )
    crop: int | None = option(
        None,
        "crop a picture around its centre to this many pixels a side, at least 32; 0: "
        "no cropping",
        low=0,
        high=100_000,
        of_file=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop and self.crop < 32:
            raise ValueError(f"crop must be 0 or at least 32, got {self.crop}")


def photons_of(options: Any) -> float:
    """Return the number of photons, 0 for other noise or none."""
    return float(options.photons or (PHOTONS if options.noise is None else 0))


@dataclass(frozen=True, kw_only=True)
class Ct(FinerTask):
    """Reconstruction of densities from line integrals at few or limited angles."""

    entry = CT
    options = CtOptions
    input_noise = 0.01
    metrics = COLOUR
    layout = "(views, detectors), of one slice"  # of a measured sinogram
    usual_error: ClassVar[float] = 5.0  # of A, in percent
    side = _ATTENUATION  # length of an image's side
    # Range of the highest density in which measured data are not rescaled.
    usual: ClassVar[tuple[float, float]] = (0.25, 1.5)

    size: tuple[int, ...] = option(
        (128,), "rows and columns of the training images: each step draws one",
        low=16, some=True,
    )  # fmt: skip
    projections: tuple[int, ...] = option(
        (_VIEWS,), "numbers of views: each step draws one", low=1, some=True
    )
    arc: tuple[float, ...] = option(
        (0.0,), "their angular range in degrees: each step draws one; 0: full", low=0,
        high=360, some=True,
    )  # fmt: skip
    beam: tuple[str, ...] = option(
        _BEAMS[:1], f"{' or '.join(_BEAMS)}, or both: each step draws one", some=True,
        choices=_BEAMS,
    )  # fmt: skip
    noise: tuple[float, float] = option(
        (0.01, 0.01),
        "smallest and largest noise relative to the mean of a sinogram: each item "
        "draws a level",
        low=0,
        rising=True,
    )
    rectangles: float = option(
        0.0, "fraction of rectangles among the ellipses", low=0, high=1
    )
    hollow: float = option(0.0, "fraction of both that are shells", low=0, high=1)
    textures: float = option(
        0.0, "fraction of the phantoms that have a texture", low=0, high=1
    )
    validation: int = option(4, "number of validation phantoms", low=1)

    def load(self) -> Densities:
        return Densities(self)

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        if str(source).startswith(_PREFIX):
            return ("crop",)
        return ("size",)

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a phantom, a picture as a density, or a sinogram of the challenge."""
        name = str(source)
        if name in DENSITIES:
            size = phantom_size(options, 128)
            image = density(name, size, seed=options.seed)
            return self.given(name, image, options)
        if name.startswith(_PREFIX):
            file = name.removeprefix(_PREFIX)
            grey = grey_picture(file)
            crop = (options.crop or 0) * options.finer
            grey = centre_crop(grey, crop) if crop else grey
            return self.given(Path(file).stem, np.ascontiguousarray(grey), options)
        scan = read_htc(source)
        size = options.size or _PIXELS
        # A pixel of the challenge is as large as a detector appears at the centre.
        detector = scan.sinogram.shape[-1] / _DETECTORS * scan.spacing
        pixel = detector * scan.source / scan.distance * _PIXELS / size
        geometry = Geometry(
            size, size, pixel, scan.spacing, 0.0, scan.source, scan.distance
        )
        problem = _problem(scan.sinogram[None], geometry, scan.angles, self.usual)
        return replace(problem, name=Path(source).stem, setting="as measured")

    def given(self, name: str, image: Any, options: Any) -> InputImage:
        """Convert a density (H, W) to the image of this task."""
        return InputImage(name, image[None])

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``sinogram`` in the layout `layout`, ``angles`` and ``geometry``.

        Angles are in degrees; ``geometry`` holds the seven numbers of `Geometry`; the
        optional ``truth`` is (C, H, W), with one channel unless the layout has more.
        Views may be in any order; the problem has them by angle. With one channel, the
        optional ``mask`` (views, detectors) is 0 where data are invalid: these have no
        weight in least squares, and become those of an image that fits the others, by
        `nnls`, for FBP, SIRT and networks. Views of which most are invalid are left
        out.
        """
        axes = 2 if self.channels else 3
        shape = file.shape("sinogram", self.layout, (axes,))
        geometry, angles = read_geometry(file, Geometry, shape[-2])
        sinogram = file.real("sinogram").reshape(-1, *shape[-2:])
        mask, kept = None, np.ones(shape[-2], bool)
        if self.channels and "mask" in file:
            file.same("mask", shape, "of the sinogram")
            mask = file.mask()
            kept = mask.mean(axis=-1) >= 0.5
            if not kept.any():
                raise file.error("mask", "must be 1 in half of a view, for some view")
            sinogram, angles, mask = sinogram[:, kept], angles[kept], mask[kept]
            # For the following checks and the scale, which is that of an FBP.
            for view, valid in zip(sinogram[0], mask, strict=True):
                places = np.flatnonzero(~valid)
                view[places] = np.interp(places, np.flatnonzero(valid), view[valid])
        if not sinogram.sum(dtype=np.float64) > 0:
            rule = "must have line integrals of attenuation: their sum is not positive"
            raise file.error("sinogram", rule)
        if _is_transmitted(sinogram):
            rule = "must have line integrals -log(I / I0), not intensities I"
            why = "its outermost detectors measure the most"
            raise file.error("sinogram", f"{rule}: {why}")
        order = by_angle(angles)
        if self.channels:
            full = not is_limited(angles)
            empty = np.flatnonzero(kept)[order[_empty(sinogram[0, order])]]
            for what, dead in {
                "detectors {}, which measure 0 in all views": _dead(sinogram[0], full),
                "views {}, of which all detectors measure 0": sorted(empty.tolist()),
            }.items():
                if dead:
                    rule = f"has invalid {what.format(dead)}: set mask to 0 there"
                    raise file.error("sinogram", rule)
        truth = file.truth((len(sinogram), *geometry[:2]), "of the image")
        sinogram, angles = sinogram[:, order], angles[order]
        try:
            problem = _problem(sinogram, geometry, angles, self.usual, truth)
        except ValueError as error:
            raise file.error("geometry", f"is invalid: {error}") from error
        if mask is not None and not mask.all():
            valid = mask[order].astype(np.float32)[None]
            scan = problem.scan._replace(estimated=1 - float(valid.mean()))
            problem = replace(problem, fidelity=L2(valid), scan=scan)
            known = np.where(valid, problem.y, problem.A(nnls(problem).image))
            problem = replace(problem, y=known.astype(np.float32))
        rows, columns, pixel, spacing, _, source, distance = geometry
        width = shape[-1] * spacing * (source / distance if source else 1.0) / pixel
        if 4 * width < max(rows, columns):
            cover = f"detectors that cover {width:.3g} of {max(rows, columns)} pixels"
            hint = "is their spacing in its unit? If so, reconstruct a smaller image"
            raise file.error("geometry", f"has {cover}: {hint}")
        if truth is not None:
            expected = problem.A(problem.truth)
            multiple = np.vdot(expected, problem.y) / np.vdot(expected, expected)
            if not 0.1 < multiple < 10:
                rule = "truth must be in units of 1 / the unit of the geometry"
                raise file.error(
                    "sinogram", f"is that of truth times {multiple:.3g}: {rule}"
                )
        return problem

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        geometry, angles, unit, _ = problem.scan
        y = problem.y * np.float32(unit)
        return {
            "sinogram": y[0] if self.channels else y,
            "angles": np.asarray(angles, np.float32),
            "geometry": np.asarray(geometry, np.float32),
        }

    def examples(self, options: Any) -> list[InputImage | Problem]:
        """Return phantoms of other kinds than the training phantoms."""
        names = ("shepp-logan", "head-1", "walnut-1", "walnut-2")
        return [self.read(name, options) for name in names]

    def settings(self, options: Any) -> list[Any]:
        if options.views is not None or options.arc is not None:
            return [options]
        return [replace(options, views=60), replace(options, views=60, arc=90.0)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        n = options.finer
        image, truth = coarser(given, n)
        rows, columns = truth.shape[-2:]
        fan = options.beam == "fan"
        views, full = options.views or _VIEWS, 360.0 if fan else 180.0
        arc = options.arc or full
        angles = tuple(float(k * arc / views) for k in range(views))
        pixel = self.side / max(rows, columns)
        geometry = Geometry(rows, columns, pixel, pixel)
        if fan:
            magnification = _DISTANCE / _SOURCE
            geometry = Geometry(
                rows, columns, pixel, pixel * magnification, 0.0, _SOURCE * self.side,
                _DISTANCE * self.side,
            )  # fmt: skip
        A = _operator(geometry, angles, None)
        unit = _unit(A)
        if n > 1:
            detectors = A.operator.detectors  # type: ignore[attr-defined]
            y = _finer(image, geometry, angles, detectors, n) / np.float32(unit)
        else:
            y = A(truth)
        rng = np.random.default_rng([options.seed, 1])
        photons = photons_of(options)
        if photons:
            y = self.detected(y, unit, photons, rng)
        if options.noise:
            deviation = np.float32(options.noise * float(np.abs(y).mean()))
            y = y + deviation * white_noise(y.shape, y.dtype, rng)
        setting = f"{views} views in {arc:g} degrees, {options.beam or _BEAMS[0]} beam"
        if photons:
            setting += f", {photons:g} photons"
        if options.noise:
            setting += f", noise {options.noise:g}"
        if n > 1:
            setting += f", {n} x {n} finer"
        return Problem(
            y.astype(np.float32),
            A,
            truth=truth,
            name=given.name,
            setting=setting,
            scan=Views(geometry, angles, unit),
        )

    def detected(
        self, y: Any, unit: float, photons: float, rng: np.random.Generator
    ) -> Any:
        """Add photon noise to line integrals ``unit * y``."""
        return counted(y * unit, photons, rng) / unit

    def noisy(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the options that vary between training items."""
        return {"noise": rng.uniform(*self.noise)}

    def deviation(self, problem: Problem, options: Any) -> float | None:
        if photons_of(options):
            return None
        return float(options.noise or 0) * float(problem.y.mean())

    def data_unit(self, problem: Problem) -> float | None:
        return float(problem.scan.unit) * problem.scale

    def usual_misfit(self, problem: Problem) -> float:
        """Return a bound by the noise, the second differences of detectors."""
        y, root = problem.y, problem.y.size**0.5
        changes = np.abs(np.diff(y, 2))[y[..., 1:-1] > _MEASURED * y.max()]
        noise = np.median(changes) * _OF_NOISE if changes.size else 0.0
        return max(self.usual_error, 200 * float(noise) * root / np.linalg.norm(y))

    def largest(self, problem: Problem) -> float:
        """Return the highest density of images that are not rescaled."""
        return self.usual[1]

    def baselines(self) -> Mapping[str, Method]:
        return {
            "FBP": fbp,
            "SIRT": sirt,
            "NNLS": nnls,
            "TV": Baseline(tv, lengthy=True),
            non_local.NAME: non_local.baseline(self, _LARGEST),
        }

    def weights_for(self, problem: Problem) -> str:
        """Return the weights for views all around, or with a range missing."""
        limited = self.channels and is_limited(problem.scan.angles)
        return "ct-limited" if limited else self.kind

    def finished(self, image: Any) -> Any:
        return np.maximum(image, 0)

    def describe(self, problem: Problem) -> str:
        geometry = problem.scan.geometry
        size = f"{geometry.rows}x{geometry.columns} pixels"
        arc = np.ptp(problem.scan.angles)
        if _is_truncated(problem.y, arc):
            return f"{size}, truncated (the outermost detectors measure the object)"
        from scipy.ndimage import uniform_filter1d

        ones = np.ones((len(problem.y), *geometry[:2]), np.float32)
        beside = problem.A.forward(ones) == 0
        most = problem.y.max(axis=-1).mean()
        # Few of these rays may be of the object, but not one alone, as of noise.
        smooth = uniform_filter1d(np.where(beside, problem.y, 0), 5)[beside]
        if smooth.size and np.quantile(smooth, 0.99) > 2 * _MEASURED * most:
            return f"{size}, of a larger object (rays beside the image measure it)"
        return size


class Views(NamedTuple):
    """The `scan` of a sinogram: its geometry, angles, and the unit of its data."""

    geometry: Geometry
    angles: tuple[float, ...]
    unit: float
    estimated: float = 0.0  # fraction of the data, which are invalid

    def __str__(self) -> str:
        kind = "fan" if self.geometry.source else "parallel"
        views = "1 view" if len(self.angles) == 1 else f"{len(self.angles)} views"
        text = f"{min(self.angles):.4g} to {max(self.angles):.4g} degrees"
        if self.estimated:
            text += f", {100 * self.estimated:.2g} % of the data estimated"
        return f"{views} of a {kind} beam, {text}"


_Setting: TypeAlias = tuple[int, int, float, str]  # size, views, arc and beam


class Densities(Simulated):
    """Random phantoms and their projections, to train on."""

    task: Ct

    def problem(self, *key: int, setting: _Setting | None = None) -> Problem:
        """Draw a problem; all problems of a step have the same setting."""
        task, rng = self.task, np.random.default_rng(key)
        if setting is None:
            settings, common = self._settings(), np.random.default_rng(key[:-1])
            setting = settings[int(common.integers(len(settings)))]
        size, views, arc, beam = setting
        finer = task.drawn_finer(*key)
        image = random_shapes(finer * size, rng, task.rectangles, task.hollow)
        if task.textures and rng.random() < task.textures:
            image = textured(image, rng)
        kind: Any = task.options
        options = kind(
            views=views,
            arc=arc or None,
            beam=beam,
            finer=finer,
            **task.noisy(rng),
            seed=int(rng.integers(2**31)),
        )
        return task.measure(task.given("shapes", image, options), options)

    def validation(self) -> list[Problem]:
        """Return problems that no step draws, spread evenly over the settings."""
        settings = list(dict.fromkeys(self._settings()))  # repeats are for training
        count = self.task.validation
        return [
            self.problem(2**63, i, setting=settings[i * len(settings) // count])
            for i in range(count)
        ]

    def _settings(self) -> list[_Setting]:
        task = self.task
        choices = task.size, task.projections, task.arc, task.beam
        return list(itertools.product(*choices))


def _unit(A: Operator) -> float:
    """Return the factor by which a projector was divided."""
    return 1 / float(A.scalar)  # type: ignore[attr-defined]


def by_angle(angles: Any) -> Any:
    """Return the order of views by angle: networks convolve along the views."""
    turned = angles if np.ptp(angles) <= 360 else angles % 360
    return np.argsort(turned, kind="stable")


def _problem(
    sinogram: Any,
    geometry: Geometry,
    angles: Any,
    usual: tuple[float, float],
    truth: Any = None,
) -> Problem:
    """Return the problem of measured line integrals, scaled to densities up to 1.

    Data and truth are divided by the largest density, unless it lies in `usual`: that
    of the truth, or without one that of a smooth FBP times a margin.
    """
    A = _operator(geometry, tuple(map(float, angles)), sinogram.shape[-1])
    views = Views(geometry, tuple(angles), _unit(A))
    problem = Problem(sinogram / np.float32(views.unit), A, truth=truth, scan=views)
    if truth is None:
        # Noise and streaks would raise the percentile of a sharper FBP.
        highest = float(np.percentile(_inverted(problem, "hann"), _HIGHEST))
        margin = _MARGIN
    else:
        highest, margin = float(truth.max()), 1.0
    if not highest > 0:
        raise ValueError("the sinogram must have positive line integrals")
    if usual[0] < highest < usual[1]:  # as in data simulated by svdinv
        return problem
    scale = margin * highest
    y, truth = (x if x is None else x / np.float32(scale) for x in (problem.y, truth))
    return replace(problem, y=y, truth=truth, scale=scale)


def is_limited(angles: Iterable[float]) -> bool:
    """Whether a range of directions is missing: much more than the usual step."""
    turned = np.unique(np.round(np.mod(list(angles), 180.0), 3) % 180)
    steps = np.sort(np.diff(turned, append=turned[0] + 180))
    return bool(len(steps) > 1 and steps[-1] > max(_GAP, 3 * np.median(steps[:-1])))


def _is_transmitted(sinogram: NDArray[Any]) -> bool:
    """Whether the outermost detectors measure the most, and the same in all views."""
    outside = sinogram[..., [0, -1]].mean(-1)
    least, most = sinogram.min(-1), sinogram.max(-1)
    brightest = ((outside > 0.9 * most) & (least < 0.7 * most)).mean() > 0.5
    return bool(brightest and outside.std() < 0.1 * outside.mean())


def _is_truncated(sinogram: NDArray[Any], arc: float) -> bool:
    """Whether the detectors at an end, of a whole turn at both ends, measure something.

    Within a whole turn, each ray that one end lacks is measured from the other side.
    """
    ends = sinogram[..., [0, -1]].mean(axis=(0, 1))
    least = ends.min() if arc > 300 else ends.max()
    return bool(least > _MEASURED * sinogram.max(axis=-1).mean())


def _dead(sinogram: NDArray[Any], full: bool) -> list[int]:
    """List detectors that measure 0 in all views, between others that do not.

    Those beside a group measure something in most views, which excludes small objects.
    Unless the views are all around (`full`), it is a single detector: there may be a
    gap between two objects. Of few views none are listed.
    """
    if len(sinogram) < _FEW:
        return []
    lit = (sinogram != 0).mean(axis=0)
    some = np.flatnonzero(lit)
    dead: list[int] = []
    for left, right in itertools.pairwise(some.tolist()):
        if min(lit[left], lit[right]) > 0.5 and (full or right == left + 2):
            dead.extend(range(left + 1, right))
    return dead


def _empty(sinogram: NDArray[Any]) -> list[int]:
    """List views, by angle, that measure 0 between others that measure much.

    An object may leave the field of view of a detector that is short or displaced, but
    it does so by and by.
    """
    total = sinogram.sum(axis=-1)
    some = np.flatnonzero(sinogram.any(axis=-1))
    much = total[some] > np.median(total[some]) / 2
    empty: list[int] = []
    for k, left in enumerate(some.tolist()):
        right = some[(k + 1) % len(some)] + (k + 1 == len(some)) * len(total)
        if much[k] and much[(k + 1) % len(some)]:
            empty.extend(range(left + 1, right))
    return [view % len(total) for view in empty]


def _inverted(problem: Problem, window: Window) -> Any:
    """Return the filtered back-projection, clipped at 0."""
    projector: Any = problem.A.operator  # type: ignore[attr-defined]
    y = problem.scan.unit * problem.y
    return np.maximum(projector.filtered_back_projection(y, window), 0)


def fbp(problem: Problem) -> Reconstruction:
    """Reconstruct by filtered back-projection; the note states the filter window."""
    make = functools.partial(_inverted, problem)
    return best_of(Ct().decibels, problem, make, _WINDOWS, "hann")


def sirt(problem: Problem) -> Reconstruction:
    """Simultaneous iterative reconstruction with nonnegative densities.

    ``x <- max(x + C A^T R (y - A x), 0)`` with the inverse row sums R and the inverse
    column sums C (Gregor & Benson, IEEE TMI 2008).
    """
    A, y = problem.A, problem.y
    x = np.zeros_like(A.adjoint(y))
    rows, columns = A(np.ones_like(x)), A.adjoint(np.ones_like(y))
    R, C = (
        np.where(s > 1e-6 * s.max(), 1 / np.maximum(s, 1e-30), 0)
        for s in (rows, columns)
    )
    for _ in range(_ITERATIONS):
        x = np.maximum(x + C * A.adjoint(R * (y - A(x))), 0).astype(y.dtype)
    return Reconstruction(x, f"{_ITERATIONS} iterations")


def nnls(problem: Problem) -> Reconstruction:
    """Nonnegative least squares."""
    nonnegative = SimpleNamespace(
        value=lambda x: 0.0, prox=lambda x, step: np.maximum(x, 0)
    )
    found = solve(
        problem,
        nonnegative,
        algorithm=FISTA(restart=True),
        iterations=_ITERATIONS,
        x0=np.zeros_like(problem.adjoint()),
        objective=False,
    )
    return Reconstruction(found.image, f"{found.iterations} iterations")


def tv(problem: Problem) -> Reconstruction:
    """Reconstruct with total variation, by the primal-dual method; see `penalised`."""
    return penalised(problem, TotalVariation)


def penalised(
    problem: Problem,
    prior: Callable[[float], Any],
    usual: float = _FIXED_WEIGHT,
    nonnegative: bool = False,
) -> Reconstruction:
    """Reconstruct with a prior, by the primal-dual method.

    The note states the weight: the best one if the truth is known, else `usual`.
    """

    def score(image: Any) -> float:
        return psnr(problem.truth, np.maximum(image, 0))

    how: dict[str, Any] = {
        "iterations": 4 * _ITERATIONS,
        "algorithm": PDHG(nonnegative=nonnegative),
        "rtol": _CHANGE,
    }
    if problem.truth is None:
        x0 = np.maximum(problem.A.approximate_inverse(problem.y), 0)
        found = solve(problem, prior(usual), x0=x0, objective=False, **how)
        note = f"weight {usual:.1e}"
    else:
        weight, found = best_solution(problem, prior, score, **_WEIGHTS, **how)
        note = f"best weight {weight:.1e}"
    return Reconstruction(np.maximum(found.image, 0), note)
