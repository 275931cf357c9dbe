"""Nodes that hear of the cluster's state from the supervisor alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes hear of the cluster's state from the supervisor alone."""
    monkeypatch.setattr(world, "TELLS", False)
