"""``svdinv data``: list, show, inspect and write images and measured data."""

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
    is_read,
    naming_flags,
    need,
    read_input,
    refuse_options,
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
The HDF5 file contains the measured data, 0 where not sampled, the parameters of the
measurement, and the image as truth, unless --no-truth is set; its attributes are kind,
the name of the task, the options and the version of svdinv.

  kind = "colour"   samples  float32 (C, H, W), values in [0, 1]
                    mask     bool (C, H, W), true where sampled
  kind = "cine"     kspace   complex64 (T, H, W), or (T, C, H, W) with --coils; the zero
                             frequency is at (H // 2, W // 2)
                             and kspace = fftshift(fft2(ifftshift(truth * maps),
                             norm="ortho")) over the last two axes
                    mask     bool (T, H, W), true where sampled
                    maps     complex64 (C, H, W), sensitivities of the coils
  kind = "ct", "pet", "eit"  see 'svdinv data inspect FILE' and the documentation on
                             tomography

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
            "List the built-in data: photographs that come with scikit-image and\n"
            "scikit-learn, hearts, phantoms, and sampling masks; save them as\n"
            "pictures; describe files; and write undersampled data to files."
        ),
        epilog=_EPILOG,
    )
    data.set_defaults(run=run, perform=None)
    actions = data.add_subparsers(
        dest="action", title="subcommands", metavar="subcommand", parser_class=Parser
    )
    listing = actions.add_parser(
        "list",
        help="list the built-in data",
        description="List the images and sampling masks that come with svdinv.",
    )
    listing.set_defaults(perform=_list)
    show = actions.add_parser(
        "show",
        help="write a picture of built-in data",
        description=(
            "Write an image or a mask as a picture. A series becomes an animation in a "
            ".gif file, and a sheet of frames in a .png file. Masks are white where "
            "they sample."
        ),
    )
    show.set_defaults(perform=_show)
    show.add_argument("name", metavar="NAME", help="a name of 'svdinv data list'")
    _add_output(show, "a .png or .gif file")
    add_task_options(show, several=False)
    inspect = actions.add_parser(
        "inspect",
        help="describe a file and the options that apply to it",
        description="Describe a file and the options that apply to it.",
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
            "Simulate the measurement of an image, such as a photograph, a phantom of\n"
            "the heart or a file of your own, and write the data."
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
    write.switch("--no-truth", "leave the truth out of the file")


def _add_output(parser: Parser, what: str) -> None:
    parser.option("--output FILE", what, folder, required=True)
    _add_seed(parser)


def _add_seed(parser: Parser) -> None:
    parser.option("--seed", "random seed (default 0)", seed, 0)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand."""
    if arguments.perform is None:
        arguments.parser.error("needs a subcommand: list, show, inspect or write")
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
            lines = [f"  {name:<22} {text}" for name, text in names.items()]
            blocks.append("\n".join([f"{heading}:", *lines]))
    print("\n\n".join(blocks))


def _show(arguments: argparse.Namespace) -> None:
    parser, name = arguments.parser, arguments.name
    need(parser, _PICTURES, "train")

    from svdinv.unroll.tasks.registry import TaskEntry, entries

    tasks: dict[str, TaskEntry] = {}
    for entry in entries().values():
        tasks |= dict.fromkeys((*entry.names, *entry.pictures), entry)
    if name not in tasks:
        parser.error(
            f"argument NAME: there is no {name!r}; there are {', '.join(tasks)}"
        )
    task: Task = tasks[name].reader()
    suffixes = (".png", ".gif") if task.moving else (".png",)
    if arguments.output.suffix.lower() not in suffixes:
        parser.error(
            f"argument --output: must end in {' or '.join(suffixes)} for {name}, got "
            f"{arguments.output}"
        )
    (options,) = task_settings(arguments, task, f"{name} is one of {task.images}")
    refuse_options(
        arguments, task, f"{name} is shown unchanged", but=task.picture_options(name)
    )
    writable_folder(parser, "--output", arguments.output.parent)
    with naming_flags(arguments, task):
        task.save_picture_of(name, options, arguments.output)


def _inspect(arguments: argparse.Namespace) -> None:
    need(arguments.parser, ("numpy",), "train")

    import numpy as np

    from svdinv.unroll.formats.scans import SeveralSlices
    from svdinv.unroll.formats.table import format_of
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.reading import source_of

    path = arguments.file
    source = source_of(path)
    task = source.task
    format = None if source.measured else format_of(path)
    head = f"{path}: {f'{format.name}, ' if format else ''}task {task.kind}, "
    what = f"{path} is one of {task.images}"
    (options,) = task_settings(arguments, task, what)
    try:
        with naming_flags(arguments, task):
            content = source.read(options)
    except SeveralSlices as several:
        print(f"{head}{len(several.slices)} slices")
        for number, what in enumerate(several.slices):
            print(f"  {number:<10} {what}".rstrip())
        print("  options    --slice, to choose one")
        return
    applicable = source.applicable(content)
    if isinstance(content, Problem):
        refuse_options(arguments, task, f"{path} is measured data", but=applicable)
    names = " ".join(f"--{name.replace('_', '-')}" for name in applicable)
    print(f"{head}one of {task.images}")
    if content.scan is not None:
        print(f"  geometry   {content.scan}")
    if isinstance(content, Problem):
        print(f"  {task.describe(content)}, measured: {_shape(content.y)}")
        for name, array in task.arrays_to_save(content).items():
            share = f", {array.mean():.1%} sampled" if array.dtype == bool else ""
            if not share and array.size > 1 and np.ptp(array) == 0:
                share = f", all {array.flat[0]:g}"  # such as the default of a dataset
            print(f"  {name:<10} {array.dtype} {_shape(array)}{share}")
        print(f"  truth      {'known' if content.truth is not None else 'not known'}")
        print(f"  options    {names or 'none'}, because it is measured data")
        return
    image = content.image
    unit = f", divided by {content.scale:g}" if content.scale != 1 else ""
    print(f"  image      {image.dtype} {_shape(image)}{unit}")
    print(f"  options    {names}")


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape))


def _write(arguments: argparse.Namespace) -> None:
    parser, source = arguments.parser, arguments.source
    need(parser, _FILES, "mri")

    from svdinv.unroll.formats.table import HDF5_SUFFIXES
    from svdinv.unroll.tasks.measured_files import write_problem
    from svdinv.unroll.tasks.reading import source_of

    if arguments.output.suffix.lower() not in HDF5_SUFFIXES:
        parser.error(f"argument --output: must end in .h5, got {arguments.output}")
    if is_read(arguments, arguments.output, source):
        parser.error(f"argument --output: would replace {arguments.output}")

    def check(*read: Any) -> None:
        if source_of(source).measured and Path(source).suffix.lower() in HDF5_SUFFIXES:
            raise ValueError(
                f"argument INPUT: {source} is measured data in an .h5 file"
            )

    task, problem, options, _ = read_input(arguments, source, check=check)
    writable_folder(parser, "--output", arguments.output.parent)
    record = {name: getattr(options, name) for name in ("seed", *task.options.names())}
    record = {
        f"option_{name}" if name == "mask" else name: value
        for name, value in record.items()
        if value is not None
    }
    record["source"] = Path(source).name
    write_problem(
        arguments.output, task, problem, truth=not arguments.no_truth, options=record
    )
    sampled = task.arrays_to_save(problem).get("mask")
    share = "" if sampled is None else f", {sampled.mean():.1%} sampled"
    print(f"{arguments.output}: {problem.name}, {_shape(problem.y)}{share}")
