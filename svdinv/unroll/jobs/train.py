"""A training as the command line runs it: with a bar, in one process or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from svdinv.unroll.jobs.config import Config
from svdinv.unroll.jobs.training import WEIGHTS, Outcome, Run, interrupts
from svdinv.unroll.torch import load

__all__ = ["RunningMean", "processes", "train"]


def train(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    weights: Path | None = None,
    device: str = "cpu",
) -> int:
    """Train, with a progress bar and a line or two of conclusion.

    Parameters
    ----------
    config : Config
        What to train, how.
    output : Path
        Existing folder for all that is written.
    resume : bool
        Go on from the checkpoint in it.
    weights : Path, optional
        File with the first weights.
    device : str
        Where to compute.

    Returns
    -------
    int
        Exit code: 0, 130 after Ctrl-C, or 1 if the training broke down.

    Raises
    ------
    ValueError
        If the data or the checkpoint cannot be read.
    OSError
        If a file cannot be written.
    """
    first = None if weights is None else _weights(weights, config)
    with processes() as rank, interrupts() as interrupted:
        run = Run(config, None, output, resume=resume, weights=first, device=device)
        count = sum(p.numel() for p in run.network.parameters())
        if rank == 0:
            print(
                f"{type(config.network).__name__} with {count:,} weights, "
                f"{config.training.steps} steps, seed {config.seed}, "
                f"threads {config.threads}; writes to {output}"
            )
        outcome = _train(run, config, rank, interrupted)
        if rank == 0:
            print(describe(outcome, config, output))
    if outcome.ending == "broken":
        return 1
    return 130 if outcome.ending == "stopped" else 0


def describe(outcome: Outcome, config: Config, output: Path) -> str:
    """Say in a few lines how a training ended."""
    done = (
        f"{outcome.step} of {config.training.steps} steps; {len(outcome.losses)} of "
        f"them now, in {outcome.seconds:.0f} s."
    )
    if outcome.breakdown is not None:
        return (
            f"Broken down. {outcome.breakdown}\n{done} The weights from before that "
            f"step are kept: {output / WEIGHTS}"
        )
    if outcome.ending == "stopped":
        return f"Interrupted. {done}\nGo on with: svdinv train --resume {output}"
    return f"{done} Weights: {output / WEIGHTS}"


@contextmanager
def processes() -> Iterator[int]:
    """Join the other processes that torchrun started, if it did.

    Yields
    ------
    int
        The number of this one, 0 for the first or only one.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def _train(
    run: Run, config: Config, rank: int, interrupted: Callable[[], bool]
) -> Outcome:
    smoothed = RunningMean(0.98)
    shown: dict[str, str] = {}
    with tqdm(
        total=config.training.steps,
        initial=run.step,
        unit="step",
        disable=rank > 0,
        file=sys.stderr,
        mininterval=0.5,
    ) as bar:

        def on_step(step: int, loss: float) -> None:
            shown["loss"] = f"{smoothed(loss):.2e}"
            bar.set_postfix(shown, refresh=False)
            bar.update()

        def on_validation(step: int, decibels: float) -> None:
            shown["PSNR"] = f"{decibels:.2f} dB"

        return run.train(stop=interrupted, on_step=on_step, on_validation=on_validation)


def _weights(path: Path, config: Config) -> dict[str, Tensor]:
    network = load(path)
    if network.recipe != config.network:
        raise ValueError(
            f"{path} holds weights of another network than the configuration names"
        )
    return network.state_dict()


class RunningMean:
    """Exponential running mean without the bias of its start.

    Parameters
    ----------
    decay : float
        What is left of a value after one more.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    def __call__(self, value: float) -> float:
        """Take in a value, and give the mean so far."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay
        return self.total / self.weight
