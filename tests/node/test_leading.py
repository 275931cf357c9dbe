"""The shell around a leader: its changes are metered, answered when the node stops, and led again when it returns (L14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from led_nodes import BUCKET, Caller, Leaders, run
from world import Cluster

from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.replica.load import WINDOW_S

KEY = "k"


def started() -> tuple[Leaders, tuple[str, ...]]:
    cluster = Leaders().start()
    return cluster, cluster.owners(KEY)


def test_changes_are_metered_at_their_leader() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        for _ in range(100):
            await cluster.one(first, Caller().add(KEY, number=1))
        await asyncio.sleep(WINDOW_S)
        loads = [cluster.node(node_id)._load.figures(asyncio.get_running_loop().time()) for node_id in (first, second)]
        assert loads[0]["ops_per_s"] > 0
        assert loads[0]["partitions"][0][0] == cluster.partition(KEY)
        assert loads[1].get("ops_per_s", 0) == 0

    run(story())


@pytest.mark.parametrize("held", [f.Promise, f.Look, f.Accept])
def test_a_node_that_stops_answers_what_it_leads_and_does_not_wait_for_a_majority(held: type[Any]) -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        if held is not f.Promise:
            await cluster.one(first, Caller().put(KEY, "before"))
        if held is f.Look:
            cluster.node(first)._leaders._tenures.clear()
        for node_id in (second, third):
            cluster.wire.hold(held, target=node_id)
        task = asyncio.get_running_loop().create_task(cluster.one(first, Caller(2).put(KEY, "v"), timeout_s=30.0))
        await asyncio.sleep(0.1)
        await cluster.node(first).stop()
        settled = await task
        assert settled.status in {c.ELSEWHERE, c.NO_QUORUM, c.UNABLE}
        assert asyncio.get_running_loop().time() < 10.0
        answer = await cluster.ask(first, f.Ping())
        assert answer == f.NodeRefused("stopping", "stopped")

    run(story())


def test_a_stopped_node_leads_nothing_more() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        await cluster.node(first).stop()
        assert cluster.node(first)._leaders._tenures == {}
        cluster.process(first).process.kill()
        assert (await cluster.one(second, caller.put(KEY, "w"), silent=[first])).status == c.DONE

    run(story())


def test_how_many_places_a_node_leads_is_no_more_than_it_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look ends what was lost since, several of them, too."""

    async def story() -> None:
        cluster, _ = started()
        caller, keys = Caller(), [f"k{number}" for number in range(40)]
        for key in keys:
            await cluster.one(cluster.owners(key)[0], caller.put(key, "v"))
        places = {
            node_id: {cluster.partition(k) for k in keys if cluster.owners(k)[0] == node_id} for node_id in cluster.ids
        }
        leading = {node_id: cluster.node(node_id)._leaders for node_id in cluster.ids}
        assert {node_id: each.leading for node_id, each in leading.items()} == {
            node_id: len(found) for node_id, found in places.items()
        }
        node_id = max(places, key=lambda each: len(places[each]))
        assert len(places[node_id]) > 1
        monkeypatch.setattr(type(cluster.node(node_id)._replica), "complete", False)
        assert leading[node_id].leading == 0

    run(story())


def test_a_change_that_was_acknowledged_survives_a_crash_of_all() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        caller = Caller()
        assert (await cluster.one(first, caller.put(KEY, "v"))).status == c.DONE
        for node_id in cluster.ids:
            cluster.kill(node_id, "drop")
        for node_id in cluster.ids:
            cluster.start_node(node_id)
        assert (await cluster.one(first, caller.read(KEY))).payload == b"v"

    run(story())


def test_a_run_that_reaches_no_others_leads_nothing() -> None:
    async def story() -> None:
        cluster = Cluster(1, copies=1, versioning="linearizable").start()
        node = cluster.node("n1")
        answer = await cluster.ask("n1", f.Apply(BUCKET, [f.Change(encode_key(KEY), f.READ)], node.incarnation, 1.0))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"

    run(story())


def test_a_first_owner_that_returns_takes_its_partitions_back_by_itself() -> None:
    async def story() -> None:
        cluster = Cluster(3, versioning="linearizable", maintenance=True).start()
        peer = cluster.coordinator()
        first, second, _ = cluster.owners(KEY)

        async def put(number: int) -> None:
            got = await peer.front.carry_out(f.ChangeMany(BUCKET, [Caller().put(KEY, "v", number=number)], 5.0))
            assert got.items[0].status == c.DONE

        def leader() -> str:
            return cluster.node(second)._replica.promises.of(cluster.partition(KEY), 3).leader

        await put(1)
        cluster.kill(first)
        await put(2)
        assert leader() == second
        cluster.start_node(first)
        cluster.publish(peer)
        await put(3)
        await asyncio.sleep(30.0)
        assert leader() == first
        await put(4)

    run(story())
