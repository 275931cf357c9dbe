"""Fuzzers: clean with all guards in place, the same again for the same seed, and quick to see what is missing."""

from __future__ import annotations

import msgspec
import pytest

from simulation.attempt import attempt
from simulation.copies_fuzzer import fuzz_copies
from simulation.corruption_fuzzer import fuzz_corruption
from simulation.drawing import draw
from simulation.fuzzers import fuzz
from simulation.leader_fuzzer import fuzz_leaders
from simulation.planted import planted
from simulation.power_fuzzer import fuzz_power
from simulation.queue_fuzzer import fuzz_queue
from simulation.register_fuzzer import fuzz_register
from simulation.shrink import shrink

FUZZERS = {
    "register": fuzz_register, "corruption": fuzz_corruption, "copies": fuzz_copies, "power": fuzz_power,
    "leaders": fuzz_leaders, "queue": fuzz_queue,
}  # fmt: skip


@pytest.mark.parametrize("name", FUZZERS)
def test_a_fuzzer_is_clean_and_the_same_again(name, long):
    fuzzer = FUZZERS[name]
    hashes = []
    for number in range(8 if long else 4):
        found, trace_hash = fuzzer(11, number)
        assert found == []
        hashes.append(trace_hash)
    assert fuzzer(11, 3)[1] == hashes[3]
    assert len({*hashes}) == len(hashes)


def test_a_copy_that_becomes_complete_may_have_corruption_that_it_has_not_met():
    """Bits flip while a node mends what it has met: two others are not to be wiped before it has met these, too."""
    assert fuzz_copies(95, 1)[0] == []


def test_a_claim_whose_coordinator_was_killed_is_not_made_twice():
    assert fuzz_queue(50)[0] == []


@pytest.mark.parametrize(
    ("name", "bug", "rule", "likely"),
    [
        ("register", "accepted against a promise", "two histories", 16),
        ("register", "the register is kept in memory", "handed out too early", 0),
        ("register", "dropped by what is not decided", "dropped unasked", 0),
        ("register", "a node without its register votes", "two histories", 19),
        ("corruption", "compaction launders corruption", "corruption passed over", 65),
        ("corruption", "blocks are not verified", "corruption passed over", 373),
        ("copies", "a scan leaves out what cannot be read", "copies passed over", 12),
        ("copies", "an unreadable record is taken for absent", "copies passed over", 29),
        ("copies", "a page reaches beyond what all have sent", "copies passed over", 5),
        ("copies", "a node's failed disk reported as refused", "refused and written", 17),
        ("copies", "old directory counted complete", "copies passed over", 5),
        ("copies", "corruption uncovers what was forgotten", "came back", 17),
        ("power", "directory not synced behind new tables", "not complete", 3),
        ("power", "small file renamed before it is synced", "not to be opened", 0),
        ("power", "write acknowledged before its sync", "lost with the power", 2),
        ("power", "replayed memtables in the wrong order", "lost with the power", 3),
        ("leaders", "a promise is not looked at before a record is accepted", "promise of a term broken", 7),
        ("leaders", "a look is answered whatever is promised", "promise of a term broken", 10),
        ("leaders", "an incomplete node votes", "promise of a term broken", 8),
        ("leaders", "a term goes on after a restart", "stamp given twice", 2),
        ("leaders", "a new leader believes its own copy", "unwritable", 2),
        ("leaders", "one owner is enough", "version went back", 24),
        ("leaders", "records are counted by key", "stamp given twice", 0),
        ("leaders", "a leader reads without a round", "version went back", 26),
        ("leaders", "receipts are not looked at", "not linearizable", 4),
        ("leaders", "receipts stay with the leader", "not linearizable", 4),
        ("queue", "a claim is ended before its lease", None, 1),
        ("queue", "a renewal does not begin the lease anew", None, 17),
        ("queue", "a put whose outcome is unknown goes to the next slot", None, 8),
        ("queue", "a put may come when its slot was freed", None, 33),
        ("queue", "a put may stand where another does", None, 1),
        ("queue", "a job is due at once whatever was said", None, 1),
        ("queue", "the last delivery is not made", None, 3),
        ("queue", "a slot is freed while a job of it is claimed", None, 8),
        ("queue", "the cursor passes what was not taken", None, 1),
        ("queue", "a repeated name puts its job again", None, 7),
    ],
)
def test_a_guard_that_is_missing_is_seen(name, bug, rule, likely):
    """``likely``: the world that saw it last is tried first, which saves the search as long as it still does.

    ``rule``: None where the bug breaks several, and which of them comes first depends on the moments of a whole cluster.
    """
    with planted(bug):
        for number in (likely, *range(300)):
            if found := FUZZERS[name](0, number)[0]:
                assert rule is None or found[0].rule == rule
                return
    pytest.fail("not seen")


def test_what_a_fuzzer_finds_fails_its_seed_and_shrinks_to_nothing_else():
    scenario = draw(1)
    assert scenario.fuzzers == 1
    assert draw(1, weak=True).fuzzers == 0
    assert attempt(scenario).trace_hash != attempt(msgspec.structs.replace(scenario, fuzzers=0)).trace_hash
    with planted("accepted against a promise"):
        for seed in (1, *range(20)):  # the one that saw it last first
            if found := fuzz(seed)[0]:
                break
        small = shrink(msgspec.structs.replace(draw(seed), duration_s=2.0), rule=found[0].rule, budget_runs=4)
    assert small.faults == ()
    assert not any(program.steps for program in small.programs)
