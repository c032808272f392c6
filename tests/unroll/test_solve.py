from __future__ import annotations

import itertools
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from array_frameworks import gauss

import svdinv.numpy
from svdinv.unroll.algorithms import (
    ADMM,
    EM,
    FISTA,
    ISTA,
    PDHG,
    GradientDescent,
    Interrupted,
    LowRankPlusSparse,
    solve,
)
from svdinv.unroll.algorithms.search import best_solution
from svdinv.unroll.algorithms.solver import _changed_little
from svdinv.unroll.fidelity import L2, PoissonKL
from svdinv.unroll.operators import (
    MRI,
    Blur,
    Coils,
    Dense,
    Identity,
    Sampling,
    TemporalFourier,
    WrappedNonlinear,
    gaussian_sensing,
    operator_norm,
)
from svdinv.unroll.priors import (
    Casorati,
    HuberVariation,
    LocalLowRank,
    Nuclear,
    Prior,
    Sparse,
    TensorNuclear,
    Tikhonov,
    TotalVariation,
)
from svdinv.unroll.problem import Problem

T, H, W = 6, 8, 7
SCHEMES = {
    "gradient descent": (GradientDescent(), HuberVariation(0.1, 0.2)),
    "ista": (ISTA(), Casorati(0.3)),
    "fista": (FISTA(), LocalLowRank(0.3, 4)),
    "fista, restart": (FISTA(restart=True), TensorNuclear(0.3)),
    "admm": (ADMM(cg_iterations=3), Sparse(0.1, TemporalFourier())),
    "pdhg": (PDHG(), TotalVariation(0.1)),
    "low rank plus sparse": (
        LowRankPlusSparse(),
        (Casorati(0.3), Sparse(0.1, TemporalFourier())),
    ),
}


@pytest.fixture
def measured(rng):
    A = MRI(rng.random((T, H, W)) < 0.5, gauss(rng, 2, H, W))
    return A(gauss(rng, T, H, W)), A


@pytest.mark.parametrize(
    "name", ["fista, restart", "admm", "pdhg", "low rank plus sparse"]
)
def test_every_framework_solves(name, arrays, measured, rng):
    """The start, and the state to go on from, may be arrays of NumPy."""
    algorithm, R = SCHEMES[name]
    y, A = measured
    options = {"algorithm": algorithm, "iterations": 4}
    first = {"x0": rng.standard_normal((T, H, W))}
    for _ in range(2):
        expected = solve(Problem(y, A), R, **options, **first)
        found = solve(Problem(arrays.array(y), A), R, **options, **first)
        assert arrays.owns(found.image)
        np.testing.assert_allclose(
            arrays.numpy(found.image), expected.image, atol=1e-10
        )
        np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-9)
        assert all(type(value) is float for value in found.objective)
        assert found.iterations == len(found.objective) == 4
        first = {"state": expected.state}


def test_numbers_of_numpy_are_parameters_and_weights(arrays, measured):
    y, A = measured
    options = {"algorithm": FISTA(), "iterations": 3}
    expected = solve(Problem(y, A), Casorati(0.5), **options)
    for number in (np.float64, np.float32, np.array):
        step = {"step": number(expected.parameters["step"])}
        R = Casorati(np.array(0.5))
        found = solve(Problem(arrays.array(y), A), R, parameters=step, **options)
        np.testing.assert_allclose(arrays.numpy(found.image), expected.image, atol=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_resuming_is_as_if_there_had_been_no_end(name, measured):
    algorithm, R = SCHEMES[name]
    y, A = measured
    whole = solve(Problem(y, A), R, algorithm=algorithm, iterations=9, rtol=0)
    first = solve(Problem(y, A), R, algorithm=algorithm, iterations=4, rtol=0)
    second = solve(
        Problem(y, A), R, algorithm=algorithm, iterations=5, rtol=0, state=first.state
    )
    assert (first.iterations, first.stopped, first.converged) == (
        4,
        "iterations",
        False,
    )
    np.testing.assert_array_equal(second.image, whole.image)
    assert first.objective + second.objective == whole.objective
    for key, array in whole.state.items():
        np.testing.assert_array_equal(second.state[key], array)


def test_it_stops_once_the_change_is_small(measured):
    y, A = measured
    changes = []

    def note(_, state):
        changes.append(state["x"])

    found = solve(
        Problem(y, A), Casorati(2.0), algorithm=ISTA(), rtol=1e-3, callback=note
    )
    *_, before, last = changes
    assert found.stopped == "converged"
    assert found.converged
    assert found.iterations == len(changes) < 200
    assert np.linalg.norm(last - before) <= 1e-3 * np.linalg.norm(last)
    third = changes[-3]
    assert np.linalg.norm(before - third) > 1e-3 * np.linalg.norm(before)


@pytest.mark.parametrize(
    ("prior", "rtol"), [(Nuclear(1e-3), 1e-5), (Sparse(1e-4), 1e-4)]
)
def test_momentum_that_has_just_been_reset_is_no_convergence(prior, rtol):
    """Of what comes after the end no iteration changes more."""
    y, x = np.mgrid[:48, :40]
    image = ((y // 8 + x // 8) % 2) * 1.0
    kernel = np.exp(-(((np.arange(9) - 4) / 2) ** 2))
    A = Blur(np.outer(kernel, kernel) / kernel.sum() ** 2)
    problem = Problem(A(image), A)
    found = solve(problem, prior, iterations=2000, rtol=rtol)
    assert found.converged
    images = [found.image]
    solve(
        problem,
        prior,
        iterations=300,
        rtol=0,
        state=found.state,
        callback=lambda _, state: images.append(state["x"]),
    )
    changes = [np.linalg.norm(b - a) for a, b in itertools.pairwise(images)]
    assert max(changes) < rtol * np.linalg.norm(found.image)


@pytest.mark.parametrize(("rtol", "most"), [(1e-2, 10), (1e-4, 16), (5e-7, 30)])
def test_where_momentum_is_reset_often_it_stops(rtol, most, rng):
    maps = gauss(rng, 4, 24, 20)
    maps /= np.sqrt((abs(maps) ** 2).sum(axis=0))
    A = MRI(rng.random((T, 24, 20)) < 0.9, maps.astype(np.complex64))
    y = A(gauss(rng, T, 24, 20).astype(np.complex64))
    found = solve(Problem(y, A), Nuclear(0.05), rtol=rtol)
    assert found.converged
    assert found.iterations <= most


def test_where_momentum_turns_is_no_convergence():
    """The image hardly changes from one iteration to the next, and then it does."""
    state = {"x": np.ones(4), "ahead": np.ones(4) + 0.1, "momentum": np.array(9.0)}
    old = state | {"ahead": np.ones(4) - 0.1}
    assert not _changed_little(FISTA(), old, state, 1e-4)
    assert _changed_little(FISTA(), state, state, 1e-4)


def test_with_a_nonlinear_operator_it_continues():
    A = WrappedNonlinear(
        lambda x: x**2, lambda x, dx: 2 * x * dx, lambda x, y: 2 * x * y, (3,), (3,)
    )
    P, x0 = Problem(np.array([1.0, 4.0, 9.0]), A), np.full(3, 1.5)
    options = {"parameters": {"step": 0.01}, "rtol": 0}
    whole = solve(P, Tikhonov(1e-3), x0=x0, iterations=30, **options)
    half = solve(P, Tikhonov(1e-3), x0=x0, iterations=15, **options)
    rest = solve(P, Tikhonov(1e-3), state=half.state, iterations=15, **options)
    assert rest.image.tobytes() == whole.image.tobytes()
    weight, best = best_solution(
        P, Tikhonov, lambda x: -((x - [1, 2, 3]) ** 2).sum(), first=0.1, low=1e-6,
        high=1, algorithm=GradientDescent(), parameters=lambda _: {"step": 0.01}, x0=x0,
    )  # fmt: skip
    assert weight < 0.1
    np.testing.assert_allclose(best.image, [1, 2, 3], atol=0.01)
    with pytest.raises(ValueError, match="x0 is required"):
        solve(P, Tikhonov(1e-3))
    for state in ({}, {"z": x0}, 3):
        with pytest.raises(TypeError, match="state must be the state of a Solution"):
            solve(P, Tikhonov(1e-3), state=state)
    with pytest.raises(ValueError, match="x of state contains NaN"):
        solve(P, Tikhonov(1e-3), state={"x": x0 * np.nan})
    with pytest.raises(ValueError, match="state must be that of GradientDescent"):
        solve(P, Tikhonov(1e-3), state={"x": x0, "q": 1})


def test_masked_data_are_refused():
    y = np.ma.masked_array(np.ones((9, 9)), np.eye(9))
    with pytest.raises(TypeError, match="y must not be numpy"):
        solve(Problem(y, Identity()), Nuclear(0.5))


@pytest.mark.parametrize("prior", [Casorati, TotalVariation])
def test_weights_of_another_framework_are_refused(prior):
    torch = pytest.importorskip("torch")
    y, mask = np.ones((3, 6, 5)), np.ones((6, 5), bool)
    with pytest.raises(TypeError, match="cannot be combined with"):
        solve(Problem(y, Sampling(mask)), prior(torch.tensor(0.1)))


def test_dual_variables_have_to_settle_too(measured):
    """PDHG from the solution and dual variables of 0: x alone would stop too early."""
    y, A = measured
    R = TotalVariation(0.3)
    solution = solve(Problem(y, A), R, iterations=5000, rtol=1e-10).image
    from_there = solve(Problem(y, A), R, x0=solution, rtol=1e-4, iterations=3000)
    assert from_there.iterations > 10


def test_the_callback_sees_and_stops(measured):
    y, A = measured
    seen = []

    def callback(iteration, state):
        seen.append((iteration, state["x"].shape))
        return iteration == 4

    found = solve(Problem(y, A), Casorati(0.3), callback=callback)
    assert seen == [(i, (T, H, W)) for i in (1, 2, 3, 4)]
    assert (found.stopped, found.iterations) == ("callback", 4)


@pytest.mark.parametrize("where", ["callback", "prox", "value"])
def test_ctrl_c_keeps_what_there_is(where, measured):
    y, A = measured
    calls = {"prox": 0, "value": 0}

    class Pressed(Casorati):
        def counted(self, name):
            calls[name] += 1
            if name == where and calls[name] == 4:
                raise KeyboardInterrupt

        def prox(self, x, step):
            self.counted("prox")
            return super().prox(x, step)

        def value(self, x):
            self.counted("value")
            return super().value(x)

    def callback(iteration, state):
        if where == "callback" and iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after 3 iterations") as press:
        solve(Problem(y, A), Pressed(0.3), callback=callback, rtol=0)
    found = press.value.solution
    plain = solve(Problem(y, A), Casorati(0.3), iterations=3, rtol=0)
    assert (found.stopped, found.iterations) == ("interrupted", 3)
    np.testing.assert_array_equal(found.image, plain.image)
    assert found.objective == plain.objective


def test_objective_is_that_of_the_definition(measured):
    y, A = measured
    found = solve(Problem(y, A), Casorati(0.3), iterations=4, rtol=0)
    singular = np.linalg.svd(found.image.reshape(T, -1), compute_uv=False)
    data = np.linalg.norm(A(found.image) - y) ** 2 / 2
    assert found.objective[-1] == pytest.approx(data + 0.3 * singular.sum())
    assert (
        solve(Problem(y, A), Casorati(0.3), iterations=4, objective=False).objective
        == []
    )


def test_default_steps_come_from_the_norm(measured):
    y, A = measured
    norm = operator_norm(A, A.H(y), iterations=2000, rtol=1e-12)

    def used(R, **options):
        return solve(Problem(y, A), R, iterations=1, **options).parameters

    step = used(Casorati(1))["step"] * norm**2
    assert 0.95 < step <= 1
    pdhg = used(TotalVariation(1))
    squared = norm**2 + 8 * pdhg["transform_ratio"]
    product = pdhg["step"] * pdhg["dual_step"] * squared
    assert 0.95 < product <= 1
    plus = used((Casorati(1), Sparse(1)))["step"] * norm**2
    assert 0.85 < plus <= 0.9
    descent = used(HuberVariation(1, 0.1))["step"] * (norm**2 + 80)
    assert 0.95 < descent <= 1
    assert used(Casorati(1), parameters={"step": 0.25}) == {"step": 0.25}
    for name in ("step", "dual_step"):
        steps = used(Casorati(1), algorithm=PDHG(), parameters={name: 5.0})
        assert steps[name] == 5
        assert steps["step"] * steps["dual_step"] * norm**2 == pytest.approx(
            1, rel=0.03
        )
    both = used(Casorati(1), algorithm=ADMM(), parameters={"dual_step": 1.5})
    assert both["dual_step"] == 1.5
    assert both["penalty"] == pytest.approx(norm**2, rel=0.05)
    assert used(Casorati(1)) == used(Casorati(1))


@pytest.mark.parametrize(
    ("R", "iterations"),
    [(Nuclear(0.1), 50), (Tikhonov(0.1), 50), (TotalVariation(0.1), 50)],
)
def test_real_images_stay_real(R, iterations, rng):
    A = Blur(np.ones((3, 3)) / 9)
    y = A(rng.random((10, 12), dtype=np.float32))
    found = solve(Problem(y, A), R, iterations=iterations)
    assert found.image.dtype == np.float32


def test_batches_are_solved_together(rng):
    A = gaussian_sensing(30, (6, 5), 0, dtype=np.float64)
    y = A(rng.standard_normal((3, 6, 5)))
    together = solve(
        Problem(y, A), Nuclear(0.1), algorithm=FISTA(), iterations=50, rtol=0
    ).image
    p = solve(Problem(y, A), Nuclear(0.1), algorithm=FISTA(), iterations=1).parameters
    apart = [
        solve(
            Problem(part, A),
            Nuclear(0.1),
            algorithm=FISTA(),
            iterations=50,
            rtol=0,
            parameters=p,
        ).image
        for part in y
    ]
    np.testing.assert_allclose(together, apart, atol=1e-10)


def test_parts_are_those_of_low_rank_plus_sparse_only(measured):
    y, A = measured
    found = solve(Problem(y, A), Casorati(1), iterations=1)
    assert found.low_rank is None
    assert found.sparse is None
    R = SCHEMES["low rank plus sparse"][1]
    found = solve(Problem(y, A), R, iterations=60, rtol=0)
    np.testing.assert_array_equal(found.image, found.low_rank + found.sparse)
    assert np.diff(found.objective).max() <= 1e-12 * found.objective[0]


def test_progress_bar(measured, capsys):
    y, A = measured
    solve(Problem(y, A), Casorati(0.3), iterations=5, rtol=0, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert "objective=" in shown
    solve(Problem(y, A), Casorati(0.3), iterations=5, rtol=0)
    assert capsys.readouterr().err == ""


def test_a_missing_bar_is_explained(measured, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    y, A = measured
    with pytest.raises(ImportError, match=r"\[unroll\]"):
        solve(Problem(y, A), Casorati(0.3), progress=True)


def test_divergence_is_told(measured):
    y, A = measured
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match="steps are too large"),
    ):
        solve(
            Problem(y, A),
            Tikhonov(0.3),
            parameters={"step": 1e6},
            iterations=2000,
            rtol=0,
            objective=False,
        )
    with pytest.raises(FloatingPointError, match="rose in each of the last 20"):
        solve(Problem(y, A), Tikhonov(0.3), parameters={"step": 10.0}, iterations=60)

    class Negative:
        """An objective below 0 that rises, slowly, to its limit."""

        def value(self, x):
            return -10.0

        def prox(self, x, step):
            return 0.98 * x

    y = np.ones((4, 4))
    found = solve(
        Problem(y, Identity()), Negative(), algorithm=ADMM(), x0=y, iterations=25,
    )  # fmt: skip
    assert found.objective[-1] > found.objective[0]


def test_jax_does_not_trace_it():
    """The iterations of an algorithm it does trace."""
    jax = pytest.importorskip("jax")
    y = jax.numpy.ones((4, 4))

    def loss(y):
        return solve(Problem(y, Identity()), Nuclear(0.3)).image.sum()

    for traced in (jax.grad(loss), jax.jit(loss)):
        with pytest.raises(TypeError, match=r"JAX cannot trace .* as solve, .*iterate"):
            traced(y)

    class Own(Nuclear):
        """Whose error is its own."""

        def prox(self, x, step):
            return jax.jit(lambda x: x if x.sum() > 0 else -x)(x)

    with pytest.raises(jax.errors.TracerBoolConversionError):
        solve(Problem(y, Identity()), Own(0.3))
    algorithm, prior = ISTA(), Nuclear(0.3)

    def iterated(y):
        own = Problem(y, Identity())
        return algorithm.iterate(algorithm.start(own), own, prior.prox, {"step": 0.5})[
            "x"
        ].sum()

    assert np.isfinite(jax.grad(iterated)(y)).all()


def test_what_split_returns_is_checked(measured):
    class Split:
        def value(self, x):
            return 0.0

        def split(self):
            return Identity(), Nuclear(0.3)

    class Half(Split):
        def split(self):
            return Identity()

    y, A = measured
    for prior, got in ((Split(), "Nuclear"), (Half(), "Identity")):
        with pytest.raises(TypeError, match=rf"prox\(z, step\), got .*{got}"):
            solve(Problem(y, A), prior)
        with pytest.raises(TypeError, match=r"ISTA.* cannot use .*; PDHG can"):
            solve(Problem(y, A), prior, algorithm=ISTA())


class Own:
    """The prior |x|^2 / 2; `wrong` is applied to its proximal operator."""

    def __init__(self, wrong=None):
        self.wrong = wrong

    def value(self, x):
        return np.vdot(x, x).real / 2

    def gradient(self, x):
        return x

    def prox(self, x, step):
        return x / (1 + step) if self.wrong is None else self.wrong(x)


def test_a_gradient_without_its_lipschitz_constant(measured):
    problem, descent = Problem(*measured), {"algorithm": GradientDescent()}
    expected = solve(problem, Tikhonov(1.0), rtol=1e-9).image
    step = 0.5 / (1 + operator_norm(measured[1], expected) ** 2)
    for options in (
        {},
        {"algorithm": ISTA()},
        {**descent, "parameters": {"step": step}},
    ):
        found = solve(problem, Own(), rtol=1e-9, iterations=3000, **options).image
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match=r"no lipschitz\(x\)"):
        solve(problem, Own(), **descent)


Y = np.ones((T, H, W))
A = Sampling(np.ones((H, W), bool))
R = Casorati(1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: solve(Problem(Y > 0, A), R), TypeError, "y must be floating point"),
        (lambda: solve(Problem(Y * np.nan, A), R), ValueError, "y contains NaN"),
        (lambda: solve(Problem(Y * np.inf, A), R), ValueError, "y contains NaN"),
        (lambda: solve(Problem(Y[..., :3], A), R), ValueError, "broadcast"),
        (lambda: solve(Problem(Y, A), R, x0=Y[0]), ValueError, "x0 must have the sha"),
        (lambda: solve(Problem(Y, A), R, x0=Y + 0j), TypeError, "x0 must be real"),
        (lambda: solve(Problem(Y, A), R, x0=Y * np.nan), ValueError, "x0 contains NaN"),
        # Otherwise the first of them has converged at once.
        (lambda: solve(Problem(Y * 1e-170, A), R), ValueError, "y must have other un"),
        (lambda: solve(Problem(Y * 1e160, A), R), ValueError, "y must have other un"),
        (lambda: solve(Problem(Y, A), R, iterations=0), ValueError, "iterations"),
        (lambda: solve(Problem(Y, A), R, rtol=-1), ValueError, "rtol"),
        (lambda: solve(Problem(Y, A), R, rtol=np.nan), ValueError, "rtol"),
        (
            lambda: solve(Problem(Y, A), R, x0=Y, state={"x": Y}),
            ValueError,
            "x0 and state both",
        ),
        (lambda: solve(Problem(Y, A), R, state={"x": Y}), ValueError, "state must be"),
        (
            lambda: solve(Problem(Y, A), R, algorithm=ISTA(), state={"x": Y[0]}),
            ValueError,
            "state must be",
        ),
        (lambda: solve(Problem(Y, A), R, parameters={"steps": 1}), ValueError, "steps"),
        (
            lambda: solve(Problem(Y, A), R, algorithm=GradientDescent()),
            TypeError,
            "gradient",
        ),
        (lambda: solve(Problem(Y, A), (R, R, R)), TypeError, "two priors"),
        (lambda: solve(Problem(Y, A), Casorati), TypeError, "prior must be an object"),
        (
            lambda: solve(Problem(Y, A), lambda x, step: x),
            TypeError,
            "prior must be an object",
        ),
        (lambda: solve(Problem(Y, A), "tv"), TypeError, "prior must be an obj.* 'tv'"),
        (
            lambda: solve(Problem(Y, Coils(np.ones((1, H, W)))), Nuclear(1)),
            ValueError,
            "y has the shape",
        ),
        (lambda: solve(Problem(Y, 0 * Identity()), R), ValueError, "no default step"),
        (
            lambda: solve(Problem(Y + 0j, A), R, algorithm=PDHG(nonnegative=True)),
            TypeError,
            "nonnegative images must be real",
        ),
        (
            lambda: solve(Problem(Y + 0j, Identity(), PoissonKL()), R),
            TypeError,
            "y must be counts",
        ),
        (
            lambda: solve(Problem(Y, A), R, parameters={"step": 0}),
            ValueError,
            "parameter step must be positive",
        ),
        *(
            (
                lambda A=A, x0=x0: solve(Problem(Y, A, PoissonKL()), None, x0=x0),
                ValueError,
                "no positive element",
            )
            for A, x0 in ((A, 0 * Y), (A, -Y), (-1.0 * A, None))
        ),
        *(
            (
                lambda wrong=wrong, algorithm=algorithm: solve(
                    Problem(Y + 0j, A), Own(wrong), algorithm=algorithm
                ),
                TypeError,
                "the prox of .* must return an array of the shape and dtype",
            )
            for wrong in (abs, lambda x: x[:1], lambda x: None)
            for algorithm in (ISTA(), ADMM(), PDHG())
        ),
        (
            lambda: solve(Problem(Y, A), HuberVariation(1, 1), algorithm=ISTA()),
            TypeError,
            "needs a prox, which HuberVariation",
        ),
        (lambda: solve(Problem(Y, A), R, algorithm="ISTA"), TypeError, "an Algorithm"),
        (lambda: solve(Problem(Y, A), R, iterations=3.5), TypeError, "an integer"),
        (
            lambda: solve(Problem(Y, A), R, parameters={"step": np.float64(-1)}),
            ValueError,
            "parameter step must be positive",
        ),
        (
            lambda: solve(Problem(Y, A), R, parameters={"step": "a"}),
            TypeError,
            "parameter step must be a number",
        ),
        (
            lambda: solve(Problem(Y, A), (R, HuberVariation(1, 1))),
            TypeError,
            "needs a prox",
        ),
        (lambda: solve(Problem(Y[:0], A), R), ValueError, "y must have elements"),
        (
            lambda: solve(Problem(Y, A), R, state=solve(Problem(Y, A), R)),
            TypeError,
            "state must be a dict, the state of a Solution",
        ),
        (
            lambda: solve(Problem(Y, A), R, x0=[1.0]),
            TypeError,
            "x0 must be a NumPy array, got list",
        ),
        (
            lambda: solve(Problem(Y, A), SimpleNamespace(prox=lambda v, step: v)),
            TypeError,
            r"prior needs value\(x\), or objective=False",
        ),
        (
            lambda: solve(Problem(np.ones(3), Dense(np.full((3, 2), np.nan), (2,))), R),
            ValueError,
            "A.H y is not finite for .*, but y is",
        ),
        (
            lambda: solve(Problem(Y, A, L2(np.ma.array(np.ones(Y.shape)))), R),
            TypeError,
            "weight must not be numpy.ma",
        ),
        (
            lambda: solve(
                Problem(
                    Y, Identity(), L2((np.arange(len(Y)) > 0)[:, None, None] * 1.0)
                ),
                R,
                algorithm=ADMM(exact_data=True),
            ),
            ValueError,
            "exact_data restores all data and needs positive weights",
        ),
        (lambda: L2(np.float32(np.inf)), ValueError, "weight must be finite and posit"),
        (lambda: Casorati(np.inf), ValueError, "weight must be finite"),
        (lambda: Casorati([1, 2]), ValueError, "weight must be one number"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("weight", [0.003, 0.03, 0.3])
def test_primal_dual_steps_suit_the_weight(weight):
    """At the default number of iterations it is as far as FISTA with an inner loop."""
    y, x = np.mgrid[:24, :24] / 24
    rng = np.random.default_rng(3)
    image = (x + y > 0.9) + 0.3 * x + 0.05 * rng.standard_normal(x.shape)
    A = Sampling(rng.random(image.shape) < 0.5)
    R = TotalVariation(weight)
    pdhg = solve(Problem(A(image), A), R)
    fista = solve(Problem(A(image), A), R, algorithm=FISTA(restart=True))
    assert pdhg.objective[-1] < 1.02 * fista.objective[-1]


@pytest.mark.parametrize("name", ["L+S", "TV"])
def test_the_norm_of_the_operator_is_of_no_account(name):
    """With the weights of the priors times its square, the problem is the same."""
    x = np.zeros((4, 12, 10))
    x[:, 3:8, 2:7] = 1 + 0.2 * np.arange(4)[:, None, None]
    sampled = MRI(np.random.default_rng(0).random(x.shape) < 0.5)
    known = []
    for c in (1.0, 1e-3, 24.0, 1e4):
        if name == "L+S":
            weights = 0.1 * c * c, 0.01 * c * c
            A, image = c * sampled, x + 0j
            prior = Casorati(weights[0]), Sparse(weights[1], TemporalFourier())
        else:
            A, image = c * Blur(np.ones((3, 3)) / 9), x[0]
            prior = TotalVariation(0.01 * c * c)
        found = solve(Problem(A(image), A), prior, iterations=150)
        known.append((found.objective[-1] / c**2, found.image))
        np.testing.assert_allclose(known[-1][0], known[0][0], rtol=1e-6)
        np.testing.assert_allclose(known[-1][1], known[0][1], atol=1e-6)


@pytest.mark.parametrize("name", ["Nuclear", "nonnegative", "counts", "counts, TV"])
def test_the_norm_of_the_operator_is_of_no_account_for_primal_dual_steps(name, rng):
    """Images are in units of 1 / c; with counts the objective stays the same."""
    x = np.maximum(rng.standard_normal((12, 2)) @ rng.standard_normal((2, 10)), 0)
    sampled = Blur(np.ones((3, 3)) / 9)
    counts = rng.poisson(50 * sampled(x)).astype(float)
    known = []
    for c in (1.0, 1e-5, 24.0, 1e4):
        A, y, fidelity, prior = c * sampled, c * sampled(x), L2(), None
        if name == "Nuclear":
            prior = Nuclear(0.1 * c * c)
        elif name.startswith("counts"):
            y, fidelity = counts, PoissonKL(1.0)
            prior = (TotalVariation if "TV" in name else Nuclear)(0.3 * c)
        algorithm = PDHG(nonnegative=name != "Nuclear")
        problem = Problem(y, A, fidelity)
        found = solve(problem, prior, algorithm=algorithm, iterations=150, rtol=0)
        known.append(found.image if y is not counts else c * found.image)
        np.testing.assert_allclose(known[-1], known[0], rtol=1e-6, atol=1e-9)
    if "counts" in name:
        settled = solve(problem, prior, algorithm=algorithm, iterations=20_000)
        assert found.objective[-1] < 1.02 * settled.objective[-1]


def test_it_stops_once_the_dual_variables_of_differences_have_settled(rng):
    """Of a large weight, the image is its mean."""
    y = np.mgrid[:32, :32][0] / 32 + 0.1 * rng.standard_normal((32, 32))
    found = solve(Problem(y, Identity()), TotalVariation(100.0), iterations=20_000)
    assert found.stopped == "converged"
    assert found.objective[-1] < 1.02 * ((y - y.mean()) ** 2).sum() / 2


def test_it_stops_once_every_image_of_a_batch_has_settled(rng):
    """A small image beside a large one."""
    x = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 12))
    A, R = Sampling(rng.random((12, 12)) < 0.5), Nuclear(1e-5)
    y = A(np.stack([x, 1e-4 * x]))
    algorithm = FISTA(restart=True, batch_axes=1)
    found = solve(Problem(y, A), R, algorithm=algorithm, iterations=20_000)
    due = solve(Problem(y[1], A), R, iterations=20_000, rtol=1e-8).image
    assert np.linalg.norm(found.image[1] - due) < 1e-3 * np.linalg.norm(due)


def test_exact_data_may_have_weights_of_0_where_nothing_is_sampled(rng):
    x = np.outer(np.arange(1, 9.0), np.ones(8))
    mask = rng.random(x.shape) < 0.7
    for fidelity in (L2(), L2(mask * 1.0)):
        problem = Problem(mask * x, Sampling(mask), fidelity)
        how = {"algorithm": ADMM(exact_data=True), "iterations": 5000}
        found = solve(problem, Nuclear(0.01), **how)
        assert np.linalg.norm(found.image - x) < 1e-3 * np.linalg.norm(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_torch(dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    y = torch.linspace(0, 1, 300 * 300).reshape(300, 300).to(kind)
    problem = Problem(y, Identity(), L2(torch.ones_like(y)))
    found = solve(problem, TotalVariation(0.1), iterations=5, objective=False)
    assert found.image.dtype == kind
    assert torch.isfinite(found.image).all()


@pytest.mark.parametrize("unit", [1e-4, 1e3])
@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_units_of_weighted_data_are_of_no_account(unit, spread, nonnegative, rng):
    """Nor is the factor that they have in the objective, for steps and convergence."""
    x = np.zeros((12, 10))
    x[3:8, 2:7] = 1
    A = Blur(np.ones((3, 3)) / 9)
    noise = 0.05 * (1 + spread * rng.random(x.shape))
    y = A(x) + noise * rng.standard_normal(x.shape)
    algorithm = PDHG(nonnegative=nonnegative)

    def image(c):
        weight = (c * noise) ** -2.0 if spread else (c * 0.05) ** -2.0
        problem = Problem(c * y, A, L2(weight))
        how = {"algorithm": algorithm, "iterations": 150, "rtol": 0}
        return solve(problem, TotalVariation(20 / c), **how).image / c

    due = image(1.0)
    assert np.linalg.norm(due - x) < 0.3 * np.linalg.norm(x)
    np.testing.assert_allclose(image(unit), due, rtol=1e-9, atol=1e-12)


def test_without_a_prior_it_is_least_squares_or_maximum_likelihood(rng):
    A = Dense(rng.random((12, 6)) + np.eye(12, 6), (6,))
    x = rng.random(6) + 0.5
    y = A(x) + 0.01 * rng.standard_normal(12)
    least = np.linalg.lstsq(A.matrix, y)[0]
    how = {"iterations": 1000, "rtol": 0, "objective": False}
    for algorithm in (None, ADMM(), PDHG()):
        found = solve(Problem(y, A), None, algorithm=algorithm, **how)
        np.testing.assert_allclose(found.image, least, rtol=1e-6)
    counts = Problem(rng.poisson(20 * A(x)).astype(float), A, PoissonKL())
    short = {"iterations": 20, "rtol": 0}
    em = solve(counts, None, algorithm=EM(), **short).image
    np.testing.assert_array_equal(solve(counts, None, **short).image, em)
    image = solve(counts, None, **how | {"iterations": 4000}).image
    slope = counts.gradient(image)
    assert slope.min() > -1e-6
    np.testing.assert_allclose(slope * image, 0, atol=1e-6)


def test_images_of_counts_are_nonnegative(rng):
    """Else some expected counts are negative, and the objective is infinite."""
    x = np.zeros((12, 10))
    x[3:8, 2:7] = 3
    A = Blur(np.ones((3, 3)) / 9)  # of zeros it makes rounding errors of either sign
    assert A(x).min() < 0
    counts = rng.poisson(np.maximum(A(x), 0)).astype(float)
    found = solve(Problem(counts, A, PoissonKL()), TotalVariation(0.1), iterations=500)
    assert found.image.min() >= 0
    assert np.isfinite(found.objective[-1])


def test_a_constraint_beside_the_proximal_operator_of_ones_own_prior(rng):
    """The projection after the proximal operator would be that of another sum."""
    B = rng.standard_normal((7, 6))
    y = rng.standard_normal(6)
    own = SimpleNamespace(
        value=lambda x: np.sum((B @ x) ** 2) / 2,
        prox=lambda x, step: np.linalg.solve(np.eye(6) + step * B.T @ B, x),
    )
    how = {"algorithm": PDHG(nonnegative=True), "iterations": 3000, "rtol": 0}
    x = solve(Problem(y, Identity()), own, **how).image
    slope = x - y + B.T @ (B @ x)
    assert 0 < np.count_nonzero(x) < 6
    assert slope.min() > -1e-9
    np.testing.assert_allclose(slope * x, 0, atol=1e-9)


@pytest.mark.parametrize("c", [1e-3, 1.0, 24.0])
def test_parameters_that_were_used_can_be_passed(c):
    x = np.zeros((12, 10))
    x[3:8, 2:7] = 1
    A = c * Blur(np.ones((3, 3)) / 9)
    problem, prior = Problem(A(x), A), TotalVariation(0.01 * c * c)
    found = solve(problem, prior, iterations=100)
    again = {"parameters": found.parameters, "state": found.state}
    more = solve(problem, prior, iterations=50, **again)
    whole = solve(problem, prior, iterations=150)
    np.testing.assert_allclose(more.image, whole.image, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="needs step and dual_step"):
        solve(problem, prior, parameters={"transform_ratio": 1.0})


@pytest.mark.parametrize("weight", [1e-4, 1.0, 1e4])
def test_a_weight_of_the_data_leaves_the_start_alone(weight):
    x = np.zeros((4, 12, 10), complex)
    x[:, 3:8, 2:7] = 1 + 0.2 * np.arange(4)[:, None, None]
    A = MRI(np.random.default_rng(0).random(x.shape) < 0.5)
    problem = Problem(A(x), A, fidelity=L2(weight))
    prior = Casorati(0.1 * weight), Sparse(0.01 * weight, TemporalFourier())
    expected = solve(problem, prior, iterations=30, x0=problem.adjoint())
    found = solve(problem, prior, iterations=30)
    np.testing.assert_allclose(found.image, expected.image, rtol=1e-9, atol=1e-12)


STEPS = {"step": 0.2, "dual_step": 0.3}


@pytest.mark.parametrize(
    ("prior", "algorithm", "parameters"),
    [
        *((Nuclear, algorithm, None) for algorithm in (None, FISTA(), ADMM(), PDHG())),
        (Tikhonov, None, {"step": 0.2}),
        (partial(HuberVariation, delta=0.1), None, {"step": 0.2}),
        (TotalVariation, None, STEPS),  # its default steps depend on the weight
    ],
)
@pytest.mark.parametrize("which", ["all", "y", "weight", "x0"])
def test_the_tape_of_numpy_differentiates_iterations(
    prior, algorithm, parameters, which
):
    """By data, by the weight of a prior, and by the first image."""
    rng = np.random.default_rng(0)
    A, y = Dense(rng.standard_normal((12, 20)) / 4, (4, 5)), rng.standard_normal(12)
    given = {"y": y, "weight": np.asarray(0.1), "x0": A.H(y) / 10}
    given |= {"fidelity_weight": rng.uniform(1, 2, 12)}
    names = list(given) if which == "all" else [which]

    def image(*changed):
        y, weight, x0, w = (given | dict(zip(names, changed, strict=True))).values()
        how = {"algorithm": algorithm, "parameters": parameters, "x0": x0}
        problem = Problem(y, A, L2(w) if parameters else L2())
        return solve(problem, prior(weight), iterations=6, rtol=0, **how).image

    args = [given[name] for name in names]
    x, pullback = svdinv.numpy.vjp(image, *args)
    np.testing.assert_array_equal(x, image(*args))
    cotangent, h = rng.standard_normal(x.shape), 1e-6
    steps = [rng.standard_normal(a.shape) * 0.1 for a in args]
    ahead, behind = (
        image(*(a + sign * h * d for a, d in zip(args, steps, strict=True)))
        for sign in (1, -1)
    )
    expected = np.sum(cotangent * (ahead - behind)) / (2 * h)
    pulled = zip(pullback(cotangent), steps, strict=True)
    found = sum(np.sum(g * d) for g, d in pulled if g is not None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_callback_sees_plain_arrays_where_a_tape_records():
    y, seen = np.ones((4, 5)), []

    def image(y):
        how = {"callback": lambda count, state: seen.append(state["x"])}
        return solve(Problem(y, Identity()), Nuclear(0.1), iterations=2, **how).image

    svdinv.numpy.vjp(image, y)
    assert {type(x) for x in seen} == {np.ndarray}


@pytest.mark.parametrize("fidelity", [L2(), PoissonKL()])
def test_an_own_prior_of_a_linear_operator_needs_no_prox(fidelity):
    own = TotalVariation(0.3)
    split = SimpleNamespace(value=own.value, split=own.split, weight=0.3)

    class Derived(Prior):
        def value(self, x):
            return own.value(x)

        def split(self):
            return own.split()

    y = np.random.default_rng(0).uniform(1, 2, (6, 5))
    problem = Problem(y, Identity(), fidelity)
    due = solve(problem, own, iterations=20)
    for prior in (split, Derived(0.3)):
        found = solve(problem, prior, iterations=20)
        np.testing.assert_array_equal(found.image, due.image)
    split.weight = None  # of the size of the prior nothing is known
    assert solve(problem, split, iterations=20).iterations > 1
    own_prox = SimpleNamespace(value=lambda x: 0.0, prox=lambda x, step: x)
    assert solve(problem, own_prox, iterations=20).iterations


def test_a_smooth_prior_is_descended_though_it_splits():
    own = Tikhonov(0.3)
    smooth = {name: getattr(own, name) for name in ("value", "gradient", "lipschitz")}
    problem = Problem(np.arange(30.0).reshape(6, 5), Identity())
    found, due = (
        solve(problem, SimpleNamespace(**smooth, **more), iterations=3)
        for more in ({}, {"split": own.split})
    )
    np.testing.assert_array_equal(found.image, due.image)
