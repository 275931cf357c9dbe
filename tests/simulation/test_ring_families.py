"""Runs in which nodes come, go and are replaced."""

from __future__ import annotations

import msgspec
from drawn import drawn

from raykv.sim.faults import ELASTIC, Fault
from simulation.ring_families import NEVER_S
from simulation.run import run


def of_family(family, count):
    found, seed = [], 0
    while len(found) < count:
        if drawn(seed).family == family:
            found.append(drawn(seed))
        seed += 1
    return found


def test_one_host_is_lost_and_no_other_node_is_hurt_for_long():
    for scenario in of_family("lost hosts", 20):
        assert len(scenario.gone) == 1 == len(scenario.lasting)
        assert scenario.within
        others = [
            fault for fault in scenario.faults if fault.target.startswith("n") and fault.target not in scenario.gone
        ]
        assert all(fault.for_s <= 2.0 for fault in others)
        by_command = any(fault.kind == "replace node" for fault in scenario.faults)
        assert by_command == (scenario.cluster.store.replace_after_s > scenario.duration_s)


def test_a_lost_host_is_replaced_and_nothing_is_lost():
    scenario = next(each for each in of_family("lost hosts", 9) if any(f.kind == "kill all" for f in each.faults))
    outcome = run(msgspec.structs.replace(scenario, fuzzers=0))
    assert outcome.violations == []
    assert outcome.counts["fault: lose host"] == outcome.counts["fault: kill all"] == 1
    assert any("takes the place of" in name for name in outcome.counts)


def test_a_lost_host_is_replaced_though_the_supervisor_that_learns_of_it_ends():
    scenario = next(each for each in of_family("lost hosts", 9) if each.cluster.store.replace_after_s == NEVER_S)
    (victim,) = scenario.gone
    faults = (
        Fault(2.0, "lose host", victim),
        Fault(2.5, "replace node", victim),  # which is up, as far as the supervisor knows by then
        Fault(3.0, "kill supervisor", "supervisor"),
    )
    outcome = run(msgspec.structs.replace(scenario, faults=faults, fuzzers=0), keep=True)
    assert outcome.violations == []
    assert outcome.counts["fault: replace node"] == 1
    assert any(f"the ring: node {victim} is up" in event.what for event in outcome.trace), "the first command"
    assert outcome.counts["log: store %s: node %s takes the place of %s"] == 1, "and one of those that followed"


def test_a_run_of_ring_changes_changes_the_ring():
    for scenario in of_family("ring changes", 10):
        assert {fault.kind for fault in scenario.faults} & {*ELASTIC}
