"""The front door: frames in, frames out, and everything that goes wrong comes back as data."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raykv.coordinator import service as front_module
from raykv.errors import (
    BucketMismatch,
    CorruptData,
    InvalidOption,
    QuorumNotMet,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import pack_body
from raykv.versions.causality import NOTHING_SEEN, Causality, unpack_causality

if TYPE_CHECKING:
    from types import ModuleType

A, ABSENT = encode_key("a"), encode_key("absent")
ID = bytes(range(16))


def error(answer: Any) -> Exception:
    assert isinstance(answer, f.Refused), answer
    return answer.failed.error()


def test_operations_go_through_as_frames(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        wrote = await peer.ask(f.WriteMany(1, [(A, pack_body(ID, b"v"), None)], 3, 5.0))
        (acked,) = wrote.items
        assert acked.operation_id == ID
        assert sorted(acked.nodes) == ["n1", "n2", "n3"]
        got = await peer.ask(f.GetMany(1, [ABSENT, A], 2, 5.0))
        assert got == f.GotMany([f.KeyVersions([]), b"v"], wrote.time)
        assert unpack_causality(acked.causality) == Causality(wrote.time)
        page = f.ScanPage(1, b"", LAST_TAG_END, 10, False, False, 2, 5.0)
        assert await peer.ask(page) == f.Page([(A, [b"v"], False)], None)
        assert await peer.ask(f.GetMany(1, [], 2, 5.0)) == f.GotMany([])
        assert await peer.ask(f.WriteMany(1, [], 2, 5.0)) == f.WroteMany([])

    world.run(story())


def test_errors_of_single_items_stand_in_their_places(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n1")
        cluster.kill("n2")
        wrote = await peer.ask(f.WriteMany(1, [(A, pack_body(ID, b"v"), None)], 2, 0.3))
        (failed,) = wrote.items
        unknown = failed.error()
        assert type(unknown) is WriteOutcomeUnknown
        assert (unknown.operation_id, unknown.acks) == (ID.hex(), ("n3",))
        got = await peer.ask(f.GetMany(1, [A], 2, 0.3))
        assert type(got.items[0].error()) is QuorumNotMet
        page = await peer.ask(f.ScanPage(1, b"", LAST_TAG_END, 10, False, False, 2, 0.3))
        assert type(error(page)) is QuorumNotMet

    world.run(story())


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x02\x91\xa4Ping", b"junk", b"\x01" + b"\x91" * 5000])
def test_a_bad_frame_is_refused_as_data(world: ModuleType, frame: bytes) -> None:
    async def story() -> None:
        peer = world.Cluster(3).start().coordinator()
        answer = f.coordinator_answers.decode(await peer.front.serve(frame))
        assert type(error(answer)) is CorruptData

    world.run(story())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request=st.one_of(
        st.builds(f.GetMany, st.integers(0, 3), st.lists(st.binary(max_size=3), max_size=3), st.integers(-1, 5),
                  st.floats(-1, 2), st.booleans()),
        st.builds(f.WriteMany, st.integers(0, 3), st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=30),
                  st.none() | st.binary(max_size=9) | st.just(NOTHING_SEEN)), max_size=3), st.integers(-1, 5),
                  st.floats(-1, 2), st.integers(0, 2**64 - 1), st.integers(0, 2), st.floats(-1, 9)),
        st.builds(f.ScanPage, st.integers(0, 3), st.binary(max_size=3), st.binary(max_size=3), st.integers(-2, 2000),
                  st.booleans(), st.booleans(), st.integers(-1, 5), st.floats(-1, 2), st.booleans(),
                  st.lists(st.integers(-1, 9), max_size=3)),
        st.builds(f.OpenBucket, st.text(max_size=3), st.dictionaries(st.sampled_from(["n", "r", "codec"]),
                  st.integers(-1, 4) | st.text(max_size=3)), st.floats(-1, 2)),
        st.builds(f.GetInfo, st.text(max_size=6), st.floats(-1, 2)),
        st.builds(f.IndirectProbe, st.text(max_size=3), st.floats(-1, 2)),
        st.builds(f.ClusterUpdate, st.integers(-(2**63), 2**63), st.binary(max_size=20), st.just({}), st.just({})),
    )
)  # fmt: skip
@example(request=f.OpenBucket("default", {"n": None}, 1.0))
def test_every_request_that_is_a_frame_gets_an_answer(world: ModuleType, request: f.CoordinatorRequest) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        assert await peer.ask(request) is not None

    world.run(story())


def test_an_unknown_option_is_refused_as_data(world: ModuleType) -> None:
    async def story() -> None:
        peer = world.Cluster(3).start().coordinator()
        answer = await peer.ask(f.OpenBucket("default", {"sloppy": True}, 1.0))
        assert type(error(answer)) in {InvalidOption, BucketMismatch}

    world.run(story())


def test_a_bucket_that_is_known_is_opened_here_and_others_by_the_supervisor(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        asked: list[Any] = []

        async def supervise(frame: bytes) -> bytes:
            asked.append(f.supervisor_requests.decode(frame))
            return f.supervisor_answers.encode(f.BucketOpened(7, {"name": "new"}))

        def opened_now(bucket_id: int, config: dict[str, Any]) -> f.BucketOpened:
            """Whichever coordinator opened it, the store and the clock in the answer are this one's."""
            return f.BucketOpened(bucket_id, config, world.STORE_ID, peer.core.run, peer.clock.monotonic_s())

        cluster.answer_as("supervisor", supervise)
        opened = await peer.ask(f.OpenBucket("default", {"n": 3}, 1.0))
        assert opened.config["w"] == 2
        assert opened == opened_now(1, opened.config)
        assert asked == []
        mismatch = error(await peer.ask(f.OpenBucket("default", {"n": 2}, 1.0)))
        assert type(mismatch) is BucketMismatch
        assert mismatch.details["differing"] == {"n": [3, 2]}
        request = f.OpenBucket("new", {"n": 2}, 1.0)
        assert await peer.ask(request) == opened_now(7, {"name": "new"})
        assert [each for each in asked if not isinstance(each, f.GetClusterUpdate)] == [request]
        assert type(error(await peer.ask(f.OpenBucket("a\n", {}, 1.0)))) is InvalidOption
        assert type(error(await peer.ask(f.OpenBucket("new", {}, -1.0)))) is InvalidOption
        assert sum(isinstance(each, f.OpenBucket) for each in asked) == 1

    world.run(story())


def test_a_bucket_is_listed_though_the_update_about_it_was_lost(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        opener, other = cluster.coordinator(), cluster.coordinator()

        def names(answer: Any) -> list[str]:
            return [bucket["name"] for bucket in answer.data]

        async def supervise(frame: bytes) -> bytes:
            if isinstance(f.supervisor_requests.decode(frame), f.GetClusterUpdate):
                return f.supervisor_answers.encode(cluster.cluster_update())
            cluster.state = cluster.state.with_bucket(world.BucketConfig(name="new", n=3, r=2, w=2))
            cluster.sequence += 1
            return f.supervisor_answers.encode(f.BucketOpened(2, {"name": "new"}))

        cluster.answer_as("supervisor", supervise)
        assert isinstance(await opener.ask(f.OpenBucket("new", {}, 1.0)), f.BucketOpened)
        assert opener.core.routing.is_there(2), "its operations need not ask"
        assert not other.core.routing.is_there(2)
        assert names(await opener.ask(f.GetInfo("buckets", 1.0))) == ["default", "new"]
        assert names(await other.ask(f.GetInfo("buckets", 1.0))) == ["default", "new"]
        del cluster.network.endpoints["supervisor"]
        assert names(await other.ask(f.GetInfo("buckets", 1.0))) == ["default", "new"], "as far as it is known"

    world.run(story())


def test_the_infos_of_a_coordinator(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()

        async def supervise(frame: bytes) -> bytes:
            return f.supervisor_answers.encode(f.Info({"name": "test"}))

        cluster.answer_as("supervisor", supervise)
        ring = (await peer.ask(f.GetInfo("ring", 1.0))).data
        assert ring["copies"] == 3
        assert [member["node_id"] for member in ring["members"]] == ["n1", "n2", "n3"]
        assert len(ring["table"]) == ring["partitions"] == 8
        assert [bucket["name"] for bucket in (await peer.ask(f.GetInfo("buckets", 1.0))).data] == ["default"]
        status = (await peer.ask(f.GetInfo("status", 1.0))).data
        assert status["name"] == "test"
        assert status["coordinator"]["items_under_way"] == 0
        assert type(error(await peer.ask(f.GetInfo("secrets", 1.0)))) is CorruptData
        del cluster.network.endpoints["supervisor"]
        assert type(error(await peer.ask(f.GetInfo("status", 0.5)))) is StoreUnavailable
        assert type(error(await peer.ask(f.DropBucket("b", 0.5)))) is StoreUnavailable
        assert (await peer.ask(f.GetInfo("ring", 1.0))).data == ring, "what is known here needs no supervisor"

    world.run(story())


def test_a_second_opinion_is_what_this_coordinator_reaches(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        assert await peer.ask(f.IndirectProbe("n1", 0.5)) == f.Info(True)
        cluster.freeze("n1")
        assert await peer.ask(f.IndirectProbe("n1", 0.5)) == f.Info(False)
        cluster.cut("supervisor", "node/n2")
        assert await peer.ask(f.IndirectProbe("n2", 0.5)) == f.Info(True), "the supervisor's link is not this one's"
        cluster.cut("coordinator", "node/n2")
        assert await peer.ask(f.IndirectProbe("n2", 0.5)) == f.Info(False)
        cluster.kill("n3")
        assert await peer.ask(f.IndirectProbe("n3", 0.5)) == f.Info(False)
        assert await peer.ask(f.IndirectProbe("nobody", 0.5)) == f.Info(False)

    world.run(story())


def test_an_update_is_taken_and_a_missed_one_is_fetched(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        cluster.state = cluster.state.with_bucket(world.BucketConfig(name="b", n=3, r=2, w=2))
        cluster.sequence += 1
        assert (await peer.core.routing.state(1.0)).bucket("b") is None
        keeping = asyncio.create_task(peer.front.keep_up_to_date())
        await asyncio.sleep(0.1)
        assert (await peer.core.routing.state(1.0)).bucket("b") is not None
        cluster.cut("coordinator", "supervisor")
        await asyncio.sleep(5)
        cluster.mend()
        cluster.state = cluster.state.without_bucket("b")
        cluster.sequence += 1
        await asyncio.sleep(2 * front_module.UPDATE_EVERY_S + 0.1)
        assert (await peer.core.routing.state(1.0)).bucket("b") is None, "it went on asking after a failure"
        keeping.cancel()
        assert await peer.ask(cluster.cluster_update()) == f.Info(None)

    world.run(story())
