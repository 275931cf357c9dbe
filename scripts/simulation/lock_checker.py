"""What must hold of a lock: each holder has a token greater than all before, and no two believe at once that they hold it.

A holder's belief is what ``lost`` says when it looks, so that only what it could have acted on counts: a process that
stands still looks at nothing. All clocks must run alike, as the lease says.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from simulation.history import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence


class Holding(NamedTuple):
    """One tenancy of a lock, as its holder saw it. Times in virtual seconds."""

    client: str
    name: str
    token: int
    since_s: float
    until_s: float
    """When it last looked and held the lock."""
    lost: bool
    """Whether it found the lock lost then."""

    def told(self) -> str:
        """Return a line for people."""
        return f"{self.client} held {self.name} with token {self.token} from {self.since_s:.4f} to {self.until_s:.4f}"


def check_locks(holdings: Sequence[Holding]) -> list[Violation]:
    """Return each pair of holders of one lock that overlap, or whose tokens do not grow. O(n log n)."""
    found = []
    for before, after in pairwise(sorted(holdings, key=lambda held: (held.name, held.since_s, held.token))):
        if before.name != after.name:
            continue
        if after.token <= before.token:
            found.append(
                Violation("token does not grow", after.name, f"{before.told()}; {after.told()}", after.since_s)
            )
        if after.since_s < before.until_s:
            found.append(Violation("two holders", after.name, f"{before.told()}; {after.told()}", after.since_s))
    return found
