"""What a plain call of a coordinator's Ray actor handle brings, and how ``store.decode`` reads it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from raykv.client.atomic import NO_CONTEXT, refusal
from raykv.client.codecs import decode_value
from raykv.client.exchange import unexpected
from raykv.client.version import Version, Versioned
from raykv.client.writes import WriteResult
from raykv.errors import BatchError, RaykvError
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.keys import decode_key
from raykv.versions.context import seal

if TYPE_CHECKING:
    from collections.abc import Callable


def decode_handed(frame: bytes) -> Any:
    """Return what a plain call of the coordinator's handle brought, or raise its error."""
    handed = f.handed_answers.decode(frame)
    if isinstance(handed, f.HandleChanges):
        if len(handed.items) != len(handed.changes):
            raise unexpected()
        return _results([partial(_changed, handed, at) for at in range(len(handed.items))], single=handed.single)
    answer = handed.answer
    if isinstance(answer, f.Refused):
        raise answer.failed.error()
    if isinstance(handed, f.HandleVersioned):
        if not isinstance(answer, f.GotMany) or len(answer.items) != 1:
            raise unexpected()
        return _versioned(answer.items[0], handed.codec)
    if not isinstance(answer, f.GotMany | f.WroteMany):
        raise unexpected()
    if isinstance(answer, f.WroteMany) and len(answer.items) != len(handed.places):
        raise unexpected()
    return _results([partial(_result, handed, at, item) for at, item in enumerate(answer.items)], single=handed.single)


def _results(items: list[Callable[[], Any]], *, single: bool) -> Any:
    """Return what each brings; raise the error of a single one, or ``BatchError``."""
    results: dict[int, Any] = {}
    failed: dict[int, RaykvError] = {}
    for index, item in enumerate(items):
        try:
            results[index] = item()
        except RaykvError as error:
            failed[index] = error
    if single and len(items) == 1:
        if failed:
            raise failed[0]
        return results[0]
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(items)} items failed (.errors has them, .results has the others); the first: "
            f"{next(iter(failed.values()))}",
            results,
            failed,
        )
    return [results[index] for index in range(len(items))]


def _result(handed: f.HandleAnswer, index: int, item: bytes | f.KeyVersions | f.Acked | f.Failed) -> Any:
    if isinstance(item, f.Acked):
        return WriteResult(tuple(item.nodes), item.operation_id.hex(), seal(item.causality, handed.places[index]))
    return _versioned(item, handed.codec).value


def _versioned(item: bytes | f.KeyVersions | f.Failed, codec: str) -> Versioned[Any]:
    """Return a value that was read, with its version where that was asked for."""
    if isinstance(item, f.Failed):
        raise item.error()
    found = f.whole(item)
    if not found.payloads or found.gone:
        return Versioned(None, Version(found.causality))
    return Versioned(decode_value(found.payloads[0], codec), Version(found.causality))


def _changed(handed: f.HandleChanges, index: int) -> Any:
    """Return what a change of a linearizable bucket brought."""
    change, settled = handed.changes[index], handed.items[index]
    if isinstance(settled, f.Failed):
        raise settled.error()
    if settled.status != c.DONE:
        key = decode_key(change.key)
        raise refusal(key, settled, lambda payload: decode_value(payload, handed.codec), change.condition)
    if change.kind in {c.PUT, c.DELETE}:
        return WriteResult((), handed.call, NO_CONTEXT, Version(settled.version))
    return None if settled.payload is None else decode_value(settled.payload, handed.codec)
