"""WHICH write stands when two meet.

Versions are immutable: a write makes a new one. What happens when two versions of a key meet is the bucket's policy.

* ``lww`` (last writer wins): the newer stamp stands. Stamps are hybrid logical times (``hybrid_clock``) with the random
  operation id as the tie-break, so every replica picks the same winner in any order of arrival. Of two concurrent writes
  one is silently lost; that is what the policy means.
* ``vector`` (dotted version vectors, siblings) is not built yet. A record opens with its kind, and ``merge`` goes by
  it; another kind is another branch there.

``merge`` is commutative, associative and idempotent: the three properties by which replicas that have seen the same
writes end equal, whatever the network did (Shapiro et al. 2011, "Conflict-free replicated data types", 2.2).
"""

from __future__ import annotations

from raykv.versions.hybrid_clock import ClockTooFarAhead, HybridClock, check_not_ahead, time_from_ms, time_to_ms
from raykv.versions.lww import covers, merge

__all__ = ["ClockTooFarAhead", "HybridClock", "check_not_ahead", "covers", "merge", "time_from_ms", "time_to_ms"]
