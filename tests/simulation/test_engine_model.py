"""The state machine of the storage engine, in short; ``scripts/engine_model`` runs 2,000 times 100 steps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from raykv.storage.merge import merge
from simulation.engine_model import EngineMachine

SHORT = settings(
    max_examples=25, stateful_step_count=50, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "raykv.storage")


def test_the_engine_holds_what_a_dict_holds() -> None:
    run_state_machine_as_test(EngineMachine, settings=SHORT)


def _lying_sync(writer: Any) -> None:
    writer.synced_up_to = writer.length


def _oldest_stands(sources: list[Any], **how: Any) -> Any:
    return merge(sources[::-1], **how)


def _ageless(cache: Any, key: bytes, _age: int) -> Any:
    kept = cache._records.get(key)
    return kept and kept[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("raykv.storage.wal._Writer.sync", _lying_sync),
        ("raykv.storage.jobs.merge", _oldest_stands),
        ("raykv.storage.cache.RecordCache.get", _ageless),
    ],
)
def test_the_model_notices(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """It is shown to fail."""
    monkeypatch.setattr(name, value)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(EngineMachine, settings=settings(SHORT, max_examples=400, phases=[Phase.generate]))
