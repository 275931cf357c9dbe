"""The straight way: an operation while all is well.

Nearly every operation meets nothing but healthy replicas that agree. For those most of what a coordinator does is in
vain: tasks, timers, races, repairs. So a client that coordinates for itself first goes the straight way: it sends the
frames of a round at once, waits for as many answers as the operation needs, and is done if each of them is plain. What is
plain: the run that was asked has answered, knows of the same owners, is whole, and did what it was asked for; and all
records that were read are the same.

Anything else, and the operation goes the usual way: a read from the beginning, of many keys for those that are not plain; a
write, once it has its stamp or its dot, under that (P8: one write has one stamp), to all owners, which is the same write
again to those who have it. An acknowledgement that comes after W is not waited for, but heard: where none comes, the usual
way is gone for the rest, and leaves a hint (P11).

The decisions are those of the usual way (``routing``, ``peers``, ``writing``); what is here only says what is plain. It is
a generator of ``Ask``, without input and output, to be driven over sockets that block, or in simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import msgspec

from raykv.config import MAX_BATCH_ITEMS
from raykv.errors import RaykvError
from raykv.ports import PeerFailure
from raykv.records import frames as f
from raykv.records.record import body_operation_id, check_body, time_of
from raykv.replication.fanout import CALL_TIMEOUT_S
from raykv.replication.peers import node_address
from raykv.replication.reading import found_in, most_keys
from raykv.replication.writing import Put
from raykv.versions.causality import Causality, pack_causality, unpack_causality

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence

    from raykv.ports import Clock, Transport
    from raykv.replication.cluster_state import BucketEntry
    from raykv.replication.routing import Routing
    from raykv.replication.writing import Writes

T = TypeVar("T")

WRITE_PATIENCE_S = 0.1
"""So long a plain answer to one write is waited for, before the usual way is gone; longer for many."""
_NOTHING = f.Failed("StoreUnavailable", "nothing is known of it", {})


Quorum: TypeAlias = tuple[tuple[str, ...], int]
"""Nodes, and how many of them are to answer."""


@dataclass(slots=True, eq=False)
class Stamped:
    """Writes that have their stamps or their dots, and were sent under them."""

    entry: BucketEntry
    puts: list[Put]
    records: list[bytes]
    causalities: list[Causality]
    owners: list[tuple[str, ...]]
    places: list[int]
    """Where in the answer each belongs."""
    answer: list[f.Acked | f.Failed]
    """As long as the request; of those that were not sent it has the error already."""
    w: int
    deadline_s: float
    made_ms: int
    acks: list[str] = field(default_factory=list)
    """Who is known to hold all that it was sent."""
    taken_over: bool = False
    """Whether the usual way sees to the rest of it."""

    def sent_to(self) -> dict[str, list[int]]:
        """Return node id -> which of them it is sent, all at once."""
        sent: dict[str, list[int]] = {}
        for index, owners in enumerate(self.owners):
            for node_id in owners:
                sent.setdefault(node_id, []).append(index)
        return sent

    def holders(self) -> list[list[str]]:
        """Return of each who is known to hold it."""
        known = {owners: [node_id for node_id in self.acks if node_id in owners] for owners in {*self.owners}}
        return [known[owners] for owners in self.owners]

    @property
    def quorums(self) -> tuple[Quorum, ...]:
        """What must be met for all of them to be acknowledged."""
        return tuple((owners, self.w) for owners in dict.fromkeys(self.owners))


class Partly(NamedTuple):
    """A read of many keys of which some are not plain: ``rest``, the keys at ``indexes``, is to be read the usual way."""

    items: list[f.Found | f.Failed]
    """What was found; at ``indexes``, what is to be put there."""
    time: int
    indexes: list[int]
    rest: f.GetMany


class Ask(NamedTuple):
    """Frames to be sent at once, node id -> frame. Enough are to be answered within ``patience_s``.

    ``about``: of writes, so that late answers can be told to ``Straight.late``.
    """

    frames: dict[str, bytes]
    quorums: tuple[Quorum, ...]
    patience_s: float
    about: Stamped | None = None

    def met(self, answers: Collection[str]) -> bool:
        """Whether enough have answered: of the nodes of each quorum so many."""
        if len(self.quorums) == 1:  # nobody else was asked
            return len(answers) >= self.quorums[0][1]
        for nodes, needed in self.quorums:
            if len(answers) < needed or sum(node_id in answers for node_id in nodes) < needed:
                return False
        return True


Unfinished: TypeAlias = Stamped | Partly
Steps: TypeAlias = Generator[Ask, dict[str, bytes], T]
"""Is sent node id -> answer frame, of those that answered in time."""


class Straight:
    """The straight way of one coordinator. To be used where nobody else uses that coordinator at the same moment."""

    def __init__(
        self, routing: Routing, writes: Writes, read: Callable[[f.GetMany], Awaitable[f.GotMany]], run: int
    ) -> None:
        """``read``: the usual way of reads."""
        self._routing = routing
        self._read_usually = read
        self._writes = writes
        self._run = run

    def steps(self, request: f.CoordinatorRequest) -> Steps[f.CoordinatorAnswer | Unfinished | None] | None:
        """Return the steps of a request; None if it is neither a read nor a write.

        They bring its answer; what is to be ``finish``ed; or None: nothing was written, go the usual way.
        """
        match request:
            case f.GetMany() if request.keys:
                return self._get(request)
            case f.WriteMany() if request.items:
                return self._write(request)
        return None

    # ---- reads ----

    def _get(self, request: f.GetMany) -> Steps[f.CoordinatorAnswer | Unfinished | None]:
        read = self._read_one if len(request.keys) == 1 else self._read
        answer = yield from read(request)
        if isinstance(answer, f.Moved):
            answer = yield from read(request)  # of those who have it now
        return None if isinstance(answer, f.Moved) else answer

    def _read_one(self, request: f.GetMany) -> Steps[f.GotMany | Partly | f.Moved | None]:
        """As ``_read``, for one key: most of that would be in vain."""
        routing = self._routing
        entry = self._known(request.bucket_id)
        if entry is None or not 1 <= request.r <= entry.config.n:
            return None
        (witnesses,) = routing.witnesses(request.keys, entry.config.n)
        asked = self._well_of(witnesses, request.r)
        if len(asked) < request.r:
            return None
        patience_s = min(request.timeout_s, routing.peers.hedge_delay_s("Read", 1, asked))
        frames = self._frames(asked, f.Read(request.bucket_id, request.keys), routing.epoch)
        answers = yield Ask(frames, ((asked, request.r),), patience_s)
        if len(answers) < request.r:
            routing.peers.raced(1)
            return None
        records: list[bytes | None] = []
        for node_id in asked:
            body = routing.peers.plain(node_id, answers[node_id])
            if isinstance(body, f.Moved):
                return body
            if not isinstance(body, f.ReadDone) or body.unreadable or body.left or len(body.records) != 1:
                return None
            records.append(body.records[0])
        if records.count(records[0]) != len(records):
            return None
        return self._got(request, records[:1], [])

    def _read(self, request: f.GetMany) -> Steps[f.GotMany | Partly | f.Moved | None]:
        """Read of R of the owners; ``Moved``: others are the owners, as is known now."""
        routing, keys = self._routing, request.keys
        entry = self._known(request.bucket_id)
        if entry is None or not 1 <= request.r <= entry.config.n or len(keys) > most_keys(entry):
            return None
        together: dict[tuple[str, ...], list[int]] = {}
        for index, witnesses in enumerate(routing.witnesses(keys, entry.config.n)):
            together.setdefault(witnesses, []).append(index)
        wanted: dict[str, list[bytes]] = {}
        shares: list[tuple[list[int], list[tuple[str, int]]]] = []
        for witnesses, indexes in together.items():
            asked = self._well_of(witnesses, request.r)
            if len(asked) < request.r:
                return None
            shares.append((indexes, [(node_id, len(wanted.get(node_id, ()))) for node_id in asked]))
            for node_id in asked:
                wanted.setdefault(node_id, []).extend([keys[index] for index in indexes])
        answers = yield from self._ask_to_read(request, wanted)
        if not isinstance(answers, dict):
            return answers
        records: list[bytes | None] = [None] * len(keys)
        unlike: list[int] = []
        for indexes, asked_at in shares:
            (first, *others) = (answers[node_id][at : at + len(indexes)] for node_id, at in asked_at)
            for position, index in enumerate(indexes):
                records[index] = first[position]
            if others.count(first) != len(others):
                unlike += [at for same, at in zip(zip(first, *others, strict=True), indexes, strict=True)
                           if same.count(same[0]) != len(same)]  # fmt: skip
        return self._got(request, records, unlike)

    def _ask_to_read(
        self, request: f.GetMany, wanted: dict[str, list[bytes]]
    ) -> Steps[dict[str, list[bytes | None]] | f.Moved | None]:
        """Return what each node holds of the keys that it is asked for; None if one does not answer plainly."""
        routing = self._routing
        asked = {node_id: len(keys) for node_id, keys in wanted.items()}
        patience_s = min(request.timeout_s, routing.peers.hedge_delay_s("Read", max(asked.values()), [*asked]))
        frames = {
            node_id: routing.peers.request(node_id, f.Read(request.bucket_id, keys), routing.epoch)
            for node_id, keys in wanted.items()
        }
        began_s = routing.clock.monotonic_s()
        said = yield Ask(frames, ((tuple(frames), len(frames)),), patience_s)
        if len(said) < len(asked):
            routing.peers.raced(len(request.keys))
            return None
        bodies = {node_id: routing.peers.plain(node_id, said[node_id]) for node_id in wanted}
        answers: dict[str, list[bytes | None]] = {}
        for node_id, body in bodies.items():
            if isinstance(body, f.Moved):
                return body
            if isinstance(body, f.ReadDone) and not body.unreadable and not body.left:
                answers[node_id] = body.records
        if {node_id: len(records) for node_id, records in answers.items()} != asked:
            return None
        routing.peers.took("Read", asked, routing.clock.monotonic_s() - began_s)
        return answers

    def _got(self, request: f.GetMany, records: list[bytes | None], unlike: list[int]) -> f.GotMany | Partly:
        items, newest, siblings = found_in(records, self._routing.clock.wall_ms(), request.causality)
        probe = self._routing.probe
        probe.count("straight_reads", len(records) - len(unlike))
        probe.count("siblings_read", siblings)
        if not unlike:
            return f.GotMany(items, newest)
        rest = msgspec.structs.replace(request, keys=[request.keys[index] for index in unlike])
        return Partly(items, newest, unlike, rest)

    # ---- writes ----

    def _write(self, request: f.WriteMany) -> Steps[f.CoordinatorAnswer | Unfinished | None]:
        routing, began_s = self._routing, self._routing.clock.monotonic_s()
        entry = self._known(request.bucket_id)
        late = request.run and (request.run != self._run or began_s > request.expires_s)
        if entry is None or late or not 1 <= request.w <= entry.config.n or len(request.items) > MAX_BATCH_ITEMS:
            return None
        puts = []
        for key, body, seen in request.items:
            check_body(body)
            puts.append(Put(key, body, None if seen is None else unpack_causality(seen)))
        # All is asked under the epoch that named the owners: others may learn of a later one between the two rounds (P4).
        owners, epoch = [routing.settled_owners(put.key, entry.config.n) for put in puts], routing.epoch
        settled = [nodes for nodes in owners if nodes is not None]
        if len(settled) < len(owners) or not self._all_well({node_id for nodes in {*settled} for node_id in nodes}):
            return None
        deadline_s = began_s + request.timeout_s
        if request.run:
            deadline_s = min(deadline_s, request.expires_s)
        try:
            self._writes.observe(request.after)
        except RaykvError as error:
            return f.WroteMany([f.Failed.of(error)] * len(puts), 0)
        reserved = None
        if entry.config.versioning == "vector":
            reserved = yield from self._reserve(entry, puts, request.w, settled, epoch)
            if reserved is None:
                return None
        about = self._stamp(entry, puts, settled, reserved, request.w, deadline_s)
        if not about.puts:
            return _wrote(about)
        if routing.clock.monotonic_s() >= deadline_s:
            return None  # this process stood still meanwhile; nothing was written (P8)
        return (yield from self._send(about, epoch))

    def _send(self, begun: Stamped, epoch: int) -> Steps[f.WroteMany | Stamped]:
        routing, bucket_id = self._routing, begun.entry.bucket_id
        items = [(put.key, record) for put, record in zip(begun.puts, begun.records, strict=True)]
        frames = {}
        for node_id, sent in begun.sent_to().items():
            body = f.Write(bucket_id, [items[at] for at in sent], begun.made_ms)
            frames[node_id] = routing.peers.request(node_id, body, epoch)
        ask = Ask(frames, begun.quorums, _patience_s(begun.puts), begun)
        answers = yield ask
        begun.acks += [node_id for node_id, frame in answers.items() if self._holds(node_id, frame)]
        if not ask.met(begun.acks):
            return begun
        routing.probe.count("straight_writes", len(begun.puts))
        return _wrote(begun)

    def _stamp(
        self,
        entry: BucketEntry,
        puts: list[Put],
        owners: list[tuple[str, ...]],
        reserved: list[tuple[f.Reserved, list[f.Reserved]]] | None,
        w: int,
        deadline_s: float,
    ) -> Stamped:
        """Stamp the writes; of those for which that may not be the answer has the error."""
        about = Stamped(entry, [], [], [], [], [], [_NOTHING] * len(puts), w, deadline_s, self._routing.clock.wall_ms())
        for place, put in enumerate(puts):
            try:
                record, causality = (
                    self._writes.stamped_lww(put) if reserved is None else self._writes.stamped(put, *reserved[place])
                )
            except RaykvError as error:
                about.answer[place] = f.Failed.of(error)
                continue
            about.puts.append(put)
            about.records.append(record)
            about.causalities.append(causality)
            about.owners.append(owners[place])
            about.places.append(place)
        return about

    def _reserve(
        self, entry: BucketEntry, puts: list[Put], w: int, owners: list[tuple[str, ...]], epoch: int
    ) -> Steps[list[tuple[f.Reserved, list[f.Reserved]]] | None]:
        """Get a dot for each, and what is there."""
        routing = self._routing
        asked = [nodes[: self._writes.shown_needed(entry, put, w)] for put, nodes in zip(puts, owners, strict=True)]
        wanted: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for put, nodes in zip(puts, asked, strict=True):  # all of them are well
            for at, node_id in enumerate(nodes):
                keys, ids = wanted.setdefault(node_id, ([], []))
                keys.append(put.key)
                ids.append(b"" if at else body_operation_id(put.body))
        frames = {
            node_id: routing.peers.request(node_id, f.Reserve(entry.bucket_id, keys, ids), epoch)
            for node_id, (keys, ids) in wanted.items()
        }
        answers = yield Ask(frames, ((tuple(frames), len(frames)),), _patience_s(puts))
        given: dict[str, list[f.Reserved | None]] = {}
        for node_id, (keys, _) in wanted.items():
            answer = routing.peers.plain(node_id, answers.get(node_id))
            if not isinstance(answer, f.ReserveDone) or len(answer.items) != len(keys) or None in answer.items:
                return None
            given[node_id] = answer.items
        reserved: list[tuple[f.Reserved, list[f.Reserved]]] = []
        turns = {node_id: iter(items) for node_id, items in given.items()}
        for nodes in asked:
            shown = [item for node_id in nodes if (item := next(turns[node_id])) is not None]
            reserved.append((shown[0], shown))
        return reserved

    async def finish(self, begun: Unfinished) -> f.GotMany | f.WroteMany:
        """Go the usual way with what is left of an operation. Raises as it does."""
        return await (self._finish_reading(begun) if isinstance(begun, Partly) else self._finish_writing(begun))

    async def _finish_reading(self, read: Partly) -> f.GotMany:
        self._routing.probe.count("straight_reads_left", len(read.indexes))
        try:
            answer = await self._read_usually(read.rest)
        except RaykvError as error:  # what was plain stays so
            answer = f.GotMany([f.Failed.of(error)] * len(read.indexes), 0)
        for index, item in zip(read.indexes, answer.items, strict=True):
            read.items[index] = item
        return f.GotMany(read.items, max(read.time, answer.time))

    async def _finish_writing(self, begun: Stamped) -> f.WroteMany:
        """Under the stamps that they have."""
        begun.taken_over = True
        self._routing.probe.count("straight_writes_left", len(begun.puts))
        outcomes = await self._writes.spread(
            begun.entry, begun.puts, begun.records, begun.w, begun.deadline_s, was_sent=True
        )
        if begun.entry.config.versioning == "lww":  # some may have been stamped again, above what is stored
            begun.causalities = [Causality(time_of(record)) for record in begun.records]
        return _told(begun, outcomes)

    def late(self, begun: Stamped, node_id: str, frame: bytes | None) -> bool:
        """Take an answer that nobody waited for; None: there will be none. True: somebody is to ``see_to`` the writes."""
        if frame is None or not self._holds(node_id, frame):
            return True
        begun.acks.append(node_id)
        return False

    async def see_to(self, begun: Stamped) -> None:
        """Bring writes that have their W to those who do not say that they hold them, or leave hints. Once is enough."""
        if begun.taken_over:
            return
        begun.taken_over = True
        self._routing.probe.count("straight_writes_seen_to", len(begun.puts))
        keys = [put.key for put in begun.puts]
        await self._writes.bring_to_the_rest(
            begun.entry, keys, begun.records, begun.holders(), begun.made_ms, CALL_TIMEOUT_S
        )

    # ---- what is plain ----

    def _known(self, bucket_id: int) -> BucketEntry | None:
        entry = self._routing.known_bucket(bucket_id)
        return None if entry is None or entry.config.sloppy else entry

    def _well_of(self, owners: tuple[str, ...], count: int) -> tuple[str, ...]:
        """Return the first ``count`` of them that nothing speaks against."""
        if self._all_well(owners[:count]):
            return owners[:count]
        return tuple(node_id for node_id in owners if self._all_well((node_id,)))[:count]

    def _all_well(self, nodes: Iterable[str]) -> bool:
        peers, now_s = self._routing.peers, self._routing.clock.monotonic_s()
        return all(peers.well(node_id, now_s) for node_id in nodes)

    def _frames(self, nodes: tuple[str, ...], body: f.NodeRequestBody, epoch: int) -> dict[str, bytes]:
        return {node_id: self._routing.peers.request(node_id, body, epoch) for node_id in nodes}

    def _holds(self, node_id: str, frame: bytes) -> bool:
        """Whether a node says that it holds all that it was sent."""
        answer = self._routing.peers.plain(node_id, frame)
        return isinstance(answer, f.WriteDone) and not any(answer.newer)


def _patience_s(puts: list[Put]) -> float:
    """How long a plain answer to writes is waited for."""
    return WRITE_PATIENCE_S * (1 + len(puts) / 100)


def _wrote(begun: Stamped) -> f.WroteMany:
    return _told(begun, begun.holders())


def _told(begun: Stamped, outcomes: Sequence[list[str] | RaykvError]) -> f.WroteMany:
    newest = 0
    for place, put, causality, outcome in zip(begun.places, begun.puts, begun.causalities, outcomes, strict=True):
        if isinstance(outcome, RaykvError):
            begun.answer[place] = f.Failed.of(outcome)
            continue
        newest = max(newest, causality.time)
        begun.answer[place] = f.Acked(body_operation_id(put.body), outcome, pack_causality(causality))
    return f.WroteMany(begun.answer, newest)


# ---- awaiting it ----


class Driver:
    """Drives the straight way, awaiting; what comes late is seen to in ``tasks``."""

    def __init__(self, straight: Straight, transport: Transport, clock: Clock, tasks: set[asyncio.Task[None]]) -> None:
        self._straight = straight
        self._transport = transport
        self._clock = clock
        self._tasks = tasks

    async def serve(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer | None:
        """Answer a request. None: it is to go the usual way."""
        steps = self._straight.steps(request)
        outcome = None if steps is None else await self._run(steps)
        return await self._straight.finish(outcome) if isinstance(outcome, Unfinished) else outcome

    async def _run(self, steps: Steps[T]) -> T:
        about: Stamped | None = None
        asked: set[str] = set()
        owing: set[str] = set()
        try:
            ask = next(steps)
            while True:
                answers, owing = await self._ask(ask)
                about, asked = ask.about, {*ask.frames}
                ask = steps.send(answers)
        except StopIteration as done:
            outcome: T = done.value
        if about is not None and about is not outcome and not asked <= {*about.acks} | owing:
            self._see_to(about)
        return outcome

    async def _ask(self, ask: Ask) -> tuple[dict[str, bytes], set[str]]:
        """Return the answers, and who has not said anything yet."""
        answers: dict[str, bytes] = {}
        owing = {*ask.frames}
        enough = asyncio.Event()
        waiting = True

        async def one(node_id: str, frame: bytes) -> None:
            answer: bytes | None = None
            with contextlib.suppress(PeerFailure):
                answer = await self._transport.call(node_address(node_id), frame, CALL_TIMEOUT_S)
            if waiting:
                owing.discard(node_id)
                if answer is not None:
                    answers[node_id] = answer
                if ask.met(answers) or not owing:
                    enough.set()
            elif ask.about is not None and self._straight.late(ask.about, node_id, answer):
                self._see_to(ask.about)

        for node_id, frame in ask.frames.items():
            self._begin(one(node_id, frame))
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(ask.patience_s):
                await enough.wait()
        waiting = False
        return answers, owing

    def _see_to(self, write: Stamped) -> None:
        self._begin(self._straight.see_to(write))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
