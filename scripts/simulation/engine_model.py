"""The storage engine beside a dict: a state machine whose steps and arguments Hypothesis draws, and shrinks if one fails.

Puts, deletes, merges, reads of every kind, scans that pause, syncs and jobs that are held while other things happen,
full disks, clean stops, deaths of the process, power cuts. After every step the engine must hold what the dict holds.
After a crash it must hold, of each key, what was reported as safe or something later, and nothing that was never
written; nothing may be called damaged, nor the directory an old one.

The disk is the simulated one. Everything follows from what was drawn: a failure prints the steps that show it again.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raykv.config import NodeConfig
from raykv.sim.disk import SimDisk
from raykv.storage import DiskFull, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.sim.disk import CrashMode
    from raykv.storage import Found, Job, SyncJob
    from raykv.storage.mark import Mark

DIRECTORY = "/node/data"
OWNER = "shop/n1"
KEYS = [b"%c" % letter for letter in b"bcdefghijklmn"] + [
    b"\0", b"\0\0", b"a", b"a\0", b"a\xff", b"\xff", b"\xff\xff", b"long" * 200, b"long" * 200 + b"\0",
]  # fmt: skip
keys = st.sampled_from(KEYS)
bounds = st.sampled_from([b"", b"a", b"a\0", b"e", b"h", b"long", b"\xff", b"\xff\xff\xff"])
sizes = st.sampled_from([1, 30, 300, 1200])


def newest(stored: bytes | None, incoming: bytes) -> bytes:
    """Merge two records: the greater stands."""
    return incoming if stored is None else max(stored, incoming)


class _Cut(Exception):
    """The process ends here."""


class _History:
    """All that a key ever was since the engine was last recovered, oldest first; None where it was not there.

    ``written``, ``synced``: the places of what was reported to be in the file, and on the disk.
    """

    __slots__ = ("states", "synced", "written")

    def __init__(self, state: bytes | None) -> None:
        self.states = [state]
        self.written = self.synced = 0

    @property
    def now(self) -> bytes | None:
        return self.states[-1]


class _PausedScan:
    """A scan under way. ``begun``: the length of each history when it began."""

    def __init__(self, pairs: Iterator[tuple[bytes, Found]], begun: dict[bytes, int]) -> None:
        self.pairs = pairs
        self.begun = begun
        self.seen: dict[bytes, bytes] = {}


class EngineMachine(RuleBasedStateMachine):
    """An engine on a simulated disk, and what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimDisk()
        self.config = NodeConfig()
        self.engine: Engine | None = None
        self.mark: Mark | None = None
        self.runs = 0
        self.end = 0
        """The furthest end of the log that was reported as synced."""
        self.version = 0
        self.histories = {key: _History(None) for key in KEYS}
        self.unsynced: list[tuple[int, bytes, int]] = []
        """(log position, key, place in its history) of what was not yet reported as synced."""
        self.jobs: list[Job] = []
        self.sync: tuple[SyncJob, bool] | None = None
        self.scan: _PausedScan | None = None

    @property
    def there(self) -> Engine:
        """The open engine."""
        assert self.engine is not None
        return self.engine

    @initialize(
        compression=st.sampled_from(["none", "lz4"]),
        block_bytes=st.sampled_from([256, 512, 4096]),
        runs_per_level=st.sampled_from([2, 3, 6]),
        table_bytes=st.sampled_from([16 << 10, 1 << 20]),
        cache_bytes=st.sampled_from([0, 4096, 1 << 20]),
    )
    def begin(
        self, compression: Any, block_bytes: int, runs_per_level: int, table_bytes: int, cache_bytes: int
    ) -> None:
        """Open an empty store."""
        self.config = NodeConfig(
            memtable_bytes=4096, max_unflushed_bytes=1 << 20, compression=compression, block_bytes=block_bytes,
            runs_per_level=runs_per_level, table_bytes=table_bytes, block_cache_bytes=cache_bytes,
        )  # fmt: skip
        self._open()

    # ---- writes ----

    @rule(key=keys, size=sizes)
    def put(self, key: bytes, size: int) -> None:
        """Replace what is there."""
        self.version += 1
        record = b"%06d" % self.version + b"p" * size
        found = self.there.replace(key, record)
        assert found.record == record
        self._wrote(key, record, found.position)

    @rule(key=keys, size=sizes, behind=st.integers(0, 20))
    def merge(self, key: bytes, size: int, behind: int) -> None:
        """Merge a record, perhaps an older one, into what is there."""
        self.version += 1
        record = b"%06d" % max(0, self.version - behind) + b"m" * size
        found = self.there.update(key, record)
        assert found.record == newest(self.histories[key].now, record)
        self._wrote(key, found.record, found.position)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        """Erase a key."""
        self._wrote(key, None, self.there.erase(key))

    def _wrote(self, key: bytes, state: bytes | None, position: int) -> None:
        history = self.histories[key]
        if state != history.now:
            assert position == self.there.appended_position
            history.states.append(state)
            self.unsynced.append((position, key, len(history.states) - 1))

    # ---- reads ----

    @rule(chosen=st.lists(keys, max_size=6))
    def get_many(self, chosen: list[bytes]) -> None:
        """Read some keys at once, and one by one."""
        found, unreadable = self.there.get_many(chosen)
        assert unreadable == []
        assert [each and each.record for each in found] == [self.histories[key].now for key in chosen]
        assert found == [self.there.get(key) for key in chosen]

    @rule(start=bounds, end=st.none() | bounds, reverse=st.booleans(), around_damage=st.booleans())
    def read_range(self, start: bytes, end: bytes | None, reverse: bool, around_damage: bool) -> None:
        """Scan a range, and ask for its first."""
        expected = self._within(start, end, reverse)
        scan = self.there.scan(start, end, reverse=reverse, around_damage=around_damage)
        assert [(key, found.record) for key, found in scan] == expected
        if end is not None:
            first = self.there.first(start, end, reverse=reverse)
            assert (first and (first[0], first[1].record)) == (expected[0] if expected else None)

    @precondition(lambda self: self.scan is None)
    @rule()
    def begin_scan(self) -> None:
        """Begin a scan of everything that goes on later. It has read nothing before its first step."""
        pairs = self.there.scan(b"", None)
        begun = {key: len(history.states) for key, history in self.histories.items()}
        self.scan = _PausedScan(pairs, begun)
        self._step(self.scan)

    @precondition(lambda self: self.scan is not None)
    @rule(steps=st.integers(1, 12))
    def go_on_with_the_scan(self, steps: int) -> None:
        """Take some steps of it. What nobody has touched since its beginning comes exactly once."""
        scan = self.scan
        assert scan is not None
        if all(self._step(scan) for _ in range(steps)):
            return
        for key, history in self.histories.items():
            possible = history.states[scan.begun[key] - 1 :]
            assert scan.seen.get(key) in possible, key
        self.scan = None

    def _step(self, scan: _PausedScan) -> bool:
        pair = next(scan.pairs, None)
        if pair is None:
            return False
        key, found = pair
        assert all(key > seen for seen in scan.seen), "in order, each once"
        scan.seen[key] = found.record
        return True

    def _within(self, start: bytes, end: bytes | None, reverse: bool) -> list[tuple[bytes, bytes]]:
        pairs = [
            (key, history.now)
            for key, history in self.histories.items()
            if history.now is not None and key >= start and (end is None or key < end)
        ]
        return sorted(pairs, reverse=reverse)

    @invariant()
    def it_holds_what_the_dict_holds(self) -> None:
        """Compare everything."""
        if self.engine is None:
            return
        expected = {key: history.now for key, history in self.histories.items() if history.now is not None}
        assert {key: found.record for key, found in self.engine.scan(b"", None)} == expected
        found, _ = self.engine.get_many(KEYS)
        assert {key: each.record for key, each in zip(KEYS, found, strict=True) if each is not None} == expected
        assert self.engine.damaged == ()
        assert self.engine.failure is None

    # ---- the log, flushes and compactions ----

    @precondition(lambda self: self.sync is None)
    @rule(sync=st.booleans())
    def take_sync(self, sync: bool) -> None:
        """Take a job for the log, which is run later."""
        job = self.there.next_sync(sync=sync)
        if job is not None:
            self.sync = job, sync

    @precondition(lambda self: self.sync is not None)
    @rule()
    def run_sync(self) -> None:
        """Run it and finish it."""
        assert self.sync is not None
        job, sync = self.sync
        if not job.done:
            job.run(sync)
        self.there.finish_sync(job)
        self.sync = None
        for position, key, place in self.unsynced:
            if position <= job.position:
                history = self.histories[key]
                history.written = max(history.written, place)
                if sync:
                    history.synced = max(history.synced, place)
        if sync:
            self.unsynced = [entry for entry in self.unsynced if entry[0] > job.position]
            self.end = max(self.end, self.there.durable_end)

    @rule()
    def take_job(self) -> None:
        """Take a flush or a compaction, which is run later."""
        job = self.there.next_job()
        if job is not None:
            self.jobs.append(job)
            assert len(self.jobs) <= 2

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 1), install=st.sampled_from([True, True, True, False]))
    def run_job(self, which: int, install: bool) -> None:
        """Run a job, and install its outcome or abandon it."""
        job = self.jobs.pop(which % len(self.jobs))
        job.run()
        if install:
            self.there.finish(job)
        else:
            self.there.abandon(job)

    @rule()
    def compact(self) -> None:
        """Bring everything to one run."""
        self._settle()
        self.there.compact_fully()
        self._settle()
        stats = self.there.stats()
        assert stats.memtable_records == 0
        assert stats.table_records == sum(history.now is not None for history in self.histories.values())

    def _settle(self) -> None:
        """Sync, and do all the work that is due."""
        while True:
            if self.sync is None:
                self.take_sync(True)
            if self.sync is not None:
                self.run_sync()
            self.take_job()
            if not self.jobs:
                return
            self.run_job(0, True)

    @precondition(lambda self: self.sync is None)
    @rule(space_bytes=st.integers(0, 3000))
    def find_no_room(self, space_bytes: int) -> None:
        """Let the disk be full for a while: what found no room is done again, and nothing is lost."""
        self.disk.space_bytes = space_bytes
        self.take_sync(True)
        if self.sync is not None:
            self._retry(lambda job=self.sync[0]: job.run())
            self.run_sync()
        self.disk.space_bytes = space_bytes
        while (job := self.there.next_job()) is not None:
            try:
                job.run()
            except OSError:
                self.there.abandon(job)
                self.disk.space_bytes = None
            else:
                self._retry(lambda job=job: self.there.finish(job))
        self.disk.space_bytes = None

    def _retry(self, act: Any) -> None:
        try:
            act()
        except DiskFull:
            self.disk.space_bytes = None
            act()

    # ---- ends ----

    @rule()
    def reopen(self) -> None:
        """Stop cleanly, and start again."""
        if self.sync is not None:
            self.run_sync()
        for job in self.jobs:
            self.there.abandon(job)
        self.there.close()
        self.mark = self.there.mark()
        self.end = max(self.end, self.there.durable_end)
        for history in self.histories.values():
            history.synced = len(history.states) - 1
        self._forget_the_process()
        self._open()

    @rule(mode=st.sampled_from(["keep", "drop", "random"]), seed=st.integers(0, 1 << 32), twice=st.booleans())
    def crash(self, mode: CrashMode, seed: int, twice: bool) -> None:
        """Let the process die (``keep``), or the machine."""
        rng = random.Random(seed)
        self.disk = self.disk.crash(rng, mode)
        self._forget_the_process()
        if mode == "keep":
            for history in self.histories.values():
                history.synced = history.written
        if twice:  # a crash in the middle of recovering
            self._interrupted_recovery(rng)
        self._open()

    def _interrupted_recovery(self, rng: random.Random) -> None:
        left = rng.randrange(8)

        def count(_operation: str, _path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Cut

        self.disk.on_operation = count
        with contextlib.suppress(_Cut):
            Engine.open(self.disk, DIRECTORY, self.config, newest, mark=self.mark, run=self.runs, owner=OWNER)
        self.disk.on_operation = None
        self.disk = self.disk.crash(rng, "keep")

    def _forget_the_process(self) -> None:
        self.jobs, self.sync, self.scan, self.engine = [], None, None, None

    def _open(self) -> None:
        """Recover, compare with what was safe, and take what is there for what is."""
        engine = Engine.open(self.disk, DIRECTORY, self.config, newest, mark=self.mark, run=self.runs, owner=OWNER)
        assert engine.doubt == ""
        assert engine.damaged == ()
        assert engine.recovered(self.end), "an honest directory is never taken for an old copy"
        assert engine.durable_end >= self.end
        self.end = engine.durable_end
        content = {key: found.record for key, found in engine.scan(b"", None)}
        assert content.keys() <= self.histories.keys(), "invented"
        for key, history in self.histories.items():
            assert content.get(key) in history.states[history.synced :], f"{key!r}: lost, back again, or invented"
        self.histories = {key: _History(content.get(key)) for key in KEYS}
        self.unsynced = []
        self.runs += 1
        self.mark = engine.begin_run(self.runs)
        self.engine = engine
