"""Faults of the test rig: a node that refuses, a process that stops between the frames of a round."""

from __future__ import annotations

import msgspec
import pytest

from raykv.sim.cluster import DIRECT
from simulation.blocking_link import BLOCKING
from simulation.rig_faults import RigFault
from simulation.run import run
from simulation.workload import Program, Step
from tests.simulation.test_run import CALM

NODES = ("n1", "n2", "n3")


def scenario(*rig_faults, coordinator="coordinator", kinds=("put", "get"), **changes):
    steps = tuple(Step(0.1, kind, ("b1",), timeout_s=0.5) for kind in kinds * 20)
    programs = (Program("client1", coordinator, steps),)
    return msgspec.structs.replace(CALM, rig_faults=rig_faults, programs=programs, **changes)


@pytest.mark.simulation
@pytest.mark.parametrize("coordinator", ["coordinator", DIRECT, BLOCKING])
def test_an_overloaded_majority_refuses_at_once_and_says_so(coordinator):
    faults = [RigFault(1.5, "overload", node, 1.0) for node in NODES[:2]]
    outcome = run(scenario(*faults, coordinator=coordinator), keep=True)
    assert outcome.violations == []
    assert outcome.counts["fault: overload"] == 2
    assert outcome.counts["shed"] > 0
    failed = [op for op in outcome.history.ops if op.outcome != "ok"]
    assert any("Overloaded" in op.error for op in failed)
    assert all(0.9 < op.invoked_s < 2.6 for op in failed)
    assert outcome.history.ops[-1].outcome == "ok"


@pytest.mark.simulation
@pytest.mark.parametrize("coordinator", [DIRECT, BLOCKING])
def test_a_client_that_stops_between_two_frames_sends_no_write_after_its_time(coordinator):
    faults = [RigFault(1.0 + number, "stop while it sends", "client1", 0.9, number + 1) for number in range(3)]
    outcome = run(scenario(*faults, coordinator=coordinator), keep=True)
    assert outcome.violations == []
    assert outcome.counts["fault: stop while it sends"] == 3


@pytest.mark.simulation
def test_a_coordinator_is_stopped_as_well():
    fault = RigFault(1.0, "stop while it sends", "coordinator", 0.9, 2)
    outcome = run(scenario(fault), keep=True)
    assert outcome.violations == []
    assert outcome.counts["fault: stop while it sends"] == 1
    assert any(op.outcome != "ok" for op in outcome.history.ops)


def test_a_fault_is_reported():
    assert RigFault(1.0, "overload", "n1", 2.0, 0.5).describe() == "    1.000  overload n1 (0.5) for 2.00 s"
