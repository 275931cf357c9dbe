"""Who heals, or takes a partition over, takes the promises with the records (L3, L9)."""

from __future__ import annotations

import asyncio

import pytest
from led_nodes import WALL_MS, Caller, Leaders, run

from raykv.cluster import moves
from raykv.cluster.state import Move
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.linear_record import LinearRecord, pack_term
from raykv.repair.anti_entropy import Healed

KEY = "k"


def started() -> tuple[Leaders, tuple[str, ...]]:
    cluster = Leaders().start()
    return cluster, cluster.owners(KEY)


async def heal(cluster: Leaders, node_id: str) -> list[Healed]:
    """Have a node take from the others what it may lack, and answer again if that is all."""
    anti_entropy = cluster.node(node_id)._maintenance.anti_entropy
    outcomes = [await anti_entropy.heal(cluster.state, partition) for partition in range(8)]
    if all(outcome is Healed.FULLY for outcome in outcomes):
        cluster.replica(node_id).mark_complete(())
    return outcomes


def test_a_healed_owner_refuses_the_leader_that_it_had_superseded_before() -> None:
    """*Schedule (L3): C takes over with {C, A}. A is wiped, and heals without its promise. B, which C has superseded, writes
    with A; C writes over it.*"""

    async def story() -> None:
        cluster, (b, c_, a) = started()
        caller = Caller()
        assert (await cluster.one(b, caller.put(KEY, "one"))).status == c.DONE
        deaf = [cluster.wire.hold(kind, target=b) for kind in (f.Promise, f.Look, f.Accept)]
        assert (await cluster.one(c_, caller.put(KEY, "two"), unable=[b])).status == c.DONE
        term = cluster.promised(c_, KEY)
        cluster.wipe(a)
        cluster.start_node(a)
        assert await heal(cluster, a) == [Healed.FULLY] * 8
        assert cluster.promised(a, KEY) == term
        assert cluster.record(a, KEY).payload == b"two"
        deaf.append(cluster.wire.hold(f.Accept, source=b, target=c_))
        settled = await cluster.one(b, Caller(2).put(KEY, "never"))
        assert settled == f.Settled(c.ELSEWHERE, leader=c_)
        for rule in deaf:
            rule.end()
        assert (await cluster.one(c_, caller.put(KEY, "three"))).status == c.DONE
        assert b"never" not in [cluster.record(node_id, KEY).payload for node_id in (a, c_)]

    run(story())


def test_the_highest_of_all_that_were_promised_is_promised() -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        cluster.promise(first, KEY, pack_term(3, 1), first)
        cluster.promise(second, KEY, pack_term(4, 1), second)
        cluster.handle(second, f.Promise(cluster.partition(KEY), 5, pack_term(9, 1), "n2"))
        cluster.wipe(third)
        cluster.start_node(third)
        await heal(cluster, third)
        assert cluster.promised(third, KEY) == (pack_term(4, 1), second)
        assert cluster.replica(third).promises.of(cluster.partition(KEY), 5).term == pack_term(9, 1), "of every n"
        cluster.kill(third, "drop")
        cluster.start_node(third)
        assert cluster.promised(third, KEY) == (pack_term(4, 1), second), "and durably"

    run(story())


def test_with_one_other_owner_it_is_not_healed_and_does_not_vote() -> None:
    """F may have promised without that one."""

    async def story() -> None:
        cluster, (first, second, third) = started()
        await cluster.one(first, Caller().put(KEY, "v"))
        cluster.wipe(third)
        cluster.start_node(third)
        cluster.wire.hold(target=second)
        healed = (await heal(cluster, third))[cluster.partition(KEY)]
        assert healed is Healed.NOT_YET
        assert isinstance(cluster.handle(third, f.Promise(*cluster.led(KEY), pack_term(9, 1), first)), f.Incomplete)

    run(story())


def test_an_owner_that_does_not_tell_its_promises_is_none_to_heal_from() -> None:
    async def story() -> None:
        cluster, (_first, second, third) = started()
        cluster.wipe(third)
        cluster.start_node(third)
        cluster.wire.hold(f.ReadPromises, target=second)
        assert (await heal(cluster, third))[cluster.partition(KEY)] is Healed.NOT_YET

    run(story())


@pytest.mark.parametrize("lost", ["a disk", "the end of the log"])
def test_a_node_that_heals_by_itself_votes_again_and_with_its_promises(lost: str) -> None:
    async def story() -> None:
        cluster, (first, second, third) = started()
        caller = Caller()
        await cluster.one(first, caller.put(KEY, "one"))
        superseded = cluster.promised(first, KEY)[0]
        cluster.kill(first)
        await cluster.one(second, caller.put(KEY, "two"), silent=[first])
        cluster.start_node(first)
        if lost == "a disk":
            cluster.wipe(third)
            cluster.start_node(third)
        else:
            cluster.replica(third).mark_incomplete()
        node = cluster.node(third)
        cluster.tell(third)
        loops = [asyncio.get_running_loop().create_task(loop) for loop in node._maintenance.loops()]
        while not node.complete:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        for loop in loops:
            loop.cancel()
        assert cluster.promised(third, KEY)[1] == second
        assert cluster.record(third, KEY).payload == b"two"
        never = LinearRecord(superseded, 99, WALL_MS << 16, b"never")
        answer = cluster.accept(third, superseded, first, (KEY, linear.encode(never)))
        assert answer.groups[0][1] == second

    run(story())


def test_a_new_owner_takes_the_promises_with_the_partition() -> None:
    """*Schedule (L9): B sleeps through the move and has its term promised once more by owners that have promised nobody.*"""

    async def story() -> None:
        cluster = Leaders(5).start()
        first, second, third = cluster.owners(KEY)
        strangers = [node_id for node_id in cluster.ids if node_id not in cluster.owners(KEY)]
        await cluster.one(first, Caller().put(KEY, "v"))
        cluster.promise(third, KEY, pack_term(7, 1), second)
        cluster.promise(second, KEY, pack_term(7, 1), second)
        cluster.change(moves.begun(cluster.state, (Move(cluster.partition(KEY), (first, *strangers)),)))
        for node_id in strangers:
            assert isinstance(await cluster.ask(node_id, f.PullPartition(cluster.partition(KEY), 60.0)), f.Repaired)
            assert cluster.promised(node_id, KEY) == (pack_term(7, 1), second)

    run(story())


def test_where_no_bucket_is_led_there_is_nothing_to_take(world: object) -> None:
    async def story() -> None:
        cluster = world.Cluster(5, maintenance=True).start()
        owners = cluster.owners(KEY)
        strangers = [node_id for node_id in cluster.ids if node_id not in owners]
        cluster.change(moves.begun(cluster.state, (Move(cluster.partition(KEY), (owners[0], *strangers)),)))
        assert isinstance(await cluster.ask(strangers[0], f.PullPartition(cluster.partition(KEY), 60.0)), f.Repaired)
        assert cluster.between_nodes(f.ReadPromises) == []

    run(story())
