"""The demonstration: train an unrolled low-rank network, judge it, show it.

Photographs that come with scikit-image and scikit-learn are the training data; one of
them, or a picture of the user's own, is kept aside and reconstructed from a part of
its samples. Every number that is printed is measured in the run that prints it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from svdinv.unroll.data import Image, centre_crop, photograph, split
from svdinv.unroll.jobs.baselines import biharmonic, svt_completion, zero_filled
from svdinv.unroll.jobs.colour import channels_first, channels_last
from svdinv.unroll.jobs.data import Case
from svdinv.unroll.jobs.panels import Entry, save_panel
from svdinv.unroll.masks import uniform_mask
from svdinv.unroll.metrics import psnr, ssim
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import SVD
from svdinv.unroll.training import Training, TrainingConfig, reconstruct, train

__all__ = ["NETWORK", "PANEL", "DemoConfig", "run"]

PANEL = "svdinv-demo.png"
"""Name of the picture in the output directory."""

NETWORK = TLR(cells=5, features=32, block=32, start="fill", side="samples")
"""Smaller than the published network, and for photographs of any size."""

_LARGEST = 512


@dataclass(frozen=True)
class DemoConfig:
    """What the demonstration does.

    Attributes
    ----------
    rate : float
        Sampling rate, in (0, 1).
    photo : str
        Photograph to reconstruct: a name of `svdinv.unroll.data.PHOTOS` or, with
        `picture`, whatever to call it.
    picture : ndarray of float32, shape (H, W, 3), optional
        A picture of one's own, in [0, 1].
    output : Path
        Existing directory for the panel.
    seed : int
        Seed of everything random.
    steps : int
        Training steps.
    minutes : float
        Wall-clock cap of the training.
    threads : int
        Threads of PyTorch.
    comparison_steps : int
        Most steps of the training with `torch.linalg.svd`.
    comparison_seconds : float
        Wall-clock cap of that training.
    crop : int
        Most pixels a side of the photograph to reconstruct.
    network : TLR
        Structure of the network.
    batch, patch : int
        Patches in a training step, and their side.
    """

    rate: float
    photo: str
    output: Path
    picture: Image | None = None
    seed: int = 0
    steps: int = 1200
    minutes: float = 3.0
    threads: int = 1
    comparison_steps: int = 200
    comparison_seconds: float = 25.0
    crop: int = _LARGEST
    network: TLR = NETWORK
    batch: int = 16
    patch: int = 32

    def quick(self) -> DemoConfig:
        """Make it small: everything is run, in seconds, and nothing is learned well."""
        return replace(
            self,
            steps=min(self.steps, 60),
            comparison_steps=40,
            comparison_seconds=20.0,
            crop=128,
            network=replace(NETWORK, cells=3, features=16),
            batch=8,
        )


def run(config: DemoConfig) -> int:
    """Run the demonstration, and print what it finds.

    Parameters
    ----------
    config : DemoConfig
        What to do.

    Returns
    -------
    int
        Exit code: 0, or 1 if the training broke down.

    Raises
    ------
    OSError
        If the panel cannot be written.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    names = split(config.photo)
    photos = [photograph(name) for name in names]
    truth = photograph(config.photo) if config.picture is None else config.picture
    truth = centre_crop(truth, config.crop)
    print(
        f"Colour compressed sensing at {config.rate:.0%} of the samples, "
        f"threads {config.threads}, seed {config.seed}\n"
        f"  trained on     {', '.join(names)}\n"
        f"  reconstructed  {config.photo}, "
        f"{truth.shape[0]}x{truth.shape[1]} pixels, never trained on"
    )

    limit = min(config.comparison_steps, config.steps)
    print(f"\nFirst through torch.linalg.svd, {limit} steps at most", flush=True)
    theirs = _train(
        "torch.linalg.svd",
        torch.linalg.svd,
        photos,
        config,
        limit=limit,
        cap_seconds=config.comparison_seconds,
    )
    print(_describe(theirs, limit))

    print(
        "\nNow through svdinv.torch.svt: same weights, same batches. "
        "(Ctrl-C ends the training, not the demonstration.)",
        flush=True,
    )
    ours = _train(
        "svdinv.torch.svt",
        None,
        photos,
        config,
        cap_seconds=60 * config.minutes,
    )
    print(_describe(ours, config.steps))
    if ours.breakdown is not None:
        return 1
    print(_conclude(theirs, ours))

    print(f"\nReconstructing {config.photo}", flush=True)
    mask = uniform_mask(
        truth.shape, config.rate, np.random.default_rng([config.seed, 1])
    )
    entries, scores = [], []
    print(f"  {'':<46}  PSNR/dB    SSIM")
    for name, remark, image in _reconstructions(truth, mask, ours):
        decibels, similarity = psnr(truth, image), ssim(truth, image)
        print(f"  {name + remark:<46}  {decibels:7.2f}  {similarity:6.4f}", flush=True)
        entries.append(Entry(name, image, f"{decibels:.2f} dB, SSIM {similarity:.3f}"))
        scores.append(decibels)
    print(
        f"  The network: {scores[-1] - scores[1]:+.2f} dB on SVT completion, "
        f"{scores[-1] - scores[2]:+.2f} dB on biharmonic inpainting."
    )
    path = config.output / PANEL
    save_panel(
        path,
        Entry("truth", truth, f"{config.photo}, never trained on"),
        entries,
        title=f"{config.photo}, from {config.rate:.0%} of its samples",
    )
    print(f"\nPicture: {path}\nTime: {time.monotonic() - began:.0f} s")
    return 0


def _train(
    name: str,
    svd: SVD | None,
    photos: Sequence[Image],
    config: DemoConfig,
    *,
    limit: int | None = None,
    cap_seconds: float,
) -> Training:
    """Train behind a progress bar; the first Ctrl-C ends the training."""
    settings = TrainingConfig(
        steps=config.steps,
        batch=config.batch,
        patch=config.patch,
        rate=config.rate,
        seed=config.seed,
    )
    smoothed = _RunningMean(0.97)
    steps = config.steps if limit is None else limit
    with (
        _interrupts() as interrupted,
        tqdm(total=steps, desc=name, unit="step", mininterval=0.5) as bar,
    ):

        def on_step(step: int, loss: float) -> bool:
            mean = smoothed(loss)
            bar.set_postfix_str(
                f"loss {mean:.2e}, PSNR {-10 * np.log10(mean):.1f} dB", refresh=False
            )
            bar.update()
            return interrupted()

        return train(
            photos,
            config.network,
            settings,
            svd=svd,
            limit=limit,
            cap_seconds=cap_seconds,
            on_step=on_step,
        )


def _describe(result: Training, limit: int) -> str:
    """Say in a line or two how a training went."""
    done = f"{len(result.losses)} of {limit} steps in {result.seconds:.0f} s"
    if result.breakdown is not None:
        broken = result.breakdown
        return (
            f"  NaN at step {broken.step}: {broken.weights_lost:,} of "
            f"{broken.weights:,} weights are NaN from there on.\n"
            f"  Of the {broken.patches} patches of that batch, {broken.dark_patches} "
            "had black rows or columns:\n  there, singular values of zero repeat."
        )
    lines = {
        "finished": f"  {done}, and every gradient was finite.",
        "limited": f"  {done}, and every gradient was finite.",
        "capped": f"  {done}: the time allowed ran out. Every gradient was finite.",
        "stopped": f"  {done}: interrupted. Every gradient was finite.",
    }
    line = lines[result.ending]
    if result.cooled_from is not None:
        line += (
            f"\n  Time was short: from step {result.cooled_from} on the learning rate "
            "was brought down early,\n  so this result depends on the machine as well "
            "as on the seed."
        )
    return line


def _conclude(theirs: Training, ours: Training) -> str:
    """Compare the two trainings, as far as they allow it."""
    if theirs.breakdown is None:
        return (
            f"  torch.linalg.svd gave no NaN in its {len(theirs.losses)} steps: "
            "no difference to be seen this time."
        )
    if ours.breakdown is None and len(ours.losses) >= theirs.breakdown.step:
        return (
            f"  The batch of step {theirs.breakdown.step}, where torch.linalg.svd "
            "gave NaN, was one of them."
        )
    return "  This training did not get as far as the step where the other gave NaN."


def _reconstructions(
    truth: Image, mask: NDArray[np.bool_], trained: Training
) -> Iterator[tuple[str, str, Image]]:
    """Reconstruct the photograph by every method: name, remark and picture."""
    from threadpoolctl import threadpool_limits

    samples = np.where(mask, truth, np.float32(0))
    y, m, x = map(channels_first, (samples, mask, truth))
    case = Case("photograph", "", y, (m,), x)
    # BLAS threads gain little on matrices of this size, and lose several times over
    # where other work shares the cores: they spin while they wait.
    with threadpool_limits(1, user_api="blas"):
        for name, method in (
            ("samples, zero-filled", zero_filled),
            ("SVT completion", svt_completion),
            ("biharmonic inpainting", biharmonic),
        ):
            image, note = method(case)
            yield name, f", {note}" if note else "", channels_last(image)
    yield "unrolled network", "", reconstruct(trained.network, samples, mask)


class _RunningMean:
    """Exponential running mean without the bias of its start."""

    def __init__(self, decay: float) -> None:
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    def __call__(self, value: float) -> float:
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay
        return self.total / self.weight


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C instead of raising it; the second raises as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set  # signals reach the main thread only
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
