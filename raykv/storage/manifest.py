"""The manifest: which files are the store. What it does not name is not there.

One small file, replaced whole (``raykv.storage.blob``): the sorted runs, newest first, with the tables of each; the
first segment of the log that still matters; the next table number; the damage that is known. It is written only after
every file that it names is safe, and files that it no longer names are unlinked only after it is safe. So a crash leaves
orphans at worst, and recovery removes them.

LevelDB appends edits to its manifest; at a flush every few seconds rewriting some kilobytes is simpler and needs no
second recovery.

``healed`` are damaged places whose keys the peers have given back: their blocks still lie in a table, and read as empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.errors import CorruptData
from raykv.storage.blob import read_blob, write_blob
from raykv.storage.damage import Damage
from raykv.storage.sstable import TableInfo

if TYPE_CHECKING:
    from raykv.ports import FileSystem

NAME = "manifest"
MAGIC = b"RAYKVMAN"
VERSION = 1
MAX_MANIFEST_BYTES = 256 << 20


class RunInfo(msgspec.Struct, frozen=True, array_like=True):
    """A sorted run: tables with ascending, disjoint ranges."""

    number: int
    tables: tuple[TableInfo, ...]

    @property
    def size_bytes(self) -> int:
        """Size of its tables."""
        return sum(table.size_bytes for table in self.tables)


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """The state of the store's files. ``runs`` are newest first."""

    next_number: int = 1
    oldest_segment: int = 1
    runs: tuple[RunInfo, ...] = ()
    damaged: tuple[Damage, ...] = ()
    healed: tuple[Damage, ...] = ()


def save(fs: FileSystem, directory: str, manifest: Manifest) -> None:
    """Replace the manifest durably. Every file it names must be synced already, and the directory too."""
    write_blob(fs, directory, NAME, MAGIC, VERSION, msgspec.msgpack.encode(manifest))


def load(fs: FileSystem, directory: str) -> Manifest | None:
    """Return the manifest; None if there is none. ``CorruptData`` if it cannot be read: the store is lost then."""
    path = f"{directory}/{NAME}"
    try:
        _, payload = read_blob(fs, path, MAGIC, VERSION, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    try:
        manifest = msgspec.msgpack.decode(payload, type=Manifest)
    except msgspec.DecodeError as error:
        raise CorruptData(f"{path}: {error}", file=path) from None
    for run in manifest.runs:
        if not run.tables or any(a.largest >= b.smallest for a, b in zip(run.tables, run.tables[1:], strict=False)):
            raise CorruptData(f"{path}: run {run.number} does not fit together", file=path)
    return manifest
