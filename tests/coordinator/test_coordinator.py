"""Quorum reads and writes over real nodes in one event loop: what holds when nodes die, freeze, lag or are cut off."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.config import BucketConfig
from raykv.coordinator import coordinator as c
from raykv.coordinator import judgements
from raykv.errors import (
    CorruptData,
    InvalidKey,
    InvalidOption,
    Overloaded,
    QuorumNotMet,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, time_of, unpack
from raykv.versions.causality import unpack_causality

if TYPE_CHECKING:
    from types import ModuleType


def now_s() -> float:
    return asyncio.get_running_loop().time()


def key_owned_first_by(cluster: Any, node_id: str, prefix: str = "k") -> str:
    return next(key for key in (f"{prefix}{number}" for number in range(1000)) if cluster.owners(key)[0] == node_id)


# ---- the plain course ----


def test_what_was_put_is_read_and_what_was_deleted_is_not(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5).start()
        peer = cluster.coordinator()
        for number in range(20):
            acks = await peer.put(f"k{number}", f"v{number}", w=3)
            assert sorted(acks) == sorted(cluster.owners(f"k{number}"))
        assert await peer.get_many([f"k{number}" for number in range(21)]) == [*(f"v{n}" for n in range(20)), None]
        await peer.delete("k3")
        assert await peer.get("k3") is None
        await peer.put("k3", "again")
        assert await peer.get("k3", r=3) == "again"
        await peer.rest()
        strangers = set(cluster.ids) - set(cluster.owners("k0"))
        for node_id in strangers:
            assert await cluster.held(node_id, "k0") is None, "only the primaries have it"

    world.run(story())


def test_a_write_reaches_all_n_though_w_are_enough(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.network.delays[("*", "node/n3")] = 1.0
        began_s = now_s()
        acks = await peer.put("a", "1", w=2)
        assert now_s() - began_s < 0.1
        assert "n3" not in acks
        assert await cluster.held("n3", "a") is None
        await peer.rest()
        assert await cluster.held("n3", "a") == await cluster.held("n1", "a")

    world.run(story())


def test_a_ttl_ends_by_the_coordinators_clock(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer, ahead = cluster.coordinator(), cluster.coordinator("ahead", skew_ms=5000)
        await peer.put("a", "1", ttl_ms=2000)
        assert await peer.get("a") == "1"
        assert await ahead.get("a") is None
        await asyncio.sleep(1.9)
        assert await peer.get("a") == "1"
        await asyncio.sleep(0.2)
        assert await peer.get("a") is None
        await peer.put("a", "2")
        assert await peer.get("a") == "2"

    world.run(story())


# ---- one of three gone ----


@pytest.mark.parametrize("how", ["kill", "freeze", "cut to", "cut from"])
@pytest.mark.parametrize("victim", ["n1", "n2", "n3"])
def test_quorums_go_on_with_one_of_three_gone(world: ModuleType, how: str, victim: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(10)]
        for key in keys:
            await peer.put(key, "old", w=3)
        if how == "kill":
            cluster.kill(victim)
        elif how == "freeze":
            cluster.freeze(victim)
        elif how == "cut to":
            cluster.cut("coordinator", f"node/{victim}")
        else:
            cluster.cut(f"node/{victim}", "coordinator")
        slowest_s = 0.0
        for key in keys:
            began_s = now_s()
            assert await peer.get(key) == "old"
            acks = await peer.put(key, "new")
            assert victim not in acks
            assert await peer.get(key) == "new"
            slowest_s = max(slowest_s, now_s() - began_s)
        assert slowest_s < 1.1, "hedging, not the call's time-out, gets past it"
        got = await peer.get_many(keys)
        assert got == ["new"] * 10

    world.run(story())


@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.parametrize("timeout_s", [0.3, 1.0, 4.0])
def test_w_3_with_one_gone_is_unknown_in_time_and_names_the_nodes_that_answered(
    world: ModuleType, how: str, timeout_s: float
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        getattr(cluster, how)("n2")
        operation = peer.operation()
        began_s = now_s()
        (error,) = await peer.write([("a", pack_body(operation, b"1"))], w=3, timeout_s=timeout_s)
        assert timeout_s * 0.9 <= now_s() - began_s <= timeout_s * 1.1
        assert type(error) is WriteOutcomeUnknown
        assert error.operation_id == operation.hex()
        assert sorted(error.acks) == ["n1", "n3"]
        assert error.details["needed"] == 3
        if how == "kill":
            assert "n2" in error.details["failures"]
        assert await peer.get("a", r=2) == "1", "it is not undone"

    world.run(story())


def test_r_not_met_is_an_error_in_time_and_never_absent(world: ModuleType) -> None:
    async def story() -> None:
        for how in ("kill", "freeze"):
            cluster = world.Cluster(3).start()
            peer = cluster.coordinator()
            getattr(cluster, how)("n1")
            getattr(cluster, how)("n2")
            began_s = now_s()
            found = await peer.get_many(["a", "never written"], r=2, timeout_s=0.5)
            assert 0.45 <= now_s() - began_s <= 0.55
            assert [type(item) for item in found] == [QuorumNotMet] * 2
            assert found[0].details["have"] == ["n3"]
            assert sorted(found[0].details["missing"]) == ["n1", "n2"]
            assert await peer.get("a", r=1) is None

    world.run(story())


def test_a_dead_node_that_comes_back_in_time_completes_the_quorum(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n2")

        async def later() -> None:
            await asyncio.sleep(1)
            cluster.revive("n2")

        back = asyncio.create_task(later())
        began_s = now_s()
        assert sorted(await peer.put("a", "1", w=3)) == ["n1", "n2", "n3"]
        assert 1.0 < now_s() - began_s < 1.5
        await back
        assert await cluster.held("n2", "a") is not None

    world.run(story())


def test_an_incomplete_node_counts_for_writes_and_not_for_reads(world: ModuleType) -> None:
    """P1's schedule: v acknowledged by two, one of them wiped; a read must not find nothing."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.cut("coordinator", "node/n3")
        await peer.put("v", "1", w=2)
        cluster.mend()
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(2)
        assert await peer.get("v", r=2) == "1"
        cluster.kill("n2")
        (error,) = await peer.get_many(["v"], r=2, timeout_s=0.5)
        assert type(error) is QuorumNotMet, "n1 may lack it, n3 does: that is no answer"
        acks = await peer.put("w", "2", w=2)
        assert sorted(acks) == ["n1", "n3"]

    world.run(story())


# ---- P9 ----


def test_a_read_mends_the_replica_that_lags_and_returns_only_then(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        first, second, third = cluster.owners(key)
        await peer.put(key, "old", w=3)
        new = world.put_record("new", 5000)
        await cluster.give(first, key, new)
        cluster.network.delays[("coordinator", f"node/{second}")] = 0.3
        cluster.network.delays[("coordinator", f"node/{third}")] = 0.3
        began_s = now_s()
        assert await peer.get(key, r=2, timeout_s=5) == "new"
        assert now_s() - began_s >= 0.6, "a round to read, a round to mend"
        holders = [node_id for node_id in (first, second, third) if await cluster.held(node_id, key) == new]
        assert len(holders) >= 2
        assert peer.metrics["read_repairs"] == 1
        await peer.rest()
        for node_id in cluster.ids:
            assert await cluster.held(node_id, key) == new
        await peer.get(key, r=2)
        assert peer.metrics["read_repairs"] == 1, "nothing is left to mend"

    world.run(story())


def test_a_read_that_cannot_be_mended_is_an_error(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("fine", "1", w=3)
        await cluster.give("n1", "a", world.put_record("1"))
        overload(world, cluster, "n2")
        overload(world, cluster, "n3")
        began_s = now_s()
        lost, fine = await peer.get_many(["a", "fine"], r=3, timeout_s=0.5)
        assert now_s() - began_s <= 0.55
        assert type(lost) is QuorumNotMet
        assert "hold what was read" in str(lost)
        assert lost.details["have"] == ["n1"]
        assert fine == "1", "the other key of the batch is none the worse"

    world.run(story())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_reads_of_a_key_never_go_backward(world: ModuleType, place: int) -> None:
    """A write on one of three is read once; from then on every read sees it, from any replicas."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "old", w=3)
        await cluster.give(cluster.owners("a")[place], "a", world.put_record("new", 5000))
        seen_new = False
        for dark in (None, *cluster.ids, *cluster.ids):
            cluster.network.cuts.clear()
            if dark is not None:
                cluster.cut("coordinator", f"node/{dark}")
            value = await peer.get("a", r=2)
            assert value == "new" or not seen_new
            seen_new = seen_new or value == "new"
            await asyncio.sleep(3)
        assert seen_new

    world.run(story())


def test_a_deletion_is_mended_as_a_value_is(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1", w=3)
        tombstone = world.delete_record(5000)
        await cluster.give(cluster.owners("a")[0], "a", tombstone)
        assert await peer.get("a", r=2) is None
        await peer.rest()
        assert [await cluster.held(node_id, "a") for node_id in cluster.ids] == [tombstone] * 3

    world.run(story())


# ---- P7 ----


@pytest.mark.parametrize("behind_ms", [50, 10_000, 55_000])
@pytest.mark.parametrize("delete", [False, True])
def test_an_acknowledged_write_of_a_clock_that_is_behind_is_on_top_at_once(
    world: ModuleType, behind_ms: int, delete: bool
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        a, b = cluster.coordinator("a"), cluster.coordinator("b", skew_ms=-behind_ms)
        await a.put("k", "from a", w=2)
        operation = b.operation()
        if delete:
            await b.delete("k")
        else:
            (acks,) = await b.write([("k", pack_body(operation, b"from b"))])
            assert len(acks) >= 2
        for reader in (a, b):
            assert await reader.get("k", r=2) == (None if delete else "from b")
        assert b.metrics["restamps"] >= 1
        await b.rest()
        records = {await cluster.held(node_id, "k") for node_id in cluster.ids}
        assert len(records) == 1
        if not delete:
            assert unpack(records.pop()).operation_id == operation, "stamped again, under the same id"
        assert await b.put("k", "again")
        assert await a.get("k") == "again"
        assert b.metrics["restamps"] <= 2, "it has learned what time it is"

    world.run(story())


def test_a_write_is_not_stamped_again_because_of_one_replica_that_is_ahead(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await cluster.give("n3", "k", world.put_record("never acknowledged", 30_000))
        cluster.network.delays[("coordinator", "node/n3")] = 0.2
        acks = await peer.put("k", "mine", w=2)
        assert sorted(acks) == ["n1", "n2"]
        assert peer.metrics["restamps"] == 0

    world.run(story())


def test_a_far_ahead_record_cannot_drag_the_clock(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        for clock in cluster.clocks.values():
            clock.skew_ms = 90_000
        for node_id in cluster.ids:
            await cluster.give(node_id, "k", world.put_record("far", 100_000))
        peer = cluster.coordinator()
        began_s = now_s()
        (error,) = await peer.write([("k", pack_body(peer.operation(), b"1"))], timeout_s=2)
        assert type(error) is WriteOutcomeUnknown
        assert "ahead of this host's clock" in str(error)
        assert now_s() - began_s < 1, "waiting would not help"
        await peer.put("other", "1", w=3)
        record = await cluster.held("n1", "other")
        assert abs((time_of(record) >> 16) - peer.clock.wall_ms()) < 1000

    world.run(story())


def test_newer_writes_that_keep_coming_have_a_write_stamped_again_once(world: ModuleType) -> None:
    """They are at the same time, and may follow it at once. *Before: after three times nobody knew what became of it.*"""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        original = cluster.network.call
        ahead_ms = 0

        async def outrun(source: Any, target: str, frame: bytes, timeout_s: float) -> bytes:
            nonlocal ahead_ms
            if target.startswith("node/") and isinstance(f.node_requests.decode(frame).body, f.Write):
                ahead_ms += 1000
                await cluster.give(target[5:], "k", world.put_record("theirs", ahead_ms))
            return await original(source, target, frame, timeout_s)

        cluster.network.call = outrun
        acked = await peer.store("k", "mine")
        assert len(acked.nodes) >= 2
        assert peer.metrics["restamps"] == 1
        assert await peer.get("k") == "theirs"

    world.run(story())


def test_a_write_is_above_what_was_acknowledged_before_it_however_many_are_overtaken(world: ModuleType) -> None:
    """Writers whose clocks differ, one key, at once and in turn: what begins after an acknowledgement is on top of it."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peers = [cluster.coordinator(f"c{number}", skew_ms=number * 7 - 28) for number in range(8)]
        rng, highest, under_way = random.Random(5), (0, b""), [0]

        async def writes(peer: Any, number: int) -> None:
            nonlocal highest
            for turn in range(40):
                floor = highest
                acked = await peer.store("k", f"{number}.{turn}")
                time = unpack_causality(acked.causality).time
                assert (time, acked.operation_id) > floor, "below a write that had been acknowledged when it began"
                highest = max(highest, (time, acked.operation_id))
                (_, seen) = await peers[rng.randrange(8)].versions("k")
                assert unpack_causality(seen).time >= time
                await asyncio.sleep(rng.random() * 0.002)
            under_way[0] += 1

        await asyncio.gather(*(writes(peer, number) for number, peer in enumerate(peers)))
        assert under_way == [8]
        restamps = sum(peer.metrics["restamps"] for peer in peers)
        assert 0 < restamps <= 8 * 40, "at most once each"

    world.run(story())


def test_acknowledgements_of_a_former_stamp_do_not_count(world: ModuleType) -> None:
    """n1's acknowledgement of the first stamp comes late, after the second was sent; the second never gets to n1."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator("b", skew_ms=-10_000)
        for node_id in ("n2", "n3"):
            await cluster.give(node_id, "k", world.put_record("theirs", 5))
        cluster.network.delays[("node/n1", "b")] = 0.3
        cluster.network.delays[("b", "node/n2")] = 0.01
        cluster.network.delays[("b", "node/n3")] = 0.02
        writing = asyncio.create_task(peer.write([("k", pack_body(peer.operation(), b"mine"))], w=2, timeout_s=1.0))
        await asyncio.sleep(0.005)  # the first stamp is on its way to all, the second comes to n2 only
        cluster.cut("b", "node/n1")
        cluster.cut("b", "node/n3")
        (error,) = await writing
        assert type(error) is WriteOutcomeUnknown
        assert error.acks == ("n2",)
        assert peer.metrics["restamps"] == 1
        first, second = await cluster.held("n1", "k"), await cluster.held("n2", "k")
        assert time_of(first) < time_of(second)
        assert unpack(first).operation_id == unpack(second).operation_id

    world.run(story())


# ---- P8 ----


def test_a_retry_to_a_node_keeps_its_stamp(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.cut("node/n1", "coordinator")  # carried out, never acknowledged

        async def mend() -> None:
            await asyncio.sleep(3)
            cluster.mend()

        mending = asyncio.create_task(mend())
        assert sorted(await peer.put("k", "1", w=3, timeout_s=8)) == ["n1", "n2", "n3"]
        await mending
        assert len({await cluster.held(node_id, "k") for node_id in cluster.ids}) == 1
        writes = [frame for _, target, frame in cluster.frames if target == "node/n1"]
        sent = {f.node_requests.decode(frame).body.items[0][1] for frame in writes}
        assert len(writes) >= 2
        assert len(sent) == 1

    world.run(story())


def test_refused_by_all_is_certain_to_have_written_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:  # the nodes' clocks are two minutes behind: they refuse the write's time
            cluster.clocks[node_id].skew_ms = -120_000
        operation = pack_body(peer.operation(), b"1")
        (error,) = await peer.write([("k", operation)], timeout_s=0.7)  # when none of its retries is under way
        assert type(error) is StoreUnavailable
        assert "nothing was written" in str(error)
        assert await peer.get("k") is None

    world.run(story())


def overload(world: ModuleType, cluster: Any, node_id: str) -> None:
    """From now on the node refuses writes as overloaded."""
    process = cluster.process(node_id)
    serve = process.serve

    async def refuse(frame: bytes) -> bytes:
        request = f.node_requests.decode(frame)
        if isinstance(request.body, f.Write):
            incarnation = cluster.node(node_id).incarnation
            return f.node_answers.encode(f.NodeAnswer(incarnation, f.NodeRefused("overloaded", "full")))
        return await serve(frame)

    process.serve = refuse


def test_overloaded_nodes_make_an_overloaded_write(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        overload(world, cluster, "n1")
        assert len(await peer.put("a", "1")) == 2, "one of them hinders nobody"
        overload(world, cluster, "n2")
        (error,) = await peer.write([("b", pack_body(peer.operation(), b"1"))], timeout_s=0.5)
        assert type(error) is WriteOutcomeUnknown, "n3 has it"
        assert error.acks == ("n3",)
        overload(world, cluster, "n3")
        (error,) = await peer.write([("c", pack_body(peer.operation(), b"1"))], timeout_s=0.5)
        assert type(error) is Overloaded

    world.run(story())


def test_two_refusals_and_a_silence_are_an_unknown_outcome(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        overload(world, cluster, "n1")
        overload(world, cluster, "n2")
        cluster.cut("node/n3", "coordinator")  # n3 carries it out; its answer is lost
        (error,) = await peer.write([("k", pack_body(peer.operation(), b"1"))], timeout_s=0.5)
        assert await cluster.held("n3", "k") is not None
        assert type(error) is WriteOutcomeUnknown

    world.run(story())


def test_a_failed_sync_leaves_the_outcome_unknown(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        peer = cluster.coordinator()
        await peer.put("first", "1", w=1)
        cluster.disks["n1"].fail("sync", ".wal")
        (error,) = await peer.write([("k", pack_body(peer.operation(), b"1"))], w=1, timeout_s=0.5)
        cluster.kill("n1", "keep")  # the process ends; what was written(2) is still there
        cluster.revive("n1")
        assert await cluster.held("n1", "k") is not None, "the write surfaced"
        assert type(error) is WriteOutcomeUnknown

    world.run(story())


# ---- P6 ----


def test_an_acknowledgement_of_a_run_that_was_given_up_is_not_counted(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("warm", "1", w=3)
        cluster.kill("n2")
        cluster.freeze("n1")
        writing = asyncio.create_task(peer.write([("k", pack_body(peer.operation(), b"1"))], w=2, timeout_s=1.5))
        await asyncio.sleep(0.2)
        former = cluster.replace("n1")  # incarnation 2 runs on the directory
        cluster.cut("coordinator", "node/n1")  # and cannot be reached
        cluster.publish(peer)
        cluster.thaw(former)  # the frozen one goes on, and acknowledges into the void
        (error,) = await writing
        assert type(error) is WriteOutcomeUnknown
        assert error.acks == ("n3",)
        cluster.mend()
        assert await cluster.held("n1", "k") is None

    world.run(story())


def test_a_read_answered_by_a_run_that_was_given_up_is_not_counted(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        await peer.put(key, "old", w=3)
        cluster.freeze("n1")
        endpoints = cluster.network.endpoints
        stale = endpoints["node/n1"]
        former = cluster.replace("n1")
        cluster.publish(peer)
        endpoints["node/n1"], fresh = stale, endpoints["node/n1"]  # a stale address
        cluster.thaw(former)
        assert await peer.put(key, "new", w=2)
        assert await peer.get(key, r=2) == "new"
        (error,) = await peer.get_many([key], r=3, timeout_s=0.5)
        assert type(error) is QuorumNotMet
        endpoints["node/n1"] = fresh
        await asyncio.sleep(2)
        assert await peer.get(key, r=3) == "new"

    world.run(story())


# ---- slow replicas ----


def test_a_replica_that_falls_silent_is_raced_and_then_passed_over(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        await peer.put(key, "1", w=3)
        for _ in range(100):
            await peer.get(key)
        cluster.freeze("n1")
        taken = []
        for _ in range(100):
            began_s = now_s()
            assert await peer.get(key) == "1"
            taken.append(now_s() - began_s)
        assert max(taken) < 0.1, "20 ms and a round"
        assert peer.metrics["hedges"] > 0
        await asyncio.sleep(2.5)
        taken = []
        for _ in range(20):
            began_s = now_s()
            await peer.get(key)
            taken.append(now_s() - began_s)
        assert sorted(taken)[10] < 0.01, "suspected, so no longer asked first"

    world.run(story())


def test_a_hiccup_of_one_replica_is_raced(world: ModuleType) -> None:
    """One answer in fifty takes 200 ms; the slowest reads take a tenth of that."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        await peer.put(key, "1", w=3)
        taken = []
        for number in range(400):
            cluster.network.delays[("coordinator", "node/n1")] = 0.2 if number % 50 == 49 else 0.001
            began_s = now_s()
            await peer.get(key)
            taken.append(now_s() - began_s)
        taken = sorted(taken[100:])
        assert taken[-1] < 0.06

    world.run(story())


def test_a_replica_that_is_200_ms_slow_all_the_time_does_not_make_reads_slow(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(50)]
        for key in keys:
            await peer.put(key, "1", w=3)
        cluster.network.delays[("coordinator", "node/n1")] = 0.2
        taken = []
        for turn in range(600):
            began_s = now_s()
            await peer.get(keys[turn % 50])
            taken.append(now_s() - began_s)
        taken = sorted(taken[100:])
        assert taken[int(len(taken) * 0.99)] < 0.1

    world.run(story())


# ---- batches (P14) ----


def test_a_batch_settles_every_item_by_itself(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, partitions=16).start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(60)]
        cluster.kill("n1")
        cluster.kill("n2")
        results = await peer.write(
            [(key, pack_body(peer.operation(), key.encode())) for key in keys], w=2, timeout_s=0.5
        )
        good = bad = 0
        for key, result in zip(keys, results, strict=True):
            alive = set(cluster.owners(key)) - {"n1", "n2"}
            if len(alive) >= 2:
                assert set(result) <= alive
                assert len(result) >= 2
                good += 1
            else:
                assert type(result) is WriteOutcomeUnknown
                assert set(result.acks) == alive
                bad += 1
        assert good > 10
        assert bad > 5
        found = await peer.get_many([*keys, "absent"], r=2, timeout_s=0.5)
        for key, item in zip(keys, found, strict=False):
            alive = set(cluster.owners(key)) - {"n1", "n2"}
            assert item == key if len(alive) >= 2 else type(item) is QuorumNotMet

    world.run(story())


def test_an_item_that_cannot_be_stamped_again_is_its_own_misfortune(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4).start()
        peer = cluster.coordinator()
        for clock in cluster.clocks.values():
            clock.skew_ms = 90_000
        far = next(key for key in (f"k{number}" for number in range(99)) if "n4" not in cluster.owners(key))
        for node_id in cluster.owners(far):
            await cluster.give(node_id, far, world.put_record("far", 100_000))
        fine = next(key for key in (f"k{number}" for number in range(99)) if "n4" in cluster.owners(key))
        for node_id in cluster.ids:
            cluster.network.delays[("coordinator", f"node/{node_id}")] = 0.001
        cluster.network.delays[("coordinator", "node/n4")] = 0.05
        slow = next(node_id for node_id in cluster.owners(fine) if node_id != "n4")
        overload(world, cluster, slow)  # the fine item needs n4, which takes 50 ms
        assert "n4" in await peer.put(fine, "alone", w=2)
        pairs = [(key, pack_body(peer.operation(), b"1")) for key in (far, fine)]
        far_result, fine_result = await peer.write(pairs, w=2, timeout_s=2)
        assert type(far_result) is WriteOutcomeUnknown
        assert isinstance(fine_result, list)

    world.run(story())


def test_random_faults_never_make_an_acknowledged_write_vanish(world: ModuleType) -> None:
    """Writes and reads of unique values through two coordinators while nodes die, freeze and are cut off, one at a time.

    W=2, R=2 of N=3: a read sees the last acknowledged write, or one that was under way or unknown.
    """

    async def one(seed: int) -> None:
        rng = random.Random(seed)
        cluster = world.Cluster(3).start()
        peers = [cluster.coordinator("a"), cluster.coordinator("b", skew_ms=rng.choice([-50, -5000, 0, 300]))]
        acknowledged: dict[str, str] = {}
        maybe: dict[str, set[str]] = {}
        fault: tuple[str, str] | None = None
        for number in range(120):
            if rng.random() < 0.15:
                if fault is not None:
                    how, node_id = fault
                    if how == "kill":
                        cluster.revive(node_id)
                        cluster.publish(*peers)
                    elif how == "freeze":
                        cluster.thaw(cluster.process(node_id))
                    else:
                        cluster.mend()
                    fault = None
                else:
                    how, node_id = fault = rng.choice(["kill", "freeze", "cut"]), rng.choice(cluster.ids)
                    if how == "kill":
                        cluster.kill(node_id, rng.choice(["drop", "random", "keep"]))
                    elif how == "freeze":
                        cluster.freeze(node_id)
                    else:
                        name = rng.choice(["a", "b"])
                        cluster.cut(*rng.choice([(name, f"node/{node_id}"), (f"node/{node_id}", name)]))
            key = f"k{rng.randrange(3)}"
            peer = rng.choice(peers)
            if rng.random() < 0.5:
                value = f"v{number}"
                try:
                    await peer.put(key, value, timeout_s=1.0)
                except RaykvError:
                    maybe.setdefault(key, set()).add(value)
                else:
                    acknowledged[key] = value
                    maybe[key] = set()
            else:
                found = await peer.get(key, timeout_s=3.0)
                allowed = {acknowledged.get(key)} | maybe.get(key, set())
                assert found in allowed, (seed, number, key, found, allowed)
        for key, value in acknowledged.items():
            assert await peers[0].get(key) in {value} | maybe[key]

    for seed in range(25):
        world.run(one(seed))


# ---- admission ----


def test_what_is_out_of_bounds_is_refused_before_anything_is_sent(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgements, "MAX_BATCH_ITEMS", 3)

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        body = pack_body(bytes(16), b"x")
        a = encode_key("a")
        bad: list[tuple[type[RaykvError], Any]] = [
            (InvalidOption, f.GetMany(1, [a] * 4, 2, 5.0)),
            (InvalidOption, f.GetMany(1, [a], 0, 5.0)),
            (InvalidOption, f.GetMany(1, [a], 4, 5.0)),
            (InvalidOption, f.GetMany(1, [a], 2, 0.0)),
            (InvalidOption, f.GetMany(1, [a], 2, float("nan"))),
            (InvalidOption, f.GetMany(1, [a], 2, 1e9)),
            (InvalidKey, f.GetMany(1, [a, b""], 2, 5.0)),
            (InvalidKey, f.GetMany(1, [b"\x02" + b"k" * 1025], 2, 5.0)),
            (InvalidOption, f.WriteMany(1, [(a, body, None)] * 4, 2, 5.0)),
            (InvalidOption, f.WriteMany(1, [(a, body, None)], 4, 5.0)),
            (InvalidOption, f.WriteMany(1, [(a, body, None)], 2, -1.0)),
            (InvalidKey, f.WriteMany(1, [(a, body, None), (b"\x02", body, None)], 2, 5.0)),
            (InvalidKey, f.WriteMany(1, [(a, body, None), (b"\x07k", body, None)], 2, 5.0)),
            (InvalidKey, f.WriteMany(1, [(b"\x02\xff", body, None)], 2, 5.0)),
            (InvalidKey, f.GetMany(1, [a, b"\x02\xc3", b"\x02\xa9"], 2, 5.0)),
            (CorruptData, f.WriteMany(1, [(a, body, None), (a, b"short", None)], 2, 5.0)),
            (InvalidOption, f.ScanPage(1, b"", b"\x03", 10, False, False, 4, 5.0)),
        ]
        cluster.frames.clear()
        for kind, request in bad:
            for fast in (False, True):
                with pytest.raises(kind):
                    await peer.front.driver.run(peer.core.operation(request, fast=fast))
        assert cluster.frames == []
        assert peer.core.figures()["items_under_way"] == peer.core.figures()["calls_under_way"] == 0

    world.run(story())


def test_too_much_under_way_is_overloaded_and_room_is_given_back(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "MAX_ITEMS_UNDER_WAY", 5)

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:
            cluster.freeze(node_id)
        first = asyncio.create_task(peer.get_many(["a", "b", "c"], timeout_s=0.5))
        await asyncio.sleep(0.1)
        assert peer.core.figures()["items_under_way"] == 3
        for refused in (peer.get_many(["x", "y", "z"]), peer.write([("x", pack_body(bytes(16), b""))] * 3)):
            with pytest.raises(Overloaded):
                await refused
        assert {type(item) for item in await first} == {QuorumNotMet}
        assert peer.core.figures()["items_under_way"] == 0
        for node_id in cluster.ids:
            cluster.thaw(cluster.process(node_id))
        await asyncio.sleep(3)
        assert await peer.get_many(["a", "b", "c"]) == [None] * 3

    world.run(story())


# ---- cluster updates ----


def test_a_coordinator_without_an_update_asks_for_one(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = world.Peer(cluster, "late", 0)
        await peer.put("a", "1")
        assert await peer.get("a") == "1"
        supervisor = cluster.network.endpoints.pop("supervisor")
        other = world.Peer(cluster, "other", 0)
        with pytest.raises(StoreUnavailable, match="supervisor"):
            await other.get("a", timeout_s=0.5)
        assert await peer.get("a") == "1", "who has a state asks nobody"
        cluster.network.endpoints["supervisor"] = supervisor
        assert await other.get("a") == "1"

    world.run(story())


def test_an_older_update_is_not_taken(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        old = cluster.cluster_update()
        cluster.state = cluster.state.with_bucket(world.BucketConfig(name="b", n=3, r=2, w=2))
        cluster.publish(peer)
        new = cluster.cluster_update()
        peer.core.routing.learn(old)
        assert (await peer.core.routing.state(1.0)).bucket("b") is not None
        later = world.ClusterState(
            store_id="store-1", generation=2, version=1, config=cluster.store, ring=cluster.state.ring
        )
        peer.core.routing.learn(f.ClusterUpdate(0, world.encode_state(later), {}, {}))
        assert (await peer.core.routing.state(1.0)).generation == 2, (
            "a later supervisor counts its updates from the beginning"
        )
        peer.core.routing.learn(f.ClusterUpdate(99, new.state, {}, {}))
        assert (await peer.core.routing.state(1.0)).generation == 2, "the former supervisor is not heard any more"
        with pytest.raises(CorruptData):
            peer.core.routing.learn(f.ClusterUpdate(100, b"nonsense", {}, {}))
        assert (await peer.core.routing.state(1.0)).generation == 2

    world.run(story())


def test_a_new_ring_is_followed_at_once(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4).start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(30)]
        for key in keys:
            assert sorted(await peer.put(key, "1", w=3)) == sorted(cluster.owners(key))
        members = [world.Member(node_id) for node_id in ("n1", "n2", "n4")]
        ring = world.claim(members, 8, 3, cluster.state.ring)
        cluster.state = msgspec.structs.replace(cluster.state, ring=ring, version=cluster.state.version + 1)
        cluster.publish(peer)
        for key in keys:
            assert sorted(await peer.put(key, "2", w=3)) == ["n1", "n2", "n4"]

    world.run(story())


def test_a_bucket_that_was_dropped_is_an_error_that_says_so(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        with pytest.raises(InvalidOption, match="dropped"):
            await peer.get("a", bucket=7)
        cluster.state = cluster.state.with_bucket(world.BucketConfig(name="b", n=2, r=1, w=1))
        cluster.sequence += 1
        assert len(await peer.put("a", "1", bucket=2, w=2)) == 2, "one that it has not heard of is asked for"
        with pytest.raises(InvalidOption, match="w must be 1 to 2"):
            await peer.put("a", "1", bucket=2, w=3)

    world.run(story())


def test_buckets_do_not_see_each_other(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        cluster.state = cluster.state.with_bucket(world.BucketConfig(name="b", n=1, r=1, w=1))
        peer = cluster.coordinator()
        await peer.put("a", "default", w=3)
        await peer.put("a", "b", bucket=2, w=1)
        assert await peer.get("a") == "default"
        assert await peer.get("a", bucket=2, r=1) == "b"
        holders = [node_id for node_id in cluster.ids if await cluster.held(node_id, "a", bucket=2) is not None]
        assert holders == [cluster.owners("a")[0]], "n=1 keeps one copy, at the first owner"

    world.run(story())


def test_an_update_on_down_nodes_steers_reads_away_at_once(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        await peer.put(key, "1", w=3)
        cluster.freeze("n1")
        cluster.down = {"n1": "it does not answer"}
        cluster.publish(peer)
        cluster.frames.clear()
        for _ in range(20):
            began_s = now_s()
            assert await peer.get(key) == "1"
            assert now_s() - began_s < 0.01
        assert not [1 for _, target, _ in cluster.frames if target == "node/n1"]

    world.run(story())


@pytest.mark.parametrize("pair_bytes", [10 * 1024, 1 << 20])
def test_as_many_keys_as_may_go_together_are_answered(world: ModuleType, pair_bytes: int) -> None:
    async def go() -> None:
        cluster = world.Cluster()
        cluster.state = cluster.state.with_bucket(BucketConfig(name="large", n=3, r=2, w=2, pair_bytes=pair_bytes))
        peer = cluster.start().coordinator()
        most = judgements.most_keys(peer.core.routing.known_bucket(2))
        assert most >= judgements.most_keys(None)
        found = await peer.get_many([f"k{number}" for number in range(min(most, 300))], bucket=2)
        assert {*found} == {None}
        with pytest.raises(InvalidOption, match=f"at most {most}"):
            await peer.get_many([f"k{number}" for number in range(most + 1)], bucket=2)

    world.run(go())


def test_reads_that_join_are_no_more_than_may_go_together(world: ModuleType) -> None:
    async def go() -> None:
        cluster = world.Cluster()
        cluster.state = cluster.state.with_bucket(BucketConfig(name="large", n=3, r=2, w=2, pair_bytes=1 << 20))
        peer = cluster.start().coordinator()
        most = judgements.most_keys(peer.core.routing.known_bucket(2))
        frames = [
            f.coordinator_requests.encode(f.GetMany(2, [encode_key(f"k{number}")], 2, 5.0))
            for number in range(most + 8)
        ]
        answers = await asyncio.gather(*map(peer.front.serve_together, frames))
        assert [f.coordinator_answers.decode(answer) for answer in answers] == [f.GotMany([f.KeyVersions([])])] * (
            most + 8
        )

    world.run(go())
