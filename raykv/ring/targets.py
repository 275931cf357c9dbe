"""Targets: how many copies each node should hold, by weight, under the limits that keep copies apart (P13).

**Limits.** A partition's N owners are N nodes. How many of them one host and one zone may hold is settled first, for the
entire ring, from the inside out:

* ``Limits.host``: the least h such that N owners can be found with at most h a host. It is 1 whenever there are at
  least N hosts, else ceil(N / hosts), or more only where a host has too few nodes to do its part.
* ``Limits.zone``: the least z such that N owners can be found with at most z a zone *and* h a host. It is 1 whenever
  there are at least N zones, else ceil(N / zones), or more only where a zone has too few hosts to do its part.

"Distinct hosts" and "distinct zones" thus each hold whenever possible, and never conflict (N zones hold N hosts). Below
N zones, evenness over zones gives way to distinct hosts: hosts fail more often than zones. Nothing is ever infeasible:
with N members, h and z of N are always enough.

**Targets.** Q partitions have Q x N copies. All nodes' amounts rise together, each at the pace of its weight, until the
copies are used up; a node that reaches Q, a host that reaches h x Q, a zone that reaches z x Q stops there with all its
nodes, and the rest rise on (progressive filling, Bertsekas and Gallager, Data Networks, section 6.5.2: the
weighted max-min fair share). By the wrap-around rule (McNaughton 1959) every rounding of the targets to a neighbouring
integer that keeps the sums can be laid out over the partitions, so the floor or ceiling is always feasible.

The arithmetic is exact: a float that falls just short of an integer would make a floor one too small.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from raykv.config import MAX_COPIES, MAX_PARTITIONS, check_count
from raykv.errors import InvalidOption
from raykv.ring.members import Member, sorted_members

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

WEIGHT_UNITS = 1_000_000
"""Weights are integers in millionths, so that shares are fractions with small denominators."""


class Limits(NamedTuple):
    """The most owners of a partition on one host and in one zone (on one node: always one)."""

    host: int
    zone: int


def check_shape(partitions: int, copies: int) -> None:
    """Raise ``InvalidOption`` unless ``partitions`` is a power of two and ``copies`` a number of copies in range."""
    check_count("n (copies)", copies, 1, MAX_COPIES)
    check_count("partitions", partitions, 1, MAX_PARTITIONS)
    if partitions & (partitions - 1):
        raise InvalidOption(f"partitions must be a power of two, as 256 or 1024; got {partitions}")


def limits(members: Iterable[Member], copies: int) -> Limits:
    """Return the limits for this membership, by the rule above. O(members x copies).

    ``NotEnoughNodes`` if there are fewer members than ``copies``; ``InvalidOption`` if an id comes twice.

    >>> limits([Member("a"), Member("b"), Member("c")], 3)  # three hosts, one zone
    Limits(host=1, zone=3)
    """
    nodes: dict[tuple[str, str, str], int] = {}
    for member in sorted_members(members, copies):
        nodes[member.host_key] = nodes.get(member.host_key, 0) + 1

    def holdable(host: int, zone: int) -> int:
        zones: dict[str, int] = {}
        for (name, _, _), count in nodes.items():
            zones[name] = min(zone, zones.get(name, 0) + min(host, count))
        return sum(zones.values())

    host = next(h for h in range(1, copies + 1) if holdable(h, copies) >= copies)
    zone = next(z for z in range(1, copies + 1) if holdable(host, z) >= copies)
    return Limits(host, zone)


def targets(members: Iterable[Member], partitions: int, copies: int) -> dict[str, Fraction]:
    """Return each node's target, a number of copies as an exact fraction, by node id in order. They sum to Q x N.

    O(members x limits that bind), of which there are at most about 3 x ``copies``. ``InvalidOption`` for a bad shape
    or an id that comes twice, ``NotEnoughNodes`` if there are fewer members than ``copies``.

    >>> {k: int(v) for k, v in targets([Member("a"), Member("b"), Member("c", weight=2.0)], 256, 1).items()}
    {'a': 64, 'b': 64, 'c': 128}
    """
    check_shape(partitions, copies)
    ordered = sorted_members(members, copies)
    limit = limits(ordered, copies)
    groups = [_Group(partitions, [index]) for index in range(len(ordered))]
    for cap, key in ((limit.host, _host_of), (limit.zone, _zone_of)):
        groups += [_Group(cap * partitions, indexes) for indexes in _grouped(ordered, key)]
    return dict(zip((m.node_id for m in ordered), _fill(ordered, groups, partitions * copies), strict=True))


class _Group(NamedTuple):
    cap: int
    indexes: list[int]


def _fill(members: Sequence[Member], groups: list[_Group], total: int) -> list[Fraction]:
    """Raise all amounts at the pace of their weights; stop each group at its cap; end when ``total`` is used up."""
    weights = [max(1, round(member.weight * WEIGHT_UNITS)) for member in members]
    amounts: list[Fraction | None] = [None] * len(members)

    def level_of(cap: int, indexes: Iterable[int]) -> Fraction | None:
        """Return the level at which the cap binds; None if nothing in the group rises any more."""
        rising, stopped = 0, Fraction(0)
        for index in indexes:
            amount = amounts[index]
            if amount is None:
                rising += weights[index]
            else:
                stopped += amount
        return (cap - stopped) / rising if rising else None

    open_groups = groups
    while (final := level_of(total, range(len(members)))) is not None:
        levels = [(level_of(group.cap, group.indexes), group) for group in open_groups]
        open_groups = [group for level, group in levels if level is not None]
        lowest, tight = min(((level, group) for level, group in levels if level is not None), key=lambda pair: pair[0])
        if lowest >= final:  # nothing binds before the copies are used up
            lowest, tight = final, _Group(total, list(range(len(members))))
        for index in tight.indexes:
            if amounts[index] is None:
                amounts[index] = lowest * weights[index]
    return [amount for amount in amounts if amount is not None]


def _grouped(members: Sequence[Member], key: Callable[[Member], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, member in enumerate(members):
        groups.setdefault(key(member), []).append(index)
    return list(groups.values())


def _host_of(member: Member) -> Hashable:
    return member.host_key


def _zone_of(member: Member) -> Hashable:
    return member.zone
