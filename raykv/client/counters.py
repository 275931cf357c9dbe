"""Counters: cells of a linearizable bucket of their own, one a name.

A cell is added to where it lies, in one round however many callers there are; see ``raykv.client.atomic``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.client.atomic import whole_number_of
from raykv.config import shown
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from raykv.client.exchange import Steps
    from raykv.client.handle import Session

COUNTERS = "raykv.counters"
"""The bucket of the counters."""


def counted(session: Session, name: str, kind: int, amount: Any, timeout: Any) -> Steps[int]:
    """Add to a counter, or raise or lower it; return what it is then."""
    return session.in_own_bucket(
        COUNTERS, timeout, lambda operations: operations.count(name, kind, amount, timeout=timeout)
    )


def value_of(session: Session, name: str, timeout: Any) -> Steps[int]:
    """Return what a counter is; 0 if nobody has counted yet."""
    value = yield from session.in_own_bucket(
        COUNTERS, timeout, lambda operations: operations.get(name, 0, r=None, timeout=timeout)
    )
    if type(value) is not int:
        raise InvalidOption(f"{shown(name)} is no counter: bucket {COUNTERS!r} holds {shown(value)} under it")
    return value


def set_to(session: Session, name: str, value: Any, timeout: Any) -> Steps[None]:
    """Set a counter."""
    number = whole_number_of("set", value)
    yield from session.in_own_bucket(
        COUNTERS, timeout, lambda operations: operations.put_if(name, number, timeout=timeout)
    )
