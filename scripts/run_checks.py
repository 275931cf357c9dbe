"""Runs the checks part by part and prints the minutes that each took. Called by ``scripts/test``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
UNIT = "not ray and not wheel and not notebook and not simulation and not crash"
PARTS: dict[str, tuple[str, list[list[str]]]] = {
    "style": ("ruff", [["ruff", "check", "."], ["ruff", "format", "--check", "."]]),
    "types": ("mypy, strict, on raykv/", [["mypy"]]),
    "unit": (
        "tests without Ray, on all cores",
        [["pytest", "-n", "auto", "--dist", "worksteal", "-m", UNIT]],
    ),
    "simulation": ("100 simulated clusters", [["pytest", "-m", "simulation"]]),
    "crash": ("20,000 power cuts", [["pytest", "-m", "crash"]]),
    "ray": ("tests on a Ray cluster", [["pytest", "-m", "ray"]]),
    "wheel": ("the wheel, installed in a clean environment", [["pytest", "-m", "wheel"]]),
    "notebooks": ("the notebooks, executed", [["pytest", "-m", "notebook"]]),
}


def main() -> int:
    """Run the parts asked for; return 0 if all passed."""
    listed = "; ".join(f"{name}: {what}" for name, (what, _) in PARTS.items())
    parser = argparse.ArgumentParser(prog="scripts/test", description=f"Run the checks. Parts: {listed}.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="only these parts")
    parser.add_argument("--keep-going", action="store_true", help="go on after a part that failed")
    arguments = parser.parse_args()
    rows: list[tuple[str, str, float]] = []
    failed = False
    for name in arguments.parts or PARTS:
        if failed and not arguments.keep_going:
            rows.append((name, "not run", 0.0))
            continue
        started = time.monotonic()
        print(f"== {name}: {PARTS[name][0]}", flush=True)
        codes = [subprocess.run([BIN / tool, *words], check=False).returncode for tool, *words in PARTS[name][1]]
        passed = not any(codes)
        failed = failed or not passed
        rows.append((name, "passed" if passed else "FAILED", time.monotonic() - started))
    print("\npart       result    minutes")
    for name, result, taken_s in rows:
        print(f"{name:<10} {result:<9} {taken_s / 60:5.1f}")
    print(f"{'all':<10} {'FAILED' if failed else 'passed':<9} {sum(row[2] for row in rows) / 60:5.1f}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    sys.exit(main())
