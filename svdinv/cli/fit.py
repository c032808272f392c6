"""``svdinv fit``: reconstruct with an untrained network, fitted to one image."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    Subparsers,
    add_computing,
    add_task_options,
    announce,
    begin,
    check_network,
    check_open,
    filled,
    folder,
    is_read,
    not_negative,
    positive,
    positive_number,
    read_input,
    writable_folder,
)
from svdinv.unroll.plugins import naming

if TYPE_CHECKING:
    from svdinv.unroll.evaluation import Files
    from svdinv.unroll.networks import Recipe
    from svdinv.unroll.problem import Problem
    from svdinv.unroll.tasks.task import Task
    from svdinv.unroll.torch import Network
    from svdinv.unroll.untrained import Fit, Fitting, Options

_PRIORS = ("dip", "deep-decoder", "conv-decoder", "bilinear", "low-rank-and-sparse")
_DEFAULT, _EDUCATED = "dip", "edip"
PENALTY = 0.01
_ITERATIONS, _RATE, _EDUCATED_RATE = 2000, 0.01, 3e-4
_RULES = ("held-out", "variance", "discrepancy", "sure", "none")

_EPILOG = """\
examples:
  svdinv fit coffee --rate 0.1                 from a tenth of a photograph's values
  svdinv fit noisy.png --no-truth              denoise a noisy picture
  svdinv fit scan.npz --mask radial --prior bilinear
  svdinv fit walnut-1 --views 30 --noise 0.01 --tv 1e-4
"""


def add(commands: Subparsers, help: str) -> None:
    """Declare the command."""
    fit = commands.add_parser(
        "fit",
        help=help,
        usage="svdinv fit INPUT [options]",
        description="Reconstruct with a network fitted to this measurement alone.",
        epilog=_EPILOG,
    )
    fit.set_defaults(run=run)
    fit.add_argument(
        "input", metavar="INPUT", type=filled, help="as for 'svdinv reconstruct'"
    )
    fit.option(
        "--prior",
        f"the network: {', '.join(_PRIORS)}, {_EDUCATED} (a trained one), or "
        "package.module:Class (default dip)",
        filled,
    )
    own = f"of a trained network (default with {_EDUCATED}: svdinv's own)"
    fit.option("--weights PATH", own, folder)
    fit.option(
        "--trained",
        "which weights are fitted (default all)",
        choices=("all", "decoder", "singular-values"),
        default="all",
    )
    add_task_options(fit, several=False)
    fit.switch("--no-truth", "the input is noisy data, not the truth")
    rule = "rule that ends the fit (default held-out)"
    fit.option("--stop", rule, choices=_RULES)
    deviation = "deviation in units of the data (default: from --noise)"
    fit.option("--deviation D", deviation, positive_number)
    most = f"most iterations (default {_ITERATIONS}, with {_EDUCATED} 100)"
    fit.option("--iterations N", most, positive)
    rate = f"default {_RATE}, with {_EDUCATED} {_EDUCATED_RATE}, unrolled 1e-4"
    fit.option("--learning-rate R", rate, positive_number)
    noise = "noise at the network's input (default by task)"
    fit.option("--input-noise D", noise, not_negative)
    fit.option(
        "--tv WEIGHT", "weight of the total variation (default 0)", not_negative, 0.0
    )
    low_rank = "weight of the nuclear norm of series (default 0)"
    fit.option("--low-rank WEIGHT", low_rank, not_negative, 0.0)
    sparse = "weight of the sparse part of low-rank-and-sparse (default 0.01)"
    fit.option("--penalty WEIGHT", sparse, not_negative)
    fit.yes_or_no("--start", "add the mean of the frames (default by task)")
    fit.yes_or_no("--baselines", "compare with all classical methods", False)
    state = "save the state of the fit here, and resume from it"
    fit.option("--checkpoint FILE", state, folder)
    output = Path("svdinv-output")
    fit.option("--output PATH", "as for 'svdinv reconstruct'", folder, output)
    add_computing(fit)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fitted, and to which data.

    The images of `generator` are those of `problem` divided by `unit`. `trained` is the
    generator with its weights, named `weights`, if it was trained. `noise` is the
    standard deviation of the noise of the data, None if it is unknown.
    """

    task: Task
    problem: Problem
    generator: Recipe
    unit: float = 1.0
    trained: Network | None = None
    weights: str = ""
    noise: float | None = None

    @property
    def predictor(self) -> Network | None:
        """The network, if it is fitted by predictions from recorrupted data.

        Without Gaussian noise, a trained generator is fitted like untrained ones.
        """
        from svdinv.unroll.fidelity import L2
        from svdinv.unroll.networks import Generator

        generator = self.generator
        if isinstance(generator, Generator):
            gaussian = self.noise != 0 and isinstance(self.problem.fidelity, L2)
            if not gaussian or generator.source != "adjoint":
                return None
        return self.trained

    @cached_property
    def reduced(self) -> Problem:
        """The problem without repeats, but unchanged for a trained network."""
        whole = self.trained is not None
        return self.problem if whole else self.task.without_repeats(self.problem)

    @property
    def fitted(self) -> Problem:
        """The problem whose images are those of the generator."""
        reduced, unit = self.reduced, self.unit
        if unit == 1:
            return reduced
        return dataclasses.replace(reduced, A=unit * reduced.A, truth=None)

    def finished(self, image: Any) -> Any:
        """Turn an image of the generator into one of the task."""
        import numpy as np

        image = self.unit * image
        if self.noise == 0 and self.problem.A.tight:  # exact data, restored
            image = self.reduced.A.consistent(image, self.reduced.y)
        if self.reduced is not self.problem:
            image = np.broadcast_to(image, self.problem.y.shape)
        return self.task.finished(np.ascontiguousarray(image))

    def decibels(self, image: Any) -> float:
        """Compare an image of the generator with the truth."""
        return self.task.decibels(self.problem, self.finished(image))


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, then fit."""
    parser = arguments.parser
    begin(arguments)

    from svdinv.unroll.display import comma_separated
    from svdinv.unroll.evaluation import files
    from svdinv.unroll.formats.atomic import replacing
    from svdinv.unroll.inference import device_of
    from svdinv.unroll.untrained import Record

    source = arguments.input
    state: Path | None = arguments.checkpoint
    try:
        device = device_of(arguments.device)
        plan = _plan(arguments, device)
        task, problem = plan.task, plan.problem
        options = _options(arguments, plan)
        prior = arguments.prior or (_EDUCATED if arguments.weights else _DEFAULT)
        written = files(arguments.output, task, problem, f"fit-{prior}")
        table = written.panel.with_name(
            f"{written.panel.name.removesuffix('-panel.png')}-iterations.csv"
        )
        for path in (*written, table):
            if path is not None and is_read(arguments, path, source):
                raise ValueError(f"argument --output: would replace {path}")
            if state is not None and path == state:
                raise ValueError(f"argument --checkpoint: would replace {path}")
        fitting = _fitting(arguments, plan, options, device)
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    writable_folder(parser, "--output", written.image.parent)
    if state is not None:
        writable_folder(parser, "--checkpoint", state.parent)
    announce(
        f"{problem.name}: {task.describe(problem)}, {problem.setting}, seed "
        f"{arguments.seed}\n"
    )
    if plan.trained is not None:
        announce(f"Starting from the weights: {plan.weights}\n")
    if fitting.iteration:
        announce(f"Resuming from iteration {fitting.iteration}: {state}\n")
    done, complete = _fit(arguments, plan, fitting, written)
    if done is None:
        print("Interrupted: nothing was written.")
        return 130
    names = [field.name for field in dataclasses.fields(Record)]
    with replacing(table) as file:
        rows = map(dataclasses.astuple, done.trajectory)
        file.write(comma_separated(names, rows))
    print("\n" + "\n".join(f"Written: {path}" for path in (*written, table) if path))
    place = f"at iteration {done.iterations}: this is the best image so far"
    if done.ending == "stopped":
        print(f"Interrupted {place}.")
        return 130
    if done.ending == "broken":
        print(f"Broken down {place}; try a smaller --learning-rate.")
        return 1
    if not complete:
        print("Interrupted after the image was written.")
        return 130
    return 0


def _plan(arguments: argparse.Namespace, device: str) -> _Plan:
    """Read the data, and choose the network to fit to them."""
    from svdinv.unroll import pretrained
    from svdinv.unroll.inference import open_network, shipped
    from svdinv.unroll.untrained.presets import generator_for

    task, problem, settings, measured = read_input(
        arguments, arguments.input, truth=not arguments.no_truth
    )
    check_open(arguments.input, problem)
    own = task.data_unit(problem) is None  # the file has the deviations
    unknown = (measured or arguments.no_truth) and not own
    noise = None if unknown else task.deviation(problem, settings)
    prior, weights = arguments.prior, arguments.weights
    if weights is None and prior != _EDUCATED:
        if prior is not None and prior not in _PRIORS and ":" not in prior:
            raise ValueError(
                f"argument --prior: must be one of {', '.join((*_PRIORS, _EDUCATED))}, "
                f"or package.module:Class, got {prior!r}"
            )
        with naming("argument --prior"):
            made: Any = generator_for(prior or _DEFAULT, task.without_repeats(problem))
        largest = task.largest(problem) if getattr(made, "bounded", False) else 1.0
        if largest == math.inf:
            largest = 1.0
            with naming("argument --prior", TypeError):
                made = dataclasses.replace(made, bounded=False)
        return _Plan(task, problem, made, largest, noise=noise)
    if prior not in (None, _EDUCATED):
        raise ValueError(f"argument --weights: does not apply to --prior {prior}")
    shipped_weights = shipped(task, problem)
    if not (weights or shipped_weights):
        raise ValueError(
            f"argument --prior: {prior} needs --weights, because svdinv has none for "
            f"{task.kind}"
        )
    with naming("argument --weights"):
        # By path, since a folder may have the same name.
        network = open_network(weights or pretrained.path(shipped_weights), device)
    check_network(network, task, arguments.input, problem)
    name = str(weights or shipped_weights)
    return _Plan(task, problem, network.recipe, 1.0, network, name, noise)


def _fitting(
    arguments: argparse.Namespace, plan: _Plan, options: Options, device: str
) -> Fitting:
    """Prepare the fit, or load it from its checkpoint."""
    from svdinv.unroll.formats.checks import check_regular
    from svdinv.unroll.untrained import Fitting

    # A trained network generates the whole image.
    start = plan.trained is None if arguments.start is None else arguments.start
    fitting = Fitting(
        plan.fitted,
        plan.generator,
        options,
        around=plan.task.initial_image if start and plan.predictor is None else None,
        weights=plan.trained,
        measure=None if plan.problem.truth is None else plan.decibels,
        device=device,
    )
    if arguments.checkpoint is not None and arguments.checkpoint.exists():
        with naming("argument --checkpoint"):
            check_regular(arguments.checkpoint)
            fitting.load(arguments.checkpoint)
    return fitting


def _fit(
    arguments: argparse.Namespace, plan: _Plan, fitting: Fitting, written: Files
) -> tuple[Fit | None, bool]:
    """Fit, compare, print and write.

    Returns the fit, None if nothing was written, and whether nothing interrupted it.
    """
    from svdinv.unroll.algorithms import Interrupted
    from svdinv.unroll.evaluation import classical, compare
    from svdinv.unroll.inference import NAMES, learned
    from svdinv.unroll.interrupts import interrupts
    from svdinv.unroll.tasks.task import Reconstruction

    task, problem = plan.task, plan.problem
    methods = classical(task, problem, which="all" if arguments.baselines else "first")
    sees_data = getattr(plan.generator, "source", "adjoint") == "adjoint"
    if plan.trained is not None and sees_data:
        name, device = NAMES[False], str(fitting.device)
        methods[name] = learned(plan.trained, task, device=device)[name]
    around = fitting.targets[0].around
    if around is not None:
        start = Reconstruction(task.finished(around[0].cpu().numpy()))
        methods["start of the fit"] = lambda problem: start
    fits: list[Fit] = []

    def fit(problem: Problem) -> Reconstruction:
        with interrupts() as interrupted:
            try:
                done = fitting.run(
                    arguments.checkpoint, stop=interrupted, progress=sys.stderr.isatty()
                )
            except Interrupted as interrupt:  # keep the image before the final step
                done = interrupt.solution
            except ValueError as error:  # the first image is not finite
                arguments.parser.error(str(error))
            # The final step may be interrupted after the last iteration.
            late = interrupted() and done.ending != "broken"
            fits.append(dataclasses.replace(done, ending="stopped") if late else done)
        return Reconstruction(plan.finished(fits[0].image), _describe_ending(fits[0]))

    def stopped() -> bool:
        return any(done.ending == "stopped" for done in fits)

    methods["fit"] = fit
    compared = compare(task, problem, methods, written, "fit", stopped=stopped)
    return fits[0] if compared.written else None, compared.complete


def _describe_ending(done: Fit) -> str:
    reasons = {
        "rule": "stopped by its rule",
        "iterations": "all iterations done",
        "broken": "broke down repeatedly",
    }
    note = f"iteration {done.best} of {done.iterations}"
    note += f", {reasons.get(done.ending, 'interrupted')}"
    if done.step:
        note += f", step towards the data {done.step:g}"
    if done.rollbacks:
        note += f", {len(done.rollbacks)} rollbacks"
    return note


def _options(arguments: argparse.Namespace, plan: _Plan) -> Options:
    """Return the options of the fit."""
    from svdinv.unroll.untrained import Options, educated

    task, problem, generator = plan.task, plan.problem, plan.generator
    if arguments.start is not None and not task.moving:
        raise ValueError(f"argument --start: does not apply to {task.images}")
    if arguments.start and len(problem.y) == 1:
        raise ValueError("argument --start: does not apply to a single frame")
    from_weights = plan.predictor or arguments.weights
    if arguments.trained == "singular-values" and not from_weights:
        raise ValueError("argument --trained: singular-values needs --weights")
    if arguments.penalty is not None and not generator.has_penalty:
        raise ValueError("argument --penalty: does not apply to this network")
    penalty = PENALTY if arguments.penalty is None else arguments.penalty
    deviation = _deviation(arguments, plan)
    how = {
        "iterations": arguments.iterations,
        "rate": arguments.learning_rate,
        "rule": _rule(arguments, plan, deviation),
        "prior": _prior(arguments, plan),
        "penalty": penalty if generator.has_penalty else 0.0,
        "trained": arguments.trained.replace("-", " "),
        "seed": arguments.seed % 2**31,
    }
    input_noise = arguments.input_noise
    if plan.predictor:
        if input_noise is not None:
            raise ValueError("argument --input-noise: does not apply to this network")
        with naming("argument --prior"):
            options = {name: value for name, value in how.items() if value is not None}
            return educated(problem, plan.predictor, deviation or None, **options)
    rate = _RATE if arguments.weights is None else _EDUCATED_RATE
    how["iterations"] = arguments.iterations or _ITERATIONS
    how["rate"] = arguments.learning_rate or rate
    how["input_noise"] = task.input_noise if input_noise is None else input_noise
    return Options(**how)


def _deviation(arguments: argparse.Namespace, plan: _Plan) -> float | None:
    """Return the standard deviation of the noise, None if it is unknown."""
    if arguments.deviation is None:
        return plan.noise
    unit = plan.task.data_unit(plan.problem)
    if unit is None:
        raise ValueError(
            f"argument --deviation: does not apply to {plan.task.images}, whose data "
            "come with their deviations"
        )
    deviation: float = arguments.deviation / unit
    largest = abs(plan.problem.y).max()
    if deviation > largest:
        raise ValueError(
            f"argument --deviation: {arguments.deviation:g} exceeds all data, in units "
            f"of which the largest is {unit * largest:.3g}"
        )
    return deviation


def _rule(arguments: argparse.Namespace, plan: _Plan, deviation: float | None) -> Any:
    """Return the rule that ends the fit, None for none."""
    from svdinv.unroll.untrained import SURE, Discrepancy, HeldOut, MovingVariance

    stop = arguments.stop or ("none" if plan.predictor else "held-out")
    if plan.predictor and stop == "held-out":
        raise ValueError(
            "argument --stop: held-out would remove data that this network needs"
        )
    if stop in ("discrepancy", "sure"):
        if not deviation:
            raise ValueError(f"argument --stop: {stop} needs --deviation")
        kind = Discrepancy if stop == "discrepancy" else SURE
        rule: Any = kind(deviation=deviation)
        with naming("argument --stop"):
            rule.check(plan.problem)
        return rule
    if arguments.deviation is not None and not plan.predictor:
        raise ValueError(f"argument --deviation: does not apply to --stop {stop}")
    return {"held-out": HeldOut(), "variance": MovingVariance(), "none": None}[stop]


def _prior(arguments: argparse.Namespace, plan: _Plan) -> Any:
    """Return the prior of the image, None for none."""
    from svdinv.unroll.priors import Casorati, HuberVariation

    if arguments.low_rank and plan.task.channels is not None:
        raise ValueError(f"argument --low-rank: does not apply to {plan.task.images}")
    if arguments.low_rank and arguments.tv:
        raise ValueError("argument --low-rank: not allowed with --tv")
    if arguments.tv:
        return HuberVariation(plan.unit * arguments.tv, 0.01 / plan.unit)
    return Casorati(plan.unit * arguments.low_rank) if arguments.low_rank else None
