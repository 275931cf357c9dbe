"""Conversations of a cluster, as they are kept in ``golden``. ``scripts/simulate --golden`` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.conversations import CONVERSATIONS

GOLDEN = Path(__file__).parent / "golden"
MOST_LINES = 68


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_a_conversation_is_the_one_that_is_kept(conversation):
    kept = GOLDEN / f"{conversation.name}.txt"
    assert conversation.text() == kept.read_text(), "if that is as it should be: scripts/simulate --golden"


def test_each_can_be_read():
    kept = {path.stem: path.read_text().splitlines() for path in GOLDEN.glob("*.txt")}
    assert kept.keys() == {conversation.name for conversation in CONVERSATIONS}
    for lines in kept.values():
        assert 8 < len(lines) <= MOST_LINES
        assert lines[0][0].isupper()
        assert max(map(len, lines)) <= 125


def test_what_is_kept_shows_what_it_is_about():
    def kept(name):
        return (GOLDEN / f"{name}.txt").read_text()

    assert "newer held" in kept("put_stamped_again")
    assert "keep k=blue" in kept("sloppy_put_and_hinted_handoff")
    assert "state 1.5" in kept("partition_that_moves")
    assert "runs as incarnation 2" in kept("node_killed_and_back")
    assert "serves generation 2" in kept("supervisor_takeover")
    assert "+2 receipts" in kept("contended_add")
    assert "promised t1" in kept("contended_add")
    assert "still promised t2" in kept("leader_killed")
    assert "look under t2" in kept("leader_killed")
