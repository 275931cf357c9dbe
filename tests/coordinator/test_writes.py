"""Vector writes over real nodes in one event loop: what a write supersedes, its one dot, its time, and what comes late."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from raykv.client.aio import AsyncStore
from raykv.client.driver import run_async
from raykv.client.handle import Session
from raykv.coordinator import writes
from raykv.errors import (
    InvalidContext,
    Overloaded,
    PairTooLarge,
    SiblingsFound,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.records.record import pack_body
from raykv.versions import merging, time_from_ms
from raykv.versions.causality import NOTHING_SEEN, Causality, covers, pack_causality, unpack_causality

if TYPE_CHECKING:
    from types import ModuleType


def now_s() -> float:
    return asyncio.get_running_loop().time()


def key_owned_first_by(cluster: Any, node_id: str) -> str:
    return next(key for key in (f"k{number}" for number in range(1000)) if cluster.owners(key)[0] == node_id)


def values_in(record: bytes | None) -> set[str]:
    """Return the values of a record, without tombstones."""
    if record is None:
        return set()
    return {s.record.payload.decode() for s in vector.decode(record).siblings if not s.record.tombstone}


def dots_of(cluster: Any, key: str, operation: bytes) -> set[vector.Dot]:
    """Every dot under which some node keeps that operation's write."""
    records = [cluster.stored(node_id, key) for node_id in cluster.ids]
    return {
        sibling.dot
        for record in records
        if record is not None
        for sibling in vector.decode(record).siblings
        if sibling.record.operation_id == operation
    }


def sent(cluster: Any, kind: type[Any]) -> list[tuple[str, Any]]:
    """The requests of one kind that went to nodes, with their node."""
    frames = [(target, frame) for _, target, frame in cluster.frames if target.startswith("node/")]
    bodies = [(target[5:], f.node_requests.decode(frame).body) for target, frame in frames]
    return [(node_id, body) for node_id, body in bodies if isinstance(body, kind)]


def time_of(acked: f.Acked) -> int:
    return unpack_causality(acked.causality).time


# ---- the plain course ----


def test_what_was_put_is_read_and_what_was_deleted_is_not(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, versioning="vector").start()
        peer = cluster.coordinator()
        for number in range(20):
            acks = await peer.put(f"k{number}", f"v{number}", w=3)
            assert sorted(acks) == sorted(cluster.owners(f"k{number}"))
        assert await peer.get_many([f"k{number}" for number in range(21)]) == [*(f"v{n}" for n in range(20)), None]
        await peer.delete("k3")
        assert await peer.get("k3") is None
        await peer.put("k3", "again")
        assert await peer.versions("k3", r=3) == (["again"], (await peer.versions("k3"))[1])
        await peer.rest()
        strangers = set(cluster.ids) - set(cluster.owners("k0"))
        for node_id in strangers:
            assert cluster.stored(node_id, "k0") is None, "only the primaries have it"

    world.run(story())


def test_a_write_reaches_all_n_though_w_are_enough(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        cluster.network.delays[("*", "node/n3")] = 1.0
        began_s = now_s()
        assert "n3" not in await peer.put(key, "1", w=2)
        assert now_s() - began_s < 0.3
        await peer.rest()
        assert await cluster.held("n3", key) == await cluster.held("n1", key) is not None

    world.run(story())


@pytest.mark.parametrize("how", ["kill", "freeze", "cut to", "cut from"])
@pytest.mark.parametrize("victim", ["n1", "n2", "n3"])
def test_writes_go_on_with_one_of_three_gone(world: ModuleType, how: str, victim: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(10)]
        for key in keys:
            await peer.put(key, "old", w=3)
        if how.startswith("cut"):
            cluster.cut(*(("coordinator", f"node/{victim}") if how == "cut to" else (f"node/{victim}", "coordinator")))
        else:
            getattr(cluster, how)(victim)
        slowest_s = 0.0
        for key in keys:
            began_s = now_s()
            assert victim not in await peer.put(key, "new")
            assert await peer.versions(key) == (["new"], (await peer.versions(key))[1])
            slowest_s = max(slowest_s, now_s() - began_s)
        assert slowest_s < 1.1, "another is asked, not the call's time-out waited for"

    world.run(story())


@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.parametrize("timeout_s", [0.3, 1.0, 4.0])
def test_w_3_with_one_gone_is_unknown_in_time_and_names_the_nodes_that_answered(
    world: ModuleType, how: str, timeout_s: float
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        getattr(cluster, how)("n2")
        operation = peer.operation()
        began_s = now_s()
        with pytest.raises(WriteOutcomeUnknown) as caught:
            await peer.store(key, "1", operation=operation, w=3, timeout_s=timeout_s)
        assert timeout_s * 0.9 <= now_s() - began_s <= timeout_s * 1.1
        assert caught.value.operation_id == operation.hex()
        assert sorted(caught.value.acks) == ["n1", "n3"]
        assert caught.value.details["needed"] == 3
        assert await peer.get(key, r=2) == "1", "it is not undone"

    world.run(story())


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_without_a_quorum_in_the_first_round_nothing_was_written_and_that_is_said(world: ModuleType, how: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        getattr(cluster, how)("n1")
        getattr(cluster, how)("n2")
        operation = peer.operation()
        began_s = now_s()
        with pytest.raises(StoreUnavailable, match="nothing was written") as caught:
            await peer.store(key, "1", operation=operation, timeout_s=0.5)
        assert 0.45 <= now_s() - began_s <= 0.55
        assert caught.value.details["operation_id"] == operation.hex()
        if how == "kill":
            assert {"n1", "n2"} <= caught.value.details["failures"].keys()
        assert sent(cluster, f.Write) == []
        await peer.rest()
        assert cluster.stored("n3", key) is None

    world.run(story())


def test_a_batch_settles_every_item_by_itself(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, partitions=16, versioning="vector").start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(60)]
        cluster.kill("n1")
        cluster.kill("n2")
        pairs = [(key, pack_body(peer.operation(), key.encode())) for key in keys]
        # Those alive suffice for the first round, for a context needs a dot only; not always for the second.
        results = await peer.send([(key, body, NOTHING_SEEN) for key, body in pairs], w=2, timeout_s=0.5)
        good = bad = 0
        for key, result in zip(keys, results, strict=True):
            alive = set(cluster.owners(key)) - {"n1", "n2"}
            if len(alive) >= 2:
                assert set(result.nodes) <= alive
                assert len(result.nodes) >= 2
                good += 1
            else:
                assert type(result) is WriteOutcomeUnknown
                assert set(result.acks) == alive
                bad += 1
        assert good > 10
        assert bad > 5

    world.run(story())


def test_refused_by_all_in_the_second_round_is_certain_to_have_written_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:  # the nodes' clocks are two minutes behind: they refuse the write's time
            cluster.clocks[node_id].skew_ms = -120_000
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await peer.put("k", "1", timeout_s=0.5)
        assert sent(cluster, f.Write) != []
        assert await peer.versions("k") == ([], NOTHING_SEEN)

    world.run(story())


# ---- what a write supersedes (P7) ----


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("away", [0, 1, 2])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_write_without_a_context_supersedes_what_was_acknowledged_before(
    world: ModuleType, nodes: int, away: int, all_of_them: bool
) -> None:
    """Y is acknowledged by those who were there; X goes through with one as the first primary that lacks Y.

    X may wait for all N: that Y waited for a majority only it must bear in mind all the same.
    """

    async def story() -> None:
        cluster = world.Cluster(nodes, copies=nodes, versioning="vector").start()
        w = nodes // 2 + 1
        former, peer = cluster.coordinator("former"), cluster.coordinator()
        owners = cluster.owners("k")
        absent = [owners[(away + step) % nodes] for step in range(nodes - w)]
        for node_id in absent:
            cluster.cut("former", f"node/{node_id}")
        began_s = now_s()
        y = await former.store("k", "Y", w=w)
        assert now_s() - began_s < 1.0, "those who are silent are raced, however many they are"
        assert not set(y.nodes) & set(absent)
        await former.rest()
        assert [cluster.stored(node_id, "k") for node_id in absent] == [None] * len(absent)
        x = await peer.store("k", "X", w=nodes if all_of_them else w)
        y_seen, x_seen = unpack_causality(y.causality), unpack_causality(x.causality)
        assert covers(x_seen.seen, y_seen.seen), "X stands above Y"
        await peer.rest()
        for r in (w, nodes):
            assert (await peer.versions("k", r=r))[0] == ["X"]
        assert all(values_in(cluster.stored(node_id, "k")) == {"X"} for node_id in cluster.ids)

    world.run(story())


def test_a_write_with_a_context_supersedes_exactly_what_that_read_has_shown(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        a, b = cluster.coordinator("a"), cluster.coordinator("b")
        await a.put("k", "first", w=3)
        values, context = await a.versions("k")
        assert values == ["first"]
        await asyncio.sleep(0.01)
        await b.store("k", "theirs", context=context)
        await asyncio.sleep(0.01)
        mine = await a.store("k", "mine", context=context)
        assert (await a.versions("k"))[0] == ["mine", "theirs"], "first is gone, theirs was not seen; the newest first"
        await asyncio.sleep(0.01)
        await a.store("k", "mine again", context=mine.causality)
        values, both = await b.versions("k")
        assert values == ["mine again", "theirs"], "the context of a write stands for itself and what it superseded"
        await asyncio.sleep(0.01)
        await b.put("k", "blind")
        assert (await a.versions("k"))[0] == ["blind"], "without a context: all that is there"
        await asyncio.sleep(0.01)
        await a.store("k", "merged", context=both)
        values, all_seen = await a.versions("k")
        assert values == ["merged", "blind"], "what stands since is not what was seen"
        await a.store("k", None, context=both)
        assert sorted((await a.versions("k"))[0]) == ["blind", "merged"], "a deletion takes no more than it has seen"
        _, all_seen = await a.versions("k")
        await a.store("k", "the end", context=all_seen)
        assert (await b.versions("k", r=3))[0] == ["the end"]

    world.run(story())


def test_to_have_found_nothing_is_not_the_same_as_not_to_have_looked(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        values, nothing = await peer.versions("k")
        assert (values, nothing) == ([], NOTHING_SEEN)
        await peer.store("k", "one", context=nothing)
        await asyncio.sleep(0.01)
        await peer.store("k", "two", context=nothing)
        assert (await peer.versions("k"))[0] == ["two", "one"]
        await peer.store("k", "three", context=None)
        assert (await peer.versions("k", r=3))[0] == ["three"]

    world.run(story())


def test_concurrent_writes_all_stand_with_dots_of_any_owner(world: ModuleType) -> None:
    """Dots of one node and of several, answers in any order: none of them is mistaken for another."""

    async def one(seed: int) -> None:
        rng = random.Random(seed)
        cluster = world.Cluster(3, versioning="vector").start()
        peers = [cluster.coordinator(name) for name in ("a", "b", "c")]
        await peers[0].put("k", "old", w=3)
        _, context = await peers[0].versions("k")
        for peer in peers:
            for node_id in cluster.ids:
                cluster.network.delays[(peer.name, f"node/{node_id}")] = rng.choice([0.001, 0.01, 0.3])
        values = [f"v{number}" for number in range(9)]
        await asyncio.gather(*(rng.choice(peers).store("k", value, context=context) for value in values))
        for peer in peers:
            await peer.rest()
        assert sorted((await peers[1].versions("k", r=3))[0]) == values
        assert len({cluster.stored(node_id, "k")[2:] for node_id in cluster.ids}) >= 1
        assert len({await cluster.held(node_id, "k") for node_id in cluster.ids}) == 1

    for seed in range(10):
        world.run(one(seed))


def test_a_tombstone_hides_its_key_and_gives_a_context_to_go_on_with(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.put("k", "1", w=3)
        deleted = await peer.store("k", None)
        assert await peer.get("k") is None
        values, context = await peer.versions("k")
        assert values == []
        assert unpack_causality(context) == unpack_causality(deleted.causality)
        assert len(unpack_causality(context).seen) == 1
        await peer.store("k", "2", context=context)
        assert (await peer.versions("k", r=3))[0] == ["2"]
        await peer.rest()
        (sibling,) = vector.decode(cluster.stored("n1", "k")).siblings
        assert not sibling.record.tombstone, "it has gone with what it hid"

    world.run(story())


# ---- one write, one dot (P8) ----


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("how", ["too late", "not at all", "frozen", "dead"])
def test_one_write_has_one_dot_though_two_nodes_gave_one(world: ModuleType, how: str, with_context: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        await peer.put(key, "old", w=3)
        _, context = await peer.versions(key, r=3)
        (first_actor,) = [actor for actor, _, _ in unpack_causality(context).seen]
        cluster.frames.clear()
        if how == "too late":
            cluster.network.delays[("node/n1", "coordinator")] = 0.6
        elif how == "not at all":
            cluster.cut("node/n1", "coordinator")
        else:
            getattr(cluster, {"frozen": "freeze", "dead": "kill"}[how])("n1")
        operation = peer.operation()
        await peer.store(key, "new", operation=operation, context=context if with_context else None)
        wanted = [node_id for node_id, body in sent(cluster, f.ReserveDots) if operation in body.operation_ids]
        assert wanted[0] == "n1"
        assert set(wanted[1:]) == {cluster.owners(key)[1]}, "another was asked"
        assert peer.metrics["second_dots"] == 1
        await peer.rest()  # the late answers come in
        ((actor, _),) = dots_of(cluster, key, operation)
        assert actor != first_actor
        values, seen = await peer.versions(key)
        assert values == ["new"]
        await peer.store(key, None, context=seen)
        cluster.mend()
        cluster.network.delays.clear()
        if how == "dead":
            cluster.revive("n1")
        else:
            cluster.thaw(cluster.process("n1"))
        await asyncio.sleep(3)
        await peer.rest()
        assert len(dots_of(cluster, key, operation)) <= 1
        for _ in range(2):
            assert (await peer.versions(key, r=3))[0] == [], "it does not come back with the node"
            await peer.rest()
        assert dots_of(cluster, key, operation) == set()
        await peer.put(key, "later", w=3)
        assert (await peer.versions(key, r=3))[0] == ["later"]

    world.run(story())


def test_a_dot_that_was_given_in_vain_is_never_written_under(world: ModuleType) -> None:
    """The node that answered too late goes on behind the dot that it gave; its counters name one write each."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        cluster.network.delays[("node/n1", "coordinator")] = 0.6
        await peer.put(key, "1")
        cluster.network.delays.clear()
        await peer.rest()
        await asyncio.sleep(2)  # until n1 is asked first again
        await peer.put(key, "2", w=3)
        spans = unpack_causality((await peer.versions(key))[1]).seen
        assert sorted((low, high) for _, low, high in spans) == [(1, 1), (2, 2)], "counter 1 of n1 is a gap for ever"

    world.run(story())


# ---- what comes late (P8) ----


def request(peer: Any, value: str, **options: Any) -> f.WriteMany:
    body = pack_body(peer.operation(), value.encode())
    return f.WriteMany(1, [(encode_key("k"), body, None)], 2, 5.0, **options)


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_a_request_whose_time_is_over_or_that_was_meant_for_another_run_is_not_begun(
    world: ModuleType, versioning: str
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        run = peer.core.run
        await asyncio.sleep(1)
        cluster.frames.clear()
        for late in (
            request(peer, "late", run=run, expires_s=now_s() - 0.001),
            request(peer, "late", run=run + 1, expires_s=now_s() + 100),
            request(peer, "late", run=run, expires_s=0.0),
        ):
            assert await peer.ask(late) == f.DeadlinePassed(run, now_s())
        assert cluster.frames == []
        assert peer.metrics["late_requests"] == 3
        assert await peer.get("k") is None
        in_time = await peer.ask(request(peer, "in time", run=run, expires_s=now_s() + 0.5))
        assert isinstance(in_time.items[0], f.Acked)
        undated = await peer.ask(request(peer, "undated", expires_s=1e-9))
        assert isinstance(undated.items[0], f.Acked), "who knows no clock says none"

    world.run(story())


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_a_call_that_begins_in_time_ends_in_time(world: ModuleType, versioning: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        for node_id in ("n1", "n2"):
            cluster.freeze(node_id)
        began_s = now_s()
        answer = await peer.ask(request(peer, "v", run=peer.core.run, expires_s=began_s + 0.3))
        assert isinstance(answer.items[0], f.Failed)
        assert abs(now_s() - began_s - 0.3) < 0.01, "not the five seconds that it would have been given"

    world.run(story())


def test_a_frozen_coordinator_does_not_carry_out_after_its_thaw_what_its_client_has_given_up(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator("other")
        cluster.coordinator()
        store, other = await opened(world, cluster), await opened(world, cluster, "other")
        process = cluster.network.living("coordinator")
        process.freeze()
        with pytest.raises(WriteOutcomeUnknown):
            await store.put("k", "given up", timeout=1)
        await other.put("k", "later")
        process.thaw()
        await asyncio.sleep(5)
        assert (await other.get_versions("k", r=3)).values == ["later"]
        await store.put("k", "still", timeout=1)
        assert await other.get("k") == "still", "it does carry out what comes in time"

    world.run(story())


def test_a_coordinator_that_was_frozen_between_the_rounds_does_not_begin_the_second_one(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        call, monotonic_s = cluster.network.call, peer.clock.monotonic_s
        frozen_s = 0.0
        peer.clock.monotonic_s = lambda: monotonic_s() + frozen_s

        async def freezing(source: Any, target: str, frame: bytes, timeout_s: float) -> bytes:
            nonlocal frozen_s
            answer = await call(source, target, frame, timeout_s)
            if isinstance(f.node_requests.decode(frame).body, f.ReserveDots):
                frozen_s = 10.0  # with the answer in hand
            return answer

        cluster.network.call = freezing
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await peer.store("k", "v", context=NOTHING_SEEN, timeout_s=1)
        await asyncio.sleep(3)
        assert sent(cluster, f.Write) == []

    world.run(story())


def test_a_client_of_a_coordinator_that_runs_anew_is_understood_at_the_second_try(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator()
        store = await opened(world, cluster)
        await store.put("k", "1")
        anew = cluster.coordinator()  # in its place, and of another run
        result = await store.put("k", "2")
        assert len(result.acks) >= 2
        assert anew.metrics["late_requests"] == 1
        assert await store.get("k") == "2"
        await store.put("k", "3")
        assert anew.metrics["late_requests"] == 1, "it knows the clock by now"

    world.run(story())


# ---- a node that may lack what it acknowledged (P1) ----


def test_an_incomplete_node_gives_no_dot_and_shows_nothing_but_its_acknowledgement_counts(world: ModuleType) -> None:
    """Y is acknowledged by A and B; A is wiped; a write without a context must not take A's and C's word for all."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        key = key_owned_first_by(cluster, "n1")
        cluster.cut("coordinator", "node/n3")
        y = await peer.store(key, "Y")
        await peer.rest()
        cluster.mend()
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(3)
        reserve = f.ReserveDots(1, [encode_key(key)], [bytes(16)])
        assert isinstance(await cluster.ask("n1", reserve), f.Incomplete)
        cluster.freeze("n2")
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await peer.put(key, "X", timeout_s=1)
        cluster.thaw(cluster.process("n2"))
        await asyncio.sleep(3)
        assert (await peer.versions(key))[0] == ["Y"]
        cluster.kill("n3")
        x = await peer.store(key, "X", context=y.causality)
        assert sorted(x.nodes) == ["n1", "n2"], "it keeps what it is given, as well as any other"
        assert values_in(cluster.stored("n1", key)) == {"X"}
        ((actor, _),) = dots_of(cluster, key, x.operation_id)
        assert vector.own_of(cluster.stored("n1", key)) == b""
        assert vector.own_of(cluster.stored("n2", key)).endswith(actor)

    world.run(story())


# ---- times ----


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_a_write_is_stamped_above_its_context_what_is_stored_and_what_its_client_has_seen(
    world: ModuleType, versioning: str
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        ahead, behind = cluster.coordinator("ahead"), cluster.coordinator("behind", skew_ms=-50)
        wrote = await ahead.store("stored", "1", w=3)
        above = await behind.store("stored", "2")
        assert time_of(above) > time_of(wrote), "above what is stored"
        assert await ahead.get("stored") == "2"
        _, context = await ahead.versions("stored")
        later = pack_causality(unpack_causality(context)._replace(time=time_from_ms(ahead.clock.wall_ms() + 7)))
        above = await behind.store("stored", "3", context=later)
        assert time_of(above) > unpack_causality(later).time, "above its context"
        assert (await ahead.versions("stored"))[0] == ["3"]
        seen = time_from_ms(ahead.clock.wall_ms() + 500)
        above = await behind.store("new", "1", after=seen)
        assert time_of(above) > seen, "above the client's session"

    world.run(story())


def test_siblings_are_in_the_order_in_which_one_client_wrote_them_whatever_the_clocks(world: ModuleType) -> None:
    """The session's ``after``: what a program writes after it has read something is newer than what it read."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator()
        cluster.coordinator("behind", skew_ms=-50)
        store, other = await opened(world, cluster), await opened(world, cluster, "behind")
        nothing = (await other.get_versions("k")).context
        await store.put("k", "theirs")
        assert await other.get("k") == "theirs"
        await other.put("k", "mine", context=nothing)  # beside it, for it gives back what it read before
        assert (await store.get_versions("k")).values == ["mine", "theirs"]
        assert await store.get("k") == "mine"

    world.run(story())


@pytest.mark.parametrize("versioning", ["vector", "lww"])
@pytest.mark.parametrize("whose", ["context", "session"])
def test_a_time_too_far_ahead_is_refused_with_nothing_written(world: ModuleType, versioning: str, whose: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        await peer.put("k", "1", w=3)
        before = [cluster.stored(node_id, "k") for node_id in cluster.ids]
        cluster.frames.clear()
        far = time_from_ms(peer.clock.wall_ms() + 60_010)
        if whose == "context":
            bad = ("k", pack_body(peer.operation(), b"2"), pack_causality(Causality(far)))
            fine = ("other", pack_body(peer.operation(), b"2"), None)
            error, acked = await peer.send([bad, fine])
            assert type(error) is StoreUnavailable
            assert isinstance(acked, f.Acked), "the other item of the batch is none the worse"
            assert all(key == encode_key("other") for _, body in sent(cluster, f.Write) for key, _ in body.items)
        else:
            with pytest.raises(StoreUnavailable) as caught:
                await peer.put("k", "2", after=far)
            error = caught.value
            assert cluster.frames == []
        assert "nothing was written" in str(error)
        assert "ahead of this host's clock" in str(error)
        assert [cluster.stored(node_id, "k") for node_id in cluster.ids] == before
        acked = await peer.store("k", "2")
        assert abs((time_of(acked) >> 16) - peer.clock.wall_ms()) < 1000, "nor did it drag the clock along"

    world.run(story())


def test_what_is_stored_too_far_ahead_is_not_written_over(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        for clock in cluster.clocks.values():
            clock.skew_ms = 90_000
        await cluster.coordinator("ahead", skew_ms=100_000).put("k", "far", w=3)
        peer = cluster.coordinator()
        cluster.frames.clear()
        began_s = now_s()
        with pytest.raises(StoreUnavailable, match=r"nothing was written.*ahead of this host's clock"):
            await peer.put("k", "1", timeout_s=2)
        assert now_s() - began_s < 1, "waiting would not help"
        assert sent(cluster, f.Write) == []
        assert await peer.get("k") == "far"

    world.run(story())


@pytest.mark.parametrize("versioning", ["vector", "lww"])
@pytest.mark.parametrize("nodes_too", [False, True])
def test_a_clock_that_jumped_far_ahead_and_was_set_right_stamps_as_before(
    world: ModuleType, versioning: str, nodes_too: bool
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        await peer.put("other", "0", w=3)
        clocks = [peer.clock, *(cluster.clocks.values() if nodes_too else ())]
        for clock in clocks:
            clock.skew_ms = 7_200_000
        if nodes_too:
            await peer.put("k", "far", w=3)
        else:
            with pytest.raises(StoreUnavailable, match="ahead of this host's clock"):
                await peer.put("k", "far", timeout_s=1)
        for clock in clocks:
            clock.skew_ms = 0
        for value in ("1", "2"):
            acked = await peer.store("other", value, w=3)
            assert abs((time_of(acked) >> 16) - peer.clock.wall_ms()) < 1000
        assert await peer.get("other") == "2"
        if nodes_too:  # what is stored is shown to whoever writes over it (P7), and holds up nobody else
            with pytest.raises((StoreUnavailable, WriteOutcomeUnknown), match="ahead of this host's clock"):
                await peer.put("k", "1", timeout_s=1)
            assert await peer.get("k") == "far"
        else:
            await peer.put("k", "1")
            assert await peer.get("k") == "1"

    world.run(story())


# ---- bounds ----


def test_too_many_siblings_are_refused_with_nothing_written_until_somebody_merges_them(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "MAX_SIBLINGS", 3)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        for value in ("1", "2", "3"):
            await peer.store("k", value, context=NOTHING_SEEN, w=3)
        two_of_them = pack_causality(Causality(0, vector.decode(cluster.stored("n1", "k")).seen[:1]))
        _, all_seen = await peer.versions("k")
        first = vector.decode(cluster.stored("n1", "k")).siblings[0]
        one_of_them = pack_causality(Causality(0, ((first.actor, first.counter, first.counter),)))
        assert two_of_them is not None
        cluster.frames.clear()
        for context in (NOTHING_SEEN, one_of_them):
            with pytest.raises(PairTooLarge, match="3 versions of this key") as caught:
                await peer.store("k", "4", context=context)
            assert caught.value.details == {"siblings": 3, "limit": 3}
        other = ("other", pack_body(peer.operation(), b"1"), NOTHING_SEEN)
        refused, acked = await peer.send([("k", pack_body(peer.operation(), b"4"), NOTHING_SEEN), other])
        assert type(refused) is PairTooLarge
        assert isinstance(acked, f.Acked)
        assert all(key == encode_key("other") for _, body in sent(cluster, f.Write) for key, _ in body.items)
        assert sorted((await peer.versions("k"))[0]) == ["1", "2", "3"]
        await peer.store("k", "merged", context=all_seen)
        assert (await peer.versions("k", r=3))[0] == ["merged"]
        for value in ("5", "6"):
            await peer.store("k", value, context=NOTHING_SEEN, w=3)
        await peer.put("k", "blind")
        assert (await peer.versions("k", r=3))[0] == ["blind"], "who has not looked supersedes all, and makes room"

    world.run(story())


def test_siblings_that_are_too_large_together_are_refused_as_well(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "MAX_SIBLINGS_BYTES", 2000)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.store("k", "x" * 900, context=NOTHING_SEEN, w=3)
        await peer.store("k", "y" * 900, context=NOTHING_SEEN, w=3)
        with pytest.raises(PairTooLarge, match="2 versions of this key"):
            await peer.store("k", "z" * 900, context=NOTHING_SEEN)
        values, context = await peer.versions("k")
        assert sorted({value[0] for value in values}) == ["x", "y"]
        await peer.store("k", "z" * 1900, context=context)
        assert (await peer.versions("k"))[0] == ["z" * 1900]

    world.run(story())


def test_writes_at_the_same_time_do_not_grow_a_record_past_all_bounds(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is let in by what stood before any; then nodes take what there is room for, and refuse the rest."""
    monkeypatch.setattr(merging, "MAX_STORED_BYTES", 5_000)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        stores = [peer.store("k", chr(65 + n) * 900, context=NOTHING_SEEN, timeout_s=1) for n in range(20)]
        outcomes = await asyncio.gather(*stores, return_exceptions=True)
        acked = sum(isinstance(outcome, f.Acked) for outcome in outcomes)
        assert 3 <= acked <= 5
        assert {type(outcome) for outcome in outcomes} <= {f.Acked, PairTooLarge, WriteOutcomeUnknown}
        assert any(isinstance(outcome, PairTooLarge) for outcome in outcomes)
        await peer.rest()
        assert all(len(cluster.stored(node_id, "k")) <= 5_000 for node_id in cluster.ids)
        assert cluster.failures == []
        values, context = await peer.versions("k", r=3)  # what some refused and others took is brought together
        assert acked <= len(values)
        await peer.store("k", "merged", context=context, w=3)
        assert (await peer.versions("k", r=3))[0] == ["merged"]

    world.run(story())


def test_a_context_that_has_seen_what_was_never_written_is_refused_as_data(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        await peer.put("k", "1", w=3)
        ((actor, low, high),) = unpack_causality((await peer.versions("k"))[1]).seen
        future = pack_causality(Causality(0, ((actor, low, high + 1),)))
        with pytest.raises(StoreUnavailable, match="given before"):
            await peer.store("k", "2", context=future)
        assert (await peer.versions("k"))[0] == ["1"]

    world.run(story())


def test_where_all_are_overloaded_that_is_the_error(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykv.storage.engine.Engine.overloaded", property(lambda _: True))

    async def story() -> None:
        peer = world.Cluster(3, versioning="vector").start().coordinator()
        with pytest.raises(Overloaded, match="nothing was written"):
            await peer.put("k", "1", timeout_s=0.5)

    world.run(story())


def test_a_thousand_writes_by_ten_that_read_first_leave_no_more_siblings_than_writers(
    world: ModuleType,
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peers = [cluster.coordinator(f"c{number}") for number in range(3)]
        for number, peer in enumerate(peers[1:]):  # their dots come from other nodes than the first's
            peer.core.routing.peers.learn({}, dict.fromkeys(cluster.owners("k")[: number + 1], ""))
        rng = random.Random(3)
        most_siblings = 0

        async def client(name: int) -> None:
            nonlocal most_siblings
            for number in range(100):
                peer = rng.choice(peers)
                values, context = await peer.versions("k")
                most_siblings = max(most_siblings, len(values))
                await asyncio.sleep(rng.random() * 0.002)
                await peer.store("k", f"{name}.{number}", context=context)

        async with asyncio.TaskGroup() as group:
            for name in range(10):
                group.create_task(client(name))
        for peer in peers:
            await peer.rest()
        values, context = await peers[0].versions("k", r=3)
        actors = {actor for actor, _, _ in unpack_causality(context).seen}
        assert 1 < most_siblings <= 10
        assert 1 <= len(values) <= 10
        assert len(actors) == 3
        assert len(context) < 40 * len(actors)
        await peers[0].store("k", "merged", context=context)
        assert (await peers[0].versions("k", r=3))[0] == ["merged"]

    world.run(story())


# ---- faults at random ----


def test_random_faults_never_make_an_acknowledged_write_vanish_unless_somebody_saw_it(world: ModuleType) -> None:
    """Writes with and without contexts through two coordinators while nodes die, freeze and are cut off, one at a time.

    What was acknowledged, or read, stands until a write is acknowledged that was shown it: by the context that it gave
    back, or, without one, by having begun afterwards. From then on it is gone. What is unknown may do either.
    """

    async def one(seed: int) -> None:
        rng = random.Random(seed)
        cluster = world.Cluster(3, versioning="vector").start()
        peers = [cluster.coordinator("a"), cluster.coordinator("b", skew_ms=rng.choice([-50, -5000, 0, 300]))]
        keys = ["k0", "k1", "k2"]
        stands: dict[str, set[str]] = {key: set() for key in keys}
        may_stand: dict[str, set[str]] = {key: set() for key in keys}  # or never have been written, or have gone
        may_go: dict[str, set[str]] = {key: set() for key in keys}  # once a write surfaces that is unknown
        contexts: dict[str, tuple[set[str], bytes]] = {}
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
            key = rng.choice(keys)
            peer = rng.choice(peers)
            if rng.random() < 0.6:
                value = f"v{number}"
                shown, context = set(stands[key]), None
                if key in contexts and rng.random() < 0.5:
                    shown, context = contexts.pop(key)
                try:
                    await peer.store(key, value, context=context, timeout_s=1.0)
                except StoreUnavailable:
                    continue  # nothing was written
                except WriteOutcomeUnknown:
                    may_go[key] |= shown if context is not None else stands[key] | may_stand[key]
                    may_stand[key] |= {value} | (stands[key] & may_go[key])
                    stands[key] -= may_go[key]
                else:
                    stands[key] = stands[key] - shown | {value}
                    may_stand[key] -= shown
            else:
                values, context = await peer.versions(key, timeout_s=3.0)
                assert stands[key] <= set(values), (seed, number, key, values, stands[key])
                assert set(values) <= stands[key] | may_stand[key], (seed, number, key, values, stands, may_stand)
                stands[key] |= set(values) - may_go[key]
                contexts[key] = set(values), context
        for key in keys:
            assert stands[key] <= set((await peers[0].versions(key))[0])

    for seed in range(25):
        world.run(one(seed))


# ---- through the client ----


async def opened(world: ModuleType, cluster: Any, peer: str = "coordinator", **options: Any) -> Any:
    """A client's store, through frames."""
    session = Session("test", world.ClientLink(cluster, peer))
    return AsyncStore(session, await run_async(session.open_bucket("default", {}, 5.0, **options), session.link))


def test_contexts_go_to_the_client_and_back_and_fit_one_key_only(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator()
        store = await opened(world, cluster)
        await store.put("k", 1)
        values, context = await store.get_versions("k")
        assert values == [1]
        await store.put("k", 2, context=context)
        await store.put("k", 3, context=bytes(context))
        versions = await store.get_versions("k")
        assert versions.values == [3, 2]
        for wrong in (context, versions.context):
            with pytest.raises(InvalidContext):
                await store.put("other", 1, context=wrong)
        wrote = await store.put("k", 4, context=versions.context)
        deleted = await store.delete("k", context=wrote.context)
        assert (await store.get_versions("k")).values == []
        assert await store.get("k", "none") == "none"
        await store.put("k", 5, context=deleted.context)
        assert (await store.get_versions("k", r=3)).values == [5]

    world.run(story())


def test_a_resolver_merges_what_modify_writes_back_and_one_that_raises_loses_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator()
        plain = await opened(world, cluster)
        nothing = (await plain.get_versions("cart")).context
        await plain.put("cart", ["milk"], context=nothing)
        await plain.put("cart", ["bread"], context=nothing)

        def union(values: list[list[str]]) -> list[str]:
            return sorted({thing for value in values for thing in value})

        def fails(values: list[list[str]]) -> list[str]:
            raise KeyError(len(values))

        failing = await opened(world, cluster, resolver=fails)
        with pytest.raises(KeyError, match="2"):
            await failing.get("cart")
        with pytest.raises(KeyError, match="2"):
            await failing.modify("cart", lambda cart: cart)
        assert sorted((await failing.get_versions("cart")).values) == [["bread"], ["milk"]]
        with pytest.raises(SiblingsFound) as found:
            await plain.modify("cart", lambda cart: cart)
        assert found.value.key == "cart"
        assert sorted((await plain.get_versions("cart")).values) == [["bread"], ["milk"]]
        merging = await opened(world, cluster, resolver=union)
        assert await merging.get("cart") == ["bread", "milk"]
        await merging.modify("cart", lambda cart: [*cart, "tea"])
        for store in (plain, failing, merging):
            assert (await store.get_versions("cart")).values == [["bread", "milk", "tea"]]
            assert await store.get("cart") == ["bread", "milk", "tea"]

    world.run(story())


def test_counting_up_by_many_at_once_keeps_every_count_until_it_is_merged(world: ModuleType) -> None:
    """``modify`` is no compare-and-set: of those at the same time all stand, and the next one sees them all."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        cluster.coordinator()
        stores = [await opened(world, cluster, resolver=lambda sets: set().union(*sets)) for _ in range(8)]
        await asyncio.gather(
            *(store.modify("seen", lambda seen, n=n: seen | {n}, frozenset()) for n, store in enumerate(stores))
        )
        assert set(await stores[0].get("seen")) == set(range(8))
        await stores[3].modify("seen", lambda seen: seen | {99})
        versions = await stores[5].get_versions("seen", r=3)
        assert versions.values == [{*range(8), 99}]

    world.run(story())
