"""Jobs whose work another process does: the messages between the two, and both sides of them.

Sorting, merging, packing and checksumming hold the interpreter's lock most of the time; a node that does this in a thread
answers later. (One node on two loaded cores, gets while it compacts: p99 2.8 times that at rest with a helper, 4.9 times
with a thread. The helper takes about 30 MB.) Its *helper* gets the names of tables or the content of a memtable, writes
new tables, and says what they are. The node keeps everything else: it gives the numbers of new tables, makes their names
safe, opens them, and names them in the manifest. A job in the helper goes in the same steps, so it can rest and be given
up like any other.

The helper is trusted as much as a thread would be: what it has written is read back through the tables' checksums. If it
is lost, its unfinished tables are removed and the thread does the work from the beginning; this run of the node then goes
on without a helper.

Everything here is plain data through ``ports.Helper``; the simulation and the tests call ``Worker`` directly.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv.config import NodeConfig
from raykv.ports import HelperLost
from raykv.records.dropped import DroppedBuckets
from raykv.storage.blob import UNREADABLE
from raykv.storage.cache import BlockCache
from raykv.storage.damage import CorruptBlock, Damage
from raykv.storage.jobs import Built, Workshop
from raykv.storage.sstable import Table, TableInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.ports import FileSystem, Helper
    from raykv.storage.jobs import Building
    from raykv.storage.memtable import Memtable

logger = logging.getLogger("raykv.storage")

WORTH_BYTES = 1 << 20
"""Smaller jobs are over in the thread before the helper has them."""
_MAX_MEMTABLE_BYTES = 256 << 20
_NUMBERS_AHEAD = 4
"""Numbers that the helper has in hand at the beginning of a step, which makes no more than two tables."""
_FLUSHED_KEYS = 1024


class Merging(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Begin a merge. ``sources``: newest first, tables ascending, each with the offsets that read as empty."""

    directory: str
    config: NodeConfig
    sources: list[list[tuple[TableInfo, list[int]]]]
    lowest: bool
    since_ms: int
    drop: DroppedBuckets | None = None


class Flushing(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Begin a flush of these keys, in any order."""

    directory: str
    config: NodeConfig
    keys: list[bytes]
    records: list[bytes]
    lowest: bool
    since_ms: int


class Go(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Do the next step of a job. ``numbers``: more names for new tables."""

    job: int
    numbers: list[int]


class GiveUp(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Forget a job."""

    job: int


class Begun(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The job's name for the messages that follow."""

    job: int


class Unfinished(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The step is done, the job is not. ``taken``: how many of the numbers have been used."""

    taken: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The job is done, or forgotten."""

    taken: int
    built: list[Built]
    damages: list[Damage]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The disk refused something; the job is forgotten."""

    errno: int
    text: str
    file: str


class Declined(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """This job is one for the node itself: a table that it has open does not open any more."""

    reason: str


Request: TypeAlias = Merging | Flushing | Go | GiveUp
Answer: TypeAlias = Begun | Unfinished | Done | Failed | Declined
_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


class _Declined(HelperLost):
    """The helper stays."""


# ---- the node's side -----------------------------------------------------------------------------------------------


class HelpedWorkshop(Workshop):
    """A workshop that leaves large jobs to a helper."""

    __slots__ = ("helper", "worth_bytes")

    def __init__(self, of: Workshop, helper: Helper, worth_bytes: int = WORTH_BYTES) -> None:
        """``worth_bytes``: smaller jobs stay here."""
        super().__init__(of.fs, of.directory, of.config, of.cache, of.numbers)
        self.helper: Helper | None = helper
        """None once it was lost."""
        self.worth_bytes = worth_bytes

    def flush(self, memtable: Memtable, created: list[int], *, lowest: bool, since_ms: int) -> Building:
        """See ``Workshop``."""
        if self.helper is not None and self.worth_bytes <= memtable.bytes <= _MAX_MEMTABLE_BYTES:
            found = memtable.entries
            message = Flushing(
                self.directory, self.config, [*found], [each.record for each in found.values()], lowest, since_ms
            )
            try:
                return (yield from self._elsewhere(message, created, []))
            except HelperLost as lost:
                self._go_on_without(lost, created)
        return (yield from super().flush(memtable, created, lowest=lowest, since_ms=since_ms))

    def merge(
        self,
        sources: Sequence[Sequence[Table]],
        created: list[int],
        damages: list[Damage],
        *,
        drop: DroppedBuckets | None,
        lowest: bool,
        since_ms: int,
    ) -> Building:
        """See ``Workshop``."""
        size_bytes = sum(table.info.size_bytes for tables in sources for table in tables)
        if self.helper is not None and size_bytes >= self.worth_bytes:
            plain = [[(table.info, sorted(table.skipped)) for table in tables] for tables in sources]
            before = len(created)
            message = Merging(self.directory, self.config, plain, lowest, since_ms, drop)
            try:
                return (yield from self._elsewhere(message, created, damages))
            except HelperLost as lost:
                self._go_on_without(lost, created[before:])
                del created[before:]
        return (yield from super().merge(sources, created, damages, drop=drop, lowest=lowest, since_ms=since_ms))

    def _go_on_without(self, lost: HelperLost, created: list[int]) -> None:
        if isinstance(lost, _Declined):
            logger.info("%s: the helper process declines a job: %s", self.directory, lost)
        elif self.helper is not None:
            logger.warning("%s: the helper process is lost (%s); its work goes on in a thread", self.directory, lost)
            self.helper = None
        self.remove(created)

    def _elsewhere(self, begin: Merging | Flushing, created: list[int], damages: list[Damage]) -> Building:
        begun = self._ask(begin)
        if isinstance(begun, Declined):
            raise _Declined(begun.reason)
        if not isinstance(begun, Begun):
            raise HelperLost(f"it answers {type(begun).__name__}")
        in_hand: deque[int] = deque()
        try:
            while True:
                fresh = [next(self.numbers) for _ in range(_NUMBERS_AHEAD - len(in_hand))]
                created += fresh  # before their files exist
                in_hand += fresh
                answer = self._ask(Go(begun.job, fresh))
                if isinstance(answer, Unfinished) and 0 <= answer.taken <= len(in_hand):
                    for _ in range(answer.taken):
                        in_hand.popleft()
                    yield
                elif isinstance(answer, Done):
                    if not {each.info.number for each in answer.built} <= {*created}:
                        raise HelperLost("it names tables that it was not given")
                    damages += answer.damages
                    return answer.built
                else:
                    raise HelperLost(f"it answers {type(answer).__name__}")
        except GeneratorExit:  # the job is given up
            self._forget(begun.job)
            raise

    def _forget(self, job: int) -> None:
        try:
            self._ask(GiveUp(job))
        except (HelperLost, OSError) as error:
            logger.warning("%s: the helper process does not give up a job: %s", self.directory, error)

    def _ask(self, request: Request) -> Answer:
        if self.helper is None:
            raise HelperLost("another job found it gone")
        try:
            answer: Answer = _decode_answer(self.helper.call(_encode(request)))
        except UNREADABLE as error:
            raise HelperLost(f"its answer cannot be read: {error}") from None
        if isinstance(answer, Failed):
            raise OSError(answer.errno, answer.text, answer.file or None)
        return answer


# ---- the helper's side ---------------------------------------------------------------------------------------------


class _Job:
    """A job in the helper."""

    def __init__(self, damages: list[Damage]) -> None:
        self.numbers: deque[int] = deque()
        self.taken = 0
        self.damages = damages
        self.tables: list[Table] = []
        self.building: Building | None = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.numbers.popleft()

    def close(self) -> None:
        """Close all files."""
        if self.building is not None:
            self.building.close()
        for table in self.tables:
            table.release()


class Worker:
    """What runs in the helper process: answers messages, one at a time."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._jobs: dict[int, _Job] = {}
        self._next = 1

    def handle(self, message: bytes) -> bytes:
        """Answer a message. Raises for one that makes no sense: the process then ends, and the node does without."""
        request = _decode_request(message)
        try:
            return _encode(self._answer(request))
        except OSError as error:
            return _encode(Failed(error.errno or 0, error.strerror or str(error), str(error.filename or "")))

    def _answer(self, request: Request) -> Answer:
        if isinstance(request, Go):
            return self._step(request)
        if isinstance(request, GiveUp):
            self._jobs.pop(request.job).close()
            return Done(0, [], [])
        job = _Job([])
        try:
            self._begin(job, request)
        except CorruptBlock as corrupt:  # the node, which has the table open, reads it block by block
            job.close()
            return Declined(str(corrupt.damage))
        except BaseException:
            job.close()
            raise
        name, self._next = self._next, self._next + 1
        self._jobs[name] = job
        return Begun(name)

    def _begin(self, job: _Job, request: Merging | Flushing) -> None:
        cache = BlockCache(0)
        workshop = Workshop(self._fs, request.directory, request.config, cache, job)
        if isinstance(request, Flushing):
            batches = _sorted_batches(request.keys, request.records)
            job.building = workshop.build(batches, [], lowest=request.lowest, since_ms=request.since_ms)
            return
        sources: list[list[Table]] = []
        for infos in request.sources:
            sources.append([])
            for info, skipped in infos:
                table = Table(self._fs, request.directory, info, cache)
                table.skipped = frozenset(skipped)
                job.tables.append(table)
                sources[-1].append(table)
        job.building = workshop.merge(
            sources, [], job.damages, drop=request.drop, lowest=request.lowest, since_ms=request.since_ms
        )

    def _step(self, request: Go) -> Answer:
        job = self._jobs[request.job]
        job.numbers += request.numbers
        job.taken = 0
        assert job.building is not None
        try:
            next(job.building)
        except StopIteration as end:
            del self._jobs[request.job]
            job.close()
            return Done(job.taken, end.value, job.damages)
        except BaseException:
            del self._jobs[request.job]
            job.close()
            raise
        return Unfinished(job.taken)


def _sorted_batches(keys: list[bytes], records: list[bytes]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    entries = dict(zip(keys, records, strict=True))
    keys.sort()
    for at in range(0, len(keys), _FLUSHED_KEYS):
        part = keys[at : at + _FLUSHED_KEYS]
        yield part, [*map(entries.__getitem__, part)]
