"""The operating system's files behind the ``FileSystem`` port.

What each promise of the port costs here:

* *append*: ``write(2)`` until all is written. A full disk shows as a short write and then as ENOSPC, so the file may
  end with a part of the data; the caller's checksums detect that.
* *sync*: ``fdatasync``, which on Linux covers the file's length too. On macOS only F_FULLFSYNC reaches past the drive's
  cache; where a file system does not know it, ``fsync``.
* *names*: a directory is synced by ``fsync`` on a descriptor of it.
* *lock*: ``flock``. It belongs to the open file, so it ends with the process however that ends, and does not vanish when
  some other part of the process opens and closes the same path (``fcntl`` locks do). A forked child would share it;
  children let go of it at once, and every descriptor is close-on-exec.

Files are made 0600, directories 0700: a store's content is its owner's business. A file is opened under its own name only:
a symbolic link in its place is not followed, and anything but a regular file (a pipe would block) is refused. A lock file
is written to, and must therefore belong to its directory's owner and have no second name. Windows has none of these; raykv
refuses to start there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
import weakref
from typing import TYPE_CHECKING

from raykv.ports import Room

if TYPE_CHECKING:
    from raykv.ports import AppendFile, FileLock, ReadFile

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_READ_BYTES = 1 << 20
_LOCK_ATTEMPTS = 10


def _open(path: str, flags: int) -> int:
    """Open a regular file under exactly this name. Raises ``OSError``."""
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _FILE_MODE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # the latter on FreeBSD's kin
            raise OSError(error.errno, "a symbolic link, which is not followed", path) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def _sync(fd: int) -> None:
    """Force what was written to ``fd`` to stable storage."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)
    else:
        os.fdatasync(fd)


class OsAppendFile:
    """A file being appended to."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)

    def append(self, data: bytes) -> None:
        """Write all of ``data``, however many calls that takes."""
        written = os.write(self._fd, data)
        if written == len(data):
            return
        rest = memoryview(data)[written:]
        while rest:
            written = os.write(self._fd, rest)
            if written == 0:
                raise OSError(errno.EIO, "a write wrote nothing", self._path)
            rest = rest[written:]

    def sync(self) -> None:
        """Force it to the disk."""
        _sync(self._fd)

    def close(self) -> None:
        """Close without syncing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsReadFile:
    """A file being read at offsets, by any number of threads."""

    def __init__(self, path: str) -> None:
        self._fd = _open(path, os.O_RDONLY)

    def pread(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes; fewer only at the end of the file (a signal or a network disk may cut a read short)."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(self._fd, length - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def size(self) -> int:
        """Size in bytes."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsFileLock:
    """A ``flock`` held on a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Give it back. The file stays: unlinking it would let two processes hold locks on two files of one name."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_held: weakref.WeakSet[OsFileLock] = weakref.WeakSet()


def lock_descriptors() -> list[int]:
    """Return the descriptors of the locks that this process holds, for a process that is to hold them with it."""
    return sorted(lock._fd for lock in list(_held) if lock._fd >= 0)  # noqa: SLF001 - of this module


def _let_go_in_child() -> None:
    """Drop the parent's locks in a forked child: else they would outlive the parent."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


class OsFileSystem:
    """The real disk."""

    def create(self, path: str) -> AppendFile:
        """Create a new file for appending."""
        return OsAppendFile(path)

    def open_read(self, path: str) -> ReadFile:
        """Open a file for reading."""
        return OsReadFile(path)

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """Return the whole file, unless it is longer than ``max_bytes``."""
        file = OsReadFile(path)
        try:
            size = file.size()
            if size > max_bytes:
                raise OSError(errno.EFBIG, f"{size} bytes; at most {max_bytes} are read", path)
            return file.pread(0, size)
        finally:
            file.close()

    def rename(self, source: str, target: str) -> None:
        """Rename atomically, over ``target``."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def link(self, source: str, target: str) -> None:
        """Make a hard link; a symbolic link is not followed."""
        os.link(source, target, follow_symlinks=False)

    def truncate(self, path: str, length: int) -> None:
        """Cut the file and sync it, its data as well."""
        fd = _open(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, length)
            _sync(fd)
        finally:
            os.close(fd)

    def make_directories(self, path: str) -> None:
        """Make the directory and what it lies in; each new name is synced."""
        missing = []
        at = os.path.abspath(path)
        while not os.path.isdir(at):
            missing.append(at)
            at = os.path.dirname(at)
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process has just created it
                os.mkdir(directory, _DIRECTORY_MODE)
            self.sync_directory(os.path.dirname(directory))

    def list_directory(self, path: str) -> list[str]:
        """Names, sorted."""
        return sorted(os.listdir(path))

    def sync_directory(self, path: str) -> None:
        """Force the directory's names to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Whether the path names anything, be it a link that leads nowhere."""
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        """Whether the name itself is a directory's."""
        try:
            return stat.S_ISDIR(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def room(self, path: str) -> Room:
        """Return the space left on the disk for users other than root."""
        disk = os.statvfs(path)
        return Room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below; symbolic links are removed, not followed. Others may remove it at once."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path, onerror=_unless_gone)
            else:
                os.unlink(path)

    def lock(self, path: str, note: bytes = b"") -> FileLock:
        """Take the lock at once, or raise ``BlockingIOError``."""
        for _ in range(_LOCK_ATTEMPTS):
            fd = _open(path, os.O_RDWR | os.O_CREAT)
            try:
                _check_owner(fd, path)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # It may have been removed between open and flock: a lock on nothing.
                if _still_named(fd, path) and not _freed_of_other_names(fd, path):
                    _write_note(fd, note)
                    return OsFileLock(fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise BlockingIOError(errno.EAGAIN, "the lock file keeps being replaced", path)


def _unless_gone(_function: object, _path: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
    """Raise what ``rmtree`` met, unless somebody else has removed that name meanwhile."""
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def _check_owner(fd: int, path: str) -> None:
    """Raise ``PermissionError`` for a file that another user has put into the directory.

    The owner may also match the directory's: some file systems assign everything to one user.
    """
    owner = os.fstat(fd).st_uid
    if owner not in (os.geteuid(), 0) and owner != os.stat(os.path.dirname(path) or ".").st_uid:
        raise PermissionError(errno.EPERM, f"belongs to user {owner}, not to this process's", path)


def _still_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _freed_of_other_names(fd: int, path: str) -> bool:
    """Unlink a locked file that has a second name, and return whether it had: writes would reach the other name, too."""
    if os.fstat(fd).st_nlink < 2:
        return False
    os.unlink(path)
    return True


def _write_note(fd: int, note: bytes) -> None:
    """Write the note for processes that find the lock taken; a full disk leaves none."""
    os.ftruncate(fd, 0)
    try:
        os.pwrite(fd, note, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
