"""Scenarios, drawn from seeds."""

from __future__ import annotations

from collections import Counter

from drawn import drawn

from raykv.sim import faults as s
from simulation.drawing import draw

SEEDS = range(300)


def test_a_seed_is_one_scenario():
    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]
    assert len({repr(draw(seed)) for seed in range(50)}) == 50


def test_every_kind_of_fault_comes_and_every_run_leaves_some_out():
    kinds = [{fault.kind for fault in drawn(seed).faults} for seed in SEEDS]
    every = {*s.DISTURBING, *s.LASTING, *s.CENTRAL, *s.ELASTIC}
    assert set().union(*kinds) == every | {*s.LEADERS} | {"power when complete", s.GONE, "replace node", "kill all"}
    assert all(len(found) < len(every) for found in kinds)
    for kind in every:
        assert any(kind not in found for found in kinds)


def test_within_the_promises_a_minority_is_disturbed_and_less_is_lost():
    checked = 0
    for seed in SEEDS:
        scenario = drawn(seed)
        copies = scenario.cluster.store.copies
        faults = [fault for fault in scenario.faults if fault.kind in {*s.DISTURBING, *s.LASTING}]
        if not scenario.within:
            continue
        assert len(scenario.lasting) <= copies - max(scenario.r, scenario.w)
        for fault in faults:
            until_s = fault.at_s + fault.for_s + s.RECOVERY_S - 0.01  # times are rounded
            others = {other.target for other in faults if fault.at_s <= other.at_s < until_s} | {fault.target}
            # While a host is lost for good another may be away: operations may fail then, what was acknowledged stays.
            assert len(others | scenario.lasting - scenario.gone) <= (copies - 1) // 2, scenario.seed
            checked += 1
    assert checked > 300


def test_beyond_them_anything_comes_together():
    def at_once(scenario):
        return max(
            (len({o.target for o in scenario.faults if f.at_s <= o.at_s < f.at_s + 3}) for f in scenario.faults),
            default=0,
        )

    assert max(at_once(drawn(seed)) for seed in SEEDS if not drawn(seed).within) >= 3


def test_old_copies_are_never_a_majority_and_somebody_remembers():
    for seed in SEEDS:
        faults = drawn(seed).faults
        if any(fault.kind == "roll back" for fault in faults):
            assert len({fault.target for fault in faults if fault.kind == "roll back"}) == 1
            assert not any(fault.kind in {"kill supervisor", "kill coordinator"} for fault in faults)


def test_a_power_cut_costs_what_interval_does_not_promise():
    for seed in SEEDS:
        scenario = drawn(seed)
        if scenario.cluster.store.durability == "interval":
            assert all(fault.kind != "power" for fault in scenario.faults)


def test_weak_levels():
    scenario = draw(5, weak=True)
    assert (scenario.r, scenario.w) == (1, 1)
    assert scenario.odds.lost == 0


def test_most_runs_are_about_one_kind_of_trouble():
    families = Counter(drawn(seed).family for seed in range(400))
    assert 0.2 < families[""] / 400 < 0.4
    assert set(families) == {
        "", "crowd", "full crowd", "founding", "failing disks", "corruption", "takeovers", "lost and away", "scans",
        "nothing left", "ring changes", "lost hosts", "together", "stopped", "blocking", "overloaded", "dropped bucket",
        "clocks apart", "full fallbacks", "siblings", "corruption underneath", "leaders",
    }  # fmt: skip
    assert all(drawn(seed, weak=True).family == "" for seed in range(20))


def test_a_node_that_loses_everything_while_another_is_away_is_no_majority_of_old_copies():
    scenarios = [found for seed in range(400) if (found := drawn(seed)).family == "lost and away"]
    assert any(len(scenario.lasting) == 2 for scenario in scenarios)
    for scenario in scenarios:
        assert len(scenario.lasting) <= 2
        assert len({fault.target for fault in scenario.faults if fault.kind == "roll back"}) <= 1
