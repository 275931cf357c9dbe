"""A coordinator's view of the cluster's state, and when one without updates asks for it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from raykv.cluster.state import bucket_from_options, encode_state
from raykv.config import StoreConfig
from raykv.coordinator import routing as r
from raykv.errors import InvalidOption, StoreUnavailable
from raykv.ports import Host, PeerDead, PeerSilent
from raykv.protocol import frames as f
from raykv.supervision.founding import Plan, first_state


class Clock:
    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def timeout(self, delay_s: float) -> asyncio.Timeout:
        return asyncio.timeout(delay_s)


class Supervisor:
    """The far end: the updates that it gives, and how often it was asked."""

    def __init__(self, updates: Any) -> None:
        self.updates = updates
        self.asked = 0

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        assert peer == "supervisor"
        assert f.supervisor_requests.decode(frame) == f.GetClusterUpdate()
        self.asked += 1
        update = self.updates.pop(0) if isinstance(self.updates, list) else self.updates
        if isinstance(update, Exception):
            raise update
        return f.supervisor_answers.encode(update)


def state_of(store_id: str = "one", *, generation: int = 1, version: int = 1, buckets: int = 0) -> Any:
    store = StoreConfig(name="s", copies=3, partitions=8)
    state = first_state(Plan(store=store, nodes=3, weights=(1.0,) * 3), store_id, [Host(name="h")])
    for number in range(buckets):
        state = state.with_bucket(bucket_from_options(f"b{number}", {}, 3))
    return msgspec.structs.replace(state, generation=generation, version=version)


def update_of(state: Any, sequence: int = 1) -> f.ClusterUpdate:
    return f.ClusterUpdate(sequence, encode_state(state), {}, {"n1": 1, "n2": 1, "n3": 1})


def routing(updates: Any = None, **options: Any) -> tuple[r.Routing, Supervisor, Clock]:
    supervisor, clock = Supervisor(updates), Clock()
    made = r.Routing(supervisor, clock, None, **options)  # type: ignore[arg-type]
    return made, supervisor, clock


def test_an_older_update_is_not_taken_but_that_of_another_store_of_the_name_is() -> None:
    made, _, _ = routing()
    made.learn(update_of(state_of(generation=3, version=7)))
    made.learn(update_of(state_of(generation=2, version=9), 50))
    assert made.present.ballot == (3, 7)
    made.learn(update_of(state_of("another"), 1))
    assert made.present.store_id == "another"
    assert made.present.generation == 1


def test_a_routing_that_gets_updates_requests_none() -> None:
    async def story() -> None:
        made, supervisor, clock = routing(update_of(state_of()))
        made.learn(update_of(state_of()))
        clock.now_s += 1000
        made._request_update()
        assert made.known_bucket(1) is not None
        await made.refresh(1.0)
        await asyncio.sleep(0)
        assert supervisor.asked == 0

    asyncio.run(story())


def test_a_routing_without_updates_polls_when_something_is_amiss_and_now_and_then() -> None:
    async def story() -> None:
        made, supervisor, clock = routing(update_of(state_of(buckets=1)), asks=True)
        made.learn(update_of(state_of()))
        made._request_update()
        assert not made.tasks, "it has just begun"
        clock.now_s += r.ASK_EVERY_S
        for _ in range(5):
            made._request_update()
        assert len(made.tasks) == 1
        await asyncio.gather(*made.tasks)
        assert supervisor.asked == 1
        clock.now_s += r.STALE_S
        assert made.known_bucket(1) is None, "the caller must ask, too"
        await made.learn_bucket(1, 1.0)
        assert made.bucket(1).bucket_id == 1
        await asyncio.gather(*made.tasks)
        assert supervisor.asked == 2
        assert made.known_bucket(1) is not None

    asyncio.run(story())


def test_refreshed_it_knows_what_is_new_and_without_a_supervisor_what_it_knew() -> None:
    async def story() -> None:
        silent = PeerSilent("no answer")
        made, supervisor, _ = routing(
            [silent, update_of(state_of()), silent, update_of(state_of(version=2, buckets=1), 2)], asks=True
        )
        with pytest.raises(StoreUnavailable):
            await made.refresh(1.0)
        await made.refresh(1.0)
        await made.refresh(1.0)
        assert made.known_bucket(2) is None
        await made.refresh(1.0)
        assert made.known_bucket(2) is not None
        assert supervisor.asked == 4

    asyncio.run(story())


def test_a_supervisor_that_has_ended_may_have_a_successor() -> None:
    async def story() -> None:
        made, supervisor, _ = routing([PeerDead("it has ended"), update_of(state_of())], asks=True)
        await made.fetch_update(1.0)
        assert supervisor.asked == 2
        assert made.present.generation == 1

    asyncio.run(story())


def test_a_bucket_that_is_not_there_was_dropped() -> None:
    made, _, _ = routing()
    made.learn(update_of(state_of()))
    made.check_there(1)
    with pytest.raises(InvalidOption, match="dropped"):
        made.check_there(2)


def test_while_a_node_is_down_an_update_is_stale_within_a_second() -> None:
    """Such a node is not asked, so no answer of it tells that it is back; each write leaves a hint for it until then."""

    async def story() -> None:
        down = msgspec.structs.replace(update_of(state_of(buckets=1)), down={"n2": "it is being restarted"})
        made, supervisor, clock = routing(update_of(state_of(buckets=1), 2), asks=True)
        made.learn(down)
        made._asked_s = clock.now_s
        assert made.peers.unreachable("n2", clock.now_s)
        assert made.known_bucket(1) is not None
        clock.now_s += r.ASK_EVERY_S
        assert made.known_bucket(1) is None
        await made.learn_bucket(1, 1.0)
        await asyncio.gather(*made.tasks)
        assert supervisor.asked == 1
        assert not made.peers.unreachable("n2", clock.now_s)
        clock.now_s += r.STALE_S / 2
        assert made.known_bucket(1) is not None, "all are up"

    asyncio.run(story())
