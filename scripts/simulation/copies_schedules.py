"""Schedules about copies that differ, each fixed, with what may vary drawn by chance.

Each is the shortest way to break a store that lacks one certain guard. By itself it would come up in one of many
thousand fuzzed worlds: several faults have to meet within moments, in one order. Played, it costs a few milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import random as random_module
from typing import TYPE_CHECKING

import msgspec

from raykv.cluster import moves
from raykv.cluster.peers import node_address
from raykv.coordinator.writes import Put
from raykv.errors import StoreUnavailable
from raykv.ports import Known
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp_of, time_of
from raykv.repair.maintenance import HEAL_EVERY_S
from raykv.ring import partition_in, partition_of_key
from raykv.sim.kernel import Process, run_virtual
from simulation.copies_world import COPIES, CopiesWorld, Settings
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.cluster.state import ClusterState, Move
    from raykv.sim.kernel import VirtualLoop


def play_copies_schedule(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Play one schedule, the next for the next number; return what was wrong, and the hash of its trace."""
    schedule = SCHEDULES[(seed * AT_ONCE + number) % len(SCHEDULES)]
    return play(schedule, f"{schedule.__name__} {seed}.{number}")


def play(schedule: type[Schedule], seed: str) -> tuple[list[Violation], str]:
    """Play this schedule."""
    runner, loop = run_virtual(lambda loop: _played(schedule(loop, seed)))
    found = runner.violations + runner.promises.broken
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


async def _played(schedule: Schedule) -> Schedule:
    await schedule.begin()
    await schedule.play()
    await schedule.end_all()
    return schedule


class Schedule(CopiesWorld):
    """One schedule."""

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        rng = random_module.Random(seed)
        super().__init__(loop, seed, rng, self.drawn(rng))
        self.about = f"in which {(self.__doc__ or '').partition('.')[0].lower()}"

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(slow_disk_s=rng.choice((0.0, 0.02)))

    async def play(self) -> None:
        """Play it."""
        raise NotImplementedError

    def cut(self, one: str, other: str, for_s: float) -> None:
        """Let nothing pass between two processes for a while."""
        for pair in ((one, other), (other, one)):
            self.network.cut(*pair)
            self.loop.later(for_s, self.network.mend, *pair)


class ShownAndAskedAgain(Schedule):
    """What one copy has is read, and then the others are asked.

    While the read has its answers and the others have not got what they lack, the way to them is cut (P9).
    """

    async def play(self) -> None:
        """Play it."""
        key = self.rng.choice(self.keys)
        if self.rng.random() < 0.5:
            await self.put(key, self.record(), self.node_ids)
        asked = self.coordinator.routing.orders(self.entry.config, [encode_key(key)])[0][: self.r]
        holder = self.rng.choice(asked)
        others = [node_id for node_id in self.node_ids if node_id != holder]
        await self.put(key, self.record(), [holder])
        answered: set[str] = set()

        def heard(what: str, source: str, target: str, frame: bytes) -> None:
            del frame
            if what == "answers" and target == "coordinator" and source not in answered:
                answered.add(source)
                if len(answered) == self.r:
                    for other in others:
                        self.cut("coordinator", node_address(other), 0.3)

        self.network.heard = heard
        await self.read([key])
        self.end(holder)
        process, another = self.start_coordinator("coordinator2")
        self.publish(another)
        await self.read([key], another)
        process.kill()


class AnOldCopyOfTheSameRun(Schedule):
    """A directory comes back as it was earlier in the same run.

    Its incarnation is as it should be: only how far the log was tells it, which the supervisor has heard from the node,
    or a coordinator (P1, P6).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        victim, beside, third = rng.sample(self.node_ids, COPIES)
        for _ in range(rng.randint(1, 3)):
            await self.put(rng.choice(self.keys), self.record(), self.node_ids)
        copy = self.hosts[victim].disk.crash(rng, "keep")
        self.end(third)
        for key in rng.sample(self.keys, 2):
            await self.write(key)
        last = self.nodes[victim].incarnation
        self.put_back(victim, copy, rng.choice((None, Known(last))))
        self.start(third)
        self.end(beside)
        for node_id in (victim, third):
            await self.send_state(node_id)
        await self.read(self.keys)


class AnOldCopyThatHasGrown(Schedule):
    """A directory comes back as it was earlier, and is written to: its log is longer than it ever was.

    Then a coordinator that knew how far it was asks for its former run, and is refused: by that answer it takes this run's
    log for the further one, unless what it knew was compared before (P1, P6).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        victim, beside, third = rng.sample(self.node_ids, COPIES)
        written, other = rng.sample(self.keys, 2)
        process, late = self.start_coordinator("coordinator2")  # it hears of no new runs but from nodes
        self.publish(late)
        await self.put(other, self.record(), self.node_ids)
        copy = self.hosts[victim].disk.crash(rng, "keep")
        self.end(third)
        await self.write(written, coordinator=late)
        self.put_back(victim, copy, Known())
        self.start(third)
        for node_id in (victim, third):
            await self.send_state(node_id)
        await self.put(other, self.record(), [victim, third])  # into another segment, which is beyond all before
        self.end(beside)
        await self.read([written], late)
        process.kill()


class CompleteAndItsPowerGoes(Schedule):
    """A node becomes complete, and its power goes at that moment.

    Just before it compares itself with the others, one of them gives it what it lacks: it is here and not synced yet,
    and must be before the node calls itself complete (P1, P3).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        r, w = rng.choice(((1, COPIES), (2, 2)))
        return Settings(r=r, w=w, mends=True, slow_disk_s=rng.choice((0.1, 0.3)))

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        victim, key, record = rng.choice(self.node_ids), rng.choice(self.keys), self.record()
        await self.put(key, record, self.node_ids)
        self.wipe(victim)
        self.power_when_complete = 1.0
        began_s = self.loop.now_s
        self.start(victim)
        await self.send_state(victim)
        await asyncio.sleep(began_s + HEAL_EVERY_S - rng.uniform(0.005, 0.03) - self.loop.now_s)
        self.client.spawn(self.put(key, record, [victim]))
        await asyncio.sleep(4.0)
        self.power_when_complete = 0.0
        await self.start_all()
        await self.read(self.keys)


class AWriteThatThaws(Schedule):
    """A coordinator is frozen with a write under way.

    It waits just then for a cluster update with the write's bucket, and thaws when the client has long known the outcome as
    unknown. What it has not sent by then it must not send, for it would be stamped above all that was
    written since (P8).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        supervisor, (process, late) = Process(self.loop, "supervisor"), self.start_coordinator("coordinator2")

        async def send_update(frame: bytes) -> bytes:
            del frame
            process.freeze()
            self.loop.later(rng.uniform(0.6, 2.0), process.thaw)
            return f.supervisor_answers.encode(self.cluster_update())

        self.network.register(supervisor, send_update)
        key, expires_s = rng.choice(self.keys), self.loop.now_s + 0.5

        def sent(source: str, target: str, frame: bytes) -> None:
            late_s = self.loop.now_s - expires_s
            to_node = source == process.name and target.startswith("node/")
            if to_node and late_s > 0 and isinstance(f.node_requests.decode(frame).body, f.Write):
                self.report("sent too late", f"a write of {key} goes out {late_s:.1f} s after its deadline", key)

        self.network.sent = sent
        item = (encode_key(key), pack_body(rng.randbytes(16), rng.randbytes(10)), None)
        request = f.WriteMany(self.bucket_id, [item], self.w, 0.5, run=late.run, expires_s=expires_s)
        steps = late.operation(request)
        assert steps is not None
        await asyncio.wait([process.spawn(self.carry_out(steps, late))])
        await asyncio.sleep(0.1)
        for each in (process, supervisor):
            each.kill()


class _Moving(Schedule):
    """A node more than there are copies, so that a partition can move."""

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=COPIES + 1, slow_disk_s=rng.choice((0.0, 0.02)))

    def _moving(self, leaving: str) -> tuple[ClusterState, ClusterState, Move]:
        """Return the first two steps of a wave by which a node gives away what it has, and one of its moves."""
        members = [member for member in self.state.ring.members if member.node_id != leaving]
        aimed = moves.with_goal(self.state, members)
        wave = moves.next_wave(aimed)
        first = moves.begun(aimed, wave)
        one = next(move for move in wave if len({*move.owners} - {*self.state.ring.owners(move.partition)}) == 1)
        return first, moves.reading_new(first), one

    async def _spread(self, state: ClusterState) -> None:
        for node_id in self.node_ids:
            await self.send_state(node_id, state)
        self.publish(self.coordinator, state)

    def _key_in(self, partition: int) -> str:
        names = (f"m{number}" for number in itertools.count())
        return next(key for key in names if partition_of_key(encode_key(key), self.store.partitions) == partition)


class TheEpochThatWasForgotten(_Moving):
    """A node that knew of a move is wiped, and asked by a coordinator that does not.

    One old owner has not heard of the move, and enough others have: new owners are read. The wiped one had said that it
    knows; if it believes the coordinator now, both acknowledge a write that the new owners never get (P4, P5).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        first, second, move = self._moving(rng.choice(self.node_ids))
        before = self.state.ring.owners(move.partition)
        (leaving,) = (node_id for node_id in before if node_id not in move.owners)
        (gaining,) = (node_id for node_id in move.owners if node_id not in before)
        staying = [node_id for node_id in before if node_id in move.owners]
        one, other = rng.sample(staying, 2)
        forgets, unaware = rng.sample((leaving, one), 2)
        for state in (first, second):
            for node_id in (forgets, gaining, other):
                await self.send_state(node_id, state)
        process, later = self.start_coordinator("coordinator2")
        self.publish(later, second)
        self.wipe(forgets)
        self.start(forgets)
        self.cut("coordinator", node_address(other), 0.6)
        key = self._key_in(move.partition)
        await self.write(key, 0.5)
        assert self.nodes[unaware]._replica.ballot == self.state.ballot  # noqa: SLF001
        self.end(one)
        self.publish(later, second)
        await self.read([key], later)
        process.kill()


class ShownByOwnersOfBefore(_Moving):
    """A failed write is left on old owners of a partition that moves, and is shown.

    A read of R old owners has to see to it that R of the new ones have it, too: those are asked a step later (P4, P9).
    """

    async def play(self) -> None:
        """Play it."""
        for leaving in self.rng.sample(self.node_ids, COPIES + 1):
            first, second, move = self._moving(leaving)
            before = self.state.ring.owners(move.partition)
            if leaving in before[: self.w]:  # reads ask it as long as they ask old owners
                break
        key, record = self._key_in(move.partition), self.record()
        await self._spread(first)
        for node_id in before[: self.w]:
            await self.ask(node_id, f.Write(self.bucket_id, [(encode_key(key), record)]))
        request = f.GetMany(self.bucket_id, [encode_key(key)], self.r, 1.0, causality=True)
        got = await self.carry_out(self.coordinator._fast_path.read(self.entry, request))  # noqa: SLF001
        if isinstance(got, f.GotMany):
            self.raise_floor(key, time_of(record))
        else:
            await self.read([key])
        await self._spread(second)
        self.end(next(node_id for node_id in before[: self.w] if node_id in move.owners))
        await self.read([key])


class AFormerOwnerRefusesLate(_Moving):
    """A former owner refuses a write late, when its coordinator has long heard that the partition has moved.

    It did not know of the move, and does by now. The owners of today are cut off for a moment, so the write is still under
    way, and whoever refused is asked again: but not who owns nothing of it any more, and would keep it (P4).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=COPIES + 1, mends=True, slow_disk_s=rng.choice((0.0, 0.02)))

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        first, second, move = self._moving(rng.choice(self.node_ids))
        last = moves.ended(second)
        (leaving,) = (node_id for node_id in self.state.ring.owners(move.partition) if node_id not in move.owners)
        for node_id in move.owners:
            await self.send_state(node_id, last)
        self.publish(self.coordinator, first)
        address, key, cut = node_address(leaving), self._key_in(move.partition), False

        def heard(what: str, source: str, target: str, frame: bytes) -> None:
            nonlocal cut
            if what == "answers" and target == "coordinator" and source != address and not cut:
                cut = isinstance(f.node_answers.decode(frame).body, f.NotOwner)
                if cut:
                    for owner in move.owners:
                        self.cut("coordinator", node_address(owner), 0.5)

        self.network.heard = heard
        self.network.slow[address] = rng.uniform(0.03, 0.1)
        writing = self.client.spawn(self.write(key))
        await asyncio.sleep(0.15)
        await self.send_state(leaving, last)
        await writing
        held = await self.ask(leaving, f.Fetch(self.bucket_id, [encode_key(key)]))
        if isinstance(held, f.ReadDone) and held.records[0] is not None:
            self.report("kept by a former owner", f"{leaving} has {key}, which moved away before it was written", key)
        await self.read([key])


class OutOfWhatItHeldAsAnOwner(_Moving):
    """A former owner, asked as a fallback, still has what its partition's owners have deleted since, and forgotten.

    What it holds waits to be dropped. One of the owners answers, and has nothing any more: the former one must not show
    what it has, and by no means give it back to the owners (P4, P10).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        slow_disk_s = rng.choice((0.0, 0.02))
        return Settings(nodes=COPIES + 1, sloppy=True, mends=True, gc_grace_s=4.0, slow_disk_s=slow_disk_s)

    async def play(self) -> None:
        """Play it."""
        rng, half_s = self.rng, self.store.gc_grace_s / 2
        _, second, move = self._moving(rng.choice(self.node_ids))
        key, last = self._key_in(move.partition), moves.ended(second)
        await self.put(key, self.record(), self.node_ids)
        await self._spread(last)
        await self.put(key, tombstone := self.record(deletes=True), move.owners)
        self.deleted[key] = time_of(tombstone)
        for _ in range(2):  # compared with each other first, and then forgotten
            await asyncio.sleep(half_s + 0.1)
            await self.ask(move.owners[0], f.Repair(move.partition, 5.0), 5.0)
        self.forgotten[key] = time_of(tombstone)
        for owner in rng.sample(move.owners, COPIES - 1):
            self.end(owner)
        await self.read([key])


class LearnedOfByAWrite(_Moving):
    """A coordinator learns from old owners, in the middle of a write, that the partition moves.

    The new owner has pulled what there was, and is cut off, as is one that stays: W of the owners that were asked first are
    not W of those that are read next (P4, P8).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        first, second, move = self._moving(rng.choice(self.node_ids))
        before = self.state.ring.owners(move.partition)
        (gaining,) = (node_id for node_id in move.owners if node_id not in before)
        heard, missed = rng.sample([node_id for node_id in before if node_id in move.owners], 2)
        for node_id in self.node_ids:
            await self.send_state(node_id, first)
        for node_id in (gaining, missed):
            self.cut("coordinator", node_address(node_id), 0.8)
        key = self._key_in(move.partition)
        await self.write(key, 0.6)
        await asyncio.sleep(0.5)
        for node_id in self.node_ids:
            await self.send_state(node_id, second)
        process, later = self.start_coordinator("coordinator2")
        self.end(heard)
        self.publish(later, second)
        await self.read([key], later)
        process.kill()


class ARunThatIsToldAtOnce(Schedule):
    """A directory comes back as it was earlier, and the only coordinator that knows better asks nothing of its node.

    As soon as it hears of the new run it has to say how far the log was: others ask for what that run has lost (P1, P6).
    """

    async def play(self) -> None:
        """Play it."""
        victim, beside, third = self.rng.sample(self.node_ids, COPIES)
        process, knows = self.start_coordinator("coordinator2")
        self.publish(knows)
        copy = self.hosts[victim].disk.crash(self.rng, "keep")
        self.end(third)
        key = self.rng.choice(self.keys)
        await self.write(key, coordinator=knows)
        self.put_back(victim, copy, Known())
        self.start(third)
        for node_id in (victim, third):
            await self.send_state(node_id)
        self.publish(knows)
        await asyncio.sleep(0.1)
        self.end(beside)
        await self.read([key])
        process.kill()


class AWriteThatAStandInTook(Schedule):
    """A fallback takes a write for unavailable owners.

    They come back, and when no hint waits any more the two of them are asked, without the one that had it all the time
    (P11).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=COPIES + 1, sloppy=True, mends=True, slow_disk_s=rng.choice((0.0, 0.02)))

    async def play(self) -> None:
        """Play it."""
        rng, key = self.rng, self.rng.choice(self.keys)
        owners = self.state.ring.owners(partition_of_key(encode_key(key), self.store.partitions))
        there, *away = rng.sample(owners, COPIES)
        for node_id in away:
            self.end(node_id)
        await asyncio.sleep(rng.choice((0.0, 0.5)))
        await self.write(key)
        await asyncio.sleep(rng.choice((0.0, 2.0)))
        await self.start_all()
        deadline_s = self.loop.now_s + 20.0
        while any(node.hints_waiting for node in self.nodes.values()):
            if self.loop.now_s > deadline_s:
                waiting = {node_id: node.hints_waiting for node_id, node in self.nodes.items()}
                self.report("hints left", f"{waiting} 20 s after all are back", key)
                return
            await asyncio.sleep(0.2)
        self.end(there)
        await self.read([key])


class AGroupedBucketIsNew(Schedule):
    """A node is asked to write to a grouped bucket of which it has not heard.

    It would put the key where the whole hash says, and seek it by its group a moment later: until it has heard of the
    bucket it must refuse (P4, P15).
    """

    async def play(self) -> None:
        """Play it."""
        rng = self.rng
        config = msgspec.structs.replace(self.entry.config, name="grouped", group=":")
        self.state = self.state.with_bucket(config)
        self.entry = self.state.buckets[-1]
        self.bucket_id = self.entry.bucket_id
        names = (f"group {number}:m" for number in itertools.count(rng.randrange(100)))
        key = next(key for key in names if self._lies_elsewhere(key))
        told = rng.sample(self.node_ids, rng.choice((0, 1)))
        for node_id in told:
            await self.send_state(node_id)
        self.publish()
        writing = self.client.spawn(self.write(key))
        await asyncio.sleep(rng.uniform(0.05, 0.3))
        for node_id in self.node_ids:
            await self.send_state(node_id)
        await writing
        await self.read([key])

    def _lies_elsewhere(self, key: str) -> bool:
        encoded, partitions = encode_key(key), self.store.partitions
        return partition_in(self.entry.config, encoded, partitions) != partition_in(None, encoded, partitions)


class ForgottenTooSoon(Schedule):
    """A deletion is due to be forgotten, and an owner does not hold it.

    It was compared with the others, and had it; then its directory came back from a copy of a moment before, before it
    was asked whether all owners hold what is due to be forgotten. What it still gives away is older than the deletion, and
    the deletion must outlive whatever is under way then (P10).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        del rng
        return Settings(mends=True, gc_grace_s=4.0)

    async def play(self) -> None:
        """Play it."""
        rng, gc_grace_s = self.rng, self.store.gc_grace_s
        key, self.power_when_complete = rng.choice(self.keys), 0.0
        partition = partition_of_key(encode_key(key), self.store.partitions)
        owners = self.state.ring.owners(partition)
        leader = rng.choice(owners)
        behind, third = (node_id for node_id in owners if node_id != leader)  # in which order they are compared
        await self.put(key, self.record(), [behind])
        await self.put(key, tombstone := self.record(deletes=True), [leader, third])
        self.deleted[key] = time_of(tombstone)
        await asyncio.sleep(gc_grace_s / 2 + rng.uniform(0.3, 0.5) - self.loop.now_s)
        copy, compared, trees = self.hosts[behind].disk.crash(rng, "keep"), asyncio.Event(), 0

        def sent(source: str, target: str, frame: bytes) -> None:
            """See to it that the other owner takes its time, in the round that finds all of them equal."""
            nonlocal trees
            if (source, target) == (node_address(leader), node_address(third)):
                trees += isinstance(f.node_requests.decode(frame).body, f.Tree)
                if trees == 2:
                    self.network.slow[target] = 0.2
                    self.loop.call_soon(self.network.slow.clear)  # this request only
                    compared.set()

        self.network.sent = sent
        repairing = self.client.spawn(self.ask(leader, f.Repair(partition, 5.0), 5.0))
        await compared.wait()
        self.put_back(behind, copy)
        await self.send_state(behind)
        await repairing
        first_s = self.loop.now_s
        await asyncio.sleep(0.5)
        under_way = await self.ask(behind, f.Fetch(self.bucket_id, [encode_key(key)]))
        made_ms = self.hosts[behind].wall_ms()
        await asyncio.sleep(first_s + gc_grace_s / 2 + 0.01 - self.loop.now_s)
        await self.ask(leader, f.Repair(partition, 5.0), 5.0)
        if isinstance(under_way, f.ReadDone) and (record := under_way.records[0]) is not None:
            await self.ask(third, f.Write(self.bucket_id, [(encode_key(key), record)], made_ms))
        self.end(leader)
        await self.read([key])


class WrittenWhileItIsForgotten(Schedule):
    """A key is written anew between the two steps of a purge.

    All owners have said that they hold the deletion, and are asked to forget it; the new value gets there first, and is
    not what they are asked to forget (P10).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(mends=True, gc_grace_s=rng.choice((1.0, 4.0)))

    async def play(self) -> None:
        """Play it."""
        rng, gc_grace_s, key = self.rng, self.store.gc_grace_s, self.rng.choice(self.keys)
        partition, leader = partition_of_key(encode_key(key), self.store.partitions), rng.choice(self.node_ids)
        await self.put(key, self.record(), self.node_ids)
        await self.put(key, tombstone := self.record(deletes=True), self.node_ids)
        self.deleted[key] = time_of(tombstone)
        await asyncio.sleep(gc_grace_s / 2 + 0.1 - self.loop.now_s)
        await self.ask(leader, f.Repair(partition, 5.0), 5.0)
        reached = asyncio.Event()

        def sent(source: str, target: str, frame: bytes) -> None:
            if source == node_address(leader) and not reached.is_set():
                body = f.node_requests.decode(frame).body
                if isinstance(body, f.Purge) and body.sure:
                    self.network.slow[target] = 0.1
                    self.loop.call_soon(self.network.slow.clear)  # this request only
                    reached.set()

        self.network.sent = sent
        await asyncio.sleep(gc_grace_s / 2 + 0.1)
        repairing = self.client.spawn(self.ask(leader, f.Repair(partition, 5.0), 5.0))
        await reached.wait()
        await self.put(key, self.record(), rng.sample(self.node_ids, rng.choice((2, 3))))
        await repairing
        for _ in range(2):
            await self.read([key])


class RefusedUnderItsSecondStamp(Schedule):
    """A write is stamped again, and then refused by all.

    One copy holds something newer, the others have taken the write under its first stamp; as it goes out again all
    nodes end. Nobody takes it then, and still it may not be said that nothing was written (P8).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(r=1, w=COPIES, slow_disk_s=rng.choice((0.0, 0.02)))

    async def play(self) -> None:
        """Play it."""
        rng, key = self.rng, self.rng.choice(self.keys)
        self.time += rng.randint(1000, 30_000) << 16  # by a clock that is ahead
        await self.put(key, self.record(), [rng.choice(self.node_ids)])
        operation, stamps = rng.randbytes(16), set[bytes]()

        def sent(source: str, target: str, frame: bytes) -> None:
            del target
            body = f.node_requests.decode(frame).body if source == "coordinator" else None
            if isinstance(body, f.Write):
                stamps.add(stamp_of(body.items[0][1]))
                if len(stamps) > 1:
                    for node_id in self.node_ids:
                        self.loop.call_soon(self.processes[node_id].kill)

        self.network.sent = sent
        item = Put(encode_key(key), pack_body(operation, rng.randbytes(10)), None)
        writes = self.coordinator._writes  # noqa: SLF001 - and not by way of a frame
        (outcome,) = await self.carry_out(writes.write(self.entry, [item], self.w, self.loop.now_s + 1.0))
        if isinstance(outcome, StoreUnavailable):
            self.refused.add(operation)
        await self.start_all()
        for _ in range(COPIES):
            await self.read([key])
            self.end(next(node_id for node_id in self.node_ids if self.runs(node_id)))


SCHEDULES: tuple[type[Schedule], ...] = (
    ShownAndAskedAgain, AnOldCopyOfTheSameRun, CompleteAndItsPowerGoes, AWriteThatThaws, TheEpochThatWasForgotten,
    AnOldCopyThatHasGrown, ARunThatIsToldAtOnce, ShownByOwnersOfBefore, LearnedOfByAWrite, AFormerOwnerRefusesLate,
    AWriteThatAStandInTook, ForgottenTooSoon, WrittenWhileItIsForgotten, RefusedUnderItsSecondStamp,
    OutOfWhatItHeldAsAnOwner, AGroupedBucketIsNew,
)  # fmt: skip
AT_ONCE = 2
"""How many of them are played beside a seed."""
