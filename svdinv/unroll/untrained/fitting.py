"""Fit of a generator to one measurement.

``weights = argmin of D(A f(z), y) + R(f(z))`` by Adam (Ulyanov, Vedaldi & Lempitsky,
CVPR 2018), stopped by a rule that does not need the truth. The result is the
exponential average of the iterates at the minimum of the rule, followed by a data
consistency step, whose weight is determined by held-out data::

    image = argmin of |A x - y|^2 + weight |x - average|^2

A network learns the last details of an image slowly; if A determines most of the image,
as with several coils, the data have them more accurately. If each datum is the value of
a pixel, a part of the residual is added instead, and its noise is removed by
`svdinv.unroll.untrained.residual`.

A trained network whose input is the data needs another loss: it soon reproduces their
noise, and leaving data out degrades its input. In each iteration noise n is added to
the input and subtracted from the target, so that both have independent noise::

    D(A f(y + n / 2), y - 2 n),  n with the covariance of the noise in y

Its expectation is that for noiseless data plus a constant (Recorrupted-to-Recorrupted,
Pang, Zheng, Quan & Ji, CVPR 2021).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from svdinv import __version__
from svdinv.unroll.algorithms import ADMM, Interrupted
from svdinv.unroll.algorithms.cross_validation import restricted
from svdinv.unroll.arrays import to_numpy
from svdinv.unroll.interrupts import progress_bar
from svdinv.unroll.networks import Recipe
from svdinv.unroll.networks.recipe import first_state, to_json
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, tensor
from svdinv.unroll.training.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from svdinv.unroll.untrained.model import Kept, Model, has_encoder
from svdinv.unroll.untrained.options import Fit, Options, Record
from svdinv.unroll.untrained.residual import STEPS, towards_data
from svdinv.unroll.untrained.rollback import Rollback
from svdinv.unroll.untrained.stopping import Rule, Seen

_SAVE_EVERY = 60.0  # seconds
_LESS = 2  # noise is divided by this in the input and multiplied by it in the target


class _Target(NamedTuple):
    """What a model is fitted to: the data, or data that the rule has perturbed."""

    problem: Problem
    state: Any  # first state of the network
    around: Any  # image to which the generated one is added, or None


class Fitting:
    """A fit, iteration by iteration; `fit` makes a complete one.

    Results for a seed are reproducible on one machine with the same number of threads,
    also if the fit is interrupted and resumed.

    Parameters
    ----------
    problem, generator, options, around, weights, measure, device
        As for `fit`; the generator has one cell, whose state has the input of the
        network, ``"z"``. With `recorrupted` any network can be fitted.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not match.
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
        if not isinstance(weights, Network | None):
            raise TypeError(f"weights must be a Network, got {type(weights).__name__}")
        if not (measure is None or callable(measure)):
            raise TypeError(f"measure must be callable, got {measure!r}")
        self.options, self.recipe, self.measure = options, generator, measure
        self.device = torch.device(device)
        self._check(problem)
        single = replace(problem, truth=None).single()
        single = single.replace_arrays(partial(tensor, device=self.device))
        self.problem = single.only_measured()
        self.measured, y = self.problem.sampled_mask(), self.problem.y
        self.rule = rule = options.rule or Rule()
        rule.check(self.problem)
        self.count = int(self.measured.sum())
        if not self.count:
            raise ValueError("problem: nothing is measured")
        self.chosen = rule.choose(self.problem, self.measured, options.seed)
        self.left_out = self.chosen if rule.withholds else None
        if self.left_out is not None:
            self.count -= int(self.left_out.sum())
        # Predictions at distance 0 from the data, used for those that are left out.
        self._exact = y - self.problem.fidelity.expected(torch.zeros_like(y))
        self.targets = [self._target(self.problem, around)]
        if rule.probes:
            perturbed = replace(self.problem, y=y + rule.probes * self.chosen)
            self.targets.append(self._target(perturbed, around))
        self.state = self.targets[0].state
        generates = "z" in self.state and generator.cells == 1
        if not (generates or options.recorrupted):
            raise TypeError(f"{type(generator).__name__} is no generator")
        self.models = nn.ModuleList(
            Model(generator, options, weights, target.state) for target in self.targets
        ).to(self.device)
        parameters = [p for p in self.models.parameters() if p.requires_grad]
        # Divides the loss, so that Adam's epsilon does not depend on the data's unit.
        # Counts and weighted data have a fidelity of about 1 each.
        self._square = 1.0
        if problem.has_white_noise:
            seen = self.measured
            if self.left_out is not None:
                seen = seen & ~self.left_out
            self._square = float(y[seen].abs().square().mean()) or 1.0
        self.optimiser = torch.optim.Adam(parameters, lr=options.rate)
        self._identity = self._checksum()
        x = self.state["x"]
        self.kept = Kept(self.models, x, y, rule)
        self.iteration, self.best, self.best_value = 0, 0, math.inf
        self.trajectory: list[Record] = []
        self.rollback = Rollback(
            self.models, self.optimiser, self.kept.earlier, self._square
        )

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        callback: Callable[[Record], bool | None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: bool = True,
    ) -> Fit:
        """Iterate to the end; return the image and a record of the fit.

        Options are those of `fit`. The checkpoint is written every minute and at the
        end. Raises OSError if it cannot be written; `Interrupted` on Ctrl-C in the
        final data consistency step, with the fit without that step.
        """
        if checkpoint is not None and not checkpoint.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint: there is no folder {checkpoint.parent}"
            )
        start = saved = time.monotonic()
        ending: Any = self.ended()
        with progress_bar(
            self.options.iterations,
            visible=progress,
            initial=self.iteration,
            desc="fit",
        ) as bar:
            while not ending:
                record = self.step()
                bar.update()
                if record is not None:
                    postfix = f"data {record.data:.3g}"
                    if math.isfinite(record.decibels):
                        postfix += f", {record.decibels:.2f} dB"
                    bar.set_postfix_str(postfix)
                halt = record is not None and callback is not None and callback(record)
                ending = self.ended()
                if not ending and (halt or stop()):
                    ending = "stopped"
                due = time.monotonic() - saved > _SAVE_EVERY
                if checkpoint is not None and ending != "broken" and (ending or due):
                    self.save(checkpoint)
                    saved = time.monotonic()
        return self.result(ending, time.monotonic() - start)

    def step(self) -> Record | None:
        """Make one iteration; return a record if the rule was evaluated."""
        options, kept = self.options, self.kept
        self.iteration += 1
        self.optimiser.zero_grad(set_to_none=True)
        results = [self._evaluated(i) for i in range(len(self.targets))]
        images, measured, losses, data = zip(*results, strict=True)
        values = torch.stack([losses[0].detach(), data[0]]).tolist()
        if self.iteration == 1 and not all(map(math.isfinite, values)):
            raise ValueError(
                "problem: the data fidelity or the prior of the first image is not "
                f"finite, {values}"
            )
        if self.rollback.diverged(values[1], self.iteration):
            return None
        (sum(losses) / self._square).backward()
        for group in self.optimiser.param_groups:
            group["lr"] = options.rate * self.rollback.factor
        self.optimiser.step()
        self.rollback.updated(self.iteration)
        # The first iterates have no more weight than later ones.
        share = max(1 - options.average, 1 / self.iteration)
        for i, (image, Ax) in enumerate(zip(images, measured, strict=True)):
            kept.average[i].lerp_(image[0], share)
            kept.measured[i].lerp_(Ax[0], share)
        last = self.iteration == options.iterations
        if self.iteration % options.every and not last:
            return None
        return self._evaluate_rule(values, images[0])

    def ended(self) -> Literal["rule", "iterations", "broken", ""]:
        """Return the reason why the fit has ended, or an empty string."""
        if self.rollback.lost(self.iteration):
            return "broken"
        if self.trajectory:
            if self.rule.reached(self.trajectory[-1].criterion):
                return "rule"
            waited = self.iteration - self.best
            if math.isfinite(self.best_value) and waited >= self.rule.patience:
                return "rule"
        return "iterations" if self.iteration >= self.options.iterations else ""

    def result(self, ending: Any, seconds: float) -> Fit:
        """Return the fit after data consistency; raise `Interrupted` on Ctrl-C."""
        best = self.kept.best if self.best else self.kept.average[0]
        found = Fit(
            best.cpu().numpy().copy(),
            best.cpu().numpy().copy(),
            self.kept.average[0].cpu().numpy().copy(),
            self.best or self.iteration,
            self.iteration,
            ending,
            list(self.trajectory),
            list(self.rollback.iterations),
            copy.deepcopy(self.models[0].weights()).requires_grad_(True),
            seconds,
        )
        if not self.options.consistent or self.left_out is None:
            return found
        try:
            with torch.no_grad():
                moved = towards_data(self.problem, best, self.left_out, self.measured)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(replace(found, ending="stopped")) from interrupt
        return replace(found, image=moved[0].cpu().numpy().copy(), step=moved[1])

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        rows = [list(vars(record).values()) for record in self.trajectory]
        origin = {
            "trajectory": json.dumps(rows),
            "rollback": json.dumps(self.rollback.saved()),
            "best": json.dumps([self.best, self.best_value]),
            "data": self._identity,
            "svdinv": __version__,
        }
        parts = (self.models, self.kept, self.optimiser)
        write_checkpoint(path, self.iteration, self._description(), *parts, origin)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint; ValueError if damaged or of another fit."""
        saved: Checkpoint = read_checkpoint(path)
        if saved.config != self._description():
            raise ValueError(f"{path} is of a fit with other options")
        if saved.origin.get("data") != self._identity:
            raise ValueError(f"{path} is of a fit to other data, or of other weights")
        if saved.step > self.options.iterations:
            raise ValueError(
                f"iterations must be at least those of {path}, {saved.step}, got "
                f"{self.options.iterations}"
            )
        saved.restore(self.models, self.kept, self.optimiser)
        try:
            rows = json.loads(saved.origin["trajectory"])
            self.trajectory = [Record(*row) for row in rows]
            self.rollback.load(json.loads(saved.origin["rollback"]))
            best, value = json.loads(saved.origin["best"])
            self.best, self.best_value = int(best), float(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a checkpoint of a fit by this svdinv: {error}"
            ) from error
        self.iteration = saved.step

    def _evaluated(self, index: int) -> tuple[Tensor, ...]:
        """Return image, predicted data, loss and data fidelity for one target."""
        target, state, around = self.targets[index]
        source, aim = target, target.y
        if self.options.recorrupted:
            extra = self._draw_noise(self.options.recorrupted, target.y)
            extra = torch.where(self.measured, extra, torch.zeros_like(extra))
            source = replace(target, y=aim + extra / _LESS)
            aim = aim - _LESS * extra
            state = self._initial_state(source)
        noise: Any = 0.0
        if self.options.input_noise and not self.options.recorrupted:
            noise = self._draw_noise(self.options.input_noise, self.state["z"])
        image, state = self.models[index](state, source, noise)
        if around is not None:
            image = image + around
        Ax = target.A.forward(image)
        fitted = Ax
        if self.left_out is not None:
            fitted = torch.where(self.left_out, self._exact, Ax)
        distance = target.fidelity.distance(fitted, target.y)
        loss = distance
        if self.options.recorrupted or self.options.preconditioned:
            residual = target.A.project_to_samples(fitted - aim)
            weighted = residual
            if self.options.preconditioned:
                weighted = target.A.preconditioned(residual)
            loss = (residual.conj() * weighted).real.sum() / 2
        if self.options.prior is not None:
            loss = loss + self.options.prior.value(image)
        if self.options.penalty:
            loss = loss + self.options.penalty * state["penalty"]
        measured = target.fidelity.expected(Ax.detach())
        data = distance.detach() / self.count
        return image.detach(), measured, loss / self.count, data

    def _target(self, problem: Problem, around: Any) -> _Target:
        """Return the target of a model, whose input has only data that are fitted."""
        unseen = self.left_out
        if hasattr(getattr(problem.fidelity, "weight", None), "dtype"):
            # Data of weight 0 are replaced, too: zeros would count as data.
            gaps = ~self.measured
            unseen = gaps if unseen is None else unseen | gaps
        fitted = problem if unseen is None else _without(problem, unseen)
        with torch.no_grad():
            state = self._initial_state(fitted)
        return _Target(problem, state, self._around(around, fitted, state["x"]))

    def _initial_state(self, problem: Problem) -> Any:
        """Return the first state of the network for the data of a problem."""
        try:
            state = first_state(self.recipe, problem)
        except ValueError as error:
            raise ValueError(f"problem, with an axis B added: {error}") from error
        if self.options.penalty:
            state["penalty"] = self.recipe.no_penalty(state["x"])
        return state

    def _draw_noise(self, size: float, like: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(
            self.options.seed * 1_000_003 + self.iteration
        )
        kind = torch.complex64 if like.is_complex() else torch.float32
        return (size * torch.randn(like.shape, generator=rng, dtype=kind)).to(like)

    @torch.no_grad()
    def _evaluate_rule(self, values: list[float], image: Tensor) -> Record:
        kept, y = self.kept, self.problem.y
        z, perturbed = kept.measured[:1], kept.measured[-1:]
        evaluated = Seen(z, perturbed, y, self.measured, self.chosen, image)
        criterion = self.rule.value(evaluated, kept.rule)
        if criterion < self.best_value:
            self.best, self.best_value = self.iteration, criterion
            kept.best.copy_(kept.average[0])
        decibels = math.nan
        if self.measure is not None:
            decibels = self.measure(kept.average[0].cpu().numpy())
        loss, data = values
        record = Record(self.iteration, loss, data, criterion, decibels)
        self.trajectory.append(record)
        return record

    def _check(self, problem: Problem) -> None:
        options, generator = self.options, self.recipe
        if not isinstance(options.rule, Rule | None):
            raise TypeError(f"rule must be an instance of Rule, got {options.rule!r}")
        prior = options.prior
        if isinstance(prior, type) or not (prior is None or hasattr(prior, "value")):
            raise TypeError(f"prior must be an object with value(x), got {prior!r}")
        window = getattr(options.rule, "window", 1)
        least = (window - 1) * options.every + 1
        if options.iterations < least:
            raise ValueError(
                f"iterations must be at least {least} for the window of the rule "
                f"{type(options.rule).__name__}, got {options.iterations}"
            )
        if options.trained == "decoder" and not has_encoder(generator):
            raise ValueError(
                f"trained: {type(generator).__name__} has no encoder to keep"
            )
        for name in ("recorrupted", "preconditioned"):
            if getattr(options, name) and not problem.has_white_noise:
                raise ValueError(f"{name} needs an L2 fidelity without weights")

    def _around(self, around: Any, fitted: Problem, x: Tensor) -> Any:
        """Return the image to which the generated one, of the shape of x, is added."""
        if around is None:
            return None
        if callable(around):
            around = around(replace(fitted, y=fitted.y[0]).replace_arrays(to_numpy))
            if around is None:
                return None
        elif self.rule.probes:
            raise ValueError(
                "around: this rule needs its dependence on the data; pass a function "
                "of a problem"
            )
        images = getattr(self.recipe, "images", "") == "image"
        if images and getattr(self.recipe, "bounded", False):
            raise ValueError("around: needs a generator with bounded=False")
        image = tensor(around, device=self.device)[None].to(x.dtype)
        if not image.isfinite().all():
            raise ValueError("around contains NaN or infinity")
        if image.shape != x.shape:
            raise ValueError(
                f"around must have shape {tuple(x.shape[1:])}, got "
                f"{tuple(around.shape)}"
            )
        return image

    def _description(self) -> str:
        # A fit that has ended may be resumed with more iterations.
        options = replace(self.options, iterations=1)
        return f"{to_json(self.recipe)}\n{options!r}"

    def _checksum(self) -> str:
        """Return a checksum of data, operator, fidelity and initial weights."""
        digest = hashlib.sha256(repr(self.problem.fidelity).encode())
        extra = [x for x in vars(self.problem.fidelity).values() if hasattr(x, "dtype")]
        arounds = [target.around for target in self.targets]
        arrays = [self.problem.y, self.problem.adjoint(), *arounds, *extra]
        digest.update(to_numpy(self.measured).tobytes())
        for x in (*arrays, *self.models.state_dict().values()):
            if x is not None:
                real = torch.view_as_real(x) if x.is_complex() else x
                digest.update(real.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


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
        Problem of one image, of NumPy or PyTorch; its truth is not used.
    generator : Recipe
        A generator such as `svdinv.unroll.networks.Skip`; any network if `recorrupted`.
    options : Options, optional
        Options of the fit; the defaults are for photographs.
    around : array or callable, optional
        An image to which the generated one is added, such as the mean of the frames of
        a series; or a function that computes it from a problem of NumPy arrays with
        only the data that are fitted.
    weights : Network, optional
        A network of the same recipe with initial weights: an educated prior.
    measure : callable, optional
        Function from an averaged image to decibels, for the trajectory only.
    checkpoint : path, optional
        File to resume from, if it exists, and to write to every minute.
    callback : callable, optional
        Called with each `Record`; ends the fit if it returns True.
    stop : callable
        Called after each iteration; ends the fit, as on Ctrl-C, if it returns True.
    progress : bool
        Whether to show a bar with data fidelity and remaining time.
    device : device
        Device of the computation.
    **changes
        Attributes of `options` to change.

    Returns
    -------
    Fit
        The image, with a record of the fit.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not match; raised before the first iteration.
    OSError
        If the checkpoint cannot be written.
    Interrupted
        On Ctrl-C in the data consistency step, with the fit without that step.

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


def _without(problem: Problem, left_out: Tensor) -> Problem:
    """Replace left-out data by those of a least-squares fit: zeros make streaks."""
    A = problem.A
    y = torch.where(left_out, torch.zeros_like(problem.y), problem.y)
    if A.linear:
        with torch.no_grad():
            fitted = restricted(replace(problem, y=y), (~left_out).to(y.real.dtype))
            zero = torch.zeros_like(A.adjoint(y))
            least_squares = ADMM(cg_iterations=STEPS, batch_axes=1)
            x = least_squares.explain(zero, zero, fitted, 0.0)
            y = torch.where(left_out, A(x), y)
    return replace(problem, y=y)
