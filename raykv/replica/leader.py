"""Leaders of linearizable buckets: one node's part, for all partitions that it leads (L1 to L14).

An owner leads a (partition, n) under a *term* that F = n // 2 + 1 of its owners have promised, and only while changes come
in: no heartbeat, no lease. A change is evaluated on the leader's *head* of its key, at once and in order; then one *round*
sends the record of each changed head to the owners, and what F of them hold durably is acknowledged (L6). Rounds of one
partition follow each other, those of all partitions that are due in one turn of the loop leave together, one message for
each owner; so 64 callers of one key share a round, and one fdatasync.

Whatever is answered waits for the first round that begins after it was evaluated, whether or not it has changed anything:
a superseded leader learns there that it is one, and no value is shown that F owners do not hold (L7). A round includes all
heads that are not acknowledged yet, hence what a read or a conflict has seen.

A leader that is refused drops its heads, points to its successor, and never goes on under that term (L1, L14).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from raykv.cluster.fanout import RETRY_S
from raykv.config import MAX_BATCH_ITEMS, MIB
from raykv.errors import CorruptData, StoreClosed
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.limits import MAX_CHANGE_S
from raykv.records.linear_record import Receipt
from raykv.records.record import stamp_of
from raykv.replica.applying import Effect, Head, effect
from raykv.replica.hints import HintsFull
from raykv.replica.lanes import Lanes
from raykv.replica.looking import Looking
from raykv.replica.owners import Owners
from raykv.replica.takeover import Takeovers
from raykv.replica.tenure import Answers, Owned, Round, Tenure, Waiter
from raykv.replica.turns import Turns
from raykv.storage import DiskFull, EngineFailed
from raykv.versions import time_from_ms

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from raykv.cluster.peers import Peers
    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock, Metrics
    from raykv.replica.handlers import Replica
    from raykv.replica.hints import HintStore
    from raykv.replica.lanes import Lane
    from raykv.replica.tenure import Place

logger = logging.getLogger("raykv.node")

MAX_HEADS = 100_000
MAX_HEADS_BYTES = 64 * MIB
ACCEPT_BYTES = 4 * MIB
"""A round that has more is sent in several messages."""
ROUND_RETRY_S = 0.1
DRIFT = 0.02
"""By which clocks may run apart at the most."""
LONGEST_LEFT_S = 600.0
"""A sender that says more is not believed."""
HAND_OVER_S = 5.0
"""How long another owner may take to lead what this node has led."""


class Leaders:
    """The partitions that one run of a node leads."""

    def __init__(
        self,
        node_id: str,
        run: int,
        *,
        replica: Replica,
        hints: HintStore,
        peers: Peers,
        clock: Clock,
        metrics: Metrics,
        random: random_module.Random,
        durable: Callable[[int], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """``durable(position)`` waits for the log; ``spawn(work)`` runs it in the background, as part of the node."""
        self._node_id = node_id
        self._run = run
        self._replica = replica
        self._hints = hints
        self._clock = clock
        self._metrics = metrics
        self._spawn = spawn
        self._most_s = min(MAX_CHANGE_S, replica.grace_ms / 1000 / 4)
        self._owners = Owners(node_id, replica=replica, peers=peers, clock=clock, durable=durable, spawn=spawn)
        self._takeovers = Takeovers(
            node_id, replica=replica, owners=self._owners, clock=clock, random=random, durable=durable,
            leads=self._leads, begin=self._begin,
        )  # fmt: skip
        self._tenures: dict[Place, Tenure] = {}
        self._lanes = Lanes(clock)
        self._turns = Turns(clock)
        self._due: dict[Place, Tenure] = {}
        self._leaving = False
        self._heads = 0
        self._heads_bytes = 0
        self._stopped = False
        self._owned_by: ClusterState | None = None
        self._owned_places: dict[Place, Owned] = {}
        replica.voter.is_head = self._is_head
        replica.end_terms = self._end_terms

    @property
    def leading(self) -> int:
        """The number of places, (partition, n), that this run leads."""
        return sum(map(self._leads, [*self._tenures]))  # a look ends those that were superseded

    # ---- a request ----

    async def apply(self, request: f.Apply) -> f.NodeAnswerBody:
        """Answer ``Apply``."""
        now_s, items = self._clock.monotonic_s(), request.items
        left_s = request.expires_s - now_s
        if request.run != self._run or left_s <= 0:
            return f.Applied([f.Settled(c.LATE)] * len(items), self._run, now_s)
        if not left_s <= self._most_s + 1.0:  # no number either
            return f.NodeRefused(
                "corrupt", f"a change may take {self._most_s:g} s at most, for its receipt to outlive it"
            )
        config = self._replica.config_of(request.bucket_id)
        if config is None:
            return f.NodeRefused("not yet", f"this node knows of no bucket {request.bucket_id}")
        if config.versioning != "linearizable":
            return f.NodeRefused("corrupt", "the bucket is not linearizable")
        if self._stopped:
            return f.Applied([f.Settled(c.UNABLE)] * len(items), self._run, now_s)
        if self._lanes.full:
            return f.NodeRefused("overloaded", "the node keeps the results of as many lanes as it can")
        answers = Answers(len(items))
        try:
            async with self._clock.timeout(left_s):
                await self._carry_out(request, config.n, self._kept_until_s(request, now_s), answers)
                await answers.complete()
        except TimeoutError:
            pass
        except (CorruptData, DiskFull) as error:
            logger.debug("node %s: %s", self._node_id, error)
        finally:
            answers.over = True
        settled = [f.Settled(c.NO_QUORUM) if each is None else each for each in answers.settled]
        return f.Applied(settled, self._run, self._clock.monotonic_s())

    def _kept_until_s(self, request: f.Apply, now_s: float) -> float:
        """Return until when receipts of a request are kept (L12).

        *Schedule for its own deadline: the answer that told of A's clock came late, so A is given an early one. A makes
        the change, its answer is lost, and the receipt goes with the key's next change. B, whose clock is known better,
        is asked again in time: it leads, finds no receipt, and makes the change anew.*
        """
        left_s = request.left_s * (1 + DRIFT) if 0 < request.left_s <= LONGEST_LEFT_S else self._most_s
        return max(request.expires_s, now_s + left_s)

    async def _carry_out(self, request: f.Apply, n: int, kept_until_s: float, answers: Answers) -> None:
        """Lead, look up and evaluate what is asked for; what has to wait for a round is expected in ``answers``."""
        settled, items = answers.settled, request.items
        places = [(self._replica.partition_of(request.bucket_id, change.key), n) for change in items]
        if strange := sorted({place for place in {*places} if not self._leads(place)}):
            outcomes = await asyncio.gather(
                *(self._takeovers.lead(place, request.silent, request.unable) for place in strange)
            )
            refused = {place: outcome for place, outcome in zip(strange, outcomes, strict=True) if outcome is not None}
            for index, place in enumerate(places):
                settled[index] = refused.get(place)
        await self._look_up(request, places, settled)
        for index, change in enumerate(items):
            if change.turn and settled[index] is None:
                await self._turns.wait((request.bucket_id, change.key), change.lane, request.expires_s)
        # From here on nothing is waited for: what holds now holds until all is evaluated.
        leading = {place: self._tenures[place] for place in {*places} if self._leads(place)}
        now_ms = self._replica.wall_ms()
        late = self._clock.monotonic_s() >= request.expires_s
        for index, change in enumerate(items):
            if settled[index] is not None:
                continue
            tenure = leading.get(places[index])
            if late:
                settled[index] = f.Settled(c.LATE)
            elif tenure is None:
                settled[index] = self._takeovers.pointer(places[index])
            else:
                outcome = self._evaluate(tenure, request.bucket_id, change, kept_until_s, now_ms)
                if isinstance(outcome, Waiter):
                    outcome.tell(answers, index)
                else:
                    settled[index] = outcome

    # ---- evaluation ----

    def _evaluate(
        self, tenure: Tenure, bucket_id: int, change: f.Change, kept_until_s: float, now_ms: int
    ) -> f.Settled | Waiter:
        """Evaluate a change on the head of its key; return what to wait for, or the answer."""
        name = bucket_id, change.key
        head = tenure.heads.get(name)
        if head is None:  # given up meanwhile
            return f.Settled(c.NO_QUORUM)
        if change.turn:
            return f.Settled(c.HINT, head.version, head.payload)
        if change.kind == c.READ:
            return tenure.wait(f.Settled(c.DONE, head.version, head.payload), self._is_due)
        lane = self._lanes.of(change.lane, change.number, kept_until_s)
        if lane is None:
            return f.Settled(c.STALE)
        if (former := self._former(tenure, head, lane, name, change, kept_until_s, now_ms)) is not None:
            return former
        self._turns.over(name, change.lane)
        done = effect(change, head)
        if (done.writes or change.resent) and self._replica.no_room:
            return f.Settled(c.UNABLE)
        if not done.writes and not change.resent:
            waiter = tenure.wait(f.Settled(done.status, head.version, done.answer), self._is_due)
            return waiter.remembered_in(lane.calls, name)
        if not self._has_room(head):
            return f.Settled(c.TOO_LARGE, head.version)
        return self._write(tenure, head, name, change, done, kept_until_s, now_ms).remembered_in(lane.calls, name)

    def _former(
        self,
        tenure: Tenure,
        head: Head,
        lane: Lane,
        name: tuple[int, bytes],
        change: f.Change,
        kept_until_s: float,
        now_ms: int,
    ) -> f.Settled | Waiter | None:
        """Return what becomes of a call that was evaluated before; None if it was not (L10).

        A call that was sent twice is answered once F owners hold its receipt, not from memory, which goes with this run.
        *Schedule: a delete finds nothing. B sends it again, is answered from memory, and its client puts a value; the leader
        dies, and A, of which the client heard nothing, sends the delete to the next one, which makes it then (L11).*
        """
        known = lane.calls.get(name)
        if isinstance(known, Waiter) and (known.tenure is not tenure or known.done):
            known = None
        if known is not None and not change.resent:
            return known
        kept = head.receipts.get(change.lane)
        if kept is None or kept.receipt.number < change.number:
            if known is None:
                return None
            if self._replica.no_room or not self._has_room(head):
                return f.Settled(c.UNABLE)
            answer = known.answer if isinstance(known, Waiter) else known
            waiter = self._keep(tenure, head, name, change, answer, kept_until_s, now_ms)
        elif kept.receipt.number > change.number:
            return f.Settled(c.STALE)
        else:
            receipt = kept.receipt
            waiter = tenure.wait(f.Settled(receipt.status, receipt.version, receipt.payload), self._is_due)
        return waiter.remembered_in(lane.calls, name)

    def _write(
        self,
        tenure: Tenure,
        head: Head,
        name: tuple[int, bytes],
        change: f.Change,
        done: Effect,
        kept_until_s: float,
        now_ms: int,
    ) -> Waiter:
        """Change the head, and leave a receipt (L10, L11)."""
        before = head.size_bytes
        stamp = tenure.next_stamp()
        if done.writes:
            head.payload = done.payload
            head.fence = max(head.fence, change.fence)
        if done.writes or not head.version:
            head.version = stamp
        self._heads_bytes += head.size_bytes - before
        answer = f.Settled(done.status, head.version, done.answer)
        return self._keep(tenure, head, name, change, answer, kept_until_s, now_ms, stamp)

    def _keep(
        self,
        tenure: Tenure,
        head: Head,
        name: tuple[int, bytes],
        change: f.Change,
        answer: f.Settled,
        kept_until_s: float,
        now_ms: int,
        stamp: bytes = b"",
    ) -> Waiter:
        """Leave the receipt of a call with its answer, in a record that is new."""
        before = head.size_bytes
        stamp = stamp or tenure.next_stamp()
        if not head.version:
            head.version = stamp
        # A delete is forgotten by its time: what stays with it, a refusal's receipt too, has to be as young (L12).
        head.time = max(head.time + 1, time_from_ms(now_ms))
        head.keep(Receipt(change.lane, change.number, answer.status, answer.version, answer.payload), kept_until_s)
        self._heads_bytes += head.size_bytes - before
        return tenure.change(name, head, stamp, answer, self._is_due)

    def _has_room(self, head: Head) -> bool:
        """Whether a head may take one receipt more, if need be without those that nobody will ask for."""
        if not head.has_room:
            self._forget_receipts(head)
        return head.has_room

    def _forget_receipts(self, head: Head) -> None:
        """Drop receipts that no call will ask for: their time is over, or their lane has gone on (L10, L12)."""
        now_s, number = self._clock.monotonic_s(), self._lanes.number
        over = [
            lane for lane, kept in head.receipts.items() if kept.until_s <= now_s or number(lane) > kept.receipt.number
        ]
        if over:
            before = head.size_bytes
            head.forget(over)
            self._heads_bytes += head.size_bytes - before

    def _is_head(self, partition: int, n: int, name: tuple[int, bytes], record: bytes | None) -> bool:
        """Whether this node knows ``record`` for the last one of its key, under the term that it has promised (L8)."""
        tenure = self._tenures.get((partition, n))
        if tenure is None or not self._leads((partition, n)):
            return False
        head = tenure.heads.get(name)
        return head is not None and not head.dirty and head.stamp == (stamp_of(record) if record is not None else b"")

    # ---- rounds ----

    def _is_due(self, tenure: Tenure) -> None:
        """Begin a round of this tenure at the end of this turn of the loop, or when the present one is over."""
        if tenure.round is None and not tenure.paused:
            self._due[tenure.place] = tenure
            if not self._leaving:
                self._leaving = True
                asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        """Begin the rounds that are due."""
        self._leaving = False
        due, self._due = self._due, {}
        state = self._replica.state
        if state is None:
            return
        by_n: dict[int, list[Round]] = {}
        for place, tenure in due.items():
            if not self._is_present(tenure) or tenure.round is not None or not tenure.wanted:
                continue
            owned = self._owned(state, place)
            if self._node_id not in owned.readers:
                self._give_up(tenure)
            elif not tenure.bound_to(owned.sets):
                tenure.paused = True
                self._spawn(self._extend(tenure, owned.sets))
            else:
                round_ = tenure.begin(owned)
                for name in round_.names:
                    self._forget_receipts(tenure.heads[name])
                by_n.setdefault(place[1], []).append(round_)
        for n, rounds in by_n.items():
            self._send(n, rounds, state.epoch)

    def _owned(self, state: ClusterState, place: Place) -> Owned:
        """Return who owns a partition by the present state."""
        if state is not self._owned_by:
            self._owned_by, self._owned_places = state, {}
        owned = self._owned_places.get(place)
        if owned is None:
            sets = state.write_sets(*place)
            nodes = tuple(dict.fromkeys(node_id for owners in sets for node_id in owners))
            owned = self._owned_places[place] = Owned(sets, nodes, state.read_set(*place))
        return owned

    def _send(self, n: int, rounds: list[Round], epoch: int) -> None:
        made_ms = self._replica.wall_ms()
        wanted: dict[str, list[tuple[Round, Any]]] = {}
        for round_ in rounds:
            group = (round_.tenure.place[0], round_.tenure.term, round_.records())
            for node_id in round_.nodes:
                wanted.setdefault(node_id, []).append((round_, group))
        for node_id, parts in wanted.items():
            messages = _cut(parts)
            if len(messages) > 1:
                for round_, _ in (part for some in messages for part in some):
                    round_.expect(node_id)
            for some in messages:
                body = f.Accept(n, self._node_id, made_ms, [group for _, group in some])
                mine = [round_ for round_, _ in some]
                if node_id == self._node_id:  # a turn later, when the others' messages have left: they write meanwhile
                    asyncio.get_running_loop().call_soon(self._accept_later, body, mine, epoch)
                else:
                    self._spawn(self._accept(node_id, body, mine, epoch))

    def _accept_later(self, body: f.Accept, rounds: list[Round], epoch: int) -> None:
        self._spawn(self._accept(self._node_id, body, rounds, epoch))

    async def _accept(self, node_id: str, body: f.Accept, rounds: list[Round], epoch: int) -> None:
        if node_id == self._node_id:
            answer = await self._owners.accept_here(body)
        else:
            answer = await self._owners.ask_one(node_id, body, len(rounds), epoch)
        fits = isinstance(answer, f.Accepted) and len(answer.groups) == len(rounds)
        self._tally(node_id, rounds, answer if fits and isinstance(answer, f.Accepted) else None)

    def _tally(self, node_id: str, rounds: list[Round], answer: f.Accepted | None) -> None:
        """Count a node's answer to rounds; None: it did not accept them."""
        for round_, (term, leader) in zip(
            rounds, answer.groups if answer is not None else [(b"", "")] * len(rounds), strict=True
        ):
            tenure = round_.tenure
            if term:
                self._lose(tenure, term, leader)
            enough = round_.note(node_id, accepted=answer is not None and not term)
            if tenure.round is round_:
                if enough:
                    tenure.end(round_)
                    self._metrics.count("leader_rounds")
                    if tenure.wanted:
                        self._is_due(tenure)
                elif self._moved(round_):
                    tenure.redo(round_)
                    self._is_due(tenure)
                elif round_.over:
                    tenure.redo(round_)
                    tenure.paused = True
                    self._spawn(self._later(tenure))
            if round_.over and round_.met and round_.missed:
                self._leave_hints(round_)

    def _moved(self, round_: Round) -> bool:
        """Whether the partition has other owners since the round began."""
        state = self._replica.state
        return state is not None and self._owned(state, round_.tenure.place).sets != round_.sets

    async def _later(self, tenure: Tenure) -> None:
        await self._clock.sleep(ROUND_RETRY_S)
        self._resume(tenure)

    def _leave_hints(self, round_: Round) -> None:
        """Remember the keys of which some owners have missed the record (P11)."""
        made_ms = self._replica.wall_ms()
        for node_id in round_.missed:
            for bucket_id, key in round_.names:
                with contextlib.suppress(HintsFull, StoreClosed, EngineFailed, OSError, CorruptData):
                    self._hints.keep(node_id, bucket_id, key, b"", made_ms, counted=False)

    # ---- heads ----

    async def _look_up(self, request: f.Apply, places: Sequence[Place], settled: list[f.Settled | None]) -> None:
        """Load the heads of keys that this term has not touched yet (L5)."""
        self._make_room()
        bucket_id = request.bucket_id
        wanted: dict[Place, dict[bytes, None]] = {}
        loading: list[asyncio.Future[None]] = []
        for index, (change, place) in enumerate(zip(request.items, places, strict=True)):
            if settled[index] is not None:
                continue
            key, tenure = change.key, self._tenures.get(place)
            if tenure is None:
                settled[index] = self._takeovers.pointer(place)
            elif (bucket_id, key) in tenure.loading:
                loading.append(tenure.loading[bucket_id, key])
            elif (bucket_id, key) not in tenure.heads:
                if tenure.has_none_of(bucket_id):
                    self._add(tenure, (bucket_id, key), Head())
                else:
                    wanted.setdefault(place, {})[key] = None
        if wanted:
            tenures = {place: self._tenures[place] for place in wanted}  # as the task begins, they may be over
            task = asyncio.get_running_loop().create_task(
                self._load(bucket_id, {place: [*keys] for place, keys in wanted.items()}, tenures)
            )
            await asyncio.shield(task)
        for future in loading:
            await asyncio.shield(future)

    async def _load(self, bucket_id: int, wanted: dict[Place, list[bytes]], tenures: dict[Place, Tenure]) -> None:
        """Ask F of each set of owners for their records, under the term, and take the greatest of each key."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for place, keys in wanted.items():
            tenures[place].loading.update(dict.fromkeys([(bucket_id, key) for key in keys], done))
        try:
            for tenure in tenures.values():
                await self._bind(tenure)
            await self._looked(bucket_id, wanted, tenures)
        finally:
            for place, keys in wanted.items():
                for key in keys:
                    tenures[place].loading.pop((bucket_id, key), None)
            done.set_result(None)

    async def _looked(self, bucket_id: int, wanted: dict[Place, list[bytes]], tenures: dict[Place, Tenure]) -> None:
        state = self._replica.state
        assert state is not None
        looking = Looking(bucket_id, wanted, tenures, state, is_present=self._is_present, lose=self._lose)
        await self._owners.ask(looking.bodies(self._node_id), looking.take, looking.enough, state.epoch)
        until_s = self._clock.monotonic_s() + MAX_CHANGE_S
        left: dict[Place, list[bytes]] = {}
        for place, keys in wanted.items():
            found = looking.found(place)
            for key, copies in zip(keys, found or [], strict=False):
                self._adopt(tenures[place], (bucket_id, key), copies, until_s)
            if found is not None and len(found) < len(keys):
                left[place] = keys[len(found) :]
        if left and sum(map(len, left.values())) < sum(
            map(len, wanted.values())
        ):  # an answer has room for one at least
            await self._looked(bucket_id, left, {place: tenures[place] for place in left})

    def _adopt(self, tenure: Tenure, name: tuple[int, bytes], records: list[bytes | None], until_s: float) -> None:
        """Take the greatest of what F owners hold; if they differ, it goes out under this term before it is shown (L5)."""
        if name in tenure.heads:
            return
        newest = max((record for record in records if record is not None), key=stamp_of, default=None)
        head = Head.of(newest, until_s)
        self._add(tenure, name, head)
        if any(record is None or stamp_of(record) != head.stamp for record in records) and newest is not None:
            tenure.rewrite(name, head)
            self._metrics.count("leader_rewrites")

    def _add(self, tenure: Tenure, name: tuple[int, bytes], head: Head) -> None:
        tenure.heads[name] = head
        self._heads += 1
        self._heads_bytes += head.size_bytes

    def _make_room(self) -> None:
        """Drop heads that nobody waits for: what is asked for again is looked up again."""
        if self._heads < MAX_HEADS and self._heads_bytes < MAX_HEADS_BYTES:
            return
        for tenure in self._tenures.values():
            idle = [name for name, head in tenure.heads.items() if not head.dirty and not head.awaited]
            for name in idle[: (len(idle) + 1) // 2]:
                self._heads -= 1
                self._heads_bytes -= tenure.drop(name).size_bytes

    # ---- terms ----

    def _leads(self, place: Place) -> bool:
        """Whether this node leads, as far as it knows."""
        tenure = self._tenures.get(place)
        if tenure is None:
            return False
        promised = self._replica.promises.of(*place)
        if promised.term != tenure.term:
            self._lose(tenure, promised.term, promised.leader)
            return False
        if not self._replica.complete:
            self._give_up(tenure)
            return False
        return True

    def _is_present(self, tenure: Tenure) -> bool:
        """Whether nothing has ended this tenure yet."""
        return self._tenures.get(tenure.place) is tenure

    def _begin(self, tenure: Tenure) -> None:
        """Lead under a term that F of the owners have promised."""
        self._tenures[tenure.place] = tenure
        self._metrics.count("leader_takeovers")

    async def _bind(self, tenure: Tenure) -> None:
        """Bind a term to the present owners, if it is not yet and nobody is about it (L9)."""
        state = self._replica.state
        if state is not None and not tenure.paused and self._is_present(tenure):
            sets = self._owned(state, tenure.place).sets
            if not tenure.bound_to(sets):
                tenure.paused = True
                await self._extend(tenure, sets)

    def stop(self) -> None:
        """Lead nothing more: the node is being stopped."""
        self._stopped = True
        for tenure in [*self._tenures.values()]:
            self._give_up(tenure)

    async def _extend(self, tenure: Tenure, sets: tuple[tuple[str, ...], ...]) -> None:
        """Have the owners of a partition that moves promise the term too, before its next round (L9)."""
        state = self._replica.state
        won = False
        if state is not None and state.write_sets(*tenure.place) == sets:
            with contextlib.suppress(StoreClosed, EngineFailed, OSError, CorruptData):
                won = await self._takeovers.promised(tenure.place, tenure.term, sets, state.epoch)
        if not self._is_present(tenure):
            return
        if won:
            tenure.bind(sets)
        else:
            await self._clock.sleep(RETRY_S)
            term, leader = self._takeovers.heard(tenure.place)
            if term > tenure.term:
                self._lose(tenure, term, leader)
        self._resume(tenure)

    def _resume(self, tenure: Tenure) -> None:
        """Let rounds begin again, and begin one if calls still wait for it."""
        tenure.paused = False
        tenure.forget_the_late()
        if tenure.awaited and self._is_present(tenure):
            self._is_due(tenure)

    def _lose(self, tenure: Tenure, term: bytes, leader: str) -> None:
        """Drop the heads of a term that is over, and point to its successor (L14)."""
        place = tenure.place
        if term > tenure.term:
            self._takeovers.hear(place, term, leader)
        if self._is_present(tenure):
            self._metrics.count("leader_superseded")
            self._give_up(tenure)

    def _give_up(self, tenure: Tenure) -> None:
        if self._is_present(tenure):
            del self._tenures[tenure.place]
            self._heads -= len(tenure.heads)
            self._heads_bytes -= sum(head.size_bytes for head in tenure.heads.values())
        tenure.abandon(self._takeovers.pointer(tenure.place))

    def _end_terms(self, partition: int) -> None:
        """Give up what this node leads of a partition into which a backup's records are loaded: a new term looks (L5).

        *Schedule without: a restore is under way, and its bucket still empty. A program makes a change there; A leads, and
        knows from F owners that they hold nothing else of the bucket. All owners are given k. A says that k is absent, and
        an insertion of it goes over the value that was restored.*
        """
        for tenure in [tenure for place, tenure in self._tenures.items() if place[0] == partition]:
            self._give_up(tenure)

    async def hand_over(self, request: f.HandOver) -> f.NodeAnswerBody:
        """Answer ``HandOver``: have the next owner of each partition lead it, and lead nothing for a while.

        A partition that nobody takes is led here until the node stops. Then it gets a leader when it is asked (L14).
        """
        self._takeovers.rest(request.for_s)
        state = self._replica.state
        if state is not None:
            wanted: dict[tuple[str, int], list[int]] = {}
            for place in [place for place in [*self._tenures] if self._leads(place)]:
                owners = state.read_set(*place)
                at = owners.index(self._node_id) if self._node_id in owners else 0
                if successor := self._owners.first_available((*owners[at + 1 :], *owners[:at])):
                    wanted.setdefault((successor, place[1]), []).append(place[0])
            await asyncio.gather(
                *(
                    self._owners.ask_one(successor, f.Lead(n, partitions), len(partitions), state.epoch, HAND_OVER_S)
                    for (successor, n), partitions in wanted.items()
                )
            )
        return f.HandedOver(sum(self._leads(place) for place in [*self._tenures]))

    async def lead(self, request: f.Lead) -> f.NodeAnswerBody:
        """Answer ``Lead``: take the partitions over from a leader that is to be stopped."""
        return f.HandedOver(await self._takeovers.take([(partition, request.n) for partition in request.partitions]))

    async def balance(self) -> None:
        """Take back, some at a time, what this node led as first owner before it was away (L14)."""
        await self._takeovers.balance()


def _cut(parts: list[tuple[Round, Any]]) -> list[list[tuple[Round, Any]]]:
    """Cut what goes to one node into messages of a bounded size; a group that is too large goes in several."""
    found: list[list[tuple[Round, Any]]] = [[]]
    count = size_bytes = 0
    for round_, (partition, term, records) in parts:
        begun = 0
        if len(found[-1]) >= MAX_BATCH_ITEMS:
            found.append([])
            count = size_bytes = 0
        for at, (_, key, record) in enumerate(records):
            record_bytes = len(key) + len(record)
            if count >= MAX_BATCH_ITEMS or (count and size_bytes + record_bytes > ACCEPT_BYTES):
                if at > begun:
                    found[-1].append((round_, (partition, term, records[begun:at])))
                found.append([])
                begun, count, size_bytes = at, 0, 0
            count, size_bytes = count + 1, size_bytes + record_bytes
        found[-1].append((round_, (partition, term, records[begun:] if begun else records)))
    return found
