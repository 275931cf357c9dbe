"""Lanes: what names each change for ever (L10)."""

from __future__ import annotations

import os
import random
import threading

from raykv.client.lanes import MAX_FREE, Lane, Lanes


def lanes(seed: int = 1) -> Lanes:
    return Lanes(random.Random(seed).randbytes)


def settled(lane: Lane) -> Lane:
    lane.settled = True
    return lane


def test_a_lane_numbers_its_calls() -> None:
    lane = lanes().take()
    name = lane.name
    assert (lane.last, lane.next(), settled(lane).next(), lane.last) == (0, 1, 2, 2)
    assert lane.name == name


def test_after_a_call_that_may_still_be_asked_for_a_lane_has_another_name() -> None:
    """*Without: a leader forgets the receipt of that call, for its lane has gone on, and makes it once more.*"""
    lane = lanes().take()
    name = lane.name
    assert (lane.next(), lane.next()) == (1, 1), "an exception has ended the first one at some point"
    assert lane.name != name
    assert len(lane.name) == 8


def test_a_lane_has_one_call_at_a_time() -> None:
    pool = lanes()
    first, second = pool.take(), pool.take()
    assert first.name != second.name
    assert len(first.name) == len(second.name) == 8
    pool.give_back(first)
    assert pool.take() is first
    assert pool.take() is not second, "its call is not settled"


def test_a_lane_that_is_given_back_goes_on_counting() -> None:
    pool = lanes()
    lane = pool.take()
    lane.next()
    pool.give_back(settled(lane))
    assert pool.take().next() == 2, "the same number again would get the former call's answer"


def test_a_burst_of_calls_leaves_a_bounded_number_of_lanes() -> None:
    pool = lanes()
    for lane in [pool.take() for _ in range(2 * MAX_FREE)]:
        pool.give_back(lane)
    assert len(pool._free) == MAX_FREE


def test_threads_never_share_a_lane() -> None:
    pool, calls = lanes(), []

    def work() -> None:
        for _ in range(300):
            lane = pool.take()
            number = lane.next()
            calls.append((lane.name, number))
            pool.give_back(settled(lane))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == len(set(calls)) == 1200


def test_both_sides_of_a_fork_have_lanes_of_their_own() -> None:
    """L10: with a free lane of both, the child's call would be answered with the result of its parent's."""
    pool = Lanes(os.urandom)
    free, taken = pool.take(), pool.take()
    free.next()
    pool.give_back(free)
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            pool.give_back(taken)  # settled in the child, of a call that the parent made
            os.write(into, pool.take().name + pool.take().name)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(into)
    names = os.read(out, 16)
    os.close(out)
    assert len(names) == 16
    assert not {names[:8], names[8:]} & {free.name, taken.name}
    assert pool.take() is free, "the parent goes on with its own"
