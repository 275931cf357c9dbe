"""Nodes are restarted as asked: when they can be spared, without a word of failure, and what fails meanwhile is healed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.config import BucketConfig
from raykv.errors import InvalidOption
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.supervision.restarting import cost_of_a_copy
from tests.supervision.bench import Bench, error

if TYPE_CHECKING:
    from types import ModuleType

    from raykv.supervision.supervisor import Supervisor

pytestmark = pytest.mark.usefixtures("nobody_tells")


async def asked(bench: Bench, node_id: str, incarnation: int = 1, *, force: bool = False) -> dict[str, Any]:
    answer = await bench.ask(f.RestartNode(node_id, incarnation, force, 5.0))
    assert isinstance(answer, f.Info), answer
    return answer.data


async def until(bench: Bench, node_id: str, phase: str, incarnation: int = 1, *, within_s: float = 60.0) -> list[str]:
    """Ask on until a node has come to a phase; return the phases that were seen."""
    seen: list[str] = []
    for _ in range(round(within_s / 0.1)):
        answer = await asked(bench, node_id, incarnation)
        if not seen or seen[-1] != answer["phase"]:
            seen.append(answer["phase"])
        if answer["phase"] == phase:
            return seen
        await asyncio.sleep(0.1)
    raise AssertionError((seen, answer))


async def begun(world: ModuleType, nodes: int = 3, **options: Any) -> tuple[Bench, Supervisor]:
    bench = Bench(world, nodes, maintenance=True, **options)
    supervisor = await bench.started()
    await bench.peer.put("a", "1", w=3)
    await asyncio.sleep(2)
    return bench, supervisor


def stopped_cleanly(bench: Bench, node_id: str) -> bool:
    return bench.cluster.node(node_id)._directory.previous.mark is not None


def test_a_node_is_drained_stopped_and_started_again_on_its_directory(
    world: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        bench, supervisor = await begun(world)
        directory_id = bench.cluster.node("n2")._directory.directory_id
        caplog.clear()
        with caplog.at_level("WARNING", "raykv"):
            assert (await asked(bench, "n2"))["phase"] == "draining"
            await asyncio.sleep(0.5)
            assert list(bench.peer.core.routing.peers.in_order(["n2", "n1", "n3"])) == ["n1", "n3", "n2"]
            assert await bench.states() == {"n1": "up", "n2": "restarting", "n3": "up"}
            assert bench.cluster.node("n2").incarnation == 1, "it still answers"
            seen = await until(bench, "n2", "done")
        assert seen[0] == "draining"
        assert seen[-1] == "done"
        assert [record.getMessage() for record in caplog.records] == [], "it is no failure"
        node = bench.cluster.node("n2")
        assert (node.incarnation, node.complete, node._directory.directory_id) == (2, True, directory_id)
        assert supervisor._watch.nodes["n2"].restarts == 0, "of those that it needed"
        assert await bench.states() == {"n1": "up", "n2": "up", "n3": "up"}
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


def test_asked_again_it_restarts_nothing_twice(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        answers = await asyncio.gather(*(asked(bench, "n2") for _ in range(5)))
        assert {answer["phase"] for answer in answers} <= {"draining", "waiting"}
        await until(bench, "n2", "done")
        for _ in range(3):
            assert (await asked(bench, "n2"))["phase"] == "done"
        assert bench.cluster.node("n2").incarnation == 2
        assert (await asked(bench, "n2", 2))["phase"] == "draining", "of its present run it is another request"

    world.run(story())


def test_what_was_written_meanwhile_is_there_before_it_is_done(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await asked(bench, "n2")
        written = 0
        while (await asked(bench, "n2"))["phase"] != "done":
            await bench.peer.put(f"k{written}", str(written))
            written += 1
            await asyncio.sleep(0.05)
        assert written > 20
        for number in range(written - 1):  # the last one may be on its way
            assert await bench.cluster.held("n2", f"k{number}") is not None, number

    world.run(story())


def test_one_at_a_time(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await asked(bench, "n2")
        answer = await asked(bench, "n3")
        assert (answer["phase"], answer["blocked"]) == ("waiting", False)
        assert "n2 is being restarted" in answer["why"]
        await until(bench, "n2", "done")
        await until(bench, "n3", "done")
        assert [bench.cluster.node(node_id).incarnation for node_id in bench.cluster.ids] == [1, 2, 2]

    world.run(story())


@pytest.mark.parametrize("trouble", ["down", "incomplete", "moves", "full"])
def test_while_another_node_is_missed_nothing_begins(world: ModuleType, trouble: str) -> None:
    async def story() -> None:
        bench, _ = await begun(world, 4)
        match trouble:
            case "down":
                bench.launcher.failing["n3"] = LaunchFailed("crashed", "again and again")
                bench.cluster.kill("n3")
                await asyncio.sleep(1)
            case "incomplete":
                bench.cluster.node("n3")._replica.mark_incomplete()
            case "moves":
                await bench.ask(f.Rebalance("pause", 5.0))
                await bench.ask(f.SetWeight("n3", 2.0, 5.0))
            case "full":
                bench.cluster.node("n3")._replica.no_room = "the disk of n3 is full"
        answer = await asked(bench, "n2")
        assert (answer["phase"], answer["blocked"]) == ("waiting", True)
        expected = {"down": "again and again", "incomplete": "lacks data", "moves": "moving", "full": "is full"}
        assert expected[trouble] in answer["why"]
        await asyncio.sleep(3)
        assert bench.cluster.node("n2").incarnation == 1

    world.run(story())


def test_a_bucket_that_cannot_spare_a_copy_is_named_with_its_cost(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await bench.ask(f.OpenBucket("one", {"n": 1}, 5.0))
        refused = error(await bench.ask(f.RestartNode("n2", 1, False, 5.0)))
        assert type(refused) is InvalidOption
        assert "bucket 'one' (1 copy) cannot be read or written" in str(refused)
        assert "nothing is lost" in str(refused)
        await asyncio.sleep(3)
        assert bench.cluster.node("n2").incarnation == 1
        await asyncio.sleep(2)
        while (await asked(bench, "n2", force=True))["phase"] != "done":  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        assert bench.cluster.node("n2").incarnation == 2
        assert type(error(await bench.ask(f.RestartNode("n9", 1, False, 5.0)))) is InvalidOption

    world.run(story())


@pytest.mark.parametrize(
    ("options", "nodes", "failing"),
    [
        ({"n": 3, "r": 2, "w": 2}, 3, ""),
        ({"n": 3, "r": 1, "w": 3}, 3, "written"),
        ({"n": 3, "r": 3, "w": 1}, 3, "read"),
        ({"n": 1, "r": 1, "w": 1}, 3, "read or written"),
        ({"n": 2, "r": 1, "w": 2}, 3, "written"),
        ({"n": 2, "r": 2, "w": 2, "sloppy": True}, 3, ""),
        ({"n": 2, "r": 2, "w": 2, "sloppy": True}, 2, "read or written"),
        ({"n": 2, "r": 2, "w": 2, "versioning": "linearizable"}, 3, "read or written"),
        ({"n": 3, "r": 2, "w": 2, "versioning": "linearizable"}, 3, ""),
    ],
)
def test_what_a_bucket_can_spare(options: dict[str, Any], nodes: int, failing: str) -> None:
    cost = cost_of_a_copy(BucketConfig(name="b", **options), nodes)
    assert (f"cannot be {failing} there" in cost) if failing else not cost


def test_a_node_that_does_not_come_back_is_down_and_brought_back_as_ever(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        bench.launcher.failing["n2"] = LaunchFailed("crashed", "the new version does not start")
        await asked(bench, "n2")
        await asyncio.sleep(20)
        answer = await asked(bench, "n2")
        assert (answer["phase"], answer["blocked"]) == ("waiting", True)
        assert "does not start" in answer["why"]
        assert (await bench.states())["n2"] == "down"
        assert await bench.peer.put("b", "2"), "the others serve"
        del bench.launcher.failing["n2"]
        await until(bench, "n2", "done")
        assert await bench.peer.get("b", r=3) == "2"

    world.run(story())


def test_a_node_that_dies_while_it_is_drained_is_brought_back_and_done(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await asked(bench, "n2")
        await asyncio.sleep(0.5)
        bench.cluster.kill("n2", "keep")
        await until(bench, "n2", "done")
        assert bench.cluster.node("n2").incarnation == 2, "once"
        await until(bench, "n3", "done")

    world.run(story())


def test_another_node_that_dies_meanwhile_is_healed_before_it_is_done(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await asked(bench, "n2")
        await asyncio.sleep(1.0)
        bench.cluster.kill("n3", "keep")
        await until(bench, "n2", "done")
        assert await bench.states() == {"n1": "up", "n2": "up", "n3": "up"}
        assert bench.cluster.node("n3").incarnation == 2
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


def test_a_node_that_does_not_stop_is_ended_and_started_again(world: ModuleType) -> None:
    async def story() -> None:
        bench, _ = await begun(world)
        await asked(bench, "n2")
        await asyncio.sleep(0.2)
        bench.cluster.freeze("n2")
        await until(bench, "n2", "done")
        assert bench.cluster.node("n2").incarnation == 2
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


@pytest.mark.parametrize("when_s", [0.3, 1.45, 1.52, 1.56, 1.7])
def test_a_supervisor_that_is_lost_meanwhile_leaves_no_node_behind(world: ModuleType, when_s: float) -> None:
    async def story() -> None:
        bench, supervisor = await begun(world)
        await asked(bench, "n2")
        await asyncio.sleep(when_s)
        bench.dead_supervisor(supervisor)
        await bench.started()
        await until(bench, "n2", "done")
        assert bench.cluster.node("n2").incarnation == 2
        assert await bench.states() == {"n1": "up", "n2": "up", "n3": "up"}
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


def test_a_node_that_leaves_while_it_is_restarted_is_not_waited_for(world: ModuleType) -> None:
    async def story() -> None:
        bench, supervisor = await begun(world, 4)
        bench.launcher.failing["n2"] = LaunchFailed("no host", "gone")
        await asked(bench, "n2")
        await asyncio.sleep(3)
        assert await bench.ask(f.RemoveNode("n2", 10.0)) == f.Info(None)
        for _ in range(200):
            if supervisor.state.goal is None:
                break
            await asyncio.sleep(0.5)
        assert supervisor._restarting.under_way == ""
        await until(bench, "n3", "done")
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4"]

    world.run(story())
