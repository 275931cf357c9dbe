"""The first state of a store: its nodes, their places, the first claim, the default bucket. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec

from raykv.cluster.state import DEFAULT_BUCKET, ClusterState
from raykv.config import BucketConfig, StoreConfig, quorum
from raykv.errors import InvalidOption
from raykv.ring import Member, auto_weight, claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.ports import Host

PLENTY_BYTES = 1 << 60


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of ``start`` for a store that does not exist yet."""

    store: StoreConfig
    nodes: int
    zones: tuple[str, ...] = ()
    weights: tuple[float, ...] | Literal["auto"] = "auto"


def place(plan: Plan, hosts: Sequence[Host]) -> list[Member]:
    """Return the store's nodes, distributed round-robin over the hosts and over the given zones.

    Without ``zones`` a node's zone is its host's.
    """
    assert hosts, "a plan needs a host"
    on_host = [hosts[index % len(hosts)] for index in range(plan.nodes)]
    members = []
    for index, host in enumerate(on_host):
        if plan.weights == "auto":
            sharing = sum(1 for other in on_host if other.name == host.name)
            weight = auto_weight(*_resources(host, hosts), sharing)
        else:
            weight = plan.weights[index]
        zone = plan.zones[index % len(plan.zones)] if plan.zones else host.zone
        members.append(Member(node_id=f"n{index + 1}", weight=weight, host=host.name, zone=zone))
    return members


def place_one(
    members: Sequence[Member],
    hosts: Sequence[Host],
    node_id: str,
    *,
    weight: float,
    host: str,
    zone: str,
    instead_of: str = "",
) -> Member:
    """Return one more node, on the host with the fewest nodes per CPU.

    ``weight``: 0 for what the host has room for. ``host``, ``zone``: the wanted place; empty: any. A zone without hosts
    only labels the node. ``instead_of``: the lost member that it replaces. ``InvalidOption`` if there is no such host.
    """
    there = [each for each in hosts if host in {"", each.name}]
    if not there:
        raise InvalidOption(f"there is no host {host!r}; there are {', '.join(each.name for each in hosts) or 'none'}")
    there = [each for each in there if zone in {"", each.zone}] or there
    staying = [member for member in members if member.node_id != instead_of]
    on_host = {each.name: sum(member.host == each.name for member in staying) for each in there}
    best = min(there, key=lambda each: (on_host[each.name] / max(each.cpus, 0.1), each.name))
    carries = weight or auto_weight(*_resources(best, hosts), on_host[best.name] + 1)
    zone = zone or _zone_on(best, members, hosts, instead_of)
    return Member(node_id=node_id, weight=carries, host=best.name, zone=zone)


def _zone_on(host: Host, members: Sequence[Member], hosts: Sequence[Host], instead_of: str) -> str:
    """Return the zone of a node on this host for which none was asked.

    It is that of the host's other nodes: a host with nodes in two zones counts as two, each of which may hold a copy (P13).
    Where the store was put into several zones on purpose on one host, it is the lost node's, or the one with the fewest.
    """
    lost = next((member for member in members if member.node_id == instead_of), None)
    beside = [member for member in members if member.host == host.name]
    zones = Counter(member.zone for member in beside if member.zone)
    if lost in beside and (lost.zone in zones or not zones):
        return lost.zone
    if beside:
        return min(zones, key=lambda zone: (zones[zone], zone), default="")
    labels = {each.name: each.zone for each in hosts}
    if lost is not None and any(labels.get(member.host, member.zone) != member.zone for member in members):
        return lost.zone  # the store's zones were asked for: they are not those of the hosts
    return host.zone


def _resources(host: Host, hosts: Sequence[Host]) -> tuple[float, int, int]:
    """Return processors, bytes of memory and bytes of disk.

    What is unknown, for a host did not say it in time, is as the least of the others; where all are, it does not decide.
    """
    memory_bytes = host.memory_bytes or min((each.memory_bytes for each in hosts if each.memory_bytes), default=0)
    disk_bytes = host.disk_bytes or min((each.disk_bytes for each in hosts if each.disk_bytes), default=0)
    return host.cpus or 1.0, memory_bytes or PLENTY_BYTES, disk_bytes or PLENTY_BYTES


def first_state(plan: Plan, store_id: str, hosts: Sequence[Host]) -> ClusterState:
    """Return generation 1, version 1: the ring claimed, the bucket "default" in place."""
    copies = plan.store.copies
    default = BucketConfig(name=DEFAULT_BUCKET, n=copies, r=quorum(copies), w=quorum(copies))
    ring = claim(place(plan, hosts), plan.store.partitions, copies)
    empty = ClusterState(store_id=store_id, generation=1, version=0, config=plan.store, ring=ring)
    return empty.with_bucket(default)
