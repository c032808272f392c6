"""Fitting a generator to one measurement: rules, regularisation, going on."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from svdinv.unroll.algorithms import ADMM, conjugate_gradients
from svdinv.unroll.fidelity import L2, PoissonKL
from svdinv.unroll.networks import (
    SLR,
    Bilinear,
    Decoder,
    LowRank,
    PrimalDual,
    Skip,
    Unrolled,
)
from svdinv.unroll.operators import MRI, Identity, ParallelBeam, Sampling
from svdinv.unroll.priors import HuberVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained import (
    SURE,
    Discrepancy,
    Fitting,
    HeldOut,
    MovingVariance,
    Options,
    educated,
    fit,
    fitting,
    residual,
)
from svdinv.unroll.untrained.residual import cleaned
from svdinv.unroll.untrained.stopping import Seen

SMALL = {"features": (4, 6), "skips": (1, 0), "depth": 4}
GENERATOR = Skip(**SMALL)


def picture(size=16):
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([rows, columns, rows * columns]).astype(np.float32)


def noisy(deviation=0.1, size=16):
    truth = picture(size)
    noise = np.random.default_rng(0).standard_normal(truth.shape)
    y = (truth + deviation * noise).astype(np.float32)
    return Problem(y, Sampling(np.ones(y.shape, bool)), truth=truth)


def sampled(share=0.5):
    A = Sampling(np.random.default_rng(1).random((3, 16, 16)) < share)
    return Problem(A(picture()), A, truth=picture())


def series(T=4):
    frames = np.linspace(0, 1, T)[:, None, None] * picture()[0] + picture()[1]
    A = MRI(np.random.default_rng(1).random(frames.shape) < 0.5)
    return Problem(A(frames.astype(np.complex64)), A, truth=frames)


def run(problem, generator=GENERATOR, **options):
    """Fit, without the step towards the data that takes as long, unless asked for."""
    usual = {"iterations": 30, "consistent": False}
    return fit(problem, generator, progress=False, **usual | options)


def stepped(problem, generator=GENERATOR, **options):
    """Fit, and step towards the data."""
    return run(problem, generator, consistent=True, **options)


def error(problem, image):
    return float(np.mean(np.abs(image - problem.truth) ** 2))


def test_it_fits_and_repeats_itself():
    problem, options = sampled(), {"rule": None, "average": 0.9}
    found = run(problem, iterations=300, **options)
    assert found.ending == "iterations"
    assert found.best == found.iterations == 300
    assert error(problem, found.image) < 1e-3
    np.testing.assert_array_equal(found.image, found.last)
    one, again, other = (run(problem, **options, seed=s).image for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(other - one).max() > 1e-3


def test_the_truth_is_not_looked_at():
    problem = noisy()
    found = stepped(problem)
    blind = stepped(replace(problem, truth=None))
    np.testing.assert_array_equal(found.image, blind.image)


def test_the_average_is_one():
    problem, images = sampled(), []
    fitting = Fitting(problem, GENERATOR, Options(average=0.5, rule=None, every=1))
    for _ in range(4):
        with torch.no_grad():
            noise = 0.03 * torch.randn(
                fitting.state["z"].shape,
                generator=torch.Generator().manual_seed(fitting.iteration + 1),
            )
            made = fitting.models[0](fitting.state, fitting.problem, noise)
            images.append(made[0][0])
        fitting.step()
    expected = images[0]
    for image, share in zip(images[1:], (0.5, 0.5, 0.5), strict=True):
        expected = expected + share * (image - expected)
    torch.testing.assert_close(fitting.kept.average[0], expected)
    torch.testing.assert_close(
        fitting.kept.measured, fitting.problem.A(fitting.kept.average)
    )


class TestRules:
    @pytest.mark.parametrize("case", ["noise", "adjoint", "around", "unbounded"])
    def test_held_out_data_are_not_fitted(self, case):
        """Nor seen, nor added, nor is a scale taken from them."""
        problem = sampled()
        rule = HeldOut(share=0.3)
        generator = replace(
            GENERATOR,
            source="adjoint" if case == "adjoint" else "noise",
            bounded=case in ("noise", "adjoint"),
        )
        around = (lambda problem: problem.adjoint()) if case == "around" else None

        def begun(problem):
            return Fitting(problem, generator, Options(rule=rule), around=around)

        one = begun(problem)
        moved = problem.y + np.where(one.chosen[0].numpy(), 5.0, 0.0)
        other = begun(replace(problem, y=moved.astype(np.float32)))
        for _ in range(5):
            one.step()
            other.step()
        torch.testing.assert_close(one.kept.average, other.kept.average, rtol=0, atol=0)
        assert 0.2 < one.chosen.sum() / one.measured.sum() < 0.4
        assert not (one.chosen & ~one.measured).any()

    def test_data_of_weight_zero_are_none(self):
        """They may be anything: neither held out, nor seen, nor counted."""
        problem = sampled()
        weight = (np.random.default_rng(3).random(problem.y.shape) < 0.8) * 1.0
        weighted = replace(problem, fidelity=L2(weight.astype(np.float32)))
        y = np.where(weight == 0, np.float32(np.nan), problem.y)

        def begun(problem):
            options = Options(rule=HeldOut(share=0.3), every=1)
            return Fitting(problem, replace(GENERATOR, source="adjoint"), options)

        one, other = begun(weighted), begun(replace(weighted, y=y))
        for _ in range(3):
            assert one.step() == other.step()
        assert (
            one.count + one.chosen.sum()
            == (problem.sampled_mask() & (weight > 0)).sum()
        )

    @pytest.mark.parametrize("rule", [None, HeldOut()])
    def test_data_of_weight_zero_are_no_zeros_to_begin_with(self, rule):
        """Columns of zeros would be rings in the filtered back-projection."""
        image = np.zeros((1, 32, 32), np.float32)
        image[:, 8:24, 6:26] = 1
        A = ParallelBeam((32, 32), range(0, 180, 3))
        weight = np.ones(A(image).shape, np.float32)
        weight[..., 14:17] = 0
        problem = Problem(A(image), A, fidelity=L2(weight))
        begun = []

        def around(known):
            begun.append(known.A.approximate_inverse(known.y))

        grey = replace(GENERATOR, channels=1, bounded=False)
        Fitting(problem, grey, Options(rule=rule), around=around)
        plain = A.approximate_inverse(A(image))
        zeros = A.approximate_inverse(np.where(weight == 0, np.float32(0), A(image)))
        away, before = (np.square(x - plain).mean() for x in (begun[0], zeros))
        assert away < 0.1 * before

    def test_the_middle_of_k_space_is_never_held_out(self):
        """It holds nearly all of the energy: its error would be all that is seen."""
        rng = np.random.default_rng(0)
        image = 1 + 0.1 * rng.random((1, 32, 32))
        A = MRI(rng.random((1, 32, 32)) < 0.5)
        A.mask[0, 16, 16] = True
        y = torch.from_numpy(A(image.astype(np.complex64)))
        measured = torch.from_numpy(A.mask)
        few = [
            HeldOut(share=0.5).choose(Problem(y, A), measured, seed)
            for seed in range(8)
        ]
        assert not any(chosen[0, 16, 16] for chosen in few)
        assert all(int(x.sum()) > 0.45 * int(measured.sum()) for x in few)
        # Data of about one size are all drawn from.
        flat = torch.from_numpy(image.astype(np.float32))
        every = [
            HeldOut(share=0.5).choose(Problem(flat, A), torch.ones_like(flat) > 0, seed)
            for seed in range(40)
        ]
        assert torch.stack(every).any(dim=0).all()

    def test_a_bright_object_on_a_dark_ground_is_held_out_too(self):
        """Not so few data are large there: the ground alone would end the fit."""
        rng = np.random.default_rng(0)
        image = 0.02 * torch.from_numpy(rng.random((1, 32, 32), np.float32))
        image[0, 10:19, 10:19] += 1  # of 8 %
        problem = Problem(image, Identity())
        chosen = HeldOut(share=0.5).choose(problem, image > -1, 0)
        assert 0.3 < chosen[0, 10:19, 10:19].float().mean() < 0.6

    def test_held_out_samples_of_one_coil_leave_an_image_to_begin_with(self):
        """Least squares of the rest is singular there, and must not grow."""
        rng = np.random.default_rng(0)
        image = rng.random((1, 96, 96)).astype(np.complex64)
        A = MRI(rng.random((1, 96, 96)) < 0.4)
        problem = Problem(A(image), A)
        generator = replace(GENERATOR, images="series", channels=1)
        fitting = Fitting(problem, generator, Options(rule=HeldOut(share=0.1)))
        found = float(fitting.state["scale"].max())
        whole = Fitting(problem, generator, Options(rule=None)).state["scale"]
        assert 0.5 < found / float(whole.max()) < 2

    def test_held_out_error_is_that_of_the_average(self):
        problem = noisy()
        fitting = Fitting(problem, GENERATOR, Options(every=1))
        for _ in range(3):
            record = fitting.step()
        held = fitting.chosen
        away = (fitting.kept.average - fitting.problem.y)[held]
        assert record.criterion == pytest.approx(float(away.abs().mean()), rel=1e-5)

    def test_it_stops_early_on_noise(self):
        """Nothing but noise: whatever is fitted beyond the mean is too much."""
        rng = np.random.default_rng(0)
        y = rng.standard_normal((3, 16, 16)).astype(np.float32)
        problem = Problem(y, Sampling(np.ones(y.shape, bool)), truth=0 * y)
        found = run(
            problem,
            replace(GENERATOR, bounded=False),
            iterations=2000,
            input_noise=0.0,
            rule=HeldOut(patience=100, share=0.2),
        )
        assert found.ending == "rule"
        assert found.iterations < 1000
        assert found.iterations - found.best >= 100
        assert error(problem, found.image) < error(problem, found.last)

    def test_moving_variance(self):
        rule = MovingVariance(window=3)
        own = rule.buffers(torch.zeros(1, 2, 2))
        images = torch.randn(5, 1, 2, 2)
        values = [rule.value(Seen(*[None] * 5, x), own) for x in images]
        assert values[:2] == [math.inf, math.inf]
        for i in (2, 3, 4):
            expected = images[i - 2 : i + 1].var(dim=0, correction=0).mean()
            assert values[i] == pytest.approx(float(expected), rel=1e-5)

    def test_moving_variance_of_a_large_complex_image(self):
        rule = MovingVariance(window=2)
        image = torch.randn(1, 3, 100, 100, dtype=torch.complex64)
        own = rule.buffers(image)
        assert own["window"].shape == (2, 2**15)
        rule.value(Seen(*[None] * 5, image), own)
        value = rule.value(Seen(*[None] * 5, 3 * image), own)
        assert value == pytest.approx(0.5, rel=0.05)

    def test_discrepancy(self):
        problem = noisy(0.1)
        found = run(problem, iterations=2000, rule=Discrepancy(deviation=0.1))
        assert found.ending == "rule"
        residual = np.sqrt(np.mean((found.image - problem.y) ** 2))
        assert residual == pytest.approx(0.1, rel=0.02)
        assert found.trajectory[-1].criterion == 0

    def test_sure_of_a_linear_estimate(self):
        """Exact in expectation: of c y it is (c - 1)^2 |x|^2 / m + c^2 s^2."""
        rng = np.random.default_rng(0)
        x = torch.ones(1, 200, 200, dtype=torch.float64)
        y = x + 0.5 * torch.from_numpy(rng.standard_normal(x.shape))
        rule = SURE(deviation=0.5)
        problem = Problem(y, Identity())
        signs = rule.choose(problem, torch.ones_like(y, dtype=torch.bool), 0)
        for c in (0.2, 0.8, 1.0):
            moved = c * (y + rule.probes * signs)
            seen = Seen(c * y, moved, y, signs != 0, signs, y)
            expected = (c - 1) ** 2 + c**2 * 0.25
            assert rule.value(seen, {}) == pytest.approx(expected, abs=0.01)

    @pytest.mark.parametrize("part", ["real", "imag"])
    def test_sure_of_complex_data(self, part):
        """One part kept, the other set to 0: the error of a half of the noise."""
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((2, 1, 300, 300)) * 0.5 / math.sqrt(2)
        y = torch.from_numpy(1.0 + noise[0] + 1j * noise[1])
        rule = SURE(deviation=0.5)
        signs = rule.choose(Problem(y, Identity()), torch.ones_like(y.real) > 0, 0)
        assert (signs.abs() - 1).abs().max() < 1e-12

        def kept(y):
            return y.real + 0j if part == "real" else 1j * y.imag

        seen = Seen(kept(y), kept(y + rule.probes * signs), y, signs != 0, signs, y)
        expected = 0.125 + (part == "imag")
        assert rule.value(seen, {}) == pytest.approx(expected, abs=0.01)

    def test_sure_sees_how_the_input_depends_on_the_data(self):
        problem = noisy(0.1)
        generator = Skip(**SMALL, source="adjoint")
        found = run(problem, generator, rule=SURE(deviation=0.1), iterations=60)
        true = error(problem, found.last)
        assert found.trajectory[-1].criterion == pytest.approx(true, abs=4e-3)
        unbounded = replace(GENERATOR, bounded=False)
        with pytest.raises(ValueError, match="pass a function"):
            run(problem, unbounded, rule=SURE(deviation=0.1), around=problem.y)

    @pytest.mark.parametrize("rule", [SURE(deviation=0.1), Discrepancy(deviation=0.1)])
    def test_other_noise_is_refused(self, rule):
        given = noisy()
        counts = replace(given, y=abs(given.y))  # which are not negative
        for fidelity in (PoissonKL(), L2(2.0)):
            with pytest.raises(ValueError, match="white Gaussian noise"):
                run(replace(counts, fidelity=fidelity), rule=rule)

    @pytest.mark.parametrize("rule", ["held-out", HeldOut])
    def test_a_rule_is_an_instance(self, rule):
        with pytest.raises(TypeError, match="rule must be an instance"):
            run(noisy(), rule=rule)

    def test_too_few_data_to_hold_out(self):
        problem = noisy()
        mask = np.zeros(problem.y.shape, bool)
        mask.flat[:19] = True
        with pytest.raises(ValueError, match="at least 20 data, got 19"):
            run(replace(problem, A=Sampling(mask)))
        mask.flat[:20] = True
        fitting = Fitting(replace(problem, A=Sampling(mask)), GENERATOR, Options())
        assert fitting.chosen.sum() == 1

    def test_sure_fits_a_second_network_to_other_data(self):
        problem = noisy(0.1)
        found = run(problem, rule=SURE(deviation=0.1), iterations=60)
        plain = run(problem, rule=None, iterations=60)
        np.testing.assert_array_equal(found.last, plain.last)
        values = [r.criterion for r in found.trajectory]
        assert all(math.isfinite(v) for v in values)
        true = error(problem, found.last)
        assert values[-1] == pytest.approx(true, abs=3e-3)


class TestStepTowardsData:
    """The average, and the data, as far as held-out ones allow."""

    generator = Skip(**SMALL, images="series", channels=2)

    def coils(self, deviation=0.0):
        truth = series(2).truth.astype(np.complex128)
        rng = np.random.default_rng(3)

        def complex_normal(*shape):
            return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

        maps = complex_normal(6, 16, 16)
        A = MRI(rng.random(truth.shape) < 0.5, maps / np.linalg.norm(maps, axis=0))
        y = A(truth)
        y = A.project_to_samples(y + deviation * complex_normal(*y.shape))
        return Problem(y, A, truth=truth)

    @pytest.mark.parametrize("weight", [1.0, 0.01])
    def test_it_is_the_least_of_both_distances(self, weight, monkeypatch):
        problem = self.coils()
        monkeypatch.setattr(residual, "_WEIGHTS", (weight,))
        monkeypatch.setattr(residual, "STEPS", 50)
        found = stepped(problem, self.generator)
        assert found.step == weight
        gradient = problem.gradient(found.image)
        x = torch.from_numpy(problem.truth)
        norm = ADMM().default_parameters(
            problem.replace_arrays(torch.from_numpy), x, None
        )
        away = weight * norm["penalty"] * (found.image - found.average)
        np.testing.assert_allclose(gradient, -away, atol=1e-6 * np.abs(away).max())

    def test_without_noise_several_coils_tell_all(self):
        problem = self.coils()
        found = stepped(problem, self.generator)
        assert error(problem, found.image) < 0.01 * error(problem, found.average)
        assert 0 < found.step < 1

    def test_with_noise_it_ends_between(self):
        problem = self.coils(deviation=0.3)
        found = stepped(problem, self.generator, iterations=150)
        A, right = problem.A, problem.adjoint()
        explained = conjugate_gradients(
            lambda x: A.adjoint(A(x)), right, np.zeros_like(right), 100
        )
        assert error(problem, found.image) < error(problem, explained)
        assert error(problem, found.image) < 1.02 * error(problem, found.average)

    @pytest.mark.parametrize("options", [{"rule": None}, {"consistent": False}])
    def test_where_nobody_asks_it_stays(self, options):
        options = {"consistent": True} | options
        found = run(self.coils(), self.generator, **options)
        np.testing.assert_array_equal(found.image, found.average)
        assert found.step == 0

    def test_where_no_datum_says_anything_of_another_it_stays(self):
        found = stepped(series(2), self.generator)
        np.testing.assert_array_equal(found.image, found.average)


class TestResidual:
    """A part of what a fit left, cleaned of noise."""

    def striped(self, deviation=0.1):
        stripes = np.broadcast_to(np.arange(32) % 8 < 4, (3, 32, 32))
        truth = (0.25 + 0.5 * stripes).astype(np.float32)
        noise = np.random.default_rng(0).standard_normal(truth.shape)
        y = (truth + deviation * noise).astype(np.float32)
        return Problem(y, Sampling(np.ones(y.shape, bool)), truth=truth)

    def test_what_a_fit_has_lost_comes_back(self):
        problem = self.striped()
        found = stepped(problem, iterations=60)
        assert error(problem, found.image) < 0.5 * error(problem, found.average)
        assert 0 < found.step <= 1

    def test_it_stays_where_what_was_held_out_is_no_nearer(self):
        problem = self.striped()
        measured = np.ones(problem.y.shape, bool)
        held = np.random.default_rng(1).random(measured.shape) < 0.5
        # The residual of what was fitted misleads.
        wrong = np.where(held, problem.y, 1 - problem.truth)
        average = problem.truth
        for given, data in ((average, wrong), (problem.y, problem.y)):
            found, part = cleaned(given, data, measured, held)
            np.testing.assert_array_equal(found, given)
            assert part == 0

    def test_an_image_of_one_channel_keeps_its_axes(self):
        problem = self.striped()
        truth, y = problem.truth[:1, :20], problem.y[:1, :20]
        held = np.random.default_rng(1).random(y.shape) < 0.3
        average = 0.6 * truth + np.float32(0.2)  # less contrast
        found, part = cleaned(average, y, np.ones(y.shape, bool), held)
        assert 0 < part <= 1
        assert found.shape == (1, 20, 32)
        assert found.dtype == np.float32
        assert np.mean((found - truth) ** 2) < 0.5 * np.mean((average - truth) ** 2)

    def test_what_is_not_measured_is_no_residual(self):
        problem = self.striped()
        measured = np.random.default_rng(1).random(problem.y.shape) < 0.7
        held = measured & (np.random.default_rng(2).random(measured.shape) < 0.1)
        average = 0.8 * problem.truth + np.float32(0.1)  # less contrast
        found, _ = cleaned(average, problem.y, measured, held)
        other = np.where(measured, problem.y, np.float32(9))
        np.testing.assert_array_equal(cleaned(average, other, measured, held)[0], found)
        assert error(problem, found) < error(problem, average)

    def test_noise_of_another_kind_is_left(self):
        weight = np.linspace(1, 2, 32, dtype=np.float32)
        for fidelity in (L2(weight), PoissonKL()):
            found = stepped(replace(self.striped(0.01), fidelity=fidelity))
            np.testing.assert_array_equal(found.image, found.average)


def test_a_prior_in_the_loss_is_what_is_minimised():
    prior = HuberVariation(0.05, 0.01)
    fitting = Fitting(noisy(), GENERATOR, Options(prior=prior, every=1, rule=None))
    image = first_image(fitting)
    record = fitting.step()
    data = fitting.problem.value(image)
    expected = float(data + prior.value(image)) / 768
    assert record.loss == pytest.approx(expected, rel=1e-5)
    assert record.data == pytest.approx(float(data) / 768, rel=1e-5)


def test_data_may_have_any_unit():
    generator, unit = replace(GENERATOR, bounded=False), 2.0**-20
    problem = sampled()
    small = replace(problem, y=np.float32(unit) * problem.y)
    one, other = (run(p, generator, iterations=60) for p in (problem, small))
    np.testing.assert_allclose(other.image / unit, one.image, rtol=1e-3, atol=1e-4)
    assert error(problem, one.image) < 0.1


def test_the_distance_of_counts_is_that_of_the_data_that_are_fitted():
    rng = np.random.default_rng(0)
    y = rng.poisson(3 * picture() + 0.9).astype(np.float32)
    fidelity = PoissonKL(0.9)
    problem = Problem(y, Sampling(np.ones(y.shape, bool)), fidelity)
    fitting = Fitting(problem, GENERATOR, Options(rule=HeldOut(share=0.4), every=1))
    image = first_image(fitting)
    fitted = ~fitting.left_out
    expected = fidelity.distance(image[fitted], fitting.problem.y[fitted])
    record = fitting.step()
    assert record.data == pytest.approx(float(expected) / int(fitted.sum()), rel=1e-4)


def test_a_window_must_fit_into_the_iterations():
    with pytest.raises(ValueError, match="must be at least 191 for the window"):
        run(noisy(), rule=MovingVariance(), iterations=190)
    run(noisy(), rule=MovingVariance(window=2), iterations=11)


def first_image(fitting):
    """What the first step makes of the noise that it draws."""
    with torch.no_grad():
        fitting.iteration = 1
        noise = fitting._draw_noise(fitting.options.input_noise, fitting.state["z"])
        fitting.iteration = 0
        return fitting.models[0](fitting.state, fitting.problem, noise)[0]


class TestWhatIsTrained:
    @pytest.mark.parametrize("trained", ["decoder", "singular values"])
    def test_the_rest_stays(self, trained):
        first = Network(GENERATOR, seed=5)
        found = run(noisy(), weights=first, trained=trained, rule=None)
        for name, weight in first.state_dict().items():
            after = found.network.state_dict()[name]
            if trained == "decoder":
                assert torch.equal(weight, after) == ("encoder" in name)
            elif weight.ndim < 2:
                assert torch.equal(weight, after)
            else:
                # The same singular vectors: both products are diagonal in them.
                U, S, Vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
                core = U.mT @ after.flatten(1) @ Vh.mT
                torch.testing.assert_close(
                    core, torch.diag(core.diagonal()), rtol=0, atol=1e-5
                )
                assert (core.diagonal() - S).abs().max() > 1e-4

    def test_it_must_be_of_the_same_recipe(self):
        other = Network(replace(GENERATOR, depth=GENERATOR.depth + 1))
        with pytest.raises(ValueError, match=r"weights: must be .* got those of Skip"):
            run(noisy(), weights=other)


class TestRecorrupted:
    """Fits of networks that see the data."""

    educated = Skip(**SMALL, source="adjoint", bounded=False, residual=True)

    def test_what_is_seen_and_what_is_fitted(self):
        problem = noisy()
        options = Options(recorrupted=0.3, every=1, rule=None)
        fitting = Fitting(problem, self.educated, options)
        seen = []
        begin = Skip.begin

        def spy(recipe, given):
            seen.append(given.y)
            return begin(recipe, given)

        first = fitting.models[0].network
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Skip, "begin", spy)
            record = fitting.step()
        y = fitting.problem.y
        noise = 2 * (seen[0] - y)
        assert float(noise.std()) == pytest.approx(0.3, rel=0.1)
        again = Fitting(problem, self.educated, options).models[0].network
        assert first is not again
        with torch.no_grad():
            rest = again(replace(fitting.problem, y=seen[0])) - (y - 2 * noise)
        expected = float(rest.square().mean()) / 2
        assert record.loss == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("trained", ["all", "decoder", "singular values"])
    def test_any_network_will_do(self, trained):
        problem = noisy()
        recipe = PrimalDual(cells=2, features=4, memory=2, channels=3)
        first = Network(recipe, seed=1)
        options = {"trained": trained, "rule": None, "iterations": 2}
        found = run(problem, recipe, weights=first, recorrupted=0.1, **options)
        after = found.network.state_dict()
        same = {k: torch.equal(x, after[k]) for k, x in first.state_dict().items()}
        early = {k: x for k, x in same.items() if k.startswith("cells.0.")}
        assert all(early.values()) == (trained == "decoder")
        assert not all(same.values())
        with pytest.raises(TypeError, match="PrimalDual is no generator"):
            run(problem, recipe, weights=first, rule=None)

    def test_options_that_suit_a_network(self):
        problem = noisy()
        with pytest.raises(ValueError, match="fits the data with their noise"):
            educated(problem, Network(self.educated, seed=0))  # near its input
        network = Network(Skip(**SMALL, source="adjoint"), seed=0)
        with torch.no_grad():
            image = network(torch.from_numpy(problem.y[None]), problem.A)
        rest = image[0].numpy() - problem.y
        found = educated(problem, network, iterations=7)
        residual = np.sqrt(np.mean(rest**2))
        assert residual * 0.9999 < found.recorrupted < residual * 5
        assert found.iterations == 7
        assert educated(problem, network, 0.3).recorrupted == 0.3
        nothing = replace(problem, y=np.zeros_like(problem.y))
        with pytest.raises(ValueError, match="deviation must be passed"):
            educated(nothing, Network(PrimalDual(cells=1, channels=3), seed=0))
        with pytest.raises(ValueError, match="deviation must be positive, got 0"):
            educated(problem, network, 0.0)
        with pytest.raises(ValueError, match=r"Gaussian noise .* of PoissonKL"):
            educated(replace(problem, fidelity=PoissonKL()), network)

    @pytest.mark.parametrize("block", [1, 2, 8])
    @pytest.mark.parametrize("kind", [np.float32, np.complex64])
    def test_the_noise_that_a_network_reproduces(self, block, kind):
        class Means(torch.nn.Linear):
            recipe = None

            def forward(self, single):
                H, W = single.y.shape[-2:]
                y = single.y.unflatten(-1, (W // block, block))
                y = y.unflatten(-3, (H // block, block)).mean((-1, -3), keepdim=True)
                y = y.expand(*y.shape[:-4], H // block, block, W // block, block)
                return y.reshape(single.y.shape)

        rng = np.random.default_rng(0)
        noise = rng.standard_normal((2, 3, 64, 64)) * 0.1
        noise = noise[0] + 1j * noise[1] if kind is np.complex64 else noise[0]
        problem = Problem(noise.astype(kind) + 1, Sampling(np.ones((3, 64, 64), bool)))
        if block == 1:
            with pytest.raises(ValueError, match="fits the data with their noise"):
                educated(problem, Means(1, 1))
            return
        deviation = 0.1 * (np.sqrt(2) if kind is np.complex64 else 1)
        found = educated(problem, Means(1, 1)).recorrupted
        assert found == pytest.approx(deviation, rel=0.04)

    def test_data_of_double_precision(self):
        problem = noisy()
        network = Network(Skip(**SMALL, source="adjoint"), seed=0)
        double = replace(problem, y=problem.y.astype(np.float64))
        found = educated(double, network).recorrupted
        expected = educated(problem, network).recorrupted
        assert found == pytest.approx(expected, rel=1e-4)
        assert next(network.parameters()).dtype == torch.float32

    def test_the_penalty_of_a_network(self):
        problem = series()
        recipe = SLR(cells=2, features=2)
        network = Network(recipe, seed=0)
        changes = {"iterations": 1, "every": 1, "preconditioned": False}
        how = educated(problem, network, 0.1, **changes)
        free, held = (
            fit(problem, recipe, how, weights=network, penalty=p, progress=False)
            for p in (0.0, 1.0)
        )
        y = torch.from_numpy(problem.y[None])
        noise = Fitting(problem, recipe, how)
        noise.iteration = 1
        seen = y + noise._draw_noise(0.1, y) * torch.from_numpy(problem.A.mask) / 2
        with torch.no_grad():
            known = replace(noise.problem, y=seen)
            _, penalty = network(known, penalty=True)
        more = held.trajectory[0].loss - free.trajectory[0].loss
        assert more == pytest.approx(float(penalty) / problem.A.mask.sum(), rel=1e-3)

    def test_what_does_not_go_with_them(self):
        with pytest.raises(ValueError, match="HeldOut leaves data out"):
            Options(recorrupted=0.1, rule=HeldOut())
        weighted = replace(noisy(), fidelity=L2(2.0))
        for name in ("recorrupted", "preconditioned"):
            with pytest.raises(ValueError, match=f"{name} needs an L2"):
                run(weighted, rule=None, **{name: 1})


def test_residuals_are_preconditioned():
    A = ParallelBeam((16, 16), range(0, 180, 12))
    A = A / A.norm_bound
    problem = Problem(A(picture()[:1]), A)
    recipe = Skip(**SMALL, channels=1)
    records = []
    for preconditioned in (False, True):
        options = Options(preconditioned=preconditioned, rule=None, every=1)
        records.append(Fitting(problem, recipe, options).step())
    model = Fitting(problem, recipe, Options(rule=None, every=1))
    rest = model.problem.A(first_image(model)) - model.problem.y
    expected = (rest * A.preconditioned(rest)).sum() / 2 / rest.numel()
    assert records[0].loss == records[0].data == pytest.approx(records[1].data)
    assert records[1].loss == pytest.approx(float(expected), rel=1e-5)
    assert records[1].loss < 0.5 * records[1].data  # most is of low frequency


def test_around_an_image():
    problem = sampled()
    generator = replace(GENERATOR, bounded=False)
    found = run(problem, generator, around=problem.truth, iterations=1, rule=None)
    assert error(problem, found.image) < 0.02
    with pytest.raises(ValueError, match="around must have shape"):
        run(problem, generator, around=problem.truth[:, 1:])
    with pytest.raises(ValueError, match="around contains NaN"):
        run(problem, generator, around=np.nan * problem.truth)
    with pytest.raises(ValueError, match="bounded=False"):
        run(problem, around=problem.truth)
    unrolled = Unrolled(prior=LowRank(), images="image", cells=1)  # bounds nothing
    once = {"recorrupted": 0.1, "iterations": 1, "rule": None}
    assert run(noisy(), unrolled, around=picture(), **once)


def test_double_precision():
    problem = sampled()
    A = Sampling(problem.A.mask)
    found = run(Problem(problem.y.astype(np.float64), A), iterations=2, rule=None)
    assert found.image.dtype == np.float64


def test_what_lies_outside_the_mask_is_no_data():
    problem = sampled()
    found = stepped(problem, iterations=5)
    dirty = np.where(problem.A.mask, problem.y, np.nan).astype(np.float32)
    same = stepped(replace(problem, y=dirty), iterations=5)
    np.testing.assert_array_equal(found.image, same.image)
    with pytest.raises(ValueError, match="y contains NaN or infinity where it was"):
        run(replace(problem, y=np.full_like(problem.y, np.nan)))


def test_the_network_given_back_can_be_trained():
    first = Network(GENERATOR, seed=5)
    found = run(noisy(), weights=first, trained="decoder", iterations=2)
    assert all(p.requires_grad for p in found.network.parameters())
    decoder = Decoder(features=(4,), depth=4)
    with pytest.raises(ValueError, match="has no encoder"):
        run(noisy(), decoder, trained="decoder")


def test_the_example_in_the_docstring():
    failed, attempted = doctest.testmod(fitting)
    assert failed == 0
    assert attempted > 5


class TestGoingOn:
    @pytest.mark.parametrize(
        "options",
        [
            {"rule": HeldOut(), "consistent": True},
            {"rule": MovingVariance(window=3), "trained": "decoder"},
            {"rule": SURE(deviation=0.1)},
            {"prior": HuberVariation(0.1, 0.01)},
            {"trained": "singular values", "rule": None},
            {"recorrupted": 0.1, "rule": None},
        ],
    )
    def test_the_same_bits(self, options, tmp_path):
        path = tmp_path / "fit.safetensors"
        options = options | {"iterations": 30}
        whole = run(noisy(), **options)
        begun = run(
            noisy(),
            checkpoint=path,
            callback=lambda record: record.iteration == 10,
            **options,
        )
        assert begun.ending == "stopped"
        assert begun.iterations == 10
        ended = run(noisy(), checkpoint=path, **options)
        np.testing.assert_array_equal(ended.image, whole.image)
        np.testing.assert_array_equal(ended.last, whole.last)
        assert [r.iteration for r in ended.trajectory] == [10, 20, 30]
        assert ended.best == whole.best

    def test_a_checkpoint_in_no_folder(self, tmp_path):
        def began(record):
            raise AssertionError("an iteration is done")

        path = tmp_path / "missing" / "fit.safetensors"
        with pytest.raises(FileNotFoundError, match="checkpoint: there is no folder"):
            run(noisy(), checkpoint=path, callback=began)

    def test_a_checkpoint_of_something_else(self, tmp_path):
        path = tmp_path / "fit.safetensors"
        first, other = (Network(GENERATOR, seed=s) for s in (7, 8))
        given = {"iterations": 10, "weights": first, "checkpoint": path}
        run(noisy(), **given)
        counted = replace(noisy(), fidelity=L2(2.0))
        for problem, changes, message in (
            (noisy(), {"rate": 1e-3}, "with other options"),
            (noisy(0.2), {}, "to other data"),
            (noisy(), {"weights": other}, "of other weights"),
            (counted, {}, "of other weights"),
        ):
            with pytest.raises(ValueError, match=message):
                run(problem, **given | changes)
        content = bytearray(path.read_bytes())
        content[-5] ^= 4
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a checkpoint"):
            run(noisy(), **given)

    def test_a_checkpoint_of_another_mask(self, tmp_path):
        """Though the data of both are the same: zeros where only one measures."""
        mask = sampled().A.mask.copy()
        mask[:, :4] = False
        problem = replace(sampled(), A=Sampling(mask), y=Sampling(mask)(picture()))
        given = {"iterations": 10, "checkpoint": tmp_path / "fit.safetensors"}
        run(problem, **given)
        mask = mask.copy()
        mask[:, :4] = True
        with pytest.raises(ValueError, match="to other data"):
            run(replace(problem, A=Sampling(mask)), **given)

    def test_a_fit_that_breaks_down_goes_back(self):
        fitting = Fitting(noisy(), GENERATOR, Options(rule=None))
        for _ in range(60):
            fitting.step()
        with torch.no_grad():
            fitting.models[0].network.cells[0].image[0].shift += 20  # all white
        fitting.step()
        assert fitting.rollback.iterations == [61]
        for _ in range(20):
            fitting.step()
        found = fitting.result("iterations", 0.0)
        assert found.rollbacks == [61]
        assert error(noisy(), found.last) < 0.05

    def test_a_fit_that_explodes_at_once_goes_back(self):
        decoder = Decoder(features=(8, 8), depth=8)
        recipe = Bilinear(rank=2, space=decoder, channels=5, depth=8, time=(3, 4))
        time, place = np.arange(5)[:, None, None], np.arange(16)[:, None]
        x = (0.5 + 0.3 * np.sin(place / 3) + 0j) * np.exp(1j * time / 3) * np.ones(16)
        A = Sampling(np.random.default_rng(0).random(x.shape) < 0.5)
        problem = Problem(A(x.astype(np.complex64)), A)
        options = {"rate": 10.0, "rule": None, "every": 1, "consistent": False}
        found = run(problem, recipe, iterations=150, **options)
        assert found.rollbacks
        assert found.rollbacks[0] < 20
        assert found.trajectory[-1].data < found.trajectory[0].data

    @pytest.mark.parametrize("interrupted", [55, 70, 110])
    def test_a_resumed_fit_goes_back_to_the_same_weights(self, tmp_path, interrupted):
        def advance(fitting, last):
            while fitting.iteration < last:
                if fitting.iteration == 60:
                    with torch.no_grad():
                        fitting.models[0].network.cells[0].image[0].shift += 20
                fitting.step()

        whole, begun, resumed = (
            Fitting(noisy(), GENERATOR, Options(rule=None)) for _ in range(3)
        )
        advance(whole, 120)
        advance(begun, interrupted)
        begun.save(tmp_path / "fit")
        resumed.load(tmp_path / "fit")
        advance(resumed, 120)
        assert resumed.rollback.iterations == whole.rollback.iterations == [61]
        for name, weight in whole.models.state_dict().items():
            assert torch.equal(weight, resumed.models.state_dict()[name]), name

    def test_a_fit_without_noise_is_not_taken_for_broken(self):
        found = run(sampled(), iterations=600, input_noise=0.0, rule=None)
        assert found.ending == "iterations"
        assert found.trajectory[-1].data < 1e-3 * found.trajectory[0].data
        assert len(found.rollbacks) < 3

    def test_a_fit_that_breaks_down_again_and_again_gives_the_best(self):
        fitting = Fitting(noisy(), GENERATOR, Options(every=1))
        for _ in range(60):
            fitting.step()
        before = fitting.kept.best.clone()
        for _ in range(25):
            with torch.no_grad():
                fitting.models[0].network.cells[0].image[0].shift += 20
            fitting.step()
            if fitting.ended():
                break
        assert fitting.ended() == "broken"
        found = fitting.result("broken", 0.0)
        assert len(found.rollbacks) == 21
        np.testing.assert_array_equal(found.average, before.numpy())

    def test_it_may_go_on_for_longer(self, tmp_path):
        path = tmp_path / "fit.safetensors"
        run(noisy(), iterations=35, checkpoint=path)
        longer = run(noisy(), iterations=60, checkpoint=path)
        whole = run(noisy(), iterations=60)
        np.testing.assert_array_equal(longer.last, whole.last)
        with pytest.raises(ValueError, match="iterations must be at least those of"):
            run(noisy(), iterations=50, checkpoint=path)


def test_the_trajectory_is_plain_numbers():
    problem = noisy()
    found = run(problem, measure=lambda image: error(problem, image))
    assert found.trajectory[-1].decibels == pytest.approx(error(problem, found.last))
    json.dumps([vars(r) for r in found.trajectory])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Options, {"iterations": 0}, "iterations must be"),
        (Options, {"seed": -1}, "seed must not"),
        (Options, {"every": 0}, "every must be"),
        (Options, {"rate": 0.0}, "rate must be positive"),
        (Options, {"average": 1.0}, "average must lie"),
        (Options, {"input_noise": -1.0}, "input_noise must not"),
        (Options, {"trained": "nothing"}, "trained must be one of"),
        (Options, {"recorrupted": -1.0}, "recorrupted must not"),
        (HeldOut, {"share": 1.0}, "share must"),
        (HeldOut, {"patience": 0}, "patience must"),
        (MovingVariance, {"window": 1}, "window must"),
        (Discrepancy, {"deviation": 0.0}, "deviation must"),
        (Discrepancy, {"deviation": 1.0, "factor": math.inf}, "factor must"),
        (SURE, {"deviation": 1.0, "probe": 0.0}, "probe must"),
    ],
)
def test_bad_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_what_cannot_be_fitted():
    problem = noisy()
    empty = replace(problem, A=Sampling(np.zeros(problem.y.shape, bool)))
    with pytest.raises(ValueError, match="nothing is measured"):
        run(empty)
    with pytest.raises(TypeError, match="problem must be a Problem"):
        run(problem.y)
    wrong = {"prior": HuberVariation, "weights": 3, "measure": 3}
    for name, value in (*wrong.items(), ("prior", 3)):
        with pytest.raises(TypeError, match=f"{name} must be"):
            run(problem, **{name: value})
