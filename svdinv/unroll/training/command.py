"""A training as the command line runs it: with a bar, in one process or several."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from traceback import clear_frames

import torch
import torch.distributed as dist

from svdinv.unroll.formats.atomic import holding, remove_drafts
from svdinv.unroll.interrupts import interrupts, progress_bar
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.torch import load
from svdinv.unroll.training.config import CHECKPOINT, CONFIG, Config
from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION
from svdinv.unroll.training.run import Outcome, Run


class Refused(ValueError):
    """A request of the user that cannot be carried out; the message says why."""


def train(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = True,
) -> int:
    """Train, with a progress bar and a line or two of conclusion.

    `output` is an existing folder, `weights` a file with the first weights, of the
    network or of the network in it, and `device` as for `processes`. Gives the exit
    code: 0, 130 after Ctrl-C or SIGTERM, or 1 if the training broke down. Raises
    `Refused` if the data, weights or checkpoint cannot be read or do not belong
    together, or another process trains in that folder.
    """
    with ExitStack() as held, processes(device) as (rank, place):

        def make() -> Run:
            if rank == 0:
                held.enter_context(_alone(output))
                # Another process may have begun one, and ended, a moment ago.
                there = "" if resume or overwrite else holds_training(output)
                if there:
                    raise ValueError(f"{output} holds {there} already")
            first = None
            if weights is not None:
                network = load(weights)
                # That of which a part of the names, and those alone, are names here.
                inside = getattr(config.network, "network", None)
                if network.recipe not in (config.network, inside):
                    raise ValueError(
                        f"{weights} holds weights of another network than the "
                        f"configuration names: {network.recipe}"
                    )
                first = network.state_dict()
            return Run(config, None, output, resume=resume, weights=first, device=place)

        run = _agreed(make)
        with interrupts() as interrupted:
            if rank == 0:
                _announce(run, output)
            outcome = train_with_bar(run, interrupted)
        if rank == 0:
            again = command(output, device, run.processes)
            print(describe(outcome, config, output, again), flush=True)
        if dist.is_initialized():
            # torchrun ends all processes when one ends with another code than 0.
            dist.barrier()
    return {"finished": 0, "stopped": 130, "broken": 1}[outcome.ending]


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep other trainings out of a folder, and clean up behind one that was killed."""
    with ExitStack() as held:
        try:
            held.enter_context(holding(output))
        except BlockingIOError:
            raise Refused(f"another training writes to {output}") from None
        for name in (CHECKPOINT, CONFIG, WEIGHTS, LOG, VALIDATION):
            remove_drafts(output / name)
        yield


def holds_training(output: Path) -> str:
    """Name the first file of a training in a folder; empty if there is none."""
    names = (CHECKPOINT, CONFIG, WEIGHTS, LOG, VALIDATION, EVENTS)
    return next((path.name for name in names for path in output.glob(name)), "")


def _announce(run: Run, output: Path) -> None:
    config = run.config
    count = sum(p.numel() for p in run.network.parameters())
    print(
        f"{type(config.network).__name__} with {count:,} weights, "
        f"{config.training.steps} steps, seed {config.seed}, "
        f"threads {config.threads}; writes to {output}",
        flush=True,
    )
    if run.strange:
        strange = "; ".join(run.strange)
        print(f"Not to the last bit as it was begun: {strange}", flush=True)


def command(output: Path, device: str, count: int) -> str:
    """Return the commands that use or resume what was trained."""
    local = os.environ.get("LOCAL_WORLD_SIZE", count)
    start = f"torchrun --nproc-per-node {local} -m svdinv" if count > 1 else "svdinv"
    place = "" if device == "auto" else f" --device {device}"
    return f"{start} train --resume {shlex.quote(str(output))}{place}"


def describe(outcome: Outcome, config: Config, output: Path, again: str) -> str:
    """Summarise in a few lines how a training ended."""
    done = (
        f"{outcome.step} of {config.training.steps} steps; {len(outcome.losses)} of "
        f"them now, in {outcome.seconds:.0f} s."
    )
    if outcome.breakdown is not None:
        return (
            f"Broken down. {outcome.breakdown}\n{done} The weights after step "
            f"{outcome.saved} are kept: {output / WEIGHTS}"
        )
    if outcome.ending == "stopped":
        return f"Interrupted. {done}\nGo on with: {again}"
    if not outcome.losses:
        done = f"Nothing to do: all {outcome.step} steps were done before."
    return f"{done} Weights: {output / WEIGHTS}"


def _agreed(make: Callable[[], Run]) -> Run:
    """Make a run in every process; what stops one of them stops them all."""
    run, problem = None, ""
    try:
        run = make()
    except (OSError, ValueError) as error:
        problem = str(error)
    if dist.is_initialized():
        every = [""] * dist.get_world_size()
        dist.all_gather_object(every, problem)
        problem = next(filter(None, every), "")
    if run is None or problem:
        raise Refused(problem)
    return run


@contextmanager
def processes(device: str) -> Iterator[tuple[int, torch.device]]:
    """Join the other processes that torchrun started, if it did.

    `device` is "cpu" or "cuda", which gives each process a GPU of its own, "cuda:1", or
    "auto" for either of the first two. Yields the number of this process, 0 for the
    first or only one, and its device. Raises `Refused` if there is no such device.
    """
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, place
        return
    # Its functions have as a default the group that is there when it is imported, as
    # the optimizers do in their first step: that would outlive its end here, and its
    # threads would meet an interpreter that is going.
    import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), place
    except BaseException as error:
        # PyTorch's threads wait for the interpreter's lock if the network in a frame of
        # the traceback is the last to hold the group.
        clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()


def _device(name: str, index: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(name)
    except RuntimeError:
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise Refused(f"device must be auto, cpu, cuda or such as cuda:1, got {name!r}")
    if place.type == "cuda":
        # Every process looks for those of all: they are to fail together.
        count = int(os.environ.get("LOCAL_WORLD_SIZE", index + 1))
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        needed = count if place.index is None else place.index + 1
        if needed > there:
            raise Refused(
                f"device {name}: there are {there} GPUs that PyTorch sees, and "
                f"{needed} are needed"
            )
        if place.index is None:
            place = torch.device("cuda", index)
        elif count > 1:
            raise Refused(f"device must be cuda for several processes, got {name!r}")
        torch.cuda.set_device(place)
    return place


def train_with_bar(run: Run, stop: Callable[[], bool], name: str = "") -> Outcome:
    """Train until told to stop, with a progress bar in the first process."""
    smoothed = RunningMean(0.98)
    shown: dict[str, str] = {}
    with progress_bar(
        run.config.training.steps,
        shown=False if run.rank else None,
        initial=run.step,
        desc=name,
        unit="step",
        mininterval=0.5,
    ) as bar:

        def on_step(step: int, loss: float) -> None:
            shown["loss"] = f"{smoothed(loss):.2e}"
            bar.set_postfix(shown, refresh=False)
            bar.update()

        def on_validation(step: int, decibels: float) -> None:
            shown["PSNR"] = f"{decibels:.2f} dB"
            bar.set_postfix(shown, refresh=False)

        return run.train(stop=stop, on_step=on_step, on_validation=on_validation)


class RunningMean:
    """Exponential running mean without the bias of its start."""

    def __init__(self, decay: float) -> None:
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    def __call__(self, value: float) -> float:
        """Add a value and return the mean so far."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay
        return self.total / self.weight
