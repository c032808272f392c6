"""The command line: ``svdinv``.

Each command has a module with `add`, which declares its arguments, and `run`, which
checks them all before any work begins. Expensive imports are deferred until needed.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from svdinv import __version__
from svdinv.cli.arguments import Parser, complain
from svdinv.unroll.plugins import MethodMissing

__all__ = ["main"]

_COMMANDS = {
    "demo": "start here: reconstruct a photograph and train briefly, or reconstruct a "
    "beating heart",
    "reconstruct": "reconstruct a picture or a series of your own",
    "fit": "reconstruct with an untrained network, fitted to one image",
    "train": "train a network",
    "evaluate": "measure how well a network reconstructs",
    "data": "list, show, inspect and write images and measured data",
    "info": "versions, frameworks, kernels, threads, devices and weights",
}

_CLOSED = 141  # a shell's exit code for SIGPIPE, which Windows does not have


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the arguments `argv`, by default ``sys.argv[1:]``.

    Returns the exit code: 0 on success; 1 if a computation broke down; 2 for invalid
    arguments, and files that cannot be read or written; 130 if interrupted; 141 if the
    output was closed, as by ``head``.
    """
    words = sys.argv[1:] if argv is None else argv
    streams = (s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper))
    strict = [stream for stream in streams if stream.errors == "strict"]
    for stream in strict:  # file names may not be encodable
        stream.reconfigure(errors="backslashreplace")
    parser = _parser(words)
    previous = _interrupt_on_sigterm()
    try:
        arguments = parser.parse_args(words)
        if arguments.command is None:
            parser.print_help()
            return 0
        code: int = arguments.run(arguments)
        if sys.stdout is not None:  # None if the shell closed it
            sys.stdout.flush()  # may raise for a full disk or a closed pipe
        return code
    except SystemExit as stop:  # raised by argparse
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has ended
        _discard_output()
        return _CLOSED
    except UnicodeEncodeError as error:
        text = ascii(error.object[:200])
        complain(f"svdinv {words[0]}: {error.encoding} cannot hold the text {text}")
        return 2
    except (ImportError, MethodMissing) as error:
        complain(f"svdinv {words[0]}: {error}")
        return 2
    except OSError as error:
        complain(f"svdinv: {error}")
        _discard_output()
        return 2
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        # On CPUs, PyTorch raises RuntimeError if memory is exhausted.
        text = str(error).partition("\n")[0]
        if isinstance(error, MemoryError) or "allocate" in text:
            complain(f"svdinv {words[0]}: not enough memory: {text}")
            return 2
        # By name: NumPy and PyTorch have separate classes, and PyTorch is optional.
        broken = isinstance(error, FloatingPointError)
        if not (broken or type(error).__name__.endswith("LinAlgError")):
            raise
        complain(
            "svdinv: broke down because numbers are not finite, possibly because "
            f"weights or data are too large: {error}"
        )
        return 1
    finally:
        for stream in strict:
            stream.reconfigure(errors="strict")
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _interrupt_on_sigterm() -> Any:
    """Make SIGTERM interrupt the program as Ctrl-C does; return the former handler."""
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def _discard_output() -> None:
    """Discard unwritten output, which Python would otherwise flush again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(words: Sequence[str]) -> Parser:
    parser = Parser(
        prog="svdinv",
        description=(
            "Reconstruct images from few samples with unrolled low-rank networks, and "
            "train such networks. Start with: svdinv demo"
        ),
    )
    parser.add_argument("--version", action="version", version=f"svdinv {__version__}")
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="command", parser_class=Parser
    )
    for name, help in _COMMANDS.items():
        if name in words:  # imports only the commands that are named
            importlib.import_module(f"svdinv.cli.{name}").add(commands, help)
        else:
            commands.add_parser(name, help=help)
    return parser
