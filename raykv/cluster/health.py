"""One caller's knowledge of each storage node: which run of it answers, how slow it is, and the order in which to ask.

One caller's suspicion steers its own traffic and nothing else; "down" is the cluster's verdict and comes from the
supervisor. The order is: healthy nodes, then nodes that were slow in the last seconds, then silent ones (an answer is
outstanding for longer than a healthy node takes, and none has come since), then incomplete ones, then suspected or down
ones. The first answer of a suspected node clears it.

Plain and synchronous: ``peers`` makes the calls and records their outcomes here. The fast path and the quorum path share
the same records and the same order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from raykv.ports import Clock, Metrics
    from raykv.protocol import frames as f

logger = logging.getLogger("raykv.coordinator")

SILENT_S = 0.3
"""After an answer has been outstanding this long, with no other answer since, the node is asked after the others."""
HEDGE_FLOOR_S = 0.02
LEARNS_EVERY = 8
"""Sample latency on one single-key read in eight; sampling costs 5 % of a read."""
HEDGE_CEILING_S = 0.5
FIRST_S = 0.05
"""How long to wait for a node whose usual time is unknown."""
SLOW_S = (1.0, 30.0)
"""How long a hedged node is asked after the others: at first, and at most if it is slow every time."""
HEDGES_MOST = 100.0
HEDGES_AN_ANSWER = 0.05
"""Answers pay for hedges: in the long run at most one item in twenty is asked for again, and up to ``HEDGES_MOST`` may be
saved for a node that stops suddenly (Dean & Barroso 2013 bound hedging likewise). Where all nodes are slow from
overload, hedging would double the load."""
HEDGE_DEBT = 2000.0
"""The largest debt: the items in flight to a node that stops suddenly."""
LATE = 4
"""The factor by which hedges wait longer when the budget is spent."""
_QUANTILE = 0.95
_STEP = 0.1


@dataclass(slots=True)
class Node:
    """The record of one node."""

    incarnation: int = 0
    log_end: f.LogEnd | None = None
    suspected_until_s: float = 0.0
    down: str | None = None
    calls: int = 0
    probing: bool = False
    logged: bool = False
    """Whether its present silence was logged."""
    slow_until_s: float = 0.0
    slow_s: float = 0.0
    incomplete: bool = False
    """Whether it last answered a read with "incomplete": it is asked last, until it answers one."""
    usual_s: dict[tuple[str, int], float] = field(default_factory=dict)
    pending: dict[int, float] = field(default_factory=dict)
    """Calls in flight -> when each began, the oldest first."""
    answered_s: float = 0.0

    def silent(self, now_s: float) -> bool:
        """Whether an answer is outstanding for too long."""
        oldest_s = next(iter(self.pending.values()), now_s)
        return now_s - max(oldest_s, self.answered_s) > SILENT_S

    def doubt(self, now_s: float) -> int:
        """Return the evidence against it: 2 if it is down, 1 if it is suspected, 3 if both."""
        return (2 if self.down is not None else 0) + (1 if now_s < self.suspected_until_s else 0)

    def slowness(self, now_s: float) -> float:
        """How slow it has been of late: 0 for not slow; grows with each hedge since it was last quick."""
        return 0.0 if now_s >= self.slow_until_s else self.slow_s

    def take_end(self, heard: f.LogEnd | None, said: f.LogEnd | None) -> None:
        """Record how far its log is, as an answer says. ``said``: what the request had said of it.

        In another directory that is all there is to know. In the same one the further end stands; a later run replaces it
        only once that run knows how far an earlier one was, since it may have lost that (P6).
        """
        known = self.log_end
        if heard is None:
            return
        if known is not None and known.directory_id == heard.directory_id:
            unheard = heard.incarnation != known.incarnation and said != known
            if heard.position <= known.position or unheard:
                return
        self.log_end = heard


class Health:
    """The records of all nodes, and the hedge budget."""

    def __init__(
        self, clock: Clock, metrics: Metrics, *, trouble: Callable[[], None] = lambda: None, quiet: bool = False
    ) -> None:
        """``trouble()``: called when a node does not answer as it should.

        ``quiet``: log no warnings of suspicions here: one of many clients.
        """
        self._clock = clock
        self._metrics = metrics
        self._trouble = trouble
        self._quiet = quiet
        self._nodes: dict[str, Node] = {}
        self._hedges = HEDGES_MOST

    def share_health_of(self, other: Health) -> None:
        """Know of the nodes what another one knows, and let it know what is learned here."""
        self._nodes = other._nodes

    def learn(self, incarnations: Mapping[str, int], down: Mapping[str, str]) -> list[str]:
        """Take a cluster update: a restarted node is no longer suspected.

        Returns the restarted nodes for whose earlier runs a log end is known.
        """
        anew: list[str] = []
        for node_id, incarnation in incarnations.items():
            node = self._node(node_id)
            if incarnation > node.incarnation:
                node.incarnation = incarnation
                node.suspected_until_s = 0.0
                if node.log_end is not None:
                    anew.append(node_id)
        for node_id, node in self._nodes.items():
            # A node that answered in a later run than the supervisor knows was started by another, and is not down.
            later = node.incarnation > incarnations.get(node_id, node.incarnation)
            node.down = None if later else down.get(node_id)
        return anew

    # ---- health and order ----

    def in_order(self, nodes: Sequence[str]) -> list[str]:
        """Return ``nodes``, the down ones last, before them the suspected, incomplete, silent, slow ones; else as given.

        The slowest of the slow nodes comes last.
        """
        now_s = self._clock.monotonic_s()
        for node_id in nodes:
            if not self.healthy(node_id, now_s):
                break
        else:
            return [*nodes]  # in most cases, and without a sort

        def rank(node_id: str) -> tuple[int, bool, bool, float]:
            node = self._node(node_id)
            return node.doubt(now_s), node.incomplete, node.silent(now_s), node.slowness(now_s)

        return sorted(nodes, key=rank)

    def first_available(self, nodes: tuple[str, ...], count: int) -> tuple[str, ...]:
        """Return the first ``count`` of ``nodes`` in order, as far as they are available."""
        now_s = self._clock.monotonic_s()
        for node_id in nodes[:count]:
            if not self.healthy(node_id, now_s):
                return tuple(each for each in self.in_order(nodes) if self.available(each, now_s))[:count]
        return nodes[:count]  # in most cases, and without a sort

    def unreachable_of(self, nodes: Collection[str]) -> frozenset[str] | None:
        """Return which of ``nodes`` are unreachable. None: one is unknown or incomplete, and yet may take a write."""
        now_s = self._clock.monotonic_s()
        others = [node_id for node_id in nodes if not self.available(node_id, now_s)]
        unreachable = frozenset(node_id for node_id in others if self.unreachable(node_id, now_s))
        return unreachable if len(unreachable) == len(others) else None

    def healthy(self, node_id: str, now_s: float) -> bool:
        """Whether there is no evidence against a node."""
        return self.available(node_id, now_s) and now_s >= self._nodes[node_id].slow_until_s

    def available(self, node_id: str, now_s: float) -> bool:
        """Whether there is no evidence against a node except slowness."""
        node = self._nodes.get(node_id)
        return node is not None and not node.incomplete and not self.unreachable(node_id, now_s)

    def unreachable(self, node_id: str, now_s: float) -> bool:
        """Whether a known node does not answer: it is down, suspected, or silent."""
        node = self._nodes.get(node_id)
        return node is not None and bool(
            node.down is not None or now_s < node.suspected_until_s or (node.pending and node.silent(now_s))
        )

    # ---- how long nodes take, and hedges ----

    def hedge_delay_s(self, kind: str, items: int, nodes: Sequence[str]) -> float:
        """Return the 95th percentile of these nodes' latency for a request of this kind and size.

        The median over the nodes: a slow one must not delay the hedge that it makes necessary. Longer when the budget
        is spent.
        """
        size = (kind, items.bit_length())
        usual_s = [self._node(node_id).usual_s.get(size, FIRST_S) for node_id in nodes] or [FIRST_S]
        usual_s.sort()
        delay_s = min(HEDGE_CEILING_S, max(HEDGE_FLOOR_S, usual_s[(len(usual_s) - 1) // 2]))
        return delay_s if self._hedges >= 1 else LATE * delay_s

    def spend_hedges(self, items: int) -> bool:
        """Spend budget to ask for ``items`` again after slow answers. False: all nodes seem slow."""
        left, self._hedges = self._hedges, max(-HEDGE_DEBT, self._hedges - items)
        return left >= 1

    def note_slow(self, node_id: str) -> None:
        """Record that others were asked because this node is slow."""
        node, now_s = self._node(node_id), self._clock.monotonic_s()
        if now_s >= node.slow_until_s:
            first_s, most_s = SLOW_S
            node.slow_s = min(most_s, max(first_s, 2 * node.slow_s))
            node.slow_until_s = now_s + node.slow_s

    def record_latency(self, kind: str, asked: Mapping[str, int], taken_s: float) -> None:
        """Record answers: node id -> the number of items that each was asked for.

        Moves the estimate of the 95th percentile (stochastic approximation, Robbins & Monro 1951).
        """
        now_s = self._clock.monotonic_s()
        for node_id, items in asked.items():
            node, size = self._node(node_id), (kind, items.bit_length())
            if taken_s <= HEDGE_FLOOR_S and now_s >= node.slow_until_s:
                node.slow_s = 0.0
            usual_s = node.usual_s.get(size, taken_s * 2)
            step_s = _STEP * usual_s
            node.usual_s[size] = usual_s + (step_s * _QUANTILE if taken_s > usual_s else -step_s * (1 - _QUANTILE))
            self._answered(node, items)

    def record_timeout(self, kind: str, asked: Mapping[str, int]) -> None:
        """Record time-outs: node id -> the number of items that each was asked for.

        *Without: the estimate learns from quick nodes alone, and under load ever more answers come too late for it.*
        """
        for node_id, items in asked.items():
            usual_s, size = self._node(node_id).usual_s, (kind, items.bit_length())
            usual_s[size] = min(HEDGE_CEILING_S, usual_s.get(size, FIRST_S) * (1 + _STEP * _QUANTILE))

    def _answered(self, node: Node, items: int) -> None:
        node.answered_s = self._clock.monotonic_s()
        self._hedges = min(HEDGES_MOST, self._hedges + HEDGES_AN_ANSWER * items)

    def _avoid(self, node: Node, seconds: float) -> None:
        """Ask others for a while: the node says itself that it is being stopped. No suspicion, and nothing to warn of."""
        self._trouble()
        node.suspected_until_s = self._clock.monotonic_s() + seconds

    def _suspect(self, node_id: str, node: Node, seconds: float, cause: str) -> None:
        self._trouble()
        now_s = self._clock.monotonic_s()
        if now_s >= node.suspected_until_s and node.down is None:
            self._metrics.count("suspicions")
            (logger.debug if node.logged or self._quiet else logger.warning)("node %s suspected: %s", node_id, cause)
            node.logged = True
        node.suspected_until_s = now_s + seconds

    def _node(self, node_id: str) -> Node:
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = Node()
        return node
