"""Fit a generator to one measurement.

``weights = argmin of D(A f(z), y) + R(f(z))`` by Adam (Ulyanov, Vedaldi & Lempitsky,
CVPR 2018), ended by a rule that does not know the truth. What it gives is the
exponential average of the iterates, as that was where the rule is least, and from there
a step towards the data, as far as data that are held out allow::

    image = argmin of |A x - y|^2 + weight |x - average|^2

A network learns the last of an image slowly. Where A sees most of it, as several coils
do, the data know it better. Where each datum is the value of a pixel, a part of the
residual is brought back, and `svdinv.unroll.untrained.residual` takes the noise out.

A trained network that sees the data needs another loss: it soon repeats their noise,
and leaving some of them out spoils what it sees. In each iteration it is given data
with more noise, and has to predict others, whose noise is independent of that::

    D(A f(y + n / 2), y - 2 n),  n of the covariance of the noise

Its expectation is that of data without noise, and a constant (Recorrupted-to-
Recorrupted, Pang, Zheng, Quan & Ji, CVPR 2021).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

import svdinv.torch
from svdinv import __version__
from svdinv.unroll.algorithms import ADMM, Interrupted
from svdinv.unroll.algorithms.cross_validation import restricted
from svdinv.unroll.arrays import to_numpy
from svdinv.unroll.fidelity import L2
from svdinv.unroll.networks import Generator, Recipe
from svdinv.unroll.networks.recipe import to_json
from svdinv.unroll.operators import Sampling
from svdinv.unroll.priors import Prior
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, tensor
from svdinv.unroll.training.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from svdinv.unroll.untrained.residual import cleaned
from svdinv.unroll.untrained.stopping import HeldOut, Rule, Seen

__all__ = ["Fit", "Fitting", "Options", "Record", "educated", "fit"]

Trained = Literal["all", "decoder", "singular values"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a generator is fitted.

    Attributes
    ----------
    iterations : int
        Iterations, at most.
    rate : float
        Learning rate of Adam.
    input_noise : float
        Standard deviation of the noise that is added to the input in each iteration.
    average : float
        Share that the average of the iterates keeps in an iteration, in [0, 1).
    rule : Rule or None
        When to stop; None fits to the end, and keeps the last average.
    prior : Prior or None
        R, weighted as beside the data fidelity in a classical method. It has to be
        smooth or nearly so (`HuberVariation` for total variation).
    penalty : float
        Weight of the generator's own penalty.
    snapshots : int
        Iterations from one set of weights kept for `Fit.snapshots` to the next; 0
        keeps none.
    trained : {"all", "decoder", "singular values"}
        What is fitted: all weights; those of no encoder, which of an unrolled network
        is the first half of the cells; or of each convolution as a matrix the singular
        values alone (Nittscher et al., SVD-DIP, PMLR 227).
    recorrupted : float
        Standard deviation of the noise in the data, Gaussian and white; of complex
        data, of both parts together. Other than 0, the network sees data with more
        noise and is fitted to others, as at the top of this module, in place of
        `input_noise`; any trained network will do then, and no rule that leaves data
        out.
    preconditioned : bool
        Whether the residual is weighted as
        `svdinv.unroll.operators.Operator.preconditioned` tells.
    consistent : bool
        Whether the average takes a step towards the data at the end. Only with
        `HeldOut`, whose data say how far, a linear operator and `L2`; else it is left
        as it is. Of real images of which `Sampling` takes values, low rank of patches
        that look alike takes out the noise of the step.
    every : int
        Iterations from one look at the rule to the next.
    seed : int
        Of first weights, of the noise and of what the rule draws.

    Raises
    ------
    ValueError
        If an attribute makes no fit, which is named.
    """

    iterations: int = 2000
    rate: float = 1e-2
    input_noise: float = 0.03
    average: float = 0.99
    rule: Rule | None = field(default_factory=HeldOut)
    prior: Prior | None = None
    penalty: float = 0.0
    snapshots: int = 0
    trained: Trained = "all"
    recorrupted: float = 0.0
    preconditioned: bool = False
    consistent: bool = True
    every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "every"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("input_noise", "penalty", "snapshots", "recorrupted"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must not be negative, got {getattr(self, name)!r}"
                )
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be positive, got {self.rate!r}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must lie in [0, 1), got {self.average!r}")
        known = ("all", "decoder", "singular values")
        if self.trained not in known:
            raise ValueError(f"trained must be one of {known}, got {self.trained!r}")
        if self.recorrupted and self.rule is not None and self.rule.withholds:
            raise ValueError(
                f"recorrupted: {type(self.rule).__name__} leaves data out; rule must "
                "be None or another"
            )


def educated(
    problem: Problem,
    network: Network,
    deviation: float | None = None,
    **changes: Any,
) -> Options:
    """Return default `Options` to fine-tune a trained network on its own input.

    Parameters
    ----------
    problem : Problem
        Of one image, as for `fit`.
    network : Network
        The trained network.
    deviation : float, optional
        Standard deviation of the noise in the data; by default the root mean square of
        what the network leaves of them.
    **changes
        Attributes to change.

    Returns
    -------
    Options
        Of a hundred iterations, to recorrupted data and with preconditioned residuals.
        The learning rate is 1e-4, and 3e-4 of a generator.

    Raises
    ------
    ValueError
        If the fidelity is none of white Gaussian noise, `deviation` is not positive,
        or none is given and the network explains the data exactly, noise and all.
    """
    if not problem.has_white_noise:
        raise ValueError("problem must have an L2 fidelity without weights")
    if deviation is None:
        device = next(network.parameters()).device
        single = replace(problem, truth=None).single()
        single = single.replace_arrays(partial(tensor, device=device))
        network = copy.deepcopy(network).to(single.y.real.dtype)
        with torch.no_grad():
            rest = single.A.project_to_samples(
                single.A.forward(network(single)) - single.y
            )
            count = single.sampled_mask().sum().clamp(min=1)
            deviation = float((rest.abs().square().sum() / count).sqrt())
            exact = deviation <= _EXACT * float(single.y.abs().square().mean().sqrt())
        if exact:
            raise ValueError(
                "the network explains the data exactly, so that it does not tell their "
                "noise: deviation must be given"
            )
        # A fit goes on from its checkpoint where the last bits are others, as on a GPU.
        deviation = float(f"{deviation:.4g}")
    elif not 0 < deviation < math.inf:
        raise ValueError(f"deviation must be positive, got {deviation!r}")
    usual: dict[str, Any] = {
        "iterations": 100,
        "rate": 3e-4 if isinstance(network.recipe, Generator) else 1e-4,
        "average": 0.95,
        "rule": None,
        "recorrupted": deviation,
        "preconditioned": True,
    }
    return Options(**usual | changes)


@dataclass(frozen=True)
class Record:
    """How far a fit has come at one iteration.

    Attributes
    ----------
    iteration : int
        From 1.
    loss : float
        What is minimised, for each datum.
    data : float
        Data fidelity of the iterate, for each datum.
    criterion : float
        What the rule wants small; infinite where there is none yet.
    decibels : float
        Of the averaged image, where somebody knows the truth; NaN else.
    """

    iteration: int
    loss: float
    data: float
    criterion: float
    decibels: float


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit gives.

    Attributes
    ----------
    image : ndarray
        The average of the iterates where the rule was least, or what the step towards
        the data makes of it.
    average : ndarray
        That average.
    last : ndarray
        The average of the iterates at the end.
    best : int
        Iteration of `image`.
    iterations : int
        Iterations done.
    ending : {"rule", "iterations", "stopped", "broken"}
        Why it ended; "broken" where it broke down again and again.
    trajectory : list of Record
        One for each look at the rule.
    rollbacks : list of int
        Iterations at which the fit had broken down, and went back to earlier weights.
    network : Network
        The generator with its weights at the end.
    seconds : float
        Wall-clock time of this part.
    snapshots : list of dict of str to Tensor
        Weights at several times of this part, for
        `svdinv.unroll.untrained.directions`.
    step : float
        How large the step towards the data was: of values of pixels the part of what
        was left that was brought back, in [0, 1]; else the penalty on leaving the
        average, where that of `ADMM` is 1, so that less is more of a step. 0 where none
        was taken.
    """

    image: Any
    average: Any
    last: Any
    best: int
    iterations: int
    ending: Literal["rule", "iterations", "stopped", "broken"]
    trajectory: list[Record]
    rollbacks: list[int]
    network: Network
    seconds: float
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)
    step: float = 0.0


class Fitting:
    """A fit, step by step; `fit` does all of it.

    The same seed gives the same bits on one machine with one number of threads, also
    where it was interrupted and resumed.

    Parameters
    ----------
    problem, generator, options, around, weights, measure, device
        As for `fit`; the generator is of one cell, whose state has ``"z"``, what the
        network sees. To recorrupted data any network is fitted.

    Raises
    ------
    TypeError, ValueError
        If these do not go together.
    """

    def __init__(
        self,
        problem: Problem,
        generator: Recipe,
        options: Options,
        *,
        around: Any = None,
        weights: Network | None = None,
        measure: Callable[[Any], float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(problem, Problem):
            raise TypeError(f"problem must be a Problem, got {type(problem).__name__}")
        self.options, self.recipe, self.measure = options, generator, measure
        self.device = torch.device(device)
        self._check(problem)
        convert = partial(tensor, device=self.device)
        single = replace(problem, truth=None).single()
        self.problem = single.replace_arrays(convert).only_measured()
        self.measured, y = self.problem.sampled_mask(), self.problem.y
        self.rule = rule = options.rule or _NoRule()
        rule.check(self.problem)
        self.count = int(self.measured.sum())
        if not self.count:
            raise ValueError("problem: nothing is measured")
        self.chosen = rule.choose(self.problem, self.measured, options.seed)
        self.left_out = self.chosen if rule.withholds else None
        if self.left_out is not None:
            self.count -= int(self.left_out.sum())
        self.targets = [self.problem]
        if rule.probes:
            moved = replace(self.problem, y=y + rule.probes * self.chosen)
            self.targets.append(moved)
        # What a network sees, or is added to, may know what is fitted and no more.
        unknown = self.left_out
        if hasattr(getattr(self.problem.fidelity, "weight", None), "dtype"):
            # Zeros in the place of data of weight 0 would be data.
            gaps = ~self.measured
            unknown = gaps if unknown is None else unknown | gaps
        self.states, self.arounds = [], []
        for target in self.targets:
            known = target
            if unknown is not None:
                known = _without(target, unknown)
            with torch.no_grad():
                self.states.append(self._begun(known))
            self.arounds.append(self._around(around, known, convert))
        self.state = self.states[0]
        generates = "z" in self.state and generator.cells == 1
        if not (generates or options.recorrupted):
            raise TypeError(f"{type(generator).__name__} is no generator")
        self.models = nn.ModuleList(
            _Model(generator, options, weights, state) for state in self.states
        ).to(self.device)
        learned = [p for p in self.models.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learned, lr=options.rate)
        self._identity = self._data()
        x = self.state["x"]
        self.kept = _Kept(x, y, len(self.targets), rule)
        self.iteration, self.best, self.best_value = 0, 0, math.inf
        self.trajectory: list[Record] = []
        self.rollbacks: list[int] = []
        self._first = math.nan
        self._snapshots: list[dict[str, Tensor]] = []
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._remember()

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        callback: Callable[[Record], bool | None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: bool = True,
    ) -> Fit:
        """Iterate until it ends.

        Parameters
        ----------
        checkpoint, callback, stop, progress
            As for `fit`; the file is written to every minute, and at the end.

        Returns
        -------
        Fit
            The image, and how it went.

        Raises
        ------
        OSError
            If the checkpoint cannot be written.
        Interrupted
            On Ctrl-C in the step towards the data, with the fit without it.
        """
        began = saved = time.monotonic()
        ending: Any = self.ended()
        with tqdm(
            total=self.options.iterations,
            initial=self.iteration,
            desc="fit",
            disable=not progress,
        ) as bar:
            while not ending:
                record = self.step()
                bar.update()
                if record is not None:
                    told = f"data {record.data:.3g}"
                    if math.isfinite(record.decibels):
                        told += f", {record.decibels:.2f} dB"
                    bar.set_postfix_str(told)
                asked = record is not None and callback is not None and callback(record)
                ending = self.ended()
                if not ending and (asked or stop()):
                    ending = "stopped"
                sound = self.iteration % REMEMBER == 0
                due = sound and time.monotonic() - saved > _SAVE_EVERY
                if checkpoint is not None and ending != "broken" and (ending or due):
                    self.save(checkpoint)
                    saved = time.monotonic()
        return self.result(ending, time.monotonic() - began)

    def step(self) -> Record | None:
        """Iterate once; a record where the rule was looked at."""
        options, kept = self.options, self.kept
        self.iteration += 1
        self.optimiser.zero_grad(set_to_none=True)
        found = [self._evaluated(i) for i in range(len(self.targets))]
        images, measured, losses, data = zip(*found, strict=True)
        told = torch.stack([losses[0].detach(), data[0]]).tolist()
        if self.iteration == 1:
            self._first = told[1]
            if not all(map(math.isfinite, told)):
                raise ValueError(
                    "problem: the data fidelity or the prior of the first image is not "
                    f"finite, {told}"
                )
        if self._broken(told[1]):
            return None
        sum(losses).backward()
        for group in self.optimiser.param_groups:
            group["lr"] = options.rate * _SLOWER ** len(self.rollbacks)
        self.optimiser.step()
        if self.iteration % REMEMBER == 0:
            self._remember()
        if options.snapshots and self.iteration % options.snapshots == 0:
            weights = self.models[0].weights().state_dict()
            self._snapshots.append({k: v.clone() for k, v in weights.items()})
        # The first iterates weigh no more than later ones.
        share = max(1 - options.average, 1 / self.iteration)
        for i, (image, Ax) in enumerate(zip(images, measured, strict=True)):
            kept.average[i].lerp_(image[0], share)
            kept.measured[i].lerp_(Ax[0], share)
        last = self.iteration == options.iterations
        if self.iteration % options.every and not last:
            return None
        return self._look(told, images[0])

    def ended(self) -> Literal["rule", "iterations", "broken", ""]:
        """Return why the fit has ended, or an empty string."""
        if self._lost:
            return "broken"
        if self.trajectory:
            if self.rule.reached(self.trajectory[-1].criterion):
                return "rule"
            waited = self.iteration - self.best
            if math.isfinite(self.best_value) and waited >= self.rule.patience:
                return "rule"
        return "iterations" if self.iteration >= self.options.iterations else ""

    def result(self, ending: Any, seconds: float) -> Fit:
        """Take the step towards the data; raises `Interrupted` on Ctrl-C."""
        best = self.kept.best if self.best else self.kept.average[0]

        def found(image: Tensor, step: float, ending: Any) -> Fit:
            return Fit(
                image.cpu().numpy().copy(),
                best.cpu().numpy().copy(),
                self.kept.average[0].cpu().numpy().copy(),
                self.best or self.iteration,
                self.iteration,
                ending,
                list(self.trajectory),
                list(self.rollbacks),
                copy.deepcopy(self.models[0].weights()).requires_grad_(True),
                seconds,
                list(self._snapshots),
                step,
            )

        try:
            image, step = self._towards_data(best)
        except KeyboardInterrupt as press:
            raise Interrupted(found(best, 0.0, "stopped")) from press
        return found(image, step, ending)

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all."""
        told = [[getattr(r, f.name) for f in fields(Record)] for r in self.trajectory]
        note = {
            "trajectory": json.dumps(told),
            "rollbacks": json.dumps(self.rollbacks),
            "recent": json.dumps(list(self._recent)),
            "best": json.dumps([self.best, self.best_value, self._first]),
            "data": self._identity,
            "svdinv": __version__,
        }
        parts = (self.models, self.kept, self.optimiser)
        write_checkpoint(path, self.iteration, self._described(), *parts, note)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; ValueError if it is damaged, or of another fit."""
        found: Checkpoint = read_checkpoint(path)
        if found.config != self._described():
            raise ValueError(f"{path} is of a fit with other options")
        if found.origin.get("data") != self._identity:
            raise ValueError(f"{path} is of a fit to other data, or of other weights")
        found.restore(self.models, self.kept, self.optimiser)
        try:
            told = json.loads(found.origin["trajectory"])
            names = [f.name for f in fields(Record)]
            rows: list[dict[str, Any]] = [
                dict(zip(names, row, strict=True)) for row in told
            ]
            self.trajectory = [Record(**row) for row in rows]
            self.rollbacks = [int(i) for i in json.loads(found.origin["rollbacks"])]
            self._recent.extend(map(float, json.loads(found.origin["recent"])))
            best, value, first = json.loads(found.origin["best"])
            self.best, self.best_value = int(best), float(value)
            self._first = float(first)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no checkpoint of a fit: {error}") from error
        self.iteration = found.step
        self._remember()

    def _evaluated(self, index: int) -> tuple[Tensor, ...]:
        """Return image, predicted data, loss and data fidelity for one target."""
        target, around = self.targets[index], self.arounds[index]
        seen, aim, state = target, target.y, self.states[index]
        if self.options.recorrupted:
            more = self._drawn(self.options.recorrupted, target.y)
            more = torch.where(self.measured, more, torch.zeros_like(more))
            seen = replace(target, y=aim + more / _LESS)
            aim = aim - _LESS * more
            state = self._begun(seen)
        image, state = self.models[index](state, seen, self._noise())
        if around is not None:
            image = image + around
        Ax = target.A.forward(image)
        fitted = Ax
        if self.left_out is not None:
            fitted = torch.where(self.left_out, target.y, Ax)
        distance = target.fidelity.distance(fitted, target.y)
        loss = distance
        if self.options.recorrupted or self.options.preconditioned:
            rest = target.A.project_to_samples(fitted - aim)
            weighted = rest
            if self.options.preconditioned:
                weighted = target.A.preconditioned(rest)
            loss = (rest.conj() * weighted).real.sum() / 2
        loss = loss + self._regularised(image, state)
        measured = target.fidelity.expected(Ax.detach())
        data = distance.detach() / self.count
        return image.detach(), measured, loss / self.count, data

    def _begun(self, seen: Problem) -> Any:
        """Return the first state of the network, from the data that it sees."""
        state = self.recipe.begin(seen)
        if self.options.penalty:
            state["penalty"] = self.recipe.no_penalty(state["x"])
        return state

    def _noise(self) -> Tensor | float:
        """Noise at the input in this iteration."""
        if self.options.recorrupted or not self.options.input_noise:
            return 0.0
        return self._drawn(self.options.input_noise, self.state["z"])

    def _drawn(self, size: float, like: Tensor) -> Tensor:
        """Draw noise for this iteration, whatever came before."""
        rng = torch.Generator().manual_seed(
            self.options.seed * 1_000_003 + self.iteration
        )
        kind = torch.complex64 if like.is_complex() else torch.float32
        return (size * torch.randn(like.shape, generator=rng, dtype=kind)).to(like)

    def _regularised(self, image: Tensor, state: Any) -> Any:
        """Return the regularisation terms of the loss."""
        options, total = self.options, 0
        if options.prior is not None:
            total = total + options.prior.value(image)
        if options.penalty:
            total = total + options.penalty * state["penalty"]
        return total

    @torch.no_grad()
    def _look(self, told: list[float], image: Tensor) -> Record:
        kept, y = self.kept, self.problem.y
        z, moved = kept.measured[:1], kept.measured[-1:]
        seen = Seen(z, moved, y, self.measured, self.chosen, image)
        criterion = self.rule.value(seen, kept.rule)
        if criterion < self.best_value:
            self.best, self.best_value = self.iteration, criterion
            kept.best.copy_(kept.average[0])
        decibels = math.nan
        if self.measure is not None:
            decibels = self.measure(kept.average[0].cpu().numpy())
        loss, data = told
        record = Record(self.iteration, loss, data, criterion, decibels)
        self.trajectory.append(record)
        return record

    @torch.no_grad()
    def _towards_data(self, average: Tensor) -> tuple[Tensor, float]:
        """Take the step towards the data with the smallest error on held-out data.

        Returns the image, and how large a step it was, as `Fit` tells it.
        """
        problem, held = self.problem, self.left_out
        usable = problem.A.linear and isinstance(problem.fidelity, L2)
        if not (self.options.consistent and usable) or held is None:
            return average, 0.0
        if self._filtered:
            given = (average, problem.y[0], self.measured[0], held[0])
            found, part = cleaned(*(array.cpu().numpy() for array in given))
            return torch.from_numpy(found).to(average), part
        x = image = average[None]
        admm = ADMM(cg_iterations=2 * _STEPS, batch_axes=1)
        norm = admm.suited(problem, x, None)["penalty"]
        kept, fidelity = (~held).to(problem.y.real.dtype), problem.fidelity
        known = restricted(problem, kept, fidelity.weight)  # type: ignore[attr-defined]

        def error(image: Tensor) -> float:
            seen = (problem.A.forward(image) - problem.y)[held]
            return float(seen.abs().square().sum())

        best, least = 0.0, error(x)
        for weight in _WEIGHTS:
            image = admm.explain(x, image, known, weight * norm)
            value = error(image)
            # Of data that say nothing of one another only rounding changes.
            if value < (1 - _CLEARLY) * least:
                best, least = weight, value
        if not best:
            return average, 0.0
        return admm.explain(x, x, problem, best * norm)[0], best

    @property
    def _filtered(self) -> bool:
        """Whether each datum is the value of a pixel, all with the same noise."""
        values = isinstance(self.problem.A, Sampling)
        return (
            values and not self.state["x"].is_complex() and self.problem.has_white_noise
        )

    @property
    def _lost(self) -> bool:
        """Whether there is no way to go on."""
        broken = bool(self.rollbacks) and self.rollbacks[-1] == self.iteration
        return broken and len(self.rollbacks) > _MOST_ROLLBACKS

    def _broken(self, data: float) -> bool:
        """Go back to sound weights where the fit has broken down."""
        usual = math.inf
        if len(self._recent) == _WINDOW:  # before that it may rise, from a good start
            usual = sorted(self._recent)[_WINDOW // 2]
        # What is nearly nothing may well be four times as much.
        if math.isfinite(data) and not data > max(
            _DROP * usual, _NOTHING * self._first
        ):
            self._recent.append(data)
            return False
        self.rollbacks.append(self.iteration)
        if not self._lost:
            models, moments = self._sound
            self.models.load_state_dict(models)
            self.optimiser.load_state_dict(copy.deepcopy(moments))
        return True

    def _check(self, problem: Problem) -> None:
        """Refuse what does not go together."""
        options, generator = self.options, self.recipe
        if options.trained == "decoder" and not has_encoder(generator):
            raise ValueError(
                f"trained: {type(generator).__name__} has no encoder to keep"
            )
        for name in ("recorrupted", "preconditioned"):
            if getattr(options, name) and not problem.has_white_noise:
                raise ValueError(f"{name} needs an L2 fidelity without weights")

    def _around(self, around: Any, known: Problem, convert: Any) -> Any:
        """Return the image to which what is generated is added."""
        shape = tuple(self.states[-1]["x"].shape)
        if around is None:
            return None
        if callable(around):
            around = around(replace(known, y=known.y[0]).replace_arrays(to_numpy))
            if around is None:
                return None
        elif self.rule.probes:
            raise ValueError(
                "around: this rule asks how it depends on the data; give a function "
                "of a problem"
            )
        if getattr(self.recipe, "images", "") == "image" and self.recipe.bounded:  # type: ignore[attr-defined]
            raise ValueError("around: needs a generator with bounded=False")
        given = convert(around)[None].to(self.states[-1]["x"].dtype)
        if tuple(given.shape) != shape:
            raise ValueError(
                f"around must have shape {shape[1:]}, got {tuple(around.shape)}"
            )
        return given

    def _remember(self) -> None:
        both = self.models.state_dict(), self.optimiser.state_dict()
        self._sound = copy.deepcopy(both)

    def _described(self) -> str:
        # A fit that has ended may go on for longer.
        options = replace(self.options, iterations=1)
        return f"{to_json(self.recipe)}\n{options!r}"

    def _data(self) -> str:
        """Sum up the data, the operator by what it gives, and the first weights."""
        whole = hashlib.sha256(repr(self.problem.fidelity).encode())
        own = [x for x in vars(self.problem.fidelity).values() if hasattr(x, "dtype")]
        arrays = [self.problem.y, self.problem.adjoint(), *self.arounds, *own]
        for x in (*arrays, *self.models.state_dict().values()):
            if x is not None:
                real = torch.view_as_real(x) if x.is_complex() else x
                whole.update(real.detach().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()


def fit(
    problem: Problem,
    generator: Recipe,
    options: Options | None = None,
    *,
    around: Any = None,
    weights: Network | None = None,
    measure: Callable[[Any], float] | None = None,
    checkpoint: str | Path | None = None,
    callback: Callable[[Record], bool | None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Fit:
    """Fit a generator to a problem.

    Parameters
    ----------
    problem : Problem
        Of one image, of NumPy or PyTorch; its truth is not looked at.
    generator : Recipe
        A generator such as `svdinv.unroll.networks.Skip`; with `recorrupted` any
        network.
    options : Options, optional
        How; the defaults are for photographs.
    around : array or callable, optional
        An image to which what is generated is added, such as the mean of the frames of
        a series; or a function that gives it of a problem of NumPy arrays, which is
        asked with the data that are fitted alone.
    weights : Network, optional
        A network of the same recipe to begin with: an educated prior.
    measure : callable, optional
        From an averaged image to decibels, for the trajectory alone.
    checkpoint : path, optional
        File to go on from, if it is there, and to write to every minute.
    callback : callable, optional
        Called with each `Record`; ends the fit if it returns True.
    stop : callable
        Asked after each iteration whether to end, as for Ctrl-C.
    progress : bool
        Whether to show a bar with data fidelity and time left.
    device : device
        Where to compute.
    **changes
        Attributes of `options` to change.

    Returns
    -------
    Fit
        The image, and how it went.

    Raises
    ------
    TypeError, ValueError
        If these do not go together; before the first iteration.
    OSError
        If the checkpoint cannot be written.
    Interrupted
        On Ctrl-C in the step towards the data, with the fit without it.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.networks import Skip
    >>> from svdinv.unroll.operators import Sampling
    >>> from svdinv.unroll.problem import Problem
    >>> from svdinv.unroll.untrained import fit
    >>> rng = np.random.default_rng(0)
    >>> image = np.ones((3, 32, 32), np.float32) * np.linspace(0, 1, 32)
    >>> A = Sampling(rng.random((3, 32, 32)) < 0.4)
    >>> problem = Problem(A(image), A)
    >>> generator = Skip(features=(8, 8), skips=(2, 2), depth=8)
    >>> found = fit(problem, generator, iterations=20, progress=False)
    >>> found.image.shape, found.iterations
    ((3, 32, 32), 20)
    """
    options = replace(options or Options(), **changes)
    fitting = Fitting(
        problem,
        generator,
        options,
        around=around,
        weights=weights,
        measure=measure,
        device=device,
    )
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        fitting.load(path)
    return fitting.run(path, callback=callback, stop=stop, progress=progress)


# Of the distance from the average in the step towards the data, relative to |A|^2.
_WEIGHTS = tuple(10 ** (1 - i / 3) for i in range(13))
_CLEARLY = 1e-4

_SAVE_EVERY = 60.0  # seconds
_STEPS = 10  # of conjugate gradients, in place of what is left out

_EXACT = 1e-5  # relative to the data
_LESS = 2  # the noise is added by its part of this, and taken away as many times

# Where the residual is this many times what it usually was, the fit has broken down.
_DROP = 4.0
_NOTHING = 1e-3  # of the first residual
_SLOWER = 0.5  # learning rate after each time that it broke down
_WINDOW = 50
REMEMBER = 50
"""Iterations between two sets of weights to go back to."""
_MOST_ROLLBACKS = 20


class _NoRule(Rule):
    """Fit to the end."""

    def value(self, seen: Seen, own: Mapping[str, Tensor]) -> float:
        return math.inf


class _Kept(nn.Module):
    """What a fit keeps beside weights: averages, the best image, the rule's arrays."""

    average: Tensor
    measured: Tensor
    best: Tensor

    def __init__(self, x: Tensor, y: Tensor, count: int, rule: Rule) -> None:
        super().__init__()
        zero, data = torch.zeros_like(x), torch.zeros_like(y)
        self.register_buffer("average", torch.cat([zero] * count))
        self.register_buffer("measured", torch.cat([data] * count))
        self.register_buffer("best", torch.zeros_like(x[0]))
        own = rule.buffers(x)
        self._names = list(own)
        for name, buffer in own.items():
            self.register_buffer(f"rule_{name}", buffer)

    @property
    def rule(self) -> Mapping[str, Tensor]:
        """Arrays of the rule."""
        return {name: getattr(self, f"rule_{name}") for name in self._names}


class _Model(nn.Module):
    """A generator with what is fitted of it."""

    def __init__(
        self,
        recipe: Recipe,
        options: Options,
        weights: Network | None,
        state: Any,
    ) -> None:
        super().__init__()
        self.network = Network(recipe, seed=options.seed)
        if weights is not None:
            given, own = weights.state_dict(), self.network.state_dict()
            if _shapes(given) != _shapes(own):
                raise ValueError(
                    "weights: must be of the generator's recipe, got those of "
                    f"{weights.recipe!r}"
                )
            self.network.load_state_dict(given)
        self.network.to(state["x"].real.dtype)
        self.values = nn.ParameterDict()
        if options.trained == "decoder":
            for index, cell in enumerate(self.network.cells):
                for name, parameter in cell.named_parameters():
                    kept = name.startswith("encoder_") or index < recipe.cells // 2
                    parameter.requires_grad_(not kept)
        elif options.trained == "singular values":
            self._factorise()

    def forward(self, state: Any, problem: Problem, noise: Any) -> Any:
        """Return the image and the state."""
        made = {**state, "z": state["z"] + noise} if "z" in state else state
        kernels = self._kernels()
        for index, cell in enumerate(self.network.cells):
            made = functional_call(cell, kernels[index], (made, problem))
        return made["x"], made

    def weights(self) -> Network:
        """Return the network with the weights as they are now."""
        with torch.no_grad():
            for cell, kernels in zip(self.network.cells, self._kernels(), strict=True):
                for name, kernel in kernels.items():
                    cell.get_parameter(name).copy_(kernel)
        return self.network

    def _factorise(self) -> None:
        for name, parameter in self.network.cells.named_parameters():
            parameter.requires_grad_(False)
            if parameter.ndim < 2:
                continue
            # A name of a parameter has no dots.
            label = name.replace(".", "/")
            U, S, Vh = svdinv.torch.svd(parameter.detach().flatten(1))
            self.register_buffer(f"left/{label}", U.contiguous())
            self.register_buffer(f"right/{label}", Vh.contiguous())
            self.values[label] = nn.Parameter(S.clone())
        if not self.values:
            raise ValueError(
                f"trained: {type(self.network.recipe).__name__} has no convolutions"
            )

    def _kernels(self) -> list[dict[str, Tensor]]:
        """Return the kernels of each cell that are made of singular values."""
        kernels: list[dict[str, Tensor]] = [{} for _ in self.network.cells]
        for label, S in self.values.items():
            index, name = label.replace("/", ".").split(".", 1)
            shape = self.network.cells[int(index)].get_parameter(name).shape
            left, right = (getattr(self, f"{k}/{label}") for k in ("left", "right"))
            kernels[int(index)][name] = ((left * S) @ right).reshape(shape)
        return kernels


def has_encoder(recipe: Recipe) -> bool:
    """Return whether a network has an encoder, which can be frozen."""
    named = any(name.startswith("encoder_") for name in recipe.layers(True))
    return named or recipe.cells > 1


def _shapes(arrays: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _without(problem: Problem, left_out: Tensor) -> Problem:
    """Replace what is left out by what least squares make of the rest.

    Zeros among line integrals would be streaks in the filtered back-projection.
    """
    A = problem.A
    y = torch.where(left_out, torch.zeros_like(problem.y), problem.y)
    if A.linear:
        with torch.no_grad():
            known = restricted(replace(problem, y=y), (~left_out).to(y.real.dtype))
            nothing = torch.zeros_like(A.adjoint(y))
            least_squares = ADMM(cg_iterations=_STEPS, batch_axes=1)
            x = least_squares.explain(nothing, nothing, known, 0.0)
            y = torch.where(left_out, A(x), y)
    return replace(problem, y=y)
