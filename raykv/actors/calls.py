"""Frames between processes: as Ray actor calls, or over streams where the actors listen.

Frames travel as ``bytes``; no raykv object is pickled. Handles are looked up by name, and looked up again after a death.
Every call has its own deadline, because Ray takes a minute to notice a frozen process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from raykv.actors.naming import find_actor
from raykv.ports import PeerAbsent, PeerDead, PeerSilent, PeerUnreachable
from raykv.transport import Endpoint, StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ENDPOINT_TIMEOUT_S = 5.0
MOST_THREADS = 16
OWN_CALL_TIMEOUT_S = 60.0
OWN_CALL_EVERY_S = 0.1
OWN_CALL_AT_LEAST_EVERY_S = 5.0
NOT_OPEN = ("", 0, b"")
"""The endpoint reported by an actor that does not listen yet."""


class RayTransport:
    """``ports.Transport`` over the actors of one store."""

    def __init__(self, store: str, *, threads: bool = False) -> None:
        """``threads``: await answers in threads. Inside an async actor, Ray delivers them in the actor's own event loop.

        A blocking call from there would block the very loop that must deliver its answer, and never return.
        """
        self._threads = threads
        self._store = store
        self._handles: dict[str, Any] = {}

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``."""
        try:
            async with asyncio.timeout(timeout_s):
                handle = self._handles.get(peer) or await self._find(peer)
                answer: bytes = await self._answer(self._send(peer, handle.serve, frame), timeout_s)
                return answer
        except (TimeoutError, GetTimeoutError):
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except ActorDiedError:
            self._handles.pop(peer, None)
            raise PeerDead("its process has ended") from None
        except RayError as error:
            self._handles.pop(peer, None)
            raise PeerUnreachable(f"Ray could not deliver: {type(error).__name__}") from None

    async def endpoint(self, peer: str) -> Endpoint | None:
        """Ask the actor where it listens for streams; None if it does not listen. Raises ``PeerFailure``."""
        handle = self._handles.get(peer) or await self._find(peer)
        if not hasattr(handle, "stream"):  # this kind of actor does not listen
            return None
        try:
            place: tuple[str, int, bytes] | None = await self._answer(
                self._send(peer, handle.stream, this_address()), ENDPOINT_TIMEOUT_S
            )
        except RayError as error:
            raise PeerUnreachable(f"Ray could not deliver: {type(error).__name__}") from None
        if place is not None and not place[0]:
            raise PeerAbsent("it is not open yet")
        return Endpoint(*place) if place is not None else None

    def _send(self, peer: str, method: Any, argument: Any) -> Any:
        """Call an actor's method; return Ray's reference to the answer. Raises ``PeerAbsent`` if nothing was sent."""
        if not ray.is_initialized():  # Ray was shut down in this process; a call would start it again
            raise PeerAbsent("Ray is not connected in this process")
        try:
            return method.remote(argument)
        except RayError:
            raise
        except Exception as error:  # noqa: BLE001 - Ray has forgotten an ended actor, and has no class for that
            self._handles.pop(peer, None)
            raise PeerAbsent(f"Ray could not send: {str(error)[:200]}") from None

    async def _answer(self, reference: Any, timeout_s: float) -> Any:
        if not self._threads:
            return await _ended(reference.future())
        try:
            return await in_a_thread(partial(ray.get, reference, timeout=timeout_s))
        except BaseException:
            # Ray prints unretrieved errors in the user's program; retrieve late ones too.
            with contextlib.suppress(Exception):
                reference.future()
            raise

    async def _find(self, peer: str) -> Any:
        try:
            # A look-up is a blocking request to the head; it runs in a thread.
            handle = await in_a_thread(partial(find_actor, self._store, peer))
        except ValueError:
            raise PeerAbsent("no such process runs") from None
        self._handles[peer] = handle
        return handle


class Inherited:
    """A forked child's transport: Ray does not work there, but the peers that the parent was connected to are reachable."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``: always fails."""
        del frame, timeout_s
        known = "where it listened" if peer in self._endpoints else "that its parent had no connection to"
        raise PeerAbsent(f"this process was forked: Ray does not work in it, and it cannot reach {peer} {known}")

    async def endpoint(self, peer: str) -> Endpoint | None:
        """Return where the peer listened before the fork; None if unknown."""
        return self._endpoints.get(peer)


async def in_a_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread and await it. Raises its error; ``PeerAbsent`` if no thread is available."""
    try:
        future = _threads().submit(work)
    except RuntimeError as error:  # the interpreter is shutting down, or no more threads can start
        raise PeerAbsent(f"this process cannot start another thread ({error})") from None
    return await _ended(future)


_pools: dict[int, ThreadPoolExecutor] = {}
"""Process id -> its threads for blocking work; a forked child has none of its parent's."""


def _threads() -> ThreadPoolExecutor:
    pool = _pools.get(os.getpid())
    return pool or _pools.setdefault(os.getpid(), ThreadPoolExecutor(MOST_THREADS, "raykv-ask"))


async def _ended(future: Future[T]) -> T:
    """Await a future of another thread. If the loop is closed by then, asyncio would print an error there."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def pass_on() -> None:
        if waiter.done():
            return
        if (error := future.exception()) is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(future.result())

    def wake(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(pass_on)

    future.add_done_callback(wake)
    return await waiter


def fast_transport(
    store: str, *, threads: bool = False, inherited: dict[str, Endpoint] | None = None
) -> StreamTransport:
    """Return the transport of processes that call often: over streams, and by actor calls while there is no stream.

    ``threads``: see ``RayTransport``. ``inherited``: in a forked child, where peers listen; only they are reachable.
    """
    if inherited is not None:
        left = Inherited(inherited)
        return StreamTransport(left, left.endpoint, patient=True)
    calls = RayTransport(store, threads=threads)
    return StreamTransport(calls, calls.endpoint)


def call_itself(method: str) -> None:
    """Have a method of this actor called, from its constructor: nobody calls an actor that Ray has restarted.

    Until Ray's head has told this process that its own actor runs, Ray refuses calls of it. So the call is repeated, in a
    thread, until it is answered.
    """
    own = getattr(ray.get_runtime_context().current_actor, method)
    threading.Thread(target=_until_answered, args=(own,), name=f"raykv-{method}", daemon=True).start()


def _until_answered(method: Any) -> None:
    every_s = OWN_CALL_EVERY_S
    while True:
        try:
            method.remote().future().result(OWN_CALL_TIMEOUT_S)  # Ray warns of its own ``get`` in an actor with a loop
        except (RayError, TimeoutError):
            time.sleep(every_s)
            every_s = min(2 * every_s, OWN_CALL_AT_LEAST_EVERY_S)
        else:
            return


def this_address() -> str:
    """Return the address by which the Ray cluster's hosts reach this one."""
    return str(ray.util.get_node_ip_address())


async def until_ended(handle: Any) -> bool:
    """Wait until the actor's process has ended (a call that never returns fails at once then). False: unknown."""
    try:
        await handle.forever.remote()
    except ActorDiedError:
        return True
    except RayError:
        return False
    return False
