"""A bucket that is dropped and made again: what is demanded of it, and that each demand fails when it should."""

from __future__ import annotations

import msgspec
import pytest

from simulation.checkers import check_history
from simulation.fleeting import FLEETING_BUCKET, Gone, Opened, check_fleeting, is_excused, lasting_keys
from simulation.history import History
from simulation.run import run
from simulation.workload import Program, Step
from tests.simulation.test_run import CALM

DROPPED = "InvalidOption: the bucket was dropped; call store.bucket(name) again"


def rules(history):
    return [violation.rule for violation in check_fleeting(history)]


def test_a_bucket_that_comes_back_after_it_was_reported_gone():
    history = History()
    history.dropped_s.append(0.5)
    history.gone.append(Gone("client1", 4, 2.0))
    history.opened += [Opened("client1", 4, 1.0, 1.1), Opened("client2", 4, 3.0, 3.1), Opened("client1", 5, 3.0, 3.1)]
    assert rules(history) == []
    history.opened.append(Opened("client1", 4, 4.0, 4.1))
    assert rules(history) == ["dropped and back"]


@pytest.mark.parametrize(("key", "dropped_s", "wrong"), [("f1~4", 1.0, False), ("f1~4", 9.0, True), ("a1", 1.0, True)])
def test_an_operation_that_fails_for_a_drop_needs_one(key, dropped_s, wrong):
    history = History()
    history.dropped_s.append(dropped_s)
    history.add("client1", "get", key, 2.0, 3.0, "refused", error=DROPPED)
    assert rules(history) == ["dropped by nobody"] * wrong
    assert is_excused(key, DROPPED) == key.startswith("f")
    assert not is_excused(key, "QuorumNotMet")


def test_the_buckets_of_one_name_do_not_see_each_other():
    history = History()
    history.add("client1", "put", "f1~4", 1.0, 1.1, "ok", value="v@f1~4", operation_id="01", blind=True)
    history.add("client1", "get", "f1~5", 2.0, 2.1, "ok", value="v@f1~4", level=2)
    assert [violation.rule for violation in check_history(history, 3, 0.0, plain="f")] == ["invented"]
    assert lasting_keys(history) == []


@pytest.mark.simulation
@pytest.mark.parametrize("coordinator", ["coordinator", "direct"])
def test_what_was_written_is_gone_with_the_bucket(coordinator):
    kinds = ("put", "get", "put_many", "scan", "drop", "get", "get", "get_many", "put", "scan", "get_versions")
    steps = tuple(Step(0.3, kind, ("f1", "f2") if kind.endswith("many") else ("f1",)) for kind in kinds)
    others = tuple(Step(0.05, kind, ("f1",)) for kind in ("put", "get") * 40)
    programs = (Program("client1", coordinator, steps), Program("client2", coordinator, others))
    outcome = run(msgspec.structs.replace(CALM, programs=programs), keep=True)
    assert outcome.violations == []
    assert len({opened.bucket_id for opened in outcome.history.opened}) == 2
    assert outcome.history.gone
    told = [op for op in outcome.history.ops if op.client == "client1" and op.kind == "get"]
    assert any("dropped" in op.error for op in outcome.history.ops)
    assert all("@" + op.key in op.value for op in told if op.value)
    assert FLEETING_BUCKET
