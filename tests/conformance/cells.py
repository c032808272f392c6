"""The cells of a framework's table as parameters of a test."""

from __future__ import annotations

import pytest
from table import ALL, is_tried, limit


def cells(framework, transforms):
    """Operators under each of the transforms; those with a limit are to fail."""
    found = []
    for name in transforms:
        for operator in ALL:
            if not is_tried(framework, name, operator):
                continue
            marks = []
            if there := limit(framework, name, operator):
                fails = pytest.mark.xfail(
                    reason=there.why, strict=True, run=not there.endless
                )
                marks.append(fails)
            found.append(
                pytest.param(name, operator, id=f"{name}-{operator}", marks=marks)
            )
    return found
