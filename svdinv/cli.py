"""The command line: ``svdinv``.

Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from svdinv import __version__

__all__ = ["main"]

# What `svdinv demo` imports, and who brings it.
_DEMO_NEEDS = {
    "torch": "torch",
    "numpy": "numpy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
}


class _Parser(argparse.ArgumentParser):
    """Argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the name of the program; `sys.argv` by default.

    Returns
    -------
    int
        Exit code: 0 on success, 2 for arguments that make no sense, 1 where the
        work failed, 130 after Ctrl-C.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help()
            return 0
        return _demo(arguments)
    except SystemExit as stop:  # argparse leaves this way
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"svdinv: {error}", file=sys.stderr)
        return 1


def _parser() -> _Parser:
    parser = _Parser(
        prog="svdinv",
        description="The singular value decomposition with a correct gradient.",
    )
    parser.add_argument("--version", action="version", version=f"svdinv {__version__}")
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="command", parser_class=_Parser
    )
    demo = commands.add_parser(
        "demo",
        help="train a low-rank network on photographs and reconstruct another one",
        description=(
            "Train an unrolled low-rank network for colour compressed sensing on "
            "photographs that come with scikit-image and scikit-learn, first through "
            "torch.linalg.svd, then through svdinv.torch.svd, and reconstruct a "
            "photograph that it has never seen. Nothing is downloaded."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(parser=demo)
    demo.add_argument(
        "--rate",
        type=_rate,
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
    demo.add_argument("--seed", type=_natural, default=0, help="seed of all chance")
    demo.add_argument("--steps", type=_positive, default=1200, help="training steps")
    demo.add_argument(
        "--minutes",
        type=_duration,
        default=3.0,
        help="wall-clock cap of the training, should the machine be slow",
    )
    demo.add_argument(
        "--threads",
        type=_positive,
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
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then run the demonstration."""
    refuse = arguments.parser.error
    missing = [
        package for module, package in _DEMO_NEEDS.items() if not find_spec(module)
    ]
    if missing:
        refuse(
            f"needs {', '.join(missing)}, not installed here: "
            "pip install 'svdinv[demo]'"
        )

    from svdinv.unroll.data import PHOTOS, read_picture

    picture = None
    if arguments.photo not in PHOTOS:
        try:
            picture = read_picture(arguments.photo)
        except ValueError as error:
            refuse(f"argument --photo: {error}; names are {', '.join(PHOTOS)}")
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=arguments.output).close()
    except OSError as error:
        refuse(f"argument --output: cannot write to {arguments.output}: {error}")

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


def _rate(text: str) -> float:
    value = _number(text)
    if not 0.01 <= value <= 0.99:  # a patch of 32 x 32 needs some samples
        raise argparse.ArgumentTypeError(f"must lie in [0.01, 0.99], got {text}")
    return value


def _duration(text: str) -> float:
    value = _number(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _natural(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a whole number, got {text!r}"
        ) from None
