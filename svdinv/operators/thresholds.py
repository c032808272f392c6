"""Thresholds and other functions of the singular values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from svdinv.core.backend import Backend
from svdinv.core.divided_differences import (
    NODES,
    WEIGHTS,
    difference_nodes,
    sampled_difference,
)
from svdinv.core.factors import Method, check_method
from svdinv.core.functions import SpectralFunction, Threshold
from svdinv.core.namespace import Array, cast, is_complex, known_equal
from svdinv.core.svd_operations import SVD, Recompose
from svdinv.core.thresholds import (
    Firm,
    Hard,
    Huber,
    LogSum,
    Rank,
    Schatten,
    Soft,
)
from svdinv.operators._arguments import (
    MOST_VALUES,
    as_integer,
    as_multiplets,
    as_number,
    broadcasts,
    per_batch,
    shorter,
)
from svdinv.operators._maps import threshold, without_tau
from svdinv.operators._registry import operator

_SCHATTEN: dict[float, SpectralFunction] = {
    1 / 2: Schatten(1 / 2),
    2 / 3: Schatten(2 / 3),
    1: Soft(),
}


@operator
def svt(
    backend: Backend,
    A: Array,
    tau: float | Array,
    *,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    r"""Soft-threshold the singular values, U max(S - tau, 0) V^H.

    The proximal operator of tau times the nuclear norm [1]_, with the gradient
    in A and tau exact at every spectrum.

    Parameters
    ----------
    A : array
        Matrices, shape (..., m, n), real or complex. Half precision is computed
        in single precision and cast back.
    tau : float or array
        Threshold >= 0 in units of A (in an array, negative ones count as 0): one
        for all, an array that broadcasts to the batch shape (...), or, with
        A.ndim - 1 dimensions, one for each singular value, broadcasting to shape
        (..., min(m, n)): the weighted nuclear norm [2]_, of which this is the
        proximal operator if the weights do not decrease. Where equal singular values
        have different weights, there is no derivative, and the infinite term is 0.
    relative : bool, optional
        Whether tau is a multiple of the largest singular value of each matrix.
        The gradient goes through that value as well; where it is repeated, as
        the subgradient of least norm.
    method : {"auto", "svd", "gram", "matmul"}, optional
        ``"gram"`` uses the eigenvectors of the Gram matrix, in double precision where
        that is available, and is accurate only if kept values are above about
        sqrt(eps) s_1, which is not checked; ``"matmul"`` uses matrix products alone,
        meant for GPUs, with one tau for each matrix. ``"auto"`` uses the Gram matrix
        where it is faster and, judged by its singular values, accurate; in PyTorch, for
        other tall or wide matrices, the triangle of the QR decomposition; and the SVD
        elsewhere: for small inputs, on GPUs, and in traced or compiled functions, where
        nothing can be judged (except for tall matrices in JAX's on the CPU). For
        matrices known to be spread over devices, it uses a second Gram matrix where one
        is not enough.

    Returns
    -------
    array
        Shape and dtype of A.

    Raises
    ------
    TypeError
        If A is not floating point or complex, or tau is complex.
    ValueError
        If tau is a negative number, or `method` is not one of the accepted
        values. The shapes of A and tau have the framework's own error.

    See Also
    --------
    svdinv.core.thresholds.Soft : The function and its divided differences.

    References
    ----------
    .. [1] J.-F. Cai, E. J. Candes and Z. Shen, "A singular value thresholding
       algorithm for matrix completion", SIAM J. Optim. 20(4), 2010.
    .. [2] S. Gu, Q. Xie, D. Meng, W. Zuo, X. Feng and L. Zhang, "Weighted
       nuclear norm minimization and its applications to low level vision",
       IJCV 121, 2017.
    """
    return threshold(backend, A, Soft(), tau, relative, method, weights=True)


@operator
def svht(
    backend: Backend,
    A: Array,
    tau: float | Array,
    *,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    """Hard-threshold the singular values: those up to tau become 0.

    The proximal operator of tau^2 / 2 times the rank. Its derivative in tau is 0,
    and that in A contains 1 / (s_i - s_j) across the threshold.

    Parameters
    ----------
    {A}
    {tau}
    {relative}
    {method}

    {like_A}
    {raises}.
    """
    return threshold(backend, A, Hard(), tau, relative, method)


@operator
def firm_threshold(
    backend: Backend,
    A: Array,
    tau: float | Array,
    gamma: float = 3.0,
    *,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    """Firm-threshold the singular values: 0 up to tau, s from gamma tau on.

    The proximal operator of the minimax concave penalty (MCP) [1]_; between the
    two it is a line. Large singular values are not shrunk, as they are by `svt`.

    Parameters
    ----------
    {A}
    {tau}
    gamma : float, optional
        Where shrinking ends, in multiples of tau; above 1. Infinity makes it `svt`.
    {relative}
    {method}

    {like_A}
    {raises}, and if `gamma` is not above 1.

    References
    ----------
    .. [1] C.-H. Zhang, "Nearly unbiased variable selection under minimax concave
       penalty", Annals of Statistics 38(2), 2010.
    """
    gamma = as_number(gamma, "gamma", above=1)
    function = Soft() if gamma == math.inf else Firm(gamma)
    return threshold(backend, A, function, tau, relative, method)


@operator
def log_sum_threshold(
    backend: Backend,
    A: Array,
    tau: float | Array,
    epsilon: float,
    *,
    method: Method = "auto",
) -> Array:
    """Proximal operator of tau times the sum of log(1 + s / epsilon).

    Parameters
    ----------
    {A}
    tau : float or array
        Weight >= 0 of the penalty [1]_, in units of A squared, broadcasting to
        the batch shape (...).
    epsilon : float
        Singular value, in units of A, at which the penalty turns from linear to
        logarithmic; above 0.
    {method}

    {like_A}
    {raises}, and if `epsilon` is not positive and finite.

    References
    ----------
    .. [1] E. J. Candes, M. B. Wakin and S. P. Boyd, "Enhancing sparsity by
       reweighted l1 minimization", J. Fourier Anal. Appl. 14, 2008.
    """
    epsilon = as_number(epsilon, "epsilon", above=0)
    if epsilon == math.inf:
        raise ValueError("epsilon must be finite; without a penalty A is the result")
    return threshold(backend, A, LogSum(epsilon), tau, False, method)


@operator
def schatten_prox(
    backend: Backend, A: Array, tau: float | Array, p: float, *, method: Method = "auto"
) -> Array:
    """Proximal operator of tau times the sum of s^p, for p = 1/2, 2/3, 1 or 2.

    Parameters
    ----------
    {A}
    tau : float or array
        Weight >= 0 of the penalty, in units of A^(2 - p), broadcasting to the
        batch shape (...). p = 1 is `svt`; p = 2 divides A by 1 + 2 tau.
    p : float
        1/2, 2/3, 1 or 2, where the solution has a closed form or nearly one.
    {method}

    {like_A}
    {raises}, and if p is none of the four.

    See Also
    --------
    svdinv.core.thresholds.Schatten : The formulas, with references.
    """
    p = as_number(p, "p")
    if abs(p - 2) < 1e-6:  # needs no singular values
        check_method(method)
        A, restore = backend.matrices(A, "A")
        shrunk = 1 + 2 * per_batch(backend, tau, A, 2)[..., None, None]
        return restore(A * cast(1 / shrunk, A, backend.xp))  # shrunk may be infinite
    function = next((f for q, f in _SCHATTEN.items() if abs(p - q) < 1e-6), None)
    if function is None:
        raise ValueError(f"p must be 1/2, 2/3, 1 or 2, got {p}")
    return threshold(backend, A, function, tau, False, method)


@operator
def huber_threshold(
    backend: Backend,
    A: Array,
    tau: float | Array,
    delta: float,
    *,
    method: Method = "auto",
) -> Array:
    """Proximal operator of tau times the sum of Huber's function of s.

    Singular values up to delta + tau are divided by 1 + tau / delta, larger ones are
    reduced by tau. The penalty is smooth at 0, so that no value becomes 0 and the rank
    stays; the kink is at delta + tau.

    Parameters
    ----------
    {A}
    tau : float or array
        Weight >= 0 of the penalty, in units of A, broadcasting to the batch shape.
    delta : float
        Where Huber's function turns from a parabola into a line, in units of A;
        above 0. With infinity the penalty is 0, and A is returned.
    {method}

    {like_A}
    {raises}, and if `delta` is not positive.

    See Also
    --------
    svdinv.core.thresholds.Huber : The function, with its source.
    """
    delta = as_number(delta, "delta", above=0)
    return threshold(backend, A, Huber(delta), tau, False, method)


@operator
def low_rank(
    backend: Backend,
    A: Array,
    rank: int,
    *,
    multiplets: bool | float | Literal["keep"] = False,
    max_rank: int | None = None,
    method: Method = "auto",
) -> Array:
    """Best approximation of a given rank (Eckart and Young).

    Parameters
    ----------
    {A}
    rank : int
        Number of singular values to keep, >= 0; all from min(m, n) on.
    {multiplets}
    {max_rank}
    {method}

    {like_A}
    {raises}, and if `rank` is not an integer >= 0, `multiplets` is a number outside
        [0, 1), or `max_rank` is below the rank or given without `multiplets`.

    Notes
    -----
    The derivative contains 1 / (s_r - s_{r+1}): where these are equal, there is
    none, and that term is left out; with `multiplets` they are never equal.
    """
    rank = min(as_integer(rank, "rank", 0), MOST_VALUES)
    rtol, most = as_multiplets(multiplets, rank, max_rank)
    return without_tau(backend, A, Rank(rank, rtol, most), method)


@operator
def spectral_operator(
    backend: Backend,
    A: Array,
    function: SpectralFunction,
    tau: float | Array | None = None,
    *,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    """Apply a spectral function of your own, with all features of the other operators.

    Parameters
    ----------
    {A}
    function : svdinv.core.functions.SpectralFunction
        The function and its divided differences; most easily a
        `svdinv.core.functions.Threshold`.
    tau : float or array, optional
        Its parameter >= 0, broadcasting to the batch shape (...), if it has one.
    {relative}
    {method_or_products}
        ``"matmul"`` is for `svdinv.core.thresholds.Soft` and
        `svdinv.core.functions.Polar` alone.

    {like_A}
    {raises}, and if `function` is no spectral function, or tau is given to one
        without a parameter or missing for one with it.
    """
    try:
        hash(function)
    except TypeError as error:
        raise TypeError(
            f"function must be hashable, such as a frozen dataclass, got {function!r}"
        ) from error
    if not isinstance(function, SpectralFunction):
        raise TypeError(f"function must be a SpectralFunction, got {function!r}")
    if isinstance(function, Threshold):
        function.check()
    fields = *getattr(function, "__dict__", ()), *getattr(function, "__slots__", ())
    for name in fields:
        value = getattr(function, name, None)
        if getattr(value, "requires_grad", False) and not backend.is_constant(value):
            raise TypeError(
                f"{name} of {type(function).__name__} must be a number: of the "
                "parameters of a function, tau alone has a gradient"
            )
    if function.has_tau == (tau is None):
        raise ValueError(
            f"{function!r} has {'a' if function.has_tau else 'no'} parameter tau"
        )
    if tau is None:
        return without_tau(backend, A, function, method)
    return threshold(backend, A, function, tau, relative, method)


@operator
def spectral_map(
    backend: Backend,
    A: Array,
    f: Callable[[Array], Array],
    df: Callable[[Array], Array] | None = None,
) -> Array:
    """Apply any scalar function to the singular values, U f(S) V^H.

    Parameters
    ----------
    {A}
    f : callable
        Function of one singular value, called with an array of any shape and
        returning one of the same, element by element, in the functions of A's
        framework. What else it depends on, such as learned parameters, gets its
        gradient; a network comes in as ``lambda s: s * net(s[..., None])[..., 0]``.
        f(0) = 0, with a finite slope, unless there are no zero singular values.
    df : callable, optional
        Derivative of f, called in the same way. By default f is differentiated
        automatically, where the framework can; a graph of `torch.export` or
        `torch.jit.trace` has no gradient without it, and says so.

    {like_A}
    {raises}, and if `f` or `df` is not callable or changes the shape.

    Notes
    -----
    Divided differences of f come from its values, and for close pairs from
    eight-point Gauss-Legendre means of its slope, unless f has a kink between
    them. They are accurate to rounding for functions that are smooth on the scale
    of s. Second derivatives go through the singular vectors and need distinct
    singular values.
    """
    xp = backend.xp
    if not callable(f) or not (df is None or callable(df)):
        raise TypeError("f must be callable, and df callable or None")
    A, restore = backend.matrices(A, "A")
    if known_equal(shorter(A.shape), 0):
        return restore(A + 0)
    U, S, Vh = backend.call(SVD(), A)
    y = f(S)
    if not hasattr(y, "shape"):
        raise ValueError(f"f must return an array, returned {y!r}")
    if not broadcasts(y.shape, S.shape) or not broadcasts(S.shape, y.shape):
        raise ValueError(
            f"f must keep the shape {tuple(S.shape)}, returned {tuple(y.shape)}"
        )
    if is_complex(y, xp):
        raise TypeError(f"f must return real numbers, returned {y.dtype}")
    slope = backend.slope(f) if df is None else df  # which is to be checked
    if slope is None or (df is None and backend.is_constant(A, y)):
        return restore(backend.call(Recompose(), A, y, None, U, S, Vh)[0])
    nodes = difference_nodes(S, backend.parameter(NODES, S), xp)
    slopes = slope(nodes)
    shape = tuple(getattr(slopes, "shape", ()))
    if not broadcasts(shape, nodes.shape) or not broadcasts(nodes.shape, shape):
        raise ValueError(
            f"df must keep the shape {tuple(nodes.shape)}, returned {shape}"
        )
    minus = sampled_difference(S, y, slopes, backend.parameter(WEIGHTS, S), xp)
    return restore(backend.call(Recompose(), A, y, minus, U, S, Vh)[0])
