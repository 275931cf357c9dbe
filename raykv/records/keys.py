"""Keys as bytes.

A key is a ``str`` or ``bytes``. The two are different keys and come back as what they were, so an encoded key opens with
a tag byte. Encoded keys sort by tag, then by the bytes of the key; for ``str`` that is the order of code points, because
UTF-8 keeps it. Scans run in this order.

In a node's storage a key stands behind its partition and its bucket (``storage_key``): partition first, so that a
partition is one contiguous run on disk, to be moved, compared and dropped as one.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from raykv.config import MAX_KEY_BYTES, shown
from raykv.errors import CorruptData, InvalidKey

Key: TypeAlias = str | bytes

_BYTES = b"\x01"
_STR = b"\x02"
LAST_TAG_END = b"\x03"
"""Sorts after every encoded key."""

_STORAGE_PREFIX = struct.Struct(">HI")
STORAGE_PREFIX_BYTES = _STORAGE_PREFIX.size
_PRIVATE = b"\xff\xff"
"""Begins what a node keeps for itself: no partition has that number (``MAX_PARTITIONS``)."""
HINTS = _PRIVATE + b"h"
REPAIRS = _PRIVATE + b"r"
MAX_ENCODED_KEY_BYTES = 1 + MAX_KEY_BYTES


def encode_key(key: Key) -> bytes:
    r"""Return the key's bytes behind its tag, or raise ``InvalidKey``.

    >>> encode_key("a"), encode_key(b"a")
    (b'\x02a', b'\x01a')
    """
    encoded = encode_bound(key)
    if len(encoded) == 1:
        raise InvalidKey("a key must not be empty")
    if len(encoded) > MAX_ENCODED_KEY_BYTES:
        raise InvalidKey(
            f"a key is at most {MAX_KEY_BYTES} bytes in UTF-8; this one has {len(encoded) - 1}: {shown(key)}",
            size_bytes=len(encoded) - 1,
            limit_bytes=MAX_KEY_BYTES,
        )
    return encoded


def encode_bound(bound: Key) -> bytes:
    """Encode a scan's bound or prefix: as a key, but empty or long ones are fine."""
    if isinstance(bound, str):
        try:
            return _STR + str.encode(bound)  # whatever a subclass makes of it
        except UnicodeEncodeError:
            raise InvalidKey(
                f"a str key must be encodable as UTF-8; this one has a lone surrogate: {shown(bound)}"
            ) from None
    if isinstance(bound, bytes):
        return b"".join((_BYTES, bound))
    raise InvalidKey(f"a key is a str or bytes; got {type(bound).__name__}: {shown(bound)}")


def decode_key(encoded: bytes) -> Key:
    """Return the key that ``encode_key`` took."""
    tag, rest = encoded[:1], encoded[1:]
    if tag == _STR:
        try:
            return rest.decode()
        except UnicodeDecodeError:
            raise CorruptData("a stored str key is not UTF-8") from None
    if tag == _BYTES:
        return rest
    raise CorruptData(f"a stored key has an unknown tag {tag!r}")


def after_prefix(prefix: bytes) -> bytes | None:
    r"""Return the least byte string that sorts after all that begin with ``prefix``; None if there is none.

    >>> after_prefix(b"\x02ab"), after_prefix(b"\xff")
    (b'\x02ac', None)
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def storage_prefix(partition: int, bucket_id: int) -> bytes:
    """Return the six bytes before every key of that bucket in that partition. ``CorruptData`` if there can be none."""
    try:
        return _STORAGE_PREFIX.pack(partition, bucket_id)
    except struct.error:
        raise CorruptData(f"there is no partition {partition} or no bucket {bucket_id}") from None


def is_private(storage_key: bytes) -> bool:
    """Whether the node keeps this for itself: no key of a bucket stands behind it."""
    return storage_key.startswith(_PRIVATE)


def storage_bucket(storage_key: bytes) -> int:
    """Return the bucket id of a storage key."""
    return int(_STORAGE_PREFIX.unpack_from(storage_key)[1])
