"""The first ring of a store: a layout that is nearly right and well mixed, for ``flow`` to finish.

There is nothing to keep, so any layout within the bounds will do. The best one mixes owners most: if two nodes shared
all their partitions, the other alone would rebuild the loss of one.

With every partition, each zone, host and node earns the credit of its share of a copy (Pfair scheduling: Baruah, Cohen,
Plaxton, Varvel 1996). A copy goes to the zone with the most credit, and within it to the host and node with the most,
less what they already share with the partition's other owners. A few copies remain after this greedy walk;
``Assignment.settle`` places them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.ring.flow import Assignment, Place


class _Credit:
    """The credit of zones, hosts or nodes, in copies: it grows by a rate and shrinks by what is given."""

    def __init__(self, numbers: Sequence[int], rates: Sequence[float]) -> None:
        self.credit = [0.0] * (max(numbers) + 1)
        self._rates = [0.0] * len(self.credit)
        for number, rate in zip(numbers, rates, strict=True):
            self._rates[number] += rate

    def grow(self) -> None:
        self.credit = [credit + rate for credit, rate in zip(self.credit, self._rates, strict=True)]


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
    """The greedy walk, with the credit of zones, hosts and nodes at its present partition."""

    def __init__(
        self, assignment: Assignment, places: Sequence[Place], goals: Sequence[float], partitions: int
    ) -> None:
        rates = [goal / partitions for goal in goals]
        self._assignment = assignment
        self._places = places
        self._nodes = _Credit(range(len(places)), rates)
        self._hosts = _Credit([place.host for place in places], rates)
        self._zones = _Credit([place.zone for place in places], rates)
        self._in_zone: list[list[int]] = [[] for _ in self._zones.credit]
        for node, place in enumerate(places):
            self._in_zone[place.zone].append(node)
        # The partitions that two nodes would share in an even mix; two small nodes should meet once at most.
        self._usual = [[max(1.0, goal * other / partitions) for other in goals] for goal in goals]

    def grow(self) -> None:
        for credit in (self._nodes, self._hosts, self._zones):
            credit.grow()

    def pick(self, partition: int, chosen: Sequence[int]) -> int | None:
        """Return the node for the partition's next copy; None if no node may have it."""
        zones = self._zones.credit
        for zone in sorted(range(len(zones)), key=lambda number: (-zones[number], number)):
            node = self._pick_in(zone, partition, chosen)
            if node is not None:
                return node
        return None

    def give(self, node: int, partition: int) -> None:
        self._assignment.place(node, partition)
        self._nodes.credit[node] -= 1
        self._hosts.credit[self._places[node].host] -= 1
        self._zones.credit[self._places[node].zone] -= 1

    def _pick_in(self, zone: int, partition: int, chosen: Sequence[int]) -> int | None:
        assignment = self._assignment
        best, best_score = None, float("-inf")
        for node in self._in_zone[zone]:
            score = self._hosts.credit[self._places[node].host] + self._nodes.credit[node]
            if score <= best_score:
                continue  # partitions shared with the others can only lower it
            for other in chosen:
                score -= 2 * assignment.shared(node, other) / self._usual[node][other]
            if score > best_score and not assignment.is_full(node) and assignment.may_own(node, partition):
                best, best_score = node, score
        return best
