"""Every operator with inputs to differentiate it in, and PyTorch's derivatives."""

from __future__ import annotations

import numpy as np

DTYPES = [np.float64, np.complex128]


def matrices(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal(shape)
    return A.astype(dtype)


def _tau(*shape, seed=1):
    return 0.3 + 0.8 * np.random.default_rng(seed).random(shape)


# name: function of a face and its arrays, shapes of matrices, further real arrays
_CASES = {
    "svt": (lambda f, A, t: f.svt(A, t), [(2, 4, 3)], [_tau(2)]),
    "svt, wide": (lambda f, A, t: f.svt(A, t), [(3, 5)], [_tau()]),
    "svt, weighted": (lambda f, A, t: f.svt(A, t), [(2, 3, 4)], [_tau(2, 3)]),
    "svt, relative": (
        lambda f, A, t: f.svt(A, t, relative=True),
        [(2, 4, 3)],
        [0.5 * _tau(2)],
    ),
    "svt, gram": (lambda f, A, t: f.svt(A, t, method="gram"), [(2, 3, 5)], [_tau(2)]),
    "svht": (lambda f, A, t: f.svht(A, t), [(2, 4, 3)], [_tau(2)]),
    "firm_threshold": (
        lambda f, A, t: f.firm_threshold(A, t, 2.5),
        [(2, 4, 3)],
        [_tau(2)],
    ),
    "log_sum_threshold": (
        lambda f, A, t: f.log_sum_threshold(A, t, 0.5),
        [(2, 4, 3)],
        [_tau(2)],
    ),
    **{
        f"schatten_prox, {p:.1f}": (
            lambda f, A, t, p=p: f.schatten_prox(A, t, p),
            [(2, 4, 3)],
            [_tau(2)],
        )
        for p in (1 / 2, 2 / 3, 1, 2)
    },
    "low_rank": (lambda f, A: f.low_rank(A, 2), [(2, 4, 3)], []),
    "polar": (lambda f, A: f.polar(A), [(2, 3, 4)], []),
    "nuclear_norm": (lambda f, A: f.nuclear_norm(A), [(2, 4, 3)], []),
    "spectral_norm": (lambda f, A: f.spectral_norm(A), [(2, 4, 3)], []),
    "ky_fan_norm": (lambda f, A: f.ky_fan_norm(A, 2), [(2, 4, 3)], []),
    "schatten_norm, 1.5": (lambda f, A: f.schatten_norm(A, 1.5), [(2, 4, 3)], []),
    "schatten_norm, 0.5": (lambda f, A: f.schatten_norm(A, 0.5), [(3, 4)], []),
    "procrustes": (lambda f, A, B: f.procrustes(A, B), [(5, 3), (5, 3)], []),
    "tsvt": (lambda f, A, t: f.tsvt(A, t, axis=-2), [(2, 3, 5, 4)], [_tau(2)]),
    "tsvt, even": (lambda f, A, t: f.tsvt(A, t), [(3, 2, 4)], [_tau()]),
    "local_low_rank": (
        lambda f, A, t: f.local_low_rank(A, t, (2, 3), stride=(1, 3), shift=1),
        [(2, 3, 4, 5)],
        [_tau(2)],
    ),
    "spectral_map": (
        lambda f, A, t: f.spectral_map(A, lambda s: s**3 / (s**2 + t)),
        [(2, 4, 3)],
        [_tau()],
    ),
    "spectral_map, df": (
        lambda f, A: f.spectral_map(A, lambda s: s**2, lambda s: 2 * s),
        [(3, 4)],
        [],
    ),
    "svt_divergence": (lambda f, A, t: f.svt_divergence(A, t), [(2, 4, 3)], [_tau(2)]),
    "sure": (
        lambda f, A, t, s: f.sure(A, t, s),
        [(2, 4, 3)],
        [_tau(2), np.array([0.5, 0.7])],
    ),
}
_REAL = {
    "kabsch": (lambda f, P, Q: f.kabsch(P, Q), [(2, 6, 3), (2, 6, 3)], []),
    "kabsch, weights": (
        lambda f, P, Q, w: f.kabsch(P, Q, w),
        [(5, 3), (5, 3)],
        [_tau(5)],
    ),
}
CASES = {
    f"{name}, {np.dtype(dtype).name}": (dtype, *case)
    for dtype in DTYPES
    for name, case in {**_CASES, **(_REAL if dtype == np.float64 else {})}.items()
}


def case(name):
    """Return the function, its inputs and a direction to move these in."""
    dtype, function, shapes, parameters = CASES[name]
    inputs = [matrices(s, dtype, seed) for seed, s in enumerate(shapes)] + parameters
    directions = [matrices(x.shape, x.dtype, 10 + i) for i, x in enumerate(inputs)]
    return function, inputs, directions


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def weights(results):
    """A cotangent for each result."""
    return [matrices(tuple(x.shape), np.complex128, 20 + i) for i, x in
            enumerate(results)]  # fmt: skip


def torch_derivatives(name):
    """PyTorch's values, gradients and Hessian-vector products of Re <W, results>."""
    import torch

    import svdinv.torch

    function, inputs, directions = case(name)
    given = [torch.tensor(x, requires_grad=True) for x in inputs]
    results = as_tuple(function(svdinv.torch, *given))
    loss = sum(
        (torch.tensor(W).conj() * x).real.sum()
        for W, x in zip(weights(results), results, strict=True)
    )
    gradients = torch.autograd.grad(loss, given, create_graph=True)
    along = sum(
        (torch.tensor(d).conj() * g).real.sum()
        for d, g in zip(directions, gradients, strict=True)
    )
    products = torch.autograd.grad(along, given, allow_unused=True)
    return (
        [x.detach().resolve_conj().numpy() for x in results],
        [g.detach().resolve_conj().numpy() for g in gradients],
        [
            np.zeros_like(x) if h is None else h.resolve_conj().numpy()
            for x, h in zip(inputs, products, strict=True)
        ],
    )
