"""Counting: tables for each decision, and a random model that checks the invariants after every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.coordinator.rounds import AskRound, Asks, ReadRound, ReserveAsks, ReserveRound, WriteRound
from raykv.protocol import frames as f
from raykv.records.record import pack_body, stamp
from raykv.versions import covers

ABC = ["a", "b", "c"]


def record(time: int) -> bytes:
    return stamp(pack_body(bytes([time]) * 16, b"v"), time)


# ---- reads: tables ----


def test_the_first_r_of_each_key_are_asked() -> None:
    round_ = ReadRound([["a", "b", "c"], ["c", "a", "b"]], 2)
    assert round_.start() == {"a": [0, 1], "b": [0], "c": [1]}
    assert round_.open


def test_r_answers_settle_a_key_and_the_next_is_left_out() -> None:
    round_ = ReadRound([ABC], 2)
    round_.start()
    round_.answered("a", [0], [record(1)])
    assert not round_.settled(0)
    round_.answered("b", [0], [None])
    assert round_.settled(0)
    assert not round_.open
    round_.answered("c", [0], [record(9)])
    assert round_.answers(0) == ["a", "b"]
    assert round_.merged(0) == record(1)
    assert round_.holders(0, record(1)) == ["a"]


def test_absent_everywhere_is_an_answer() -> None:
    round_ = ReadRound([ABC], 2)
    round_.start()
    round_.answered("a", [0], [None])
    round_.answered("b", [0], [None])
    assert round_.settled(0)
    assert round_.merged(0) is None


def test_one_answer_given_twice_counts_once() -> None:
    round_ = ReadRound([ABC], 2)
    round_.start()
    round_.answered("a", [0], [record(1)])
    round_.answered("a", [0], [record(1)])
    assert not round_.settled(0)


def test_a_failure_is_followed_by_the_next_in_order_at_once() -> None:
    round_ = ReadRound([ABC, ABC], 1)
    assert round_.start() == {"a": [0, 1]}
    assert round_.failed("a", [0, 1]) == {"b": [0, 1]}
    assert round_.failed("b", [1]) == {"c": [1]}
    assert round_.failed("c", [1]) == {}, "nobody is left; the failed are asked again only when time has passed"
    assert round_.more() == {"c": [0, 1], "a": [1], "b": [1]}
    assert round_.more() == {"a": [0]}, "of key 0 all have been asked, and a is the one that failed"
    assert round_.more() == {}


def test_a_failure_for_a_settled_key_asks_nobody() -> None:
    round_ = ReadRound([ABC], 1)
    round_.start()
    round_.more()
    round_.answered("b", [0], [None])
    assert round_.failed("a", [0]) == {}
    assert round_.more() == {}


def test_a_hedge_asks_one_more_for_each_open_key_only() -> None:
    round_ = ReadRound([ABC, ABC, ABC], 2)
    round_.start()
    round_.answered("a", [0, 1, 2], [None] * 3)
    round_.answered("b", [1], [None])
    assert round_.more() == {"c": [0, 2]}
    assert round_.more() == {}, "all have been asked and none has failed"


@pytest.mark.parametrize("r", [1, 2, 3])
def test_holders_are_those_that_cover_what_was_read(r: int) -> None:
    round_ = ReadRound([ABC], r)
    round_.start()
    for node_id, held in zip(ABC[:r], [record(2), record(3), None][:r], strict=True):
        round_.answered(node_id, [0], [held])
    newest = record(2) if r == 1 else record(3)
    assert round_.merged(0) == newest
    assert round_.holders(0, newest) == (["a"] if r == 1 else ["b"])


def test_what_is_counted_need_not_be_a_record() -> None:
    """A scan counts partitions: an answer without a value settles as well."""
    round_: AskRound[None] = AskRound([ABC, ["b", "c", "a"]], 1)
    assert round_.start() == {"a": [0], "b": [1]}
    round_.answered("a", [0], [None])
    assert round_.settled(0)
    assert round_.failed("b", [1]) == {"c": [1]}
    round_.answered("c", [1], [None])
    assert not round_.open
    assert (round_.answers(0), round_.answers(1)) == (["a"], ["c"])


# ---- the first round of vector writes: tables ----


def shown(node_id: str, counter: int = 0) -> f.Reserved:
    """Return a node's answer, with a dot if ``counter`` is given."""
    return f.Reserved(node_id.encode() if counter else b"", counter, node_id.encode(), 0, 0)


def test_the_first_is_asked_for_a_dot_and_as_many_as_needed_what_they_hold() -> None:
    round_ = ReserveRound([ABC, ["c", "a", "b"], ["b", "a", "c"]], [2, 1, 3])
    assert round_.start() == {
        "a": [(0, True), (2, False)],
        "b": [(0, False), (2, True)],
        "c": [(1, True), (2, False)],
    }
    assert round_.open


def test_it_takes_the_dot_and_enough_copies_that_have_shown() -> None:
    round_ = ReserveRound([ABC, ABC, ABC], [2, 2, 1])
    round_.start()
    round_.answered("a", [(0, True), (2, True)], [shown("a", 1), shown("a", 2)])
    assert [round_.settled(index) for index in range(3)] == [False, False, True], "a dot, but one has shown and not two"
    round_.answered("b", [(1, False)], [shown("b")])
    round_.answered("c", [(1, False)], [shown("c")])
    assert not round_.settled(1), "two have shown, but there is no dot"
    round_.answered("b", [(0, False)], [shown("b")])
    round_.answered("a", [(1, True)], [shown("a", 3)])
    assert not round_.open
    assert round_.outcome(0) == (shown("a", 1), [shown("a", 1), shown("b")])
    assert round_.outcome(1) == (shown("a", 3), [shown("b"), shown("c"), shown("a", 3)])


def test_a_copy_that_shows_twice_counts_once() -> None:
    round_ = ReserveRound([ABC], [2])
    round_.start()
    round_.answered("a", [(0, True)], [shown("a", 1)])
    round_.answered("a", [(0, True)], [shown("a", 1)])
    assert not round_.settled(0)


def test_where_the_first_fails_another_gives_the_dot_though_it_was_asked_what_it_holds_already() -> None:
    round_ = ReserveRound([ABC], [2])
    assert round_.start() == {"a": [(0, True)], "b": [(0, False)]}
    assert round_.failed("a", [(0, True)]) == {"b": [(0, True)], "c": [(0, False)]}
    round_.answered("b", [(0, False)], [shown("b")])
    round_.answered("c", [(0, False)], [shown("c")])
    assert not round_.settled(0)
    round_.answered("b", [(0, True)], [shown("b", 1)])
    dot, answers = round_.outcome(0)
    assert dot == shown("b", 1)
    assert answers == [shown("b"), shown("c")], "what it held when it was first asked is as good"
    assert round_.second_dots == 1


def test_the_dot_that_comes_first_is_the_one_and_others_come_in_vain() -> None:
    """P8: the slow one's answer changes nothing, before the round is over or after."""
    round_ = ReserveRound([ABC, ABC], [2, 1])
    round_.start()
    assert round_.more() == {"b": [(0, True), (1, True)], "c": [(0, False)]}
    round_.answered("b", [(0, True), (1, True)], [shown("b", 1), shown("b", 2)])
    assert (round_.settled(0), round_.settled(1)) == (False, True)
    round_.answered("a", [(0, True), (1, True)], [shown("a", 8), shown("a", 9)])
    assert round_.settled(0)
    assert round_.outcome(0)[0] == shown("b", 1)
    assert round_.outcome(1)[0] == shown("b", 2)
    assert round_.failed("c", [(0, False)]) == {}
    assert round_.more() == {}


def test_each_time_that_is_too_long_one_more_is_asked() -> None:
    """Any number may be silent: all are asked in the end, and nobody twice who has not answered."""
    round_ = ReserveRound([["a", "b", "c", "d", "e"]], [2])
    assert round_.start() == {"a": [(0, True)], "b": [(0, False)]}
    assert round_.more() == {"b": [(0, True)], "c": [(0, False)]}
    assert round_.more() == {"c": [(0, True)], "d": [(0, False)]}
    round_.answered("c", [(0, False)], [shown("c")])
    assert round_.more() == {"d": [(0, True)], "e": [(0, False)]}
    round_.answered("d", [(0, False)], [shown("d")])
    assert round_.more() == {"e": [(0, True)]}, "enough have shown"
    assert round_.more() == {}
    assert round_.failed("a", [(0, True)]) == {}
    assert round_.failed("e", [(0, False)]) == {}, "e is still awaited for its dot, a has failed just now"
    assert round_.more() == {"a": [(0, True)]}
    assert round_.second_dots == 1, "one item"


def test_those_that_failed_are_asked_again_when_time_has_passed() -> None:
    round_ = ReserveRound([ABC], [1])
    assert round_.start() == {"a": [(0, True)]}
    assert round_.failed("a", [(0, True)]) == {"b": [(0, True)]}
    assert round_.failed("b", [(0, True)]) == {"c": [(0, True)]}
    assert round_.failed("c", [(0, True)]) == {}, "nobody is left"
    assert round_.more() == {"a": [(0, True)], "b": [(0, False)]}
    assert round_.failed("a", [(0, True)]) == {"b": [(0, True)], "c": [(0, False)]}
    assert round_.failed("b", [(0, True), (0, False)]) == {"c": [(0, True)]}
    round_.answered("c", [(0, True)], [shown("c", 1)])
    assert not round_.open


def test_what_fails_for_one_item_hinders_no_other() -> None:
    round_ = ReserveRound([ABC, ABC], [1, 1])
    assert round_.start() == {"a": [(0, True), (1, True)]}
    round_.answered("a", [(0, True)], [shown("a", 1)])
    assert round_.failed("a", [(1, True)]) == {"b": [(1, True)]}, "of item 1 the node cannot read what it has"
    assert (round_.settled(0), round_.settled(1)) == (True, False)


# ---- writes: tables ----


def test_a_write_goes_to_all_and_w_acknowledgements_settle_it() -> None:
    round_ = WriteRound([[ABC], [["b", "c", "d"]]], 2)
    assert round_.start() == {"a": [0], "b": [0, 1], "c": [0, 1], "d": [1]}
    round_.answered("b", [(0, 0), (1, 0)], [0, 0])
    assert not round_.settled(0)
    round_.answered("a", [(0, 0)], [0])
    assert round_.settled(0)
    assert not round_.settled(1)
    assert round_.open
    assert round_.acks(0) == ["b", "a"]


@pytest.mark.parametrize(
    ("w", "answers", "due"),
    [
        (2, {"a": 7}, {}),  # a lone replica with something newer hinders nobody
        (2, {"a": 7, "b": 0}, {0: 7}),
        (2, {"a": 7, "b": 9}, {0: 9}),
        (2, {"a": 0, "b": 0}, {}),
        (2, {"a": 0}, {}),
        (2, {"a": 7, "b": 0, "c": 0}, {}),  # settled
        (1, {"a": 7}, {0: 7}),
        (3, {"a": 7, "b": 0}, {}),
        (3, {"a": 7, "b": 0, "c": 0}, {0: 7}),
        (3, {"a": 7, "b": 8, "c": 5}, {0: 8}),
    ],
)
def test_when_a_write_is_stamped_again(w: int, answers: dict[str, int], due: dict[int, int]) -> None:
    round_ = WriteRound([[ABC]], w)
    round_.start()
    for node_id, newer in answers.items():
        round_.answered(node_id, [(0, 0)], [newer])
    assert round_.to_restamp() == due


def test_acknowledgements_of_a_former_stamp_never_count() -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    round_.answered("a", [(0, 0)], [0])
    round_.answered("b", [(0, 0)], [7])
    assert round_.to_restamp() == {0: 7}
    round_.restamped(0)
    assert (round_.attempt(0), round_.acks(0), round_.to_restamp()) == (1, [], {})
    assert round_.start([0]) == {"a": [0], "b": [0], "c": [0]}
    round_.answered("c", [(0, 0)], [0])  # late, and of the first stamp
    round_.answered("a", [(0, 1)], [0])
    assert not round_.settled(0)
    round_.answered("c", [(0, 0)], [9])
    assert round_.to_restamp() == {}, "a refusal of the former stamp says nothing of this one"
    round_.answered("b", [(0, 1)], [0])
    assert round_.settled(0)
    assert round_.acks(0) == ["a", "b"]


def test_late_answers_to_what_was_sent_to_former_owners_count_for_nothing() -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    round_.answered("a", [(0, 0)], [0])
    round_.failed("b", [(0, 0)], "owners changed")
    round_.reassign([[["a", "b", "d"]]], None)
    assert round_.start(round_.waiting) == {"a": [0], "b": [0], "d": [0]}
    round_.failed("c", [(0, 0)], "owners changed")
    assert round_.more() == {}, "c is no owner any more"
    round_.answered("b", [(0, 0)], [0])
    round_.answered("a", [(0, 1)], [0])
    assert not round_.settled(0), "b may have given the partition up since, and cleared it"
    assert round_.restamps(0) == 0
    round_.answered("d", [(0, 1)], [0])
    assert round_.acks(0) == ["a", "d"]
    assert round_.settled(0)


def test_for_a_repair_something_newer_is_as_good() -> None:
    round_ = WriteRound([[ABC]], 2, newer_counts=True)
    round_.already(0, ["a"])
    assert round_.start() == {"b": [0], "c": [0]}, "who holds it is not written to"
    round_.answered("b", [(0, 0)], [99])
    assert round_.settled(0)
    assert round_.to_restamp() == {}


def test_holders_enough_settle_a_repair_without_a_word() -> None:
    round_ = WriteRound([[ABC]], 2, newer_counts=True)
    round_.already(0, ["a", "a"])
    assert not round_.settled(0)
    round_.already(0, ["c"])
    assert round_.settled(0)


def test_the_failed_are_sent_to_again_when_time_has_passed() -> None:
    round_ = WriteRound([[ABC], [ABC]], 2)
    round_.start()
    round_.failed("a", [(0, 0), (1, 0)], None)
    round_.answered("b", [(0, 0), (1, 0)], [0, 0])
    round_.answered("c", [(1, 0)], [0])
    assert round_.more() == {"a": [0]}, "item 1 is settled"
    assert round_.more() == {}


@pytest.mark.parametrize(
    ("story", "reasons"),
    [
        ([("refuse", "a"), ("refuse", "b"), ("refuse", "c")], ["overloaded"] * 3),
        ([("refuse", "a"), ("refuse", "b"), ("lose", "c")], []),
        ([("ack", "a"), ("refuse", "b"), ("refuse", "c")], []),
        ([("newer", "a"), ("refuse", "b"), ("refuse", "c")], []),
        ([("lose", "a"), ("refuse", "a"), ("refuse", "b"), ("refuse", "c")], []),
    ],
)
def test_nothing_was_written_is_said_only_if_it_is_certain(story: list[tuple[str, str]], reasons: list[str]) -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    for what, node_id in story:
        if what == "refuse":
            round_.failed(node_id, [(0, 0)], "overloaded")
        elif what == "lose":
            round_.failed(node_id, [(0, 0)], None)
            round_.more()
        else:
            round_.answered(node_id, [(0, 0)], [0 if what == "ack" else 7])
    assert round_.untouched(0) == reasons


def test_a_send_without_an_outcome_may_have_been_carried_out() -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    round_.failed("a", [(0, 0)], "overloaded")
    round_.failed("b", [(0, 0)], "overloaded")
    assert round_.untouched(0) == [], "c has the write before it, and may keep it"


def test_acknowledgements_of_a_former_stamp_mean_that_something_was_written() -> None:
    round_ = WriteRound([[ABC]], 2)
    round_.start()
    round_.answered("a", [(0, 0)], [0])
    round_.answered("b", [(0, 0)], [7])
    round_.answered("c", [(0, 0)], [7])
    round_.restamped(0)
    round_.start([0])
    for node_id in ABC:
        round_.failed(node_id, [(0, 1)], "overloaded")
    assert round_.untouched(0) == []


def test_an_owner_that_has_acknowledged_is_not_sent_to_again() -> None:
    round_ = WriteRound([[ABC]], 3)
    round_.start()
    round_.answered("b", [(0, 0)], [0])
    round_.answered("c", [(0, 0)], [7])
    round_.answered("a", [(0, 0)], [0])
    round_.restamped(0)
    round_.start([0])
    round_.answered("a", [(0, 1)], [0])
    round_.failed("a", [(0, 0)], None)  # the outcome of an earlier call that was tried twice
    assert round_.more() == {}


# ---- random models ----


class Calls:
    """Calls under way, and those that have failed and may be made again."""

    def __init__(self, nodes: int) -> None:
        self.under_way: list[tuple[str, list[int]]] = []
        self.free: set[tuple[str, int]] = set()
        self.asked: set[tuple[str, int]] = set()

    def add(self, asks: Asks) -> None:
        for node_id, indexes in asks.items():
            assert indexes, "nobody is asked for nothing"
            assert len(set(indexes)) == len(indexes)
            for index in indexes:
                pair = (node_id, index)
                assert pair not in self.asked or pair in self.free, "asked twice without having failed"
                self.asked.add(pair)
                self.free.discard(pair)
            self.under_way.append((node_id, indexes))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_reads_under_any_order_of_answers_failures_and_hedges(data: st.DataObject) -> None:
    nodes = [f"n{number}" for number in range(data.draw(st.integers(1, 5), "nodes"))]
    r = data.draw(st.integers(1, len(nodes)), "r")
    orders = data.draw(st.lists(st.permutations(nodes), min_size=1, max_size=4), "orders")
    held = {
        (node_id, index): data.draw(st.none() | st.integers(1, 3).map(record))
        for node_id in nodes
        for index in range(len(orders))
    }
    round_ = ReadRound(orders, r)
    calls = Calls(len(nodes))
    heard: list[list[str]] = [[] for _ in orders]
    calls.add(round_.start())
    for _ in range(data.draw(st.integers(0, 40), "steps")):
        step = data.draw(st.sampled_from(["answer", "fail", "more"]))
        if step == "more":
            calls.add(round_.more())
        elif calls.under_way:
            node_id, about = calls.under_way.pop(data.draw(st.integers(0, len(calls.under_way) - 1)))
            if step == "answer":
                round_.answered(node_id, about, [held[node_id, index] for index in about])
                for index in about:
                    if len(heard[index]) < r:
                        heard[index].append(node_id)
            else:
                calls.free |= {(node_id, index) for index in about}
                calls.add(round_.failed(node_id, about))
        for index in range(len(orders)):
            assert round_.settled(index) == (len(set(heard[index])) == r)
            assert round_.answers(index) == heard[index]
            known = [held[node_id, index] for node_id in heard[index]]
            merged = round_.merged(index)
            assert merged == max((one for one in known if one is not None), default=None)
            if merged is not None:
                assert round_.holders(index, merged) == [
                    node_id for node_id in heard[index] if covers(held[node_id, index], merged)
                ]
        assert round_.open == any(len(names) < r for names in heard)
    # And it always comes to its end once the nodes answer.
    for _ in range(10):
        while calls.under_way:
            node_id, about = calls.under_way.pop()
            round_.answered(node_id, about, [held[node_id, index] for index in about])
        if not round_.open:
            break
        calls.add(round_.more())
    assert not round_.open


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_reservations_under_any_order_of_answers_failures_and_hedges(data: st.DataObject) -> None:
    nodes = [f"n{number}" for number in range(data.draw(st.integers(1, 5), "nodes"))]
    orders = data.draw(st.lists(st.permutations(nodes), min_size=1, max_size=3), "orders")
    needed = [data.draw(st.integers(1, len(nodes)), "needed") for _ in orders]
    round_ = ReserveRound(orders, needed)
    under_way: list[tuple[str, list[tuple[int, bool]]]] = []
    heard: list[dict[str, f.Reserved]] = [{} for _ in orders]
    dots: list[f.Reserved | None] = [None for _ in orders]
    counter = raced = 0

    def send(asks: ReserveAsks) -> None:
        for node_id, asked in asks.items():
            assert len(set(asked)) == len(asked) > 0
            for index, with_dot in asked:
                assert not round_.settled(index), "nobody is asked for what is there"
                again = any(name == node_id and (index, with_dot) in about for name, about in under_way)
                assert not again, "who has not answered yet is not asked the same again"
            under_way.append((node_id, asked))
        for index in range(len(orders)):
            awaited = {node_id for node_id, about in under_way if (index, True) in about}
            assert len(awaited) <= 1 + raced, "a dot in vain costs a few bytes: no crowd is asked"

    def answer(node_id: str, about: list[tuple[int, bool]]) -> None:
        nonlocal counter
        given = []
        for index, with_dot in about:
            counter += 1
            given.append(shown(node_id, counter if with_dot else 0))
            if not round_.settled(index):
                heard[index].setdefault(node_id, given[-1])
                if with_dot and dots[index] is None:
                    dots[index] = given[-1]
        round_.answered(node_id, about, given)

    send(round_.start())
    for _ in range(data.draw(st.integers(0, 40), "steps")):
        step = data.draw(st.sampled_from(["answer", "fail", "more"]))
        if step == "more":
            raced += 1
            send(round_.more())
        elif under_way:
            node_id, about = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if step == "answer":
                answer(node_id, about)
            else:
                send(round_.failed(node_id, about))
        for index in range(len(orders)):
            done = dots[index] is not None and len(heard[index]) >= needed[index]
            assert round_.settled(index) == done
            if done:
                dot, answers = round_.outcome(index)
                assert dot == dots[index]
                assert answers[: len(heard[index])] == list(heard[index].values())
    # And it always comes to its end once the nodes answer.
    for _ in range(10):
        while under_way:
            answer(*under_way.pop())
        if not round_.open:
            break
        send(round_.more())
    assert not round_.open


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_writes_under_any_order_of_answers_failures_and_stamps(data: st.DataObject) -> None:
    nodes = [f"n{number}" for number in range(data.draw(st.integers(1, 5), "nodes"))]
    w = data.draw(st.integers(1, len(nodes)), "w")
    items = data.draw(st.integers(1, 3), "items")
    newer_counts = data.draw(st.booleans(), "repair")
    round_ = WriteRound([[nodes]] * items, w, newer_counts=newer_counts)
    under_way: list[tuple[str, list[tuple[int, int]]]] = []
    attempts = [0] * items
    acks: list[list[str]] = [[] for _ in range(items)]
    newer: list[dict[str, int]] = [{} for _ in range(items)]
    settled = [False] * items
    touched = [False] * items

    def send(asks: Asks) -> None:
        for node_id, indexes in asks.items():
            assert len(set(indexes)) == len(indexes) > 0
            under_way.append((node_id, [(index, round_.attempt(index)) for index in indexes]))

    send(round_.start())
    for _ in range(data.draw(st.integers(0, 40), "steps")):
        step = data.draw(st.sampled_from(["answer", "answer", "fail", "refuse", "more", "restamp"]))
        if step == "more":
            send(round_.more())
        elif step == "restamp":
            due = round_.to_restamp()
            for index in range(items):
                expected = not settled[index] and newer[index] and len(acks[index]) + len(newer[index]) >= w
                assert (index in due) == bool(expected)
                if index in due:
                    assert due[index] == max(newer[index].values())
                    round_.restamped(index)
                    attempts[index] += 1
                    acks[index], newer[index] = [], {}
            send(round_.start(due))
        elif under_way:
            node_id, about = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if step == "answer":
                times = [data.draw(st.sampled_from([0, 0, 5, 6])) for _ in about]
                round_.answered(node_id, about, times)
                for (index, attempt), time in zip(about, times, strict=True):
                    touched[index] = True
                    if attempt != attempts[index]:
                        continue
                    if time == 0 or newer_counts or attempts[index]:
                        if node_id not in acks[index]:
                            acks[index].append(node_id)
                        settled[index] = settled[index] or len(acks[index]) >= w
                    else:
                        newer[index][node_id] = time
            else:
                round_.failed(node_id, about, "stopping" if step == "refuse" else None)
                for index, _ in about:
                    touched[index] = touched[index] or step == "fail"
        for index in range(items):
            assert round_.attempt(index) == attempts[index]
            assert round_.acks(index) == acks[index]
            assert round_.settled(index) == settled[index]
        assert round_.open == (not all(settled))


# ---- nodes that have more to do than they can ----


def test_a_read_is_given_up_at_once_when_too_few_are_left() -> None:
    round_ = ReadRound([["n1", "n2", "n3"], ["n1", "n2", "n3"]], 2)
    round_.start()
    assert round_.overloaded("n1", [0]) == {"n3": [0]}
    assert round_.open
    assert round_.overloaded("n2", [0]) == {}
    assert round_.given_up(0)
    assert not round_.settled(0)
    round_.answered("n3", [0], [b"late"])
    assert not round_.settled(0)
    assert round_.open, "the other one goes on"
    round_.answered("n1", [1], [b"a"])
    round_.answered("n2", [1], [b"a"])
    assert not round_.open
    assert round_.settled(1)


def test_a_reservation_is_given_up_at_once_when_too_few_are_left() -> None:
    round_ = ReserveRound([["n1", "n2", "n3"]], [2])
    round_.start()
    round_.overloaded("n1", [(0, True)])
    assert round_.open
    round_.overloaded("n2", [(0, False)])
    assert not round_.open
    assert not round_.settled(0)


@pytest.mark.parametrize("first", ["acked", "unknown", "refused"])
def test_a_write_is_given_up_only_if_nobody_has_it_or_may_have_it(first: str) -> None:
    round_ = WriteRound([[["n1", "n2", "n3"]]], 2)
    round_.start()
    if first == "acked":
        round_.answered("n1", [(0, 0)], [0])
    else:
        round_.failed("n1", [(0, 0)], "overloaded" if first == "refused" else None)
    round_.failed("n2", [(0, 0)], "overloaded")
    round_.failed("n3", [(0, 0)], "overloaded")
    assert round_.open == (first != "refused")
    assert not round_.settled(0)
    assert ("overloaded" in round_.untouched(0)) == (first == "refused")
