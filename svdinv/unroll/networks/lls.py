"""LLS-Net: a locally low-rank and a learned part, for dynamic MRI.

One cell, of which D is a chain of convolutions in space and time::

    v = x + beta (x - x_before)                          momentum
    L = LLR(v)                          singular values of blocks, soft-thresholded
    z = L + D(L, v)                                      learned correction
    x = z - gamma A^H (A z - y)                          data consistency

The blocks lie elsewhere in each cell. Iterations in front of the first cell and behind
the last one learn nothing. In front, first for the series that stands still, then with
large blocks, then with those of the cells, by the sum of the logarithms of singular
values (Candes, Wakin & Boyd, J. Fourier Anal. Appl. 2008), which spares large ones;
behind, by low rank of the series as a whole, as far as the noise lets them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import array_api_compat as compat

from svdinv.core.namespace import real, safe_divide
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    casorati,
    cast_like,
    count_up,
    from_casorati,
    inner,
    is_tensorflow,
    like,
    namespace,
    operators,
    real_dtype,
    root,
    sizes,
    times,
)
from svdinv.unroll.networks.functional import (
    at_least,
    folded,
    fraction,
    from_blocks,
    require,
    to_blocks,
    to_channels,
    to_complex,
    unfolded,
)
from svdinv.unroll.networks.recipe import (
    Layer,
    Layers,
    Number,
    State,
    register,
    residual_chain,
)
from svdinv.unroll.networks.series import SeriesRecipe, zero_filled
from svdinv.unroll.operators import MRI, Operator
from svdinv.unroll.problem import Problem

_Row: TypeAlias = tuple[float, float, int, int]

_RESTART = 10  # iterations
_CONCAVE = 1.5  # where the penalty turns from linear to logarithmic, in thresholds
# Noise relative to the series that is distinguished from none: about 50 dB below.
_FAINT = 0.003
# Noise relative to the root of the energy of a pixel, of which half is taken for edges.
_EDGES = 0.004
_EULER = 0.5772156649  # Euler's constant
_LEAST = 1e-3  # energy relative to the largest that is distinguished from none
_ROUNDED = 10  # units of rounding, relative to the root of the largest energy
_SHRUNK = 0.1  # of the square of the mean, added to the variance


@register
@dataclass(frozen=True, kw_only=True)
class LLS(SeriesRecipe):
    """Structure of an LLS-Net.

    Series are complex, (B, T, H, W). The network is homogeneous: twice the k-space
    gives twice the series.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    features : int
        Width of the hidden convolutions.
    convs : int
        Convolutions of D.
    block : int
        Side of the blocks in pixels.
    threshold : float
        First value of c, for thresholds of ``sigmoid(c)`` times what the largest
        singular value of a block would be were the energy of the zero-filled series
        spread evenly and all of it of rank 1.
    momentum : float
        First value of b, for ``beta = sigmoid(b)``.
    step : float
        First value of gamma.
    slope : float
        Slope of the ReLUs below zero.
    fold : int
        Side of the squares of pixels that D sees as channels of one pixel.
    static : int
        Iterations in front of all others for the series that stands still.
    start : (int, int)
        Iterations in front of the first cell with large blocks, and with those of the
        cells.
    start_block : int
        Side of the large blocks in pixels.
    start_thresholds : (float, float, float)
        Their first threshold, that at the change of blocks, and the last, in the unit
        of the others.
    start_coils : (float, float)
        For k-space of several coils: a factor of the last of these thresholds, and
        below how many standard deviations of the noise none falls. Coils let a series
        explain noise, of which a single one leaves most of k-space free.
    finish : int
        Iterations behind the last cell, of low rank of the whole series; none with
        another operator than `MRI`, of which the noise is not known.
    finish_threshold : float
        Their threshold, relative to what the largest singular value of the series
        would be were all of it of rank 1.
    finish_noise : (float, float)
        For one coil and for several, the noise relative to the series at which they
        stay as close to the network as to the samples; more of it holds them back, by
        its fourth power. One coil leaves most of k-space to the network, several let
        noise come back everywhere.
    noise : bool
        Whether the cells know the noise, as estimated from the k-space. With another
        operator than `MRI` they take it to be 0.
    """

    features: int = 16
    convs: int = 3
    block: int = 8
    threshold: float = -3.5
    momentum: float = 0.5
    step: float = 1.0
    slope: float = 0.1
    fold: int = 1
    static: int = 0
    start: tuple[int, int] = (0, 0)
    start_block: int = 16
    start_thresholds: tuple[float, float, float] = (0.2, 0.02, 0.004)
    start_coils: tuple[float, float] = (1.0, 0.0)
    finish: int = 0
    finish_threshold: float = 2.5e-4
    finish_noise: tuple[float, float] = (0.06, 0.035)
    noise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "convs", "block", "fold", "start_block")
        at_least(0, self, "static", "finish")
        whole = [isinstance(n, int) and n >= 0 for n in self.start]
        require(whole == [True] * 2, self, "start", "two integers of at least 0")
        falling = (*self.start_thresholds, 0.0)
        steps = [one >= next_ for one, next_ in pairwise(falling)]
        three = steps == [True] * 3 and falling[-2] > 0
        require(three, self, "start_thresholds", "three falling positive numbers")
        coils, levels = self.start_coils, self.finish_noise
        both = len(coils) == 2 and 0 < coils[0] <= 1 and 0 <= coils[1] < math.inf
        due = "a number in (0, 1] and one of at least 0"
        require(both, self, "start_coils", due)
        positive = 0 < self.finish_threshold < math.inf
        require(positive, self, "finish_threshold", "a positive number")
        two = len(levels) == 2 and all(0 < level < math.inf for level in levels)
        require(two, self, "finish_noise", "two positive numbers")
        if not isinstance(self.noise, bool):
            raise TypeError(f"noise must be true or false, got {self.noise!r}")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Name the layers of a cell."""
        pixels = self.fold**2
        inputs = 5 if self.noise else 4
        layers: dict[str, Layer] = {
            "momentum": Number(self.momentum),
            "threshold": Number(self.threshold),
            "correction": residual_chain(self, inputs * pixels, 2 * pixels, axes=3),
            "gamma": Number(self.step),
        }
        if self.noise:
            layers |= {"threshold_noise": Number(0.0), "gamma_noise": Number(0.0)}
        return layers

    @property
    def has_start(self) -> bool:
        """Whether iterations without weights come before the first cell."""
        return bool(self.static or any(self.start))

    def begin(self, problem: Problem) -> State:
        """Start from the zero-filled series, or from the classical method's."""
        x = zero_filled(problem)
        xp = namespace(x)
        square = real(xp.conj(x) * x, xp)
        # Counted, because a graph of TensorFlow need not know the size of an image.
        pixels = xp.sum(xp.ones_like(square[:, 0]), axis=(-2, -1))
        energy = xp.sum(square, axis=(-3, -2, -1))
        scale = root(energy / pixels, xp)
        known: State = {"scale": scale}
        if self.noise or self.finish or self.start_coils[1] > 0:
            known["deviation"] = noise_of_kspace(problem.y, problem.A, scale)
        x, before = self._classical(x, problem, known)
        return {"x": x, "before": before} | known

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        """Iterate once, as at the top of this module."""
        x = state["x"]
        xp = namespace(x)
        beta = like(fraction(layers.momentum, xp), x, xp)
        v = x + beta * (x - state["before"])
        share = fraction(layers.threshold, xp)
        scale, gamma = state["scale"], layers.gamma
        if self.noise:
            deviation = state["deviation"]
            level = _level(deviation, scale, v, xp)
            scale = scale * xp.exp(layers.threshold_noise * level)
            gamma = gamma * xp.exp(layers.gamma_noise * level)[:, None, None, None]
        scale = self.block * scale[:, None, None]
        threshold = partial(layers.svt, fraction=share, scale=scale)
        L = _by_blocks(v, self.block, _shift(self.block, layers.index), threshold)
        seen = [to_channels(L, xp), to_channels(v, xp)]
        if self.noise:
            pixels = xp.zeros_like(seen[0][:, :1])
            seen.append(pixels + deviation[:, None, None, None, None])
        both = xp.concat(seen, axis=1)
        if self.fold > 1:
            both = folded(both, self.fold, xp)
        change = layers.correction(both)
        if self.fold > 1:
            change = unfolded(change, v, self.fold, xp)
        z = L + to_complex(change, v, xp)
        new = z - like(gamma, x, xp) * problem.gradient(z)
        told = isinstance(problem.A, MRI)  # the noise
        if self.finish and told and layers.index == self.cells - 1:
            new = self._finished(new, problem, state["deviation"])
        return state | {"x": new, "before": x}

    def _classical(
        self, x: Array, problem: Problem, known: State
    ) -> tuple[Array, Array]:
        """Iterate without anything learned; give the last series, and that before."""
        xp = namespace(x)
        scale = known["scale"]

        def towards(L: Array, x: Array) -> tuple[Array, Array]:
            return L - problem.gradient(L), x

        def still(x: Array, before: Array, beta: Any) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            return towards(xp.zeros_like(v) + xp.mean(v, axis=1, keepdims=True), x)

        factor, least = self._of_coils(problem, known)

        def low_rank(
            block: int, x: Array, before: Array, beta: Any, share: Any, *shift: Any
        ) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            tau = (share * block * scale)[:, None, None]
            if least is not None:
                tau = xp.maximum(tau, least[:, None, None])
            return towards(_by_blocks(v, block, shift, partial(_log_sum, tau=tau)), x)

        state = iterate(still, (x, x), [(i / (i + 3),) for i in range(self.static)])
        state = (state[0], state[0])
        coarse, fine = self._schedule(factor)
        state = iterate(partial(low_rank, self.start_block), state, coarse)
        return iterate(partial(low_rank, self.block), state, fine)

    def _finished(self, network: Array, problem: Problem, deviation: Array) -> Array:
        """Iterate once more without anything learned, not far from the network."""
        xp = namespace(network)
        matrices = casorati(network, xp)
        size = _norm(matrices, xp)
        tau = self.finish_threshold * size
        # The deviation is that of one pixel of one frame, `size` is of all of them.
        noise = deviation * _norm(xp.ones_like(matrices), xp)
        level = safe_divide(noise, size, size > noise, xp, xp.ones_like(size))
        held = (level / self.finish_noise[_several_coils(problem.A)]) ** 4
        held = (held / (1 + held))[:, None, None, None]

        def low_rank(x: Array, before: Array, beta: Any) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            L = from_casorati(_log_sum(casorati(v, xp), tau), v, xp)
            new = L - problem.gradient(L)
            return new + like(held, x, xp) * (network - new), x

        rows = [(i / (i + 3),) for i in range(self.finish)]
        return iterate(low_rank, (network, network), rows)[0]

    def _of_coils(self, problem: Problem, known: State) -> tuple[float, Array | None]:
        """Return the factor of the last threshold, and the smallest one per series."""
        factor, deviations = self.start_coils
        if not _several_coils(problem.A):
            return 1.0, None
        if deviations == 0:
            return factor, None
        scale, deviation = known["scale"], known["deviation"]
        xp = namespace(scale)
        # An estimate of little noise is mostly of the edges in the series.
        both = deviation + _EDGES * scale
        share = safe_divide(deviation, both, both > 0, xp)
        return factor, deviations * share * deviation

    def _schedule(self, factor: float) -> tuple[list[_Row], list[_Row]]:
        """Return momentum, threshold and shift of the iterations, by block size."""
        (coarse, fine), (first, middle, last) = self.start, self.start_thresholds
        last = factor * last
        # Two thirds of the fine ones are at the last threshold.
        falling = [first * (middle / first) ** (i / coarse) for i in range(coarse)]
        falling += [middle * (last / middle) ** (3 * i / fine) for i in range(fine)]
        steps = [i < coarse or 3 * (i - coarse) < fine for i in range(coarse + fine)]
        rows, age = [], 0
        for i, (share, falls) in enumerate(zip(falling, steps, strict=True)):
            # While the thresholds fall, momentum of the old ones would lead astray.
            age = 0 if falls and i % _RESTART == 0 else age + 1
            block = self.start_block if i < coarse else self.block
            share = share if falls else last
            rows.append((age / (age + 3), share, *_shift(block, i)))
        return rows[:coarse], rows[coarse:]


def _several_coils(A: Operator) -> bool:
    # A graph of TensorFlow that does not know their number is made for several.
    return isinstance(A, MRI) and A.maps is not None and A.maps.shape[-3] != 1


def noise_of_kspace(y: Array, A: Operator, scale: Array) -> Array:
    """Estimate the standard deviation of the noise of each series, (B,).

    It is the same in every combination of the coils. Of the series some see more than
    others, so a line through what they measure tells how much there is without it.
    """
    xp = namespace(y)
    if not isinstance(A, MRI):
        return xp.zeros_like(scale)
    y = A.project_to_samples(y)
    if A.maps is None:
        return root(_outer_energy(y[:, :, None], xp)[:, 0], xp)
    seen, vectors = operators(y).eigh(_gram(cast_like(A.maps, y, xp)))
    *first, C, H, W = sizes(y, xp)
    weights = like(xp.matrix_transpose(vectors), y, xp)
    combined = weights @ xp.reshape(y, (*first, C, H * W))
    energy = _outer_energy(xp.reshape(combined, (*first, C, H, W)), xp)
    seen = like(xp.reshape(seen, (-1, C)), energy, xp)
    return root(_at_zero(seen, energy, xp), xp)


def _outer_energy(y: Array, xp: Namespace) -> Array:
    """Return the mean energy of the outer samples of each coil, (B, C).

    By the geometric mean, most of the weight on the corners of k-space: the few large
    ones there, of edges, hardly raise it.
    """
    energy = real(xp.conj(y) * y, xp)
    axes = (1, 3, 4)
    sampled = energy > 0
    taken = xp.where(sampled, xp.ones_like(energy), xp.zeros_like(energy))
    H, W = sizes(energy, xp)[-2:]
    weight = taken * _outer(H, energy, xp)[:, None] * _outer(W, energy, xp)
    logarithm = xp.log(xp.where(sampled, energy, xp.ones_like(energy)))
    total = xp.sum(weight, axis=axes)
    some = total > 0
    mean = safe_divide(xp.sum(weight * logarithm, axis=axes), total, some, xp)
    # The mean logarithm of noise is less than that of its mean energy by _EULER.
    return xp.where(some, xp.exp(mean + _EULER), xp.zeros_like(mean))


def _gram(maps: Array) -> Array:
    """Inner products of the maps of coils, over the pixels, and frames if any."""
    xp = namespace(maps)
    rows = xp.reshape(maps, (*sizes(maps, xp)[:-2], -1))
    gram = xp.conj(rows) @ xp.matrix_transpose(rows)
    return xp.sum(gram, axis=-3, keepdims=True) if len(gram.shape) > 2 else gram


def _at_zero(x: Array, y: Array, xp: Namespace) -> Array:
    """Extrapolate a line along the last axis to x = 0, for y >= 0.

    For equal relative errors of y; what is only rounding says nothing, as of a coil
    that is switched off. The slope is taken to be rather too small: of alike x it would
    come from the errors alone.
    """
    largest = xp.max(y, axis=-1, keepdims=True)
    known = y > (_ROUNDED * float(xp.finfo(y.dtype).eps)) ** 2 * largest
    weight = safe_divide(largest, y + _LEAST * largest, known, xp) ** 2

    def mean(values: Array) -> Array:
        total = xp.sum(weight, axis=-1)
        return safe_divide(xp.sum(weight * values, axis=-1), total, total > 0, xp)

    x_mean, y_mean = mean(x), mean(y)
    x_off = x - x_mean[..., None]
    spread = mean(x_off * x_off) + _SHRUNK * x_mean * x_mean
    slope = safe_divide(mean(x_off * y), spread, spread > 0, xp)
    return xp.where(slope > 0, y_mean - slope * x_mean, y_mean)


def _norm(matrices: Array, xp: Namespace) -> Array:
    return root(inner(matrices, matrices, (-2, -1)), xp)


def _outer(size: Any, like: Array, xp: Namespace) -> Array:
    """Return weights along an axis of k-space: 0 in the middle, 1 at the border."""
    index = count_up(size, like, xp)
    # Counted, because a graph of TensorFlow need not know the size.
    middle = xp.sum(xp.ones_like(index)) / 2
    square = ((index - middle) / (middle + 1)) ** 2
    return square * square


def _level(deviation: Array, scale: Array, series: Array, xp: Namespace) -> Array:
    """Return the noise relative to the series, 0 for none, in a logarithmic scale."""
    frames = xp.sum(xp.ones_like(real(series, xp)[:, :, 0, 0]), axis=1)
    one = xp.ones_like(scale)
    whole = xp.where(scale > 0, scale, one)
    return xp.log(1 + deviation * root(frames, xp) / (_FAINT * whole))


def _log_sum(matrices: Array, tau: Array) -> Array:
    """Threshold with a penalty that is concave: nothing is left of what is below tau.

    Of the matrices in units of tau, so that it is homogeneous.
    """
    xp = namespace(matrices)
    unit = xp.where(tau > 0, tau, xp.ones_like(tau))[..., None, None]
    unit = like(unit, matrices, xp)
    threshold = operators(matrices).log_sum_threshold
    return unit * threshold(matrices / unit, _CONCAVE, _CONCAVE, method="gram")


def _shift(block: int, index: int) -> tuple[int, int]:
    """Return the offsets of the blocks; odd steps lead to every offset in turn."""
    return 3 * index % block, 5 * index % block


def _by_blocks(
    v: Array, block: int, shift: tuple[Any, Any], threshold: Callable[[Array], Array]
) -> Array:
    """Threshold the blocks, pixels x frames, the first of which begins at `shift`."""
    xp = namespace(v)
    down, right = shift
    moved = xp.roll(v, (-down, -right), axis=(-2, -1))
    blocks = to_blocks(moved, block, xp)  # (B, T, rows, columns, b, b)
    B, T, rows, columns = sizes(blocks, xp)[:4]
    cut = xp.permute_dims(blocks, (0, 2, 3, 4, 5, 1))
    matrices = xp.reshape(cut, (B, rows, columns, block**2, T))
    matrices = threshold(matrices)
    cut = xp.reshape(matrices, (B, rows, columns, block, block, T))
    blocks = xp.permute_dims(cut, (0, 5, 1, 2, 3, 4))
    return xp.roll(from_blocks(blocks, v, xp), (down, right), axis=(-2, -1))


def iterate(
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    """Make ``state = body(*state, *row)`` for each row in turn; give the last state.

    As a loop of Python; but in JAX, and in a graph of TensorFlow, as one of theirs:
    they would compile each iteration anew, which takes minutes for some dozens of
    singular value decompositions. There the numbers of a row are arrays without axes;
    in a column all are int, or all float. `body` keeps shapes and dtypes.
    """
    if len(rows) > 1 and compat.is_jax_array(state[0]):
        return _in_jax(body, state, rows)
    if len(rows) > 1 and is_tensorflow(state[0]):
        tf = sys.modules["tensorflow"]
        if not tf.executing_eagerly():
            return _in_tensorflow(tf, body, state, rows)
    for row in rows:
        state = body(*state, *row)
    return state


def _columns(state: tuple[Array, ...], rows: Sequence[tuple[float, ...]]) -> list[Any]:
    xp = namespace(state[0])
    dtype = real_dtype(state[0], xp)
    return [
        xp.asarray(column, dtype=dtype if isinstance(column[0], float) else xp.int32)
        for column in zip(*rows, strict=True)
    ]


def _in_jax(
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    jax = sys.modules["jax"]

    def once(state: tuple[Array, ...], row: list[Array]) -> tuple[Any, None]:
        return body(*state, *row), None

    last, _ = jax.lax.scan(once, state, _columns(state, rows))
    return tuple(last)


def _in_tensorflow(
    tf: Any,
    body: Callable[..., tuple[Array, ...]],
    state: tuple[Array, ...],
    rows: Sequence[tuple[float, ...]],
) -> tuple[Array, ...]:
    columns = _columns(state, rows)

    def once(i: Array, *state: Array) -> tuple[Array, ...]:
        new = body(*state, *(column[i] for column in columns))
        # Blocks of an image of unknown size come back in a shape that is unknown.
        shaped = (tf.ensure_shape(n, s.shape) for n, s in zip(new, state, strict=True))
        return (i + 1, *shaped)

    _, *last = tf.while_loop(
        lambda i, *_: i < len(rows),
        once,
        (tf.constant(0), *state),
        maximum_iterations=len(rows),
    )
    return tuple(last)
