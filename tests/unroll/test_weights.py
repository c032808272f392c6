"""Weights in files: written whole or not at all, and read only if they fit."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from svdinv.unroll.algorithms import ADMM, FISTA, PDHG, LowRankPlusSparse
from svdinv.unroll.formats import atomic as files
from svdinv.unroll.networks import (
    LLS,
    LS,
    SLR,
    T2LR,
    TLR,
    Convolved,
    LearnedPrior,
    LowRank,
    LowRankAndSparse,
    NonLocal,
    Number,
    Recipe,
    Refined,
    Skip,
    Sparse,
    Unrolled,
    from_json,
    register,
    to_json,
    weights,
)
from svdinv.unroll.networks import recipe as recipes
from svdinv.unroll.operators import Gradient
from svdinv.unroll.torch import LSNet, Network, TLRNet, load, save

RECIPES = {
    "TLR": TLR(cells=2, features=3, block=4, start="fill", side="mask"),
    "Refined": Refined(
        network=TLR(cells=2, features=3, first_weights="residual"), features=(2, 3)
    ),
    "NonLocal": NonLocal(rounds=1, steps=2, patch=3, stride=2, count=5),
    "SLR": SLR(cells=2, features=3),
    "LS": LS(cells=2, features=3, step=0.3),
    "T2LR": T2LR(cells=2, features=3),
    "LLS": LLS(cells=2, start=(7, 2), start_coils=(0.5, 2.0), finish=3, fold=3),
    "ADMM": Unrolled(
        cells=2, algorithm=ADMM(exact_data=True), prior=Convolved(3, 1), images="image"
    ),
    "FISTA": Unrolled(cells=2, algorithm=FISTA(restart=True), prior=LowRank(-1.25)),
    "PDHG": Unrolled(cells=1, algorithm=PDHG(), prior=Sparse()),
    "L+S": Unrolled(
        cells=2, algorithm=LowRankPlusSparse(), prior=(LowRank(), Convolved(2))
    ),
    "skip": Skip(features=(3, 4), skips=(1, 0), depth=2),
    "low rank and sparse": LowRankAndSparse(channels=3, depth=2),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


@pytest.fixture
def saved(path):
    """A file of a small network, which a test may damage."""
    save(LSNet(cells=2, features=3, seed=1), path)
    return path


def rewrite(path, arrays=None, **metadata):
    """Change the arrays or the metadata of a file."""
    with open(path, "rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    known = json.loads(header)["__metadata__"]
    content = load_file(path)
    if arrays is not None:
        content = arrays(content)
    save_file(content, path, metadata={**known, **metadata})


def description(path, **changes):
    """Change fields of the recipe in a file."""
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    recipe = json.loads(header["__metadata__"]["svdinv"])
    rewrite(path, svdinv=json.dumps(recipe | changes))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_round_trip(path, name, dtype):
    net = Network(RECIPES[name], seed=1).to(dtype)
    save(net, path)
    other = load(path)
    assert other.recipe == net.recipe
    assert not other.training
    for (k, a), (k2, b) in zip(
        net.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert k == k2
        assert a.dtype == b.dtype == dtype
        assert torch.equal(a, b)


def test_bfloat16_is_kept_in_float32(path):
    net = TLRNet(RECIPES["TLR"], seed=1).bfloat16()
    save(net, path)
    other = load(path)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b.bfloat16())


def test_options_of_load(saved):
    net = load(saved, svd=torch.linalg.svd, checkpoint=True)
    assert net.checkpoint
    assert all(cell.svd is torch.linalg.svd for cell in net.cells)
    y = torch.randn(1, 3, 6, 5, dtype=torch.complex64)
    A = net.recipe.operator(torch.ones(y.shape, dtype=torch.bool))
    torch.testing.assert_close(load(saved, operator=A)(y), net(y, A))


@pytest.mark.parametrize("name", RECIPES)
def test_names_and_shapes_without_a_framework(name):
    recipe = RECIPES[name]
    state = Network(recipe, seed=5).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == weights.shapes(recipe)
    drawn = weights.initial(recipe, np.random.default_rng(5))
    assert set(drawn) == set(state)
    for k, v in state.items():
        np.testing.assert_array_equal(drawn[k], v.numpy())


DAMAGE = {
    "too long": lambda content: content + b"more",
    "header length": lambda content: b"\xff" * 8 + content[8:],
    "not safetensors": lambda content: b"PK\x03\x04" + bytes(200),
    "not JSON": lambda content: content[:8] + b"x" + content[9:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files(saved, how):
    saved.write_bytes(DAMAGE[how](saved.read_bytes()))
    with pytest.raises(
        ValueError, match=re.escape(f"{saved} is not a safetensors file")
    ):
        load(saved)


def test_every_truncation_is_noticed(saved):
    content = saved.read_bytes()
    for size in {*range(0, len(content), 997), len(content) - 1}:
        saved.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not a safetensors file"):
            load(saved)


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize("write", [pickle.dumps, lambda x: _torch_bytes(x)])
def test_nothing_is_unpickled(path, write):
    path.write_bytes(write(Bomb()))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(path)
    assert not Bomb.exploded
    pickle.loads(pickle.dumps(Bomb()))  # the bomb is a real one
    assert Bomb.exploded
    Bomb.exploded = False


def _torch_bytes(x):
    stream = io.BytesIO()
    torch.save(x, stream)
    return stream.getvalue()


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file {path}")):
        load(path)
    with pytest.raises(ValueError, match="is not a file"):
        load(path.parent)


def _changed(name, change):
    return lambda arrays: arrays | {name: change(arrays[name])}


WEIGHTS = {
    "missing": (
        lambda a: {k: v for k, v in a.items() if k != "cells.1.gamma"},
        "the network needs cells.1.gamma",
    ),
    "none": (lambda a: {}, "the network needs .* and 7 more"),
    "surplus": (
        lambda a: a | {"cells.2.gamma": np.ones((), np.float32)},
        "the network has no cells.2.gamma",
    ),
    "misshapen": (
        _changed("cells.0.sparse.0.weight", lambda w: np.ascontiguousarray(w[:2])),
        r"cells.0.sparse.0.weight must have shape \(3, 4, 3, 3, 3\), got \(2, 4, ",
    ),
    "NaN": (
        _changed("cells.0.gamma", lambda w: np.full_like(w, np.nan)),
        "gamma is not finite",
    ),
    "infinite": (
        _changed("cells.0.sparse.1.weight", lambda w: w + np.inf),
        "cells.0.sparse.1.weight is not finite",
    ),
    "integers": (
        _changed("cells.0.threshold", lambda w: w.astype(np.int64)),
        "cells.0.threshold must be floating point, got int64",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit(saved, case):
    change, message = WEIGHTS[case]
    rewrite(saved, change)
    with pytest.raises(ValueError, match=f"^{re.escape(str(saved))}: .*{message}"):
        load(saved)


def test_a_compiled_network_is_saved_as_the_one_inside(tmp_path):
    path, network = tmp_path / "a.safetensors", TLRNet(cells=1, features=2)
    save(torch.compile(network, backend="eager"), path)
    assert to_json(load(path).recipe) == to_json(network.recipe)
    before = path.read_bytes()
    torch.nn.utils.parametrizations.weight_norm(network.cells[0].analysis[0])
    with pytest.raises(ValueError, match=r"no weights named cells\.0\.analysis\.0\.w"):
        save(network, path)
    with pytest.raises(TypeError, match="got AveragedModel; of a wrapper"):
        save(torch.optim.swa_utils.AveragedModel(network), path)
    assert path.read_bytes() == before


def test_a_dtype_that_numpy_lacks(saved):
    from safetensors.torch import save_file as save_tensors

    content = {k: torch.from_numpy(v).bfloat16() for k, v in load_file(saved).items()}
    save_tensors(content, saved, metadata={"svdinv": to_json(LS(cells=2, features=3))})
    with pytest.raises(ValueError, match="BF16"):
        load(saved)


METADATA = {
    "not JSON": "LS()",
    "a number": "3",
    "a list": "[1, 2]",
    "no class": '{"cells": 2}',
    "class of another kind": '{"class": ["LS"]}',
    "unknown class": '{"class": "Unknown"}',
    "a class of Python": '{"class": "os.system"}',
    "no network": '{"class": "LowRank"}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_of_no_network(saved, case):
    rewrite(saved, svdinv=METADATA[case])
    with pytest.raises(ValueError, match=re.escape(str(saved))):
        load(saved)


def test_metadata_of_others(saved):
    content = load_file(saved)
    for metadata in (None, {"format": "pt"}):
        save_file(content, saved, metadata=metadata)
        with pytest.raises(ValueError, match="without the name of their network"):
            load(saved)


FIELDS = [
    ({"cells": 0}, "cells must be"),
    ({"cells": "2"}, "cells must be"),
    ({"cells": True}, "cells must be"),
    ({"cells": 3}, "the network needs cells.2"),
    ({"cells": 10**6}, "1000000 cells with"),
    ({"features": -1}, "features must be"),
    ({"features": None}, "features must be"),
    ({"features": 4}, "must have shape"),
    ({"step": "fast"}, "step must be a real number"),
    ({"step": float("nan")}, "step must be finite"),
    ({"width": 3}, "width"),
    ({"class": "SLR"}, "slope|needs"),
]


@pytest.mark.parametrize(("changes", "message"), FIELDS, ids=str)
def test_wrong_fields_of_a_recipe(saved, changes, message):
    description(saved, **changes)
    with pytest.raises(ValueError, match=f"{re.escape(str(saved))}: .*({message})"):
        load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": 3},
        {"prior": {"class": "TLR"}},
        {"prior": []},
        {"algorithm": None},
        {"algorithm": {"class": "LowRank"}},
        {"images": "movie"},
    ],
    ids=str,
)
def test_wrong_parts_of_a_recipe(path, changes):
    save(Network(RECIPES["FISTA"]), path)
    description(path, **changes)
    (field,) = set(changes) - {"class"}
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{field}"):
        load(path)


class TestWriting:
    """What was there before remains, whatever goes wrong; and nothing else is left."""

    @pytest.fixture
    def unharmed(self, saved):
        before = saved.read_bytes()
        yield saved
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]

    def test_no_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            save(LSNet(cells=1, features=2), tmp_path / "missing" / "x.safetensors")
        assert os.listdir(tmp_path) == []

    def test_target_is_a_directory(self, tmp_path):
        (tmp_path / "x").mkdir()
        with pytest.raises(OSError, match="x"):
            save(LSNet(cells=1, features=2), tmp_path / "x")
        assert os.listdir(tmp_path) == ["x"]

    def test_directory_cannot_be_written(self, unharmed):
        folder = unharmed.parent
        folder.chmod(0o500)
        try:
            if os.access(folder, os.W_OK):
                pytest.skip("permissions do not stop this user")
            with pytest.raises(PermissionError):
                save(LSNet(cells=1, features=2), unharmed)
        finally:
            folder.chmod(0o700)

    @pytest.mark.parametrize("where", ["write", "close", "replace"])
    def test_disk_full(self, unharmed, monkeypatch, where):
        full = OSError(errno.ENOSPC, "No space left on device")

        def refuse(*_):
            raise full

        if where == "replace":
            monkeypatch.setattr(files.os, "replace", refuse)
        else:
            fdopen = os.fdopen

            class Full:
                def __init__(self, handle, mode):
                    self.stream = fdopen(handle, mode)

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.stream.close()
                    if where == "close":
                        raise full

                def write(self, content):
                    self.stream.write(content[:100])
                    if where == "write":
                        raise full

            fake = SimpleNamespace(**{n: getattr(os, n) for n in dir(os)})
            fake.fdopen = Full
            monkeypatch.setattr(files, "os", fake)
        with pytest.raises(OSError, match="No space left"):
            save(LSNet(cells=1, features=2), unharmed)

    def test_interrupted(self, unharmed, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(files.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(LSNet(cells=1, features=2), unharmed)

    def test_weights_that_are_not_finite(self, unharmed):
        net = load(unharmed)
        with torch.no_grad():
            net.cells[1].gamma.fill_(torch.nan)
        with pytest.raises(ValueError, match=r"cells\.1\.gamma is not finite"):
            save(net, unharmed)

    def test_unregistered(self, unharmed):
        with pytest.raises(TypeError, match="Private must be registered"):
            save(Network(Private()), unharmed)

    def test_unregistered_prior(self, unharmed):
        with pytest.raises(TypeError, match="Unknown must be registered"):
            save(Network(Unrolled(prior=Unknown())), unharmed)

    def test_a_recipe_that_cannot_be_written(self, unharmed):
        recipe = Unrolled(algorithm=PDHG(transform=Gradient()), prior=LowRank())
        with pytest.raises(TypeError, match="cannot be written to a file: Gradient"):
            save(Network(recipe), unharmed)

    def test_readable_by_all(self, saved, monkeypatch):
        def refuse(*_):
            raise AssertionError("the umask is the whole process's")

        net = load(saved)
        umask = os.umask
        before = umask(0o027)
        try:
            monkeypatch.setattr(os, "umask", refuse)
            save(net, saved)
        finally:
            umask(before)
        assert saved.stat().st_mode & 0o777 == 0o640


@dataclass(frozen=True, kw_only=True)
class Private(LS):
    """A recipe that is not registered."""


@dataclass(frozen=True)
class Unknown(LearnedPrior):
    """A prior that is not registered."""

    def layers(self, axes):
        return {}


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(recipes, "_REGISTERED", dict(recipes._REGISTERED))


def test_a_recipe_and_a_prior_of_ones_own(path, registry):
    @register
    @dataclass(frozen=True)
    class Damped(LearnedPrior):
        factor: float = 0.5
        label: str | None = None
        powers: tuple[int, ...] = (1, 2)

        def layers(self, axes):
            return {"weight": Number(self.factor)}

        def prox(self, v, step, layers):
            return layers.weight * v

    @register
    @dataclass(frozen=True, kw_only=True)
    class Mine(Unrolled):
        name: str = "mine"
        inner: Recipe = LS(features=7)  # noqa: RUF009 - frozen

    recipe = Mine(cells=2, prior=Damped(0.25, powers=(3, (4, 5))), name="ä")
    save(Network(recipe, seed=1), path)
    net = load(path)
    assert net.recipe == recipe
    assert type(net.recipe) is Mine
    assert net.recipe.prior.powers == (3, (4, 5))
    y = torch.randn(1, 3, 6, 5, dtype=torch.complex64)
    mask = torch.rand(1, 3, 6, 5) < 0.5
    assert torch.equal(net(y, mask), Network(recipe, seed=1)(y, mask))


def test_a_class_may_be_defined_anew_but_not_by_another(registry):
    def define(module):
        cls = type(
            "Mine", (LearnedPrior,), {"__module__": module, "__qualname__": "Mine"}
        )
        return register(dataclass(frozen=True)(cls))

    define("one")
    again = define("one")
    assert type(from_json(to_json(again()))) is again
    with pytest.raises(ValueError, match="another class named Mine"):
        define("two")
    assert type(from_json(to_json(again()))) is again


def test_without_safetensors(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install .*\[unroll\]'"):
        save(LSNet(cells=1, features=2), path)
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install .*\[unroll\]'"):
        load(path)
