"""Tasks are found, and described, without being imported."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from svdinv.cli import main
from svdinv.unroll.plugins import imported
from svdinv.unroll.tasks import registry
from svdinv.unroll.tasks.measured_files import measured_entry
from svdinv.unroll.tasks.registry import TaskEntry, entries, entry_of_file
from svdinv.unroll.tasks.task import Options, Task, task_named

BUILT_IN = ["colour", "cine", "ct", "eit", "pet", "spectral-ct"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def counts():
    """The script that counts what is imported."""
    path = ROOT / "benchmarks" / "imports.py"
    spec = importlib.util.spec_from_file_location("imports", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_that_are_imported(counts):
    """A command imports its task and no other, and a network little beside itself."""
    # In one process: the command imports the networks in any case.
    listed = "[n for n, m in sys.modules.items() if m and n.startswith(parts)]"
    network, photo = counts._last_line(
        "import json, sys\nparts = 'svdinv.unroll', 'svdinv.cli'\n"
        + counts.IMPORTS["import svdinv.unroll.torch"]
        + f"first = {listed}\n"
        + counts.IMPORTS["svdinv reconstruct photo.png"]
        + f"print(json.dumps([first, {listed}]))\n"
    )
    assert len(photo) <= MOST["photo"]
    assert counts.tasks_of(photo) == {"colour": 1}
    assert len(network) <= MOST["torch"]
    assert counts.tasks_of(network) == {}


MOST = {"photo": 62, "torch": 35}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_entries_say_what_their_tasks_are(kind):
    entry = entries()[kind]
    task = entry.load()
    assert task.described() is entry
    own = [f for f in dataclasses.fields(task.options) if f.name != "seed"]
    assert entry.options == tuple(f.name for f in own)
    plurals = {f.name: f.metadata["plural"] for f in own if f.metadata["plural"]}
    assert entry.plurals == plurals
    listed = [name for names in task().built_in().values() for name in names]
    assert sorted(listed) == sorted([*entry.names, *entry.pictures])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with a task of one's own in the current folder, and its name."""
    (tmp_path / "garden.py").write_text(
        "from dataclasses import dataclass\n"
        "from svdinv.unroll.tasks.colour.task import Colour, ColourOptions\n"
        "from svdinv.unroll.tasks.registry import TaskEntry\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Leaves(Colour):\n"
        "    entry = TaskEntry(\n"
        "        kind='leaves', location='garden:Leaves', axes='B C H W', channels=3,\n"
        "        images='leaves', suffixes=('.png',),\n"
        "        options=('rate', 'mask', 'noise', 'crop'),\n"
        "    )\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_ADDED", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "garden:Leaves"
    sys.modules.pop("garden", None)


def test_a_task_of_ones_own_is_named_on_the_command_line(own, tmp_path, capsys):
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("leaf.png")
    assert entry_of_file("leaf.png").kind == "colour"
    assert main(["data", "inspect", "leaf.png", "--task", own]) == 0
    assert "task leaves, one of leaves" in capsys.readouterr().out
    assert entry_of_file("leaf.png").kind == "leaves"
    assert task_named("leaves") is sys.modules["garden"].Leaves


def test_a_task_that_is_named_reads_what_another_would(
    own, monkeypatch, one_line, capsys
):
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("leaf.png")
    install(monkeypatch, "leaves", lambda: imported(own))
    common = ["--rate", "0.9", "--no-baselines", "--output", "out"]
    assert entry_of_file("leaf.png").kind == "leaves"
    assert main(["reconstruct", "leaf.png", "--task", "colour", *common]) == 0
    capsys.readouterr()
    assert main(["reconstruct", "coffee", "--task", "leaves", *common]) == 2
    assert "coffee is not of the kind leaves, but colour" in one_line()


BARE = """
import numpy as np
from svdinv.unroll.metrics import psnr
from svdinv.unroll.operators import Identity
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks import InputImage, Options, Reconstruction, Task

class Bare(Task):
    kind, axes, channels, options = "bare", "B C H W", 1, Options
    metrics = {"PSNR / dB": psnr}

    def read(self, source, options):
        return InputImage("a", np.load(source))

    def measure(self, given, options):
        return Problem(given.image, Identity(), truth=given.image, name="a")

    def baselines(self):
        return {"same": lambda problem: Reconstruction(problem.y)}
"""


def test_a_task_without_an_entry_is_named_on_the_command_line(own, one_line, capsys):
    import numpy as np

    Path("bare.py").write_text(BARE)
    np.save("a.npy", np.random.default_rng(0).random((1, 40, 40), np.float32))
    assert main(["reconstruct", "a.npy", "--task", "bare:Bare"]) == 2
    assert "a.npy is not of the kind bare, but cine" in one_line()
    assert main(["reconstruct", "coffee", "--task", "bare:Bare"]) == 2
    assert one_line().endswith("coffee is not of the kind bare, but colour\n")
    entry = (
        'TaskEntry(kind="bare", location="bared:Bare", axes="B C H W", channels=1, '
        'suffixes=(".npy",))'
    )
    Path("bared.py").write_text(
        BARE.replace("Bare(Task):", f"Bare(Task):\n    entry = {entry}").replace(
            "import Input", "import TaskEntry, Input"
        )
    )
    bared = ["a.npy", "--task", "bared:Bare", "--output"]
    assert main(["reconstruct", *bared, "out"]) == 0
    capsys.readouterr()
    assert main(["reconstruct", *bared, "out", "--no-truth"]) == 2
    assert "--no-truth: does not apply to images, of which data" in one_line()
    assert main(["data", "write", *bared, "a.h5"]) == 2
    assert "bare cannot save data: it must define `arrays_to_save`" in one_line()
    assert main(["evaluate", *bared[1:], "out", "--images", "a.npy"]) == 0
    assert "bare: classical methods, on 1 image" in capsys.readouterr().out
    for name in ("bare", "bared"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("method", "command"),
    [
        ("read", "evaluate --images a.npy --output out"),
        ("measure", "fit a.npy --output out"),
        ("baselines", "reconstruct a.npy --output out"),
    ],
)
def test_a_command_names_the_method_that_a_task_lacks(own, method, command, one_line):
    import numpy as np

    np.save("a.npy", np.random.default_rng(0).random((1, 40, 40), np.float32))
    entry = (
        'TaskEntry(kind="bare", location="bare:Bare", axes="B C H W", channels=1, '
        'suffixes=(".npy",))'
    )
    source = BARE.replace("import Input", "import TaskEntry, Input")
    source = source.replace("Bare(Task):", f"Bare(Task):\n    entry = {entry}")
    Path("bare.py").write_text(source.replace(f"def {method}(", "def other("))
    assert main([*command.split(), "--task", "bare:Bare"]) == 2
    assert one_line().endswith(f": it must define `{method}`\n")
    sys.modules.pop("bare", None)


@pytest.mark.parametrize("name", ["garden:Roses", "rocks:Leaves", "leaves"])
def test_what_is_no_task_is_refused(own, name, one_line):
    assert main(["data", "inspect", "coffee", "--task", name]) == 2
    assert "argument --task: " in one_line()


def install(monkeypatch, name, load):
    """Let a package register what a function loads as a task."""
    point = type("Point", (), {"name": name, "value": "", "load": staticmethod(load)})
    monkeypatch.setattr(registry, "_LEFT_OUT", set())
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


def test_installed_tasks_come_by_an_entry_point(own, monkeypatch):
    install(monkeypatch, "leaves", lambda: imported(own))
    assert list(entries()) == [*BUILT_IN, "leaves"]
    assert entry_of_file("a.png").kind == "leaves"


def test_the_class_of_an_entry_point_keeps_its_entry(own, monkeypatch):
    entry = TaskEntry(kind="leaves", location=own, suffixes=(".leaf",))
    install(monkeypatch, "leaves", lambda: entry)
    assert main(["data", "inspect", "coffee", "--task", own]) == 0
    assert entry_of_file("a.leaf") is entry


def test_entry_points_do_not_replace_what_is_built_in(monkeypatch):
    entry = TaskEntry(kind="cine", location="garden:Leaves")
    monkeypatch.setattr(registry, "_ADDED", {})
    install(monkeypatch, "cine", lambda: entry)
    with pytest.warns(UserWarning, match="cannot be used: svdinv has a task cine"):
        assert entries()["cine"].location.startswith("svdinv.")


def test_a_file_that_names_its_task_needs_no_other_mark(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["kind"] = "squares"
        file["y"] = [1.0]
    monkeypatch.setattr(registry, "_ADDED", {})
    assert measured_entry(tmp_path / "a.h5") is None
    entry = registry.add(Squares)
    assert measured_entry(tmp_path / "a.h5") is entry


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere:SQUARES", "No module named 'nowhere'"),
        ("svdinv:SQUARES", "has no attribute 'SQUARES'"),
        ("svdinv:kernels", "a Task or a TaskEntry is needed"),
    ],
)
@pytest.mark.parametrize("words", [["data", "list"], ["data", "inspect", "coffee"]])
def test_entry_points_that_cannot_be_loaded(value, message, words, monkeypatch):
    """Commands go on without the task of a package that is broken."""
    point = EntryPoint("squares", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_LEFT_OUT", set())
    with pytest.warns(UserWarning, match=message) as told:
        assert main(words) == 0
    (warning,) = told
    assert f"the entry point squares = '{value}'" in str(warning.message)


class Squares(Task):
    kind, axes, channels, images = "squares", "B C H W", 3, "squares"


@pytest.mark.parametrize("command", ["reconstruct", "fit", "data inspect"])
def test_a_task_that_can_only_be_trained_reads_no_files(
    command, monkeypatch, one_line, capsys, tmp_path
):
    entry = TaskEntry(
        kind="squares", location=f"{__name__}:Squares", suffixes=(".squares",)
    )
    monkeypatch.setattr(registry, "_ADDED", {"squares": entry})
    path = tmp_path / "a.squares"
    path.touch()
    assert main([*command.split(), str(path)]) == 2
    assert "squares is a task that declares no `options`" in one_line()
    if command != "data inspect":
        assert main([command, "squares", "--help"]) == 0


def test_a_task_without_an_entry_is_described_by_its_class():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Options):
        depth: int = 3

    class Plain(Task):
        kind, axes, options = "plain", "B C H W", Own

    found = Plain.described()
    assert (found.kind, found.axes, found.options) == ("plain", "B C H W", ("depth",))
    assert found.location.endswith("Plain")


def test_the_table_of_what_a_task_defines():
    """docs/how-unroll-is-built.md names each method, and the tasks with their own."""
    page = (ROOT / "docs" / "how-unroll-is-built.md").read_text()
    section = page.split("## What a task defines")[1].split("\n## ")[0]
    cells = [[c.strip() for c in row.split("|")[1:-1]] for row in section.splitlines()]
    rows = [row for row in cells if row and row[0].strip("*").startswith("`")]
    tasks = {kind: entry.load() for kind, entry in entries().items()}
    listed = {}
    for names, _, own in rows:
        for name in names.split(", "):
            listed[name.strip("*`")] = name.startswith("*"), own
    defined = {}
    for name, member in vars(Task).items():
        function = getattr(member, "fget", getattr(member, "__func__", member))
        if not name.startswith("_") and inspect.isfunction(function):
            own = [kind for kind, cls in tasks.items() if _has_own(cls, name)]
            every = own == BUILT_IN
            required = "raise self._without(" in inspect.getsource(function)
            defined[name] = required, "all" if every else ", ".join(own) or "none"
    assert listed == defined


def _has_own(cls, name):
    parents = [base for base in cls.__mro__ if base is not Task]
    return any(name in vars(base) for base in parents if issubclass(base, Task))
