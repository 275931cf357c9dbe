"""Hands out ``world``: the module with the cluster in one event loop, which lies beside the tests of replication."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="session")
def world() -> ModuleType:
    name = "raykv_tests_world"
    if name not in sys.modules:
        path = Path(__file__).parent.parent / "replication" / "world.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes hear of the cluster's state from the supervisor alone."""
    monkeypatch.setattr(world, "TELLS", False)
