"""Soft thresholds of tensors and of series of images."""

from __future__ import annotations

from svdinv.core.backend import Backend
from svdinv.core.factors import Method, check_method
from svdinv.core.namespace import Array, cast
from svdinv.core.tensors import fourier_slices, tilings
from svdinv.operators._arguments import negative_axis, per_batch
from svdinv.operators._maps import soft_threshold
from svdinv.operators._registry import operator


@operator
def tsvt(
    backend: Backend,
    X: Array,
    tau: float | Array,
    axis: int = -1,
    *,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    """Soft-threshold a tensor's singular values after a Fourier transform.

    The proximal operator of tau times the tensor nuclear norm of the t-SVD [1]_:
    the transform along `axis` yields one matrix for each frequency, each of which
    is soft-thresholded.

    Parameters
    ----------
    X : array
        Tensors, shape (..., a, b, c) in any order of the last three axes: `axis`
        is the Fourier axis and the other two, in their order, the matrices' axes.
        Real or complex.
    tau : float or array
        Threshold >= 0 in units of X: the transform is not normalised, as in [1]_.
        Broadcasting to the batch shape (...).
    axis : int, optional
        One of the last three axes.
    relative, method : optional
        As for `svt`; relative to the largest singular value of each frequency.

    Returns
    -------
    array
        Shape and dtype of X.

    {raises}, and if `axis` is none of the last three.

    References
    ----------
    .. [1] C. Lu, J. Feng, Y. Chen, W. Liu, Z. Lin and S. Yan, "Tensor robust
       principal component analysis with a new tensor nuclear norm", IEEE TPAMI
       42(4), 2020.
    """
    xp = backend.xp
    X, restore = backend.matrices(X, "X", 3)
    axis = negative_axis(backend, axis, X)
    check_method(method)
    tau = per_batch(backend, tau, X, 3)
    if 0 in tuple(X.shape):  # an empty tensor has no transform
        return restore(X + cast(0 * tau, X, xp)[..., None, None, None])
    slices, back = fourier_slices(X, axis, xp)
    result = soft_threshold(backend, slices, tau[..., None], relative, method)
    return restore(back(result))


@operator
def local_low_rank(
    backend: Backend,
    x: Array,
    tau: float | Array,
    block: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    shift: int | tuple[int, int] = 0,
    relative: bool = False,
    method: Method = "auto",
) -> Array:
    """Soft-threshold the blocks of a series of images, each as a Casorati matrix.

    Each block of pixels through all frames is a matrix, pixels by frames [1]_.

    Parameters
    ----------
    x : array
        Series, shape (..., T, H, W): T frames of H x W pixels, real or complex.
    tau : float or array
        Threshold >= 0 in units of x, broadcasting to the batch shape (...).
    block : int or (int, int)
        Height and width of a block. Images that are no multiple of it are padded
        with zeros at the end, which adds only zero singular values.
    stride : int or (int, int), optional
        Distance of neighbouring blocks, a divisor of `block`: blocks overlap if
        it is smaller, and the results are averaged. Default: `block`.
    shift : int or (int, int), optional
        First row and column of the first block; the tiling wraps around. A
        random shift in every iteration of a solver averages the seams out.
    relative, method : optional
        As for `svt`; relative to the largest singular value of each block.

    Returns
    -------
    array
        Shape and dtype of x.

    {raises}, and if `block` or `stride` does not fit.

    References
    ----------
    .. [1] J. D. Trzasko and A. Manduca, "Local versus global low-rank promotion
       in dynamic MRI series reconstruction", Proc. ISMRM 19, 2011.
    """
    xp = backend.xp
    x, restore = backend.matrices(x, "x", 3)
    check_method(method)
    tau = per_batch(backend, tau, x, 3)[..., None, None]
    size = tuple(x.shape[-2:])
    if None in size:
        raise backend.shape_error("the height and width of x must be known")
    tiled = tilings(size, block, stride, shift)
    if 0 in tuple(x.shape):  # one of perhaps thousands is enough
        tiled = tiled[:1]
    parts = [
        tiling.join(
            soft_threshold(backend, tiling.cut(x, xp), tau, relative, method), xp
        )
        for tiling in tiled
    ]
    return restore(sum(parts[1:], parts[0]) / len(parts))
