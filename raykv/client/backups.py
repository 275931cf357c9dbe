"""Backups, as the client sees them: the request for a snapshot, and the reports on snapshots and restores."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Any, Literal, overload

from raykv.client.exchange import ask_info
from raykv.client.views import seconds, size
from raykv.config import check_count, check_timeout, shown
from raykv.errors import CorruptData, InvalidOption
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from raykv.client.exchange import Steps

SNAPSHOT_TIMEOUT_S = 600.0
MAX_KEPT = 10_000


class SnapshotReport(dict[str, Any]):
    """``snapshot`` (its name), ``path``, ``store``, ``epoch``, ``seconds``; ``nodes``: node id -> host that holds its part.

    ``tables``, ``records`` (of all nodes, overwritten ones too), ``table_bytes``; ``new_tables``, ``new_bytes``: those that
    the directory did not have yet. ``missing``: node id -> why it has no part, though those that have suffice.
    ``without_manifest``: node id -> why its host may lack the manifest.

    With ``keep``: ``removed`` older snapshots, whose own tables took ``removed_bytes``; ``not_removed``: node id -> why it
    left something behind.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["snapshot", "path", "store"], /) -> str: ...
        @overload
        def __getitem__(
            self,
            key: Literal[
                "epoch", "tables", "records", "table_bytes", "new_tables", "new_bytes", "removed", "removed_bytes"
            ],
            /,
        ) -> int: ...
        @overload
        def __getitem__(self, key: Literal["seconds"], /) -> float: ...
        @overload
        def __getitem__(
            self, key: Literal["nodes", "missing", "without_manifest", "not_removed"], /
        ) -> dict[str, str]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def __repr__(self) -> str:
        lines = [
            f"snapshot {self['snapshot']} of store {self['store']!r} in {self['path']}: {self['tables']} tables, "
            f"{size(self['table_bytes'])}, of {len(self['nodes'])} nodes; new {self['new_tables']}, "
            f"{size(self['new_bytes'])}; {seconds(self['seconds'])}"
        ]
        lines += [f"no part of {node_id}: {why}" for node_id, why in self["missing"].items()]
        lines += [f"no manifest from {node_id}: {why}" for node_id, why in self["without_manifest"].items()]
        if self["removed"]:
            lines.append(f"removed {self['removed']} older snapshots, {size(self['removed_bytes'])}")
        lines += [f"{node_id} left something of older snapshots: {why}" for node_id, why in self["not_removed"].items()]
        return "\n".join(lines)


class RestoreReport(dict[str, Any]):
    """``store``, ``path``, ``snapshot``, ``of`` (the name of the store that was backed up), ``nodes`` (their number).

    ``records``: distinct keys brought back, deletes that are still remembered included; ``buckets``: name -> records in it;
    ``seconds``, of which ``start_seconds`` until the new store ran; ``resumed``: whether an interrupted restore was
    continued; ``lacking``: what may be missing (``partial``).
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["store", "path", "snapshot", "of"], /) -> str: ...
        @overload
        def __getitem__(self, key: Literal["nodes", "records"], /) -> int: ...
        @overload
        def __getitem__(self, key: Literal["buckets"], /) -> dict[str, int]: ...
        @overload
        def __getitem__(self, key: Literal["seconds", "start_seconds"], /) -> float: ...
        @overload
        def __getitem__(self, key: Literal["lacking"], /) -> list[str]: ...
        @overload
        def __getitem__(self, key: Literal["resumed"], /) -> bool: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def __repr__(self) -> str:
        buckets = ", ".join(f"{name!r}: {count}" for name, count in self["buckets"].items())
        lines = [
            f"store {self['store']!r} with {self['nodes']} nodes has snapshot {self['snapshot']} of store {self['of']!r}: "
            f"{self['records']} records ({buckets}); {seconds(self['seconds'])}; its data is in {self['path']}"
        ]
        return "\n".join([*lines, *(f"may lack: {each}" for each in self["lacking"])])


def snapshot(path: object, *, keep: Any = None, timeout: Any) -> Steps[SnapshotReport]:
    """Have the nodes make a snapshot at ``path`` and remove all but the ``keep`` latest; return its report."""
    where, timeout_s = check_backup_path(path), check_timeout(timeout)
    keep_count = 0 if keep is None else check_count("keep", keep, 1, MAX_KEPT)
    # Not repeatable: a second one would be another snapshot.
    figures = yield from ask_info(f.TakeSnapshot(where, timeout_s, keep_count), timeout_s, repeatable=False)
    if not isinstance(figures, dict):
        raise CorruptData("the coordinator answered a snapshot with something else")
    return SnapshotReport(figures)


def check_backup_path(path: object) -> str:
    """Return the path of a backup directory as nodes take it. Raises ``InvalidOption`` unless it is absolute.

    A relative one would mean another place in each process.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidOption(f"path must be the name of a directory; got {shown(path)}")
    given = os.fspath(path)
    if not isinstance(given, str) or not given.startswith("/") or not given.isprintable() or len(given) > 1000:
        raise InvalidOption(
            f"path must be an absolute path of at most 1000 printable characters, such as '/backups/shop'; got {shown(path)}"
        )
    where = os.path.normpath("/" + given.lstrip("/"))
    if where == "/" or any(len(name.encode()) > 255 for name in where.split("/")):
        raise InvalidOption(f"path must name a directory for backups alone; got {shown(path)}")
    return where
