"""Training on the command line: with a progress bar, in one or several processes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from traceback import clear_frames
from typing import Any

import torch
import torch.distributed as dist
from tqdm.std import EMA

from svdinv.unroll.formats.atomic import holding, remove_drafts
from svdinv.unroll.interrupts import interrupts, progress_bar
from svdinv.unroll.networks.recipe import Recipe
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.torch import load
from svdinv.unroll.training.config import CHECKPOINT, CONFIG, Config
from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION
from svdinv.unroll.training.losses import LossError
from svdinv.unroll.training.run import Outcome, Run


class Refused(ValueError):
    """A request that cannot be carried out; the message states the reason."""


def train(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = True,
) -> int:
    """Train with a progress bar and print a summary; return the exit code.

    `output` is an existing folder, `weights` a file with initial weights, of the
    network or of its inner network, and `device` as for `processes`. The exit code is
    0, 130 after Ctrl-C or SIGTERM, or 1 if the training broke down. Raises `Refused` if
    files cannot be read or do not match, or another process trains in the folder.
    """
    with ExitStack() as stack, processes(device) as (rank, place):

        def make() -> Run:
            if rank == 0:
                stack.enter_context(_locked(output))
                # Another process may have trained here since the caller's check.
                existing = "" if resume or overwrite else holds_training(output)
                if existing:
                    raise ValueError(f"{output} holds {existing} already")
            start = None
            if weights is not None:
                network = load(weights)
                # The weights of an inner network have the same names in the outer one.
                possible = config.network, getattr(config.network, "network", None)
                if not any(_same_weights(network.recipe, x) for x in possible):
                    raise ValueError(
                        f"{weights} contains weights of another network than the "
                        f"configuration names: {_differences(network.recipe, possible)}"
                    )
                start = network.state_dict()
            return Run(config, None, output, resume=resume, weights=start, device=place)

        run = _agreed(make)
        with interrupts() as interrupted:
            if rank == 0:
                _announce(run, output)
            try:
                outcome = train_with_bar(run, interrupted)
            except LossError as error:
                raise Refused(str(error)) from error
        if rank == 0:
            resume_command = command(output, device, run.processes)
            print(describe(outcome, config, output, resume_command), flush=True)
        if dist.is_initialized():
            # torchrun stops all processes when one ends with a code other than 0.
            dist.barrier()
    return {"finished": 0, "stopped": 130, "broken": 1}[outcome.ending]


def _same_weights(recipe: Any, other: Any) -> bool:
    """Return whether recipes are equal, except for iterations before the first cell."""
    if type(recipe) is not type(other):
        return False
    changed = {"start": other.start} if hasattr(other, "start") else {}
    return bool(replace(recipe, **changed) == other)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock a folder for this training, and remove drafts of one that was killed."""
    with ExitStack() as lock:
        try:
            lock.enter_context(holding(output))
        except BlockingIOError:
            raise Refused(f"another training writes to {output}") from None
        for name in (CHECKPOINT, CONFIG, WEIGHTS, LOG, VALIDATION):
            remove_drafts(output / name)
        yield


def _differences(recipe: Recipe, possible: Sequence[Any]) -> str:
    """Return the class of a recipe, and how it differs from one of the same class."""
    name = type(recipe).__name__
    for other in possible:
        if type(recipe) is type(other):
            pairs = [
                (f.name, getattr(recipe, f.name), getattr(other, f.name))
                for f in fields(recipe)
            ]
            return f"{name} with " + ", ".join(
                f"{option}={value!r} in place of {configured!r}"
                for option, value, configured in pairs
                if value != configured and option != "start"
            )
    return name


def holds_training(output: Path) -> str:
    """Return the name of a file of a training in a folder, or an empty string."""
    names = (CHECKPOINT, CONFIG, WEIGHTS, LOG, VALIDATION, EVENTS)
    return next((path.name for name in names for path in output.glob(name)), "")


def _announce(run: Run, output: Path) -> None:
    config = run.config
    count = sum(p.numel() for p in run.network.parameters())
    text = (
        f"{type(config.network).__name__} with {count:,} weights, "
        f"{config.training.steps} steps, seed {config.seed}, "
        f"threads {config.threads}; writes to {output}"
    )
    if run.strange:
        differences = "; ".join(run.strange)
        text = f"{text}\nResumed; the last bits may differ: {differences}"
    with suppress(BrokenPipeError):  # the reader has ended
        print(text, flush=True)


def command(output: Path, device: str, count: int) -> str:
    """Return the command that resumes a training."""
    local = os.environ.get("LOCAL_WORLD_SIZE", count)
    start = f"torchrun --nproc-per-node {local} -m svdinv" if count > 1 else "svdinv"
    place = "" if device == "auto" else f" --device {device}"
    return f"{start} train --resume {shlex.quote(str(output))}{place}"


def describe(outcome: Outcome, config: Config, output: Path, resume: str) -> str:
    """Return a summary of the end of a training."""
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
        return f"Interrupted. {done}\nResume with: {resume}"
    losses = outcome.losses
    if not losses:
        done = f"Nothing to do: all {outcome.step} steps were done before."
    elif tenth := len(losses) // 10:
        first, last = (sum(x) / tenth for x in (losses[:tenth], losses[-tenth:]))
        done = f"{done} Mean loss in their first tenth {first:.4g}, last {last:.4g}."
    if outcome.unmoved > 1:
        done = (
            f"{done} The gradient was exactly 0 in the last {outcome.unmoved} steps: "
            "the loss is least, or the learning rate too high."
        )
    return f"{done} Weights: {output / WEIGHTS}"


def _agreed(make: Callable[[], Run]) -> Run:
    """Make a run in every process; an error in one of them raises `Refused` in all."""
    run, problem = None, ""
    try:
        run = make()
    except (OSError, ValueError) as error:
        problem = str(error)
    if dist.is_initialized():
        problems = [""] * dist.get_world_size()
        dist.all_gather_object(problems, problem)
        problem = next(filter(None, problems), "")
    if run is None or problem:
        raise Refused(problem)
    return run


@contextmanager
def processes(device: str) -> Iterator[tuple[int, torch.device]]:
    """Join the other processes started by torchrun, if any.

    `device` is "cpu", "cuda" (one GPU per process), a GPU such as "cuda:1", or "auto"
    for "cuda" if there is a GPU, else "cpu". Yields the rank of this process, 0 if it
    is the only one, and its device. Raises `Refused` if there is no such device.
    """
    target = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, target
        return
    # Imported before the group exists: later, in the first step of an optimizer, its
    # functions would keep the group as a default argument, and the group's threads
    # would still run while the interpreter shuts down.
    import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if target.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), target
    except BaseException as error:
        # If a network in a frame of the traceback holds the last reference to the
        # group, PyTorch's threads wait for the interpreter's lock.
        clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()


def _device(name: str, index: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(name)
    except RuntimeError:
        target = None
    if target is None or target.type not in ("cpu", "cuda"):
        raise Refused(f"device must be auto, cpu, cuda or e.g. cuda:1, got {name!r}")
    if target.type == "cuda":
        # Each process checks the GPUs of all, so that all fail together.
        count = int(os.environ.get("LOCAL_WORLD_SIZE", index + 1))
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        needed = count if target.index is None else target.index + 1
        if needed > available:
            raise Refused(
                f"device {name}: PyTorch has {available} GPUs, but {needed} are needed"
            )
        if target.index is None:
            target = torch.device("cuda", index)
        elif count > 1:
            raise Refused(f"device must be cuda for several processes, got {name!r}")
        torch.cuda.set_device(target)
    return target


def train_with_bar(run: Run, stop: Callable[[], bool], name: str = "") -> Outcome:
    """Train until `stop` is true, with a progress bar in the first process."""
    smoothed = EMA(0.02)
    entries: dict[str, str] = {}
    with progress_bar(
        run.config.training.steps,
        visible=False if run.rank else None,
        initial=run.step,
        desc=name,
        unit="step",
        mininterval=0.5,
    ) as bar:

        def on_step(step: int, loss: float) -> None:
            entries["loss"] = f"{smoothed(loss):.2e}"
            bar.set_postfix(entries, refresh=False)
            bar.update()

        def on_validation(step: int, decibels: float) -> None:
            entries["PSNR"] = f"{decibels:.2f} dB"
            bar.set_postfix(entries, refresh=False)

        return run.train(stop=stop, on_step=on_step, on_validation=on_validation)
