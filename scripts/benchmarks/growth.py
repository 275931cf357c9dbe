"""How it grows: with the size of values, with clients at once, with nodes. Redis beside it, and a dict in an actor."""

from __future__ import annotations

import random
import string
import time
from typing import TYPE_CHECKING, Any

import raykv
from benchmarks.sides import DictActorSide, RaykvSide, redis_side
from benchmarks.stage import STORE, keys_in_turn
from benchmarks.timing import Timed, alternate, percentile, settle, spread

if TYPE_CHECKING:
    from benchmarks.sides import AsyncSide, Side
    from benchmarks.stage import Stage

VALUE_BYTES = (100, 300, 1_000, 3_000, 10_000)
CLIENTS = (1, 4, 16, 64, 256, 1024)
NODES = (3, 6, 9)
KEYS = 500


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``growth``."""
    redis = redis_side(stage)
    actor = stage.end_with(DictActorSide())
    peers: list[AsyncSide] = [side for side in (redis, actor) if side is not None]
    ours = RaykvSide(stage.store())
    found = {"value_bytes": _values(stage, [ours, *peers]), "clients": _clients(stage, [ours, *peers])}
    raykv.shutdown(STORE)
    found["nodes"] = _nodes(stage, [side for side in (redis,) if side is not None])
    return found


def _text(size_bytes: int) -> str:
    return "".join(random.Random(size_bytes).choices(string.ascii_letters, k=size_bytes))


def _values(stage: Stage, sides: list[AsyncSide]) -> dict[str, Any]:
    """Return p50 of get and put, one client, by the size of a value."""
    found: dict[str, Any] = {}
    for size_bytes in VALUE_BYTES[:: 4 if stage.quick else 1]:
        stage.report(f"growth: values of {size_bytes:,} bytes")
        value = _text(size_bytes)
        keys = [f"{size_bytes}:{number}" for number in range(KEYS)]
        for side in sides:
            side.put_many(dict.fromkeys(keys, value))
            assert side.get(keys[0]) == value
        found[str(size_bytes)] = _one_client(stage, sides, keys, value)
    return found


def _one_client(stage: Stage, sides: list[Any], keys: list[str], value: str) -> dict[str, Any]:
    def timed(side: Side, kind: str) -> Timed:
        put = side.put
        work = side.get if kind == "get" else lambda key: put(key, value)
        return Timed(work, (50 if side.fast else 10) // (5 if stage.quick else 1))

    settle()
    figures: dict[str, Any] = {}
    for kind in ("get", "put"):
        rounds: dict[str, list[float]] = {side.name: [] for side in sides}
        for turn in range(stage.rounds):
            work = {side.name: timed(side, kind) for side in sides}
            for name, taken in alternate(work, keys_in_turn(keys, turn), turn, 1 if stage.quick else 6).items():
                rounds[name].append(percentile(taken, 0.5))
        figures[f"{kind}_p50_us"] = {name: spread(values) for name, values in rounds.items()}
    return figures


def _clients(stage: Stage, sides: list[AsyncSide]) -> dict[str, Any]:
    """Return gets a second and their latencies, by clients at once (tasks of one process)."""
    data = stage.some(2_000)
    keys = list(data)
    for side in sides:
        side.put_many(data)
    found: dict[str, Any] = {}
    for width in CLIENTS[:: 3 if stage.quick else 1]:
        stage.report(f"growth: {width:,} clients at once")
        found[str(width)] = _many_clients(stage, sides, keys, width)
    return found


def _many_clients(stage: Stage, sides: list[Any], keys: list[str], width: int) -> dict[str, Any]:
    counts = {side.name: (4_096 if side.fast else 1_024) // (8 if stage.quick else 1) for side in sides}
    if width <= 4:
        counts = {name: count // 4 for name, count in counts.items()}
    chosen = {side.name: side.tune((keys * 2)[: max(2 * width, counts[side.name] // 4)], width) for side in sides}
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    middles: dict[str, list[float]] = {side.name: [] for side in sides}
    tails: dict[str, list[float]] = {side.name: [] for side in sides}
    settle()
    for turn in range(stage.rounds):
        order = keys_in_turn(keys, turn)
        begin = turn % len(sides)
        for side in sides[begin:] + sides[:begin]:
            some = (order * 3)[: max(counts[side.name], 2 * width)]
            began = time.perf_counter()
            taken = side.at_once(some, width)
            rates[side.name].append(len(some) / (time.perf_counter() - began))
            middles[side.name].append(percentile(taken, 0.5))
            tails[side.name].append(percentile(taken, 0.99))
    return {
        "ops_per_s": {name: spread(values) for name, values in rates.items()},
        "p50_us": {name: spread(values) for name, values in middles.items()},
        "p99_us": {name: spread(values) for name, values in tails.items()},
        "chosen": chosen,
    }


def _nodes(stage: Stage, peers: list[AsyncSide]) -> dict[str, Any]:
    """Return the same by nodes: three copies of everything, on more and more nodes of this one machine."""
    found: dict[str, Any] = {}
    data = stage.some(2_000)
    for nodes in NODES[:1] if stage.quick else NODES:
        stage.report(f"growth: {nodes} nodes")
        sides: list[AsyncSide] = [RaykvSide(stage.store(nodes)), *peers]
        for side in sides:
            side.put_many(data)
        keys = list(data)
        figures = _one_client(stage, sides, keys[:KEYS], _text(300))
        for side in sides:
            side.put_many(data)
        found[str(nodes)] = figures | _many_clients(stage, sides, keys, 256)
        raykv.shutdown(STORE)
        sides[0].close()
    return found
