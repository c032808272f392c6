"""The class of a task: how its images are read, measured, judged and shown.

The command line, training and evaluation go through the methods of `Task` alone. A
task is named by ``package.module:Class`` in a configuration and by ``--task``, or found
by the entry-point group ``svdinv.tasks``.
"""

from __future__ import annotations

import dataclasses
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
from svdinv.unroll.plugins import class_named
from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.registry import TaskEntry, entries, entry_of_images

if TYPE_CHECKING:
    from svdinv.unroll.formats.scans import Geometry

Arrays: TypeAlias = NDArray[Any]

View: TypeAlias = tuple[Problem, Callable[[Arrays], Arrays]]
"""An equivalent problem, and what turns its image back into that of the first."""

_T = TypeVar("_T")


class Reconstruction(NamedTuple):
    """The image of a method, and the parameters that it chose, such as a weight."""

    image: Arrays
    note: str = ""


Method: TypeAlias = Callable[[Problem], Reconstruction]
"""From a problem of the task to an image, and what was chosen for it."""


def _every(problem: Problem) -> bool:
    """Return True: the condition holds for every problem."""
    return True


def _none(problem: Problem) -> bool:
    """Return False: the condition holds for no problem."""
    return False


@dataclass(frozen=True)
class Baseline:
    """A classical method, with what says when others are compared with it."""

    method: Method
    lengthy: bool = False  # takes more than some seconds: if asked for
    # Whether it is for such a problem, and whether that takes minutes: if named.
    applies: Callable[[Problem], bool] = _every
    slow: Callable[[Problem], bool] = _none

    def __call__(self, problem: Problem) -> Reconstruction:
        """Reconstruct."""
        return self.method(problem)


def best_of(
    score: Callable[[Problem, Arrays], float],
    problem: Problem,
    make: Callable[[_T], Arrays],
    choices: Iterable[_T],
    usual: _T,
    said: str = "{}",
) -> Reconstruction:
    """Return the image nearest to the truth, over a grid of choices.

    `make` computes the image of a choice, such as a weight, and `score` tells how near
    an image comes, as `Task.decibels`. Where the truth is not known, only the image of
    the `usual` choice is made. `said` formats a choice for the note.
    """
    if problem.truth is None:
        return Reconstruction(make(usual), said.format(usual))
    every = ((choice, make(choice)) for choice in choices)
    best, image = max(every, key=lambda pair: score(problem, pair[1]))
    return Reconstruction(image, f"best {said.format(best)}")


def moved_views(
    problem: Problem,
    moves: Iterable[tuple[Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]]],
    operator: Callable[[Callable[[Arrays], Arrays]], Any],
) -> Iterator[View]:
    """Yield equivalent problems whose arrays are moved as their image is.

    Of each pair in `moves` the first moves data and image, the second moves the image
    back; `operator` makes the operator of the moved arrays.
    """
    for move, back in moves:
        y, fidelity = move(problem.y), problem.fidelity.replace_arrays(move)
        view = replace(problem, y=y, A=operator(move), fidelity=fidelity, truth=None)
        yield view, back


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a task: how its images are read and measured.

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
    def of_files(cls) -> list[str]:
        """List those that say how files are read."""
        return [f.name for f in dataclasses.fields(cls) if f.metadata["of_file"]]


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image that is to be measured before it is reconstructed.

    It has been divided by its scale; `scan` is the place of its pixels, where a file
    says it. Raises TypeError if the image is a masked array, whose values would be
    taken as if they were not.
    """

    name: str
    image: Arrays
    scale: float = 1.0
    scan: Geometry | None = None

    def __post_init__(self) -> None:
        """Refuse values that are masked."""
        if isinstance(self.image, np.ma.MaskedArray):
            raise TypeError(
                "image must not be a masked array; give what is sampled as a mask"
            )


class Source(Protocol):
    """Problems to train on, loaded or made."""

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw the items of a step; they depend on nothing but its number."""
        ...

    def validation(self) -> list[Problem]:
        """Return problems that are not trained on, each with its truth."""
        ...


@dataclass(frozen=True)
class Simulated:
    """A source that makes problems when they are needed; subclasses define how.

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
        """Return problems that no step draws."""
        return [self.problem(2**63, i) for i in range(self.task.validation)]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of reconstruction; its fields are the options of training for it.

    Raises ValueError for an option that is out of its range.
    """

    entry: ClassVar[TaskEntry]  # what the command line knows before it is imported
    kind: ClassVar[str]  # these, of tasks without an entry, as of `TaskEntry`
    axes: ClassVar[str]
    channels: ClassVar[int | None] = None
    images: ClassVar[str] = "images"
    dataset: ClassVar[str] = ""
    options: ClassVar[type[Options]]  # how images are read and measured
    # ``metric(truth, image)`` by name; the first is shown first.
    metrics: ClassVar[Mapping[str, Callable[..., float]]]
    # Suffixes of files that `save` writes, the first by default.
    endings: ClassVar[tuple[str, ...]] = (*WRITTEN, ".png")
    # Largest value of an image, or "max", as of `svdinv.unroll.metrics.psnr`.
    peak: ClassVar[float | str] = 1.0
    moving: ClassVar[bool] = False  # whether its images have frames
    seconds: ClassVar[float] = 0.1  # of a frame, in an animation
    has_views: ClassVar[bool] = True  # whether `views` gives equivalent problems
    # That an untrained network sees at its input, unless another is asked for.
    input_noise: ClassVar[float] = 0.03

    def __init_subclass__(cls) -> None:
        """Copy the attributes that the entry declares."""
        if "entry" in cls.__dict__:
            for name in ("kind", "axes", "channels", "images", "dataset"):
                setattr(cls, name, getattr(cls.entry, name))

    @classmethod
    def described(cls) -> TaskEntry:
        """Return the entry, or one made from the class if it has none."""
        entry = cls.__dict__.get("entry")
        if entry is not None:
            return cast(TaskEntry, entry)
        known = dataclasses.fields(cls.options) if hasattr(cls, "options") else ()
        plurals = {f.name: f.metadata.get("plural") for f in known}
        return TaskEntry(
            kind=cls.kind,
            location=f"{cls.__module__}:{cls.__qualname__}",
            axes=cls.axes,
            channels=cls.channels,
            images=cls.images,
            dataset=cls.dataset,
            options=tuple(f.name for f in known if f.name != "seed"),
            plurals={name: plural for name, plural in plurals.items() if plural},
        )

    def __post_init__(self) -> None:
        check_ranges(self)

    # Training.

    def load(self) -> Source:
        """Return the source of training problems; ValueError if data are damaged."""
        raise NotImplementedError

    def origin(self) -> dict[str, str]:
        """Sum up the files that are trained on, by the name of their option."""
        return {}

    # Reading and measuring.

    def files(self, folder: Path) -> list[Path]:
        """List the files of this task in a folder; ValueError if it has none.

        Of a task whose names have a prefix, such as "density:", the pictures with it
        where no file is its own.
        """
        entry = self.described()
        found = [path for path in sorted(folder.iterdir()) if entry.recognises(path)]
        if not found and entry.prefixes:
            prefix = entry.prefixes[0]
            return [Path(f"{prefix}{path}") for path in picture_files(folder)]
        if not found:
            due = ", ".join(entry.suffixes) or entry.inputs.replace(", nor ", " or ")
            looked = f"; looked for {due}" if due else ""
            raise ValueError(f"no {self.images} in {folder}{looked}")
        return found

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        """Name the options of `Options.of_files` that fit a file."""
        return ()

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
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

    def arrays_to_save(self, problem: Problem) -> dict[str, Arrays]:
        """Return the arrays that `read_measured` reads, by name, without the truth."""
        raise NotImplementedError

    def examples(self, options: Any) -> list[InputImage | Problem]:
        """Return images that no shipped weights were trained on, to evaluate with.

        By default all that are built in.
        """
        return [self.read(name, options) for name in self.described().names]

    def built_in(self) -> dict[str, dict[str, str]]:
        """List the built-in data: under headings, names and descriptions.

        Those of images `read` takes; `save_picture_of` takes all.
        """
        entry = self.described()
        return {entry.heading: dict(entry.names)} if entry.names else {}

    def picture_options(self, name: str) -> tuple[str, ...]:
        """Name the options that `save_picture_of` uses for something built in.

        By default those that `read` takes.
        """
        return self.file_options(name)

    def save_picture_of(self, name: str, options: Any, path: Path) -> None:
        """Write a picture, or an animation, of something built in.

        By default of the grey image or frames that `read` returns.
        """
        given: Any = self.read(name, options)
        save_frames(path, given.image, seconds=self.seconds)

    def settings(self, options: Any) -> list[Any]:
        """Return the settings that `svdinv evaluate` compares."""
        return [options]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Measure an image; ValueError if the options do not fit it."""
        raise NotImplementedError

    # Methods.

    def baselines(self) -> Mapping[str, Method]:
        """Return the classical methods by name, the cheapest first.

        One that is not compared with in every case is a `Baseline`.
        """
        raise NotImplementedError

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether a network of this task is meant for such a problem."""
        return True

    def weights_for(self, problem: Problem) -> str:
        """Name the weights of the package that are the best ones for a problem.

        There may be none of that name.
        """
        return self.kind

    def options_without_truth(self, options: Any) -> Any:
        """Return the options for an image that is itself the data, not the truth."""
        return options

    def without_repeats(self, problem: Problem) -> Problem:
        """Leave out what a problem only repeats, as a grey picture its channels.

        By default nothing.
        """
        return problem

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return the standard deviation of the noise in the data that `measure` added.

        0 is for none, None for noise that is not known or is not of one deviation.
        """
        return getattr(options, "noise", None) or 0.0

    def initial_image(self, problem: Problem) -> Arrays | None:
        """Return an image that `svdinv fit` adds the network to, or None."""
        return None

    def views(self, problem: Problem) -> Iterator[View]:
        """Return eight equivalent problems.

        By default the image is mirrored and turned, and measured turned back.
        """
        for turned in turns():
            view = replace(problem, A=problem.A * turned, truth=None)
            yield view, turned.forward

    def tiled(self, problem: Problem) -> bool:
        """Return whether large images may be reconstructed tile by tile."""
        return False

    def part(self, problem: Problem, window: tuple[slice, slice]) -> Problem:
        """Return the problem of a tile, where `tiled`."""
        raise NotImplementedError

    def finished(self, image: Arrays) -> Arrays:
        """Post-process an image before it is judged and shown, such as by clipping."""
        return image

    # Judging and showing.

    def judge(self, problem: Problem, image: Arrays) -> dict[str, float]:
        """Measure how near an image, of the shape of the truth, comes to it.

        Returns the `metrics` by name; none where the truth is not known.
        """
        if problem.truth is None:
            return {}
        truth, image = problem.compared(np.asarray(image))
        truth, image = self.for_display(truth), self.for_display(image)
        return {name: metric(truth, image) for name, metric in self.metrics.items()}

    def decibels(self, problem: Problem, image: Arrays) -> float:
        """Return the figure of merit in dB that validation and searches use.

        By default the PSNR of what is `finished`.
        """
        return psnr(problem.truth, self.finished(image), peak=self.peak)

    def describe(self, problem: Problem) -> str:
        """Describe an image in a few words, such as its size, which is the default."""
        return "x".join(map(str, problem.y.shape[-2:])) + " pixels"

    def for_display(self, image: Arrays) -> Arrays:
        """Convert an image to the layout that pictures and metrics use.

        By default, of a known number of channels, with these behind: three of one.
        """
        if self.channels is None:
            return image
        return np.repeat(np.moveaxis(image, 0, -1), 3 // self.channels, axis=-1)

    def save(self, path: Path, image: Arrays, problem: Problem) -> None:
        """Write a reconstruction, as `for_display` returns it, to a file of `endings`.

        By default as a picture, of a free number of channels with these side by side;
        or as numbers (C, H, W) in the scale of what was read.
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
        """Return whether an image has frames to animate."""
        return self.moving and len(problem.y) > 1

    def save_animation(self, path: Path, truth: Any, entries: Sequence[Any]) -> None:
        """Write an animation that compares them, where one `moves`."""
        panels.save_series_animation(path, truth, entries, seconds=self.seconds)


def task_named(name: str, *, imports: bool = True) -> type[Task]:
    """Import the class of a task, by its kind or as ``package.module:Class``.

    Raises ValueError if there is none or, without `imports`, as for names that come
    from a file of weights, if its module has not been imported before.
    """
    known = entries()
    if name in known:
        return cast(type[Task], known[name].load())
    module, colon, _ = name.partition(":")
    if colon and not imports and module not in sys.modules:
        raise ValueError(
            f"the weights are for {name}: import {module} before, or give --task "
            f"{name}, since no file of weights makes svdinv import anything"
        )
    return class_named(name, Task, dict.fromkeys(known, Task))


def task_of(axes: str | None, channels: int | None = None, name: str = "") -> Task:
    """Return the task whose images, of these axes and channels, a network makes.

    That of the `name` for which its weights were trained, where that is known, or else
    the first that has such images. Raises ValueError if there is none, or the name is
    of a module that has not been imported.
    """
    if name:
        return task_named(name, imports=False)()
    return cast(Task, entry_of_images(axes, channels).load()())


def as_measured(problem: Problem) -> str:
    """Describe data that came measured: whether maps of coils were estimated."""
    known = problem.phase_known  # not that of maps which were estimated
    return "as measured" if known else "as measured, maps estimated"
