"""What is handed to Ray's metrics: gauges are set, what grows is added, what is gone becomes zero."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raykv.actors import published
from raykv.metrics import Sample


class Recorded:
    made: dict[str, Recorded]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self.keys, self.values = {*tag_keys}, {}
        Recorded.made[name] = self

    def _at(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert {*tags} == self.keys
        return tuple(value for _, value in sorted(tags.items(), reverse=True))  # by name: whatever the order given


class Gauge(Recorded):
    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._at(tags)] = value


class Counter(Recorded):
    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0, "as Ray's counter has it"
        at = self._at(tags)
        self.values[at] = self.values.get(at, 0) + value


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    Recorded.made = {}
    monkeypatch.setattr(published.ray_metrics, "Gauge", Gauge)
    monkeypatch.setattr(published.ray_metrics, "Counter", Counter)
    return Recorded.made


def flushes(node: str, value: float) -> Sample:
    return Sample("flushes_total", {"store": "s", "node": node}, value)


def test_what_grows_is_added_and_begins_anew_with_its_process(recorded: dict[str, Any]) -> None:
    store = published.Published()
    for value in (0, 3, 3, 7, 2):
        store.publish([flushes("n1", value)])
    assert recorded["raykv_flushes_total"].values == {("s", "n1"): 9}


def test_a_gauge_is_set_and_zero_once_its_series_is_gone(recorded: dict[str, Any]) -> None:
    store = published.Published()
    store.publish([Sample("runs", {"store": "s", "node": node}, 4) for node in ("n1", "n2")])
    store.publish([Sample("runs", {"store": "s", "node": "n2"}, 5)])
    assert recorded["raykv_runs"].values == {("s", "n1"): 0, ("s", "n2"): 5}
    store.publish([flushes("n1", 2)])
    store.publish([])
    store.publish([flushes("n1", 2)])
    counted = recorded["raykv_flushes_total"].values
    assert [*counted.values()] == [4], "gone and there again: it counts from zero"


def test_a_histogram_is_exported_by_its_parts(recorded: dict[str, Any]) -> None:
    labels = {"store": "s", "node": "n1", "bucket": "b", "kind": "Read"}
    published.Published().publish(
        [
            Sample("request_seconds", {**labels, "le": "0.1"}, 5, "_bucket"),
            Sample("request_seconds", labels, 0.25, "_sum"),
            Sample("request_seconds", labels, 5, "_count"),
        ]
    )
    assert {*recorded} == {f"raykv_request_seconds_{part}" for part in ("bucket", "sum", "count")}


def test_no_failure_ends_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(published, "EVERY_S", 0.001)
    calls = []

    async def status() -> dict[str, Any]:
        calls.append(1)
        raise OSError("no")

    async def story() -> None:
        task = asyncio.create_task(published.publish_for_ever(status))
        while len(calls) < 3:  # noqa: ASYNC110 - what it waits for knows no event
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(story())
    assert caplog.text.count("could not be published") == 1
