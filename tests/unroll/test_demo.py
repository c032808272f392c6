from __future__ import annotations

import re
import signal

import numpy as np
import pytest
from PIL import Image

import svdinv.torch
from svdinv.cli import main
from svdinv.unroll import demo
from svdinv.unroll.data import photograph
from svdinv.unroll.demo import DemoConfig
from svdinv.unroll.training import Breakdown, Training


def _rows(printed):
    """The table: name to (PSNR, SSIM)."""
    found = re.findall(r"^  (\S.*?)  +(\d+\.\d\d) +(\d\.\d{4})$", printed, re.M)
    return {name: (float(a), float(b)) for name, a, b in found}


def test_quick_demonstration_from_end_to_end(tmp_path, capsys):
    output = tmp_path / "new" / "directory"
    assert main(["demo", "--quick", "--output", str(output), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = _rows(printed)
    zero, svt, biharmonic, network = rows.values()
    assert zero[0] < svt[0] < biharmonic[0]
    assert svt[0] < network[0]
    assert all(0 < similarity <= 1 for _, similarity in rows.values())
    assert "torch.linalg.svd" in printed
    assert "chelsea" not in printed.partition("trained on")[2].partition("\n")[0]
    assert [p.name for p in output.iterdir()] == [demo.PANEL]
    assert str(output / demo.PANEL) in printed
    with Image.open(output / demo.PANEL) as picture:
        assert min(picture.size) > 300


def test_a_picture_of_ones_own(tmp_path, capsys):
    pixels = np.uint8(255 * photograph("coffee")[100:150, 100:180])
    Image.fromarray(pixels).save(tmp_path / "cup.png")
    path = str(tmp_path / "cup.png")
    options = ["--steps", "2", "--rate", "0.6", "--seed", "5"]
    assert (
        main(["demo", "--quick", "--photo", path, "--output", str(tmp_path), *options])
        == 0
    )
    printed = capsys.readouterr().out
    assert "50x80" in printed
    assert "60%" in printed
    assert _rows(printed)["unrolled network"][0] > 15


def test_ctrl_c_ends_the_training_only(tmp_path):
    config = DemoConfig(rate=0.4, photo="chelsea", output=tmp_path).quick()
    calls = []

    def svd(A, full_matrices):
        calls.append(A.shape)
        if len(calls) == config.network.cells + 1:  # in the second step
            signal.raise_signal(signal.SIGINT)
        return svdinv.torch.svd(A, full_matrices)

    before = signal.getsignal(signal.SIGINT)
    result = demo._train(
        "name", svd, [photograph("coffee")], config, limit=9, cap_seconds=60
    )
    assert result.ending == "stopped"
    assert len(result.losses) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" in demo._describe(result, 9)


def test_a_second_ctrl_c_is_one():
    with demo._interrupts() as noted:
        assert not noted()
        signal.raise_signal(signal.SIGINT)
        assert noted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def _training(losses, breakdown=None, **others):
    return Training(None, [1.0] * losses, breakdown=breakdown, **others)


def test_says_what_happened_and_no_more():
    nan = Breakdown(step=7, weights=100, weights_lost=99, patches=16, dark_patches=2)
    fine, short = _training(50), _training(5)
    broken = _training(7, nan, ending="broken")
    assert "NaN at step 7" in demo._describe(broken, 50)
    assert "step 7" in demo._conclude(broken, fine)
    assert "did not get as far" in demo._conclude(broken, short)
    assert "no difference" in demo._conclude(fine, fine)
    capped = _training(50, ending="capped", cooled_from=40)
    assert "ran out" in demo._describe(capped, 99)
    assert "step 40" in demo._describe(capped, 99)
