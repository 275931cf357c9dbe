"""Measures raykv beside what its users would pick otherwise: a named actor holding a dict, internal_kv, Redis, etcd.

Same run, same data, same keys in the same order, both sides encoding and decoding, in turn, over several rounds; what
counts is the ratio, its median, and how far it went from round to round. These machines are shared and noisy: single
figures say little.

Parts:
  floors   the ratios that raykv promises; about four minutes
  ycsb     YCSB's workloads A to F, zipfian, beside Redis
  growth   with the size of values, with clients at once, with nodes
  linearizable
           counters, conditional writes and updates beside a named actor, Redis and vector buckets; the longest gap in
           service when a leader is killed, is frozen, or its partition moves; each with its target; about five minutes
  queue    work queues beside Redis lists and ray.util.queue: eight consumers, one job and a hundred at a time; three of
           them killed amid 100,000 jobs; what a consumer asks that waits; each with its target; about six minutes
  scans    a page of 50 among many records, all keys, pairs behind deleted ones, and YCSB's E in a grouped bucket beside
           Redis, with its target; --records 2000000 for the full size, which takes some minutes to load
  commands a command at the shell, from its start to its end: straight to a coordinator on its host, and by way of Ray; with
           its target; about two minutes
  values   arrays, frames and Arrow tables beside the same by pickle: encoding, decoding, put, get, bytes; and what pairs of
           1 KB to 1 MiB cost: latency, and memory of the nodes; three minutes
  data     all 234,908 records of GeoNames written and read through ray.data, beside put_many and scan; a join of zipfian
           keys beside single gets; the same while storage processes are killed, each record exactly once; with targets
  engine   one storage engine beside RocksDB, LMDB and SQLite on all 234,908 records of GeoNames, each side in a process
           of its own: loads synced and unsynced, cold, absent and hot gets, a full scan, size on disk, peak memory; each
           with its floor and aim as a ratio to RocksDB. Without Ray; about ten minutes
  all      all of it

With --against it compares the processor time of this tree's operations with that of another tree (git worktree add).

Redis needs its server (apt install redis-server) and redis-py (pip install 'raykv[bench]'; scripts/bench has it). It is
started on a free port of the loopback with a directory of its own and ended again, as is etcd. RocksDB (rocksdict), LMDB
and zstandard come with the same extra. A side that is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import report

PARTS = (
    "floors",
    "ycsb",
    "growth",
    "linearizable",
    "queue",
    "scans",
    "commands",
    "values",
    "data",
    "engine",
)
MODULES = {"queue": "queues"}  # "queue" is one of the standard library
README = Path(__file__).parent.parent / "README.md"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    from benchmarks import engine, scans
    from benchmarks.stage import Progress, Stage, machine

    wanted = PARTS if "all" in arguments.parts else [part for part in PARTS if part in arguments.parts]
    rounds = 1 if arguments.quick and arguments.rounds is None else arguments.rounds or 5
    found: dict[str, Any] = {
        "machine": machine(),
        "settings": {"rounds": rounds, "durability": arguments.durability, "quick": arguments.quick},
    }
    if "engine" in wanted:  # without Ray: its processes would take from the sides
        progress = Progress()
        found["engine"] = engine.measure(rounds, quick=arguments.quick, report=progress.report)
        progress.report("engine: done")
        print()
    if staged := [part for part in wanted if part != "engine"]:
        records = 2_000 if arguments.quick else 10_000
        with Stage(rounds=rounds, quick=arguments.quick, durability=arguments.durability, records=records) as stage:
            for part in staged:
                with stage.part():
                    if part == "data":
                        found[part] = import_module("benchmarks.data").measure(stage, arguments.records)
                    elif part == "scans":
                        found[part] = scans.measure(stage, arguments.records or scans.RECORDS)
                    else:
                        found[part] = import_module(f"benchmarks.{MODULES.get(part, part)}").measure(stage)
            stage.report("done")
            print()
            found["skipped"] = stage.skipped
    return found


def main() -> int:
    """Measure, or take what was measured before; print, draw, write."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} or all (default floors)"
    )
    parser.add_argument(
        "--records", type=int, help="in the parts scans (default 200000) and data (default 234908, all of them)"
    )
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 5)")
    parser.add_argument(
        "--durability", default="interval", choices=["group", "interval", "always"],
        help="raykv's (default interval: it is what Redis does with appendfsync everysec)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a short run, to see that it runs: its figures say nothing"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", metavar="DIR", help="draw them there, as SVG")
    parser.add_argument(
        "--readme", nargs="?", const=str(README), metavar="FILE", help="rewrite the tables in README.md, or in FILE"
    )
    parser.add_argument(
        "--from", dest="stored", metavar="FILE", help="measure nothing: take the figures of an earlier --json"
    )
    parser.add_argument(
        "--against", metavar="TREE", type=Path, help="compare with raykv of another tree, 15 rounds: two minutes"
    )
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or ["floors"]
    if unknown := {*arguments.parts} - {*PARTS, "all"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: {', '.join(PARTS)} or all")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds is 1 or more")
    if arguments.records is not None and arguments.records < 1:
        parser.error("--records is 1 or more")
    if arguments.against:
        from benchmarks import against

        if not (arguments.against / "raykv").is_dir():
            parser.error(f"there is no raykv in {arguments.against}")
        compared = against.measure(arguments.against.resolve(), 1 if arguments.quick else arguments.rounds or 15)
        print(against.text(compared))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(compared, indent=1) + "\n")
        return 0
    found = json.loads(Path(arguments.stored).read_text()) if arguments.stored else measure(arguments)
    print(report.text(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plots:
        Path(arguments.plots).mkdir(parents=True, exist_ok=True)
        for name, drawing in report.plots(found).items():
            (Path(arguments.plots) / f"{name}.svg").write_text(drawing)
    if arguments.readme:
        page = Path(arguments.readme)
        page.write_text(report.readme(page.read_text(), found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
