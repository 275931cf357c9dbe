"""What the page is told: the state, ten minutes of traffic, and what has happened, with its cause."""

from __future__ import annotations

import copy
import gzip
import json
import threading
import time

import pytest

from raykv import sim
from raykv.dashboard.feed import ASKS_PER_S, EVERY_S, MAX_PAGES, Feed, happened, quantile_s, traffic_of
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
    return [(event["kind"], f"{event['what']}: {event['cause']}") for event in happened(before, after)]


def test_nothing_happened_at_first_nor_while_nothing_changes(looks):
    assert words(None, looks[0]) == []
    assert words(looks[0], copy.deepcopy(looks[0])) == []


def test_damage_disks_hints_and_repairs_come_with_their_causes(looks):
    def all_of_it(status):
        storage = status["nodes"][0]["storage"]
        storage |= {"complete": False, "damage": ["a.sst"], "hints": {"n2": 3, "n3": 1}}
        storage["repaired"]["fetched"] += 5
        storage["disk"]["full"] = "the disk is full"
        status["nodes"][1].update(state="down", cause="its process ended", storage=None)

    after = changed(looks[0], all_of_it)
    assert words(looks[0], after) == [
        ("bad", "node n1 answers no reads: it lacks data that it acknowledged"),
        ("bad", "node n1 found corruption: a.sst"),
        ("bad", "node n1 refuses writes: the disk is full"),
        ("note", "node n1 keeps hints for n2: its process ended"),
        ("note", "node n1 keeps hints for n3: n3 missed writes"),
        ("note", "node n1 got 5 records from its peers: its copies were compared with theirs, and differed"),
    ]
    assert [what.split(":")[0] for kind, what in words(after, looks[0]) if kind == "good"] == [
        "node n1 has all its data again", "node n1 has its corrupt ranges back", "node n1 takes writes again",
        "node n1 keeps no more hints for n2", "node n1 keeps no more hints for n3",
    ]  # fmt: skip


def test_what_the_supervisor_noted_is_told_once_in_order_and_from_before_anybody_looked(looks):
    status, ring = looks

    def noted(number, at_ms):
        return {"number": number, "at_ms": at_ms, "kind": "bad", "what": f"event {number}", "cause": "a cause"}

    first, second = noted(1, 1000), noted(2, 3000)
    taken_over = {**status, "generation": status["generation"] + 1, "events": [noted(1, 9000)]}
    seen = [{**status, "events": [first]}, {**status, "events": [first, second]}, taken_over, taken_over]
    feed = Feed(lambda: seen.pop(0), lambda: ring, wall_s=lambda: 50.0)
    for _ in range(4):
        feed.look()
    told = json.loads(feed._look.data)["events"]
    assert [(each["at_s"], each["what"]) for each in told] == [(9.0, "event 1"), (3.0, "event 2"), (1.0, "event 1")]
    assert {each["cause"] for each in told} == {"a cause"}


def test_what_happens_to_a_node_while_it_misses_looks_is_told_once_it_is_back(looks):
    status, ring = looks

    def away(status):
        status["nodes"][0]["storage"] = None

    def incomplete(status):
        status["nodes"][0]["storage"]["complete"] = False

    seen = [status, changed(status, away), changed(status, away), changed(status, incomplete), status]
    feed = Feed(lambda: {**seen.pop(0), "events": []}, lambda: ring, wall_s=lambda: 50.0)
    while seen:
        feed.look()
    told = [event["what"] for event in json.loads(feed._look.data)["events"]]
    assert told == ["node n1 has all its data again", "node n1 answers no reads"]


def test_quantiles_are_bounds():
    assert quantile_s({}, 0.5) == 0.0
    assert quantile_s({0.001: 98, 0.1: 1, float("inf"): 1}, 0.5) == 0.001
    assert quantile_s({0.001: 98, 0.1: 1, float("inf"): 1}, 0.99) == 0.1
    assert quantile_s({0.001: 0, 0.1: 0, float("inf"): 9}, 0.5) == 0.1


def test_traffic_is_what_came_between_two_looks(looks):
    status, ring = looks
    assert sum(sum(counts.values()) for counts in traffic_of(status).nodes.values()) > 60

    def more(status):
        histogram = status["nodes"][0]["storage"]["latencies"][0]
        histogram["counts"][3][1] += 50
        status["clients"] = {"processes": 1, "counters": {"errors.QuorumNotMet": 4}}

    now, seen = [0.0], [status, changed(status, more)]
    feed = Feed(lambda: seen.pop(0), lambda: ring, monotonic_s=lambda: now[0], wall_s=lambda: 100.0)
    feed.look()
    now[0] = 2.0
    feed.look()
    state = json.loads(feed._look.data)
    assert state["history"] == [{"at_s": 100.0, "ops": 25.0, "p50_ms": 1.0, "p99_ms": 1.0, "errors": 2.0}]
    assert state["hot"][0]["key"] == "hot"


def test_a_node_that_misses_a_look_neither_hides_the_others_traffic_nor_brings_its_whole_past(looks):
    status, ring = looks

    def at_look(look):
        """Each node answers ten requests a second; the second look lacks n1, the fourth has n2 restarted."""

        def change(status):
            for node in status["nodes"]:
                node["storage"]["latencies"][0]["counts"][3][1] += 1_000_000 + 20 * look
            if look == 2:
                status["nodes"][0]["storage"] = None
            if look >= 4:
                restarted = status["nodes"][1]
                restarted["incarnation"] += 1
                restarted["storage"]["latencies"] = restarted["storage"]["latencies"][:1]
                restarted["storage"]["latencies"][0]["counts"][3][1] = 20 * look

        return changed(status, change)

    now, seen = [0.0], [at_look(look) for look in range(7)]
    feed = Feed(lambda: seen.pop(0), lambda: ring, monotonic_s=lambda: now[0], wall_s=lambda: 100.0)
    while seen:
        feed.look()
        now[0] += 2.0
    history = json.loads(feed._look.data)["history"]
    assert [each["ops"] for each in history] == [30, 20, 20, 20, 30, 30]
    assert {each["p99_ms"] for each in history} == {1.0}


def test_long_keys_that_begin_alike_are_not_one(looks):
    keys = [{"bucket": "b", "key": "x" * 300 + end, "ops_per_s": 2.0, "bytes": 7} for end in "12"]

    def long(status):
        status["nodes"][0]["storage"]["load"]["keys"] = status["nodes"][0]["storage"]["large"] = keys

    feed = Feed(lambda: changed(looks[0], long), lambda: looks[1])
    feed.look()
    state = json.loads(feed._look.data)
    for shown in (state["hot"], state["large"]):
        long_ones = [each["key"] for each in shown if each["key"].startswith("x" * 100)]
        assert len({*long_ones}) == 2
        assert all(len(key) <= 200 for key in long_ones)


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
        assert json.loads(feed._look.data).get("trouble") == said


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


@pytest.mark.parametrize("ends", [False, True])
def test_who_asks_or_ends_it_just_as_it_goes_to_sleep_is_heard(looks, ends):
    asked, done = threading.Event(), threading.Event()

    class Interrupted(Feed):
        def _is_watched(self, now_s):
            watched = super()._is_watched(now_s)
            if not watched and not done.is_set():
                done.set()
                if ends:
                    self._over.set()
                else:
                    self._watched_s = now_s
                self._wanted.set()
            return watched

    feed = Interrupted(lambda: asked.set() or looks[0], lambda: looks[1])
    feed.start()
    if ends:
        feed._thread.join(5)
        assert not feed._thread.is_alive()
    else:
        assert asked.wait(5)
    feed.stop()


def test_a_look_that_is_over_before_the_wait_for_it_begins_is_not_missed(looks, monkeypatch):
    feed = Feed(lambda: looks[0], lambda: looks[1])
    monkeypatch.setattr(feed._wanted, "set", feed.look)
    began_s = time.monotonic()
    assert feed.latest(timeout_s=10).number == 1
    assert time.monotonic() - began_s < 9


def test_pages_are_told_to_ask_less_often_the_more_there_are_and_those_closed_are_forgotten(looks):
    now = [100.0]
    feed = Feed(lambda: looks[0], lambda: looks[1], monotonic_s=lambda: now[0])
    feed.look()
    feed._watched_s = now[0]
    assert [feed.latest("one").again_s for _ in range(200)] == [EVERY_S] * 200
    for number in range(100):
        last = feed.latest(f"page {number}")
    assert last.again_s == 101 / ASKS_PER_S
    assert feed.latest("one").data is last.data, "encoded once"
    assert json.loads(gzip.decompress(last.packed)) == json.loads(last.data)
    now[0] += 4 * last.again_s
    assert feed._is_watched(now[0]) is False
    feed._watched_s = now[0]
    assert feed.latest("one").again_s == EVERY_S
    for number in range(2 * MAX_PAGES):
        feed.latest(f"other {number}")
    assert len(feed._pages) == MAX_PAGES
