"""The rate of background work: it gives way to clients, comes back, and never stops."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from raykv.repair.throttle import ADAPT_EVERY_S, CLIENTS_S, HURRY, STRETCH_S, Throttle

if TYPE_CHECKING:
    from types import ModuleType

MOST = 64_000
SHARE = 0.1


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def serve(throttle: Throttle, taken_s: float, for_s: float) -> None:
    """Answers that take ``taken_s``, 20 a second."""
    until_s = now_s() + for_s
    while now_s() < until_s:
        throttle.note(taken_s, now_s())
        await asyncio.sleep(0.05)


def test_what_is_taken_is_spaced_by_the_rate(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), 1000, SHARE)
        times = []
        for size_bytes in (500, 100, 0, 2000, 10):
            await throttle.take(size_bytes)
            times.append(round(now_s(), 6))
        assert times == [0, 0.5, 0.6, 0.6, 2.6], "each waits for what was taken before it"
        await asyncio.sleep(10)
        await throttle.take(100)
        assert now_s() == pytest.approx(12.6), "after a pause nothing is waited for"
        await throttle.take(100)
        assert now_s() == pytest.approx(12.7), "and no credit was saved up"

    world.run(story())


def test_all_takers_share_one_rate(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), 1000, SHARE)
        await asyncio.gather(*(throttle.take(200) for _ in range(11)))
        assert now_s() == pytest.approx(2.0)

    world.run(story())


@pytest.mark.parametrize(("usual_s", "now_taken_s", "gives_way"), [
    (0.010, 0.030, True),
    (0.010, 0.019, False),
    (0.0001, 0.0015, False),
    (0.0001, 0.010, True),
])  # fmt: skip
def test_the_rate_is_halved_when_answers_take_more_than_twice_as_long(
    world: ModuleType, usual_s: float, now_taken_s: float, gives_way: bool
) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        await serve(throttle, usual_s, 20)
        assert throttle.bytes_per_s == MOST
        rates = []
        for _ in range(5):
            await serve(throttle, now_taken_s, 0.6)
            rates.append(throttle.bytes_per_s)
        assert (min(rates) <= MOST / 2) == (throttle.slowed > 0) == gives_way
        fell = [rate for before, rate in pairwise([float(MOST), *rates]) if rate < before]
        assert all(MOST / rate in {2, 4, 8, 16, 32} for rate in fell[:1]), "by half each time"

    world.run(story())


def test_the_rate_grows_back_when_answers_are_fast_again(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        await serve(throttle, 0.01, 20)
        await serve(throttle, 0.2, 2.5)
        low = throttle.bytes_per_s
        assert MOST / 64 <= low <= MOST / 8
        await serve(throttle, 0.01, 3)
        assert low < throttle.bytes_per_s < MOST, "step by step"
        await serve(throttle, 0.01, 20)
        assert throttle.bytes_per_s == MOST, "and no further"

    world.run(story())


def test_the_rate_has_a_floor(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        await serve(throttle, 0.001, 20)
        taken_s, lowest = 0.1, float(MOST)
        for _ in range(20):
            taken_s *= 2
            await serve(throttle, taken_s, 1)
            lowest = min(lowest, throttle.bytes_per_s)
        assert lowest == MOST / 64

    world.run(story())


def test_what_stays_slow_becomes_usual(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        await serve(throttle, 0.01, 20)
        await serve(throttle, 0.1, 60)
        assert throttle.slowed > 0
        assert throttle.bytes_per_s == MOST

    world.run(story())


def test_without_clients_it_runs_at_its_most_and_old_times_say_nothing(world: ModuleType) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        await asyncio.sleep(100)
        await throttle.take(10)
        assert throttle.bytes_per_s == MOST
        await serve(throttle, 0.01, 20)
        await serve(throttle, 0.2, 2.5)
        low = throttle.bytes_per_s
        for _ in range(3):  # the clients have gone
            await asyncio.sleep(3 * ADAPT_EVERY_S)
            await throttle.take(0)
        assert throttle.bytes_per_s > low
        await asyncio.sleep(100)
        await throttle.take(0)
        assert throttle.bytes_per_s == MOST

    world.run(story())


def test_the_present_rate_is_what_spaces(world: ModuleType) -> None:
    async def story() -> None:
        throttle: Any = Throttle(world.Clock(), MOST, SHARE)
        throttle.bytes_per_s = 100.0
        await throttle.take(10)
        await throttle.take(10)
        assert now_s() == pytest.approx(0.1)

    world.run(story())


def test_work_rests_so_long_that_clients_have_most_of_the_time_and_not_at_all_when_there_are_none(
    world: ModuleType,
) -> None:
    async def story() -> None:
        throttle = Throttle(world.Clock(), MOST, SHARE)
        assert await throttle.rest(now_s() - 5) == now_s() == 0, "nobody has asked"
        throttle.note(0.001, now_s())
        began_s = now_s()
        await asyncio.gather(*(throttle.rest(now_s() - 0.003) for _ in range(4)))  # four who worked 3 ms each
        assert now_s() - began_s == pytest.approx(0.012 * (1 / SHARE - 1)), "together"
        assert await throttle.rest(now_s() - 0.003) == now_s()
        began_s = now_s()
        assert await throttle.rest(began_s - STRETCH_S / 2) == began_s - STRETCH_S / 2, "that counts with what follows"
        with throttle.hurry():
            began_s = now_s()
            await throttle.rest(began_s - 0.003)
            assert now_s() - began_s == pytest.approx(0.003 * (1 / (HURRY * SHARE) - 1))
        began_s = now_s()
        await throttle.rest(began_s - 0.003)
        assert now_s() - began_s == pytest.approx(0.003 * (1 / SHARE - 1))
        await asyncio.sleep(CLIENTS_S)
        began_s = now_s()
        assert await throttle.rest(now_s() - 5) == began_s, "they have gone"

    world.run(story())
