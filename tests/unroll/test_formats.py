"""Series and k-space in the files of scanners and of other programs."""

from __future__ import annotations

import gzip
import struct
import sys

import h5py
import numpy as np
import pytest
from array_frameworks import draw
from hdf5_files import read_input, write_h5
from PIL import Image
from test_ismrmrd import header, lines
from test_ismrmrd import write as write_ismrmrd

from svdinv.unroll.data.masks import read_mask
from svdinv.unroll.formats import dicom
from svdinv.unroll.formats.bart import read_bart, read_cfl, save_cfl
from svdinv.unroll.formats.nifti import read_nifti, save_nifti
from svdinv.unroll.formats.scans import Geometry, SeveralSlices
from svdinv.unroll.formats.series import save_series
from svdinv.unroll.formats.table import FORMATS, format_of
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.task import CineOptions
from svdinv.unroll.tasks.reading import source_of

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

SIZE = (4, 18, 22)


@pytest.fixture
def series(rng):
    return rng.integers(0, 1000, SIZE).astype(np.uint16)


# DICOM


def dicom_dataset(pixels, **values):
    """A frame, or the frames of one file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.SeriesNumber = 7
    dataset.SeriesDescription = "cine"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-100.0, -120.0, 30.0]
    dataset.PixelSpacing = [1.5, 1.25]  # between rows, between columns
    dataset.SliceThickness = 8
    dataset.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def dicom_folder(folder, series, names=None, **values):
    """Frames in files whose names are in no order that helps."""
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(0).permutation(len(series))
    for t, frame in enumerate(series):
        own = {"TriggerTime": 40.0 * t, "InstanceNumber": t + 1, **values}
        dataset = dicom_dataset(frame, **own)
        prefix = names or "IM"
        dataset.save_as(folder / f"{prefix}{order[t]}")
    return folder


def sequence(*items):
    """A sequence of DICOM, of dicts; of a value that is a dict, another one."""
    made = []
    for item in items:
        made.append(pydicom.Dataset())
        for name, value in item.items():
            value = sequence(value) if isinstance(value, dict) else value
            setattr(made[-1], name, value)
    return pydicom.Sequence(made)


def test_a_dicom_folder_is_sorted_by_trigger_time(tmp_path, series):
    folder = dicom_folder(tmp_path / "scan", series, InstanceNumber=1)
    (folder / "notes.txt").write_text("no image")
    (folder / "empty").touch()
    (folder / "sub").mkdir()
    scan = dicom.read_dicom(folder)
    np.testing.assert_array_equal(scan.array, series)
    assert scan.array.dtype == np.complex64
    assert scan.geometry.seconds == pytest.approx(0.04)
    task, given = read_input(folder)
    assert (task.kind, given.name, given.scale) == ("cine", "scan", series.max())
    assert given.scan.seconds == pytest.approx(0.04)


def test_frames_of_one_heartbeat_each_are_sorted_by_acquisition(tmp_path, series):
    """Their trigger times are about the same, and in no order."""
    folder = tmp_path / "scan"
    folder.mkdir()
    for t, delay in enumerate((612, 610, 615, 608)):
        values = {"InstanceNumber": t, "TriggerTime": delay}
        values["AcquisitionTime"] = f"0959{58 + t // 2:02d}.{5 * (t % 2)}"
        dicom_dataset(series[t], **values).save_as(folder / "dbca"[t])
    scan = dicom.read_dicom(folder)
    np.testing.assert_array_equal(scan.array, series)
    assert scan.geometry.seconds == pytest.approx(0.5)


@pytest.mark.parametrize("times", ["missing", "equal", "repeated"])
def test_without_trigger_times_by_instance_number(tmp_path, series, times):
    folder = tmp_path / "scan"
    folder.mkdir()
    for t, name in zip(range(4), "dbca", strict=True):
        values = {"InstanceNumber": 10 * t}
        if times == "equal":
            values["TriggerTime"] = 0.0
        elif times == "repeated":
            values["TriggerTime"] = (0, 120, 40, 40)[t]
        elif t:  # one alone has it
            values["TriggerTime"] = -40.0 * t
        dicom_dataset(series[t], **values).save_as(folder / name)
    scan = dicom.read_dicom(folder)
    np.testing.assert_array_equal(scan.array, series)
    assert scan.geometry.seconds == 0  # unknown


def test_several_slices_are_listed(tmp_path, series):
    folder = tmp_path / "scan"
    for i, z in enumerate((50.0, 30.0)):
        place = [-100.0, -120.0, z]
        dicom_folder(folder, series + i, f"s{i}-", ImagePositionPatient=place)
    with pytest.raises(SeveralSlices, match="choose one by slice, 0 to 1") as error:
        dicom.read_dicom(folder)
    assert "at 30.0 mm, 4 frames" in error.value.slices[0]
    assert "at 50.0 mm" in error.value.slices[1]
    np.testing.assert_array_equal(dicom.read_dicom(folder, slice=1).array, series)
    assert dicom.read_dicom(folder, slice=1).geometry.affine[2, 3] == 50
    with pytest.raises(ValueError, match=r"slice: must lie in \[0, 1\]"):
        dicom.read_dicom(folder, slice=2)


def test_phases_and_magnitudes_are_apart(tmp_path, series):
    folder = dicom_folder(tmp_path / "scan", series)
    dicom_folder(folder, series + 1, "p", ImageType=["ORIGINAL", "PRIMARY", "P"])
    with pytest.raises(SeveralSlices):
        dicom.read_dicom(folder)


def test_echoes_are_apart_and_copies_are_not_read_again(tmp_path, series):
    folder = dicom_folder(tmp_path / "scan", series, EchoTime=2.0)
    for file in sorted(folder.iterdir()):
        (folder / f"copy of {file.name}").write_bytes(file.read_bytes())
    dicom_folder(folder, series + 1, "e", EchoTime=3.5)
    with pytest.raises(SeveralSlices) as error:
        dicom.read_dicom(folder)
    for label, echo in zip(error.value.slices, ("2 ms", "3.5 ms"), strict=True):
        assert f"of 18x22, echo {echo}, ORIGINAL PRIMARY M, 4 frames" in label
    np.testing.assert_array_equal(dicom.read_dicom(folder, slice=0).array, series)


@pytest.mark.parametrize("same", ["", "1.2.3"])
def test_frames_without_an_identifier_of_their_own_are_kept(tmp_path, series, same):
    folder = dicom_folder(tmp_path / "scan", series, SOPInstanceUID=same)
    np.testing.assert_array_equal(dicom.read_dicom(folder).array, series)


def test_rescaled_values(tmp_path, series):
    dataset = dicom_dataset(series[0], RescaleSlope=0.5, RescaleIntercept=-3)
    dataset.save_as(tmp_path / "a.dcm")
    scan = dicom.read_dicom(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array, series[:1] * 0.5 - 3)


def test_the_affine_is_that_of_ras(tmp_path, series):
    """DICOM's x and y grow to the left and to the back."""
    values = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    dicom_dataset(series[0], **values).save_as(tmp_path / "a.dcm")
    affine = dicom.read_dicom(tmp_path / "a.dcm").geometry.affine
    row, column = 3, 5
    lps = np.array([-100, -120 + 1.25 * column, 30 - 1.5 * row])
    found = affine @ [column, row, 0, 1]
    np.testing.assert_allclose(found, [-lps[0], -lps[1], lps[2], 1])
    np.testing.assert_allclose(np.linalg.norm(affine[:3, 2]), 8)
    assert np.linalg.det(affine[:3, :3]) > 0  # from LPS to RAS is a turn


def test_a_file_of_several_frames(tmp_path, series):
    """As of enhanced MR: what frames have of their own is in groups of their own."""
    measures = {"PixelSpacing": [1.5, 1.25], "SliceThickness": 8}
    own = [
        {
            "PlanePositionSequence": {"ImagePositionPatient": [0.0, 0.0, 10.0]},
            "CardiacSynchronizationSequence": {
                "NominalCardiacTriggerDelayTime": 30.0 * (3 - t)
            },
            "PixelValueTransformationSequence": {
                "RescaleSlope": t + 1,
                "RescaleIntercept": 0,
            },
        }
        for t in range(len(series))
    ]
    dataset = dicom_dataset(
        series,
        **dict.fromkeys(("ImagePositionPatient", *measures)),
        SharedFunctionalGroupsSequence=sequence({"PixelMeasuresSequence": measures}),
        PerFrameFunctionalGroupsSequence=sequence(*own),
    )
    dataset.save_as(tmp_path / "many.dcm")
    scan = dicom.read_dicom(tmp_path / "many.dcm")
    factors = np.arange(1, 5)[:, None, None]
    np.testing.assert_array_equal(scan.array, (series * factors)[::-1])
    assert scan.geometry.seconds == pytest.approx(0.03)
    np.testing.assert_allclose(scan.geometry.affine[:3, 3], [0, 0, 10])


def test_magnitudes_and_phases_of_one_file_are_apart(tmp_path, series):
    usual = ["ORIGINAL", "PRIMARY", "CINE"]
    kinds = [
        {"FrameType": [*usual, "NONE"], "ComplexImageComponent": component}
        for component in ("MAGNITUDE", "PHASE", "MAGNITUDE", "PHASE")
    ]
    own = sequence(*({"MRImageFrameTypeSequence": kind} for kind in kinds))
    values = {"ImageType": [*usual, "MIXED"], "PerFrameFunctionalGroupsSequence": own}
    dicom_dataset(series, **values).save_as(tmp_path / "both.dcm")
    for k in range(2):
        found = dicom.read_dicom(tmp_path / "both.dcm", slice=k).array
        np.testing.assert_array_equal(found, series[k::2])


@pytest.mark.parametrize("name", ["TemporalPositionIndex", "DimensionIndexValues"])
def test_frames_of_a_file_are_in_the_order_it_says(tmp_path, series, name):
    order = [2, 0, 3, 1]
    places = [t + 1 if name.startswith("T") else [1, t + 1] for t in order]
    contents = [{"DimensionIndexValues": [1, 1], name: place} for place in places]
    own = sequence(*({"FrameContentSequence": content} for content in contents))
    dataset = dicom_dataset(series[order], PerFrameFunctionalGroupsSequence=own)
    dataset.save_as(tmp_path / "many.dcm")
    np.testing.assert_array_equal(dicom.read_dicom(tmp_path / "many.dcm").array, series)


def test_the_time_between_frames_of_a_file(tmp_path, series):
    dicom_dataset(series, FrameTime=40.0).save_as(tmp_path / "a.dcm")
    scan = dicom.read_dicom(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array, series)
    assert scan.geometry.seconds == pytest.approx(0.04)


def test_big_endian_is_read(tmp_path, series):
    from pydicom.uid import ExplicitVRBigEndian

    dataset = dicom_dataset(series[0])
    dataset.PixelData = series[0].astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.save_as(tmp_path / "a.dcm")
    scan = dicom.read_dicom(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array, series[:1])


def test_dicom_that_cannot_be_read(tmp_path, series):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    dataset = dicom_dataset(series[0])
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(tmp_path / "packed.dcm")
    cut = dicom_dataset(series[0])
    cut.PixelData = cut.PixelData[:-100]
    cut.save_as(tmp_path / "cut.dcm")
    huge = dicom_dataset(series[0], Rows=65535, Columns=65535)
    huge.save_as(tmp_path / "huge.dcm")
    endless = dicom_dataset(series[0], NumberOfFrames=2_000_000_000)
    endless.save_as(tmp_path / "endless.dcm")
    colour = dicom_dataset(series[0], SamplesPerPixel=3)
    colour.save_as(tmp_path / "colour.dcm")
    table = dicom_dataset(series[0], ModalityLUTSequence=[pydicom.Dataset()])
    table.save_as(tmp_path / "table.dcm")
    negative = dicom_dataset(series[0], PhotometricInterpretation="MONOCHROME1")
    negative.save_as(tmp_path / "negative.dcm")
    (tmp_path / "none.dcm").write_bytes(b"no image at all" * 20)
    report = dicom_dataset(series[0], Rows=None)
    report.save_as(tmp_path / "report.dcm")
    for name, complaint in (
        ("packed", "cannot read .*packed.dcm as a DICOM file"),
        ("cut", "cannot read .*cut.dcm as a DICOM file"),
        ("huge", "huge.dcm: the pixels would take 8.59e[+]09 bytes"),
        ("endless", "endless.dcm has too many frames: 2000000000"),
        ("colour", "in colour"),
        ("table", "table.dcm has a modality lookup table"),
        ("negative", "negative.dcm has the photometric .* MONOCHROME1"),
        ("none", "cannot read .*none.dcm"),
        ("report", "holds no DICOM image"),
        ("missing", "there is no file"),
    ):
        with pytest.raises(ValueError, match=complaint):
            read_input(tmp_path / f"{name}.dcm")


def test_a_damaged_file_in_a_dicom_folder(tmp_path, series):
    folder = dicom_folder(tmp_path / "scan", series)
    (folder / "frame.dcm").touch()
    with pytest.raises(ValueError, match=r"frame\.dcm as a DICOM file: it has no head"):
        dicom.read_dicom(folder)


def test_a_dicom_file_without_a_place(tmp_path, series):
    values = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
    dicom_dataset(series[0], **values).save_as(tmp_path / "a")
    assert dicom.read_dicom(tmp_path / "a").geometry is None


# NIfTI

AFFINE = np.array([[-1.5, 0, 0, 90], [0, 2, 0.5, -126], [0, 0, 8, -72], [0, 0, 0, 1.0]])


def write_nifti(path, array, affine=AFFINE, **values):
    image = nibabel.Nifti1Image(array, affine)
    for name, value in values.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti(tmp_path, rng, suffix):
    array = rng.integers(0, 99, (20, 16, 3, 5)).astype(np.int16)
    path = write_nifti(tmp_path / f"a{suffix}", array)
    with pytest.raises(SeveralSlices, match="3 slices; choose one by slice, 0 to 2"):
        read_nifti(path)
    scan = read_nifti(path, slice=2)
    np.testing.assert_array_equal(scan.array, array[:, :, 2].T)
    corner = scan.geometry.affine @ [4, 3, 0, 1]
    np.testing.assert_allclose(corner, AFFINE @ [4, 3, 2, 1])
    task, given = read_input(path, slice=1)
    assert (task.kind, given.name) == ("cine", "a")
    np.testing.assert_allclose(given.image * given.scale, array[:, :, 1].T, rtol=1e-6)


def test_nifti_is_scaled_as_its_header_says(tmp_path, rng):
    array = rng.integers(0, 99, (20, 16, 1, 5)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii", array)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 0.5, 3.0)  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(read_nifti(path).array, array[:, :, 0].T * 0.5 + 3)


def test_nifti_of_three_axes(tmp_path, rng):
    array = rng.random((20, 16, 5)).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii", array)
    assert read_nifti(path, slice=4).array.shape == (1, 16, 20)
    found = read_nifti(path, time_axis=2).array
    np.testing.assert_array_equal(found, array.T)
    with pytest.raises(ValueError, match="time_axis: must be 3, or 2"):
        read_nifti(path, time_axis=0)
    flat = write_nifti(tmp_path / "b.nii", array[..., 0])
    np.testing.assert_array_equal(read_nifti(flat).array[0], array[..., 0].T)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_nifti_there_and_back(tmp_path, rng, suffix, dtype):
    series = draw(dtype, rng, *SIZE)
    series = series if dtype == "complex64" else abs(series)
    path = tmp_path / f"a{suffix}"
    save_nifti(path, series, Geometry(AFFINE, 0.05))
    scan = read_nifti(path)
    np.testing.assert_array_equal(scan.array, series)
    np.testing.assert_allclose(scan.geometry.affine, AFFINE, atol=1e-5)
    assert scan.geometry.seconds == pytest.approx(0.05)
    first = path.read_bytes()
    save_nifti(path, series, Geometry(AFFINE, 0.05))
    assert path.read_bytes() == first
    save_nifti(path, series)
    assert int(nibabel.load(path).header["sform_code"]) == 0
    with pytest.raises(ValueError, match=r"\(T, H, W\)"):
        save_nifti(path, series[0])


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1e3), ("micron", 1e-3)])
def test_nifti_lengths_are_in_mm(tmp_path, unit, mm):
    image = nibabel.Nifti1Image(np.zeros((20, 16, 1, 5), np.float32), AFFINE)
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "a.nii")
    affine = read_nifti(tmp_path / "a.nii").geometry.affine
    np.testing.assert_allclose(affine[:3], mm * AFFINE[:3])
    np.testing.assert_array_equal(affine[3], AFFINE[3])


def test_nifti_without_a_place(tmp_path, rng):
    save_nifti(tmp_path / "a.nii", rng.random(SIZE))
    assert read_nifti(tmp_path / "a.nii").geometry is None


@pytest.mark.parametrize(
    "dtype", ["bool", "float16", "longdouble", "clongdouble", "int64", "uint64"]
)
def test_nifti_of_any_dtype(tmp_path, rng, dtype):
    series = rng.integers(0, 2, SIZE).astype(dtype)
    save_nifti(tmp_path / "a.nii", series)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").array, series)
    with pytest.raises(ValueError, match="got the dtype"):
        save_nifti(tmp_path / "a.nii", series.astype(str))


def test_nifti_that_cannot_be_true(tmp_path):
    array = np.zeros((16, 16, 1, 3), np.float32)
    path = write_nifti(tmp_path / "a.nii", array)
    whole = path.read_bytes()

    def changed(place, *values):
        content = bytearray(whole)
        form = f"<{len(values)}h"
        content[place : place + struct.calcsize(form)] = struct.pack(form, *values)
        return bytes(content)

    huge = changed(40, 4, 32767, 32767, 1, 32767)
    for name, content, complaint in (
        ("a.nii", huge, "array would take 1.407e[+]14 bytes"),
        ("a.nii.gz", gzip.compress(huge), "array would take 1.407e[+]14 bytes"),
        ("a.nii", whole[:-1000], "too small to hold"),
        ("a.nii", whole[:-10], "cannot read"),
        ("a.nii", whole[:100], "cannot read"),
        ("a.nii", changed(40, 4, 16, 16, 1, -3), "a.nii"),
        ("a.nii", changed(40, 5, 16, 16, 1, 1, 3), r"\(x, y, slice, time\)"),
        ("a.nii", changed(70, 128, 24), "dtype"),  # colours
        ("a.nii", b"", "cannot read"),
        ("a.nii.gz", b"no archive", "cannot read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            read_nifti(tmp_path / name)


# BART


def write_bart(path, array, *sizes):
    array.astype("<c8").ravel(order="F").tofile(path)
    text = " ".join(map(str, sizes or array.shape))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{text}\n# Command\nphantom\n")
    return path


def bart_shape(width, height, partitions=1, coils=1, frames=1, slices=1):
    return (width, height, partitions, coils, *[1] * 6, frames, 1, 1, slices, 1, 1)


def test_k_space_of_bart(tmp_path, rng):
    array = draw("complex64", rng, *bart_shape(20, 16, 1, 3, 4, 2))
    array[:, ::3, ..., 1, :, :, :, :, :] = 0
    path = write_bart(tmp_path / "ksp.cfl", array)
    np.testing.assert_array_equal(read_cfl(path), array)
    with pytest.raises(SeveralSlices, match="2 slices"):
        read_bart(path)
    scan = read_bart(path, slice=1)
    expected = array[:, :, 0, :, 0, 0, 0, 0, 0, 0, :, 0, 0, 1, 0, 0]
    np.testing.assert_array_equal(scan.array, np.transpose(expected, (3, 2, 1, 0)))
    assert not scan.mask[1, ::3].any()
    assert scan.mask.mean() == pytest.approx(1 - 6 / 64)


def test_images_of_bart(tmp_path, rng):
    array = draw("complex64", rng, *bart_shape(20, 16, 1, 1, 4))
    path = write_bart(tmp_path / "img.cfl", array)
    expected = np.squeeze(array).T
    scan = read_bart(path)
    np.testing.assert_array_equal(scan.array, expected)
    assert scan.mask is None
    task, given = read_input(path)
    assert (task.kind, given.name, given.image.shape) == ("cine", "img", (4, 16, 20))
    _, problem = read_input(path, holds="kspace")
    assert isinstance(problem, Problem)
    assert problem.y.shape == (4, 16, 20)
    volume = draw("complex64", rng, *bart_shape(20, 16, 3))
    scan = read_bart(write_bart(tmp_path / "v.cfl", volume), slice=2)
    np.testing.assert_array_equal(scan.array, np.squeeze(volume)[..., 2].T[None])


def test_bart_there_and_back(tmp_path, rng):
    series = draw("complex64", rng, *SIZE)
    save_cfl(tmp_path / "a.cfl", series)
    np.testing.assert_array_equal(read_bart(tmp_path / "a.cfl").array, series)
    assert read_cfl(tmp_path / "a.cfl").shape == bart_shape(22, 18, frames=4)
    with pytest.raises(ValueError, match=r"\(T, H, W\)"):
        save_cfl(tmp_path / "a.cfl", series[0])


def test_bart_is_named_as_its_commands_name_it(tmp_path, rng):
    series = rng.standard_normal((2, 3, 4)).astype(np.float32)
    save_cfl(tmp_path / "k.v1", series)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["k.v1.cfl", "k.v1.hdr"]
    for name in ("k.v1", *names):
        np.testing.assert_equal(read_bart(tmp_path / name).array, series)


def test_bart_that_cannot_be_true(tmp_path, rng):
    array = draw("complex64", rng, *bart_shape(20, 16, 1, 3, 4))
    path = write_bart(tmp_path / "a.cfl", array)
    for text, complaint in (
        ("# Dimensions\n20 16 1 3 1 1 1 1 1 1 5\n", "bytes, but 20 x 16"),
        (f"# Dimensions\n{' '.join(['999999999'] * 16)}\n", "has 30720 bytes"),
        (f"# Dimensions\n{'9' * 5000}\n", "cannot read"),
        ("# Dimensions\n20 -16\n", "1 to 16 dimensions"),
        ("# Dimensions\n20 16.5\n", "cannot read"),
        (f"# Dimensions\n{'1 ' * 17}\n", "1 to 16 dimensions"),
        ("# Dimensions\n", "1 to 16 dimensions"),
        ("", "1 to 16 dimensions"),
        ("20 16 1 3 4\n", "dimension 4 is 4"),
        ("20 16 12\n", "images of one coil"),
    ):
        path.with_suffix(".hdr").write_text(text)
        match = complaint
        if text.endswith(" 12\n"):
            with pytest.raises(ValueError, match="three-dimensional"):
                read_bart(path, holds="kspace")
            assert read_bart(path, slice=11).array.shape == (1, 16, 20)
            continue
        with pytest.raises(ValueError, match=match):
            read_bart(path)
    write_bart(path, array)
    with pytest.raises(ValueError, match="holds: must be one of kspace, image"):
        read_bart(path, holds="maps")
    with pytest.raises(ValueError, match="one coil"):
        read_bart(path, holds="image")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="30712 bytes"):
        read_bart(path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(ValueError, match=r"no file .*a\.hdr"):
        read_bart(path)


# fastMRI and ISMRMRD


def test_a_slice_of_fastmri_is_a_frame(tmp_path, rng):
    kspace = draw("complex64", rng, 3, 18, 16)
    kspace[..., 12:] = 0
    path = write_h5(
        tmp_path / "a.h5", kspace=kspace, reconstruction_esc=np.ones((3, 9, 9))
    )
    assert format_of(path).name == "fastMRI"
    with pytest.raises(SeveralSlices):
        read_input(path)
    task, problem = read_input(path, slice=1)
    assert (task.kind, problem.setting) == ("cine", "as measured")  # of one coil
    assert problem.y.shape == (1, 18, 16)
    assert problem.truth is None
    np.testing.assert_array_equal(problem.A.mask[0], kspace[1] != 0)
    np.testing.assert_allclose(problem.y[0] * problem.scale, kspace[1], rtol=1e-5)
    assert source_of(path).applicable(problem) == ("slice",)


def test_oversampling_and_mask_of_fastmri(tmp_path, rng):
    kspace = draw("complex64", rng, 1, 2, 36, 16)
    mask = np.arange(16) % 2 == 0
    path = write_h5(
        tmp_path / "a.h5",
        kspace=kspace * mask,
        mask=mask,
        ismrmrd_header=header(16, 36, oversampling=2),
    )
    scan = format_of(path).read(path)
    assert scan.array.shape == (1, 2, 18, 16)
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(mask, (1, 18, 16)))
    with h5py.File(path, "r+") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = header(16, 40, oversampling=2)
    with pytest.raises(ValueError, match="the header declares 40 samples"):
        format_of(path).read(path)


def matlab(path, **arrays):
    """A file of MATLAB 7.3, with complex numbers as pairs."""
    pair = np.dtype([("real", "f4"), ("imag", "f4")])
    shown = {n: x.view(pair) if x.dtype.kind == "c" else x for n, x in arrays.items()}
    return write_h5(path, **shown)


@pytest.mark.parametrize("name", ["kspace_sub02", "kspace_single_sub02"])
@pytest.mark.parametrize("shape", [(3, 2), (1, 2), (1, 1)])  # frames, slices
def test_cmrxrecon(tmp_path, rng, name, shape):
    coils = 1 if "single" in name else 2
    kspace = draw("complex64", rng, *shape, coils, 18, 16)
    kspace[..., 1::2, :] = 0
    stored = kspace[:, :, 0] if coils == 1 else kspace
    while len(stored) == 1 and len(stored.shape) > 3:
        stored = stored[0]  # MATLAB leaves out trailing axes, h5py shows them reversed
    path = matlab(tmp_path / "a.mat", **{name: stored})
    assert format_of(path).name == "CMRxRecon"
    if shape[1] > 1:
        with pytest.raises(SeveralSlices, match="0 to 1"):
            read_input(path)
    number = shape[1] - 1
    scan = format_of(path).read(path, slice=number)
    np.testing.assert_array_equal(scan.array, kspace[:, number])
    assert (scan.mask == (np.arange(18) % 2 == 0)[:, None]).all()
    if coils == 1:  # of several, maps would have to be estimated
        assert read_input(path, slice=number)[1].setting == "as measured"


def test_other_files_of_matlab_are_none_of_cmrxrecon(tmp_path, rng):
    kspace, image = draw("complex64", rng, 2, 1, 2, 18, 16), np.ones((3, 18, 16))
    for others in (
        {"kspace_full": kspace, "img": image},
        {"kspace_full": kspace, "kspace_sub04": kspace},
        {"kspace_info/field": np.ones(3), "img": image},
        {"kspace": kspace.real},
    ):
        path = matlab(tmp_path / "a.mat", **others)
        assert format_of(path).name == "array"
        if "img" in others:
            found = read_input(path, key="img", time_axis=2)[1]
            assert found.image.shape == (3, 16, 18)


def test_ismrmrd_is_measured(tmp_path, rng):
    kspace = draw("complex64", rng, 3, 1, 16, 18)
    readouts = [*lines(kspace, slice=2), *lines(2 * kspace, slice=5)]
    path = write_ismrmrd(tmp_path / "a.h5", header(16, 18, centre=8), readouts)
    assert format_of(path).name == "ISMRMRD"
    with pytest.raises(SeveralSlices, match="0 to 1"):
        read_input(path)
    task, problem = read_input(path, slice=1)
    assert (task.kind, problem.y.shape) == ("cine", (3, 16, 18))
    np.testing.assert_allclose(
        problem.y * problem.scale, 2 * kspace[:, 0], rtol=1e-5, atol=1e-5
    )
    named = write_ismrmrd(
        tmp_path / "b.h5", header(16, 18, centre=8), lines(kspace), group="scan"
    )
    assert read_input(named)[1].A.mask.all()


# All of them


def test_a_dark_frame_of_dicom_may_be_negative_by_a_little(tmp_path):
    bright, dark = np.full((16, 18), 2000, np.uint16), np.ones((16, 18), np.uint16)
    dark[0, 0] = 0
    for number, pixels in enumerate((bright, dark)):
        each = dicom_dataset(pixels, InstanceNumber=number, RescaleIntercept=-1)
        each.save_as(tmp_path / f"{number}.dcm")
    assert read_input(tmp_path)[1].image.shape == (2, 16, 18)
    each = dicom_dataset(bright, InstanceNumber=2, RescaleIntercept=-2500)
    each.save_as(tmp_path / "2.dcm")
    with pytest.raises(ValueError, match=r"the series has negative numbers"):
        read_input(tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".nii"])
def test_real_series_must_be_magnitudes(tmp_path, series, suffix):
    """Those in Hounsfield units would be reconstructed with air white."""
    path = tmp_path / f"a{suffix}"
    save = save_nifti if suffix == ".nii" else save_series
    signed = abs(series) - 0.5 * abs(series).max()
    save(path, signed)
    with pytest.raises(ValueError, match=r"negative numbers, down to -.*Hounsfield"):
        read_input(path)
    save(path, signed.astype(np.complex64))
    assert (read_input(path)[1].image.real < 0).any()
    save(path, abs(series) - 0.05 * abs(series).max())  # interpolated
    assert read_input(path)


def test_options_of_another_format_are_refused(tmp_path, series):
    save_nifti(tmp_path / "a.nii", series)
    np.save(tmp_path / "a.npy", series)
    np.save(tmp_path / "m.npy", np.ones((18, 22, 4)))
    for path, options in (
        (tmp_path / "a.nii", {"key": "x"}),
        (tmp_path / "a.nii", {"holds": "image"}),
        (tmp_path / "a.npy", {"slice": 0}),
        ("cine", {"slice": 0}),
    ):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}: does not apply"):
            read_input(path, **options)
    # The axis of a mask.
    assert read_input("cine", time_axis=2, mask=str(tmp_path / "m.npy"))


def test_every_format_names_options_that_there_are():
    for each in FORMATS:
        assert set(each.options) <= set(CineOptions.of_files())


def test_masks_of_files_with_several_arrays(tmp_path):
    mask = np.eye(20) > 0
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["kspace"], file["mask"] = np.ones((20, 20)), mask
    np.testing.assert_array_equal(read_mask(tmp_path / "m.h5"), mask)
    np.savez(tmp_path / "m.npz", a=mask, b=mask)
    with pytest.raises(ValueError, match="none is called mask: a"):
        read_mask(tmp_path / "m.npz")


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_masks_of_pictures(tmp_path, shape):
    """White where sampled; other values than black and white are refused."""
    mask = np.random.default_rng(0).random(shape) < 0.4
    path = tmp_path / "m.png"
    Image.fromarray(255 * mask.astype(np.uint8)).save(path)
    np.testing.assert_array_equal(
        read_mask(path), np.moveaxis(mask, 2, 0) if mask.ndim == 3 else mask
    )
    Image.fromarray(254 * mask.astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"m\.png: the mask must be black and white"):
        read_mask(path)
    for colour in ((255, 0, 0), (255, 255, 0), (0, 0, 255)):
        paint = np.full((40, 50, 3), 255, np.uint8)
        paint[:, 20] = 0
        paint[10:20, 10:40] = colour
        Image.fromarray(paint).save(path)
        with pytest.raises(ValueError, match=r"mask must be black .* an array file"):
            read_mask(path)
    paint = 255 * (np.random.default_rng(0).random((40, 50, 3)) < 0.4).astype(np.uint8)
    paint[..., 1] = 255  # of one channel all
    Image.fromarray(paint).save(path)
    assert read_mask(path)[1].all()


@pytest.mark.parametrize(
    ("name", "module"), [("a.nii", "nibabel"), ("a.dcm", "pydicom")]
)
def test_missing_packages_are_named(tmp_path, name, module, monkeypatch, series):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} .*\[mri\]"):
        read_input(tmp_path / name)
