r"""
Duplicate singular values
=========================

Zhang and Hu (`arXiv:2411.14141 <https://arxiv.org/abs/2411.14141>`_) show their SVD on
two matrices: one with four distinct singular values, and

.. math::

    A = \begin{pmatrix} 2 & 4 \\ -4 & 2 \end{pmatrix}, \qquad A^\mathsf{T} A = 20\, I,

whose two singular values are both :math:`\sqrt{20}`. The loss is the sum of all
elements of :math:`Y = U (S + 0.1) V^\mathsf{H}`, in float32.

This loss has a gradient at every invertible matrix, repeated singular values or not:
:math:`Y = A + 0.1\, U V^\mathsf{H}`, and the polar factor :math:`U V^\mathsf{H}` is
smooth there. With :math:`G` the matrix of ones, :math:`K = U^\mathsf{H} G V` and
:math:`K^- = (K - K^\mathsf{H})/2`, a square :math:`A` has

.. math::

    \nabla L = G + 0.1\; U \left[\frac{2 K^-_{ij}}{s_i + s_j}\right] V^\mathsf{H},

with no difference :math:`s_i - s_j` in it. Here this is evaluated in float64, with the
two further terms that a rectangular matrix needs, and compared.
"""

import matplotlib.pyplot as plt
import torch

import svdinv.torch

SHIFT = 0.1

MATRICES = {
    "distinct": [
        [5.0, 8.0, 6.0, 7.0, 2.0],
        [8.0, 5.0, 7.0, 4.0, 3.0],
        [6.0, 7.0, 5.0, 3.0, 8.0],
        [7.0, 4.0, 3.0, 5.0, 9.0],
    ],
    "equal": [[2.0, 4.0], [-4.0, 2.0]],
}


def torch_svd(A):
    """Call PyTorch's own SVD."""
    return torch.linalg.svd(A, full_matrices=False)


def minimum_norm_svd(A):
    """Apply the rule of the paper, for values equal up to rounding."""
    return svdinv.torch.svd(A, repeated="minimum-norm")


def gradient(svd, matrix):
    """Differentiate the loss automatically, in float32."""
    A = torch.tensor(matrix, requires_grad=True)
    U, S, Vh = svd(A)
    Y = (U * (S + SHIFT)) @ Vh
    Y.sum().backward()
    return A.grad.double()


def exact_gradient(matrix):
    """Differentiate the loss in closed form, in float64, with no difference of S.

    Y = A + 0.1 U V^H. The derivative of the polar factor U V^H divides by
    s_i + s_j alone, so nothing is lost where singular values are equal.
    """
    A = torch.tensor(matrix, dtype=torch.float64)
    G = torch.ones_like(A)
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    K = U.mH @ G @ Vh.mH
    polar = U @ ((K - K.mH) / (S[:, None] + S)) @ Vh
    polar += ((G @ Vh.mH - U @ K) / S) @ Vh
    polar += (U / S) @ (U.mH @ G - K @ Vh)
    return G + SHIFT * polar


METHODS = {
    "torch.linalg.svd": torch_svd,
    'svdinv, repeated="minimum-norm"': minimum_norm_svd,
    "svdinv.torch.svd": svdinv.torch.svd,
}


def largest_error(svd, matrix):
    """Compare the two gradients."""
    return float((gradient(svd, matrix) - exact_gradient(matrix)).abs().max())


for kind, matrix in MATRICES.items():
    S = torch.linalg.svdvals(torch.tensor(matrix))
    print(f"{kind}: S = {', '.join(f'{s:.7f}' for s in S.tolist())}")
    for name, svd in METHODS.items():
        print(f"  {name:<34}{largest_error(svd, matrix):.0e}")
    assert largest_error(svdinv.torch.svd, matrix) < 1e-5

# %%
# The computed singular values of the second matrix differ in their last digit, if at
# all. A rule that asks for bit-equal values does not notice that they are equal;
# PyTorch divides by the difference, which is rounding error, or by 0. The minimum norm
# is close but not exact here: it is exact where :math:`f(s)` is proportional to
# :math:`s`, and :math:`s + 0.1` is not.
#
# The same, as the last element moves away from 2. What PyTorch gives depends on how its
# LAPACK rounds: on another machine a point may be elsewhere, or be NaN.

moves = [10.0**-k for k in range(8)]
for (name, svd), mark in zip(METHODS.items(), "xs.", strict=True):
    errors = [largest_error(svd, [[2.0, 4.0], [-4.0, 2.0 + move]]) for move in moves]
    plt.loglog(moves, errors, mark + "-", label=name)
plt.xlabel("what is added to the last element of the matrix")
plt.ylabel("largest error of the gradient")
plt.legend()
plt.show()
