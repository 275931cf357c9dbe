"""Deletion of a store's data: what raykv created at its path, and nothing else.

A store may share its directory with other data, which must survive. Only the marker and this store's node directories are
deleted; the path itself goes if that leaves it empty. A symbolic link is unlinked, not followed, except for the path
itself. A mount inside a node's directory is somebody else's and stops the deletion before it begins; a running node stops
it too, even one in another Ray cluster: all locks are taken first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from raykv.actors.marker import MARKER, read_marker
from raykv.actors.naming import default_path, lock_of, node_directory
from raykv.actors.ownership import check_store_directory
from raykv.actors.path_lock import PathLock
from raykv.errors import CorruptData, InvalidOption, StoreNotFound, StoreUnavailable
from raykv.storage import LOCK_NAME, read_identity
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from raykv.actors.marker import Marker
    from raykv.ports import FileLock

logger = logging.getLogger("raykv")

RESTORING = "restoring"
"""The name of the file that notes a restore that was begun (``raykv.actors.backups``)."""
ADOPTING = "adopting"
"""The name of the file that notes an adoption that was begun (``raykv.actors.adoption``)."""
LOCK_WAIT_S = 10.0
"""Grace period for processes that were just ended."""


def delete(name: str, path: str | None, held: PathLock | None = None, *, store_id: str = "") -> str:
    """Delete a stopped store's data on this host. Returns the path.

    ``held``: the path's lock, if the caller has it. ``store_id``: of the store that is meant, if known: hosts may have
    different ones of a name. Raises ``StoreNotFound`` if no such store is there; ``InvalidOption`` if the path is not
    trustworthy, contains mounts, or is being restored; ``StoreUnavailable`` if one of its nodes runs, or part of it cannot
    be deleted; ``CorruptData``.
    """
    where = os.path.abspath(os.path.expanduser(path)) if path is not None else default_path(name)
    fs = OsFileSystem()
    marker_of(fs, where, name, store_id)
    try:
        with contextlib.ExitStack() as stack:
            lock = held
            if lock is None:
                lock = PathLock(fs, where, LOCK_WAIT_S)
                stack.callback(lock.release)
            marker = marker_of(fs, where, name, store_id)  # another process may have deleted it, or restored another
            ours = _nodes_of(fs, where, marker.store_id)
            for node in ours:
                _refuse_mounts(node_directory(where, node))
                stack.callback(_lock(fs, lock_of(where, node)).release)
            for node in ours:
                _remove(fs, node_directory(where, node))
            _remove_empty(f"{where}/nodes", where)
            for drafted in fs.list_directory(where):
                draft = drafted.startswith(f"{MARKER}.") and drafted[len(MARKER) + 1 :].isdigit()
                if draft or drafted in (MARKER, RESTORING, ADOPTING):
                    fs.remove_tree(f"{where}/{drafted}")
            lock.remove()
            _remove_empty(os.path.realpath(where), where)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise StoreUnavailable(f"{where} was deleted only in part: {what}; try again") from None
    if fs.exists(where):
        logger.warning(
            "raykv deleted the data of store %s; the directory %s stays, because it holds other files", name, where
        )
    return where


def marker_of(fs: OsFileSystem, where: str, name: str, store_id: str = "") -> Marker:
    """Return the marker of the store of that name, and id if that is given. Raises as ``delete``."""
    if not fs.exists(os.path.join(where, MARKER)):
        raise StoreNotFound(f"nothing was deleted: no data of a store is at {where}")
    check_store_directory(where)
    try:
        marker = read_marker(fs, where)
    except OSError as error:
        raise InvalidOption(f"{where}/{MARKER} cannot be read: {error.strerror or error}", path=where) from None
    if marker.store.name != name:
        raise StoreNotFound(f"nothing was deleted: {where} holds store {marker.store.name!r}, not {name!r}")
    if store_id not in {"", marker.store_id}:
        raise StoreNotFound(f"nothing was deleted: {where} holds another store named {name!r}")
    return marker


def _nodes_of(fs: OsFileSystem, path: str, store_id: str) -> list[str]:
    """Return the names of the directories that nodes of this store own, owned, or began to create."""
    base = f"{path}/nodes"
    if os.path.islink(base):
        raise InvalidOption(
            f"nothing was deleted: {base} is a symbolic link, which raykv does not follow; delete it by hand"
        )
    names = fs.list_directory(base) if os.path.isdir(base) else []
    return [name for name in names if _is_of_store(fs, f"{base}/{name}", store_id)]


def _is_of_store(fs: OsFileSystem, directory: str, store_id: str) -> bool:
    real = os.path.isdir(directory) and not os.path.islink(directory)
    try:
        identity = read_identity(fs, directory)
    except (CorruptData, OSError):
        return real  # damaged: it can only be this store's
    if identity is not None:
        return identity.store_id == store_id
    # One whose node got no further than creating it.
    return real and all(name in (LOCK_NAME, "identity.tmp", "lost+found") for name in fs.list_directory(directory))


def _lock(fs: OsFileSystem, lock: str) -> FileLock:
    """Take a node's lock for the duration of the deletion. Raises ``StoreUnavailable``, ``OSError``."""
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fs.lock(lock)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise StoreUnavailable(
                    f"a process still holds {lock}, perhaps in another Ray cluster; nothing was deleted, stop it first"
                ) from None
            time.sleep(0.05)


def _refuse_mounts(directory: str) -> None:
    """Raise ``InvalidOption`` if a directory contains a mount."""
    for mount in _mounts():
        if mount.startswith(f"{os.path.realpath(directory)}/"):
            raise InvalidOption(f"nothing was deleted: {mount} is mounted inside {directory}; unmount it first")
    for below, names, _ in os.walk(directory):
        for name in names:
            if os.path.ismount(os.path.join(below, name)):
                raise InvalidOption(
                    f"nothing was deleted: {os.path.join(below, name)} is mounted inside {directory}; unmount it first"
                )


def _mounts() -> list[str]:
    """Return the mount points that the operating system lists; bind mounts show up nowhere else."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return []
    return [_unescaped(fields[4]) for fields in lines if len(fields) > 4]


def _unescaped(text: str) -> str:
    for code in ("040", "011", "012"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text.replace("\\134", "\\")


def _remove(fs: OsFileSystem, directory: str) -> None:
    if os.path.islink(directory):
        logger.warning("raykv: %s is a symbolic link; what is in %s stays", directory, os.path.realpath(directory))
    if not os.path.ismount(directory):
        fs.remove_tree(directory)
        return
    for name in fs.list_directory(directory):  # a separate disk stays mounted, empty
        fs.remove_tree(f"{directory}/{name}")


def _remove_empty(directory: str, link: str) -> None:
    """Remove a directory and the link to it, if it is empty."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOTDIR):
            raise
        return
    if os.path.islink(link) and not os.path.exists(link):
        os.unlink(link)
