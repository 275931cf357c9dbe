"""What may be demanded of a history of keys with vector versions, and no more.

What each write had seen is heard on the way from its coordinator to the nodes (``history.Stamps``), as are the dots. For
each key, where one operation had returned before another was asked and their levels add up to more than N:

* acknowledged write, then read with its context: the context has the write's dot;
* acknowledged write, then read of one value: that value is not older; a read that found nothing needs a delete or an
  expiry that is not older (P7);
* read, then read: the second context has all that the first one had (P9);
* acknowledged write, then a write without a context: the later one supersedes it (P7);
* acknowledged write that superseded a version, then read: that version is not shown. With one dot a write (P8) there is no
  other one under which it could come back.

And, whatever the levels: a value read was written, to that key, before the read ended, and its writer did not hear that
nothing was written; a version in the context of a read that is not shown was superseded by somebody who had seen it (or by
a write without a context), or has expired; a write with a context supersedes what that context had seen and nothing else;
values come newest first; an expired one is not shown; a write is stamped above all that it supersedes (P7).

``strict=False`` drops the condition on the levels and demands all of it of a store with W=1, R=1: it must fail.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from raykv.sim.host import EPOCH_MS
from raykv.versions import time_to_ms
from raykv.versions.causality import contains, covers, union, with_dot
from simulation.history import Violation, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from raykv.records.vector_record import Dot, Seen
    from simulation.history import Op, Stamps, VectorWrite


class VectorChecker:
    """Checks the operations on one key."""

    def __init__(
        self,
        key: str,
        ops: Sequence[Op],
        stamps: Stamps,
        copies: int,
        skew_ms: float,
        *,
        strict: bool,
        all_heard: bool = True,
    ) -> None:
        """``all_heard``: whether ``stamps`` knows every write that reached a node; else only the acknowledged ones."""
        self.all_heard = all_heard
        self.key = key
        self.copies = copies
        self.skew_ms = skew_ms
        self.strict = strict
        self.stamps = stamps
        self.writes = [op for op in ops if not op.reads]
        self.reads = [op for op in ops if op.reads and op.outcome == "ok"]
        self.acked = [op for op in self.writes if op.outcome == "ok" and op.operation_id in stamps.writes]
        self._gone_from_s: dict[str, float] = {}
        self._acked_over: dict[str, list[Op]] = {}
        self.by_operation = {op.operation_id: op for op in self.writes}
        self.found: list[Violation] = []

    def check(self) -> list[Violation]:
        """Return what is wrong. O(reads x writes) at the worst, and quick steps."""
        for write, floor in self._floors(self.writes, self.acked, self._own_dot):
            self._check_write(write, floor)
        for read in self.reads:
            self._check_origins(read)
        if not self.found:
            for read, floor in self._floors(self.reads, self.acked, self._own_dot):
                self._check_read(read, floor)
            self._check_vanished()
            self._check_monotone()
        return self.found

    # ---- the rules ----

    def _check_write(self, write: Op, floor: Seen) -> None:
        sent = self.stamps.writes.get(write.operation_id)
        if sent is None:
            if write.outcome == "ok" and self.all_heard:
                self._report("acknowledged and not sent", write, f"nobody heard of the {write.kind} by {write.client}")
            return
        if write.seen is not None and sent.seen != with_dot(write.seen, sent.dot):
            text = f"{write.client}'s {write.kind} of {shown(write.value)} went out with another context than was given"
            self._report("context changed", write, text)
        if any(time >= sent.time and contains(sent.seen, dot) for dot, time in self._stamps_until(write, sent)):
            text = f"{write.client}'s {write.kind} of {shown(write.value)} is stamped at or below what it supersedes"
            self._report("stamped below", write, text)
        if not write.blind or 2 * write.level <= self.copies or covers(sent.seen, floor):
            return
        for before in self._before(write, self.acked):
            if not contains(sent.seen, self.stamps.writes[before.operation_id].dot):
                text = (
                    f"{before.client} was told that it wrote {shown(before.value)} by {before.returned_s:.4f} s; the "
                    f"{write.kind} of {shown(write.value)} by {write.client}, asked at {write.invoked_s:.4f} s without a "
                    "context, does not supersede it"
                )
                self._report("acknowledged and not superseded", write, text)

    def _check_origins(self, read: Op) -> None:
        for value in self._values(read):
            write = self.by_operation.get(self.stamps.operation_of_value.get(value, ""))
            if write is None or write.key != self.key or write.invoked_s > read.returned_s:
                self._report("invented", read, f"{read.client} read {shown(value)}, which nobody had written")
            elif write.outcome == "refused":
                text = f"{read.client} read {shown(value)}, of which {write.client} was told that it was not written"
                self._report("refused write stands", read, text)
            elif self._expired(write, read.invoked_s, -self.skew_ms):
                self._report("expired value read", read, f"{read.client} read {shown(value)} after its ttl")

    def _check_read(self, read: Op, floor: Seen) -> None:
        values = self._values(read)
        sent_of = {value: sent for value in values if (sent := self._sent(value)) is not None}
        if read.seen is not None and not covers(read.seen, floor):
            for write in self._before(read, self.acked):
                if not contains(read.seen, self.stamps.writes[write.operation_id].dot):
                    self._report(
                        "lost or stale", read, f"{self._acknowledged(write, read)}, and its context has not seen it"
                    )
        for value, old in sent_of.items():
            for write in self._before(read, self._superseders(self.stamps.operation_of_value[value], old)):
                text = f"{self._acknowledged(write, read)} {shown(value)}, which that write had superseded"
                self._report("superseded and back", read, text)
        if read.values is None:
            self._check_newest(read)
        times = [sent_of[value].time for value in read.values or () if value in sent_of]
        if any(one < other for one, other in pairwise(times)):
            self._report("not newest first", read, f"{read.client} was shown {values}")

    def _check_vanished(self) -> None:
        """Whatever a context has seen and its read does not show must have been superseded, deleted or expired.

        Goes through time with the writes that may still stand, so that each read is compared with those alone.
        """
        looked = [read for read in self.reads if read.values is not None and read.seen is not None]
        standing: list[Op] = []
        at = 0
        for read in sorted(looked, key=lambda read: read.returned_s):
            while at < len(self.writes) and self.writes[at].invoked_s <= read.returned_s:
                sent = self.stamps.writes.get(self.writes[at].operation_id)
                if sent is not None and not sent.tombstone:
                    standing.append(self.writes[at])
                at += 1
            standing = [
                write for write in standing if not self._explained(write, self.stamps.writes[write.operation_id], read)
            ]
            for write in standing:
                dot = self.stamps.writes[write.operation_id].dot
                if write.value not in self._values(read) and contains(read.seen or (), dot):
                    text = (
                        f"{read.client} has seen {shown(write.value)} and is not shown it, though nobody superseded it"
                    )
                    self._report("vanished", read, text)

    def _check_newest(self, read: Op) -> None:
        """Demand that a read of one value shows nothing older than what was acknowledged before it."""
        for write in self._before(read, self.acked):
            sent = self.stamps.writes[write.operation_id]
            shown_now = self._sent(read.value) if read.value is not None else None
            if shown_now is not None and shown_now.time < sent.time:
                self._report("lost or stale", read, f"{self._acknowledged(write, read)} the older {shown(read.value)}")
            elif read.value is None and not any(time >= sent.time for time in self._gone_by(read)):
                self._report("lost or stale", read, f"{self._acknowledged(write, read)} nothing")

    def _gone_by(self, read: Op) -> Iterator[int]:
        """Yield the times of deletes, and of values that have expired, which the read may have met."""
        for write in self.writes:
            sent = self.stamps.writes.get(write.operation_id)
            if write.invoked_s > read.returned_s or write.outcome == "refused":
                continue
            if sent is None:
                if write.kind == "delete" and not self.all_heard:
                    yield 1 << 64
            elif sent.tombstone or self._expired(write, read.returned_s, self.skew_ms):
                yield sent.time

    def _check_monotone(self) -> None:
        looked = [read for read in self.reads if read.seen is not None]
        for read, floor in self._floors(looked, looked, lambda read: read.seen or ()):
            assert read.seen is not None
            if not covers(read.seen, floor):
                before = next(one for one in self._before(read, looked) if not covers(read.seen, one.seen or ()))
                text = (
                    f"{before.client} had read {before.values} by {before.returned_s:.4f} s; at {read.invoked_s:.4f} s "
                    f"{read.client} asked and got a context that has seen less"
                )
                self._report("went backward", read, text)
                return

    # ---- parts ----

    def _before(self, op: Op, others: Sequence[Op]) -> Iterator[Op]:
        """Yield the others that had returned before ``op`` was asked, and whose replicas must overlap with its."""
        for other in others:
            if other.returned_s < op.invoked_s and self._must_meet(other.level, op.level):
                yield other

    def _must_meet(self, level: int, other: int) -> bool:
        return not self.strict or level + other > self.copies

    def _floors(
        self, asked: Sequence[Op], ended: Sequence[Op], seen_of: Callable[[Op], Seen]
    ) -> Iterator[tuple[Op, Seen]]:
        """Yield each op with all that those had seen that were ``_before`` it."""
        by_end = sorted(ended, key=lambda op: op.returned_s)
        floors: dict[int, Seen] = {}
        at = 0
        for op in sorted(asked, key=lambda op: op.invoked_s):
            while at < len(by_end) and by_end[at].returned_s < op.invoked_s:
                level = by_end[at].level
                floors[level] = union(floors.get(level, ()), seen_of(by_end[at]))
                at += 1
            floor: Seen = ()
            for level, seen in floors.items():
                if self._must_meet(level, op.level):
                    floor = union(floor, seen)
            yield op, floor

    def _own_dot(self, write: Op) -> Seen:
        actor, counter = self.stamps.writes[write.operation_id].dot
        return ((actor, counter, counter),)

    def _stamps_until(self, write: Op, sent: VectorWrite) -> Iterator[tuple[Dot, int]]:
        """Yield dot and time of the other writes that were asked before ``write`` returned: it can have seen no others."""
        for other in self.writes:
            if other.invoked_s > write.returned_s:
                return
            stamp = self.stamps.writes.get(other.operation_id)
            if stamp is not None and stamp.dot != sent.dot:
                yield stamp.dot, stamp.time

    def _superseders(self, operation_id: str, sent: VectorWrite) -> list[Op]:
        """Return the acknowledged writes that superseded that version."""
        found = self._acked_over.get(operation_id)
        if found is None:
            found = self._acked_over[operation_id] = [
                op
                for op in self.acked
                if (own := self.stamps.writes[op.operation_id]).dot != sent.dot and contains(own.seen, sent.dot)
            ]
        return found

    def _explained(self, write: Op, sent: VectorWrite, read: Op) -> bool:
        """Whether something may have taken the version away by the end of the read."""
        if self._expired(write, read.returned_s, self.skew_ms):
            return True
        from_s = self._gone_from_s.get(write.operation_id)
        if from_s is None:
            superseders = (
                other.invoked_s
                for other in self.writes  # in the order in which they were asked
                if other is not write
                and (other.returned_s >= write.invoked_s or other.outcome == "unknown")
                and self._supersedes(other, sent)
            )
            from_s = self._gone_from_s[write.operation_id] = next(superseders, math.inf)
        return from_s <= read.returned_s

    def _supersedes(self, write: Op, sent: VectorWrite) -> bool:
        """Whether a write supersedes that version, or, if nothing was heard of it, may do so."""
        own = self.stamps.writes.get(write.operation_id)
        if own is not None:
            return contains(own.seen, sent.dot)
        if self.all_heard or write.outcome == "refused":
            return False
        return write.seen is None or contains(write.seen, sent.dot)

    def _expired(self, write: Op, at_s: float, slack_ms: float) -> bool:
        sent = self.stamps.writes.get(write.operation_id)
        if write.ttl_s is None or sent is None:
            return False
        return time_to_ms(sent.time) + write.ttl_s * 1000 < EPOCH_MS + at_s * 1000 + slack_ms

    def _sent(self, value: str) -> VectorWrite | None:
        return self.stamps.writes.get(self.stamps.operation_of_value[value])

    @staticmethod
    def _values(read: Op) -> tuple[str, ...]:
        if read.values is not None:
            return read.values
        return () if read.value is None else (read.value,)

    @staticmethod
    def _acknowledged(write: Op, read: Op) -> str:
        return (
            f"{write.client} was told that it wrote {shown(write.value)} by {write.returned_s:.4f} s; at "
            f"{read.invoked_s:.4f} s {read.client} asked and was shown"
        )

    def _report(self, rule: str, op: Op, text: str) -> None:
        self.found.append(Violation(rule, self.key, text, op.returned_s))
