"""The Keras layers, on every backend of Keras that is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")

import numpy as np

SCRIPT = Path(__file__).with_name("keras_checks.py")
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Failures and outputs of a backend, which are found out once."""
    found = {}

    def find(backend):
        pytest.importorskip(backend)
        if backend not in found:
            folder = tmp_path_factory.mktemp(backend)
            # Keras's variables do not know NumPy's keyword `copy`.
            warnings = ["-W", "error", "-W", "ignore:__array__ impl:DeprecationWarning"]
            done = subprocess.run(
                [sys.executable, *warnings, str(SCRIPT), str(folder)],
                env={**os.environ, "KERAS_BACKEND": backend},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            failed = json.loads((folder / "failed.json").read_text(encoding="utf-8"))
            with np.load(folder / "outputs.npz") as file:
                found[backend] = failed, dict(file)
        return found[backend]

    return find


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_backend(results, backend, check):
    assert results(backend)[0][check] is None


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_backends_agree(results, backend):
    expected = results("torch")[1]
    found = results(backend)[1]
    assert set(found) == set(expected)
    for name, y in found.items():
        np.testing.assert_allclose(y, expected[name], atol=1e-6, rtol=0, err_msg=name)


def test_other_backends_are_refused():
    code = (
        "import numpy, svdinv.keras\n"
        "try:\n"
        "    svdinv.keras.LowRank(1)(numpy.ones((1, 3, 2)))\n"
        "except NotImplementedError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "runs on tensorflow, jax, torch" in done.stdout, done.stderr
