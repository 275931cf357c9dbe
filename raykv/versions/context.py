"""The context: what a read has shown, in an opaque form that the user returns with a write.

::

    version    1 byte    1
    place      8 bytes   a hash of store, bucket and key (contexts are no secrets)
    causality            newest hybrid time and causal history (``causality``)
    checksum   4 bytes   crc32c of the above

A context that is damaged, comes from a later raykv, or belongs to another key is refused: taken for this key's, it would
discard versions that nobody has seen.
"""

from __future__ import annotations

import struct
from typing import Any, final

from xxhash import xxh3_64_digest

from raykv.errors import CorruptData, InvalidContext
from raykv.versions.causality import MAX_CAUSALITY_BYTES, unpack_causality

CONTEXT_VERSION = 1
PLACE_BYTES = 8
_CHECKSUM = struct.Struct(">I")
_OVERHEAD_BYTES = 1 + PLACE_BYTES + _CHECKSUM.size


@final
class Context:
    """What a read has shown. Hold it, store it (``bytes(context)``), give it back: ``put(key, value, context=context)``.

    Equal and hashable by content; ``Context.from_bytes`` is the inverse of ``bytes``.
    """

    __slots__ = ("_made_of", "_token")
    _made_of: tuple[bytes, str, int, bytes]
    """Causality, store, bucket and key, until first use: few callers look at the contexts of their writes."""

    def __init__(self, token: bytes) -> None:
        if not isinstance(token, bytes):
            raise InvalidContext(f"a context must be made from bytes; got {type(token).__name__}")
        if not _OVERHEAD_BYTES < len(token) <= MAX_CAUSALITY_BYTES + _OVERHEAD_BYTES:
            raise InvalidContext("these bytes are not a context: pass what get_versions or a write returned, unchanged")
        if token[0] != CONTEXT_VERSION:
            raise InvalidContext(f"this context has version {token[0]}; this raykv reads {CONTEXT_VERSION}")
        if _CHECKSUM.unpack(token[-_CHECKSUM.size :])[0] != _checksum(token[: -_CHECKSUM.size]):
            raise InvalidContext("this context is damaged: its checksum does not match")
        self._token = token

    @classmethod
    def from_bytes(cls, data: bytes) -> Context:
        """Return the context from its bytes. Raises ``InvalidContext`` if they are damaged."""
        context = cls(data)
        _check_readable(context)
        return context

    def __bytes__(self) -> bytes:
        try:
            return self._token
        except AttributeError:
            causality, store_id, bucket_id, key = self._made_of
            self._token = _sealed(causality, place_of(store_id, bucket_id, key))
            return self._token

    def __eq__(self, other: object) -> bool:
        return bytes(self) == bytes(other) if isinstance(other, Context) else NotImplemented

    def __hash__(self) -> int:
        return int.from_bytes(bytes(self)[-_CHECKSUM.size :])

    def __repr__(self) -> str:
        return f"<raykv context, {len(bytes(self))} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Context, (bytes(self),)


def place_of(store_id: str, bucket_id: int, key: bytes) -> bytes:
    """Return the eight bytes that tie a context to its key."""
    return xxh3_64_digest(b"\x00".join((store_id.encode(), str(bucket_id).encode(), key)))


def seal(causality: bytes, place: bytes) -> Context:
    """Return a context of a packed causality."""
    return Context(_sealed(causality, place))


def sealed_when_asked(causality: bytes, store_id: str, bucket_id: int, key: bytes) -> Context:
    """Return what ``seal`` returns for the ``place_of`` these; it is made on first use."""
    context = Context.__new__(Context)
    context._made_of = causality, store_id, bucket_id, key  # noqa: SLF001 - this is its other constructor
    return context


def _sealed(causality: bytes, place: bytes) -> bytes:
    head = bytes([CONTEXT_VERSION]) + place + causality
    return head + _CHECKSUM.pack(_checksum(head))


def _checksum(data: bytes) -> int:
    from crc32c import crc32c  # late: it looks up its own version, which takes long, and few contexts are made

    return crc32c(data)


def causality_in(context: Context) -> bytes:
    """Return the packed causality in a context, of any key."""
    return bytes(context)[1 + PLACE_BYTES : -_CHECKSUM.size]


def unseal(context: object, place: bytes) -> bytes:
    """Return the packed causality in a context, or in its bytes. Raises ``InvalidContext``."""
    if isinstance(context, bytes):
        context = Context(context)
    if not isinstance(context, Context):
        raise InvalidContext(f"a context must be what get_versions or a write returned; got {type(context).__name__}")
    token = bytes(context)
    if token[1 : 1 + PLACE_BYTES] != place:
        raise InvalidContext("this context belongs to another key, bucket or store")
    return _check_readable(context)


def _check_readable(context: Context) -> bytes:
    causality = causality_in(context)
    try:
        unpack_causality(causality)
    except CorruptData as error:
        raise InvalidContext(f"this context cannot be read: {error}") from None
    return causality
