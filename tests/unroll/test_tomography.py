"""Projectors against closed forms, matrices and the projectors of others."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
import scipy.sparse
import torch
from array_frameworks import Framework

from svdinv.unroll.operators import (
    FanBeam,
    ParallelBeam,
    Sampling,
    dot_test,
    operator_norm,
)
from svdinv.unroll.operators.tomography import _opposed
from svdinv.unroll.tasks.tomography import DENSITIES, densities
from svdinv.unroll.tasks.tomography.densities import (
    SHEPP_LOGAN,
    Ellipse,
    density,
    drawn,
    random_shapes,
    textured,
)

ELLIPSES = (
    Ellipse(0.5, 0.6, 0.4, 0.1, -0.1, 20),
    Ellipse(0.4, 0.2, 0.3, -0.1, 0.2, -50),
    Ellipse(-0.3, 0.1, 0.25, 0.3, -0.1, 70),
)
ANGLES = (0, 17, 45, 90, 133, 180, 222.5, 301)
FAN = {"source": 2.2, "distance": 3.5}


def beams(size, angles=ANGLES, **options):
    """Both geometries on the square [-1, 1]^2, with an offset."""
    options = {"pixel": 2 / size, "offset": 0.013, **options}
    yield ParallelBeam((size, size), angles, **options)
    yield FanBeam((size, size), angles, **FAN, **options)


def line_integrals(ellipses, s, degrees):
    """Those along the lines ``x cos t + y sin t = s``, in closed form."""
    t = np.radians(degrees)
    total = np.zeros(np.broadcast_shapes(np.shape(s), np.shape(degrees)))
    for e in ellipses:
        turned = t - np.radians(e.degrees)
        width = (e.a * np.cos(turned)) ** 2 + (e.b * np.sin(turned)) ** 2
        off = s - e.x * np.cos(t) - e.y * np.sin(t)
        half = np.sqrt(np.maximum(width - off**2, 0))
        total += 2 * e.density * e.a * e.b * half / width
    return total


def exact(A, shapes):
    """The integrals of shapes along the rays of A."""
    i = np.arange(A.data_shape[1]) - (A.data_shape[1] - 1) / 2
    u, t = i * A.spacing + A.offset, A.angles[:, None]
    if isinstance(A, ParallelBeam):
        return line_integrals(shapes, u, t)
    turned = np.degrees(np.arctan(u / A.distance))
    # From the source to the line through the centre at right angles to the ray.
    return line_integrals(shapes, A.source * np.sin(np.radians(turned)), t - turned)


def error(found, due):
    return np.linalg.norm(found - due) / np.linalg.norm(due)


@pytest.mark.parametrize("which", [0, 1])
def test_projections_of_ellipses_are_those_of_the_closed_form(which):
    """And the finer the pixels, the nearer."""
    errors = []
    for size in (32, 128):
        A = list(beams(size))[which]
        errors.append(
            error(A(drawn(ELLIPSES, size).astype(np.float64)), exact(A, ELLIPSES))
        )
    assert errors[0] < 0.04
    assert errors[1] < errors[0] / 3


def test_parallel_beams_are_those_of_scikit_image():
    radon = pytest.importorskip("skimage.transform").radon
    size, angles = 65, np.arange(0, 180, 15.0)
    y, x = np.mgrid[:size, :size] - size // 2
    image = np.exp(-((x - 8) ** 2 + (y + 5) ** 2) / 60.0)
    image[np.hypot(x, y) > 31] = 0
    theirs = radon(image, angles, circle=True).T
    ours = ParallelBeam((size, size), angles, detectors=size)(image)
    assert error(ours, theirs) < 0.005


@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_the_adjoint_is_exact(matrix, dtype):
    for A in beams(13, matrix=matrix):
        assert dot_test(A, np.zeros((2, 13, 13), dtype)) < 1e-6
        assert A(np.ones((13, 13), dtype)).dtype == dtype


def matrices():
    """How many sparse matrices there are."""
    return sum(isinstance(x, scipy.sparse.csr_array) for x in gc.get_objects())


def test_its_matrices_are_freed_with_it():
    """At once: training would fill the memory before a collection of cycles."""
    gc.collect()
    others = matrices()
    for A in beams(12):
        y = A(torch.ones(12, 12, requires_grad=True))
        y.sum().backward()
        A.filtered_back_projection(y.detach())
        assert matrices() > others
        gc.disable()
        try:
            del A, y
            assert matrices() == others
        finally:
            gc.enable()


def test_the_matrix_is_what_is_computed_without_it(rng):
    image, fan = rng.random((12, 9)), {"source": 20, "distance": 30}
    for kind, options in ((ParallelBeam, {}), (FanBeam, fan)):
        kept, free = (kind((12, 9), ANGLES, matrix=m, **options) for m in (True, False))
        y = kept(image)
        np.testing.assert_allclose(free(image), y, rtol=1e-12)
        np.testing.assert_allclose(free.adjoint(y), kept.adjoint(y), rtol=1e-12)
        np.testing.assert_allclose(
            free.approximate_inverse(y), kept.approximate_inverse(y), rtol=1e-9
        )


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow", "jax"])
def test_every_framework_projects_and_inverts_alike(name, rng):
    framework = Framework(name)
    image = rng.random((2, 10, 8)).astype(np.float32)
    A = ParallelBeam((10, 8), ANGLES)
    y = A(framework.array(image))
    assert framework.owns(y)
    np.testing.assert_allclose(framework.numpy(y), A(image), rtol=1e-6)
    x = A.approximate_inverse(y)
    assert framework.owns(x)
    np.testing.assert_allclose(
        framework.numpy(x), A.filtered_back_projection(A(image)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("adjoint", [False, True])
def test_variables_of_tensorflow_are_differentiated(adjoint):
    tf = pytest.importorskip("tensorflow")
    A = ParallelBeam((4, 3), [0, 30])
    A = A.H if adjoint else A
    x = tf.Variable(np.ones(A.H(np.ones((2, 5))).shape if not adjoint else (2, 5)))
    with tf.GradientTape() as tape:
        y = A(x)
    np.testing.assert_allclose(tape.gradient(y, x), A.H(np.ones(y.shape)))


@pytest.mark.parametrize("name", ["filtered_back_projection", "preconditioned"])
def test_filters_are_linear_in_complex_data(name, rng):
    A = ParallelBeam((9, 8), ANGLES)
    y = rng.standard_normal((2, *A.data_shape))
    invert = getattr(A, name)
    expected = invert(y[0]) + 1j * invert(y[1])
    np.testing.assert_allclose(invert(y[0] + 1j * y[1]), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_projected(name):
    dtype, A = getattr(torch, name), ParallelBeam((9, 8), ANGLES)
    x = torch.ones(9, 8)
    found = A(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), A(x), rtol=1e-2, atol=1e-6)


def test_a_ray_through_a_row_sums_it(rng):
    """Whatever the framework of rounding: along the axes there is no interpolation."""
    image = rng.random((6, 4))
    A = ParallelBeam((6, 4), [0, 90], detectors=4, pixel=0.5)
    np.testing.assert_allclose(A(image)[0], 0.5 * image.sum(axis=0))
    A = ParallelBeam((6, 4), [90, -90, 270], detectors=6, pixel=0.5)
    rows = 0.5 * image.sum(axis=1)[::-1]
    np.testing.assert_allclose(A(image), [rows, rows[::-1], rows[::-1]], rtol=1e-12)


def test_one_pixel_and_one_ray():
    A = ParallelBeam((1, 1), [30], detectors=1)
    np.testing.assert_allclose(A(np.ones((1, 1))), [[2 / np.sqrt(3)]])
    assert A.filtered_back_projection(np.ones((1, 1))).shape == (1, 1)


@pytest.mark.parametrize(
    ("angles", "fan"),
    [
        (np.arange(0, 180, 2.0), False),
        (np.arange(0, 360, 3.0), False),
        (np.arange(0, 360, 3.0), True),
        (np.arange(40, 40 + 280, 2.0), True),  # Parker's weights
        (-np.arange(0, 280, 2.0), True),
    ],
)
@pytest.mark.parametrize("window", ["ram-lak", "hann"])
def test_filtered_back_projection_inverts(angles, fan, window):
    size = 64
    A = list(beams(size, angles))[fan]
    found = A.filtered_back_projection(exact(A, ELLIPSES), window)
    truth = drawn(ELLIPSES, size)
    inner = drawn([Ellipse(1.0, 0.04, 0.06, 0.45, 0.1)], size) == 1
    np.testing.assert_allclose(found[inner].mean(), truth[inner].mean(), rtol=0.01)
    assert error(found, truth) < 0.16
    assert abs(found[:4].mean()) < 0.01


# The last four are above or below what nine decimals leave of them.
@pytest.mark.parametrize(
    "first", [20, -7, 462, 200 / 3, 100 / 3, float(np.float32(12.3))]
)
@pytest.mark.parametrize("arc", [180, 195, 210, 225])
def test_densities_of_a_fan_are_right_for_arcs_of_half_a_turn_and_more(arc, first):
    """The detectors cover the corners of the image, the disc needs a smaller arc."""
    y, x = (np.mgrid[:64, :64] - 31.5) / 64
    disc = np.hypot(x - 0.05, y) < 0.4
    A = FanBeam(
        (64, 64), np.arange(0, arc, 1.5) + first, source=2, distance=3, pixel=1 / 64
    )
    found = A.filtered_back_projection(A(disc.astype(float)))
    inside = np.hypot(x - 0.05, y) < 0.3
    assert found[inside].mean() == pytest.approx(1, abs=0.01)
    error = np.linalg.norm(found - disc) / np.linalg.norm(disc)
    assert error < (0.15 if arc < 200 else 0.09)


@pytest.mark.parametrize("first", [200 / 3, 100 / 3, 462])
def test_opposite_views_are_found_from_any_first_angle(first):
    angles = np.arange(0, 240, 1.5)
    np.testing.assert_array_equal(_opposed(angles + first), _opposed(angles))
    assert 0 < _opposed(angles).sum() < len(angles)


@pytest.mark.parametrize(("offset", "detectors"), [(20.3, 50), (-25.0, 55), (12.0, 62)])
@pytest.mark.parametrize("fan", [False, True])
def test_a_displaced_detector_suffices_in_a_whole_turn(offset, detectors, fan):
    """Beyond the short side nothing is measured, and most rays are measured once."""
    size, angles = 64, np.arange(0, 360, 3.0)
    whole = list(beams(size, angles, offset=0))[fan]
    A = list(
        beams(
            size, angles, offset=offset * whole.spacing, detectors=detectors,
            spacing=whole.spacing,
        )
    )[fan]  # fmt: skip
    found, expected = (
        B.filtered_back_projection(exact(B, ELLIPSES), "hann") for B in (A, whole)
    )
    assert error(found, expected) < 0.08  # of half as many measurements
    assert abs((found - expected)[28:36, 28:36].mean()) < 0.003  # where both overlap


@pytest.mark.parametrize(
    "angles",
    [np.arange(0, 201, 40.0), [0, 20, 40, 120, 140, 160, 170], [0, 60, 120]],
    ids=["sparse", "wedge", "few"],
)
def test_a_small_offset_hardly_matters_in_sparse_views(angles):
    truth = drawn(ELLIPSES, 64)
    errors = []
    for offset in (0.0, 0.09):  # three detectors
        A = ParallelBeam((64, 64), angles, detectors=64, offset=offset, pixel=2 / 64)
        errors.append(error(A.filtered_back_projection(A(truth), "hann"), truth))
    assert errors[1] < 1.1 * errors[0]


def test_a_displaced_detector_in_nearly_a_whole_turn():
    """Of the views a thirtieth is missing, and so is about as much of the image."""
    truth = drawn(ELLIPSES, 64)
    errors = []
    for degrees in (360.0, 348.0):
        A, _ = beams(
            64, np.arange(0, degrees, 3.0), detectors=50, offset=0.62, spacing=2 / 64
        )
        errors.append(error(A.filtered_back_projection(A(truth), "hann"), truth))
    assert errors[1] < errors[0] + 0.1


def test_limited_angles_count_as_they_are():
    """The mean along the rays that there are is right, not spread over half a turn."""
    A = ParallelBeam((32, 32), np.arange(0, 60, 2.0))
    B = ParallelBeam((32, 32), np.repeat(np.arange(0, 60, 2.0), 2))
    y = A(drawn(ELLIPSES, 32))
    once = A.filtered_back_projection(y)
    np.testing.assert_allclose(
        once, B.filtered_back_projection(np.repeat(y, 2, axis=0)), atol=1e-5
    )
    whole = ParallelBeam((32, 32), np.arange(0, 180, 2.0))
    full = whole.filtered_back_projection(whole(drawn(ELLIPSES, 32)))
    assert 0.25 < np.linalg.norm(once) / np.linalg.norm(full) < 1


@pytest.mark.parametrize(
    "angles",
    [
        np.r_[np.arange(0, 90, 0.5), np.arange(90, 180, 3.0)],
        np.sort(np.random.default_rng(0).uniform(0, 180, 180)),
        np.sort(np.random.default_rng(1).uniform(0, 180, 90)),
        np.array([0.0, 60, 120, 121]),
        np.array([0.0, 60, 120, 120.001]),
    ],
    ids=["two densities", "180 random", "90 random", "two near", "two nearly equal"],
)
def test_uneven_angles_are_no_limited_angles(angles):
    truth = drawn(ELLIPSES, 48)
    A = ParallelBeam(truth.shape, angles)
    found = A.filtered_back_projection(A(truth))
    np.testing.assert_allclose(found.sum(), truth.sum(), rtol=0.05)


def test_filtered_back_projection_is_differentiated(rng):
    for matrix in (True, False):
        for A in beams(7, matrix=matrix):
            y = torch.randn(A.data_shape, dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(A.filtered_back_projection, (y,))
    turn = np.arange(0, 360, 40.0)
    for A in beams(7, turn, offset=2.0, detectors=8, spacing=1.0):
        y = torch.randn(A.data_shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(A.filtered_back_projection, (y,))


@pytest.mark.parametrize("fan", [False, True])
def test_preconditioned_residuals_make_descent_fast(fan, rng):
    A = list(beams(12, np.arange(0, 180, 5.0)))[fan]
    y, z = rng.standard_normal((2, 50, *A.data_shape))
    M = A.preconditioned
    np.testing.assert_allclose((M(y) * z).sum(), (y * M(z)).sum())
    assert ((M(y) * y).sum(axis=(1, 2)) > 0).all()
    np.testing.assert_allclose((M(y) * y).mean(), (y * y).mean(), rtol=0.02)
    pixels = np.eye(144).reshape(144, 12, 12)

    def spread(weigh):
        """Largest eigenvalue of A^H M A relative to the median."""
        normal = A.adjoint(weigh(A(pixels))).reshape(144, 144)
        values = np.linalg.eigvals(normal).real
        return values.max() / np.median(values)

    assert spread(M) < spread(lambda y: y) / 5
    half = Sampling(np.ones((12, 12), bool))
    np.testing.assert_array_equal((3 * A * half).preconditioned(y), M(y))
    np.testing.assert_array_equal(half.preconditioned(pixels), pixels)


def test_forward_mode_goes_through_projections(rng):
    A = ParallelBeam((5, 4), ANGLES)
    x, dx = torch.from_numpy(rng.standard_normal((2, 5, 4)))
    for f in (A, lambda x: A.adjoint(A.preconditioned(A(x)))):
        _, found = torch.func.jvp(f, (x,), (dx,))
        torch.testing.assert_close(found, f(dx))


def test_bounds_on_the_norm():
    for A in beams(16):
        norm = operator_norm(A, np.zeros((16, 16)))
        assert norm <= A.norm_bound < 1.6 * norm
        assert (A / 4).norm_bound == pytest.approx(A.norm_bound / 4)
        image = A.approximate_inverse(A(drawn(ELLIPSES, 16)))
        half = (A * 0.5).approximate_inverse(0.5 * A(drawn(ELLIPSES, 16)))
        np.testing.assert_allclose(half, image, atol=1e-5)


@pytest.mark.parametrize("shape", [(18, 22), (18,), (2, 22, 18)])
def test_sinograms_of_another_shape_are_refused_as_such(shape):
    A = ParallelBeam((16, 16), np.arange(0, 180, 10.0))
    due = rf"data must be \(\.\.\., 18, {A.detectors}\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=due):
        A.filtered_back_projection(np.ones(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelBeam((4,), [0]), "image_shape must be"),
        (lambda: ParallelBeam((4, 4), []), "angles must be a list"),
        (lambda: ParallelBeam((4, 4), [np.nan]), "angles must be a list"),
        (lambda: ParallelBeam((4, 4), [0], detectors=0), "detectors must be at least"),
        (lambda: ParallelBeam((4, 4), [0], spacing=0), "spacing must be positive"),
        (lambda: ParallelBeam((4, 4), [0], pixel=-1), "pixel must be positive"),
        (lambda: ParallelBeam((4, 4), [0], offset=np.inf), "offset must be finite"),
        (lambda: FanBeam((4, 4), [0], source=2, distance=9), "source must lie beyond"),
        (lambda: FanBeam((4, 4), [0], source=9, distance=0), "distance must be"),
        (lambda: FanBeam((4, 4), [0], source=9, distance=8), "must be at least source"),
        (
            lambda: ParallelBeam((4, 4), [0]).filtered_back_projection(
                np.ones((1, 6)), "box"
            ),
            "window must be one of",
        ),
        (lambda: ParallelBeam((4, 4), [0])(np.ones((3, 4))), "images must be"),
        (lambda: density("egg", 8), "there is no phantom 'egg'"),
        (lambda: random_shapes(0, np.random.default_rng(0)), "size must be at least"),
    ],
)
def test_bad_geometry_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("shape", "detectors", "name"), [((4.5, 4), 4, "image_shape"), ((4, 4), 2.9, "det")]
)
def test_numbers_of_pixels_and_detectors_are_integers(shape, detectors, name):
    with pytest.raises(TypeError, match=f"{name}.* must be an integer"):
        ParallelBeam(shape, [0], detectors=detectors)


# Phantoms

BODY = drawn([Ellipse(0.5, 0.5, 0.5)], 64)


@pytest.mark.parametrize("name", DENSITIES)
def test_phantoms_are_densities(name):
    image = density(name, 48, seed=3)
    assert image.shape == (48, 48)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert 0.3 < image.max() <= 1
    # They lie within the disc that every view sees.
    y, x = np.mgrid[:48, :48] - 23.5
    assert not image[np.hypot(x, y) > 24].any()
    np.testing.assert_array_equal(image, density(name, 48, seed=3))
    again = density(name, 48, seed=4)
    assert np.array_equal(image, again) == (name not in ("ellipses", "shapes"))


def test_a_phantom_of_ellipses_has_their_area():
    image = drawn([Ellipse(0.5, 0.6, 0.3, 0.1, 0.2, 33)], 64)
    np.testing.assert_allclose(
        image.sum() * (2 / 64) ** 2, 0.5 * np.pi * 0.6 * 0.3, rtol=2e-3
    )
    assert drawn(SHEPP_LOGAN, 64).max() == 1


def test_shells_are_hollow(monkeypatch):
    """Each shape has another inside it, of the opposite sign and smaller."""
    seen = []
    monkeypatch.setattr(
        densities, "drawn", lambda shapes, n: seen.extend(shapes) or BODY
    )
    random_shapes(64, np.random.default_rng(1), 0.5, 1.0)
    _, *every = seen  # the first is the body
    assert len(every) >= 10
    for outer, inner in zip(every[::2], every[1::2], strict=True):
        ratio = inner.a / outer.a
        assert 0.75 <= ratio <= 0.97
        np.testing.assert_allclose(inner.b, ratio * outer.b)
        assert inner[3:] == outer[3:]  # the place, the angle, and what it is
        assert inner.density * outer.density <= 0


def test_textures_are_within_a_body_or_everywhere():
    outside, spread = [], []
    for seed in range(12):
        image = textured(BODY, np.random.default_rng(seed))
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
        outside.append(float(image[BODY == 0].mean()))
        spread.append(float(image[BODY == 0.5].std()))
    assert 0 in outside
    assert max(outside) > 0.1
    assert min(spread) > 0.02
    blank = textured(np.zeros((9, 6), np.float32), np.random.default_rng(0))
    assert np.isfinite(blank).all()
