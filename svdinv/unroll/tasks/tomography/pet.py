"""Emission tomography: activities from counts, as one image or as frames."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from svdinv.unroll.algorithms import EM, solve
from svdinv.unroll.arrays import Array, cast_like, namespace, stacked
from svdinv.unroll.display.panels import Entry, save_panel
from svdinv.unroll.fidelity import PoissonKL
from svdinv.unroll.metrics import SERIES
from svdinv.unroll.operators import Operator, ParallelBeam, Stack
from svdinv.unroll.priors import Casorati, LocalLowRank, Nuclear, TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Reconstruction,
    Simulated,
    best_of,
    option,
)
from svdinv.unroll.tasks.tomography import ACTIVITIES, DENSITIES, PET
from svdinv.unroll.tasks.tomography.densities import density, random_shapes
from svdinv.unroll.tasks.tomography.kinetics import (
    FRAMES,
    kinetic_phantom,
    random_kinetics,
)
from svdinv.unroll.tasks.tomography.sinograms import (
    MOST,
    FinerOptions,
    FinerTask,
    coarser,
    grey_picture,
    phantom_size,
    read_geometry,
)

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

_PREFIX = "activity:"  # of a picture or a density that is read as an activity
_VIEWS, _SIZE, _COUNTS, _BACKGROUND = 60, 64, 1e5, 0.2
_ATTENUATION = 2.0  # along a side of an image full of water
_STORED = 2**22  # pixels times views up to which finer matrices are stored: 70 MB
_BODY = 0.02  # relative activity below which a pixel is air
_DEVIATIONS = 10  # standard deviations by which a background may exceed the counts
_WIDTH = 0.08  # of scatter, relative to the detector
_SUBSETS, _LEAST_VIEWS = 6, 4
_MLEM, _OSEM = 60, 12  # iterations
_FIXED, _MAP = 4, 30  # iterations of OSEM and of low rank without a truth
_BLUR = (0.0, *np.geomspace(0.4, 2.4, 9))  # widths of the filter, in pixels
_FIXED_BLUR = 0.8
# Weights of priors, in units of the mean sensitivity.
_FIXED_WEIGHT = {"TV": 0.3, "Casorati": 3.0, "blocks": 2.0, "image": 0.3}
_WEIGHTS = np.geomspace(0.01, 10.0, 13)  # to search, relative to the fixed weights
_BLOCK = 8


class Ring(NamedTuple):
    """Geometry of parallel lines of response.

    Rows and columns of the image; spacing and offset, in sides of a pixel, as in
    `svdinv.unroll.operators.ParallelBeam`.
    """

    rows: int
    columns: int
    spacing: float = 1.0
    offset: float = 0.0


class Factors(Operator):
    """Multiply data by nonnegative factors, which broadcast to the data.

    They include attenuation, detector efficiencies, and the duration of a frame.
    """

    keeps_size = True
    arrays = ("factors",)

    def __init__(self, factors: Array) -> None:
        self.factors = factors

    def forward(self, x: Array) -> Array:
        return cast_like(self.factors, x, namespace(x)) * x

    def adjoint(self, y: Array) -> Array:
        return self.forward(y)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        if not all(isinstance(other, Factors) for other in others):
            return super().stacked(others, data)
        factors = [each.factors for each in (self, *others)]
        return Factors(stacked(factors, len(data.shape)))


@dataclass(frozen=True, kw_only=True)
class PetOptions(FinerOptions):
    """Options for reading activities and simulating counts."""

    views: int | None = option(
        None, f"angles of a sinogram (default {_VIEWS})", low=4, high=10_000
    )
    counts: float | None = option(
        None,
        f"mean counts per frame of an emission scan (default {_COUNTS:g})",
        low=10,
        high=1e12,
        plural="counts",
    )
    background: float | None = option(
        None,
        f"fraction of scatter and randoms in these (default {_BACKGROUND:g})",
        low=0,
        high=0.95,
    )
    attenuation: float | None = option(
        None,
        "attenuation along a side of an image full of water (default "
        f"{_ATTENUATION:g})",
        low=0,
        high=20,
    )
    size: int | None = option(
        None, f"rows and columns of a phantom in pixels (default {_SIZE})", low=16,
        high=MOST, of_file=True,
    )  # fmt: skip
    frames: int | None = option(
        None, "frames of a dynamic scan (default 24)", low=2, high=1000, of_file=True
    )


@dataclass(frozen=True, kw_only=True)
class Pet(FinerTask):
    """Reconstruction of activities from counts along lines of response."""

    entry = PET
    options = PetOptions
    metrics = SERIES
    peak = "max"
    moving = True
    seconds = 0.2

    size: int = option(_SIZE, "rows and columns of the training images", low=16)
    projections: int = option(_VIEWS, "angles of each sinogram", low=4)
    counts: tuple[float, float] = option(
        (3e4, 3e5),
        "fewest and most counts: each item draws a number",
        low=10,
        rising=True,
    )
    background: float = option(
        0.4, "largest fraction of scatter and randoms in these", low=0, high=0.95
    )
    frames: tuple[int, int] = option(
        (1, 1), "fewest and most frames: each step draws a number", low=1, rising=True
    )
    slices: float = option(
        0.0, "fraction of the phantoms of one frame that are of tissues", low=0, high=1
    )
    validation: int = option(4, "number of validation phantoms", low=1)

    def load(self) -> Activities:
        return Activities(self)

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        """Return "size" for a phantom, and "frames" for a dynamic one."""
        if str(source) == "kinetic":
            return ("size", "frames")
        name = str(source).removeprefix(_PREFIX)
        return ("size",) if name in ACTIVITIES or name in DENSITIES else ()

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a phantom, or a picture as an activity."""
        name, size = str(source), phantom_size(options, _SIZE)
        for field in ("size", "frames"):
            if getattr(options, field) and field not in self.file_options(source):
                raise ValueError(f"{field}: does not apply to {source}")
        if name == "kinetic":
            lengths = _lengths(options.frames)
            series = kinetic_phantom(size, frames=lengths, seed=options.seed)
            return InputImage(f"{name} {options.seed}", series)
        if name == "kinetic-sum":
            series = kinetic_phantom(size, seed=options.seed)
            image = np.tensordot(np.array(FRAMES, np.float32), series, 1)[None]
            return InputImage(f"{name} {options.seed}", image / image.max())
        if name == "activity-ellipses":
            rng = np.random.default_rng([options.seed, 7])
            image = random_shapes(size, rng, 0.0)
            return InputImage(f"ellipses {options.seed}", _positive(name, image)[None])
        name = name.removeprefix(_PREFIX)
        if name in DENSITIES:
            image = density(name, size, seed=options.seed)
            return InputImage(name, _positive(name, image)[None])
        grey = grey_picture(name, 512)
        return InputImage(Path(name).stem, _positive(name, grey)[None])

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``counts``, ``angles`` and the parameters of the scan.

        ``counts`` is (views, detectors), or (T, views, detectors) with frames;
        ``angles`` of the views are in degrees; ``geometry`` holds the four numbers of
        `Ring`. Optional are ``factors``, the counts per unit of activity along a line
        as long as the longer side of the image, which include attenuation, efficiency
        and time; ``background``, the expected scatter and randoms; and ``truth``
        (T, H, W). Factors and background broadcast to the counts.
        """
        shape = file.shape("counts", "(views, detectors), or with frames", (2, 3))
        ring, angles = read_geometry(file, Ring, shape[-2])
        counts = file.real("counts").reshape(-1, *shape[-2:])
        optional: dict[str, Any] = {}
        for name, default in (("factors", 1.0), ("background", 0.0)):
            found = file.real(name) if name in file else np.float32(default)
            try:
                optional[name] = np.array(np.broadcast_to(found, counts.shape))
            except ValueError as error:
                rule = f"must broadcast to {counts.shape}, got {found.shape}"
                if found.shape == counts.shape[:1]:
                    rule += f": for frames reshape it to {(len(counts), 1, 1)}"
                raise file.error(name, rule) from error
        for name, array in {"counts": counts, **optional}.items():
            if (array < 0).any():
                hint = ": do not subtract randoms, but store them as background"
                rule = f"must not be negative{hint if name == 'counts' else ''}"
                raise file.error(name, rule)
        if not counts.any():
            raise file.error("counts", "must not be all 0")
        live = optional["factors"] > 0
        total, expected = (
            x[live].sum(dtype=np.float64) for x in (counts, optional["background"])
        )
        if expected > total + _DEVIATIONS * total**0.5:
            raise file.error(
                "background",
                f"adds up to {expected:.4g}, more than the {total:.4g} counts, which "
                "include it",
            )
        order = np.argsort(angles % 180, kind="stable")[_order(len(angles))]
        data = [np.ascontiguousarray(x[:, order]) for x in (counts, *optional.values())]
        try:
            scan = Scan(ring, tuple(map(float, angles[order])), shape[-1])
            problem = scan.problem(*data)
        except ValueError as error:
            raise file.error("geometry", f"is invalid: {error}") from error
        if not problem.adjoint().any():
            raise file.error("counts", "must lie on lines through the image")
        # Networks expect activities of about 1 at most.
        scale = np.float32(_iterates(problem, 1)[0].max())
        problem = scan.problem(data[0], scale * data[1], data[2])
        truth = file.truth((len(counts), *ring[:2]), "of the frames")
        truth = None if truth is None else truth / scale
        return replace(problem, truth=truth, scale=float(scale))

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        scan, scale = problem.scan, np.float32(problem.scale)
        return {
            "counts": problem.y / scale,  # `write_problem` multiplies by the scale
            "angles": np.asarray(scan.angles, np.float32),
            "geometry": np.asarray(scan.ring, np.float32),
            "factors": scan.factors(problem.A) / scale,
            "background": problem.fidelity.background,  # type: ignore[attr-defined]
        }

    def examples(self, options: Any) -> list[InputImage | Problem]:
        """Return phantoms other than the training ones; dynamic with ``frames``."""
        seeds = [replace(options, seed=1000 + k) for k in range(6)]
        if options.frames:
            return [self.read("kinetic", each) for each in seeds[:3]]
        found = [self.read("activity-ellipses", each) for each in seeds]
        found.append(self.read("kinetic-sum", seeds[0]))
        return [*found, self.read(f"{_PREFIX}head-1", options)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Simulate counts along lines of response, with scatter and randoms."""
        n = options.finer
        image, truth = coarser(given, n)
        frames, rows, columns = truth.shape
        views = options.views or _VIEWS
        order = _order(views)
        angles = tuple(float(180 * k / views) for k in order)
        scan = Scan(Ring(rows, columns), angles, None)
        beam = scan.beam(slice(None))
        water = _ATTENUATION if options.attenuation is None else options.attenuation
        share = _BACKGROUND if options.background is None else options.background
        counts = options.counts or _COUNTS
        lines = beam(truth)
        if n > 1:
            ring = Ring(n * rows, n * columns)
            stored = image[0].size * views <= _STORED
            fine = _beam(ring, angles, n * lines.shape[-1], stored)
            lines = fine(image).reshape(*lines.shape, n).mean(-1)
        factors = np.exp(-beam(np.float32(water) * _body(truth)))
        trues = factors * lines
        factors *= np.float32(counts * frames * (1 - share) / trues.sum())
        trues = factors * lines
        background = share / (1 - share) * _scattered(trues)
        rng = np.random.default_rng([options.seed, 1])
        y = rng.poisson(trues.astype(np.float64) + background)
        problem = scan.problem(
            y.astype(np.float32), factors, background.astype(np.float32)
        )
        setting = f"{counts:g} counts a frame, {views} views"
        if n > 1:
            setting += f", {n} x {n} finer"
        return replace(
            problem, truth=truth, name=given.name, setting=setting,
            scale=given.scale,
        )  # fmt: skip

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return None, because the noise is Poisson noise."""
        return None

    def largest(self, problem: Problem) -> float:
        """Return 1.5, or 1.3 times the largest value of a blurred OSEM image."""
        from scipy.ndimage import gaussian_filter

        blurred = gaussian_filter(_iterates(problem, 3)[-1], (0, 1, 1))
        return max(1.5, 1.3 * float(blurred.max()))

    def data_unit(self, problem: Problem) -> float | None:
        """Return 1: the scale divides images and factors, not counts."""
        return 1.0

    def baselines(self) -> Mapping[str, Method]:
        """Return EM with and without subsets, a filter, and priors."""
        return {
            "MLEM": mlem,
            "OSEM": osem,
            "OSEM, filtered": functools.partial(osem, filtered=True),
            "MAP-EM, TV": Baseline(
                functools.partial(map_em, priors=("TV",)), lengthy=True
            ),
            "MAP-EM, low rank": Baseline(map_em, lengthy=True),
        }

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether there are several frames, if the network needs them."""
        return len(problem.y) > 1 or not getattr(recipe, "components", 0)

    def weights_for(self, problem: Problem) -> str:
        """Return the weights for frames or for one image."""
        return "pet-frames" if len(problem.y) > 1 else self.kind

    def finished(self, image: Any) -> Any:
        return np.maximum(image, 0)

    def misfit(self, problem: Problem, image: Any) -> dict[str, float]:
        """Return the mean deviance of a count, about 1 for Poisson noise."""
        expected = problem.fidelity.expected(problem.A(image))
        lines = int(np.count_nonzero((expected > 0) | (problem.y > 0)))
        return {"deviance": 2 * float(problem.value(image)) / max(lines, 1)}

    def usual_misfit(self, problem: Problem) -> float:
        """Return a bound for noise and an error of A of 5 %."""
        return 1.8 + 0.05**2 * float(problem.y.mean())

    def describe(self, problem: Problem) -> str:
        ring, frames = problem.scan.ring, len(problem.y)
        many = f"{frames} frames of " if frames > 1 else ""
        return f"{many}{ring.rows}x{ring.columns} pixels"

    def save_panel(
        self, path: Path, truth: Any, entries: Sequence[Any], *, title: str
    ) -> None:
        if len(entries[-1].image) > 1:
            super().save_panel(path, truth, entries, title=title)
            return
        top = float((truth or entries[-1]).image.max()) or 1.0
        save_panel(
            path,
            None if truth is None else _grey(truth, top),
            [_grey(entry, top) for entry in entries],
            title=title,
        )


class Scan(NamedTuple):
    """The `scan` of counts: the ring, the angles, and the number of detectors."""

    ring: Ring
    angles: tuple[float, ...]
    detectors: int | None

    def __str__(self) -> str:
        return f"{len(self.angles)} views of a ring"

    def beam(self, part: slice) -> ParallelBeam:
        """Return the projector of some of the views."""
        return _beam(self.ring, self.angles[part], self.detectors)

    def problem(self, counts: Any, factors: Any, background: Any) -> Problem:
        """Return the problem of counts (T, views, detectors), ordered by subset."""
        ends = np.cumsum([0, *map(len, _interleaved(len(self.angles)))]).tolist()
        operators = [
            Factors(np.ascontiguousarray(factors[..., a:b, :])) * self.beam(slice(a, b))
            for a, b in itertools.pairwise(ends)
        ]
        A = Stack(operators, axis=-2)
        return Problem(counts, A, PoissonKL(background), scan=self)

    def factors(self, A: Any) -> Any:
        """Return the factors of all views."""
        return np.concatenate([p.factors[0].factors for p in A.operators], axis=-2)


@functools.lru_cache(maxsize=32)
def _beam(
    ring: Ring, angles: tuple[float, ...], detectors: int | None, matrix: bool = True
) -> ParallelBeam:
    # Lengths in sides of the image, so that line integrals are about 1.
    pixel = 1 / max(ring.rows, ring.columns)
    return ParallelBeam(
        (ring.rows, ring.columns),
        angles,
        detectors=detectors,
        spacing=ring.spacing * pixel,
        offset=ring.offset * pixel,
        pixel=pixel,
        matrix=matrix,
    )


def _interleaved(views: int) -> list[Any]:
    """Return the views of each subset, with neighbouring views in distant subsets."""
    count = max(1, min(_SUBSETS, views // _LEAST_VIEWS))
    first = sorted(range(count), key=lambda k: int(f"{k:03b}"[::-1], 2))
    return [np.arange(views)[k::count] for k in first]


def _order(views: int) -> Any:
    return np.concatenate(_interleaved(views))


class Activities(Simulated):
    """Random static or dynamic phantoms and their counts, to train on."""

    task: Pet

    def problem(self, *key: int) -> Problem:
        task, rng = self.task, np.random.default_rng(key)
        # The items of a step have equal shapes, because they form a batch.
        common = np.random.default_rng(key[:2])
        frames = int(common.integers(*task.frames, endpoint=True))
        finer = task.drawn_finer(*key)
        size = finer * task.size
        if frames > 1 or (task.slices and rng.random() < task.slices):
            name, image = "tissues", random_kinetics(size, frames, rng)
        else:
            name = "ellipses"
            image = _positive(name, random_shapes(size, rng, 0.0))[None]
        low, high = np.log(task.counts)
        options = PetOptions(
            views=task.projections,
            counts=float(np.exp(rng.uniform(low, high))),
            background=float(rng.uniform(0, task.background)),
            attenuation=float(rng.uniform(0, 1.5 * _ATTENUATION)),
            finer=finer,
            seed=int(rng.integers(2**31)),
        )
        return task.measure(InputImage(name, image), options)


def _lengths(frames: int | None) -> tuple[float, ...]:
    """Return the durations of frames in minutes, short ones first."""
    if frames in (None, len(FRAMES)):
        return FRAMES
    ends = sum(FRAMES) * (np.arange(frames + 1) / frames) ** 2
    return tuple(float(x) for x in np.diff(ends))


def _positive(name: str, image: Any) -> Any:
    if not image.any():
        raise ValueError(f"{name} must not be zero everywhere")
    return image


def _body(image: Any) -> Any:
    """Mask of the tissue: pixels with activity, and pixels enclosed by them."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    mean = image.mean(axis=0)
    tissue = binary_closing(mean > _BODY * mean.max(), iterations=2)
    return binary_fill_holes(tissue).astype(np.float32)


def _scattered(trues: Any) -> Any:
    """Return scatter, a blurred sinogram, plus uniform randoms."""
    from scipy.ndimage import gaussian_filter1d

    wide = gaussian_filter1d(trues, _WIDTH * trues.shape[-1], axis=-1)
    flat = np.ones_like(trues)
    total, own = (x.sum(axis=(-2, -1), keepdims=True) for x in (trues, wide))
    scatter = wide * total / np.maximum(own, 1e-30)
    return scatter / 2 + flat * total / (2 * trues[0].size)


def _grey(entry: Entry, top: float) -> Entry:
    """Return a frame as a grey picture with three channels."""
    image = np.moveaxis(entry.image, 0, -1) / np.float32(top)
    return replace(entry, image=np.repeat(image, 3, axis=-1))


def _whole(problem: Problem) -> Problem:
    """Return the problem without subsets."""
    scan = problem.scan
    A = Factors(scan.factors(problem.A)) * scan.beam(slice(None))
    return replace(problem, A=A)


def _iterates(problem: Problem, count: int, prior: Any = None) -> list[Any]:
    """Return the images of all EM iterations."""
    found: list[Any] = []
    solve(
        problem, prior, algorithm=EM(), iterations=count, rtol=0, objective=False,
        callback=lambda k, state: found.append(state["x"]),
    )  # fmt: skip
    return found + found[-1:] * (count - len(found))  # solve stops at a fixed point


def mlem(problem: Problem) -> Reconstruction:
    """Reconstruct by maximum-likelihood EM, stopped early.

    Shepp & Vardi, IEEE TMI 1982. The note states the iteration.
    """
    found = _iterates(_whole(problem), _MLEM)
    usual, counts = _SUBSETS * _FIXED, range(1, _MLEM + 1)
    return best_of(
        Pet().decibels, problem, lambda k: found[k - 1], counts, usual, "iteration {}"
    )


def osem(problem: Problem, *, filtered: bool = False) -> Reconstruction:
    """Reconstruct by EM with ordered subsets, stopped early.

    Hudson & Larkin, IEEE TMI 1994. If `filtered`, the image is blurred by a Gaussian.
    The note states the iteration and the width of the Gaussian.
    """
    from scipy.ndimage import gaussian_filter

    found, template = _iterates(problem, _OSEM), "iteration {0[0]}"
    widths, usual = (0.0,), 0.0
    if filtered:
        template += ", {0[1]:.2g} pixels"
        widths, usual = (*_BLUR, _FIXED_BLUR), _FIXED_BLUR
    return best_of(
        Pet().decibels,
        problem,
        lambda choice: gaussian_filter(found[choice[0] - 1], (0, choice[1], choice[1])),
        itertools.product(range(1, _OSEM + 1), widths),
        (_FIXED, usual),
        template,
    )


def map_em(problem: Problem, *, priors: Sequence[str] = ()) -> Reconstruction:
    """Reconstruct by EM with a denoising step (Sawatzky et al., IEEE NSS 2008).

    Total variation is applied after iterations of OSEM; low-rank priors after those of
    MLEM, so that less noise builds up between two thresholds.

    `priors` may contain "TV", total variation of each frame; "Casorati" and "blocks",
    low rank of the matrix frames x pixels, globally or in blocks; and "image", low rank
    of an image as a matrix. By default they are the low-rank priors for the number of
    frames. The note states prior, weight and iteration, which are the best of all
    combinations if the truth is known.
    """
    names = priors or (("Casorati", "blocks") if len(problem.y) > 1 else ("image",))
    # Weights relative to the sensitivity suit any number of counts.
    unit = float(problem.A.adjoint(np.ones_like(problem.y)).mean())
    whole, has_truth = _whole(problem), problem.truth is not None

    def count(name: str) -> int:
        return _OSEM if name == "TV" else _MLEM if has_truth else _MAP

    @functools.lru_cache(maxsize=1)
    def images(name: str, weight: float) -> list[Any]:
        steps = problem if name == "TV" else whole
        return _iterates(steps, count(name), _PRIORS[name](weight * unit))

    # An exhaustive search, because there may be several maxima.
    choices = (
        (name, weight * _FIXED_WEIGHT[name], k)
        for name in names
        for weight in _WEIGHTS
        for k in range(1, count(name) + 1)
    )
    return best_of(
        Pet().decibels,
        problem,
        lambda choice: images(*choice[:2])[choice[2] - 1],
        choices,
        (names[0], _FIXED_WEIGHT[names[0]], count(names[0])),
        "{0[0]}, weight {0[1]:.2g}, iteration {0[2]}",
    )


_PRIORS: dict[str, Callable[[float], Any]] = {
    "TV": lambda weight: TotalVariation(weight, iterations=20),
    "Casorati": Casorati,
    "blocks": lambda weight: LocalLowRank(weight, _BLOCK, stride=_BLOCK // 2),
    "image": Nuclear,
}
