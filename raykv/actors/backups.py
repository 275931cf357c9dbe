"""Backups on this host: what is in a directory, whether it is intact, and a store made of it.

A restore starts a new store and loads the records of a snapshot into it, whatever the number of its nodes and hosts: one
way for everything. What was begun is noted beside the new store's marker (``Begun``), with what its records depend on. If
the restore fails or is interrupted, the new store is deleted; if the process itself is ended, the next call with the same
snapshot and name goes on: loading a record twice changes nothing. One process at a time is at it (``path_lock``), and a
store of the same name that runs elsewhere is neither loaded nor stopped: the path decides which store is meant.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from raykv.actors import deletion, destroying, lifecycle
from raykv.actors.marker import MARKER
from raykv.actors.naming import default_path
from raykv.actors.path_lock import PathLock
from raykv.client.backups import RestoreReport
from raykv.client.driver import run
from raykv.client.exchange import Exchange, answered, ask, unanswered, unexpected
from raykv.cluster.state import DEFAULT_BUCKET
from raykv.config import MAX_NODES, NodeConfig, StoreConfig, check_count, check_store_name, quorum
from raykv.errors import CorruptData, InvalidOption, RaykvError, StoreNotFound, StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.repair.restoring import Backup, listed
from raykv.storage.blob import read_blob, unpack, write_blob
from raykv.supervision.founding import Plan
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raykv.client.exchange import Steps
    from raykv.config import BucketConfig
    from raykv.repair.restoring import Batch

logger = logging.getLogger("raykv")

T = TypeVar("T")

BEGUN = deletion.RESTORING
BEGUN_MAGIC = b"RAYKVRST"
BEGUN_VERSION = 1
_MAX_BEGUN_BYTES = 4096
LOAD_TIMEOUT_S = 120.0
AT_ONCE = 12
"""Requests that one exchange sends."""
_AHEAD = 3 * AT_ONCE
"""Batches that are read before they are sent."""
_LOOK_S = 0.2


class Begun(msgspec.Struct, frozen=True):
    """A restore that has begun: of which snapshot, and the random bits of its records (``linear_record.renewed``)."""

    store_id: str
    snapshot: str
    bits: bytes


_decode_begun = msgspec.msgpack.Decoder(Begun).decode


def here(path: str) -> str:
    """Return a backup's path on this host, absolute."""
    return os.path.abspath(os.path.expanduser(path))


def show(path: str) -> list[dict[str, Any]]:
    """Return the finished snapshots at ``path``, oldest first, as plain data. Raises ``InvalidOption``, ``OSError``."""
    return [
        {"snapshot": each.snapshot, "trouble": each.trouble}
        if each.manifest is None
        else {
            "snapshot": each.snapshot,
            "trouble": "",
            "store": each.manifest.store,
            "made_ms": each.manifest.made_ms,
            "epoch": each.manifest.epoch,
            "nodes": {part.node_id: part.host for part in each.manifest.parts},
            "missing": each.manifest.missing,
            "tables": sum(part.tables for part in each.manifest.parts),
            "records": sum(part.records for part in each.manifest.parts),
            "table_bytes": sum(part.table_bytes for part in each.manifest.parts),
        }
        for each in listed(OsFileSystem(), here(path))
    ]


def verify(path: str, snapshot: str = "", progress: Callable[[int, int], object] | None = None) -> list[dict[str, Any]]:
    """Read every checksum of a snapshot, or of all. Returns for each what is wrong, and what it lacks; plain data.

    ``progress(done, all)`` receives numbers of tables. Raises ``InvalidOption``, ``OSError``.
    """
    fs, where = OsFileSystem(), here(path)
    found: list[dict[str, Any]] = []
    opened: list[tuple[dict[str, Any], Backup]] = []
    for each in listed(fs, where):
        if snapshot not in {"", each.snapshot}:
            continue
        report: dict[str, Any] = {"snapshot": each.snapshot, "wrong": [], "lacking": [], "restorable": False}
        found.append(report)
        if each.manifest is None:
            report["wrong"] = [each.trouble]
        else:
            opened.append((report, Backup(fs, where, each.manifest)))
    if not found:
        raise InvalidOption(f"{where} has no snapshot {snapshot}".rstrip(), path=where)
    total, done = sum(backup.tables for _, backup in opened), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    intact: set[tuple[str, int, int, int]] = set()
    for report, backup in opened:
        report["wrong"] = backup.check(intact, step)
        report["lacking"] = backup.lacking()
        report["restorable"] = not report["lacking"]
        report["tables"] = backup.tables
        report["missing"] = backup.manifest.missing
    return found


def restore(
    backup: str,
    name: str,
    *,
    nodes: int | None = None,
    path: str | None = None,
    snapshot: str = "",
    partial: bool = False,
    config: NodeConfig | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> RestoreReport:
    """Make a new store of a snapshot. See ``raykv.restore``."""
    began_s = time.monotonic()
    name = check_store_name(name)
    fs = OsFileSystem()
    source = Backup.open(fs, here(backup), snapshot)
    count = len(source.state.ring.members) if nodes is None else check_count("nodes", nodes, 1, MAX_NODES)
    _check_enough(source, partial)
    where = here(path) if path is not None else default_path(name)
    lifecycle.ensure_ray()
    attempt = _Attempt(fs, name, where, source)
    try:
        copies = min(source.state.config.copies, count)
        store = msgspec.structs.replace(source.state.config, name=name, copies=copies)
        plan = Plan(store=store, nodes=count)
        attempt.created = lifecycle.found_or_join(plan, where, config or NodeConfig(), _given(store), restoring=True)
        started_s = time.monotonic() - began_s
        with contextlib.closing(lifecycle.join(name)) as link:
            attempt.check_running()
            ids = run(_open_buckets([entry.config for entry in source.state.buckets], copies), link)
            buckets = {entry.bucket_id: bucket_id for entry, bucket_id in zip(source.state.buckets, ids, strict=True)}
            bits = int.from_bytes(attempt.begun.bits)
            with _Ahead(source.batches(bits), _AHEAD) as batches:
                loaded = run(_load(batches, buckets, source.state.ring.partitions, progress), link)
        lacking = _check_enough(source, partial)
        attempt.finish()
    finally:
        attempt.end()
    names = {entry.bucket_id: entry.config.name for entry in source.state.buckets}
    return RestoreReport(
        store=name,
        path=where,
        snapshot=source.manifest.snapshot,
        of=source.manifest.store,
        nodes=count,
        records=sum(loaded.values()),
        buckets={names[bucket_id]: loaded.get(bucket_id, 0) for bucket_id in names},
        seconds=time.monotonic() - began_s,
        start_seconds=started_s,
        resumed=attempt.resumed,
        lacking=lacking,
    )


def _check_enough(source: Backup, partial: bool) -> list[str]:
    """Return what may be missing from the store. Raises ``CorruptData`` if anything may, unless ``partial``."""
    lacking = source.lacking()
    if lacking and not partial:
        why = source.why() or "damage in the tables; 'raykv backup --verify' names them"
        raise CorruptData(
            f"snapshot {source.manifest.snapshot} does not have all that was acknowledged: {'; '.join(lacking)} ({why}). "
            "With partial=True (--partial) what is left is restored",
            lacking=lacking,
        )
    return lacking


class _Attempt:
    """One process's work on a restore, under the lock of the new store's path."""

    def __init__(self, fs: OsFileSystem, name: str, where: str, source: Backup) -> None:
        """Begin, or go on. Raises ``InvalidOption`` if a store is there already, or another process is at it."""
        self.fs, self.name, self.where = fs, name, where
        self.created: bool | None = None
        """Whether this process has started the store; None as long as that is unknown."""
        self._done = False
        _check_free(fs, where, name, source)  # before anything is made
        try:
            fs.make_directories(where)
            self.lock = PathLock(fs, where)
        except OSError as error:
            raise _unusable(where, error) from None
        try:
            self.begun, self.resumed = _begin(fs, where, name, source)
        except BaseException:
            self.lock.release()
            raise

    @property
    def foreign(self) -> bool:
        """Whether the store that runs was started by somebody else, for something else."""
        return self.created is False and not self.resumed

    def check_running(self) -> None:
        """Raise ``InvalidOption`` unless the running store is the one that is being restored."""
        lifecycle.check_not_elsewhere(self.name, self.where)
        if self.foreign:
            raise InvalidOption(
                f"another process started store {self.name!r} at {self.where} meanwhile", path=self.where
            )

    def finish(self) -> None:
        """Note that the store is complete."""
        self.fs.unlink(f"{self.where}/{BEGUN}")
        self._done = True
        self.fs.sync_directory(self.where)

    def end(self) -> None:
        """Undo what was begun, unless it was finished; let other processes at the path."""
        try:
            if not self._done:
                _undo(self)
        finally:
            self.lock.release()


def _check_free(fs: OsFileSystem, where: str, name: str, source: Backup) -> Begun | None:
    """Return the restore of this snapshot that goes on at a path, or None if one can begin there.

    Raises ``InvalidOption`` if a store is there already, or runs under that name elsewhere.
    """
    begun = read_begun(fs, where)
    if begun is None:
        if name in lifecycle.stores() or fs.exists(f"{where}/{MARKER}"):
            raise InvalidOption(
                f"there is a store {name!r} already, or one at {where}: a restore makes a new one, under another name and "
                "path",
                path=where,
            )
        return None
    if (begun.store_id, begun.snapshot) != (source.manifest.store_id, source.manifest.snapshot):
        raise InvalidOption(
            f"{where} holds a restore of snapshot {begun.snapshot} that was interrupted: go on with that one, or delete "
            f"it first (raykv.destroy({name!r}, path={where!r}))",
            path=where,
        )
    lifecycle.check_not_elsewhere(name, where)
    return begun


def _begin(fs: OsFileSystem, where: str, name: str, source: Backup) -> tuple[Begun, bool]:
    """Note that a restore begins, or find that it goes on. Raises ``InvalidOption`` if a store is there already."""
    begun = _check_free(fs, where, name, source)
    if begun is not None:
        return begun, True
    begun = Begun(source.manifest.store_id, source.manifest.snapshot, random.SystemRandom().randbytes(8))
    try:
        write_blob(fs, where, BEGUN, BEGUN_MAGIC, BEGUN_VERSION, msgspec.msgpack.encode(begun))
    except OSError as error:
        raise _unusable(where, error) from None
    return begun, False


def _unusable(where: str, error: OSError) -> InvalidOption:
    return InvalidOption(f"path {where} cannot be used: {error.strerror or error}", path=where)


def read_begun(fs: OsFileSystem, where: str) -> Begun | None:
    """Return the restore that was begun at a store's path and not finished; None if there is none. ``CorruptData``."""
    try:
        _, payload = read_blob(fs, f"{where}/{BEGUN}", BEGUN_MAGIC, BEGUN_VERSION, _MAX_BEGUN_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return unpack(_decode_begun, payload, f"{where}/{BEGUN}")


def _undo(attempt: _Attempt) -> None:
    """Delete what a restore has begun, and that alone: half a store must not be taken for one."""
    name, where = attempt.name, attempt.where
    try:
        if read_begun(attempt.fs, where) != attempt.begun:
            return
        _stop(attempt)
        if os.path.exists(f"{where}/{MARKER}") and not attempt.foreign:
            destroying.delete_everywhere(name, where, attempt.lock)
            return
        with contextlib.suppress(OSError):
            os.unlink(f"{where}/{BEGUN}")
            attempt.lock.remove()
            os.rmdir(where)
    except (RaykvError, OSError) as error:
        logger.warning(
            "the restore of store %s was not finished, and what it has begun in %s could not be deleted: %s",
            name,
            where,
            error,
        )


def _stop(attempt: _Attempt) -> None:
    """Stop the store that is being restored; another one of its name goes on. Raises ``StoreUnavailable``."""
    if attempt.foreign:
        return
    with contextlib.suppress(StoreNotFound):
        running = lifecycle.running_path(attempt.name)
        if running is None and not attempt.created:
            raise StoreUnavailable(f"store {attempt.name!r} runs and does not report where its data is")
        if running is None or lifecycle.same_path(running, attempt.where):
            lifecycle.stop(attempt.name)


def _given(store: StoreConfig) -> dict[str, Any]:
    return {"n": store.copies, "partitions": store.partitions, "durability": store.durability}


def _open_buckets(configs: list[BucketConfig], copies: int) -> Steps[list[int]]:
    """Create the backup's buckets, with their settings; return their ids, in order."""
    ids = []
    for config in configs:
        options: dict[str, Any] = {}
        if config.name != DEFAULT_BUCKET:
            n = min(config.n, copies)
            majority = config.versioning == "linearizable"
            r, w = (quorum(n), quorum(n)) if majority else (min(config.r, n), min(config.w, n))
            options = msgspec.to_builtins(msgspec.structs.replace(config, n=n, r=r, w=w))
            options = {what: value for what, value in options.items() if what != "name" and value is not None}
        answer = yield from ask(f.OpenBucket(config.name, options, LOAD_TIMEOUT_S), LOAD_TIMEOUT_S)
        if not isinstance(answer, f.BucketOpened):
            raise unexpected()
        ids.append(answer.bucket_id)
    return ids


def _load(
    batches: Iterable[Batch],
    buckets: dict[int, int],
    partitions: int,
    progress: Callable[[int, int], object] | None,
) -> Steps[dict[int, int]]:
    """Load all batches; return the number of records by bucket, ids as in the backup."""
    loaded: dict[int, int] = {}
    waiting: list[Batch] = []

    def send() -> Steps[None]:
        requests = [f.LoadRecords(buckets[each.bucket_id], each.items, LOAD_TIMEOUT_S) for each in waiting]
        answers = yield Exchange(requests, LOAD_TIMEOUT_S, repeatable=True)
        for batch, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, PeerFailure):
                raise unanswered(answer, LOAD_TIMEOUT_S)
            if not isinstance(answered(answer), f.Info):
                raise unexpected()
            loaded[batch.bucket_id] = loaded.get(batch.bucket_id, 0) + len(batch.items)
        if progress is not None:
            progress(waiting[-1].partition, partitions)

    for batch in batches:
        waiting.append(batch)
        if len(waiting) >= AT_ONCE:
            yield from send()
            waiting = []
    if waiting:
        yield from send()
    if progress is not None:
        progress(partitions, partitions)
    return loaded


class _Ahead(contextlib.AbstractContextManager["Iterator[Any]"]):
    """Runs an iterator on a thread of its own, some steps ahead: the nodes are not idle while tables are read."""

    def __init__(self, source: Iterator[Any], depth: int) -> None:
        self._source = source
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raykv-restore", daemon=True)

    def __enter__(self) -> Iterator[Any]:
        self._thread.start()
        return self._items()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        end: BaseException = StopIteration()
        try:
            for item in self._source:
                if not self._put((item, None)):
                    return
        except Exception as error:  # noqa: BLE001 - raised where the items are taken
            end = error
        self._put((None, end))

    def _put(self, item: tuple[Any, BaseException | None]) -> bool:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def _items(self) -> Iterator[Any]:
        while True:
            try:
                item, end = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise StoreUnavailable("the reading of the backup ended without a word") from None
                continue
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item
