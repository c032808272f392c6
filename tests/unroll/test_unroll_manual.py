"""Solvers that learn in NumPy: their numbers are PyTorch's, their derivatives right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from array_frameworks import gauss

from svdinv.unroll import manual
from svdinv.unroll import torch as faces
from svdinv.unroll.algorithms import ADMM, FISTA, ISTA, PDHG, LowRankPlusSparse
from svdinv.unroll.manual import Solver
from svdinv.unroll.networks import (
    TLR,
    Convolutions,
    LearnedPrior,
    LowRank,
    Number,
    Recipe,
    Sparse,
    Unrolled,
)
from svdinv.unroll.operators import MRI, Blur, Operator, ParallelBeam, Sampling, Stack

B, T, C, H, W = 2, 4, 3, 6, 5

ALGORITHMS = {
    "ISTA": ISTA(),
    "FISTA": FISTA(),
    "FISTA, restart": FISTA(restart=True),
    "L+S": LowRankPlusSparse(),
    "ADMM": ADMM(cg_iterations=2),
    "PDHG": PDHG(),
}
PRIORS = {"LowRank": LowRank(-1.5), "Sparse": Sparse(-1.0)}
KINDS = ("image", "series", "coils")


def recipe(algorithm, prior="LowRank", kind="series", cells=3):
    both = (LowRank(-1.5), PRIORS[prior]) if algorithm == "L+S" else PRIORS[prior]
    kind = "image" if kind == "image" else "series"
    return Unrolled(
        cells=cells, algorithm=ALGORITHMS[algorithm], prior=both, images=kind
    )


RECIPES = {
    f"{s}, {p}, {k}": (recipe(s, p, k), k)
    for s in ALGORITHMS
    for p in PRIORS
    for k in KINDS
}
each = pytest.mark.parametrize("name", RECIPES)


def low_rank(rng, *shape):
    frames = gauss(rng, shape[0], T, 2) @ gauss(rng, shape[0], 2, H * W)
    return frames.reshape(shape) / 3


def problem(kind, seed=0, noise=0.3):
    """Truth, measured values, and what measured them."""
    rng = np.random.default_rng(seed)
    if kind == "image":
        truth = rng.random((B, 3, H, W))
        mask = rng.random(truth.shape) < 0.5
        return truth, mask * truth, mask
    truth = low_rank(rng, B, T, H, W)
    mask = rng.random(truth.shape) < 0.5
    measurement = (mask,)
    if kind == "coils":
        maps = gauss(rng, B, C, H, W)
        measurement += (maps / np.linalg.norm(maps, axis=1, keepdims=True),)
    A = Unrolled().operator(*measurement)
    y = A(truth)
    return truth, y + noise * A(A.H(gauss(rng, *y.shape))), *measurement


def made(recipe, seed=3):
    """Make a solver whose numbers are not those that it starts with."""
    solver = Solver(recipe)
    rng = np.random.default_rng(seed)
    for name, number in solver.numbers.items():
        solver.numbers[name] = np.asarray(number + rng.uniform(0.05, 0.1))
    return solver


def twin(solver):
    """Make the network in PyTorch with the same numbers."""
    net = faces.Network(solver.recipe).double()
    net.load_state_dict({k: torch.as_tensor(v) for k, v in solver.numbers.items()})
    return net


def tensors(*arrays):
    return [torch.as_tensor(a) for a in arrays]


@each
def test_images_and_gradients_are_those_of_pytorch(name):
    recipe, kind = RECIPES[name]
    truth, *measured = problem(kind)
    solver = made(recipe)
    x, pullback = solver.vjp(*measured)
    net = twin(solver)
    found = net(*tensors(*measured))
    np.testing.assert_allclose(x, found.detach().numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(x, solver(*measured))
    assert x.dtype == truth.dtype

    gradient = pullback(x - truth)
    ((found - torch.as_tensor(truth)).abs().square().sum() / 2).backward()
    expected = {k: p.grad.numpy() for k, p in net.named_parameters()}
    assert gradient.keys() == expected.keys() == solver.numbers.keys()
    scale = max(abs(g) for g in expected.values())
    for k, g in expected.items():
        np.testing.assert_allclose(
            gradient[k], g, rtol=1e-10, atol=1e-12 * scale, err_msg=k
        )


def test_the_pullback_is_linear_and_can_be_called_again():
    _, *measured = problem("coils")
    solver = made(recipe("L+S", "Sparse"))
    x, pullback = solver.vjp(*measured)
    rng = np.random.default_rng(2)
    G1, G2 = gauss(rng, *x.shape), gauss(rng, *x.shape)
    one, two, both = pullback(G1), pullback(G2), pullback(2 * G1 - G2)
    for k in both:
        np.testing.assert_allclose(both[k], 2 * one[k] - two[k], rtol=1e-9, atol=1e-9)
    assert pullback(G1) == one


@each
def test_single_precision_stays_single(name):
    recipe, kind = RECIPES[name]
    truth, y, mask, *maps = problem(kind)
    solver = made(recipe)
    x, pullback = solver.vjp(y, mask, *maps)
    expected = pullback(x - truth)
    short = np.float32 if kind == "image" else np.complex64
    x2, pullback2 = solver.vjp(y.astype(short), mask, *maps)  # the maps stay double
    assert x2.dtype == solver(y.astype(short), mask, *maps).dtype == short
    np.testing.assert_allclose(x2, x, atol=1e-4 * abs(x).max())
    found = pullback2((x - truth).astype(short))
    scale = max(abs(g) for g in expected.values())
    for k, g in expected.items():
        assert found[k].dtype == np.float32
        np.testing.assert_allclose(found[k], g, atol=1e-3 * scale, err_msg=k)


@each
def test_black_images(name):
    recipe, kind = RECIPES[name]
    _, y, *measurement = problem(kind)
    solver = made(recipe)
    with np.errstate(all="raise"):
        x, pullback = solver.vjp(np.zeros_like(y), *measurement)
        gradient = pullback(np.ones_like(x))
    assert not x.any()
    assert not any(gradient.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equal_singular_values_leave_finite_gradients(algorithm):
    """A dot that moves: all singular values are 1."""
    series = np.zeros((1, T, H, W), complex)
    for i in range(T):
        series[0, i, i, i] = 1
    A = MRI(np.ones(series.shape, bool))
    solver = made(recipe(algorithm))
    x, pullback = solver.vjp(A(series), A)
    assert np.isfinite(x).all()
    assert np.isfinite(list(pullback(x - 0.5).values())).all()


def test_operators():
    rng = np.random.default_rng(0)
    A = Blur(rng.random((3, 3)))
    truth = rng.random((1, 3, H, W))
    plain = made(recipe("ISTA", kind="image"))
    own = Solver(plain.recipe, operator=A)
    own.numbers = dict(plain.numbers)
    x = plain(A(truth), A)
    np.testing.assert_array_equal(own(A(truth)), x)
    x, pullback = own.vjp(A(truth))
    net = twin(plain)
    found = net(torch.as_tensor(A(truth)), A)
    np.testing.assert_allclose(found.detach().numpy(), x, rtol=1e-10, atol=1e-10)
    (found - torch.as_tensor(truth)).square().sum().backward()
    for k, g in pullback(2 * (x - truth)).items():
        expected = dict(net.named_parameters())[k].grad.numpy()
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-9)


@dataclass(frozen=True, kw_only=True)
class Filtered(Recipe):
    """Preconditioned gradient descent from the operator's own first image."""

    axes: ClassVar[str] = "B C H W"

    def layers(self, last):
        return {"step": Number(0.01)}

    def begin(self, problem):
        return {"x": problem.A.approximate_inverse(problem.y)}

    def cell(self, state, problem, layers):
        A, x = problem.A, state["x"]
        residual = A.preconditioned(A.forward(x) - problem.y)
        return {"x": x - layers.step * A.adjoint(residual)}


def test_what_a_recipe_lacks_or_returns_is_named():
    class Half(Recipe):
        begin, layers = Filtered.begin, Filtered.layers

    with pytest.raises(TypeError, match=r"abstract method '?cell"):
        Half()
    net = faces.Network(Filtered(cells=1), seed=0)
    with pytest.raises(ValueError, match="must have the axes B C H W, got shape"):
        net(torch.ones(9, 9), Sampling(torch.from_numpy(HALF)))


class Exponential(Operator):
    """Nonlinear, of functions that a tape knows."""

    linear = False

    def forward(self, x):
        return np.exp(x)

    def derivative(self, x):
        return Diagonal(np.exp(x))

    def approximate_inverse(self, y):
        return np.log(y) - 0.1


class Diagonal(Operator):
    def __init__(self, factors):
        self.factors = factors

    def forward(self, x):
        return self.factors * x

    adjoint = forward


ANGLES = np.arange(0, 180, 15.0)
HALF = np.arange(81).reshape(9, 9) % 2 == 0


@pytest.mark.parametrize(
    ("recipe", "A"),
    [
        (Filtered(cells=2), ParallelBeam((9, 9), ANGLES)),
        (Filtered(cells=2), 2 * ParallelBeam((9, 9), ANGLES)),
        (
            Filtered(cells=2),
            Stack([ParallelBeam((9, 9), ANGLES), ParallelBeam((9, 9), ANGLES + 7)], -2),
        ),
        (
            recipe("ISTA", kind="image"),
            Stack([Sampling(HALF), Sampling(~HALF)], -2, (9, 9)) * Blur(np.eye(3)),
        ),
        (recipe("ISTA", kind="image"), Exponential()),
    ],
    ids=["parallel beam", "multiple", "stack", "stack of products", "nonlinear"],
)
def test_the_tape_has_the_methods_of_the_operator(recipe, A):
    x = np.random.default_rng(0).random((1, 3, 9, 9))
    y = A(x)
    solver = made(recipe)
    image, pullback = solver.vjp(y, A)
    np.testing.assert_array_equal(image, solver(y, A))
    name = next(iter(solver.numbers))
    value, images = solver.numbers[name], []
    for shift in (-1e-6, 1e-6):
        solver.numbers[name] = value + shift
        images.append(solver(y, A))
    slope = np.sum(x * (images[1] - images[0])) / 2e-6
    np.testing.assert_allclose(pullback(x)[name], slope, rtol=1e-6)


def examples(kind="series", count=3):
    return [problem(kind, seed) for seed in range(count)]


class TestFit:
    def fit(self, solver, data=None, **options):
        data = examples() if data is None else data
        return solver.fit(data, **{"steps": 12, "progress": False} | options)

    def test_the_steps_are_those_of_adam(self):
        data = [problem("coils")]
        truth, *measured = data[0]
        solver = made(recipe("L+S", "Sparse"))
        net = twin(solver)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
        losses = []
        for _ in range(6):
            optimiser.zero_grad()
            error = net(*tensors(*measured)) - torch.as_tensor(truth)
            loss = error.abs().square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        done = self.fit(solver, data, steps=6)
        np.testing.assert_allclose(done, losses, rtol=1e-8)
        for k, p in net.named_parameters():
            np.testing.assert_allclose(solver.numbers[k], p.detach(), rtol=1e-7)

    def test_ended_in_the_callback(self):
        seen = []

        def callback(step, loss):
            seen.append((step, loss))
            return step == 4

        solver, other = (Solver(recipe("ISTA")) for _ in range(2))
        losses = self.fit(solver, callback=callback)
        assert seen == list(enumerate(losses, 1))
        assert losses == self.fit(other, steps=4)
        assert solver.numbers == other.numbers

    @pytest.mark.parametrize("at", ["gradient", "square root"])
    def test_interrupted_within_a_step(self, monkeypatch, at):
        """A step is taken whole, or not at all."""
        name = {"gradient": "prod", "square root": "sqrt"}[at]
        count, whole, taken = 0, getattr(math, name), []

        def interrupt(x):
            nonlocal count
            count += 1
            if count == 12:
                raise KeyboardInterrupt
            return whole(x)

        solver, other = (Solver(recipe("ISTA")) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(manual.math, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                self.fit(solver, callback=lambda step, loss: taken.append(loss))
        assert 0 < len(taken) < 12
        assert self.fit(other, steps=len(taken)) == taken
        assert solver.numbers == other.numbers

    def test_every_example_is_taken_once_an_epoch(self):
        data = examples(count=4)
        solver = Solver(recipe("ISTA", cells=1))
        losses = self.fit(solver, data, steps=8, rate=1e-12)
        assert sorted(losses[:4]) == pytest.approx(sorted(losses[4:]))
        assert len({round(x, 9) for x in losses}) == 4
        orders = {
            tuple(
                np.round(
                    self.fit(
                        Solver(recipe("ISTA", cells=1)),
                        data,
                        steps=4,
                        rate=1e-12,
                        seed=seed,
                    ),
                    9,
                )
            )
            for seed in range(6)
        }
        assert len(orders) > 1

    @pytest.mark.parametrize("where", ["truth", "y"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_data_that_are_not_finite(self, where, value):
        data = [problem("series")]
        solver, other = (Solver(recipe("ISTA")) for _ in range(2))
        truth, y, mask = (a.copy() for a in data[0])
        at = tuple(np.argwhere(mask)[0])
        (truth if where == "truth" else y)[at] = value

        def callback(step, loss):
            if step == 3:
                data[0][0][...], data[0][1][...] = truth, y

        with (
            np.errstate(invalid="ignore", over="ignore"),
            pytest.raises(FloatingPointError, match="step 4 not finite"),
        ):
            self.fit(solver, data, callback=callback)
        self.fit(other, [problem("series")], steps=3)
        assert solver.numbers == other.numbers

    def test_a_truth_of_another_precision(self):
        truth, y, mask = problem("series")
        one, other = (Solver(recipe("ISTA")) for _ in range(2))
        y = y.astype(np.complex64)
        self.fit(one, [(truth, y, mask)])
        self.fit(other, [(truth.astype(np.complex64), y, mask)])
        for k, v in one.numbers.items():
            np.testing.assert_allclose(v, other.numbers[k], rtol=1e-4, atol=1e-5)

    def test_nothing_to_do(self):
        solver = Solver(recipe("ISTA"))
        before = dict(solver.numbers)
        assert self.fit(solver, steps=0) == []
        assert solver.numbers == before

    def test_progress(self, capsys):
        Solver(recipe("ISTA", cells=1)).fit(examples(count=1), steps=2)
        assert "fit: 100%" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"data": []}, "examples must not be empty"),
            ({"steps": -1}, "steps must"),
            ({"rate": 0.0}, "rate must be positive"),
            ({"rate": math.nan}, "rate must be positive"),
        ],
        ids=str,
    )
    def test_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.fit(Solver(recipe("ISTA")), **options)

    def test_misshapen_examples_are_found_before_the_first_step(self):
        truth, y, mask = problem("series")
        for bad, error, message in (
            ((truth[:1], y, mask), ValueError, r"truth must have shape \(2, 4, 6, 5\)"),
            ((truth[..., 0], y, mask), ValueError, r"truth must have shape"),
            ((truth, y[0], mask[0]), ValueError, "axes B T H W"),
            ((truth, y), TypeError, "Unrolled needs after the measured values"),
            ((truth, y, mask * 1.0), TypeError, "mask must be an array of bool"),
            ((truth,), ValueError, "examples must be"),
        ):
            solver = Solver(recipe("ISTA"))
            before = dict(solver.numbers)
            with pytest.raises(error, match=message):
                self.fit(solver, [(truth, y, mask), bad])
            assert solver.numbers == before

    def test_a_complex_truth_of_real_images(self):
        truth, y, mask = problem("image")
        with pytest.raises(TypeError, match="truth must be real, got complex128"):
            self.fit(Solver(recipe("ISTA", kind="image")), [(truth + 0j, y, mask)])


class TestFiles:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_to_pytorch_and_back(self, tmp_path, algorithm):
        path = tmp_path / "x.safetensors"
        solver = made(recipe(algorithm, kind="coils"))
        manual.save(solver, path)
        net = faces.load(path)
        assert net.recipe == solver.recipe
        assert {p.dtype for p in net.parameters()} == {torch.float64}
        _, *measured = problem("coils")
        found = net(*tensors(*measured)).detach().numpy()
        np.testing.assert_allclose(found, solver(*measured), rtol=1e-10, atol=1e-10)
        faces.save(net, path)
        again = manual.load(path)
        assert again.numbers == solver.numbers
        assert again.recipe == solver.recipe

    def test_an_operator_of_its_own(self, tmp_path):
        path = tmp_path / "x.safetensors"
        solver = made(recipe("ISTA", kind="coils"))
        manual.save(solver, path)
        _, y, *measured = problem("coils")
        own = manual.load(path, operator=solver.recipe.operator(*measured))
        np.testing.assert_array_equal(own(y), solver(y, *measured))

    def test_single_precision_becomes_double(self, tmp_path):
        path = tmp_path / "x.safetensors"
        faces.save(faces.Network(recipe("ISTA")), path)
        loaded = manual.load(path)
        assert {x.dtype for x in loaded.numbers.values()} == {np.dtype(np.float64)}
        assert loaded.numbers == Solver(recipe("ISTA")).numbers

    def test_refused(self, tmp_path):
        path = tmp_path / "x.safetensors"
        with pytest.raises(FileNotFoundError, match="there is no file"):
            manual.load(path)
        faces.save(faces.TLRNet(cells=1, features=2), path)
        with pytest.raises(TypeError, match="no convolutions"):
            manual.load(path)
        solver = Solver(recipe("ISTA"))
        del solver.numbers["cells.1.log_step"]
        manual.save(solver, path)
        with pytest.raises(
            ValueError, match=rf"{re.escape(str(path))}: .* needs cells\.1\.log_step"
        ):
            manual.load(path)
        solver = Solver(recipe("ISTA"))
        solver.numbers["cells.1.log_step"] = np.asarray(np.nan)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="log_step is not finite"):
            manual.save(solver, path)
        assert path.read_bytes() == before


@dataclass(frozen=True)
class Kernel(LearnedPrior):
    """A prior that has what the solver cannot learn."""

    def layers(self, axes):
        return {"chain": Convolutions((3, 3), axes=2), "number": Number(1.0)}


@pytest.mark.parametrize(
    "recipe", [TLR(), Unrolled(prior=Kernel(), images="image")], ids=["TLR", "prior"]
)
def test_convolutions_are_refused(recipe):
    with pytest.raises(TypeError, match="only numbers as layers, no convol"):
        Solver(recipe)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="must be a Recipe, got str"):
        Solver("ISTA")
    solver, (_, y, mask) = Solver(recipe("ISTA", kind="image")), problem("image")
    with pytest.raises(TypeError, match="needs after the measured"):
        solver.vjp(y)
    with pytest.raises(TypeError, match=r"real and floating point .* got int64"):
        solver.vjp(y.astype(int), mask)
    for G in (np.ones((1, 3, H, W)), [1.0]):
        with pytest.raises(ValueError, match=r"G must be .* shape \(2, 3, 6, 5\), got"):
            solver.vjp(y, mask)[1](G)
    with pytest.raises(TypeError, match="steps must be an integer"):
        solver.fit([(y, y, mask)], steps=2.5)
    with pytest.raises(TypeError, match=r"y must be .* NumPy or CuPy, got Tensor"):
        solver.vjp(torch.tensor(y), torch.tensor(mask))
    solver.numbers["cells.0.log_stepp"] = np.array(3.0)
    for call in (solver, solver.vjp):
        with pytest.raises(ValueError, match=r"too many are \['cells.0.log_stepp'\]"):
            call(y, mask)


@pytest.mark.gpu
class TestCuPy:
    """The same numbers as NumPy's."""

    @pytest.fixture(autouse=True)
    def _gpu(self):
        cupy = pytest.importorskip("cupy")
        if not cupy.is_available():
            pytest.skip("no CUDA GPU")

    @each
    def test_images_and_gradients(self, name):
        import cupy

        recipe, kind = RECIPES[name]
        truth, *measured = problem(kind)
        solver = made(recipe)
        x, pullback = solver.vjp(*measured)
        x2, pullback2 = solver.vjp(*map(cupy.asarray, measured))
        np.testing.assert_allclose(cupy.asnumpy(x2), x, rtol=1e-9, atol=1e-9)
        found, expected = pullback2(x2 - cupy.asarray(truth)), pullback(x - truth)
        scale = max(abs(g) for g in expected.values())
        for k, g in expected.items():
            np.testing.assert_allclose(
                cupy.asnumpy(found[k]), g, rtol=1e-8, atol=1e-10 * scale
            )

    def test_fit(self):
        import cupy

        data = examples(count=2)
        on_gpu = [tuple(map(cupy.asarray, example)) for example in data]
        one, other = (Solver(recipe("L+S", "Sparse")) for _ in range(2))
        expected = one.fit(data, steps=5, progress=False)
        found = other.fit(on_gpu, steps=5, progress=False)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert all(isinstance(x, np.ndarray) for x in other.numbers.values())
