"""Blocking connections to storage nodes, for one operation at a time: the straight way of blocking calls.

The caller's own thread sends and receives, on sockets of its own beside those of the event loop: no task, no change of
threads. Whoever uses a line has the ``DrivenLoop`` to itself meanwhile (``borrowed``), so the coordinator's state and the
lines are used by one thread at a time.

An answer that nobody waits for stays in its socket, and is heard when the line is used next, or by ``listen``, which the
keeper of the loop calls. A line that owes an answer for longer than ``OWED_S`` is given up: the usual way finds out why.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from raykv.actors.stream import wire
from raykv.actors.stream.sockets import watch_socket
from raykv.errors import RaykvError
from raykv.replication.peers import node_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from raykv.actors.stream import Endpoint
    from raykv.records import frames as f
    from raykv.replication.straight import Ask, Stamped, Steps, Straight, Unfinished

    T = TypeVar("T")

CONNECT_TIMEOUT_S = 0.1
"""Another connection to the same process stands already: what takes longer is not well. Others wait meanwhile."""
CONNECT_PAUSE_S = 1.0
"""No sooner is a line tried again that could not be had."""
IO_TIMEOUT = struct.pack("@ll", 1, 0)
"""A second, and no microseconds."""
OWED_S = 0.5
RECEIVE_BYTES = 1 << 16


class _Owed(NamedTuple):
    about: Stamped | None
    since_s: float


class _Line:
    """One connection that stands."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.socket = socket.create_connection((endpoint.host, endpoint.port), CONNECT_TIMEOUT_S)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch_socket(self.socket)
            handshake = wire.ClientHandshake(endpoint.secret, secrets.token_bytes(wire.NONCE_BYTES))
            self.socket.sendall(handshake.hello())
            proof = b""
            while not handshake.done:
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("it was closed before it stood")
                proof += handshake.feed(data)
            self.socket.sendall(proof)
            # By the kernel's own time-outs: with those of Python each call is two, for it asks first whether it may.
            self.socket.settimeout(None)
            for bound in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self.socket.setsockopt(socket.SOL_SOCKET, bound, IO_TIMEOUT)
        except BaseException:
            self.socket.close()
            raise
        self.reader = wire.Reader()
        self.last = 0
        self.owed: dict[int, _Owed] = {}
        """What was asked and nobody waits for -> for whom it matters."""

    def send(self, frame: bytes) -> int:
        """Send a request; return its number."""
        self.last += 1
        self.socket.sendall(wire.head(self.last, wire.REQUEST, frame) + frame)
        return self.last

    @property
    def overdue(self) -> bool:
        """Whether it owes an answer for too long."""
        return bool(self.owed) and time.monotonic() - next(iter(self.owed.values())).since_s > OWED_S

    def owes(self, about: Stamped) -> bool:
        """Whether an answer about this write is outstanding."""
        return any(owed.about is about for owed in self.owed.values())

    def receive(self) -> list[tuple[int, int, bytes]]:
        """Return what has come. Raises ``OSError``, ``WireError``."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the other side has closed")
        return self.reader.feed(data)


class Lines:
    """The lines to the nodes of one store, and the straight way over them."""

    def __init__(
        self, straight: Straight, locate: Callable[[str], Endpoint | None], see_to: Callable[[Stamped], None]
    ) -> None:
        """``locate(peer)``: where a connection stands now. ``see_to(write)``: let the usual way see to its rest."""
        self._straight = straight
        self._locate = locate
        self._see_to = see_to
        self._lines: dict[str, _Line] = {}
        self._by_number: dict[int, str] = {}
        self._poll = select.poll()
        self._not_before_s: dict[str, float] = {}
        """Node id -> when to try again to connect to it."""

    @property
    def owing(self) -> bool:
        """Whether answers to writes are outstanding."""
        return any(owed.about is not None for line in self._lines.values() for owed in line.owed.values())

    def serve(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer | Unfinished | None:
        """Answer a request. None: it is to go the usual way; ``Unfinished``: it is to be finished there."""
        steps = self._straight.steps(request)
        try:
            return None if steps is None else self._run(steps)
        except RaykvError:
            raise
        except BaseException:
            self.close()  # interrupted perhaps in the middle of a frame, and nobody knows where the next one begins
            raise

    def listen(self) -> None:
        """Hear the answers that nobody waits for, as far as they have come."""
        self._hear(0.0, {}, {})
        self._call_in()

    def close(self) -> None:
        """Close all lines."""
        for node_id in list(self._lines):
            self._give_up(node_id)

    def _run(self, steps: Steps[T]) -> T | None:
        about: Stamped | None = None
        asked: set[str] = set()
        try:
            ask = next(steps)
            while True:
                lines = self._lines_to(ask)
                if lines is None and ask.about is None:
                    steps.close()
                    return None
                about, asked = ask.about, {*ask.frames}
                ask = steps.send(self._ask(ask, lines or {}))
        except StopIteration as done:
            outcome: T = done.value
        if about is not None and about is not outcome:
            owing = {node_id for node_id, line in self._lines.items() if line.owes(about)}
            if not asked <= {*about.acks} | owing:
                self._see_to(about)
        return outcome

    def _lines_to(self, ask: Ask) -> dict[str, _Line] | None:
        """Return a line to each that is to be asked; None if one cannot be had now."""
        if any(line.overdue for line in self._lines.values()):
            self.listen()  # this process may have stood still or had nothing to ask, and the answers are there
        lines = {}
        for node_id in ask.frames:
            line = self._lines.get(node_id)
            endpoint = self._locate(node_address(node_id))
            if endpoint is None:
                return None
            if line is not None and line.endpoint != endpoint:
                self._give_up(node_id)  # of a former run
                line = None
            if line is None:
                line = self._connect(node_id, endpoint)
                if line is None:
                    return None
            lines[node_id] = line
        return lines

    def _connect(self, node_id: str, endpoint: Endpoint) -> _Line | None:
        if time.monotonic() < self._not_before_s.get(node_id, 0.0):
            return None
        try:
            line = self._lines[node_id] = _Line(endpoint)
        except (OSError, wire.WireError):
            self._not_before_s[node_id] = time.monotonic() + CONNECT_PAUSE_S
            return None
        self._by_number[line.socket.fileno()] = node_id
        self._poll.register(line.socket, select.POLLIN)
        return line

    def _call_in(self) -> None:
        """Give up the lines that owe answers for too long."""
        for node_id in [node_id for node_id, line in self._lines.items() if line.overdue]:
            self._give_up(node_id)

    def _ask(self, ask: Ask, lines: dict[str, _Line]) -> dict[str, bytes]:
        answers: dict[str, bytes] = {}
        waiting: dict[str, int] = {}
        for node_id, line in lines.items():
            try:
                waiting[node_id] = line.send(ask.frames[node_id])
            except OSError:
                self._give_up(node_id)
        deadline_s = time.monotonic() + ask.patience_s
        while not ask.met(answers) and waiting and (left_s := deadline_s - time.monotonic()) > 0:
            self._hear(left_s, waiting, answers)
        now_s = time.monotonic()
        for node_id, number in waiting.items():
            lines[node_id].owed[number] = _Owed(ask.about, now_s)
        return answers

    def _hear(self, wait_s: float, waiting: dict[str, int], answers: dict[str, bytes]) -> None:
        """Take what comes on any line within ``wait_s``: what is waited for, and what is owed."""
        for descriptor, _ in self._poll.poll(wait_s * 1000):
            node_id = self._by_number[descriptor]
            line = self._lines[node_id]
            try:
                heard = line.receive()
            except (OSError, wire.WireError):
                waiting.pop(node_id, None)
                self._give_up(node_id)
                continue
            for number, kind, frame in heard:
                if number == waiting.get(node_id):
                    del waiting[node_id]
                    if kind == wire.ANSWER:
                        answers[node_id] = frame
                    continue
                owed = line.owed.pop(number, None)
                if owed is not None and owed.about is not None:
                    said = frame if kind == wire.ANSWER else None
                    if self._straight.late(owed.about, node_id, said):
                        self._see_to(owed.about)

    def _give_up(self, node_id: str) -> None:
        line = self._lines.pop(node_id)
        self._poll.unregister(line.socket)
        del self._by_number[line.socket.fileno()]
        line.socket.close()
        for owed in line.owed.values():
            if owed.about is not None:
                self._see_to(owed.about)
