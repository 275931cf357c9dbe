"""What the page is told: the state, ten minutes of traffic, and what has happened, with its cause."""

from __future__ import annotations

import copy
import json
import threading
import time

import pytest

from raykv import sim
from raykv.dashboard.feed import Feed, happened, quantile_s, traffic_of
from raykv.errors import StoreUnavailable


@pytest.fixture(scope="module")
def looks():
    with sim.start(seed=7, nodes=3) as world:
        store = world.connect()
        for number in range(60):
            store.put("hot", number)
        world.sleep(12)
        store.put("hot", 1)
        return dict(store.status()), dict(store.ring())


def changed(status, change):
    status = copy.deepcopy(status)
    change(status)
    return status


def words(before, after):
    return [(event["kind"], event["what"]) for event in happened(before, after)]


def test_nothing_happened_at_first_nor_while_nothing_changes(looks):
    assert words(None, looks[0]) == []
    assert words(looks[0], copy.deepcopy(looks[0])) == []


def test_deaths_come_with_their_cause_and_returns_are_good(looks):
    dead = changed(looks[0], lambda s: s["nodes"][0].update(state="down", cause="its process ended", storage=None))
    assert words(looks[0], dead) == [("bad", "node n1 is down: its process ended")]
    back = changed(looks[0], lambda s: s["nodes"][0].update(restarts=1))
    assert words(dead, back) == [("good", "node n1 is up"), ("note", "node n1 was restarted")]


def test_moves_members_repairs_damage_disks_hints_and_buckets(looks):
    def all_of_it(status):
        storage = status["nodes"][0]["storage"]
        storage |= {"complete": False, "damage": ["a.sst"], "hints": {"n2": 3}}
        storage["repaired"]["fetched"] += 5
        storage["disk"]["full"] = "the disk is full"
        status["rebalancing"] = {"partitions_left": 4}
        status["ring_epoch"] += 1
        status["buckets"] = ["default", "new"]
        status["nodes"][2]["node_id"] = "n9"

    after = changed(looks[0], all_of_it)
    said = {what: kind for kind, what in words(looks[0], after)}
    assert said == {
        "node n1 lacks data, and answers no reads of it": "bad", "node n1 found corruption: a.sst": "bad",
        "the disk is full": "bad", "node n1 keeps hints for n2": "note",
        "node n1 was repaired: 5 records from its peers": "note",
        f"node n9 has joined on {looks[0]['nodes'][2]['host']}": "note",
        "node n3 has left": "note", f"the ring changed: epoch {after['ring_epoch']}": "note",
        "4 partitions begin to move": "note", "bucket 'new' was created": "note",
    }  # fmt: skip
    good = [what for kind, what in words(after, looks[0]) if kind == "good"]
    assert good == [
        "node n1 has all its data again", "node n1: corruption restored by its peers", "node n1 has room again",
        "all partitions have moved",
    ]  # fmt: skip


def test_quantiles_are_bounds():
    assert quantile_s({}, 0.5) == 0.0
    assert quantile_s({0.001: 98, 0.1: 1, float("inf"): 1}, 0.5) == 0.001
    assert quantile_s({0.001: 98, 0.1: 1, float("inf"): 1}, 0.99) == 0.1
    assert quantile_s({0.001: 0, 0.1: 0, float("inf"): 9}, 0.5) == 0.1


def test_traffic_is_what_came_between_two_looks(looks):
    status, ring = looks
    before = traffic_of(status)
    assert sum(before.counts.values()) > 60

    def more(status):
        histogram = status["nodes"][0]["storage"]["latencies"][0]
        histogram["counts"][3][1] += 50
        status["clients"] = {"processes": 1, "counters": {"errors.QuorumNotMet": 4}}

    now, seen = [0.0], [status, changed(status, more)]
    feed = Feed(lambda: seen.pop(0), lambda: ring, monotonic_s=lambda: now[0], wall_s=lambda: 100.0)
    feed.look()
    now[0] = 2.0
    feed.look()
    state = json.loads(feed._data)
    assert state["history"] == [{"at_s": 100.0, "ops": 25.0, "p50_ms": 1.0, "p99_ms": 1.0, "errors": 2.0}]
    assert state["hot"][0]["key"] == "hot"


def test_trouble_is_reported_and_passes(looks):
    status, ring = looks
    answers = [StoreUnavailable("gone"), ValueError("odd"), status]

    def look():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    feed = Feed(look, lambda: ring)
    for said in ("StoreUnavailable: gone", "ValueError: odd", None):
        feed.look()
        assert json.loads(feed._data).get("trouble") == said


def test_a_hundred_pages_ask_the_store_no_more_than_one_and_none_not_at_all(looks, monkeypatch):
    from raykv.dashboard import feed as module

    monkeypatch.setattr(module, "EVERY_S", 0.05)
    monkeypatch.setattr(module, "WATCHED_S", 0.4)
    asked = []
    feed = Feed(lambda: asked.append(time.monotonic()) or looks[0], lambda: looks[1])
    feed.start()
    try:
        time.sleep(0.2)
        assert asked == []
        pages = [threading.Thread(target=lambda: [feed.latest() for _ in range(20)]) for _ in range(100)]
        began_s = time.monotonic()
        for page in pages:
            page.start()
        for page in pages:
            page.join()
        assert len(asked) <= 2 + (time.monotonic() - began_s) / 0.05
        time.sleep(1.0)
        quiet = len(asked)
        time.sleep(0.3)
        assert len(asked) == quiet, "nobody watches any more"
    finally:
        feed.stop()
