"""The lock of a store's path on this host: one process at a time restores, adopts or deletes what lies there.

Nodes lock their own directories. This lock covers what has no node yet, or none any more. It is a file beside the marker,
removed by its holder; the operating system releases the lock of a process that was killed, whose file is then used again.
"""

from __future__ import annotations

import contextlib
import platform
import time
from typing import TYPE_CHECKING

import msgspec

from raykv.actors.marker import MARKER
from raykv.errors import InvalidOption
from raykv.system.holder import MAX_NOTE_BYTES, read_note, this_note

if TYPE_CHECKING:
    from raykv.ports import FileSystem

PATH_LOCK = f"{MARKER}.lock"
_RETRY_S = 0.05


class PathLock:
    """Holds the lock of a path from its creation on."""

    def __init__(self, fs: FileSystem, path: str, wait_s: float = 0.0) -> None:
        """Take it. Raises ``InvalidOption`` if another call holds it for longer than ``wait_s``; ``OSError``."""
        self._fs, self._file = fs, f"{path}/{PATH_LOCK}"
        note = msgspec.json.encode(this_note(platform.node()))
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                self._lock = fs.lock(self._file, note)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise InvalidOption(
                        f"{path} is being restored, adopted or deleted by {self._holder()}; wait for its end", path=path
                    ) from None
                time.sleep(_RETRY_S)
        self._removed = False

    def remove(self) -> None:
        """Remove the file, as the last act of its holder at the path. Idempotent: a later file is a later holder's."""
        if not self._removed:
            self._removed = True
            with contextlib.suppress(OSError):
                self._fs.unlink(self._file)

    def release(self) -> None:
        """Remove the file and release the lock. Idempotent."""
        self.remove()
        self._lock.release()

    def _holder(self) -> str:
        try:
            note = read_note(self._fs.read_file(self._file, MAX_NOTE_BYTES))
        except OSError:
            return "another process"
        return f"process {note.pid} on {note.host}" if note.pid else "another process"
