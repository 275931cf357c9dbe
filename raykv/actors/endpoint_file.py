"""Where a store's coordinators listen for commands on this host: files of one user, for that user's own processes.

A file has the address and the secret of one run of a coordinator (``command_port``), and lets a command reach it without
Ray. It stands at ``<the user's cache directory>/raykv/endpoints/<id of the Ray cluster>/<store>@<actor>``.

**Invariants.**

1. A file is believed only if it and the two directories above it belong to this user, who alone may read and write them;
   no symbolic link is followed. It is small, and decoded by its type.
2. A file is a hint. The process behind it may have ended: then nobody listens there, since the address is drawn at random
   for each run, and nobody else knows the secret. The reader asks Ray instead.
3. Whatever goes wrong here costs time, never an answer: readers raise nothing.

A coordinator that is ended cannot remove its file. ``raykv.shutdown`` removes those of its store on its own host; those
of processes that were killed go when the next coordinator of this user starts.

**Left out.** Commands on hosts without a coordinator, and commands of other users: they ask Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
from typing import TYPE_CHECKING, Annotated

import msgspec

from raykv.config import check_store_name
from raykv.errors import InvalidOption
from raykv.system.directories import cache_directory
from raykv.transport.sockets import Endpoint, open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1024
MAX_ENTRIES = 1024
"""The entries of a directory that are looked at."""
KNOCK_S = 1.0
ATTEMPTS = 3
"""At writing a file."""
_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_OTHERS = 0o077
_CLUSTER = re.compile(r"[0-9a-f]{8,128}")
_NAME = re.compile(r"(?P<store>[A-Za-z0-9_.-]{1,64})@(?P<actor>[a-z0-9-]{1,64})")
_BEING_WRITTEN = ".new-"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EndpointFile(msgspec.Struct, frozen=True, array_like=True, tag="raykv endpoint 1"):
    """The content of a file."""

    cluster: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,128}\Z")]
    store: Annotated[str, msgspec.Meta(max_length=64)]
    machine: Annotated[str, msgspec.Meta(max_length=255)]
    """Where it was written: home directories may be shared."""
    host: Annotated[str, msgspec.Meta(pattern=r"^(@raykv-[0-9a-f]{16}|127\.0\.0\.1)\Z")]
    """A local socket, or the loopback."""
    port: Annotated[int, msgspec.Meta(ge=0, lt=65536)]
    secret: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(self.host, self.port, self.secret)


def directory() -> str:
    """Return the directory of all clusters of this user. Raises ``FileNotFoundError`` if the user has no home directory."""
    return os.path.join(cache_directory(), "endpoints")


def found(cluster: str, store: str | None) -> list[EndpointFile]:
    """Return the files of a store's coordinators on this host that are to be believed; None: those of all stores."""
    files = []
    with _opened(cluster) as opened:
        for name in _names(opened, store):
            file = _read(opened, name)
            if file is not None and file.cluster == cluster and name.startswith(f"{file.store}@") and _is_here(file):
                files.append(file)
    return files


def write(cluster: str, store: str, actor: str, endpoint: Endpoint) -> None:
    """Write this process's file, unless it stands there already. Raises ``OSError``."""
    file = EndpointFile(cluster, check_store_name(store), socket.gethostname()[:255], *endpoint)
    name = f"{store}@{actor}"
    assert _CLUSTER.fullmatch(cluster), cluster
    assert _NAME.fullmatch(name), name
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _write(cluster, name, file)
        except OSError:  # perhaps another coordinator, which has just started, sweeps
            if attempt == ATTEMPTS:
                raise
        else:
            return


def _write(cluster: str, name: str, file: EndpointFile) -> None:
    os.makedirs(os.path.dirname(directory()), mode=_DIRECTORY_MODE, exist_ok=True)
    for path in (directory(), os.path.join(directory(), cluster)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _DIRECTORY_MODE)
    with _opened(cluster) as opened:
        if opened is None:
            raise PermissionError(f"{directory()} is not a directory of this user alone")
        if _read(opened, name) != file:
            _replace(opened, name, msgspec.msgpack.encode(file))


def remove(cluster: str, store: str) -> None:
    """Remove the files of a store that was stopped, on this host."""
    with _opened(cluster) as opened:
        for name in _names(opened, store):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=opened)
    with contextlib.suppress(OSError):  # it holds others
        os.rmdir(os.path.join(directory(), cluster))


def sweep() -> None:
    """Remove the files of this host's processes that have ended, of whatever cluster, and what was never completed."""
    try:
        clusters = os.listdir(directory())[:MAX_ENTRIES]
    except OSError:
        return
    for cluster in clusters:
        with _opened(cluster) as opened:
            for name in _entries(opened):
                if name.startswith(_BEING_WRITTEN):  # if it is being written now, that is attempted again
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=opened)
            for name in _names(opened):
                file = _read(opened, name)
                if file is None or not _is_here(file) or not _is_nobody_there(file.endpoint):
                    continue
                if _read(opened, name) == file:  # the next run of its coordinator may have written its own meanwhile
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=opened)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(directory(), cluster))


@contextlib.contextmanager
def _opened(cluster: str) -> Iterator[int | None]:
    """Open a cluster's directory; None if it is not there, or not this user's alone."""
    with contextlib.ExitStack() as stack:
        opened: int | None = None
        try:
            if _CLUSTER.fullmatch(cluster):
                above = os.open(directory(), _OPEN_DIRECTORY)
                stack.callback(os.close, above)
                here = os.open(cluster, _OPEN_DIRECTORY, dir_fd=above)
                stack.callback(os.close, here)
                opened = here if _is_own(os.fstat(above)) and _is_own(os.fstat(here)) else None
        except OSError:
            opened = None
        yield opened


def _names(opened: int | None, store: str | None = None) -> list[str]:
    """Return the names of the files in a directory, or of those of one store."""
    names = [match for match in map(_NAME.fullmatch, _entries(opened)) if match is not None]
    return sorted(match.string for match in names if store in {None, match["store"]})


def _entries(opened: int | None) -> list[str]:
    try:
        return os.listdir(opened)[:MAX_ENTRIES] if opened is not None else []
    except OSError:
        return []


def _read(opened: int | None, name: str) -> EndpointFile | None:
    """Return a file's content; None if it is not to be believed."""
    assert _NAME.fullmatch(name)
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
        try:
            of = os.fstat(file)
            if not (stat.S_ISREG(of.st_mode) and _is_own(of) and of.st_nlink == 1 and of.st_size <= MAX_BYTES):
                return None
            data = os.read(file, MAX_BYTES)
        finally:
            os.close(file)
        decoded = msgspec.msgpack.decode(data, type=EndpointFile)
        check_store_name(decoded.store)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, InvalidOption):
        return None
    return decoded


def _replace(opened: int | None, name: str, data: bytes) -> None:
    """Write a file as a whole. Raises ``OSError``."""
    new = f"{_BEING_WRITTEN}{secrets.token_hex(8)}"
    made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE, dir_fd=opened)
    try:
        with open(made, "wb") as file:
            file.write(data)
        os.rename(new, name, src_dir_fd=opened, dst_dir_fd=opened)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=opened)
        raise


def _is_own(of: os.stat_result) -> bool:
    return of.st_uid == os.geteuid() and not of.st_mode & _OTHERS


def _is_here(file: EndpointFile) -> bool:
    return file.machine == socket.gethostname()[:255]


def _is_nobody_there(endpoint: Endpoint) -> bool:
    try:
        open_socket(endpoint, KNOCK_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
