"""The only doors to the world: clocks, files, other nodes, threads, metrics.

Everything between ``records`` and ``supervision`` reaches the outside through these protocols and through a seeded
``random.Random`` that it is given. ``actors`` opens the doors onto the real world (Ray, the operating system); ``sim``
opens the same doors onto a simulated one, where a seed decides every delay, crash and torn write. That is why the core
has no ``open()``, no ``time.time()``, no ``asyncio.sleep()``: one forgotten call, and a failing seed no longer replays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


class Clock(Protocol):
    """Time. The wall clock may jump and may be wrong; the monotonic one never goes back."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by this host's wall clock."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; for measuring durations."""
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
        """Run ``work`` off the event loop; its exception is raised here. Works may run at the same time."""
        ...


class Metrics(Protocol):
    """Where the core says what it did: counters for ``status()``, bench and simulation."""

    def count(self, name: str, amount: int = 1) -> None:
        """Add ``amount`` to the counter ``name``."""
        ...

    def counted(self) -> dict[str, int]:
        """Return all counters."""
        ...


class PeerFailure(Exception):
    """A call to a peer brought no answer. It may have been carried out all the same."""


class PeerDead(PeerFailure):
    """The peer's process has ended: proof, not suspicion (P12). Nothing more will come from that run of it."""


class PeerAbsent(PeerDead):
    """No process of that name runs: nothing was sent."""


class PeerUnreachable(PeerFailure):
    """The call could not be delivered, or its answer could not: the peer is away for now. It may have been carried out."""


class PeerSilent(PeerFailure):
    """No answer within the time. The peer may be slow, frozen, cut off or dead."""


class Transport(Protocol):
    """Carries frames (bytes) between processes. A peer is named by its address, e.g. a node id."""

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """Send ``frame``, return the answer frame. Raises ``PeerDead`` or ``PeerSilent``; never hangs longer."""
        ...


class Launched(NamedTuple):
    """A storage process that runs and answers."""

    incarnation: int
    pid: int


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that storage nodes can run on, with what it has to give."""

    name: str
    cpus: float = 1.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    zone: str = ""


class Known(NamedTuple):
    """What was last seen of a node. A directory that falls short of it was copied back, and is not believed (P6)."""

    incarnation: int = 0
    directory_id: int = 0
    log_position: int = 0
    """How far the log in that directory was durable."""


class LaunchFailed(Exception):
    """A storage process could not be started. ``kind`` says whose turn it is.

    "in use": another process holds the directory; "foreign": it belongs to another store or node; "unusable": it cannot
    be written or read; "damaged"; "no host": its host is not there; "too small": its host never has what it asks for;
    "slow": no answer in time; "undecided": whether it has ever run cannot be told now; "crashed".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Launcher(Protocol):
    """Starts and ends storage processes, and notices their end."""

    async def directories(self, *, everywhere: bool = False) -> dict[str, str]:
        """Find the data directories of this store (those that say whose they are): node id -> the host that it is on.

        ``everywhere``: not only where the supervisor runs, but on every host that is there. Those that do not answer in
        time are left out.
        """
        ...

    async def founded(self) -> bool:
        """Whether this store was founded once: then missing directories are a loss, not a first start."""
        ...

    async def note_founded(self) -> None:
        """Remember, durably and outside of the nodes' directories, that the store was founded.

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
        """Start the node on its directory, and wait until it answers. Raises ``LaunchFailed``.

        ``host``: where its directory is, or is to be; empty: where the supervisor runs.
        ``fresh``: says whether an empty directory lacks nothing, for the node has never run. Asked when the process is
        created and no earlier: until its name was free somebody else may have run it. ``take_over``: end the process that
        holds the directory, if one does (P6); the caller owns the store and has given that process up.
        ``known``: what was last seen of the node.
        """
        ...

    async def hosts(self) -> list[Host]:
        """Return the machines that are there now, sorted by name."""
        ...

    async def room(self, timeout_s: float) -> str:
        """Ask for a machine with room for one more node, and return its name; empty if any that is there will do.

        Where machines come by demand this brings one. Raises ``LaunchFailed`` ("no host") if none has come in time.
        """
        ...

    async def retire(self, node_id: str, host: str) -> None:
        """End the process of a node that is no member any more, and set its directory aside (P6), if it can be reached."""
        ...

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        """Return the node's process if one of this store runs already and answers; None if not."""
        ...

    async def ended(self, node_id: str) -> str:
        """Wait until the node's process has ended (proof, P12), and return the cause."""
        ...


class AppendFile(Protocol):
    """A file open for appending. Bytes are safe only after ``sync`` returned."""

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end. ``OSError`` may leave any prefix of it written (a full disk does)."""
        ...

    def sync(self) -> None:
        """Force the written bytes to stable storage (fdatasync; F_FULLFSYNC on macOS).

        ``OSError`` means that nobody knows what is safe: never retry, the kernel may have dropped the pages.
        """
        ...

    def close(self) -> None:
        """Close without syncing. Idempotent."""
        ...


class ReadFile(Protocol):
    """A file open for reading at offsets. May be used from several threads."""

    def pread(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        ...

    def size(self) -> int:
        """Size in bytes."""
        ...

    def close(self) -> None:
        """Close. Idempotent."""
        ...


class Room(NamedTuple):
    """What a disk has left for us, and how large it is."""

    free_bytes: int
    total_bytes: int


class FileLock(Protocol):
    """An exclusive lock that the operating system gives up when the process ends, however it ends."""

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        ...


class FileSystem(Protocol):
    """The disk. Paths are strings with ``/``. A new or renamed name is safe only after ``sync_directory``.

    Methods raise ``OSError`` (``FileNotFoundError``, ``FileExistsError``, ``PermissionError``, ENOSPC, EIO) as the
    operating system does.
    """

    def create(self, path: str) -> AppendFile:
        """Create a new file; ``FileExistsError`` if there is one."""
        ...

    def open_read(self, path: str) -> ReadFile:
        """Open an existing file for reading."""
        ...

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """Return the whole file; ``OSError`` (EFBIG) if it is longer than ``max_bytes``, before reading it."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomically rename, replacing ``target``."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file."""
        ...

    def truncate(self, path: str, length: int) -> None:
        """Cut the file to ``length`` bytes and sync it."""
        ...

    def make_directories(self, path: str) -> None:
        """Create the directory and its parents (mode 0700 for new ones), synced; fine if it exists."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """Names in the directory, sorted."""
        ...

    def sync_directory(self, path: str) -> None:
        """Force created, renamed and removed names in this directory to stable storage."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of that name."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it; fine if there is none."""
        ...

    def room(self, path: str) -> Room:
        """Return what is left on the disk that the path is on. Cheap, but a call to the operating system."""
        ...

    def lock(self, path: str, note: bytes = b"") -> FileLock:
        """Take the exclusive lock on ``path`` (created if missing) at once, and leave ``note`` in the file.

        ``BlockingIOError`` if another process holds it.
        """
        ...
