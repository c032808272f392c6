"""Reconstruction by low rank of patches that look alike, found anew as it improves.

Dong, Shi, Li, Ma & Huang, "Compressive sensing via nonlocal low-rank regularization",
IEEE TIP 2014, with the alternating direction method of multipliers: strong
regularisation first, of patches that are hardly known, then less of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from svdinv.unroll.algorithms.iterations import ADMM, State, _check_count
from svdinv.unroll.arrays import (
    Array,
    as_float,
    fitted,
    inner,
    namespace,
    real,
    times,
    to_numpy,
)
from svdinv.unroll.held_out import fitted_alone, held_out
from svdinv.unroll.priors import NonLocalLowRank
from svdinv.unroll.problem import Problem

__all__ = ["DEVIATIONS", "best_non_local", "non_local_low_rank"]

DEVIATIONS = (0.3, 0.2, 0.12, 0.07, 0.045, 0.03, 0.02, 0.013, 0.008, 0.005)
"""What is taken for noise in turn, relative to the largest magnitude."""

_PENALTY = 0.1  # in units of |A|^2
_ONE_CHANNEL = {"patch": 6, "count": 32}  # as many values as 4 x 4 pixels of colours
_SHARE = 0.05  # of the data


def non_local_low_rank(
    problem: Problem,
    x0: Array | None = None,
    *,
    deviations: Sequence[float] = DEVIATIONS,
    iterations: int = 8,
    cg_iterations: int = 10,
    **groups: Any,
) -> Iterator[Array]:
    """Reconstruct an image with less and less regularisation.

    Parameters
    ----------
    problem : Problem
        Of an image (C, H, W), or of a batch of one, with an `L2` fidelity and a linear
        operator.
    x0 : array, optional
        First image; by default that of `Operator.approximate_inverse`, or the
        multiple of it that is nearest to the data.
    deviations : sequence of float
        What is taken for noise in the image before each proximal operator, at the
        least, relative to the largest magnitude of an image that explains the data
        roughly: singular values that such noise has are taken away. Larger ones first.
    iterations : int
        Iterations with each of them, and with the same groups.
    cg_iterations : int
        As for `ADMM`.
    **groups
        `patch`, `stride`, `count` and `reach` of `NonLocalLowRank`. Of one channel
        the default is 6 pixels and 32 patches.

    Returns
    -------
    iterator of array
        The image after the iterations with each of the deviations. Whoever has enough
        of them asks for no more.

    Raises
    ------
    TypeError
        If the fidelity is another, or the operator not linear.
    ValueError
        If it is of several images, deviations or iterations are none, or as
        `NonLocalLowRank`.
    """
    given = tuple(float(deviation) for deviation in deviations)
    if not given or not all(0 < deviation < math.inf for deviation in given):
        raise ValueError(f"deviations must be positive numbers, got {deviations!r}")
    _check_count("iterations", iterations, 1)
    start = problem.A.approximate_inverse(problem.y)
    shape, xp = tuple(start.shape), namespace(start)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
        raise ValueError(f"problem must be of one image (C, H, W), got shape {shape}")
    admm = ADMM(cg_iterations=cg_iterations, batch_axes=len(shape) - 3)
    state = admm.start(problem, start if x0 is None else x0)
    # The multiple that is nearest to the data, whatever the norm of A.
    seen = problem.A.forward(start)
    energy = as_float(inner(seen, seen))
    scale = as_float(inner(seen, problem.A.measured(problem.y))) / (energy or 1.0)
    largest = scale * as_float(xp.max(xp.abs(start)))
    if x0 is None:
        state["x"] = times(scale, start, xp)
    if shape[-3] == 1:
        groups = _ONE_CHANNEL | groups
    first = _grouped(state["x"], groups)
    penalty = _PENALTY * as_float(admm.suited(problem, start, None)["penalty"])
    steps = {"penalty": penalty, "dual_step": 1.0}

    def stages(state: State, prior: NonLocalLowRank) -> Iterator[Array]:
        values = prior.patch**2 * shape[-3]
        noise = math.sqrt(values) + math.sqrt(prior.groups.count)
        for number, deviation in enumerate(given):
            prior = prior if number == 0 else _grouped(state["x"], groups)
            # The largest singular value of noise (Davidson & Szarek, 2001) is
            # 2 sqrt(tau), below which there is nothing left.
            tau = (deviation * largest * noise / 2) ** 2
            for _ in range(iterations):
                state = admm.iterate(state, problem, partial(_prox, prior, tau), steps)
            yield state["x"]

    return stages(state, first)


def _grouped(x: Array, groups: Mapping[str, Any]) -> NonLocalLowRank:
    return NonLocalLowRank(1.0, x if len(x.shape) == 3 else x[0], **groups)


def _prox(prior: NonLocalLowRank, tau: float, x: Array, step: Any) -> Array:
    """Apply the proximal operator, whatever the step of the algorithm."""
    return prior.prox(x, tau)


def best_non_local(
    problem: Problem,
    score: Callable[[Array], float] | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> tuple[Array, float]:
    """Give the image of the deviation that is best.

    Parameters
    ----------
    problem : Problem
        As for `non_local_low_rank`.
    score : callable, optional
        What is to be large, of an image. Without it the deviation is that with which a
        twentieth of the data, left out at first, is predicted with the least absolute
        error.
    seed : int
        Of what is left out.
    **options
        Of `non_local_low_rank`.

    Returns
    -------
    image : array
        The image.
    deviation : float
        As in `deviations`.

    Raises
    ------
    TypeError, ValueError
        As `non_local_low_rank`, if there are too few data to leave some out, or `x0`
        is given without a score: it may know what is left out.
    """
    deviations = tuple(options.pop("deviations", DEVIATIONS))
    if score is None and options.get("x0") is not None:
        raise ValueError("x0 must be None without a score: it may know all data")
    images = non_local_low_rank(problem, deviations=deviations, **options)
    if score is not None:
        scored = [(score(x), i, x) for i, x in enumerate(images)]
        _, best, image = max(scored, key=lambda entry: entry[:2])
        return image, deviations[best]
    y, A = to_numpy(problem.y), problem.A
    xp = namespace(problem.y)
    held = held_out(y, to_numpy(problem.measured()), _SHARE, seed)
    kept = fitted((~held).astype(y.real.dtype), real(problem.y, xp), xp)
    weight = getattr(problem.fidelity, "weight", None)
    known = fitted_alone(replace(problem, y=times(kept, problem.y, xp)), kept, weight)
    relative = 1.0 if weight is None else np.sqrt(to_numpy(weight))

    def error(x: Array) -> float:
        rest = np.abs(to_numpy(A.forward(x)) - y) * relative
        return float(rest[held].mean())

    # To the end: on the way the error may rise, and fall again.
    errors = [
        error(x) for x in non_local_low_rank(known, deviations=deviations, **options)
    ]
    end = int(np.argmin(errors)) + 1
    return next(islice(images, end - 1, None)), deviations[end - 1]
