from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from svdinv.adapters.sklearn import LowRankImputer

NOISE = 0.1
CHECKS = [
    pytest.param(estimator, check, id=getattr(check, "func", check).__name__)
    for estimator, check in estimator_checks_generator(LowRankImputer(iterations=30))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_own_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about the checks' own data
        check(estimator)


def table(missing=0.4, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    full = rng.standard_normal((rows, 3)) @ rng.standard_normal((3, 15)) + 2
    noisy = full + NOISE * rng.standard_normal(full.shape)
    return full, np.where(rng.random(full.shape) < missing, np.nan, noisy)


def error(full, X, filled):
    gone = np.isnan(X)
    return np.sqrt(np.mean((filled - full)[gone] ** 2))


@pytest.mark.parametrize("options", [{}, {"tau": "sure", "noise": NOISE}])
def test_the_chosen_threshold_is_near_the_best(options):
    full, X = table()
    imputer = LowRankImputer(random_state=0, **options)
    found = error(full, X, imputer.fit_transform(X))
    best = min(
        error(full, X, LowRankImputer(tau).fit_transform(X))
        for tau in np.geomspace(0.1, 30, 12)
    )
    means = error(full, X, SimpleImputer().fit_transform(X))
    assert found < 1.25 * best < 0.4 * means


def test_rows_of_the_fit_get_the_minimiser():
    """Of soft-impute's problem: a fixed point of threshold and filling in."""
    _, X = table()
    imputer = LowRankImputer(2.0, iterations=5000, rtol=1e-9).fit(X)
    filled = imputer.transform(X) - imputer.mean_
    U, S, Vh = np.linalg.svd(filled, full_matrices=False)
    z = (U * np.maximum(S - 2.0, 0)) @ Vh
    gone = np.isnan(X)
    np.testing.assert_allclose(z[gone], filled[gone], atol=1e-5)
    np.testing.assert_array_equal(imputer.transform(X)[~gone], X[~gone])


def test_new_rows_are_filled_in():
    full, X = table(rows=90)
    filled = LowRankImputer(random_state=0).fit(X[:60]).transform(X[60:])
    assert error(full[60:], X[60:], filled) < 0.4 * np.std(full)


@pytest.mark.parametrize("tau", [0.0, 1e9])
def test_extreme_thresholds(tau):
    """Of 1e9 nothing is left but the means."""
    _, X = table()
    filled = LowRankImputer(tau, iterations=20).fit_transform(X)
    assert np.isfinite(filled).all()
    if tau:
        means = SimpleImputer().fit_transform(X)
        np.testing.assert_allclose(filled, means, rtol=1e-12)


def test_no_threshold_in_single_precision():
    """The ridge regression of a row with few values is singular then."""
    _, X = table()
    double = LowRankImputer(0.0).fit_transform(X)
    single = LowRankImputer(0.0).fit_transform(X.astype(np.float32))
    np.testing.assert_allclose(single, double, atol=1e-3 * np.abs(double).max())


def test_means_of_many_rows_in_single_precision():
    rng = np.random.default_rng(0)
    X = rng.normal(1000, 1, (1_000_000, 2)).astype(np.float32)
    mean = LowRankImputer(1e9, iterations=1).fit(X).mean_
    np.testing.assert_allclose(mean, X.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_an_empty_column_and_an_empty_row():
    _, X = table()
    X[:, 2], X[5] = np.nan, np.nan
    filled = LowRankImputer(1.0).fit_transform(X)
    np.testing.assert_allclose(filled[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(filled[5, 3:], np.nanmean(X[:, 3:], axis=0))


def test_single_precision_stays():
    _, X = table()
    assert LowRankImputer(1.0).fit_transform(X.astype(np.float32)).dtype == np.float32


def test_memory_does_not_grow_with_the_rows():
    """Beyond a few copies of the table: of each row there is a matrix to solve for."""
    rows, rank = 20_000, 40
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, rank))
    X[rng.random(X.shape) < 0.1] = np.nan
    imputer = LowRankImputer(0.5, iterations=2).fit(X[:200])
    assert len(imputer.components_) == rank
    tracemalloc.start()
    filled = imputer.transform(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(filled).all()
    assert peak < 8 * rows * rank**2 / 3
    np.testing.assert_allclose(filled[-100:], imputer.transform(X[-100:]), rtol=1e-9)


def test_in_a_pipeline():
    _, X = table()
    made = make_pipeline(LowRankImputer(1.0), StandardScaler()).fit_transform(X)
    np.testing.assert_allclose(made.std(axis=0), 1)


def test_units_in_which_squares_are_no_numbers():
    X = table()[1]
    for unit in (1e-170, 1e170):
        with pytest.raises(ValueError, match="X must have other units"):
            LowRankImputer(1.0).fit(unit * X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -1.0}, "tau must be >= 0"),
        ({"tau": "best"}, "tau must be 'cv', 'sure' or a number"),
        ({"tau": None}, "tau must be 'cv', 'sure' or a number"),
        ({"tau": np.ones(2)}, "tau must be 'cv', 'sure' or a number"),
        ({"tau": "sure"}, "noise must be positive"),
        ({"folds": 1}, "folds must be at least 2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LowRankImputer(**options).fit(table()[1])
