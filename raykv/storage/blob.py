"""A small file that is replaced atomically, never edited.

The manifest, a node's identity and its register are such files::

    magic      8 bytes    which of them
    version    4 bytes    of the format, little-endian as all that follows
    length     4 bytes    of the payload
    checksum   4 bytes    crc32c of magic, version, length and payload
    payload

A new state is written beside the old one, synced, and renamed over it; then the directory is synced. A crash leaves the
old or the new state, never a mixture. Steps that depend on the new state (unlinking files that only the old one named)
wait until ``write_blob`` has returned.

Omitted: history. A file that fails its checksum is not repaired from an older copy; the copies are on other nodes.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import TYPE_CHECKING, TypeVar

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData
from raykv.storage.damage import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.ports import FileSystem

T = TypeVar("T")

_HEAD = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<I")
OVERHEAD_BYTES = _HEAD.size + _CHECKSUM.size
TEMPORARY_SUFFIX = ".tmp"
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, struct.error)
"""The errors that decoders raise about malformed bytes, bad UTF-8 and deep nesting included."""


def write_blob(fs: FileSystem, directory: str, name: str, magic: bytes, version: int, payload: bytes) -> None:
    """Replace ``directory/name`` durably: write aside, sync, rename, sync the directory. Two syncs.

    ``DiskFull`` leaves the old file in place, and nothing beside it; any other ``OSError`` leaves the old or the new
    file in place, and the next start finds out which.
    """
    assert len(magic) == 8
    path = f"{directory}/{name}"
    aside = path + TEMPORARY_SUFFIX
    if fs.exists(aside):  # left behind by a crash
        fs.unlink(aside)
    head = _HEAD.pack(magic, version, len(payload))
    try:
        file = fs.create(aside)
        try:
            file.append(head + _CHECKSUM.pack(crc32c(payload, crc32c(head))) + payload)
            file.sync()
        finally:
            file.close()
    except OSError as error:
        full = DiskFull.of(error)
        if full is None:
            raise
        with contextlib.suppress(OSError):
            fs.unlink(aside)
        raise full from error
    fs.rename(aside, path)
    fs.sync_directory(directory)


def read_blob(fs: FileSystem, path: str, magic: bytes, newest_version: int, max_bytes: int) -> tuple[int, bytes]:
    """Return ``(version, payload)``. ``FileNotFoundError`` if there is none, ``CorruptData`` if it is malformed.

    ``max_bytes`` bounds the payload before it is read.
    """
    try:
        data = fs.read_file(path, max_bytes + OVERHEAD_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise CorruptData(f"{path}: {error.strerror}", file=path) from None
        raise
    if len(data) < OVERHEAD_BYTES:
        raise CorruptData(f"{path}: {len(data)} bytes are too few", file=path)
    found, version, length = _HEAD.unpack_from(data)
    (checksum,) = _CHECKSUM.unpack_from(data, _HEAD.size)
    payload = data[OVERHEAD_BYTES:]
    if found != magic or length != len(payload) or checksum != crc32c(payload, crc32c(data[: _HEAD.size])):
        raise CorruptData(f"{path}: its checksum does not hold", file=path)
    if not 1 <= version <= newest_version:
        raise CorruptData(f"{path}: format {version}; this raykv reads up to {newest_version}", file=path)
    return version, payload


def unpack(decode: Callable[[bytes], T], payload: bytes, path: str) -> T:
    """Decode what ``read_blob`` returned. ``CorruptData`` if it is malformed, whatever its checksum says."""
    try:
        return decode(payload)
    except UNREADABLE as error:
        raise CorruptData(f"{path}: {error}", file=path) from None
