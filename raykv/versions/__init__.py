"""WHICH version stands when two meet.

Versions are immutable: a write makes a new one. The bucket's policy decides what happens when two versions of a key meet.

* ``vector`` (the default): no concurrent write is lost. Every write has a *dot*, which no other write has, and carries
  what its writer had seen; it supersedes exactly that, and any version that its writer had not seen stays beside it as a
  *sibling* (``dvvset``, over ``causality``). A reader gets all siblings and a *context* (``context``); a write with that
  context merges them. ``get`` returns one of them (``resolvers``).
* ``lww`` (last writer wins): the newer stamp stands. Stamps are hybrid logical times (``hybrid_clock``) with the random
  operation id as the tie-break, so every replica picks the same winner in any order of arrival (``lww``). Of two
  concurrent writes one is silently lost; that is what the policy means, and it costs a round less.
* ``linearizable``: there is one order, which the leader of the partition makes (``raykv.replica.leader``). Term and seq are
  the stamp, the later one stands, and there is no choice to be made here.

``merge`` (``merging``) goes by the kind of the records. It is commutative, associative and idempotent. With these three
properties, replicas that have seen the same writes end up equal, whatever the network did (Shapiro et al. 2011,
"Conflict-free replicated data types", 2.2). ``vector_clock`` has the classic clocks, for comparison only.

**Dots are never reused** (P2). The counters of an actor id grow by one; one run of one node assigns them from memory, for
one record. Where that memory is gone (a restart, a dropped record), ``raykv.replica.dot_allocator`` draws a fresh random
id.

**Omitted.** Pruning of histories by age or size, as Dynamo does (section 4.4): superseded versions would come back.
Merging values: the reader does that, by a resolver or by hand.
"""

from __future__ import annotations

from raykv.versions.hybrid_clock import ClockTooFarAhead, HybridClock, check_not_ahead, time_from_ms, time_to_ms
from raykv.versions.merging import (
    Shown,
    TooManyVersions,
    causality_of,
    covers,
    dead_since_ms,
    merge,
    merge_bounded,
    only_value,
    seen_and_shown,
    shown,
    shows_nothing,
)

__all__ = [
    "ClockTooFarAhead",
    "HybridClock",
    "Shown",
    "TooManyVersions",
    "causality_of",
    "check_not_ahead",
    "covers",
    "dead_since_ms",
    "merge",
    "merge_bounded",
    "only_value",
    "seen_and_shown",
    "shown",
    "shows_nothing",
    "time_from_ms",
    "time_to_ms",
]
