"""Raw data in the ISMRM format (Inati et al., MRM 77, 2017), including OCMR.

Files are read with h5py: the group ``dataset`` holds the header ``xml``, and ``data``
with one record for each readout.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.checks import FileError, check_bytes, most_bytes
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.scans import Scan, chosen

# Flags, numbered from 1 as in the standard, of readouts that belong to no image: noise,
# calibration, navigation, phase correction, feedback, dummies and stabilisation.
_NOT_IMAGING = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)
_CALIBRATION = 20
_REVERSED = 22
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
_TIMES = ("phase", "repetition")


@dataclass(frozen=True, eq=False)
class Acquisitions:
    """Cartesian k-space data of one slice, and the XML header.

    `kspace` (T, C, H, W), with H the phase encoding and W the readout, has its centre
    at ``(H // 2, W // 2)`` and is zero where not sampled; `mask` (T, H, W) is true
    where sampled.
    """

    kspace: NDArray[np.complex64]
    mask: NDArray[np.bool_]
    header: str


@dataclass(frozen=True)
class _Encoding:
    """Parameters of k-space from the header."""

    height: int
    width: int
    centre: int  # encoding step of frequency zero
    columns: int  # readout samples without oversampling
    embedded: bool  # whether lines for calibration belong to the image


def read_ismrmrd(
    path: str | Path,
    *,
    group: str = "dataset",
    time: str | None = None,
    select: Mapping[str, int] | None = None,
    crop_readout: bool = True,
) -> Acquisitions:
    """Read Cartesian 2-D acquisitions of an ISMRMRD file, and sort them into k-space.

    The line of a readout follows from its ``kspace_encode_step_1`` and the centre of
    the encoding limits; its columns follow from its ``center_sample``, unless it fills
    the line. Partial Fourier and asymmetric echoes thus leave gaps. Points measured
    several times are averaged. Noise, navigation and other readouts that belong to no
    image are ignored, and those for calibration unless the header calls them embedded.

    Parameters
    ----------
    path : str or Path
        The HDF5 file.
    group : str
        Its group; "dataset" in most files.
    time : {"phase", "repetition"}, optional
        The counter that numbers the frames; by default the one of the two that has
        several values. Values that never occur make no frame.
    select : mapping of str to int, optional
        Values of the other counters, such as ``{"slice": 2}``: "slice", "contrast",
        "phase", "repetition" and "set". Required for counters with several values.
    crop_readout : bool
        Whether to crop the image along W to the field of view of the reconstruction,
        which removes the oversampling. The mask is then that of the nearest samples.

    Returns
    -------
    Acquisitions
        k-space, mask and header.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or does not follow the standard; if it is not
        Cartesian or not 2-D; if a counter must be selected, a readout lies outside
        k-space, or numbers are not finite.
    ImportError
        If h5py is missing.
    """
    if time is not None and time not in _TIMES:
        raise ValueError(f'time must be "phase" or "repetition", got {time!r}')
    select = dict(select or {})
    if not set(select) <= set(_COUNTERS):
        raise ValueError(f"select takes {', '.join(_COUNTERS)}, got {sorted(select)}")
    if time in select or set(_TIMES) <= set(select):
        raise ValueError("select must leave phase or repetition to be time")
    with open_hdf5(path, "an ISMRMRD file") as file:
        names = dict(file.groups()).get(group, set())
        for name in sorted({"data", "xml"} - names):
            raise FileError(f"{path} is not an ISMRMRD file: it has no {group}/{name}")
        header = _text(file.read(f"{group}/xml"))
        dataset = file.dataset(f"{group}/data")
        _check_fields(dataset, path)
        records = _records(dataset, path)
        encoding = _encoding(header, path)
        records = records[of_images(records["head"], embedded=encoding.embedded)]
        if not len(records):
            raise FileError(f"{path} has no readout of an image")
        for name, value in select.items():
            values = np.unique(records["head"]["idx"][name])
            records = records[records["head"]["idx"][name] == value]
            if not len(records):
                raise FileError(f"{path} has no {name} {value}, but {_list(values)}")
        idx = records["head"]["idx"]
        free = [name for name in _TIMES if name not in select]
        counting = [name for name in free if len(np.unique(idx[name])) > 1]
        if time is None and len(counting) > 1:
            raise FileError(
                f"{path} counts phases and repetitions: set one as time, select the "
                "other"
            )
        counter = time or (counting or free)[0]
        if len(np.unique(idx["kspace_encode_step_2"])) > 1:
            raise FileError(f"{path} has three-dimensional encoding; it must have two")
        for name in _COUNTERS:
            values = np.unique(idx[name])
            if name != counter and len(values) > 1:
                raise FileError(f"{path}: select one {name} of {_list(values)}")
        kspace, mask = _place(records, counter, encoding, path)
    if crop_readout:
        kspace, mask = cropped_readout(kspace, mask, header, path)
    return Acquisitions(kspace, mask, header)


def acquisitions(file: Datasets) -> str:
    """Return the group with ISMRMRD acquisitions; empty if there is none."""
    groups = (name for name, names in file.groups() if {"xml", "data"} <= names)
    return next(groups, "")


def read_scan(path: Path, *, slice: int | None = None) -> Scan:
    """Read a slice of an ISMRMRD file; ValueError if it has several and none is set."""
    with open_hdf5(path, "an ISMRMRD file") as file:
        group = acquisitions(file)
        dataset = file.dataset(f"{group}/data")
        _check_fields(dataset, path)
        head = dataset["head"]
    slices = np.unique(head["idx"]["slice"][of_images(head)])
    number = chosen(path, slice, [""] * max(1, len(slices)))
    select = {"slice": int(slices[number])} if len(slices) else None
    found = read_ismrmrd(path, group=group, select=select)
    return Scan(found.kspace, found.mask)


def cropped_readout(
    kspace: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    header: str,
    path: str | Path,
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Crop the image along W to the field of view of the reconstruction.

    `kspace` is (T, C, H, W), `mask` (T, H, W), and `header` the XML header; `path` is
    for messages. Raises ValueError if the header is damaged or of another width.
    """
    encoding = _encoding(header, path)
    if encoding.width != kspace.shape[-1]:
        raise FileError(
            f"{path}: the header declares {encoding.width} samples per readout, but "
            f"there are {kspace.shape[-1]}"
        )
    width, columns = encoding.width, encoding.columns
    if columns == width:
        return kspace, mask
    shifted = np.fft.ifftshift(kspace, axes=-1)
    image = np.fft.fftshift(np.fft.ifft(shifted, norm="ortho"), axes=-1)
    start = width // 2 - columns // 2
    image = np.fft.ifftshift(image[..., start : start + columns], axes=-1)
    cropped = np.fft.fftshift(np.fft.fft(image, norm="ortho"), axes=-1)
    nearest = np.rint((np.arange(columns) - columns // 2) * (width / columns))
    mask = mask[..., np.clip(nearest.astype(int) + width // 2, 0, width - 1)]
    return np.where(mask[:, None], cropped, 0).astype(np.complex64), mask


def _records(dataset: Any, path: str | Path) -> NDArray[Any]:
    """Read all readouts in chunks, checking their total size.

    Their lengths are unknown in advance, and many may refer to the same bytes of the
    file.
    """
    size, total, parts = Path(path).stat().st_size, 0, []
    chunk = max(1, most_bytes(path) // max(size, 1) // 4)
    for first in range(0, len(dataset), chunk):
        part = dataset[first : first + chunk]
        names = [n for n in ("traj", "data") if n in part.dtype.names]
        total += sum(each.nbytes for n in names for each in part[n].flat)
        check_bytes(path, "all readouts together", total)
        parts.append(part)
    return np.concatenate(parts) if parts else dataset[()]


def _text(dataset: Any) -> str:
    value = np.asarray(dataset).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_fields(records: Any, path: str | Path) -> None:
    names = records.dtype.names or ()
    if not {"head", "data"} <= set(names):
        raise FileError(
            f"{path} is not an ISMRMRD file: its data must have the fields head, traj "
            f"and data, got {', '.join(names) or records.dtype}"
        )
    needed = {"flags", "number_of_samples", "active_channels", "center_sample", "idx"}
    missing = needed - set(records.dtype["head"].names or ())
    if missing:
        raise FileError(f"{path}: the readouts lack {', '.join(sorted(missing))}")


def _encoding(header: str, path: str | Path) -> _Encoding:
    try:
        root = ElementTree.fromstring(header)
    except ElementTree.ParseError as error:
        raise FileError(f"{path}: the XML header is damaged: {error}") from error

    def number(place: str, default: float | None = None) -> float:
        node = root.find("/".join(f"{{*}}{name}" for name in place.split("/")))
        if node is None and default is not None:
            return default
        if node is None or node.text is None:
            raise FileError(f"{path}: the XML header has no {place}")
        try:
            value = float(node.text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise FileError(f"{path}: the XML header has {node.text!r} as {place}")
        return value

    trajectory = root.find("{*}encoding/{*}trajectory")
    if trajectory is not None and (trajectory.text or "").lower() != "cartesian":
        raise FileError(f"{path} is not Cartesian: its trajectory is {trajectory.text}")
    space = "encoding/encodedSpace"
    width = int(number(f"{space}/matrixSize/x"))
    height = int(number(f"{space}/matrixSize/y"))
    if not (0 < width <= 65536 and 0 < height <= 65536):
        raise FileError(f"{path}: the encoded matrix is {height}x{width}")
    centre = number(
        "encoding/encodingLimits/kspace_encoding_step_1/center", height // 2
    )
    full = number(f"{space}/fieldOfView_mm/x")
    kept = number("encoding/reconSpace/fieldOfView_mm/x", full)
    if not kept > 0 or not full > 0:
        raise FileError(f"{path}: the fields of view must be positive lengths")
    columns = min(width, max(1, round(width * kept / full)))
    encoding = root.find("{*}encoding")
    place = "{*}parallelImaging/{*}calibrationMode"
    mode = "" if encoding is None else encoding.findtext(place, "")
    embedded = mode.strip().lower() == "embedded"
    return _Encoding(height, width, int(centre), columns, embedded)


def of_images(head: NDArray[Any], *, embedded: bool = False) -> NDArray[np.bool_]:
    """Return a mask of the readouts that belong to an image, from their heads.

    With `embedded`, readouts for calibration belong to it, too.
    """
    numbers = [n for n in _NOT_IMAGING if not (embedded and n == _CALIBRATION)]
    flags = sum(1 << (number - 1) for number in numbers)
    keep = (head["flags"].astype(np.uint64) & np.uint64(flags)) == 0
    if "encoding_space_ref" in (head.dtype.names or ()):
        keep &= head["encoding_space_ref"] == 0
    return keep


def _list(values: NDArray[Any]) -> str:
    text = ", ".join(str(value) for value in values[:10])
    return text + (", ..." if len(values) > 10 else "")


def _place(
    records: NDArray[Any], counter: str, encoding: _Encoding, path: str | Path
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Average the readouts at their positions in k-space."""
    heads, samples = records["head"], records["data"]
    channels = int(heads["active_channels"][0])
    if channels < 1 or (heads["active_channels"] != channels).any():
        raise FileError(f"{path}: the readouts differ in their number of channels")
    _, frames = np.unique(heads["idx"][counter], return_inverse=True)
    lines = heads["idx"]["kspace_encode_step_1"].astype(int)
    lines += encoding.height // 2 - encoding.centre
    shape = (int(frames.max()) + 1, encoding.height, encoding.width)
    check_bytes(path, "k-space", 8 * channels + 4, *shape)
    counts = np.zeros(shape, dtype=np.int32)
    kspace = np.zeros((shape[0], channels, *shape[1:]), dtype=np.complex64)
    for k, (head, data) in enumerate(zip(heads, samples, strict=True)):
        where = f"{path}: readout {k}"
        row = lines[k]
        if not 0 <= row < encoding.height:
            raise FileError(
                f"{where} is in line {row}, outside the {encoding.height} encoded lines"
            )
        first, values = _samples(head, data, channels, encoding.width, where)
        last = first + values.shape[1]
        if first < 0 or last > encoding.width:
            raise FileError(
                f"{where} covers the columns {first} to {last - 1}, outside the "
                f"{encoding.width} encoded columns"
            )
        kspace[frames[k], :, row, first:last] += values
        counts[frames[k], row, first:last] += 1
    kspace /= np.maximum(counts, 1)[:, None]
    return kspace, counts > 0


def _samples(
    head: Any, data: Any, channels: int, width: int, where: str
) -> tuple[int, NDArray[np.complex64]]:
    """Return the first column of a readout, and its samples."""
    if int(head["flags"]) >> (_REVERSED - 1) & 1:
        raise FileError(f"{where} is reversed, which is not supported")
    number = int(head["number_of_samples"])
    data = np.asarray(data, dtype=np.float32)
    if data.size != 2 * channels * number:
        raise FileError(
            f"{where} has {data.size} numbers; {channels} channels of {number} "
            f"complex samples need {2 * channels * number}"
        )
    if not np.isfinite(data).all():
        raise FileError(f"{where} must be finite")
    values = data.view(np.complex64).reshape(channels, number)
    names = head.dtype.names
    before = int(head["discard_pre"]) if "discard_pre" in names else 0
    after = int(head["discard_post"]) if "discard_post" in names else 0
    if before + after >= number:
        raise FileError(
            f"{where} has {number} samples, but discards {before} at the start and "
            f"{after} at the end: none is left"
        )
    values = values[:, before : number - after]
    # Some scanners leave center_sample at 0 if a readout fills the line.
    start = 0 if number == width else width // 2 - int(head["center_sample"])
    return start + before, values
