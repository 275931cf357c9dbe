"""A frame: a piece of a table with its checksum, compressed or not.

::

    crc32c 4 | raw length 4 | kind 1 (0 = plain, 1 = lz4, 2 = zstd) | data

The checksum covers the frame's offset in its file too, so that a piece read from the wrong place fails. It is checked on
every read from the file, and the length before memory is taken for it.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from raykv.storage.compression import PLAIN, Packer, Unpacker

FRAME = struct.Struct("<IIB")
_COVERED = struct.Struct("<QIB")
_without_zstd = Unpacker()  # it keeps nothing: any thread may use it


def encode_frame(payload: bytes, offset: int, packer: Packer | None = None) -> bytes:
    """Frame ``payload`` for ``offset``; packed if that makes it smaller."""
    kind, data = (PLAIN, payload) if packer is None else packer.pack(payload)
    covered = _COVERED.pack(offset, len(payload), kind)
    return FRAME.pack(crc32c(data, crc32c(covered)), len(payload), kind) + data


def decode_frame(frame: bytes, offset: int, max_bytes: int, unpacker: Unpacker | None = None) -> bytes:
    """Return the payload of the frame read at ``offset``; ``ValueError`` if it is invalid or above ``max_bytes``.

    Without an ``unpacker`` what zstd has packed is invalid.
    """
    if len(frame) < FRAME.size:
        raise ValueError("cut short")
    checksum, length, kind = FRAME.unpack_from(frame)
    data = frame[FRAME.size :]
    if checksum != crc32c(data, crc32c(_COVERED.pack(offset, length, kind))):
        raise ValueError("its checksum does not hold")
    if length > max_bytes:
        raise ValueError(f"it claims {length} bytes")
    return (unpacker or _without_zstd).unpack(kind, data, length)
