"""Many keys in one call: cut into requests, and settled item by item (P14).

A batch is refused as a whole, before anything is sent, if one item is malformed. Otherwise every item is settled, and
``BatchError`` reports those that failed beside the results of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raykv.client.codecs import decode_plain
from raykv.client.exchange import Exchange, answered, unanswered
from raykv.client.given import called, pairs_of, several_keys, without_doubles
from raykv.client.reads import Reads, items_of
from raykv.client.writes import WriteResult, Writes
from raykv.config import MIB, check_timeout
from raykv.errors import BatchError, CorruptData, RaykvError
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import Key, encode_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from raykv.client.exchange import Answer, Steps
    from raykv.client.requests import Item
    from raykv.client.session_clock import SessionClock

CHUNK_BYTES = 80 * 1024
"""A batch is sent in requests of about this size: Ray moves larger arguments through its object store, more slowly."""
CHUNK_WRITES = 500
CHUNK_READS = 250
CHUNK_ANSWER_BYTES = 16 * MIB


class Batches(Reads, Writes):
    """Reads and writes many keys."""

    def get_many(self, keys: Iterable[Key], default: Any, *, r: Any, timeout: Any) -> Steps[dict[Any, Any]]:
        """Read keys: ``{key: value}`` in their order, absent ones with ``default``."""
        timeout_s = check_timeout(timeout)
        wanted = called(_wanted, keys)
        encoded = [encode_key(key) for key in wanted]
        replicas = self.check_r(r)
        chunk_keys = max(1, min(CHUNK_READS, CHUNK_ANSWER_BYTES // self.config.pair_bytes))
        chunks = [slice(at, at + chunk_keys) for at in range(0, len(wanted), chunk_keys)]
        requests = [f.GetMany(self.bucket_id, encoded[chunk], replicas, timeout_s) for chunk in chunks]
        taken: dict[int, list[Any]] = {}

        def take(at: int, answer: f.CoordinatorAnswer) -> None:
            values = self._plain_values(answer, len(wanted[chunks[at]]), default)
            if values is not None:
                taken[at] = values

        answers = yield Exchange(requests, timeout_s, repeatable=True, meanwhile=take)
        results: dict[Key, Any] = {}
        errors: dict[Key, RaykvError] = {}
        for at, (chunk, answer) in enumerate(zip(chunks, answers, strict=True)):
            if at in taken:
                self._session_clock.note(answer)
                results.update(zip(wanted[chunk], taken[at], strict=True))
                continue
            settled = _settle(answer, wanted[chunk], timeout_s, self._session_clock)
            for key, item in zip(wanted[chunk], settled, strict=True):
                if isinstance(item, RaykvError):
                    errors[key] = item
                elif isinstance(item, f.Failed):
                    errors[key] = item.error()
                else:
                    try:
                        results[key] = self._value_of(key, item, default)
                    except RaykvError as error:
                        errors[key] = error
        return _batch_result("reads", results, errors)

    def _plain_values(self, answer: f.CoordinatorAnswer, count: int, default: Any) -> list[Any] | None:
        """Return an answer's values; None unless all are plain: unpickling and resolving run users' code."""
        if not isinstance(answer, f.GotMany) or len(answer.items) != count:
            return None
        payloads = [item for item in answer.items if isinstance(item, bytes)]
        try:
            values = decode_plain(payloads, self.config.codec)
        except CorruptData:
            return None
        if values is None:
            return None
        if len(values) == count:
            return values
        if any(
            isinstance(item, f.Failed) or (isinstance(item, f.KeyVersions) and item.payloads) for item in answer.items
        ):
            return None
        there = iter(values)
        return [next(there) if isinstance(item, bytes) else default for item in answer.items]

    def put_many(
        self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]], *, w: Any, ttl: Any, timeout: Any
    ) -> Steps[dict[Any, WriteResult]]:
        """Write pairs; for a repeated key the last pair counts."""
        timeout_s = check_timeout(timeout)
        pairs = called(pairs_of, items)
        return (
            yield from self._write_many(list(pairs), self.write_request(pairs.items(), w, ttl, timeout_s), timeout_s)
        )

    def delete_many(self, keys: Iterable[Key], *, w: Any, timeout: Any) -> Steps[dict[Any, WriteResult]]:
        """Write tombstones."""
        timeout_s = check_timeout(timeout)
        wanted = called(_wanted, keys)
        return (yield from self._write_many(wanted, self.delete_request(wanted, w, timeout_s), timeout_s))

    def _write_many(self, keys: list[Key], request: f.WriteMany, timeout_s: float) -> Steps[dict[Any, WriteResult]]:
        chunks = _chunks(request.items)
        requests = [msgspec.structs.replace(request, items=request.items[chunk]) for chunk in chunks]
        settled = yield from self._send_writes(requests, timeout_s)
        results: dict[Key, Any] = {}
        errors: dict[Key, RaykvError] = {}
        for chunk, items in zip(chunks, settled, strict=True):
            for key, item in zip(keys[chunk], items, strict=True):
                if isinstance(item, RaykvError):
                    errors[key] = item
                else:
                    results[key] = item
        return _batch_result("writes", results, errors)


def _settle(answer: Answer, keys: list[Key], timeout_s: float, session_clock: SessionClock) -> list[Any]:
    """Return one result for each key, whatever happened to the request."""
    try:
        if isinstance(answer, PeerFailure):
            raise unanswered(answer, timeout_s)
        read = answered(answer)
        session_clock.note(read)
        return items_of(read, len(keys))
    except RaykvError as error:
        return [error] * len(keys)


def _wanted(keys: Iterable[Key]) -> list[Key]:
    return without_doubles(several_keys(keys))


def batch_result(
    what: str, keys: Sequence[Any], outcomes: Sequence[WriteResult | RaykvError]
) -> dict[Any, WriteResult]:
    """Return the results by key. Raises ``BatchError`` if any failed (P14)."""
    results: dict[Any, Any] = {}
    errors: dict[Any, RaykvError] = {}
    for key, outcome in zip(keys, outcomes, strict=True):
        if isinstance(outcome, RaykvError):
            errors[key] = outcome
        else:
            results[key] = outcome
    return _batch_result(what, results, errors)


def _batch_result(what: str, results: dict[Key, Any], errors: dict[Key, RaykvError]) -> dict[Key, Any]:
    if errors:
        first = next(iter(errors.values()))
        total = len(results) + len(errors)
        raise BatchError(
            f"{len(errors)} of {total} {what} failed (.errors has them, .results has the others); the first: {first}",
            results,
            errors,
        )
    return results


def _chunks(items: list[Item]) -> list[slice]:
    """Cut a batch into requests of about ``CHUNK_BYTES``."""
    chunks: list[slice] = []
    start = size_bytes = 0
    for index, (key, body, _) in enumerate(items):
        item_bytes = len(key) + len(body)
        if index > start and (size_bytes + item_bytes > CHUNK_BYTES or index - start >= CHUNK_WRITES):
            chunks.append(slice(start, index))
            start, size_bytes = index, 0
        size_bytes += item_bytes
    if items:
        chunks.append(slice(start, len(items)))
    return chunks
