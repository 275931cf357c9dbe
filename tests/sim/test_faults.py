"""Faults, and their draw from a seed."""

from __future__ import annotations

import random

from raykv.config import StoreConfig
from raykv.sim.cluster import ClusterSpec
from raykv.sim.faults import CENTRAL, DISTURBING, ELASTIC, LASTING, Fault, draw_faults, draw_odds

SPEC = ClusterSpec(store=StoreConfig(name="s", copies=3, partitions=8), nodes=5, coordinators=2)


def drawn(seed, budget):
    return draw_faults(random.Random(seed), SPEC, 60.0, budget)


def test_a_seed_is_one_draw_in_the_order_of_time():
    for seed in range(30):
        faults = drawn(seed, 1)
        assert faults == drawn(seed, 1)
        assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)


def test_every_kind_comes_and_every_draw_leaves_some_out():
    kinds = [{fault.kind for fault in drawn(seed, None)} for seed in range(100)]
    every = {*DISTURBING, *LASTING, *CENTRAL, *ELASTIC}
    assert set().union(*kinds) == every
    assert all(some < every for some in kinds)


def test_what_cannot_be_undone_stays_within_the_budget():
    for budget in (0, 1):
        lost = [{fault.target for fault in drawn(seed, budget) if fault.kind in LASTING} for seed in range(100)]
        assert max(map(len, lost)) == budget
    assert max(len({fault.target for fault in drawn(seed, None) if fault.kind in LASTING}) for seed in range(100)) > 2


def test_a_network_may_be_rough_or_not():
    odds = [draw_odds(random.Random(seed)) for seed in range(50)]
    assert any(each.lost for each in odds)
    assert any(not (each.lost or each.late or each.repeated) for each in odds)
    assert not any(draw_odds(random.Random(seed), weak=True).lost for seed in range(50))


def test_a_fault_is_described_in_a_line():
    fault = Fault(1.5, "cut", "n1", 2.0, 0.0, "both n2")
    assert fault.describe().split() == ["1.500", "cut", "n1", "both", "n2", "for", "2.00", "s"]
