"""Local sockets, and TCP where there are none or the other process is on another machine."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from raykv.transport import StreamServer, server
from raykv.transport.client import connect
from raykv.transport.sockets import LOCAL, Endpoint, local_host, open_socket


async def echo(frame: bytes) -> bytes:
    return b"stream " + frame


def test_processes_of_one_machine_talk_over_a_local_socket(run) -> None:
    assert (sys.platform == "linux") == LOCAL

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen_locally()
        assert await listening.listen_locally() == endpoint, "one is enough"
        assert (endpoint.path is not None) == LOCAL
        connection = await connect(endpoint)
        transport = connection._transport
        assert transport is not None
        family = transport.get_extra_info("socket").family
        assert family == (socket.AF_UNIX if LOCAL else socket.AF_INET)
        assert await connection.call(b"x", 5.0) == b"stream x"
        connection.close()
        await listening.close()
        with pytest.raises(OSError, match="refused"):
            await connect(endpoint)

    run(work())


def test_where_there_are_none_it_is_the_loopback(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "LOCAL", False)

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen_locally()
        assert (endpoint.host, endpoint.path) == ("127.0.0.1", None)
        connection = await connect(endpoint)
        assert await connection.call(b"x", 5.0) == b"stream x"
        connection.close()
        await listening.close()

    run(work())


def test_no_two_servers_have_the_same_name(run) -> None:
    async def work() -> None:
        servers = [StreamServer(echo) for _ in range(3)]
        assert len({(await each.listen_locally()).host for each in servers}) == 3
        for each in servers:
            await each.close()

    run(work())


@pytest.mark.skipif(not LOCAL, reason="Linux only")
def test_hundreds_of_callers_at_once_are_all_let_in(run) -> None:
    """A local socket refuses whom its queue has no room for, at once; TCP would try again."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen_locally()
        sockets = [open_socket(endpoint, 1.0) for _ in range(min(300, most))]  # the server has no turn meanwhile
        for each in sockets:
            each.close()
        await asyncio.sleep(0.05)
        await listening.close()

    run(work())


def test_a_socket_that_cannot_be_had_leaves_none(run) -> None:
    with pytest.raises(OSError, match="refused"):
        open_socket(Endpoint(local_host("raykv-nobody") if LOCAL else "127.0.0.1", 1, b""), 1.0)
