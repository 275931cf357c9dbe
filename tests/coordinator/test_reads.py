"""Quorum reads of vector records: what replicas lack is mended before a read returns, and no read goes backward (P9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.coordinator import reads
from raykv.errors import QuorumNotMet
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body
from raykv.replica import handlers
from raykv.versions import time_from_ms
from raykv.versions.causality import unpack_causality
from raykv.versions.dvvset import event

if TYPE_CHECKING:
    from types import ModuleType

    from raykv.records.vector_record import Seen


def now_s() -> float:
    return asyncio.get_running_loop().time()


def version(
    world: ModuleType, value: str | None, dot: tuple[str, int], seen: Seen = (), *, at_ms: int = 0, ttl_ms: int | None = None
) -> bytes:  # fmt: skip
    """A record with one version, as a write sends it; None: a tombstone."""
    actor = dot[0].encode().ljust(vector.ACTOR_BYTES)
    operation = bytes([dot[1]]) * 16
    body = pack_tombstone_body(operation) if value is None else pack_body(operation, value.encode(), ttl_ms)
    return vector.encode(event((actor, dot[1]), seen, time_from_ms(world.WALL_MS + at_ms), body))


def seen_in(record: bytes) -> Seen:
    return vector.decode(record).seen


async def held_by_all(cluster: Any, key: str) -> set[bytes | None]:
    return {await cluster.held(node_id, key) for node_id in cluster.ids}


def test_a_replica_is_mended_with_a_write_of_a_clock_that_was_far_ahead(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("k")
        far = version(world, "far", ("x", 1), at_ms=7_200_000)
        cluster.clocks[first].skew_ms = 7_200_000
        await cluster.give(first, "k", far)
        cluster.clocks[first].skew_ms = 0
        cluster.kill(third)
        assert await peer.get("k") == "far"
        assert await cluster.held(second, "k") == far

    world.run(story())


def test_replicas_that_each_lack_something_are_all_mended_and_all_is_shown(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("k")
        old = version(world, "old", ("x", 1))
        for node_id in cluster.ids:
            await cluster.give(node_id, "k", old)
        await cluster.give(first, "k", version(world, "newer", ("x", 2), seen_in(old), at_ms=5))
        await cluster.give(second, "k", version(world, "beside", ("y", 1), seen_in(old), at_ms=7))
        for node_id in cluster.ids:
            cluster.network.delays[("coordinator", f"node/{node_id}")] = 0.3
        peer.core.routing.peers.learn({}, {third: "so that it is asked last"})
        began_s = now_s()
        values, causality = await peer.versions("k")
        assert now_s() - began_s >= 0.6, "a round to read, a round to mend"
        assert values == ["beside", "newer"], "the newest first"
        assert unpack_causality(causality).time == time_from_ms(world.WALL_MS + 7)
        held = [await cluster.held(node_id, "k") for node_id in (first, second)]
        assert len(set(held)) == 1, "it has returned only once two hold it all"
        assert unpack_causality(causality).seen == seen_in(held[0])
        assert peer.metrics["read_repairs"] == 1
        assert (peer.metrics["copies_behind"], peer.metrics["copies_missing"]) == (2, 0)
        assert sum(peer.metrics.histograms()["staleness"][1:]) == 2
        assert peer.metrics.histograms()["staleness"][0] == 2000, "one is 2 ms older, one as new and lacks the other"
        await peer.rest()
        assert await held_by_all(cluster, "k") == set(held)
        assert await peer.versions("k") == (values, causality)
        assert peer.metrics["read_repairs"] == 1, "nothing is left to mend"

    world.run(story())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_reads_of_a_key_never_go_backward(world: ModuleType, place: int) -> None:
    """A write on one of three is read once; from then on every read sees it, from any replicas."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.put("k", "old", w=3)
        _, causality = await peer.versions("k")
        beside = version(world, "beside", ("x", 1), at_ms=5000)
        above = version(world, "above", ("y", 1), unpack_causality(causality).seen, at_ms=6000)
        for record in (beside, above):
            await cluster.give(cluster.owners("k")[place], "k", record)
        seen_new = False
        for dark in (None, *cluster.ids, *cluster.ids):
            cluster.network.cuts.clear()
            if dark is not None:
                cluster.cut("coordinator", f"node/{dark}")
            values, _ = await peer.versions("k", r=2)
            assert values in (["old"], ["above", "beside"])
            assert values != ["old"] or not seen_new
            seen_new = seen_new or values != ["old"]
            await asyncio.sleep(3)
        assert seen_new

    world.run(story())


def test_a_deletion_is_mended_as_a_value_is(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        value = version(world, "1", ("x", 1))
        for node_id in cluster.ids:
            await cluster.give(node_id, "k", value)
        tombstone = version(world, None, ("x", 2), seen_in(value), at_ms=5000)
        await cluster.give(cluster.owners("k")[0], "k", tombstone)
        assert await peer.get("k") is None
        values, causality = await peer.versions("k")
        assert values == []
        assert unpack_causality(causality).seen == seen_in(tombstone), "who writes on gives it back"
        await peer.rest()
        assert await held_by_all(cluster, "k") == {tombstone}

    world.run(story())


def test_a_version_expires_and_those_beside_it_do_not(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer, ahead = cluster.coordinator(), cluster.coordinator("ahead", skew_ms=5000)
        for record in (version(world, "short", ("x", 1), at_ms=1, ttl_ms=2000), version(world, "long", ("y", 1))):
            await cluster.give(cluster.owners("k")[0], "k", record)
        assert (await peer.versions("k"))[0] == ["short", "long"]
        assert (await ahead.versions("k"))[0] == ["long"], "by the coordinator's clock"
        await asyncio.sleep(2)
        values, causality = await peer.versions("k")
        assert values == ["long"]
        await peer.store("k", "merged", context=causality)
        assert (await peer.versions("k"))[0] == ["merged"]
        assert len(vector.decode(await cluster.held("n1", "k")).siblings) == 1, "the expired one was seen, and goes too"

    world.run(story())


def test_a_read_that_cannot_be_mended_is_an_error(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("k")
        await peer.put("fine", "1", w=3)
        await cluster.give(first, "k", version(world, "1", ("x", 1)))
        for node_id in (second, third):
            cluster.node(node_id)._replica.no_room = "its disk is full"
        lost, fine = await peer.find(["k", "fine"], r=3, timeout_s=0.5)
        assert type(lost) is QuorumNotMet
        assert "hold what was read" in str(lost)
        assert lost.details["have"] == [first]
        assert fine[0] == ["1"], "the other key of the batch is none the worse"

    world.run(story())


@pytest.mark.parametrize("wanted", [False, True])
def test_the_causality_travels_only_where_it_is_wanted_and_the_newest_time_always(
    world: ModuleType, wanted: bool
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        newest = unpack_causality((await peer.store("b", "2")).causality)
        keys = [encode_key(key) for key in ("a", "b", "absent")]
        got = await peer.front.carry_out(f.GetMany(1, keys, 2, 5.0, wanted))
        assert got.time == newest.time
        assert [f.whole(item).payloads for item in got.items] == [[b"1"], [b"2"], []]
        assert [bool(f.whole(item).causality) for item in got.items] == [wanted] * 3
        if wanted:
            assert unpack_causality(got.items[1].causality) == newest

    world.run(story())


def test_what_an_answer_has_no_room_for_is_asked_again(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Siblings make records larger than a pair may be, so that the keys of a batch may not fit into one answer."""
    monkeypatch.setattr(handlers, "MAX_READ_BYTES", 4000)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        keys = [f"k{number:02}" for number in range(40)]
        for key in keys:
            await peer.put(key, key + "x" * 1000, w=3)
        cluster.frames.clear()
        found = await peer.get_many([*keys, "absent"], r=2)
        assert found == [*(key + "x" * 1000 for key in keys), None]
        asked = [f.node_requests.decode(frame).body for _, _, frame in cluster.frames]
        assert sum(len(body.keys) for body in asked[:3]) == 2 * 41
        assert 80 / 4 <= len(asked) <= 80 / 4 + 3, "four records an answer, and then once for all that is left"

    world.run(story())


def test_a_key_that_one_node_cannot_read_is_read_from_others_and_shown_complete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.put("k", "1", w=3)
        first = cluster.owners("k")[0]
        process = cluster.process(first)
        serve = process.serve

        async def corrupt(frame: bytes) -> bytes:
            if isinstance(f.node_requests.decode(frame).body, f.Read):
                return f.node_answers.encode(f.NodeAnswer(1, f.ReadDone([None], [0])))
            return await serve(frame)

        process.serve = corrupt
        assert (await peer.versions("k", r=2))[0] == ["1"]
        (lost,) = await peer.find(["k"], r=3, timeout_s=0.3)
        assert type(lost) is QuorumNotMet

    world.run(story())


def test_no_node_is_asked_for_more_than_fits_into_an_answer(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_ANSWER_BYTES", 10_240 * 7)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(30)]
        assert await peer.get_many(keys) == [None] * 30
        asked = [f.node_requests.decode(frame).body for _, _, frame in cluster.frames]
        assert max(len(body.keys) for body in asked) == 7

    world.run(story())
