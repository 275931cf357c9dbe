"""Hands out ``world``: the module with the cluster in one event loop."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def load_world() -> ModuleType:
    """Load ``world.py``, once for the whole run, under a name of its own: tests are no package."""
    name = "raykv_tests_world"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "world.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def world() -> ModuleType:
    return load_world()
