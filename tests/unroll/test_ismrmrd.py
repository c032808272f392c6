"""ISMRMRD files, written by the package of the standard."""

from __future__ import annotations

import numpy as np
import pytest
from mri_reference import fourier

from svdinv.unroll.formats.ismrmrd import read_ismrmrd

h5py = pytest.importorskip("h5py")
ismrmrd = pytest.importorskip("ismrmrd")

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions>
  <H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace>
   <matrixSize><x>{width}</x><y>{height}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{encoded}</x><y>300</y><z>8</z></fieldOfView_mm>
  </encodedSpace>
  <reconSpace>
   <matrixSize><x>{columns}</x><y>{height}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{kept}</x><y>300</y><z>8</z></fieldOfView_mm>
  </reconSpace>
  <encodingLimits>{limits}</encodingLimits>
  <trajectory>{trajectory}</trajectory>
 </encoding>
</ismrmrdHeader>
"""
LIMITS = (
    "<kspace_encoding_step_1><minimum>0</minimum><maximum>{maximum}</maximum>"
    "<center>{centre}</center></kspace_encoding_step_1>"
)


def header(height, width, *, centre=None, trajectory="cartesian", oversampling=1):
    limits = ""
    if centre is not None:
        limits = LIMITS.format(maximum=height - 1, centre=centre)
    return HEADER.format(
        height=height,
        width=width,
        columns=width // oversampling if isinstance(width, int) else width,
        encoded=360 * oversampling,
        kept=360,
        limits=limits,
        trajectory=trajectory,
    )


def readout(samples, step, *, centre=None, flags=(), **counters):
    acquisition = ismrmrd.Acquisition.from_array(samples.astype(np.complex64))
    acquisition.center_sample = samples.shape[1] // 2 if centre is None else centre
    acquisition.idx.kspace_encode_step_1 = step
    for name, value in counters.items():
        setattr(acquisition.idx, name, value)
    for flag in flags:
        acquisition.set_flag(flag)
    return acquisition


def write(path, xml, readouts, group="dataset"):
    with ismrmrd.Dataset(str(path), group, mode="w") as file:
        file.write_xml_header(xml.encode())
        for acquisition in readouts:
            file.append_acquisition(acquisition)
    return path


@pytest.fixture
def kspace(rng):
    """Of 3 frames, 2 coils, 6 lines and 8 columns."""
    parts = rng.standard_normal((2, 3, 2, 6, 8)).astype(np.float32)
    return parts[0] + 1j * parts[1]


def lines(kspace, counter="phase", **others):
    """All readouts, the last lines of the last frames first."""
    frames, _, height, _ = kspace.shape
    for t in reversed(range(frames)):
        for row in reversed(range(height)):
            yield readout(kspace[t, :, row], row, **{counter: t}, **others)


@pytest.mark.parametrize("counter", ["phase", "repetition"])
def test_every_readout_finds_its_place(tmp_path, kspace, counter):
    path = write(tmp_path / "a.h5", header(6, 8, centre=3), lines(kspace, counter))
    for time in (None, counter):
        read = read_ismrmrd(path, time=time)
        assert read.kspace.dtype == np.complex64
        assert read.mask.dtype == bool
        np.testing.assert_array_equal(read.kspace, kspace)
        assert read.mask.shape == (3, 6, 8)
        assert read.mask.all()
        assert "<ismrmrdHeader" in read.header


def test_what_is_not_measured_is_masked(tmp_path, kspace, rng):
    kept = rng.random((3, 6)) < 0.5
    kept[:, 3] = True
    readouts = [
        readout(kspace[t, :, row], row, phase=5 * t)  # counts with gaps
        for t, row in zip(*np.nonzero(kept), strict=True)
    ]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.mask, np.repeat(kept[..., None], 8, axis=-1))
    np.testing.assert_array_equal(read.kspace, kspace * read.mask[:, None])


@pytest.mark.parametrize("centre", [0, 1, 3])
def test_partial_fourier_goes_by_the_centre_of_the_limits(tmp_path, kspace, centre):
    """Lines are numbered from the first one that is measured."""
    skipped = 3 - centre
    readouts = [readout(kspace[0, :, row], row - skipped) for row in range(skipped, 6)]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=centre), readouts))
    assert not read.mask[0, :skipped].any()
    np.testing.assert_array_equal(read.kspace[0, :, skipped:], kspace[0, :, skipped:])


@pytest.mark.parametrize("lost", [1, 3])
def test_asymmetric_echo_goes_by_its_centre_sample(tmp_path, kspace, lost):
    readouts = [
        readout(kspace[0, :, row, lost:], row, centre=4 - lost) for row in range(6)
    ]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    assert not read.mask[..., :lost].any()
    assert read.mask[..., lost:].all()
    np.testing.assert_array_equal(read.kspace[0, ..., lost:], kspace[0, ..., lost:])
    assert not read.kspace[..., :lost].any()


def test_a_readout_that_fills_the_line_needs_no_centre_sample(tmp_path, kspace):
    readouts = [readout(kspace[0, :, row], row, centre=0) for row in range(6)]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.kspace[0], kspace[0])


def test_phase_resolution_below_the_matrix_leaves_a_border(tmp_path, kspace):
    """Lines are numbered from 0 and centred by the limits, as in OCMR."""
    readouts = [readout(kspace[0, :, row], row) for row in range(6)]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(10, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.kspace[0, :, 2:8], kspace[0])
    assert not read.mask[0, :2].any()
    assert not read.mask[0, 8:].any()


def test_samples_to_discard_are_discarded(tmp_path, kspace):
    readouts = [readout(kspace[0, :, row], row) for row in range(6)]
    for acquisition in readouts:
        acquisition.discard_pre, acquisition.discard_post = 2, 1
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.mask[0, 0], [0, 0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(read.kspace[0], kspace[0] * read.mask[0])


@pytest.mark.parametrize(("before", "after"), [(0, 10), (0, 8), (9, 0), (5, 3)])
def test_a_readout_of_which_nothing_is_left_is_refused(tmp_path, kspace, before, after):
    """More than all, too: a count from behind the first sample would wrap round."""
    readouts = list(lines(kspace))
    readouts[2].discard_pre, readouts[2].discard_post = before, after
    path = write(tmp_path / "a.h5", header(6, 8, centre=3), readouts)
    with pytest.raises(ValueError, match=r"readout 2 has 8 samples.*none is left"):
        read_ismrmrd(path)


def test_repeated_lines_are_averaged(tmp_path, kspace):
    twice = [readout(kspace[0, :, 2], 2), readout(kspace[1, :, 2], 2, average=1)]
    once = [readout(kspace[2, :, 4], 4)]
    path = write(tmp_path / "a.h5", header(6, 8, centre=3), twice + once)
    read = read_ismrmrd(path)
    mean = (kspace[0, :, 2] + kspace[1, :, 2]) / 2
    np.testing.assert_allclose(read.kspace[0, :, 2], mean, rtol=1e-6)
    np.testing.assert_array_equal(read.kspace[0, :, 4], kspace[2, :, 4])


@pytest.mark.parametrize(
    "name",
    [
        "NOISE_MEASUREMENT",
        "PARALLEL_CALIBRATION",
        "NAVIGATION_DATA",
        "PHASECORR_DATA",
        "HPFEEDBACK_DATA",
        "DUMMYSCAN_DATA",
        "RTFEEDBACK_DATA",
        "SURFACECOILCORRECTIONSCAN_DATA",
        "PHASE_STABILIZATION_REFERENCE",
        "PHASE_STABILIZATION",
    ],
)
def test_readouts_of_no_image_are_left_out(tmp_path, kspace, name):
    flag = getattr(ismrmrd, f"ACQ_IS_{name}")
    aside = readout(np.ones((5, 99)), 77, flags=[flag], phase=9)
    readouts = [aside, *lines(kspace), aside]
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.kspace, kspace)


def test_readouts_of_calibration_and_image_are_kept(tmp_path, kspace):
    flags = [
        ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
        ismrmrd.ACQ_LAST_IN_MEASUREMENT,
    ]
    readouts = lines(kspace, flags=flags)
    read = read_ismrmrd(write(tmp_path / "a.h5", header(6, 8, centre=3), readouts))
    np.testing.assert_array_equal(read.kspace, kspace)


@pytest.mark.parametrize("counter", ["slice", "set", "contrast"])
def test_counters_are_selected(tmp_path, kspace, counter):
    readouts = [*lines(kspace, **{counter: 0}), *lines(2 * kspace, **{counter: 4})]
    path = write(tmp_path / "a.h5", header(6, 8, centre=3), readouts)
    with pytest.raises(ValueError, match=f"select one {counter} of 0, 4"):
        read_ismrmrd(path)
    read = read_ismrmrd(path, select={counter: 4})
    np.testing.assert_array_equal(read.kspace, 2 * kspace)
    with pytest.raises(ValueError, match=f"no {counter} 1, but 0, 4"):
        read_ismrmrd(path, select={counter: 1})


def test_phases_and_repetitions(tmp_path, kspace):
    readouts = [*lines(kspace), *lines(2 * kspace, repetition=1)]
    path = write(tmp_path / "a.h5", header(6, 8, centre=3), readouts)
    with pytest.raises(ValueError, match="set one as time"):
        read_ismrmrd(path)
    with pytest.raises(ValueError, match="select one repetition of 0, 1"):
        read_ismrmrd(path, time="phase")
    read = read_ismrmrd(path, time="phase", select={"repetition": 1})
    np.testing.assert_array_equal(read.kspace, 2 * kspace)
    read = read_ismrmrd(path, select={"phase": 2})
    np.testing.assert_array_equal(read.kspace[1], 2 * kspace[2])


@pytest.mark.parametrize("width", [32, 30])
def test_oversampling_is_cropped(tmp_path, rng, width):
    """The image of twice the width, cropped, is the image."""
    image = np.zeros((2, 6, width), np.complex128)
    half = width // 2
    start = half - half // 2
    image[..., start : start + half] = rng.standard_normal((2, 6, half))

    xml = header(6, width, centre=3, oversampling=2)
    path = write(tmp_path / "a.h5", xml, lines(fourier(image)[None]))
    read = read_ismrmrd(path)
    assert read.mask.shape == (1, 6, half)
    assert read.mask.all()
    expected = fourier(image[..., start : start + half])
    np.testing.assert_allclose(read.kspace[0], expected, atol=1e-5)
    whole = read_ismrmrd(path, crop_readout=False)
    np.testing.assert_allclose(whole.kspace[0], fourier(image), atol=1e-5)


def test_the_mask_of_an_asymmetric_echo_is_cropped_too(tmp_path):
    xml = header(4, 32, centre=2, oversampling=2)
    readouts = [readout(np.ones((1, 24)), row, centre=8) for row in range(4)]
    read = read_ismrmrd(write(tmp_path / "a.h5", xml, readouts))
    # Of 32 columns the first 8 are missing; of 16, the first 4.
    np.testing.assert_array_equal(read.mask[0, 0], np.arange(16) >= 4)
    assert not read.kspace[..., :4].any()


def test_another_group(tmp_path, kspace):
    """And without limits, where the middle line is the centre."""
    path = write(tmp_path / "a.h5", header(6, 8), lines(kspace), group="scan")
    np.testing.assert_array_equal(read_ismrmrd(path, group="scan").kspace, kspace)
    with pytest.raises(ValueError, match="has no dataset"):
        read_ismrmrd(path)


DAMAGED = {
    "the XML header is damaged": lambda k: (header(6, 8)[:300], lines(k)),
    "no encoding/encodedSpace/matrixSize/x": lambda k: ("<a/>", lines(k)),
    "has '1e999' as encoding/encodedSpace/matrixSize/x": lambda k: (
        header(6, "1e999"),
        lines(k),
    ),
    "has 'six' as encoding/encodedSpace/matrixSize/y": lambda k: (
        header("six", 8),
        lines(k),
    ),
    "trajectory is radial": lambda k: (header(6, 8, trajectory="radial"), lines(k)),
    "encoded matrix is 0x8": lambda k: (header(0, 8), lines(k)),
    "no readout of an image": lambda k: (header(6, 8), lines(k, flags=[19])),
    "in line 6, outside the 6": lambda k: (header(6, 8), [readout(k[0, :, 0], 6)]),
    "in line 7, outside the 6": lambda k: (
        header(6, 8, centre=1),
        [readout(k[0, :, 0], 5)],
    ),
    "columns -1 to 5, outside": lambda k: (
        header(6, 8),
        [readout(k[0, :, 0, 1:], 0, centre=5)],
    ),
    "columns 2 to 8, outside": lambda k: (
        header(6, 8),
        [readout(k[0, :, 0, 1:], 0, centre=2)],
    ),
    "reversed": lambda k: (header(6, 8), lines(k, flags=[ismrmrd.ACQ_IS_REVERSE])),
    "number of channels": lambda k: (
        header(6, 8),
        [readout(k[0, :, 0], 0), readout(k[0, :1, 0], 1)],
    ),
    "three-dimensional": lambda k: (
        header(6, 8),
        [readout(k[0, :, 0], 0), readout(k[0, :, 0], 0, kspace_encode_step_2=1)],
    ),
    "must be finite": lambda k: (header(6, 8), [readout(np.nan * k[0, :, 0], 0)]),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, kspace, message):
    path = write(tmp_path / "broken.h5", *DAMAGED[message](kspace))
    with pytest.raises(ValueError, match=rf"broken\.h5.*{message}"):
        read_ismrmrd(path)


def test_a_readout_of_the_wrong_length_is_named(tmp_path, kspace):
    path = write(tmp_path / "a.h5", header(6, 8), lines(kspace))
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][4]
        record["data"] = record["data"][:-3]
        file["dataset/data"][4] = record
    with pytest.raises(ValueError, match=r"a\.h5: readout 4 has 29 numbers.* 32"):
        read_ismrmrd(path)


@pytest.mark.parametrize("mode", ["embedded", "separate"])
def test_lines_for_calibration_that_belong_to_the_image(tmp_path, kspace, mode):
    xml = header(6, 8).replace(
        "</trajectory>",
        "</trajectory><parallelImaging><accelerationFactor>"
        "<kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{mode}</calibrationMode></parallelImaging>",
    )
    readouts = [
        readout(kspace[0, :, row], row, flags=[flag] if row == 3 else ())
        for row in (0, 2, 3, 4)
        for flag in [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION]
    ]
    found = read_ismrmrd(write(tmp_path / "a.h5", xml, readouts))
    rows = [0, 2, 3, 4] if mode == "embedded" else [0, 2, 4]
    np.testing.assert_array_equal(np.flatnonzero(found.mask[0].all(-1)), rows)


@pytest.mark.parametrize("share", [0, 0.2, 0.9])
def test_a_truncated_file_is_named(tmp_path, kspace, share):
    path = write(tmp_path / "a.h5", header(6, 8), lines(kspace))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cannot read .*a\.h5 as an ISMRMRD file"):
        read_ismrmrd(path)


def test_other_hdf5_files_are_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dataset/xml"] = "<a/>"
        file["dataset/data"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"must have the fields head, traj and data"):
        read_ismrmrd(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["dataset/data"]
        head = np.dtype([("version", "u2")])
        file["dataset/data"] = np.zeros(3, np.dtype([("head", head), ("data", "f4")]))
    with pytest.raises(ValueError, match=r"the readouts lack active_channels"):
        read_ismrmrd(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="there is no file"):
        read_ismrmrd(tmp_path / "missing.h5")


@pytest.mark.parametrize(
    "arguments",
    [
        {"time": "slice"},
        {"select": {"average": 1}},
        {"time": "phase", "select": {"phase": 1}},
        {"select": {"phase": 1, "repetition": 1}},
    ],
)
def test_arguments_are_checked(tmp_path, kspace, arguments):
    path = write(tmp_path / "a.h5", header(6, 8), lines(kspace))
    with pytest.raises(ValueError, match=r"^(time|select) "):
        read_ismrmrd(path, **arguments)
