"""Trainings in two processes, as torchrun starts them."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from forks import PATIENCE
from small_trainings import (
    NETWORK,
    RESULTS,
    TRAINING,
    cine,
    colour,
    environment,
    events,
    results,
)

from svdinv.unroll.torch import load
from svdinv.unroll.training.checkpoints import read_checkpoint
from svdinv.unroll.training.config import write
from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION, read_log
from svdinv.unroll.training.run import CHECKPOINT, WEIGHTS, Run

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="PyTorch without Gloo"
)


def torchrun(*arguments):
    """Run the command as a user does."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", "2", "-m", "svdinv", "train"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        env=environment(PYTHONWARNINGS="error"),
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def pair(fork):
    """Start two processes with the variables that torchrun gives them."""

    def start(*arguments, code=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
        }
        return [
            fork(*arguments, code=code, RANK=rank, LOCAL_RANK=rank, **common)
            for rank in ("0", "1")
        ]

    return start


def ended(processes):
    """Exit codes of all, and what was printed and complained of by all."""
    codes = [process.wait() for process in processes]
    return codes, "".join(p.out for p in processes), "".join(p.err for p in processes)


@pytest.mark.parametrize("make", [colour, cine])
def test_two_processes_learn_what_one_learns(make, folder, pair, tmp_path):
    config = make(folder) if make is colour else make()
    # The slope of |x| jumps where an error is next to nothing; that of x**2 does not.
    config = replace(config, training=replace(config.training, loss="mse"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    write(config, tmp_path / "mine.toml")
    Run(config, None, alone).train()
    steps = config.training.steps
    arguments = (tmp_path / "mine.toml", "--output", together)
    if make is colour:
        code, out, err = torchrun(*arguments)
        assert code == 0, err
    else:
        codes, out, err = ended(pair(*arguments))
        assert codes == [0, 0], err
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
        # Sums of other orders in single precision, which ReLUs and thresholds magnify
        # where they are at their kinks, and Adam's first steps, of the length of the
        # learning rate whatever the gradient; see the next test for what is exact.
        first = a["step"] == 1
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6 if first else 1e-4)
        norm = pytest.approx(b["gradient_norm"], rel=1e-4 if first else 1e-2)
        assert a["gradient_norm"] == norm
    for a, b in zip(
        *(read_log(output / VALIDATION) for output in (alone, together)), strict=True
    ):
        assert a == pytest.approx(b, rel=1e-4)
    weights = [load(output / WEIGHTS).state_dict() for output in (alone, together)]
    for name, x in weights[0].items():
        torch.testing.assert_close(x, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [colour, cine])
def test_gradients_of_shares_have_the_mean_of_the_whole(make, folder):
    """In double precision, where nothing hides a difference."""
    config = make(folder) if make is colour else make()
    run = Run(replace(config, training=replace(config.training, loss="mse")))
    run.network.double()

    def gradient(items):
        batch = run.source.batch(config.seed, 1, items)
        run.network.zero_grad()
        run._loss(run.network, batch.replace_arrays(doubled)).backward()
        return torch.cat([p.grad.flatten() for p in run.network.parameters()])

    def doubled(x):
        kinds = {"f": np.float64, "c": np.complex128}
        return x.astype(kinds.get(x.dtype.kind, x.dtype))

    count = config.training.batch
    shares = [gradient(range(i, i + count // 2)) for i in (0, count // 2)]
    torch.testing.assert_close(
        (shares[0] + shares[1]) / 2, gradient(range(count)), rtol=1e-10, atol=1e-12
    )


def complaints(err):
    """Lines that the command wrote, not torchrun."""
    return [line for line in err.splitlines() if re.match(r"svdinv( train)?: ", line)]


def test_bad_options_are_said_once(pair):
    codes, out, err = ended(pair("colour", "--set", "sed=1"))
    assert codes == [2, 2]
    assert out == ""
    assert err == "svdinv train: unknown option 'sed'; did you mean seed?\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("batch", [2, 3], ids=["trained", "refused"])
def test_no_thread_of_theirs_outlives_the_training(folder, pair, tmp_path, batch):
    # One that did ended the process, now and then, by SIGABRT in the place of its code.
    training = replace(TRAINING, steps=2, batch=batch)
    write(colour(folder, training=training), tmp_path / "mine.toml")
    code = (
        "import pathlib, sys\nfrom svdinv.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "for name in pathlib.Path('/proc/self/task').glob('*/comm'):\n"
        "    print('thread', name.read_text().strip())\n"
        "sys.exit(code)\n"
    )
    arguments = ("train", tmp_path / "mine.toml", "--output", tmp_path / "run")
    codes, out, err = ended(pair(*arguments, code=code))
    assert codes == ([0, 0] if batch == 2 else [2, 2]), err
    said = "svdinv train: training.batch must be a multiple of the 2 processes, got 3"
    assert complaints(err) == [said] * (batch - 2)  # by one of them
    assert bool(list((tmp_path / "run").iterdir())) == (batch == 2)
    threads = re.findall(r"^thread (.*)", out, re.MULTILINE)
    assert len(threads) >= 2
    assert not [name for name in threads if "gloo" in name or "store" in name]


def test_what_only_one_of_them_misses_is_said_too(pair, tmp_path):
    code = (
        "import os, sys\nfrom svdinv.cli import main\n"
        "from svdinv.unroll.tasks.colour.task import Colour\n"
        "def load(self):\n"
        "    if os.environ['RANK'] == '1': raise ValueError('no photographs here')\n"
        "Colour.load = load\n"
        f"sys.exit(main(['train', 'colour', '--output', {str(tmp_path)!r}]))\n"
    )
    codes, out, err = ended(pair(code=code))
    assert codes == [2, 2]
    assert err == "svdinv train: no photographs here\n"
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(folder, pair, tmp_path_factory):
    """A training by two processes that nothing interrupts, and its configuration."""
    steps = replace(TRAINING, steps=120, checkpoint_every=1000, validate_every=50)
    config = colour(folder, training=steps, network=replace(NETWORK, cells=1))
    output = tmp_path_factory.mktemp("whole")
    write(config, output / "mine.toml")
    assert ended(pair(output / "mine.toml", "--output", output))[0] == [0, 0]
    return output


@pytest.mark.parametrize("pressed", [[0, 1], [1]], ids=["both", "one"])
def test_interrupted_they_go_on_to_the_same_bits(whole, pair, tmp_path, pressed):
    parts = tmp_path / "parts"
    processes = pair(whole / "mine.toml", "--output", parts)
    processes[0].until(lambda: "steps, seed" in processes[0].out)
    time.sleep(0.2)
    for rank in pressed:
        # Twice, as where the terminal tells all and torchrun hands it on.
        processes[rank].send_signal(signal.SIGINT)
        processes[rank].send_signal(signal.SIGINT)
    codes, out, err = ended(processes)
    assert codes == [130, 130], err
    done = int(re.search(r"Interrupted. (\d+) of 120 steps", out)[1])
    # No regular checkpoint was due: both stopped, and waited for this one.
    assert 0 < done < 120
    assert read_checkpoint(parts / CHECKPOINT).step == done
    codes, out, err = ended(pair("--resume", parts))
    assert codes == [0, 0], err
    assert f"{120 - done} of them now" in out
    assert results(parts) == results(whole)
    assert events(parts) == events(whole)


# What still holds the group when it is destroyed may wait for its threads for ever.
WATCHED = """
import gc
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
destroy = distributed.destroy_process_group
def watched():
    held = [x for x in gc.get_objects() if type(x) is DistributedDataParallel]
    print("networks that hold the group:", len(held))
    destroy()
distributed.destroy_process_group = watched
"""


def test_a_disk_that_is_full_ends_both(folder, pair, tmp_path):
    """The one that cannot write waits for the other, which has nothing to say."""
    steps = replace(TRAINING, steps=300, checkpoint_every=5, validate_every=300)
    small = replace(NETWORK, cells=1, features=2)
    config = colour(folder, training=steps, network=small)
    write(config, tmp_path / "mine.toml")
    output = tmp_path / "run"
    arguments = ["train", str(tmp_path / "mine.toml"), "--output", str(output)]
    code = WATCHED + (
        "import resource, sys\nfrom svdinv.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (11_300, resource.RLIM_INFINITY))\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    codes, out, err = ended(pair(code=code))
    assert codes == [2, 2]
    assert out.count("networks that hold the group: 0") == 2
    (complaint,) = complaints(err)
    assert complaint.startswith("svdinv: [Errno 27] File too large: ")
    assert str(output) in complaint
    assert "Traceback" not in err
    step = read_checkpoint(output / CHECKPOINT).step
    assert 5 <= step < 300
    assert len(read_log(output / LOG)) >= step
    load(output / WEIGHTS)


# Run in both: what breaks the second one only.
BREAKS = """
import json, sys
from dataclasses import replace
import numpy as np, torch
from small_trainings import TRAINING, Given, colour, noise
from svdinv.unroll.training.command import processes
from svdinv.unroll.training.run import Run

class Bad(Given):
    def batch(self, seed, step, items):
        batch = super().batch(seed, step, items)
        if step == 3 and 3 in items:
            batch.truth[-1] = np.nan
        return batch

with processes("cpu") as (rank, place):
    training, images, source = TRAINING, noise(), Given
    if sys.argv[1] == "black":
        training = replace(TRAINING, svd="torch.linalg.svd")
        images[3] = 0
    elif sys.argv[1] == "data":
        source = Bad
    run = Run(colour(training=training), source(images))
    if sys.argv[1] == "lapack":
        def svd(A, full_matrices=False):
            if run.step == 2 and rank == 1:
                raise torch.linalg.LinAlgError("failed to converge")
            return torch.linalg.svd(A, full_matrices=full_matrices)
        for cell in run.network.cells:
            cell.svd = svd
    outcome = run.train()
    print(json.dumps([rank, outcome.ending, outcome.saved, str(outcome.breakdown)]))
    assert all(p.isfinite().all() for p in run.network.parameters())
"""


@pytest.mark.parametrize(
    ("kind", "saved", "expected"),
    [
        ("black", 0, "step 1: a gradient that is not finite, first in cells.1.svt"),
        ("data", 2, "step 3: the data are not finite"),
        ("lapack", 0, "step 3: an output that is not finite, first in cells.0.svt"),
    ],
)
def test_what_breaks_one_process_ends_both_and_is_found(pair, kind, saved, expected):
    codes, out, err = ended(pair(kind, code=BREAKS))
    assert codes == [0, 0], err
    told = [json.loads(line) for line in out.splitlines()]
    assert [entry[:3] for entry in told] == [[0, "broken", saved], [1, "broken", saved]]
    for *_, breakdown in told:
        assert breakdown.startswith(expected)
        if kind == "black":
            assert breakdown.endswith("of 8: 8 zero, 0 as large as the next one")
