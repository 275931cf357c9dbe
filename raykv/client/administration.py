"""Requests about the store itself: buckets, status, ring, repair. ``elastic`` has those that change its nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.client.codecs import Decode, Pickle, decode_of, pickle_plainly
from raykv.client.exchange import ask, ask_info, unexpected
from raykv.client.given import called
from raykv.client.operations import Operations
from raykv.client.repairs import RepairReport
from raykv.client.views import RingView, Status
from raykv.config import (
    MAX_PAIR_BYTES,
    VERSIONINGS,
    BucketConfig,
    check_bucket_name,
    check_choice,
    check_count,
    check_group,
    check_level,
    check_timeout,
    check_ttl,
    shown,
)
from raykv.errors import InvalidOption
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raykv.client.exchange import Steps
    from raykv.client.lanes import Lanes
    from raykv.client.session_clock import SessionClock
    from raykv.versions.resolvers import Resolver


def open_bucket(
    name: str,
    options: Mapping[str, Any],
    *,
    timeout: Any,
    random_bytes: Callable[[int], bytes] = os.urandom,
    session_clock: SessionClock | None = None,
    resolver: Resolver = "newest",
    pickled: Pickle = pickle_plainly,
    decode: Decode = decode_of,
    lanes: Lanes | None = None,
) -> Steps[Operations]:
    """Find a bucket, or create it with these ``bucket_options``."""
    timeout_s = check_timeout(timeout)
    _check_resolves(name, options.get("versioning"), resolver)
    answer = yield from ask(f.OpenBucket(name, dict(options), timeout_s), timeout_s, session_clock)
    if not isinstance(answer, f.BucketOpened):
        raise unexpected()
    config = msgspec.convert(answer.config, BucketConfig)
    _check_resolves(name, config.versioning, resolver)
    return Operations(
        answer.bucket_id,
        config,
        answer.store_id,
        random_bytes=random_bytes,
        session_clock=session_clock,
        resolver=resolver,
        pickled=pickled,
        decode=decode,
        lanes=lanes,
    )


def _check_resolves(name: str, versioning: object, resolver: Resolver) -> None:
    """Raise ``InvalidOption`` for a resolver where there is never more than one version (L13)."""
    if versioning == "linearizable" and resolver != "newest":
        raise InvalidOption(
            f"bucket {shown(name)} is linearizable and takes no resolver: it has one value a key; use update"
        )


def bucket_options(store_copies: int, **given: Any) -> dict[str, Any]:
    """Return the given options in the form in which buckets store them. Raises ``InvalidOption``.

    ``store_copies``: the n of the store's default bucket, the maximum for any bucket.
    """
    options = {name: value for name, value in given.items() if value is not None and name != "ttl"}
    if "versioning" in options:
        options["versioning"] = check_choice("versioning", options["versioning"], VERSIONINGS)
    if not isinstance(options.get("sloppy", False), bool):
        raise InvalidOption(f"sloppy must be True or False; got {shown(options['sloppy'])}")
    n = check_count("n", options.get("n", store_copies), 1, store_copies)
    if "n" in options:
        options["n"] = n
    for level in ("r", "w"):
        if level in options:
            options[level] = check_level(level, options[level], n)
    if given.get("ttl") is not None:
        options["ttl_ms"] = check_ttl(given["ttl"])
    if "codec" in options:
        options["codec"] = check_choice("codec", options["codec"], ("auto", "msgpack", "raw"))
    if "pair_bytes" in options:
        options["pair_bytes"] = check_count("pair_bytes", options["pair_bytes"], 1, MAX_PAIR_BYTES)
    if "group" in options:
        options["group"] = check_group(options["group"])
    return options


def drop_bucket(name: str, *, timeout: Any) -> Steps[bool]:
    """Drop a bucket; False if there was none."""
    name, timeout_s = check_bucket_name(name), check_timeout(timeout)
    # Not repeatable: a second request could drop a new bucket of the same name.
    return bool((yield from ask_info(f.DropBucket(name, timeout_s), timeout_s, repeatable=False)))


def buckets(*, timeout: Any) -> Steps[list[dict[str, Any]]]:
    """Return the policies of all buckets, in the order of their creation."""
    configs: list[dict[str, Any]] = yield from _info("buckets", timeout)
    return configs


def status(*, timeout: Any) -> Steps[Status]:
    """Return the store's settings, nodes and figures."""
    return Status((yield from _info("status", timeout)))


def ring(*, timeout: Any) -> Steps[RingView]:
    """Return who owns what."""
    return RingView((yield from _info("ring", timeout)))


def repair(progress: Callable[[int, int], object] | None, *, timeout: Any) -> Steps[RepairReport]:
    """Compare all copies and repair differences, some partitions at a time; ``timeout`` bounds each of these steps.

    Returns the report, which may name partitions that failed: ``report.checked()`` raises then.
    """
    timeout_s = check_timeout(timeout)
    report = RepairReport.begin((yield from ring(timeout=timeout_s))["partitions"])
    for some in report.portions():
        report.add((yield from ask_info(f.RepairPartitions([*some], timeout_s), timeout_s)))
        if progress is not None:
            called(progress, some[-1] + 1, report["partitions"])
    return report


def _info(what: str, timeout: Any) -> Steps[Any]:
    timeout_s = check_timeout(timeout)
    return ask_info(f.GetInfo(what, timeout_s), timeout_s)
