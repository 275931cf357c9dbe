import itertools
import random

import msgspec
import pytest

from raykv.errors import CorruptData
from simulation import shrink as shrinking
from simulation.attempt import attempt
from simulation.drawing import draw
from simulation.history import Violation
from simulation.run import Outcome
from simulation.scenario_file import load, save
from simulation.shrink import ddmin, shrink, size_of


@pytest.mark.parametrize("seed", range(20))
def test_ddmin_finds_what_cannot_be_left_out(seed):
    rng = random.Random(seed)
    items = list(range(rng.randrange(1, 60)))
    needed = set(rng.sample(items, rng.randrange(0, min(6, len(items)) + 1)))
    calls = []

    def fails(chosen):
        calls.append(1)
        return needed <= set(chosen)

    assert ddmin(items, fails) == sorted(needed)
    assert len(calls) <= len(items) ** 2 + 3 * len(items)


def test_ddmin_leaves_nothing_that_could_go_alone():
    def fails(chosen):  # not monotonic: one of two pairs, or an odd number of the others
        rest = set(chosen) - {1, 2, 3, 4}
        return ({1, 2} <= set(chosen) or {3, 4} <= set(chosen)) and len(rest) % 2 == 0

    found = ddmin(range(20), fails)
    assert fails(found)
    assert not any(fails([item for item in found if item != left]) for left in found)


def outcome_of(scenario, rule):
    found = [Violation(rule, "", "", 1.0)] if rule else []
    return Outcome(seed=1, violations=found, trace_hash="", virtual_s=1, operations=0, events=0, counts={})


@pytest.fixture
def pretend(monkeypatch):
    """Let a function of the scenario say which rule it breaks."""
    runs = []

    def use(judge):
        def run(scenario, *, strict=True):
            runs.append(scenario)
            return outcome_of(scenario, judge(scenario))

        monkeypatch.setattr(shrinking, "attempt", run)
        return runs

    return use


def big():
    found = next(
        found for found in map(draw, itertools.count()) if len(found.faults) > 6 and any(found.skews_ms.values())
    )
    return msgspec.structs.replace(found, fuzzers=0)


def test_everything_goes_that_may(pretend):
    pretend(lambda scenario: "wrong")
    small = shrink(big(), rule="wrong")
    assert size_of(small) == "0 faults, 0 clients, 0 steps"
    assert not any(small.skews_ms.values())
    assert set(small.drifts.values()) == {1.0}
    assert (small.odds.late, small.odds.lost, small.odds.repeated) == (0, 0, 0)
    assert small.duration_s <= 1.5


def test_what_is_needed_stays(pretend):
    scenario = big()
    fault, step = scenario.faults[3], scenario.programs[1].steps[10]

    def judge(candidate):
        steps = [one.kind for program in candidate.programs for one in program.steps if one.keys == step.keys]
        kept = [one for one in candidate.faults if (one.kind, one.at_s) == (fault.kind, fault.at_s)]
        return "wrong" if kept and step.kind in steps else "other"

    runs = pretend(judge)
    small = shrink(scenario, rule="wrong", budget_runs=2000)
    assert size_of(small) == "1 faults, 1 clients, 1 steps"
    assert len({msgspec.json.encode(run) for run in runs}) == len(runs), "a scenario was run twice"
    assert runs[0] == scenario
    assert shrink(scenario, rule="wrong", budget_runs=2000) == small


def test_pauses_outlive_their_steps(pretend):
    scenario = big()
    last = scenario.programs[0].steps[-1]
    pretend(
        lambda candidate: "wrong" if any(p.steps and p.steps[-1].kind == last.kind for p in candidate.programs) else ""
    )
    small = shrink(msgspec.structs.replace(scenario, programs=scenario.programs[:1]), rule="wrong", budget_runs=2000)
    (step,) = small.programs[0].steps
    at_s = list(itertools.accumulate(one.pause_s for one in scenario.programs[0].steps))
    assert any(step.pause_s == pytest.approx(moment_s, abs=0.01) for moment_s in at_s)


def test_the_budget_is_kept_and_a_healthy_run_left_alone(pretend):
    scenario = big()
    said = []
    runs = pretend(lambda scenario: "wrong")
    shrink(scenario, rule="wrong", budget_runs=5, progress=said.append)
    assert len(runs) == len(said) == 5
    assert said[-1].endswith("; 0 runs left")
    pretend(lambda scenario: "another")
    assert shrink(scenario, rule="wrong") == scenario


def test_luck_is_tried_in_the_end(pretend):
    """Only under another seed does the run fail without its faults."""
    scenario = big()
    pretend(lambda found: "wrong" if len(found.faults) == len(scenario.faults) or found.seed != scenario.seed else "")
    small = shrink(scenario, rule="wrong")
    assert small.faults == ()
    assert small.seed != scenario.seed


def test_a_failing_run_is_made_smaller_and_still_fails(failing, tmp_path):
    rule = failing.violations[0].rule
    small = shrink(failing.scenario, rule=rule, strict=False, budget_runs=3)
    assert len(small.faults) < len(failing.scenario.faults) or size_of(small) != size_of(failing.scenario)
    save(small, tmp_path / "small.json")
    again = attempt(load(tmp_path / "small.json"), strict=False)
    assert rule in {found.rule for found in again.violations}


@pytest.mark.parametrize("seed", range(30))
def test_files_give_back_what_was_saved(tmp_path, seed):
    scenario = draw(seed)
    save(scenario, tmp_path / "scenario.json")
    assert load(tmp_path / "scenario.json") == scenario


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "scenario.json"
    save(draw(1), path)
    good = path.read_bytes()
    form = msgspec.json.decode(good)

    def refused(data, match):
        path.write_bytes(data if isinstance(data, bytes) else msgspec.json.encode(data))
        with pytest.raises(CorruptData, match=match):
            load(path)

    refused(good[:-10], "is not a scenario file")
    refused(b"", "is not a scenario file")
    refused(b"\xff\xfe", "is not a scenario file")
    refused([1, 2], "does not say raykv_scenario")
    refused({**form, "raykv_scenario": 3}, "format 3; this raykv reads 2")
    refused({**form, "surprise": 1}, "surprise")
    for name, value, match in [
        ("r", "two", "int"),
        ("r", 9, "do not fit"),
        ("faults", [{"at_s": 1.0, "kind": "meteor", "target": "n1"}], "meteor"),
        ("faults", [{"at_s": 1.0, "kind": "kill", "target": "n77"}], "no 'n77' for 'kill'"),
        ("faults", [{"at_s": 1.0, "kind": "kill coordinator", "target": "n1"}], "no 'n1'"),
        ("programs", [{"client": "c", "coordinator": "coordinator9", "steps": []}], "coordinator9"),
        ("programs", [{"client": "c", "coordinator": "coordinator", "steps": [{"pause_s": 0, "kind": "put", "keys": []}]}],
         "has no key"),
    ]:  # fmt: skip
        refused({**form, "scenario": {**form["scenario"], name: value}}, match)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
