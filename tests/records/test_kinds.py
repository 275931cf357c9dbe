"""One dispatch on the first byte: each kind answers for itself, any other is refused."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData
from raykv.records import kinds
from raykv.records import linear_record as linear
from raykv.records import record as lww
from raykv.records import vector_record as vector
from raykv.records.linear_record import LinearRecord, Receipt
from raykv.records.vector_record import Sibling, VersionSet

A = b"a" * 8
ID = bytes(range(16))
OWN = b"the run-the id--"
PUT = lww.pack_body(ID, b"\x00value", 60_000)
TOMBSTONE = lww.pack_tombstone_body(ID)
LWW_RECORD = lww.stamp(PUT, 77)
STATE = VersionSet(((A, 1, 3),), (Sibling(A, 1, 40, PUT), Sibling(A, 2, 90, TOMBSTONE), Sibling(A, 3, 7, PUT)))
VECTOR_RECORD = vector.encode(STATE)
LINEAR_RECORD = linear.encode(
    LinearRecord(linear.pack_term(2, 9), 5, 33, b"\x01value", receipts=(Receipt(b"lanelane", 1, 0),))
)
RECORDS = {"lww": LWW_RECORD, "vector": VECTOR_RECORD, "linear": LINEAR_RECORD}
EACH = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def time_in_header(header: bytes) -> int:
    """A header of a linearizable bucket does not pass for a record: its value is empty, which none is."""
    return linear.decode(header).time if kinds.is_linear(header) else kinds.check(header)


def test_the_first_byte_says_the_kind() -> None:
    assert kinds.is_vector(VECTOR_RECORD)
    assert kinds.is_vector(vector.with_own(VECTOR_RECORD, OWN))
    assert [name for name, record in RECORDS.items() if kinds.is_vector(record)] == ["vector"]
    assert [name for name, record in RECORDS.items() if kinds.is_linear(record)] == ["linear"]


def test_a_checked_record_says_the_newest_time_in_it() -> None:
    assert kinds.check(LWW_RECORD) == 77
    assert kinds.check(VECTOR_RECORD) == 90
    assert kinds.check(LINEAR_RECORD) == 33
    assert kinds.check(vector.encode(VersionSet(((A, 1, 3),)))) == 0, "nothing stands any more"


def test_a_header_is_made_as_the_kind_has_it() -> None:
    assert kinds.header_of(LWW_RECORD) == lww.header_of(LWW_RECORD)
    assert kinds.header_of(VECTOR_RECORD) == vector.header(VECTOR_RECORD)
    assert kinds.header_of(LINEAR_RECORD) == linear.header(LINEAR_RECORD)
    for record in RECORDS.values():
        assert time_in_header(kinds.header_of(record)) == kinds.check(record)
        assert len(kinds.header_of(record)) < len(record)


def test_what_leaves_the_node_is_all_but_its_own_part() -> None:
    mine = vector.with_own(VECTOR_RECORD, OWN)
    assert kinds.public(mine) == VECTOR_RECORD == kinds.public(VECTOR_RECORD)
    assert kinds.public(LWW_RECORD) == LWW_RECORD
    assert kinds.public(LINEAR_RECORD) == LINEAR_RECORD
    with pytest.raises(CorruptData, match="travel"):
        kinds.check(mine)
    kinds.check(kinds.public(mine))
    assert kinds.header_of(mine) == kinds.header_of(VECTOR_RECORD)


def test_two_records_of_a_key_are_of_one_kind() -> None:
    kinds.check_same(LWW_RECORD, lww.stamp(TOMBSTONE, 1))
    kinds.check_same(VECTOR_RECORD, vector.with_own(VECTOR_RECORD, OWN))
    kinds.check_same(LINEAR_RECORD, linear.header(LINEAR_RECORD))
    for one, other in [*permutations(RECORDS.values(), 2), (VECTOR_RECORD, b"")]:
        with pytest.raises(CorruptData, match="kinds"):
            kinds.check_same(one, other)


@pytest.mark.parametrize("kind", [0, 4, 16, 255])
@EACH
def test_a_record_of_an_unknown_kind_is_corrupt(record: bytes, kind: int) -> None:
    with pytest.raises(CorruptData):
        kinds.check(bytes([kind]) + record[1:])


@EACH
def test_a_record_under_the_name_of_another_kind_is_corrupt(record: bytes) -> None:
    for other in (lww.KIND_LWW, vector.KIND_VECTOR, linear.KIND_LINEAR):
        if other != record[0]:
            with pytest.raises(CorruptData):
                kinds.check(bytes([other]) + record[1:])


@EACH
def test_a_truncated_record_is_corrupt_at_every_length(record: bytes) -> None:
    cut = len(lww.header_of(record)) if record is LWW_RECORD else len(record)
    for length in range(1, cut):
        with pytest.raises(CorruptData):
            kinds.check(record[:length])


def test_no_bytes_at_all_are_corrupt() -> None:
    """A peer may send anything as a record."""
    with pytest.raises(CorruptData):
        kinds.check(b"")


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=60), st.sampled_from([b"", b"\x01", b"\x02\x00", b"\x02\x00\x92", b"\x03"]))
def test_garbage_is_corrupt_and_never_another_error(data: bytes, start: bytes) -> None:
    try:
        time = kinds.check(start + data)
    except CorruptData:
        return
    assert 0 <= time < 1 << 64
    assert kinds.public(start + data) == start + data
    assert time_in_header(kinds.header_of(start + data)) == time
