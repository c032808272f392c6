"""Products of matrices as an operation, where a framework's own are slow."""

from __future__ import annotations

from dataclasses import dataclass

from svdinv.core.namespace import Array, Namespace, adjoint
from svdinv.core.operation import Call, Operation, add


@dataclass(frozen=True)
class Product(Operation):
    """(A, B) -> A B, of matrices in the same batch shape."""

    def value(self, x, xp):
        return (x[0] @ x[1],)

    def tangent(self, x, y, dx, call, xp):
        (A, B), (dA, dB) = x, dx
        left = None if dA is None else call(self, dA, B)[0]
        return (add(left, None if dB is None else call(self, A, dB)[0]),)

    def cotangent(self, x, y, g, wanted, call, xp):
        A, B = x
        gA = call(self, g[0], adjoint(B, xp))[0] if wanted[0] else None
        return gA, call(self, adjoint(A, xp), g[0])[0] if wanted[1] else None


def product(A: Array, B: Array, call: Call, xp: Namespace) -> Array:
    """Multiply A by B, by kernels where these are faster than the framework.

    Their batches may broadcast. The product is also an operation where the framework
    would compute the products in its derivative in lower precision.
    """
    if multiplies_quickly(A, B, xp):
        return call(Product(), A, B)[0]
    guard = getattr(xp, "guarded", None)
    pair = None if guard is None else guard(A, B)
    return xp.matmul(A, B) if pair is None else call(Product(), *pair)[0]


def multiplies_quickly(A: Array, B: Array, xp: Namespace) -> bool:
    """Whether kernels multiply A by B, and nothing transforms or traces them."""
    ask = getattr(xp, "multiplies_quickly", None)
    return ask is not None and ask(A, B)
