"""A disk in memory that forgets what was not synced, fills up, fails and corrupts data.

``SimDisk`` is a ``FileSystem``. Beside the state that a running process sees, it keeps the *safe* state: each file's synced
length (files only grow at the end), each directory's names as of its last ``sync_directory``, and later changes to them.
``crash`` returns the disk that the next process finds:

* ``keep``: all written data, synced or not, as after a crash of the process alone.
* ``drop``: synced data only.
* ``random``: anything a real disk may do. A file keeps all of its unsynced end, nothing, a part, a part followed by zeros
  or noise, or all with a hole. Any subset of the unsynced changes of names survives, in order; a rename is atomic.

Faults: ``space_bytes`` left before ENOSPC (which shows first as a short write), ``fail`` (the n-th operation of a kind on
a path raises, or all from then on), ``flip_bit``. ``on_operation`` is called before every operation that changes the disk
or syncs it; a test that raises there crashes the process at that point. ``trace`` lists those operations.

Simplifications: directories are safe once made, and so is truncation, as the port promises. Locks end with the process.
Deterministic: the only randomness is the generator passed to ``crash``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from raykv.ports import Room

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

CrashMode: TypeAlias = Literal["keep", "drop", "random"]
Change: TypeAlias = "dict[str, Inode | None]"
"""The changes of names by one operation, as a unit: path to file, or to nothing."""

_PAGE_BYTES = 4096
ENDLESS_BYTES = 1 << 50
_READS = frozenset({"open_read", "pread", "list_directory"})


class Inode:
    """A file's bytes, whatever its names; the first ``synced`` of them are safe."""

    __slots__ = ("data", "synced")

    def __init__(self, data: bytes | bytearray = b"", synced: int = 0) -> None:
        self.data = bytearray(data)
        self.synced = synced


class AtRisk(NamedTuple):
    """What a power cut now may lose: ``changes`` of names, oldest first, and every file's unsynced bytes.

    ``safe_names``: the names that are safe in any case. Read-only.
    """

    directories: frozenset[str]
    safe_names: Mapping[str, Inode]
    changes: tuple[Change, ...]


class _Fault:
    def __init__(self, operation: str, part: str, after: int, error: int, lasting: bool) -> None:
        self.operation = operation
        self.part = part
        self.after = after
        self.error = error
        self.lasting = lasting


def _directory_of(path: str) -> str:
    return path.rpartition("/")[0]


class SimDisk:
    """One host's disk. All paths of a disk share one name space."""

    def __init__(self) -> None:
        self._names: dict[str, Inode] = {}
        self._safe_names: dict[str, Inode] = {}
        self._changes: list[Change] = []
        self._directories: set[str] = {"", "/", "."}
        self._locks: dict[str, SimLock] = {}
        self._faults: list[_Fault] = []
        self.space_bytes: int | None = None
        """Bytes that can still be appended, over all files; None: unlimited."""
        self.on_operation: Callable[[str, str], None] | None = None
        """Called with (operation, path) before append, create, link, rename, sync, sync_directory, truncate, unlink."""
        self.trace: list[tuple[str, str]] = []

    @classmethod
    def holding(cls, files: Mapping[str, bytes], directories: Iterable[str]) -> SimDisk:
        """Return a disk with these files (path to content) in these directories, all of it safe."""
        disk = cls()
        disk._directories.update(directories)
        disk._names = {path: Inode(data, len(data)) for path, data in files.items()}
        disk._safe_names = dict(disk._names)
        return disk

    # ---- the port ----------------------------------------------------------------------------------------------

    def create(self, path: str) -> SimAppendFile:
        """Create a new file."""
        self.operation("create", path)
        self._check_directory(path)
        if path in self._names or path in self._directories:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        inode = Inode()
        self._change({path: inode})
        return SimAppendFile(self, path, inode)

    def open_read(self, path: str) -> SimReadFile:
        """Open a file for reading."""
        self.operation("open_read", path)
        return SimReadFile(self, path, self._inode(path))

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """Return the file's content."""
        file = self.open_read(path)
        if file.size() > max_bytes:
            raise OSError(errno.EFBIG, f"{file.size()} bytes; at most {max_bytes} are read", path)
        return file.pread(0, file.size())

    def rename(self, source: str, target: str) -> None:
        """Rename; not across directories."""
        self.operation("rename", target)
        assert _directory_of(source) == _directory_of(target), "a rename across directories is not simulated"
        self._give_back(len(self._names[target].data) if target in self._names and target != source else 0)
        self._change({source: None, target: self._inode(source)})

    def unlink(self, path: str) -> None:
        """Remove a file; processes that have it open continue to read it."""
        self.operation("unlink", path)
        inode = self._inode(path)
        self._change({path: None})
        if self.space_bytes is not None and inode not in self._names.values():  # else another name keeps it
            self._give_back(len(inode.data))

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        self.operation("link", target)
        self._check_directory(target)
        inode = self._inode(source)
        if target in self._names or target in self._directories:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self._change({target: inode})

    def truncate(self, path: str, length: int) -> None:
        """Truncate the file (or extend it with zeros) and sync it."""
        self.operation("truncate", path)
        inode = self._inode(path)
        self._give_back(max(0, len(inode.data) - length))
        del inode.data[length:]
        inode.data += bytes(length - len(inode.data))
        inode.synced = length

    def room(self, path: str) -> Room:
        """Return the space that is left."""
        del path
        return Room(ENDLESS_BYTES if self.space_bytes is None else self.space_bytes, ENDLESS_BYTES)

    def _give_back(self, size_bytes: int) -> None:
        if self.space_bytes is not None:
            self.space_bytes += size_bytes

    def make_directories(self, path: str) -> None:
        """Make the directory and its parents, safe at once."""
        at = path
        while at and at not in self._directories:
            if at in self._names:
                raise FileExistsError(errno.EEXIST, "File exists", at)
            self._directories.add(at)
            at = _directory_of(at)

    def list_directory(self, path: str) -> list[str]:
        """Names in the directory, sorted."""
        self.operation("list_directory", path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        below = len(path) + 1
        within = [entry[below:] for entry in (*self._names, *self._directories) if entry.startswith(path + "/")]
        return sorted(name for name in within if name and "/" not in name)

    def sync_directory(self, path: str) -> None:
        """Make the changes to names in the directory safe."""
        self.operation("sync_directory", path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        waiting = []
        for change in self._changes:
            if _directory_of(next(iter(change))) == path:
                _apply(self._safe_names, change)
            else:
                waiting.append(change)
        self._changes = waiting

    def exists(self, path: str) -> bool:
        """Return whether there is a file or directory of that name."""
        return path in self._names or path in self._directories

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory of that name."""
        return path in self._directories

    def remove_tree(self, path: str) -> None:
        """Remove a directory and everything below it, safe at once."""
        for names in (self._names, self._safe_names):
            for name in [name for name in names if name.startswith(path + "/")]:
                del names[name]
        self._changes = [change for change in self._changes if not next(iter(change)).startswith(path + "/")]
        self._directories = {name for name in self._directories if name != path and not name.startswith(path + "/")}

    def lock(self, path: str, note: bytes = b"") -> SimLock:
        """Take the lock on ``path``."""
        if path in self._locks:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", path)
        self._check_directory(path)
        inode = self._names.get(path)
        if inode is None:
            inode = Inode()
            self._change({path: inode})
        inode.data[:] = note
        lock = SimLock(self._locks, path)
        self._locks[path] = lock
        return lock

    # ---- the faults ----------------------------------------------------------------------------------------------

    def crash(self, rng: random.Random, mode: CrashMode = "random") -> SimDisk:
        """Return the disk after a crash now. This one does not change: writes of surviving code to it are lost."""
        if mode == "keep":
            return self._after_the_death_of_the_process()
        disk = SimDisk()
        disk._directories = set(self._directories)
        names = dict(self._safe_names)
        if mode == "random":
            for change in self._changes:
                if rng.random() < 0.5:
                    _apply(names, change)
        copies: dict[int, Inode] = {}
        for path, inode in sorted(names.items()):
            if id(inode) not in copies:
                data = _after_crash(inode, rng, mode)
                copies[id(inode)] = Inode(data, len(data))
            disk._names[path] = copies[id(inode)]
        disk._safe_names = dict(disk._names)
        return disk

    def at_risk(self) -> AtRisk:
        """Return what a power cut now would leave, and what it may lose. Copies no file; O(names)."""
        return AtRisk(frozenset(self._directories), self._safe_names, tuple(self._changes))

    def fail(
        self, operation: str, part: str = "", *, after: int = 0, error: int = errno.EIO, lasting: bool = False
    ) -> None:
        """Let one ``operation`` (also a read) on a path containing ``part`` fail, after ``after`` that succeed.

        The operations that read are ``open_read``, ``pread`` and ``list_directory``. ``lasting``: all further ones too.
        """
        self._faults.append(_Fault(operation, part, after, error, lasting))

    def stop_failing(self) -> None:
        """Forget the faults that have not struck, and give the disk unlimited space."""
        self._faults.clear()
        self.space_bytes = None

    def files(self) -> list[str]:
        """Return the paths of all files, sorted."""
        return sorted(self._names)

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Corrupt the file: flip one bit, synced or not."""
        self._inode(path).data[offset] ^= 1 << bit

    def size(self, path: str) -> int:
        """Length of a file."""
        return len(self._inode(path).data)

    def synced_size(self, path: str) -> int:
        """Length of the safe part of a file."""
        return self._inode(path).synced

    def operation(self, operation: str, path: str) -> None:
        """Notify the test, then fail if a fault applies. For the files of this disk."""
        if operation not in _READS:
            if self.on_operation is not None:
                self.on_operation(operation, path)
            self.trace.append((operation, path))
        for fault in self._faults:
            if fault.operation == operation and fault.part in path:
                fault.after -= 1
                if fault.after < 0:
                    if not fault.lasting:
                        self._faults.remove(fault)
                    raise OSError(fault.error, "injected", path)

    def _after_the_death_of_the_process(self) -> SimDisk:
        """Return a copy: unsynced data may still be lost when the host dies next."""
        renamed = [inode for change in self._changes for inode in change.values() if inode is not None]
        inodes = {*self._names.values(), *self._safe_names.values(), *renamed}
        copies = {inode: Inode(inode.data, inode.synced) for inode in inodes}
        disk = SimDisk()
        disk._directories = set(self._directories)
        disk._names = {path: copies[inode] for path, inode in self._names.items()}
        disk._safe_names = {path: copies[inode] for path, inode in self._safe_names.items()}
        disk._changes = [
            {path: None if inode is None else copies[inode] for path, inode in change.items()}
            for change in self._changes
        ]
        return disk

    def _inode(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return inode

    def _check_directory(self, path: str) -> None:
        if _directory_of(path) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def _change(self, change: Change) -> None:
        _apply(self._names, change)
        self._changes.append(change)


def _apply(names: dict[str, Inode], change: Change) -> None:
    for path, inode in change.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _after_crash(inode: Inode, rng: random.Random, mode: CrashMode) -> bytes:
    data = bytes(inode.data)
    safe, unsafe = data[: inode.synced], data[inode.synced :]
    if not unsafe:
        return data
    if mode == "drop":
        return safe
    fate = rng.choice(("all", "nothing", "part", "zeros", "noise", "hole"))
    cut = rng.randrange(len(unsafe))
    if fate == "all":
        return data
    if fate == "nothing":
        return safe
    if fate == "part":
        return safe + unsafe[:cut]
    if fate == "zeros":
        return safe + unsafe[:cut] + bytes(len(unsafe) - cut)
    if fate == "noise":
        return safe + unsafe[:cut] + rng.randbytes(len(unsafe) - cut)
    hole = min(rng.choice((1, 16, 512, _PAGE_BYTES)), len(unsafe) - cut)
    return safe + unsafe[:cut] + bytes(hole) + unsafe[cut + hole :]


class SimAppendFile:
    """A file of a ``SimDisk`` open for appending."""

    def __init__(self, disk: SimDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._open = True

    def append(self, data: bytes) -> None:
        """Append, as far as there is space."""
        self._check()
        self._disk.operation("append", self._path)
        space = self._disk.space_bytes
        if space is not None:
            if len(data) > space:
                self._inode.data += data[:space]
                self._disk.space_bytes = 0
                raise OSError(errno.ENOSPC, "No space left on device", self._path)
            self._disk.space_bytes = space - len(data)
        self._inode.data += data

    def sync(self) -> None:
        """Sync the file. After a failure, its unsynced bytes stay unsafe for ever, whatever is synced later."""
        self._check()
        self._disk.operation("sync", self._path)
        self._inode.synced = len(self._inode.data)

    def close(self) -> None:
        """Close."""
        self._open = False

    def _check(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "Bad file descriptor", self._path)


class SimReadFile:
    """A file of a ``SimDisk`` open for reading."""

    def __init__(self, disk: SimDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._open = True

    def pread(self, offset: int, length: int) -> bytes:
        """Read at an offset."""
        if not self._open:
            raise OSError(errno.EBADF, "Bad file descriptor", self._path)
        self._disk.operation("pread", self._path)
        return bytes(self._inode.data[offset : offset + length])

    def size(self) -> int:
        """Size in bytes."""
        return len(self._inode.data)

    def close(self) -> None:
        """Close."""
        self._open = False


class SimLock:
    """A lock held on a path of a ``SimDisk``."""

    def __init__(self, held: dict[str, SimLock], path: str) -> None:
        self._held = held
        self._path = path

    def release(self) -> None:
        """Release it."""
        if self._held.get(self._path) is self:
            del self._held[self._path]
