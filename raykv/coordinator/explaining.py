"""One operation, carried out and explained: whom it asked, what they answered, when, and what each looked into.

The operation runs as ever, fast path and all, on a coordinator that differs from the usual one in its transport alone
(``Coordinator.beside``): that one wraps each request to a node in an ``ExplainRequest``, and notes what goes out and comes
in. Operations that nobody asks about therefore pay nothing.

The figures of ``OperationExplained``, plain data::

    operation   "get", "write", "change", "scan"
    bucket, versioning, n, level                level: R or W
    key, keys                                   the first key (encoded), and how many there are
    token, partition, partitions, epoch         where the first key lies: the token as 16 hexadecimal digits
    owners, hosts                               its owners in order; node id -> host
    moving                                      its owners before and after, while its partition moves; else empty
    leader                                      of a linearizable bucket's partition; empty if unknown
    took_ms                                     until the operation was done
    outcome                                     in words
    requests                                    in the order sent, also those that no answer was awaited of

A request::

    node_id, kind, why      why: "" or "hedge" (another is slow), "another copy" (another could not answer), "asked again"
                            (the fast path gave up), "read repair", "hint"
    sent_ms, answered_ms    since the beginning; answered_ms is None if no answer came in time
    answer                  in words
    digest                  of the record in the answer: equal where copies agree; empty if there is none
    node                    how the node answered: see ``raykv.node.explaining``; empty if it did not say
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_hexdigest

from raykv.config import check_timeout
from raykv.coordinator.driver import Driver, posting
from raykv.errors import CorruptData, InvalidOption, RaykvError
from raykv.ports import PeerFailure
from raykv.protocol import changes
from raykv.protocol import frames as f
from raykv.records.kinds import is_linear
from raykv.records.linear_record import term_number, term_of
from raykv.ring import TOKEN_BITS, token_in
from raykv.versions import shown

if TYPE_CHECKING:
    from raykv.coordinator.coordinator import Coordinator
    from raykv.ports import Clock, Transport

LATE_S = 0.25
"""How long to wait for answers that the operation itself does not wait for."""
_LOOK_S = 0.005
MAX_REQUESTS = 500
"""Requests of one operation that are noted; further ones go out as ever."""
_NODE = "node/"
_READS = (f.Read, f.ReadHeads, f.Scan)
_STATUS = {
    changes.DONE: "done", changes.CONFLICT: "conflict", changes.FENCED: "fenced", changes.NO_NUMBER: "stands no number",
    changes.OUT_OF_RANGE: "the sum is out of range", changes.TOO_LARGE: "too large", changes.STALE: "stale",
    changes.LATE: "came too late", changes.ELSEWHERE: "another node leads", changes.NO_QUORUM: "no majority answered",
    changes.UNABLE: "cannot lead", changes.HINT: "a hint of what stands",
}  # fmt: skip


class Explaining:
    """Explains operations of one coordinator."""

    def __init__(self, coordinator: Coordinator, transport: Transport, clock: Clock) -> None:
        self._coordinator = coordinator
        self._transport = transport
        self._clock = clock

    async def explain(self, request: f.ExplainOperation) -> f.OperationExplained:
        """Carry out the other request. Its error is its answer. Raises ``InvalidOption``, ``CorruptData``."""
        inner = f.coordinator_requests.decode(request.frame)
        if not isinstance(inner, f.GetMany | f.WriteMany | f.ChangeMany | f.ScanPage):
            raise InvalidOption("only reads, writes, changes and scans are explained")
        usual, clock = self._coordinator.routing, self._clock
        await usual.state(check_timeout(request.timeout_s))
        trace = _Trace(self._transport, clock, inner)
        coordinator = self._coordinator.beside(trace)
        routing = coordinator.routing
        steps = coordinator.operation(inner, fast=True)
        assert steps is not None
        answer: f.CoordinatorAnswer
        try:
            answer = await Driver(routing, posting(trace, clock, routing.tasks), clock).run(steps)
        except RaykvError as error:
            answer = f.Refused(f.Failed.of(error))
        took_s = clock.monotonic_s() - trace.began_s
        until_s = clock.monotonic_s() + LATE_S
        while trace.waiting and clock.monotonic_s() < until_s:
            await clock.sleep(_LOOK_S)
        if routing.known_state is not None:
            usual.learn_state(routing.known_state)
        figures = {
            **_place_of(coordinator, inner),
            "took_ms": _ms(took_s),
            "outcome": _outcome(answer),
            "requests": trace.requests,
        }
        return f.OperationExplained(f.coordinator_answers.encode(answer), figures)


class _Trace:
    """A transport that has nodes explain their answers, and notes all requests to them."""

    def __init__(self, transport: Transport, clock: Clock, request: f.CoordinatorRequest) -> None:
        self._transport = transport
        self._clock = clock
        self._reads = isinstance(request, f.GetMany | f.ScanPage)
        self._level = request.r if isinstance(request, f.GetMany) and len(request.keys) == 1 else MAX_REQUESTS
        """How many nodes are asked at first, where that is known."""
        self.began_s = clock.monotonic_s()
        self.requests: list[dict[str, Any]] = []
        self.waiting = 0
        """Requests without an answer."""

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``."""
        body = f.node_requests.decode(frame).body if peer.startswith(_NODE) else None
        if body is None or isinstance(body, f.Ping | f.AcceptState) or len(self.requests) >= MAX_REQUESTS:
            return await self._transport.call(peer, frame, timeout_s)
        node_id = peer.removeprefix(_NODE)
        entry: dict[str, Any] = {
            "node_id": node_id,
            "kind": type(body).__name__,
            "why": self._why(node_id, body),
            "sent_ms": self._ms(),
            "answered_ms": None,
            "answer": "no answer in time",
            "digest": "",
            "node": {},
        }
        self.requests.append(entry)
        self.waiting += 1
        wrapped = f.node_requests.encode(f.NodeRequest(0, f.ExplainRequest(frame)))
        try:
            answer = await self._transport.call(peer, wrapped, timeout_s)
        except PeerFailure as failure:
            entry["answered_ms"], entry["answer"] = self._ms(), f"failed: {failure}"
            raise
        finally:
            self.waiting -= 1
        entry["answered_ms"] = self._ms()
        try:
            outer = f.node_answers.decode(answer).body
            if isinstance(outer, f.RequestExplained):
                answer, entry["node"] = outer.frame, outer.figures
                outer = f.node_answers.decode(answer).body
            entry["answer"], entry["digest"] = _said(outer, self._clock.wall_ms())
        except CorruptData as error:  # the operation finds that too
            entry["answer"] = f"not understood: {error}"
        return answer

    def _ms(self) -> float:
        return _ms(self._clock.monotonic_s() - self.began_s)

    def _why(self, node_id: str, body: f.NodeRequestBody) -> str:
        if isinstance(body, f.Hint):
            return "hint"
        if self._reads and isinstance(body, f.Write):
            return "read repair"
        if not isinstance(body, _READS):
            return ""
        kind = type(body).__name__
        before = [entry for entry in self.requests if entry["kind"] == kind]
        if any(entry["node_id"] == node_id for entry in before):
            return "asked again"
        if len(before) < self._level:
            return ""
        if any(entry["answered_ms"] is None for entry in before):
            return "hedge"
        return "another copy" if before else ""


def _ms(duration_s: float) -> float:
    return round(duration_s * 1000, 3)


def _place_of(coordinator: Coordinator, request: f.CoordinatorRequest) -> dict[str, Any]:
    """Return what the request is about, and where its first key lies."""
    routing = coordinator.routing
    state, entry = routing.present, routing.known_bucket(request.bucket_id)  # type: ignore[union-attr]  # one of four
    keys, level, name = _keys_of(request)
    figures: dict[str, Any] = {
        "operation": name, "bucket": "", "versioning": "", "n": 0, "level": level, "key": keys[0] if keys else b"",
        "keys": len(keys), "epoch": state.epoch, "token": "", "partition": -1, "partitions": state.ring.partitions,
        "owners": [], "hosts": {}, "moving": [], "leader": "",
    }  # fmt: skip
    if entry is None:
        return figures
    config = entry.config
    figures |= {"bucket": config.name, "versioning": config.versioning, "n": config.n}
    if not keys:
        return figures
    partition, n = place = routing.place(config, keys[0])
    sets = state.write_sets(partition, n)
    owners = state.holders(partition, n)
    hosts = {member.node_id: member.host for member in state.ring.members}
    leader = coordinator.leader_of(place) if config.versioning == "linearizable" else None
    return figures | {
        "token": f"{token_in(config, keys[0]):0{TOKEN_BITS // 4}x}",
        "partition": partition,
        "owners": list(owners),
        "hosts": {node_id: hosts.get(node_id, "") for node_id in owners},
        "moving": [list(nodes) for nodes in sets] if len(sets) > 1 else [],
        "leader": leader or "",
    }


def _keys_of(request: f.CoordinatorRequest) -> tuple[list[bytes], int, str]:
    """Return the request's keys, its level, and what to call it."""
    match request:
        case f.GetMany():
            return request.keys, request.r, "get"
        case f.WriteMany():
            return [key for key, _, _ in request.items], request.w, "write"
        case f.ChangeMany():
            return [change.key for change in request.items], 0, "change"
        case f.ScanPage():
            return [], request.r, "scan"
    return [], 0, type(request).__name__


def _said(body: f.NodeAnswerBody, now_ms: int) -> tuple[str, str]:
    """Return a node's answer in words, and the digest of the record in it."""
    match body:
        case f.ReadDone(records=[record]) | f.HeadsRead(records=[record]):
            return _of_record(record, now_ms), "" if record is None else xxh3_64_hexdigest(record)[:8]
        case f.ReadDone() | f.HeadsRead():
            there = sum(record is not None for record in body.records)
            return f"{there} of {len(body.records)} records", ""
        case f.DotsReserved(items=[item]) if item is not None:
            dot = f"dot {item.actor.hex()[:8]}:{item.counter}, " if item.counter else ""
            return f"{dot}{_count(item.siblings, 'version')} there", ""
        case f.WriteDone():
            kept = sum(not newer for newer in body.newer)
            return "durable" if kept == len(
                body.newer
            ) else f"{kept} of {len(body.newer)} durable: it has newer, or no room", ""
        case f.ScanDone():
            return _count(len(body.items), "record"), ""
        case f.Applied(items=[settled]):
            return _of_settled(settled), ""
        case f.Applied():
            return _count(len(body.items), "change"), ""
        case f.NotOwner():
            return "knows of other owners", ""
        case f.Incomplete():
            return f"incomplete: {body.reason}", ""
        case f.NodeRefused():
            return f"refused ({body.reason}): {body.message}", ""
    return type(body).__name__, ""


def _of_settled(settled: f.Settled) -> str:
    said = _STATUS.get(settled.status, f"status {settled.status}")
    if settled.status == changes.ELSEWHERE:
        said = f"node {settled.leader} leads" if settled.leader else said
    term = f", term {term_number(settled.version[:16])}" if len(settled.version) >= 16 else ""
    return said + term


def _of_record(record: bytes | None, now_ms: int) -> str:
    if record is None:
        return "absent"
    try:
        found = shown(record, now_ms).payloads
    except CorruptData:
        return f"an unreadable record of {len(record)} bytes"
    term = f", term {term_number(term_of(record))}" if is_linear(record) else ""
    if not found:
        return f"deleted or expired{term}"
    return f"{_count(len(found), 'version')}, {len(record)} bytes{term}"


def _outcome(answer: f.CoordinatorAnswer) -> str:
    match answer:
        case f.GotMany(items=[item]):
            return _of_item(item)
        case f.WroteMany(items=[f.Acked() as acked]):
            return f"acknowledged by {', '.join(acked.nodes)}"
        case f.WroteMany(items=[f.Failed() as failed]) | f.ChangedMany(items=[f.Failed() as failed]):
            return f"{failed.name}: {failed.message}"
        case f.ChangedMany(items=[f.Settled() as settled]):
            return _of_settled(settled)
        case f.GotMany() | f.WroteMany() | f.ChangedMany():
            return _count(len(answer.items), "item")
        case f.Page():
            return _count(len(answer.items), "pair")
        case f.Refused():
            return f"{answer.failed.name}: {answer.failed.message}"
        case f.DeadlinePassed():
            return "came too late"
    return type(answer).__name__


def _of_item(item: bytes | f.KeyVersions | f.Failed) -> str:
    if isinstance(item, f.Failed):
        return f"{item.name}: {item.message}"
    found = f.whole(item).payloads
    return _count(len(found), "version") if found else "absent"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
