"""Changes of one key of a linearizable bucket: conditional writes, and arithmetic at the data.

Every change is carried out once, however often it has to be sent: it has a lane and a number (``lanes``). A change whose
outcome stays unknown raises ``WriteOutcomeUnknown``, and may still come into effect once.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from raykv.client.exchange import UNEXPECTED, WINDOW, Exchange, ask, unexpected
from raykv.client.given import called
from raykv.client.reads import Reads
from raykv.client.version import Version, Versioned
from raykv.client.writes import WriteResult
from raykv.config import check_timeout, shown
from raykv.errors import (
    Conflict,
    CorruptData,
    InvalidOption,
    Overloaded,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.ports import PeerAbsent, PeerFailure
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.keys import Key, encode_key
from raykv.records.limits import MAX_CHANGE_S
from raykv.records.linear_record import MAX_FENCE
from raykv.versions.causality import NOTHING_SEEN
from raykv.versions.context import sealed_when_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.client.exchange import Answer, Steps
    from raykv.client.lanes import Lane

T = TypeVar("T")

RESEND_PAUSE_S = 0.05
LEAST_S = 0.02
"""An update that others have kept from being first sends nothing in the last moment: its outcome would not be known."""
PATIENT_CONFLICTS = 2
"""After as many conflicts an ``update`` waits for its turn."""
CONTENDED_S = 1.0
"""How long a handle takes a key for contended."""
MOST_CONTENDED = 1000
NO_CONTEXT = sealed_when_asked(NOTHING_SEEN, "", 0, b"")
"""Of a linearizable bucket, whose values have none: of no key, and so refused everywhere."""


class Atomic(Reads):
    """The changes of one bucket."""

    @property
    def linearizable(self) -> bool:
        """Whether the bucket takes changes."""
        return self.config.versioning == "linearizable"

    # ---- reads ----

    def get_versioned(self, key: Key, *, timeout: Any) -> Steps[Versioned[Any]]:
        """Read a value with its version."""
        self.refuse_elsewhere("get_versioned")
        timeout_s = check_timeout(timeout)
        found = f.whole((yield from self.find(self.read_request([key], None, timeout_s, causality=True), timeout_s)))
        value = self._decode(key, found.payloads[0], self.config.codec) if found.payloads else None
        return Versioned(value, Version(found.causality))

    # ---- changes ----

    def put_if(
        self, key: Key, value: Any, *, if_absent: Any = False, if_version: Any = None, fence: Any = None, timeout: Any
    ) -> Steps[WriteResult]:
        """Write a value, if the condition holds."""
        change = self.put_change(key, value, if_absent=if_absent, if_version=if_version, fence=fence)
        return (yield from self._result_of(key, change, timeout))

    def put_change(
        self, key: Key, value: Any, *, if_absent: Any = False, if_version: Any = None, fence: Any = None
    ) -> f.Change:
        """Return the change that writes a value."""
        encoded = encode_key(key)
        return f.Change(
            encoded, c.PUT, self._payload(encoded, value), condition=_condition(if_absent, if_version),
            fence=_fence(fence),
        )  # fmt: skip

    def delete_if(self, key: Key, *, if_version: Any = None, fence: Any = None, timeout: Any) -> Steps[WriteResult]:
        """Delete a key, if the condition holds."""
        change = self.delete_change(key, if_version=if_version, fence=fence)
        return (yield from self._result_of(key, change, timeout))

    def delete_change(self, key: Key, *, if_version: Any = None, fence: Any = None) -> f.Change:
        """Return the change that deletes a key."""
        return f.Change(encode_key(key), c.DELETE, condition=_condition(False, if_version), fence=_fence(fence))

    def count(self, key: Key, kind: int, amount: Any, *, timeout: Any) -> Steps[int]:
        """Add to a cell, or raise or lower it; return what it holds then."""
        change = self.count_change(key, kind, amount)
        settled, _ = yield from self._change_one(key, change, check_change_timeout(timeout))
        return int(self._decode(key, settled.payload or b"", self.config.codec))

    def count_change(self, key: Key, kind: int, amount: Any) -> f.Change:
        """Return the change of a cell."""
        name = ("", "", "", "add", "max", "min")[kind]
        self.refuse_elsewhere(name)
        if self.config.codec == "raw":
            raise InvalidOption(f"{name} needs a number, and a bucket with codec='raw' stores bytes only")
        return f.Change(encode_key(key), kind, c.cell(whole_number_of(name, amount)))

    def swap(self, key: Key, value: Any, *, timeout: Any) -> Steps[Any]:
        """Write a value; return the one before it."""
        change = self.swap_change(key, value)
        settled, _ = yield from self._change_one(key, change, check_change_timeout(timeout))
        return None if settled.payload is None else self._decode(key, settled.payload, self.config.codec)

    def swap_change(self, key: Key, value: Any) -> f.Change:
        """Return the change that writes a value and brings the one before it."""
        self.refuse_elsewhere("swap")
        encoded = encode_key(key)
        return f.Change(encoded, c.SWAP, self._payload(encoded, value))

    def update(self, key: Key, change: Callable[[Any], Any], default: Any, *, timeout: Any) -> Steps[Any]:
        """Read, apply, and write on condition that nothing else was written; again until it holds."""
        timeout_s = self.check_update(change, timeout)
        applied = functools.partial(self.applied, key, encode_key(key), change, default)
        return (yield from self.replace(key, applied, timeout_s))

    def check_update(self, change: Any, timeout: Any) -> float:
        """Return an update's time-out. Raises ``InvalidOption`` for what cannot be one."""
        self.refuse_elsewhere("update")
        if not callable(change):
            raise InvalidOption(f"update takes a function of the current value; got {shown(change)}")
        return check_change_timeout(timeout)

    def applied(
        self, key: Key, encoded: bytes, change: Callable[[Any], Any], default: Any, payload: bytes | None
    ) -> tuple[Any, bytes]:
        """Return what an update makes of what stands, and its payload. Raises the caller's errors."""
        present = default if payload is None else self._decode(key, payload, self.config.codec)
        value = called(change, present)
        return value, self._payload(encoded, value)

    def never_first(self, key: Key, timeout_s: float, version: bytes = b"", payload: bytes | None = None) -> RaykvError:
        """Return the error of an update that others kept from being first for all of its time."""
        stands = f.Settled(c.CONFLICT, version, payload)
        how = f"for all of the {timeout_s:g} s"
        return refusal(key, stands, lambda kept: self._decode(key, kept, self.config.codec), how=how)

    @staticmethod
    def too_late(key: Key, timeout_s: float) -> StoreUnavailable:
        """Return the error of an update that was not sent, for its time was over."""
        return StoreUnavailable(
            f"nothing was written: the {timeout_s:g} s were over before the new value of {shown(key)} could be sent"
        )

    def replace(self, key: Key, applied: Callable[[bytes | None], tuple[T, bytes]], timeout_s: float) -> Steps[T]:
        """Write what ``applied(payload)`` makes of what stands; return what it returned beside the new payload."""
        until_s = self._session_clock.now_s() + timeout_s
        encoded, lane = encode_key(key), self._lanes.take()
        conflicts = PATIENT_CONFLICTS if self._is_contended(encoded) else 0
        payload: bytes | None = None
        version, known, certain, refused = b"", False, False, False
        while True:
            left_s = until_s - self._session_clock.now_s()
            if left_s <= 0:
                raise self.never_first(key, timeout_s, version, payload)
            if not known:
                payload, version, certain = yield from self._present(encoded, lane, left_s, conflicts)
            try:
                value, new = applied(payload)
            except Exception:
                if certain:
                    raise
                known, conflicts = False, 0  # what it failed on may never have been: it gets what certainly stands
                continue
            left_s = until_s - self._session_clock.now_s()
            if refused and left_s < LEAST_S:
                raise self.never_first(key, timeout_s, version, payload)
            if left_s <= 0:  # the read, or the caller's function, took all of it
                raise self.too_late(key, timeout_s)
            put = f.Change(encoded, c.PUT, new, condition=b"" if payload is None else version)
            ((settled,),) = yield from self._send_changes([[put]], left_s, lane)
            if isinstance(settled, RaykvError):
                raise settled
            if settled.status != c.CONFLICT:
                self._lanes.give_back(lane)
                self._judge(key, settled, put.condition)
                return value
            conflicts, refused = conflicts + 1, True
            payload, version, certain = settled.payload, settled.version, True
            known = conflicts < PATIENT_CONFLICTS
            if not known:
                self._note_contended(encoded)

    def _present(
        self, key: bytes, lane: Lane, timeout_s: float, conflicts: int
    ) -> Steps[tuple[bytes | None, bytes, bool]]:
        """Return what stands, its version, and whether that is certain; where others write too, in this lane's turn."""
        if conflicts >= PATIENT_CONFLICTS:
            read = f.Change(key, c.READ, lane=lane.name, turn=True)
            answer = yield from ask(f.ChangeMany(self.bucket_id, [read], timeout_s), timeout_s)
            if not isinstance(answer, f.ChangedMany) or len(answer.items) != 1:
                raise unexpected()
            (item,) = answer.items
            if isinstance(item, f.Failed):
                raise item.error()
            return item.payload, item.version, item.status == c.DONE
        request = f.GetMany(self.bucket_id, [key], self.config.r, timeout_s, True)
        found = f.whole((yield from self.find(request, timeout_s)))
        return (found.payloads[0] if found.payloads else None), found.causality, True

    def _is_contended(self, key: bytes) -> bool:
        """Whether others were writing the key a moment ago: a first try would be in vain."""
        return self._contended.get(key, 0.0) > self._session_clock.now_s()

    def _note_contended(self, key: bytes) -> None:
        if len(self._contended) >= MOST_CONTENDED:
            self._contended.clear()
        self._contended[key] = self._session_clock.now_s() + CONTENDED_S

    def put_many_if(
        self, pairs: dict[Any, Any], *, if_absent: bool, timeout: Any
    ) -> Steps[list[WriteResult | RaykvError]]:
        """Write pairs; return what became of each, in their order."""
        condition = b"" if if_absent else None
        items = []
        for key, value in pairs.items():
            encoded = encode_key(key)
            items.append(f.Change(encoded, c.PUT, self._payload(encoded, value), condition=condition))
        return (yield from self._change_many([*pairs], items, timeout))

    def delete_many_if(self, keys: Sequence[Key], *, timeout: Any) -> Steps[list[WriteResult | RaykvError]]:
        """Delete keys; return what became of each, in their order."""
        items = [f.Change(encode_key(key), c.DELETE) for key in keys]
        return (yield from self._change_many(keys, items, timeout))

    # ---- sending ----

    def _result_of(self, key: Key, change: f.Change, timeout: Any) -> Steps[WriteResult]:
        settled, name = yield from self._change_one(key, change, check_change_timeout(timeout))
        return WriteResult((), name, NO_CONTEXT, Version(settled.version))

    def _change_one(self, key: Key, change: f.Change, timeout_s: float) -> Steps[tuple[f.Settled, str]]:
        """Carry out a change; return its answer, and its name. Raises what it means."""
        (settled,), name = yield from self.carry_out([change], timeout_s)
        if isinstance(settled, RaykvError):
            raise settled
        self._judge(key, settled, change.condition)
        return settled, name

    def _change_many(
        self, keys: Sequence[Any], items: list[f.Change], timeout: Any
    ) -> Steps[list[WriteResult | RaykvError]]:
        settled, name = yield from self.carry_out(items, check_change_timeout(timeout))
        results: list[WriteResult | RaykvError] = []
        for key, change, each in zip(keys, items, settled, strict=True):
            if isinstance(each, RaykvError):
                results.append(each)
                continue
            try:
                self._judge(key, each, change.condition)
                results.append(WriteResult((), name, NO_CONTEXT, Version(each.version)))
            except RaykvError as error:
                results.append(error)
        return results

    def carry_out(self, items: list[f.Change], timeout_s: float) -> Steps[tuple[list[f.Settled | RaykvError], str]]:
        """Send changes as one call of a lane; return what became of each, and the call's name."""
        lane = self._lanes.take()
        settled = [each for chunk in (yield from self._send_changes(_chunks(items), timeout_s, lane)) for each in chunk]
        name = f"{lane.name.hex()}-{lane.last}"
        self._lanes.give_back(lane)
        return settled, name

    def _send_changes(
        self, chunks: list[list[f.Change]], timeout_s: float, lane: Lane
    ) -> Steps[list[list[f.Settled | RaykvError]]]:
        """Send changes as the lane's next call, again under the same number where no answer comes."""
        clock, number = self._session_clock, lane.next()
        until_s = clock.now_s() + timeout_s
        requests = [
            f.ChangeMany(
                self.bucket_id,
                [msgspec.structs.replace(change, lane=lane.name, number=number) for change in chunk],
                timeout_s,
            )
            for chunk in chunks
        ]
        not_sent = StoreUnavailable(f"nothing was written: the time-out of {timeout_s:g} s was over before it was sent")
        settled: list[list[f.Settled | RaykvError]] = [[not_sent] * len(chunk) for chunk in chunks]
        sent: set[int] = set()
        waiting = [*range(len(requests))]
        pause_s = 0.0
        while waiting:
            left_s = until_s - clock.now_s()
            if left_s <= pause_s:
                break
            dated = [
                clock.dated_change(
                    _resent(requests[at]) if at in sent else requests[at], until_s + timeout_s * (position // WINDOW)
                )
                for position, at in enumerate(waiting)
            ]
            answers = yield Exchange(dated, left_s, repeatable=False, pause_s=pause_s)
            again = []
            for at, answer in zip(waiting, answers, strict=True):
                clock.note(answer)
                outcome = self._settled(answer, len(chunks[at]), was_sent=at in sent)
                if isinstance(answer, f.DeadlinePassed):
                    again.append(at)
                elif isinstance(answer, PeerFailure) and not isinstance(answer, PeerAbsent):
                    sent.add(at)
                    again.append(at)
                settled[at] = outcome
            waiting, pause_s = again, RESEND_PAUSE_S if again else 0.0
        lane.settled = not sent and all(map(is_settled, itertools.chain.from_iterable(settled)))
        return settled

    def _settled(self, answer: Answer, items: int, *, was_sent: bool) -> list[f.Settled | RaykvError]:
        """Return what an answer says of each change."""
        match answer:
            case f.ChangedMany() if len(answer.items) == items:
                return [
                    _failed(item.error(), was_sent=was_sent) if isinstance(item, f.Failed) else item
                    for item in answer.items
                ]
            case f.Refused() if not was_sent:
                return [answer.failed.error()] * items
            case f.DeadlinePassed() if not was_sent:
                return [StoreUnavailable("nothing was written: the request reached the coordinator too late")] * items
            case PeerAbsent() if not was_sent:
                absent = f"nothing was written: no coordinator of the store can be reached ({answer}); try again"
                return [StoreUnavailable(absent)] * items
        why = f"the coordinator did not answer ({answer})" if isinstance(answer, PeerFailure) else UNEXPECTED
        if isinstance(answer, CorruptData):
            why = str(answer)
        return [
            WriteOutcomeUnknown(
                f"the outcome of the change is unknown: {why}. It may stand, or surface later; read the key, then decide",
                acks=[],
            )
        ] * items

    def _judge(self, key: Key, settled: f.Settled, condition: bytes | None) -> None:
        if settled.status != c.DONE:
            raise refusal(key, settled, lambda payload: self._decode(key, payload, self.config.codec), condition)

    def refuse_elsewhere(self, what: str) -> None:
        """Raise ``InvalidOption`` where an operation has no meaning: in all other buckets."""
        if not self.linearizable:
            raise InvalidOption(
                f"{what} needs a linearizable bucket, and {self.config.name!r} is {self.config.versioning}: "
                'store.bucket(name, versioning="linearizable")'
            )


def refusal(
    key: Key, settled: f.Settled, decode: Callable[[bytes], Any], condition: bytes | None = None, how: str = ""
) -> RaykvError:
    """Return the error of a change that was refused; nothing was written.

    ``condition``: the change's. ``how``: of an update, how others kept it from being first.
    """
    match settled.status:
        case c.CONFLICT | c.FENCED:
            value = None if settled.payload is None else decode(settled.payload)
            if settled.status == c.FENCED:
                what = "has seen a later fencing token; this holder's lock is lost"
            elif how:
                what = f"was changed by others {how}"
            elif settled.payload is None:
                what = "has no value, and the condition is a version of one"
            else:
                what = "has a value" if condition == b"" else "has another version than the condition"
            return Conflict(
                f"nothing was written: {shown(key)} {what}", key=key, version=Version(settled.version), value=value
            )
        case c.NO_NUMBER:
            return InvalidOption(f"nothing was written: what stands under {shown(key)} is no 64-bit integer")
        case c.OUT_OF_RANGE:
            return InvalidOption(f"nothing was written: {shown(key)} would exceed 64 bits")
        case c.TOO_LARGE:
            return Overloaded(f"nothing was written: too many callers have changed {shown(key)} in the last seconds")
        case c.STALE:
            return WriteOutcomeUnknown("the outcome of the change is not known any more; read the key", acks=[])
    return unexpected()


def check_change_timeout(timeout: Any) -> float:
    """Return a change's time-out: its receipts are kept no longer (L12). Raises ``InvalidOption``."""
    timeout_s = check_timeout(timeout)
    if timeout_s > MAX_CHANGE_S:
        raise InvalidOption(
            f"a change of a linearizable bucket takes {MAX_CHANGE_S:g} s at most; got timeout={timeout_s:g}"
        )
    return timeout_s


def _condition(if_absent: Any, if_version: Any) -> bytes | None:
    if not isinstance(if_absent, bool):
        raise InvalidOption(f"if_absent must be True or False; got {shown(if_absent)}")
    if if_version is None:
        return b"" if if_absent else None
    if if_absent:
        raise InvalidOption("if_absent and if_version exclude each other")
    if isinstance(if_version, bytes):
        if_version = Version(if_version)
    if not isinstance(if_version, Version):
        raise InvalidOption(
            f"if_version must be what get_versioned or a write returned; got {type(if_version).__name__}"
        )
    return bytes(if_version)


def _fence(fence: Any) -> int:
    if fence is None:
        return 0
    token = whole_number_of("fence", fence)
    if not 0 < token <= MAX_FENCE:
        raise InvalidOption(f"a fencing token is a positive number, as held.token; got {shown(token)}")
    return token


def whole_number_of(what: str, given: Any) -> int:
    """Return the argument of ``what`` as an int of 64 bits. Raises ``InvalidOption``."""
    if isinstance(given, bool):
        raise InvalidOption(f"{what} takes a number; got {shown(given)}")
    try:
        number = operator.index(given)
    except TypeError:
        raise InvalidOption(f"{what} takes a whole number; got {shown(given)}") from None
    if not c.LEAST <= number <= c.MOST:
        raise InvalidOption(f"{what} takes a number of at most 64 bits; got {shown(number)}")
    return number


def is_settled(outcome: f.Settled | RaykvError) -> bool:
    """Whether nobody asks for a change any more (L10)."""
    if isinstance(outcome, RaykvError):
        return not isinstance(outcome, WriteOutcomeUnknown)
    return outcome.status != c.STALE and not outcome.unanswered


def _failed(error: RaykvError, *, was_sent: bool) -> RaykvError:
    """Return what an error says of a change. One that ``was_sent`` before may stand, whatever became of this sending."""
    if not was_sent or isinstance(error, WriteOutcomeUnknown):
        return error
    return WriteOutcomeUnknown(
        f"the outcome of the change is unknown: it was sent before, and now {error}. It may stand, or surface later; read "
        "the key, then decide",
        acks=[],
    )


def _resent(request: f.ChangeMany) -> f.ChangeMany:
    items = [msgspec.structs.replace(change, resent=True) for change in request.items]
    return msgspec.structs.replace(request, items=items)


CHUNK_BYTES = 80 * 1024
CHUNK_CHANGES = 250


def _chunks(items: list[f.Change]) -> list[list[f.Change]]:
    """Cut a batch into requests."""
    chunks: list[list[f.Change]] = []
    size_bytes = 0
    for change in items:
        change_bytes = len(change.key) + len(change.payload)
        if not chunks or len(chunks[-1]) >= CHUNK_CHANGES or size_bytes + change_bytes > CHUNK_BYTES:
            chunks.append([])
            size_bytes = 0
        chunks[-1].append(change)
        size_bytes += change_bytes
    return chunks
