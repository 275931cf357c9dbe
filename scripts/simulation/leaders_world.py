"""Owners of one partition of a linearizable bucket, callers that coordinate for themselves, and no supervisor.

The world of tests about leaders: real nodes and coordinators, faults that know who leads. Every call of every caller is
written down, and in the end one order has to explain them all (``change_checker``); ``Promises`` and ``LeaderWatch`` see
each frame. Nodes heal by themselves; moves of the partition are made by hand, step by step, as a supervisor makes them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.client.atomic import is_settled
from raykv.client.codecs import decode_value, encode_in_cells
from raykv.client.lanes import Lane
from raykv.cluster import moves
from raykv.cluster.peers import node_address
from raykv.cluster.state import Move
from raykv.config import quorum
from raykv.errors import RaykvError, WriteOutcomeUnknown
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.protocol.changes import cell as cell_of
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key
from simulation.change_checker import ChangeOp, check_changes
from simulation.copies_world import CopiesWorld, Settings

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Callable, Sequence

    from raykv.sim.kernel import VirtualLoop
    from simulation.change_checker import ChangeKind, ChangeOutcome, Value
    from simulation.history import Violation

TEXT, COUNTER, NUMBER, FENCED = "lr", "ln", "lm", "lf"
KINDS: dict[ChangeKind, int] = {
    "put": c.PUT, "delete": c.DELETE, "add": c.ADD, "max": c.MAXIMUM, "min": c.MINIMUM, "swap": c.SWAP,
}  # fmt: skip
_OUTCOMES: dict[int, ChangeOutcome] = {c.DONE: "ok", c.CONFLICT: "conflict", c.FENCED: "fenced", c.STALE: "unknown"}


class LeadersWorld(CopiesWorld):
    """One world; all keys are in one partition, ``self.partition``."""

    about = "with leaders"

    def __init__(self, loop: VirtualLoop, seed: str, rng: random_module.Random, settings: Settings) -> None:
        needed = quorum(settings.copies)
        settings = settings._replace(r=needed, w=needed, versioning="linearizable", mends=True)
        super().__init__(loop, seed, rng, settings)
        self.power_when_complete = 0.0
        self.partition = rng.randrange(self.store.partitions)
        self.keys = [self.key(letters) for letters in (TEXT, COUNTER, NUMBER, FENCED)]
        self.history: list[ChangeOp] = []
        self.callers: list[Caller] = []
        self.network.heard = self._heard
        self.network.sent = self._sent
        self.on_heard: list[Callable[[str, str, str, Any], None]] = []
        """Hear of each message from node to node or from coordinator to node: what, from, to, decoded body."""
        self.on_sent: list[Callable[[str, str, Any], None]] = []

    def key(self, letters: str, number: int = 0) -> str:
        """Return a key of the world's partition; the next of these for the next number."""
        found = [
            name
            for name in (f"{letters}{at}" for at in range(400))
            if partition_of_key(encode_key(name), self.store.partitions) == self.partition
        ]
        return found[number]

    @property
    def place(self) -> tuple[int, int]:
        """Return the partition, and the number of copies."""
        return self.partition, self.settings.copies

    @property
    def owners(self) -> tuple[str, ...]:
        """Return whom reads ask, in order."""
        return self.state.read_set(*self.place)

    def caller(self, name: str = "") -> Caller:
        """Return a new caller that knows the present state."""
        caller = Caller(self, name or f"coordinator{len(self.callers) + 2}")
        self.callers.append(caller)
        return caller

    def leader(self) -> str | None:
        """Return the node that believes that it leads, under the highest term; None if none does."""
        found = []
        for node_id, node in self.nodes.items():
            tenure = node._leaders._tenures.get(self.place) if node._leaders is not None else None  # noqa: SLF001
            if tenure is not None and self.runs(node_id):
                found.append((tenure.term, node_id))
        return max(found)[1] if found else None

    def followers(self) -> list[str]:
        """Return the other owners."""
        leader = self.leader()
        return [node_id for node_id in self.owners if node_id != leader]

    # ---- messages ----

    def _heard(self, what: str, source: str, target: str, frame: bytes) -> None:
        if what == "asks" and target.startswith("node/"):
            self.leaders.hear(frame)
        if self.on_heard:
            codec: Any = f.node_requests if what == "asks" else f.node_answers
            body = codec.decode(frame).body
            for hear in self.on_heard.copy():
                hear(what, source, target, body)

    def _sent(self, source: str, target: str, frame: bytes) -> None:
        if self.on_sent:
            body = f.node_requests.decode(frame).body
            for hear in self.on_sent.copy():
                hear(source, target, body)

    def cut_off(self, node_id: str, others: Sequence[str], for_s: float, *, to: bool = True, back: bool = True) -> None:
        """Let nothing pass from a node ``to`` these, or ``back``, for a while; names of nodes and of coordinators."""
        mine = node_address(node_id)
        for other in others:
            theirs = node_address(other) if other in self.node_ids else other
            for wanted, pair in ((to, (mine, theirs)), (back, (theirs, mine))):
                if wanted and mine != theirs:
                    self.network.cut(*pair)
                    self.loop.later(for_s, self.network.mend, *pair)

    def freeze(self, node_id: str, for_s: float) -> None:
        """Freeze a node for a while."""
        process = self.processes[node_id]
        if process.alive:
            process.freeze()
            self.loop.later(for_s, process.thaw)

    # ---- the cluster's state ----

    async def spread(self, *, nodes: Sequence[str] | None = None, callers: Sequence[Caller] | None = None) -> None:
        """Tell nodes and callers the present state (all, unless some are named)."""
        for caller in self.callers if callers is None else callers:
            self.publish(caller.coordinator)
        for node_id in self.node_ids if nodes is None else nodes:
            if self.runs(node_id) and not self.processes[node_id].frozen:
                await self.send_state(node_id)

    async def begin_move(self, owners: Sequence[str]) -> None:
        """Put the partition at step 1 of a move to these."""
        self.state = moves.begun(self.state, (Move(self.partition, tuple(owners)),))

    async def pull(self, node_id: str, tries: int = 8) -> bool:
        """Have a new owner pull what it gains, until it has all of it. False if it has not after so many tries."""
        for _ in range(tries):
            answer = await self.ask(node_id, f.PullPartition(self.partition, 15.0), 16.0)
            if isinstance(answer, f.Repaired) and not answer.figures.get("partial"):
                return True
            await asyncio.sleep(0.05)
        return False

    # ---- the end ----

    async def settle(self) -> None:
        """Start all nodes, change and read each key once more, and compare the owners' copies."""
        await self.start_all()
        await self.spread()
        deadline_s = self.loop.now_s + 60.0
        while waiting := [node_id for node_id in self.owners if not self.nodes[node_id].complete]:
            if self.loop.now_s > deadline_s:
                self.report("not made whole", f"{', '.join(waiting)}")
                return
            await asyncio.sleep(0.5)
        last = self.caller("coordinator-last")
        await self.spread(nodes=())
        for key in sorted({op.key for op in self.history}):
            for _ in range(20):
                op = await last.add(key, 1) if key[:2] in {COUNTER, NUMBER} else await last.put(key)
                if op.outcome == "ok":
                    break
                await asyncio.sleep(0.5)
            else:
                self.report("unwritable", f"{key} after all healed: {op.error}", key)
            await last.get(key, 5.0)
        for node_id in self.owners:
            await self.ask(node_id, f.Repair(self.partition, 5.0), 6.0)
        self.compare_copies()

    def compare_copies(self) -> None:
        """Compare what the owners hold of each key."""
        for key in sorted({op.key for op in self.history}):
            held = {}
            for node_id in self.owners:
                answer, _ = self.nodes[node_id]._replica.handle(f.Read(self.bucket_id, [encode_key(key)]))  # noqa: SLF001
                held[node_id] = answer.records[0] if isinstance(answer, f.ReadDone) else None
            if len({*held.values()}) > 1:
                shown = {node_id: record and record[:25].hex() for node_id, record in held.items()}
                self.report("copies differ", f"of {key}: {shown}", key)

    async def end_all(self) -> None:
        """End all processes."""
        for caller in self.callers:
            caller.process.kill()
        await super().end_all()

    def found(self) -> list[Violation]:
        """Return all that was seen to be wrong."""
        return [*self.violations, *check_changes(self.history), *self.leaders.broken, *self.promises.broken]


class Caller:
    """A client that coordinates for itself, one call at a time, each with a lane and a number (L10)."""

    def __init__(self, world: LeadersWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.process, self.coordinator = world.start_coordinator(name)
        self._rng = world.rng_for(name)
        self._lane = Lane(self._rng.randbytes)
        self._values = 0
        self.versions: dict[str, bytes] = {}
        """Key -> the last version that it was shown."""
        world.publish(self.coordinator)

    # ---- calls ----

    async def put(self, key: str, value: Value = None, timeout_s: float = 1.0, **asked: Any) -> ChangeOp:
        """Write a value, or the next one of this caller."""
        self._values += 1
        return await self.change("put", key, value or f"{self.name}.{self._values}", timeout_s, **asked)

    async def add(self, key: str, amount: int, timeout_s: float = 1.0, **asked: Any) -> ChangeOp:
        """Add to a number."""
        return await self.change("add", key, amount, timeout_s, **asked)

    async def delete(self, key: str, timeout_s: float = 1.0, **asked: Any) -> ChangeOp:
        """Delete a key."""
        return await self.change("delete", key, None, timeout_s, **asked)

    async def change(
        self,
        kind: ChangeKind,
        key: str,
        given: Value,
        timeout_s: float,
        *,
        condition: bytes | None = None,
        fence: int = 0,
        again_by: Caller | None = None,
        after_s: float = 0.1,
    ) -> ChangeOp:
        """Make a change. ``again_by``: another caller, whose coordinator gets it too after a while without an answer."""
        number = self._lane.next()
        payload = b""
        if given is not None:
            payload = encode_in_cells(given, "auto") if kind in {"put", "swap"} else cell_of(int(given))
        change = f.Change(encode_key(key), KINDS[kind], payload, self._lane.name, number, condition, fence)
        began_s = self.world.loop.now_s
        outcome: f.Settled | RaykvError = WriteOutcomeUnknown("the caller has ended", acks=[])
        try:
            outcome = await self._carry_out(change, timeout_s, again_by, after_s)
        finally:
            self._lane.settled = is_settled(outcome)
            op = self._note(kind, key, began_s, given, condition, fence, outcome)
        return op

    async def _carry_out(
        self, change: f.Change, timeout_s: float, again_by: Caller | None, after_s: float
    ) -> f.Settled | RaykvError:
        until_s = self.world.loop.now_s + timeout_s
        first = self.process.spawn(self._try(change, until_s))
        if again_by is None:
            return await first
        done, _ = await asyncio.wait({first}, timeout=after_s)
        if done and isinstance(first.result(), f.Settled):
            return first.result()
        resent = msgspec.structs.replace(change, resent=True)
        second = await again_by.process.spawn(again_by._try(resent, until_s))  # noqa: SLF001 - one of these
        if isinstance(second, f.Settled):
            return msgspec.structs.replace(second, unanswered=True)
        return WriteOutcomeUnknown(f"sent twice: {second}", acks=[])

    async def _try(self, change: f.Change, until_s: float) -> f.Settled | RaykvError:
        world = self.world
        changes = self.coordinator._changes  # noqa: SLF001 - not by way of a frame
        try:
            (outcome,) = await world.carry_out(changes.change(world.entry, [change], until_s), self.coordinator)
        except RaykvError as error:
            return error
        return outcome

    async def get(self, key: str, timeout_s: float = 1.0) -> ChangeOp:
        """Read a value, with its version."""
        world, began_s = self.world, self.world.loop.now_s
        outcome: f.Settled | RaykvError
        request = f.GetMany(world.bucket_id, [encode_key(key)], world.r, timeout_s, causality=True)
        try:
            steps = self.coordinator._changes.read(world.entry, request, began_s + timeout_s)  # noqa: SLF001
            got = await self.process.spawn(world.carry_out(steps, self.coordinator))
            (item,) = got.items
            if isinstance(item, f.Failed):
                outcome = item.error()
            else:
                whole = f.whole(item)
                outcome = f.Settled(c.DONE, whole.causality, whole.payloads[0] if whole.payloads else None)
        except RaykvError as error:
            outcome = error
        return self._note("get", key, began_s, None, None, 0, outcome)

    async def read_at_leader(self, key: str, timeout_s: float = 1.0) -> ChangeOp:
        """Read a value as its leader does, and not from a majority."""
        began_s = self.world.loop.now_s
        outcome = await self.process.spawn(self._try(f.Change(encode_key(key), c.READ), began_s + timeout_s))
        return self._note("get", key, began_s, None, None, 0, outcome)

    def _note(
        self,
        kind: ChangeKind,
        key: str,
        began_s: float,
        given: Value,
        condition: bytes | None,
        fence: int,
        outcome: f.Settled | RaykvError,
    ) -> ChangeOp:
        got: Value = None
        version: bytes | None = None
        error = ""
        if isinstance(outcome, f.Settled):
            told: ChangeOutcome = _OUTCOMES.get(outcome.status, "refused")
            got = None if outcome.payload is None else decode_value(outcome.payload, "auto")
            version = outcome.version if told != "unknown" else None
        else:
            told = "unknown" if isinstance(outcome, WriteOutcomeUnknown) and kind != "get" else "refused"
            error = f"{type(outcome).__name__}: {outcome}"
        op = ChangeOp(
            self.name, kind, key, began_s, self.world.loop.now_s, told, given=given, condition=condition, fence=fence,
            got=got, version=version, error=error,
        )  # fmt: skip
        if version:
            self.versions[key] = version
        self.world.history.append(op)
        return op


async def ended(world: LeadersWorld) -> LeadersWorld:
    """End a world, and let what is under way end."""
    with contextlib.suppress(RaykvError):
        await world.settle()
    await world.end_all()
    return world
