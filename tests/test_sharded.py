"""Matrices spread over devices: PyTorch's DTensors, JAX's shardings, Dask's chunks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from interpreters import run

HERE = Path(__file__).parent


def result(script, folder):
    """Run a script that starts devices of its own; give what it wrote."""
    done = run("-W", "error", HERE / script, folder / "found.json")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def in_torch(tmp_path_factory):
    torch = pytest.importorskip("torch")
    if not hasattr(os, "fork") or not torch.distributed.is_gloo_available():
        pytest.skip("needs processes that fork, and PyTorch with Gloo")
    return result("sharded_torch.py", tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def in_jax(tmp_path_factory):
    pytest.importorskip("jax")
    return result("sharded_jax.py", tmp_path_factory.mktemp("jax"))


@pytest.fixture(scope="module")
def da():
    return pytest.importorskip("dask.array", reason="Dask is not installed")


class TestTorch:
    def test_numbers_are_those_of_one_device(self, in_torch):
        for name, case in in_torch["cases"].items():
            assert case["value"] < 30 * case["eps"], name
            assert case["gradient"] < 60 * case["eps"], name

    def test_placements_stay(self, in_torch):
        for name, case in in_torch["cases"].items():
            y, g = case["placements"]
            assert g == case["given"], name
            small = "norm" in name or name in ("procrustes", "kabsch")
            assert y == ("(Replicate(),)" if small else g), name

    def test_an_all_reduce_there_and_one_back(self, in_torch):
        found, one = in_torch["cases"], {"all_reduce": 1}
        for name in ("svt", "svt, repeated", "svt, wide", "svt, batch", "low rank"):
            assert found[name]["forward"] == found[name]["backward"] == one, name
        # The norms of U S, and a second Gram matrix.
        assert found["svt, complex"]["forward"] == {"all_reduce": 2}
        assert found["svt, small"]["forward"] == {"all_reduce": 3}
        assert found["nuclear norm"]["backward"] == {}
        batch = found["svt, over the batch"]
        assert batch["forward"] == batch["backward"] == {}

    def test_what_cannot_be_done_is_said(self, in_torch):
        said = in_torch["refused"]
        assert all(text.startswith("ValueError: ") for text in said.values()), said
        assert "whole matrices on each device" in said["svd"]
        assert "whole matrices on each device" in said["method svd"]
        assert "whole matrices on each device" in said["square"]
        assert "longer side alone, Shard(1)" in said["rows of a wide matrix"]
        assert "Shard or Replicate" in said["partial"]

    def test_a_module_of_fully_shard_is_printed(self, in_torch):
        said = "FSDPSingularValueThreshold(threshold=?, relative=True, channels=8)"
        assert in_torch["printed"] == said


class TestJAX:
    @pytest.mark.parametrize("name", ["svt", "nuclear norm"])
    def test_compiles_to_all_reduces_of_gram_matrices(self, in_jax, name):
        case, n = in_jax[name], 12
        assert {kind for kind, _ in case["both"]} == {"all-reduce"}
        backward = 0 if name == "nuclear norm" else n * n
        assert sum(size for _, size in case["both"]) < n * n + backward + 2 * n
        assert case["kept"]
        assert case["value"] < 1e-14
        assert case["gradient"] < 1e-13

    def test_auto_does_not_gather_where_it_knows(self, in_jax):
        assert in_jax["auto"]["kept"]
        assert in_jax["auto"]["value"] < 1e-13
        assert in_jax["auto"]["gradient"] < 1e-13

    def test_norms_alone_do_not_gather_either(self, in_jax):
        assert in_jax["norms"] < 1e-13

    def test_rows_of_zeros_change_nothing(self, in_jax):
        assert in_jax["filled"] < 1e-13

    def test_explicit_axes_are_of_the_batch(self, in_jax):
        assert in_jax["explicit batch"] < 1e-13
        for name in ("vectors", "target", "jacobian", "tangents", "factor", "blocks"):
            assert in_jax[f"explicit {name}"] < 1e-13, name
        thresholds = [name for name in in_jax if name.startswith("explicit threshold")]
        assert len(thresholds) == 9
        for name in thresholds:
            assert in_jax[name] < 1e-13, name
        assert "A must be sharded along its rows or columns" in in_jax["explicit rows"]


LAZY = {
    "svt": lambda o, A, tau: o.svt(A, tau),
    "gram": lambda o, A, tau: o.svt(A, tau, method="gram"),
    "norm": lambda o, A, tau: tau * o.nuclear_norm(A),
    "rank": lambda o, A, tau: tau * o.low_rank(A, 2),
}


class TestDask:
    """Lazy, with the numbers of `svdinv.numpy`."""

    @pytest.mark.parametrize("name", LAZY)
    def test_value_and_gradient(self, da, name):
        import svdinv.dask
        import svdinv.numpy

        f = LAZY[name]
        rng = np.random.default_rng(1)
        A = rng.standard_normal((40, 5))
        if name == "svt":
            A = A + 1j * rng.standard_normal((40, 5))
        tau = np.asarray(2.0)
        y, pull = svdinv.numpy.vjp(lambda A, t: f(svdinv.numpy, A, t), A, tau)
        many = da.from_array(A, chunks=(13, -1))
        Y, Pull = svdinv.dask.vjp(
            lambda A, t: f(svdinv.dask, A, t), many, da.from_array(tau)
        )
        G = rng.standard_normal(y.shape)
        found = Y, *Pull(da.from_array(G))
        assert all(isinstance(x, da.Array) for x in found)
        assert found[1].chunks == many.chunks
        for x, exact in zip(da.compute(*found), (y, *pull(G)), strict=True):
            np.testing.assert_allclose(x, exact, rtol=1e-12, atol=1e-13)

    def test_square_systems_of_chunks(self, da):
        import svdinv.dask
        import svdinv.numpy

        rng = np.random.default_rng(0)
        A, b = rng.standard_normal((6, 6)) + 6 * np.eye(6), rng.standard_normal(6)
        for f in (np.linalg.solve, lambda A, b: np.linalg.inv(A) @ b):
            x, pull = svdinv.numpy.vjp(f, A, b)
            X, Pull = svdinv.dask.vjp(f, *(da.from_array(x, chunks=3) for x in (A, b)))
            found = da.compute(X, *Pull(da.from_array(b)))
            for one, exact in zip(found, (x, *pull(b)), strict=True):
                np.testing.assert_allclose(one, exact, atol=1e-15)

    @pytest.mark.parametrize(
        ("shape", "chunks"), [((5, 3), (2, 3)), ((3, 5), (3, 2)), ((4, 4), (2, 4))]
    )
    def test_damped_least_squares(self, da, shape, chunks):
        import svdinv.dask
        import svdinv.numpy

        rng = np.random.default_rng(0)
        A, b = rng.standard_normal(shape), rng.standard_normal((shape[0], 2))
        for rows in (chunks[0], shape[0]):
            many = da.from_array(A, chunks=chunks), da.from_array(b, chunks=(rows, 2))
            x = svdinv.dask.lstsq(*many, damping=0.1).compute()
            expected = svdinv.numpy.lstsq(A, b, damping=0.1)
            np.testing.assert_allclose(x, expected, atol=1e-13)

    @pytest.mark.parametrize(
        ("shape", "chunks"),
        [((3, 8), (1, 4)), ((3, 8, 2), (1, 4, 1)), ((3, 8, 9), (1, 4, 2))],
    )
    def test_right_hand_sides_in_any_chunks(self, da, shape, chunks):
        import svdinv.dask
        import svdinv.numpy

        rng = np.random.default_rng(0)
        A, b = rng.standard_normal((3, 8, 4)), rng.standard_normal(shape)
        many = da.from_array(A, chunks=(1, 4, 4)), da.from_array(b, chunks=chunks)
        expected = svdinv.numpy.lstsq(A, b)
        np.testing.assert_allclose(
            svdinv.dask.lstsq(*many).compute(), expected, atol=1e-13
        )

    def test_small_values_are_not_lost(self, da):
        import svdinv.dask
        import svdinv.numpy

        rng = np.random.default_rng(2)
        A = rng.standard_normal((60, 4)) * [1, 1e-4, 1e-9, 1e-11]
        many = da.from_array(A, chunks=(20, -1))
        found = svdinv.dask.svt(many, 1e-12).compute()
        exact = svdinv.numpy.svt(A, 1e-12, method="svd")
        np.testing.assert_allclose(found, exact, atol=1e-14 * np.abs(A).max())

    @pytest.mark.parametrize(
        "f",
        [
            lambda da, A: da.sum(A),
            lambda da, A: da.mean(A),
            lambda da, A: da.where(A > 0, A, 0.0),
            lambda da, A: da.matmul(A, da.ones((5, 2))),
            lambda da, A: da.concatenate([A, A]),
            lambda da, A: da.transpose(A),
            lambda da, A: da.map_blocks(np.square, A),
        ],
    )
    def test_functions_of_dask_do_not_lose_the_derivative(self, da, f):
        """They would make a graph in which the tape is not seen."""
        import svdinv.dask

        A = da.ones((40, 5), chunks=(13, -1))
        with pytest.raises(TypeError, match="would lose its derivative; take Python's"):
            svdinv.dask.vjp(lambda A: f(da, A), A)
        _, pull = svdinv.dask.vjp(lambda A: np.mean(A, axis=0), A)
        gA = pull(da.ones(5))[0].compute()
        np.testing.assert_allclose(gA, 1 / 40)

    def test_chunks_that_cut_the_shorter_side_are_refused(self, da):
        import svdinv.dask

        A = da.ones((8, 6), chunks=(8, 3))
        with pytest.raises(ValueError, match=r"A\.rechunk\(\{-1: -1\}\)"):
            svdinv.dask.svt(A, 1.0)
        with pytest.raises(ValueError, match="known shape"):
            svdinv.dask.svt(A.rechunk((4, 6))[da.ones(8, chunks=4) > 0], 1.0)


def test_functions_of_hermitian_matrices_say_how_to_join_chunks():
    da = pytest.importorskip("dask.array")
    import svdinv.dask

    A = da.from_array(np.eye(7), chunks=((3, 4), (7,)))
    for function in (svdinv.dask.expm, svdinv.dask.eigh, svdinv.dask.psd_project):
        with pytest.raises(ValueError, match=r"A\.rechunk\(\{-2: -1, -1: -1\}\)"):
            function(A)
    joined = svdinv.dask.expm(A.rechunk({-2: -1, -1: -1}))
    np.testing.assert_allclose(joined, np.e * np.eye(7), atol=1e-14)
