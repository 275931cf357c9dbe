"""What all steps of a queue stand on: its keys, its settings, reads, and the compare-and-set of a shard's book.

A *book* (``raykv.client.shards``) is revised by a function that is called anew with what stands until its result is written.
Where the outcome of a write is unknown it is called again with ``unsure``, on what stood afterwards, and looks whether its
own change is in there: the write was conditional on a version, so once another version stands it has happened or never will.

A lease is judged by no other host's clock. A claim has run out for a watcher that has seen the same renewal of it stand for
the whole lease by its own monotonic clock; it saw it after it was written, so the holder knows first. A consumer that comes
and goes goes by the wall clock besides, with ``shards.MARGIN_MS`` on top.

Slots without jobs are removed with a later revision of their book, in the same request; they have one leader with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from raykv.client import shards
from raykv.client.exchange import TRY_AGAIN, Exchange, ask
from raykv.client.handle import checked_name
from raykv.client.reads import items_of
from raykv.client.shards import Book, Settings, Slot
from raykv.client.version import Version
from raykv.config import MAX_TIMEOUT_S, MIB, check_count, check_number, check_timeout, shown
from raykv.errors import (
    BucketMismatch,
    InvalidOption,
    Overloaded,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.protocol import changes as c
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.client.exchange import Steps
    from raykv.client.handle import Session
    from raykv.client.operations import Operations

T = TypeVar("T")

QUEUES = "raykv.queues"
"""The bucket of the queues."""
BUCKET = {"versioning": "linearizable", "codec": "raw", "group": "/", "pair_bytes": MIB}
"""Its options: a shard is a group, so that its book and its slots have one leader."""
DEFAULT_SHARDS = 8
MOST_SHARDS = 64
LEAST_LEASE_S = 0.1
MOST_LEASE_S = 86_400.0
DEFAULT_LEASE_S = 30.0
DEFAULT_DELIVERIES = 5
MOST_DELIVERIES = 1_000_000
MOST_DELAY_S = 366 * 86_400.0
REQUEST_S = 5.0
LEAST_REQUEST_S = 0.25
RIDE = 64
"""Slots that are removed with one revision at most,"""
LEAST_RIDE = 8
"""and at least: a removal costs a record."""
PAUSE_S = 0.004
MOST_PAUSE_S = 0.25
TAIL_S = 10.0
"""For so long the end of a shard is remembered. Deletes, and with them what refuses an old place, are kept much longer."""
NOTHING: Any = object()
"""What a revision returns that leaves the book as it is."""
BUSY: Any = object()
"""What becomes of a revision that gives way, where another came first."""
RACES = 6
"""After as many refusals in a row a revision waits a moment. Not before: who waits comes too late for what it has seen."""
RACE_PAUSE_S = 0.002


Moment: TypeAlias = tuple[float, float]
"""Seconds by the monotonic and by the wall clock."""


class Counts(NamedTuple):
    """What a book counts of its jobs, or has; for metrics."""

    done: int
    redelivered: int
    dead: int

    @classmethod
    def of(cls, book: Book) -> Counts:
        """Return those of a book."""
        return cls(book.done, book.redelivered, shards.jobs_of(book.dead))


class Opened(NamedTuple):
    """A queue in its bucket, as a handle sees it: all tasks and threads of the handle have the same one."""

    settings: Settings
    known: list[Known]
    """Of each shard, and of the one for what is delayed."""


class Known:
    """What a handle remembers of one shard: advice that a read or a refused condition corrects."""

    __slots__ = ("_tail", "_tail_s", "book", "empty_at", "removed", "slots", "watched")

    def __init__(self) -> None:
        self.book: tuple[bytes | None, bytes] | None = None
        """Its bytes and its version."""
        self.slots: dict[int, Slot] = {}
        """Those ahead of the cursor that were read."""
        self.empty_at = -1
        """A slot that was looked for and was not there."""
        self._tail: tuple[int, int] | None = None
        self._tail_s = (0.0, 0.0)
        self.removed: frozenset[int] = frozenset()
        """Freed slots whose removal was acknowledged."""
        self.watched: dict[tuple[bytes, int], float] = {}
        """Claim and renewal -> since when it has been seen to stand, by the monotonic clock."""

    def note_tail(self, tail: tuple[int, int] | None, now_s: Moment) -> None:
        """Remember the slot that comes next, and how many jobs stand before it; None: it is not known."""
        self._tail, self._tail_s = tail, now_s

    def tail(self, now_s: Moment) -> tuple[int, int] | None:
        """Return the slot that comes next, and how many jobs stand before it, if that was seen a moment ago.

        What stood there may have been put, done, removed and forgotten since: then nothing refuses a put into it any more,
        and it is behind all cursors. By both clocks: one of them stands still while the machine sleeps, the other may jump.
        """
        young = all(0 <= now - then < TAIL_S for now, then in zip(now_s, self._tail_s, strict=True))
        return self._tail if young else None


def names_of(operations: Operations, timeout: Any) -> Steps[list[str]]:
    """Return the names of all queues. One request a shard. Raises ``StoreUnavailable`` if the time is over first.

    Backwards: a shard's last keys stand as long as it does, and before them lie the slots that were removed, maybe many.
    """
    until_s = operations.now_s() + check_timeout(timeout)
    names: set[str] = set()
    end: str | None = None
    while (left_s := until_s - operations.now_s()) > 0:
        paging = operations.scan(end=end, limit=1, reverse=True, keys_only=True, timeout=left_s)
        found = yield from paging.step()
        if not found or not isinstance(found[0][0], str):
            return sorted(names)
        shard, slash, _ = found[0][0].partition("/")
        group, colon, _ = shard.rpartition(":")
        if slash and colon:
            names.add(group.replace("%2F", "/").replace("%25", "%"))
        end = shard + slash
    raise StoreUnavailable(f"{len(names)} queues were found when the time-out was over; give a larger one")


class Books:
    """The books of one queue, as one handle sees them. Safe to share between threads: what is kept is replaced whole."""

    def __init__(
        self,
        session: Session,
        name: Any,
        *,
        lease: Any = DEFAULT_LEASE_S,
        max_deliveries: Any = DEFAULT_DELIVERIES,
        maxsize: Any = None,
        shards: Any = None,
        codec: Any = "auto",
    ) -> None:
        """As ``store.queue``. Raises ``InvalidOption``, ``InvalidKey``."""
        self.session = session
        self.name = checked_name(name)
        self.lease_s = check_number("lease", lease, LEAST_LEASE_S, MOST_LEASE_S)
        self.max_deliveries = check_count("max_deliveries", max_deliveries, 1, MOST_DELIVERIES)
        self.maxsize = None if maxsize is None else check_count("maxsize", maxsize, 0, 2**53)
        self.shards = None if shards is None else check_count("shards", shards, 1, MOST_SHARDS)
        if codec not in ("auto", "msgpack", "raw"):
            raise InvalidOption(f"codec must be 'auto', 'msgpack' or 'raw'; got {shown(codec)}")
        self.codec: str = codec
        self._group = self.name.replace("%", "%25").replace("/", "%2F")
        self._opened: dict[int, Opened] = {}
        """Bucket id -> what is kept of the queue in it; one, but for a moment after the bucket was dropped."""
        self._last: Opened | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that make another one."""
        return {
            "lease": self.lease_s, "max_deliveries": self.max_deliveries, "maxsize": self.maxsize,
            "shards": self.shards, "codec": self.codec,
        }  # fmt: skip

    # ---- the bucket and the settings ----

    def stands(self, operations: Operations, timeout: Any) -> Steps[bool]:
        """Return whether the queue was ever used; it is not made."""
        until_s = self.session.link.monotonic_s() + check_timeout(timeout)
        ((data, _),) = yield from self._read_once(operations, [self._settings_key], until_s)
        return data is not None

    @property
    def _settings_key(self) -> str:
        return f"{self._group}:0/s"

    def work(self, timeout: Any, steps: Callable[[Operations, float], Steps[T]]) -> Steps[T]:
        """Return what steps do that get the operations of the bucket, and until when they may take."""
        until_s = self.session.link.monotonic_s() + check_timeout(timeout)
        begun = False

        def begin(operations: Operations) -> Steps[T]:
            nonlocal begun
            opened = self._opened.get(operations.bucket_id)
            if opened is None:
                settings = yield from self._agreed(operations, until_s)
                opened = Opened(settings, [Known() for _ in range(settings.shards + 1)])
                # Others may have opened it meanwhile: their steps have begun with what they have put here.
                opened = self._opened.setdefault(operations.bucket_id, opened)
                for former in [each for each in [*self._opened] if each != operations.bucket_id]:
                    self._opened.pop(former, None)
            self._last = opened
            begun = True
            return (yield from steps(operations, until_s))

        try:
            return (
                yield from self.session.in_own_bucket(QUEUES, min(REQUEST_S, check_timeout(timeout)), begin, BUCKET)
            )
        except WriteOutcomeUnknown as error:
            if begun:
                raise
            raise StoreUnavailable(
                f"nothing was done: queue {shown(self.name)} could not be opened ({error}); try again"
            ) from error

    def settings(self) -> Settings:
        """Return what all handles agree on."""
        assert self._last is not None
        return self._last.settings

    @property
    def _known(self) -> list[Known]:
        assert self._last is not None
        return self._last.known

    @property
    def delayed(self) -> int:
        """The shard of what is put with a delay: what waits there is in nobody's way."""
        return self.settings().shards

    def _agreed(self, operations: Operations, until_s: float) -> Steps[Settings]:
        """Return the queue's settings; write them if there are none. Raises ``BucketMismatch``."""
        key = self._settings_key
        standard = 1 if self.maxsize else DEFAULT_SHARDS
        wanted = Settings(standard if self.shards is None else self.shards, self.maxsize or 0)
        if wanted.maxsize and wanted.shards > 1:
            raise InvalidOption(
                "a queue with a maxsize has one shard, which alone can count its jobs: leave out shards"
            )
        tries = 0
        while True:
            try:
                ((data, _),) = yield from self._read_once(operations, [key], until_s)
                if data is None:
                    change = operations.put_change(key, shards.encoded(wanted), if_absent=True)
                    (settled,), _ = yield from operations.carry_out([change], self.request_s(until_s))
                    if isinstance(settled, RaykvError):
                        raise settled
                    continue  # what stands counts, whoever wrote it
                break
            except TRY_AGAIN as error:
                tries += 1
                yield from self.pause(error, tries, until_s)
        agreed = Settings.of(data, self.name)
        for what, mine, stands in (("shards", self.shards, agreed.shards), ("maxsize", self.maxsize, agreed.maxsize)):
            if mine is not None and mine != stands:
                raise BucketMismatch(
                    f"queue {shown(self.name)} exists with {what}={stands}, and {what}={mine} was asked for. Nothing was "
                    f"changed; leave {what} out, or take another name",
                    settings={"shards": agreed.shards, "maxsize": agreed.maxsize},
                )
        return agreed

    def count(self, what: str, jobs: int) -> None:
        """Count jobs for the metric ``queue_jobs_total``."""
        if jobs > 0:
            self.session.link.count(f"queues.{what}", jobs)

    # ---- time ----

    def now_s(self) -> float:
        """Seconds by the monotonic clock."""
        return self.session.link.monotonic_s()

    def moment(self) -> Moment:
        """Return the time by both clocks."""
        link = self.session.link
        return link.monotonic_s(), link.wall_ms() / 1000

    def request_s(self, until_s: float) -> float:
        """Return the time-out of one request."""
        return max(LEAST_REQUEST_S, min(REQUEST_S, until_s - self.now_s()))

    def pause(self, error: RaykvError, tries: int, until_s: float) -> Steps[None]:
        """Wait before the next try: longer each time, with jitter. Raises why this one failed once the time is over."""
        left_s = until_s - self.now_s()
        if left_s <= 0:
            raise error
        yield from self.wait(min(left_s, PAUSE_S * 2 ** min(tries, 10), MOST_PAUSE_S) * self.spread())

    def wait(self, delay_s: float) -> Steps[None]:
        """Wait."""
        yield Exchange((), 0.0, repeatable=True, pause_s=max(0.0005, delay_s))

    def spread(self) -> float:
        """Return a random factor, 0.5 to 1.5."""
        return 0.5 + self.session.link.random_bytes(1)[0] / 255

    # ---- keys and reads ----

    def book_key(self, shard: int) -> str:
        """Return the key of a shard's book."""
        return f"{self._group}:{shard}/b"

    def slot_key(self, shard: int, seq: int) -> str:
        """Return the key of a slot."""
        return f"{self._group}:{shard}/{seq % shards.RING:05x}"

    def read(
        self, operations: Operations, keys: Sequence[str], until_s: float
    ) -> Steps[list[tuple[bytes | None, bytes]]]:
        """Return value and version of each key; again, until the time is over."""
        tries = 0
        while True:
            try:
                return (yield from self._read_once(operations, keys, until_s))
            except TRY_AGAIN as error:
                tries += 1
                yield from self.pause(error, tries, until_s)

    def _read_once(
        self, operations: Operations, keys: Sequence[str], until_s: float
    ) -> Steps[list[tuple[bytes | None, bytes]]]:
        found: list[tuple[bytes | None, bytes]] = []
        timeout_s = self.request_s(until_s)
        request = operations.read_request(keys, None, timeout_s, causality=True)
        answer = yield from ask(request, timeout_s)
        for item in items_of(answer, len(keys)):
            if isinstance(item, f.Failed):
                raise item.error()
            entry = f.whole(item)
            found.append((entry.payloads[0][1:] if entry.payloads else None, entry.causality))
        return found

    def read_slots(
        self, operations: Operations, wanted: Sequence[tuple[int, int]], until_s: float
    ) -> Steps[dict[tuple[int, int], Slot]]:
        """Return those of some slots, each a shard and a number, that stand."""
        found: dict[tuple[int, int], Slot] = {}
        for at in range(0, len(wanted), 16):  # some may be of the largest size
            some = wanted[at : at + 16]
            read = yield from self.read(operations, [self.slot_key(*each) for each in some], until_s)
            for each, (data, _) in zip(some, read, strict=True):
                if data is not None and (slot := shards.slot_of(data, self.name)).seq == each[1]:
                    found[each] = slot
        return found

    def book_of(self, shard: int) -> Book | None:
        """Return a shard's book as it was last seen."""
        known = self._known[shard].book
        return None if known is None else Book.of(known[0], self.name)

    def learn(self, shard: int, data: bytes | None, version: bytes) -> Book:
        """Remember a shard's book; watch its claims."""
        known, now_s = self._known[shard], self.now_s()
        book = Book.of(data, self.name)
        known.book = data, version
        former = known.watched
        known.watched = {(claim.id, claim.beat): former.get((claim.id, claim.beat), now_s) for claim in book.claims}
        if known.removed:
            known.removed &= frozenset(book.freed)
        return book

    def fresh_book(self, operations: Operations, shard: int, until_s: float) -> Steps[Book]:
        """Read a shard's book."""
        ((data, version),) = yield from self.read(operations, [self.book_key(shard)], until_s)
        return self.learn(shard, data, version)

    def expired(self, shard: int, book: Book, wall_ms: int) -> list[bytes]:
        """Return the claims whose lease has run out."""
        now_s, watched = self.now_s(), self._known[shard].watched
        return [
            claim.id
            for claim in book.claims
            if 1000 * (now_s - watched.get((claim.id, claim.beat), now_s)) >= claim.lease_ms
            or wall_ms >= claim.at_ms + claim.lease_ms + shards.MARGIN_MS
        ]

    # ---- revisions ----

    def revise(
        self,
        operations: Operations,
        shard: int,
        revision: Callable[[Book, bool], T],
        until_s: float,
        *,
        gives_way: bool = False,
        certain: bool = True,
    ) -> Steps[T]:
        """Replace a shard's book by what ``revision(book, unsure)`` makes of it; return what that returned.

        ``NOTHING`` from it leaves the book as it is; if it is to be ``certain``, it has seen what stands, not only what this
        handle remembers. ``gives_way``: return ``BUSY`` where another came first. Raises ``WriteOutcomeUnknown`` if the time
        was over first and it may have come into effect, else why it has not.
        """
        key = self.book_key(shard)
        unsure, tries, present = False, 0, not certain
        while True:
            known = self._known[shard]
            failure: RaykvError = Overloaded(
                f"nothing was changed: others changed a shard of queue {shown(self.name)} all the time; try again"
            )
            try:
                fresh, data, version = yield from self._known_book(operations, shard, until_s)
                present = present or fresh
                book = self.learn(shard, data, version)
                book.freed = [seq for seq in book.freed if seq not in known.removed]
                riding = book.freed[:RIDE] if len(book.freed) >= LEAST_RIDE else []
                before = Counts.of(book)
                result = revision(book, unsure)
                if result is NOTHING:
                    if present:
                        return result
                    known.book = None
                    continue
                written = book.encoded()
                settled = yield from self._send(operations, shard, key, written, data, version, riding, until_s)
                if isinstance(settled, RaykvError):
                    raise settled
                if settled.status == c.DONE:
                    self.learn(shard, written, settled.version)
                    for what, count in Counts.of(book)._asdict().items():
                        self.count(what, count - getattr(before, what))
                    return result
                if settled.status != c.CONFLICT:
                    raise WriteOutcomeUnknown("the outcome of the change is not known any more", acks=[])
                self.learn(shard, None if settled.payload is None else settled.payload[1:], settled.version)
                present = True
                if gives_way and not unsure:
                    busy: T = BUSY
                    return busy
            except TRY_AGAIN as error:
                failure, known.book = error, None
                unsure = unsure or isinstance(error, WriteOutcomeUnknown)
            tries += 1
            if self.now_s() >= until_s:
                raise _unknown(self.name) if unsure else failure
            yield from self._before_the_next(tries, until_s, failed=known.book is None)
            present = not certain  # what others have put there meanwhile may be older than what this one has seen

    def _known_book(
        self, operations: Operations, shard: int, until_s: float
    ) -> Steps[tuple[bool, bytes | None, bytes]]:
        """Return a shard's book as it is known, its bytes and version, and first whether it was read just now."""
        fresh = False
        while (known := self._known[shard].book) is None:  # others may find meanwhile that it is another one
            yield from self.fresh_book(operations, shard, until_s)
            fresh = True
        return fresh, *known

    def remove_done(self, operations: Operations, shard: int, seq: int, until_s: float) -> Steps[bool]:
        """Remove a slot that stands where a later one is to be put; return False if not all of its jobs are done.

        Usually a revision of the book takes removals along. Where nothing waits none comes, and the slot would be in the way
        for good. Raises the errors of a change; it may be tried again.
        """
        book = yield from self.fresh_book(operations, shard, until_s)
        if book.refers_to(seq):
            return False
        change = operations.delete_change(self.slot_key(shard, seq), fence=shards.free_fence(seq))
        (settled,), _ = yield from operations.carry_out([change], self.request_s(until_s))
        if isinstance(settled, RaykvError):
            raise settled
        return True

    def standing(self, settled: f.Settled) -> Slot | None:
        """Return the slot that stands where another was to be put, as its refusal shows it."""
        if settled.status != c.CONFLICT or settled.payload is None:
            return None
        return shards.slot_of(settled.payload[1:], self.name)

    def not_done(self) -> Overloaded:
        """Return the error of a put where the job of an earlier use of the slot is not done."""
        return Overloaded(
            f"nothing was put: a job of queue {shown(self.name)} has not been done while {shards.RING} slots were put after "
            "it; finish it, or remove it from the dead letters"
        )

    def _before_the_next(self, tries: int, until_s: float, *, failed: bool) -> Steps[None]:
        """Wait before a revision is tried again: longer each time if it failed, a moment now and then if others race it."""
        if failed:
            left_s = until_s - self.now_s()
            yield from self.wait(min(left_s, PAUSE_S * 2 ** min(tries, 10), MOST_PAUSE_S) * self.spread())
        elif tries % RACES == 0:
            yield from self.wait(RACE_PAUSE_S * self.spread())

    def _send(
        self, operations: Operations, shard: int, key: str, written: bytes, data: bytes | None, version: bytes,
        riding: Sequence[int], until_s: float,
    ) -> Steps[f.Settled | RaykvError]:  # fmt: skip
        """Write a book where a version of it stands, and remove slots that it frees; return what became of the book."""
        condition: dict[str, Any] = {"if_absent": True} if data is None else {"if_version": Version(version)}
        changes = [operations.put_change(key, written, **condition)]
        changes += [operations.delete_change(self.slot_key(shard, seq), fence=shards.free_fence(seq)) for seq in riding]
        settled, _ = yield from operations.carry_out(changes, self.request_s(until_s))
        gone = [
            seq
            for seq, each in zip(riding, settled[1:], strict=True)
            if isinstance(each, f.Settled) and each.status in (c.DONE, c.FENCED)
        ]
        self._known[shard].removed |= frozenset(gone)
        return settled[0]


def _unknown(name: str) -> WriteOutcomeUnknown:
    return WriteOutcomeUnknown(
        f"the outcome of a change of queue {shown(name)} is unknown: it may stand, or surface later", acks=[]
    )


def gave_way(result: object) -> bool:
    """Return whether a revision gave way to another."""
    return result is BUSY


def check_delay(delay: Any) -> int:
    """Return a delay in milliseconds. Raises ``InvalidOption``."""
    return round(1000 * check_number("delay", delay, 0, MOST_DELAY_S))


def check_wait(wait: Any) -> float:
    """Return how long to wait, in seconds: an hour at most, which None stands for. Raises ``InvalidOption``."""
    return MAX_TIMEOUT_S if wait is None else check_number("wait", wait, 0, MAX_TIMEOUT_S)
