"""The ring as a value: the owners of each partition under one epoch, and the order in which to ask nodes for it.

A ``Ring`` never changes; ``claim`` makes the next one. It is plain data (msgpack carries it) plus answers that are
computed on first use and cached with the value. Two rings are equal if their fields are.

**Preference lists.** A bucket with fewer copies than N uses the first n of the same N owners, so one list serves every n:
the N owners in order, then every other node. The others follow in the order of a walk around the ring from the partition
(Dynamo, section 4.6), in three rounds: first those that add a zone, then those that add a host, then the rest.
Neighbouring partitions have different owners, so the partitions of a dead node find different fallbacks, and its load
is spread.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from math import ceil, floor
from typing import TYPE_CHECKING

import msgspec

from raykv.errors import InvalidOption
from raykv.ring.members import Member, sorted_members
from raykv.ring.targets import check_shape, limits, targets
from raykv.ring.tokens import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator


class Ring(msgspec.Struct, frozen=True, dict=True):
    """Q partitions, the members, and N owners for each partition, under one epoch. Immutable.

    ``table[partition]`` has the partition's owners in order, as indexes into ``members``, which stand in the order of
    their ids. ``InvalidOption`` (``msgspec.ValidationError`` when decoding) if the shape is wrong; ``check`` verifies the
    other invariants.
    """

    epoch: int
    copies: int
    partitions: int
    members: tuple[Member, ...]
    table: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_shape(self.partitions, self.copies)
        if self.epoch < 1:
            raise InvalidOption(f"a ring's epoch is at least 1; got {self.epoch}")
        if self.members != sorted_members(self.members, self.copies):
            raise InvalidOption("a ring's members must stand in the order of their ids")
        nodes = len(self.members)
        if len(self.table) != self.partitions:
            raise InvalidOption(f"a ring of {self.partitions} partitions has as many rows; got {len(self.table)}")
        for partition, row in enumerate(self.table):
            if len(row) != self.copies or len(set(row)) != len(row) or min(row) < 0 or max(row) >= nodes:
                raise InvalidOption(f"partition {partition} must have {self.copies} different owners among the members")

    # ---- owners -------------------------------------------------------------------------------------------

    def owners(self, partition: int) -> tuple[str, ...]:
        """Return the ids of the partition's N owners, its primaries, in order. O(N).

        ``InvalidOption`` if there is no such partition.
        """
        self._check_partition(partition)
        return tuple(self.members[index].node_id for index in self.table[partition])

    def partition_of(self, key: bytes) -> int:
        """Return the partition of an encoded key of a bucket that is not grouped. O(len(key))."""
        return partition_of_key(key, self.partitions)

    def partitions_of(self, node_id: str) -> tuple[int, ...]:
        """Return the partitions of which the node owns a copy, ascending. O(1) after the first call.

        ``InvalidOption`` if the node is no member.
        """
        return self._held[self._index(node_id)][0]

    def first_partitions_of(self, node_id: str) -> tuple[int, ...]:
        """Return the partitions whose first owner is the node, ascending. O(1) after the first call.

        ``InvalidOption`` if the node is no member.
        """
        return self._held[self._index(node_id)][1]

    def member(self, node_id: str) -> Member:
        """Return the member of that id. O(1). ``InvalidOption`` if there is none."""
        return self.members[self._index(node_id)]

    def has_member(self, node_id: str) -> bool:
        """Return whether a node of that id is a member. O(1)."""
        return node_id in self._indexes

    # ---- order ------------------------------------------------------------------------------------------

    def primaries(self, partition: int, n: int) -> tuple[str, ...]:
        """Return the first n of the partition's owners: the head of its preference list, without building that. O(N).

        ``InvalidOption`` as in ``preference_list``.
        """
        self._check_copies(n)
        return self.owners(partition)[:n]

    def preference_list(self, partition: int, n: int) -> tuple[str, ...]:
        """Return all nodes, each once, in the order to ask them: n primaries, then the fallbacks.

        The primaries that a bucket of ``n`` < N copies does not use are its first fallbacks. O(1) after the first call
        for a partition, which costs O(nodes x log nodes) or so. ``InvalidOption`` if there is no such partition, or if
        ``n`` is not in 1 .. N.
        """
        self._check_copies(n)
        kept = self._preferences.get(partition)
        if kept is None:
            self._check_partition(partition)
            kept = tuple(self.members[index].node_id for index in self._order(partition))
            self._preferences[partition] = kept
        return kept

    def _order(self, partition: int) -> list[int]:
        order = list(self.table[partition])
        waiting = [index for index in self._walk(partition) if index not in order]
        for place in (_zone_of, _host_of, _node_of):
            taken = {place(self.members[index]) for index in order}
            later = []
            for index in waiting:
                mark = place(self.members[index])
                if mark in taken:
                    later.append(index)
                else:
                    taken.add(mark)
                    order.append(index)
            waiting = later
        return order

    def _walk(self, partition: int) -> Iterator[int]:
        """Yield every node once, in the order of a walk from the partition around the ring."""
        met: set[int] = set()
        for step in range(self.partitions):
            for index in self.table[(partition + step) % self.partitions]:
                if index not in met:
                    met.add(index)
                    yield index
            if len(met) == len(self.members):
                return
        yield from (index for index in range(len(self.members)) if index not in met)  # nodes that own nothing

    # ---- invariants ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``AssertionError`` if an invariant of the ring does not hold. For tests, after every change.

        Owners are as far apart in node, host and zone as ``limits`` says; each node's copies are the floor or ceiling of
        its target; each node is first owner of the floor or ceiling of its copies / N, and likewise at each later place.
        O(Q x N + members).
        """
        self._check_apart()
        self._check_shares()

    def _check_apart(self) -> None:
        limit = limits(self.members, self.copies)
        for partition, row in enumerate(self.table):
            owners = [self.members[index] for index in row]
            _ensure(len({owner.node_id for owner in owners}) == self.copies, f"{partition}: an owner stands twice")
            hosts = [owner.host_key for owner in owners]
            zones = [owner.zone for owner in owners]
            _ensure(max(map(hosts.count, hosts)) <= limit.host, f"{partition}: over {limit.host} owners on a host")
            _ensure(max(map(zones.count, zones)) <= limit.zone, f"{partition}: over {limit.zone} owners in a zone")

    def _check_shares(self) -> None:
        goals = targets(self.members, self.partitions, self.copies)
        _ensure(sum(goals.values()) == self.partitions * self.copies, "the targets do not sum to the copies")
        at_place = [[0] * self.copies for _ in self.members]
        for row in self.table:
            for place, index in enumerate(row):
                at_place[index][place] += 1
        for member, counts in zip(self.members, at_place, strict=True):
            goal, left = goals[member.node_id], sum(counts)
            _ensure(floor(goal) <= left <= ceil(goal), f"{member.node_id} owns {left} copies, not about {float(goal)}")
            for place, count in enumerate(counts):
                share = Fraction(left, self.copies - place)
                _ensure(floor(share) <= count <= ceil(share), f"{member.node_id} is {count} times at place {place}")
                left -= count

    # ---- inside --------------------------------------------------------------------------------------------------

    @cached_property
    def _indexes(self) -> dict[str, int]:
        return {member.node_id: index for index, member in enumerate(self.members)}

    @cached_property
    def _preferences(self) -> dict[int, tuple[str, ...]]:
        return {}

    @cached_property
    def _held(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each member, the partitions that it owns and those that it owns first."""
        held: list[list[int]] = [[] for _ in self.members]
        first: list[list[int]] = [[] for _ in self.members]
        for partition, row in enumerate(self.table):
            first[row[0]].append(partition)
            for index in row:
                held[index].append(partition)
        return [(tuple(all_of_it), tuple(leading)) for all_of_it, leading in zip(held, first, strict=True)]

    def _index(self, node_id: str) -> int:
        index = self._indexes.get(node_id)
        if index is None:
            raise InvalidOption(f"no node {node_id!r} in the ring of epoch {self.epoch}", node_id=node_id)
        return index

    def _check_copies(self, n: int) -> None:
        if not 1 <= n <= self.copies:
            raise InvalidOption(f"n must be from 1 to {self.copies}, the copies of this ring; got {n!r}")

    def _check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise InvalidOption(f"a partition is a whole number from 0 to {self.partitions - 1}; got {partition!r}")


def _zone_of(member: Member) -> Hashable:
    return member.zone


def _host_of(member: Member) -> Hashable:
    return member.host_key


def _node_of(member: Member) -> Hashable:
    return member.node_id


def _ensure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
