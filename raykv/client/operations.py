"""What each call sends, and what it makes of the answers. No input or output happens here.

An operation is a generator: it yields an ``Exchange`` (requests for the coordinator) and is sent the answers. A driver
runs it, blocking or awaiting (``raykv.client.driver``), so that both faces share every rule: arguments are checked
before anything is sent; a batch is refused as a whole if an item is malformed, else settled item by item (P14); a write
that may have been carried out is never sent twice (P8).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from raykv.client.codecs import TAG_BYTES, Pickle, decode_of, decode_plain, decode_value, encode_value, pickle_plainly
from raykv.client.given import called, pairs_of, several_keys, without_doubles
from raykv.client.session_clock import Memory
from raykv.config import MIB, BucketConfig, check_level, check_timeout, check_ttl, shown
from raykv.errors import (
    BatchError,
    CorruptData,
    InvalidOption,
    PairTooLarge,
    QuorumNotMet,
    RaykvError,
    SiblingsFound,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent
from raykv.protocol import frames as f
from raykv.records.keys import (
    LAST_TAG_END,
    MAX_ENCODED_KEY_BYTES,
    Key,
    after_prefix,
    decode_key,
    encode_bound,
    encode_key,
)
from raykv.records.record import OPERATION_ID_BYTES, pack_body, pack_tombstone_body
from raykv.versions.context import Context, place_of, seal, sealed_when_asked, unseal
from raykv.versions.resolvers import Resolver, is_newest, resolve

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 5.0
CHUNK_BYTES = 80 * 1024
"""A batch is sent in requests of about this size: Ray moves larger arguments through its object store, more slowly."""
CHUNK_WRITES = 500
CHUNK_READS = 250
CHUNK_ANSWER_BYTES = 16 * MIB
PAGE_ITEMS = 1000
PAGE_KEYS = 2000
WINDOW = 6
"""Requests of one batch that are under way at once."""
_TRIES_WHEN_LATE = 3


class Exchange(NamedTuple):
    """Requests to be sent, with what to do when the coordinator fails meanwhile."""

    requests: Sequence[f.CoordinatorRequest]
    timeout_s: float
    repeatable: bool
    """Whether a request may be sent again although the first may have been carried out: true of reads."""
    pause_s: float = 0.0
    """With no requests: how long to wait."""
    meanwhile: f.Meanwhile | None = None


Answer: TypeAlias = f.CoordinatorAnswer | PeerFailure | CorruptData
_Item: TypeAlias = tuple[bytes, bytes, bytes | None]
Steps: TypeAlias = Generator[Exchange, list[Answer], T]


class WriteResult(NamedTuple):
    """An acknowledged write: ``acks`` are the nodes that held it durably by then, ``operation_id`` names it.

    ``context`` stands for what it superseded and itself: a write that gives it back supersedes just that.
    """

    acks: tuple[str, ...]
    operation_id: str
    context: Context


class Versions(NamedTuple, Generic[T]):
    """What stands under a key: the values that nobody superseded, the newest first (none: absent), and their context."""

    values: list[T]
    context: Context


class Page(NamedTuple):
    """A page of a scan: pairs in order, and the bound at which the next page begins (None: the end).

    ``failed``: why the pair behind these, and so what the page holds behind it, is not shown.
    """

    items: list[tuple[Any, Any]]
    resume: bytes | None
    failed: Exception | None = None


class ScanRange(NamedTuple):
    """What is left of a scan: ``start <= encoded key < end``."""

    start: bytes
    end: bytes


class Operations:
    """The operations on one bucket."""

    def __init__(
        self,
        bucket_id: int,
        config: BucketConfig,
        store_id: str = "",
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        memory: Memory | None = None,
        resolver: Resolver = "newest",
        pickled: Pickle = pickle_plainly,
    ) -> None:
        """``random_bytes``: where operation ids are drawn from. ``pickled``: how values are that are not plain."""
        self.bucket_id = bucket_id
        self.config = config
        self.store_id = store_id
        self.resolver = resolver
        self._newest = is_newest(resolver)
        self._pickled = pickled
        self._random_bytes = random_bytes
        self._memory = memory or Memory(time.monotonic)

    def now_s(self) -> float:
        """Seconds by the client's monotonic clock."""
        return self._memory.now_s()

    # ---- reads ----

    def get(self, key: Key, default: Any, *, r: Any, timeout: Any) -> Steps[Any]:
        """Read one key."""
        timeout_s = check_timeout(timeout)
        found = yield from self._find(self.read_request([key], r, timeout_s), timeout_s)
        return self._value_of(key, found, default)

    def get_versions(self, key: Key, *, r: Any, timeout: Any) -> Steps[Versions[Any]]:
        """Read all that stands under one key, and the context."""
        timeout_s = check_timeout(timeout)
        request = self.read_request([key], r, timeout_s, causality=True)
        found = f.whole((yield from self._find(request, timeout_s)))
        values = [decode_of(key, payload, self.config.codec) for payload in found.payloads]
        return Versions(values, seal(found.causality, self._place(request.keys[0])))

    def modify(
        self, key: Key, change: Callable[[Any], Any], default: Any, *, r: Any, w: Any, ttl: Any, timeout: Any
    ) -> Steps[WriteResult]:
        """Read, apply, and write with the context read."""
        timeout_s = check_timeout(timeout)
        if not callable(change):
            raise InvalidOption(f"modify takes a function of the present value; got {shown(change)}")
        check_level("w", self.config.w if w is None else w, self.config.n)
        if ttl is not None:
            check_ttl(ttl)
        until_s = self._memory.now_s() + timeout_s
        request = self.read_request([key], r, timeout_s, causality=True)
        found = f.whole((yield from self._find(request, timeout_s)))
        standing = len(found.payloads) + found.gone  # a delete that is newer stands too, and hides what it has not seen
        if standing > 1 and self._newest:
            raise SiblingsFound(
                f"nothing was written: {standing} versions of {shown(key)} stand side by side, of which modify would drop "
                "all but the newest unseen. Give the handle a resolver (store.bucket(name, resolver=merge)), or merge them: "
                "versions = get_versions(key), then put(key, merged, context=versions.context)",
                key=decode_key(request.keys[0]),
                versions=standing,
            )
        present = self._value_of(key, found, default)
        context = seal(found.causality, self._place(request.keys[0]))
        value = called(change, present)
        left_s = until_s - self._memory.now_s()
        if left_s <= 0:
            raise StoreUnavailable(f"nothing was written: reading and changing took all of the {timeout_s:g} s")
        return (yield from self.put(key, value, context=context, w=w, ttl=ttl, timeout=left_s))

    def _find(self, request: f.GetMany, timeout_s: float) -> Steps[bytes | f.Found]:
        answer = yield from ask(request, timeout_s, self._memory)
        item: bytes | f.Found | f.Failed = _items(answer, f.GotMany, 1)[0]
        if isinstance(item, f.Failed):
            raise item.error()
        return item

    def _value_of(self, key: Key, found: bytes | f.Found, default: Any) -> Any:
        if isinstance(found, bytes):
            return decode_of(key, found, self.config.codec)
        return self._resolved(key, found.payloads) if self._is_there(found) else default

    def _is_there(self, found: bytes | f.Found) -> bool:
        """Whether there is a value: for who asks for the newest, not if that is a delete."""
        return isinstance(found, bytes) or (bool(found.payloads) and not (found.gone and self._newest))

    def _resolved(self, key: Key, payloads: list[bytes]) -> Any:
        codec = self.config.codec
        if len(payloads) == 1 or self._newest:
            return decode_of(key, payloads[0], codec)
        values = [decode_of(key, payload, codec) for payload in payloads]
        try:
            return called(resolve, self.resolver, values)
        except Exception as error:
            error.add_note(f"raykv: the resolver was given the {len(values)} versions of key {shown(key)}")
            raise

    def _place(self, key: bytes) -> bytes:
        return place_of(self.store_id, self.bucket_id, key)

    def contains(self, key: Key, *, r: Any, timeout: Any) -> Steps[bool]:
        """Say whether a key has a value, which is not decoded. A failed read raises: it never means "absent" (P9)."""
        timeout_s = check_timeout(timeout)
        return self._is_there((yield from self._find(self.read_request([key], r, timeout_s), timeout_s)))

    def get_many(self, keys: Iterable[Key], default: Any, *, r: Any, timeout: Any) -> Steps[dict[Any, Any]]:
        """Read keys: ``{key: value}`` in their order, absent ones with ``default``."""
        timeout_s = check_timeout(timeout)
        wanted = called(_wanted, keys)
        encoded = [encode_key(key) for key in wanted]
        replicas = check_level("r", self.config.r if r is None else r, self.config.n)
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
                self._memory.note(answer)
                results.update(zip(wanted[chunk], taken[at], strict=True))
                continue
            settled = _settle(answer, f.GotMany, wanted[chunk], timeout_s, self._memory)
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
        return _batch_result("read", results, errors)

    def _plain_values(self, answer: f.CoordinatorAnswer, count: int, default: Any) -> list[Any] | None:
        """Return the values of an answer; None if there is more to it, or code of others is to run for it."""
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
        if any(isinstance(item, f.Failed) or (isinstance(item, f.Found) and item.payloads) for item in answer.items):
            return None
        there = iter(values)
        return [next(there) if isinstance(item, bytes) else default for item in answer.items]

    def page(
        self,
        left: ScanRange,
        *,
        limit: int | None,
        reverse: bool,
        keys_only: bool,
        r: Any,
        timeout: Any,
        passing: bool = False,
    ) -> Steps[Page]:
        """Read the next page of a scan; ``passing``: over much that is not shown (see ``coordinator.scans``)."""
        timeout_s = check_timeout(timeout)
        replicas = check_level("r", self.config.r if r is None else r, self.config.n)
        request = f.ScanPage(
            self.bucket_id,
            left.start,
            left.end,
            _page_size(limit, keys_only=keys_only),
            bool(reverse),
            keys_only,
            replicas,
            timeout_s,
            passing,
        )
        answer = yield from ask(request, timeout_s)
        if not isinstance(answer, f.Page):
            raise CorruptData("the coordinator gave another answer than asked for")
        pairs: list[tuple[Key, Any]] = []
        for encoded, payloads, gone in answer.items:
            if not payloads or (gone and self._newest):
                continue
            try:
                key = decode_key(encoded)
            except CorruptData as error:
                _warn_of_no_key(self.config.name, encoded, error)
                continue
            try:
                pairs.append((key, None if keys_only else self._resolved(key, payloads)))
            except Exception as error:  # noqa: BLE001 - it is raised, when those before it have been shown
                return Page(pairs, answer.resume, error)
        return Page(pairs, answer.resume)

    # ---- writes ----

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

    def put_many(
        self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]], *, w: Any, ttl: Any, timeout: Any
    ) -> Steps[dict[Any, WriteResult]]:
        """Write pairs; of a key that stands twice the last counts."""
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

    # ---- requests, checked and encoded ----

    def read_request(self, keys: Iterable[Key], r: Any, timeout_s: float, *, causality: bool = False) -> f.GetMany:
        """Return the request for these keys."""
        replicas = check_level("r", self.config.r if r is None else r, self.config.n)
        return f.GetMany(self.bucket_id, [encode_key(key) for key in keys], replicas, timeout_s, causality)

    def write_request(self, pairs: Iterable[tuple[Key, Any]], w: Any, ttl: Any, timeout_s: float) -> f.WriteMany:
        """Return the request that writes these pairs. Everything wrong with them is found here."""
        replicas = check_level("w", self.config.w if w is None else w, self.config.n)
        ttl_ms = self.config.ttl_ms if ttl is None else check_ttl(ttl)
        ids = _operation_ids(self._random_bytes)
        items: list[_Item] = []
        for key, value in pairs:
            encoded = encode_key(key)
            items.append((encoded, pack_body(next(ids), self._payload(encoded, value), ttl_ms), None))
        return f.WriteMany(self.bucket_id, items, replicas, timeout_s)

    def delete_request(self, keys: Iterable[Key], w: Any, timeout_s: float) -> f.WriteMany:
        """Return the request that deletes these keys."""
        replicas = check_level("w", self.config.w if w is None else w, self.config.n)
        ids = _operation_ids(self._random_bytes)
        items: list[_Item] = [(encode_key(key), pack_tombstone_body(next(ids)), None) for key in keys]
        return f.WriteMany(self.bucket_id, items, replicas, timeout_s)

    def _payload(self, key: bytes, value: Any) -> bytes:
        payload = encode_value(value, self.config.codec, self._pickled)
        key_bytes = len(key) - TAG_BYTES
        pair_bytes = key_bytes + len(payload) - TAG_BYTES
        if pair_bytes > self.config.pair_bytes:
            raise PairTooLarge(
                f"key and value together are at most {self.config.pair_bytes} bytes in bucket {self.config.name!r}; "
                f"this pair has {pair_bytes} ({key_bytes} + {pair_bytes - key_bytes} encoded)",
                size_bytes=pair_bytes,
                limit_bytes=self.config.pair_bytes,
            )
        return payload

    def _write_one(self, request: f.WriteMany, timeout_s: float) -> Steps[WriteResult]:
        ((item,),) = yield from self._send_writes([request], timeout_s)
        if isinstance(item, RaykvError):
            raise item
        return item

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
        return _batch_result("written", results, errors)

    def _send_writes(
        self, requests: list[f.WriteMany], timeout_s: float
    ) -> Steps[list[list[WriteResult | RaykvError]]]:
        """Send writes; return one result an item of each.

        A coordinator that calls a request late has done nothing with it, and has said what time it is: it is sent again.
        """
        memory = self._memory
        until_s = memory.now_s() + timeout_s
        settled: list[list[WriteResult | RaykvError]] = [[] for _ in requests]
        waiting = list(range(len(requests)))
        for _ in range(_TRIES_WHEN_LATE):
            left_s = until_s - memory.now_s()
            if not waiting or left_s <= 0:
                break
            # What is sent in a later window may wait for those before it, each for its time.
            dated = [
                memory.dated(requests[at], until_s + timeout_s * (position // WINDOW))
                for position, at in enumerate(waiting)
            ]
            answers = yield Exchange(dated, left_s, repeatable=False)
            late = []
            for at, answer in zip(waiting, answers, strict=True):
                memory.note(answer)
                if isinstance(answer, f.Late):
                    late.append(at)
                settled[at] = self._settle_writes(answer, requests[at].items, timeout_s)
            waiting = late
        return settled

    def _settle_writes(self, answer: Answer, items: list[_Item], timeout_s: float) -> list[WriteResult | RaykvError]:
        match answer:
            case PeerAbsent():
                return [_unanswered(answer, timeout_s)] * len(items)
            case PeerFailure() | CorruptData():
                return _unknown(items, str(answer))
            case f.Refused():
                return [answer.failed.error()] * len(items)
            case f.Late():
                error = StoreUnavailable("nothing was written: the request reached the coordinator after its time")
                return [error] * len(items)
            case f.WroteMany() if len(answer.items) == len(items):
                return self._written(answer, items)
        return _unknown(items, "it gave another answer than asked for")

    def _written(self, answer: f.WroteMany, items: list[_Item]) -> list[WriteResult | RaykvError]:
        store_id, bucket_id = self.store_id, self.bucket_id
        known: dict[int, tuple[str, ...]] = {}  # of the items of a batch most have the same list
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


# ---- the store itself ----


def open_bucket(
    name: str,
    options: Mapping[str, Any],
    *,
    timeout: Any,
    random_bytes: Callable[[int], bytes] = os.urandom,
    memory: Memory | None = None,
    resolver: Resolver = "newest",
    pickled: Pickle = pickle_plainly,
) -> Steps[Operations]:
    """Find or create a bucket."""
    timeout_s = check_timeout(timeout)
    answer = yield from ask(f.OpenBucket(name, dict(options), timeout_s), timeout_s, memory)
    if not isinstance(answer, f.BucketOpened):
        raise CorruptData("the coordinator gave another answer than asked for")
    return Operations(
        answer.bucket_id,
        msgspec.convert(answer.config, BucketConfig),
        answer.store_id,
        random_bytes=random_bytes,
        memory=memory,
        resolver=resolver,
        pickled=pickled,
    )


def drop_bucket(name: str, *, timeout: Any) -> Steps[bool]:
    """Drop a bucket; False if there was none."""
    timeout_s = check_timeout(timeout)
    # Not repeatable: a second one might drop a bucket of that name that somebody has made meanwhile.
    return bool(told((yield from ask(f.DropBucket(name, timeout_s), timeout_s, repeatable=False))))


def repair(partitions: Sequence[int], *, timeout: Any) -> Steps[list[dict[str, Any]]]:
    """Compare the owners of these partitions now, and mend what differs. Returns figures of each."""
    timeout_s = check_timeout(timeout)
    figures: list[dict[str, Any]] = told((yield from ask(f.RepairPartitions([*partitions], timeout_s), timeout_s)))
    return figures


def tell(what: str, *, timeout: Any) -> Steps[Any]:
    """Ask for plain data to show."""
    timeout_s = check_timeout(timeout)
    return told((yield from ask(f.Tell(what, timeout_s), timeout_s)))


def scan_range(
    prefix: Key | None, start: Key | None, end: Key | None, after: Key | None, *, reverse: bool
) -> ScanRange:
    """Return the range that all of these bounds leave, in encoded keys.

    ``start`` is inclusive, ``end`` exclusive, whatever the direction; ``after`` is where an earlier scan in the same
    direction stopped, and is left out.
    """
    low, high = b"", LAST_TAG_END
    if prefix is not None:
        stem = _bound(prefix)
        low, high = stem, after_prefix(stem) or LAST_TAG_END
    if start is not None:
        low = max(low, _bound(start))
    if end is not None:
        high = min(high, _bound(end))
    if after is not None:
        bound = _bound(after)
        low, high = (low, min(high, bound)) if reverse else (max(low, bound + b"\x00"), high)
    return ScanRange(low, high)


def _bound(bound: Key) -> bytes:
    """Encode a bound. Of one that is longer than any key the beginning says as much as the whole."""
    return encode_bound(bound)[: MAX_ENCODED_KEY_BYTES + 1]


def remaining(left: ScanRange, resume: bytes, *, reverse: bool) -> ScanRange:
    """Return what is left of a scan after a page."""
    return ScanRange(left.start, resume) if reverse else ScanRange(resume, left.end)


def decode_handed(frame: bytes) -> Any:
    """Return what a plain call of the coordinator's handle brought, or raise its error."""
    handed = f.handed_answers.decode(frame)
    answer = handed.answer
    if isinstance(answer, f.Refused):
        raise answer.failed.error()
    results: dict[int, Any] = {}
    failed: dict[int, RaykvError] = {}
    if not isinstance(answer, f.GotMany | f.WroteMany):
        raise CorruptData("the coordinator gave another answer than asked for")
    if isinstance(answer, f.WroteMany) and len(answer.items) != len(handed.places):
        raise CorruptData("the coordinator gave another answer than asked for")
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
            f"{len(failed)} of {count} items failed; the first: {next(iter(failed.values()))}", results, failed
        )
    return [results[index] for index in range(count)]


# ---- small parts ----


def ask(
    request: f.CoordinatorRequest, timeout_s: float, memory: Memory | None = None, *, repeatable: bool = True
) -> Steps[f.CoordinatorAnswer]:
    """Send one request; raise what went wrong."""
    (answer,) = yield Exchange([request], timeout_s, repeatable=repeatable)
    if isinstance(answer, PeerFailure):
        if not repeatable and not isinstance(answer, PeerAbsent):
            raise WriteOutcomeUnknown(f"the coordinator did not say what became of it ({answer})")
        raise _unanswered(answer, timeout_s)
    answer = answered(answer)
    if memory is not None:
        memory.note(answer)
    return answer


def answered(answer: f.CoordinatorAnswer | CorruptData) -> f.CoordinatorAnswer:
    """Return the answer. Raises what it says went wrong."""
    if isinstance(answer, CorruptData):
        raise answer
    if isinstance(answer, f.Refused):
        raise answer.failed.error()
    return answer


def _unanswered(failure: PeerFailure, timeout_s: float) -> RaykvError:
    if isinstance(failure, PeerSilent):
        return QuorumNotMet(f"no coordinator answered within {timeout_s:g} s: {failure}")
    return StoreUnavailable(f"the store's coordinator is not there: {failure}")


def _items(answer: f.CoordinatorAnswer, kind: type[f.GotMany], count: int) -> list[Any]:
    if not isinstance(answer, kind) or len(answer.items) != count:
        raise CorruptData("the coordinator gave another answer than asked for")
    return answer.items


def _settle(answer: Answer, kind: type[f.GotMany], keys: list[Key], timeout_s: float, memory: Memory) -> list[Any]:
    """Return one result a key, whatever became of the request."""
    try:
        if isinstance(answer, PeerFailure):
            raise _unanswered(answer, timeout_s)
        said = answered(answer)
        memory.note(said)
        return _items(said, kind, len(keys))
    except RaykvError as error:
        return [error] * len(keys)


def _unknown(items: list[_Item], why: str) -> list[WriteResult | RaykvError]:
    cause = f"the coordinator did not say what became of the write ({why}); it may stand and may surface later"
    return [WriteOutcomeUnknown(cause, operation_id=body[:OPERATION_ID_BYTES].hex(), acks=[]) for _, body, _ in items]


def told(answer: f.CoordinatorAnswer) -> Any:
    """Return the plain data of an answer. Raises ``CorruptData`` if it is another kind of answer."""
    if not isinstance(answer, f.Told):
        raise CorruptData("the coordinator gave another answer than asked for")
    return answer.data


def _wanted(keys: Iterable[Key]) -> list[Key]:
    return without_doubles(several_keys(keys))


def _batch_result(what: str, results: dict[Key, Any], errors: dict[Key, RaykvError]) -> dict[Key, Any]:
    if errors:
        first = next(iter(errors.values()))
        total = len(results) + len(errors)
        raise BatchError(f"{len(errors)} of {total} items were not {what}; the first: {first}", results, errors)
    return results


def _page_size(limit: int | None, *, keys_only: bool) -> int:
    largest = PAGE_KEYS if keys_only else PAGE_ITEMS
    return largest if limit is None else min(limit, largest)


def _chunks(items: list[_Item]) -> list[slice]:
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


def _operation_ids(random_bytes: Callable[[int], bytes]) -> Generator[bytes, None, None]:
    """Draw operation ids, many at a time: a system call for each would cost as much as the rest of a put."""
    count = 1
    while True:
        drawn = random_bytes(count * OPERATION_ID_BYTES)
        for at in range(0, len(drawn), OPERATION_ID_BYTES):
            yield drawn[at : at + OPERATION_ID_BYTES]
        count = min(2 * count, 256)


def _warn_of_no_key(bucket: str, encoded: bytes, error: CorruptData) -> None:
    """Say that a scan leaves something out: what an earlier version took under what is no key."""
    warnings.warn(
        f"bucket {bucket!r}: a scan leaves out what stands under {shown(encoded)}: {error.message}; "
        "store.repair() deletes it",
        UserWarning,
        stacklevel=2,
    )
