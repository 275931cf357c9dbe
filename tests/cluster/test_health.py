"""Health of nodes: the order in which they are asked, their latency, and the budget of hedges."""

from __future__ import annotations

from collections import Counter

import pytest

from raykv.cluster import health as h


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


class CountingMetrics(Counter[str]):
    def count(self, name: str, amount: int = 1) -> None:
        self[name] += amount


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.health = h.Health(self.clock, CountingMetrics())  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_node_that_was_hedged_is_asked_after_the_others_longer_each_time(bench: Bench) -> None:
    nodes = ["n1", "n2", "n3"]
    for for_s in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        bench.health.note_slow("n1")
        bench.health.note_slow("n1")  # while it counts as slow nothing is added
        assert bench.health.in_order(nodes) == ["n2", "n3", "n1"]
        bench.clock.now_s += for_s - 0.01
        assert bench.health.in_order(nodes) == ["n2", "n3", "n1"]
        bench.clock.now_s += 0.02
        assert bench.health.in_order(nodes) == nodes


@pytest.mark.parametrize("what", ["down", "suspected", "slow", "incomplete", "silent", "unknown"])
def test_a_node_against_which_something_speaks_is_not_healthy(bench: Bench, what: str) -> None:
    bench.health.learn({"n1": 1}, {})
    now_s = bench.clock.now_s
    assert bench.health.healthy("n1", now_s)
    peer = bench.health._node("n1")
    match what:
        case "down":
            bench.health.learn({"n1": 1}, {"n1": "gone"})
        case "suspected":
            peer.suspected_until_s = now_s + 1
        case "slow":
            bench.health.note_slow("n1")
        case "incomplete":
            peer.incomplete = True
        case "silent":
            peer.pending[1] = now_s - 2 * h.SILENT_S
    assert not bench.health.healthy("n9" if what == "unknown" else "n1", now_s)


def test_hedges_are_paid_for_by_answers_and_waited_for_longer_when_none_is_left(bench: Bench) -> None:
    health = bench.health
    usual_s = health.hedge_delay_s("Read", 1, ["n1", "n2"])
    assert health.spend_hedges(60)
    assert health.spend_hedges(60), "what is begun is not cut in two"
    assert not health.spend_hedges(1)
    assert health.hedge_delay_s("Read", 1, ["n1", "n2"]) == h.LATE * usual_s
    for _ in range(100):
        health.record_latency("Read", {"n1": 10, "n2": 10}, usual_s / 2)
    assert health.hedge_delay_s("Read", 1, ["n1", "n2"]) <= usual_s
    assert health.spend_hedges(1)
    for _ in range(1000):
        health.record_latency("Read", {"n1": 100}, 0.001)
    assert [health.spend_hedges(50) for _ in range(3)] == [True, True, False], "the savings are bounded"


def test_hedges_may_run_into_debt_but_not_without_end(bench: Bench) -> None:
    health = bench.health
    for _ in range(100):
        health.spend_hedges(1000)
    answers = 0
    while not health.spend_hedges(1):
        health.record_latency("Read", {"n1": 1000}, 0.001)
        answers += 1000
    assert h.HEDGE_DEBT / h.HEDGES_AN_ANSWER <= answers <= 1.2 * h.HEDGE_DEBT / h.HEDGES_AN_ANSWER


def test_a_node_that_is_waited_for_in_vain_is_known_to_take_longer_but_not_without_end(bench: Bench) -> None:
    health = bench.health
    for _ in range(3):
        before_s = health.hedge_delay_s("Read", 1, ["n1"])
        health.record_timeout("Read", {"n1": 1})
        assert health.hedge_delay_s("Read", 1, ["n1"]) > before_s
    for _ in range(200):
        health.record_timeout("Read", {"n1": 1})
    assert health.hedge_delay_s("Read", 1, ["n1"]) == h.HEDGE_CEILING_S
    for _ in range(600):
        health.record_latency("Read", {"n1": 1}, 0.001)
    assert health.hedge_delay_s("Read", 1, ["n1"]) < 0.05, "what was is forgotten"


def test_the_first_that_are_available_are_taken_and_slow_ones_for_want_of_others(bench: Bench) -> None:
    health, nodes = bench.health, ("n1", "n2", "n3", "n4")
    health.learn(dict.fromkeys(nodes, 1), {})
    assert health.first_available(nodes, 2) == ("n1", "n2")
    health.note_slow("n1")
    assert health.first_available(nodes, 2) == ("n2", "n3")
    health.learn({}, {"n3": "gone"})
    assert health.first_available(nodes, 3) == ("n2", "n4", "n1")
    assert health.first_available(nodes, 4) == ("n2", "n4", "n1"), "and no more than there are"


def test_a_write_passes_by_those_that_are_unreachable_and_needs_to_know_the_others(bench: Bench) -> None:
    health, nodes = bench.health, ("n1", "n2", "n3")
    health.learn(dict.fromkeys(nodes, 1), {})
    health.note_slow("n1")
    assert health.unreachable_of(nodes) == frozenset(), "a slow one takes it"
    health.learn({}, {"n3": "gone"})
    assert health.unreachable_of(nodes) == {"n3"}
    assert health.unreachable_of((*nodes, "n9")) is None, "nothing is known of that one"
    health._node("n2").incomplete = True
    assert health.unreachable_of(nodes) is None, "it takes writes, and is no plain case"
