"""Admission under overload: some requests get in, and the others get a refusal at once.

A node that accepts everything answers everything late, and in vain: its callers have given up. It therefore bounds the
requests in progress, and refuses the rest while a refusal costs next to nothing.

The bound is found, not set. The measure is how long an admitted request waits for its turn; above
``TARGET_S`` the bound goes down, below it goes up while it is what limits (additive increase, multiplicative
decrease: Chiu & Jain 1989). Once half of the bound is taken, no caller may have more than an equal share of it, so a
caller that sends too much meets refusals before the others do.

A request answered before the next one is examined has not waited, and does not count.

Traffic that keeps the cluster together (gossip, pings, changes of its state) always gets in: see ``may_wait``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from raykv.protocol.nodes import kind_of_request
from raykv.protocol.requests import SHED

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

TARGET_S = 0.1
"""A busy machine alone makes a process wait for its turn for some tens of milliseconds."""
LOOK_EVERY_S = 0.05
FEWEST, MOST = 128, 4096
FIRST = 512
_DOWN, _UP = 0.8, 8


def may_wait(frame: bytes) -> bool:
    """Whether a request may be refused, to be retried, by the table of requests (``shed``)."""
    return kind_of_request(frame) in SHED


class Admission:
    """Counts each caller's requests in flight. O(1) each."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._under_way: Counter[Hashable] = Counter()
        self._total = 0
        self._longest_s = 0.0
        self._limited = False
        self._looked_s = monotonic_s()
        self.limit = FIRST
        """The bound on requests in flight."""
        self.refused = 0

    def lets_in(self, who: Hashable) -> bool:
        """Whether this caller's next request gets in. One that is answered at once need not ``enter``."""
        if 2 * self._total < self.limit:
            return True
        if self._total < self.limit and self._under_way[who] * max(1, len(self._under_way)) < self.limit:
            return True
        self._limited = True
        self.refused += 1
        return False

    def enter(self, who: Hashable) -> bool:
        """Admit a request of this caller, or not. Each admitted request must ``leave``."""
        if not self.lets_in(who):
            return False
        self._total += 1
        self._under_way[who] += 1
        return True

    def waited(self, waited_s: float) -> None:
        """Record how long a request waited for its turn."""
        self._longest_s = max(self._longest_s, waited_s)
        now_s = self._monotonic_s()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        if self._longest_s > TARGET_S:
            self.limit = max(FEWEST, int(self.limit * _DOWN))
        elif self._limited:
            self.limit = min(MOST, self.limit + _UP)
        self._looked_s, self._longest_s, self._limited = now_s, 0.0, False

    def leave(self, who: Hashable) -> None:
        """Record that a request has been answered."""
        self._total -= 1
        left = self._under_way[who] - 1
        if left:
            self._under_way[who] = left
        else:
            del self._under_way[who]
