"""Blocking connections to storage nodes, for one caller at a time: the straight way of blocking calls.

The caller's own thread sends and receives, on sockets of its own beside those of the event loop: no task, no change of
threads. Whoever uses a line has borrowed the ``KeptLoop`` meanwhile, so the coordinator's state and the lines are used by
one thread at a time. That thread may be interrupted anywhere, in the middle of a frame or of what is noted here. Nothing
here sees to that: the keeper then closes all lines, and what they owe is seen to by the usual way. So each step that ends
something is taken before it is noted that it was.

An answer that nobody waits for stays in its socket, and is heard when the line is used next, or by ``listen``, which the
keeper of the loop calls. A line that owes an answer for longer than ``OWED_S`` is given up: the usual way finds out why.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from raykv.cluster.health import HEDGE_FLOOR_S
from raykv.cluster.peers import node_address
from raykv.coordinator.fast_path import Unfinished
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.transport import wire
from raykv.transport.sockets import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.coordinator.fast_path import Ask, Stamped, Steps, Straight
    from raykv.transport import Endpoint

CONNECT_TIMEOUT_S = 0.1
"""Another connection to the same process stands already: what takes longer is not well. Others wait meanwhile."""
CONNECT_PAUSE_S = 1.0
"""No sooner is a line tried again that could not be had."""
SEND_TIMEOUT_S = 1.0
ANSWERS_S = HEDGE_FLOOR_S
"""So long one answer is waited for before all lines are looked at: whoever waits does so longer."""
OWED_S = 0.5
RECEIVE_BYTES = 1 << 16
AHEAD = 3
"""So many operations of a batch are under way at once."""


class _Owed(NamedTuple):
    about: Stamped | None
    since_s: float


class _Line:
    """One connection that stands."""

    def __init__(self, endpoint: Endpoint, peer: str) -> None:
        """``peer``: the node's address."""
        self.endpoint = endpoint
        self.peer = peer
        self.socket = open_socket(endpoint, CONNECT_TIMEOUT_S)
        try:
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
            for bound, wait_s in ((socket.SO_RCVTIMEO, ANSWERS_S), (socket.SO_SNDTIMEO, SEND_TIMEOUT_S)):
                seconds = int(wait_s)
                self.socket.setsockopt(
                    socket.SOL_SOCKET, bound, struct.pack("@ll", seconds, round((wait_s - seconds) * 1e6))
                )
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

    def receive(self) -> list[tuple[int, int, bytes]]:
        """Return what has come. Raises ``OSError``, ``WireError``."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the other side has closed")
        return self.reader.feed(data)


class _Asked:
    """What was asked of some nodes, and is waited for."""

    __slots__ = ("answers", "ask", "until_s", "waiting")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.until_s = time.monotonic() + ask.patience_s
        self.waiting: dict[str, int] = {}
        """Node id -> the number of the request on its line."""
        self.answers: dict[str, bytes] = {}


class _Run:
    """An operation under way."""

    __slots__ = ("asked", "place", "steps")

    def __init__(self, place: int, steps: Steps[f.CoordinatorAnswer | Unfinished | None]) -> None:
        self.place = place
        self.steps = steps
        self.asked: _Asked | None = None


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
        self._asked: list[_Asked] = []
        self._not_before_s: dict[str, float] = {}
        """Node id -> when to try again to connect to it."""
        self._owed = self._owed_to_writes = 0
        """How many answers are owed on all lines together."""

    @property
    def owing(self) -> bool:
        """Whether answers to writes are outstanding."""
        return self._owed_to_writes > 0

    def serve(
        self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None
    ) -> list[f.CoordinatorAnswer | Unfinished | None]:
        """Answer requests. None: it is to go the usual way; ``Unfinished``: it is to be finished there.

        A few are under way at once: the nodes are at the next ones while the answers to the first are taken apart.
        ``meanwhile``: see ``client.operations.Exchange``.
        """
        outcomes: list[f.CoordinatorAnswer | Unfinished | None] = [None] * len(requests)
        under_way: deque[_Run] = deque()
        for place, request in enumerate(requests):
            steps = self._straight.steps(request)
            if steps is None:
                continue
            ended = self._go_on(under_way, outcomes) if len(under_way) >= AHEAD else None
            run = _Run(place, steps)
            if self._step(run, None, outcomes):
                under_way.append(run)
            if ended is not None:
                _take_apart(ended, outcomes, meanwhile)
        while under_way:
            ended = self._go_on(under_way, outcomes)
            if ended is not None and under_way:
                _take_apart(ended, outcomes, meanwhile)
        return outcomes

    def listen(self) -> None:
        """Hear the answers that nobody waits for, as far as they have come."""
        self._hear(0.0)
        self._call_in()

    def close(self) -> None:
        """Close all lines, whatever was being done with them: who used them may have been interrupted anywhere."""
        for line in [*self._lines.values()]:
            line.socket.close()
            self._see_to_owed(line)
        self._lines.clear()
        self._by_number.clear()
        self._poll = select.poll()
        self._asked.clear()
        self._owed = self._owed_to_writes = 0

    def _go_on(self, under_way: deque[_Run], outcomes: list[f.CoordinatorAnswer | Unfinished | None]) -> _Run | None:
        """Wait for what the first has asked for, and let it take its next step. Return it if that was its last."""
        run = under_way.popleft()
        assert run.asked is not None
        if self._step(run, self._wait_for(run.asked), outcomes):
            under_way.append(run)
            return None
        return run

    def _step(
        self, run: _Run, answers: dict[str, bytes] | None, outcomes: list[f.CoordinatorAnswer | Unfinished | None]
    ) -> bool:
        """Take a run's next step: whether it has asked for something; else its outcome is known."""
        last = run.asked
        try:
            ask = next(run.steps) if answers is None else run.steps.send(answers)
        except StopIteration as done:
            outcomes[run.place] = done.value
            if last is not None:
                self._see_to_the_rest(last, done.value)
            return False
        except RaykvError as error:
            outcomes[run.place] = f.Refused(f.Failed.of(error))
            return False
        lines = self._lines_to(ask)
        if lines is None and ask.about is None:
            run.steps.close()
            return False
        run.asked = self._send(ask, lines or {})
        return True

    def _see_to_the_rest(self, last: _Asked, outcome: object) -> None:
        about = last.ask.about
        if about is not None and about is not outcome and about.is_to_be_seen_to(last.ask.frames, last.waiting):
            self._see_to(about)

    def _lines_to(self, ask: Ask) -> dict[str, _Line] | None:
        """Return a line to each that is to be asked; None if one cannot be had now."""
        if self._owed and any(line.overdue for line in self._lines.values()):
            self.listen()  # this process may have stood still or had nothing to ask, and the answers are there
        lines = {}
        for node_id in ask.frames:
            line = self._lines.get(node_id)
            endpoint = self._locate(node_address(node_id) if line is None else line.peer)
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
            line = self._lines[node_id] = _Line(endpoint, node_address(node_id))
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

    def _send(self, ask: Ask, lines: dict[str, _Line]) -> _Asked:
        asked = _Asked(ask)
        self._asked.append(asked)
        for node_id, line in lines.items():
            try:
                asked.waiting[node_id] = line.send(ask.frames[node_id])
            except OSError:
                self._give_up(node_id)
        return asked

    def _wait_for(self, asked: _Asked) -> dict[str, bytes]:
        """Return the answers; what is missing is owed from now on."""
        if asked.ask.of_all:
            self._receive_all(asked)
        while not asked.ask.met(asked.answers) and asked.waiting:
            left_s = asked.until_s - time.monotonic()
            if not self._hear(max(0.0, left_s)) and left_s <= 0:  # what has come meanwhile is heard in any case
                break
        self._asked.remove(asked)
        now_s = time.monotonic()
        for node_id, number in asked.waiting.items():
            self._lines[node_id].owed[number] = _Owed(asked.ask.about, now_s)
            self._count(asked.ask.about, 1)
        return asked.answers

    def _receive_all(self, asked: _Asked) -> None:
        """Wait for all answers, the last one first: this process then wakes but once, and finds the others there."""
        for node_id in reversed([*asked.waiting]):
            while node_id in asked.waiting:
                # It may come in many pieces, or others before it.
                if asked.until_s - time.monotonic() < ANSWERS_S or not self._receive(node_id):
                    return  # ``_hear`` looks at all of them

    def _hear(self, wait_s: float) -> bool:
        """Take what comes on any line within ``wait_s``: what is waited for, and what is owed. Whether anything came."""
        events = self._poll.poll(wait_s * 1000)
        for descriptor, _ in events:
            self._receive(self._by_number[descriptor])
        return bool(events)

    def _receive(self, node_id: str) -> bool:
        """Take what comes on a line within ``ANSWERS_S``: whether anything came."""
        line = self._lines[node_id]
        try:
            heard = line.receive()
        except BlockingIOError:
            return False
        except (OSError, wire.WireError):
            self._give_up(node_id)
            return True
        for number, kind, frame in heard:
            self._take(node_id, line, number, frame if kind == wire.ANSWER else None)
        return True

    def _take(self, node_id: str, line: _Line, number: int, said: bytes | None) -> None:
        for asked in self._asked:
            if asked.waiting.get(node_id) == number:
                del asked.waiting[node_id]
                if said is not None:
                    asked.answers[node_id] = said
                return
        owed = line.owed.get(number)
        if owed is None:
            return
        if owed.about is not None and self._straight.late(owed.about, node_id, said):
            self._see_to(owed.about)
        del line.owed[number]
        self._count(owed.about, -1)

    def _count(self, about: Stamped | None, more: int) -> None:
        self._owed += more
        if about is not None:
            self._owed_to_writes += more

    def _give_up(self, node_id: str) -> None:
        line = self._lines[node_id]
        for asked in self._asked:
            asked.waiting.pop(node_id, None)
        self._poll.unregister(line.socket)
        del self._by_number[line.socket.fileno()]
        line.socket.close()
        self._see_to_owed(line)
        del self._lines[node_id]
        for owed in line.owed.values():
            self._count(owed.about, -1)

    def _see_to_owed(self, line: _Line) -> None:
        for owed in line.owed.values():
            if owed.about is not None:
                self._see_to(owed.about)


def _take_apart(
    ended: _Run, outcomes: list[f.CoordinatorAnswer | Unfinished | None], meanwhile: f.Meanwhile | None
) -> None:
    outcome = outcomes[ended.place]
    if meanwhile is not None and outcome is not None and not isinstance(outcome, Unfinished):
        meanwhile(ended.place, outcome)
