"""Listens, and hands the frames that come to a handler."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING, cast

from raykv.actors.admission import may_wait
from raykv.actors.stream import wire
from raykv.actors.stream.sockets import LOCAL, Endpoint, local_host, local_path, watch_the_other_end
from raykv.config import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.actors.admission import Admission

logger = logging.getLogger("raykv.stream")

HANDSHAKE_S = 5.0
LOOPBACK = "127.0.0.1"
MAX_WAITING = 1024
"""Connections that the kernel keeps until they are looked at: a local socket refuses more at once."""
MAX_STRANGERS = 64
"""Connections that have not proved anything yet; of more the oldest is dropped."""
MAX_CONNECTIONS = 4096
MAX_UNDER_WAY = 4096
MAX_UNDER_WAY_BYTES = 2 * MAX_FRAME_BYTES
"""Requests of one connection that are being handled; past it nothing is read from it until half of them are done."""
HIGH_WATER_BYTES = 4 * 1024 * 1024
"""Answers that wait for the other side to read them; past it nothing is read from it until it does."""
MAX_UNREAD_BYTES = 4 * MAX_FRAME_BYTES
"""Past it the connection is dropped: the other side does not read."""


class StreamServer:
    """Answers frames. For one event loop."""

    def __init__(
        self,
        serve: Callable[[bytes], bytes | Awaitable[bytes]],
        admission: Admission | None = None,
        refusal: Callable[[], bytes] = bytes,
    ) -> None:
        """``serve(frame)``: the answer, or what brings it. ``admission``: who is let in; ``refusal()``: what others hear."""
        self.admission = admission
        self.refusal = refusal
        self.secret = secrets.token_bytes(32)
        """Of this run. Who knows it may ask anything."""
        self.serve = serve
        self.strangers: dict[_Connection, None] = {}
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._listening: dict[str, asyncio.Server] = {}
        self._local = local_host(f"raykv-{secrets.token_hex(8)}")
        self._opening = asyncio.Lock()

    async def listen(self, host: str) -> Endpoint:
        """Listen on this address of the host, if it does not yet, and return where. Raises ``OSError``."""
        assert host not in {"", "0.0.0.0", "::"}, "never on all addresses"  # noqa: S104
        async with self._opening:
            if host not in self._listening:
                loop = asyncio.get_running_loop()
                self._listening[host] = await loop.create_server(
                    lambda: _Connection(self, loop), host, 0, backlog=MAX_WAITING
                )
        return Endpoint(host, self._listening[host].sockets[0].getsockname()[1], self.secret)

    async def listen_locally(self) -> Endpoint:
        """Listen for processes of this machine alone. Raises ``OSError``."""
        if not LOCAL:
            return await self.listen(LOOPBACK)
        async with self._opening:
            if self._local not in self._listening:
                loop = asyncio.get_running_loop()
                self._listening[self._local] = await loop.create_unix_server(
                    lambda: _Connection(self, loop), local_path(self._local), backlog=MAX_WAITING
                )
        return Endpoint(self._local, 0, self.secret)

    async def close(self) -> None:
        """Close all sockets, and cancel what is being handled."""
        for server in self._listening.values():
            server.close()
        self._listening.clear()
        for connection in [*self.connections, *self.strangers]:
            connection.drop()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks.clear()
        await asyncio.sleep(0)  # the loop tells of the end of a connection in its next turn


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, server: StreamServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._handshake: wire.ServerHandshake | None = wire.ServerHandshake(
            server.secret, secrets.token_bytes(wire.NONCE_BYTES)
        )
        self._reader = wire.Reader()
        self._outbox = wire.Outbox(loop.call_soon, self._write)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._under_way = 0
        self._under_way_bytes = 0
        self._unread = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        server = self._server
        self._transport = tcp = cast("asyncio.Transport", transport)  # uvloop's is none by type
        if len(server.connections) >= MAX_CONNECTIONS:
            tcp.abort()
            return
        while len(server.strangers) >= MAX_STRANGERS:
            next(iter(server.strangers)).drop()
        server.strangers[self] = None
        self._deadline = self._loop.call_later(HANDSHAKE_S, self.drop)
        watch_the_other_end(transport)
        tcp.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            if self._handshake is not None:
                self._write([self._handshake.feed(data)])
                if not self._handshake.done:
                    return
                data, self._handshake = self._handshake.rest, None
                self._forget_stranger()
                self._server.connections.add(self)
            frames = self._reader.feed(data)
            if len(frames) == 1 and not self._under_way and may_wait(frames[0][2]):
                self._take(frames[0][0], frames[0][2])
            else:
                for number, _, frame in frames:
                    self._begin(number, frame)
        except wire.WireError as error:
            logger.debug("a connection was dropped: %s", error)
            self._write([error.reply])
            self._transport.close() if error.reply else self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``. What it had asked is carried on with, as with an actor's calls."""
        del exc
        self._forget_stranger()
        self._server.connections.discard(self)
        self._transport = None

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread = True
        self._steer()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread = False
        self._steer()

    def drop(self) -> None:
        """Close at once."""
        self._forget_stranger()
        if self._transport is not None:
            self._transport.abort()

    def _forget_stranger(self) -> None:
        self._server.strangers.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _take(self, number: int, frame: bytes) -> None:
        """Answer an operation beside which there is nothing else of this caller's, at once if it waits for nothing.

        Most wait for nothing. A task for each would cost a second turn of the event loop, which, in a process that was
        asleep a moment ago, takes longer than the answer.
        """
        admission = self._server.admission
        if admission is not None and not admission.lets_in(self):
            self._answer(number, wire.ANSWER, self._server.refusal())
            return
        try:
            answer = self._server.serve(frame)
        except Exception:
            logger.exception("a request failed")
            self._answer(number, wire.FAILED, b"")
            return
        if isinstance(answer, bytes):
            self._answer(number, wire.ANSWER, answer)
            return
        if admission is not None:
            entered = admission.enter(self)
            assert entered, "nothing else has come meanwhile"
        self._spawn(number, frame, answer, admission)

    def _begin(self, number: int, frame: bytes) -> None:
        """Begin with one of several requests."""
        admission = self._server.admission if may_wait(frame) else None
        if admission is not None and not admission.enter(self):
            self._answer(number, wire.ANSWER, self._server.refusal())
            return
        self._spawn(number, frame, None, admission)

    def _spawn(self, number: int, frame: bytes, begun: Awaitable[bytes] | None, admission: Admission | None) -> None:
        """``begun``: what brings the answer, if it is at work already; ``admission``: what it is to leave."""
        self._under_way += 1
        self._under_way_bytes += len(frame)
        if self._under_way >= MAX_UNDER_WAY or self._under_way_bytes > MAX_UNDER_WAY_BYTES:
            self._steer()
        task = self._loop.create_task(self._serve(number, frame, begun, admission, time.monotonic()))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _serve(
        self, number: int, frame: bytes, begun: Awaitable[bytes] | None, admission: Admission | None, came_s: float
    ) -> None:
        kind, answer = wire.FAILED, b""
        try:
            if admission is not None:
                admission.waited(time.monotonic() - came_s)
            answered = self._server.serve(frame) if begun is None else begun
            if not isinstance(answered, bytes):
                answered = await answered
            assert len(answered) <= MAX_FRAME_BYTES
            kind, answer = wire.ANSWER, answered
        except Exception:
            logger.exception("a request failed")
        finally:
            if admission is not None:
                admission.leave(self)
            self._under_way -= 1
            self._under_way_bytes -= len(frame)
            if self._paused:
                self._steer()
            self._answer(number, kind, answer)

    def _answer(self, number: int, kind: int, answer: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._under_way and not self._outbox.waiting:
            transport.write(wire.head(number, kind, answer) + answer)  # no other will join it
        else:
            self._outbox.put(number, kind, answer)
        if transport.get_write_buffer_size() + self._outbox.waiting_bytes > MAX_UNREAD_BYTES:
            logger.warning("a connection was dropped: its other end does not read its answers")
            self.drop()

    def _steer(self) -> None:
        """Read on, or not."""
        factor = 2 if self._paused else 1
        too_much = (
            self._unread
            or self._under_way * factor >= MAX_UNDER_WAY
            or self._under_way_bytes * factor > MAX_UNDER_WAY_BYTES
        )
        if self._transport is None or self._transport.is_closing() or too_much == self._paused:
            return
        self._paused = too_much
        if too_much:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self, parts: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)
