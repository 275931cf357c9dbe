"""Which nodes are near: on the caller's own host, then in its zone, then elsewhere.

Any R owners make a read, so it asks the nearest: no byte crosses a zone for a read with R=1 whose zone has a copy. What the
ring says of owners stays as it is: which of them must acknowledge, who leads, and who stands in for one that is away,
which is better far from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.ring import Member

HERE, ZONE, ELSEWHERE = range(3)


class Place(NamedTuple):
    """Where a process runs, by the names that the ring's members have; empty: unknown."""

    host: str = ""
    zone: str = ""


NOWHERE = Place()


class Nearness:
    """How far each node is from one place."""

    def __init__(self, here: Place = NOWHERE) -> None:
        self._here = here
        self._far: dict[str, int] = {}
        """Node id -> how far; empty where all are as near."""

    def learn(self, members: Iterable[Member]) -> None:
        """Take the nodes of a cluster's state."""
        members = [*members]
        zone = _zone_of(self._here.host, members) or self._here.zone
        far = {member.node_id: _distance(self._here.host, zone, member) for member in members}
        self._far = far if len({*far.values()}) > 1 else {}

    def nearest_first(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Return the nodes, the nearest first, else as given. O(1) where all are as near."""
        far = self._far
        return tuple(sorted(nodes, key=lambda node_id: far.get(node_id, ELSEWHERE))) if far else nodes


def _zone_of(host: str, members: Iterable[Member]) -> str:
    """Return the zone of a host by the nodes on it; empty if there are none, or of several zones."""
    zones = {member.zone for member in members if host and member.host == host}
    return zones.pop() if len(zones) == 1 else ""


def _distance(host: str, zone: str, member: Member) -> int:
    if host and member.host == host:
        return HERE
    return ZONE if zone and member.zone == zone else ELSEWHERE
