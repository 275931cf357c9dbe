"""What one session knows of the claims of jobs that it has made, holds and settles.

A lease begins with its claim, not with the block that holds it: jobs may wait in the process before that. And a claim that
is gone is lost only if its jobs were not all settled here: the store does not tell who has.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection

ClaimKey: TypeAlias = "tuple[int, bytes]"
"""A shard, and the claim's id."""
MOST_KNOWN = 10_000
"""So many of the latest claims that were made, and that were settled, are remembered."""


class Holder(Protocol):
    """What holds jobs, and hears what becomes of them."""

    def settling(self, claim: ClaimKey, more: int) -> None:
        """Hear that requests to settle jobs of a claim begin (1) or end (-1)."""

    def settled(self, claim: ClaimKey, places: Collection[Any]) -> None:
        """Hear that jobs of a claim are settled."""


class JobClaims:
    """Bounded: the latest ``MOST_KNOWN`` claims, and the blocks that hold jobs now."""

    def __init__(self) -> None:
        self._made_s: dict[ClaimKey, float] = {}
        self._settled: dict[ClaimKey, None] = {}
        self._holders: dict[int, weakref.ref[Holder]] = {}

    def note_made(self, claim: ClaimKey, sent_s: float) -> None:
        """Note when a claim was sent, by this process's monotonic clock."""
        self._made_s[claim] = sent_s
        _forget(self._made_s)

    def made_s(self, claim: ClaimKey) -> float | None:
        """Return when a claim was sent; None if another session has made it, or long ago."""
        return self._made_s.get(claim)

    def note_settling(self, claim: ClaimKey, more: int) -> None:
        """Note that a request to settle jobs of a claim begins (1) or ends (-1)."""
        for holder in self._listening():
            holder.settling(claim, more)

    def note_settled(self, claim: ClaimKey, places: Collection[Any]) -> None:
        """Note that jobs of a claim were acked or nacked."""
        self._settled[claim] = None
        _forget(self._settled)
        for holder in self._listening():
            holder.settled(claim, places)

    def has_settled(self, claim: ClaimKey) -> bool:
        """Whether this session has acked or nacked jobs of a claim."""
        return claim in self._settled

    def add(self, holder: Holder) -> None:
        """Tell a holder what happens to its jobs, for as long as it is there."""
        number, holders = id(holder), self._holders
        holders[number] = weakref.ref(holder, lambda _: holders.pop(number, None))

    def _listening(self) -> list[Holder]:
        return [holder for known in [*self._holders.values()] if (holder := known()) is not None]


def _forget(known: dict[ClaimKey, Any]) -> None:
    if len(known) > MOST_KNOWN:
        for former in [*known][: MOST_KNOWN // 2]:
            known.pop(former, None)
