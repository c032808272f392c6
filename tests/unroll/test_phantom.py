from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.tasks.cine.phantom import LABELS, _loop_field, coil_maps, heart

LEFT, WALL, RIGHT = 1, 2, 3  # of LABELS


@pytest.fixture(scope="module")
def cine():
    """Two seconds at 66 beats a minute, the breath held."""
    return heart(40, 96, 96, seed=3, coils=6, breathing=0)


@pytest.fixture(scope="module")
def perfusion():
    return heart(40, 96, 96, seed=3, contrast="perfusion")


def area(phantom, label):
    return (phantom.labels == label).sum((1, 2))


@pytest.mark.parametrize("contrast", ["cine", "perfusion"])
@pytest.mark.parametrize("size", [(1, 16, 16), (3, 31, 64), (2, 97, 60), (4, 64, 64)])
def test_shapes_and_dtypes(size, contrast):
    phantom = heart(*size, seed=0, coils=3, contrast=contrast)
    assert phantom.series.shape == phantom.labels.shape == size
    assert phantom.series.dtype == phantom.maps.dtype == np.complex64
    assert phantom.labels.dtype == np.uint8
    assert phantom.maps.shape == (3, *size[1:])
    assert np.isfinite(phantom.series).all()
    assert np.abs(phantom.series).max() == pytest.approx(1, abs=1e-6)
    assert set(np.unique(phantom.labels)) <= set(range(len(LABELS)))
    assert heart(*size, seed=0, contrast=contrast).maps is None


def test_the_seed_decides():
    one, two, other = (heart(3, 40, 40, seed=s, coils=2) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.series, two.series)
    np.testing.assert_array_equal(one.maps, two.maps)
    assert np.abs(one.series - other.series).max() > 0.3
    assert np.abs(one.maps - other.maps).max() > 0.1


@pytest.mark.parametrize("contrast", ["cine", "perfusion"])
def test_the_first_frames_do_not_depend_on_the_others(contrast):
    few, many = (heart(t, 40, 40, seed=5, contrast=contrast) for t in (2, 9))
    scale = np.abs(many.series[0]).max() / np.abs(few.series[0]).max()
    np.testing.assert_allclose(many.series[:2], scale * few.series, atol=1e-5)


def test_the_anatomy_is_that_of_the_seed_whatever_the_contrast():
    """Both are in diastole, with the breath held."""
    cine = heart(40, 64, 64, seed=5, breathing=0)
    perfusion = heart(2, 64, 64, seed=5, breathing=0, contrast="perfusion")
    differ = [np.mean(labels != perfusion.labels[0]) for labels in cine.labels]
    inside = np.mean(perfusion.labels[0] > 0)
    assert min(differ) < 0.03 * inside


def test_coils_do_not_change_the_series():
    np.testing.assert_array_equal(
        heart(2, 32, 32, seed=1).series, heart(2, 32, 32, seed=1, coils=5).series
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_heart_has_its_parts_in_place(seed):
    phantom = heart(4, 96, 96, seed=seed)
    for label in (LEFT, WALL, RIGHT):
        assert area(phantom, label).min() > 60
    rows = np.arange(96)
    for labels in phantom.labels:
        # The wall lies around the cavity: no blood of the left touches other tissue.
        y, x = np.nonzero(labels == LEFT)
        around = np.stack([labels[y + dy, x + dx] for dy in (-1, 1) for dx in (-1, 1)])
        assert not np.isin(around, [0, RIGHT]).any()
        # The right ventricle lies to the left in the image.
        centre = [np.average(rows, weights=(labels == k).sum(0)) for k in (1, 3)]
        assert centre[1] < centre[0] - 5


def test_the_ventricle_beats_at_the_heart_rate(cine):
    volume = area(cine, LEFT).astype(float)
    spectrum = np.abs(np.fft.rfft(volume - volume.mean(), 4096))
    frequency = np.fft.rfftfreq(4096, 0.05)[np.argmax(spectrum)]
    assert frequency * 60 == pytest.approx(66, abs=6)
    # Of the area, three fifths are ejected by a healthy heart.
    assert 0.45 < 1 - volume.min() / volume.max() < 0.75


def test_the_wall_thickens_and_keeps_its_area(cine):
    """The ring is incompressible; its area in pixels changes by the edges alone."""
    wall, cavity = area(cine, WALL), area(cine, LEFT)
    np.testing.assert_allclose(wall, wall.mean(), rtol=0.06)
    outer = np.sqrt(wall + cavity)
    thickness = outer - np.sqrt(cavity)
    assert thickness[cavity.argmin()] > 1.2 * thickness[cavity.argmax()]


def test_a_held_breath_stills_the_chest_and_breathing_moves_it():
    def change(b):  # over a breath
        series = np.abs(heart(30, 80, 80, seed=2, breathing=b, frame_time=0.15).series)
        return np.ptp(series[:, :16], axis=0).max()  # the chest wall

    assert change(0) < 0.02  # the pull of the heart has all but faded out there
    assert change(1) > 0.2


def test_edges_are_not_steps():
    """Each pixel is a mean over its area, as far as a band-limited image allows."""
    fine = np.abs(heart(1, 192, 192, seed=4).series[0])
    coarse = np.abs(heart(1, 96, 96, seed=4).series[0])
    mean = fine.reshape(96, 2, 96, 2).mean(axis=(1, 3))
    coarse, mean = coarse / coarse.mean(), mean / mean.mean()
    assert np.linalg.norm(coarse - mean) < 0.08 * np.linalg.norm(mean)


def test_phase_varies_in_space_and_time(cine):
    bright = np.abs(cine.series).min(axis=0) > 0.2
    first = np.angle(cine.series[0])[bright]
    assert np.ptp(first) > 0.8
    change = np.angle(cine.series * cine.series[0].conj())[:, bright]
    assert 0.02 < change.std() < 1
    smooth = np.angle(cine.series[:, 1:] * cine.series[:, :-1].conj())
    both = (np.abs(cine.series[:, 1:]) > 0.1) & (np.abs(cine.series[:, :-1]) > 0.1)
    assert np.median(np.abs(smooth[both])) < 0.1


def test_flow_turns_the_phase_of_the_blood(cine):
    """Between end-diastole and mid-systole, beside the muscle around it."""
    volume = area(cine, LEFT)
    still = volume.argmax()
    moving = still + np.diff(volume[still : still + 8].astype(int)).argmin()
    turn = np.angle(cine.series[moving] * cine.series[still].conj())
    labels = cine.labels
    blood = (labels[moving] == LEFT) & (labels[still] == LEFT)
    muscle = (labels[moving] == WALL) & (labels[still] == WALL)
    assert abs(np.median(turn[blood]) - np.median(turn[muscle])) > 0.15


@pytest.mark.parametrize("contrast", ["cine", "perfusion"])
@pytest.mark.parametrize("seed", range(3))
def test_effective_rank_is_low_but_not_the_rank(seed, contrast):
    series = heart(24, 80, 80, seed=seed, contrast=contrast).series
    values = np.linalg.svd(series.reshape(24, -1), compute_uv=False)
    energy = np.cumsum(values**2) / np.sum(values**2)
    assert energy[7] > 0.995
    assert energy[0] < 0.995
    assert values[4] > 0.01 * values[0]
    # Frames of the resting heart are all but alike, though not up to rounding.
    assert values[-1] > 10 * np.finfo(np.float32).eps * values[0]


def test_the_contrast_agent_comes_in_order(perfusion):
    magnitude = np.abs(perfusion.series)

    def peak(label):
        where = (perfusion.labels == label).all(axis=0)
        curve = magnitude[:, where].mean(axis=1)
        assert curve.max() > 2 * curve[0]
        return curve.argmax()

    assert peak(RIGHT) < peak(LEFT) < peak(WALL)


@pytest.mark.parametrize("seed", range(4))
def test_a_segment_lacks_blood(seed):
    """When the healthy wall is brightest, and not before the contrast agent comes."""
    phantom = heart(40, 96, 96, seed=seed, contrast="perfusion", breathing=0)
    where = (phantom.labels == WALL).all(axis=0)
    wall = np.abs(phantom.series[:, where])
    early, peak = wall[0], wall[np.median(wall, axis=1).argmax()]
    assert np.quantile(early, 0.03) > 0.85 * np.median(early)
    assert np.quantile(peak, 0.03) < 0.75 * np.median(peak)


def test_perfusion_is_triggered(perfusion):
    assert np.diff(perfusion.times) == pytest.approx(60 / 66)
    volume = area(perfusion, LEFT)
    assert np.ptp(volume) < 0.12 * volume.max()


@pytest.mark.parametrize("angle", [0.0, 0.7, 3.0])
def test_field_on_the_axis_of_a_loop(angle):
    """Known in closed form: 2 pi a^2 / (a^2 + d^2)^(3/2), along the axis."""
    distance = np.array([0.1, 0.5, 2.0])
    x, y = 0.3 + distance * np.cos(angle), -0.2 + distance * np.sin(angle)
    field = _loop_field(x, y, 0.3, -0.2, angle, 0.6, wire=0)
    expected = 2 * np.pi * 0.6**2 / (0.6**2 + distance**2) ** 1.5
    along = field.real * np.cos(angle) - field.imag * np.sin(angle)
    np.testing.assert_allclose(np.abs(along), expected, rtol=1e-12)
    np.testing.assert_allclose(np.abs(field), expected, rtol=1e-12)


def test_field_far_from_a_loop_is_a_dipole():
    theta = np.linspace(0.1, 3, 7)
    field = _loop_field(200 * np.cos(theta), 200 * np.sin(theta), 0, 0, 0.0, 1, wire=0)
    moment = np.pi / 200**3
    x = moment * (3 * np.cos(theta) ** 2 - 1)
    y = moment * 3 * np.cos(theta) * np.sin(theta)
    np.testing.assert_allclose(np.abs(field), np.hypot(x, y), rtol=1e-4)
    np.testing.assert_allclose(field.real * y, -field.imag * x, rtol=1e-3)


@pytest.mark.parametrize("coils", [1, 4, 12])
def test_maps_are_normalised_and_smooth(coils):
    maps = coil_maps(coils, 50, 71, seed=2)
    energy = np.sum(np.abs(maps) ** 2, axis=0)
    np.testing.assert_allclose(energy, 1, atol=1e-5)
    steps = np.abs(np.diff(maps[:, 8:-8, 8:-8], axis=-1))
    assert steps.max() < 0.3
    assert np.isfinite(maps).all()


def test_coils_tell_places_apart():
    """Each is most sensitive at its own place on the belt, and their phases vary."""
    maps = coil_maps(8, 64, 64, seed=0)
    belt = maps[:, 6:-6, 6:-6]
    places = {int(np.abs(coil).argmax()) for coil in belt}
    assert len(places) == 8
    gram = np.einsum("chw,dhw->cd", belt, belt.conj())
    assert np.linalg.cond(gram) < 200
    turned = np.angle(belt * belt[:, 26:27, 26:27].conj())
    assert (turned.std(axis=(1, 2)) > 0.3).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames"),
        ({"height": 15}, "at least 16"),
        ({"width": 20.0}, "integers"),
        ({"contrast": "tagging"}, "contrast"),
        ({"coils": 0}, "coils"),
        ({"coils": 2.5}, "coils"),
        ({"heart_rate": 0}, "heart_rate"),
        ({"breathing_rate": float("nan")}, "breathing_rate"),
        ({"breathing": 2}, "breathing"),
        ({"frame_time": -1}, "frame_time"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        heart(**{"frames": 2, "height": 20, "width": 20, "seed": 0, **arguments})
