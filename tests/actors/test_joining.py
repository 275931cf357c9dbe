"""Finding the cluster to join."""

from __future__ import annotations

import socket

from raykv.actors.joining import listens


def test_an_address_that_nobody_listens_at_is_noticed_at_once() -> None:
    """ray.init would wait for it for a quarter of an hour: Ray remembers clusters that have died."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(f"127.0.0.1:{port}")
        assert listens(f"ray://127.0.0.1:{port}")
    assert not listens(f"127.0.0.1:{port}")
    assert listens("auto")
