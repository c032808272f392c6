"""Dynamic MRI: series of images from undersampled k-space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svdinv.operators._arguments import broadcasts
from svdinv.unroll.data import TEST, Image
from svdinv.unroll.data.masks import mask_of_file, middle
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.data.pictures import fingerprint, training_photographs
from svdinv.unroll.display.pictures import save_frames
from svdinv.unroll.formats.bart import HOLDS
from svdinv.unroll.formats.scans import Geometry
from svdinv.unroll.formats.table import WRITTEN, ending, format_of
from svdinv.unroll.formats.table import save as save_series
from svdinv.unroll.metrics import SERIES, psnr
from svdinv.unroll.networks import LLS
from svdinv.unroll.networks.noise import noise_of_kspace
from svdinv.unroll.operators import MRI
from svdinv.unroll.plugins import naming
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks import non_local
from svdinv.unroll.tasks.cine import CINE, HEARTS, PHANTOMS
from svdinv.unroll.tasks.cine.baselines import (
    local_low_rank,
    low_rank,
    low_rank_plus_sparse,
    view_sharing,
)
from svdinv.unroll.tasks.cine.hearts import (
    heart_series,
    hearts_fingerprint,
    read_hearts,
)
from svdinv.unroll.tasks.cine.kspace import (
    ACCELERATION,
    MASKS,
    OF_SERIES,
    PATTERNS,
    SMALLEST,
    check_centred,
    divided,
    problem_of_kspace,
    sampled,
    sampling,
)
from svdinv.unroll.tasks.cine.phantom import coil_maps, heart
from svdinv.unroll.tasks.cine.training import Hearts, unseen_series
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Options,
    Task,
    View,
    as_measured,
    option,
    zero_filled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from svdinv.unroll.formats.hdf5 import Datasets
    from svdinv.unroll.formats.scans import Scan

_MOST_ACCELERATED = 16
_HIGHEST_SNR = 80.0  # dB
_LONGEST = 1024  # side of a photograph in pixels
_FRAMES, _SIZE = 18, 128  # of phantoms
_SIZES = ("frames", "size")  # options of phantoms
_CLEAN = 0.004  # limit on `_outermost`, which is 0.001 to 0.003 without noise
_OF_KSPACE = 0.8  # least fraction of the energy in the middle that no image has
_GROUPED = 512**2  # pixels up to which grouping of patches takes seconds
_SERIES = 8  # to evaluate on


@dataclass(frozen=True, kw_only=True)
class CineOptions(Options):
    """Options for reading series and sampling their k-space."""

    mask: str | None = option(
        None,
        f"sampling pattern of the k-space of a series: {', '.join(PATTERNS)} (default "
        "radial); or a file with a mask, true where sampled",
        plural="masks",
    )
    acceleration: float | None = option(
        None,
        "factor by which k-space is undersampled (default 8: an eighth of k-space is "
        "sampled; of radial lines, which overlap, a little less)",
        low=1,
        high=_MOST_ACCELERATED,
    )
    coils: int | None = option(
        None,
        "number of simulated receive coils for a series (default 0: none)",
        low=0,
        high=128,
    )
    noise: float | None = option(
        None,
        "standard deviation of noise in the k-space, relative to the largest magnitude "
        "of the series (default 0)",
        low=0,
        high=10,
    )
    key: str | None = option(
        None,
        "name of the array that holds the series, if the file has several",
        of_file=True,
    )
    slice: int | None = option(
        None,
        "number of the slice, from 0, if a DICOM folder, NIfTI or raw file has several",
        low=0,
        high=65535,
        of_file=True,
    )
    holds: str | None = option(
        None,
        f"content of a BART file, {' or '.join(HOLDS)} (default: kspace for several "
        "coils, else image)",
        of_file=True,
    )
    frames: int | None = option(
        None, "frames of a phantom (default 18)", low=1, high=1000, of_file=True
    )
    size: int | None = option(
        None,
        "rows and columns of a phantom in pixels (default 128)",
        low=32,
        high=1024,
        of_file=True,
    )
    time_axis: int | None = option(
        None,
        "time axis of the array (default -3; 2 for MATLAB's H x W x T and NIfTI's "
        "x, y, time)",
        low=-32,
        high=32,
        of_file=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is None or self.mask in PATTERNS:
            return
        if not Path(self.mask).suffix:
            raise ValueError(
                f"mask: {self.mask!r} is none of {', '.join(PATTERNS)}, nor a file"
            )
        if self.acceleration is not None:
            raise ValueError("acceleration: does not apply to a mask from a file")


@dataclass(frozen=True, kw_only=True)
class Cine(Task):
    """Reconstruction of series of a beating heart from undersampled k-space."""

    entry = CINE
    options = CineOptions
    input_noise = 0.01
    metrics = SERIES
    endings = WRITTEN
    moving = True

    series: int = option(64, "number of phantom series to train on", low=1)
    frames: int = option(12, "frames of each; a step may use a third fewer", low=1)
    size: int = option(128, "rows and columns in pixels", low=32)
    masks: tuple[str, ...] = option(
        MASKS, f"sampling patterns, of {', '.join(PATTERNS)}: each item draws one",
        some=True, choices=PATTERNS,
    )  # fmt: skip
    accelerations: tuple[float, ...] = option(
        (8.0,), "undersampling factors of k-space: each item draws one", low=1,
        high=_MOST_ACCELERATED, some=True,
    )  # fmt: skip
    coils: tuple[int, ...] = option(
        (0, 4), "numbers of coils: each step draws one; 0: no coil maps",
        low=0, some=True,
    )  # fmt: skip
    perfusion: float = option(
        0.4,
        "fraction of the phantoms that show first-pass perfusion, not cine",
        low=0,
        high=1,
    )
    textures: float = option(
        0.5,
        "fraction of the series that are made from photographs, not phantoms",
        low=0,
        high=1,
    )
    photographs: tuple[str, ...] = option(
        (), "folders and files of pictures for these, added to the built-in ones"
    )
    noise: float = option(
        0.0,
        "largest standard deviation of noise, relative to the largest magnitude",
        low=0,
        high=1,
    )
    snr: tuple[float, ...] = option(
        (),
        "lowest and highest signal-to-noise ratio in dB of the fully sampled series; "
        "empty: no such noise",
        low=0,
        high=_HIGHEST_SNR,
        rising=True,
    )
    noisy: float = option(
        0.5, "fraction of the items that have noise with such a ratio", low=0, high=1
    )
    real: tuple[str, ...] = option(
        (), "files .npz and .npy of real series, and folders of them"
    )
    real_share: float = option(
        0.5, "fraction of the items that are made from these", low=0, high=1
    )
    held_out: tuple[str, ...] = option(
        (), "names of real series used for validation, not for training"
    )
    validation: int = option(
        3, "number of validation series; unused with held_out", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.snr) not in (0, 2):
            raise ValueError(f"snr must be two numbers of dB, or none, got {self.snr}")
        if self.snr and self.noise:
            raise ValueError("snr and noise are alternatives: set one of them")
        if self.held_out and not self.real:
            raise ValueError("held_out names real series, but real names no files")

    def load(self) -> Hearts:
        """Return the source of training series, which makes phantoms on demand.

        Raises ValueError if a picture or a real series cannot be read or is too small,
        or if `held_out` names an unknown series or all of them.
        """
        photos: list[Image] = []
        if self.textures:
            found = training_photographs(self.photographs, TEST, _LONGEST)
            photos = [image for _, image in sorted(found.items())]
            if min(min(photo.shape[:2]) for photo in photos) < self.size:
                raise ValueError(f"a photograph is smaller than size, {self.size}")
        with naming("task.real"):
            real = read_hearts(self.real)
        missing = [name for name in self.held_out if name not in real]
        if missing:
            raise ValueError(
                f"task.held_out: no series {missing[0]!r}; there are {', '.join(real)}"
            )
        if self.real and len(real) <= len(set(self.held_out)):
            raise ValueError("task.real has no series to train on: all are held out")
        return Hearts(self, photos, real)

    def origin(self) -> dict[str, str]:
        origin = {}
        if self.photographs:
            origin["photographs"] = fingerprint(self.photographs)
        if self.real:
            origin["real"] = hearts_fingerprint(self.real)
        return origin

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        if str(source) in PHANTOMS:
            return _SIZES
        format = None if str(source) in HEARTS else format_of(source)
        return format.options if format else ()

    def sampling_options(self, problem: Problem) -> tuple[str, ...]:
        """Return options for k-space that is complete, or was before it was sampled."""
        complete = problem.truth is not None or _mri(problem).mask.all()
        return ("mask", "acceleration") if complete else ()

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Read a series (T, H, W) or a frame, scaled to magnitude 1; or k-space.

        Images are complex or magnitudes; raw-data formats contain k-space, of which
        the options may select samples if it is complete.
        """
        path, built_in = Path(source), str(source) in (*PHANTOMS, *HEARTS)
        format = None if built_in else format_of(path)
        allowed = format.options if format else self.file_options(source)
        for name in options.of_files():
            extra = getattr(options, name) is not None and name not in allowed
            # The time axis may be that of the mask.
            mask = name == "time_axis" and options.mask not in (None, *PATTERNS)
            if extra and not mask:
                raise ValueError(f"{name}: does not apply to {source}")
        if built_in:
            return _built_in(str(source), options)
        if format is None:
            raise ValueError(f"{source} is not {self.entry.inputs}")
        scan = format.read(path, **{name: getattr(options, name) for name in allowed})
        name = path.resolve().name if path.is_dir() else path.name
        name = name[: len(name) - len(ending(path, format.suffixes))]
        if scan.mask is not None:
            problem = self._of_scan(path, scan, scan.mask, options)
            return replace(problem, name=name, scan=scan.geometry)
        series = scan.array
        while series.ndim > 3 and len(series) == 1:
            series = series[0]
        if series.ndim == 2:
            series = series[None]
        if series.ndim != 3 or min(series.shape[-2:]) < SMALLEST:
            last = series.ndim == 3 and min(series.shape[:2]) >= SMALLEST
            hint = "; if these are (H, W, T), set time_axis (--time-axis) to 2"
            raise ValueError(
                f"{path} must hold one series (T, H, W), or one frame (H, W), of "
                f"{SMALLEST} pixels a side or more, got the shape {scan.array.shape}"
                f"{hint if last and 'time_axis' in allowed else ''}"
            )
        scale = float(np.abs(series).max())
        if scale == 0:
            zero = "zero everywhere, or too small for single precision"
            raise ValueError(f"{path} is {zero}")
        series = divided(series, scale)
        share = _in_the_middle(series)
        if share > _OF_KSPACE and series.imag.any() and _is_spread(series):
            raise ValueError(
                f"{path} seems to be k-space, with {share:.0%} of its energy in the "
                "middle: store it as kspace, with its mask ('svdinv data write --help')"
            )
        return InputImage(name, series, scale, scan.geometry)

    def _of_scan(
        self, path: Path, scan: Scan, mask: NDArray[np.bool_], options: Any
    ) -> Problem:
        """Return the problem of k-space, or of some samples of it if it is complete.

        The truth is then the image of all samples, and maps are estimated from them.
        """
        kspace = scan.array
        whole = options.mask is None and options.acceleration is None
        if not whole and not mask.all():
            name = "acceleration" if options.mask is None else "mask"
            unknown = "whose k-space is undersampled, or 0 at some samples"
            raise ValueError(f"{name}: does not apply to {path}, {unknown}")
        problem = problem_of_kspace(path, kspace, mask, None, None)
        if whole:
            return replace(problem, setting=as_measured(problem))
        truth = problem.A.H(problem.y) * np.float32(problem.scale)
        mask, setting = _mask(mask.shape, options, scan.phase_axis)
        kept = np.where(mask if kspace.ndim == 3 else mask[:, None], kspace, 0)
        problem = problem_of_kspace(path, kept, mask, _mri(problem).maps, truth)
        return replace(problem, setting=setting)

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``kspace`` and ``mask``, and optionally ``maps``, ``truth``, ``affine``.

        ``kspace`` (T, H, W) or (T, C, H, W) is complex, with the zero frequency at
        (H // 2, W // 2); ``mask`` is (T, H, W) or broadcasts to it, such as (H, W) or
        (T, 1, W); ``maps`` (C, H, W), complex, are coil sensitivities, which are
        estimated if missing; ``truth`` is (T, H, W). ``affine`` (4, 4) is the position
        of the pixels, as in `Geometry`.
        """
        layout = "(T, H, W) or (T, C, H, W), complex, with T = 1 for one frame"
        T, *coils, H, W = file.shape("kspace", layout, (3, 4))
        shape = file.shape("mask", "(T, H, W)", (1, 2, 3, 4))
        if not broadcasts(shape, (T, H, W)):
            file.same(
                "mask", (T, H, W), "(T, H, W) of kspace (T, H, W) or (T, C, H, W)"
            )
        has_maps, has_truth = "maps" in file, "truth" in file
        if has_maps and not coils:
            raise file.error(
                "kspace",
                "must be (T, C, H, W) if the file has maps, (1, C, H, W) for one frame",
            )
        if has_maps:
            file.same("maps", (*coils, H, W), "(C, H, W)")
        if has_truth:
            file.same("truth", (T, H, W), "(T, H, W)")
        if not file.is_complex("kspace"):
            raise file.error("kspace", "must be complex")
        mask = np.array(np.broadcast_to(file.mask(), (T, H, W)))
        maps = file.complex("maps") if has_maps else None
        truth = file.complex("truth") if has_truth else None
        kspace = file.complex("kspace")
        problem = problem_of_kspace(file.path, kspace, mask, maps, truth)
        if "affine" not in file:
            return problem
        file.same("affine", (4, 4), "of a matrix")
        affine = file.real("affine").astype(np.float64)
        seconds = float(file.attrs.get("frame_seconds", 0))
        return replace(problem, scan=Geometry(affine, seconds))

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        A = _mri(problem)
        maps = {} if A.maps is None else {"maps": A.maps}
        return {"kspace": problem.y, "mask": A.mask, **maps}

    def examples(self, options: Any) -> list[InputImage | Problem]:
        for name in options.of_files():
            if name not in _SIZES and getattr(options, name) is not None:
                raise ValueError(f"{name}: applies to files only")
        shape = options.frames or 12, options.size or 128
        return [
            InputImage(f"heart {i}", unseen_series(i, *shape)) for i in range(_SERIES)
        ]

    def built_in(self) -> dict[str, dict[str, str]]:
        return {
            "series of real hearts": dict(HEARTS),
            "phantoms, series of any size and number of frames": dict(PHANTOMS),
            "masks of series, in k-space": dict(PATTERNS),
        }

    def picture_options(self, name: str) -> tuple[str, ...]:
        if name in HEARTS:
            return ()
        return (*_SIZES, "acceleration") if name in PATTERNS else _SIZES

    def save_picture_of(self, name: str, options: Any, path: Path) -> None:
        seconds = 0.2
        if name in PATTERNS:
            frames, size = options.frames or _FRAMES, options.size or _SIZE
            rng = np.random.default_rng(options.seed)
            rate = options.acceleration or ACCELERATION
            images = sampling(name, (frames, size, size), rng, rate).astype(np.float32)
        else:
            images = np.abs(_built_in(name, options).image)
            images = images / images.max()
            seconds = 0.05  # frames of a beat play faster than masks
        save_frames(path, images, seconds=seconds)

    def settings(self, options: Any) -> list[Any]:
        if options.mask is not None:
            return [options]
        return [replace(options, mask=mask) for mask in MASKS]

    def measure(self, given: InputImage, options: Any) -> Problem:
        series = given.image
        mask, setting = _mask(series.shape, options)
        maps = None
        if options.coils:
            maps = coil_maps(options.coils, *series.shape[-2:], seed=options.seed)
            setting += f", {options.coils} coils" if options.coils > 1 else ", 1 coil"
        problem = sampled(given.name, series, mask, maps)
        problem = replace(problem, setting=setting, scale=given.scale, scan=given.scan)
        if options.noise:
            problem = noisy(problem, options.noise, seed=options.seed)
        return problem

    def baselines(self) -> Mapping[str, Method]:
        # View sharing needs frames of k-space, low rank needs several frames, and
        # non-local low rank searches for similar patches in a single image.
        single, moves = non_local.baseline(self), self.moves
        return {
            "zero-filled": zero_filled,
            "view sharing": Baseline(
                view_sharing, applies=lambda p: moves(p) and isinstance(p.A, MRI)
            ),
            "low-rank": Baseline(low_rank, applies=moves),
            "L+S": Baseline(low_rank_plus_sparse, lengthy=True, applies=moves),
            "local low-rank": Baseline(local_low_rank, lengthy=True, applies=moves),
            non_local.NAME: replace(
                single, applies=lambda p: not moves(p) and single.applies(p)
            ),
        }

    def initial_image(self, problem: Problem) -> Any:
        """Return the mean frame of a series that fits the data, once for each frame.

        Starting from the series itself would leave nothing to learn, as would a single
        frame, for which the result is None.
        """
        if len(problem.y) == 1:
            return None
        series = np.asarray(LLS(static=12).begin(problem.single())["x"][0])
        return np.broadcast_to(series.mean(axis=0), series.shape).copy()

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether the network accepts the number of frames."""
        return getattr(recipe, "channels", None) in (None, len(problem.y))

    def weights_for(self, problem: Problem) -> str:
        """Return the weights for series, or for one frame from one or several coils.

        The weights for series also serve for one frame if it is large, or if it has
        several coils and hardly any noise.
        """
        if len(problem.y) > 1 or math.prod(problem.y.shape[-2:]) > _GROUPED:
            return self.kind
        if problem.y.ndim < 4 or problem.y.shape[1] == 1:
            return "frame"
        return "frame-coils" if _outermost(problem) > _CLEAN else self.kind

    def views(self, problem: Problem) -> Iterator[View]:
        """Yield the eight problems mirrored along rows, columns and time.

        Mirroring about the centre (H // 2, W // 2) commutes with the Fourier transform,
        so that images and k-space are mirrored alike.
        """
        A = _mri(problem)
        for axes, back in itertools.product(
            ((), (-2,), (-1,), (-2, -1)), (False, True)
        ):
            move = partial(_mirrored, axes=axes, back=back)
            maps = None if A.maps is None else _mirrored(A.maps, axes)
            fidelity = problem.fidelity.replace_arrays(move)
            y, mri = move(problem.y), MRI(move(A.mask), maps)
            yield replace(problem, y=y, A=mri, fidelity=fidelity, truth=None), move

    def decibels(self, problem: Problem, image: Any) -> float:
        return psnr(np.abs(problem.truth), np.abs(image), peak="max")

    def describe(self, problem: Problem) -> str:
        size = "x".join(map(str, problem.y.shape[-2:]))
        frames, *coils = problem.y.shape[:-2]
        of_coils = f", {coils[0]} coil{'s' if coils[0] > 1 else ''}" if coils else ""
        return f"{frames} frame{'s' if frames > 1 else ''} of {size} pixels{of_coils}"

    def usual_misfit(self, problem: Problem) -> float:
        """Return a bound by the noise of the outer samples of k-space."""
        one = problem.single()
        noise = float(noise_of_kspace(one.y, one.A, np.ones(1, np.float32))[0])
        share = noise * np.count_nonzero(problem.y) ** 0.5 / np.linalg.norm(problem.y)
        return max(10.0, 200 * float(share))

    def save(self, path: Path, image: Any, problem: Problem) -> None:
        save_series(path, image * np.float32(problem.scale), problem.scan)


def _in_the_middle(series: NDArray[Any]) -> float:
    """Return the fraction of the energy in the middle 1/8 of the rows and columns."""
    rows, columns = (middle(n, 2 * (n // 16) + 1) for n in series.shape[-2:])
    inner = np.linalg.norm(series[..., rows, columns])
    return float(inner / np.linalg.norm(series)) ** 2


def _is_spread(kspace: NDArray[Any]) -> bool:
    """Whether the transform is not concentrated, as that of a small object would be."""
    images = np.fft.fftshift(np.fft.fft2(kspace), axes=(-2, -1))
    return _in_the_middle(images) < 1 - _OF_KSPACE


def _mask(
    shape: tuple[int, ...], options: Any, phase_axis: int = -2
) -> tuple[NDArray[np.bool_], str]:
    """Return the mask (T, H, W) that options describe, and its description."""
    pattern = options.mask or "radial"
    if pattern not in PATTERNS:
        axis = -3 if options.time_axis is None else options.time_axis
        mask = mask_of_file(pattern, shape, axis)
        check_centred(mask, "the mask")
        return mask, f"mask {pattern}"
    rate = options.acceleration or ACCELERATION
    T, *sides = shape
    turned = sides if phase_axis == -2 else sides[::-1]
    mask = sampling(pattern, (T, *turned), np.random.default_rng(options.seed), rate)
    setting = pattern if rate == ACCELERATION else f"{pattern}, {rate:g} x"
    if T == 1 and pattern in OF_SERIES:
        setting += " (made for several frames)"
    return mask if phase_axis == -2 else mask.swapaxes(-1, -2), setting


def _built_in(name: str, options: Any) -> InputImage:
    """Return a built-in real series or a phantom."""
    if name in HEARTS:
        return InputImage(name, heart_series(name).astype(np.complex64))
    frames, size = options.frames or _FRAMES, options.size or _SIZE
    phantom = heart(frames, size, size, seed=options.seed, contrast=name)
    return InputImage(f"{name} {options.seed}", phantom.series)


def _mirrored(x: Any, axes: tuple[int, ...], back: bool = False) -> Any:
    """Mirror an array along axes about their centre n // 2; with `back` also in time.

    The axes may have even or odd length.
    """
    x = x[::-1] if back else x
    for axis in axes:
        x = np.flip(x, axis)
        if x.shape[axis] % 2 == 0:
            x = np.roll(x, 1, axis)
    return np.ascontiguousarray(x)


def _outermost(problem: Problem) -> float:
    """Estimate the noise from the outermost samples, relative to the zero-filled image.

    They are mostly noise n, whose median magnitude is sqrt(log(2) E|n|**2).
    """
    size, (H, W) = np.abs(problem.y), problem.y.shape[-2:]
    row, column = np.ogrid[:H, :W]
    radius = np.hypot(row / H - (H // 2) / H, column / W - (W // 2) / W)
    radius = np.where(size > 0, radius, 0.0)
    outer = size[radius > 0.75 * radius.max()]
    peak = np.abs(problem.A.adjoint(problem.y)).max()
    return float(np.median(outer) / (math.sqrt(math.log(2)) * peak)) if peak else 0.0


def _mri(problem: Problem) -> MRI:
    if not isinstance(problem.A, MRI):
        raise TypeError(f"series must be measured by MRI, not {problem.A!r}")
    return problem.A
