"""What the tests of the programs in examples/ share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(autouse=True)
def _one_thread():
    """More threads than cores, as with pytest-xdist, are slower by far than one."""
    import torch

    torch.set_num_threads(1)
