r"""
Whitening a batch whose covariance has equal eigenvalues
========================================================

Decorrelated batch normalisation multiplies features by :math:`C^{-1/2}`, with :math:`C`
their covariance. Composed of ``torch.linalg.eigh`` its gradient divides by the
differences of eigenvalues, which are 0 where features are alike: after a good
initialisation, or after whitening itself. The matrix function has a derivative there,
and ``inv_sqrtm`` gives it.
"""

import matplotlib.pyplot as plt
import torch

import svdinv.torch

torch.manual_seed(0)
N, D = 256, 8
basis = torch.linalg.qr(torch.randn(N, D)).Q * N**0.5  # its covariance is the identity
target = torch.randn(N, D)


def by_eigh(C):
    """Compose it of PyTorch's eigendecomposition."""
    w, V = torch.linalg.eigh(C)
    return (V * w.rsqrt()) @ V.mT


def gradient(function, X):
    """Differentiate the agreement of whitened features with a target."""
    X = X.clone().requires_grad_()
    centred = X - X.mean(0)
    whitened = centred @ function(centred.mT @ centred / N)
    (whitened * target.to(X.dtype)).sum().backward()
    return X.grad


print("torch.linalg.eigh", gradient(by_eigh, basis).norm().item())
print("inv_sqrtm", gradient(svdinv.torch.inv_sqrtm, basis).norm().item())

# %%
# Near that point, against the same in double precision.

spreads = [10.0**-k for k in range(1, 9)]
functions = {
    "torch.linalg.eigh": by_eigh,
    "svdinv.torch.inv_sqrtm": svdinv.torch.inv_sqrtm,
}
for name, function in functions.items():
    errors = []
    for spread in spreads:
        X = basis * (1 + spread * torch.arange(D))
        exact = gradient(svdinv.torch.inv_sqrtm, X.double())
        errors.append(((gradient(function, X) - exact).norm() / exact.norm()).item())
    plt.loglog(spreads, errors, ".-", label=name)
    assert name.startswith("torch") or max(errors) < 1e-4
plt.xlabel("relative distance of the features' scales")
plt.ylabel("relative error of the gradient")
plt.legend()
plt.show()
