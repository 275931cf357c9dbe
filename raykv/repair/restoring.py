"""A backup directory read back: which snapshots it has, whether they are intact, and the records in them.

The parts of all nodes are read side by side and merged as replicas are (``versions.merge``): in key order, a window of
keys at a time, whatever the sizes. Values, siblings, deletes and expiry times come out as they were; the hints that nodes
kept for others count as copies.

**Nothing old comes back** (P10). Of a part only those keys count of which reads asked its node: below what it no longer
owned, a deletion may have been forgotten. A hint older than half the grace is left out, as at any receiver.

**Nothing is used twice** (P2, P6, L1) in the store that gets the records. Its id, its nodes' directories and runs are drawn
anew, and dots are drawn by run and record, so a dot of the backup goes on to name what it named. The records of linearizable
buckets come under a term below all that leaders take, with the versions that clients hold (``linear_record.renewed``).

**Damage.** A damaged block costs its part that range. Whether the other parts suffice for it shows when all is read
(``lacking``): the caller decides what becomes of a store that may lack something.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from raykv.cluster.backup import BackupManifest, lacking, read_manifest
from raykv.errors import CorruptData, InvalidOption
from raykv.records.keys import (
    HINTS,
    STORAGE_PREFIX_BYTES,
    is_key,
    storage_bucket,
    storage_prefix,
)
from raykv.records.kinds import OWNED, is_linear, public
from raykv.records.linear_record import renewed
from raykv.replica.hints import hint_of
from raykv.storage.pruning import MAX_SNAPSHOTS, is_snapshot_name
from raykv.storage.snapshot import SNAPSHOTS, PartReader, check_marker, read_part
from raykv.versions import merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from raykv.ports import FileSystem
    from raykv.storage.cache import Block

BATCH_ITEMS = 500
BATCH_BYTES = 2 << 20
"""Records of one batch: as many as a request may have, or fewer."""
_SECOND_CHARS = len("20261129T170000Z")


class Listed(NamedTuple):
    """A snapshot in a backup directory: its manifest, or why that cannot be read."""

    snapshot: str
    manifest: BackupManifest | None
    trouble: str = ""


class Batch(NamedTuple):
    """Records of one bucket, by its id in the backup: (encoded key, record). ``partition``: how far the reading is."""

    bucket_id: int
    items: list[tuple[bytes, bytes]]
    partition: int


def listed(fs: FileSystem, path: str) -> list[Listed]:
    """Return the finished snapshots at ``path``, oldest first. Raises ``InvalidOption`` if there is none, ``OSError``."""
    check_marker(fs, path)
    base = f"{path}/{SNAPSHOTS}"
    found: list[Listed] = []
    for name in fs.list_directory(base)[:MAX_SNAPSHOTS] if fs.is_directory(base) else ():
        if not is_snapshot_name(name):
            continue
        try:
            found.append(Listed(name, read_manifest(fs, path, name)))
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was interrupted, or is being taken
        except (OSError, CorruptData) as error:
            found.append(Listed(name, None, str(error)))
    # Names have the second.
    return sorted(
        found, key=lambda each: (each.snapshot[:_SECOND_CHARS], each.manifest.made_ms if each.manifest else 0)
    )


class Backup:
    """One snapshot, opened. Use ``Backup.open``."""

    def __init__(self, fs: FileSystem, path: str, manifest: BackupManifest) -> None:
        """Read which tables each part has. A part that is not here, or not intact, is in ``absent``."""
        self.manifest = manifest
        self.state = manifest.cluster
        self.absent: dict[str, str] = {}
        """Node id -> why its part cannot be read."""
        self.readers: dict[str, PartReader] = {}
        for entry in manifest.parts:
            try:
                part = read_part(fs, path, manifest.snapshot, entry.node_id, entry.part_bytes, entry.part_checksum)
            except (FileNotFoundError, NotADirectoryError):
                self.absent[entry.node_id] = (
                    f"its part is not in {path}; it was written on host {entry.host or 'unknown'}: copy what is in {path} "
                    "there to here, beside what is here"
                )
            except (OSError, CorruptData) as error:
                self.absent[entry.node_id] = str(error)
            else:
                if part.store_id != manifest.store_id:
                    self.absent[entry.node_id] = f"its part is that of store {part.store_id}"
                    continue
                self.readers[entry.node_id] = PartReader(fs, path, part)

    @classmethod
    def open(cls, fs: FileSystem, path: str, snapshot: str = "") -> Backup:
        """Open a snapshot, the latest if none is named.

        Raises ``InvalidOption`` if there is none of that name, or no backups at all; ``CorruptData``, ``OSError``.
        """
        found = listed(fs, path)
        named = [each for each in found if snapshot in {"", each.snapshot}]
        if not named:
            have = ", ".join(each.snapshot for each in found[-5:]) or "none that was finished"
            raise InvalidOption(
                f"{path} has no snapshot {snapshot}; the latest: {have}" if snapshot else f"{path} has {have}"
            )
        latest = named[-1]
        if latest.manifest is None:
            raise CorruptData(f"snapshot {latest.snapshot} cannot be read: {latest.trouble}")
        return cls(fs, path, latest.manifest)

    def lacking(self) -> list[str]:
        """Return what the parts read so far may lack of what was acknowledged, in words; nothing if they suffice."""
        damaged = {
            (partition, node_id)
            for node_id, reader in self.readers.items()
            for damage in reader.damages
            for partition in self._touched(damage.start, damage.end)
        }
        said = lacking(self.state, self.readers, damaged)
        private = storage_prefix(self.state.ring.partitions - 1, 0xFFFFFFFF)
        if any(each.config.sloppy for each in self.state.buckets):
            said += [
                f"a sloppy bucket may lack what node {node_id} kept for others: {damage}"
                for node_id, reader in self.readers.items()
                for damage in reader.damages
                if damage.touches(private, None)
            ]
        return said

    def why(self) -> str:
        """Return why parts are missing, for a message: by node; empty if none is."""
        missing = {**self.manifest.missing, **self.absent}
        return "; ".join(f"node {node_id}: {why}" for node_id, why in sorted(missing.items()))

    def _touched(self, start: bytes | None, end: bytes | None) -> Iterator[int]:
        partitions = self.state.ring.partitions
        if start is None:
            yield from range(partitions)
            return
        first = int.from_bytes(start[:2].ljust(2, b"\x00"))
        last = partitions - 1 if end is None else int.from_bytes(end[:2].ljust(2, b"\x00"))
        yield from range(first, min(last, partitions - 1) + 1)

    @property
    def tables(self) -> int:
        """The number of tables in all parts that are here."""
        return sum(len(reader.part.checksums) for reader in self.readers.values())

    def check(self, checked: set[tuple[str, int, int, int]], progress: Callable[[], object] | None = None) -> list[str]:
        """Read every table of every part; return what is wrong, in words. O(bytes).

        ``checked``: (node, table, size, checksum) of those that were found intact, for other snapshots name them too.
        ``progress()`` is called after each table.
        """
        wrong = [f"node {node_id}: {why}" for node_id, why in sorted(self.absent.items())]
        for node_id, reader in sorted(self.readers.items()):
            for info, checksum in reader.part.tables():
                name = (node_id, info.number, info.size_bytes, checksum)
                if name not in checked:
                    trouble = reader.check(info, checksum)
                    if trouble:
                        wrong.append(f"node {node_id}: {trouble}")
                    else:
                        checked.add(name)
                if progress is not None:
                    progress()
        return wrong

    def batches(self, bits: int) -> Iterator[Batch]:
        """Yield all records of living buckets, merged, in batches of one bucket. ``bits``: see ``renewed``.

        Each key comes once, and once more for each hint: merge them. Memory: a batch of each bucket, some blocks of each run
        of each part. Raises ``CorruptData``, ``OSError``.
        """
        filling = {entry.bucket_id: _Filling() for entry in self.state.buckets}
        partition = 0
        for keys, records in _merged([self._owned(node_id) for node_id in sorted(self.readers)]):
            partition = int.from_bytes(keys[-1][:2])
            for storage_key, record in zip(keys, records, strict=True):
                bucket_id = storage_bucket(storage_key)
                if filling[bucket_id].add(storage_key[STORAGE_PREFIX_BYTES:], record, bits):
                    yield Batch(bucket_id, filling[bucket_id].taken(), partition)
        for node_id in sorted(self.readers):
            for bucket_id, key, record in self._hinted(node_id):
                if filling[bucket_id].add(key, record, bits):
                    yield Batch(bucket_id, filling[bucket_id].taken(), partition)
        for bucket_id, some in filling.items():
            if some.items:
                yield Batch(bucket_id, some.taken(), partition)

    def _owned(self, node_id: str) -> Iterator[Block]:
        """Yield the records of a part of which reads asked its node."""
        copies = {entry.bucket_id: entry.config.n for entry in self.state.buckets}
        partitions = self.state.ring.partitions
        known: dict[bytes, bool] = {}

        def owns(prefix: bytes) -> bool:
            if prefix not in known:
                partition, bucket_id = int.from_bytes(prefix[:2]), int.from_bytes(prefix[2:])
                known[prefix] = (
                    partition < partitions
                    and bucket_id in copies
                    and node_id in self.state.read_set(partition, copies[bucket_id])
                )
            return known[prefix]

        for keys, records in self.readers[node_id].batches():
            first, last = keys[0][:STORAGE_PREFIX_BYTES], keys[-1][:STORAGE_PREFIX_BYTES]
            # Most batches are of one partition and bucket, all of it owned.
            if first != last or not owns(first):
                places = [at for at, key in enumerate(keys) if owns(key[:STORAGE_PREFIX_BYTES])]
                keys, records = [keys[at] for at in places], [records[at] for at in places]  # noqa: PLW2901
            if not all(is_key(key[STORAGE_PREFIX_BYTES:]) for key in keys):
                # An earlier version took them; no client can name them.
                places = [at for at, key in enumerate(keys) if is_key(key[STORAGE_PREFIX_BYTES:])]
                keys, records = [keys[at] for at in places], [records[at] for at in places]  # noqa: PLW2901
            if keys:
                yield keys, [record if record[:2] != OWNED else public(record) for record in records]

    def _hinted(self, node_id: str) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (bucket id, key, record) of the hints in a part that hold a record and are not too old."""
        known = {entry.bucket_id for entry in self.state.buckets}
        oldest_ms = self.manifest.made_ms - self.state.config.gc_grace_s * 1000 / 2
        for keys, records in self.readers[node_id].batches(HINTS):
            for place, stored in zip(keys, records, strict=True):
                if not place.startswith(HINTS):
                    continue
                hint = hint_of(place, stored)
                if hint.record and hint.bucket_id in known and is_key(hint.key) and hint.made_ms >= oldest_ms:
                    yield hint.bucket_id, hint.key, public(hint.record)


class _Filling:
    """The records of a bucket that wait until they are a batch."""

    __slots__ = ("_size_bytes", "items")

    def __init__(self) -> None:
        self.items: list[tuple[bytes, bytes]] = []
        self._size_bytes = 0

    def add(self, key: bytes, record: bytes, bits: int) -> bool:
        """Add a record; return whether they are a batch now."""
        self.items.append((key, renewed(record, bits) if is_linear(record) else record))
        self._size_bytes += len(key) + len(record)
        return len(self.items) >= BATCH_ITEMS or self._size_bytes >= BATCH_BYTES

    def taken(self) -> list[tuple[bytes, bytes]]:
        """Return them, and begin anew."""
        items, self.items, self._size_bytes = self.items, [], 0
        return items


def _merged(sources: Sequence[Iterator[Block]]) -> Iterator[Block]:
    """Yield the union of sorted sources in windows of ascending keys; two records of a key are merged. O(n log s)."""
    heads: list[tuple[list[bytes], list[bytes], int]] = []
    waiting = [*sources]
    streams: list[Iterator[Block]] = []
    for stream in waiting:
        head = next(stream, None)
        if head is not None:
            heads.append((*head, 0))
            streams.append(stream)
    while heads:
        limit = min(keys[-1] for keys, _, _ in heads)
        parts: list[Block] = []
        for at, (keys, records, low) in enumerate(heads):
            high = bisect_right(keys, limit, low)
            if high > low:
                parts.append((keys[low:high], records[low:high]))
            heads[at] = (keys, records, high)
        yield _settled(parts)
        left = []
        for (keys, records, low), stream in zip(heads, streams, strict=True):
            if low < len(keys):
                left.append(((keys, records, low), stream))
            elif (head := next(stream, None)) is not None:
                left.append(((*head, 0), stream))
        heads, streams = [head for head, _ in left], [stream for _, stream in left]


def _settled(parts: Sequence[Block]) -> Block:
    first_keys, first_records = parts[0]
    if all(part == parts[0] for part in parts[1:]):  # the usual case: the copies are equal
        return first_keys, first_records
    found = dict(zip(first_keys, first_records, strict=True))
    for keys, records in parts[1:]:
        for key, record in zip(keys, records, strict=True):
            known = found.get(key)
            if known is None:
                found[key] = record
            elif known != record:
                found[key] = merge(known, record)
    ordered = sorted(found)
    return ordered, [found[key] for key in ordered]
