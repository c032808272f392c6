"""``svdinv evaluate``: compare a network and classical methods on test images."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdinv.cli.arguments import (
    Subparsers,
    add_computing,
    add_task_options,
    announce,
    begin,
    check_network,
    filled,
    folder,
    naming_flags,
    natural,
    refuse_options,
    task_settings,
    writable_folder,
)
from svdinv.unroll.plugins import naming

if TYPE_CHECKING:
    from svdinv.unroll.tasks.task import Options, Task

_CROP = 256

_EPILOG = """\
examples:
  svdinv evaluate colour                         eight built-in photographs
  svdinv evaluate cine --masks radial --coils 4  eight phantom series
  svdinv evaluate runs/mine --images holidays/ cat.png --rates 0.2 --crop 0

Output: results.csv, results.md with the means, and pictures. Classical methods use the
weight with the least error for each image; networks do not use the truth.
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help=help,
        usage="svdinv evaluate [NAME|PATH] [options]",
        description="Compare the accuracy of a network with classical methods.",
        epilog=_EPILOG,
    )
    evaluate.set_defaults(run=run)
    evaluate.add_argument(
        "weights",
        nargs="?",
        type=filled,
        metavar="NAME|PATH",
        help="weights that come with svdinv (default colour, or those of --task), a "
        "file, the folder of a training, or a task without weights, such as eit",
    )
    evaluate.option(
        "--images PATH",
        "files, folders and built-in names (default: images not used to train the "
        "weights in svdinv)",
        filled,
        nargs="+",
    )
    add_task_options(evaluate, several=True)
    evaluate.yes_or_no("--baselines", "include classical methods (default yes)", True)
    evaluate.yes_or_no(
        "--ensemble",
        "include the average over eight versions of each image (default yes)",
        True,
    )
    pictures = "make pictures of the first N images of each setting (default 1)"
    evaluate.option("--panels N", pictures, natural, 1)
    output = Path("svdinv-evaluation")
    evaluate.option("--output DIR", f"output folder (default {output})", folder, output)
    evaluate.switch("--overwrite", "replace an existing evaluation")
    add_computing(evaluate)


class _Work(NamedTuple):
    """What is evaluated: `network` is None for classical methods alone."""

    task: Task
    network: Any
    settings: list[Options]
    images: list[Any]
    note: str  # a warning in the heading
    device: str


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, then evaluate."""
    parser = arguments.parser
    begin(arguments)

    from svdinv.unroll.evaluation import RESULTS, TABLE, evaluate
    from svdinv.unroll.formats.atomic import holding

    try:
        task, network, settings, images, note, device = _prepared(arguments)
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    output = writable_folder(parser, "--output", arguments.output)
    if (output / RESULTS).exists() and not arguments.overwrite:
        parser.error(
            f"argument --output: {output} already contains {RESULTS}; --overwrite "
            "replaces it"
        )
    what, count = "classical methods", len(images)
    if network is not None:
        weights = sum(p.numel() for p in network.parameters())
        what = f"{type(network.recipe).__name__} with {weights:,} weights"
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(holding(output))
        except BlockingIOError:
            parser.error(f"argument --output: another command writes to {output}")
        announce(
            f"{arguments.weights}: {what}, on {count} image{'s' * (count != 1)}, "
            f"seed {arguments.seed}{note}"
        )
        evaluation = evaluate(
            task,
            images,
            settings,
            output,
            title=f"Evaluation of {arguments.weights}, seed {arguments.seed}",
            network=network,
            baselines=arguments.baselines,
            ensemble=arguments.ensemble,
            device=device,
            panels=arguments.panels,
        )
    if evaluation.rows:
        pictures = f", {output / 'panel-*.png'}" if arguments.panels else ""
        written = f"{output / RESULTS}, {output / TABLE}{pictures}"
        print(f"\n{evaluation.text()}\n\nWritten: {written}")
    if evaluation.complete:
        return 0
    print("Interrupted: the results are of the images that all methods had done.")
    return 130


def _prepared(arguments: argparse.Namespace) -> _Work:
    """Open the weights, read the images, and check that settings suit them."""
    from svdinv.unroll import pretrained
    from svdinv.unroll.inference import device_of, open_network, task_of_network
    from svdinv.unroll.tasks.registry import check_reads, entries
    from svdinv.unroll.tasks.task import InputImage, task_named

    device, tasks = device_of(arguments.device), entries()
    asked = task_named(arguments.task).kind if arguments.task else None
    arguments.weights = arguments.weights or asked or "colour"
    network, note = None, ""
    if arguments.weights in tasks and arguments.weights not in pretrained.names():
        task: Task = tasks[arguments.weights].load()()
    else:
        network = open_network(arguments.weights, device)
        task = task_of_network(network)
    with naming("argument NAME|PATH"):
        check_reads(task)
    if asked not in (None, task.kind):
        raise ValueError(f"argument --task: these weights are for {task.kind}")
    if "crop" in task.options.names() and arguments.crop is None:
        arguments.crop = str(_CROP)
    what = f"these weights are for {task.images}"
    settings = task_settings(arguments, task, what)
    settings = settings if len(settings) > 1 else task.settings(settings[0])
    with naming_flags(arguments, task):
        images = _images(arguments, task, settings[0])
        if not images:
            raise ValueError(f"argument --images: required for {task.images}")
        # Checks masks and other options with one image of each shape.
        shapes = {x.image.shape: x for x in images if isinstance(x, InputImage)}
        measured = [x for x in images if not isinstance(x, InputImage)]
        simulated = (
            task.measure(image, options)
            for options, image in itertools.product(settings, shapes.values())
        )
        for problem in itertools.chain(measured, simulated):
            if network is None:
                continue
            check_network(network, task, problem.name, problem, "NAME|PATH")
            if not task.suits_network(problem, network.recipe):
                note = "; the network was not trained for such data"
    return _Work(task, network, settings, images, note, device)


def _images(arguments: argparse.Namespace, task: Task, options: Options) -> list[Any]:
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.reading import files_of, read_all

    if not arguments.images:
        return task.examples(options)
    files = files_of(arguments.images, task)
    if len(set(map(str, files))) < len(files):
        raise ValueError("argument --images: an image occurs twice")
    images = read_all(files, task, options)
    for image in images:
        if getattr(image, "truth", image) is None:
            raise ValueError(f"argument --images: {image.name} holds no truth")
        if isinstance(image, Problem):
            why = f"{image.name} is measured data"
            refuse_options(arguments, task, why, but=("crop",))
    return images
