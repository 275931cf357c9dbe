"""The autoscaler at work: what the nodes say comes in, what the policy says is done."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from raykv.cluster import moves
from raykv.config import ScalingConfig
from raykv.errors import InvalidOption, StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import encode_key, storage_prefix
from raykv.supervision import scaling as s
from raykv.supervision.autoscaling import NodeLoad
from raykv.supervision.scaling import Scaling, check_limits, uneven
from tests.supervision.bench import Bench, error

if TYPE_CHECKING:
    from types import ModuleType

LIMITS = {"ops_per_s": 100.0, "cool_down_s": 20.0}


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


class Asked:
    """A Scaling over a state, with loads that a test sets, that records its actions."""

    def __init__(self, world: ModuleType, state: Any) -> None:
        self.state = state
        self.used = 0.5
        self.done: list[str] = []
        self.silent = 0
        self.heaviest: tuple[tuple[bytes, float], ...] = ()
        self.failing: Exception | None = None
        self.scaling = Scaling(
            "t", clock=world.Clock(), state=lambda: self.state, measure=self.measure,
            add=lambda why: self.do("add", why), remove=lambda node_id, why: self.do(f"remove {node_id}", why),
            rebalance=lambda why: self.do("rebalance", why),
        )  # fmt: skip

    async def measure(self) -> list[NodeLoad]:
        members = self.state.ring.members[self.silent :]
        return [NodeLoad(member.node_id, 1.0, self.used * 100.0, 0, self.heaviest) for member in members]

    async def do(self, what: str, why: str) -> None:
        assert why.startswith("by the autoscaler: ")
        self.done.append(what)
        if self.failing is not None:
            raise self.failing

    async def run_for(self, seconds: float) -> None:
        task = asyncio.create_task(self.scaling.run())
        await asyncio.sleep(seconds)
        task.cancel()


def asked(world: ModuleType, nodes: int = 4) -> Asked:
    state = world.Cluster(nodes).state
    return Asked(world, state.with_scaling(ScalingConfig(**LIMITS)))


def test_nodes_are_added_and_taken_away(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.used = 0.9
        await bench.run_for(1)
        assert bench.done == ["add"] * 3, "so that they are in the middle of the band"
        bench = asked(world)
        bench.used = 0.1
        await bench.run_for(18)
        assert bench.done == [], "one that has just begun does not know of the last change"
        await bench.run_for(30)
        assert bench.done[:1] == ["remove n1"]

    world.run(story())


def test_once_it_is_off_no_further_node_is_added(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.used = 0.9

        async def add(why: str) -> None:
            await bench.do("add", why)
            bench.state = bench.state.with_scaling(None)

        bench.scaling._add = add
        await bench.run_for(1)
        assert bench.done == ["add"]

    world.run(story())


def test_it_rests_when_it_is_off_or_does_not_know_enough(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.used, bench.silent = 0.9, 1
        await bench.run_for(30)
        assert bench.done == []
        assert "only 3 of 4 nodes report" in bench.scaling.last_decision()["why"]
        bench.state = bench.state.with_scaling(None)
        await bench.run_for(30)
        assert bench.done == []
        assert bench.scaling.last_decision() is None
        assert (await bench.scaling.report())["why"] == "it is off"

    world.run(story())


def test_a_hot_key_is_named(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.used, bench.heaviest = 0.9, ((storage_prefix(3, 1) + encode_key("hot"), 85.0),)
        await bench.run_for(1)
        assert bench.done == []
        report = await bench.scaling.report()
        assert report["hot"] == [{"bucket": "default", "key": "hot"}]
        assert report["would"] == "do nothing"

    world.run(story())


@pytest.mark.parametrize(("key", "shown"), [("ü", "ü"), (b"\x00\xff", r"b'\x00\xff'")])
def test_keys_are_named_in_plain_data(world: ModuleType, key: str | bytes, shown: str) -> None:
    async def story() -> Any:
        return s.named(storage_prefix(3, world.BUCKET) + encode_key(key), world.Cluster(3).state)

    named = world.run(story())
    assert json.loads(json.dumps(named))["key"] == shown


def test_a_failure_is_reported_and_tried_again(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.used, bench.failing = 0.9, StoreUnavailable("no machine came")
        await bench.run_for(1)
        assert bench.done == ["add"]
        assert bench.scaling.last_decision()["failed"] == "no machine came"
        bench.failing = None
        await bench.run_for(8)
        assert bench.done[1:4] == ["add"] * 3
        assert bench.scaling.last_decision()["failed"] == ""

    world.run(story())


def test_a_dry_run_does_nothing(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world)
        bench.state = bench.state.with_scaling(None)
        report = await bench.scaling.report(ScalingConfig(ops_per_s=55.0))
        assert report["would"] == "add 3 nodes"
        assert (report["dry_run"], report["on"], bench.done) == (True, False, [])
        assert [node["used"] for node in report["nodes"]] == [round(50 / 55, 3)] * 4

    world.run(story())


def test_partitions_that_lie_otherwise_than_the_weights_ask_for_are_put_right(world: ModuleType) -> None:
    async def story() -> None:
        bench = asked(world, 3)
        assert not uneven(bench.state)
        joined = moves.with_member(bench.state, moves.Member(node_id="n4", weight=1.0, host="n4", zone=""))
        assert not uneven(joined), "they are on their way"
        bench.state = moves.abort(joined)
        assert uneven(bench.state)
        bench.used = 0.9
        await bench.run_for(1)
        assert bench.done == ["rebalance"]

    world.run(story())


def test_limits_are_checked() -> None:
    assert check_limits({"ops_per_s": 5}, 3) == ScalingConfig(ops_per_s=5.0, least=3)
    assert check_limits({"ops_per_s": 5}, 1).least == 1
    for wrong in (
        {"ops_per_s": "x"}, {"ops_per_s": 5.0, "least": 2}, {"ops_per_s": 5.0, "high": 0.3}, {}, {"ops_per_s": 1e-310},
        {"ops_per_s": 5.0, "low": 1e-323, "high": 2e-323}, {"ops_per_s": 5.0, "hot_share": 5e-324},
    ):  # fmt: skip
        with pytest.raises(InvalidOption):
            check_limits(wrong, 3)


@pytest.mark.parametrize("absurd", [{"ops_per_s": 1e-310}, {"ops_per_s": 1.0, "low": 1e-323, "high": 2e-323}])
def test_limits_from_which_nothing_follows_are_reported_and_end_nothing(
    world: ModuleType, absurd: dict[str, float]
) -> None:
    """A store that was given them before they were refused has them in its state."""

    async def story() -> None:
        bench = asked(world)
        bench.state = bench.state.with_scaling(ScalingConfig(**absurd))
        await bench.run_for(12)
        assert "nothing follows from these limits" in bench.scaling.last_decision()["failed"]
        with pytest.raises(InvalidOption):
            await bench.scaling.report()
        bench.state, bench.used = bench.state.with_scaling(ScalingConfig(**LIMITS)), 0.9
        await bench.run_for(6)
        assert bench.done[:1] == ["add"]
        assert bench.scaling.last_decision()["failed"] == ""

    world.run(story())


def test_a_store_grows_by_what_its_nodes_measure(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "LOOK_EVERY_S", 2.0)

    async def story() -> None:
        bench = Bench(world, maintenance=True)
        supervisor = await bench.started()
        report = (await bench.ask(f.Autoscale(None, False, False, 5.0))).data
        assert (report["on"], report["why"]) == (False, "it is off")
        assert (
            type(error(await bench.ask(f.Autoscale({"ops_per_s": 1.0, "least": 1}, False, False, 5.0))))
            is InvalidOption
        )
        stop = False

        async def load() -> None:
            number = 0
            while not stop:
                number += 1
                await bench.peer.put(f"k{number % 50}", str(number))
                await asyncio.sleep(0.1)

        client = asyncio.create_task(load())
        await asyncio.sleep(25)
        tried = (await bench.ask(f.Autoscale({"ops_per_s": 12.0}, True, False, 5.0))).data
        assert tried["would"] == "add 2 nodes", tried
        assert {node["node_id"]: 8 < node["ops_per_s"] < 12 for node in tried["nodes"]} == dict.fromkeys(
            bench.cluster.ids, True
        )
        assert supervisor.state.scaling is None
        report = (await bench.ask(f.Autoscale({"ops_per_s": 12.0, "most": 4}, False, False, 5.0))).data
        assert report["on"]
        await asyncio.sleep(60)
        assert len(supervisor.state.ring.members) == 4
        status = await supervisor.status()
        assert "the maximum of" in status["autoscaling"]["why"]
        assert status["nodes"][0]["storage"]["load"]["keys"][0]["bucket"] == "default"
        stop = True
        await client
        await bench.ask(f.Autoscale(None, False, True, 5.0))
        assert supervisor.state.scaling is None

    world.run(story())
