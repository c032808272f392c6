"""Write the MOLLI series that comes with mdreg 0.4.4 as arrays.

    pip download --no-deps mdreg==0.4.4
    python benchmarks/molli.py mdreg-0.4.4-py3-none-any.whl

The package (Apache-2.0) carries it as a pickle, of which only NumPy arrays are made
here. Written are two slices, molli-0.npz and molli-1.npz: 8 frames of the middle
128 x 128 pixels, as magnitudes with the 99.9th percentile at 1.
"""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_FILE = "mdreg/datafiles/MOLLI.pkl"
_SIDE = 128
_ALLOWED = {
    ("multiarray", "_reconstruct"),
    ("multiarray", "scalar"),
    ("numeric", "_frombuffer"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what NumPy's pickles are made of."""
        head, _, last = module.rpartition(".")
        place = last if head in ("numpy.core", "numpy._core") else module
        if (place, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def main() -> None:
    """Convert the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="mdreg-0.4.4-py3-none-any.whl")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        help="folder for molli-0.npz, molli-1.npz",
    )
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as archive:
        content = archive.read(_FILE)
    images = ArrayUnpickler(io.BytesIO(content)).load()["array"]
    # Stored as signed numbers, but counted up to 2^16.
    magnitudes = images.view(np.uint16).astype(np.float32)
    magnitudes = np.minimum(magnitudes / np.percentile(magnitudes, 99.9), 1)
    height, width = magnitudes.shape[:2]
    top, left = (height - _SIDE) // 2, (width - _SIDE) // 2
    middle = magnitudes[left : left + _SIDE, top : top + _SIDE]
    slices = np.transpose(middle, (2, 3, 1, 0))
    for i, series in enumerate(slices):
        np.savez(arguments.output / f"molli-{i}.npz", series=series)


if __name__ == "__main__":
    main()
