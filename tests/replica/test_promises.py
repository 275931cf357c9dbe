"""Promises never expire and never go back: not by a restart, a torn log, or a number that nothing lies above (L2)."""

from __future__ import annotations

import pytest
from led_nodes import Leaders, run

from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records.keys import PROMISES, is_private
from raykv.records.limits import MAX_BALLOT_STEP
from raykv.records.linear_record import NO_TERM, pack_term
from raykv.replica.promises import NOTHING, PROMISES_END, _place

LOW, HIGH = pack_term(3, 7), pack_term(3, 8)


def promises(cluster: Leaders) -> object:
    return cluster.replica("n1").promises


def test_a_promise_is_kept_by_partition_and_number_of_copies() -> None:
    async def story() -> None:
        kept = promises(Leaders().start())
        first = kept.keep(5, 3, LOW, "n1")
        assert kept.of(5, 3) == first == (LOW, "n1", first.position)
        assert first.position > 0, "an answer waits for it (P3)"
        assert kept.of(5, 2) == kept.of(6, 3) == NOTHING == (NO_TERM, "", 0)
        kept.keep(5, 5, HIGH, "n2")
        assert {n: each[:2] for n, each in kept.of_partition(5).items()} == {3: (LOW, "n1"), 5: (HIGH, "n2")}
        assert kept.of_partition(6) == {}

    run(story())


def test_a_promise_never_goes_back() -> None:
    async def story() -> None:
        kept = promises(Leaders().start())
        kept.keep(5, 3, HIGH, "n1")
        for lower in (LOW, NO_TERM, HIGH):
            assert kept.keep(5, 3, lower, "n2")[:2] == (HIGH, "n1"), "of one number the greater bits are later"

    run(story())


@pytest.mark.parametrize("mode", ["keep", "drop"])
def test_promises_survive_a_restart(mode: str) -> None:
    """*Schedule without (L2): promises expire or are lost, and two conflicting conditional writes commit.*"""

    async def story() -> None:
        cluster = Leaders().start()
        for partition in range(8):
            await cluster.ask("n1", f.Promise(partition, 3, pack_term(partition + 1, 9), f"n{partition % 3 + 1}"))
        cluster.kill("n1", mode)
        cluster.start_node("n1")
        kept = promises(cluster)
        for partition in range(8):
            assert kept.of(partition, 3)[:2] == (pack_term(partition + 1, 9), f"n{partition % 3 + 1}")
        assert kept.intact

    run(story())


def test_the_answer_to_a_promise_leaves_when_it_is_durable() -> None:
    """*Schedule without (L2, P3): C counts the promise of A, which loses power and takes the next write of B.*"""

    async def story() -> None:
        cluster = Leaders().start()
        answer = await cluster.ask("n1", f.Promise(5, 3, HIGH, "n2"))
        assert answer.granted
        cluster.kill("n1", "drop")
        cluster.start_node("n1")
        assert promises(cluster).of(5, 3)[:2] == (HIGH, "n2")

    run(story())


def test_promises_outlive_a_flush() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        promises(cluster).keep(5, 3, HIGH, "n1")
        cluster.flush("n1")
        await cluster.ask("n1", f.Promise(6, 3, LOW, "n1"))
        cluster.kill("n1", "keep")
        cluster.start_node("n1")
        assert [promises(cluster).of(at, 3).term for at in (5, 6)] == [HIGH, LOW]

    run(story())


def test_a_number_may_not_jump_to_where_nothing_lies_above_it() -> None:
    async def story() -> None:
        kept = promises(Leaders().start())
        kept.keep(5, 3, pack_term(MAX_BALLOT_STEP, 0), "n1")
        kept.keep(5, 3, pack_term(2 * MAX_BALLOT_STEP, 0), "n1")
        for number in (3 * MAX_BALLOT_STEP + 1, (1 << 64) - 1):
            with pytest.raises(CorruptData, match="jumps"):
                kept.keep(5, 3, pack_term(number, 0), "n2")
        assert kept.of(5, 3)[:2] == (pack_term(2 * MAX_BALLOT_STEP, 0), "n1")

    run(story())


def test_a_jump_is_refused_as_an_answer_too() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        mad = f.Promise(5, 3, b"\xff" * 16, "n2")
        assert isinstance(await cluster.ask("n1", mad), f.NodeRefused)
        assert promises(cluster).of(5, 3) == NOTHING

    run(story())


def test_promises_lie_behind_all_records_and_belong_to_no_bucket() -> None:
    place = _place(4095, 7)
    assert PROMISES < place < PROMISES_END
    assert is_private(place)


def test_damage_among_the_promises_makes_the_node_incomplete_for_every_partition() -> None:
    """*Schedule without (L3): a promise is lost to a corrupt block, and the leader that it had ended writes here.*"""

    async def story() -> None:
        cluster = Leaders().start()
        replica = cluster.replica("n1")
        promises(cluster).keep(5, 3, HIGH, "n2")
        (table,) = cluster.flush("n1")
        assert all(replica.complete_for(partition) for partition in range(8))
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(_place(5, 3)))
        cluster.kill("n1", "keep")
        cluster.start_node("n1")
        assert not promises(cluster).intact
        assert not any(cluster.replica("n1").complete_for(partition) for partition in range(8))
        for body in (
            f.Promise(2, 3, HIGH, "n2"),
            f.Look(1, 3, "n2", [(2, HIGH, [])]),
            f.Accept(3, "n2", 0, [(2, HIGH, [])]),
        ):
            assert isinstance(cluster.handle("n1", body), f.Incomplete)

    run(story())
