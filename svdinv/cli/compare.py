"""``svdinv compare``: ways to differentiate the low-rank step, in one study."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    NETWORKS,
    Parser,
    Subparsers,
    add_fields,
    folder,
    need,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.study.plans import Study

__all__ = ["add", "run"]

_NEEDS = (*NETWORKS, "matplotlib")

_DESCRIPTION = """\
Train the same network (TLR-Net of Zhang and Hu, arXiv 2411.14141) from the same first
weights on the same batches, each time with another way to differentiate the step that
thresholds singular values. Tells which runs break down, at which step, layer and
spectrum, and the PSNR, SSIM and time of those that do not. Nothing is downloaded.
"""

_EPILOG = """\
methods, the ways to differentiate the low-rank step:
  svt                svdinv.torch.svt, an operator with a derivative of its own; the
                     others are compared to it
  consistent, minimum-norm, drop, clip, taylor, lorentz, none
                     svdinv.torch.svd with that rule for repeated singular values;
                     minimum-norm is that of Zhang and Hu, none the plain formula
  torch.linalg.svd   PyTorch's own

data, from photographs that come with scikit-image, and from yours:
  ordinary           patches in which no row and no column is flat
  flat               the same patches, made black but for a part: bands, a rectangle of
                     one colour, or two equal pieces; singular values repeat

A run is broken if a loss or gradient is not finite, if the norm of a gradient exceeds
1000 before it is clipped (usual norms are below 10), if the decomposition fails, or if
the PSNR of the validation falls by 10 dB.

examples:
  svdinv compare --quick                         half a minute, to see what comes of it
  svdinv compare                                 all of it, about 40 minutes on one core
  svdinv compare --methods svt torch.linalg.svd --rates 0.1 --steps 1000 --output long

Ctrl-C at any time: the same command goes on where it was, run by run. In the output
folder: study.csv (a row for each run), study.md (tables), study.png (plot), runs/.
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    compare = commands.add_parser(
        "compare",
        help=help,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    compare.set_defaults(run=run)
    compare.add_argument(
        "--output",
        type=folder,
        default=Path("study"),
        metavar="DIR",
        help="folder for all that is written; a study that was begun there with the "
        "same options goes on (default: study)",
    )
    compare.add_argument(
        "--quick",
        action="store_true",
        help="half a minute instead of 40: 2 rates, 1 seed, 30 steps and 3 cells where "
        "no other option says otherwise",
    )
    compare.late = _add_study


def _add_study(compare: Parser, words: list[str]) -> None:
    """Declare the options of a study, which takes long to import."""
    try:
        from svdinv.study.plans import Study
    except ImportError:  # what is missing is said by the command
        return
    add_fields(compare, Study)


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then do the study."""
    parser = arguments.parser
    need(parser, _NEEDS, "train")

    from svdinv.study.data import pool
    from svdinv.study.report import PLOT, TABLE, summary, write_report
    from svdinv.study.study import begin, compare

    try:
        study = _study(arguments)
        photographs = pool(study.photographs, study.patch)
    except ValueError as error:
        parser.error(str(error))
    output = writable_folder(parser, "--output", arguments.output)
    try:
        done = len(begin(study, output))
        print(
            f"{len(study.plans())} runs of {study.steps} steps, {done} of them done; "
            f"TLR-Net with {study.cells} cells; writes to {output}",
            flush=True,
        )
        rows, complete = compare(study, photographs, output)
    except ValueError as error:
        parser.error(str(error))
    if rows:
        write_report(study, rows, output)
        print(summary(study, rows))
    if not complete:
        print(
            f"Interrupted after {len(rows)} of {len(study.plans())} runs; the same "
            "command goes on from there.",
            file=sys.stderr,
        )
        return 130
    print(f"Tables: {output / TABLE}\nPlot: {output / PLOT}")
    return 0


def _study(arguments: argparse.Namespace) -> Study:
    from svdinv.study.plans import Study

    given: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(Study)
        if (value := getattr(arguments, field.name, None)) is not None
    }
    study = Study()
    return dataclasses.replace(study.quick() if arguments.quick else study, **given)
