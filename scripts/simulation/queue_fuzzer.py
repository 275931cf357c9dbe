"""A whole cluster with one work queue: producers, consumers that die and stand still, faults at its shards' leaders.

The claims and leases of a queue are kept by its clients, so half of what goes wrong happens to these. At the end all heals,
and a last consumer takes what is left: then each job that was put is done or a dead letter, and each only once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
from typing import TYPE_CHECKING

from raykv.client import shards
from raykv.client.queue_books import QUEUES
from raykv.client.shards import Book
from raykv.config import KIB, NodeConfig, StoreConfig
from raykv.errors import RaykvError, WriteOutcomeUnknown
from raykv.sim.cluster import DIRECT, Cluster, ClusterSpec
from raykv.sim.faults import Fault
from raykv.sim.kernel import Process, ProcessEnded, run_virtual
from raykv.sim.network import NetworkOdds
from simulation.history import Violation
from simulation.leader_families import draw_leader_faults
from simulation.leader_nemesis import LeaderNemesis
from simulation.queue_checker import Delivery, PutOp, check_queue

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from raykv.client.aio_queue import AsyncQueue
    from raykv.client.queues import Job
    from raykv.sim.kernel import VirtualLoop
    from simulation.queue_checker import PutOutcome

NAME = "jobs"
LASTS_S = 8.0
CLIENTS_DONE_S = 60.0
DRAINED_S = 120.0
LAST_LEASE_S = 5.0
SLOT_NAME_CHARS = 5


def fuzz_queue(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of its trace."""
    name = f"queue {seed}.{number}"
    usual = shards.RING
    shards.RING = random_module.Random(f"ring of {name}").choice((usual, usual, 32))  # the keys of slots come round
    try:
        runner, loop = run_virtual(lambda loop: _Fuzzer(loop, name).go())
    finally:
        shards.RING = usual
    found = runner.found()
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.cluster.trace.hexdigest()


class _QueueNemesis(LeaderNemesis):
    bucket = QUEUES


class _Fuzzer:
    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        rng = self.rng = random_module.Random(seed)
        self.loop = loop
        self.lease_s = rng.choice((0.4, 1.0, 3.0))
        self.max_deliveries = rng.choice((2, 3, 100, 100))
        self.shards = rng.choice((1, 1, 2, 3))
        store = StoreConfig(name="sim", copies=3, partitions=8, durability="group")
        config = NodeConfig(memtable_bytes=16 * KIB, max_unflushed_bytes=128 * KIB, block_bytes=1024)
        self.cluster = Cluster(
            loop, ClusterSpec(store=store, nodes=rng.choice((3, 3, 4)), coordinators=2, config=config), seed
        )
        rough = rng.random() < 0.5
        self.cluster.network.odds = NetworkOdds(
            delay_s=rng.choice(((0.0002, 0.002), (0.001, 0.02))),
            late=rng.choice((0.0, 0.1)) if rough else 0.0,
            late_s=rng.choice((0.3, 2.0)),
            lost=rng.choice((0.0, 0.05)) if rough else 0.0,
            repeated=rng.choice((0.0, 0.1)) if rough else 0.0,
        )
        keys = [f"{NAME}:{shard}/b" for shard in range(self.shards + 1)]
        faults = draw_leader_faults(rng, self.cluster.node_ids, LASTS_S, keys, ring=rng.random() < 0.3)
        if rng.random() < 0.2:
            faults = ()
        faults += tuple(
            Fault(round(rng.uniform(1.0, LASTS_S), 3), "kill coordinator", rng.choice(self.cluster.coordinator_names))
            for _ in range(rng.choice((0, 0, 2, 6)))
        )
        self.nemesis = _QueueNemesis(self.cluster, sorted(faults, key=lambda fault: fault.at_s))
        self.puts: list[PutOp] = []
        self.deliveries: list[Delivery] = []
        self.names: list[str] = []
        self.certain: set[str] = set()
        """Ids of jobs that a call which failed had put."""
        self.dead: dict[str, int] = {}
        self.finished: dict[str, list[tuple[Job[str], Delivery]]] = {}
        """Client -> the jobs that it acks with its next claim."""
        self.drained = False
        self.violations: list[Violation] = []

    async def go(self) -> _Fuzzer:
        """Run it."""
        self.cluster.start()
        rng = self.rng
        clients = [Process(self.loop, f"producer-{number}") for number in range(rng.randint(1, 3))]
        consumers = [Process(self.loop, f"consumer-{number}") for number in range(rng.randint(2, 4))]
        running = [process.spawn(self._client(process, self._produce)) for process in clients]
        running += [process.spawn(self._client(process, self._consume)) for process in consumers]
        self._trouble([*clients, *consumers])
        await self.nemesis.run()
        await asyncio.sleep(max(0.0, LASTS_S - self.loop.now_s))
        self.nemesis.heal()
        _, late = await asyncio.wait(running, timeout=CLIENTS_DONE_S)
        for task in late:
            self._report("not done", f"{task.get_coro()} is still waiting {CLIENTS_DONE_S:g} s after all healed")
            task.cancel()
        for task in running:
            error = task.exception() if task.done() and not task.cancelled() else None
            if error is not None and not isinstance(error, ProcessEnded):
                self._report("client failed", repr(error))
        last = Process(self.loop, "consumer-last")
        try:
            await last.spawn(self._drain(last))
        except Exception as error:  # noqa: BLE001 - whatever ends it is a finding
            self._report("client failed", repr(error))
        await self.cluster.stop()
        await asyncio.sleep(3.0)
        return self

    def found(self) -> list[Violation]:
        """Return all that was wrong."""
        delivered = {each.job_id for each in self.deliveries} | {*self.dead}
        lost = sorted(self.certain - delivered) if self.drained else []
        self.violations += [Violation("job lost", "", f"{job_id} was put, as an error said", 0.0) for job_id in lost]
        return self.violations + check_queue(
            self.puts, self.deliveries, self.dead, self.max_deliveries, drained=self.drained
        )

    def _report(self, rule: str, text: str) -> None:
        self.violations.append(Violation(rule, "", text, self.loop.now_s))

    def _trouble(self, clients: list[Process]) -> None:
        """Let some clients stand still for a while, and some die."""
        for process in clients:
            if self.rng.random() < 0.3:
                self.loop.later(self.rng.uniform(1.0, LASTS_S), process.kill)
            if self.rng.random() < 0.5:
                at_s, for_s = self.rng.uniform(1.0, LASTS_S), self.rng.choice((0.2, self.lease_s, 2 * self.lease_s))
                self.loop.later(at_s, process.freeze)
                self.loop.later(at_s + for_s, process.thaw)

    # ---- clients ----

    async def _client(self, process: Process, work: Any) -> None:
        rng = random_module.Random(f"{self.cluster.spec.nodes} {process.name} {self.rng.random()}")
        coordinator = rng.choice((DIRECT, *self.cluster.coordinator_names))
        queue = await self._queue(process, coordinator, self.lease_s)
        while self.loop.now_s < LASTS_S:
            await asyncio.sleep(rng.expovariate(1 / rng.choice((0.003, 0.05, 0.3))))
            await work(process.name, queue, rng)

    async def _queue(self, process: Process, coordinator: str, lease_s: float) -> AsyncQueue[str]:
        store = await self.cluster.connect(process, coordinator)
        return store.queue(NAME, lease=lease_s, max_deliveries=self.max_deliveries, shards=self.shards)

    async def _produce(self, client: str, queue: AsyncQueue[str], rng: random_module.Random) -> None:
        many = rng.choice((1, 1, 1, 3, 20))
        values = [f"{client}.{len(self.puts) + number}" + "." * rng.choice((0, 0, 300)) for number in range(many)]
        delay_s = rng.choice((0.0, 0.0, 0.0, 0.5))
        if many > 1:
            due_s = self.loop.now_s + delay_s if delay_s else 0.0
            ids: list[str] = []
            outcome: PutOutcome = "unknown"
            try:
                ids = await queue.put_many(values, delay=delay_s, timeout=rng.choice((1.0, 5.0)))
                outcome = "ok"
            except RaykvError as error:
                self.certain |= {*error.details.get("put", ())}
            finally:
                for number, value in enumerate(values):
                    self._note_put(client, value, outcome, ids[number] if ids else "", due_s)
            return
        if rng.random() < 0.4:
            if self.names and rng.random() < 0.4:  # an old one: it may be done by now, and its slot free
                values = [rng.choice(self.names)]
            self.names.append(values[0])
            await self._put_once(client, queue, values[0], delay_s, rng)
            return
        putting = queue.put(values[0], timeout=rng.choice((0.5, 2.0)), delay=delay_s)
        await self._put(client, values[0], putting, delay_s)

    async def _put_once(
        self, client: str, queue: AsyncQueue[str], value: str, delay_s: float, rng: random_module.Random
    ) -> None:
        """Put one job under its name, as often as it takes, and now and then once more."""
        for _ in range(4):
            put = queue.put(value, timeout=rng.choice((0.5, 2.0)), delay=delay_s, once=value)
            if await self._put(client, value, put, 0.0) and rng.random() < 0.7:
                return

    async def _put(self, client: str, value: str, putting: Coroutine[Any, Any, str], delay_s: float) -> bool:
        due_s = self.loop.now_s + delay_s if delay_s else 0.0
        outcome: PutOutcome = "unknown"
        job_id = ""
        try:
            job_id = await putting
            outcome = "ok"
        except WriteOutcomeUnknown:
            pass
        except RaykvError:
            outcome = "refused"
        finally:
            self._note_put(client, value, outcome, job_id, due_s)
        return bool(job_id)

    def _note_put(self, client: str, value: str, outcome: PutOutcome, job_id: str, due_s: float) -> None:
        self.puts.append(PutOp(client, value, outcome, job_id, self.loop.now_s, due_s))

    async def _consume(self, client: str, queue: AsyncQueue[str], rng: random_module.Random) -> None:
        asked_s, wait_s = self.loop.now_s, rng.choice((0.0, 0.0, 0.5))
        done = self.finished.pop(client, [])
        for _, each in done:
            each.settling_s, each.settled = asked_s, "ack unknown"
        try:
            jobs = await queue.claim(
                rng.choice((1, 2, 10)), wait=wait_s, timeout=rng.choice((0.5, 2.0)), done=[job for job, _ in done]
            )
        except RaykvError:
            return
        held = [(job, self._note_delivery(client, job, self.lease_s, asked_s)) for job in jobs]
        if not held:
            return
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.05, 0.3 * self.lease_s, 1.5 * self.lease_s)))
        if rng.random() < 0.2:
            began_s = self.loop.now_s
            with contextlib.suppress(RaykvError):
                if await queue.renew(jobs, timeout=1.0):
                    for _, each in held:
                        each.held_since_s = began_s
            await asyncio.sleep(0.7 * self.lease_s)
        if rng.random() < 0.2:
            self.finished[client] = held
            return
        rng.shuffle(held)
        cut = rng.choice((0, len(held), len(held), rng.randint(0, len(held))))
        await self._settle(queue, held[:cut], ack=True)
        if rng.random() < 0.6:
            await self._settle(queue, held[cut:], ack=False, delay_s=rng.choice((0.0, 0.0, 0.3)))

    def _note_delivery(self, client: str, job: Job[str], lease_s: float, asked_s: float) -> Delivery:
        each = Delivery(client, job.value, job.id, job.deliveries, asked_s, lease_s, asked_s, self.loop.now_s)
        self.deliveries.append(each)
        return each

    async def _settle(
        self, queue: AsyncQueue[str], held: list[tuple[Job[str], Delivery]], *, ack: bool, delay_s: float = 0.0
    ) -> None:
        if not held:
            return
        jobs = [job for job, _ in held]
        due_s = self.loop.now_s + delay_s if delay_s else 0.0
        for _, each in held:
            each.settling_s = self.loop.now_s
            each.settled = "ack unknown" if ack else "nacked"
        try:
            done = await (queue.ack(jobs, timeout=1.0) if ack else queue.nack(jobs, delay=delay_s, timeout=1.0))
        except RaykvError:
            return
        now_s = self.loop.now_s
        if ack and not done and now_s <= min(each.held_since_s + each.lease_s for _, each in held):
            self._report("not held in its lease", "; ".join(each.told() for _, each in held))
        for _, each in held:
            each.settled_s = now_s
            each.due_s = due_s if done else 0.0
            if ack and (done or len(held) == 1):  # False of several does not say which
                each.settled = "acked" if done else "ack refused"

    # ---- the end ----

    async def _drain(self, process: Process) -> None:
        """Take all that is left, put one more job, take that, and compare the figures."""
        queue = await self._queue(process, DIRECT, LAST_LEASE_S)
        figures = await self._take_all(queue)
        if await self._put("last", "last", queue.put("last", timeout=60.0), 0.0):
            figures = await self._take_all(queue)
        elif not self.dead:  # a dead letter may hold up the slot whose turn it is
            self._report("no put", f"nothing can be put after all healed: {figures}")
        if self.drained and (figures["put"] != figures["done"] + figures["dead"] or figures["dead"] != len(self.dead)):
            self._report("figures", f"all is done or dead: {figures}, {len(self.dead)} dead letters")
        await asyncio.sleep(3.0)  # what was late has come
        try:
            await self._look_for_left_slots(process)
        except RaykvError as error:
            self._report("unreadable", f"after all healed: {error}")

    async def _take_all(self, queue: AsyncQueue[str]) -> dict[str, Any]:
        """Take and ack what is left, and wait for what others hold. Return the figures."""
        until_s = self.loop.now_s + DRAINED_S
        figures: dict[str, Any] = {}
        self.drained = False
        while self.loop.now_s < until_s:
            asked_s = self.loop.now_s
            with contextlib.suppress(RaykvError):
                jobs = await queue.claim(100, timeout=5.0)
                held = [(job, self._note_delivery("last", job, LAST_LEASE_S, asked_s)) for job in jobs]
                await self._settle(queue, held, ack=True)
                figures = {**await queue.stats()}
                if not figures["waiting"] + figures["claimed"]:
                    self.dead = {job.id: job.deliveries for job in await queue.dead(10_000)}
                    self.drained = True
                    return figures
            await asyncio.sleep(0.2)
        self._report("not drained", f"{DRAINED_S:g} s after all healed: {figures}")
        return figures

    async def _look_for_left_slots(self, process: Process) -> None:
        """Compare the slots with the books: one that no book knows would stay for ever."""
        store = await self.cluster.connect(process, DIRECT)
        books: dict[str, Book] = {}
        slots: list[tuple[str, int]] = []
        async for key, value in (await store.bucket(QUEUES)).scan(prefix=f"{NAME}:"):
            shard, _, what = str(key).partition("/")
            if what == "b":
                books[shard] = Book.of(value, NAME)
            elif len(what) == SLOT_NAME_CHARS:
                slots.append((shard, shards.slot_of(value, NAME).seq))
        for shard, seq in slots:
            book = books.get(shard, Book())  # none: what was late has come just now
            if seq not in book.freed and not book.refers_to(seq):
                self._report("a slot is left", f"{shard}/{seq} holds no job that is to be done, and nobody removes it")
