"""Changes of a linearizable bucket, and what becomes of each: the same between client, coordinator and leader.

A *change* is one call of one *lane*, a call slot of a client's handle (RIFL: Lee et al. 2015, "Implementing
linearizability at large scale and low latency"). Lane and number name it for ever, however often it is sent (L10).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from raykv.protocol.codec import Message
from raykv.records import limits as lim

READ, PUT, DELETE, ADD, MAXIMUM, MINIMUM, SWAP = range(7)
"""The kinds of changes; ``READ`` changes nothing and needs no lane."""
CELL = b"\x04"
"""The codec tag of a 64-bit integer, big-endian and signed behind it: what ``ADD`` and its like work on."""
CELL_BYTES = 9
LEAST, MOST = -(1 << 63), (1 << 63) - 1
"""The range of a cell."""

DONE = 0
CONFLICT = 1
"""The condition does not hold; nothing was written. With version and payload of what stands."""
FENCED = 2
"""The key has seen a higher fencing token; nothing was written."""
NO_NUMBER = 3
"""What stands, or what was given, is no cell; nothing was written."""
OUT_OF_RANGE = 4
"""The sum has more than 64 bits; nothing was written."""
TOO_LARGE = 5
"""The record would be too large, or has receipts of too many lanes; nothing was written."""
STALE = 6
"""The lane has sent a later call since; what became of this one is not known any more."""
LATE = 7
"""It came after its deadline, or was meant for another run of the node; nothing was done."""
ELSEWHERE = 8
"""``leader`` leads; what this node did of it, if anything, does not count unless that leader finds it."""
NO_QUORUM = 9
"""Too few owners answered; it may have been done."""
UNABLE = 10
"""This node cannot lead: it is incomplete, or its disk is full. Nothing was done."""
HINT = 11
"""The answer to a read that waited for its turn: what the leader has by then, acknowledged or not. It is good for nothing
but a change on condition of its version."""
FINAL = frozenset({DONE, CONFLICT, FENCED, NO_NUMBER, OUT_OF_RANGE, TOO_LARGE, STALE, HINT})
"""What a client is told; the coordinator sends the change again after any other."""


class Change(Message, frozen=True, gc=False):
    """One change of one key.

    ``number``: of the lane's calls. ``resent``: whether it may have been carried out already (L11). ``condition``: the
    version that must stand, ``b""`` for none at all; None: no condition. ``fence``: the writer's fencing token, 0 for none.
    ``turn``: of a read, whether to wait for the lane's turn (see ``raykv.replica.turns``).
    """

    key: lim.EncodedKey
    kind: Annotated[int, Meta(ge=READ, le=SWAP)]
    payload: lim.Bytes = b""
    lane: lim.Lane = b""
    number: lim.Number = 0
    condition: lim.Version | None = None
    fence: lim.Number = 0
    resent: bool = False
    turn: bool = False


class Settled(Message, frozen=True, gc=False):
    """What became of a change. ``version``: of what stands now. ``payload``: what the change is to be answered with.

    A read: the value; an ``ADD`` or its like: the new one; a ``SWAP``: the former one; a conflict: what stands.
    ``unanswered``, from a coordinator: a former sending of it has brought no answer, and may still arrive (L10).
    """

    status: int
    version: lim.Version = b""
    payload: lim.Bytes | None = None
    leader: lim.Name = ""
    unanswered: bool = False


def cell(number: int) -> bytes:
    """Return the cell of a number. Raises ``OverflowError`` beyond 64 bits."""
    return CELL + number.to_bytes(CELL_BYTES - 1, signed=True)


def number_of(payload: bytes) -> int | None:
    """Return the number in a cell; None for anything else."""
    return int.from_bytes(payload[1:], signed=True) if len(payload) == CELL_BYTES and payload[:1] == CELL else None
