"""svdinv's decompositions for autoray, and thus for quimb."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from svdinv.core.namespace import adjoint

try:
    import autoray
except ImportError as error:
    message = "svdinv.adapters.autoray needs autoray: pip install autoray"
    raise ImportError(message, name="autoray") from error

__all__ = ["register", "unregister"]

_FACES = {"torch": "svdinv.torch", "jax": "svdinv.jax", "tensorflow": "svdinv.tf"}

_before: dict[tuple[str, str], Callable[..., Any] | None] = {}


def register(*frameworks: str) -> None:
    """Let autoray decompose arrays of PyTorch, JAX and TensorFlow by svdinv.

    ``linalg.svd``, ``linalg.svdvals`` and ``linalg.eigh`` become svdinv's, whose
    gradients are finite at repeated and zero singular values. quimb's ``method="qr"``,
    in canonical forms and in compression, becomes a singular value decomposition with
    absorbed values: the isometry differs from that of QR, the tensor network is the
    same, and the gradient needs no inverse of R.

    Parameters
    ----------
    *frameworks : {"torch", "jax", "tensorflow"}
        Default: all that are installed. None is imported before it is used.

    Raises
    ------
    ValueError
        If a framework is none of these.

    See Also
    --------
    unregister : Restore autoray's functions.

    Notes
    -----
    Repeated calls have no effect. ``linalg.qr`` itself is unchanged.

    Gradients are those of `svdinv.torch.svd`: exact for losses of U f(S) V^H, such as
    those of a compressed network, except for contributions of singular values that are
    exactly 0. These are lost where a small change of the tensors raises the rank of a
    bond; if they matter, add noise of 1e-8 to the tensors.

    Examples
    --------
    >>> import autoray, torch
    >>> from svdinv.adapters.autoray import register, unregister
    >>> register("torch")
    >>> A = torch.eye(3, requires_grad=True)  # all singular values equal
    >>> U, s, VH = autoray.do("linalg.svd", A)
    >>> ((U * s**2) @ VH).sum().backward()
    >>> bool(A.grad.isfinite().all())
    True
    >>> unregister()
    """
    for framework in _chosen(frameworks):
        for name, function in _FUNCTIONS.items():
            key = framework, name
            if key not in _before:
                _before[key] = autoray.autoray._FUNCS.get(key)
                autoray.register_function(*key, partial(function, _FACES[framework]))


def unregister(*frameworks: str) -> None:
    """Restore the functions that autoray had before `register`.

    Parameters
    ----------
    *frameworks : {"torch", "jax", "tensorflow"}
        Default: all.

    Raises
    ------
    ValueError
        If a framework is none of these.
    """
    chosen = _chosen(frameworks)
    for key in [key for key in _before if key[0] in chosen]:
        function = _before.pop(key)
        autoray.register_function(*key, function or _nothing)
        if function is None:  # autoray had not looked it up yet
            del autoray.autoray._FUNCS[key]


def _chosen(frameworks: tuple[str, ...]) -> tuple[str, ...]:
    for name in frameworks:
        if name not in _FACES:
            raise ValueError(f"framework must be one of {list(_FACES)}, got {name!r}")
    return frameworks or tuple(filter(find_spec, _FACES))


def _nothing(*_: Any) -> None: ...


def _svd(face: str, x: Any, *args: Any, **options: Any) -> Any:
    module = import_module(face)
    found = module.svd(x, *args, **options)
    if hasattr(found, "v"):  # TensorFlow's order
        return found.u, found.s, adjoint(found.v, module._backend.xp)
    return found


def _svdvals(face: str, x: Any) -> Any:
    return import_module(face).svdvals(x)


def _eigh(face: str, x: Any, *args: Any, **options: Any) -> Any:
    return import_module(face).eigh(x, *args, **options)


def _isometry(face: str, x: Any, absorb: Any = 1, **_: Any) -> Any:
    """Split a matrix in place of quimb's QR, whose options for phases are ignored."""
    return autoray.do("svd_truncated", x, absorb=absorb)


_FUNCTIONS = {
    "linalg.svd": _svd,
    "linalg.svdvals": _svdvals,
    "linalg.eigh": _eigh,
    "qr_stabilized": _isometry,
}
