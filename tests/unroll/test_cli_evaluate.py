from __future__ import annotations

import csv
import signal

import numpy as np
import pytest
from hdf5_files import write_h5

from svdinv.cli import main
from svdinv.unroll.data import TEST, photograph
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.evaluation import Evaluation, Row
from svdinv.unroll.formats.atomic import holding
from svdinv.unroll.operators import MRI
from svdinv.unroll.tasks.cine import training as cine_training
from svdinv.unroll.tasks.cine.task import Cine, CineOptions
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions
from svdinv.unroll.tasks.non_local import NAME

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
    methods = ["zero-filled", "SVT completion", "biharmonic", NAME, "network"]
    methods.append("network, 8 views")
    assert [row["method"] for row in rows] == 4 * methods
    assert [row["image"] for row in rows[::6]] == ["0", "1", "0", "1"]
    assert [row["setting"] for row in rows[::12]] == ["rate 0.5", "rate 0.2"]
    assert list(rows[0])[3:] == ["psnr_db", "ssim", "seconds", "note"]
    assert "best threshold" in rows[1]["note"]
    mean = np.mean([float(rows[i]["psnr_db"]) for i in (4, 10)])
    table = (out / "results.md").read_text()
    for text in (captured.out, table):
        assert f"{mean:.2f}" in text
        assert "rate 0.5, 2 images" in text
    assert "nearest to the truth" in table
    assert captured.err == ""  # a bar is for terminals
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
    photos = Colour().examples(ColourOptions(crop=40))
    assert [photo.name for photo in photos] == list(TEST)
    assert {photo.image.shape for photo in photos} == {(3, 40, 40)}
    assert Colour().examples(ColourOptions(crop=0))[0].image.shape == (3, 512, 512)


def test_default_series_are_never_trained_on(monkeypatch):
    seen = []
    made = np.zeros((1, 32, 32), np.complex64)

    def note(index, *size, **options):
        seen.append(index)
        return made

    monkeypatch.setattr(cine_training, "phantom_series", note)
    monkeypatch.setattr("svdinv.unroll.tasks.cine.training.phantom_series", note)
    Cine().examples(CineOptions())
    unseen = set(seen)
    assert len(unseen) == 8
    source = Cine(series=8, validation=8, textures=0.0).load()
    source.validation()
    assert len(seen) == 16
    assert not unseen & {*seen[8:], *range(8)}


def test_the_tables(tmp_path):
    values = [
        ("a", {"PSNR / dB": 20.0, "SSIM": 0.5}),
        ("b", {"PSNR / dB": 30.0, "SSIM": 0.7}),
    ]
    result = Evaluation(Colour(), "title")
    for shift, method in ((0, "network"), (-1, "other")):
        for image, metrics in values:
            shifted = {name: value + shift for name, value in metrics.items()}
            result.rows.append(Row(image, "rate 0.1", method, shifted, 2.0))
    ((heading, means),) = result.means()
    assert heading == "rate 0.1, 2 images"
    assert list(means["network"].values()) == [25.0, pytest.approx(0.6), 2.0]
    assert list(means["other"].values()) == [24.0, pytest.approx(-0.4), 2.0]
    lines = result.markdown().splitlines()
    assert "| network | **25.00** | **0.6000** | 2.00 |" in lines
    assert "| other | 24.00 | -0.4000 | 2.00 |" in lines
    assert "network" in result.text()
    result.rows.append(Row("b", "rate 0.1", "third", shifted, 2.0))
    ((heading, means),) = result.means()
    assert (heading, list(means)[2]) == ("rate 0.1, 2 images", "third (1 image)")


@pytest.mark.parametrize(("press_at", "kept"), [(5, "000"), (6, "000111")])
def test_ctrl_c_keeps_what_was_done(
    press_at, kept, pictures, tmp_path, monkeypatch, capsys
):
    score, calls = Colour.score, []

    def press(self, problem, image):
        calls.append(problem)
        if len(calls) == press_at:
            signal.raise_signal(signal.SIGINT)
        return score(self, problem, image)

    monkeypatch.setattr(Colour, "score", press)
    options = ["--no-baselines", "--rates", "0.5", "0.2", "--output", tmp_path / "out"]
    assert run("colour", "--images", pictures, *options, "--panels", "0") == 130
    assert len(calls) == press_at
    rows = read(tmp_path / "out" / "results.csv")
    assert [row["image"] for row in rows] == list(kept)
    assert "Interrupted" in capsys.readouterr().out


def test_measured_files_are_taken_as_they_are_and_once(tmp_path, capsys, one_line):
    h5py = pytest.importorskip("h5py")
    series = unseen_series(2, 3, 32)
    mask = np.ones(series.shape, bool)
    kspace = MRI(mask)(series).astype(np.complex64)
    write_h5(tmp_path / "raw.h5", kspace=kspace, mask=mask, truth=series)
    options = ["--no-baselines", "--no-ensemble", "--output", tmp_path / "out"]
    assert run("cine", "--images", tmp_path / "raw.h5", *options) == 0
    rows = read(tmp_path / "out" / "results.csv")
    assert [row["setting"] for row in rows] == ["as measured"] * 2
    assert float(rows[0]["snr_db"]) > 80
    with h5py.File(tmp_path / "raw.h5", "a") as file:
        del file["truth"]
    capsys.readouterr()
    assert run("cine", "--images", tmp_path / "raw.h5", *options, "--overwrite") == 2
    assert "raw holds no truth" in one_line()


def test_results_are_replaced_only_where_that_is_said(
    pictures, tmp_path, capsys, one_line
):
    out = tmp_path / "out"
    options = ["--no-baselines", "--no-ensemble", "--panels", "0", "--output", out]
    words = ["colour", "--images", pictures / "0.png", *options]
    assert run(*words, "--rates", "0.5") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert run(*words, "--rates", "0.2") == 2
    assert "--output" in (said := one_line())
    assert "--overwrite" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(*words, "--rates", "0.2", "--overwrite") == 0
    assert {row["setting"] for row in read(out / "results.csv")} == {"rate 0.2"}


def test_noise_accelerations_and_masks_of_files(tmp_path):
    np.savez(tmp_path / "scan.npz", series=unseen_series(1, 3, 32))
    mask = np.zeros((32, 32), bool)
    mask[8:24, ::2] = True
    np.save(tmp_path / "mask.npy", mask)
    out = tmp_path / "out"
    options = ["--no-baselines", "--no-ensemble", "--output", out, "--overwrite"]
    words = ["cine", "--images", tmp_path / "scan.npz", *options]
    assert run(*words, "--masks", "vista", "radial", "--acceleration", "4") == 0
    rows = read(out / "results.csv")
    assert [row["setting"] for row in rows[::2]] == ["vista, 4 x", "radial, 4 x"]
    assert run(*words, "--masks", tmp_path / "mask.npy") == 0
    clean = read(out / "results.csv")
    assert run(*words, "--masks", tmp_path / "mask.npy", "--noise", "0.3") == 0
    noisy = read(out / "results.csv")
    named = f"mask {tmp_path / 'mask.npy'}"
    assert {row["setting"] for row in clean} == {named}
    assert {row["setting"] for row in noisy} == {f"{named}, noise 0.3"}
    assert float(noisy[0]["snr_db"]) < float(clean[0]["snr_db"])


def test_two_evaluations_in_one_folder(pictures, tmp_path, one_line):
    words = ["colour", "--images", pictures, "--rates", "0.4", "--output", tmp_path]
    with holding(tmp_path):
        assert run(*words) == 2
    assert "another command writes to" in one_line()


def test_bad_arguments_end_in_one_line(pictures, tmp_path, one_line):
    np.save(tmp_path / "scan.npy", np.ones((3, 20, 20)))
    np.save(tmp_path / "mask.npy", np.ones((5, 5)))
    (tmp_path / "empty").mkdir()
    for arguments, complaint in (
        (["none.safetensors"], "none.safetensors"),
        (["colours"], "there are cine, colour"),
        ([pictures / "0.png"], "0.png"),
        (["colour", "--images", "none.png"], "none.png"),
        (["colour", "--images", pictures, pictures / "0.png"], "occurs twice"),
        (["colour", "--images", tmp_path / "empty"], "no picture"),
        (["colour", "--images", tmp_path / "scan.npy"], "cine"),
        (["cine", "--images", pictures / "0.png"], "colour"),
        (["cine", "--images", tmp_path / "empty"], "no series"),
        (["colour", "--masks", "radial"], "--masks: 'radial' is not a file"),
        (["colour", "--coils", "2"], "--coils: does not apply"),
        (["colour", "--acceleration", "4"], "--acceleration: does not apply"),
        (["cine", "--rates", "0.2"], "--rates: does not apply"),
        (["cine", "--crop", "20"], "--crop: does not apply"),
        (["cine", "--images", "cine", "--masks", "spiral"], "spiral"),
        (["colour", "--rates", "0"], "--rates"),
        (["colour", "--rates", "0.2", "0.2"], "a value occurs twice"),
        (["cine", "--masks", tmp_path / "mask.npy"], "(12, 128, 128)"),
        (["colour", "--masks", tmp_path / "mask.npy"], "(256, 256)"),
        (["cine", "--masks", "none.npy"], "none.npy"),
        (["cine", "--acceleration", "0.5"], "--acceleration"),
        (["cine", "--images", "cine", "--key", "x"], "--key"),
        ([tmp_path / "empty"], "weights.safetensors"),
        (["colour", "--panels", "-1"], "--panels"),
        (["colour", "--device", "abacus"], "abacus"),
        (["colour", "--crop", "40", "--output", f"{__file__}/below"], "--output"),
    ):
        assert run(*arguments) == 2, arguments
        assert complaint in one_line(), arguments
