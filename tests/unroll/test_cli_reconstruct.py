from __future__ import annotations

import os
import re
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hdf5_files import write_h5
from PIL import Image

from svdinv.cli import main
from svdinv.cli.reconstruct import _check_outputs
from svdinv.unroll import inference, pretrained
from svdinv.unroll.data import photograph
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.evaluation import Files
from svdinv.unroll.formats.series import read_series
from svdinv.unroll.networks import LLS
from svdinv.unroll.operators import MRI
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour import task as colour
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.tasks.non_local import NAME
from svdinv.unroll.torch import Network, save

pytestmark = pytest.mark.usefixtures("small_methods")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cup.png"
    save_picture(path, photograph("coffee")[100:148, 100:164])
    return path


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, series=7 * unseen_series(0, 3, 32))
    return path


def run(*arguments):
    return main(["reconstruct", *map(str, arguments)])


def rows(printed):
    """The table: the cells of each method, the seconds last."""
    found = re.findall(
        r"^  (\S[^.\n]*?)  +(\d[\d.]*(?: +[\d.]+)*)(?:   .*)?$", printed, re.M
    )
    return {name: [float(cell) for cell in cells.split()] for name, cells in found}


def test_a_picture(picture, tmp_path, capsys):
    out = tmp_path / "new" / "rate0.5"  # no suffix of a file
    assert run(picture, "--rate", "0.5", "--output", out) == 0
    captured = capsys.readouterr()
    table = rows(captured.out)
    assert list(table) == ["zero-filled", "network", "biharmonic"]
    assert f"with slower methods: SVT completion, {NAME}.\n" in captured.out
    assert all(len(cells) == 3 for cells in table.values())
    assert table["network"][0] > table["zero-filled"][0] + 5
    assert "rate 0.5" in captured.out
    assert captured.err == ""  # a bar is for terminals
    names = ["cup-network-panel.png", "cup-network.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert all(str(out / name) in captured.out for name in names)
    with Image.open(picture) as truth, Image.open(out / names[1]) as found:
        assert found.size == truth.size
        error = np.asarray(found, float) - np.asarray(truth, float)
    assert 10 * np.log10(255**2 / np.mean(error**2)) == pytest.approx(
        table["network"][0], abs=0.1
    )


def test_a_built_in_photograph_without_baselines(tmp_path, capsys):
    path = tmp_path / "result.png"
    options = ["--no-baselines", "--crop", "48", "--ensemble", "--output", path]
    assert run("coffee", *options) == 0
    assert list(rows(capsys.readouterr().out)) == ["zero-filled", "network, 8 views"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "result-panel.png",
        "result.png",
    ]


def test_a_mask_of_ones_own(picture, tmp_path):
    known = np.zeros((48, 64), bool)
    known[::2, ::3] = True
    np.save(tmp_path / "known.npy", known)
    out = tmp_path / "out.png"
    assert run(picture, "--mask", tmp_path / "known.npy", "--output", out) == 0
    with Image.open(picture) as truth, Image.open(out) as found:
        a, b = np.asarray(truth), np.asarray(found)
    np.testing.assert_array_equal(a[known], b[known])
    assert (a != b).any()


def test_a_series(scan, tmp_path, capsys):
    options = ["--mask", "vista", "--coils", "2", "--seed", "3"]
    assert run(scan, *options, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert "vista, 2 coils, seed 3" in printed
    assert "3 frames of 32x32" in printed
    expected = ["zero-filled", "network", "view sharing", "low-rank"]
    assert list(table) == expected
    assert all(len(cells) == 4 for cells in table.values())
    image = read_series(tmp_path / "out" / "scan-network.npz")
    truth = read_series(scan)
    ratio = np.linalg.norm(truth) ** 2 / np.linalg.norm(truth - image) ** 2
    assert 10 * np.log10(ratio) == pytest.approx(table["network"][0], abs=0.01)
    with Image.open(tmp_path / "out" / "scan-network-animation.gif") as animation:
        assert animation.n_frames == 3
    assert (tmp_path / "out" / "scan-network-panel.png").exists()


def test_one_frame_does_not_move(tmp_path, capsys):
    series = unseen_series(0, 1, 32)
    options = ("--mask", "radial", "--output", tmp_path / "out")
    for frame in (series, series[0]):
        np.save(tmp_path / "still.npy", frame)
        assert run(tmp_path / "still.npy", *options) == 0
        assert list(rows(capsys.readouterr().out)) == ["zero-filled", "network"]
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {"still-network-panel.png", "still-network.npz"}


def test_a_file_of_another_task_is_refused(picture, one_line):
    assert run(picture, "--task", "cine") == 2
    assert "argument --task: " in (line := one_line())
    assert "is not of the kind cine, but colour" in line


def test_measured_k_space_without_a_truth(tmp_path, capsys, rng):
    x = unseen_series(0, 3, 32)
    mask = rng.random(x.shape) < 0.6
    write_h5(tmp_path / "raw.h5", kspace=9 * MRI(mask)(x), mask=mask)
    assert run(tmp_path / "raw.h5", "--output", tmp_path / "out.npy") == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert list(table) == ["zero-filled", "network", "view sharing", "low-rank"]
    assert all(len(cells) == 2 for cells in table.values())  # misfit, seconds
    assert "as measured" in printed
    assert "PSNR" not in printed
    image = np.load(tmp_path / "out.npy")  # as L+S-Net ends, it explains the data
    np.testing.assert_allclose(MRI(mask)(image), 9 * MRI(mask)(x), atol=1e-4)
    assert (tmp_path / "out-animation.gif").exists()


@pytest.mark.parametrize("given", ["picture", "scan"])
def test_what_takes_long_is_compared_with_when_it_is_asked_for(
    given, request, tmp_path, capsys
):
    path = request.getfixturevalue(given)
    found = {}
    for words in ([], ["--baselines"], ["--no-baselines"]):
        assert run(path, *words, "--output", tmp_path) == 0
        printed = capsys.readouterr().out
        assert ("--baselines also compares with" in printed) == (not words)
        found["".join(words)] = set(rows(printed))
    methods = {"picture": Colour, "scan": Cine}[given]().baselines()
    lengthy = {name for name in methods if getattr(methods[name], "lengthy", False)}
    assert found["--no-baselines"] == {"zero-filled", "network"}
    assert found[""] == found["--baselines"] - lengthy
    assert found["--no-baselines"] < found[""] < found["--baselines"]


def test_large_pictures_go_without_slow_methods(picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("svdinv.cli.reconstruct._MOST_PIXELS", 1000)
    assert run(picture, "--output", tmp_path / "a") == 0
    assert list(rows(capsys.readouterr().out)) == ["zero-filled", "network"]
    assert run(picture, "--baselines", "--output", tmp_path / "a") == 0
    assert len(rows(capsys.readouterr().out)) == 5


@pytest.mark.parametrize(
    ("place", "name"), [(inference, "apply"), (colour.Colour, "save")]
)
def test_ctrl_c_writes_nothing(place, name, picture, tmp_path, monkeypatch, capsys):
    whole = getattr(place, name)

    def press(*arguments, **options):
        if place is not inference:  # as from within, before the image is whole
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)
        return whole(*arguments, **options)

    monkeypatch.setattr(place, name, press)
    before = signal.getsignal(signal.SIGINT)
    assert run(picture, "--output", tmp_path / "out") == 130
    assert "nothing was written" in capsys.readouterr().out
    assert list((tmp_path / "out").iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_leaves_out_what_is_only_compared(
    picture, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        colour, "biharmonic", lambda problem: signal.raise_signal(signal.SIGINT)
    )
    assert run(picture, "--output", tmp_path / "out") == 130
    printed = capsys.readouterr().out
    assert list(rows(printed)) == ["zero-filled", "network"]
    assert "Interrupted after the image was written." in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"cup-network-panel.png", "cup-network.png"}


def test_ctrl_c_while_an_image_is_written(picture, tmp_path, monkeypatch, capsys):
    save = colour.Colour.save

    def press(*given):
        signal.raise_signal(signal.SIGINT)
        save(*given)

    monkeypatch.setattr(colour.Colour, "save", press)
    other = shutil.copy(picture, tmp_path / "other.png")
    options = ("--no-baselines", "--output", tmp_path / "out")
    assert run(picture, other, *options) == 130
    printed = capsys.readouterr().out
    assert "after the image was written; 1 of 2 inputs are left." in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"cup-network-panel.png", "cup-network.png"}


def decibels(path, truth):
    with Image.open(path) as found, Image.open(truth) as known:
        error = np.asarray(found, float) - np.asarray(known, float)
    return 10 * np.log10(255**2 / np.mean(error**2))


def test_the_image_of_another_method(picture, tmp_path, capsys):
    options = [picture, "--rate", "0.5", "--noise", "0.2", "--baselines"]
    out = tmp_path / "out.png"
    assert run(*options, "--output", out) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    best = max(table, key=lambda name: table[name][0])
    assert best == NAME
    assert "The image is that of the method: network." in printed
    assert f"{NAME} was nearer to the truth, PSNR {table[NAME][0]:.2f}" in printed
    assert "--method non-local-low-rank writes its image" in printed
    assert decibels(out, picture) == pytest.approx(table["network"][0], abs=0.1)

    for name in ("non-local-low-rank", NAME.upper()):
        own = ["--method", name, "--no-baselines", "--output", out]
        assert run(*options, *own) == 0
        printed = capsys.readouterr().out
        assert list(rows(printed)) == ["zero-filled", NAME]
        assert f"The image is that of the method: {NAME}.\n" in printed
        assert decibels(out, picture) == pytest.approx(table[NAME][0], abs=0.1)


def test_the_start_of_a_network_may_be_written(scan, tmp_path, capsys):
    save(
        Network(LLS(cells=1, features=2, static=1), seed=0),
        tmp_path / "own.safetensors",
    )
    options = ["--method", "networks-start", "--no-baselines"]
    options += ["--weights", tmp_path / "own.safetensors"]
    assert run(scan, *options, "--output", tmp_path) == 0
    assert list(rows(capsys.readouterr().out)) == ["zero-filled", "network's start"]


def test_noise_alone_is_taken_out(picture, tmp_path, capsys):
    assert run(picture, "--noise", "0.1", "--output", tmp_path / "out.png") == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert "rate 1, noise 0.1" in printed
    assert list(table) == ["zero-filled", "network"]
    assert "Its weights: denoise-refined." in printed
    found = decibels(tmp_path / "out.png", picture)
    assert found == pytest.approx(table["network"][0], abs=0.1)
    assert found > table["zero-filled"][0] + 3


def test_a_picture_that_has_noise(picture, small_weights, tmp_path, capsys):
    with Image.open(picture) as clean:
        pixels = np.asarray(clean, float)
    noise = 25 * np.random.default_rng(0).standard_normal(pixels.shape)
    noisy = tmp_path / "noisy.png"
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(noisy)
    options = (noisy, "--no-truth", "--output", tmp_path / "out.png")
    # No network for gaps takes noise out.
    colour = ("--weights", small_weights / "colour.safetensors")
    for words, name in (((), "network"), (colour, NAME)):
        assert run(*options, *words) == 0
        printed = capsys.readouterr().out
        assert "PSNR" not in printed
        found = re.search(r"64 pixels, noise ([\d.]+), rate 1", printed)
        assert float(found[1]) == pytest.approx(25 / 255, rel=0.1)
        assert f"The image is that of the method: {name}" in printed
        assert ("is not for such data: --method network" in printed) == (name == NAME)
        if name == NAME:
            told = re.search(r"  noise ([\d.]+)\n", printed)
            assert float(told[1]) == pytest.approx(25 / 255, rel=0.1)
        assert decibels(tmp_path / "out.png", picture) > decibels(noisy, picture) + 3


def test_noise_that_is_not_taken_out_is_told(picture, tmp_path, capsys):
    with Image.open(picture) as clean:
        pixels = np.asarray(clean, float)
    noise = 25 * np.random.default_rng(0).standard_normal((*pixels.shape[:2], 1))
    noisy = tmp_path / "noisy.png"
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(noisy)
    assert run(noisy, "--no-truth", "--output", tmp_path / "out.png") == 0
    assert "what pixels or channels share" in capsys.readouterr().out


def test_a_grey_picture_has_one_channel(picture, tmp_path, capsys):
    with Image.open(picture) as clean:
        grey = np.asarray(clean.convert("L"), float)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    noise = 25 * np.random.default_rng(0).standard_normal(grey.shape)
    noisy = tmp_path / "noisy.png"
    Image.fromarray(np.clip(grey + noise, 0, 255).astype(np.uint8)).save(noisy)
    assert run(noisy, "--no-truth", "--output", tmp_path / "out.png") == 0
    told = re.search(r"  noise ([\d.]+)\n", capsys.readouterr().out)
    assert float(told[1]) == pytest.approx(25 / 255, rel=0.15)
    with Image.open(tmp_path / "out.png") as found, Image.open(noisy) as given:
        colours = np.asarray(found.convert("RGB"), float)
        error = np.mean((colours[..., 0] - grey) ** 2)
        assert (colours == colours[..., :1]).all()
        assert error < np.mean((np.asarray(given, float) - grey) ** 2) / 2


@pytest.mark.parametrize("command", ["reconstruct", "fit"])
def test_nothing_to_reconstruct_is_refused(picture, command, tmp_path, one_line):
    x = np.full((3, 32, 32), 0.5, np.float32)
    write_h5(tmp_path / "whole.h5", samples=x, mask=np.ones(x.shape, bool), truth=x)
    for words in ([str(picture), "--rate", "1"], [str(tmp_path / "whole.h5")]):
        assert main([command, *words, "--output", str(tmp_path)]) == 2
        assert "--no-truth" in one_line()


def test_panels_of_two_inputs_are_not_the_same():
    panel = Path("cup-network-panel.png")
    outputs = [
        Files(Path(f"cup-network{end}"), panel, None) for end in (".png", ".npz")
    ]
    with pytest.raises(
        ValueError, match="two inputs would be written to cup-network-p"
    ):
        _check_outputs(Namespace(inputs=["cup.png", "density:cup.png"]), outputs)


def test_bad_arguments_end_in_one_line(
    picture, scan, small_weights, tmp_path, one_line
):
    np.save(tmp_path / "mask.npy", np.ones((5, 5)))
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    grey = tmp_path / "grey.png"
    with Image.open(picture) as clean:
        clean.convert("L").save(grey)
    np.save(tmp_path / "scan.npy", unseen_series(0, 3, 32))
    save_picture(tmp_path / "black.png", np.zeros((48, 48, 3)))
    for arguments, complaint in (
        (["no-such.png"], "no-such.png"),
        ([tmp_path / "damaged.png"], "damaged.png"),
        ([picture, "--rate", "2"], "--rate"),
        ([picture, "--rate", "0.3", "--mask", tmp_path / "mask.npy"], "--rate"),
        ([picture, "--mask", "radial"], "--mask: 'radial' is not a file"),
        ([picture, "--coils", "2"], "--coils: does not apply"),
        ([picture, "--coils", "2"], "one of photographs"),
        ([picture, "--acceleration", "4"], "--acceleration: does not apply"),
        ([picture, "--mask", tmp_path / "mask.npy"], "(48, 64)"),
        ([scan, "--rate", "0.3"], "--rate: does not apply"),
        ([scan, "--rate", "0.3"], "one of series"),
        ([scan, "--crop", "40"], "--crop: does not apply"),
        ([scan, "--acceleration", "17"], "--acceleration"),
        ([scan, "--mask", "m.npy", "--acceleration", "4"], "--acceleration"),
        ([scan, "--noise", "-1"], "--noise"),
        (["cine", "--key", "x"], "--key"),
        ([scan, "--size", "64"], "--size"),
        ([tmp_path], "is a folder"),
        ([picture, picture], "two inputs would be written"),
        ([picture, scan, "--output", tmp_path / "a.png"], "must be a folder"),
        ([picture, "no-such.png"], "no-such.png"),
        ([picture, "--weights", tmp_path], "weights.safetensors"),
        ([scan, "--mask", "spiral"], "variable-density"),
        ([scan, "--mask", tmp_path / "mask.npy"], "(32, 32)"),
        ([scan, "--mask", "none.npy"], "none.npy"),
        ([scan, "--key", "images"], "images"),
        ([scan, "--time-axis", "7"], "--time-axis"),
        ([tmp_path / "scan.npy", "--key", "x"], "--key: does not apply"),
        ([tmp_path / "black.png"], "black.png is zero everywhere"),
        ([scan, "--weights", small_weights / "colour.safetensors"], "--weights"),
        ([picture, "--weights", "none.safetensors"], "none.safetensors"),
        ([picture, "--weights", tmp_path / "damaged.safetensors"], "damaged"),
        ([picture, "--device", "abacus"], "abacus"),
        ([picture, "--method", "abacus"], "--method: must be one of zero-filled, svt"),
        ([scan, "--method", "biharmonic"], "l+s, local-low-rank, network for"),
        ([grey, "--no-truth", "--method", "network"], "--method: must be one"),
        ([grey, "--no-truth", "--ensemble"], "--ensemble: does not apply"),
        (["walnut-1", "--crop", "64"], "--crop: does not apply: walnut-1 is one of"),
        ([picture, "--method", "biharmonic", "--ensemble"], "--ensemble: does not"),
        ([picture, "--output", picture], "would replace"),
        ([picture, "--output", tmp_path / "out.npz"], ".png"),
        ([scan, "--output", tmp_path / "out.png"], ".npz"),
        ([picture, "--output", f"{__file__}/below/"], "--output"),
    ):
        assert run(*arguments) == 2, arguments
        assert complaint in one_line(), arguments


def test_without_weights_classical_methods_reconstruct(
    picture, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path)
    assert run(picture, "--output", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "biharmonic" in shown
    assert "network" not in shown


def test_several_inputs(picture, scan, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(picture, scan, "--noise", "0.01", "--output", out) == 0
    printed = capsys.readouterr().out
    assert printed.index("cup: 48x64") < printed.index("scan: 3 frames")
    assert sorted(p.name for p in out.iterdir()) == [
        "cup-network-panel.png",
        "cup-network.png",
        "scan-network-animation.gif",
        "scan-network-panel.png",
        "scan-network.npz",
    ]


def test_several_inputs_replace_neither_each_other_nor_what_is_read(
    picture, scan, tmp_path, one_line
):
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "scan.npz", series=unseen_series(0, 3, 32))
    other = tmp_path / "cup-network.png"
    other.write_bytes(picture.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert run(scan, tmp_path / "b" / "scan.npz", "--output", tmp_path / "out") == 2
    assert "scan-network.npz" in one_line()
    assert run(picture, other, "--output", tmp_path) == 2
    assert "would replace" in one_line()
    assert sorted(tmp_path.rglob("*")) == before
    assert other.read_bytes() == picture.read_bytes()
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(48, 64) < 1).save(mask)
    kept = mask.read_bytes()
    assert run(picture, "--mask", mask, "--output", mask) == 2
    assert "would replace" in one_line()
    assert mask.read_bytes() == kept


def test_options_of_sampling_have_no_use_for_what_is_measured(tmp_path, one_line):
    x = unseen_series(0, 3, 32)
    mask = np.ones(x.shape, bool)
    write_h5(tmp_path / "raw.h5", kspace=MRI(mask)(x), mask=mask)
    for words in (["--noise", "0.1"], ["--mask", "vista"], ["--acceleration", "4"]):
        assert run(tmp_path / "raw.h5", *words) == 2
        said = one_line()
        assert f"{words[0]}: does not apply" in said
        assert "measured data" in said
    assert run(tmp_path / "raw.h5", "--rate", "0.1") == 2
    assert "--rate: does not apply" in one_line()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_nothing_waits_for_a_pipe(picture, scan, tmp_path, one_line):
    for suffix in (".png", ".npy", ".h5", ".safetensors"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    for words in (
        [tmp_path / "pipe.png"],
        [tmp_path / "pipe.npy"],
        [tmp_path / "pipe.h5"],
        [picture, "--mask", tmp_path / "pipe.npy"],
        [picture, "--weights", tmp_path / "pipe.safetensors"],
    ):
        assert run(*words) == 2
        assert "is not a regular file" in one_line()
