import importlib
import textwrap
from collections import Counter

import pytest

from raykv.sim.kernel import ProcessEnded
from simulation import attempt as attempting
from simulation.attempt import attempt
from simulation.batch import Job, batch, run_seed
from simulation.drawing import draw
from simulation.observed import observed
from simulation.sometimes import TABLE, never, total

JOBS = """
    import os, time
    from simulation.batch import Result

    def run(seed, weak):
        if seed == 2:
            os._exit(7)
        if seed == 3:
            time.sleep(60)
        if seed == 4:
            raise KeyError("four")
        while seed == 5:
            pass
        return Result(seed=seed, violations=[], trace_hash=f"{seed} {weak}")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A module that workers can import, as they can import raykv."""
    (tmp_path / "raykv_test_jobs.py").write_text(textwrap.dedent(JOBS))
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("raykv_test_jobs")


def test_one_bad_seed_costs_only_itself(jobs):
    results = {result.seed: result for result in batch(range(1, 9), jobs=2, job=Job(run=jobs.run, limit_s=0.5))}
    assert sorted(results) == [1, 2, 3, 4, 5, 6, 7, 8]
    rules = {seed: result.violations[0].rule for seed, result in results.items() if result.violations}
    assert rules == {2: "worker died", 3: "stuck", 4: "raised KeyError", 5: "stuck"}
    assert "exit code 7" in results[2].report
    assert "time.sleep(60)" in results[3].report or "raykv_test_jobs.py" in results[3].report
    assert "KeyError: 'four'" in results[4].report
    assert "raykv_test_jobs.py" in results[5].report, "where it was"
    assert "scripts/simulate --seed 3" in results[3].report
    assert results[8].trace_hash == "8 False"


def test_nothing_to_do_is_done_at_once():
    assert list(batch([], jobs=2)) == []


def test_a_worker_runs_a_seed_as_anybody_does():
    (result,) = batch([5], jobs=4)
    alone = run_seed(5, weak=False)
    assert result.trace_hash == alone.trace_hash != ""
    assert result.counts == alone.counts
    assert result.violations == alone.violations


def test_what_a_run_raises_is_a_violation(monkeypatch):
    def run(*_, **__):
        raise ProcessEnded("node/n1")

    monkeypatch.setattr(attempting, "run", run)
    outcome = attempt(draw(1))
    assert outcome.violations[0].rule == "raised ProcessEnded"
    assert "in attempt" in outcome.violations[0].text
    assert outcome.scenario == draw(1)


def test_a_run_is_counted(failing):
    counts = observed(failing)
    assert counts["event: all heals"] == 1
    assert counts["op: put ok"] + counts["op: get ok"] > 20
    assert sum(count for name, count in counts.items() if name.startswith("op: ")) >= len(failing.history.ops)
    assert not any(character.isdigit() for name in counts for character in name)


def test_what_never_happens_fails_a_large_batch_only():
    everything = Counter({row.counters[0].rstrip("*"): 1 for row in TABLE.values()})
    assert never(everything, 100_000) == []
    assert never({}, 99) == []
    assert len(never({}, 100)) == sum(row.of == 100 for row in TABLE.values())
    assert len(never({}, 10_000)) == len(TABLE)
    del everything["restamps"]
    assert never(everything, 100) == [
        "never in 100 seeds: restamp (a write was stamped again, above something newer (P7))"
    ]
    crashes = {"event: dies in front of sync ..": 2, "event: dies in front of create ..": 1}
    assert total(TABLE["crash point"], crashes) == 3
    assert total(TABLE["fault: kill"], {"fault: kill": 2, "fault: kill supervisor": 5}) == 2
