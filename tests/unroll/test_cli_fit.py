"""``svdinv fit``: what it writes, refuses, and goes on from."""

from __future__ import annotations

import csv
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svdinv.cli import main
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions
from svdinv.unroll.tasks.measured_files import write_problem
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions
from svdinv.unroll.untrained import Fitting, fitting, residual

SHORT = ("--iterations", "10", "--threads", "1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """After a fit the residual has one part to try, not four: they take a second."""
    monkeypatch.setattr(residual, "_PARTS", (0.5,))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    ramp = np.linspace(0, 255, 32)[:, None, None] * np.ones((1, 33, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "beat.npy"
    frames = np.linspace(0.5, 1, 4)[:, None, None] * np.ones((4, 32, 32))
    frames[:, 8:18, 10:24] *= 2
    np.save(path, frames)
    return path


PHOTO = {"photo-fit-dip" + e for e in (".png", "-panel.png", "-iterations.csv")}


def run(*arguments):
    return main(["fit", *map(str, arguments)])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_photograph(photo, tmp_path, capsys):
    arguments = (*SHORT, "--iterations", 20, "--output", tmp_path)
    assert run(photo, "--rate", 0.5, *arguments) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == PHOTO
    out = capsys.readouterr().out
    assert "zero-filled" in out
    assert "fit" in out
    assert [
        row["iteration"] for row in rows(tmp_path / "photo-fit-dip-iterations.csv")
    ] == ["10", "20"]
    # Exact samples are put back.
    options = ColourOptions(rate=0.5)
    problem = Colour().measure(Colour().read(photo, options), options)
    with Image.open(tmp_path / "photo-fit-dip.png") as found:
        assert found.size == (33, 32)
        away = np.moveaxis(np.asarray(found) / 255, -1, 0) - problem.y
    assert np.abs(away[problem.A.mask]).max() < 1 / 255


def test_noise_at_the_input(photo, series, tmp_path):
    def losses(source, *options):
        assert run(source, *options, *SHORT, "--output", tmp_path) == 0
        (table,) = tmp_path.glob(f"{source.stem}*.csv")
        return [row["loss"] for row in rows(table)]

    beat = (series, "--mask", "radial", "--prior", "dip")
    for source, usual in (((photo, "--rate", 0.5), 0.03), (beat, 0.01)):
        first = losses(*source)
        assert losses(*source, "--input-noise", usual) == first
    assert losses(*beat, "--input-noise", 0) != first


def test_noise_alone_is_denoising(photo, tmp_path, capsys):
    arguments = ("--noise", 0.1, *SHORT, "--output", tmp_path)
    assert run(photo, *arguments, "--stop", "sure", "--tv", 0.01) == 0
    assert "rate 1" in capsys.readouterr().out
    values = [
        float(row["criterion"])
        for row in rows(tmp_path / "photo-fit-dip-iterations.csv")
    ]
    assert np.isfinite(values).all()


def test_a_picture_that_has_noise_is_not_put_back(photo, tmp_path, capsys):
    options = ("--no-truth", *SHORT, "--output", tmp_path)
    assert run(photo, *options) == 0
    assert "PSNR" not in capsys.readouterr().out
    with (
        Image.open(photo) as given,
        Image.open(tmp_path / "photo-fit-dip.png") as found,
    ):
        assert (np.asarray(given) != np.asarray(found)).any()


@pytest.mark.parametrize("prior", ["dip", "bilinear", "low-rank-and-sparse"])
def test_a_series(prior, series, tmp_path):
    options = ("--mask", "radial", "--prior", prior, "--low-rank", 0.01)
    assert run(series, *options, *SHORT, "--output", tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"beat-fit-{prior}{end}"
        for end in (".npz", "-panel.png", "-animation.gif", "-iterations.csv")
    }


def test_one_frame_is_learned_whole(series, tmp_path, capsys):
    """The mean of the frames would be the image that fits the data already."""
    frame = tmp_path / "frame.npy"
    np.save(frame, np.load(series)[:1])
    given = (frame, "--mask", "radial", *SHORT, "--output", tmp_path)
    assert run(*given) == 0
    assert "start of the fit" not in capsys.readouterr().out
    assert run(*given, "--start") == 2
    assert "--start: does not apply to a single frame" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["spectral:head-1", "dense.h5", "kinetic-sum"])
def test_images_stay_below_their_bound(source, tmp_path, monkeypatch):
    """It is none, or is the unit of the operator that is fitted."""
    task, options = Ct(), CtOptions(size=24, views=16)
    usual = task.measure(task.read("walnut-1", options), options)
    denser = replace(usual, y=1.6 * usual.y, truth=1.6 * usual.truth)
    write_problem(tmp_path / "dense.h5", task, denser)
    monkeypatch.chdir(tmp_path)
    began, made = [], []

    class Watched(Fitting):
        def __init__(self, problem, generator, *given, **options):
            super().__init__(problem, generator, *given, **options)
            began.append((generator.bounded, problem.A))

        def result(self, *given):
            made.append(super().result(*given))
            return made[-1]

    monkeypatch.setattr("svdinv.unroll.untrained.Fitting", Watched)
    sizes = () if source.endswith(".h5") else ("--size", 24, "--views", 16)
    assert run(source, *sizes, *SHORT, "--output", "out.npy") == 0
    ((bounded, A),) = began
    assert bounded == (source != "spectral:head-1")
    if bounded:
        largest = 1.44 if source == "dense.h5" else 1.0
        assert A.scalar > largest
        due = np.maximum(A.scalar * made[0].image, 0).reshape(np.load("out.npy").shape)
        np.testing.assert_allclose(np.load("out.npy"), due, rtol=1e-5)


def test_it_goes_on_from_a_checkpoint(photo, tmp_path, capsys):
    fixed = (photo, "--rate", 0.5, "--threads", 1, "--iterations", 50)
    state = tmp_path / "state.safetensors"
    for name in ("one", "two"):
        assert run(*fixed, "--checkpoint", state, "--output", tmp_path / name) == 0
        told = f"Resuming from iteration 50: {state}" in capsys.readouterr().out
        assert told == (name == "two")
    one, two = (tmp_path / n / "photo-fit-dip.png" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("place", "name", "said"),
    [
        (Fitting, "step", "Interrupted at iteration 5: this is the best image so"),
        (fitting, "towards_data", "Interrupted at iteration 10"),
        (Colour, "save", "Interrupted after the image was written."),
    ],
)
def test_ctrl_c_keeps_what_there_is(
    place, name, said, photo, tmp_path, monkeypatch, capsys
):
    whole = getattr(place, name)

    def press(*given):
        if place is fitting:  # as from within it, which keeps the average
            raise KeyboardInterrupt
        if place is Colour or given[0].iteration == 4:
            signal.raise_signal(signal.SIGINT)
        return whole(*given)

    monkeypatch.setattr(place, name, press)
    assert run(photo, "--rate", 0.5, *SHORT, "--output", tmp_path) == 130
    assert said in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == PHOTO


def test_trained_priors_start_from_the_weights_for_the_data(tmp_path, capsys):
    """Those named like the task were taken, which others are ahead of."""
    data = ("ellipses", "--size", "16", "--views", "12", "--arc", "90")
    educated = ("--prior", "edip", "--iterations", 1, "--output", tmp_path)
    assert run(*data, *educated) == 0
    assert "from the weights: ct-limited\n" in capsys.readouterr().out


def test_a_folder_named_as_weights_does_not_stand_in_their_way(tmp_path, monkeypatch):
    """`svdinv reconstruct` looked in it for the weights that are its own default."""
    (tmp_path / "ct").mkdir()
    monkeypatch.chdir(tmp_path)
    small = ("ellipses", "--size", "16", "--views", "4")
    assert main(["reconstruct", *small, "--no-baselines", "--output", "out"]) == 0
    assert run(*small, "--prior", "edip", "--iterations", "1", "--output", "out") == 0


def test_a_grey_picture_is_fitted_in_one_channel(tmp_path, monkeypatch):
    from svdinv.unroll import untrained

    seen = []

    class Watched(untrained.Fitting):
        def __init__(self, problem, generator, *rest, **options):
            seen.append((problem.y.shape, generator.channels))
            super().__init__(problem, generator, *rest, **options)

    monkeypatch.setattr(untrained, "Fitting", Watched)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 33)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    out = tmp_path / "out.png"
    assert run(tmp_path / "grey.png", "--no-truth", *SHORT, "--output", out) == 0
    assert seen == [((1, 32, 33), 1)]
    with Image.open(out) as found:
        colours = np.asarray(found.convert("RGB"))
    assert colours.shape == (32, 33, 3)
    assert (colours == colours[..., :1]).all()


def test_a_fit_that_breaks_down_says_so(photo, tmp_path, capsys):
    broken = ("--learning-rate", 1e30, "--iterations", 60, "--threads", 1)
    assert run(photo, *broken, "--output", tmp_path) == 1
    assert "Broken down at iteration" in capsys.readouterr().out


def test_an_error_of_a_comparison_is_not_that_of_an_argument(photo, monkeypatch):
    def compare(*arguments, **options):
        raise ValueError("not of the user")

    monkeypatch.setattr("svdinv.unroll.evaluation.compare", compare)
    with pytest.raises(ValueError, match="not of the user"):
        run(photo, *SHORT)


def test_a_first_image_that_is_not_finite_is_said(photo, capsys):
    assert run(photo, *SHORT, "--tv", "1e300") == 2
    assert "is not finite" in capsys.readouterr().err


def test_an_educated_prior(photo, tmp_path, capsys):
    """Trained as any network, then fitted."""
    weights = tmp_path / "educated"
    network = {"kind": "Skip", "source": "adjoint", "bounded": "false"}
    small = {"features": "[4, 4]", "skips": "[2, 0]"}
    changes = [f"network.{k}={v}" for k, v in {**network, **small}.items()]
    changes += ["task.patch=16", "training.batch=1", "task.validation=1"]
    flags = [flag for change in changes for flag in ("--set", change)]
    assert (
        main(["train", "colour", "--steps", "2", "--output", str(weights), *flags]) == 0
    )
    options = ("--weights", weights, "--trained", "decoder", "--output", tmp_path)
    assert run(photo, *options, *SHORT) == 0
    capsys.readouterr()
    assert run(photo, "--weights", weights, "--prior", "dip") == 2
    assert "does not apply to --prior dip" in capsys.readouterr().err
    assert run(photo, "--weights", "ct") == 2
    assert "these are for ct" in capsys.readouterr().err


def test_a_generator_of_ones_own(photo, tmp_path):
    prior = "svdinv.unroll.networks:Skip"
    assert run(photo, "--prior", prior, *SHORT, "--output", tmp_path) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prior", "magic"), "low-rank-and-sparse, edip, or package.module:Class"),
        (("--prior", "bilinear"), "bilinear is for series"),
        (("--prior", "os.path:join"), "is not a subclass of Generator"),
        (("--low-rank", "1"), "argument --low-rank: does not apply"),
        (("--stop", "discrepancy"), "needs --deviation"),
        (("--deviation", "0.1"), "argument --deviation: does not apply"),
        (("--stop", "sure", "--deviation", "25"), "--deviation: 25 exceeds all data"),
        (("--stop", "variance", "--iterations", "19"), "iterations must be at least"),
        (("--no-start",), "argument --start: does not apply"),
        (("--penalty", "1"), "argument --penalty"),
        (("--trained", "singular-values"), "needs --weights"),
        (("--prior", "deep-decoder", "--trained", "decoder"), "has no encoder"),
        (("--iterations", "0"), "must be at least 1"),
        (("--tv", "-1"), "must not be negative"),
        (("--learning-rate", "0"), "must be a positive number"),
        (("--input-noise", "-1"), "must not be negative"),
        (("--mask", "radial"), "argument --mask"),
        (("--checkpoint", "."), "argument --checkpoint: . is a folder"),
        (("--output", "image.tiff"), "argument --output: must be a folder or end in"),
    ],
)
def test_refusals(arguments, message, photo, tmp_path, capsys):
    assert run(photo, "--output", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_fit(photo, tmp_path, capsys):
    state = tmp_path / "state.safetensors"
    state.write_bytes(b"nothing")
    arguments = (*SHORT, "--checkpoint", state, "--output", tmp_path / "out")
    assert run(photo, *arguments) == 2
    assert "is not a checkpoint" in capsys.readouterr().err


def test_nothing_of_another_command_is_replaced(photo, tmp_path, monkeypatch):
    """All in the default folder, one after the other, and each under its own names."""
    monkeypatch.chdir(tmp_path)
    written = {}
    for command in (
        ["reconstruct", "--no-baselines"],
        ["reconstruct", "--no-baselines", "--method", "zero-filled"],
        ["fit", *SHORT],
        ["fit", *SHORT, "--prior", "deep-decoder"],
    ):
        name, *options = map(str, command)
        assert main([name, str(photo), "--rate", "0.5", *options]) == 0
        found = {p.name: p.read_bytes() for p in Path("svdinv-output").iterdir()}
        assert written.items() <= found.items()
        assert len(found) > len(written)
        written = found
    assert "photo-zero-filled.png" in written
