"""The supervisor over real nodes in one event loop: founding, starting again, buckets, status, hosts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.cluster.register import Superseded
from raykv.errors import BucketMismatch, CorruptData, InvalidOption, NotEnoughNodes, RaykvError, StoreUnavailable
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.supervision.supervisor import MAJORITY_TIMEOUT_S
from tests.supervision.bench import Bench, Places, error, settled, stopped_bench, where

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.usefixtures("nobody_tells")


# ---- founding ----


def test_a_new_store_is_founded_and_handed_out_and_works(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = bench.supervisor()
        with pytest.raises(StoreUnavailable, match="starting"):
            _ = supervisor.state
        assert type(error(await bench.ask(f.GetClusterUpdate()))) is StoreUnavailable
        state = await supervisor.start()
        assert sorted(bench.launcher.launched) == [
            ("n1", "h1", True, False), ("n2", "h2", True, False), ("n3", "h1", True, False),
        ]  # fmt: skip
        assert state.bucket("default") is not None
        for node_id in bench.cluster.ids:
            kept = await bench.cluster.ask(node_id, f.ReadState())
            assert (kept.generation, kept.version) == state.ballot
        assert sorted(await bench.peer.put("a", "1", w=3)) == ["n1", "n2", "n3"]
        assert await bench.peer.get("a", r=3) == "1", "every node is complete"
        update = await bench.ask(f.GetClusterUpdate())
        assert update.incarnations == {"n1": 1, "n2": 1, "n3": 1}
        assert update.down == {}

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


def test_a_supervisor_that_sees_every_directory_go_says_so_once(
    world: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        bench = Bench(world)
        await bench.started()
        await bench.peer.put("a", "1", w=3)
        with caplog.at_level("ERROR", "raykv.supervisor"):
            for node_id in bench.cluster.ids:
                bench.cluster.kill(node_id)
                bench.cluster.disks[node_id] = world.SimDisk()
            await asyncio.sleep(30)
        said = [record.getMessage() for record in caplog.records if "nothing can be read" in record.getMessage()]
        assert len(said) == 1
        assert "bring them back, or destroy the store" in said[0]
        refused = error(await bench.ask(f.OpenBucket("b", {}, 5.0)))
        assert type(refused) is StoreUnavailable
        assert "destroy the store" in str(refused)
        with pytest.raises(RaykvError):
            await bench.peer.get("a", r=1)

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


def test_a_founding_that_is_taken_up_again_by_another_has_complete_nodes(world: ModuleType) -> None:
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
        bench.cluster.start_node("n1", fresh=True)  # launched, then the supervisor died
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
        with pytest.raises(InvalidOption, match="n2 cannot use its directory on host h2: held by process 77"):
            await bench.supervisor().start()

    world.run(story())


def test_a_host_that_never_has_what_a_node_asks_for_ends_the_start(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        bench.launcher.failing["n1"] = LaunchFailed("too small", "it asks for 8 processors")
        with pytest.raises(InvalidOption, match="n1 cannot be started: it asks for 8 processors"):
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
        with pytest.raises(
            StoreUnavailable, match=r"missing: n1 on host h1 \(no answer\), n2 on host h2 \(no answer\)"
        ):
            await supervisor.start()
        assert supervisor.trouble() == "n1 on host h1 (no answer), n2 on host h2 (no answer)"
        assert type(error(await bench.ask(f.GetClusterUpdate()))) is StoreUnavailable

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
        with pytest.raises(Superseded):
            await first.open_bucket("late", {})

    world.run(story())


def test_a_start_that_is_overtaken_may_be_tried_again(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promise that reaches a node twice is refused the second time; that looks as if another had taken over."""

    async def story() -> None:
        bench = Bench(world)
        bench.dead_supervisor(await bench.started())
        prepare = bench.cluster.node("n1")._replica._acceptor.prepare
        again = [True, True]

        def twice(self: Any, request: f.PrepareState) -> f.AcceptorAnswer:
            if again:
                again.pop()
                original(self, request)
            return original(self, request)

        kind = type(prepare.__self__)
        original = kind.prepare
        monkeypatch.setattr(kind, "prepare", twice)
        with pytest.raises(StoreUnavailable, match="taken over"):
            await bench.started()
        assert (await bench.started()).state.generation == 3

    world.run(story())


def test_a_replaced_supervisor_says_that_it_was_replaced(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world)
        first = await bench.started()
        former = bench.cluster.network.endpoints["supervisor"]
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
        assert asyncio.get_running_loop().time() - began_s >= MAJORITY_TIMEOUT_S
        assert caught.value.details["missing"] == ["n1", "n2", "n5"]
        said = str(caught.value)
        assert said.startswith("these are a minority: 2 of 5 nodes of store 'test' came up, 3 are needed; missing: ")
        assert "n1 on host h1 (not there), n2" in said
        for node_id in ("n3", "n4"):
            kept = await bench.cluster.ask(node_id, f.ReadState())
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
        assert len(await bench.peer.put("a", "1", bucket=2, w=2)) == 2, "the coordinator has the update"
        assert await bench.ask(f.DropBucket("carts", 1.0)) == f.Info(True)
        assert await bench.ask(f.DropBucket("carts", 1.0)) == f.Info(False)
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
        status = (await bench.ask(f.GetInfo("status", 1.0))).data
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


def test_a_status_shows_a_member_that_leaves_meanwhile_as_it_was(world: ModuleType) -> None:
    async def story() -> None:
        bench = Bench(world, nodes=4, maintenance=True)
        supervisor = await bench.started()
        stats = supervisor._stats

        async def slow(node_id: str) -> Any:
            figures = await stats(node_id)
            if node_id == "n2":
                await settled(supervisor)
            return figures

        supervisor._stats = slow
        assert await bench.ask(f.RemoveNode("n4", 10.0)) == f.Info(None)
        asked = asyncio.ensure_future(supervisor.status())
        nodes = {node["node_id"]: node for node in (await asked)["nodes"]}
        assert nodes["n4"]["state"] in {"up", "left"}
        assert nodes["n4"]["partitions"] > 0
        assert nodes["n1"]["state"] == "up"
        assert not supervisor.state.ring.has_member("n4")

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


def test_a_node_whose_disk_fails_at_the_stop_is_named(world: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        bench = Bench(world)
        supervisor = await bench.started()
        bench.cluster.disks["n2"].fail("sync")
        with caplog.at_level("WARNING", "raykv.supervisor"):
            await supervisor.stop()
        said = [record.getMessage() for record in caplog.records if "did not stop cleanly" in record.getMessage()]
        assert len(said) == 1
        assert "node n2 did not stop cleanly" in said[0]
        assert "injected" in said[0]

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


# ---- hosts ----


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


@pytest.mark.parametrize("there", [["h2"], ["h7"]])
def test_of_two_directories_of_a_node_that_is_its_own_where_it_joined(world: ModuleType, there: list[str]) -> None:
    """The other is empty and complete, and was left by a node of that id that did not join."""

    async def story() -> None:
        bench = await stopped_bench(world)
        places = Places(bench.launcher)
        places.here = places.everywhere = {"n1": "h1", "n2": "h1", "n3": "h1"}
        places.twice["n2"] = there
        launch, kept, counted = bench.launcher.launch, bench.cluster.disks["n2"], []

        async def launch_there(node_id: str, host: str, **options: Any) -> Any:
            if node_id == "n2":
                bench.cluster.kill("n2", "keep")
                bench.cluster.disks["n2"] = kept if host == "h2" else world.SimDisk()
            return await launch(node_id, host, **options)

        bench.launcher.launch = launch_there
        supervisor = bench.supervisor()
        take_over = supervisor._register.take_over

        async def count(answers: Any) -> Any:
            counted.append(sorted(answers))
            return await take_over(answers)

        supervisor._register.take_over = count
        await supervisor.start()
        hosts = [host for node_id, host, *_ in bench.launcher.launched if node_id == "n2"]
        if there == ["h2"]:
            assert hosts == ["h1", "h2"]
            assert supervisor._watch.hosts_of["n2"] == "h2"
            assert bench.cluster.disks["n2"] is kept
            assert counted == [["n1", "n3"]], "the vote of the other is not one"
        else:
            assert hosts == ["h1"], "the machine on which it joined has another name by now"

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
        bench = Bench(world, maintenance=True)
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
