"""The mix against a store in memory: what it counts, and that it notices a store that forgets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raykv.cli import demo_traffic
from raykv.cli.demo_history import History
from raykv.cli.demo_traffic import Traffic
from raykv.errors import QuorumNotMet

CITIES = {f"city:NL:{number}": {"name": f"n{number}", "geonameid": number} for number in range(40)}


class MemoryStore:
    def __init__(self) -> None:
        self.data: dict[str, Any] = dict(CITIES)
        self.node = {"node_id": "n1", "state": "up", "incarnation": 1}
        self.broken = False
        self.forgetful = False
        self.comes_back = True

    async def get(self, key: str) -> Any:
        await asyncio.sleep(0)
        if self.broken:
            raise QuorumNotMet("cut")
        return self.data.get(key)

    async def put(self, key: str, value: Any) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise QuorumNotMet("cut")
        if not self.forgetful:
            self.data[key] = value

    async def status(self, *, timeout: float) -> dict[str, Any]:
        assert timeout > 0
        if self.comes_back and self.node["state"] == "down":
            self.node = {"node_id": "n1", "state": "up", "incarnation": 2}
        return {"nodes": [self.node]}

    def kill(self) -> None:
        self.node = {**self.node, "state": "down"}


def loaded() -> History:
    history = History()
    for key in CITIES:
        history.begin(key, first=True)
        history.acknowledged(key)
    return history


@pytest.fixture(autouse=True)
def a_quick_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_traffic, "RATE_PER_S", 2000.0)
    monkeypatch.setattr(demo_traffic, "POLL_S", 0.01)
    monkeypatch.setattr(demo_traffic, "READ_SHARE", 0.5)


def drive(store: MemoryStore, history: History) -> tuple[Traffic, demo_traffic.Outage, list[str]]:
    said: list[str] = []
    traffic = Traffic(store, CITIES, history)  # type: ignore[arg-type]
    outage = asyncio.run(traffic.run(0.1, store.kill, "n1", 1, said.append))
    return traffic, outage, said


def test_a_store_that_keeps_its_word() -> None:
    store, history = MemoryStore(), loaded()
    traffic, outage, said = drive(store, history)
    assert (traffic.stale, traffic.failures.total()) == (0, 0)
    assert history.acknowledged_writes > len(CITIES)
    assert outage.back_s is not None
    assert outage.back_s >= outage.killed_s
    assert any(sample.end_s < outage.killed_s for sample in traffic.samples)
    assert any(sample.due_s > outage.back_s for sample in traffic.samples)
    assert "n1 is back" in said[0]


def test_a_store_that_forgets_is_noticed() -> None:
    store = MemoryStore()
    store.forgetful = True
    traffic, _, _ = drive(store, loaded())
    assert traffic.stale > 0


def test_failures_are_counted_by_cause_and_their_writes_are_unknown() -> None:
    store, history = MemoryStore(), loaded()
    store.broken = True
    traffic, _, _ = drive(store, history)
    assert traffic.failures.keys() == {"QuorumNotMet: cut"}
    assert traffic.failures.total() == len(traffic.samples)
    assert history.acknowledged_writes == len(CITIES)
    assert all(history.allows(key, 0) for key in CITIES)


def test_a_node_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_traffic, "BACK_WITHIN_S", 0.05)
    store = MemoryStore()
    store.comes_back = False
    _, outage, said = drive(store, loaded())
    assert outage.back_s is None
    assert said == []
