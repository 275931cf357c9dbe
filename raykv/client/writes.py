"""Writes of one key, and the sending and outcome of any number of writes.

A write that may have been carried out is never sent twice (P8): its outcome is unknown, and the error says so. Single writes
and batches share request, sending and judgement; only a batch is split and collected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from raykv.client import faces
from raykv.client.exchange import UNEXPECTED, WINDOW, Exchange
from raykv.client.requests import Requests
from raykv.client.version import Version
from raykv.config import check_timeout
from raykv.errors import CorruptData, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerFailure
from raykv.protocol import frames as f
from raykv.records.record import OPERATION_ID_BYTES
from raykv.versions.context import Context, sealed_when_asked, unseal

if TYPE_CHECKING:
    from raykv.client.exchange import Answer, Steps
    from raykv.client.requests import Item
    from raykv.records.keys import Key

NO_VERSION = Version()
_TRIES_WHEN_LATE = 3
_DEADLINE_PASSED = (
    "nothing was written: the request reached the coordinator after its deadline; try again, or give a larger timeout"
)


class WriteResult(NamedTuple):
    """An acknowledged write: ``acks`` are the nodes that held it durably by then, ``operation_id`` names it.

    ``context`` covers the write and what it superseded: a later write with this context supersedes exactly that.

    In a linearizable bucket ``version`` is the value's, for a later ``if_version``; a majority holds it, ``acks`` are not
    listed, and there is no context.
    """

    acks: tuple[str, ...]
    operation_id: str
    context: Context
    version: Version = NO_VERSION

    def _repr_html_(self) -> str:
        held = faces.chips(self.acks[: faces.ROWS]) if self.acks else "a majority of its owners"
        return faces.card("written", f"<div>held by {held}</div>", faces.line(f"operation {self.operation_id[:64]}"))


class Writes(Requests):
    """Writes one key."""

    def put(self, key: Key, value: Any, *, w: Any, ttl: Any, timeout: Any, context: Any = None) -> Steps[WriteResult]:
        """Write one key."""
        timeout_s = check_timeout(timeout)
        request = self._seen(self.write_request([(key, value)], w, ttl, timeout_s), context)
        return (yield from self._write_one(request, timeout_s))

    def delete(self, key: Key, *, w: Any, timeout: Any, context: Any = None) -> Steps[WriteResult]:
        """Write a tombstone."""
        timeout_s = check_timeout(timeout)
        request = self._seen(self.delete_request([key], w, timeout_s), context)
        return (yield from self._write_one(request, timeout_s))

    def _seen(self, request: f.WriteMany, context: Any) -> f.WriteMany:
        """Return the request of one write with its context. Raises ``InvalidContext``."""
        if context is None:
            return request
        ((key, body, _),) = request.items
        return msgspec.structs.replace(request, items=[(key, body, unseal(context, self._place(key)))])

    def _write_one(self, request: f.WriteMany, timeout_s: float) -> Steps[WriteResult]:
        ((item,),) = yield from self._send_writes([request], timeout_s)
        if isinstance(item, RaykvError):
            raise item
        return item

    def _send_writes(
        self, requests: list[f.WriteMany], timeout_s: float
    ) -> Steps[list[list[WriteResult | RaykvError]]]:
        """Send writes; return one result for each item of each.

        A request whose deadline had passed at the coordinator had no effect, and the answer carries the coordinator's
        time: the request is sent again.
        """
        clock = self._session_clock
        until_s = clock.now_s() + timeout_s
        settled: list[list[WriteResult | RaykvError]] = [[] for _ in requests]
        waiting = list(range(len(requests)))
        for _ in range(_TRIES_WHEN_LATE):
            left_s = until_s - clock.now_s()
            if not waiting or left_s <= 0:
                break
            # A request of a later window may wait for all earlier ones.
            dated = [
                clock.dated(requests[at], until_s + timeout_s * (position // WINDOW))
                for position, at in enumerate(waiting)
            ]
            answers = yield Exchange(dated, left_s, repeatable=False)
            late = []
            for at, answer in zip(waiting, answers, strict=True):
                clock.note(answer)
                if isinstance(answer, f.DeadlinePassed):
                    late.append(at)
                settled[at] = self._settle_writes(answer, requests[at].items)
            waiting = late
        return settled

    def _settle_writes(self, answer: Answer, items: list[Item]) -> list[WriteResult | RaykvError]:
        match answer:
            case PeerAbsent():
                absent = f"nothing was written: no coordinator of the store can be reached ({answer}); try again"
                return [StoreUnavailable(absent)] * len(items)
            case PeerFailure() | CorruptData():
                return _unknown(items, f"the coordinator did not answer ({answer})")
            case f.Refused():
                return [answer.failed.error()] * len(items)
            case f.DeadlinePassed():
                error = StoreUnavailable(_DEADLINE_PASSED)
                return [error] * len(items)
            case f.WroteMany() if len(answer.items) == len(items):
                return self._written(answer, items)
        return _unknown(items, UNEXPECTED)

    def _written(self, answer: f.WroteMany, items: list[Item]) -> list[WriteResult | RaykvError]:
        store_id, bucket_id = self.store_id, self.bucket_id
        known: dict[int, tuple[str, ...]] = {}  # most items of a batch share one list
        results: list[WriteResult | RaykvError] = []
        for result, (key, _, _) in zip(answer.items, items, strict=True):
            if isinstance(result, f.Failed):
                results.append(result.error())
                continue
            acks = known.get(id(result.nodes))
            if acks is None:
                acks = known[id(result.nodes)] = tuple(result.nodes)
            context = sealed_when_asked(result.causality, store_id, bucket_id, key)
            results.append(WriteResult(acks, result.operation_id.hex(), context))
        return results


def _unknown(items: list[Item], why: str) -> list[WriteResult | RaykvError]:
    cause = (
        f"the outcome of the write is unknown: {why}. It may stand, and may surface later; read the key, then decide"
    )
    return [WriteOutcomeUnknown(cause, operation_id=body[:OPERATION_ID_BYTES].hex(), acks=[]) for _, body, _ in items]
