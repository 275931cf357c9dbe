"""Nodes that join, leave and carry more, while clients write and read: the supervisor, its nodes and a coordinator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import raykv.sim
from raykv.cluster import moves
from raykv.errors import InvalidOption, NotEnoughNodes, StoreUnavailable
from raykv.ports import LaunchFailed
from raykv.protocol import frames as f
from raykv.records.keys import encode_key, is_private
from raykv.supervision.rebalancing import HINTS_TIMEOUT_S
from tests.supervision.bench import Bench, error

if TYPE_CHECKING:
    from types import ModuleType

KEYS = [f"k{number}" for number in range(60)]


pytestmark = pytest.mark.usefixtures("nobody_tells")


@pytest.fixture
def new_bench(world: ModuleType) -> Any:
    return lambda nodes=3, **options: Bench(world, nodes, maintenance=True, **options)


async def arrived(bench: Bench, timeout_s: float = 60.0) -> dict[str, Any]:
    """Wait until nothing has to move; return the status."""
    async with asyncio.timeout(timeout_s):
        while True:
            status = (await bench.ask(f.GetInfo("status", 1.0))).data
            if status["rebalancing"] is None:
                return status
            await asyncio.sleep(0.1)


async def fill(bench: Bench) -> None:
    for key in KEYS:
        await bench.peer.put(key, f"of {key}")


async def check(bench: Bench, supervisor: Any, prefix: str = "of") -> None:
    """Every key is read, is on exactly its owners, and every owner is a member."""
    ring = supervisor.state.ring
    for key in KEYS:
        assert await bench.peer.get(key) == f"{prefix} {key}"
    await asyncio.sleep(3)  # clearing away
    for key in KEYS:
        owners = ring.owners(ring.partition_of(encode_key(key)))
        held = [m.node_id for m in ring.members if bench.cluster.stored(m.node_id, key) is not None]
        assert sorted(held) == sorted(owners), key


def test_a_node_joins_and_gets_its_share(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        answer = await bench.ask(f.AddNode(1.0, "", "", 10.0))
        assert answer == f.Info("n4")
        status = await arrived(bench)
        ring = supervisor.state.ring
        assert [member.node_id for member in ring.members] == ["n1", "n2", "n3", "n4"]
        ring.check()
        assert len(ring.partitions_of("n4")) == 6
        assert [node["state"] for node in status["nodes"]] == ["up"] * 4
        await check(bench, supervisor)

    world.run(story())


def test_a_node_leaves_and_keeps_nothing(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(4)
        supervisor = await bench.started()
        await fill(bench)
        assert await bench.ask(f.RemoveNode("n2", 10.0)) == f.Info(None)
        await arrived(bench)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4"]
        await asyncio.sleep(1)
        assert bench.launcher.retired == ["n2"]
        await check(bench, supervisor)
        assert await bench.ask(f.AddNode(0.0, "", "", 10.0)) == f.Info("n5"), "an id is never used again"

    world.run(story())


def test_from_three_to_five_to_three_under_writes_and_reads(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        acked: dict[str, int] = {}
        stop = False

        async def writes(key: str) -> None:
            number = 0
            while not stop:
                number += 1
                await bench.peer.put(key, str(number))
                acked[key] = number
                assert int(await bench.peer.get(key)) >= number
                await asyncio.sleep(0.01)

        clients = [asyncio.create_task(writes(f"w{number}")) for number in range(6)]
        for _ in range(2):
            await bench.ask(f.AddNode(1.0, "", "", 30.0))
        await arrived(bench)
        assert len(supervisor.state.ring.members) == 5
        for node_id in ("n1", "n4"):
            await bench.ask(f.RemoveNode(node_id, 30.0))
        await arrived(bench)
        stop = True
        await asyncio.gather(*clients)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n2", "n3", "n5"]
        for key, number in acked.items():
            assert int(await bench.peer.get(key)) == number
        await check(bench, supervisor)

    world.run(story())


def test_weights_move_partitions(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(4, copies=2)
        supervisor = await bench.started()
        await fill(bench)
        await bench.ask(f.SetWeight("n3", 3.0, 10.0))
        await arrived(bench)
        ring = supervisor.state.ring
        assert ring.member("n3").weight == 3.0
        assert len(ring.partitions_of("n3")) == 6, "three of four copies of its host, which has one of two"
        await check(bench, supervisor)

    world.run(story())


def test_what_cannot_be_is_refused_and_changes_nothing(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        before = supervisor.state
        for request, kind in (
            (f.RemoveNode("n2", 1.0), NotEnoughNodes),
            (f.RemoveNode("n9", 1.0), InvalidOption),
            (f.SetWeight("n1", -1.0, 1.0), InvalidOption),
            (f.AddNode(1.0, "", "nowhere", 1.0), InvalidOption),
            (f.Rebalance("dance", 1.0), InvalidOption),
        ):
            answer = await bench.ask(request)
            assert isinstance(answer, f.Refused), request
            assert type(answer.failed.error()) is kind, answer.failed
        bench.launcher.failing["n4"] = LaunchFailed("unusable", "no room")
        answer = await bench.ask(f.AddNode(1.0, "", "", 1.0))
        assert type(answer.failed.error()) is StoreUnavailable
        assert "no room" in answer.failed.message
        assert supervisor.state == moves.with_id_taken(before)
        assert set(await bench.states()) == {"n1", "n2", "n3"}

    world.run(story())


def test_it_can_be_paused_and_taken_back(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(4)
        supervisor = await bench.started()
        await fill(bench)
        table = supervisor.state.ring.table
        await bench.ask(f.Rebalance("pause", 1.0))
        await bench.ask(f.RemoveNode("n4", 10.0))
        await asyncio.sleep(5)
        assert supervisor.state.ring.table == table
        assert (await bench.ask(f.GetInfo("status", 1.0))).data["rebalancing"]["paused"] is True
        await bench.ask(f.Rebalance("abort", 1.0))
        assert supervisor.state.goal is None
        await bench.ask(f.Rebalance("resume", 1.0))
        await asyncio.sleep(5)
        assert supervisor.state.ring.table == table
        await check(bench, supervisor)

    world.run(story())


def test_moves_stay_paused_under_the_next_supervisor(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(4)
        supervisor = await bench.started()
        table = supervisor.state.ring.table
        await bench.ask(f.Rebalance("pause", 1.0))
        await bench.ask(f.RemoveNode("n4", 10.0))
        bench.dead_supervisor(supervisor)
        second = await bench.started()
        await asyncio.sleep(5)
        assert second.state.ring.table == table
        assert (await bench.ask(f.GetInfo("status", 1.0))).data["rebalancing"]["paused"] is True
        await bench.ask(f.Rebalance("resume", 1.0))
        await arrived(bench)
        assert not second.state.ring.has_member("n4")

    world.run(story())


def test_what_was_taken_over_in_vain_is_cleared_away(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        in_vain = asyncio.Event()

        async def give(*_: object) -> bool:
            await in_vain.wait()
            return False

        supervisor._rebalancing._give = give
        node = bench.cluster.node("n4")
        async with asyncio.timeout(10):
            while node._maintenance.state is None or not node._maintenance.state.moves:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for move in supervisor.state.moves:
            await node._maintenance.anti_entropy.take_over(supervisor.state, move.partition)
        assert [key for key, _ in node._engine.scan(b"", None) if not is_private(key)]
        in_vain.set()
        await asyncio.sleep(2)
        assert supervisor._rebalancing.figures["postponed"] == 1
        assert not supervisor.state.ring.partitions_of("n4")
        assert [key for key, _ in node._engine.scan(b"", None) if not is_private(key)] == []

    world.run(story())


@pytest.mark.parametrize("steps", range(1, 9))
def test_another_supervisor_goes_on_at_any_step(world: ModuleType, new_bench: Any, steps: int) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        changes = 0
        change = supervisor._change

        async def counted(state: Any) -> None:
            nonlocal changes
            changes += 1
            if changes > steps:
                await asyncio.Event().wait()  # it has died here
            await change(state)

        supervisor._change = counted
        adding = asyncio.create_task(bench.ask(f.AddNode(1.0, "", "", 10.0)))
        await asyncio.sleep(20)
        adding.cancel()
        bench.dead_supervisor(supervisor)
        bench.launcher.was_founded = True
        second = await bench.started()
        await arrived(bench)
        if second.state.ring.has_member("n4") and not second.state.ring.partitions_of("n4"):
            await bench.ask(f.SetWeight("n4", 1.0, 10.0))  # it had joined, and no more: the caller did not hear of it
            await arrived(bench)
        second.state.ring.check()
        await check(bench, second)

    world.run(story())


def test_a_joiner_that_dies_is_not_waited_for_and_stops_no_writes(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        async with asyncio.timeout(10):
            while not supervisor.state.moves:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        bench.launcher.failing["n4"] = LaunchFailed("no host", "gone")
        bench.cluster.kill("n4")
        for number in range(450):
            await bench.peer.put(f"x{number}", "v", timeout_s=2.0)
            await asyncio.sleep(0.1)
        assert supervisor._rebalancing.figures["postponed"] >= 1 or not supervisor.state.moves
        del bench.launcher.failing["n4"]
        await arrived(bench, 120.0)
        await check(bench, supervisor)

    world.run(story())


def test_a_dead_node_is_replaced(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        bench.launcher.failing["n2"] = LaunchFailed("no host", "gone")
        bench.cluster.kill("n2")
        await asyncio.sleep(2)
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        await bench.ask(f.RemoveNode("n2", 60.0))
        await arrived(bench, 120.0)
        assert [member.node_id for member in supervisor.state.ring.members] == ["n1", "n3", "n4"]
        await check(bench, supervisor)

    world.run(story())


@pytest.mark.parametrize("by_itself", [True, False])
def test_an_owner_that_is_lost_for_good_during_a_wave_does_not_stop_it_for_ever(
    world: ModuleType, new_bench: Any, *, by_itself: bool
) -> None:
    """A bucket with R=1 needs all old owners to know step 2, and only a leaving one is excused (P4)."""

    async def story() -> None:
        bench = new_bench()
        store = msgspec.structs.replace(bench.plan.store, replace_after_s=30.0 if by_itself else 3600.0)
        bench.plan = msgspec.structs.replace(bench.plan, store=store)
        supervisor = await bench.started()
        await fill(bench)
        await supervisor.open_bucket("read by one", {"r": 1, "w": 3})
        give = supervisor._rebalancing._give

        async def give_after_the_loss(*given: Any) -> bool:
            bench.launcher.failing["n2"] = LaunchFailed("no host", "gone")
            bench.cluster.kill("n2")
            return bool(await give(*given))

        supervisor._rebalancing._give = give_after_the_loss
        assert await bench.ask(f.AddNode(1.0, "", "", 10.0)) == f.Info("n4")
        await asyncio.sleep(25)
        assert all(move.reads_new for move in supervisor.state.moves)
        assert supervisor.state.moves, "it waits for n2, which may come back"
        if not by_itself:
            assert await bench.ask(f.RemoveNode("n2", 10.0)) == f.Info(None)
        await arrived(bench, 120.0)
        await asyncio.sleep(10)
        expected = ["n1", "n3", "n4", "n5"] if by_itself else ["n1", "n3", "n4"]
        assert [member.node_id for member in supervisor.state.ring.members] == expected
        await check(bench, supervisor)

    world.run(story())


def test_a_node_that_is_up_does_not_leave_in_the_middle_of_a_wave(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(4)
        supervisor = await bench.started()
        await bench.ask(f.Rebalance("pause", 1.0))
        await bench.ask(f.SetWeight("n1", 0.5, 10.0))

        async def stand(_: object) -> bool:
            return False

        supervisor._rebalancing._step = stand
        await supervisor._alter(lambda _: moving(bench, supervisor, reads_new=True))
        refused = error(await bench.ask(f.RemoveNode("n2", 1.0)))
        assert "did not end in time" in str(refused)

    world.run(story())


def test_what_only_some_old_owners_hold_is_taken_over_too(world: ModuleType, new_bench: Any) -> None:
    """The new owner must not rely on the one old owner that missed the write (P4)."""

    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        for number, key in enumerate(KEYS):
            ring = supervisor.state.ring
            owners = ring.owners(ring.partition_of(encode_key(key)))
            for node_id in owners[: number % 3] + owners[number % 3 + 1 :]:
                await bench.cluster.give(node_id, key, world.put_record(f"of {key}"))
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        await arrived(bench)
        for key in KEYS:
            assert await bench.peer.get(key) == f"of {key}"
            owners = supervisor.state.ring.owners(supervisor.state.ring.partition_of(encode_key(key)))
            if "n4" in owners:
                assert bench.cluster.stored("n4", key) is not None

    world.run(story())


def test_a_coordinator_that_has_not_heard_of_a_move_learns_it_from_the_nodes(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await fill(bench)
        stale = world.Peer(bench.cluster, "stale", 0)
        assert await stale.get("k0") == "of k0"
        del bench.cluster.network.endpoints["supervisor"]  # from here on only nodes can tell
        await supervisor.members.add_node(1.0, "", "", 10.0)
        async with asyncio.timeout(60):
            while supervisor.state.goal is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        for key in KEYS:
            await stale.put(key, f"again {key}")
            assert await stale.get(key) == f"again {key}"
        assert stale.core.routing.epoch == supervisor.state.epoch
        await check(bench, supervisor, "again")

    world.run(story())


def moving(bench: Bench, supervisor: Any, *, reads_new: bool) -> Any:
    """Make the state in which everything that is to move is at step 1 or 2; tell it to all nodes and the coordinator."""
    state = supervisor.state
    first = moves.begun(state, moves.next_wave(state))
    return moves.reading_new(first) if reads_new else first


def test_reads_do_not_go_backward_from_one_step_to_the_next(world: ModuleType, new_bench: Any) -> None:
    """A read of the new owners shows an unacknowledged write that a read of the old ones has shown (P9)."""

    async def story() -> None:
        bench = new_bench()
        supervisor = await bench.started()
        await bench.ask(f.Rebalance("pause", 1.0))
        await bench.ask(f.AddNode(1.0, "", "", 10.0))
        await supervisor._alter(lambda _: moving(bench, supervisor, reads_new=False))
        state = supervisor.state
        found = {m.partition: m for m in state.moves if not {*state.ring.owners(m.partition)[:2]} <= {*m.owners}}
        key = next(key for key in KEYS if partition_of(state, key) in found)
        move = found[partition_of(state, key)]
        for node_id in state.ring.owners(move.partition)[:2]:  # the two that are asked, and one of them is to lose it
            await bench.cluster.give(node_id, key, world.put_record("unacknowledged"))
        assert await bench.peer.get(key) == "unacknowledged"
        held = [n for n in move.owners if bench.cluster.stored(n, key) is not None]
        assert len(held) >= 2, "R of the new owners hold what was shown"

    world.run(story())


def partition_of(state: Any, key: str) -> int:
    found: int = state.ring.partition_of(encode_key(key))
    return found


def test_a_fallback_does_not_answer_with_what_it_held_as_an_owner(world: ModuleType) -> None:
    """Its tombstone may be forgotten by now: a sloppy read must not find it there, and bring it back (P4, P10)."""

    async def story() -> None:
        cluster = world.Cluster(4, sloppy=True).start()
        cluster.tell()
        key = KEYS[0]
        stranger = next(n for n in cluster.ids if n not in cluster.owners(key))
        await cluster.give(stranger, key, world.put_record("of long ago"))
        found = await cluster.ask(stranger, f.Read(1, [encode_key(key)], hints=True))
        assert found.records == [None]
        assert await cluster.coordinator().get(key) is None

    world.run(story())


def test_nothing_is_taken_over_while_an_old_owner_only_does_not_answer(world: ModuleType, new_bench: Any) -> None:
    """One call in vain does not make a leaving node a lost one: it may be the only one that has the write."""

    async def story() -> None:
        bench = new_bench(4)
        supervisor = await bench.started()
        await fill(bench)
        for node_id in ("n1", "n2", "n3", "n4"):
            for other in ("n1", "n2", "n3", "n4"):
                if node_id != other and other == "n2":
                    bench.cluster.cut(f"node/{node_id}", "node/n2")
        await bench.ask(f.RemoveNode("n2", 10.0))
        await asyncio.sleep(10)
        assert not any(move.reads_new for move in supervisor.state.moves)
        assert "n2" in [member.node_id for member in supervisor.state.ring.members]
        bench.cluster.mend()
        await arrived(bench, 120.0)
        await check(bench, supervisor)

    world.run(story())


def test_leaving_nodes_get_their_time_for_hints_under_each_goal(world: ModuleType, new_bench: Any) -> None:
    async def story() -> None:
        bench = new_bench(5)
        supervisor = await bench.started()
        rebalancing = supervisor._rebalancing
        await bench.ask(f.Rebalance("pause", 1.0))

        async def keeps_hints(*_: object) -> f.Pong:
            return f.Pong(stats={"hints": {"n1": 3}})

        rebalancing._peers.call = keeps_hints
        await bench.ask(f.RemoveNode("n4", 1.0))
        assert not await rebalancing._hints_delivered(["n4"])
        await bench.ask(f.Rebalance("abort", 1.0))
        await asyncio.sleep(HINTS_TIMEOUT_S - 1)
        await bench.ask(f.RemoveNode("n4", 1.0))
        assert not await rebalancing._hints_delivered(["n4"])
        await asyncio.sleep(2)
        await bench.ask(f.RemoveNode("n5", 1.0))
        assert not await rebalancing._hints_delivered(["n4", "n5"])
        await asyncio.sleep(HINTS_TIMEOUT_S - 1)
        assert not await rebalancing._hints_delivered(["n4", "n5"])
        await asyncio.sleep(2)
        assert await rebalancing._hints_delivered(["n4", "n5"]), "they have had their time"

    world.run(story())


def test_a_lost_node_is_not_waited_for_again_and_again() -> None:
    """It owned 96 partitions: to ask it for each what it alone may hold, or to clear it, would take minutes."""
    with raykv.sim.start(seed=1, nodes=4, partitions=128) as simulated:
        simulated.store.put_many({key: f"of {key}" for key in KEYS})
        simulated.power_cut("n4", for_s=86_400)
        simulated.sleep(30)
        began_s = simulated.now_s
        simulated.store.remove_node("n4")
        assert simulated.now_s - began_s < 60
        assert simulated.store.get_many(KEYS) == {key: f"of {key}" for key in KEYS}


def test_a_node_that_runs_anew_clears_away_what_it_is_not_to_hold(new_bench: Any, world: ModuleType) -> None:
    async def story() -> None:
        bench = new_bench(3)
        await bench.started()
        await asyncio.sleep(2)
        frames = bench.cluster.frames

        def cleared() -> list[str]:
            return [t for _, t, frame in frames if t.startswith("node/") and f.kind_of_request(frame) == b"DropUnowned"]

        before = len(cleared())
        bench.cluster.kill("n2")
        await asyncio.sleep(5)
        assert {*cleared()[before:]} == {"node/n2"}, "its directory may be an old copy"

    world.run(story())
