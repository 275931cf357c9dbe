"""The events of a run, in order: a hash over all of them, and the latest in full.

Equal hashes show that two runs of a seed were the same run. Each event is (virtual time, kind, source, target, number,
bytes), with the bytes as a digest. ``events`` keeps the latest ones, or all, for the sequence chart of a failing seed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128

if TYPE_CHECKING:
    from raykv.sim.kernel import VirtualLoop

KEPT_EVENTS = 20_000


class Event(NamedTuple):
    """One event. ``number`` joins a request with its answer; ``frame`` is its content."""

    at_s: float
    what: str
    source: str
    target: str
    number: int
    frame: bytes


class Trace:
    """The events of one run."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._hash = xxh3_128()
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.notable: deque[Event] = deque(maxlen=KEPT_EVENTS)
        """The events that are no messages: starts and ends of processes, faults."""
        self.count = 0

    def note(self, what: str, source: str = "", target: str = "", number: int = 0, frame: bytes = b"") -> None:
        """Record an event."""
        at_s = self._loop.now_s
        self.count += 1
        line = f"{at_s:.9f}|{what}|{source}|{target}|{number}|{xxh3_64_intdigest(frame)}\n"
        self._hash.update(line.encode())
        event = Event(at_s, what, source, target, number, frame)
        self.events.append(event)
        if not number:
            self.notable.append(event)

    def hexdigest(self) -> str:
        """Return the hash of all events so far."""
        return self._hash.hexdigest()
