"""Colour compressed sensing: photographs from incomplete samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svdinv._missing import needing
from svdinv.unroll.algorithms import solve
from svdinv.unroll.algorithms.non_local import noise_deviation
from svdinv.unroll.algorithms.search import DouglasRachford, best_solution
from svdinv.unroll.data import (
    PHOTOS,
    TEST,
    Image,
    centre_crop,
    photograph,
    read_picture,
    split,
)
from svdinv.unroll.data.masks import mask_of_file, uniform_mask
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.data.pictures import (
    fingerprint,
    patches,
    picture_files,
    training_photographs,
    with_twins,
)
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.metrics import COLOUR
from svdinv.unroll.operators import Sampling
from svdinv.unroll.operators.transforms import turns
from svdinv.unroll.priors import Nuclear
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks import non_local
from svdinv.unroll.tasks.colour import COLOUR_TASK
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Options,
    Reconstruction,
    Simulated,
    Task,
    View,
    option,
    zero_filled,
)
from svdinv.unroll.tiles import tiles

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

_RATES = (0.4, 0.3, 0.1)  # of an evaluation
_UNIFORM = "uniform"
_SMALLEST = 32  # pixels a side of a cropped picture
_LEAST_MEASURED = 11  # pixels a side of measured data, needed by SSIM
_LEAST, _MOST = -0.25, 1.5  # range of mean sample and truth, with a margin for noise
# Level and fraction of samples below it, which noise has only beside some above 1.
_NEGATIVE, _SEVERAL = -0.5, 0.1
# SVT completion: thresholds beyond these change hundredths of a decibel.
_FIRST_THRESHOLD, _LEAST_THRESHOLD, _MOST_THRESHOLD = 0.006, 0.0005, 1.0
_FIXED_THRESHOLD = 0.01  # without a truth: larger than the best one, for noise
_RTOL = 1e-4
# Threshold of an iteration, relative to the largest singular value: large enough for
# the Gram matrix to replace an SVD and for few iterations.
_STEP = 0.12
# Tiles for pictures too large for one sparse system of equations; the solution of the
# biharmonic equation hardly depends on samples beyond the margin.
_TILE, _MARGIN = 384, 32
_LITTLE_NOISE = 0.02  # deviation below which a picture may have other noise
_KEPT = 1e-3  # largest difference of a sample that a network kept
_GROUPED = 512**2  # pixels up to which grouping of patches takes seconds


@dataclass(frozen=True, kw_only=True)
class ColourOptions(Options):
    """Options for reading and sampling pictures."""

    rate: float | None = option(
        None,
        "sampling rate, the fraction of the values of a picture that is sampled "
        "(default 0.4, or 1 if only --noise is given, and with --no-truth)",
        low=0.01,
        high=1.0,
        plural="rates",
    )
    mask: str | None = option(
        None,
        "file with a mask of a picture, true where sampled, or a picture that is white "
        "there and black elsewhere",
        plural="masks",
    )
    noise: float | None = option(
        None, "standard deviation of noise in the samples (default 0)", low=0, high=10
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
        if self.crop and self.crop < _SMALLEST:
            raise ValueError(f"crop must be 0 or at least {_SMALLEST}, got {self.crop}")
        if self.rate is not None and self.mask is not None:
            raise ValueError("rate: not allowed with mask, which defines the samples")
        if self.mask is not None and not Path(self.mask).suffix:
            raise ValueError(
                f"mask: {self.mask!r} is not a file with a mask of a picture"
            )


@dataclass(frozen=True, kw_only=True)
class Colour(Task):
    """Reconstruction of photographs from random samples of each channel."""

    entry = COLOUR_TASK
    options = ColourOptions
    metrics = COLOUR
    endings = (".png",)

    photographs: tuple[str, ...] = option(
        (), "folders and files of training pictures, added to the built-in ones"
    )
    held_out: tuple[str, ...] = option(
        TEST, "built-in photographs excluded from training, for svdinv evaluate"
    )
    longest: int = option(1024, "pictures with longer sides are scaled down to this")
    validation: int = option(
        4,
        "number of validation photographs; a quarter of each if there are no more",
        low=1,
    )
    patch: int = option(64, "side of the patches in pixels", low=8)
    rates: tuple[float, float] = option(
        (0.04, 0.5), "lowest and highest sampling rate; validation uses both",
        low=0.01, high=0.99, rising=True,
    )  # fmt: skip
    noisy: float = option(0.0, "fraction of the patches that have noise", low=0, high=1)
    complete: float = option(
        0.4, "fraction of the noisy patches that are completely sampled", low=0, high=1
    )
    noises: tuple[float, float] = option(
        (0.01, 0.1), "smallest and largest standard deviation of that noise", above=0,
        high=1, rising=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest < self.patch:
            raise ValueError(f"longest must be at least patch, got {self.longest}")
        unknown = [name for name in self.held_out if name not in PHOTOS]
        if unknown:
            raise ValueError(
                f"held_out: no photograph {unknown[0]!r}; there are {', '.join(PHOTOS)}"
            )

    def load(self) -> Photographs:
        """Read the photographs, and split them into training and validation data.

        The validation data are `validation` photographs; if there are no more than
        that, a quarter of each is cut off instead. Raises ValueError if a file or
        folder is missing or is not a picture, or a picture is too small.
        """
        images = training_photographs(self.photographs, self.held_out, self.longest)
        if not images:
            raise ValueError("no photographs to train on: all are held out")
        small = [n for n, x in images.items() if min(x.shape[:2]) < self.patch]
        if small:
            size = "x".join(map(str, images[small[0]].shape[:2]))
            raise ValueError(
                f"{small[0]} is smaller than a patch of {self.patch}: it has {size} "
                "pixels; leave it out, or set task.patch"
            )
        if len(images) <= self.validation:
            parts = {name: parted(x, self.patch, name) for name, x in images.items()}
            return Photographs(
                self,
                [rest for rest, _ in parts.values()],
                {f"part of {name}": part for name, (_, part) in parts.items()},
            )
        # At even distances, since neighbours in a folder tend to be similar.
        step = len(images) / self.validation
        held_out = {list(images)[int((i + 0.5) * step)] for i in range(self.validation)}
        left_out = with_twins(held_out)
        return Photographs(
            self,
            [image for name, image in images.items() if name not in left_out],
            {name: images[name] for name in sorted(held_out)},
        )

    def origin(self) -> dict[str, str]:
        if not self.photographs:
            return {}
        return {"photographs": fingerprint(self.photographs)}

    def files(self, folder: Path) -> list[Path]:
        return picture_files(folder)

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        return ("crop",)

    def read(self, source: str | Path, options: Any) -> InputImage:
        """Read a picture, or a built-in photograph; (C, H, W) in [0, 1]."""
        path = Path(source)
        built_in = str(source) in PHOTOS
        image = (
            photograph(str(source)) if built_in else read_picture(path, largest=None)
        )
        image = centre_crop(image, options.crop) if options.crop else image
        return InputImage(path.stem, channels_first(image))

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``samples`` and ``mask``, (3, H, W), and optionally ``truth``.

        Samples are floating-point numbers in [0, 1] plus noise.
        """
        shape = file.shape("samples", "(C, H, W)", (3,))
        for name in ("mask", "truth") if "truth" in file else ("mask",):
            file.same(name, shape, "(C, H, W) of samples")
        if shape[0] != 3:
            raise file.error("samples", f"must be (3, H, W), got {shape}")
        if min(shape[1:]) < _LEAST_MEASURED:
            raise file.error(
                "samples",
                f"must have {_LEAST_MEASURED} pixels a side or more, got {shape[1:]}",
            )
        truth = file.real("truth") if "truth" in file else None
        if truth is not None and not truth.any():
            raise file.error("truth", "is zero everywhere")
        if truth is not None and not _LEAST <= truth.min() <= truth.max() <= _MOST:
            raise file.error("truth", "must be in [0, 1]")
        samples, mask = file.real("samples"), file.mask()
        if not samples[mask].any():
            inverted = "; is mask inverted?" if samples.any() else ""
            raise file.error("samples", f"are all 0 where mask is true{inverted}")
        mean = float(samples[mask].mean(dtype=np.float64))  # noise averages out
        if not _LEAST <= mean <= _MOST:
            raise file.error(
                "samples",
                f"must be in [0, 1], apart from noise, but their mean is {mean:.3g}",
            )
        found = samples[mask]
        if abs(found).max() <= 1 and (found < _NEGATIVE).mean() > _SEVERAL:
            raise file.error("samples", "must be in [0, 1], but seem to be in [-1, 1]")
        return Problem(samples, Sampling(mask), truth=truth)

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        return {"samples": problem.y, "mask": _mask(problem)}

    def examples(self, options: Any) -> list[InputImage | Problem]:
        return [self.read(name, options) for name in TEST]

    def built_in(self) -> dict[str, dict[str, str]]:
        training, sizes = split(*TEST), {}
        for name in PHOTOS:
            height, width, _ = photograph(name).shape
            use = "training" if name in training else "other view of a test photograph"
            if name in TEST:
                use = "test: not used to train the weights in svdinv"
            sizes[name] = f"{f'{height} x {width}':<12} {use}"
        description = "each value of each channel with the same probability"
        return {
            "photographs, rows x columns": sizes,
            "mask of photographs": {_UNIFORM: description},
        }

    def picture_options(self, name: str) -> tuple[str, ...]:
        return ("rate",) if name == _UNIFORM else ("crop",)

    def save_picture_of(self, name: str, options: Any, path: Path) -> None:
        if name == _UNIFORM:
            shape, rng = (128, 128, 3), np.random.default_rng(options.seed)
            mask = uniform_mask(shape, options.rate or 0.4, rng)
            save_picture(path, mask.astype(np.float32))
        else:
            save_picture(path, channels_last(self.read(name, options).image))

    def settings(self, options: Any) -> list[Any]:
        if options.rate is not None or options.mask is not None:
            return [options]
        return [replace(options, rate=rate) for rate in _RATES]

    def measure(self, given: InputImage, options: Any) -> Problem:
        truth = given.image
        channels, height, width = truth.shape
        if options.mask is not None:
            mask = mask_of_file(options.mask, truth.shape)
            if truth.any() and not truth[mask].any():
                raise ValueError(
                    f"mask: {given.name} is black wherever {options.mask} is true: it "
                    "must be true, or white, where the picture is kept"
                )
            setting = f"mask {options.mask}"
        else:
            rate = options.rate or (1.0 if options.noise else 0.4)
            rng = np.random.default_rng(options.seed)
            mask = np.ones(truth.shape, bool)
            if rate < 1:
                channels_last_mask = uniform_mask((height, width, channels), rate, rng)
                mask = channels_first(channels_last_mask)
            setting = f"rate {rate:g}"
        samples = np.where(mask, truth, np.float32(0))
        problem = Problem(
            samples, Sampling(mask), truth=truth, name=given.name, setting=setting
        )
        if options.noise:
            problem = noisy(problem, options.noise, seed=options.seed)
        return problem

    def baselines(self) -> Mapping[str, Method]:
        return {
            "zero-filled": zero_filled,
            "SVT completion": Baseline(svt_completion, lengthy=True, applies=_has_gaps),
            "biharmonic": Baseline(biharmonic, applies=_has_gaps),
            non_local.NAME: non_local.baseline(self),
        }

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether the network suits a problem with gaps, or with only noise.

        Denoising networks need different noise in each channel, as in training, and
        pictures large enough to estimate it.
        """
        exact = getattr(recipe, "exact", True)
        if _has_gaps(problem) or exact:
            return bool(_has_gaps(problem) and exact)
        large = min(problem.y.shape[-2:]) >= _SMALLEST
        return large and self.without_repeats(problem) is problem

    def weights_for(self, problem: Problem) -> str:
        """Return the weights for denoising or gaps, faster ones for large images."""
        if math.prod(problem.y.shape[-2:]) > _GROUPED:
            return self.kind
        return "colour-groups" if _has_gaps(problem) else "denoise-refined"

    def options_without_truth(self, options: Any) -> Any:
        """Sample a noisy picture completely, unless a rate or a mask is set."""
        is_set = options.rate is not None or options.mask is not None
        return options if is_set else replace(options, rate=1.0)

    def describe(self, problem: Problem) -> str:
        """Describe the size and, of a picture with unknown noise alone, the noise."""
        size, noise = super().describe(problem), None
        if problem.truth is None and not _has_gaps(problem):
            with suppress(ValueError):  # too small
                noise = noise_deviation(self.without_repeats(problem).y)
        if noise is None:
            return size
        shared = " (what pixels or channels share, as in JPEG files, is not seen)"
        return f"{size}, noise {noise:.2g}{shared if noise < _LITTLE_NOISE else ''}"

    def without_repeats(self, problem: Problem) -> Problem:
        """Keep one channel if all channels and their masks are equal."""
        arrays = [problem.y, _mask(problem), problem.truth]
        equal = all(x is None or (x[1:] == x[:1]).all() for x in arrays)
        if not (equal and problem.has_white_noise and len(problem.y) > 1):
            return problem
        y, mask, truth = (x if x is None else x[:1] for x in arrays)
        return replace(problem, y=y, A=Sampling(mask), truth=truth)

    def views(self, problem: Problem) -> Iterator[View]:
        """Yield the eight mirrored and rotated problems of a colour image.

        Lim et al., EDSR, CVPRW 2017.
        """
        for turn in turns():
            yield _changed(problem, turn.forward), turn.adjoint

    def tiled(self, problem: Problem) -> bool:
        return problem.A.pixel_mask is not None

    def part(self, problem: Problem, window: tuple[slice, slice]) -> Problem:
        return _changed(problem, lambda x: x[..., *window])

    def finished(self, image: Any) -> Any:
        return np.clip(image, 0, 1)

    def after_network(
        self,
        problem: Problem,
        found: Reconstruction,
        again: Callable[[Problem], Any],
    ) -> Reconstruction:
        """Denoise a completed picture if it has kept samples that have noise.

        Returns it unchanged if its channels are equal, since left-out samples would be
        known from the other channels, or if the samples are those of the truth.
        """
        mask, y, truth = problem.A.pixel_mask, problem.y, problem.truth
        white = problem.has_white_noise and min(y.shape[-2:]) >= _SMALLEST
        if mask is None or mask.all() or not (white and mask.any()):
            return found
        exact = truth is not None and (y == truth)[mask].all()
        both = mask[1:] & mask[:-1]
        equal = both.any() and (y[1:] == y[:-1])[both].all()
        kept = np.abs(found.image - self.finished(y))[mask].max() < _KEPT
        if exact or equal or not kept:
            return found
        return non_local.without_noise(self, problem, found, again)


@dataclass(frozen=True, eq=False)
class Photographs(Simulated):
    """Training and named validation photographs, (H, W, 3) in [0, 1]."""

    training: list[Image]
    aside: dict[str, Image]

    def problem(self, *key: int) -> Problem:
        """Draw a patch (3, H, W), its mask and its noise."""
        task, rng = self.task, np.random.default_rng(key)
        (patch,) = patches(self.training, 1, task.patch, rng)
        patch = patch[..., rng.permutation(3)]
        rate = _log_uniform(task.rates, rng)
        mask, noise = uniform_mask(patch.shape, rate, rng), np.float32(0)
        if task.noisy and rng.random() < task.noisy:
            if rng.random() < task.complete:
                mask = np.ones_like(mask)
            deviation = np.float32(_log_uniform(task.noises, rng))
            noise = deviation * rng.standard_normal(patch.shape, dtype=np.float32)
        truth, measured, mask = map(channels_first, (patch, patch + noise, mask))
        y = np.where(mask, measured, np.float32(0))
        return Problem(y, Sampling(mask), truth=truth)

    def validation(self) -> list[Problem]:
        """Return crops of the validation photographs at three rates.

        If all training data are complete and noisy, the crops are complete instead,
        with the smallest and the largest noise.
        """
        task = self.task
        if task.noisy == task.complete == 1:
            settings = [(1.0, noise) for noise in task.noises]
        else:
            low, high = task.rates
            rates = sorted({low, math.sqrt(low * high), high})
            settings = [(rate, None) for rate in rates]
        return [
            sampled(name, centre_crop(image, 192), rate, seed=i, noise=noise)
            for i, (name, image) in enumerate(self.aside.items())
            for rate, noise in settings
        ]


def sampled(
    name: str, image: Image, rate: float, *, seed: int, noise: float | None = None
) -> Problem:
    """Sample a photograph (H, W, 3) in [0, 1] at a rate in [0.01, 1].

    The problem has channels first; `seed` determines the mask.
    """
    given = InputImage(name, channels_first(image))
    options = ColourOptions(rate=rate, noise=noise, seed=seed)
    return Colour().measure(given, options)


def _log_uniform(ends: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = map(math.log, ends)
    return math.exp(rng.uniform(low, high))


def _changed(problem: Problem, change: Callable[[Any], Any]) -> Problem:
    """Apply the same change to samples and mask; the problem has no truth."""
    given = replace(problem, A=Sampling(_mask(problem)), truth=None)
    return given.replace_arrays(lambda x: np.ascontiguousarray(change(x)))


def _mask(problem: Problem) -> Any:
    mask = problem.A.pixel_mask
    if mask is None:
        raise TypeError(f"colour images must be sampled by a mask, not {problem.A!r}")
    return mask


def _has_gaps(problem: Problem) -> bool:
    return not _mask(problem).all()


def svt_completion(problem: Problem) -> Reconstruction:
    """Complete each channel of a colour image as a matrix of low rank.

    Minimises ``|mask * (x - samples)|_F^2 / 2 + threshold * |x|_*``, as soft-impute
    does (Mazumder, Hastie & Tibshirani, JMLR 2010), and restores the samples, unless
    the truth is known to differ from them. The threshold, which the note states, is
    relative to the largest singular value of the samples.
    """
    truth, mask = problem.truth, _mask(problem)
    problem = replace(problem, y=problem.A.project_to_samples(problem.y))
    samples = problem.y
    exact = truth is None or np.array_equal(samples, np.where(mask, truth, 0))
    largest = float(np.linalg.norm(samples, ord=2, axis=(-2, -1)).max()) or 1.0
    # About the largest singular value of the image.
    scaled = largest / max(float(mask.mean()), 1 / mask.size)
    step = _STEP * scaled

    def prior(threshold: float) -> tuple[Nuclear]:
        return (Nuclear(threshold * largest),)

    def parameters(threshold: float) -> dict[str, float]:
        return {"penalty": threshold * largest / step, "relaxation": 1.4}

    def completed(x: Any) -> Any:
        return np.clip(np.where(mask, samples, x) if exact else x, 0, 1)

    def score(x: Any) -> float:
        """Return the PSNR, up to a constant."""
        return -20 * math.log10(float(np.linalg.norm(truth - completed(x))) or 1e-30)

    if truth is None:
        note, usual = f"threshold {_FIXED_THRESHOLD} s_1", _FIXED_THRESHOLD
        solution = solve(
            problem, prior(usual), algorithm=DouglasRachford(), rtol=_RTOL,
            parameters=parameters(usual), objective=False,
        )  # fmt: skip
    else:
        threshold, solution = best_solution(
            problem, prior, score, algorithm=DouglasRachford(), parameters=parameters,
            first=_FIRST_THRESHOLD, low=_LEAST_THRESHOLD, high=_MOST_THRESHOLD,
        )  # fmt: skip
        note = f"best threshold {threshold:.2g} s_1"
    return Reconstruction(completed(solution.image), note)


def biharmonic(problem: Problem) -> Reconstruction:
    """Inpaint each channel of a colour image by solving the biharmonic equation.

    Damelin & Hoang, Int. J. Math. Math. Sci. 2018, as implemented in scikit-image.
    Raises ImportError without scikit-image.
    """
    masks, samples = _mask(problem), problem.A.project_to_samples(problem.y)
    pairs = zip(samples, masks, strict=True)
    image = np.stack([_inpainted(channel, mask) for channel, mask in pairs])
    return Reconstruction(np.clip(image, 0, 1).astype(np.float32))


def _inpainted(samples: Any, mask: Any) -> Any:
    with needing("skimage", "train"):
        from skimage.restoration import inpaint_biharmonic

    image = samples.astype(np.float64)
    height, width = samples.shape
    for window, inside, kept in tiles(height, width, _TILE, _MARGIN):
        if mask[kept].all() or not mask[window].any():
            continue
        image[kept] = inpaint_biharmonic(samples[window], ~mask[window])[inside]
    return image


def channels_first(images: np.ndarray) -> np.ndarray:
    """Convert (..., H, W, C) to (..., C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def channels_last(images: np.ndarray) -> np.ndarray:
    """Convert (..., C, H, W) to (..., H, W, C)."""
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))


def parted(image: Image, least: int, name: str) -> tuple[Image, Image]:
    """Cut a quarter off the longer side, but no fewer than `least` pixels.

    Raises ValueError if fewer than `least` pixels would be left.
    """
    H, W = image.shape[:2]
    cut = max(H, W) - max(max(H, W) // 4, least)
    if cut < least:
        raise ValueError(
            f"{name} of {H}x{W} pixels is too small to be cut in two, for training and "
            f"validation, with patches of {least}: add more photographs"
        )
    return (image[:cut], image[cut:]) if H > W else (image[:, :cut], image[:, cut:])
