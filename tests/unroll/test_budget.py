"""Files that declare more than they can hold, or that lie in other files."""

from __future__ import annotations

import os
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_ismrmrd import header, readout, write

from svdinv.unroll.data import read_picture
from svdinv.unroll.formats.checks import VARIABLE, check_bytes
from svdinv.unroll.formats.fastmri import read_fastmri
from svdinv.unroll.formats.ismrmrd import read_ismrmrd
from svdinv.unroll.formats.nifti import read_nifti
from svdinv.unroll.formats.series import read_series
from svdinv.unroll.formats.table import format_of
from svdinv.unroll.tasks.cine.hearts import read_hearts
from svdinv.unroll.tasks.impedance.tank import read_classes
from svdinv.unroll.tasks.measured_files import measured_entry, read_measurement

resource = pytest.importorskip("resource")
h5py = pytest.importorskip("h5py")
SIZE = "would take .* bytes of memory, more than the .*set SVDINV_READ_LIMIT"


@pytest.fixture
def small(monkeypatch):
    """A limit that small files reach, to try each reader."""
    monkeypatch.setenv(VARIABLE, "1000")


def grown():
    """Megabytes that the process has held at most."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((2**15, 2**15), None), ((2**10, 2**12), (2**14, 2**14)), ((2**40, 8), (8, 8))],
)
def test_hdf5(shape, chunks, tmp_path):
    """Declared in some kilobytes; of a chunk, all is read for the least part."""
    path, before = tmp_path / "a.h5", grown()
    with h5py.File(path, "w") as file:
        most = None if chunks is None else (None, None)
        for name in ("series", "samples", "kspace"):
            file.create_dataset(name, shape, "f4", chunks=chunks, maxshape=most)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=f"a.h5: (a chunk of )?series {SIZE}"):
        read_series(path, "series")
    with pytest.raises(ValueError, match=SIZE):
        read_measurement(path)
    assert grown() < before + 100


def test_archives(tmp_path):
    path, before = tmp_path / "a.npz", grown()
    told = {"descr": "<f8", "fortran_order": False, "shape": (2**14, 2**14)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("series.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, told)
        for _ in range(2**5):  # of the 2**11 megabytes that it declares
            member.write(bytes(2**20))
    with pytest.raises(ValueError, match=f"a.npz: series {SIZE}"):
        read_series(path)
    assert grown() < before + 100


def test_matlab(tmp_path, small):
    scipy = pytest.importorskip("scipy.io")
    scipy.savemat(tmp_path / "a.mat", {"x": np.ones((10, 10))}, do_compression=True)
    with pytest.raises(ValueError, match=f"a.mat: x {SIZE}"):
        read_series(tmp_path / "a.mat")
    scipy.savemat(tmp_path / "a.mat", {"truth": np.zeros((10, 10))})
    with pytest.raises(ValueError, match=f"a.mat: truth {SIZE}"):
        read_classes(tmp_path / "a.mat")


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_hearts(tmp_path, monkeypatch, suffix):
    if suffix == ".npz":
        monkeypatch.setenv(VARIABLE, "1000")
        np.savez(tmp_path / "a.npz", one=np.ones((4, 16, 16)))
        message = f"a.npz: one {SIZE}"
    else:
        (tmp_path / "a.npy").write_bytes(
            b"\x93NUMPY\1\0v\0{'descr': '<f8', 'fortran_order'"
            b": False, 'shape': (99999, 9999, 9999)}".ljust(128)
        )
        message = "cannot read .*a.npy as an array"
    with pytest.raises(ValueError, match=message):
        read_hearts([str(tmp_path)])


def test_ismrmrd(tmp_path, monkeypatch):
    readouts = [readout(np.ones((2, 8)), row) for row in range(6)]
    path = write(tmp_path / "a.h5", header(60000, 60000), readouts)
    with pytest.raises(ValueError, match=f"a.h5: k-space {SIZE}"):
        read_ismrmrd(path)
    monkeypatch.setenv(VARIABLE, "10000")
    many = [readout(np.ones((2, 8)), k % 6) for k in range(200)]
    path = write(tmp_path / "b.h5", header(6, 8), many)
    with pytest.raises(ValueError, match=SIZE):
        read_ismrmrd(path)
    monkeypatch.setenv(VARIABLE, "1000000")
    assert read_ismrmrd(path).kspace.shape == (1, 2, 6, 8)


def test_fastmri(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        shape, chunks = (2**30, 1, 64, 64), (1, 1, 64, 64)
        file.create_dataset("kspace", shape, "c8", chunks=chunks)
        file.create_dataset("reconstruction_rss", (2**30, 32, 32), "f4", chunks=True)
    with pytest.raises(ValueError, match=f"kspace {SIZE}"):
        read_fastmri(path, slices=np.s_[:1])
    with pytest.raises(ValueError, match=f"kspace {SIZE}"):
        format_of(path).read(path, slice=0)


def test_pictures_and_volumes(tmp_path, small, recwarn):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"the picture {SIZE}"):
        read_picture(tmp_path / "a.png")
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.zeros((16, 16, 1, 4), np.float32), np.eye(4))
    image.to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=f"the array {SIZE}"):
        read_nifti(tmp_path / "a.nii.gz")
    assert not recwarn.list


def test_the_limit_grows_with_the_file_and_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(bytes(6_000_000))
    check_bytes(path, "x", 50, 6_000_000)
    with pytest.raises(ValueError, match=f"a: x {SIZE}"):
        check_bytes(path, "x", 51, 6_000_000)
    monkeypatch.setenv(VARIABLE, str(10**9))
    check_bytes(path, "x", 51, 6_000_000)
    for wrong in ("much", "-1", "1e9"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError, match="must be a whole number of bytes"):
            check_bytes(path, "x", 1)


def test_members_of_an_archive_are_those_with_the_suffix(tmp_path):
    """One without it is no array, whatever its name."""
    np.save(tmp_path / "x.npy", np.eye(4))
    with zipfile.ZipFile(tmp_path / "both.npz", "w") as archive:
        archive.writestr("series", b"no array")
        archive.write(tmp_path / "x.npy", "series.npy")
    np.testing.assert_array_equal(read_series(tmp_path / "both.npz"), np.eye(4))
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("series", b"no array")
    with pytest.raises(ValueError, match="no array of numbers with two axes"):
        read_series(tmp_path / "none.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("to", ["external", "/external", "/groups/away", "loop"])
@pytest.mark.parametrize("name", ["kspace", "samples", "reconstruction_rss"])
def test_no_link_opens_another_file(to, name, tmp_path):
    """Were the pipe at its end opened, it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.h5")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["external"] = h5py.ExternalLink("pipe.h5", "/x")
        file["loop"] = h5py.SoftLink("/loop")
        file["groups/away"] = h5py.SoftLink("/external")
        file["mask"] = np.ones((2, 8, 8))
        file["kspace"] = h5py.SoftLink(to) if name == "kspace" else np.ones((2, 8, 8))
        if name != "kspace":
            file[name] = h5py.SoftLink(to)
    expected = "in another file|is missing"
    assert bool(measured_entry(path)) == (name != "reconstruction_rss")
    if name != "reconstruction_rss":
        with pytest.raises(ValueError, match=expected):
            read_measurement(path)
    with pytest.raises(ValueError, match=expected):
        read_fastmri(path) if name != "samples" else read_measurement(path)
    known = format_of(path)
    assert known is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_virtual_dataset_opens_no_other_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    layout = h5py.VirtualLayout((4, 4), "f4", maxshape=(None, 4))
    source = h5py.VirtualSource("pipe.h5", "x", (4, 4), maxshape=(None, 4))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("series", layout)
    with pytest.raises(ValueError, match="lies in another file"):
        read_series(tmp_path / "a.h5", "series")
