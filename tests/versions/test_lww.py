"""Last writer wins: the three laws by which replicas end equal."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.records.record import pack_body, pack_tombstone_body, stamp, stamp_of
from raykv.versions import covers, merge

# Few times and few operations, so that ties come often. The payload goes with the operation: one write, one payload.
OPERATIONS = [bytes([number]) * 16 for number in range(4)]


def record(number: int, time: int) -> bytes:
    body = pack_tombstone_body(OPERATIONS[number]) if number == 3 else pack_body(OPERATIONS[number], bytes([number]))
    return stamp(body, time)


RECORDS = st.builds(record, st.integers(0, 3), st.integers(0, 3))
HELD = st.none() | RECORDS


def both(one: bytes | None, other: bytes | None) -> bytes | None:
    return one if other is None else merge(one, other)


@settings(deadline=None)
@given(RECORDS, RECORDS)
def test_merge_is_commutative(one: bytes, other: bytes) -> None:
    assert merge(one, other) == merge(other, one)


@settings(deadline=None)
@given(HELD, HELD, HELD)
def test_merge_is_associative(one: bytes | None, two: bytes | None, three: bytes | None) -> None:
    assert both(both(one, two), three) == both(one, both(two, three))


@settings(deadline=None)
@given(HELD, RECORDS)
def test_merge_is_idempotent_and_never_less(held: bytes | None, incoming: bytes) -> None:
    kept = merge(held, incoming)
    assert merge(kept, incoming) == kept == merge(kept, kept)
    assert covers(kept, incoming)
    assert held is None or covers(kept, held)
    assert kept in {held, incoming}


@settings(deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_any_order_of_arrival_ends_the_same(records: list[bytes]) -> None:
    ends = set()
    for order in permutations(records):
        kept: bytes | None = None
        for incoming in order:
            kept = merge(kept, incoming)
        ends.add(kept)
    assert ends == {max(records, key=stamp_of)}


def test_the_later_stands_and_a_tie_goes_by_operation() -> None:
    assert merge(record(2, 1), record(0, 2)) == record(0, 2)
    assert merge(record(2, 1), record(0, 1)) == record(2, 1)
    assert merge(None, record(0, 0)) == record(0, 0)
    assert merge(record(0, 1), record(3, 2)) == record(3, 2), "a delete is a write like any other"


def test_covers_is_no_less_and_never_of_nothing() -> None:
    assert covers(record(0, 1), record(0, 1))
    assert covers(record(0, 2), record(1, 1))
    assert not covers(record(0, 1), record(1, 1))
    assert not covers(None, record(0, 0))
