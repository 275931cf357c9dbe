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
    for value in (0, 3, 3, 7, 0, 0, 2):
        store.publish([flushes("n1", value), flushes("n2", value + 1)])
    assert recorded["raykv_flushes_total"].values == {("s", "n1"): 9, ("s", "n2"): 8 + 3}


def test_a_gauge_is_set_and_zero_once_its_series_is_gone_for_good(recorded: dict[str, Any]) -> None:
    store = published.Published()
    n1, n2 = ({"store": "s", "node": node} for node in ("n1", "n2"))
    shown = []
    for there in (True, False, False, True, False, False, False, False):
        store.publish([Sample("runs", n2, 5), *([Sample("runs", n1, 4)] if there else [])])
        shown.append(recorded["raykv_runs"].values["s", "n1"])
    assert shown == [4, 4, 4, 4, 4, 4, 0, 0]
    assert recorded["raykv_runs"].values["s", "n2"] == 5
    assert len(store._absent) == 1


@pytest.mark.parametrize("away", [1, 100])
def test_a_node_that_was_away_counts_on_from_where_it_was(recorded: dict[str, Any], away: int) -> None:
    labels = {"store": "s", "node": "n1", "bucket": "b", "kind": "Read"}

    def looked(value: float) -> list[Sample]:
        return [flushes("n1", value), Sample("request_seconds", labels, value, "_count")]

    store = published.Published()
    store.publish([flushes("n2", 7), *looked(5e9)])
    for _ in range(away):
        store.publish([flushes("n2", 7)])
    store.publish([flushes("n2", 7), *looked(5e9 + 100)])
    assert recorded["raykv_flushes_total"].values == {("s", "n1"): 5e9 + 100, ("s", "n2"): 7}
    assert [*recorded["raykv_request_seconds_count"].values.values()] == [5e9 + 100]
    store.publish(looked(3))
    assert recorded["raykv_flushes_total"].values["s", "n1"] == 5e9 + 103, "restarted"


def test_series_that_never_return_do_not_pile_up(recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_ABSENT", 10)
    store = published.Published()
    for number in range(40):
        store.publish([flushes(f"n{number}", 1), flushes("here", number)])
    assert [labels[0] for _, labels in store._last] == [("node", f"n{number}") for number in range(29, 40)] + [
        ("node", "here")
    ]
    assert recorded["raykv_flushes_total"].values["s", "here"] == 39


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
