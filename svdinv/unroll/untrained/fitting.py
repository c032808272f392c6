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
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from svdinv import __version__
from svdinv.unroll.algorithms import ADMM, Interrupted
from svdinv.unroll.algorithms.cross_validation import restricted
from svdinv.unroll.arrays import to_numpy
from svdinv.unroll.interrupts import progress_bar
from svdinv.unroll.networks import Recipe
from svdinv.unroll.networks.recipe import to_json
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
from svdinv.unroll.untrained.stopping import Rule, Seen


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
        self.rule = rule = options.rule or Rule()
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
            Model(generator, options, weights, state) for state in self.states
        ).to(self.device)
        learned = [p for p in self.models.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learned, lr=options.rate)
        self._identity = self._data()
        x = self.state["x"]
        self.kept = Kept(x, y, len(self.targets), rule)
        self.iteration, self.best, self.best_value = 0, 0, math.inf
        self.trajectory: list[Record] = []
        self.rollbacks: list[int] = []
        self._first = math.nan
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
        """Iterate until it ends, and return the image, and how it went.

        The options are those of `fit`; the file is written to every minute, and at the
        end. Raises OSError if it cannot be written, `Interrupted` on Ctrl-C in the step
        towards the data, with the fit without it.
        """
        began = saved = time.monotonic()
        ending: Any = self.ended()
        with progress_bar(
            self.options.iterations, shown=progress, initial=self.iteration, desc="fit"
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
                step,
            )

        image, step = best, 0.0
        try:
            if self.options.consistent and self.left_out is not None:
                held, known = self.left_out, self.measured
                with torch.no_grad():
                    image, step = towards_data(self.problem, best, held, known)
        except KeyboardInterrupt as press:
            raise Interrupted(found(best, 0.0, "stopped")) from press
        return found(image, step, ending)

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all."""
        told = [list(vars(record).values()) for record in self.trajectory]
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
            rows = json.loads(found.origin["trajectory"])
            self.trajectory = [Record(*row) for row in rows]
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
        noise: Any = 0.0
        if self.options.input_noise and not self.options.recorrupted:
            noise = self._drawn(self.options.input_noise, self.state["z"])
        image, state = self.models[index](state, seen, noise)
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
        if self.options.prior is not None:
            loss = loss + self.options.prior.value(image)
        if self.options.penalty:
            loss = loss + self.options.penalty * state["penalty"]
        measured = target.fidelity.expected(Ax.detach())
        data = distance.detach() / self.count
        return image.detach(), measured, loss / self.count, data

    def _begun(self, seen: Problem) -> Any:
        """Return the first state of the network, from the data that it sees."""
        state = self.recipe.begin(seen)
        if self.options.penalty:
            state["penalty"] = self.recipe.no_penalty(state["x"])
        return state

    def _drawn(self, size: float, like: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(
            self.options.seed * 1_000_003 + self.iteration
        )
        kind = torch.complex64 if like.is_complex() else torch.float32
        return (size * torch.randn(like.shape, generator=rng, dtype=kind)).to(like)

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
        options, generator = self.options, self.recipe
        if options.trained == "decoder" and not has_encoder(generator):
            raise ValueError(
                f"trained: {type(generator).__name__} has no encoder to keep"
            )
        for name in ("recorrupted", "preconditioned"):
            if getattr(options, name) and not problem.has_white_noise:
                raise ValueError(f"{name} needs an L2 fidelity without weights")

    def _around(self, around: Any, known: Problem, convert: Any) -> Any:
        """Return the image that the generated one is added to."""
        if around is None:
            return None
        x = self.states[-1]["x"]
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
        given = convert(around)[None].to(x.dtype)
        if given.shape != x.shape:
            raise ValueError(
                f"around must have shape {tuple(x.shape[1:])}, got "
                f"{tuple(around.shape)}"
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
        """Checksum of the data, products with the operator, and the first weights."""
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


_SAVE_EVERY = 60.0  # seconds

_LESS = 2  # the noise is added by its part of this, and taken away as many times

# Where the residual is this many times what it usually was, the fit has broken down.
_DROP = 4.0
_NOTHING = 1e-3  # of the first residual
_SLOWER = 0.5  # learning rate after each time that it broke down
_WINDOW = 50
REMEMBER = 50
"""Iterations between two sets of weights to go back to."""
_MOST_ROLLBACKS = 20


def _without(problem: Problem, left_out: Tensor) -> Problem:
    """Replace left-out data by the least-squares solution from the others.

    Zeros among line integrals would be streaks in the filtered back-projection.
    """
    A = problem.A
    y = torch.where(left_out, torch.zeros_like(problem.y), problem.y)
    if A.linear:
        with torch.no_grad():
            known = restricted(replace(problem, y=y), (~left_out).to(y.real.dtype))
            nothing = torch.zeros_like(A.adjoint(y))
            least_squares = ADMM(cg_iterations=STEPS, batch_axes=1)
            x = least_squares.explain(nothing, nothing, known, 0.0)
            y = torch.where(left_out, A(x), y)
    return replace(problem, y=y)
