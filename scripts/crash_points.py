"""Crash one node's storage before every operation on its disk, recover from what is left, compare with what it promised.

Loads (updates, syncs, flushes, compactions, clean stops, crashes), each decided by its seed, run on a simulated disk.
Before every operation on it the disks that a crash may leave are recovered one by one, and recoveries are cut off
too. See scripts/simulation/crash_points.py. Exit code 1 if a promise was broken; the command that shows it again is printed.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

from simulation.crash_points import Figures, Violation, explore, replay

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

PROGRESS_EVERY_S = 5.0


class Outcome(NamedTuple):
    """What came of one seed: figures, or what went wrong."""

    seed: int
    figures: Figures | None
    wrong: str


def work(first: int, stride: int, states: int, outcomes: SimpleQueue[Outcome]) -> None:
    """Explore seed after seed, until ended."""
    silence()
    for seed in itertools.count(first, stride):
        try:
            outcome = Outcome(seed, explore(seed, states=states), "")
        except Violation as violation:
            name = f"{violation.seed}:{violation.point}:{violation.choice}"
            outcome = Outcome(seed, None, f"{violation}\nagain: scripts/crash_points --replay {name}")
        except Exception:  # noqa: BLE001 - a load that fails without a crash is a finding too
            outcome = Outcome(seed, None, f"the load of seed {seed} failed\n{traceback.format_exc()}")
        outcomes.put(outcome)


def silence() -> None:
    """Log no torn tails: every second disk has one."""
    logging.getLogger("raykv.storage").setLevel(logging.CRITICAL)


def run(states: int, seed: int, jobs: int) -> int:
    """Explore until this many states are judged; return the exit code."""
    context = multiprocessing.get_context("spawn")
    outcomes: SimpleQueue[Outcome] = context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(seed + job, jobs, states, outcomes), daemon=True) for job in range(jobs)
    ]
    for worker in workers:
        worker.start()
    started = shown = time.monotonic()
    points = judged = recoveries = loads = 0
    wrong = ""
    while judged < states and not wrong:
        outcome = outcomes.get()
        wrong = outcome.wrong
        if outcome.figures is not None:
            loads += 1
            points += outcome.figures.points
            judged += outcome.figures.states
            recoveries += outcome.figures.recoveries
        now = time.monotonic()
        if now - shown >= PROGRESS_EVERY_S:
            shown = now
            rate = judged / (now - started)
            left_s = max(0, states - judged) / rate if rate else 0
            print(f"{judged:,} of {states:,} states, {rate:,.0f} a second, {left_s / 60:.1f} minutes left", flush=True)
    for worker in workers:
        worker.terminate()
        worker.join()
    taken_s = time.monotonic() - started
    print(
        f"{judged:,} states at {points:,} crash points of {loads} loads, {recoveries:,} recoveries, "
        f"{taken_s:.0f} s, {judged / taken_s:,.0f} states a second"
    )
    print(wrong or "no promise was broken")
    return 1 if wrong else 0


def show_again(seed: int, point: int, choice: int) -> int:
    """Judge one state; return the exit code."""
    silence()
    try:
        replay(seed, point, choice)
    except Violation as violation:
        print(violation)
        return 1
    except ValueError as error:
        print(error)
        return 2
    print("no promise was broken")
    return 0


def state(text: str) -> tuple[int, int, int]:
    """Return seed, point and choice."""
    seed, point, choice = map(int, text.split(":"))
    return seed, point, choice


def main() -> int:
    """Return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash_points", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--states", type=int, default=20_000,
        help="how many disks to judge, at least (default 20000, half a minute to a minute; 300000 take about ten minutes)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first load; the others have the numbers after it (default 1)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument(
        "--replay", metavar="SEED:POINT:CHOICE", type=state, help="judge one state alone, as a violation names it"
    )
    arguments = parser.parse_args()
    if arguments.replay is not None:
        return show_again(*arguments.replay)
    return run(arguments.states, arguments.seed, max(1, arguments.jobs))


if __name__ == "__main__":
    sys.exit(main())
