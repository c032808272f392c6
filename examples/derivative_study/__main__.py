"""Ways to differentiate the low-rank step, compared in one study.

    cd examples
    python -m derivative_study --quick

Needs ``svdinv[train]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from derivative_study.data import DATA, pool
from derivative_study.plans import METHODS, Study
from derivative_study.report import PLOT, TABLE, summary, write_report
from derivative_study.study import begin, compare

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
  python -m derivative_study --quick       under a minute, to see what comes of it
  python -m derivative_study               all of it, about 40 minutes on one core
  python -m derivative_study --methods svt torch.linalg.svd --rates 0.1 --steps 1000

Ctrl-C at any time: the same command goes on where it was, run by run. In the output
folder: study.csv (a row for each run), study.md (tables), study.png (plot), runs/.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="derivative_study",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=Path("study"),
        metavar="DIR",
        help="folder for all that is written; a study that was begun there with the "
        "same options goes on (default: study)",
    )
    add(
        "--quick",
        action="store_true",
        help="under a minute instead of 25: 2 rates, 1 seed, 30 steps and 3 cells, "
        "where no other option says otherwise",
    )
    several: dict[str, Any] = {"nargs": "+"}
    add("--methods", choices=METHODS, help="of those below (default: all)", **several)
    add("--data", choices=tuple(DATA), help="(default: both)", **several)
    add("--rates", type=float, help="sampling rates, from 0.01 to 0.99", **several)
    add("--seeds", type=int, help="number of seeds (default: 3)")
    add("--steps", type=int, help="steps of each training (default: 100)")
    add("--batch", type=int, help="patches of 32 x 32 in a step (default: 4)")
    add("--cells", type=int, help="cells of the network (default: 10, as published)")
    add("--photographs", metavar="PATH", help="pictures to train on, too", **several)
    add("--threads", type=int, help="threads of PyTorch (default: 1)")
    return parser


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the study that the command line describes; ValueError if there is none."""
    given: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(Study)
        if (value := getattr(arguments, field.name, None)) is not None
    }
    study = Study()
    return dataclasses.replace(study.quick() if arguments.quick else study, **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the study, and return the exit code: 130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    try:
        study = study_of(arguments)
        photographs = pool(study.photographs, study.patch)
        output.mkdir(parents=True, exist_ok=True)
        done = len(begin(study, output))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(
        f"{len(study.plans())} runs of {study.steps} steps, {done} of them done; "
        f"TLR-Net with {study.cells} cells; writes to {output}",
        flush=True,
    )
    rows, complete = compare(study, photographs, output)
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


if __name__ == "__main__":
    sys.exit(main())
