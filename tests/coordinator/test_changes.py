"""Changes and plain reads of linearizable buckets: which copies prove that they show the last (L8), and what becomes of a
change that has to be sent again (L12)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from led_nodes import BUCKET, WALL_MS, Caller, Leaders, cell, run

from raykv.cluster import moves
from raykv.cluster.state import Move
from raykv.coordinator.changes import PATIENCE_S, plainly_read
from raykv.errors import InvalidOption, Overloaded, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.keys import encode_key
from raykv.records.linear_record import LinearRecord, pack_term

if TYPE_CHECKING:
    from world import Peer

KEY = "k"
OLD, TERM, NEW = (pack_term(number, 7) for number in (3, 4, 5))


def record(term: bytes, seq: int = 1, value: str | None = "v") -> bytes:
    return linear.encode(LinearRecord(term, seq, WALL_MS << 16, None if value is None else value.encode()))


# ---- a plain read proves that it shows the last (L8) ----

V, OLDER, OTHER = record(TERM), record(OLD), record(TERM, 2)
GONE = record(TERM, 3, None)
ASK_THE_LEADER = None
TABLE: list[tuple[list[tuple[bytes | None, bytes, bool]], Any]] = [
    ([(V, TERM, False), (V, TERM, False)], b"v"),
    ([(V, TERM, True), (V, TERM, False)], b"v"),
    ([(GONE, TERM, False), (GONE, TERM, False)], b""),
    ([(None, TERM, False), (None, TERM, False)], b""),
    ([(None, OLD, False), (None, NEW, False)], b""),
    ([(V, TERM, False), (OTHER, TERM, False)], ASK_THE_LEADER),
    ([(V, TERM, False), (None, TERM, False)], ASK_THE_LEADER),
    ([(None, TERM, False), (V, TERM, False)], ASK_THE_LEADER),
    ([(V, TERM, False), (V, NEW, False)], ASK_THE_LEADER),
    ([(V, NEW, False), (V, NEW, False)], ASK_THE_LEADER),
    ([(V, NEW, False), (V, NEW, True)], b"v"),
    ([(V, TERM, True), (V, NEW, False)], ASK_THE_LEADER),
    ([(OLDER, TERM, False), (OLDER, TERM, False)], ASK_THE_LEADER),
    ([(OLDER, TERM, True), (OLDER, TERM, False)], b"v"),
    ([(V, b"", False), (V, b"", False)], ASK_THE_LEADER),
    ([(V, TERM, False), (V, TERM, False), (OTHER, TERM, False)], ASK_THE_LEADER),
    ([(V, TERM, False), (V, TERM, False), (V, NEW, False)], ASK_THE_LEADER),
]


@pytest.mark.parametrize(("copies", "shown"), TABLE)
def test_which_copies_prove_that_they_show_the_last(copies: list[tuple[bytes | None, bytes, bool]], shown: Any) -> None:
    found = plainly_read(copies)
    assert (None if found is None else found.payload or b"") == shown
    if found is not None:
        assert found.status == c.DONE
        assert found.version == (b"" if copies[0][0] is None else copies[0][0][1:25])


def started(nodes: int = 3, copies: int = 3, **options: Any) -> tuple[Leaders, Peer, tuple[str, ...]]:
    """Return nodes, a coordinator, and the owners of ``KEY``."""
    cluster = Leaders(nodes, copies, **options).start()
    return cluster, cluster.coordinator(), cluster.owners(KEY)


async def change(peer: Peer, *items: f.Change, timeout_s: float = 5.0) -> list[f.Settled]:
    """Have a coordinator carry out changes. Raises the first error."""
    answer = await peer.front.carry_out(f.ChangeMany(BUCKET, [*items], timeout_s))
    assert isinstance(answer, f.ChangedMany), answer
    for item in answer.items:
        if isinstance(item, f.Failed):
            raise item.error()
    return [item for item in answer.items if isinstance(item, f.Settled)]


async def one(peer: Peer, item: f.Change, **options: Any) -> f.Settled:
    (settled,) = await change(peer, item, **options)
    return settled


def test_what_repair_has_spread_is_not_taken_for_the_last() -> None:
    """*Schedule (L8): C settles on s under its term; repair then spreads an older record, never acknowledged, to a majority;
    a read shows that, and C writes on top of s.*"""

    async def story() -> None:
        cluster, peer, (first, second, third) = started()
        await cluster.one(first, Caller().put(KEY, "s"))
        never = record(cluster.promised(first, KEY)[0], 99, "never acknowledged")
        missed = cluster.wire.hold(f.Look, target=first)
        settled = await cluster.one(third, Caller.read(KEY), unable=[first, second])
        assert settled.payload == b"s"
        missed.end()
        for node_id in (first, second):
            await cluster.give(node_id, KEY, never)
        assert {cluster.promised(node_id, KEY)[1] for node_id in (first, second)} == {third}
        assert await peer.get(KEY) == "s"

    run(story())


def test_while_the_partition_moves_the_leader_reads() -> None:
    """*Schedule (L8): at step 1 of a move the old owners show v, and the new ones never got it.*"""

    async def story() -> None:
        cluster, peer, owners = started(5)
        new = tuple(node_id for node_id in cluster.ids if node_id not in owners) + owners[:1]
        await one(peer, Caller().put(KEY, "before"))
        cluster.change(moves.begun(cluster.state, (Move(cluster.partition(KEY), new),)), peer)
        for node_id in new[:2]:
            cluster.wire.hold(f.Accept, target=node_id)
        task = asyncio.get_running_loop().create_task(one(peer, Caller(2).put(KEY, "v"), timeout_s=1.0))
        await asyncio.sleep(0.5)
        assert cluster.payloads(KEY) == [b"v"] * 3, "all of the old owners have it"
        cluster.wire.sent.clear()
        with pytest.raises(QuorumNotMet):
            await peer.get(KEY, timeout_s=0.4)
        assert cluster.wire.of(f.ReadHeads) == []
        with pytest.raises(WriteOutcomeUnknown):
            await task

    run(story())


def test_a_plain_read_needs_no_leader() -> None:
    async def story() -> None:
        cluster, peer, (first, *_) = started()
        await one(peer, Caller().put(KEY, "v"))
        await asyncio.sleep(0.1)
        before = len(cluster.wire.of(f.Apply))
        assert await peer.get(KEY) == "v"
        cluster.down[first] = "gone"
        cluster.kill(first)
        cluster.publish(peer)
        assert await peer.get(KEY) == "v"
        assert len(cluster.wire.of(f.Apply)) == before
        assert peer.metrics["leader_reads"] == 0

    run(story())


def test_copies_that_differ_are_read_by_the_leader() -> None:
    async def story() -> None:
        cluster, peer, (_first, second, third) = started()
        await one(peer, Caller().put(KEY, "before"))
        await asyncio.sleep(0.1)
        lost = cluster.wire.hold(f.Accept, target=second)
        await one(peer, Caller(2).put(KEY, "v"))
        assert await peer.get(KEY) == "v"
        assert peer.metrics["leader_reads"] == 1
        lost.end()
        assert cluster.record(third, KEY).payload == b"v"

    run(story())


def test_a_version_is_read_with_its_value_and_absence_has_none() -> None:
    async def story() -> None:
        cluster, peer, _ = started()
        put = await one(peer, Caller().put(KEY, "v"))
        request = f.GetMany(BUCKET, [encode_key(KEY), encode_key("absent")], 2, 5.0, causality=True)
        got = await peer.front.carry_out(request)
        assert [(item.payloads, item.causality) for item in got.items] == [([b"v"], put.version), ([], b"")]
        await cluster.one(cluster.owners(KEY)[0], Caller(2).delete(KEY))
        got = await peer.front.carry_out(request)
        assert got.items[0].payloads == []
        assert got.items[0].causality > put.version

    run(story())


# ---- changes find their leader ----


def applied_at(cluster: Leaders) -> list[str]:
    """Return who was asked to carry something out, in this order; and ask anew from here."""
    found = [sent.target for sent in cluster.wire.of(f.Apply)]
    cluster.wire.sent.clear()
    return found


def test_a_change_goes_to_the_leader_and_the_next_one_at_once() -> None:
    async def story() -> None:
        cluster, peer, (first, _, third) = started()
        await cluster.one(third, Caller().put(KEY, "v"), unable=cluster.ids)
        cluster.promise(first, KEY, *cluster.promised(third, KEY))
        assert (await one(peer, Caller(2).put(KEY, "w"))).status == c.DONE
        asked = applied_at(cluster)
        assert asked[0] == first
        assert asked[-1] == third
        assert (await one(peer, Caller(3).put(KEY, "x"))).status == c.DONE
        assert applied_at(cluster) == [third]

    run(story())


def test_a_run_is_named_and_its_clock_and_a_run_that_is_not_known_does_nothing() -> None:
    """*Schedule without (L12): a change arrives late, or at the next run of the leader, and is carried out once more.*"""

    async def story() -> None:
        cluster, peer, (first, *_) = started()
        await one(peer, Caller().add(KEY), timeout_s=3.0)
        begun = [sent.body for sent in cluster.wire.of(f.Apply)]
        assert [(body.run, body.items[0].resent) for body in begun] == [
            (0, False),
            (cluster.node(first).incarnation, False),
        ]
        now_s = asyncio.get_running_loop().time()
        assert now_s + 2.9 < begun[1].expires_s <= now_s + 3.0
        cluster.kill(first)
        cluster.start_node(first)
        cluster.publish(peer)
        cluster.wire.sent.clear()
        assert (await one(peer, Caller(2).add(KEY))).payload == cell(2)
        runs = [sent.body.run for sent in cluster.wire.of(f.Apply)]
        assert runs[-1] == cluster.node(first).incarnation

    run(story())


@pytest.mark.parametrize(("grace_s", "most_s"), [(10 * 86_400.0, 60.0), (100.0, 25.0)])
def test_no_change_may_take_longer_than_its_receipt_is_kept(grace_s: float, most_s: float) -> None:
    async def story() -> None:
        cluster, peer, _ = started(gc_grace_s=grace_s)
        await one(peer, Caller().add(KEY), timeout_s=300.0)
        assert 0 < cluster.wire.of(f.Apply)[-1].body.expires_s <= most_s + 0.1

    run(story())


@pytest.mark.parametrize(("resent", "error"), [(True, WriteOutcomeUnknown), (False, StoreUnavailable)])
def test_what_was_sent_by_way_of_another_coordinator_may_stand(resent: bool, error: type[Exception]) -> None:
    async def story() -> None:
        cluster, peer, owners = started()
        for node_id in owners:
            cluster.cut("coordinator", f"node/{node_id}")
        with pytest.raises(error):
            await one(peer, msgspec.structs.replace(Caller().put(KEY, "v"), resent=resent), timeout_s=0.5)

    run(story())


@pytest.mark.parametrize(("left_s", "said_s"), [(0.0, 2.0), (9.0, 9.0)])
def test_a_node_hears_for_how_long_the_call_may_be_sent_elsewhere(left_s: float, said_s: float) -> None:
    async def story() -> None:
        cluster, peer, _ = started()
        request = f.ChangeMany(BUCKET, [Caller().put(KEY, "v")], 2.0, left_s=left_s)
        await peer.front.carry_out(request)
        body = cluster.wire.of(f.Apply)[-1].body
        assert said_s - 0.5 < body.left_s <= said_s
        assert body.expires_s <= peer.clock.monotonic_s() + 2.0, "it is carried out no later for that"

    run(story())


def test_a_change_that_is_sent_again_says_so_and_is_carried_out_once() -> None:
    async def story() -> None:
        cluster, peer, (first, second, _) = started()
        caller = Caller()
        assert not (await one(peer, caller.add(KEY))).unanswered
        lost = cluster.wire.hold(f.Apply, target=first, answers=True)
        cluster.wire.sent.clear()
        task = asyncio.get_running_loop().create_task(one(peer, caller.add(KEY)))
        await lost.caught()
        await asyncio.sleep(PATIENCE_S + 0.01)
        lost.end()
        done = await task
        assert (done.payload, done.unanswered) == (cell(2), True), "the first sending may still arrive"
        sent = [sent.body.items[0] for sent in cluster.wire.of(f.Apply) if sent.body.run]
        assert [item.resent for item in sent][:2] == [False, True]
        assert len({(item.lane, item.number) for item in sent}) == 1
        assert cluster.record(first, KEY).payload == cell(2)
        asked = [each.body for each in cluster.wire.of(f.Apply) if each.target == second]
        assert asked
        assert all(body.silent == [first] for body in asked)

    run(story())


def test_a_node_whose_clock_was_not_known_is_asked_again_while_others_take_long() -> None:
    """*Schedule without: two owners take over from a leader that has ended; the quick one waits for the slow one.*"""

    async def story() -> None:
        cluster, peer, _ = started()
        caller = Caller()
        owners = {key: cluster.owners(key) for key in (f"k{number}" for number in range(100))}
        quick = next(key for key, (first, second, _) in owners.items() if (first, second) == ("n1", "n2"))
        slow = next(key for key, (first, second, _) in owners.items() if (first, second) == ("n1", "n3"))
        for node_id in ("n1", "n3"):
            cluster.wire.hold(f.Apply, target=node_id)
        task = asyncio.get_running_loop().create_task(change(peer, caller.add(quick), caller.add(slow)))
        await asyncio.sleep(PATIENCE_S + 0.1)
        asked = [each.body.run for each in cluster.wire.of(f.Apply) if each.target == "n2"]
        assert [run > 0 for run in asked] == [False, True]
        task.cancel()

    run(story())


def test_what_a_run_that_is_over_may_have_begun_is_sent_again_as_such() -> None:
    """*Schedule without (L11): the former run has the change in its own copy. The next is asked as if for the first time:
    its refusal leaves nothing behind, and the copy comes to light.*"""

    async def story() -> None:
        cluster, peer, (first, *_) = started()
        caller = Caller()
        await one(peer, caller.add(KEY))
        held = cluster.wire.hold(f.Apply, target=first, answers=True)
        task = asyncio.get_running_loop().create_task(one(peer, caller.add(KEY)))
        former = await held.caught()
        cluster.replace(first)
        cluster.publish(peer)
        held.release()
        assert (await task).payload == cell(2)
        again = [sent.body for sent in cluster.wire.of(f.Apply)]
        again = again[again.index(former) + 1 :]
        assert again
        assert all(body.items[0].resent for body in again)

    run(story())


@pytest.mark.parametrize("end", ["killed", "frozen"])
def test_a_leader_that_does_not_answer_is_followed_by_the_next_owner(end: str) -> None:
    async def story() -> None:
        cluster, peer, (first, second, third) = started()
        caller = Caller()
        await one(peer, caller.add(KEY))
        cluster.kill(first) if end == "killed" else cluster.freeze(first)
        began_s = asyncio.get_running_loop().time()
        assert (await one(peer, caller.add(KEY))).payload == cell(2)
        assert asyncio.get_running_loop().time() - began_s < 2.0
        assert cluster.promised(third, KEY)[1] == second
        began_s = asyncio.get_running_loop().time()
        assert (await one(peer, caller.add(KEY))).payload == cell(3)
        assert asyncio.get_running_loop().time() - began_s < 0.1, "it is known by now"

    run(story())


def test_a_silent_node_is_waited_for_once_and_not_by_each_partition() -> None:
    async def story() -> None:
        cluster, peer, (first, *_) = started()
        keys = [key for key in (f"k{number}" for number in range(200)) if cluster.owners(key)[0] == first]
        mine = {cluster.partition(key): key for key in keys}
        assert len(mine) > 1
        for key in mine.values():
            await one(peer, Caller().add(key, number=1))
        cluster.freeze(first)
        took_s = []
        for key in mine.values():
            began_s = asyncio.get_running_loop().time()
            await one(peer, Caller().add(key, number=2))
            took_s.append(asyncio.get_running_loop().time() - began_s)
        assert max(took_s[1:]) < took_s[0] - 0.2, "another owner may have to ping it, but no change waits for it"

    run(story())


def test_a_node_that_cannot_lead_is_passed_over() -> None:
    async def story() -> None:
        cluster, peer, (first, second, _) = started()
        cluster.replica(first).no_room = "the disk is full"
        assert (await one(peer, Caller().add(KEY))).payload == cell(1)
        assert cluster.promised(second, KEY)[1] == second
        assert first in [node_id for sent in cluster.wire.of(f.Apply) for node_id in sent.body.unable]

    run(story())


def test_an_incomplete_node_is_passed_over() -> None:
    async def story() -> None:
        cluster, peer, (first, second, _) = started()
        caller = Caller()
        await one(peer, caller.add(KEY))
        cluster.wipe(first)
        cluster.start_node(first)
        cluster.publish(peer)
        assert (await one(peer, caller.add(KEY))).payload == cell(2)
        assert cluster.promised(second, KEY)[1] == second

    run(story())


def test_changes_of_many_keys_come_to_their_ends_each() -> None:
    async def story() -> None:
        cluster, peer, _ = started()
        keys = [f"k{number}" for number in range(100)]
        settled = await change(peer, *(Caller(at + 1).add(key, at) for at, key in enumerate(keys)))
        assert [each.payload for each in settled] == [cell(at) for at in range(100)]
        refused = await change(
            peer, *(Caller(at + 1).put(key, "v", number=2, condition=b"") for at, key in enumerate(keys))
        )
        assert {each.status for each in refused} == {c.CONFLICT}
        assert len({cluster.owners(key)[0] for key in keys}) == 3

    run(story())


# ---- what it says where it cannot be carried out ----


async def fails(peer: Peer, item: f.Change, timeout_s: float = 1.0) -> RaykvError:
    with pytest.raises(RaykvError) as failed:
        await one(peer, item, timeout_s=timeout_s)
    return failed.value


@pytest.mark.parametrize("known", [False, True])
def test_without_a_majority_the_outcome_is_unknown_only_if_it_may_have_been_begun(known: bool) -> None:
    async def story() -> None:
        cluster, peer, (_first, second, third) = started()
        caller = Caller()
        if known:
            await one(peer, caller.add(KEY))
        for node_id in (second, third):
            cluster.kill(node_id)
        error = await fails(peer, caller.add(KEY))
        assert isinstance(error, WriteOutcomeUnknown)
        assert "surface" in str(error)

    run(story())


def test_what_reached_nobody_was_not_written() -> None:
    async def story() -> None:
        cluster, peer, _ = started()
        for node_id in cluster.ids:
            cluster.kill(node_id)
        error = await fails(peer, Caller().add(KEY))
        assert isinstance(error, StoreUnavailable | WriteOutcomeUnknown)
        if isinstance(error, StoreUnavailable):
            assert "nothing was written" in str(error)

    run(story())


def test_a_lost_answer_leaves_the_outcome_unknown_and_the_change_may_stand() -> None:
    async def story() -> None:
        cluster, peer, (first, *_) = started()
        caller = Caller()
        await one(peer, caller.add(KEY))
        for node_id in cluster.ids:
            cluster.wire.hold(f.Apply, target=node_id, answers=True)
        error = await fails(peer, caller.add(KEY))
        assert isinstance(error, WriteOutcomeUnknown)
        assert error.operation_id == f"{caller.lane.hex()}-2"
        assert cluster.record(first, KEY).payload == cell(2)

    run(story())


def test_a_read_without_a_majority_fails_and_never_says_absent() -> None:
    async def story() -> None:
        cluster, peer, (_, second, third) = started()
        await one(peer, Caller().put(KEY, "v"))
        for node_id in (second, third):
            cluster.kill(node_id)
        with pytest.raises(QuorumNotMet):
            await peer.get(KEY, timeout_s=1.0)

    run(story())


def test_nothing_is_sent_after_the_deadline() -> None:
    async def story() -> None:
        cluster, peer, _ = started()
        for node_id in cluster.ids:
            cluster.wire.hold(f.Apply, target=node_id)
        await fails(peer, Caller().add(KEY), timeout_s=2.0)
        cluster.wire.sent.clear()
        await asyncio.sleep(5.0)
        assert cluster.wire.of(f.Apply) == []

    run(story())


def test_overload_is_reported_as_such() -> None:
    async def story() -> None:
        cluster, peer, owners = started()
        await one(peer, Caller().add("other"))
        for node_id in owners:
            lanes = cluster.node(node_id)._leaders._lanes
            lanes._lanes = dict.fromkeys(range(100_001))
            lanes._swept_s = 1e9
        error = await fails(peer, Caller().add(KEY))
        assert isinstance(error, Overloaded)
        assert "nothing was written" in str(error)

    run(story())


def test_a_bucket_takes_its_own_kind_of_writes() -> None:
    async def story() -> None:
        _, peer, _ = started()
        with pytest.raises(InvalidOption, match="blind writes"):
            await peer.put(KEY, "v")
        with pytest.raises(InvalidOption, match="lane"):
            await one(peer, f.Change(encode_key(KEY), c.PUT, b"v"))

    run(story())


def test_a_bucket_of_another_kind_takes_no_changes(world: Any) -> None:
    async def story() -> None:
        cluster = world.Cluster().start()
        with pytest.raises(InvalidOption, match="not linearizable"):
            await one(cluster.coordinator(), Caller().add(KEY))

    run(story())


def test_a_leader_that_is_known_to_be_away_is_not_waited_for() -> None:
    """*Without: each partition that it led costs its first change the patience for a leader.*"""

    async def story() -> None:
        cluster, peer, (first, second, _) = started()
        caller = Caller()
        await change(peer, caller.put(KEY, "v"))
        cluster.kill(first, "keep")
        cluster.down = {first: "it is being restarted"}
        cluster.publish(peer)
        asked = len(cluster.frames)
        began_s = asyncio.get_running_loop().time()
        assert (await change(peer, caller.put(KEY, "w")))[0].status == c.DONE
        assert asyncio.get_running_loop().time() - began_s < PATIENCE_S / 2
        assert cluster.promised(second, KEY)[1] == second
        to = [target for source, target, _ in cluster.frames[asked:] if source == peer.name]
        assert set(to) == {f"node/{second}"}

    run(story())
