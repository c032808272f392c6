"""Training: the loop, its checkpoints and its logs."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import svdinv.torch
from svdinv.unroll.jobs.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from svdinv.unroll.jobs.config import Config, to_toml, write
from svdinv.unroll.jobs.data import Batch, Case, Source
from svdinv.unroll.jobs.diagnosis import Breakdown, diagnose
from svdinv.unroll.jobs.logs import Logs
from svdinv.unroll.metrics import psnr
from svdinv.unroll.torch import SVD, Network, save

__all__ = ["CHECKPOINT", "CONFIG", "WEIGHTS", "Outcome", "Run", "interrupts", "svd_of"]

CHECKPOINT = "checkpoint.safetensors"
CONFIG = "config.toml"
WEIGHTS = "weights.safetensors"

Ending = Literal["finished", "stopped", "broken"]


@dataclass
class Outcome:
    """How a training, or a part of it, ended.

    Attributes
    ----------
    ending : {"finished", "stopped", "broken"}
        All steps done; stopped from outside; or a loss or gradient was not finite.
    step : int
        Steps done.
    losses : list of float
        Of the steps of this part.
    seconds : float
        Wall-clock time of this part.
    breakdown : Breakdown or None
        What was not finite, and where it came from.
    """

    ending: Ending
    step: int
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    breakdown: Breakdown | None = None


class Run:
    """A training, from its beginning or from a checkpoint.

    What it does depends on the configuration alone: interrupted anywhere and resumed,
    it ends with the same bits on a CPU.

    Parameters
    ----------
    config : Config
        What to train, how.
    source : Source
        The data; of `config.task` by default.
    output : Path, optional
        Folder for checkpoints, weights and logs; nothing is written without one.
    resume : bool
        Go on from the checkpoint in `output`.
    weights : dict of str to Tensor, optional
        First weights, instead of those the seed draws.
    device : device, optional
        Where to compute.

    Raises
    ------
    ValueError
        If there is nothing to resume, or it is of another configuration.
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
        self.mean = Network(config.network, svd=svd, seed=config.seed)
        if weights is not None:
            self.network.load_state_dict(weights)
            self.mean.load_state_dict(weights)
        self.network.to(self.device)
        self.mean.to(self.device).eval()
        self.optimiser = torch.optim.Adam(self.network.parameters())
        if resume:
            self._restore(read_checkpoint(self._file(CHECKPOINT)))
        self.source: Source = config.task.load() if source is None else source
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        if config.training.batch % self.processes:
            raise ValueError(
                f"training.batch must be a multiple of the {self.processes} processes, "
                f"got {config.training.batch}"
            )
        # Wrapped only where it must be: the wrapper costs time.
        self._model: nn.Module = self.network
        if self.processes > 1:
            self._model = nn.parallel.DistributedDataParallel(self.network)

    def train(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_validation: Callable[[int, float], None] = lambda step, decibels: None,
        on_gradient: Callable[[int, float], None] = lambda step, length: None,
    ) -> Outcome:
        """Train to the end, or until told to stop.

        Parameters
        ----------
        stop : callable
            Asked after each step.
        on_step : callable
            Told the number of each step, from 1, and its loss.
        on_validation : callable
            Told the number of the step, and the PSNR of each validation in dB.
        on_gradient : callable
            Told the number of each step before its update, and the length of the
            gradient before it is clipped, if both this and the loss are finite.

        Returns
        -------
        Outcome
            How it went. Wherever it ended, the output folder holds a checkpoint of
            the last good weights.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        training, began = self.config.training, time.monotonic()
        outcome = Outcome("finished", self.step)
        if self._writes:
            write(self.config, self._file(CONFIG))
        saved = self.step if self._writes and self._file(CHECKPOINT).exists() else -1
        with Logs(self.output if self._writes else None, self.step) as logs:
            while self.step < training.steps:
                batch = self._batch(self.step + 1)
                loss, length = self._gradients(batch)
                if not (math.isfinite(loss) and math.isfinite(length)):
                    outcome.ending = "broken"
                    outcome.breakdown = diagnose(
                        self.network, self.step + 1, batch, self._loss
                    )
                    break
                on_gradient(self.step + 1, length)
                self._update()
                outcome.losses.append(loss)
                logs.step(self.step, loss, self._rate(self.step), length)
                on_step(self.step, loss)
                last = self.step == training.steps
                if self.step % training.validate_every == 0 or last:
                    decibels = self.validate()
                    logs.validation(self.step, decibels)
                    on_validation(self.step, decibels)
                if self.step % training.checkpoint_every == 0:
                    logs.flush()
                    self._save()
                    saved = self.step
                if not last and self._together(stop()):
                    outcome.ending = "stopped"
                    break
        if saved != self.step:
            self._save()
        outcome.step, outcome.seconds = self.step, time.monotonic() - began
        return outcome

    @torch.no_grad()
    def validate(self) -> float:
        """Reconstruct the validation cases with the mean weights.

        Returns
        -------
        float
            Mean PSNR in dB, of magnitudes relative to the largest for complex images.
        """
        values = []
        for case in self.source.validation():
            image = reconstruct(self.mean, case, self.device)
            assert case.truth is not None
            values.append(decibels(case.truth, image))
        return float(np.mean(values))

    @property
    def _writes(self) -> bool:
        return self.output is not None and self.rank == 0

    def _file(self, name: str) -> Path:
        if self.output is None:
            raise ValueError("a training without an output folder has no files")
        return self.output / name

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config != to_toml(self.config):
            raise ValueError(
                "the checkpoint is of another configuration; a training is resumed as "
                "it was begun"
            )
        checkpoint.restore(self.network, self.mean, self.optimiser)
        self.step = checkpoint.step

    def _batch(self, step: int) -> Batch:
        share = self.config.training.batch // self.processes
        items = range(self.rank * share, (self.rank + 1) * share)
        return self.source.batch(self.config.seed, step, items)

    def _gradients(self, batch: Batch) -> tuple[float, float]:
        """Loss and length of the gradient, of all processes together."""
        self.optimiser.zero_grad()
        loss = self._loss(self._model, batch)
        loss.backward()
        clip = self.config.training.clip
        length = nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        both = torch.stack([loss.detach(), length.detach()])
        if self.processes > 1:
            dist.all_reduce(both)
            both /= self.processes
        loss_value, length_value = both.tolist()
        return loss_value, length_value

    def _loss(self, network: nn.Module, batch: Batch) -> Tensor:
        truth = torch.from_numpy(batch.truth).to(self.device)
        given = (torch.from_numpy(x).to(self.device) for x in batch.measurement)
        samples = torch.from_numpy(batch.samples).to(self.device)
        error = torch.abs(network(samples, *given) - truth)
        return error.mean() if self.config.training.loss == "l1" else (error**2).mean()

    def _rate(self, step: int) -> float:
        """Learning rate: a linear rise, then half a cosine."""
        training = self.config.training
        progress = step / training.steps
        rise = min(1.0, progress / training.warm_up) if training.warm_up else 1.0
        return training.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2

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

    def _together(self, wanted: bool) -> bool:
        """Whether any process wants it."""
        if self.processes == 1:
            return wanted
        votes = torch.tensor(float(wanted))
        dist.all_reduce(votes)
        return bool(votes > 0)

    def _save(self) -> None:
        if not self._writes:
            return
        save(self.mean, self._file(WEIGHTS))
        write_checkpoint(
            self._file(CHECKPOINT),
            self.step,
            to_toml(self.config),
            self.network,
            self.mean,
            self.optimiser,
        )


def svd_of(name: str) -> SVD | None:
    """Give the decomposition that a configuration names; None for svt itself."""
    if name == "svt":
        return None
    if name == "torch.linalg.svd":
        return torch.linalg.svd

    def svd(A: Tensor, full_matrices: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        return svdinv.torch.svd(A, full_matrices=full_matrices, repeated=name)

    return svd


@torch.no_grad()
def reconstruct(
    network: nn.Module, case: Case, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Reconstruct one case, as it comes from the network."""
    samples, measurement = case.batch()
    given = [torch.from_numpy(x).to(device) for x in measurement]
    image = network(torch.from_numpy(samples).to(device), *given)[0]
    return image.cpu().contiguous().numpy()


def decibels(truth: np.ndarray, image: np.ndarray) -> float:
    """PSNR of an image in [0, 1], or of the magnitudes of a series."""
    if np.iscomplexobj(truth):
        return psnr(np.abs(truth), np.abs(image), peak="max")
    return psnr(truth, np.clip(image, 0, 1))


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM; the second ends the program as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield noted.is_set
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
