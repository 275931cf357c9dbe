"""A supervisor, or several, over real nodes in one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raykv.ports import Host
from raykv.protocol import frames as f
from raykv.supervision.founding import Plan
from raykv.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


class Bench:
    """A cluster without nodes, a launcher, a coordinator, and supervisors over them."""

    def __init__(self, world: ModuleType, nodes: int = 3, copies: int = 3, **options: Any) -> None:
        self.world = world
        self.cluster = world.Cluster(nodes, copies=copies, **options)
        self.launcher = world.Launcher(self.cluster)
        self.plan = Plan(store=self.cluster.store, nodes=nodes, weights=(1.0,) * nodes)
        self.peer = world.Peer(self.cluster, "coordinator", 0)
        self.cluster.network.register(self.peer.process, self.peer.front.serve)
        del self.cluster.network.endpoints["supervisor"]

    def supervisor(self, store_id: str = "store-1") -> Supervisor:
        made = Supervisor(
            store_id,
            self.plan,
            [Host(name="h1"), Host(name="h2")],
            transport=self.cluster.transport("supervisor"),
            clock=self.world.Clock(),
            launcher=self.launcher,
        )
        self.cluster.answer_as("supervisor", made.serve)
        return made

    async def started(self) -> Supervisor:
        supervisor = self.supervisor()
        await supervisor.start()
        return supervisor

    async def ask(self, request: f.SupervisorRequest) -> Any:
        frame = await self.cluster.network.endpoints["supervisor"].serve(f.supervisor_requests.encode(request))
        return f.supervisor_answers.decode(frame)

    async def states(self) -> dict[str, str]:
        status = (await self.ask(f.GetInfo("status", 1.0))).data
        return {node["node_id"]: node["state"] for node in status["nodes"]}

    def dead_supervisor(self, supervisor: Supervisor) -> None:
        """Its process ends: its tasks are gone, and it says nothing more."""
        for task in supervisor._tasks:
            task.cancel()
        del self.cluster.network.endpoints["supervisor"]


def error(answer: Any) -> Exception:
    assert isinstance(answer, f.Refused), answer
    return answer.failed.error()


class Places:
    """A launcher of which a test says where directories are, and which hosts there are."""

    def __init__(self, launcher: Any) -> None:
        self.here: dict[str, str] = {}
        self.everywhere: dict[str, str] = {}
        self.twice: dict[str, list[str]] = {}
        """Node id -> the other hosts on which it has a directory, too."""
        self.there = ["h1", "h2"]
        launcher.directories = self.directories
        launcher.hosts = self.hosts

    async def directories(
        self, *, everywhere: bool = False, preferred: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        found = self.everywhere if everywhere else self.here
        return found | {
            node_id: host for node_id, host in (preferred or {}).items() if host in self.twice.get(node_id, ())
        }

    async def hosts(self) -> list[Host]:
        return [Host(name=name, cpus=4.0) for name in self.there]


async def stopped_bench(world: ModuleType, nodes: int = 3) -> Bench:
    """Return a bench whose store was founded and whose processes have all ended."""
    bench = Bench(world, nodes)
    bench.dead_supervisor(await bench.started())
    for node_id in bench.cluster.ids:
        bench.cluster.kill(node_id, "keep")
    bench.launcher.launched.clear()
    return bench


async def settled(supervisor: Supervisor) -> None:
    """Wait until no partition has to move."""
    for _ in range(200):
        if supervisor.state.goal is None:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(supervisor.state.moves)


def where(bench: Bench) -> dict[str, str]:
    return {node_id: host for node_id, host, _, _ in bench.launcher.launched}
