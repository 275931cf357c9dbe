"""How owners change: from one decided state to the next, each of them safe to use (P4).

A partition moves in three steps, and each is a state with an epoch of its own:

1. Writes need W of the old owners *and* W of the new, reads ask the old. Earlier acknowledged writes are only on old ones,
   so the new owners now pull the partition from them. They begin once too few old owners are left that could, without
   knowing of the step, acknowledge a write without the new: N - min(R, W) + 1 must have confirmed, durably, that they know.
   *Schedule without: a coordinator that does not know writes to two old owners that do not know; the new owner pulled the
   partition from the third.*
2. Writes still go to both, reads ask the new. It begins when each new owner has everything, and enough know of step 1.
   *Schedule without the writes to the old: a coordinator still at step 1 reads from the old owners, and misses them.*
3. The old owners are left out, and drop what they hold. It begins when enough of the old know of step 2: those that do
   not would still answer a coordinator that does not know it either.

A move at step 1 can be aborted, since the old owners have everything; from step 2 it only goes ahead. Partitions move in
waves, to save epochs, and few at a time per node, to leave the node time for its clients.

Pure: the supervisor stores what these functions return, and finds out whether a step may begin.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from raykv.cluster.state import ClusterState, Move
from raykv.config import quorum
from raykv.errors import InvalidOption, NotEnoughNodes
from raykv.ring import Member, Ring, claim

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

MOVES_AT_ONCE = 32
"""The most partitions that move at the same time."""
MOVES_A_NODE = 8
"""The most of them that move to the same node."""


def with_member(state: ClusterState, member: Member) -> ClusterState:
    """Return the state with one more node, which owns nothing yet, on its way to a ring in which it has its share.

    ``InvalidOption`` if there is one of that id.
    """
    ring, wanted = state.ring, wanted_members(state)
    if ring.has_member(member.node_id):
        raise InvalidOption(f"there is a node {member.node_id!r}", node_id=member.node_id)
    joined = _changed(state, ring=_with_members(ring, (*ring.members, member)))
    if member.node_id == next_id(state):
        joined = with_id_taken(joined)
    goal = with_goal(joined, (*wanted, member)).goal
    return msgspec.structs.replace(joined, goal=goal)


def with_replacement(state: ClusterState, member: Member, lost: str) -> ClusterState:
    """Return the state in which ``member`` is to replace the leaving node ``lost``. Raises as the others."""
    state.ring.member(lost)
    wanted = [each for each in wanted_members(state) if each.node_id != lost]
    return with_goal(with_member(state, member), (*wanted, member))


def wanted_members(state: ClusterState) -> tuple[Member, ...]:
    """Return the members of the goal ring, or else of the present one."""
    return (state.goal or state.ring).members


def with_id_taken(state: ClusterState) -> ClusterState:
    """Return the state in which no other node gets the next id: its bearer may be started now.

    *Schedule without: n4 is started and does not join; its directory stays on a host out of reach, empty, as that of a
    node that has never run. Another n4 joins elsewhere. Later the first directory is found, and taken for the second's.*
    """
    return msgspec.structs.replace(state, version=state.version + 1, next_node=_next_number(state) + 1)


def next_id(state: ClusterState) -> str:
    """Return the id of the next node."""
    return f"n{_next_number(state)}"


def _next_number(state: ClusterState) -> int:
    return state.next_node or len(state.ring.members) + 1


def with_goal(state: ClusterState, members: Iterable[Member]) -> ClusterState:
    """Return the state on its way to a ring of these members. Nothing may be at step 1.

    Moves at step 2 end as they are, whatever the goal; the new goal begins from the owners that they lead to.
    ``NotEnoughNodes`` if they are fewer than the copies; ``InvalidOption`` if one of them has not joined.
    """
    assert all(move.reads_new for move in state.moves), "a goal changes between waves"
    ring, wanted = state.ring, tuple(members)
    if len(wanted) < ring.copies:
        raise NotEnoughNodes(
            f"the store keeps {ring.copies} copies, so it needs as many nodes; {len(wanted)} would be left",
            needed=ring.copies,
            left=len(wanted),
        )
    for member in wanted:
        ring.member(member.node_id)
    previous = _with_rows(ring, {move.partition: move.owners for move in state.moves}) if state.moves else ring
    return _changed(state, goal=claim(wanted, ring.partitions, ring.copies, previous))


def next_wave(state: ClusterState, skip: Collection[str] = ()) -> tuple[Move, ...]:
    """Return the next moves: a few for each node, none *to* a node in ``skip``. Empty if none is left."""
    if state.goal is None:
        return ()
    given: Counter[str] = Counter()
    wave: list[Move] = []
    for partition in range(state.ring.partitions):
        before, after = state.ring.owners(partition), state.goal.owners(partition)
        if before == after:
            continue
        move = Move(partition, after)
        gaining = gains(state, move)
        if {*gaining} & {*skip} or any(given[node_id] >= MOVES_A_NODE for node_id in gaining):
            continue
        wave.append(move)
        given.update(gaining.keys())
        if len(wave) >= MOVES_AT_ONCE:
            break
    return tuple(wave)


def left(state: ClusterState) -> int:
    """Return how many partitions do not have their final owners yet."""
    if state.goal is None:
        return 0
    return sum(state.ring.owners(at) != state.goal.owners(at) for at in range(state.ring.partitions))


def reason(state: ClusterState) -> str:
    """Return for people why partitions are to move: who leaves, whose weight changes, who gets some.

    Empty without a goal.
    """
    if state.goal is None:
        return ""
    said = []
    for member in state.ring.members:
        name, node_id = f"node {member.node_id}", member.node_id
        if not state.goal.has_member(node_id):
            said.append(f"{name} is leaving")
            continue
        if (weight := state.goal.member(node_id).weight) != member.weight:
            said.append(f"{name} gets weight {weight:g} instead of {member.weight:g}")
        if new := len({*state.goal.partitions_of(node_id)} - {*state.ring.partitions_of(node_id)}):
            said.append(f"{name} has still to get {new}")
    return ", ".join(said)


def begun(state: ClusterState, wave: tuple[Move, ...]) -> ClusterState:
    """Return the state in which these partitions are at step 1."""
    assert not state.moves
    return _changed(state, moves=wave)


def reading_new(state: ClusterState) -> ClusterState:
    """Return the state in which the moving partitions are at step 2."""
    moves = tuple(msgspec.structs.replace(move, reads_new=True) for move in state.moves)
    return _changed(state, moves=moves)


def ended(state: ClusterState) -> ClusterState:
    """Return the state in which the moving partitions are at step 3: the new owners are the owners."""
    assert all(move.reads_new for move in state.moves)
    return _changed(state, ring=_with_rows(state.ring, {move.partition: move.owners for move in state.moves}), moves=())


def postpone(state: ClusterState) -> ClusterState:
    """Return the state without the moves at step 1, which may begin again later."""
    assert not any(move.reads_new for move in state.moves), "new owners are being read: it must go on"
    return _changed(state, moves=())


def abort(state: ClusterState) -> ClusterState:
    """Return the state without the moves at step 1, and without a goal."""
    assert not any(move.reads_new for move in state.moves), "new owners are being read: it must go on"
    return _changed(state, moves=(), goal=None)


def without_member(state: ClusterState, node_id: str) -> ClusterState:
    """Return the state without a node that owns nothing any more."""
    members = tuple(member for member in state.ring.members if member.node_id != node_id)
    return _changed(state, ring=_with_members(state.ring, members))


def arrived(state: ClusterState) -> ClusterState:
    """Return the state whose ring is the goal: leaving nodes have left."""
    assert state.goal is not None
    assert not left(state)
    ring = msgspec.structs.replace(state.goal, epoch=state.ring.epoch + 1)  # later than those on the way to it
    return _changed(state, ring=ring, goal=None)


def gains(state: ClusterState, move: Move) -> dict[str, tuple[int, ...]]:
    """Return for each node that gains something: the buckets in which it does."""
    found: dict[str, list[int]] = {}
    for entry in state.buckets:
        n = entry.config.n
        before = state.ring.owners(move.partition)[:n]
        for node_id in move.owners[:n]:
            if node_id not in before:
                found.setdefault(node_id, []).append(entry.bucket_id)
    return {node_id: tuple(buckets) for node_id, buckets in sorted(found.items())}


def lacking(state: ClusterState, knowing: Collection[str], lost: Collection[str] = ()) -> set[str]:
    """Return the owners of which some more must know the state; empty if enough do for the next step to begin (P4).

    ``lost``: leaving nodes that are gone for good: all the others must know then, if need be. Before step 3 only the old
    owners count: a coordinator that does not know step 2 asks them.
    """
    missing: set[str] = set()
    for move in state.moves:
        for entry in state.buckets:
            config = entry.config
            # With its bucket's R and W, or a majority's if those are lower: an operation may ask for more than they.
            needed = config.n - min(config.r, config.w, quorum(config.n)) + 1
            old, new = state.ring.owners(move.partition)[: config.n], move.owners[: config.n]
            for owners in (old,) if move.reads_new else (old, new):
                there = sum(node_id not in lost for node_id in owners)
                if sum(node_id in knowing for node_id in owners) < min(needed, there):
                    missing.update(node_id for node_id in owners if node_id not in knowing)
    return missing


def _changed(state: ClusterState, **fields: object) -> ClusterState:
    known = {"version": state.version + 1, "epoch": state.epoch + 1, "next_node": _next_number(state)}
    return msgspec.structs.replace(state, **(known | fields))


def _with_members(ring: Ring, members: tuple[Member, ...]) -> Ring:
    """Return the ring with other members, and the same owners."""
    ordered = tuple(sorted(members, key=lambda member: member.node_id))
    owners = {partition: ring.owners(partition) for partition in range(ring.partitions)}
    return Ring(ring.epoch + 1, ring.copies, ring.partitions, ordered, _table(ordered, owners))


def _with_rows(ring: Ring, rows: Mapping[int, tuple[str, ...]]) -> Ring:
    owners = {partition: rows.get(partition) or ring.owners(partition) for partition in range(ring.partitions)}
    return Ring(ring.epoch + 1, ring.copies, ring.partitions, ring.members, _table(ring.members, owners))


def _table(members: tuple[Member, ...], owners: Mapping[int, tuple[str, ...]]) -> tuple[tuple[int, ...], ...]:
    indexes = {member.node_id: index for index, member in enumerate(members)}
    return tuple(tuple(indexes[node_id] for node_id in owners[partition]) for partition in range(len(owners)))
