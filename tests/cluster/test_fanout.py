"""Calls side by side, outcomes as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.cluster.background import Background
from raykv.cluster.fanout import CALL_TIMEOUT_S, RETRY_S, Fanout, Outcome, gather
from raykv.coordinator.driver import Driver, posting
from raykv.coordinator.routing import Routing
from raykv.ports import PeerAbsent, PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from types import ModuleType

PING = f.Ping()


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


class Counting:
    """A round that wants a number of answers, and one more node at each time-out."""

    def __init__(self, wanted: int, spare: list[str]) -> None:
        self.wanted = wanted
        self.spare = spare
        self.answers: list[str] = []
        self.failed: list[str] = []
        self.more_at_s: list[float] = []

    @property
    def open(self) -> bool:
        return len(self.answers) < self.wanted

    def more(self) -> list[str]:
        self.more_at_s.append(asyncio.get_running_loop().time())
        return [self.spare.pop(0)] if self.spare else []

    def take(self, outcome: Outcome[str]) -> list[str]:
        (self.answers if outcome.answer is not None else self.failed).append(outcome.node_id)
        return [self.spare.pop(0)] if outcome.answer is None and self.spare else []


class Bench:
    """A fan-out, and a driver that carries out what is asked of it."""

    def __init__(self, world: ModuleType, cluster: Any, deadline_s: float) -> None:
        self.clock = world.Clock()
        self.routing = Routing(cluster.transport("me"), self.clock, world.Metrics())
        self.driver = Driver(self.routing, posting(cluster.transport("me"), self.clock, Background()), self.clock)
        self.fan: Fanout[str] = Fanout(self.routing.peers, self.clock.monotonic_s() + deadline_s)

    async def next(self, timeout_s: float) -> Outcome[str] | None:
        return await self.driver.run(self.fan.next(self.clock.monotonic_s() + timeout_s))


def test_outcomes_come_in_the_order_of_arrival_with_what_they_are_about(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        cluster.network.delays[("me", "node/n1")] = 0.3
        cluster.network.delays[("me", "node/n2")] = 0.1
        cluster.kill("n3")
        bench = Bench(world, cluster, 5)
        fan = bench.fan
        for node_id in ("n1", "n2", "n3"):
            fan.send(node_id, PING, 1, f"about {node_id}")
        assert not bench.routing.tasks, "it does nothing by itself"
        outcomes = [await bench.next(1.0) for _ in range(3)]
        assert [outcome.node_id for outcome in outcomes if outcome] == ["n3", "n2", "n1"]
        assert [outcome.about for outcome in outcomes if outcome] == ["about n3", "about n2", "about n1"]
        assert [outcome.answer for outcome in outcomes if outcome] == [None, f.Pong(), f.Pong()]
        assert outcomes[0] is not None
        assert outcomes[0].failure is not None
        await asyncio.sleep(0)
        assert not bench.routing.tasks

    world.run(story())


def test_nothing_is_sent_when_the_process_was_frozen_until_time_was_up(world: ModuleType) -> None:
    """The client knows the outcome as unknown, and may have overwritten it since (P8)."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        bench = Bench(world, cluster, -1.0)
        bench.fan.send("n1", PING, 1, "late")
        outcome = await bench.next(1.0)
        assert outcome is not None
        assert outcome.about == "late"
        assert isinstance(outcome.failure, PeerAbsent), "it is certain that nothing was done"

    world.run(story())


def test_nothing_in_time_is_none_and_the_call_goes_on(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        cluster.network.delays[("me", "node/n1")] = 0.3
        bench = Bench(world, cluster, 5)
        bench.fan.send("n1", PING, 1, "x")
        began_s = asyncio.get_running_loop().time()
        assert await bench.next(0.1) is None
        assert asyncio.get_running_loop().time() - began_s < 0.11
        assert await bench.next(0.0) is None
        outcome = await bench.next(1.0)
        assert outcome is not None
        assert outcome.answer == f.Pong()

    world.run(story())


def test_a_call_takes_no_longer_than_its_bound_or_the_deadline(world: ModuleType) -> None:
    async def story() -> None:
        for deadline_s, expected_s in ((0.5, 0.5), (60.0, CALL_TIMEOUT_S)):
            cluster = world.Cluster(1, copies=1).start()
            cluster.freeze("n1")
            bench = Bench(world, cluster, deadline_s)
            began_s = asyncio.get_running_loop().time()
            bench.fan.send("n1", PING, 1, "x")
            outcome = await bench.next(100)
            assert outcome is not None
            assert isinstance(outcome.failure, PeerSilent)
            assert abs(asyncio.get_running_loop().time() - began_s - expected_s) < 0.01

    world.run(story())


async def gathered(
    world: ModuleType, cluster: Any, round_: Counting, first: list[str], hedge_s: float, deadline_s: float
) -> float:
    """Run it; return the seconds that it took."""
    bench = Bench(world, cluster, deadline_s)
    clock, fan = bench.clock, bench.fan

    def send(asks: list[str]) -> None:
        for node_id in asks:
            fan.send(node_id, PING, 1, node_id)

    began_s = clock.monotonic_s()
    send(first)
    until_s = began_s + deadline_s
    steps = gather(round_, fan, clock, send=send, take=round_.take, hedge_s=hedge_s, deadline_s=until_s)
    await bench.driver.run(steps)
    return clock.monotonic_s() - began_s


def test_a_round_ends_with_its_last_answer_and_asks_others_where_one_fails(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5).start()
        cluster.kill("n2")
        round_ = Counting(2, ["n3", "n4", "n5"])
        taken_s = await gathered(world, cluster, round_, ["n1", "n2"], 0.1, 5.0)
        assert taken_s < 0.01
        assert (round_.answers, round_.failed, round_.spare) == (["n1", "n3"], ["n2"], ["n4", "n5"])
        assert round_.more_at_s == []

    world.run(story())


@pytest.mark.parametrize(("hedge_s", "again_s"), [(0.2, 0.2), (0.02, RETRY_S)])
def test_what_is_slow_is_raced_after_a_while_and_again_after_as_long(
    world: ModuleType, hedge_s: float, again_s: float
) -> None:
    async def story() -> None:
        cluster = world.Cluster(5).start()
        for node_id in ("n1", "n2", "n3"):
            cluster.freeze(node_id)
        round_ = Counting(1, ["n2", "n3", "n4"])
        began_s = asyncio.get_running_loop().time()
        taken_s = await gathered(world, cluster, round_, ["n1"], hedge_s, 5.0)
        assert round_.answers == ["n4"]
        assert [at_s - began_s for at_s in round_.more_at_s] == pytest.approx(
            [hedge_s + turn * again_s for turn in range(3)]
        )
        assert taken_s == pytest.approx(hedge_s + 2 * again_s, abs=0.01)

    world.run(story())


def test_a_round_that_gets_no_answers_ends_with_its_time_and_asks_nobody_then(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        cluster.freeze("n1")
        round_ = Counting(1, [])
        assert await gathered(world, cluster, round_, ["n1"], 0.4, 1.0) == pytest.approx(1.0)
        assert len(round_.more_at_s) == 2, "at 0.4 and 0.8 s"
        round_ = Counting(0, [])
        assert await gathered(world, cluster, round_, [], 0.4, 1.0) == 0.0, "nothing is wanted"

    world.run(story())


def test_where_all_nodes_are_slow_none_is_noted_as_slow(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=1).start()
        cluster.network.delays[("me", "node/n1")] = 0.5
        fan = Bench(world, cluster, 5).fan
        fan.send("n1", PING, 80, "n1")
        fan.note_slow()
        assert fan._health.in_order(["n1", "n2"]) == ["n2", "n1"]
        other = Bench(world, cluster, 5).fan
        while other._health.spend_hedges(50):  # until none is left
            pass
        other.send("n1", PING, 80, "n1")
        other.note_slow()
        assert other._health.in_order(["n1", "n2"]) == ["n1", "n2"]

    world.run(story())


def test_what_was_not_sent_when_the_operation_ends_is_never_sent(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=1).start()
        bench, late = Bench(world, cluster, 5), list[Any]()
        bench.fan.send("n1", PING, 1, "sent")
        assert await bench.next(0.0) is None
        bench.fan.send("n2", PING, 1, "not sent")
        bench.fan.leave(late.append)
        (outcome,) = late
        assert outcome.about == "not sent"
        assert isinstance(outcome.failure, PeerAbsent)
        await asyncio.sleep(1.0)
        assert [each and each.about for each in late] == ["not sent", "sent", None]

    world.run(story())
