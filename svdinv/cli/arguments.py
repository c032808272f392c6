"""What the commands of the command line share: their parser, and types of arguments."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

__all__ = [
    "Parser",
    "Subparsers",
    "complain",
    "duration",
    "natural",
    "need",
    "positive",
    "rate",
    "writable_folder",
]


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


def need(parser: Parser, packages: Mapping[str, str], extra: str) -> None:
    """Refuse to go on where packages are missing.

    Parameters
    ----------
    parser : Parser
        Of the command.
    packages : mapping of str to str
        Module to import, and the package that brings it.
    extra : str
        The extra of svdinv that installs them.
    """
    missing = [package for module, package in packages.items() if not find_spec(module)]
    if missing:
        parser.error(
            f"needs {', '.join(missing)}, not installed here: "
            f"pip install 'svdinv[{extra}]'"
        )


def writable_folder(parser: Parser, name: str, folder: Path) -> Path:
    """Make a folder, and refuse to go on where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        parser.error(f"argument {name}: cannot write to {folder}: {error}")
    return folder


def rate(text: str) -> float:
    """Read a sampling rate."""
    value = _number(text)
    if not 0.01 <= value <= 0.99:  # a patch of 32 x 32 needs some samples
        raise argparse.ArgumentTypeError(f"must lie in [0.01, 0.99], got {text}")
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
