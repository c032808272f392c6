"""How a reconstruction answers to small errors of its data, at their worst.

    python examples/stability.py coffee --crop 128 --rate 0.4
    python examples/stability.py scan.npz --mask radial --sizes 0.01 0.03 0.1

A perturbation e of the data is looked for, of given size, that moves the image most, by
gradient ascent through the reconstruction (Antun, Renna, Poon, Adcock & Hansen, PNAS
2020). Where the reconstruction is linear this is the power method, and e is its leading
right singular vector. For each size it is found for the network and for total
variation; every method meets both, and noise of that size. Written are a table and a
plot (.csv, .png). Needs ``svdinv[train]``.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute
from tqdm import tqdm

from svdinv.cli.arguments import (
    Parser,
    add_computing,
    add_task_options,
    begin,
    check_network,
    filled,
    folder,
    naming,
    positive,
    positive_number,
    read_input,
    writable_folder,
)
from svdinv.cli.fit import PENALTY
from svdinv.unroll import pretrained
from svdinv.unroll.algorithms import PDHG, solve
from svdinv.unroll.algorithms.search import best_solution
from svdinv.unroll.display import comma_separated
from svdinv.unroll.display.pictures import new_figure
from svdinv.unroll.evaluation import file_stem
from svdinv.unroll.fidelity import L2
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.inference import open_network
from svdinv.unroll.networks import Recipe
from svdinv.unroll.priors import TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import tensor
from svdinv.unroll.untrained import Options, fit
from svdinv.unroll.untrained.presets import generator_for

_WEIGHTS: dict[str, Any] = {"first": 0.01, "low": 1e-5, "high": 1.0}
_MOST, _CHANGE = 600, 3e-4  # iterations, and the change at which they have converged
_BLOCK = 15  # iterations whose intermediate images are kept at a time

Differentiable = Callable[[Problem], Tensor]
"""From a problem with a batch axis, of tensors, to images; differentiable in ``y``."""


def worst_case(
    reconstruct: Differentiable,
    problem: Problem,
    size: float,
    *,
    steps: int = 10,
    seed: int = 0,
    callback: Callable[[], None] = lambda: None,
) -> Any:
    """Find the perturbation of the data that changes the image most.

    ``max |f(y + e) - f(y)|`` over ``|e| = size |y|`` where there are data, by so many
    steps ``e <- size |y| g / |g|`` with g the gradient of half the square, from a
    random e. Gives the e that moved the image most. Raises ValueError if an option is
    out of range.
    """
    if not size > 0 or steps < 1:
        raise ValueError(
            f"size must be positive and steps at least 1, got {size}, {steps}"
        )
    device = torch.device("cpu")
    convert = partial(tensor, device=device)
    given = replace(problem, truth=None).single().replace_arrays(convert)
    y, A = given.y, given.A
    length = size * float(torch.linalg.vector_norm(A.project_to_samples(y)))
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((2, *y.shape)).astype(np.float32)
    first = drawn[0] + 1j * drawn[1] if y.is_complex() else drawn[0]

    def sized(e: Tensor) -> Tensor:
        e = A.project_to_samples(e)
        return e * (length / torch.linalg.vector_norm(e).clamp_min(1e-30))

    with torch.no_grad():
        usual = reconstruct(given)
    e = sized(torch.from_numpy(first).to(y))
    best, most = e, -1.0
    for _ in range(steps):
        e = e.detach().requires_grad_()
        moved = reconstruct(replace(given, y=y + e)) - usual
        square = moved.abs().square().sum()
        (g,) = torch.autograd.grad(square, e)
        if square.item() > most:
            best, most = e.detach(), square.item()
        if not float(torch.linalg.vector_norm(g)) > 0:
            break
        e = sized(g)
        callback()
    with torch.no_grad():
        moved = reconstruct(replace(given, y=y + e)) - usual
        if float(moved.abs().square().sum()) > most:
            best = e
    return best[0].detach().numpy()


@dataclass(frozen=True)
class Answer:
    """Error of a method, ``|image - truth| / |truth|``, with perturbed data.

    The perturbation is "none", "random", or "worst for" and the name of a method; its
    size is relative to the data.
    """

    method: str
    perturbation: str
    size: float
    error: float


def stability(
    problem: Problem,
    methods: Mapping[str, Differentiable],
    others: Mapping[str, Differentiable],
    sizes: Sequence[float],
    *,
    steps: int = 10,
    seed: int = 0,
    callback: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Measure how the error of methods grows with errors of the data.

    Differentiable methods each meet random noise and what is worst for each, of `sizes`
    relative to the data. Others meet the same: what is worst for another method is not
    the worst for them. `callback` is called after each step and each reconstruction.
    Raises ValueError if the truth is not known.
    """
    if problem.truth is None:
        raise ValueError("problem: the truth must be known")
    y, truth = np.asarray(problem.y), np.asarray(problem.truth)
    scale = np.linalg.norm(np.asarray(problem.A.project_to_samples(y)))
    rng = np.random.default_rng([seed, 3])
    noise = rng.standard_normal(y.shape) + 0 * y
    if np.iscomplexobj(y):
        noise = noise + 1j * rng.standard_normal(y.shape)
    noise = np.asarray(problem.A.project_to_samples(noise.astype(y.dtype)))
    noise = noise / np.linalg.norm(noise)
    found = [("none", 0.0, np.zeros_like(y))]
    for size in sizes:
        found.append(("random", size, size * scale * noise))
        for name, method in methods.items():
            e = worst_case(
                method, problem, size, steps=steps, seed=seed, callback=callback
            )
            found.append((f"worst for {name}", size, e))
    answers = []
    convert = partial(tensor, device=torch.device("cpu"))
    for name, method in {**methods, **others}.items():
        for what, size, e in found:
            moved = replace(problem, y=(y + e).astype(y.dtype), truth=None).single()
            with torch.no_grad():
                image = method(moved.replace_arrays(convert))[0].numpy()
            error = np.linalg.norm(image - truth) / np.linalg.norm(truth)
            answers.append(Answer(name, what, size, float(error)))
            callback()
    return answers


def total_variation(weight: float, iterations: int = 150) -> Differentiable:
    """Return total variation by a fixed number of PDHG iterations, as a method."""
    prior = TotalVariation(weight)

    def some(problem: Problem, y: Tensor, state: Any, parameters: Any) -> Any:
        done = solve(
            replace(problem, y=y),
            prior,
            algorithm=PDHG(),
            iterations=_BLOCK,
            rtol=0.0,
            state=state,
            parameters=parameters,
            objective=False,
        )
        return done.state, done.parameters

    def reconstruct(problem: Problem) -> Tensor:
        with torch.no_grad():  # for the steps alone
            _, parameters = some(problem, problem.y, None, None)
        state: Any = None
        for _ in range(-(-iterations // _BLOCK)):
            if torch.is_grad_enabled():  # keeps the memory of one block
                state, _ = recompute(
                    some, problem, problem.y, state, parameters, use_reentrant=False
                )
            else:
                state, _ = some(problem, problem.y, state, parameters)
        return state["x"]

    return reconstruct


def untrained_method(
    generator: Recipe, options: Options, around: Callable[[Problem], Any]
) -> Differentiable:
    """Return an untrained prior as a method without derivative."""

    def reconstruct(problem: Problem) -> Tensor:
        one = replace(problem, y=problem.y[0])
        with torch.enable_grad():
            done = fit(one, generator, options, around=around, progress=False)
        return torch.from_numpy(done.image)[None]

    return reconstruct


def _parser() -> Parser:
    parser = Parser(
        prog="stability.py",
        usage="stability.py INPUT [options]",
        description="Measure how methods answer to errors of the data, at their worst.",
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=filled,
        help="as for 'svdinv reconstruct', of known truth and a linear operator",
    )
    add_task_options(parser, several=False)
    parser.add_argument(
        "--weights",
        type=folder,
        metavar="PATH",
        help="as for 'svdinv reconstruct'",
    )
    parser.add_argument(
        "--prior",
        type=filled,
        help="an untrained prior beside the network, as for 'svdinv fit'",
    )
    parser.add_argument(
        "--iterations",
        type=positive,
        default=1000,
        help="of the untrained prior (default 1000)",
    )
    parser.add_argument(
        "--sizes",
        type=positive_number,
        nargs="+",
        default=[0.01, 0.03, 0.1],
        help="of the perturbations, relative to the data (default 0.01 0.03 0.1)",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=10,
        help="gradients for each perturbation (default 10)",
    )
    parser.add_argument(
        "--output",
        type=folder,
        default=Path("svdinv-output"),
        metavar="DIR",
        help="folder (default svdinv-output)",
    )
    add_computing(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check all that can be checked, then measure; return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    begin(arguments)

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
            {name: _named(bar, name, method) for name, method in methods.items()},
            {name: _named(bar, name, method) for name, method in others.items()},
            sizes,
            steps=arguments.steps,
            seed=arguments.seed % 2**31,
            callback=bar.update,
        )
    print(format_table(answers))
    stem = file_stem(Path(problem.name).name)
    table, plot = (output / f"{stem}-stability{end}" for end in (".csv", ".png"))
    _write(answers, table, plot, problem)
    print(f"\nWritten: {table}\nWritten: {plot}")
    return 0


def _named(bar: Any, name: str, method: Any) -> Any:
    """Show the name of a method on the progress bar while it runs."""

    def apply(problem: Problem) -> Any:
        bar.set_description(name)
        return method(problem)

    return apply


def _total_variation(problem: Problem) -> Any:
    """Return total variation with the weight that is best for the truth."""

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


def format_table(answers: Sequence[Answer]) -> str:
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
    """Write the errors to a table, and curves of them to a plot."""
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
    figure = new_figure((6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        style = "--" if name.endswith("random") else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", ms=3.5, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="size of the perturbation, relative to the data",
        ylabel="relative error of the image",
        title=f"{problem.name}, {problem.setting}",
    )
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize="small", frameon=False)
    with replacing(plot) as file:
        figure.savefig(file, format="png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
