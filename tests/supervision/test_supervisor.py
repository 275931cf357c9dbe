"""The supervisor over real nodes in one event loop: founding, bringing back, verdicts, recovery, buckets."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.errors import BucketMismatch, CorruptData, InvalidOption, NotEnoughNodes, StoreUnavailable
from raykv.ports import Host, LaunchFailed
from raykv.records import frames as f
from raykv.supervision import supervisor as s
from raykv.supervision.founding import Plan
from raykv.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


class Bench:
    """A cluster without nodes, a launcher, a coordinator, and supervisors over them."""

    def __init__(self, world: ModuleType, nodes: int = 3, copies: int = 3, **options: Any) -> None:
        self.world = world
        self.cluster = world.Cluster(nodes, copies=copies, **options)
        self.launcher = world.Launcher(self.cluster)
        self.plan = Plan(store=self.cluster.store, nodes=nodes, weights=(1.0,) * nodes)
        self.peer = world.Peer(self.cluster, "coordinator", 0)
        self.cluster.network.processes["coordinator"] = world.Process(self.peer.front.serve)
        del self.cluster.network.processes["supervisor"]

    def supervisor(self, store_id: str = "store-1") -> Supervisor:
        made = Supervisor(
            store_id,
            self.plan,
            [Host(name="h1"), Host(name="h2")],
            transport=self.cluster.network.transport("supervisor"),
            clock=self.world.Clock(),
            launcher=self.launcher,
        )
        self.cluster.network.processes["supervisor"] = self.world.Process(made.serve)
        return made

    async def started(self) -> Supervisor:
        supervisor = self.supervisor()
        await supervisor.start()
        return supervisor

    async def ask(self, request: f.SupervisorRequest) -> Any:
        frame = await self.cluster.network.processes["supervisor"].serve(f.supervisor_requests.encode(request))
        return f.supervisor_answers.decode(frame)

    async def states(self) -> dict[str, str]:
        status = (await self.ask(f.Tell("status", 1.0))).data
        return {node["node_id"]: node["state"] for node in status["nodes"]}

    def dead_supervisor(self, supervisor: Supervisor) -> None:
        """Its process ends: its tasks are gone, and it says nothing more."""
        for task in supervisor._tasks:
            task.cancel()
        del self.cluster.network.processes["supervisor"]


def error(answer: Any) -> Exception:
    assert isinstance(answer, f.Refused), answer
    return answer.failed.error()


# ---- founding ----


def test_a_new_store_is_founded_and_handed_out_and_works(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = bench.supervisor()
        with pytest.raises(StoreUnavailable, match="starting"):
            _ = supervisor.state
        assert type(error(await bench.ask(f.GetNews()))) is StoreUnavailable
        state = await supervisor.start()
        assert sorted(bench.launcher.launched) == [
            ("n1", "h1", True, False), ("n2", "h2", True, False), ("n3", "h1", True, False),
        ]  # fmt: skip
        assert state.bucket("default") is not None
        for node_id in bench.cluster.ids:
            kept = await bench.cluster.ask(node_id, f.ReadRegister())
            assert (kept.generation, kept.version) == state.ballot
        assert sorted(await bench.peer.put("a", "1", w=3)) == ["n1", "n2", "n3"]
        assert await bench.peer.get("a", r=3) == "1", "every node is complete"
        news = await bench.ask(f.GetNews())
        assert news.incarnations == {"n1": 1, "n2": 1, "n3": 1}
        assert news.down == {}

    world.run(story())


def test_a_store_that_has_lost_every_directory_is_not_founded_anew(world: ModuleType) -> None:
    """Else it would answer "absent" for all that it acknowledged."""

    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        assert bench.launcher.was_founded
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.wipe(node_id)
        bench.launcher.found.clear()
        launched = len(bench.launcher.launched)
        with pytest.raises(StoreUnavailable, match="bring the others back"):
            await bench.supervisor().start()
        assert len(bench.launcher.launched) == launched

    world.run(story())


def test_a_node_that_fails_at_the_founding_lacks_nothing_when_it_comes(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing["n3"] = LaunchFailed("crashed", "at birth")
        await bench.started()
        assert await bench.peer.put("a", "1", w=2)
        del bench.launcher.failing["n3"]
        await asyncio.sleep(10)
        assert bench.cluster.node("n3").identity["complete"]
        assert await bench.peer.get("a", r=3) == "1"
        bench.cluster.wipe("n3")
        await asyncio.sleep(10)
        assert not bench.cluster.node("n3").identity["complete"], "from then on it may lack something"

    world.run(story())


def test_a_founding_that_is_taken_up_again_by_another_has_whole_nodes(world: ModuleType) -> None:
    """The state was stored on a majority, and then the supervisor died: n3 had never run."""

    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing["n3"] = LaunchFailed("crashed", "at birth")
        bench.dead_supervisor(await bench.started())
        bench.launcher.was_founded = False
        del bench.launcher.failing["n3"]
        await bench.started()
        assert bench.cluster.node("n3").identity["complete"]
        assert bench.launcher.was_founded

    world.run(story())


def test_more_copies_than_nodes_founds_nothing(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, 2, copies=2)
        bench.plan = msgspec.structs.replace(bench.plan, store=msgspec.structs.replace(bench.cluster.store, copies=3))
        with pytest.raises(NotEnoughNodes):
            await bench.supervisor().start()
        assert bench.launcher.launched == []

    world.run(story())


def test_a_first_start_that_did_not_come_to_its_end_is_begun_again(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.cluster.open("n1", fresh=True)  # launched, then the supervisor died
        bench.cluster.kill("n1", "keep")
        bench.launcher.found = ["n1"]
        await bench.started()
        assert next((node_id, fresh) for node_id, _, fresh, _ in bench.launcher.launched) == ("n1", False)
        assert sorted(await bench.peer.put("a", "1", w=3)) == ["n1", "n2", "n3"]
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


@pytest.mark.parametrize("kind", ["in use", "foreign", "unusable"])
def test_a_directory_that_cannot_be_used_ends_the_start_and_says_why(world: ModuleType, kind: str) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing["n2"] = LaunchFailed(kind, "held by process 77")
        with pytest.raises(InvalidOption, match="n2 cannot use its directory: held by process 77"):
            await bench.supervisor().start()

    world.run(story())


def test_founding_goes_on_without_a_minority(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing["n2"] = LaunchFailed("slow", "no answer")
        await bench.started()
        assert (await bench.states())["n2"] == "down"
        assert sorted(await bench.peer.put("a", "1")) == ["n1", "n3"]
        del bench.launcher.failing["n2"]
        await asyncio.sleep(10)
        assert (await bench.states())["n2"] == "up"

    world.run(story())


def test_founding_without_a_majority_is_refused(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing = {node_id: LaunchFailed("slow", "no answer") for node_id in ("n1", "n2")}
        supervisor = bench.supervisor()
        with pytest.raises(StoreUnavailable):
            await supervisor.start()
        assert type(error(await bench.ask(f.GetNews()))) is StoreUnavailable

    world.run(story())


# ---- bringing back ----


def test_a_dead_node_is_back_soon_with_its_data_and_everybody_is_told(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        await bench.peer.put("a", "1", w=3)
        before = await bench.ask(f.GetNews())
        bench.launcher.launched.clear()
        bench.cluster.kill("n2", "drop")
        await asyncio.sleep(1)
        assert bench.launcher.launched == [("n2", "h2", False, True)], "on its host, taking its directory over (P6)"
        after = await bench.ask(f.GetNews())
        assert after.incarnations["n2"] == 2
        assert after.down == {}
        assert after.sequence > before.sequence
        assert await bench.peer.get("a", r=3, timeout_s=1) == "1"
        status = (await bench.ask(f.Tell("status", 1.0))).data
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
        news = await bench.ask(f.GetNews())
        assert news.down == {"n2": "its host is not there"}
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
        kept = await bench.cluster.ask("n2", f.ReadRegister())
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
        assert s.LAUNCH_RETRY_CEILING_S <= gaps[-1] < s.LAUNCH_RETRY_CEILING_S + 0.2
        assert 10 < len(times) < 25
        assert len([line for line in caplog.messages if "could not be started" in line]) == 1
        del bench.launcher.failing["n2"]
        await asyncio.sleep(6)
        assert (await bench.states())["n2"] == "up"

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
        assert lines[0] == "store test: node n2 down: killed"
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
        assert (await bench.ask(f.GetNews())).incarnations["n3"] == 2
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
        assert (await bench.ask(f.GetNews())).down == {}
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
            bench.cluster.network.processes["coordinator"].ended.set_result("killed")
        elif how == "frozen":
            bench.cluster.network.processes["coordinator"].running.clear()
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


# ---- starting again ----


def test_a_start_on_existing_directories_has_buckets_and_data_again(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        entry = await first.open_bucket("carts", {"n": 2, "codec": "raw"})
        await bench.peer.put("a", "1", w=3)
        old = first.state
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.kill(node_id, "drop")
        bench.launcher.launched.clear()
        state = await bench.supervisor().start()
        assert sorted(bench.launcher.launched) == [(node_id, "h1", False, False) for node_id in bench.cluster.ids]
        assert state.bucket("carts") == entry
        assert state.next_bucket_id == old.next_bucket_id
        assert state.generation == old.generation + 1
        assert state.ring == old.ring
        assert await bench.peer.get("a", r=3) == "1"

    world.run(story())


def test_a_supervisor_that_is_started_anew_adopts_the_nodes_that_run(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.dead_supervisor(first)
        bench.launcher.launched.clear()
        second = await bench.started()
        assert bench.launcher.launched == []
        assert second.state.generation == 2
        assert await bench.peer.get("a", r=3) == "1"
        bench.cluster.kill("n1")
        await asyncio.sleep(1)
        assert [node_id for node_id, *_ in bench.launcher.launched] == ["n1"], "and watches them"
        with pytest.raises(s.Superseded):
            await first.open_bucket("late", {})

    world.run(story())


def test_a_start_that_is_overtaken_may_be_tried_again(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promise that reaches a node twice is refused the second time; that looks as if another had taken over."""

    async def story() -> None:
        bench = Bench(world)
        bench.dead_supervisor(await bench.started())
        promise = bench.cluster.node("n1")._replica._register.promise
        again = [True, True]

        def twice(self: Any, request: f.PromiseRegister) -> f.RegisterAnswer:
            if again:
                again.pop()
                original(self, request)
            return original(self, request)

        kind = type(promise.__self__)
        original = kind.promise
        monkeypatch.setattr(kind, "promise", twice)
        with pytest.raises(StoreUnavailable, match="taken over"):
            await bench.started()
        assert (await bench.started()).state.generation == 3

    world.run(story())


def test_a_replaced_supervisor_says_that_it_was_replaced(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        former = bench.cluster.network.processes["supervisor"]
        await bench.started()
        for task in first._tasks:
            task.cancel()
        frame = await former.serve(f.supervisor_requests.encode(f.OpenBucket("late", {}, 1.0)))
        refused = error(f.supervisor_answers.decode(frame))
        assert type(refused) is StoreUnavailable
        assert "replaced" in str(refused)

    world.run(story())


def test_a_start_with_a_minority_missing_serves_and_brings_it_in_later(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, 5)
        first = await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.kill(node_id)
        bench.launcher.failing = {node_id: LaunchFailed("no host", "not there") for node_id in ("n2", "n5")}
        await bench.started()
        states = await bench.states()
        assert [states[node_id] for node_id in bench.cluster.ids] == ["up", "down", "up", "up", "down"]
        bench.launcher.failing.clear()
        await asyncio.sleep(10)
        assert set((await bench.states()).values()) == {"up"}

    world.run(story())


def test_a_start_with_a_majority_missing_waits_and_then_says_what_is_missing(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, 5)
        first = await bench.started()
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.kill(node_id)
        bench.launcher.failing = {node_id: LaunchFailed("no host", "not there") for node_id in ("n1", "n2", "n5")}
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable) as caught:
            await bench.supervisor().start()
        assert asyncio.get_running_loop().time() - began_s >= s.MAJORITY_TIMEOUT_S
        assert caught.value.details["missing"] == ["n1", "n2", "n5"]
        said = str(caught.value)
        assert said.startswith("these are a minority: 2 of 5 nodes of store 'test' came up, 3 are needed; missing: ")
        assert "n1 on host h1 (not there), n2" in said
        for node_id in ("n3", "n4"):
            kept = await bench.cluster.ask(node_id, f.ReadRegister())
            assert kept.generation == 1, "a minority changes nothing"

    world.run(story())


def test_no_answer_is_not_taken_for_never_founded(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, 5)
        first = await bench.started()
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.kill(node_id)
        bench.launcher.failing = dict.fromkeys(bench.cluster.ids, LaunchFailed("slow", "no answer"))
        bench.plan = msgspec.structs.replace(bench.plan, nodes=7, weights=(1.0,) * 7)
        launched = len(bench.launcher.launched)
        with pytest.raises(StoreUnavailable, match="n1, n2, n3, n4, n5"):
            await bench.supervisor().start()
        assert len(bench.launcher.launched) == launched, "n6 and n7 would have been a store of their own"

    world.run(story())


def test_one_unusable_directory_does_not_stop_a_founded_store(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.dead_supervisor(first)
        for node_id in bench.cluster.ids:
            bench.cluster.kill(node_id)
        bench.launcher.failing = {"n3": LaunchFailed("unusable", "No space left on device")}
        await bench.started()
        assert await bench.states() == {"n1": "up", "n2": "up", "n3": "down"}
        assert await bench.peer.get("a", timeout_s=5) == "1"
        bench.launcher.failing = {}
        await asyncio.sleep(10)
        assert (await bench.states())["n3"] == "up"

    world.run(story())


def test_another_number_of_partitions_than_founded_with_is_refused(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        bench.dead_supervisor(first)
        other = msgspec.structs.replace(bench.plan.store, partitions=bench.plan.store.partitions * 2)
        bench.plan = msgspec.structs.replace(bench.plan, store=other)
        with pytest.raises(CorruptData, match="disagree"):
            await bench.supervisor().start()

    world.run(story())


def test_directories_of_another_store_are_refused(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        bench.dead_supervisor(first)
        with pytest.raises(InvalidOption, match="another store"):
            await bench.supervisor("store-2").start()

    world.run(story())


# ---- buckets ----


def test_buckets_are_opened_found_refused_and_dropped(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        opened = await bench.ask(f.OpenBucket("carts", {"n": 2, "w": 1}, 1.0))
        assert (opened.bucket_id, opened.config["n"], opened.config["w"]) == (2, 2, 1)
        assert await bench.ask(f.OpenBucket("carts", {}, 1.0)) == opened
        mismatch = error(await bench.ask(f.OpenBucket("carts", {"n": 3}, 1.0)))
        assert type(mismatch) is BucketMismatch
        assert type(error(await bench.ask(f.OpenBucket("b", {"n": 4}, 1.0)))) is InvalidOption
        assert type(error(await bench.ask(f.DropBucket("default", 1.0)))) is InvalidOption
        assert len(await bench.peer.put("a", "1", bucket=2, w=2)) == 2, "the coordinator was told"
        assert await bench.ask(f.DropBucket("carts", 1.0)) == f.Told(True)
        assert await bench.ask(f.DropBucket("carts", 1.0)) == f.Told(False)
        with pytest.raises(InvalidOption, match="dropped"):
            await bench.peer.get("a", bucket=2, r=1)
        again = await bench.ask(f.OpenBucket("carts", {}, 1.0))
        assert again.bucket_id == 3, "an id is never given twice"
        assert await bench.peer.get("a", bucket=3) is None

    world.run(story())


def test_opened_at_once_by_many_a_bucket_is_made_once(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        version = supervisor.state.version
        opened = await asyncio.gather(*(bench.ask(f.OpenBucket("carts", {}, 1.0)) for _ in range(10)))
        assert {answer.bucket_id for answer in opened} == {2}
        assert supervisor.state.version == version + 1

    world.run(story())


def test_without_a_majority_no_bucket_is_made_and_it_is_tried_again(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        before = supervisor.state
        for node_id in ("n1", "n2"):
            bench.cluster.cut("supervisor", f"node/{node_id}")
        assert type(error(await bench.ask(f.OpenBucket("carts", {}, 1.0)))) is StoreUnavailable
        assert supervisor.state == before, "nothing is handed out that no majority holds"
        bench.cluster.mend()
        assert (await bench.ask(f.OpenBucket("carts", {}, 1.0))).bucket_id == 2

    world.run(story())


def test_what_is_no_frame_is_refused_as_data(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        for frame in (b"", b"junk", b"\x01\x91\xa4Ping"):
            assert isinstance(f.supervisor_answers.decode(await supervisor.serve(frame)), f.Refused)

    world.run(story())


def test_an_unknown_option_is_refused_as_data(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        assert isinstance(await bench.ask(f.OpenBucket("default", {"sloppy": True}, 1.0)), f.Refused)

    world.run(story())


# ---- status and the end ----


def test_status_tells_settings_nodes_and_figures(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        await bench.peer.put("a", "1", w=3)
        bench.cluster.freeze("n3")
        began_s = asyncio.get_running_loop().time()
        status = (await bench.ask(f.Tell("status", 1.0))).data
        assert asyncio.get_running_loop().time() - began_s <= 1.1, "one node that hangs does not hold it up for long"
        assert (status["name"], status["store_id"], status["buckets"]) == ("test", "store-1", ["default"])
        assert status["config"]["copies"] == 3
        nodes = {node["node_id"]: node for node in status["nodes"]}
        assert list(nodes) == ["n1", "n2", "n3"]
        assert nodes["n1"]["storage"]["records"] == 1
        assert nodes["n1"]["partitions"] == 8
        assert nodes["n1"]["host"] == "h1"
        assert nodes["n3"]["storage"] is None

    world.run(story())


def test_stop_closes_every_node_cleanly(world: ModuleType) -> None:
    async def story() -> None:
        from raykv.storage import read_identity

        bench = Bench(world)
        supervisor = await bench.started()
        await supervisor.stop()
        for node_id in bench.cluster.ids:
            identity = read_identity(bench.cluster.disks[node_id], "/data")
            assert identity is not None
            assert identity.clean

    world.run(story())


def test_stop_ends_the_watch_and_waits_for_no_dead_node(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        bench.cluster.kill("n2")
        await supervisor.stop()
        bench.launcher.launched.clear()
        await asyncio.sleep(20)
        assert bench.launcher.launched == []

    world.run(story())


def test_a_founder_that_was_overtaken_does_not_take_an_empty_directory_for_new(world: ModuleType) -> None:
    """Simulated seed 200436: it waited for a node's name while another founded the store; then the node was wiped."""

    async def story() -> None:
        bench = Bench(world)
        slow = bench.supervisor()
        slow._unborn.update(["n1", "n2", "n3"])
        assert await slow._never_ran("n1")
        await bench.started()
        assert not await slow._never_ran("n1")

    world.run(story())


def test_an_owner_that_was_superseded_does_not_take_an_empty_directory_for_new(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        former = await bench.started()
        former._unborn.add("n1")
        assert await former._never_ran("n1")
        bench.dead_supervisor(former)
        await bench.started()
        assert not await former._never_ran("n1")

    world.run(story())


def test_a_node_that_somebody_else_has_started_is_taken_as_it_is(world: ModuleType) -> None:
    """Simulated seed 212095: a former supervisor was quicker, and its process was waited out, then ended for nothing."""

    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        bench.launcher.failing["n2"] = LaunchFailed("slow", "another process has its name")
        bench.cluster.kill("n2")
        await asyncio.sleep(0.12)
        bench.cluster.open("n2")
        await asyncio.sleep(2)
        assert (await bench.states())["n2"] == "up"

    world.run(story())


def test_while_nobody_can_say_whether_a_node_ever_ran_it_is_not_started(world: ModuleType) -> None:
    """Simulated seed 221471: started at once, it would take itself for incomplete, for ever."""

    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        supervisor._unborn.add("n1")
        bench.cluster.kill("n2")
        bench.cluster.kill("n3")
        with pytest.raises(LaunchFailed, match="may have run"):
            await supervisor._never_ran("n1")

    world.run(story())


# ---- hosts ----


class Places:
    """A launcher of which a test says where directories are, and which hosts there are."""

    def __init__(self, launcher: Any) -> None:
        self.here: dict[str, str] = {}
        self.everywhere: dict[str, str] = {}
        self.there = ["h1", "h2"]
        launcher.directories = self.directories
        launcher.hosts = self.hosts

    async def directories(self, *, everywhere: bool = False) -> dict[str, str]:
        return self.everywhere if everywhere else self.here

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
    """Wait until no partition is to be moved."""
    for _ in range(200):
        if supervisor.state.goal is None:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(supervisor.state.moves)


def where(bench: Bench) -> dict[str, str]:
    return {node_id: host for node_id, host, _, _ in bench.launcher.launched}


def test_a_cold_start_finds_each_directory_on_its_host(world: ModuleType) -> None:
    async def story() -> None:
        bench = await stopped_bench(world)
        places = Places(bench.launcher)
        places.here = {"n1": "h1"}
        await bench.started()
        assert where(bench) == {"n1": "h1", "n2": "h2", "n3": "h1"}, "the others are where the state says"

    world.run(story())


def test_a_host_that_came_back_by_another_name_is_found_by_what_it_holds(world: ModuleType) -> None:
    async def story() -> None:
        bench = await stopped_bench(world)
        places = Places(bench.launcher)
        places.here, places.there = {"n1": "h1", "n3": "h1"}, ["h1", "h7"]
        places.everywhere = places.here | {"n2": "h7"}
        await bench.started()
        assert where(bench)["n2"] == "h7"

    world.run(story())


def test_a_store_is_found_from_a_host_that_holds_nothing_of_it(world: ModuleType) -> None:
    """Else a store would be founded anew over the other hosts' data."""

    async def story() -> None:
        bench = await stopped_bench(world)
        places = Places(bench.launcher)
        places.everywhere = {"n2": "h2"}
        for founded in (False, True):
            bench.launcher.was_founded = founded
            supervisor = await bench.started()
            assert supervisor.state.generation == 3 if founded else 2
            bench.dead_supervisor(supervisor)

    world.run(story())


def test_members_that_joined_after_what_is_here_was_written_are_started_too(world: ModuleType) -> None:
    """The one directory here is behind: the state in it has three nodes, and by now two of five are a minority."""

    async def story() -> None:
        bench = Bench(world, upkeep=True)
        supervisor = await bench.started()
        old = {"n1": bench.cluster.disks["n1"]}
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        await settled(supervisor)
        bench.dead_supervisor(supervisor)
        for node_id in [member.node_id for member in supervisor.state.ring.members]:
            bench.cluster.kill(node_id, "keep")
        assert old
        places = Places(bench.launcher)
        places.here = {"n1": "h1"}
        bench.launcher.launched.clear()
        again = await bench.started()
        await asyncio.sleep(1)
        assert sorted(where(bench)) == ["n1", "n2", "n3", "n4", "n5"]
        assert len(again.state.ring.members) == 5

    world.run(story())


# ---- replacing ----


def test_a_node_whose_host_is_gone_is_replaced_after_a_while(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, upkeep=True)
        bench.plan = msgspec.structs.replace(
            bench.plan, store=msgspec.structs.replace(bench.plan.store, replace_after_s=40.0)
        )
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


def test_a_node_that_only_cannot_be_started_is_not_replaced_by_itself(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, upkeep=True)
        bench.plan = msgspec.structs.replace(
            bench.plan, store=msgspec.structs.replace(bench.plan.store, replace_after_s=5.0)
        )
        supervisor = await bench.started()
        bench.cluster.kill("n2")
        bench.launcher.failing["n2"] = LaunchFailed("crashed", "again and again")
        await asyncio.sleep(60)
        assert supervisor.state.ring.has_member("n2")
        assert supervisor.state.goal is None

    world.run(story())


def test_a_lost_node_is_replaced_by_command(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, upkeep=True)
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
        assert await bench.ask(f.ReplaceNode("n2", "h2", 10.0)) == f.Told("n4")
        await settled(supervisor)
        assert [(member.node_id, member.host) for member in supervisor.state.ring.members][-1] == ("n4", "h2")
        assert await bench.peer.get("a", r=3) == "1"
        assert bench.launcher.retired == ["n2"]

    world.run(story())
