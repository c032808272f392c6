"""Raw data of fastMRI (Zbontar et al., arXiv 1811.08839)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.checks import FileError, is_numeric, to_complex
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.ismrmrd import cropped_readout
from svdinv.unroll.formats.scans import Scan, chosen

# Names of the reference image: for several coils, for one coil, and an older one.
_IMAGES = ("reconstruction_rss", "reconstruction_esc", "reconstruction")


@dataclass(frozen=True, eq=False)
class FastMRI:
    """A volume of fastMRI.

    `kspace` (slices, C, H, W) is complex64 with its centre at ``(H // 2, W // 2)``; H
    is the readout, oversampled by two, W the phase encoding, and C is 1 for one coil.
    `mask` (W,) of sampled columns is only in the test and challenge sets; `image`
    (slices, h, w) is the cropped root-sum-of-squares image, if any. `attributes` hold
    acquisition, max, norm and patient_id, among others; `header` is the ISMRMRD header
    (XML), or empty.
    """

    kspace: NDArray[np.complex64]
    mask: NDArray[np.bool_] | None
    image: NDArray[np.float32] | None
    attributes: dict[str, Any]
    header: str


def read_fastmri(path: str | Path, *, slices: slice | None = None) -> FastMRI:
    """Read all or some slices of an HDF5 file of fastMRI: knee or brain, any coils.

    Raises ValueError if the file is missing, damaged, or not in the layout of fastMRI,
    if no slice is selected, or numbers are not finite; ImportError without h5py.
    """
    chosen = slices if slices is not None else slice(None)
    with open_hdf5(path, "an HDF5 file of fastMRI") as file:
        if "kspace" not in file:
            names = ", ".join(file) or "nothing"
            raise FileError(f"{path} has no kspace; it has {names}")
        dataset = file.dataset("kspace")
        if dataset.ndim not in (3, 4) or not is_numeric(dataset.dtype):
            raise FileError(
                f"{path}: kspace must be numbers of shape (slices, C, H, W) or "
                f"(slices, H, W), got {dataset.dtype} of {dataset.shape}"
            )
        array = dataset[chosen]
        if not array.size:
            raise FileError(f"{path}: no slice is selected of kspace {dataset.shape}")
        kspace = to_complex(array, path, "kspace")
        if kspace.ndim == 3:
            kspace = kspace[:, None]
        image = mask = None
        if name := next((name for name in _IMAGES if name in file), None):
            images = file.dataset(name)
            if images.ndim != 3 or len(images) != len(dataset):
                raise FileError(
                    f"{path}: {images.name} has the shape {images.shape}, which is not "
                    f"that of {len(dataset)} slices"
                )
            image = images[chosen].astype(np.float32)
            if not np.isfinite(image).all():
                raise FileError(f"{path}: {images.name} must be finite")
        if "mask" in file:
            mask = np.asarray(file.read("mask")).astype(bool).reshape(-1)
            if len(mask) != kspace.shape[-1]:
                raise FileError(
                    f"{path}: mask has {len(mask)} columns, kspace {kspace.shape[-1]}"
                )
        header = file.read("ismrmrd_header") if "ismrmrd_header" in file else b""
        return FastMRI(
            kspace,
            mask,
            image,
            dict(file.attrs),
            header.decode() if isinstance(header, bytes) else str(header),
        )


def holds_fastmri(file: Datasets) -> bool:
    """Return whether an open HDF5 file is a fastMRI file."""
    return "kspace" in file and any(n in file for n in (*_IMAGES, "ismrmrd_header"))


def read_scan(path: Path, *, slice: int | None = None) -> Scan:
    """Read a slice as a series of one frame, and remove readout oversampling."""
    with open_hdf5(path, "an HDF5 file of fastMRI") as file:
        count, *_ = file.shape("kspace", "(slices, C, H, W)", (3, 4))
    number = chosen(path, slice, [""] * count)
    volume = read_fastmri(path, slices=np.s_[number : number + 1])
    kspace, mask = volume.kspace, (volume.kspace != 0).any(axis=1)
    if volume.mask is not None:
        mask = np.array(np.broadcast_to(volume.mask, mask.shape))
    if not volume.header:
        return Scan(kspace, mask, phase_axis=-1)
    turned = kspace.swapaxes(-1, -2), mask.swapaxes(-1, -2)  # the readout last
    kspace, mask = cropped_readout(*turned, volume.header, path)
    return Scan(
        np.ascontiguousarray(kspace.swapaxes(-1, -2)),
        np.ascontiguousarray(mask.swapaxes(-1, -2)),
        phase_axis=-1,
    )
