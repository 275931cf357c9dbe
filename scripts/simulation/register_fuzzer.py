"""Supervisors against each other over the cluster's state, and nothing else: a thousand takeovers where a run has one.

What P5 guards against needs several supervisors, promises, accepts and lost votes in one certain order. A run of a whole
cluster seldom comes to it; here only the register runs (the real one: ``supervision.register`` over real storage nodes
and their directories), with a few milliseconds of our time for several seconds of theirs. Supervisors are frozen, thawed
and killed, messages are late and lost, nodes are killed, wiped and rolled back, always a minority of them at once.

Every state that is handed out is watched. All of them, in the order of their numbers, must be one history: each has what
those before it had (a bucket, once created, is there or was dropped, and its id is nobody else's), one number has one
state, it is on a majority of the disks when it is handed out, and no node takes for dropped what nobody has dropped. In
the end all heals, and a last supervisor must be able to take over.
"""

from __future__ import annotations

import asyncio
import random as random_module
from itertools import pairwise
from typing import TYPE_CHECKING

from raykv.cluster.peers import node_address
from raykv.cluster.register import Register, Superseded, latest, missing_for_majority
from raykv.cluster.state import ClusterState, bucket_from_options, decode_state
from raykv.config import NodeConfig, StoreConfig, quorum
from raykv.errors import RaykvError
from raykv.ports import Host as HostFacts
from raykv.ports import Known
from raykv.protocol import frames as f
from raykv.records.keys import encode_key, storage_prefix
from raykv.sim.disk import SimDisk
from raykv.sim.host import SimClock
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.network import NetworkOdds, SimTransport
from raykv.supervision.founding import Plan, first_state
from simulation.bare_cluster import BareCluster
from simulation.disk_state import ballot_on_disk
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.node.node import StorageNode
    from raykv.sim.kernel import VirtualLoop

STORE_ID = "duel"
TAKES_OVER_AT_LAST_S = 30.0
_NEVER = (0, 0)
_SOME_KEY = encode_key("k")
_MANY = 8
"""With more buckets than these more are dropped than created: states are to stay small."""
_KINDS = ("kill", "power", "wipe", "roll back", "cut", "cut off", "freeze", "slow", "another", "another", "end")


def fuzz_register(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of its trace."""
    runner, loop = run_virtual(lambda loop: RegisterFuzzer(loop, f"duel {seed}.{number}").go())
    found = runner.violations + [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


class RegisterFuzzer(BareCluster):
    """Nodes, supervisors, what is done to them, and what is watched."""

    store_id = STORE_ID
    about = "of supervisors over the cluster's state"

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        self.rng = random_module.Random(seed)
        node_ids = [f"n{number + 1}" for number in range(self.rng.choice((3, 3, 3, 5)))]
        store = StoreConfig(name="duel", copies=3, partitions=8, durability="group")
        super().__init__(loop, seed, store, node_ids, ["supervisors"])
        self.incarnations = dict.fromkeys(self.node_ids, 0)
        self.kept: dict[str, tuple[SimDisk, int]] = {}
        """Copies of directories, to be brought back, each with the incarnation that it was made in.

        A copy that comes back in the incarnation in which it was made is indistinguishable from the directory itself,
        if nothing was written to the log since: a limit of the design.
        """
        self.lost: set[str] = set()
        """Nodes that have ever lost their register."""
        self.supervisors: list[Process] = []
        self.handed_out: dict[tuple[int, int], bytes] = {}
        self.states: list[ClusterState] = []
        self.dropped: set[int] = set()
        """The buckets that some state has dropped."""
        self.to_drop: set[str] = set()
        """Buckets that somebody has tried to drop."""
        self.network.odds = NetworkOdds(
            delay_s=self.rng.choice(((0.0005, 0.005), (0.001, 0.05), (0.01, 0.2))),
            late=self.rng.choice((0.0, 0.2)),
            late_s=self.rng.choice((0.5, 3.0)),
            lost=self.rng.choice((0.0, 0.1, 0.3)),
            repeated=self.rng.choice((0.0, 0.2)),
        )
        self.network.sent = self._sent

    async def go(self) -> RegisterFuzzer:
        """Run it."""
        rng = self.rng
        for node_id in self.node_ids:
            self._start_node(node_id)
        duration_s = rng.uniform(3.0, 10.0)
        nemesis = self.loop.create_task(self._nemesis(duration_s))
        for _ in range(rng.choice((1, 2, 2, 3))):
            self._another_supervisor()
        await nemesis
        await self._heal_and_take_over()
        return self

    async def _heal_and_take_over(self) -> None:
        self.network.odds = NetworkOdds()
        for pair in list(self.network.cuts):
            self.network.mend(*pair)
        for process in self.supervisors:
            process.kill()
        await asyncio.sleep(1.0)
        self._another_supervisor()
        await self._takes_over_at_last()
        self._check_history()
        for process in [*self.supervisors, *self.processes.values()]:
            process.kill()
        await asyncio.sleep(1.0)

    # ---- nodes ----

    def _start_node(self, node_id: str) -> None:
        last = self.incarnations[node_id]
        node = self.open(node_id, NodeConfig(memtable_bytes=4096), self.rng, fresh=not last, known=Known(last))
        self.incarnations[node_id] = node.incarnation

        async def serve(frame: bytes) -> bytes:
            answer = await node.serve(frame)
            self._check_dropped(node_id, node)
            return answer

        self.network.register(self.processes[node_id], serve)

    def _restart(self, node_id: str, disk: SimDisk | None = None) -> None:
        """End the node's process and start it again, perhaps on another disk."""
        self.processes[node_id].kill()
        if disk is not None:
            self.hosts[node_id].replace_disk(disk)
        self.loop.later(self.rng.choice((0.01, 0.01, 0.1, 0.5)), self._start_again, node_id)

    def _start_again(self, node_id: str) -> None:
        if not self.processes[node_id].alive:
            self._start_node(node_id)

    def _may_lose(self, node_id: str) -> bool:
        """Whether this one may lose its register now: a majority has to keep theirs, all the time."""
        without = [
            other for other in self.node_ids
            if other != node_id and (not self.processes[other].alive or not self.nodes[other].identity["votes"])
        ]  # fmt: skip
        return len(self.node_ids) - len(without) - 1 >= quorum(len(self.node_ids))

    # ---- supervisors ----

    def _another_supervisor(self) -> None:
        process = Process(self.loop, f"supervisor{len(self.supervisors) + 1}")
        self.supervisors.append(process)
        self.trace.note("starts", process.name)
        process.spawn(self._supervise(process))

    async def _supervise(self, process: Process) -> None:
        """Do with the register what a supervisor does, until another takes over."""
        clock = SimClock(self.hosts["supervisors"], process)
        register = Register(SimTransport(self.network, process), clock)
        while register.state is None:
            try:
                await self._take_over(register)
            except (RaykvError, Superseded):
                await clock.sleep(0.3)
        changing = asyncio.Lock()
        work = (self._change(register, process, changing), self._greet(register, clock, changing))
        tasks = [process.spawn(each) for each in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        self.trace.note("is superseded", process.name)

    async def _change(self, register: Register, process: Process, changing: asyncio.Lock) -> None:
        """Create and drop buckets."""
        made, most_s = 0, self.rng.choice((0.1, 0.5, 1.0))
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, most_s))
            made += 1
            options = bucket_from_options(f"b{process.name[10:]}.{made}", {}, 3)
            try:
                async with changing:
                    state = register.state
                    assert state is not None
                    dropped = None
                    if state.buckets and self.rng.random() < (0.3 if len(state.buckets) < _MANY else 0.7):
                        dropped = self.rng.choice(state.buckets).config.name
                        self.to_drop.add(dropped)
                    await register.accept(
                        state.with_bucket(options) if dropped is None else state.without_bucket(dropped)
                    )
            except Superseded:
                return
            except RaykvError:
                continue

    async def _greet(self, register: Register, clock: SimClock, changing: asyncio.Lock) -> None:
        """Bring nodes up to date, those first that have just started."""
        greeted: dict[str, int] = {}
        while True:
            await clock.sleep(self.rng.choice((0.02, 0.1, 0.3)))
            new = [node_id for node_id in self.node_ids if self.incarnations[node_id] > greeted.get(node_id, 0)]
            node_id = self.rng.choice(new or self.node_ids)
            greeted[node_id] = self.incarnations[node_id]
            try:
                if not await register.bring_up_to_date(node_id):
                    async with changing:
                        assert register.state is not None
                        await register.accept(register.state)
            except Superseded:
                return
            except RaykvError:
                continue

    async def _take_over(self, register: Register) -> None:
        answers = await register.read(self.node_ids)
        state = latest(answers)
        if state is None:
            first = first_state(
                Plan(store=self.store, nodes=len(self.node_ids), weights=(1.0,) * len(self.node_ids)),
                STORE_ID,
                [HostFacts(name=node_id) for node_id in self.node_ids],
            )
            await register.found(first, answers)
        elif not missing_for_majority(state, answers):
            if self.rng.random() < 0.3:
                await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            await register.take_over(answers)

    async def _takes_over_at_last(self) -> None:
        before, deadline_s = max(self.handed_out, default=_NEVER), self.loop.now_s + TAKES_OVER_AT_LAST_S
        while max(self.handed_out, default=_NEVER) == before:
            if self.loop.now_s > deadline_s:
                self.report("never served", f"nobody took over within {TAKES_OVER_AT_LAST_S:g} s after all healed")
                return
            await asyncio.sleep(0.1)

    # ---- faults ----

    async def _nemesis(self, duration_s: float) -> None:
        rng = self.rng
        kinds = rng.sample(_KINDS, 6)
        every_s = rng.choice((0.25, 0.25, 1.0))
        script = rng.choice((None, self._usurp, self._usurp, self._usurp, self._stumble))
        if script is not None:
            every_s, duration_s = rng.choice((0.5, 3.0)), 8.0
            if rng.random() < 0.7:  # many messages have to arrive for it
                self.network.odds = NetworkOdds(delay_s=(0.0005, 0.005))
            self.loop.later(rng.uniform(0.8, 3.0), script)
        while self.loop.now_s < duration_s:
            await asyncio.sleep(rng.expovariate(1 / every_s))
            node_id, kind = rng.choice(self.node_ids), rng.choice(kinds)
            self.trace.note(f"fault: {kind}", node_id)
            if rng.random() < 0.5:
                self._keep_copy(node_id)
                if rng.random() < 0.5:
                    self._restart(node_id)
            getattr(self, f"_do_{kind.replace(' ', '_')}")(node_id)

    def _do_kill(self, node_id: str) -> None:
        self._restart(node_id)

    def _do_power(self, node_id: str) -> None:
        self._restart(node_id, self.hosts[node_id].disk.crash(self.rng, "random"))

    def _do_wipe(self, node_id: str) -> None:
        if self._may_lose(node_id):
            self.lost.add(node_id)
            self._restart(node_id, SimDisk())

    def _keep_copy(self, node_id: str) -> None:
        copy = self.hosts[node_id].disk.crash(random_module.Random(0), "keep")
        self.kept[node_id] = (copy, self.incarnations[node_id])

    def _do_roll_back(self, node_id: str) -> None:
        copy, incarnation = self.kept.get(node_id, (None, 1 << 30))
        if incarnation < self.incarnations[node_id] and self._may_lose(node_id):
            self.lost.add(node_id)
            del self.kept[node_id]
            self._restart(node_id, copy)

    def _do_cut(self, node_id: str) -> None:
        pair = (self.rng.choice(self.supervisors).name, node_address(node_id))
        if self.rng.random() < 0.5:
            pair = (pair[1], pair[0])
        self.network.cut(*pair)
        self.loop.later(self.rng.uniform(0.1, 2.0), self.network.mend, *pair)

    def _do_cut_off(self, _: str) -> None:
        """Cut many of the links of a supervisor, some of them in one direction only."""
        name, for_s = self.rng.choice(self.supervisors).name, self.rng.uniform(0.5, 3.0)
        for address in map(node_address, self.node_ids):
            for pair in ((name, address), (address, name)):
                if self.rng.random() < 0.4:
                    self.network.cut(*pair)
                    self.loop.later(for_s, self.network.mend, *pair)

    def _usurp(self) -> None:
        """Begin the schedule in ``cluster.acceptor``: between promise and store one promise is lost.

        The new supervisor reaches one half of the nodes and ``lost``, slowly; those before it the other half and ``lost``.
        """
        rng, network = self.rng, self.network
        lost, *others = rng.sample(self.node_ids, len(self.node_ids))
        mine, theirs = others[: len(others) // 2], others[len(others) // 2 :]
        former = [process.name for process in self.supervisors]
        slow_s = rng.uniform(0.1, 0.8)
        pairs = [(name, node_address(node_id)) for name in former for node_id in mine]
        pairs += [(f"supervisor{len(former) + 1}", node_address(node_id)) for node_id in theirs]
        for pair in pairs:
            network.cut(*pair)
            self.loop.later(rng.uniform(7, 12) * slow_s, network.mend, *pair)
        network.slow[f"supervisor{len(former) + 1}"] = slow_s
        self.loop.later(12 * slow_s + 1.0, network.slow.__setitem__, f"supervisor{len(former) + 1}", 0.0)
        self._another_supervisor()
        self.loop.later(rng.uniform(2.8, 5) * slow_s, rng.choice((self._do_wipe, self._do_roll_back)), lost)

    def _stumble(self) -> None:
        """Let a change fail on all but one node, the next succeed on all but that one, and somebody take over."""
        one, *others = map(node_address, self.rng.sample(self.node_ids, len(self.node_ids)))
        name, fails_s, goes_on_s = self.supervisors[-1].name, self.rng.uniform(0.5, 2.5), self.rng.uniform(2.0, 4.0)
        for other in others:
            self.network.cut(name, other)
            self.loop.later(fails_s, self.network.mend, name, other)
        self.loop.later(fails_s, self.network.cut, name, one)
        self.loop.later(fails_s + goes_on_s, self.network.mend, name, one)
        self.loop.later(fails_s + self.rng.uniform(0.5, goes_on_s), self._another_supervisor)

    def _do_freeze(self, node_id: str) -> None:
        process = self.rng.choice([*self.supervisors, self.processes[node_id]])
        if process.alive:
            process.freeze()
            self.loop.later(self.rng.uniform(0.05, 2.0), process.thaw)

    def _do_slow(self, _: str) -> None:
        """Let everything from and to a supervisor take long: what it was promised is old when it stores."""
        name = self.rng.choice(self.supervisors).name
        self.network.slow[name] = self.rng.uniform(0.1, 1.0)
        self.loop.later(self.rng.uniform(0.5, 3.0), self.network.slow.__setitem__, name, 0.0)

    def _do_another(self, _: str) -> None:
        if len(self.supervisors) < 8:
            self._another_supervisor()

    def _do_end(self, _: str) -> None:
        self.rng.choice(self.supervisors).kill()
        if not any(process.alive for process in self.supervisors):
            self._another_supervisor()

    # ---- what is watched ----

    def _sent(self, source: str, target: str, frame: bytes) -> None:
        del source
        if target.startswith("node/"):
            body = f.node_requests.decode(frame).body
            if isinstance(body, f.AcceptState) and body.decided:
                self._hand_out(body.state)

    def _hand_out(self, data: bytes) -> None:
        state = decode_state(data)
        known = self.handed_out.get(state.ballot)
        if known is not None:
            if known != data:
                self.report("two states", f"two states bear the number {state.ballot}")
            return
        self.handed_out[state.ballot] = data
        self.states.append(state)
        self.dropped.update({*range(state.next_bucket_id)}.difference(entry.bucket_id for entry in state.buckets))
        holding = [
            node_id
            for node_id in self.node_ids
            if node_id in self.lost or ballot_on_disk(self.hosts[node_id].disk) >= state.ballot
        ]
        if len(holding) < quorum(len(self.node_ids)):
            self.report("handed out too early", f"state {state.ballot} is on {holding} of {self.node_ids} only")

    def _check_dropped(self, node_id: str, node: StorageNode) -> None:
        """Compare what the node's compactions would leave out with what was dropped."""
        drop = node._engine.drop  # noqa: SLF001
        if drop is None:
            return
        given = max((state.next_bucket_id for state in self.states), default=1)
        for bucket_id in range(given + 1):
            if bucket_id not in self.dropped and drop.covers(storage_prefix(0, bucket_id) + _SOME_KEY):
                self.report("dropped unasked", f"{node_id} takes bucket {bucket_id} for dropped, and nobody dropped it")
                return

    def _check_history(self) -> None:
        states = sorted(self.states, key=lambda state: state.ballot)
        for before, after in pairwise(states):
            had = {entry.bucket_id: entry.config.name for entry in before.buckets}
            has = {entry.bucket_id: entry.config.name for entry in after.buckets}
            for bucket_id in range(before.next_bucket_id):
                if bucket_id in has and had.get(bucket_id) != has[bucket_id]:
                    now, then = f"{has[bucket_id]!r} in {after.ballot}", f"{had.get(bucket_id)!r} in {before.ballot}"
                    self.report("two histories", f"bucket {bucket_id} is {now}, was {then}")
                    return
            missing = [
                had[bucket_id] for bucket_id in had if bucket_id not in has and had[bucket_id] not in self.to_drop
            ]
            if after.next_bucket_id < before.next_bucket_id or missing:
                self.report("two histories", f"state {after.ballot} does not know {missing} of {before.ballot}")
                return
