"""EM-Net: unrolled expectation maximisation (EM) for counts.

Counts y are Poisson variables with mean A x + b, as in emission tomography. The network
unrolls EM with a quadratic prior around a learned image (Mehranian & Reader, IEEE TRPMS
2021; Gong et al., IEEE TMI 2019). With ``s = A^T 1``, one cell is::

    e = x A^T(y / (A x + b))                   counts attributed to each pixel
    z = max(e / s + D(e / s, x), 0)            EM image, corrected by D
    L u^2 + (s - L z) u = e                    u >= 0: EM with penalty L |u - z|^2 / 2
    x = u sum(e) / sum(s u)                    preserve the total count

The third line maximises the surrogate of De Pierro (IEEE TMI 1995). Its solution is
positive and lies between EM and z, closer to EM where a pixel has more counts. D is a
chain of convolutions without bias, applied to each frame in units of its mean activity,
with the count level per pixel as an additional channel. Its initial weights are so
small that the network starts as EM.

If A is a `svdinv.unroll.operators.Stack`, cells use its operators in turn, as in OSEM.

With `components` the frames of a dynamic scan are corrected jointly, which replaces the
second line. E is the Casorati matrix of e / s, frames x pixels; W divides its rows by
the standard deviation of their noise; V holds the leading singular vectors of W E::

    M = SVT(W E, tau)                                low rank, tau learned
    z = max(W^-1 (M + V D(V^T W E, V^T M, V^T W x)), 0)

The inputs of D are one component, which has counts from all frames, and as guides the
first component and the noise of the pixels. D is made odd, so that the sign of a
component does not matter. Gradients propagate through SVT and D, not through V.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from svdinv.backends.tape import untraced
from svdinv.core.namespace import safe_divide
from svdinv.unroll.algorithms.em import expected, sensitivities, subsets
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    backend,
    casorati,
    from_casorati,
    namespace,
    operators,
    root,
    sizes,
    times,
)
from svdinv.unroll.fidelity import DataFidelity, PoissonKL, positive_root
from svdinv.unroll.networks.functional import at_least, check_image, positive, require
from svdinv.unroll.networks.recipe import (
    Layer,
    Layers,
    Number,
    Recipe,
    State,
    register,
    residual_chain,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.problem import Problem

_PIXEL = (-2, -1)
_THRESHOLD = math.log(0.45)  # times the norm of white noise; EM images have less


@register
@dataclass(frozen=True, kw_only=True)
class EMNet(Recipe):
    """Structure of an EM-Net.

    Images are real, (B, T, H, W), with any number of frames, corrected separately or
    jointly. The data fidelity of a problem must be `svdinv.unroll.fidelity.PoissonKL`;
    for data without a problem the background is 0 unless passed as an argument.

    Attributes
    ----------
    features : int
        Width of the hidden convolutions.
    convs : int
        Convolutions of D.
    start : int
        EM iterations before the first cell, each over all subsets.
    weight : float
        Initial value of L, in units of the mean of s over the mean activity.
    slope : float
        Slope of the ReLUs below zero.
    components : int
        Leading components that D corrects, for all frames jointly; 0: single frames.
    """

    cells: int = 6
    features: int = 24
    convs: int = 4
    start: int = 1
    weight: float = 1.0
    slope: float = 0.1
    components: int = 0

    axes: ClassVar[str] = "B C H W"
    measurement: ClassVar[tuple[str, ...]] = ("background",)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features", "convs")
        at_least(0, self, "start", "components")
        require(self.weight > 0, self, "weight", "positive")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        inputs = 5 if self.components else 3
        layers: dict[str, Layer] = {
            "correction": residual_chain(self, inputs, 1, axes=2),
            "log_weight": Number(math.log(self.weight)),
        }
        if self.components:
            layers["log_threshold"] = Number(_THRESHOLD)
        return layers

    def operator(self, *measurement: Array) -> Operator:
        """Raise TypeError: the operator of the scanner must be passed."""
        raise TypeError("EMNet needs a problem, or an operator of its own")

    def fidelity(self, *measurement: Array) -> DataFidelity:
        return PoissonKL(*measurement)

    def begin(self, problem: Problem) -> State:
        """Start from uniform frames with the measured counts and `start` EM iterations.

        Raises TypeError if the data fidelity is not `PoissonKL`.
        """
        if not isinstance(problem.fidelity, PoissonKL):
            raise TypeError(
                f"EMNet is for the data fidelity PoissonKL, not {problem.fidelity!r}"
            )
        like_x = problem.adjoint()
        xp = namespace(like_x)
        check_image(like_x, self.axes)
        subset_list = list(subsets(problem, like_x))
        counts = sum(_total(y, xp) for _, y, _ in subset_list)
        trues = sum(_total(y - b * xp.ones_like(y), xp) for _, y, b in subset_list)
        # With few counts the estimate may be zero or negative.
        trues = xp.where(trues > 0.01 * counts, trues, 0.01 * counts)
        state = sensitivities(problem, like_x)
        total = _total(xp.sum(state["sensitivity"], axis=0), xp)
        unit = safe_divide(trues, total, total > 0, xp)
        # Noise-equivalent counts (Strother, Casey & Hoffman, IEEE TNS 1990).
        pixels = _total(xp.ones_like(like_x), xp)
        level = xp.log(1 + safe_divide(trues * trues, counts, counts > 0, xp) / pixels)
        x = unit * xp.ones_like(like_x)
        for _ in range(self.start):
            for k, subset in enumerate(subset_list):
                e, s = expected(x, subset, state, k)
                x = safe_divide(e, s, s > 0, xp)
        return state | {"x": x, "unit": unit, "level": level}

    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        x, unit = state["x"], state["unit"]
        xp = namespace(x)
        subset_list = list(subsets(problem, x))
        k = layers.index % len(subset_list)
        e, s = expected(x, subset_list[k], state, k)
        em = safe_divide(e, s, s > 0, xp)
        correct = self._joint if self.components else self._corrected
        z = positive(correct(em, x, state, layers, xp), xp)
        # Without counts the result is the same for any positive L.
        counted = unit > 0
        level = safe_divide(xp.mean(s, axis=_PIXEL, keepdims=True), unit, counted, xp)
        L = times(xp.exp(layers.log_weight), level + xp.where(counted, 0 * unit, 1), xp)
        u = positive_root(L, s - L * z, e, xp)
        total, current = _total(e, xp), _total(s * u, xp)
        return state | {"x": u * safe_divide(total, current, current > 0, xp)}

    def _corrected(
        self, em: Array, x: Array, state: State, layers: Layers, xp: Namespace
    ) -> Array:
        B, T, H, W = sizes(x, xp)
        unit = state["unit"]
        maps = [safe_divide(v, unit, unit > 0, xp) for v in (em, x)]
        maps.append(state["level"] * xp.ones_like(x))
        frames = xp.reshape(xp.stack(maps, axis=2), (B * T, 3, H, W))
        return em + unit * xp.reshape(layers.correction(frames), (B, T, H, W))

    def _joint(
        self, em: Array, x: Array, state: State, layers: Layers, xp: Namespace
    ) -> Array:
        """Threshold singular values of all frames; correct leading components by D."""
        B, T, H, W = sizes(x, xp)
        sensitivity = xp.sum(state["sensitivity"], axis=0)
        mean = xp.mean(sensitivity, axis=_PIXEL, keepdims=True)
        # The variance of a pixel is about its activity over its sensitivity.
        counted = (state["unit"] > 0) & (mean > 0)
        deviation = xp.sqrt(safe_divide(state["unit"], mean, counted, xp))
        E, previous = (casorati(_over(v, deviation, xp), xp) for v in (em, x))
        noise = _over(_over(em, sensitivity, xp), deviation**2, xp)
        noise = root(xp.mean(noise, axis=1), xp)
        largest = math.sqrt(T) + math.sqrt(H * W)
        tau = xp.exp(layers.log_threshold)
        M = layers.svt(E, tau, largest * xp.ones_like(E[:, 0, 0]))
        V = self._vectors(E)
        K = V.shape[-1]
        across = xp.matrix_transpose(V)
        components = [xp.reshape(across @ v, (B, K, H, W)) for v in (E, M, previous)]
        leading = xp.abs(components[1][:, -1:])  # of one sign except for noise
        size = xp.mean(leading, axis=_PIXEL, keepdims=True)
        guide = [safe_divide(leading, size, size > 0, xp), noise[:, None]]
        guide_maps = [v + xp.zeros_like(components[0]) for v in guide]
        signs = [
            xp.reshape(
                xp.stack([*(sign * v for v in components), *guide_maps], axis=2),
                (B * K, 5, H, W),
            )
            for sign in (1, -1)
        ]
        D = layers.correction(xp.concat(signs, axis=0)) / 2
        D = xp.reshape(D[: B * K] - D[B * K :], (B, K, H * W))
        return deviation * from_casorati(M + V @ D, x, xp)

    def _vectors(self, E: Array) -> Array:
        """Return the leading left singular vectors (B, T, K), the first one last."""
        fixed = untraced(backend(E).stop_gradient(E))
        gram = fixed @ namespace(fixed).matrix_transpose(fixed)
        return operators(gram).eigh(gram)[1][..., -self.components :]


def _total(x: Array, xp: Namespace) -> Array:
    return xp.sum(x, axis=_PIXEL, keepdims=True)


def _over(x: Array, deviation: Array, xp: Namespace) -> Array:
    """Divide by deviations; return 0 where a deviation is 0, as without counts."""
    return safe_divide(x, deviation, deviation > 0, xp)
