"""The short form of the batches: ``scripts/simulate --seeds 1-5000`` and its like."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.drawing import draw, seeds_of

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "simulate.py"
pytestmark = pytest.mark.simulation
REFUSED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import simulate
codes = []
for words in json.loads(sys.argv[2]):
    sys.argv = ["simulate", *words]
    try:
        codes.append(simulate.main())
    except SystemExit as ended:
        codes.append(ended.code)
print(json.dumps(codes))
"""
"""Gives command lines to the script, one after the other, and prints its exit codes."""


def simulate(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *words],
        check=False, capture_output=True, text=True, timeout=900, env={**os.environ, **environment},
    )  # fmt: skip


def test_many_seeds_keep_every_promise(long: bool) -> None:
    done = simulate("--seeds", "1-300" if long else "1-40")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed(tmp_path: Path, long: bool) -> None:
    seeds = 8 if long else 2
    hashes = []
    for number in ("0", "1", "4242"):
        simulate("--seeds", f"1-{seeds}", "--trace-hashes", str(tmp_path / number), PYTHONHASHSEED=number)
        hashes.append((tmp_path / number).read_text())
    assert len(hashes[0].splitlines()) == seeds
    assert all(len(line.split()) == 2 for line in hashes[0].splitlines())
    assert hashes[0] == hashes[1] == hashes[2]


def test_the_checkers_report_a_weak_store_and_the_report_says_how_to_see_it_again(tmp_path: Path) -> None:
    done = simulate("--seeds", "1-8", "--weak", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    again = next(line for line in done.stdout.splitlines() if "lost or stale" in line)
    seed = again.split("--seed ")[1].split()[0]
    one = simulate("--seed", seed, "--weak", "--shrink", str(tmp_path / "small.json"), "--shrink-runs", "4")
    assert one.returncode == 0, one.stdout + one.stderr
    assert f"again:     scripts/simulate --scenario {tmp_path / 'small.json'} --weak" in one.stdout
    small = simulate("--scenario", str(tmp_path / "small.json"), "--weak", "--counts")
    assert small.returncode == 0
    assert "lost or stale" in small.stdout
    assert "op: put ok" in small.stdout


def test_a_wrong_command_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    wrong = (
        ["--seeds", "9-3"], ["--seed", "1", "--family", "leaders"], ["--seeds", "1-2", "--family", "none"],
        ["--seeds", "1-2", "--shrink", "x"], ["--seed", "x"], [], ["--scenario", "none"],
        ["--scenario", str(tmp_path / "bad.json")],
    )  # fmt: skip
    program = [sys.executable, "-c", REFUSED, str(SCRIPT.parent), json.dumps(wrong)]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout or "null") == [2] * len(wrong), done.stderr
    assert "Traceback" not in done.stderr


def test_the_seeds_of_a_family() -> None:
    ring = [*itertools.islice(seeds_of("ring changes", itertools.count()), 3)]
    assert [draw(seed).family for seed in ring] == ["ring changes"] * 3
    assert [*seeds_of("", range(5, 8))] == [5, 6, 7]
    assert [*seeds_of("no such", range(5))] == []
