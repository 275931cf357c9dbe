"""Records of linearizable buckets: they come back as they were, they lie on disks as they do here, all else is corrupt."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.config import MAX_PAIR_BYTES
from raykv.errors import CorruptData
from raykv.protocol import changes as c
from raykv.records import linear_record as r
from raykv.records.linear_record import LinearRecord, Receipt
from raykv.records.record import stamp_of

TERM = r.pack_term(3, 0x0102030405060708)
LANES = st.binary(min_size=8, max_size=8)
VERSIONS = st.just(b"") | st.binary(min_size=24, max_size=24)
PAYLOADS = st.none() | st.binary(min_size=1, max_size=30)
TERMS = st.builds(r.pack_term, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
RECEIPTS = st.lists(
    st.builds(
        Receipt, LANES, st.integers(0, 2**63 - 1), st.sampled_from(sorted(c.FINAL)), VERSIONS, st.none() | st.binary()
    ),
    max_size=4,
    unique_by=lambda receipt: receipt.lane,
).map(tuple)
RECORDS = st.builds(
    LinearRecord,
    TERMS,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    PAYLOADS,
    VERSIONS,
    st.integers(0, r.MAX_FENCE),
    RECEIPTS,
)
SMALL = LinearRecord(TERM, 5, 7 << 16, b"\x01v", b"", 2, (Receipt(b"lanelane", 9, c.DONE, TERM + bytes(8), None),))


def made(**changes: object) -> bytes:
    return r.encode(msgspec.structs.replace(SMALL, **changes))


@settings(deadline=None)
@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: LinearRecord) -> None:
    packed = r.encode(record)
    assert r.decode(packed) == r.check(packed) == record
    assert r.encode(r.decode(packed)) == packed
    assert r.shown(packed) == (record.version, record.payload)
    assert r.term_of(packed) == record.term
    assert stamp_of(packed) == record.term + record.seq.to_bytes(8)
    assert record.version == (record.origin or stamp_of(packed)), "a value that is confirmed is no new version"


@settings(deadline=None)
@given(RECORDS, RECORDS)
def test_stamps_sort_by_term_then_seq(one: LinearRecord, other: LinearRecord) -> None:
    first, second = r.encode(one), r.encode(other)
    assert (stamp_of(first) < stamp_of(second)) == ((one.term, one.seq) < (other.term, other.seq))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_of_two_terms_the_greater_number_is_later(one: int, bits: int, other: int, others: int) -> None:
    first, second = r.pack_term(one, bits), r.pack_term(other, others)
    assert (first < second) == ((one, bits) < (other, others))
    assert r.term_number(first) == one
    assert first >= r.NO_TERM


@settings(deadline=None)
@given(RECORDS)
def test_the_header_tells_all_but_value_and_receipts(record: LinearRecord) -> None:
    header = r.header(r.encode(record))
    bare = None if record.payload is None else b""
    assert r.decode(header) == msgspec.structs.replace(record, payload=bare, receipts=())
    assert r.header(header) == header
    assert stamp_of(header) == stamp_of(r.encode(record))


@pytest.mark.parametrize(
    ("record", "golden"),
    [
        (LinearRecord(TERM, 5, 7 << 16, b"\x01v"),
         "03 0000000000000003 0102030405060708 0000000000000005 95 ce00070000 c400 00 c4020176 90"),
        (LinearRecord(TERM, 6, 0, None, TERM + (5).to_bytes(8), 300),
         "03 0000000000000003 0102030405060708 0000000000000006 95 00 "
         "c418 000000000000000301020304050607080000000000000005 cd012c c0 90"),
        (LinearRecord(TERM, 7, 1, b"\x04" + bytes(8), receipts=(Receipt(b"lanelane", 9, c.CONFLICT, b"", b"\x01w"),)),
         "03 0000000000000003 0102030405060708 0000000000000007 95 01 c400 00 c409040000000000000000 "
         "91 95 c4086c616e656c616e65 09 01 c400 c4020177"),
    ],
    ids=["a value", "a delete, confirmed under a later term, with a fencing token", "a cell with a receipt"],
)  # fmt: skip
def test_the_bytes_of_a_record_never_change(record: LinearRecord, golden: str) -> None:
    assert r.encode(record).hex() == golden.replace(" ", "")


def is_another(data: bytes, record: bytes) -> bool:
    """Whether damaged bytes are refused, or show themselves as another record; anything else but ``CorruptData`` escapes."""
    try:
        taken = r.check(data)
    except CorruptData:
        return True
    return taken != r.decode(record)


@pytest.mark.parametrize(
    "record", [made(), made(payload=None), made(receipts=())], ids=["value", "delete", "no receipt"]
)
def test_a_truncated_record_is_corrupt_at_every_length(record: bytes) -> None:
    for length in range(len(record)):
        with pytest.raises(CorruptData):
            r.check(record[:length])
        with pytest.raises(CorruptData):
            r.shown(record[:length])
    with pytest.raises(CorruptData):
        r.check(record + b"\0")


def test_any_flipped_byte_makes_it_corrupt_or_another_record() -> None:
    record = made(origin=TERM + bytes(8))
    for at in range(len(record)):
        for value in range(256):
            if value != record[at]:
                assert is_another(record[:at] + bytes([value]) + record[at + 1 :], record), (at, value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x03", made()[:25], made()[:25] + b"\x95"]))
def test_garbage_is_corrupt_and_never_another_error(data: bytes, start: bytes) -> None:
    with contextlib.suppress(CorruptData):
        r.shown(start + data)
    try:
        taken = r.check(start + data)
    except CorruptData:
        return
    assert r.check(r.encode(taken)) == taken


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": bytes(23)},
        {"time": -1},
        {"fence": -1},
        {"fence": r.MAX_FENCE + 1},
        {"payload": b""},
        {"payload": bytes(MAX_PAIR_BYTES + 2)},
        {"receipts": (Receipt(b"lanelane", 1, 0), Receipt(b"lanelane", 2, 0))},
        {"receipts": (Receipt(b"lane", 1, 0),)},
        {"receipts": (Receipt(b"lanelane", -1, 0),)},
        {"receipts": tuple(Receipt(at.to_bytes(8), 1, 0) for at in range(r.MAX_RECEIPTS + 1))},
        {"receipts": (Receipt(b"lanelane", 1, 0, b"", bytes(r.MAX_LINEAR_RECORD_BYTES)),)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_no_leader_writes_is_corrupt(wrong: dict[str, object]) -> None:
    with pytest.raises(CorruptData, match="linearizable"):
        r.check(made(**wrong))


@pytest.mark.parametrize(
    "right",
    [
        {"time": (1 << 64) - 1},
        {"fence": r.MAX_FENCE},
        {"payload": bytes(MAX_PAIR_BYTES + 1)},
        {"origin": bytes(24)},
        {"receipts": tuple(Receipt(at.to_bytes(8), 1, 0) for at in range(r.MAX_RECEIPTS))},
    ],
    ids=lambda right: next(iter(right)),
)
def test_the_bounds_are_within_bounds(right: dict[str, object]) -> None:
    r.check(made(**right))


def test_what_a_restore_loads_is_known_by_its_term() -> None:
    record = made()
    assert not r.is_restored(record)
    assert r.is_restored(r.renewed(record, 5))
    assert not r.is_restored(bytes(30)), "a record of another kind"
