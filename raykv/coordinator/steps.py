"""What an operation asks of its driver: actions out, events in.

An operation is a generator without input and output. It yields an action, and goes on when it is sent what came of it:

- ``Round``: frames out to nodes at once; is sent the answers, node id -> frame, when enough are there or time is up.
- ``Wait`` (``cluster.fanout``): calls to nodes, with all that goes with one (which run of the node, a cluster state that it
  has not heard of); goes on at the next outcome.
- ``Learn``: the supervisor is to be asked for what this coordinator must know first.
- ``Spawn``: another operation is to run by itself; goes on at once.

A blocking connection can do rounds, and nearly every operation is nothing else. One that needs more is handed over, as it
stands, to the driver of an event loop (``Handover``).

A round could be written as calls. It is not: a call costs a task, a timer and an entry in the node's record, five times
what a round of a blocking get costs (``scripts/bench floors``).
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
    """Frames to be sent at once, node id -> frame. Each quorum is to answer within ``patience_s``.

    ``write``: what the frames carry, if it is a write: it is sent no later than its deadline, and told what comes late.
    """

    frames: dict[str, bytes]
    quorums: tuple[Quorum, ...]
    patience_s: float
    write: InFlightWrite | None = None

    @property
    def of_all(self) -> bool:
        """Whether each node that is asked is to answer."""
        return len(self.frames) == self.quorums[0][1]

    def met(self, answers: Collection[str]) -> bool:
        """Whether enough have answered."""
        if len(self.quorums) == 1:  # nobody else was asked, and most rounds are such
            return len(answers) >= self.quorums[0][1]
        return quorums_met(self.quorums, answers)


class Learn(NamedTuple):
    """What must be known: the cluster's state, and the bucket of that id (None: of none). Raises where it cannot be."""

    timeout_s: float
    bucket_id: int | None = None


class Spawn(NamedTuple):
    """An operation that runs by itself."""

    steps: Steps[Any]


Action: TypeAlias = Round | Wait | Learn | Spawn
Steps: TypeAlias = Generator[Action, dict[str, bytes], T]
"""Is sent a round's answers; nothing, as an empty dict, where it had asked for something else."""


class Handover(NamedTuple):
    """An operation, and the action that it waits for: nothing of that has been done yet."""

    steps: Steps[Any]
    action: Action
