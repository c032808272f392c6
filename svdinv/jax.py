"""The singular value decomposition and low-rank operators for JAX.

`svd` is called as `jax.numpy.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

from svdinv._missing import check_version as _check_version
from svdinv._missing import needing as _needing

with _needing("jax", "jax"):
    import jax as _jax

    _check_version("jax", _jax.__version__, "0.8.2")

from svdinv.backends.jax import Jacobian
from svdinv.backends.jax import JAXBackend as _JAXBackend
from svdinv.backends.jax import full_precision as _full_precision
from svdinv.core.degenerate import Repeated as _Repeated
from svdinv.core.gauge import Gauge as _Gauge
from svdinv.core.results import SVDResult as _SVDResult
from svdinv.operators import OPERATORS as _OPERATORS
from svdinv.operators import bind as _bind
from svdinv.operators import decompositions as _decompositions
from svdinv.operators import documented as _documented

__all__ = ["Jacobian", "jacobian_svd", "svd", *sorted(_OPERATORS)]

_backend = _JAXBackend()
globals().update(_bind(_backend, __name__, context=_full_precision))


@_documented
def svd(
    a: _jax.Array,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: _Repeated = "consistent",
    rtol: float | None = None,
    gauge: _Gauge = "ignore",
) -> _SVDResult | _jax.Array:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `jax.numpy.linalg.svd`, but thin by default.

    Parameters
    ----------
    a : Array
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back.
    {full_matrices}
    {compute_uv}
    {repeated}
        Forward mode uses ``"minimum-norm"`` in place of ``"consistent"``, which
        is not linear.
    {rtol}
    {gauge}
        The numbers are read by `jax.debug.callback`; ``"error"`` is raised as
        JAX's runtime error when the caller waits for the computation.

    Returns
    -------
    SVDResult or Array
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

    {svd_formulas}

    Examples
    --------
    >>> import jax, jax.numpy as jnp, svdinv.jax
    >>> def loss(a):
    ...     U, S, Vh = svdinv.jax.svd(a)
    ...     return jnp.sum((U * jnp.maximum(S - 0.5, 0)) @ Vh)
    >>> bool(jnp.isfinite(jax.grad(loss)(jnp.eye(3))).all())
    True
    """
    outputs = _decompositions.svd(
        _backend, a, "a", full_matrices, repeated, rtol, gauge
    )
    return outputs if compute_uv else outputs.S


@_documented
def jacobian_svd(
    f: _Callable[[_Any], _jax.Array],
    theta: _Any,
    rank: int,
    *,
    oversampling: int = 10,
    power: int = 10,
    seed: _Any = None,
    chunk: int | None = None,
) -> _SVDResult:
    """Leading singular triplets of the Jacobian of a function.

    Parameters
    ----------
    f : callable
        Maps `theta` to one array of any shape, such as an image from the parameters of
        a network.
    theta : pytree of Array
        Point at which the Jacobian is computed.
    {jacobian_svd}

    Examples
    --------
    >>> import jax.numpy as jnp, svdinv.jax
    >>> def image(theta):
    ...     return jnp.tanh(theta["W"] @ jnp.arange(3.0) + theta["b"])
    >>> theta = {"W": jnp.ones((16, 3)), "b": jnp.zeros(16)}
    >>> U, S, Vh = svdinv.jax.jacobian_svd(image, theta, rank=4)
    >>> U.shape, S.shape, Vh.shape
    ((16, 4), (4,), (4, 64))
    """
    options = {"oversampling": oversampling, "power": power, "seed": seed}
    J = Jacobian(f, theta, chunk)  # whose products are as precise as those of f
    with _full_precision():
        return _decompositions.svd_lowrank(_backend, J, rank, like=J.at, **options)


__dir__ = __all__.copy
