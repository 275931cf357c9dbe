"""The sockets of both ends.

Processes of one machine talk over its local sockets, which take two thirds of the time of TCP over the loopback (measured:
a round trip to two servers 46 us, over TCP 60-70). Linux has a namespace for them without files ("abstract", unix(7)); a
name there is as visible as a port of the loopback, hence the same handshake. Other systems use the loopback.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from raykv.transport import encryption

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

P = TypeVar("P", bound="asyncio.Protocol")

LOCAL = sys.platform == "linux"
"""Whether there are local sockets without files."""
_LOCAL_MARK = "@"

IDLE_S, EVERY_S, TIMES = 5, 2, 3
"""TCP notices a vanished host after some ten seconds; by default it would wait for two hours."""


_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7))."""


class Stranger(ConnectionRefusedError):
    """The listener is not the expected one: of another user (and not root), or without the right certificate."""


class Peer(NamedTuple):
    """The other end, as the kernel names it: no process can forge that."""

    name: str
    far: bool
    """Whether all processes of another host share this name."""
    uid: int | None = None
    """The user of the process; None: the kernel does not say."""


class Endpoint(NamedTuple):
    """Where a process listens, and the secret of its run."""

    host: str
    """An address of its machine, or ``@name``: a local socket."""
    port: int
    """0 for a local socket."""
    secret: bytes

    @property
    def path(self) -> str | None:
        """The local socket's path; None if it is TCP."""
        return local_path(self.host) if self.host.startswith(_LOCAL_MARK) else None


def local_path(host: str) -> str:
    """Return the path of the local socket ``@name``."""
    return "\0" + host.removeprefix(_LOCAL_MARK)


def local_host(name: str) -> str:
    """Return how an ``Endpoint`` names a local socket of this name."""
    return _LOCAL_MARK + name


async def open_connection(loop: asyncio.AbstractEventLoop, make: Callable[[], P], endpoint: Endpoint) -> P:
    """Connect. Raises ``OSError``."""
    try:
        return await (
            _open_tcp(loop, make, endpoint) if endpoint.path is None else _open_local(loop, make, endpoint.path)
        )
    except RuntimeError as error:
        if loop.is_closed():  # collected half-way: asyncio fails to tell the closed loop that its new transport ends
            raise GeneratorExit from error
        raise


async def _open_tcp(loop: asyncio.AbstractEventLoop, make: Callable[[], P], endpoint: Endpoint) -> P:
    secured = encryption.context(server=False)
    if secured is None and _makes_transports(loop):
        return _taken(loop, make, await _connected(loop, endpoint))
    transport, connection = await loop.create_connection(
        make, endpoint.host, endpoint.port, ssl=secured, server_hostname="" if secured else None
    )
    if secured and not encryption.names(transport.get_extra_info("peercert"), endpoint.host):
        transport.abort()
        raise Stranger(f"the certificate there does not name {endpoint.host}")
    return connection


def _makes_transports(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop can make a transport of a connected socket without a coroutine of asyncio's own.

    That one, collected half-way and before those that await it, closes its transport in a closed loop, which fails aloud.
    """
    import asyncio  # late: who connects blocking does without

    return isinstance(loop, asyncio.SelectorEventLoop) and hasattr(loop, "_make_socket_transport")


def _taken(loop: asyncio.AbstractEventLoop, make: Callable[[], P], connected: socket.socket) -> P:
    connection = make()
    loop._make_socket_transport(connected, connection)  # type: ignore[attr-defined] # noqa: SLF001 - what asyncio calls
    return connection


async def _connected(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> socket.socket:
    """Return a connected TCP socket, by the first address that takes it. Raises ``OSError``."""
    refused = OSError(f"{endpoint.host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        tried = socket.socket(family, kind, protocol)
        try:
            tried.setblocking(False)
            await loop.sock_connect(tried, address)
        except OSError as error:
            tried.close()
            refused = error
        except BaseException:
            tried.close()
            raise
        else:
            return tried
    raise refused


async def _open_local(loop: asyncio.AbstractEventLoop, make: Callable[[], P], path: str) -> P:
    local = _local_socket(path, 0.0)  # that is done at once, or refused; and uvloop connects to no such path itself
    if _makes_transports(loop):
        return _taken(loop, make, local)
    try:
        _, connection = await loop.create_unix_connection(make, sock=local)
    except BaseException:
        local.close()
        raise
    hand_over(loop, local)
    return connection


def hand_over(loop: asyncio.AbstractEventLoop, handed: socket.socket) -> None:
    """Give the loop sole ownership of a socket that it has made a transport of.

    uvloop closes the descriptor itself, and does not always mark the socket closed, which would later close a reused number.
    """
    import asyncio

    if not isinstance(loop, asyncio.BaseEventLoop):
        handed.detach()


def peer_of(connected: socket.socket) -> Peer:
    """Return the other end. Raises ``OSError``."""
    if connected.family != socket.AF_UNIX:
        return Peer(str(connected.getpeername()[0]), far=True)
    pid, uid, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    # A process of another pid namespace has no number here.
    return Peer(f"process {pid}" if pid else f"user {uid}", far=not pid, uid=uid)


def may_be_trusted(uid: int | None) -> bool:
    """Return whether a process of this user is trusted on a local socket: a name there has no permissions."""
    return uid is None or uid in {0, os.geteuid()}


def open_socket(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """Connect, blocking. The socket keeps the time-out. Raises ``OSError``, also where encryption is required."""
    if endpoint.path is None:
        if encryption.is_asked_for():  # only the event loop's connections encrypt
            raise ConnectionRefusedError("no blocking connection is encrypted")
        tcp = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        try:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch_socket(tcp)
        except BaseException:
            tcp.close()
            raise
        return tcp
    return _local_socket(endpoint.path, timeout_s)


def _local_socket(path: str, timeout_s: float) -> socket.socket:
    local = socket.socket(socket.AF_UNIX)
    try:
        local.settimeout(timeout_s)
        local.connect(path)
        if not may_be_trusted(peer_of(local).uid):
            raise Stranger("the local socket belongs to another user")
    except BaseException:
        local.close()
        raise
    return local


def watch_the_other_end(transport: asyncio.BaseTransport) -> None:
    """Make the kernel close the connection when the other host stops answering (a frozen process's host does answer)."""
    tcp = transport.get_extra_info("socket")
    if tcp is not None:
        watch_socket(tcp)


def watch_socket(tcp: socket.socket) -> None:
    """See ``watch_the_other_end``."""
    if tcp.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # the second is macOS's name
    for option, value in (
        (idle, IDLE_S),
        (getattr(socket, "TCP_KEEPINTVL", None), EVERY_S),
        (getattr(socket, "TCP_KEEPCNT", None), TIMES),
        (getattr(socket, "TCP_USER_TIMEOUT", None), (IDLE_S + EVERY_S * TIMES) * 1000),
    ):
        if option is not None:
            tcp.setsockopt(socket.IPPROTO_TCP, option, value)
