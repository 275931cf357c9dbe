"""A simulated machine: its clock, its disk, the threads of its processes, and their faults.

The clock is off by ``skew_ms`` and runs ``drift`` times as fast. The disk is a ``SimDisk``: it outlives processes (written
data is there, synced or not) and forgets unsynced data at a power cut. Work given to the executor takes time, and takes
effect at one moment within it. ``crash_after`` kills the process that makes the n-th next operation on the disk, just
before it, wherever that may be: in the middle of a flush or a recovery, or between a rename and its directory's sync.

``two_writers`` records the forbidden case (P6): a run changes the disk while an earlier one is alive, perhaps frozen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, cast

from raykv.sim.disk import SimDisk
from raykv.sim.kernel import Process, ProcessEnded, current_process

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from raykv.ports import FileLock, FileSystem
    from raykv.sim.kernel import VirtualLoop
    from raykv.sim.trace import Trace

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000
"""Wall-clock time at the beginning of every run."""
_SYNC_S = (0.0001, 0.0008)


class SimClock:
    """``ports.Clock`` of one process on a host."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    def wall_ms(self) -> int:
        """See ``ports.Clock``."""
        return self._host.wall_ms()

    def monotonic_s(self) -> float:
        """See ``ports.Clock``."""
        return self._host.loop.now_s * self._host.drift

    async def sleep(self, delay_s: float) -> None:
        """See ``ports.Clock``."""
        self._process.check()
        await asyncio.sleep(delay_s / self._host.drift)
        self._process.check()

    def timeout(self, delay_s: float) -> AbstractAsyncContextManager[object]:
        """See ``ports.Clock``."""
        return asyncio.timeout(delay_s / self._host.drift)


class SimExecutor:
    """``ports.Executor`` of one process on a host. Work overlaps as in threads; each takes effect at one moment."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    async def run(self, work: Callable[[], T]) -> T:
        """See ``ports.Executor``."""
        for _ in range(2):
            self._process.check()
            await asyncio.sleep(self._host.rng.uniform(*_SYNC_S) + self._host.slow_disk_s)
        self._process.check()
        return work()


class ProcessDisk:
    """A host's disk as one process sees it: locks end with the process. Everything else is the disk's own."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    def __getattr__(self, name: str) -> Any:
        self._process.check()
        return getattr(self._host.disk, name)

    def lock(self, path: str, note: bytes = b"") -> FileLock:
        """See ``ports.FileSystem``."""
        self._process.check()
        lock = self._host.disk.lock(path, note)
        self._process.on_kill.append(lock.release)
        return lock


class Host:
    """See the module."""

    def __init__(self, name: str, loop: VirtualLoop, rng: random.Random, trace: Trace) -> None:
        self.name = name
        self.loop = loop
        self.rng = rng
        self.skew_ms = 0.0
        self.drift = 1.0
        self.up = True
        self.slow_disk_s = 0.0
        self.crash_after: int | None = None
        self.crash_in = ""
        """Only operations on paths that contain this count."""
        self.crash_of = ""
        """Only operations of this kind count; empty: of any."""
        self.on_crash: Callable[[], None] | None = None
        """Called at the crash: a power cut."""
        self.writer: Process | None = None
        """The process that last changed the disk."""
        self.two_writers: list[str] = []
        self._trace = trace
        self.disk = SimDisk()
        self._adopt(self.disk)

    def files(self, process: Process) -> FileSystem:
        """Return the disk for a process."""
        return cast("FileSystem", ProcessDisk(self, process))

    def wall_ms(self) -> int:
        """Return the host's wall-clock time."""
        return EPOCH_MS + int(self.loop.now_s * 1000 * self.drift + self.skew_ms)

    def replace_disk(self, disk: SimDisk) -> None:
        """Install another disk: an empty one, the remains of a power cut, or an old copy. No process may be running."""
        self.disk = disk
        self._adopt(disk)

    def _adopt(self, disk: SimDisk) -> None:
        disk.on_operation = self._before_operation

    def _before_operation(self, operation: str, path: str) -> None:
        process = current_process()
        if process is None:
            return
        process.check()
        if self.writer is not None and self.writer is not process and self.writer.alive:
            self.two_writers.append(f"{process.name}: {operation} on {path} while an earlier run is alive")
        self.writer = process
        if self.crash_after is not None and self.crash_in in path and self.crash_of in {"", operation}:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                self._trace.note(f"dies in front of {operation} {path}", process.name)
                process.kill()
                if self.on_crash is not None:
                    self.on_crash()
                raise ProcessEnded(process.name)
