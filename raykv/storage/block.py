"""A table's block: keys and records in a form in which one of them is found without decoding the others.

::

    entries   msgpack [key, record, key, record, ...], keys ascending
    marks     1 byte a key: the lowest of its hash (xxh3)
    offsets   2 bytes a key (4 if the entries take more than 64 KiB): where it begins
    count     4 bytes
    width     1 byte: 2 or 4

all little-endian. A get looks for the key's mark, one search in C over some bytes, and compares the key at the offset
beside it: RocksDB's data block hash index, in the form that suits the interpreter. To decode all of a block of 4 KiB into
objects, and to free them when it leaves the cache, costs several times that. A scan does decode it, in one call.

Tables before version 3 have blocks of msgpack ``[[keys], [records]]``.

Invariant: ``find`` returns what ``decode`` would show, or raises. Bounds are checked where the bytes are read: a block comes
from a file.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec
from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.storage.cache import Block

_TAIL = struct.Struct("<IB")
_NARROW, _WIDE = 2, 4
_offset_of = {_NARROW: struct.Struct("<H").unpack_from, _WIDE: struct.Struct("<I").unpack_from}
_tail_of = _TAIL.unpack_from
_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_lists = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode
_BYTES8, _BYTES16, _BYTES32 = 0xC4, 0xC5, 0xC6
"""msgpack's kinds of bytes, by the width of their length."""


def mark_of(key: bytes) -> int:
    """Return the mark of a key: of any hash of ``Bloom``'s first kind the lowest byte."""
    return xxh3_64_intdigest(key) & 0xFF


def encode(keys: Sequence[bytes], records: Sequence[bytes], marks: bytes) -> bytes:
    """Return the block. ``marks``: those of the keys. O(bytes)."""
    entries: list[bytes] = [b""] * (2 * len(keys))
    entries[::2] = keys
    entries[1::2] = records
    packed = _encode(entries)
    sizes = [
        len(key) + len(record) + 4 if len(key) < 256 > len(record) else _size(key) + _size(record)
        for key, record in zip(keys, records, strict=True)
    ]
    ends = [*accumulate(sizes, initial=len(packed) - sum(sizes))]
    wide = len(packed) > 0xFFFF
    offsets = struct.pack(f"<{len(keys)}{'I' if wide else 'H'}", *ends[:-1])
    return b"".join((packed, marks, offsets, _TAIL.pack(len(keys), _WIDE if wide else _NARROW)))


def _size(data: bytes) -> int:
    return len(data) + (2 if len(data) < 1 << 8 else 3 if len(data) < 1 << 16 else 5)


def packed_key(key: bytes) -> bytes:
    """Return the key as it stands in a block."""
    length = len(key)
    return (b"\xc4%c" % length if length < 256 else b"\xc5" + length.to_bytes(2)) + key


def check(payload: bytes) -> None:
    """Raise ``ValueError`` if the block's parts do not fit together. O(1)."""
    if len(payload) < _TAIL.size:
        raise ValueError("it is cut short")
    count, width = _tail_of(payload, len(payload) - _TAIL.size)
    if width not in _offset_of or count * (1 + width) + _TAIL.size >= len(payload):
        raise ValueError("its parts do not fit together")


def find(payload: bytes, key: bytes, mark: int) -> bytes | None:
    """Return the record of ``key``, or None. ``payload`` was checked.

    ``ValueError`` or ``IndexError`` if an entry is malformed even so.
    """
    tail = len(payload) - 5
    count, width = _tail_of(payload, tail)
    offsets = tail - count * width
    marks = offsets - count
    at = payload.find(mark, marks, offsets)
    if at < 0:
        return None
    packed = packed_key(key)
    while at >= 0:
        (start,) = _offset_of[width](payload, offsets + (at - marks) * width)
        if payload.startswith(packed, start):
            start += len(packed)
            kind = payload[start]
            if kind == _BYTES8:
                begin = start + 2
                end = begin + payload[start + 1]
            elif kind == _BYTES16:
                begin = start + 3
                end = begin + (payload[start + 1] << 8 | payload[start + 2])
            elif kind == _BYTES32:
                begin = start + 5
                end = begin + int.from_bytes(payload[start + 1 : begin])
            else:
                raise ValueError("a key without a record")
            if end > marks:
                raise ValueError("a record ends beyond the others")
            return payload[begin:end]
        at = payload.find(mark, at + 1, offsets)
    return None


def decode(payload: bytes) -> Block:
    """Return all of a block. ``ValueError`` or an error of msgspec if it is malformed."""
    count, width = _tail_of(payload, len(payload) - _TAIL.size)
    end = len(payload) - _TAIL.size - count * (1 + width)
    if end <= 0 or width not in _offset_of:
        raise ValueError("its parts do not fit together")
    entries = _decode_entries(memoryview(payload)[:end])
    if len(entries) != 2 * count:
        raise ValueError("it has a key without a record, or not as many as it says")
    return entries[::2], entries[1::2]


def decode_lists(payload: bytes) -> Block:
    """Return all of a block of a table before version 3. Errors as ``decode``."""
    block = _decode_lists(payload)
    if len(block[0]) != len(block[1]):
        raise ValueError("it has a key without a record, or a record without a key")
    return block
