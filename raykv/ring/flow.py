"""The fewest moves: an exact minimum-cost flow between partitions and nodes, on sets of partitions as bit masks (P13).

**The network.** Each partition sends N units down a tree of its own, partition -> zone -> host -> node, with the limits
of ``targets`` as capacities (a node takes at most one). From there each node passes between ``low`` and ``high`` units
on to the sink. A unit on an edge partition -> node absent from the old ring costs 1, all else 0. A complete flow is
an assignment, its cost the copies that must be streamed.

**The algorithm** is the primal-dual one (Ford and Fulkerson 1957; Ahuja, Magnanti and Orlin, Network Flows, section
9.8). It starts from the old ring, which costs nothing, whatever the new bounds say, and corrects one unit at a time
along a cheapest path; the flow is therefore the cheapest for its amounts at any time, and the cheapest of all at the end.
Levels (node potentials) rise by one whenever no sink is reachable at the present cost; costs are 0 and 1, so a few levels
are enough.

**Why it is quick.** Between two node vertices a path goes up the tree of one partition and down again: partition p
drops owner a and takes b, a *hop*. Hops are never listed. Ints of Q bits hold the partitions that a holds, that b lacks,
where b's host and zone have room, and that were held before; a handful of ``&`` in ``hops(a, b)`` finds *all* partitions
for the hop at the wanted cost. The network of Q x nodes edges shrinks to one on the nodes.

A path with the fewest hops among the cheapest never uses one vertex of a partition's tree twice (else a shorter one would
lead through that vertex directly), so its hops can be made one after the other, each through any of its partitions. That
leaves a choice: it falls on the partition whose other owners share least with the newcomer, so that a lost node is rebuilt
from many.

**Holes.** *Holes* fill the places of missing owners: vertices with no host or zone that may keep nothing (``high`` = 0),
cost nothing to leave and are never entered. A fresh ring and a lost node thus need no rule of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

NOWHERE = -1
MAX_CANDIDATES = 16
"""The most partitions compared for one hop, to pick the one that spreads owners best."""


class Place(NamedTuple):
    """The bounds of one node: how many partitions it may hold, and the numbers of its host and zone."""

    low: int
    high: int
    host: int
    zone: int


class Assignment:
    """An assignment of owners in the making. Nodes are numbered from 0; the last ``copies`` vertices are holes.

    Build it, ``place`` the copies that stay, ``settle``, then read ``owners``. With ``allowed`` (a mask for each node),
    a node may only own the partitions in its mask. Memory: a few bits a node and partition, and nodes x nodes ints.
    """

    def __init__(
        self,
        partitions: int,
        copies: int,
        places: Sequence[Place],
        host_limit: int,
        zone_limit: int,
        allowed: Sequence[int] | None = None,
    ) -> None:
        everything = (1 << partitions) - 1
        self.nodes = len(places)
        self._all = everything
        self._low = [place.low for place in places] + [0] * copies
        self._high = [place.high for place in places] + [0] * copies
        self._host = [place.host for place in places] + [NOWHERE] * copies
        self._zone = [place.zone for place in places] + [NOWHERE] * copies
        self._hosts = _Rooms(self._host, host_limit, partitions)
        self._zones = _Rooms(self._zone, zone_limit, partitions)
        self._absent = list(allowed or [everything] * self.nodes) + [0] * copies
        self._owned = [0] * self.nodes + [everything] * copies
        self._kept = [0] * self.nodes + [everything] * copies
        self.count = [0] * self.nodes + [partitions] * copies
        self._together = [[0] * (self.nodes + copies) for _ in range(self.nodes + copies)]
        self._owners = [list(range(self.nodes, self.nodes + copies)) for _ in range(partitions)]
        self._level = [0] * (self.nodes + copies)

    # ---- building ------------------------------------------------------------------------------------------------

    def prefer(self, node: int, partition: int) -> None:
        """Record that the node held the partition before: owning it again costs nothing. Before ``settle`` only."""
        self._kept[node] |= 1 << partition

    def place(self, node: int, partition: int) -> bool:
        """Give the partition to the node in place of a hole if it may have it; return whether it did. O(copies).

        This respects the limits on hosts and zones, not ``low`` and ``high``.
        """
        hole = next((owner for owner in self._owners[partition] if owner >= self.nodes), None)
        if hole is None or not self.may_own(node, partition):
            return False
        self._transfer(hole, node, partition)
        return True

    def may_own(self, node: int, partition: int) -> bool:
        """Return whether the node could be added to the partition's owners. O(1)."""
        room = self._hosts.room[self._host[node]] & self._zones.room[self._zone[node]]
        return bool(self._absent[node] & room & (1 << partition))

    def is_full(self, node: int) -> bool:
        """Return whether the node holds as much as it may."""
        return self.count[node] >= self._high[node]

    def shared(self, node: int, other: int) -> int:
        """Return how many partitions the two nodes own together. O(1)."""
        return self._together[node][other]

    def owners(self, partition: int) -> tuple[int, ...]:
        """Return the partition's owners, in no particular order; only nodes once ``settle`` has returned."""
        return tuple(self._owners[partition])

    # ---- solving -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Make every bound hold, with the fewest new copies. Exact.

        First, nodes with too much give to nodes that may take; then nodes with too little get from nodes that may give.
        The network's sink takes the excess in the first part and returns it in the second, on the same levels.
        O(moves x nodes**2 / 2) mask operations at the very worst; a few find most moves.
        ``AssertionError`` if the bounds cannot hold, which targets from ``targets`` exclude.
        """
        count, low, high, level = self.count, self._low, self._high, self._level
        nodes = range(self.nodes)
        top = 0  # the sink's level: while the sink is the target, it rises with all unreached vertices
        while starts := [v for v in range(len(count)) if count[v] > high[v]]:
            top += self._step(starts, [v for v in nodes if count[v] < high[v]])
        while ends := [v for v in nodes if count[v] < low[v]]:
            self._step([v for v in nodes if count[v] > low[v] and level[v] == top], ends)

    def _step(self, starts: list[int], ends: list[int]) -> int:
        """Move one unit along a cheapest path from ``starts`` to ``ends``, or raise the levels; return the rise."""
        ends.sort(key=lambda v: (self.count[v] - self._low[v], v))  # the node that lacks most goes first
        path, reached = self._search(starts, ends)
        for index in range(len(path) - 1, 0, -1):
            source, target = path[index - 1], path[index]
            self._transfer(source, target, self._choose(source, target))
        if path:
            return 0
        for vertex, seen in enumerate(reached):
            if not seen:
                self._level[vertex] += 1
        if max(self._level) > 2 * len(self._level) + 2:  # no path costs that much
            raise AssertionError("the bounds of the claim cannot hold")
        return 1

    def _search(self, starts: list[int], ends: list[int]) -> tuple[list[int], bytearray]:
        """Return a path of fewest hops at the present levels; if there is none, marks of the vertices reached."""
        reached = bytearray(len(self.count))
        parent: dict[int, int] = {}
        for start in starts:
            reached[start] = 1
        is_end = set(ends)
        others = [v for v in range(self.nodes) if not reached[v] and v not in is_end]
        layer = starts
        while layer:
            for vertex in layer:
                for end in ends:
                    if self._hops(vertex, end):
                        path = [end, vertex]
                        while path[-1] in parent:
                            path.append(parent[path[-1]])
                        return path[::-1], reached
            following: list[int] = []
            for vertex in layer:
                found = [other for other in others if self._hops(vertex, other)]
                if found:
                    for other in found:
                        reached[other] = 1
                        parent[other] = vertex
                    others = [other for other in others if not reached[other]]
                    following += found
            layer = following
        return [], reached

    def _hops(self, source: int, target: int) -> int:
        """Return the partitions in which ``target`` may take ``source``'s copy at the cost that the levels require."""
        mask = self._owned[source] & self._absent[target]
        if not mask:
            return 0
        if self._host[source] != self._host[target]:
            mask &= self._hosts.room[self._host[target]]
            if self._zone[source] != self._zone[target]:
                mask &= self._zones.room[self._zone[target]]
        cost = self._level[target] - self._level[source]
        if cost == 1:
            return mask & self._kept[source] & ~self._kept[target]
        if cost == 0:
            return mask & ~(self._kept[source] ^ self._kept[target])
        if cost == -1:
            return mask & ~self._kept[source] & self._kept[target]
        return 0

    def _choose(self, source: int, target: int) -> int:
        """Return the hop's partition whose other owners share least with ``target``; the first of equal ones."""
        mask = self._hops(source, target)
        together = self._together[target]
        best, best_score = NOWHERE, 0
        for _ in range(MAX_CANDIDATES):
            bit = mask & -mask
            if not bit:
                break
            mask ^= bit
            partition = bit.bit_length() - 1
            score = sum(together[owner] for owner in self._owners[partition] if owner != source)
            if best == NOWHERE or score < best_score:
                best, best_score = partition, score
        return best

    def _transfer(self, source: int, target: int, partition: int) -> None:
        bit = 1 << partition
        self._owned[source] ^= bit
        if source < self.nodes:
            self._absent[source] ^= bit
        self._owned[target] ^= bit
        self._absent[target] ^= bit
        self.count[source] -= 1
        self.count[target] += 1
        self._hosts.leave(self._host[source], partition)
        self._zones.leave(self._zone[source], partition)
        self._hosts.enter(self._host[target], partition)
        self._zones.enter(self._zone[target], partition)
        owners = self._owners[partition]
        owners.remove(source)
        for other in owners:
            self._together[source][other] -= 1
            self._together[other][source] -= 1
            self._together[target][other] += 1
            self._together[other][target] += 1
        owners.append(target)


class _Rooms:
    """For each host (or zone) the partitions in which it may take another copy."""

    def __init__(self, numbers: Sequence[int], limit: int, partitions: int) -> None:
        size = max(numbers) + 1
        self.room = [(1 << partitions) - 1] * size
        self._limit = limit
        self._used = [bytearray(partitions) for _ in range(size)]

    def enter(self, number: int, partition: int) -> None:
        used = self._used[number]
        used[partition] += 1
        if used[partition] == self._limit:
            self.room[number] &= ~(1 << partition)

    def leave(self, number: int, partition: int) -> None:
        if number != NOWHERE:  # a hole: it is left, never entered
            used = self._used[number]
            if used[partition] == self._limit:
                self.room[number] |= 1 << partition
            used[partition] -= 1
