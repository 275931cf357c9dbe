"""Causal histories: spans are sets of dots, exactly, and have one form."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData
from raykv.records.vector_record import MAX_SPANS, Dot, Seen, check_seen
from raykv.versions.causality import (
    MAX_CAUSALITY_BYTES,
    NOTHING_SEEN,
    Causality,
    contains,
    covers,
    highest,
    is_gapless,
    pack_causality,
    union,
    unpack_causality,
    with_dot,
)

# Few actors and few counters, so that spans meet, touch and overlap often.
ACTORS = [bytes([number]) * 8 for number in range(3)]
LAST = 12
DOTS = st.tuples(st.sampled_from(ACTORS), st.integers(1, LAST))
DOT_SETS = st.frozensets(DOTS, max_size=24)
A, B = b"a" * 8, b"b" * 8


def spans_of(dots: frozenset[Dot]) -> Seen:
    """Walk over all dots there can be; a span is a run without a gap."""
    spans = []
    for actor in ACTORS:
        low = 0
        for counter in range(1, LAST + 2):
            there = (actor, counter) in dots
            if there and not low:
                low = counter
            elif not there and low:
                spans.append((actor, low, counter - 1))
                low = 0
    return tuple(spans)


def dots_of(seen: Seen) -> frozenset[Dot]:
    return frozenset((actor, counter) for actor, low, high in seen for counter in range(low, high + 1))


HISTORIES = DOT_SETS.map(spans_of)


@settings(deadline=None)
@given(DOT_SETS)
def test_spans_say_exactly_which_dots_there_are(dots: frozenset[Dot]) -> None:
    seen = spans_of(dots)
    check_seen(seen)
    assert dots_of(seen) == dots
    one_by_one: Seen = ()
    for dot in sorted(dots, key=lambda dot: (dot[1] * 7 % 13, dot[0])):  # in no order that helps
        one_by_one = with_dot(one_by_one, dot)
        check_seen(one_by_one)
    assert one_by_one == seen, "one set, one form"


@settings(deadline=None, max_examples=300)
@given(DOT_SETS, DOT_SETS)
def test_a_union_has_the_dots_of_both_in_the_one_form(one: frozenset[Dot], other: frozenset[Dot]) -> None:
    both = union(spans_of(one), spans_of(other))
    check_seen(both)
    assert both == spans_of(one | other)


@settings(deadline=None)
@given(HISTORIES, HISTORIES, HISTORIES)
def test_union_is_commutative_associative_and_idempotent(one: Seen, two: Seen, three: Seen) -> None:
    assert union(one, two) == union(two, one)
    assert union(union(one, two), three) == union(one, union(two, three))
    assert union(one, one) == one
    assert union(one, ()) == one == union((), one)
    assert union(union(one, two), two) == union(one, two)


@settings(deadline=None)
@given(DOT_SETS, DOTS)
def test_one_more_dot_is_one_more_and_no_other(dots: frozenset[Dot], dot: Dot) -> None:
    grown = with_dot(spans_of(dots), dot)
    check_seen(grown)
    assert dots_of(grown) == dots | {dot}


@settings(deadline=None)
@given(DOT_SETS)
def test_contains_every_dot_of_it_and_none_beside(dots: frozenset[Dot]) -> None:
    seen = spans_of(dots)
    for actor in ACTORS:
        for counter in range(LAST + 3):
            assert contains(seen, (actor, counter)) == ((actor, counter) in dots)


@settings(deadline=None)
@given(DOT_SETS, DOT_SETS)
def test_covers_is_being_a_superset(one: frozenset[Dot], other: frozenset[Dot]) -> None:
    assert covers(spans_of(one), spans_of(other)) == (one >= other)
    assert covers(spans_of(one | other), spans_of(other))
    assert covers(spans_of(one), ())
    assert covers((), spans_of(one)) == (not one)


@settings(deadline=None)
@given(DOT_SETS, st.sampled_from(ACTORS), st.integers(1, LAST + 1))
def test_the_highest_counter_and_whether_none_is_missing_up_to_it(
    dots: frozenset[Dot], actor: bytes, last: int
) -> None:
    seen = spans_of(dots)
    counters = {counter for one, counter in dots if one == actor}
    assert highest(seen, actor) == max(counters, default=0)
    assert is_gapless(seen, actor, last) == (counters >= set(range(1, last + 1)))


@settings(deadline=None)
@given(st.integers(1, LAST), st.sampled_from(ACTORS))
def test_a_history_without_gaps_is_gapless(last: int, actor: bytes) -> None:
    seen: Seen = ()
    for counter in range(last, 0, -1):
        assert not is_gapless(seen, actor, last)
        seen = with_dot(seen, (actor, counter))
    assert seen == ((actor, 1, last),)
    assert is_gapless(seen, actor, last)
    assert not is_gapless(seen, actor, last + 1)


def test_a_gap_stays_a_gap_until_it_is_filled() -> None:
    overtaken = with_dot(((A, 1, 3),), (A, 5))
    assert overtaken == ((A, 1, 3), (A, 5, 5))
    assert not contains(overtaken, (A, 4)), "a version vector would claim it"
    assert with_dot(overtaken, (A, 4)) == ((A, 1, 5),)


def test_the_same_counter_of_two_actors_is_two_dots() -> None:
    assert union(((A, 1, 3),), ((B, 4, 6),)) == ((A, 1, 3), (B, 4, 6))
    assert not contains(((A, 1, 3),), (B, 2))
    assert highest(((A, 1, 3), (B, 4, 6)), A) == 3


def test_counters_may_grow_as_far_as_they_can_be_written() -> None:
    top = (1 << 63) - 1
    seen = with_dot(((A, 1, top - 2),), (A, top))
    assert seen == ((A, 1, top - 2), (A, top, top))
    assert with_dot(seen, (A, top - 1)) == ((A, 1, top),)
    assert unpack_causality(pack_causality(Causality(0, seen))).seen == seen


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), HISTORIES)
def test_a_causality_comes_back_as_it_was(time: int, seen: Seen) -> None:
    packed = pack_causality(Causality(time, seen))
    assert unpack_causality(packed) == Causality(time, seen)
    assert isinstance(unpack_causality(packed), Causality)


def test_nothing_seen_is_the_causality_of_nobody() -> None:
    assert unpack_causality(NOTHING_SEEN) == Causality() == Causality(0, ())
    assert pack_causality(Causality()) == NOTHING_SEEN


@pytest.mark.parametrize(
    "seen",
    [
        [[B, 1, 1], [A, 1, 1]],
        [[A, 5, 6], [A, 1, 2]],
        [[A, 1, 2], [A, 3, 4]],
        [[A, 1, 4], [A, 3, 6]],
        [[A, 1, 4], [A, 4, 6]],
        [[A, 1, 9], [A, 3, 4]],
        [[A, 1, 2], [A, 1, 2]],
        [[A, 1, 2], [B, 1, 2], [A, 4, 5]],
        [[A, 0, 2]],
        [[A, 0, 0]],
        [[A, -1, 2]],
        [[A, 3, 2]],
        [[A, 1, 1 << 63]],
        [[A[:7], 1, 2]],
        [[A + b"a", 1, 2]],
        [[b"", 1, 2]],
        [[A, 2 * number + 1, 2 * number + 1] for number in range(MAX_SPANS + 1)],
    ],
    ids=[
        "actors unsorted", "counters unsorted", "adjacent", "overlapping", "sharing an end", "one in another", "twice",
        "an actor again", "from 0", "counter 0", "negative", "ends before it begins", "counter too high",
        "actor too short", "actor too long", "no actor", "too many",
    ],
)  # fmt: skip
def test_spans_in_another_form_are_corrupt(seen: list[list[object]]) -> None:
    with pytest.raises(CorruptData):
        unpack_causality(msgspec.msgpack.encode([0, seen]))


def test_as_many_spans_as_are_taken_are_taken() -> None:
    seen = tuple((A, 2 * number + 1, 2 * number + 1) for number in range(MAX_SPANS))
    assert unpack_causality(pack_causality(Causality(3, seen))) == Causality(3, seen)


@pytest.mark.parametrize("time", [-1, -(1 << 63)])
def test_a_time_that_cannot_be_is_corrupt(time: int) -> None:
    with pytest.raises(CorruptData, match="time"):
        unpack_causality(msgspec.msgpack.encode([time, []]))


@pytest.mark.parametrize(
    "value",
    [
        None, 7, b"", "text", [], [0], [0, [], 0], [0, None], ["0", []], [0, [[A, 1]]], [0, [[A, 1, 1, 1]]],
        [0, [["a" * 8, 1, 1]]], [0, [[A, "1", 1]]], [0, [[A, None, 1]]], [0, [A]], {"time": 0, "seen": []},
    ],
    ids=repr,
)  # fmt: skip
def test_another_shape_is_corrupt(value: object) -> None:
    with pytest.raises(CorruptData):
        unpack_causality(msgspec.msgpack.encode(value))


def test_more_bytes_than_are_taken_are_corrupt_before_they_are_read() -> None:
    with pytest.raises(CorruptData, match="at most"):
        unpack_causality(bytes(MAX_CAUSALITY_BYTES + 1))
    with pytest.raises(CorruptData):
        unpack_causality(b"\x91" * MAX_CAUSALITY_BYTES)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), HISTORIES)
def test_a_truncated_causality_is_corrupt_at_every_length(time: int, seen: Seen) -> None:
    packed = pack_causality(Causality(time, seen))
    for length in range(len(packed)):
        with pytest.raises(CorruptData):
            unpack_causality(packed[:length])
    with pytest.raises(CorruptData):
        unpack_causality(packed + b"\x00")


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda rest: b"\x92\x00" + rest)))
def test_garbage_is_corrupt_or_a_causality_and_never_another_error(data: bytes) -> None:
    try:
        taken = unpack_causality(data)
    except CorruptData:
        return
    check_seen(taken.seen)
    assert unpack_causality(pack_causality(taken)) == taken
