"""The Keras layers, on every backend of Keras that is installed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

pytest.importorskip("keras")

import numpy as np
from interpreters import checks, keras_checks, run

SCRIPT = Path(__file__).with_name("keras_checks.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Failures and outputs of a backend, which are found out once."""

    @functools.cache
    def find(backend):
        folder = tmp_path_factory.mktemp(backend)
        failed = keras_checks(SCRIPT, backend, folder)
        with np.load(folder / "outputs.npz") as file:
            return failed, dict(file)

    return find


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_backend(results, backend):
    found = results(backend)[0]
    assert list(found) == checks(SCRIPT)
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
