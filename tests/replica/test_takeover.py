"""How a node comes to lead: each rule with the schedule that breaks a store without it (L1, L4, L9, L14)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from led_nodes import Caller, Leaders, run

from raykv.cluster import moves
from raykv.cluster.state import Move
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.linear_record import NO_TERM, pack_term, term_number
from raykv.replica import takeover

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "k"


def started(nodes: int = 3, copies: int = 3, **options: Any) -> tuple[Leaders, tuple[str, ...]]:
    """Return nodes, and those of them that own ``KEY``."""
    cluster = Leaders(nodes, copies, **options).start()
    return cluster, cluster.owners(KEY)


# ---- a term is one tenure of one run (L1) ----


def test_the_first_owner_leads_when_it_is_asked_and_the_others_point_to_it() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        for other in (second, third):
            assert await cluster.one(other, caller.put(KEY, "v")) == f.Settled(c.ELSEWHERE, leader=first)
        assert cluster.promised(first, KEY)[0] == NO_TERM, "nobody leads before it is asked"
        assert (await cluster.one(first, caller.put(KEY, "v"))).status == c.DONE
        term, leader = cluster.promised(first, KEY)
        assert (term_number(term), leader) == (1, first)
        assert cluster.wire.of(f.Apply) == [], "nobody is asked to do it in its place"

    run(story())


def test_what_is_no_owner_of_a_partition_points_to_its_first() -> None:
    async def story() -> None:
        cluster, owners = started(nodes=5)
        (stranger, _) = [node_id for node_id in cluster.ids if node_id not in owners]
        settled = await cluster.one(stranger, Caller().put(KEY, "v"), silent=owners, unable=owners)
        assert settled == f.Settled(c.ELSEWHERE, leader=owners[0])
        assert cluster.wire.sent == [], "it does not run for it either"

    run(story())


@pytest.mark.parametrize("lack", ["incomplete", "a full disk"])
def test_a_node_that_cannot_vote_or_write_does_not_lead(lack: str) -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        if lack == "incomplete":
            cluster.wipe(first)
            cluster.start_node(first)
        else:
            cluster.replica(first).no_room = "the disk is full"
        assert await cluster.one(first, Caller().put(KEY, "v")) == f.Settled(c.UNABLE)
        assert cluster.wire.of(f.Promise) == []

    run(story())


def test_a_restarted_leader_does_not_go_on_under_its_term() -> None:
    """*Schedule (L1): it goes on under its term, with the seq that its memory says: two records of one name.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "one"))
        former = cluster.promised(first, KEY)[0]
        lost = cluster.wire.hold(f.Accept, target=third)
        cluster.wire.hold(f.Accept, target=second, answers=True)
        cluster.process(first).executor.gate.clear()  # its own log does not get there
        asyncio.get_running_loop().create_task(cluster.one(first, caller.put(KEY, "two"), timeout_s=0.5))
        await asyncio.sleep(0.1)
        assert cluster.record(second, KEY).payload == b"two"
        cluster.kill(first, "drop")
        lost.release()
        cluster.wire.rules.clear()
        cluster.start_node(first)
        assert cluster.record(first, KEY).payload == b"one"
        assert (await cluster.one(first, caller.put(KEY, "three"))).status == c.DONE
        assert cluster.promised(first, KEY)[0] > former
        assert all(len(records) == 1 for records in cluster.names().values()), "one name, one record"
        assert cluster.payloads(KEY) == [b"three"] * 3

    run(story())


def test_a_candidate_promises_first_itself_and_durably() -> None:
    """*Schedule (L1): it asks first. A restart later, an amnesiac among those asked is all that has heard of the term.*"""

    async def story() -> None:
        cluster, (first, *_) = started()
        cluster.process(first).executor.delay_s = 0.2
        rule = cluster.wire.hold(f.Promise)
        task = asyncio.get_running_loop().create_task(cluster.one(first, Caller().put(KEY, "v"), timeout_s=3.0))
        asked = (await rule.caught()).term
        cluster.kill(first, "drop")
        task.cancel()
        cluster.start_node(first)
        assert cluster.promised(first, KEY) == (asked, first)

    run(story())


def test_a_term_lies_above_all_that_were_heard_of() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        for node_id in (second, third):
            cluster.promise(node_id, KEY, pack_term(8, 5), second)
        caller = Caller()
        pointed = await cluster.one(first, caller.put(KEY, "v"))
        assert pointed == f.Settled(c.ELSEWHERE, leader=second), "it was refused, and told by whom"
        await asyncio.sleep(2.0)
        assert (await cluster.one(first, caller.put(KEY, "v"), unable=[second])).status == c.DONE
        assert term_number(cluster.promised(third, KEY)[0]) == 9

    run(story())


def test_without_a_majority_nobody_leads() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        for node_id in (second, third):
            cluster.wire.hold(target=node_id)
        settled = await cluster.one(first, Caller().put(KEY, "v"))
        assert settled.status == c.NO_QUORUM
        assert cluster.tenure(first, KEY) is None

    run(story())


# ---- F promises at one moment (L4) ----


def forgotten_and_healed(cluster: Leaders, node_id: str, term: bytes, leader: str) -> None:
    """A node loses its directory, and heals from others that have promised ``leader`` its term."""
    cluster.wipe(node_id)
    cluster.start_node(node_id)
    cluster.replica(node_id).promises.keep(*cluster.led(KEY), term, leader)
    cluster.replica(node_id).mark_complete(())


def test_promises_count_that_stand_at_one_moment_in_one_directory() -> None:
    """*Schedule (L4): A promises C and is wiped; it heals from B, D, E, and then B promises C. C counts the promise of a
    directory that is gone, while the old leader D writes with A and E.*"""

    async def story() -> None:
        cluster, (d, c_, a, b, e) = started(5, 5)
        caller = Caller()
        assert (await cluster.one(d, caller.put(KEY, "one"))).status == c.DONE
        term = cluster.promised(d, KEY)[0]
        for node_id in (d, e):
            cluster.wire.hold(f.Promise, target=node_id)
        late = cluster.wire.hold(f.Promise, target=b)
        granted = cluster.wire.hold(f.Promise, target=a, answers=True)
        task = asyncio.get_running_loop().create_task(
            cluster.one(c_, Caller(2).put(KEY, "never"), silent=[d], unable=[d], timeout_s=1.5)
        )
        await granted.caught()
        granted.release()
        await asyncio.sleep(0.01)
        forgotten_and_healed(cluster, a, term, d)
        late.release()
        settled = await task
        assert cluster.promised(b, KEY)[1] == c_, "this promise stands"
        assert cluster.tenure(c_, KEY) is None, "two of five are no majority"
        assert settled.status in {c.NO_QUORUM, c.ELSEWHERE}
        cluster.wire.rules.clear()
        for node_id in (b, c_):
            cluster.wire.hold(f.Accept, source=d, target=node_id)
        assert (await cluster.one(d, caller.put(KEY, "two"))).status == c.DONE, "D, A and E are one"
        assert b"never" not in cluster.payloads(KEY)

    run(story())


def test_the_same_promise_in_another_directory_is_another_promise() -> None:
    """It may have been given for what the directory before it held."""

    async def story() -> None:
        cluster, (first, second, third) = started()
        cluster.wire.hold(f.Promise, target=third)
        held = cluster.wire.hold(f.Promise, target=second, answers=True)
        task = asyncio.get_running_loop().create_task(cluster.one(first, Caller().put(KEY, "v"), timeout_s=1.5))
        term = (await held.caught()).term
        held.release()
        again = cluster.wire.hold(f.Promise, target=second)
        assert (await again.caught()).again
        forgotten_and_healed(cluster, second, term, first)
        again.release()
        await task
        assert cluster.tenure(first, KEY) is None

    run(story())


def test_a_node_that_was_superseded_while_it_asked_again_does_not_lead() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        again = cluster.wire.hold(f.Promise, target=second)
        cluster.wire.hold(f.Promise, target=third)
        task = asyncio.get_running_loop().create_task(cluster.one(first, Caller().put(KEY, "v"), timeout_s=1.5))
        await again.caught()
        cluster.promise(first, KEY, pack_term(7, 7), third)
        again.release()
        settled = await task
        assert cluster.tenure(first, KEY) is None
        assert settled == f.Settled(c.ELSEWHERE, leader=third)

    run(story())


# ---- a term is bound to the sets that promised it (L9) ----


async def pull(cluster: Leaders, node_id: str) -> None:
    """Have a new owner take the partition over."""
    answer = await cluster.ask(node_id, f.PullPartition(cluster.partition(KEY), 60.0))
    assert isinstance(answer, f.Repaired), answer


def steps(cluster: Leaders, new: tuple[str, ...]) -> Iterator[Any]:
    """Go through the steps of a move of the partition of ``KEY`` to these owners."""
    cluster.state = moves.begun(cluster.state, (Move(cluster.partition(KEY), new),))
    yield 1
    cluster.state = moves.reading_new(cluster.state)
    yield 2
    cluster.state = moves.ended(cluster.state)
    yield 3


def strangers(cluster: Leaders) -> list[str]:
    return [node_id for node_id in cluster.ids if node_id not in cluster.owners(KEY)]


def test_a_leader_that_slept_through_a_move_does_not_go_on_where_it_was() -> None:
    """*Schedule (L9): B, which C has superseded among the old owners, sleeps through the move. C asks none of the new ones;
    they promise B its term once more, and B shows from its head what stood before C.*"""

    async def story() -> None:
        cluster, (sleeper, other, _) = started(5)
        new = (sleeper, *strangers(cluster))
        caller = Caller()
        assert (await cluster.one(sleeper, caller.put(KEY, "before"))).status == c.DONE
        former = cluster.process(sleeper)
        cluster.freeze(sleeper)
        assert (await cluster.one(other, caller.put(KEY, "after"), silent=[sleeper])).status == c.DONE
        for step in steps(cluster, new):
            cluster.tell(*[node_id for node_id in cluster.ids if node_id != sleeper])
            if step == 1:
                for node_id in new[1:]:
                    await pull(cluster, node_id)
        cluster.thaw(former)
        cluster.tell(sleeper)
        read = await cluster.one(sleeper, caller.read(KEY))
        assert read.payload == b"after" or read.status in {c.ELSEWHERE, c.NO_QUORUM}, "what C wrote is passed over"

    run(story())


def test_of_two_leaders_in_a_move_one_finds_no_majority() -> None:
    """*Schedule (L9): the new owners have promised nobody. B goes on with them, C with the old ones: both write.*"""

    async def story() -> None:
        cluster, (sleeper, other, _) = started(5)
        new = (sleeper, *strangers(cluster))
        caller = Caller()
        await cluster.one(sleeper, caller.put(KEY, "before"))
        former = cluster.process(sleeper)
        cluster.freeze(sleeper)
        going = steps(cluster, new)
        next(going)
        cluster.tell(*[node_id for node_id in cluster.ids if node_id != sleeper])
        assert (await cluster.one(other, caller.put(KEY, "after"), silent=[sleeper])).status == c.DONE
        for node_id in new[1:]:
            assert cluster.promised(node_id, KEY)[1] == other, "of each of the sets F have promised it"
        cluster.thaw(former)
        cluster.tell(sleeper)
        settled = await cluster.one(sleeper, Caller(2).put(KEY, "never"))
        assert settled.status in {c.ELSEWHERE, c.NO_QUORUM}
        assert b"never" not in [cluster.record(at, KEY).payload for at in (other, *new[1:])]

    run(story())


def test_a_leader_goes_on_through_a_move_and_has_its_term_promised_by_the_new_owners_first() -> None:
    async def story() -> None:
        cluster, (first, *rest) = started(5)
        new = (first, *strangers(cluster))
        caller = Caller()
        await cluster.one(first, caller.add(KEY))
        term = cluster.promised(first, KEY)[0]
        for step in steps(cluster, new):
            cluster.tell()
            if step == 1:
                for node_id in new[1:]:
                    await pull(cluster, node_id)
            cluster.wire.sent.clear()
            assert (await cluster.one(first, caller.add(KEY))).payload[-1] == step + 1
            for node_id in new[1:]:
                assert cluster.promised(node_id, KEY) == (term, first)
                if step == 1:
                    kinds = [type(sent.body) for sent in cluster.wire.sent if sent.target == node_id]
                    assert kinds.index(f.Promise) < kinds.index(f.Accept)
        assert {at: cluster.record(at, KEY).payload[-1] for at in new} == dict.fromkeys(new, 4)
        assert [cluster.record(at, KEY).payload[-1] for at in rest] == [3, 3], "the old ones are left out"

    run(story())


@pytest.mark.parametrize("left", ["old", "new"])
def test_f_of_each_set_and_not_f_of_both_together(left: str) -> None:
    """*Schedule (L9): C wins with the new owners, B goes on with the old: of six four are a majority of neither.*"""

    async def story() -> None:
        cluster, owners = started(7)
        first = owners[0]
        new = (first, *strangers(cluster)[:2])
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        next(steps(cluster, new))
        cluster.tell()
        for node_id in owners[1:] if left == "old" else new[1:]:
            cluster.wire.hold(target=node_id)
        settled = await cluster.one(first, caller.put(KEY, "after"), timeout_s=3.0)
        assert settled.status == c.NO_QUORUM

    run(story())


# ---- takeover is liveness only (L14) ----


def test_a_leader_that_answers_a_ping_is_pointed_to_whatever_the_caller_says() -> None:
    """*Schedule (L14): each client that waits too long has another owner take over, and nothing comes to its end.*"""

    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        assert await cluster.one(second, caller.put(KEY, "w"), silent=[first]) == f.Settled(c.ELSEWHERE, leader=first)
        assert [sent.target for sent in cluster.wire.of(f.Ping)] == [first]
        assert cluster.promised(second, KEY)[1] == first

    run(story())


@pytest.mark.parametrize("end", ["killed", "frozen"])
def test_one_that_does_not_is_superseded(end: str) -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        cluster.kill(first) if end == "killed" else cluster.freeze(first)
        settled = await cluster.one(second, caller.read(KEY), silent=[first], timeout_s=2.0)
        assert (settled.status, settled.payload) == (c.DONE, b"v")
        assert cluster.promised(third, KEY)[1] == second

    run(story())


def test_a_silent_leader_is_pinged_once_for_all_that_ask() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        cluster.freeze(first)
        asked = [cluster.one(second, Caller(lane).add(KEY), silent=[first]) for lane in range(1, 9)]
        assert [settled.status for settled in await asyncio.gather(*asked)] == [c.DONE] * 8
        assert cluster.record(second, KEY).payload[-1] == 8
        assert len({sent.body.term for sent in cluster.wire.of(f.Promise)}) == 1

    run(story())


def test_a_refused_takeover_is_not_tried_again_for_a_while() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        for node_id in (second, third):
            cluster.wire.hold(f.Promise, target=node_id)
        terms = set()
        for _ in range(20):
            await cluster.one(first, Caller().put(KEY, "v"), timeout_s=0.1)
            await asyncio.sleep(0.1)
            terms |= {sent.body.term for sent in cluster.wire.of(f.Promise)}
        began_s = len(terms)
        assert began_s <= 2 + 4 * 0.1 / (takeover.TAKEOVER_EVERY_S / 2), "at most once in half a second"

    run(story())


def test_a_superseded_leader_drops_its_heads_and_points_to_its_successor() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        cluster.freeze(first)
        await cluster.one(second, caller.put(KEY, "w"), silent=[first])
        cluster.thaw(cluster.process(first))
        settled = await cluster.one(first, Caller(2).put(KEY, "never"))
        assert settled == f.Settled(c.ELSEWHERE, leader=second)
        assert cluster.tenure(first, KEY) is None
        assert b"never" not in cluster.payloads(KEY)[1:]

    run(story())


def test_a_first_owner_that_returns_takes_its_partitions_back() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        cluster.kill(first)
        await cluster.one(second, caller.put(KEY, "w"), silent=[first])
        cluster.start_node(first)
        for node_id in (second, cluster.owners(KEY)[2]):
            cluster.promise(first, KEY, *cluster.promised(node_id, KEY))
        leaders = cluster.node(first)._leaders
        await leaders.balance()
        assert cluster.tenure(first, KEY) is None, "it has come a moment ago"
        await asyncio.sleep(takeover.BALANCE_AFTER_S)
        await leaders.balance()
        assert cluster.tenure(first, KEY) is not None
        assert cluster.promised(second, KEY)[1] == first
        before = len(cluster.wire.of(f.Promise))
        await leaders.balance()
        assert len(cluster.wire.of(f.Promise)) == before, "nothing is left to be taken"
        read = await cluster.one(first, caller.read(KEY))
        assert read.payload == b"w"

    run(story())


def test_what_nobody_has_led_yet_is_not_taken() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        await asyncio.sleep(takeover.BALANCE_AFTER_S)
        await cluster.node(first)._leaders.balance()
        assert cluster.wire.of(f.Promise) == []

    run(story())


# ---- a leader that is to be stopped ----


def test_a_leader_that_is_to_be_stopped_hands_over_and_leads_nothing_more() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        assert (await cluster.one(first, caller.put(KEY, "v"))).status == c.DONE
        former = cluster.promised(first, KEY)[0]
        assert await cluster.ask(first, f.HandOver(60.0)) == f.HandedOver(0)
        assert cluster.promised(first, KEY)[1] == second
        assert cluster.promised(first, KEY)[0] > former
        assert await cluster.one(first, caller.put(KEY, "w")) == f.Settled(c.ELSEWHERE, leader=second)
        before = len(cluster.wire.of(f.Promise))
        assert (await cluster.one(second, caller.put(KEY, "w"))).status == c.DONE
        assert len(cluster.wire.of(f.Promise)) == before, "it leads already"
        assert cluster.payloads(KEY) == [b"w"] * 3
        settled = await cluster.one(first, caller.put(KEY, "x"), silent=[second], unable=[second])
        assert settled == f.Settled(c.UNABLE), "it takes nothing back"
        assert (await cluster.one(third, caller.put(KEY, "x"), unable=[first, second])).status == c.DONE

    run(story())


def test_a_call_that_waits_while_its_leader_hands_over_is_told_where_to_go_and_counts_once() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        held = cluster.wire.hold(f.Accept, source=first)
        cluster.process(first).executor.gate.clear()  # its own log does not get there
        waiting = asyncio.get_running_loop().create_task(cluster.one(first, caller.put(KEY, "w", number=9)))
        await asyncio.sleep(0.01)
        cluster.process(first).executor.gate.set()
        assert await cluster.ask(first, f.HandOver(60.0)) == f.HandedOver(0)
        assert await waiting == f.Settled(c.ELSEWHERE, leader=second)
        held.end()
        again = await cluster.one(second, caller.put(KEY, "w", number=9, resent=True))
        assert again.status == c.DONE
        assert cluster.payloads(KEY) == [b"w"] * 3
        assert all(len(records) == 1 for records in cluster.names().values())

    run(story())


def test_it_leads_again_if_it_is_not_stopped_after_all() -> None:
    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        await cluster.ask(first, f.HandOver(5.0))
        assert cluster.promised(first, KEY)[1] == second
        await asyncio.sleep(6)
        assert (await cluster.one(first, caller.put(KEY, "w"), unable=[second])).status == c.DONE
        assert cluster.promised(second, KEY)[1] == first

    run(story())


def test_where_nobody_takes_over_it_leads_until_it_is_stopped() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        for other in (second, third):
            cluster.replica(other).no_room = "the disk is full"
            cluster.replica(other).room_for_deletes = True
        assert await cluster.ask(first, f.HandOver(60.0)) == f.HandedOver(1)
        assert cluster.promised(first, KEY)[1] == first
        for other in (second, third):
            cluster.replica(other).no_room = ""
        assert (await cluster.one(first, caller.put(KEY, "w"))).status == c.DONE

    run(story())


def test_who_is_no_owner_takes_nothing() -> None:
    async def story() -> None:
        cluster, owners = started(nodes=5)
        (stranger, _) = [node_id for node_id in cluster.ids if node_id not in owners]
        assert await cluster.ask(stranger, f.Lead(3, [cluster.partition(KEY)])) == f.HandedOver(1)
        assert cluster.wire.sent == []

    run(story())
