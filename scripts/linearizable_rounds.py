"""Linearizable buckets on real Ray while the leaders of their keys are killed and frozen; then all is checked.

  history  clients in several processes add, put on conditions, delete, swap, update and get on eight keys; every five
           seconds the process of a node that leads some of them is killed, or frozen for one to four seconds (with --faults
           nodes join and leave, too). All that they were told goes through the checker of the simulation
           (scripts/simulation/change_checker.py)
  tasks    eight Ray tasks add to one counter, and the leader is killed in between: it is to be exact
  lock     eight processes acquire one lock 500 times and write under its fencing token, also when their lease is over;
           every few seconds the present holder is killed, or frozen for longer than its lease. No two may hold one token,
           or the lock at a time, and no write may stand after one under a later token

One Ray and one store of three nodes for all parts. Ends with 1 if a history is not linearizable, an acknowledged change is
lost or counted twice, or a node does not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, TextIO

import ray

import raykv
from leaders import leaders, pids
from rounds import holders
from rounds.changes import BUCKET, KEYS, Client, Clients, answers, as_lines
from rounds.trouble import KINDS, Trouble, until_all_up
from simulate import Ticker
from simulation.change_checker import check_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulation.change_checker import ChangeOp
    from simulation.history import Violation

NAME = "linearizable-rounds"
PARTS = ("history", "tasks", "lock")
PROCESSES = 4
TASKS = 8
HOLDERS = 8
HOLDER_EVERY_S = 3.0
POLL_S = 0.3
MOST_S = 3.0
"""An acquisition may take so long on average."""
STEPS_A_CALL = 200
"""The checker may take so many steps for each call before it gives up."""
OBJECT_STORE_BYTES = 100 * 1024 * 1024


# ---- a history ----


def history(store: raykv.Store, arguments: argparse.Namespace) -> dict[str, Any]:
    """Have clients work while leaders are killed and frozen; return what the checker says, and the gaps in service."""
    store.bucket(BUCKET, versioning="linearizable")
    each = max(1, arguments.clients // PROCESSES)
    calls = max(1, arguments.operations // (each * PROCESSES))
    processes = [
        Clients.remote(  # type: ignore[attr-defined]
            NAME, "coordinator" if number == PROCESSES - 1 else "auto", [f"c{number}.{at}" for at in range(each)],
            arguments.seed * 1000 + number * 100,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    ray.get([process.take.remote() for process in processes])
    trouble = Trouble(store, KEYS, arguments.every, arguments.seed, arguments.faults.split(","))
    ops: list[ChangeOp] = []
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(arguments.history, "w")) if arguments.history else None
        stack.callback(lambda: [ray.kill(process) for process in processes])
        stack.callback(trouble.end)
        working = [process.work.remote(calls) for process in processes]
        trouble.start()
        ticker = Ticker()
        while working:
            done, working = ray.wait(working, num_returns=len(working), timeout=POLL_S)
            ray.get(done)
            _take(processes, ops, file)
            unknown = sum(op.outcome == "unknown" for op in ops)
            ticker.tick(
                f"{len(ops):,} of {calls * each * PROCESSES:,} calls, {unknown} unknown, {len(trouble.events)} faults"
            )
        trouble.end()
        _take(processes, ops, file)
        taken_s = time.monotonic() - began_s
        ticker.end()
        until_all_up(store)
        ops += _last_words(store)
    print(f"{len(ops):,} calls in {taken_s:.0f} s; now they are checked", file=sys.stderr, flush=True)
    found = _checked(ops)
    return {
        "calls": len(ops),
        "seconds": round(taken_s, 1),
        "outcomes": dict(sorted(collections.Counter(f"{op.kind} {op.outcome}" for op in ops).items())),
        "errors": dict(collections.Counter(op.error[:100] for op in ops if op.error).most_common(8)),
        "faults": dict(collections.Counter(event.kind for event in trouble.events)),
        "postponed": trouble.postponed,
        "gaps_s": _gaps(ops, trouble, began_s),
        "lost": _lost(ops),
        "violations": [f"{each.rule}: {each.text}"[:1500] for each in found],
    }


def _take(processes: list[Any], ops: list[ChangeOp], file: TextIO | None) -> None:
    for some in ray.get([process.take.remote() for process in processes]):
        ops += some
        if file is not None:
            file.writelines(as_lines(some))


def _last_words(store: raykv.Store) -> list[ChangeOp]:
    """Read all keys when all is over."""
    bucket = store.bucket(BUCKET, versioning="linearizable")

    async def read() -> list[ChangeOp]:
        client = Client("last", bucket, 0)
        for key in KEYS:
            await client.step("get", key)
            await client.step("get_versioned", key)
        return client.ops

    return asyncio.run(read())


def _check_key(ops: list[ChangeOp]) -> list[Violation]:
    return check_changes(ops, max_steps=STEPS_A_CALL * len(ops))


def _checked(ops: list[ChangeOp]) -> list[Violation]:
    """Check each key in a process of its own."""
    by_key: dict[str, list[ChangeOp]] = {}
    for op in ops:
        by_key.setdefault(op.key, []).append(op)
    ticker, found = Ticker(), []
    processes, quiet = min(2, os.cpu_count() or 1), (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(processes, signal.signal, quiet) as pool:
        for done, violations in enumerate(pool.imap_unordered(_check_key, by_key.values()), start=1):
            found += violations
            ticker.tick(f"{done} of {len(by_key)} keys are checked, {len(found)} violations")
    ticker.end()
    return found


def _lost(ops: list[ChangeOp]) -> int:
    """Return how much less counters show in the end than was acknowledged."""
    lost = 0
    for key in (key for key in KEYS if key.startswith("ln")):
        own = [op for op in ops if op.key == key]
        acknowledged = sum(
            op.given for op in own if op.kind == "add" and op.outcome == "ok" and isinstance(op.given, int)
        )
        last = max((op for op in own if op.kind == "get"), key=lambda op: op.invoked_s)
        lost += max(0, acknowledged - (last.got if isinstance(last.got, int) else 0))
    return lost


def _gaps(ops: list[ChangeOp], trouble: Trouble, began_s: float) -> dict[str, Any]:
    """Return the longest gaps in service, of the keys whose leader was met: for each kind of fault, and before any."""
    by_key = answers(ops)
    by_kind: dict[str, list[float]] = {}
    for event in trouble.events:
        met = [by_key[key].longest_gap_s(event.at_s, event.over_s) for key in event.keys if key in by_key]
        by_kind.setdefault(event.kind, []).append(max(met, default=0.0))
    if trouble.events:
        by_kind["before"] = [own.longest_gap_s(began_s + 1.0, trouble.events[0].at_s) for own in by_key.values()]
    return {
        kind: {"median": round(statistics.median(gaps), 3), "max": round(max(gaps), 3)}
        for kind, gaps in by_kind.items()
    }


# ---- tasks that count ----


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def add_many(store: str, key: str, adds: int, routing: Any) -> int:
    """Add one, so many times; return the last sum."""
    bucket = raykv.connect(store, routing=routing).bucket(BUCKET, versioning="linearizable")
    last = 0
    for _ in range(adds):
        last = bucket.add(key, 1, timeout=30)
    return last


def tasks(store: raykv.Store, arguments: argparse.Namespace) -> dict[str, Any]:
    """Have tasks add to one counter while its leader is killed."""
    bucket = store.bucket(BUCKET, versioning="linearizable")
    key, wanted = f"tasks-{random.Random(arguments.seed).getrandbits(32)}", TASKS * arguments.adds
    bucket.put(key, 0)
    began_s = time.monotonic()
    working = [
        add_many.remote(NAME, key, arguments.adds, "coordinator" if number == 0 else "auto") for number in range(TASKS)
    ]
    ticker, killed, at = Ticker(), "", 0
    while working:
        done, working = ray.wait(working, num_returns=len(working), timeout=POLL_S)
        ray.get(done)
        at = bucket.get(key, timeout=30) or 0
        ticker.tick(f"the counter is at {at:,} of {wanted:,}")
        if not killed and at >= wanted // 4:
            killed = leaders(store, [key])[key]
            os.kill(pids(store)[killed], signal.SIGKILL)
    ticker.end()
    found = bucket.get(key, timeout=30)
    until_all_up(store)
    return {
        "adds": wanted, "counted": found, "killed": killed, "seconds": round(time.monotonic() - began_s, 1),
        "violations": [] if found == wanted and killed else [f"{wanted} adds were acknowledged, the counter is at {found}"],
    }  # fmt: skip


# ---- a lock ----


def lock(store: raykv.Store, arguments: argparse.Namespace) -> dict[str, Any]:
    """Have processes acquire a lock, and kill and freeze its holders; return what is amiss."""
    store.bucket(BUCKET, versioning="linearizable")
    began_s, hit_s = time.monotonic(), time.monotonic()
    met: dict[str, int] = {"killed": 0, "frozen": 0}
    ticker = Ticker()
    with tempfile.TemporaryDirectory(prefix="raykv-journals-") as journals, contextlib.ExitStack() as stack:
        crew = Crew(journals, arguments.seed)
        stack.callback(crew.end)
        frozen: dict[int, float] = {}
        stack.callback(go_on_all, frozen)
        count = 0
        while count < arguments.acquisitions and time.monotonic() - began_s < arguments.acquisitions * MOST_S:
            crew.fill()
            time.sleep(POLL_S / 3)
            count = len(holders.read(journals).tenancies)
            ticker.tick(
                f"{count} of {arguments.acquisitions} acquisitions, {met['killed']} killed, {met['frozen']} frozen"
            )
            for pid in [pid for pid, until_s in frozen.items() if until_s < time.monotonic()]:
                go_on_all([pid])
                del frozen[pid]
            if time.monotonic() - hit_s > HOLDER_EVERY_S and (present := holders.present_holder(journals)) is not None:
                hit_s = time.monotonic()
                kind = "killed" if met["killed"] <= met["frozen"] else "frozen"
                met[kind] += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(present.pid, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
                if kind == "frozen":
                    frozen[present.pid] = time.monotonic() + 2 * holders.LEASE_S
        ticker.end()
        go_on_all(frozen)
        crew.finish()
        told = holders.read(journals)
    found = holders.violations(told)
    if count < arguments.acquisitions:
        found.append(f"the lock was acquired {count} times only")
    return {
        "acquisitions": len(told.tenancies),
        "seconds": round(time.monotonic() - began_s, 1),
        "holders": met,
        "writes": dict(collections.Counter(call.outcome for call in told.calls)),
        "last_token": max((tenancy.token for tenancy in told.tenancies), default=0),
        "violations": [text[:1500] for text in found],
    }


def go_on_all(pids_frozen: Iterable[int]) -> None:
    """Have processes go on that were frozen."""
    for pid in pids_frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Crew:
    """The processes that want the lock: others come for those that were killed."""

    def __init__(self, journals: str, seed: int) -> None:
        self._journals = journals
        self._seed = seed
        self._begun = 0
        self._working: dict[Any, Any] = {}
        """What a holder's work returns -> the holder."""

    def fill(self) -> None:
        """Begin as many as there are to be."""
        if self._working:
            ended, _ = ray.wait([*self._working], num_returns=len(self._working), timeout=0)
            for work in ended:
                with contextlib.suppress(ray.exceptions.RayActorError):
                    ray.get(work)
                del self._working[work]
        while len(self._working) < HOLDERS:
            self._begun += 1
            name = f"holder{self._begun}"
            holder = holders.Holder.remote(  # type: ignore[attr-defined]
                NAME, name, os.path.join(self._journals, name), self._seed * 1000 + self._begun
            )
            self._working[holder.work.remote()] = holder

    def finish(self) -> None:
        """Let all end what they are about. Raises ``GetTimeoutError``."""
        for holder in self._working.values():
            holder.stop.remote()
        for work in self._working:
            with contextlib.suppress(ray.exceptions.RayActorError):
                ray.get(work, timeout=2 * holders.WAIT_S)

    def end(self) -> None:
        """End all processes."""
        for holder in self._working.values():
            ray.kill(holder)


def main() -> int:
    """Return 1 if anything is amiss."""
    parser = argparse.ArgumentParser(
        prog="scripts/linearizable_rounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help=f"{', '.join(PARTS)} (default all)")
    parser.add_argument("--operations", type=int, default=200_000, help="calls of the history (default 200000)")
    parser.add_argument(
        "--clients", type=int, default=16, help=f"of the history, in {PROCESSES} processes (default 16)"
    )
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between faults (default 5)")
    parser.add_argument(
        "--faults",
        default=",".join(KINDS[:2]),
        metavar="KINDS",
        help=f"of the history: {', '.join(KINDS)} (default the first two)",
    )
    parser.add_argument("--adds", type=int, default=1000, help=f"of each of the {TASKS} tasks (default 1000)")
    parser.add_argument(
        "--acquisitions", type=int, default=500, help=f"of the lock, by {HOLDERS} processes (default 500)"
    )
    parser.add_argument(
        "--durability", default="group", choices=["group", "interval", "always"], help="the store's (default group)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--history", metavar="FILE", help="write each call there, a line of JSON each")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    if (
        arguments.operations < 1
        or arguments.clients < 1
        or arguments.adds < 1
        or arguments.acquisitions < 1
        or arguments.every <= 0
    ):
        parser.error("numbers are 1 or more")
    measures = {"history": history, "tasks": tasks, "lock": lock}
    figures: dict[str, Any] = {"seed": arguments.seed}
    with tempfile.TemporaryDirectory(prefix="raykv-linearizable-", ignore_cleanup_errors=True) as path:
        ray.init(
            address="local", num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
        try:
            store = raykv.start(NAME, nodes=3, path=path, durability=arguments.durability)
            for part in arguments.parts or PARTS:
                figures[part] = measures[part](store, arguments)
                print(json.dumps({part: figures[part]}, indent=1), flush=True)
            raykv.shutdown(NAME)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            ray.shutdown()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=1)
    return int(any(figures[part]["violations"] or figures[part].get("lost") for part in arguments.parts or PARTS))


if __name__ == "__main__":
    sys.exit(main())
