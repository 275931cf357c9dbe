"""Ray Serve: a rate limit that all replicas share, exactly.

The problem. "Twenty calls a second for each customer" is a promise of the service, and not of each replica. Here a
customer's window and count are one value of a linearizable bucket, changed by ``update``
(``scripts/recipes/rate_limiter.py``): a call gets a number in its window, from 1 to the limit, no number twice. It
costs a write for each call that passes, and a read for one that does not. Windows are aligned: around the end of one,
up to twice the limit may pass within a window's length.

Without raykv. A counter in each replica allows the limit once for every replica, another sum whenever Serve scales;
the demo counts it. The limit divided by the number of replicas refuses calls that should pass, as requests are not
spread evenly. A named actor that counts is exact until it dies, and begins from nothing then. Redis (INCR and
EXPIRE) is exact on one server, and another service to run; after a failover to its replica, which lags, it has
forgotten some calls.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import raykv

sys.path.append(str(Path(__file__).parents[1]))  # this file is run by its own path

from examples import alone
from recipes import rate_limiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Passed = tuple[int, int]
"""The window in which a call was counted, and its number there."""


class Gate:
    """The deployment: lets a call through, or not. Beside it counts as a replica would alone, to show the difference."""

    def __init__(
        self, store: raykv.Store | raykv.AsyncStore, limit: int, window_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store.aio if isinstance(store, raykv.Store) else store
        self._limit, self._window_s, self._now = limit, window_s, now
        self._limiter: rate_limiter.RateLimiter | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._alone: Counter[tuple[str, int]] = Counter()

    async def __call__(self, who: str) -> dict[str, Any]:
        """Count a call; return what became of it: ``passed`` (None: refused, HTTP 429), ``alone``, ``replica``."""
        if self._limiter is None:
            bucket = await self._store.bucket("limits", versioning="linearizable")
            self._limiter = rate_limiter.RateLimiter(bucket, self._limit, self._window_s, self._now)
        window = int(self._now() // self._window_s)
        self._alone[who, window] += 1
        alone = window if self._alone[who, window] <= self._limit else None
        turn = self._turns.setdefault(who, asyncio.Lock())
        async with turn:  # one at a time of a customer in a replica: an update that another overtakes is done again
            passed = await self._limiter.count(who)
        return {"passed": passed, "alone": alone, "replica": os.getpid()}


def most_in_a_window(passed: Iterable[Passed | None]) -> int:
    """Return the most calls that passed in one window. Raises ``ValueError`` if two have the same number."""
    numbers = [tuple(each) for each in passed if each is not None]
    if len(set(numbers)) != len(numbers):
        raise ValueError("two calls were given one number of a window")
    return max(Counter(window for window, _ in numbers).values(), default=0)


def demo(store: raykv.Store, replicas: int = 3, limit: int = 20, for_s: float = 3.0) -> None:
    """Have three replicas asked by many, for some windows of a second."""
    from ray import cloudpickle, serve

    cloudpickle.register_pickle_by_value(rate_limiter)  # replicas do not find scripts/
    serve.start(proxy_location="Disabled")  # the demo calls by handle; over HTTP it is the same
    deployment = serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": 0})
    gate = serve.run(deployment(Gate).bind(store, limit, 1.0), name="gate", route_prefix=None)
    answers: list[dict[str, Any]] = []
    try:
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            calls = [gate.remote("ada") for _ in range(2 * replicas * limit)]
            answers += [call.result(timeout_s=60) for call in calls]
    finally:
        serve.delete("gate")
    passed = [answer["passed"] for answer in answers]
    alone = Counter(answer["alone"] for answer in answers if answer["alone"] is not None)
    print(
        f"{len(answers)} calls to {len({answer['replica'] for answer in answers})} replicas; "
        f"{sum(each is not None for each in passed)} passed"
    )
    print(f"most in one window, counted in raykv: {most_in_a_window(passed)} (the limit is {limit})")
    print(f"most in one window, had each replica counted alone: {max(alone.values())}")


def main() -> int:
    """Run the demo on a store of its own; return the exit code."""
    return alone(lambda store, _: demo(store), needs="serve")


if __name__ == "__main__":
    sys.exit(main())
