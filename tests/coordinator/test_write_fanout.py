"""The holders of hints for a primary that missed a write, and the fallbacks of a sloppy bucket (P11)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.coordinator.rounds import WriteRound
from raykv.errors import RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.versions.causality import unpack_causality

if TYPE_CHECKING:
    from types import ModuleType

ABC, DE = ["a", "b", "c"], ["d", "e"]
GONE = ["dead", "silent", "refuses"]


def let_go(cluster: Any, node_id: str, how: str) -> None:
    if how == "dead":
        cluster.kill(node_id)
    elif how == "silent":
        cluster.freeze(node_id)
    else:
        cluster.node(node_id)._stopped = "for a test"


def hints(cluster: Any, target: str) -> list[tuple[str, Any]]:
    """(holder, hint) of all hints for a node."""
    running = [node_id for node_id in cluster.ids if cluster.runs(node_id)]
    return [(holder, hint) for holder in running for hint in cluster.node(holder)._hints.waiting(target)]


def part(cluster: Any, *sides: tuple[str, ...]) -> None:
    """Cut all ways between the sides; coordinators are named, nodes too."""

    def address(name: str) -> str:
        return f"node/{name}" if name in cluster.ids else name

    for one in sides:
        for other in sides:
            if one is not other:
                cluster.network.cuts |= {(address(a), address(b)): 1 for a in one for b in other}


# ---- an owner that missed a write gets a hint ----


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_a_primary_that_missed_a_write_earns_one_hint_at_a_node_that_holds_it(
    world: ModuleType, how: str, versioning: str
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        let_go(cluster, "n2", how)
        keys = [f"k{number}" for number in range(12)]
        for key in keys:
            await peer.put(key, "v")
        wrote = await peer.write([(f"b{number}", world.put_record("v")[9:]) for number in range(12)])
        assert all(isinstance(nodes, list) for nodes in wrote)
        await peer.rest()
        kept = hints(cluster, "n2")
        assert sorted(hint.key for _, hint in kept) == sorted(
            encode_key(key) for key in (*keys, *(f"b{number}" for number in range(12)))
        ), "exactly one each"
        for holder, hint in kept:
            assert hint.record == b"", "the holder has it itself"
            assert not hint.counted
            assert cluster.stored(holder, hint.key[1:].decode()) is not None
        assert hints(cluster, "n1") == hints(cluster, "n3") == []
        assert peer.metrics["hints"] == 24
        assert peer.metrics["fallbacks_in_use"] == 0

    world.run(story())


def test_two_primaries_that_missed_a_write_earn_one_hint_each(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n1")
        cluster.freeze("n3")
        assert await peer.put("a", "v", w=1) == ["n2"]
        await peer.rest()
        assert [(target, len(hints(cluster, target))) for target in cluster.ids] == [("n1", 1), ("n2", 0), ("n3", 1)]

    world.run(story())


def test_where_all_acknowledged_nobody_earns_a_hint(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.network.delays["*", "node/n3"] = 0.8
        assert "n3" not in await peer.put("a", "v"), "it is late, but it comes"
        await peer.put("b", "v", w=3)
        await peer.rest()
        assert sum(len(hints(cluster, target)) for target in cluster.ids) == 0
        assert peer.metrics["hints"] == 0

    world.run(story())


def test_an_acknowledgement_that_never_comes_is_as_good_as_none(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.cut("node/n3", "coordinator")
        await peer.put("a", "v")
        await peer.rest()
        assert await cluster.held("n3", "a") is not None
        assert len(hints(cluster, "n3")) == 1, "nobody knows"

    world.run(story())


@pytest.mark.parametrize("how", GONE)
def test_where_nothing_was_written_no_hint_is_left(world: ModuleType, how: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:
            let_go(cluster, node_id, how)
        with pytest.raises(RaykvError):
            await peer.put("a", "v", timeout_s=1.0)
        await peer.rest()
        asked = [f.node_requests.decode(frame).body for *_, frame in cluster.frames]
        assert not any(isinstance(body, f.Hint) for body in asked)

    world.run(story())


def test_a_write_that_missed_its_quorum_leaves_hints_too(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n2")
        cluster.kill("n3")
        with pytest.raises(WriteOutcomeUnknown):
            await peer.put("a", "v", timeout_s=0.5)
        await peer.rest()
        assert [(holder, hint.target) for target in ("n2", "n3") for holder, hint in hints(cluster, target)] == [
            ("n1", "n2"),
            ("n1", "n3"),
        ]

    world.run(story())


def test_a_node_that_holds_something_newer_has_missed_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await cluster.give("n3", "a", world.put_record("newer", 5000))
        cluster.network.delays["*", "node/n3"] = 0.05  # W is met before it says so
        assert sorted(await peer.put("a", "v")) == ["n1", "n2"]
        await peer.rest()
        assert sum(len(hints(cluster, target)) for target in cluster.ids) == 0

    world.run(story())


def test_if_the_holder_does_not_answer_the_next_gets_the_hint(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.freeze("n3")
        first, second = await peer.put("a", "v")
        await asyncio.sleep(0.5)
        cluster.kill(first)
        await peer.rest()
        assert [holder for holder, _ in hints(cluster, "n3")] == [second]

    world.run(story())


def test_a_read_repair_leaves_no_hints(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await cluster.give("n1", "a", world.put_record("v"))
        cluster.kill("n3")
        assert await peer.get("a") == "v"
        await peer.rest()
        assert sum(len(hints(cluster, target)) for target in cluster.ids) == 0

    world.run(story())


# ---- who stands in: tables ----


def sloppy_round(w: int = 2) -> WriteRound:
    round_ = WriteRound([[ABC]], w, fallbacks=[DE])
    round_.start()
    return round_


def test_nobody_stands_in_for_a_primary_that_has_not_failed() -> None:
    round_ = sloppy_round()
    assert round_.fallbacks_in_use(silent=False) == {}
    round_.answered("a", [(0, 0)], [0])
    assert round_.fallbacks_in_use(silent=False) == {}
    assert round_.fallbacks_in_use(silent=True) == {"d": [(0, "b")], "e": [(0, "c")]}
    assert round_.fallbacks_in_use(silent=True) == {}, "each is stood in for once"


def test_one_stands_in_for_each_primary_that_failed_as_long_as_there_are_some() -> None:
    round_ = sloppy_round(3)
    for node_id in ABC:
        round_.failed(node_id, [(0, 0)], "refused")
    assert round_.fallbacks_in_use(silent=False) == {"d": [(0, "a")], "e": [(0, "b")]}
    assert round_.fallbacks_in_use(silent=False) == {}
    round_.answered("d", [(0, 0)], [0])
    round_.answered("e", [(0, 0)], [0])
    assert round_.open
    assert round_.missed(0) == (["d", "e"], ["c"])


@pytest.mark.parametrize("how", ["failed", f.FULL, f.NO_ROOM])
def test_where_a_fallback_cannot_another_one_may(how: Any) -> None:
    round_ = sloppy_round()
    round_.answered("a", [(0, 0)], [0])
    round_.failed("b", [(0, 0)], None)
    assert round_.fallbacks_in_use(silent=False) == {"d": [(0, "b")]}
    if how == "failed":
        round_.failed("d", [(0, 0)], None)
    else:
        round_.answered("d", [(0, 0)], [how])
    assert round_.fallbacks_in_use(silent=False) == {"e": [(0, "b")]}
    assert round_.more() == {"b": [0]}, "the primary is tried again, the fallback is not"
    assert round_.missed(0) == (["a"], ["b", "c"])
    round_.answered("e", [(0, 0)], [0])
    assert not round_.open
    assert round_.missed(0) == (["a", "e"], ["c"])


def test_w_counts_no_node_twice() -> None:
    round_ = sloppy_round(3)
    round_.answered("a", [(0, 0)], [0])
    round_.failed("b", [(0, 0)], None)
    assert round_.fallbacks_in_use(silent=False) == {"d": [(0, "b")]}
    for _ in range(3):
        round_.answered("d", [(0, 0)], [0])
        round_.answered("a", [(0, 0)], [0])
    assert round_.open
    assert round_.acks(0) == ["a", "d"]
    round_.answered("c", [(0, 0)], [0])
    assert round_.settled(0)


def test_a_fallbacks_newer_record_has_the_write_stamped_again_and_it_may_stand_in_anew() -> None:
    round_ = sloppy_round()
    round_.answered("a", [(0, 0)], [0])
    round_.failed("b", [(0, 0)], "refused")
    round_.fallbacks_in_use(silent=False)
    assert round_.to_restamp() == {}
    round_.answered("d", [(0, 0)], [77])
    assert round_.to_restamp() == {0: 77}
    round_.restamped(0)
    assert round_.start([0]) == {"a": [0], "b": [0], "c": [0]}
    round_.answered("d", [(0, 0)], [0])
    assert round_.acks(0) == [], "what answers the former stamp does not count"
    round_.failed("b", [(0, 1)], "refused")
    assert round_.fallbacks_in_use(silent=False) == {"d": [(0, "b")]}


def test_a_write_that_was_given_up_is_missed_by_nobody() -> None:
    round_ = sloppy_round()
    round_.answered("a", [(0, 0)], [0])
    round_.give_up(0)
    assert round_.missed(0) == (["a"], [])
    assert round_.fallbacks_in_use(silent=True) == {}


def test_in_a_strict_bucket_nobody_stands_in() -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    round_.failed("b", [(0, 0)], None)
    assert round_.fallbacks_in_use(silent=True) == {}


# ---- sloppy buckets ----


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_two_stand_in_for_two_and_the_primaries_get_it_when_they_are_back(
    world: ModuleType, how: str, versioning: str
) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, versioning=versioning, sloppy=True, maintenance=True).start()
        peer = cluster.coordinator()
        away = cluster.owners("a")[:2]
        for node_id in away:
            let_go(cluster, node_id, how)
        began_s = asyncio.get_running_loop().time()
        acks = await peer.put("a", "v", w=2)
        assert asyncio.get_running_loop().time() - began_s < 1.5
        assert len(set(acks)) == len(acks) >= 2
        assert not {*acks} & {*away}
        assert await peer.get("a", r=2) == "v"
        await peer.rest()
        for node_id in away:
            if how == "dead":
                cluster.revive(node_id)
            elif how == "silent":
                cluster.thaw(cluster.process(node_id))
            else:
                cluster.node(node_id)._stopped = None
        await asyncio.sleep(20)
        assert all(hints(cluster, node_id) == [] for node_id in cluster.ids)
        copies = {await cluster.held(node_id, "a") for node_id in cluster.owners("a")}
        assert len(copies) == 1
        assert None not in copies
        for node_id in {*cluster.ids} - {*cluster.owners("a")}:
            assert cluster.stored(node_id, "a") is None, "what was kept for others is gone with the hint"

    world.run(story())


def test_in_a_cut_a_sloppy_bucket_takes_what_a_strict_one_refuses(world: ModuleType) -> None:
    async def story(*, sloppy: bool) -> None:
        cluster = world.Cluster(5, sloppy=sloppy, maintenance=True).start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("a")
        here = tuple(node_id for node_id in cluster.ids if node_id not in {first, second})
        part(cluster, ("coordinator", *here), (first, second))
        if not sloppy:
            with pytest.raises(WriteOutcomeUnknown) as caught:
                await peer.put("a", "v", w=2, timeout_s=2.0)
            assert list(caught.value.acks) == [third]
            return
        acks = await peer.put("a", "v", w=2, timeout_s=2.0)
        assert third in acks
        assert await peer.get("a", r=2, timeout_s=2.0) == "v"
        await peer.rest()
        kept = [(holder, hint) for target in (first, second) for holder, hint in hints(cluster, target)]
        assert {holder for holder, _ in kept} == {*here} - {third}
        assert all(hint.counted and hint.record for _, hint in kept)
        cluster.mend()
        await asyncio.sleep(20)
        assert await cluster.held(first, "a") == await cluster.held(second, "a") == await cluster.held(third, "a")
        assert all(hints(cluster, node_id) == [] for node_id in cluster.ids)

    world.run(story(sloppy=True))
    world.run(story(sloppy=False))


def test_each_primary_that_missed_it_is_accounted_for_once(world: ModuleType) -> None:
    """One owner has a fallback, one has a hint at the holder: there are no more fallbacks."""

    async def story() -> None:
        cluster = world.Cluster(4, sloppy=True).start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("a")
        (fallback,) = {*cluster.ids} - {first, second, third}
        cluster.kill(second)
        cluster.kill(third)
        assert sorted(await peer.put("a", "v", w=2)) == sorted([first, fallback])
        await peer.rest()
        kept = [
            (holder, hint.target, hint.record != b"") for n in (second, third) for holder, hint in hints(cluster, n)
        ]
        assert sorted(holder for holder, _, _ in kept) == sorted([first, fallback])
        assert {target for _, target, _ in kept} == {second, third}
        assert {(holder, record) for holder, _, record in kept} == {(first, False), (fallback, True)}

    world.run(story())


def test_where_fallbacks_alone_hold_it_they_are_given_the_record_for_the_rest(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, sloppy=True).start()
        peer = cluster.coordinator()
        for node_id in cluster.owners("a"):
            cluster.kill(node_id)
        assert len(await peer.put("a", "v", w=2)) == 2
        await peer.rest()
        kept = [hint for node_id in cluster.owners("a") for _, hint in hints(cluster, node_id)]
        assert len(kept) == 3
        assert {hint.target for hint in kept} == {*cluster.owners("a")}
        assert all(hint.record for hint in kept)

    world.run(story())


def test_w_larger_than_the_reachable_nodes_is_not_met_by_one_fallback_twice(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, sloppy=True).start()
        peer = cluster.coordinator()
        _, second, third = cluster.owners("a")
        cluster.kill(second)
        cluster.kill(third)
        with pytest.raises(WriteOutcomeUnknown) as caught:
            await peer.put("a", "v", w=3, timeout_s=1.0)
        assert len(caught.value.acks) == 2

    world.run(story())


def test_a_fallback_that_keeps_something_newer_has_the_write_stamped_above_it(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, sloppy=True).start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("a")
        (fallback,) = {*cluster.ids} - {first, second, third}
        cluster.kill(second)
        cluster.kill(third)
        newer = world.put_record("from a clock ahead", 30_000)
        hint = f.Hint(1, [(encode_key("a"), newer, [second, third])], world.WALL_MS, counted=True)
        assert await cluster.ask(fallback, hint) == f.WriteDone([0])
        acked = await peer.store("a", "v", w=2)
        assert unpack_causality(acked.causality).time > world.time_from_ms(world.WALL_MS + 30_000)
        assert peer.metrics["restamps"] == 1
        assert await peer.get("a", r=2) == "v", "an acknowledged write is not shadowed (P7)"

    world.run(story())


def test_what_both_sides_of_a_cut_acknowledged_stands_side_by_side_afterwards(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, versioning="vector", sloppy=True, maintenance=True).start()
        one, other = cluster.coordinator("one"), cluster.coordinator("other")
        keys = [f"k{number}" for number in range(8)]
        for key in keys:
            await one.put(key, "before", w=3)
        await one.rest()
        here, there = ("n1", "n2"), ("n3", "n4", "n5")
        part(cluster, ("one", *here), ("other", *there))
        for key in keys:
            await one.put(key, f"{key} here", w=2)
            await other.put(key, f"{key} there", w=2)
            assert await one.versions(key, r=2) == ([f"{key} here"], (await one.versions(key, r=2))[1])
            assert (await other.versions(key, r=2))[0] == [f"{key} there"]
        cluster.mend()
        await asyncio.sleep(30)
        assert all(hints(cluster, node_id) == [] for node_id in cluster.ids)
        for key in keys:
            copies = {await cluster.held(node_id, key) for node_id in cluster.owners(key)}
            assert len(copies) == 1
            for peer in (one, other):
                assert sorted((await peer.versions(key, r=2))[0]) == [f"{key} here", f"{key} there"]
        assert cluster.failures == []

    world.run(story())


def test_nobody_stands_in_for_a_primary_that_is_only_a_little_late(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, sloppy=True).start()
        peer = cluster.coordinator()
        for node_id in cluster.owners("a")[:2]:
            cluster.network.delays["*", f"node/{node_id}"] = 0.1
        await peer.put("a", "v", w=2)
        assert peer.metrics["fallbacks_in_use"] == 0
        for node_id in cluster.owners("a")[:2]:
            cluster.network.delays["*", f"node/{node_id}"] = 0.9
        assert not {*await peer.put("a", "w", w=2)} & {*cluster.owners("a")[:2]}
        assert peer.metrics["fallbacks_in_use"] == 2

    world.run(story())


def test_when_all_are_away_nothing_was_written(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, sloppy=True).start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:
            cluster.kill(node_id)
        with pytest.raises(StoreUnavailable):
            await peer.put("a", "v", w=2, timeout_s=1.0)

    world.run(story())


# ---- bugs ----


def test_a_fallback_that_gets_a_hint_in_the_primarys_place_gets_the_record(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, sloppy=True).start()
        peer = cluster.coordinator()
        first, second, third = cluster.owners("a")
        (fallback,) = {*cluster.ids} - {first, second, third}
        cluster.freeze(second)
        cluster.freeze(third)
        assert sorted(await peer.put("a", "v", w=2)) == sorted([first, fallback])
        cluster.kill(first)
        await peer.rest()
        kept = [hint for node_id in (second, third) for _, hint in hints(cluster, node_id)]
        assert [hint.target for hint in kept] == [second, third]
        assert all(hint.record for hint in kept)

    world.run(story())


def test_if_the_holder_has_no_room_for_hints_the_next_gets_them(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n3")
        first, second = await peer.put("a", "v")
        cluster.node(first)._hints._max_bytes = 0
        await peer.rest()
        assert [holder for holder, _ in hints(cluster, "n3")] == [second]

    world.run(story())
