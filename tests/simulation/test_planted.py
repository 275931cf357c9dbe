"""Guards that are switched off, and that this is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raykv.coordinator import reads
from raykv.coordinator.rounds import WriteRound
from raykv.versions import causality, dvvset
from simulation.hunt import hunt
from simulation.planted import CATALOGUE, planted
from simulation.planting import Edit, Stale, edited, source_of

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "planted.py"
QUICK = {
    "shadowed write acknowledged": 2, "a blind write looks at one replica": 23, "expired values are read": 8,
    "the answer that came last stands": 0, "incarnation not kept": 12,
}  # fmt: skip
"""Each with the seed that saw it last, which is tried first."""
ANSWERED = "raykv.coordinator.rounds:WriteRound.answered"
UNION = "raykv.versions.causality:union"


def test_the_catalogue_is_of_some_size_and_says_why():
    assert len(CATALOGUE) >= 20
    for name, bug in CATALOGUE.items():
        assert name == bug.name
        assert bug.edits
        assert len(bug.why) > 20
        assert bug.rule


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_edit_fits_the_code_and_leaves_nothing_behind(name):
    before = {edit.target: source_of(edit.target) for edit in CATALOGUE[name].edits}
    for edit in CATALOGUE[name].edits:
        assert before[edit.target].count(edit.old) == 1
        assert edit.new != edit.old
    with planted(name):
        for target in before:
            with pytest.raises(Stale, match="changed already"):
                source_of(target)
    assert {target: source_of(target) for target in before} == before


def test_a_planted_bug_is_there_and_gone():
    method = WriteRound.answered
    with planted("shadowed write acknowledged"):
        assert WriteRound.answered is not method
        round_ = WriteRound([[["n1"]]], 1)
        round_.start()
        round_.answered("n1", [(0, 0)], [7])
        assert round_.settled(0)
    assert WriteRound.answered is method
    round_ = WriteRound([[["n1"]]], 1)
    round_.start()
    round_.answered("n1", [(0, 0)], [7])
    assert not round_.settled(0)


def test_a_function_is_changed_wherever_it_is_known():
    originals = (causality.union, dvvset.union)
    assert causality.union is dvvset.union
    with edited([Edit(UNION, "return other", "return one")]):
        assert dvvset.union is causality.union is not originals[0]
        assert reads.WriteRound is WriteRound
    assert (causality.union, dvvset.union) == originals


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([Edit(ANSWERED, "no such text", "x")], "0 times"),
        ([Edit(ANSWERED, "item", "x")], "times, not once"),
        ([Edit("raykv.coordinator.rounds:WriteRound.none", "a", "b")], "no such function"),
        ([Edit("raykv.coordinator.rounds:nothing", "a", "b")], "no such function"),
        ([Edit("raykv.coordinator.rounds:WriteRound", "a", "b")], "no such function"),
        ([Edit("simulation.planted:planted", "yield", "return")], "no such function|closure|changed already"),
    ],
)
def test_what_does_not_fit_is_refused_loudly(edits, words):
    with pytest.raises(Stale, match=words), edited(edits):
        pytest.fail("it was planted")
    assert source_of(ANSWERED)


@pytest.mark.simulation
@pytest.mark.parametrize(("name", "likely"), QUICK.items())
def test_the_simulation_notices(name, likely):
    caught = hunt(name, (likely, *range(40)))
    assert caught is not None
    assert caught.violation.rule


def test_the_command_shows_the_catalogue_and_refuses_what_it_does_not_know():
    def run(*words):
        return subprocess.run(
            [sys.executable, SCRIPT, *words], check=False, capture_output=True, text=True, timeout=120
        )

    listed = run("--list")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in CATALOGUE)
    assert run("--list", "--matching", "scan").stdout.count("\n") < listed.stdout.count("\n")
    unknown = run("no such bug")
    assert unknown.returncode != 0
    assert "there is no planted bug" in unknown.stderr
    assert "Traceback" not in unknown.stderr
