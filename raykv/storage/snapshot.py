"""A node's tables in a backup directory: copied once each, named by what they hold, read back as one sorted stream.

::

    PATH/raykv-backup                      whose backups these are
    PATH/tables/NODE/                      the pool: files named by a table's number, size, digest and checksum
    PATH/snapshots/NAME/NODE.part          which tables of the pool make one node's part of one snapshot
    PATH/snapshots/NAME/manifest           which parts make the snapshot (``raykv.cluster.backup``); written last

Tables never change. A snapshot therefore copies those alone that the pool lacks, by a hard link where it lies on the disk of
the node: two names of one file cost no time and no room. A copy is written aside, synced and renamed: what stands under a
table's name in the pool is whole. The names are synced once for all, before the part is written.

A part has no log. The node seals and flushes its memtable first (``Engine.begin_snapshot``), so its tables hold every
update that it had taken by then, acknowledged ones among them.

**Foreign directories.** The path comes from a client. Nothing is written into a directory that was not made for backups of
this store, nor through a symbolic link below it (``prepare``).

Old snapshots are removed by ``raykv.storage.pruning``. Deleting the whole directory is safe: a table's other names stay.
"""

from __future__ import annotations

import contextlib
import errno
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData, InvalidOption
from raykv.records.limits import Name, NodeId
from raykv.storage.blob import TEMPORARY_SUFFIX, read_blob, unpack, write_blob
from raykv.storage.cache import BlockCache
from raykv.storage.damage import CorruptBlock, Damage
from raykv.storage.manifest import MAX_MANIFEST_BYTES, Manifest, wrong_with
from raykv.storage.merge import merge
from raykv.storage.sstable import Table, TableInfo, table_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.ports import FileSystem, ReadFile
    from raykv.storage.cache import Block
    from raykv.storage.manifest import RunInfo

MARKER = "raykv-backup"
TABLES = "tables"
SNAPSHOTS = "snapshots"
PART_SUFFIX = ".part"
_POOLED_SUFFIX = ".sst"
MARKER_MAGIC = b"RAYKVBDR"
PART_MAGIC = b"RAYKVPRT"
MARKER_VERSION = 1
PART_VERSION = 1
MAX_MARKER_BYTES = 4 << 10
MAX_PART_BYTES = MAX_MANIFEST_BYTES
_COPY_BYTES = 1 << 20
_CACHE_BYTES = 1 << 20
_NO_LINKS = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
)
"""A second name cannot be had: of another disk, of a table that a compaction has just unlinked. It is copied then."""


class _Marker(msgspec.Struct, frozen=True):
    store_id: Name


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One node's part of one snapshot."""

    store_id: Name
    node_id: NodeId
    snapshot: Name
    manifest: Manifest
    """The node's tables, by runs. Its healed damage reads as empty."""
    checksums: tuple[int, ...]
    """crc32c of each table's file, in the manifest's order."""

    def tables(self) -> Iterator[tuple[TableInfo, int]]:
        """Yield each table with the checksum of its file."""
        yield from zip(chain.from_iterable(run.tables for run in self.manifest.runs), self.checksums, strict=True)


class Copied(NamedTuple):
    """What became of a table: the checksum of its file, and whether it was new to the pool."""

    checksum: int
    new: bool


_decode_part = msgspec.msgpack.Decoder(Part).decode
_decode_marker = msgspec.msgpack.Decoder(_Marker).decode
_encode = msgspec.msgpack.Encoder().encode


def snapshot_directory(path: str, snapshot: str) -> str:
    """Return the directory of a snapshot's manifest and parts."""
    return f"{path}/{SNAPSHOTS}/{snapshot}"


def pooled_table(path: str, node_id: str, info: TableInfo, checksum: int) -> str:
    """Return the file in which the pool keeps a table."""
    return f"{path}/{TABLES}/{node_id}/{_pooled_name(info, checksum)}"


def _pooled_name(info: TableInfo, checksum: int) -> str:
    return f"{_name_prefix(info)}{checksum:08x}{_POOLED_SUFFIX}"


def _name_prefix(info: TableInfo) -> str:
    return f"{info.number:08d}-{info.size_bytes}-{info.digest:08x}-"


# ---- writing ----------------------------------------------------------------------------------------------------


def prepare(fs: FileSystem, path: str, store_id: str, node_id: str, snapshot: str) -> None:
    """Make the directories for a node's part of a snapshot. Any thread; several nodes may do so at once.

    Raises ``InvalidOption`` if ``path`` holds anything but backups of this store, or leads through a symbolic link below
    it; ``CorruptData``, ``OSError``.
    """
    if not fs.exists(path):
        fs.make_directories(path)
    if not fs.is_directory(path):
        raise InvalidOption(f"{path} is not a directory itself: a backup follows no symbolic link", path=path)
    if fs.exists(f"{path}/{MARKER}"):
        check_marker(fs, path, store_id)
    else:
        strays = [name for name in fs.list_directory(path) if not _is_ours(name)]
        if strays:
            raise InvalidOption(
                f"{path} holds {strays[0]!r}, and is no directory of backups: name a new or an empty one", path=path
            )
        _publish(fs, path, MARKER, node_id, MARKER_MAGIC, MARKER_VERSION, _encode(_Marker(store_id)))
    for below in (TABLES, f"{TABLES}/{node_id}", SNAPSHOTS, f"{SNAPSHOTS}/{snapshot}"):
        directory = f"{path}/{below}"
        if fs.exists(directory) and not fs.is_directory(directory):
            raise InvalidOption(f"{directory} is not a directory itself: a backup follows no symbolic link", path=path)
        fs.make_directories(directory)


def check_marker(fs: FileSystem, path: str, store_id: str = "") -> str:
    """Return whose backups are at ``path``. Raises ``InvalidOption`` if nobody's, or another store's; ``CorruptData``."""
    where = f"{path}/{MARKER}"
    try:
        _, payload = read_blob(fs, where, MARKER_MAGIC, MARKER_VERSION, MAX_MARKER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidOption(f"{path} holds no backups of a store", path=path) from None
    found = unpack(_decode_marker, payload, where).store_id
    if store_id and found != store_id:
        raise InvalidOption(
            f"{path} holds backups of another store ({found}, this one is {store_id}): each store needs a directory of its "
            "own",
            path=path,
        )
    return found


def _is_ours(name: str) -> bool:
    """Whether a node of this store may have made it, at this very moment."""
    return name in (MARKER, TABLES, SNAPSHOTS) or name.startswith(f"{MARKER}.")


def _publish(fs: FileSystem, directory: str, name: str, draft: str, magic: bytes, version: int, payload: bytes) -> None:
    """Write a file that several nodes may write at once, to the same effect: each renames a draft of its own over it."""
    write_blob(fs, directory, f"{name}.{draft}", magic, version, payload)
    fs.rename(f"{directory}/{name}.{draft}", f"{directory}/{name}")
    fs.sync_directory(directory)


def publish(
    fs: FileSystem, path: str, snapshot: str, name: str, node_id: str, magic: bytes, version: int, payload: bytes
) -> None:
    """Write a file of a snapshot, durably and atomically, whichever other nodes do so too."""
    _publish(fs, snapshot_directory(path, snapshot), name, node_id, magic, version, payload)


class TableCopier:
    """Brings one node's tables into the pool. Any thread, one at a time."""

    def __init__(self, fs: FileSystem, directory: str, path: str, node_id: str) -> None:
        """``directory``: of the node's own tables. ``prepare`` comes first."""
        self._fs = fs
        self._directory = directory
        self._path = path
        self._node_id = node_id
        self._pool = f"{path}/{TABLES}/{node_id}"
        self._known = fs.list_directory(self._pool)

    def copy(self, table: Table) -> Copied:
        """Bring a table into the pool unless it is there. O(its bytes) if it is not. Raises ``OSError``.

        Its name is safe once ``write_part`` has returned.
        """
        info, fs = table.info, self._fs
        prefix = _name_prefix(info)
        for name in self._known:
            if name.startswith(prefix) and (known := _checksum_in(name, prefix)) is not None:
                if size_of(fs, f"{self._pool}/{name}") == info.size_bytes:
                    return Copied(known, new=False)
                fs.unlink(f"{self._pool}/{name}")  # of another size: somebody has touched it
        checksum = _checksum_of(table.raw, info.size_bytes)
        target = pooled_table(self._path, self._node_id, info, checksum)
        try:
            fs.link(f"{self._directory}/{table.name}", target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._write(table, target)
        return Copied(checksum, new=True)

    def _write(self, table: Table, target: str) -> None:
        aside = target + TEMPORARY_SUFFIX
        if self._fs.exists(aside):
            self._fs.unlink(aside)
        file = self._fs.create(aside)
        try:
            for part in _read_through(table.raw, table.info.size_bytes):
                file.append(part)
            file.sync()
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.unlink(aside)
            raise
        finally:
            file.close()
        self._fs.rename(aside, target)

    def write_part(self, part: Part) -> tuple[int, int]:
        """Write the part's file, once all names in the pool are safe. Returns its size and checksum. Durable then."""
        payload = _encode(part)
        if len(payload) > MAX_PART_BYTES:
            raise InvalidOption(f"the list of a node's tables takes {len(payload)} bytes; at most {MAX_PART_BYTES} do")
        self._fs.sync_directory(self._pool)
        where = snapshot_directory(self._path, part.snapshot)
        write_blob(self._fs, where, part.node_id + PART_SUFFIX, PART_MAGIC, PART_VERSION, payload)
        return len(payload), crc32c(payload)


def _checksum_in(name: str, prefix: str) -> int | None:
    """Return the checksum in the name of a pooled table; None for a name that is none."""
    digits = name[len(prefix) :].removesuffix(_POOLED_SUFFIX)
    try:
        checksum = int(digits, 16)
    except ValueError:
        return None
    return checksum if name == f"{prefix}{checksum:08x}{_POOLED_SUFFIX}" else None


def size_of(fs: FileSystem, path: str) -> int:
    """Return the size of a file in bytes. Raises ``OSError``."""
    file = fs.open_read(path)
    try:
        return file.size()
    finally:
        file.close()


def _read_through(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """Yield a file's bytes. Raises ``OSError`` if it is shorter than that."""
    for at in range(0, size, _COPY_BYTES):
        length = min(_COPY_BYTES, size - at)
        part = read(at, length)
        if len(part) != length:
            raise OSError(errno.EIO, f"the file ends at {at + len(part)} of {size} bytes")
        yield part


def _checksum_of(read: Callable[[int, int], bytes], size: int) -> int:
    checksum = 0
    for part in _read_through(read, size):
        checksum = crc32c(part, checksum)
    return checksum


# ---- reading ----------------------------------------------------------------------------------------------------


def named_tables(fs: FileSystem, path: str, snapshot: str, node_id: str) -> list[str]:
    """Return the names in the pool of the tables that a node's part names, whatever its manifest says of the part.

    Raises ``FileNotFoundError`` if there is none; ``CorruptData``, ``OSError``.
    """
    where = part_file(path, snapshot, node_id)
    _, payload = read_blob(fs, where, PART_MAGIC, PART_VERSION, MAX_PART_BYTES)
    return [_pooled_name(info, checksum) for info, checksum in _part_in(payload, snapshot, node_id, where).tables()]


def read_part(fs: FileSystem, path: str, snapshot: str, node_id: str, size_bytes: int, checksum: int) -> Part:
    """Return a node's part of a snapshot. ``size_bytes``, ``checksum``: of its file, by the manifest.

    Raises ``FileNotFoundError`` if it is not here; ``CorruptData``, ``OSError``.
    """
    where = part_file(path, snapshot, node_id)
    _, payload = read_blob(fs, where, PART_MAGIC, PART_VERSION, MAX_PART_BYTES)
    if (len(payload), crc32c(payload)) != (size_bytes, checksum):
        raise CorruptData(f"{where}: it is another part than the manifest names", file=where)
    return _part_in(payload, snapshot, node_id, where)


def part_file(path: str, snapshot: str, node_id: str) -> str:
    """Return the file of a node's part of a snapshot."""
    return f"{snapshot_directory(path, snapshot)}/{node_id}{PART_SUFFIX}"


def _part_in(payload: bytes, snapshot: str, node_id: str, where: str) -> Part:
    part = unpack(_decode_part, payload, where)
    wrong = wrong_with(part.manifest)
    if not wrong and (part.node_id, part.snapshot) != (node_id, snapshot):
        wrong = f"it is node {part.node_id}'s part of {part.snapshot}"
    if not wrong and len(part.checksums) != sum(len(run.tables) for run in part.manifest.runs):
        wrong = "it has not one checksum a table"
    if not wrong and not all(0 <= each < 1 << 32 for each in part.checksums):
        wrong = "it has an impossible checksum"
    if not wrong and not all(0 <= info.digest < 1 << 32 for info, _ in part.tables()):
        wrong = "it has an impossible digest"
    if wrong:
        raise CorruptData(f"{where}: {wrong}", file=where)
    return part


class PartReader:
    """Reads the records of one part. Damage is left out, and kept in ``damages``."""

    def __init__(self, fs: FileSystem, path: str, part: Part) -> None:
        self._fs = fs
        self._path = path
        self.part = part
        self.damages: list[Damage] = []
        """Corrupt places found so far, each once."""
        self._checksums = {info.number: checksum for info, checksum in part.tables()}
        self._skipped: dict[str, set[int]] = {}
        for damage in (*part.manifest.damaged, *part.manifest.healed):
            self._skipped.setdefault(damage.file, set()).add(damage.offset)

    def batches(self, start: bytes = b"") -> Iterator[Block]:
        """Yield the node's newest record of each key, ascending, in batches, none empty. Memory: some blocks of each run.

        ``start``: tables that end below it are not read. Raises ``CorruptData`` for a table of a later raykv, ``OSError``.
        """
        for keys, records in merge([self._run(run, start) for run in self.part.manifest.runs]):
            # A deletion marker of the engine covers older records, and is none itself.
            kept = [at for at, record in enumerate(records) if record]
            if len(kept) == len(keys) > 0:
                yield keys, records
            elif kept:
                yield [keys[at] for at in kept], [records[at] for at in kept]

    def check(self, info: TableInfo, checksum: int) -> str:
        """Return what is wrong with a table's copy: its file, then each block; empty if nothing is. O(its bytes).

        Damage to its records is in ``damages`` then.
        """
        where = pooled_table(self._path, self.part.node_id, info, checksum)
        wrong = self._wrong_with_file(where, info.size_bytes, checksum)
        before = len(self.damages)
        for _ in self._table(info):
            pass
        if not wrong and len(self.damages) > before:
            wrong = self.damages[before].reason
        return f"{where}: {wrong}" if wrong else ""

    def _wrong_with_file(self, where: str, size_bytes: int, checksum: int) -> str:
        try:
            file: ReadFile = self._fs.open_read(where)
        except OSError as error:
            return error.strerror or str(error)
        try:
            if file.size() != size_bytes:
                return f"{file.size()} bytes where {size_bytes} were written"
            return "" if _checksum_of(file.pread, size_bytes) == checksum else "its checksum does not hold"
        except OSError as error:
            return error.strerror or str(error)
        finally:
            file.close()

    def _run(self, run: RunInfo, start: bytes) -> Iterator[Block]:
        for info in run.tables:
            if info.largest >= start:
                yield from self._table(info)

    def _table(self, info: TableInfo) -> Iterator[Block]:
        """Open a table, read it through and close it: a part may have more than a process may have files open."""
        name = _pooled_name(info, self._checksums[info.number])
        try:
            table = Table(
                self._fs, f"{self._path}/{TABLES}/{self.part.node_id}", info, BlockCache(_CACHE_BYTES), name=name
            )
        except CorruptBlock as corrupt:
            self._note(corrupt)
            return
        table.skipped = frozenset(self._skipped.get(table_name(info.number), ()))
        try:
            yield from table.stream(self._note)
        finally:
            table.release()

    def _note(self, corrupt: CorruptBlock) -> None:
        if not any(map(corrupt.damage.same_place, self.damages)):
            self.damages.append(corrupt.damage)
