"""Nodes are replaced, by themselves and by command. That they come and go: see test_rebalancing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.errors import InvalidOption, StoreUnavailable
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.supervision.autoscaling import NodeLoad
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


def test_the_id_of_a_node_that_did_not_join_is_given_to_no_other(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, maintenance=True)
        supervisor = await bench.started()
        launch, ids = bench.launcher.launch, []

        async def fail_in_the_end(node_id: str, host: str, **options: Any) -> Any:
            ids.append(node_id)
            launched = await launch(node_id, host, **options)
            if node_id == "n4":
                raise LaunchFailed("crashed", "it answered, and died")
            return launched

        bench.launcher.launch = fail_in_the_end
        assert type(error(await bench.ask(f.AddNode(1.0, "", "", 10.0)))) is StoreUnavailable
        await asyncio.sleep(1)
        assert bench.launcher.retired == ["n4"], "its process is not left behind"
        assert supervisor._watch.nodes.keys() == {"n1", "n2", "n3"}
        assert await bench.ask(f.AddNode(1.0, "", "", 10.0)) == f.Info("n5")
        assert await bench.ask(f.AddNode(1.0, "", "", 10.0)) == f.Info("n6"), "one that joins takes one id"
        assert ids == ["n4", "n5", "n6"]

    world.run(story())


def test_an_id_is_taken_before_its_bearer_starts(world: ModuleType) -> None:
    """The supervisor may be lost in between: the next one must not give the id to another node."""

    async def story() -> None:
        bench = Bench(world, maintenance=True)
        supervisor = await bench.started()
        bench.launcher.needs_s["n4"] = 20.0
        adding = asyncio.create_task(bench.ask(f.AddNode(1.0, "", "h2", 30.0)))
        await asyncio.sleep(5)
        adding.cancel()
        bench.dead_supervisor(supervisor)
        await bench.started()
        assert await bench.ask(f.AddNode(1.0, "", "", 10.0)) == f.Info("n5")

    world.run(story())


def test_a_node_that_a_lost_supervisor_had_started_is_seen_off_wherever_it_runs(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, maintenance=True)
        supervisor = await bench.started()

        async def wait(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        supervisor.members._between_waves = wait
        adding = asyncio.create_task(bench.ask(f.AddNode(1.0, "", "", 10.0)))
        await asyncio.sleep(1)
        adding.cancel()
        bench.dead_supervisor(supervisor)
        bench.launcher.found.remove("n4")  # its host is not the next supervisor's
        assert bench.cluster.runs("n4")
        await bench.started()
        await asyncio.sleep(1)
        assert bench.launcher.retired == ["n4"]
        assert not bench.cluster.runs("n4")

    world.run(story())


def test_who_waits_for_a_machine_keeps_no_other_from_coming_and_going(world: ModuleType) -> None:
    async def story() -> None:
        bench = impatient(world, 30.0, nodes=5)
        supervisor = await bench.started()
        waiting: list[float] = []

        async def room(timeout_s: float) -> str:
            if timeout_s > 100:  # the autoscaler's
                waiting.append(timeout_s)
                await asyncio.sleep(timeout_s)
                raise LaunchFailed("no host", "no machine came")
            return ""

        async def measure() -> list[NodeLoad]:
            return [NodeLoad(member.node_id, 1.0, 90.0) for member in supervisor.state.ring.members]

        bench.launcher.room = room
        supervisor._scaling._measure = measure
        await bench.ask(f.Autoscale({"ops_per_s": 100.0}, False, False, 5.0))
        await asyncio.sleep(6)
        assert waiting
        assert await bench.ask(f.RemoveNode("n5", 10.0)) == f.Info(None)
        await settled(supervisor)
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("no host", "its host is gone")
        await asyncio.sleep(90)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4", "n6"]
        assert len(waiting) == 1, "it has waited all the while"

    world.run(story())


def test_the_wait_for_another_node_to_join_ends_with_the_callers_time(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, 4, maintenance=True)
        await bench.started()
        bench.launcher.needs_s["n5"] = 25.0
        adding = asyncio.create_task(bench.ask(f.AddNode(1.0, "", "", 30.0)))
        await asyncio.sleep(1)
        began_s = asyncio.get_running_loop().time()
        refused = error(await bench.ask(f.RemoveNode("n2", 3.0)))
        assert type(refused) is StoreUnavailable
        assert "still joining" in str(refused)
        assert asyncio.get_running_loop().time() - began_s < 4
        assert await adding == f.Info("n5")

    world.run(story())
