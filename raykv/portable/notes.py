"""The note that an interrupted export or import leaves behind: where to go on, and of what."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import msgspec

from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_json, encode_json

MAX_NOTE_BYTES = 1 << 20
_VERSION = 1


def read_note(path: str, about: dict[str, Any], work: str) -> dict[str, Any]:
    """Return what was noted last; empty if nothing was. Raises ``InvalidOption`` if it is about something else.

    ``about``: what the work is done to, which must be the same; ``work``: what to call it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_NOTE_BYTES)
    except FileNotFoundError:
        return {}
    try:
        note = decode_json(data)
        version, noted, state = note["version"], note["about"], note["state"]
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise InvalidOption(f"{path} is not a note of an {work} ({error}); remove it to begin anew") from None
    if version != _VERSION or noted != about:
        differing = ", ".join(name for name in about if not isinstance(noted, dict) or noted.get(name) != about[name])
        raise InvalidOption(
            f"{path} is of another {work}, which was interrupted (it differs in: {differing or 'its version'}); finish "
            "that, or remove it to begin anew"
        )
    return dict(state)


def write_note(path: str, about: dict[str, Any], state: dict[str, Any]) -> None:
    """Replace the note, durably."""
    data, beside = encode_json({"version": _VERSION, "about": about, "state": state}), f"{path}.new"
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(os.path.dirname(path))


def remove_note(path: str) -> None:
    """Remove the note, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
