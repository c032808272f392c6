"""What importing brings in, and what it says when a framework is missing."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from interpreters import complaint, imported, run

from svdinv._missing import command

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
FRAMEWORKS = {"torch", "tensorflow", "jax", "keras", "cupy", "numpy", "mlx"}


@pytest.mark.parametrize("module", ["svdinv", "svdinv.core", "svdinv.cli"])
def test_no_framework_is_imported(module):
    assert imported(f"import {module}", FRAMEWORKS) == set()


@pytest.mark.parametrize(
    "faces",
    [
        {"numpy": "numpy"},
        {"torch": "torch"},
        {"jax": "jax"},
        # TensorFlow imports Keras: one process for both, as that takes seconds.
        {"tf": "tensorflow", "keras": "keras"},
        {"cupy": "cupy"},
        {"dask": "dask.array"},
        {"mlx": "mlx.core"},
    ],
    ids=" ".join,
)
def test_only_the_framework_asked_for_is_imported(faces):
    # The compiler of PyTorch takes as long as PyTorch itself.
    modules = FRAMEWORKS | {"torch._dynamo"}
    before = "import numpy"
    for framework in faces.values():
        pytest.importorskip(framework)
        before += f", {framework}"  # and whatever that finds
    for_all = ", ".join(f"svdinv.{face}" for face in faces)
    assert imported(f"import {for_all}", modules, before) == set()


@pytest.mark.parametrize(
    ("face", "module", "extra"),
    [
        ("torch", "torch", "torch"),
        ("tf", "tensorflow", "tensorflow"),
        ("jax", "jax", "jax"),
        ("numpy", "numpy", "numpy"),
        ("cupy", "cupy", "cupy"),
        ("dask", "dask", "dask"),
        ("mlx", "mlx", "mlx"),
        ("keras", "keras", "keras"),
    ],
)
def test_missing_framework_names_the_extra(face, module, extra):
    said = complaint(f"import svdinv.{face}", module)
    assert f"for this: {command(extra)}" in said


@pytest.mark.parametrize("module", ["torch", "jax"])
def test_a_framework_that_fails_shows_its_own_error(tmp_path, module):
    """Such as a library of CUDA that is missing: nothing has to be installed."""
    (tmp_path / f"{module}.py").write_text("import a_part_of_it\n", "utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import svdinv.{module}"
    said = run("-c", code).stderr
    assert "No module named 'a_part_of_it'" in said
    assert "pip install" not in said


@pytest.mark.parametrize("face", ["torch", "jax"])
def test_an_old_framework_names_the_version(face):
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    least = extras[face][0].removeprefix(f"{face}>=").partition(",")[0]
    code = (
        "import sys, types\n"
        f"old = sys.modules[{face!r}] = types.ModuleType({face!r})\n"
        "old.__version__ = '0.8.1+cpu'\n"
        f"import svdinv.{face}"
    )
    said = f"needs {face} {least} or later, found 0.8.1+cpu: {command(face)}"
    assert said in run("-c", code).stderr


def test_version_is_the_installed_one():
    from importlib.metadata import version

    import svdinv

    assert svdinv.__version__ == version("svdinv")


def test_a_face_that_was_not_imported_says_how():
    done = run("-c", "import svdinv; svdinv.torch")
    assert "write 'import svdinv.torch' first" in done.stderr
    assert "no attribute 'svd'" in run("-c", "import svdinv; svdinv.svd").stderr


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        (None, "'svdinv[mri]'"),
        ({"dir_info": {}, "url": "file:///a%20b/svdinv"}, "'/a b/svdinv[mri]'"),
        ({"dir_info": {"editable": True}, "url": "file:///c"}, "-e '/c[mri]'"),
        (
            {"vcs_info": {"vcs": "git"}, "url": "https://x.org/s.git"},
            "'svdinv[mri] @ git+https://x.org/s.git'",
        ),
        (
            {"archive_info": {}, "url": "file:///s.whl"},
            "'svdinv[mri] @ file:///s.whl'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_svdinv_came(noted, said, monkeypatch):
    """Not from an index, where it may not be."""

    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return noted and json.dumps(noted)

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    assert command("mri") == f"pip install {said}"
