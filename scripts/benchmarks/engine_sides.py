"""The storage engines that ``scripts/bench engine`` sets beside raykv's: one face for all, in a process of its own each.

``python -m benchmarks.engine_sides SIDE DATA DIRECTORY COUNTS`` measures one side once and prints its figures as JSON. A
process of its own has a peak of memory of its own, finds no caches of another side, and is not slowed by what another
left behind.

All sides get the same batches in the same order, and the same memory: RocksDB has raykv's sizes of memtable, cache and
filter, and lz4; its blocks are of its own size. *Synced*: a batch is on the disk before the next begins (fdatasync of the
log, RocksDB's ``sync``, LMDB's commit, SQLite's ``synchronous=FULL``). *Unsynced*: it is in the kernel's memory. A load
ends when nothing is left to flush or to compact: raykv does that in a process of its own, RocksDB in threads. Memory is
what a side takes beyond what it takes empty, raykv's helper process included.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import sqlite3
import struct
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from raykv.actors import job_process
from raykv.config import NodeConfig
from raykv.storage import Engine, Job
from raykv.storage.remote import Flushing
from raykv.system.files import OsFileSystem
from raykv.system.helper import HelperProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LENGTH = struct.Struct("<I")
COLD_CACHE_BYTES = 1 << 20
"""What a side may cache while cold gets are measured: nearly all of them go to the file, and find it in the page cache."""
CONFIG = NodeConfig()
SWITCH_INTERVAL_S = 0.0005
"""As in a node's process."""
_decode = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode


class Counts(NamedTuple):
    """How many gets of each kind are measured."""

    cold: int
    absent: int
    hot: int
    hot_keys: int


class Side(Protocol):
    """An open store."""

    def write(self, keys: list[bytes], records: list[bytes]) -> None:
        """Put a batch, as durable as the side was opened for."""
        ...

    def settle(self) -> None:
        """Flush what waits, and wait for what is due."""
        ...

    def compact(self) -> None:
        """Merge everything, for its size."""
        ...

    def get(self, key: bytes) -> object | None:
        """Return something for a key, None for an absent one."""
        ...

    def scan(self) -> Iterable[tuple[bytes, Any]]:
        """Yield all pairs in order."""
        ...

    def close(self) -> None:
        """Close."""
        ...


class RaykvSide:
    """raykv's engine as a node runs it: jobs begin in threads, and large ones are done by the helper process.

    Without ``helped`` they run between two batches instead, on the one thread.
    """

    def __init__(
        self, path: str, *, cache_bytes: int, sync: bool, compression: str = "lz4", helped: bool = True
    ) -> None:
        config = NodeConfig(block_cache_bytes=cache_bytes, compression=compression)  # type: ignore[arg-type]
        files = OsFileSystem()
        files.make_directories(path)
        self._engine = Engine.open(files, path, config, lambda _, incoming: incoming)
        self._helper = HelperProcess(job_process.__name__)
        if helped:
            self._engine.use_helper(self._helper)
        self._helped = helped
        self._threads = ThreadPoolExecutor(2)
        self._jobs: list[tuple[Job, Future[None]]] = []
        self._sync = sync
        self.get: Callable[[bytes], object | None] = self._engine.get

    def write(self, keys: list[bytes], records: list[bytes]) -> None:
        """Put a batch; wait as long as more is unflushed than may be, when a node answers ``Overloaded``."""
        self._engine.update_many(keys, records)
        self._write_log()
        self._go_on()
        while self._engine.overloaded:
            self._await_job()

    def _write_log(self) -> None:
        while (sync := self._engine.next_sync(sync=self._sync)) is not None:
            sync.run(self._sync)
            self._engine.finish_sync(sync)

    def _go_on(self) -> None:
        """Install the jobs that are done, and begin those that are due."""
        for job, done in [entry for entry in self._jobs if entry[1].done()]:
            done.result()
            self._jobs.remove((job, done))
            self._engine.finish(job)
        while (due := self._engine.next_job()) is not None:
            if self._helped:
                self._jobs.append((due, self._threads.submit(due.run)))
            else:
                due.run()
                self._engine.finish(due)

    def _await_job(self) -> None:
        if self._jobs:
            wait([done for _, done in self._jobs], return_when=FIRST_COMPLETED)
        self._go_on()

    def settle(self) -> None:
        """Wait for all jobs that are due. The memtable stays, as it does in a node: it is in the log."""
        self._go_on()
        while self._jobs:
            self._await_job()

    @property
    def helper_bytes(self) -> int:
        """The most memory that its helper process has taken beyond what an idle one takes."""
        pid = self._helper.pid
        if pid is None:
            return 0
        idle = HelperProcess(job_process.__name__)
        try:
            idle.call(
                msgspec.msgpack.encode(Flushing("", CONFIG, [], [], lowest=True, since_ms=0))
            )  # begun, no step done
            return max(0, memory_bytes("VmHWM", pid) - memory_bytes("VmHWM", idle.pid))
        finally:
            idle.close()

    def compact(self) -> None:
        """Merge everything into one run."""
        self._engine.compact_fully()
        self._write_log()
        self.settle()

    def scan(self) -> Iterator[tuple[bytes, Any]]:
        """Yield all pairs."""
        return self._engine.scan(b"", None)

    def close(self) -> None:
        """Close, without the jobs that are due."""
        self.settle()
        self._threads.shutdown()
        self._engine.close()
        self._helper.close()


_ROCKS_AT_WORK = ("mem-table-flush-pending", "num-running-flushes", "compaction-pending", "num-running-compactions")


class RocksSide:
    """RocksDB, through rocksdict, with raykv's sizes."""

    def __init__(self, path: str, *, cache_bytes: int, sync: bool) -> None:
        import rocksdict as rocks

        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(CONFIG.memtable_bytes)
        options.set_compression_type(rocks.DBCompressionType.lz4())
        blocks = rocks.BlockBasedOptions()
        blocks.set_bloom_filter(CONFIG.bloom_bits_per_key, False)
        blocks.set_block_cache(rocks.Cache(cache_bytes))
        options.set_block_based_table_factory(blocks)
        self._rocks = rocks
        # An existing database opens its column family with what is given for that, and else with defaults: 8 MiB of cache.
        self._db = rocks.Rdict(path, options=options, column_families={"default": options})
        if (has := self._db.property_int_value("rocksdb.block-cache-capacity")) != cache_bytes:
            raise SystemExit(f"RocksDB has a cache of {has} bytes, and is to have {cache_bytes}")
        self._how = rocks.WriteOptions()
        self._how.sync = sync
        self.get: Callable[[bytes], object | None] = self._db.get

    def write(self, keys: list[bytes], records: list[bytes]) -> None:
        """Put a batch."""
        batch = self._rocks.WriteBatch(raw_mode=True)
        put = batch.put
        for key, record in zip(keys, records, strict=True):
            put(key, record)
        self._db.write(batch, self._how)

    def settle(self) -> None:
        """Wait for the flushes and compactions that are due. The memtable stays."""
        value = self._db.property_int_value
        while any(value(f"rocksdb.{what}") for what in _ROCKS_AT_WORK):
            time.sleep(0.001)

    def compact(self) -> None:
        """Merge everything."""
        self._db.flush(True)
        self._db.compact_range(None, None)

    def scan(self) -> Iterator[tuple[bytes, Any]]:
        """Yield all pairs."""
        return iter(self._db.items())

    def close(self) -> None:
        """Close."""
        self._db.close()


class LmdbSide:
    """LMDB: a B+ tree in a mapping; its memory is the page cache, and counts as its own."""

    def __init__(self, path: str, *, cache_bytes: int, sync: bool) -> None:  # noqa: ARG002 - the kernel's
        import lmdb

        self._environment = lmdb.open(path, map_size=8 << 30, sync=sync, metasync=sync)
        self._reading: Any = None

    def write(self, keys: list[bytes], records: list[bytes]) -> None:
        """Put a batch."""
        with self._environment.begin(write=True) as change:
            put = change.put
            for key, record in zip(keys, records, strict=True):
                put(key, record)

    def settle(self) -> None:
        """Do nothing: a commit leaves nothing to do."""

    def compact(self) -> None:
        """Do nothing: pages are as full as the order of the puts left them."""

    def get(self, key: bytes) -> object | None:
        """Get in a transaction of its own, as a node would."""
        with self._environment.begin(buffers=False) as reading:
            value: object | None = reading.get(key)
            return value

    def scan(self) -> Iterator[tuple[bytes, Any]]:
        """Yield all pairs."""
        with self._environment.begin() as reading, reading.cursor() as cursor:
            yield from cursor

    def close(self) -> None:
        """Close."""
        self._environment.close()


class SqliteSide:
    """SQLite with a log (WAL), a table without row ids."""

    def __init__(self, path: str, *, cache_bytes: int, sync: bool) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(f"{path}/store.sqlite", isolation_level=None)
        run = self._db.execute
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={'FULL' if sync else 'OFF'}")
        run(f"PRAGMA cache_size=-{max(1, cache_bytes // 1024)}")
        run("CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, record BLOB) WITHOUT ROWID")

    def write(self, keys: list[bytes], records: list[bytes]) -> None:
        """Put a batch."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?)", zip(keys, records, strict=True))
        self._db.execute("COMMIT")

    def settle(self) -> None:
        """Bring the log into the file."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def compact(self) -> None:
        """Fill the pages."""
        self._db.execute("VACUUM")
        self.settle()

    def get(self, key: bytes) -> object | None:
        """Get."""
        found: object | None = self._db.execute("SELECT record FROM pairs WHERE key = ?", (key,)).fetchone()
        return found

    def scan(self) -> Iterator[tuple[bytes, Any]]:
        """Yield all pairs."""
        return iter(self._db.execute("SELECT key, record FROM pairs ORDER BY key"))

    def close(self) -> None:
        """Close."""
        self._db.close()


def raykv_alone(path: str, *, cache_bytes: int, sync: bool) -> RaykvSide:
    """Return raykv's engine without its helper process."""
    return RaykvSide(path, cache_bytes=cache_bytes, sync=sync, helped=False)


def raykv_zstd(path: str, *, cache_bytes: int, sync: bool) -> RaykvSide:
    """Return raykv's engine with zstd in place of lz4."""
    return RaykvSide(path, cache_bytes=cache_bytes, sync=sync, compression="zstd")


SIDES: dict[str, Callable[..., Side]] = {
    "raykv": RaykvSide, "RocksDB": RocksSide, "LMDB": LmdbSide, "SQLite": SqliteSide, "raykv, one process": raykv_alone,
    "raykv, zstd": raykv_zstd,
}  # fmt: skip
NEEDS = {"RocksDB": "rocksdict", "LMDB": "lmdb", "raykv, zstd": "zstandard"}
"""The package without which a side is left out."""


def write_data(path: str, pairs: Iterable[tuple[bytes, bytes]], batch: int) -> None:
    """Write the pairs in batches for the sides to read: before each its length."""
    encode = msgspec.msgpack.Encoder().encode
    with Path(path).open("wb") as file:
        keys: list[bytes] = []
        records: list[bytes] = []

        def put() -> None:
            data = encode((keys, records))
            file.write(LENGTH.pack(len(data)) + data)
            keys.clear()
            records.clear()

        for key, record in pairs:
            keys.append(key)
            records.append(record)
            if len(keys) == batch:
                put()
        if keys:
            put()


def read_data(path: str) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Yield the batches, one at a time: the data must not count as a side's memory."""
    with Path(path).open("rb") as file:
        while head := file.read(LENGTH.size):
            yield _decode(file.read(LENGTH.unpack(head)[0]))


def sample(data: str, total: int, count: int, seed: int) -> list[bytes]:
    """Return some keys in a random order, without ever holding all of them: memory that is free again would hide use."""
    draw = random.Random(seed)
    wanted = iter(sorted(draw.sample(range(total), min(total, count))))
    at, next_one = 0, next(wanted)
    found: list[bytes] = []
    for keys, _ in read_data(data):
        while next_one < at + len(keys):
            found.append(keys[next_one - at])
            next_one = next(wanted, total)
        at += len(keys)
    draw.shuffle(found)
    return found


def load(side: Side, data: str) -> tuple[float, int]:
    """Put everything; return the seconds that the side took for it, and how many records."""
    clock = time.perf_counter
    taken = 0.0
    count = 0
    for keys, records in read_data(data):
        began = clock()
        side.write(keys, records)
        taken += clock() - began
        count += len(keys)
    began = clock()
    side.settle()
    return taken + clock() - began, count


def rate_of_gets(side: Side, keys: list[bytes], *, absent: bool = False) -> float:
    """Return how many gets a second; checks that all are there, or none."""
    get = side.get
    began = time.perf_counter()
    for key in keys:
        if (get(key) is None) is not absent:
            raise SystemExit(f"{key!r} {'was found' if absent else 'is missing'}")
    return len(keys) / (time.perf_counter() - began)


def size_on_disk(path: str) -> int:
    """Return what the files of a directory occupy, without holes and without room kept ahead."""
    stats = [os.stat(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
    return sum(min(stat.st_size, 512 * stat.st_blocks) for stat in stats)


def begin_peak() -> None:
    """Forget the peak so far, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(what: str, pid: int | None = None) -> int:
    """Return a process's memory, this one's by default: ``VmHWM`` its peak, ``VmRSS`` at present."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) << 10
    return 0 if pid else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, and the peak alone


def measure(name: str, data: str, directory: str, counts: Counts) -> dict[str, float]:
    """Measure one side once; return its figures: rates a second, bytes."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    side_of = SIDES[name]
    total = sum(len(keys) for keys, _ in read_data(data))
    picked = sample(data, total, counts.cold, seed=7)
    absent = [key + b"x" for key in sample(data, total, counts.absent, seed=8)]
    hot = picked[: counts.hot_keys] * (counts.hot // min(len(picked), counts.hot_keys))
    cache_bytes = CONFIG.block_cache_bytes
    if name == "RocksDB":
        # what its library takes is not its data's
        side_of(f"{directory}/warm", cache_bytes=cache_bytes, sync=False).close()
    begin_peak()
    before_bytes = memory_bytes("VmRSS")
    figures: dict[str, float] = {}
    helper_bytes = 0
    for kind, sync in (("load_synced", True), ("load_unsynced", False)):
        side = side_of(f"{directory}/{kind}", cache_bytes=cache_bytes, sync=sync)
        taken_s, count = load(side, data)
        figures[kind] = count / taken_s
        if isinstance(side, RaykvSide):
            helper_bytes = max(helper_bytes, side.helper_bytes)
        side.close()
    at = f"{directory}/load_unsynced"
    side = side_of(at, cache_bytes=COLD_CACHE_BYTES, sync=False)
    figures["cold_get"] = rate_of_gets(side, picked)
    side.close()
    side = side_of(at, cache_bytes=cache_bytes, sync=False)
    figures["absent"] = rate_of_gets(side, absent, absent=True)
    rate_of_gets(side, picked[: counts.hot_keys])
    figures["hot_get"] = rate_of_gets(side, hot)
    began = time.perf_counter()
    seen = 0
    for _ in side.scan():
        seen += 1
    figures["full_scan"] = seen / (time.perf_counter() - began)
    if seen != total:
        raise SystemExit(f"a scan of {name} found {seen:,} of {total:,} records")
    figures["peak_memory"] = max(1, memory_bytes("VmHWM") - before_bytes + helper_bytes)
    side.compact()
    side.close()
    figures["size_on_disk"] = size_on_disk(at)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], sys.argv[3], Counts(*json.loads(sys.argv[4])))))
