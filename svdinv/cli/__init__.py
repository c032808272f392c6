"""The command line: ``svdinv``.

A module for each command, with `add`, which declares its arguments, and `run`, which
checks them all before any work begins. Nothing heavy is imported until a command
needs it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from svdinv import __version__
from svdinv.cli.arguments import Parser, complain

__all__ = ["main"]

_COMMANDS = {
    "demo": "the first thing to run: reconstruct a photograph, and train a little; or "
    "reconstruct a beating heart",
    "reconstruct": "reconstruct a picture or a series of your own",
    "fit": "reconstruct with an untrained network, fitted to the one image",
    "train": "train a network",
    "evaluate": "measure how well a network reconstructs",
    "data": "list, show, inspect and write images and measured data",
    "info": "versions, frameworks, kernels, threads, devices and weights",
}

_MOVED = {
    "compare": "python -m derivative_study",
    "stability": "python stability.py INPUT",
}
"""Commands that are programs in examples/ of the source tree now."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv`, by default what the program was given.

    Returns the exit code: 0 on success; 2 for arguments that make no sense, files that
    cannot be read and files that cannot be written; 1 where a computation broke down;
    130 where it was interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    parser = _parser(words)
    if words and words[0] in _MOVED:
        complain(
            f"svdinv {words[0]}: is a program of the source tree now; in its folder "
            f"examples: {_MOVED[words[0]]}"
        )
        return 2
    before = _ending_on_sigterm()
    try:
        arguments = parser.parse_args(words)
        if arguments.command is None:
            parser.print_help()
            return 0
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # a full disk or a closed pipe may show only now
        return code
    except SystemExit as stop:  # argparse leaves this way
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        complain(f"svdinv: {error}")
        _give_up_output()
        return 2
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        # PyTorch has an exception of its own for GPUs alone.
        text = str(error).partition("\n")[0]
        if isinstance(error, MemoryError) or "allocate" in text:
            complain(f"svdinv {words[0]}: not enough memory: {text}")
            return 2
        # NumPy and PyTorch have a LinAlgError each, and PyTorch may not be there.
        broken = isinstance(error, FloatingPointError)
        if not (broken or type(error).__name__.endswith("LinAlgError")):
            raise
        complain(
            "svdinv: broke down over numbers that are not finite, as of weights or "
            f"data that are too large: {error}"
        )
        return 1
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _ending_on_sigterm() -> Any:
    """Make SIGTERM end the program as Ctrl-C does, also during imports."""
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def _give_up_output() -> None:
    """Keep Python from trying once more, as it ends, what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(words: Sequence[str]) -> Parser:
    parser = Parser(
        prog="svdinv",
        description=(
            "Reconstruct images from few samples with unrolled low-rank networks, and "
            "train such networks. Begin with: svdinv demo"
        ),
    )
    parser.add_argument("--version", action="version", version=f"svdinv {__version__}")
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="command", parser_class=Parser
    )
    for name, help in _COMMANDS.items():
        if name in words:  # the one that is meant, or a word among its arguments
            importlib.import_module(f"svdinv.cli.{name}").add(commands, help)
        else:
            commands.add_parser(name, help=help)
    return parser
