"""Operators and layers in models of Keras, on its three backends; see `table`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("keras")

from interpreters import run
from table import ALL, LAYERS, TRANSFORMS, is_tried, limit

import svdinv.keras

SCRIPT = Path(__file__).with_name("keras_layers.py")


def test_layers_are_all_of_them():
    assert set(LAYERS) == set(svdinv.keras.__all__)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_transforms(backend, tmp_path):
    """All operators and layers at once: a script takes one process for a backend."""
    pytest.importorskip(backend)
    file = tmp_path / "failed.json"
    # Keras's variables do not know NumPy's keyword `copy`.
    warnings = ["-W", "error", "-W", "ignore:__array__ impl:DeprecationWarning"]
    done = run(*warnings, SCRIPT, file, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    failures = json.loads(file.read_text())
    wrong = []
    for transform in TRANSFORMS["Keras"]:
        if transform.name.split(",")[0] != backend:
            continue
        found = failures[transform.name]
        for row in (*ALL, *LAYERS):
            if not is_tried("Keras", transform.name, row):
                continue
            errors = [found[name] for name in found if name.split(",")[0] == row]
            assert errors, (transform.name, row)
            fails = any(error is not None for error in errors)
            if fails != bool(limit("Keras", transform.name, row)):
                wrong.append((transform.name, row, errors))
    assert not wrong
