"""Keys as bytes.

A key is a ``str`` or ``bytes``. The two are different keys and come back as the same type, so an encoded key begins with
a tag byte. Encoded keys sort by tag, then by the bytes of the key; for ``str`` that is the order of code points, because
UTF-8 keeps it. Scans run in this order.

In a node's storage, partition and bucket precede the key (``storage_key``). The partition comes first: it is then one
contiguous run on disk, and moved, compared and dropped as one.
"""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from raykv.config import MAX_KEY_BYTES, shown
from raykv.errors import CorruptData, InvalidKey

if TYPE_CHECKING:
    from collections.abc import Sequence

Key: TypeAlias = str | bytes

_BYTES = b"\x01"
_STR = b"\x02"
_TAG = itemgetter(0)
_TAGS = frozenset((_BYTES[0], _STR[0]))
LAST_TAG_END = b"\x03"
"""Sorts after every encoded key."""

_STORAGE_PREFIX = struct.Struct(">HI")
STORAGE_PREFIX_BYTES = _STORAGE_PREFIX.size
_PRIVATE = b"\xff\xff"
"""The prefix of a node's private records: no partition has that number (``MAX_PARTITIONS``)."""
HINTS = _PRIVATE + b"h"
REPAIRS = _PRIVATE + b"r"
PROMISES = _PRIVATE + b"p"
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
            f"a key must be at most {MAX_KEY_BYTES} bytes in UTF-8; this one has {len(encoded) - 1}: {shown(key)}",
            size_bytes=len(encoded) - 1,
            limit_bytes=MAX_KEY_BYTES,
        )
    return encoded


def encode_bound(bound: Key) -> bytes:
    """Encode a scan's bound or prefix: as a key, but empty or long ones are fine."""
    if isinstance(bound, str):
        try:
            return _STR + str.encode(bound)  # even if a subclass overrides it
        except UnicodeEncodeError:
            raise InvalidKey(
                f"a str key must be encodable as UTF-8; this one contains a lone surrogate: {shown(bound)}"
            ) from None
    if isinstance(bound, bytes):
        return b"".join((_BYTES, bound))
    raise InvalidKey(f"a key must be a str or bytes; got {type(bound).__name__}: {shown(bound)}")


def is_key(encoded: bytes) -> bool:
    """Return whether ``encode_key`` returns this for some key."""
    if not 1 < len(encoded) <= MAX_ENCODED_KEY_BYTES:
        return False
    tag = encoded[:1]
    return tag == _BYTES or (tag == _STR and (encoded.isascii() or _is_utf8(encoded)))


def check_keys(encoded: Sequence[bytes]) -> None:
    """Raise ``InvalidKey`` unless ``encode_key`` can have made each of these. O(bytes), in a few steps in C.

    A record under an invalid key would block every scan, and no client could name it to delete it.
    """
    if len(encoded) == 1:
        if not is_key(encoded[0]):
            raise _no_key(encoded[0])
        return
    sizes = {*map(len, encoded)}
    if not sizes:
        return
    # Each tag is a character by itself: all keys are UTF-8 exactly if their concatenation is.
    if not (
        min(sizes) > 1
        and max(sizes) <= MAX_ENCODED_KEY_BYTES
        and (tags := {*map(_TAG, encoded)}) <= _TAGS
        and _is_utf8(b"".join(encoded if tags == {_STR[0]} else [key for key in encoded if key[:1] == _STR]))
    ):
        raise _no_key(next(key for key in encoded if not is_key(key)))


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _no_key(encoded: bytes) -> InvalidKey:
    reason = f"{len(encoded)} bytes with its tag, of 2 to {MAX_ENCODED_KEY_BYTES}"
    if 1 < len(encoded) <= MAX_ENCODED_KEY_BYTES:
        reason = "its text is not UTF-8" if encoded[:1] == _STR else f"unknown tag {encoded[:1]!r}"
    return InvalidKey(f"not a key: {reason}: {shown(encoded)}")


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


def group_of(key: bytes, separator: str) -> bytes:
    r"""Return what of an encoded key decides its partition: tag and bytes up to the first ``separator``; without one, all.

    The bytes of ``separator`` are looked for, in str and bytes keys alike; a group may be empty. The key that is just a
    group's name belongs to it. Only one search: O(len(key)).

    >>> group_of(encode_key("user:1:name"), ":"), group_of(encode_key("user"), ":"), group_of(encode_key(b":x"), ":")
    (b'\x02user', b'\x02user', b'\x01')
    """
    at = key.find(separator.encode(), 1)
    return key if at < 0 else key[:at]


def group_of_range(start: bytes, end: bytes, separator: str) -> bytes | None:
    r"""Return the group to which all keys of ``[start, end)`` belong; None if there may be several.

    It is known only of what follows a separator: between the key "user" and "user:1" lie those of other groups.

    >>> group_of_range(b"\x02user:1:", b"\x02user:1;", ":"), group_of_range(b"\x02user", b"\x02users", ":")
    (b'\x02user', None)
    """
    ending = separator.encode()
    at = start.find(ending, 1)
    if at < 0:
        return None
    above = after_prefix(start[: at + len(ending)])
    return start[:at] if above is None or end <= above else None


def after_prefix(prefix: bytes) -> bytes | None:
    r"""Return the least byte string that sorts after all that begin with ``prefix``; None if there is none.

    >>> after_prefix(b"\x02ab"), after_prefix(b"\xff")
    (b'\x02ac', None)
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def storage_prefix(partition: int, bucket_id: int) -> bytes:
    """Return the six bytes before every key of that bucket in that partition. ``CorruptData`` if out of range."""
    try:
        return _STORAGE_PREFIX.pack(partition, bucket_id)
    except struct.error:
        raise CorruptData(f"there is no partition {partition} or no bucket {bucket_id}") from None


def is_private(storage_key: bytes) -> bool:
    """Return whether this is a private record of the node, with no key of a bucket in it."""
    return storage_key.startswith(_PRIVATE)


def storage_partition(storage_key: bytes) -> int:
    """Return the partition of a key as stored."""
    return int.from_bytes(storage_key[:2])


def storage_bucket(storage_key: bytes) -> int:
    """Return the bucket id of a storage key."""
    return int(_STORAGE_PREFIX.unpack_from(storage_key)[1])


def parts_of(storage_key: bytes) -> tuple[int, int, Key] | None:
    """Return ``(partition, bucket id, key)`` of a storage key; None for a private record and for what is no key."""
    encoded = storage_key[STORAGE_PREFIX_BYTES:]
    if is_private(storage_key) or not is_key(encoded):
        return None
    partition, bucket_id = _STORAGE_PREFIX.unpack_from(storage_key)
    return partition, bucket_id, decode_key(encoded)
