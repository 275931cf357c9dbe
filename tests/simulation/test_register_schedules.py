"""Schedules about the cluster's state: clean, the same again for the same seed, and each shows what it is about."""

from __future__ import annotations

import pytest

from simulation.planted import planted
from simulation.register_schedules import REGISTER_SCHEDULES, play, play_register_schedule

BUGS = {
    "AChangeThatFailed": "one number, two states",
    "AVoteGivenBack": "a vote is given back with what was decided before",
}


@pytest.mark.parametrize("schedule", REGISTER_SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_is_clean_and_the_same_again(schedule):
    hashes = []
    for number in range(8):
        found, trace_hash = play(schedule, f"test {number}")
        assert found == []
        hashes.append(trace_hash)
    assert play(schedule, "test 3")[1] == hashes[3]
    assert len({*hashes}) == len(hashes)


@pytest.mark.parametrize("schedule", REGISTER_SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_shows_what_it_is_about(schedule):
    with planted(BUGS[schedule.__name__]):
        found = [violation.rule for number in range(5) for violation in play(schedule, f"test {number}")[0]]
    assert "two histories" in found


def test_seeds_take_turns():
    hashes = {play_register_schedule(seed)[1] for seed in range(len(REGISTER_SCHEDULES))}
    assert len(hashes) == len(REGISTER_SCHEDULES)
