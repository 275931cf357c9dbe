"""What a change makes of what stands, as a table; a head is its record, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykv.protocol import changes as c
from raykv.protocol.changes import cell, number_of
from raykv.records import linear_record as linear
from raykv.records.linear_record import MAX_RECEIPTS, MAX_RECEIPTS_BYTES, LinearRecord, Receipt
from raykv.replica.applying import Effect, Head, effect

TERM = linear.pack_term(2, 7)
VERSION, OTHER = TERM + (1).to_bytes(8), TERM + (2).to_bytes(8)
ABSENT = Head()
DELETED = Head(None, VERSION)
VALUE = Head(b"\x01v", VERSION)
FIVE = Head(cell(5), VERSION)
FENCED = Head(b"\x01v", VERSION, fence=7)


def change(kind: int, payload: bytes = b"", condition: bytes | None = None, fence: int = 0) -> c.Change:
    return c.Change(b"\x02k", kind, payload, bytes(8), 1, condition, fence)


DONE, W = c.DONE, b"\x01w"
TABLE = [
    # what stands, change, (status, answer, whether it writes, the value after it)
    (ABSENT, change(c.READ), (DONE, None, False, None)),
    (VALUE, change(c.READ), (DONE, b"\x01v", False, None)),
    (ABSENT, change(c.PUT, W), (DONE, None, True, W)),
    (VALUE, change(c.PUT, W), (DONE, None, True, W)),
    (VALUE, change(c.PUT, b"\x01v"), (DONE, None, True, b"\x01v")),
    (ABSENT, change(c.DELETE), (DONE, None, False, None)),
    (DELETED, change(c.DELETE), (DONE, None, False, None)),
    (VALUE, change(c.DELETE), (DONE, None, True, None)),
    (ABSENT, change(c.SWAP, W), (DONE, None, True, W)),
    (VALUE, change(c.SWAP, W), (DONE, b"\x01v", True, W)),
    # conditions: b"" for no value at all
    (ABSENT, change(c.PUT, W, b""), (DONE, None, True, W)),
    (DELETED, change(c.PUT, W, b""), (DONE, None, True, W)),
    (VALUE, change(c.PUT, W, b""), (c.CONFLICT, b"\x01v", False, None)),
    (VALUE, change(c.PUT, W, VERSION), (DONE, None, True, W)),
    (VALUE, change(c.PUT, W, OTHER), (c.CONFLICT, b"\x01v", False, None)),
    (ABSENT, change(c.PUT, W, VERSION), (c.CONFLICT, None, False, None)),
    (DELETED, change(c.PUT, W, OTHER), (c.CONFLICT, None, False, None)),
    (VALUE, change(c.DELETE, b"", VERSION), (DONE, None, True, None)),
    (VALUE, change(c.DELETE, b"", OTHER), (c.CONFLICT, b"\x01v", False, None)),
    (FIVE, change(c.ADD, cell(1), OTHER), (c.CONFLICT, cell(5), False, None)),
    # fencing tokens: the same holder may write again
    (FENCED, change(c.PUT, W, None, 6), (c.FENCED, b"\x01v", False, None)),
    (FENCED, change(c.PUT, W, None, 7), (DONE, None, True, W)),
    (FENCED, change(c.PUT, W, None, 8), (DONE, None, True, W)),
    (FENCED, change(c.PUT, W), (DONE, None, True, W)),
    (FENCED, change(c.PUT, W, OTHER, 6), (c.FENCED, b"\x01v", False, None)),
    (FENCED, change(c.READ, fence=6), (DONE, b"\x01v", False, None)),
    (Head(fence=7), change(c.DELETE, fence=7), (DONE, None, False, None)),
    (Head(fence=7), change(c.DELETE, fence=8), (DONE, None, True, None)),
    (Head(cell(5), VERSION, fence=7), change(c.MAXIMUM, cell(1), fence=8), (DONE, cell(5), True, cell(5))),
    # cells
    (ABSENT, change(c.ADD, cell(3)), (DONE, cell(3), True, cell(3))),
    (DELETED, change(c.ADD, cell(-3)), (DONE, cell(-3), True, cell(-3))),
    (FIVE, change(c.ADD, cell(3)), (DONE, cell(8), True, cell(8))),
    (FIVE, change(c.ADD, cell(0)), (DONE, cell(5), True, cell(5))),
    (ABSENT, change(c.MAXIMUM, cell(-9)), (DONE, cell(-9), True, cell(-9))),
    (FIVE, change(c.MAXIMUM, cell(6)), (DONE, cell(6), True, cell(6))),
    (FIVE, change(c.MAXIMUM, cell(5)), (DONE, cell(5), False, cell(5))),
    (FIVE, change(c.MAXIMUM, cell(4)), (DONE, cell(5), False, cell(5))),
    (ABSENT, change(c.MINIMUM, cell(9)), (DONE, cell(9), True, cell(9))),
    (FIVE, change(c.MINIMUM, cell(4)), (DONE, cell(4), True, cell(4))),
    (FIVE, change(c.MINIMUM, cell(6)), (DONE, cell(5), False, cell(5))),
    (VALUE, change(c.ADD, cell(1)), (c.NO_NUMBER, b"\x01v", False, None)),
    (FIVE, change(c.ADD, b"\x01v"), (c.NO_NUMBER, cell(5), False, None)),
    (ABSENT, change(c.ADD, b""), (c.NO_NUMBER, None, False, None)),
    (Head(cell(c.MOST)), change(c.ADD, cell(1)), (c.OUT_OF_RANGE, cell(c.MOST), False, None)),
    (Head(cell(c.LEAST)), change(c.ADD, cell(-1)), (c.OUT_OF_RANGE, cell(c.LEAST), False, None)),
    (Head(cell(c.MOST)), change(c.ADD, cell(c.LEAST)), (DONE, cell(-1), True, cell(-1))),
]


@pytest.mark.parametrize(("head", "asked", "expected"), TABLE, ids=str)
def test_what_a_change_does(
    head: Head, asked: c.Change, expected: tuple[int, bytes | None, bool, bytes | None]
) -> None:
    assert effect(asked, head) == Effect(*expected)


@given(st.integers(c.LEAST, c.MOST))
def test_a_cell_is_its_number(number: int) -> None:
    assert number_of(cell(number)) == number
    assert len(cell(number)) == c.CELL_BYTES


@pytest.mark.parametrize("payload", [b"", b"\x04", b"\x04" + bytes(7), b"\x04" + bytes(9), b"\x01" + bytes(8)])
def test_nothing_else_is_a_number(payload: bytes) -> None:
    assert number_of(payload) is None


def test_a_head_makes_the_record_that_it_was_made_of() -> None:
    receipts = (Receipt(b"lane-one", 3, c.DONE, VERSION, None), Receipt(b"lane-two", 1, c.CONFLICT, b"", b"\x01w"))
    record = linear.encode(LinearRecord(TERM, 9, 1 << 16, b"\x01v", VERSION, 4, receipts))
    head = Head.of(record, 60.0)
    assert head.record(TERM, 9) == record
    assert {kept.until_s for kept in head.receipts.values()} == {60.0}
    assert head.receipts_bytes == 2
    own = linear.encode(LinearRecord(TERM, 9, 1 << 16, b"\x01v"))
    assert Head.of(own, 0.0).record(TERM, 9) == own
    assert linear.decode(Head.of(own, 0.0).record(TERM, 10)).version == TERM + (9).to_bytes(8), (
        "confirmed, no new version"
    )
    assert Head.of(None, 0.0) == Head()


def test_a_lane_has_one_receipt_and_its_bytes_are_counted() -> None:
    head = Head()
    head.keep(Receipt(b"lane-one", 1, c.DONE, b"", bytes(10)), 1.0)
    head.keep(Receipt(b"lane-one", 2, c.DONE, b"", bytes(30)), 2.0)
    assert [(kept.receipt.number, kept.until_s) for kept in head.receipts.values()] == [(2, 2.0)]
    assert head.receipts_bytes == 30
    head.forget([b"lane-one", b"lane-two"])
    assert (head.receipts, head.receipts_bytes) == ({}, 0)


def test_receipts_have_so_much_room_and_no_more() -> None:
    head = Head()
    for lane in range(MAX_RECEIPTS):
        assert head.has_room
        head.keep(Receipt(lane.to_bytes(8), 1, c.DONE), 1.0)
    assert not head.has_room
    large = Head()
    large.keep(Receipt(bytes(8), 1, c.DONE, b"", bytes(MAX_RECEIPTS_BYTES)), 1.0)
    assert not large.has_room
