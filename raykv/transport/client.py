"""Calls over streams, and over Ray where there is no stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from raykv.cluster.background import Background
from raykv.cluster.peers import PeerRefused
from raykv.config import MAX_FRAME_BYTES
from raykv.ports import PeerFailure, PeerSilent, PeerUnreachable
from raykv.transport import wire
from raykv.transport.sockets import open_connection, watch_the_other_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.ports import Heard, Transport
    from raykv.transport.sockets import Endpoint

logger = logging.getLogger("raykv.stream")

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""Bytes that may wait for a peer to read them, plus one frame of any size; past it a call is refused at once."""
CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
NOT_LISTENING_PAUSE_S = 30.0
SWEEP_PAUSE_S = 0.002
QUIET_S = 0.5
"""A connection that received nothing for this long, while a call timed out, is given up."""


class Connection(asyncio.Protocol):
    """A connection to one server, with any number of requests in flight. Made by ``connect``."""

    def __init__(self, secret: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handshake: wire.ClientHandshake | None = wire.ClientHandshake(
            secret, secrets.token_bytes(wire.NONCE_BYTES)
        )
        self._reader = wire.Reader()
        self._outbox = wire.Outbox(loop.call_soon, self._write)
        self._pending: dict[int, tuple[Heard, int]] = {}
        """Number of a request -> the receiver of its outcome, and the value of ``heard`` when it was sent."""
        self._posted: dict[int, tuple[float, float]] = {}
        """Number of a posted request -> its deadline, and its time-out; the oldest first."""
        self._sweep: asyncio.TimerHandle | None = None
        self._last = 0
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # the waiter may be gone
        self.usable = False
        """Whether it takes calls: it is established, and has not been given up."""
        self.heard = 0
        """How often data arrived after the handshake."""
        self._dropped = False

    async def call(self, frame: bytes, timeout_s: float) -> bytes:
        """Send ``frame``, return the answer. Call only while ``usable``; raises as ``ports.Transport``."""
        self._check_room(frame)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        number = self._number(partial(_settle, answer))
        timer = self._loop.call_later(timeout_s, self._expire, number, timeout_s)
        self._outbox.put(number, wire.REQUEST, frame)
        try:
            return await answer
        finally:
            timer.cancel()
            self._forget(number)

    def post(self, frame: bytes, timeout_s: float, heard: Heard) -> None:
        """Send ``frame`` at once, and call ``heard`` with the outcome, later. Call only while ``usable``.

        One timer serves all posted requests, so their time-outs should be similar.
        """
        try:
            self._check_room(frame)
        except PeerFailure as failure:
            self._loop.call_soon(heard, failure)
            return
        number = self._number(heard)
        self._posted[number] = self._loop.time() + timeout_s, timeout_s
        if self._sweep is None:
            self._sweep = self._loop.call_later(timeout_s, self._sweep_posted)
        assert self._transport is not None
        self._transport.write(wire.head(number, wire.REQUEST, frame) + frame)

    def _check_room(self, frame: bytes) -> None:
        assert self.usable
        assert self._transport is not None
        unsent_bytes = self._transport.get_write_buffer_size() + self._outbox.waiting_bytes
        if len(frame) > MAX_FRAME_BYTES or (unsent_bytes and unsent_bytes + len(frame) > MAX_UNSENT_BYTES):
            raise PeerRefused("overloaded", f"{unsent_bytes} bytes wait to be sent to it already")

    def _number(self, heard: Heard) -> int:
        self._last += 1
        self._pending[self._last] = heard, self.heard
        return self._last

    def _sweep_posted(self) -> None:
        """End the posted requests that have timed out."""
        now_s, self._sweep = self._loop.time(), None
        for number, (until_s, timeout_s) in [*self._posted.items()]:
            if until_s > now_s:
                break
            if number in self._posted:  # a receiver may have closed the connection
                receive, heard = self._pending[number]
                self._forget(number)
                self._note_silence(heard, timeout_s)
                receive(PeerSilent(f"no answer within {timeout_s:.3g} s"))
        if self._posted and self._sweep is None:  # receivers may have posted more, which set it
            until_s, _ = next(iter(self._posted.values()))
            # A loop may call a moment early: its clock stands still within a turn, and some round to milliseconds.
            self._sweep = self._loop.call_at(max(until_s, now_s + SWEEP_PAUSE_S), self._sweep_posted)

    def give_up(self) -> None:
        """Take no more calls; close once those in flight have ended."""
        self.usable = False
        if not self._pending:
            self.close()

    def close(self) -> None:
        """Close at once; calls in flight end with ``PeerUnreachable``."""
        self.usable = False
        if self._loop.is_closed():
            self.drop()
        elif self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close at once, without the loop, which is closed or gone; no call gets an outcome."""
        self._dropped = True
        self.usable = False
        self._pending.clear()
        self._posted.clear()
        with contextlib.suppress(Exception):
            # asyncio's would keep its socket. uvloop closes its own, except those that are collected first: this one
            # therefore stays in a cycle with this object.
            self._transport._call_connection_lost(None)  # type: ignore[union-attr] # noqa: SLF001

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        assert self._handshake is not None
        self._transport = tcp = cast("asyncio.Transport", transport)  # uvloop's is none by type
        watch_the_other_end(transport)
        tcp.write(self._handshake.hello())

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            if self._handshake is not None:
                self._shake_hands(self._handshake, data)
                return
            self.heard += 1
            for number, kind, frame in self._reader.feed(data):
                heard, _ = self._pending.get(number, (None, 0))
                if heard is None:
                    continue  # no call waits for it any more
                if number in self._posted:
                    self._forget(number)
                heard(frame if kind == wire.ANSWER else PeerUnreachable("it failed while it was at the request"))
        except wire.WireError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._end(exc or ConnectionResetError("the other side has closed"))

    def _shake_hands(self, handshake: wire.ClientHandshake, data: bytes) -> None:
        self._write([handshake.feed(data)])
        if handshake.done:
            self._handshake = None
            if not self.ready.done():
                self.usable = True
                self.ready.set_result(None)

    def _expire(self, number: int, timeout_s: float) -> None:
        receive, heard = self._pending[number]
        receive(PeerSilent(f"no answer within {timeout_s:.3g} s"))
        self._note_silence(heard, timeout_s)

    def _note_silence(self, heard: int, timeout_s: float) -> None:
        """Give the connection up if nothing has arrived on it for long; ``heard``: the count at that time."""
        if heard == self.heard and timeout_s >= QUIET_S:
            self.give_up()

    def _forget(self, number: int) -> None:
        if self._dropped:
            return
        del self._pending[number]
        self._posted.pop(number, None)
        if not self.usable and not self._pending:
            self.close()

    def _write(self, parts: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)

    def _end(self, error: Exception) -> None:
        if self._dropped:
            return
        if not self.ready.done():
            self.ready.set_exception(error)
        self.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for number, (heard, _) in list(self._pending.items()):
            if number in self._posted:
                self._forget(number)
            heard(PeerUnreachable(f"the connection to it was lost: {error}"))


def _settle(answer: asyncio.Future[bytes], outcome: bytes | PeerFailure) -> None:
    if answer.done():
        return
    if isinstance(outcome, PeerFailure):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


async def connect(endpoint: Endpoint) -> Connection:
    """Return an established connection. Raises ``OSError``, ``WireError``."""
    loop = asyncio.get_running_loop()
    connection = await open_connection(loop, lambda: Connection(endpoint.secret, loop), endpoint)
    try:
        await connection.ready
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class _Route:
    """The route to one peer."""

    connection: Connection | None = None
    endpoint: Endpoint | None = None
    """Where it leads."""
    connecting: asyncio.Task[None] | None = None
    next_try_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class StreamTransport:
    """``ports.Transport`` over streams. For one event loop."""

    def __init__(
        self, beside: Transport, locate: Callable[[str], Awaitable[Endpoint | None]], *, patient: bool = False
    ) -> None:
        """``beside``: carries the calls while no connection is established.

        ``locate(peer)``: where it listens; None if it does not. May raise ``PeerFailure``.
        ``patient``: wait for a connection in progress instead of using ``beside``.
        """
        self._beside = beside
        self._locate = locate
        self._patient = patient
        self._random = random.SystemRandom()
        self._routes: dict[str, _Route] = {}
        self._making = Background()
        """Connections in progress."""

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``."""
        route = self._routes.get(peer)
        if route is None:
            route = self._routes[peer] = _Route()
        if route.connection is not None and route.connection.usable:
            return await route.connection.call(frame, timeout_s)
        self._begin_to_connect(peer, route)
        if self._patient and route.connecting is not None:
            loop = asyncio.get_running_loop()
            deadline_s = loop.time() + timeout_s
            await asyncio.wait([route.connecting], timeout=timeout_s)
            if route.connection is not None and route.connection.usable:
                return await route.connection.call(frame, max(0.001, deadline_s - loop.time()))
        return await self._beside.call(peer, frame, timeout_s)

    def post(self, peer: str, frame: bytes, timeout_s: float, heard: Heard) -> bool:
        """Send ``frame`` if a stream is established, and call ``heard`` with the outcome, later. False: there is none."""
        route = self._routes.get(peer)
        if route is None or route.connection is None or not route.connection.usable:
            return False
        route.connection.post(frame, timeout_s, heard)
        return True

    def connected(self) -> list[str]:
        """Return the peers with an established connection, sorted."""
        return sorted(peer for peer, route in self._routes.items() if route.connection and route.connection.usable)

    def endpoint(self, peer: str) -> Endpoint | None:
        """Return where the present connection to a peer leads; None if there is none."""
        route = self._routes.get(peer)
        return (
            route.endpoint if route is not None and route.connection is not None and route.connection.usable else None
        )

    def endpoints(self) -> dict[str, Endpoint]:
        """Return peer -> where the last connection to it led."""
        routes = list(self._routes.items())
        return {peer: route.endpoint for peer, route in routes if route.endpoint is not None}

    @property
    def connecting(self) -> bool:
        """Whether a connection is in progress."""
        return bool(self._making)

    async def close(self) -> None:
        """Close all connections; calls in flight on them end with ``PeerUnreachable``."""
        routes, self._routes = list(self._routes.values()), {}
        tasks = [route.connecting for route in routes if route.connecting is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for route in routes:
            if route.connection is not None:
                route.connection.close()

    def drop(self) -> None:
        """Close all connections, without the loop, which is closed or gone."""
        routes, self._routes = list(self._routes.values()), {}
        for route in routes:
            if route.connection is not None:
                route.connection.drop()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that make connections."""
        return [*self._making]

    def _begin_to_connect(self, peer: str, route: _Route) -> None:
        loop = asyncio.get_running_loop()
        if route.connecting is not None or loop.time() < route.next_try_s:
            return
        if route.connection is not None and route.connection.heard:
            route.pause_s = FIRST_PAUSE_S  # it was of use: this is no series of failures
        route.connecting = self._making.start(partial(self._connect, peer, route, loop))

    async def _connect(self, peer: str, route: _Route, loop: asyncio.AbstractEventLoop) -> None:
        pause_s, route.pause_s = route.pause_s, min(LONGEST_PAUSE_S, 2 * route.pause_s)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                endpoint = await self._locate(peer)
                if endpoint is None:
                    pause_s = NOT_LISTENING_PAUSE_S
                else:
                    route.connection, route.endpoint = await connect(endpoint), endpoint
        except (OSError, wire.WireError, PeerFailure) as error:  # TimeoutError is an OSError
            logger.debug("no stream to %s: %s", peer, error)
        finally:
            # Spread out, since others lost it at the same time.
            route.next_try_s = loop.time() + pause_s * (0.5 + self._random.random())
            route.connecting = None
