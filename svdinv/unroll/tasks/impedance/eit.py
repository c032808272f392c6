"""Electrical impedance tomography: conductivities from voltages on the boundary.

Images hold the logarithm of the conductivity: 1/2 is water, 0 a tenth of its
conductivity and 1 ten times its conductivity.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.metrics import snr, ssim
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.impedance import EIT, TANKS
from svdinv.unroll.tasks.impedance.baselines import (
    boundary_angles,
    decibels,
    direct,
    penalised,
    tsvd,
)
from svdinv.unroll.tasks.impedance.model import Voltages, problem_of
from svdinv.unroll.tasks.impedance.phantom import phantom, random_tank, reduced
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Options,
    Simulated,
    Task,
    option,
)

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

_SIZE, _ELECTRODES, _RINGS, _CONTACT = 64, 16, 16, 0.01
_LEAST = 1e-7  # rounding error, relative to the mean voltage
_SCORED = 256  # pixels a side at which the challenge scores images
_MOST_CHANGED = 10.0  # relative to water, for conductivities of 0.1 to 10 times it
_UNLIKE = 0.3  # least residual of a reference that is none of the model
_CLEAR = 0.1  # distance from water beyond which a pixel is an inclusion

Floats = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class EitOptions(Options):
    """Options for reading conductivities and simulating voltages."""

    noise: float | None = option(
        None,
        "noise of voltages relative to their mean magnitude (default 1e-6)",
        low=0,
        high=10,
    )
    electrodes: int | None = option(
        None, f"electrodes around a tank (default {_ELECTRODES})", low=4, high=256
    )
    missing: int | None = option(
        None, "number of adjacent electrodes that are missing", low=0, high=256
    )
    size: int | None = option(
        None,
        f"rows and columns of a picture of a tank (default {_SIZE})",
        low=16,
        high=1024,
        of_file=True,
    )


@dataclass(frozen=True, kw_only=True)
class Eit(Task):
    """Reconstruction of conductivities from voltages on the boundary."""

    entry = EIT
    has_views = False  # electrodes and mesh have no symmetry in general
    options = EitOptions

    size: int = option(_SIZE, "rows and columns of the training images", low=16)
    electrodes: int = option(_ELECTRODES, "electrodes around each tank", low=4)
    noise: float = option(1e-4, "noise relative to the mean voltage", low=0)
    validation: int = option(4, "number of validation tanks", low=1)

    def load(self) -> Tanks:
        return Tanks(self)

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        return ("size",)

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a phantom, or a measurement of the challenge.

        Reading ``level_1/data1.mat`` needs ``level_1/ref.mat`` and, in the parent
        folder, ``Mesh_sparse.mat``; ``true1.mat`` there is the optional truth.
        """
        name, size = str(source), options.size or _SIZE
        if name in TANKS:
            seed = 1 if name == "tank-1" else options.seed
            return InputImage(f"{name} {seed}" if name == "tank" else name,
                         phantom(name, size, seed))  # fmt: skip
        return _challenge(Path(source), size)

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``voltages``, the measurement patterns and the mesh.

        ``voltages`` (patterns, measurements) are differences from those of water, or
        absolute with those of water as ``reference``, whose fit to the model reveals
        unit and polarity; ``deviation`` are their standard deviations, 0 where nothing
        was measured;
        ``currents`` (electrodes, patterns), ``pairs`` (electrodes, measurements) and
        ``contact`` (electrodes,) are the arguments of
        `svdinv.unroll.tasks.impedance.operator.Impedance`; ``nodes``, ``triangles`` and
        ``edges``, with rows (node, node, electrode), are the mesh; ``water`` is the
        conductivity of the water, ``truth`` (1, H, W) the optional truth. Without it,
        the optional ``size`` is the number of rows and columns of the picture.
        """
        arrays, size = _arrays_of(file), _size_of(file)
        try:
            problem = _problem_of_arrays(arrays, size)
        except ValueError as error:
            raise file.error("the arrays", f"do not fit: {error}") from error
        if "truth" not in file:
            return problem
        truth = file.real("truth")
        if (truth == 0.5).all():
            raise file.error("truth", "must not be water, 0.5, everywhere")
        return replace(problem, truth=truth)

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        voltages: Voltages = problem.scan.voltages
        model, mesh = voltages.model, voltages.model.mesh
        measured = voltages.weight > 0
        deviation = np.where(measured, 1 / np.where(measured, voltages.weight, 1), 0)
        edges = [
            np.column_stack([pairs, np.full(len(pairs), k)])
            for k, pairs in enumerate(mesh.electrodes)
        ]
        arrays = {
            "voltages": problem.y * deviation,
            "deviation": deviation,
            "currents": model.currents,
            "pairs": model.voltages,
            "contact": model.contact,
            "water": np.array([voltages.water]),
            "nodes": mesh.nodes,
            "triangles": mesh.triangles,
            "edges": np.concatenate(edges),
            "size": np.array([problem.scan.picture.size]),
        }
        return {name: np.asarray(x, np.float32) for name, x in arrays.items()}

    def examples(self, options: Any) -> list[InputImage | Problem]:
        seeds = (replace(options, seed=1000 + k) for k in range(3))
        found = [self.read("tank", each) for each in seeds]
        return [*found, self.read("lungs", options)]

    def settings(self, options: Any) -> list[Any]:
        if options.noise is not None:
            return [options]
        return [replace(options, noise=n) for n in (0.0, 1e-6, 5e-6, 0.01)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Simulate currents and voltages between neighbouring electrodes.

        Raises ValueError if fewer than four electrodes are left.
        """
        noise = 1e-6 if options.noise is None else options.noise
        count, missing = options.electrodes or _ELECTRODES, options.missing or 0
        if count - missing < 4:
            raise ValueError(
                f"missing must leave 4 of {count} electrodes, got {missing}"
            )
        water = _tank(count, missing, max(noise, _LEAST), given.image.shape[-1])
        y = water.A(given.image.astype(np.float64))
        rng = np.random.default_rng([options.seed, 1])
        factor = noise / max(noise, _LEAST)
        y = water.A.project_to_samples(y + factor * rng.standard_normal(y.shape))
        setting = f"noise {noise:g}, {count} electrodes"
        setting += f", {missing} of them missing" if missing else ""
        return replace(
            water, y=y.astype(np.float32), truth=given.image, name=given.name,
            setting=setting,
        )  # fmt: skip

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return 1, because data are in units of their noise; 0 without noise."""
        return 0.0 if options.noise == 0 else 1.0

    def data_unit(self, problem: Problem) -> float | None:
        return None

    def baselines(self) -> Mapping[str, Method]:
        return {
            "TSVD, discrepancy": functools.partial(tsvd, keep="discrepancy"),
            "TSVD, SURE": functools.partial(tsvd, keep="sure"),
            "D-bar": Baseline(
                direct,
                applies=lambda p: boundary_angles(p.scan.voltages) is not None,
            ),
            "Tikhonov": functools.partial(penalised, name="Tikhonov"),
            "TV": functools.partial(penalised, name="TV"),
            "TV, Gauss-Newton": functools.partial(penalised, name="Gauss-Newton"),
        }

    def finished(self, image: Any) -> Any:
        return np.clip(image, 0, 1)

    def decibels(self, problem: Problem, image: Any) -> float:
        return decibels(problem, image)

    def usual_misfit(self, problem: Problem) -> float:
        """Return a bound by the noise, of deviation 1 in the data."""
        noise = np.count_nonzero(problem.y) ** 0.5 / np.linalg.norm(problem.y)
        return max(15.0, 200 * float(noise))

    def describe(self, problem: Problem) -> str:
        voltages, picture = problem.scan
        count, size = int((voltages.weight > 0).sum()), picture.size
        triangles = len(voltages.model.mesh.triangles)
        return f"{size}x{size} pixels, {triangles} triangles, {count} voltages"

    metrics: ClassVar[Mapping[str, Callable[..., float]]] = {
        "SNR / dB": lambda truth, image: snr(truth - 0.5, image - 0.5),
        "SSIM": ssim,
        "score": lambda truth, image: _score(truth[..., 0], image[..., 0]),
    }


def _arrays_of(file: Datasets) -> dict[str, Any]:
    """Read the arrays of a measurement, and check each of them.

    The deviation is infinite where nothing was measured.
    """
    shape = file.shape("voltages", "(patterns, measurements)", (2,))
    file.same("deviation", shape, "of the voltages")
    water = file.number("water")
    if not water > 0:
        raise file.error("water", f"must be positive, got {water:g}")
    file.shape("currents", "(electrodes, patterns)", (2,))
    edges = file.shape("edges", "(edges, 3)", (2,))
    file.same("edges", (edges[0], 3), "(edges, 3)")
    arrays = {name: file.real(name).astype(np.float64) for name in _ARRAYS}
    if "reference" in file:
        file.same("reference", shape, "of the voltages")
        arrays["reference"] = file.real("reference").astype(np.float64)
    low, high = (f(arrays["nodes"], axis=0) for f in (np.min, np.max))
    if (np.abs(low + high) > (high - low) / 2).any():
        rule = f"must lie around (0, 0), got {low} to {high}: subtract their middle"
        raise file.error("nodes", rule)
    deviation = arrays["deviation"]
    if (deviation < 0).any() or not deviation.any():
        raise file.error("deviation", "must not be negative, nor 0 everywhere")
    counted, lit = deviation > 0, arrays["voltages"] != 0
    for axis, what in ((1, "pattern"), (0, "measurement")):
        dead = counted.any(axis) & ~(counted & lit).any(axis)
        if dead.any() and lit.any():
            rule = f"are 0 in {what} {np.flatnonzero(dead)[0]}: if nothing was"
            raise file.error("voltages", f"{rule} measured, set deviation to 0")
    deviation[deviation == 0] = np.inf
    whole = {name: file.whole(name) for name in ("edges", "triangles")}
    return arrays | whole | {"water": water}


def _size_of(file: Datasets) -> int:
    """Return the number of rows and columns of the truth, else ``size``."""
    size = file.number("size") if "size" in file else _SIZE
    if "truth" in file:
        size = file.shape("truth", "(1, H, W)", (3,))[-1]
        file.same("truth", (1, size, size), "of a square picture")
    elif size != int(size) or not 16 <= size <= 1024:
        raise file.error("size", f"must be an integer in [16, 1024], got {size:g}")
    return int(size)


def _problem_of_arrays(arrays: Mapping[str, Any], size: int) -> Problem:
    """Build model and problem; ValueError if arrays or units do not match."""
    model, water = _model_of_arrays(arrays), arrays["water"]
    y, deviation = arrays["voltages"], arrays["deviation"]
    flat = model(np.full(len(arrays["triangles"]), water))
    if flat.shape != deviation.shape:
        raise ValueError(
            f"currents and pairs make voltages {flat.shape}, but there are "
            f"{deviation.shape}"
        )
    measured = np.isfinite(deviation)
    if "reference" in arrays:
        factor = _factor(arrays["reference"], flat, measured)
        y, deviation = (y - arrays["reference"]) / factor, deviation / abs(factor)
    given, alone = y[measured], flat[measured]
    change, whole = np.linalg.norm(given), np.linalg.norm(alone)
    if change == 0:
        raise ValueError("voltages are 0 everywhere")
    # In any unit and polarity; a change of only the water may look similar.
    if abs(given @ alone) > 0.9 * change * whole and change > 0.3 * whole:
        raise ValueError(
            "voltages must be differences from the voltages of water; absolute "
            "ones need these as reference, in the same unit"
        )
    if change > _MOST_CHANGED * whole:
        raise ValueError(
            f"voltages are {change / whole:.3g} times those of the water alone, and "
            "must be in the units of currents, contact, water and nodes"
        )
    return problem_of(model, water, y, deviation, size)


def _model_of_arrays(arrays: Mapping[str, Any]) -> Any:
    """Build the mesh with its electrodes, and its operator."""
    from svdinv.unroll.tasks.impedance.operator import Impedance, Mesh

    number, contact = len(arrays["currents"]), arrays["contact"].ravel()
    if contact.size not in (1, number):
        raise ValueError(
            f"contact must have {number} numbers, one for each row of currents, got "
            f"{contact.size}"
        )
    ends, index = np.split(arrays["edges"], [2], axis=1)
    electrodes = tuple(ends[index[:, 0] == k] for k in range(number))
    if missing := [k for k, each in enumerate(electrodes) if not len(each)]:
        raise ValueError(f"electrode {missing[0]} is missing in edges")
    if sum(map(len, electrodes)) < len(ends):
        raise ValueError(f"edges must name electrodes from 0 to {number - 1}")
    mesh = Mesh(arrays["nodes"], arrays["triangles"], electrodes)
    return Impedance(mesh, arrays["currents"], arrays["pairs"], contact)


def _factor(reference: Floats, flat: Floats, measured: Any) -> float:
    """Return the factor of the model's voltages of water that fits measured ones.

    It is the ratio of their units, negative for the other polarity. Raises ValueError
    if they differ by more, as for another order of electrodes.
    """
    given, alone = reference[measured], flat[measured]
    if not given.any():
        raise ValueError("the reference is 0 everywhere")
    factor = float(given @ alone / (alone @ alone))
    residual = np.linalg.norm(given - factor * alone) / np.linalg.norm(given)
    if not residual < _UNLIKE:
        raise ValueError(
            f"the reference differs by {residual:.0%} from the model's voltages of "
            "water, in any unit: are electrodes, patterns and pairs in its order?"
        )
    return factor


_ARRAYS = "voltages", "deviation", "currents", "pairs", "contact", "water", "nodes"


class Tanks(Simulated):
    """Random tanks and their voltages, to train on."""

    task: Eit

    def problem(self, *key: int) -> Problem:
        task, rng = self.task, np.random.default_rng(key)
        image = random_tank(task.size, rng)
        options = EitOptions(
            electrodes=task.electrodes, noise=task.noise, seed=int(rng.integers(2**31))
        )
        return task.measure(InputImage("tank", image), options)


@functools.lru_cache(maxsize=2)
def _model(electrodes: int) -> Any:
    from svdinv.unroll.tasks.impedance.operator import Impedance, adjacent, disc

    pairs = adjacent(electrodes)
    return Impedance(disc(_RINGS, electrodes), pairs, pairs, _CONTACT)


@functools.lru_cache(maxsize=4)
def _tank(electrodes: int, missing: int, noise: float, size: int) -> Problem:
    """Return the problem of a tank of water, whose operator all phantoms share."""
    model = _model(electrodes)
    reference = model.forward(np.ones(model.image_shape))
    deviation = np.full(model.data_shape, noise * float(np.abs(reference).mean()))
    removed = np.arange(electrodes) >= electrodes - missing
    deviation[(model.currents[removed] != 0).any(axis=0)] = np.inf
    deviation[:, (model.voltages[removed] != 0).any(axis=0)] = np.inf
    return problem_of(model, 1.0, np.zeros(model.data_shape), deviation, size)


def _challenge(path: Path, size: int) -> Problem:
    """Read a measurement of the challenge."""
    from svdinv.unroll.tasks.impedance.tank import (
        calibrated,
        deviations,
        read_classes,
        read_mesh,
        read_tank,
    )

    number, root = path.stem.removeprefix("data"), path.resolve().parent.parent
    try:
        mesh = read_mesh(root / "Mesh_sparse.mat")
        tank = read_tank(path.parent, int(number))
    except FileNotFoundError as error:
        message = f"{path} needs {error.filename}, which does not exist"
        raise ValueError(message) from error
    model, water, misfit = calibrated(mesh, tank)
    y = tank.data - tank.reference
    deviation = deviations(tank.reference, y, misfit)
    problem = problem_of(model, water, y, deviation, size)
    truth = None
    segmentation = root / f"true{number}.mat"
    if segmentation.exists():
        classes = read_classes(segmentation)
        truth = reduced(np.array([0.5, 0.0, 1.0])[classes], size)[None]
    name, setting = f"{path.resolve().parent.name} {path.stem}", "as measured"
    return replace(problem, truth=truth, name=name, setting=setting)


def _score(truth: Floats, image: Floats) -> float:
    """Segment an image and score it as the challenge does, at its number of pixels."""
    from svdinv.unroll.tasks.impedance.tank import score, segment

    classes = 1 * (truth < 0.5 - _CLEAR) + 2 * (truth > 0.5 + _CLEAR)
    nearest = (np.arange(_SCORED) * len(truth)) // _SCORED
    pixels = np.ix_(nearest, nearest)
    return score(segment(image)[pixels], classes[pixels])
