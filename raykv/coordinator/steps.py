"""What an operation asks of its driver: actions out, events in.

An operation is a generator without input and output. It yields an action and resumes with the result:

- ``Round``: sends frames to nodes at once; resumes with the answers, node id -> frame, when enough arrived or time is up.
- ``Wait`` (``cluster.fanout``): makes calls to nodes, with their whole protocol (the node's run, a cluster state that the
  node does not know); resumes at the next outcome.
- ``Learn``: has the supervisor asked for what this coordinator must know first.
- ``Spawn``: starts another operation; resumes at once.

A blocking connection can do rounds, and nearly every operation needs nothing else. Any other is handed over, as it
stands, to the driver of an event loop (``Handover``).

A round could be written as calls. It is not: a call costs a task, a timer and an entry in the node's record, and needs an
event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from raykv.cluster.fanout import Wait
from raykv.coordinator.judgements import Quorum, quorums_met

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.coordinator.in_flight import InFlightWrite

T = TypeVar("T")


class Round(NamedTuple):
    """Frames to be sent at once, node id -> frame. Each quorum has ``patience_s`` to answer.

    ``write``: the write in the frames, if any: it is sent no later than its deadline, and receives late answers.
    """

    frames: dict[str, bytes]
    quorums: tuple[Quorum, ...]
    patience_s: float
    write: InFlightWrite | None = None

    @property
    def of_all(self) -> bool:
        """Whether the round needs an answer of every node."""
        return len(self.frames) == self.quorums[0][1]

    def met(self, answers: Collection[str]) -> bool:
        """Whether enough have answered."""
        if len(self.quorums) == 1:  # no other node was asked, as in most rounds
            return len(answers) >= self.quorums[0][1]
        return quorums_met(self.quorums, answers)


class Learn(NamedTuple):
    """What must be known: the cluster's state, and the bucket of that id (None: no bucket). Raises if it cannot be had."""

    timeout_s: float
    bucket_id: int | None = None


class Spawn(NamedTuple):
    """An operation that runs by itself."""

    steps: Steps[Any]


Action: TypeAlias = Round | Wait | Learn | Spawn
Steps: TypeAlias = Generator[Action, dict[str, bytes], T]
"""Receives a round's answers, or an empty dict after any other action."""


class Handover(NamedTuple):
    """An operation, and the action that it waits for, none of which has been done yet."""

    steps: Steps[Any]
    action: Action
