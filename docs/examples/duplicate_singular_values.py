"""Gradients at equal and at nearly equal singular values.

The matrices are those of the README of SVD-inv (Zhang and Hu, arXiv:2411.14141). The
loss is the sum of all elements of Y = U (S + 0.1) V^H, in float32. Run it with::

    python docs/examples/duplicate_singular_values.py
"""

import torch

import svdinv.torch

SHIFT = 0.1

MATRICES = {
    "matrix_normal": [
        [5.0, 8.0, 6.0, 7.0, 2.0],
        [8.0, 5.0, 7.0, 4.0, 3.0],
        [6.0, 7.0, 5.0, 3.0, 8.0],
        [7.0, 4.0, 3.0, 5.0, 9.0],
    ],
    "matrix_dup": [[2.0, 4.0], [-4.0, 2.0]],  # both singular values are sqrt(20)
    "matrix_dup, moved by 1e-4": [[2.0, 4.0], [-4.0, 2.0001]],
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


def show(A):
    """Write a matrix in one line."""
    rows = (", ".join(f"{x:7.4f}" for x in row) for row in A.tolist())
    return "[" + "; ".join(rows) + "]"


def main():
    """Print the gradients, and return svdinv's errors and gradients."""
    errors, gradients = {}, {}
    for name, matrix in MATRICES.items():
        exact = exact_gradient(matrix)
        S = torch.linalg.svdvals(torch.tensor(matrix))
        print(f"{name}: S = {', '.join(f'{s:.7f}' for s in S.tolist())}")
        small = exact.numel() == 4
        if small:
            print(f"  {'exact':<28}{show(exact)}")
        for label, svd in (
            ("svdinv.torch.svd", svdinv.torch.svd),
            ('  repeated="minimum-norm"', minimum_norm_svd),
            ("torch.linalg.svd", torch_svd),
        ):
            gA = gradient(svd, matrix)
            error = float((gA - exact).abs().max())
            text = show(gA) if small else ""
            print(f"  {label:<28}{text}  largest error {error:.0e}".rstrip())
            if svd is svdinv.torch.svd:
                errors[name], gradients[name] = error, gA
    first, second = (gradients[name] for name in list(MATRICES)[1:])
    apart = float((first - second).abs().max())
    print(f"The two gradients by svdinv.torch.svd differ by {apart:.0e}.")
    return errors, gradients


if __name__ == "__main__":
    main()
