"""``svdinv stability``: how a reconstruction answers to the worst small errors."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    Subparsers,
    add_computing,
    add_task_options,
    begin,
    filled,
    folder,
    naming,
    positive,
    positive_number,
    writable_folder,
)
from svdinv.cli.fit import PENALTY
from svdinv.cli.inputs import check_network, read_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svdinv.unroll.evaluation.stability import Answer
    from svdinv.unroll.problem import Problem

__all__ = ["add", "run"]

_WEIGHTS: dict[str, Any] = {"first": 0.01, "low": 1e-5, "high": 1.0}
_MOST, _CHANGE = 600, 3e-4  # iterations, and the change at which they have converged

_EPILOG = """\
examples:
  svdinv stability coffee --crop 128 --rate 0.4
  svdinv stability scan.npz --mask radial --sizes 0.01 0.03 0.1

For each size the perturbation of the data that moves the image most is found, for the
network and for total variation; every method meets both, and noise of that size.
Written are a table and a plot (.csv, .png).
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    stability = commands.add_parser(
        "stability",
        help=help,
        usage="svdinv stability INPUT [options]",
        description="Measure how methods answer to errors of the data, at their worst.",
        epilog=_EPILOG,
    )
    stability.set_defaults(run=run)
    stability.add_argument(
        "input",
        metavar="INPUT",
        type=filled,
        help="as for 'svdinv reconstruct', of known truth and a linear operator",
    )
    add_task_options(stability, several=False)
    stability.add_argument(
        "--weights",
        type=folder,
        metavar="PATH",
        help="as for 'svdinv reconstruct'",
    )
    stability.add_argument(
        "--prior",
        type=filled,
        help="an untrained prior beside the network, as for 'svdinv fit'",
    )
    stability.add_argument(
        "--iterations",
        type=positive,
        default=1000,
        help="of the untrained prior (default 1000)",
    )
    stability.add_argument(
        "--sizes",
        type=positive_number,
        nargs="+",
        default=[0.01, 0.03, 0.1],
        help="of the perturbations, relative to the data (default 0.01 0.03 0.1)",
    )
    stability.add_argument(
        "--steps",
        type=positive,
        default=10,
        help="gradients for each perturbation (default 10)",
    )
    stability.add_argument(
        "--output",
        type=folder,
        default=Path("svdinv-output"),
        metavar="DIR",
        help="folder (default svdinv-output)",
    )
    add_computing(stability)


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then measure."""
    parser = arguments.parser
    begin(arguments)
    from tqdm import tqdm

    from svdinv.unroll import pretrained
    from svdinv.unroll.evaluation.methods import file_stem
    from svdinv.unroll.evaluation.stability import stability, untrained_method
    from svdinv.unroll.fidelity import L2
    from svdinv.unroll.inference import open_network
    from svdinv.unroll.untrained import Options
    from svdinv.unroll.untrained.presets import generator_for

    source = arguments.input
    methods: dict[str, Any] = {}
    others: dict[str, Any] = {}
    try:
        if arguments.device not in ("auto", "cpu"):
            raise ValueError("argument --device: only cpu, for now")
        task, problem, *_ = read_input(arguments, source)
        if problem.truth is None:
            raise ValueError(f"argument INPUT: the truth of {source} is not known")
        if not problem.A.linear:
            raise ValueError(
                f"argument INPUT: {source} is measured by an operator that is not "
                "linear, and total variation is for linear ones"
            )
        if arguments.weights or task.kind in pretrained.names():
            with naming("--weights"):
                network = open_network(arguments.weights or task.kind)
            check_network(network, task, source, problem)
            methods["network"] = network.requires_grad_(False)
        squares = isinstance(problem.fidelity, L2)
        if not (methods or squares):
            raise ValueError(
                f"argument --weights: must be given, for none for {task.kind} come "
                "with svdinv, and total variation is not for counts"
            )
        if arguments.prior:
            generator = generator_for(arguments.prior, problem)
            settings = Options(
                iterations=arguments.iterations,
                input_noise=task.input_noise,
                penalty=PENALTY if generator.has_penalty else 0.0,
                seed=arguments.seed % 2**31,
            )
            others[arguments.prior] = untrained_method(
                generator, settings, task.initial_image
            )
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    output = writable_folder(parser, "--output", arguments.output)
    sizes = sorted(arguments.sizes)
    count = len(methods) + squares
    searches = len(sizes) * count
    every = searches * arguments.steps
    every += (count + len(others)) * (1 + len(sizes) + searches)
    print(f"{problem.name}: {task.describe(problem)}, {problem.setting}", flush=True)
    with tqdm(total=every, leave=False, file=sys.stderr, disable=None) as bar:
        if squares:
            bar.set_description("weight of TV")
            methods["TV"] = _total_variation(problem)
        answers = stability(
            problem,
            {name: _shown(bar, name, method) for name, method in methods.items()},
            {name: _shown(bar, name, method) for name, method in others.items()},
            sizes,
            steps=arguments.steps,
            seed=arguments.seed % 2**31,
            callback=bar.update,
        )
    print(_text(answers))
    stem = file_stem(Path(problem.name).name)
    table, plot = (output / f"{stem}-stability{end}" for end in (".csv", ".png"))
    _write(answers, table, plot, problem)
    print(f"\nWritten: {table}\nWritten: {plot}")
    return 0


def _shown(bar: Any, name: str, method: Any) -> Any:
    """Show the name of a method on the progress bar while it runs."""

    def apply(problem: Problem) -> Any:
        bar.set_description(name)
        return method(problem)

    return apply


def _total_variation(problem: Problem) -> Any:
    """Return total variation with the weight that is best for the truth."""
    import numpy as np

    from svdinv.unroll.algorithms import PDHG, solve
    from svdinv.unroll.algorithms.search import best_solution
    from svdinv.unroll.evaluation.stability import total_variation
    from svdinv.unroll.priors import TotalVariation

    def score(image: Any) -> float:
        return -20 * math.log10(np.linalg.norm(image - problem.truth))

    weight, _ = best_solution(
        problem, TotalVariation, score, algorithm=PDHG(), iterations=150, rtol=1e-4,
        **_WEIGHTS,
    )  # fmt: skip
    # Its derivative is that of as many iterations: enough, from the beginning.
    found = solve(
        problem, TotalVariation(weight), algorithm=PDHG(), iterations=_MOST,
        rtol=_CHANGE, objective=False,
    )  # fmt: skip
    return total_variation(weight, found.iterations)


def _text(answers: Sequence[Answer]) -> str:
    """Return the errors as a table: perturbations down, methods across."""
    methods = list(dict.fromkeys(a.method for a in answers))
    rows = list(dict.fromkeys((a.perturbation, a.size) for a in answers))
    found = {(a.method, a.perturbation, a.size): a.error for a in answers}
    lines = [
        f"{'relative error of the image':<34}" + "".join(f"{m:>14}" for m in methods)
    ]
    for what, size in rows:
        head = f"  {what}" + (f", {size:g}" if size else "")
        values = "".join(f"{found[m, what, size]:>14.4f}" for m in methods)
        lines.append(f"{head:<34}{values}")
    return "\n".join(lines)


def _write(
    answers: Sequence[Answer], table: Path, plot: Path, problem: Problem
) -> None:
    import dataclasses

    from svdinv.unroll.display.curves import save_curves
    from svdinv.unroll.display.tables import comma_separated
    from svdinv.unroll.evaluation.stability import Answer
    from svdinv.unroll.formats.atomic import replacing

    names = [f.name for f in dataclasses.fields(Answer)]
    with replacing(table) as file:
        file.write(comma_separated(names, map(dataclasses.astuple, answers)))
    curves: dict[str, list[tuple[float, float]]] = {}
    for a in answers:
        own = a.perturbation in ("random", f"worst for {a.method}")
        untrained = f"worst for {a.method}" not in {b.perturbation for b in answers}
        if a.perturbation != "none" and (own or untrained):
            curves.setdefault(f"{a.method}, {a.perturbation}", []).append(
                (a.size, a.error)
            )
    save_curves(
        plot,
        curves,
        x="size of the perturbation, relative to the data",
        y="relative error of the image",
        title=f"{problem.name}, {problem.setting}",
    )
