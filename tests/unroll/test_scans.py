"""What the tasks of tomography have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from svdinv.cli import main
from svdinv.unroll.operators import dot_test
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions
from svdinv.unroll.tasks.tomography.pet import Pet, PetOptions
from svdinv.unroll.tasks.tomography.spectral import SpectralCt, SpectralOptions

SOURCES = {
    "ct": (Ct(size=(16,), projections=(5,)), (3, 1, 5)),
    "spectral-ct": (SpectralCt(size=(16,), projections=(5,), bins=4), (3, 4, 5)),
    "pet": (Pet(size=16, projections=8), (3, 1, 8)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_items_depend_on_their_key_alone(kind):
    task, shape = SOURCES[kind]
    source = task.load()
    whole, part = source.batch(3, 5, range(3)), source.batch(3, 5, range(2, 3))
    assert whole.y.shape[:3] == shape
    np.testing.assert_array_equal(part.y[0], whole.y[2])
    np.testing.assert_array_equal(part.truth[0], whole.truth[2])
    np.testing.assert_allclose(part.A(part.truth)[0], whole.A(whole.truth)[2])
    known = {"spectral-ct": "weight", "pet": "background"}
    if kind in known:
        one, every = (getattr(x.fidelity, known[kind]) for x in (part, whole))
        assert every.shape == whole.y.shape
        np.testing.assert_array_equal(one[0], every[2])
    assert not np.array_equal(whole.truth[0], source.batch(3, 6, range(1)).truth[0])


@pytest.mark.parametrize(
    ("task", "name", "options", "method", "atol"),
    [
        (Ct(), "walnut-1", CtOptions(views=12, noise=0.01, size=24), None, 1e-3),
        (
            SpectralCt(),
            "spectral:head-1",
            SpectralOptions(views=16, size=24, bins=5, photons=3e4),
            "low rank",
            2e-2,
        ),
        (
            Pet(),
            "activity-ellipses",
            PetOptions(views=16, counts=2e4, size=20, seed=3),
            "OSEM",
            1e-4,
        ),
    ],
    ids=lambda x: x.kind if hasattr(x, "kind") else "",
)
def test_equivalent_problems_have_the_same_solution(task, name, options, method, atol):
    made = task.measure(task.read(name, options), options)
    assert dot_test(made.A, made.truth) < 1e-6

    def solution(problem):
        if method is None:
            return problem.A.approximate_inverse(problem.y)
        return task.baselines()[method](replace(problem, truth=None)).image

    views = list(task.views(made))
    assert len(views) == 8
    first = solution(made)
    for view, undone in views[:: 3 if method == "low rank" else 1]:
        assert dot_test(view.A, made.truth) < 1e-6
        np.testing.assert_allclose(undone(solution(view)), first, atol=atol)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("walnut-1 --stop held-out --prior edip", "--stop: held-out would remove"),
        ("walnut-1 --input-noise 0.1 --prior edip", "--input-noise: does not apply"),
        ("walnut-1 --prior edip --weights colour", "--weights: these are for colour"),
        ("walnut-1 --beam cone", "argument --beam: must be parallel or fan"),
        ("walnut-1 --views 0", "argument --views: must lie in"),
        ("walnut-1 --photons 1", "argument --photons: must lie in"),
        ("spectral:head-1 --bins 1", "argument --bins: must lie in [2, 80], got 1"),
        ("spectral:head-1 --photons 1", "argument --photons: must lie in"),
        ("spectral:head-1 --views 0", "argument --views: must lie in"),
        ("spectral:head-1 --frames 3", "argument --frames: does not apply"),
        ("spectral:nowhere.png", "nowhere.png"),
        ("kinetic-sum --counts 1", "argument --counts: must lie in"),
        ("kinetic-sum --views 1", "argument --views: must lie in"),
        ("kinetic-sum --background 1", "argument --background: must lie in"),
        ("kinetic-sum --photons 100", "argument --photons: does not apply"),
        ("kinetic-sum --stop sure --deviation 1", "argument --stop: rule SURE is for"),
    ],
)
def test_what_will_not_do_is_said_in_one_line(words, message, one_line):
    assert main(["fit", *words.split(), "--size", "16", "--device", "cpu"]) == 2
    assert message in one_line()
