"""T2LR-Net: frames of low rank after a learned transform, for dynamic MRI.

Zhang, Hao & Hu, "T2LR-Net: an unrolling network learning transformed tensor low-rank
prior for dynamic MR image reconstruction", Computers in Biology and Medicine 2024. The
alternating direction method of multipliers, with a the auxiliary series:

    a = v + D(SVT(E(v))),  v = x + l                     each frame a matrix
    x = argmin 1/2 |x - (a - l)|^2 + mu/2 |A x - y|^2    data consistency
    l = l + eta (x - a)                                  multiplier

E and D are convolutions in space and time on real and imaginary part; the singular
values of each complex frame are thresholded relative to the largest. For one coil, A
samples the k-space and the second line is ``(F v + mu y) / (1 + mu mask)`` in k-space,
v = a - l. Written ``v - w A^H (A v - y)``, w = mu / (1 + mu), it is the same for one
coil; for several, where the minimum has no closed form, it is a step towards it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from svdinv.unroll.arrays import like, namespace
from svdinv.unroll.networks.functional import low_rank_parts, positive
from svdinv.unroll.networks.recipe import (
    Convolutions,
    Layer,
    Layers,
    Number,
    State,
    register,
)
from svdinv.unroll.networks.series import SeriesRecipe, zero_filled
from svdinv.unroll.problem import Problem


@register
@dataclass(frozen=True, kw_only=True)
class T2LR(SeriesRecipe):
    """Structure of a T2LR-Net; as it stands, the published one.

    Series are complex, (B, T, H, W).

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    threshold : float
        First value of c, for thresholds ``sigmoid(c) * s_1`` of each frame.
    data_weight : float
        First value of mu.
    multiplier : float
        First value of eta.
    """

    cells: int = 15
    data_weight: float = 0.1
    multiplier: float = 1.0

    def layers(self, last: bool) -> Mapping[str, Layer]:
        n = self.features
        return {
            "analysis": Convolutions((2, n, n, 2), axes=3),
            "synthesis": Convolutions((2, n, n, 2), axes=3),
            "threshold": Number(self.threshold),
            "mu": Number(self.data_weight),
            "eta": None if last else Number(self.multiplier),
        }

    def begin(self, problem: Problem) -> State:
        x = zero_filled(problem)
        return {"x": x, "l": namespace(x).zeros_like(x)}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, l = state["x"], state["l"]
        xp = namespace(x)
        v = x + l
        a = low_rank_parts(v, layers)
        mu = like(positive(layers.mu, xp), v, xp)
        x = a - l - mu / (1 + mu) * problem.gradient(a - l)
        if layers.eta is not None:
            l = l + like(positive(layers.eta, xp), x, xp) * (x - a)
        return {"x": x, "l": l}
