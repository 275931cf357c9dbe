"""Schedules: clean with all guards in place, the same again for the same seed, and each shows the bug that it is about."""

from __future__ import annotations

import pytest

from simulation.copies_schedules import AT_ONCE, SCHEDULES, play, play_copies_schedule
from simulation.planted import planted

BUGS = {
    "ShownAndAskedAgain": ("read returns before its repair", "copies passed over"),
    "AnOldCopyOfTheSameRun": ("log ends are not compared", "copies passed over"),
    "AnOldCopyThatHasGrown": ("log ends in refused requests are not compared", "copies passed over"),
    "ARunThatIsToldAtOnce": ("a new run does not learn how far its log was", "copies passed over"),
    "ShownByOwnersOfBefore": ("fast path: R owners of before a move are enough", "copies passed over"),
    "AFormerOwnerRefusesLate": ("answers of former owners count for the present ones", "kept by a former owner"),
    "LearnedOfByAWrite": ("owners that changed under way are forgotten", "copies passed over"),
    "CompleteAndItsPowerGoes": ("complete by what is not synced", "copies passed over"),
    "AWriteThatThaws": ("what thaws goes on", "sent too late"),
    "TheEpochThatWasForgotten": ("a node without a vote believes any state that it gets", "copies passed over"),
    "AWriteThatAStandInTook": ("a hint is forgotten before it is delivered", "copies passed over"),
    "ForgottenTooSoon": ("forgotten though an owner has not said that it holds it", "copies passed over"),
    "RefusedUnderItsSecondStamp": ("what stands under a former stamp is forgotten", "refused and written"),
    "OutOfWhatItHeldAsAnOwner": ("a fallback answers with what it held as an owner", "came back"),
    "AGroupedBucketIsNew": ("a grouped bucket begins no epoch", "copies passed over"),
    "WrittenWhileItIsForgotten": ("forgotten although it is another record by now", "copies passed over"),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_is_clean_and_the_same_again(schedule, long):
    hashes = []
    for number in range(8 if long else 4):
        found, trace_hash = play(schedule, f"test {number}")
        assert found == []
        hashes.append(trace_hash)
    assert play(schedule, "test 3")[1] == hashes[3]
    assert len({*hashes}) == len(hashes)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_shows_what_it_is_about(schedule):
    bug, rule = BUGS[schedule.__name__]
    with planted(bug):
        found = [violation.rule for number in range(5) for violation in play(schedule, f"test {number}")[0]]
    assert rule in found


def test_a_stand_in_that_keeps_nothing_is_seen():
    schedule = next(schedule for schedule in SCHEDULES if schedule.__name__ == "AWriteThatAStandInTook")
    with planted("a fallback acknowledges and stores nothing"):
        assert any(play(schedule, f"test {number}")[0] for number in range(5))


def test_seeds_take_turns():
    played = len(SCHEDULES) // AT_ONCE + 1
    hashes = {play_copies_schedule(seed, number)[1] for seed in range(played) for number in range(AT_ONCE)}
    assert len(hashes) == played * AT_ONCE
