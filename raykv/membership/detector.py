"""The failure detector of one node: gossip of heartbeats, and its verdict on the other nodes.

``tick`` every ``every_s``: the node increments its own heartbeat and names the peers to exchange tables with. Both sides
send theirs (push-pull; Demers et al., PODC 1987, section 1.3: it reaches the last few nodes fastest). A new heartbeat is
everywhere after about log N rounds.

**Two partners a round.** With one, a node has news of a peer every 1.3 to 1.7 rounds with a deviation of 0.7 to 1.1
rounds (10 to 500 nodes, 0 to 10 % loss); with two, every 1.0 to 1.2 with 0.4 to 0.65. As the limit is mean plus 5.6
deviations, twice the messages nearly halve the time to notice a death, and at 500 nodes it is 4 exchanges a second.

**Partners are peers that answer**; otherwise many dead peers would make the living look slow. One round in four adds a
suspected peer, because somebody must make the first attempt after a partition heals. If all are suspected, all are tried:
this node was then the one cut off.

**A process that stood still** (SIGSTOP, swap, a sleeping laptop) finds everybody silent and must not say so, as it was
itself away. Lifeguard (Dadgar, Phillips and Currey, DSN 2018) calls that local health. A tick, or any other event, more
than 3 rounds after the last tick reveals it: every peer counts as heard of just now, and none is judged for 10 rounds.
That is longer than any usual limit, on purpose: a process is often not frozen alone, and the others on its host wake up
one after the other.

Omitted: sending. The caller delivers ``table()`` to the peers named, and passes theirs to ``hear``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.config import MAX_NODES, check_count
from raykv.membership.heartbeats import Heartbeats
from raykv.membership.phi import PhiAccrual

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from raykv.membership.heartbeats import Table

LATE_ROUNDS = 3.0
"""A tick this much later than the one before it shows that this process stood still."""
STALL_ROUNDS = 10.0
"""How long nobody is judged after that."""
RETRY_SHARE = 0.25
"""In this share of the rounds a suspected peer is asked, too."""


class FailureDetector:
    """One node's view of who is alive. ``InvalidOption`` if ``every_s``, ``threshold`` or ``fanout`` is out of range."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        *,
        every_s: float,
        random: Random,
        threshold: float = 8.0,
        fanout: int = 2,
    ) -> None:
        self._heartbeats = Heartbeats(node_id, incarnation)
        self._phi = PhiAccrual(every_s=every_s, threshold=threshold)
        self._fanout = check_count("fanout", fanout, 1, MAX_NODES)
        self._random = random
        self._late_s = LATE_ROUNDS * every_s
        self._stall_s = STALL_ROUNDS * every_s
        self._peers: list[str] = []
        self._awake_s: float | None = None
        self.stalled_until = float("-inf")
        """Until when nobody is judged, by the clock that ``now_s`` is read from, in seconds."""

    @property
    def superseded(self) -> bool:
        """Whether a later incarnation of this node is known: this process should end."""
        return self._heartbeats.superseded

    def set_members(self, node_ids: Iterable[str], now_s: float) -> None:
        """Watch these nodes (the own id may be among them) and no others. A new one counts as heard of just now."""
        self._notice(now_s)
        self._heartbeats.set_members(node_ids)
        peers = [node_id for node_id in self._heartbeats.table() if node_id != self._heartbeats.node_id]
        for gone in sorted(set(self._peers).difference(peers)):
            self._phi.forget(gone)
        self._phi.heard(sorted(set(peers).difference(self._peers)), now_s)
        self._peers = peers

    def tick(self, now_s: float) -> list[str]:
        """Begin a round: beat; return the peers to exchange tables with, at most ``fanout`` + 1."""
        self._notice(now_s)
        self._awake_s = now_s
        self._heartbeats.beat()
        suspected = self._phi.suspects(now_s)
        doubted = set(suspected)
        living = [peer for peer in self._peers if peer not in doubted]
        if not living:
            return self._random.sample(suspected, min(self._fanout, len(suspected)))
        partners = self._random.sample(living, min(self._fanout, len(living)))
        if suspected and self._random.random() < RETRY_SHARE:
            partners.append(self._random.choice(suspected))
        return partners

    def table(self) -> Table:
        """Return the table to send, sorted by id: the latest known heartbeat of each member."""
        return self._heartbeats.table()

    def hear(self, table: Table, now_s: float) -> None:
        """Merge a peer's table, however it arrived. O(members)."""
        self._notice(now_s)
        self._phi.heard(self._heartbeats.merge(table), now_s)

    def phi(self, peer: str, now_s: float) -> float:
        """Return how surprising a peer's silence is (``PhiAccrual.phi``), for inspection."""
        return self._phi.phi(peer, now_s)

    def suspects(self, now_s: float) -> list[str]:
        """Return the peers that have been silent too long, sorted; none while this process has just woken up."""
        self._notice(now_s)
        return self._phi.suspects(now_s) if now_s >= self.stalled_until else []

    def _notice(self, now_s: float) -> None:
        """Notice whether this process stood still until now. The first call after a pause must detect it."""
        if self._awake_s is None:
            self._awake_s = now_s
        elif now_s - self._awake_s > self._late_s:
            self._awake_s = now_s
            self.stalled_until = now_s + self._stall_s
            self._phi.excuse(now_s)
