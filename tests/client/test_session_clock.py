"""A client's memory from call to call: the newest time that it has seen, and the coordinator's clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykv.client.session_clock import SessionClock
from raykv.protocol import frames as f

WRITE = f.WriteMany(1, [(b"\x02a", b"body", None)], 2, 5.0)


class Ticking:
    """A client's clock, moved by hand."""

    def __init__(self, now_s: float = 50.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def opened(run: int, now_s: float) -> f.BucketOpened:
    return f.BucketOpened(1, {}, "s", run, now_s)


def test_a_node_that_has_heard_nothing_says_nothing() -> None:
    assert SessionClock(Ticking()).dated(WRITE, 55.0) == WRITE
    assert SessionClock(Ticking(7.0)).now_s() == 7.0


@pytest.mark.parametrize("answer", [f.GotMany([], 9), f.WroteMany([], 9)])
def test_the_newest_time_is_kept_whatever_comes_after(answer: Any) -> None:
    memory = SessionClock(Ticking())
    memory.note(answer)
    assert memory.dated(WRITE, 55.0) == f.WriteMany(1, WRITE.items, 2, 5.0, 9)
    for older in (f.GotMany([], 3), f.WroteMany([], 0), f.Info(None), f.Page([], None)):
        memory.note(older)
        assert memory.newest_time == 9
    memory.note(f.GotMany([], 10))
    assert memory.newest_time == 10


@pytest.mark.parametrize("ahead_s", [0.0, 1000.0, -49.0])
def test_until_when_is_said_by_the_coordinators_clock(ahead_s: float) -> None:
    clock = Ticking()
    memory = SessionClock(clock)
    memory.note(opened(7, clock.now_s + ahead_s))
    clock.now_s += 3.0
    dated = memory.dated(WRITE, clock.now_s + 5.0)
    assert (dated.run, dated.expires_s) == (7, clock.now_s + 5.0 + ahead_s)
    assert dated.items == WRITE.items


def test_of_what_one_run_tells_the_highest_is_the_nearest_to_the_truth() -> None:
    """Each is too low by the time that the answer took; a request must not be given up for that."""
    clock = Ticking()
    memory = SessionClock(clock)
    for told_s, ahead_s in ((1049.5, 999.5), (1049.9, 999.9), (1048.0, 999.9), (1050.0, 1000.0)):
        memory.note(f.DeadlinePassed(7, told_s))
        assert memory.dated(WRITE, 55.0).expires_s == pytest.approx(55.0 + ahead_s)


def test_another_runs_clock_is_another_clock() -> None:
    clock = Ticking()
    memory = SessionClock(clock)
    memory.note(opened(7, 1050.0))
    memory.note(f.DeadlinePassed(8, 20.0))
    dated = memory.dated(WRITE, 55.0)
    assert (dated.run, dated.expires_s) == (8, 25.0), "though it is lower"
    memory.note(opened(7, 1050.0))
    assert memory.dated(WRITE, 55.0).run == 7


@given(
    ahead_s=st.floats(-1e6, 1e6),
    answers=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), min_size=1, max_size=10),
    timeout_s=st.floats(0.001, 3600),
)
def test_a_request_never_lives_longer_than_its_client_waits(
    ahead_s: float, answers: list[tuple[float, float]], timeout_s: float
) -> None:
    """Whatever the answers took on their way: what the client gives up, the coordinator does not begin."""
    clock = Ticking(1e6)
    memory = SessionClock(clock)
    for pause_s, way_back_s in answers:
        clock.now_s += pause_s
        there_s = clock.now_s + ahead_s
        clock.now_s += way_back_s
        memory.note(f.DeadlinePassed(7, there_s))
    until_s = clock.now_s + timeout_s
    assert memory.dated(WRITE, until_s).expires_s <= until_s + ahead_s + 1e-6


def test_a_change_says_for_how_long_it_may_be_sent_again() -> None:
    now_s = 100.0
    clock = SessionClock(lambda: now_s)
    request = f.ChangeMany(1, [], 2.0)
    assert clock.dated_change(request, 103.0).left_s == 3.0
    assert clock.dated_change(request, 103.0).run == 0, "also where no coordinator's clock is known yet"
    now_s = 104.0
    assert clock.dated_change(request, 103.0).left_s == 0.0
