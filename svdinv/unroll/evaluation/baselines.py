"""Classical methods that a network is compared with, as functions of a case.

Where the truth is known, each takes the weight of a grid that comes nearest to it: more
than the method can do in practice, so that the comparison errs in its favour.
Elsewhere the weights are those of `FIXED`, moderate ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import explain_missing
from svdinv.unroll.algorithms import Solution, solve
from svdinv.unroll.algorithms.completion import best_on_path, soft_impute_path
from svdinv.unroll.metrics import psnr, snr
from svdinv.unroll.operators import MRI, TemporalFourier
from svdinv.unroll.priors import Casorati, LocalLowRank, Sparse
from svdinv.unroll.tiles import tiles
from svdinv.unroll.training.batches import Case

__all__ = [
    "BASELINES",
    "FIXED",
    "Estimate",
    "Method",
    "biharmonic",
    "classical",
    "local_low_rank",
    "low_rank",
    "low_rank_plus_sparse",
    "svt_completion",
    "zero_filled",
]


class Estimate(NamedTuple):
    """What a method makes of a case.

    Attributes
    ----------
    image : ndarray
        (C, H, W) in [0, 1], or complex (T, H, W).
    note : str
        What the method chose, such as a weight; may be empty.
    """

    image: NDArray[Any]
    note: str = ""


Method: TypeAlias = Callable[[Case], Estimate]
"""From a case to an image."""

Weights: TypeAlias = tuple[float, ...]

FIXED: Mapping[str, Weights] = {
    "SVT completion": (0.01,),
    "low-rank": (0.01,),
    "L+S": (0.1, 0.01),
    "local low-rank": (0.01,),
}
"""Relative weights for cases without a truth, which leave some room for noise."""

# Relative to the largest singular value; the best ones of the phantom and of
# photographs lie inside, or what lies beyond changes hundredths of a decibel.
_THRESHOLDS = (*np.geomspace(0.2, 0.001, 10), 0.0005)
_WEIGHTS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
_LOW_RANK_WEIGHTS = (0.1, 0.3, 0.03)  # of L+S
_ITERATIONS, _RTOL = 200, 1e-4
_SOON = 3e-4  # L+S comes nearer to the truth where it does not converge
_BLOCK = 8
# Of pictures too large for one sparse system of equations: the solution of the
# biharmonic equation hardly depends on samples this far away.
_TILE, _MARGIN = 384, 32


def zero_filled(case: Case) -> Estimate:
    """Give A^H y: the samples, or the image of the k-space, with zeros elsewhere.

    Parameters
    ----------
    case : Case
        Of either kind.

    Returns
    -------
    Estimate
        The image.
    """
    if np.iscomplexobj(case.samples):
        return Estimate(MRI(*case.measurement).H(case.samples))
    return Estimate(_measured(case))


def svt_completion(case: Case) -> Estimate:
    """Complete each channel of a colour image as a matrix of low rank.

    Soft-impute (Mazumder, Hastie & Tibshirani, JMLR 2010), with continuation.

    Parameters
    ----------
    case : Case
        Colour.

    Returns
    -------
    Estimate
        The image, and which threshold was taken.
    """
    truth, (mask,), samples = case.truth, case.measurement, _measured(case)
    if truth is None:
        (fixed,) = FIXED["SVT completion"]
        grid = [t for t in _THRESHOLDS if t > fixed] + [fixed]
        *_, (threshold, image) = soft_impute_path(samples, mask, grid, rtol=_RTOL)
        return Estimate(np.clip(image, 0, 1), f"threshold {threshold:.4f} s₁")

    def score(image: NDArray[Any]) -> float:
        return psnr(truth, np.clip(image, 0, 1))

    threshold, image = best_on_path(samples, mask, score, _THRESHOLDS, rtol=_RTOL)
    return Estimate(np.clip(image, 0, 1), f"best threshold {threshold:.4f} s₁")


def biharmonic(case: Case) -> Estimate:
    """Fill each channel of a colour image by the smoothest surface.

    The solution of the biharmonic equation between the samples (Damelin & Hoang, Int.
    J. Math. Math. Sci. 2018), as scikit-image computes it; there is no weight.

    Parameters
    ----------
    case : Case
        Colour.

    Returns
    -------
    Estimate
        The image.

    Raises
    ------
    ImportError
        If scikit-image is missing.
    """
    (mask,), samples = case.measurement, _measured(case)
    pairs = zip(samples, mask, strict=True)
    image = np.stack([_inpainted(channel, known) for channel, known in pairs])
    return Estimate(np.clip(image, 0, 1).astype(np.float32))


def low_rank(case: Case) -> Estimate:
    """Reconstruct a series of low rank, by the nuclear norm of its Casorati matrix.

    Liang, Proc. IEEE ISBI 2007; weights are relative to the largest singular value of
    the zero-filled series.

    Parameters
    ----------
    case : Case
        Cine.

    Returns
    -------
    Estimate
        The series, and which weight was taken.
    """
    top = _largest_singular_value(case)
    path = [(w,) for w in _WEIGHTS]
    return _best(case, "low-rank", lambda w: Casorati(w * top), path)


def low_rank_plus_sparse(case: Case) -> Estimate:
    """Reconstruct a series as one of low rank plus one with few temporal frequencies.

    Otazo, Candès & Sodickson, MRM 73, 2015. The weights of the two are relative to the
    largest singular value, and to the largest magnitude, of the zero-filled series; the
    second is chosen first.

    Parameters
    ----------
    case : Case
        Cine.

    Returns
    -------
    Estimate
        The series, and which weights were taken.
    """
    top = _largest_singular_value(case)
    peak = float(np.abs(zero_filled(case).image).max())

    def both(low: float, sparse: float) -> Any:
        return Casorati(low * top), Sparse(sparse * peak, TemporalFourier())

    first, *others = _LOW_RANK_WEIGHTS
    path = [(first, sparse) for sparse in _WEIGHTS]

    def again(best: Weights) -> list[Weights]:
        return [(low, best[1]) for low in others]

    return _best(case, "L+S", both, path, again, rtol=_SOON)


def local_low_rank(case: Case) -> Estimate:
    """Reconstruct a series of which every block is of low rank.

    Trzasko & Manduca, Proc. ISMRM 19, 2011, with blocks of 8 x 8 pixels that overlap by
    half. Weights are relative to what the largest singular value of a block would be
    were that of the zero-filled series spread evenly.

    Parameters
    ----------
    case : Case
        Cine.

    Returns
    -------
    Estimate
        The series, and which weight was taken.
    """
    height, width = case.samples.shape[-2:]
    top = _largest_singular_value(case) * _BLOCK / (height * width) ** 0.5

    def blocks(weight: float) -> LocalLowRank:
        return LocalLowRank(weight * top, _BLOCK, stride=_BLOCK // 2)

    return _best(case, "local low-rank", blocks, [(w,) for w in _WEIGHTS])


BASELINES: Mapping[str, Mapping[str, Method]] = {
    "colour": {
        "zero-filled": zero_filled,
        "SVT completion": svt_completion,
        "biharmonic": biharmonic,
    },
    "cine": {
        "zero-filled": zero_filled,
        "low-rank": low_rank,
        "L+S": low_rank_plus_sparse,
        "local low-rank": local_low_rank,
    },
}
"""The methods of each task, by name."""


def classical(kind: str, *, slow: bool = True) -> dict[str, Method]:
    """Choose methods that a network is compared with.

    Parameters
    ----------
    kind : {"colour", "cine"}
        The task.
    slow : bool
        Whether to take those that iterate, or solve equations, too: all but
        zero-filling.

    Returns
    -------
    dict of str to callable
        Methods by name.
    """
    methods = BASELINES[kind]
    return dict(methods) if slow else {"zero-filled": zero_filled}


def _measured(case: Case) -> NDArray[Any]:
    (mask,) = case.measurement
    return np.where(mask, case.samples, np.zeros((), case.samples.dtype))


def _inpainted(samples: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[Any]:
    try:
        from skimage.restoration import inpaint_biharmonic
    except ModuleNotFoundError as error:
        raise explain_missing("skimage", "train") from error

    image = samples.astype(np.float64)
    height, width = samples.shape
    for seen, inside, kept in tiles(height, width, _TILE, _MARGIN):
        if known[kept].all() or not known[seen].any():
            continue
        image[kept] = inpaint_biharmonic(samples[seen], ~known[seen])[inside]
    return image


def _largest_singular_value(case: Case) -> float:
    series = zero_filled(case).image
    value = float(np.linalg.norm(series.reshape(len(series), -1), 2))
    return value or 1.0  # weights of nothing matter to nothing


def _best(
    case: Case,
    name: str,
    prior: Callable[..., Any],
    path: Iterable[Weights],
    others: Callable[[Weights], Iterable[Weights]] = lambda best: (),
    rtol: float = _RTOL,
) -> Estimate:
    """Solve with each weight of a path in turn, and take the best.

    Then with others, that depend on the best. Without a truth, with the fixed ones.
    """
    A, truth = MRI(*case.measurement), case.truth
    y = A.measured(case.samples)

    def solution(weights: Weights, state: Any = None) -> Solution:
        solved = solve(
            y,
            A,
            prior(*weights),
            iterations=_ITERATIONS,
            rtol=rtol,
            state=state,
            objective=False,
        )
        if solved.stopped == "interrupted":  # half a solution is none to judge
            raise KeyboardInterrupt
        return solved

    if truth is None:
        fixed = FIXED[name]
        return Estimate(solution(fixed).image, _described(fixed))
    found: list[tuple[float, Weights, Solution]] = []

    def best() -> tuple[float, Weights, Solution]:
        return max(found, key=lambda each: each[0])

    def follow(path: Iterable[Weights], state: Any = None) -> None:
        for weights in path:
            solved = solution(weights, state)
            state = solved.state  # a good start for the next
            found.append((snr(*case.compared(solved.image)), weights, solved))

    follow(path)
    _, weights, solved = best()
    follow(others(weights), solved.state)
    _, weights, solved = best()
    return Estimate(solved.image, f"best {_described(weights)}")


def _described(weights: Weights) -> str:
    word = "weight" if len(weights) == 1 else "weights"
    return f"{word} {', '.join(f'{w:g}' for w in weights)}"
