"""Classical reconstructions of series: low rank, low rank plus sparse, local low rank.

Each has weights: those whose image comes nearest to the truth, or where that is not
known, to samples that were left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from svdinv.core.tensors import tilings
from svdinv.numpy import eigh
from svdinv.unroll.algorithms import LowRankPlusSparse, Solution, solve
from svdinv.unroll.algorithms.cross_validation import LEAST, drawn
from svdinv.unroll.algorithms.search import DouglasRachford, best_solution
from svdinv.unroll.arrays import namespace
from svdinv.unroll.operators import MRI, Operator, Sampling, TemporalFourier
from svdinv.unroll.priors import Casorati, LocalLowRank, Prior, Sparse
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Reconstruction

Arrays = NDArray[Any]

_SHARE = 0.05  # of the samples, left out where the truth is not known
# Relative weights where there are too few samples to leave some out.
_USUAL, _USUAL_SPARSE = 0.01, 0.01
_LOW = 0.1  # of low rank, where low rank plus sparse begins
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


class _Found(NamedTuple):
    """The best weight, the image that it was judged by, and that of all samples."""

    weight: float
    judged: Arrays
    image: Arrays
    note: str


# Low rank at its best weight, as long as the problem lives: low rank plus sparse, which
# comes next, begins there.
_KEPT: WeakKeyDictionary[Problem, _Found] = WeakKeyDictionary()


def zero_filled(problem: Problem) -> Reconstruction:
    """Return A^H y, the image of the k-space with zeros where it is not sampled."""
    return Reconstruction(problem.adjoint())


def view_sharing(problem: Problem) -> Reconstruction:
    """Fill in what a frame does not sample by the mean of the frames that do.

    Riederer et al., "MR fluoroscopy", MRM 8, 1988, with all frames as neighbours.

    Where the operator is not `MRI`, the series is the zero-filled one.
    """
    A, y = problem.A, problem.A.project_to_samples(problem.y)
    image = problem.adjoint()
    if not isinstance(A, MRI):
        return Reconstruction(image)
    mask = np.broadcast_to(A.mask, image.shape)
    sampled = mask if A.maps is None else mask[:, None]
    mean = (y.sum(0) / np.maximum(sampled.sum(0), 1)).astype(y.dtype)
    filled = np.where(sampled, y, mean)
    return Reconstruction(MRI(np.ones_like(mask), A.maps).adjoint(filled))


def low_rank(problem: Problem) -> Reconstruction:
    """Reconstruct a series of low rank, by the nuclear norm of its Casorati matrix.

    Liang, Proc. IEEE ISBI 2007; weights are relative to the largest singular value of
    the zero-filled series.

    The note tells which weight was taken.
    """
    found = _best_low_rank(problem)
    return Reconstruction(found.image, found.note)


def _best_low_rank(problem: Problem) -> _Found:
    if problem not in _KEPT:
        top = _largest_singular_value(problem)
        frames, height, width = problem.adjoint().shape
        count = min(frames, height * width)
        found = _best(problem, lambda weight: (Casorati(weight * top),), top, count)
        _KEPT[problem] = found
    return _KEPT[problem]


def low_rank_plus_sparse(problem: Problem) -> Reconstruction:
    """Reconstruct a series as one of low rank plus one with few temporal frequencies.

    Otazo, Candès & Sodickson, MRM 73, 2015. The weights of the two are relative to the
    largest singular value, and to the largest magnitude, of the zero-filled series. The
    best image may be one that the iterations pass; with the weight of the first that is
    best alone they start from its image. The second may be infinite: low rank alone.

    The note tells which weights were taken.
    """
    top = _largest_singular_value(problem)
    peak = float(np.abs(zero_filled(problem).image).max())

    def prior(low: float, sparse: float) -> tuple[Casorati, Sparse]:
        return Casorati(low * top), Sparse(sparse * peak, TemporalFourier())

    alone = _best_low_rank(problem)
    whole, judge = _measured(problem), _judge(problem)
    # One norm for all weights: with coils it costs as much as many iterations.
    algorithm = LowRankPlusSparse()
    step = algorithm.suited(whole, whole.adjoint(), None)

    how: dict[str, Any] = {"algorithm": algorithm, "parameters": step, "rtol": _SOON}
    if judge is None:
        image = _finished(whole, prior(_LOW, _USUAL_SPARSE), **how)
        return Reconstruction(image, _described(None, image, _LOW, _USUAL_SPARSE))
    known = problem.truth is not None

    def search(low: float, x0: Arrays | None) -> tuple[float, Solution]:
        return best_solution(
            judge.problem,
            functools.partial(prior, low),
            judge.score,
            algorithm=algorithm,
            parameters=lambda weight: step,
            x0=x0,
            rtol=_SOON,
            early=known,  # which says nothing of the weight
            first=0.095,
            low=_LEAST,
            high=_MOST,
            tolerance=_TOLERANCE,
        )

    # Two hills, one of them near to low rank alone.
    low = _LOW
    sparse, solution = search(low, None)
    judged = solution.image
    if known:
        other, beside = search(alone.weight, alone.judged)
        if judge.score(beside.image) > judge.score(judged):
            # Beside so little low rank such weights may leave nothing sparse. Smaller
            # ones, which do, gain 0.05 dB at most, in seven times the time.
            some = beside.sparse is not None and beside.sparse.any()
            low, sparse = alone.weight, other if some else math.inf
            judged = beside.image
        image = judged
    elif judge.score(alone.judged) > judge.score(judged):
        low, sparse, judged, image = alone.weight, math.inf, alone.judged, alone.image
    else:
        # On from all of its state: from the image alone it would be another solution.
        image = _finished(whole, prior(low, sparse), state=solution.state, **how)
    return Reconstruction(image, _described(judge, judged, low, sparse))


def local_low_rank(problem: Problem) -> Reconstruction:
    """Reconstruct a series of which every block is of low rank.

    Trzasko & Manduca, Proc. ISMRM 19, 2011, with blocks of 8 x 8 pixels that overlap by
    half. Weights are relative to what the largest singular value of a block would be
    were that of the zero-filled series spread evenly.

    The note tells which weight was taken.
    """
    T, height, width = problem.adjoint().shape
    top = _largest_singular_value(problem) * _BLOCK / (height * width) ** 0.5
    blocks = math.ceil(height / _BLOCK) * math.ceil(width / _BLOCK)
    found = _best(
        problem,
        lambda w: tuple(_Blocks(w * top, _BLOCK, shift=shift) for shift in _SHIFTS),
        top,
        blocks * min(T, _BLOCK**2),
    )
    return Reconstruction(found.image, found.note)


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
) -> _Found:
    """Solve with the best weight, by Douglas-Rachford splitting.

    The bound of the error after some iterations is least where the penalty is the ratio
    of two distances from the start to the solution (He & Yuan, SIAM J. Numer. Anal. 50,
    2012): that of the image, which is known here, or told by what was left out, and
    that of the dual variable, at most the weight times the root of the number of
    singular values.
    """
    whole, judge = _measured(problem), _judge(problem)
    # Of few lines in each frame the best image is not unique: one that changes little
    # is near to the truth, and one next to the zero-filled series far away.
    start = view_sharing(problem if judge is None else judge.problem).image
    threshold = _LEAST_THRESHOLD
    if judge is not None:
        threshold = max(judge.distance(start) / top / count**0.5, threshold)

    def parameters(weight: float) -> dict[str, float]:
        return {"penalty": weight / threshold, "relaxation": _RELAXATION}

    algorithm = DouglasRachford(cg_iterations=_STEPS)
    weight, judged = _USUAL, start
    if judge is not None:
        weight, solution = best_solution(
            judge.problem,
            priors,
            judge.score,
            algorithm=algorithm,
            first=_FIRST,
            low=_LEAST,
            high=_MOST,
            tolerance=_TOLERANCE,
            x0=start,
            parameters=parameters,
        )
        judged = solution.image
    image = judged
    if problem.truth is None:
        image = _finished(
            whole,
            priors(weight),
            x0=judged,
            algorithm=algorithm,
            parameters=parameters(weight),
            rtol=_RTOL,
        )
    return _Found(weight, judged, image, _described(judge, judged, weight))


class _Judge(NamedTuple):
    """Scores of images: against the truth, or by samples that were left out.

    `problem` is what is solved meanwhile; `distance` is that of the truth from an
    image, or an estimate of it.
    """

    problem: Problem
    distance: Callable[[Arrays], float]

    def score(self, image: Arrays) -> float:
        """Return the SNR, up to a constant: faster than `svdinv.unroll.metrics.snr`."""
        return -20 * math.log10(max(self.distance(image), 1e-30))


def _judge(problem: Problem) -> _Judge | None:
    """Return what judges images of a problem; None if there are too few samples."""
    whole, A = _measured(problem), problem.A
    if problem.truth is not None:

        def from_truth(image: Arrays) -> float:
            truth, image = problem.compared(image)
            return float(np.linalg.norm(truth - image))

        return _Judge(whole, from_truth)
    known, coils = np.asarray(problem.sampled_mask()), tuple(range(1, whole.y.ndim - 2))
    sampled = np.any(known, coils, keepdims=True)
    often = np.mean(sampled, axis=0, keepdims=True)
    where = sampled & (often < 1)
    if np.count_nonzero(where) < LEAST:
        return None
    held = drawn(where, _SHARE, np.random.default_rng(0))
    # As a mask: with weights each iteration would take conjugate gradients.
    rest: Operator = Sampling(~(known & held)) * A
    if isinstance(A, MRI):
        rest = MRI(A.mask & ~held.squeeze(coils), A.maps)
    part = replace(whole, y=rest.project_to_samples(whole.y), A=rest)
    # Each stands for all at its frequency (Horvitz & Thompson, J. Amer. Statist. Assoc.
    # 47, 1952); where every frame is sampled there is nothing to predict, and what is
    # fitted tells.
    seen = known & (held | (often == 1))
    often = np.broadcast_to(np.where(often == 1, 1.0, _SHARE * often), seen.shape)[seen]
    y, root = whole.y[seen], 1 / np.sqrt(often)

    def distance(image: Arrays) -> float:
        return float(np.linalg.norm(root * (A.forward(image)[seen] - y)))

    return _Judge(part, distance)


def _finished(problem: Problem, prior: Any, **how: Any) -> Arrays:
    """Solve with all samples."""
    solution = solve(problem, prior, iterations=_ITERATIONS, objective=False, **how)
    return solution.image


def _measured(problem: Problem) -> Problem:
    return replace(problem, y=problem.A.project_to_samples(problem.y))


def _largest_singular_value(problem: Problem) -> float:
    series = zero_filled(problem).image
    value = float(np.linalg.norm(series.reshape(len(series), -1), 2))
    return value or 1.0  # weights of nothing matter to nothing


def _described(judge: _Judge | None, image: Arrays, *weights: float) -> str:
    """Describe which weights are used, and why."""
    word = "weight" if len(weights) == 1 else "weights"
    told = f"{word} {', '.join(f'{w:.2g}' for w in weights)}"
    if math.inf in weights:
        told = f"{told}: nothing is sparse"
    if judge is None:
        return told
    if judge.problem.truth is not None:
        return f"best {told}"
    share = judge.distance(image) / (judge.distance(np.zeros_like(image)) or 1.0)
    return f"{told}, estimated error {share:.1%}"
