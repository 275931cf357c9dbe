"""The cluster's state: what all parts of one store must agree on, as one immutable value.

Ring and members, buckets with their policies, and the store's settings. Only the supervisor makes a new one; storage
nodes keep it on their disks (P5); coordinators act on the newest that they have received. ``generation`` is the
supervisor's ballot, ``version`` counts changes; later is the greater pair.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from raykv.config import BucketConfig, ScalingConfig, StoreConfig
from raykv.errors import BucketMismatch, CorruptData, InvalidOption, RaykvError
from raykv.records.dropped import DroppedBuckets
from raykv.records.limits import MAX_BUCKETS
from raykv.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_FORMAT = 2
"""1: no bucket is grouped. A raykv that knows no groups would seek their keys elsewhere, so it must refuse format 2."""
DEFAULT_BUCKET = "default"


class BucketEntry(msgspec.Struct, frozen=True, array_like=True):
    """A bucket: the id under which nodes keep its records (never used again once dropped), and its policy."""

    bucket_id: int
    config: BucketConfig


class Move(msgspec.Struct, frozen=True, array_like=True):
    """A partition on its way to other owners (P4): the ring has the old owners in order, ``owners`` are the new ones."""

    partition: int
    owners: tuple[str, ...]
    reads_new: bool = False
    """Writes go to both in any case. Reads ask those of the ring, until the others have everything."""


class ClusterState(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """See the module. Changed only by the methods below, which return a new one; how owners change: ``moves``."""

    format: int = 1
    store_id: str
    generation: int
    version: int
    config: StoreConfig
    ring: Ring
    buckets: tuple[BucketEntry, ...] = ()
    next_bucket_id: int = 1
    epoch: int = 1
    """Grows with every change of owners, or of the nodes that reads ask. Requests carry it (P4)."""
    moves: tuple[Move, ...] = ()
    """The moving partitions."""
    goal: Ring | None = None
    """The ring that the moves lead to; None without a goal."""
    next_node: int = 0
    """The number of the next node that joins; an id is never used again. 0: one more than the founders."""
    scaling: ScalingConfig | None = None
    """The limits of autoscaling; None: off."""
    paused: bool = False
    """Whether no wave is to begin, until somebody asks for it."""

    @property
    def ballot(self) -> tuple[int, int]:
        """(generation, version): of two states the one with the greater is later."""
        return self.generation, self.version

    def read_set(self, partition: int, n: int) -> tuple[str, ...]:
        """Return the n nodes of which reads ask R, the first owner in front."""
        move = self._moving.get(partition)
        return move.owners[:n] if move is not None and move.reads_new else self.ring.primaries(partition, n)

    def write_sets(self, partition: int, n: int) -> tuple[tuple[str, ...], ...]:
        """Return the sets of n nodes; W of each must acknowledge a write: one, or two while the partition moves."""
        before = self.ring.primaries(partition, n)
        move = self._moving.get(partition)
        if move is None or set(move.owners[:n]) == set(before):
            return (before,)
        return (before, move.owners[:n])

    def holders(self, partition: int, n: int) -> tuple[str, ...]:
        """Return all nodes that hold the partition's records in buckets of n copies, old owners in front."""
        sets = self.write_sets(partition, n)
        return sets[0] if len(sets) == 1 else tuple(dict.fromkeys(sets[0] + sets[1]))

    def order(self, partition: int, n: int) -> tuple[str, ...]:
        """Return all nodes, each once: the owners, then the others in the order in which they may stand in."""
        rest = self.ring.preference_list(partition, n)
        return tuple(dict.fromkeys(self.holders(partition, n) + rest))

    @cached_property
    def _moving(self) -> dict[int, Move]:
        return {move.partition: move for move in self.moves}

    def differs(self, other: ClusterState, partition: int) -> bool:
        """Whether a request for the partition would go elsewhere by that other state."""
        mine, theirs = self._moving.get(partition), other._moving.get(partition)
        if mine != theirs:
            return True
        return self.ring.owners(partition) != other.ring.owners(partition)

    def bucket(self, name: str) -> BucketEntry | None:
        """Return the bucket of that name."""
        return next((entry for entry in self.buckets if entry.config.name == name), None)

    def with_bucket(self, config: BucketConfig) -> ClusterState:
        """Return the state with one more bucket.

        A grouped one begins an epoch: a node that has not heard of it takes no request about its keys (P4, P15).
        *Schedule without: a node that does not know the bucket yet puts a key where its whole hash says; it learns of the
        bucket, and seeks the key by its group.*
        """
        if len(self.buckets) >= MAX_BUCKETS:
            raise InvalidOption(f"a store has at most {MAX_BUCKETS} buckets")
        entry = BucketEntry(self.next_bucket_id, config)
        grouped = config.group is not None
        return msgspec.structs.replace(
            self,
            format=STATE_FORMAT if grouped else self.format,
            version=self.version + 1,
            buckets=(*self.buckets, entry),
            next_bucket_id=self.next_bucket_id + 1,
            epoch=self.epoch + grouped,
        )

    def without_bucket(self, name: str) -> ClusterState:
        """Return the state without that bucket. Its id is never reused, so its records stay out of sight."""
        rest = tuple(entry for entry in self.buckets if entry.config.name != name)
        return msgspec.structs.replace(self, version=self.version + 1, buckets=rest)

    def with_scaling(self, scaling: ScalingConfig | None) -> ClusterState:
        """Return the state with these limits of autoscaling; None: off."""
        return msgspec.structs.replace(self, version=self.version + 1, scaling=scaling)

    def with_paused(self, *, paused: bool) -> ClusterState:
        """Return the state in which no further wave begins, or one may again."""
        return msgspec.structs.replace(self, version=self.version + 1, paused=paused)

    def config_of(self, bucket_id: int) -> BucketConfig | None:
        """Return the policy of a bucket; None if there is none of that id. O(1) after the first call."""
        return self._configs.get(bucket_id)

    @cached_property
    def _configs(self) -> dict[int, BucketConfig]:
        return {entry.bucket_id: entry.config for entry in self.buckets}

    def dropped(self, bucket_id: int) -> bool:
        """Whether that id belonged to a bucket that was dropped. An id not yet given is not "dropped". O(1)."""
        return self.dropped_buckets is not None and self.dropped_buckets.has(bucket_id)

    @cached_property
    def dropped_buckets(self) -> DroppedBuckets | None:
        """All buckets that were ever dropped; None if none was."""
        living = frozenset(entry.bucket_id for entry in self.buckets)
        return DroppedBuckets(self.next_bucket_id, living) if len(living) < self.next_bucket_id - 1 else None


_decoder = msgspec.msgpack.Decoder(ClusterState)
_encoder = msgspec.msgpack.Encoder()


def encode_state(state: ClusterState) -> bytes:
    """Return the state as bytes, to be kept and sent."""
    return _encoder.encode(state)


def decode_state(data: bytes) -> ClusterState:
    """Return the state that ``encode_state`` took. Raises ``CorruptData``."""
    try:
        state = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RaykvError) as error:
        raise CorruptData(f"not a cluster state: {error}") from None
    if not 1 <= state.format <= STATE_FORMAT:
        raise CorruptData(f"a cluster state of format {state.format}; this raykv reads up to {STATE_FORMAT}")
    if wrong := _wrong_with(state):
        raise CorruptData(f"not a cluster state: {wrong}")
    return state


def _wrong_with(state: ClusterState) -> str:
    """Return what its parts disagree on; each by itself is sound. Empty if nothing. O(buckets + moves)."""
    ring, goal = state.ring, state.goal
    if goal is not None and (goal.partitions, goal.copies) != (ring.partitions, ring.copies):
        return "its ring is to become one of another shape"
    ids = [entry.bucket_id for entry in state.buckets]
    if len({*ids}) < len(ids) or not all(0 < bucket_id < state.next_bucket_id for bucket_id in ids):
        return "the ids of its buckets are not those that were given"
    if any(entry.config.n > ring.copies for entry in state.buckets):
        return f"a bucket has more than the ring's {ring.copies} copies"
    members = {member.node_id for each in (ring, goal) if each is not None for member in each.members}
    for move in state.moves:
        owners = {*move.owners}
        if not (0 <= move.partition < ring.partitions and len(owners) == len(move.owners) == ring.copies):
            return f"partition {move.partition} is to have other owners than {ring.copies}"
        if not owners <= members:
            return f"partition {move.partition} is to have owners that are no members"
    return ""


def check_bucket_options(name: str, options: Mapping[str, object]) -> None:
    """Raise ``InvalidOption`` for an unknown bucket option."""
    unknown = sorted(options.keys() - set(BucketConfig.__struct_fields__))
    if unknown:
        raise InvalidOption(f"bucket {name!r}: there is no option {', '.join(unknown)}")


def bucket_from_options(name: str, options: Mapping[str, object], copies: int) -> BucketConfig:
    """Return the policy that ``options`` ask for, the rest by default: n = the ring's, r = w = a majority.

    Raises ``InvalidOption``.
    """
    check_bucket_options(name, options)
    n = options.get("n", copies)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= copies:
        raise InvalidOption(f"n must be 1 to {copies} (the store keeps {copies} copies); got {n!r}")
    majority = n // 2 + 1
    try:
        return msgspec.convert({"r": majority, "w": majority, **options, "name": name, "n": n}, BucketConfig)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"bucket {name!r}: {error}") from None


def check_same_bucket(existing: BucketConfig, options: Mapping[str, object]) -> None:
    """Raise ``BucketMismatch`` if a given option differs from what the bucket was created with."""
    check_bucket_options(existing.name, options)
    differing = {
        name: (getattr(existing, name), value) for name, value in options.items() if getattr(existing, name) != value
    }
    if differing:
        shown = ", ".join(f"{name} is {have!r}, asked {asked!r}" for name, (have, asked) in sorted(differing.items()))
        raise BucketMismatch(
            f"bucket {existing.name!r} exists with other settings: {shown}",
            bucket=existing.name,
            differing={name: list(pair) for name, pair in differing.items()},
        )
