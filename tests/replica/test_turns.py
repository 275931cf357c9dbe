"""Turns: one lane after the other, each for a moment; nobody waits for long, and nothing is kept."""

from __future__ import annotations

import asyncio

import pytest
from led_nodes import run
from world import Clock

from raykv.replica import turns as module
from raykv.replica.turns import MOST_S, TURN_S, Turns

NAME, OTHER = (1, b"\x02k"), (1, b"\x02l")
LANES = [number.to_bytes(8) for number in range(9)]
LONG_S = 1e6


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_the_first_has_its_turn_at_once_and_each_key_its_own() -> None:
    async def story() -> None:
        turns = Turns(Clock())
        await turns.wait(NAME, LANES[0], LONG_S)
        await turns.wait(OTHER, LANES[1], LONG_S)
        assert now_s() == 0.0

    run(story())


def test_a_change_ends_the_turn_and_the_next_in_line_has_it() -> None:
    async def story() -> None:
        turns, order = Turns(Clock()), []

        async def update(lane: bytes) -> None:
            await turns.wait(NAME, lane, LONG_S)
            order.append((LANES.index(lane), round(now_s(), 6)))
            await asyncio.sleep(TURN_S / 5)
            turns.over(NAME, lane)

        await asyncio.gather(*(update(lane) for lane in LANES))
        assert order == [(at, round(at * TURN_S / 5, 6)) for at in range(len(LANES))]
        assert turns._queues == {}

    run(story())


def test_a_turn_that_is_not_used_is_lost() -> None:
    async def story() -> None:
        turns = Turns(Clock())
        await turns.wait(NAME, LANES[0], LONG_S)
        await turns.wait(NAME, LANES[1], LONG_S)
        assert now_s() == pytest.approx(TURN_S)
        turns.over(NAME, LANES[0])
        later = asyncio.get_running_loop().create_task(turns.wait(NAME, LANES[2], LONG_S))
        await asyncio.sleep(TURN_S / 2)
        assert not later.done(), "another's change ends no turn"
        await later
        assert now_s() == pytest.approx(2 * TURN_S)

    run(story())


@pytest.mark.parametrize(("until_s", "expected_s"), [(0.02, 0.02), (LONG_S, MOST_S)])
def test_nobody_waits_beyond_its_deadline_nor_for_long(until_s: float, expected_s: float) -> None:
    async def story() -> None:
        turns = Turns(Clock())
        await turns.wait(NAME, LANES[0], LONG_S)
        others = [
            asyncio.get_running_loop().create_task(turns.wait(NAME, number.to_bytes(8), LONG_S))
            for number in range(100, 200)
        ]
        await asyncio.sleep(0)
        await turns.wait(NAME, LANES[1], until_s)
        assert now_s() == pytest.approx(expected_s, abs=0.002)
        await asyncio.gather(*others)

    run(story())


def test_a_cancelled_waiter_is_passed_over() -> None:
    async def story() -> None:
        turns = Turns(Clock())
        await turns.wait(NAME, LANES[0], LONG_S)
        waiting = [asyncio.get_running_loop().create_task(turns.wait(NAME, lane, LONG_S)) for lane in LANES[1:3]]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        turns.over(NAME, LANES[0])
        await waiting[1]
        assert now_s() == 0.0

    run(story())


def test_a_bounded_number_waits_and_keys_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(module, "MAX_WAITING", 2)
        monkeypatch.setattr(module, "MAX_QUEUES", 5)
        turns = Turns(Clock())
        await turns.wait(NAME, LANES[0], LONG_S)
        waiting = [asyncio.get_running_loop().create_task(turns.wait(NAME, lane, LONG_S)) for lane in LANES[1:3]]
        await asyncio.sleep(0)
        await turns.wait(NAME, LANES[3], LONG_S)
        assert now_s() == 0.0, "it does not wait at all"
        await asyncio.gather(*waiting)
        for number in range(20):
            await turns.wait((2, bytes([number])), LANES[0], LONG_S)
            await asyncio.sleep(TURN_S)
        assert len(turns._queues) <= 5

    run(story())
