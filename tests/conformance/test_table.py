"""The table of transforms, and the page made of it."""

from __future__ import annotations

import pytest
from table import ALL, LAYERS, LIMITS, PAGE, REPRESENTATIVES, TRANSFORMS, page

from examples import NAMES, example, first
from svdinv.backends.arrays import ArrayBackend


def test_limits_are_of_what_there_is():
    for found in LIMITS:
        names = [transform.name for transform in TRANSFORMS[found.framework]]
        assert found.transform in names
        assert set(found.operators) <= {*ALL, *LAYERS}


@pytest.mark.parametrize("operator", NAMES)
def test_operators_have_an_example_that_takes_batches(operator):
    assert first(operator) is not None


def test_representatives_call_every_kind_of_operation(monkeypatch):
    """In values and derivatives of both orders."""
    called = {}
    call = ArrayBackend.call

    def recorded(self, operation, *x):
        called[operator].add(type(operation))
        return call(self, operation, *x)

    monkeypatch.setattr(ArrayBackend, "call", recorded)
    for operator in NAMES:
        called[operator] = set()
        example.__wrapped__(first(operator))
    of_representatives = set().union(*(called[name] for name in REPRESENTATIVES))
    assert of_representatives
    for operator in NAMES:
        assert called[operator] <= of_representatives, operator


def test_the_page_is_that_of_the_table():
    """If not, ``python tests/conformance/table.py`` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()
