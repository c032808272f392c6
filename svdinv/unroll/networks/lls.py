"""LLS-Net: a locally low-rank and a learned part, for dynamic MRI.

The accelerated proximal gradient method (Beck & Teboulle, SIAM J. Imaging Sci. 2009)
for a series of which every block of pixels, through all frames, has low rank (Trzasko
& Manduca, Proc. ISMRM 2011), unrolled, with a learned correction beside that prior as
in L+S-Net (Huang et al., MedIA 2021). One cell:

    v = x + beta (x - x_before)                          momentum
    L = LLR(v)                          singular values of blocks, soft-thresholded
    z = L + D(L, v)                                      learned correction
    x = z - gamma A^H (A z - y)                          data consistency

D is a chain of convolutions in space and time on the real and imaginary parts of both,
with leaky ReLUs. Its first weights are so small that the network begins as the
classical method. The blocks of every other cell are shifted by half a block.

Where few samples are left, the classical method needs many iterations; those in front
of the first cell are its own, with thresholds that fall from one to the next, and with
nothing to learn. They begin best at the series that stands still and explains the
samples of all frames, because neighbouring frames share what each lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from svdinv.core.namespace import real
from svdinv.unroll.arrays import Array, like, namespace, sizes
from svdinv.unroll.networks.parts import (
    folded,
    fraction,
    from_blocks,
    residual_gains,
    root,
    svt,
    to_blocks,
    to_channels,
    to_complex,
    unfolded,
)
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    State,
    at_least,
    register,
)
from svdinv.unroll.networks.series import SeriesRecipe, zero_filled
from svdinv.unroll.operators import Operator

__all__ = ["LLS"]

_RESTART = 10  # iterations


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
    start : int
        Iterations of the classical method before the first cell.
    start_thresholds : (float, float)
        Their first and last threshold, in the unit of the others.
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
    start: int = 0
    start_thresholds: tuple[float, float] = (0.1, 0.003)

    def __post_init__(self) -> None:
        """Refuse what makes no network.

        Raises
        ------
        ValueError
            Naming the attribute.
        """
        super().__post_init__()
        at_least(1, self, "convs", "block", "fold")
        at_least(0, self, "static", "start")
        first, last = self.start_thresholds
        if not first >= last > 0:
            raise ValueError(
                "start_thresholds must be two falling positive numbers, got "
                f"{self.start_thresholds!r}"
            )

    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Name the layers of a cell."""
        pixels = self.fold**2
        widths = (4 * pixels, *[self.features] * (self.convs - 1), 2 * pixels)
        gains = residual_gains(self.convs)
        return {
            "momentum": Number(self.momentum),
            "threshold": Number(self.threshold),
            "correction": Convolutions(widths, axes=3, slope=self.slope, gains=gains),
            "gamma": Number(self.step),
        }

    def begin(self, y: Array, A: Operator) -> State:
        """Start from the zero-filled series, or from the classical method's."""
        x = zero_filled(y, A)
        xp = namespace(x)
        square = real(xp.conj(x) * x, xp)
        # Counted, because a graph of TensorFlow need not know the size of an image.
        pixels = xp.sum(xp.ones_like(square[:, 0]), axis=(-2, -1))
        energy = xp.sum(square, axis=(-3, -2, -1))
        scale = self.block * root(energy / pixels, xp)
        x = self._classical(x, y, A, scale)
        return {"x": x, "before": x, "scale": scale}

    def cell(self, state: State, y: Array, A: Operator, layers: Layers) -> State:
        """Iterate once, as at the top of this module."""
        x = state["x"]
        xp = namespace(x)
        beta = like(fraction(layers.momentum, xp), x, xp)
        v = x + beta * (x - state["before"])
        share = fraction(layers.threshold, xp)
        L = self._low_rank(v, share, state["scale"], layers.index, layers.svt)
        both = xp.concat([to_channels(L, xp), to_channels(v, xp)], axis=1)
        if self.fold > 1:
            both = folded(both, self.fold, xp)
        change = layers.correction(both)
        if self.fold > 1:
            change = unfolded(change, v, self.fold, xp)
        z = L + to_complex(change, v, xp)
        new = z - like(layers.gamma, x, xp) * A.H(A(z) - y)
        return {"x": new, "before": x, "scale": state["scale"]}

    def _classical(self, x: Array, y: Array, A: Operator, scale: Array) -> Array:
        """Iterate without anything learned, the momentum begun anew now and then."""
        xp = namespace(x)
        before = x
        for i in range(self.static):
            v = x + i / (i + 3) * (x - before)
            L = xp.zeros_like(v) + xp.mean(v, axis=1, keepdims=True)
            before, x = x, L - A.H(A(L) - y)
        before, (first, last), age = x, self.start_thresholds, 0
        for i in range(self.start):
            # The last third stays at the last threshold.
            share = first * (last / first) ** min(1.0, 1.5 * i / self.start)
            age = 0 if share > last and i % _RESTART == 0 else age + 1
            v = x + age / (age + 3) * (x - before)
            tau = xp.asarray(share, dtype=scale.dtype)
            L = self._low_rank(v, tau, scale, i, svt)
            before, x = x, L - A.H(A(L) - y)
        return x

    def _low_rank(
        self,
        v: Array,
        share: Array,
        scale: Array,
        index: int,
        svt: Callable[..., Array],
    ) -> Array:
        """Threshold the blocks, pixels x frames."""
        xp = namespace(v)
        shift = self.block // 2 if index % 2 else 0
        moved = xp.roll(v, (-shift, -shift), axis=(-2, -1)) if shift else v
        blocks = to_blocks(moved, self.block, xp)  # (B, T, rows, columns, b, b)
        B, T, rows, columns = sizes(blocks, xp)[:4]
        cut = xp.permute_dims(blocks, (0, 2, 3, 4, 5, 1))
        matrices = xp.reshape(cut, (B, rows, columns, self.block**2, T))
        matrices = svt(matrices, share, scale[:, None, None])
        cut = xp.reshape(matrices, (B, rows, columns, self.block, self.block, T))
        blocks = xp.permute_dims(cut, (0, 5, 1, 2, 3, 4))
        result = from_blocks(blocks, v, xp)
        return xp.roll(result, (shift, shift), axis=(-2, -1)) if shift else result
