"""A process is ended only if it is proved to hold the directory: the number in a file is not to be believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.system.files import OsFileSystem
from raykv.system.holder import (
    LinuxProcesses,
    LockNote,
    ToolProcesses,
    end_holder,
    objection,
    read_note,
    system_processes,
    this_note,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "10.0.0.1"

HOLD = """
import sys
import msgspec
from raykv.system.holder import this_note
from raykv.system.files import OsFileSystem
lock = OsFileSystem().lock(sys.argv[1], msgspec.json.encode(this_note("10.0.0.1")))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


@pytest.fixture
def holding(lock: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock and has left its note."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The signals that were sent: none of them really is."""
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *it: sent.append(it))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *it: sent.append(it), raising=False)
    return sent


def note_in(lock: str) -> LockNote:
    return read_note(OsFileSystem().read_file(lock, 4096))


def test_a_frozen_holder_is_ended(lock: str, holding: subprocess.Popen[str]) -> None:
    os.kill(holding.pid, signal.SIGSTOP)
    note = note_in(lock)
    assert objection(note, HOST, lock) == ""
    assert end_holder(note, HOST, lock) == ""
    assert holding.wait(30) == -signal.SIGKILL
    assert "has ended" in end_holder(note, HOST, lock)
    OsFileSystem().lock(lock).release()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pid": 0}, "names no process"),
        ({"pid": 1}, "names no process"),
        ({"started": ""}, "does not identify"),
        ({"boot": ""}, "does not identify"),
        ({"namespace": ""}, "does not identify"),
        ({"started": "1"}, "another one by now"),
        ({"boot": "00000000-0000-0000-0000-000000000000"}, "earlier boot"),
        ({"namespace": "4:4026531836000"}, "another container"),
        ({"host": "10.0.0.2"}, "of host '10.0.0.2'"),
        ({"host": ""}, "of host ''"),
        ({"uid": 54321}, "another user's"),
        ({"uid": -1}, "another user's"),
        ({"pid": 2**31 - 1}, "has ended"),
    ],
)
def test_what_is_not_proved_is_left_alone(
    lock: str, holding: subprocess.Popen[str], signals: list[Any], change: dict[str, Any], why: str
) -> None:
    note = msgspec.structs.replace(note_in(lock), **change)
    assert why in end_holder(note, HOST, lock)
    assert signals == []


def test_a_note_that_names_an_innocent_process_truly_ends_nobody(
    lock: str, holding: subprocess.Popen[str], signals: list[Any], tmp_path: Path
) -> None:
    """All in the note is right, but the process has nothing to do with the directory."""
    other = str(tmp_path / "other")
    OsFileSystem().lock(other, b"").release()
    assert "does not have its lock open" in end_holder(note_in(lock), HOST, other)
    assert "cannot be looked at" in end_holder(note_in(lock), HOST, str(tmp_path / "none"))
    os.symlink(lock, tmp_path / "link")
    assert "does not have its lock open" in end_holder(note_in(lock), HOST, str(tmp_path / "link"))
    mine = OsFileSystem().lock(other, b"")
    assert "this very process" in end_holder(this_note(HOST), HOST, other)
    mine.release()
    assert signals == []


def test_the_number_cannot_change_hands_between_look_and_signal(
    lock: str, holding: subprocess.Popen[str], signals: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is looked at again once it is pinned, and the signal goes to what was pinned."""
    processes = LinuxProcesses()
    begun = iter([processes.started(holding.pid), "another"])
    monkeypatch.setattr(processes, "started", lambda _: next(begun))
    assert "another one by now" in end_holder(note_in(lock), HOST, lock, processes)
    assert signals == []


def test_a_kernel_without_pidfds(lock: str, holding: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing, raising=False)
    assert "another user's" in end_holder(msgspec.structs.replace(note_in(lock), uid=5), HOST, lock)
    assert holding.poll() is None
    assert end_holder(note_in(lock), HOST, lock) == ""
    assert holding.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"null", b"7", b'"' + b"x" * 5000,
        b"[" * 4096, b'{"x":' * 800, b'{"x":' + b"[" * 4000,
        b'{"pid": "x"}', b'{"pid": -1}', b'{"pid": 1.5}', b'{"pid": true}', b'{"pid": 4294967297}',
        b'{"pid": ' + b"9" * 4000 + b"}", b'{"pid": 5, "uid": ' + b"9" * 4000 + b"}", b'{"pid": 5, "uid": -2}',
        b'{"pid": 5, "host": "' + b"h" * 300 + b'"}', b'{"pid": 5, "boot": 7}', b'{"pid": 5, "host": "\xff"}',
        b'{"pid": 5, "host": "\\ud800"}', b"\0" * 4096,
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_a_note_that_cannot_be_read_says_nothing(data: bytes) -> None:
    note = read_note(data)
    assert (note.pid, note.host) == (0, "")


def test_the_note_of_an_earlier_version_says_where_but_proves_nothing(
    lock: str, holding: subprocess.Popen[str], signals: list[Any]
) -> None:
    old = read_note(b'{"pid":%d,"host":"10.0.0.1"}' % holding.pid)
    assert (old.pid, old.host) == (holding.pid, HOST)
    assert "does not identify" in end_holder(old, HOST, lock)
    assert signals == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_proc_says_is_read_with_care(tmp_path: Path) -> None:
    processes = LinuxProcesses(str(tmp_path))
    assert (processes.boot(), processes.namespace(), processes.started(7), processes.owner(7)) == ("", "", "", None)
    assert processes.has_open(7, str(tmp_path)) is None
    (tmp_path / "7").mkdir()
    numbers = " ".join(str(number) for number in range(4, 53))
    for name in ("python", "a) R (b", ") ) )", "x y 5"):
        (tmp_path / "7" / "stat").write_text(f"7 ({name}) S {numbers}\n")
        assert processes.started(7) == "22", "the field is counted from behind the name, whatever that is"
    for state in "ZX":
        (tmp_path / "7" / "stat").write_text(f"7 (python) {state} {numbers}\n")
        assert processes.started(7) == "", "it has ended, though nobody has waited for it"
    for garbage in (b"", b"7", b"7 (python", b"7 (python) S 1 2", b"\xff" * 5000):
        (tmp_path / "7" / "stat").write_bytes(garbage)
        assert processes.started(7) == ""
    here = system_processes()
    assert here.started(os.getpid())
    assert here.started(os.getpid()) == here.started(os.getpid())
    assert here.owner(os.getpid()) == os.geteuid()


class Tools:
    """Stands in for macOS's programs."""

    def __init__(self, **says: str) -> None:
        self.says = {
            "boot": "A-B", "state": "S+", "lstart": "Sat Nov 28 01:02:03 2026", "uid": str(os.geteuid()), "lsof": "77",
        } | says  # fmt: skip

    def __call__(self, command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["timeout"] > 0
        assert all(part.startswith("/") for part in command[:1]), "no program that PATH leads to"
        what = {"sysctl": "boot", "lsof": "lsof"}.get(os.path.basename(command[0]), command[-1].rstrip("="))
        if self.says[what] == "hangs":
            raise subprocess.TimeoutExpired(command, 5)
        if self.says[what] == "missing":
            raise FileNotFoundError(2, "No such file")
        return subprocess.CompletedProcess(command, 0, f"{self.says[what]}\n", "")


def test_on_macos_its_programs_are_asked(signals: list[Any]) -> None:
    mac = ToolProcesses(Tools())
    note = LockNote(
        pid=77, host=HOST, started="Sat Nov 28 01:02:03 2026", boot="A-B", namespace="one", uid=os.geteuid()
    )
    assert this_note(HOST, mac) == msgspec.structs.replace(note, pid=os.getpid())
    assert end_holder(note, HOST, "/x/lock", mac) == ""
    assert signals == [(77, signal.SIGKILL)]
    signals.clear()
    others: list[Callable[[], Tools]] = [
        lambda: Tools(boot="C"), lambda: Tools(state="Z"), lambda: Tools(lstart="Sat Nov 28 01:02:04 2026"),
        lambda: Tools(uid="54321"), lambda: Tools(uid="-2"), lambda: Tools(lsof=""), lambda: Tools(lsof="7\n770"),
        *(lambda what=what, how=how: Tools(**{what: how})  # type: ignore[misc]
          for what in ("boot", "state", "lstart", "uid", "lsof") for how in ("", "hangs", "missing")),
    ]  # fmt: skip
    for other in others:
        assert end_holder(note, HOST, "/x/lock", ToolProcesses(other())) != "", other().says
    assert signals == []
