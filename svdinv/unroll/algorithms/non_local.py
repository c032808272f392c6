"""Reconstruction by low rank of similar patches, regrouped as the image improves.

Dong, Shi, Li, Ma & Huang, "Compressive sensing via nonlocal low-rank regularization",
IEEE TIP 2014, with the alternating direction method of multipliers: strong
regularisation first, while patches are hardly known, then less of it. For denoising,
weighted nuclear norm minimisation (WNNM; Gu, Zhang, Zuo & Feng, CVPR 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from svdinv.unroll.algorithms.cross_validation import held_out, restricted
from svdinv.unroll.algorithms.iterations import ADMM, State
from svdinv.unroll.algorithms.solver import check_units
from svdinv.unroll.arrays import (
    Array,
    as_float,
    cast_like,
    check_count,
    inner,
    namespace,
    real,
    times,
    to_numpy,
)
from svdinv.unroll.priors import NonLocalLowRank
from svdinv.unroll.problem import Problem
from svdinv.unroll.tiles import tiles

DEVIATIONS = (0.3, 0.2, 0.12, 0.07, 0.045, 0.03, 0.02, 0.013, 0.008, 0.005)
"""Levels of noise that are tried, relative to the largest magnitude."""

_PENALTY = 0.25  # in units of the mean eigenvalue of A^H A
_GROUPS = ("patch", "stride", "count", "reach", "phase")
_ONE_CHANNEL = {"patch": 6, "count": 32}  # about as many values as 4 x 4 colour pixels
_SHARE = 0.05  # fraction of the data that is held out
# Fraction of the noise that a proximal operator removes: the mean of overlapping groups
# removes the rest. Chosen on crops of three photographs, at 10 and 25 / 255.
_BESIDE_DATA, _ALONE = 0.45, 0.5
# Held-out errors up to this multiple of the least are as good; above, noise is fitted.
_RISES = 1.05
_NEAR = 0.1  # the part of the data nearest to 0
# For denoising, the first two by Gu et al.: fraction of the residual that is fed back;
# noise left by an iteration, relative to sqrt(|deviation^2 - mean square residual|).
_FED_BACK, _LEFT, _STRIDE = 0.1, 0.56, 3
_EPSILON = 0.01  # where the penalty turns logarithmic, in units of the noise
_COLOURS = 4  # maximum number of channels of a picture
_TILE, _MARGIN = 256, 32  # tiles of larger images, to save memory
# Noise estimate: sides of patches, least number of patches per row of their covariance,
# and about the largest number of patches that are used.
_PATCHES, _ENOUGH, _PLENTY = (4, 3, 2), 20, 2**18


def non_local_low_rank(
    problem: Problem,
    x0: Array | None = None,
    *,
    deviations: Sequence[float] = DEVIATIONS,
    noise: float = 0.0,
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
        First image; by default the multiple of `Operator.approximate_inverse` that fits
        the data best.
    deviations : sequence of float
        Standard deviations of the noise that the proximal operators remove from the
        image, relative to the largest magnitude of an image that roughly fits the
        data: singular values up to the largest of such noise become 0. Largest first.
    noise : float
        Standard deviation of the noise in the data, where they have weight one; for
        complex data, of both parts together. It sets the penalty of ADMM, so that the
        residual of the last image is about that large.
    iterations : int
        Iterations with each of the deviations, without regrouping.
    cg_iterations : int
        As for `ADMM`.
    **groups
        `patch`, `stride`, `count`, `reach` and `phase` of `NonLocalLowRank`. For one
        channel `patch` is 6 and `count` 32 by default.

    Returns
    -------
    iterator of array
        The image after the iterations with each of the deviations, computed as the
        iterator is consumed.

    Raises
    ------
    TypeError
        If the fidelity is not `L2`, the operator is not linear, or an option of groups
        is unknown.
    ValueError
        If the problem has several images, data are not finite, there is no deviation
        or iteration, `noise` is negative, or as `NonLocalLowRank`.
    """
    _check_noise(noise)
    levels = tuple(float(deviation) for deviation in deviations)
    if not levels or not all(0 < level < math.inf for level in levels):
        raise ValueError(f"deviations must be positive numbers, got {deviations!r}")
    check_count("iterations", iterations, 1)
    problem = problem.only_measured()
    xp = namespace(problem.y)
    start = problem.A.approximate_inverse(problem.y)
    shape = tuple(start.shape)
    if len(shape) == 4 and shape[0] != 1:
        raise ValueError(f"problem must be of one image (C, H, W), got shape {shape}")
    _check_axes("the image of the problem", shape[-3:] if len(shape) == 4 else shape)
    check_units("y", start)
    admm = ADMM(cg_iterations=cg_iterations, batch_axes=len(shape) - 3)
    state = admm.start(problem, start if x0 is None else x0)
    # The multiple of the image that is nearest to the data: A may have any norm.
    seen = problem.A.forward(start)
    energy = as_float(inner(seen, seen))
    scale = as_float(inner(seen, problem.A.project_to_samples(problem.y))) / (
        energy or 1.0
    )
    largest = scale * as_float(xp.max(xp.abs(start)))
    if x0 is None:
        state["x"] = times(scale, start, xp)
    groups = _usual(shape, groups)
    first = _grouped(state["x"], groups)
    least = _PENALTY * _mean_curvature(problem, start)

    def stages(state: State, prior: NonLocalLowRank) -> Iterator[Array]:
        for number, deviation in enumerate(levels):
            prior = prior if number == 0 else _grouped(state["x"], groups)
            removed = deviation * largest
            tau = _threshold(prior, removed)
            # Noise in the data over the noise that the proximal operator removes.
            beside = (_BESIDE_DATA * noise / removed) ** 2 if removed else 0.0
            steps = {"penalty": max(least, beside), "dual_step": 1.0}
            for _ in range(iterations):
                state = admm.iterate(state, problem, partial(_prox, prior, tau), steps)
            yield state["x"]

    return stages(state, first)


def _usual(
    shape: tuple[int, ...],
    groups: Mapping[str, Any],
    stride: int = NonLocalLowRank.stride,
) -> dict[str, Any]:
    """Return default grouping parameters for an image, overridden by those given."""
    if unknown := sorted(set(groups) - set(_GROUPS)):
        raise TypeError(f"no option {unknown[0]!r}; groups have {', '.join(_GROUPS)}")
    own = _ONE_CHANNEL if shape[-3] == 1 else {"patch": NonLocalLowRank.patch}
    own = own | {"patch": min(own["patch"], *shape[-2:])} | dict(groups)
    if isinstance(own["patch"], int):
        stride = min(stride, own["patch"])
    return {"stride": stride} | own


def _grouped(x: Array, groups: Mapping[str, Any]) -> NonLocalLowRank:
    return NonLocalLowRank(1.0, x if len(x.shape) == 3 else x[0], **groups)


def _mean_curvature(problem: Problem, x: Array) -> float:
    """Estimate the mean eigenvalue of the data term's second derivative.

    With one random image (Hutchinson, 1989). The largest eigenvalue is no substitute:
    most eigenvalues of line integrals are a thousandth of it.
    """
    xp, rng = namespace(x), np.random.default_rng(0)
    v = cast_like(rng.choice([-1.0, 1.0], tuple(x.shape)), x, xp)
    bent = replace(problem, y=xp.zeros_like(problem.y)).gradient(v)
    return as_float(inner(v, bent)) / math.prod(x.shape) or 1.0


def _threshold(prior: NonLocalLowRank, deviation: float) -> float:
    """Return the threshold tau that removes noise of a given deviation.

    Singular values below 2 sqrt(tau) become 0; this bound is the largest singular value
    of such noise (Davidson & Szarek, 2001).
    """
    values = prior.patch**2 * prior.guide.shape[-3]
    if prior.phase:  # real and imaginary part have half of the variance each
        deviation *= math.sqrt(0.5)
    return (deviation * (math.sqrt(values) + math.sqrt(prior.groups.count)) / 2) ** 2


def _check_noise(noise: float) -> None:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a number >= 0, got {noise!r}")


def _check_axes(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless images are (C, H, W); (H, W, C) would pass silently."""
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{name} must be (C, H, W), got shape {shape}")
    if shape[0] > _COLOURS >= shape[2]:
        raise ValueError(f"{name} must be (C, H, W), channels first, got shape {shape}")


def _prox(prior: NonLocalLowRank, tau: float, x: Array, step: Any) -> Array:
    """Apply the proximal operator with `tau`, ignoring the step of the algorithm."""
    return prior.prox(x, tau)


class Best(NamedTuple):
    """Result of `best_non_local`.

    The image; its entry of `deviations`; and the standard deviation of the noise in the
    data, as passed or estimated, 0 if no noise was found.
    """

    image: Array
    deviation: float
    noise: float


def best_non_local(
    problem: Problem,
    score: Callable[[Array], float] | None = None,
    *,
    noise: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Best:
    """Reconstruct with the best deviation: by a score, known noise or left-out data.

    Parameters
    ----------
    problem : Problem
        As for `non_local_low_rank`.
    score : callable, optional
        Quality of an image, such as its PSNR: the deviation with the largest is chosen.
    noise : float, optional
        Standard deviation of the noise in the data, where they have weight one: 1 if
        the weights are inverse variances. With it and without `score` the image of the
        last deviation is returned.
        With neither, a twentieth of the data is left out first, and the deviation that
        predicts these with the least mean absolute error is chosen. If that error rises
        again at later deviations, the data have noise: it is estimated, and the image
        of the last deviation with that estimate is returned if it predicts as well.
    seed : int
        Seed of the choice of the data that are left out.
    **options
        Of `non_local_low_rank`.

    Returns
    -------
    Best
        The image, its deviation and the noise in the data.

    Raises
    ------
    TypeError, ValueError
        As `non_local_low_rank`; and if data are to be left out, where these are too few
        or `x0`, which may have been computed from them, is not None.
    """
    deviations = tuple(options.pop("deviations", DEVIATIONS))

    def images(given: Problem, noise: float) -> Iterator[Array]:
        return non_local_low_rank(given, deviations=deviations, noise=noise, **options)

    if score is not None:
        scored = [(score(x), i, x) for i, x in enumerate(images(problem, noise or 0.0))]
        _, best, image = max(scored, key=lambda entry: entry[:2])
        return Best(image, deviations[best], noise or 0.0)
    if noise is not None:
        *_, image = images(problem, noise)
        return Best(image, deviations[-1], noise)
    if options.get("x0") is not None:
        raise ValueError(
            "x0 must be None without a score and noise: it may know all data"
        )
    end, level = _by_left_out_data(problem, images, seed)
    image = next(islice(images(problem, level), end, None))
    return Best(image, deviations[end], level)


def _by_left_out_data(
    problem: Problem, images: Callable[[Problem, float], Iterator[Array]], seed: int
) -> tuple[int, float]:
    """Return the index of the best deviation and the noise of the data, 0 for none.

    `images` yields the images of a problem with some noise, one for each deviation.
    """
    ADMM().check(problem)  # whose fidelity `restricted` replaces
    problem = problem.only_measured()
    y, A, xp = to_numpy(problem.y), problem.A, namespace(problem.y)
    weight = getattr(problem.fidelity, "weight", None)
    measured = to_numpy(problem.sampled_mask())
    held = held_out(y, measured, _SHARE, seed)
    kept = cast_like((~held).astype(y.real.dtype), real(problem.y, xp), xp)
    known = restricted(replace(problem, y=times(kept, problem.y, xp)), kept, weight)
    weights = np.broadcast_to(1.0 if weight is None else to_numpy(weight), y.shape)
    relative = np.sqrt(weights)
    most = _most((y * relative)[measured], weights[measured])

    def errors(x: Array) -> tuple[float, float]:
        """Return the mean error of left-out data, and a noise estimate from all data.

        If the image has p degrees of freedom per datum, left-out data have the error of
        the other data over 1 - p (Golub, Heath & Wahba, 1979), and the noise variance
        is the latter's square over 1 - p (Wahba, 1983): the product of both errors.
        """
        rest = np.abs(to_numpy(A.forward(x)) - y) * relative
        seen = (np.sqrt(np.mean(rest[of] ** 2)) for of in (held, measured & ~held))
        return float(rest[held].mean()), min(most, math.sqrt(math.prod(seen)))

    # All deviations are tried, as the error may rise and fall again.
    found = [errors(x) for x in images(known, 0.0)]
    (least, _), end = min(found), int(np.argmin(found, axis=0)[0])
    if found[-1][0] > _RISES * least:
        # The first that is as good: later ones may have fitted some of the noise.
        estimate = next(level for error, level in found if error <= _RISES * least)
        *_, x = images(known, estimate)
        left, again = errors(x)
        if left <= _RISES * least:  # else the estimate was the image's error
            return len(found) - 1, math.sqrt(estimate * again)
    return end, 0.0


def _most(data: NDArray[Any], weights: NDArray[Any]) -> float:
    """Return an upper bound for the standard deviation of Gaussian noise.

    The data are multiplied by the square roots of their weights. Adding any signal to
    the noise does not increase the share of data near 0 (Anderson, 1955), apart from
    sampling error. Data that are exactly 0, such as clipped ones, are left out.
    """
    some = data != 0
    sizes, weights = np.abs(data[some]), weights[some]
    if not sizes.size:
        return 0.0
    share = min(1.0, _NEAR + 2 * math.sqrt(_NEAR * (1 - _NEAR) / sizes.size))
    # Data of small weight are near 0 whatever their noise.
    near = np.quantile(sizes, share, weights=weights, method="inverted_cdf")
    if np.iscomplexobj(data):
        return float(near) / math.sqrt(-math.log1p(-_NEAR))
    return float(near) / NormalDist().inv_cdf((1 + _NEAR) / 2)


def denoise_non_local(
    y: Array, noise: float | None = None, *, iterations: int = 4, **groups: Any
) -> Array:
    """Denoise an image with white noise, after Gu et al. (WNNM, CVPR 2014).

    Their weights are those of the logarithmic penalty of `NonLocalLowRank`; here
    patches contain all channels.

    Parameters
    ----------
    y : array, shape (C, H, W)
        Image with noise, real or complex, of any framework, without missing values.
    noise : float, optional
        Standard deviation of the noise; for a complex image, of both parts together. By
        default that of `noise_deviation`.
    iterations : int
        How often groups are found and thresholded.
    **groups
        `patch`, `stride`, `count`, `reach` and `phase` of `NonLocalLowRank`; the
        stride is 3 here. For one channel `patch` is 6 and `count` 32 by default.

    Returns
    -------
    array, shape (C, H, W)
        The denoised image.

    Raises
    ------
    TypeError
        If `y` is neither real floating point nor complex, or an option of groups is
        unknown.
    ValueError
        If `y` has other axes or is not finite, `noise` is negative, or as
        `noise_deviation` and `NonLocalLowRank`.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.algorithms.non_local import denoise_non_local
    >>> image = np.ones((3, 32, 32)) * (np.arange(32) // 8)
    >>> noise = np.random.default_rng(0).standard_normal(image.shape)
    >>> found = denoise_non_local(image + 0.1 * noise)
    >>> bool(np.abs(found - image).mean() < 0.02)
    True
    """
    _, H, W = shape = _finite(y).shape
    deviation = noise_deviation(y) if noise is None else as_float(noise)
    _check_noise(deviation)
    check_count("iterations", iterations, 1)
    groups = _usual(shape, groups, _STRIDE)
    xp = namespace(y)
    # Scaled to magnitude 1, so that squares in single precision do not overflow.
    unit = as_float(xp.max(xp.abs(y)))
    if not (deviation and unit):
        return times(1, y, xp)  # a copy
    y, deviation = times(1 / unit, y, xp), deviation / unit
    groups = {"epsilon": _EPSILON * deviation} | groups
    margin = max(_MARGIN, groups["patch"] + groups.get("reach", NonLocalLowRank.reach))
    made = []
    for _, row in groupby(tiles(H, W, _TILE, margin), lambda tile: tile.kept[0]):
        parts = [
            _denoised(y[:, *tile.seen], deviation, iterations, groups)[:, *tile.inside]
            for tile in row
        ]
        made.append(xp.concat(parts, axis=-1))
    return times(unit, xp.concat(made, axis=-2), xp)


def _denoised(
    y: Array, deviation: float, iterations: int, groups: Mapping[str, Any]
) -> Array:
    xp, x, left = namespace(y), y, deviation
    for number in range(iterations):
        if number:
            x = x + times(_FED_BACK, y - x, xp)
            shown = as_float(xp.mean(xp.abs(y - x) ** 2))
            left = _LEFT * math.sqrt(abs(deviation**2 - shown))
        prior = NonLocalLowRank(1.0, x, **groups)
        x = prior.prox(x, _threshold(prior, _ALONE * left))
    return x


def _finite(y: Array) -> NDArray[Any]:
    """Convert an image to NumPy, or raise the errors of `denoise_non_local`."""
    if not hasattr(y, "shape"):
        raise TypeError(f"y must be an array (C, H, W), got {type(y).__name__}")
    _check_axes("y", tuple(y.shape))
    image = to_numpy(y)
    if image.dtype.kind not in "fc":
        raise TypeError(f"y must be floating point or complex, got {image.dtype}")
    if not np.isfinite(image).all():
        raise ValueError("y must be finite")
    return image


def noise_deviation(y: Array) -> float:
    """Estimate the standard deviation of white noise in an image (C, H, W).

    The image, of any framework, is real or complex; the deviation of complex noise is
    that of both parts together. The noise must be independent, with one deviation in
    all pixels and channels: pass one channel of a grey picture, and leave out an empty
    margin. With only some hundred pixels the estimate may be a tenth too small.

    The least eigenvalues of the covariance of patches equal the variance of the noise;
    they are those whose mean is their median (Chen, Zhu & Heng, ICCV 2015).

    Raises TypeError if `y` is neither real floating point nor complex, ValueError if it
    has other axes, too few pixels, or is not finite.
    """
    image = _finite(y)
    for patch in _PATCHES:
        size = image.shape[0] * patch**2
        corners = [side - patch + 1 for side in image.shape[1:]]
        if min(corners) > 0 and math.prod(corners) >= _ENOUGH * size:
            break
    else:
        raise ValueError(
            f"y of shape {image.shape} is too small to tell its noise: it must be "
            f"(C, H, W), with {_ENOUGH * size} patches of {patch} x {patch} pixels or "
            "more"
        )
    unit = float(np.abs(image).max()) or 1.0  # squares do not overflow
    patches = sliding_window_view(image / unit, (patch, patch), axis=(1, 2))
    apart = math.ceil(math.sqrt(math.prod(corners) / _PLENTY))
    rows = np.moveaxis(patches[:, ::apart, ::apart], 0, 2).reshape(-1, size)
    values = np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1]
    for first in range(len(values)):
        mean = values[first:].mean()
        if mean <= np.median(values[first:]):
            break
    return unit * math.sqrt(max(mean, 0.0))
