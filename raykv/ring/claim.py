"""Claim: the next ring, from the members and the last ring if there is one (P13).

Three steps:

1. ``targets``: how much each node should own.
2. ``flow``: who owns what, such that every bound holds and the fewest copies move (a fresh ring begins with ``fill``).
3. The order of each partition's owners, below. Being first is work (the first owner stamps writes and is read first), so
   every node should be first in 1/N of its partitions; and as a bucket of n < N copies uses the first n, every later
   place is spread as evenly over the rest. Each place is again a small flow, with one copy a partition and as few
   changes as possible: a change of order moves nothing in a bucket of N copies, but it does in one with fewer.

Nothing here is random; nodes are numbered in the order of their ids.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

from raykv.errors import InvalidOption
from raykv.ring.fill import fill
from raykv.ring.flow import Assignment, Place
from raykv.ring.members import Member, sorted_members
from raykv.ring.ring import Ring
from raykv.ring.targets import check_shape, limits, targets

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence


def claim(members: Iterable[Member], partitions: int, copies: int, previous: Ring | None = None) -> Ring:
    """Return the next ring: epoch 1, or one more than ``previous``, from which it moves as few copies as possible.

    ``copies`` may differ from the previous ring's, ``partitions`` may not. ``InvalidOption`` for a bad shape or a
    repeated id, ``NotEnoughNodes`` if there are fewer members than ``copies``. O(partitions x copies x nodes) for
    a fresh ring, O(moves x nodes) mask operations or so for a change.

    >>> ring = claim([Member("a"), Member("b"), Member("c")], 8, 2)
    >>> [len(ring.partitions_of(node)) for node in "abc"]
    [6, 5, 5]
    """
    check_shape(partitions, copies)
    if previous is not None and previous.partitions != partitions:
        raise InvalidOption(
            f"the number of partitions is fixed for a store's life: it is {previous.partitions}, not {partitions}"
        )
    ordered = sorted_members(members, copies)
    goals = list(targets(ordered, partitions, copies).values())
    hosts = _numbers([member.host_key for member in ordered])
    zones = _numbers([member.zone for member in ordered])
    places = [Place(floor(goal), ceil(goal), *at) for goal, *at in zip(goals, hosts, zones, strict=True)]
    assignment = Assignment(partitions, copies, places, *limits(ordered, copies))
    before = _renumbered(previous, ordered) if previous is not None else None
    if before is None:
        fill(assignment, places, [float(goal) for goal in goals], partitions, copies)
    else:
        _carry(assignment, before)
    assignment.settle()
    owners = [assignment.owners(partition) for partition in range(partitions)]
    table = _ordered(owners, len(ordered), copies, before)
    return Ring(previous.epoch + 1 if previous is not None else 1, copies, partitions, ordered, table)


def moves(old: Ring | None, new: Ring) -> tuple[tuple[int, str], ...]:
    """Return the copies to stream: (partition, node id) for each copy in ``new`` that ``old`` lacks. O(Q x N).

    In order of partition, then of the partition's owners. With no old ring that is every copy. ``InvalidOption`` if
    the two do not have the same number of partitions.
    """
    if old is not None and old.partitions != new.partitions:
        raise InvalidOption(f"rings of {old.partitions} and of {new.partitions} partitions cannot be compared")
    streamed: list[tuple[int, str]] = []
    for partition in range(new.partitions):
        had = old.owners(partition) if old is not None else ()
        streamed += [(partition, node_id) for node_id in new.owners(partition) if node_id not in had]
    return tuple(streamed)


def _numbers(keys: Sequence[Hashable]) -> list[int]:
    """Return a number for each key: equal keys have equal numbers, from 0 in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def _renumbered(previous: Ring, members: Sequence[Member]) -> list[list[int | None]]:
    """Return the previous owners of each partition as indexes into ``members``; None where the node has left."""
    indexes = {member.node_id: index for index, member in enumerate(members)}
    now = [indexes.get(member.node_id) for member in previous.members]
    return [[now[index] for index in row] for row in previous.table]


def _carry(assignment: Assignment, before: Sequence[Sequence[int | None]]) -> None:
    """Leave every copy where it was, as far as the limits on hosts and zones allow."""
    for partition, row in enumerate(before):
        for node in row:
            if node is not None:
                assignment.prefer(node, partition)
                assignment.place(node, partition)


def _ordered(
    owners: Sequence[Iterable[int]], nodes: int, copies: int, before: Sequence[Sequence[int | None]] | None
) -> tuple[tuple[int, ...], ...]:
    """Order each partition's owners, one place after the other, each spread evenly over the remaining owners."""
    left = [sorted(row) for row in owners]
    rows: list[list[int]] = [[] for _ in owners]
    for rank in range(copies - 1):
        kept = [row[rank] if rank < len(row) else None for row in before] if before is not None else None
        for partition, node in enumerate(_one_place(left, nodes, copies - rank, kept)):
            left[partition].remove(node)
            rows[partition].append(node)
    return tuple((*row, last) for row, (last,) in zip(rows, left, strict=True))


def _one_place(left: Sequence[Sequence[int]], nodes: int, width: int, kept: Sequence[int | None] | None) -> list[int]:
    """Choose one of ``width`` owners for each partition, so that each node is chosen in 1 of ``width`` of its own.

    A solution exists: choosing every owner 1/width times is a fractional one, and a flow within integer bounds also has
    an integer one. ``kept`` holds the earlier choices.
    """
    masks, held = [0] * nodes, [0] * nodes
    for partition, row in enumerate(left):
        for node in row:
            masks[node] |= 1 << partition
            held[node] += 1
    shares = [Fraction(count, width) for count in held]
    places = [Place(floor(share), ceil(share), 0, 0) for share in shares]
    assignment = Assignment(len(left), 1, places, 1, 1, masks)
    for partition, row in enumerate(left):
        if kept is None:  # a fresh ring: the node furthest below its share
            assignment.place(min(row, key=lambda node: assignment.count[node] / shares[node]), partition)
        else:
            old = kept[partition]
            if old is not None:
                assignment.prefer(old, partition)
                assignment.place(old, partition)
    assignment.settle()
    return [assignment.owners(partition)[0] for partition in range(len(left))]
