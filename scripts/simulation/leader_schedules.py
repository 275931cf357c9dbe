"""Schedules about leaders, each fixed: the shortest way to break a linearizable bucket that lacks one certain guard.

By itself each would come up in one of many thousand fuzzed worlds: a message held past a purge, a leader's own copy that
comes to light when two others have led. Played, it costs a few milliseconds.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import TYPE_CHECKING, Any

from raykv.cluster import moves
from raykv.cluster.peers import node_address
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.linear_record import LinearRecord, encode, pack_term, term_number
from raykv.sim.kernel import run_virtual
from simulation.copies_world import Settings
from simulation.history import Violation
from simulation.leaders_world import NUMBER, TEXT, Caller, LeadersWorld

if TYPE_CHECKING:
    from raykv.sim.kernel import VirtualLoop
    from simulation.change_checker import ChangeOp

GRACE_S = 4.0
ON_ITS_WAY_S = 0.9
"""How long an answer to a candidate is on its way: a little less than it waits for."""


def play_leader_schedule(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Play one schedule, the next for the next number; return what was wrong, and the hash of its trace."""
    schedule = SCHEDULES[(seed * AT_ONCE + number) % len(SCHEDULES)]
    return play(schedule, f"{schedule.__name__} {seed}.{number}")


def play(schedule: type[Schedule], seed: str) -> tuple[list[Violation], str]:
    """Play this schedule."""
    runner, loop = run_virtual(lambda loop: _whole(schedule(loop, seed)))
    found = runner.found()
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


async def _whole(schedule: Schedule) -> Schedule:
    await schedule.begin()
    await schedule.spread()
    await schedule.play()
    await schedule.end_all()
    return schedule


class Schedule(LeadersWorld):
    """One schedule. All owners are up, and the first leads as soon as it is asked."""

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        rng = random_module.Random(seed)
        super().__init__(loop, seed, rng, self.drawn(rng))
        self.about = f"in which {(self.__doc__ or '').partition('.')[0].lower()}"
        self.text, self.number = self.key(TEXT), self.key(NUMBER)

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=3, delay_s=(0.0002, rng.choice((0.001, 0.003))))

    async def play(self) -> None:
        """Play it."""
        raise NotImplementedError

    async def known_caller(self, key: str) -> Caller:
        """Return a caller that has heard from the leader: its next change is taken at once."""
        caller = self.caller()
        await caller.get(key)
        await caller.read_at_leader(key)
        return caller

    async def abandoned(self, caller: Caller, making: Any, after_s: float = 0.02) -> None:
        """Begin a call, and let its caller end before it is answered."""
        task = caller.process.spawn(making)
        await asyncio.sleep(after_s)
        caller.process.kill()
        await asyncio.wait({task})

    async def heals(self, node_id: str) -> None:
        """Wait until a node is complete again; report one that is not in ten seconds."""
        for _ in range(1000):
            if self.nodes[node_id].complete:
                return
            await asyncio.sleep(0.01)
        self.report("schedule failed", f"{node_id} is not complete again")

    def must(self, op: ChangeOp, outcome: str = "ok") -> None:
        """Report a schedule that does not come to where it wants to."""
        if op.outcome != outcome:
            self.report("schedule failed", f"{op.told()}")


class AWriteHeldPastAPurge(Schedule):
    """A record of a live leader arrives when all owners have long forgotten the key.

    It was acknowledged by the two others, deleted and purged. Taken, it is the greatest that the next leader finds (L12).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=3, gc_grace_s=GRACE_S, delay_s=(0.0002, rng.choice((0.001, 0.003))))

    async def play(self) -> None:
        """Play it."""
        caller, key = await self.known_caller(self.text), self.text
        leader, late, third = self.owners
        held: list[f.Accept] = []

        def sent(_: str, target: str, body: Any) -> None:
            if isinstance(body, f.Accept) and target == f"node/{late}" and body.groups[0][2]:
                held.append(body)
                self.on_sent.remove(sent)

        self.on_sent.append(sent)
        self.cut_off(leader, [late], 0.2, back=False)
        self.must(await caller.put(key))
        await asyncio.sleep(1.5)  # the hint is handed over
        self.must(await caller.delete(key))
        await asyncio.sleep(2 * GRACE_S + 1)
        for _ in range(2):
            await self.ask(leader, f.Repair(self.partition, 2.0), 3.0)
            await asyncio.sleep(GRACE_S / 2 + 1)
        if held:
            await self.ask(late, held[0])
        self.end(leader)
        self.publish(caller.coordinator)
        await caller.get(key, 3.0)
        await caller.read_at_leader(key, 3.0)
        del third


class AFormerCallThatArrivesLate(Schedule):
    """A request is repeated on its way and arrives once more when its lane has gone on.

    Its receipt is forgotten by then, since no caller asks for it any more; and its time is not over (L10).
    """

    async def play(self) -> None:
        """Play it."""
        caller, other, key = await self.known_caller(self.text), await self.known_caller(self.text), self.text
        held: list[tuple[str, f.Apply]] = []

        def sent(source: str, target: str, body: Any) -> None:
            if isinstance(body, f.Apply) and body.run and source == caller.name:
                held.append((target.removeprefix("node/"), body))

        self.on_sent.append(sent)
        self.must(await caller.put(key, timeout_s=5.0))
        self.on_sent.clear()
        self.must(await caller.add(self.number, 1))
        self.must(await other.put(key))
        await other.get(key)
        for node_id, body in held:
            await self.ask(node_id, body)
        await other.get(key)
        await other.read_at_leader(key)


class ACallThatWasAskedOfTwo(Schedule):
    """A change is on its way to an owner, and is made by another; its lane goes on, and then the first one leads.

    No leader may take the lane's next call for a word that nobody asks for this one any more (L10).
    """

    async def play(self) -> None:
        """Play it."""
        caller, other, key = await self.known_caller(self.number), await self.known_caller(self.number), self.number
        leader, late, third = self.owners
        for each in (late, third):  # by its answer the caller knows its clock: a change that is not dated is not made
            caller.coordinator._changes._leaders[self.place] = each  # noqa: SLF001
            await caller.read_at_leader(key)
        held: list[f.Apply] = []

        def sent(source: str, target: str, body: Any) -> None:
            if isinstance(body, f.Apply) and body.run and (source, target) == (caller.name, node_address(late)):
                held.append(body)

        self.end(leader)
        self.cut_off(late, [caller.name], 1.0)
        self.on_sent.append(sent)
        self.must(await caller.add(key, 1, timeout_s=10.0))
        self.on_sent.clear()
        await asyncio.sleep(1.0)
        self.must(await caller.put(self.text, timeout_s=5.0))
        self.must(await other.add(key, 1, timeout_s=5.0))
        await self.ask(late, f.Lead(self.settings.copies, [self.partition]))
        if not held:
            self.report("schedule failed", f"nothing was sent to {late}")
        for body in held:
            await self.ask(late, body)
        self.must(await other.get(key, 5.0))


class AnEarlyDeadline(Schedule):
    """A leader makes a change under a deadline that is too early, and its answers are lost.

    The answer that told the sender of its clock was late. Another owner is asked when that deadline is over and the call's
    own is not: the receipt must be there still (L12).
    """

    async def play(self) -> None:
        """Play it."""
        caller, other, key = await self.known_caller(self.number), await self.known_caller(self.number), self.number
        changes = caller.coordinator._changes  # noqa: SLF001
        leader, *rest = self.owners
        for each in rest:
            changes._leaders[self.place] = each  # noqa: SLF001
            await caller.read_at_leader(key)
        changes._leaders[self.place] = leader  # noqa: SLF001
        clock = changes._clocks[leader]  # noqa: SLF001
        changes._clocks[leader] = clock._replace(ahead_s=clock.ahead_s - 4.7)  # noqa: SLF001
        self.cut_off(leader, [caller.name], 10.0, back=False)
        began_s = self.loop.now_s
        adding = caller.process.spawn(caller.add(key, 10, timeout_s=5.0))
        await asyncio.sleep(0.6)  # before an owner believes its caller that the leader is unable
        self.must(await other.add(key, 1, timeout_s=5.0))
        self.end(leader)
        self.must(await adding)
        if self.loop.now_s > began_s + 5.0:
            self.report("schedule failed", "the call took longer than it might")
        self.must(await other.get(key, 5.0))


class ALaterTermThatCameByRepair(Schedule):
    """An owner gets a record of a later term by repair, and then one of the term that it has promised.

    It merges that one away, and must not say that it holds it (L6).
    """

    async def play(self) -> None:
        """Play it."""
        caller, key = await self.known_caller(self.text), self.text
        self.must(await caller.put(key))
        leader, follower, _ = self.owners
        promised = self.nodes[follower]._replica.promises.of(*self.place)  # noqa: SLF001
        later = pack_term(term_number(promised.term) + 1, self.rng.getrandbits(64))
        record = encode(LinearRecord(later, 1, self.time + 1, b"\x02later"))
        await self.ask(follower, f.Write(self.bucket_id, [(encode_key(key), record)]))
        mine = encode(LinearRecord(promised.term, 99, self.time + 2, b"\x02mine"))
        group = (self.partition, promised.term, [(self.bucket_id, encode_key(key), mine)])
        said = await self.ask(follower, f.Accept(self.settings.copies, leader, 0, [group]))
        if not isinstance(said, f.Accepted) or said.groups[0][0] != later:
            self.report("counted and merged away", f"{follower} holds a record of a later term, and says {said}", key)


class ARefusalThatIsRepeated(Schedule):
    """A refusal is given by the second leader, while the first has the change in its own copy.

    The second dies, and the copy comes to light. So a refusal of what may have been done before is a record too (L11).
    """

    async def play(self) -> None:
        """Play it."""
        key, first = self.text, await self.known_caller(self.text)
        leader, second, third = self.owners
        self.must(await first.put(key))
        for at in (second, third):
            await self.ask(at, f.Repair(self.partition, 2.0), 3.0)
        deleting, inserting = await self.known_caller(key), await self.known_caller(key)
        self.cut_off(leader, [second, third], 3.0)
        self.cut_off(leader, [inserting.name], 3.0, back=False)
        await self.abandoned(deleting, deleting.delete(key))
        self.must(await inserting.put(key, condition=b"", timeout_s=2.5), "conflict")
        await asyncio.sleep(3.0 - min(3.0, self.loop.now_s % 3.0))
        self.end(second)
        await asyncio.sleep(3.0)
        last = self.caller()
        await last.get(key, 4.0)
        await last.read_at_leader(key, 4.0)


class TheFirstTouchOfABucket(Schedule):
    """The first value of a bucket is on two owners; the third leads, and has heard of it by their second answers only.

    Without asking twice it takes the bucket for empty (L4, L5).
    """

    async def play(self) -> None:
        """Play it."""
        key, first = self.text, await self.known_caller(self.text)
        leader, _, third = self.owners
        self.cut_off(leader, [third], 20.0, back=False)
        self.must(await first.put(key, condition=b""))
        self.end(leader)
        last = self.caller()
        second = self.owners[1]
        self.cut_off(second, [last.name], 2.0)
        await last.put(key, condition=b"", timeout_s=3.0)
        await last.read_at_leader(key, 3.0)


class ShownAndLost(Schedule):
    """What only the leader's copy has is shown after its restart, and the next leader finds the value before it.

    It has to be written anew before it is shown (L5).
    """

    async def play(self) -> None:
        """Play it."""
        key, first = self.text, await self.known_caller(self.text)
        leader, second, third = self.owners
        self.must(await first.put(key))
        await asyncio.sleep(0.1)
        writing = await self.known_caller(key)
        self.cut_off(leader, [second, third], 0.2, back=False)
        await self.abandoned(writing, writing.put(key))
        self.end(leader)
        await asyncio.sleep(0.3)
        self.start(leader)
        await self.send_state(leader)
        again = self.caller()
        await again.read_at_leader(key, 2.0)
        self.end(leader)
        await asyncio.sleep(0.01)
        last = self.caller()
        await last.read_at_leader(key, 4.0)


class ADeleteThatIsSentAgain(Schedule):
    """A delete is applied and shown, its answer lost, its tombstone purged with the receipt, and then it is sent again.

    Meanwhile something else was put. So no call lasts as long as what is dead is kept (L12).
    """

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=3, gc_grace_s=GRACE_S, delay_s=(0.0002, rng.choice((0.001, 0.003))))

    async def play(self) -> None:
        """Play it."""
        key, caller = self.text, await self.known_caller(self.text)
        leader = self.owners[0]
        self.must(await caller.put(key))
        deleting = await self.known_caller(key)
        task = deleting.process.spawn(deleting.delete(key, timeout_s=40.0))

        def heard(what: str, source: str, target: str, body: Any) -> None:
            if what == "asks" and source == deleting.name and isinstance(body, f.Apply) and body.run:
                self.on_heard.remove(heard)
                deleting.process.freeze()
                self.cut_off(target.removeprefix("node/"), [source], 0.5, back=False)

        self.on_heard.append(heard)
        await asyncio.sleep(0.3)
        await caller.get(key)
        await asyncio.sleep(2 * GRACE_S + 1)
        for _ in range(2):
            await self.ask(leader, f.Repair(self.partition, 2.0), 3.0)
            await asyncio.sleep(GRACE_S / 2 + 1)
        self.end(leader)
        self.must(await caller.put(key, timeout_s=1.0))
        deleting.process.thaw()
        await asyncio.wait({task}, timeout=20.0)
        await caller.get(key)
        await caller.read_at_leader(key)


class AReadDuringARound(Schedule):
    """A read is evaluated while a round is under way that began before the value was written.

    That round is acknowledged; the next, with the value, never is (L7).
    """

    async def play(self) -> None:
        """Play it."""
        key, reading = self.text, await self.known_caller(self.text)
        leader, second, third = self.owners
        self.must(await reading.put(key))
        one, two = await self.known_caller(key), await self.known_caller(key)
        for node_id in (second, third):
            self.network.slow[f"node/{node_id}"] = 0.05
        first = one.process.spawn(one.put(key, timeout_s=3.0))
        await asyncio.sleep(0.01)
        writing = two.process.spawn(two.put(key))
        await asyncio.sleep(0.01)
        read = reading.process.spawn(reading.read_at_leader(key, 0.2))
        two.process.kill()
        await asyncio.sleep(0.045)
        self.cut_off(leader, [second, third], 1.0, back=False)
        await asyncio.wait({first, read, writing}, timeout=0.3)
        self.network.slow.clear()
        self.end(leader)
        await asyncio.sleep(0.01)
        last = self.caller()
        await last.read_at_leader(key, 4.0)
        await asyncio.wait({first})


class HealedBetweenTwoLeaders(Schedule):
    """An owner that promised the second leader is wiped and heals, and the first leader asks it again.

    It must have learned from the others what was promised (L3).
    """

    async def play(self) -> None:
        """Play it."""
        key, early = self.number, await self.known_caller(self.number)
        first, second, third = self.owners
        self.must(await early.add(key, 5))
        await asyncio.sleep(0.1)
        late = self.caller()
        self.cut_off(first, [second, late.name], 30.0)
        await late.read_at_leader(key, 3.0)
        self.wipe(third)
        self.start(third)
        await self.send_state(third)
        await self.heals(third)
        await early.add(key, 1, 3.0)
        await late.add(key, 1, 3.0)


class AnOwnerWipedAsItConfirms(Schedule):
    """An owner that has promised a term twice is wiped while its second answer is on its way, and heals.

    It must learn from the candidate of the term under way: that one has promised it before it asked others (L1). The
    owner's clock is fast: else it would begin to heal when the candidate no longer waits.
    """

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        super().__init__(loop, seed)
        self.hosts[self.owners[2]].drift = 4.0

    async def play(self) -> None:
        """Play it."""
        key, early = self.text, await self.known_caller(self.text)
        first, second, third = self.owners
        late = self.caller()
        self.cut_off(first, [second, late.name], 30.0)
        answer = node_address(third), node_address(second)
        healed = asyncio.Event()

        async def heal() -> None:
            self.network.delays.pop(answer)
            self.wipe(third)
            self.start(third)
            await self.send_state(third)
            await self.heals(third)
            healed.set()

        def heard(what: str, source: str, target: str, body: Any) -> None:
            if what == "asks" and isinstance(body, f.Promise) and body.again and (target, source) == answer:
                self.on_heard.remove(heard)
                self.network.delays[answer] = ON_ITS_WAY_S
                for _ in range(10):  # it would hear of the run after
                    self.network.lose_next(source, target, "Gossip")
                self.loop.later(0.02, lambda: late.process.spawn(heal()))

        self.on_heard.append(heard)
        inserting = late.process.spawn(late.put(key, condition=b"", timeout_s=3.0))
        await asyncio.wait_for(healed.wait(), 3.0)
        await early.put(key, condition=b"", timeout_s=0.3)
        await asyncio.wait({inserting})
        await late.read_at_leader(key, 3.0)


class AnOldCopyIsSpread(Schedule):
    """A repair spreads what only the first leader had, when the second has taken the key up without it.

    The second will write on top of what it knows: what was spread was never acknowledged, and must not be shown (L8).
    """

    async def play(self) -> None:
        """Play it."""
        key, early = self.text, await self.known_caller(self.text)
        first, second, third = self.owners
        self.must(await early.put(key))
        await asyncio.sleep(0.1)
        writing = await self.known_caller(key)
        self.cut_off(first, [second, third], 1.0)
        await self.abandoned(writing, writing.put(key))
        late = self.caller()
        self.cut_off(first, [late.name], 1.0)
        await late.read_at_leader(key, 3.0)
        await asyncio.sleep(1.0)
        await self.ask(third, f.Repair(self.partition, 2.0), 3.0)
        for _ in range(3):
            await early.get(key)
            await asyncio.sleep(0.01)
        await late.change("swap", key, "the last", 1.0)


class _Moving(Schedule):
    """A partition moves from three owners to three others."""

    @staticmethod
    def drawn(rng: random_module.Random) -> Settings:
        """Return of what kind its world is."""
        return Settings(nodes=6, delay_s=(0.0002, rng.choice((0.001, 0.003))))

    async def must_pull(self, node_id: str) -> None:
        """Have a new owner pull the partition; report a move that does not come to where it is to be read."""
        if not await self.pull(node_id):
            self.report("schedule failed", f"{node_id} has not pulled the partition")

    def strangers(self) -> list[str]:
        """Return the nodes that own nothing of the partition."""
        return [node_id for node_id in self.node_ids if node_id not in self.owners]


class ALeaderThatHeardOfNoMove(_Moving):
    """A leader hears nothing of a whole move, and goes on with a caller that has not heard of it either.

    The former owners refuse what comes under an old epoch (P4, L9).
    """

    async def play(self) -> None:
        """Play it."""
        key, late = self.text, await self.known_caller(self.text)
        leader = self.owners[0]
        self.must(await late.put(key))
        new = self.strangers()
        self.processes[leader].freeze()
        others = [node_id for node_id in self.node_ids if node_id != leader]
        await self.begin_move(new)
        await self.spread(nodes=others, callers=())
        for node_id in new:
            await self.must_pull(node_id)
        for step in (moves.reading_new, moves.ended):
            self.state = step(self.state)
            await self.spread(nodes=others, callers=())
        self.processes[leader].thaw()
        early = self.caller()
        await early.read_at_leader(key)
        await late.put(key)
        await early.read_at_leader(key)
        await early.get(key)


class OldOwnersAreRead(_Moving):
    """A record has reached the old owners of a partition that moves, and none of the new ones.

    It is not acknowledged, and not to be shown: the new owners are read next (L8).
    """

    async def play(self) -> None:
        """Play it."""
        key, caller = self.text, await self.known_caller(self.text)
        leader = self.owners[0]
        self.must(await caller.put(key))
        new = self.strangers()
        await self.begin_move(new)
        await self.spread()
        for node_id in new:
            await self.must_pull(node_id)
        self.must(await caller.put(key))
        writing = await self.known_caller(key)
        self.cut_off(leader, new, 5.0)
        await self.abandoned(writing, writing.put(key), 0.05)
        await caller.get(key, 0.2)
        self.end(leader)
        for step in (moves.reading_new, moves.ended):
            self.state = step(self.state)
            await self.spread()
        last = self.caller()
        await last.read_at_leader(key, 3.0)
        await last.get(key, 3.0)


class SupersededAndMoved(_Moving):
    """A leader is superseded among the old owners, sleeps through the move, and stays an owner.

    The new ones must not go by its term: F of each set have to promise it anew (L9).
    """

    async def play(self) -> None:
        """Play it."""
        key, early = self.text, await self.known_caller(self.text)
        first = self.owners[0]
        self.must(await early.put(key))
        await asyncio.sleep(0.1)
        late = self.caller()
        self.cut_off(first, [*self.owners[1:], late.name], 60.0)
        self.must(await late.put(key, timeout_s=3.0))
        others = [node_id for node_id in self.node_ids if node_id != first]
        new = [*self.strangers()[:2], first]
        await self.begin_move(new)
        await self.spread(nodes=others)
        for node_id in new[:2]:
            await self.must_pull(node_id)
        for step in (moves.reading_new, moves.ended):
            self.state = step(self.state)
            await self.spread(nodes=others)
        await self.send_state(first)
        await early.read_at_leader(key, 3.0)
        await late.read_at_leader(key, 3.0)


class AcknowledgedByOldOwners(_Moving):
    """A change reaches the old owners of a partition that moves, and none of the new ones.

    F of each set have to hold it (P4, L9).
    """

    async def play(self) -> None:
        """Play it."""
        key, caller = self.text, await self.known_caller(self.text)
        leader = self.owners[0]
        self.must(await caller.put(key))
        new = self.strangers()
        await self.begin_move(new)
        await self.spread()
        for node_id in new:
            await self.must_pull(node_id)
        self.must(await caller.put(key))
        self.cut_off(leader, new, 5.0)
        await caller.put(key, timeout_s=0.2)
        self.end(leader)
        for step in (moves.reading_new, moves.ended):
            self.state = step(self.state)
            await self.spread()
        await self.caller().read_at_leader(key, 3.0)


SCHEDULES: tuple[type[Schedule], ...] = (
    AWriteHeldPastAPurge, AFormerCallThatArrivesLate, ALaterTermThatCameByRepair, ARefusalThatIsRepeated,
    TheFirstTouchOfABucket, ShownAndLost, ADeleteThatIsSentAgain, AReadDuringARound, ALeaderThatHeardOfNoMove,
    OldOwnersAreRead, HealedBetweenTwoLeaders, AnOldCopyIsSpread, SupersededAndMoved, AcknowledgedByOldOwners,
    AnOwnerWipedAsItConfirms, ACallThatWasAskedOfTwo, AnEarlyDeadline,
)  # fmt: skip
AT_ONCE = 2
"""How many of them are played beside a seed."""
