"""Nodes are replaced, by themselves and by command. That they come and go: see test_rebalancing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from raykv.errors import InvalidOption
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from tests.supervision.bench import Bench, error, settled

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.usefixtures("nobody_tells")


def impatient(world: ModuleType, replace_after_s: float, nodes: int = 3) -> Bench:
    """Return a bench whose store waits no longer than this for a host that is gone."""
    bench = Bench(world, nodes, maintenance=True)
    store = msgspec.structs.replace(bench.plan.store, replace_after_s=replace_after_s)
    bench.plan = msgspec.structs.replace(bench.plan, store=store)
    return bench


def test_a_node_whose_host_is_gone_is_replaced_after_a_while(world: ModuleType) -> None:
    async def story() -> None:
        bench = impatient(world, 40.0)
        supervisor = await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("no host", "its host is gone")
        await asyncio.sleep(35)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n2", "n3"], "it may come back"
        await asyncio.sleep(60)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4"]
        assert supervisor.state.goal is None
        assert len(supervisor.state.ring.partitions_of("n4")) == supervisor.state.ring.partitions
        assert await bench.peer.get("a", r=3) == "1"
        assert await bench.states() == {"n1": "up", "n3": "up", "n4": "up"}

    world.run(story())


def test_a_host_that_goes_while_its_nodes_weight_grows_is_replaced_as_well(world: ModuleType) -> None:
    async def story() -> None:
        bench = impatient(world, 30.0, nodes=4)
        supervisor = await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("no host", "its host is gone")
        await asyncio.sleep(5)
        assert await bench.ask(f.SetWeight("n2", 3.0, 10.0)) == f.Info(None)
        await asyncio.sleep(20)
        assert supervisor.state.goal is not None, "what n2 is to get it cannot take"
        await asyncio.sleep(60)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4", "n5"]
        assert supervisor.state.goal is None
        assert supervisor.state.ring.member("n5").weight == 3.0
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


def test_a_node_that_only_cannot_be_started_is_not_replaced_by_itself(world: ModuleType) -> None:
    async def story() -> None:
        bench = impatient(world, 5.0)
        supervisor = await bench.started()
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("crashed", "again and again")
        await asyncio.sleep(60)
        assert supervisor.state.ring.has_member("n2")
        assert supervisor.state.goal is None

    world.run(story())


def test_a_lost_node_is_replaced_by_command(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, maintenance=True)
        supervisor = await bench.started()
        await bench.peer.put("a", "1", w=3)
        refused = error(await bench.ask(f.ReplaceNode("n2", "", 10.0)))
        assert type(refused) is InvalidOption
        assert "is up" in str(refused)
        assert type(error(await bench.ask(f.ReplaceNode("n9", "", 10.0)))) is InvalidOption
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("crashed", "again and again")
        await asyncio.sleep(1)
        assert type(error(await bench.ask(f.ReplaceNode("n2", "h9", 10.0)))) is InvalidOption
        assert await bench.ask(f.ReplaceNode("n2", "h2", 10.0)) == f.Info("n4")
        await settled(supervisor)
        assert [(member.node_id, member.host) for member in supervisor.state.ring.members][-1] == ("n4", "h2")
        assert await bench.peer.get("a", r=3) == "1"
        assert bench.launcher.retired == ["n2"]

    world.run(story())
