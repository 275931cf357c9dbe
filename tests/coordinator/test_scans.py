"""Scans: every key exactly once and in order, whatever the pages, the replicas and the faults (P15)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykv.client.administration import open_bucket
from raykv.client.codecs import encode_value
from raykv.client.driver import run_async
from raykv.client.session_clock import SessionClock
from raykv.config import BucketConfig
from raykv.errors import InvalidOption, QuorumNotMet
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body
from raykv.replica import handlers, scanning
from raykv.ring import partition_of_key

if TYPE_CHECKING:
    from types import ModuleType

KEYS = [f"k{number:03}" for number in range(120)]


async def fill(peer: Any, keys: list[str] = KEYS, **options: Any) -> list[tuple[str, str]]:
    results = await peer.write([(key, pack_body(peer.operation(), key.encode())) for key in keys], **options)
    assert all(isinstance(result, list) for result in results)
    return [(key, key) for key in keys]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    node_limit=st.integers(1, 40),
    r=st.integers(1, 3),
    reverse=st.booleans(),
    nodes=st.integers(3, 6),
    missing=st.sampled_from([None, "n1", "n3"]),
    keys_only=st.booleans(),
    shuffle=st.integers(0, 3),
    passing=st.booleans(),
)
def test_each_key_comes_once_and_in_order(
    world: ModuleType,
    limits: list[int],
    node_limit: int,
    r: int,
    reverse: bool,
    nodes: int,
    missing: str | None,
    keys_only: bool,
    shuffle: int,
    passing: bool,
) -> None:
    """Random page sizes, nodes that answer less far than others, replicas that missed some writes, a dead node."""

    async def story() -> None:
        cluster = world.Cluster(nodes).start()
        peer = cluster.coordinator()
        expected = await fill(peer, random.Random(shuffle).sample(KEYS, 80), w=3)
        for number in range(30):  # on one replica only, not acknowledged: a scan may see it
            key = f"m{number:03}"
            await cluster.give(cluster.owners(key)[number % 3], key, world.put_record(key))
            await cluster.give(cluster.owners(key)[number % 3], "l" + key, world.delete_record())
            await peer.delete(KEYS[number * 4] + "-", w=2)
        rounds = range(2)
        if missing is not None:
            cluster.kill(missing)
        if missing is not None and r == 3:
            return
        for _ in rounds:
            found = await peer.scan(limits=limits, r=r, reverse=reverse, keys_only=keys_only, passing=passing)
            keys = [key for key, _ in found]
            assert keys == sorted(set(keys), reverse=reverse)
            assert [key for key in keys if key.startswith("k")] == sorted((key for key, _ in expected), reverse=reverse)
            assert all(value == ("" if keys_only else key) for key, value in found)
            assert r < 3 or len(keys) == 110, "who asks all sees what is on any"

    most = scanning.MAX_SCAN_ITEMS
    scanning.MAX_SCAN_ITEMS = node_limit
    try:
        world.run(story())
    finally:
        scanning.MAX_SCAN_ITEMS = most


def test_a_page_reaches_as_far_as_the_least_of_its_nodes(world: ModuleType) -> None:
    """One node holds many more records and so answers less far; what others have beyond that waits for the next page."""

    async def story() -> None:
        cluster = world.Cluster(6, copies=1).start()
        peer = cluster.coordinator()
        by_owner: dict[str, list[str]] = {}
        for key in (f"k{number:04}" for number in range(2000)):
            by_owner.setdefault(cluster.owners(key)[0], []).append(key)
        busy = max(by_owner, key=lambda node_id: len(by_owner[node_id]))
        quiet = next(node_id for node_id in by_owner if node_id != busy)
        held = sorted(by_owner[busy][:30] + by_owner[quiet][:1] + by_owner[quiet][-1:])
        await fill(peer, held, w=1)
        page = await peer.page(limit=10, r=1)
        keys = [key[1:].decode() for key, *_ in page.items]
        assert keys == held[:10]
        assert page.resume == encode_key(held[9]) + b"\x00"
        assert [key for key, _ in await peer.scan(limits=[10], r=1)] == held

    world.run(story())


def test_bounds_limit_and_direction(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await fill(peer, w=3)
        a, b = encode_key("k010"), encode_key("k020")

        async def keys(**options: Any) -> list[str]:
            return [key[1:].decode() for key, *_ in (await peer.page(a, b, **options)).items]

        assert await keys() == KEYS[10:20]
        assert await keys(reverse=True) == KEYS[10:20][::-1]
        assert await keys(limit=3) == KEYS[10:13]
        assert await keys(limit=3, reverse=True) == KEYS[19:16:-1]
        assert await keys(limit=0) == KEYS[10:11], "at least one"
        page = await peer.page(a, b, limit=3, reverse=True)
        assert page.resume == encode_key("k017")
        assert (await peer.page(a, b, limit=10)).resume is None, "exactly all of it: no page follows"
        assert (await peer.page(b, a)).items == []
        assert (await peer.page(encode_key("x"), encode_key("y"))).items == []

    world.run(story())


def test_bytes_keys_come_before_str_keys(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        for key in ("z", b"\xff\xff", "a", b"\x00", "é"):
            for node_id in cluster.ids:
                body = world.f.Write(1, [(encode_key(key), world.put_record("v"))])
                await cluster.ask(node_id, body)
        page = await peer.page()
        assert [key for key, *_ in page.items] == [b"\x01\x00", b"\x01\xff\xff", b"\x02a", b"\x02z", b"\x02\xc3\xa9"]

    world.run(story())


@pytest.mark.parametrize("keys_only", [False, True])
def test_what_is_deleted_or_expired_does_not_show_and_pages_go_on(world: ModuleType, keys_only: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await fill(peer, KEYS[:40], w=3)
        for key in KEYS[:30]:
            await peer.delete(key)
        await peer.put("k035", "short", ttl_ms=1000, w=3)
        shown = [key for key, _ in await peer.scan(limits=[4], keys_only=keys_only)]
        assert shown == KEYS[30:40]
        await asyncio.sleep(1.5)
        shown = [key for key, _ in await peer.scan(limits=[4], keys_only=keys_only)]
        assert shown == [key for key in KEYS[30:40] if key != "k035"]
        page = await peer.page(limit=4, keys_only=keys_only)
        assert page.items == []
        assert page.resume is not None, "a page of tombstones is not the end"
        page = await peer.page(limit=4, keys_only=keys_only, passing=True)
        assert [key for key, *_ in page.items] == [encode_key(key) for key in KEYS[30:34]], (
            "what is dead does not count"
        )
        page = await peer.page(end=encode_key(KEYS[30]), limit=4, keys_only=keys_only, passing=True)
        assert page == f.Page([], None)

    world.run(story())


class Passed:
    """Counts the pages of nodes, and the records in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = self.records = self.longest = self.bytes = 0
        scan = handlers.Replica._scan

        def counting(one: Any, request: f.Scan) -> Any:
            answer, position = scan(one, request)
            self.pages += 1
            self.records += len(answer.items)
            self.longest = max(self.longest, len(answer.items))
            self.bytes += sum(len(record) for _, record in answer.items)
            return answer, position

        monkeypatch.setattr(handlers.Replica, "_scan", counting)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("how", ["deleted", "expired", "deleted on two of three", "erased"])
@pytest.mark.parametrize(("versioning", "keys_only"), [("vector", False), ("lww", True)])
def test_the_first_behind_many_that_are_gone_takes_few_pages_and_passes_each_once(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch, reverse: bool, how: str, versioning: Any, keys_only: bool
) -> None:
    """A queue of which much was taken. *Before: as many pages as pairs were taken, each from all nodes.*"""
    monkeypatch.setattr(scanning, "MAX_SCAN_ITEMS", 300)
    monkeypatch.setattr(scanning, "PLENTY", 150)
    passed = Passed(monkeypatch)
    count, value = 2400, "v" * 300
    names = [f"q{number:05}" for number in range(count)]

    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        peer = cluster.coordinator()
        ends = [
            ("q", pack_body(peer.operation(), encode_value(1, "auto"))),
            ("r", pack_body(peer.operation(), encode_value(2, "auto"))),
        ]
        await peer.write(ends, w=3)
        ttl_ms = 500 if how == "expired" else None
        if how == "deleted on two of three":
            cluster.cut("coordinator", "node/n3")
        for at in range(0, count, 400):
            some = [(name, pack_body(peer.operation(), value.encode(), ttl_ms)) for name in names[at : at + 400]]
            await peer.write(some, w=2)
        if how.startswith("deleted"):
            for at in range(0, count, 400):
                some = [(name, pack_tombstone_body(peer.operation())) for name in names[at : at + 400]]
                await peer.write(some, w=2)
        if how == "erased":
            for node_id in cluster.ids:
                for name in names:
                    cluster.node(node_id)._engine.erase(cluster.place(name))
        await peer.rest()
        cluster.mend()
        await asyncio.sleep(2)
        first, last = ("r", "q") if reverse else ("q", "r")
        link = world.ClientLink(cluster)
        steps = open_bucket("default", {}, timeout=5, session_clock=SessionClock(link.monotonic_s))
        operations = await run_async(steps, link)

        async def scan(after: str | None = None) -> list[Any]:
            paging = operations.scan(after=after, limit=1, reverse=reverse, keys_only=keys_only, timeout=5)
            return [key for key, _ in await run_async(paging.step(), link)]

        found = await scan()
        assert (found, passed.pages) == ([first], 3), "where nothing lies before it, no more than one is asked for"
        passed.pages = passed.records = passed.bytes = 0
        assert await scan(first) == [last]
        assert passed.longest <= 300, "and no node is held for long"
        if how == "deleted on two of three":  # what differs is read, and mended, ever more at a time
            assert passed.pages < 3 * 40
        else:
            assert passed.pages <= 3 * 2 * (count // 300)
            assert passed.records <= 3 * (count + 300)
            assert passed.bytes < passed.records * 200, "values of what is gone do not travel"

    world.run(story())


def test_what_the_coordinators_clock_has_not_seen_expire_comes_with_its_value(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        for node_id in cluster.ids:
            cluster.clocks[node_id].skew_ms = 50_000
        peer = cluster.coordinator()
        value = "v" * 1000
        for key in KEYS[:3]:
            await peer.put(key, value, ttl_ms=30_000)
        assert await peer.scan(limits=[1], passing=True) == [(key, value) for key in KEYS[:3]]
        await asyncio.sleep(31)
        assert await peer.scan(limits=[1], passing=True) == []

    world.run(story())


@pytest.mark.parametrize("keys_only", [False, True])
def test_a_value_on_one_copy_beside_tombstones_on_others_is_judged_by_what_they_make(
    world: ModuleType, keys_only: bool
) -> None:
    """A node sees a tombstone, and another copy holds a newer value; or an older one."""

    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        for number, key in enumerate(KEYS):
            for node_id in cluster.ids:
                await cluster.give(node_id, key, world.delete_record(1000))
            if number % 3 == 0:  # acknowledged by two, as it were
                for node_id in cluster.owners(key)[number % 2 : number % 2 + 2]:
                    await cluster.give(node_id, key, world.put_record(key, 2000))
            elif number % 3 == 1:
                await cluster.give(cluster.ids[number % 2], "x" + key, world.put_record("old", 500))
        for key in KEYS:
            for node_id in cluster.ids:
                if (await cluster.held(node_id, "x" + key)) is None and KEYS.index(key) % 3 == 1:
                    await cluster.give(node_id, "x" + key, world.delete_record(1000))
        for limit in (1, 5, 1000):
            for passing in (False, True):
                found = await peer.scan(limits=[limit], keys_only=keys_only, passing=passing)
                assert [key for key, _ in found] == KEYS[::3]

    world.run(story())


def test_keys_only_carries_no_values(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "x" * 5000, w=3)
        await cluster.give("n1", "a", world.put_record("y" * 5000, 5000))  # so that it goes through a read too
        cluster.frames.clear()
        page = await peer.page(keys_only=True, r=3)
        assert page.items == [(encode_key("a"), [b""], False)]

    world.run(story())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keys_only", [False, True])
def test_replicas_that_differ_are_settled_and_mended(world: ModuleType, reverse: bool, keys_only: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await fill(peer, KEYS[:30], w=3)
        newer = world.put_record("newer", 5000)
        gone = world.delete_record(5000)
        for number, key in enumerate(KEYS[:10]):
            await cluster.give(cluster.ids[number % 3], key, newer if number % 2 else gone)
        for number, key in enumerate(["x1", "x2", "x3"]):
            await cluster.give(cluster.ids[number], key, newer)
        found = dict(await peer.scan(limits=[7], reverse=reverse, keys_only=keys_only, r=3))
        expected = {key: key for key in KEYS[10:30]} | dict.fromkeys([*KEYS[1:10:2], "x1", "x2", "x3"], "newer")
        assert found.keys() == expected.keys()
        if not keys_only:
            assert found == expected
        await peer.rest()
        for key in [*KEYS[:10], "x1", "x2", "x3"]:
            held = {await cluster.held(node_id, key) for node_id in cluster.ids}
            assert len(held) == 1, "a scan repairs what it met, with complete records"

    world.run(story())


@pytest.mark.parametrize("keys_only", [False, True])
def test_concurrent_versions_are_shown_all_of_them_and_replicas_mended(world: ModuleType, keys_only: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector").start()
        peer, other = cluster.coordinator(), cluster.coordinator("other")
        await fill(peer, KEYS[:8], w=3)
        for number, key in enumerate(KEYS[:4]):
            _, context = await peer.versions(key)
            await asyncio.sleep(0.01)
            cluster.cut("coordinator", f"node/{cluster.ids[number % 3]}")
            await peer.store(key, "one", context=context)
            await asyncio.sleep(0.01)
            await other.store(key, "two" if number % 2 else None, context=context)
            await peer.rest()
            cluster.mend()
        await peer.delete(KEYS[5], w=3)
        await asyncio.sleep(3)
        page = await peer.page(keys_only=keys_only, r=3)
        shown = {key[1:].decode(): [payload.decode() for payload in payloads] for key, payloads, _ in page.items}
        expected = {key: ["two", "one"] if number % 2 else ["one"] for number, key in enumerate(KEYS[:4])}
        expected |= {key: [key] for key in (KEYS[4], *KEYS[6:8])}
        if keys_only:
            expected = {key: [""] * len(values) for key, values in expected.items()}
        assert shown == expected
        assert list(shown) == sorted(shown)
        deleted = {key[1:].decode() for key, _, gone in page.items if gone}
        assert deleted == {KEYS[0], KEYS[2]}, "where the newest write is a delete that has not seen the others"
        await peer.rest()
        for key in KEYS[:8]:
            assert len({await cluster.held(node_id, key) for node_id in cluster.ids}) == 1, "with complete records"

    world.run(story())


def test_a_scan_goes_on_over_deaths_freezes_and_restarts(world: ModuleType) -> None:
    async def story() -> None:
        for seed in range(6):
            rng = random.Random(seed)
            cluster = world.Cluster(5).start()
            peer = cluster.coordinator()
            expected = await fill(peer, w=3)
            start, found = b"", []
            fault: tuple[str, str] | None = None
            while True:
                if fault is not None and rng.random() < 0.5:
                    if fault[0] == "kill":
                        cluster.revive(fault[1])
                    else:
                        cluster.thaw(cluster.process(fault[1]))
                    fault = None
                elif fault is None and rng.random() < 0.5:
                    fault = rng.choice(["kill", "freeze"]), rng.choice(cluster.ids)
                    getattr(cluster, fault[0])(fault[1])
                page = await peer.page(start, limit=9, timeout_s=4)
                found += [(key[1:].decode(), payload.decode()) for key, (payload,), _ in page.items]
                if page.resume is None:
                    break
                start = page.resume
            assert found == expected

    world.run(story())


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_page_without_its_quorum_is_an_error_in_time_and_never_short(world: ModuleType, how: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(5).start()
        peer = cluster.coordinator()
        await fill(peer, w=3)
        getattr(cluster, how)("n1")
        getattr(cluster, how)("n2")
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(QuorumNotMet, match="partition"):
            await peer.page(r=3, timeout_s=1)
        assert 0.9 <= asyncio.get_running_loop().time() - began_s <= 1.1
        assert [key for key, _ in await peer.scan(limits=[50], r=1)] == KEYS

    world.run(story())


def test_an_incomplete_node_takes_no_part(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        expected = await fill(peer, w=3)
        cluster.wipe("n2")
        cluster.revive("n2")
        await asyncio.sleep(1)
        assert await peer.scan(limits=[25]) == expected

    world.run(story())


def test_a_slow_node_is_raced(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        expected = await fill(peer, w=3)
        cluster.freeze("n1")
        began_s = asyncio.get_running_loop().time()
        assert await peer.scan(limits=[1000]) == expected
        assert asyncio.get_running_loop().time() - began_s < 0.6

    world.run(story())


# ---- one round of frames ----


async def at_once(peer: Any, bucket: int = 1, **options: Any) -> f.Page:
    """Return a page as a client's embedded coordinator gets it: by one round, if all answers are plain."""
    asked = {"start": b"", "end": b"\x03", "limit": 20, "reverse": False, "keys_only": False, "r": 2, "timeout_s": 2.0}
    steps = peer.core.operation(f.ScanPage(bucket_id=bucket, **{**asked, **options}), fast=True)
    assert steps is not None
    page = await peer.front.driver.run(steps)
    assert isinstance(page, f.Page)
    return page


def keys_of(page: f.Page) -> list[str]:
    return [key[1:].decode() for key, *_ in page.items]


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_a_page_takes_one_round_where_all_replicas_agree(world: ModuleType, versioning: Any) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, versioning=versioning).start()
        peer = cluster.coordinator()
        await fill(peer, w=3)
        await peer.rest()
        for options in ({}, {"reverse": True}, {"keys_only": True}, {"r": 1}, {"r": 3}, {"passing": True}):
            peer.metrics.clear()
            start, end, seen = b"", b"\x03", []
            while True:
                page = await at_once(peer, start=start, end=end, **options)
                seen += keys_of(page)
                if page.resume is None:
                    break
                start, end = (start, page.resume) if options.get("reverse") else (page.resume, end)
            assert seen == sorted(KEYS, reverse=bool(options.get("reverse"))), options
            assert peer.metrics["fast_path_scans"] >= len(KEYS) / 20
            assert not peer.metrics["read_repairs"]
        long = await at_once(peer, limit=500)
        assert keys_of(long) == KEYS
        some = await at_once(peer, start=encode_key("k010"), end=encode_key("k014"))
        assert keys_of(some) == KEYS[10:14]
        assert some.resume is None

    world.run(story())


@pytest.mark.parametrize("holders", [1, 2])
def test_of_a_page_by_one_round_what_differs_is_read_and_repaired(world: ModuleType, holders: int) -> None:
    """Also a key that some replicas lack; a delete that some lack hides it from all."""

    async def story() -> None:
        cluster = world.Cluster(3, versioning="lww").start()
        peer = cluster.coordinator()
        await fill(peer, KEYS[:10], w=3)
        await peer.rest()
        newer, gone = world.put_record("newer", 60_000, operation=7), world.delete_record(60_000, operation=8)
        for node_id in cluster.owners("k003")[:holders]:
            await cluster.give(node_id, "k003", newer)
        for node_id in cluster.owners("k005")[:holders]:
            await cluster.give(node_id, "k005", gone)
        for node_id in cluster.owners("k0031")[:holders]:
            await cluster.give(node_id, "k0031", newer)
        page = await at_once(peer)
        assert peer.metrics["fast_path_scans"] == 1
        assert keys_of(page) == [*KEYS[:4], "k0031", "k004", *KEYS[6:10]]
        assert {key[1:]: payloads for key, payloads, _ in page.items}[b"k003"] == [b"newer"]
        await peer.rest()
        again = await at_once(peer, r=3)
        assert again.items == page.items
        held = [await cluster.held(node_id, "k0031") for node_id in cluster.owners("k0031")]
        assert held.count(newer) >= 2, "what was shown is on R replicas (P9)"

    world.run(story())


@pytest.mark.parametrize("trouble", ["dead", "cut off", "incomplete"])
def test_a_page_goes_the_quorum_path_where_an_answer_is_not_plain(world: ModuleType, trouble: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, versioning="lww").start()
        peer = cluster.coordinator()
        await fill(peer, w=3)
        await peer.rest()
        if trouble == "dead":
            cluster.kill("n2")
        elif trouble == "cut off":
            cluster.cut("coordinator", "node/n2")
        else:
            cluster.node("n2")._directory.set_complete(False)
        for _ in range(3):
            page = await at_once(peer, limit=1000, timeout_s=5.0)
            assert keys_of(page) == KEYS
            assert page.resume is None

    world.run(story())


def test_a_range_within_a_group_asks_the_owners_of_its_partition_alone(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(6, versioning="lww")
        cluster.state = cluster.state.with_bucket(
            BucketConfig(name="orders", n=3, r=2, w=2, versioning="lww", group=":")
        )
        cluster.start()
        peer = cluster.coordinator()
        for group in ("a", "b"):
            keys = [encode_key(f"{group}:{number:02}") for number in range(30)]
            asked = f.WriteMany(2, [(key, pack_body(peer.operation(), b"v"), None) for key in keys], 3, 2.0)
            wrote = await peer.front.driver.run(peer.core.operation(asked))
            assert all(isinstance(each, f.Acked) for each in wrote.items)
        await peer.rest()
        owners = cluster.state.ring.owners(partition_of_key(encode_key("a"), 8))
        for fast in (True, False):
            cluster.frames.clear()
            asked = f.ScanPage(2, encode_key("a:"), encode_key("a;"), 100, False, False, 2, 2.0)
            page = await peer.front.driver.run(peer.core.operation(asked, fast=fast))
            assert keys_of(page) == [f"a:{number:02}" for number in range(30)]
            scans = [target for _, target, frame in cluster.frames if isinstance(body_of(frame), f.Scan)]
            assert sorted(scans) == sorted(f"node/{node_id}" for node_id in owners[:2])
        assert keys_of(await at_once(peer, bucket=2, limit=100)) == [
            f"{group}:{number:02}" for group in "ab" for number in range(30)
        ]

    def body_of(frame: bytes) -> Any:
        return f.node_requests.decode(frame).body

    world.run(story())


def test_a_page_of_some_partitions_has_their_keys_and_asks_their_owners(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(6, versioning="lww").start()
        peer = cluster.coordinator()
        await fill(peer, w=3)
        await peer.rest()
        for named in ([0], [5, 2, 5], [*range(8)]):
            wanted = [key for key in KEYS if partition_of_key(encode_key(key), 8) in named]
            owners = {node_id for partition in named for node_id in cluster.state.ring.owners(partition)}
            for fast in (True, False):
                cluster.frames.clear()
                asked = f.ScanPage(1, b"", b"\x03", 1000, False, False, 2, 2.0, partitions=named)
                page = await peer.front.driver.run(peer.core.operation(asked, fast=fast))
                assert keys_of(page) == wanted
                scans = [
                    (target.removeprefix("node/"), f.node_requests.decode(frame).body)
                    for _, target, frame in cluster.frames
                ]
                scans = [(node_id, body) for node_id, body in scans if isinstance(body, f.Scan)]
                assert {node_id for node_id, _ in scans} <= owners
                assert {partition for _, body in scans for partition in body.partitions} == set(named)
        for wrong in ([8], [3, -1]):
            with pytest.raises(InvalidOption, match="the ring has 8"):
                await at_once(peer, partitions=wrong)

    world.run(story())
