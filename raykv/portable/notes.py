"""The note that an interrupted export or import leaves behind: where to go on, and of what."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_json, encode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NOTE_BYTES = 1 << 20
_VERSION = 1
S = TypeVar("S")


@contextlib.contextmanager
def held_note(path: str, doing: str) -> Iterator[None]:
    """Hold a note by a lock beside it, so that no other process goes on by it. Raises ``InvalidOption``, ``OSError``."""
    lock = f"{path}.lock"
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        take_lock(descriptor, doing)
        try:
            yield
        finally:
            remove_note(lock)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, doing: str) -> None:
    """Take the lock on an open file. Raises ``InvalidOption`` if another process holds it: it is ``doing`` this."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # otherwise its holder came to its end meanwhile
            return
    raise InvalidOption(f"another process {doing} right now")


def read_note(path: str, about: dict[str, Any], work: str, kind: type[S]) -> S:
    """Return what was noted last, as this kind of struct; a new one if nothing was.

    ``about``: what the work is done to, which must be the same; ``work``: what to call it. Raises ``InvalidOption`` if it is
    about something else, or no note.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_NOTE_BYTES)
    except FileNotFoundError:
        return kind()
    try:
        note = decode_json(data)
        version, noted, state = note["version"], note["about"], msgspec.convert(note["state"], kind)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"{path} is not a note of an {work} ({error}); remove it to begin anew") from None
    if version != _VERSION or noted != about:
        differing = ", ".join(name for name in about if not isinstance(noted, dict) or noted.get(name) != about[name])
        raise InvalidOption(
            f"{path} is of another {work}, which was interrupted (it differs in: {differing or 'its version'}); finish "
            "that, or remove it to begin anew"
        )
    return state


def write_note(path: str, about: dict[str, Any], state: object) -> None:
    """Replace the note, durably."""
    data, beside = encode_json({"version": _VERSION, "about": about, "state": state}), f"{path}.new"
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync(os.path.dirname(path))


def remove_note(path: str) -> None:
    """Remove the note, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync(path: str) -> None:
    """Make a file durable, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
