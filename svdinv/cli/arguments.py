"""What the commands share: their parser, types of arguments, and reading an input."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, get_args, get_type_hints

from svdinv._missing import command
from svdinv.unroll.plugins import naming, near

if TYPE_CHECKING:
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.registry import TaskEntry
    from svdinv.unroll.tasks.task import Options, Task

NETWORKS = ("numpy", "torch", "safetensors", "skimage", "sklearn", "tqdm")
"""Modules that a training needs; two of them bring photographs."""

_RECONSTRUCTING = (
    "numpy", "torch", "safetensors", "tqdm", "matplotlib", "PIL", "threadpoolctl",
)  # fmt: skip

# Packages that are not called as their modules are.
_PACKAGES = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


class Parser(argparse.ArgumentParser):
    """Argument parser that complains in one line.

    `late` declares arguments that are expensive to import, once this parser is at work;
    it is called with the parser and the words of the command line.
    """

    late: Callable[[Parser, list[str]], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if options.get("epilog"):  # which, as the description, is written in lines
            options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*arguments, **options)
        self.set_defaults(parser=self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Declare the remaining options, then parse."""
        if self.late is not None:
            declare, self.late = self.late, None
            declare(self, list(args or ()))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        complain(f"{self.prog}: {message}")
        self.exit(2)


Subparsers = argparse._SubParsersAction


def complain(message: str) -> None:
    """Print a line on stderr; of several processes that torchrun started, the first.

    Lines of the message that begin with two spaces stay lines.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        lines = (" ".join(line.split()) for line in re.split(r"\n(?=  \S)", message))
        print("\n  ".join(lines), file=sys.stderr)


def need(parser: Parser, modules: Iterable[str], extra: str) -> None:
    """Refuse to go on where modules are missing, which an extra of svdinv installs."""
    missing = [_PACKAGES.get(name, name) for name in modules if not find_spec(name)]
    if missing:
        parser.error(
            f"needs {', '.join(missing)}, not installed here: {command(extra)}"
        )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Declare ``--seed``, ``--threads`` and ``--device`` of a reconstruction."""
    parser.add_argument("--seed", type=seed, default=0, help="of sampling (default 0)")
    parser.add_argument("--threads", type=threads, help="(default: PyTorch's)")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto (default auto)"
    )


def add_truth(parser: argparse.ArgumentParser) -> None:
    """Declare ``--no-truth``."""
    parser.add_argument(
        "--no-truth",
        action="store_true",
        help="the input is not the truth: it has noise",
    )


def begin(arguments: argparse.Namespace) -> None:
    """Begin a reconstruction: check for its packages, and set the threads."""
    need(arguments.parser, _RECONSTRUCTING, "train")

    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)


def add_task_options(parser: Parser, *, several: bool) -> None:
    """Declare ``--task``, and the options of all tasks once the parser is at work.

    They are shown with ``TASK --help``. With `several` those that have a plural take
    several values, under that name.
    """
    parser.late = partial(_declare_tasks, several=several)
    parser.add_argument(
        "--task",
        type=filled,
        metavar="MODULE:CLASS",
        help="a task of your own, which is imported",
    )


def _declare_tasks(parser: Parser, words: list[str], *, several: bool) -> None:
    """Declare the options of all tasks, by their names alone; or show those of one."""
    try:
        from svdinv.unroll.tasks.registry import entries
    except ImportError:  # what is missing is said by the command
        return
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        own = value if equals else following
        if flag == "--task" and own:
            _add_own_task(parser, own)
            break
    known = entries()
    if {"-h", "--help"} & set(words):
        asked = next((known[word] for word in words if word in known), None)
        if asked is not None:
            _show_options(parser, asked, several)
        _refuse_unknown(parser, words[0], list(known))
        parser.add_argument_group(
            "options of a task",
            "  ".join([f"{parser.prog} TASK --help lists them:", *known]),
        )
    plurals: dict[str, str] = {}
    for entry in known.values():
        plurals |= entry.plurals if several else {}
    for name in dict.fromkeys(n for entry in known.values() for n in entry.options):
        parser.add_argument(
            f"--{plurals.get(name, name).replace('_', '-')}",
            dest=name,
            type=filled,
            nargs="+" if name in plurals else None,
            help=argparse.SUPPRESS,
        )


def _refuse_unknown(parser: Parser, word: str, tasks: list[str]) -> None:
    """Refuse a word before ``--help`` that is no task, image, weights or file."""
    from svdinv.unroll import pretrained
    from svdinv.unroll.tasks.registry import entry_of_file

    if word.startswith("-") or word in pretrained.names() or Path(word).exists():
        return
    try:
        entry_of_file(word)
    except ValueError:
        meant = near(word, tasks)
        parser.error(f"there is no task {word}{meant}\n  tasks: {', '.join(tasks)}")


def _add_own_task(parser: Parser, name: str) -> None:
    try:
        from svdinv.unroll.tasks import add, task_named

        with naming("argument --task"):
            add(task_named(name))
    except (ValueError, ImportError) as error:
        parser.error(str(error))


def _show_options(parser: Parser, entry: TaskEntry, several: bool) -> NoReturn:
    """Print what concerns one task, and leave."""
    shown = argparse.ArgumentParser(
        usage=f"{parser.prog} INPUT [options]",
        description=f"Options for {entry.images} (task {entry.kind}), beside those of "
        f"{parser.prog} --help.",
        add_help=False,
    )
    for field in dataclasses.fields(entry.load().options) if entry.options else ():
        plural = field.metadata["plural"] if several else None
        range_ = field.metadata["range"]
        due = f"; must {range_}" if any(end is not None for end in range_) else ""
        if field.name != "seed":
            shown.add_argument(
                f"--{(plural or field.name).replace('_', '-')}",
                nargs="+" if plural else None,
                metavar=field.name.upper(),
                help=(field.metadata["help"] + due).replace("%", "%%"),
            )
    shown.print_help()
    parser.exit()


def task_settings(
    arguments: argparse.Namespace, task: Task, what: str
) -> list[Options]:
    """Return the options of a task, one for every combination of several values.

    Those of other tasks are refused by a ValueError; `what` is what the options are
    for, such as "cat.png is a picture".
    """
    from svdinv.unroll.tasks.registry import entries

    every = {name for entry in entries().values() for name in entry.options}
    hints = get_type_hints(task.options)
    lists = {}
    for name in sorted(every):
        value = getattr(arguments, name, None)
        if value is None:
            continue
        flag = _flag(arguments, name)
        if name not in hints:
            raise ValueError(f"argument {flag}: does not apply: {what}")
        kinds = get_args(hints[name]) or (hints[name],)
        (kind,) = (each for each in kinds if each is not type(None))
        read = _READERS[kind]
        with naming(f"argument {flag}", argparse.ArgumentTypeError):
            lists[name] = list(map(read, value if isinstance(value, list) else [value]))
        if len({str(each) for each in lists[name]}) < len(lists[name]):
            raise ValueError(f"argument {flag}: names one twice")
    settings = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        with naming_flags(arguments, task):
            settings.append(task.options(seed=arguments.seed, **chosen))
    return settings


@contextlib.contextmanager
def naming_flags(arguments: argparse.Namespace, task: Task) -> Iterator[None]:
    """Replace the option name at the start of a ValueError by its flag."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        bare = name.rstrip(":")
        if bare not in task.options.names() or getattr(arguments, bare, None) is None:
            raise
        flag = _flag(arguments, bare)
        raise ValueError(f"argument {flag}: {rest}") from error


def refuse_options(
    arguments: argparse.Namespace, task: Task, why: str, *, but: tuple[str, ...] = ()
) -> None:
    """Raise ValueError for options of a task that are given, except for some."""
    for name in task.options.names():
        if getattr(arguments, name) is not None and name not in but:
            flag = _flag(arguments, name)
            raise ValueError(f"argument {flag}: does not apply: {why}")


def _flag(arguments: argparse.Namespace, name: str) -> str:
    """Return the flag under which a command takes an option: perhaps in the plural."""
    found: str = next(
        action.option_strings[0]
        for action in arguments.parser._actions
        if action.dest == name
    )
    return found


class Input(NamedTuple):
    """An input, read and measured; `is_measured` if it came as measured data."""

    task: Task
    problem: Problem
    options: Options
    is_measured: bool


def read_input(
    arguments: argparse.Namespace,
    source: str,
    *,
    check: Callable[[Task, Any, Options], Any] = lambda task, given, options: None,
    truth: bool = True,
) -> Input:
    """Read an input, and check it and the options of its task against each other.

    `check` is called with the task, what was read, and the options, before it is
    measured; without `truth` what is read is not the truth, or is not to be known. A
    ValueError names the argument.
    """
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks import task_named
    from svdinv.unroll.tasks.reading import source_of

    found = source_of(source)
    task, what = found.task, f"{source} is one of {found.entry.images}"
    if arguments.task is not None:
        own = task_named(arguments.task).kind
        if own != task.kind:
            raise ValueError(
                f"argument --task: {source} is not of the kind {own}, but {task.kind}"
            )
    need(arguments.parser, found.entry.needs, "train")
    (options,) = task_settings(arguments, task, what)
    with naming_flags(arguments, task):
        given = found.read(options)
    check(task, given, options)
    measured = isinstance(given, Problem)
    what = f"{source} is measured already" if measured else what
    refuse_options(arguments, task, what, but=found.applicable(given))
    if isinstance(given, Problem):
        problem = given
    else:
        options = options if truth else task.options_without_truth(options)
        with naming_flags(arguments, task):
            problem = task.measure(given, options)
    if not truth:
        problem = dataclasses.replace(problem, truth=None)
    return Input(task, problem, options, measured)


def check_open(source: str, problem: Problem) -> None:
    """Refuse, by a ValueError, data that are the truth, which is to be found."""
    import numpy as np

    whole = problem.A.pixel_mask is not None
    if whole and np.array_equal(problem.y, problem.truth):
        raise ValueError(
            f"argument INPUT: all of {source} is sampled, without noise, which leaves "
            "nothing to reconstruct; for noise that it has already: --no-truth"
        )


def check_network(
    network: Any, task: Task, source: str, given: Any, argument: str = "--weights"
) -> None:
    """Refuse, by a ValueError, a network for images of another task, or channels."""
    from svdinv.unroll.inference import task_of_network

    own = task_of_network(network)
    if own.kind != task.kind:
        raise ValueError(
            f"argument {argument}: these are for {own.kind}, but {source} is of the "
            f"kind {task.kind}"
        )
    channels = getattr(network.recipe, "channels", None)
    if channels is None or task.channels is not None:
        return
    # They lead the data too.
    found = len(given.y if hasattr(given, "y") else given.image)
    if found != channels:
        raise ValueError(
            f"argument {argument}: these are for images of {channels} channels, but "
            f"{source} has {found}"
        )


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
    """Return whether a path to be written is the file that is read."""
    return path.exists() and Path(source).exists() and path.samefile(source)


def _reader(
    kind: type, fits: Callable[[Any], bool] = lambda number: True, due: str = ""
) -> Callable[[str], Any]:
    """Return a parser for numbers of a type that rejects values out of range."""

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
