from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from svdinv.numpy import svt
from svdinv.unroll.algorithms import iterations
from svdinv.unroll.data import photograph
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.evaluation import classical
from svdinv.unroll.metrics import psnr, snr
from svdinv.unroll.operators import MRI, Fourier, Identity, Sampling
from svdinv.unroll.priors import Casorati, LocalLowRank
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine import baselines as cine_baselines
from svdinv.unroll.tasks.cine import task as cine
from svdinv.unroll.tasks.cine.hearts import heart_series
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour import task as colour
from svdinv.unroll.tasks.colour.task import Colour

BASELINES = {task.kind: task.baselines() for task in (Colour(), Cine())}
GROUPED = "non-local low rank"  # which takes its best weight itself
OF_SERIES = ("low-rank", "L+S", "local low-rank")


@pytest.fixture(scope="module")
def photo():
    return colour.sampled("cup", photograph("coffee")[100:148, 100:164], 0.4, seed=0)


@pytest.fixture(scope="module")
def series():
    maps, truth = coil_maps(2, 24, 24, seed=0), unseen_series(0, 5, 24)
    mask = sampling("radial", truth.shape, np.random.default_rng(0))
    return cine.sampled("heart", truth, mask, maps)


@pytest.fixture
def sooner(monkeypatch):
    """End the solvers of series after a quarter of their iterations."""
    early = partial(cine_baselines.best_solution, iterations=50)
    monkeypatch.setattr(cine_baselines, "best_solution", early)
    monkeypatch.setattr(cine_baselines, "_ITERATIONS", 50)


@pytest.fixture
def at_once(monkeypatch):
    """End them after ten, where it is of no account how good they are."""
    early = partial(cine_baselines.best_solution, iterations=10)
    monkeypatch.setattr(cine_baselines, "best_solution", early)
    monkeypatch.setattr(cine_baselines, "_ITERATIONS", 10)


def _score(problem, image):
    complex_ = np.iscomplexobj(problem.truth)
    return (snr if complex_ else psnr)(problem.truth, image)


@pytest.mark.parametrize("kind", BASELINES)
def test_every_method_gains_on_the_zero_filled_image(kind, photo, series):
    problem = {"colour": photo, "cine": series}[kind]
    scores = {}
    task = {"colour": Colour(), "cine": Cine()}[kind]
    for name, method in BASELINES[kind].items():
        if name not in classical(task, problem):
            continue
        image, note = method(problem)
        assert image.shape == problem.truth.shape
        assert image.dtype == problem.truth.dtype
        scores[name] = _score(problem, image)
        weighted = ("SVT completion", GROUPED, *OF_SERIES)
        assert ("best" in note) == (name in weighted)
    first, *others = scores.values()
    assert min(others) > first + 5
    assert next(iter(scores)) == "zero-filled"


def test_without_a_truth_the_threshold_is_the_usual_one(photo):
    method = BASELINES["colour"]["SVT completion"]
    fixed, note = method(replace(photo, truth=None))
    assert note == "threshold 0.01 s_1"
    assert _score(photo, method(photo).image) >= _score(photo, fixed) - 0.01
    assert _score(photo, fixed) > _score(photo, colour.zero_filled(photo).image) + 5


@pytest.mark.parametrize(
    ("name", "noise"), [("low-rank", 0), ("L+S", 0.02), ("local low-rank", 0.02)]
)
def test_samples_that_are_left_out_tell_the_weight(name, noise, series, request):
    problem = series
    if noise:  # with which no weight needs many iterations
        request.getfixturevalue("sooner")
        problem = noisy(series, noise, seed=0)
    method = BASELINES["cine"][name]
    known, blind = method(problem), method(replace(problem, truth=None))
    assert re.fullmatch(r"weights? .*, estimated error \d+\.\d%", blind.note)
    reached = _score(problem, blind.image)
    assert _score(problem, known.image) - 1 < reached
    assert reached < _score(problem, known.image) + 0.05
    assert reached > _score(problem, cine_baselines.zero_filled(problem).image) + 5


@pytest.mark.parametrize("name", ["low-rank", "L+S", "local low-rank"])
def test_where_nothing_can_be_left_out_the_note_says_so(name, at_once):
    truth = unseen_series(0, 4, 24)
    full = np.ones(truth.shape, bool)
    problem = cine.sampled("heart", truth, full, coil_maps(1, 24, 24, seed=0))
    found = BASELINES["cine"][name](replace(problem, truth=None))
    assert "there are too few samples to leave some out" in found.note


def test_what_is_left_out_is_not_seen_and_tells_the_distance(rng):
    truth = unseen_series(0, 8, 32)
    mask = rng.random(truth.shape) < 0.4
    mask[:, 14:18, 14:18] = True  # nothing to predict
    problem = cine.sampled("heart", truth, mask, coil_maps(2, 32, 32, seed=0))
    scorer = cine_baselines._scorer(replace(problem, truth=None))
    held = np.asarray(problem.sampled_mask() & ~scorer.problem.sampled_mask())
    assert 0.04 < held.sum() / np.asarray(problem.sampled_mask()).sum() < 0.06
    assert not held[:, :, 14:18, 14:18].any()
    assert not scorer.problem.y[held].any()
    assert scorer.distance(truth) < 1e-3
    for seed in range(3):  # of an image that is wrong at all frequencies alike
        error = np.random.default_rng(seed).standard_normal((2, *truth.shape))
        wrong = truth + error[0] + 1j * error[1]
        distance = np.linalg.norm(wrong - truth)
        assert scorer.distance(wrong) == pytest.approx(distance, rel=0.1)
    middle = np.fft.ifft2(np.fft.ifftshift(mask.all(0)))  # which is fitted, and counts
    assert scorer.distance(truth + middle) == pytest.approx(
        np.sqrt(8) * np.linalg.norm(middle), rel=0.1
    )


@pytest.mark.parametrize("name", OF_SERIES)
def test_weights_of_other_operators_and_of_few_samples(name, series, sooner, rng):
    method, truth = BASELINES["cine"][name], series.truth
    mask = rng.random(truth.shape) < 0.4
    A = Sampling(mask) * Fourier()
    found = method(Problem(A(truth), A))
    same = method(Problem(A(truth), MRI(mask)))
    # It begins at the zero-filled series, which no operator but MRI can fill in.
    assert _score(series, found.image) > _score(series, same.image) - 0.5
    few = np.zeros(mask.shape, bool)
    few[:, 16, 15:18] = True
    found = method(Problem(np.where(few, A(truth), 0), MRI(few)))
    assert "estimated" not in found.note
    assert np.isfinite(found.image).all()


def test_colour_methods_keep_the_samples_and_look_at_nothing_else(rng):
    photo = colour.sampled("cup", photograph("coffee")[100:132, 100:132], 0.4, seed=0)
    mask = photo.A.mask
    noise = rng.random(mask.shape, dtype=np.float32)
    spoiled = replace(photo, y=np.where(mask, photo.y, noise))
    for method in BASELINES["colour"].values():
        image = method(photo).image
        np.testing.assert_allclose(image[mask], photo.truth[mask], atol=1e-6)
        np.testing.assert_array_equal(method(spoiled).image, image)


def test_large_pictures_are_filled_in_tiles(photo, monkeypatch):
    whole = colour.biharmonic(photo).image
    monkeypatch.setattr(colour, "_TILE", 32)
    monkeypatch.setattr(colour, "_MARGIN", 16)
    tiled = colour.biharmonic(photo).image
    # At a few pixels scikit-image clips to the range of the tile.
    assert 0 < np.abs(tiled - whole).mean() < 1e-4
    assert np.quantile(np.abs(tiled - whole), 0.99) < 1e-3


def test_a_tile_without_samples_stays_black(photo, monkeypatch):
    monkeypatch.setattr(colour, "_TILE", 16)
    monkeypatch.setattr(colour, "_MARGIN", 0)
    mask = photo.A.mask
    mask = mask.copy()
    mask[:, :16, :16] = False
    image = colour.biharmonic(replace(photo, A=Sampling(mask))).image
    assert not image[:, :16, :16].any()
    assert image[:, 16:].any()


def test_ctrl_c_in_a_solver_is_not_taken_for_a_solution(series, monkeypatch):
    iterate = Casorati.prox

    def press(self, x, step):
        if press.calls == 3:
            raise KeyboardInterrupt
        press.calls += 1
        return iterate(self, x, step)

    press.calls = 0
    monkeypatch.setattr(Casorati, "prox", press)
    with pytest.raises(KeyboardInterrupt):
        cine_baselines.low_rank(replace(series))  # nothing is kept for it


def test_blocks_are_thresholded_as_by_the_svd(rng):
    x = rng.standard_normal((2, 5, 19, 21)).astype(np.float32)
    x = (x[0] + 1j * x[1]).astype(np.complex64)
    for shift in cine_baselines._SHIFTS:
        found = cine_baselines._Blocks(3.0, 8, shift=shift).prox(x, 0.7)
        expected = LocalLowRank(3.0, 8, shift=shift).prox(x, 0.7)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(
            cine_baselines._Blocks(1e3, 8, shift=shift).prox(0 * x, 1.0), 0 * x
        )


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_low_rank_is_the_best_of_a_fine_grid(noise):
    """Where each frame has few lines, iterations are slow, and the image changes long.

    The grid completes the k-space, which is as good: the norm is that of unitary
    transforms too.
    """
    truth = unseen_series(0, 12, 32)
    mask = sampling("vista", truth.shape, np.random.default_rng(0), 4)
    problem = noisy(cine.sampled("heart", truth, mask), noise, seed=0)
    whole = Fourier().forward(truth)
    y = problem.A.project_to_samples(problem.y).reshape(12, -1)
    top = np.linalg.norm(y, 2)
    mask = mask.reshape(12, -1)
    copy, best = y, -np.inf
    for weight in np.geomspace(0.02, 2e-3, 5):
        penalty = np.float32(weight / 0.5)
        for _ in range(120):
            image = np.where(mask, (y + penalty * copy) / (1 + penalty), copy)
            copy = copy + svt(2 * image - copy, 0.5 * top) - image
        best = max(best, snr(whole, image.reshape(whole.shape)))
    assert _score(problem, cine_baselines.low_rank(problem).image) > best - 0.02


def test_low_rank_is_searched_once_for_a_problem(at_once, monkeypatch):
    """Low rank plus sparse begins with it."""
    asked, best = [], cine_baselines._best
    monkeypatch.setattr(
        cine_baselines, "_best", lambda *a: asked.append(a[0]) or best(*a)
    )
    truth = unseen_series(1, 4, 16)
    mask = sampling("radial", truth.shape, np.random.default_rng(0), 4)
    for seed in (0, 1):  # another problem is not taken for the first
        problem = noisy(cine.sampled("heart", truth, mask), 0.1, seed=seed)
        cine_baselines.low_rank(problem)
        cine_baselines.low_rank_plus_sparse(problem)
        assert asked.pop() is problem
        assert not asked


def test_low_rank_is_that_of_the_data_as_they_are_now(series, at_once):
    problem = replace(series, truth=None, y=series.y.copy())
    found = cine_baselines.low_rank(problem).image
    expected = found.copy()
    found *= 2  # the caller's own
    np.testing.assert_array_equal(cine_baselines.low_rank(problem).image, expected)
    problem.y[...] *= 2
    np.testing.assert_allclose(
        cine_baselines.low_rank(problem).image, 2 * expected, atol=1e-5
    )
    maps = np.ones((2, *expected.shape[1:]), np.complex64) / 2**0.5
    A = MRI(problem.A.mask, maps)
    problem = replace(problem, y=A(expected), A=A)
    expected = cine_baselines.low_rank(problem).image
    maps[0] *= -1
    turned = cine_baselines.low_rank(problem).image
    assert np.linalg.norm(turned - expected) > 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["local_low_rank", "low_rank_plus_sparse"])
def test_units_are_of_no_account_in_double_precision(name, series, at_once):
    method = getattr(cine_baselines, name)
    y, truth = (x.astype(np.complex128) for x in (series.y, series.truth))
    expected = method(replace(series, y=y, truth=truth)).image
    for scale in (1e-45, 1e40):
        found = method(replace(series, y=scale * y, truth=scale * truth)).image
        np.testing.assert_allclose(found / scale, expected, atol=1e-6)


def test_low_rank_plus_sparse_is_no_worse_than_low_rank_alone():
    truth = unseen_series(1, 8, 32)
    mask = sampling("radial", truth.shape, np.random.default_rng(0), 4)
    problem = cine.sampled("heart", truth, mask)
    alone = cine_baselines.low_rank(problem).image
    both = cine_baselines.low_rank_plus_sparse(problem).image
    assert _score(problem, both) > _score(problem, alone) - 0.02


def test_low_rank_plus_sparse_tells_where_nothing_is_sparse():
    """Beside so little low rank the usual weights leave nothing: the rows are equal."""
    truth = heart_series("short-axis")[:10, 30:62, 20:52].astype(np.complex64)
    mask = sampling("radial", truth.shape, np.random.default_rng(0), 4)
    problem = cine.sampled("heart", truth, mask)
    alone = cine_baselines.low_rank(problem)
    both = cine_baselines.low_rank_plus_sparse(problem)
    np.testing.assert_allclose(both.image, alone.image, atol=1e-3)
    assert both.note == "best weights 3.2e-06, inf: no sparse part"


def test_views_are_shared_in_k_space_alone(series):
    """Of another operator it would be the zero-filled series by another name."""
    other = replace(series, A=Identity() * series.A)
    every, some = (list(classical(Cine(), each)) for each in (series, other))
    assert some == [name for name in every if name != "view sharing"] != every


def test_no_singular_value_of_an_operator_is_sought_twice(series, monkeypatch):
    norms = []
    found = iterations.operator_norm
    monkeypatch.setattr(
        iterations, "operator_norm", lambda *a: norms.append(a) or found(*a)
    )
    cine_baselines.low_rank_plus_sparse(series)
    assert len(norms) == 1


@pytest.mark.parametrize("name", ["low-rank", "L+S", "local low-rank"])
def test_a_series_of_zeros_is_reconstructed_as_one(name, series):
    zeros = replace(series, y=0 * series.y, truth=series.truth)
    image = BASELINES["cine"][name](zeros).image
    assert not image.any()


def test_samples_with_noise_are_not_restored(photo):
    given = noisy(photo, 0.1, seed=0)
    image = colour.svt_completion(given).image
    restored = np.clip(np.where(photo.A.mask, given.y, image), 0, 1)
    assert _score(photo, image) > _score(photo, restored) + 1


def test_fully_sampled_colours_stay_as_they_are(photo):
    whole = np.ones_like(photo.A.mask)
    given = replace(photo, y=photo.truth, A=Sampling(whole))
    np.testing.assert_array_equal(colour.svt_completion(given).image, photo.truth)
