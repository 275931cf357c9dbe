"""What an operation is: a generator of exchanges with the coordinator, without I/O of its own.

An operation yields an ``Exchange`` (requests to be sent) and receives the answers. A driver runs it, blocking or awaiting
(``raykv.client.driver``), and both faces share every rule. ``ask`` is the smallest operation: one request, one answer.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from raykv.errors import CorruptData, Overloaded, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from raykv.client.session_clock import SessionClock

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 5.0
WINDOW = 6
"""Requests of one exchange that are under way at once."""
TRY_AGAIN = (QuorumNotMet, StoreUnavailable, Overloaded, WriteOutcomeUnknown)
"""Errors behind which the same may succeed a little later, of what may be done twice."""
UNEXPECTED = "the coordinator answered with the wrong kind of message"


class Exchange(NamedTuple):
    """Requests to send, and how to react when the coordinator fails meanwhile."""

    requests: Sequence[f.CoordinatorRequest]
    timeout_s: float
    repeatable: bool
    """Whether a request may be sent again although the first may have been carried out: true of reads."""
    pause_s: float = 0.0
    """With no requests: how long to wait."""
    meanwhile: f.Meanwhile | None = None


Answer: TypeAlias = f.CoordinatorAnswer | PeerFailure | CorruptData
Steps: TypeAlias = Generator[Exchange, list[Answer], T]


def ask(
    request: f.CoordinatorRequest,
    timeout_s: float,
    session_clock: SessionClock | None = None,
    *,
    repeatable: bool = True,
) -> Steps[f.CoordinatorAnswer]:
    """Send one request; raise the error in its answer."""
    (answer,) = yield Exchange([request], timeout_s, repeatable=repeatable)
    if isinstance(answer, PeerFailure):
        if not repeatable and not isinstance(answer, PeerAbsent):
            raise WriteOutcomeUnknown(
                f"the outcome of this command is unknown: the coordinator did not answer ({answer}). It may have been "
                "carried out; check status() before repeating it"
            )
        raise unanswered(answer, timeout_s)
    answer = answered(answer)
    if session_clock is not None:
        session_clock.note(answer)
    return answer


def answered(answer: f.CoordinatorAnswer | CorruptData) -> f.CoordinatorAnswer:
    """Return the answer. Raises the error that it reports."""
    if isinstance(answer, CorruptData):
        raise answer
    if isinstance(answer, f.Refused):
        raise answer.failed.error()
    return answer


def ask_info(request: f.CoordinatorRequest, timeout_s: float, *, repeatable: bool = True) -> Steps[Any]:
    """Send one request; return the plain data of its answer."""
    answer = yield from ask(request, timeout_s, repeatable=repeatable)
    if not isinstance(answer, f.Info):
        raise unexpected()
    return answer.data


def unanswered(failure: PeerFailure, timeout_s: float) -> RaykvError:
    """Return the error for a read or a repeatable command that no coordinator answered."""
    if isinstance(failure, PeerSilent):
        return QuorumNotMet(
            f"no coordinator answered within {timeout_s:g} s ({failure}); try again, or give a larger timeout"
        )
    return StoreUnavailable(f"no coordinator of the store can be reached ({failure}); try again")


def unexpected() -> CorruptData:
    """Return the error for an answer of another kind than the request asks for."""
    return CorruptData(f"{UNEXPECTED}; the client and the store may run different versions of raykv")
