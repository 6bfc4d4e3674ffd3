"""Whether the real TextWorld engine can be run here."""

import importlib.util
import sys

import pytest
from stepopsd_envs.alfworld.textworld_engine import FIRST_BROKEN_PYTHON

HAS_TEXTWORLD = all(importlib.util.find_spec(name) for name in ("textworld", "fast_downward"))

needs_textworld = pytest.mark.skipif(
    not HAS_TEXTWORLD or sys.version_info >= FIRST_BROKEN_PYTHON,
    reason="the real engine is the extra `textworld`, for Python 3.11 and 3.12",
)
