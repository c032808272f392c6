"""The singular value decomposition and low-rank operators for PyTorch.

`svd` is called as `torch.linalg.svd`; the operators threshold, project, align and
measure matrices by their singular values, without returning these.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from collections.abc import Callable as _Callable
from contextlib import AbstractContextManager as _AbstractContextManager
from typing import Any as _Any

from svdinv._missing import check_version as _check_version
from svdinv._missing import needing as _needing

with _needing("torch", "torch"):
    import torch as _torch

    _check_version("torch", _torch.__version__, "2.9")

from svdinv.backends.torch import Jacobian
from svdinv.backends.torch import TorchBackend as _TorchBackend
from svdinv.backends.torch_namespace import full_precision as _in_full_precision
from svdinv.backends.torch_namespace import may_round as _may_round
from svdinv.core.degenerate import Repeated as _Repeated
from svdinv.core.gauge import Gauge as _Gauge
from svdinv.core.results import SVDResult as _SVDResult
from svdinv.operators import OPERATORS as _OPERATORS
from svdinv.operators import bind as _bind
from svdinv.operators import decompositions as _decompositions
from svdinv.operators import documented as _documented

__all__ = ["Jacobian", "jacobian_svd", "nn", "svd", *sorted(_OPERATORS)]

_backend = _TorchBackend()


def _full_precision(*arguments: _Any) -> _AbstractContextManager[_Any] | None:
    """Return a context that keeps products from being rounded, as by autocast."""
    if not (_torch._C._is_any_autocast_enabled() or _may_round()):
        return None
    tensors = (x for x in arguments if isinstance(x, _torch.Tensor))
    return next((_in_full_precision(x) for x in tensors), None)


globals().update(_bind(_backend, __name__, context=_full_precision))

from svdinv.torch import nn  # noqa: E402 - its modules call the operators


@_documented
def svd(
    A: _torch.Tensor,
    full_matrices: bool = False,
    *,
    repeated: _Repeated = "consistent",
    rtol: float | None = None,
    gauge: _Gauge = "ignore",
) -> _SVDResult:
    """Singular value decomposition that can be differentiated everywhere.

    Called as `torch.linalg.svd`, but thin by default.

    Parameters
    ----------
    A : Tensor
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back, also under autocast; to keep
        precision, cast up before and down after U f(S) Vh.
    {full_matrices}
    {repeated}
    {rtol}
    {gauge}
        ``"warn"`` and ``"error"`` wait for the device, the others do not.

    Returns
    -------
    SVDResult
    {factors}

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

    {svd_formulas}

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
    return _decompositions.svd(_backend, A, "A", full_matrices, repeated, rtol, gauge)


@_documented
def jacobian_svd(
    f: _Callable[[_Any], _torch.Tensor],
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
        Maps `theta` to one tensor of any shape, such as an image from the parameters of
        a network.
    theta : Tensor, or mapping or sequence of Tensor
        Point of the Jacobian, for a module ``dict(module.named_parameters())``.
    {jacobian_svd}
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
    J = Jacobian(f, theta, chunk)
    return _decompositions.svd_lowrank(
        _backend, J, rank, oversampling=oversampling, power=power, seed=seed, like=J.at
    )


__dir__ = __all__.copy
