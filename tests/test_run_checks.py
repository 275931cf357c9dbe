"""scripts/test: what it starts ends with it, and its parts leave no test out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import run_checks

TESTS = Path(__file__).parent
MARKERS = {"simulation": "simulation", "crash": "crash", "ray": "ray", "wheel": "wheel", "notebook": "notebooks"}

INTERRUPTED = """
    import signal, sys
    import run_checks

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs begin
    run_checks.heed_signals()
    program = sys.argv[1]
    run_checks.GRACE_S = float(sys.argv[2])
    run_checks.run([sys.executable, "-c", program])
"""
"""A process under test waits for a child of its own, which reports its start."""
CLEAN = "import subprocess as s\nc = s.Popen(['sleep', '900'])\nprint(c.pid, flush=True)\nc.wait()"
STUBBORN = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + CLEAN


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " in stat.read_text()


def wait_for_the_end(pid: int) -> None:
    deadline_s = time.monotonic() + 60
    while not ended(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("program", "grace_s"), [(CLEAN, "60"), (STUBBORN, "0.1")], ids=["heeds it", "does not"])
def test_interrupted_it_takes_with_it_what_it_started(number: signal.Signals, program: str, grace_s: str) -> None:
    words = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), program, grace_s]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent / "scripts")}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    ) as checks:
        assert checks.stdout
        grandchild = int(checks.stdout.readline())
        assert not ended(grandchild)
        checks.send_signal(number)
        assert checks.wait(60) != 0
    wait_for_the_end(grandchild)


def test_a_command_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    leaves = (
        f"import subprocess as s, sys\nopen({str(note)!r}, 'w').write(str(s.Popen(['sleep', '900']).pid))\nsys.exit(7)"
    )
    assert run_checks.run([sys.executable, "-c", leaves]) == 7
    wait_for_the_end(int(note.read_text()))


@pytest.mark.parametrize(("marker", "name"), MARKERS.items())
def test_a_part_looks_wherever_its_tests_are(marker: str, name: str) -> None:
    """A part collects some paths only, which saves seconds each."""
    (command,) = run_checks.PARTS[name].commands
    paths = [TESTS.parent / word for word in command if word.startswith("tests/")]
    assert paths
    assert all(path.exists() for path in paths)
    used = re.compile(rf"mark\.{marker}\b")
    having = {path for path in TESTS.rglob("test_*.py") if used.search(path.read_text())}
    assert having
    assert {path for path in having if not any(path.is_relative_to(each) for each in paths)} == set()
    assert f"not {marker}" in run_checks.UNIT
