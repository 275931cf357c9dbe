"""Listens, and hands incoming frames to a handler."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from raykv.config import MAX_FRAME_BYTES, MIB
from raykv.system.descriptors import ceiling_of_sockets, limit
from raykv.transport import encryption, wire
from raykv.transport.admission import may_wait
from raykv.transport.callers import Callers
from raykv.transport.sockets import (
    LOCAL,
    Endpoint,
    hand_over,
    local_host,
    local_path,
    may_be_trusted,
    peer_of,
    watch_the_other_end,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.transport.admission import Admission
    from raykv.transport.callers import Caller

logger = logging.getLogger("raykv.stream")

HANDSHAKE_S = 5.0
LOOPBACK = "127.0.0.1"
MAX_WAITING = 1024
"""The kernel's queue of connections not yet accepted: a local socket refuses more at once."""
MAX_CONNECTIONS = 4096
"""Or half of the descriptors, if that is fewer."""
AT_ONCE = 32
"""Connections accepted in a row before the loop serves requests again."""
BURST, PER_SECOND = 256, 500
"""The burst of connections that are examined, and the rate per second after it: a flood must cost little. Established
connections are served meanwhile, and a queued client falls back to Ray's calls."""
BREATH_S = 0.01
"""The pause in accepting when those are used up."""
SHORT_OF_DESCRIPTORS_S = 0.2
MAX_UNDER_WAY = 4096
MAX_UNDER_WAY_BYTES = 2 * MAX_FRAME_BYTES
"""Requests of one caller in flight; past it no more of its requests begin until half of them are done."""
MAX_BEGUN = 8
"""Requests that bypass admission, begun for one caller in a turn of the event loop."""
REST = 3
MAX_REST_S = 0.05
"""A caller that sends more of those than a turn begins waits, before the next ones, this many times as long as they took:
they get no more than a quarter of the node's time, however many there are."""
HIGH_WATER_BYTES = 1 * MIB
"""Unread answers; past it none of the peer's requests begin until it reads."""
MAX_UNREAD_BYTES = 2 * MAX_FRAME_BYTES
"""Unread answers past which the connection is dropped: the peer does not read."""
PATIENCE_S = 10.0
"""A peer that reads nothing of an answer, or sends nothing of a frame in progress, for this long is dropped."""
MAX_HELD_BYTES = 8 * MAX_FRAME_BYTES
"""The memory of all connections for partial frames, requests and answers. Past it the connection that holds the most is
dropped."""
LOOK_EVERY_S = 1.0
LOOK_EVERY_BYTES = 16 * MIB


class StreamServer:
    """Answers frames. For one event loop."""

    def __init__(
        self,
        serve: Callable[[bytes], bytes | Awaitable[bytes]],
        admission: Admission | None = None,
        refusal: Callable[[], bytes] = bytes,
        *,
        cancels: bool = False,
    ) -> None:
        """``serve(frame)``: the answer, or an awaitable. ``admission``: lets callers in; ``refusal()``: what others get.

        ``cancels``: whether awaiting an answer is cancelled once its connection is lost, as nobody waits for it.
        """
        self.cancels = cancels
        self.admission = admission
        self.refusal = refusal
        self.secret = secrets.token_bytes(32)
        """The secret of this run. Knowing it permits any request."""
        self.serve = serve
        self.callers = Callers(min(MAX_CONNECTIONS, ceiling_of_sockets(limit())))
        self.tasks: set[asyncio.Task[None]] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self._listening: dict[str, socket.socket] = {}
        self._local = local_host(f"raykv-{secrets.token_hex(8)}")
        self._opening = asyncio.Lock()
        self._look: asyncio.TimerHandle | None = None
        self._credit = float(BURST)
        """How many connections may be examined now, as of ``_credited_s``."""
        self._credited_s = 0.0
        self._unlooked_bytes = 0

    async def listen(self, host: str) -> Endpoint:
        """Listen on this address of the host, unless it already does, and return where. Raises ``OSError``."""
        assert host not in {"", "0.0.0.0", "::"}, "never on all addresses"  # noqa: S104
        async with self._opening:
            if host not in self._listening:
                encryption.context(server=True)  # errors in the settings show up now
                infos = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM)
                family, *_, address = infos[0]
                self._listen(host, family, address)
        return Endpoint(host, self._listening[host].getsockname()[1], self.secret)

    async def listen_locally(self) -> Endpoint:
        """Listen for processes of this machine only. Raises ``OSError``."""
        if not LOCAL:
            return await self.listen(LOOPBACK)
        async with self._opening:
            if self._local not in self._listening:
                self._listen(self._local, socket.AF_UNIX, local_path(self._local))
        return Endpoint(self._local, 0, self.secret)

    def _listen(self, host: str, family: int, address: str | tuple[object, ...]) -> None:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family != socket.AF_UNIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(MAX_WAITING)
            listener.setblocking(False)
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)
        except BaseException:
            listener.close()
            raise
        self._listening[host] = listener

    def _accept(self, listener: socket.socket) -> None:
        """Accept some of the waiting connections; a rejected one is closed at once, which costs next to nothing."""
        now_s = time.monotonic()
        self._credit = min(BURST, self._credit + (now_s - self._credited_s) * PER_SECOND)
        self._credited_s = now_s
        for _ in range(min(AT_ONCE, int(self._credit))):
            try:
                came, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:  # no descriptor or no memory is left: the error would repeat at once
                if error.errno not in {errno.EMFILE, errno.ENFILE}:
                    logger.warning("nobody can be let in: %s", error.strerror or error)
                self._listen_again_in(SHORT_OF_DESCRIPTORS_S, listener)
                return
            self._credit -= 1
            if not self._let_in(came):
                came.close()
        if self._credit < 1:
            self._listen_again_in(BREATH_S, listener)

    def _listen_again_in(self, delay_s: float, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def again() -> None:
            if listener.fileno() >= 0:  # it has not been closed meanwhile
                loop.add_reader(listener.fileno(), self._accept, listener)

        loop.call_later(delay_s, again)

    def _let_in(self, came: socket.socket) -> bool:
        """Whether the connection is examined. Its caller has proved nothing yet."""
        if came.fileno() >= ceiling_of_sockets(limit()):
            return False
        try:
            who, far, uid = peer_of(came)
        except OSError:  # it is gone again
            return False
        now_s = time.monotonic()
        caller = self.callers.let_in(who, now_s, far=far) if may_be_trusted(uid) else None
        if caller is None:
            return False
        loop = asyncio.get_running_loop()
        came.setblocking(False)
        connection = _Connection(self, loop, caller, now_s)
        self.callers.came(connection)
        connection.opening = opening = loop.create_task(self._open(loop, connection, came))
        self.opening.add(opening)

        def opened(_: asyncio.Task[None]) -> None:
            self.opening.discard(opening)
            if opening.cancelled():  # perhaps before it had begun
                came.close()

        opening.add_done_callback(opened)
        self.look_soon()
        return True

    @staticmethod
    async def _open(loop: asyncio.AbstractEventLoop, connection: _Connection, came: socket.socket) -> None:
        try:
            secured = None if came.family == socket.AF_UNIX else encryption.context(server=True)
            await loop.connect_accepted_socket(
                lambda: connection, came, ssl=secured, ssl_handshake_timeout=HANDSHAKE_S if secured else None
            )
            hand_over(loop, came)
        except OSError as error:
            logger.debug("a connection did not come about: %s", error)
            came.close()
            connection.drop()

    def look_soon(self) -> None:
        """Make sure that connections are inspected as long as there are any."""
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.look)

    def took(self, count: int) -> None:
        """Count ``count`` bytes that may stay in memory for long."""
        self._unlooked_bytes += count
        if self._unlooked_bytes > LOOK_EVERY_BYTES:
            self.look()

    def look(self) -> None:
        """Drop stalled connections, and the largest ones if all together hold too much."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._unlooked_bytes = 0
        now_s = time.monotonic()
        held: dict[Caller, int] = {}
        guests = [*self.callers.friends]
        for guest in guests:
            assert isinstance(guest, _Connection)
            held[guest.caller] = held.get(guest.caller, 0) + guest.held_bytes
            if guest.stands_still(now_s):
                logger.warning("a connection of %s was dropped: it stands still in a frame", guest.caller.name)
                guest.drop()
        while sum(held.values()) > MAX_HELD_BYTES:
            most = max(held, key=held.__getitem__)
            del held[most]
            logger.warning("the connections of %s were dropped: they hold too much memory", most.name)
            for guest in [*most.friends]:
                guest.drop()
        if self.callers.friends or self.callers.strangers:
            self.look_soon()

    async def close(self) -> None:
        """Close all sockets, and cancel what is being handled."""
        loop = asyncio.get_running_loop()
        for listener in self._listening.values():
            loop.remove_reader(listener.fileno())
            listener.close()
        self._listening.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for connection in [*self.callers.friends, *self.callers.strangers]:
            connection.drop()
        tasks = [*self.tasks, *self.opening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks.clear()
        await asyncio.sleep(0)  # the loop reports the end of a connection in its next turn


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, server: StreamServer, loop: asyncio.AbstractEventLoop, caller: Caller, came_s: float) -> None:
        self._server = server
        self._loop = loop
        self.caller = caller
        self.came_s = came_s
        self.opening: asyncio.Task[None] | None = None
        self._handshake: wire.ServerHandshake | None = wire.ServerHandshake(
            server.secret, secrets.token_bytes(wire.NONCE_BYTES)
        )
        self._reader = wire.Reader()
        self._outbox = wire.Outbox(loop.call_soon, self._write)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = loop.call_later(HANDSHAKE_S, self.drop)
        self._waiting: deque[tuple[int, bytes]] = deque()
        """Requests received and not begun, because too much is in flight or unread."""
        self._waiting_bytes = 0
        self._under_way = 0
        self._under_way_bytes = 0
        self._awaited: set[asyncio.Task[None]] = set()
        """What is cancelled with the connection."""
        self._unread = False
        self._paused = False
        self._given_bytes = 0
        """The bytes of answers written so far."""
        self._moved: tuple[int, int] = (0, 0)
        """Bytes of answers that were read, and bytes received of a partial frame."""
        self._moved_s = came_s
        """When they last changed, or did not matter."""

    @property
    def idle(self) -> bool:
        """See ``callers.Guest``."""
        return not self._under_way and not self._waiting

    @property
    def held_bytes(self) -> int:
        """How much memory it holds."""
        unread_bytes = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return (
            unread_bytes
            + self._outbox.waiting_bytes
            + self._reader.held_bytes
            + self._waiting_bytes
            + self._under_way_bytes
        )

    def stands_still(self, now_s: float) -> bool:
        """Whether nothing has moved for too long although an answer is unread or a frame is partial."""
        transport = self._transport
        if transport is None:
            return False
        unread_bytes, begun_bytes = transport.get_write_buffer_size(), self._reader.held_bytes
        moved = self._given_bytes - unread_bytes, begun_bytes
        if moved != self._moved or not (unread_bytes or (begun_bytes and not self._paused)):
            self._moved, self._moved_s = moved, now_s
        return now_s - self._moved_s > PATIENCE_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = tcp = cast("asyncio.Transport", transport)  # uvloop's is none by type
        if self not in self._server.callers.strangers:  # it had to give way meanwhile
            tcp.abort()
            return
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
                self._forget_deadline()
                if not self._server.callers.proved(self):
                    self.drop()
                    return
            frames = self._reader.feed(data)
            if len(frames) == 1 and self._alone and self._may_begin(frames[0][2]):
                self._take(frames[0][0], frames[0][2])
            elif frames:
                for number, _, frame in frames:
                    self._waiting.append((number, frame))
                    self._waiting_bytes += len(frame)
                self.go_on()
            else:
                self._server.took(len(data))
        except wire.WireError as error:
            logger.debug("a connection was dropped: %s", error)
            self._write([error.reply])
            self._transport.close() if error.reply else self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``. Requests in progress continue, as with an actor's calls, unless the server cancels."""
        del exc
        self._forget()
        self._transport = None
        for task in self._awaited:
            task.cancel()
        self._waiting.clear()  # these have not begun
        self._waiting_bytes = 0

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread = True
        self._server.took(HIGH_WATER_BYTES)
        self._steer()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread = False
        self.go_on()

    def drop(self) -> None:
        """Close at once."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _forget(self) -> None:
        self._forget_deadline()
        self._server.callers.left(self)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _alone(self) -> bool:
        """Whether this caller has no other request that a new one would wait for or be batched with."""
        return not self._under_way and not self._waiting and not self._unread

    def _take(self, number: int, frame: bytes) -> None:
        """Answer its caller's only request, at once if it waits for nothing.

        Most wait for nothing. A task for each would cost a second turn of the event loop, which, in a process that was
        asleep a moment ago, takes longer than the answer.
        """
        admission, is_shed = self._server.admission, may_wait(frame)
        if not is_shed:
            admission, began_s = None, time.monotonic()
        elif admission is not None and not admission.lets_in(self.caller.name):
            self._answer(number, wire.ANSWER, self._server.refusal())
            return
        try:
            answer = self._server.serve(frame)
        except Exception:
            logger.exception("a request failed")
            self._answer(number, wire.FAILED, b"")
            return
        if not is_shed:
            self.caller.taken_s += time.monotonic() - began_s
        if isinstance(answer, bytes):
            self._answer(number, wire.ANSWER, answer)
            return
        if admission is not None:
            entered = admission.enter(self.caller.name)
            assert entered, "nothing else has come meanwhile"
        self._spawn(number, frame, answer, admission)

    def _begin(self, number: int, frame: bytes) -> None:
        """Begin one of several requests."""
        admission = self._server.admission if may_wait(frame) else None
        if admission is not None and not admission.enter(self.caller.name):
            self._answer(number, wire.ANSWER, self._server.refusal())
            return
        self._spawn(number, frame, None, admission)

    def _spawn(self, number: int, frame: bytes, begun: Awaitable[bytes] | None, admission: Admission | None) -> None:
        """``begun``: an awaitable of the answer, if already started; ``admission``: where the request leaves when done."""
        self._under_way += 1
        self._under_way_bytes += len(frame)
        self.caller.under_way += 1
        self.caller.under_way_bytes += len(frame)
        task = self._loop.create_task(self._serve(number, frame, begun, admission, time.monotonic()))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)
        if self._server.cancels:
            self._awaited.add(task)
            task.add_done_callback(self._awaited.discard)

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
                admission.leave(self.caller.name)
            self._under_way -= 1
            self._under_way_bytes -= len(frame)
            self._answer(number, kind, answer)
            self._server.callers.done(self, len(frame))

    def _answer(self, number: int, kind: int, answer: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._given_bytes += len(answer)
        if not self._under_way and not self._outbox.waiting:
            transport.write(wire.head(number, kind, answer) + answer)  # no other will join it
        else:
            self._outbox.put(number, kind, answer)
        if transport.get_write_buffer_size() + self._outbox.waiting_bytes > MAX_UNREAD_BYTES:
            logger.warning("a connection was dropped: its other end does not read its answers")
            self.drop()

    def go_on(self) -> None:
        """Begin waiting requests within the limits, then resume or pause reading."""
        if self._transport is None or (self._paused and self._too_much(2)):
            return
        while self._waiting and not self._too_much(1):
            number, frame = self._waiting[0]
            if not self._may_begin(frame):
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            self._begin(number, frame)
        self._steer()

    def _may_begin(self, frame: bytes) -> bool:
        """Whether a request may begin in this turn; what bypasses admission is counted."""
        if may_wait(frame):
            return True
        caller = self.caller
        if caller.begun >= MAX_BEGUN:
            return False
        if not caller.begun:
            self._loop.call_soon(self._are_at_work, caller)
        caller.begun += 1
        return True

    def _are_at_work(self, caller: Caller) -> None:
        """Start the measurement: requests begun last turn take their first steps in this turn, after this callback."""
        self._loop.call_soon(self._were_at_work, caller, time.monotonic())

    def _were_at_work(self, caller: Caller, since_s: float) -> None:
        if caller.begun < MAX_BEGUN:
            self._next_turn(caller)
        else:
            rest_s = min(MAX_REST_S, REST * (time.monotonic() - since_s + caller.taken_s))
            self._loop.call_later(rest_s, self._next_turn, caller)

    @staticmethod
    def _next_turn(caller: Caller) -> None:
        caller.begun, caller.taken_s = 0, 0.0
        for held_up in [*caller.held_up]:
            held_up.go_on()

    def _too_much(self, factor: int) -> bool:
        caller = self.caller
        return (
            self._unread
            or caller.under_way * factor >= MAX_UNDER_WAY
            or caller.under_way_bytes * factor > MAX_UNDER_WAY_BYTES
        )

    def _steer(self) -> None:
        """Resume or pause reading."""
        too_much = bool(self._waiting) or self._too_much(1)
        if self._transport is None or self._transport.is_closing() or too_much == self._paused:
            return
        self._paused = too_much
        if too_much:
            self.caller.held_up[self] = None
            self._transport.pause_reading()
        else:
            self.caller.held_up.pop(self, None)
            self._transport.resume_reading()

    def _write(self, parts: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)
