"""A barrier: nobody goes on before all have arrived.

Arriving adds a name to a set, by ``update``: done twice it is the same, so an arrival whose outcome is unknown is repeated.
"""

from __future__ import annotations

import asyncio

import raykv

PAUSE_S = 0.1
_TRY_AGAIN = (
    raykv.Conflict, raykv.StoreUnavailable, raykv.QuorumNotMet, raykv.WriteOutcomeUnknown, raykv.Overloaded,
)  # fmt: skip


async def arrive(
    bucket: raykv.AsyncBucket[str, list[str]], barrier: str, who: str, parties: int, timeout: float = 60.0
) -> None:
    """Arrive as ``who`` (a name of one's own) and wait for the others. ``bucket``: a linearizable one.

    Raises ``TimeoutError``; one that gave up counts as arrived. A barrier is used once: put a round into its name.
    """
    async with asyncio.timeout(timeout):
        here: list[str] = []
        while who not in here:
            try:
                here = await bucket.update(barrier, lambda here: sorted({*here, who}), [])
            except _TRY_AGAIN:
                await asyncio.sleep(PAUSE_S)
        while len(here) < parties:
            await asyncio.sleep(PAUSE_S)
            try:
                here = await bucket.get(barrier, [])
            except _TRY_AGAIN:
                continue


async def demo(store: raykv.AsyncStore) -> None:
    """Have three arrive one after the other, and go on together."""
    bucket = await store.bucket("barriers", versioning="linearizable")

    async def walk(who: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        print(who, "arrives")
        await arrive(bucket, "start", who, parties=3)
        print(who, "goes on")

    await asyncio.gather(walk("a", 0), walk("b", 0.5), walk("c", 1))


if __name__ == "__main__":
    asyncio.run(demo(raykv.start().aio))
