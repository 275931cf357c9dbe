"""A client's link to a coordinator of the store: calls of its Ray actor.

A link to a pool keeps to one coordinator, drawn at random, until that one does not answer.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from raykv.actors.calls import RayTransport, in_a_thread
from raykv.actors.forks import require_ray_to_work
from raykv.actors.naming import find_actor, pool_of
from raykv.actors.this_process import ThisProcess
from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Sequence


class CoordinatorLink(ThisProcess):
    """Sync and async calls. Holds neither socket nor thread, and works in any event loop."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._handle: Any = None
        self._peer: str | None = None
        self._transport = RayTransport(store)

    def _drawn(self) -> str:
        """Return the name of this link's coordinator. Raises ``ValueError`` if there is none."""
        peer = self._peer  # another thread may forget it meanwhile
        if peer is None:
            if not ray.is_initialized():
                raise ValueError("Ray is not connected in this process")
            if not (pool := pool_of(self._store)):
                raise ValueError("no coordinator runs")
            peer = self._peer = random.choice(pool)  # noqa: S311 - a random choice, not a secret
        return peer

    def _lost(self) -> None:
        self._handle = self._peer = None

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Any]:
        """See ``client.driver.Link``."""
        del meanwhile  # Ray delivers answers one by one anyway
        return [self._submit(request) for request in requests]

    def _submit(self, request: f.CoordinatorRequest) -> Any:
        require_ray_to_work()
        frame = f.coordinator_requests.encode(request)
        handle = self._handle  # another thread may forget it meanwhile
        if handle is None:
            try:
                handle = self._handle = find_actor(self._store, self._drawn())
            except ValueError:
                self._lost()
                return PeerAbsent("no such process runs")
        if not ray.is_initialized():  # Ray was shut down in this process; a call would start it again
            self._lost()
            return PeerAbsent("Ray is not connected in this process")
        try:
            return handle.serve.remote(frame)
        except Exception as error:  # noqa: BLE001 - the handle is of a former session; Ray has no class for that
            self._lost()
            return PeerAbsent(f"Ray could not send: {str(error)[:200]}")

    def result(self, ticket: Any, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        try:
            answer: bytes = ray.get(ticket, timeout=timeout_s)
        except GetTimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except ActorDiedError:
            self._lost()
            raise PeerDead("its process has ended") from None
        except RayError as error:
            self._lost()
            raise PeerUnreachable(f"Ray could not deliver: {type(error).__name__}") from None
        except BaseException:
            with contextlib.suppress(Exception):  # it goes on there; later writes of its keys wait for it
                ray.cancel(ticket)
            raise
        return f.coordinator_answers.decode(answer)

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        require_ray_to_work()
        peer = self._peer
        try:
            if peer is None:
                peer = await in_a_thread(self._drawn)
        except ValueError:
            raise PeerAbsent("no such process runs") from None
        try:
            answer = await self._transport.call(peer, f.coordinator_requests.encode(request), timeout_s)
        except PeerFailure:
            self._lost()
            raise
        return f.coordinator_answers.decode(answer)

    def close(self) -> None:
        """See ``client.driver.Link``."""
