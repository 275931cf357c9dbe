"""Runs the checks part by part and prints the minutes that each took. Called by ``scripts/test``.

Two parts run at a time: tests on Ray, the wheel and the notebooks mostly wait, for processes that start and for time that
passes, and what computes runs meanwhile. Either lane takes its parts in turn; the first failure ends both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, NamedTuple

BIN = Path(sys.executable).parent
SEVERAL = ["-n", "auto", "--dist", "worksteal"]
"""pytest's options for a process a core; one that is done takes tests over from another."""
LONGEST = ["--durations=12", "--durations-min=5"]
"""Names what takes the most time, in seconds: the whole is to stay within 20 minutes on two cores."""
GRACE_S = 60.0
"""How long a command has to clean up once it is interrupted: Ray's processes take a while to end."""


class Part(NamedTuple):
    """A part of the checks."""

    about: str
    commands: list[list[str]]
    waits: bool = False
    """Whether it waits more than it computes."""


def marked(marker: str, *paths: str) -> list[str]:
    """Return the command that runs the tests with a marker; only ``paths`` are collected (tests/test_house.py holds it)."""
    return ["pytest", *SEVERAL, *LONGEST, "-m", marker, *paths]


CORES = os.cpu_count() or 1
TOO_FEW_CORES = 1
"""With no more cores all parts run one after the other. Of two, Ray's tests keep two thirds busy, and computing the rest."""
ON_RAY = ("actors", "cli", "client", "dashboard")
"""Directories of tests, some of which need Ray."""
ON_RAYS_LIBRARIES = ("data", "examples")
UNIT = "not ray and not wheel and not notebook and not simulation and not crash"
PARTS = {
    "style": Part("ruff; codespell", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell"]]),
    "types": Part("mypy, strict, on raykv/ and scripts/", [["mypy"]]),
    "unit": Part("tests without Ray", [marked(UNIT)]),
    "simulation": Part(
        "40 simulated clusters, guards switched off",
        [marked("simulation", "tests/simulation", "tests/test_scripts.py")],
    ),
    "crash": Part("20,000 power cuts", [marked("crash", "tests/simulation/test_crash_points.py")]),
    "ray": Part(
        "tests on a Ray cluster",
        # Ray Data and Tune leave reservations behind: they have a Ray of their own.
        [
            marked("ray", "tests/test_scripts.py", *(f"tests/{name}" for name in ON_RAY)),
            marked("ray", *(f"tests/{name}" for name in ON_RAYS_LIBRARIES)),
        ],
        waits=True,
    ),
    "wheel": Part(
        "the wheel, installed in a clean environment", [["pytest", "-m", "wheel", "tests/test_wheel.py"]], waits=True
    ),
    "notebooks": Part("the notebooks, executed", [marked("notebook", "tests/test_notebooks.py")], waits=True),
}


class Checks:
    """Parts under way, and what came of those that ended.

    ``results``: name -> (result, seconds). ``several``: parts run side by side, so each line says whose it is.
    """

    def __init__(self, extra: list[str], *, several: bool, keep_going: bool) -> None:
        self.results: dict[str, tuple[str, float]] = {}
        self._extra = extra
        self._several = several
        self._keep_going = keep_going
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def take(self, names: list[str]) -> None:
        """Run parts in turn, in a thread of their own; stop everything at a failure unless it is to go on."""
        for name in names:
            if self._stopping.is_set():
                return
            started_s = time.monotonic()
            print(f"== {name}: {PARTS[name].about}", flush=True)
            codes = [self._run(name, command) for command in PARTS[name].commands]
            result = "passed" if not any(codes) else "stopped" if self._stopping.is_set() else "FAILED"
            self.results[name] = result, time.monotonic() - started_s
            if result == "FAILED" and not self._keep_going:
                self.stop()

    def stop(self) -> None:
        """Begin nothing more; interrupt what runs, as a terminal does, and kill what has not cleaned up after a while."""
        with self._lock:
            self._stopping.set()
            running = list(self._running)
        for process in running:
            signal_all(process, signal.SIGINT)  # pytest ends its fixtures, and Ray with them
        give_up_s = time.monotonic() + GRACE_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(max(0.0, give_up_s - time.monotonic()))
            signal_all(process, signal.SIGKILL)

    def _run(self, name: str, command: list[str]) -> int:
        """Run a command in a process group of its own, which ends with it; return its exit code."""
        tool, *words = command
        words += self._extra if tool == "pytest" else []
        output = subprocess.PIPE if self._several else None
        with self._lock:
            if self._stopping.is_set():
                return 1
            process = subprocess.Popen(
                [str(BIN / tool), *words], start_new_session=True, stdout=output, stderr=output and subprocess.STDOUT
            )
            self._running.append(process)
        showing = threading.Thread(target=show, args=(name, process.stdout), daemon=True)
        showing.start()
        code = process.wait()
        signal_all(process, signal.SIGKILL)
        self._running.remove(process)
        showing.join()
        return code


def show(name: str, output: IO[bytes] | None) -> None:
    """Print the lines of a part that runs beside another one."""
    for line in output or ():
        sys.stdout.buffer.write(f"{name:<10}| ".encode() + line)
        sys.stdout.buffer.flush()


def signal_all(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all of a process group that is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def check(names: list[str], extra: list[str], *, keep_going: bool) -> int:
    """Run parts and print a table of them; return 0 if all passed. Interrupted, it takes along all that it has started."""
    lanes = [lane for waits in (False, True) if (lane := [name for name in names if PARTS[name].waits is waits])]
    if CORES <= TOO_FEW_CORES:
        lanes = [names]
    checks = Checks(extra, several=len(lanes) > 1, keep_going=keep_going)
    threads = [threading.Thread(target=checks.take, args=(lane,), daemon=True) for lane in lanes]
    started_s = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        checks.stop()
        raise
    print("\npart       result    minutes")
    for name in names:
        result, taken_s = checks.results.get(name, ("not run", 0.0))
        print(f"{name:<10} {result:<9} {taken_s / 60:5.1f}")
    passed = all(name in checks.results and checks.results[name][0] == "passed" for name in names)
    taken_s = time.monotonic() - started_s
    print(f"{'all':<10} {'passed' if passed else 'FAILED':<9} {taken_s / 60:5.1f}", flush=True)
    return 0 if passed else 1


def main() -> int:
    """Run the parts asked for; return 0 if all passed."""
    listed = "; ".join(f"{name}: {part.about}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(prog="scripts/test", description=f"Run the checks. Parts: {listed}.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="only these parts")
    parser.add_argument("--keep-going", action="store_true", help="go on after a part that failed")
    parser.add_argument("--long", action="store_true", help="all tests at full length, for nights and releases")
    arguments = parser.parse_args()
    extra = ["--long"] if arguments.long else []
    return check(arguments.parts or list(PARTS), extra, keep_going=arguments.keep_going)


def prepare_environment() -> None:
    """Let the commands find each other's programs, and compile a module once for all the processes that import it."""
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of Ray's workers compiles raykv anew: a second each


def heed_signals() -> None:
    """Let a job that is cancelled end as by Ctrl-C, also one in the background, which a shell lets ignore that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    prepare_environment()
    heed_signals()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
