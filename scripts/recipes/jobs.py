"""Jobs that are each done at least once: a worker claims one, and a claim that shows no sign of life is taken over.

A claim is a conditional write with a number that grows. Workers compare no clocks: a claim is dead if its version has stood
for a whole lease by the watcher's own clock. A worker that was frozen and wakes has lost its claim without knowing; its
result carries the claim's number as a fence, and is refused once a later claim has written one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple

import raykv


class Claim(NamedTuple):
    """A job that was claimed: its key and payload, the claim's number, and the version to write it by."""

    key: str
    payload: Any
    number: int
    version: raykv.Version


class Jobs:
    """``jobs``, ``results``: linearizable buckets. ``lease_s``: how long a claim stands; no job may take longer."""

    def __init__(self, jobs: raykv.AsyncBucket, results: raykv.AsyncBucket, lease_s: float = 30.0) -> None:
        self._jobs, self._results, self._lease_s = jobs, results, lease_s
        self._watched: dict[str, tuple[raykv.Version, float]] = {}

    async def add(self, key: str, payload: Any) -> None:
        """Add a job; one that is there stays as it is."""
        with contextlib.suppress(raykv.Conflict):
            await self._jobs.put(key, {"payload": payload, "claims": 0}, if_absent=True)

    async def claim(self) -> Claim | None:
        """Claim a job that nobody has claimed, or whose claim is dead; None if there is none at present."""
        async for key in self._jobs.keys():
            job, version = await self._jobs.get_versioned(key)
            now_s = asyncio.get_running_loop().time()
            watched, since_s = self._watched.setdefault(key, (version, now_s))
            if watched != version:
                self._watched[key] = version, now_s
            if job is not None and (job["claims"] == 0 or (watched == version and now_s - since_s >= self._lease_s)):
                claimed = job | {"claims": job["claims"] + 1}
                try:
                    written = await self._jobs.put(key, claimed, if_version=version)
                    return Claim(key, job["payload"], claimed["claims"], written.version)
                except raykv.Conflict:
                    continue  # another worker was quicker
        return None

    async def finish(self, claim: Claim, result: Any) -> None:
        """Write a result and remove the job. Raises ``Conflict`` if a later claim has written one."""
        await self._results.put(claim.key, result, fence=claim.number)
        await self._jobs.delete(claim.key, if_version=claim.version)


async def demo(store: raykv.AsyncStore) -> None:
    """Do three jobs."""
    todo, done = [await store.bucket(name, versioning="linearizable") for name in ("jobs", "results")]
    jobs = Jobs(todo, done)
    for number in range(3):
        await jobs.add(f"square:{number}", number)
    while claim := await jobs.claim():
        await jobs.finish(claim, claim.payload**2)
        print(claim.key, "done")


if __name__ == "__main__":
    asyncio.run(demo(raykv.start().aio))
