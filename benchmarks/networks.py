"""Time and memory of a training step of the networks: the table in docs/networks.md.

TLR-Net as published (10 cells of 16 features) on a batch of 128 colour images of 32 x
32: by svdinv, by the same network through `torch.linalg.svd`, and by a restatement of
the published network, with its SVD, its derivative and its checks. Then one step of
each network for dynamic MRI on a series of 18 x 192 x 192 with 8 coils, with and
without recomputed cells. Each contender runs in a process of its own; they take turns.
Run it on a machine that does nothing else::

    python benchmarks/networks.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import published
from speed_worker import resident_peak

from svdinv.unroll.torch import LSNet, Network, SLRNet, T2LRNet, TLRNet

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "docs" / "figures"

IMAGES = ("svdinv", "svdinv, torch.linalg.svd", "published")
SERIES = {"SLR-Net": SLRNet, "L+S-Net": LSNet, "T2LR-Net": T2LRNet}
RECOMPUTED = ", recomputed"

Step = Callable[[], float]


class PublishedCell(nn.Module):
    """One cell of TLR-Net as Zhang and Hu released it, restated."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = _chain(3, 16, 16, 3), _chain(3, 16, 16, 3)
        self.c = nn.Parameter(torch.tensor([-2.0]))
        self.eta = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor, l: Tensor, y: Tensor, mask: Tensor) -> Any:
        """Return the next image and multiplier."""
        v = x + l
        maps = self.before(v)
        assert maps.isfinite().all()
        U, D, V = published.released_svd(maps)
        S = D.diagonal(dim1=-2, dim2=-1)
        S = torch.relu(S - torch.sigmoid(self.c) * S[..., :1])
        z = v + self.after(U @ torch.diag_embed(S) @ V.mH)
        x = (1 - mask) * (z - l) + mask * y
        return x, l + torch.relu(self.eta) * (x - z)


class PublishedTLRNet(nn.Module):
    """The released network, in PyTorch's default memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([PublishedCell() for _ in range(10)])

    def forward(self, y: Tensor, mask: Tensor) -> Tensor:
        """Return images."""
        x, l, mask = y, torch.zeros_like(y), mask.to(y.dtype)
        for cell in self.cells:
            x, l = cell(x, l, y, mask)
        return x


def _chain(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding="same", bias=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers[:-1])


def image_step(contender: str, size: int) -> Step:
    """Make the training step of a network for images."""
    torch.manual_seed(0)
    image = torch.rand(128 * size // 32, 3, size, size)
    mask = torch.rand_like(image) < 0.4
    network: nn.Module = {
        "svdinv": lambda: TLRNet(seed=0),
        "svdinv, torch.linalg.svd": lambda: TLRNet(seed=0, svd=torch.linalg.svd),
        "published": PublishedTLRNet,
    }[contender]()
    return _step(network, image, (image * mask, mask))


def series_step(contender: str, shape: tuple[int, int, int], coils: int) -> Step:
    """Make the training step of a network for series."""
    torch.manual_seed(0)
    _, height, width = shape
    series = torch.randn(1, *shape, dtype=torch.complex64)
    mask = torch.rand(1, *shape) < 0.125
    maps = torch.randn(1, coils, height, width, dtype=torch.complex64)
    maps = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    kind = SERIES[contender.removesuffix(RECOMPUTED)]
    network: Network = kind(seed=0, checkpoint=contender.endswith(RECOMPUTED))
    y = network.recipe.operator(mask, maps)(series)
    return _step(network, series, (y, mask, maps))


def _step(network: nn.Module, truth: Tensor, given: tuple[Tensor, ...]) -> Step:
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> float:
        began = time.perf_counter()
        optimiser.zero_grad()
        loss = (network(*given) - truth).abs().square().mean()
        loss.backward()
        optimiser.step()
        return time.perf_counter() - began

    return step


def work(contender: str, threads: int, quick: bool) -> None:
    """Answer each line of the standard input with the time of a step, in JSON."""
    torch.set_num_threads(threads)
    if contender in IMAGES:
        step = image_step(contender, 16 if quick else 32)
    else:
        step = series_step(contender, (6, 32, 32) if quick else (18, 192, 192), 8)
    peak = resident_peak(step)  # by a step that is not timed
    # The first after a pause finds threads asleep and memory given back.
    pause = contender in IMAGES
    for _ in sys.stdin:
        for _ in range(pause):
            step()
        print(json.dumps({"seconds": step(), "bytes": peak}), flush=True)


class Contender:
    """A process that takes a training step when it is asked to."""

    def __init__(self, name: str, threads: int, quick: bool) -> None:
        command = [sys.executable, __file__, "--worker", name]
        command += ["--threads", str(threads), *["--quick"] * quick]
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.name, self.seconds, self.peak = name, list[float](), 0

    def step(self) -> None:
        """Take one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.peak = answer["bytes"] or 0

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(
    names: list[str], rounds: int, threads: int, quick: bool
) -> list[Contender]:
    """Let contenders take steps in turns."""
    contenders = [Contender(name, threads, quick) for name in names]
    for _ in range(rounds):
        for contender in contenders:
            contender.step()
    for contender in contenders:
        contender.close()
    return contenders


def table(threads: int, quick: bool) -> str:
    """Measure everything and write the table."""
    lines = [
        f"PyTorch {torch.__version__.split('+')[0]}, {threads} threads. Time: median "
        "of a training step.",
        "Memory: peak of the first step above what the data and the network take.",
        "",
        "| network | time | of svdinv's | memory |",
        "|---|--:|--:|--:|",
    ]
    images = compare(list(IMAGES), 1 if quick else 15, threads, quick)
    ours = statistics.median(images[0].seconds)
    labels = (
        "TLR-Net, `svdinv.torch.svt`",
        "TLR-Net, `torch.linalg.svd`",
        "TLR-Net, as published",
    )
    for label, contender in zip(labels, images, strict=True):
        # Each round by itself: what disturbs one contender disturbs its neighbours.
        pairs = zip(contender.seconds, images[0].seconds, strict=True)
        ratio = statistics.median(theirs / mine for theirs, mine in pairs)
        seconds = (
            ours if contender is images[0] else statistics.median(contender.seconds)
        )
        lines.append(_row(label, seconds, f"{ratio:.2f}", contender.peak))
    for name in [*SERIES][: 1 if quick else None]:
        for suffix in ("", RECOMPUTED):
            (one,) = compare([name + suffix], 1, threads, quick)
            lines.append(_row(one.name, statistics.median(one.seconds), "", one.peak))
    return "\n".join(lines) + "\n"


def _row(label: str, seconds: float, ratio: str, peak: int) -> str:
    time_ = f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return f"| {label} | {time_} | {ratio} | {peak / 1e9:.2f} GB |"


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small, in seconds")
    parser.add_argument("--output", type=Path, default=FIGURES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.threads, arguments.quick)
        return
    found = table(arguments.threads, arguments.quick)
    print(found)
    (arguments.output / "networks-table.txt").write_text(found)


if __name__ == "__main__":
    main()
