"""What a task is: everything about what is reconstructed, from what.

The command line, training and evaluation go through the methods of `Task` alone. A new
task is one file with one subclass: named in a configuration as ``package.module:Class``
it needs no change here, and with `register` the command line knows it as well.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.display import panels
from svdinv.unroll.display.pictures import contact_sheet, save_frames, save_picture
from svdinv.unroll.formats.table import WRITERS, ending
from svdinv.unroll.metrics import psnr
from svdinv.unroll.operators.transforms import turns
from svdinv.unroll.plugins import imported
from svdinv.unroll.problem import Problem, batch

__all__ = [
    "Effort",
    "Estimate",
    "Given",
    "Method",
    "Options",
    "Simulated",
    "Source",
    "Task",
    "View",
    "as_measured",
    "best_of",
    "named",
    "option",
    "recognise",
    "register",
    "task_of",
    "tasks",
]

Arrays: TypeAlias = NDArray[Any]

View: TypeAlias = tuple[Problem, Callable[[Arrays], Arrays]]
"""An equivalent problem, and what turns its image back into that of the first."""

_T = TypeVar("_T")


class Estimate(NamedTuple):
    """What a method makes of a problem: an image, and what it chose, as a weight."""

    image: Arrays
    note: str = ""


class Effort(NamedTuple):
    """What tells how long a reconstruction will take.

    Seconds for all classical methods, roughly; a small problem of the same kind, to
    time a network on; and how many times as much work the whole is.
    """

    classical: float
    small: Problem
    times: float


Method: TypeAlias = Callable[[Problem], Estimate]
"""From a problem of the task to an image, and what was chosen for it."""


def best_of(
    task: Task,
    problem: Problem,
    make: Callable[[_T], Arrays],
    choices: Iterable[_T],
    usual: _T,
    said: str = "{}",
) -> Estimate:
    """Take of several images the one that comes nearest to the truth.

    `make` gives the image of a choice, such as a weight. How near it comes, the task
    tells by its `decibels`. Where the truth is not known, only the image of the `usual`
    choice is made. `said` formats a choice for the note.
    """
    if problem.truth is None:
        return Estimate(make(usual), said.format(usual))
    found = {choice: make(choice) for choice in choices}
    best = max(found, key=lambda choice: task.decibels(problem, found[choice]))
    return Estimate(found[best], f"best {said.format(best)}")


def option(
    default: _T,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    plural: str | None = None,
    reads: bool = False,
) -> _T:
    """Declare an option of a configuration or of the command line, with a line of help.

    `low` and `high` are the range of a number, or of each of several, both ends
    included. `plural` is what ``svdinv evaluate`` calls it, which takes several values.
    `reads` tells whether it says how a file is read, not how an image is measured.
    Gives a dataclass field, which type checkers take for the default.
    """
    metadata = {"help": help, "low": low, "high": high, "plural": plural}
    return dataclasses.field(default=default, metadata=metadata | {"reads": reads})


def check_ranges(options: Any) -> None:
    """Check the numbers of a dataclass against the ranges of its options.

    Raises ValueError for one that is out of its range, TypeError for one value where
    there should be several; the message names the option.
    """
    for entry in dataclasses.fields(options):
        low, high = entry.metadata.get("low"), entry.metadata.get("high")
        value = getattr(options, entry.name)
        several = isinstance(value, tuple | list)
        if isinstance(entry.default, tuple) and not several:
            raise TypeError(f"{entry.name} must be a tuple, got {value!r}")
        every = value if several else (value,)
        for each in every:
            if isinstance(each, bool) or not isinstance(each, int | float):
                continue
            if (low is None or each >= low) and (high is None or each <= high):
                continue
            if high is None:
                due = f"must be at least {low:g}"
            elif low is None:
                due = f"must be at most {high:g}"
            else:
                due = f"must lie in [{low:g}, {high:g}]"
            raise ValueError(f"{entry.name} {due}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How images of a task are read and measured, as the command line takes it.

    Subclasses declare each as an `option`; None stands for what is not said.

    Attributes
    ----------
    seed : int
        Draws whatever is random.

    Raises
    ------
    ValueError
        If an option is out of its range, which is named.
    """

    seed: int = option(0, "seed of the sampling", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        check_ranges(self)

    @classmethod
    def names(cls) -> list[str]:
        """List the options but for the seed, which all tasks have."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "seed"]

    @classmethod
    def reading(cls) -> list[str]:
        """List those that say how files are read."""
        return [f.name for f in dataclasses.fields(cls) if f.metadata["reads"]]


@dataclass(frozen=True, eq=False)
class Given:
    """An image that is to be measured before it is reconstructed.

    It has been divided by its scale; the note is as that of `Problem`. Raises TypeError
    if the image is a masked array, whose values would be taken as if they were not.
    """

    name: str
    image: Arrays
    scale: float = 1.0
    note: Any = None

    def __post_init__(self) -> None:
        """Refuse values that are masked."""
        if isinstance(self.image, np.ma.MaskedArray):
            raise TypeError(
                "image must not be a masked array; give what is sampled as a mask"
            )


class Source(Protocol):
    """Problems to train on, loaded or made."""

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw items of a step: the same whoever asks, and whatever came before."""
        ...

    def validation(self) -> list[Problem]:
        """Give problems that are not trained on, each with its truth."""
        ...


@dataclass(frozen=True)
class Simulated:
    """A source of problems that are made as they are asked for; subclasses say how.

    The task has the number of problems for validation, `validation`.
    """

    task: Any

    def problem(self, *key: int) -> Problem:
        """Draw one: the same of the same numbers."""
        raise NotImplementedError

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw items of a step, as of `Source`."""
        return batch([self.problem(seed, step, item) for item in items])

    def validation(self) -> list[Problem]:
        """Give problems that no step draws."""
        return [self.problem(2**63, i) for i in range(self.task.validation)]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of reconstruction; its fields are the options of training for it.

    Raises ValueError for an option that is out of its range.
    """

    kind: ClassVar[str]  # its name, in configurations and on the command line
    axes: ClassVar[str]  # of its images, as of a recipe
    channels: ClassVar[int | None] = None  # of its images, if their number is fixed
    images: ClassVar[str]  # what its images are called, in messages
    reads: ClassVar[str]  # what it reads, in messages
    sampled: ClassVar[str]  # name of the data in measured HDF5 files
    options: ClassVar[type[Options]]  # how images are read and measured
    # ``metric(truth, image)`` by name; the first is shown first.
    metrics: ClassVar[Mapping[str, Callable[..., float]]]
    # Suffixes of files that `save` writes, the first by default.
    endings: ClassVar[tuple[str, ...]] = (*WRITERS, ".png")
    # Largest value of an image, or "max", as of `svdinv.unroll.metrics.psnr`.
    peak: ClassVar[float | str] = 1.0
    # Classical methods that take more than some seconds: compared with if asked for.
    lengthy: ClassVar[tuple[str, ...]] = ()
    moving: ClassVar[bool] = False  # whether its images have frames
    seconds: ClassVar[float] = 0.1  # of a frame, in an animation
    has_views: ClassVar[bool] = True  # whether `views` gives equivalent problems
    # That an untrained network sees at its input, unless another is asked for.
    input_noise: ClassVar[float] = 0.03

    def __post_init__(self) -> None:
        check_ranges(self)

    # Training.

    def load(self) -> Source:
        """Give the problems to train on; ValueError if data are missing or damaged."""
        raise NotImplementedError

    def origin(self) -> dict[str, str]:
        """Sum up the files that are trained on, by the name of their option."""
        return {}

    # Reading and measuring.

    def recognises(self, path: Path) -> bool:
        """Tell whether a file, or a name of something built in, is of this task."""
        raise NotImplementedError

    def files(self, folder: Path) -> list[Path]:
        """List the files of this task in a folder; ValueError if there are none."""
        raise NotImplementedError

    def takes(self, source: str | Path) -> tuple[str, ...]:
        """Name the options of `Options.reading` that fit a file."""
        return ()

    def read(self, source: str | Path, options: Any) -> Given | Problem:
        """Read an image, or what was measured of one.

        Raises ValueError, naming the file, if it is missing, damaged or of the wrong
        shape.
        """
        raise NotImplementedError

    def read_measured(self, file: Any) -> Problem:
        """Read measured data from the `Datasets` of an open HDF5 file.

        Raises ValueError if they are of the wrong shape, or cannot be reconstructed.
        """
        raise NotImplementedError

    def measured(self, problem: Problem) -> dict[str, Arrays]:
        """Give the arrays that `read_measured` reads, by name, but for the truth."""
        raise NotImplementedError

    def examples(self, options: Any) -> list[Given]:
        """Give images that no shipped weights were trained on, to evaluate with."""
        raise NotImplementedError

    def built_in(self) -> dict[str, dict[str, str]]:
        """Give what comes with svdinv: under headings, names and what they are.

        Those of images `read` takes; `show` takes all.
        """
        raise NotImplementedError

    def shows(self, name: str) -> tuple[str, ...]:
        """Name the options that `show` takes for something built in.

        By default those that `read` takes.
        """
        return self.takes(name)

    def show(self, name: str, options: Any, path: Path) -> None:
        """Write a picture, or an animation, of something built in.

        By default of the grey image or frames that `read` gives.
        """
        given: Any = self.read(name, options)
        save_frames(path, given.image, seconds=self.seconds)

    def settings(self, options: Any) -> list[Any]:
        """Give what `svdinv evaluate` compares: several of `options`."""
        return [options]

    def measure(self, given: Given, options: Any) -> Problem:
        """Measure an image; ValueError if the options do not fit it."""
        raise NotImplementedError

    # Methods.

    def baselines(self) -> Mapping[str, Method]:
        """Give the classical methods by name, the cheapest first."""
        raise NotImplementedError

    def suits(self, method: str, problem: Problem) -> bool:
        """Tell whether a problem is one that a classical method is made for."""
        return True

    def slow(self, method: str, problem: Problem) -> bool:
        """Tell whether a classical method takes so long that it has to be asked for."""
        return False

    def learned(self, problem: Problem) -> bool:
        """Tell whether a problem is one that networks of this task are trained for."""
        return True

    def untrue(self, options: Any) -> Any:
        """Give the options of an image that is no truth, but data: by default them."""
        return options

    def plain(self, problem: Problem) -> Problem:
        """Leave out what a problem only repeats, as a grey picture its channels.

        By default nothing.
        """
        return problem

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Give the standard deviation of the noise in the data that `measure` added.

        0 is for none, None for noise that is not known or is not of one deviation.
        """
        return getattr(options, "noise", None) or 0.0

    def begun(self, problem: Problem) -> Arrays | None:
        """Give an image for `svdinv fit` to begin with, or None for nothing."""
        return None

    def views(self, problem: Problem) -> Iterator[View]:
        """Give eight equivalent problems.

        By default the image is mirrored and turned, and measured turned back.
        """
        for turned in turns():
            view = replace(problem, A=problem.A * turned, truth=None)
            yield view, turned.forward

    def tiled(self, problem: Problem) -> bool:
        """Tell whether large images may be reconstructed tile by tile."""
        return False

    def part(self, problem: Problem, window: tuple[slice, slice]) -> Problem:
        """Give the problem of a tile, where `tiled`."""
        raise NotImplementedError

    def memory(self, given: Given | Problem, options: Any) -> float:
        """Give the bytes that a reconstruction will take; 0 if nobody knows."""
        return 0.0

    def effort(self, problem: Problem, asked: str = "") -> Effort | None:
        """Tell how long a reconstruction will take, if that is known.

        `asked` is a classical method that is applied even if it is `slow`.
        """
        return None

    def finished(self, image: Arrays) -> Arrays:
        """Give an image as it is judged and shown, such as clipped."""
        return image

    # Judging and showing.

    def judge(self, problem: Problem, image: Arrays) -> dict[str, float]:
        """Measure how near an image, of the shape of the truth, comes to it.

        Gives the `metrics` by name; none where the truth is not known.
        """
        if problem.truth is None:
            return {}
        truth, image = problem.compared(np.asarray(image))
        truth, image = self.shown(truth), self.shown(image)
        return {name: metric(truth, image) for name, metric in self.metrics.items()}

    def decibels(self, problem: Problem, image: Arrays) -> float:
        """Give the number in dB that a training is watched by.

        By default the PSNR of what is `finished`.
        """
        return psnr(problem.truth, self.finished(image), peak=self.peak)

    def describe(self, problem: Problem) -> str:
        """Say what an image is, such as its size."""
        raise NotImplementedError

    def shown(self, image: Arrays) -> Arrays:
        """Give an image as pictures of it take it.

        By default, of a known number of channels, with these behind: three of one.
        """
        if self.channels is None:
            return image
        return np.repeat(np.moveaxis(image, 0, -1), 3 // self.channels, axis=-1)

    def save(self, path: Path, image: Arrays, problem: Problem) -> None:
        """Write a reconstruction, as `shown` gives it, to a file of `endings`.

        By default as a picture, of a free number of channels with these side by side;
        or as numbers (C, H, W) in the scale of what was read.
        """
        suffix, free = ending(path, self.endings), self.channels is None
        if suffix != ".png":
            numbers = image
            if not free:
                numbers = np.moveaxis(image[..., : self.channels], -1, 0)
            WRITERS[suffix](path, numbers * np.float32(problem.scale), None)
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
        """Tell whether an animation of an image is worth while."""
        return self.moving and len(problem.y) > 1

    def save_animation(self, path: Path, truth: Any, entries: Sequence[Any]) -> None:
        """Write an animation that compares them, where one `moves`."""
        panels.save_series_animation(path, truth, entries, seconds=self.seconds)


_MODULES = (
    "colour.task",
    "cine.task",
    "tomography.ct",
    "impedance.eit",
    "tomography.pet",
    "tomography.spectral",
)
_TASKS: dict[str, type[Task]] = {}

_Class = TypeVar("_Class", bound=type[Task])


def register(cls: _Class) -> _Class:
    """Let the command line know a task, a frozen dataclass, by its `kind`."""
    _TASKS[cls.kind] = cls
    return cls


def tasks() -> dict[str, type[Task]]:
    """Give the tasks that are registered, by name."""
    # They register themselves as they are imported.
    for module in _MODULES:
        importlib.import_module(f"svdinv.unroll.tasks.{module}")
    return dict(_TASKS)


def named(name: str, base: type, known: Mapping[str, type]) -> type:
    """Find a class by its name, or import it as ``package.module:Class``.

    Raises ValueError if there is none, or it is no subclass of `base`.
    """
    if name in known:
        return known[name]
    if ":" not in name:
        raise ValueError(
            f"must be one of {sorted(known)}, or package.module:Class, got {name!r}"
        )
    found = imported(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name} is no {base.__name__}")
    return found


def task_of(axes: str | None, channels: int | None = None, name: str = "") -> Task:
    """Give the task whose images, of these axes and channels, a network makes.

    That of the `name` for which its weights were trained, where that is known, or else
    the first that has such images. Raises ValueError if there is none, or the name is
    of a module that has not been imported.
    """
    module, colon, _ = name.partition(":")
    if colon and module not in sys.modules:
        # The name comes from a file of weights, which must not run code.
        raise ValueError(
            f"the weights are for {name}: import {module} before, since no file of "
            "weights makes svdinv do so"
        )
    if name:
        return cast(Task, named(name, Task, tasks())())
    for cls in tasks().values():
        if cls.axes == axes and channels in (None, cls.channels):
            return cls()
    kinds = " or ".join(cls.images for cls in tasks().values())
    raise ValueError(f"a network of {kinds} is needed, not of images ({axes})")


def as_measured(problem: Problem) -> str:
    """Say that data came as they were measured, and what of coils was estimated."""
    known = problem.phase_known  # not that of maps which were estimated
    return "as measured" if known else "as measured, maps estimated"


def recognise(source: str | Path) -> Task:
    """Tell which task a file is of, or the name of something built in.

    The last registered that recognises it; ValueError if none does.
    """
    # A task that knows its files by what is in them comes before one that takes all
    # of a suffix, and one of the user's own before all others.
    for cls in reversed(tasks().values()):
        if cls().recognises(Path(source)):
            return cls()
    if Path(source).is_dir():
        raise ValueError(f"{source} is a folder, not a file")
    what = ", nor ".join(cls.reads for cls in tasks().values())
    raise ValueError(f"{source} is neither {what}")
