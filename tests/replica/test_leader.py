"""What a leader answers, and when: each rule with the schedule that breaks a store without it (L5 to L7, L10 to L12)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from led_nodes import BUCKET, WALL_MS, Caller, Leaders, Rule, cell, run

from raykv.config import MAX_BATCH_ITEMS, MAX_PAIR_BYTES
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.keys import encode_key
from raykv.records.linear_record import MAX_RECEIPTS, LinearRecord, Receipt
from raykv.replica import leader
from raykv.versions import time_from_ms

KEY = "k"


def started(nodes: int = 3, copies: int = 3, **options: Any) -> tuple[Leaders, tuple[str, ...]]:
    """Return nodes, and those of them that own ``KEY``."""
    cluster = Leaders(nodes, copies, **options).start()
    return cluster, cluster.owners(KEY)


def begin(cluster: Leaders, node_id: str, change: f.Change, **options: Any) -> asyncio.Task[f.Settled]:
    return asyncio.get_running_loop().create_task(cluster.one(node_id, change, **options))


async def to_none(cluster: Leaders, node_id: str, change: f.Change, timeout_s: float = 0.3) -> None:
    """Have a leader carry out a change of which no other owner hears."""
    rule = cluster.wire.hold(f.Accept, source=node_id)
    settled = await cluster.one(node_id, change, timeout_s=timeout_s)
    assert settled.status == c.NO_QUORUM
    rule.end()


def mates(cluster: Leaders, count: int) -> list[str]:
    """Keys of the partition of ``KEY``."""
    found = [key for key in map(str, range(40_000)) if cluster.partition(key) == cluster.partition(KEY)]
    return found[:count]


# ---- a new term looks before it shows (L5) ----


def restored(value: bytes) -> bytes:
    """A record of another store, as a restore loads it."""
    record = LinearRecord((7).to_bytes(8) + bytes(8), 9, time_from_ms(WALL_MS), value)
    return linear.renewed(linear.encode(record), 5)


async def load(cluster: Leaders, key: str, record: bytes) -> None:
    loaded = await cluster.coordinator().front.carry_out(f.LoadRecords(BUCKET, [(encode_key(key), record)], 5.0))
    assert loaded.data == 1


@pytest.mark.parametrize("touched", [False, True])
def test_what_a_restore_brings_under_a_term_is_shown_and_not_inserted_again(touched: bool) -> None:
    async def story() -> None:
        cluster, (first, *others) = started()
        caller = Caller()
        (other,) = mates(cluster, 1)
        await cluster.one(first, caller.put(other, "a program is early"))
        if touched:
            assert (await cluster.one(first, caller.read(KEY))).payload is None
        await load(cluster, KEY, restored(b"v"))
        assert (await cluster.one(first, caller.read(KEY))).payload == b"v"
        settled = await cluster.one(first, caller.put(KEY, "anew", condition=b""))
        assert (settled.status, settled.payload) == (c.CONFLICT, b"v")
        assert (await cluster.one(first, caller.read(other))).payload == b"a program is early"
        assert {node_id for node_id in (first, *others) if cluster.tenure(node_id, KEY)} == {first}

    run(story())


def test_what_a_restore_brings_while_a_term_is_promised_is_shown() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        cluster.wire.hold(f.Promise, target=third)
        confirmed = cluster.wire.hold(f.Promise, target=second, answers=True)
        (other,) = mates(cluster, 1)
        task = begin(cluster, first, caller.put(other, "a program is early"))
        await confirmed.caught()
        confirmed.let_go(1)
        # It has said once more that it promises, and that it holds nothing.
        while len(confirmed.held) < 2:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.001)
        await load(cluster, KEY, restored(b"v"))
        confirmed.release()
        assert (await task).status == c.DONE
        assert (await cluster.one(first, caller.read(KEY))).payload == b"v"

    run(story())


def test_a_value_that_one_owner_has_is_written_again_before_it_is_shown() -> None:
    """*Schedule (L5): v is on A only. A read that includes A shows it; the next majority lacks it.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        cluster.wire.hold(f.Accept, target=third)
        lost = cluster.wire.hold(f.Accept, target=second, answers=True)
        cluster.process(first).executor.gate.clear()
        task = begin(cluster, first, caller.put(KEY, "v"), timeout_s=0.3)
        await lost.caught()
        cluster.kill(first, "drop")
        task.cancel()
        cluster.wire.rules.clear()
        assert cluster.payloads(KEY)[1:] == [b"v", b"before"]
        read = await cluster.one(third, caller.read(KEY), silent=[first])
        assert read.payload == b"v"
        assert cluster.payloads(KEY)[1:] == [b"v", b"v"], "it is on a majority once it was shown"
        assert cluster.record(second, KEY).term == cluster.promised(third, KEY)[0]
        assert cluster.record(second, KEY).version == read.version, "it is no new version of it"

    run(story())


def test_a_refusal_too_waits_for_what_it_is_based_on() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await to_none(cluster, first, caller.put(KEY, "v"))
        cluster.wire.hold(target=second)
        held = cluster.wire.hold(f.Accept, target=third)
        cluster.kill(second)
        cluster.node(first)._leaders._tenures.clear()  # as if it had led before, and were asked anew
        task = begin(cluster, first, Caller(2).put(KEY, "w", condition=b""))
        await held.caught()
        assert not task.done()
        held.release()
        refused = await task
        assert (refused.status, refused.payload) == (c.CONFLICT, b"v")
        assert cluster.record(third, KEY).payload == b"v"

    run(story())


def test_a_new_leader_does_not_rely_on_its_own_copy() -> None:
    """*Schedule (L5): B and C acknowledge v, A missed it. A leads and shows from its own copy what stood before.*"""

    async def story() -> None:
        cluster, (first, _second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        rule = cluster.wire.hold(f.Accept, target=third)
        assert (await cluster.one(first, caller.put(KEY, "v"))).status == c.DONE
        rule.end()
        cluster.kill(first)
        assert cluster.record(third, KEY).payload == b"before"
        assert (await cluster.one(third, caller.read(KEY), silent=[first])).payload == b"v"

    run(story())


def test_where_the_copies_agree_nothing_is_written() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        await asyncio.sleep(0.1)
        cluster.kill(first)
        cluster.wire.sent.clear()
        assert (await cluster.one(second, caller.read(KEY), silent=[first])).payload == b"v"
        rounds = [sent.body for sent in cluster.wire.of(f.Accept)]
        assert rounds
        assert all(items == [] for body in rounds for _, _, items in body.groups)
        assert [sent.target for sent in cluster.wire.of(f.Look)] == [first, third] or first not in cluster.owners(KEY)

    run(story())


def test_what_no_majority_shows_is_not_led() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        cluster.node(first)._leaders._tenures.clear()
        for node_id in (second, third):
            cluster.wire.hold(f.Look, target=node_id)
        assert (await cluster.one(first, caller.read(KEY), timeout_s=3.0)).status == c.NO_QUORUM

    run(story())


# ---- one order, and F durable copies (L6) ----


def test_seq_counts_over_the_term_and_not_over_the_key() -> None:
    """*Schedule (L6): after a purge a new record stands below a tombstone that one owner still has.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        for _ in range(3):
            await cluster.one(first, caller.put(KEY, "v"))
        await cluster.one(first, caller.delete(KEY))
        await asyncio.sleep(0.1)
        for node_id in (first, second):  # the third missed that it is forgotten
            cluster.node(node_id)._engine.erase(cluster.place(KEY))
        tenure = cluster.tenure(first, KEY)
        assert tenure is not None
        tenure.drop((BUCKET, encode_key(KEY)))  # nobody asked for it for long
        rule = cluster.wire.hold(f.Look, target=third)
        assert (await cluster.one(first, caller.put(KEY, "new"))).status == c.DONE
        rule.end()
        await asyncio.sleep(0.1)
        assert cluster.payloads(KEY) == [b"new"] * 3

    run(story())


def test_all_names_are_of_one_record_and_grow() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        callers = [Caller(lane) for lane in range(1, 6)]
        for _ in range(4):
            await asyncio.gather(
                *(cluster.one(first, caller.add(key)) for caller in callers for key in mates(cluster, 2))
            )
        assert all(len(records) == 1 for records in cluster.names().values())

    run(story())


@pytest.mark.parametrize("slow", [(), (0,), (1,), (0, 1)], ids=["none", "the leader's", "the other's", "both"])
def test_a_change_is_acknowledged_when_f_owners_have_it_durably(slow: tuple[int, ...]) -> None:
    """*Schedule without (L6): the leader counts itself before its log is durable, and loses power.*"""

    async def story() -> None:
        cluster, owners = started()
        await cluster.one(owners[0], Caller().put(KEY, "before"))
        gates = [cluster.process(owners[at]).executor.gate for at in slow]
        for gate in gates:
            gate.clear()
        cluster.wire.hold(f.Accept, target=owners[2])
        task = begin(cluster, owners[0], Caller(2).put(KEY, "v"), timeout_s=3.0)
        await asyncio.sleep(0.5)
        assert task.done() == (not slow)
        for gate in gates:
            gate.set()
        assert (await task).status == c.DONE

    run(story())


def test_an_owner_with_a_later_record_is_no_acknowledgement_and_ends_the_term() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        later = linear.encode(LinearRecord(linear.pack_term(9, 1), 1, WALL_MS << 16, b"later"))
        await cluster.give(second, KEY, later)
        cluster.wire.hold(f.Accept, target=third)
        settled = await cluster.one(first, caller.put(KEY, "v"))
        assert settled.status in {c.ELSEWHERE, c.NO_QUORUM}
        assert cluster.tenure(first, KEY) is None

    run(story())


def test_what_reaches_an_owner_by_other_ways_is_no_acknowledgement() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        held = [cluster.wire.hold(f.Accept, target=node_id) for node_id in (second, third)]
        task = begin(cluster, first, caller.put(KEY, "v"), timeout_s=0.5)
        await held[0].caught()
        for node_id in (second, third):
            await cluster.give(node_id, KEY, cluster.stored(first, KEY))
        assert (await task).status == c.NO_QUORUM

    run(story())


def test_of_several_changes_in_one_round_the_last_record_is_sent() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        await cluster.one(first, Caller().add(KEY, 0))
        cluster.wire.sent.clear()
        answers = await asyncio.gather(*(cluster.one(first, Caller(lane).add(KEY)) for lane in range(2, 66)))
        assert sorted(int.from_bytes(settled.payload[1:]) for settled in answers) == [*range(1, 65)]
        assert len({sent.body.groups[0][2][0][2] for sent in cluster.wire.of(f.Accept)}) <= 2, (
            "64 share a round, or two"
        )

    run(story())


def test_a_round_that_fails_is_sent_again() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        await cluster.one(first, Caller().put(KEY, "before"))
        for node_id in (second, third):
            cluster.kill(node_id)
        task = begin(cluster, first, Caller(2).put(KEY, "v"), timeout_s=8.0)
        await asyncio.sleep(0.5)
        assert not task.done()
        cluster.start_node(second)
        assert (await task).status == c.DONE
        assert cluster.record(second, KEY).payload == b"v"

    run(story())


def test_an_owner_that_missed_a_record_gets_a_hint() -> None:
    async def story() -> None:
        cluster, (first, _, third) = started()
        await cluster.one(first, Caller().put(KEY, "before"))
        cluster.kill(third)
        assert (await cluster.one(first, Caller(2).put(KEY, "v"))).status == c.DONE
        await asyncio.sleep(5.0)
        assert cluster.node(first).hints_waiting == {third: 1}

    run(story())


# ---- nothing is answered from memory alone (L7) ----


@pytest.mark.parametrize("asked", ["read", "conflict", "no effect"])
def test_a_superseded_leader_answers_nothing_from_its_head(asked: str) -> None:
    """*Schedule (L7): B is cut off and superseded; it goes on answering reads and refusals from its head.*"""

    async def story() -> None:
        cluster, (first, second, _third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "before"))
        out = [cluster.wire.hold(source=first), cluster.wire.hold(target=first)]
        assert (await cluster.one(second, caller.delete(KEY), silent=[first])).status == c.DONE
        change = {
            "read": caller.read(KEY),
            "conflict": Caller(2).put(KEY, "never", condition=b""),
            "no effect": Caller(2).call(KEY, c.MAXIMUM, cell(-5)),
        }[asked]
        settled = await cluster.one(first, change, timeout_s=1.0)
        assert settled.status == c.NO_QUORUM, "nobody has confirmed it"
        for rule in out:
            rule.end()
        await asyncio.sleep(0.5)
        settled = await cluster.one(first, change)
        assert settled == f.Settled(c.ELSEWHERE, leader=second)

    run(story())


@pytest.mark.parametrize("asked", ["read", "conflict"])
def test_what_only_the_leader_holds_is_not_shown(asked: str) -> None:
    """*Schedule (L7): a read shows a value that only the leader holds, and the leader dies.*"""

    async def story() -> None:
        cluster, (first, _second, _third) = started()
        await cluster.one(first, Caller().add("other"))
        held = cluster.wire.hold(f.Accept, source=first)
        write = begin(cluster, first, Caller(2).put(KEY, "v"))
        await held.caught()
        change = Caller.read(KEY) if asked == "read" else Caller(3).put(KEY, "w", condition=b"")
        read = begin(cluster, first, change)
        await asyncio.sleep(0.2)
        assert not write.done()
        assert not read.done()
        held.release()
        assert (await write).status == c.DONE
        assert (await read).payload == b"v"
        assert cluster.payloads(KEY).count(b"v") >= 2

    run(story())


def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    """*Schedule (L7): the owners have accepted the round under way, and a new leader by the time of the read.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        caller, (mate,) = Caller(), mates(cluster, 1)
        await cluster.one(first, caller.put(KEY, "before"))
        await cluster.one(first, caller.put(mate, "v"))
        held = {"source": first, "answers": True}
        answers = [cluster.wire.hold(f.Accept, target=node_id, **held) for node_id in (second, third)]
        write = begin(cluster, first, caller.put(mate, "w"))
        for rule in answers:
            await rule.caught()
        for node_id in (second, third):
            cluster.wire.hold(source=node_id, target=first)
        after = await cluster.one(second, Caller(2).put(KEY, "after"), silent=[first], timeout_s=1.0)
        assert after.status == c.DONE
        read = begin(cluster, first, caller.read(KEY))
        await asyncio.sleep(0.01)
        for rule in answers:
            rule.release()
        assert (await write).status == c.DONE, "it was accepted before"
        assert await read == f.Settled(c.ELSEWHERE, leader=second)

    run(story())


# ---- a call is carried out once (L10) ----


def test_a_call_that_is_sent_again_gets_the_answer_that_it_had() -> None:
    """*Schedule (L10): an add whose answer was lost is sent again and counted twice.*"""

    async def story() -> None:
        cluster, (first, *_) = started()
        call = Caller().add(KEY)
        answers = [await cluster.one(first, call) for _ in range(3)]
        assert answers == [answers[0]] * 3
        assert cluster.record(first, KEY).payload == cell(1)

    run(story())


def test_twice_at_once_is_once() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        call = Caller().add(KEY)
        answers = await asyncio.gather(*(cluster.one(first, call) for _ in range(5)))
        assert [*answers] == [answers[0]] * 5
        assert cluster.record(first, KEY).payload == cell(1)

    run(story())


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_new_leader_finds_the_value_with_its_receipt(acknowledged: bool) -> None:
    """*Schedule (L10): receipts lie beside the record. A new leader finds the value without them, and adds once more.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        call = Caller().add(KEY)
        rules: list[Rule] = []
        if not acknowledged:
            await cluster.one(first, Caller(2).add(mates(cluster, 1)[0]))
            cluster.process(first).executor.gate.clear()
            rules.append(cluster.wire.hold(f.Accept, target=third))
            rules.append(cluster.wire.hold(f.Accept, target=second, answers=True))
        task = begin(cluster, first, call, timeout_s=0.5)
        await (rules[-1].caught() if rules else task)
        cluster.kill(first)
        task.cancel()
        for rule in rules:
            rule.end()
        again = await cluster.one(second, f.Change(call.key, call.kind, call.payload, call.lane, call.number, resent=True),
                                  silent=[first])  # fmt: skip
        assert (again.status, again.payload) == (c.DONE, cell(1))
        assert cluster.payloads(KEY)[1:] == [cell(1)] * 2

    run(story())


def test_a_lower_number_of_a_lane_is_refused() -> None:
    """*Schedule without (L10): a sending of the lane's former call comes late and is carried out once more.*"""

    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        one, two = caller.add(KEY), caller.add(KEY)
        await cluster.one(first, one)
        await cluster.one(first, two)
        assert (await cluster.one(first, one)).status == c.STALE
        cluster.kill(first)
        assert (await cluster.one(second, one, silent=[first])).status == c.STALE, "the record tells the new leader"
        assert cluster.record(second, KEY).payload == cell(2)

    run(story())


def test_a_lane_that_has_gone_on_does_not_go_back_at_another_key() -> None:
    """*Schedule without (L10): the call was lost on its way, its client has given it up and gone on: it comes after all.*"""

    async def story() -> None:
        cluster, (first, *_) = started()
        caller, (mate,) = Caller(), mates(cluster, 1)
        lost = caller.put(KEY, "lost")
        await cluster.one(first, caller.put(mate, "v"))
        assert (await cluster.one(first, lost)).status == c.STALE
        assert cluster.record(first, KEY) is None

    run(story())


def test_a_key_has_a_bounded_number_of_receipts() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        for start in range(0, MAX_RECEIPTS, 256):
            calls = [Caller(lane).add(KEY) for lane in range(start, start + 256)]
            assert {each.status for each in await cluster.apply(first, *calls)} == {c.DONE}
        late = Caller(MAX_RECEIPTS)
        assert (await cluster.one(first, late.add(KEY))).status == c.TOO_LARGE
        assert (await cluster.one(first, Caller(0).add(KEY, number=2))).status == c.DONE, (
            "a lane that goes on has a place"
        )
        await asyncio.sleep(5.0 * (1 + leader.DRIFT))
        assert (await cluster.one(first, late.add(KEY))).status == c.DONE, "the time of the others is over"

    run(story())


def test_receipts_of_large_values_fit_into_the_record() -> None:
    """Else no owner takes it, and nothing in its partition is acknowledged any more."""

    async def story() -> None:
        cluster, (first, *_) = started()
        statuses = []
        for lane in range(1, 6):
            swap = Caller(lane).call(KEY, c.SWAP, bytes([lane]) * MAX_PAIR_BYTES)
            statuses.append((await cluster.one(first, swap)).status)
        assert statuses[0] == statuses[1] == c.DONE
        assert {*statuses[2:]} <= {c.DONE, c.TOO_LARGE}
        assert (await cluster.one(first, Caller(9).add(mates(cluster, 1)[0]))).status == c.DONE

    run(story())


@pytest.mark.parametrize(
    "change",
    [
        f.Change(encode_key(KEY), c.PUT, b"v", b"", 1),
        f.Change(encode_key(KEY), c.PUT, b"v", b"short", 1),
        f.Change(encode_key(KEY), c.PUT, b"", bytes(8), 1),
        f.Change(encode_key(KEY), c.SWAP, b"", bytes(8), 1),
        f.Change(encode_key(KEY), c.PUT, bytes(MAX_PAIR_BYTES + 2), bytes(8), 1),
    ],
    ids=["no lane", "a short lane", "an empty value", "swapped for an empty one", "a value too large"],
)
def test_what_no_record_can_hold_is_refused_before_it_is_begun(change: f.Change) -> None:
    """Else its partition is led no further: no owner takes the record."""

    async def story() -> None:
        cluster, (first, *_) = started()
        node = cluster.node(first)
        answer = await cluster.ask(first, f.Apply(BUCKET, [change], node.incarnation, node._clock.monotonic_s() + 1.0))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"
        assert (await cluster.one(first, Caller().put(KEY, "v"))).status == c.DONE

    run(story())


# ---- a repeated refusal is written (L11) ----


def test_a_call_that_was_sent_before_and_is_refused_now_leaves_its_receipt() -> None:
    """*Schedule (L11): A has put 8 and cas(8 -> 9) in its own copy only. The client asks B, and is refused. A's copy comes
    to light: 9, for a change that was reported as refused.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        cluster.wire.hold(f.Accept, source=first)
        await cluster.one(first, caller.put(KEY, "8"), timeout_s=0.3)
        eight = cluster.record(first, KEY).version
        call = caller.put(KEY, "9", condition=eight)
        await cluster.one(first, call, timeout_s=4.0)
        cluster.wire.rules.clear()
        assert cluster.payloads(KEY) == [b"9", None, None]
        cluster.kill(first, "keep")
        again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, eight, resent=True)
        assert (await cluster.one(second, again, silent=[first])).status == c.CONFLICT
        assert cluster.record(second, KEY).receipts[0].status == c.CONFLICT
        cluster.start_node(first)
        read = await cluster.one(third, caller.read(KEY), unable=[first, second])
        assert read.payload is None, "the refusal stands above what comes to light"
        await asyncio.sleep(0.1)
        assert cluster.record(third, KEY).payload is None
        assert cluster.record(first, KEY).payload is None

    run(story())


def test_a_term_that_ends_as_a_look_begins_costs_the_answer_and_nothing_else() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        leaders = cluster.node(first)._leaders
        (tenure,) = leaders._tenures.values()
        tenure.drop(*tenure.heads)
        load = leaders._load

        async def begins_late(*args: Any) -> None:
            leaders._give_up(tenure)
            await load(*args)

        leaders._load = begins_late
        assert (await cluster.one(first, caller.read(KEY))).status == c.NO_QUORUM
        leaders._load = load
        assert (await cluster.one(first, caller.read(KEY))).payload == b"v"

    run(story())


@pytest.mark.parametrize("at_once", [False, True])
def test_a_call_that_is_answered_from_memory_leaves_its_receipt_when_it_was_sent_twice(at_once: bool) -> None:
    """*Schedule (L11): a delete finds nothing, and its answer is lost. It is sent again by way of B, which is answered from
    the leader's memory; the client puts a value. The leader dies, and A, which never heard, has the next one delete.*"""

    async def story() -> None:
        cluster, (first, second, *_) = started()
        await cluster.one(first, Caller(3).put(KEY, "once"))
        await cluster.one(first, Caller(3).delete(KEY, number=2))
        call = Caller(1).delete(KEY)
        again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, resent=True)
        if at_once:
            done = await asyncio.gather(cluster.one(first, call), cluster.one(first, again))
        else:
            done = [await cluster.one(first, call), await cluster.one(first, again)]
        assert {each.status for each in done} == {c.DONE}
        assert done[0] == done[1]
        assert call.lane in {receipt.lane for receipt in cluster.record(second, KEY).receipts}
        await cluster.one(first, Caller(2).put(KEY, "since"))
        cluster.kill(first)
        assert (await cluster.one(second, again, silent=[first])).status == c.DONE
        assert cluster.record(second, KEY).payload == b"since"

    run(story())


def test_a_third_sending_waits_for_the_receipt_that_the_second_one_leaves() -> None:
    """*Schedule (L11): the receipt is under way to its majority when the third sending is answered from memory. The leader
    dies in that round, and the first sender has the next leader delete what was put since.*"""

    async def story() -> None:
        cluster, (first, second, third) = started()
        await cluster.one(first, Caller(3).put(KEY, "once"))
        await cluster.one(first, Caller(3).delete(KEY, number=2))
        call = Caller(1).delete(KEY)
        again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, resent=True)
        earlier = [cluster.wire.hold(f.Accept, target=node_id) for node_id in (second, third)]
        sent = begin(cluster, first, call)
        await earlier[0].caught()
        resent = begin(cluster, first, again)  # while the round of the first sending is under way
        await asyncio.sleep(0.05)
        rules = [cluster.wire.hold(f.Accept, target=node_id) for node_id in (second, third)]
        for rule in earlier:
            rule.release()
        assert (await sent).status == c.DONE
        await rules[0].caught()
        once_more = begin(cluster, first, again)
        done, _ = await asyncio.wait({resent, once_more}, timeout=0.3)
        assert not done, "nobody but the leader has the receipt"
        for rule in rules:
            rule.release()
        assert (await resent) == (await once_more)
        assert call.lane in {receipt.lane for receipt in cluster.record(second, KEY).receipts}

    run(story())


def test_a_repeated_call_that_changes_nothing_is_as_old_as_its_receipt_and_has_one_name() -> None:
    """*Schedule without (L12): what is left of it on a key that is absent counts as dead since 1970, and is purged.*"""

    async def story() -> None:
        cluster, (first, second, _) = started()
        caller = Caller()
        call = caller.delete(KEY)
        again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, resent=True)
        done = await cluster.one(first, again)
        kept = cluster.record(first, KEY)
        assert (done.status, done.version) == (c.DONE, kept.version)
        assert kept.time >= time_from_ms(cluster.node(first)._clock.wall_ms() - 1000)
        cluster.kill(first)
        read = await cluster.one(second, caller.read(KEY), silent=[first])
        assert read == f.Settled(c.DONE, kept.version), "the next leader calls it the same"

    run(story())


def test_a_first_refusal_writes_nothing_and_is_remembered_across_terms() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        caller = Caller()
        await cluster.one(first, Caller(2).put(KEY, "v"))
        call = caller.put(KEY, "w", condition=b"")
        before = cluster.stored(first, KEY)
        refused = await cluster.one(first, call)
        assert (refused.status, refused.payload) == (c.CONFLICT, b"v")
        assert cluster.stored(first, KEY) == before
        cluster.node(first)._leaders._tenures.clear()
        await cluster.one(first, Caller(2).delete(KEY, number=2))
        again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, b"", resent=True)
        assert await cluster.one(first, again) == refused, "though it would be carried out now"

    run(story())


# ---- receipts outlive retries (L12) ----


@pytest.mark.parametrize(("other", "left_s"), [(1, 5.0), (0, -0.1), (0, 0.0)])
def test_what_comes_late_or_for_another_run_is_not_begun(other: int, left_s: float) -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        node = cluster.node(first)
        await asyncio.sleep(1.0)
        now_s = node._clock.monotonic_s()
        body = f.Apply(BUCKET, [Caller().put(KEY, "v")], node.incarnation + other, now_s + left_s)
        assert await cluster.ask(first, body) == f.Applied([f.Settled(c.LATE)], node.incarnation, now_s)
        assert cluster.tenure(first, KEY) is None

    run(story())


def held_at_its_look(cluster: Leaders, node_id: str, change: f.Change) -> tuple[Rule, asyncio.Task[f.Settled]]:
    cluster.node(node_id)._leaders._tenures.clear()
    return cluster.wire.hold(f.Look), begin(cluster, node_id, change, timeout_s=0.5)


def test_what_becomes_late_while_its_leader_gets_there_is_not_begun() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        await cluster.one(first, Caller().put(KEY, "before"))
        held, task = held_at_its_look(cluster, first, Caller(2).put(KEY, "v"))
        await asyncio.sleep(0.7)
        held.release()
        assert (await task).status == c.NO_QUORUM
        await asyncio.sleep(0.5)
        assert cluster.payloads(KEY) == [b"before"] * 3

    run(story())


def test_a_leader_that_stood_still_does_not_go_on_with_what_it_had_begun() -> None:
    """It is thawed: its timers have not run yet, its clock is past the deadline."""

    async def story() -> None:
        cluster, (first, *_) = started()
        await cluster.one(first, Caller().put(KEY, "before"))
        held, task = held_at_its_look(cluster, first, Caller(2).put(KEY, "v"))
        await held.caught()
        clock = cluster.node(first)._clock
        now_s = clock.monotonic_s()
        clock.monotonic_s = lambda: now_s + 0.5  # type: ignore[method-assign]
        held.release()
        assert (await task).status == c.LATE
        await asyncio.sleep(0.5)
        assert cluster.payloads(KEY) == [b"before"] * 3

    run(story())


@pytest.mark.parametrize(("grace_s", "most_s"), [(10 * 86_400.0, 60.0), (100.0, 25.0)])
def test_a_change_may_not_take_longer_than_its_receipt_is_kept(grace_s: float, most_s: float) -> None:
    async def story() -> None:
        cluster, (first, *_) = started(gc_grace_s=grace_s)
        node = cluster.node(first)
        for timeout_s, taken in ((most_s, True), (most_s + 2.0, False)):
            expires_s = node._clock.monotonic_s() + timeout_s
            answer = await cluster.ask(first, f.Apply(BUCKET, [Caller().put(KEY, "v")], node.incarnation, expires_s))
            assert isinstance(answer, f.Applied if taken else f.NodeRefused)

    run(story())


def test_a_new_leader_keeps_the_receipts_that_it_finds() -> None:
    """*Schedule (L12): a delete is applied, its answer lost. The next leader drops its receipt with its own next write; the
    retry deletes what was put since.*"""

    async def story() -> None:
        cluster, (first, second, _third) = started()
        await cluster.one(first, Caller().put(KEY, "v"))
        call = Caller(2).delete(KEY)
        assert (await cluster.one(first, call, timeout_s=59.0)).status == c.DONE
        cluster.kill(first)
        put = Caller(3)
        assert (await cluster.one(second, put.put(KEY, "since"), silent=[first])).status == c.DONE
        await asyncio.sleep(leader.MAX_CHANGE_S - 5.0)
        await cluster.one(second, put.put(KEY, "still"))
        again = f.Change(call.key, call.kind, b"", call.lane, call.number, resent=True)
        assert (await cluster.one(second, again)).status == c.DONE
        assert cluster.record(second, KEY).payload == b"still"
        await asyncio.sleep(10.0)
        await cluster.one(second, put.put(KEY, "last"))
        assert [receipt.lane for receipt in cluster.record(second, KEY).receipts] == [put.lane], "not for ever"

    run(story())


@pytest.mark.parametrize(("left_s", "kept"), [(2.0, True), (1000.0, True), (float("nan"), True), (0.5, False)])
def test_a_receipt_is_kept_for_as_long_as_its_call_may_be_sent_elsewhere(left_s: float, kept: bool) -> None:
    """*Schedule (L12): a leader is given too early a deadline, for the answer that told of its clock was late. The receipt
    goes with it; another owner, whose clock is known better, is asked again, leads, and counts once more.*"""

    async def story() -> None:
        cluster, (first, second, *_) = started()
        call = Caller().add(KEY, 10)
        assert (await cluster.one(first, call, timeout_s=0.5, left_s=left_s)).status == c.DONE
        await asyncio.sleep(1.0)
        await cluster.one(first, Caller(2).add(KEY, 1))
        lanes = {receipt.lane for receipt in cluster.record(first, KEY).receipts}
        assert (call.lane in lanes) == kept
        if kept:
            cluster.kill(first)
            again = f.Change(call.key, call.kind, call.payload, call.lane, call.number, resent=True)
            assert (await cluster.one(second, again, silent=[first])).payload == cell(10)
            assert cluster.record(second, KEY).payload == cell(11), "it was added once"

    run(story())


def test_a_receipt_is_kept_until_its_call_may_not_be_asked_for_any_more() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        one, two = Caller(1), Caller(2)
        await cluster.one(first, one.put(KEY, "v"), timeout_s=20.0)
        await asyncio.sleep(19.0)
        await cluster.one(first, two.put(KEY, "w"))
        assert {receipt.lane for receipt in cluster.record(first, KEY).receipts} == {one.lane, two.lane}
        await asyncio.sleep(2.0)
        await cluster.one(first, two.put(KEY, "x"))
        assert {receipt.lane for receipt in cluster.record(first, KEY).receipts} == {two.lane}

    run(story())


# ---- more than one message can hold ----


@pytest.mark.parametrize(("lanes", "keys", "value_bytes"), [(3, 800, 1), (3, 30, 1 << 20)])
def test_a_round_of_many_or_large_records_is_sent_in_several_messages(lanes: int, keys: int, value_bytes: int) -> None:
    """Else owners refuse it as a whole, and nothing in its partition is acknowledged any more."""

    async def story() -> None:
        cluster, (first, *_) = started()
        await cluster.one(first, Caller(9).put(KEY, "v"))
        cluster.wire.sent.clear()
        payload, all_keys = bytes(value_bytes), mates(cluster, lanes * keys)
        requests = [
            [Caller(lane).call(key, c.PUT, payload, number=1) for key in all_keys[lane::lanes]] for lane in range(lanes)
        ]
        answers = await asyncio.gather(*(cluster.apply(first, *request, timeout_s=30.0) for request in requests))
        assert {settled.status for some in answers for settled in some} == {c.DONE}
        for sent in cluster.wire.of(f.Accept):
            records = [(key, record) for _, _, items in sent.body.groups for _, key, record in items]
            assert len(records) <= MAX_BATCH_ITEMS
            assert sum(len(record) for _, record in records) <= leader.ACCEPT_BYTES + value_bytes + 100
        await asyncio.sleep(0.1)
        for node_id in cluster.ids:
            assert cluster.record(node_id, all_keys[-1]).payload == payload

    run(story())


def test_a_part_of_a_round_is_no_acknowledgement_of_it() -> None:
    async def story() -> None:
        cluster, owners = started()
        first = owners[0]
        await cluster.one(first, Caller(9).put(KEY, "v"))
        rules = [cluster.wire.hold(f.Accept, target=node_id) for node_id in owners[1:]]
        calls = [Caller().call(key, c.PUT, bytes(1 << 20)) for key in mates(cluster, 9)]
        task = asyncio.get_running_loop().create_task(cluster.apply(first, *calls, timeout_s=1.0))
        for rule in rules:
            await rule.caught()
        await asyncio.sleep(0.01)
        assert len(rules[0].held) > 1
        for rule in rules:
            rule.let_go(1)
        assert {settled.status for settled in await task} == {c.NO_QUORUM}

    run(story())


def test_what_one_answer_cannot_hold_is_looked_up_in_several() -> None:
    """Else a leader in a new term gets no answer to its look, and does not lead that partition again."""

    async def story() -> None:
        cluster, (first, second, _) = started()
        keys = mates(cluster, 80)
        for at in range(0, 80, 20):
            calls = [Caller().call(key, c.PUT, bytes(1 << 20), number=at + 1) for key in keys[at : at + 20]]
            assert {each.status for each in await cluster.apply(first, *calls, timeout_s=30.0)} == {c.DONE}
        cluster.kill(first)
        adds = [Caller(2).put(key, "w", number=1) for key in keys]
        settled = await cluster.apply(second, *adds, silent=[first], timeout_s=30.0)
        assert {each.status for each in settled} == {c.DONE}

    run(story())


# ---- what a request is refused for ----


def test_changes_are_of_linearizable_buckets() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        node = cluster.node(first)
        body = f.Apply(BUCKET + 1, [Caller().put(KEY, "v")], node.incarnation, node._clock.monotonic_s() + 1.0)
        answer = await cluster.ask(first, body)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"

    run(story())


def test_a_full_disk_refuses_changes_and_goes_on_reading() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "v"))
        cluster.replica(first).no_room = "the disk is full"
        assert await cluster.one(first, caller.put(KEY, "w")) == f.Settled(c.UNABLE)
        assert (await cluster.one(first, caller.read(KEY))).payload == b"v"

    run(story())


def test_changes_of_many_partitions_are_one_request_and_each_has_its_answer() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        keys = [f"k{number}" for number in range(60)]
        settled = await cluster.apply(first, *(Caller(at + 1).add(key, at) for at, key in enumerate(keys)))
        for at, (key, each) in enumerate(zip(keys, settled, strict=True)):
            if cluster.owners(key)[0] == first:
                assert each.payload == cell(at)
            else:
                assert each == f.Settled(c.ELSEWHERE, leader=cluster.owners(key)[0])

    run(story())


def test_heads_that_nobody_waits_for_give_way_and_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        monkeypatch.setattr(leader, "MAX_HEADS", 20)
        keys = mates(cluster, 60)
        caller = Caller()
        for key in keys:
            assert (await cluster.one(first, caller.add(key))).status == c.DONE
        tenure = cluster.tenure(first, KEY)
        assert tenure is not None
        assert len(tenure.heads) <= 21
        for key in keys:
            assert (await cluster.one(first, caller.add(key))).payload == cell(2)

    run(story())


def test_what_is_no_receipt_any_more_leaves_room_in_the_figures() -> None:
    async def story() -> None:
        cluster, (first, *_) = started()
        for lane in range(1, 30):
            await cluster.one(first, Caller(lane).call(KEY, c.SWAP, bytes(1000)), timeout_s=1.0)
        await asyncio.sleep(2.0)
        await cluster.one(first, Caller(99).put(KEY, "v"))
        leaders, tenure = cluster.node(first)._leaders, cluster.tenure(first, KEY)
        assert tenure is not None
        assert leaders._heads_bytes == sum(head.size_bytes for head in tenure.heads.values())
        assert leaders._heads == len(tenure.heads)

    run(story())


def test_receipts_are_counted_from_a_record_as_they_are_written() -> None:
    receipt = Receipt(bytes(8), 1, c.DONE, b"", b"answer")
    record = linear.encode(LinearRecord(linear.pack_term(1, 1), 1, 0, b"v", receipts=(receipt,)))
    head = leader.Head.of(record, 5.0)
    assert head.receipts[bytes(8)].receipt == receipt
    assert head.record(linear.pack_term(1, 1), 1) == record
