from __future__ import annotations

import re
import signal
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from svdinv.cli import main
from svdinv.unroll import demo
from svdinv.unroll.data import photograph
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import Network
from svdinv.unroll.training import command
from svdinv.unroll.training.diagnosis import Breakdown
from svdinv.unroll.training.run import Outcome


def _rows(printed):
    """The table: name to (PSNR, SSIM)."""
    found = re.findall(r"^  (\S.*?)  +(\d+\.\d\d) +(\d\.\d{4})$", printed, re.M)
    return {name: (float(a), float(b)) for name, a, b in found}


def test_quick_demonstration_from_end_to_end(tmp_path, capsys):
    output = tmp_path / "new" / "directory"
    assert main(["demo", "--quick", "--output", str(output), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = _rows(printed)
    zero, svt, biharmonic, network, groups, tuned = rows.values()
    assert zero[0] < svt[0] < biharmonic[0] < network[0] - 2
    assert groups[0] > network[0] + 1
    assert abs(tuned[0] - network[0]) < 1  # few steps change little
    assert all(0 < similarity <= 1 for _, similarity in rows.values())
    assert "torch.linalg.svd" in printed
    assert [p.name for p in output.iterdir()] == [demo.PANEL]
    assert str(output / demo.PANEL) in printed
    with Image.open(output / demo.PANEL) as picture:
        assert min(picture.size) > 300


def test_a_picture_of_ones_own_without_a_training(tmp_path, capsys):
    save_picture(tmp_path / "cup.png", photograph("coffee")[100:150, 100:180])
    path = str(tmp_path / "cup.png")
    options = ["--steps", "0", "--rate", "0.5", "--seed", "5"]
    assert main(["demo", "--photo", path, "--output", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert "50x80" in printed
    assert "50%" in printed
    assert "training:" not in printed
    rows = _rows(printed)
    assert rows["unrolled network"][0] > rows["biharmonic inpainting"][0]


@pytest.fixture
def small(tmp_path):
    options = Namespace(
        rate=0.4,
        photo="chelsea",
        output=tmp_path,
        steps=6,
        seed=0,
        minutes=2,
        threads=1,
    )
    recipe = TLR(cells=2, features=4, block=16, start="fill", side="samples")
    return options, Network(recipe, seed=0)


def test_the_training_goes_on_from_the_given_weights(small):
    options, network = small
    before = {name: x.clone() for name, x in network.state_dict().items()}
    outcome, tuned = demo._tuned(options, network, "svt", 2, 16)
    assert (outcome.ending, outcome.step) == ("finished", 6)
    for name, x in network.state_dict().items():
        assert (x == before[name]).all()
        assert 0 <= (tuned.state_dict()[name] - x).abs().max() < 0.01
    assert any((tuned.state_dict()[n] != x).any() for n, x in before.items())


def test_ctrl_c_ends_the_training_only(small, monkeypatch):
    options, network = small
    steps = []

    class Press(command.EMA):
        def __call__(self, loss):
            steps.append(len(steps) + 1)
            if len(steps) == 2:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(loss)

    monkeypatch.setattr(command, "EMA", Press)
    before = signal.getsignal(signal.SIGINT)
    outcome, _ = demo._tuned(options, network, "svt", 2, 16)
    assert (outcome.ending, steps) == ("stopped", [1, 2])
    assert signal.getsignal(signal.SIGINT) is before


def test_says_when_the_time_is_up(small, capsys):
    options, network = small
    options.steps, options.minutes = 500, 1e-6
    outcome, _ = demo._tuned(options, network, "svt", 2, 16)
    assert outcome.ending == "stopped"
    said = capsys.readouterr().out
    assert f"minutes are up after {outcome.step} of 500 steps" in said


def test_says_what_happened_and_no_more():
    nan = Breakdown(7, "cells.1.svt", "backward", np.array([1.0, 0.0, 0.0]))
    fine = Outcome("finished", 50, 50)
    short = Outcome("stopped", 5, 5)
    broken = Outcome("broken", 6, 6, breakdown=nan)
    said = demo._compared(broken, fine)
    assert "step 7" in said
    assert "cells.1.svt" in said
    assert "that step included" in said
    assert "did not get as far" in demo._compared(broken, short)
    assert "stopped early" in demo._compared(broken, short)
    assert "No difference" in demo._compared(fine, fine)


def test_a_beating_heart(tmp_path, capsys):
    options = ["--quick", "--heart", "base", "--output", str(tmp_path)]
    assert main(["demo", "cine", *options]) == 0
    printed = capsys.readouterr().out
    found = re.search(r"^  network +(\d+\.\d\d) ", printed, re.M)
    zero = re.search(r"^  zero-filled +(\d+\.\d\d) ", printed, re.M)
    assert float(found[1]) > float(zero[1]) + 5
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "base-network.npz",
        "base-network-panel.png",
        "base-network-animation.gif",
    }
    assert all(name in printed for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cine", "--heart", "left"], "--heart: must be one of short-axis, "),
        (["cine", "--rate", "0.3"], "--rate: is for svdinv demo colour"),
        (["--heart", "base"], "--heart: is for svdinv demo cine"),
        (["--photo", "retina"], "was trained on retina"),
    ],
)
def test_options_that_do_not_apply_are_refused(words, said, tmp_path, capsys):
    output = tmp_path / "new"
    assert main(["demo", *words, "--output", str(output)]) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()
