"""What a plain call of a coordinator's Ray actor handle brings, and how ``store.decode`` reads it."""

from __future__ import annotations

from typing import Any

from raykv.client.codecs import decode_value
from raykv.client.exchange import unexpected
from raykv.client.writes import WriteResult
from raykv.errors import BatchError, RaykvError
from raykv.protocol import frames as f
from raykv.versions.context import seal


def decode_handed(frame: bytes) -> Any:
    """Return what a plain call of the coordinator's handle brought, or raise its error."""
    handed = f.handed_answers.decode(frame)
    answer = handed.answer
    if isinstance(answer, f.Refused):
        raise answer.failed.error()
    results: dict[int, Any] = {}
    failed: dict[int, RaykvError] = {}
    if not isinstance(answer, f.GotMany | f.WroteMany):
        raise unexpected()
    if isinstance(answer, f.WroteMany) and len(answer.items) != len(handed.places):
        raise unexpected()
    for index, item in enumerate(answer.items):
        try:
            if isinstance(item, f.Failed):
                raise item.error()
            if isinstance(item, f.Acked):
                results[index] = WriteResult(
                    tuple(item.nodes), item.operation_id.hex(), seal(item.causality, handed.places[index])
                )
            else:
                found = f.whole(item)
                there = found.payloads and not found.gone
                results[index] = decode_value(found.payloads[0], handed.codec) if there else None
        except RaykvError as error:
            failed[index] = error
    count = len(answer.items)
    if handed.single and count == 1:
        if failed:
            raise failed[0]
        return results[0]
    if failed:
        raise BatchError(
            f"{len(failed)} of {count} items failed (.errors has them, .results has the others); the first: "
            f"{next(iter(failed.values()))}",
            results,
            failed,
        )
    return [results[index] for index in range(count)]
