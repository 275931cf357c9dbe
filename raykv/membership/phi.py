"""Phi accrual: how surprising a peer's silence is, on a scale that does not depend on the network.

A peer is not "dead after 3 s". News of it arrives in gaps, whose mean and deviation are learned; phi is -log10 of the
probability that a living peer stays silent for as long as this one has (Hayashibara, Défago, Yared and Katayama: The phi
accrual failure detector, SRDS 2004, section 4). At a threshold of 8 a living peer is suspected once in 10^8 gaps, if its
gaps follow the assumed distribution.

**The assumed distribution**: normal, as in the paper and in Akka, plus a pause. With gossip, news of a peer arrives through
everybody; the gaps between *advances* of its counter (``scripts/gossip`` at 10 % loss, two partners a round) have a mean
of 1.0 to 1.2 rounds and a deviation of 0.2 (3 nodes) to 0.65 rounds (500), but beyond 3 rounds the tail falls as slowly as
an exponential: ten times rarer for 0.5 to 0.6 rounds more. A normal distribution alone cuts that off too early. An
exponential one with the same mean, as in Cassandra, takes the whole distribution for such a tail and suspects at 18
rounds, or 9 s. An *acceptable pause* of 2 rounds therefore shifts the normal's limit; it also covers a process that was
busy with something else for a second: Akka's answer to garbage collection. With every_s = 0.5 that gives a limit of 2.2 s
for 3 nodes and of 2.7 to 3.4 s for more.

**What keeps it stable.** The deviation has a floor of a quarter round: three nodes on a quiet machine have one of nearly 0,
and the first hiccup would be a death. A gap longer than the limit counts as the limit: one long silence (a partition, a
restart) must not blind the detector afterwards, yet it gradually learns that a network became slow. A new peer counts as
heard of at that moment, with an estimate that is wide at first (a limit of 7.2 rounds) and weighs as much as 5 gaps.

**Against the paper**: each gap weighs 1/window and earlier ones fade, where the paper keeps the last gaps. That takes two
numbers a peer instead of 200, and no sum that accumulates rounding errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from raykv.config import check_count, check_seconds
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable

PAUSE_ROUNDS = 2.0
"""Silence beyond the usual gaps that raises no suspicion."""
DEVIATION_FLOOR_ROUNDS = 0.25
FIRST_GAP_ROUNDS = 1.0
FIRST_DEVIATION_ROUNDS = 0.75
FIRST_WEIGHT = 5
"""Weight of the initial estimate, in gaps."""
MAX_EVERY_S = 3600.0
MAX_THRESHOLD = 100.0
MAX_WINDOW = 1_000_000


@dataclass(slots=True)
class _Peer:
    heard_s: float
    mean_s: float
    variance_s2: float
    limit_s: float
    gaps: int = FIRST_WEIGHT
    excused: bool = False
    """Whether ``heard_s`` is no real news: the gap that follows teaches nothing."""


class PhiAccrual:
    """Each peer's silence, and how suspicious it is.

    ``every_s``: the time between two heartbeats (a round). ``threshold``: the phi at which a peer is suspected.
    ``window``: about how many gaps are remembered. ``InvalidOption`` if one is out of range.
    """

    def __init__(self, *, every_s: float, threshold: float = 8.0, window: int = 200) -> None:
        self._every_s = check_seconds("every_s", every_s, MAX_EVERY_S)
        if not 0 < threshold <= MAX_THRESHOLD:
            raise InvalidOption(f"threshold must be a number above 0 and at most {MAX_THRESHOLD:g}; got {threshold!r}")
        self._threshold = threshold
        self._deviations = -NormalDist().inv_cdf(10**-threshold)
        self._window = check_count("window", window, 1, MAX_WINDOW)
        self._floor_s = DEVIATION_FLOOR_ROUNDS * self._every_s
        self._pause_s = PAUSE_ROUNDS * self._every_s
        self._peers: dict[str, _Peer] = {}

    def heard(self, peers: Iterable[str], now_s: float) -> None:
        """Record news of these peers, or that they were made known. O(1) each."""
        every, window, pause_s, deviations, floor_s = (
            self._peers, self._window, self._pause_s, self._deviations, self._floor_s,
        )  # fmt: skip
        for peer in peers:
            known = every.get(peer)
            if known is None:
                every[peer] = self._new(now_s)
                continue
            if known.excused:
                known.excused = False
            else:
                gap_s = now_s - known.heard_s
                if known.gaps < window:
                    known.gaps += 1
                share = 1 / known.gaps
                # Two calls of min and max are a third of all this, at 500 entries a table.
                off_s = (gap_s if gap_s < known.limit_s else known.limit_s) - known.mean_s  # noqa: FURB136
                known.mean_s += share * off_s
                known.variance_s2 = variance_s2 = (1 - share) * (known.variance_s2 + share * off_s * off_s)
                deviation_s = math.sqrt(variance_s2)
                if deviation_s < floor_s:  # noqa: PLR1730
                    deviation_s = floor_s
                known.limit_s = pause_s + known.mean_s + deviations * deviation_s
            known.heard_s = now_s

    def excuse(self, now_s: float) -> None:
        """Treat all peers as heard just now, without learning from it: the listener itself was stalled."""
        for peer in self._peers.values():
            peer.heard_s = now_s
            peer.excused = True

    def forget(self, peer: str) -> None:
        """Forget a peer; no error if it is unknown."""
        self._peers.pop(peer, None)

    def phi(self, peer: str, now_s: float) -> float:
        """Return phi, 0 or above: 1 is one gap in ten, 8 one in 10^8; ``inf`` past about 320; 0 for an unknown peer."""
        known = self._peers.get(peer)
        if known is None:
            return 0.0
        deviation_s = max(self._floor_s, math.sqrt(known.variance_s2))
        deviations = (now_s - known.heard_s - self._pause_s - known.mean_s) / deviation_s
        chance = math.erfc(deviations / math.sqrt(2)) / 2
        return max(0.0, -math.log10(chance)) if chance > 0 else math.inf

    def suspects(self, now_s: float) -> list[str]:
        """Return the peers whose phi is at the threshold or above it, sorted. O(peers), and cheap."""
        return sorted(peer for peer, known in self._peers.items() if now_s - known.heard_s >= known.limit_s)

    def _new(self, now_s: float) -> _Peer:
        mean_s, deviation_s = FIRST_GAP_ROUNDS * self._every_s, FIRST_DEVIATION_ROUNDS * self._every_s
        # The silence at which phi reaches the threshold, as in ``heard``.
        limit_s = self._pause_s + mean_s + self._deviations * max(self._floor_s, deviation_s)
        return _Peer(now_s, mean_s, deviation_s * deviation_s, limit_s, excused=True)
