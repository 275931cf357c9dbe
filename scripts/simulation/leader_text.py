"""What callers, leaders and owners of linearizable buckets say to each other, in a few words (``message_text``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.client.codecs import decode_value
from raykv.errors import CorruptData
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.linear_record import NO_TERM, STAMP_BYTES, TERM_BYTES, decode, term_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.protocol.changes import Change, Settled

_KINDS = ("read", "put", "delete", "add", "max", "min", "swap")
_STATUSES = {
    c.CONFLICT: "conflict", c.FENCED: "fenced", c.NO_NUMBER: "no number", c.OUT_OF_RANGE: "out of range",
    c.TOO_LARGE: "too large", c.STALE: "stale", c.LATE: "late", c.NO_QUORUM: "no quorum", c.UNABLE: "unable to lead",
}  # fmt: skip


def of_term(term: bytes) -> str:
    """Return a term: its number, and the first digits of what tells it from others of that number.

    >>> of_term(bytes(7) + bytes([3]) + bytes.fromhex("1fa2000000000000"))
    't3~1fa2'
    """
    return "no term" if term in {b"", NO_TERM} else f"t{term_number(term)}~{term[8:10].hex()}"


def of_version(version: bytes) -> str:
    """Return a stamp or version: its term, and its place in it."""
    if len(version) != STAMP_BYTES:
        return "none"
    return f"{of_term(version[:TERM_BYTES])}.{int.from_bytes(version[TERM_BYTES:])}"


def of_payload(payload: bytes | None) -> str:
    """Return a value."""
    if payload is None:
        return "absent"
    try:
        value = decode_value(payload, "msgpack")
    except CorruptData:
        return "some value"
    return value.partition("@")[0].replace("client", "c")[:20] if isinstance(value, str) else f"{value!r:.20}"


def held_linear(record: bytes) -> str:
    """Return a record: what stands, its stamp, the stamp that it was written under if that is another, its receipts."""
    try:
        taken = decode(record)
    except CorruptData as error:
        return f"damaged ({error})"
    value = "deleted" if taken.payload is None else of_payload(taken.payload) if taken.payload else "some value"
    origin = f" of {of_version(taken.origin)}" if taken.origin else ""
    receipts = f" +{len(taken.receipts)} receipts" if len(taken.receipts) > 1 else " +receipt" if taken.receipts else ""
    return f"{value} {of_version(record[1:25])}{origin}{receipts}"


def asked(body: Any) -> tuple[str, list[tuple[bytes, str]]] | None:
    """Return what a request says before its keys, and each key with what is said of it; None if it is of another kind."""
    match body:
        case f.ChangeMany() | f.Apply():
            silent = f" ({', '.join(body.silent)} silent)" if isinstance(body, f.Apply) and body.silent else ""
            early = " for whatever run" if isinstance(body, f.Apply) and not body.run else ""
            return f"change{early}{silent} ", [(change.key, _of_change(change)) for change in body.items]
        case f.ReadHeads():
            return "read heads ", [(key, "") for key in body.keys]
        case f.Look():
            return f"look under {_terms(body.groups)}: ", [(key, "") for _, _, keys in body.groups for key in keys]
        case f.Accept():
            items = [(key, "=" + held_linear(record)) for _, _, some in body.groups for _, key, record in some]
            return f"accept under {_terms(body.groups)}{': ' if items else ''}", items
    return None


def asked_of_terms(body: Any) -> str | None:
    """Return what a request about a partition's term says; None if it is of another kind."""
    match body:
        case f.Promise():
            verb = "still promised" if body.again else "promise"
            return (
                f"{verb} {of_term(body.term)} of partition {body.partition} to {body.leader}{'?' if body.again else ''}"
            )
        case f.ReadPromises():
            return f"what is promised of partition {body.partition}?"
    return None


def answered(body: Any, request: Any) -> list[tuple[bytes, str]] | str | None:
    """Return what is said of each key, or at all; None if the answer is of another kind."""
    match body:
        case f.Applied() | f.ChangedMany() if isinstance(request, f.Apply | f.ChangeMany):
            return [
                (change.key, f": {each.name}" if isinstance(each, f.Failed) else of_settled(change, each))
                for change, each in zip(request.items, body.items, strict=False)
            ]
        case f.HeadsRead() if isinstance(request, f.ReadHeads):
            return [
                (key, f"={_held(record)}, promised {of_term(term)}{', my head' if at in body.heads else ''}")
                for at, (key, record, term) in enumerate(zip(request.keys, body.records, body.terms, strict=False))
            ]
        case f.Looked() if isinstance(request, f.Look):
            return [
                (key, f"={_held(record)}" if not later else f": {of_term(later)} of {leader} is promised")
                for (_, _, keys), (later, leader, records) in zip(request.groups, body.groups, strict=False)
                for key, record in zip(keys, records or [None] * len(keys), strict=False)
            ]
        case f.Accepted():
            later = [f"{of_term(term)} of {leader or 'another'} stands" for term, leader in body.groups if term]
            return ", ".join(later) or "accepted"
        case f.Promised():
            return f"{'granted' if body.granted else 'no:'} {of_term(body.term)} of {body.leader or 'nobody'}"
        case f.PromisesRead():
            return ", ".join(f"{of_term(term)} of {leader}" for _, term, leader in body.items) or "nothing is promised"
    return None


def of_settled(change: Change, settled: Settled) -> str:
    """Return what became of a change."""
    if settled.status == c.ELSEWHERE:
        return f": {settled.leader} leads"
    status = "" if settled.status == c.DONE else f": {_STATUSES.get(settled.status, 'a hint')}"
    shows = change.kind in {c.READ, c.ADD, c.MAXIMUM, c.MINIMUM, c.SWAP} or settled.status == c.CONFLICT
    if settled.status not in {c.DONE, c.CONFLICT}:
        return status
    return f"{status}{f' -> {of_payload(settled.payload)}' if shows else ' done'} at {of_version(settled.version)}"


def _of_change(change: Change) -> str:
    value = f" {of_payload(change.payload)}" if change.payload else ""
    condition = ""
    if change.condition is not None:
        condition = f" if {of_version(change.condition)}" if change.condition else " if absent"
    fence = f" fence {change.fence}" if change.fence else ""
    name = f" [{change.lane[:2].hex()}.{change.number}{' again' if change.resent else ''}]" if change.lane else ""
    return f" {_KINDS[change.kind]}{value}{condition}{fence}{name}"


def _terms(groups: Iterable[tuple[int, bytes, Any]]) -> str:
    return ", ".join(dict.fromkeys(of_term(term) for _, term, _ in groups))


def _held(record: bytes | None) -> str:
    return "absent" if record is None else held_linear(record)
