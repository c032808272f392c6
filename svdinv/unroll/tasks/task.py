"""Base class of the reconstruction tasks: reading, simulation, metrics and display.

The command line, training and evaluation use only the methods of `Task`. A task is
named as ``package.module:Class`` in a configuration or by ``--task``, or registered in
the entry-point group ``svdinv.tasks``.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
)

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.pictures import picture_files
from svdinv.unroll.display import panels
from svdinv.unroll.display.pictures import contact_sheet, save_frames, save_picture
from svdinv.unroll.formats.table import WRITTEN, ending
from svdinv.unroll.formats.table import save as save_series
from svdinv.unroll.metrics import psnr
from svdinv.unroll.operators.transforms import turns
from svdinv.unroll.options import check_ranges
from svdinv.unroll.options import option as option
from svdinv.unroll.plugins import MethodMissing, class_named
from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.registry import TaskEntry, entries, entry_of_images

if TYPE_CHECKING:
    from svdinv.unroll.formats.scans import Geometry

Arrays: TypeAlias = NDArray[Any]

View: TypeAlias = tuple[Problem, Callable[[Arrays], Arrays]]
"""An equivalent problem, and the map from its image to that of the original."""

_T = TypeVar("_T")


class Reconstruction(NamedTuple):
    """A reconstructed image, and a note on the parameters, such as the weight used."""

    image: Arrays
    note: str = ""


Method: TypeAlias = Callable[[Problem], Reconstruction]
"""A function that reconstructs the image of a problem."""


def _every(problem: Problem) -> bool:
    """Return True: the condition holds for every problem."""
    return True


def _none(problem: Problem) -> bool:
    """Return False: the condition holds for no problem."""
    return False


def zero_filled(problem: Problem) -> Reconstruction:
    """Return A^H y, with zeros where the data are not sampled."""
    return Reconstruction(problem.adjoint())


@dataclass(frozen=True)
class Baseline:
    """A classical method, with the conditions under which evaluations include it."""

    method: Method
    lengthy: bool = False  # takes longer than a few seconds: run only on request
    applies: Callable[[Problem], bool] = _every  # whether it can solve the problem
    slow: Callable[[Problem], bool] = _none  # takes minutes: run only if named

    def __call__(self, problem: Problem) -> Reconstruction:
        """Reconstruct."""
        return self.method(problem)


def best_of(
    score: Callable[[Problem, Arrays], float],
    problem: Problem,
    make: Callable[[_T], Arrays],
    choices: Iterable[_T],
    usual: _T,
    template: str = "{}",
) -> Reconstruction:
    """Return the image with the highest score over a grid of choices.

    `make` computes the image for a choice, such as a weight, and `score` rates it
    against the truth, as `Task.decibels` does. Without a truth, only the image for the
    `usual` choice is computed. `template` formats a choice for the note.
    """
    if problem.truth is None:
        return Reconstruction(make(usual), template.format(usual))
    candidates = ((choice, make(choice)) for choice in choices)
    best, image = max(candidates, key=lambda pair: score(problem, pair[1]))
    return Reconstruction(image, f"best {template.format(best)}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a task for reading images and simulating their measurement.

    Subclasses declare each option with `option`; None means that it is not set.

    Attributes
    ----------
    seed : int
        Seed of the random generator.

    Raises
    ------
    ValueError
        If an option is out of range; the message names it.
    """

    seed: int = option(0, "seed of the sampling", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        check_ranges(self)

    @classmethod
    def names(cls) -> list[str]:
        """List the options other than the seed, which all tasks have."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "seed"]

    @classmethod
    def of_files(cls) -> list[str]:
        """List the options for reading files."""
        return [f.name for f in dataclasses.fields(cls) if f.metadata["of_file"]]


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image whose measurement is simulated before reconstruction.

    `image` has been divided by `scale`; `scan` holds the geometry of its pixels, if the
    file has one. Raises TypeError if the image is a masked array, because its mask
    would be ignored.
    """

    name: str
    image: Arrays
    scale: float = 1.0
    scan: Geometry | None = None

    def __post_init__(self) -> None:
        """Raise TypeError for masked arrays."""
        if isinstance(self.image, np.ma.MaskedArray):
            raise TypeError(
                "image must not be a masked array; pass the samples as a separate mask"
            )


class Source(Protocol):
    """Training problems, loaded from files or simulated."""

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw some items of a training step, determined by seed, step and item."""
        ...

    def validation(self) -> list[Problem]:
        """Return the validation problems, each with its truth."""
        ...


@dataclass(frozen=True, eq=False)
class Simulated:
    """A source that simulates problems on demand; subclasses define `problem`.

    The field `validation` of the task is the number of validation problems.
    """

    task: Any

    def problem(self, *key: int) -> Problem:
        """Draw the problem determined by a key of integers."""
        raise NotImplementedError

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw some items of a training step, as in `Source`."""
        return batch([self.problem(seed, step, item) for item in items])

    def validation(self) -> list[Problem]:
        """Return problems that no training step draws."""
        return [self.problem(2**63, i) for i in range(self.task.validation)]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of reconstruction; its fields are training options.

    Attributes
    ----------
    entry : TaskEntry
        Description that is read without importing the task. From it, the class has
        `kind`, `axes`, `channels`, `images` and `dataset`; without it, it defines them.
    options : type
        Class of its `Options`, for reading and simulating measurements.
    metrics : mapping of str to callable
        ``metric(truth, image)`` by name, in the order of display; larger is better.
    endings : tuple of str
        Suffixes of files that `save` writes, the first by default.
    peak : float, "max" or None
        Largest value of an image, as in `svdinv.unroll.metrics.psnr`.
    moving : bool
        Whether its images have frames, each of `seconds` in an animation.
    seconds : float
    has_views : bool
        Whether `views` yields equivalent problems.
    input_noise : float
        Default noise level at the input of an untrained network.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    entry: ClassVar[TaskEntry]
    kind: ClassVar[str]
    axes: ClassVar[str]
    channels: ClassVar[int | None] = None
    images: ClassVar[str] = "images"
    dataset: ClassVar[str] = ""
    options: ClassVar[type[Options]]
    metrics: ClassVar[Mapping[str, Callable[..., float]]]
    endings: ClassVar[tuple[str, ...]] = (*WRITTEN, ".png")
    peak: ClassVar[float | str | None] = None
    moving: ClassVar[bool] = False
    seconds: ClassVar[float] = 0.1
    has_views: ClassVar[bool] = True
    input_noise: ClassVar[float] = 0.03

    def __init_subclass__(cls) -> None:
        """Copy the attributes that the entry declares."""
        if "entry" in cls.__dict__:
            for name in ("kind", "axes", "channels", "images", "dataset"):
                setattr(cls, name, getattr(cls.entry, name))

    @classmethod
    def described(cls) -> TaskEntry:
        """Return the entry of the task, derived from the class if it has none."""
        entry = cls.__dict__.get("entry")
        if entry is not None:
            return cast(TaskEntry, entry)
        fields = dataclasses.fields(cls.options) if hasattr(cls, "options") else ()
        plurals = {f.name: f.metadata.get("plural") for f in fields}
        return TaskEntry(
            kind=cls.kind,
            location=f"{cls.__module__}:{cls.__qualname__}",
            axes=cls.axes,
            channels=cls.channels,
            images=cls.images,
            dataset=cls.dataset,
            options=tuple(f.name for f in fields if f.name != "seed"),
            plurals={name: plural for name, plural in plurals.items() if plural},
        )

    def __post_init__(self) -> None:
        check_ranges(self)

    def _without(self, method: str, purpose: str) -> MethodMissing:
        """Return the error for a method that a command needs and the task lacks."""
        return MethodMissing(
            f"the task {self.kind} cannot {purpose}: it must define `{method}`"
        )

    # Training.

    def load(self) -> Source:
        """Return the source of training problems; ValueError for invalid data."""
        raise self._without("load", "be trained")

    def origin(self) -> dict[str, str]:
        """Return fingerprints of the training files, by the option that names them."""
        return {}

    # Reading and measuring.

    def files(self, folder: Path) -> list[Path]:
        """List the files of this task in a folder; ValueError if it has none.

        If there are none and the task has names with a prefix, such as "density:", list
        the pictures of the folder, with that prefix in front of each.
        """
        entry = self.described()
        found = [path for path in sorted(folder.iterdir()) if entry.recognises(path)]
        if not found and entry.prefixes:
            prefix = entry.prefixes[0]
            return [Path(f"{prefix}{path}") for path in picture_files(folder)]
        if not found:
            kinds = ", ".join(entry.suffixes) or entry.inputs.replace(", nor ", " or ")
            hint = f"; looked for {kinds}" if kinds else ""
            raise ValueError(f"no {self.images} in {folder}{hint}")
        return found

    def sampling_options(self, problem: Problem) -> tuple[str, ...]:
        """Return the options that select samples of raw data from a scanner."""
        return ()

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        """Return the names in `Options.of_files` that apply to a file."""
        return ()

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Read an image or measured data.

        Raises ValueError, naming the file, if it is missing, damaged or of the wrong
        shape.
        """
        raise self._without("read", "read images")

    def read_measured(self, file: Any) -> Problem:
        """Read measured data from the `Datasets` of an open HDF5 file.

        Raises ValueError if their shape is wrong or they cannot be reconstructed.
        """
        raise self._without("read_measured", "read measured data")

    def arrays_to_save(self, problem: Problem) -> dict[str, Arrays]:
        """Return the arrays that `read_measured` reads, by name, without the truth."""
        raise self._without("arrays_to_save", "save data")

    def examples(self, options: Any) -> list[InputImage | Problem]:
        """Return evaluation images that were not used to train the shipped weights.

        By default these are all built-in images.
        """
        return [self.read(name, options) for name in self.described().names]

    def built_in(self) -> dict[str, dict[str, str]]:
        """Return names and descriptions of the built-in data, grouped by heading.

        `read` accepts the names of images, `save_picture_of` all names.
        """
        entry = self.described()
        return {entry.heading: dict(entry.names)} if entry.names else {}

    def picture_options(self, name: str) -> tuple[str, ...]:
        """Return the names of the options that `save_picture_of` uses.

        By default those that `read` uses.
        """
        return self.file_options(name)

    def save_picture_of(self, name: str, options: Any, path: Path) -> None:
        """Write a picture or an animation of built-in data.

        By default write the grey image or the frames that `read` returns.
        """
        given: Any = self.read(name, options)
        save_frames(path, given.image, seconds=self.seconds)

    def settings(self, options: Any) -> list[Any]:
        """Return the options of each setting that `svdinv evaluate` compares."""
        return [options]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Simulate the measurement of an image; ValueError for unsuitable options."""
        raise self._without("measure", "simulate measurements")

    # Methods.

    def baselines(self) -> Mapping[str, Method]:
        """Return the classical methods by name, the cheapest first.

        Methods that some evaluations leave out are of the class `Baseline`.
        """
        raise self._without("baselines", "be compared")

    @property
    def trained_channels(self) -> int | None:
        """Number of channels of the images to train on, None if it may vary."""
        return self.channels

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether networks of this task with `recipe` suit the problem."""
        return True

    def weights_for(self, problem: Problem) -> str:
        """Return the name of the shipped weights that suit the problem best.

        Weights of that name may not exist; "" if none suit.
        """
        return self.kind

    def options_without_truth(self, options: Any) -> Any:
        """Return the options for an image that is itself the data, not the truth.

        By default raise ValueError: other data are not images.
        """
        raise ValueError(
            f"argument --no-truth: does not apply to {self.images}, of which data are "
            "simulated"
        )

    def without_repeats(self, problem: Problem) -> Problem:
        """Remove redundant data, such as the equal channels of a grey picture.

        By default return the problem unchanged.
        """
        return problem

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return the standard deviation of the noise that `measure` added to the data.

        0 without noise, None if it is unknown or differs between data.
        """
        return getattr(options, "noise", None) or 0.0

    def data_unit(self, problem: Problem) -> float | None:
        """Return the number by which the data of a file were divided.

        None if each value was divided by the standard deviation of its own noise.
        """
        return problem.scale

    def largest(self, problem: Problem) -> float:
        """Return the upper bound of real images in `svdinv fit`, infinite for none.

        By default it is 1.
        """
        return 1.0

    def initial_image(self, problem: Problem) -> Arrays | None:
        """Return an image to which `svdinv fit` adds the network's output, or None."""
        return None

    def views(self, problem: Problem) -> Iterator[View]:
        """Yield eight equivalent problems.

        By default their images are mirrored and rotated, and their operators undo this.
        """
        for turned in turns():
            view = replace(problem, A=problem.A * turned, truth=None)
            yield view, turned.forward

    def tiled(self, problem: Problem) -> bool:
        """Return whether large images may be reconstructed tile by tile."""
        return False

    def part(self, problem: Problem, window: tuple[slice, slice]) -> Problem:
        """Return the problem of one tile, if `tiled`."""
        raise self._without("part", "be cut into tiles")

    def finished(self, image: Arrays) -> Arrays:
        """Post-process a reconstruction, for example by clipping."""
        return image

    def after_network(
        self, problem: Problem, found: Reconstruction, again: Callable[[Problem], Any]
    ) -> Reconstruction:
        """Improve the image that a network found, for example by denoising.

        `again` reconstructs other problems, such as parts of this one, with svdinv's
        weights for them, or if there are none with this network.
        """
        return found

    # Metrics and display.

    def score(self, problem: Problem, image: Arrays) -> dict[str, float]:
        """Compare an image with the truth, which has the same shape.

        Returns the `metrics` by name, or the `misfit` if the problem has no truth.
        """
        if problem.truth is None:
            return self.misfit(problem, image)
        truth, image = problem.compared(np.asarray(image))
        truth, image = self.for_display(truth), self.for_display(image)
        return {name: metric(truth, image) for name, metric in self.metrics.items()}

    def misfit(self, problem: Problem, image: Arrays) -> dict[str, float]:
        """Compare the data of an image with the measured ones.

        Returns ``|A x - y| / |y|`` of data whose weight is not 0, in percent, by the
        name of its unit; a task may return another measure, or none.
        """
        measured = problem.sampled_mask()
        y = measured * problem.y
        difference = np.linalg.norm(measured * problem.A(np.asarray(image)) - y)
        return {"misfit / %": 100 * float(difference / (np.linalg.norm(y) or 1.0))}

    def usual_misfit(self, problem: Problem) -> float:
        """Return what the least `misfit` of several images is below, if A is right."""
        return math.inf

    def decibels(self, problem: Problem, image: Arrays) -> float:
        """Return the figure of merit in dB for validation and parameter searches.

        By default the PSNR of the `finished` image. Raises ValueError without a truth.
        """
        if problem.truth is None:
            raise ValueError(f"{problem.name or 'the problem'} has no truth")
        return psnr(problem.truth, self.finished(image), peak=self.peak)

    def describe(self, problem: Problem) -> str:
        """Describe the image in a few words, by default by its size."""
        return "x".join(map(str, problem.adjoint().shape[-2:])) + " pixels"

    def for_display(self, image: Arrays) -> Arrays:
        """Convert an image to the layout that pictures and metrics use.

        By default, if the task fixes the number of channels, move them to the last axis
        and repeat a single channel three times.
        """
        if self.channels is None:
            return image
        return np.repeat(np.moveaxis(image, 0, -1), max(3 // self.channels, 1), axis=-1)

    def save(self, path: Path, image: Arrays, problem: Problem) -> None:
        """Write the image that `for_display` returns to a file with one of `endings`.

        By default, .png files are pictures, with channels side by side if their number
        is free; other files hold the array (C, H, W), times the scale of the problem.
        """
        suffix, free = ending(path, self.endings), self.channels is None
        if suffix != ".png":
            numbers = image
            if not free:
                numbers = np.moveaxis(image[..., : self.channels], -1, 0)
            save_series(path, numbers * np.float32(problem.scale))
        elif free:
            save_picture(path, contact_sheet(image / max(float(image.max()), 1e-30)))
        else:
            save_picture(path, image)

    def save_panel(
        self, path: Path, truth: Any, entries: Sequence[Any], *, title: str
    ) -> None:
        """Write a picture that compares reconstructions."""
        save = panels.save_series_panel if self.moving else panels.save_panel
        save(path, truth, entries, title=title)

    def moves(self, problem: Problem) -> bool:
        """Return whether the image has several frames to animate."""
        return self.moving and len(problem.y) > 1

    def save_animation(self, path: Path, truth: Any, entries: Sequence[Any]) -> None:
        """Write an animation that compares reconstructions with several frames."""
        panels.save_series_animation(path, truth, entries, seconds=self.seconds)


def task_named(name: str, *, imports: bool = True) -> type[Task]:
    """Import the class of a task, by its kind or as ``package.module:Class``.

    Raises ValueError if there is no such task or, if `imports` is False, its module has
    not been imported yet; pass False for names from files of weights.
    """
    tasks = entries()
    if name in tasks:
        return cast(type[Task], tasks[name].load())
    module, colon, _ = name.partition(":")
    if colon and not imports and module not in sys.modules:
        raise ValueError(
            f"the weights are for {name}: import {module} before, or give --task "
            f"{name}, since svdinv imports no module named by a file of weights"
        )
    found = class_named(name, Task, dict.fromkeys(tasks, Task))
    if not hasattr(found, "kind"):
        raise ValueError(f"{name} must define kind, its name, or a TaskEntry as entry")
    return found


def task_of(axes: str | None, channels: int | None = None, name: str = "") -> Task:
    """Return the task of a network whose images have these axes and channels.

    `name` is the task that its weights were trained for; if empty, the first task with
    such images is used. Raises ValueError if there is none, or the module in `name` has
    not been imported.
    """
    if name:
        return task_named(name, imports=False)()
    return cast(Task, entry_of_images(axes, channels).load()())


def as_measured(problem: Problem) -> str:
    """Describe measured data, and whether only magnitudes are compared.

    The phase is unknown if coil maps were estimated or the truth has no phase.
    """
    return "as measured" if problem.phase_known else "as measured, phase unknown"
