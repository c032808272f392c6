"""L+S-Net: a low-rank and a sparse part, for dynamic MRI.

Huang, Ke, Cui, Cheng, Qiu, Jia, Ying, Zhu & Liang, "Deep low-rank plus sparse network
for dynamic MR imaging", Medical Image Analysis 2021. One cell, from a series M:

    L = SVT(M)                                           frames x pixels
    S = D(L, M)                                          learned in place of a prior
    M = L + S - gamma A^H (A (L + S) - y)                data consistency

D is a chain of convolutions in space and time on the real and imaginary parts of
both, with leaky ReLUs; the threshold of SVT is learned relative to the largest
singular value. The released code keeps gamma positive, and at 1 in the last cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from svdinv.unroll.arrays import like, namespace
from svdinv.unroll.networks.functional import to_channels, to_complex
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
class LS(SeriesRecipe):
    """Structure of an L+S-Net; as it stands, the published one.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    threshold : float
        First value of c, for low-rank thresholds ``sigmoid(c) * s_1``.
    step : float
        First value of gamma.
    slope : float
        Slope of the ReLUs below zero.
    """

    features: int = 32
    step: float = 1.0
    slope: float = 0.3

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "threshold": Number(self.threshold),
            "sparse": Convolutions((4, n, n, 2), axes=3, slope=self.slope),
            "gamma": Number(self.step),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        zero = namespace(x).zeros_like(x)
        return {"x": x, "low_rank": zero, "sparse": zero}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        M = state["x"]
        xp = namespace(M)
        L = low_rank_series(M, layers)
        both = xp.concat([to_channels(L, xp), to_channels(M, xp)], axis=1)
        S = to_complex(layers.sparse(both), M, xp)
        x = L + S
        x = x - like(layers.gamma, x, xp) * problem.gradient(x)
        return {"x": x, "low_rank": L, "sparse": S}
