"""The singular value decomposition and low-rank operators for TensorFlow.

`svd` is called as `tf.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from typing import Any as _Any
from typing import NamedTuple as _NamedTuple

from svdinv._missing import needing as _needing

with _needing("tensorflow", "tensorflow"):
    import tensorflow as _tf

from svdinv.backends.tensorflow import TensorFlowBackend as _TensorFlowBackend
from svdinv.backends.tensorflow_kernels import portable
from svdinv.core.degenerate import Repeated as _Repeated
from svdinv.core.gauge import Gauge as _Gauge
from svdinv.core.namespace import adjoint as _adjoint
from svdinv.operators import OPERATORS as _OPERATORS
from svdinv.operators import bind as _bind
from svdinv.operators import decompositions as _decompositions
from svdinv.operators import documented as _documented

__all__ = ["SUVResult", "portable", "svd", *sorted(_OPERATORS)]

_backend = _TensorFlowBackend()
globals().update(_bind(_backend, __name__))


class SUVResult(_NamedTuple):
    """Factors of tensor = u diag(s) v^H, in TensorFlow's order."""

    s: _tf.Tensor
    u: _tf.Tensor
    v: _tf.Tensor


@_tf.autograph.experimental.do_not_convert
@_documented
def svd(
    tensor: _Any,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: _Repeated = "consistent",
    rtol: float | None = None,
    gauge: _Gauge = "ignore",
) -> SUVResult | _tf.Tensor:
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
    {repeated}
    {rtol}
    {gauge}
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

    {svd_formulas}

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
    U, S, Vh = _decompositions.svd(
        _backend, tensor, "tensor", full_matrices, repeated, rtol, gauge
    )
    return SUVResult(S, U, _adjoint(Vh, _backend.xp)) if compute_uv else S


__dir__ = __all__.copy
