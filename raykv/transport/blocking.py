"""Blocking connections to storage nodes: drives operations for one blocking caller at a time.

The caller's own thread sends and receives, on sockets beside those of the event loop: no task, no change of threads. It
can do rounds, which is all that an operation needs while all is well. An operation that asks for anything else, or for a
node to which no connection is available, is handed over as it stands (``Handover``) to the driver of the loop.

The caller holds the ``EmbeddedLoop`` meanwhile: one thread at a time uses the coordinator's state and the connections.
That thread may be interrupted anywhere, in the middle of a frame or of the bookkeeping. Nothing here recovers from that:
the loop's thread closes all connections, and completes in the loop the writes that are outstanding on them. Every step
that ends something is therefore taken before it is recorded.

An unawaited answer stays in its socket, and is read when the connection is used next, or by ``listen``, which the loop's
thread calls. A connection with an answer outstanding for longer than ``OUTSTANDING_S`` is dropped: the quorum path finds
out why.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from raykv.cluster.health import HEDGE_FLOOR_S
from raykv.cluster.peers import node_address
from raykv.coordinator.steps import Handover, Round
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.transport import wire
from raykv.transport.sockets import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.steps import Action, Steps
    from raykv.transport import Endpoint

Outcome: TypeAlias = f.CoordinatorAnswer | Handover | None
"""The outcome of a request. None: it is no operation, and somebody else answers it."""

CONNECT_TIMEOUT_S = 0.1
"""Short: another connection to the same process is up already, so a slow one is not healthy; and others wait meanwhile."""
CONNECT_PAUSE_S = 1.0
"""The pause before a failed connection is tried again."""
SEND_TIMEOUT_S = 1.0
ANSWERS_S = HEDGE_FLOOR_S
"""How long to wait for one answer before polling all connections."""
OUTSTANDING_S = 0.5
RECEIVE_BYTES = 1 << 16
AHEAD = 3
"""The number of operations of a batch under way at once."""


class _Outstanding(NamedTuple):
    write: InFlightWrite | None
    since_s: float


class _Connection:
    """One established connection."""

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
                    raise ConnectionResetError("it was closed before it was established")
                proof += handshake.feed(data)
            self.socket.sendall(proof)
            # The kernel's own time-outs: with Python's, each call is two, as it polls first.
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
        self.outstanding: dict[int, _Outstanding] = {}
        """Number of an unawaited request -> the write that it is about."""

    def send(self, frame: bytes) -> int:
        """Send a request; return its number."""
        self.last += 1
        self.socket.sendall(wire.head(self.last, wire.REQUEST, frame) + frame)
        return self.last

    @property
    def overdue(self) -> bool:
        """Whether an answer has been outstanding for too long."""
        return (
            bool(self.outstanding) and time.monotonic() - next(iter(self.outstanding.values())).since_s > OUTSTANDING_S
        )

    def receive(self) -> list[tuple[int, int, bytes]]:
        """Return what has arrived. Raises ``OSError``, ``WireError``."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the other side has closed")
        return self.reader.feed(data)


class _Asked:
    """A round that was sent, and the answers to it so far."""

    __slots__ = ("answers", "round", "until_s", "waiting")

    def __init__(self, round_: Round) -> None:
        self.round = round_
        self.until_s = time.monotonic() + round_.patience_s
        self.waiting: dict[str, int] = {}
        """Node id -> the number of the request on its connection."""
        self.answers: dict[str, bytes] = {}


class _Run:
    """An operation under way."""

    __slots__ = ("asked", "place", "steps")

    def __init__(self, place: int, steps: Steps[f.CoordinatorAnswer]) -> None:
        self.place = place
        self.steps = steps
        self.asked: _Asked | None = None


class Connections:
    """The connections to one store's nodes, and the operations driven over them."""

    def __init__(
        self,
        operation: Callable[[f.CoordinatorRequest], Steps[f.CoordinatorAnswer] | None],
        locate: Callable[[str], Endpoint | None],
        complete: Callable[[InFlightWrite], None],
        failed: Callable[[RaykvError], None] = lambda _: None,
    ) -> None:
        """``operation(request)``: its steps; None if it has none. ``locate(peer)``: where the peer listens now.

        ``complete(write)``: leaves the write to the driver of the loop. ``failed(error)``: counts what an operation raises.
        """
        self._operation = operation
        self._locate = locate
        self._complete = complete
        self._failed = failed
        self._connections: dict[str, _Connection] = {}
        self._by_number: dict[int, str] = {}
        self._poll = select.poll()
        self._asked: list[_Asked] = []
        self._not_before_s: dict[str, float] = {}
        """Node id -> when to try the next connection to it."""
        self._outstanding = self._outstanding_writes = 0
        """The answers outstanding on all connections, and those of them to writes."""

    @property
    def writes_outstanding(self) -> bool:
        """Whether answers to writes are outstanding."""
        return self._outstanding_writes > 0

    def serve(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Outcome]:
        """Answer requests, as far as that is possible here.

        A few are under way at once: the nodes work on the next ones while the answers to the first are taken apart.
        ``meanwhile``: see ``client.exchange.Exchange``.
        """
        outcomes: list[Outcome] = [None] * len(requests)
        under_way: deque[_Run] = deque()
        for place, request in enumerate(requests):
            steps = self._operation(request)
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
        """Read the unawaited answers that have arrived."""
        self._hear(0.0)
        self._drop_overdue()

    def close(self) -> None:
        """Close all connections, in whatever state an interrupted caller may have left them."""
        for connection in [*self._connections.values()]:
            connection.socket.close()
            self._complete_outstanding(connection)
        self._connections.clear()
        self._by_number.clear()
        self._poll = select.poll()
        self._asked.clear()
        self._outstanding = self._outstanding_writes = 0

    def _go_on(self, under_way: deque[_Run], outcomes: list[Outcome]) -> _Run | None:
        """Wait for the answers to the first run's round, and take its next step. Return the run if that was its last."""
        run = under_way.popleft()
        assert run.asked is not None
        if self._step(run, self._wait_for(run.asked), outcomes):
            under_way.append(run)
            return None
        return run

    def _step(self, run: _Run, answers: dict[str, bytes] | None, outcomes: list[Outcome]) -> bool:
        """Take a run's next step. Return whether it has begun another round; else its outcome is known."""
        last = run.asked
        try:
            action = next(run.steps) if answers is None else run.steps.send(answers)
        except StopIteration as done:
            outcomes[run.place] = done.value
            goes_on = False
        except RaykvError as error:
            self._failed(error)
            outcomes[run.place] = f.Refused(f.Failed.of(error))
            goes_on = False
        else:
            goes_on = self._begin(run, action, outcomes)
        if (
            last is not None
            and (write := last.round.write) is not None
            and write.needs_completion(last.round.frames, last.waiting)
        ):
            self._complete(write)
        return goes_on

    def _begin(self, run: _Run, action: Action, outcomes: list[Outcome]) -> bool:
        """Begin the action that a run asks for; hand over what is not possible here. Return whether it was begun."""
        if isinstance(action, Round) and (connections := self._connections_to(action)) is not None:
            run.asked = self._send(action, connections)
            return True
        outcomes[run.place] = Handover(run.steps, action)
        return False

    def _connections_to(self, round_: Round) -> dict[str, _Connection] | None:
        """Return a connection to each node of the round; None if one is not available."""
        if self._outstanding and any(connection.overdue for connection in self._connections.values()):
            self.listen()  # this process may have been idle or suspended, with the answers in the sockets
        connections = {}
        for node_id in round_.frames:
            connection = self._connections.get(node_id)
            endpoint = self._locate(node_address(node_id) if connection is None else connection.peer)
            if endpoint is None:
                return None
            if connection is not None and connection.endpoint != endpoint:
                self._drop(node_id)  # it leads to an earlier run
                connection = None
            if connection is None:
                connection = self._connect(node_id, endpoint)
                if connection is None:
                    return None
            connections[node_id] = connection
        return connections

    def _connect(self, node_id: str, endpoint: Endpoint) -> _Connection | None:
        if time.monotonic() < self._not_before_s.get(node_id, 0.0):
            return None
        try:
            connection = self._connections[node_id] = _Connection(endpoint, node_address(node_id))
        except (OSError, wire.WireError):
            self._not_before_s[node_id] = time.monotonic() + CONNECT_PAUSE_S
            return None
        self._by_number[connection.socket.fileno()] = node_id
        self._poll.register(connection.socket, select.POLLIN)
        return connection

    def _drop_overdue(self) -> None:
        """Drop the connections on which an answer has been outstanding for too long."""
        for node_id in [node_id for node_id, connection in self._connections.items() if connection.overdue]:
            self._drop(node_id)

    def _send(self, round_: Round, connections: dict[str, _Connection]) -> _Asked:
        asked = _Asked(round_)
        self._asked.append(asked)
        for node_id, connection in connections.items():
            try:
                asked.waiting[node_id] = connection.send(round_.frames[node_id])
            except OSError:
                self._drop(node_id)
        return asked

    def _wait_for(self, asked: _Asked) -> dict[str, bytes]:
        """Return the answers; the missing ones are outstanding from now on."""
        if asked.round.of_all:
            self._receive_all(asked)
        while not asked.round.met(asked.answers) and asked.waiting:
            left_s = asked.until_s - time.monotonic()
            if not self._hear(max(0.0, left_s)) and left_s <= 0:  # what has arrived by then counts in any case
                break
        self._asked.remove(asked)
        now_s = time.monotonic()
        for node_id, number in asked.waiting.items():
            self._connections[node_id].outstanding[number] = _Outstanding(asked.round.write, now_s)
            self._count(asked.round.write, 1)
        return asked.answers

    def _receive_all(self, asked: _Asked) -> None:
        """Wait for all answers, the last one first: this process then wakes only once, and finds the others there."""
        for node_id in reversed([*asked.waiting]):
            while node_id in asked.waiting:
                # It may arrive in many pieces, or after others.
                if asked.until_s - time.monotonic() < ANSWERS_S or not self._receive(node_id):
                    return  # ``_hear`` polls all of them

    def _hear(self, wait_s: float) -> bool:
        """Read from all connections for at most ``wait_s``. Return whether anything arrived."""
        events = self._poll.poll(wait_s * 1000)
        for descriptor, _ in events:
            self._receive(self._by_number[descriptor])
        return bool(events)

    def _receive(self, node_id: str) -> bool:
        """Read from one connection for at most ``ANSWERS_S``. Return whether anything arrived."""
        connection = self._connections[node_id]
        try:
            heard = connection.receive()
        except BlockingIOError:
            return False
        except (OSError, wire.WireError):
            self._drop(node_id)
            return True
        for number, kind, frame in heard:
            self._take(node_id, connection, number, frame if kind == wire.ANSWER else None)
        return True

    def _take(self, node_id: str, connection: _Connection, number: int, said: bytes | None) -> None:
        for asked in self._asked:
            if asked.waiting.get(node_id) == number:
                del asked.waiting[node_id]
                if said is not None:
                    asked.answers[node_id] = said
                return
        outstanding = connection.outstanding.get(number)
        if outstanding is None:
            return
        if outstanding.write is not None and outstanding.write.heard(node_id, said):
            self._complete(outstanding.write)
        del connection.outstanding[number]
        self._count(outstanding.write, -1)

    def _count(self, write: InFlightWrite | None, more: int) -> None:
        self._outstanding += more
        if write is not None:
            self._outstanding_writes += more

    def _drop(self, node_id: str) -> None:
        connection = self._connections[node_id]
        for asked in self._asked:
            asked.waiting.pop(node_id, None)
        self._poll.unregister(connection.socket)
        del self._by_number[connection.socket.fileno()]
        connection.socket.close()
        self._complete_outstanding(connection)
        del self._connections[node_id]
        for outstanding in connection.outstanding.values():
            self._count(outstanding.write, -1)

    def _complete_outstanding(self, connection: _Connection) -> None:
        for outstanding in connection.outstanding.values():
            if outstanding.write is not None:
                self._complete(outstanding.write)


def _take_apart(ended: _Run, outcomes: list[Outcome], meanwhile: f.Meanwhile | None) -> None:
    outcome = outcomes[ended.place]
    if meanwhile is not None and outcome is not None and not isinstance(outcome, Handover):
        meanwhile(ended.place, outcome)
