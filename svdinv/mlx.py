"""The singular value decomposition and low-rank operators for MLX.

`svd` is called as `mlx.core.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.

`mx.grad`, `mx.vjp` and `mx.jvp` differentiate them, twice if nested, and `mx.vmap` and
`mx.compile` support them. Decompositions run on the CPU, whatever the default device.
Double precision is that of MLX: only on the CPU, without complex numbers and without
Fourier transforms, so that `tsvt` supports only single precision.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from svdinv._missing import explain_missing as _explain_missing

try:
    import mlx.core as _mx
except ModuleNotFoundError as _error:
    raise _explain_missing("mlx", "mlx") from _error
except ImportError as _error:
    raise ImportError(
        f"mlx cannot be imported: {_error}; on Linux it needs pip install 'mlx[cpu]'"
    ) from _error

from svdinv.backends.mlx import MLXBackend as _MLXBackend
from svdinv.core.degenerate import Repeated as _Repeated
from svdinv.core.gauge import Gauge as _Gauge
from svdinv.core.results import SVDResult as _SVDResult
from svdinv.operators import OPERATORS as _OPERATORS
from svdinv.operators import bind as _bind
from svdinv.operators import decompositions as _decompositions
from svdinv.operators import documented as _documented

__all__ = ["svd", *sorted(_OPERATORS)]

_backend = _MLXBackend()
globals().update(_bind(_backend, __name__))


@_documented
def svd(
    a: _mx.array,
    compute_uv: bool = True,
    *,
    full_matrices: bool = False,
    repeated: _Repeated = "consistent",
    rtol: float | None = None,
    gauge: _Gauge = "ignore",
) -> _SVDResult | _mx.array:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `mlx.core.linalg.svd`, but thin by default.

    Parameters
    ----------
    a : array
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back.
    {compute_uv}
    full_matrices : bool, optional
        Return square U and Vh, as `mlx.core.linalg.svd` does.
    {repeated}
    {rtol}
    {gauge}
        ``"warn"`` and ``"error"`` read these numbers, which MLX does not allow in
        `mx.compile` and `mx.vmap`.

    Returns
    -------
    SVDResult or array
    {factors}
        A matrix with NaN or infinity results in NaN, without any effect on the others
        of its batch.

    Raises
    ------
    TypeError
        If `a` is not floating point or complex.
    ValueError
        If `a` has fewer than two dimensions, or if `repeated`, `rtol` or `gauge`
        is not one of the accepted values.
    svdinv.GaugeError
        In the backward pass, with ``gauge="error"``.

    {svd_formulas}

    Examples
    --------
    >>> import mlx.core as mx, svdinv.mlx
    >>> def loss(a):
    ...     U, S, Vh = svdinv.mlx.svd(a)
    ...     return mx.sum((U * mx.maximum(S - 0.5, 0)) @ Vh)
    >>> bool(mx.all(mx.isfinite(mx.grad(loss)(mx.eye(3)))))
    True
    """
    outputs = _decompositions.svd(
        _backend, a, "a", full_matrices, repeated, rtol, gauge
    )
    return outputs if compute_uv else outputs.S


__dir__ = __all__.copy
