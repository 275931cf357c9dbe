"""A client's link to the store's coordinator: calls of the coordinator's Ray actor."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from raykv.actors.naming import COORDINATOR, find_actor
from raykv.actors.transport import RayTransport
from raykv.ports import PeerAbsent, PeerDead, PeerSilent, PeerUnreachable


class ThisProcess:
    """What every ``client.driver.Link`` of a real process has of it: time and randomness."""

    def monotonic_s(self) -> float:
        """See ``client.driver.Link``."""
        return time.monotonic()

    def pause(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        time.sleep(delay_s)

    async def sleep(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        await asyncio.sleep(delay_s)

    def random_bytes(self, count: int) -> bytes:
        """See ``client.driver.Link``."""
        return os.urandom(count)


class CoordinatorLink(ThisProcess):
    """Sync and async calls. Holds no socket and no thread, so it works in any event loop."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._handle: Any = None
        self._transport = RayTransport(store)

    def submit(self, frame: bytes) -> Any:
        """See ``client.driver.Link``."""
        if self._handle is None:
            try:
                self._handle = find_actor(self._store, COORDINATOR)
            except ValueError:
                raise PeerAbsent("no such process runs") from None
        try:
            return self._handle.serve.remote(frame)
        except RayError as error:  # Ray was shut down in this process
            self._handle = None
            raise PeerAbsent(f"Ray could not send: {type(error).__name__}") from None

    def result(self, ticket: Any, timeout_s: float) -> bytes:
        """See ``client.driver.Link``."""
        try:
            answer: bytes = ray.get(ticket, timeout=timeout_s)
        except GetTimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except ActorDiedError:
            self._handle = None
            raise PeerDead("its process has ended") from None
        except RayError as error:
            self._handle = None
            raise PeerUnreachable(f"Ray could not deliver: {type(error).__name__}") from None
        return answer

    async def call(self, frame: bytes, timeout_s: float) -> bytes:
        """See ``client.driver.Link``."""
        return await self._transport.call(COORDINATOR, frame, timeout_s)

    def close(self) -> None:
        """See ``client.driver.Link``."""
