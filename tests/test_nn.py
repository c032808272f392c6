"""The modules for PyTorch."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import svdinv.numpy
import svdinv.torch
from svdinv.torch import nn

# Modules, and the shapes of what they take.
CASES = {
    "SingularValueThreshold": (
        lambda: nn.SingularValueThreshold([0.1, 0.3], channels=2),
        (3, 2, 6, 5),
    ),
    "weighted": (
        lambda: nn.SingularValueThreshold(num_values=4, channels=2, relative=False),
        (3, 2, 4, 5),
    ),
    "FirmThreshold": (lambda: nn.FirmThreshold(0.3, gamma=2), (6, 5)),
    "SchattenProx": (lambda: nn.SchattenProx(2 / 3, channels=3), (3, 6, 5)),
    "TensorSingularValueThreshold": (
        lambda: nn.TensorSingularValueThreshold(axis=-3, channels=2),
        (3, 2, 3, 4, 5),
    ),
    "LocalLowRank": (
        lambda: nn.LocalLowRank((4, 2), stride=2, channels=2),
        (1, 2, 3, 7, 6),
    ),
    "LowRank": (lambda: nn.LowRank(2), (3, 6, 5)),
    "Whitening": (lambda: nn.Whitening(3, epsilon=0.1), (20, 3, 2)),
    "Casorati": (lambda: nn.Casorati(nn.SingularValueThreshold()), (2, 3, 4, 5)),
    "NuclearNorm": (lambda: nn.NuclearNorm(), (3, 6, 5)),
    "SchattenNorm": (lambda: nn.SchattenNorm(1.5, reduction="sum"), (3, 6, 5)),
}
cases = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


def draw(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def run(module, x):
    torch.manual_seed(0)  # of the shift
    return module(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@cases
def test_module_keeps_shape_and_dtype_and_has_gradients(make, shape, dtype):
    module, x = make(), draw(shape, dtype).requires_grad_()
    y = run(module, x)
    if not isinstance(module, nn.SchattenNorm):
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
    y.abs().square().sum().backward()
    for p in (x, *module.parameters()):
        assert p.grad.isfinite().all()
        assert p.grad.any()


@cases
def test_module_is_copied_pickled_saved_and_printed(make, shape):
    module, x = make().eval(), draw(shape)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.5
    expected = module(x)
    loaded = make().eval()
    loaded.load_state_dict(module.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        assert repr(other) == repr(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@cases
def test_module_is_compiled_as_one_graph(make, shape):
    # Dynamo traces either; what AOTAutograd makes of it is seen with gradients. Without
    # them no layer but these calls what the others do not.
    ways = [(True, "aot_eager"), (False, "eager")]
    alone = isinstance(make(), nn.LocalLowRank | nn.Whitening | nn.SchattenNorm)
    for grad, backend in ways if alone else ways[:1]:
        torch._dynamo.reset()
        module, x = make(), draw(shape, torch.complex64)
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(run(compiled, x), run(module, x))


@cases
def test_autocast(make, shape):
    module, x = make(), draw(shape)
    half = x.bfloat16()
    expected = run(module, x), run(module, half)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(module, x), expected[0])
        torch.testing.assert_close(run(module, half), expected[1])


def test_modules_call_the_operators():
    A, x = draw((3, 2, 6, 5)), draw((2, 3, 7, 6))
    tau = torch.tensor([0.1, 0.3])
    for module, given, expected in (
        (
            nn.SingularValueThreshold(tau, channels=2),
            A,
            svdinv.torch.svt(A, tau, relative=True),
        ),
        (
            nn.SingularValueThreshold(tau[:, None], channels=2, num_values=5),
            A,
            svdinv.torch.svt(A, tau[:, None].expand(1, 2, 5), relative=True),
        ),
        (
            nn.SingularValueThreshold(2.0, relative=False),
            A,
            svdinv.torch.svt(A, 2),
        ),
        (
            nn.FirmThreshold(2.0, gamma=2, relative=False),
            A,
            svdinv.torch.firm_threshold(A, 2, 2),
        ),
        (nn.SchattenProx(0.5, 2.0), A, svdinv.torch.schatten_prox(A, 2, 0.5)),
        (
            nn.TensorSingularValueThreshold(0.3, axis=-2),
            A,
            svdinv.torch.tsvt(A, 0.3, -2, relative=True),
        ),
        (
            nn.LocalLowRank(4, 0.3, stride=2, shift=(1, 3)),
            x,
            svdinv.torch.local_low_rank(
                x, 0.3, 4, stride=2, shift=(1, 3), relative=True
            ),
        ),
        (nn.LowRank(2), A, svdinv.torch.low_rank(A, 2)),
        (
            nn.LowRank(2, multiplets=True, max_rank=4),
            torch.diag(torch.tensor([3.0, 2, 2, 1])),
            torch.diag(torch.tensor([3.0, 2, 2, 0])),
        ),
        (nn.NuclearNorm(reduction="none"), A, svdinv.torch.nuclear_norm(A)),
        (nn.NuclearNorm(), A, svdinv.torch.nuclear_norm(A).mean()),
        (
            nn.SchattenNorm(3, reduction="sum"),
            A,
            svdinv.torch.schatten_norm(A, 3).sum(),
        ),
    ):
        torch.testing.assert_close(module(given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("threshold", [1e-8, 0.3, 0.999])
def test_threshold_starts_where_it_is_told(threshold, relative):
    module = nn.SingularValueThreshold(threshold, relative=relative)
    assert module.threshold.item() == pytest.approx(threshold, rel=1e-5)
    with torch.no_grad():
        module.raw_threshold -= 1
    assert 0 < module.threshold.item() < threshold
    module.reset_parameters()
    assert module.threshold.item() == pytest.approx(threshold, rel=1e-5)


def test_threshold_is_learned():
    A = draw((4, 8, 6))
    target = svdinv.torch.svt(A, 0.4, relative=True)
    module = nn.SingularValueThreshold(0.1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (module(A) - target).square().sum().backward()
        optimizer.step()
    assert module.threshold.item() == pytest.approx(0.4, abs=1e-2)
    fixed = nn.SingularValueThreshold(0.1, trainable=False)
    assert not any(p.requires_grad for p in fixed.parameters())
    assert "raw_threshold" in fixed.state_dict()


def test_a_complex_network_keeps_its_thresholds():
    with pytest.warns(UserWarning, match="Complex modules"):
        module = nn.SingularValueThreshold(0.3).to(torch.complex64)
    assert module.threshold.dtype == torch.float32
    assert module(draw((4, 3), torch.complex64)).isfinite().all()


def test_a_network_without_memory_gets_it_later():
    with torch.device("meta"):
        module = nn.SingularValueThreshold(0.3, channels=2)
    assert "threshold=?" in repr(module)
    with pytest.raises(TypeError, match="on the device meta, which has no values"):
        nn.SingularValueThreshold(torch.ones(2, device="meta"), channels=2)
    module.to_empty(device="cpu").reset_parameters()
    assert repr(module).startswith("SingularValueThreshold(threshold=[0.3, 0.3], ")
    with torch.device("meta"):
        module = nn.Whitening(3)
    module.to_empty(device="cpu").reset_parameters()
    torch.testing.assert_close(
        module.state_dict(), nn.Whitening(3).state_dict(), rtol=0, atol=0
    )


def test_random_shifts_are_those_of_the_operator():
    x = draw((2, 3, 7, 6))
    module = nn.LocalLowRank(4, 0.5, stride=(2, 1))
    torch.manual_seed(0)
    found = [module(x) for _ in range(6)]
    torch.testing.assert_close(run(module, x), found[0], rtol=0, atol=0)
    fixed = [
        svdinv.torch.local_low_rank(
            x, 0.5, 4, stride=(2, 1), shift=(row, 0), relative=True
        )
        for row in (0, 1)
    ]
    which = [min(range(2), key=lambda i: (y - fixed[i]).norm()) for y in found]
    assert set(which) == {0, 1}
    for y, i in zip(found, which, strict=True):
        torch.testing.assert_close(y, fixed[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.eval()(x), fixed[0], rtol=1e-4, atol=1e-5)


def test_casorati_matrices_are_pixels_by_frames():
    x = draw((2, 4, 3, 5), torch.complex64)
    matrices = x.reshape(2, 4, 15).transpose(1, 2)
    expected = svdinv.torch.low_rank(matrices, 1).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(nn.Casorati(nn.LowRank(1))(x), expected)
    norms = nn.Casorati(nn.NuclearNorm(reduction="none"))(x)
    torch.testing.assert_close(norms, svdinv.torch.nuclear_norm(matrices))
    volume = draw((1, 4, 2, 3, 5))
    assert nn.Casorati(nn.LowRank(1), spatial=3)(volume).shape == volume.shape


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.SingularValueThreshold(1.0), "between 0 and 1"),
        (lambda: nn.SingularValueThreshold(float("nan")), "between 0 and 1"),
        (lambda: nn.SchattenProx(1, 0.0), "positive"),
        (lambda: nn.FirmThreshold([0.1, 0.2]), "broadcast"),
        (lambda: nn.LocalLowRank(4, shift="no"), "shift"),
        (lambda: nn.NuclearNorm(reduction="max"), "reduction"),
        (lambda: nn.LowRank(2, multiplets=1.5), "multiplets"),
        (lambda: nn.Whitening(2, kind="lu"), "kind"),
        (lambda: nn.Whitening(2, epsilon=-1.0), "epsilon"),
        (lambda: nn.Whitening(2, epsilon=math.inf), "epsilon must be >= 0 and finite"),
        (lambda: nn.FirmThreshold(channels=0), "channels must be at least 1"),
        (lambda: nn.Casorati(nn.LowRank(1), spatial=0), "spatial must be at least 1"),
        (lambda: nn.Whitening(0), "num_features must be at least 1"),
        (lambda: nn.Whitening(2, momentum=1.5), r"momentum must lie in \[0, 1\]"),
        (lambda: nn.Whitening(2, momentum=-0.1), "momentum"),
        (lambda: nn.Whitening(2, momentum=float("nan")), "momentum"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5)])
def test_wrong_channels_are_refused(shape):
    with pytest.raises(RuntimeError, match="expected 3 channels along axis -3"):
        nn.SingularValueThreshold(channels=3)(draw(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitening_with_running_statistics(kind, dtype):
    module = nn.Whitening(3, epsilon=0, momentum=0.5, kind=kind).to(torch.float64)
    x = draw((50, 3, 4), dtype) * torch.tensor([3.0, 2, 1])[:, None] + 2
    rows = x.movedim(1, -1).reshape(-1, 3)
    y = module(x).movedim(1, -1).reshape(-1, 3)
    eye = torch.eye(3, dtype=dtype)
    torch.testing.assert_close(y.mH @ y / 200, eye)
    torch.testing.assert_close(y.mean(0), 0 * y[0], atol=1e-12, rtol=0)
    centred = rows - rows.mean(0)
    torch.testing.assert_close(module.running_mean, rows.mean(0) / 2)
    expected = (centred.mH @ centred / 200 + eye) / 2
    torch.testing.assert_close(module.running_covariance, expected)
    module.eval()
    for _ in range(2):  # nothing moves
        one = module(x[:1])
    white = svdinv.torch.whiten(
        x[0].mT, kind=kind, mean=rows.mean(0) / 2, covariance=expected
    ).white
    torch.testing.assert_close(one[0].mT, white)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_principal_components_have_signs_in_any_precision(dtype):
    x, G = draw((7, 30, 4), dtype), draw((7, 30, 4), dtype, 1)
    x = x * torch.tensor([3.0, 2, 1, 0.5])
    x.requires_grad_()
    white = svdinv.torch.whiten(x, 0.01, kind="pca").white
    half = torch.complex64 if dtype.is_complex else torch.float32
    found = svdinv.torch.whiten(x.to(half), 0.01, kind="pca").white
    torch.testing.assert_close(found, white.to(half), rtol=1e-3, atol=1e-3)
    expected = svdinv.numpy.whiten(x.detach().numpy(), 0.01, kind="pca").white
    np.testing.assert_allclose(white.detach(), expected, atol=1e-10)

    def loss(x):
        y = svdinv.torch.whiten(x, 0.01, kind="pca").white
        return (y.conj() * G[0]).real.sum()

    assert torch.autograd.gradcheck(loss, x[0].detach().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_whitening_of_half_precision_keeps_statistics_of_single(dtype):
    """Of features that are nearly equal, and of variances beyond half precision."""
    common = draw((256, 1), torch.float32)
    for x in (common + 0.02 * draw((256, 4), torch.float32, 1), 300 * common + 1):
        half, single = (nn.Whitening(x.shape[1], momentum=1.0) for _ in range(2))
        x = x.to(dtype)
        assert half(x).dtype == dtype
        single(x.float())
        torch.testing.assert_close(half.running_covariance, single.running_covariance)
        torch.testing.assert_close(half.eval()(x), single.eval()(x.float()).to(dtype))


def test_whitening_of_batches_too_small_for_their_features():
    x = draw((3, 5), torch.float64).requires_grad_()
    y = nn.Whitening(5, epsilon=0.0).double()(x)
    (y * draw((3, 5), torch.float64, 1)).sum().backward()
    assert x.grad.isfinite().all()
    with pytest.raises(RuntimeError, match="expected 4 features along axis 1"):
        nn.Whitening(4)(x)
    with pytest.raises(ValueError, match="more than one sample in training"):
        nn.Whitening(5)(x[:1])
    nn.Whitening(5).eval()(x[:1])
    with pytest.raises(RuntimeError, match="features along axis 1 of two or more"):
        nn.Whitening(4)(x[0])
    with pytest.raises(RuntimeError, match="at least one sample"):
        nn.Whitening(5)(x[:0])


def test_series_need_an_axis_of_time():
    with pytest.raises(RuntimeError, match="expected time and 3 axes of a frame"):
        nn.Casorati(nn.LowRank(1), spatial=3)(draw((4, 5, 6)))
    with pytest.raises(TypeError, match="axis must be an integer"):
        nn.Whitening(5, axis=1.5)


def test_printed():
    assert repr(nn.LocalLowRank(8, 0.25, stride=4, trainable=False)) == (
        "LocalLowRank(threshold=0.25, block=8, stride=4, shift='random', "
        "relative=True, trainable=False)"
    )
    assert "[0.1 to 0.1]" in repr(nn.SchattenProx(1, channels=9, method="svd"))
