"""The worst perturbations of the data, and what methods make of them."""

from __future__ import annotations

import csv
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import stability as program
import torch
from stability import (
    main,
    stability,
    total_variation,
    untrained_method,
    worst_case,
)

from svdinv.cli import main as svdinv
from svdinv.unroll import pretrained
from svdinv.unroll.algorithms import PDHG
from svdinv.unroll.networks import Skip
from svdinv.unroll.operators import MRI, Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.untrained import Options, fitting


def linear(matrix):
    return lambda problem: (problem.y.flatten(1) @ matrix.mT).reshape(problem.y.shape)


def pixels(mask=None):
    rng = np.random.default_rng(0)
    truth = rng.random((1, 3, 4)).astype(np.float32)
    A = Sampling(np.ones(truth.shape, bool) if mask is None else mask)
    return Problem(np.asarray(A(truth)), A, truth=truth)


def test_of_a_linear_method_it_is_the_leading_singular_vector():
    rng = np.random.default_rng(1)
    U, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    V, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    matrix = torch.from_numpy((U * [3, 1, *[0.5] * 10]) @ V.T).float()
    problem = pixels()
    e = worst_case(linear(matrix), problem, 0.1, steps=12)
    length = 0.1 * np.linalg.norm(problem.y)
    assert np.linalg.norm(e) == pytest.approx(length, rel=1e-5)
    assert abs(e.ravel() @ V[:, 0]) == pytest.approx(length, rel=1e-4)


def test_it_stays_where_there_are_data():
    mask = np.random.default_rng(2).random((1, 3, 4)) < 0.5
    e = worst_case(linear(torch.ones(12, 12)), pixels(mask), 0.1)
    assert (e[~mask] == 0).all()
    assert (e[mask] != 0).all()


def test_complex_data():
    rng = np.random.default_rng(3)
    truth = (rng.random((2, 4, 4)) + 0j).astype(np.complex64)
    A = MRI(rng.random(truth.shape) < 0.6)
    problem = Problem(A(truth), A, truth=truth)
    e = worst_case(lambda p: p.A.H(p.y), problem, 0.1)
    assert e.dtype == np.complex64
    assert np.linalg.norm(e) == pytest.approx(0.1 * np.linalg.norm(problem.y), rel=1e-5)
    assert np.abs(e.imag).max() > 0


def test_worst_is_worse_than_random():
    problem = pixels()
    methods = {"TV": total_variation(0.05, 30)}
    generator = Skip(features=(2,), skips=(1,), depth=2, channels=1)
    dip = untrained_method(
        generator, Options(iterations=5, rule=None), lambda problem: None
    )
    answers = stability(problem, methods, {"dip": dip}, [0.05, 0.2], steps=5)
    found = {(a.method, a.perturbation, a.size): a.error for a in answers}
    assert len(found) == len(answers) == 2 * (1 + 2 * 2)
    for size in (0.05, 0.2):
        assert found["TV", "worst for TV", size] > found["TV", "random", size]
    assert found["TV", "worst for TV", 0.2] > found["TV", "worst for TV", 0.05]
    assert ("dip", "none", 0.0) in found


def test_refusals():
    problem = pixels()
    for options in ({"size": 0.0}, {"size": 0.1, "steps": 0}):
        with pytest.raises(ValueError, match="size must be positive"):
            worst_case(linear(torch.eye(12)), problem, **options)
    with pytest.raises(ValueError, match="truth must be known"):
        stability(replace(problem, truth=None), {}, {}, [0.1])


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    arguments = ("coffee", "--crop", "32", "--rate", "0.5", "--sizes")
    options = ("0.1", "--steps", "1", "--threads", "1", "--output", str(tmp_path))
    assert main([*arguments, *options]) == 0
    shown = capsys.readouterr()
    assert "worst for network, 0.1" in shown.out
    bars = [line.partition(":")[0] for line in shown.err.split("\r")]
    assert {"weight of TV", "network", "TV"} <= set(bars)
    assert (tmp_path / "coffee-stability.png").stat().st_size > 1000
    with open(tmp_path / "coffee-stability.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["method"] for row in table} == {"network", "TV"}
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "0", *options[1:]])
    assert "must be a positive number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "prior"),
    [("coffee --crop 32", "dip"), ("cine --size 32", "low-rank-and-sparse")],
)
def test_an_untrained_prior_is_fitted_as_by_svdinv_fit(
    source, prior, monkeypatch, tmp_path
):
    given = []

    def refuse(*arguments, **options):
        given.extend(a for a in arguments if isinstance(a, Options))
        raise ValueError("seen enough")

    monkeypatch.setattr(program, "untrained_method", refuse)
    monkeypatch.setattr("svdinv.unroll.untrained.Fitting", refuse)
    options = ("--prior", prior, "--iterations", "1000", "--output", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main([*source.split(), *options])
    assert svdinv(["fit", *source.split(), *options]) == 2
    one, other = given
    assert one == other


def test_the_command_without_a_network_or_total_variation(
    tmp_path, capsys, monkeypatch
):
    """Counts have no least squares, and a task may have no weights."""
    sizes = ("--sizes", "0.1", "--steps", "1", "--output", str(tmp_path))
    command = ["activity-ellipses", "--size", "16", "--views", "6"]
    assert main([*command, *sizes]) == 0
    said = capsys.readouterr().out
    assert "worst for network" in said
    assert "TV" not in said
    monkeypatch.setattr(pretrained, "names", lambda: [])
    with pytest.raises(SystemExit, match="2"):
        main([*command, *sizes])
    assert "--weights: must be given" in capsys.readouterr().err
    assert main(["walnut-1", *command[1:], *sizes]) == 0
    said = capsys.readouterr().out
    assert "worst for TV" in said
    assert "network" not in said


@pytest.mark.parametrize("call", [3, 8])
def test_ctrl_c_in_a_classical_method_ends_the_program(call, tmp_path, monkeypatch):
    """An unfinished image is in no table, nor do its iterations count."""
    monkeypatch.setattr(program, "_MOST", 5)
    monkeypatch.setattr(program, "best_solution", lambda *_, **how: (0.01, None))
    iterate, calls = PDHG.iterate, []

    def press(self, *arguments):
        calls.append(0)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return iterate(self, *arguments)

    monkeypatch.setattr(PDHG, "iterate", press)
    sizes = ("--sizes", "0.1", "--steps", "1", "--output", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        main(["coffee", "--crop", "32", "--rate", "0.5", *sizes])
    assert len(calls) == call
    assert not list(tmp_path.iterdir())


def test_ctrl_c_in_the_step_of_an_untrained_prior_is_no_answer(monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "towards_data", press)
    A = Sampling(np.ones((1, 8, 8), bool))
    truth = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    problem = Problem(truth, A, truth=truth)
    generator = Skip(features=(2,), skips=(1,), depth=2, channels=1)
    method = untrained_method(generator, Options(iterations=3), lambda problem: None)
    with pytest.raises(KeyboardInterrupt):
        stability(problem, {}, {"dip": method}, [0.1])
