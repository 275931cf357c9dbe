"""Jobs that have a name, ``put(item, once="order:17")``: whoever repeats the put, however often, puts one job.

A name's record says where its job is to be written, before it is written there, and that it was, before a consumer gets
it. One who repeats the put goes on where the record says: it writes the same slot. Where another job stands there, this one
never was nor will be, and a new place is noted, on condition that the record is as it was. Where the slot has been freed,
the job was done if the record says that it was written: a consumer notes that before it has the job, and so before it acks.

Left out: forgetting. A name costs a small record for as long as the bucket is there.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from raykv.client import shards
from raykv.client.exchange import TRY_AGAIN
from raykv.client.queue_books import check_delay
from raykv.client.queue_puts import Puts, ring
from raykv.client.shards import Count, Slot
from raykv.client.version import Version
from raykv.config import shown
from raykv.errors import CorruptData, InvalidOption, Overloaded, RaykvError, WriteOutcomeUnknown
from raykv.protocol import changes as c
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.client.exchange import Steps
    from raykv.client.operations import Operations

MOST_NAME_BYTES = 500
PUT_ID_BYTES = 16


class Named(msgspec.Struct, array_like=True, frozen=True):
    """Where the job of a name is, or is to be; ``stands``: whether it was written there."""

    shard: Annotated[int, Meta(ge=0, le=64)]
    seq: Count
    before: Count
    stands: bool = False


_named = msgspec.msgpack.Decoder(Named)
_encode = msgspec.msgpack.Encoder().encode


def _encoded(name: str) -> bytes:
    """Return a name's bytes; none if it has no encoding."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        return b""


class NamedPuts(Puts):
    """The steps that put a job once."""

    def put_once(self, value: Any, name: Any, *, delay: Any, timeout: Any) -> Steps[str]:
        """Put a job under a name, unless it was put already; return its id."""
        if not isinstance(name, str) or not 0 < len(_encoded(name)) <= MOST_NAME_BYTES:
            raise InvalidOption(
                f"once takes a text of 1 to {MOST_NAME_BYTES} bytes that names the job; got {shown(name)}"
            )
        delay_ms, job = check_delay(delay), self._encoded(value)
        due_ms = self.session.link.wall_ms() + delay_ms if delay_ms else 0

        def work(operations: Operations, until_s: float) -> Steps[str]:
            return self._put_once(operations, name, job, due_ms, until_s)

        job_id = yield from self.work(timeout, work)
        ring(self.session.name, self.name)
        return job_id

    def name_key(self, name: str) -> str:
        """Return the key of a name's record."""
        return f"{self._group}:{zlib.crc32(name.encode()) % self.settings().shards}/n/{name}"

    def _put_once(self, operations: Operations, name: str, job: bytes, due_ms: int, until_s: float) -> Steps[str]:
        key, tries, unsure, is_fresh = self.name_key(name), 0, False, False
        failure: RaykvError = Overloaded(
            f"nothing was put: others put into queue {shown(self.name)} all the time; try again"
        )
        while True:
            if tries and self.now_s() >= until_s:
                raise self._unknown_put(failure) if unsure else failure
            tries += 1
            try:
                ((data, version),) = yield from self.read(operations, [key], until_s)
                place = None if data is None else self._named_of(data)
                if place is None or not (
                    place.stands or is_fresh or (yield from self._is_ahead(operations, place, name, until_s))
                ):
                    yield from self._plan(operations, name, due_ms, data, version, until_s)
                    is_fresh = True
                    continue
                job_id = shards.job_id(place.shard, (place.seq, 0))
                if place.stands:
                    return job_id
                slot = Slot(place.seq, place.before, self._put_id(name), due_ms, [job], name)
                change = operations.put_change(
                    self.slot_key(place.shard, place.seq), shards.encoded(slot), if_absent=True,
                    fence=shards.put_fence(place.seq),
                )  # fmt: skip
                unsure = True
                (settled,), _ = yield from operations.carry_out([change], self.request_s(until_s))
                if isinstance(settled, RaykvError):
                    unsure = isinstance(settled, WriteOutcomeUnknown)
                    raise settled
                if settled.status == c.STALE:
                    raise WriteOutcomeUnknown("its outcome is not known any more", acks=[])
                unsure = False
                there = self.standing(settled)
                if there is not None and there.seq < place.seq:  # of an earlier use of the key
                    if not (yield from self.remove_done(operations, place.shard, there.seq, until_s)):
                        raise self.not_done()
                    continue
                if self._is_own(place, settled, there, name):
                    self.count("put", int(settled.status == c.DONE))
                    yield from self.note_named(operations, [slot], place.shard, until_s)
                    return job_id
                yield from self._plan(operations, name, due_ms, data, version, until_s)
            except TRY_AGAIN as error:
                failure = error
                if self.now_s() < until_s:
                    yield from self.pause(error, tries, until_s)

    def _is_ahead(self, operations: Operations, place: Named, name: str, until_s: float) -> Steps[bool]:
        """Whether a place that was planned by another call is still one that consumers come by, or has the job.

        Once the removal of what stood there is forgotten, nothing refuses a put into it: it would be put and never found.
        """
        book = yield from self.fresh_book(operations, place.shard, until_s)
        if place.seq >= book.head:
            return True
        found = yield from self.read_slots(operations, [(place.shard, place.seq)], until_s)
        slot = found.get((place.shard, place.seq))
        return slot is not None and slot.put_id == self._put_id(name)

    def _unknown_put(self, failure: RaykvError) -> WriteOutcomeUnknown:
        return WriteOutcomeUnknown(
            f"the outcome of this put is unknown: the job is in queue {shown(self.name)} once, or not at all yet. Put it "
            f"again under the same name ({failure})",
            acks=[],
        )

    @staticmethod
    def _put_id(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=PUT_ID_BYTES).digest()

    def _named_of(self, data: bytes) -> Named:
        try:
            return _named.decode(data)
        except msgspec.MsgspecError as error:
            raise CorruptData(f"a name of queue {self.name!r} is unreadable: {error}") from None

    def _plan(
        self, operations: Operations, name: str, due_ms: int, data: bytes | None, version: bytes, until_s: float
    ) -> Steps[None]:
        """Note a new place, if the record is as it was: else another has."""
        shard = self.delayed if due_ms else self._next_shards(1)[0]
        self._known[shard].note_tail(
            None, self.moment()
        )  # as it is now: a place that is taken costs a round of all this
        seq, before = yield from self.end_of(operations, shard, until_s)
        if not due_ms:
            yield from self._check_room(operations, 1, until_s, before)
        condition: dict[str, Any] = {"if_absent": True} if data is None else {"if_version": Version(version)}
        change = operations.put_change(self.name_key(name), _encode(Named(shard, seq, before)), **condition)
        (settled,), _ = yield from operations.carry_out([change], self.request_s(until_s))
        if isinstance(settled, RaykvError) and not isinstance(settled, WriteOutcomeUnknown):
            raise settled  # what stands is read next, whoever wrote it

    def _is_own(self, place: Named, settled: f.Settled, there: Slot | None, name: str) -> bool:
        """Return whether the slot is this job's."""
        if settled.status == c.DONE:
            self._known[place.shard].note_tail((place.seq + 1, place.before + 1), self.moment())
            return True
        return there is not None and there.seq == place.seq and there.put_id == self._put_id(name)

    def note_named(self, operations: Operations, slots: Iterable[Slot], shard: int, until_s: float) -> Steps[None]:
        """Note that the jobs of these slots were written, as far as they have names."""
        changes = [
            operations.put_change(self.name_key(slot.name), _encode(Named(shard, slot.seq, slot.before, True)))
            for slot in slots
            if slot.name
        ]
        tries = 0
        while changes:
            settled, _ = yield from operations.carry_out(changes, self.request_s(until_s))
            failed = [each for each in settled if isinstance(each, RaykvError)]
            if not failed:
                return
            if not isinstance(failed[0], TRY_AGAIN):
                raise failed[0]
            tries += 1
            yield from self.pause(failed[0], tries, until_s)
