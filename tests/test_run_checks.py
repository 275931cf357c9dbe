"""scripts/test: what it starts ends with it, and its parts leave no test out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
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
    run_checks.GRACE_S = float(sys.argv[1])
    command = [sys.executable, "-c", sys.argv[2]]
    run_checks.PARTS = {
        "one": run_checks.Part("", [command]), "beside": run_checks.Part("", [command], waits=True)
    }
    run_checks.CORES = 8
    run_checks.check(sys.argv[3:], [], keep_going=False)
"""
"""What is checked here waits for a child of its own, which says that it is there."""
CLEAN = "import subprocess as s\nc = s.Popen(['sleep', '900'])\nprint('pid', c.pid, flush=True)\nc.wait()"
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


@pytest.mark.parametrize("parts", [["one"], ["one", "beside"]], ids=len)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("program", "grace_s"), [(CLEAN, "60"), (STUBBORN, "0.1")], ids=["heeds it", "does not"])
def test_interrupted_it_takes_with_it_what_it_started(
    number: signal.Signals, program: str, grace_s: str, parts: list[str]
) -> None:
    words = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), grace_s, program, *parts]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent / "scripts")}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    ) as checks:
        assert checks.stdout
        grandchildren: list[int] = []
        while len(grandchildren) < len(parts):
            line = checks.stdout.readline()
            assert line
            grandchildren += [int(pid) for pid in re.findall(r"pid (\d+)", line)]
        assert not any(ended(pid) for pid in grandchildren)
        checks.send_signal(number)
        assert checks.wait(60) != 0
    for pid in grandchildren:
        wait_for_the_end(pid)


Programs = Callable[..., None]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Let the parts be programs, of which those whose names begin with "beside" run beside the others."""

    def become(**of: str) -> None:
        parts = {
            name: run_checks.Part("", [[sys.executable, "-c", program]], name.startswith("beside"))
            for name, program in of.items()
        }
        monkeypatch.setattr(run_checks, "PARTS", parts)
        monkeypatch.setattr(run_checks, "CORES", 8)

    return become


def table(shown: str) -> dict[str, str]:
    """Return what the printed table says of each part."""
    rows = shown.split("part       result    minutes\n")[1].splitlines()
    return {name: " ".join(result) for name, *result, minutes in map(str.split, rows) if float(minutes) >= 0}


@pytest.mark.parametrize("beside", [False, True])
def test_a_command_that_ends_leaves_nothing_behind(tmp_path: Path, programs: Programs, beside: bool) -> None:
    """Not even one that holds on to its output."""
    note = tmp_path / "pid"
    leaves = (
        f"import subprocess as s, sys\nopen({str(note)!r}, 'w').write(str(s.Popen(['sleep', '900']).pid))\nsys.exit(7)"
    )
    programs(one=leaves, **({"beside": "pass"} if beside else {}))
    assert run_checks.check(list(run_checks.PARTS), [], keep_going=True) == 1
    wait_for_the_end(int(note.read_text()))


def meet(mine: Path, other: Path) -> str:
    """Return a program that ends once it and another are under way."""
    return (
        f"import pathlib, time\npathlib.Path({str(mine)!r}).touch()\n"
        f"while not pathlib.Path({str(other)!r}).exists(): time.sleep(0.01)"
    )


def test_parts_that_wait_run_beside_those_that_compute(
    tmp_path: Path, programs: Programs, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    programs(one=meet(first, second), beside=f"print('here')\n{meet(second, first)}", then="print('there')")
    assert run_checks.check(["one", "beside", "then"], [], keep_going=False) == 0
    shown = capfd.readouterr().out
    assert table(shown) == {"one": "passed", "beside": "passed", "then": "passed", "all": "passed"}
    assert "beside    | here\n" in shown
    assert "then      | there\n" in shown


def test_the_first_failure_ends_what_runs_beside_it(programs: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    programs(one="import sys\nsys.exit(1)", then="pass", beside="import time\ntime.sleep(900)", beside_then="pass")
    assert run_checks.check(list(run_checks.PARTS), [], keep_going=False) == 1
    found = table(capfd.readouterr().out)
    assert found.pop("beside") in {"stopped", "not run"}  # it may not have begun
    assert found == {"one": "FAILED", "then": "not run", "beside_then": "not run", "all": "FAILED"}


def test_it_can_go_on_after_a_failure(programs: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    programs(one="import sys\nsys.exit(1)", then="pass", beside="import sys\nsys.exit(1)", beside_then="pass")
    assert run_checks.check(list(run_checks.PARTS), [], keep_going=True) == 1
    assert table(capfd.readouterr().out) == {
        "one": "FAILED", "then": "passed", "beside": "FAILED", "beside_then": "passed", "all": "FAILED"
    }  # fmt: skip


@pytest.mark.parametrize(("marker", "name"), MARKERS.items())
def test_a_part_looks_wherever_its_tests_are(marker: str, name: str) -> None:
    """A part collects some paths only, which saves seconds each."""
    commands = run_checks.PARTS[name].commands
    paths = [TESTS.parent / word for command in commands for word in command if word.startswith("tests/")]
    assert paths
    assert all(path.exists() for path in paths)
    used = re.compile(rf"mark\.{marker}\b")
    having = {path for path in TESTS.rglob("test_*.py") if used.search(path.read_text())}
    assert having
    assert {path for path in having if not any(path.is_relative_to(each) for each in paths)} == set()
    assert f"not {marker}" in run_checks.UNIT


def test_on_one_core_one_part_comes_after_the_other(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    wait = f"import time, pathlib; time.sleep(0.2); pathlib.Path({str(note)!r}).write_text('done')"
    late = f"import pathlib, sys; sys.exit(not pathlib.Path({str(note)!r}).exists())"
    programs(one=wait, beside=late)
    monkeypatch.setattr(run_checks, "CORES", 1)
    assert run_checks.check(["one", "beside"], [], keep_going=False) == 0
