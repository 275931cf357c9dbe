"""Which records belong to dropped buckets, and what of that another process believes."""

from __future__ import annotations

import msgspec
import pytest

from raykv.records.dropped import DroppedBuckets
from raykv.records.keys import HINTS, encode_key, storage_prefix
from raykv.records.limits import MAX_BUCKET_ID, MAX_BUCKETS

DROPPED = DroppedBuckets(4, frozenset([1, 3]))


def test_an_id_that_was_given_and_does_not_live_was_dropped() -> None:
    assert [bucket_id for bucket_id in (1, 2, 3, 4, 5, MAX_BUCKET_ID) if DROPPED.has(bucket_id)] == [2]


def test_a_record_goes_with_its_bucket_in_every_partition_whatever_its_key() -> None:
    for partition in (0, 258, 65534):
        for key in (encode_key("k"), b"no key", b""):
            assert DROPPED.covers(storage_prefix(partition, 2) + key)
            assert not DROPPED.covers(storage_prefix(partition, 3) + key)
            assert not DROPPED.covers(storage_prefix(partition, 4) + key)


def test_what_belongs_to_no_bucket_stays() -> None:
    for place in (b"", b"\0\0\0\0\2", storage_prefix(0xFFFF, 2), HINTS + b"\0\0\2"):
        assert not DROPPED.covers(place)


def test_it_travels_and_what_is_out_of_bounds_does_not() -> None:
    decoder = msgspec.msgpack.Decoder(DroppedBuckets)
    assert decoder.decode(msgspec.msgpack.encode(DROPPED)) == DROPPED
    for wrong in ([-1, []], [2**32 + 1, []], [1, [-1]], [1, [2**32]], [1, [*range(MAX_BUCKETS + 1)]]):
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(msgspec.msgpack.encode(wrong))
