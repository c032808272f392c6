"""Unrolled non-local low-rank reconstruction, with learned parameters in each step.

The steps of `svdinv.unroll.algorithms.non_local` (Dong, Shi, Li, Ma & Huang, IEEE TIP
2014, by the alternating direction method of multipliers) start from the output of a
network or from A^H y. Each round groups patches anew, for several steps:

    G = the patches of x + u in each group, as rows, without their mean
    G = SVT(G, tau)                     with one tau for each singular value
    z = weighted mean of the patches that contain a pixel
    z = z + p (z - x)
    x = z + A^H (y - A z)               `data_steps` times
    u = k u + g (x - z)

For noisy data the last line but one is instead, as in the algorithm,

    x = argmin |A x - y|^2 + mu |x - (z - u)|^2     by conjugate gradients

and the logarithmic penalty replaces the SVT, for G with its mean and with one threshold
for all singular values. For k-space mu depends on the noise, which is estimated from
the outer samples. With `phase` the phase of the local mean is removed first, and real
and imaginary part have different thresholds: if the phase is smooth, the imaginary part
then contains little but errors.

Learned are p, mu, k, g and the thresholds, which are multiplied by learned powers of
three features of a group: the measured fraction of its values, its contrast, and the
least contrast of all groups of the image, an estimate of the noise. The weight of a
patch is a product of learned powers of its group's contrast after thresholding and of
the contrast that the threshold removed from the patch.

With `reweighted`, rounds of reweighted least squares follow (Mohan & Fazel, JMLR 2012,
which minimises the logarithm of the determinant). They find the image that restores the
data and is most likely if the patches of groups are independent Gaussian vectors,

    x = argmin sum over groups of tr(G (C + E)^-1 G^H),  G without its mean,

by preconditioned conjugate gradients. C is the covariance that a larger group has in
the image before, and E that of its errors: those of a pixel's channels are correlated,
and their deviation e depends on the features, by fixed numbers, so that these rounds
have nothing to learn.

For images with white noise and no missing values (`alone`), these are the steps of
`svdinv.unroll.algorithms.non_local.denoise_non_local` (WNNM, Gu, Zhang, Zuo & Feng,
CVPR 2014), applied to groups without their mean. The first feature is then the
effective number of singular values of a group, and the noise is estimated by
`noise_deviation`. There is no u, and the last image is z. No gradient passes through
the grouping, since positions are integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from svdinv.backends.tape import untraced
from svdinv.core.namespace import adjoint
from svdinv.core.tolerances import eps
from svdinv.unroll.algorithms.iterations import conjugate_gradients, least_squares_near
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    backend,
    cast_like,
    count_up,
    inverse,
    is_complex,
    join_complex,
    like,
    namespace,
    on_device,
    operators,
    real,
    rounds_products,
    sizes,
    times,
)
from svdinv.unroll.networks.functional import (
    at_least,
    check_image,
    require,
    sampled_where,
)
from svdinv.unroll.networks.noise import QUIET, noise_of_images, noise_of_kspace
from svdinv.unroll.networks.recipe import (
    Layer,
    Layers,
    Number,
    Part,
    Recipe,
    State,
    register,
)
from svdinv.unroll.networks.series import ImageOrSeriesRecipe, zero_filled
from svdinv.unroll.operators import MRI, Operator
from svdinv.unroll.operators.wrapped import OnHost
from svdinv.unroll.priors.local_phase import conjugate_phase
from svdinv.unroll.priors.patch_matching import (
    folded,
    gathered,
    group_shape,
    nearest_patches,
    patches_of,
    summed,
)
from svdinv.unroll.problem import Problem

_VALUES = 2**21  # elements of groups that are processed at a time
_LEAST = 1e-6  # mean square below which a group counts as flat
_LEAST_DENSITY = 0.02
# Typical logarithms of the features, of photographs; features are relative to them.
_DENSITY, _CONTRAST, _SPREAD, _NOISE = -1.2, -3.0, 1.0, -4.5
_FIRST = {"push": 0.1, "keep": 1.0, "gain": 0.5}
# As in `non_local_low_rank`: least initial mu, and the factor of noise / deviation.
_LEAST_MU, _BESIDE_DATA = 0.06, 0.45
# With `alone`, as in `denoise_non_local`: initial -log mu, and thresholds of the first
# step and of later ones, relative to the largest singular value of the noise.
_TRUST, _ALONE, _ALONE_LATER = -2.2, 0.5, 0.14
_EPSILON = 0.002
# With `reweighted`: log(e) of typical groups, its factors of the features density,
# contrast and noise, the correlation of errors of different channels, patches of a
# covariance for each pixel of their side (or all within reach, if these are fewer),
# patches of a group, and iterations.
_LEVEL, _OF_FEATURES, _CORRELATION = -6.4, (-0.8, 0.3, 0.2), 0.5
_PER_SIDE, _NEAREST, _ITERATIONS = 40, 32, 16
_SINGLE = 1e-6  # more than eps of single precision


@register
@dataclass(frozen=True, kw_only=True)
class NonLocal(ImageOrSeriesRecipe):
    """Unrolled low rank of groups of similar patches, alone or after another network.

    Images are (B, C, H, W), real or complex, at least a patch high and wide. The norm
    of the operator is about 1 at most; it is a mask unless `images` or `network`
    defines another. The layers of `network` keep their names, so that its weights can
    be loaded. Every learned number is a separate layer.

    Attributes
    ----------
    cells : int
        Cells of `network`, or 1 without it; 0, the default, is replaced by that number.
    network : Recipe, optional
        Network for the first image, with the same `channels`; by default ``A^H y``.
    images : {"image", "series"}
        Images sampled by a mask; or, without `network`, complex series (B, T, H, W) of
        `channels` frames, measured by MRI with mask and coil maps. A passed operator
        replaces either one.
    channels : int
        Channels of the image.
    rounds : int
        Number of times that groups are found.
    steps : int
        Steps with the same groups.
    data_steps : int
        Data consistency steps in each of these, with ``exact=False`` conjugate gradient
        steps: one suffices for an operator whose singular values are 0 and 1, such as a
        mask; several coils need more.
    patch, stride, count, reach : int
        As for `svdinv.unroll.priors.patch_matching.Groups`.
    exact : bool
        Whether the data are noiseless and are restored. Otherwise mu, see the top of
        this module, and its dependence on the noise are learned.
    alone : bool
        Whether images have white noise and no missing values; not allowed with `exact`,
        with `network` or for series.
    phase : float
        Standard deviation in pixels of the Gaussian mean whose phase is removed from
        complex images before their groups are found, in each round; real and imaginary
        part then form separate groups. With 0, groups consist of complex patches.
    reweighted : tuple of int
        Sides of the patches of rounds of reweighted least squares after all others, at
        most those of the image; only with `exact` and images in [0, 1] sampled by a
        mask.
    first, last : float
        Standard deviations of the noise that the initial thresholds remove, in the
        first and the last step, for images in [0, 1]; not used with `alone`.
    """

    cells: int = 0
    network: Recipe | None = None
    images: Literal["image", "series"] = "image"
    channels: int = 3
    rounds: int = 4
    steps: int = 3
    data_steps: int = 1
    patch: int = 4
    stride: int = 4
    count: int = 64
    reach: int = 10
    exact: bool = True
    alone: bool = False
    phase: float = 0.0
    reweighted: tuple[int, ...] = ()
    first: float = 0.03
    last: float = 0.006

    def __post_init__(self) -> None:
        network: Any = self.network
        if not (network is None or isinstance(network, Recipe)):
            raise TypeError(f"network must be a Recipe or None, got {network!r}")
        cells = 1 if network is None else network.cells
        if self.cells == 0:
            object.__setattr__(self, "cells", cells)
        super().__post_init__()
        require(self.cells == cells, self, "cells", f"0 or {cells}")
        names = ("channels", "rounds", "steps", "data_steps")
        at_least(1, self, *names, "patch", "stride", "count", "reach")
        due = f"at most patch, {self.patch}"
        require(self.stride <= self.patch, self, "stride", due)
        if self.alone and (
            self.exact or network is not None or self.images == "series"
        ):
            raise ValueError("alone needs exact=False, no network and no series")
        if self.reweighted and (not self.exact or self.images == "series"):
            raise ValueError("reweighted needs exact=True and images='image'")
        require(min(self.reweighted, default=1) > 0, self, "reweighted", "positive")
        for name in ("first", "last"):
            require(getattr(self, name) > 0, self, name, "positive")
        require(self.phase >= 0, self, "phase", "0 or more")
        if self.phase and self.images != "series":
            raise ValueError("phase is of images='series'")
        if network is not None and self.images != "image":
            raise ValueError(f"images must be 'image' with network, got {self.images}")
        if network is not None:
            own = network.axes, getattr(network, "channels", 0)
            due = f"of images B C H W with {self.channels} channels"
            require(own == ("B C H W", self.channels), self, "network", due)

    @property
    def measurement(self) -> tuple[str, ...]:  # type: ignore[override]
        network = self.network
        return super().measurement if network is None else network.measurement

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.network is not None and self.network.has_penalty

    def layers(self, last: bool) -> Mapping[str, Layer]:
        layers = {} if self.network is None else dict(self.network.layers(last))
        if last:
            for step in range(self.rounds * self.steps):
                own = self._numbers(step).items()
                layers |= {_label(step) + name: Number(value) for name, value in own}
        return layers

    def operator(self, *measurement: Array) -> Operator:
        if self.network is None:
            return super().operator(*measurement)
        return self.network.operator(*measurement)

    def begin(self, problem: Problem) -> State:
        if self.network is not None:
            return self.network.begin(problem)
        x = zero_filled(problem) if self.images == "series" else problem.adjoint()
        xp = namespace(x)
        check_image(real(x, xp), self.axes, channels=self.channels)
        return {"x": x}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        if self.network is not None:
            state = self.network.cell(state, problem, layers)
        if layers.index < self.cells - 1:
            return state
        return state | {"x": self.improve(state["x"], problem, layers)}

    def improve(self, x: Array, problem: Problem, layers: Layers) -> Array:
        """Apply all steps to an image (B, C, H, W), see the top of this module."""
        xp = namespace(x)
        density = xp.ones_like(real(x, xp))
        if problem.A.pixel_mask is not None:
            density = sampled_where(problem.A, density, "NonLocal")
        u = xp.zeros_like(x)
        known, final = self._noise(x, problem), self.rounds * self.steps - 1
        for step in range(final + 1):
            own = Part(layers, _label(step))
            if step % self.steps == 0:
                rotation = conjugate_phase(x, self.phase) if self.phase else None
                plain = x if rotation is None else x * rotation
                index = self._positions(plain, xp)
                features, noise = self._features(plain, density, index, known, xp)
                if rotation is not None:
                    features, index = _for_both_parts(features, index, xp)
            moved = x + u
            parts = moved if rotation is None else _both_parts(moved * rotation, xp)
            z = self._low_rank(parts, features, index, own, xp)
            if rotation is not None:
                z = _joined(z, x, xp) * xp.conj(rotation)
            z = z + times(own.push, z - x, xp)
            if self.alone and step == final:
                return z
            x = self._towards_data(z, u, problem, own, noise)
            if not self.alone and step < final:
                u = times(own.keep, u, xp) + times(own.gain, x - z, xp)
        wide = x
        if self.reweighted:
            # Autocast would round the products of single precision.
            rounds = rounds_products(x)
            wide = xp.astype(x, xp.float64) if rounds else _in_single(x, xp)
        for most in self.reweighted:
            side = min(most, *x.shape[-2:])
            count = _PER_SIDE * side
            round_ = replace(self, reweighted=(), patch=side, stride=side, count=count)
            wide = round_.reweight(wide, density, problem)
        return cast_like(wide, x, xp)

    def reweight(self, x: Array, density: Array, problem: Problem) -> Array:
        """Make a round of reweighted least squares, see the top of this module."""
        xp, A = namespace(x), problem.A
        if A.pixel_mask is None:
            raise TypeError(f"reweighted needs images sampled by a mask, not {A!r}")
        index = self._positions(x, xp, _NEAREST)
        density = cast_like(density, real(x, xp), xp)
        features, _ = self._features(x, density, index, None, xp)
        log_e = _LEVEL + sum(f * features[:, k] for k, f in enumerate(_OF_FEATURES))
        square = xp.exp(2 * log_e)[:, None, None]
        channels = np.eye(self.channels) * (1 - _CORRELATION) + _CORRELATION
        E = like(np.kron(channels, np.eye(self.patch**2)), x, xp)
        inverses: list[Array] = []
        for part, _, these in self._parts(patches_of(x, self.patch), index, xp):
            rest = part - xp.mean(part, axis=-2, keepdims=True)
            C = adjoint(rest, xp) @ rest / part.shape[-2]
            inverses.append(inverse(C + square[these] * E))
        W, near = xp.concat(inverses, axis=0), index[..., :_NEAREST]
        del inverses
        B, corners = sizes(x, xp)[0], tuple(n - self.patch + 1 for n in x.shape[-2:])
        places = math.prod(corners)

        def added(v: Array, weigh: Callable[[Array, Array], Array]) -> Array:
            """Weigh the patches of each group, and add them up where they lie."""
            rows, total = patches_of(v, self.patch), 0.0
            size = rows.shape[-1]
            # Each part is added to an array of all rows: larger parts, fewer sums.
            for part, chosen, these in self._parts(rows, near, xp, places * size):
                part = xp.reshape(weigh(part, W[these]), (-1, size))
                total = total + summed(part, chosen, B * places)
            return folded(xp.reshape(total, (B, places, size)), self.patch, corners)

        def centred(part: Array, W: Array) -> Array:
            return (part - xp.mean(part, axis=-2, keepdims=True)) @ W

        def diagonals(part: Array, W: Array) -> Array:
            return xp.linalg.diagonal(W)[:, None, :] + xp.zeros_like(part)

        diagonal = added(x, diagonals)

        def normal(v: Array) -> Array:
            v = added(v, centred)
            return v - A.adjoint(A.forward(v))

        # Residuals and directions are 0 at the samples, which remain. Between the
        # others `normal` is Hermitian.
        return conjugate_gradients(
            normal, xp.zeros_like(x), x, _ITERATIONS, batch_axes=1,
            precondition=lambda residual: residual / diagonal,
        )  # fmt: skip

    def _towards_data(
        self, z: Array, u: Array, problem: Problem, own: Any, noise: Array
    ) -> Array:
        """Restore the data; if they are noisy, solve least squares near z - u."""
        A, y = problem.A, problem.y
        if not self.exact:
            mu = namespace(z).exp(-own.trust - own.trust_noise * noise)
            mu = mu[:, None, None, None]
            return least_squares_near(z - u, A, y, mu, self.data_steps)
        for _ in range(self.data_steps):
            z = z + A.adjoint(y - A.forward(z))
        return z

    def _noise(self, x: Array, problem: Problem) -> Array | None:
        """Estimate log(noise) - `_NOISE` (B,); None if the data do not allow it."""
        xp = namespace(x)
        if self.alone:
            return xp.log(noise_of_images(x)) - _NOISE
        A = problem.A
        if self.exact or not isinstance(A, MRI):
            return None
        found = noise_of_kspace(problem.y, A, real(x, xp)[:, 0, 0, 0])
        return xp.log(found + QUIET) - _NOISE

    def _numbers(self, step: int) -> dict[str, float]:
        """Return the initial values of the learned numbers of a step, by name."""
        size = self.channels * self.patch**2
        values, total = min(size, self.count), self.rounds * self.steps
        if self.alone:
            noise = math.sqrt(size) + math.sqrt(self.count)
            factor = _ALONE_LATER if step else _ALONE
            numbers = {"tau_0": math.log(factor * noise) + _NOISE}
            numbers |= dict.fromkeys((*self._powers, "kept_power", "taken_power"), 0.0)
            numbers |= {"noise": 1.0, "push": 0.0}
            if step < total - 1:
                numbers |= {"trust": _TRUST, "trust_noise": 0.0}
            return numbers
        way = step / max(1, total - 1)
        deviation = self.first * (self.last / self.first) ** way
        largest = deviation * (math.sqrt(size) + math.sqrt(self.count))
        largest *= math.sqrt(0.5) if self.phase else 1.0  # half of the variance each
        numbers = dict.fromkeys((*self._powers, "kept_power", "taken_power"), 0.0)
        if self.exact:
            shape = [0.35 + 0.65 * k / max(1, values - 1) for k in range(values)]
            numbers |= {f"tau_{k}": math.log(largest * shape[k]) for k in range(values)}
            numbers |= {f"{name}_tilt": 0.0 for name in self._powers} | _FIRST
        else:
            known = (_BESIDE_DATA * math.exp(_NOISE) / deviation) ** 2
            numbers |= {"tau_0": math.log(largest), "push": 0.0, "keep": 1.0, "gain": 1}
            numbers |= {"trust": -math.log(max(_LEAST_MU, known))}
            numbers |= {"trust_noise": -2.0 if known > _LEAST_MU else 0.0}
        idle = ("keep", "gain") if step == total - 1 else ()
        return {name: x for name, x in numbers.items() if name not in idle}

    def _positions(self, x: Array, xp: Namespace, leading: int | None = None) -> Array:
        """Find the groups of each image, (B, groups, count), see `nearest_patches`."""
        H, W = x.shape[-2:]
        if H is None or W is None or min(H, W) < self.patch:
            raise ValueError(
                f"images must be at least a patch, {self.patch}, high and wide, of a "
                f"known size, got shape {tuple(x.shape)}"
            )
        options = self.patch, self.stride, self.count, self.reach
        guide = untraced(backend(x).stop_gradient(x))
        xp = namespace(guide)
        if is_complex(guide, xp):
            guide = xp.concat([xp.real(guide), xp.imag(guide)], axis=1)
        guide = _in_single(guide, xp)  # half precision would round the positions
        shapes = ((guide.shape[1], H, W),), group_shape((H, W), *options)
        found = OnHost(lambda x: nearest_patches(x, *options, leading), *shapes)(guide)
        return xp.astype(found, xp.int32)

    def _parts(
        self, rows: Array, index: Array, xp: Namespace, least: int = 0
    ) -> Iterator[Any]:
        """Yield some groups of patches at a time, from rows (B, places, values).

        They are (some, count, values), with the indices of their rows in the batch, and
        which groups they are; `least` is the number of elements from which they are
        split.
        """
        B, places, size = sizes(rows, xp)
        whole, count = namespace(index), index.shape[-1]
        first = whole.arange(B, dtype=index.dtype, **on_device(index)) * places
        where = whole.reshape(index + first[:, None, None], (-1,))
        rows = xp.reshape(rows, (B * places, size))
        total = where.shape[0]
        step = total or 1  # of unknown length: all at once
        if total:
            step = max(1, max(_VALUES, least) // (count * size)) * count
        for begin in range(0, total or 1, step):
            chosen = where[begin : begin + step] if total else where
            these = slice(begin // count, (begin + step) // count if total else None)
            yield xp.reshape(gathered(rows, chosen), (-1, count, size)), chosen, these

    def _features(
        self, x: Array, density: Array, index: Array, noise: Any, xp: Namespace
    ) -> tuple[Array, Array]:
        """Compute features of groups, (B groups, 3), and the noise of images, (B,).

        They are logarithms minus typical values. `noise` is returned unless it is None.
        """
        squares, first = [], []
        for part, *_ in self._parts(patches_of(x, self.patch), index, xp):
            rest = part - xp.mean(part, axis=-2, keepdims=True)
            squares.append(xp.mean(_squares(rest, xp), axis=(-2, -1)))
            if self.alone:
                first.append(_spread(rest, squares[-1], xp) - _SPREAD)
        if not self.alone:
            share = xp.mean(patches_of(density, self.patch), axis=-1, keepdims=True)
            for part, *_ in self._parts(share, index, xp):
                known = xp.mean(part, axis=(-2, -1))
                first.append(xp.log(known + _LEAST_DENSITY) - _DENSITY)
        square = xp.concat(squares, axis=0)
        B, groups = sizes(index, xp)[:2]
        each = xp.reshape(square, (B, groups))
        # The harmonic mean is close to the least, which flat groups with noise have.
        least = -xp.log(xp.mean(1 / (each + _LEAST), axis=-1)) / 2 - _NOISE
        noise = least if noise is None else noise
        of_groups = xp.reshape(noise[:, None] + xp.zeros_like(each), (-1,))
        contrast = xp.log(square + _LEAST) / 2 - _CONTRAST
        features = [xp.concat(first, axis=0), contrast, of_groups]
        return xp.stack(features, axis=-1), noise

    @property
    def _powers(self) -> tuple[str, ...]:
        facts = "spread" if self.alone else "density", "contrast", "noise"
        return (*facts, "imaginary") if self.phase else facts

    def _thresholds(
        self, features: Array, index: Array, own: Any, xp: Namespace
    ) -> tuple[Array, Array]:
        """Return log tau of each singular value, and the powers of the features."""
        values = min(index.shape[-1], self.channels * self.patch**2)
        values = values if self.exact else 1
        numbers = xp.stack([getattr(own, f"tau_{k}") for k in range(values)])
        log_tau = cast_like(numbers, features, xp)
        powers = [like(getattr(own, n), features, xp) for n in self._powers]
        way = count_up(values, log_tau, xp) / max(1, values - 1)
        if self.exact:
            tilts = [times(getattr(own, f"{n}_tilt"), way, xp) for n in self._powers]
            powers = [p + tilt for p, tilt in zip(powers, tilts, strict=True)]
        else:
            powers = [p + xp.zeros_like(way) for p in powers]
        return log_tau, xp.stack(powers)

    def _low_rank(
        self, x: Array, features: Array, index: Array, own: Any, xp: Namespace
    ) -> Array:
        """Threshold the groups, and average their patches at each pixel, weighted."""
        log_tau, powers = self._thresholds(features, index, own, xp)
        one = xp.sum(xp.zeros_like(log_tau)) + 1
        B, corners = sizes(x, xp)[0], tuple(n - self.patch + 1 for n in x.shape[-2:])
        places = math.prod(corners)
        total = 0.0
        for part, chosen, these in self._parts(patches_of(x, self.patch), index, xp):
            tau = xp.exp(log_tau + features[these] @ powers)
            mean: Any = 0.0
            if self.exact or self.alone:
                mean = xp.mean(part, axis=-2, keepdims=True)
            centred = part - mean
            if self.exact:
                kept = own.svt(centred, tau, one)
            else:
                kept = _log_sum(centred, tau[:, :, None], xp)
            size, lost = part.shape[-1], centred - kept
            contrast = xp.mean(_squares(kept, xp), axis=(-2, -1), keepdims=True)
            taken = xp.mean(_squares(lost, xp), axis=-1, keepdims=True)
            weight = xp.exp(
                -own.kept_power * xp.log(contrast + _LEAST)
                - own.taken_power * xp.log(taken + _LEAST)
            )
            pair = times(weight, kept + mean, xp), cast_like(weight, part, xp)
            both = xp.concat(pair, axis=-1)
            total = total + summed(xp.reshape(both, (-1, size + 1)), chosen, B * places)
        total = xp.reshape(total, (B, places, size + 1))
        weight = total[..., size:] + xp.zeros_like(total[..., : self.patch**2])
        sums = folded(total[..., :size], self.patch, corners)
        return sums / folded(weight, self.patch, corners)


def _both_parts(x: Array, xp: Namespace) -> Array:
    """Return the real parts of a batch, then the imaginary ones, (2 B, ...)."""
    return xp.concat([xp.real(x), xp.imag(x)], axis=0)


def _joined(parts: Array, x: Array, xp: Namespace) -> Array:
    """Invert `_both_parts`, in the dtype of `x`."""
    B = sizes(x, xp)[0]
    return join_complex(parts[:B], parts[B:], x, xp)


def _for_both_parts(
    features: Array, index: Array, xp: Namespace
) -> tuple[Array, Array]:
    """Repeat features and positions; append a feature, 0 for real, 1 for imaginary."""
    zero, whole = xp.zeros_like(features[:, :1]), namespace(index)
    both = [xp.concat([features, zero + k], axis=1) for k in (0, 1)]
    return xp.concat(both, axis=0), whole.concat([index, index], axis=0)


def _log_sum(x: Array, unit: Array, xp: Namespace) -> Array:
    """Apply the log-sum threshold to each group in its own unit."""
    # Scale x instead of epsilon, through which no gradient is propagated.
    kept = operators(x).log_sum_threshold(times(1 / unit, x, xp), 0.25, _EPSILON)
    return times(unit, kept, xp)


def _in_single(x: Array, xp: Namespace) -> Array:
    """Return `x`, in single precision if it is in half precision."""
    return xp.astype(x, xp.float32) if eps(x, xp) > _SINGLE else x


def _label(step: int) -> str:
    return f"group_{step}_"


def _squares(x: Array, xp: Namespace) -> Array:
    return xp.abs(x) ** 2 if is_complex(x, xp) else x * x


def _spread(groups: Array, square: Array, xp: Namespace) -> Array:
    """Return ``log((sum s^2)^2 / sum s^4)`` of groups: 0 for rank 1 or flat ones.

    `square` is the mean square of each group.
    """
    rows, columns = groups.shape[-2:]
    other = xp.matrix_transpose(xp.conj(groups) if is_complex(groups, xp) else groups)
    gram = groups @ other if rows < columns else other @ groups
    fourth = xp.sum(_squares(gram, xp), axis=(-2, -1)) / (rows * columns) ** 2
    return xp.log((square * square + _LEAST**2) / (fourth + _LEAST**2))
