from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, fields
from typing import Any

import pytest

from svdinv.unroll.networks import LS, SLR, T2LR, TLR, register
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.training.config import (
    Config,
    Training,
    changed,
    differences,
    from_toml,
    preset,
    presets,
    read,
    to_toml,
    write,
)


@register
@dataclass(frozen=True, kw_only=True)
class HasNone(TLR):
    """A network whose options TOML cannot all hold."""

    bound: float | None = 2.0
    scales: tuple = (1, (2.5, "a"))
    any_: tuple[Any, ...] = (1, ("b",))
    rest: float | None = None
    made: float | None = dataclasses.field(default_factory=lambda: None)


LEAST = '[task]\nkind = "colour"\n[network]\nkind = "TLR"\n'


def with_line(section, line):
    """A configuration with one more line in a section, or above all."""
    if not section:
        return f"{line}\n{LEAST}"
    if section == "training":
        return f"{LEAST}[training]\n{line}\n"
    return LEAST.replace(f"[{section}]\n", f"[{section}]\n{line}\n")


def test_presets_are_complete_configurations():
    assert presets() == [
        "cine",
        "colour",
        "colour-groups",
        "ct",
        "ct-edip",
        "ct-limited",
        "denoise",
        "eit",
        "frame",
        "frame-coils",
        "pet",
        "pet-frames",
        "spectral-ct",
    ]
    assert isinstance(preset("colour").task, Colour)
    assert isinstance(preset("cine").task, Cine)
    with pytest.raises(
        ValueError, match="no preset 'color'; there are cine, colour, colour-groups, ct"
    ):
        preset("color")


@pytest.mark.parametrize(
    "config",
    [
        *map(preset, ("colour", "cine")),
        Config(
            task=Colour(
                photographs=('a "b"', "c\\d", "ü\t€\n#", "", "'''"),
                held_out=(),
                rates=(0.1, 1 / 3),
            ),
            network=TLR(threshold=1e-300, step=-0.0, slope=1e22, block=7),
            training=Training(loss="mse", learning_rate=5e-324, clip=float("inf")),
            seed=2**62,
        ),
        Config(task=Cine(coils=(0,)), network=SLR(sparsity=1e-7), threads=3),
        Config(task=Cine(masks=("vista",)), network=T2LR()),
        Config(task=Cine(noise=1.0, perfusion=0.0), network=LS(cells=1)),
    ],
    ids=range(6),
)
def test_written_and_read_it_is_the_same(config, tmp_path):
    assert from_toml(to_toml(config)) == config
    write(config, tmp_path / "a.toml")
    assert read(tmp_path / "a.toml") == config
    assert to_toml(read(tmp_path / "a.toml")) == to_toml(config)
    assert [file.name for file in tmp_path.iterdir()] == ["a.toml"]


def test_only_a_default_may_be_none():
    config = Config(task=Colour(), network=HasNone(scales=(3, ())))
    assert from_toml(to_toml(config)) == config
    for options in ({"bound": None}, {"scales": (1.0, None)}, {"any_": ((None,),)}):
        (name,) = options
        config = Config(task=Colour(), network=HasNone(**options))
        with pytest.raises(ValueError, match=f"HasNone: {name} must not be .*None"):
            to_toml(config)


@pytest.mark.parametrize("name", ["colour", "cine"])
def test_every_option_is_printed_and_explained(name):
    config = preset(name)
    text = to_toml(config)
    for section in ("task", "training"):
        written = tomllib.loads(text)[section]
        for field in fields(getattr(config, section)):
            assert field.name in written
            assert re.search(
                rf"^{field.name} = .* # {re.escape(field.metadata['help'])}$",
                text,
                re.M,
            )


def test_what_is_not_named_has_its_default():
    config = from_toml(LEAST)
    assert config == Config(task=Colour(), network=TLR())
    assert config.training == Training()


@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        # unknown, and the nearest one
        ("", "sed = 1", ["unknown option 'sed'", "did you mean seed?"]),
        ("", "xyz = 1", ["unknown option 'xyz'", "there are task, network"]),
        ("training", "step = 1", ["training.step;", "did you mean steps?"]),
        ("task", "rate = 1", ["task.rate;", "did you mean rates?"]),
        ("network", "feature = 1", ["network.feature;", "did you mean features?"]),
        # wrong types
        ("", 'seed = "one"', ["seed must be a whole number, got 'one'"]),
        ("", "seed = 1.0", ["seed must be a whole number, got 1.0"]),
        ("", "threads = true", ["threads must be a whole number, got True"]),
        ("training", "steps = 1e3", ["training.steps must be a whole number"]),
        ("training", "steps = [1]", ["training.steps must be a whole number"]),
        ("training", 'clip = "1"', ["training.clip must be a number, got '1'"]),
        ("training", "clip = false", ["training.clip must be a number, got False"]),
        ("training", "loss = 1", ["training.loss must be a string, got 1"]),
        ("training", "loss = [1]", ["training.loss must be a string, got [1]"]),
        ("training", 'loss = "l3"', ["loss must be one of ['l1', 'mse'", "'l3'"]),
        (
            "task",
            'photographs = "a"',
            ['task.photographs must be a list, such as ["a"'],
        ),
        ("task", "photographs = [1]", ["task.photographs[0] must be a string, got 1"]),
        ("task", "rates = [0.1]", ["task.rates must have 2 elements, got [0.1]"]),
        ("task", "rates = [0.1, []]", ["task.rates[1] must be a number, got []"]),
        ("network", "block = 1.5", ["network.block must be a whole number"]),
        ("network", "block = 1979-05-27", ["network.block must be a whole number"]),
        # wrong values
        ("", "seed = -1", ["seed must lie in [0, 9.223372e+18], got -1"]),
        ("", "threads = 0", ["threads must lie in [1, 1024], got 0"]),
        ("", "threads = 10000000000", ["threads must lie in [1, 1024], got 100"]),
        ("training", "steps = 0", ["training: steps must lie in [1, 1e+09], got 0"]),
        (
            "training",
            "batch = -3",
            ["training: batch must lie in [1, 1048576], got -3"],
        ),
        ("training", "clip = 0", ["training: clip must be positive, got 0.0"]),
        ("training", "clip = nan", ["training: clip must be positive, got nan"]),
        ("training", "learning_rate = inf", ["learning_rate must lie in (0, 1000000]"]),
        (
            "training",
            "learning_rate = 1e39",
            ["learning_rate must lie in (0, 1000000]"],
        ),
        ("training", f"learning_rate = 1{400 * '0'}", ["learning_rate is too large"]),
        ("training", "learning_rate = -1", ["learning_rate must lie in (0, 1000000]"]),
        ("training", "warm_up = 1", ["warm_up must lie in [0, 1), got 1.0"]),
        ("training", "average = nan", ["average must lie in [0, 1), got nan"]),
        ("training", 'svd = "numpy"', ["training.svd must be one of", "'svt'"]),
        ("training", "checkpoint_every = 0", ["checkpoint_every must be at least 1"]),
        ("task", "rates = [0.5, 0.1]", ["task: rates must"]),
        ("task", "rates = [0.5, nan]", ["task: rates must"]),
        ("task", "noises = [0.2, 0.1]", ["task: noises must not fall"]),
        ("task", "patch = 2", ["task: patch must be at least 8, got 2"]),
        ("task", "longest = 20", ["task: longest must be at least patch, got 20"]),
        ("task", "validation = 0", ["task: validation must be at least 1, got 0"]),
        ("task", 'held_out = ["chelsee"]', ["held_out: no photograph 'chelsee'"]),
        ("network", "cells = 0", ["network: cells must be an integer of at least 1"]),
        ("network", 'side = "left"', ["network.side must be one of"]),
        ("network", "channels = 1", ["network.channels must be 3 for the task colour"]),
    ],
)
def test_what_is_wrong_is_named(section, line, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the words are checked
        from_toml(with_line(section, line))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_kind_that_is_set_again_keeps_its_options():
    config = changed(preset("colour"), {"network.cells": 3, "task.patch": 40})
    again = changed(config, {"network.kind": "TLR", "task.kind": "colour"})
    assert again == config
    other = changed(config, {"network.kind": "SLR", "task.kind": "cine"})
    assert other.network == SLR()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("masks = []", "task: masks must have at least one"),
        ('masks = ["spiral"]', "task: masks must be radial or .*, got 'spiral'"),
        ("coils = []", "task: coils must have at least one"),
        ("coils = [-1]", r"task: coils must not be negative, got \(-1,\)"),
        ("size = 16", "task: size must be at least 32, got 16"),
        ("frames = 0", "task: frames must be at least 1, got 0"),
        ("perfusion = 1.5", r"task: perfusion must lie in \[0, 1\], got 1.5"),
        ("noise = -1", r"task: noise must lie in \[0, 1\], got -1.0"),
    ],
)
def test_what_is_wrong_with_a_cine_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        from_toml(f'[task]\nkind = "cine"\n{line}\n[network]\nkind = "LS"\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "task.kind must be one of .*'cine', 'colour'.*, got None"),
        (LEAST.replace("TLR", "TRL"), "network.kind must be one of .*'TLR'.*'TRL'"),
        (
            LEAST.replace('"TLR"', '"Unrolled"\nprior = [{kind = "LowRank"}, 3]'),
            "network.prior must be a list of tables only, got ",
        ),
        (LEAST.replace("colour", "color"), "task.kind must be one of .*'color'"),
        (LEAST.replace('"colour"', "[1]"), r"task.kind must be one of .*got \[1\]"),
        (f"training = 3\n{LEAST}", r"training must be a section, \[training\], got 3"),
        (LEAST.replace("TLR", "LS"), "LS reconstructs .*B T H W.*colour .*B C H W"),
        ("seed = \n", "not TOML: .*line 1"),
        ("seed = 1\nseed = 2\n", "not TOML: .*line 2"),
    ],
)
def test_files_that_make_no_configuration(text, message):
    with pytest.raises(ValueError, match=message):
        from_toml(text)


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "mine.toml"
    for content in (b"\xff\xfe", b"seed = [", b"[training]\nsteps = 0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.toml"):
            read(path)
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ValueError, match=f"cannot read {missing}"):
            read(missing)


def test_options_change_by_their_dotted_names():
    config = preset("colour")
    new = changed(
        config, {"training.steps": 7, "seed": 3, "task.rates": [0.2, 0.4], "threads": 2}
    )
    assert (new.training.steps, new.seed, new.threads) == (7, 3, 2)
    assert new.task.rates == (0.2, 0.4)
    assert new.network == config.network
    assert changed(config, {}) == config


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_takes_its_own_options_in_whatever_order(order):
    given = {"network.kind": "SLR", "network.cells": 2, "network.sparsity": 0.5}
    new = changed(preset("cine"), dict(list(given.items())[::order]))
    assert new.network == SLR(cells=2, sparsity=0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("training.step", "training.step; did you mean steps"),
        ("seed.x", "seed.x: seed is not a section"),
        ("training.steps.x", "training.steps.x: steps is not a section"),
        ("training", "training must be a section"),
        ("a.b.c", "unknown option 'a'"),
        ("", "unknown option ''"),
    ],
)
def test_changes_of_what_is_no_option(name, message):
    with pytest.raises(ValueError, match=message):
        changed(preset("colour"), {name: 1})


def test_differences_are_named():
    config = preset("colour")
    assert differences(config, config) == []
    other = changed(config, {"training.steps": 9, "network.block": 16, "seed": 5})
    assert sorted(differences(other, config)) == [
        f"network.block is 16, not {config.network.block}",
        "seed is 5, not 0",
        f"training.steps is 9, not {config.training.steps}",
    ]
    cine = preset("cine")
    assert "task.kind is 'cine', not 'colour'" in differences(cine, config)
