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
a generator of ``Ask``, without input and output, to be driven over sockets that block (``raykv.transport.blocking``), in an
event loop (``Driver``), or in simulation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import msgspec

from raykv.cluster.fanout import CALL_TIMEOUT_S
from raykv.cluster.peers import node_address
from raykv.config import MAX_BATCH_ITEMS
from raykv.coordinator.reads import found_in, most_keys
from raykv.coordinator.writes import Put
from raykv.errors import RaykvError
from raykv.ports import PeerAbsent, PeerFailure, PeerUnreachable
from raykv.protocol import frames as f
from raykv.records.record import body_operation_id, check_body, time_of
from raykv.versions.causality import Causality, pack_causality, unpack_causality

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence

    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.batcher import Begin, Outcome
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.writes import Writes
    from raykv.ports import Clock, Transport

T = TypeVar("T")

WRITE_PATIENCE_S = 0.1
"""So long a plain answer to one write is waited for, before the usual way is gone; longer for many."""
LEARNS_EVERY = 8
"""From every so manieth read of one key it is learned how long nodes take: it costs a twentieth of the read."""
LOOK_EVERY_S = 0.005
"""How often a loop looks for rounds whose time is up; a quarter of the least patience with nodes (``HEDGE_FLOOR_S``)."""
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
    away: frozenset[str] = frozenset()
    """Owners that do not answer. They are sent nothing; once all others have it, hints are left for them (P11)."""

    def sent_to(self) -> dict[str, list[int]]:
        """Return node id -> which of them it is sent, all at once."""
        sent: dict[str, list[int]] = {}
        for index, owners in enumerate(self.owners):
            for node_id in owners:
                if node_id not in self.away:
                    sent.setdefault(node_id, []).append(index)
        return sent

    def is_to_be_seen_to(self, sent: Collection[str], owing: Collection[str]) -> bool:
        """Whether it does not end by itself. ``sent``: to whom it was sent; ``owing``: who has not said anything yet."""
        if not {*sent} <= {*self.acks, *owing}:
            return True
        return bool(self.away) and {*sent} <= {*self.acks}

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

    items: list[bytes | f.Found | f.Failed]
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

    @property
    def of_all(self) -> bool:
        """Whether each that is asked is to answer."""
        return len(self.frames) == self.quorums[0][1]

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
        self._reads_of_one = 0

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
        asked = self._routing.peers.first_available(witnesses, request.r)
        if len(asked) < request.r:
            return None
        patience_s = min(request.timeout_s, routing.peers.hedge_delay_s("Read", 1, asked))
        frames = self._frames(asked, f.Read(request.bucket_id, request.keys), routing.epoch)
        began_s = routing.clock.monotonic_s()
        answers = yield Ask(frames, ((asked, request.r),), patience_s)
        self._reads_of_one += 1
        learns = not self._reads_of_one % LEARNS_EVERY
        if len(answers) < request.r:
            if learns:
                routing.peers.record_timeout("Read", {node_id: 1 for node_id in asked if node_id not in answers})
            routing.peers.spend_hedges(1)
            return None
        if learns:
            routing.peers.record_latency("Read", dict.fromkeys(asked, 1), routing.clock.monotonic_s() - began_s)
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
            asked = self._routing.peers.first_available(witnesses, request.r)
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
            late = {node_id: items for node_id, items in asked.items() if node_id not in said}
            routing.peers.record_timeout("Read", late)
            routing.peers.spend_hedges(len(request.keys))
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
        routing.peers.record_latency("Read", asked, routing.clock.monotonic_s() - began_s)
        return answers

    def _got(self, request: f.GetMany, records: list[bytes | None], unlike: list[int]) -> f.GotMany | Partly:
        items, newest, siblings = found_in(records, self._routing.clock.wall_ms(), request.causality)
        metrics = self._routing.metrics
        metrics.count("straight_reads", len(records) - len(unlike))
        if siblings:
            metrics.count("siblings_read", siblings)
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
        if len(settled) < len(owners):
            return None
        away = self._routing.peers.unreachable_of({node_id for nodes in {*settled} for node_id in nodes})
        if away is None or (away and any(len({*nodes} - away) < request.w for nodes in {*settled})):
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
            reserved = yield from self._reserve(entry, puts, request.w, settled, away, epoch)
            if reserved is None:
                return None
        about = self._stamp(entry, puts, settled, reserved, request.w, deadline_s)
        about.away = away
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
        routing.metrics.count("straight_writes", len(begun.puts))
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
        self,
        entry: BucketEntry,
        puts: list[Put],
        w: int,
        owners: list[tuple[str, ...]],
        away: frozenset[str],
        epoch: int,
    ) -> Steps[list[tuple[f.Reserved, list[f.Reserved]]] | None]:
        """Get a dot for each, and what is there. None: so many do not show it."""
        routing = self._routing
        there = {nodes: tuple(n for n in nodes if n not in away) for nodes in dict.fromkeys(owners)}
        first = {nodes: tuple(routing.peers.in_order(others)) for nodes, others in there.items()}
        asked = [
            first[nodes][: self._writes.shown_needed(entry, put, w)] for put, nodes in zip(puts, owners, strict=True)
        ]
        if away and any(
            len(nodes) < self._writes.shown_needed(entry, put, w) for put, nodes in zip(puts, asked, strict=True)
        ):
            return None
        wanted: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for put, nodes in zip(puts, asked, strict=True):
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
        self._routing.metrics.count("straight_reads_left", len(read.indexes))
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
        self._routing.metrics.count("straight_writes_left", len(begun.puts))
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
        return bool(begun.away) and begun.is_to_be_seen_to(sent := begun.sent_to(), sent)

    async def see_to(self, begun: Stamped) -> None:
        """Bring writes that have their W to those who do not say that they hold them, or leave hints. Once is enough."""
        if begun.taken_over:
            return
        begun.taken_over = True
        self._routing.metrics.count("straight_writes_seen_to", len(begun.puts))
        if begun.away and {*begun.sent_to()} <= {*begun.acks}:
            self._leave_hints(begun)
            return
        keys = [put.key for put in begun.puts]
        await self._writes.bring_to_the_rest(
            begun.entry, keys, begun.records, begun.holders(), begun.made_ms, CALL_TIMEOUT_S
        )

    def _leave_hints(self, begun: Stamped) -> None:
        """For those that are away (P11)."""
        bucket_id = begun.entry.bucket_id
        for put, record, owners, holders in zip(begun.puts, begun.records, begun.owners, begun.holders(), strict=True):
            missed = [node_id for node_id in owners if node_id in begun.away]
            if missed:
                item = (put.key, record, missed)
                self._routing.courier.take(tuple(holders), owners, bucket_id, item, begun.made_ms)

    # ---- what is plain ----

    def _known(self, bucket_id: int) -> BucketEntry | None:
        entry = self._routing.known_bucket(bucket_id)
        return None if entry is None or entry.config.sloppy else entry

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


# ---- in an event loop ----

Heard: TypeAlias = "Callable[[bytes | PeerFailure], None]"
Post: TypeAlias = "Callable[[str, bytes, float, Heard], None]"
"""``post(peer, frame, until_s, heard)``: send a frame, by ``until_s`` (monotonic) or not at all, and tell ``heard`` what
became of it; once, and later."""
PostAtOnce: TypeAlias = "Callable[[str, bytes, float, Heard], bool]"
"""``post(peer, frame, timeout_s, heard)``: send it now and tell what became of it, or return False: that cannot be."""


def posting(
    transport: Transport, clock: Clock, tasks: set[asyncio.Task[None]], at_once: PostAtOnce | None = None
) -> Post:
    """Return a ``Post``: ``at_once`` where that can be, else by a call of the transport, each a task in ``tasks``."""

    async def call(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        outcome: bytes | PeerFailure
        try:
            if clock.monotonic_s() >= until_s:
                # The process was frozen before this task began. Its client may have written over it since (P8).
                raise PeerAbsent(f"time was up before anything was sent to {peer}")
            outcome = await transport.call(peer, frame, CALL_TIMEOUT_S)
        except PeerFailure as failure:
            outcome = failure
        except Exception as error:  # noqa: BLE001 - whatever it was, somebody waits for it
            outcome = PeerUnreachable(repr(error))
        heard(outcome)

    def post(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        if at_once is None or not at_once(peer, frame, CALL_TIMEOUT_S, heard):
            task = asyncio.get_running_loop().create_task(call(peer, frame, until_s, heard))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return post


class _Run(NamedTuple):
    """An operation."""

    steps: Steps[f.CoordinatorAnswer | Unfinished | None]
    request: f.CoordinatorRequest
    done: Callable[[Outcome], None]


@dataclass(slots=True, eq=False)
class _Round:
    """What an operation has asked for, and what was said."""

    run: _Run
    ask: Ask
    until_s: float
    owing: set[str]
    """Who has not said anything yet."""
    answers: dict[str, bytes] = field(default_factory=dict)
    over: bool = False


class Driver:
    """Drives the straight way in an event loop: a ``Begin``.

    Most operations are two steps, one when they begin and one when the answers are there, and both are taken where the loop
    is at that moment: a task for each of them and for each node asked would cost several times what they do. So is a timer
    for each round: one task looks after all of them, a few times within the shortest patience there is.
    """

    def __init__(
        self, straight: Straight, post: Post, clock: Clock, tasks: set[asyncio.Task[None]], otherwise: Begin
    ) -> None:
        """``otherwise``: the usual way. What comes late is seen to in ``tasks``."""
        self._straight = straight
        self._post = post
        self._clock = clock
        self._tasks = tasks
        self._otherwise = otherwise
        self._rounds: dict[_Round, None] = {}
        """Those under way."""
        self._watched = False
        self._over = False
        self.owed = 0
        """So many answers are outstanding, also such that nobody waits for."""

    def __call__(self, request: f.CoordinatorRequest, done: Callable[[Outcome], None]) -> None:
        """Begin with a request."""
        steps = self._straight.steps(request)
        if steps is None:
            self._otherwise(request, done)
        else:
            self._step(_Run(steps, request, done), None)

    def end(self) -> None:
        """Hear no more: the loop is at its end, and nothing is to begin in it because of an answer."""
        self._over = True

    def _step(self, run: _Run, last: _Round | None) -> None:
        """Take an operation's next step, after its ``last`` round."""
        try:
            ask = next(run.steps) if last is None else run.steps.send(last.answers)
        except StopIteration as end:
            if last is not None:
                self._see_to_the_rest(last, end.value)
            self._end(run, end.value)
        except Exception as error:  # noqa: BLE001 - a mistake of ours too is for who waits
            run.done(error)
        else:
            self._ask(run, ask)

    def _end(self, run: _Run, outcome: f.CoordinatorAnswer | Unfinished | None) -> None:
        if outcome is None:
            self._otherwise(run.request, run.done)
        elif isinstance(outcome, Unfinished):
            self._begin(self._finish(outcome, run.done))
        else:
            run.done(outcome)

    async def _finish(self, begun: Unfinished, done: Callable[[Outcome], None]) -> None:
        try:
            outcome: Outcome = await self._straight.finish(begun)
        except Exception as error:  # noqa: BLE001 - as above
            outcome = error
        done(outcome)

    def _ask(self, run: _Run, ask: Ask) -> None:
        asked = _Round(run, ask, self._clock.monotonic_s() + ask.patience_s, {*ask.frames})
        self._rounds[asked] = None
        if not self._watched:
            self._watched = True
            self._begin(self._watch())
        until_s = asked.until_s if ask.about is None else ask.about.deadline_s
        for node_id, frame in ask.frames.items():
            self._post(node_address(node_id), frame, until_s, partial(self._hear, asked, node_id))
            self.owed += 1

    def _hear(self, asked: _Round, node_id: str, said: bytes | PeerFailure) -> None:
        self.owed -= 1
        if self._over:
            return
        answer = said if isinstance(said, bytes) else None
        if not asked.over:
            asked.owing.discard(node_id)
            if answer is not None:
                asked.answers[node_id] = answer
            if asked.ask.met(asked.answers) or not asked.owing:
                self._go_on(asked)
        elif asked.ask.about is not None and self._straight.late(asked.ask.about, node_id, answer):
            self._see_to(asked.ask.about)

    def _go_on(self, asked: _Round) -> None:
        asked.over = True
        del self._rounds[asked]
        self._step(asked.run, asked)

    async def _watch(self) -> None:
        """End the rounds whose time is up."""
        try:
            while self._rounds:
                await self._clock.sleep(LOOK_EVERY_S)
                now_s = self._clock.monotonic_s()
                for asked in [asked for asked in self._rounds if asked.until_s <= now_s]:
                    if not asked.over:
                        self._go_on(asked)
        finally:
            self._watched = False

    def _see_to_the_rest(self, last: _Round, outcome: object) -> None:
        about = last.ask.about
        if about is not None and about is not outcome and about.is_to_be_seen_to(last.ask.frames, last.owing):
            self._see_to(about)

    def _see_to(self, write: Stamped) -> None:
        self._begin(self._straight.see_to(write))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
