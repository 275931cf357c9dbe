"""Families about coordination: which seeds have one, and that each brings what it is about."""

from __future__ import annotations

import msgspec
import pytest
from drawn import drawn

from raykv.sim.cluster import DIRECT
from raykv.sim.faults import Fault
from simulation.batch import run_seed
from simulation.blocking_link import BLOCKING
from simulation.coordination_families import SHARE, with_coordination
from simulation.run import run
from simulation.workload import Program, Step, groups_of
from tests.simulation.test_run import CALM

OURS = {
    "together", "stopped", "blocking", "overloaded", "dropped bucket", "clocks apart", "full fallbacks", "siblings",
    "corruption underneath",
}  # fmt: skip


def test_all_other_seeds_stay_as_they_are():
    scenarios = [msgspec.structs.replace(CALM, seed=seed) for seed in range(400)]
    changed = [scenario for scenario in scenarios if with_coordination(scenario) is not scenario]
    assert 0.6 * SHARE < len(changed) / 400 < 1.4 * SHARE
    assert {with_coordination(scenario).family for scenario in changed} == OURS


def test_a_node_that_may_forget_loses_no_power():
    scenarios = [found for seed in range(400) if (found := drawn(seed)).family in OURS - {"corruption underneath"}]
    assert scenarios
    assert all(scenario.cluster.store.durability != "interval" for scenario in scenarios)


def test_steps_that_begin_together():
    first, second, third = (Step(0.1, "put", (key,), together=key == "b") for key in "abc")
    assert groups_of((first, second, third)) == [[first, second], [third]]
    assert groups_of((second,)) == [[second]]


@pytest.mark.simulation
@pytest.mark.parametrize("coordinator", ["coordinator", DIRECT, BLOCKING])
def test_operations_that_begin_together_are_judged_one_by_one(coordinator):
    steps = [Step(0.3, "put", (key,), together=key != "a1") for key in ("a1", "b1", "a2", "b2", "a1", "b1") * 3]
    programs = (Program("client1", coordinator, tuple(steps)),)
    outcome = run(msgspec.structs.replace(CALM, programs=programs, plain="a", batching=True), keep=True)
    assert outcome.violations == []
    puts = [op for op in outcome.history.ops if op.kind == "put" and op.client == "client1"]
    assert len(puts) == 18
    assert len({op.invoked_s for op in puts}) < 18


@pytest.mark.simulation
def test_a_blocking_client_hands_over_what_meets_a_dead_node():
    programs = (Program("client1", BLOCKING, tuple(Step(0.1, kind, ("b1",)) for kind in ("put", "get") * 20)),)
    outcome = run(msgspec.structs.replace(CALM, programs=programs, faults=(Fault(1.5, "kill", "n1"),)), keep=True)
    assert outcome.violations == []
    assert outcome.counts["blocking clients"] == 1
    assert outcome.counts["handed over"] > 0


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("family", "counter"),
    [("stopped", "fault: stop while it sends"), ("overloaded", "shed"), ("blocking", "handed over")],
)
def test_a_seed_of_a_family_keeps_every_promise(family, counter):
    seed = next(seed for seed in range(400) if drawn(seed).family == family)
    result = run_seed(seed, weak=False)
    assert result.violations == []
    assert result.counts[counter] > 0
