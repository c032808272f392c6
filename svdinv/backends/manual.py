"""NumPy and CuPy: an operation becomes functions that return their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from svdinv.core.gauge import report_gauge
from svdinv.core.namespace import Array, Namespace
from svdinv.core.operation import Operation, Options
from svdinv.core.repeated import Look
from svdinv.core.tolerances import eps

__all__ = ["Manual"]

Outputs = tuple[Array, ...]


class Manual:
    """An operation whose derivatives are called by hand.

    Parameters
    ----------
    operation : Operation
        What to compute.
    xp : namespace
        Array-API namespace of the framework.
    look : callable
        Whether an element of a boolean array holds, as in `svd_pullback`.
    shape_error : type
        What the framework raises for an array that is no matrix.
    """

    def __init__(
        self,
        operation: Operation,
        xp: Namespace,
        look: Look,
        shape_error: type[Exception],
    ) -> None:
        self._operation = operation
        self._xp = xp
        self._look = look
        self._shape_error = shape_error

    def apply(self, A: Any, options: Options) -> Outputs:
        """Compute the outputs alone."""
        A = self._matrices(A)
        return self._like(A, self._forward(A, options))

    def vjp(
        self, A: Any, options: Options, names: tuple[str, ...]
    ) -> tuple[Outputs, Callable[..., Array]]:
        """Compute the outputs, and a function of their cotangents, called `names`."""
        A = self._matrices(A)
        outputs = self._forward(A, options)
        operation, xp = self._operation, self._xp
        if self._is_half(A):
            # The cotangents come back with the rounding errors of the outputs.
            options = replace(options, epsilon=float(xp.finfo(A.dtype).eps))

        def pullback(*cotangents: Any, **named: Any) -> Array:
            unknown = set(named) - set(names[len(cotangents) :])
            if unknown or len(cotangents) > len(names):
                raise TypeError(
                    f"pullback takes {', '.join(names)}, got {len(cotangents)} "
                    f"cotangents and {', '.join(sorted(named)) or 'no names'}"
                )
            cotangents += tuple(named.get(name) for name in names[len(cotangents) :])
            checked = tuple(
                None if g is None else self._tangent(g, name, x)
                for g, name, x in zip(cotangents, names, outputs, strict=True)
            )
            if options.gauge != "ignore":
                dependence = operation.dependence(outputs, checked, options, xp)
                report_gauge(dependence, options.gauge, eps(outputs[0], xp))
            gA = operation.pullback(outputs, checked, options, xp, self._look)
            return xp.astype(gA, A.dtype, copy=False)

        return self._like(A, outputs), pullback

    def jvp(self, A: Any, dA: Any, options: Options) -> tuple[Outputs, Outputs]:
        """Compute the outputs, and their tangents along `dA`."""
        A = self._matrices(A)
        outputs = self._forward(A, options)
        dA = self._tangent(dA, "dA", self._single(A))
        tangents = self._operation.pushforward(outputs, dA, options, self._xp)
        return self._like(A, outputs), self._like(A, tangents)

    def _matrices(self, A: Any) -> Array:
        xp = self._xp
        A = xp.asarray(A)
        if not xp.isdtype(A.dtype, ("real floating", "complex floating")):
            raise TypeError(f"A must be floating point or complex, got {A.dtype}")
        if A.ndim < 2:
            raise self._shape_error(
                f"A must have at least two dimensions, got shape {A.shape}"
            )
        return A

    def _is_half(self, A: Array) -> bool:
        return self._xp.finfo(A.dtype).bits == 16

    def _single(self, A: Array) -> Array:
        # LAPACK and cuSOLVER have no half precision.
        return self._xp.astype(A, self._xp.float32) if self._is_half(A) else A

    def _forward(self, A: Array, options: Options) -> Outputs:
        return self._operation.forward(self._single(A), options, self._xp)

    def _like(self, A: Array, outputs: Outputs) -> Outputs:
        if not self._is_half(A):
            return outputs
        return tuple(self._xp.astype(x, A.dtype) for x in outputs)

    def _tangent(self, g: Any, name: str, like: Array) -> Array:
        xp = self._xp
        g = xp.asarray(g)
        if g.shape != like.shape:
            raise ValueError(f"{name} must have shape {like.shape}, got {g.shape}")
        if xp.isdtype(g.dtype, "complex floating") and not xp.isdtype(
            like.dtype, "complex floating"
        ):
            raise TypeError(f"{name} must be real, got {g.dtype}")
        return xp.astype(g, like.dtype, copy=False)
