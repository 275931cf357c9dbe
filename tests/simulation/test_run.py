"""One run of a scenario."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest

from raykv.coordinator.rounds import ReadRound
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE
from raykv.records import vector_record as vector
from raykv.records.keys import is_private
from raykv.records.record import pack_body
from raykv.sim.faults import Fault
from raykv.sim.network import NetworkOdds
from raykv.versions.dvvset import event
from simulation import run as run_module
from simulation.drawing import draw
from simulation.run import run
from simulation.workload import Program, Step

CALM = msgspec.structs.replace(
    draw(1),
    within=True,
    plain="",
    r=2,
    w=2,
    odds=NetworkOdds(),
    skews_ms={},
    drifts={},
    faults=(),
    duration_s=5.0,
    programs=(
        Program(
            "client1",
            "coordinator",
            tuple(Step(0.3, kind, ("a1", "b1") if "many" in kind else ("a1",)) for kind in (
                "get", "put", "get", "contains", "scan", "put_many", "get_many", "delete", "get", "delete_many", "open",
                "put", "scan",
            )),
        ),
    ),
)  # fmt: skip
CALM = msgspec.structs.replace(
    CALM,
    cluster=msgspec.structs.replace(
        CALM.cluster, nodes=3, store=msgspec.structs.replace(CALM.cluster.store, copies=3, durability="group")
    ),
)


def with_faults(*faults, **changes):
    return msgspec.structs.replace(CALM, faults=faults, **changes)


def rules(outcome):
    return sorted({violation.rule for violation in outcome.violations})


def test_a_calm_run_does_what_its_program_says():
    outcome = run(CALM, keep=True)
    assert outcome.violations == []
    assert outcome.history is not None
    results = [(op.kind, op.key, op.outcome, op.value) for op in outcome.history.ops if op.client == "client1"]
    assert results[:3] == [
        ("get", "a1", "ok", None), ("put", "a1", "ok", "client1.1@a1"), ("get", "a1", "ok", "client1.1@a1"),
    ]  # fmt: skip
    assert {op[2] for op in results} == {"ok"}
    assert len(outcome.history.scans) == 2
    assert len(outcome.history.buckets) == 1
    assert outcome.operations == len(outcome.history.ops)
    light = run(CALM)
    assert light.history is None
    assert light.trace == []
    assert light.trace_hash == outcome.trace_hash


@pytest.mark.parametrize(
    "fault",
    [
        Fault(1.0, "kill", "n1"),
        Fault(1.0, "crash at", "n2", amount=4),
        Fault(1.0, "power", "n1", 2.0),
        Fault(1.0, "freeze", "n3", 4.0),
        Fault(1.0, "cut", "n1", 3.0, detail="both all"),
        Fault(1.0, "cut", "n1", 3.0, detail="from coordinator"),
        Fault(1.0, "slow node", "n1", 3.0, 0.5),
        Fault(1.0, "slow disk", "n1", 3.0, 0.5),
        Fault(1.0, "sync fails", "n1", amount=1),
        Fault(1.0, "write fails", "n1", amount=1),
        Fault(1.0, "disk full", "n1", 3.0),
        Fault(1.0, "bit rot", "n1"),
        Fault(1.0, "wipe", "n1"),
        Fault(2.0, "roll back", "n1", amount=1.0),
        Fault(1.0, "kill coordinator", "coordinator"),
        Fault(1.0, "freeze coordinator", "coordinator", 2.0),
        Fault(1.0, "kill supervisor", "supervisor"),
        Fault(1.0, "freeze supervisor", "supervisor", 2.0),
        Fault(1.0, "clock jump", "n1", amount=1500),
    ],
    ids=lambda fault: fault.kind,
)
def test_each_fault_strikes_and_is_ridden_out(fault):
    outcome = run(with_faults(fault))
    assert outcome.violations == []
    assert outcome.counts[f"fault: {fault.kind}"] == 1
    assert outcome.trace_hash != run(CALM).trace_hash


def test_a_store_of_which_every_directory_is_gone_says_so_and_is_excused():
    faults = [Fault(1.0, "wipe", node_id) for node_id in ("n1", "n2", "n3")]
    outcome = run(with_faults(*faults, within=False))
    assert outcome.violations == []
    assert outcome.counts["log: store %s: nothing can be read or decided any more: %s"] == 1
    assert "log: node %s is complete again" not in outcome.counts


def test_a_node_that_never_becomes_complete_is_noticed(monkeypatch):
    monkeypatch.setattr("raykv.cluster.acceptor.Acceptor._may_vote_again", lambda self, request: False)
    outcome = run(with_faults(Fault(1.0, "wipe", "n1"), Fault(1.0, "wipe", "n2"), within=False))
    assert "not completed" in rules(outcome)


def test_a_read_that_is_not_merged_is_noticed(monkeypatch):
    def first(self, index):
        answers = [record for record in self._items[index].answers.values() if record is not None]
        return min(answers, default=None)

    monkeypatch.setattr(ReadRound, "merged", first)
    likely = 8  # it saw it last
    assert any(rules(run(draw(seed))) for seed in (likely, *range(1, 12)))


def test_weak_levels_are_reported():
    assert any(rules(run(draw(seed, weak=True), strict=False)) for seed in range(1, 20))
    assert not any(rules(run(draw(seed, weak=True))) for seed in range(1, 5)), (
        "and nothing is demanded that is not promised"
    )


def test_an_exception_in_a_handler_is_noticed(monkeypatch):
    def broken(self, body):
        raise ZeroDivisionError

    monkeypatch.setattr("raykv.replica.handlers.Replica._scan", broken)
    assert "not handled" in rules(run(CALM))


def test_requests_and_answers_against_the_table_of_requests_are_noticed(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(run_module._SENT_BY, "coordinator", run_module._SENT_BY["coordinator"] - {b"Read"})
        assert "not its to send" in rules(run(CALM))
    monkeypatch.setitem(NODE, f.Read, dataclasses.replace(NODE[f.Read], answers=(f.Pong,)))
    assert "not an answer to it" in rules(run(CALM))


def test_a_task_left_behind_is_noticed(monkeypatch):
    original = run_module.Cluster._start_coordinator

    def start(self, name):
        original(self, name)

        async def for_ever():
            while True:
                try:
                    await self.loop.create_future()
                except asyncio.CancelledError:
                    self.loop.later(1e6, lambda: None)

        self.actors[name].spawn(for_ever())

    monkeypatch.setattr(run_module.Cluster, "_start_coordinator", start)
    assert "left behind" in rules(run(CALM))


def test_copies_that_differ_in_the_end_are_noticed(monkeypatch):
    original = run_module._Run._read_all

    async def read_and_spoil(self, process):
        done = await original(self, process)
        node = self.cluster.nodes.living("n1")
        for key in [key for key in node._engine._entries if not is_private(key)][-1:]:
            node._engine.update(key, vector.encode(event((b"stranger", 1), (), 1, pack_body(bytes(16), b"x"))))
        return done

    monkeypatch.setattr(run_module._Run, "_read_all", read_and_spoil)
    assert rules(run(CALM)) == ["copies differ"]


def test_a_state_that_is_handed_out_too_early_is_noticed(monkeypatch):
    async def accept(self, state):
        self.state = state

    monkeypatch.setattr("raykv.cluster.register.Register.accept", accept)
    assert "handed out too early" in rules(run(CALM))


def test_an_operation_that_fails_without_an_excuse_is_noticed(monkeypatch):
    original = run_module.Client._read

    def failed(self, key, began_s, outcome, values=None, seen=None):
        if self._history.ops and len(self._history.ops) >= 9:
            outcome = run_module.RaykvError("for no reason")
        original(self, key, began_s, outcome, values, seen)

    monkeypatch.setattr(run_module.Client, "_read", failed)
    assert rules(run(CALM)) == ["failed within the promises"]


def test_a_node_that_does_not_come_back_is_noticed(monkeypatch):
    async def launch(self, node_id, host, **options):
        raise LaunchFailed("crashed", "always")

    original = run_module.LeaderNemesis.begin

    def begin(self, fault, number=-1):
        monkeypatch.setattr("raykv.sim.nodes.SimLauncher.launch", launch)
        original(self, fault, number)

    monkeypatch.setattr(run_module.LeaderNemesis, "begin", begin)
    assert "not up again" in rules(run(with_faults(Fault(1.0, "kill", "n1"))))
