"""Events that arrive several times, and are to be handled by one of those who receive them.

``put(if_absent=True)`` has one winner. If its outcome is unknown, what stands tells: everyone writes a name of their own. So
of all who ask about one event exactly one is told True, as long as it lives to hear it. What a winner that dies has not
handled is lost; where that matters, use ``jobs``, which repeats instead.
"""

from __future__ import annotations

import asyncio
import uuid

import raykv

PAUSE_S = 0.2


async def is_first(seen: raykv.AsyncBucket[str, str], event: str, within_s: float = 60.0) -> bool:
    """Return whether the caller is the one to handle the event. ``seen``: a linearizable bucket of its own.

    Raises what kept it from knowing, after ``within_s``.
    """
    name = uuid.uuid4().hex
    until_s = asyncio.get_running_loop().time() + within_s
    while True:
        try:
            await seen.put(event, name, if_absent=True)
            return True
        except raykv.Conflict as conflict:
            return bool(conflict.value == name)  # an earlier try of ours, whose answer was lost
        except (raykv.WriteOutcomeUnknown, raykv.StoreUnavailable, raykv.Overloaded):
            if asyncio.get_running_loop().time() > until_s:
                raise
            await asyncio.sleep(PAUSE_S)


async def demo(store: raykv.AsyncStore) -> None:
    """Handle three events, one of which arrives twice."""
    seen = await store.bucket("seen", versioning="linearizable")
    for event in ("order:1", "order:2", "order:1"):
        print(event, "handled" if await is_first(seen, event) else "seen before")


if __name__ == "__main__":
    asyncio.run(demo(raykv.start().aio))
