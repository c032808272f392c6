"""Array files and fastMRI's."""

from __future__ import annotations

import pickle
import re
import sys

import numpy as np
import pytest
from hdf5_files import write_h5

from svdinv.unroll.formats.fastmri import read_fastmri
from svdinv.unroll.formats.series import read_series, save_series

h5py = pytest.importorskip("h5py")
io = pytest.importorskip("scipy.io")

SUFFIXES = [".npy", ".npz", ".mat", ".h5"]


@pytest.fixture
def series(rng):
    shape = (4, 6, 5)
    return (rng.random(shape) + 1j * rng.random(shape)).astype(np.complex64)


def write(path, **arrays):
    """Write arrays with the package that the format comes from."""
    if path.suffix == ".npy":
        np.save(path, *arrays.values())
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".mat":
        io.savemat(path, arrays)
    else:
        write_h5(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32, np.int16])
def test_reads_what_others_write(tmp_path, series, suffix, dtype):
    array = (100 * series.real).astype(dtype) + (0 * series).astype(np.complex64)
    array = array if np.dtype(dtype).kind == "c" else array.real.astype(dtype)
    read = read_series(write(tmp_path / f"a{suffix}", x=array))
    assert read.dtype == np.complex64
    np.testing.assert_array_equal(read, array.astype(np.complex64))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_reads_what_it_saves(tmp_path, series, suffix):
    path = tmp_path / f"a{suffix}"
    save_series(path, np.zeros((2, 2)))
    save_series(path, series, key="heart")  # takes the place of the first
    np.testing.assert_array_equal(read_series(path), series)
    if suffix != ".npy":
        np.testing.assert_array_equal(read_series(path, "heart"), series)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o444


def test_saving_leaves_the_old_file_if_it_fails(tmp_path, series):
    path = tmp_path / "a.h5"
    save_series(path, series)
    with pytest.raises(TypeError):
        save_series(path, series, key=3)
    with pytest.raises(ValueError, match="numeric"):
        save_series(path, np.array([None]))
    with pytest.raises(ValueError, match="must end in"):
        save_series(tmp_path / "a.mat", series)
    np.testing.assert_array_equal(read_series(path), series)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_the_only_image_is_found_and_others_need_a_key(tmp_path, series, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".mat":  # has no arrays of fewer axes than two
        write(path, kdata=series, name="patient")
    else:
        write(path, kdata=series, scale=np.arange(3.0))
    np.testing.assert_array_equal(read_series(path), series)
    write(path, kdata=series, maps=2 * series)
    with pytest.raises(ValueError, match=r"several.*kdata \(4, 6, 5\), maps"):
        read_series(path)
    np.testing.assert_array_equal(read_series(path, "maps"), 2 * series)
    with pytest.raises(ValueError, match="no 'mask'; it has kdata"):
        read_series(path, "mask")


@pytest.mark.parametrize("names", ["r i", "re im", "real imag", "imag real"])
def test_hdf5_of_real_and_imaginary_parts(tmp_path, series, names):
    pair = np.empty(series.shape, np.dtype([(name, "f4") for name in names.split()]))
    for name in names.split():
        pair[name] = series.real if name[0] == "r" else series.imag
    path = write(tmp_path / "a.h5", **{"group/of/x": pair})
    np.testing.assert_array_equal(read_series(path), series)
    np.testing.assert_array_equal(read_series(path, "/group/of/x"), series)


def test_matlab_7_3_shows_the_axes_of_matlab(tmp_path, series):
    """Its files are HDF5 behind a header of 512 bytes, columns first."""
    path = tmp_path / "a.mat"
    pair = np.empty(series.T.shape, np.dtype([("real", "f8"), ("imag", "f8")]))
    pair["real"], pair["imag"] = series.T.real, series.T.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = pair
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    np.testing.assert_array_equal(read_series(path), series)
    np.testing.assert_array_equal(read_series(path, time_axis=2)[3], series[..., 3])
    with h5py.File(path, "r+") as file:
        file["y"] = pair
    with pytest.raises(ValueError, match=re.escape(f"x {series.shape}")):
        read_series(path)


def test_time_is_moved_to_its_place(tmp_path, rng):
    array = rng.random((2, 5, 6, 7)).astype(np.float32)
    path = write(tmp_path / "a.npy", x=array)
    np.testing.assert_array_equal(
        read_series(path, time_axis=-1), np.moveaxis(array, -1, 1)
    )
    with pytest.raises(ValueError, match="time_axis 4"):
        read_series(path, time_axis=4)
    flat = write(tmp_path / "b.npy", x=array[0, 0])
    np.testing.assert_array_equal(read_series(flat), array[0, 0])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, rng, suffix, share):
    path = write(tmp_path / f"a{suffix}", x=rng.random((8, 30, 30)))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"a\{suffix}"):
        read_series(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_kind_of_file_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("time, x, y\n" * 100)
    with pytest.raises(ValueError, match=rf"cannot read .*a\{suffix} as"):
        read_series(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_series(tmp_path / f"missing{suffix}")
    with pytest.raises(ValueError, match="must end in one of"):
        read_series(tmp_path / "a.csv")


def test_a_damaged_header_is_named(tmp_path, series):
    path = write(tmp_path / "a.npy", x=series)
    path.write_bytes(path.read_bytes().replace(b"}", b"("))  # leads to the tokenizer
    with pytest.raises(ValueError, match=r"cannot read .*a\.npy"):
        read_series(path)


def test_types_and_groups_of_hdf5_are_no_arrays(tmp_path, series):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/series"] = series
        file["type"] = np.dtype("f4")
    np.testing.assert_array_equal(read_series(path), series)
    with pytest.raises(ValueError, match=r"no 'type'; it has group/series"):
        read_series(path, "type")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_must_be_finite(tmp_path, suffix, value):
    array = np.ones((3, 4, 5))
    array[1, 2, 3] = value
    path = write(tmp_path / f"a{suffix}", x=array)
    with pytest.raises(ValueError, match=r"not finite.*\(1, 2, 3\)"):
        read_series(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_shapes_must_make_sense(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", x=np.ones(5))
    with pytest.raises(ValueError, match="two axes"):
        read_series(path)
    path = write(tmp_path / f"b{suffix}", x=np.ones((3, 0, 5)))
    with pytest.raises(ValueError, match=rf"b\{suffix}"):
        read_series(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path):
    array = np.empty((2, 2), dtype=object)
    array[:] = [[Bomb(), 1], [2, 3]]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "a.npz", "b.npy", "b.npz"):
        with pytest.raises(ValueError, match=name):
            read_series(tmp_path / name)


def test_objects_beside_the_series_are_not_looked_at(tmp_path):
    series = np.ones((3, 8, 8), np.complex64)
    np.savez(tmp_path / "a.npz", series=series, extra=np.array([Bomb()], dtype=object))
    np.testing.assert_array_equal(read_series(tmp_path / "a.npz"), series)


def test_text_is_no_series(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        words = np.array(
            [["a", "b"], ["c", "d"]], dtype="S1" if suffix == ".h5" else "U1"
        )
        write(path, x=words)
        with pytest.raises(ValueError, match=rf"a\{suffix}"):
            read_series(path)
        if suffix != ".npy":
            with pytest.raises(ValueError, match="number"):
                read_series(path, "x")


@pytest.mark.parametrize(
    ("suffix", "module"), [(".h5", "h5py"), (".mat", "scipy.io"), (".mat", "h5py")]
)
def test_a_missing_package_is_named(tmp_path, series, monkeypatch, suffix, module):
    path = write(tmp_path / f"a{suffix if module != 'h5py' else '.h5'}", x=series)
    path = path.rename(tmp_path / f"b{suffix}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install .*\[mri\]'"):
        read_series(path)
    if suffix == ".h5":
        with pytest.raises(ImportError, match=r"\[mri\]"):
            save_series(path, series)


def write_fastmri(path, **arrays):
    return write_h5(path, {"acquisition": "CORPD_FBK", "max": 0.5}, **arrays)


def test_fastmri_of_several_coils(tmp_path, rng):
    kspace = rng.random((3, 4, 10, 8)).astype(np.complex64)
    image = rng.random((3, 5, 5)).astype(np.float32)
    path = write_fastmri(
        tmp_path / "a.h5",
        kspace=kspace,
        reconstruction_rss=image,
        ismrmrd_header="<xml/>",
    )
    volume = read_fastmri(path)
    np.testing.assert_array_equal(volume.kspace, kspace)
    np.testing.assert_array_equal(volume.image, image)
    assert volume.kspace.dtype == np.complex64
    assert volume.mask is None
    assert volume.header == "<xml/>"
    assert volume.attributes == {"acquisition": "CORPD_FBK", "max": 0.5}
    some = read_fastmri(path, slices=slice(1, 3))
    np.testing.assert_array_equal(some.kspace, kspace[1:])
    np.testing.assert_array_equal(some.image, image[1:])


def test_fastmri_of_one_coil_with_a_mask(tmp_path, rng):
    kspace = rng.random((3, 10, 8)).astype(np.complex64)
    mask = np.arange(8) % 3 == 0
    path = write_fastmri(tmp_path / "a.h5", kspace=kspace, mask=mask.astype(np.float32))
    volume = read_fastmri(path)
    assert volume.kspace.shape == (3, 1, 10, 8)
    np.testing.assert_array_equal(volume.mask, mask)
    assert volume.mask.dtype == bool
    assert volume.image is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.ones((3, 4))}, "no kspace; it has data"),
        ({"kspace": np.ones((3, 4))}, r"shape \(slices, C, H, W\)"),
        ({"kspace": np.full((2, 3, 4), np.nan)}, "not finite"),
        ({"kspace": np.ones((0, 3, 4))}, "no slice"),
        ({"kspace": np.ones((2, 3, 4)), "mask": np.ones(5)}, "mask has 5 columns"),
        (
            {"kspace": np.ones((2, 3, 4)), "reconstruction_esc": np.ones((3, 3, 3))},
            "that of 2 slices",
        ),
        (
            {
                "kspace": np.ones((1, 3, 4)),
                "reconstruction_rss": np.full((1, 3, 3), np.inf),
            },
            "reconstruction_rss must be finite",
        ),
    ],
)
def test_a_damaged_fastmri_is_named(tmp_path, arrays, message):
    path = write_fastmri(tmp_path / "broken.h5", **arrays)
    with pytest.raises(ValueError, match=rf"broken\.h5.*{message}"):
        read_fastmri(path)


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_truncated_fastmri_is_named(tmp_path, share):
    path = write_fastmri(tmp_path / "a.h5", kspace=np.ones((2, 20, 20), np.complex64))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cannot read .*a\.h5 as an HDF5 file"):
        read_fastmri(path)
