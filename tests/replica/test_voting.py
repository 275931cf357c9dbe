"""An owner's part: whose promise it keeps, what it shows, and what it counts as accepted (L2, L3, L5, L6)."""

from __future__ import annotations

from typing import Any

import pytest
from led_nodes import BUCKET, WALL_MS, Leaders, run

from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.keys import encode_key
from raykv.records.linear_record import LinearRecord, pack_term

OLD, PRESENT, NEW = (pack_term(number, 7) for number in (3, 4, 5))
KEY = encode_key("k")
GRACE_MS = 10 * 86_400_000


def record(term: bytes, seq: int, value: str = "v") -> bytes:
    return linear.encode(LinearRecord(term, seq, WALL_MS << 16, value.encode()))


def look(cluster: Leaders, term: bytes, leader: str = "n2", key: str = "k") -> Any:
    return cluster.handle("n1", f.Look(BUCKET, 3, leader, [(cluster.partition(key), term, [encode_key(key)])]))


# ---- promises (L2) ----


def test_a_term_is_promised_unless_a_later_one_is() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        directory_id = cluster.replica("n1").directory_id
        assert cluster.promise("n1", "k", PRESENT, "n2") == f.Promised(True, PRESENT, "n2", directory_id)
        assert cluster.promise("n1", "k", PRESENT, "n2").granted, "asked twice"
        assert cluster.promise("n1", "k", OLD, "n3") == f.Promised(False, PRESENT, "n2", directory_id)
        assert cluster.promise("n1", "k", NEW, "n3") == f.Promised(True, NEW, "n3", directory_id)

    run(story())


def test_asked_again_a_node_only_tells() -> None:
    """*Schedule without (L4): what was promised in a directory that is gone is promised once more by the next.*"""

    async def story() -> None:
        cluster = Leaders().start()
        answer = cluster.handle("n1", f.Promise(*cluster.led("k"), PRESENT, "n2", again=True))
        assert (answer.granted, answer.term) == (False, linear.NO_TERM)
        assert cluster.promised("n1", "k") == (linear.NO_TERM, "")

    run(story())


def test_what_comes_under_a_lower_term_is_refused_and_named_the_later_one() -> None:
    """*Schedule without (L2): a leader is thawed and writes at a node that has promised its successor.*"""

    async def story() -> None:
        cluster = Leaders().start()
        cluster.promise("n1", "k", PRESENT, "n2")
        assert cluster.accept("n1", OLD, "n3", ("k", record(OLD, 9))) == f.Accepted([(PRESENT, "n2")])
        assert cluster.accept("n1", OLD, "n3", key="k") == f.Accepted([(PRESENT, "n2")]), (
            "an empty round counts as well"
        )
        assert look(cluster, OLD, "n3") == f.Looked([(PRESENT, "n2", [])])
        assert cluster.record("n1", "k") is None
        assert cluster.promised("n1", "k") == (PRESENT, "n2")

    run(story())


@pytest.mark.parametrize("asked", ["look", "accept", "an empty accept"])
def test_what_comes_under_a_higher_term_raises_the_promise(asked: str) -> None:
    """*Schedule without (L2): C looks at A, which promised it nothing; B, superseded, writes with A.*"""

    async def story() -> None:
        cluster = Leaders().start()
        cluster.promise("n1", "k", OLD, "n3")
        if asked == "look":
            assert look(cluster, PRESENT) == f.Looked([(b"", "", [None])])
        else:
            records = [("k", record(PRESENT, 1))] if asked == "accept" else []
            assert cluster.accept("n1", PRESENT, "n2", *records, key="k") == f.Accepted([(b"", "")])
        assert cluster.promised("n1", "k") == (PRESENT, "n2")
        assert cluster.accept("n1", OLD, "n3", ("k", record(OLD, 9))) == f.Accepted([(PRESENT, "n2")])

    run(story())


def test_what_a_look_has_raised_outlives_the_node() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        await cluster.ask("n1", f.Look(BUCKET, 3, "n2", [(cluster.partition("k"), PRESENT, [KEY])]))
        cluster.kill("n1", "drop")
        cluster.start_node("n1")
        assert cluster.promised("n1", "k") == (PRESENT, "n2")

    run(story())


def test_what_is_shown_of_several_partitions_stands_in_their_order() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        first, second = "k", next(key for key in "abcdef" if cluster.partition(key) != cluster.partition("k"))
        cluster.promise("n1", second, NEW, "n3")
        cluster.accept("n1", PRESENT, "n2", (first, record(PRESENT, 1)))
        groups = [(cluster.partition(key), PRESENT, [encode_key(key)]) for key in (second, first)]
        answer = cluster.handle("n1", f.Look(BUCKET, 3, "n2", groups))
        assert answer == f.Looked([(NEW, "n3", []), (b"", "", [record(PRESENT, 1)])])

    run(story())


# ---- who votes (L3) ----


def votes(cluster: Leaders) -> list[Any]:
    place = cluster.led("k")
    return [
        f.Promise(*place, NEW, "n2"),
        f.Promise(*place, NEW, "n2", again=True),
        f.Look(BUCKET, 3, "n2", [(place[0], NEW, [KEY])]),
        f.Accept(3, "n2", WALL_MS, [(place[0], NEW, [])]),
        f.Accept(3, "n2", WALL_MS, [(place[0], NEW, [(BUCKET, KEY, record(NEW, 1))])]),
        f.ReadHeads(BUCKET, [KEY]),
    ]


def test_a_node_that_may_lack_something_votes_on_nothing() -> None:
    """*Schedule without (L3): C takes over with {C, A}; A is wiped, and promises B again what it had refused it.*"""

    async def story() -> None:
        cluster = Leaders().start()
        cluster.wipe("n1")
        cluster.start_node("n1")
        assert not cluster.replica("n1").complete
        for body in votes(cluster):
            assert isinstance(cluster.handle("n1", body), f.Incomplete), body
        assert cluster.promised("n1", "k") == (linear.NO_TERM, "")
        assert cluster.stored("n1", "k") is None

    run(story())


def test_damage_among_the_keys_of_a_partition_is_a_lack_there_and_nowhere_else() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        other = next(key for key in "abcdef" if cluster.partition(key) != cluster.partition("k"))
        await cluster.give("n1", "k", record(PRESENT, 1))
        (table,) = cluster.flush("n1")
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(cluster.place("k")))
        cluster.kill("n1", "keep")
        cluster.start_node("n1")
        first = look(cluster, NEW)
        assert isinstance(first, f.Incomplete | f.NodeRefused)
        assert isinstance(look(cluster, NEW), f.Incomplete)
        assert isinstance(cluster.handle("n1", f.Promise(*cluster.led("k"), NEW, "n2")), f.Incomplete)
        assert isinstance(cluster.accept("n1", NEW, "n2", key="k"), f.Incomplete), "though no damaged key is asked for"
        assert isinstance(look(cluster, NEW, key=other), f.Looked)

    run(story())


# ---- what counts as accepted (L6) ----


def test_an_owner_that_holds_a_record_of_a_later_term_does_not_count() -> None:
    """*Schedule without (L6): repair has brought A the record of a later term. It merges B's write away, and is counted.*"""

    async def story() -> None:
        cluster = Leaders().start()
        cluster.promise("n1", "k", PRESENT, "n2")
        await cluster.give("n1", "k", record(NEW, 1, "later"))
        assert cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 8))) == f.Accepted([(NEW, "")])
        assert cluster.record("n1", "k").payload == b"later"

    run(story())


def test_what_repair_brings_of_an_earlier_term_is_no_obstacle() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        await cluster.give("n1", "k", record(OLD, 100, "earlier"))
        assert cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 1))) == f.Accepted([(b"", "")])
        assert cluster.record("n1", "k").payload == b"v"

    run(story())


def test_a_later_seq_of_the_term_stands_and_the_earlier_is_accepted_with_it() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        assert cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 9, "later"))) == f.Accepted([(b"", "")])
        assert cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 8))) == f.Accepted([(b"", "")]), "repeated"
        assert cluster.record("n1", "k").payload == b"later"

    run(story())


def test_the_answer_leaves_when_the_records_are_durable() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        body = f.Accept(3, "n2", WALL_MS, [(cluster.partition("k"), PRESENT, [(BUCKET, KEY, record(PRESENT, 1))])])
        assert await cluster.ask("n1", body) == f.Accepted([(b"", "")])
        cluster.kill("n1", "drop")
        cluster.start_node("n1")
        assert cluster.record("n1", "k").payload == b"v"
        assert cluster.promised("n1", "k") == (PRESENT, "n2")

    run(story())


# ---- what is refused as a whole ----


def test_a_key_of_another_partition_is_refused() -> None:
    """Ownership (P4) and the promise would be checked for the wrong partition."""

    async def story() -> None:
        cluster = Leaders().start()
        other = (cluster.partition("k") + 1) % 8
        for body in (
            f.Look(BUCKET, 3, "n2", [(other, PRESENT, [KEY])]),
            f.Accept(3, "n2", WALL_MS, [(other, PRESENT, [(BUCKET, KEY, record(PRESENT, 1))])]),
        ):
            answer = cluster.handle("n1", body)
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt"
        assert cluster.stored("n1", "k") is None
        assert cluster.replica("n1").promises.of(other, 3).term == linear.NO_TERM

    run(story())


@pytest.mark.parametrize(
    "bad", [record(OLD, 1), record(NEW, 1), b"\x03garbage", b"", b"\x01" + record(PRESENT, 1)[1:]],
    ids=["an earlier term", "a later term", "garbage", "nothing", "another kind"],
)  # fmt: skip
def test_of_a_round_with_a_record_that_its_leader_cannot_have_made_nothing_is_kept(bad: bytes) -> None:
    async def story() -> None:
        cluster = Leaders().start()
        mate = next(key for key in map(str, range(99)) if cluster.partition(key) == cluster.partition("k"))
        answer = cluster.accept("n1", PRESENT, "n2", (mate, record(PRESENT, 1)), ("k", bad))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"
        assert cluster.stored("n1", mate) is None

    run(story())


@pytest.mark.parametrize(("age_ms", "taken"), [(GRACE_MS // 2, True), (GRACE_MS // 2 + 1, False)])
def test_what_was_sent_more_than_half_the_grace_ago_is_refused(age_ms: int, taken: bool) -> None:
    """*Schedule without (L12): an Accept is held past a purge; what was deleted and forgotten is back.*"""

    async def story() -> None:
        cluster = Leaders().start()
        items = [(BUCKET, KEY, record(PRESENT, 1))]
        made_ms = cluster.clocks["n1"].wall_ms() - age_ms
        answer = cluster.handle("n1", f.Accept(3, "n2", made_ms, [(cluster.partition("k"), PRESENT, items)]))
        assert isinstance(answer, f.Accepted if taken else f.NodeRefused)
        assert (cluster.stored("n1", "k") is not None) == taken
        if not taken:
            assert answer.reason == "old"

    run(story())


def test_a_full_disk_takes_no_records_and_no_promises_but_rounds_without_a_record() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.promise("n1", "k", PRESENT, "n2")
        replica = cluster.replica("n1")
        replica.no_room, replica.room_for_deletes = "the disk is full", False
        answer = cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 1)))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "overloaded"
        assert cluster.accept("n1", PRESENT, "n2", key="k") == f.Accepted([(b"", "")]), "or nobody could read"
        refused = cluster.handle("n1", f.Promise(*cluster.led("k"), NEW, "n2"))
        assert isinstance(refused, f.NodeRefused)
        assert cluster.promised("n1", "k") == (PRESENT, "n2")
        replica.room_for_deletes = True
        assert cluster.promise("n1", "k", NEW, "n2").granted, "it is small, and what leads may make room"

    run(story())


# ---- what is shown to a plain read (L8) ----


def test_a_plain_read_is_shown_the_record_and_the_term_that_is_promised() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.accept("n1", OLD, "n3", ("k", record(OLD, 4)))
        cluster.promise("n1", "k", PRESENT, "n2")
        assert cluster.handle("n1", f.ReadHeads(BUCKET, [KEY])) == f.HeadsRead([record(OLD, 4)], [PRESENT])
        assert cluster.handle("n1", f.ReadHeads(BUCKET, [encode_key("absent")])).records == [None]

    run(story())


def test_only_the_leader_vouches_for_a_record() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        voter = cluster.replica("n1").voter
        asked: list[Any] = []
        voter.is_head = lambda *about: asked.append(about) or True
        cluster.accept("n1", PRESENT, "n2", ("k", record(PRESENT, 4)))
        assert cluster.handle("n1", f.ReadHeads(BUCKET, [KEY])).heads == []
        assert asked == []
        cluster.promise("n1", "k", NEW, "n1")
        assert cluster.handle("n1", f.ReadHeads(BUCKET, [KEY])).heads == [0]
        assert asked == [(*cluster.led("k"), (BUCKET, KEY), record(PRESENT, 4))]

    run(story())


def test_of_a_bucket_that_is_not_linearizable_there_are_no_heads() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        assert isinstance(cluster.handle("n1", f.ReadHeads(BUCKET + 1, [KEY])), f.NodeRefused)

    run(story())


def test_what_is_promised_for_a_partition_is_read_by_its_healer() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.promise("n1", "k", PRESENT, "n2")
        cluster.handle("n1", f.Promise(cluster.partition("k"), 5, NEW, "n3"))
        read = cluster.handle("n1", f.ReadPromises(cluster.partition("k")))
        assert read == f.PromisesRead([(3, PRESENT, "n2"), (5, NEW, "n3")], True)
        cluster.wipe("n1")
        cluster.start_node("n1")
        assert cluster.handle("n1", f.ReadPromises(cluster.partition("k"))) == f.PromisesRead([], False)

    run(story())
