"""Records: laws of packing, the bytes as they lie on disks, refusal of all else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData
from raykv.records import record as r

IDS = st.binary(min_size=16, max_size=16)
TIMES = st.integers(0, 2**64 - 1)
TTLS = st.none() | st.integers(1, 2**63)
BODIES = st.one_of(
    st.builds(r.pack_body, IDS, st.binary(max_size=30), TTLS),
    st.builds(r.pack_tombstone_body, IDS),
)
ID = bytes(range(16))


@settings(deadline=None)
@given(IDS, st.binary(max_size=50), TTLS, TIMES)
def test_a_put_comes_back_as_it_was(operation: bytes, payload: bytes, ttl_ms: int | None, time: int) -> None:
    body = r.pack_body(operation, payload, ttl_ms)
    r.check_body(body)
    assert r.body_operation_id(body) == operation
    packed = r.stamp(body, time)
    assert r.unpack(packed) == r.Record(time, operation, False, ttl_ms, payload)
    assert len(packed) <= r.HEADER_BYTES + 8 + len(payload)


@settings(deadline=None)
@given(IDS, TIMES)
def test_a_delete_comes_back_as_it_was(operation: bytes, time: int) -> None:
    packed = r.stamp(r.pack_tombstone_body(operation), time)
    assert r.unpack(packed) == r.Record(time, operation, True, None, b"")
    assert len(packed) == r.HEADER_BYTES


@settings(deadline=None)
@given(BODIES, TIMES, TIMES)
def test_restamping_changes_the_time_and_nothing_else(body: bytes, one: int, other: int) -> None:
    again = r.restamp(r.stamp(body, one), other)
    assert again == r.stamp(body, other)
    assert r.unpack(again)[1:] == r.unpack(r.stamp(body, one))[1:]


@settings(deadline=None)
@given(BODIES, BODIES, TIMES, TIMES)
def test_stamps_sort_by_time_then_operation(one: bytes, other: bytes, time: int, later: int) -> None:
    first, second = r.stamp(one, time), r.stamp(other, later)
    assert (r.stamp_of(first) < r.stamp_of(second)) == ((time, one[:16]) < (later, other[:16]))
    assert len(r.stamp_of(first)) == 24
    assert r.time_of(first) == time


@settings(deadline=None)
@given(BODIES, TIMES)
def test_the_header_tells_all_but_the_payload(body: bytes, time: int) -> None:
    packed = r.stamp(body, time)
    assert r.unpack(r.header_of(packed)) == r.unpack(packed)._replace(payload=b"")
    assert r.header_of(r.header_of(packed)) == r.header_of(packed)


@pytest.mark.parametrize(
    ("packed", "golden"),
    [
        (r.stamp(r.pack_body(ID, b"\x00value"), 0x0102030405060708),
         "010102030405060708000102030405060708090a0b0c0d0e0f000076616c7565"),
        (r.stamp(r.pack_body(ID, b"\x01x", 60_000), 1 << 16),
         "010000000000010000000102030405060708090a0b0c0d0e0f02000000000000ea600178"),
        (r.stamp(r.pack_tombstone_body(ID), 7),
         "010000000000000007000102030405060708090a0b0c0d0e0f01"),
    ],
    ids=["put", "put with a ttl", "delete"],
)  # fmt: skip
def test_the_bytes_of_a_record_never_change(packed: bytes, golden: str) -> None:
    assert packed.hex() == golden


@pytest.mark.parametrize(
    ("now_ms", "ttl_ms", "live"), [(999, 500, True), (1499, 500, True), (1500, 500, False), (10**15, None, True)]
)
def test_a_record_expires_its_ttl_after_its_own_time(now_ms: int, ttl_ms: int | None, live: bool) -> None:
    # 1,000 ms and a counter of 77: the counter is no time
    taken = r.unpack(r.stamp(r.pack_body(ID, b"", ttl_ms), (1000 << 16) + 77))
    assert taken.live(now_ms) is live


def test_a_tombstone_never_lives() -> None:
    assert not r.unpack(r.stamp(r.pack_tombstone_body(ID), 5 << 16)).live(0)


@settings(deadline=None)
@given(BODIES, TIMES, st.data())
def test_a_truncated_header_is_corrupt(body: bytes, time: int, data: st.DataObject) -> None:
    packed = r.stamp(body, time)
    cut = packed[: data.draw(st.integers(0, len(r.header_of(packed)) - 1))]
    with pytest.raises(CorruptData):
        r.unpack(cut)
    if len(cut) >= 9:
        with pytest.raises(CorruptData):
            r.check_body(cut[9:])


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda rest: b"\x01" + rest)))
def test_garbage_is_corrupt_or_a_complete_record_and_never_another_error(data: bytes) -> None:
    try:
        taken = r.unpack(data)
    except CorruptData:
        with pytest.raises(CorruptData):
            r.check(data)
        return
    body = (
        r.pack_tombstone_body(taken.operation_id)
        if taken.tombstone
        else r.pack_body(taken.operation_id, taken.payload, taken.ttl_ms)
    )
    assert r.stamp(body, taken.time) == data, "one record, one form"


@pytest.mark.parametrize("kind", [0, 2, 255])
def test_a_record_of_another_kind_is_refused(kind: int) -> None:
    packed = r.stamp(r.pack_body(ID, b"x"), 1)
    with pytest.raises(CorruptData, match="kind"):
        r.check(bytes([kind]) + packed[1:])


@pytest.mark.parametrize("flags", [3, 4, 8, 128, 255])
def test_flags_that_mean_nothing_are_refused(flags: int) -> None:
    packed = bytearray(r.stamp(r.pack_body(ID, bytes(20)), 1))
    packed[25] = flags
    with pytest.raises(CorruptData, match="flags"):
        r.check(bytes(packed))


def test_a_tombstone_with_a_payload_is_refused() -> None:
    with pytest.raises(CorruptData):
        r.check(r.stamp(r.pack_tombstone_body(ID) + b"x", 1))
