"""``svdinv reconstruct``: reconstruct images with trained or classical methods."""

from __future__ import annotations

import argparse
import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdinv.cli.arguments import (
    Subparsers,
    add_computing,
    add_task_options,
    announce,
    begin,
    check_network,
    check_open,
    filled,
    folder,
    is_read,
    need,
    read_input,
    writable_folder,
)
from svdinv.unroll.plugins import naming

if TYPE_CHECKING:
    from svdinv.unroll.evaluation import Compared, Files, Which
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.task import Options, Task

# Classical methods take minutes on larger pictures.
_MOST_PIXELS = 1_000_000
_MARGIN = 0.1  # dB by which another method must be better to be reported

_EPILOG = """\
examples:
  svdinv reconstruct coffee                      a photograph that comes with svdinv
  svdinv reconstruct cat.jpg --rate 0.1          from a tenth of its values
  svdinv reconstruct noisy.png --no-truth        denoise a noisy picture
  svdinv reconstruct scan.npz --mask vista --coils 8
  svdinv reconstruct raw.h5 --output out.npz     from measured k-space
  svdinv reconstruct walnut-1 --views 30 --noise 0.01

Images are first sampled and then reconstructed, so that the result can be compared with
them; measured data are used unchanged ('svdinv data inspect FILE' describes a file).
Output: the reconstruction, a picture with a comparison, and for series an animation.
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    reconstruct = commands.add_parser(
        "reconstruct",
        help=help,
        usage="svdinv reconstruct INPUT [INPUT ...] [options]",
        description="Reconstruct images with a trained network or a classical method.",
        epilog=_EPILOG,
    )
    reconstruct.set_defaults(run=run)
    reconstruct.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=filled,
        help="picture, series, scan, measured data, or a name of 'svdinv data list'",
    )
    add_task_options(reconstruct, several=False)
    reconstruct.switch("--no-truth", "the input is noisy data, not the truth")
    reconstruct.option(
        "--weights PATH",
        "weights of svdinv train, or their folder (default: svdinv's own)",
        folder,
    )
    reconstruct.option(
        "--method NAME",
        "method whose image is written: network, or a classical method from the "
        "table, such as non-local-low-rank",
        filled,
    )
    reconstruct.switch(
        "--ensemble", "average over eight mirrored, rotated or reversed versions"
    )
    reconstruct.yes_or_no(
        "--baselines",
        "compare with all classical methods, or only the simplest (default: those "
        f"that take seconds, up to {_MOST_PIXELS / 1e6:g} million pixels)",
    )
    reconstruct.option(
        "--output PATH",
        "folder, or file for the reconstruction: .png, .npz, .npy, .h5, .nii, "
        ".cfl (default svdinv-output)",
        folder,
        Path("svdinv-output"),
    )
    reconstruct.option(
        "--movie",
        "format of the animation of a series (default gif); mp4 needs ffmpeg",
        choices=("gif", "mp4"),
    )
    add_computing(reconstruct)


class _Work(NamedTuple):
    """An input, ready to be reconstructed."""

    task: Task
    problem: Problem
    network: Any
    method: str
    written: Files
    weights: str


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, then reconstruct."""
    parser = arguments.parser
    begin(arguments)

    from svdinv.unroll.formats.table import ending
    from svdinv.unroll.inference import device_of, open_network

    several = len(arguments.inputs) > 1
    outputs: list[Files] = []
    work: _Work | None = None
    try:
        device = device_of(arguments.device)
        opened = functools.cache(lambda weights: open_network(weights, device))
        for source in arguments.inputs:
            work = _prepared(arguments, source, opened, device)
            outputs.append(work.written)
            if several:  # read again later, since all may not fit into memory
                work = None
        _check_outputs(arguments, outputs)
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    if arguments.movie == "mp4" and shutil.which("ffmpeg") is None:
        parser.error("argument --movie: mp4 needs the program ffmpeg, not found here")
    for written in outputs:
        if ending(written.image, (".h5", ".hdf5")):
            need(parser, ("h5py",), "mri")
        if ending(written.image, (".nii", ".nii.gz")):
            need(parser, ("nibabel",), "mri")
        writable_folder(parser, "--output", written.image.parent)
    for number, source in enumerate(arguments.inputs):
        try:
            current = work or _prepared(arguments, source, opened, device)
        except (ValueError, ImportError) as error:
            parser.error(str(error))
        done = _reconstruct(arguments, current, device)
        del current  # frees memory for the next
        if not done.written:
            others = f" for {source}; {number} inputs were done" if number else ""
            print(f"Interrupted: nothing was written{others}.")
            return 130
        if not done.complete:
            rest = len(arguments.inputs) - number - 1
            others = (
                f"; {rest} of {len(arguments.inputs)} inputs are left" if rest else ""
            )
            print(f"Interrupted after the image was written{others}.")
            return 130
    return 0


def _reconstruct(arguments: argparse.Namespace, work: _Work, device: str) -> Compared:
    """Reconstruct an input, and print the method whose image was written."""
    from svdinv.unroll.evaluation import classical, compare
    from svdinv.unroll.inference import NAMES, learned

    task, problem, network, method, written, weights = work
    which: Which = "all" if arguments.baselines else "first"
    if arguments.baselines is None:
        height, width = problem.y.shape[-2:]
        if task.moving or height * width <= _MOST_PIXELS:
            which = "quick"
    announce(
        f"{problem.name}: {task.describe(problem)}, {problem.setting}, seed "
        f"{arguments.seed}\n"
    )
    methods = classical(task, problem, which=which, asked=method)
    if network is not None:
        own = learned(network, task, ensemble=arguments.ensemble, device=device)
        methods |= {n: own[n] for n in own if which != "first" or n == method}
    done = compare(task, problem, methods, written, method)
    if done.written:
        print(f"\n{_summary(task, problem, method, done)}")
        if weights and method in NAMES.values():
            print(f"Its weights: {weights}.")
        elif arguments.weights and arguments.method is None:
            print(f"{weights} is not for such data: --method network writes its image.")
        others = classical(task, problem).keys() - {row.method for row in done.rows}
        if arguments.baselines is None and done.complete and others:
            names = ", ".join(name for name in task.baselines() if name in others)
            print(f"--baselines also compares with slower methods: {names}.")
        print("\n".join(f"Written: {path}" for path in written if path), flush=True)
    return done


def _summary(task: Task, problem: Problem, method: str, done: Compared) -> str:
    """Return a sentence with the method of the image, and any that was better.

    Without a truth, say whether the data of all images are far from the measured ones.
    """
    from svdinv.unroll.evaluation import label, slug

    text = f"The image is that of the method: {method}."
    row = next(row for row in done.rows if row.method == method)
    metric = next(iter(row.values), None)
    if metric is None:
        return text
    if problem.truth is None:
        finite = filter(math.isfinite, (row.values[metric] for row in done.rows))
        least, usual = min(finite, default=math.inf), task.usual_misfit(problem)
        if least > usual and len(done.rows) > 1:  # the simplest alone never does
            name, _, unit = metric.partition(" / ")
            text += (
                f"\nNone of these images explains the data: their least {name} is "
                f"{least:.3g} {unit}".rstrip()
                + f", usual is below {usual:.3g}. Is "
                "the operator that of the scan,\nand are all data valid?"
            )
        return text
    best = max(done.rows, key=lambda row: row.values[metric])
    if best.values[metric] < row.values[metric] + _MARGIN:
        return text
    return (
        f"{text} {best.method} was nearer to the truth, {label(best.values)}; "
        f"--method {slug(best.method)} writes its image."
    )


def _prepared(
    arguments: argparse.Namespace,
    source: str,
    opened: Callable[[Any], Any],
    device: str,
) -> _Work:
    """Read an input, check that the options apply, and choose network and method."""
    from svdinv.unroll import pretrained
    from svdinv.unroll.evaluation import files, method_named
    from svdinv.unroll.inference import NAMES, shipped

    def check(task: Task, given: Any, options: Options) -> None:
        if arguments.movie and not task.moving:
            raise ValueError(f"argument --movie: does not apply to {task.images}")
        if arguments.ensemble and not task.has_views:
            raise ValueError(f"argument --ensemble: does not apply to {task.images}")

    task, problem, *_ = read_input(
        arguments, source, check=check, truth=not arguments.no_truth
    )
    check_open(source, problem)
    network = None
    own = shipped(task, problem)
    weights = arguments.weights or own
    if weights:
        with naming("argument --weights"):
            # By path, since a folder may have the same name.
            network = opened(arguments.weights or pretrained.path(own))
        if arguments.weights or task.suits_network(problem, network.recipe):
            check_network(network, task, source, problem)
        else:
            network = None
    if network is None and arguments.ensemble:
        raise ValueError(
            "argument --ensemble: does not apply: svdinv has no weights for such data"
        )
    with naming("argument --method"):
        method = method_named(
            task, problem, network, arguments.method, ensemble=arguments.ensemble
        )
    if arguments.ensemble and method not in NAMES.values():
        raise ValueError(f"argument --ensemble: does not apply to --method {method}")
    movie = f".{arguments.movie or 'gif'}"
    written = files(arguments.output, task, problem, method, movie)
    if len(arguments.inputs) > 1 and written.image == arguments.output:
        raise ValueError("argument --output: must be a folder for several inputs")
    label = str(weights) if network is not None else ""
    return _Work(task, problem, network, method, written, label)


def _check_outputs(arguments: argparse.Namespace, outputs: list[Files]) -> None:
    """Raise ValueError if an output would replace an input, mask or other output."""
    paths: set[Path] = set()
    for written in outputs:
        for path in filter(None, written):
            if is_read(arguments, path, *arguments.inputs):
                raise ValueError(f"argument --output: would replace {path}")
            if path.is_dir():
                raise ValueError(f"argument --output: {path} is a folder")
            if path in paths:
                raise ValueError(
                    f"argument INPUT: two inputs would be written to {path}"
                )
            paths.add(path)
