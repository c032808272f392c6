"""``svdinv reconstruct``: pictures or series, by the weights that come with it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    NETWORKS,
    Subparsers,
    add_computing,
    add_task_options,
    filled,
    folder,
    naming_flags,
    need,
    refuse_options,
    same_file,
    task_options,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.unroll.evaluation.reconstruction import Files
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.task import Task

__all__ = ["add", "run"]

_NEEDS = (*NETWORKS, "matplotlib", "PIL", "threadpoolctl")
# Classical methods take minutes on larger pictures.
_MOST_PIXELS = 1_000_000

_EPILOG = """\
examples:
  svdinv reconstruct coffee                      a photograph that comes with svdinv
  svdinv reconstruct cat.jpg --rate 0.1          from a tenth of its values
  svdinv reconstruct cat.jpg --mask known.npy    from those that you choose
  svdinv reconstruct scan.npz --mask vista --coils 8
  svdinv reconstruct scan.mat --key images --time-axis 2
  svdinv reconstruct raw.h5 --output out.npz     k-space, as svdinv data writes it
  svdinv reconstruct *.h5 --output results       each of several files

A picture or a series is sampled first, then reconstructed, so that the result can be
compared with the truth. An .h5 file with kspace, mask and perhaps maps is taken as it
was measured. Nothing is downloaded: the weights come with svdinv.

Written are the reconstruction (.png; .npz for series), a picture that compares it with
classical methods and the truth, and an animation (.gif) of series. Ctrl-C ends the
work once the method in hand is done.
"""


def add(commands: Subparsers) -> None:
    """Declare the command."""
    reconstruct = commands.add_parser(
        "reconstruct",
        help="reconstruct a picture or a series of your own",
        description=(
            "Reconstruct a picture from a part of its colour values, or a series of\n"
            "the heart from a part of its k-space, with a trained network."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reconstruct.set_defaults(parser=reconstruct, run=run)
    reconstruct.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=filled,
        help="picture (.png, .jpg, ...), name of a built-in photograph, series (.npz, "
        ".npy, .mat, .h5; complex or magnitudes), or measured data (.h5)",
    )
    add_task_options(reconstruct, several=False)
    reconstruct.add_argument(
        "--weights",
        type=folder,
        metavar="PATH",
        help="weights.safetensors of svdinv train, or the folder with it, instead "
        "of those that come with svdinv",
    )
    reconstruct.add_argument(
        "--ensemble",
        action="store_true",
        help="average over eight mirrored, turned or reversed versions: better, in "
        "eight times the time",
    )
    reconstruct.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="compare with classical methods (default: yes, unless the picture has "
        f"more than {_MOST_PIXELS / 1e6:g} million pixels)",
    )
    reconstruct.add_argument(
        "--output",
        type=folder,
        default=Path("svdinv-output"),
        metavar="PATH",
        help="folder, or file of the reconstruction (.png, or .npz, .npy, .h5); the "
        "others lie beside it (default svdinv-output)",
    )
    add_computing(reconstruct)


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then reconstruct."""
    parser = arguments.parser
    need(parser, _NEEDS, "train")

    import torch

    from svdinv.unroll.evaluation.inference import device_of, open_network
    from svdinv.unroll.evaluation.reconstruction import reconstruct

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        device = device_of(arguments.device)
        opened = functools.cache(open_network)
        work = [
            _prepared(arguments, source, lambda weights: opened(weights, device))
            for source in arguments.inputs
        ]
        _check_apart(arguments.inputs, [written for *_, written in work])
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    for *_, written in work:
        if written.image.suffix.lower() in (".h5", ".hdf5"):
            need(parser, ("h5py",), "mri")
        writable_folder(parser, "--output", written.image.parent)
    for number, (task, problem, network, written) in enumerate(work):
        baselines = arguments.baselines
        if baselines is None:
            height, width = problem.y.shape[-2:]
            baselines = task.moving or height * width <= _MOST_PIXELS
        print(
            f"{problem.name}: {task.describe(problem)}, {problem.setting}, seed "
            f"{arguments.seed}\n",
            flush=True,
        )
        done = reconstruct(
            task,
            problem,
            network,
            written,
            baselines=baselines,
            ensemble=arguments.ensemble,
            device=device,
        )
        if not done:
            others = f" of {problem.name}; {number} before it" if number else ""
            print(f"Interrupted: nothing was written{others}.")
            return 130
        print("\n" + "\n".join(f"Written: {path}" for path in written if path))
    return 0


def _prepared(
    arguments: argparse.Namespace, source: str, opened: Callable[[Any], Any]
) -> tuple[Task, Problem, Any, Files]:
    """Check an input and the options against each other."""
    from svdinv.unroll.evaluation.inference import task_of_network
    from svdinv.unroll.evaluation.reconstruction import files
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.reading import read, task_of_file

    task = task_of_file(source)
    options = task_options(arguments, task, f"{source} is one of {task.images}")
    with naming_flags(arguments, task):
        given = read(source, task, options)
    if isinstance(given, Problem):
        refuse_options(arguments, task, f"{source} is measured already")
        problem = given
    else:
        with naming_flags(arguments, task):
            problem = task.measure(given, options)
    network = opened(arguments.weights or task.kind)
    own = task_of_network(network)
    if own.kind != task.kind:
        raise ValueError(
            f"argument --weights: these are for {own.kind}, but {source} is of the "
            f"kind {task.kind}"
        )
    file = arguments.output.suffix[1:2].isalpha() and not arguments.output.is_dir()
    if len(arguments.inputs) > 1 and file:
        raise ValueError("argument --output: must be a folder for several inputs")
    written = files(arguments.output, task, problem.name)
    return task, problem, network, written


def _check_apart(sources: list[str], every: list[Files]) -> None:
    """See that nothing that is read, or written for another input, is replaced."""
    for path in (path for written in every for path in written if path is not None):
        if any(same_file(path, source) for source in sources):
            raise ValueError(f"argument --output: would replace {path}")
    images = [written.image for written in every]
    for image in images:
        if images.count(image) > 1:
            raise ValueError(f"argument INPUT: two of them would be written to {image}")
