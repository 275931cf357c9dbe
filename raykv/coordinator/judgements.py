"""A coordinator's judgements, each once: the fast path and the quorum path share them.

Trust in answers, and health and order of nodes, are judged in ``cluster.peers`` and ``cluster.health``. ``in_flight``
judges what is outstanding to owners that missed a write. The rest is here: pure functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from raykv.config import MAX_BATCH_ITEMS, MAX_FRAME_BYTES, MAX_PAIR_BYTES
from raykv.errors import InvalidOption, RaykvError
from raykv.protocol import frames as f
from raykv.records.record import body_operation_id
from raykv.versions import only_value, seen_and_shown
from raykv.versions.causality import pack_causality

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from raykv.cluster.state import BucketEntry
    from raykv.versions.causality import Causality

Quorum: TypeAlias = tuple[tuple[str, ...], int]
"""Nodes, and how many of them are needed."""
Read: TypeAlias = bytes | RaykvError | None

# ---- what is let in ----


def is_too_late(request: f.WriteMany | f.ChangeMany, run: int, now_s: float) -> bool:
    """Whether a write is past its deadline and must not begin (P8). ``run``, ``now_s``: of this coordinator.

    The client gives the deadline in this coordinator's own time. *Without: a coordinator thaws and carries out writes that
    its clients have reported as unknown and have long overwritten.*
    """
    return bool(request.run) and (request.run != run or now_s > request.expires_s)


def check_items(items: int) -> None:
    """Raise ``InvalidOption`` if a request has too many items."""
    if items > MAX_BATCH_ITEMS:
        raise InvalidOption(f"a request has at most {MAX_BATCH_ITEMS} items; got {items}")


def most_keys(entry: BucketEntry | None) -> int:
    """Return how many keys of a bucket one read may have so that they fit a frame (None: of any bucket)."""
    room = MAX_FRAME_BYTES // 2 // (MAX_PAIR_BYTES if entry is None else entry.config.pair_bytes)
    return min(room, MAX_BATCH_ITEMS)


def check_most_keys(entry: BucketEntry, keys: int) -> None:
    """Raise ``InvalidOption`` if a read has too many keys."""
    if keys > (most := most_keys(entry)):
        raise InvalidOption(f"one read of bucket {entry.config.name!r} has at most {most} keys; got {keys}")


def check_replicas(what: str, value: int, n: int) -> None:
    """Raise ``InvalidOption`` if ``value`` exceeds the number of replicas."""
    if not 1 <= value <= n:
        raise InvalidOption(f"{what} must be 1 to {n}; got {value}")


# ---- what is an answer ----


def is_read(body: object, keys: int) -> TypeGuard[f.ReadDone]:
    """Whether a body is a node's answer to a read of ``keys`` keys."""
    return isinstance(body, f.ReadDone) and len(body.records) == keys


def is_heads_read(body: object, keys: int) -> TypeGuard[f.HeadsRead]:
    """Whether a body is a node's answer to a read of ``keys`` keys of a linearizable bucket."""
    return isinstance(body, f.HeadsRead) and len(body.records) == len(body.terms) == keys


def is_reserve(body: object, keys: int) -> TypeGuard[f.DotsReserved]:
    """Whether a body is a node's answer to a reservation for ``keys`` keys."""
    return isinstance(body, f.DotsReserved) and len(body.items) == keys


def is_write(body: object, items: int) -> TypeGuard[f.WriteDone]:
    """Whether a body is a node's answer to a write of ``items`` items."""
    return isinstance(body, f.WriteDone) and len(body.newer) == items


def acknowledges(newer: int) -> bool:
    """Whether a node's answer for one item acknowledges it: the node holds the item durably, and nothing newer (P7)."""
    return newer == 0


def acknowledges_all(newer: Sequence[int]) -> bool:
    """As ``acknowledges``, for all items at once: one call per item would cost a large write a tenth of its time."""
    return not any(newer)


# ---- when it is enough ----


def shown_needed(entry: BucketEntry, seen: Causality | None, w: int) -> int:
    """Return how many primaries must show what they hold, so that a write supersedes all that it must (P7)."""
    if seen is not None:
        return 1
    # Any write that W acknowledged is on one of N - W + 1. Where two writes need not meet, nothing is promised. Another
    # write may have used the bucket's W, whatever this one uses.
    n, least = entry.config.n, min(w, entry.config.w)
    return n - least + 1 if 2 * least > n else 1


def first_to_reserve(order: Sequence[str], needed: int) -> list[tuple[str, bool]]:
    """Return whom to ask first for what they hold, each with whether to ask for a dot too: only the first (P8)."""
    return [(node_id, place == 0) for place, node_id in enumerate(order[:needed])]


def counted(owners: Collection[str], holders: Iterable[str]) -> int:
    """Return how many of ``holders`` are owners."""
    return sum(node_id in owners for node_id in holders)


def quorums_met(quorums: Iterable[Quorum], holders: Collection[str]) -> bool:
    """Whether enough of each set of owners are among ``holders``: two sets while a partition moves (P4)."""
    return all(len(holders) >= needed and counted(owners, holders) >= needed for owners, needed in quorums)


# ---- what is answered ----


def got(records: Sequence[Read], now_ms: int, *, causality: bool) -> tuple[f.GotMany, int]:
    """Return what each record shows a reader, or its error; and how many records have several versions."""
    items: list[bytes | f.KeyVersions | f.Failed] = []
    newest = siblings = 0
    for record in records:
        if isinstance(record, RaykvError):
            items.append(f.Failed.of(record))
            continue
        if not causality and record is not None:
            value = only_value(record)
            if value is not None:
                newest = max(newest, value[0])
                items.append(value[1])
                continue
        seen, shown = seen_and_shown(record, now_ms)
        newest = max(newest, seen.time)
        siblings += len(shown.payloads) > 1
        items.append(f.KeyVersions(shown.payloads, shown.gone, pack_causality(seen) if causality else b""))
    return f.GotMany(items, newest), siblings


def wrote(bodies: Sequence[bytes], outcomes: Sequence[tuple[list[str], Causality] | RaykvError]) -> f.WroteMany:
    """Return who acknowledged each write and what it superseded, or its error."""
    items: list[f.Acked | f.Failed] = []
    newest = 0
    for body, outcome in zip(bodies, outcomes, strict=True):
        if isinstance(outcome, RaykvError):
            items.append(f.Failed.of(outcome))
            continue
        nodes, causality = outcome
        newest = max(newest, causality.time)
        items.append(f.Acked(body_operation_id(body), nodes, pack_causality(causality)))  # one list for many stays one
    return f.WroteMany(items, newest)
