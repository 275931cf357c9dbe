"""The buttons of the dashboard, against a simulated store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import raykv.sim
from raykv.cli.dashboard_command import _commands
from raykv.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=5) as world:
        world.connect().put("k", "v")
        yield world


def test_a_repair_says_what_it_did(world: Any) -> None:
    commands = _commands(world._cluster.link(world._client()))
    assert [*commands] == ["repair", "pause moves", "resume moves"]
    assert commands["repair"]().startswith("compared ")


def test_a_repair_that_fails_is_no_success(world: Any) -> None:
    world.cut("n2", for_s=10_000)
    with pytest.raises(StoreUnavailable, match="partitions could not be compared with all their owners"):
        _commands(world._cluster.link(world._client()))["repair"]()
