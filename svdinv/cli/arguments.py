"""What the commands of the command line share: their parser, and types of arguments."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

from svdinv._missing import command

if TYPE_CHECKING:
    from svdinv.unroll.tasks.task import Options, Task

__all__ = [
    "NETWORKS",
    "Parser",
    "Subparsers",
    "add_computing",
    "add_fields",
    "add_task_options",
    "add_truth",
    "begin",
    "complain",
    "filled",
    "naming",
    "naming_flags",
    "natural",
    "need",
    "not_negative",
    "positive",
    "positive_number",
    "rate",
    "refuse_options",
    "same_file",
    "task_options",
    "task_settings",
    "writable_folder",
]


NETWORKS = ("numpy", "torch", "safetensors", "skimage", "sklearn", "tqdm")
"""Modules that every command with a network needs; two of them bring photographs."""

# Packages that are not called as their modules are.
_PACKAGES = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


class Parser(argparse.ArgumentParser):
    """Argument parser that complains in one line.

    `late` declares the arguments that are dear to import, once this parser is at work.
    """

    late: Callable[[Parser], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if options.get("epilog"):  # which, as the description, is written in lines
            options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*arguments, **options)
        self.set_defaults(parser=self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Declare what is left to declare, then parse."""
        if self.late is not None:
            declare, self.late = self.late, None
            declare(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        complain(f"{self.prog}: {message}")
        self.exit(2)


Subparsers = argparse._SubParsersAction


def complain(message: str) -> None:
    """Print a line on stderr; of several processes that torchrun started, the first."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(" ".join(message.split()), file=sys.stderr)


def need(parser: Parser, modules: Iterable[str], extra: str) -> None:
    """Refuse to go on where modules are missing, which an extra of svdinv installs."""
    missing = [_PACKAGES.get(name, name) for name in modules if not find_spec(name)]
    if missing:
        parser.error(
            f"needs {', '.join(missing)}, not installed here: {command(extra)}"
        )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Declare ``--seed``, ``--threads`` and ``--device`` of a reconstruction."""
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the sampling (default 0)"
    )
    parser.add_argument(
        "--threads",
        type=threads,
        default=None,
        help="threads to compute with (default: those that PyTorch takes)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="where the network computes: cpu, cuda, or auto, a GPU if there is one "
        "(default auto)",
    )


def add_truth(parser: argparse.ArgumentParser) -> None:
    """Declare ``--no-truth``."""
    parser.add_argument(
        "--no-truth",
        action="store_true",
        help="the input is not the truth, such as a picture with noise: no method is "
        "told it, or judged by it",
    )


def begin(arguments: argparse.Namespace) -> None:
    """Begin a reconstruction: see that its packages are there, and set the threads."""
    need(arguments.parser, (*NETWORKS, "matplotlib", "PIL", "threadpoolctl"), "train")

    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)


def add_task_options(parser: Parser, *, several: bool) -> None:
    """Declare the options of all tasks: how their images are read and measured.

    Only when the parser is at work: tasks take long to import. With `several` those
    that have a plural take several values, under that name.
    """
    parser.late = partial(_declare, several=several)


def _declare(parser: Parser, *, several: bool) -> None:
    try:
        from svdinv.unroll.tasks import tasks
    except ImportError:  # what is missing is said by the command
        return
    found: dict[str, tuple[Any, type, dict[str, list[str]]]] = {}
    for cls in tasks().values():
        hints = get_type_hints(cls.options)
        for entry in dataclasses.fields(cls.options):
            if entry.name == "seed":
                continue
            inner = [h for h in get_args(hints[entry.name]) if h is not type(None)]
            _, _, helps = found.setdefault(entry.name, (entry, inner[0], {}))
            helps.setdefault(entry.metadata["help"], []).append(cls.kind)
    for name, (entry, kind, helps) in found.items():
        plural = entry.metadata.get("plural") if several else None
        text = "; ".join(f"{', '.join(k)}: {help}" for help, k in helps.items())
        parser.add_argument(
            f"--{(plural or name).replace('_', '-')}",
            dest=name,
            type=_READERS[kind],
            nargs="+" if plural else None,
            metavar=None if kind is int else name.upper(),
            help=text.replace("%", "%%"),
        )


def add_fields(parser: Parser, cls: type) -> None:
    """Declare the options of a dataclass, its fields that have a line of help."""
    hints = get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        if help := entry.metadata.get("help"):
            kinds = get_args(hints[entry.name])
            kind = kinds[0] if kinds else hints[entry.name]
            parser.add_argument(
                f"--{entry.name}",
                type=_READERS[kind],
                nargs="+" if kinds else None,
                metavar="N" if kind is int else entry.name.upper().removesuffix("S"),
                help=help,
            )


def task_options(arguments: argparse.Namespace, task: Task, what: str) -> Options:
    """Give the options of a task, and refuse those of others by a ValueError.

    `what` is what the options are for, such as "cat.png is a picture".
    """
    (options,) = task_settings(arguments, task, what)
    return options


def task_settings(
    arguments: argparse.Namespace, task: Task, what: str
) -> list[Options]:
    """Give, as `task_options`, one for every combination of several values."""
    from svdinv.unroll.tasks import tasks

    every = {name for cls in tasks().values() for name in cls.options.names()}
    said = {name: getattr(arguments, name, None) for name in sorted(every)}
    said = {name: value for name, value in said.items() if value is not None}
    fields = {f.name: f for f in dataclasses.fields(task.options)}
    lists = {}
    for name, value in said.items():
        if name not in fields:
            flag = _flag(name, isinstance(value, list), task)
            raise ValueError(f"argument {flag}: does not apply: {what}")
        several = value if isinstance(value, list) else [value]
        if len({str(each) for each in several}) < len(several):
            flag = _flag(name, True, task)
            raise ValueError(f"argument {flag}: names one twice")
        lists[name] = several
    settings = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        with naming_flags(arguments, task):
            settings.append(task.options(seed=arguments.seed, **chosen))
    return settings


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Let a ValueError, or that there is no file, begin with its argument's flag."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"argument {flag}: {error}") from error


@contextlib.contextmanager
def naming_flags(arguments: argparse.Namespace, task: Task) -> Iterator[None]:
    """Let a ValueError that begins with the name of an option begin with its flag."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        bare = name.rstrip(":")
        value = getattr(arguments, bare, None)
        if bare not in task.options.names() or value is None:
            raise
        flag = _flag(bare, isinstance(value, list), task)
        raise ValueError(f"argument {flag}: {rest}") from error


def refuse_options(
    arguments: argparse.Namespace, task: Task, why: str, *, but: tuple[str, ...] = ()
) -> None:
    """Refuse, by a ValueError, options of a task that are given, but for some."""
    for name in task.options.names():
        value = getattr(arguments, name)
        if value is not None and name not in but:
            flag = _flag(name, isinstance(value, list), task)
            raise ValueError(f"argument {flag}: does not apply: {why}")


def _flag(name: str, several: bool, task: Task) -> str:
    from svdinv.unroll.tasks import tasks

    plural = None
    for cls in (type(task), *tasks().values()):
        for entry in dataclasses.fields(cls.options):
            if entry.name == name:
                plural = plural or entry.metadata.get("plural")
    return "--" + ((plural if several else None) or name).replace("_", "-")


def filled(text: str) -> str:
    """Read a name; an empty one, as of a variable that is not set, is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def folder(text: str) -> Path:
    """Read a path that is not empty."""
    return Path(filled(text))


def writable_folder(parser: Parser, name: str, folder: Path) -> Path:
    """Make a folder, and refuse to go on where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        parser.error(f"argument {name}: cannot write to {folder}: {error}")
    return folder


def same_file(path: Path, source: str | Path) -> bool:
    """Tell whether what is to be written is what is read."""
    return path.exists() and Path(source).exists() and path.samefile(source)


def _reader(
    kind: type, fits: Callable[[Any], bool] = lambda number: True, due: str = ""
) -> Callable[[str], Any]:
    """Give what reads a number of a kind, and refuses those that do not fit."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            message = f"must be {what}, got {text!r}"
            raise argparse.ArgumentTypeError(message) from None
        if not fits(number):
            raise argparse.ArgumentTypeError(f"{due}, got {text}")
        return number

    return read


seed = _reader(int, lambda n: 0 <= n < 2**63, f"must lie in [0, {2**63 - 1}]")
threads = _reader(int, lambda n: 1 <= n <= 1024, "must lie in [1, 1024]")
natural = _reader(int, lambda n: n >= 0, "must not be negative")
positive = _reader(int, lambda n: n >= 1, "must be at least 1")
# A sampling rate: a patch of 32 x 32 needs some samples.
rate = _reader(float, lambda x: 0.01 <= x <= 0.99, "must lie in [0.01, 0.99]")
positive_number = _reader(
    float, lambda x: 0 < x < math.inf, "must be a positive number"
)
not_negative = _reader(float, lambda x: 0 <= x < math.inf, "must not be negative")

_READERS = {int: _reader(int), float: _reader(float), str: filled}
