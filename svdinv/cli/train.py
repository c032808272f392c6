"""``svdinv train``: train a network, or go on training one."""

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
  svdinv train colour --output runs/colour       photographs, options as they come
  svdinv train colour --print > mine.toml        the options, to edit
  svdinv train mine.toml --output runs/mine      as that file says
  svdinv train cine --output runs/cine --set training.steps=500
  svdinv train --resume runs/mine                after Ctrl-C, or whatever ended it
  torchrun --nproc-per-node 2 -m svdinv train mine.toml --output runs/mine

In the output folder: config.toml, log.csv, validation.csv, TensorBoard's events,
checkpoint.safetensors to resume from and weights.safetensors to use.

Exit codes: 0, all steps done; 1, a loss or gradient was not finite; 2, invalid
arguments or files, as one line says; 130, interrupted by Ctrl-C or SIGTERM.
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    train = commands.add_parser(
        "train",
        help=help,
        description=(
            "Train a network on photographs ('colour'), on series of a beating heart\n"
            "('cine'), on tomograms ('ct'), or as a configuration file says."
        ),
        epilog=_EPILOG,
    )
    train.set_defaults(run=run)
    train.add_argument(
        "config",
        nargs="?",
        metavar="NAME|FILE.toml",
        help="what to train: a configuration that comes with svdinv (without this they "
        "are listed), or a file",
    )
    place = train.add_mutually_exclusive_group()
    place.add_argument(
        "--output", type=folder, metavar="DIR", help="folder for all that is written"
    )
    place.add_argument(
        "--resume",
        type=folder,
        metavar="DIR",
        help="go on with the training in this folder, to the same weights, bit by bit, "
        "as if it had not been interrupted",
    )
    train.add_argument(
        "--overwrite",
        action="store_true",
        help="begin anew even where the folder holds a training",
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change an option, such as training.steps=500 (repeatable)",
    )
    train.add_argument(
        "--steps",
        type=positive,
        help="short for training.steps (default: from the configuration)",
    )
    train.add_argument(
        "--seed",
        type=seed,
        help="seed of weights and data (default: from the configuration)",
    )
    train.add_argument(
        "--threads",
        type=threads,
        help="threads of each process (default: from the configuration)",
    )
    train.add_argument(
        "--weights",
        type=folder,
        metavar="FILE",
        help="begin with the weights in this file, of the same network or of the one "
        "that it refines (default: drawn from the seed)",
    )
    train.add_argument(
        "--device",
        default="auto",
        help="where to compute: cpu, cuda, or auto, GPUs if there are (default auto)",
    )
    train.add_argument(
        "--print", action="store_true", help="print the configuration and do nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then train."""
    parser: Parser = arguments.parser
    need(parser, _NEEDS, "train")

    from svdinv.unroll.training.config import to_toml

    config = _config(arguments)
    if arguments.print:
        print(to_toml(config), end="")
        return 0
    output = _folder(arguments)

    from svdinv.unroll.training.command import Refused, train

    try:
        return train(
            config,
            output,
            resume=arguments.resume is not None,
            weights=arguments.weights,
            device=arguments.device,
            overwrite=arguments.overwrite,
        )
    except Refused as error:  # another ValueError is a mistake of svdinv's own
        parser.error(str(error))


def _folder(arguments: argparse.Namespace) -> Path:
    """Make the folder to write to; files in it are kept."""
    from svdinv.unroll.training.command import holds_training

    parser: Parser = arguments.parser
    if arguments.resume is not None:
        return writable_folder(parser, "--resume", arguments.resume)
    if arguments.output is None:
        parser.error("needs --output, a folder for what comes of the training")
    output = writable_folder(parser, "--output", arguments.output)
    there = holds_training(output)
    if there and not arguments.overwrite:
        parser.error(
            f"argument --output: {output} holds {there} already; go on with that "
            "training by --resume, or begin anew in its place with --overwrite"
        )
    return output


def _config(arguments: argparse.Namespace) -> Config:
    from svdinv.unroll.training.config import changed, preset, presets, read

    parser: Parser = arguments.parser
    given = _overrides(arguments)
    try:
        if arguments.resume is not None:
            beside = (arguments.config, given, arguments.weights, arguments.overwrite)
            if any(beside):
                parser.error(
                    "argument --resume: a training goes on as it was begun; other "
                    "options would make another training of it"
                )
            from svdinv.unroll.training.run import to_resume

            return to_resume(arguments.resume)
        if arguments.config is None:
            parser.error(f"what to train? {', '.join(presets())} or a file")
        known = arguments.config in presets()
        if not known and not Path(arguments.config).exists():
            meant = near(arguments.config, presets()) or f"; or {', '.join(presets())}"
            parser.error(f"there is no file {arguments.config}{meant}")
        config = preset(arguments.config) if known else read(arguments.config)
        return changed(config, given) if given else config
    except ValueError as error:
        parser.error(str(error))


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in (
        ("training.steps", arguments.steps),
        ("seed", arguments.seed),
        ("threads", arguments.threads),
    ):
        if value is not None:
            given[name] = value
    for text in arguments.set:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            arguments.parser.error(f"argument --set: NAME=VALUE expected, got {text!r}")
        try:
            given[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:  # a string without quotes
            given[name] = value
    return given
