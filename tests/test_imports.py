"""What importing brings in, and what it says when a framework is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"torch", "tensorflow", "jax", "keras", "cupy", "numpy"}


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


def imported(statement):
    """Frameworks in sys.modules after a statement in a fresh interpreter."""
    done = run(f"import sys\n{statement}\nprint(*{FRAMEWORKS!r} & set(sys.modules))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["svdinv", "svdinv.core", "svdinv.cli"])
def test_no_framework_is_imported(module):
    assert imported(f"import {module}") == set()


@pytest.mark.parametrize(
    ("face", "framework"),
    [
        ("numpy", "numpy"),
        ("torch", "torch"),
        ("jax", "jax"),
        ("tf", "tensorflow"),
        ("cupy", "cupy"),
        ("keras", "keras"),
    ],
)
def test_only_the_framework_asked_for_is_imported(face, framework):
    pytest.importorskip(framework)
    # TensorFlow, for one, imports Keras and whatever that finds.
    assert imported(f"import svdinv.{face}") <= imported(f"import {framework}, numpy")


@pytest.mark.parametrize(
    ("face", "module", "extra"),
    [
        ("torch", "torch", "torch"),
        ("tf", "tensorflow", "tensorflow"),
        ("jax", "jax", "jax"),
        ("numpy", "numpy", "numpy"),
        ("cupy", "cupy", "cupy"),
        ("keras", "keras", "keras"),
    ],
)
def test_missing_framework_names_the_extra(face, module, extra):
    done = run(
        f"import sys; sys.modules[{module!r}] = None\n"
        "try:\n"
        f"    import svdinv.{face}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert f"pip install 'svdinv[{extra}]'" in done.stdout


def test_version_is_the_installed_one():
    from importlib.metadata import version

    import svdinv

    assert svdinv.__version__ == version("svdinv")


def test_a_face_that_was_not_imported_says_how():
    done = run("import svdinv; svdinv.torch")
    assert "write 'import svdinv.torch' first" in done.stderr
    assert "no attribute 'svd'" in run("import svdinv; svdinv.svd").stderr
