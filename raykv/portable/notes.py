"""The note that an interrupted export or import leaves behind: where to go on, and of what."""

from __future__ import annotations

import contextlib
import os
from typing import Any, TypeVar

import msgspec

from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_json, encode_json

MAX_NOTE_BYTES = 1 << 20
_VERSION = 1
S = TypeVar("S")


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
