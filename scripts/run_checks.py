"""Runs the checks part by part and prints the minutes that each took. Called by ``scripts/test``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

BIN = Path(sys.executable).parent
SEVERAL = ["-n", "auto", "--dist", "worksteal"]
"""pytest's options for a process a core; one that is done takes tests over from another."""
GRACE_S = 60.0
"""How long a command has to clean up once it is interrupted: Ray's processes take a while to end."""


class Part(NamedTuple):
    """A part of the checks."""

    about: str
    commands: list[list[str]]


def marked(marker: str, *paths: str) -> list[str]:
    """Return the command that runs the tests with a marker; only ``paths`` are collected (tests/test_house.py holds it)."""
    return ["pytest", *SEVERAL, "-m", marker, *paths]


UNIT = "not ray and not wheel and not notebook and not simulation and not crash"
PARTS = {
    "style": Part("ruff; codespell", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell"]]),
    "types": Part("mypy, strict, on raykv/ and scripts/", [["mypy"]]),
    "unit": Part("tests without Ray", [marked(UNIT)]),
    "simulation": Part(
        "100 simulated clusters, guards switched off",
        [marked("simulation", "tests/simulation", "tests/test_scripts.py")],
    ),
    "crash": Part("20,000 power cuts", [marked("crash", "tests/simulation/test_crash_points.py")]),
    "ray": Part(
        "tests on a Ray cluster", [marked("ray", "tests/actors", "tests/cli", "tests/client", "tests/test_scripts.py")]
    ),
    "wheel": Part("the wheel, installed in a clean environment", [["pytest", "-m", "wheel", "tests/test_wheel.py"]]),
    "notebooks": Part("the notebooks, executed", [marked("notebook", "tests/test_notebooks.py")]),
}


def run(command: list[str]) -> int:
    """Run a command in a process group of its own; return its exit code. Interrupted or terminated, it takes all with it."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: pytest ends its fixtures, and Ray with them
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(GRACE_S)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Run the parts asked for; return 0 if all passed."""
    listed = "; ".join(f"{name}: {part.about}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(prog="scripts/test", description=f"Run the checks. Parts: {listed}.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="only these parts")
    parser.add_argument("--keep-going", action="store_true", help="go on after a part that failed")
    parser.add_argument("--long", action="store_true", help="all tests at full length, for nights and releases")
    arguments = parser.parse_args()
    rows: list[tuple[str, str, float]] = []
    failed = False
    for name in arguments.parts or PARTS:
        if failed and not arguments.keep_going:
            rows.append((name, "not run", 0.0))
            continue
        started = time.monotonic()
        print(f"== {name}: {PARTS[name].about}", flush=True)
        long = ["--long"] if arguments.long else []
        codes = [
            run([str(BIN / tool), *words, *(long if tool == "pytest" else [])]) for tool, *words in PARTS[name].commands
        ]
        passed = not any(codes)
        failed = failed or not passed
        rows.append((name, "passed" if passed else "FAILED", time.monotonic() - started))
    print("\npart       result    minutes")
    for name, result, taken_s in rows:
        print(f"{name:<10} {result:<9} {taken_s / 60:5.1f}")
    print(f"{'all':<10} {'FAILED' if failed else 'passed':<9} {sum(row[2] for row in rows) / 60:5.1f}", flush=True)
    return 1 if failed else 0


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
