"""Calls side by side, outcomes as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raykv.ports import PeerSilent
from raykv.records import frames as f
from raykv.replication.fanout import CALL_TIMEOUT_S, Fanout
from raykv.replication.peers import Peers

if TYPE_CHECKING:
    from types import ModuleType

PING = f.Ping()


def fanout(world: ModuleType, cluster: Any, deadline_s: float, tasks: set[Any]) -> Fanout[str]:
    clock = world.Clock()
    peers = Peers(cluster.network.transport("me"), clock, world.Probe())
    return Fanout(peers, clock, clock.monotonic_s() + deadline_s, tasks)


def test_outcomes_come_in_the_order_of_arrival_with_what_they_are_about(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        cluster.network.delays[("me", "node/n1")] = 0.3
        cluster.network.delays[("me", "node/n2")] = 0.1
        cluster.kill("n3")
        tasks: set[Any] = set()
        fan = fanout(world, cluster, 5, tasks)
        for node_id in ("n1", "n2", "n3"):
            fan.send(node_id, PING, 1, f"about {node_id}")
        assert len(tasks) == 3
        outcomes = [await fan.next(1.0) for _ in range(3)]
        assert [outcome.node_id for outcome in outcomes if outcome] == ["n3", "n2", "n1"]
        assert [outcome.about for outcome in outcomes if outcome] == ["about n3", "about n2", "about n1"]
        assert [outcome.answer for outcome in outcomes if outcome] == [None, f.Pong(), f.Pong()]
        assert outcomes[0] is not None
        assert outcomes[0].failure is not None
        await asyncio.sleep(0)
        assert not tasks

    world.run(story())


def test_nothing_in_time_is_none_and_the_call_goes_on(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        cluster.network.delays[("me", "node/n1")] = 0.3
        fan = fanout(world, cluster, 5, set())
        fan.send("n1", PING, 1, "x")
        began_s = asyncio.get_running_loop().time()
        assert await fan.next(0.1) is None
        assert asyncio.get_running_loop().time() - began_s < 0.11
        assert await fan.next(0.0) is None
        outcome = await fan.next(1.0)
        assert outcome is not None
        assert outcome.answer == f.Pong()

    world.run(story())


def test_a_call_takes_no_longer_than_its_bound_or_the_deadline(world: ModuleType) -> None:
    async def story() -> None:
        for deadline_s, expected_s in ((0.5, 0.5), (60.0, CALL_TIMEOUT_S)):
            cluster = world.Cluster(1, copies=1).start()
            cluster.freeze("n1")
            fan = fanout(world, cluster, deadline_s, set())
            began_s = asyncio.get_running_loop().time()
            fan.send("n1", PING, 1, "x")
            outcome = await fan.next(100)
            assert outcome is not None
            assert isinstance(outcome.failure, PeerSilent)
            assert abs(asyncio.get_running_loop().time() - began_s - expected_s) < 0.01

    world.run(story())
