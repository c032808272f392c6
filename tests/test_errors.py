"""What is refused, and that the message names it, on every framework."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import as_tuple, params
from operator_cases import matrices

from svdinv.core.hermitian import Power

A = matrices((2, 4, 3), np.float32)
P = matrices((5, 3), np.float32)
SHAPE = object()  # the framework's own error

# What is called with the framework and A, the error, and what it says.
REFUSED = {
    "integers": (lambda f, A: f.module.svt(f.array(np.eye(3, dtype=np.int32)), 0.5),
                 TypeError, "A must be floating point or complex"),
    "vector": (lambda f, A: f.module.polar(f.array(np.ones(3, np.float32))),
               SHAPE, "at least (two|2) dimensions"),
    "two axes": (lambda f, A: f.module.tsvt(A[0, ...], 1.0), SHAPE,
                 "X must have at least (three|3) dimensions"),
    "complex tau": (lambda f, A: f.module.svt(A, 1j), TypeError, "tau must be"),
    "complex taus": (lambda f, A: f.module.svt(A, f.array(np.ones(2, np.complex64))),
                     TypeError, "tau must be real"),
    "word for tau": (lambda f, A: f.module.svt(A, "large"), TypeError,
                     "tau must be"),
    "negative tau": (lambda f, A: f.module.svt(A, -1.0), ValueError, "tau must be"),
    "nan tau": (lambda f, A: f.module.svt(A, float("nan")), ValueError,
                "tau must be >= 0"),
    "shape of tau": (lambda f, A: f.module.svt(A, f.array(np.ones(3, np.float32))),
                     SHAPE, "tau must broadcast"),
    "weights": (lambda f, A: f.module.svt(A, f.array(np.ones((2, 4), np.float32))),
                SHAPE, "tau must broadcast"),
    "weights of svht": (
        lambda f, A: f.module.svht(A, f.array(np.ones((1, 3), np.float32))),
        SHAPE, "only svt"),
    "method": (lambda f, A: f.module.svt(A, 0.5, method="fast"), ValueError,
               "method must be one of"),
    "matmul": (lambda f, A: f.module.svht(A, 1, method="matmul"), ValueError, "matmul"),
    "rank": (lambda f, A: f.module.low_rank(A, 1.5), TypeError, "rank must be an int"),
    "negative rank": (lambda f, A: f.module.low_rank(A, -1), ValueError,
                      "rank must be at least"),
    "prox p": (lambda f, A: f.module.schatten_prox(A, 1, 0.3), ValueError, "p must be"),
    "norm p": (lambda f, A: f.module.schatten_norm(A, 0), ValueError,
               "p must be positive"),
    "k": (lambda f, A: f.module.ky_fan_norm(A, 4), ValueError, "k must be at most"),
    "gamma": (lambda f, A: f.module.firm_threshold(A, 1, 1), ValueError,
              "gamma must be"),
    "epsilon": (lambda f, A: f.module.log_sum_threshold(A, 1, 0), ValueError,
                "epsilon must"),
    "procrustes": (
        lambda f, A: f.module.procrustes(A, A[:, :2, :]),
        SHAPE,
        "same shape",
    ),
    "stride": (lambda f, A: f.module.local_low_rank(A[None, ...], 1, 2, stride=3),
               ValueError, "stride must divide block"),
    "rank of svd_lowrank": (lambda f, A: f.module.svd_lowrank(A, 9), ValueError,
                            "rank must be at most"),
    "f": (lambda f, A: f.module.spectral_map(A, 1), TypeError, "f must be callable"),
    "function": (lambda f, A: f.module.spectral_operator(A, abs), TypeError,
                 "function must be a SpectralFunction"),
    "hermitian function": (lambda f, A: f.module.hermitian_map(A[:, :3, :], abs),
                           TypeError, "function must be a HermitianFunction"),
    "function of a parameter": (
        lambda f, A: f.module.hermitian_map(A[:, :3, :], Power()),
        TypeError, "function must have no parameter"),
    "p": (lambda f, A: f.module.powm(A[:, :3, :], 1j), TypeError, "p must be"),
    "shape of p": (
        lambda f, A: f.module.powm(A[:, :3, :], f.array(np.ones(3, np.float32))),
        SHAPE, "p must broadcast"),
    "shape of floor": (
        lambda f, A: f.module.psd_project(A[:, :3, :], f.array(np.ones(3, "f4"))),
        SHAPE, "floor must broadcast"),
    "nearest rotation": (lambda f, A: f.module.polar(A, special=True), SHAPE,
                         "A must be square"),
    "method of the nearest rotation": (
        lambda f, A: f.module.polar(A[:, :3, :], special=True, method="gram"),
        ValueError, "method must be"),
    "nearest rotation of complex numbers": (
        lambda f, A: f.module.polar(f.array(np.eye(3) + 0j), special=True),
        TypeError, "A must be real floating point, got .*complex"),
    "rcond": (lambda f, A: f.module.pinv(A, 1.0), ValueError, "rcond must be"),
    "right-hand side": (
        lambda f, A: f.module.lstsq(A, A[:, :2, :]), SHAPE,
        r"b must have shape \(2, 4, k\) or \(2, 4\), .* A of shape \(2, 4, 3\)"),
    "one row of right-hand sides": (
        lambda f, A: f.module.lstsq(A, A[:, :1, :]), SHAPE, "b must have shape"),
    "right-hand sides of another batch": (
        lambda f, A: f.module.lstsq(A, A[0, :, :1]), SHAPE, "b must have shape"),
    "number as right-hand side": (
        lambda f, A: f.module.lstsq(A, A[0, 0, 0]), SHAPE,
        "b must have at least one dimension"),
    "batch of right-hand sides": (
        lambda f, A: f.module.lstsq(A, f.array(np.ones((3, 4), np.float32))), SHAPE,
        "b must have shape"),
    "dtype of the right-hand side": (
        lambda f, A: f.module.lstsq(A, f.array(np.ones((2, 4)) + 0j)), TypeError,
        "same dtype"),
    "df of another shape": (
        lambda f, A: f.module.spectral_map(A, lambda s: s, lambda s: s[0, ...]),
        ValueError, "df must keep the shape"),
    "relative": (lambda f, A: f.module.svt(A, 0.3, relative="no"), TypeError,
                 "relative must be True or False"),
    "special": (lambda f, A: f.module.polar(A[:, :3, :], special="no"), TypeError,
                "special must be True or False"),
    "scale": (lambda f, A: f.module.kabsch(A, A, scale=2.5), TypeError,
              "scale must be True or False"),
    "reflection": (lambda f, A: f.module.kabsch(A, A, reflection=None), TypeError,
                   "reflection must be True or False"),
    "squared": (
        lambda f, A: f.module.bures_distance(A[:, :3, :], A[:, :3, :], squared="yes"),
        TypeError, "squared must be True or False"),
    "no tau": (lambda f, A: f.module.svt(A, None), TypeError, "tau must be"),
    "B of another shape": (
        lambda f, A: f.module.eigh_generalized(A[:, :3, :], A[:, :2, :2]),
        SHAPE, "A and B must have the same shape"),
    "B not square": (lambda f, A: f.module.bures_distance(A[:, :3, :], A), SHAPE,
                     "B must be square"),
    "kind of whitening": (lambda f, A: f.module.whiten(A, kind="chol"), ValueError,
                          "kind must be"),
    "mean": (lambda f, A: f.module.whiten(A, mean=A[0, 0, :2]), SHAPE,
             "mean must have the last axes"),
    "samples": (lambda f, A: f.module.cca(A, A[:, :2, :]), SHAPE,
                "same number of samples"),
    "rank of cca": (lambda f, A: f.module.cca(A, A, 4), ValueError,
                    "rank must be at most"),
    "statistics of another batch": (
        lambda f, A: f.module.whiten(A, covariance=f.array(np.ones((5, 3, 3), "f4"))),
        SHAPE, "covariance must have .* a batch that broadcasts with that of X"),
    "complex mean of real samples": (
        lambda f, A: f.module.whiten(A, mean=f.array(np.ones(3, np.complex64))),
        TypeError, "mean must be real"),
    "no sample to whiten": (lambda f, A: f.module.whiten(A[:, :0, :]), SHAPE,
                            "X must have at least one sample"),
    "one axis to whiten": (lambda f, A: f.module.whiten(A[0, 0, :]), SHAPE,
                           "X must have at least (two|2) dimensions"),
    "no sample of cca": (lambda f, A: f.module.cca(A[:, :0, :], A[:, :0, :]), SHAPE,
                         "X must have at least one sample"),
    "batches of cca": (
        lambda f, A: f.module.cca(A, f.array(np.ones((3, 4, 3), "f4"))), SHAPE,
        "X and Y must have .* batches that broadcast"),
    "weights of points": (
        lambda f, A: f.module.kabsch(A, A, f.array(np.ones(5, "f4"))), SHAPE,
        "weights must have shape .*, 4., one for each point"),
    "integer points": (
        lambda f, A: f.module.kabsch(*[f.array(np.eye(3, dtype=np.int32))] * 2),
        TypeError, "P must be real floating point, got .*int32"),
    "infinite p": (lambda f, A: f.module.powm(A[:, :3, :], float("inf")), ValueError,
                   "p must be finite"),
    "floor": (lambda f, A: f.module.psd_project(A[:, :3, :], float("nan")), ValueError,
              "floor must be finite"),
    **{
        f"penalty {x}": (lambda f, A, x=x: f.module.robust_pca(A, penalty=x),
                         ValueError, "penalty must be positive and finite")
        for x in (0, -1.0, float("nan"), float("inf"))
    },
    "limit": (lambda f, A: f.module.robust_pca(A, limit=0.5), ValueError,
              "limit must be finite and at least 1, got 0.5"),
    "infinite growth": (lambda f, A: f.module.robust_pca(A, growth=float("inf")),
                        ValueError, "growth must be finite"),
    "report": (lambda f, A: f.module.robust_pca(A, report=1), TypeError,
               "report must be callable"),
    "growth": (lambda f, A: f.module.robust_pca(A, growth=0.5), ValueError,
               "growth must be"),
    "iterations": (lambda f, A: f.module.robust_pca(A, iterations=0), ValueError,
                   "iterations must be"),
    "not square": (lambda f, A: f.module.expm(A), SHAPE, "A must be square"),
    "eigh of not square": (lambda f, A: f.module.eigh(A), SHAPE, "A must be square"),
    "UPLO": (lambda f, A: f.module.eigh(A[:, :3, :], UPLO="X"), ValueError,
             "UPLO must be"),
    "svd of integers": (lambda f, A: f.svd(f.array(np.eye(3, dtype=np.int32))),
                        TypeError, "must be floating point or complex"),
    "svd of booleans": (lambda f, A: f.svd(f.array(np.eye(3) > 0)),
                        TypeError, "must be floating point or complex"),
    "svd of a number": (lambda f, A: f.svd(f.array(np.ones((), np.float32))),
                        SHAPE, "at least (two|2) dimensions"),
    "svd of a vector": (lambda f, A: f.svd(f.array(np.ones(3, np.float32))),
                        SHAPE, "at least (two|2) dimensions"),
    "repeated": (lambda f, A: f.svd(A, repeated="average"), ValueError,
                 'repeated must be one of "consistent"'),
    **{
        f"rtol {rtol}": (lambda f, A, rtol=rtol: f.svd(A, rtol=rtol), ValueError,
                         "rtol must be None or a number")
        for rtol in (-1.0, 1.0, "small", float("nan"))
    },
    "rtol of eigh": (lambda f, A: f.module.eigh(A[:, :3, :], rtol=2.0), ValueError,
                     "rtol must be None or a number"),
    "gauge": (lambda f, A: f.svd(A, gauge="loud"), ValueError, "gauge must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(framework, case):
    call, error, message = REFUSED[case]
    error = framework.shape_error if error is SHAPE else error
    with framework.context(), pytest.raises(error, match=message):
        call(framework, framework.array(A))


@pytest.mark.parametrize(
    "framework", params(without=("array_api_strict",)), indirect=True
)
@pytest.mark.parametrize(
    "name",
    ["kabsch", "lstsq", "procrustes", "bures_distance", "cca", "eigh_generalized"],
)
def test_half_precision_beside_single(framework, name):
    """The result is in single; other dtypes are refused beside each other."""
    function, square = getattr(framework.module, name), np.array(A[:, :3, :])
    single = framework.array(square.astype(np.float32))
    half = framework.array(square.astype(np.float16))
    rounded = framework.array(square.astype(np.float16).astype(np.float32))
    with framework.context():
        for pair, same in (((single, half), (single, rounded)),
                           ((half, single), (rounded, single))):  # fmt: skip
            found, exact = (as_tuple(function(*given)) for given in (pair, same))
            for x, y in zip(found, exact, strict=True):
                if x is not None:
                    x, y = map(framework.numpy, (x, y))
                    assert x.dtype == np.float32
                    np.testing.assert_array_equal(x, y)
        if np.float64 in framework.dtypes:
            with pytest.raises(TypeError, match="the same dtype"):
                function(half, framework.array(square.astype(np.float64)))


@pytest.mark.parametrize("framework", params(without=("tensorflow",)), indirect=True)
def test_complex_functions_of_singular_values(framework):
    with framework.context(), pytest.raises(TypeError, match="f must return real"):
        framework.module.spectral_map(framework.array(A), lambda s: s * 1j)


@pytest.mark.parametrize("framework", params(without=("tensorflow",)), indirect=True)
def test_complex_points(framework):
    points = framework.array(P.astype(np.complex64))
    with pytest.raises(
        TypeError, match=r"P must be real floating point, got .*complex"
    ):
        framework.module.kabsch(points, points)


def test_arrays_of_others_in_pytorch():
    torch = pytest.importorskip("svdinv.torch")
    for call in (lambda: torch.svt(A, 1), lambda: torch.svd(A), lambda: torch.expm(A)):
        with pytest.raises(TypeError, match=r"A must be a torch\.Tensor, got ndarray"):
            call()


def test_what_jax_refuses_while_it_traces():
    jax = pytest.importorskip("jax")
    import svdinv.jax

    with pytest.raises(ValueError, match="method"):
        jax.jit(lambda A: svdinv.jax.svt(A, 0.5, method="fast"))(A)


def test_tensors_of_unknown_rank():
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf

    unknown = tf.function(
        lambda A: svdinv.tf.svt(A, 0.5), input_signature=[tf.TensorSpec(None)]
    )
    with pytest.raises(ValueError, match="number of dimensions"):
        unknown.get_concrete_function()


@pytest.mark.parametrize("tau", [1, 1.0, np.float32(1), np.ones(2), np.ones((), int),
                                 "array"])  # fmt: skip
def test_tau_of_any_kind(framework, tau):
    given = framework.array(A)
    if isinstance(tau, str):
        tau = framework.array(np.ones(1, np.float32))
    elif framework.name == "array_api_strict" and isinstance(tau, np.ndarray):
        tau = framework.array(tau)
    expected = framework.module.svt(given, framework.array(np.ones(2, np.float32)))
    np.testing.assert_array_equal(
        framework.numpy(framework.module.svt(given, tau)), framework.numpy(expected)
    )


def test_a_function_with_a_parameter_needs_it(framework):
    from svdinv.core.thresholds import Firm

    with pytest.raises(ValueError, match="has a parameter tau"):
        framework.module.spectral_operator(framework.array(A), Firm(2.5))


def test_a_function_may_take_one_tau_for_each_singular_value(framework):
    from svdinv.core.thresholds import Soft

    f, tau = framework.module, np.float32([[0.1, 0.2, 0.4]])
    (found,) = framework.value(
        lambda A, tau: f.spectral_operator(A, Soft(weighted=True), tau), A, tau
    )
    (expected,) = framework.value(f.svt, A, tau)
    np.testing.assert_array_equal(found, expected)
