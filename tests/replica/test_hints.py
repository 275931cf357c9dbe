"""The hints that a node keeps for others (P11): their bounds, the merging of those of one key, and their end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.config import NodeConfig
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp
from raykv.replica import hints
from raykv.replica.hints import HintsFull, HintStore
from raykv.sim.disk import SimDisk
from raykv.storage import Engine
from raykv.versions import merge, merge_bounded, merging
from raykv.versions.dvvset import event

if TYPE_CHECKING:
    from types import ModuleType

CONFIG = NodeConfig(memtable_bytes=4096, block_cache_bytes=0)
A, B = encode_key("a"), encode_key("b")


def opened(disk: SimDisk | None = None) -> Engine:
    disk = disk or SimDisk()
    disk.make_directories("/d")
    return Engine.open(disk, "/d", CONFIG, merge_bounded)


def sync(engine: Engine) -> None:
    job = engine.next_sync()
    if job is not None:
        job.run(True)
        engine.finish_sync(job)


def counted_anew(store: HintStore) -> tuple[dict[str, int], int]:
    waiting = {target: list(store.waiting(target)) for target in store.counts}
    total = sum(hint.size_bytes for hints in waiting.values() for hint in hints)
    return {target: len(hints) for target, hints in waiting.items()}, total


def test_what_is_kept_waits_until_it_is_forgotten(world: ModuleType) -> None:
    engine = opened()
    store = HintStore(engine, 1 << 20)
    assert (store.counts, store.bytes) == ({}, 0)
    newer, position = store.keep("n1", 1, A, b"", 5, counted=False)
    assert newer == 0
    assert position == engine.appended_position > 0, "it must not be acknowledged before it is durable"
    record = world.put_record("v")
    store.keep("n2", 7, B, record, 6, counted=True)
    assert store.counts == {"n1": 1, "n2": 1}
    (one,) = store.waiting("n1")
    (two,) = store.waiting("n2")
    assert one[1:7] == ("n1", 1, A, 5, False, b"")
    assert two[1:7] == ("n2", 7, B, 6, True, record)
    assert store.bytes == one.size_bytes + two.size_bytes
    store.forget(one)
    assert store.counts == {"n2": 1}
    assert store.bytes == two.size_bytes
    store.forget(one)
    assert store.counts == {"n2": 1}, "twice is once"
    store.forget(two)
    assert (store.counts, store.bytes) == ({}, 0)
    assert list(store.waiting("n1")) == list(store.waiting("n2")) == []


@pytest.mark.parametrize("flushed", [False, True])
def test_hints_and_their_count_are_there_after_a_restart(world: ModuleType, flushed: bool) -> None:
    disk = SimDisk()
    engine = opened(disk)
    store = HintStore(engine, 1 << 20)
    for number in range(20):
        store.keep(f"n{number % 3}", 1, encode_key(f"k{number}"), world.put_record("v" * number), 5, counted=True)
    (gone, *_) = store.waiting("n1")
    store.forget(gone)
    sync(engine)
    if flushed:
        engine._seal()
        sync(engine)
        while (job := engine.next_job()) is not None:
            job.run()
            engine.finish(job)
    again = HintStore(opened(disk.crash(random.Random(1), "drop")), 1 << 20)
    assert again.counts == store.counts == {"n0": 7, "n1": 6, "n2": 6}
    assert again.bytes == store.bytes
    assert [hint for n in again.counts for hint in again.waiting(n)] == [
        hint for n in store.counts for hint in store.waiting(n)
    ]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "forget", "reopen"]), st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)
        ),
        max_size=30,
    )
)
def test_the_count_is_right_whatever_happens(steps: list[tuple[str, int, int, int]]) -> None:
    engine = opened()
    store = HintStore(engine, 400)
    full = 0
    for what, node, key, time in steps:
        target = ["n1", "n10", "é"][node]
        if what == "keep":
            record = stamp(pack_body(bytes([time]) * 16, b"v" * time * 10), time) if time % 3 else b""
            try:
                store.keep(target, 1, encode_key(f"k{key}"), record, time, counted=bool(time % 2))
            except HintsFull:
                full += 1
        elif what == "forget":
            for hint in list(store.waiting(target))[:1]:
                store.forget(hint)
        else:
            store = HintStore(engine, 400)
        assert counted_anew(store) == (store.counts, store.bytes)
        assert store.bytes <= 400
        assert all(store.counts.values())


def test_two_writes_of_a_key_are_one_hint_and_the_newer_is_kept(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    old, new = world.put_record("old", 1), world.put_record("new", 9)
    assert store.keep("n1", 1, A, old, 5, counted=False)[0] == 0
    assert store.keep("n1", 1, A, new, 6, counted=False)[0] == 0
    assert store.keep("n1", 1, A, new, 6, counted=False)[0] == 0, "the same once more"
    assert store.keep("n1", 1, A, old, 6, counted=True)[0] == world.time_from_ms(world.WALL_MS + 9), "reported as newer"
    (hint,) = store.waiting("n1")
    assert (hint.record, hint.made_ms, hint.counted) == (new, 6, True)
    assert counted_anew(store) == (store.counts, store.bytes)


@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_what_replaces_a_record_is_as_young_as_it_is_and_what_joins_it_is_not(
    world: ModuleType, versioning: str
) -> None:
    def record(value: str, seen: bytes | None = None) -> bytes:
        if versioning == "lww":
            return bytes(world.put_record(value, len(value)))
        body = pack_body(value[0].encode() * 16, value.encode())
        return vector.encode(event((value[0].encode() * 8, 1), vector.decode(seen).seen if seen else (), 1, body))

    store = HintStore(opened(), 1 << 20)

    def kept(record: bytes, made_ms: int) -> tuple[bytes, int]:
        store.keep("n1", 1, A, record, made_ms, counted=True)
        (hint,) = store.waiting("n1")
        return hint.record, hint.made_ms

    first = record("a")
    second = record("bb", first)
    assert kept(first, 5) == (first, 5)
    assert kept(first, 8) == (first, 5), "the same write once more"
    assert kept(second, 7) == (second, 7), "nothing of the first is left"
    assert kept(first, 4) == (second, 7), "nor does it come back"
    assert kept(b"", 9) == (second, 7)
    if versioning == "vector":
        beside = record("c")
        assert kept(beside, 9) == (merge(second, beside), 7)
        assert kept(record("d"), 6)[1] == 6


def test_a_key_that_is_missed_again_is_missed_since_then(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    for made_ms, since_ms in ((5, 5), (9, 9), (7, 9)):
        store.keep("n1", 1, A, b"", made_ms, counted=False)
        (hint,) = store.waiting("n1")
        assert hint.made_ms == since_ms


def test_versions_of_a_vector_key_stand_side_by_side_in_its_hint(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    one, two = world.vector_record(1, "one"), world.vector_record(2, "two")
    assert store.keep("n1", 1, A, one, 5, counted=True)[0] == 0
    assert store.keep("n1", 1, A, two, 5, counted=True)[0] == 0
    (hint,) = store.waiting("n1")
    assert hint.record == merge(one, two)
    assert len(vector.decode(hint.record).siblings) == 2


def test_a_record_and_what_the_node_holds_itself_are_one_hint_too(world: ModuleType) -> None:
    record = world.put_record("v")
    for first, second in ((b"", record), (record, b"")):
        store = HintStore(opened(), 1 << 20)
        assert store.keep("n1", 1, A, first, 5, counted=bool(first))[0] == 0
        assert store.keep("n1", 1, A, second, 4, counted=bool(second))[0] == 0
        (hint,) = store.waiting("n1")
        assert (hint.record, hint.counted, hint.made_ms) == (record, True, 4)


def test_when_it_is_full_nothing_more_is_kept_and_nothing_is_miscounted(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    store.keep("n1", 1, A, world.put_record("v", 1), 5, counted=False)
    tight = HintStore(store._engine, store.bytes + 1)
    with pytest.raises(HintsFull):
        tight.keep("n2", 1, A, world.put_record("v"), 5, counted=False)
    with pytest.raises(HintsFull):
        tight.keep("n1", 1, A, world.put_record("longer", 2), 5, counted=False)
    assert counted_anew(tight) == (tight.counts, tight.bytes) == ({"n1": 1}, store.bytes)
    tight.keep("n1", 1, A, world.put_record("w", 2), 5, counted=False)
    tight.keep("n1", 1, A, world.put_record("xx", 3), 5, counted=False)
    assert counted_anew(tight) == (tight.counts, tight.bytes) == ({"n1": 1}, store.bytes + 1), "up to the last byte"


def test_of_a_key_all_is_shown_that_is_kept_for_anybody(world: ModuleType) -> None:
    engine = opened()
    store = HintStore(engine, 1 << 20)
    assert store.of(1, A) == (None, 0)
    one, two = world.vector_record(1, "one"), world.vector_record(2, "two")
    store.keep("n1", 1, A, one, 5, counted=True)
    _, position = store.keep("n2", 1, A, two, 5, counted=True)
    store.keep("n2", 1, B, world.vector_record(3, "other key"), 5, counted=True)
    store.keep("n2", 2, A, world.vector_record(4, "other bucket"), 5, counted=True)
    assert store.of(1, A) == (merge(one, two), position)
    sync(engine)
    assert store.of(1, A)[1] <= engine.durable_position
    assert store.of(3, A) == (None, 0)
    _, position = store.keep("n3", 3, A, b"", 5, counted=False)
    assert store.of(3, A) == (None, position), "of what the node holds itself it has nothing to add"


def test_a_read_of_what_is_kept_for_two_is_answered_whatever_its_size(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", sloppy=True).start()
        monkeypatch.setattr(merging, "MAX_STORED_BYTES", 1000)
        for writer, target in ((1, "n2"), (2, "n3")):
            hint = f.Hint(1, [(A, world.vector_record(writer, "x" * 900), [target])], world.WALL_MS, counted=True)
            assert await cluster.ask("n1", hint) == f.WriteDone([0])
        assert isinstance(await cluster.ask("n1", f.Read(1, [A], hints=True)), f.ReadDone)

    world.run(story())


def test_waiting_is_in_key_order_and_goes_on_behind_a_place(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    names = ["n1", "n10", "n2", "m", "n1\x7f", "é"]
    for target in names:
        for bucket_id in (2, 1):
            for key in (B, A):
                store.keep(target, bucket_id, key, b"", 5, counted=False)
    for target in names:
        hints = list(store.waiting(target))
        assert [(hint.target, hint.bucket_id, hint.key) for hint in hints] == [
            (target, 1, A),
            (target, 1, B),
            (target, 2, A),
            (target, 2, B),
        ]
        for at, hint in enumerate(hints):
            assert list(store.waiting(target, hint.place)) == hints[at + 1 :]
    assert list(store.waiting("n")) == []


def test_hints_may_go_and_come_while_they_are_walked_through(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    for number in range(50):
        store.keep("n1", 1, encode_key(f"k{number:02}"), b"", 5, counted=False)
    seen = []
    for hint in store.waiting("n1"):
        seen.append(hint.key)
        store.forget(hint)
    assert len(seen) == 50
    assert store.counts == {}


def test_a_hint_that_has_changed_meanwhile_is_not_forgotten(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    store.keep("n1", 1, A, world.put_record("old", 1), 5, counted=False)
    (before,) = store.waiting("n1")
    store.keep("n1", 1, A, world.put_record("new", 2), 5, counted=False)
    store.forget(before)
    (after,) = store.waiting("n1")
    assert after.record == world.put_record("new", 2)
    assert counted_anew(store) == (store.counts, store.bytes)
    store.forget(after)
    assert store.counts == {}


@pytest.mark.parametrize("target", ["", "x" * 256, "é" * 128])
def test_a_hint_for_no_possible_node_is_refused(target: str) -> None:
    store = HintStore(opened(), 1 << 20)
    with pytest.raises(CorruptData):
        store.keep(target, 1, A, b"", 5, counted=False)
    assert store.counts == {}
    store.keep("x" * 255, 1, A, b"", 5, counted=False)
    assert store.counts == {"x" * 255: 1}


def test_records_of_two_kinds_are_no_hint(world: ModuleType) -> None:
    store = HintStore(opened(), 1 << 20)
    store.keep("n1", 1, A, world.put_record("v"), 5, counted=False)
    before: Any = (dict(store.counts), store.bytes)
    with pytest.raises(CorruptData):
        store.keep("n1", 1, A, world.vector_record(1, "v"), 5, counted=False)
    assert (store.counts, store.bytes) == before == counted_anew(store)


def test_too_many_versions_leave_the_count_right(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MAX_STORED_BYTES", 1000)
    store = HintStore(opened(), 1 << 20)
    store.keep("n1", 1, A, world.vector_record(1, "x" * 900), 5, counted=True)
    with pytest.raises(merging.TooManyVersions):
        store.keep("n1", 1, A, world.vector_record(2, "x" * 900), 5, counted=True)
    assert counted_anew(store) == (store.counts, store.bytes)


# ---- the request ----


def test_a_hint_is_answered_item_by_item(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MAX_STORED_BYTES", 1000)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        store = cluster.node("n1")._hints

        async def hint(*items: tuple[bytes, bytes, list[str]]) -> list[int]:
            answer = await cluster.ask("n1", f.Hint(1, list(items), world.WALL_MS, counted=True))
            assert isinstance(answer, f.WriteDone), answer
            return answer.newer

        assert await hint((A, world.vector_record(1, "x" * 900), ["n2", "n3"]), (B, b"", ["n2"])) == [0, 0]
        assert cluster.node("n1").hints_waiting == {"n2": 2, "n3": 1}
        assert await hint((A, world.vector_record(2, "x" * 900), ["n3"]), (B, b"", ["n3"])) == [f.NO_ROOM, 0]
        store._max_bytes = store.bytes + 20
        assert await hint((encode_key("c"), b"", ["n2"]), (B, b"", ["n2"])) == [f.FULL, 0]
        assert await cluster.held("n1", "a") is None, "it is kept for others, and no record of the node's"

    world.run(story())


def test_an_invalid_hint_is_refused_entirely(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        far = world.put_record("v", 100_000)
        for item, reason in (
            ((A, b"garbage", ["n2"]), "corrupt"),
            ((b"", b"", ["n2"]), "corrupt"),
            ((b"\x02" + b"k" * 2000, b"", ["n2"]), "corrupt"),
            ((A, far, ["n2"]), "clock"),
        ):
            answer = await cluster.ask("n1", f.Hint(1, [(B, b"", ["n2"]), item], world.WALL_MS))
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == reason
        assert cluster.node("n1").hints_waiting == {}
        many = [f"n{number}" for number in range(50)]
        answer = await cluster.ask("n1", f.Hint(1, [(A, b"", many)], world.WALL_MS))
        assert isinstance(answer, f.NodeRefused), "more nodes than there can be copies"
        assert cluster.node("n1").hints_waiting == {}

    world.run(story())


def test_a_hint_is_answered_once_it_is_durable(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        await cluster.ask("n1", f.Hint(1, [(A, world.put_record("v"), ["n2"])], world.WALL_MS, counted=True))
        cluster.kill("n1", "drop")
        cluster.revive("n1")
        assert cluster.node("n1").hints_waiting == {"n2": 1}
        cluster.process("n1").executor.gate.clear()
        tasks = [
            world.asyncio.create_task(cluster.ask("n1", body))
            for body in (
                f.Hint(1, [(B, world.put_record("v"), ["n2"])], world.WALL_MS, counted=True),
                f.Read(1, [B], hints=True),
            )
        ]
        await world.asyncio.sleep(1)
        assert not any(task.done() for task in tasks), "nor may it be read before that"
        cluster.process("n1").executor.gate.set()
        _, read = await world.asyncio.gather(*tasks)
        assert read.records == [world.put_record("v")]

    world.run(story())


@pytest.mark.parametrize("place", [b"", b"\x05", b"\x02\xff\xff\x00\x00\x00\x01k", b"\x02n1\x00\x00\x00\x01k"])
def test_what_is_no_hint_is_corrupt(place: bytes) -> None:
    deep = b"\x91" * 100_000 + b"\x01"
    for stored in (b"", b"\x03", b"\x03\x93\x00\xc2\xa1\xff", b"\x03" + deep, b"\x03\x94\x00\xc2\xc4\x00" + deep):
        with pytest.raises(CorruptData):
            hints.hint_of(hints.HINTS + place, stored)
