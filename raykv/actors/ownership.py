"""Checks that a store's directory is trustworthy: owned by this user, and not writable by everyone.

Write access to it is enough to replace any file, and the store's marker and locks decide whose the data is and which
process to end. A directory that belongs to another user or is writable by all is refused; one writable by a group causes a
warning. On file systems that assign all files to one user, that user counts as this one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from raykv.actors.naming import node_directory
from raykv.errors import CorruptData, InvalidOption
from raykv.storage import read_identity

if TYPE_CHECKING:
    from raykv.ports import FileSystem

_ROOT = 0
"""Its user may do anything anyway."""


def check_directory(path: str) -> str:
    """Return a warning, or "". Raises ``InvalidOption`` if the directory must not be used, and ``OSError``.

    A symbolic link is as good as the directory, if both belong to this user.
    """
    link, found = os.lstat(path), os.stat(path)
    if stat.S_ISLNK(link.st_mode) and not _is_ours(link.st_uid, path):
        raise InvalidOption(
            f"path {path} is a symbolic link that user {link.st_uid} created; this process runs as user {os.geteuid()}, and "
            "does not follow other users' links",
            path=path,
        )
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidOption(f"path {path} cannot be used: it is not a directory", path=path)
    if not _is_ours(found.st_uid, path):
        raise InvalidOption(
            f"path {path} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}: its owner could "
            "read and change the store's data. Change its owner (chown), or use a directory below it as the path",
            path=path,
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise InvalidOption(
            f"path {path} is open to all (mode {_mode(found)}): anybody on this machine could change the store's data. "
            f"Close it (chmod go-w {path}), or use a directory below it as the path",
            path=path,
        )
    if found.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        who = "anybody on this machine" if found.st_mode & stat.S_IWOTH else f"the group {found.st_gid}"
        return f"path {path} is open to {who} (mode {_mode(found)}); chmod go-w closes it"
    return ""


def check_store_directory(path: str) -> list[str]:
    """Check a store's path and the folder of its nodes, where present. Returns warnings; raises as ``check_directory``."""
    warnings = []
    for directory in (path, f"{path}/nodes"):
        with contextlib.suppress(FileNotFoundError):
            warnings.append(check_directory(directory))
    return [warning for warning in warnings if warning]


def check_node_directory(fs: FileSystem, path: str, store_id: str, node_id: str) -> list[str]:
    """Check a node's directory and its parents before it is opened. Returns warnings; raises as ``check_directory``.

    A link that leads elsewhere (to another disk, say) is followed only to a directory that already belongs to the node;
    nothing is created, locked or written in any other.
    """
    warnings = check_store_directory(path)
    directory = node_directory(path, node_id)
    for place in (f"{path}/nodes", directory):
        if os.path.islink(place) and not _is_the_nodes(fs, directory, store_id, node_id):
            raise InvalidOption(
                f"{place} is a symbolic link, and where it leads is no directory of node {node_id}: not followed",
                path=place,
            )
    with contextlib.suppress(FileNotFoundError):
        warnings.append(check_directory(directory))
    return [warning for warning in warnings if warning]


def _is_ours(uid: int, path: str) -> bool:
    return uid in (os.geteuid(), _ROOT) or uid == _owner_of_new_files(path)


def _owner_of_new_files(path: str) -> int | None:
    """Return the owner of a file that this process creates there; None if it cannot create one."""
    probe = os.path.join(path, f".raykv-{secrets.token_hex(8)}")
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        os.unlink(probe)


def _is_the_nodes(fs: FileSystem, directory: str, store_id: str, node_id: str) -> bool:
    try:
        identity = read_identity(fs, directory)
    except (OSError, CorruptData):
        return False
    return identity is not None and (identity.store_id, identity.node_id) == (store_id, node_id)


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):o}"
