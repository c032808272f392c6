"""``svdinv demo``: demonstrations on a photograph or a beating heart."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from svdinv.cli.arguments import (
    NETWORKS,
    Subparsers,
    folder,
    natural,
    need,
    positive,
    positive_number,
    rate,
    seed,
    writable_folder,
)

# Options that apply to one of the demonstrations only.
_OF = {"colour": ("rate", "photo", "steps", "minutes"), "cine": ("heart",)}
_NEEDS = (*NETWORKS, "matplotlib", "threadpoolctl", "tomlkit")


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    demo = commands.add_parser(
        "demo",
        help=help,
        description=(
            "Reconstruct a photograph from a fraction of its samples, with the network "
            "that comes with svdinv and with classical methods; then train that "
            "network further, first with torch.linalg.svd, then with svdinv.torch.svt. "
            "Or reconstruct a real beating heart from an eighth of its k-space. "
            "Nothing is downloaded."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(run=run)
    demo.add_argument(
        "task",
        nargs="?",
        choices=("colour", "cine"),
        default="colour",
        help="a photograph, or a beating heart",
    )
    heart = "series to reconstruct, a heart listed by 'svdinv data list'"
    demo.option("--heart NAME", heart, default="short-axis")
    demo.option(
        "--rate",
        "sampling rate, the fraction of the values that is sampled, from 0.01 to "
        "0.99; the network was trained with 0.04 to 0.5",
        rate,
        0.4,
    )
    photo = "photograph to reconstruct: a built-in one or a picture file"
    demo.option("--photo NAME_OR_PATH", photo, default="chelsea")
    demo.option("--seed", "seed of the random generators", seed, 0)
    demo.option("--steps", "training steps; 0 for none", natural, 200)
    demo.option(
        "--minutes",
        "time limit of each of the two trainings; slow machines make fewer steps",
        positive_number,
        2.0,
    )
    demo.option(
        "--threads",
        "threads of PyTorch; two are faster on idle cores, and much slower on "
        "shared ones",
        positive,
        1,
    )
    demo.option("--output DIR", "folder for the pictures", folder, Path("demo-output"))
    demo.switch(
        "--quick",
        "take seconds instead of minutes: a part of the picture and few steps; "
        "for a heart only the network",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, then run the demonstration."""
    parser = arguments.parser
    need(parser, _NEEDS, "demo")
    other = "colour" if arguments.task == "cine" else "cine"
    for name in _OF[other]:
        if getattr(arguments, name) != parser.get_default(name):
            parser.error(f"argument --{name}: is for svdinv demo {other}")
    if arguments.task == "cine":
        return _cine(arguments)

    from svdinv.unroll.data import PHOTOS, TEST, read_picture

    picture = None
    if arguments.photo in PHOTOS and arguments.photo not in TEST:
        parser.error(
            f"argument --photo: the network was trained on {arguments.photo}; choose "
            f"one of {', '.join(TEST)}, or a picture file"
        )
    if arguments.photo not in PHOTOS:
        try:
            picture = read_picture(arguments.photo)
        except ValueError as error:
            parser.error(f"argument --photo: {error}; names are {', '.join(TEST)}")
    writable_folder(parser, "--output", arguments.output)

    from svdinv.unroll.demo import run as demonstrate

    if arguments.quick:
        arguments.steps = min(arguments.steps, 10)
        arguments.minutes = min(arguments.minutes, 0.5)
    return demonstrate(arguments, picture)


def _cine(arguments: argparse.Namespace) -> int:
    """Reconstruct a heart with ``svdinv reconstruct``, and print that command."""
    from svdinv.cli import main
    from svdinv.unroll.tasks.cine import HEARTS

    parser, heart = arguments.parser, arguments.heart
    if heart not in HEARTS:
        parser.error(f"argument --heart: must be one of {', '.join(HEARTS)}")
    writable_folder(parser, "--output", arguments.output)
    which = ["--no-baselines"] if arguments.quick else ["--baselines", "--ensemble"]
    words = ["reconstruct", heart, *which, "--output", str(arguments.output)]
    words += ["--seed", str(arguments.seed), "--threads", str(arguments.threads)]
    print(f"{HEARTS[heart]}, from an eighth of its k-space:")
    print(f"svdinv {shlex.join(words)}\n", flush=True)
    return main(words)
