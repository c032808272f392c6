"""The stubs: as their modules are, and of use to a type checker and an editor."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("stubs", ROOT / "tools" / "stubs.py")
stubs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stubs)

PROGRAM = """\
from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray

import svdinv.numpy
import svdinv.torch
from svdinv.core import SVDResult
from svdinv.operators import Alignment, Similarity

A = torch.eye(3)
U, S, Vh = svdinv.torch.svd(A)
assert_type(S, torch.Tensor)
assert_type(svdinv.torch.svd(A), SVDResult[torch.Tensor])
assert_type(svdinv.torch.svt(A, S[0], relative=True), torch.Tensor)
assert_type(svdinv.torch.kabsch(A, A), Alignment[torch.Tensor])
assert_type(svdinv.torch.kabsch(A, A, scale=True), Similarity[torch.Tensor])
assert_type(svdinv.torch.kabsch(A, A, scale=True).scale, torch.Tensor)
assert_type(svdinv.torch.spectral_map(A, torch.tanh), torch.Tensor)

layer = svdinv.torch.nn.SingularValueThreshold(0.2, channels=3)
assert_type(layer(A), torch.Tensor)
assert_type(layer.threshold, torch.Tensor)
assert_type(layer.raw_threshold, torch.nn.Parameter)
assert_type(layer.channels, int | None)

B = np.eye(3)
assert_type(svdinv.numpy.svd(B), SVDResult[NDArray[Any]])
assert_type(svdinv.numpy.svd(B, compute_uv=False), NDArray[Any])
assert_type(svdinv.numpy.svd(B, False, False), NDArray[Any])
assert_type(svdinv.numpy.low_rank([[1.0, 0.0]], 1), NDArray[Any])
"""

WRONG = {
    "svdinv.torch.svt([[1.0]], 0.1)": "incompatible type",
    "svdinv.torch.svt(A, 0.1, relativ=True)": "Unexpected keyword argument",
    "svdinv.torch.kabsch(A, A).scale": "has no attribute",
    "svdinv.torch.svtt(A, 0.1)": "has no attribute",
    'svdinv.torch.svt(A, 0.1, method="fast")': "Literal['auto', 'svd', ",
    'svdinv.torch.whiten(A, kind="chol")': "Literal['zca', 'pca']",
    'svdinv.torch.svd(A, repeated="mean")': "Literal['consistent', ",
    'svdinv.torch.eigh(A, "l")': "Literal['L', 'U'] | None",
    'svdinv.torch.nn.NuclearNorm(reduction="max")': "Literal['mean', ",
}


# Most of PyTorch is its compiler, of which no signature speaks.
SETTINGS = """\
[mypy]
strict = true
follow_imports = silent

[mypy-array_api_compat.*,jax.*,torch._dynamo.*,torch._functorch.*,torch._inductor.*,\
torch.distributed.*,torch.fx.*]
follow_imports = skip
"""

# Those of operators; the modules of layers are written by hand.
NAMESPACES = [name for name, face in stubs.FACES.items() if face.functions]


@pytest.mark.parametrize("name", stubs.FACES)
def test_is_up_to_date(name):
    try:
        text = stubs.stub(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")
    # What is out of date, `make stubs` writes anew.
    assert stubs.path_of(name).read_text("utf-8") == text


def test_generic_ones_are_up_to_date():
    assert stubs.path_of(stubs.RESULTS).read_text("utf-8") == stubs.results_stub()
    assert stubs.path_of(stubs.GENERIC).read_text("utf-8") == stubs.generic_stub()


def test_attributes_of_layers_are_there():
    pytest.importorskip("torch")
    from svdinv.torch import nn

    made = {
        "Casorati": nn.Casorati(nn.LowRank(3)),
        "LocalLowRank": nn.LocalLowRank(2),
        "LowRank": nn.LowRank(2),
        "SchattenNorm": nn.SchattenNorm(2),
        "SchattenProx": nn.SchattenProx(0.5),
        "Whitening": nn.Whitening(3),
    }
    names = {}
    for public in nn.__all__:
        layer = made.get(public) or getattr(nn, public)()
        lines = stubs.layer_stub(stubs.FACES[nn.__name__], type(layer)).splitlines()
        names[public] = [
            line.partition(":")[0].strip()
            for line in lines[lines.index('    """') + 1 :]
            if line.startswith("    ") and line[4:].split(":")[0].isidentifier()
        ]
        for name in names[public]:
            assert hasattr(layer, name), (public, name)
    assert "raw_threshold" in names["FirmThreshold"]


def test_are_in_the_wheel():
    wheel = pytest.importorskip("hatchling.builders.wheel")
    files = wheel.WheelBuilder(str(ROOT)).recurse_included_files()
    found = {file.distribution_path for file in files}
    written = {str(p.relative_to(ROOT)) for p in (ROOT / "svdinv").rglob("*.pyi")}
    assert len(written) == len(stubs.FACES) + 2
    assert {"svdinv/py.typed", *written} <= found


def test_strict_mypy(tmp_path):
    for name in ("mypy", "numpy", "torch"):
        pytest.importorskip(name)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "\n".join(WRONG) + "\n", "utf-8")
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS, "utf-8")
    options = [f"--config-file={settings}", f"--cache-dir={os.devnull}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, program],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    first = PROGRAM.count("\n") + 1
    assert len(errors) == len(WRONG), done.stdout
    for line, (error, expected) in enumerate(
        zip(errors, WRONG.values(), strict=True), first
    ):
        assert error.startswith(f"{program}:{line}: ")
        assert expected in error


class TestEditor:
    """What Jedi finds, which editors and IPython ask."""

    @pytest.fixture
    def script(self, tmp_path, monkeypatch):
        jedi = pytest.importorskip("jedi")
        monkeypatch.setattr(jedi.settings, "cache_directory", str(tmp_path))
        project = jedi.Project(ROOT)
        environment = jedi.InterpreterEnvironment()

        def script(code):
            path = ROOT / "program.py"
            return jedi.Script(
                code, path=path, project=project, environment=environment
            )

        return script

    @pytest.mark.parametrize("name", NAMESPACES)
    def test_completion(self, script, name):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported: {error}")
        found = script(f"import {name}\n{name}.").complete(2, len(name) + 1)
        listed = {name.name for name in found if not name.name.startswith("_")}
        assert listed == set(module.__all__)

    def test_signature_and_docstring(self, script):
        code = "import svdinv.torch\nsvdinv.torch.svt("
        (signature,) = script(code).get_signatures(2, 17)
        assert [p.name for p in signature.params] == ["A", "tau", "relative", "method"]
        # mypy and pyright put the types of the framework in the places of variables.
        assert signature.to_string().startswith("svt(A: ArrayLike, tau: float | ")
        assert "Soft-threshold the singular values" in signature.docstring()
        (described,) = script(code).help(2, 15)
        assert 'method : {"auto", "svd", "gram", "matmul"}' in described.docstring()

    def test_results_and_layers(self, script):
        code = "import svdinv.torch as s\ns.kabsch(0, 0).\ns.nn.LowRank("
        found = {name.name for name in script(code).complete(2, 15)}
        assert {"rotation", "translation", "rmsd"} <= found
        (signature,) = script(code).get_signatures(3, 13)
        assert "Best approximation of matrices" in signature.docstring()
