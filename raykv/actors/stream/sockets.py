"""What both ends set on their sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

IDLE_S, EVERY_S, TIMES = 5, 2, 3
"""A host that vanished is noticed after some ten seconds; by default TCP would wait for two hours."""


def watch_the_other_end(transport: asyncio.BaseTransport) -> None:
    """Let the kernel close the connection when the other host does not answer any more (a frozen process's host does)."""
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
