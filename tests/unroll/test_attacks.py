"""Links, damaged files, absurd sizes and signals: none does harm, each has a word."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_trainings import TRAINING, Given, colour, noise

from svdinv.cli import main
from svdinv.unroll import torch as networks
from svdinv.unroll.formats.atomic import holding
from svdinv.unroll.formats.scans import Geometry
from svdinv.unroll.networks import TLR, weights
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.measured_files import read_measurement
from svdinv.unroll.training.checkpoints import _checksum, read_checkpoint
from svdinv.unroll.training.command import Refused
from svdinv.unroll.training.command import train as run_training
from svdinv.unroll.training.config import CHECKPOINT, from_toml, write
from svdinv.unroll.training.run import Run
from svdinv.unroll.training.sources import FromDataset, Prefetcher


def test_a_lock_is_not_written_through_a_link(tmp_path):
    precious, folder = tmp_path / "precious.txt", tmp_path / "runs"
    precious.write_text("precious")
    folder.mkdir()
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(OSError), holding(folder):  # noqa: PT011  as the system says it
        pass
    assert precious.read_text() == "precious"
    (folder / ".lock").unlink()
    (folder / ".lock").write_text("somebody's")
    with holding(folder):
        assert (folder / ".lock").read_text() == "somebody's"


def test_a_training_that_began_meanwhile_is_not_replaced(tmp_path):
    """By another process, after this one had looked."""
    Run(colour(), Given(noise()), tmp_path).train(stop=lambda: True)
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(Refused, match="holds checkpoint"):
        run_training(colour(), tmp_path, overwrite=False)
    assert (tmp_path / WEIGHTS).read_bytes() == before


@pytest.fixture
def stopped(tmp_path):
    """A training that was stopped, and its folder."""
    done = []
    run = Run(colour(), Given(noise()), tmp_path)
    run.train(stop=lambda: done.append(0) or len(done) == 7)
    return tmp_path


def test_every_flipped_bit_of_a_checkpoint_is_noticed(stopped):
    path = stopped / CHECKPOINT
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(0)
    for place in rng.integers(8 + header, len(whole), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert read_checkpoint(path).step == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda note, x: note.update(step=21), "step 21 of 20"),
        (lambda note, x: note.update(step=True), "step True"),
        (lambda note, x: note.update(step="one"), "step 'one'"),
        (lambda note, x: note.update(step=None), "step None"),
        (lambda note, x: note.update(step=math.inf), "step inf"),
        (lambda note, x: note.update(step=-1), "step -1"),
        (lambda note, x: x["exp_avg/cells.0.eta"].fill_(np.inf), "not finite"),
        (lambda note, x: x["mean/cells.0.eta"].fill_(np.nan), "not finite"),
        (lambda note, x: x.pop("exp_avg/cells.0.eta"), "another network"),
        (lambda note, x: x.update({"foo/cells.0.eta": torch.ones(2)}), "another netw"),
    ],
)
def test_what_a_checkpoint_cannot_be_is_refused(stopped, change, message):
    """The checksum is right: of what somebody wrote on purpose."""
    path = stopped / CHECKPOINT
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(size))["__metadata__"]
    tensors = load_file(path)
    (key,) = metadata
    note = json.loads(metadata[key])
    del note["checksum"]
    change(note, tensors)
    note["checksum"] = _checksum(note, tensors)
    save_file(tensors, path, {key: json.dumps(note)})
    with pytest.raises(ValueError, match=message):
        Run(colour(), Given(noise()), stopped, resume=True)


def test_tables_as_deep_as_one_likes_are_a_word():
    for text in (5000 * "[", "a = " + 5000 * "["):
        with pytest.raises(ValueError, match=r"not TOML|recursion"):
            from_toml(text)
    deep = "network.prior"
    text = "[task]\nkind = 'cine'\n[network]\nkind = 'Unrolled'\n"
    for _ in range(12):
        text += f"[{deep}]\nkind = 'LowRank'\n"
        deep += ".threshold"
    with pytest.raises(ValueError, match="network"):
        from_toml(text)


@pytest.mark.parametrize("options", [{"features": 10**6}, {"convs_before": 10**6}])
def test_shapes_are_compared_before_a_network_is_made(tmp_path, options):
    """Such a network would take terabytes."""
    path = tmp_path / "x.safetensors"
    recipe = TLR(cells=1, features=2)
    networks.save(networks.Network(recipe, seed=0), path)
    _, arrays, _ = weights.read(path)
    weights.write(path, replace(recipe, **options), arrays)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"must have shape|needs"):
        networks.load(path)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconstruct", "coffee", "--threads", "99999999"],
        ["reconstruct", "coffee", "--seed", "12345678901234567890123"],
        ["reconstruct", "heart.npy", "--coils", "1000000"],
        ["evaluate", "--threads", "0"],
        ["train", "colour", "--threads", "100000"],
    ],
)
def test_options_are_checked_before_anything_is_written(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.save("heart.npy", np.ones((3, 16, 16)))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "must" in said
    assert [file.name for file in tmp_path.iterdir()] == ["heart.npy"]


def test_sigterm_while_importing_is_an_interruption():
    """As Ctrl-C: exit code 130 and a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "svdinv", "evaluate", "colour", "--output", os.devnull],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONVERBOSE": "1"},
    )
    for line in process.stderr:
        if line.startswith("import 'torch._C"):
            process.send_signal(signal.SIGTERM)
            break
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "interrupted" in said


# Batches made ahead, and datasets


def test_batches_made_ahead_are_those_of_the_source():
    source, asked = Given(noise()), []

    class Watched:
        def batch(self, seed, step, items):
            asked.append(step)
            return source.batch(seed, step, items)

    ahead = Prefetcher(Watched())
    for step in range(1, 6):
        found = ahead.batch(3, step, range(2), 5)
        expected = source.batch(3, step, range(2))
        np.testing.assert_array_equal(found.y, expected.y)
        np.testing.assert_array_equal(found.A.mask, expected.A.mask)
    again = ahead.batch(3, 2, range(2), 5)
    np.testing.assert_array_equal(again.y, source.batch(3, 2, range(2)).y)
    ahead.close()
    assert asked[:5] == [1, 2, 3, 4, 5]


def test_an_error_in_a_batch_made_ahead_reaches_the_training():
    class Failing(Given):
        def batch(self, seed, step, items):
            if step == 3:
                raise ValueError("no such picture")
            return super().batch(seed, step, items)

    with pytest.raises(ValueError, match="no such picture"):
        Run(colour(), Failing(noise())).train()


def test_any_dataset_is_a_source():
    class Dataset(torch.utils.data.Dataset):
        def __init__(self, images):
            self.whole = Given(images)

        def __len__(self):
            return 6

        def __getitem__(self, i):
            one = self.whole.batch(0, i + 1, range(1))
            A = type(one.A)(one.A.mask[0])
            return Problem(one.y[0], A, truth=one.truth[0], name=str(i))

    dataset = Dataset(noise())
    source = FromDataset(dataset, [dataset[0]])
    source.width = 4
    seen = [source.batch(1, step, range(4)).y for step in (1, 2, 3)]
    rows = {row.tobytes() for row in np.concatenate(seen)}
    assert len(rows) == 6  # two epochs of six, in twelve items
    training = replace(TRAINING, steps=3)
    run = Run(colour(training=training), FromDataset(dataset, [dataset[0]]))
    assert run.train().ending == "finished"
    with pytest.raises(ValueError, match="must not be empty"):
        FromDataset([])


def test_losses_optimisers_and_schedules_by_name(tmp_path):
    for change in (
        {"loss": "measurement"},
        {"optimiser": "SGD"},
        {"optimiser": "torch.optim:RMSprop", "schedule": "linear"},
        {"schedule": "constant", "loss": "torch.nn.functional:mse_loss_of_nobody"},
        {"optimiser": "nobody:Adam"},
        {"optimiser": "torch.nn:Linear"},
    ):
        config = colour(training=replace(TRAINING, steps=4, **change))
        if any("nobody" in v or "Linear" in v for v in change.values()):
            with pytest.raises(ValueError, match="training"):
                Run(config, Given(noise()))
            continue
        outcome = Run(config, Given(noise()), tmp_path).train()
        assert outcome.ending == "finished"
        resumed = Run(config, Given(noise()), tmp_path, resume=True)
        assert resumed.step == 4
        write(config, tmp_path / "again.toml")


@pytest.mark.parametrize("name", ["NAdam", "ASGD", "Adafactor", "LBFGS"])
def test_optimisers_that_could_not_be_resumed_are_refused(name):
    config = colour(training=replace(TRAINING, optimiser=name))
    with pytest.raises(ValueError, match=f"training.optimiser {name}"):
        Run(config, Given(noise()))


def test_modules_of_the_current_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "def mine(estimate, truth, problem):\n"
        "    return (estimate - truth).square().mean() + 0 * problem.value(estimate)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    config = colour(training=replace(TRAINING, steps=2, loss="my_losses:mine"))
    assert Run(config, Given(noise())).train().ending == "finished"


def test_a_training_by_any_optimiser_goes_on_to_the_same_bits(tmp_path):
    for name in ("SGD", "RMSprop", "AdamW"):
        config = colour(training=replace(TRAINING, steps=6, optimiser=name))
        whole = Run(config, Given(noise()))
        whole.train()
        done = []
        folder = tmp_path / name
        folder.mkdir()
        Run(config, Given(noise()), folder).train(
            stop=lambda done=done: done.append(0) or len(done) == 3
        )
        rest = Run(config, Given(noise()), folder, resume=True)
        assert rest.step == 3
        rest.train()
        pairs = zip(whole.mean.parameters(), rest.mean.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


# What is anybody's: weights, modules, geometries


def test_finite_weights_that_are_too_large_are_one_line(tmp_path, capfd):
    network = networks.Network(TLR(cells=1, features=2), seed=0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1e38)
    path = tmp_path / "large.safetensors"
    networks.save(network, path)
    words = ["reconstruct", "coffee", "--crop", "32", "--weights", str(path)]
    assert main([*words, "--no-baselines", "--output", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert "svdinv: broke down because numbers are not finite" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        ('training.svd={kind="own:A"}', "class A: ...", "training.svd must be one of"),
        ('training.steps={kind="own:A"}', "class A: ...", "must be a whole number"),
        (
            'network={kind="Unrolled", prior={kind="own:A"}}',
            "class A: ...",
            "network.prior: A must be a dataclass",
        ),
        (
            'training.loss="own:f"',
            "raise RuntimeError('no')",
            "raised RuntimeError: no",
        ),
        ('training.loss="own:f"', "raise SystemExit(3)", "raised SystemExit: 3"),
        ('network={kind="own:A"}', "1 / 0", "raised ZeroDivisionError"),
    ],
)
def test_modules_that_are_not_as_they_should_be(
    setting, content, message, tmp_path, monkeypatch, capsys
):
    name = f"own{abs(hash((setting, content)))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", "colour", "--set", setting.replace("own:", f"{name}:")]
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def f(x, truth): ...", "must take three arguments, the estimate, the truth"),
        ("from torch.nn import MSELoss as f", "is not a function"),
        ("import torch.nn; f = torch.nn.MSELoss()", "must take three arguments"),
        (
            "def f(x, truth, problem): return (x - truth) ** 2",
            "got torch.float32 of sh",
        ),
        ("def f(x, *args): return (x**2).mean().item()", "a real 0-d tensor, got 0."),
        ("def f(x, *args): return x.detach().mean()", "differentiable with respect to"),
        ("def f(x, *args): return (x + 1j).mean()", "got torch.complex64 of shape ()"),
    ],
)
def test_losses_that_are_not_as_they_should_be(
    content, message, tmp_path, monkeypatch, capsys
):
    name = f"own{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--set", f"training.loss={name}:f", "--set", "training.batch=1"]
    words += ["--set", "network.cells=1", "--set", "network.features=2"]
    assert main(["train", "colour", *words, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "training.loss" in said.splitlines()[-1]


def test_geometries_that_cannot_be_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "scan.h5"
    flat = np.diag([1.0, 0.0, 1.0, 1.0])
    for affine, seconds, message in (
        (np.eye(4), 0.03, ""),
        (np.eye(4), np.nan, "seconds of a frame must be finite"),
        (np.eye(4), -1.0, "seconds of a frame must be finite"),
        (np.zeros((4, 4)), 0.03, "must have an area"),
        (flat, 0.03, "must have an area"),
        (np.full((4, 4), np.nan), 0.03, "finite"),
    ):
        with h5py.File(path, "w") as file:
            file["kspace"] = np.ones((2, 16, 16), np.complex64)
            file["mask"] = np.ones((2, 16, 16))
            file["affine"] = affine
            file.attrs["frame_seconds"] = seconds
        if not message:
            assert read_measurement(path)[1].scan.seconds == seconds
            continue
        with pytest.raises(ValueError, match=rf"scan\.h5.*{message}"):
            read_measurement(path)
    with pytest.raises(ValueError, match="4 x 4"):
        Geometry(np.eye(3))


def test_a_refused_file_is_one_line(tmp_path, capfd):
    """What NumPy, nibabel and Pillow say beside it is not shown."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.full((8, 8, 1, 2), 1e30), np.eye(4))
    image.header["scl_slope"], image.header["scl_inter"] = 1e20, 0
    content = bytearray(image.to_bytes())
    content[112:116] = struct.pack("<f", 1e20)  # its slope
    content[76:80] = struct.pack("<f", 5.0)  # its orientation, which is 1 or -1
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    for name in ("a.nii", "a.png"):
        assert main(["reconstruct", str(tmp_path / name)]) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1
