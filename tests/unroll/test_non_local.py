"""Groups of patches that look alike, their prior, and reconstruction by it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import skimage.restoration
import torch
from array_frameworks import draw

from svdinv.numpy import log_sum_threshold
from svdinv.unroll.algorithms import non_local as algorithm
from svdinv.unroll.algorithms.cross_validation import held_out
from svdinv.unroll.algorithms.non_local import (
    best_non_local,
    denoise_non_local,
    noise_deviation,
    non_local_low_rank,
)
from svdinv.unroll.data import photograph
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.evaluation import classical
from svdinv.unroll.fidelity import L2, PoissonKL
from svdinv.unroll.metrics import psnr, snr
from svdinv.unroll.networks import NonLocal
from svdinv.unroll.operators import MRI, Sampling
from svdinv.unroll.priors import NonLocalLowRank
from svdinv.unroll.priors import patch_matching as groups
from svdinv.unroll.priors.patch_matching import Groups
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import heart_series
from svdinv.unroll.tasks.cine.task import Cine, CineOptions
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions, biharmonic
from svdinv.unroll.tasks.non_local import NAME, _noise, non_local
from svdinv.unroll.tasks.task import InputImage
from svdinv.unroll.torch import Network

SMALL = {"patch": 3, "stride": 2, "count": 5, "reach": 3}


@pytest.mark.parametrize("shape", [(2, 9, 11), (1, 3, 3), (1, 3, 20), (3, 4, 8)])
def test_groups_are_cut_and_joined(shape, rng):
    """Each pixel lies in a group; what is joined is the mean of what was cut."""
    made = Groups(draw("complex128", rng, *shape), **SMALL)
    x = draw("complex128", rng, 2, *shape)
    cut = made.cut(x)
    assert cut.shape == (2, *made._index.shape, shape[0] * 9)
    np.testing.assert_allclose(made.join(cut), x, atol=1e-14)
    other = draw("complex128", rng, *cut.shape)
    adjoint = made.join(other) * made._overlaps
    np.testing.assert_allclose(np.vdot(cut, other), np.vdot(x, adjoint))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_group_holds_the_nearest_patches(dtype, rng):
    guide = draw(dtype, rng, 2, 8, 9)
    made = Groups(guide, **SMALL)
    rows = {(y, x): guide[:, y : y + 3, x : x + 3] for y in range(6) for x in range(7)}
    references = [(y, x) for y in (0, 2, 4, 5) for x in (0, 2, 4, 6)]
    assert len(made._index) == len(references)
    for reference, found in zip(references, made._index, strict=True):
        near = {
            place: np.linalg.norm(patch - rows[reference])
            for place, patch in rows.items()
            if max(abs(np.subtract(place, reference))) <= SMALL["reach"]
        }
        expected = sorted(near, key=near.get)[: SMALL["count"]]
        assert {(i // 7, i % 7) for i in found} == set(expected)


def test_the_scale_of_a_guide_is_of_no_account(rng):
    """Squares of single precision would be 0, or infinite."""
    guide = draw("complex128", rng, 2, 8, 9)
    expected = Groups(guide, **SMALL)._index
    for factor in (1e-30, 1e30):
        np.testing.assert_array_equal(Groups(factor * guide, **SMALL)._index, expected)


def test_a_flat_guide_has_each_patch_in_its_own_group():
    made = Groups(np.zeros((1, 30, 30)), patch=4, stride=4, count=3, reach=10)
    corners = [0, 4, 8, 12, 16, 20, 24, 26]
    own = [y * 27 + x for y in corners for x in corners]
    assert all(i in group for i, group in zip(own, made._index, strict=True))


def test_of_one_patch_the_prox_is_exact(rng):
    x = draw("complex128", rng, 2, 3, 3)
    R = NonLocalLowRank(0.7, x, **SMALL, epsilon=0.1)
    size = np.linalg.norm(x)
    assert float(R.value(x)) == pytest.approx(0.7 * np.log(1 + size / 0.1))
    expected = log_sum_threshold(x.reshape(1, -1), 0.9 * 0.7, 0.1)
    np.testing.assert_allclose(R.prox(x, 0.9), expected.reshape(x.shape), atol=1e-12)
    np.testing.assert_array_equal(R.prox(x, size**2), 0 * x)


def test_value_is_that_of_the_groups(rng):
    x = draw("float64", rng, 2, 9, 8)
    R = NonLocalLowRank(0.7, x, **SMALL)
    assert R.epsilon == pytest.approx(1e-3 * abs(x).max())
    s = np.linalg.svd(R.groups.cut(x), compute_uv=False)
    mean = R.groups._index.size * 9 / 72
    expected = 0.7 * np.log1p(s / R.epsilon).sum() / mean
    assert float(R.value(x)) == pytest.approx(expected)
    both = np.stack([x, 2 * x])
    assert float(R.value(both)) == pytest.approx(expected + float(R.value(2 * x)))
    np.testing.assert_allclose(R.prox(both, 0.3)[1], R.prox(2 * x, 0.3), atol=1e-12)
    assert "float64 (2, 9, 8)" in repr(R)


def test_some_groups_at_a_time_give_the_same(monkeypatch, rng):
    x = draw("complex128", rng, 2, 3, 9, 8)
    R = NonLocalLowRank(0.7, x[0], **SMALL)
    expected = R.prox(x, 0.9), R.value(x)
    monkeypatch.setattr(groups, "_VALUES", 3 * 5 * 27)
    assert [part.shape[1] for part in R.groups.parts(x)] == [3] * 5 + [1]
    np.testing.assert_array_equal(R.prox(x, 0.9), expected[0])
    assert R.value(x) == expected[1]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_frameworks_agree(dtype, arrays, rng):
    if (arrays.name, dtype) == ("jax", "float32"):
        pytest.skip("seconds of compilation, and denoising has real images")
    x = draw(dtype, rng, 2, 9, 8)
    given = arrays.array(x)
    R, expected = (NonLocalLowRank(0.1, guide, **SMALL) for guide in (given, x))
    np.testing.assert_array_equal(R.groups._index, expected.groups._index)
    found = R.prox(given, 0.9)
    assert arrays.owns(found)
    assert arrays.numpy(found).dtype == dtype
    np.testing.assert_allclose(arrays.numpy(found), expected.prox(x, 0.9), atol=3e-5)
    value = float(R.value(given))
    assert value == pytest.approx(float(expected.value(x)), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_torch_differentiates(dtype, rng):
    x = torch.tensor(draw(dtype, rng, 1, 7, 6), requires_grad=True)
    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    R = NonLocalLowRank(0.7, x, **SMALL, epsilon=0.2)

    def loss(x, step):
        z = R.prox(x, step)
        return (z * z.conj()).real.sum() + R.value(z + 0.1)

    assert torch.autograd.gradcheck(loss, (x, step), fast_mode=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1}, "weight"),
        ({"guide": np.ones((8, 8))}, r"guide must be \(C, H, W\)"),
        ({"guide": np.ones((1, 3, 8))}, "at least patch, 4, got shape"),
        ({"patch": 0}, "patch must be a positive integer"),
        ({"stride": 5}, "stride must be at most patch"),
        ({"count": 1.5}, "count must be a positive integer"),
        ({"reach": -1}, "reach must be a positive integer"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"guide": np.full((1, 8, 8), np.nan)}, "guide must be finite"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        NonLocalLowRank(**{"weight": 1.0, "guide": np.ones((1, 8, 8)), **changes})


def test_an_image_of_another_shape_is_refused():
    """Of a larger one a part alone would come back."""
    R = NonLocalLowRank(1.0, np.ones((1, 8, 8)))
    for shape in ((1, 8, 9), (2, 8, 8), (8, 8)):
        with pytest.raises(ValueError, match="must end in the guide's shape"):
            R.prox(np.ones(shape), 1.0)


@pytest.fixture
def fewer(monkeypatch):
    """Every other deviation of those that are tried, in half of the time."""
    some = algorithm.DEVIATIONS[::2]
    monkeypatch.setattr(algorithm, "DEVIATIONS", some)
    return some


@pytest.fixture(scope="module")
def photo():
    task, options = Colour(), ColourOptions(rate=0.3, seed=0)
    picture = np.moveaxis(photograph("coffee")[100:148, 200:248], -1, 0)
    return task.measure(InputImage("cup", picture.astype(np.float32)), options)


@pytest.fixture(scope="module")
def corner(photo):
    """A part of the photograph, for what asks less of it."""
    truth = photo.truth[:, :32, :32]
    A = Sampling(photo.A.mask[:, :32, :32])
    return replace(photo, y=A(truth), A=A, truth=truth)


def test_a_photograph_is_completed(photo):
    """Without the truth hardly worse, and the samples are kept."""
    task = Colour()
    known = non_local(task, photo)
    blind = non_local(task, replace(photo, truth=None))
    assert known.note.startswith("best deviation 0.0")
    assert "best" not in blind.note
    smooth = task.decibels(photo, biharmonic(photo).image)
    best, found = (task.decibels(photo, e.image) for e in (known, blind))
    assert best > smooth + 2
    assert found > best - 0.5
    assert known.image.dtype == photo.truth.dtype
    mask = photo.A.mask
    np.testing.assert_allclose(known.image[mask], photo.truth[mask], atol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_noise_is_told_by_what_is_left_out(corner, rate, fewer, rng):
    """Where it is known the last image is as good as any, else nearly so."""
    truth = corner.truth
    A = Sampling(rng.random(truth.shape) < rate)
    given = noisy(Problem(A(truth), A, truth=truth), 0.1, seed=0)
    blind = best_non_local(replace(given, truth=None))
    assert blind.noise == pytest.approx(0.1, rel=0.2)
    how = {"deviations": fewer}
    *_, without = (psnr(truth, x) for x in non_local_low_rank(given, **how))
    images = non_local_low_rank(given, noise=0.1, **how)
    *others, last = (psnr(truth, x) for x in images)
    assert last > max(others) - 0.5
    assert last > without + 4
    assert psnr(truth, blind.image) > last - 1
    few = {"deviations": (0.2, 0.05), "iterations": 2, "noise": 0.1}
    known = best_non_local(given, **few)
    *_, expected = non_local_low_rank(given, **few)
    np.testing.assert_array_equal(known.image, expected)
    assert (known.deviation, known.noise) == (0.05, 0.1)


def test_the_norm_of_the_operator_is_of_no_account(photo):
    """Neither of the operator, nor of a first image."""
    how = {"deviations": (0.2, 0.05), "iterations": 2}
    *_, expected = non_local_low_rank(photo, **how)
    for factor in (0.1, 10):
        scaled = replace(photo, y=np.float32(factor) * photo.y, A=factor * photo.A)
        *_, found = non_local_low_rank(scaled, **how)
        # The penalty goes by the norm of A, of which only a bound is known.
        assert psnr(expected, found) > 40
    *_, found = non_local_low_rank(photo, np.zeros_like(photo.y), **how)
    assert psnr(photo.truth, found) > psnr(photo.truth, photo.y) + 3


def test_weighted_data_count_by_their_weights(corner, rng):
    """What is of no weight may be anything."""
    kept = rng.random(corner.y.shape) < 0.8
    y = np.where(kept, corner.y, 9).astype(np.float32)
    weighted = replace(corner, y=y, truth=None, fidelity=L2(kept.astype(np.float32)))
    image = best_non_local(weighted, deviations=(0.3, 0.1, 0.05)).image
    assert psnr(corner.truth, image) > psnr(corner.truth, corner.y) + 10


@pytest.mark.parametrize("coils", [None, 4])
def test_one_frame_of_mri(coils, fewer):
    """Ahead of the zero-filled image, and the best of the stages is what is given."""
    task = Cine()
    options = CineOptions(size=32, frames=1, coils=coils, noise=0.01, acceleration=3)
    problem = task.measure(task.read("cine", options), options)
    assert task.baselines()[NAME].applies(problem)
    first = snr(problem.truth, problem.adjoint())
    found = snr(problem.truth, non_local(task, problem).image)
    assert found > first + 6
    images = non_local_low_rank(problem, deviations=fewer)
    stages = [snr(problem.truth, x) for x in images]
    assert found > max(stages) - 0.5  # they are not told the noise
    blind = best_non_local(replace(problem, truth=None)).image
    assert snr(problem.truth, blind) > found - 1


@pytest.mark.parametrize("coils", [None, 4])
def test_one_frame_of_smooth_phase(coils):
    """Without its smooth phase low rank of patches gains more than a decibel."""
    task = Cine()
    options = CineOptions(size=48, frames=1, coils=coils, noise=0.01, acceleration=4)
    problem = task.measure(task.read("cine", options), options)
    how = {"noise": _noise(problem), "deviations": (0.2, 0.07, 0.02)}
    *_, plain = non_local_low_rank(problem, **how)
    *_, found = non_local_low_rank(problem, phase=3, **how)
    assert snr(problem.truth, found) > snr(problem.truth, plain) + 1


class TestPhase:
    """Groups of real and imaginary part, without the phase of the local mean."""

    GROUPS: ClassVar = {"patch": 3, "stride": 2, "count": 6, "reach": 4, "epsilon": 0.1}

    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
    def test_a_constant_phase_makes_no_difference(self, dtype, rng):
        image = 1 + rng.random((1, 12, 10))
        x = (image * np.exp(2j)).astype(dtype)
        prior = NonLocalLowRank(0.3, x, phase=2, **self.GROUPS)
        real = NonLocalLowRank(0.3, x.real / np.cos(2), **self.GROUPS)
        tolerance = 100 * np.finfo(dtype).eps
        for step in (0.5, np.asarray(0.5, x.real.dtype)):  # two ways to threshold
            found = prior.prox(x, step)
            expected = real.prox(x.real / np.cos(2), step) * np.exp(2j)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
        # log(1 + s / epsilon) of imaginary parts, which are 0 but for rounding
        expected = real.value(x.real / np.cos(2))
        assert prior.value(x) == pytest.approx(expected, rel=10 * float(tolerance))

    def test_where_the_mean_is_zero_the_phase_stays(self):
        x = np.zeros((1, 12, 10), complex)
        prior = NonLocalLowRank(0.3, x, phase=2, **self.GROUPS)
        assert (prior.prox(x, 1.0) == 0).all()

    def test_gradients(self, rng):
        guide = rng.random((1, 8, 8)) + 1j * rng.random((1, 8, 8))
        prior = NonLocalLowRank(0.3, guide, phase=2, **self.GROUPS)
        x = torch.from_numpy(guide).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: prior.prox(x, 0.1), x, fast_mode=True)

    def test_gradients_pass_through_the_phase(self, rng):
        recipe = NonLocal(
            images="series",
            channels=1,
            phase=3,
            exact=False,
            count=6,
            reach=4,
            rounds=2,
        )
        net = Network(recipe).double()
        truth = draw(np.complex128, rng, 1, 1, 12, 10)
        mask = torch.from_numpy(rng.random(truth.shape) < 0.7)
        y = MRI(mask)(torch.from_numpy(truth)).requires_grad_()
        d = torch.from_numpy(draw(np.complex128, rng, *truth.shape))

        def loss(y):
            return (net(y, mask).conj() * d).real.sum()

        loss(y).backward()
        along = float((y.grad.conj() * d).real.sum())
        with torch.no_grad():
            slope = float(loss(y + 1e-6 * d) - loss(y - 1e-6 * d)) / 2e-6
        assert along == pytest.approx(slope, rel=1e-6)

    def test_bad_input(self, rng):
        guide = rng.random((1, 12, 10))
        with pytest.raises(ValueError, match="phase needs a complex guide"):
            NonLocalLowRank(1.0, guide, phase=2, **self.GROUPS)
        for phase in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match="phase must be a number >= 0"):
                NonLocalLowRank(1.0, guide + 0j, phase=phase, **self.GROUPS)
        prior = NonLocalLowRank(1.0, guide + 0j, phase=2, **self.GROUPS)
        for method in (prior.value, lambda x: prior.prox(x, 1.0)):
            with pytest.raises(ValueError, match="x must be complex"):
                method(guide)


def test_noise_is_told_of_the_data_that_count(corner, rng):
    """In units of data of weight one, whatever there is where the weight is none."""
    counts = rng.random(corner.truth.shape) < 0.5
    y = corner.truth + 0.1 / np.sqrt(4) * rng.standard_normal(counts.shape)
    y = np.where(counts, y, 9).astype(np.float32)
    fidelity = L2((4 * counts).astype(np.float32))
    blind = best_non_local(Problem(y, Sampling(np.ones_like(counts)), fidelity))
    assert blind.noise == pytest.approx(0.1, rel=0.2)
    assert psnr(corner.truth, blind.image) > 27


def test_data_of_little_weight_do_not_tell_the_noise(corner, fewer, rng):
    """They are near 0 for their weight alone; infinite ones of weight 0 are none."""
    truth, shape = corner.truth, corner.truth.shape
    junk, counts = rng.random(shape) < 0.2, rng.random(shape) < 0.7
    y = truth + 0.1 * rng.standard_normal(shape)
    y = np.where(junk, 3 * rng.random(shape), y).astype(np.float32)
    y[0, 0, :3] = np.inf
    weight = np.where(junk, 1e-4, 1).astype(np.float32) * counts
    weight[0, 0, :3] = 0
    given = Problem(y, Sampling(np.ones(shape, bool)), L2(weight))
    blind = best_non_local(given)
    assert blind.noise == pytest.approx(0.1, rel=0.3)
    assert psnr(truth, blind.image) > 29


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite_are_refused(photo, bad):
    y = np.where(np.arange(48) == 3, np.float32(bad), photo.y)
    with pytest.raises(ValueError, match="y contains NaN or infinity where it was"):
        best_non_local(replace(photo, y=y), noise=0.1)


def test_data_of_weight_zero_are_not_put_back(corner, fewer, rng):
    junk = rng.random(corner.truth.shape) < 0.2
    y = np.where(junk, rng.random(junk.shape), corner.truth).astype(np.float32)
    weight = (~junk).astype(np.float32)
    given = Problem(y, Sampling(np.ones_like(junk)), L2(weight))
    assert psnr(corner.truth, non_local(Colour(), given).image) > 35


def test_weights_of_numpy_with_data_of_torch(photo, rng):
    weight = (rng.random(photo.truth.shape) < 0.8).astype(np.float32)
    few = {"deviations": (0.2, 0.05), "iterations": 2}
    expected = best_non_local(replace(photo, fidelity=L2(weight)), **few)
    given = replace(photo, truth=None, fidelity=L2(weight))
    found = best_non_local(replace(given, y=torch.from_numpy(photo.y)), **few)
    np.testing.assert_allclose(found.image.numpy(), expected.image, atol=1e-4)


def test_the_error_of_an_image_is_hardly_taken_for_noise():
    """What is left out of one coil's k-space can hardly be predicted, noise or not."""
    frame = heart_series("long-axis")[:1, 24:72, 24:72].astype(np.complex64)
    options = CineOptions(mask="variable-density", acceleration=4, noise=0.01, seed=1)
    problem = Cine().measure(InputImage("heart", frame), options)
    rest = problem.A.project_to_samples(problem.y - problem.A.forward(problem.truth))
    noise = np.sqrt(np.mean(np.abs(rest[problem.sampled_mask()]) ** 2))
    blind = best_non_local(replace(problem, truth=None))
    assert 0.8 * noise < blind.noise < 2.5 * noise
    stages = [snr(problem.truth, x) for x in non_local_low_rank(problem)]
    assert snr(problem.truth, blind.image) > max(stages) - 1.5


def test_the_phase_of_estimated_maps_is_no_noise(fewer):
    """Where the phase of an object is not known the truth does not tell the noise."""
    task = Cine()
    options = CineOptions(size=40, frames=1, coils=4, noise=0.01, acceleration=3)
    problem = task.measure(task.read("cine", options), options)
    A = MRI(problem.A.mask, 1j * problem.A.maps)
    turned = replace(problem, A=A, phase_known=False)
    found = [
        task.decibels(given, non_local(task, given).image)
        for given in (problem, turned)
    ]
    assert found[1] > found[0] - 1


def test_noise_is_not_put_back(corner, fewer):
    """Where samples have noise they are not what the image should have there."""
    task = Colour()
    for rate in (0.5, 1.0):
        options = ColourOptions(rate=rate, noise=0.1)
        given = task.measure(InputImage("cup", corner.truth), options)
        known = non_local(task, given)
        blind = non_local(task, replace(given, truth=None))
        first = task.decibels(given, biharmonic(given).image)
        best, found = (task.decibels(given, e.image) for e in (known, blind))
        assert min(best, found) > first + 5
        assert found > best - 1


def test_what_does_not_suit(photo):
    series = Problem(np.zeros((2, 8, 8), complex), MRI(np.ones((2, 8, 8), bool)))
    assert not Cine().baselines()[NAME].applies(series)
    assert Colour().baselines()[NAME].applies(photo)
    small = Problem(np.ones((3, 31, 31)), Sampling(np.ones((3, 31, 31), bool)))
    assert not Colour().baselines()[NAME].applies(small)  # to tell the noise


def test_what_takes_long_has_to_be_asked_for():
    for size, rate, slow in ((600, 0.5, True), (600, 1.1, False), (1100, 1.1, True)):
        mask = np.random.default_rng(0).random((3, size, size)) < rate
        problem = Problem(mask.astype(np.float32), Sampling(mask))
        assert Colour().baselines()[NAME].slow(problem) is slow
        assert (NAME in classical(Colour(), problem)) is not slow
        assert NAME in classical(Colour(), problem, asked=NAME)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_nothing_at_all_stays_nothing(dtype):
    mask = np.random.default_rng(0).random((1, 12, 12)) < 0.5
    problem = Problem(np.zeros((1, 12, 12), dtype), Sampling(mask))
    image = best_non_local(problem, deviations=(0.3, 0.1)).image
    assert image.dtype == dtype
    assert not image.any()


def test_torch_and_a_batch_of_one(photo):
    """The same stages as with NumPy."""
    how = {"deviations": (0.2, 0.05), "iterations": 2}
    single = replace(photo, truth=None).single().replace_arrays(torch.from_numpy)
    for expected, found in zip(
        non_local_low_rank(photo, **how), non_local_low_rank(single, **how), strict=True
    ):
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-22, 1e22])
def test_units_without_squares_are_refused(corner, scale):
    problem = replace(corner, y=np.float32(scale) * corner.y.astype(np.float32))
    for method in (non_local_low_rank, best_non_local):
        with pytest.raises(ValueError, match="y must have other units"):
            method(problem)


def test_another_fidelity_is_refused(corner):
    given = replace(corner, fidelity=PoissonKL())
    for reconstruct in (non_local_low_rank, best_non_local):
        with pytest.raises(TypeError, match="ADMM needs the data fidelity L2"):
            reconstruct(given, deviations=(0.3,))
    for name, value in (
        ("deviations", ()),
        ("deviations", (0.1, -0.1)),
        ("iterations", 0),
        ("noise", -0.1),
        ("noise", math.inf),
        ("patch", 0),
        ("patch", 33),
        ("phase", -1),
        ("phase", 3),  # of a real image
    ):
        with pytest.raises(ValueError, match=f"{name}"):
            non_local_low_rank(corner, **{name: value})
    with pytest.raises(ValueError, match="x0 must be None without a score and noise"):
        best_non_local(corner, x0=corner.y)
    several = replace(corner, y=np.stack([corner.y, corner.y]))
    with pytest.raises(ValueError, match="of one image"):
        non_local_low_rank(several)
    with pytest.raises(ValueError, match="at least 20 data"):
        held_out(np.ones(19), np.ones(19, bool), 0.05, 0)


class TestDenoising:
    """Weighted nuclear norm minimisation of groups."""

    @pytest.fixture
    def truth(self):
        return np.moveaxis(photograph("coffee")[100:164, 200:264], -1, 0)

    def noisy(self, truth, deviation, dtype="float32"):
        noise = draw(dtype, np.random.default_rng(0), *truth.shape)
        noise = noise / np.sqrt(1 + (np.dtype(dtype).kind == "c"))
        return (truth + deviation * noise).astype(dtype)

    @pytest.mark.parametrize(
        ("deviation", "dtype", "channels"),
        [
            (0.04, "float32", 3),
            (0.1, "complex64", 1),
            (0.2, "float32", 1),
            (0.2, "complex64", 3),
        ],
    )
    def test_of_an_image(self, truth, deviation, dtype, channels):
        """Ahead of non-local means at their best strength."""
        truth = truth[:channels]
        y = self.noisy(truth, deviation, dtype)
        found = denoise_non_local(y)
        assert found.dtype == y.dtype

        def means(h):
            how = {"sigma": deviation, "h": h * deviation, "channel_axis": 0}
            parts = [y.real, y.imag] if dtype == "complex64" else [y]
            both = [skimage.restoration.denoise_nl_means(x, **how) for x in parts]
            found = both[0] + 1j * both[1] if len(both) == 2 else both[0]
            return found.reshape(y.shape)

        best = max(snr(truth, means(h)) for h in (0.4, 0.6, 0.8, 1.0))
        assert snr(truth, found) > best + 0.3

    @pytest.mark.parametrize("scale", [1e-300, 1e-8, 1.0, 1e8, 1e300])
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_the_noise_is_told(self, truth, dtype, scale):
        for deviation in (0.05, 0.1, 0.5):
            y = scale * self.noisy(truth, deviation, dtype)
            assert noise_deviation(y) == pytest.approx(scale * deviation, rel=0.1)
        truth = truth.astype(np.float64)
        assert noise_deviation(scale * truth) < scale * 0.02

    def test_without_noise_it_stays(self, truth):
        found = denoise_non_local(truth, 0.0)
        np.testing.assert_array_equal(found, truth)
        assert not np.shares_memory(found, truth)  # which it may change in place
        for flat in (np.zeros((3, 20, 20)), np.full((1, 20, 20), 3.0)):
            assert noise_deviation(flat) < 1e-12
            np.testing.assert_allclose(denoise_non_local(flat), flat, atol=1e-12)
        assert not denoise_non_local(np.zeros((3, 20, 20)), 0.1).any()

    def test_of_small_images(self, rng):
        """Also of one pixel, if the noise is known."""
        for shape in ((1, 1, 1), (3, 1, 9), (2, 3, 3), (1, 5, 40)):
            truth = np.ones(shape)
            y = truth + 0.1 * rng.standard_normal(shape)
            found = denoise_non_local(y, 0.1)
            assert np.abs(found - truth).max() <= 0.3

    def test_scale_and_offset_are_of_no_account(self, truth):
        """Nor is the precision, as long as it has the numbers."""
        y = self.noisy(truth, 0.1)[:, :32, :32]
        expected = denoise_non_local(y, 0.1)
        for scale in (1e-30, 1e19, 1e30):
            scale = np.float32(scale)
            found = denoise_non_local(scale * y, 0.1 * scale) / scale
            np.testing.assert_allclose(found, expected, atol=1e-3)
        part = truth[:, :32, :32]
        best = psnr(part, expected)
        found = denoise_non_local(y.astype(np.float64) + 1000, 0.1) - 1000
        assert psnr(part, found) == pytest.approx(best, abs=0.5)
        found = denoise_non_local((255 * y).astype(np.float16), 25.5) / 255
        assert psnr(part, found.astype(np.float32)) == pytest.approx(best, abs=0.2)

    def test_tiles_hardly_change_it(self, truth, monkeypatch):
        y = self.noisy(truth, 0.1)
        whole = denoise_non_local(y, 0.1)
        monkeypatch.setattr(algorithm, "_TILE", 32)
        monkeypatch.setattr(algorithm, "_MARGIN", 12)
        tiled = denoise_non_local(y, 0.1)
        assert psnr(whole, tiled) > 40
        assert psnr(truth, tiled) > psnr(truth, whole) - 0.1

    def test_a_small_patch_has_a_small_stride(self, truth):
        y = self.noisy(truth[:, :20, :20], 0.1)
        assert denoise_non_local(y, 0.1, patch=2).shape == y.shape
        with pytest.raises(ValueError, match="at least patch, 30"):
            denoise_non_local(y, 0.1, patch=30)

    def test_frameworks_agree(self, arrays, truth):
        """In small groups: JAX compiles each of the ways in which they overlap."""
        y = self.noisy(truth[:2, :12, :12], 0.1)
        given = arrays.array(y)
        found = denoise_non_local(given, 0.1, iterations=2, **SMALL)
        assert arrays.owns(found)
        expected = denoise_non_local(y, 0.1, iterations=2, **SMALL)
        np.testing.assert_allclose(arrays.numpy(found), expected, atol=1e-4)

    def test_bad_input_is_refused(self, truth):
        with pytest.raises(TypeError, match="y must be floating point or complex"):
            denoise_non_local(np.ones((3, 32, 32), np.uint8))
        with pytest.raises(TypeError, match="y must be an array"):
            denoise_non_local(truth.tolist())
        with pytest.raises(TypeError, match="no option 'sigma'; groups have patch"):
            denoise_non_local(truth, sigma=0.1)
        for y, options, message in (
            (truth[:, :0], {}, r"y must be \(C, H, W\)"),
            (truth[0], {}, r"y must be \(C, H, W\)"),
            (np.full_like(truth, np.nan), {}, "y must be finite"),
            (truth[:, :8, :8], {}, "too small to tell its noise"),
            (truth[:, :3], {}, "too small to tell its noise"),
            (np.moveaxis(truth, 0, -1), {"noise": 0.1}, "channels first, got shape"),
            (truth[0, :, :, None], {"noise": 0.1}, "channels first, got shape"),
            (truth, {"noise": -1.0}, "noise must be a number >= 0"),
            (truth, {"iterations": 0}, "iterations must be"),
            (truth, {"count": 0}, "count must be"),
        ):
            with pytest.raises(ValueError, match=message):
                denoise_non_local(y, **options)
