"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before TensorFlow is imported: its C++ side logs about the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))

from frameworks import FRAMEWORKS, framework


@pytest.fixture(params=FRAMEWORKS)
def backend(request):
    """Each installed framework in turn, and array-api-strict."""
    return framework(request.param)
