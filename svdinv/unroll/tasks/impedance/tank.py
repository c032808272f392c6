"""Measurements and score of the Kuopio Tomography Challenge 2023.

Räsänen et al., "Kuopio Tomography Challenge 2023", Zenodo 2023: a water tank with 32
electrodes, measured with and without resistive and conductive objects in it. The files
are in MATLAB's format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.checks import load_matlab, reading
from svdinv.unroll.metrics import similarity
from svdinv.unroll.tasks.impedance.operator import Impedance, Mesh

SIDE = 0.23
"""Side of the square of the pictures, in metres."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Tank:
    """One measurement with 32 electrodes.

    `currents` (32, patterns) are in milliamperes, `voltages` (32, measurements) are the
    weights of the potentials in each measurement; `data` and `reference` (patterns,
    measurements) are the voltages with and without objects, NaN where not measured.
    """

    currents: Floats
    voltages: Floats
    data: Floats
    reference: Floats


def read_tank(folder: str | Path, target: int) -> Tank:
    """Read the measurement of a target, and the reference measurement of water.

    `folder` holds the data of one level, ``ref.mat`` and ``data1.mat`` to
    ``data4.mat``. Raises FileNotFoundError if a file is missing, ValueError if it is
    not from the challenge.
    """
    path = Path(folder) / f"data{target}.mat"
    data = _read(path, "Inj", "Mpat", "Uel")
    water = _read(Path(folder) / "ref.mat", "Uelref")
    currents, voltages = (data[name].astype(float) for name in ("Inj", "Mpat"))
    shape = (currents.shape[1], voltages.shape[1])
    y, reference = data["Uel"], water["Uelref"]
    if not y.size == reference.size == shape[0] * shape[1]:
        raise ValueError(f"{path}: Uel and Uelref must have {shape} elements")
    # In MATLAB's order the measurements of one pattern are contiguous.
    return Tank(currents, voltages, y.reshape(shape), reference.reshape(shape))


def read_mesh(path: str | Path) -> Mesh:
    """Read a mesh in metres, ``Mesh_sparse.mat`` or ``Mesh_dense.mat``.

    Raises FileNotFoundError if it is missing, ValueError if it is not such a mesh.
    """
    content = _read(Path(path), "g", "H", "elfaces")
    triangles = content["H"].astype(int)
    first = triangles.min(initial=1)  # 0, or 1 in MATLAB's convention
    edges = [face.astype(int) - first for face in content["elfaces"].ravel()]
    return Mesh(content["g"], triangles - first, tuple(edges))


def read_classes(path: str | Path) -> NDArray[np.intp]:
    """Read a segmentation (H, W), such as ``true1.mat``: 0, or 1 and 2 for inclusions.

    Raises FileNotFoundError if it is missing, ValueError if it is not a segmentation.
    """
    classes = _read(Path(path), "truth")["truth"]
    if classes.ndim != 2 or not np.isin(classes, (0, 1, 2)).all():
        raise ValueError(f"{path}: truth must be a matrix of 0, 1 and 2")
    return classes.astype(np.intp)


def calibrated(mesh: Mesh, tank: Tank) -> tuple[Impedance, float, float]:
    """Fit the conductivity of the water and one contact impedance to the reference.

    Returns the model with that impedance at all electrodes, the conductivity, and the
    relative residual. Raises ValueError if the electrodes of the mesh do not match, or
    nothing was measured.
    """
    from scipy.optimize import least_squares

    measured = np.isfinite(tank.reference)
    if not measured.any():
        raise ValueError("the reference has no voltages")

    def predict(p: Floats) -> tuple[Impedance, Floats]:
        A = Impedance(mesh, tank.currents, tank.voltages, np.exp(p[1]))
        return A, A.forward(np.full(len(mesh.triangles), np.exp(p[0])))

    def residual(p: Floats) -> Floats:
        return (predict(p)[1] - tank.reference)[measured]

    p = least_squares(residual, np.log([1.0, 1e-3]), diff_step=1e-3, max_nfev=20).x
    A, V = predict(p)
    error = np.linalg.norm((V - tank.reference)[measured])
    return A, float(np.exp(p[0])), float(error / np.linalg.norm(V[measured]))


def deviations(reference: Floats, y: Floats, misfit: float) -> Floats:
    """Return standard deviations of difference data, including the model error.

    `reference` holds the voltages of the water, `y` the changes from them, and `misfit`
    is the relative residual of `calibrated`, which is assumed for the changes too.
    """
    size = np.nan_to_num(np.abs(reference))
    noise = 5e-4 * size + 1e-4 * size.max()
    return noise + misfit * np.sqrt(np.nanmean(y**2))


def segment(image: Floats) -> NDArray[np.uint8]:
    """Segment water, resistive and conductive inclusions by two Otsu thresholds.

    `image` holds conductivities or their changes. The class with most pixels is the
    water, 0; classes below it are 1, those above it 2.
    """
    from skimage.filters import threshold_multiotsu

    if len(np.unique(image)) < 3:
        return np.zeros(image.shape, np.uint8)
    classes = np.digitize(image, threshold_multiotsu(image, 3))
    water = np.argmax(np.bincount(classes.ravel(), minlength=3))
    return (1 * (classes < water) + 2 * (classes > water)).astype(np.uint8)


def score(segmented: NDArray[Any], truth: NDArray[Any]) -> float:
    """Score a segmentation as the challenge does; 1 if it equals the truth.

    Both arrays hold 0 for water, 1 for resistive, 2 for conductive; the score is the
    mean structural similarity of the indicators of classes 1 and 2. Raises ValueError
    if the shapes differ.
    """
    if segmented.shape != truth.shape:
        raise ValueError(
            f"segmented must have the shape {truth.shape}, got {segmented.shape}"
        )
    return sum(_similarity(segmented == k, truth == k) for k in (1, 2)) / 2


def _similarity(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean structural similarity with a Gaussian window of 80 pixels."""
    from scipy.ndimage import gaussian_filter

    def mean(x: Floats) -> Floats:
        return gaussian_filter(x, 80, truncate=2, mode="constant") / inside

    inside: Any = 1.0
    inside = mean(np.ones(a.shape))
    return float(np.mean(similarity(a.astype(float), b.astype(float), 1.0, mean)))


def _read(path: Path, *names: str) -> dict[str, Any]:
    path.stat()  # raises FileNotFoundError
    with needing("scipy", "mri"), reading(path, "a MATLAB file"):
        variables = load_matlab(path, *names)
    if missing := [name for name in names if name not in variables]:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    return variables
