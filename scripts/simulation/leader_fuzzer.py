"""A few owners, a few callers on four hot keys, and faults that know who leads.

In a run of a whole cluster a fault seldom hits the one node at the one moment that matters to a leader. Here half of all
faults are about the leader: it is frozen, cut off one way or both, killed as it sends a record, its clock jumps, its disk
is full; an owner is wiped just after it promised, a promise reaches a bare majority, the partition moves with a leader
that sleeps, repairs spread what was never acknowledged, and what is dead is forgotten within seconds.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import TYPE_CHECKING, Any

from raykv.cluster import moves
from raykv.config import quorum
from raykv.protocol import frames as f
from raykv.sim.kernel import run_virtual
from raykv.sim.network import NetworkOdds
from simulation.copies_world import Settings
from simulation.history import Violation
from simulation.leaders_world import COUNTER, FENCED, NUMBER, TEXT, Caller, LeadersWorld, ended

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from raykv.sim.kernel import VirtualLoop
    from simulation.change_checker import ChangeKind

LASTS_S = 8.0
CALLERS = 4


def fuzz_leaders(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of its trace."""
    runner, loop = run_virtual(lambda loop: _Fuzzer(loop, f"leaders {seed}.{number}").go())
    found = runner.found()
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


def _settings(rng: random_module.Random) -> Settings:
    copies = rng.choice((3, 3, 3, 5))
    return Settings(
        copies=copies,
        nodes=copies + rng.choice((0, 1, 1)),
        gc_grace_s=rng.choice((600.0, 4.0, 4.0)),
        delay_s=(0.0002, rng.choice((0.002, 0.01, 0.03))),
        repair_every_s=rng.choice((86_400.0, 1.0)),
        slow_disk_s=rng.choice((0.0, 0.0, 0.02)),
    )


class _Fuzzer(LeadersWorld):
    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        rng = random_module.Random(seed)
        super().__init__(loop, seed, rng, _settings(rng))
        rough = rng.random() < 0.5
        self.network.odds = NetworkOdds(
            delay_s=self.settings.delay_s,
            late=rng.choice((0.0, 0.05, 0.2)) if rough else 0.0,
            late_s=rng.choice((0.3, 2.0)),
            lost=rng.choice((0.0, 0.05)) if rough else 0.0,
            repeated=rng.choice((0.0, 0.1)) if rough else 0.0,
        )
        faults = (
            self._freeze, self._cut, self._cut_one_way, self._kill, self._kill_as_it_sends, self._wipe_when_granted,
            self._bare_majority, self._move, self._repair, self._clock_jump, self._full_disk, self._power,
        )  # fmt: skip
        self.faults = rng.sample(faults, rng.randint(2, 6))
        self.until_s = LASTS_S
        self.moving = False
        self.moved: asyncio.Task[None] | None = None

    async def go(self) -> _Fuzzer:
        await self.begin()
        callers = [self.caller() for _ in range(CALLERS)]
        await self.spread()
        working = [asyncio.ensure_future(self._call(caller)) for caller in callers]
        while self.loop.now_s < self.until_s:
            await asyncio.sleep(self.rng.expovariate(2.5))
            if working[0].done() and all(task.done() for task in working):
                break
            await self.rng.choice(self.faults)()
            if self.rng.random() < 0.6:
                await self._start_some()
        await asyncio.wait(working)
        self.network.odds = NetworkOdds(delay_s=self.settings.delay_s)
        self.on_sent.clear()
        self.on_heard.clear()
        for host in self.hosts.values():
            host.disk.space_bytes = None
        await asyncio.sleep(3.0)
        if self.moved is not None:
            await asyncio.wait({self.moved}, timeout=120.0)
            if not self.moved.done():
                self.report("not settled", "the partition still moves when all has long healed")
        await ended(self)
        return self

    async def _call(self, caller: Caller) -> None:
        rng = self.rng_for(f"calls of {caller.name}")
        keys = rng.sample(self.keys, rng.randint(1, 3))
        token = 0
        while self.loop.now_s < self.until_s and not self.violations:
            await asyncio.sleep(rng.expovariate(1 / rng.choice((0.01, 0.05, 0.3))))
            key, timeout_s = rng.choice(keys), rng.choice((0.4, 0.9))
            options: dict[str, Any] = {"timeout_s": timeout_s}
            if rng.random() < 0.3:
                options |= {"again_by": rng.choice(self.callers), "after_s": rng.choice((0.02, 0.1, 0.3))}
            await self._one(caller, rng, key, options, token)
            if key[:2] == FENCED and rng.random() < 0.2:
                token += rng.randint(1, 3)

    def _one(
        self, caller: Caller, rng: random_module.Random, key: str, options: dict[str, Any], token: int
    ) -> Coroutine[Any, Any, object]:
        """Return one call."""
        kind, draw = key[:2], rng.random()
        if draw < 0.3:
            return caller.get(key, options["timeout_s"])
        if kind == COUNTER:
            return caller.add(key, rng.choice((1, 1, 10)), **options)
        if kind == NUMBER:
            changes: list[ChangeKind] = ["add", "add", "max", "min", "swap", "put", "delete"]
            change = rng.choice(changes)
            given = None if change == "delete" else rng.randint(-9, 9)
            return caller.change(change, key, given, **options)
        if kind == FENCED:
            return caller.put(key, fence=token, **options)
        if draw < 0.45:
            return caller.put(key, condition=b"", **options)
        if draw < 0.7 and key in caller.versions:
            return caller.put(key, condition=caller.versions[key], **options)
        if draw < 0.8:
            return caller.delete(key, **options)
        assert kind == TEXT
        return caller.put(key, **options)

    # ---- faults ----

    def _victim(self) -> str:
        """Return the leader, mostly."""
        leader = self.leader()
        return leader if leader is not None and self.rng.random() < 0.7 else self.rng.choice(self.owners)

    def _others(self) -> list[str]:
        return [*self.node_ids, *(caller.name for caller in self.callers)]

    async def _freeze(self) -> None:
        self.freeze(self._victim(), self.rng.choice((0.2, 0.7, 1.5, 3.0)))

    async def _cut(self) -> None:
        rng, victim = self.rng, self._victim()
        others = self.node_ids if rng.random() < 0.5 else self._others()
        self.cut_off(victim, rng.sample(others, rng.randint(1, len(others))), rng.choice((0.3, 1.0, 2.0)))

    async def _cut_one_way(self) -> None:
        rng, way = self.rng, self.rng.random() < 0.5
        others = self.node_ids if rng.random() < 0.7 else self._others()
        chosen = rng.sample(others, rng.randint(1, len(others)))
        self.cut_off(self._victim(), chosen, rng.choice((0.3, 1.0, 2.0)), to=way, back=not way)

    async def _kill(self) -> None:
        self.end(self._victim())

    async def _power(self) -> None:
        if not self.lossy:
            self.power(self._victim())

    async def _kill_as_it_sends(self) -> None:
        """Kill the leader as it sends a record; it may reach nobody, itself included, or some."""
        rng = self.rng
        reach = rng.choice((0, 1, 1, 2))

        def sent(source: str, target: str, body: Any) -> None:
            if not isinstance(body, f.Accept) or not any(items for _, _, items in body.groups):
                return
            self.on_sent.remove(sent)
            leader = source.removeprefix("node/")
            others = [node_id for node_id in self.owners if node_id != leader]
            rng.shuffle(others)
            self.cut_off(leader, others[reach:], 0.5, back=False)
            self.loop.later(rng.choice((0.001, 0.02, 0.05)), self._end_if_it_runs, leader)
            del target

        self.on_sent.append(sent)

    def _end_if_it_runs(self, node_id: str) -> None:
        if self.runs(node_id):
            self.end(node_id)

    async def _wipe_when_granted(self) -> None:
        """Wipe an owner just after it granted a promise."""

        def heard(what: str, source: str, _: str, body: Any) -> None:
            node_id = source.removeprefix("node/")
            if what == "answers" and isinstance(body, f.Promised) and body.granted and self._may_be_wiped(node_id):
                self.on_heard.remove(heard)
                self.loop.call_soon(self._wipe_and_restart, node_id)

        self.on_heard.append(heard)
        if self.rng.random() < 0.7 and (leader := self.leader()) is not None:
            self.freeze(leader, 1.0)

    def _may_be_wiped(self, node_id: str) -> bool:
        """Whether what it has acknowledged is with F others: only then may it be lost."""
        intact = [other for other in self.owners if other != node_id and other not in self.lossy]
        return not self.lossy and node_id in self.owners and len(intact) >= quorum(len(self.owners)) and not self.moving

    def _wipe_and_restart(self, node_id: str) -> None:
        if self._may_be_wiped(node_id):
            self.wipe(node_id)
            self.loop.later(self.rng.uniform(0.0, 0.3), self._start_again, node_id)

    def _start_again(self, node_id: str) -> None:
        if not self.runs(node_id):
            self.start(node_id)
            self.client.spawn(self.send_state(node_id))

    async def _bare_majority(self) -> None:
        """Let the next promise, and then the next records, reach a bare majority only."""
        rng = self.rng

        def sent(source: str, target: str, body: Any) -> None:
            del target
            if isinstance(body, f.Promise):
                self.on_sent.remove(sent)
                leader = source.removeprefix("node/")
                others = [node_id for node_id in self.owners if node_id != leader]
                rng.shuffle(others)
                self.cut_off(leader, others[quorum(len(self.owners)) - 1 :], rng.choice((0.3, 1.0)), back=False)

        self.on_sent.append(sent)
        if (leader := self.leader()) is not None:
            self.freeze(leader, rng.choice((0.7, 1.5)))

    async def _move(self) -> None:
        """Move the partition, perhaps with the leader asleep through all of it."""
        rng = self.rng
        if self.moving or self.lossy or not all(self.nodes[node_id].complete for node_id in self.owners):
            return
        present = list(self.state.ring.owners(self.partition))
        rest = [node_id for node_id in self.node_ids if node_id not in present[: self.settings.copies]]
        copies = present[: self.settings.copies]
        if rest:
            copies[rng.randrange(len(copies))] = rng.choice(rest)
        rng.shuffle(copies)
        if (leader := self.leader()) is not None and rng.random() < 0.4:
            self.freeze(leader, rng.choice((0.5, 2.0)))
        self.moving = True
        self.moved = self.client.spawn(self._moved(copies))

    async def _moved(self, owners: list[str]) -> None:
        """Take the steps that can be taken: each needs F of the old owners to know the one before (P4)."""
        await self.begin_move(owners)
        await self._until_enough_know()
        if await self._all_pulled(owners):
            self.state = moves.reading_new(self.state)
            await self._until_enough_know()
            self.state = moves.ended(self.state)
        else:
            self.state = moves.postpone(self.state)
        await self._until_enough_know()
        self.moving = False

    async def _all_pulled(self, owners: list[str]) -> bool:
        gaining = [node_id for node_id in owners[: self.settings.copies] if node_id not in self.owners]
        for node_id in gaining:
            if not await self.pull(node_id, 3):
                return False
        return True

    async def _until_enough_know(self) -> None:
        """Tell the state until enough know it; meanwhile nodes that have ended are started."""
        while True:
            await self._start_some(0.8)
            await self.spread()
            knowing = [
                node_id
                for node_id in self.node_ids
                if self.runs(node_id)
                and (state := self.nodes[node_id]._replica.state) is not None  # noqa: SLF001
                and state.epoch >= self.state.epoch
            ]
            if not moves.lacking(self.state, knowing):
                return
            await asyncio.sleep(0.3)

    async def _repair(self) -> None:
        """Let owners compare their copies, and forget what is dead."""
        for node_id in self.rng.sample(self.owners, 2):
            self.client.spawn(self.ask(node_id, f.Repair(self.partition, 2.0, purge=self.rng.random() < 0.5), 3.0))

    async def _clock_jump(self) -> None:
        """Let a clock jump, and stay right enough: what was sent half a grace ago is refused (P10)."""
        most_ms = min(1500.0, 100 * self.settings.gc_grace_s)
        self.hosts[self._victim()].skew_ms = self.rng.choice((-most_ms, -0.2 * most_ms, 0.2 * most_ms, most_ms))

    async def _full_disk(self) -> None:
        host = self.hosts[self._victim()]
        host.disk.space_bytes = self.rng.randrange(4000)
        self.loop.later(self.rng.uniform(0.3, 2.0), setattr, host.disk, "space_bytes", None)

    async def _start_some(self, share: float = 1.0) -> None:
        for node_id in self.node_ids:
            if not self.runs(node_id) and self.rng.random() < share:
                self.start(node_id)
                await self.send_state(node_id)
