"""PyTorch's own samples of its decompositions and norms, through svdinv's.

They come with PyTorch, and are checked as its own tests check its operators: values
against its own, gradients of both orders, forward mode, and batches of both.
"""

from __future__ import annotations

import random
import sys
import types
import unittest
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck

import svdinv.torch as st
from examples import with_kernels  # noqa: F401 - a fixture

pytestmark = [
    # Raised by PyTorch's own forward mode, on its first use.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def svd_lowrank(A, B, *, q, M=None):
    U, S, Vh = st.svd_lowrank(A @ B.mT, q, seed=0)
    return U, S, Vh.mH


def pca_lowrank(A, B, *, q, center):
    A = A @ B.mT
    A = A - A.mean(-2, keepdim=True) if center else A
    U, S, Vh = st.svd_lowrank(A, q, seed=0)
    return U, S, Vh.mH


def eigh(A, *, UPLO):
    return st.eigh(A.mH if UPLO == "U" else A)


def matrix_norm(A, ord, dim, keepdim):
    norm = st.nuclear_norm if ord == "nuc" else st.spectral_norm
    value = norm(A.movedim(dim, (-2, -1)))
    if not keepdim:
        return value
    for axis in sorted(axis % A.ndim for axis in dim):
        value = value.unsqueeze(axis)
    return value


# Operators of PyTorch with ours, which of their samples these are for, and of how many
# of those one is differentiated: of all kinds of samples, for their number is a prime.
COUNTERPARTS = {
    "linalg.svd": (st.svd, None, 17),
    "linalg.svdvals": (st.svdvals, None, 5),
    "linalg.eigh": (eigh, None, 1),
    "linalg.eigvalsh": (lambda A, *, UPLO: eigh(A, UPLO=UPLO)[0], None, 3),
    # Less a matrix M, theirs are no longer of the rank asked for, and inexact.
    "svd_lowrank": (svd_lowrank, lambda sample: sample.kwargs["M"] is None, 7),
    "pca_lowrank": (pca_lowrank, None, 11),
    "linalg.matrix_norm": (
        matrix_norm,
        lambda sample: sample.args[0] in ("nuc", 2),
        3,
    ),
}
# What calls a kernel, or PyTorch's own where there is none; the others call these.
DECOMPOSITIONS = ("linalg.svd", "linalg.eigh")


@pytest.fixture(scope="session")
def database():
    """PyTorch's operators by name."""
    # A package of PyTorch's own tests, which need no more of it than a base class.
    if missing := "expecttest" not in sys.modules:
        sys.modules["expecttest"] = types.ModuleType("expecttest")
        sys.modules["expecttest"].TestCase = unittest.TestCase
    try:
        with warnings.catch_warnings():  # of what else is not installed
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        pytest.skip(f"PyTorch's own tests need {error.name}")
    finally:
        if missing:
            del sys.modules["expecttest"]
        # The import forbids others to set them.
        setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
    return {op.name: op for op in op_db if not op.variant_test_name}


def samples(op, dtype, wanted):
    random.seed(0)
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        if wanted is None or wanted(sample):
            yield sample


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_samples(database, with_kernels, name, dtype):  # noqa: F811
    ours, wanted, stride = COUNTERPARTS[name]
    if not with_kernels and name not in DECOMPOSITIONS:
        pytest.skip("is of a decomposition that is tried without them")
    op = database[name]
    for number, sample in enumerate(samples(op, dtype, wanted)):
        given = [sample.input, *sample.args, *sample.kwargs.values()]
        given = [t for t in given if torch.is_tensor(t)]

        def call(*tensors, function=ours, sample=sample):
            rest = iter(tensors)
            args = [
                next(rest) if torch.is_tensor(t) else t
                for t in (sample.input, *sample.args)
            ]
            kwargs = {
                key: next(rest) if torch.is_tensor(t) else t
                for key, t in sample.kwargs.items()
            }
            wrapper = op.gradcheck_wrapper
            return sample.output_process_fn_grad(wrapper(function, *args, **kwargs))

        torch.testing.assert_close(
            call(*given), call(*given, function=op.op), rtol=1e-9, atol=1e-9
        )
        if number % stride == 0:
            assert gradcheck(
                call,
                given,
                fast_mode=True,
                check_forward_ad=True,
                check_batched_grad=op.check_batched_grad,
                check_batched_forward_grad=op.check_batched_forward_grad,
            )
            assert gradgradcheck(
                call,
                given,
                fast_mode=True,
                check_fwd_over_rev=True,
                check_batched_grad=op.check_batched_gradgrad,
                gen_non_contig_grad_outputs=True,
            )
