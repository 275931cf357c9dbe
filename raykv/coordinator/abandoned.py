"""Writes that go on although nobody waits for them any more: their caller was interrupted, or its task cancelled.

A write that has begun must reach all of its owners, so it is not ended. But a later write of one of its keys by the same
coordinator waits until it is over. *Without: a program gives a write up and writes the key anew, which is acknowledged;
only then the former write gets its stamp, or sees the later one among what it supersedes, and stands above it.*
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.protocol.requests import COORDINATOR

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

Place: TypeAlias = tuple[int, bytes]
"""A bucket's id, and an encoded key."""


class Abandoned:
    """Those of one coordinator, in one event loop. False if there are none."""

    def __init__(self) -> None:
        self._ends: dict[Place, list[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._ends)

    def add(self, request: f.CoordinatorRequest, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Note that nobody waits for a request that is under way; return what to call when it is over. O(its keys).

        ``loop``: the coordinator's; it need not run: the end of a program cancels what is left while it does not.
        """
        places = written(request)
        end: asyncio.Future[None] = loop.create_future()
        for place in places:
            self._ends.setdefault(place, []).append(end)
        return partial(self._over, places, end)

    def before(self, request: f.CoordinatorRequest) -> list[asyncio.Future[None]]:
        """Return the ends of those that a request has to wait for. O(its keys)."""
        return [*dict.fromkeys(end for place in written(request) for end in self._ends.get(place, ()))]

    def _over(self, places: list[Place], end: asyncio.Future[None]) -> None:
        if end.done():
            return
        end.set_result(None)
        for place in places:
            ends = self._ends[place]
            ends.remove(end)
            if not ends:
                del self._ends[place]


def written(request: f.CoordinatorRequest) -> list[Place]:
    """Return what a client's request writes, each place once; of one that is to be explained, what that writes."""
    if isinstance(request, f.ExplainOperation):
        try:
            request = f.coordinator_requests.decode(request.frame)
        except CorruptData:
            return []  # it is refused
    writes = COORDINATOR[type(request)].writes
    return [] if writes is None else [*dict.fromkeys(writes(request))]
