"""Schedules about leaders: each clean as it is, and each the way to see one guard that is missing."""

from __future__ import annotations

import pytest

from simulation import leader_schedules as schedules
from simulation.leader_schedules import SCHEDULES, play, play_leader_schedule
from simulation.planted import planted
from simulation.quiet import quiet

SHOWS = {
    schedules.AWriteHeldPastAPurge: "an old record is accepted after a purge",
    schedules.AFormerCallThatArrivesLate: "a former call of a lane is not refused",
    schedules.ALaterTermThatCameByRepair: "a record of a later term counts for this one",
    schedules.ARefusalThatIsRepeated: "a repeated refusal leaves nothing",
    schedules.TheFirstTouchOfABucket: "a candidate asks once",
    schedules.ShownAndLost: "copies that differ are not written anew",
    schedules.ADeleteThatIsSentAgain: "a change may take longer than what is dead is kept",
    schedules.AReadDuringARound: "the round under way is enough for a read",
    schedules.ALeaderThatHeardOfNoMove: "a leader of an old epoch is heard",
    schedules.OldOwnersAreRead: "a plain read goes on while its partition moves",
    schedules.HealedBetweenTwoLeaders: "healed without promises",
    schedules.AnOldCopyIsSpread: "a plain read ignores what is promised",
    schedules.SupersededAndMoved: "a term is kept over a move",
    schedules.AcknowledgedByOldOwners: "F of both sets together are enough",
    schedules.ACallThatWasAskedOfTwo: "a lane goes on though a sending of its call was not answered",
    schedules.AnEarlyDeadline: "a receipt goes with the deadline that its leader was given",
    schedules.AnOwnerWipedAsItConfirms: "a candidate promises last",
}


def test_every_schedule_shows_a_guard():
    assert {*SHOWS} == {*SCHEDULES}
    assert len({*SHOWS.values()}) == len(SHOWS)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_is_clean_and_shows_what_is_missing(schedule):
    with quiet():
        for number in range(3):
            assert play(schedule, f"{number}")[0] == []
        with planted(SHOWS[schedule]):
            assert any(play(schedule, f"{number}")[0] for number in range(3))


def test_a_schedule_is_the_same_again():
    with quiet():
        found, trace_hash = play_leader_schedule(3, 1)
        assert found == []
        assert play_leader_schedule(3, 1)[1] == trace_hash != play_leader_schedule(3, 0)[1]
