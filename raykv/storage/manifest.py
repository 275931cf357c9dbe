"""The manifest: the list of the store's files. A file that it does not name does not count.

One small file, replaced atomically (``raykv.storage.blob``): the sorted runs, newest first, with the tables of each; the
first segment of the log that still matters; the next table number; known damage. It is written only after every file
that it names is safe, and files that it no longer names are unlinked only once it is safe itself. A crash leaves orphans
at worst, and recovery removes them.

LevelDB appends edits to its manifest; at a flush every few seconds rewriting some kilobytes is simpler and needs no
second recovery.

``healed`` are damaged places whose keys the peers have restored: their blocks are still in a table, and read as empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData
from raykv.storage.blob import read_blob, unpack, write_blob
from raykv.storage.damage import Damage
from raykv.storage.mark import MAX_SEGMENT
from raykv.storage.sstable import TableInfo

if TYPE_CHECKING:
    from raykv.ports import FileSystem

NAME = "manifest"
MAGIC = b"RAYKVMAN"
VERSION = 3
MAX_MANIFEST_BYTES = 256 << 20

MAX_TABLE = (1 << 53) - 1
_MAX_COUNT = 1 << 62
_NAME_DIGITS = 16

_encode = msgspec.msgpack.Encoder().encode


class RunInfo(msgspec.Struct, frozen=True, array_like=True):
    """A sorted run: tables with ascending, disjoint ranges."""

    number: int
    tables: tuple[TableInfo, ...]

    @property
    def size_bytes(self) -> int:
        """The size of its tables."""
        return sum(table.size_bytes for table in self.tables)


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """The state of the store's files. ``runs`` are newest first."""

    next_number: int = 1
    oldest_segment: int = 1
    runs: tuple[RunInfo, ...] = ()
    damaged: tuple[Damage, ...] = ()
    healed: tuple[Damage, ...] = ()
    generation: int = 0
    """Grows with every saving."""
    run: int = 0
    """The incarnation of the node that saved it; 0: unknown."""
    log_end: int = 0
    """The end of the synced log when it was saved: a shorter log has lost something."""
    owner: str = ""
    """Its owner, as in the identity beside it."""


_decode = msgspec.msgpack.Decoder(Manifest).decode


def number_of(name: str, suffix: str) -> int | None:
    """Return the number of a table or segment by its name; None for any other name, also for another spelling."""
    stem = name.removesuffix(suffix)
    if stem == name or not stem.isascii() or not stem.isdecimal() or len(stem) > _NAME_DIGITS:
        return None
    return int(stem) if f"{int(stem):08d}" == stem else None


def is_file_of_ours(name: str) -> bool:
    """Return whether it names a table or a segment: such names become paths."""
    return number_of(name, ".sst") is not None or number_of(name, ".wal") is not None


def save(fs: FileSystem, directory: str, manifest: Manifest) -> None:
    """Replace the manifest durably. Every file it names must be synced already, and the directory too."""
    write_blob(fs, directory, NAME, MAGIC, VERSION, _encode(manifest))


def checksum(manifest: Manifest) -> int:
    """Return the checksum that distinguishes this manifest from others."""
    return crc32c(_encode(manifest))


def checksum_on_disk(fs: FileSystem, directory: str) -> int:
    """Return the ``checksum`` of the manifest as it was written, perhaps by an earlier version; 0 if there is none."""
    try:
        return crc32c(read_blob(fs, f"{directory}/{NAME}", MAGIC, VERSION, MAX_MANIFEST_BYTES)[1])
    except FileNotFoundError:
        return 0


def load(fs: FileSystem, directory: str) -> Manifest | None:
    """Return the manifest; None if there is none. ``CorruptData`` if it cannot be read: the store is lost then."""
    path = f"{directory}/{NAME}"
    try:
        _, payload = read_blob(fs, path, MAGIC, VERSION, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    manifest = unpack(_decode, payload, path)
    wrong = wrong_with(manifest)
    if wrong:
        raise CorruptData(f"{path}: {wrong}", file=path)
    return manifest


def wrong_with(manifest: Manifest) -> str:
    """Return why the manifest is invalid: its numbers become file names, positions and loops. Empty if it is valid."""
    seen: set[int] = set()
    if len({run.number for run in manifest.runs}) != len(manifest.runs):
        return "two runs bear one number"
    if not (1 <= manifest.next_number <= MAX_TABLE and 1 <= manifest.oldest_segment <= MAX_SEGMENT + 1):
        return f"no valid numbers: next table {manifest.next_number}, oldest segment {manifest.oldest_segment}"
    if not (
        0 <= manifest.generation < _MAX_COUNT and 0 <= manifest.run < _MAX_COUNT and 0 <= manifest.log_end < 1 << 64
    ):
        return f"no valid generation {manifest.generation}, run {manifest.run} or end of the log"
    for run in manifest.runs:
        if not run.tables or any(a.largest >= b.smallest for a, b in zip(run.tables, run.tables[1:], strict=False)):
            return f"run {run.number} is inconsistent"
        for table in run.tables:
            sound = (
                1 <= table.number <= MAX_TABLE and 1 <= table.count < _MAX_COUNT and 0 <= table.size_bytes < _MAX_COUNT
            )
            counted = (
                0 <= table.markers <= table.count
                and -1 <= table.covers <= table.count
                and 0 <= table.since_ms < _MAX_COUNT
            )
            if not sound or not counted or table.smallest > table.largest or table.number in seen:
                return f"table {table.number} is inconsistent"
            seen.add(table.number)
    for damage in (*manifest.damaged, *manifest.healed):
        if not is_file_of_ours(damage.file):
            return f"damage in {damage.file!r}, which is no file of the store"
    return ""
