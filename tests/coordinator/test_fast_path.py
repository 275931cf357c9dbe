"""The fast path: what is plain, where everything else goes, and what becomes of a write that began on it."""

from __future__ import annotations

import asyncio
import random

import pytest

from raykv.cluster import moves
from raykv.cluster.state import Move
from raykv.coordinator import coordinator, fast_path, in_flight
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.driver import posting
from raykv.coordinator.routing import STALE_S
from raykv.coordinator.service import CoordinatorService
from raykv.coordinator.steps import Handover, Round, Wait
from raykv.errors import CorruptData, InvalidOption, Overloaded, QuorumNotMet, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.records.kinds import public
from raykv.records.record import pack_body, pack_tombstone_body, time_of
from raykv.versions import causality_of, time_from_ms
from raykv.versions.causality import Causality, pack_causality, unpack_causality

NAME = "coordinator"
KEY = "key"


class Client:
    """A coordinator that goes the fast path, and what it has sent."""

    def __init__(self, cluster, **options):
        self.cluster = cluster
        self.peer = cluster.coordinator(NAME)
        if options:
            transport = cluster.transport(NAME)
            core = Coordinator(transport, self.peer.clock, self.peer.metrics, random.Random(1), **options)
            self.peer.core, self.peer.front = core, CoordinatorService(core, transport, self.peer.clock)
            cluster.publish(self.peer)
        self.core, self.routing, self.driver = self.peer.core, self.peer.core.routing, self.peer.front.driver
        self.operations = random.Random(3)

    def steps(self, request):
        """An operation as far as the fast path brings it: None if it is to begin anew on the quorum path."""
        steps = self.core.operation(request, fast=True)
        if steps is None:
            return None
        left = self.left
        answers = None
        while True:
            try:
                action = next(steps) if answers is None else steps.send(answers)
            except StopIteration as end:
                return end.value
            if not isinstance(action, Round) and self.left == left:
                steps.close()
                return None
            answers = yield action

    @property
    def left(self):
        """How much has gone on along the quorum path."""
        return sum(self.peer.metrics[name] for name in ("fast_path_reads_left", "fast_path_writes_left"))

    def read(self, *keys, r=2, bucket=1, timeout_s=5.0):
        return f.GetMany(bucket, [encode_key(key) for key in keys or (KEY,)], r, timeout_s, causality=True)

    def write(self, value="new", *, keys=(KEY,), w=2, seen=None, bucket=1, ttl_ms=None, timeout_s=5.0, **options):
        operation = self.operations.randbytes(16)
        body = pack_tombstone_body(operation) if value is None else pack_body(operation, value.encode(), ttl_ms)
        return f.WriteMany(bucket, [(encode_key(key), body, seen) for key in keys], w, timeout_s, **options)

    async def serve(self, request):
        """Return the fast path's answer; None: it takes the quorum path."""
        return await self.driver.run(self.steps(request))

    async def get(self, *keys, **options):
        """The values, or None: it is to go the quorum path."""
        answer = await self.serve(self.read(*keys, **options))
        return None if answer is None else [payload.decode() for payload in f.whole(answer.items[0]).payloads]

    async def put(self, value="new", **options):
        """Return the nodes that acknowledged, the error, or None."""
        answer = await self.serve(self.write(value, **options))
        if answer is None:
            return None
        (item,) = answer.items
        return item.error() if isinstance(item, f.Failed) else item

    def sent(self, kind):
        """To whom requests of a kind went."""
        frames = [(target, f.node_requests.decode(frame).body) for source, target, frame in self.cluster.frames
                  if source == NAME and target.startswith("node/")]  # fmt: skip
        return [target[5:] for target, body in frames if isinstance(body, kind)]


@pytest.fixture(params=["lww", "vector"])
def versioning(request):
    return request.param


def story(world, tell, **options):
    """Run a story over a cluster in which KEY is "old" everywhere."""

    async def go():
        cluster = world.Cluster(**options).start()
        client = Client(cluster)
        await client.peer.put(KEY, "old", w=3)
        await client.peer.rest()
        cluster.frames.clear()
        client.peer.metrics.clear()
        await tell(cluster, client)

    world.run(go())


async def answers_to(cluster, ask, without=""):
    """Return the nodes' answers."""
    return {
        node_id: await cluster.transport(NAME).call(f"node/{node_id}", frame, 1.0)
        for node_id, frame in ask.frames.items()
        if node_id != without
    }


def held(cluster, key=KEY):
    return {node_id: cluster.stored(node_id, key) for node_id in cluster.ids}


def dots(cluster, key=KEY):
    return {sibling.dot for record in held(cluster, key).values() if record
            for sibling in vector.decode(record).siblings}  # fmt: skip


# ---- all is well ----


def test_a_read_asks_r_replicas_once(world, versioning):
    async def tell(cluster, client):
        for r in (1, 2, 3):
            cluster.frames.clear()
            assert await client.get(r=r) == ["old"]
            assert len(client.sent(f.Read)) == r
        assert client.peer.metrics["fast_path_reads"] == 3
        assert await client.get("nothing") == []
        usual = await client.peer.front.carry_out(client.read())
        assert await client.serve(client.read()) == usual, "in every byte, causality and time too"

    story(world, tell, versioning=versioning)


def test_a_write_is_sent_to_all_and_waits_for_w(world, versioning):
    async def tell(cluster, client):
        for w in (1, 2, 3):
            cluster.frames.clear()
            acked = await client.put(f"w{w}", w=w)
            assert len(acked.nodes) >= w
            assert sorted(client.sent(f.Write)) == ["n1", "n2", "n3"]
            await client.peer.rest()
            assert await client.get(r=3) == [f"w{w}"]
        assert client.peer.metrics["fast_path_writes"] == 3
        assert not client.peer.metrics["fast_path_writes_completed"]
        assert len({*held(cluster).values()}) == 1 or versioning == "vector"

    story(world, tell, versioning=versioning)


@pytest.mark.parametrize(("w", "bucket_w", "shown"), [(2, 2, 2), (3, 2, 2), (3, 3, 1), (1, 2, 1), (2, 3, 2)])
def test_a_blind_write_is_shown_as_much_as_the_usual_way_shows_it(world, w, bucket_w, shown):
    async def tell(cluster, client):
        await client.put(w=w)
        assert len(client.sent(f.ReserveDots)) == shown

    story(world, tell, versioning="vector", w=bucket_w)


def test_contexts_and_deletes_and_times_to_live(world):
    async def tell(cluster, client):
        first = (await client.serve(client.read())).items[0].causality
        await client.put("one", seen=first)
        await client.put("two", seen=first)
        assert await client.get() == ["two", "one"], "what a context has not seen stays"
        both = (await client.serve(client.read())).items[0].causality
        deleted = await client.put(None, seen=both)
        assert unpack_causality(deleted.causality).time > unpack_causality(both).time
        assert await client.get() == []
        await client.put("short", ttl_ms=200)
        assert await client.get() == ["short"]
        await asyncio.sleep(0.3)
        assert await client.get() == []

    story(world, tell, versioning="vector")


def test_what_is_stamped_is_above_what_the_session_has_seen(world, versioning):
    async def tell(cluster, client):
        ahead = time_from_ms(world.WALL_MS + 30_000)
        acked = await client.put(after=ahead)
        assert unpack_causality(acked.causality).time > ahead
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await client.put(after=time_from_ms(world.WALL_MS + 3_600_000))

    story(world, tell, versioning=versioning)


def test_what_a_client_sends_that_cannot_be_read_is_an_error(world):
    async def tell(cluster, client):
        with pytest.raises(CorruptData):
            await client.serve(f.WriteMany(1, [(encode_key(KEY), b"?", None)], 2, 5.0))
        with pytest.raises(CorruptData):
            await client.put(seen=b"?")
        assert not cluster.frames

    story(world, tell, versioning="vector")


# ---- what is not plain ----


async def _kill(cluster, client):
    cluster.kill("n2")


async def _restart(cluster, client):
    cluster.kill("n2", "keep")
    cluster.revive("n2")


async def _freeze(cluster, client):
    cluster.freeze("n2")


async def _wipe(cluster, client):
    cluster.wipe("n2")
    cluster.start_node("n2")
    cluster.publish(client.peer)


async def _down(cluster, client):
    cluster.down["n2"] = "it is said"
    cluster.publish(client.peer)


async def _slow(cluster, client):
    client.routing.peers.note_slow("n2")


async def _behind(cluster, client):
    """A node that does not know the present epoch."""
    cluster.state = moves.postpone(moves.begun(cluster.state, ()))
    cluster.publish(client.peer)


async def _moving(cluster, client):
    cluster.change(moves.begun(cluster.state, (move_of(cluster),)), client.peer)


async def _moved(cluster, client):
    """The nodes know of a move, the client does not."""
    cluster.change(moves.begun(cluster.state, (move_of(cluster),)))


def move_of(cluster, key=KEY):
    """A move of the key's partition: the first of its owners gives it to the node that owns none of it."""
    first, *rest = cluster.owners(key)
    (other,) = {*cluster.ids} - {first, *rest}
    return Move(cluster.partition(key), (other, *rest))


TROUBLES = {
    "a node was killed": (_kill, 3),
    "a node was restarted": (_restart, 3),
    "a node is frozen": (_freeze, 3),
    "a node is incomplete": (_wipe, 3),
    "a node is said to be down": (_down, 3),
    "a node was slow": (_slow, 3),
    "the nodes are behind": (_behind, 3),
    "the partition is moving": (_moving, 4),
    "the client has not heard of the move": (_moved, 4),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_read_that_meets_trouble_goes_the_usual_way_and_ends_right(world, versioning, trouble):
    arrange, nodes = TROUBLES[trouble]

    async def tell(cluster, client):
        await arrange(cluster, client)
        if trouble in {"the partition is moving", "the client has not heard of the move"}:
            if trouble == "the client has not heard of the move":
                assert await client.get(r=2) is None, "it hears of it"
            assert await client.get(r=2) == ["old"]
            witnesses = {*cluster.owners(KEY)} & {*move_of(cluster).owners}
            assert {*client.sent(f.Read)[-2:]} == witnesses, "what these hold, R of each set hold (P9)"
            assert await client.get(r=3) is None
            assert await client.peer.get(KEY, r=3) == "old"
            return
        if trouble in {"a node was slow", "a node is said to be down"}:
            assert await client.get(r=2) == ["old"], "the others are asked"
            assert "n2" not in client.sent(f.Read)
        assert await client.get(r=3) == (["old"] if trouble == "a node was slow" else None)
        assert await client.peer.get(KEY, r=2) == "old"

    story(world, tell, versioning=versioning, nodes=nodes, copies=3)


def test_a_read_hears_of_new_owners_and_the_next_one_asks_them(world, versioning):
    async def tell(cluster, client):
        move = move_of(cluster)
        (gained,) = {*move.owners} - {*cluster.owners(KEY)}
        await cluster.give(
            gained, KEY, world.put_record("new") if versioning == "lww" else world.vector_record(9, "new")
        )
        cluster.change(moves.begun(cluster.state, (move,)))
        cluster.change(moves.reading_new(cluster.state))
        cluster.change(moves.ended(cluster.state))
        assert await client.get(r=3) is None
        assert client.routing.epoch == cluster.state.epoch, "a node reported the new one"
        assert gained not in client.sent(f.Read)
        await client.get(r=3)
        assert gained in client.sent(f.Read)

    story(world, tell, versioning=versioning, nodes=4, copies=3)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_write_that_meets_trouble_ends_right(world, versioning, trouble):
    arrange, nodes = TROUBLES[trouble]

    async def tell(cluster, client):
        await arrange(cluster, client)
        request = client.write("new")
        outcome = await client.serve(request)
        if outcome is None:
            assert not client.sent(f.Write), "nothing was written yet"
            outcome = await client.peer.front.carry_out(request)
        assert isinstance(outcome.items[0], f.Acked), outcome.items[0].error()
        assert client.peer.metrics["fast_path_writes"] <= 1
        assert await client.peer.get(KEY, r=2) == "new"
        for owners in cluster.state.write_sets(cluster.partition(KEY), 3):
            assert len({*outcome.items[0].nodes} & {*owners}) >= 2, "W of each set of owners (P4)"

    story(world, tell, versioning=versioning, nodes=nodes, copies=3)


def test_what_is_not_for_it(world, versioning):
    async def tell(cluster, client):
        for replicas in (0, 4):
            with pytest.raises(InvalidOption):
                await client.get(r=replicas)
            with pytest.raises(InvalidOption):
                await client.put(w=replicas)
        assert await client.get(bucket=99) is None, "the quorum path asks for it"
        assert await client.put(bucket=99) is None
        assert client.core.operation(f.GetInfo("ring", 1.0)) is None
        assert not cluster.frames

    story(world, tell, versioning=versioning)


def test_a_sloppy_bucket_is_not_for_it(world):
    async def tell(cluster, client):
        assert await client.get() is None
        assert await client.put() is None
        assert not cluster.frames

    story(world, tell, versioning="vector", sloppy=True)


def test_replicas_that_differ(world, versioning):
    async def tell(cluster, client):
        record = (
            world.put_record("newer", 1000) if versioning == "lww" else world.vector_record(9, "beside", at_ms=1000)
        )
        await cluster.give("n1", KEY, record)
        assert await client.get(r=3) is None
        assert await client.peer.get(KEY, r=3) == ("newer" if versioning == "lww" else "beside")
        assert await client.get(r=3) is not None, "repaired"

    story(world, tell, versioning=versioning)


def test_a_cluster_update_that_is_old(world):
    async def go():
        cluster = world.Cluster().start()
        client = Client(cluster, asks=True)
        await client.peer.put(KEY, "old", w=3)
        assert await client.get() == ["old"]
        await asyncio.sleep(STALE_S + 1)
        assert await client.get() is None
        assert await client.put() is None
        assert await client.peer.get(KEY) == "old"
        await client.peer.rest()
        assert await client.get() == ["old"], "it has asked for a cluster update"

    world.run(go())


def test_requests_that_come_too_late_or_are_another_runs(world, versioning):
    async def tell(cluster, client):
        run, now_s = client.peer.core.run, client.peer.clock.monotonic_s()
        for options in ({"run": run + 1, "expires_s": now_s + 5}, {"run": run, "expires_s": now_s - 0.001}):
            assert await client.serve(client.write(**options)) == f.DeadlinePassed(run, now_s)
        assert not client.sent(f.Write)
        assert (await client.put(run=run, expires_s=now_s + 5)).nodes

    story(world, tell, versioning=versioning)


def test_a_client_that_stood_still_between_the_rounds_sends_nothing(world):
    async def tell(cluster, client):
        clock, steps = client.peer.clock, client.core.operation(client.write(timeout_s=1.0), fast=True)
        ask = next(steps)
        assert len(ask.frames) == 2
        answers = await answers_to(cluster, ask)
        before = clock.monotonic_s
        clock.monotonic_s = lambda: before() + 2.0
        with pytest.raises(StopIteration) as done:
            steps.send(answers)
        assert isinstance(done.value.value.items[0].error(), StoreUnavailable), "nothing was written"
        assert not client.sent(f.Write)

    story(world, tell, versioning="vector")


def test_an_answer_of_an_earlier_run_is_nobodys(world):
    async def tell(cluster, client):
        peers, incarnation = client.routing.peers, cluster.node("n1").incarnation
        frame = f.node_answers.encode(f.NodeAnswer(incarnation - 1, f.WriteDone([0])))
        assert peers.plain("n1", frame, {}) is None
        assert peers.plain("n1", b"?", {}) is None
        assert peers.plain("n1", None, {}) is None
        frame = f.node_answers.encode(f.NodeAnswer(incarnation, f.WriteDone([0])))
        assert peers.plain("n1", frame, {}) == f.WriteDone([0])

    story(world, tell)


# ---- a write that began on it ----


def held_up(cluster, nodes, delay_s):
    for node_id in nodes:
        cluster.network.delays[(f"node/{node_id}", NAME)] = delay_s


async def when_sent(client, kind):
    while not client.sent(kind):  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.0001)


def test_it_goes_on_under_its_stamp(world, versioning):
    """Two of three do not answer in time: the quorum path sends the same write again, which is the same to who has it."""

    async def tell(cluster, client):
        client.routing.peers.hedge_delay_s = lambda *_: 0.05
        writing = asyncio.create_task(client.put())
        await when_sent(client, f.Write)
        held_up(cluster, ("n1", "n2", "n3"), 0.3)
        acked = await writing
        await client.peer.rest()
        assert len(acked.nodes) >= 2
        assert client.peer.metrics["fast_path_writes_left"] == 1
        assert len(client.sent(f.Write)) == 6
        records = {*held(cluster).values()}
        if versioning == "vector":
            assert len(dots(cluster)) == 1, "one write, one dot"
        else:
            assert len(records) == 1, "one write, one stamp"
        assert await client.peer.get(KEY) == "new"

    story(world, tell, versioning=versioning)


def test_stamped_again_it_gives_back_the_stamp_that_it_has(world):
    async def tell(cluster, client):
        newer = world.put_record("newer", 20_000)
        for node_id in cluster.ids:
            await cluster.give(node_id, KEY, newer)
        acked = await client.put()
        await client.peer.rest()
        assert client.peer.metrics["restamps"] == 1
        (record,) = {*held(cluster).values()}
        assert unpack_causality(acked.causality).time == time_of(record) > time_of(newer)
        assert await client.peer.get(KEY) == "new"

    story(world, tell, versioning="lww")


def test_what_was_sent_is_never_reported_as_not_written(world, versioning):
    """All have it, none has said so, and then there is nobody to be asked: it may stand."""

    async def tell(cluster, client):
        writing = asyncio.create_task(client.put(timeout_s=0.5))
        await when_sent(client, f.Write)
        held_up(cluster, cluster.ids, 0.3)
        await asyncio.sleep(0.05)
        for node_id in cluster.ids:
            del cluster.network.endpoints[f"node/{node_id}"]
        error = await writing
        assert isinstance(error, WriteOutcomeUnknown)
        assert error.details["operation_id"]

    story(world, tell, versioning=versioning)


def test_an_owner_that_answers_late_needs_nothing(world, versioning):
    async def tell(cluster, client):
        late = cluster.owners(KEY)[2]
        held_up(cluster, (late,), 0.5)
        acked = await client.put(seen=pack_causality(Causality()) if versioning == "vector" else None)
        assert sorted(acked.nodes) == sorted({*cluster.ids} - {late})
        await client.peer.rest()
        assert not client.peer.metrics["fast_path_writes_completed"]
        assert not client.peer.metrics["hints"]
        assert len(client.sent(f.Write)) == 3

    story(world, tell, versioning=versioning)


@pytest.mark.parametrize("mended", [True, False])
def test_an_owner_that_does_not_answer_is_sent_it_again_or_gets_a_hint(world, mended, versioning):
    async def tell(cluster, client):
        writing = asyncio.create_task(client.put())
        await when_sent(client, f.ReserveDots if versioning == "vector" else f.Write)
        victim = cluster.owners(KEY)[2]
        cluster.cut(f"node/{victim}", NAME)
        cluster.cut(NAME, f"node/{victim}")
        acked = await writing
        assert victim not in acked.nodes
        if mended:
            await asyncio.sleep(0.5)
            cluster.mend()
        await client.peer.rest()
        assert client.peer.metrics["fast_path_writes_completed"] == 1
        hints = [cluster.node(node_id).hints_waiting for node_id in cluster.ids]
        if mended:
            assert not any(hints)
            assert cluster.stored(victim, KEY) is not None
            assert len({*map(public, held(cluster).values())}) == 1
        else:
            assert [waiting for waiting in hints if waiting] == [{victim: 1}]

    story(world, tell, versioning=versioning)


def test_a_write_is_completed_once_and_not_beside_the_operation(world):
    async def tell(cluster, client):
        steps = client.core.operation(client.write(), fast=True)
        round_ = next(steps)
        assert round_.write is not None
        assert round_.write.heard("n1", None)
        await client.driver.run(round_.write.complete())
        await client.driver.run(round_.write.complete())
        assert not round_.write.heard("n2", None), "it was seen to"
        assert client.peer.metrics["fast_path_writes_completed"] == 1
        steps = client.core.operation(client.write(), fast=True)
        round_ = next(steps)
        answer = await client.driver.take_over(Handover(steps, steps.send({})))
        assert len(answer.items[0].nodes) >= 2, "nobody has answered in time, and it goes on by itself"
        assert not round_.write.heard("n2", b"?")
        await client.driver.run(round_.write.complete())
        assert client.peer.metrics["fast_path_writes_completed"] == 1

    story(world, tell, versioning="lww")


def test_a_write_that_was_handed_over_is_not_sent_after_its_time(world):
    """P8: its process stood still between the thread that began it and the loop that goes on with it."""

    async def tell(cluster, client):
        steps = client.core.operation(client.write(timeout_s=0.5), fast=True)
        handover = Handover(steps, next(steps))
        await asyncio.sleep(0.6)
        answer = await client.driver.take_over(handover)
        assert isinstance(answer.items[0].error(), WriteOutcomeUnknown)
        assert not client.sent(f.Write)
        steps = client.core.operation(client.write(), fast=True)
        answer = await client.driver.take_over(Handover(steps, next(steps)))
        assert len(answer.items[0].nodes) >= 2

    story(world, tell, versioning="lww")


def test_both_rounds_name_the_epoch_that_named_the_owners(world):
    """The partition begins to move between the rounds, and somebody else lets the routing know."""

    async def tell(cluster, client):
        steps = client.core.operation(client.write(), fast=True)
        answers = await answers_to(cluster, next(steps))
        cluster.change(moves.begun(cluster.state, (move_of(cluster),)), client.peer)
        answers = await answers_to(cluster, steps.send(answers))
        action = steps.send(answers)
        assert isinstance(action, Wait), "it is not plain"
        wrote = await client.driver.take_over(Handover(steps, action))
        for owners in cluster.state.write_sets(cluster.partition(KEY), 3):
            assert len({*wrote.items[0].nodes} & {*owners}) >= 2

    story(world, tell, versioning="vector", nodes=4, copies=3)


def test_an_owner_that_missed_it_gets_it_by_the_ring_as_it_is_by_then(world, versioning, monkeypatch):
    monkeypatch.setattr(in_flight, "CALL_TIMEOUT_S", 0.5)

    async def tell(cluster, client):
        first, *rest = cluster.owners(KEY)
        (other,) = {*cluster.ids} - {first, *rest}
        request = client.write()
        steps = client.core.operation(request, fast=True)
        ask = next(steps)
        if versioning == "vector":
            ask = steps.send(await answers_to(cluster, ask))
        with pytest.raises(StopIteration) as done:
            steps.send(await answers_to(cluster, ask, without=first))
        assert isinstance(done.value.value, f.WroteMany)
        cluster.change(moves.begun(cluster.state, (Move(cluster.partition(KEY), (other, *rest)),)))
        await client.driver.run(ask.write.complete())
        await client.peer.rest()
        for node_id in (first, other):
            assert await cluster.held(node_id, KEY) is not None
            assert b"new" in await cluster.held(node_id, KEY), "the old owners and the new"

    story(world, tell, versioning=versioning, nodes=4, copies=3)


def test_a_write_of_a_bucket_that_was_dropped_meanwhile_is_not_brought_to_its_owners_again_and_again(world, versioning):
    async def tell(cluster, client):
        cluster.change(
            cluster.state.with_bucket(world.BucketConfig(name="b", versioning=versioning, n=3, r=2, w=2)), client.peer
        )
        steps = client.core.operation(client.write(bucket=2), fast=True)
        ask = next(steps)
        if versioning == "vector":
            ask = steps.send(await answers_to(cluster, ask))
        with pytest.raises(StopIteration):
            steps.send(await answers_to(cluster, ask, without=cluster.owners(KEY)[0]))
        cluster.change(cluster.state.without_bucket("b"))
        cluster.frames.clear()
        await client.driver.run(ask.write.complete())
        await client.peer.rest()
        assert len(client.sent(f.Write)) == 1

    story(world, tell, versioning=versioning)


# ---- many keys ----


def values_of(answer):
    return [[payload.decode() for payload in f.whole(item).payloads] for item in answer.items]


def test_many_keys_are_read_from_r_owners_each_in_one_round(world, versioning):
    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(40)]
        for key in keys[:-3]:
            await client.peer.put(key, f"of {key}", w=3)
        await client.peer.rest()
        cluster.frames.clear()
        answer = await client.serve(client.read(*keys))
        assert values_of(answer) == [[f"of {key}"] for key in keys[:-3]] + [[]] * 3
        assert answer.time == max(time for time in map(seen_time, held_by_all(cluster, keys)) if time)
        sent = client.sent(f.Read)
        assert len(sent) == len({*sent}), "one request to each"
        asked = [key for source, target, frame in cluster.frames if target.startswith("node/")
                 for key in f.node_requests.decode(frame).body.keys]  # fmt: skip
        assert sorted(asked) == sorted([encode_key(key) for key in keys] * 2)
        assert client.peer.metrics["fast_path_reads"] == len(keys)

    story(world, tell, versioning=versioning, nodes=5, copies=3)


def held_by_all(cluster, keys):
    return [next((found for node in cluster.ids if (found := cluster.stored(node, key))), None) for key in keys]


def seen_time(record):
    return 0 if record is None else causality_of(record).time


def test_of_many_keys_those_alone_go_the_usual_way_that_are_not_plain(world, versioning):
    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(12)]
        for key in keys:
            await client.peer.put(key, "old", w=3)
        await client.peer.rest()
        newer = world.put_record("newer", 5000)
        for key in keys[2:4]:
            first = client.routing.primaries(client.routing.bucket(world.BUCKET).config, encode_key(key))[0]
            await cluster.give(first, key, newer if versioning == "lww" else world.vector_record(9, "newer"))
        client.peer.metrics.clear()
        answer = await client.serve(client.read(*keys))
        found = values_of(answer)
        assert [found[0], found[1], *found[4:]] == [["old"]] * 10
        assert all("newer" in values for values in found[2:4])
        assert client.peer.metrics["fast_path_reads"] == 10
        assert client.peer.metrics["fast_path_reads_left"] == 2
        assert client.peer.metrics["read_repairs"] == 2

    story(world, tell, versioning=versioning)


@pytest.mark.parametrize("how", ["too much is under way", "a node is lost"])
def test_what_is_left_of_a_read_fails_by_itself(world, monkeypatch, how):
    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(4)]
        for key in keys:
            await client.peer.put(key, "old", w=3)
        first = client.routing.primaries(client.routing.bucket(world.BUCKET).config, encode_key("k1"))[0]
        await cluster.give(first, "k1", world.put_record("newer", 5000))
        steps = client.core.operation(client.read(*keys, r=3, timeout_s=2.0), fast=True)
        answers = await answers_to(cluster, next(steps))
        if how == "too much is under way":
            monkeypatch.setattr(coordinator, "MAX_ITEMS_UNDER_WAY", 0)
            with pytest.raises(StopIteration) as done:
                steps.send(answers)
            answer = done.value.value
            assert isinstance(answer.items[1].error(), Overloaded)
        else:
            cluster.kill("n1")
            answer = await client.driver.take_over(Handover(steps, steps.send(answers)))
            assert isinstance(answer.items[1].error(), QuorumNotMet)
        assert [f.whole(values).payloads for at, values in enumerate(answer.items) if at != 1] == [[b"old"]] * 3

    story(world, tell)


def test_a_batch_goes_the_usual_way_when_a_node_does_not_answer(world, versioning):
    async def tell(cluster, client):
        cluster.freeze("n2")
        assert await client.serve(client.read(KEY, "other", r=3)) is None

    story(world, tell, versioning=versioning)


async def put_many(client, pairs, **options):
    """Return the outcome of each; None: the quorum path."""
    items = [client.write(value, keys=(key,)).items[0] for key, value in pairs.items()]
    answer = await client.serve(f.WriteMany(1, items, options.get("w", 2), options.get("timeout_s", 5.0)))
    return None if answer is None else [item.error() if isinstance(item, f.Failed) else item for item in answer.items]


def test_many_keys_are_written_to_their_owners_in_one_round(world, versioning):
    async def tell(cluster, client):
        pairs = {f"k{number}": f"of k{number}" for number in range(40)}
        acked = await put_many(client, pairs)
        for key, item in zip(pairs, acked, strict=True):
            assert len({*item.nodes} & {*cluster.owners(key)}) >= 2
        sent = client.sent(f.Write)
        assert len(sent) == len({*sent}) == 5, "one request to each"
        await client.peer.rest()
        for key, value in pairs.items():
            assert {*filter(None, held(cluster, key).values())} != set()
            assert sum(record is not None for record in held(cluster, key).values()) == 3
            assert await client.peer.get(key, r=3) == value
        assert client.peer.metrics["fast_path_writes"] == 40
        assert not client.peer.metrics["fast_path_writes_completed"]
        assert not client.peer.metrics["read_repairs"]
        assert len({item.operation_id for item in acked}) == 40

    story(world, tell, versioning=versioning, nodes=5, copies=3)


def test_each_of_many_writes_supersedes_what_stands_and_has_a_dot_of_its_own(world):
    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(9)]
        for value in ("first", "second"):
            await put_many(client, dict.fromkeys(keys, value))
            await client.peer.rest()
        for key in keys:
            assert len(dots(cluster, key)) == 1, "the first is superseded"
            assert await client.peer.get(key) == "second"

    story(world, tell, versioning="vector", nodes=5, copies=3)


def test_many_writes_go_on_under_their_stamps(world, versioning):
    """A node does not answer, which some of them need: the same writes take the quorum path."""

    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(20)]
        writing = asyncio.create_task(put_many(client, dict.fromkeys(keys, "new"), w=3))
        await when_sent(client, f.Write)
        held_up(cluster, ("n1",), 0.4)
        acked = await writing
        assert [sorted(item.nodes) for item in acked] == [sorted(cluster.owners(key)) for key in keys]
        assert client.peer.metrics["fast_path_writes_left"] == 20
        for key in keys:
            if versioning == "vector":
                assert len(dots(cluster, key)) == 1
            else:
                assert len({*filter(None, held(cluster, key).values())}) == 1

    story(world, tell, versioning=versioning, nodes=4, copies=3)


def test_of_many_writes_those_that_missed_some_are_completed(world, versioning):
    async def tell(cluster, client):
        keys = [f"k{number}" for number in range(12)]
        victim = "n3"
        writing = asyncio.create_task(put_many(client, dict.fromkeys(keys, "new")))
        await when_sent(client, f.Write)
        cluster.cut(f"node/{victim}", NAME)
        acked = await writing
        await asyncio.sleep(3)
        cluster.mend()
        await client.peer.rest()
        assert all(victim not in item.nodes for item in acked)
        assert client.peer.metrics["fast_path_writes_completed"] == 12
        for key in keys:
            assert len({*map(public, filter(None, held(cluster, key).values()))}) == 1
            assert sum(record is not None for record in held(cluster, key).values()) == 3

    story(world, tell, versioning=versioning, nodes=3, copies=3)


def test_one_of_many_that_may_not_be_stamped_hinders_no_other(world):
    async def tell(cluster, client):
        stamped = client.core._writes.stamped

        def some(put, given, shown):
            if put.key == encode_key("k1"):
                raise StoreUnavailable("not this one")
            return stamped(put, given, shown)

        client.core._writes.stamped = some
        first, refused, last = await put_many(client, {f"k{number}": "new" for number in range(3)})
        assert isinstance(refused, StoreUnavailable)
        assert len(first.nodes) >= 2
        assert len(last.nodes) >= 2
        assert [await client.peer.get(f"k{number}") for number in range(3)] == ["new", None, "new"]

    story(world, tell, versioning="vector")


@pytest.mark.parametrize("keys", [(KEY,), (KEY, "other")])
def test_a_read_that_was_waited_for_in_vain_is_paid_for(world, keys):
    async def tell(cluster, client):
        paid = []
        client.routing.peers.spend_hedges = paid.append
        cluster.freeze("n2")
        assert await client.serve(client.read(*keys, r=3)) is None
        assert paid == [len(keys)]

    story(world, tell)


def test_nodes_that_take_their_time_are_asked_for_want_of_others(world):
    """Where there is more to do than nodes can, each is slow now and then; the quorum path would cost them still more."""

    async def tell(cluster, client):
        first, second, third = cluster.owners(KEY)
        for node_id in (first, second):
            client.routing.peers.note_slow(node_id)
        assert await client.get(r=2) == ["old"]
        assert client.sent(f.Read) == [third, first], "the quick one first"

    story(world, tell, versioning="lww")


def test_a_write_goes_to_those_that_take_their_time_too_and_others_stamp_it(world, versioning):
    async def tell(cluster, client):
        first, *others = cluster.owners(KEY)
        client.routing.peers.note_slow(first)
        held_up(cluster, (first,), 0.5)
        acked = await client.put()
        assert sorted(acked.nodes) == sorted(others)
        assert client.sent(f.ReserveDots) == ([] if versioning == "lww" else others)
        assert sorted(client.sent(f.Write)) == sorted([first, *others])
        await client.peer.rest()
        assert len({*map(public, held(cluster).values())}) == 1
        assert not client.peer.metrics["fast_path_writes_completed"]

    story(world, tell, versioning=versioning)


@pytest.mark.parametrize("keys", [1, 2])
def test_it_learns_how_long_nodes_take_also_from_those_that_it_waited_for_in_vain(world, keys):
    async def tell(cluster, client):
        names = [KEY, "other"][:keys]
        await client.peer.put("other", "old", w=3)
        await client.peer.rest()
        peers = client.routing.peers
        before_s = peers.hedge_delay_s("Read", keys, cluster.owners(KEY))
        held_up(cluster, cluster.owners(KEY), 1.0)
        for _ in range(fast_path.LEARNS_EVERY if keys == 1 else 1):
            assert await client.serve(client.read(*names)) is None
        assert all(max(peers._nodes[node_id].usual_s.values()) > before_s for node_id in client.sent(f.Read))

    story(world, tell, versioning="lww")


def test_single_reads_learn_from_those_that_are_quick_too(world):
    async def tell(cluster, client):
        peers = client.routing.peers
        owners = cluster.owners(KEY)
        for _ in range(200):
            peers.record_timeout("Read", dict.fromkeys(owners, 1))
        slow_s = peers.hedge_delay_s("Read", 1, owners)
        for _ in range(100 * fast_path.LEARNS_EVERY):
            assert await client.get() == ["old"]
        assert peers.hedge_delay_s("Read", 1, client.sent(f.Read)[:2]) < 0.7 * slow_s

    story(world, tell, versioning="lww")


def test_a_cluster_update_that_cannot_be_read_is_no_answer(world):
    async def tell(cluster, client):
        frame = f.node_answers.encode(f.NodeAnswer(1, f.NotOwner(b"?")))
        assert client.routing.peers.plain("n1", frame, {}) is None

    story(world, tell, versioning="lww")


@pytest.mark.parametrize("gone", ["down", "suspected"])
def test_a_write_goes_to_the_available_owners_and_leaves_hints_for_the_others(world, versioning, gone):
    async def tell(cluster, client):
        victim, *others = cluster.owners(KEY)
        if gone == "down":
            cluster.down[victim] = "it is said"
            cluster.publish(client.peer)
        else:
            peers = client.routing.peers
            peers._nodes[victim].suspected_until_s = asyncio.get_running_loop().time() + 60.0
        acked = await client.put()
        assert sorted(acked.nodes) == sorted(others)
        await client.peer.rest()
        assert sorted(client.sent(f.Write)) == sorted(others)
        assert victim not in client.sent(f.ReserveDots)
        assert [waiting for node_id in cluster.ids if (waiting := cluster.node(node_id).hints_waiting)] == [{victim: 1}]
        assert client.peer.metrics["fast_path_writes_completed"] == 1

    story(world, tell, versioning=versioning)


def test_a_write_that_needs_unreachable_owners_takes_the_quorum_path(world, versioning):
    async def tell(cluster, client):
        victim = cluster.owners(KEY)[0]
        cluster.down[victim] = "it is said"
        cluster.publish(client.peer)
        assert await client.put(w=3) is None
        client.routing.peers._nodes[victim].incomplete = True
        client.routing.peers._nodes[victim].down = None
        assert await client.put() is None, "who is incomplete takes writes"

    story(world, tell, versioning=versioning)


def test_hints_are_left_once_all_others_have_it_and_what_these_miss_too_goes_the_usual_way(world):
    async def tell(cluster, client):
        away, late, *quick = cluster.owners(KEY)
        cluster.down[away] = "it is said"
        cluster.publish(client.peer)
        for failure in (None, PeerUnreachable("lost")):
            posted, outcomes = [], []
            client.driver._post = lambda peer, frame, _, heard, posted=posted: posted.append((peer, frame, heard))
            client.peer.metrics.clear()
            client.driver.begin(client.steps(client.write(w=len(quick))), outcomes.append)
            assert {peer[5:] for peer, _, _ in posted} == {late, *quick}
            for peer, frame, heard in posted:
                if peer[5:] != late:
                    heard(await cluster.transport(NAME).call(peer, frame, 1.0))
            assert len(outcomes[0].items[0].nodes) == len(quick)
            await asyncio.sleep(0.01)
            assert not client.peer.metrics["fast_path_writes_completed"]
            for peer, frame, heard in posted:
                if peer[5:] == late:
                    heard(failure or await cluster.transport(NAME).call(peer, frame, 1.0))
            await client.peer.rest()
            assert client.peer.metrics["fast_path_writes_completed"] == 1
            assert cluster.stored(late, KEY) == cluster.stored(quick[0], KEY)

    story(world, tell, versioning="lww", nodes=4, copies=4)


# ---- in an event loop ----


def test_no_task_is_left_after_all_answers_and_they_are_outstanding_until_then(world, versioning):
    async def tell(cluster, client):
        late = cluster.owners(KEY)[2]
        held_up(cluster, (late,), 0.5)
        driver = client.driver
        writing = asyncio.create_task(client.put(seen=pack_causality(Causality()) if versioning == "vector" else None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert driver.outstanding == 3 if versioning == "lww" else driver.outstanding > 0
        await writing
        assert driver.outstanding == 1, "that of the one that takes its time"
        assert not driver._due
        await asyncio.sleep(1.0)
        assert driver.outstanding == 0
        assert not client.routing.tasks
        assert driver._watch is None
        assert not driver.tasks

    story(world, tell, versioning=versioning)


def test_rounds_end_when_their_time_is_up_one_by_one(world):
    """One task looks after all of them."""

    async def tell(cluster, client):
        for node_id in cluster.owners(KEY)[:2]:
            cluster.cut(NAME, f"node/{node_id}")
        loop = asyncio.get_running_loop()
        began_s, ended_s = loop.time(), []

        async def read(patience_s):
            client.routing.peers.hedge_delay_s = lambda *_: patience_s
            assert await client.serve(client.read()) is None
            ended_s.append(loop.time() - began_s)

        reads = [asyncio.create_task(read(patience_s)) for patience_s in (0.012, 0.02, 0.003)]
        await asyncio.sleep(0)
        assert len(client.driver._due) == 3
        await asyncio.gather(*reads)
        for took_s, patience_s in zip(ended_s, (0.003, 0.012, 0.02), strict=True):
            assert patience_s - 1e-6 <= took_s <= patience_s + 1e-6

    story(world, tell, versioning="lww")


def test_the_waiter_gets_a_mistake_of_ours(world, monkeypatch):
    async def tell(cluster, client):
        monkeypatch.setattr(client.core._fast_path, "_got", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await client.serve(client.read())
        assert not client.driver._due

    story(world, tell, versioning="lww")


@pytest.mark.parametrize("ended", [False, True])
def test_at_the_end_of_its_loop_nothing_begins(world, ended):
    """The connections are closed there, what is outstanding on them fails, and no time is left to complete it."""

    async def tell(cluster, client):
        outcomes, posted = [], []
        client.driver._post = lambda peer, frame, _, heard: posted.append((peer, frame, heard))
        client.driver.begin(client.steps(client.write()), outcomes.append)
        for peer, frame, heard in posted[:2]:
            heard(await cluster.transport(NAME).call(peer, frame, 1.0))
        assert len(outcomes[0].items[0].nodes) == 2
        if ended:
            client.driver.end()
        posted[2][2](PeerUnreachable("the connection to it was lost"))
        await client.peer.rest()
        assert client.driver.outstanding == 0
        assert client.peer.metrics["fast_path_writes_completed"] == (0 if ended else 1)

    story(world, tell, versioning="lww")


def test_what_was_frozen_before_it_was_sent_is_not_sent_after_its_time(world):
    """P8: a task that has not begun; where a stream stands there is none."""

    async def tell(cluster, client):
        posted = []
        clock = client.peer.clock
        post = posting(cluster.transport(NAME), clock, client.routing.tasks)
        frame = f.node_requests.encode(f.NodeRequest(0, f.Ping()))
        post("node/n1", frame, clock.monotonic_s() + 1.0, posted.append)
        post("node/n1", frame, clock.monotonic_s(), posted.append)
        await client.peer.rest()
        assert {type(outcome) for outcome in posted} == {bytes, PeerAbsent}
        assert client.sent(f.Ping) == ["n1"]

    story(world, tell, versioning="lww")


def test_a_transport_that_breaks_leaves_no_answer_outstanding(world):
    async def tell(cluster, client):
        class Broken:
            async def call(self, peer, frame, timeout_s):
                raise LookupError("no such thing")

        client.driver._post = posting(Broken(), client.peer.clock, client.routing.tasks)
        assert await client.get() is None
        assert client.driver.outstanding == 0

    story(world, tell, versioning="lww")
