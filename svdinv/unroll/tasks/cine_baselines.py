"""Classical reconstructions of series: low rank, low rank plus sparse, local low rank.

Each has weights: the best ones where the truth is known, and fixed ones where not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from svdinv.core.tensors import tilings
from svdinv.numpy import eigh
from svdinv.unroll.algorithms import LowRankPlusSparse, solve
from svdinv.unroll.algorithms.search import DouglasRachford, best_solution
from svdinv.unroll.arrays import namespace
from svdinv.unroll.operators import MRI, TemporalFourier
from svdinv.unroll.priors import Casorati, LocalLowRank, Prior, Sparse
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Estimate

__all__ = [
    "local_low_rank",
    "low_rank",
    "low_rank_plus_sparse",
    "view_sharing",
    "zero_filled",
]

Arrays = NDArray[Any]

# Relative weights for problems without a truth, which leave some room for noise.
FIXED: Mapping[str, tuple[float, ...]] = {
    "low-rank": (0.01,),
    "L+S": (0.1, 0.01),
    "local low-rank": (0.01,),
}
# Where the search for the best weight begins and ends. What lies beyond changes
# hundredths of a decibel.
_FIRST, _LEAST, _MOST = 1e-3, 3e-6, 0.3
_ITERATIONS, _RTOL = 200, 1e-4
_TOLERANCE = 0.005  # dB, of what is to come; of a weight twice as much
_SOON = 3e-4  # L+S comes nearer to the truth where it does not converge
_BLOCK = 8
_SHIFTS = ((0, 0), (4, 4), (0, 4), (4, 0))  # of the tilings, with blocks that overlap
_STEPS = 3  # of conjugate gradients, each time from the last image
_RELAXATION = 1.7
_LEAST_THRESHOLD = 1e-3  # relative to the largest singular value

# Low rank at its best weight, as long as the problem lives: low rank plus sparse, which
# comes next, begins there.
_KEPT: WeakKeyDictionary[Problem, tuple[float, Arrays]] = WeakKeyDictionary()


def zero_filled(problem: Problem) -> Estimate:
    """Give A^H y, the image of the k-space with zeros where it is not sampled."""
    return Estimate(problem.adjoint())


def view_sharing(problem: Problem) -> Estimate:
    """Fill in what a frame does not sample by the mean of the frames that do.

    Riederer et al., "MR fluoroscopy", MRM 8, 1988, with all frames as neighbours.

    Where the operator is not `MRI`, the series is the zero-filled one.
    """
    A, y = problem.A, problem.A.measured(problem.y)
    image = problem.adjoint()
    if not isinstance(A, MRI):
        return Estimate(image)
    mask = np.broadcast_to(A.mask, image.shape)
    sampled = mask if A.maps is None else mask[:, None]
    mean = (y.sum(0) / np.maximum(sampled.sum(0), 1)).astype(y.dtype)
    filled = np.where(sampled, y, mean)
    return Estimate(MRI(np.ones_like(mask), A.maps).adjoint(filled))


def low_rank(problem: Problem) -> Estimate:
    """Reconstruct a series of low rank, by the nuclear norm of its Casorati matrix.

    Liang, Proc. IEEE ISBI 2007; weights are relative to the largest singular value of
    the zero-filled series.

    The note tells which weight was taken.
    """
    if problem.truth is None:
        top = _largest_singular_value(problem)
        return _fixed(problem, "low-rank", lambda weight: Casorati(weight * top))
    weight, image = _best_low_rank(problem)
    return Estimate(image, f"best {_described((weight,))}")


def _best_low_rank(problem: Problem) -> tuple[float, Arrays]:
    if problem not in _KEPT:
        top = _largest_singular_value(problem)
        frames, height, width = problem.truth.shape
        count = min(frames, height * width)
        found = _best(problem, lambda weight: (Casorati(weight * top),), top, count)
        _KEPT[problem] = found
    return _KEPT[problem]


def low_rank_plus_sparse(problem: Problem) -> Estimate:
    """Reconstruct a series as one of low rank plus one with few temporal frequencies.

    Otazo, Candès & Sodickson, MRM 73, 2015. The weights of the two are relative to the
    largest singular value, and to the largest magnitude, of the zero-filled series. The
    best image may be one that the iterations pass; with the weight of the first that is
    best alone they start from its image.

    The note tells which weights were taken.
    """
    top = _largest_singular_value(problem)
    peak = float(np.abs(zero_filled(problem).image).max())

    def prior(low: float, sparse: float) -> tuple[Casorati, Sparse]:
        return Casorati(low * top), Sparse(sparse * peak, TemporalFourier())

    if problem.truth is None:
        return _fixed(problem, "L+S", prior)
    alone = _best_low_rank(problem)
    problem = _measured(problem)
    score = _score(problem)
    # One norm for all weights: with coils it costs as much as many iterations.
    algorithm = LowRankPlusSparse()
    step = algorithm.suited(problem, problem.adjoint(), None)
    search = functools.partial(
        best_solution,
        problem,
        score=score,
        algorithm=algorithm,
        parameters=lambda weight: step,
        rtol=_SOON,
        early=True,
        first=0.095,
        low=_LEAST,
        high=_MOST,
        tolerance=_TOLERANCE,
    )
    found = []
    # Two hills, one of them near to low rank alone.
    for low, x0 in ((FIXED["L+S"][0], None), alone):
        sparse, solution = search(functools.partial(prior, low), x0=x0)
        found.append((score(solution.image), (low, sparse), solution.image))
    _, weights, image = max(found, key=lambda each: each[0])
    return Estimate(image, f"best {_described(weights)}")


def local_low_rank(problem: Problem) -> Estimate:
    """Reconstruct a series of which every block is of low rank.

    Trzasko & Manduca, Proc. ISMRM 19, 2011, with blocks of 8 x 8 pixels that overlap by
    half. Weights are relative to what the largest singular value of a block would be
    were that of the zero-filled series spread evenly.

    The note tells which weight was taken.
    """
    T, height, width = problem.adjoint().shape
    top = _largest_singular_value(problem) * _BLOCK / (height * width) ** 0.5
    if problem.truth is None:
        stride = _BLOCK // 2
        return _fixed(
            problem,
            "local low-rank",
            lambda weight: LocalLowRank(weight * top, _BLOCK, stride=stride),
        )
    blocks = math.ceil(height / _BLOCK) * math.ceil(width / _BLOCK)
    weight, image = _best(
        problem,
        lambda w: tuple(_Blocks(w * top, _BLOCK, shift=shift) for shift in _SHIFTS),
        top,
        blocks * min(T, _BLOCK**2),
    )
    return Estimate(image, f"best {_described((weight,))}")


class _Blocks(LocalLowRank):
    """Of blocks that do not overlap: the prox by a cheaper way than the SVD."""

    def prox(self, x: Arrays, step: Any) -> Arrays:
        # The threshold is large enough for the Gram matrix.
        xp, tau = namespace(x), np.float32(step * self.weight)
        (tiling,) = tilings(x.shape[-2:], self.block, self.stride, self.shift)
        matrices = tiling.cut(x, xp)
        squares, V = eigh(matrices.conj().mT @ matrices)
        kept = 1 - tau / np.sqrt(np.maximum(squares, tau**2))
        return tiling.join(matrices @ ((V * kept[..., None, :]) @ V.conj().mT), xp)


def _best(
    problem: Problem,
    priors: Callable[[float], tuple[Prior, ...]],
    top: float,
    count: int,
) -> tuple[float, Arrays]:
    """Solve with the best weight, by Douglas-Rachford splitting.

    The bound of the error after some iterations is least where the penalty is the ratio
    of two distances from the start to the solution (He & Yuan, SIAM J. Numer. Anal. 50,
    2012): that of the image, which is known here, and that of the dual variable, at
    most the weight times the root of the number of singular values.
    """
    # Of few lines in each frame the best image is not unique: one that changes little
    # is near to the truth, and one next to the zero-filled series far away.
    start = view_sharing(problem).image
    distance = _distance(problem, start) / top
    threshold = max(distance / count**0.5, _LEAST_THRESHOLD)
    problem = _measured(problem)
    weight, solution = best_solution(
        problem,
        priors,
        _score(problem),
        algorithm=DouglasRachford(cg_iterations=_STEPS),
        first=_FIRST,
        low=_LEAST,
        high=_MOST,
        tolerance=_TOLERANCE,
        x0=start,
        parameters=lambda w: {"penalty": w / threshold, "relaxation": _RELAXATION},
    )
    return weight, solution.image


def _fixed(problem: Problem, name: str, prior: Callable[..., Any]) -> Estimate:
    """Solve with fixed weights, without a truth."""
    weights = FIXED[name]
    solution = solve(
        _measured(problem),
        prior(*weights),
        iterations=_ITERATIONS,
        rtol=_RTOL,
        objective=False,
    )
    if solution.stopped == "interrupted":  # half a solution is none
        raise KeyboardInterrupt
    return Estimate(solution.image, _described(weights))


def _distance(problem: Problem, image: Arrays) -> float:
    truth, image = problem.compared(image)
    return max(float(np.linalg.norm(truth - image)), 1e-30)


def _measured(problem: Problem) -> Problem:
    return replace(problem, y=problem.A.measured(problem.y))


def _score(problem: Problem) -> Callable[[Arrays], float]:
    """Give the SNR, up to a constant: faster than `svdinv.unroll.metrics.snr`."""

    def score(image: Arrays) -> float:
        return -20 * math.log10(_distance(problem, image))

    return score


def _largest_singular_value(problem: Problem) -> float:
    series = zero_filled(problem).image
    value = float(np.linalg.norm(series.reshape(len(series), -1), 2))
    return value or 1.0  # weights of nothing matter to nothing


def _described(weights: tuple[float, ...]) -> str:
    word = "weight" if len(weights) == 1 else "weights"
    return f"{word} {', '.join(f'{w:.2g}' for w in weights)}"
