"""Measurements of the Kuopio Tomography Challenge 2023, and the challenge's score.

Räsänen et al., "Kuopio Tomography Challenge 2023", Zenodo 2023: a water tank with 32
electrodes, measured without and with resistive and conductive things in it. The files
are MATLAB's; nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.metrics import similarity
from svdinv.unroll.tasks.impedance.operator import Impedance, Mesh

SIDE = 0.23
"""Side of the square of the pictures, in metres."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Tank:
    """One measurement, of 32 electrodes.

    Currents into them in milliamperes, (32, patterns); weights of their potentials in
    each measurement, (32, measurements); and with and without things in the water the
    voltages, (patterns, measurements), NaN where none was measured.
    """

    currents: Floats
    voltages: Floats
    data: Floats
    reference: Floats


def read_tank(folder: str | Path, target: int) -> Tank:
    """Read the measurement of a target, and that of the water alone beside it.

    From the folder of a level, with ``ref.mat`` and ``data1.mat`` to ``data4.mat``.
    Raises FileNotFoundError if a file is not there, ValueError if it is none of the
    challenge's.
    """
    path = Path(folder) / f"data{target}.mat"
    found = _read(path, "Inj", "Mpat", "Uel")
    empty = _read(Path(folder) / "ref.mat", "Uelref")
    currents, voltages = (found[name].astype(float) for name in ("Inj", "Mpat"))
    shape = (currents.shape[1], voltages.shape[1])
    y, reference = found["Uel"], empty["Uelref"]
    if not y.size == reference.size == shape[0] * shape[1]:
        raise ValueError(f"{path}: Uel and Uelref must have {shape} elements")
    # MATLAB's order: measurements of one pattern are neighbours.
    return Tank(currents, voltages, y.reshape(shape), reference.reshape(shape))


def read_mesh(path: str | Path) -> Mesh:
    """Read a mesh in metres, ``Mesh_sparse.mat`` or ``Mesh_dense.mat``.

    Raises FileNotFoundError if it is not there, ValueError if it is no such mesh.
    """
    found = _read(Path(path), "g", "H", "elfaces")
    triangles = found["H"].astype(int)
    first = triangles.min(initial=1)  # 0, or 1 as MATLAB counts
    edges = [face.astype(int) - first for face in found["elfaces"].ravel()]
    return Mesh(found["g"], triangles - first, tuple(edges))


def calibrated(mesh: Mesh, tank: Tank) -> tuple[Impedance, float, float]:
    """Fit the water's conductivity, and one contact impedance, to the reference.

    Returns the model with that impedance at all electrodes, the conductivity, what is
    left of the reference, relative to it. Raises ValueError if the electrodes of the
    mesh are others, or nothing was measured.
    """
    from scipy.optimize import least_squares

    there = np.isfinite(tank.reference)
    if not there.any():
        raise ValueError("the reference has no voltages")

    def fitted(p: Floats) -> tuple[Impedance, Floats]:
        A = Impedance(mesh, tank.currents, tank.voltages, np.exp(p[1]))
        return A, A.forward(np.full(len(mesh.triangles), np.exp(p[0])))

    def off(p: Floats) -> Floats:
        return (fitted(p)[1] - tank.reference)[there]

    p = least_squares(off, np.log([1.0, 1e-3]), diff_step=1e-3, max_nfev=20).x
    A, V = fitted(p)
    left = np.linalg.norm((V - tank.reference)[there])
    return A, float(np.exp(p[0])), float(left / np.linalg.norm(V[there]))


def deviations(reference: Floats, y: Floats, misfit: float) -> Floats:
    """Return standard deviations of difference data, with the model error.

    Of voltages of the water, their changes, and the misfit of `calibrated`: what it
    misfits of the water it will misfit of others.
    """
    size = np.nan_to_num(np.abs(reference))
    noise = 5e-4 * size + 1e-4 * size.max()
    return noise + misfit * np.sqrt(np.nanmean(y**2))


def segment(image: Floats) -> NDArray[np.uint8]:
    """Segment water, resistive and conductive inclusions by two Otsu thresholds.

    Of conductivities or their change: 0 in the class with most pixels, the water; 1 in
    classes below it, 2 in those above.
    """
    from skimage.filters import threshold_multiotsu

    if len(np.unique(image)) < 3:
        return np.zeros(image.shape, np.uint8)
    classes = np.digitize(image, threshold_multiotsu(image, 3))
    water = np.argmax(np.bincount(classes.ravel(), minlength=3))
    return (1 * (classes < water) + 2 * (classes > water)).astype(np.uint8)


def score(segmented: NDArray[Any], truth: NDArray[Any]) -> float:
    """Score a segmentation as the challenge does, 1 if it equals the truth.

    Both hold 0 for water, 1 resistive, 2 conductive; it is the mean of the structural
    similarities of the two classes' indicators. Raises ValueError if the shapes differ.
    """
    if segmented.shape != truth.shape:
        raise ValueError(
            f"segmented must have the shape {truth.shape}, got {segmented.shape}"
        )
    return sum(_similarity(segmented == k, truth == k) for k in (1, 2)) / 2


def _similarity(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean structural similarity, by a Gaussian window of 80 pixels."""
    from scipy.ndimage import gaussian_filter

    def mean(x: Floats) -> Floats:
        return gaussian_filter(x, 80, truncate=2, mode="constant") / inside

    inside: Any = 1.0
    inside = mean(np.ones(a.shape))
    return float(np.mean(similarity(a.astype(float), b.astype(float), 1.0, mean)))


def _read(path: Path, *names: str) -> dict[str, Any]:
    with needing("scipy", "mri"):
        from scipy.io import loadmat
    content = BytesIO(path.read_bytes())
    try:
        found = loadmat(content, variable_names=names)
    except Exception as error:  # whatever a damaged file makes it raise
        raise ValueError(f"{path} is no file of MATLAB: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    return found
