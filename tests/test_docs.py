"""The documentation's own code: every fenced Python block runs, and is right."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import pkgutil
import re
import shlex
import sys
from pathlib import Path
from types import FunctionType

import pytest

from svdinv.cli import _parser

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))  # as for programs that are run there
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TUTORIALS = tuple((ROOT / "docs").glob("tutorial-*.md"))  # Sphinx runs these
FRAMEWORKS = (
    "torch",
    "tensorflow",
    "keras",
    "jax",
    "cupy",
    "dask",
    "array_api_strict",
    "sigpy",
    "sklearn",
    "astra",
    "quimb",
)

# A Python block, and the output that follows it, if the page shows one.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


def blocks():
    for page in sorted(set(PAGES) - set(TUTORIALS)):
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            yield pytest.param(match[1], match[2], id=name)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def needed(code):
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.M))
    return imported.intersection(FRAMEWORKS)


# PyTorch's Dynamo makes an object of an autograd Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("code", "output"), tuple(blocks()))
def test_block_runs(code, output):
    for name in needed(code):
        module = pytest.importorskip(name)
        if name == "cupy" and not module.is_available():
            pytest.skip("needs a GPU")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        # Not with this module's annotations, among which dataclasses miss ClassVar.
        program = compile(code, "<page>", "exec", dont_inherit=True)
        exec(program, {"__name__": "__main__"})
    if output is not None:
        assert printed.getvalue().strip() == output.strip()


PACKAGES = ("algorithms", "fidelity", "networks", "operators", "priors", "tasks")


@pytest.mark.parametrize("name", PACKAGES)
def test_methods_are_documented_where_they_are_declared(name):
    """Overrides may inherit the docstring, which a linter does not see."""
    package = importlib.import_module(f"svdinv.unroll.{name}")
    below = pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}.")
    found = [
        package,
        *(importlib.import_module(f"svdinv.unroll.{m.name}") for m in below),
    ]
    classes = {
        cls
        for module in found
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__.startswith("svdinv.unroll")
    }
    bare = [
        f"{cls.__qualname__}.{method}"
        for cls in classes
        if not cls.__name__.startswith("_")
        for method, value in vars(cls).items()
        if not method.startswith("_") and isinstance(value, FunctionType | property)
        if not inspect.getdoc(getattr(cls, method))
    ]
    assert classes
    assert bare == []


def test_links_of_the_readme():  # Sphinx checks those of the other pages
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]*)\)", text) if ":" not in link]
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        page = ROOT / (name or "README.md")
        assert page.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M)
            slugs = [
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings
            ]
            assert anchor in slugs, link


class TestTutorials:
    """What Sphinx runs, and that it notices what fails."""

    @pytest.fixture
    def tutorials(self):
        return load(ROOT / "docs" / "tutorials.py")

    @pytest.fixture
    def page(self, tmp_path):
        def write(*blocks):
            path = tmp_path / "tutorial-small.md"
            text = "".join(f"Text.\n\n```python\n{b}\n```\n\n" for b in blocks)
            path.write_text(text, encoding="utf-8")
            return path

        return write

    def test_all_have_blocks(self, tutorials):
        assert len(TUTORIALS) >= 4
        for path in TUTORIALS:
            found = tutorials.blocks(path.read_text(encoding="utf-8"))
            assert found
            for block in found:
                compile(block.code, path.name, "exec")

    def test_what_blocks_print_and_save_is_shown_behind_them(
        self, tutorials, page, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("KERAS_BACKEND", "none")
        path = page(
            "import os\n\nx = 2",
            "print(x + 1)\nopen('figure-a-cat.png', 'wb').write(b'cat')",
            "print(os.environ.get('KERAS_BACKEND'), os.environ['OMP_NUM_THREADS'])",
        )
        folder = tmp_path / "figures"
        folder.mkdir()
        (folder / "figure-old.png").touch()
        results = tutorials.execute(path, folder)
        assert [r.printed for r in results] == ["", "3\n", "None 1\n"]
        assert [r.figures for r in results] == [(), ("figure-a-cat.png",), ()]
        assert [file.name for file in folder.iterdir()] == ["figure-a-cat.png"]
        assert (folder / "figure-a-cat.png").read_bytes() == b"cat"
        shown = tutorials.illustrated(path.read_text("utf-8"), results, "../pictures")
        assert shown.count("Text.\n\n```python\n") == 3
        assert shown.endswith(
            "open('figure-a-cat.png', 'wb').write(b'cat')\n```\n"
            "\n```text\n3\n```\n"
            "\n```{image} ../pictures/figure-a-cat.png\n:alt: a cat\n```\n"
            "\nText.\n\n```python\n"
            "print(os.environ.get('KERAS_BACKEND'), os.environ['OMP_NUM_THREADS'])\n"
            "```\n\n```text\nNone 1\n```\n\n"
        )

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("print(1)\n1 / 0", "ZeroDivisionError: division by zero"),
            ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
            ("assert x == 3", "AssertionError: "),
            ("x ==", "SyntaxError: "),
            ("raise SystemExit(0)", "SystemExit: 0"),
            (
                "open('figure-b.png', 'wb').write(b'other')",
                "FileExistsError: figure-b.png belongs to a block before",
            ),
        ],
    )
    def test_a_block_that_fails_is_named(
        self, tutorials, page, tmp_path, code, message
    ):
        path = page("x = 2\nopen('figure-b.png', 'wb').close()", code, "print(3)")
        expected = re.escape(f"tutorial-small.md: block 2, line 11: {message}")
        with pytest.raises(tutorials.Failed, match=expected):
            tutorials.execute(path, tmp_path / "figures")

    def test_a_process_that_dies_is_noticed(self, tutorials, page, tmp_path):
        path = page("import os\nos._exit(7)")
        with pytest.raises(tutorials.Failed, match="ended with code 7"):
            tutorials.execute(path, tmp_path / "figures")

    def test_a_page_that_does_not_end(self, tutorials, page, tmp_path, monkeypatch):
        monkeypatch.setattr(tutorials, "_SECONDS", 0.5)
        path = page("while True:\n    pass")
        with pytest.raises(tutorials.Failed, match="took more than"):
            tutorials.execute(path, tmp_path / "figures")


def commands():
    """Give the command lines of svdinv that the pages show."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        in_console = re.findall(r"^\$ (.*svdinv .*)", text, re.M)
        in_shell = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
        for line in (*in_console, *"".join(in_shell).splitlines()):
            words = shlex.split(line.split(" > ")[0], comments=True)
            if words[:1] == ["svdinv"] or words[:1] == ["torchrun"]:
                arguments = words[words.index("svdinv") + 1 :]
                yield pytest.param(arguments, id=f"{page.name}: {line.strip()}")


@pytest.mark.parametrize("arguments", tuple(commands()))
def test_commands_have_such_options(arguments, tmp_path, monkeypatch):
    from svdinv.unroll.tasks import registry

    page = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
    own = re.search(r"```python\n(.*?class Dead\(Task\).*?)\ntask, ", page, re.S)[1]
    (tmp_path / "module.py").write_text(own.rpartition("```python\n")[2])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "module", raising=False)
    monkeypatch.setattr(registry, "_ADDED", {})
    if arguments[-1:] == ["--help"]:
        with pytest.raises(SystemExit) as stop:
            _parser(arguments).parse_args(arguments)
        assert stop.value.code == 0
    else:
        assert _parser(arguments).parse_args(arguments).command == arguments[0]


@pytest.mark.slow
def test_failures_table(monkeypatch, capsys):
    for name in ("torch", "tensorflow", "jax"):
        pytest.importorskip(name)
    script = load(ROOT / "benchmarks" / "failures.py")
    monkeypatch.setattr(script, "DRAWS", 3)
    script.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == len(script.cases())
    for row in rows:
        if "tanh" in row[0] and "the same" in row[0]:
            continue  # a limit: what passes through exact zeros is lost
        ours = [float(x.rstrip(" |")) for x in row[-3:]]
        assert max(ours) < (1e-4 if "float32" in row[0] else 1e-12)


def test_accuracy_study(tmp_path, monkeypatch):
    for name in ("torch", "matplotlib"):
        pytest.importorskip(name)
    script = load(ROOT / "benchmarks" / "accuracy.py")
    monkeypatch.setattr(script, "DRAWS", 2)
    monkeypatch.setattr(script, "RULE_DRAWS", 1)
    monkeypatch.setattr(script.oracle, "GAPS", (1e-1, 1e-9))
    monkeypatch.setattr(
        script.oracle, "SPECTRA", ("distinct", "zeros", "gap 1e-01", "gap 1e-09")
    )
    monkeypatch.setattr(script.sys, "argv", ["accuracy.py", "--output", str(tmp_path)])
    script.main()
    others = {path.name for path in FIGURES.iterdir()} - written(tmp_path)
    assert written(tmp_path) <= written(FIGURES)
    elsewhere = (
        "edip",
        "gallery-",
        "group",
        "how-svdinv-is-built",
        "masks",
        "networks-",
        "phantom",
        "results-",
        "sharded-",
        "speed",
        "study",
        "untrained-",
    )
    assert all(name.startswith(elsewhere) for name in others)


def test_gallery(tmp_path, monkeypatch):
    for name in ("torch", "matplotlib"):
        pytest.importorskip(name)
    script = load(ROOT / "benchmarks" / "gallery.py")
    monkeypatch.setattr(script, "DRAWS", 2)
    monkeypatch.setattr(script, "OPERATOR_DRAWS", 1)
    monkeypatch.setattr(script.oracle, "SPECTRA", ("distinct", "zeros"))
    monkeypatch.setattr(script.sys, "argv", ["gallery.py", "--output", str(tmp_path)])
    script.main()
    assert written(tmp_path) == written(FIGURES, "gallery-")


def test_data_gallery(tmp_path, monkeypatch):
    for name in ("matplotlib", "PIL"):
        pytest.importorskip(name)
    script = load(ROOT / "benchmarks" / "data_gallery.py")
    monkeypatch.setattr(script, "SHAPE", (3, 32, 32))
    monkeypatch.setattr(script, "SIDE", 32)
    monkeypatch.setattr(script, "FRAMES", 2)
    arguments = ["data_gallery.py", "--output", str(tmp_path)]
    monkeypatch.setattr(script.sys, "argv", arguments)
    script.main()
    assert written(tmp_path) == {"masks.png", "phantom.webp"} <= written(FIGURES)
    assert (FIGURES / "phantom.webp").stat().st_size < 700_000


def test_groups(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    script = load(ROOT / "benchmarks" / "groups.py")
    monkeypatch.setattr(script, "SIDE", 25)
    monkeypatch.setattr(script, "REFERENCE", (6, 9))
    monkeypatch.setattr(sys, "argv", ["groups.py", "--output", str(tmp_path)])
    script.main()
    assert written(tmp_path) == {"group.png"} <= written(FIGURES)


def test_untrained_theory(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    script = load(ROOT / "examples" / "untrained_theory.py")
    monkeypatch.setattr(script, "STEPS", 5)
    monkeypatch.setattr(script, "WIDTH", 8)
    monkeypatch.setattr(script, "WIDTHS", (4, 8))
    arguments = ["untrained_theory.py", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    page = (ROOT / "docs" / "untrained-theory.md").read_text(encoding="utf-8")
    assert written(tmp_path) == set(re.findall(r"figures/(untrained-.*png)", page))
    assert written(tmp_path) <= written(FIGURES)


def written(folder, prefix=""):
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if name.startswith(prefix)}
