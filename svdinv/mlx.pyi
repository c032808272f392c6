# Written by `make stubs` (tools/stubs.py): change what that reads.
"""The singular value decomposition and low-rank operators for MLX.

`svd` is called as `mlx.core.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.

`mx.grad`, `mx.vjp` and `mx.jvp` differentiate them, twice if nested, and `mx.vmap` and
`mx.compile` support them. Decompositions run on the CPU, whatever the default device.
Double precision is that of MLX: only on the CPU, without complex numbers and without
Fourier transforms, so that `tsvt` supports only single precision.
"""

from typing import Literal, overload

from mlx.core import array

from svdinv._operators import Operators as _Operators
from svdinv.core.gauge import Gauge
from svdinv.core.results import (
    SVDResult,
)

_functions: _Operators[array, array]

@overload
def svd(
    a: array,
    compute_uv: Literal[True] = True,
    *,
    full_matrices: bool = False,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult[array]:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `mlx.core.linalg.svd`, but thin by default.

    Parameters
    ----------
    a : array
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back.
    compute_uv : bool, optional
        If false, return S alone.
    full_matrices : bool, optional
        Return square U and Vh, as `mlx.core.linalg.svd` does.
    repeated : str, optional
        Rule where singular values (nearly) coincide: ``"consistent"`` (exact for
        losses in U f(S) Vh with one smooth f that is not 0 there, and any penalty on
        S), ``"minimum-norm"`` (Zhang and Hu, arXiv:2411.14141), or for comparison
        ``"drop"``, ``"clip"``, ``"taylor"``, ``"lorentz"`` and ``"none"``.
    rtol : float, optional
        Gap, relative to the largest singular value, up to which the rule acts; for
        ``"consistent"`` relative to a power of two near it. Default: sqrt(eps) for
        ``"consistent"``; 64 eps for ``"minimum-norm"``, ``"drop"`` and ``"clip"``. The
        other rules do not use it.
    gauge : {"ignore", "warn", "error"} or callable, optional
        What to do in the backward pass if the loss depends on the arbitrary phase
        or basis of the singular vectors. A callable, such as a
        `svdinv.GaugeMonitor`, gets an array of one number per matrix.
        ``"warn"`` and ``"error"`` read these numbers, which MLX does not allow in
        `mx.compile` and `mx.vmap`.

    Returns
    -------
    SVDResult or array
        Named tuple ``(U, S, Vh)`` with shapes (..., m, k), (..., k) and
        (..., k, n), k = min(m, n), S real and sorted downwards; with
        `full_matrices`, U (..., m, m) and Vh (..., n, n).
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

    See Also
    --------
    svdinv.core.svd_pullback : The formulas, with references.

    Examples
    --------
    >>> import mlx.core as mx, svdinv.mlx
    >>> def loss(a):
    ...     U, S, Vh = svdinv.mlx.svd(a)
    ...     return mx.sum((U * mx.maximum(S - 0.5, 0)) @ Vh)
    >>> bool(mx.all(mx.isfinite(mx.grad(loss)(mx.eye(3)))))
    True
    """

@overload
def svd(
    a: array,
    *,
    compute_uv: Literal[False],
    full_matrices: bool = False,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> array: ...
@overload
def svd(
    a: array,
    compute_uv: Literal[False],
    *,
    full_matrices: bool = False,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> array: ...
@overload
def svd(
    a: array,
    compute_uv: bool = True,
    *,
    full_matrices: bool = False,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult[array] | array: ...

bures_distance = _functions.bures_distance
cca = _functions.cca
eigh = _functions.eigh
eigh_generalized = _functions.eigh_generalized
expm = _functions.expm
firm_threshold = _functions.firm_threshold
hermitian_map = _functions.hermitian_map
huber_threshold = _functions.huber_threshold
inv_sqrtm = _functions.inv_sqrtm
kabsch = _functions.kabsch
ky_fan_norm = _functions.ky_fan_norm
local_low_rank = _functions.local_low_rank
log_sum_threshold = _functions.log_sum_threshold
logm = _functions.logm
low_rank = _functions.low_rank
lstsq = _functions.lstsq
nuclear_norm = _functions.nuclear_norm
null_vector = _functions.null_vector
pinv = _functions.pinv
polar = _functions.polar
powm = _functions.powm
procrustes = _functions.procrustes
psd_project = _functions.psd_project
robust_pca = _functions.robust_pca
schatten_norm = _functions.schatten_norm
schatten_prox = _functions.schatten_prox
spectral_map = _functions.spectral_map
spectral_norm = _functions.spectral_norm
spectral_operator = _functions.spectral_operator
sqrtm = _functions.sqrtm
sure = _functions.sure
svd_lowrank = _functions.svd_lowrank
svd_residual = _functions.svd_residual
svdvals = _functions.svdvals
svht = _functions.svht
svt = _functions.svt
svt_divergence = _functions.svt_divergence
tsvt = _functions.tsvt
whiten = _functions.whiten
