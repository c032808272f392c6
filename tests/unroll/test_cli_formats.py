"""Files of scanners and of other programs on the command line."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hdf5_files import write_h5
from test_formats import AFFINE, dicom_folder, write_bart
from test_ismrmrd import header, lines
from test_ismrmrd import write as write_ismrmrd

from svdinv.cli import main
from svdinv.unroll.display.pictures import save_animation
from svdinv.unroll.formats.bart import read_bart
from svdinv.unroll.formats.nifti import read_nifti, save_nifti
from svdinv.unroll.formats.scans import Geometry
from svdinv.unroll.formats.series import read_series
from svdinv.unroll.operators import MRI
from svdinv.unroll.tasks import reading
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.measured_files import read_measurement

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
pytestmark = pytest.mark.usefixtures("small_methods")

SIZE = 24


@pytest.fixture
def hearts():
    """Three frames, as a scanner saves them."""
    return np.rint(1000 * np.abs(unseen_series(0, 3, SIZE))).astype(np.uint16)


@pytest.fixture
def raw():
    """k-space of three frames and two coils, and what sampled it."""
    x = unseen_series(0, 3, SIZE)
    mask = np.zeros(x.shape, bool)
    mask[:, ::2] = mask[:, 8:16] = True
    return MRI(mask, coil_maps(2, SIZE, SIZE, seed=0))(x).astype(np.complex64), mask


def run(*words):
    return main([str(word) for word in words])


def reconstruct(*words):
    return run("reconstruct", *words, "--no-baselines")


def test_dicom_to_nifti_stays_where_it_is(tmp_path, hearts):
    folder = tmp_path / "scan"
    for i, z in enumerate((10.0, 18.0)):
        dicom_folder(
            folder,
            hearts + i,
            f"{i}-",
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[z, -120.0, 30.0],
        )
    out = tmp_path / "out.nii.gz"
    options = ["--slice", 0, "--mask", "vista", "--acceleration", 1]
    assert reconstruct(folder, *options, "--output", out) == 0
    scan = read_nifti(out)
    assert (tmp_path / "out-panel.png").exists()
    assert (tmp_path / "out-animation.gif").exists()
    # Sampled completely, so it is what the scanner saw, in its units.
    truth = hearts + (0 if scan.geometry.affine[0, 3] == -18 else 1)
    np.testing.assert_allclose(scan.array, truth, atol=0.02 * hearts.max())
    # Along the rows to the front, along the columns to the feet.
    expected = [[0, 0], [-1.25, 0], [0, -1.5]]
    np.testing.assert_allclose(scan.geometry.affine[:3, :2], expected, atol=1e-5)
    assert scan.geometry.affine[1:3, 3].tolist() == [120, 30]
    assert scan.geometry.seconds == pytest.approx(0.04)


def test_nifti_with_a_flipped_affine_keeps_it(tmp_path, hearts):
    path = tmp_path / "a.nii"
    save_nifti(path, hearts, Geometry(AFFINE, 0.05))
    assert reconstruct(path, "--output", tmp_path / "b.nii") == 0
    np.testing.assert_allclose(read_nifti(tmp_path / "b.nii").geometry.affine, AFFINE)
    assert run("data", "write", path, "--output", tmp_path / "c.h5") == 0
    assert reconstruct(tmp_path / "c.h5", "--output", tmp_path / "d.nii") == 0
    found = read_nifti(tmp_path / "d.nii").geometry
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
    assert found.seconds == pytest.approx(0.05)


def test_bart_to_bart(tmp_path, raw, capsys):
    kspace, _ = raw
    dims = (SIZE, SIZE, 1, 2, *[1] * 6, 3)
    path = write_bart(tmp_path / "ksp.cfl", kspace.T.reshape(dims))
    assert run("data", "inspect", path) == 0
    shown = capsys.readouterr().out
    assert "BART, task cine" in shown
    assert "--slice --holds, because it is measured data" in shown
    assert reconstruct(path, "--output", tmp_path / "out.cfl") == 0
    assert "as measured" in capsys.readouterr().out
    found = read_bart(tmp_path / "out.cfl").array
    truth = unseen_series(0, 3, SIZE)
    error = np.linalg.norm(np.abs(found) - np.abs(truth)) / np.linalg.norm(truth)
    assert error < 0.3


def measured_files(folder, raw):
    kspace, mask = raw
    yield write_ismrmrd(
        folder / "i.h5",
        header(SIZE, SIZE, centre=SIZE // 2),
        (r for r in lines(kspace) if mask[0, r.idx.kspace_encode_step_1].any()),
    )
    columns = mask[0, :, 0]
    turned = np.swapaxes(kspace[:1], -1, -2)
    yield write_h5(
        folder / "f.h5",
        kspace=turned,
        mask=columns,
        reconstruction_rss=np.ones((1, 9, 9)),
    )


def test_measured_k_space_of_scanners(tmp_path, raw, capsys):
    """Estimated maps, and what was sampled; no truth, no sampling."""
    for path, frames in zip(measured_files(tmp_path, raw), (3, 1), strict=True):
        assert reconstruct(path, "--output", tmp_path / "out.npy") == 0
        printed = capsys.readouterr().out
        assert "as measured" in printed
        assert "PSNR" not in printed
        assert read_series(tmp_path / "out.npy").shape == (frames, SIZE, SIZE)
        for words in (["--mask", "vista"], ["--coils", 2], ["--time-axis", 2]):
            assert reconstruct(path, *words) == 2
            assert f"{words[0]}: does not apply" in capsys.readouterr().err
        assert run("data", "write", path, "--output", tmp_path / "w.h5") == 0
        capsys.readouterr()
        _, problem = read_measurement(tmp_path / "w.h5")
        assert problem.A.maps.shape == (2, SIZE, SIZE)
        assert problem.A.mask.mean() == pytest.approx(raw[1].mean(), abs=1e-6)
        assert problem.truth is None


def test_inspect_lists_the_slices(tmp_path, hearts, capsys):
    for i, z in enumerate((10.0, 18.0)):
        place = [0.0, 0.0, z]
        dicom_folder(tmp_path / "scan", hearts, f"{i}-", ImagePositionPatient=place)
    assert run("data", "inspect", tmp_path / "scan") == 0
    shown = capsys.readouterr().out
    assert "DICOM, task cine, 2 slices" in shown
    assert "1          series 7 (cine) at 18.0 mm, 3 frames" in shown
    assert "--slice" in shown
    assert reconstruct(tmp_path / "scan") == 2
    assert "choose one by slice, 0 to 1 (0: series 7" in capsys.readouterr().err
    assert run("data", "inspect", tmp_path / "scan", "--slice", 1) == 0
    shown = capsys.readouterr().out
    assert "pixels 1.5 x 1.25 mm, the first at (0.0, 0.0, 18.0), 40 ms" in shown
    assert "--slice --mask --acceleration --coils --noise" in shown
    assert "--size" not in shown
    assert run("data", "inspect", tmp_path / "scan", "--slice", 2) == 2
    assert "argument --slice: must lie in [0, 1]" in capsys.readouterr().err


def test_what_is_no_scan_is_refused_in_one_line(tmp_path, hearts, one_line):
    save_nifti(tmp_path / "a.nii", hearts)
    (tmp_path / "cut.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:2000])
    (tmp_path / "a.cfl").touch()
    (tmp_path / "a.dcm").write_text("no image")
    (tmp_path / "none").mkdir()
    for words, complaint in (
        ([tmp_path / "cut.nii"], "too small to hold"),
        ([tmp_path / "a.cfl"], "no file"),
        ([tmp_path / "a.dcm"], "as a DICOM file"),
        ([tmp_path / "none"], "is a folder"),
        ([tmp_path / "a.nii", "--key", "x"], "--key: does not apply"),
        ([tmp_path / "a.nii", "--time-axis", "1"], "--time-axis: must be 3, or 2"),
        ([tmp_path / "a.nii", "--slice", "-1"], "--slice: must lie in [0, 65535]"),
        ([tmp_path / "a.nii", "--output", tmp_path / "b.gz"], ".nii.gz"),
        (["cine", "--holds", "image"], "--holds: does not apply"),
        (["coffee", "--movie", "gif"], "--movie: does not apply"),
    ):
        assert reconstruct(*words) == 2, words
        assert complaint in one_line(), words


def test_an_mp4_needs_ffmpeg(tmp_path, hearts, monkeypatch, one_line, capsys):
    save_nifti(tmp_path / "a.nii", hearts)
    words = [tmp_path / "a.nii", "--movie", "mp4", "--output", tmp_path / "out"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reconstruct(*words) == 2
    assert "--movie: mp4 needs the program ffmpeg" in one_line()
    program = tmp_path / "ffmpeg"
    # It writes its arguments, and what it is given, to the file it is to make.
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\necho "$@" > "${last#file:}"\n'
        '/bin/cat >> "${last#file:}"\n'
    )
    program.chmod(0o755)
    assert reconstruct(*words) == 0
    written = (tmp_path / "out" / "a-network-animation.mp4").read_bytes()
    said, _, pixels = written.partition(b"\n")
    width, height = map(int, said.split(b"-video_size ")[1].split()[0].split(b"x"))
    assert len(pixels) == 3 * width * height
    assert not (tmp_path / "out" / "a-network-animation.gif").exists()
    program.write_text('#!/bin/sh\necho "no such encoder" >&2\nexit 1\n')
    with pytest.raises(OSError, match="no such encoder"):
        save_animation(tmp_path / "b.mp4", np.zeros((2, 8, 8)), seconds=0.1)
    assert sorted(f.name for f in tmp_path.glob("*.mp4*")) == []


def test_of_several_inputs_one_is_in_memory(tmp_path, monkeypatch):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", unseen_series(0, 3, SIZE))
    before: list[weakref.ref] = []
    inner = reading.Source.read
    gc.freeze()  # what frameworks keep of earlier tests takes seconds to go through

    def watched(*arguments):
        gc.collect()
        assert all(each() is None for each in before)
        given = inner(*arguments)
        before.append(weakref.ref(given.image))
        return given

    monkeypatch.setattr(reading.Source, "read", watched)
    files = [tmp_path / f"{name}.npy" for name in "abc"]
    assert reconstruct(*files, "--output", tmp_path / "out") == 0
    assert len(before) == 6  # all are checked before the first is reconstructed


def test_evaluate_takes_a_folder_of_dicom_for_one_series(tmp_path, hearts, capsys):
    folder = dicom_folder(tmp_path / "scan", hearts)
    words = ["evaluate", "cine", "--images", folder, "--masks", "radial"]
    assert run(*words, "--no-baselines", "--output", tmp_path / "out") == 0
    assert "on 1 image, " in capsys.readouterr().out


def test_info_lists_the_weights(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "weights cine" in shown
    assert "weights colour          TLR with" in shown
    assert "MB, for colour" in shown


@pytest.mark.parametrize("coils", [1, 2])
def test_complete_kspace_is_undersampled(tmp_path, coils, capsys):
    """The truth is the image of all samples, in the units of the file."""
    x = 3 * unseen_series(0, 1, 96)[0]
    maps = coil_maps(coils, 96, 96, seed=0)
    kspace = MRI(np.ones((1, 96, 96), bool), maps)(x[None]).astype(np.complex64)
    image = np.linalg.norm(maps * x, axis=0)[None]
    given = {"reconstruction_rss": image.astype(np.float32)}
    write_h5(tmp_path / "all.h5", {}, kspace=kspace, **given)
    options = ("--mask", "vista", "--acceleration", "4")
    assert run("data", "inspect", tmp_path / "all.h5") == 0
    assert "options    --slice --mask --acceleration," in capsys.readouterr().out
    written = tmp_path / "some.h5"
    assert run("data", "write", tmp_path / "all.h5", *options, "--output", written) == 0
    _, problem = read_measurement(written)
    assert problem.A.mask.mean() == pytest.approx(0.25)
    assert problem.A.mask.all(axis=-2).any()  # lines of phase encoding, of fastMRI
    kept = problem.A.project_to_samples(kspace if coils > 1 else kspace[:, 0])
    np.testing.assert_allclose(problem.y * problem.scale, kept, atol=1e-5)
    found, expected = np.abs(problem.truth[0]) * problem.scale, np.abs(x)
    limit = 1e-5 if coils == 1 else 0.05 * expected.max()
    np.testing.assert_allclose(found, expected, atol=limit)
    # The maps, too, are those of all samples, so that the phase of the truth is known.
    np.testing.assert_allclose(problem.A(problem.truth), problem.y, atol=0.05)
    assert reconstruct(tmp_path / "all.h5", *options, "--output", tmp_path / "a") == 0
    assert "SNR / dB" in capsys.readouterr().out
    # What is undersampled already is not undersampled again.
    mask = problem.A.mask[0, 0].astype(np.uint8)
    write_h5(tmp_path / "less.h5", {}, kspace=kspace * mask, mask=mask, **given)
    capsys.readouterr()
    assert reconstruct(tmp_path / "less.h5", *options, "--output", tmp_path / "b") == 2
    assert "--mask: does not apply" in capsys.readouterr().err
