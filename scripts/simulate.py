"""Runs complete raykv clusters in virtual time, each with the faults that its seed draws, and checks every promise.

A failing seed prints what happened and the command that runs it again; the same seed gives the same run, always. Ends
with 1 if a promise was broken, or if something that must happen now and then never did in 100 seeds or more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from raykv.errors import CorruptData
from simulation.attempt import attempt
from simulation.batch import Job, batch, replay, run_seed
from simulation.conversations import conversations
from simulation.core_coverage import coverage_of, run_seed_measured
from simulation.drawing import draw, seeds_of
from simulation.failure_report import report
from simulation.observed import observed
from simulation.scenario_file import load, save
from simulation.shrink import BUDGET_RUNS, shrink, size_of
from simulation.sometimes import TABLE, never, total

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulation.batch import Result
    from simulation.scenario import Scenario

GOLDEN = Path(__file__).parent.parent / "tests" / "simulation" / "golden"
REPORTS = 3
"""The number of failing seeds reported in full; the others get one line each."""
LINE_EVERY_S = 15.0
SHOWN_EVERY_S = 0.5


class Ticker:
    """A line on stderr that says how far we are: over and over the same one on a terminal, else now and then one."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()

    def tick(self, line: str) -> None:
        """Show the line, if it is time to."""
        now_s = time.monotonic()
        if now_s - self._shown_s > (SHOWN_EVERY_S if self._terminal else LINE_EVERY_S):
            self._shown_s = now_s
            print(f"\r{line}   " if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print(file=sys.stderr)


class Progress(Ticker):
    """How far a batch is."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.seeds = seeds
        self.done = self.failures = 0
        self.virtual_s = 0.0
        self.operations = 0
        self.began_s = time.monotonic()

    def add(self, result: Result) -> None:
        """Count a result; show where we are if it is time to."""
        self.done += 1
        self.failures += bool(result.violations)
        self.virtual_s += result.virtual_s
        self.operations += result.operations
        left_min = (self.seeds - self.done) / self.done * (time.monotonic() - self.began_s) / 60
        self.tick(
            f"{self.done} of {self.seeds} seeds, {self.rates()}, {self.failures} failures, {left_min:.1f} min left"
        )

    def rates(self) -> str:
        """Return how fast it goes."""
        taken_s = time.monotonic() - self.began_s
        return f"{self.done / taken_s * 60:.0f} seeds a minute, {self.virtual_s / taken_s:.0f} virtual s a real s"

    def summary(self) -> str:
        """Return the figures of the whole batch."""
        self.end()
        return (
            f"{self.done} seeds in {(time.monotonic() - self.began_s) / 60:.1f} minutes: {self.operations:,} operations, "
            f"{self.virtual_s / 3600:.1f} virtual hours, {self.rates()}, {self.failures} failures"
        )


def run_batch(arguments: argparse.Namespace) -> int:
    """Run a range of seeds."""
    first, last = arguments.seeds
    seeds = [*seeds_of(arguments.family, range(first, last + 1))]
    if not seeds:
        known = sorted({draw(seed).family for seed in range(1000)} - {""})
        print(
            f"no seed from {first} to {last} is of the family {arguments.family!r}; there are {known}", file=sys.stderr
        )
        return 2
    progress = Progress(len(seeds))
    hashes: dict[int, str] = {}
    counts: Counter[str] = Counter()
    in_seeds: Counter[str] = Counter()
    reached: defaultdict[str, set[int]] = defaultdict(set)
    reported = 0
    job = Job(run=run_seed_measured if arguments.coverage else run_seed, weak=arguments.weak)
    for result in batch(seeds, jobs=arguments.jobs, job=job):
        progress.add(result)
        for file, numbers in result.reached.items():
            reached[file].update(numbers)
        hashes[result.seed] = result.trace_hash
        counts.update(result.counts)
        in_seeds.update(name for name, count in result.counts.items() if count)
        if result.violations:
            reported += 1
            rule = result.violations[0].rule
            again = f"seed {result.seed}: {rule}.  {replay(result.seed, weak=arguments.weak)}"
            full = reported <= REPORTS and not arguments.weak
            print(f"\n{result.report}\n" if full else again, flush=True)
    if arguments.trace_hashes:
        lines = [f"{seed} {hashes[seed]}\n" for seed in sorted(hashes)]
        arguments.trace_hashes.write_text("".join(lines))
    if arguments.counts:
        print(table_of(counts, in_seeds))
    left = 0
    if arguments.coverage:
        coverage = coverage_of(reached)
        left = coverage.left
        print(coverage.text, end="\n\n")
    missing = [] if arguments.weak or arguments.family else never(counts, progress.done)
    print("\n".join([*missing, progress.summary()]))
    if arguments.weak:
        print(f"with W=1 and R=1 the checkers reported in {progress.failures} of {progress.done} seeds")
        return int(progress.failures == 0)
    return int(bool(progress.failures or missing or left))


def table_of(counts: Mapping[str, int], in_seeds: Mapping[str, int]) -> str:
    """Return all counters, and what must happen now and then."""
    lines = [f"{'times':>10}{'in seeds':>10}  counter"]
    lines += [f"{counts[name]:>10,}{in_seeds[name]:>10,}  {name}" for name in sorted(counts)]
    lines += ["", f"{'times':>10}{'of seeds':>10}  must happen now and then"]
    lines += [f"{total(row, counts):>10,}{row.of:>10,}  {name}: {row.sentence}" for name, row in TABLE.items()]
    return "\n".join(lines)


def run_one(arguments: argparse.Namespace) -> int:
    """Run one seed or one scenario, and shrink it if asked to."""
    strict = not arguments.weak
    weak = " --weak" if arguments.weak else ""
    if arguments.scenario:
        try:
            scenario = load(arguments.scenario)
        except (OSError, CorruptData) as error:
            print(error, file=sys.stderr)
            return 2
        again = f"scripts/simulate --scenario {arguments.scenario}{weak}"
    else:
        scenario = draw(arguments.seed, weak=arguments.weak)
        again = replay(arguments.seed, weak=arguments.weak)
    outcome = attempt(scenario, strict=strict)
    if arguments.shrink and outcome.violations:
        scenario = shrink_to(scenario, outcome.violations[0].rule, arguments)
        again = f"scripts/simulate --scenario {arguments.shrink}{weak}"
        outcome = attempt(scenario, strict=strict)
    print(report(outcome, again))
    counts = Counter(outcome.counts) + observed(outcome)
    if arguments.counts:
        print("\n".join(["", *(f"{count:>10,}  {name}" for name, count in sorted(counts.items()))]))
    print(
        f"\n{outcome.operations} operations, {outcome.events} events, {outcome.virtual_s:.1f} virtual s, "
        f"trace {outcome.trace_hash or 'unknown'}"
    )
    return int(bool(outcome.violations) != arguments.weak)


def shrink_to(scenario: Scenario, rule: str, arguments: argparse.Namespace) -> Scenario:
    """Make a failing scenario small, write it to the file, and return it."""
    show = Ticker()
    small = shrink(
        scenario, rule=rule, strict=not arguments.weak, budget_runs=arguments.shrink_runs, progress=show.tick
    )
    save(small, arguments.shrink)
    show.end()
    print(f"{size_of(scenario)}; shrunk to {size_of(small)} in {arguments.shrink}", file=sys.stderr)
    return small


def write_golden() -> int:
    """Write the text of every conversation; say which have changed."""
    GOLDEN.mkdir(exist_ok=True)
    kept = {path.stem: path.read_text() for path in GOLDEN.glob("*.txt")}
    texts = dict(conversations())
    for name in sorted(kept.keys() | texts.keys()):
        path = GOLDEN / f"{name}.txt"
        if name not in texts:
            path.unlink()
        elif texts[name] != kept.get(name):
            path.write_text(texts[name])
        else:
            continue
        print(f"{'changed' if name in texts and name in kept else 'new' if name in texts else 'gone'}: {path}")
    return 0


def seed_range(text: str) -> tuple[int, int]:
    """Read A-B."""
    first, _, last = text.partition("-")
    try:
        numbers = int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A-B, two numbers") from None
    if not 0 <= numbers[0] <= numbers[1]:
        raise argparse.ArgumentTypeError(f"in {text!r} the second is below the first")
    return numbers


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=seed_range, metavar="A-B", help="all seeds from A to B, B included")
    what.add_argument("--seed", type=int, metavar="N", help="one seed, with a report of what went wrong")
    what.add_argument(
        "--golden",
        action="store_true",
        help="write the conversations of tests/simulation/golden anew, to be read as a diff",
    )
    what.add_argument("--scenario", type=Path, metavar="FILE", help="one scenario from a file that --shrink wrote")
    parser.add_argument(
        "--shrink", type=Path, metavar="FILE", help="leave out of a failing --seed or --scenario what can be; write it"
    )
    parser.add_argument(
        "--shrink-runs", type=int, default=BUDGET_RUNS, metavar="N", help=f"at most this many runs ({BUDGET_RUNS})"
    )
    parser.add_argument(
        "--family", default="", metavar="NAME",
        help='of --seeds only those whose runs are about one kind of trouble, as "ring changes" or "leaders"',
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (as many as there are cores)")
    parser.add_argument(
        "--trace-hashes", type=Path, metavar="FILE", help="write a line 'seed hash' for each of --seeds"
    )
    parser.add_argument("--counts", action="store_true", help="print all counters, and what must happen now and then")
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="print which lines of the coordination core the --seeds do not reach; 1 if there are any that are not named",
    )
    parser.add_argument(
        "--weak", action="store_true",
        help="W=1 and R=1, held to what strict quorums promise: the checkers must report, and 0 says that they did",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.shrink and arguments.seeds:
        parser.error("--shrink goes with --seed or --scenario")
    if arguments.family and not arguments.seeds:
        parser.error("--family goes with --seeds")
    if arguments.trace_hashes and not arguments.seeds:
        parser.error("--trace-hashes goes with --seeds")
    if arguments.coverage and not arguments.seeds:
        parser.error("--coverage goes with --seeds")
    return arguments


def main() -> int:
    """Return 0 if every promise was kept."""
    arguments = parse()
    try:
        if arguments.golden:
            return write_golden()
        return run_batch(arguments) if arguments.seeds else run_one(arguments)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
