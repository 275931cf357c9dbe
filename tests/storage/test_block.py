import contextlib
import random
import struct

import pytest

from raykv.storage import block
from raykv.storage.blob import UNREADABLE
from raykv.storage.bloom import BloomBuilder


def encoded(pairs):
    keys, records = [key for key, _ in pairs], [record for _, record in pairs]
    return block.encode(keys, records, bytes(map(block.mark_of, keys)))


SHAPES = {
    "usual": [(b"city:%05d" % at, b"record %d " % at * 40) for at in range(14)],
    "one": [(b"k", b"")],
    "empty key and records": [(b"", b""), (b"a", b""), (b"b", b"x")],
    "long keys": [(b"%d" % at + bytes(at), b"x" * at) for at in (254, 255, 256, 257, 4000)],
    "wide": [(b"%03d" % at, bytes(70_000 if at == 7 else 300)) for at in range(400)],
    "sizes": [(b"%06d" % at, bytes(at)) for at in (0, 1, 31, 32, 255, 256, 65_535, 65_536)],
    "equal marks": [(b"%08d" % at, b"%d" % at) for at in range(3000)],
}


@pytest.mark.parametrize("pairs", SHAPES.values(), ids=SHAPES)
def test_what_is_found_is_what_a_scan_shows(pairs):
    pairs = sorted(pairs)
    payload = encoded(pairs)
    block.check(payload)
    assert [*zip(*block.decode(payload), strict=True)] == pairs
    for key, record in pairs:
        assert block.find(payload, key, block.mark_of(key)) == record
        for other in (key + b"x", key[:-1] + b"\xff", key[:-1] if len(key) > 1 else b"\xfe\xfe"):
            assert block.find(payload, other, block.mark_of(other)) == dict(pairs).get(other)


def test_a_key_inside_a_record_or_a_key_is_not_taken_for_one():
    packed = block.packed_key(b"wanted") + b"\xc4\x05wrong"
    pairs = [(b"a" + packed, packed * 3), (b"b", packed)]
    payload = encoded(pairs)
    for mark in range(256):
        assert block.find(payload, b"wanted", mark) is None


def test_marks_are_those_that_the_filter_hashes():
    keys = [b"%d" % at for at in range(100)]
    assert BloomBuilder().add(keys) == bytes(map(block.mark_of, keys))


def test_a_block_that_is_none_is_refused_by_name():
    """Cut, changed, or with a tail that lies: an error of those that a reader expects, or what a scan of it shows."""
    pairs = SHAPES["usual"]
    payload = encoded(pairs)
    rng = random.Random(5)
    for number in range(6000):
        given = bytearray(payload if number % 3 else payload[: rng.randrange(len(payload))])
        for _ in range(rng.choice((1, 1, 2, 5))):
            if given:
                given[-rng.randrange(1, min(len(given), 60 if number % 2 else len(given)) + 1)] = rng.randrange(256)
        given = bytes(given)
        with contextlib.suppress(*UNREADABLE):
            read(given)
        for key, _ in pairs[::5]:
            try:
                block.check(given)
                found = block.find(given, key, block.mark_of(key))
            except (*UNREADABLE, IndexError):
                continue
            assert found is None or len(found) < len(given)


def read(payload):
    block.check(payload)
    return block.decode(payload)


@pytest.mark.parametrize("tail", [(0, 0), (0, 3), (1 << 31, 2), (14, 4), (1 << 32 - 1, 4), (15, 2)])
def test_a_tail_that_lies(tail):
    payload = encoded(SHAPES["usual"])[:-5] + struct.pack("<IB", tail[0] & 0xFFFFFFFF, tail[1])
    with pytest.raises(UNREADABLE):
        read(payload)


def test_lists_of_different_lengths():
    with pytest.raises(ValueError, match="a key without a record"):
        block.decode_lists(b"\x92\x91\xc4\x01a\x90")
    assert block.decode_lists(b"\x92\x91\xc4\x01a\x91\xc4\x01b") == ([b"a"], [b"b"])
