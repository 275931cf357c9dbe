"""A command's link to a coordinator on this host: straight to its port, without importing Ray.

A store is reached so only if all of this holds; otherwise there is no such link, and the command joins Ray:

* the head of the cluster that ``ray.init`` would join says which cluster it is (``known_cluster``);
* a coordinator of the store in that very cluster has left a file for this user (``endpoint_file``);
* it listens there, and knows the secret;
* Ray tells it now that the store runs.

A link whose connection is lost goes on by Ray, from the next request on.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from raykv.actors import endpoint_file
from raykv.actors.known_cluster import cluster_to_join
from raykv.actors.this_process import ThisProcess
from raykv.errors import CorruptData, RaykvError, StoreUnavailable
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.transport import wire
from raykv.transport.sockets import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.actors.endpoint_file import EndpointFile
    from raykv.client.driver import Link
    from raykv.transport.sockets import Endpoint

CONNECT_TIMEOUT_S = 2.0
ASK_TIMEOUT_S = 4.0
"""Past this, asking Ray is hardly slower, and tells more."""
PATH_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 5.0
MOST_TRIED = 4
_RECEIVE_BYTES = 1 << 16


class ListStores(f.Message, frozen=True):
    """Which stores run in this Ray cluster? Answer: ``Info`` with a list of names."""


class LocateStore(f.Message, frozen=True):
    """Where is this store's data? Answer: ``Info`` with a path."""


port_requests: f.FrameType[ListStores | LocateStore] = f.FrameType(ListStores | LocateStore, "request to a port")


class Connection:
    """An established connection to a port. For one thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect. Raises ``OSError``, ``WireError``."""
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        self._socket = open_socket(endpoint, CONNECT_TIMEOUT_S)
        try:
            handshake = wire.ClientHandshake(endpoint.secret, secrets.token_bytes(wire.NONCE_BYTES))
            reply = handshake.hello()
            while not handshake.done:
                self._socket.sendall(reply)
                reply = handshake.feed(self._receive(deadline_s))
            self._socket.sendall(reply)
        except BaseException:
            self._socket.close()
            raise
        self._reader = wire.Reader()
        self._last = 0
        self._answers: dict[int, tuple[int, bytes]] = {}

    def send(self, frame: bytes) -> int:
        """Send a request; return its number. Raises ``OSError``: it was not sent as a whole."""
        self._last += 1
        self._socket.settimeout(SEND_TIMEOUT_S)
        self._socket.sendall(wire.head(self._last, wire.REQUEST, frame) + frame)
        return self._last

    def answer(self, number: int, timeout_s: float) -> bytes:
        """Wait for the answer to a request. Raises ``OSError``, ``WireError``, ``TimeoutError``, ``PeerUnreachable``."""
        deadline_s = time.monotonic() + timeout_s
        while number not in self._answers:
            for came, kind, frame in self._reader.feed(self._receive(deadline_s)):
                self._answers[came] = kind, frame
        kind, frame = self._answers.pop(number)
        if kind != wire.ANSWER:
            raise PeerUnreachable("it failed while it was at the request")
        return frame

    def ask(self, request: ListStores | LocateStore, timeout_s: float) -> Any:
        """Return what the port itself answers. Raises as ``answer`` does; ``CorruptData``, and the error that it answers."""
        frame = self.answer(self.send(port_requests.encode(request)), timeout_s)
        answer = f.coordinator_answers.decode(frame)
        if isinstance(answer, f.Refused):
            raise answer.failed.error()
        if not isinstance(answer, f.Info):
            raise CorruptData(f"{type(answer).__name__} is no answer of a port")
        return answer.data

    def close(self) -> None:
        """Close. Idempotent."""
        self._socket.close()

    def _receive(self, deadline_s: float) -> bytes:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the other side has closed")
        return data


Ticket: TypeAlias = "PeerFailure | int | tuple[Link, Any]"
"""The number of a request that was sent; or another link, and its ticket."""


class CommandLink(ThisProcess):
    """``client.driver.Link`` over a connection to a port, and by Ray once that is lost. For one thread."""

    def __init__(self, connection: Connection, join: Callable[[], Link]) -> None:
        """``join()``: a link by way of Ray; raises ``StoreNotFound``, ``StoreUnavailable``."""
        self._connection: Connection | None = connection
        self._join = join
        self._joined: Link | None = None

    def _by_ray(self) -> Link:
        if self._joined is None:
            self._joined = self._join()
        return self._joined

    def _lost(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Any]:
        """See ``client.driver.Link``. Raises ``RaykvError`` if the connection was lost and Ray cannot be joined."""
        if self._connection is None:
            link = self._by_ray()
            return [(link, ticket) for ticket in link.submit(requests, meanwhile)]
        return [self._submit(request) for request in requests]

    def _submit(self, request: f.CoordinatorRequest) -> Ticket:
        frame = f.coordinator_requests.encode(request)
        if self._connection is None:
            return PeerAbsent("the connection to it was lost")
        try:
            return self._connection.send(frame)
        except OSError as error:  # the driver submits it again
            self._lost()
            return PeerAbsent(f"it could not be sent: {error.strerror or error}")

    def result(self, ticket: Any, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        if isinstance(ticket, tuple):
            link, other = ticket
            if isinstance(other, PeerFailure):
                raise other
            return link.result(other, timeout_s)  # type: ignore[no-any-return]
        if self._connection is None:
            raise PeerUnreachable("the connection to it was lost")
        try:
            frame = self._connection.answer(ticket, timeout_s)
        except TimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except (OSError, wire.WireError) as error:
            self._lost()
            raise PeerUnreachable(f"the connection to it was lost: {error}") from None
        except PeerFailure:
            raise
        except BaseException:  # interrupted, perhaps within a frame
            self._lost()
            raise
        return f.coordinator_answers.decode(frame)

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``: by Ray, as commands do not await."""
        return await self._by_ray().call(request, timeout_s)

    def path(self) -> str:
        """Return where the store's data is. Raises ``StoreUnavailable`` if the port does not say."""
        try:
            if self._connection is not None:
                found = self._connection.ask(LocateStore(), PATH_TIMEOUT_S)
                if isinstance(found, str):
                    return found
        except (OSError, wire.WireError, PeerFailure, CorruptData):
            self._lost()
        raise StoreUnavailable("a port did not say where the store's data is")

    def close(self) -> None:
        """See ``client.driver.Link``."""
        self._lost()
        if self._joined is not None:
            self._joined.close()


def link_to(store: str, join: Callable[[], Link]) -> CommandLink | None:
    """Return a link to a store that runs; None if only Ray knows the way. ``join``: see ``CommandLink``."""
    for file in _files(store):
        with contextlib.suppress(OSError, wire.WireError, PeerFailure, RaykvError):
            connection = Connection(file.endpoint)
            try:
                if store in _running(connection):
                    return CommandLink(connection, join)
            except BaseException:
                connection.close()
                raise
            connection.close()
    return None


def running_stores() -> list[str] | None:
    """Return the names of the stores that run in the cluster that Ray would join; None if only Ray knows."""
    for file in _files(None):
        with contextlib.suppress(OSError, wire.WireError, PeerFailure, RaykvError):
            connection = Connection(file.endpoint)
            try:
                return _running(connection)
            finally:
                connection.close()
    return None


def _files(store: str | None) -> list[EndpointFile]:
    """Return the files of some coordinators in the cluster that Ray would join, in no order."""
    cluster = cluster_to_join()
    found = endpoint_file.found(cluster, store) if cluster else []
    return random.sample(found, min(MOST_TRIED, len(found)))


def _running(connection: Connection) -> list[str]:
    stores = connection.ask(ListStores(), ASK_TIMEOUT_S)
    if not isinstance(stores, list) or not all(isinstance(name, str) for name in stores):
        raise StoreUnavailable("a port did not say which stores run")
    return stores
