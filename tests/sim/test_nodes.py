"""Storage processes as Ray and the storage actor's shell run them."""

from __future__ import annotations

import asyncio
import random

import pytest

from raykv.cluster.peers import node_address
from raykv.config import NodeConfig, StoreConfig
from raykv.ports import Known, LaunchFailed
from raykv.sim.host import Host
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.network import Network
from raykv.sim.nodes import NodeWorld, SimLauncher
from raykv.sim.trace import Trace


def _says(fresh):
    async def say():
        return fresh

    return say


class Bench:
    def __init__(self, loop):
        trace = Trace(loop)
        self.loop = loop
        self.host = Host("n1", loop, random.Random(1), trace)
        network = Network(loop, random.Random(2), trace)
        store = StoreConfig(name="t", copies=1, partitions=8)
        self.nodes = NodeWorld(
            loop, network, random.Random(3), trace, {"n1": self.host}, "s", store, NodeConfig()
        )  # fmt: skip
        self.supervisor = Process(loop, "supervisor")
        self.launcher = SimLauncher(self.nodes, self.supervisor)

    async def launch(self, *, fresh=False, take_over=False, known=Known(), timeout_s=30.0):  # noqa: B008
        return await self.supervisor.spawn(
            self.launcher.launch("n1", "", fresh=_says(fresh), take_over=take_over, known=known, timeout_s=timeout_s)
        )

    @property
    def process(self):
        return self.nodes.current["n1"].process


def run(story):
    async def on(loop):
        return await story(Bench(loop))

    result, loop = run_virtual(on)
    assert loop.failures == []
    return result


def test_a_node_is_launched_found_and_adopted():
    async def story(bench):
        assert await bench.launcher.directories() == {}
        assert await bench.launcher.adopt("n1", 1.0) is None
        launched = await bench.launch(fresh=True)
        assert (launched.incarnation, launched.pid) == (1, 4001)
        assert await bench.launcher.directories() == {"n1": "n1"}
        assert await bench.launcher.adopt("n1", 1.0) == launched
        assert bench.nodes.living("n1").complete
        assert bench.process.name == node_address("n1")
        again = await bench.launch()
        assert (again.incarnation, again.pid) == (2, 4002)
        assert not await bench.launcher.founded()
        await bench.launcher.note_founded()
        assert await bench.launcher.founded()

    run(story)


def test_an_empty_directory_lacks_something_unless_the_store_is_new():
    async def story(bench):
        await bench.launch(fresh=False)
        assert not bench.nodes.living("n1").complete

    run(story)


def test_a_frozen_process_is_ended_only_to_take_its_place():
    async def story(bench):
        await bench.launch(fresh=True)
        frozen = bench.process
        frozen.freeze()
        assert await bench.launcher.adopt("n1", 1.0) is None
        bench.nodes.current.pop("n1")  # Ray has forgotten it: its host's connection was lost
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch()
        assert caught.value.kind == "in use"
        assert frozen.alive
        launched = await bench.launch(take_over=True)
        assert launched.incarnation == 2
        assert not frozen.alive

    run(story)


def test_a_process_that_dies_while_it_opens_its_directory():
    async def story(bench):
        bench.host.crash_after = 1
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch(fresh=True)
        assert caught.value.kind == "crashed"
        assert (await bench.launch(fresh=True)).incarnation == 1
        assert bench.nodes.living("n1").complete

    run(story)


def test_what_cannot_be_launched_says_why():
    async def story(bench):
        await bench.launch(fresh=True)
        bench.nodes.kill("n1")
        bench.host.up = False
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch()
        assert caught.value.kind == "no host"
        assert await bench.launcher.directories() == {}
        bench.host.up = True
        bench.host.disk.flip_bit("/data/identity", 30)
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch()
        assert caught.value.kind == "damaged"
        assert await bench.launcher.directories() == {}, "it does not say whose it is"

    run(story)


def test_a_directory_of_another_store_and_a_disk_that_cannot_be_written():
    async def story(bench):
        await bench.launch(fresh=True)
        bench.nodes.kill("n1")
        bench.nodes.store_id = "other"
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch()
        assert caught.value.kind == "foreign"
        bench.nodes.store_id = "s"
        bench.host.disk.space_bytes = 0
        with pytest.raises(LaunchFailed) as caught:
            await bench.launch()
        assert caught.value.kind == "unusable"

    run(story)


def test_whatever_fails_while_a_directory_is_opened_the_launch_fails_and_the_next_one_does_not():
    async def story(bench):
        await bench.launch(fresh=True)
        bench.nodes.kill("n1")
        before = len(bench.host.disk.trace)
        await bench.launch()
        operations = [operation for operation, _ in bench.host.disk.trace[before:]]
        failed = 0
        for number, operation in enumerate(operations):
            bench.nodes.kill("n1")
            bench.host.disk.fail(operation, after=operations[:number].count(operation))
            (result,) = await asyncio.gather(bench.launch(), return_exceptions=True)
            if isinstance(result, BaseException):
                failed += 1
                assert isinstance(result, LaunchFailed)
                assert result.kind == "unusable"
            bench.host.disk.stop_failing()
            assert await bench.launcher.adopt("n1", 5) is not None or await bench.launch()
        assert failed > 3

    run(story)


def test_the_end_of_a_process_is_noticed_soon_and_that_of_a_host_late():
    async def story(bench):
        assert await bench.launcher.ended("n1") == "no process of it runs"
        for up, least_s, most_s in ((True, 0.0, 0.3), (False, 1.0, 16.0)):
            bench.host.up = True
            await bench.launch(fresh=True)
            ended = bench.supervisor.spawn(bench.launcher.ended("n1"))
            await asyncio.sleep(1)
            began_s = bench.loop.now_s
            bench.host.up = up
            bench.nodes.kill_all("n1")
            assert await ended == "its process ended"
            assert least_s <= bench.loop.now_s - began_s <= most_s

    run(story)


def test_a_node_that_gives_itself_up_is_gone_a_moment_later():
    async def story(bench):
        await bench.launch(fresh=True)
        process = bench.process
        bench.nodes.living("n1").fail("for a test")
        assert process.alive
        await asyncio.sleep(1)
        assert not process.alive

    run(story)


def test_a_launch_outlives_its_supervisor():
    async def story(bench):
        task = bench.supervisor.spawn(
            bench.launcher.launch("n1", "", fresh=_says(True), take_over=False, known=Known(), timeout_s=30.0)
        )
        while "n1" not in bench.nodes.current:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        bench.supervisor.kill()
        await asyncio.sleep(2)
        assert task.done()
        assert bench.nodes.living("n1") is not None

    run(story)
