"""The processor time of each operation, beside that of another tree of the same project.

Both trees run a store of three nodes at the same time, each in a Ray of its own, and work in turn, a short block each.
What counts is processor time, of the client's process and of the storage nodes', since a clock on a wall also shows what
else the machine does. A ratio is formed within a round; the median of the rounds is shown, and between which quartiles
half of them lie.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent.parent.parent
RECORDS = 3_000
BATCH = 1_000
AT_ONCE = 256
STORE = "against"
Pair: TypeAlias = "tuple[tuple[float, float], tuple[float, float]]"
"""What a block took, in microseconds a pair, of the client and of all nodes together: here, and in the other tree."""
COUNTS = {
    "get": 400, "put": 300, "put, lww": 300, "get_many": 10 * BATCH, "put_many": 5 * BATCH, "put_many, lww": 5 * BATCH,
    f"{AT_ONCE} concurrent get": 10 * AT_ONCE,
}  # fmt: skip
"""Operation -> how many pairs a block of it reads or writes."""


# ---- one side: a process of its own, with raykv of the tree that PYTHONPATH names ----


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds, by the clock that Linux keeps for each."""
    return time.clock_gettime((~pid << 3) | 2)


def storage_nodes() -> list[int]:
    """Return the processes of storage nodes among the descendants of this one."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def is_ours(pid: int) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return bool(pid)

    return [pid for pid, command in commands.items() if command.startswith("ray::StorageNode") and is_ours(pid)]


def works() -> dict[str, Callable[[Sequence[str]], Any]]:
    """Start a store; return what each operation does with keys."""
    import raykv
    from benchmarks.timing import closed_loop

    vector = raykv.start(STORE, nodes=3, path=tempfile.mkdtemp(dir=os.environ["TMPDIR"]), durability="interval")
    lww = vector.bucket("lww", versioning="lww")
    runner = asyncio.Runner()
    values = {f"city:{number}": {"name": f"city {number}", "at": [number * 0.5] * 8} for number in range(RECORDS)}

    def each(work: Callable[[str], Any]) -> Callable[[Sequence[str]], Any]:
        def run(keys: Sequence[str]) -> None:
            for key in keys:
                work(key)

        return run

    def batches(work: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], Any]:
        def run(keys: Sequence[str]) -> None:
            for at in range(0, len(keys), BATCH):
                work(keys[at : at + BATCH])

        return run

    return {
        "get": each(vector.get),
        "put": each(lambda key: vector.put(key, values[key])),
        "put, lww": each(lambda key: lww.put(key, values[key])),
        "get_many": batches(vector.get_many),
        "put_many": batches(lambda keys: vector.put_many({key: values[key] for key in keys})),
        "put_many, lww": batches(lambda keys: lww.put_many({key: values[key] for key in keys})),
        f"{AT_ONCE} concurrent get": lambda keys: runner.run(closed_loop(vector.aio.get, keys, AT_ONCE)),
    }


def measured(work: Callable[[], Any]) -> tuple[float, float] | None:
    """Return what some work takes of the client's and the nodes' processors; None: it failed, or a node has ended meanwhile.

    Both happen on a machine that has far more to do than it can.
    """
    from raykv import RaykvError

    nodes = storage_nodes()
    try:
        nodes_s, client_s = sum(map(cpu_s, nodes)), time.process_time()
        work()
        return time.process_time() - client_s, sum(map(cpu_s, nodes)) - nodes_s
    except (OSError, RaykvError):
        return None


def be_a_side() -> None:
    """Do the operations that lines of standard input name, [name, turn]; answer each with [client s, nodes s]."""
    import ray

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything else prints is no answer
    ray.init(
        address="local", num_cpus=2, object_store_memory=150 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    do = works()
    keys = [f"city:{number}" for number in range(RECORDS)]
    do["put_many"](keys)
    do["put_many, lww"](keys)
    gc.collect()
    gc.freeze()
    print(json.dumps(len(storage_nodes())), file=answers, flush=True)
    for line in sys.stdin:
        name, turn = json.loads(line)
        begin = turn * 379 % RECORDS
        chosen = ((keys[begin:] + keys[:begin]) * (COUNTS[name] // RECORDS + 1))[: COUNTS[name]]
        while (took := measured(lambda: do[name](chosen))) is None:  # noqa: B023 - it is called here
            pass
        print(json.dumps(took), file=answers, flush=True)
    ray.shutdown()


# ---- both sides ----


class Tree:
    """A side, by pipes."""

    def __init__(self, root: Path, scratch: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{HERE / 'scripts'}", "TMPDIR": scratch},
            cwd=root,
        )  # fmt: skip
        if self._answer() != 3:
            raise RuntimeError(f"the storage nodes of {root} were not found among its processes")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a side has ended; see its words above")
        return json.loads(line)

    def run(self, name: str, turn: int) -> tuple[float, float]:
        """Return microseconds of processor time for each pair: of the client, of all nodes together."""
        assert self._process.stdin is not None
        print(json.dumps([name, turn]), file=self._process.stdin, flush=True)
        client_s, nodes_s = self._answer()
        return 1e6 * client_s / COUNTS[name], 1e6 * nodes_s / COUNTS[name]

    def __enter__(self) -> Self:
        """Be open."""
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def measure(other: Path, rounds: int, names: Sequence[str] = tuple(COUNTS)) -> list[dict[str, Any]]:
    """Return a row for each operation: microseconds a pair, and how they compare with the other tree's."""
    taken: dict[str, list[Pair]] = {name: [] for name in names}
    with (
        tempfile.TemporaryDirectory(prefix="raykv-against-", ignore_cleanup_errors=True) as scratch,
        Tree(other, scratch) as theirs,
        Tree(HERE, scratch) as ours,
    ):
        for turn in range(-1, rounds):  # the first one finds no caches
            for at, name in enumerate(names):
                sides = [ours, theirs] if (turn + at) % 2 else [theirs, ours]
                took_us = {side: side.run(name, turn) for side in sides}
                if turn >= 0:
                    taken[name].append((took_us[ours], took_us[theirs]))
    return [_row(name, pairs) for name, pairs in taken.items()]


def _row(name: str, pairs: list[Pair]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    for part, pick in (("client", lambda us: us[0]), ("nodes", lambda us: us[1]), ("both", sum)):
        ours, theirs = [pick(pair[0]) for pair in pairs], [pick(pair[1]) for pair in pairs]
        ratios = sorted(our / their for our, their in zip(ours, theirs, strict=True))
        row[part] = {
            "ours_us": statistics.median(ours), "theirs_us": statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "quartiles": (ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]),
        }  # fmt: skip
    return row


def text(rows: list[dict[str, Any]]) -> str:
    """Return a table."""
    lines = [f"{'us of processor time a pair':28}" + "".join(f"{part:>34}" for part in ("client", "nodes", "both"))]
    for row in rows:
        line = f"{row['name']:28}"
        for part in ("client", "nodes", "both"):
            each = row[part]
            low, high = each["quartiles"]
            line += f"{each['theirs_us']:9.1f} ->{each['ours_us']:7.1f} {each['ratio']:5.2f} {low:4.2f}-{high:4.2f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Be a side: ``scripts/bench --against`` starts them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    be_a_side()


if __name__ == "__main__":
    main()
