"""Rests between the steps of jobs, and answers held back, by load and by how far jobs are behind."""

from __future__ import annotations

import asyncio

import pytest

from raykv.node.pace import CLIENTS_S, HELD_BACK_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s


class Node:
    """A pace whose surroundings a test sets."""

    def __init__(self, share: float = 0.25) -> None:
        self.clock = Clock()
        self.pressure = 0.0
        self.ease = 1.0
        self.pace = Pace(self.clock, share, lambda: self.pressure, lambda: self.ease)  # type: ignore[arg-type]

    def worked(self, seconds: float) -> float:
        """Rest after a step of so many seconds; return how long."""
        began_s = self.clock.now_s
        self.clock.now_s += seconds
        self.clock.slept.clear()
        asyncio.run(self.pace.rest(began_s))
        return sum(self.clock.slept)


def test_without_clients_jobs_do_not_rest() -> None:
    node = Node()
    assert node.worked(0.01) == 0
    node.pace.note(node.clock.now_s)
    node.clock.now_s += CLIENTS_S + 0.1
    assert node.worked(0.01) == 0


def test_with_clients_jobs_take_their_share() -> None:
    node = Node(share=0.25)
    node.pace.note(node.clock.now_s)
    assert node.worked(0.01) == pytest.approx(0.03)


def test_where_answers_are_late_they_take_less_but_never_nothing() -> None:
    node = Node(share=0.25)
    node.pace.note(node.clock.now_s)
    node.ease = 0.5
    assert node.pace.share == pytest.approx(0.125)
    node.ease = 1 / 64
    assert node.pace.share == pytest.approx(0.0625)


def test_as_jobs_fall_behind_they_take_more_up_to_all() -> None:
    node = Node(share=0.2)
    node.ease = 0.25
    node.pace.note(node.clock.now_s)
    shares = []
    for tenth in range(11):
        node.pressure = tenth / 10
        shares.append(node.pace.share)
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.05)
    assert 0.3 < shares[1] < 0.4
    assert shares[4] == shares[-1] == 1.0
    assert node.worked(0.01) == 0


def test_answers_to_writes_are_held_back_more_and_more() -> None:
    node = Node()
    held = []
    for tenth in range(11):
        node.pressure = tenth / 10
        held.append(node.pace.held_back_s())
    assert held[0] == 0.0
    assert held == sorted(held)
    assert held[-1] == HELD_BACK_S
    assert held[3] == 0.0, "jobs take all of the time first"
    assert 0.0 < held[5] < HELD_BACK_S / 10, "gently at first"


def test_a_rest_is_bounded() -> None:
    node = Node(share=0.01)
    node.pace.note(node.clock.now_s)
    assert node.worked(0.5) <= CLIENTS_S
