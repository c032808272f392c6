"""LLS-Net: locally low-rank reconstruction with a learned correction, for dynamic MRI.

One cell, where D is a chain of convolutions in space and time::

    v = x + beta (x - x_before)                          momentum
    L = LLR(v)                          singular values of blocks, soft-thresholded
    z = L + D(L, v)                                      learned correction
    x = z - gamma A^H (A z - y)                          data consistency

The position of the blocks changes from cell to cell. Iterations without learned
parameters precede the first cell: for a static series, with large blocks, then with
those of the cells. They penalise the sum of the logarithms of singular values (Candes,
Wakin & Boyd, J. Fourier Anal. Appl. 2008), which shrinks large values less. Others
after the last cell penalise the whole series; with noise they stay near their start.
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

from svdinv.core.namespace import (
    has_double_precision,
    real,
    runs_kernels,
    safe_divide,
)
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    backend,
    casorati,
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
    fraction,
    from_blocks,
    pixel_shuffle,
    pixel_unshuffle,
    require,
    to_blocks,
    to_channels,
    to_complex,
)
from svdinv.unroll.networks.noise import noise_of_kspace
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

_RESTART = 10  # iterations between restarts of the momentum
_CONCAVE = 1.5  # where the penalty turns from linear to logarithmic, in thresholds
# Noise-to-series ratio that is distinguished from none, about -50 dB.
_FAINT = 0.003
# Noise estimate, relative to `scale`, of which half is attributed to edges.
_EDGES = 0.004


@register
@dataclass(frozen=True, kw_only=True)
class LLS(SeriesRecipe):
    """Structure of an LLS-Net.

    Series are complex, (B, T, H, W). The network is homogeneous in the k-space.

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
        Initial value of c, for thresholds of ``sigmoid(c)`` times the singular value of
        a block of rank 1 with an equal share of the energy of the zero-filled series.
    momentum : float
        Initial value of b, for ``beta = sigmoid(b)``.
    step : float
        Initial value of gamma.
    slope : float
        Slope of the ReLUs below zero.
    fold : int
        Side of the squares of pixels that become channels for D.
    static : int
        Number of initial iterations for a static series.
    start : (int, int)
        Iterations before the first cell with large blocks, and with those of the cells.
    start_block : int
        Side of the large blocks in pixels.
    start_thresholds : (float, float, float)
        The first threshold of these iterations, that at the change of blocks, and the
        last, in the units of `threshold`.
    start_coils : (float, float)
        For several coils: a factor of the last of these thresholds, and a lower bound
        of all of them in standard deviations of the noise. With several coils a series
        can fit noise; with one coil most of k-space is unconstrained.
    finish : int
        Number of iterations after the last cell, with low rank of the whole series.
        Only for the operator `MRI`, whose noise can be estimated.
    finish_threshold : float
        Their threshold, relative to the singular value of a series of rank 1 with the
        same energy.
    finish_noise : (float, float)
        For one coil and for several, the relative noise at which the network's output
        weighs as much as the iterate; its weight grows as the fourth power of noise.
    noise : bool
        Whether the cells use the noise estimated from the k-space. With an operator
        other than `MRI` the noise is taken to be 0.
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
        valid = [isinstance(n, int) and n >= 0 for n in self.start]
        require(valid == [True] * 2, self, "start", "two integers of at least 0")
        falling = (*self.start_thresholds, 0.0)
        steps = [one >= next_ for one, next_ in pairwise(falling)]
        three = steps == [True] * 3 and falling[-2] > 0
        require(three, self, "start_thresholds", "three falling positive numbers")
        coils, levels = self.start_coils, self.finish_noise
        both = len(coils) == 2 and 0 < coils[0] <= 1 and 0 <= coils[1] < math.inf
        requirement = "a number in (0, 1] and one of at least 0"
        require(both, self, "start_coils", requirement)
        positive = 0 < self.finish_threshold < math.inf
        require(positive, self, "finish_threshold", "a positive number")
        two = len(levels) == 2 and all(0 < level < math.inf for level in levels)
        require(two, self, "finish_noise", "two positive numbers")
        if not isinstance(self.noise, bool):
            raise TypeError(f"noise must be true or false, got {self.noise!r}")

    def layers(self, last: bool) -> Mapping[str, Layer]:
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
        x = zero_filled(problem)
        xp = namespace(x)
        square = real(xp.conj(x) * x, xp)
        # Summed, because the size may be unknown in a TensorFlow graph.
        pixels = xp.sum(xp.ones_like(square[:, 0]), axis=(-2, -1))
        energy = xp.sum(square, axis=(-3, -2, -1))
        scale = root(energy / pixels, xp)
        scales: State = {"scale": scale}
        if self.noise or self.finish or self.start_coils[1] > 0:
            scales["deviation"] = noise_of_kspace(problem.y, problem.A, scale)
        x, before = self._classical(x, problem, scales)
        return {"x": x, "before": before} | scales

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x = state["x"]
        xp = namespace(x)
        beta = like(fraction(layers.momentum, xp), x, xp)
        v = x + beta * (x - state["before"])
        share = fraction(layers.threshold, xp)
        scale, gamma = state["scale"], layers.gamma
        if self.noise:
            deviation = state["deviation"]
            level = _level(deviation, scale, v, xp)
            scale = scale * xp.exp(times(layers.threshold_noise, level, xp))
            factor = xp.exp(times(layers.gamma_noise, level, xp))
            gamma = times(gamma, factor[:, None, None, None], xp)
        scale = self.block * scale[:, None, None]
        threshold = partial(layers.svt, fraction=share, scale=scale)
        L = _by_blocks(v, self.block, _shift(self.block, layers.index), threshold)
        inputs = [to_channels(L, xp), to_channels(v, xp)]
        if self.noise:
            pixels = xp.zeros_like(inputs[0][:, :1])
            inputs.append(pixels + deviation[:, None, None, None, None])
        stacked = pixel_unshuffle(xp.concat(inputs, axis=1), self.fold, xp)
        change = pixel_shuffle(layers.correction(stacked), v, self.fold, xp)
        z = L + to_complex(change, v, xp)
        new = z - like(gamma, x, xp) * problem.gradient(z)
        has_noise = isinstance(problem.A, MRI)
        if self.finish and has_noise and layers.index == self.cells - 1:
            new = self._finished(new, problem, state["deviation"])
        return state | {"x": new, "before": x}

    def _classical(
        self, x: Array, problem: Problem, scales: State
    ) -> tuple[Array, Array]:
        """Return the last two series of the iterations without learned parameters."""
        xp = namespace(x)
        scale = scales["scale"]

        def data_step(L: Array, x: Array) -> tuple[Array, Array]:
            return L - problem.gradient(L), x

        def static(x: Array, before: Array, beta: Any) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            return data_step(xp.zeros_like(v) + xp.mean(v, axis=1, keepdims=True), x)

        factor, least = self._of_coils(problem, scales)

        def low_rank(
            block: int, x: Array, before: Array, beta: Any, share: Any, *shift: Any
        ) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            tau = (share * block * scale)[:, None, None]
            if least is not None:
                tau = xp.maximum(tau, least[:, None, None])
            return data_step(_by_blocks(v, block, shift, partial(_log_sum, tau=tau)), x)

        state = iterate(static, (x, x), [(i / (i + 3),) for i in range(self.static)])
        state = (state[0], state[0])
        coarse, fine = self._schedule(factor)
        state = iterate(partial(low_rank, self.start_block), state, coarse)
        return iterate(partial(low_rank, self.block), state, fine)

    def _finished(self, network: Array, problem: Problem, deviation: Array) -> Array:
        """Iterate without learned parameters, staying near the network's output."""
        xp = namespace(network)
        matrices = casorati(network, xp)
        size = _norm(matrices, xp)
        tau = self.finish_threshold * size
        # The deviation is that of one pixel of one frame, `size` that of all of them.
        noise = deviation * _norm(xp.ones_like(matrices), xp)
        level = safe_divide(noise, size, size > noise, xp, xp.ones_like(size))
        weight = (level / self.finish_noise[_several_coils(problem.A)]) ** 4
        weight = (weight / (1 + weight))[:, None, None, None]

        def low_rank(x: Array, before: Array, beta: Any) -> tuple[Array, Array]:
            v = x + times(beta, x - before, xp)
            L = from_casorati(_log_sum(casorati(v, xp), tau), v, xp)
            new = L - problem.gradient(L)
            return new + like(weight, x, xp) * (network - new), x

        rows = [(i / (i + 3),) for i in range(self.finish)]
        return iterate(low_rank, (network, network), rows)[0]

    def _of_coils(self, problem: Problem, scales: State) -> tuple[float, Array | None]:
        """Return the factor of the last threshold, and a lower bound per series."""
        factor, deviations = self.start_coils
        if not _several_coils(problem.A):
            return 1.0, None
        if deviations == 0:
            return factor, None
        scale, deviation = scales["scale"], scales["deviation"]
        xp = namespace(scale)
        # For low noise the estimate is mostly due to edges in the series.
        total = deviation + _EDGES * scale
        share = safe_divide(deviation, total, total > 0, xp)
        return factor, deviations * share * deviation

    def _schedule(self, factor: float) -> tuple[list[_Row], list[_Row]]:
        """Return rows (momentum, threshold, shift) for large and for small blocks."""
        (coarse, fine), (first, middle, last) = self.start, self.start_thresholds
        last = factor * last
        # Two thirds of the iterations with small blocks use the last threshold.
        thresholds = [first * (middle / first) ** (i / coarse) for i in range(coarse)]
        thresholds += [middle * (last / middle) ** (3 * i / fine) for i in range(fine)]
        is_falling = [
            i < coarse or 3 * (i - coarse) < fine for i in range(coarse + fine)
        ]
        rows, age = [], 0
        for i, (share, falls) in enumerate(zip(thresholds, is_falling, strict=True)):
            # While the thresholds fall, restart: old momentum would mislead.
            age = 0 if falls and i % _RESTART == 0 else age + 1
            block = self.start_block if i < coarse else self.block
            share = share if falls else last
            rows.append((age / (age + 3), share, *_shift(block, i)))
        return rows[:coarse], rows[coarse:]


def _several_coils(A: Operator) -> bool:
    # A TensorFlow graph without the number of coils is built for several.
    return isinstance(A, MRI) and A.maps is not None and A.maps.shape[-3] != 1


def _norm(matrices: Array, xp: Namespace) -> Array:
    return root(inner(matrices, matrices, (-2, -1)), xp)


def _level(deviation: Array, scale: Array, series: Array, xp: Namespace) -> Array:
    """Return ``log(1 + r / _FAINT)`` for the noise-to-series ratio r, 0 for none."""
    frames = xp.sum(xp.ones_like(real(series, xp)[:, :, 0, 0]), axis=1)
    one = xp.ones_like(scale)
    nonzero = xp.where(scale > 0, scale, one)
    return xp.log(1 + deviation * root(frames, xp) / (_FAINT * nonzero))


def _log_sum(matrices: Array, tau: Array) -> Array:
    """Apply the log-sum threshold in units of tau, so that it is homogeneous."""
    xp = namespace(matrices)
    unit = xp.where(tau > 0, tau, xp.ones_like(tau))[..., None, None]
    unit = like(unit, matrices, xp)
    threshold = operators(matrices).log_sum_threshold
    # Without kernels the Gram matrix is quicker, and in double precision exact enough.
    own = backend(matrices).xp
    quick = runs_kernels(matrices, own) or not has_double_precision(own)
    how = "auto" if quick else "gram"
    return unit * threshold(matrices / unit, _CONCAVE, _CONCAVE, method=how)


def _shift(block: int, index: int) -> tuple[int, int]:
    """Return the offset of the blocks, which changes with the iteration's index."""
    return 3 * index % block, 5 * index % block


def _by_blocks(
    v: Array, block: int, shift: tuple[Any, Any], threshold: Callable[[Array], Array]
) -> Array:
    """Threshold blocks of pixels x frames, the first of which starts at `shift`."""
    xp = namespace(v)
    down, right = shift
    rolled = xp.roll(v, (-down, -right), axis=(-2, -1))
    blocks = to_blocks(rolled, block, xp)  # (B, T, rows, columns, b, b)
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
    """Apply ``state = body(*state, *row)`` for each row; return the last state.

    A Python loop, except in JAX and in a TensorFlow graph, which would compile each
    iteration separately (minutes for dozens of singular value decompositions). Their
    own loops pass the numbers of a row as 0-d arrays; the numbers of a column must all
    be int, or all float. `body` must preserve shapes and dtypes.
    """
    xp, first = namespace(state[0]), state[0]
    tf = sys.modules["tensorflow"] if is_tensorflow(first) else None
    in_graph = tf is not None and not tf.executing_eagerly()
    if len(rows) < 2 or not (in_graph or compat.is_jax_array(first)):
        for row in rows:
            state = body(*state, *row)
        return state
    dtype = real_dtype(first, xp)
    columns = [
        xp.asarray(column, dtype=dtype if isinstance(column[0], float) else xp.int32)
        for column in zip(*rows, strict=True)
    ]
    if tf is None:
        last, _ = sys.modules["jax"].lax.scan(
            lambda state, row: (body(*state, *row), None), state, columns
        )
        return tuple(last)

    def once(i: Array, *state: Array) -> tuple[Array, ...]:
        new = body(*state, *(column[i] for column in columns))
        # Blocks of an image of unknown size are merged to an unknown shape.
        shaped = (tf.ensure_shape(n, s.shape) for n, s in zip(new, state, strict=True))
        return (i + 1, *shaped)

    _, *last = tf.while_loop(
        lambda i, *_: i < len(rows),
        once,
        (tf.constant(0), *state),
        maximum_iterations=len(rows),
    )
    return tuple(last)
