# Written by `make stubs` (tools/stubs.py): change what that reads.
"""The singular value decomposition and low-rank operators for PyTorch.

`svd` is called as `torch.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch

from svdinv._operators import Operators as _Operators
from svdinv.backends.torch import Jacobian as Jacobian
from svdinv.core.gauge import Gauge
from svdinv.core.results import (
    SVDResult,
)
from svdinv.torch import nn as nn

_functions: _Operators[torch.Tensor, torch.Tensor]

def jacobian_svd(
    f: Callable[[Any], torch.Tensor],
    theta: Any,
    rank: int,
    *,
    oversampling: int = 10,
    power: int = 10,
    seed: Any = None,
    chunk: int | None = None,
) -> SVDResult[torch.Tensor]:
    """Leading singular triplets of the Jacobian of a function.

    Parameters
    ----------
    f : callable
        Maps `theta` to one tensor of any shape, such as an image from the parameters of
        a network.
    theta : Tensor, or mapping or sequence of Tensor
        Point of the Jacobian, for a module ``dict(module.named_parameters())``.
    rank : int
        Number r of triplets, from 1 to min(m, n).
    oversampling : int, optional
        Further columns of the random matrix.
    power : int, optional
        Number of iterations: 2 power + 2 products with each of l = rank + oversampling
        vectors leave an error of s_j of (s_(l+1) / s_j)^(4 power + 2), relative to it.
    seed : optional
        As for `svd_lowrank`.
    chunk : int, optional
        Products to be computed at once, all by default: a bound on the memory.

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)`` of J = df / dtheta with shapes (m, r), (r,), (r, n),
        for the m elements of ``f(theta)`` and the n of `theta`, one behind the other.

    Raises
    ------
    TypeError
        If `theta` or ``f(theta)`` is not real floating point of one dtype.
    ValueError
        If `rank` is out of range, `chunk` below 1, or `oversampling` or `power` negative.

    See Also
    --------
    Jacobian : The products, for `svd_residual`, which bounds the error.

    Notes
    -----
    The Jacobian is never formed. `svd_lowrank` takes products with it and its
    transpose, by forward and reverse mode: exact, unlike differences. Nothing is
    differentiated through the result: JAX raises NotImplementedError if `theta` is.
    A module that changes its buffers, as batch normalisation does in training, cannot
    be differentiated in forward mode: set it to evaluation mode, or disable its running
    statistics.

    Examples
    --------
    >>> import torch, svdinv.torch
    >>> module = torch.nn.Sequential(
    ...     torch.nn.Linear(3, 40), torch.nn.ReLU(), torch.nn.Linear(40, 16))
    >>> z, theta = torch.randn(3), dict(module.named_parameters())
    >>> def image(theta):
    ...     return torch.func.functional_call(module, theta, (z,))
    >>> U, S, Vh = svdinv.torch.jacobian_svd(image, theta, rank=4)
    >>> U.shape, S.shape, Vh.shape
    (torch.Size([16, 4]), torch.Size([4]), torch.Size([4, 816]))
    """

def svd(
    A: torch.Tensor,
    full_matrices: bool = False,
    *,
    repeated: Literal[
        "consistent", "minimum-norm", "drop", "clip", "taylor", "lorentz", "none"
    ] = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult[torch.Tensor]:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `torch.linalg.svd`, but thin by default.

    Parameters
    ----------
    A : Tensor
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back, also under autocast; to keep
        precision, cast up before and down after U f(S) Vh.
    full_matrices : bool, optional
        Return square U and Vh. Their null-space columns get the gradient that is
        independent of their arbitrary basis.
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
        ``"warn"`` and ``"error"`` wait for the device, the others do not.

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)`` with shapes (..., m, k), (..., k) and
        (..., k, n), k = min(m, n), S real and sorted downwards; with
        `full_matrices`, U (..., m, m) and Vh (..., n, n).

    Raises
    ------
    TypeError
        If `A` is not a floating point or complex tensor.
    RuntimeError
        If `A` has fewer than two dimensions.
    torch.linalg.LinAlgError
        If the decomposition fails, as it does on the CPU for NaN or infinity.
    ValueError
        If `repeated`, `rtol` or `gauge` is not one of the accepted values.
    svdinv.GaugeError
        In the backward pass, with ``gauge="error"``.

    See Also
    --------
    svdinv.core.svd_pullback : The formulas, with references.

    Examples
    --------
    >>> import torch, svdinv.torch
    >>> A = torch.eye(3, requires_grad=True)  # all singular values equal
    >>> U, S, Vh = svdinv.torch.svd(A)
    >>> shrunk = (U * torch.relu(S - 0.5)) @ Vh
    >>> shrunk.sum().backward()
    >>> bool(A.grad.isfinite().all())
    True
    """

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
