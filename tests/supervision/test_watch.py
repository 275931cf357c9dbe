"""Nodes are watched and brought back: launches, verdicts (P12), what is taken for new (P6)."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.supervision import watch
from tests.supervision.bench import Bench

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.usefixtures("nobody_tells")


# ---- bringing back ----


def test_a_dead_node_is_back_soon_with_its_data_and_an_update_says_so(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        await bench.peer.put("a", "1", w=3)
        before = await bench.ask(f.GetClusterUpdate())
        bench.launcher.launched.clear()
        bench.cluster.kill("n2", "drop")
        await asyncio.sleep(1)
        assert bench.launcher.launched == [("n2", "h2", False, True)], "on its host, taking its directory over (P6)"
        after = await bench.ask(f.GetClusterUpdate())
        assert after.incarnations["n2"] == 2
        assert after.down == {}
        assert after.sequence > before.sequence
        assert await bench.peer.get("a", r=3, timeout_s=1) == "1"
        status = (await bench.ask(f.GetInfo("status", 1.0))).data
        node = next(node for node in status["nodes"] if node["node_id"] == "n2")
        assert (node["state"], node["restarts"], node["incarnation"]) == ("up", 1, 2)
        assert 0 < node["last_outage_s"] < 1

    world.run(story())


def test_while_a_node_is_down_the_coordinator_knows_why(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.failing["n2"] = LaunchFailed("no host", "its host is not there")
        bench.cluster.kill("n2")
        await asyncio.sleep(2)
        update = await bench.ask(f.GetClusterUpdate())
        assert update.down == {"n2": "its host is not there"}
        assert bench.peer.core.routing.peers.in_order(["n2", "n1", "n3"]) == ["n1", "n3", "n2"]
        assert (await bench.states()) == {"n1": "up", "n2": "down", "n3": "up"}

    world.run(story())


def test_a_node_that_was_away_gets_the_state_it_missed(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        bench.launcher.failing["n2"] = LaunchFailed("slow", "no answer")
        bench.cluster.kill("n2")
        await asyncio.sleep(0.5)
        await supervisor.open_bucket("carts", {"n": 2})
        del bench.launcher.failing["n2"]
        await asyncio.sleep(10)
        kept = await bench.cluster.ask("n2", f.ReadState())
        assert (kept.generation, kept.version) == supervisor.state.ballot

    world.run(story())


def test_launches_that_fail_are_tried_again_ever_more_slowly_and_logged_once(
    world: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.failing["n2"] = LaunchFailed("crashed", "it crashes")
        bench.launcher.attempts.clear()
        with caplog.at_level(logging.INFO, "raykv.supervisor"):
            bench.cluster.kill("n2")
            await asyncio.sleep(60)
        times = [at_s for node_id, at_s in bench.launcher.attempts if node_id == "n2"]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(later >= earlier - 0.01 for earlier, later in pairwise(gaps))
        assert gaps[0] < 0.3
        assert watch.LAUNCH_RETRY_CEILING_S <= gaps[-1] < watch.LAUNCH_RETRY_CEILING_S + 0.2
        assert 10 < len(times) < 25
        assert len([line for line in caplog.messages if "could not be started" in line]) == 1
        del bench.launcher.failing["n2"]
        await asyncio.sleep(6)
        assert (await bench.states())["n2"] == "up"

    world.run(story())


def test_a_process_that_is_slow_to_start_gets_more_time_each_time(world: ModuleType) -> None:
    """*Without: on a machine too busy to start one in half a minute, each is ended and none ever runs.*"""

    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.needs_s["n2"] = 200.0
        bench.launcher.attempts.clear()
        bench.cluster.kill("n2")
        await asyncio.sleep(1000)
        assert (await bench.states())["n2"] == "up"
        assert len(bench.launcher.attempts) == 4, "30, 60, 120 and 240 seconds"

    world.run(story())


def test_a_store_starts_on_a_machine_on_which_that_takes_long(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.needs_s = dict.fromkeys(("n1", "n2", "n3"), watch.BRING_UP_TIMEOUT_S - 5)
        await bench.started()
        assert {*(await bench.states()).values()} == {"up"}

    world.run(story())


def test_one_line_a_change_with_store_node_and_cause(world: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        with caplog.at_level(logging.INFO, "raykv.supervisor"):
            caplog.clear()
            bench.cluster.kill("n2")
            await asyncio.sleep(1)
        lines = [record.getMessage() for record in caplog.records if record.name == "raykv.supervisor"]
        assert len(lines) == 2
        assert lines[0] == "store test: node n2 down: its process ended"
        assert lines[1].startswith("store test: node n2 up: incarnation 2")

    world.run(story())


# ---- verdicts (P12) ----


def test_a_frozen_node_is_down_on_the_word_of_two_and_replaced(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        former = bench.cluster.process("n3")
        bench.cluster.freeze("n3")
        began_s = asyncio.get_running_loop().time()
        while bench.cluster.process("n3") is former:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - began_s < 6
        await asyncio.sleep(1)
        assert bench.launcher.launched[-1] == ("n3", "h1", False, True)
        assert (await bench.ask(f.GetClusterUpdate())).incarnations["n3"] == 2
        assert sorted(await bench.peer.put("a", "1", w=3)) == ["n1", "n2", "n3"]

    world.run(story())


def test_a_node_that_only_the_supervisor_does_not_reach_is_left_alone(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.launched.clear()
        bench.cluster.cut("supervisor", "node/n3")
        await asyncio.sleep(20)
        assert bench.launcher.launched == []
        assert (await bench.ask(f.GetClusterUpdate())).down == {}
        bench.cluster.cut("coordinator", "node/n3")
        await asyncio.sleep(10)
        assert bench.launcher.launched[0] == ("n3", "h1", False, True)

    world.run(story())


@pytest.mark.parametrize("how", ["gone", "frozen", "cut"])
def test_without_a_second_reporter_there_is_no_verdict(world: ModuleType, how: str) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.launched.clear()
        if how == "gone":
            bench.cluster.network.living("coordinator").kill()
        elif how == "frozen":
            bench.cluster.network.living("coordinator").freeze()
        else:
            bench.cluster.cut("supervisor", "coordinator")
        bench.cluster.freeze("n3")
        await asyncio.sleep(20)
        assert bench.launcher.launched == [], "the supervisor's word alone makes nobody down"

    world.run(story())


def test_a_short_stall_is_nothing(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.launched.clear()
        for _ in range(5):
            bench.cluster.freeze("n3")
            await asyncio.sleep(1.2)
            bench.cluster.thaw(bench.cluster.process("n3"))
            await asyncio.sleep(2)
        assert bench.launcher.launched == []

    world.run(story())


# ---- what is taken for new (P6) ----


def test_a_founder_that_was_overtaken_does_not_take_an_empty_directory_for_new(world: ModuleType) -> None:
    """Simulated seed 200436: it waited for a node's name while another founded the store; then the node was wiped."""

    async def story() -> None:
        bench = Bench(world)
        slow = bench.supervisor()
        slow._watch.unborn.update(["n1", "n2", "n3"])
        assert await slow._watch._never_ran("n1")
        await bench.started()
        assert not await slow._watch._never_ran("n1")

    world.run(story())


def test_an_owner_that_was_superseded_does_not_take_an_empty_directory_for_new(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        former = await bench.started()
        former._watch.unborn.add("n1")
        assert await former._watch._never_ran("n1")
        bench.dead_supervisor(former)
        await bench.started()
        assert not await former._watch._never_ran("n1")

    world.run(story())


def test_a_node_that_somebody_else_has_started_is_taken_as_it_is(world: ModuleType) -> None:
    """Simulated seed 212095: a former supervisor was quicker, and its process was waited out, then ended for nothing."""

    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.failing["n2"] = LaunchFailed("slow", "another process has its name")
        bench.cluster.kill("n2")
        await asyncio.sleep(0.12)
        bench.cluster.start_node("n2")
        await asyncio.sleep(2)
        assert (await bench.states())["n2"] == "up"

    world.run(story())


def test_while_nobody_can_say_whether_a_node_ever_ran_it_is_not_started(world: ModuleType) -> None:
    """Simulated seed 221471: started at once, it would take itself for incomplete, for ever."""

    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        supervisor._watch.unborn.add("n1")
        for node_id in ("n2", "n3"):
            bench.launcher.failing[node_id] = LaunchFailed("crashed", "again and again")
            bench.cluster.kill(node_id)
        with pytest.raises(LaunchFailed, match="may have run"):
            await supervisor._watch._never_ran("n1")
        await asyncio.sleep(watch.UNDECIDED_S + 1)
        assert not await supervisor._watch._never_ran("n1"), "not for ever: it may be what the others lack"

    world.run(story())
