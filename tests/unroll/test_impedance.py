from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from svdinv.unroll.algorithms import ISTA, solve
from svdinv.unroll.operators import Stack, WrappedNonlinear, dot_test
from svdinv.unroll.priors import Nuclear
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.impedance.dbar import boundary_map, dbar
from svdinv.unroll.tasks.impedance.operator import (
    Impedance,
    Mesh,
    adjacent,
    disc,
    neighbours,
)

L = 8


def setup(rings=6, contact=0.05, coverage=0.5, seed=0):
    mesh = disc(rings, L, coverage=coverage)
    A = Impedance(mesh, adjacent(L), adjacent(L), contact)
    return A, 0.5 + np.random.default_rng(seed).random(len(mesh.triangles))


def exact(contact, inside=1.0, radius=0.5, terms=200_000):
    """Voltages of a disc with electrodes all around, by Fourier series.

    Under an electrode u + z du/dn = U, with du/dn = lambda_k u for the k-th frequency:
    the current is lambda_k / (1 + z lambda_k) times U, which is piecewise constant.
    """
    k = np.arange(1, terms + 1)
    mu = (inside - 1) / (inside + 1)
    power = mu * radius ** (2.0 * k)
    slope = k * (1 + power) / (1 - power)
    pitch = 2 * np.pi / L
    # Fourier coefficients of the indicator of one electrode.
    weight = 4 * np.sin(k * pitch / 2) ** 2 / k**2 / np.pi * slope
    weight = weight / (1 + contact * slope)
    row = [np.sum(weight * np.cos(k * pitch * d)) for d in range(L)]
    Y = np.array([[row[(i - j) % L] for j in range(L)] for i in range(L)])
    M = adjacent(L)
    return M.T @ np.linalg.pinv(Y) @ M


@pytest.mark.parametrize("inside", [1.0, 4.0, 0.2])
def test_a_disc_with_electrodes_all_around(inside):
    """And a concentric inclusion; the current has singularities between electrodes."""
    errors = []
    for rings in (16, 32):
        A, _ = setup(rings, contact=0.3, coverage=1.0)
        centre = np.linalg.norm(A.mesh.centres, axis=1) < 0.5
        expected = exact(0.3, inside)
        found = A.forward(np.where(centre, inside, 1.0))
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[1] < 4e-3
    assert errors[1] < errors[0] / 2.5


def test_the_voltages_are_reciprocal():
    A, x = setup()
    V = A.forward(x)
    np.testing.assert_allclose(V, V.T, rtol=1e-10)
    assert (np.linalg.eigvalsh(V) > 0).all()


def test_scaling_laws():
    """Twice the conductivity and half the contact impedance: half the voltages."""
    A, x = setup()
    B = Impedance(A.mesh, A.currents, A.voltages, A.contact / 2)
    np.testing.assert_allclose(B.forward(2 * x), A.forward(x) / 2, rtol=1e-10)
    C = Impedance(A.mesh, 3 * A.currents, A.voltages, A.contact)
    np.testing.assert_allclose(C.forward(x), 3 * A.forward(x), rtol=1e-10)


def test_the_derivative_is_that_of_differences():
    A, x = setup()
    d = np.random.default_rng(1).standard_normal(x.shape)
    h = 1e-4
    slope = (
        8 * (A.forward(x + h * d) - A.forward(x - h * d))
        - (A.forward(x + 2 * h * d) - A.forward(x - 2 * h * d))
    ) / (12 * h)
    D = A.derivative(x)
    assert np.linalg.norm(D.forward(d) - slope) < 1e-8 * np.linalg.norm(slope)
    assert dot_test(D, x) < 1e-13


def test_frameworks_differentiate_through_it(arrays):
    A, x = setup(rings=3)
    batch = np.stack([x, 2 * x])
    given = arrays.array(batch)
    data = A.forward(given)
    assert arrays.owns(data)
    expected = np.stack([A.forward(one) for one in batch])
    np.testing.assert_allclose(arrays.numpy(data), expected, rtol=1e-9)
    y = np.random.default_rng(2).standard_normal(expected.shape)
    wanted = np.stack(
        [A.derivative(a).adjoint(b) for a, b in zip(batch, y, strict=True)]
    )
    if arrays.name == "torch":
        given.requires_grad_()
        A.forward(given).backward(arrays.array(y))
        found = given.grad
    elif arrays.name == "jax":
        (found,) = arrays.module.vjp(A.forward, given)[1](arrays.array(y))
        pushed = arrays.module.jvp(A.forward, (given,), (given,))[1]
        np.testing.assert_allclose(pushed[0], A.derivative(x).forward(x), rtol=1e-8)
    elif arrays.name == "tensorflow":
        with arrays.module.GradientTape() as tape:
            tape.watch(given)
            data = A.forward(given)
        found = tape.gradient(data, given, arrays.array(y))
    else:
        import svdinv
        import svdinv.numpy

        face = svdinv.for_namespace(arrays.module)
        found = face.vjp(A.forward, given)[1](arrays.array(y))[0]
    np.testing.assert_allclose(arrays.numpy(found), wanted, rtol=1e-8, atol=1e-12)
    D = A.derivative(given[0, ...])
    np.testing.assert_allclose(
        arrays.numpy(D.adjoint(arrays.array(y[0]))), wanted[0], rtol=1e-8, atol=1e-12
    )


def test_a_second_derivative_is_refused():
    A, x = setup(rings=2)
    x = torch.asarray(x).requires_grad_()
    (g,) = torch.autograd.grad(A.forward(x).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        g.sum().backward()


class TestMesh:
    @pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9, 1.0])
    def test_a_disc_has_its_area_and_electrodes(self, coverage):
        mesh = disc(10, L, coverage=coverage, radius=2.0)
        assert mesh.areas.sum() == pytest.approx(4 * np.pi, rel=0.02)
        for edges in mesh.electrodes:
            a, b = np.moveaxis(mesh.nodes[edges], 1, 0)
            length = np.linalg.norm(a - b, axis=1).sum()
            assert length == pytest.approx(4 * np.pi / L * coverage, rel=0.02)
            np.testing.assert_allclose(np.linalg.norm(a, axis=1), 2.0)

    def test_total_variation_of_a_half_disc_is_its_diameter(self):
        mesh = disc(20, L)
        D = neighbours(mesh)
        assert not (D @ np.ones(len(mesh.triangles))).any()
        jump = (mesh.centres[:, 0] > 0.01).astype(float)
        assert 1.9 < np.abs(D @ jump).sum() < 2.8  # edges go to and fro

    def test_the_triangle_at_a_point(self):
        mesh = disc(5, L)
        np.testing.assert_array_equal(mesh.at(mesh.centres), range(len(mesh.triangles)))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"nodes": np.zeros((4, 3))}, "nodes must be"),
            ({"triangles": np.zeros((4, 2), int)}, "triangles must be"),
            ({"triangles": np.array([[0, 1, 99]])}, "triangles must name"),
            ({"triangles": np.array([[0, 0, 1]])}, "positive areas"),
            ({"electrodes": (np.array([[0, 1]]),)}, "electrodes must be at least two"),
            ({"electrodes": (np.array([[0, 1]]),) * 2 + (np.array([[0, 9]]),)},
             "electrodes must name"),
            ({"electrodes": (np.array([[0, 1]]), np.array([[2, 3], [3, 2]]))},
             r"share edges, nor list one twice: \(2, 3\) of electrode 1"),
            ({"electrodes": (np.array([[0, 1]]), np.array([[1, 0]]))}, "share edges"),
            ({"triangles": np.array([[0, 1, 2], [1, 3, 2], [2, 0, 1]])},
             "triangles must not occur twice"),
        ],
    )  # fmt: skip
    def test_a_bad_mesh(self, change, message):
        good = {
            "nodes": np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]]),
            "triangles": np.array([[0, 1, 2], [1, 3, 2]]),
            "electrodes": (np.array([[0, 1]]), np.array([[2, 3]])),
        }
        Mesh(**good)
        with pytest.raises(ValueError, match=message):
            Mesh(**{**good, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"currents": np.ones((L, 2))}, "currents must have the sum 0"),
        ({"currents": np.ones((L + 1, 2))}, "currents must be"),
        ({"voltages": np.eye(L)}, "voltages must have the sum 0"),
        ({"contact": 0.0}, "contact must be positive"),
    ],
)
def test_bad_patterns(options, message):
    good = {"currents": adjacent(L), "voltages": adjacent(L)}
    with pytest.raises(ValueError, match=message):
        Impedance(disc(3, L), **{**good, **options})


def test_what_is_passed_may_be_changed_later():
    made, currents, contact = disc(3, L), adjacent(L), np.full(L, 0.1)
    nodes, triangles = made.nodes.copy(), made.triangles.copy()
    mesh = Mesh(nodes, triangles, made.electrodes)
    A = Impedance(mesh, currents, adjacent(L), contact)
    x = np.linspace(1, 2, len(mesh.triangles))
    before, D = A.forward(x), A.derivative(x)
    slope = D.forward(np.ones_like(x))
    currents *= 5
    contact *= 5
    nodes *= 2
    triangles[:] = 0
    np.testing.assert_array_equal(D.forward(np.ones_like(x)), slope)
    np.testing.assert_array_equal(A.forward(x), before)
    x *= 2
    np.testing.assert_array_equal(D.forward(np.ones_like(x)), slope)


def test_currents_of_single_precision():
    """As files hold them: their sum is 0 but for rounding."""
    currents = np.zeros((L, 1), np.float32)
    currents[:3, 0] = 0.1, -0.04, -0.06
    assert currents.astype(float).sum() != 0
    assert Impedance(disc(3, L), currents, adjacent(L)).currents.shape == (L, 1)


def test_bad_conductivities():
    A, x = setup(rings=2)
    with pytest.raises(ValueError, match="must be positive"):
        A.forward(-x)
    with pytest.raises(ValueError, match="images must be"):
        A.forward(x[:-1])
    with pytest.raises(TypeError, match="real floating point"):
        A.forward(x + 0j)
    with pytest.raises(ValueError, match="x must be"):
        A.derivative(x[:-1])


@pytest.mark.parametrize("options", [{"rings": 1}, {"electrodes": 1}, {"coverage": 0.0},
                                     {"coverage": 1.1}, {"radius": 0.0}])  # fmt: skip
def test_bad_discs(options):
    with pytest.raises(ValueError, match="rings and electrodes must be"):
        disc(**options)


def test_nonlinear_operators_of_ones_own():
    A = WrappedNonlinear(
        lambda x: x**2, lambda x, dx: 2 * x * dx, lambda x, y: 2 * x * y, (3,), (3,)
    )
    x = np.arange(3.0)
    np.testing.assert_array_equal(A.forward(x), x**2)
    np.testing.assert_array_equal(A.derivative(x).forward(x), 2 * x**2)
    batch = torch.arange(6.0).reshape(2, 3)
    for at in (x, x + 0 * batch.numpy(), torch.asarray(x), batch):
        D = A.derivative(at)
        due = (2 * torch.asarray(at) * batch).float()
        torch.testing.assert_close(D.forward(batch), due, rtol=0, atol=0)
        torch.testing.assert_close(D.adjoint(batch), due, rtol=0, atol=0)
        np.testing.assert_array_equal(D.forward(batch.numpy()), due)
    np.testing.assert_array_equal(Stack([D, D])(batch.numpy())[:, 3:], due)
    with pytest.raises(ValueError, match=r"x must be \(..., 3\), got \(2,\)"):
        A.derivative(x[:2])
    given = Problem((batch / 5) ** 2, A)
    how = {"algorithm": ISTA(), "x0": np.ones((2, 3)), "iterations": 5}
    found = solve(given, Nuclear(1e-3), **how)
    assert found.image.dtype == torch.float32
    assert found.objective == sorted(found.objective, reverse=True)
    assert A.data_length(-1) == 3
    with pytest.raises(TypeError, match="tangent must be a function"):
        WrappedNonlinear(abs, None, abs, (3,), (3,))
    with pytest.raises(ValueError, match="at least one axis"):
        WrappedNonlinear(abs, abs, abs, (), (3,))


# The D-bar method for conductivities of which the boundary map is known


special = pytest.importorskip("scipy.special")


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
