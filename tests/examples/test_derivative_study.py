from __future__ import annotations

import csv
import dataclasses
import json
import shlex

import numpy as np
import pytest
import torch
from derivative_study import study as study_module
from derivative_study.__main__ import _parser, main, study_of
from derivative_study.data import Patches, TestCrops, pool
from derivative_study.report import command, summary, table, write_report
from derivative_study.study import (
    METHODS,
    Plan,
    Row,
    Study,
    _steepest,
    begin,
    compare,
    measure,
    read_rows,
)

from svdinv.core.degenerate import REPEATED_RULES
from svdinv.unroll.data import TEST
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import Network
from svdinv.unroll.training import run as training

TINY = Study(
    methods=("svt", "torch.linalg.svd"),
    data=("flat",),
    rates=(0.4,),
    seeds=1,
    steps=3,
    batch=2,
    cells=1,
    crop=32,
)
ARGUMENTS = ["--quick", "--data", "flat", "--rates", "0.4"]
ARGUMENTS += ["--methods", "svt", "torch.linalg.svd"]
ARGUMENTS += ["--steps", "3", "--batch", "2", "--cells", "1"]


@pytest.fixture(scope="module")
def photographs():
    return pool((), 32)


@pytest.fixture(scope="module")
def crops():
    return TestCrops(32, 32)


def flat(patches):
    """Whether a row or column of each patch (B, C, H, W) does not vary."""
    grey = patches.mean(axis=1)
    return [min(x.std(0).min(), x.std(1).min()) < 1e-3 for x in grey]


def test_methods_are_svt_all_rules_and_that_of_pytorch():
    assert ("svt", *REPEATED_RULES, "torch.linalg.svd") == METHODS


def test_kinds_of_data_and_rates_share_their_patches(photographs):
    ordinary = Patches(photographs, "ordinary", 0.3).batch(1, 2, range(40))
    again = Patches(photographs, "ordinary", 0.05).batch(1, 2, range(40))
    black = Patches(photographs, "flat", 0.3).batch(1, 2, range(40))
    assert np.array_equal(ordinary.truth, again.truth)
    assert not any(flat(ordinary.truth))
    assert all(flat(black.truth))
    # Bands are parts of the ordinary patch at the same place, cartoons are not.
    kept = [
        np.array_equal(b[b > 0], o[b > 0])
        for b, o in zip(black.truth, ordinary.truth, strict=True)
    ]
    assert 5 < sum(kept) < 25
    for batch in (ordinary, black):
        mask = batch.A.mask
        assert abs(mask.mean() - 0.3) < 0.02
        assert np.array_equal(batch.y, np.where(mask, batch.truth, 0))


def test_items_depend_on_seed_and_step_alone(photographs):
    source = Patches(photographs, "flat", 0.3)
    whole = source.batch(5, 7, range(4))
    part = source.batch(5, 7, range(2, 4))
    other = source.batch(6, 7, range(4))
    assert np.array_equal(whole.truth[2:], part.truth)
    assert not np.array_equal(whole.truth, other.truth)


def test_flat_patches_repeat_singular_values_in_the_first_cell(photographs):
    batch = Patches(photographs, "flat", 0.4).batch(0, 1, range(12))
    cell = Network(TLR(cells=1), seed=0).cells[0]
    with torch.no_grad():
        maps = cell.analysis(torch.from_numpy(batch.y))
    s = torch.linalg.svdvals(maps).numpy()
    s = s / s[..., :1]
    zeros = (s < 1e-6).sum(axis=-1)
    pairs = (s[..., 0:12:2] - s[..., 1:12:2] < 1e-5).all(axis=-1)
    assert (zeros >= 2).all()
    # The equal pieces: every singular value comes twice.
    assert pairs.all(axis=1).sum() >= 2
    assert not pairs.all()


def test_photographs_without_detail_are_refused():
    grey = np.full((64, 64, 3), 0.5, dtype=np.float32)
    with pytest.raises(ValueError, match="hardly any patch"):
        Patches([grey], "ordinary", 0.3).batch(0, 1, range(1))


def test_pool_holds_no_test_photograph(photographs, tmp_path):
    # hubble_deep_field, and retina at half its size
    assert sorted(x.shape for x in photographs) == [(705, 705, 3), (872, 1000, 3)]
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        pool((str(tmp_path / "nowhere.png"),), 32)


def test_tiles_are_joined_as_they_were_cut():
    test = TestCrops(64, 32)
    assert test.truths.shape == (len(TEST), 3, 64, 64)
    tiles = test.tiles(test.truths)
    assert np.array_equal(tiles[1], test.truths[0, :, :32, 32:])
    assert np.array_equal(test.joined(tiles), test.truths)
    first, second = test.batch(0.3), test.batch(0.3)
    assert np.array_equal(first.y, second.y)


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ("svt", "magic")},
        {"methods": ()},
        {"data": ("flat", "flat")},
        {"rates": (0.001,)},
        {"steps": 0},
        {"crop": 40},
        {"patch": 20},
    ],
)
def test_what_makes_no_study_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(TINY, **changes)


def test_plans_are_all_combinations_seed_by_seed():
    plans = Study().plans()
    assert len(plans) == len(set(plans)) == 9 * 2 * 5 * 3
    assert [plan.seed for plan in plans] == sorted(plan.seed for plan in plans)
    assert len({plan.name for plan in plans}) == len(plans)


def test_the_command_writes_all_and_goes_on_where_it_was(tmp_path, capsys):
    output = str(tmp_path / "study")
    assert main([*ARGUMENTS, "--output", output]) == 0
    said = capsys.readouterr().out
    assert "1 of 1" in said
    assert "0 of 1" in said
    folder = tmp_path / "study"
    svt, theirs = read_rows(folder)
    assert (svt.method, svt.broken, svt.steps, svt.step) == ("svt", False, 3, None)
    assert 0 < svt.psnr < 40
    assert 0 < svt.ssim < 1
    assert svt.milliseconds > 0
    assert svt.relative == 1
    assert (theirs.cause, theirs.step) == ("not finite, backward", 1)
    assert theirs.layer == "cells.0.svt"
    assert len(theirs.spectrum) == 32
    assert theirs.spectrum[-1] <= 1e-6 * theirs.spectrum[0]
    assert theirs.psnr is None

    with (folder / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["broken"] for row in rows] == ["false", "true"]
    assert len(rows[1]["spectrum"].split()) == 32
    assert command(TINY) in (folder / "study.md").read_text(encoding="utf-8")
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")

    first, second = sorted((folder / "runs").iterdir())
    kept = second.stat().st_mtime_ns
    first.unlink()
    assert main([*ARGUMENTS, "--output", output]) == 0
    assert "1 of them done" in capsys.readouterr().out
    assert second.stat().st_mtime_ns == kept
    again = read_rows(folder)[0]
    timeless = {"milliseconds": None, "relative": None}
    assert dataclasses.replace(again, **timeless) == dataclasses.replace(
        svt, **timeless
    )

    with pytest.raises(SystemExit, match="2"):
        main([*ARGUMENTS, "--seeds", "2", "--output", output])
    assert "seeds is 1 there and 2 here" in capsys.readouterr().err
    second.write_text("{")
    with pytest.raises(SystemExit, match="2"):
        main([*ARGUMENTS, "--output", output])
    assert second.name in capsys.readouterr().err


def test_rules_that_are_right_train_alike(photographs, crops):
    study = dataclasses.replace(TINY, steps=2, cells=2)
    svt, rule = (
        measure(study, Plan("ordinary", 0.3, method, 0), photographs, crops)
        for method in ("svt", "consistent")
    )
    assert not svt.broken
    assert rule.longest_gradient == pytest.approx(svt.longest_gradient, rel=1e-3)
    assert rule.psnr == pytest.approx(svt.psnr, abs=1e-3)
    assert 0.1 < rule.relative < 20


def test_an_interrupted_study_keeps_the_runs_that_are_done(
    photographs, tmp_path, monkeypatch
):
    def one_only(study, plan, *rest):
        done = measure(study, plan, *rest)
        return done if plan.method == "svt" else None

    monkeypatch.setattr(study_module, "measure", one_only)
    rows, complete = compare(TINY, photographs, tmp_path)
    assert not complete
    assert [row.method for row in rows] == ["svt"]
    assert begin(TINY, tmp_path) == rows


def test_a_run_is_given_up_when_told(photographs, crops):
    plan = Plan("ordinary", 0.3, "svt", 0)
    assert measure(TINY, plan, photographs, crops, lambda: True) is None


def test_long_gradients_are_breakdowns(photographs, crops, monkeypatch):
    monkeypatch.setattr(study_module, "LONGEST", 1e-4)
    row = measure(TINY, Plan("ordinary", 0.3, "svt", 0), photographs, crops)
    assert row.cause.startswith("gradient of length")
    assert (row.step, row.steps, row.layer) == (1, 0, "cells.0.svt")
    assert row.longest_gradient > 1e-4
    assert len(row.spectrum) == 32


def test_the_step_that_lengthens_gradients_is_found(photographs):
    class Longer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, A):
            return A.clone()

        @staticmethod
        def backward(ctx, G):
            return 1e6 * G

    network = Network(TLR(cells=3), svd=torch.linalg.svd, seed=0)
    network.cells[1].svd = lambda A, full_matrices: torch.linalg.svd(
        Longer.apply(A), full_matrices=full_matrices
    )
    batch = Patches(photographs, "ordinary", 0.5).batch(0, 1, range(2))
    found = _steepest(network, 4, batch)
    assert (found.step, found.layer, found.pass_) == (4, "cells.1.svt", "backward")
    assert found.spectrum.shape == (32,)
    assert (np.diff(found.spectrum) <= 0).all()
    assert "svt" not in vars(network.cells[1])


def test_a_collapse_of_the_validation_is_a_breakdown(photographs, crops, monkeypatch):
    monkeypatch.setattr(study_module, "COLLAPSE", -100.0)
    row = measure(TINY, Plan("ordinary", 0.3, "svt", 0), photographs, crops)
    assert (row.cause, row.step) == ("validation collapsed", 2)


def test_a_decomposition_that_fails_is_a_breakdown(photographs, crops, monkeypatch):
    def svd(A, full_matrices):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(training, "svd_of", lambda name: svd)
    row = measure(TINY, Plan("ordinary", 0.3, "none", 0), photographs, crops)
    assert (row.cause, row.step, row.psnr) == ("not finite, forward", 1, None)
    assert row.layer == "cells.0.svt"


def test_a_test_photograph_that_cannot_be_decomposed_is_a_breakdown(
    photographs, crops, monkeypatch
):
    def score(*arguments):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(study_module, "_score", score)
    row = measure(TINY, Plan("ordinary", 0.3, "svt", 0), photographs, crops)
    assert (row.cause, row.step, row.layer) == (
        "decomposition of a test photograph failed",
        3,
        "",
    )
    assert row.psnr is None


def made(**changes):
    """A row that did not break."""
    values = {
        "data": "flat",
        "rate": 0.4,
        "method": "svt",
        "seed": 0,
        "cause": "",
        "step": None,
        "layer": "",
        "spectrum": (),
        "steps": 3,
        "longest_gradient": 0.5,
        "validation": 20.0,
        "psnr": 20.0,
        "ssim": 0.5,
        "milliseconds": 10.0,
        "relative": 1.0,
        "machine": "an abacus",
    }
    return Row(**values | changes)


def test_the_table_counts_and_averages():
    study = dataclasses.replace(TINY, seeds=3)
    broken = {"cause": "not finite", "psnr": None, "ssim": None, "relative": None}
    rows = [
        made(seed=0),
        made(seed=1, psnr=22.0, milliseconds=30.0),
        made(seed=2, **broken, step=7),
        *(made(method="torch.linalg.svd", seed=i, **broken, step=i) for i in (1, 2, 3)),
    ]
    text = table(study, rows)
    line = "| flat | 0.4 | `svt` | 1 of 3 | 7 | 21.00 ± 1.41 | 0.500 | 10 | 1.00 |"
    assert line in text
    assert "| flat | 0.4 | `torch.linalg.svd` | 3 of 3 | 2 | – | – | 10 | – |" in text
    assert "an abacus, 1 thread" in text
    assert "- 6 runs; seeds 0, 1, 2" in text
    assert "- 2 runs of 6: not all" in table(study, rows[:2])
    assert not [line for line in text.splitlines() if line.startswith("#")]


def test_breaking_where_it_is_hard_is_no_merit():
    """Over all rates, a run is compared with that of svt at its own rate and seed."""
    study = Study(methods=("svt", "none"), data=("flat",), rates=(0.04, 0.5), seeds=2)
    rows = [
        made(method=method, rate=rate, seed=seed, psnr=psnr + seed + (method == "none"))
        for method in study.methods
        for rate, psnr in ((0.04, 12.0), (0.5, 20.0))
        for seed in range(2)
        if (method, rate) != ("none", 0.04)
    ]
    lost = {"cause": "not finite", "psnr": None, "step": 4}
    rows += [made(method="none", rate=0.04, seed=i, **lost) for i in range(2)]
    text = table(study, rows)
    assert "| flat | `svt` | 0 of 4 | – | – | 10 | 1.00 |" in text
    assert "| flat | `none` | 2 of 4 | 4 | +1.00 ± 0.00 | 10 | 1.00 |" in text
    assert "+1.00" in summary(study, rows)


@pytest.mark.parametrize(
    "study",
    [
        Study(),
        Study().quick(),
        TINY,
        Study(rates=(0.1,), seeds=5, threads=2, photographs=("my pictures", "a.png")),
    ],
)
def test_the_command_in_the_table_makes_that_study(study):
    words = shlex.split(command(study))
    assert words[:3] == ["python", "-m", "derivative_study"]
    assert study_of(_parser().parse_args(words[3:])) == study


@pytest.mark.parametrize("methods", [("svt", "none"), ("none",), METHODS])
def test_the_plot_takes_whatever_came_of_it(methods, tmp_path):
    study = Study(methods=methods, data=("flat",), rates=(0.04, 0.4), seeds=1)
    rows = [
        made(method=methods[0], psnr=None, cause="not finite", step=1),
        *(made(method=method, rate=0.04) for method in methods[1:]),
    ]
    write_report(study, rows, tmp_path)
    picture = (tmp_path / "study.png").read_bytes()
    write_report(study, rows[1:], tmp_path)  # it shows who broke
    assert (tmp_path / "study.png").read_bytes() != picture
    write_report(study, rows, tmp_path)
    assert (tmp_path / "study.png").read_bytes() == picture


def test_help_names_every_method(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in METHODS if name not in shown] == []


@pytest.mark.parametrize(
    "options",
    [
        ["--methods", "magic"],
        ["--data", "noise"],
        ["--rates", "2"],
        ["--rates", "0.1", "0.1"],
        ["--steps", "0"],
        ["--seeds", "many"],
        ["--photographs", "no-such-picture.png"],
        ["--output", f"{__file__}/below-a-file"],
    ],
)
def test_bad_options_are_refused_by_name(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    said = capsys.readouterr().err.splitlines()[-1]
    assert options[0].strip("-") in said or options[-1] in said


def test_runs_without_their_study_are_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="unknown study"):
        begin(TINY, tmp_path)
