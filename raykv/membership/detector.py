"""The failure detector of one node: gossip of heartbeats, and what it thinks of the others.

``tick`` every ``every_s``: the node's own heartbeat counts up, and it names the peers to exchange tables with: each side
sends its own and hears the other's (push-pull; Demers et al., PODC 1987, section 1.3: the last few to be told are told
fastest that way). A new heartbeat is everywhere after about log N rounds.

**Two partners a round.** With one, a node has news of a peer every 1.3 to 1.7 rounds with a deviation of 0.7 to 1.1
rounds (10 to 500 nodes, 0 to 10 % loss); with two, every 1.0 to 1.2 with 0.4 to 0.65. As the limit is mean plus 5.6
deviations, twice the messages nearly halve the time to notice a death, and at 500 nodes it is 4 exchanges a second.

**Partners are those who answer**, so that many dead do not make the living look slow. But in one round of four a
suspected peer is asked in addition: after a cut has healed somebody must be the first to try. If all are suspected, all
are tried: then it is this node that was cut off.

**A process that stood still** (SIGSTOP, swap, a sleeping laptop) finds everybody silent, and must not say so: it was
the one who was away. Lifeguard (Dadgar, Phillips and Currey, DSN 2018) calls that local health. A tick that comes
more than 3 rounds after the one before it, or anything else that happens so long after it, shows it: everybody counts as
heard of just now, and nobody is judged for 10 rounds. That is longer than any usual limit, on purpose: who was frozen was
often not frozen alone, and the others of its host wake up one after the other.

Left out: sending. The caller delivers ``table()`` to the peers named, and gives theirs to ``hear``.
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
        """Whether a later incarnation of this node was heard of: this process should end."""
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
        """Begin a round: beat; return the peers to exchange tables with in it, at most ``fanout`` + 1."""
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
        """Return the table to send, sorted by id: all members, by the latest that is known of each."""
        return self._heartbeats.table()

    def hear(self, table: Table, now_s: float) -> None:
        """Take in a peer's table, by whatever way it came. O(members)."""
        self._notice(now_s)
        self._phi.heard(self._heartbeats.merge(table), now_s)

    def phi(self, peer: str, now_s: float) -> float:
        """Return how surprising the silence of a peer is (``PhiAccrual.phi``), for whoever wants to look."""
        return self._phi.phi(peer, now_s)

    def suspects(self, now_s: float) -> list[str]:
        """Return the peers that have been silent for too long, sorted; nobody while this process is just awake again."""
        self._notice(now_s)
        return self._phi.suspects(now_s) if now_s >= self.stalled_until else []

    def _notice(self, now_s: float) -> None:
        """Notice whether this process stood still until now. Whatever is called first after that must see it."""
        if self._awake_s is None:
            self._awake_s = now_s
        elif now_s - self._awake_s > self._late_s:
            self._awake_s = now_s
            self.stalled_until = now_s + self._stall_s
            self._phi.excuse(now_s)
