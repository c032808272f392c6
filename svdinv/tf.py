"""The singular value decomposition and low-rank operators for TensorFlow.

`svd` is called as `tf.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without handing these out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from svdinv._missing import explain_missing

try:
    import tensorflow as tf
except ImportError as error:
    raise explain_missing("tensorflow", "tensorflow") from error

from svdinv.backends.tensorflow import TensorFlowBackend
from svdinv.backends.tensorflow_kernels import portable
from svdinv.core.gauge import Gauge
from svdinv.operators import OPERATORS, bind, decompositions, documented

__all__ = ["SUVResult", "portable", "svd", *sorted(OPERATORS)]

_backend = TensorFlowBackend()
globals().update(bind(_backend, __name__))


class SUVResult(NamedTuple):
    """Factors of tensor = u diag(s) v^H, in TensorFlow's order."""

    s: tf.Tensor
    u: tf.Tensor
    v: tf.Tensor


@documented
def svd(
    tensor: Any,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: str = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SUVResult | tf.Tensor:
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
        If false, return s alone.
    {repeated}
    {rtol}
    {gauge}
        All but ``"ignore"`` read it on the host, inside a graph by
        `tf.py_function`, where ``"error"`` arrives as an error of TensorFlow; XLA
        cannot compile them.

    Returns
    -------
    SUVResult or Tensor
        Named tuple ``(s, u, v)`` with shapes (..., k), (..., m, k) and
        (..., n, k), k = min(m, n), s real and sorted downwards; with
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
    U, S, Vh = decompositions.svd(
        _backend, tensor, "tensor", full_matrices, repeated, rtol, gauge
    )
    return SUVResult(S, U, tf.linalg.adjoint(Vh)) if compute_uv else S


def __dir__() -> list[str]:
    return __all__
