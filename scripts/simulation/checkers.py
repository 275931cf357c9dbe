"""What may be demanded of a history, and no more. ``vector_checker`` is for keys with vector versions, this for the others.

For each key, with strict quorums (the levels of two operations add up to more than N), if one operation had returned
before another was asked:

* acknowledged write, then read: the read has that write or a later one (its stamp is not below);
* read, then read: the second is not older than the first (P9);
* acknowledged write or read, then acknowledged write: the later write stands above (P7). Without this rule a store whose
  coordinators' clocks differ could acknowledge writes that nobody ever sees.

And, whatever the levels: a value read was written, to that key, before the read ended; a write of which it is certain
that nothing was written is never read; an expired value is not read; a scan gives each key once, in order, and none that
was there and untouched is missing (P15). A read that found nothing needs a delete, an expiry or no write to explain it.

``strict=False`` drops the condition on the levels and demands all of it of a store with W=1, R=1: it must fail.

Where a write was stamped more than once, the reading that favours the store is taken.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from raykv.sim.host import EPOCH_MS
from raykv.versions import time_to_ms
from simulation.history import Op, Violation, shown
from simulation.vector_checker import VectorChecker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulation.history import History, ScanSeen, Stamps

_READS = ("get", "scan")
LATE_S = 0.5
"""How much later than its time a write may be sent out: clocks drift."""


def check_history(
    history: History, copies: int, skew_ms: float, *, plain: str = "", strict: bool = True
) -> list[Violation]:
    """Return what is wrong with a history; ``copies`` = N, ``skew_ms`` = the most by which a clock was off.

    ``plain``: the first letters of the keys in the bucket where the last writer wins. O(n log n) for such a key.
    """
    for scan in history.scans:
        _record_absences(history, scan)
    written = {op.value: op for op in history.ops if op.kind == "put"}
    found = [*history.stamps.broken, *history.broken, *_check_late(history), *_check_acks(history)]
    for key, ops in history.by_key().items():
        if key[0] not in plain:
            found += VectorChecker(key, ops, history.stamps, copies, skew_ms, strict=strict).check()
            continue
        checker = _KeyChecker(key, ops, history.stamps, written, copies, skew_ms, strict)
        found += checker.check()
    for scan in history.scans:
        found += _check_order(scan)
    return found


class _KeyChecker:
    def __init__(
        self,
        key: str,
        ops: list[Op],
        stamps: Stamps,
        written: dict[str | None, Op],
        copies: int,
        skew_ms: float,
        strict: bool,
    ) -> None:
        self.key = key
        self.ops = ops
        self.stamps = stamps
        self.written = written
        self.copies = copies
        self.skew_ms = skew_ms
        self.strict = strict
        self.found: list[Violation] = []

    def check(self) -> list[Violation]:
        settled = [op for op in self.ops if op.outcome == "ok"]
        for op in settled:
            if op.kind in _READS and op.value is not None:
                self._check_origin(op)
        if not self.found:
            self._check_order_in_time(settled)
        return self.found

    def _report(self, rule: str, op: Op, text: str) -> None:
        self.found.append(Violation(rule, self.key, text, op.returned_s))

    def _check_origin(self, read: Op) -> None:
        origin = self.written.get(read.value)
        if origin is None or origin.key != self.key:
            self._report("invented", read, f"{read.client} read {shown(read.value)}, which nobody wrote to {self.key}")
        elif origin.invoked_s > read.returned_s:
            self._report("invented", read, f"{read.client} read {shown(read.value)} before it was written")
        elif origin.outcome == "refused":
            self._report(
                "refused write stands",
                read,
                f"{read.client} read {shown(read.value)}, of which {origin.client} was told that it was not written",
            )
        elif origin.ttl_s is not None:
            self._check_not_expired(read, origin)

    def _check_not_expired(self, read: Op, origin: Op) -> None:
        mark = self.stamps.last(self.stamps.operation_of_value.get(str(read.value), ""), read.returned_s)
        if mark and self._expires_ms(mark, origin) < EPOCH_MS + read.invoked_s * 1000 - self.skew_ms:
            self._report(
                "expired value read", read, f"{read.client} read {shown(read.value)} after its ttl of {origin.ttl_s} s"
            )

    @staticmethod
    def _expires_ms(mark: bytes, origin: Op) -> float:
        assert origin.ttl_s is not None
        return time_to_ms(int.from_bytes(mark[:8], "big")) + origin.ttl_s * 1000

    def _most(self, op: Op) -> bytes:
        """Return the highest stamp that could be what ``op`` wrote or read."""
        if op.kind not in _READS:
            return self.stamps.last(op.operation_id, op.returned_s)
        if op.value is not None:
            return self.stamps.last(self.stamps.operation_of_value.get(op.value, ""), op.returned_s)
        explained = [b""]
        for write in self.ops:
            if write.invoked_s > op.returned_s or write.outcome == "refused":
                continue
            if write.kind == "delete":
                explained.append(self.stamps.last(write.operation_id, op.returned_s))
            elif write.kind == "put" and write.ttl_s is not None:
                mark = self.stamps.last(self.stamps.operation_of_value.get(str(write.value), ""), op.returned_s)
                if mark and self._expires_ms(mark, write) <= EPOCH_MS + op.returned_s * 1000 + self.skew_ms:
                    explained.append(mark)
        return max(explained)

    def _least(self, op: Op) -> bytes:
        """Return the lowest stamp that could be what ``op`` wrote or read."""
        if op.kind not in _READS:
            return self.stamps.last(op.operation_id, op.returned_s)
        if op.value is not None:
            return self.stamps.first(self.stamps.operation_of_value.get(op.value, ""))
        return b""

    def _check_order_in_time(self, settled: list[Op]) -> None:
        by_end = sorted(settled, key=lambda op: op.returned_s)
        highest: dict[int, tuple[bytes, Op]] = {}  # level -> the highest stamp of an op that has returned
        ended = 0
        for op in settled:  # in the order in which they were asked
            while ended < len(by_end) and by_end[ended].returned_s < op.invoked_s:
                before = by_end[ended]
                least = self._least(before)
                if before.level not in highest or least > highest[before.level][0]:
                    highest[before.level] = (least, before)
                ended += 1
            most = self._most(op)
            for level, (floor, before) in sorted(highest.items()):
                if self.strict and level + op.level <= self.copies:
                    continue
                if most < floor or (op.kind not in _READS and most == floor):
                    self._report_order(before, op)
                    return

    def _report_order(self, before: Op, op: Op) -> None:
        did = "read" if before.kind in _READS else "was told that it wrote"
        earlier = f"{before.client} {did} {shown(before.value)} by {before.returned_s:.4f} s"
        if op.kind in _READS:
            rule = "went backward" if before.kind in _READS else "lost or stale"
            text = f"{earlier}; at {op.invoked_s:.4f} s {op.client} asked and read {shown(op.value)}"
        else:
            rule = "acknowledged and shadowed"
            text = f"{earlier}; the later {op.kind} of {shown(op.value)} by {op.client} stands below it"
        self._report(rule, op, text)


def _check_late(history: History) -> Iterable[Violation]:
    """No write is begun after its time: its client may have written over it since (P8)."""
    for op in history.ops:
        sent_s = history.stamps.sent_s.get(op.operation_id) if op.operation_id and not op.reads else None
        if sent_s is not None and op.until_s and sent_s > op.until_s + LATE_S:
            text = f"{op.client}'s {op.kind} of {shown(op.value)} was sent out at {sent_s:.4f} s, due by {op.until_s:.4f} s"
            yield Violation("carried out late", op.key, text, sent_s)


def _check_acks(history: History) -> Iterable[Violation]:
    """Yield the acknowledged writes that name fewer than W nodes that hold them (P7)."""
    for op in history.ops:
        if op.outcome == "ok" and op.acks is not None and len(set(op.acks)) < op.level:
            named = ", ".join(sorted(set(op.acks))) or "nobody"
            text = f"{op.client} was told that its {op.kind} of {shown(op.value)} stands, with w={op.level}, on {named}"
            yield Violation("acknowledged by too few", op.key, text, op.returned_s)


def check_buckets(history: History) -> list[Violation]:
    """Return what is wrong with the buckets that clients were shown: one id a name, one name an id (none is dropped)."""
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    found = []
    for seen in sorted(history.buckets, key=lambda seen: seen.at_s):
        if ids.setdefault(seen.name, seen.bucket_id) != seen.bucket_id:
            text = f"bucket {seen.name!r} has id {seen.bucket_id} for {seen.client}, had {ids[seen.name]} before"
            found.append(Violation("bucket forgotten", seen.name, text, seen.at_s))
        elif names.setdefault(seen.bucket_id, seen.name) != seen.name:
            text = f"bucket id {seen.bucket_id} is {seen.name!r}, was {names[seen.bucket_id]!r} before"
            found.append(Violation("bucket id given twice", seen.name, text, seen.at_s))
    return found


def _check_order(scan: ScanSeen) -> Iterable[Violation]:
    keys = [key.encode() for key in scan.keys]
    if any((a <= b) if scan.reverse else (a >= b) for a, b in itertools.pairwise(keys)):
        yield Violation(
            "scan out of order",
            scan.prefix,
            f"{scan.client}'s scan gave {scan.keys}: not each once, in order",
            scan.returned_s,
        )


def _record_absences(history: History, scan: ScanSeen) -> None:
    """Record each key that a scan should have met and did not as a read that found nothing.

    Keys that somebody wrote to while the scan ran are left out: of those nothing is promised (P15).
    """
    writes = [op for op in history.ops if op.kind not in _READS]
    touched = {op.key for op in writes if _may_overlap(op, scan)}
    known = {op.key for op in writes if op.key.startswith(scan.prefix)}
    for key in sorted(known - touched - set(scan.keys)):
        history.add(scan.client, "scan", key, scan.invoked_s, scan.returned_s, "ok", level=scan.level)


def _may_overlap(op: Op, scan: ScanSeen) -> bool:
    """Whether a write may take effect during a scan; one whose outcome is unknown may do so at any later time."""
    return op.invoked_s <= scan.returned_s and (op.outcome == "unknown" or op.returned_s >= scan.invoked_s)
