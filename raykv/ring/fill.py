"""The first ring of a store: a layout that is nearly right and well mixed, for ``flow`` to finish.

There is nothing to keep, so any layout within the bounds will do, and the one to look for is the one that mixes owners
best: if two nodes shared all their partitions, the loss of one would be rebuilt by the other alone.

Partition after partition, zone, host and node each are owed their share of a copy more (Pfair scheduling: Baruah,
Cohen, Plaxton, Varvel 1996). A copy goes to the zone that is owed most, and within it to the host and node that are
owed most, less what they already share with the partition's other owners. What this greedy walk leaves undone at the
end, a few copies, ``Assignment.settle`` puts right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.ring.flow import Assignment, Place


class _Owed:
    """What each of some things is owed by now, in copies: it grows by the rate and shrinks by what is given."""

    def __init__(self, numbers: Sequence[int], rates: Sequence[float]) -> None:
        self.owed = [0.0] * (max(numbers) + 1)
        self._rates = [0.0] * len(self.owed)
        for number, rate in zip(numbers, rates, strict=True):
            self._rates[number] += rate

    def grow(self) -> None:
        self.owed = [owed + rate for owed, rate in zip(self.owed, self._rates, strict=True)]


def fill(assignment: Assignment, places: Sequence[Place], goals: Sequence[float], partitions: int, copies: int) -> None:
    """Place nearly all copies of an empty assignment. ``goals``: each node's target in copies.

    O(partitions x copies x nodes of a zone). No node gets more than its ``high``.
    """
    walk = _Walk(assignment, places, goals, partitions)
    for partition in range(partitions):
        walk.grow()
        chosen: list[int] = []
        for _ in range(copies):
            node = walk.pick(partition, chosen)
            if node is not None:
                walk.give(node, partition)
                chosen.append(node)


class _Walk:
    """The greedy walk: what zones, hosts and nodes are owed at its present partition."""

    def __init__(
        self, assignment: Assignment, places: Sequence[Place], goals: Sequence[float], partitions: int
    ) -> None:
        rates = [goal / partitions for goal in goals]
        self._assignment = assignment
        self._places = places
        self._nodes = _Owed(range(len(places)), rates)
        self._hosts = _Owed([place.host for place in places], rates)
        self._zones = _Owed([place.zone for place in places], rates)
        self._in_zone: list[list[int]] = [[] for _ in self._zones.owed]
        for node, place in enumerate(places):
            self._in_zone[place.zone].append(node)
        # how many partitions two nodes would share if all were mixed evenly; two small nodes should meet once at most
        self._usual = [[max(1.0, goal * other / partitions) for other in goals] for goal in goals]

    def grow(self) -> None:
        for owed in (self._nodes, self._hosts, self._zones):
            owed.grow()

    def pick(self, partition: int, chosen: Sequence[int]) -> int | None:
        """Return the node for the partition's next copy, or None if none of those left may have it."""
        zones = self._zones.owed
        for zone in sorted(range(len(zones)), key=lambda number: (-zones[number], number)):
            node = self._pick_in(zone, partition, chosen)
            if node is not None:
                return node
        return None

    def give(self, node: int, partition: int) -> None:
        self._assignment.place(node, partition)
        self._nodes.owed[node] -= 1
        self._hosts.owed[self._places[node].host] -= 1
        self._zones.owed[self._places[node].zone] -= 1

    def _pick_in(self, zone: int, partition: int, chosen: Sequence[int]) -> int | None:
        assignment = self._assignment
        best, best_score = None, float("-inf")
        for node in self._in_zone[zone]:
            score = self._hosts.owed[self._places[node].host] + self._nodes.owed[node]
            if score <= best_score:
                continue  # what it shares with the others can only lower it
            for other in chosen:
                score -= 2 * assignment.shared(node, other) / self._usual[node][other]
            if score > best_score and not assignment.is_full(node) and assignment.may_own(node, partition):
                best, best_score = node, score
        return best
