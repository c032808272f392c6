"""CIFAR-10 and CIFAR-100 in their binary versions (Krizhevsky 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.pictures import Image, from_bytes

__all__ = ["Cifar", "read_cifar"]

_SIDE = 32
_PIXELS = 3 * _SIDE**2
# Bytes of labels before the pixels of each picture.
_LABELS = {10: 1, 100: 2}
_FILES = {
    (10, "train"): tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    (10, "test"): ("test_batch.bin",),
    (100, "train"): ("train.bin",),
    (100, "test"): ("test.bin",),
}


@dataclass(frozen=True, eq=False)
class Cifar(Sequence[Image]):
    """Pictures that are kept as bytes; indexing makes them float32 in [0, 1].

    ``cifar[3]`` has the shape (32, 32, 3), ``cifar[:100]`` (100, 32, 32, 3).

    Attributes
    ----------
    pixels : ndarray of uint8, shape (N, 32, 32, 3)
        The pictures.
    labels : ndarray of uint8, shape (N,)
        Their classes, the fine ones of CIFAR-100.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int | slice) -> Image:  # type: ignore[override]
        """Make one picture, or a stack of them: which is no Sequence, but better."""
        return from_bytes(self.pixels[index])


def read_cifar(
    path: str | Path, *, part: str = "train", classes: int | None = None
) -> Cifar:
    """Read CIFAR-10 or CIFAR-100 as unpacked from its binary version.

    Parameters
    ----------
    path : str or Path
        The folder with ``data_batch_1.bin`` to ``data_batch_5.bin`` and
        ``test_batch.bin`` (CIFAR-10) or ``train.bin`` and ``test.bin`` (CIFAR-100);
        or one such file, of any number of pictures.
    part : {"train", "test"}
        What to read of a folder; without meaning for a file.
    classes : {10, 100}, optional
        Which of the two it is. By default that follows from the names of the files,
        or else from the length of the file.

    Returns
    -------
    Cifar
        A sequence of pictures, and their labels.

    Raises
    ------
    ValueError
        If a file is missing, or its length is not a whole number of pictures; or if
        an argument is out of range.
    """
    if part not in ("train", "test"):
        raise ValueError(f'part must be "train" or "test", got {part!r}')
    if classes not in (None, 10, 100):
        raise ValueError(f"classes must be 10 or 100, got {classes!r}")
    files, classes = _choose(Path(path), part, classes)
    records = [_records(file, classes) for file in files]
    labels = np.concatenate([r[:, _LABELS[classes] - 1] for r in records])
    planes = np.concatenate([r[:, _LABELS[classes] :] for r in records])
    pixels = planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return Cifar(np.ascontiguousarray(pixels), labels)


def _choose(path: Path, part: str, classes: int | None) -> tuple[list[Path], int]:
    """Find the files to read, and how many classes there are."""
    if path.is_dir():
        for number in (10, 100):
            files = [path / name for name in _FILES[number, part]]
            missing = [file.name for file in files if not file.is_file()]
            if classes in (None, number) and not missing:
                return files, number
            if classes in (None, number) and len(missing) < len(files):
                raise ValueError(f"{path} lacks {', '.join(missing)}")
        wanted = [names[0] for key, names in _FILES.items() if key[1] == part]
        raise ValueError(f"{path} holds neither {wanted[0]} nor {wanted[1]}")
    if not path.is_file():
        raise ValueError(f"there is no file or folder {path}")
    named = [number for (number, _), names in _FILES.items() if path.name in names]
    length = path.stat().st_size
    fitting = [n for n, label in _LABELS.items() if length % (label + _PIXELS) == 0]
    return [path], classes or (named + fitting + [10])[0]


def _records(file: Path, classes: int) -> NDArray[np.uint8]:
    record = _LABELS[classes] + _PIXELS
    try:
        data = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    if not data.size or data.size % record:
        raise ValueError(
            f"{file} has {data.size} bytes, which is not a whole number of pictures "
            f"of CIFAR-{classes}, {record} bytes each: truncated, or no such file"
        )
    records = data.reshape(-1, record)
    largest = int(records[:, _LABELS[classes] - 1].max())
    if largest >= classes:
        raise ValueError(
            f"{file} is no file of CIFAR-{classes}: it has a label {largest}"
        )
    return records
