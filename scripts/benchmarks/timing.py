"""How to measure fairly on a machine that others use too.

Sides are measured in turn, in short blocks, and who begins changes from block to block: what the machine does meanwhile
meets all of them. The median of a round counts, and the median and spread of the rounds. A latency under a load that
does not wait is counted from the moment at which the operation was due, so that a stall is charged to all whom it delayed.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping, Sequence

T = TypeVar("T")

LONGEST_S = 60.0
"""The longest window in which anything at all must be done."""


@dataclass
class Timed:
    """An operation on a key, and how many of them make a block."""

    work: Callable[[str], Any]
    block: int


def settle() -> None:
    """Have the collector look at nothing that is there already: the same for all sides."""
    gc.collect()
    gc.freeze()


def latencies_us(work: Callable[[str], Any], keys: Sequence[str]) -> list[float]:
    """Return how long each took, one after another, in microseconds."""
    clock, taken = time.perf_counter_ns, []
    for key in keys:
        began = clock()
        work(key)
        taken.append((clock() - began) / 1000)
    return taken


def alternate(sides: Mapping[str, Timed], keys: Sequence[str], turn: int, blocks: int) -> dict[str, list[float]]:
    """Return latencies by side. All go through the same keys in the same order, each block a few further."""
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for block in range(blocks):
        first = (turn + block) % len(names)
        for name in names[first:] + names[:first]:
            side = sides[name]
            places = range(block * side.block, (block + 1) * side.block)
            taken[name] += latencies_us(side.work, [keys[place % len(keys)] for place in places])
    return taken


def alternate_rates(sides: Mapping[str, Callable[[], float]], turn: int, blocks: int) -> dict[str, float]:
    """Return the median rate of each side over blocks."""
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for block in range(blocks):
        first = (turn + block) % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return {name: statistics.median(rates) for name, rates in found.items()}


def per_second(work: Callable[[], Any], count: int) -> float:
    """Return how many a second the work did."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def longer_until(measure: Callable[[float], T], is_some: Callable[[T], object], duration_s: float) -> T:
    """Return what ``measure(duration_s)`` finds, for twice as long each time while ``is_some`` says that it found nothing.

    On a busy machine no process may get to run within a short window, and a ratio to nothing is none. Raises
    ``RuntimeError`` when ``LONGEST_S`` was not enough.
    """
    while duration_s <= LONGEST_S:
        found = measure(duration_s)
        if is_some(found):
            return found
        duration_s *= 2
    raise RuntimeError(f"nothing was done within {LONGEST_S:g} s: this machine is too busy to measure anything")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(rounds: Sequence[float]) -> dict[str, Any]:
    """Return the median of rounds, and from where to where they went."""
    return {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds), "rounds": list(rounds)}


# ---- many at once ----


async def closed_loop(work: Callable[[str], Awaitable[Any]], keys: Sequence[str], width: int) -> list[float]:
    """Let ``width`` clients go through the keys, each one after another; return latencies in microseconds."""
    left, taken = iter(keys), []
    clock = time.perf_counter_ns

    async def client() -> None:
        for key in left:
            began = clock()
            await work(key)
            taken.append((clock() - began) / 1000)

    await asyncio.gather(*(client() for _ in range(width)))
    return taken


async def open_loop(
    work: Callable[[str], Awaitable[Any]],
    keys: Sequence[str],
    rate: float,
    duration_s: float,
    draw: random.Random,
    failures: type[Exception],
) -> tuple[list[float], Counter[str]]:
    """Begin ``rate`` operations a second at random moments, whatever has become of those before.

    Returns microseconds from the moment at which each was due, and how many failed, by the names of these ``failures``.
    It spins, since a loop's timers are a millisecond coarse.
    """
    clock, taken, failed = time.perf_counter, [], Counter[str]()
    tasks: set[asyncio.Task[None]] = set()

    async def one(key: str, due_s: float) -> None:
        try:
            await work(key)
        except failures as error:
            failed[type(error).__name__] += 1
        else:
            taken.append((clock() - due_s) * 1e6)

    due_s = clock()
    end_s, count = due_s + duration_s, 0
    while due_s < end_s:
        due_s += draw.expovariate(rate)
        while clock() < due_s:  # noqa: ASYNC110 - only the clock knows when
            await asyncio.sleep(0)
        task = asyncio.get_running_loop().create_task(one(keys[count % len(keys)], due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        count += 1
    while tasks:
        await asyncio.gather(*tasks)
    return taken, failed
