"""Where a key lives: from its bytes to its owners, without asking for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.records.keys import encode_key
from raykv.ring import TOKEN_BITS, partition_in, token_in

if TYPE_CHECKING:
    from raykv.client.views import RingView
    from raykv.config import BucketConfig
    from raykv.records.keys import Key


class Location(NamedTuple):
    """A key's place on the ring."""

    key: Any
    bucket: str
    token: str
    """The hash of the key, in a grouped bucket of its group: 16 hexadecimal digits."""
    partition: int
    partitions: int
    """How many the ring has."""
    epoch: int
    """Of the ring by which the owners are named."""
    owners: list[str]
    """The ids of the nodes that keep copies, in the order in which the ring names them."""
    hosts: dict[str, str]
    """Owner -> its host."""
    zones: dict[str, str]
    """Owner -> its zone."""

    def __repr__(self) -> str:
        owners = ", ".join(
            f"{node_id} ({self.hosts[node_id]})" if self.hosts[node_id] else node_id for node_id in self.owners
        )
        return (
            f"{self.key!r} in bucket {self.bucket!r}: token {self.token}, partition {self.partition} of "
            f"{self.partitions}, owned by {owners}; ring epoch {self.epoch}"
        )


def located(key: Key, config: BucketConfig, ring: RingView) -> Location:
    """Return where a key lives by this ring."""
    encoded = encode_key(key)
    partition = partition_in(config, encoded, ring["partitions"])
    owners = ring.owners(partition)[: config.n]
    members = {member["node_id"]: member for member in ring["members"]}
    return Location(
        key=key,
        bucket=config.name,
        token=f"{token_in(config, encoded):0{TOKEN_BITS // 4}x}",
        partition=partition,
        partitions=ring["partitions"],
        epoch=ring["epoch"],
        owners=owners,
        hosts={node_id: members[node_id]["host"] for node_id in owners},
        zones={node_id: members[node_id]["zone"] for node_id in owners},
    )
