"""Removing old snapshots from a backup directory (``raykv.storage.snapshot``), and the tables that only they name.

Each node removes its own part and its own tables; those of nodes that are no members any more, any node does. A node makes
one part at a time, so that none of its own is being made meanwhile. Several nodes do so at once in one directory: each name
may be gone between two steps of another.

**In this order**: the manifest, without which nothing of a snapshot counts; the part; the tables that no part left names.
*Schedule without: a table goes first, the node ends, and a snapshot that still counts names a table that is gone.*

**The manifest is renamed, not removed**: it says that the snapshot is to go until no part is left of it. *Schedule without:
a node removes the manifests, another looks after that, takes them for snapshots under way, and keeps its parts.*

What an interrupted snapshot leaves, one without a manifest, is removed when two later ones are finished.

A part that cannot be read may name any table: nothing of that node's pool is removed then.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raykv.errors import CorruptData
from raykv.records.limits import SnapshotName
from raykv.storage.snapshot import PART_SUFFIX, SNAPSHOTS, TABLES, named_tables, size_of, snapshot_directory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from raykv.ports import FileSystem

MAX_SNAPSHOTS = 100_000
RETIRED_SUFFIX = ".removed"
"""Follows the name of the manifest of a snapshot that is being removed."""
_gone = contextlib.suppress(FileNotFoundError)
"""Around each step that another node may have taken already."""


class Pruned(NamedTuple):
    """What was removed. ``trouble``: why some of it was not; empty if all was."""

    snapshots: int
    table_bytes: int
    trouble: str


def is_snapshot_name(name: str) -> bool:
    """Whether a name is one that ``snapshot_name`` gives."""
    try:
        msgspec.convert(name, SnapshotName)
    except msgspec.ValidationError:
        return False
    return True


def prune(
    fs: FileSystem, path: str, manifest: str, newest: str, keep: int, node_id: str, members: Collection[str]
) -> Pruned:
    """Remove all but ``newest`` and the ``keep - 1`` latest others that were finished. Any thread.

    ``manifest``: the name of a snapshot's manifest; ``members``: nodes that remove their own. Raises ``OSError``.
    O(snapshots + tables that they name).
    """
    base = f"{path}/{SNAPSHOTS}"
    names = sorted(filter(is_snapshot_name, fs.list_directory(base)[:MAX_SNAPSHOTS]))
    # In this order: one that is renamed in between is seen by either name.
    counting = [name for name in names if fs.exists(f"{snapshot_directory(path, name)}/{manifest}")]
    retired = {name for name in names if name != newest and is_retired(fs, path, name, manifest)}
    finished = [name for name in counting if name not in {newest, *retired}]
    old = finished[: len(finished) - (keep - 1)] if keep <= len(finished) else []
    for name in [*old, *retired]:
        _retire(fs, snapshot_directory(path, name), manifest)
    # Interrupted if two later ones were finished. Else it may be on its way, by another coordinator.
    latest_but_one = sorted([*finished, newest])[-2:][0]
    interrupted = {name for name in {*names} - {*finished, *retired, newest} if name < latest_but_one != newest}
    pools = [name for name in fs.list_directory(f"{path}/{TABLES}") if name == node_id or name not in members]
    for name in sorted({*old, *retired, *interrupted}):
        _remove_parts(fs, snapshot_directory(path, name), pools)
    fs.sync_directory(base)
    removed_bytes, trouble = 0, []
    for each in pools:
        pool = f"{path}/{TABLES}/{each}"
        try:
            wanted = {table for name in names for table in _named(fs, path, name, each)}
        except (CorruptData, OSError) as error:
            trouble.append(f"a part of {each} cannot be read, so none of its tables were removed: {error}")
            continue
        removed_bytes += sum(_remove(fs, pool, wanted)) if fs.is_directory(pool) else 0
    return Pruned(len(old), removed_bytes, "; ".join(trouble))


def is_retired(fs: FileSystem, path: str, snapshot: str, manifest: str) -> bool:
    """Whether some node has begun to remove a snapshot."""
    return fs.exists(f"{snapshot_directory(path, snapshot)}/{manifest}{RETIRED_SUFFIX}")


def _retire(fs: FileSystem, directory: str, manifest: str) -> None:
    """Take from a snapshot what makes it count, durably."""
    with _gone:
        if fs.exists(f"{directory}/{manifest}"):
            fs.rename(f"{directory}/{manifest}", f"{directory}/{manifest}{RETIRED_SUFFIX}")
    with _gone:
        fs.sync_directory(directory)


def _remove_parts(fs: FileSystem, directory: str, nodes: Iterable[str]) -> None:
    """Remove these nodes' parts of a snapshot, durably, and its directory with the last part."""
    for each in nodes:
        _unlink(fs, f"{directory}/{each}{PART_SUFFIX}")
    with _gone:
        fs.sync_directory(directory)
        if not any(name.endswith(PART_SUFFIX) for name in fs.list_directory(directory)):
            fs.remove_tree(directory)


def _named(fs: FileSystem, path: str, snapshot: str, node_id: str) -> Iterable[str]:
    try:
        return named_tables(fs, path, snapshot, node_id)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _remove(fs: FileSystem, pool: str, wanted: Collection[str]) -> Iterator[int]:
    """Remove the files of a pool but those wanted; yield the size of each."""
    for name in fs.list_directory(pool):
        if name not in wanted:
            size_bytes = 0
            with _gone:
                size_bytes = size_of(fs, f"{pool}/{name}")
                _unlink(fs, f"{pool}/{name}")
            yield size_bytes


def _unlink(fs: FileSystem, path: str) -> None:
    with _gone:
        if fs.exists(path):
            fs.unlink(path)
