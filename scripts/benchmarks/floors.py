"""What raykv promises about its speed, each beside the peer that a user would otherwise pick, as a ratio.

A ratio is formed within a round, from sides that were measured in turn; what counts is the median of the rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ray

import raykv
from benchmarks import faults
from benchmarks.sides import (
    BareActor,
    DictActorSide,
    InternalKvSide,
    RaykvSide,
    Side,
    etcd_side,
    redis_side,
)
from benchmarks.stage import STORE, keys_in_turn
from benchmarks.timing import Timed, alternate, alternate_rates, per_second, percentile, settle, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stage import Stage

AT_ONCE = 256
BATCH = 1000
FAST_BLOCK, SLOW_BLOCK = 100, 20


class Promise(NamedTuple):
    """A ratio that must be at most, or at least, ``floor``, and had better be ``aim``; None: it is only shown."""

    what: str
    beside: str
    bound: Literal["most", "least"]
    floor: float | None
    aim: float | None
    unit: str = "us"

    def verdict(self, ratio: float) -> str:
        """Say what a ratio reaches: "aim", "floor", "missed"; "" if nothing is promised."""
        if self.floor is None or self.aim is None:
            return ""
        sign = 1 if self.bound == "least" else -1
        return "aim" if sign * ratio >= sign * self.aim else "floor" if sign * ratio >= sign * self.floor else "missed"


PROMISES = {
    "get": Promise("p50 of get, R=2, one client", "Redis GET", "most", 1.5, 1.0),
    "get_actor": Promise("p50 of get, R=2, one client", "a bare async actor call", "most", 0.25, 0.15),
    "put_lww": Promise("p50 of put, W=2, lww", "Redis SET", "most", 2.0, 1.3),
    "put_vector": Promise("p50 of put, W=2, vector", "Redis SET", "most", 3.0, 1.8),
    "at_once_actor": Promise(f"{AT_ONCE} concurrent get", "named dict actor", "least", 10.0, 15.0, "1/s"),
    "at_once_redis": Promise(f"{AT_ONCE} concurrent get", "redis.asyncio", "least", 1.0, 1.5, "1/s"),
    "get_many": Promise(f"get_many, {BATCH:,} a call", "Redis MGET", "least", 0.5, 0.8, "1/s"),
    "put_many": Promise(f"put_many, {BATCH:,} a call, vector", "Redis SET, pipelined", "least", 0.5, 1.0, "1/s"),
    "put_many_lww": Promise(f"put_many, {BATCH:,} a call, lww", "Redis SET, pipelined", "least", 0.5, 1.0, "1/s"),
    "tail": Promise("p99.9 of get at half the saturation load", "its p50", "most", 15.0, 10.0),
    "frozen": Promise("one replica frozen for 2 s: throughput", "healthy", "least", 0.6, 0.8, "1/s"),
    "overload": Promise("sixteen clients past saturation: throughput", "the peak", "least", 0.9, 0.95, "1/s"),
    "slow": Promise("p99 of get, one replica answers after up to 200 ms", "healthy", "most", None, None),
}  # fmt: skip


def row(name: str, ours: list[float], theirs: list[float], **more: Any) -> dict[str, Any]:
    """Return a measure with its ratio, and whether it keeps its promise. ``more``: what else was seen.

    ``amiss`` and ``behind``, among that, count what must not happen: then the promise is not kept, whatever the ratio.
    """
    promise = PROMISES[name]
    ratio = spread([our / their for our, their in zip(ours, theirs, strict=True)])
    return {
        "name": name, **promise._asdict(), "ours": spread(ours), "theirs": spread(theirs), "ratio": ratio,
        "verdict": "missed" if more.get("amiss") or more.get("behind") else promise.verdict(ratio["median"]), **more,
    }  # fmt: skip


class Floors:
    """All of it, on one store of three nodes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.rows: list[dict[str, Any]] = []
        self.beside: dict[str, dict[str, Any]] = {}
        """Operation -> side -> figures: also of those who have no promise to be held against."""
        self.chosen: dict[str, str] = {}
        """Side -> the way that was fastest for many at once."""
        store = stage.store()
        self.vector = RaykvSide(store, "raykv")
        self.lww = RaykvSide(store.bucket("lww", versioning="lww"), "raykv, lww")
        self.redis = redis_side(stage)
        self.actor = stage.end_with(DictActorSide())
        self.peers: list[Side] = [
            side for side in (self.redis, self.actor, InternalKvSide(), etcd_side(stage)) if side is not None
        ]
        self.data = stage.some(1_000 if stage.quick else 10_000)
        self.keys = list(self.data)

    def run(self) -> dict[str, Any]:
        """Measure all; return figures."""
        self._fill()
        self._one_client()
        self._at_once()
        self._batches()
        for measure in (faults.tail, faults.frozen, faults.slow, faults.overload):
            name, ours, theirs, more = measure(self.stage, self.vector, self.keys)
            self.rows.append(row(name, ours, theirs, **more))
        raykv.shutdown(STORE)
        return {
            "rows": self.rows,
            "beside": self.beside,
            "chosen": self.chosen,
            "refused": self.vector.refused,
            "records": len(self.data),
        }

    def _rounds(self, what: str) -> range:
        self.stage.report(f"floors: {what}")
        settle()
        return range(self.stage.rounds)

    def _fill(self) -> None:
        """Put everything everywhere, and see that it is there; all connections are open afterwards, and warm."""
        self.stage.report("floors: loading")
        for side in (self.vector, self.lww, *self.peers):
            few = dict(list(self.data.items())[: 2_000 if side.fast else 300])
            side.put_many(self.data if isinstance(side, (RaykvSide, DictActorSide)) or side is self.redis else few)
            for key in list(few)[:200]:
                side.put(key, few[key])
                assert side.get(key) == few[key], f"{side.name} gave back something else"
            many = self.keys[:100]
            assert side.get_many(many) == {key: self.data[key] for key in many}

    def _latencies(self, what: str, sides: dict[str, tuple[Callable[[str], Any], bool]]) -> dict[str, list[float]]:
        medians: dict[str, list[float]] = {name: [] for name in sides}
        timed = {name: Timed(work, FAST_BLOCK if fast else SLOW_BLOCK) for name, (work, fast) in sides.items()}
        blocks = 2 if self.stage.quick else 10
        alternate(timed, self.keys[:1000], 0, 1)  # the first ones find no caches
        for turn in self._rounds(what):
            # internal_kv and etcd have the first keys only: all sides go through these, in an order of each round's own
            keys = keys_in_turn(self.keys[:300], turn)
            for name, taken in alternate(timed, keys, turn, blocks).items():
                medians[name].append(percentile(taken, 0.5))
        self.beside[what] = {"unit": "us"} | {name: spread(rounds) for name, rounds in medians.items()}
        return medians

    def _one_client(self) -> None:
        bare = BareActor.remote()  # type: ignore[attr-defined]
        gets: dict[str, tuple[Callable[[str], Any], bool]] = {
            side.name: (side.get, side.fast) for side in (self.vector, *self.peers)
        }
        gets["a bare async actor call"] = (lambda _: ray.get(bare.nothing.remote()), False)
        found = self._latencies("get", gets)
        ray.kill(bare)
        if self.redis:
            self.rows.append(row("get", found["raykv"], found["Redis"]))
        self.rows.append(row("get_actor", found["raykv"], found["a bare async actor call"]))

        def puts(side: Side) -> Callable[[str], Any]:
            put, data = side.put, self.data
            return lambda key: put(key, data[key])

        found = self._latencies(
            "put", {side.name: (puts(side), side.fast) for side in (self.vector, self.lww, *self.peers)}
        )
        if self.redis:
            self.rows.append(row("put_lww", found["raykv, lww"], found["Redis"]))
            self.rows.append(row("put_vector", found["raykv"], found["Redis"]))

    def _at_once(self) -> None:
        sides = [side for side in (self.vector, self.redis, self.actor) if side is not None]
        what = f"{AT_ONCE} concurrent get"
        self.stage.report(f"floors: {what}, trying out")
        few = self.keys[:512] if self.stage.quick else (self.keys * 2)[:2048]
        for side in sides:
            self.chosen[side.name] = side.tune(few, AT_ONCE)
        rounds: dict[str, list[float]] = {side.name: [] for side in sides}
        for turn in self._rounds(what):
            keys = keys_in_turn(self.keys, turn)
            work = {
                side.name: lambda side=side, keys=keys: side.rate(keys[: 5_120 if side.fast else 1_280], AT_ONCE)
                for side in sides
            }
            for name, rate in alternate_rates(work, turn, 1 if self.stage.quick else 3).items():
                rounds[name].append(rate)
        self.beside[what] = {"unit": "1/s"} | {name: spread(rates) for name, rates in rounds.items()}
        self.rows.append(row("at_once_actor", rounds["raykv"], rounds["dict actor"]))
        if self.redis:
            self.rows.append(row("at_once_redis", rounds["raykv"], rounds["Redis"]))

    def _batches(self) -> None:
        sides: list[Side] = [side for side in (self.vector, self.lww, self.redis, self.actor) if side is not None]
        for name in ("get_many", "put_many"):
            rounds: dict[str, list[float]] = {side.name: [] for side in sides}
            for turn in self._rounds(name):
                batch = keys_in_turn(self.keys, turn)[:BATCH]
                items = {key: self.data[key] for key in batch}
                work = {
                    side.name: (
                        lambda side=side, items=items, name=name: per_second(
                            (lambda: side.get_many(list(items)))
                            if name == "get_many"
                            else (lambda: side.put_many(items)),
                            len(items),
                        )
                    )
                    for side in sides
                }
                for side, rate in alternate_rates(work, turn, 3 if self.stage.quick else 8).items():
                    rounds[side].append(rate)
            self.beside[f"{name}, {BATCH:,} a call"] = {"unit": "1/s"} | {
                side: spread(rates) for side, rates in rounds.items()
            }
            if self.redis:
                self.rows.append(row(name, rounds["raykv"], rounds["Redis"]))
                if name == "put_many":
                    self.rows.append(row("put_many_lww", rounds["raykv, lww"], rounds["Redis"]))


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``floors``."""
    return Floors(stage).run()
