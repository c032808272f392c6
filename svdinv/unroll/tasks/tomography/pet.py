"""Emission tomography: activities from counts, of one image or of frames."""

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
    Options,
    Reconstruction,
    Simulated,
    Task,
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
from svdinv.unroll.tasks.tomography.sinograms import MOST, grey_picture, read_geometry

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

_PREFIX = "activity:"  # a picture or a density that is to be an activity
_VIEWS, _SIZE, _COUNTS, _BACKGROUND = 60, 64, 1e5, 0.2
_ATTENUATION = 2.0  # along a side of the image, were it all water
_BODY = 0.02  # of the largest activity: what is less is air
_WIDTH = 0.08  # of the detector: how far scatter reaches
_SUBSETS, _LEAST_VIEWS = 6, 4
_MLEM, _OSEM = 60, 12  # iterations
_FIXED, _MAP = 4, 30  # of OSEM and of low rank where the truth is not known
_BLUR = (0.0, *np.geomspace(0.4, 2.4, 9))  # widths of the filter, in pixels
_FIXED_BLUR = 0.8
# Of priors, in units of the mean sensitivity.
_FIXED_WEIGHT = {"TV": 0.3, "Casorati": 3.0, "blocks": 2.0, "image": 0.3}
_WEIGHTS = np.geomspace(0.01, 10.0, 13)  # to choose from, relative to these
_BLOCK = 8


class Ring(NamedTuple):
    """Where lines of response run: parallel ones at each angle.

    Of an image of so many rows and columns; spacing and offset, in sides of a pixel,
    are as of `svdinv.unroll.operators.ParallelBeam`.
    """

    rows: int
    columns: int
    spacing: float = 1.0
    offset: float = 0.0


class Factors(Operator):
    """Multiply data by factors: attenuation, efficiencies, and the time of a frame.

    They are not negative, and broadcast to the data.
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
        every = [each.factors for each in (self, *others)]
        return Factors(stacked(every, len(data.shape)))


@dataclass(frozen=True, kw_only=True)
class PetOptions(Options):
    """How activities are read and counted."""

    views: int | None = option(
        None, f"angles of a sinogram (default {_VIEWS})", low=4, high=10_000
    )
    counts: float | None = option(
        None,
        f"counts of an emission scan in each frame, on average (default {_COUNTS:g})",
        low=10,
        high=1e12,
        plural="counts",
    )
    background: float | None = option(
        None,
        f"share of scatter and randoms in these (default {_BACKGROUND:g})",
        low=0,
        high=0.95,
    )
    attenuation: float | None = option(
        None,
        "attenuation along a side of the image, were it all water (default "
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
class Pet(Task):
    """Activities, of which counts along lines of response are known."""

    entry = PET
    options = PetOptions
    metrics = SERIES
    peak = "max"
    moving = True
    seconds = 0.2

    size: int = option(_SIZE, "rows and columns of what is trained on", low=16)
    projections: int = option(_VIEWS, "angles of each", low=4)
    counts: tuple[float, float] = option(
        (3e4, 3e5),
        "fewest and most counts, of which each item draws a number",
        low=10,
        rising=True,
    )
    background: float = option(
        0.4, "largest share of scatter and randoms in these", low=0, high=0.95
    )
    frames: tuple[int, int] = option(
        (1, 1),
        "fewest and most frames, of which each step draws a number",
        low=1,
        rising=True,
    )
    validation: int = option(4, "phantoms to watch the training by", low=1)

    def load(self) -> Activities:
        return Activities(self)

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        """Name the size of a phantom, and the frames of one that has some."""
        if str(source) == "kinetic":
            return ("size", "frames")
        name = str(source).removeprefix(_PREFIX)
        return ("size",) if name in ACTIVITIES or name in DENSITIES else ()

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a phantom, or a picture as an activity."""
        name, size = str(source), options.size or _SIZE
        for given in ("size", "frames"):
            if getattr(options, given) and given not in self.file_options(source):
                raise ValueError(f"{given}: does not apply to {source}")
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

        ``counts`` (views, detectors), or (T, views, detectors) of frames; ``angles`` of
        the views in degrees; ``geometry``, the four numbers of `Ring`. There may be
        ``factors``, counts for each unit of activity on a line a side of the image
        long: attenuation, efficiency, time; ``background``, the mean of scatter and
        randoms; both broadcast to the counts. ``truth`` is (T, H, W).
        """
        shape = file.shape("counts", "(views, detectors), or with frames", (2, 3))
        ring, angles = read_geometry(file, Ring, shape[-2])
        counts = file.real("counts").reshape(-1, *shape[-2:])
        beside: dict[str, Any] = {}
        for name, usual in (("factors", 1.0), ("background", 0.0)):
            found = file.real(name) if name in file else np.float32(usual)
            try:
                beside[name] = np.array(np.broadcast_to(found, counts.shape))
            except ValueError as error:
                due = f"must broadcast to {counts.shape}, got {found.shape}"
                raise file.error(name, due) from error
        for name, array in {"counts": counts, **beside}.items():
            if (array < 0).any():
                raise file.error(name, "must not be negative")
        if not counts.any():
            raise file.error("counts", "must not be all 0")
        order = np.argsort(angles % 180, kind="stable")[_order(len(angles))]
        held = [np.ascontiguousarray(x[:, order]) for x in (counts, *beside.values())]
        try:
            scan = Scan(ring, tuple(map(float, angles[order])), shape[-1])
            problem = scan.problem(*held)
        except ValueError as error:
            raise file.error("geometry", f"makes no sense: {error}") from error
        if not problem.adjoint().any():
            raise file.error("counts", "must lie on lines through the image")
        # Activities of about 1 at most, which networks are for.
        scale = np.float32(_iterates(problem, 1)[0].max())
        problem = scan.problem(held[0], scale * held[1], held[2])
        truth = file.truth((len(counts), *ring[:2]), "of the frames")
        truth = None if truth is None else truth / scale
        return replace(problem, truth=truth, scale=float(scale))

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        scan, scale = problem.scan, np.float32(problem.scale)
        return {
            "counts": problem.y / scale,  # of all tasks in the scale of the image
            "angles": np.asarray(scan.angles, np.float32),
            "geometry": np.asarray(scan.ring, np.float32),
            "factors": scan.factors(problem.A) / scale,
            "background": problem.fidelity.background,  # type: ignore[attr-defined]
        }

    def examples(self, options: Any) -> list[InputImage | Problem]:
        """Return phantoms of other seeds and kinds than those of the training.

        With ``frames`` dynamic ones.
        """
        seeds = [replace(options, seed=1000 + k) for k in range(6)]
        if options.frames:
            return [self.read("kinetic", each) for each in seeds[:3]]
        found = [self.read("activity-ellipses", each) for each in seeds]
        found.append(self.read("kinetic-sum", seeds[0]))
        return [*found, self.read(f"{_PREFIX}head-1", options)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Count along lines of response, with scatter and randoms."""
        frames, rows, columns = given.image.shape
        views = options.views or _VIEWS
        order = _order(views)
        angles = tuple(float(180 * k / views) for k in order)
        scan = Scan(Ring(rows, columns), angles, None)
        beam = scan.beam(slice(None))
        along = _ATTENUATION if options.attenuation is None else options.attenuation
        share = _BACKGROUND if options.background is None else options.background
        counts = options.counts or _COUNTS
        factors = np.exp(-beam(np.float32(along) * _body(given.image)))
        trues = factors * beam(given.image)
        factors *= np.float32(counts * frames * (1 - share) / trues.sum())
        trues = factors * beam(given.image)
        background = share / (1 - share) * _scattered(trues)
        rng = np.random.default_rng([options.seed, 1])
        y = rng.poisson(trues.astype(np.float64) + background)
        problem = scan.problem(
            y.astype(np.float32), factors, background.astype(np.float32)
        )
        setting = f"{counts:.3g} counts a frame, {views} views"
        return replace(
            problem, truth=given.image, name=given.name, setting=setting,
            scale=given.scale,
        )  # fmt: skip

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return None: the noise is Poisson's."""
        return None

    def baselines(self) -> Mapping[str, Method]:
        """Return EM with and without subsets, filtered, and with priors."""
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
        """Return whether there are several frames, for a network that sees them all."""
        return len(problem.y) > 1 or not getattr(recipe, "components", 0)

    def weights_for(self, problem: Problem) -> str:
        """Name those for frames, or for one image."""
        return "pet-frames" if len(problem.y) > 1 else self.kind

    def finished(self, image: Any) -> Any:
        return np.maximum(image, 0)

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
    """The `scan` of counts: where they were counted."""

    ring: Ring
    angles: tuple[float, ...]
    detectors: int | None

    def __str__(self) -> str:
        return f"{len(self.angles)} views of a ring"

    def beam(self, part: slice) -> ParallelBeam:
        """Return the projector of some of the views."""
        return _beam(self.ring, self.angles[part], self.detectors)

    def problem(self, counts: Any, factors: Any, background: Any) -> Problem:
        """Return the problem of counts (T, views, detectors), subset by subset."""
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
def _beam(ring: Ring, angles: tuple[float, ...], detectors: int | None) -> ParallelBeam:
    # In sides of the image, so that its activity has integrals of about 1.
    pixel = 1 / max(ring.rows, ring.columns)
    return ParallelBeam(
        (ring.rows, ring.columns),
        angles,
        detectors=detectors,
        spacing=ring.spacing * pixel,
        offset=ring.offset * pixel,
        pixel=pixel,
    )


def _interleaved(views: int) -> list[Any]:
    """Return the views of each subset: far from each other, and so are the subsets."""
    count = max(1, min(_SUBSETS, views // _LEAST_VIEWS))
    first = sorted(range(count), key=lambda k: int(f"{k:03b}"[::-1], 2))
    return [np.arange(views)[k::count] for k in first]


def _order(views: int) -> Any:
    return np.concatenate(_interleaved(views))


@dataclass(frozen=True)
class Activities(Simulated):
    """Phantoms of ellipses and their counts, in frames or not, to train on."""

    task: Pet

    def problem(self, *key: int) -> Problem:
        """Draw one, and measure it."""
        task, rng = self.task, np.random.default_rng(key)
        # Those of one step make a batch.
        common = np.random.default_rng(key[:2])
        frames = int(common.integers(*task.frames, endpoint=True))
        if frames > 1:
            image = random_kinetics(task.size, frames, rng)
        else:
            image = _positive("ellipses", random_shapes(task.size, rng, 0.0))[None]
        low, high = np.log(task.counts)
        options = PetOptions(
            views=task.projections,
            counts=float(np.exp(rng.uniform(low, high))),
            background=float(rng.uniform(0, task.background)),
            attenuation=float(rng.uniform(0, 1.5 * _ATTENUATION)),
            seed=int(rng.integers(2**31)),
        )
        return task.measure(InputImage("ellipses", image), options)


def _lengths(frames: int | None) -> tuple[float, ...]:
    """Return the lengths of frames in minutes, short ones first."""
    if frames in (None, len(FRAMES)):
        return FRAMES
    ends = sum(FRAMES) * (np.arange(frames + 1) / frames) ** 2
    return tuple(float(x) for x in np.diff(ends))


def _positive(name: str, image: Any) -> Any:
    if not image.any():
        raise ValueError(f"{name} must not be zero everywhere")
    return image


def _body(image: Any) -> Any:
    """Mask of the tissue: pixels with activity, and those enclosed by them."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    mean = image.mean(axis=0)
    tissue = binary_closing(mean > _BODY * mean.max(), iterations=2)
    return binary_fill_holes(tissue).astype(np.float32)


def _scattered(trues: Any) -> Any:
    """Return scatter, a blurred sinogram, and randoms, everywhere the same."""
    from scipy.ndimage import gaussian_filter1d

    wide = gaussian_filter1d(trues, _WIDTH * trues.shape[-1], axis=-1)
    flat = np.ones_like(trues)
    total, own = (x.sum(axis=(-2, -1), keepdims=True) for x in (trues, wide))
    scatter = wide * total / np.maximum(own, 1e-30)
    return scatter / 2 + flat * total / (2 * trues[0].size)


def _grey(entry: Entry, top: float) -> Entry:
    """Return a frame as a picture, as often as that has colours."""
    image = np.moveaxis(entry.image, 0, -1) / np.float32(top)
    return replace(entry, image=np.repeat(image, 3, axis=-1))


def _whole(problem: Problem) -> Problem:
    """Return the problem without subsets."""
    scan = problem.scan
    A = Factors(scan.factors(problem.A)) * scan.beam(slice(None))
    return replace(problem, A=A)


def _iterates(problem: Problem, count: int, prior: Any = None) -> list[Any]:
    """Return all images of EM, through the subsets if there are some."""
    found: list[Any] = []
    solve(
        problem, prior, algorithm=EM(), iterations=count, rtol=0, objective=False,
        callback=lambda k, state: found.append(state["x"]),
    )  # fmt: skip
    return found + found[-1:] * (count - len(found))  # it ends where nothing changes


def mlem(problem: Problem) -> Reconstruction:
    """Maximise the likelihood, and stop early (Shepp & Vardi, IEEE TMI 1982).

    The note tells after how many iterations.
    """
    found = _iterates(_whole(problem), _MLEM)
    usual, every = _SUBSETS * _FIXED, range(1, _MLEM + 1)
    return best_of(
        Pet().decibels, problem, lambda k: found[k - 1], every, usual, "iteration {}"
    )


def osem(problem: Problem, *, filtered: bool = False) -> Reconstruction:
    """Step by subsets in turn, and stop early (Hudson & Larkin, IEEE TMI 1994).

    With `filtered` what was found is blurred by a Gaussian. The note tells after how
    many iterations, and the width.
    """
    from scipy.ndimage import gaussian_filter

    found, said = _iterates(problem, _OSEM), "iteration {0[0]}"
    widths, usual = (0.0,), 0.0
    if filtered:
        said += ", {0[1]:.2g} pixels"
        widths, usual = (*_BLUR, _FIXED_BLUR), _FIXED_BLUR
    return best_of(
        Pet().decibels,
        problem,
        lambda at: gaussian_filter(found[at[0] - 1], (0, at[1], at[1])),
        itertools.product(range(1, _OSEM + 1), widths),
        (_FIXED, usual),
        said,
    )


def map_em(problem: Problem, *, priors: Sequence[str] = ()) -> Reconstruction:
    """Denoise after each iteration (Sawatzky et al., IEEE NSS 2008).

    Of OSEM for total variation; for low rank of MLEM, so that noise has less time to
    grow between two thresholds.

    The priors are "TV", total variation of each frame; "Casorati" and "blocks", low
    rank of frames x pixels, whole or in blocks; "image", low rank of an image as a
    matrix; by default those of low rank that suit the number of frames. Prior, weight
    and iteration, of which the note tells, are the best of all where the truth is
    known.
    """
    names = priors or (("Casorati", "blocks") if len(problem.y) > 1 else ("image",))
    # Relative to the sensitivity, so that they hold for any number of counts.
    unit = float(problem.A.adjoint(np.ones_like(problem.y)).mean())
    whole, known = _whole(problem), problem.truth is not None

    def count(name: str) -> int:
        return _OSEM if name == "TV" else _MLEM if known else _MAP

    @functools.lru_cache(maxsize=1)
    def images(name: str, weight: float) -> list[Any]:
        steps = problem if name == "TV" else whole
        return _iterates(steps, count(name), _PRIORS[name](weight * unit))

    # All of them: there may be several maxima, with iterations to choose from.
    choices = (
        (name, weight * _FIXED_WEIGHT[name], k)
        for name in names
        for weight in _WEIGHTS
        for k in range(1, count(name) + 1)
    )
    return best_of(
        Pet().decibels,
        problem,
        lambda at: images(*at[:2])[at[2] - 1],
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
