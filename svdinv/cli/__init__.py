"""The command line: ``svdinv``.

A module for each command, with `add`, which declares its arguments, and `run`, which
checks them all before any work begins. Nothing heavy is imported until a command
needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from svdinv import __version__
from svdinv.cli import compare, data, demo, evaluate, reconstruct, train
from svdinv.cli.arguments import Parser, complain

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the name of the program; `sys.argv` by default.

    Returns
    -------
    int
        Exit code: 0 on success; 2 for arguments that make no sense, files that
        cannot be read and files that cannot be written; 1 where a training broke
        down; 130 where it was interrupted.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help()
            return 0
        return arguments.run(arguments)
    except SystemExit as stop:  # argparse leaves this way
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        complain(f"svdinv: {error}")
        return 2


def _parser() -> Parser:
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
    for command in (demo, reconstruct, train, evaluate, compare, data):
        command.add(commands)
    return parser
