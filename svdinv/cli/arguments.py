"""Parser, argument types and input reading that the commands share."""

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
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

from svdinv._missing import command
from svdinv.unroll.plugins import imported_module, naming, near

if TYPE_CHECKING:
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.registry import TaskEntry
    from svdinv.unroll.tasks.task import Options, Task

NETWORKS = ("numpy", "torch", "safetensors", "skimage", "sklearn", "tqdm")
"""Modules that training needs; two of them contain photographs."""

_RECONSTRUCTING = (
    "numpy", "torch", "safetensors", "tqdm", "matplotlib", "PIL", "threadpoolctl",
)  # fmt: skip

# Packages whose names differ from those of their modules.
_PACKAGES = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line error messages.

    `late` is called with the parser and the words of the command line just before
    parsing, to declare arguments that need expensive imports.
    """

    late: Callable[[Parser, list[str]], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if options.get("epilog"):  # it has line breaks, as has the description
            options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*arguments, **options)
        self.set_defaults(parser=self)

    def option(
        self, words: str, help: str, type: Any = None, default: Any = None, **more: Any
    ) -> None:
        """Declare an option by its flag and placeholder, such as "--output DIR"."""
        flag, _, metavar = words.partition(" ")
        more |= {"metavar": metavar or None, "type": type, "default": default}
        self.add_argument(flag, help=help, **more)

    def switch(self, flag: str, help: str) -> None:
        """Declare an option without a value, false by default."""
        self.add_argument(flag, action="store_true", help=help)

    def yes_or_no(self, flag: str, help: str, default: bool | None = None) -> None:
        """Declare an option with a flag for yes and one for no."""
        action = argparse.BooleanOptionalAction
        self.add_argument(flag, action=action, default=default, help=help)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Declare the remaining options, then parse."""
        if self.late is not None:
            declare, self.late = self.late, None
            declare(self, list(args or ()))
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; exit for unknown words, with the option most similar to one."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [f for a in parsed.parser._actions for f in a.option_strings]
            word = unknown[0].partition("=")[0]
            hint = near(word, flags) if word.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        complain(f"{self.prog}: {message}")
        self.exit(2)


Subparsers = argparse._SubParsersAction


def complain(message: str) -> None:
    """Print a message on stderr, only from the first process of torchrun.

    Line breaks are replaced by spaces, except in front of two spaces.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        lines = (" ".join(line.split()) for line in re.split(r"\n(?=  \S)", message))
        print("\n  ".join(lines), file=sys.stderr)


def announce(text: str) -> None:
    """Print text immediately; a closed pipe does not stop the command."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def need(parser: Parser, modules: Iterable[str], extra: str) -> None:
    """Exit with an error if modules are missing, and name the extra with them."""
    missing = [_PACKAGES.get(name, name) for name in modules if not find_spec(name)]
    if missing:
        parser.error(
            f"needs {', '.join(missing)}, not installed here: {command(extra)}"
        )


def add_computing(parser: Parser) -> None:
    """Declare the options of all commands that reconstruct, such as ``--seed``."""
    help = "import a module that registers a network of your own"
    parser.option("--import MODULE", help, _module, action="append")
    parser.option("--seed", "seed of sampling and noise (default 0)", seed, 0)
    parser.option("--threads", "number of threads (default: PyTorch's)", threads)
    parser.option("--device", "cpu, cuda, or auto (default auto)", default="auto")


def begin(arguments: argparse.Namespace) -> None:
    """Check that the packages for reconstruction are installed, and set the threads."""
    need(arguments.parser, _RECONSTRUCTING, "train")

    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)


def add_task_options(parser: Parser, *, several: bool) -> None:
    """Declare ``--task``, and the options of all tasks just before parsing.

    ``TASK --help`` lists them. If `several`, options with a plural take several values,
    under that name.
    """
    parser.late = partial(_declare_tasks, several=several)
    parser.option("--task MODULE:CLASS", "import a task of your own", filled)


def _module(text: str) -> Any:
    """Import a module; raise an error that argparse reports."""
    try:
        return imported_module(filled(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _declare_tasks(parser: Parser, words: list[str], *, several: bool) -> None:
    """Declare the options of all tasks by name, or print the help of one task."""
    asks_for_help = bool({"-h", "--help"} & set(words))
    if asks_for_help and not find_spec("numpy"):
        return
    need(parser, ("numpy",), "train")
    from svdinv.unroll.tasks.registry import entries

    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        location = value if equals else following
        if flag == "--task" and location:
            _add_own_task(parser, location)
            break
    tasks = entries()
    if asks_for_help:
        shown = next((tasks[word] for word in words if word in tasks), None)
        if shown is not None:
            _print_task_help(parser, shown, several)
        _refuse_unknown(parser, words[0], list(tasks))
        parser.add_argument_group(
            "options of a task",
            "  ".join([f"{parser.prog} TASK --help lists them:", *tasks]),
        )
    plurals: dict[str, str] = {}
    for entry in tasks.values():
        plurals |= entry.plurals if several else {}
    for name in dict.fromkeys(n for entry in tasks.values() for n in entry.options):
        parser.add_argument(
            f"--{plurals.get(name, name).replace('_', '-')}",
            dest=name,
            type=filled,
            nargs="+" if name in plurals else None,
            help=argparse.SUPPRESS,
        )


def _refuse_unknown(parser: Parser, word: str, tasks: list[str]) -> None:
    """Exit if the word before ``--help`` is no task, image, weights or file."""
    from svdinv.unroll import pretrained
    from svdinv.unroll.tasks.registry import entry_of_file

    if word.startswith("-") or word in pretrained.names() or Path(word).exists():
        return
    try:
        entry_of_file(word)
    except ValueError:
        hint = near(word, tasks)
        parser.error(f"there is no task {word}{hint}\n  tasks: {', '.join(tasks)}")


def _add_own_task(parser: Parser, name: str) -> None:
    try:
        from svdinv.unroll.tasks import add, task_named
        from svdinv.unroll.tasks.registry import entries

        with naming("argument --task"):
            task = task_named(name)
            # A task that an entry point describes keeps that description.
            known = {entry.location for entry in entries().values()}
            if task.described().location not in known:
                add(task)
    except (ValueError, ImportError) as error:
        parser.error(str(error))


def _print_task_help(parser: Parser, entry: TaskEntry, several: bool) -> NoReturn:
    """Print the options of one task, and exit."""
    task_parser = argparse.ArgumentParser(
        usage=parser.usage,
        description=f"Options for {entry.images} (task {entry.kind}), in addition to "
        f"those of {parser.prog} --help.",
        add_help=False,
    )
    options = getattr(entry.load(), "options", None) if entry.options else None
    for field in dataclasses.fields(options) if options else ():
        plural = field.metadata["plural"] if several else None
        range_ = field.metadata["range"]
        limits = f"; must {range_}" if any(end is not None for end in range_) else ""
        if field.name != "seed":
            task_parser.add_argument(
                f"--{(plural or field.name).replace('_', '-')}",
                nargs="+" if plural else None,
                metavar=field.name.upper(),
                help=(field.metadata["help"] + limits).replace("%", "%%"),
            )
    task_parser.print_help()
    parser.exit()


def task_settings(
    arguments: argparse.Namespace, task: Task, what: str
) -> list[Options]:
    """Return the options of a task for every combination of the values.

    Raises ValueError for options of other tasks; `what` ends its message and describes
    the input, such as "cat.png is a picture".
    """
    from svdinv.unroll.tasks.registry import entries

    names = {name for entry in entries().values() for name in entry.options}
    hints = get_type_hints(task.options)
    lists = {}
    for name in sorted(names):
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
            raise ValueError(f"argument {flag}: a value occurs twice")
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
        field = name.rstrip(":")
        if field not in task.options.names() or getattr(arguments, field, None) is None:
            raise
        flag = _flag(arguments, field)
        raise ValueError(f"argument {flag}: {rest}") from error


def refuse_options(
    arguments: argparse.Namespace, task: Task, why: str, *, but: tuple[str, ...] = ()
) -> None:
    """Raise ValueError if options of a task other than those in `but` are set."""
    for name in task.options.names():
        if getattr(arguments, name) is not None and name not in but:
            flag = _flag(arguments, name)
            raise ValueError(f"argument {flag}: does not apply: {why}")


def _flag(arguments: argparse.Namespace, name: str) -> str:
    """Return the command-line flag of an option, which may be its plural."""
    flag: str = next(
        action.option_strings[0]
        for action in arguments.parser._actions
        if action.dest == name
    )
    return flag


def read_input(
    arguments: argparse.Namespace,
    source: str,
    *,
    check: Callable[[Task, Any, Options], Any] = lambda task, given, options: None,
    truth: bool = True,
) -> tuple[Task, Problem, Options, bool]:
    """Read an input; return task, problem, options and whether it is measured data.

    `check` is called with the task, the image or problem, and the options, before an
    image is measured. If `truth` is False, the problem has no truth, and an image is
    the data. Raises ValueError, naming the argument, also for options of the task that
    do not apply to the input.
    """
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks import task_named
    from svdinv.unroll.tasks.reading import source_of

    asked = task_named(arguments.task).described() if arguments.task else None
    reader = source_of(source, asked)
    task, what = reader.task, f"{source} is one of {reader.entry.images}"
    if asked is not None and asked.kind != task.kind:
        inputs = f": {asked.kind} reads {asked.inputs}" if asked.inputs else ""
        raise ValueError(
            f"argument --task: {source} is not of the kind {asked.kind}, but "
            f"{task.kind}{inputs}"
        )
    need(arguments.parser, reader.entry.needs, "train")
    (options,) = task_settings(arguments, task, what)
    with naming_flags(arguments, task):
        content = reader.read(options)
    check(task, content, options)
    measured = isinstance(content, Problem)
    what = f"{source} is measured data" if measured else what
    refuse_options(arguments, task, what, but=reader.applicable(content))
    if isinstance(content, Problem):
        problem = content
    else:
        options = options if truth else task.options_without_truth(options)
        with naming_flags(arguments, task):
            problem = task.measure(content, options)
    if not truth:
        problem = dataclasses.replace(problem, truth=None)
    return task, problem, options, measured


def check_open(source: str, problem: Problem) -> None:
    """Raise ValueError if the truth is zero, or the data equal it: nothing to do."""
    import numpy as np

    if problem.truth is not None and not np.any(problem.truth):
        raise ValueError(f"argument INPUT: {source} is zero everywhere")
    masked = problem.A.pixel_mask is not None
    if masked and np.array_equal(problem.y, problem.truth):
        raise ValueError(
            f"argument INPUT: {source} is sampled completely and without noise, which "
            "leaves nothing to reconstruct; use --no-truth if it is noisy"
        )


def check_network(
    network: Any,
    task: Task,
    source: str,
    given: Problem,
    argument: str = "--weights",
) -> None:
    """Raise ValueError if a network is for another task or number of channels.

    Channels are the first axis of the data.
    """
    from svdinv.unroll.inference import task_of_network

    trained = task_of_network(network)
    if trained.kind != task.kind:
        raise ValueError(
            f"argument {argument}: these are for {trained.kind}, but {source} is of "
            f"the kind {task.kind}"
        )
    count = len(given.y)
    least = getattr(network.recipe, "least_channels", 1)
    if count < least:
        raise ValueError(
            f"argument {argument}: these are for {least} channels or more, but "
            f"{source} has {count}"
        )
    channels = getattr(network.recipe, "channels", None)
    any_number = getattr(network.recipe, "along_time", False)
    if channels is None or task.channels is not None or any_number:
        return
    if count != channels:
        what = "frame" if task.moving else "channel"
        wanted = f"{channels} {what}{'s' * (channels != 1)}"
        raise ValueError(
            f"argument {argument}: these are for images with {wanted}, but {source} "
            f"has {count}"
        )


def filled(text: str) -> str:
    """Return a name; raise an error if it is empty, as from an unset variable."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def folder(text: str) -> Path:
    """Return a path that is not empty."""
    return Path(filled(text))


def writable_folder(parser: Parser, name: str, folder: Path) -> Path:
    """Make a folder, and exit with an error if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        parser.error(f"argument {name}: cannot write to {folder}: {error}")
    return folder


def is_read(arguments: argparse.Namespace, path: Path, *inputs: str) -> bool:
    """Return whether an output path is the file of an input or of the mask."""
    mask = getattr(arguments, "mask", None)
    files = [Path(f) for f in (*inputs, mask) if f]
    return path.exists() and any(f.exists() and path.samefile(f) for f in files)


def _reader(
    kind: type, fits: Callable[[Any], bool] = lambda number: True, rule: str = ""
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
            raise argparse.ArgumentTypeError(f"{rule}, got {text}")
        return number

    return read


seed = _reader(int, lambda n: 0 <= n < 2**63, f"must lie in [0, {2**63 - 1}]")
threads = _reader(int, lambda n: 1 <= n <= 1024, "must lie in [1, 1024]")
natural = _reader(int, lambda n: n >= 0, "must not be negative")
positive = _reader(int, lambda n: n >= 1, "must be at least 1")
# The lower bound leaves some samples in a patch of 32 x 32.
rate = _reader(float, lambda x: 0.01 <= x <= 0.99, "must lie in [0.01, 0.99]")
positive_number = _reader(
    float, lambda x: 0 < x < math.inf, "must be a positive number"
)
not_negative = _reader(float, lambda x: 0 <= x < math.inf, "must not be negative")

_READERS = {int: _reader(int), float: _reader(float), str: filled}
