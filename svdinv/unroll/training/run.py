"""The training loop, with its checkpoints and logs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import svdinv.torch
from svdinv import __version__
from svdinv.core.degenerate import Repeated
from svdinv.unroll.formats.atomic import replacing_all
from svdinv.unroll.inference import reconstruct
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.plugins import imported, naming
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Source
from svdinv.unroll.torch import SVD, Network, save, tensor
from svdinv.unroll.training.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from svdinv.unroll.training.config import (
    CHECKPOINT,
    CONFIG,
    Config,
    differences,
    from_toml,
    kind_of,
    read,
    to_toml,
    write,
)
from svdinv.unroll.training.diagnosis import Breakdown, diagnose
from svdinv.unroll.training.logs import Logs
from svdinv.unroll.training.losses import loss_of
from svdinv.unroll.training.sources import FromDataset, Prefetcher

Ending = Literal["finished", "stopped", "broken"]


@dataclass
class Outcome:
    """The result of a training, or of a part of it.

    `ending` is "finished" after all steps, "stopped" if stopped from outside, "broken"
    if a loss or gradient was not finite.
    """

    ending: Ending
    step: int  # steps done
    saved: int  # step of the checkpoint and weights in the output folder
    losses: list[float] = field(default_factory=list)  # of the steps of this part
    unmoved: int = 0  # last steps whose gradient was exactly 0
    seconds: float = 0.0  # wall-clock time of this part
    breakdown: Breakdown | None = None


class Run:
    """A training, from its beginning or from a checkpoint.

    Results depend only on the configuration: on a CPU, a training interrupted anywhere
    and resumed ends with identical results. Only one process may write to an output
    folder, which receives checkpoints, weights and logs: see
    `svdinv.unroll.formats.atomic.holding`.

    `source` is by default that of `config.task`. `resume` continues from the checkpoint
    in the folder; then `strange` lists differences from the original training that may
    affect the last bits. `weights` replace the initial weights of some or all layers.

    Raises ValueError if there is nothing to resume, or its configuration or data
    differ; if the data cannot be read; if processes cannot share a batch equally.
    """

    def __init__(
        self,
        config: Config,
        source: Source | None = None,
        output: Path | None = None,
        *,
        resume: bool = False,
        weights: dict[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.output = config, output
        self.device = torch.device(device)
        self.step = 0
        torch.set_num_threads(config.threads)
        svd = svd_of(config.training.svd)
        self.network = Network(config.network, svd=svd, seed=config.seed)
        if weights is not None:
            merged = self.network.state_dict() | weights
            self.network.load_state_dict(merged)
        # A copy, since another network may draw other numbers for user-defined layers.
        self.mean = copy.deepcopy(self.network)
        self.mean.task = kind_of(config.task)
        self.network.to(self.device)
        self.mean.to(self.device).eval()
        self._own_loss = loss_of(config.training.loss)
        if config.training.penalty and not config.network.has_penalty:
            raise ValueError(
                f"training.penalty: {type(config.network).__name__} has none"
            )
        optimiser = _optimiser(config.training.optimiser)
        learned = _learned(self.network, config.training.learned)
        self.optimiser = optimiser(learned, lr=1e-3)
        self.resumed = resume
        self.strange: list[str] = []
        saved: dict[str, str] = {}
        if resume:
            saved = self._restore(read_checkpoint(self._file(CHECKPOINT))).origin
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        if config.training.batch % self.processes:
            raise ValueError(
                f"training.batch must be a multiple of the {self.processes} processes, "
                f"got {config.training.batch}"
            )
        self._origin: dict[str, str] = {}
        passed = source is not None
        if source is None and not self._finished:
            source = config.task.load()
        if isinstance(source, FromDataset):
            source.width = config.training.batch
        self._source = source
        if output is not None and not self._finished:
            self._origin = {"svdinv": __version__, "torch": torch.__version__}
            self._origin |= {"numpy": np.__version__, "processes": str(self.processes)}
            self._origin |= {} if passed else config.task.origin()
            self._compare(saved)
        self._logs = Logs(None, self.step)
        self._saved = self.step
        self._failure: Exception | None = None

    @cached_property
    def source(self) -> Source:
        """The data, which are loaded at the first use; not needed if finished."""
        return self.config.task.load() if self._source is None else self._source

    def train(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_validation: Callable[[int, float], None] = lambda step, decibels: None,
        on_gradient: Callable[[int, float], None] = lambda step, length: None,
    ) -> Outcome:
        """Train to the end, or until `stop` is true.

        `stop` is called after each step. `on_step` receives the number of each step,
        from 1, and its loss; `on_validation` that number, and the PSNR of each
        validation in dB; `on_gradient`, before the update, that number and the norm of
        the gradient before clipping, if it and the loss are finite.

        At the end the output folder has a checkpoint of the last weights or, if these
        led to values that are not finite, the last regular checkpoint. Raises OSError
        if a file cannot be written; earlier checkpoints remain.
        """
        training, start = self.config.training, time.monotonic()
        outcome = Outcome("finished", self.step, self.step)
        model: nn.Module = _Loss(self.network, self._loss)
        if self.processes > 1:  # the wrapper would slow down a single process
            model = nn.parallel.DistributedDataParallel(model)
        self._attempt(self._open)
        prefetcher: Prefetcher | None = None
        try:
            self._together(False)
            count = training.batch // self.processes
            items = range(self.rank * count, (self.rank + 1) * count)
            seed, steps = self.config.seed, training.steps
            while self.step < steps:
                if prefetcher is None:
                    prefetcher = Prefetcher(self.source)
                batch = prefetcher.batch(seed, self.step + 1, items, steps)
                loss, length = self._gradients(model, batch)
                if not (math.isfinite(loss) and math.isfinite(length)):
                    outcome.ending = "broken"
                    outcome.breakdown = self._diagnosed(batch)
                    break
                on_gradient(self.step + 1, length)
                self._update()
                outcome.losses.append(loss)
                outcome.unmoved = 0 if length else outcome.unmoved + 1
                rate = self._rate(self.step)
                self._attempt(self._logs.step, self.step, loss, rate, length)
                on_step(self.step, loss)
                last = self.step == training.steps
                if self.step % training.validate_every == 0 or last:
                    decibels = self.validate()
                    self._attempt(self._logs.validation, self.step, decibels)
                    on_validation(self.step, decibels)
                if self.step % training.checkpoint_every == 0 or last:
                    self._save()
                if self._together(stop()) and not last:
                    outcome.ending = "stopped"
                    break
            usable = outcome.breakdown is None or outcome.breakdown.sound
            parameters = (*self.network.parameters(), *self.mean.parameters())
            finite = all(bool(x.isfinite().all()) for x in parameters)
            if usable and self._saved != self.step and finite:
                self._save()
            self._attempt(self._logs.flush)
            self._together(False)
        finally:
            with suppress(OSError):  # all rows were flushed before
                self._logs.close()
            if prefetcher is not None:
                prefetcher.close()
        outcome.step, outcome.saved = self.step, self._saved
        outcome.seconds = time.monotonic() - start
        return outcome

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean PSNR of the validation problems, with the mean weights.

        It is in dB, by `Task.decibels`; NaN if there are no problems, or one cannot be
        reconstructed.
        """
        values = []
        for problem in self.source.validation():
            try:
                image = reconstruct(self.mean, problem, self.device)
            except torch.linalg.LinAlgError:
                values.append(math.nan)
            else:
                values.append(self.config.task.decibels(problem, image))
        return float(np.mean(values)) if values else math.nan

    def _file(self, name: str) -> Path:
        if self.output is None:
            raise ValueError("a training without an output folder has no files")
        return self.output / name

    @property
    def _finished(self) -> bool:
        return self.resumed and self.step == self.config.training.steps

    def _restore(self, checkpoint: Checkpoint) -> Checkpoint:
        saved = from_toml(checkpoint.config)
        differing = differences(saved, self.config)
        if differing:
            raise ValueError(
                "a resumed training must keep its configuration, but in the checkpoint "
                f"{'; '.join(differing)}"
            )
        checkpoint.restore(self.network, self.mean, self.optimiser)
        if checkpoint.step > self.config.training.steps:
            raise ValueError(
                f"the checkpoint is damaged: it is of step {checkpoint.step} of "
                f"{self.config.training.steps}"
            )
        self.step = checkpoint.step
        return checkpoint

    def _compare(self, saved: Mapping[str, str]) -> None:
        """Compare versions and data with those of the checkpoint; note differences."""
        now = self._origin
        differing = [name for name in saved.keys() & now if saved[name] != now[name]]
        for name in differing:
            if hasattr(self.config.task, name):
                raise ValueError(
                    f"a resumed training must have its original data, but task.{name} "
                    "are other files now, or others were added"
                )
        self.strange += [
            f"{name} was {saved[name]}, is {now[name]}" for name in sorted(differing)
        ]

    def _gradients(self, model: nn.Module, batch: Problem) -> tuple[float, float]:
        """Return loss and gradient norm, averaged over all processes."""
        self.optimiser.zero_grad()
        cuda = [self.device] if self.device.type == "cuda" else []
        # User-defined layers may draw numbers: the same ones if training is resumed.
        with torch.random.fork_rng(cuda):
            drawn = self.config.seed, self.step, self.rank
            torch.manual_seed(int(np.random.default_rng(drawn).integers(2**63)))
            loss = model(batch)
            loss.backward()
        clip = self.config.training.clip
        length = nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        totals = torch.stack([loss.detach(), length.detach()])
        if self.processes > 1:
            dist.all_reduce(totals)
            totals /= self.processes
        loss_value, length_value = totals.tolist()
        return loss_value, length_value

    def _loss(self, network: nn.Module, batch: Problem) -> Tensor:
        batch = batch.replace_arrays(partial(tensor, device=self.device))
        penalty = self.config.training.penalty
        low = self.config.training.precision == "bfloat16"
        # Autocast does not change complex numbers and the steps of svdinv.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            output = network(batch, penalty=True) if penalty else network(batch)
        estimate, extra = output if penalty else (output, None)
        loss = self._own_loss(estimate, batch.truth, batch)
        return loss if extra is None else loss + penalty * extra

    def _rate(self, step: int) -> float:
        """Return the learning rate: a linear rise, then the schedule."""
        training = self.config.training
        progress = (step - 0.5) / training.steps  # at 1 the last rate would be 0
        rise = min(1.0, progress / training.warm_up) if training.warm_up else 1.0
        fall = _SCHEDULES[training.schedule](progress)
        return training.learning_rate * rise * fall / 2

    @torch.no_grad()
    def _update(self) -> None:
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimiser.step()
        span = self.config.training.average * self.step
        weight = 1 / (span + 1)
        means, new = self.mean.parameters(), self.network.parameters()
        for mean, parameter in zip(means, new, strict=True):
            mean.lerp_(parameter, weight)
        # Such as running statistics of user-defined layers, which are not averaged.
        means, new = self.mean.buffers(), self.network.buffers()
        for mean, buffer in zip(means, new, strict=True):
            mean.copy_(buffer)

    def _diagnosed(self, batch: Problem) -> Breakdown:
        """Diagnose the breakdown, in the process whose items caused it."""
        try:
            result = diagnose(self.network, self.step + 1, batch, self._loss)
        except Exception:  # weights must be saved, and other processes wait
            result = Breakdown(self.step + 1, "unknown", "forward")
        if self.processes == 1:
            return result
        results: list[Breakdown] = [result] * self.processes
        dist.all_gather_object(results, result)
        return next((breakdown for breakdown in results if breakdown.found), results[0])

    def _together(self, wanted: bool) -> bool:
        """Return whether any process has `wanted`; raise in all if a write failed."""
        failed = self._failure is not None
        if self.processes > 1:
            votes = torch.tensor([wanted, failed], dtype=torch.int, device=self.device)
            dist.all_reduce(votes)
            wanted, failed = map(bool, votes.tolist())
        if failed:
            raise self._failure or OSError("another process could not write")
        return wanted

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:
        """Call `write` in the first process, and keep any error for `_together`.

        If it were raised here, the other processes would wait forever.
        """
        writes = self.output is not None and self.rank == 0
        if writes and self._failure is None:
            try:
                write(*arguments)
            except Exception as error:
                self._failure = error

    def _open(self) -> None:
        """Write the first files of a training, or missing ones of a finished one."""
        config = self._file(CONFIG)
        if self.resumed:
            self._save_weights()  # they may be older after a kill between two writes
            if not (self._finished and config.exists()):
                write(self.config, config)
        else:
            # All at once, so that it can be resumed whenever it is killed.
            files = [self._file(CHECKPOINT), self._file(WEIGHTS), config]
            with replacing_all(files) as (checkpoint, weights, draft):
                self._save_checkpoint(checkpoint)
                save(self.mean, weights)
                write(self.config, draft)
                # Without this file the configuration in the checkpoint applies.
                config.unlink(missing_ok=True)
        if not self._finished:
            self._logs = Logs(self.output, self.step)

    def _save(self) -> None:
        # Rows and weights before the checkpoint, because newer ones do no harm.
        self._attempt(self._logs.sync)
        self._attempt(self._save_weights)
        self._attempt(self._save_checkpoint)
        self._saved = self.step  # in all processes

    def _save_weights(self) -> None:
        save(self.mean, self._file(WEIGHTS))

    def _save_checkpoint(self, path: Path | None = None) -> None:
        path, config = path or self._file(CHECKPOINT), to_toml(self.config)
        parts = (self.network, self.mean, self.optimiser)
        write_checkpoint(path, self.step, config, *parts, self._origin)


# Learning rate relative to the highest, times 2.
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 1 + math.cos(math.pi * progress),
    "linear": lambda progress: 2 * (1 - progress),
    "constant": lambda progress: 2.0,
}


def _learned(network: nn.Module, parts: tuple[str, ...]) -> list[nn.Parameter]:
    """Return the weights whose names contain one of the parts; freeze the others."""
    named = dict(network.named_parameters())
    for part in parts:
        if not any(part in name for name in named):
            raise ValueError(
                f"training.learned: no weights are named {part!r}; there are such as "
                f"{', '.join(list(named)[:3])}"
            )
    for name, parameter in named.items():
        parameter.requires_grad_(not parts or any(part in name for part in parts))
    return [parameter for parameter in named.values() if parameter.requires_grad]


def _optimiser(name: str) -> Any:
    """Return the class of an optimiser."""
    with naming("training.optimiser"):
        cls = imported(name if ":" in name else f"torch.optim:{name}")
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f"training.optimiser {name} is not a torch.optim.Optimizer")
    # Trial steps: its state must fit checkpoints, a tensor per weight and the step.
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.ones(2, 3)
    with naming(f"training.optimiser {name}", TypeError):
        optimiser = cls([weight], lr=1e-3)
        before = _numbers(optimiser)
        for _ in range(3):
            optimiser.step()
    changed = [k for k, x in _numbers(optimiser).items() if before.get(k) != x]
    if changed:
        raise ValueError(
            f"training.optimiser {name} changes its option {changed[0]!r}, which "
            "checkpoints do not contain: it could not be resumed"
        )
    for kind, x in optimiser.state[weight].items():
        if kind != "step" and not (isinstance(x, Tensor) and x.shape == weight.shape):
            raise ValueError(
                f"training.optimiser {name} keeps {kind!r}, which checkpoints do not "
                "contain: it could not be resumed"
            )
    return cls


def _numbers(optimiser: torch.optim.Optimizer) -> dict[str, str]:
    """Return the options of an optimiser of one weight, as text."""
    (group,) = optimiser.param_groups
    return {name: repr(x) for name, x in group.items() if name != "params"}


class _Loss(nn.Module):
    """The loss of a network; NaN, like its gradients, if a decomposition fails.

    With an exception in one process the others would wait for its gradients.
    """

    def __init__(
        self, network: nn.Module, loss: Callable[[nn.Module, Problem], Tensor]
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Problem) -> Tensor:
        try:
            return self.loss(self.network, batch)
        except torch.linalg.LinAlgError:
            return math.nan * torch.stack([p.sum() for p in self.parameters()]).sum()


def to_resume(folder: Path) -> Config:
    """Read the configuration of the training in a folder.

    It is read from ``config.toml`` or, if that is missing, from the checkpoint. Raises
    ValueError if there is no training, or the files are damaged.
    """
    path = folder / CONFIG
    if path.exists():
        return read(path)
    return from_toml(read_checkpoint(folder / CHECKPOINT).config)


def svd_of(name: str) -> SVD | None:
    """Return the decomposition named in a configuration; None for "svt"."""
    if name == "svt":
        return None
    if name == "torch.linalg.svd":
        return lambda A, full_matrices=False: _TorchSVD.apply(A, full_matrices)

    def svd(A: Tensor, full_matrices: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        rule = cast(Repeated, name)  # checked by svd
        return svdinv.torch.svd(A, full_matrices=full_matrices, repeated=rule)

    return svd


class _TorchSVD(torch.autograd.Function):
    """`torch.linalg.svd`, with a gradient of NaN where it raises an error."""

    # PyTorch raises if a complex gradient depends on undetermined phases. With an
    # exception in one of several processes the others would wait.
    @staticmethod
    def forward(ctx: Any, A: Tensor, full_matrices: bool) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            ctx.A = A.detach().requires_grad_()
            ctx.factors = torch.linalg.svd(ctx.A, full_matrices=full_matrices)
        return tuple(factor.detach() for factor in ctx.factors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        try:
            (gradient,) = torch.autograd.grad(ctx.factors, ctx.A, cotangents)
        except RuntimeError as error:
            if "svd_backward" not in str(error):
                raise
            gradient = torch.full_like(ctx.A, math.nan)
        return gradient, None
