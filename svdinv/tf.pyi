# Written by `make stubs` (tools/stubs.py): change what that reads.
"""The singular value decomposition and low-rank operators for TensorFlow.

`svd` is called as `tf.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.
"""

from typing import Any, Literal, NamedTuple, overload

from tensorflow import Tensor
from tensorflow.types.experimental import TensorLike

from svdinv._operators import Operators as _Operators
from svdinv.backends.tensorflow_kernels import portable as portable
from svdinv.core.gauge import Gauge

_functions: _Operators[Tensor, TensorLike]

class SUVResult(NamedTuple):
    """Factors of tensor = u diag(s) v^H, in TensorFlow's order."""

    s: Tensor
    u: Tensor
    v: Tensor

@overload
def svd(
    tensor: Any,
    full_matrices: bool = False,
    compute_uv: Literal[True] = True,
    *,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SUVResult:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `tf.linalg.svd`, with its order of results: v, not its adjoint, comes
    last.

    Parameters
    ----------
    tensor : Tensor
        Matrices, shape (..., m, n), floating point or complex; the shape may be
        unknown while a graph is traced. Half precision is computed in single
        precision and cast back.
    full_matrices : bool, optional
        Return square u and v. Their null-space columns get the gradient that is
        independent of their arbitrary basis.
    compute_uv : bool, optional
        If false, return only s.
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
        All but ``"ignore"`` read these numbers on the host, inside a graph by
        `tf.py_function`, where ``"error"`` is raised as an error of TensorFlow; XLA
        cannot compile them.

    Returns
    -------
    SUVResult or Tensor
        Named tuple ``(s, u, v)`` with shapes (..., k), (..., m, k) and
        (..., n, k), k = min(m, n), s real, in descending order; with
        `full_matrices`, u (..., m, m) and v (..., n, n).

    Raises
    ------
    TypeError
        If `tensor` is not floating point or complex.
    ValueError
        If `tensor` has fewer than two dimensions, or if `repeated`, `rtol` or
        `gauge` is not one of the accepted values.
    svdinv.GaugeError
        In an eager backward pass, with ``gauge="error"``.

    See Also
    --------
    svdinv.core.svd_pullback : The formulas, with references.

    Examples
    --------
    >>> import tensorflow as tf, svdinv.tf
    >>> tensor = tf.Variable(tf.eye(3))  # all singular values equal
    >>> with tf.GradientTape() as tape:
    ...     s, u, v = svdinv.tf.svd(tensor)
    ...     shrunk = (u * tf.nn.relu(s - 0.5)) @ tf.linalg.adjoint(v)
    ...     loss = tf.reduce_sum(shrunk)
    >>> bool(tf.reduce_all(tf.math.is_finite(tape.gradient(loss, tensor))))
    True
    """

@overload
def svd(
    tensor: Any,
    full_matrices: bool = False,
    *,
    compute_uv: Literal[False],
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> Tensor: ...
@overload
def svd(
    tensor: Any,
    full_matrices: bool,
    compute_uv: Literal[False],
    *,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> Tensor: ...
@overload
def svd(
    tensor: Any,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SUVResult | Tensor: ...

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
