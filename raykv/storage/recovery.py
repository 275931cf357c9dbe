"""From files to a running engine.

1. Read the manifest. None in an empty directory: a new store. None beside other files: the store is lost. Then sync the
   directory: a process that died may have left names in the kernel only, and no step that relies on a name may outlive
   it.
2. Unlink orphans: tables that the manifest does not name, segments before the first that matters, unfinished files.
3. Open the tables. One that cannot be read is damage with the range that the manifest has, and is set aside.
4. Replay the log's segments in order (``raykv.storage.replay``) into memtables.
5. Sync the last segment before its records are seen: after a crash of the process alone, its bytes may be in the
   kernel only. If it has a torn tail or corruption, the next segment is created first, with the length that counts, and
   only then is the tail cut. A recovery after a second crash then judges every gap as the first one did.
6. Save newly found damage in the manifest, before any evidence of it can go.

Invariant: recovering twice gives the result of recovering once, wherever a crash comes in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raykv.errors import CorruptData
from raykv.storage import manifest as manifests
from raykv.storage.blob import TEMPORARY_SUFFIX
from raykv.storage.damage import CorruptBlock, Damage, logger, report
from raykv.storage.manifest import Manifest, number_of
from raykv.storage.mark import FAR_AHEAD, LAST_SEGMENT, MAX_SEGMENT, Mark, apart, doubt_about_log, doubt_about_manifest
from raykv.storage.memtable import Memtable
from raykv.storage.replay import read_header, replay_segment
from raykv.storage.run import Run
from raykv.storage.sstable import Table, table_name
from raykv.storage.wal import Log, segment_name

if TYPE_CHECKING:
    from raykv.config import NodeConfig
    from raykv.ports import FileSystem
    from raykv.storage.cache import BlockCache

CORRUPT_SUFFIX = ".rotten"
"""Part of the format: directories of every version keep it."""


class Recovered(NamedTuple):
    """The state from which an engine starts. ``sealed`` are newest first."""

    manifest: Manifest
    runs: list[Run]
    sealed: list[Memtable]
    memtable: Memtable
    log: Log
    ends: dict[int, int]
    """Segment -> the length that counts."""
    doubt: str
    """Why this is not the directory that was left; empty if it is (``raykv.storage.mark``)."""


class _Replay(NamedTuple):
    sealed: list[Memtable]
    memtable: Memtable
    log: Log
    damages: list[Damage]
    ends: dict[int, int]
    strays: list[int]
    """Segments that are none of this log."""


def recover(
    fs: FileSystem,
    directory: str,
    config: NodeConfig,
    cache: BlockCache,
    mark: Mark | None = None,
    run: int = 0,
    owner: str = "",
) -> Recovered:
    """Bring the directory into a usable state. O(tables + bytes of the log).

    ``mark``, ``run``, ``owner``: from the identity.

    Raises ``OSError``, and ``CorruptData`` if the manifest is unreadable or a file is of a later raykv's format.
    """
    fs.make_directories(directory)
    manifest = manifests.load(fs, directory)
    mark, known = (Mark(), False) if mark is None else (mark, True)
    doubt = ""
    if known:
        doubt = doubt_about_manifest(mark, run, owner, manifest, manifests.checksum_on_disk(fs, directory))
    if manifest is None:
        strays = [name for name in fs.list_directory(directory) if name.endswith((".wal", ".sst"))]
        if strays:
            raise CorruptData(f"{directory} holds {strays[0]} but no manifest", file=directory)
        manifest = Manifest(generation=mark.generation)
        manifests.save(fs, directory, manifest)
    fs.sync_directory(directory)  # a process that died may have left a name, the manifest's even, in the kernel only
    _remove_orphans(fs, directory, manifest, keep=bool(doubt))
    runs, lost = _open_tables(fs, directory, manifest, cache)
    replay = _replay(fs, directory, manifest, config, (mark.log_end, manifest.log_end))
    if known and not doubt and not replay.damages:
        doubt = doubt_about_log(mark, manifest, replay.log.digests, max(replay.ends, default=0))
    places = [*manifest.damaged, *manifest.healed]
    fresh = [damage for damage in lost + replay.damages if not any(map(damage.same_place, places))]
    for damage in fresh:
        report(damage)
    if fresh or lost:
        live = tuple(run.info() for run in runs)
        manifest = msgspec.structs.replace(
            manifest, runs=live, damaged=(*manifest.damaged, *fresh), generation=manifest.generation + 1
        )
        manifests.save(fs, directory, manifest)
        for damage in lost:
            set_aside(fs, directory, damage.file)
    for number in replay.strays:  # once the manifest says so
        set_aside(fs, directory, segment_name(number))
    return Recovered(manifest, runs, replay.sealed, replay.memtable, replay.log, replay.ends, doubt)


def set_aside(fs: FileSystem, directory: str, name: str) -> None:
    """Rename a damaged table that is no longer part of the store: its readable part may still be wanted."""
    path = f"{directory}/{name}"
    if fs.exists(path):
        fs.rename(path, path + CORRUPT_SUFFIX)


def _remove_orphans(fs: FileSystem, directory: str, manifest: Manifest, *, keep: bool) -> None:
    """``keep``: tables are set aside, not unlinked: the manifest that does not name them may be the wrong one."""
    live = {table.number for run in manifest.runs for table in run.tables}
    for name in fs.list_directory(directory):
        table, segment = number_of(name, ".sst"), number_of(name, ".wal")
        if table is not None and table not in live and keep:
            set_aside(fs, directory, name)
        elif (
            (table is not None and table not in live)
            or (segment is not None and segment < manifest.oldest_segment)
            or name == manifests.NAME + TEMPORARY_SUFFIX
        ):
            fs.unlink(f"{directory}/{name}")


def _open_tables(
    fs: FileSystem, directory: str, manifest: Manifest, cache: BlockCache
) -> tuple[list[Run], list[Damage]]:
    runs: list[Run] = []
    lost: list[Damage] = []
    passed_over: dict[str, set[int]] = {}
    for damage in (*manifest.damaged, *manifest.healed):
        passed_over.setdefault(damage.file, set()).add(damage.offset)
    for info in manifest.runs:
        tables = []
        for table_info in info.tables:
            try:
                table = Table(fs, directory, table_info, cache)
            except CorruptBlock as corrupt:
                lost.append(corrupt.damage)
            else:
                table.skipped = frozenset(passed_over.get(table_name(table_info.number), ()))
                tables.append(table)
        if tables:
            runs.append(Run(info.number, tables))
    return runs, lost


def _replay(
    fs: FileSystem, directory: str, manifest: Manifest, config: NodeConfig, promised_ends: tuple[int, ...]
) -> _Replay:
    """``promised_ends``: ends of the log that others know to be synced."""
    oldest = manifest.oldest_segment
    promised = {segment: length for segment, length in sorted(map(apart, promised_ends)) if segment >= oldest}
    far = max([*promised, oldest]) + FAR_AHEAD
    strays = _strays(fs, directory, far)
    damages = [Damage(segment_name(number), 0, None, None, "it lies far ahead of the log") for number in strays[:1]]
    present = _segments(fs, directory, oldest, far)
    last = max([*present, *promised, oldest - 1])
    sealed: list[Memtable] = []
    memtable = Memtable(oldest)
    ends: dict[int, int] = {}
    digests: dict[int, int] = {}
    length = size = 0
    imperfect = False
    following = oldest
    for number in sorted({*present, last} if last >= oldest else present):
        if number not in present or following < number:
            missing = following
            upto = number if number not in present else number - 1
            reason = (
                f"segments of the log up to {upto} are missing"
                if upto > missing
                else "the segment of the log is missing"
            )
            damages.append(Damage(segment_name(missing), 0, None, None, reason))
        following = number + 1
        if number not in present:
            length = size = 0
            continue
        header = read_header(fs, directory, number + 1) if number + 1 in present else None
        sealed_length = header.previous_length if header is not None and header.previous == number else None
        replayed = replay_segment(
            fs, directory, number, sealed_length, sealed=number < last, promised_length=promised.get(number, 0)
        )
        damages += replayed.damages
        length, size = replayed.length, replayed.size
        ends[number], digests[number] = length, replayed.digest
        imperfect = bool(replayed.damages) or length < size
        if not memtable.entries:
            memtable.first_segment = number
        for keys, records in replayed.blocks:
            for key, record in zip(keys, records, strict=True):
                memtable.put(key, record, 0)
            if memtable.bytes >= config.memtable_bytes:
                memtable.last_segment = number
                sealed.insert(0, memtable)
                memtable = Memtable(number)
    log = Log(fs, directory, last, length, digests)
    if last > LAST_SEGMENT - (LAST_SEGMENT >> 2):
        logger.warning("%s: three quarters of the log's numbers are used up; replace the node in good time", directory)
    if last in present:
        _make_safe(fs, directory, last, length, size, log if imperfect else None)
    if not memtable.entries:
        memtable.first_segment = log.segment
    return _Replay(sealed, memtable, log, damages, ends, strays)


def _strays(fs: FileSystem, directory: str, far: int) -> list[int]:
    """Return the segments that lie far ahead of the log, which would go on from there and use up its numbers."""
    strays = sorted(number for name in fs.list_directory(directory) if (number := number_of(name, ".wal") or 0) >= far)
    if strays and strays[-1] > MAX_SEGMENT:
        raise CorruptData(
            f"{directory}/{segment_name(strays[-1])}: no segment of a log has such a number", file=directory
        )
    return strays


def _segments(fs: FileSystem, directory: str, oldest: int, far: int) -> frozenset[int]:
    """Return the numbers of the segments that matter, all below ``far``.

    A segment whose creation was cut short is removed first. It must not count as a witness that the one before was
    sealed: an interrupted recovery may have begun it while the torn tail before it was not yet cut.
    """
    numbers = {number_of(name, ".wal") for name in fs.list_directory(directory)}
    present = frozenset(number for number in numbers if number is not None and oldest <= number < far)
    last = max(present, default=None)
    if last is None or read_header(fs, directory, last) is not None:
        return present
    if not replay_segment(fs, directory, last, None, sealed=False).empty:
        return present
    fs.unlink(f"{directory}/{segment_name(last)}")
    return present - {last}


def _make_safe(fs: FileSystem, directory: str, number: int, length: int, size: int, log: Log | None) -> None:
    """Sync the last segment; with ``log``, record its length in the next one, and cut the torn tail off."""
    path = f"{directory}/{segment_name(number)}"
    fs.truncate(path, size)  # to the length it has: this only syncs
    if log is not None:
        log.begin_segment()
        if length < size:
            fs.truncate(path, length)
            logger.warning("torn tail of %d bytes cut off %s", size - length, path)
