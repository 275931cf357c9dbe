"""A shard of a queue: which of its jobs wait, which are claimed, and which are done. Pure: no request, no clock.

The jobs themselves lie in *slots*, numbered in the order in which they were put; a slot is written once, whole, with the
jobs of one call. What has become of them is one small document, the shard's *book*, replaced by compare-and-set: a cursor
behind which all jobs are fresh, and beside it the few that are claimed, wait to be delivered again, or are dead. So a book
grows with what is under way, not with what waits, and no job that is done is ever passed again.

Invariants:

* A slot is written only where the one before it stands. So there are no gaps, and a reader needs no list of slots.
* A job is in one place: before a slot's end and behind the cursor (fresh), in one claim, in ``again``, in ``dead``, or done.
* A slot is freed once no job of it is in any of them. Its key is used again ``RING`` slots later: ``put_fence`` and
  ``free_fence`` grow with each use, so that neither a late put nor a late removal touches a later use.

Left out: order between shards, and priorities.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
from msgspec import Meta

from raykv.config import shown
from raykv.errors import CorruptData, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RING = 1 << 20
"""Slots of a shard that can wait, or be under way, at once: as many keys it has at most, removed ones included."""
SLOT_JOBS = 100
SLOT_BYTES = 48 * 1024
"""About how many bytes of jobs a slot takes, one large job excepted."""
MOST_RANGES = 4000
"""A shard of whose jobs as many ranges are claimed, delayed or dead gives out no fresh ones: its book stays small."""
MOST_DEAD = 1000
"""Ranges of dead letters in a shard; beyond, jobs are delivered again instead."""
MARGIN_MS = 60_000
"""How far the clocks of two hosts may be apart, where no consumer has watched a claim for its whole lease."""
FORMAT = 1

Count: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
Range: TypeAlias = tuple[Count, Count, Count, Count]
"""Slot, first job, the one behind the last, and how often they have been delivered."""
Place: TypeAlias = tuple[int, int]
"""Slot and job."""


def put_fence(seq: int) -> int:
    """Return the fencing token of the put of a slot."""
    return 2 * (seq // RING) + 1


def free_fence(seq: int) -> int:
    """Return the fencing token of its removal."""
    return 2 * (seq // RING) + 2


class Slot(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Jobs that were put together. ``before``: how many jobs of the shard stand before it."""

    seq: Count
    before: Count
    put_id: Annotated[bytes, Meta(max_length=64)]
    due_ms: Count
    """Not to be delivered before, by the wall clock; 0: at once."""
    jobs: Annotated[list[bytes], Meta(max_length=SLOT_JOBS)]
    name: Annotated[str, Meta(max_length=512)] = ""
    """Of its only job, if that is to be put once."""

    @property
    def behind(self) -> int:
        """How many jobs of the shard stand before the next slot."""
        return self.before + len(self.jobs)


class Claim(msgspec.Struct, array_like=True):
    """Jobs that one consumer has."""

    id: Annotated[bytes, Meta(max_length=16)]
    owner: Annotated[str, Meta(max_length=255)]
    lease_ms: Count
    beat: Count
    """How often it was renewed: a watcher sees by it that its consumer lives."""
    at_ms: Count
    """When that was last, by the wall clock."""
    ranges: list[Range]


class Waiting(msgspec.Struct, array_like=True):
    """Jobs that are to be delivered (again) from ``due_ms`` on."""

    due_ms: Count
    range: Range


class Book(msgspec.Struct, array_like=True):
    """What has become of a shard's jobs."""

    format: int = FORMAT
    head: Count = 0
    """The slot of the first fresh job."""
    at: Count = 0
    """That job in it."""
    before: Count = 0
    """How many jobs of the shard stand before that slot."""
    tail: Count = 0
    """A slot that is known to come after all before; there may be more."""
    tail_before: Count = 0
    newest_ms: Count = 0
    """The latest wall clock that has written here: no claim is stamped below it."""
    claims: list[Claim] = []
    again: list[Waiting] = []
    dead: list[Range] = []
    freed: list[Count] = []
    """Slots that hold no job any more, and may not have been removed yet."""
    done: Count = 0
    redelivered: Count = 0

    @classmethod
    def of(cls, data: bytes | None, name: str) -> Book:
        """Read a book; an empty one where there is none. Raises ``CorruptData``."""
        if data is None:
            return cls()
        try:
            book = _books.decode(data)
        except msgspec.MsgspecError as error:
            raise CorruptData(f"the book of queue {name!r} is unreadable: {error}") from None
        if book.format != FORMAT:
            raise CorruptData(f"the book of queue {name!r} has format {book.format}; this raykv knows {FORMAT}")
        return book

    def encoded(self) -> bytes:
        """Return its bytes."""
        return _encode(self)

    # ---- what there is ----

    @property
    def taken(self) -> int:
        """How many jobs were delivered at least once, or are waited for in ``again``."""
        return self.before + self.at

    @property
    def ranges(self) -> int:
        """How much it keeps beside the cursor."""
        return len(self.again) + len(self.dead) + sum(len(claim.ranges) for claim in self.claims)

    def claim_of(self, claim_id: bytes) -> Claim | None:
        """Return a claim."""
        return next((claim for claim in self.claims if claim.id == claim_id), None)

    def refers_to(self, seq: int) -> bool:
        """Whether a job of a slot is claimed, waits, is dead, or is fresh."""
        return (
            seq >= self.head
            or any(part[0] == seq for claim in self.claims for part in claim.ranges)
            or any(waiting.range[0] == seq for waiting in self.again)
            or any(part[0] == seq for part in self.dead)
        )

    def has(self, place: Place) -> bool:
        """Whether a job that was delivered is not done."""
        parts = [part for claim in self.claims for part in claim.ranges]
        parts += [waiting.range for waiting in self.again]
        return any(seq == place[0] and first <= place[1] < end for seq, first, end, _ in (*parts, *self.dead))

    # ---- what happens to it ----

    def expire(self, claim_ids: Iterable[bytes], most_deliveries: int) -> None:
        """End claims whose lease ran out: their jobs wait to be delivered again, or are dead."""
        over = {*claim_ids}
        ended = [claim for claim in self.claims if claim.id in over]
        self.claims = [claim for claim in self.claims if claim.id not in over]
        for claim in ended:
            for part in claim.ranges:
                self._give_back(part, 0, most_deliveries)

    def _give_back(self, part: Range, due_ms: int, most_deliveries: int) -> None:
        if most_deliveries and part[3] >= most_deliveries and len(self.dead) < MOST_DEAD:
            self.dead.append(part)
        else:
            self.again.append(Waiting(due_ms, part))

    def pass_delayed(self, slots: Mapping[int, Slot], now_ms: int) -> None:
        """Move what is fresh and not due from the cursor to ``again``."""
        while (slot := slots.get(self.head)) is not None and slot.due_ms > now_ms and self.ranges < MOST_RANGES:
            if self.at < len(slot.jobs):
                self.again.append(Waiting(slot.due_ms, (self.head, self.at, len(slot.jobs), 0)))
            self._advance(slot, len(slot.jobs))

    def _advance(self, slot: Slot, at: int) -> None:
        """Move the cursor within its slot, or behind it."""
        if at < len(slot.jobs):
            self.at = at
            return
        self.head, self.at, self.before = slot.seq + 1, 0, slot.behind
        if self.tail < self.head:
            self.tail, self.tail_before = self.head, self.before

    def take(self, slots: Mapping[int, Slot], count: int, now_ms: int) -> list[Range]:
        """Take up to ``count`` jobs: those that are due again first, then fresh ones. O(what the book holds)."""
        taken: list[Range] = []
        kept: list[Waiting] = []
        for waiting in sorted(self.again, key=lambda waiting: (waiting.due_ms, waiting.range)):
            seq, first, end, deliveries = waiting.range
            if waiting.due_ms > now_ms or not count:
                kept.append(waiting)
                continue
            cut = min(end, first + count)
            taken.append((seq, first, cut, deliveries + 1))
            count -= cut - first
            self.redelivered += cut - first if deliveries else 0
            if cut < end:
                kept.append(Waiting(waiting.due_ms, (seq, cut, end, deliveries)))
        self.again = kept
        while count and self.ranges < MOST_RANGES and (slot := slots.get(self.head)) is not None:
            if slot.due_ms > now_ms:
                break
            cut = min(len(slot.jobs), self.at + count)
            if cut > self.at:
                taken.append((self.head, self.at, cut, 1))
            count -= cut - self.at
            self._advance(slot, cut)
        return taken

    def settle(self, claim_id: bytes, places: set[Place]) -> list[Range]:
        """Remove jobs from a claim; return those that were in it."""
        claim = self.claim_of(claim_id)
        if claim is None:
            return []
        kept: list[Range] = []
        gone: list[Range] = []
        for part in claim.ranges:
            for is_gone, run in _runs(part, places):
                (gone if is_gone else kept).append(run)
        claim.ranges = kept
        if not kept:
            self.claims.remove(claim)
        return gone

    def finish(self, claim_id: bytes, places: set[Place]) -> int:
        """Remove jobs that are done; return how many of them the claim had."""
        gone = self.settle(claim_id, places)
        self.done += (count := jobs_of(gone))
        self.free(part[0] for part in gone)
        return count

    def give_back(self, claim_id: bytes, places: set[Place], due_ms: int, most_deliveries: int) -> int:
        """Let jobs of a claim be delivered again from ``due_ms`` on; return how many of them the claim had.

        ``most_deliveries``: 0 says that this delivery does not count.
        """
        gone = self.settle(claim_id, places)
        for part in gone:
            uncounted = part if most_deliveries else (*part[:3], part[3] - 1)
            self._give_back(uncounted, due_ms, most_deliveries)
        return jobs_of(gone)

    def free(self, seqs: Iterable[int]) -> None:
        """Note those of these slots that hold no job any more."""
        for seq in sorted({*seqs}):
            if seq not in self.freed and not self.refers_to(seq):
                self.freed.append(seq)

    def revive(self, places: set[Place] | None) -> int:
        """Let dead letters be delivered again, as if for the first time (None: all); return how many."""
        kept, gone = self._of_dead(places)
        self.dead = kept
        self.again += [Waiting(0, (seq, first, end, 0)) for seq, first, end, _ in gone]
        return jobs_of(gone)

    def bury(self, places: set[Place] | None) -> int:
        """Remove dead letters for good (None: all); return how many."""
        kept, gone = self._of_dead(places)
        self.dead = kept
        self.free(part[0] for part in gone)
        return jobs_of(gone)

    def _of_dead(self, places: set[Place] | None) -> tuple[list[Range], list[Range]]:
        if places is None:
            return [], self.dead
        runs = [run for part in self.dead for run in _runs(part, places)]
        return [part for is_gone, part in runs if not is_gone], [part for is_gone, part in runs if is_gone]


def jobs_of(parts: Iterable[Range]) -> int:
    """Return how many jobs ranges hold."""
    return sum(end - first for _, first, end, _ in parts)


def first_jobs(parts: Iterable[Range], count: int) -> list[Range]:
    """Return the ranges of the first ``count`` jobs."""
    first: list[Range] = []
    for seq, begin, end, deliveries in parts:
        if count <= 0:
            break
        cut = min(end, begin + count)
        first.append((seq, begin, cut, deliveries))
        count -= cut - begin
    return first


def places_of(parts: Iterable[Range]) -> Iterator[tuple[Place, int]]:
    """Iterate over the jobs of ranges: where each is, and how often it was delivered."""
    for seq, first, end, deliveries in parts:
        for at in range(first, end):
            yield (seq, at), deliveries


def _runs(part: Range, places: set[Place]) -> Iterator[tuple[bool, Range]]:
    """Cut a range into runs of jobs that are in ``places`` and runs that are not."""
    seq, first, end, deliveries = part
    began = first
    for at in range(first, end):
        inside = (seq, at) in places
        if at + 1 == end or ((seq, at + 1) in places) != inside:
            yield inside, (seq, began, at + 1, deliveries)
            began = at + 1


class Settings(msgspec.Struct, array_like=True, frozen=True):
    """What all handles of a queue agree on; written by the first."""

    shards: Annotated[int, Meta(ge=1, le=64)]
    maxsize: Count
    format: int = FORMAT

    @classmethod
    def of(cls, data: bytes, name: str) -> Settings:
        """Read them. Raises ``CorruptData``."""
        try:
            return _settings.decode(data)
        except msgspec.MsgspecError as error:
            raise CorruptData(f"the settings of queue {name!r} are unreadable: {error}") from None


def slot_of(data: bytes, name: str) -> Slot:
    """Read a slot. Raises ``CorruptData``."""
    try:
        return _slots.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptData(f"a slot of queue {name!r} is unreadable: {error}") from None


def encoded(what: Slot | Settings) -> bytes:
    """Return the bytes of a slot or of settings."""
    return _encode(what)


def filled(jobs: Iterable[bytes]) -> list[list[bytes]]:
    """Deal jobs out to slots, in order."""
    slots: list[list[bytes]] = []
    size_bytes = 0
    for job in jobs:
        if not slots or len(slots[-1]) >= SLOT_JOBS or size_bytes + len(job) > SLOT_BYTES:
            slots.append([])
            size_bytes = 0
        slots[-1].append(job)
        size_bytes += len(job)
    return slots


def job_id(shard: int, place: Place) -> str:
    """Return the name of a job, which no other job of its queue ever has."""
    return f"{shard}.{place[0]}.{place[1]}"


def parsed_id(given: object) -> tuple[int, Place]:
    """Return shard and place of a job's name. Raises ``InvalidOption``."""
    found = _ID.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise InvalidOption(f"a job's id is three numbers, as job.id has it; got {shown(given)}")
    shard, seq, at = map(int, found.groups())
    return shard, (seq, at)


_ID = re.compile(r"([0-9]{1,2})\.([0-9]{1,18})\.([0-9]{1,3})")
_encode = msgspec.msgpack.Encoder().encode
_books = msgspec.msgpack.Decoder(Book)
_slots = msgspec.msgpack.Decoder(Slot)
_settings = msgspec.msgpack.Decoder(Settings)
