"""The study of speed runs, and writes what the documentation shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_speed_study(tmp_path):
    for name in ("torch", "jax", "matplotlib"):
        pytest.importorskip(name)
    subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--threads", "1", "--repeats", "1",
         "--frameworks", "torch", "jax", "--output", str(tmp_path)],
        check=True,
    )  # fmt: skip
    names = {path.name for path in tmp_path.iterdir()}
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert {name for name in names if f"figures/{name}" in page} == names
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert set(found) == {"machine", "repeats", "svt", "svd", "published", "growth"}
    for case in (*found["svt"], *found["svd"]):
        # sqrt(eps) of the ratio that "gram" and "matmul" are meant for
        bound = 1e-4 if case["ratio"] == 0.12 else 1e-2
        for contender, result in case["results"].items():
            if contender != "published":
                assert result["seconds"] > 0
                assert result["error"] < bound, contender
    for case in (*found["published"]["memory"], *found["growth"]["memory"]):
        for result in case["results"].values():
            assert result["bytes"] is None or result["bytes"] >= 0


def test_published_derivative():
    """At distinct real singular values it is the derivative."""
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(SCRIPT.parent))
    import published

    A = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 7, 4)))
    gradients = []
    for svd in (published.svd, torch.linalg.svd):
        A = A.detach().requires_grad_()
        U, S, Vh = svd(A, full_matrices=False)
        ((U * torch.relu(S - 1)[..., None, :]) @ Vh).sin().sum().backward()
        gradients.append(A.grad)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12
