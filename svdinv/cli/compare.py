"""``svdinv compare``: ways to differentiate the low-rank step, in one study."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    NETWORKS,
    Subparsers,
    folder,
    need,
    positive,
    rate,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.study.study import Study

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


def add(commands: Subparsers) -> None:
    """Declare the command."""
    compare = commands.add_parser(
        "compare",
        help="train one network through every derivative of the SVD, and compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.set_defaults(parser=compare, run=run)
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
    compare.add_argument(
        "--methods", nargs="+", metavar="NAME", help="of those below (default: all)"
    )
    compare.add_argument(
        "--data", nargs="+", metavar="NAME", help="ordinary, flat (default: both)"
    )
    compare.add_argument(
        "--rates",
        nargs="+",
        type=rate,
        metavar="RATE",
        help="sampling rates, from 0.01 to 0.99 (default: 0.04 0.1 0.3 0.4 0.5)",
    )
    compare.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help="number of seeds, 0 to N - 1, of first weights and batches (default: 3)",
    )
    compare.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="steps of each training (default: 100, which keeps all within 40 minutes)",
    )
    compare.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="patches of 32 x 32 in a step (default: 4, for the same reason)",
    )
    compare.add_argument(
        "--cells",
        type=positive,
        metavar="N",
        help="cells of the network (default: 10, as published)",
    )
    compare.add_argument(
        "--photographs",
        nargs="+",
        metavar="PATH",
        help="folders and files of pictures to train on besides those built in",
    )
    compare.add_argument(
        "--threads", type=positive, metavar="N", help="threads of PyTorch (default: 1)"
    )


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
    from svdinv.study.study import Study

    several = ("methods", "data", "rates", "photographs")
    single = ("seeds", "steps", "batch", "cells", "threads")
    given: dict[str, Any] = {
        name: tuple(value) if name in several else value
        for name in (*several, *single)
        if (value := getattr(arguments, name)) is not None
    }
    study = Study()
    return replace(study.quick() if arguments.quick else study, **given)
