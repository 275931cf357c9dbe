"""raykv beside itself: its tail at half of what it can, a copy that is frozen or slow, more clients than it can serve.

Each measure returns its name in ``floors.PROMISES``, the figures of each round beside those that they are held against,
and what else was seen. ``amiss`` counts operations that failed although none was to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import ray

import raykv
from benchmarks.sides import POLITE_S
from benchmarks.stage import STORE, keys_in_turn
from benchmarks.timing import latencies_us, longer_until, open_loop, percentile, settle, spread

if TYPE_CHECKING:
    from benchmarks.sides import RaykvSide
    from benchmarks.stage import Stage

Found: TypeAlias = tuple[str, list[float], list[float], dict[str, Any]]

AT_ONCE = 256
TAIL_S = 3.0
BEHIND_S = 0.1
"""A load that needs this much longer than planned has piled up,"""
PILED_UP = 10.0
"""and so has one whose p50 is this multiple of a lone client's."""
HEALTHY_S = 1.5
FOUND_OUT_S = 2.0
"""The delay from the freeze until throughput counts."""
FROZEN_S = 2.0
SLOW_S = 0.2
UP_TIMEOUT_S = 90.0
PUT_EVERY = 5
"""Every fifth operation of a mixed load is a put, the others are gets."""
CLIENTS = 16
OUTSTANDING = 128
"""Operations under way at each client: together more than the nodes let in."""
LADDER = (1, 2, 4, 8)
STEP_S = 1.0


class _Carried(NamedTuple):
    """What became of a load that does not wait."""

    taken: list[float]
    """Microseconds that each operation took which did not fail."""
    failed: int
    took_s: float
    late_s: float
    """How much longer than planned."""


def _carried(side: RaykvSide, keys: list[str], rate: float, draw: random.Random, duration_s: float) -> _Carried:
    began = time.perf_counter()
    taken, failed = side.runner.run(open_loop(side.bucket.aio.get, keys, rate, duration_s, draw, raykv.RaykvError))
    took_s = time.perf_counter() - began
    return _Carried(taken, failed.total(), took_s, took_s - duration_s)


def _some_taken(carried: _Carried) -> bool:
    return bool(carried.taken)


def tail(stage: Stage, side: RaykvSide, keys: list[str]) -> Found:
    """p99.9 of ``get`` at half the saturation load beside its p50, in one client process.

    The load comes at random moments and does not wait for anybody. Saturation is what gets through of a load of that kind
    that is too much. Where half of it piles up as well, the round was ``behind``: a p50 that is all waiting in line makes
    the ratio small, and says nothing.
    """
    high, middle, loads, alone, behind, amiss = [], [], [], [], 0, 0
    settle()
    side.rate(keys[:2048], AT_ONCE)
    for turn in range(stage.rounds):
        stage.report(f"floors: tail at half load, round {turn + 1}")
        order, draw = keys_in_turn(keys, turn), random.Random(turn)
        most = side.rate((order * 2)[: 2_048 if stage.quick else 5_120], AT_ONCE)
        through = longer_until(partial(_carried, side, order, most, draw), _some_taken, 0.3 if stage.quick else 1.0)
        load = len(through.taken) / through.took_s / 2

        def carry(duration_s: float, order: list[str] = order, load: float = load, draw: Any = draw) -> _Carried:
            nonlocal amiss
            carried = _carried(side, order, load, draw, duration_s)
            amiss += carried.failed
            return carried

        carried = longer_until(carry, _some_taken, 0.7 if stage.quick else TAIL_S)
        alone.append(percentile(side.at_once(order[:200], 1), 0.5))
        middle.append(percentile(carried.taken, 0.5))
        behind += carried.late_s > BEHIND_S or middle[-1] > PILED_UP * alone[-1]
        high.append(percentile(carried.taken, 0.999))
        loads.append(load)
    return "tail", high, middle, {"load": spread(loads), "alone": spread(alone), "behind": behind, "amiss": amiss}


# ---- a copy that does not answer, or late ----


async def mixed(
    bucket: Any, keys: list[str], width: int, until_s: float, pause_s: float = 0.0
) -> Counter[tuple[int, str]]:
    """Get and put at once by ``width`` clients until ``until_s`` (of the wall clock).

    Returns (tenth of a second, outcome) -> count: "ok", or the name of the error.
    """
    outcomes: Counter[tuple[int, str]] = Counter()
    draw = random.Random(width)
    get, put = bucket.get, bucket.put

    async def client(number: int) -> None:
        at = number * 131
        while time.time() < until_s:
            at += 1
            key, outcome = keys[at % len(keys)], "ok"
            try:
                if at % PUT_EVERY:
                    await get(key)
                else:
                    await put(key, {"name": key, "turn": at})
            except raykv.RaykvError as error:
                outcome = type(error).__name__
            outcomes[int(time.time() * 10), outcome] += 1
            if outcome == "Overloaded" and pause_s:
                await asyncio.sleep(pause_s * (0.5 + draw.random()))

    await asyncio.gather(*(client(number) for number in range(width)))
    return outcomes


def between(outcomes: Counter[tuple[int, str]], begin_s: float, end_s: float, outcome: str = "ok") -> float:
    """Return how many a second had this outcome, in whole tenths of a second."""
    tenths = range(int(begin_s * 10) + 1, int(end_s * 10))
    return sum(outcomes[tenth, outcome] for tenth in tenths) / max(0.1, len(tenths) / 10)


def frozen(stage: Stage, side: RaykvSide, keys: list[str]) -> Found:
    """Stop a storage process by SIGSTOP: throughput from 2 s later on, beside before. Sixteen clients, one process.

    If the supervisor starts another in its place meanwhile, that is part of what is measured.
    """
    store, later, before, failed, longest = raykv.connect(STORE), [], [], 0, 0.0
    settle()
    for turn in range(1 if stage.quick else stage.rounds):
        stage.report(f"floors: one replica frozen, round {turn + 1}")

        def measure(healthy_s: float, turn: int = turn) -> _Frozen:
            nonlocal failed
            found = _with_one_frozen(store, turn % 3, side, keys, healthy_s, 0.5 if stage.quick else FROZEN_S)
            failed += found.failed
            return found

        found = longer_until(measure, lambda found: found.before, 0.5 if stage.quick else HEALTHY_S)
        before.append(found.before)
        later.append(found.later)
        longest = max(longest, found.longest_silence_s)
    return "frozen", later, before, {"amiss": failed, "longest_silence_s": longest}


class _Frozen(NamedTuple):
    """What a load saw of a replica that froze: operations a second before, and once that was found out."""

    before: float
    later: float
    failed: int
    longest_silence_s: float


def _with_one_frozen(
    store: raykv.Store, number: int, side: RaykvSide, keys: list[str], healthy_s: float, frozen_s: float
) -> _Frozen:
    pid = store.status()["nodes"][number]["pid"]
    begin_s = time.time()
    stop_s = begin_s + 0.5 + healthy_s
    found_out_s = stop_s + min(frozen_s, FOUND_OUT_S)
    end_s = found_out_s + frozen_s
    stopper = threading.Timer(stop_s - time.time(), os.kill, (pid, signal.SIGSTOP))
    stopper.start()
    try:
        outcomes = side.runner.run(mixed(side.bucket.aio, keys, CLIENTS, end_s))
    finally:
        stopper.join()
        with contextlib.suppress(ProcessLookupError):  # the supervisor has ended it
            os.kill(pid, signal.SIGCONT)
    until_all_up(store)
    failed = sum(count for (_, outcome), count in outcomes.items() if outcome != "ok")
    return _Frozen(
        between(outcomes, begin_s + 0.5, stop_s), between(outcomes, found_out_s, end_s), failed,
        _longest_silence_s(outcomes),
    )  # fmt: skip


def _longest_silence_s(outcomes: Counter[tuple[int, str]]) -> float:
    ended = sorted({tenth for tenth, outcome in outcomes if outcome == "ok"})
    return max((b - a - 1) / 10 for a, b in itertools.pairwise(ended)) if len(ended) > 1 else 0.0


def until_all_up(store: raykv.Store) -> None:
    """Wait until all nodes are up again. Raises ``RuntimeError``."""
    until_s = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < until_s:
        with contextlib.suppress(raykv.RaykvError):
            if all(node["state"] == "up" and node["storage"] for node in store.status()["nodes"]):
                time.sleep(1.0)  # who was away is spoken to again
                return
        time.sleep(0.2)
    raise RuntimeError(f"not all nodes are up again after {UP_TIMEOUT_S:g} s")


class Slowed(threading.Thread):
    """Makes a process answer after up to ``SLOW_S``, by stopping and continuing it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.over = threading.Event()

    def run(self) -> None:
        """Go on until ``over``."""
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(SLOW_S)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(SLOW_S / 10)


def slow(stage: Stage, side: RaykvSide, keys: list[str]) -> Found:
    """p99 of ``get`` of one client while one of the three storage processes answers after up to 200 ms."""
    store, slowed_us, healthy_us = raykv.connect(STORE), [], []
    reads = 50 if stage.quick else 1000
    settle()
    for turn in range(stage.rounds):
        stage.report(f"floors: one replica slow, round {turn + 1}")
        order = keys_in_turn(keys, turn)
        some = [order[place % len(order)] for place in range(reads)]
        healthy_us.append(percentile(latencies_us(side.get, some), 0.99))
        slowed = Slowed(store.status()["nodes"][turn % 3]["pid"])
        slowed.start()
        slowed_us.append(percentile(latencies_us(side.get, some), 0.99))
        slowed.over.set()
        slowed.join()
    until_all_up(store)
    return "slow", slowed_us, healthy_us, {}


# ---- more clients than it can serve ----


@ray.remote(num_cpus=0, max_restarts=0)
class Client:
    """A client process of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.store = raykv.connect(STORE)

    def ready(self) -> None:
        """Answer, as soon as it can."""

    def work(self, keys: list[str], outstanding: int, begin_s: float, end_s: float) -> list[tuple[int, str, int]]:
        """Work at the same time as the others; return (tenth of a second, outcome, count)."""
        time.sleep(max(0.0, begin_s - time.time()))
        outcomes = self.runner.run(mixed(self.store.aio, keys, outstanding, end_s, POLITE_S))
        return [(tenth, outcome, count) for (tenth, outcome), count in outcomes.items()]


def overload(stage: Stage, side: RaykvSide, keys: list[str]) -> Found:
    """Sixteen client processes want more than the nodes can do: throughput beside the best that fewer of them reach.

    Unserved operations must fail with ``Overloaded``, at once; any other failure is amiss.
    """
    del side
    most, step_s = (2, 0.3) if stage.quick else (CLIENTS, STEP_S)
    stage.report(f"floors: overload, starting {most} client processes")
    clients = []
    for _ in range(most):  # one by one: starting a process takes a core
        clients.append(Client.remote())  # type: ignore[attr-defined]
        ray.get(clients[-1].ready.remote(), timeout=60)
    some, reached, peak, outcomes_seen = keys[:1000], [], [], Counter[str]()
    ladder: dict[int, list[float]] = {}
    try:
        _together(clients, some, 8, 0.5)
        for turn in range(1 if stage.quick else stage.rounds):
            stage.report(f"floors: overload, round {turn + 1}")
            steps = [step for step in LADDER if step < most]
            for step in steps:
                rate, _ = longer_until(
                    partial(_together, clients[:step], some, OUTSTANDING // 2), itemgetter(0), step_s
                )
                ladder.setdefault(step, []).append(rate)
            rate, outcomes = _together(clients, some, OUTSTANDING, 2 * step_s)
            reached.append(rate)
            peak.append(max(ladder[step][-1] for step in steps))
            outcomes_seen.update(outcomes)
    finally:
        for client in clients:
            ray.kill(client)
    amiss = sum(count for outcome, count in outcomes_seen.items() if outcome not in {"ok", "Overloaded"})
    seen = {
        "amiss": amiss,
        "outcomes": dict(outcomes_seen),
        "by_clients": {step: spread(rates) for step, rates in ladder.items()},
    }
    return "overload", reached, peak, seen


def _together(clients: list[Any], keys: list[str], outstanding: int, duration_s: float) -> tuple[float, Counter[str]]:
    """Return how many a second succeeded while all of them worked, and what became of all."""
    begin_s = time.time() + 0.2
    end_s = begin_s + 0.3 + duration_s
    outcomes: Counter[tuple[int, str]] = Counter()
    for some in ray.get([client.work.remote(keys, outstanding, begin_s, end_s) for client in clients], timeout=60):
        for tenth, outcome, count in some:
            outcomes[tenth, outcome] += count
    totals: Counter[str] = Counter()
    for (_, outcome), count in outcomes.items():
        totals[outcome] += count
    return between(outcomes, begin_s + 0.3, end_s), totals
