"""The first state of a store: its nodes, their places, the first claim, the default bucket. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from raykv.config import BucketConfig, StoreConfig, quorum
from raykv.replication.cluster_state import DEFAULT_BUCKET, ClusterState
from raykv.ring import Member, auto_weight, claim

if TYPE_CHECKING:
    from collections.abc import Sequence


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that storage nodes can run on, with what it has to give."""

    name: str
    cpus: float = 1.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    zone: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What ``start`` asks for when there is no store yet."""

    store: StoreConfig
    nodes: int
    zones: tuple[str, ...] = ()
    weights: tuple[float, ...] | Literal["auto"] = "auto"


def place(plan: Plan, hosts: Sequence[Host]) -> list[Member]:
    """Return the store's nodes, dealt out over the hosts in turn, and over the zones asked for in turn.

    Without ``zones`` a node's zone is its host's.
    """
    assert hosts, "a plan needs a host"
    on_host = [hosts[index % len(hosts)] for index in range(plan.nodes)]
    members = []
    for index, host in enumerate(on_host):
        if plan.weights == "auto":
            sharing = sum(1 for other in on_host if other.name == host.name)
            weight = auto_weight(host.cpus, host.memory_bytes, host.disk_bytes, sharing)
        else:
            weight = plan.weights[index]
        zone = plan.zones[index % len(plan.zones)] if plan.zones else host.zone
        members.append(Member(node_id=f"n{index + 1}", weight=weight, host=host.name, zone=zone))
    return members


def first_state(plan: Plan, store_id: str, hosts: Sequence[Host]) -> ClusterState:
    """Return generation 1, version 1: the ring claimed, the bucket "default" in place."""
    copies = plan.store.copies
    default = BucketConfig(name=DEFAULT_BUCKET, n=copies, r=quorum(copies), w=quorum(copies))
    ring = claim(place(plan, hosts), plan.store.partitions, copies)
    empty = ClusterState(store_id=store_id, generation=1, version=0, config=plan.store, ring=ring)
    return empty.with_bucket(default)
