"""Members: the storage nodes that share the ring, with the capacity and place of each."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from raykv.config import GIB, check_host, check_node_id, check_weight, check_zone
from raykv.errors import InvalidOption, NotEnoughNodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

MIN_PARTITIONS_PER_NODE = 8
"""With fewer, one partition is over an eighth of a node's load: the shares get coarse."""

REFERENCE_CPUS = 4.0
REFERENCE_MEMORY_BYTES = 16 * GIB
REFERENCE_DISK_BYTES = 200 * GIB
MIN_AUTO_WEIGHT = 0.25
MAX_AUTO_WEIGHT = 16.0
AUTO_WEIGHT_STEP = 0.25


class Member(msgspec.Struct, frozen=True):
    """A storage node as the ring sees it. ``InvalidOption`` for a bad name or weight.

    ``weight`` is relative (0.01 to 1,000): a node of weight 2 owns twice what one of weight 1 owns. An empty ``host``
    makes the node a host of its own; all empty zones are one zone. A host name in two zones counts as one host in each:
    zones are declared on purpose, for instance to try them out on a laptop.
    """

    node_id: str
    weight: float = 1.0
    host: str = ""
    zone: str = ""

    def __post_init__(self) -> None:
        check_node_id(self.node_id)
        check_host(self.host)
        check_weight(self.weight)
        if self.zone:
            check_zone(self.zone)

    @property
    def host_key(self) -> tuple[str, str, str]:
        """The key that nodes on one host share: zone, host, and the node's own id where the host is unnamed."""
        return self.zone, self.host, "" if self.host else self.node_id


def sorted_members(members: Iterable[Member], copies: int) -> tuple[Member, ...]:
    """Return the members in the order of their ids, the one order that rings use. O(n log n).

    ``InvalidOption`` if an id comes twice, ``NotEnoughNodes`` if there are fewer members than ``copies``.
    """
    ordered = tuple(sorted(members, key=lambda member: member.node_id))
    for left, right in pairwise(ordered):
        if left.node_id == right.node_id:
            raise InvalidOption(f"the node {left.node_id!r} is named twice", node_id=left.node_id)
    if len(ordered) < copies:
        raise NotEnoughNodes(
            f"{copies} copies need at least {copies} nodes; there are {len(ordered)}", copies=copies, nodes=len(ordered)
        )
    return ordered


def auto_weight(cpus: float, memory_bytes: int, disk_bytes: int, nodes_on_host: int = 1) -> float:
    """Return the weight of one node on a host with these resources: a pure function, O(1).

    A key-value node that runs out of one resource is slow in all, so the scarcest decides: the least of cpus / 4,
    memory / 16 GiB and disk / 200 GiB, shared by the nodes on the host. A host of exactly those sizes weighs 1. The
    result is clamped to 0.25 .. 16 and rounded to a multiple of 0.25, so that a disk that reads a little smaller after a
    restart does not move data. ``disk_bytes`` is the disk's size, not its free space: a node's own data must not make it
    lighter. ``InvalidOption`` if a resource is not a finite number above 0.

    >>> auto_weight(4, 16 * GIB, 200 * GIB), auto_weight(64, 256 * GIB, 400 * GIB), auto_weight(8, 32 * GIB, 400 * GIB, 2)
    (1.0, 2.0, 1.0)
    """
    for what, value in (("cpus", cpus), ("memory_bytes", memory_bytes), ("disk_bytes", disk_bytes)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidOption(f"{what} must be a number above 0; got {value!r}")
    if nodes_on_host < 1:
        raise InvalidOption(f"nodes_on_host must be at least 1; got {nodes_on_host!r}")
    scarcest = min(cpus / REFERENCE_CPUS, memory_bytes / REFERENCE_MEMORY_BYTES, disk_bytes / REFERENCE_DISK_BYTES)
    bounded = min(max(scarcest / nodes_on_host, MIN_AUTO_WEIGHT), MAX_AUTO_WEIGHT)
    return round(bounded / AUTO_WEIGHT_STEP) * AUTO_WEIGHT_STEP


def partition_warning(members: Sized, partitions: int) -> str | None:
    """Return a sentence for the operator if there are fewer than 8 partitions a node, else None. O(1).

    >>> partition_warning(range(30), 256) is None
    True
    """
    nodes = len(members)
    if partitions >= MIN_PARTITIONS_PER_NODE * nodes:
        return None
    enough = 1 << (MIN_PARTITIONS_PER_NODE * nodes - 1).bit_length()
    return (
        f"{partitions} partitions for {nodes} nodes are fewer than {MIN_PARTITIONS_PER_NODE} a node: the shares are "
        f"coarse. The number is fixed at creation; a store of this size wants partitions={enough}"
    )
