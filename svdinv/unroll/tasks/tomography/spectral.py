"""Spectral computed tomography: attenuation in energy bins with few photons each.

Each of a few materials has its own attenuation spectrum, so that the matrix bins x
pixels has low rank, and edges lie at the same places in all bins.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.noise import counted
from svdinv.unroll.display.panels import save_panel
from svdinv.unroll.display.pictures import save_frames
from svdinv.unroll.fidelity import L2
from svdinv.unroll.metrics import SERIES
from svdinv.unroll.priors import Casorati, LocalLowRank, TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import (
    Baseline,
    InputImage,
    Method,
    Reconstruction,
    option,
)
from svdinv.unroll.tasks.tomography import DENSITIES, SPECTRAL
from svdinv.unroll.tasks.tomography.ct import (
    PHOTONS,
    Ct,
    CtOptions,
    by_angle,
    fbp,
    is_limited,
    penalised,
    photons_of,
)
from svdinv.unroll.tasks.tomography.densities import Ellipse, drawn

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

_PREFIX = "spectral:"  # of a density or a picture that is read as materials
_BINS = 8
_RANGE = (30.0, 110.0)  # of the bins, in keV
_VOLTAGE = 120.0  # of the tube, in kV
_FINER = 1024  # energies in each bin
_SIDE = 10.0  # of an image, in cm
_SPOT = (  # smallest and largest density, semi-axes, centre and angle
    (0.3, 0.04, 0.04, -0.5, -0.5, 0.0),
    (1.0, 0.2, 0.2, 0.5, 0.5, 180.0),
)
_BLOCK = 8
_COMPONENTS = 4  # of the weights "spectral-ct"
_BRIGHT = 0.98  # quantile that is white in a picture

# Density or concentration in g/cm^3, and mass attenuation in cm^2/g by energy in keV
# (Hubbell & Seltzer, NIST Standard Reference Database 126): soft tissue and cortical
# bone of ICRU-44, 10 mg/ml of gadolinium with its K-edge, and the aluminium filter.
_MATERIALS: dict[str, tuple[float, dict[float, float]]] = {
    "tissue": (1.06, {30: 0.3790, 40: 0.2688, 50: 0.2264, 60: 0.2048, 80: 0.1823,
                      100: 0.1693, 150: 0.1492}),
    "bone": (1.92, {30: 1.331, 40: 0.6655, 50: 0.4242, 60: 0.3148, 80: 0.2229,
                    100: 0.1855, 150: 0.1480}),
    "gadolinium": (0.010, {30: 14.84, 40: 6.920, 50: 3.859, 50.2391: 3.812,
                           50.2392: 18.64, 60: 11.75, 80: 5.573, 100: 3.109,
                           150: 1.100}),
}  # fmt: skip
_FILTER = 0.5 * 2.699  # thickness of the filter in g/cm^2
_ALUMINIUM: dict[float, float] = {
    30: 1.128, 40: 0.5685, 50: 0.3681, 60: 0.2778, 80: 0.2018, 100: 0.1704, 150: 0.1378,
}  # fmt: skip


def bins_of(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fraction of photons in each energy bin, and attenuation by material.

    The bins divide 30 to 110 keV evenly; the spectrum of the 120 kV tube follows
    Kramers' law (Phil. Mag. 1923) behind 5 mm of aluminium. The fractions sum to 1. The
    attenuation (3, count) in 1/cm, of soft tissue, cortical bone and 10 mg/ml of
    gadolinium, is the mean over the photons of a bin.
    """
    fine = (np.arange(count * _FINER) + 0.5) / (count * _FINER)
    energies = (_RANGE[0] + np.ptp(_RANGE) * fine).reshape(count, _FINER)
    photons = _VOLTAGE / energies - 1
    photons *= np.exp(-_FILTER * _interpolated(_ALUMINIUM, energies))
    spectra = [rho * _interpolated(mu, energies) for rho, mu in _MATERIALS.values()]
    attenuation = (photons * np.stack(spectra)).sum(-1) / photons.sum(-1)
    return photons.sum(-1) / photons.sum(), attenuation


def _interpolated(table: Mapping[float, float], energies: Any) -> Any:
    """Interpolate log-log, where the curves are nearly linear between edges."""
    nodes, values = (np.log(list(x)) for x in (table.keys(), table.values()))
    return np.exp(np.interp(np.log(energies), nodes, values))


@dataclass(frozen=True, kw_only=True)
class SpectralOptions(CtOptions):
    """Options for reading materials and simulating projections."""

    bins: int | None = option(
        None, f"bins of energy (default {_BINS})", low=2, high=80, of_file=True
    )


@dataclass(frozen=True, kw_only=True)
class SpectralCt(Ct):
    """Reconstruction of attenuation in 1/cm in energy bins, from line integrals."""

    entry = SPECTRAL
    options = SpectralOptions
    metrics = SERIES
    peak = "max"
    layout = "(bins, views, detectors)"
    usual_error = 15.0  # bins have few photons
    side = _SIDE
    usual = (0.25, 2.0)  # bone at low energies attenuates by up to 1.8 / cm

    bins: int = option(_BINS, "bins of energy", low=2, high=80)
    photons: tuple[float, float] = option(
        (5e4, 2e5), "fewest and most photons of all energies: each item draws a number",
        low=10, rising=True,
    )  # fmt: skip
    noise: tuple[float, float] = option(
        (0.0, 0.0),
        "smallest and largest noise in addition to photon noise",
        low=0,
        rising=True,
    )

    @property
    def trained_channels(self) -> int:
        return self.bins

    def suits_network(self, problem: Problem, recipe: Any) -> bool:
        """Return whether there are as many bins as components of the network."""
        return len(problem.y) >= getattr(recipe, "components", 0)

    def weights_for(self, problem: Problem) -> str:
        """Return the weights for views all around and at least four bins."""
        suited = len(problem.y) >= _COMPONENTS and not is_limited(problem.scan.angles)
        return self.kind if suited else ""

    def largest(self, problem: Problem) -> float:
        """Return infinity: the bins differ too much for one bound."""
        return math.inf

    def file_options(self, source: str | Path) -> tuple[str, ...]:
        named = str(source).removeprefix(_PREFIX) in DENSITIES
        return ("size" if named else "crop", "bins")

    def read(self, source: str | Path, options: Any) -> InputImage | Problem:
        """Return a density or a picture, converted to materials."""
        name = str(source).removeprefix(_PREFIX)
        return super().read(name if name in DENSITIES else f"density:{name}", options)

    def given(self, name: str, image: Any, options: Any) -> InputImage:
        """Convert a density (H, W) to materials and their attenuation (E, H, W).

        Pixels are tissue up to a density of 0.5, with a growing fraction of bone above.
        Tissue in random ellipses has taken up gadolinium.
        """
        bone = np.maximum(2 * image - 1, 0)
        tissue = np.minimum(2 * image, 2 - 2 * image)
        rng = np.random.default_rng([options.seed, 2])
        spots = [
            Ellipse(*rng.uniform(*_SPOT).tolist())
            for _ in range(int(rng.integers(3, 9)))
        ]
        rows, columns = image.shape
        taken_up = drawn(spots, max(image.shape))[:rows, :columns] * tissue
        mixing = bins_of(options.bins or _BINS)[1].T.astype(np.float32)
        return InputImage(
            name, np.tensordot(mixing, np.stack([tissue, bone, taken_up]), 1)
        )

    def save_picture_of(self, name: str, options: Any, path: Path) -> None:
        given: Any = self.read(name, options)
        save_frames(path, given.image / given.image.max(), seconds=self.seconds)

    def settings(self, options: Any) -> list[Any]:
        if options.photons is not None or options.noise is not None:
            return [options]
        return [replace(options, photons=n) for n in (PHOTONS, PHOTONS / 5)]

    def measure(self, given: InputImage, options: Any) -> Problem:
        """Simulate line integrals and photon counts of each bin.

        Least squares are weighted by the counts, the inverse variance of their
        logarithm (Sauer & Bouman, IEEE Trans. Signal Process. 1993).
        """
        problem = super().measure(given, options)
        if not photons_of(options):
            return problem
        spectrum, _ = bins_of(len(given.image))
        return replace(problem, fidelity=_weighted(problem, spectrum))

    def detected(
        self, y: Any, unit: float, photons: float, rng: np.random.Generator
    ) -> Any:
        """Simulate photon counts of each bin, without electronic noise."""
        each = photons * bins_of(len(y))[0][:, None, None]
        return counted(y * unit, each, rng, electronic=0) / unit

    def noisy(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the noise level and the number of photons."""
        photons = float(np.exp(rng.uniform(*np.log(self.photons))))
        return {**super().noisy(rng), "photons": photons, "bins": self.bins}

    def read_measured(self, file: Datasets) -> Problem:
        """Read ``sinogram``, (bins, views, detectors), and other datasets as for `Ct`.

        The optional ``weights`` of least squares have the same shape, and are 0 for
        missing data; by default they assume equal numbers of photons in all bins.
        """
        problem = super().read_measured(file)
        if "weights" not in file:
            return replace(problem, fidelity=_weighted(problem, np.ones(1)))
        file.same("weights", problem.y.shape, "of the sinogram")
        weights = file.real("weights")[:, by_angle(file.real("angles"))]
        if not ((weights >= 0).all() and (weights > 0).any(axis=(1, 2)).all()):
            raise file.error(
                "weights",
                "must be positive for some data of each bin, and not negative",
            )
        return replace(problem, fidelity=L2(weights / weights.max()))

    def arrays_to_save(self, problem: Problem) -> dict[str, Any]:
        weight = getattr(problem.fidelity, "weight", None)
        weights = np.ones_like(problem.y) if weight is None else weight
        return {**super().arrays_to_save(problem), "weights": weights}

    def baselines(self) -> Mapping[str, Method]:
        methods: dict[str, Method] = {"FBP": fbp, "TV": Baseline(tv, lengthy=True)}
        for name, (prior, usual) in _JOINT.items():
            how: dict[str, Any] = {"prior": prior, "usual": usual, "nonnegative": True}
            method = functools.partial(penalised, **how)
            methods[name] = Baseline(method, lengthy=True)
        return methods

    def describe(self, problem: Problem) -> str:
        bins = "1 bin" if len(problem.y) == 1 else f"{len(problem.y)} bins"
        return f"{bins} of energy of {super().describe(problem)}"

    def save_panel(
        self, path: Path, truth: Any, entries: Sequence[Any], *, title: str
    ) -> None:
        """Write a panel in false colours, red for low and blue for high energies."""
        reference = _thirds((truth or entries[-1]).image)
        white = np.quantile(reference, _BRIGHT, axis=(0, 1)) + 1e-30
        columns = [
            each and replace(each, image=_thirds(each.image) / white)
            for each in (truth, *entries)
        ]
        save_panel(path, columns[0], columns[1:], title=title)


def _weighted(problem: Problem, share: Any) -> L2:
    """Return least squares weighted by the counts relative to the largest."""
    unit = problem.scan.unit
    integrals = problem.y * np.float32(unit * problem.scale)
    counts = share[:, None, None] * np.exp(-integrals.astype(np.float64))
    return L2((counts / counts.max()).astype(np.float32))


def _thirds(image: Any) -> Any:
    """Return the means over low, middle and high energies as colours, (H, W, 3)."""
    n = len(image)
    parts = [image[k * n // 3 : (k + 1) * n // 3 + 1].mean(axis=0) for k in range(3)]
    return np.stack(parts, axis=-1)


# Priors on all bins jointly, with their weights without a truth.
_JOINT: dict[str, tuple[Callable[[float], Any], float]] = {
    "low rank": (Casorati, 1e-3),
    "local low rank": (lambda w: LocalLowRank(w, _BLOCK, stride=_BLOCK // 2), 3e-4),
    "TNV": (lambda w: TotalVariation(w, channels=-3), 3e-5),
}
_USUAL = 1e-5  # weight of TV without a truth


def tv(problem: Problem) -> Reconstruction:
    """Reconstruct each bin with total variation and nonnegative attenuation.

    The note states the weight of each bin, the best one if the truth is known.
    """
    found = []
    for k in range(len(problem.y)):
        bin_ = operator.itemgetter(np.s_[k : k + 1])
        single = replace(
            problem,
            y=bin_(problem.y),
            truth=None if problem.truth is None else bin_(problem.truth),
            fidelity=problem.fidelity.replace_arrays(bin_),
        )
        found.append(penalised(single, TotalVariation, _USUAL, nonnegative=True))
    kind, *_ = found[0].note.rpartition(" ")
    notes = ", ".join(each.note.rpartition(" ")[2] for each in found)
    return Reconstruction(np.concatenate([x.image for x in found]), f"{kind}s {notes}")
