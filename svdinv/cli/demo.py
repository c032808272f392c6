"""``svdinv demo``: the first thing to run."""

from __future__ import annotations

import argparse
from pathlib import Path

from svdinv.cli.arguments import (
    Subparsers,
    duration,
    natural,
    need,
    positive,
    rate,
    writable_folder,
)

__all__ = ["add", "run"]

_NEEDS = {
    "torch": "torch",
    "numpy": "numpy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
}


def add(commands: Subparsers) -> None:
    """Declare the command."""
    demo = commands.add_parser(
        "demo",
        help="train a low-rank network on photographs and reconstruct another one",
        description=(
            "Train an unrolled low-rank network for colour compressed sensing on "
            "photographs that come with scikit-image and scikit-learn, first through "
            "torch.linalg.svd, then through svdinv.torch.svt, and reconstruct a "
            "photograph that it has never seen. Nothing is downloaded."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(parser=demo, run=run)
    demo.add_argument(
        "--rate",
        type=rate,
        default=0.4,
        help="part of the values that is sampled, from 0.01 to 0.99",
    )
    demo.add_argument(
        "--photo",
        default="chelsea",
        metavar="NAME_OR_PATH",
        help="photograph to reconstruct: one that comes with the packages, which is "
        "then not trained on, or a picture file",
    )
    demo.add_argument("--seed", type=natural, default=0, help="seed of all chance")
    demo.add_argument("--steps", type=positive, default=1200, help="training steps")
    demo.add_argument(
        "--minutes",
        type=duration,
        default=3.0,
        help="wall-clock cap of the training, should the machine be slow",
    )
    demo.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="threads of PyTorch; two are faster on cores that nothing else uses, and "
        "far slower on shared ones",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="directory for the picture",
    )
    demo.add_argument(
        "--quick",
        action="store_true",
        help="seconds instead of minutes: a smaller network, few steps, poor pictures",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then run the demonstration."""
    parser = arguments.parser
    need(parser, _NEEDS, "demo")

    from svdinv.unroll.data import PHOTOS, read_picture

    picture = None
    if arguments.photo not in PHOTOS:
        try:
            picture = read_picture(arguments.photo)
        except ValueError as error:
            parser.error(f"argument --photo: {error}; names are {', '.join(PHOTOS)}")
    writable_folder(parser, "--output", arguments.output)

    from svdinv.unroll.demo import DemoConfig, run

    config = DemoConfig(
        rate=arguments.rate,
        photo=arguments.photo,
        picture=picture,
        output=arguments.output,
        seed=arguments.seed,
        steps=arguments.steps,
        minutes=arguments.minutes,
        threads=arguments.threads,
    )
    return run(config.quick() if arguments.quick else config)
