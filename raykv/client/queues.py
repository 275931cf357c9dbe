"""Work queues: jobs that are each done at least once, in slots and books of a bucket (``raykv.client.shards``).

A consumer *claims* jobs: one compare-and-set moves the cursor of a shard and notes the claim. It *acks* what it has done,
and *nacks* what it has not. A claim that shows no sign of life for its lease is ended by the next consumer that looks, and
its jobs are delivered again, ``max_deliveries`` times at most; then they are dead letters.

A consumer keeps to one shard while there is something in it and no other consumer is quicker there; once a second it looks
at all of them and goes on to the next. One that finds nothing looks less and less often, and at once after a put of its own
process.

Left out: exactly once. A job is delivered twice if a consumer dies, or sleeps through its lease, with the claim.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypedDict

from raykv.client import shards
from raykv.client.codecs import decode_of
from raykv.client.exchange import TRY_AGAIN
from raykv.client.handle import V
from raykv.client.queue_books import (
    BUSY,
    LEAST_REQUEST_S,
    NOTHING,
    QUEUES,
    REQUEST_S,
    check_delay,
    check_wait,
    gave_way,
)
from raykv.client.queue_names import NamedPuts
from raykv.client.queue_puts import bell_of
from raykv.client.shards import Book, Claim, Place, Range, Slot, first_jobs, jobs_of, places_of
from raykv.config import check_count, check_timeout, shown
from raykv.errors import Empty, Full, InvalidOption, RaykvError, WriteOutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raykv.client.exchange import Steps
    from raykv.client.job_claims import ClaimKey
    from raykv.client.operations import Operations

__all__ = ["QUEUES", "Job", "QueueStats", "Queues"]

Claims: TypeAlias = "dict[ClaimKey, set[Place]]"
Outcomes: TypeAlias = "dict[ClaimKey, bool | RaykvError]"
"""Claim -> whether all its jobs were still held, or why that is not known."""
Settle: TypeAlias = "Callable[[Book, bytes, set[Place]], int]"
CLAIM_ID_BYTES = 8
MOST_CLAIMED = 10_000
"""Jobs of one call."""
ROUNDS = 3
"""How often a consumer goes to another shard where others were quicker; then it waits its turn."""
LOOK_EVERY_S = 1.0
LEAST_CLAIM_S = 1.0
"""A claim is given up no sooner: one whose outcome is not known holds jobs for its lease, and costs them a delivery."""
AHEAD = 8
"""Slots that are read ahead of the cursor, if they are small."""
SMALL_BYTES = 4096
FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.5
"""A consumer that finds nothing looks this often at least; more often in the beginning."""
SLICE_S = 0.02
"""It listens this often for a put of its own process, which costs no request."""
RENEWALS_A_LEASE = 3


class Job(NamedTuple, Generic[V]):
    """A job that was claimed; can be pickled, and settled by any handle of its queue."""

    id: str
    payload: bytes
    """Its value, encoded."""
    deliveries: int
    """How often it was delivered, this time included."""
    claim: str
    """The claim that holds it; empty for one that was only looked at."""
    codec: str = "auto"

    @property
    def value(self) -> V:
        """What was put. Raises ``CorruptData`` if it cannot be decoded here; then ``nack`` it."""
        value: V = decode_of(self.id, self.payload, self.codec)
        return value

    def __repr__(self) -> str:
        return f"<raykv job {self.id}, delivery {self.deliveries}, {len(self.payload)} bytes>"


class QueueStats(TypedDict):
    """The figures of a queue: jobs, and ``shards``."""

    waiting: int
    """Those that can be claimed now, or will be."""
    delayed: int
    """Of these, those that are not due yet and were looked at by a consumer."""
    claimed: int
    dead: int
    put: int
    done: int
    redelivered: int
    """Deliveries beyond the first."""
    shards: int
    maxsize: int


class Queues(NamedPuts):
    """The steps of one queue handle."""

    _home = -1
    _looked_s = float("-inf")

    # ---- claiming ----

    def claim(self, count: Any, *, wait: Any, timeout: Any, done: Any = ()) -> Steps[list[Job[Any]]]:
        """Claim up to ``count`` jobs; wait for the first; none if there was none in time. Before, finish those ``done``."""
        finished = claims_of(done)
        count = check_count("count", count, 1, MOST_CLAIMED)
        wait_s, timeout_s = check_wait(wait), check_timeout(timeout)
        over_s = self.now_s() + wait_s
        pause_s = FIRST_PAUSE_S
        while True:
            heard = bell_of(self.session.name, self.name)
            try:
                found = yield from self.work(
                    timeout_s, lambda some, until_s: self._claim_once(some, count, until_s, finished)
                )
                failure = None
            except TRY_AGAIN as error:
                if finished:
                    raise
                found, failure = [], error
            if found:
                return found
            left_s = over_s - self.now_s()
            if left_s <= 0:
                if failure is not None:
                    raise failure
                return []
            yield from self._idle(min(left_s, pause_s * self.spread()), heard)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if bell_of(self.session.name, self.name) != heard:
                pause_s = FIRST_PAUSE_S

    def _idle(self, pause_s: float, heard: int) -> Steps[None]:
        """Wait, or until this process puts something."""
        over_s = self.now_s() + pause_s
        while (left_s := over_s - self.now_s()) > 0 and bell_of(self.session.name, self.name) == heard:
            yield from self.wait(min(left_s, SLICE_S))

    def _claim_once(
        self, operations: Operations, count: int, until_s: float, finished: Claims
    ) -> Steps[list[Job[Any]]]:
        """Claim from the shard of the last claim, as it is known; where that has nothing, look at all.

        What is ``finished`` is noted in the same revision, if it is of that shard, and is left out afterwards.
        """
        all_shards = self.settings().shards + 1
        if self._home < 0:
            self._home = int.from_bytes(self.session.link.random_bytes(2))
        self._home %= all_shards
        looks = self.now_s() >= self._looked_s + LOOK_EVERY_S
        at_once = not looks and all(shard == self._home for shard, _ in finished)
        if not at_once:
            all_held((yield from self._take_from(operations, finished, _finish, until_s)))
            finished.clear()
        if not looks:
            claimed = yield from self._take(operations, self._home, count, until_s, finished)
            finished.clear()
            if claimed:
                return claimed
        yield from self._look(operations, until_s)
        for tries in range(ROUNDS):
            first = self._home + 1 + int.from_bytes(self.session.link.random_bytes(2)) * bool(tries)
            busy = False
            for at in range(all_shards):
                shard = (first + at) % all_shards
                if self._promises(shard):
                    claimed = yield from self._take(operations, shard, count, until_s, gives_way=tries + 1 < ROUNDS)
                    if gave_way(claimed):
                        busy = True
                    elif claimed:
                        self._home = shard
                        return claimed
            if not busy:
                break
        return []

    def _look(self, operations: Operations, until_s: float) -> Steps[None]:
        """Read all books, and the first fresh slots: one request, and another where a cursor has moved."""
        self._looked_s = self.now_s()
        every = range(self.settings().shards + 1)
        books = [self.book_of(shard) for shard in every]
        guessed = [(shard, 0 if book is None else book.head) for shard, book in zip(every, books, strict=True)]
        keys = [self.book_key(shard) for shard in every]
        read = yield from self.read(operations, [*keys, *(self.slot_key(*each) for each in guessed)], until_s)
        moved = []
        for (shard, seq), (data, version), (slot, _) in zip(guessed, read, read[len(keys) :], strict=False):
            book = self.learn(shard, data, version)
            if book.head == seq:
                self._note(shard, seq, None if slot is None else shards.slot_of(slot, self.name))
            else:
                moved.append((shard, book.head))
        if moved:
            found = yield from self.read_slots(operations, moved, until_s)
            for each in moved:
                self._note(*each, found.get(each))

    def _note(self, shard: int, seq: int, slot: Slot | None) -> None:
        if slot is not None and slot.seq == seq:
            self._known[shard].slots[seq] = slot
        else:
            self._known[shard].empty_at = seq

    def _promises(self, shard: int) -> bool:
        """Whether there seems to be something to do in a shard."""
        book = self.book_of(shard)
        if book is None:
            return False
        wall_ms = self.session.link.wall_ms()
        known = self._known[shard]
        if book.head in known.slots or book.head != known.empty_at or self.expired(shard, book, wall_ms):
            return True
        return any(waiting.due_ms <= wall_ms for waiting in book.again)

    def _take(
        self,
        operations: Operations,
        shard: int,
        count: int,
        until_s: float,
        finished: Claims | None = None,
        *,
        gives_way: bool = False,
    ) -> Steps[list[Job[Any]]]:
        """Claim up to ``count`` jobs of one shard; note there what is ``finished``.

        Again, where others have moved the cursor beyond what was read ahead.
        """
        while True:
            head = yield from self._read_ahead(operations, shard, count, until_s)
            claimed = yield from self._try_to_take(operations, shard, count, until_s, finished or {}, gives_way)
            book = self.book_of(shard)
            if claimed or finished or self.now_s() >= until_s or book is None or book.head == head:
                return claimed

    def _try_to_take(
        self, operations: Operations, shard: int, count: int, until_s: float, finished: Claims, gives_way: bool
    ) -> Steps[list[Job[Any]]]:
        """Claim up to ``count`` jobs of those that were read ahead."""
        known, link, sent_s = self._known[shard], self.session.link, 0.0
        still_held: Claims = {}
        claim_id, owner = link.random_bytes(CLAIM_ID_BYTES), link.place()[:255]

        def revision(book: Book, unsure: bool) -> list[Range]:
            nonlocal sent_s
            if unsure and (mine := book.claim_of(claim_id)) is not None:
                return [*mine.ranges]
            counts = {claim: book.finish(claim[1], places) for claim, places in finished.items()}
            settled = sum(counts.values())
            if not unsure:  # else an earlier try may have
                still_held.clear()
            still_held.update((claim, finished[claim]) for claim, count in counts.items() if count)
            wall_ms = link.wall_ms()
            over = self.expired(shard, book, wall_ms)
            book.expire(over, self.max_deliveries)
            head = book.head
            book.pass_delayed(known.slots, wall_ms)
            ranges = book.take(known.slots, count, wall_ms)
            if not ranges and not over and not settled and book.head == head:
                nothing: list[Range] = NOTHING
                return nothing
            book.newest_ms = max(book.newest_ms, wall_ms)
            if ranges:
                sent_s = self.now_s()
                book.claims.append(Claim(claim_id, owner, round(1000 * self.lease_s), 0, book.newest_ms, ranges))
            return ranges

        # What is finished is never judged by what is only remembered: else it would stay undone without a word.
        ranges = yield from self._settled_by(
            finished,
            self.revise(operations, shard, revision, until_s, gives_way=gives_way, certain=bool(finished)),
            still_held,
        )
        if gave_way(ranges):
            busy: list[Job[Any]] = BUSY
            return busy
        if ranges is NOTHING or not ranges:
            return []
        self.session.job_claims.note_made((shard, claim_id), sent_s)
        self.count("claimed", jobs_of(ranges))
        slots = yield from self._slots_of(operations, shard, ranges, until_s)
        yield from self.note_named(operations, slots.values(), shard, max(until_s, self.now_s() + 1.0))
        book = self.book_of(shard)
        for seq in [seq for seq in [*known.slots] if book is None or seq < book.head]:
            known.slots.pop(seq, None)
        receipt = f"{shard}:{claim_id.hex()}"
        return [  # a slot that is gone: the lease was over before it was read, and others have done its jobs
            self._job(shard, place, deliveries, slots, receipt)
            for place, deliveries in places_of(ranges)
            if place[0] in slots
        ]

    def _job(self, shard: int, place: Place, deliveries: int, slots: dict[int, Slot], receipt: str = "") -> Job[Any]:
        return Job(shards.job_id(shard, place), slots[place[0]].jobs[place[1]], deliveries, receipt, self.codec)

    def _read_ahead(self, operations: Operations, shard: int, count: int, until_s: float) -> Steps[int]:
        """Read fresh slots for as many jobs, as far as they are not known; return where the cursor is."""
        known = self._known[shard]
        book = self.book_of(shard)
        if book is None:
            book = yield from self.fresh_book(operations, shard, until_s)
        seq, jobs, last = book.head, -book.at, None
        while (slot := known.slots.get(seq)) is not None and jobs < count:
            seq, jobs, last = seq + 1, jobs + len(slot.jobs), slot
        if jobs >= count:
            return book.head
        small = last is None or sum(map(len, last.jobs)) <= SMALL_BYTES
        ahead = AHEAD if small else min(AHEAD, 1 + (count - jobs) // max(1, len(last.jobs) if last else 1))
        wanted = [(shard, seq + at) for at in range(ahead)]
        found = yield from self.read_slots(operations, wanted, until_s)
        for each in wanted:
            self._note(*each, found.get(each))
            if each not in found:
                break
        return book.head

    def _slots_of(
        self, operations: Operations, shard: int, ranges: Iterable[Range], until_s: float
    ) -> Steps[dict[int, Slot]]:
        """Return the slots of jobs: what was read ahead, and the rest, without those that are gone."""
        known = self._known[shard].slots
        wanted = sorted({part[0] for part in ranges})
        slots = {seq: known[seq] for seq in wanted if seq in known}
        missing = [(shard, seq) for seq in wanted if seq not in slots]
        if missing:
            found = yield from self.read_slots(operations, missing, max(until_s, self.now_s() + 1.0))
            slots |= {seq: slot for (_, seq), slot in found.items()}
        return slots

    # ---- as ray.util.queue has it ----

    def get(self, block: Any, timeout: Any) -> Steps[Any]:
        """Claim a job, ack it, and return its value. Raises ``Empty``."""
        over_s = self.now_s() + (check_wait(timeout) if check_flag("block", block) else 0.0)
        request_s = _request_s(block, timeout)
        while True:
            jobs = yield from self.claim(1, wait=max(0.0, over_s - self.now_s()), timeout=max(request_s, LEAST_CLAIM_S))
            if not jobs:
                raise Empty(f"queue {shown(self.name)} has no job at present")
            try:
                value = jobs[0].value
            except RaykvError:
                yield from self.give_back(jobs, delay=0, timeout=REQUEST_S)
                raise
            try:
                held = yield from self.finish(jobs, timeout=REQUEST_S)
            except WriteOutcomeUnknown:  # to return it is right in both cases: else it might be lost
                held = True
            if held:
                return value

    def get_batch(self, count: Any) -> Steps[list[Any]]:
        """Claim exactly ``count`` jobs, ack them, and return their values. Raises ``Empty``: nothing was taken then.

        Fewer only where some were lost to others after the rest was acked, and no more are there.
        """
        count = check_count("num_items", count, 0, MOST_CLAIMED)
        values: list[Any] = []
        while len(values) < count:
            try:
                jobs, some = yield from self._claim_exactly(count - len(values))
                kept = yield from self._acked(jobs)
            except RaykvError:
                if values:  # these were acked: nobody else gets them
                    return values
                raise
            values += [value for job, value in zip(jobs, some, strict=True) if job.claim in kept]
        return values

    def _claim_exactly(self, count: int) -> Steps[tuple[list[Job[Any]], list[Any]]]:
        """Claim so many jobs and return them with their values. Raises ``Empty``, with all given back."""
        jobs: list[Job[Any]] = []
        bad: list[Job[Any]] = []
        values: list[Any] = []
        try:
            while len(jobs) < count:
                some = yield from self.claim(count - len(jobs), wait=0, timeout=REQUEST_S)
                if not some:
                    raise Empty(
                        f"nothing was taken: queue {shown(self.name)} has {len(jobs)} of the {count} jobs at present"
                    )
                jobs += some
            for job in jobs:
                bad = [job]
                values.append(job.value)
            bad = []
        except RaykvError:  # at once, not after their lease
            good = [job for job in jobs if job not in bad]
            for some, counted in ((good, False), (bad, True)):
                with contextlib.suppress(RaykvError):  # else their lease ends by itself; the first error is what counts
                    yield from self.give_back(some, delay=0, timeout=REQUEST_S, counted=counted)
            raise
        return jobs, values

    def _acked(self, jobs: list[Job[Any]]) -> Steps[set[str]]:
        """Ack jobs; return the claims of those to go on with. If not one was acked, give them back, and raise why.

        A job that may be acked, or that could not be beside others that are, is gone on with: else it might be lost, or
        delivered once more to somebody while this one has it. One whose lease ran out is another's.
        """
        outcomes = yield from self.finish_each(jobs, timeout=REQUEST_S)
        errors = [outcome for outcome in outcomes.values() if isinstance(outcome, RaykvError)]
        if len(errors) == len(outcomes) and not any(isinstance(error, WriteOutcomeUnknown) for error in errors):
            with contextlib.suppress(RaykvError):
                yield from self.give_back(jobs, delay=0, timeout=REQUEST_S, counted=False)
            raise errors[0]
        return {f"{shard}:{claim_id.hex()}" for (shard, claim_id), held in outcomes.items() if held is not False}

    def put(self, value: Any, block: Any, timeout: Any, delay: Any, once: Any = None) -> Steps[str]:
        """Put a job; return its id. Waits where there is no room. Raises ``Full``."""
        over_s = self.now_s() + (check_wait(timeout) if check_flag("block", block) else 0.0)
        request_s = _request_s(block, timeout)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if once is not None:
                    return (yield from self.put_once(value, once, delay=delay, timeout=request_s))
                return (yield from self.put_all([value], delay=delay, timeout=request_s))[0]
            except Full:
                left_s = over_s - self.now_s()
                if left_s <= 0:
                    raise
            yield from self.wait(min(left_s, pause_s * self.spread()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # ---- settling ----

    def finish(self, jobs: Any, *, timeout: Any) -> Steps[bool]:
        """Note that jobs are done; return whether all were still held."""
        return all_held((yield from self.finish_each(jobs, timeout=timeout)))

    def finish_each(self, jobs: Any, *, timeout: Any) -> Steps[Outcomes]:
        """Note that jobs are done; return what became of each claim."""
        claims = claims_of(jobs)
        return (yield from self.work(timeout, lambda some, until_s: self._take_from(some, claims, _finish, until_s)))

    def give_back(self, jobs: Any, *, delay: Any, timeout: Any, counted: bool = True) -> Steps[bool]:
        """Let jobs be delivered again; return whether all were still held. Not ``counted``: as if never delivered."""
        return all_held((yield from self.give_back_each(jobs, delay=delay, timeout=timeout, counted=counted)))

    def give_back_each(self, jobs: Any, *, delay: Any, timeout: Any, counted: bool = True) -> Steps[Outcomes]:
        """Let jobs be delivered again; return what became of each claim."""
        claims, delay_ms = claims_of(jobs), check_delay(delay)
        due_ms = self.session.link.wall_ms() + delay_ms if delay_ms else 0
        most = self.max_deliveries if counted else 0

        def given_back(book: Book, claim_id: bytes, places: set[Place]) -> int:
            return book.give_back(claim_id, places, due_ms, most)

        def work(operations: Operations, until_s: float) -> Steps[Outcomes]:
            return self._take_from(operations, claims, given_back, until_s, stays=True)

        return (yield from self.work(timeout, work))

    def _take_from(
        self, operations: Operations, claims: Claims, settle: Settle, until_s: float, *, stays: bool = False
    ) -> Steps[Outcomes]:
        """Take jobs from their claims; return of each whether all were still held. One that fails ends no other.

        ``stays``: they are in the book afterwards.
        """
        outcomes: Outcomes = {}
        for (shard, claim_id), places in claims.items():
            self._check_shard(shard)

            def revision(book: Book, unsure: bool, claim_id: bytes = claim_id, places: set[Place] = places) -> int:
                count = settle(book, claim_id, places)
                if count:
                    return count
                if unsure and all(book.has(place) == stays for place in places):
                    return len(places)  # an earlier try has; to write it once more does no harm
                nothing: int = NOTHING
                return nothing

            try:
                count = yield from self._settled_by(
                    {(shard, claim_id): places}, self.revise(operations, shard, revision, until_s)
                )
            except InvalidOption:  # the bucket was dropped, or the job is no job of this queue
                raise
            except RaykvError as error:
                outcomes[shard, claim_id] = error
                continue
            if stays and count is not NOTHING:
                self.count("given_back", count)
            outcomes[shard, claim_id] = count is not NOTHING and count == len(places)
        return outcomes

    def _settled_by(self, claims: Claims, steps: Steps[Any], still_held: Claims | None = None) -> Steps[Any]:
        """Take steps that settle jobs; those who hold them hear of it. ``NOTHING`` from them: nothing was settled.

        ``still_held``: those of which the steps have found jobs, in the end; all by default.
        """
        known = self.session.job_claims
        for claim in claims:
            known.note_settling(claim, 1)
        try:
            result = yield from steps
            if result is not NOTHING and not gave_way(result):
                for claim, places in (claims if still_held is None else still_held).items():
                    known.note_settled(claim, places)
        finally:
            for claim in claims:
                known.note_settling(claim, -1)
        return result

    def _check_shard(self, shard: int) -> None:
        if shard > self.settings().shards:
            raise InvalidOption(f"queue {shown(self.name)} has no shard {shard}: this job is of another queue")

    def renew(self, jobs: Any, *, timeout: Any) -> Steps[bool]:
        """Begin the leases of the jobs' claims anew; return whether all were still held."""
        return all_held((yield from self.renew_each(claims_of(jobs), timeout=timeout)))

    def renew_each(self, claims: Iterable[ClaimKey], *, timeout: Any) -> Steps[Outcomes]:
        """Begin the leases of claims anew; return of each whether it was still there. One that fails ends no other."""
        link = self.session.link

        def work(operations: Operations, until_s: float) -> Steps[Outcomes]:
            outcomes: Outcomes = {}
            for shard, claim_id in claims:
                self._check_shard(shard)

                def revision(book: Book, unsure: bool, claim_id: bytes = claim_id) -> bool:
                    del unsure  # twice does no harm
                    claim = book.claim_of(claim_id)
                    if claim is None:
                        nothing: bool = NOTHING
                        return nothing
                    book.newest_ms = max(book.newest_ms, link.wall_ms())
                    claim.beat, claim.at_ms = claim.beat + 1, book.newest_ms
                    return True

                try:
                    outcomes[shard, claim_id] = (yield from self.revise(operations, shard, revision, until_s)) is True
                except InvalidOption:
                    raise
                except RaykvError as error:
                    outcomes[shard, claim_id] = error
            return outcomes

        return (yield from self.work(timeout, work))

    @property
    def first_renewal_s(self) -> float:
        """How long after a claim it is renewed: it may be a little old by then."""
        return self.lease_s / RENEWALS_A_LEASE / 2

    @property
    def every_s(self) -> float:
        """How often a claim is renewed."""
        return self.lease_s / RENEWALS_A_LEASE

    @property
    def request_most_s(self) -> float:
        """How long a request of the background may take."""
        return REQUEST_S

    # ---- looking ----

    def size(self, *, timeout: Any) -> Steps[int]:
        """Return how many jobs wait to be claimed."""
        return (yield from self.stats(timeout=timeout))["waiting"]

    def stats(self, *, timeout: Any) -> Steps[QueueStats]:
        """Return figures."""
        return (yield from self.work(timeout, self._stats))

    def _stats(self, operations: Operations, until_s: float) -> Steps[QueueStats]:
        settings = self.settings()
        found = QueueStats(
            waiting=0, delayed=0, claimed=0, dead=0, put=0, done=0, redelivered=0, shards=settings.shards,
            maxsize=settings.maxsize,
        )  # fmt: skip
        wall_ms = self.session.link.wall_ms()
        books = yield from self._books(operations, until_s)
        ends = yield from self.ends_after(
            operations, books, until_s
        )  # read later than the books: never before a cursor
        for shard, book in books.items():
            put = ends[shard][1]
            again = jobs_of(waiting.range for waiting in book.again)
            found["put"] += put
            found["waiting"] += put - book.taken + again
            found["delayed"] += jobs_of(waiting.range for waiting in book.again if waiting.due_ms > wall_ms)
            found["claimed"] += jobs_of(part for claim in book.claims for part in claim.ranges)
            found["dead"] += jobs_of(book.dead)
            found["done"] += book.done
            found["redelivered"] += book.redelivered
        return found

    def _books(self, operations: Operations, until_s: float) -> Steps[dict[int, Book]]:
        """Read all books."""
        every = range(self.settings().shards + 1)
        read = yield from self.read(operations, [self.book_key(shard) for shard in every], until_s)
        return {shard: self.learn(shard, *each) for shard, each in zip(every, read, strict=True)}

    def peek(self, count: Any, *, timeout: Any) -> Steps[list[Job[Any]]]:
        """Return jobs that would be claimed next, without claiming them."""
        count = check_count("count", count, 1, MOST_CLAIMED)
        return (yield from self.work(timeout, lambda some, until_s: self._peek(some, count, until_s)))

    def _peek(self, operations: Operations, count: int, until_s: float) -> Steps[list[Job[Any]]]:
        jobs: list[Job[Any]] = []
        for shard, book in (yield from self._books(operations, until_s)).items():
            yield from self._read_ahead(operations, shard, count - len(jobs), until_s)
            wall_ms = self.session.link.wall_ms()
            book.pass_delayed(self._known[shard].slots, wall_ms)
            ranges = book.take(self._known[shard].slots, count - len(jobs), wall_ms)
            slots = yield from self._slots_of(operations, shard, ranges, until_s)
            jobs += [
                self._job(shard, place, deliveries - 1, slots)
                for place, deliveries in places_of(ranges)
                if place[0] in slots
            ]
            if len(jobs) >= count:
                break
        return jobs

    # ---- dead letters ----

    def dead(self, count: Any, *, timeout: Any) -> Steps[list[Job[Any]]]:
        """Return jobs that were delivered as often as they may."""
        count = check_count("count", count, 1, MOST_CLAIMED)
        return (yield from self.work(timeout, lambda some, until_s: self._dead(some, count, until_s)))

    def _dead(self, operations: Operations, count: int, until_s: float) -> Steps[list[Job[Any]]]:
        jobs: list[Job[Any]] = []
        for shard, book in (yield from self._books(operations, until_s)).items():
            wanted = first_jobs(book.dead, count - len(jobs))
            slots = yield from self._slots_of(operations, shard, wanted, until_s)
            jobs += [
                self._job(shard, place, deliveries, slots)
                for place, deliveries in places_of(wanted)
                if place[0] in slots
            ]
            if len(jobs) >= count:
                break
        return jobs

    def change_dead(self, jobs: Any, *, again: bool, timeout: Any) -> Steps[int]:
        """Let dead letters be delivered again, or remove them (None: all); return how many."""
        wanted: dict[int, set[Place]] | None = None
        if jobs is not None:
            wanted = {}
            for shard, place in map(shards.parsed_id, ids_of(jobs)):
                wanted.setdefault(shard, set()).add(place)

        def work(operations: Operations, until_s: float) -> Steps[int]:
            changed = 0
            for shard in range(self.settings().shards + 1) if wanted is None else sorted(wanted):
                self._check_shard(shard)
                places = None if wanted is None else wanted[shard]
                tried: list[int] = []

                def revision(
                    book: Book, unsure: bool, places: set[Place] | None = places, tried: list[int] = tried
                ) -> int:
                    count = book.revive(places) if again else book.bury(places)
                    if count:
                        tried.append(count)
                        return count
                    if unsure and tried:
                        return tried[-1]
                    nothing: int = NOTHING
                    return nothing

                count = yield from self.revise(operations, shard, revision, until_s)
                changed += 0 if count is NOTHING else count
            return changed

        return (yield from self.work(timeout, work))


def check_flag(what: str, given: Any) -> bool:
    """Return True or False. Raises ``InvalidOption``."""
    if not isinstance(given, bool):
        raise InvalidOption(f"{what} must be True or False; got {shown(given)}")
    return given


def _finish(book: Book, claim_id: bytes, places: set[Place]) -> int:
    return book.finish(claim_id, places)


def listed(jobs: Any) -> list[Job[Any]]:
    """Return one job, or several, as a list. Raises ``InvalidOption``."""
    several = [jobs] if isinstance(jobs, Job) else _each_of(jobs)
    for job in several:
        if not isinstance(job, Job):
            raise InvalidOption(f"this takes a job that was claimed, or a list of them; got {shown(job)}")
    return several


def _each_of(jobs: Any) -> list[Any]:
    """Return what is in an iterable, or what is none, alone."""
    try:
        begun = iter(jobs)
    except TypeError:
        return [jobs]
    return list(begun)


def ids_of(jobs: Any) -> list[str]:
    """Return the ids of jobs, of which each may be given as its id."""
    several = [jobs] if isinstance(jobs, Job | str) else _each_of(jobs)
    return [job.id if isinstance(job, Job) else job for job in several]


def all_held(outcomes: Outcomes) -> bool:
    """Return whether all were still held. Raises the error of one that failed, first of one that may have been settled."""
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, RaykvError)]
    if errors:
        raise next((error for error in errors if isinstance(error, WriteOutcomeUnknown)), errors[0])
    return all(outcomes.values())


def _request_s(block: Any, timeout: Any) -> float:
    """Return the time-out of a request of a call that may take so long: ``block`` and ``timeout`` of ``get`` and ``put``."""
    return REQUEST_S if timeout is None or not block else min(REQUEST_S, max(LEAST_REQUEST_S, timeout))


def claims_of(jobs: Any) -> Claims:
    """Return the claims of jobs: shard and claim -> places. Raises ``InvalidOption``."""
    claims: Claims = {}
    for job in listed(jobs):
        shard, place = shards.parsed_id(job.id)
        number, _, claim = job.claim.partition(":")
        try:
            claim_id = bytes.fromhex(claim)
        except ValueError:
            claim_id = b""
        if not claim_id or number != str(shard):
            raise InvalidOption(f"job {job.id} was not claimed, only looked at: claim it first")
        claims.setdefault((shard, claim_id), set()).add(place)
    return claims
