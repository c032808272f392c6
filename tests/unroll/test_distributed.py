"""Trainings in two processes, as torchrun starts them."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch.distributed
from PIL import Image
from small_trainings import (
    NETWORK,
    RESULTS,
    TRAINING,
    cine,
    colour,
    environment,
    events,
    pictures,
    results,
)

from svdinv.unroll.jobs.checkpoints import read_checkpoint
from svdinv.unroll.jobs.config import write
from svdinv.unroll.jobs.logs import EVENTS, LOG, VALIDATION, read_log
from svdinv.unroll.jobs.training import CHECKPOINT, WEIGHTS, Run
from svdinv.unroll.torch import load

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="PyTorch without Gloo"
)


def torchrun(*arguments):
    """Start two processes; the port is one that is free."""
    start = [sys.executable, "-W", "error", "-m", "torch.distributed.run"]
    return subprocess.Popen(
        [
            *start,
            *("--standalone", "--nproc-per-node", "2", "-m", "svdinv", "train"),
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONWARNINGS="error"),
    )


def ended(*arguments):
    with torchrun(*arguments) as process:
        out, err = process.communicate(timeout=150)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.mark.parametrize("make", [colour, cine])
def test_two_processes_learn_what_one_learns(make, folder, tmp_path):
    config = make(folder) if make is colour else make()
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    write(config, tmp_path / "mine.toml")
    Run(config, None, alone).train()
    code, out, err = ended(tmp_path / "mine.toml", "--output", together)
    assert code == 0, err
    steps = config.training.steps
    # Told, and written, by one of them.
    assert out.count(f"{steps} of {steps} steps") == 1
    assert sorted(p.name for p in together.iterdir()) == sorted(
        [*RESULTS, *(p.name for p in together.glob(EVENTS))]
    )
    assert len(list(together.glob(EVENTS))) == 1
    one, two = (read_log(output / LOG) for output in (alone, together))
    assert [row["step"] for row in two] == list(range(1, steps + 1))
    for a, b in zip(one, two, strict=True):
        assert a["learning_rate"] == b["learning_rate"]
        # Sums of other orders in single precision; Adam's first steps, of the length
        # of the learning rate whatever the gradient, magnify what is next to nothing.
        early = a["step"] == 1
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6 if early else 1e-4)
        assert a["gradient_norm"] == pytest.approx(
            b["gradient_norm"], rel=1e-5 if early else 1e-2
        )
    for a, b in zip(
        *(read_log(output / VALIDATION) for output in (alone, together)), strict=True
    ):
        assert a == pytest.approx(b, rel=1e-4)
    weights = [
        dict(load(output / WEIGHTS).named_parameters()) for output in (alone, together)
    ]
    for name, x in weights[0].items():
        torch.testing.assert_close(x, weights[1][name], rtol=1e-3, atol=1e-4)


def test_interrupted_they_go_on_to_the_same_bits(folder, tmp_path):
    steps = replace(TRAINING, steps=150, checkpoint_every=1000, validate_every=60)
    config = colour(folder, training=steps, network=replace(NETWORK, cells=1))
    write(config, tmp_path / "mine.toml")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert ended(tmp_path / "mine.toml", "--output", whole)[0] == 0
    with torchrun(tmp_path / "mine.toml", "--output", parts) as process:
        first = process.stdout.readline()
        assert "150 steps" in first
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    done = int(re.search(r"Interrupted. (\d+) of 150 steps", out)[1])
    # No regular checkpoint was due: both stopped, and waited for this one.
    assert 0 < done < 150
    assert read_checkpoint(parts / CHECKPOINT).step == done
    code, out, err = ended("--resume", parts)
    assert code == 0, err
    assert f"{150 - done} of them now" in out
    assert results(parts) == results(whole)
    assert events(parts) == events(whole)


def complaints(err):
    """Lines that the command wrote, not torchrun."""
    return [line for line in err.splitlines() if line.startswith("svdinv")]


def test_what_stops_all_is_said_once(folder, tmp_path):
    config = colour(folder, training=replace(TRAINING, batch=3))
    write(config, tmp_path / "mine.toml")
    code, out, err = ended(tmp_path / "mine.toml", "--output", tmp_path / "run")
    assert code != 0
    assert out == ""
    assert complaints(err) == [
        "svdinv train: training.batch must be a multiple of the 2 processes, got 3"
    ]
    assert re.search(r"exitcode +: 2 ", err)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_disk_that_is_full_ends_both(folder, tmp_path):
    """The process that writes waits for the other, which then has nothing to say."""
    steps = replace(TRAINING, steps=100_000, checkpoint_every=5, validate_every=50_000)
    config = colour(folder, training=steps, network=replace(NETWORK, cells=1))
    write(config, tmp_path / "mine.toml")
    output = tmp_path / "run"
    with torchrun(tmp_path / "mine.toml", "--output", output) as process:
        end = time.monotonic() + 60
        while not (output / LOG).exists() or len(read_log(output / LOG)) < 10:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        step = read_checkpoint(output / CHECKPOINT).step
        # A name that cannot be written to stands for the disk.
        with contextlib.suppress(FileNotFoundError):
            (output / WEIGHTS).unlink()
        (output / WEIGHTS).mkdir()
        (output / WEIGHTS / "full").touch()
        out, err = process.communicate(timeout=100)
    assert process.returncode != 0
    assert len(complaints(err)) == 1, err
    assert "weights.safetensors" in complaints(err)[0]
    assert "RuntimeError" not in err
    assert "Connection" not in err
    assert read_checkpoint(output / CHECKPOINT).step >= step


def test_a_breakdown_is_found_in_the_process_whose_items_it_was(tmp_path):
    """Half of each picture is black; which process draws it depends on the step."""
    black = pictures(tmp_path / "black", count=3)
    for path in black.iterdir():
        pixels = np.array(Image.open(path))
        pixels[:, 8:] = 0
        Image.fromarray(pixels).save(path)
    training = replace(TRAINING, svd="torch.linalg.svd", batch=2, steps=50)
    config = colour(black, training=training)
    write(config, tmp_path / "mine.toml")
    alone = Run(config).train().breakdown
    code, out, err = ended(tmp_path / "mine.toml", "--output", tmp_path / "run")
    assert code != 0
    assert re.search(r"exitcode +: 1 ", err)
    assert "Traceback" not in err.split("torch/distributed")[0]
    assert f"Broken down. step {alone.step}: a gradient" in out
    assert f"first in {alone.layer}, backward pass\n  singular values there: " in out
    kept = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert kept.step == alone.step - 1
    assert all(x.isfinite().all() for x in kept.tensors.values())


SHARES = """
import sys, json, os
from pathlib import Path
import numpy as np, torch
from small_trainings import Given, colour, noise, NETWORK, TRAINING
from svdinv.unroll.jobs.train import processes
from svdinv.unroll.jobs.training import Run
from dataclasses import replace

kind = sys.argv[1]
with processes("cpu") as (rank, place):
    if kind == "black":  # the second process has it
        training = replace(TRAINING, svd="torch.linalg.svd")
        data = Given([*noise(3), np.zeros((3, 16, 16))])
    elif kind == "data":
        training = TRAINING
        class Bad(Given):
            def batch(self, seed, step, items):
                batch = super().batch(seed, step, items)
                if step == 3 and 3 in items:
                    batch.truth[-1] = np.nan
                return batch
        data = Bad(noise())
    else:  # LAPACK gives up in the second process only
        training = TRAINING
        data = Given(noise())
    run = Run(colour(training=training), data)
    if kind == "lapack":
        def svd(A, full_matrices=False):
            if run.step == 2 and rank == 1:
                raise torch.linalg.LinAlgError("failed to converge")
            return torch.linalg.svd(A, full_matrices=full_matrices)
        for cell in run.network.cells:
            cell.svd = svd
    outcome = run.train()
    print(json.dumps([rank, outcome.ending, str(outcome.breakdown)]) + "\\n", end="")
    weights = torch.cat([p.flatten() for p in run.network.parameters()])
    assert weights.isfinite().all()
"""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("black", "step 1: a gradient that is not finite, first in cells.1.svt"),
        ("data", "step 3: the data are not finite"),
        ("lapack", "step 3: an output that is not finite, first in cells.0.svt"),
    ],
)
def test_what_breaks_one_process_ends_both(tmp_path, kind, expected):
    script = tmp_path / "shares.py"
    script.write_text(SHARES)
    here = __file__.rpartition("/")[0]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script), kind),
        ],
        env=environment(PYTHONPATH=f"{environment()['PYTHONPATH']}:{here}"),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert f'[{rank}, "broken", "{expected}' in done.stdout
