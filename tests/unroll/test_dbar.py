"""The D-bar method for conductivities of which the boundary map is known."""

from __future__ import annotations

import numpy as np
import pytest

special = pytest.importorskip("scipy.special")

from svdinv.unroll.tasks.impedance.dbar import boundary_map, dbar
from svdinv.unroll.tasks.impedance.operator import Impedance, adjacent, disc

RADII = np.linspace(0, 0.9, 10)
POINTS = np.stack([RADII, 0 * RADII], axis=-1)


def concentric(conductivity, radius, order=30):
    """The map of an inclusion in the centre, by separation of variables."""
    n = np.arange(1, order + 1)
    share = (conductivity - 1) / (conductivity + 1) * radius ** (2 * n)
    return np.diag(2 * n * share / (1 - share))


@pytest.mark.parametrize("cutoff", [3.0, 5.0])
def test_little_contrast_is_found_below_the_cutoff(cutoff):
    """It is the low-pass of the inclusion, an integral over Bessel functions."""
    s = np.linspace(0, 2 * cutoff, 2001)
    due = [
        np.trapezoid(0.5 * special.j1(0.5 * s) * special.j0(s * r), s) for r in RADII
    ]
    found = dbar(concentric(1.02, 0.5), POINTS, cutoff)
    np.testing.assert_allclose((found - 1) / 0.02, due, atol=0.05)


def test_a_concentric_inclusion_is_measured_by_electrodes():
    """To what the electrodes, half of the boundary, take from each wave."""
    mesh, pairs = disc(16, 16), adjacent(16)
    A = Impedance(mesh, pairs, pairs, 0.01)
    inside = np.linalg.norm(mesh.centres, axis=1) < 0.5
    radius = np.sqrt(mesh.areas[inside].sum() / np.pi)
    change = A(np.where(inside, 2.0, 1.0)) - A(np.ones(len(inside)))
    solved = np.linalg.pinv(pairs)
    middles = 2 * np.pi / 16 * (np.arange(16) + 0.25)
    found = boundary_map(solved.T @ change @ solved, middles)
    due = concentric(2.0, radius, 7)
    ratio = np.diag(found)[:3] / np.diag(due)[:3]
    np.testing.assert_allclose(ratio, 0.9, atol=0.1)
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-3)
    image, exact = (dbar(each, POINTS, 3.5) for each in (found, due))
    np.testing.assert_allclose(image, exact, rtol=0.05)
    assert image[0] > 2
    np.testing.assert_allclose(image[7:], 1, atol=0.1)


def test_cutoffs_at_which_nothing_converges_are_refused():
    with pytest.raises(ValueError, match="cutoff must be smaller for such data, got 9"):
        dbar(concentric(10.0, 0.8), POINTS, 9)
    for cutoff in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="cutoff must be positive, got"):
            dbar(concentric(2.0, 0.5), POINTS, cutoff)
