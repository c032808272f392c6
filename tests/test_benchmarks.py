"""The study of speed runs, and writes what the documentation shows."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_speed_study(tmp_path, monkeypatch):
    for name in ("torch", "jax", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import speed

    # A process each imports PyTorch, and a shape each is compiled, for seconds.
    memory = speed.Study.memory

    def of_the_last(self, item, names):
        return memory(self, item, names[-1:] if speed.PUBLISHED in names else ())

    monkeypatch.setattr(speed.Study, "memory", of_the_last)
    few, small = speed.inputs(quick=True)[1:], speed.small_batches(quick=True)[:1]
    monkeypatch.setattr(speed, "inputs", lambda quick: few)
    monkeypatch.setattr(speed, "small_batches", lambda quick: small)
    monkeypatch.setattr(
        sys, "argv",
        ["speed.py", "--quick", "--threads", "1", "--repeats", "1",
         "--frameworks", "torch", "jax", "--output", str(tmp_path)],
    )  # fmt: skip
    speed.main()
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

    def released(A, full_matrices):
        U, D, V = published.released_svd(A)
        return U, D.diagonal(dim1=-2, dim2=-1), V.mH

    gradients = []
    for svd in (torch.linalg.svd, published.svd, released):
        A = A.detach().requires_grad_()
        U, S, Vh = svd(A, full_matrices=False)
        ((U * torch.relu(S - 1)[..., None, :]) @ Vh).sin().sum().backward()
        gradients.append(A.grad)
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() < 1e-12


@pytest.mark.slow
def test_benchmark_of_training_steps(tmp_path, monkeypatch):
    for name in ("torch", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import networks

    Contender = networks.Contender

    class Here(Contender):
        """One in this process: the other imports PyTorch, for seconds."""

        def __init__(self, name):
            self.name, self.seconds, self.peak = name, [], 0

        def step(self):
            """Answer one line, as a process would."""
            monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
            with contextlib.redirect_stdout(io.StringIO()) as said:
                networks.work(self.name, 1, quick=True)
            answer = json.loads(said.getvalue())
            self.seconds.append(answer["seconds"])
            self.peak = answer["bytes"] or 0

        def close(self):
            pass

    def contender(name, *options):
        return Contender(name, *options) if name == "svdinv" else Here(name)

    monkeypatch.setattr(networks, "Contender", contender)
    monkeypatch.setattr(
        sys,
        "argv",
        ["networks.py", "--quick", "--threads", "1", "--output", str(tmp_path)],
    )
    networks.main()
    table = (tmp_path / "networks-table.txt").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 6
    assert "nan" not in table


def test_benchmark_of_one_matrix(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import one_matrix

    monkeypatch.setattr(one_matrix, "SIDES", (2, 9))
    monkeypatch.setattr(one_matrix, "MEDIUM", ((40, 8),))
    monkeypatch.setattr(sys, "argv", ["one_matrix.py", "--quick"])
    one_matrix.main()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == (2 + 2 * len(one_matrix.OPERATORS)) + (2 + 4)


def test_operators_composed_by_hand_are_the_same(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import operators

    A = torch.randn(5, 6, 4, dtype=torch.float64)
    monkeypatch.setattr(operators, "right_side", lambda A: torch.ones_like(A[..., :1]))
    monkeypatch.setattr(torch, "eye", lambda n, eye=torch.eye: eye(n).double())
    for name, (own, ours) in (operators.OPERATORS | operators.TWICE).items():
        torch.testing.assert_close(own(A), ours(A), msg=name)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(operators, "SHAPES", ((5, 4, 3),))
    monkeypatch.setattr(operators, "SQUARE", ((4, 4),))
    monkeypatch.setattr(sys, "argv", ["operators.py", "--quick"])
    quickly = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", quickly)
    operators.main()
    rows = capsys.readouterr().out.splitlines()
    tables = len(operators.OPERATORS), 4, len(operators.TWICE)
    assert len(rows) == 2 * len(tables) + sum(tables)


def test_the_published_network_restated_is_ours():
    """At equal weights the two contenders compute the same images."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(SCRIPT.parent))
    import networks

    from svdinv.unroll.torch import TLRNet

    ours, theirs = TLRNet(seed=0), networks.PublishedTLRNet()
    with torch.no_grad():
        for a, b in zip(ours.cells, theirs.cells, strict=True):
            for chain, other in ((a.analysis, b.before), (a.synthesis, b.after)):
                for i, convolution in enumerate(chain):
                    other[2 * i].weight.copy_(convolution.weight)
    image = torch.rand(2, 3, 16, 16)
    mask = torch.rand_like(image) < 0.4
    torch.testing.assert_close(
        theirs(image * mask, mask), ours(image * mask, mask), atol=1e-5, rtol=1e-5
    )
