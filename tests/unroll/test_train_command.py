from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import stat
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_trainings import (
    NETWORK,
    RESULTS,
    TRAINING,
    cine,
    colour,
    events,
    largest_file,
    pictures,
    results,
)

from svdinv import __version__
from svdinv.cli import main
from svdinv.cli import train as train_command
from svdinv.unroll import pretrained
from svdinv.unroll.formats.atomic import holding, replacing
from svdinv.unroll.interrupts import interrupts
from svdinv.unroll.networks import TLR, Refined
from svdinv.unroll.torch import Network, load, save
from svdinv.unroll.training.checkpoints import read_checkpoint
from svdinv.unroll.training.command import command as go_on
from svdinv.unroll.training.command import processes
from svdinv.unroll.training.config import preset, read, to_toml, write
from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION, read_log
from svdinv.unroll.training.run import CHECKPOINT, CONFIG, WEIGHTS, Run


@pytest.fixture(scope="module")
def config(folder):
    return colour(folder)


@pytest.fixture(scope="module")
def file(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "mine.toml"
    write(config, path)
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The results of a training that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole")
    assert Run(config, None, output).train().ending == "finished"
    return output


def train(*arguments):
    return main(["train", *map(str, arguments)])


# The whole of it


def test_trains_and_leaves_all_that_it_promises(
    config, file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # which has a bar
    output = tmp_path / "new" / "run"
    assert train(file, "--output", output) == 0
    out, err = capsys.readouterr()
    assert "20 of 20 steps" in out
    assert str(output / WEIGHTS) in out
    last = re.split(r"[\r\n]+", err.strip())[-1]
    # Done, time taken and time left, loss and PSNR.
    shown = re.search(
        r"100%.*20/20 \[\d\d:\d\d<.*, loss=\S+, PSNR=(\d+\.\d\d) dB\]", last
    )
    decibels = read_log(output / VALIDATION)[-1]["psnr_db"]
    assert float(shown[1]) == pytest.approx(decibels, abs=0.006)
    assert sorted(path.name for path in output.iterdir() if path.name in RESULTS) == [
        *sorted(RESULTS)
    ]
    assert not list(output.glob(".*"))
    assert read(output / CONFIG) == config
    assert load(output / WEIGHTS).recipe == NETWORK
    rows = read_log(output / LOG)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert 0 < rows[-1]["learning_rate"] < rows[-2]["learning_rate"]
    assert events(output)["training/loss"].keys() == {10, 20}
    assert events(output)["validation/psnr_db"].keys() == {8, 16, 20}


def test_learns(folder, tmp_path):
    steps = replace(TRAINING, steps=60, learning_rate=5e-3, checkpoint_every=60)
    network = replace(NETWORK, start="adjoint")
    task = replace(colour(folder).task, rates=(0.4, 0.4))
    config = replace(colour(folder, training=steps, network=network), task=task)
    losses = Run(config).train().losses
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_another_seed_is_another_training(config, whole):
    first = Run(replace(config, seed=1)).train(stop=lambda: True).losses[0]
    assert first != read_log(whole / LOG)[0]["loss"]


def test_leaves_the_global_generator_alone(config):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Run(config).train(stop=lambda: True)
    assert torch.equal(torch.get_rng_state(), before)


# Going on


@pytest.mark.parametrize("make", [colour, cine])
def test_stopped_after_any_steps_it_goes_on_to_the_same_bits(make, folder, tmp_path):
    config = make(folder) if make is colour else make()
    outputs = [tmp_path / "whole", tmp_path / "parts"]
    for output in outputs:
        output.mkdir()
    Run(config, None, outputs[0]).train()
    steps = (1, 5, 1, 1, 7) if make is colour else (1, 2)
    for i, part in enumerate(steps):
        run = Run(config, None, outputs[1], resume=i > 0)
        asked = iter([False] * (part - 1) + [True])
        outcome = run.train(stop=asked.__next__)
        assert (outcome.ending, len(outcome.losses)) == ("stopped", part)
        assert outcome.step == outcome.saved == sum(steps[: i + 1])
    last = Run(config, None, outputs[1], resume=True).train()
    assert last.ending == "finished"
    assert results(outputs[0]) == results(outputs[1])
    assert events(outputs[0]) == events(outputs[1])


def steps_saved(output):
    """Of the checkpoint; 0 where there is none yet."""
    with contextlib.suppress(ValueError):
        return read_checkpoint(output / CHECKPOINT).step
    return 0


@pytest.fixture(scope="module")
def longer(folder, tmp_path_factory):
    """A training that lasts long enough to be killed in its middle, and its results."""
    steps = replace(TRAINING, steps=180, checkpoint_every=7, validate_every=90)
    small = replace(NETWORK, cells=1, features=2)
    config = colour(folder, training=steps, network=small)
    output = tmp_path_factory.mktemp("longer")
    write(config, output / "mine.toml")
    Run(config, None, output).train()
    return output


def test_killed_at_random_moments_it_goes_on_to_the_same_bits(longer, fork, tmp_path):
    """And Ctrl-C, like SIGTERM, saves and tells how to go on."""
    rng, output = random.Random(4), tmp_path / "with a space"
    arguments = [longer / "mine.toml", "--output", output]
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        begun = steps_saved(output)
        process = fork(*arguments)
        process.until(lambda begun=begun: steps_saved(output) > begun + 10)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(kill)
        if kill == signal.SIGKILL:
            assert process.wait() == -kill
        else:
            assert process.wait() == 130, process.err
            assert process.err == ""
            assert f"svdinv train --resume '{output}'" in process.out
            done = int(re.search(r"Interrupted. (\d+) of 180 steps", process.out)[1])
            # Of the very step, not of the last regular checkpoint.
            assert steps_saved(output) == done == len(read_log(output / LOG))
        assert begun < steps_saved(output) < 180
        load(output / WEIGHTS)
        arguments = ["--resume", output]
    process = fork(*arguments)
    assert process.wait() == 0, process.err
    assert "180 of 180 steps" in process.out
    assert results(output) == results(longer)
    assert events(output) == events(longer)
    assert not list(output.glob(".*"))  # what was half-written when it was killed


def test_a_finished_training_has_nothing_to_do(whole, tmp_path, capsys, monkeypatch):
    output = shutil.copytree(whole, tmp_path / "run")
    (output / WEIGHTS).unlink()

    def load(task):
        raise AssertionError("nobody needs the photographs")

    monkeypatch.setattr("svdinv.unroll.tasks.colour.task.Colour.load", load)
    assert train("--resume", output) == 0
    assert "Nothing to do: all 20 steps were done before" in capsys.readouterr().out
    assert results(output) == results(whole)
    assert sorted(p.name for p in output.iterdir()) == sorted(
        p.name for p in whole.iterdir()
    )


def test_killed_before_its_first_step_it_can_go_on(config, whole, tmp_path):
    """From the first moment there is a checkpoint, with the weights it began with."""
    first = Network(NETWORK, seed=77).state_dict()

    class Killed(Exception):
        pass

    def kill(step, loss):
        raise Killed

    run = Run(config, None, tmp_path, weights=first)
    with pytest.raises(Killed):
        run.train(on_step=kill)
    assert steps_saved(tmp_path) == 0
    resumed = Run(config, None, tmp_path, resume=True)
    for name, x in resumed.network.state_dict().items():
        assert torch.equal(x, first[name])
    assert resumed.train().ending == "finished"
    expected = Run(config, weights=first)
    expected.train()
    for one, two in zip(
        resumed.mean.parameters(), expected.mean.parameters(), strict=True
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kept", ["nothing", "no comments"])
def test_the_file_of_the_configuration_may_be_older_or_lost(
    config, whole, tmp_path, kept
):
    """Comments may change from version to version, and the checkpoint has the rest."""
    Run(config, None, tmp_path).train(stop=lambda: True)
    file = tmp_path / CONFIG
    if kept == "nothing":
        file.unlink()
    else:
        file.write_text(re.sub(r" +#.*", "", file.read_text()))
    assert train("--resume", tmp_path) == 0
    assert results(tmp_path) == results(whole)


def test_a_changed_configuration_is_another_training(config, tmp_path, one_line):
    Run(config, None, tmp_path).train(stop=lambda: True)
    before = (tmp_path / CHECKPOINT).read_bytes()
    new = replace(config, seed=4, training=replace(TRAINING, steps=30))
    write(new, tmp_path / CONFIG)
    assert train("--resume", tmp_path) == 2
    complaint = one_line()
    assert "must keep its configuration" in complaint
    assert "training.steps is 20, not 30" in complaint
    assert "seed is 0, not 4" in complaint
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_photographs_that_changed_make_another_training(tmp_path, one_line):
    folder = pictures(tmp_path / "pictures")
    output = tmp_path / "run"
    output.mkdir()
    Run(colour(folder), None, output).train(stop=lambda: True)
    before = results(output)
    shutil.copy(folder / "0.png", folder / "new.png")
    assert train("--resume", output) == 2
    assert "task.photographs are other files now" in one_line()
    assert results(output) == before


def test_what_moves_the_last_bits_is_told(config, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("svdinv.unroll.training.run.__version__", "0.0")
    Run(config, None, tmp_path).train(stop=lambda: True)
    monkeypatch.undo()
    assert train("--resume", tmp_path) == 0
    told = f"Resumed; the last bits may differ: svdinv was 0.0, is {__version__}\n"
    assert told in capsys.readouterr().out
    assert results(tmp_path) == results(whole)


def test_a_damaged_log_is_set_aside(config, whole, tmp_path):
    content = b"step,loss\n1,2\n"
    Run(config, None, tmp_path).train(stop=lambda: True)
    (tmp_path / LOG).write_bytes(content)
    assert train("--resume", tmp_path) == 0
    assert (tmp_path / f"{LOG}.damaged").read_bytes() == content
    same = (WEIGHTS, CHECKPOINT)
    assert [(tmp_path / n).read_bytes() for n in same] == [
        (whole / n).read_bytes() for n in same
    ]


@pytest.mark.parametrize(
    ("count", "device", "command"),
    [
        (1, "auto", "svdinv train --resume 'a b'"),
        (1, "cpu", "svdinv train --resume 'a b' --device cpu"),
        (1, "cuda:1", "svdinv train --resume 'a b' --device cuda:1"),
        (2, "auto", "torchrun --nproc-per-node 2 -m svdinv train --resume 'a b'"),
    ],
)
def test_says_how_to_go_on_as_it_was_run(count, device, command):
    assert go_on(Path("a b"), device, count) == command


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["colour"], "argument --resume"),
        (["--set", "seed=1"], "argument --resume"),
        (["--steps", "3"], "argument --resume"),
        (["--overwrite"], "argument --resume"),
        (["--seed", "0"], "argument --resume"),
        (["--output", "here"], "not allowed with argument"),
    ],
)
def test_other_options_beside_resume_are_refused(whole, more, message, one_line):
    assert train("--resume", whole, *more) == 2
    assert message in one_line()


def test_an_option_has_one_value(one_line):
    assert train("colour", "--print", "--set", "training.steps=2", "--steps", 4) == 2
    assert "argument --set: training.steps is given twice" in one_line()


# What there is already


def test_a_training_is_not_overwritten_by_accident(file, whole, tmp_path, one_line):
    before = results(whole)
    assert train(file, "--output", whole) == 2
    complaint = one_line()
    assert "--resume" in complaint
    assert "--overwrite" in complaint
    assert results(whole) == before
    (tmp_path / LOG).touch()
    assert train(file, "--output", tmp_path) == 2
    assert LOG in one_line()


def test_files_of_others_are_left_alone(file, tmp_path, one_line):
    board, swap = "events.out.tfevents.1.host.0", ".config.toml.swp"
    for name in (board, swap):
        (tmp_path / name).write_text("of someone else")
    assert train(file, "--output", tmp_path) == 2
    assert board in one_line()
    assert (tmp_path / board).read_text() == "of someone else"
    assert train(file, "--output", tmp_path, "--overwrite", "--steps", 1) == 0
    assert (tmp_path / swap).read_text() == "of someone else"


def test_two_trainings_in_one_folder_are_refused(file, tmp_path, one_line):
    draft = tmp_path / f".{WEIGHTS}.0123456789abcdef"
    draft.touch()
    with holding(tmp_path):
        assert train(file, "--output", tmp_path) == 2
        assert f"another training writes to {tmp_path}" in one_line()
        assert draft.exists()
    assert list(tmp_path.iterdir()) == [draft]
    assert train(file, "--output", tmp_path, "--steps", 1) == 0
    assert not list(tmp_path.glob(".*"))


def test_overwritten_on_purpose_nothing_of_the_old_is_left(file, whole, tmp_path):
    first = ("--set", "network.features=3", "--seed", 5, "--steps", 40)
    assert train(file, "--output", tmp_path, *first) == 0
    assert train(file, "--output", tmp_path, "--overwrite") == 0
    assert results(tmp_path) == results(whole)
    assert len(list(tmp_path.glob(EVENTS))) == 1


def test_overwritten_and_broken_down_it_is_not_the_old_one(config, tmp_path):
    """Not even if it breaks down in the first step, of which there is no checkpoint."""
    Run(replace(config, seed=6), None, tmp_path).train()
    broken = Run(config, None, tmp_path)
    broken.network.cells[0].threshold.data.fill_(3e38)
    broken._gradients = lambda model, batch: (float("nan"), 1.0)
    assert broken.train().ending == "broken"
    assert steps_saved(tmp_path) == 0
    assert read_log(tmp_path / LOG) == []


# Options


def test_prints_a_configuration_that_it_would_read(capsys, tmp_path):
    assert train("colour", "--print", "--set", "training.batch=8", "--seed", 9) == 0
    printed = capsys.readouterr().out
    tables = tomllib.loads(printed)
    assert tables["training"]["batch"] == 8
    assert tables["seed"] == 9
    path = tmp_path / "mine.toml"
    path.write_text(printed)
    assert train(path, "--print") == 0
    assert capsys.readouterr().out == printed
    assert train("cine", "--print") == 0
    assert capsys.readouterr().out == to_toml(preset("cine"))


def test_options_of_the_command_line_are_saved_beside_the_results(file, tmp_path):
    assert (
        train(
            file,
            *("--output", tmp_path, "--steps", 2, "--seed", 3, "--threads", 1),
            *("--set", "training.loss=mse", "--set", "task.rates=[0.2, 0.3]"),
            *("--set", "network.threshold = -1"),
        )
        == 0
    )
    saved = read(tmp_path / CONFIG)
    assert (saved.training.steps, saved.training.loss, saved.seed) == (2, "mse", 3)
    assert (saved.task.rates, saved.network.threshold) == ((0.2, 0.3), -1.0)
    assert load(tmp_path / WEIGHTS).recipe == saved.network


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "what to train? cine, colour, colour-groups, ct, ct-edip, ct-limited, "),
        (["colour"], "needs --output"),
        (["color", "--output", "x"], "is no file color; did you mean colour?"),
        (["zzz", "--output", "x"], "there is no file zzz; or cine, colour, "),
        (["colour", "--set", "steps"], "argument --set: NAME=VALUE expected"),
        (["colour", "--set", "training.setps=3"], "did you mean steps?"),
        (["colour", "--set", "training.steps=many"], "training.steps must be a whole"),
        (["colour", "--set", "task.photographs=a"], "must be a list"),
        (["colour", "--set", "network.kind=LS"], "network.kind: LS reconstructs"),
        (["colour", "--steps", "0"], "argument --steps"),
        (["colour", "--seed", "-1"], "argument --seed"),
        (["colour", "--output", f"{__file__}/x"], "argument --output: cannot write"),
        (
            ["colour", "--output", "x", "--set", "network.features=1000000"],
            "not enough memory",
        ),
        (["colour", "--output", "x", "--device", "tpu"], "device must be auto, cpu,"),
        (["colour", "--output", "x", "--device", "mps"], "device must be auto, cpu,"),
        (["colour", "--output", "x", "--device", "cuda:99"], "device cuda:99: PyTorch"),
        (["colour", "--weights", "none"], "argument --weights: no weights 'none' come"),
        (["colour", "--weights", "a.st"], "argument --weights: there is no file a.st"),
        (["colour", "--output", "x", "--weights", __file__], "test_train_command.py"),
        (["--resume", "nowhere"], "there is no checkpoint nowhere/checkpoint"),
        (["colour", "--output", "x", "--set", 'task.photographs=["no.png"]'], "no.png"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments, word, one_line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    assert word in one_line()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def examples():
    """Commands of the help, without the comments behind them."""
    lines = [line for line in train_command._EPILOG.splitlines() if "svdinv t" in line]
    assert len(lines) == 6
    return [re.split(r"   +#?| > ", line.strip())[0] for line in lines]


@pytest.mark.parametrize("example", examples())
def test_examples_of_the_help_begin(example, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = []

    def begin(*arguments, **options):
        begun.append(options)
        return 0

    monkeypatch.setattr("svdinv.unroll.training.command.train", begin)
    write(config, tmp_path / "mine.toml")
    if "--resume" in example:
        (tmp_path / "runs" / "mine").mkdir(parents=True)
        write(config, tmp_path / "runs" / "mine" / CONFIG)
    words = shlex.split(example.partition("svdinv ")[2])
    assert main(words) == 0
    assert len(begun) == ("--print" not in words)


def test_help_shows_examples(capsys):
    assert train("--help") == 0
    shown = capsys.readouterr().out
    assert all(example in shown for example in examples())
    assert "--overwrite" in shown
    assert max(map(len, shown.splitlines())) <= 88


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_mistakes_of_svdinv_are_not_blamed_on_the_user(
    kind, file, tmp_path, monkeypatch
):
    def mistaken(run, **options):
        raise kind("shapes do not match")

    monkeypatch.setattr("svdinv.unroll.training.run.Run.train", mistaken)
    with pytest.raises(kind, match="shapes do not match"):
        train(file, "--output", tmp_path)


def test_a_batch_that_is_too_large_is_one_line(file, tmp_path, monkeypatch, capsys):
    def large(run, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nin C++")

    monkeypatch.setattr("svdinv.unroll.training.run.Run.train", large)
    assert train(file, "--output", tmp_path) == 2
    complaint = "not enough memory: DefaultCPUAllocator: can't allocate memory"
    assert last_line(capsys) == f"svdinv train: {complaint}"


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "PyTorch has 1 GPUs, but 2 are needed"),
        ("cuda:0", "device must be cuda for several processes, got 'cuda:0'"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_too_few_gpus_are_seen_by_every_process(device, message, rank, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=message), processes(device):
        pass


def test_bad_files_end_in_one_line(tmp_path, one_line):
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = [")
    assert train(bad, "--output", tmp_path / "out") == 2
    assert "bad.toml: not TOML" in one_line()
    (tmp_path / CHECKPOINT).write_bytes(b"?")
    assert train("--resume", tmp_path) == 2
    assert "is not a checkpoint" in one_line()
    assert not (tmp_path / "out").exists()


# Warm starts


def test_begins_with_weights_that_are_given(config, file, tmp_path):
    first = Network(NETWORK, seed=5)
    save(first, tmp_path / "first.safetensors")
    assert (
        train(
            file,
            *("--output", tmp_path / "run", "--steps", 1),
            *("--weights", tmp_path / "first.safetensors"),
        )
        == 0
    )
    expected = Run(
        replace(config, training=replace(TRAINING, steps=1)), weights=first.state_dict()
    )
    loss = expected.train().losses[0]
    assert read_log(tmp_path / "run" / LOG)[0]["loss"] == loss
    assert loss != Run(config).train(stop=lambda: True).losses[0]


def test_begins_with_weights_of_svdinv_by_name(file, tmp_path, one_line):
    arguments = (file, "--output", tmp_path / "run", "--weights")
    assert train(*arguments, "colour") == 2
    assert f"{pretrained.path('colour')} contains weights of another" in one_line()


@pytest.mark.parametrize("name", [".", "mine"])
def test_begins_with_weights_of_a_folder_or_without_an_ending(
    name, file, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save(Network(NETWORK, seed=5), WEIGHTS)
    shutil.copy(WEIGHTS, "mine")
    assert train(file, "--output", "run", "--weights", name, "--steps", 1) == 0
    assert "1 of 1 steps" in capsys.readouterr().out


@pytest.mark.parametrize("behind", [False, True])
def test_weights_of_another_network_are_refused(behind, config, tmp_path, one_line):
    save(Network(TLR(cells=1, features=3)), tmp_path / "other.safetensors")
    network = TLR(cells=2, features=3)
    network = Refined(network=network) if behind else network
    config = replace(config, network=network)
    write(config, tmp_path / "config.toml")
    arguments = (tmp_path / "config.toml", "--output", tmp_path / "run", "--weights")
    assert train(*arguments, tmp_path / "other.safetensors") == 2
    complaint = one_line()
    assert "weights of another network" in complaint
    assert complaint.rstrip().endswith("TLR with cells=1 in place of 2")


def test_weights_for_another_start_fit(tmp_path):
    """Iterations before the first cell have no weights."""
    config = preset("ct-limited")
    recipe = replace(config.network, cells=1, features=2, memory=1)
    save(Network(replace(recipe, start=0)), tmp_path / "first.safetensors")
    task = replace(config.task, size=(16,), projections=(6,), arc=(90.0,), validation=1)
    config = replace(
        config,
        task=task,
        network=replace(recipe, start=2),
        training=replace(config.training, steps=1),
    )
    write(config, tmp_path / "mine.toml")
    arguments = ("--output", tmp_path / "run", "--weights")
    assert (
        train(tmp_path / "mine.toml", *arguments, tmp_path / "first.safetensors") == 0
    )


# Full disks


@pytest.mark.parametrize("size", [0, 3000, 14000])
def test_a_full_disk_at_the_beginning_is_one_line(file, tmp_path, capsys, size):
    """There is no room for the configuration, the weights, or the checkpoint."""
    with largest_file(size):
        assert train(file, "--output", tmp_path) == 2
    assert "File too large" in last_line(capsys)
    assert list(tmp_path.iterdir()) == []


def last_line(capsys):
    """The complaint, and nothing before it."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_disk_that_fills_up_leaves_what_was_saved(longer, tmp_path, capsys):
    """Here the log is the first file that grows too large."""
    size = (longer / CHECKPOINT).stat().st_size + 1
    assert (longer / LOG).stat().st_size > size
    with largest_file(size):
        assert train(longer / "mine.toml", "--output", tmp_path) == 2
    assert "File too large" in last_line(capsys)
    assert 0 < steps_saved(tmp_path) < 180
    load(tmp_path / WEIGHTS)
    assert not list(tmp_path.glob(".*"))
    assert train("--resume", tmp_path) == 0  # there is room again
    assert results(tmp_path) == results(longer)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CHECKPOINT])
def test_a_full_disk_spares_the_training_that_was_to_be_overwritten(
    file, whole, tmp_path, capsys, name
):
    """There is no room for that file, but for those that are smaller."""
    output = shutil.copytree(whole, tmp_path / "run")
    # A first checkpoint has all weights twice, but nothing of the optimiser yet.
    room = (whole / name).stat().st_size - 1
    if name == CHECKPOINT:
        room = int(1.5 * (whole / WEIGHTS).stat().st_size)
    with largest_file(room):
        assert train(file, "--output", output, "--overwrite", "--seed", 2) == 2
    assert "File too large" in last_line(capsys)
    assert results(output) == results(whole)


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_killed_while_it_replaces_another_it_is_one_of_them(
    config, file, whole, tmp_path, renamed, monkeypatch
):
    class Killed(BaseException):
        pass

    output = shutil.copytree(whole, tmp_path / "run")
    left = iter([True] * renamed)
    names = [output / name for name in (CHECKPOINT, WEIGHTS, CONFIG)]

    def replace_some(source, target, rename=os.replace):
        if target in names and not next(left, False):
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("svdinv.unroll.formats.atomic.os.replace", replace_some)
        with pytest.raises(Killed):
            train(file, "--output", output, "--overwrite", "--seed", 2)
    assert train("--resume", output) == 0
    if renamed:
        (tmp_path / "new").mkdir()
        whole = tmp_path / "new"
        Run(replace(config, seed=2), None, whole).train()
    assert results(output) == results(whole)


def test_new_names_are_brought_to_the_disk_too(tmp_path, monkeypatch):
    kinds = []
    monkeypatch.setattr("os.fsync", lambda n: kinds.append(os.fstat(n).st_mode))
    with replacing(tmp_path / "a") as stream:
        stream.write(b"1")
    assert [stat.S_ISDIR(mode) for mode in kinds] == [False, True]


# Networks of one's own


_OWN = """
from dataclasses import dataclass

from svdinv.unroll.networks import TLR, register


@register
@dataclass(frozen=True, kw_only=True)
class Mine(TLR):
    pass


@dataclass(frozen=True, kw_only=True)
class Unregistered(TLR):
    pass
"""


def test_a_network_of_ones_own_is_found_again_by_other_processes(file, fork, tmp_path):
    (tmp_path / "ownnet.py").write_text(_OWN)
    there = (
        f"import os, sys\nos.chdir({str(tmp_path)!r})\n"
        "from svdinv.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )

    def svdinv(*words):
        """In a process that has not imported the module, in the folder where it is."""
        process = fork(*words, code=there)
        return process.wait(), process.out + process.err

    kinds = "--set", "training.steps=2", "--set", "network.kind=ownnet:{}"
    train = ("train", str(file), "--output", "run", *kinds)
    code, shown = svdinv(*(word.format("Unregistered") for word in train))
    assert code == 2
    assert "network: Unregistered must be registered" in shown
    code, shown = svdinv(*(word.format("Mine") for word in train))
    assert code == 0, shown
    code, shown = svdinv("train", "--resume", "run")
    assert "Nothing to do: all 2 steps were done" in shown
    given = "reconstruct", "coffee", "--weights", "run", "--no-baselines", "--crop"
    code, shown = svdinv(*given, "32")
    assert code == 2
    assert "no network or component is named 'Mine'" in shown
    code, shown = svdinv(*given, "32", "--import", "ownnet")
    assert code == 0, shown


# Breakdowns


def test_a_breakdown_is_told_with_its_cause(tmp_path, capsys):
    """Pictures with black surrounds, differentiated through torch.linalg.svd."""
    import numpy as np
    from PIL import Image

    black = tmp_path / "black"
    pictures(black, count=2)
    for path in black.iterdir():
        pixels = np.array(Image.open(path))
        pixels[:, 8:] = 0
        Image.fromarray(pixels).save(path)
    config = colour(black, training=replace(TRAINING, svd="torch.linalg.svd"))
    write(config, tmp_path / "mine.toml")
    output = tmp_path / "run"
    code = train(tmp_path / "mine.toml", "--output", output)
    out = capsys.readouterr().out
    assert code == 1
    found = re.search(
        r"Broken down. step (\d+): a gradient that is not finite, first in "
        r"cells\.(\d)\.svt, backward pass\n  singular values there: .*\n"
        r"  of 8: (\d+) zero, (\d+) as large",
        out,
    )
    assert int(found[3]) + int(found[4]) >= 1
    step = int(found[1])
    assert f"The weights after step {step - 1} are kept" in out
    assert steps_saved(output) == step - 1 == len(read_log(output / LOG))
    assert all(p.isfinite().all() for p in load(output / WEIGHTS).parameters())


def test_a_training_without_gradients_is_told(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_flat.py").write_text("def f(x, *args): return 0 * x.sum()")
    monkeypatch.syspath_prepend(tmp_path)
    training = replace(TRAINING, loss="own_flat:f", steps=4)
    write(replace(config, training=training), tmp_path / "mine.toml")
    assert train(tmp_path / "mine.toml", "--output", tmp_path / "run") == 0
    assert "was exactly 0 in the last 4 steps" in capsys.readouterr().out


# Signals
# The fixture `_interruptible` lets Ctrl-C through, and restores its handler afterwards.


def test_the_first_signal_is_noted_and_the_second_is_as_usual(monkeypatch):
    monkeypatch.setattr("svdinv.unroll.interrupts._ONE_PRESS", 0.0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interrupts() as noted:  # noqa: PT012
        assert not noted()
        signal.raise_signal(signal.SIGINT)
        assert noted()
        time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts() as noted:
        signal.raise_signal(signal.SIGINT)
        assert not noted()


def test_ctrl_c_is_noted_from_the_first_line_on(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "svdinv.unroll.training.command._announce",
        lambda run, output: signal.raise_signal(signal.SIGINT),
    )
    assert train(file, "--output", tmp_path) == 130
    assert "Interrupted. 1 of 20 steps" in capsys.readouterr().out


def test_what_comes_twice_at_once_was_sent_once():
    """The terminal sends it to all processes, and torchrun hands it on."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with interrupts() as noted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert noted()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"none/a'$"),
        replacing(tmp_path / "none" / "a"),
    ):
        pass
