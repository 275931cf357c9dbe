"""Runs about who leads, and faults that find the leader."""

from __future__ import annotations

import msgspec
import pytest

from raykv.sim.faults import LEADERS, Fault
from simulation.drawing import draw
from simulation.leader_families import SHORT_GRACE_S
from simulation.run import run

SCENARIOS = [scenario for scenario in map(draw, range(150)) if scenario.family == "leaders"]


def test_half_of_the_faults_are_at_the_leader_of_a_hot_key():
    kinds = [fault.kind for scenario in SCENARIOS for fault in scenario.faults]
    assert {*LEADERS} <= {*kinds}
    assert sum(kind in LEADERS for kind in kinds) > len(kinds) / 2
    assert {scenario.cluster.store.gc_grace_s == SHORT_GRACE_S for scenario in SCENARIOS} == {True, False}
    for scenario in SCENARIOS:
        assert all(program.changes for program in scenario.programs)
        assert not scenario.skew_ms or scenario.cluster.store.gc_grace_s > SHORT_GRACE_S


@pytest.mark.parametrize("kind", LEADERS)
def test_each_strikes_a_node_and_is_ridden_out(kind):
    fault = Fault(5.0, kind, "lr1", 1.0, 1.0, "both all" if kind == "cut leader" else "")
    outcome = run(msgspec.structs.replace(SCENARIOS[0], faults=(fault,), fuzzers=0), keep=True)
    assert outcome.violations == []
    assert outcome.counts[f"fault: {kind}"] == 1
    assert outcome.counts["leader_takeovers"] > 0
