"""Putting jobs into a queue: each slot is written once, where none stands and the one before it does.

Nobody gives out slot numbers. A producer writes where it takes a shard's end to be; if another was there first, it sees
what that has put, and tries the next. A put whose outcome is unknown is settled where it was sent: it is sent there again,
until it stands or another does; it cannot come into effect later, for a slot is written only where none stands, and a
removed one refuses its fencing token. So a job is there once, or, after ``WriteOutcomeUnknown``, once or not at all.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.client import shards
from raykv.client.codecs import encode_value
from raykv.client.exchange import TRY_AGAIN
from raykv.client.given import called
from raykv.client.queue_books import Books, check_delay
from raykv.client.shards import Book, Slot
from raykv.config import MIB, shown
from raykv.errors import Full, InvalidOption, Overloaded, PairTooLarge, RaykvError, WriteOutcomeUnknown
from raykv.protocol import changes as c
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raykv.client.exchange import Steps
    from raykv.client.operations import Operations

MOST_JOB_BYTES = MIB - 8192
MOST_JOBS = 1_000_000
"""In one call."""
PUT_ID_BYTES = 12
PROBES = (0, 1, 3, 7, 15, 31, 63, 127)
"""How far ahead a producer looks for a shard's end, all at once."""
LOST_RACES = 3
"""After as many slots that others had taken the end is looked for anew."""
_bells: dict[tuple[str, str], int] = {}
MOST_BELLS = 10_000


def bell_of(store: str, queue: str) -> int:
    """Return a number that changes when this process puts something into a queue."""
    return _bells.get((store, queue), 0)


def ring(store: str, queue: str) -> None:
    """Wake those in this process that wait for jobs of a queue."""
    if len(_bells) >= MOST_BELLS:
        _bells.clear()
    _bells[store, queue] = _bells.get((store, queue), 0) + 1


class _Put(NamedTuple):
    """A slot to be written: which of the call's, and where."""

    at: int
    shard: int
    seq: int
    before: int


class _Call:
    """What has become of the slots of one call so far."""

    def __init__(self, slots: list[list[bytes]], call_id: bytes, due_ms: int, targets: list[int]) -> None:
        self.slots = slots
        self.call_id = call_id
        self.due_ms = due_ms
        self.targets = targets
        self.waiting = deque(range(len(slots)))
        self.placed: dict[int, _Put] = {}
        self.unsure: dict[int, _Put] = {}
        """Shard -> the put there whose outcome is not known yet."""
        self.races = dict.fromkeys(targets, 0)

    @property
    def is_over(self) -> bool:
        """Whether all slots stand."""
        return not self.waiting and not self.unsure

    def put_id(self, put: _Put) -> bytes:
        """Return the name of a slot, by which its producer knows it again."""
        return self.call_id + put.at.to_bytes(4)

    def slot(self, put: _Put) -> Slot:
        """Return what is written."""
        return Slot(put.seq, put.before, self.put_id(put), self.due_ms, self.slots[put.at])

    def ids(self) -> list[str]:
        """Return the ids of the jobs that stand, in order."""
        return [
            shards.job_id(put.shard, (put.seq, at))
            for _, put in sorted(self.placed.items())
            for at in range(len(self.slots[put.at]))
        ]


class Puts(Books):
    """The steps that put."""

    _turn = -1

    def put_all(self, values: Any, *, delay: Any, timeout: Any, whole: bool = False) -> Steps[list[str]]:
        """Put jobs; return their ids, in order. ``whole``: none of them, where there is not room for all."""
        delay_ms = check_delay(delay)
        jobs = [self._encoded(value) for value in called(lambda: several_values(values))]
        if len(jobs) > MOST_JOBS:
            raise Overloaded(f"nothing was put: more than {MOST_JOBS} jobs in one call, which is the most; put fewer")
        if not jobs:
            return []
        ids = yield from self.work(
            timeout, lambda operations, until_s: self._put(operations, jobs, delay_ms, until_s, whole=whole)
        )
        ring(self.session.name, self.name)
        self.count("put", len(ids))
        return ids

    def _encoded(self, value: Any) -> bytes:
        job = encode_value(value, self.codec, self.session.link.pickled)
        if len(job) > MOST_JOB_BYTES:
            raise PairTooLarge(
                f"nothing was put: a job has {len(job)} bytes, and {MOST_JOB_BYTES} is the most. Store what is large under "
                "a key, and put the key",
                size_bytes=len(job),
                limit_bytes=MOST_JOB_BYTES,
            )
        return job

    def _put(
        self, operations: Operations, jobs: list[bytes], delay_ms: int, until_s: float, *, whole: bool
    ) -> Steps[list[str]]:
        """Write the slots: in each shard one after the other, in all shards at once."""
        slots = shards.filled(jobs)
        due_ms = self.session.link.wall_ms() + delay_ms if delay_ms else 0
        targets = [self.delayed] if delay_ms else self._next_shards(len(slots))
        call = _Call(slots, self.session.link.random_bytes(PUT_ID_BYTES), due_ms, targets)
        tries = 0
        try:
            if whole and not delay_ms:
                yield from self._check_room(operations, len(jobs), until_s)
            while not call.is_over:
                tries += 1
                before = len(call.placed)
                failure = yield from self._round(operations, call, until_s)
                if failure is not None:
                    yield from self.pause(failure, tries, until_s)
                elif self.now_s() >= until_s and not call.is_over:
                    raise Overloaded("the time-out was over")
                if len(call.placed) > before:
                    tries = 0
        except RaykvError as error:
            raise self._failed(error, call, len(jobs)) from error
        return call.ids()

    def _next_shards(self, slots: int) -> list[int]:
        """Return the shards for as many slots: in turn, from a random one on."""
        count = self.settings().shards
        turn = self._turn
        if turn < 0:
            turn = int.from_bytes(self.session.link.random_bytes(2))
        self._turn = (turn + min(slots, count)) % (1 << 30)
        return [(turn + at) % count for at in range(min(slots, count))]

    def _round(self, operations: Operations, call: _Call, until_s: float) -> Steps[RaykvError | None]:
        """Write at most one slot of each shard; return why one could not be written, if that may pass."""
        sent = [*call.unsure.values()]
        for shard in call.targets:
            if shard not in call.unsure and call.waiting:
                seq, before = yield from self.end_of(operations, shard, until_s)
                put = _Put(call.waiting[0], shard, seq, before)
                if not call.due_ms:
                    yield from self._check_room(operations, len(call.slots[put.at]), until_s, put.before)
                call.waiting.popleft()
                sent.append(put)
        changes = [
            operations.put_change(
                self.slot_key(put.shard, put.seq), shards.encoded(call.slot(put)), if_absent=True,
                fence=shards.put_fence(put.seq),
            )
            for put in sent
        ]  # fmt: skip
        were_unsure = {*call.unsure}
        settled, _ = yield from operations.carry_out(changes, self.request_s(until_s))
        failure: RaykvError | None = None
        in_the_way: list[tuple[int, int]] = []
        for put, each in zip(sent, settled, strict=True):
            if isinstance(each, f.Settled) and each.status != c.STALE:
                call.unsure.pop(put.shard, None)
                former = self._settle(call, put, each, was_unsure=put.shard in were_unsure)
                if former is not None:
                    in_the_way.append((put.shard, former))
                continue
            error = each if isinstance(each, RaykvError) else WriteOutcomeUnknown("its outcome is not known", acks=[])
            if not isinstance(error, TRY_AGAIN):
                raise error
            failure = error
            if isinstance(error, WriteOutcomeUnknown):
                call.unsure[put.shard] = put
            elif put.shard not in were_unsure:
                call.waiting.appendleft(put.at)
        return (yield from self._make_way(operations, in_the_way, until_s)) or failure

    def _make_way(
        self, operations: Operations, in_the_way: list[tuple[int, int]], until_s: float
    ) -> Steps[RaykvError | None]:
        """Remove done slots, each a shard and a number; return why one could not be, if that may pass."""
        failure: RaykvError | None = None
        for shard, seq in in_the_way:
            try:
                is_free = yield from self.remove_done(operations, shard, seq, until_s)
            except TRY_AGAIN as error:
                failure = error
            else:
                if not is_free:
                    raise self.not_done()
        return failure

    def _settle(self, call: _Call, put: _Put, settled: f.Settled, *, was_unsure: bool) -> int | None:
        """Account for a write whose outcome is known; return the slot of an earlier use of the key that was in its way.

        Raises ``WriteOutcomeUnknown``.
        """
        known = self._known[put.shard]
        there = self.standing(settled)
        if settled.status == c.DONE or (there is not None and there.put_id == call.put_id(put)):
            call.placed[put.at] = put
            known.note_tail((put.seq + 1, put.before + len(call.slots[put.at])), self.moment())
            return None
        call.waiting.appendleft(put.at)
        call.races[put.shard] += 1
        if there is not None and there.seq == put.seq:  # another was first
            lost = call.races[put.shard] % LOST_RACES == 0
            known.note_tail(None if lost else (there.seq + 1, there.behind), self.moment())
            return None
        known.note_tail(None, self.moment())
        known.book = None
        if was_unsure:  # what was sent before may still come into effect, once the place is free
            call.unsure[put.shard] = put
            call.waiting.popleft()
        if there is not None and there.seq < put.seq:
            return there.seq
        if was_unsure:  # the slot is free again: it was put and done meanwhile, or another was
            raise WriteOutcomeUnknown("what was put there has been done meanwhile", acks=[])
        return None

    def _failed(self, error: RaykvError, call: _Call, jobs: int) -> RaykvError:
        """Return the error of a call that did not put all of its jobs."""
        ids = call.ids()
        if call.unsure:
            unsure = sum(len(call.slots[put.at]) for put in call.unsure.values())
            return WriteOutcomeUnknown(
                f"of {jobs} jobs {len(ids)} were put, and the outcome of {unsure} is unknown: each is in the queue once, or "
                f"not at all ({error})",
                acks=[],
                put=ids,
            )
        if not ids:
            return error
        kind = Full if isinstance(error, Full) else Overloaded
        why = error.message.removeprefix("nothing was put: ")
        return kind(f"of {jobs} jobs {len(ids)} were put, and the rest was not ({why})", put=ids)

    # ---- the end of a shard ----

    def end_of(self, operations: Operations, shard: int, until_s: float) -> Steps[tuple[int, int]]:
        """Return the slot that comes next, and how many jobs stand before it. O(log(slots that wait)) if it is not known."""
        known, moment = self._known[shard], self.moment()
        if (tail := known.tail(moment)) is not None:
            return tail
        book = yield from self.fresh_book(operations, shard, until_s)
        tail = (yield from self.ends_after(operations, {shard: book}, until_s))[shard]
        known.note_tail(tail, moment)
        return tail

    def ends_after(
        self, operations: Operations, books: Mapping[int, Book], until_s: float
    ) -> Steps[dict[int, tuple[int, int]]]:
        """Return the ends of shards that are behind what their books say; as ``end_of``."""
        ends = {at: max((book.head, book.before), (book.tail, book.tail_before)) for at, book in books.items()}
        open_ = [*ends]
        while open_:
            wanted = [(shard, ends[shard][0] + ahead) for shard in open_ for ahead in PROBES]
            found = yield from self.read_slots(operations, wanted, until_s)
            further = []
            for shard in open_:
                last = max((seq for at, seq in found if at == shard), default=None)
                if last is not None:
                    ends[shard] = last + 1, found[shard, last].behind
                    if (shard, last + 1) not in wanted:  # else it was looked for, and is not there
                        further.append(shard)
            open_ = further
        return ends

    def _check_room(self, operations: Operations, jobs: int, until_s: float, before: int | None = None) -> Steps[None]:
        """Raise ``Full`` where a queue with a maximum has no room for as many jobs. The maximum is exact: see ``end_of``."""
        most = self.settings().maxsize
        if not most:
            return
        if before is None:
            _, before = yield from self.end_of(operations, 0, until_s)
        book = self.book_of(0)
        if book is not None and before - book.done + jobs <= most:  # whatever others have given back since
            return
        book = yield from self.fresh_book(operations, 0, until_s)
        if self._waiting(book, before) + jobs > most:
            raise Full(f"nothing was put: queue {shown(self.name)} has {self._waiting(book, before)} of {most} jobs")

    @staticmethod
    def _waiting(book: Book, before_end: int) -> int:
        """Return how many jobs of a shard wait, where ``before_end`` were ever put."""
        return before_end - book.taken + shards.jobs_of(waiting.range for waiting in book.again)


def several_values(values: Any) -> list[Any]:
    """Return values as a list. Raises ``InvalidOption`` for what is no iterable, or a single text."""
    if isinstance(values, str | bytes | dict) or not hasattr(values, "__iter__"):
        raise InvalidOption(f"put_many takes a list of jobs; got {type(values).__name__}: {shown(values)}")
    try:
        begun = iter(values)
    except TypeError:  # an array without dimensions, for example
        raise InvalidOption(f"put_many takes a list of jobs; got {type(values).__name__}: {shown(values)}") from None
    return list(islice(begun, MOST_JOBS + 1))  # one more than may be, of an iterable that does not end
