from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.tasks.impedance import tank

scipy_io = pytest.importorskip("scipy.io")
pytest.importorskip("skimage")

from svdinv.unroll.tasks.impedance.operator import adjacent, disc
from svdinv.unroll.tasks.impedance.tank import read_mesh, read_tank, score, segment

L = 6


@pytest.fixture
def level(tmp_path):
    rng = np.random.default_rng(0)
    patterns = {"Mpat": adjacent(L).astype(np.int16)}
    currents = np.roll(adjacent(L), 1, axis=0)[:, :4]
    U = rng.standard_normal((L - 1, 4))  # measurements of a pattern in a column
    shown = np.where(rng.random(U.shape) < 0.3, np.nan, U)
    scipy_io.savemat(
        tmp_path / "data2.mat",
        {**patterns, "Inj": currents, "Uel": shown.reshape(-1, 1, order="F")},
    )
    scipy_io.savemat(
        tmp_path / "ref.mat",
        {**patterns, "Injref": currents, "Uelref": U.reshape(-1, 1, order="F")},
    )
    return tmp_path, currents, U, shown


def test_a_measurement(level):
    folder, currents, U, shown = level
    tank = read_tank(folder, 2)
    np.testing.assert_array_equal(tank.currents, currents)
    np.testing.assert_array_equal(tank.voltages, adjacent(L))
    np.testing.assert_array_equal(tank.data, shown.T)
    np.testing.assert_array_equal(tank.reference, U.T)


def test_files_that_are_not_the_challenges(level):
    folder, *_ = level
    with pytest.raises(FileNotFoundError):
        read_tank(folder, 1)
    (folder / "data3.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot read .*data3\.mat as a MATLAB"):
        read_tank(folder, 3)
    with pytest.raises(ValueError, match=r"ref\.mat has no g, H, elfaces"):
        read_mesh(folder / "ref.mat")
    scipy_io.savemat(
        folder / "data4.mat",
        {"Mpat": adjacent(L), "Inj": adjacent(L), "Uel": np.ones((3, 1))},
    )
    with pytest.raises(ValueError, match="must have"):
        read_tank(folder, 4)


@pytest.mark.parametrize("first", [0, 1])
def test_a_mesh_counted_from_0_or_1(tmp_path, first):
    mesh = disc(3, L)
    faces = np.empty((1, L), object)
    for l, edges in enumerate(mesh.electrodes):
        faces[0, l] = edges + first
    content = {"g": mesh.nodes, "H": mesh.triangles + first, "elfaces": faces}
    scipy_io.savemat(tmp_path / "mesh.mat", content)
    found = read_mesh(tmp_path / "mesh.mat")
    np.testing.assert_array_equal(found.triangles, mesh.triangles)
    np.testing.assert_array_equal(found.electrodes[-1], mesh.electrodes[-1])


def picture():
    y, x = np.mgrid[:128, :128] / 128
    truth = np.zeros((128, 128), np.uint8)
    truth[np.hypot(x - 0.3, y - 0.4) < 0.15] = 1
    truth[np.hypot(x - 0.7, y - 0.6) < 0.12] = 2
    return truth


def test_a_segmentation_finds_its_classes():
    truth = picture()
    noisy = np.choose(truth, [0.0, -1.0, 2.0])
    noisy = noisy + 0.05 * np.random.default_rng(0).standard_normal(truth.shape)
    np.testing.assert_array_equal(segment(noisy), truth)
    # All that is below, or above, the water is of one kind.
    np.testing.assert_array_equal(
        segment(np.choose(truth, [0.0, 1.0, 2.0])) > 0, truth > 0
    )
    assert not segment(np.ones((4, 4))).any()


def test_the_score():
    truth = picture()
    assert score(truth, truth) == pytest.approx(1)
    swapped = np.choose(truth, [0, 2, 1])
    empty = np.zeros_like(truth)
    assert score(swapped, truth) < score(np.where(truth == 1, 0, truth), truth) < 1
    assert score(empty, truth) < 0.1
    with pytest.raises(ValueError, match="segmented must have"):
        score(truth[1:], truth)


def test_the_similarity_is_that_of_sums():
    """At one pixel, by the formula itself."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((3, 3)) < 0.5 for _ in "ab")
    y, x = np.mgrid[:3, :3]
    total = 0.0
    for i in range(3):
        for j in range(3):
            w = np.exp(-((x - j) ** 2 + (y - i) ** 2) / (2 * 80**2))
            w /= w.sum()
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * a).sum() - ma**2, (w * b).sum() - mb**2
            cov = (w * a * b).sum() - ma * mb
            total += (
                (2 * ma * mb + 1e-4)
                * (2 * cov + 9e-4)
                / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
            )
    assert tank._similarity(a, b) == pytest.approx(total / 9, rel=1e-6)
