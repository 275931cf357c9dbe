"""Identify the process that holds a node's directory, and end it only if its identity is proved.

A frozen process ignores Ray's request to end yet keeps its directory locked, and its successor must end it. The only
evidence is the note in the lock file. Its process id may since have passed to another process, may belong to another
container, or may be forged. A signal is sent only if all of this holds, checked while the process is pinned to keep its id
from being reused:

* the note names this boot of this machine, this pid namespace, this user and this host;
* the process with that id started when the note says, and belongs to this user;
* it has this very lock file open.

Otherwise the process is left alone, and the error of the waiting process states the reason. Notes of earlier versions
prove nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NOTE_BYTES = 4096
MAX_DESCRIPTORS = 1 << 20
_PROC_BYTES = 4096
_TOOL_TIMEOUT_S = 5.0
_SHORT = msgspec.Meta(max_length=255)
_SMALLEST_PID = 2
"""Ids of 0 and below denote process groups; 1 is the init process."""


class LockNote(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON note that a storage process leaves in its directory's lock. It outlives the process."""

    pid: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    host: Annotated[str, _SHORT] = ""
    started: Annotated[str, _SHORT] = ""
    """The process's start time, in its operating system's units."""
    boot: Annotated[str, _SHORT] = ""
    namespace: Annotated[str, _SHORT] = ""
    """The pid's namespace."""
    uid: Annotated[int, msgspec.Meta(ge=-1, lt=2**32)] = -1


def read_note(data: bytes) -> LockNote:
    """Return the note in a lock; an empty one if it is unreadable."""
    try:
        return msgspec.json.decode(data[:MAX_NOTE_BYTES], type=LockNote)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return LockNote()


class Processes(Protocol):
    """What the operating system knows about processes. Unknown values are empty or None."""

    def boot(self) -> str:
        """Return the id of the machine's current boot."""
        ...

    def namespace(self) -> str:
        """Return the pid namespace of this process."""
        ...

    def started(self, pid: int) -> str:
        """Return the process's start time."""
        ...

    def owner(self, pid: int) -> int | None:
        """Return the id of the user that owns the process."""
        ...

    def has_open(self, pid: int, path: str) -> bool | None:
        """Return whether the process has this very file open; None if unknown."""
        ...

    def end(self, pid: int, objection: Callable[[], str]) -> str:
        """Pin the process, then call ``objection``; end the process if it returns "". Returns why it was not ended."""
        ...


def this_note(host: str, processes: Processes | None = None) -> LockNote:
    """Return the note of this process."""
    processes = processes or system_processes()
    return LockNote(
        pid=os.getpid(),
        host=host,
        started=processes.started(os.getpid()),
        boot=processes.boot(),
        namespace=processes.namespace(),
        uid=os.geteuid(),
    )


def objection(note: LockNote, host: str, lock: str, processes: Processes | None = None) -> str:
    """Return why the note's process is not proved to hold the file ``lock``; empty if it is."""
    processes = processes or system_processes()
    if note.pid < _SMALLEST_PID:
        return "the note in its lock names no process"
    if note.pid == os.getpid():
        return "it is held by this very process"
    if not (note.started and note.boot and note.namespace):
        return f"the note in its lock does not identify process {note.pid} uniquely"
    if note.boot != processes.boot():
        return f"process {note.pid} is of another machine, or of an earlier boot of this one"
    if note.namespace != processes.namespace():
        return f"process {note.pid} is of another container"
    if note.host != host:
        return f"process {note.pid} is of host {note.host!r:.100}"
    if (started := processes.started(note.pid)) != note.started:
        return f"process {note.pid} {'is another one by now' if started else 'has ended'}"
    if note.uid != os.geteuid() or processes.owner(note.pid) != note.uid:
        return f"process {note.pid} is another user's"
    has = processes.has_open(note.pid, lock)
    if not has:
        return f"process {note.pid} {'does not have its lock open' if has is False else 'cannot be looked at'}"
    return ""


def end_holder(note: LockNote, host: str, lock: str, processes: Processes | None = None) -> str:
    """End the process that holds the file ``lock`` if the note proves its identity. Returns why it was not ended."""
    processes = processes or system_processes()
    return objection(note, host, lock, processes) or processes.end(
        note.pid, lambda: objection(note, host, lock, processes)
    )


class LinuxProcesses:
    """``Processes`` from ``/proc``, with pidfds where the kernel has them."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def boot(self) -> str:
        """See ``Processes``."""
        return self._read("sys/kernel/random/boot_id").decode(errors="replace").strip()

    def namespace(self) -> str:
        """See ``Processes``."""
        try:
            found = os.stat(f"{self._proc}/self/ns/pid")
        except OSError:
            return ""
        return f"{found.st_dev}:{found.st_ino}"

    def started(self, pid: int) -> str:
        """See ``Processes``: clock ticks since boot. A zombie counts as ended."""
        # The name, in parentheses, may contain anything; after the last parenthesis come field 3 (state) up to field 22.
        fields = self._read(f"{pid}/stat").rpartition(b")")[2].split()
        return fields[19].decode(errors="replace") if len(fields) > 19 and fields[0] not in (b"Z", b"X") else ""

    def owner(self, pid: int) -> int | None:
        """See ``Processes``."""
        try:
            return os.stat(f"{self._proc}/{pid}").st_uid
        except OSError:
            return None

    def has_open(self, pid: int, path: str) -> bool | None:
        """See ``Processes``."""
        try:
            wanted = os.lstat(path)
            with os.scandir(f"{self._proc}/{pid}/fd") as entries:
                for number, entry in enumerate(entries):
                    if number >= MAX_DESCRIPTORS:
                        return None
                    with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                        if os.path.samestat(os.stat(entry.path), wanted):
                            return True
        except OSError:
            return None
        return False

    def end(self, pid: int, objection: Callable[[], str]) -> str:
        """See ``Processes``."""
        try:
            pinned = _pinned(pid)
        except ProcessLookupError:
            return f"process {pid} has ended"
        except OSError:  # an old kernel or a sandbox: a short race between check and signal remains
            return _end_unpinned(pid, objection)
        try:
            if why := objection():
                return why
            signal.pidfd_send_signal(pinned, signal.SIGKILL)
        except ProcessLookupError:
            return f"process {pid} has ended"
        except OSError as error:
            return f"process {pid} cannot be ended: {error.strerror}"
        finally:
            os.close(pinned)
        return ""

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self._proc}/{name}", "rb") as file:
                return file.read(_PROC_BYTES)
        except OSError:
            return b""


class ToolProcesses:
    """``Processes`` from macOS's command-line tools."""

    def __init__(self, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> None:
        self._run = run

    def boot(self) -> str:
        """See ``Processes``."""
        return self._output_of("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")

    def namespace(self) -> str:
        """See ``Processes``: macOS has a single one."""
        return "one"

    def started(self, pid: int) -> str:
        """See ``Processes``: in whole seconds."""
        state = self._output_of("/bin/ps", "-p", str(pid), "-o", "state=")
        return (
            self._output_of("/bin/ps", "-p", str(pid), "-o", "lstart=") if state and not state.startswith("Z") else ""
        )

    def owner(self, pid: int) -> int | None:
        """See ``Processes``."""
        uid = self._output_of("/bin/ps", "-p", str(pid), "-o", "uid=")
        return int(uid) if uid.isascii() and uid.isdigit() and len(uid) < 12 else None

    def has_open(self, pid: int, path: str) -> bool | None:
        """See ``Processes``."""
        pids = self._output_of("/usr/sbin/lsof", "-n", "-P", "-t", "-a", "-p", str(pid), "--", path)
        return str(pid) in pids.split() or None

    def end(self, pid: int, objection: Callable[[], str]) -> str:
        """See ``Processes``: macOS cannot pin a process, which leaves a short race between check and signal."""
        return _end_unpinned(pid, objection)

    def _output_of(self, *command: str) -> str:
        try:
            ended = self._run(
                command, capture_output=True, text=True, errors="replace", timeout=_TOOL_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL, env={"LC_ALL": "C", "TZ": "UTC"},
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return ""
        return ended.stdout[:_PROC_BYTES].strip()


def system_processes() -> Processes:
    """Return the ``Processes`` of this operating system."""
    return LinuxProcesses() if sys.platform == "linux" else ToolProcesses()


def _pinned(pid: int) -> int:
    """Return a descriptor that pins the process. Raises ``OSError``."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise OSError("there are no pidfds here")
    return os.pidfd_open(pid)


def _end_unpinned(pid: int, objection: Callable[[], str]) -> str:
    if why := objection():
        return why
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return f"process {pid} has ended"
    except OSError as error:
        return f"process {pid} cannot be ended: {error.strerror}"
    return ""
