"""NumPy and CuPy: what a framework without automatic differentiation needs.

`Manual` makes of an operation functions that return their derivatives; `Toolbox` is
what the operators need of the framework, and `Record` a toolbox that keeps what
their derivatives need.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from svdinv.core.chains import Map
from svdinv.core.factors import factorise, largest_value
from svdinv.core.functions import SpectralFunction
from svdinv.core.gauge import report_gauge
from svdinv.core.namespace import Array, DType, Namespace, is_complex, real
from svdinv.core.operation import Operation, Options
from svdinv.core.repeated import Look
from svdinv.core.spectral import spectral_map
from svdinv.core.tolerances import eps

__all__ = ["Manual", "Record", "Toolbox"]

Outputs: TypeAlias = tuple[Array, ...]
Factors: TypeAlias = tuple[Array, ...]


class Toolbox:
    """What `svdinv.operators` needs of a framework, but for derivatives.

    Parameters
    ----------
    xp : namespace
        Array-API namespace of the framework.
    look : callable
        Whether an element of a boolean array holds, as in `svd_pullback`.
    shape_error : type
        What the framework raises for an array that is no matrix.
    rng : callable
        Makes a generator of random numbers from a seed or None.
    quiet : callable, optional
        Makes a context in which overflow is no warning.
    """

    def __init__(
        self,
        xp: Namespace,
        look: Look,
        shape_error: type[Exception],
        rng: Callable[[Any], Any],
        quiet: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.quiet = quiet
        self.rng = rng
        self.xp = xp
        self.look = look
        self.shape_error = shape_error

    def matrices(
        self, A: Any, name: str, ndim: int = 2
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Give A in the precision to compute in, and the cast of a result back."""
        given = self.checked(A, name, ndim)
        A = self.single(given)
        return A, lambda x: self.like(given, x)

    def checked(self, A: Any, name: str, ndim: int = 2) -> Array:
        """Check that `A` is floating point or complex, with `ndim` dimensions."""
        xp = self.xp
        A = xp.asarray(A)
        if not xp.isdtype(A.dtype, ("real floating", "complex floating")):
            raise TypeError(f"{name} must be floating point or complex, got {A.dtype}")
        if A.ndim < ndim:
            number = {2: "two", 3: "three"}[ndim]
            raise self.shape_error(
                f"{name} must have at least {number} dimensions, got shape {A.shape}"
            )
        return A

    def parameter(self, value: Any, like: Array, name: str = "value") -> Array:
        """`value` as an array in the real dtype of `like`."""
        xp = self.xp
        try:
            value = xp.asarray(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number or an array") from error
        if not xp.isdtype(value.dtype, ("bool", "integral", "real floating")):
            raise TypeError(f"{name} must be real, got {value.dtype}")
        return xp.astype(value, real(like, xp).dtype, copy=False)

    def svd(self, A: Array) -> tuple[Array, Array, Array]:
        """Thin U, S and Vh."""
        U, S, Vh = self.xp.linalg.svd(A, full_matrices=False)
        return U, S, Vh

    def derivative(self, f: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Stand in for a derivative that is not asked for."""
        return self.xp.zeros_like

    def rotate(
        self, A: Array, y: Array, minus: Array, U: Array, S: Array, Vh: Array
    ) -> Array:
        """U diag(y) V^H."""
        y = self.xp.astype(y, U.dtype, copy=False)
        return (U * y[..., None, :]) @ Vh

    def sketch(self, A: Array, columns: int, seed: Any) -> Array:
        """Draw a normal random matrix (..., n, columns)."""
        random = seed if hasattr(seed, "standard_normal") else self.rng(seed)
        shape = (*A.shape[:-2], A.shape[-1], columns)
        normal = random.standard_normal(shape)
        if is_complex(A, self.xp):
            normal = normal + 1j * random.standard_normal(shape)
        return self.xp.astype(normal, A.dtype, copy=False)

    def leading_triplets(
        self, A: Array, U: Array, S: Array, Vh: Array
    ) -> tuple[Array, Array, Array]:
        """U, S and Vh."""
        return U, S, Vh

    def stop_gradient(self, x: Array) -> Array:
        """`x`, which has no derivative."""
        return x

    def factorise(
        self,
        A: Array,
        function: SpectralFunction,
        tau: Array | None = None,
        *,
        relative: bool = False,
        method: str = "auto",
    ) -> Factors:
        """Factors of A, as `svdinv.core.factors.factorise`."""
        with self.quiet():  # a product that overflows is done again, scaled
            return factorise(
                A,
                function,
                tau,
                relative=relative,
                method=method,
                look=self.look,
                xp=self.xp,
            )

    def spectral(
        self, A: Array, function: SpectralFunction, tau: Array | None, factors: Factors
    ) -> Array:
        """U f(S) V^H."""
        return spectral_map(function, A, tau, factors, xp=self.xp)

    def relative_spectral(
        self, A: Array, function: SpectralFunction, ratio: Array, factors: Factors
    ) -> Array:
        """U f(S) V^H with tau = ratio s_1."""
        tau = ratio * largest_value(A, factors, self.xp)
        return spectral_map(function, A, tau, factors, xp=self.xp)

    def spectral_sum(
        self, A: Array, value: Array, function: SpectralFunction, factors: Factors
    ) -> Array:
        """`value`."""
        return value

    def single(self, A: Array) -> Array:
        """Give A in single precision at least: LAPACK and cuSOLVER have no half."""
        return self.xp.astype(A, self.xp.float32) if self.is_half(A) else A

    def like(self, A: Array, x: Array) -> Array:
        """`x` in half precision, if A is."""
        return self.xp.astype(x, A.dtype, copy=False) if self.is_half(A) else x

    def is_half(self, A: Array) -> bool:
        """Whether A is in half precision."""
        return self.xp.finfo(A.dtype).bits == 16

    def tangent(self, g: Any, name: str, shape: tuple[int, ...], dtype: DType) -> Array:
        """Check a tangent or cotangent of an array of that shape and dtype."""
        xp = self.xp
        g = xp.asarray(g)
        if g.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {g.shape}")
        if xp.isdtype(g.dtype, "complex floating") and not xp.isdtype(
            dtype, "complex floating"
        ):
            raise TypeError(f"{name} must be real, got {g.dtype}")
        return xp.astype(g, dtype, copy=False)


class Given(NamedTuple):
    """An argument: as it is computed with, and what it was."""

    array: Array
    shape: tuple[int, ...]
    dtype: DType


class Record(Toolbox):
    """A toolbox for one call of an operator, which keeps what its derivatives need.

    Attributes
    ----------
    given : dict
        The arguments, by name; copies, so that they may be changed after the call.
    maps : list of Map
        Every spectral map.
    sums : list of tuple
        Every sum over singular values: A, value, function and factors.
    factors : tuple of array
        Those of the SVD.
    triplets : tuple of array
        U, S and Vh of a truncated SVD, and A.
    sampled : tuple of array
        U, S, Vh, values and divided differences of a function that the user gave.
    """

    def __init__(self, toolbox: Toolbox) -> None:
        super().__init__(
            toolbox.xp, toolbox.look, toolbox.shape_error, toolbox.rng, toolbox.quiet
        )
        self.triplets: tuple[Array, ...] = ()
        self.given: dict[str, Given] = {}
        self.maps: list[Map] = []
        self.sums: list[tuple[Array, Array, SpectralFunction, Factors]] = []
        self.factors: tuple[Array, ...] = ()
        self.sampled: tuple[Array, ...] = ()

    def matrices(
        self, A: Any, name: str, ndim: int = 2
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Keep A."""
        given = self.checked(A, name, ndim)
        A = self.xp.asarray(self.single(given), copy=True)
        self.given[name] = Given(A, given.shape, given.dtype)
        return A, lambda x: self.like(given, x)

    def parameter(self, value: Any, like: Array, name: str = "value") -> Array:
        """Keep the value."""
        array = super().parameter(value, like, name)
        if name not in self.given:  # else it comes back, broadcast
            array = self.xp.asarray(array, copy=True)
            dtype = getattr(value, "dtype", array.dtype)
            if not self.xp.isdtype(dtype, "real floating"):
                dtype = array.dtype
            self.given[name] = Given(array, array.shape, dtype)
        return array

    def svd(self, A: Array) -> tuple[Array, Array, Array]:
        """Keep the factors."""
        self.factors = U, S, Vh = super().svd(A)
        return U, S, Vh

    def leading_triplets(
        self, A: Array, U: Array, S: Array, Vh: Array
    ) -> tuple[Array, Array, Array]:
        """Keep them."""
        self.triplets = U, S, Vh, A
        return U, S, Vh

    def derivative(self, f: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Refuse."""
        raise TypeError("df, the derivative of f, is needed: nothing else has it here")

    def rotate(
        self, A: Array, y: Array, minus: Array, U: Array, S: Array, Vh: Array
    ) -> Array:
        """Keep the arrays."""
        self.sampled = U, S, Vh, y, minus
        return super().rotate(A, y, minus, U, S, Vh)

    def spectral(
        self, A: Array, function: SpectralFunction, tau: Array | None, factors: Factors
    ) -> Array:
        """Keep the map."""
        self.maps.append(Map(function, A, tau, factors))
        return super().spectral(A, function, tau, factors)

    def relative_spectral(
        self, A: Array, function: SpectralFunction, ratio: Array, factors: Factors
    ) -> Array:
        """Keep the map."""
        top = largest_value(A, factors, self.xp)
        self.maps.append(Map(function, A, ratio * top, factors, ratio, top))
        return super().relative_spectral(A, function, ratio, factors)

    def spectral_sum(
        self, A: Array, value: Array, function: SpectralFunction, factors: Factors
    ) -> Array:
        """Keep the sum."""
        self.sums.append((A, value, function, factors))
        return super().spectral_sum(A, value, function, factors)

    def argument_tangent(self, name: str, d: Any) -> Array:
        """Check the tangent of an argument; None is zero."""
        given = self.given[name]
        if d is None:
            return self.xp.zeros_like(given.array)
        return self.tangent(d, f"d{name}", given.shape, given.array.dtype)

    def argument_cotangent(self, name: str, g: Array) -> Array:
        """Sum the cotangent of an argument over what that was broadcast to."""
        xp, given = self.xp, self.given[name]
        if not xp.isdtype(given.dtype, "complex floating"):
            g = real(g, xp)
        added = g.ndim - len(given.shape)
        if added:
            g = xp.sum(g, axis=tuple(range(added)))
        repeated = tuple(
            axis
            for axis, (size, one) in enumerate(zip(g.shape, given.shape, strict=True))
            if one == 1 != size
        )
        if repeated:
            g = xp.sum(g, axis=repeated, keepdims=True)
        return xp.astype(xp.asarray(g), given.dtype, copy=False)


class Manual:
    """An operation whose derivatives are called by hand.

    Parameters
    ----------
    operation : Operation
        What to compute.
    toolbox : Toolbox
        The framework's part.
    """

    def __init__(self, operation: Operation, toolbox: Toolbox) -> None:
        self._operation = operation
        self._tools = toolbox

    def apply(self, A: Any, options: Options) -> Outputs:
        """Compute the outputs alone."""
        A = self._tools.checked(A, "A")
        return self._like(A, self._forward(A, options))

    def vjp(
        self, A: Any, options: Options, names: tuple[str, ...]
    ) -> tuple[Outputs, Callable[..., Array]]:
        """Compute the outputs, and a function of their cotangents, called `names`."""
        tools, operation, xp = self._tools, self._operation, self._tools.xp
        A = tools.checked(A, "A")
        outputs = self._forward(A, options)
        dtype = A.dtype
        if tools.is_half(A):
            # The cotangents come back with the rounding errors of the outputs.
            options = replace(options, epsilon=float(xp.finfo(dtype).eps))

        def pullback(*cotangents: Any, **named: Any) -> Array:
            given = by_name(names, cotangents, named)
            checked = tuple(
                None if g is None else tools.tangent(g, name, x.shape, x.dtype)
                for g, name, x in zip(given, names, outputs, strict=True)
            )
            if options.gauge != "ignore":
                dependence = operation.dependence(outputs, checked, options, xp)
                report_gauge(dependence, options.gauge, eps(outputs[0], xp))
            gA = operation.pullback(outputs, checked, options, xp, tools.look)
            return xp.astype(gA, dtype, copy=False)

        return self._like(A, outputs), pullback

    def jvp(self, A: Any, dA: Any, options: Options) -> tuple[Outputs, Outputs]:
        """Compute the outputs, and their tangents along `dA`."""
        tools = self._tools
        A = tools.checked(A, "A")
        outputs = self._forward(A, options)
        dA = tools.tangent(dA, "dA", A.shape, tools.single(A).dtype)
        tangents = self._operation.pushforward(outputs, dA, options, tools.xp)
        return self._like(A, outputs), self._like(A, tangents)

    def _forward(self, A: Array, options: Options) -> Outputs:
        return self._operation.forward(self._tools.single(A), options, self._tools.xp)

    def _like(self, A: Array, outputs: Outputs) -> Outputs:
        return tuple(self._tools.like(A, x) for x in outputs)


def by_name(
    names: tuple[str, ...], cotangents: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """Cotangents in the order of their names, and None for those not given."""
    unknown = set(named) - set(names[len(cotangents) :])
    if unknown or len(cotangents) > len(names):
        raise TypeError(
            f"pullback takes {', '.join(names)}, got {len(cotangents)} "
            f"cotangents and {', '.join(sorted(named)) or 'no names'}"
        )
    return cotangents + tuple(named.get(name) for name in names[len(cotangents) :])
