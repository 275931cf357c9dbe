"""The lanes that a leader has heard of: one call at a time, and what it was answered (L10, L11)."""

from __future__ import annotations

import pytest
from led_nodes import run
from world import Clock

from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.replica import lanes as module
from raykv.replica.lanes import Lanes
from raykv.replica.tenure import Tenure

LANE, OTHER, NAME = b"lane-one", b"lane-two", (1, b"\x02k")


class Hand:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_a_lane_goes_on_and_not_back() -> None:
    """*Schedule without (L10): a sending of its former call comes late, and is carried out once more.*"""
    lanes = Lanes(Hand())
    assert lanes.number(LANE) == -1
    first = lanes.of(LANE, 5, 110.0)
    assert first is not None
    first.calls[NAME] = f.Settled(c.DONE)
    assert lanes.of(LANE, 5, 105.0) is first, "the same call"
    assert first.calls
    assert lanes.of(LANE, 4, 110.0) is None
    assert lanes.of(LANE, 9, 110.0) is first
    assert first.calls == {}, "the former call was answered, or is never asked for again"
    assert lanes.of(LANE, 5, 110.0) is None
    assert (lanes.number(LANE), lanes.number(OTHER)) == (9, -1)


def test_a_lane_is_forgotten_when_none_of_its_calls_can_come_any_more() -> None:
    hand = Hand()
    lanes = Lanes(hand)
    lanes.of(LANE, 1, 105.0)
    lanes.of(LANE, 2, 103.0)
    lanes.of(OTHER, 1, 104.0)
    hand.now_s = 104.5
    assert not lanes.full
    assert (lanes.number(LANE), lanes.number(OTHER)) == (2, -1), "the longest of its deadlines counts"
    hand.now_s = 106.0
    assert not lanes.full
    assert lanes.number(LANE) == -1


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LANES", 3)
    hand = Hand()
    lanes = Lanes(hand)
    for number in range(3):
        assert not lanes.full
        lanes.of(number.to_bytes(8), 1, 103.0)
    assert lanes.full
    hand.now_s = 104.0
    assert not lanes.full


@pytest.mark.parametrize("status", range(12))
def test_what_is_final_is_remembered_and_all_else_may_be_asked_again(status: int) -> None:
    """*Schedule without (L11): the leader has refused a call, and carries it out when it comes once more.*"""

    async def story() -> None:
        lane = Lanes(Clock()).of(LANE, 1, 110.0)
        assert lane is not None
        waiter = Tenure((5, 3), bytes(16), ()).wait(f.Settled(c.DONE), lambda _: None)
        assert waiter.remembered_in(lane.calls, NAME) is waiter is lane.calls[NAME]
        waiter.settle(f.Settled(status))
        assert lane.calls == ({NAME: f.Settled(status)} if status in c.FINAL else {})

    run(story())
