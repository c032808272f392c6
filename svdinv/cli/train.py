"""``svdinv train``: train a network, or resume a training."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    NETWORKS,
    Parser,
    Subparsers,
    folder,
    need,
    positive,
    seed,
    threads,
    writable_folder,
)
from svdinv.unroll.plugins import near

if TYPE_CHECKING:
    from svdinv.unroll.training.config import Config

_NEEDS = (*NETWORKS, "tomlkit")

_EPILOG = """\
examples:
  svdinv train colour --output runs/colour       photographs, default options
  svdinv train colour --print > mine.toml        the options, to edit
  svdinv train mine.toml --output runs/mine      with the options in that file
  svdinv train cine --output runs/cine --set training.steps=500
  svdinv train --resume runs/mine                after an interruption
  torchrun --nproc-per-node 2 -m svdinv train mine.toml --output runs/mine

In the output folder: config.toml, log.csv, validation.csv, TensorBoard's events,
checkpoint.safetensors to resume from and weights.safetensors to use.

Exit codes: 0, all steps done; 1, a loss or gradient was not finite; 2, invalid
arguments or files, with a one-line message; 130, interrupted by Ctrl-C or SIGTERM.
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    train = commands.add_parser(
        "train",
        help=help,
        description=(
            "Train a network on photographs ('colour'), on series of a beating heart\n"
            "('cine'), on tomograms ('ct'), or from a configuration file."
        ),
        epilog=_EPILOG,
    )
    train.set_defaults(run=run)
    train.add_argument(
        "config",
        nargs="?",
        metavar="NAME|FILE.toml",
        help="a configuration that comes with svdinv (listed if this is omitted), or a "
        "file",
    )
    place = train.add_mutually_exclusive_group()
    place.add_argument("--output", type=folder, metavar="DIR", help="output folder")
    place.add_argument(
        "--resume",
        type=folder,
        metavar="DIR",
        help="resume the training in this folder; the final weights are bitwise those "
        "of an uninterrupted training, on a CPU with the same versions",
    )
    train.switch("--overwrite", "start a new training even if the folder contains one")
    train.option(
        "--set NAME=VALUE",
        "change an option, such as training.steps=500 (repeatable)",
        default=[],
        action="append",
    )
    configured = "(default: from the configuration)"
    train.option("--steps", f"same as training.steps {configured}", positive)
    train.option("--seed", f"seed of weights and data {configured}", seed)
    train.option("--threads", f"threads of each process {configured}", threads)
    train.option(
        "--weights PATH",
        "initial weights, of the same network or of the one that it refines: a "
        "file, the folder of a training, or svdinv's own by name (default: drawn from "
        "the seed)",
        folder,
    )
    train.option(
        "--device",
        "cpu, cuda, or auto, which uses GPUs if available (default auto)",
        default="auto",
    )
    train.switch("--print", "print the configuration and exit")


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, then train."""
    parser: Parser = arguments.parser
    need(parser, _NEEDS, "train")

    from svdinv.unroll.training.config import to_toml

    config = _config(arguments)
    if arguments.print:
        print(to_toml(config), end="")
        return 0
    weights = _weights(arguments)
    output = _folder(arguments)

    from svdinv.unroll.training.command import Refused, train

    try:
        return train(
            config,
            output,
            resume=arguments.resume is not None,
            weights=weights,
            device=arguments.device,
            overwrite=arguments.overwrite,
        )
    except Refused as error:  # any other ValueError is a bug in svdinv
        parser.error(str(error))


def _weights(arguments: argparse.Namespace) -> Path | None:
    """Return the file of initial weights, before any folder is made."""
    from svdinv.unroll.inference import weights_file

    if arguments.weights is None:
        return None
    try:
        return weights_file(arguments.weights)
    except (ValueError, FileNotFoundError) as error:
        parser: Parser = arguments.parser
        parser.error(f"argument --weights: {error}")


def _folder(arguments: argparse.Namespace) -> Path:
    """Create the output folder and return it; existing files are kept."""
    from svdinv.unroll.training.command import holds_training

    parser: Parser = arguments.parser
    if arguments.resume is not None:
        return writable_folder(parser, "--resume", arguments.resume)
    if arguments.output is None:
        parser.error("needs --output, a folder for the results of the training")
    output = writable_folder(parser, "--output", arguments.output)
    existing = holds_training(output)
    if existing and not arguments.overwrite:
        parser.error(
            f"argument --output: {output} already contains {existing}; continue that "
            "training with --resume, or replace it with --overwrite"
        )
    return output


def _config(arguments: argparse.Namespace) -> Config:
    from svdinv.unroll.training.config import changed, preset, presets, read

    parser: Parser = arguments.parser
    overrides = _overrides(arguments)
    try:
        if arguments.resume is not None:
            extra = (
                arguments.config,
                overrides,
                arguments.weights,
                arguments.overwrite,
            )
            if any(extra):
                parser.error(
                    "argument --resume: a training is resumed with its own "
                    "configuration; remove the other options"
                )
            from svdinv.unroll.training.run import to_resume

            return to_resume(arguments.resume)
        if arguments.config is None:
            parser.error(f"what to train? {', '.join(presets())} or a file")
        is_preset = arguments.config in presets()
        if not is_preset and not Path(arguments.config).exists():
            hint = near(arguments.config, presets()) or f"; or {', '.join(presets())}"
            parser.error(f"there is no file {arguments.config}{hint}")
        config = preset(arguments.config) if is_preset else read(arguments.config)
        return changed(config, overrides) if overrides else config
    except ValueError as error:
        parser.error(str(error))


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for name, value in (
        ("training.steps", arguments.steps),
        ("seed", arguments.seed),
        ("threads", arguments.threads),
    ):
        if value is not None:
            overrides[name] = value
    for text in arguments.set:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            arguments.parser.error(f"argument --set: NAME=VALUE expected, got {text!r}")
        if name in overrides:
            arguments.parser.error(f"argument --set: {name} is given twice")
        try:
            overrides[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:  # a string without quotes
            overrides[name] = value
    return overrides
