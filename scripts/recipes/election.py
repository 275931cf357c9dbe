"""A leader among candidates: one at a time, and another within a lease after its process or host is gone.

The leader's writes carry its fencing token. A leader that was frozen and wakes finds its lock lost; a write that it makes
before it looks is refused, because its successor has written with a later token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import raykv

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAUSE_S = 0.2


async def campaign(
    store: raykv.AsyncStore,
    office: str,
    lead: Callable[[raykv.AsyncLock], Awaitable[None]],
    lease_s: float = 5.0,
) -> None:
    """Wait to become the leader, then await ``lead(held)``; again, if it lost the office on the way.

    ``lead`` looks at ``held.lost`` between its steps, and returns when its work is done or the office is lost.
    """
    while True:
        try:
            async with store.lock(office, lease=lease_s, timeout=3600) as held:
                await lead(held)
                if not held.lost:
                    return
        except raykv.Conflict:
            pass  # a fenced write was refused: another one leads
        except (raykv.StoreUnavailable, raykv.QuorumNotMet, raykv.WriteOutcomeUnknown, raykv.Overloaded):
            await asyncio.sleep(PAUSE_S)


async def demo(store: raykv.AsyncStore) -> None:
    """Have three candidates lead one after the other."""
    log = await store.bucket("log", versioning="linearizable")

    async def lead(held: raykv.AsyncLock) -> None:
        await log.put("leader", held.token, fence=held.token)
        print("leader of term", held.token)

    await asyncio.gather(*(campaign(store, "captain", lead) for _ in range(3)))


if __name__ == "__main__":
    asyncio.run(demo(raykv.start().aio))
