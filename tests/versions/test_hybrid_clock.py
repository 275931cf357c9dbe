"""The hybrid clock: monotone, above all it was shown, never dragged far ahead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.config import MAX_CLOCK_SKEW_MS
from raykv.versions import ClockTooFarAhead, HybridClock, check_not_ahead, time_from_ms, time_to_ms

WALL_MS = 1_700_000_000_000


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-200_000, 200_000), st.integers(0, 70_000)), max_size=40))
def test_times_grow_above_all_given_out_and_observed_that_are_not_too_far_ahead(
    steps: list[tuple[bool, int, int]],
) -> None:
    clock = HybridClock()
    highest = 0
    for observe, drift_ms, ahead_ms in steps:
        now_ms = WALL_MS + drift_ms
        if time_to_ms(highest) > now_ms + MAX_CLOCK_SKEW_MS and not (observe and ahead_ms > MAX_CLOCK_SKEW_MS):
            highest = time_from_ms(now_ms)
        if observe:
            time = time_from_ms(now_ms + ahead_ms) + 3
            if ahead_ms > MAX_CLOCK_SKEW_MS:
                with pytest.raises(ClockTooFarAhead):
                    clock.observe(time, now_ms)
            else:
                clock.observe(time, now_ms)
                highest = max(highest, time)
        else:
            given_out = clock.next(now_ms)
            assert given_out > highest
            assert given_out >= time_from_ms(now_ms)
            assert given_out == max(highest + 1, time_from_ms(now_ms)), "it stays as close to the wall as it can"
            highest = given_out


def test_it_goes_on_when_the_wall_clock_goes_back() -> None:
    clock = HybridClock()
    first = clock.next(WALL_MS)
    assert [clock.next(WALL_MS - 5000) for _ in range(3)] == [first + 1, first + 2, first + 3]
    assert time_to_ms(clock.next(WALL_MS + 1)) == WALL_MS + 1


@pytest.mark.parametrize("observes", [False, True])
def test_it_comes_back_from_a_wall_clock_that_was_far_ahead(observes: bool) -> None:
    clock = HybridClock()
    clock.next(WALL_MS + 7_200_000)
    seen = time_from_ms(WALL_MS + 30_000)
    if observes:
        clock.observe(seen, WALL_MS)
    given_out = clock.next(WALL_MS)
    check_not_ahead(given_out, WALL_MS)
    assert given_out > (seen if observes else time_from_ms(WALL_MS)), "what it saw since is not forgotten"
    assert clock.next(WALL_MS) == given_out + 1


def test_it_goes_on_from_a_wall_clock_that_was_ahead_within_the_bound() -> None:
    clock = HybridClock()
    first = clock.next(WALL_MS + MAX_CLOCK_SKEW_MS)
    assert clock.next(WALL_MS) == first + 1


def test_more_writes_than_the_counter_holds_run_into_the_next_millisecond() -> None:
    clock = HybridClock()
    times = [clock.next(WALL_MS) for _ in range(70_000)]
    assert times == list(range(times[0], times[0] + 70_000))
    assert time_to_ms(times[-1]) == WALL_MS + 1


def test_a_time_at_the_bound_is_taken_and_one_beyond_is_refused_and_forgotten() -> None:
    clock = HybridClock()
    clock.observe(time_from_ms(WALL_MS + MAX_CLOCK_SKEW_MS), WALL_MS)
    before = clock.next(WALL_MS)
    with pytest.raises(ClockTooFarAhead, match=r"60\.0 s ahead.*60 s are allowed"):
        clock.observe(time_from_ms(WALL_MS + MAX_CLOCK_SKEW_MS + 1), WALL_MS)
    assert clock.next(WALL_MS) == before + 1, "what was refused has dragged nothing"


def test_far_in_the_past_is_never_too_far() -> None:
    check_not_ahead(0, WALL_MS)
    check_not_ahead(time_from_ms(WALL_MS), WALL_MS)


@settings(deadline=None)
@given(st.integers(0, 2**48 - 1), st.integers(0, 65_535))
def test_milliseconds_go_in_and_out(wall_ms: int, counter: int) -> None:
    assert time_to_ms(time_from_ms(wall_ms) + counter) == wall_ms
