"""The manifest of a snapshot: which store, under which state, and whose parts; and which parts suffice.

**What a snapshot promises.** Every write that was acknowledged before ``snapshot`` was called is in it, or a later one of
its key, if W owners or more of its bucket had acknowledged it; one acknowledged by fewer, as its caller asked for fewer, is
in if one of these has its part there. Each node copies what it holds at one moment of its own; the moments differ. Writes
made meanwhile may be in or not, each for itself: a snapshot is no picture of the whole store at one instant. Deletes and
expiry times are in as writes are.

**Which parts suffice** (``lacking``): of each partition N-W+1 of the owners that reads ask, since W of these hold each
acknowledged write; and min(R, W) of them, where that is more: one of the owners that confirmed a step of a move (P4) is then
among them, so that no part of the time before it passes unnoticed. In a sloppy bucket a fallback may be one of the W: fewer
than W nodes of the whole store may be missing there. A node that lacks something itself (P1) gives no part: below a deletion
that it has lost it may hold a value that all others have forgotten.

**One ring.** All parts are taken under the same epoch. *Schedule without: a partition moves from A to B; B's part is taken
before it has anything, A's after it has dropped everything.* A node drops nothing before it knows the epoch by which it is
no owner, and each part says which state its node knew when it took its tables.

Where hosts share no directory, each part stands on its own node's host, and each host has the manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from raykv.cluster.state import ClusterState, decode_state
from raykv.errors import CorruptData
from raykv.records.limits import NODES, Name, NodeId, Number, SnapshotName, State
from raykv.storage.blob import read_blob, unpack
from raykv.storage.snapshot import snapshot_directory

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.ports import FileSystem

MANIFEST = "manifest"
MANIFEST_MAGIC = b"RAYKVBAK"
MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 32 << 20


class PartEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part, as the manifest names it."""

    node_id: NodeId
    host: Name
    """Where its files are, unless hosts share the directory."""
    directory_id: int
    incarnation: Number
    log_end: int
    """How far the node's log was synced when it took its tables."""
    part_bytes: Number
    part_checksum: Number
    """crc32c of the file that lists its tables."""
    tables: Number
    records: Number
    """Those of all tables: overwritten ones count."""
    table_bytes: Number


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a store."""

    snapshot: SnapshotName
    store_id: Name
    store: Name
    """The store's name."""
    epoch: Number
    made_ms: Number
    """When it began, by its coordinator's wall clock."""
    state: State
    """The cluster's state: ring, members, buckets with their policies."""
    parts: Annotated[tuple[PartEntry, ...], NODES]
    missing: Annotated[dict[NodeId, str], NODES] = {}
    """Members without a part -> why."""

    @property
    def cluster(self) -> ClusterState:
        """The cluster's state, decoded."""
        return decode_state(self.state)


_decode = msgspec.msgpack.Decoder(BackupManifest).decode


def snapshot_name(began_ms: int, bits: int) -> str:
    """Return the name of a snapshot that begins at this time (ms since 1970): names sort by it. ``bits``: 32 random ones."""
    days, ms = divmod(began_ms, 86_400_000)
    # The civil date of a day, for years that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    date = (era * 400 + year + (month >= 10)) * 10_000 + ((month + 2) % 12 + 1) * 100 + day - (153 * month + 2) // 5 + 1
    seconds = ms // 1000
    return f"{date:08d}T{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}Z-{bits:08x}"


def encode_manifest(manifest: BackupManifest) -> bytes:
    """Return the manifest as the payload of its file."""
    return msgspec.msgpack.encode(manifest)


def decode_manifest(payload: bytes, where: str) -> BackupManifest:
    """Return the manifest that ``encode_manifest`` took. Raises ``CorruptData`` with ``where`` in its text."""
    manifest = unpack(_decode, payload, where)
    state = manifest.cluster
    names = [part.node_id for part in manifest.parts]
    wrong = ""
    if state.store_id != manifest.store_id or state.config.name != manifest.store:
        wrong = "its state is that of another store"
    elif state.epoch != manifest.epoch:
        wrong = f"its state is of epoch {state.epoch}, not of {manifest.epoch}"
    elif len(set(names)) < len(names) or not {*names} <= {member.node_id for member in state.ring.members}:
        wrong = "it names a part twice, or a part of no member"
    if wrong:
        raise CorruptData(f"{where}: {wrong}", file=where)
    return manifest


def read_manifest(fs: FileSystem, path: str, snapshot: str) -> BackupManifest:
    """Return the manifest of a snapshot. Raises ``FileNotFoundError`` if it was never finished; ``CorruptData``."""
    where = f"{snapshot_directory(path, snapshot)}/{MANIFEST}"
    _, payload = read_blob(fs, where, MANIFEST_MAGIC, MANIFEST_VERSION, MAX_MANIFEST_BYTES)
    manifest = decode_manifest(payload, where)
    if manifest.snapshot != snapshot:
        raise CorruptData(f"{where}: it is the manifest of {manifest.snapshot}", file=where)
    return manifest


def lacking(state: ClusterState, parts: Collection[str], without: Collection[tuple[int, str]] = ()) -> list[str]:
    """Return what these nodes' parts may lack of what was acknowledged, in words; nothing if they suffice.

    ``without``: (partition, node) whose records are damaged in the part. O(partitions x kinds of buckets).
    """
    found: list[str] = []
    gone = [member.node_id for member in state.ring.members if member.node_id not in parts]
    kinds: dict[tuple[int, int, int, bool], list[str]] = {}
    for entry in state.buckets:
        config = entry.config
        kinds.setdefault((config.n, config.r, config.w, config.sloppy), []).append(repr(config.name))
    for (n, r, w, sloppy), names in kinds.items():
        named, needed = ", ".join(names), max(n - w + 1, min(r, w))
        if sloppy and len(gone) >= w:
            found.append(
                f"bucket {named} is sloppy and acknowledges with {w} of any nodes: {', '.join(gone)} are missing"
            )
        short: dict[int, list[str]] = {}
        for partition in range(state.ring.partitions):
            readers = state.read_set(partition, n)
            absent = [each for each in readers if each not in parts or (partition, each) in without]
            if len(readers) - len(absent) < needed:
                short[partition] = absent
        if short:
            partition, absent = next(iter(short.items()))
            found.append(
                f"bucket {named} lacks {len(short)} of {state.ring.partitions} partitions; the first: partition "
                f"{partition}, of which {', '.join(absent)} are missing, and {needed} of {n} owners are needed"
            )
    return found
