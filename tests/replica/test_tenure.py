"""One term: what a round has, when it is met, and who gets which answer (L6, L7, L9)."""

from __future__ import annotations

from typing import Any

import pytest
from led_nodes import run

from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.linear_record import pack_term
from raykv.replica.applying import Head
from raykv.replica.tenure import Answers, Owned, Tenure, Waiter, held_by_majorities

TERM = pack_term(4, 9)
OLD, NEW = ("n1", "n2", "n3"), ("n1", "n4", "n5")
STILL = Owned((OLD,), OLD, OLD)
MOVING = Owned((OLD, NEW), ("n1", "n2", "n3", "n4", "n5"), OLD)
ONE, TWO = (1, b"\x02one"), (1, b"\x02two")
DONE, POINTER = f.Settled(c.DONE), f.Settled(c.ELSEWHERE, leader="n2")


class Led:
    """A tenure of which a test begins and ends the rounds."""

    def __init__(self, owned: Owned = STILL) -> None:
        self.tenure = Tenure((5, 3), TERM, owned.sets)
        self.owned = owned
        self.due: list[Tenure] = []

    def put(self, name: tuple[int, bytes], value: bytes) -> Waiter:
        head = self.tenure.heads.setdefault(name, Head())
        head.payload, stamp = value, self.tenure.next_stamp()
        head.version = stamp
        return self.tenure.change(name, head, stamp, f.Settled(c.DONE, stamp), self.due.append)

    def read(self, name: tuple[int, bytes]) -> Waiter:
        head = self.tenure.heads[name]
        return self.tenure.wait(f.Settled(c.DONE, head.version, head.payload), self.due.append)

    def begin(self) -> Any:
        return self.tenure.begin(self.owned)


def outcome(waiter: Waiter) -> f.Settled | None:
    answers = Answers(1)
    waiter.tell(answers, 0)
    return answers.settled[0]


def test_a_waiter_is_done_once_it_has_its_answer_and_stands_among_the_calls_until_then() -> None:
    async def story() -> None:
        led, calls = Led(), dict[Any, Any]()
        waiter = led.put(ONE, b"\x01v").remembered_in(calls, TWO)
        assert calls == {TWO: waiter}
        assert not waiter.done
        waiter.settle(DONE)
        assert waiter.done
        assert calls == {TWO: DONE}, "a final answer is kept for the call that is repeated"
        other = led.put(ONE, b"\x01w").remembered_in(calls, ONE)
        other.settle(POINTER)
        assert other.done
        assert calls == {TWO: DONE}

    run(story())


@pytest.mark.parametrize(
    ("sets", "nodes", "held"),
    [
        ((OLD,), {"n1"}, False),
        ((OLD,), {"n1", "n3"}, True),
        ((OLD, NEW), {"n1", "n2", "n3"}, False),
        ((OLD, NEW), {"n2", "n3", "n4"}, False),
        ((OLD, NEW), {"n1", "n2", "n5"}, True),
        ((OLD, NEW), {"n2", "n3", "n4", "n5"}, True),
        ((("n1",),), {"n1"}, True),
        ((("n1", "n2", "n3", "n4"),), {"n1", "n2"}, False),
        ((("n1", "n2", "n3", "n4"),), {"n1", "n2", "n4"}, True),
    ],
)
def test_f_of_each_set(sets: tuple[tuple[str, ...], ...], nodes: set[str], held: bool) -> None:
    """*Schedule without (L9): four of six together are a majority of neither of two sets.*"""
    assert held_by_majorities(sets, nodes) == held


def test_seq_counts_over_the_term_whatever_the_key() -> None:
    """*Schedule without (L6): after a purge a new record stands below a tombstone that one owner still has.*"""
    led = Led()
    led.put(ONE, b"a"), led.put(TWO, b"b"), led.put(ONE, b"c")
    assert led.tenure.heads[ONE].stamp == TERM + (3).to_bytes(8)
    assert led.tenure.heads[TWO].stamp == TERM + (2).to_bytes(8)


def test_a_round_has_the_last_record_of_each_head_that_is_not_acknowledged() -> None:
    led = Led()
    waiters = [led.put(ONE, b"a"), led.put(ONE, b"b"), led.put(TWO, b"c")]
    assert led.due == [led.tenure] * 3
    round_ = led.begin()
    records = {name: linear.decode(record) for *name, record in map(list, round_.records()) for name in [tuple(name)]}
    assert {name: (record.payload, record.seq) for name, record in records.items()} == {ONE: (b"b", 2), TWO: (b"c", 3)}
    assert not led.tenure.awaited, "all who wait are in this round"
    assert not round_.note("n1", accepted=True)
    assert round_.note("n3", accepted=True)
    led.tenure.end(round_)
    assert [outcome(waiter) for waiter in waiters] == [waiter.answer for waiter in waiters]
    assert not round_.note("n2", accepted=True), "it was met before"
    assert round_.over
    assert round_.missed == []


def test_what_changes_during_a_round_goes_out_with_the_next() -> None:
    led = Led()
    first = led.put(ONE, b"a")
    round_ = led.begin()
    second, read = led.put(ONE, b"b"), led.read(ONE)
    led.tenure.end(round_)
    assert outcome(first) is not None
    assert outcome(second) is outcome(read) is None, "neither was part of it (L7)"
    assert led.tenure.heads[ONE].dirty
    following = led.begin()
    assert [linear.decode(record).payload for *_, record in following.records()] == [b"b"]
    led.tenure.end(following)
    assert outcome(read) == read.answer
    assert not led.tenure.heads[ONE].dirty
    assert not led.tenure.wanted


def test_a_round_without_a_record_is_one_too() -> None:
    """*Schedule without (L7): a superseded leader answers a read of what it has from its head.*"""
    led = Led()
    led.put(ONE, b"a")
    led.tenure.end(led.begin())
    read = led.read(ONE)
    assert led.tenure.wanted
    round_ = led.begin()
    assert round_.records() == []
    assert outcome(read) is None
    led.tenure.end(round_)
    assert outcome(read) == read.answer


def test_while_a_partition_moves_f_of_both_sets_accept() -> None:
    led = Led(MOVING)
    led.put(ONE, b"a")
    round_ = led.begin()
    assert round_.nodes == ("n1", "n2", "n3", "n4", "n5")
    noted = [round_.note(node_id, accepted=True) for node_id in ("n1", "n2", "n3", "n4")]
    assert noted == [False, False, False, True]
    assert round_.missed == ["n5"]


def test_refusals_are_answers_but_do_not_count() -> None:
    led = Led()
    led.put(ONE, b"a")
    round_ = led.begin()
    assert [round_.note("n1", accepted=True), round_.note("n2", accepted=False)] == [False, False]
    assert not round_.over
    assert not round_.note("n3", accepted=False)
    assert round_.over
    assert not round_.met
    assert round_.missed == ["n2", "n3"]


def test_a_round_that_goes_to_a_node_in_parts_is_accepted_with_the_last_of_them() -> None:
    led = Led()
    led.put(ONE, b"a")
    round_ = led.begin()
    for node_id in ("n1", "n2", "n2", "n3", "n3"):
        round_.expect(node_id)
    parts = [("n1", True), ("n2", True), ("n3", False), ("n3", True)]
    assert [round_.note(node_id, accepted=accepted) for node_id, accepted in parts] == [False] * 4
    assert not round_.over
    assert round_.note("n2", accepted=True)
    assert round_.missed == ["n3"]


def test_a_round_that_failed_is_done_again_with_its_waiters_and_what_came_since() -> None:
    led = Led()
    first = led.put(ONE, b"a")
    round_ = led.begin()
    second = led.put(TWO, b"b")
    led.tenure.redo(round_)
    assert led.tenure.heads[ONE].awaited == 0
    again = led.begin()
    assert {name for *name, _ in map(tuple, again.records()) for name in [tuple(name)]} == {ONE, TWO}
    led.tenure.end(again)
    assert outcome(first) is not None
    assert outcome(second) is not None


def test_a_head_in_a_round_is_awaited_until_that_is_over() -> None:
    led = Led()
    led.put(ONE, b"a")
    round_ = led.begin()
    assert led.tenure.heads[ONE].awaited == 1
    led.tenure.end(round_)
    assert led.tenure.heads[ONE].awaited == 0


def test_the_end_of_a_term_sends_all_waiters_elsewhere() -> None:
    led = Led()
    first = led.put(ONE, b"a")
    round_ = led.begin()
    second = led.put(ONE, b"b")
    led.tenure.abandon(POINTER)
    assert outcome(first) == outcome(second) == POINTER
    assert led.tenure.round is None
    assert not led.tenure.wanted
    assert round_.note("n1", accepted=True) is False
    first.settle(DONE)
    assert outcome(first) == POINTER, "an answer is given once"


def test_those_for_whom_nobody_waits_any_more_are_dropped() -> None:
    async def story() -> None:
        led = Led()
        late, patient = led.put(ONE, b"a"), led.put(TWO, b"b")
        gone, there = Answers(1), Answers(1)
        late.tell(gone, 0)
        patient.tell(there, 0)
        patient.tell(gone, 0)
        gone.over = True
        assert (late.given_up, patient.given_up) == (True, False)
        led.tenure.forget_the_late()
        round_ = led.begin()
        assert round_.waiters == [patient]
        assert len(round_.names) == 2, "what it has changed goes out all the same"

    run(story())


def test_answers_are_complete_when_all_that_are_expected_are_there() -> None:
    async def story() -> None:
        led, answers = Led(), Answers(2)
        one, two = led.put(ONE, b"a"), led.put(TWO, b"b")
        one.tell(answers, 1)
        two.tell(answers, 0)
        led.tenure.end(led.begin())
        await answers.complete()
        assert answers.settled == [two.answer, one.answer]
        one.tell(answers, 0)
        await answers.complete()
        assert answers.settled == [one.answer] * 2, "who asks later has it at once"

    run(story())


def test_a_term_is_bound_to_the_sets_that_have_promised_it() -> None:
    """*Schedule without (L9): B sleeps through a move, and goes on where nobody has promised it anything.*"""
    tenure = Led().tenure
    assert tenure.bound_to((OLD,))
    assert tenure.bound_to((("n3", "n1", "n2"),)), "in whatever order"
    assert not tenure.bound_to((OLD, NEW))
    assert not tenure.bound_to((NEW,))
    tenure.bind((OLD, NEW))
    assert tenure.bound_to((OLD, NEW))
    assert tenure.bound_to((NEW,))
    assert not tenure.bound_to((("n1", "n2", "n4"),))


def test_of_which_buckets_f_owners_had_nothing() -> None:
    tenure = Tenure((5, 3), TERM, (OLD,), [1])
    assert (tenure.has_none_of(1), tenure.has_none_of(2)) == (False, True)
    tenure.heads[2, b"\x02k"] = Head(b"v")
    tenure.drop((2, b"\x02k"))
    assert not tenure.has_none_of(2), "what it wrote itself is to be looked up again"
    moved = Tenure((5, 3), TERM, (OLD,), [1])
    moved.bind((OLD, NEW))
    assert not moved.has_none_of(2), "the new owners may have something"
    assert not Tenure((5, 3), TERM, (OLD,)).has_none_of(2), "nobody was asked"
