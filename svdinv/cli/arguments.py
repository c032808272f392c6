"""What the commands of the command line share: their parser, and types of arguments."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

__all__ = [
    "NETWORKS",
    "Parser",
    "Subparsers",
    "add_computing",
    "complain",
    "duration",
    "natural",
    "need",
    "noise",
    "positive",
    "rate",
    "same_file",
    "writable_folder",
]


NETWORKS = ("numpy", "torch", "safetensors", "skimage", "sklearn", "tqdm")
"""Modules that every command with a network needs; two of them bring photographs."""

# Packages that are not called as their modules are.
_PACKAGES = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


class Parser(argparse.ArgumentParser):
    """Argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        complain(f"{self.prog}: {message}")
        self.exit(2)


Subparsers = argparse._SubParsersAction


def complain(message: str) -> None:
    """Print a line on stderr; of several processes that torchrun started, the first."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(" ".join(message.split()), file=sys.stderr)


def need(parser: Parser, modules: Iterable[str], extra: str) -> None:
    """Refuse to go on where packages are missing.

    Parameters
    ----------
    parser : Parser
        Of the command.
    modules : iterable of str
        Modules to import.
    extra : str
        The extra of svdinv that installs them.
    """
    missing = [_PACKAGES.get(name, name) for name in modules if not find_spec(name)]
    if missing:
        parser.error(
            f"needs {', '.join(missing)}, not installed here: "
            f"pip install 'svdinv[{extra}]'"
        )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Declare ``--seed``, ``--threads`` and ``--device`` of a reconstruction."""
    parser.add_argument(
        "--seed", type=natural, default=0, help="seed of the sampling (default 0)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="threads to compute with (default 1)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where the network computes (default cpu)"
    )


def writable_folder(parser: Parser, name: str, folder: Path) -> Path:
    """Make a folder, and refuse to go on where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        parser.error(f"argument {name}: cannot write to {folder}: {error}")
    return folder


def same_file(path: Path, source: str | Path) -> bool:
    """Tell whether what is to be written is what is read."""
    return path.exists() and Path(source).exists() and path.samefile(source)


def rate(text: str) -> float:
    """Read a sampling rate."""
    value = _number(text)
    if not 0.01 <= value <= 0.99:  # a patch of 32 x 32 needs some samples
        raise argparse.ArgumentTypeError(f"must lie in [0.01, 0.99], got {text}")
    return value


def noise(text: str) -> float:
    """Read a standard deviation of noise, relative to the largest value."""
    value = _number(text)
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"must lie in [0, 10], got {text}")
    return value


def duration(text: str) -> float:
    """Read a length of time."""
    value = _number(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def natural(text: str) -> int:
    """Read a whole number, 0 or more."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def positive(text: str) -> int:
    """Read a whole number, 1 or more."""
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
