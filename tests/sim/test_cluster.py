"""Clients of the simulated cluster: through a coordinator, and coordinating for themselves."""

from __future__ import annotations

import asyncio

import pytest

from raykv.config import StoreConfig
from raykv.errors import QuorumNotMet, RaykvError, StoreUnavailable
from raykv.sim.cluster import DIRECT, RESTART_S, SUPERVISOR, Cluster, ClusterSpec
from raykv.sim.kernel import Process, run_virtual

SPEC = ClusterSpec(store=StoreConfig(name="sim", copies=3, partitions=8), nodes=3)


def told_to(cluster, target):
    """Return from whom a process has requests from now on, as a list that grows."""
    sources = []
    heard = cluster.network.heard

    def hear(what, source, peer, frame):
        if what == "asks" and peer == target:
            sources.append(source)
        heard(what, source, peer, frame)

    cluster.network.heard = hear
    return sources


def in_a_cluster(story):
    async def go(loop):
        cluster = Cluster(loop, SPEC, "test")
        cluster.start()
        await story(cluster)
        await cluster.stop()

    run_virtual(go)


def test_a_client_that_coordinates_for_itself_needs_no_coordinator():
    async def story(cluster):
        store = await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        cluster.actors["coordinator"].on_kill.clear()  # it is not started again
        cluster.actors["coordinator"].kill()
        asked = told_to(cluster, "node/n1")
        await store.put("a", 1)
        assert await store.get("a") == 1
        assert "client1" in asked

    in_a_cluster(story)


def test_it_asks_the_supervisor_only_when_something_is_amiss():
    async def story(cluster):
        store = await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        asked = told_to(cluster, SUPERVISOR)
        for turn in range(20):
            await store.put("a", turn)
            await asyncio.sleep(1)
        assert "client1" not in asked
        cluster.nodes.kill("n2")
        for turn in range(20):
            await store.put("a", turn)
            await asyncio.sleep(0.1)
        assert 1 <= asked.count("client1") <= 3
        await asyncio.sleep(40)
        before = asked.count("client1")
        await store.get("a")
        await asyncio.sleep(1)
        assert asked.count("client1") == before + 1, "and now and then all the same"

    in_a_cluster(story)


def test_it_hears_of_other_owners_from_the_nodes():
    async def story(cluster):
        store = await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        keys = [f"k{number}" for number in range(40)]
        await store.put_many(dict.fromkeys(keys, "before"))
        asked = told_to(cluster, SUPERVISOR)
        await cluster.supervisor.members.add_node(1.0, "", "", 30.0)
        while cluster.supervisor.state.goal is not None:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.5)
        fourth = told_to(cluster, "node/n4")
        assert await store.get_many(keys) == dict.fromkeys(keys, "before")
        await store.put_many(dict.fromkeys(keys, "after"))
        assert "client1" in fourth
        assert "client1" not in asked
        assert await store.get_many(keys) == dict.fromkeys(keys, "after")

    in_a_cluster(story)


@pytest.mark.parametrize("down", [1, 2])
def test_its_quorums_are_the_same(down):
    async def story(cluster):
        store = await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        await store.put("a", 1, w="all")
        for node_id in ("n1", "n2")[:down]:
            cluster.hosts[node_id].up = False
            cluster.nodes.kill(node_id)
        if down == 1:
            assert await store.get("a") == 1
            await store.put("a", 2)
        else:
            with pytest.raises(QuorumNotMet):
                await store.get("a", timeout=2)
            with pytest.raises(StoreUnavailable):
                await store.put("a", 2, timeout=2)
        for node_id in ("n1", "n2"):
            cluster.hosts[node_id].up = True

    in_a_cluster(story)


@pytest.mark.parametrize("what", ["put", "put under a context", "get", "get_many", "scan"])
def test_that_its_bucket_was_dropped_it_hears_from_the_nodes(what):
    async def story(cluster):
        here = await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        there = await cluster.connect(Process(cluster.loop, "client2"))
        bucket = await here.bucket("mine")
        await bucket.put("a", 1)
        context = (await bucket.get_versions("a")).context
        assert await there.drop_bucket("mine")
        await asyncio.sleep(1)
        began_s = cluster.loop.now_s

        async def scanned():
            return [pair async for pair in bucket.scan()]

        operations = {
            "put": lambda: bucket.put("a", 2),
            "put under a context": lambda: bucket.put("a", 2, context=context),
            "get": lambda: bucket.get("a"),
            "get_many": lambda: bucket.get_many(["a", "b"]),
            "scan": scanned,
        }
        with pytest.raises(RaykvError, match="dropped"):
            await operations[what]()
        assert cluster.loop.now_s < began_s + 0.5, "at once, not when its time is up"
        again = await here.bucket("mine")
        assert await again.get("a") is None

    in_a_cluster(story)


@pytest.mark.parametrize("name", [SUPERVISOR, "coordinator"])
def test_what_was_to_start_again_does_not_once_the_store_is_stopped(name):
    async def story(cluster):
        await cluster.connect(Process(cluster.loop, "client1"), DIRECT)
        cluster.actors[name].kill()
        await cluster.stop()
        await asyncio.sleep(RESTART_S[1] + 1)
        assert not cluster.actors[name].alive
        assert cluster.unfinished() == []

    in_a_cluster(story)
