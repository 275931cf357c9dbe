"""The only doors to the world: clocks, files, other nodes, threads, metrics.

Everything between ``records`` and ``supervision`` reaches the outside through these protocols and through the seeded
``random.Random`` passed to it. ``actors`` opens the doors onto the real world (Ray, the operating system); ``sim``
opens the same doors onto a simulated one, where a seed decides every delay, crash and torn write. The core therefore has
no ``open()``, no ``time.time()``, no ``asyncio.sleep()``: with one such call a failing seed no longer replays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


class Clock(Protocol):
    """Time. The wall clock may jump and may be wrong; the monotonic clock never goes back."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 by this host's wall clock."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary fixed moment, for measuring durations."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds."""
        ...

    def timeout(self, delay_s: float) -> AbstractAsyncContextManager[object]:
        """Bound the block to ``delay_s`` seconds; past it the block is cancelled and ``TimeoutError`` raised."""
        ...


class Executor(Protocol):
    """Where long blocking work runs (fsync, flush, compaction), so that the event loop goes on answering."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` off the event loop; its exception is raised here. Several may run concurrently."""
        ...


class HelperLost(Exception):
    """The helper process has ended, or does not answer sense. It writes nothing any more."""


class Helper(Protocol):
    """A process that does a node's disk work, so that the node's own interpreter is free. It ends with the node."""

    def call(self, message: bytes) -> bytes:
        """Send a message and wait for the answer. Any thread; one call after the other. Raises ``HelperLost``."""
        ...

    def close(self) -> None:
        """End it. Idempotent."""
        ...


class Metrics(Protocol):
    """Counters of what the core does, for ``status()``, benchmarks and the simulation."""

    def count(self, name: str, amount: int = 1) -> None:
        """Add ``amount`` to the counter ``name``."""
        ...

    def counted(self) -> dict[str, int]:
        """Return all counters."""
        ...

    def histogram(self, name: str) -> list[float]:
        """Return the histogram ``name``, to count durations into (``records.durations``)."""
        ...

    def histograms(self) -> dict[str, list[int]]:
        """Return all histograms that are not empty, to be sent."""
        ...


class PeerFailure(Exception):
    """A call to a peer brought no answer. The peer may have carried it out."""


class PeerDead(PeerFailure):
    """The peer's process has ended: proof, not suspicion (P12). Nothing more comes from that incarnation."""


class PeerAbsent(PeerDead):
    """No process of that name is running: nothing was sent."""


class PeerUnreachable(PeerFailure):
    """The call or its answer could not be delivered; the peer is unavailable for now. It may have carried out the call."""


class PeerSilent(PeerFailure):
    """No answer arrived in time. The peer may be slow, frozen, cut off or dead."""


class Transport(Protocol):
    """Carries frames (bytes) between processes. A peer is named by its address, e.g. a node id."""

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """Send ``frame`` and return the answer frame. Raises ``PeerDead`` or ``PeerSilent``; never blocks longer."""
        ...


Heard: TypeAlias = "Callable[[bytes | PeerFailure], None]"
"""Receives a frame's outcome once: its answer, or why there is none. Never before the call that sent it returns."""


class Launched(NamedTuple):
    """A storage process that is running and answers."""

    incarnation: int
    pid: int


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine for storage nodes, with its resources."""

    name: str
    cpus: float = 1.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    zone: str = ""


class Known(NamedTuple):
    """The last known state of a node. A directory behind it is an old copy and is not trusted (P6)."""

    incarnation: int = 0
    directory_id: int = 0
    log_position: int = 0
    """How far the log in that directory was durable."""


class LaunchFailed(Exception):
    """A storage process could not be started. ``kind`` classifies the cause.

    "in use": another process holds the directory; "foreign": it belongs to another store or node; "unusable": it cannot
    be read or written; "damaged"; "no host": its host is missing; "too small": its host can never provide its resources;
    "slow": no answer in time; "undecided": whether it has ever run is unknown for now; "crashed".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Launcher(Protocol):
    """Starts and stops storage processes, and reports their end."""

    async def directories(
        self, *, everywhere: bool = False, preferred: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Find this store's data directories (those with an identity): node id -> the host of the directory.

        ``everywhere``: on every available host, not only on the supervisor's. Hosts that do not answer in time are
        left out. ``preferred``: node id -> the host to return if several have a directory of the node, and it ran there.
        """
        ...

    async def founded(self) -> bool:
        """Return whether this store was ever founded: if so, missing directories are a loss, not a first start."""
        ...

    async def note_founded(self) -> None:
        """Record, durably and outside the nodes' directories, that the store was founded.

        Raises ``StoreUnavailable``.
        """
        ...

    async def launch(
        self,
        node_id: str,
        host: str,
        *,
        fresh: Callable[[], Awaitable[bool]],
        take_over: bool,
        known: Known,
        timeout_s: float,
    ) -> Launched:
        """Start the node on its directory and wait until it answers. Raises ``LaunchFailed``.

        ``host``: the host of its directory, existing or new; empty: the supervisor's host.
        ``fresh``: returns whether an empty directory is complete because the node has never run. It is called when the
        process is created and no earlier: until its name is free, another process may have run the node.
        ``take_over``: end the process that holds the directory, if any (P6); the caller owns the store and has given
        up on that process. ``known``: the node's last known state.
        """
        ...

    async def hosts(self) -> list[Host]:
        """Return the available machines, sorted by name."""
        ...

    async def room(self, timeout_s: float) -> str:
        """Request a machine with room for one more node and return its name; empty if any available machine will do.

        Where machines are provisioned on demand, this brings one. Raises ``LaunchFailed`` ("no host") after the time-out.
        """
        ...

    async def running(self) -> list[str]:
        """Return this store's nodes that have a process, sorted, whether or not their directories can be found."""
        ...

    async def retire(self, node_id: str, host: str) -> None:
        """End the process of a node that is no longer a member and set its directory aside (P6), if it is reachable."""
        ...

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        """Return the node's process if one of this store is already running and answers; else None."""
        ...

    async def ended(self, node_id: str) -> str:
        """Wait for the end of the node's process (proof, P12) and return the cause."""
        ...


class AppendFile(Protocol):
    """A file open for appending. Bytes are safe only once ``sync`` has returned."""

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end. On ``OSError`` any prefix may have been written (as on a full disk)."""
        ...

    def sync(self) -> None:
        """Force the written bytes to stable storage (fdatasync; F_FULLFSYNC on macOS).

        After ``OSError`` it is unknown what is safe. Never retry: the kernel may have dropped the pages.
        """
        ...

    def close(self) -> None:
        """Close without syncing. Idempotent."""
        ...


class ReadFile(Protocol):
    """A file open for reading at offsets. Thread-safe."""

    def pread(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        ...

    def size(self) -> int:
        """Return the size in bytes."""
        ...

    def close(self) -> None:
        """Close. Idempotent."""
        ...


class Room(NamedTuple):
    """Free space for this process, and the size of the disk."""

    free_bytes: int
    total_bytes: int


class FileLock(Protocol):
    """An exclusive lock that the operating system releases when the process ends, however it ends."""

    def release(self) -> None:
        """Release the lock. Idempotent."""
        ...


class FileSystem(Protocol):
    """The disk. Paths are strings with ``/``. A new or renamed name is safe only after ``sync_directory``.

    Methods raise ``OSError`` (``FileNotFoundError``, ``FileExistsError``, ``PermissionError``, ENOSPC, EIO) like
    the operating system.
    """

    def create(self, path: str) -> AppendFile:
        """Create a new file; ``FileExistsError`` if it exists."""
        ...

    def open_read(self, path: str) -> ReadFile:
        """Open an existing file for reading."""
        ...

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """Return the whole file; ``OSError`` (EFBIG), before reading, if it is longer than ``max_bytes``."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomically rename, replacing ``target``."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, a new one, on the same disk.

        Raises ``OSError``: EXDEV on another disk, EPERM or EOPNOTSUPP where the file system has no such names.
        """
        ...

    def truncate(self, path: str, length: int) -> None:
        """Cut the file to ``length`` bytes and sync it."""
        ...

    def make_directories(self, path: str) -> None:
        """Create the directory and its parents (mode 0700 for new ones), synced; no error if it exists."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """Return the names in the directory, sorted."""
        ...

    def sync_directory(self, path: str) -> None:
        """Force created, renamed and removed names in this directory to stable storage."""
        ...

    def exists(self, path: str) -> bool:
        """Return whether a file or directory of that name exists."""
        ...

    def is_directory(self, path: str) -> bool:
        """Return whether the name is that of a directory: a symbolic link to one is none."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory and everything below it; no error if it does not exist."""
        ...

    def room(self, path: str) -> Room:
        """Return the free space on the disk that holds ``path``. Cheap, but a system call."""
        ...

    def lock(self, path: str, note: bytes = b"") -> FileLock:
        """Take the exclusive lock on ``path`` (created if missing) without waiting, and leave ``note`` in the file.

        Raises ``BlockingIOError`` if another process holds it.
        """
        ...
