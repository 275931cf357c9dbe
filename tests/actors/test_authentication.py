"""Asking a head whether it lets this process in, and making a token."""

from __future__ import annotations

import socket

import pytest
from ray_heads import Head

from raykv.actors import authentication, ray_cluster
from raykv.actors.authentication import _frame, _question, _string, is_refused
from raykv.errors import StoreUnavailable

SETTINGS = _frame(4, 0, 0, b"")
REFUSED = SETTINGS + _frame(1, 5, 1, b"\x88\x40\x0bgrpc-status\x0216\x40\x0cgrpc-message\x03bad")
LET_IN = SETTINGS + _frame(1, 4, 1, b"\x88") + _frame(0, 0, 1, bytes(5))


@pytest.mark.parametrize(
    ("pieces", "refused"),
    [
        ([REFUSED], True),
        ([REFUSED[:20], REFUSED[20:]], True),
        ([LET_IN], False),
        ([], False),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], False),
        ([SETTINGS], False),
    ],
)
def test_only_a_refusal_is_one(pieces: list[bytes], refused: bool) -> None:
    head = Head(*pieces)
    assert is_refused("127.0.0.1", head.port, "secret") == refused
    head.thread.join()
    assert b"Bearer secret" in head.heard
    assert b"GetClusterId" in head.heard


def test_nobody_there_refuses_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not is_refused("127.0.0.1", port, None)


def test_strings_of_any_length() -> None:
    assert _string("a") == b"\x01a"
    assert _string("a" * 127)[:2] == b"\x7f\x00"
    assert _string("a" * 1337)[:3] == bytes([127, (1337 - 127) % 128 + 128, (1337 - 127) // 128])
    assert b"authorization" not in _question("h:1", None)


def test_a_refusal_is_reported_as_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("it would ask for twenty seconds"))
    monkeypatch.setattr(ray_cluster, "look", lambda *_: "there")
    monkeypatch.setattr(ray_cluster, "_as_ray_resolves", lambda host: host)
    for mode, token, word in (("token", "wrong", "another token"), ("disabled", "unused", "has none")):
        head = Head(REFUSED)
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.port}")
        with pytest.raises(StoreUnavailable, match=f"authentication failed, the cluster expects .*{word}"):
            ray_cluster.join_ray()
        head.thread.join()
        assert (b"Bearer wrong" in head.heard) == (mode == "token")
    assert authentication.token_to_show(auto=True) is None
