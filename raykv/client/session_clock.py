"""What the handles of one ``connect`` remember from call to call: two numbers.

* The newest hybrid time that they have seen: a write carries it, and is stamped above it (P7). A program's write after a
  read stands above what it read, through any coordinator with any clock.
* The coordinator's monotonic clock, as its answers show it. A write carries its deadline in that clock: a coordinator that
  was frozen knows by its own clock how late it is (P8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable


_OF_PAIRS = (f.GotMany, f.WroteMany)
_WITH_CLOCK = (f.BucketOpened, f.DeadlinePassed)


class SessionClock:
    """See the module. Safe to share between threads: each number is written whole, and an older one does no harm."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self.newest_time = 0
        self._clock = (0, 0.0)
        """The coordinator's run, and how far its clock is ahead of ours."""

    def now_s(self) -> float:
        """Seconds by the client's own monotonic clock."""
        return self._monotonic_s()

    def note(self, answer: object) -> None:
        """Record the time and the clock of an answer; other objects are ignored."""
        if isinstance(answer, _OF_PAIRS):
            self.newest_time = max(self.newest_time, answer.time)
        elif isinstance(answer, _WITH_CLOCK):
            run, ahead_s = self._clock
            measured_s = answer.now_s - self._monotonic_s()  # too low by the answer's latency: the highest is best
            self._clock = (answer.run, max(ahead_s, measured_s) if answer.run == run else measured_s)

    def dated(self, request: f.WriteMany, expires_s: float) -> f.WriteMany:
        """Return the request with the remembered times; ``expires_s`` by the client's clock."""
        run, ahead_s = self._clock
        return msgspec.structs.replace(
            request, after=self.newest_time, run=run, expires_s=expires_s + ahead_s if run else 0.0
        )

    def dated_change(self, request: f.ChangeMany, expires_s: float) -> f.ChangeMany:
        """As ``dated``, for a request of changes: those carry no hybrid time, and how long they may be sent again."""
        run, ahead_s = self._clock
        left_s = max(0.0, expires_s - self._monotonic_s())
        return msgspec.structs.replace(request, run=run, expires_s=expires_s + ahead_s if run else 0.0, left_s=left_s)
