"""``svdinv data``: what the other commands can use, shown and written to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    Parser,
    Subparsers,
    add_task_options,
    filled,
    folder,
    naming_flags,
    need,
    read_input,
    refuse_options,
    same_file,
    seed,
    task_settings,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.unroll.tasks.task import Task

_PICTURES = ("numpy", "PIL", "skimage", "sklearn")
_FILES = ("numpy", "h5py")

_EPILOG = """\
examples:
  svdinv data list
  svdinv data show chelsea --output chelsea.png
  svdinv data show cine --output heart.gif
  svdinv data inspect scan.h5
  svdinv data inspect dicom/
  svdinv data write cine --coils 4 --mask vista --output heart.h5
  svdinv data write scan.mat --time-axis 2 --output scan.h5
  svdinv data write coffee --rate 0.1 --output coffee.h5
"""

_WRITTEN = """\
In the file (HDF5): the measured data, 0 where not sampled, what measured them, and the
image itself as truth, without --no-truth; as attributes kind, the task, the options and
the version of svdinv.

  kind = "colour"   samples  float32 (C, H, W), values in [0, 1]
                    mask     bool (C, H, W), true where sampled
  kind = "cine"     kspace   complex64 (T, H, W), or (T, C, H, W) with --coils; the zero
                             frequency is at (H // 2, W // 2)
                    mask     bool (T, H, W), true where sampled
                    maps     complex64 (C, H, W), sensitivities of the coils
  kind = "ct", "pet", "eit"  as 'svdinv data inspect FILE' lists, and the pages of the
                             documentation on tomography say

examples:
  svdinv data write cine --output heart.h5
  svdinv data write perfusion --coils 8 --noise 0.01 --output p.h5
  svdinv data write scan.npy --mask radial --output scan.h5
  svdinv data write holiday.jpg --crop 256 --rate 0.3 --output holiday.h5
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    data = commands.add_parser(
        "data",
        help=help,
        description=(
            "What the other commands can use: photographs that come with\n"
            "scikit-image and scikit-learn, hearts and phantoms of them, and sampling\n"
            "masks. Lists them, shows them as pictures, says what is in a file, and\n"
            "writes undersampled data to files."
        ),
        epilog=_EPILOG,
    )
    data.set_defaults(run=run, perform=None)
    actions = data.add_subparsers(
        dest="action", title="subcommands", metavar="subcommand", parser_class=Parser
    )
    listing = actions.add_parser(
        "list",
        help="list all there is",
        description="List what comes with svdinv: images and sampling masks.",
    )
    listing.set_defaults(perform=_list)
    show = actions.add_parser(
        "show",
        help="write a picture of one of them",
        description=(
            "Write an image or a mask as a picture: a series as an animation if the "
            "file ends in .gif, as a sheet of its frames if it ends in .png. Masks are "
            "white where they sample."
        ),
    )
    show.set_defaults(perform=_show)
    show.add_argument("name", metavar="NAME", help="a name of 'svdinv data list'")
    _add_output(show, "a .png or .gif file")
    add_task_options(show, several=False)
    inspect = actions.add_parser(
        "inspect",
        help="say what is in a file, and which options fit",
        description="Say what is in a file, and which options fit.",
    )
    inspect.set_defaults(perform=_inspect)
    inspect.add_argument(
        "file", type=filled, metavar="FILE", help="a file, or a built-in name"
    )
    _add_seed(inspect)
    add_task_options(inspect, several=False)
    write = actions.add_parser(
        "write",
        help="write undersampled data to an HDF5 file",
        description=(
            "Measure an image, such as a photograph, a phantom of the heart or\n"
            "a file of your own, and write the data."
        ),
        epilog=_WRITTEN,
    )
    write.set_defaults(perform=_write)
    write.add_argument(
        "source",
        type=filled,
        metavar="INPUT",
        help="a name of 'svdinv data list', or a file",
    )
    _add_output(write, "file to write, .h5")
    add_task_options(write, several=False)
    write.add_argument(
        "--no-truth", action="store_true", help="leave the truth out of the file"
    )


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--output", type=folder, required=True, metavar="FILE", help=what
    )
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=seed, default=0, help="draws what is random (default 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the subcommand says."""
    if arguments.perform is None:
        arguments.parser.error("what to do? list, show, inspect or write")
    try:
        arguments.perform(arguments)
    except (ValueError, ImportError) as error:
        arguments.parser.error(str(error))
    return 0


def _list(arguments: argparse.Namespace) -> None:
    need(arguments.parser, _PICTURES, "train")

    from svdinv.unroll.tasks.registry import entries

    blocks = []
    for entry in entries().values():
        for heading, names in entry.load()().built_in().items():
            lines = [f"  {name:<22} {what}" for name, what in names.items()]
            blocks.append("\n".join([f"{heading}:", *lines]))
    print("\n\n".join(blocks))


def _show(arguments: argparse.Namespace) -> None:
    parser, name = arguments.parser, arguments.name
    need(parser, _PICTURES, "train")

    from svdinv.unroll.tasks.registry import TaskEntry, entries

    known: dict[str, TaskEntry] = {}
    for entry in entries().values():
        known |= dict.fromkeys((*entry.names, *entry.pictures), entry)
    if name not in known:
        parser.error(
            f"argument NAME: there is no {name!r}; there are {', '.join(known)}"
        )
    task: Task = known[name].load()()
    suffixes = (".png", ".gif") if task.moving else (".png",)
    if arguments.output.suffix.lower() not in suffixes:
        parser.error(
            f"argument --output: {name} is written to {' or '.join(suffixes)}, got "
            f"{arguments.output}"
        )
    (options,) = task_settings(arguments, task, f"{name} is one of {task.images}")
    refuse_options(
        arguments, task, f"{name} is shown as it is", but=task.picture_options(name)
    )
    writable_folder(parser, "--output", arguments.output.parent)
    with naming_flags(arguments, task):
        task.save_picture_of(name, options, arguments.output)


def _inspect(arguments: argparse.Namespace) -> None:
    need(arguments.parser, ("numpy",), "train")

    from svdinv.unroll.formats.scans import SeveralSlices
    from svdinv.unroll.formats.table import format_of
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.reading import source_of

    source = arguments.file
    found = source_of(source)
    task = found.task
    format = None if found.measured else format_of(source)
    head = f"{source}: {f'{format.name}, ' if format else ''}task {task.kind}, "
    what = f"{source} is one of {task.images}"
    (options,) = task_settings(arguments, task, what)
    try:
        with naming_flags(arguments, task):
            given = found.read(options)
    except SeveralSlices as several:
        print(f"{head}{len(several.slices)} slices")
        for number, what in enumerate(several.slices):
            print(f"  {number:<10} {what}".rstrip())
        print("  options    --slice, to choose one")
        return
    fit = found.applicable(given)
    if isinstance(given, Problem):
        refuse_options(arguments, task, f"{source} is measured already", but=fit)
    names = " ".join(f"--{name.replace('_', '-')}" for name in fit)
    print(f"{head}one of {task.images}")
    if given.scan is not None:
        print(f"  geometry   {given.scan}")
    if isinstance(given, Problem):
        print(f"  {task.describe(given)}, measured: {_shape(given.y)}")
        for name, array in task.arrays_to_save(given).items():
            share = f", {array.mean():.1%} sampled" if array.dtype == bool else ""
            print(f"  {name:<10} {array.dtype} {_shape(array)}{share}")
        print(f"  truth      {'known' if given.truth is not None else 'not known'}")
        print(f"  options    {names or 'none'}, as it is measured already")
        return
    image = given.image
    unit = f", divided by {given.scale:g}" if given.scale != 1 else ""
    print(f"  image      {image.dtype} {_shape(image)}{unit}")
    print(f"  options    {names}")


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape))


def _write(arguments: argparse.Namespace) -> None:
    parser, source = arguments.parser, arguments.source
    need(parser, _FILES, "mri")

    from svdinv.unroll.tasks.measured_files import write_problem
    from svdinv.unroll.tasks.reading import source_of

    if arguments.output.suffix.lower() not in (".h5", ".hdf5"):
        parser.error(f"argument --output: must end in .h5, got {arguments.output}")
    if same_file(arguments.output, source):
        parser.error(f"argument --output: would replace {source}")

    def check(*read: Any) -> None:
        if source_of(source).measured:
            raise ValueError(f"argument INPUT: {source} is measured already")

    task, problem, options, _ = read_input(arguments, source, check=check)
    writable_folder(parser, "--output", arguments.output.parent)
    told = {name: getattr(options, name) for name in ("seed", *task.options.names())}
    told = {
        f"option_{name}" if name == "mask" else name: value
        for name, value in told.items()
        if value is not None
    }
    told["source"] = Path(source).name
    write_problem(
        arguments.output, task, problem, truth=not arguments.no_truth, options=told
    )
    sampled = task.arrays_to_save(problem).get("mask")
    share = "" if sampled is None else f", {sampled.mean():.1%} sampled"
    print(f"{arguments.output}: {problem.name}, {_shape(problem.y)}{share}")
