"""NumPy, CuPy and any other array-API namespace: derivatives by a tape."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from array_api_compat import device, to_device

from svdinv.backends import tape
from svdinv.backends.tape import (
    Tape,
    Traced,
    check_plain,
    innermost,
    is_moving,
    untraced,
)
from svdinv.backends.taped_functions import TapedNamespace
from svdinv.core.backend import Backend, number_within
from svdinv.core.degenerate import Repeated
from svdinv.core.gauge import Gauge
from svdinv.core.namespace import Array, Namespace, is_complex, real
from svdinv.core.operation import Operation, rebuilt
from svdinv.core.results import SVDResult
from svdinv.kernels.memory import Memory, by_kernel, value
from svdinv.operators import bind, decompositions, documented, thresholds
from svdinv.operators._arguments import checked


class _Extended:
    """An array-API namespace with cached look-ups, and what may be done beyond it."""

    writable = True

    def __init__(self, base: Namespace, on_host: bool) -> None:
        self._base = base
        # Cached: called very often, they take as long as arithmetic on small arrays.
        self.isdtype, self.finfo = cache(base.isdtype), cache(base.finfo)
        if on_host:
            self.any_on_host = self._any

    def __getattr__(self, name: str) -> Any:
        # Kept, so that it is found at once next time.
        value = self.__dict__[name] = getattr(self._base, name)
        return value

    def _any(self, mask: Array) -> bool:
        return bool(self._base.any(mask))


class ArrayBackend(Backend):
    """The arrays of a namespace without automatic differentiation.

    Parameters
    ----------
    xp : namespace
        Array-API namespace.
    on_host : bool
        Whether values can be read without waiting for a device.
    shape_error : type
        Exception that the namespace raises for an array with too few axes.
    rng : callable
        Makes a generator of random numbers from a seed or None.
    quiet : callable, optional
        Makes a context in which overflow does not warn.
    memory : Memory, optional
        Access to the memory of the arrays, for the kernels.
    """

    tape: Tape | None = None
    """The innermost tape of the arguments of a call, if these are traced."""

    def __init__(
        self,
        xp: Namespace,
        on_host: bool,
        shape_error: type[Exception],
        rng: Callable[[Any], Any],
        quiet: Callable[[], AbstractContextManager[Any]] = nullcontext,
        memory: Memory | None = None,
    ) -> None:
        self.xp = self.plain = _Extended(xp, on_host)
        self.taped = TapedNamespace(self.plain)
        self.shape_error = shape_error
        self.rng = rng
        self.quiet = quiet
        self.memory = memory

    def of(self, *arguments: Any) -> ArrayBackend:
        """Return the backend for the arguments of a call.

        If one of them is traced, all arrays have to be.
        """
        tape = innermost(arguments)
        if tape is None:
            return self
        traced = copy(self)
        traced.xp, traced.tape = self.taped, tape
        return traced

    def call(self, operation: Operation, *x: Any) -> tuple[Any, ...]:
        """Call an operation, and record it on the innermost tape, if there is one."""
        tape = innermost(x)
        if tape is None:
            return self._value(operation, x)
        if operation.transparent:
            return operation.composed(x, self.call, self.taped)
        values = tape.kept(x)
        wanted = tuple(tape.position(t) is not None for t in x)
        y = self.call(operation, *values)

        def tangent(dx: Any) -> Any:
            xp, inputs, results, dx = self._alike(values, y, dx)
            return operation.tangent(inputs, results, dx, self.call, xp)

        def cotangent(g: Any) -> Any:
            xp, inputs, results, g = self._alike(values, y, g)
            return operation.cotangent(inputs, results, g, wanted, self.call, xp)

        outputs = tape.record(x, y, tangent, cotangent)
        tape.link(x, outputs)
        return outputs

    def _alike(self, *groups: Any) -> Any:
        """Return the namespace for groups of arrays, and these: traced if one is."""
        tape = innermost(groups)
        if tape is None:
            return self.plain, *groups
        return self.taped, *(
            tuple(None if x is None else tape.constant(x) for x in group)
            for group in groups
        )

    def is_constant(self, *x: Array) -> bool:
        return not is_moving(x)

    def by_kernel(self, operation: Operation, *x: Any) -> Any:
        if self.memory is None:
            return None
        with self.quiet():
            return by_kernel(operation, x, self.memory, self.plain)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        if self.tape is None:
            return self._value(operation, x)
        y = self._value(operation, tuple(map(untraced, x)))
        return rebuilt(y, (None if t is None else self._constant(t) for t in y))

    def _value(self, operation: Operation, x: Any) -> Any:
        with self.quiet():  # a product that overflows is done again, scaled
            return value(operation, x, self.memory, self.plain)

    def is_floating(self, dtype: Any) -> bool:
        # NumPy's longdouble has no decompositions.
        return super().is_floating(dtype) and self.xp.finfo(dtype).bits <= 64

    def _constant(self, x: Array) -> Array:
        return x if self.tape is None else self.tape.constant(x)

    def asarray(self, x: Any, name: str) -> Array:
        check_plain(x, name)
        x = self.xp.asarray(x)
        if not getattr(x.dtype, "isnative", True):  # as in files from other machines
            x = self.xp.astype(x, x.dtype.newbyteorder("="))
        return self._constant(x)

    def parameter(self, value: Any, like: Array, name: str = "value") -> Array:
        check_plain(value, name)
        xp, dtype = self.xp, real(like, self.xp).dtype
        value = number_within(value, float(xp.finfo(dtype).max))
        try:
            if not isinstance(value, Traced):
                value = self._beside(like, value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number or an array") from error
        if not xp.isdtype(value.dtype, ("bool", "integral", "real floating")):
            raise TypeError(f"{name} must be real, got {value.dtype}")
        return self._constant(xp.astype(value, dtype, copy=False))

    def _beside(self, like: Array, value: Any) -> Array:
        """Convert a value to an array on the device of `like`."""
        return to_device(self.plain.asarray(value), device(untraced(like)))

    def stop_gradient(self, x: Array) -> Array:
        return self._constant(untraced(x))

    def normal(self, shape: tuple[int, ...], like: Array, seed: Any) -> Array:
        random = seed if hasattr(seed, "standard_normal") else self.rng(seed)
        normal = random.standard_normal(shape)
        if is_complex(like, self.plain):
            normal = normal + 1j * random.standard_normal(shape)
        normal = self._beside(like, normal)
        return self.plain.astype(normal, like.dtype, copy=False)

    def slope(self, f: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def slope(x: Array) -> Array:
            ones = self.plain.ones_like(untraced(x))
            return tape.jvp(self.taped, f, (x,), (ones,))[1]

        return slope


def make_module(backend: ArrayBackend, module: str) -> dict[str, Callable[..., Any]]:
    """Make the public functions of the module that has a backend.

    They are the operators, `svd`, `vjp`, `jvp`, `linear`, `svd_vjp`, `svd_jvp`,
    `svt_vjp` and `svt_jvp`.
    """
    functions: list[Callable[..., Any]]
    functions = [_svd, _vjp, _jvp, _linear, _svd_vjp, _svd_jvp, _svt_vjp, _svt_jvp]
    own = {f.__name__[1:]: f for f in functions}
    return bind(backend.of, module) | bind(backend, module, own)


@cache
def for_namespace(xp: Namespace) -> SimpleNamespace:
    """Make all functions that `svdinv.numpy` has for another array-API namespace.

    Parameters
    ----------
    xp : namespace
        Array-API namespace, such as `array_api_strict`, with its linear algebra
        extension; for `tsvt` also that for Fourier transforms. Its arrays must have
        values that can be read, and parts that can be assigned to.

    Returns
    -------
    SimpleNamespace
        The operators, `svd`, `vjp`, `jvp` and what else `svdinv.numpy` has.

    Raises
    ------
    TypeError
        If `xp` is no array-API namespace with linear algebra, or that of a framework
        that has a module of its own.

    Notes
    -----
    `vjp`, `jvp` and `spectral_map` call the functions that they are given with traced
    arrays. If `xp` accepts no arrays but its own, these functions have to be composed
    of those of ``x.__array_namespace__()``.

    Examples
    --------
    >>> import array_api_strict as xp, svdinv
    >>> functions = svdinv.for_namespace(xp)
    >>> value, pullback = functions.vjp(functions.nuclear_norm, 2 * xp.eye(3))
    >>> float(value), float(pullback(xp.asarray(1.0))[0][0, 0])
    (6.0, 1.0)
    """
    from numpy.random import default_rng

    *_, name = getattr(xp, "__name__", "").split("array_api_compat.")
    kind = name.partition(".")[0]
    if kind in ("torch", "tensorflow", "jax", "mlx", "dask"):
        module = "tf" if kind == "tensorflow" else kind
        raise TypeError(
            f"xp must be a namespace without a module of its own, got {name}: the "
            f"operators for its arrays are those of svdinv.{module}"
        )
    if not (hasattr(xp, "linalg") and hasattr(xp, "isdtype")):
        raise TypeError(
            f"xp must be an array-API namespace with linear algebra, got {xp!r}"
        )
    backend = ArrayBackend(xp, True, ValueError, default_rng)
    functions = make_module(backend, f"svdinv.for_namespace({xp})")
    return SimpleNamespace(**functions, _backend=backend)


@documented
def _svd(
    backend: ArrayBackend,
    A: Array,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    repeated: Repeated = "consistent",
    rtol: float | None = None,
    gauge: Gauge = "ignore",
) -> SVDResult | Array:
    """Singular value decomposition, thin by default, which `vjp` differentiates.

    As the `linalg.svd` of NumPy or CuPy.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n), floating point or complex. Half precision is
        computed in single precision and cast back.
    {full_matrices}
    {compute_uv}
    {repeated}
        `jvp` takes ``"minimum-norm"`` for ``"consistent"``, which is not linear.
    {rtol}
    {gauge}

    Returns
    -------
    SVDResult or array
    {factors}

    Raises
    ------
    TypeError
        If `A` is not floating point or complex.
    numpy.linalg.LinAlgError
        In NumPy and CuPy, if `A` has fewer than two dimensions, or the iteration does
        not converge, as for NaN; elsewhere ValueError.
    ValueError
        If `repeated`, `rtol` or `gauge` is not one of the accepted values.
    svdinv.GaugeError
        From the pullback, with ``gauge="error"``.

    {svd_formulas}
    """
    outputs = decompositions.svd(
        backend.of(A), A, "A", full_matrices, repeated, rtol, gauge
    )
    return outputs if compute_uv else outputs.S


def _vjp(
    backend: ArrayBackend, f: Callable[..., Any], *args: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Evaluate a function of arrays, and make the one that pulls cotangents back.

    Name and arguments are those of `jax.vjp`. The function may be composed of the
    operators of this module, of Python's operators, of slices (for arrays of NumPy
    and CuPy also integer arrays and masks as indices, sort and take_along_axis), and
    of array functions of the namespace of its arguments or of NumPy (for arrays of
    CuPy, too, whose own functions accept no traced arrays):
    elementwise ones (sqrt, square, reciprocal, exp, expm1, log, log1p, log2, log10,
    sin, cos, tan, asin, acos, atan, atan2, sinh, cosh, tanh, pow, abs, hypot, sign,
    maximum, minimum, where, real, imag, conj, angle), sum, cumsum, diff, mean, average,
    var, std, max, min, matmul, products of vectors, einsum of a string, tensordot,
    inner, vecdot, kron, solve, inv, the Euclidean norm, the norms 1 and inf of vectors,
    reshape, permute_dims, broadcast_to, concat, stack, hstack, vstack, column_stack,
    split, pad, repeat, tile, take, roll, flip, tril, triu, diagonal, diag, astype, the
    Fourier transforms and their shifts; and of functions made by `linear`.

    Parameters
    ----------
    f : callable
        Function of arrays that returns an array, or (named) tuples, lists or dicts
        of them.
    *args : array
        Its arguments, real or complex floating point; also (named) tuples, lists and
        dicts of arrays.

    Returns
    -------
    object
        The value of ``f(*args)``.
    pullback : callable
        ``pullback(g)``, with the cotangent of the value, in its structure and with
        None for zero, returns the tuple of the cotangents of the arguments. A
        cotangent g of x means dL = Re tr(g^H dx): for complex arrays, it is the
        conjugate of JAX's.

    Raises
    ------
    TypeError
        If an argument is not floating point, no derivative of a function is known,
        a traced array is put into an array of NumPy, which would lose its derivative,
        or is combined with a masked or sparse array or a `numpy.matrix`.
    RuntimeError
        If a traced array is used after the function has ended.
    ValueError
        From the pullback, if a cotangent has the wrong shape or key.

    Notes
    -----
    For second derivatives, `vjp` and `jvp` may be applied to functions that contain
    them. Arguments and results may be changed after the call, and arrays that the
    function takes from elsewhere also during it: the pullback reads copies. The
    function may update its own arrays, by ``x += y`` and the like. For its arguments,
    and for arrays that share memory with another one in use, this raises TypeError.

    Examples
    --------
    Gradient of the nuclear norm of a thresholded matrix, in the matrix and in the
    threshold, where all singular values are equal:

    >>> import numpy as np, svdinv.numpy
    >>> def loss(A, tau):
    ...     return svdinv.numpy.nuclear_norm(svdinv.numpy.svt(A, tau))
    >>> value, pullback = svdinv.numpy.vjp(loss, 2 * np.eye(3), 0.5)
    >>> gA, gtau = pullback(1.0)
    >>> float(value), gA.diagonal().round(6), float(gtau)
    (4.5, array([1., 1., 1.]), -3.0)
    """
    return tape.vjp(backend.taped, f, *args)


def _jvp(
    backend: ArrayBackend, f: Callable[..., Any], primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Evaluate a function of arrays and its derivative along a direction.

    Name and arguments are those of `jax.jvp`.

    Parameters
    ----------
    f : callable
        As for `vjp`.
    primals : tuple
        Its arguments, as for `vjp`.
    tangents : tuple
        Direction: for each argument one of its shape, or None for zero.

    Returns
    -------
    object
        The value of ``f(*primals)``.
    object
        Its tangent, in the same structure.

    Raises
    ------
    TypeError, RuntimeError
        As `vjp`.
    ValueError
        If a tangent has the wrong shape.

    Examples
    --------
    >>> import numpy as np, svdinv.numpy
    >>> A, dA = np.diag([3.0, 2.0]), np.eye(2)
    >>> norm, slope = svdinv.numpy.jvp(svdinv.numpy.nuclear_norm, (A,), (dA,))
    >>> float(norm), float(slope)
    (5.0, 2.0)
    """
    return tape.jvp(backend.taped, f, primals, tangents)


def _linear(
    backend: ArrayBackend,
    forward: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
) -> Callable[[Array], Array]:
    """Make a linear function known to `vjp` and `jvp`, by its adjoint.

    An example is the forward operator of an imaging problem, by whatever library.

    Parameters
    ----------
    forward : callable
        Function of an array; it is called with arrays that are not traced, and again
        for derivatives. What else it reads must not change in between: bind the
        variable of a loop by ``lambda x, c=c: c * x``, and copy an array that changes.
    adjoint : callable
        Its adjoint: Re <forward(x), y> = Re <x, adjoint(y)> for all x and y.

    Returns
    -------
    callable
        `forward`, with derivatives of any order.

    Raises
    ------
    TypeError
        If one of them is not callable, or, when it is called, returns an array that is
        not floating point or complex.
    ValueError
        From the pullback, if `adjoint` returns another shape than that of x.

    Examples
    --------
    >>> import numpy as np, svdinv.numpy
    >>> rows = np.array([0, 2])
    >>> def placed(y):
    ...     x = np.zeros(3)
    ...     x[rows] = y
    ...     return x
    >>> sampled = svdinv.numpy.linear(lambda x: x[rows], placed)
    >>> loss = lambda x: (sampled(x) ** 2).sum()
    >>> value, pullback = svdinv.numpy.vjp(loss, np.ones(3))
    >>> pullback(1.0)[0]
    array([2., 0., 2.])
    """
    given: dict[str, Any] = {"forward": forward, "adjoint": adjoint}
    for name, function in given.items():
        if not callable(function):
            kind = type(function).__name__
            raise TypeError(f"{name} must be a function of an array, got {kind}")
    xp, shares = backend.plain, backend.taped.may_share

    def applied(name: str, x: Array) -> Array:
        # The function may write into its argument, and return a buffer that the next
        # call overwrites.
        x = xp.asarray(x, copy=True)
        y = given[name](x)
        y = y if shares and shares(x, y) else xp.asarray(y, copy=True)
        if not backend.is_floating(y.dtype):
            raise TypeError(
                f"{name} must return an array that is floating point or complex, got "
                f"{y.dtype}"
            )
        return y

    def linear(x: Array) -> Array:
        like = untraced(x)
        if not hasattr(like, "dtype"):
            raise TypeError(f"x must be one array, got {type(like).__name__}")

        def back(g: Array) -> Array:
            found = applied("adjoint", g)
            if tuple(found.shape) != tuple(like.shape):
                raise ValueError(
                    f"adjoint must return the shape {tuple(like.shape)} of what "
                    f"forward was called with, got {tuple(found.shape)}"
                )
            return found if is_complex(like, xp) else real(found, xp)

        return backend.taped.linear(partial(applied, "forward"), back, x)

    return linear


def _svd_vjp(
    backend: ArrayBackend, A: Array, full_matrices: bool = False, **options: Any
) -> tuple[SVDResult, Callable[..., Array]]:
    """Singular value decomposition, and the function that pulls gradients back.

    Parameters
    ----------
    A, full_matrices, **options
        As for `svd`.

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)``.
    pullback : callable
        ``pullback(gU=None, gS=None, gVh=None)`` returns gA, of the shape and dtype
        of `A`. Each cotangent has the shape of its factor, or is None for zero; a
        cotangent g of x means dL = Re tr(g^H dx).

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `svd`; ValueError from the pullback if a cotangent has the wrong shape.

    Examples
    --------
    Gradient of the sum of all elements of U S^2 Vh, where all singular values are
    equal and other libraries return NaN:

    >>> import numpy as np, svdinv.numpy
    >>> A = np.eye(3)
    >>> (U, S, Vh), pullback = svdinv.numpy.svd_vjp(A)
    >>> G = np.ones((3, 3))
    >>> gU = G @ Vh.T * S**2
    >>> gS = 2 * S * np.sum(U * (G @ Vh.T), axis=0)
    >>> gVh = S[:, None] ** 2 * (U.T @ G)
    >>> pullback(gU, gS, gVh).round(6)
    array([[2., 2., 2.],
           [2., 2., 2.],
           [2., 2., 2.]])
    """
    svd = _of_one(backend, full_matrices, options)
    factors, pull = tape.vjp(backend.taped, svd, _floating(backend, A))

    def pullback(gU: Any = None, gS: Any = None, gVh: Any = None) -> Array:
        return pull((gU, gS, gVh))[0]

    return factors, pullback


def _of_one(
    backend: ArrayBackend, full_matrices: bool, options: dict[str, Any]
) -> Callable[[Array], SVDResult]:
    """`svd` as a function of A alone."""
    return lambda A: decompositions.svd(backend.of(A), A, "A", full_matrices, **options)


def _floating(backend: ArrayBackend, A: Any) -> Array:
    """Check A, and return it as an array in its own dtype."""
    A = backend.asarray(A, "A")
    backend.matrices(A, "A")
    return A


def _svd_jvp(
    backend: ArrayBackend,
    A: Array,
    dA: Array,
    full_matrices: bool = False,
    **options: Any,
) -> tuple[SVDResult, SVDResult]:
    """Singular value decomposition, and its derivative along a direction.

    Parameters
    ----------
    A, full_matrices, **options
        As for `svd`.
    dA : array
        Direction, of the shape of `A`.

    Returns
    -------
    SVDResult
        Named tuple ``(U, S, Vh)``.
    SVDResult
        Their derivatives ``(dU, dS, dVh)``.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `svd`, and if `dA` has not the shape of `A`.
    """
    svd = _of_one(backend, full_matrices, options)
    return tape.jvp(backend.taped, svd, (backend.asarray(A, "A"),), (dA,))


def _svt_vjp(
    backend: ArrayBackend, A: Array, tau: Any, **options: Any
) -> tuple[Array, Callable[[Any], tuple[Array, Array]]]:
    """`svt`, and the function that pulls cotangents back.

    Parameters
    ----------
    A, tau, **options
        As for `svt`.

    Returns
    -------
    array
        The result of `svt`.
    pullback : callable
        ``pullback(G)``, with the cotangent G of the result, returns ``(gA, gtau)``
        of the shapes of A and tau.

    Raises
    ------
    TypeError, ValueError
        As `svt`; from the pullback, if G does not fit the result.

    Examples
    --------
    The gradient of half the squared norm of the result, where all singular values
    are equal and a derivative by way of the vectors would be NaN:

    >>> import numpy as np, svdinv.numpy
    >>> X, pullback = svdinv.numpy.svt_vjp(2 * np.eye(3), 0.5)
    >>> gA, gtau = pullback(X)
    >>> gA.round(6)
    array([[1.5, 0. , 0. ],
           [0. , 1.5, 0. ],
           [0. , 0. , 1.5]])
    >>> float(gtau.round(6))
    -4.5
    """
    given = _given(backend, A, tau)
    return tape.vjp(backend.taped, _svt_on_tape(backend, options), *given)


def _given(backend: ArrayBackend, A: Any, tau: Any) -> tuple[Array, Array]:
    """Return A and tau as arrays; a number takes the dtype of A, an array keeps its."""
    A = _floating(backend, A)
    if not hasattr(tau, "dtype"):
        tau = checked(backend, tau, A)
    elif not backend.xp.isdtype(tau.dtype, "real floating"):
        tau = backend.parameter(tau, A, "tau")
    return A, tau


def _svt_on_tape(
    backend: ArrayBackend, options: dict[str, Any]
) -> Callable[[Array, Array], Array]:
    return lambda A, tau: thresholds.svt(backend.of(A, tau), A, tau, **options)


def _svt_jvp(
    backend: ArrayBackend,
    A: Array,
    tau: Any,
    dA: Array,
    dtau: Any = None,
    **options: Any,
) -> tuple[Array, Array]:
    """`svt`, and its derivative along a direction.

    Parameters
    ----------
    A, tau, **options
        As for `svt`.
    dA : array or None
        Tangent of A, of its shape; None for zero.
    dtau : float or array, optional
        Tangent of tau, of its shape; zero by default.

    Returns
    -------
    array
        The result of `svt`.
    array
        Its tangent.

    Raises
    ------
    TypeError, ValueError
        As `svt`, and if a tangent does not fit.
    """
    given = _given(backend, A, tau)
    return tape.jvp(backend.taped, _svt_on_tape(backend, options), given, (dA, dtau))
