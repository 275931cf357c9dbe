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

And, whatever the levels: a value read was written, to that key, before the read ended, and its writer was not told that
nothing was written; a version in the context of a read that is not shown was superseded by somebody who had seen it (or by
a write without a context), or has expired; a write with a context supersedes what that context had seen and nothing else;
values come newest first; an expired one is not shown; a write is stamped above all that it supersedes (P7).

``strict=False`` drops the condition on the levels and demands all of it of a store with W=1, R=1: it must fail.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from raykv.sim.history import Violation, shown
from raykv.sim.host import EPOCH_MS
from raykv.versions import time_to_ms
from raykv.versions.causality import contains, covers, with_dot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.sim.history import Op, Stamps, VectorWrite


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
        self.times = {sent.dot: sent.time for op in self.writes if (sent := stamps.writes.get(op.operation_id))}
        self.by_operation = {op.operation_id: op for op in self.writes}
        self.found: list[Violation] = []

    def check(self) -> list[Violation]:
        """Return what is wrong. O(reads x writes)."""
        for write in self.writes:
            self._check_write(write)
        for read in self.reads:
            self._check_origins(read)
        if not self.found:
            for read in self.reads:
                self._check_read(read)
            self._check_monotone()
        return self.found

    # ---- the rules ----

    def _check_write(self, write: Op) -> None:
        sent = self.stamps.writes.get(write.operation_id)
        if sent is None:
            if write.outcome == "ok" and self.all_heard:
                self._report("acknowledged and not sent", write, f"nobody heard of the {write.kind} by {write.client}")
            return
        if write.seen is not None and sent.seen != with_dot(write.seen, sent.dot):
            text = f"{write.client}'s {write.kind} of {shown(write.value)} went out with another context than was given"
            self._report("context changed", write, text)
        below = [
            dot
            for dot, time in self.times.items()
            if time >= sent.time and dot != sent.dot and contains(sent.seen, dot)
        ]
        if below:
            text = f"{write.client}'s {write.kind} of {shown(write.value)} is stamped at or below what it supersedes"
            self._report("stamped below", write, text)
        if not write.blind or 2 * write.level <= self.copies:
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

    def _check_read(self, read: Op) -> None:
        values = self._values(read)
        sent_of = {value: sent for value in values if (sent := self._sent(value)) is not None}
        for write in self._before(read, self.acked):
            sent = self.stamps.writes[write.operation_id]
            if read.seen is not None and not contains(read.seen, sent.dot):
                self._report("lost or stale", read, f"{self._told(write, read)}, and its context has not seen it")
            back = [value for value, old in sent_of.items() if old.dot != sent.dot and contains(sent.seen, old.dot)]
            if back:
                text = f"{self._told(write, read)} {shown(back[0])}, which that write had superseded"
                self._report("superseded and back", read, text)
        if read.values is not None and read.seen is not None:
            self._check_vanished(read)
        else:
            self._check_newest(read)
        times = [sent_of[value].time for value in read.values or () if value in sent_of]
        if any(one < other for one, other in pairwise(times)):
            self._report("not newest first", read, f"{read.client} was shown {values}")

    def _check_vanished(self, read: Op) -> None:
        """Whatever the context has seen and does not show must have been superseded, deleted or expired."""
        assert read.seen is not None
        for write in self.writes:
            sent = self.stamps.writes.get(write.operation_id)
            if sent is None or sent.tombstone or write.value in self._values(read):
                continue
            if contains(read.seen, sent.dot) and not self._explained(write, sent, read):
                text = f"{read.client} has seen the write of {shown(write.value)} and is not shown it; nobody superseded it"
                self._report("vanished", read, text)

    def _check_newest(self, read: Op) -> None:
        """Demand that a read of one value shows nothing older than what was acknowledged before it."""
        for write in self._before(read, self.acked):
            sent = self.stamps.writes[write.operation_id]
            shown_now = self._sent(read.value) if read.value is not None else None
            if shown_now is not None and shown_now.time < sent.time:
                self._report("lost or stale", read, f"{self._told(write, read)} the older {shown(read.value)}")
            elif read.value is None and not any(time >= sent.time for time in self._gone_by(read)):
                self._report("lost or stale", read, f"{self._told(write, read)} nothing")

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
        for read in looked:
            for before in self._before(read, looked):
                assert before.seen is not None
                assert read.seen is not None
                if not covers(read.seen, before.seen):
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
            if other.returned_s < op.invoked_s and (not self.strict or other.level + op.level > self.copies):
                yield other

    def _explained(self, write: Op, sent: VectorWrite, read: Op) -> bool:
        """Whether something may have taken the version away by the end of the read."""
        if self._expired(write, read.returned_s, self.skew_ms):
            return True
        return any(
            other.invoked_s <= read.returned_s and self._supersedes(other, sent)
            for other in self.writes
            if other is not write
        )

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
    def _told(write: Op, read: Op) -> str:
        return (
            f"{write.client} was told that it wrote {shown(write.value)} by {write.returned_s:.4f} s; at "
            f"{read.invoked_s:.4f} s {read.client} asked and was shown"
        )

    def _report(self, rule: str, op: Op, text: str) -> None:
        self.found.append(Violation(rule, self.key, text, op.returned_s))
