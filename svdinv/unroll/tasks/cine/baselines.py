"""Classical reconstructions of series: low rank, low rank plus sparse, local low rank.

The weights of each are those with the least error, with respect to the truth if it is
known, else to held-out samples.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
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
from svdinv.unroll.tasks.task import Reconstruction, zero_filled

Arrays = NDArray[Any]

_SHARE = 0.05  # fraction of the samples held out if the truth is not known
# Relative weights if there are too few samples to hold some out.
_USUAL, _USUAL_SPARSE = 0.01, 0.01
_LOW = 0.1  # initial low-rank weight of low rank plus sparse
# Start and range of the search for the best weight: smaller weights change hundredths
# of a decibel, larger ones leave nothing of the series.
_FIRST, _FIRST_SPARSE, _LEAST, _MOST = 1e-3, 0.095, 3e-6, 1.0
_ITERATIONS, _RTOL = 200, 1e-4
_TOLERANCE = 0.005  # dB of `best_solution`
_EARLY = 3e-4  # L+S has less error if it stops before convergence
_BLOCK = 8
_SHIFTS = ((0, 0), (4, 4), (0, 4), (4, 0))  # of the tilings, with blocks that overlap
_STEPS = 3  # of conjugate gradients, starting from the last image
_RELAXATION = 1.7
_LEAST_THRESHOLD = 1e-3  # relative to the largest singular value


class _Found(NamedTuple):
    """The best weight, the image that was scored, and the image from all samples."""

    weight: float
    scored: Arrays
    image: Arrays
    note: str


# Low-rank reconstructions of problems, from which low rank plus sparse starts, with a
# digest of the arrays, which may be changed in place.
_CACHE: WeakKeyDictionary[Problem, tuple[bytes, _Found]] = WeakKeyDictionary()


def view_sharing(problem: Problem) -> Reconstruction:
    """Fill missing k-space of each frame with the mean of the frames that sample it.

    Riederer et al., "MR fluoroscopy", MRM 8, 1988, with all frames as neighbours. If
    the operator is not `MRI`, the series is zero-filled.
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

    Liang, Proc. IEEE ISBI 2007. The weight, which the note states, is relative to the
    largest singular value of the zero-filled series.
    """
    found = _best_low_rank(problem)
    return Reconstruction(found.image.copy(), found.note)


def _best_low_rank(problem: Problem) -> _Found:
    hashed = hashlib.sha256()

    def add(array: Arrays) -> Arrays:
        hashed.update(array.tobytes())
        return array

    problem.replace_arrays(add)
    digest = hashed.digest()
    if _CACHE.get(problem, (b"",))[0] != digest:
        top = _largest_singular_value(problem)
        frames, height, width = problem.adjoint().shape
        count = min(frames, height * width)
        found = _best(problem, lambda weight: (Casorati(weight * top),), top, count)
        _CACHE[problem] = digest, found
    return _CACHE[problem][1]


def low_rank_plus_sparse(problem: Problem) -> Reconstruction:
    """Reconstruct a series as the sum of a low-rank series and one sparse in frequency.

    Otazo, Candès & Sodickson, MRM 73, 2015. The weights, which the note states, are
    relative to the largest singular value and to the largest magnitude of the
    zero-filled series; an infinite second weight means low rank alone. With a truth,
    the image may come from any iteration, and a second search starts from the best
    low-rank reconstruction.
    """
    top = _largest_singular_value(problem)
    peak = float(np.abs(zero_filled(problem).image).max())

    def prior(low: float, sparse: float) -> tuple[Casorati, Sparse]:
        return Casorati(low * top), Sparse(sparse * peak, TemporalFourier())

    alone = _best_low_rank(problem)
    projected, scorer = _projected(problem), _scorer(problem)
    # Once for all weights: with coils, the norm costs as much as many iterations.
    algorithm = LowRankPlusSparse()
    step = algorithm.default_parameters(projected, projected.adjoint(), None)

    how: dict[str, Any] = {"algorithm": algorithm, "parameters": step, "rtol": _EARLY}
    if scorer is None:
        image = _solved(projected, prior(_LOW, _USUAL_SPARSE), **how)
        return Reconstruction(image, _described(None, image, _LOW, _USUAL_SPARSE))
    has_truth = problem.truth is not None

    def search(
        low: float, x0: Arrays | None, least: float = _LEAST
    ) -> tuple[float, Solution]:
        return best_solution(
            scorer.problem,
            functools.partial(prior, low),
            scorer.score,
            algorithm=algorithm,
            parameters=lambda weight: step,
            x0=x0,
            rtol=_EARLY,
            early=has_truth,  # without it, an early score does not rank the weight
            first=_FIRST_SPARSE,
            low=least,
            high=_MOST,
            tolerance=_TOLERANCE,
        )

    # The score has two maxima, one of them near low rank alone.
    low = _LOW
    sparse, solution = search(low, None)
    scored = solution.image
    if has_truth:
        # At so small a low-rank weight the sparse part may be 0. Smaller sparse weights
        # gain at most 0.05 dB, in seven times the time.
        other, second = search(alone.weight, alone.scored, _FIRST_SPARSE / 10)
        if scorer.score(second.image) > scorer.score(scored):
            nonzero = second.sparse is not None and second.sparse.any()
            low, sparse = alone.weight, other if nonzero else math.inf
            scored = second.image
        image = scored
    elif scorer.score(alone.scored) > scorer.score(scored):
        low, sparse, scored, image = alone.weight, math.inf, alone.scored, alone.image
    else:
        # Continue from the full state: the image alone leads to another solution.
        image = _solved(projected, prior(low, sparse), state=solution.state, **how)
    return Reconstruction(image, _described(scorer, scored, low, sparse))


def local_low_rank(problem: Problem) -> Reconstruction:
    """Reconstruct a series whose blocks have low rank.

    Trzasko & Manduca, Proc. ISMRM 19, 2011, with blocks of 8 x 8 pixels that overlap by
    half. The weight, which the note states, is relative to the largest singular value
    of the zero-filled series, times the root of the fraction of pixels in a block.
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
    """Local low rank with separate blocks, whose prox uses Gram matrices, not SVDs."""

    def prox(self, x: Arrays, step: Any) -> Arrays:
        # The threshold is large enough for the accuracy of the Gram matrix.
        xp, tau = namespace(x), x.real.dtype.type(step * self.weight)
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

    The error bound after a number of iterations is least if the penalty is the ratio of
    two distances from start to solution (He & Yuan, SIAM J. Numer. Anal. 50, 2012):
    that of the dual variable, at most the weight times the root of the number `count`
    of singular values, and that of the image, from the truth or the held-out samples.
    """
    projected, scorer = _projected(problem), _scorer(problem)
    # With few lines per frame the solution is not unique; view sharing leads to one
    # with small changes over time, near the truth, the zero-filled series does not.
    start = view_sharing(problem if scorer is None else scorer.problem).image
    threshold = _LEAST_THRESHOLD
    if scorer is not None:
        threshold = max(scorer.distance(start) / top / count**0.5, threshold)

    def parameters(weight: float) -> dict[str, float]:
        return {"penalty": weight / threshold, "relaxation": _RELAXATION}

    algorithm = DouglasRachford(cg_iterations=_STEPS)
    weight, scored = _USUAL, start
    if scorer is not None:
        weight, solution = best_solution(
            scorer.problem,
            priors,
            scorer.score,
            algorithm=algorithm,
            first=_FIRST,
            low=_LEAST,
            high=_MOST,
            tolerance=_TOLERANCE,
            x0=start,
            parameters=parameters,
        )
        scored = solution.image
    image = scored
    if problem.truth is None:
        image = _solved(
            projected,
            priors(weight),
            x0=scored,
            algorithm=algorithm,
            parameters=parameters(weight),
            rtol=_RTOL,
        )
    return _Found(weight, scored, image, _described(scorer, scored, weight))


class _Scorer(NamedTuple):
    """Scores of images, by the truth or by held-out samples.

    `problem` is the one to solve, without held-out samples; `distance` returns the
    distance of an image from the truth, or an estimate.
    """

    problem: Problem
    distance: Callable[[Arrays], float]

    def score(self, image: Arrays) -> float:
        """Return the SNR, up to a constant: faster than `svdinv.unroll.metrics.snr`."""
        return -20 * math.log10(max(self.distance(image), sys.float_info.min))


def _scorer(problem: Problem) -> _Scorer | None:
    """Return the scorer of a problem; None if there are too few samples."""
    projected, A = _projected(problem), problem.A
    if problem.truth is not None:

        def from_truth(image: Arrays) -> float:
            truth, image = problem.compared(image)
            return float(np.linalg.norm(truth - image))

        return _Scorer(projected, from_truth)
    mask = np.asarray(problem.sampled_mask())
    coils = tuple(range(1, projected.y.ndim - 2))
    sampled = np.any(mask, coils, keepdims=True)
    frequency = np.mean(sampled, axis=0, keepdims=True)
    candidates = sampled & (frequency < 1)
    if np.count_nonzero(candidates) < LEAST:
        return None
    held_out = drawn(candidates, _SHARE, np.random.default_rng(0))
    # A mask, since weights would need conjugate gradients in each iteration.
    rest: Operator = Sampling(~(mask & held_out)) * A
    if isinstance(A, MRI):
        rest = MRI(A.mask & ~held_out.squeeze(coils), A.maps)
    part = replace(projected, y=rest.project_to_samples(projected.y), A=rest)
    # Samples are weighted by their inverse probability (Horvitz & Thompson, J. Amer.
    # Statist. Assoc. 47, 1952). Points sampled in every frame are not held out, and
    # count with the error of the fit.
    scored = mask & (held_out | (frequency == 1))
    probability = np.broadcast_to(
        np.where(frequency == 1, 1.0, _SHARE * frequency), scored.shape
    )[scored]
    y, root = projected.y[scored], 1 / np.sqrt(probability)

    def distance(image: Arrays) -> float:
        return float(np.linalg.norm(root * (A.forward(image)[scored] - y)))

    return _Scorer(part, distance)


def _solved(problem: Problem, prior: Any, **how: Any) -> Arrays:
    """Solve with all samples."""
    solution = solve(problem, prior, iterations=_ITERATIONS, objective=False, **how)
    return solution.image


def _projected(problem: Problem) -> Problem:
    return replace(problem, y=problem.A.project_to_samples(problem.y))


def _largest_singular_value(problem: Problem) -> float:
    series = zero_filled(problem).image
    value = float(np.linalg.norm(series.reshape(len(series), -1), 2))
    return value or 1.0  # the scale of weights is arbitrary for zero data


def _described(scorer: _Scorer | None, image: Arrays, *weights: float) -> str:
    """Describe the weights, and the estimated error of the image."""
    word = "weight" if len(weights) == 1 else "weights"
    note = f"{word} {', '.join(f'{w:.2g}' for w in weights)}"
    if math.inf in weights:
        note = f"{note}: no sparse part"
    if scorer is None:
        return f"{note}, as there are too few samples to leave some out"
    if scorer.problem.truth is not None:
        return f"best {note}"
    share = scorer.distance(image) / (scorer.distance(np.zeros_like(image)) or 1.0)
    return f"{note}, estimated error {share:.1%}"
