"""The study: one network, trained through every derivative of the low-rank step.

After Zhang & Hu (arXiv 2411.14141): the same first weights, the same batches, and one
difference, which is how the step that thresholds singular values is differentiated.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import svdinv
from derivative_study.data import Patches, TestCrops
from derivative_study.plans import METHODS, Plan, Study
from svdinv.unroll.data import TEST, Image
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.interrupts import interrupts
from svdinv.unroll.metrics import psnr, ssim
from svdinv.unroll.networks import TLR
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import Colour, channels_last
from svdinv.unroll.torch import Cell, Network
from svdinv.unroll.training.config import Config, Training
from svdinv.unroll.training.diagnosis import Breakdown
from svdinv.unroll.training.run import Run

__all__ = [
    "COLLAPSE",
    "LONGEST",
    "METHODS",
    "Plan",
    "Row",
    "Study",
    "begin",
    "compare",
    "machine",
    "measure",
    "read_rows",
]

LONGEST = 1e3
"""Norm of the gradient, before it is clipped, from which a training is broken.

The loss is a mean of absolute errors of images in [0, 1]; gradients that are right have
norms of 0.01 to 10."""

COLLAPSE = 10.0
"""Decibels by which the validation PSNR may fall below the best so far."""

_STUDY, _ROWS = "study.json", "runs"
_VALIDATIONS = 4
_PAIRS = 5


@dataclass(frozen=True)
class Row:
    """What came of a run, named as in `Plan`."""

    data: str
    rate: float
    method: str
    seed: int
    cause: str  # why it counts as broken; empty if it does not
    step: int | None  # at which it broke, from 1
    layer: str  # where, as in `Breakdown`; empty if not known
    spectrum: tuple[float, ...]  # that caused it, if the low-rank step did
    steps: int  # that were done
    longest_gradient: float | None  # before it was clipped, of those that were finite
    validation: float | None  # last PSNR, dB
    psnr: float | None  # mean over the test photographs, dB
    ssim: float | None
    milliseconds: float | None  # median CPU time of a training step
    # CPU time of a gradient as a multiple of that of `METHODS[0]`, both taken in turns,
    # with the weights of this run.
    relative: float | None
    machine: str  # where it ran

    @property
    def broken(self) -> bool:
        """Whether it broke down."""
        return bool(self.cause)


def begin(study: Study, output: Path) -> list[Row]:
    """Write down what is studied, or see that it is what was studied before.

    Returns the rows of the runs that are done. Raises ValueError if the existing
    folder holds another study or a damaged file.
    """
    path = output / _STUDY
    wanted = json.loads(json.dumps(asdict(study)))
    if path.exists():
        before = _read(path)
        if before != wanted:
            differing = next(
                (name for name in wanted if before.get(name) != wanted[name]), "it"
            )
            raise ValueError(
                f"{output} holds another study: {differing} is "
                f"{before.get(differing)} there and {wanted.get(differing)} here; name "
                "another folder, or give the options of the first time"
            )
    else:
        (output / _ROWS).mkdir(exist_ok=True)
        if any((output / _ROWS).iterdir()):
            raise ValueError(f"{output / _ROWS} holds runs of an unknown study")
        _write(path, wanted)
    plans = set(study.plans())
    return [row for row in read_rows(output) if _plan(row) in plans]


def compare(
    study: Study, photographs: Sequence[Image], output: Path
) -> tuple[list[Row], bool]:
    """Do the runs of a study that are not done yet, each written when it is.

    `photographs` are those of `derivative_study.data.pool`. Gives what came of the runs
    that are done, in the order of `Study.plans`, and whether that is all of them;
    otherwise Ctrl-C came first. Raises ValueError as `begin`.
    """
    rows = {_plan(row): row for row in begin(study, output)}
    plans = study.plans()
    left = [plan for plan in plans if plan not in rows]
    torch.set_num_threads(study.threads)
    with (
        interrupts() as interrupted,
        tqdm(
            total=len(plans),
            initial=len(rows),
            unit="run",
            file=sys.stderr,
            disable=None,
        ) as bar,
    ):
        test = TestCrops(study.crop, study.patch)
        for plan in left:
            bar.set_postfix_str(f"{plan.data} {plan.rate:g} {plan.method}")
            row = measure(study, plan, photographs, test, interrupted)
            if row is None:
                break
            _write(output / _ROWS / f"{plan.name}.json", asdict(row))
            rows[plan] = row
            bar.update()
    return [rows[plan] for plan in plans if plan in rows], len(rows) == len(plans)


def measure(
    study: Study,
    plan: Plan,
    photographs: Sequence[Image],
    test: TestCrops,
    interrupted: Callable[[], bool] = lambda: False,
) -> Row | None:
    """Do one run; None if `interrupted`, asked after each step, has ended it."""
    source = Patches(list(photographs), plan.data, plan.rate, study.patch)
    run = Run(_config(study, plan), source)
    watch = _Watch()
    cause, found = "", None
    score: tuple[float, float] | None = None
    try:
        outcome = run.train(
            stop=interrupted,
            on_step=watch.step,
            on_validation=watch.validation,
            on_gradient=watch.gradient,
        )
        if outcome.ending == "stopped":
            return None
        found = outcome.breakdown
        if found is None:
            score = _score(run.mean, test, plan.rate)
        else:
            cause = f"not finite, {found.pass_}"
    except _BrokenError as broken:
        cause, found = str(broken), Breakdown(run.step, "nowhere", "backward")
        if broken.gradient:
            batch = source.batch(plan.seed, run.step + 1, range(study.batch))
            found = _steepest(run.network, run.step + 1, batch)
    except torch.linalg.LinAlgError:  # in training, it counts as not finite
        cause = "decomposition of a test photograph failed"
        found = Breakdown(run.step, "", "forward")
    relative = None
    if not cause:
        batch = source.batch(plan.seed, study.steps + 1, range(study.batch))
        relative = _relative_time(run.network, plan.method, batch)
    spectrum = None if found is None else found.spectrum
    return Row(
        **asdict(plan),
        cause=cause,
        step=None if found is None else found.step,
        layer="" if found is None else found.layer,
        spectrum=() if spectrum is None else tuple(map(float, spectrum)),
        steps=run.step,
        longest_gradient=watch.longest,
        validation=watch.decibels[-1] if watch.decibels else None,
        psnr=None if score is None else score[0],
        ssim=None if score is None else score[1],
        milliseconds=watch.milliseconds,
        relative=relative,
        machine=machine(),
    )


def machine() -> str:
    """Name processor and versions, in one line."""
    return (
        f"{_processor()}, PyTorch {torch.__version__.partition('+')[0]}, "
        f"svdinv {svdinv.__version__}"
    )


def read_rows(output: Path) -> list[Row]:
    """Read the rows in the folder of a study; ValueError if a file is damaged."""
    return [_row(path) for path in sorted((output / _ROWS).glob("*.json"))]


def _config(study: Study, plan: Plan) -> Config:
    task = Colour(
        photographs=study.photographs, patch=study.patch, rates=(plan.rate, plan.rate)
    )
    training: dict[str, Any] = {"svd": plan.method}
    return Config(
        task=task,
        network=TLR(cells=study.cells),
        training=Training(
            steps=study.steps,
            batch=study.batch,
            validate_every=max(1, study.steps // _VALIDATIONS),
            **training,
        ),
        seed=plan.seed,
        threads=study.threads,
    )


class _BrokenError(Exception):
    """A training that is finite, and broken all the same."""

    def __init__(self, cause: str, *, gradient: bool) -> None:
        super().__init__(cause)
        self.gradient = gradient


class _Watch:
    """Looks at a training while it runs, and ends it where it breaks."""

    def __init__(self) -> None:
        self.longest: float | None = None
        self.decibels: list[float] = []
        self._ticks: list[float] = []

    @property
    def milliseconds(self) -> float | None:
        """Median time of a step, of all but the first."""
        times = [b - a for a, b in zip(self._ticks, self._ticks[1:], strict=False)]
        return 1e3 * statistics.median(times) if times else None

    def step(self, step: int, loss: float) -> None:
        # Of the processor: other work on the machine does not count.
        self._ticks.append(time.process_time())

    def gradient(self, step: int, length: float) -> None:
        self.longest = max(length, self.longest or 0.0)
        if length > LONGEST:
            raise _BrokenError(f"gradient of length {length:.1e}", gradient=True)

    def validation(self, step: int, decibels: float) -> None:
        best = max(self.decibels, default=-math.inf)
        self.decibels.append(decibels)
        if not decibels >= best - COLLAPSE:
            raise _BrokenError("validation collapsed", gradient=False)


def _loss(network: nn.Module, batch: Problem) -> Tensor:
    """Mean absolute error, which `Training` has by default."""
    batch = batch.replace_arrays(torch.from_numpy)
    return torch.abs(network(batch) - batch.truth).mean()


def _steepest(network: Network, step: int, batch: Problem) -> Breakdown:
    """Find the low-rank step that lengthens a gradient most; a right one cannot much.

    Soft thresholding is a proximal operator: its derivative lengthens nothing.
    """
    seen: list[tuple[float, str, np.ndarray]] = []
    cells = [
        (f"cells.{i}.svt", c)
        for i, c in enumerate(network.cells)
        if isinstance(c, Cell)
    ]
    for name, cell in cells:
        cell.svt = partial(_amplified, seen, name, cell.svt)  # type: ignore[method-assign]
    try:
        network.zero_grad()
        _loss(network, batch).backward()
    finally:
        network.zero_grad()
        for _, cell in cells:
            del cell.svt
    if not seen:
        return Breakdown(step, "nowhere in the repetition", "backward")
    _, name, spectrum = max(seen, key=lambda entry: entry[0])
    return Breakdown(step, name, "backward", spectrum)


def _amplified(
    seen: list[tuple[float, str, np.ndarray]],
    name: str,
    svt: Callable[..., Tensor],
    matrices: Tensor,
    fraction: Tensor,
) -> Tensor:
    """Apply a low-rank step that notes by how much it lengthens gradients."""
    matrices = matrices.view_as(matrices)
    result = svt(matrices, fraction)
    came: list[Tensor] = []

    def returned(gradient: Tensor) -> None:
        lengths = torch.linalg.matrix_norm(came[0])
        ratio = torch.linalg.matrix_norm(gradient) / lengths
        ratio = torch.where(lengths > 0, ratio, torch.zeros_like(ratio)).flatten()
        worst = int(ratio.argmax())
        matrix = matrices.detach().flatten(0, -3)[worst]
        spectrum = torch.linalg.svdvals(matrix).numpy()
        seen.append((float(ratio[worst]), name, spectrum))

    result.register_hook(came.append)
    matrices.register_hook(returned)
    return result


@torch.no_grad()
def _score(network: nn.Module, test: TestCrops, rate: float) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM over the test photographs."""
    batch = test.batch(rate)
    given = [batch.replace_arrays(torch.from_numpy)]
    images = test.joined(network(*given).clamp(0, 1).numpy())
    pairs = list(zip(channels_last(test.truths), channels_last(images), strict=True))
    assert len(pairs) == len(TEST)
    return (
        statistics.fmean(psnr(truth, image) for truth, image in pairs),
        statistics.fmean(ssim(truth, image) for truth, image in pairs),
    )


def _relative_time(network: Network, method: str, batch: Problem) -> float:
    """Time of a gradient as a multiple of that of the first method, in turns."""
    if method == METHODS[0]:
        return 1.0
    reference = Network(network.recipe, seed=0)
    reference.load_state_dict(network.state_dict())
    times: list[list[float]] = [[], []]
    for _ in range(_PAIRS):
        for each, timed in zip((reference, network), times, strict=True):
            each.zero_grad()
            began = time.process_time()
            _loss(each, batch).backward()
            timed.append(time.process_time() - began)
    theirs, ours = map(statistics.median, times)
    return ours / theirs


def _plan(row: Row) -> Plan:
    return Plan(row.data, row.rate, row.method, row.seed)


def _row(path: Path) -> Row:
    values = _read(path)
    names = [field.name for field in dataclasses.fields(Row)]
    if sorted(values) != sorted(names):
        raise ValueError(f"{path} is no run of a study; delete it to repeat that run")
    return Row(**values | {"spectrum": tuple(values["spectrum"])})


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as stream:
        stream.write(json.dumps(values, indent=1).encode() + b"\n")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = (
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    )
    return next(names, platform.machine())
