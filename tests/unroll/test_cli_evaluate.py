from __future__ import annotations

import csv
import signal

import numpy as np
import pytest
from svdinv.unroll.jobs import cine, evaluation

from svdinv.cli import main
from svdinv.unroll.data import TEST, photograph
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.evaluation.evaluation import Evaluation, Row, default_images
from svdinv.unroll.tasks.cine import unseen_series

pytestmark = pytest.mark.usefixtures("small_methods")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        part = photograph("coffee")[100:140, 40 * i : 40 * i + 48]
        save_picture(folder / f"{i}.png", part)
    return folder


def run(*arguments):
    return main(["evaluate", *map(str, arguments)])


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pictures(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--images", pictures, "--rates", "0.5", "0.2", "--output", out]
    assert run("colour", *options) == 0
    captured = capsys.readouterr()
    rows = read(out / "results.csv")
    methods = ["zero-filled", "SVT completion", "biharmonic", "network"]
    methods.append("network, 8 views")
    assert [row["method"] for row in rows] == 4 * methods
    assert [row["image"] for row in rows[::5]] == ["0", "1", "0", "1"]
    assert [row["setting"] for row in rows[::10]] == ["rate 0.5", "rate 0.2"]
    assert list(rows[0])[3:] == ["psnr_db", "ssim", "seconds", "note"]
    assert "best threshold" in rows[1]["note"]
    mean = np.mean([float(rows[i]["psnr_db"]) for i in (3, 8)])
    table = (out / "results.md").read_text()
    for text in (captured.out, table):
        assert f"{mean:.2f}" in text
        assert "rate 0.5, 2 images" in text
    assert "nearest to the truth" in table
    assert "100%" in captured.err
    assert sorted(p.name for p in out.iterdir()) == [
        "panel-rate-0.2-0.png",
        "panel-rate-0.5-0.png",
        "results.csv",
        "results.md",
    ]


def test_series_and_weights_of_ones_own(small_weights, tmp_path, capsys):
    np.savez(tmp_path / "scan.npz", series=unseen_series(1, 3, 32))
    options = ["--images", tmp_path / "scan.npz", "--masks", "radial", "--coils", "2"]
    options += ["--no-baselines", "--no-ensemble", "--output", tmp_path / "out"]
    assert run(small_weights / "cine.safetensors", *options) == 0
    rows = read(tmp_path / "out" / "results.csv")
    assert [row["method"] for row in rows] == ["zero-filled", "network"]
    assert {row["setting"] for row in rows} == {"radial, 2 coils"}
    assert list(rows[0])[3:6] == ["snr_db", "psnr_db", "ssim"]
    assert "nearest" not in (tmp_path / "out" / "results.md").read_text()
    assert "LS with" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "animation-radial-2-coils-scan.gif" in names


def test_what_is_evaluated_on_by_default():
    photos = default_images("colour", 40)
    assert [photo.name for photo in photos] == list(TEST)
    assert {photo.shape for photo in photos} == {(3, 40, 40)}
    assert default_images("colour", 0)[0].shape == (3, 512, 512)


def test_default_series_are_never_trained_on(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cine, "phantom_series", lambda index, *size, **options: seen.append(index)
    )
    default_images("cine")
    unseen = set(seen)
    assert len(unseen) == 8
    source = cine.Cine(series=8, validation=8).load()
    monkeypatch.setattr(cine, "case", lambda *arguments, **options: None)
    source.validation()
    assert not unseen & {*seen[8:], *range(8)}


def test_the_tables(tmp_path):
    values = [
        ("a", {"PSNR / dB": 20.0, "SSIM": 0.5}),
        ("b", {"PSNR / dB": 30.0, "SSIM": 0.7}),
    ]
    result = Evaluation("colour", "title")
    for shift, method in ((0, "network"), (-1, "other")):
        for image, metrics in values:
            shifted = {name: value + shift for name, value in metrics.items()}
            result.rows.append(Row(image, "rate 0.1", method, shifted, 2.0))
    assert list(result.means("rate 0.1")) == [
        ("network", 2, [25.0, pytest.approx(0.6), 2.0]),
        ("other", 2, [24.0, pytest.approx(-0.4), 2.0]),
    ]
    lines = result.markdown().splitlines()
    assert "| network | **25.00** | **0.6000** | 2.00 |" in lines
    assert "| other | 24.00 | -0.4000 | 2.00 |" in lines
    assert "network" in result.text()


@pytest.mark.parametrize(("press_at", "kept"), [(5, "000"), (6, "000111")])
def test_ctrl_c_keeps_what_was_done(
    press_at, kept, pictures, tmp_path, monkeypatch, capsys
):
    judge, calls = evaluation.judge, []

    def press(case, image):
        calls.append(case)
        if len(calls) == press_at:
            signal.raise_signal(signal.SIGINT)
        return judge(case, image)

    monkeypatch.setattr(evaluation, "judge", press)
    options = ["--no-baselines", "--rates", "0.5", "0.2", "--output", tmp_path / "out"]
    assert run("colour", "--images", pictures, *options, "--panels", "0") == 130
    assert len(calls) == press_at
    rows = read(tmp_path / "out" / "results.csv")
    assert [row["image"] for row in rows] == list(kept)
    assert "Interrupted" in capsys.readouterr().out


def test_measured_files_are_taken_as_they_are_and_once(tmp_path):
    h5py = pytest.importorskip("h5py")
    series = unseen_series(2, 3, 32)
    mask = np.ones(series.shape, bool)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["kspace"], file["mask"] = cine.measured(series, mask), mask
        file["truth"] = series
    options = ["--no-baselines", "--no-ensemble", "--output", tmp_path / "out"]
    assert run("cine", "--images", tmp_path / "raw.h5", *options) == 0
    rows = read(tmp_path / "out" / "results.csv")
    assert [row["setting"] for row in rows] == ["as measured"] * 2
    assert float(rows[0]["snr_db"]) > 80
    with h5py.File(tmp_path / "raw.h5", "a") as file:
        del file["truth"]
    assert run("cine", "--images", tmp_path / "raw.h5", *options) == 2


def test_bad_arguments_end_in_one_line(pictures, tmp_path, one_line):
    np.save(tmp_path / "scan.npy", np.ones((3, 20, 20)))
    (tmp_path / "empty").mkdir()
    for arguments, complaint in (
        (["none.safetensors"], "none.safetensors"),
        (["colours"], "there are cine, colour"),
        ([pictures / "0.png"], "0.png"),
        (["colour", "--images", "none.png"], "none.png"),
        (["colour", "--images", tmp_path / "empty"], "no picture"),
        (["colour", "--images", tmp_path / "scan.npy"], "cine"),
        (["cine", "--images", pictures / "0.png"], "colour"),
        (["cine", "--images", tmp_path / "empty"], "no series"),
        (["colour", "--masks", "radial"], "--masks"),
        (["colour", "--coils", "2"], "--coils"),
        (["cine", "--rates", "0.2"], "--rates"),
        (["cine", "--crop", "20"], "--crop"),
        (["cine", "--masks", "spiral"], "spiral"),
        (["colour", "--rates", "0"], "--rates"),
        (["colour", "--panels", "-1"], "--panels"),
        (["colour", "--device", "abacus"], "abacus"),
        (["colour", "--crop", "40", "--output", f"{__file__}/below"], "--output"),
    ):
        assert run(*arguments) == 2, arguments
        assert complaint in one_line(), arguments


def test_help_has_examples(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "svdinv evaluate colour" in shown
