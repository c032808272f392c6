"""Series in DICOM files (NEMA PS3.3), read with pydicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.checks import (
    FileError,
    check_bytes,
    check_magnitudes,
    reading,
    to_complex,
)
from svdinv.unroll.formats.scans import Geometry, Scan, chosen
from svdinv.unroll.formats.table import DICOM_SUFFIXES

_MOST_FRAMES = 65536  # of a file
_INSTANCE = ("SOPInstanceUID", "InstanceNumber", "TriggerTime", "ContentTime")
_DEFAULT_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame of a file: its slice, its time and its scaling."""

    file: Path
    index: int
    slice: tuple[Any, ...]  # key that the frames of a slice share, for sorting
    time: float | None  # in milliseconds
    acquired: float | None  # time of acquisition in milliseconds
    number: tuple[int, ...]  # order of frames without times
    scale: tuple[float, float]
    geometry: Geometry | None
    described: str
    detail: str  # distinguishes slices of the same description


def holds_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder that contains one."""
    if path.is_dir():
        return any(map(_has_preamble, path.iterdir()))
    return _has_preamble(path)


def read_dicom(path: str | Path, *, slice: int | None = None) -> Scan:
    """Read a series of one slice from a DICOM file, or from the files of a folder.

    Frames with the same series, image type, echo time, orientation and position form a
    slice. Slices are numbered by series and position; `slice` selects one of several.
    Frames are sorted by trigger time, or by instance number if some times are missing
    or equal, and those of an enhanced file by temporal position or dimension index. If
    the times of acquisition increase with the instance numbers, and trigger times do
    not, each frame is from another heartbeat, and times of acquisition are used. A file
    has one frame or several; further copies of an image, other files of a folder, and
    subfolders are ignored. Numbers are rescaled with the slope and intercept in the
    files, from which the geometry is read, too.

    Raises ValueError if a file is damaged, in colour, has white at its lowest value or
    a modality lookup table, or is compressed with a method that no installed package
    can decode, or if there are several slices and none is selected; ImportError without
    pydicom.
    """
    with needing("pydicom", "mri"):
        import pydicom

    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_image(file))
    slices: dict[Any, list[_Frame]] = {}
    known = set()
    for file in files:
        with reading(file, "a DICOM file"):
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            # Anonymised files may have the same identifier, or none.
            instance = tuple(str(dataset.get(name) or "") for name in _INSTANCE)
            if instance[0] and instance in known:
                continue
            known.add(instance)
            for frame in _frames(file, dataset):
                slices.setdefault(frame.slice, []).append(frame)
    if not slices:
        raise FileError(f"{path} holds no DICOM image")
    ordered = [slices[key] for key in sorted(slices)]
    names = [frames[0].described for frames in ordered]
    labels = []
    for name, frames in zip(names, ordered, strict=True):
        detail = frames[0].detail if names.count(name) > 1 else ""
        labels.append(f"{name}{detail}, {len(frames)} frames")
    frames = ordered[chosen(path, slice, labels)]
    times = _sort(frames)
    series, extrema, last = [], [0.0], None
    pixels: NDArray[Any] = np.empty(0)
    for frame in frames:
        with reading(frame.file, "a DICOM file"):
            if frame.file != last:
                dataset, last = pydicom.dcmread(frame.file), frame.file
                pixels = dataset.pixel_array
                pixels = pixels.reshape(-1, *pixels.shape[-2:])
            slope, intercept = frame.scale
            values = pixels[frame.index] * slope + intercept
            extrema += [values.min(), values.max()]
            series.append(to_complex(values, frame.file, "the frame"))
    check_magnitudes(min(extrema), max(extrema), frames[0].file, "the series")
    geometry = frames[0].geometry
    if geometry is not None and len(times) > 1:
        seconds = float(np.median(np.diff(times))) / 1000
        geometry = Geometry(geometry.affine, seconds)
    return Scan(np.stack(series), geometry=geometry)


def _sort(frames: list[_Frame]) -> list[float]:
    """Sort frames by time; return their times in milliseconds, none unless distinct."""
    frames.sort(key=lambda frame: frame.number)
    acquired = [frame.acquired for frame in frames if frame.acquired is not None]
    times = [frame.time for frame in frames if frame.time is not None]
    if _increases(acquired, len(frames)) and not _increases(times, len(frames)):
        return acquired
    if len(set(times)) < len(frames):
        return []
    frames.sort(key=lambda frame: frame.time or 0.0)
    return sorted(times)


def _increases(times: list[float], count: int) -> bool:
    return len(times) == count and all(a < b for a, b in pairwise(times))


def _milliseconds(time: Any) -> float | None:
    """Convert a time of the day, as ``HHMMSS.FFFFFF``; None if it is another text."""
    text = str(time)
    try:
        return 1000 * (3600 * int(text[:2]) + 60 * int(text[2:4]) + float(text[4:]))
    except ValueError:
        return None


def _is_image(path: Path) -> bool:
    """Check a file of a folder; ValueError if only its name is that of DICOM."""
    if _has_preamble(path):
        return True
    if path.is_file() and path.name.lower().endswith(DICOM_SUFFIXES):
        raise FileError(f"cannot read {path} as a DICOM file: it has no header")
    return False


def _has_preamble(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _frames(file: Path, dataset: Any) -> Iterator[_Frame]:
    """Yield the frames of a file; none if it contains no image."""
    if "Rows" not in dataset:
        return
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise FileError(f"{file} is a DICOM image in colour; it must be grey")
    if dataset.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        raise FileError(
            f"{file} has the photometric interpretation "
            f"{dataset.PhotometricInterpretation}; it must be MONOCHROME2"
        )
    size = int(dataset.Rows), int(dataset.Columns)
    count = int(dataset.get("NumberOfFrames") or 1)
    if count > _MOST_FRAMES:
        raise FileError(f"{file} has too many frames: {count}")
    if dataset.get("ModalityLUTSequence"):
        raise FileError(f"{file} has a modality lookup table, which is not supported")
    bits = int(dataset.get("BitsAllocated") or 16)
    check_bytes(file, "the pixels", count, *size, -(-bits // 8))
    for index in range(count):
        find = _finder(dataset, index)
        orientation = tuple(
            map(float, find("ImageOrientationPatient", _DEFAULT_ORIENTATION))
        )
        along, down = np.array(orientation).reshape(2, 3)
        normal = np.cross(along, down)
        position = find("ImagePositionPatient")
        if position is not None:
            location = float(np.dot(normal, np.array(position, float)))
        else:
            location = float(find("SliceLocation", 0))
        spacing = find("PixelSpacing")
        geometry = None
        if position is not None and spacing is not None:
            depth = find("SpacingBetweenSlices", find("SliceThickness", 1))
            steps = (float(spacing[1]), float(spacing[0]), float(depth))
            # From LPS (left, posterior, superior) to RAS coordinates.
            affine = np.eye(4)
            affine[:3, :3] = np.stack([along, down, normal], axis=1) * steps
            affine[:3, 3] = np.array(position, float)
            affine[:2] *= -1
            geometry = Geometry(affine)
        series = int(find("SeriesNumber", 0)), str(find("SeriesInstanceUID", ""))
        # In files of several frames, the type of each is in a separate group.
        kinds = tuple(map(str, find("FrameType", find("ImageType", ()))))
        kinds += (str(find("ComplexImageComponent", "")),)
        echo = float(find("EffectiveEchoTime", find("EchoTime", 0)))
        rounded = tuple(round(x, 3) for x in orientation)
        time = find("TriggerTime", find("NominalCardiacTriggerDelayTime"))
        name = find("SeriesDescription", "no description")
        order = find("TemporalPositionIndex", find("DimensionIndexValues", ()))
        if time is None and (interval := find("FrameTime")) is not None:
            time = index * float(interval)
        yield _Frame(
            file,
            index,
            (*series, kinds, round(echo, 3), size, rounded, round(location, 2)),
            None if time is None else float(time),
            _milliseconds(find("AcquisitionTime")),
            (int(find("InstanceNumber", 0)), *map(int, np.atleast_1d(order)), index),
            (float(find("RescaleSlope", 1)), float(find("RescaleIntercept", 0))),
            geometry,
            f"series {series[0]} ({name}) at {location:.1f} mm",
            f" of {size[0]}x{size[1]}, echo {echo:g} ms, {' '.join(kinds).strip()}",
        )


def _finder(dataset: Any, index: int) -> Callable[..., Any]:
    """Return a function that looks up attributes of a frame, then of the file."""
    groups = []
    for name, item in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        if dataset.get(name):
            groups += [e.value[0] for e in dataset.get(name)[item] if e.VR == "SQ"]

    def find(name: str, default: Any = None) -> Any:
        values = (group.get(name) for group in (*groups, dataset))
        return next((x for x in values if x is not None and x != ""), default)

    return find
