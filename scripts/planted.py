"""Switches the guards of raykv off, one at a time and in the simulation only, and counts the seeds until each is missed.

Every guard in the catalogue (``simulation.planted``) keeps some schedule from breaking a store. With the guard switched
off the simulation has to come upon such a schedule: if it does not, it is the simulation that is too weak. A seed counts
only if it is clean with the guard in place; of a bug that names a family of runs, seeds of that family are taken. Each bug
has a process of its own.

examples:
  scripts/planted                            all, 200 seeds each at the most
  scripts/planted --list                     the catalogue
  scripts/planted "no read repair" --seeds 1000
  scripts/planted --matching scan            those whose name or reason has the word in it
  scripts/planted --rule P4 --list           those that guard one invariant (raykv.protocol.invariants)
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import sys
import textwrap
import time
from typing import TYPE_CHECKING, NamedTuple

from raykv.protocol.invariants import RULES
from simulation.drawing import seeds_of
from simulation.hunt import Caught, hunt
from simulation.planted import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterable


class Row(NamedTuple):
    """What became of one hunt."""

    name: str
    caught: Caught | None
    seconds: float


def hunt_one(task: tuple[str, int, int]) -> Row:
    """Hunt one bug, in whatever process."""
    name, first, seeds = task
    gc.collect()
    gc.freeze()  # each run ends with a collection, which need not look at the modules again
    started_s = time.monotonic()
    caught = hunt(name, itertools.islice(seeds_of(CATALOGUE[name].family, itertools.count(first)), seeds))
    return Row(name, caught, time.monotonic() - started_s)


def show_catalogue(names: Iterable[str]) -> None:
    """Print what each bug is."""
    for name in names:
        bug = CATALOGUE[name]
        titles = "; ".join(f"{number} {RULES[number].lower()}" for number in bug.rule.split(", ") if number in RULES)
        print(f"{name}  [{titles or bug.rule}]" + (f"  in runs of the family {bug.family!r}" if bug.family else ""))
        print(textwrap.fill(bug.why, 110, initial_indent="    ", subsequent_indent="    "))
        for edit in bug.edits:
            print(f"    in {edit.target}")


def show(rows: Iterable[Row]) -> None:
    """Print the table."""
    width = max(map(len, CATALOGUE))
    print(f"\n{'switched off':<{width}}  {'rule':<9} {'at seed':>7}  {'seconds':>7}  what was reported")
    for row in rows:
        at, result = ("-", "NOT CAUGHT") if row.caught is None else (str(row.caught.seed), row.caught.violation.rule)
        print(f"{row.name:<{width}}  {CATALOGUE[row.name].rule:<9} {at:>7}  {row.seconds:>7.1f}  {result}")


def chosen(names: list[str], matching: str | None, rule: str | None = None) -> list[str]:
    """Return the bugs asked for, in the order of the catalogue; ends the program if one does not exist."""
    if unknown := [name for name in names if name not in CATALOGUE]:
        sys.exit(f"there is no planted bug {unknown[0]!r}; scripts/planted --list shows them all")
    wanted = [name for name in CATALOGUE if name in names or not names]
    if rule is not None:
        wanted = [name for name in wanted if rule in CATALOGUE[name].rule.split(", ")]
        if not wanted:
            sys.exit(f"no planted bug guards {rule!r}; scripts/planted --list shows them all")
    if matching is None:
        return wanted
    found = [name for name in wanted if matching.lower() in f"{name} {CATALOGUE[name].why}".lower()]
    return found or sys.exit(f"no planted bug has {matching!r} in its name or reason")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/planted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--list", action="store_true", help="show what there is, and hunt nothing")
    parser.add_argument("--matching", metavar="WORD", help="those with this word in their name or reason")
    parser.add_argument("--rule", metavar="NUMBER", help="those that guard this invariant")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="at most this many for each (default 200)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them (default 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="hunts at the same time (default 1)")
    return parser.parse_args()


def main() -> int:
    """Return 1 if a bug was not caught."""
    arguments = parse()
    try:
        return run(arguments)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def run(arguments: argparse.Namespace) -> int:
    """Hunt, or list."""
    names = chosen(arguments.names, arguments.matching, arguments.rule)
    if arguments.list:
        show_catalogue(names)
        return 0
    tasks = [(name, arguments.first, arguments.seeds) for name in names]
    rows: dict[str, Row] = {}
    # A process for each hunt: what one bug leaves behind in a module must not be there for the next.
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for row in pool.imap_unordered(hunt_one, tasks):
            rows[row.name] = row
            result = "NOT CAUGHT" if row.caught is None else f"at seed {row.caught.seed}: {row.caught.violation.rule}"
            print(f"{len(rows):3} of {len(names)}  {row.name}: {result}", flush=True)
    show(rows[name] for name in names)
    missed = sum(row.caught is None for row in rows.values())
    print(f"\n{len(rows) - missed} of {len(rows)} caught within {arguments.seeds} seeds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
