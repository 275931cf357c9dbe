"""The command line's way to a store: a link, a bucket's operations, and reads that never unpickle.

``store.get`` unpickles pickled values, which runs the writer's code. A look must not: the operations here decode plain
values, and leave a pickled one as ``Pickled``. A look also creates nothing: a misspelt bucket is an error, where
``store.bucket`` would create one.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from raykv.cli.cluster import is_joined, join_ray
from raykv.client import administration
from raykv.client.driver import run
from raykv.client.faces import decode_shown
from raykv.client.handle import DEFAULT_BUCKET
from raykv.client.session_clock import SessionClock
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.client.driver import Link
    from raykv.client.operations import Operations
    from raykv.client.paging import Paging
    from raykv.records.keys import Key

ABSENT: Any = object()


def link_to(store: str) -> Link:
    """Return a link to a running store, for one operation or a few: straight to a coordinator on this host, else by Ray.

    Joining Ray takes seconds. Raises ``StoreNotFound``, ``StoreUnavailable``.
    """
    if not is_joined():
        from raykv.actors import command_link

        link = command_link.link_to(store, lambda: link_by_ray(store))
        if link is not None:
            return link
    return link_by_ray(store)


def link_by_ray(store: str) -> Link:
    """Return a link to a running store for a command that takes long, or several threads. Raises as ``link_to`` does."""
    join_ray()
    from raykv.actors import lifecycle

    return lifecycle.join(store, "coordinator")  # one operation, then this process ends


def open_bucket(
    link: Link, store: str, bucket: str, timeout_s: float, *, create: bool, **given: str | None
) -> Operations:
    """Return the operations on a bucket, which decode with ``decode_shown``; ``create`` it only for a write.

    ``given``: its options, None for those that were not given.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if not create and bucket != DEFAULT_BUCKET:
        names = [config["name"] for config in run(administration.buckets(timeout=timeout_s), link)]
        if bucket not in names:
            raise click.ClickException(f"store {store!r} has no bucket {bucket!r}; it has: {', '.join(names)}")
    session_clock = SessionClock(link.monotonic_s)
    steps = administration.open_bucket(
        bucket, options, timeout=timeout_s, session_clock=session_clock, decode=decode_shown
    )
    return run(steps, link)


class Standing(NamedTuple):
    """The state of a key: the newest value or ``ABSENT``, and all values, newest first; plain ones are decoded."""

    newest: Any
    values: list[Any]
    version: str = ""
    """In a linearizable bucket: the newest one's, in hex."""


def read(link: Link, operations: Operations, key: Key, r: Any, timeout_s: float) -> Standing:
    """Read a key."""
    request = operations.read_request([key], r, timeout_s, causality=operations.linearizable)
    found = f.whole(run(operations.find(request, timeout_s), link))
    values = [decode_shown(key, payload) for payload in found.payloads]
    version = found.causality.hex() if operations.linearizable else ""
    return Standing(values[0] if values and not found.gone else ABSENT, values, version)


def pages(link: Link, paging: Paging) -> Iterator[list[tuple[Key, Any]]]:
    """Yield a scan's pairs page by page; a warning becomes a line on stderr."""
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            some = run(paging.step(), link)
        for warning in caught:
            click.echo(f"raykv: {warning.message}", err=True)
        if not some:
            return
        yield some
