"""What compaction costs, by policy: write, read and space amplification of one node over a month, simulated in seconds.

The decisions are raykv's own (``raykv.storage.compaction``: pick and apply); the records are stand-ins, each a key and a
size, which really are merged. A memtable holds --memtable of them. Sizes scale: 10,000 keys and memtables of 128 have as
many flushes, runs and levels as 640 MB and memtables of 8 MB.

The load: --turnover times all keys are written a day, four fifths of the writes to one fifth of the keys. Some writes are
deletes (--deletes) or carry a time to live of a day (--expiring). A deleted or expired record stays for its grace of ten
days, as in a store; then it is forgotten, by a deletion marker in the log-structured tree. In the last --idle days nothing
is written.

    writes      bytes written to tables (flushes and merges) over bytes of the load; the log adds 1
    runs        sorted runs that a read or a scan has to ask: in the mean, and at most
    space       bytes in tables over bytes of the newest records, dead ones within their grace included: in the mean
                after the first three days, at most, and at the end, after the idle days
    dead        bytes at the end, in tables, of records that have been forgotten
    largest     the largest merge, over the size of the store at the end: disk that has to be free for it
    moved       tables that went down a level as they were

The curve shows space day by day, from 1.0 (lowest) to 3.0.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.config import MAX_TTL_S, NodeConfig
from raykv.storage import compaction

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_MS = 86_400_000
GRACE_MS = 10 * DAY_MS
TTL_MS = DAY_MS
RECORD_BYTES = 300
TOMBSTONE_BYTES = 60
MARKER_BYTES = 20
HOT_KEYS, HOT_WRITES = 0.2, 0.8
LOOKS_A_DAY = 24
SETTLED_DAYS = 3
BARS = "▁▂▃▄▅▆▇█"
BARS_FROM, BARS_TO = 1.0, 3.0


class Load(NamedTuple):
    """What is written."""

    days: int = 30
    idle: int = 3
    keys: int = 10_000
    memtable: int = 128
    turnover: float = 1.0
    deletes: float = 0.1
    expiring: float = 0.2
    seed: int = 1


class Moment(NamedTuple):
    """An hour of the load: memtables that were filled, and what the newest records then weigh."""

    now_ms: int
    flushed: list[dict[bytes, int]]
    """Key -> size of its record; 0: a deletion marker."""
    newest_bytes: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table of stand-ins; see ``compaction.TableLike``."""

    number: int
    records: dict[bytes, int]
    size_bytes: int
    smallest: bytes
    largest: bytes
    markers: int
    covers: int
    since_ms: int

    @property
    def count(self) -> int:
        """The number of records."""
        return len(self.records)


class Run(NamedTuple):
    """See ``compaction.RunLike``."""

    number: int
    tables: tuple[Table, ...]

    @property
    def size_bytes(self) -> int:
        """The size of its tables."""
        return sum(table.size_bytes for table in self.tables)


def moments(load: Load) -> Iterator[Moment]:
    """Yield the load, hour by hour."""
    rng = random.Random(load.seed)
    names = [b"%06d" % number for number in range(load.keys)]
    rng.shuffle(names)
    hot, cold = names[: int(HOT_KEYS * load.keys)], names[int(HOT_KEYS * load.keys) :]
    dead_ms: dict[bytes, int] = {}  # when what is stored dies, or has died
    held: dict[bytes, int] = {}
    memtable: dict[bytes, int] = {}
    held_bytes = 0
    due = 0.0
    for hour in range(load.days * LOOKS_A_DAY):
        now_ms = (hour + 1) * DAY_MS // LOOKS_A_DAY
        flushed: list[dict[bytes, int]] = []

        def put(key: bytes, size: int) -> None:
            nonlocal memtable, held_bytes
            memtable[key] = size
            held_bytes += size - held.pop(key, 0)
            if size:
                held[key] = size
            if len(memtable) >= load.memtable:
                flushed.append(memtable)  # noqa: B023 - called within this hour only
                memtable = {}

        if hour < (load.days - load.idle) * LOOKS_A_DAY:
            due += load.keys * load.turnover / LOOKS_A_DAY
            for _ in range(int(due)):
                key = rng.choice(hot if rng.random() < HOT_WRITES else cold)
                kind = rng.random()
                dead_ms.pop(key, None)
                if kind < load.deletes:
                    dead_ms[key] = now_ms
                elif kind < load.deletes + load.expiring:
                    dead_ms[key] = now_ms + TTL_MS
                put(key, TOMBSTONE_BYTES if kind < load.deletes else RECORD_BYTES)
            due -= int(due)
        if hour % LOOKS_A_DAY == 0:  # the daily repair forgets what all owners may
            for key in [key for key, at_ms in dead_ms.items() if at_ms + GRACE_MS <= now_ms]:
                del dead_ms[key]
                put(key, 0)
        yield Moment(now_ms, flushed, held_bytes)


class Store:
    """The tables of one node under one policy."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.runs: list[Run] = []
        self.flushed_bytes = self.merged_bytes = self.largest_bytes = self.moved = 0
        self._numbers = 0

    def flush(self, memtable: dict[bytes, int], now_ms: int) -> None:
        """Make a run of a memtable."""
        tables = self._tables(memtable, self.runs, now_ms)
        self.flushed_bytes += sum(table.size_bytes for table in tables)
        if tables:
            self.runs = [Run(tables[0].number, tuple(tables)), *self.runs]

    def work(self, now_ms: int) -> None:
        """Merge whatever the policy finds due."""
        while (task := compaction.pick(self.runs, self.config, now_ms)) is not None:
            taken = [
                [next(table for table in run.tables if table.number == number) for number in part.tables]
                for part in task.parts
                for run in self.runs
                if run.number == part.run
            ]
            inputs = [table for tables in taken for table in tables]
            at = [run.number for run in self.runs].index(task.parts[-1].run)
            if len(inputs) == 1 and not inputs[0].markers:
                self.moved += 1
                merged = inputs
            else:
                newest: dict[bytes, int] = {}
                for tables in reversed(taken):
                    for table in tables:
                        newest |= table.records
                since_ms = min((table.since_ms for table in inputs if table.markers), default=0)
                merged = self._tables(newest, self.runs[at + 1 :], since_ms)
                self.merged_bytes += sum(table.size_bytes for table in merged)
                self.largest_bytes = max(self.largest_bytes, sum(table.size_bytes for table in inputs))
            self.runs = compaction.apply(self.runs, task, merged, Run)

    @property
    def size_bytes(self) -> int:
        """The size of all tables."""
        return sum(run.size_bytes for run in self.runs)

    def dead_bytes(self) -> int:
        """Return the size of records that lie below a deletion marker."""
        newest: dict[bytes, int] = {}
        found = 0
        for run in self.runs:
            for table in run.tables:
                for key, size in table.records.items():
                    found += size if newest.setdefault(key, size) == 0 else 0
        return found

    def _tables(self, records: dict[bytes, int], older: list[Run], since_ms: int) -> list[Table]:
        keys = sorted(records) if older else sorted(key for key, size in records.items() if size)
        most = self.config.table_bytes // RECORD_BYTES
        below = [table for run in older for table in run.tables]
        made = []
        for begin in range(0, len(keys), most):
            part = {key: records[key] for key in keys[begin : begin + most]}
            first, last = keys[begin], keys[begin + len(part) - 1]
            covered: set[bytes] = set()
            for table in below:
                if table.smallest <= last and first <= table.largest:
                    covered |= part.keys() & table.records.keys()
            self._numbers += 1
            markers = sum(1 for size in part.values() if not size)
            made.append(
                Table(
                    self._numbers, part, sum(size or MARKER_BYTES for size in part.values()), first, last, markers,
                    len(covered), since_ms if markers else 0,
                )
            )  # fmt: skip
        return made


def policies(load: Load) -> dict[str, NodeConfig]:
    """Return the policies to compare."""
    memtable_bytes = load.memtable * RECORD_BYTES
    common: dict[str, Any] = {
        "memtable_bytes": memtable_bytes, "table_bytes": 4 * memtable_bytes, "max_unflushed_bytes": 8 * memtable_bytes
    }  # fmt: skip
    unbounded: dict[str, Any] = {"max_space_amplification": 1000.0, "max_marker_age_s": MAX_TTL_S}
    return {
        "tiered, no bound on garbage": NodeConfig(**common, **unbounded),
        "tiered (default)": NodeConfig(**common),
        "tiered, space 1.2": NodeConfig(**common, max_space_amplification=1.2),
        "leveled, ratio 10": NodeConfig(**common, compaction="leveled"),
        "leveled, ratio 4": NodeConfig(**common, compaction="leveled", level_ratio=4),
    }


def simulate(config: NodeConfig, hours: list[Moment]) -> dict[str, Any]:
    """Run the load under one policy; return its figures."""
    store = Store(config)
    runs: list[int] = []
    space: list[float] = []
    for hour in hours:
        for memtable in hour.flushed:
            store.flush(memtable, hour.now_ms)
            store.work(hour.now_ms)
            runs.append(len(store.runs))
        store.work(hour.now_ms)
        space.append(store.size_bytes / max(1, hour.newest_bytes))
    settled = space[SETTLED_DAYS * LOOKS_A_DAY :] or space
    return {
        "write_amplification": (store.flushed_bytes + store.merged_bytes) / store.flushed_bytes,
        "runs_mean": sum(runs) / len(runs),
        "runs_most": max(runs),
        "space_mean": sum(settled) / len(settled),
        "space_most": max(settled),
        "space_at_end": space[-1],
        "dead_bytes_at_end": store.dead_bytes(),
        "largest_merge": store.largest_bytes / store.size_bytes,
        "moved_tables": store.moved,
        "space_by_day": space[LOOKS_A_DAY - 1 :: LOOKS_A_DAY],
    }


def curve(values: list[float]) -> str:
    """Draw values as bars."""
    steps = len(BARS) - 1
    return "".join(
        BARS[min(steps, max(0, round((value - BARS_FROM) / (BARS_TO - BARS_FROM) * steps)))] for value in values
    )


def shown(figures: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table."""
    lines = [
        f"{'':28} {'writes':>6} {'runs':>9} {'space':>17} {'dead':>9} {'largest':>8} {'moved':>6}",
        f"{'':28} {'':>6} {'mean most':>9} {'mean  most   end':>17} {'bytes':>9} {'':>8} {'':>6}  day by day",
    ]
    lines += [
        f"{name:28} {row['write_amplification']:6.1f} {row['runs_mean']:4.1f} {row['runs_most']:4d}"
        f" {row['space_mean']:5.2f} {row['space_most']:5.2f} {row['space_at_end']:5.2f} {row['dead_bytes_at_end']:9,d}"
        f" {row['largest_merge']:8.2f} {row['moved_tables']:6d}  {curve(row['space_by_day'])}"
        for name, row in figures.items()
    ]
    return "\n".join(lines)


def count(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to 10,000,000; got {text!r}")
    return int(text)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"it must be a number from 0 to 1; got {text}")
    return value


def parse() -> tuple[Load, Path | None]:
    """Read the command line."""
    usual = Load()
    parser = argparse.ArgumentParser(
        prog="scripts/amplification", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=count, default=usual.days, metavar="D", help=f"({usual.days})")
    parser.add_argument(
        "--idle", type=int, default=usual.idle, metavar="D", help=f"of these, at the end ({usual.idle})"
    )
    parser.add_argument("--keys", type=count, default=usual.keys, metavar="N", help=f"({usual.keys})")
    parser.add_argument(
        "--memtable", type=count, default=usual.memtable, metavar="N", help=f"records in a memtable ({usual.memtable})"
    )
    parser.add_argument(
        "--turnover", type=float, default=usual.turnover, metavar="X", help=f"writes a day over keys ({usual.turnover})"
    )
    parser.add_argument(
        "--deletes", type=share, default=usual.deletes, metavar="S", help=f"share of writes ({usual.deletes})"
    )
    parser.add_argument(
        "--expiring", type=share, default=usual.expiring, metavar="S", help=f"share of writes ({usual.expiring})"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, metavar="N", help=f"({usual.seed})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    given = vars(parser.parse_args())
    target = given.pop("json")
    load = Load(**given)
    if not 0 <= load.idle < load.days:
        parser.error(f"--idle must be from 0 to less than --days ({load.days}); got {load.idle}")
    if not 0 < load.turnover <= 1000:
        parser.error(f"--turnover must be above 0 and at most 1000; got {load.turnover:g}")
    if not 16 <= load.memtable <= load.keys:
        parser.error(f"--memtable must be from 16 to the number of keys ({load.keys}); got {load.memtable}")
    if load.deletes + load.expiring > 1:
        parser.error("--deletes and --expiring together must be at most 1")
    return load, target


def main() -> int:
    """Simulate, and print the table."""
    load, target = parse()
    hours = list(moments(load))
    if not any(hour.flushed for hour in hours):
        print("the load fills no memtable: more --days, --keys or --turnover, or a smaller --memtable", file=sys.stderr)
        return 2
    figures: dict[str, dict[str, Any]] = {}
    for name, config in policies(load).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = simulate(config, hours)
    print(shown(figures))
    if target:
        target.write_text(json.dumps({"load": load._asdict(), "policies": figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
