"""The singular value decomposition and low-rank operators for MLX.

`svd` is called as `mlx.core.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without handing these out.
"""

from __future__ import annotations

from typing import Any

from svdinv._missing import explain_missing

try:
    import mlx.core as mx
except ImportError as error:
    raise explain_missing("mlx", "mlx") from error

from svdinv.backends.mlx import MLXBackend
from svdinv.core.gauge import Gauge
from svdinv.core.svd import SVDResult
from svdinv.operators import OPERATORS, bind, decompositions

__all__ = ["svd", *sorted(OPERATORS)]

_backend = MLXBackend()
globals().update(bind(lambda *_: _backend, __name__))


def svd(
    a: mx.array,
    compute_uv: bool = True,
    *,
    full_matrices: bool = False,
    repeated: str = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult | mx.array:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `mlx.core.linalg.svd`, but thin by default.
    """
    outputs = decompositions.svd(_backend, a, "a", full_matrices, repeated, rtol, gauge)
    return outputs if compute_uv else outputs.S
