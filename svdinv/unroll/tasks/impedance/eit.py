"""Electrical impedance tomography: conductivities from voltages on a boundary.

Pictures show the logarithm of the conductivity: 1/2 is the water, 0 a tenth of its
conductivity and 1 ten times as much.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv.numpy import svd_lowrank
from svdinv.unroll.arrays import Array, cast_like, namespace
from svdinv.unroll.data.noise import generator
from svdinv.unroll.metrics import snr, ssim
from svdinv.unroll.operators import Operator, Wrapped, WrappedNonlinear
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.impedance import EIT, TANKS, holds_tank
from svdinv.unroll.tasks.registry import TaskEntry
from svdinv.unroll.tasks.task import (
    InputImage,
    Method,
    Options,
    Reconstruction,
    Simulated,
    Task,
    best_of,
    option,
)

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

__all__ = [
    "Eit",
    "EitOptions",
    "Picture",
    "Tanks",
    "Voltages",
    "logarithmic",
    "penalties",
    "problem_of",
    "smooth",
]

_SIZE, _ELECTRODES, _RINGS, _CONTACT = 64, 16, 16, 0.01
_DECADE = math.log(10)
_LEAST = 1e-7  # of the mean voltage: what rounding errors leave, at least
_RANK = 60
_FILTER = 0.02  # of the largest singular value, where they are damped by half
_LITTLE = 0.02  # of the logarithm of the conductivity
# What the model gets wrong, of the root mean square of the data.
_LINEAR_ERROR, _MODEL_ERROR = 0.1, 0.01
_WEIGHTS = {
    "Tikhonov": (1e-3, 1e-2, 0.1, 1.0),
    "TV": (0.01, 0.1, 1.0, 10.0),
    "Gauss-Newton": (0.1, 1.0, 10.0),
}
_FIXED = {"Tikhonov": 0.1, "TV": 0.1, "Gauss-Newton": 1.0}
_DBAR = "D-bar"
_CUTOFFS = (5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5)
_JUDGED = 256  # pixels of the challenge's pictures
_CLEAR = 0.1  # from the water in a picture, for a class of its own

Floats = NDArray[Any]


class Voltages(WrappedNonlinear):
    """From conductivities of triangles, relative to the water, to voltages.

    To the difference of those of the water, in units of the noise: of an `Impedance`,
    the conductivity of the water, and the standard deviations of the data,
    (patterns, measurements), infinite where nothing is measured. Raises ValueError if
    these have another shape or are not positive, or nothing is measured.
    """

    def __init__(self, model: Any, water: float, deviation: Floats) -> None:
        self.model, self.water = model, float(water)
        shape = model.data_shape
        if deviation.shape != shape or not (deviation > 0).all():
            raise ValueError(
                f"deviation must be positive, of the shape {shape}, got "
                f"{deviation.shape}"
            )
        self.weight = 1 / deviation
        if not self.weight.any():
            raise ValueError("deviation must be finite somewhere: nothing is measured")
        self.reference = model.forward(np.full(model.image_shape, self.water))
        self._factors: Any = None
        super().__init__(
            lambda s: self.weight * (self._model(s) - self.reference),
            lambda s, ds: self.weight * self._slope(s).forward(self._wide(ds)),
            lambda s, y: self.water * self._slope(s).adjoint(
                self.weight * np.asarray(y, np.float64)
            ),
            model.image_shape,
            shape,
        )  # fmt: skip

    def project_to_samples(self, y: Array) -> Array:
        xp = namespace(y)
        return xp.where(cast_like(self.weight > 0, y, xp), y, xp.zeros_like(y))

    def approximate_inverse(self, y: Array) -> Array:
        """Return conductivities by the leading singular values of the derivative.

        From (..., patterns, measurements) to (..., triangles), relative to the water,
        by one linear step.
        """
        U, gains, V = self._leading()
        shape = self.data_shape
        A = Wrapped(
            lambda y: V @ (gains * (U.T @ np.asarray(y, np.float64).ravel())),
            lambda x: (U @ (gains * (V.T @ np.asarray(x, np.float64)))).reshape(shape),
            shape,
            self.image_shape,
        )
        return 1 + A.forward(self.project_to_samples(y))

    def _leading(self) -> Any:
        """Return singular vectors at the water, and the filter of coefficients."""
        if self._factors is None:
            like = np.ones(self.image_shape)
            D, C = self.derivative(like), smooth(self.model.mesh)
            made = C.forward(np.zeros(C.image_shape))
            rank = min(_RANK, int((self.weight > 0).sum()), made.size)
            U, S, Vh = svd_lowrank(
                (lambda w: D.forward(C.forward(w)), lambda y: C.adjoint(D.adjoint(y))),
                rank, seed=0, like=np.zeros(C.image_shape),
            )  # fmt: skip
            V = np.stack([C.forward(v) for v in Vh.reshape(rank, -1)], axis=1)
            gains = S / (S**2 + (_FILTER * S[0]) ** 2)
            self._factors = U.reshape(-1, rank), gains, V
        return self._factors

    def _wide(self, s: Floats) -> Floats:
        return self.water * np.asarray(s, np.float64)

    def _model(self, s: Floats) -> Floats:
        s = self._wide(s)
        if not (s > 0).all():  # for a fit or a line search to step back from
            return np.full(self.data_shape, np.nan)
        return self.model.forward(s)

    def _slope(self, s: Floats) -> Any:
        return self.model.derivative(self._wide(s))


class Picture(WrappedNonlinear):
    """From pictures to conductivities of triangles, relative to the water.

    ``10^(2 x - 1)``, of the mean logarithm in each triangle of the mesh, which lies
    around the origin. The side of the picture is twice the largest distance of a node
    from there.
    """

    def __init__(self, mesh: Any, size: int) -> None:
        from scipy.sparse import csr_array

        self.mesh, self.size = mesh, size
        radius = float(np.linalg.norm(mesh.nodes, axis=1).max())
        corners = mesh.nodes[mesh.triangles]
        inner = [(1 / 3,) * 3]
        inner += [(a, b, 1 - a - b) for a, b in ((0.6, 0.2), (0.2, 0.6), (0.2, 0.2))]
        points = np.einsum("pk,tkd->tpd", np.array(inner), corners)
        # In pixels, from the first row and column.
        place = (points / radius + 1) / 2 * size - 0.5
        column, row = place[..., 0], size - 1 - place[..., 1]
        low = [np.floor(z).clip(0, size - 2) for z in (row, column)]
        share = [(z - l).clip(0, 1) for z, l in zip((row, column), low, strict=True)]
        count, each = len(mesh.triangles), len(inner)
        rows, columns, values = [], [], []
        for down in (0, 1):
            for right in (0, 1):
                pairs = zip(share, (down, right), strict=True)
                w = [s if d else 1 - s for s, d in pairs]
                index = (low[0] + down) * size + low[1] + right
                columns.append(index.astype(int).ravel())
                values.append((w[0] * w[1] / each).ravel())
                rows.append(np.repeat(np.arange(count), each))
        whole = tuple(np.concatenate(x) for x in (values, rows, columns))
        self._mean = csr_array((whole[0], whole[1:]), shape=(count, size**2))
        line = ((np.arange(size) + 0.5) / size * 2 - 1) * radius
        X, Y = np.meshgrid(line, -line)
        self._index = mesh.at(np.stack([X, Y], axis=-1))
        self._inside = np.hypot(X, Y) < radius
        shape = (1, size, size)
        super().__init__(
            self._value,
            lambda x, dx: 2 * _DECADE * self._value(x) * self._mixed(dx),
            lambda x, y: (
                self._mean.T @ (2 * _DECADE * self._value(x) * y)
            ).reshape(shape),
            shape,
            (count,),
        )  # fmt: skip

    def draw(self, values: Floats, around: float = 0.0) -> Floats:
        """Draw values of triangles, (1, size, size), with something around them."""
        return np.where(self._inside, values[self._index], around)[None]

    def approximate_inverse(self, y: Array) -> Array:
        """Return the picture of conductivities, clipped to a decade around the water.

        From (..., triangles), relative to the water, to (..., 1, size, size).
        """
        xp = namespace(y)
        one = xp.ones_like(y)
        y = xp.where(y > 0.1, y, 0.1 * one)
        y = xp.where(y < 10, y, 10 * one)
        A = Wrapped(self.draw, self._drawn, self.data_shape, self.image_shape)
        return 0.5 + A.forward(xp.log(y) / (2 * _DECADE))

    def _value(self, x: Floats) -> Floats:
        # Single precision has no numbers beyond.
        return np.exp(np.clip(_DECADE * (2 * self._mixed(x) - 1), -80, 80))

    def _mixed(self, x: Floats) -> Floats:
        return self._mean @ np.asarray(x, np.float64).ravel()

    def _drawn(self, x: Floats) -> Floats:
        """Apply the adjoint of `draw`."""
        values = np.where(self._inside, x[0], 0).ravel()
        return np.bincount(self._index.ravel(), values, len(self.mesh.triangles))


@dataclass(frozen=True, kw_only=True)
class EitOptions(Options):
    """How conductivities are read and measured."""

    noise: float | None = option(
        None,
        "of voltages relative to their mean magnitude (default 1e-6)",
        low=0,
        high=10,
    )
    electrodes: int | None = option(
        None,
        f"electrodes around a tank (default {_ELECTRODES})",
        low=4,
        high=256,
    )
    missing: int | None = option(
        None, "how many of them are missing, one beside the other", low=0, high=256
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
    """Conductivities, of which voltages on the boundary are known."""

    entry: ClassVar[TaskEntry] = EIT
    has_views: ClassVar[bool] = False  # electrodes and mesh have no symmetry in general
    options: ClassVar[type[Options]] = EitOptions

    size: int = option(_SIZE, "rows and columns of what is trained on", low=16)
    electrodes: int = option(_ELECTRODES, "electrodes around each tank", low=4)
    noise: float = option(1e-4, "noise relative to the mean voltage", low=0)
    validation: int = option(4, "tanks to watch the training by", low=1)

    def load(self) -> Tanks:
        return Tanks(self)

    def files(self, folder: Path) -> list[Path]:
        """List the measurements of a level; ValueError if there are none."""
        found = [path for path in sorted(folder.iterdir()) if holds_tank(path)]
        if not found:
            raise ValueError(f"{folder} holds no measurements of the Kuopio challenge")
        return found

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        return ("size",)

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a phantom, or a measurement of the challenge.

        Beside ``level_1/data1.mat`` there has to be ``level_1/ref.mat``, and in the
        folder above ``Mesh_sparse.mat``; ``true1.mat`` there is the truth.
        """
        name, size = str(source), options.size or _SIZE
        if name in TANKS:
            seed = 1 if name == "tank-1" else options.seed
            return InputImage(f"{name} {seed}" if name == "tank" else name,
                         _phantom(name, size, seed))  # fmt: skip
        return _challenge(Path(source), size)

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``voltages``, what measured them, and the mesh.

        ``voltages`` (patterns, measurements), the difference of those of the water,
        with ``deviation``, their standard deviations, 0 where nothing was
        measured; ``currents`` (electrodes, patterns) and ``pairs`` (electrodes,
        measurements) as of `svdinv.unroll.tasks.impedance.operator.Impedance`, with
        ``contact``, (electrodes,); ``nodes``, ``triangles`` and ``edges``, of rows
        (node, node, electrode); ``water``, one number; ``truth`` (1, H, W).
        """
        from svdinv.unroll.tasks.impedance.operator import Impedance, Mesh

        shape = file.shape("voltages", "(patterns, measurements)", (2,))
        file.same("deviation", shape, "of the voltages")
        file.same("water", (1,), "of one number")
        number, _ = file.shape("currents", "(electrodes, patterns)", (2,))
        edges = file.shape("edges", "(edges, 3)", (2,))
        file.same("edges", (edges[0], 3), "(edges, 3)")
        held = {name: file.real(name).astype(np.float64) for name in _HELD}
        numbered, triangles = file.whole("edges"), file.whole("triangles")
        size = _SIZE
        if "truth" in file:
            size = file.shape("truth", "(1, H, W)", (3,))[-1]
            file.same("truth", (1, size, size), "of a square picture")
        deviation = held["deviation"]
        if (deviation < 0).any():
            raise file.error("deviation", "must not be negative")
        deviation[deviation == 0] = np.inf
        try:
            if held["contact"].size not in (1, number):
                due = f"contact must have {number} numbers, one for each electrode"
                raise ValueError(f"{due}, got {held['contact'].size}")
            ends, above = np.split(numbered, [2], axis=1)
            under = tuple(ends[above[:, 0] == k] for k in range(number))
            if missing := [k for k, each in enumerate(under) if not len(each)]:
                raise ValueError(f"electrode {missing[0]} is missing in edges")
            if sum(map(len, under)) < len(ends):
                raise ValueError(f"edges must name electrodes from 0 to {number - 1}")
            mesh = Mesh(held["nodes"], triangles, under)
            model = Impedance(
                mesh, held["currents"], held["pairs"], held["contact"].ravel()
            )
            problem = problem_of(
                model, float(held["water"][0]), held["voltages"], deviation, size
            )
        except ValueError as error:
            raise file.error("voltages", f"do not fit: {error}") from error
        if "truth" not in file:
            return problem
        return replace(problem, truth=file.real("truth"))

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        voltages: Voltages = problem.note.voltages
        model, mesh = voltages.model, voltages.model.mesh
        there = voltages.weight > 0
        deviation = np.where(there, 1 / np.where(there, voltages.weight, 1), 0)
        edges = [
            np.column_stack([pairs, np.full(len(pairs), k)])
            for k, pairs in enumerate(mesh.electrodes)
        ]
        held = {
            "voltages": problem.y * deviation,
            "deviation": deviation,
            "currents": model.currents,
            "pairs": model.voltages,
            "contact": model.contact,
            "water": np.array([voltages.water]),
            "nodes": mesh.nodes,
            "triangles": mesh.triangles,
            "edges": np.concatenate(edges),
        }
        return {name: np.asarray(x, np.float32) for name, x in held.items()}

    def examples(self, options: Any) -> list[InputImage]:
        """Return tanks of other seeds than those of the training."""
        found = [
            self.read("tank", replace(options, seed=1000 + options.seed + k))
            for k in range(3)
        ]
        found.append(self.read("lungs", options))
        return [given for given in found if isinstance(given, InputImage)]

    def settings(self, options: Any) -> list[Any]:
        """Return four levels of noise, unless the options name one."""
        if options.noise is not None:
            return [options]
        return [replace(options, noise=n) for n in (0.0, 1e-6, 5e-6, 0.01)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Measure with currents and voltages between neighbouring electrodes.

        Raises ValueError if less than two pairs of electrodes are left.
        """
        noise = 1e-6 if options.noise is None else options.noise
        count, missing = options.electrodes or _ELECTRODES, options.missing or 0
        if count - missing < 4:
            raise ValueError(
                f"missing must leave 4 of {count} electrodes, got {missing}"
            )
        found = _tank(count, missing, max(noise, _LEAST), given.image.shape[-1])
        y = found.A(given.image.astype(np.float64))
        rng = np.random.default_rng([options.seed, 1])
        share = noise / max(noise, _LEAST)
        y = found.A.project_to_samples(y + share * rng.standard_normal(y.shape))
        setting = f"noise {noise:g}, {count} electrodes"
        setting += f", {missing} of them missing" if missing else ""
        return replace(
            found, y=y.astype(np.float32), truth=given.image, name=given.name,
            setting=setting,
        )  # fmt: skip

    def deviation(self, problem: Problem, options: Any) -> float | None:
        """Return 1, since data are in units of their noise."""
        return 0.0 if options.noise == 0 else 1.0

    def baselines(self) -> Mapping[str, Method]:
        """Return truncated SVD, Tikhonov, TV, D-bar and Gauss-Newton by name."""
        return {
            "TSVD, discrepancy": functools.partial(tsvd, keep="discrepancy"),
            "TSVD, SURE": functools.partial(tsvd, keep="sure"),
            _DBAR: direct,
            "Tikhonov": functools.partial(penalised, name="Tikhonov"),
            "TV": functools.partial(penalised, name="TV"),
            "TV, Gauss-Newton": functools.partial(penalised, name="Gauss-Newton"),
        }

    def applies(self, method: str, problem: Problem) -> bool:
        """Return whether a method applies: D-bar needs the whole boundary."""
        return method != _DBAR or _angles(problem.note.voltages) is not None

    def finished(self, image: Any) -> Any:
        """Clip to a decade on both sides of the water."""
        return np.clip(image, 0, 1)

    def decibels(self, problem: Problem, image: Any) -> float:
        """Return the SNR of the change."""
        return snr(problem.truth - 0.5, np.clip(image, 0, 1) - 0.5)

    def describe(self, problem: Problem) -> str:
        voltages = problem.note.voltages
        count, size = int((voltages.weight > 0).sum()), problem.note.picture.size
        triangles = len(voltages.model.mesh.triangles)
        return f"{size}x{size} pixels, {triangles} triangles, {count} voltages"

    metrics: ClassVar[Mapping[str, Callable[..., float]]] = {
        "SNR / dB": lambda truth, image: snr(truth - 0.5, image - 0.5),
        "SSIM": ssim,
        "score": lambda truth, image: _score(truth[..., 0], image[..., 0]),
    }


_HELD = "voltages", "deviation", "currents", "pairs", "contact", "water", "nodes"


class _Note(NamedTuple):
    """What belongs to voltages: both parts of the operator."""

    voltages: Voltages
    picture: Picture

    def __str__(self) -> str:
        model = self.voltages.model
        return f"{len(model.contact)} electrodes, {len(model.mesh.triangles)} triangles"


@dataclass(frozen=True)
class Tanks(Simulated):
    """Tanks with things in them and their voltages, to train on."""

    task: Eit

    def problem(self, *key: int) -> Problem:
        """Draw one, and measure it."""
        task, rng = self.task, generator(*key)
        image = _things(task.size, rng)
        options = EitOptions(
            electrodes=task.electrodes, noise=task.noise, seed=int(rng.integers(2**31))
        )
        return task.measure(InputImage("tank", image), options)


def problem_of(
    model: Any, water: float, y: Floats, deviation: Floats, size: int
) -> Problem:
    """Return the problem of a picture of a tank, with `size` rows, of an `Impedance`.

    `y` holds voltages less those of the water, (patterns, measurements), and
    `deviation` their standard deviations; what is not finite was not measured. The data
    of the problem are in units of their noise. Raises ValueError as `Voltages`.
    """
    there = np.isfinite(y) & np.isfinite(deviation)
    voltages = Voltages(model, water, np.where(there, deviation, np.inf))
    picture = _picture(model.mesh, size)
    data = np.where(there, y, 0) * voltages.weight
    note = _Note(voltages, picture)
    return Problem(data.astype(np.float32), voltages * picture, note=note)


@functools.lru_cache(maxsize=2)
def _model(electrodes: int) -> Any:
    from svdinv.unroll.tasks.impedance.operator import Impedance, adjacent, disc

    pairs = adjacent(electrodes)
    return Impedance(disc(_RINGS, electrodes), pairs, pairs, _CONTACT)


@functools.lru_cache(maxsize=4)
def _tank(electrodes: int, missing: int, noise: float, size: int) -> Problem:
    """Return the problem of water alone, whose operator all tanks share."""
    model = _model(electrodes)
    reference = model.forward(np.ones(model.image_shape))
    deviation = np.full(model.data_shape, noise * float(np.abs(reference).mean()))
    gone = np.arange(electrodes) >= electrodes - missing
    deviation[(model.currents[gone] != 0).any(axis=0)] = np.inf
    deviation[:, (model.voltages[gone] != 0).any(axis=0)] = np.inf
    return problem_of(model, 1.0, np.zeros(model.data_shape), deviation, size)


_picture = functools.lru_cache(maxsize=4)(Picture)
"""The picture of a mesh: once, as long as the mesh is in use."""


def penalties(mesh: Any) -> Any:
    """Return a matrix of differences between triangles and a small identity."""
    from scipy.sparse import diags_array, vstack

    from svdinv.unroll.tasks.impedance.operator import neighbours

    area = np.sqrt(mesh.areas)
    mean = area.mean()
    return vstack([neighbours(mesh) / mean, 0.1 * diags_array(area / mean)])


def smooth(mesh: Any) -> Wrapped:
    """Return C such that the minimum-norm w with C w = x is ``L x`` (`penalties`)."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    L = penalties(mesh)
    solve = splu(csc_array(L.T @ L)).solve
    return Wrapped(
        lambda w: solve(L.T @ w), lambda x: L @ solve(x), L.shape[:1], L.shape[1:]
    )


def logarithmic(voltages: Voltages) -> Operator:
    """Return the operator on logarithms, which keeps conductivities positive."""
    shape = voltages.image_shape
    return voltages * WrappedNonlinear(
        np.exp, lambda x, dx: np.exp(x) * dx, lambda x, y: np.exp(x) * y, shape, shape
    )


def _deviation(y: Floats, error: float) -> float:
    """Return the standard deviation of the noise, 1, and of the model error."""
    some = y[y != 0]
    return math.hypot(1, error * math.sqrt(float(np.mean(some**2)))) if some.size else 1


def _as_picture(problem: Problem, change: Floats) -> Floats:
    """Return the picture of a linear change of the logarithm of the conductivity."""
    drawn = problem.note.picture.draw(change / (2 * _DECADE))
    return np.clip(0.5 + drawn, 0, 1).astype(np.float32)


def _data(problem: Problem) -> Floats:
    """Return the data, NaN where none were measured."""
    voltages = problem.note.voltages
    return np.where(voltages.weight > 0, problem.y.astype(np.float64), np.nan)


def tsvd(problem: Problem, *, keep: Any) -> Reconstruction:
    """Make one linear step, of the leading singular values.

    How many, `keep` says, as for `svdinv.unroll.algorithms.nonlinear.truncated_svd`,
    and so does the note.
    """
    from svdinv.unroll.algorithms.nonlinear import truncated_svd

    voltages = problem.note.voltages
    C = smooth(voltages.model.mesh)
    D = voltages.derivative(np.ones(voltages.image_shape))
    y = _data(problem)
    rank = min(_RANK, int(np.isfinite(y).sum()))
    found = truncated_svd(
        D * C, y, np.zeros(C.image_shape), rank=rank, keep=keep,
        noise=_deviation(problem.y, _LINEAR_ERROR),
    )  # fmt: skip
    image = _as_picture(problem, C.forward(found.image))
    return Reconstruction(image, f"{found.kept} of {rank} kept")


def penalised(problem: Problem, *, name: str) -> Reconstruction:
    """Make one linear step with a penalty, or as many as are needed.

    "Tikhonov" penalises the square of differences, "TV" their magnitudes, and so does
    "Gauss-Newton", with Gauss-Newton steps. The weight, which the note tells, is the
    best of a grid where the truth is known.
    """
    from svdinv.unroll.algorithms.nonlinear import gauss_newton

    voltages, y = problem.note.voltages, _data(problem)
    L, one = penalties(voltages.model.mesh), np.ones(voltages.image_shape)
    whole = name == "Gauss-Newton"
    A = logarithmic(voltages) if whole else voltages.derivative(one)

    def at(weight: float) -> Floats:
        found = gauss_newton(
            A, y, 0 * one, L, weight=weight,
            noise=_deviation(problem.y, _MODEL_ERROR if whole else _LINEAR_ERROR),
            variation=None if name == "Tikhonov" else _LITTLE,
            iterations={"Tikhonov": 1, "TV": 5}.get(name, 8),
        )  # fmt: skip
        return _as_picture(problem, found)

    weights, usual = _WEIGHTS[name], _FIXED[name]
    return best_of(Eit(), problem, at, weights, usual, "weight {:g}")


def direct(problem: Problem) -> Reconstruction:
    """Reconstruct a disc by the D-bar method, from its Dirichlet-to-Neumann map.

    The cutoff of the low-pass, which the note tells, is the best where the truth is
    known, otherwise the largest at which the method converges; water if there is none.
    Raises ValueError if there are not all electrodes of a disc.
    """
    from svdinv.unroll.tasks.impedance.dbar import boundary_map, dbar

    voltages = problem.note.voltages
    model, angles = voltages.model, _angles(voltages)
    if angles is None:
        raise ValueError("D-bar needs electrodes all around a disc, and all voltages")
    y = problem.y.astype(np.float64) / voltages.weight
    into, between = (np.linalg.pinv(w) for w in (model.currents.T, model.voltages))
    boundary = boundary_map(voltages.water * into @ y @ between, angles)
    points = model.mesh.centres / np.linalg.norm(model.mesh.nodes, axis=1).max()
    found: dict[float, Floats] = {}
    for cutoff in _CUTOFFS:
        try:
            change = np.log(np.clip(dbar(boundary, points, cutoff), 0.01, 100))
        except ValueError:  # the noise is too much for details as small
            continue
        found[cutoff] = _as_picture(problem, change)
        if problem.truth is None:
            break
    if not found:
        return Reconstruction(
            _as_picture(problem, 0 * points[:, 0]), "no cutoff is low enough"
        )
    make, usual = found.__getitem__, max(found)
    return best_of(Eit(), problem, make, found, usual, "cutoff {:g}")


def _angles(voltages: Voltages) -> Floats | None:
    """Return the angles of electrodes if they cover the boundary of a disc."""
    model, mesh = voltages.model, voltages.model.mesh
    count = len(mesh.electrodes)
    middles = np.stack([mesh.nodes[e].mean(axis=(0, 1)) for e in mesh.electrodes])
    angles = np.arctan2(middles[:, 1], middles[:, 0])
    gaps = np.diff(np.unwrap(np.sort(angles)), append=np.min(angles) + 2 * np.pi)
    radius = np.linalg.norm(mesh.nodes, axis=1).max()
    ranks = (np.linalg.matrix_rank(w) for w in (model.currents, model.voltages))
    whole = (
        np.allclose(gaps, 2 * np.pi / count, rtol=0.05)
        and abs(mesh.areas.sum() / (np.pi * radius**2) - 1) < 0.02
        and (voltages.weight > 0).all()
        and all(rank == count - 1 for rank in ranks)
    )
    return angles if whole else None


def _challenge(path: Path, size: int) -> Problem:
    """Read a measurement of the challenge."""
    from scipy.io import loadmat

    from svdinv.unroll.tasks.impedance.tank import (
        calibrated,
        deviations,
        read_mesh,
        read_tank,
    )

    number, above = path.stem.removeprefix("data"), path.resolve().parent.parent
    try:
        mesh = read_mesh(above / "Mesh_sparse.mat")
        tank = read_tank(path.parent, int(number))
    except FileNotFoundError as error:
        due = f"{path} needs {error.filename}, which is not there"
        raise ValueError(due) from error
    model, water, misfit = calibrated(mesh, tank)
    y = tank.data - tank.reference
    deviation = deviations(tank.reference, y, misfit)
    problem = problem_of(model, water, y, deviation, size)
    truth = None
    known = above / f"true{number}.mat"
    if known.exists():
        classes = loadmat(known, variable_names=("truth",))["truth"]
        truth = _reduced(np.array([0.5, 0.0, 1.0])[classes], size)[None]
    name, setting = f"{path.resolve().parent.name} {path.stem}", "as measured"
    return replace(problem, truth=truth, name=name, setting=setting)


def _reduced(image: Floats, size: int) -> NDArray[np.float32]:
    """Downsample by block means, or by nearest pixels if sizes do not divide."""
    count = len(image)
    if count % size == 0:
        part = count // size
        image = image.reshape(size, part, size, part).mean(axis=(1, 3))
        return image.astype(np.float32)
    near = (np.arange(size) * count) // size
    return image[np.ix_(near, near)].astype(np.float32)


def _score(truth: Floats, image: Floats) -> float:
    """Score the classes of a picture as the challenge does, at its size."""
    from svdinv.unroll.tasks.impedance.tank import score, segment

    classes = 1 * (truth < 0.5 - _CLEAR) + 2 * (truth > 0.5 + _CLEAR)
    near = (np.arange(_JUDGED) * len(truth)) // _JUDGED
    large = np.ix_(near, near)
    return score(segment(image)[large], classes[large])


def _phantom(name: str, size: int, seed: int) -> NDArray[np.float32]:
    if name == "lungs":
        return _drawn(
            size,
            [(-0.4, 0.05, 0.26, 0.5, 10.0, 0.25), (0.4, 0.05, 0.26, 0.5, -10.0, 0.25),
             (0.05, -0.5, 0.2, 0.16, 20.0, 0.7)],
        )  # fmt: skip
    return _things(size, np.random.default_rng([seed, 5]))


def _things(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one to three things, of which the first resists and the second conducts."""
    shapes: list[tuple[float, ...]] = []
    for k in range(int(rng.integers(2, 4))):
        for _ in range(50):
            far, at = 0.65 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
            x, y = far * math.cos(at), far * math.sin(at)
            a, b = rng.uniform(0.12, 0.28, 2)
            reach = max(a, b)
            if all(math.hypot(x - s[0], y - s[1]) > reach + max(s[2:4]) + 0.05
                   for s in shapes):  # fmt: skip
                break
        else:
            continue
        value = rng.uniform(0.0, 0.3) if k % 2 == 0 else rng.uniform(0.7, 1.0)
        shapes.append((x, y, a, b, rng.uniform(0, 180), value))
    return _drawn(size, shapes)


def _drawn(size: int, shapes: Sequence[tuple[float, ...]]) -> NDArray[np.float32]:
    """Draw ellipses (x, y, semi-axes, degrees, value) in water."""
    finer = 4
    line = (np.arange(finer * size) + 0.5) / (finer * size) * 2 - 1
    X, Y = np.meshgrid(line, -line)
    image = np.full(X.shape, 0.5)
    for x, y, a, b, degrees, value in shapes:
        t = math.radians(degrees)
        dx, dy = X - x, Y - y
        u = (math.cos(t) * dx + math.sin(t) * dy) / a
        v = (math.cos(t) * dy - math.sin(t) * dx) / b
        image[u**2 + v**2 < 1] = value
    return _reduced(image, size)[None]
