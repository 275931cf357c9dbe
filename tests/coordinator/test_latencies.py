"""Each exchange counts once, under its kind; what is no operation on records does not."""

from __future__ import annotations

import pytest

from raykv import sim
from raykv.coordinator.latencies import Latencies
from raykv.protocol import frames as f
from raykv.system.process import CountingMetrics

READ, TWO = f.GetMany(1, [b"\x00a"], 1, 1.0), f.GetMany(1, [b"\x00a", b"\x00b"], 1, 1.0)


@pytest.mark.parametrize(
    ("request_", "requests", "kind"),
    [
        (READ, 1, "get"),
        (TWO, 1, "get_many"),
        (READ, 3, "get_many"),
        (f.WriteMany(1, [(b"\x00a", b"", None)], 1, 1.0), 1, "put"),
        (f.WriteMany(1, [], 1, 1.0), 1, "put_many"),
        (f.ChangeMany(1, [f.Change(b"\x00a", 1)], 1.0), 1, "change"),
        (f.ChangeMany(1, [f.Change(b"\x00a", 1)] * 2, 1.0), 1, "change_many"),
        (f.GetInfo("ring", 1.0), 1, None),
    ],
)
def test_the_kind_is_that_of_the_request(request_, requests, kind):
    metrics = CountingMetrics()
    Latencies(metrics, lambda: 7.0).note(request_, requests, 6.0)
    assert [*metrics.histograms()] == ([] if kind is None else [kind])
    if kind is not None:
        assert metrics.histograms()[kind][0] == 1_000_000
        assert sum(metrics.histograms()[kind][1:]) == 1


def test_what_a_client_waits_for_is_in_the_status_by_kind():
    with sim.start(seed=3, nodes=3) as world:
        store = world.connect("direct")
        store.put("a", 1)
        store.get("a")
        store.get("a")
        store.get_many(["a", "b"])
        [*store.scan()]
        world.sleep(31)
        store.get("a")  # asks for the cluster's state anew, and reports
        world.sleep(1)
        kinds = {
            each["kind"]: sum(count for _, count in each["counts"]) for each in store.status()["clients"]["latencies"]
        }
        assert kinds == {"put": 1, "get": 2, "get_many": 1, "scan_page": 1}


def test_a_coordinator_counts_for_those_who_ask_it():
    with sim.start(seed=3, nodes=3) as world:
        store = world.connect("coordinator")
        store.put("a", 1)
        store.get("a")
        store.get_many(["a", "b"])
        world.sleep(31)
        store.get("a")
        world.sleep(2)
        kinds = {
            each["kind"]: sum(count for _, count in each["counts"]) for each in store.status()["clients"]["latencies"]
        }
        assert kinds == {"put": 1, "get": 2, "get_many": 1}
