"""SLR-Net: sparse and low-rank priors, both learned, for dynamic MRI.

Ke, Huang, Cui, Cheng, Wang, Qiu, Jia, Zhu, Ying & Liang, "Learned low-rank priors in
dynamic MR imaging", IEEE TMI 2021. One cell, from a series x, with the multiplier b:

    t = SVT(x)                                           frames x pixels
    r = x - p A^H (A x - y) - q (x + b - t)              gradient step
    x = r + D(soft(E(r), theta))                         learned sparse transform
    b = b + eta (x - t)                                  multiplier

E and D are convolutions in space and time on real and imaginary part; the threshold
of SVT is learned relative to the largest singular value. Training adds a little of
``|D(E(r)) - r|^2`` to the loss, so that D undoes E. The released code adds the second
gradient, ``q (x + b - t)``, where descent has to subtract it, as it is done here; and
it does not learn the threshold of the last cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from svdinv.unroll.arrays import like, namespace
from svdinv.unroll.networks.functional import positive, soft, to_channels, to_complex
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    State,
    register,
)
from svdinv.unroll.networks.series import SeriesRecipe, low_rank_series, zero_filled
from svdinv.unroll.problem import Problem


@register
@dataclass(frozen=True, kw_only=True)
class SLR(SeriesRecipe):
    """Structure of an SLR-Net; as it stands, the published one.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Channels of the sparse transform.
    threshold : float
        First value of c, for low-rank thresholds ``sigmoid(c) * s_1``.
    sparsity : float
        First value of theta.
    step, coupling, multiplier : float
        First values of p, q and eta.
    """

    sparsity: float = 0.1
    step: float = 0.1
    coupling: float = 0.1
    multiplier: float = 0.01

    has_penalty: ClassVar[bool] = True

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "analysis": Convolutions((2, n, n, n), axes=3),
            "synthesis": Convolutions((n, n, n, 2), axes=3),
            "threshold": Number(self.threshold),
            "theta": Number(self.sparsity),
            "p": Number(self.step),
            "q": Number(self.coupling),
            "eta": None if last else Number(self.multiplier),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        return {"x": x, "b": namespace(x).zeros_like(x)}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, b = state["x"], state["b"]
        xp = namespace(x)
        t = low_rank_series(x, layers)
        p, q = (like(positive(s, xp), x, xp) for s in (layers.p, layers.q))
        r = x - p * problem.gradient(x) - q * (x + b - t)
        channels = to_channels(r, xp)
        code = layers.analysis(channels)
        found = channels + layers.synthesis(soft(code, layers.theta, xp))
        x = to_complex(found, r, xp)
        new = {"x": x, "b": b}
        if layers.eta is not None:
            new["b"] = b + like(positive(layers.eta, xp), x, xp) * (x - t)
        if "penalty" in state:
            asymmetry = layers.synthesis(code) - channels
            new["penalty"] = state["penalty"] + xp.mean(asymmetry**2) / self.cells
        return new
