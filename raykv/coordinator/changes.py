"""Linearizable buckets: changes go to the leader of each partition, plain reads to F owners (L8, L10 to L14).

A change is sent to whoever is believed to lead; a node that does not says who does. One that does not answer is named to
the next owner, which pings it and takes over. All of it under the same lane and number, so a change that is sent again is
still one change, whatever became of its former sendings.

A read needs no leader while F owners hold the same record and that record is known to be the last: written under the term
that all of them have promised, or vouched for by its leader. Otherwise, and while the partition moves, the leader reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from raykv.cluster.fanout import Fanout, Wait
from raykv.cluster.health import LEARNS_EVERY
from raykv.cluster.peers import PeerRefused, is_overloaded
from raykv.coordinator.judgements import is_heads_read
from raykv.coordinator.steps import Round
from raykv.errors import Overloaded, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.limits import MAX_CHANGE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from raykv.cluster.peers import Said
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps

PATIENCE_S = 0.25
"""How long to wait for a leader before the next owner is asked; longer each time, since a takeover takes a while too."""
MOST_PATIENCE_S = 2.0
TURN_S = 0.5
"""How much longer the leader may take where it is asked to wait for a lane's turn (``raykv.replica.turns``)."""
QUIET_S = 1.0
PAUSE_S = 0.02
MOST_PAUSE_S = 0.2
_KNOWN = c.FINAL | {c.LATE, c.UNABLE}
"""The answers after which it is known whether the change was carried out."""

Place: TypeAlias = tuple[int, int]
Outcome: TypeAlias = f.Settled | RaykvError
Copy: TypeAlias = tuple[bytes | None, bytes, bool]
"""An owner's record of a key, the term that it has promised, and whether it is that term's leader and says "my head"."""


class _Clock(NamedTuple):
    """What is known of a node's monotonic clock: of which run, and how far it was ahead of this one's at least."""

    run: int
    ahead_s: float


class _Attempt:
    """What has become of the changes of one request so far."""

    def __init__(self, items: Sequence[f.Change], places: Sequence[Place]) -> None:
        self.items = items
        self.places = places
        self.outcomes: list[Outcome | None] = [None] * len(items)
        self.sent = {index for index, change in enumerate(items) if change.resent}
        """Indexes of those that may have been carried out, by way of this coordinator or of another one."""
        self.silent: set[str] = set()
        self.unable: set[str] = set()
        self.reasons: dict[str, str] = {}
        """Node -> why it did not do it."""
        self.tries = 0
        self.at_once = True
        """Whether the next try need not wait: something was learned."""
        self.anew = False
        """Whether all owners have failed, so that the first is asked again: after a pause, or they would be in turns."""

    @property
    def open(self) -> list[int]:
        """Indexes of those that are not settled."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome is None]


class Changes:
    """The changes and plain reads of one coordinator."""

    def __init__(self, routing: Routing, room_for: Callable[[int], AbstractContextManager[None]]) -> None:
        """``room_for(keys)``: enter it for what takes longer than one round. Raises ``Overloaded``."""
        self._routing = routing
        self._room_for = room_for
        self._leaders: dict[Place, str] = {}
        """Place -> who leads it, as far as this coordinator knows; else its first owner."""
        self._clocks: dict[str, _Clock] = {}
        self._quiet_s: dict[str, float] = {}
        """Node -> until when it is taken for silent, since it let a change wait in vain: else each pays for it anew."""
        self._reads_of_one = 0

    def beside(self, routing: Routing) -> Changes:
        """Return the changes by another view of the same coordinator, which share what is known of leaders."""
        other = Changes(routing, self._room_for)
        other._leaders, other._clocks, other._quiet_s = self._leaders, self._clocks, self._quiet_s
        return other

    def leader_of(self, place: Place) -> str | None:
        """Return who leads there, as far as this coordinator knows."""
        return self._leaders.get(place)

    # ---- reads ----

    def read(self, entry: BucketEntry, request: f.GetMany, deadline_s: float) -> Steps[f.GotMany]:
        """Read each key; return its value, or its error, in the order asked. Raises ``Overloaded``."""
        found: list[Outcome | None] = [None]
        if len(request.keys) == 1:
            answer = yield from self._read_one(entry, request, deadline_s)
            if answer is not None:
                return answer
        with self._room_for(len(request.keys)):
            if len(request.keys) != 1:
                found = yield from self._read_plainly(entry, request.keys, deadline_s)
            rest = [index for index, item in enumerate(found) if item is None]
            if rest:
                self._routing.metrics.count("leader_reads", len(rest))
                reads = [f.Change(request.keys[index], c.READ) for index in rest]
                outcomes = yield from self.change(entry, reads, deadline_s)
                for index, outcome in zip(rest, outcomes, strict=True):
                    found[index] = outcome
        return f.GotMany([_shown(item, causality=request.causality) for item in found if item is not None])

    def _read_one(self, entry: BucketEntry, request: f.GetMany, deadline_s: float) -> Steps[f.GotMany | None]:
        """As ``_read_plainly``, for one key: without what divides many among the nodes, as on the fast path.

        None: its leader has to be asked.
        """
        routing = self._routing
        peers, needed = routing.peers, entry.config.r
        asked = self._asked(routing.place(entry.config, request.keys[0]), needed)
        if not asked:
            return None
        began_s = routing.clock.monotonic_s()
        patience_s = min(max(0.001, deadline_s - began_s), peers.hedge_delay_s("ReadHeads", 1, asked))
        body, epoch = f.ReadHeads(entry.bucket_id, request.keys), routing.epoch
        said: Said = {}
        frames = {node_id: peers.request(node_id, body, epoch, said) for node_id in asked}
        answers = yield Round(frames, ((asked, needed),), patience_s)
        self._reads_of_one += 1
        samples = not self._reads_of_one % LEARNS_EVERY
        if len(answers) < needed:
            for node_id in asked:
                if node_id in answers:
                    continue
                if samples:
                    peers.record_timeout("ReadHeads", {node_id: 1})
                if peers.spend_hedges(1) and answers:
                    peers.note_slow(node_id)
            return None
        if samples:
            peers.record_latency("ReadHeads", dict.fromkeys(asked, 1), routing.clock.monotonic_s() - began_s)
        copies: list[Copy] = []
        for node_id in asked:
            answer = peers.plain(node_id, answers[node_id], said)
            if not is_heads_read(answer, 1) or answer.unreadable or answer.left:
                return None
            copies.append((answer.records[0], answer.terms[0], bool(answer.heads)))
        settled = plainly_read(copies)
        return None if settled is None else f.GotMany([_shown(settled, causality=request.causality)])

    def _read_plainly(
        self, entry: BucketEntry, keys: Sequence[bytes], deadline_s: float
    ) -> Steps[list[Outcome | None]]:
        """Return what F owners of each key agree on and show to be the last (L8); None where the leader has to be asked."""
        routing = self._routing
        peers, epoch = routing.peers, routing.epoch
        found: list[Outcome | None] = [None] * len(keys)
        wanted = self._readers(entry, keys)
        if not wanted:
            return found
        said: Said = {}
        frames = {
            node_id: peers.request(
                node_id, f.ReadHeads(entry.bucket_id, [keys[index] for index in indexes]), epoch, said
            )
            for node_id, indexes in wanted.items()
        }
        items = max(map(len, wanted.values()))
        began_s = routing.clock.monotonic_s()
        patience_s = min(max(0.001, deadline_s - began_s), peers.hedge_delay_s("ReadHeads", items, [*wanted]))
        answers = yield Round(frames, ((tuple(frames), len(frames)),), patience_s)
        if len(answers) == len(wanted):
            peers.record_latency(
                "ReadHeads", {node_id: len(indexes) for node_id, indexes in wanted.items()},
                routing.clock.monotonic_s() - began_s,
            )  # fmt: skip
        for index, copies in enumerate(self._copies(wanted, answers, said, len(keys))):
            if len(copies) >= entry.config.r:
                found[index] = plainly_read(copies)
        return found

    def _readers(self, entry: BucketEntry, keys: Sequence[bytes]) -> dict[str, list[int]]:
        """Return whom to ask for which keys: F owners of each, the leader first, unless its partition moves."""
        routing, config = self._routing, entry.config
        wanted: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            for node_id in self._asked(routing.place(config, key), config.r):
                wanted.setdefault(node_id, []).append(index)
        return wanted

    def _asked(self, place: Place, needed: int) -> tuple[str, ...]:
        """Return F owners to read from, the leader first; none where the leader has to be asked."""
        routing = self._routing
        owners = routing.settled_at(place)
        if owners is None:
            return ()
        leader = self._leaders.get(place)
        first = leader if leader is not None and leader in owners else owners[0]
        owners = (first, *routing.nearest_first(tuple(node_id for node_id in owners if node_id != first)))
        asked = routing.peers.first_available(owners, needed)
        return asked if len(asked) == needed else ()

    def _copies(
        self, wanted: dict[str, list[int]], answers: dict[str, bytes], said: Said, keys: int
    ) -> list[list[Copy]]:
        """Return what the answers show of each key."""
        peers = self._routing.peers
        shown: list[list[Copy]] = [[] for _ in range(keys)]
        for node_id, indexes in wanted.items():
            answer = peers.plain(node_id, answers.get(node_id), said)
            if is_heads_read(answer, len(indexes)):
                heads, bad = answer.heads, {*answer.unreadable, *answer.left}
                for at, index in enumerate(indexes):
                    if at not in bad:
                        shown[index].append((answer.records[at], answer.terms[at], at in heads))
            elif node_id not in answers:
                peers.record_timeout("ReadHeads", {node_id: len(indexes)})
                if peers.spend_hedges(len(indexes)) and answers:
                    peers.note_slow(node_id)
        return shown

    # ---- changes ----

    def change(
        self, entry: BucketEntry, items: Sequence[f.Change], deadline_s: float, over_s: float | None = None
    ) -> Steps[list[Outcome]]:
        """Have each change carried out once; return what became of it, or its error, in the order given.

        ``over_s``: when nobody goes on with it any more, here or elsewhere; None: as ``deadline_s``. The deadlines that
        nodes are given are too early, by the latency of the answer that told of their clocks, and by another at each.
        """
        over_s = deadline_s if over_s is None else max(deadline_s, over_s)
        routing = self._routing
        places = [routing.place(entry.config, change.key) for change in items]
        attempt = _Attempt(items, places)
        if self._quiet_s:
            now_s = routing.clock.monotonic_s()
            attempt.silent = {node_id for node_id, until_s in self._quiet_s.items() if now_s < until_s}
        grace_s = routing.present.config.gc_grace_s
        # No longer than its receipts are kept (L12).
        deadline_s = min(deadline_s, routing.clock.monotonic_s() + min(MAX_CHANGE_S, grace_s / 4))
        while attempt.open:
            now_s = routing.clock.monotonic_s()
            if now_s >= deadline_s:
                break
            routing.check_there(entry.bucket_id)
            wanted = self._wanted(attempt)
            bodies = {
                node_id: self._body(entry, attempt, node_id, indexes, deadline_s, over_s)
                for node_id, indexes in wanted.items()
            }
            patience_s = min(deadline_s - now_s, MOST_PATIENCE_S, PATIENCE_S * (1 << min(attempt.tries, 4)))
            if any(change.turn for change in items):
                patience_s = min(deadline_s - now_s, patience_s + TURN_S)
            if attempt.tries == 0:
                yield from self._try_at_once(attempt, wanted, bodies, patience_s)
            else:
                yield from self._try_with_calls(entry, attempt, wanted, bodies, patience_s, deadline_s, over_s)
            attempt.tries += 1
            if attempt.open and (attempt.anew or not attempt.at_once):
                pause_s = min(MOST_PAUSE_S, PAUSE_S * attempt.tries)
                yield Wait(Fanout(routing.peers, deadline_s), min(deadline_s, routing.clock.monotonic_s() + pause_s))
        return [
            self._unsettled(attempt, index) if outcome is None else outcome
            for index, outcome in enumerate(attempt.outcomes)
        ]

    def _wanted(self, attempt: _Attempt) -> dict[str, list[int]]:
        """Return whom to ask for which changes."""
        attempt.at_once = attempt.anew = False
        wanted: dict[str, list[int]] = {}
        for index in attempt.open:
            place = attempt.places[index]
            wanted.setdefault(self._target(attempt, place), []).append(index)
        return wanted

    def _target(self, attempt: _Attempt, place: Place) -> str:
        """Return the node to ask about a partition: its leader, or, where that does not answer, another owner."""
        owners = self._routing.present.read_set(*place)
        leader = self._leaders.get(place)
        order = owners if leader is None or leader not in owners else (leader, *owners)
        away = attempt.silent | attempt.unable
        if not attempt.tries and leader is None:
            order = self._routing.peers.first_available(owners, 1) or owners
            attempt.silent |= set(owners[: owners.index(order[0])])
        peers, now_s = self._routing.peers, self._routing.clock.monotonic_s()
        for node_id in order:
            if node_id in away:
                continue
            if not attempt.tries and peers.unreachable(node_id, now_s):  # else each partition's first change would wait
                attempt.silent.add(node_id)
                continue
            return node_id
        attempt.anew = True
        attempt.silent.difference_update(owners)
        attempt.unable.difference_update(owners)
        return order[0]

    def _body(
        self,
        entry: BucketEntry,
        attempt: _Attempt,
        node_id: str,
        indexes: list[int],
        deadline_s: float,
        over_s: float,
    ) -> f.Apply:
        clock = self._clocks.get(node_id)
        items = [
            msgspec.structs.replace(attempt.items[index], resent=True)
            if index in attempt.sent
            else attempt.items[index]
            for index in indexes
        ]
        run, expires_s = (0, 0.0) if clock is None else (clock.run, deadline_s + clock.ahead_s)
        silent, unable = sorted(attempt.silent - {node_id}), sorted(attempt.unable - {node_id})
        left_s = max(0.001, over_s - self._routing.clock.monotonic_s())
        return f.Apply(entry.bucket_id, items, run, expires_s, silent, unable, left_s)

    def _try_at_once(
        self, attempt: _Attempt, wanted: dict[str, list[int]], bodies: dict[str, f.Apply], patience_s: float
    ) -> Steps[None]:
        """Send one round of frames: in nearly all cases the leaders answer it."""
        peers = self._routing.peers
        said: Said = {}
        frames = {node_id: peers.request(node_id, body, self._routing.epoch, said) for node_id, body in bodies.items()}
        answers = yield Round(frames, ((tuple(frames), len(frames)),), patience_s)
        for node_id, indexes in wanted.items():
            frame = answers.get(node_id)
            answer = peers.plain(node_id, frame, said)
            if isinstance(answer, f.NodeRefused | f.NotOwner) or (answer is None and frame is not None):
                # Calls have the whole protocol: other runs, and a state that the node does not know.
                attempt.at_once = True
                # A run that is over by now may have begun it, as may one whose disk failed.
                if (bodies[node_id].run and answer is None) or (
                    isinstance(answer, f.NodeRefused) and answer.reason == "failed"
                ):
                    attempt.sent.update(indexes)
                continue
            self._take(attempt, node_id, indexes, bodies[node_id], answer)

    def _try_with_calls(
        self,
        entry: BucketEntry,
        attempt: _Attempt,
        wanted: dict[str, list[int]],
        bodies: dict[str, f.Apply],
        patience_s: float,
        deadline_s: float,
        over_s: float,
    ) -> Steps[None]:
        clock = self._routing.clock
        fan: Fanout[None] = Fanout(self._routing.peers, deadline_s, self._routing.epoch)
        for node_id, body in bodies.items():
            fan.send(node_id, body, len(wanted[node_id]), None)
        until_s = clock.monotonic_s() + patience_s
        missing = {*wanted}
        while missing and clock.monotonic_s() < until_s:
            outcome = yield from fan.next(until_s)
            if outcome is None:
                break
            node_id = outcome.node_id
            missing.discard(node_id)
            if outcome.failure is not None:
                attempt.reasons[node_id] = str(outcome.failure)
                if is_overloaded(outcome.failure):
                    attempt.reasons["overloaded"] = str(outcome.failure)
                elif not isinstance(outcome.failure, PeerRefused):
                    attempt.sent.update(wanted[node_id])
                    attempt.silent.add(node_id)
                    attempt.at_once = True
                elif outcome.failure.reason in {"suspected", "stopping"}:
                    attempt.silent.add(node_id)
                    attempt.at_once = True
                if fan.moved:
                    attempt.at_once = True
                continue
            was_dated, at_once = bodies[node_id].run, attempt.at_once
            self._take(attempt, node_id, wanted[node_id], bodies[node_id], outcome.answer)
            if not was_dated and _all_late(outcome.answer):  # its clock is known now; the others may take long
                bodies[node_id] = self._body(entry, attempt, node_id, wanted[node_id], deadline_s, over_s)
                fan.send(node_id, bodies[node_id], len(wanted[node_id]), None)
                missing.add(node_id)
                attempt.at_once = at_once
        fan.leave(lambda _: None)
        for node_id in missing:
            self._take(attempt, node_id, wanted[node_id], bodies[node_id], None)

    def _take(
        self, attempt: _Attempt, node_id: str, indexes: list[int], body: f.Apply, answer: f.NodeAnswerBody | None
    ) -> None:
        """Take a node's answer; None: it gave none in time."""
        if answer is None:
            attempt.reasons[node_id] = "no answer in time"
            if body.run:
                attempt.sent.update(indexes)
            attempt.silent.add(node_id)
            attempt.at_once = True
            self._quiet_s[node_id] = self._routing.clock.monotonic_s() + QUIET_S
            return
        self._quiet_s.pop(node_id, None)
        if not isinstance(answer, f.Applied) or len(answer.items) != len(indexes):
            incomplete = isinstance(answer, f.Incomplete)
            attempt.reasons[node_id] = "incomplete" if incomplete else "gave an answer that does not fit"
            attempt.unable.add(node_id)
            attempt.at_once = True
            return
        attempt.silent.discard(node_id)
        self._clocks[node_id] = _Clock(answer.run, answer.now_s - self._routing.clock.monotonic_s())
        for index, settled in zip(indexes, answer.items, strict=True):
            self._take_one(attempt, node_id, index, settled)
            if body.run and settled.status not in _KNOWN:
                attempt.sent.add(index)

    def _take_one(self, attempt: _Attempt, node_id: str, index: int, settled: f.Settled) -> None:
        """Take what a node says of one change."""
        place = attempt.places[index]
        match settled.status:
            case status if status in c.FINAL:
                if index in attempt.sent:
                    settled = msgspec.structs.replace(settled, unanswered=True)
                attempt.outcomes[index] = settled
                self._leaders[place] = node_id
            case c.LATE:
                attempt.at_once = True
            case c.ELSEWHERE:
                attempt.at_once = attempt.at_once or (settled.leader != self._leaders.get(place) and attempt.tries < 8)
                self._leaders[place] = settled.leader
                attempt.reasons[node_id] = f"node {settled.leader} leads"
                if settled.leader in attempt.silent:  # it answers others: if not this caller, the next owner takes over
                    attempt.silent.discard(settled.leader)
                    if attempt.tries > 2:
                        attempt.unable.add(settled.leader)
            case c.UNABLE:
                attempt.unable.add(node_id)
                attempt.reasons[node_id] = "it cannot lead: it is incomplete, or its disk is full"
                attempt.at_once = True
            case _:
                attempt.reasons[node_id] = "too few owners answered it"

    def _unsettled(self, attempt: _Attempt, index: int) -> RaykvError:
        change = attempt.items[index]
        said = (
            "; ".join(f"{node_id}: {cause}" for node_id, cause in sorted(attempt.reasons.items()))
            or "no answer in time"
        )
        if change.kind == c.READ:
            return QuorumNotMet(f"the read needs the leader of its partition, and a majority of its owners: {said}")
        if index in attempt.sent:
            name = f"{change.lane.hex()}-{change.number}"
            return WriteOutcomeUnknown(
                f"the change may stand, and may surface later: {said}", operation_id=name, acks=[]
            )
        kind = Overloaded if "overloaded" in attempt.reasons else StoreUnavailable
        return kind(f"nothing was written: {said}")


def _all_late(answer: f.NodeAnswerBody | None) -> bool:
    """Whether a node did nothing of a request, for it was dated by another clock."""
    return isinstance(answer, f.Applied) and all(settled.status == c.LATE for settled in answer.items)


def plainly_read(copies: Sequence[Copy]) -> f.Settled | None:
    """Return what F owners show of a key, if that is known to be the last; else None (L8)."""
    record, term, _ = copies[0]
    for other, _, _ in copies:
        if other != record:
            return None
    if record is None:
        return f.Settled(c.DONE)
    for _, promised, _ in copies:
        if promised != term:
            return None
    if linear.term_of(record) != term and not any(is_head for _, _, is_head in copies):
        return None
    return f.Settled(c.DONE, *linear.shown(record))


def _shown(outcome: Outcome, *, causality: bool) -> bytes | f.KeyVersions | f.Failed:
    """Return an entry of the answer to a read; the version stands where the causality of other buckets does."""
    if isinstance(outcome, RaykvError):
        return f.Failed.of(outcome)
    if causality:
        return f.KeyVersions([] if outcome.payload is None else [outcome.payload], False, outcome.version)
    return outcome.payload if outcome.payload is not None else f.KeyVersions([])
