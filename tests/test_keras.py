"""Layers, networks and models of operators, on every backend of Keras installed."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

pytest.importorskip("keras")
pytest.importorskip("torch")

import numpy as np
from interpreters import checks, keras_checks, run
from unroll.unroll_keras_cases import write_cases

HERE = Path(__file__).parent
SCRIPTS = {
    "layers": HERE / "keras_checks.py",
    "networks": HERE / "unroll" / "unroll_keras_checks.py",
    "operators": HERE / "conformance" / "keras_layers.py",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder)
    return folder


@pytest.fixture(scope="module")
def results(cases, tmp_path_factory):
    """Failures and outputs of a backend, for which one process does it all."""

    @functools.cache
    def find(backend):
        folder = tmp_path_factory.mktemp(backend)
        shutil.copytree(cases, folder / SCRIPTS["networks"].stem)
        failed = keras_checks(backend, folder, *SCRIPTS.values())
        with np.load(folder / SCRIPTS["layers"].stem / "outputs.npz") as file:
            return failed, dict(file)

    return find


@pytest.mark.parametrize("of", SCRIPTS)
@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_backend(results, backend, of):
    found = results(backend)[0][SCRIPTS[of].stem]
    assert list(found) == checks(SCRIPTS[of])
    failed = {check: why for check, why in found.items() if why is not None}
    assert not failed, "\n".join(failed.values())


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
    done = run("-c", code, KERAS_BACKEND="numpy")
    assert "runs on tensorflow, jax, torch" in done.stdout, done.stderr
