"""The command line's way to a store: a link, a bucket's operations, and reads that never unpickle.

``store.get`` unpickles what was pickled, and so runs code of whoever wrote it. Who only wants to look must not: the reads
here take the payloads as they are and decode those that are plain. Looking also creates nothing: a misspelt bucket is an
error, where ``store.bucket`` would make one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from raykv.cli.cluster import join_ray
from raykv.client import operations as ops
from raykv.client.codecs import TAG_BYTES, decode_of, encode_value
from raykv.client.driver import run
from raykv.client.handle import DEFAULT_BUCKET
from raykv.client.paging import Paging
from raykv.client.session_clock import Memory
from raykv.config import check_level
from raykv.errors import CorruptData, QuorumNotMet, StoreUnavailable
from raykv.ports import PeerFailure, PeerSilent
from raykv.protocol import frames as f
from raykv.records.keys import decode_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.client.driver import Link
    from raykv.client.operations import Operations, Steps
    from raykv.records.keys import Key

ABSENT: Any = object()


class Pickled(NamedTuple):
    """Stands for a pickled value that was not unpickled."""

    size_bytes: int


def link_to(store: str) -> Link:
    """Return a link to a running store. Raises ``StoreNotFound``."""
    join_ray()
    from raykv.actors import lifecycle

    return lifecycle.join(store, "coordinator")  # one operation, and this process ends


def open_bucket(link: Link, store: str, bucket: str, timeout_s: float, *, create: bool) -> Operations:
    """Return the operations on a bucket; one that does not exist is created only where something is to be written."""
    if not create and bucket != DEFAULT_BUCKET:
        names = [config["name"] for config in run(ops.tell("buckets", timeout=timeout_s), link)]
        if bucket not in names:
            raise click.ClickException(f"store {store!r} has no bucket {bucket!r}; it has: {', '.join(names)}")
    return run(ops.open_bucket(bucket, {}, timeout=timeout_s, memory=Memory(link.monotonic_s)), link)


class Standing(NamedTuple):
    """What stands under a key: the newest value or ``ABSENT``, and all values, the newest first; decoded if plain."""

    newest: Any
    values: list[Any]


def read(link: Link, operations: Operations, key: Key, r: Any, timeout_s: float) -> Standing:
    """Read a key."""
    answer = run(_ask(operations.read_request([key], r, timeout_s), timeout_s), link)
    if not isinstance(answer, f.GotMany) or len(answer.items) != 1:
        raise CorruptData("the coordinator gave another answer than asked for")
    item = answer.items[0]
    if isinstance(item, f.Failed):
        raise item.error()
    found = f.whole(item)
    values = [decode_plain(payload, key) for payload in found.payloads]
    return Standing(values[0] if values and not found.gone else ABSENT, values)


def pages(
    link: Link,
    operations: Operations,
    left: ops.ScanRange,
    *,
    limit: int,
    reverse: bool,
    keys_only: bool,
    r: Any,
    timeout_s: float,
) -> Iterator[list[tuple[Key, Any]]]:
    """Yield a scan's pairs, some at a time, at most ``limit`` in all. ``timeout_s``: for each time."""
    config = operations.config
    replicas = check_level("r", config.r if r is None else r, config.n)

    def ask(left: ops.ScanRange, pairs: int, passing: bool, timeout_s: float) -> Steps[ops.Page]:
        start, end = left
        request = f.ScanPage(operations.bucket_id, start, end, pairs, reverse, keys_only, replicas, timeout_s, passing)
        page = yield from _ask(request, timeout_s)
        if not isinstance(page, f.Page):
            raise CorruptData("the coordinator gave another answer than asked for")
        found = [(key, payloads[0]) for key, payloads, gone in page.items if not gone]
        named = [(decode_key(key), payload) for key, payload in found]
        shown = [(key, None if keys_only else decode_plain(payload, key)) for key, payload in named]
        return ops.Page(shown, page.resume)

    paging = Paging(ask, operations.now_s, left, limit=limit, reverse=reverse, timeout=timeout_s)
    while some := run(paging.step(), link):
        yield some


def decode_plain(payload: bytes, key: Key) -> Any:
    """Return the value of a key, ``Pickled`` for a pickled one."""
    if payload[:TAG_BYTES] == _PICKLE_TAG:
        return Pickled(len(payload) - TAG_BYTES)
    return decode_of(key, payload, "msgpack")


_PICKLE_TAG = encode_value((), "auto")[:TAG_BYTES]  # a tuple is not plain, so this is how pickled payloads begin


def _ask(request: f.CoordinatorRequest, timeout_s: float) -> Steps[f.CoordinatorAnswer]:
    """Send one read; raise what went wrong."""
    (answer,) = yield ops.Exchange([request], timeout_s, repeatable=True)
    if isinstance(answer, PeerSilent):
        raise QuorumNotMet(f"no coordinator answered within {timeout_s:g} s: {answer}")
    if isinstance(answer, PeerFailure):
        raise StoreUnavailable(f"the store's coordinator is not there: {answer}")
    return ops.answered(answer)
