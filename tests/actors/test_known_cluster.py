"""Which cluster Ray would join, and its id, without asking Ray; and no answer wherever there is any doubt."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from ray_heads import Head

from raykv.actors import authentication, known_cluster
from raykv.actors.authentication import _frame, cluster_id
from raykv.actors.known_cluster import cluster_to_join

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = known_cluster._commands
ID = bytes(range(28))
SETTINGS = _frame(4, 0, 0, b"")
HEADERS = _frame(1, 4, 1, b"\x88")
END = _frame(1, 5, 1, b"\x40\x0bgrpc-status\x010")
REFUSED = SETTINGS + _frame(1, 5, 1, b"\x88\x40\x0bgrpc-status\x0216")
RAYLET = b"/ray/raylet/raylet\0--store_socket_name=s\0--gcs-address=%s\0python worker.py --gcs-address=%s --x=1"


def answer(body: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


PLAIN = b"\x12\x1c" + ID


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(PLAIN)) + END], ID.hex()),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(b"\x0a\x00" + PLAIN)) + END], ID.hex()),
        ([SETTINGS, HEADERS, _frame(0, 0, 1, answer(PLAIN)[:9]), _frame(0, 1, 1, answer(PLAIN)[9:])], ID.hex()),
        ([REFUSED], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(b"")) + END], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(PLAIN, flag=1)) + END], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(PLAIN + b"\0")) + END], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(b"\x12\x04" + ID[:4])) + END], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 3, answer(PLAIN)) + END], ""),
        ([SETTINGS + HEADERS + _frame(0, 0, 1, answer(PLAIN)[:20])], ""),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], ""),
        ([], ""),
    ],
)
def test_a_head_says_which_cluster_it_is(pieces: list[bytes], found: str) -> None:
    head = Head(*pieces)
    assert cluster_id("127.0.0.1", head.port, "secret") == found
    head.thread.join()
    assert b"Bearer secret" in head.heard


def test_nobody_there_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert cluster_id("127.0.0.1", port, None) == ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int, str | None]]:
    """Which heads were asked, and the token that each was shown; they say "c1". No Ray runs on this machine."""
    calls: list[tuple[str, int, str | None]] = []

    def ask(host: str, port: int, token: str | None, timeout_s: float) -> str:
        calls.append((host, port, token))
        return "c1"

    monkeypatch.setattr(known_cluster, "cluster_id", ask)
    monkeypatch.setattr(known_cluster, "_commands", list)
    monkeypatch.setattr(known_cluster.sys, "platform", "linux")
    for name in ("RAY_ADDRESS", "RAY_USE_TLS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return calls


def run_here(monkeypatch: pytest.MonkeyPatch, *addresses: bytes) -> None:
    commands = [(RAYLET % (each, each)).split(b"\0") for each in addresses]
    monkeypatch.setattr(known_cluster, "_commands", lambda: [[b""], [b"sh", b"--gcs-address=9.9.9.9:9"], *commands])


def remember(tmp_path: Path, address: str) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)


def test_a_cluster_that_is_named_is_asked(asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    assert cluster_to_join() == "c1"
    assert asked == [("10.1.2.3", 6379, None)]


@pytest.mark.parametrize(
    "address",
    ["local", "ray://10.0.0.1:10001", "http://10.0.0.1:8265", "127.0.0.1:6379", "localhost:6379", "10.0.0.1", ":1",
     "10.0.0.1:", "10.0.0.1:123456", "10.0.0.1:\u0661", "[::1]:6379", "::1:6379", "a/b:1"],
)  # fmt: skip
def test_addresses_that_ray_is_left_to_read(asked: list[object], address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_to_join() == ""
    assert asked == []


@pytest.mark.parametrize(
    ("running", "remembered", "joined"),
    [
        ([], "", None),
        ([], "10.0.0.9:6379", "10.0.0.9"),
        ([b"10.0.0.1:6379"], "", "10.0.0.1"),
        ([b"10.0.0.1:6379"], "10.0.0.9:6379", "10.0.0.1"),
        ([b"10.0.0.1:6379", b"10.0.0.2:6379"], "10.0.0.2:6379", "10.0.0.2"),
        ([b"10.0.0.1:6379", b"10.0.0.2:6379"], "", None),
        ([b"None"], "", None),
    ],
)
@pytest.mark.parametrize("named", ["", "auto"])
def test_a_cluster_that_is_not_named_is_found_as_ray_finds_it(
    asked: list[tuple[str, int, str | None]],
    running: list[bytes],
    remembered: str,
    joined: str | None,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    run_here(monkeypatch, *running)
    if remembered:
        remember(tmp_path, remembered)
    assert cluster_to_join() == ("c1" if joined else "")
    assert [host for host, _, _ in asked] == ([joined] if joined else [])


def test_other_systems_leave_it_to_ray(asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch, b"10.0.0.1:6379")
    monkeypatch.setattr(known_cluster.sys, "platform", "darwin")
    assert cluster_to_join() == ""


def test_where_processes_are_not_to_be_seen_it_is_left_to_ray(
    asked: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remember(tmp_path, "10.0.0.9:6379")
    monkeypatch.setattr(known_cluster, "_commands", COMMANDS)
    monkeypatch.setattr(known_cluster, "_PROCESSES", str(tmp_path / "none"))
    assert cluster_to_join() == ""
    assert asked == []


def test_where_ray_encrypts_its_calls_nothing_is_asked(asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch, b"10.0.0.1:6379")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert cluster_to_join() == ""
    assert asked == []


@pytest.mark.parametrize("auto", [True, False])
@pytest.mark.parametrize("mode", [None, "token", "TOKEN", "disabled"])
@pytest.mark.parametrize("where", ["nowhere", "home", "path", "environment"])
def test_the_token_is_the_one_that_ray_would_show(
    auto: bool, mode: str | None, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if where != "nowhere":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("of-home-" + "0" * 56 + "\n")
    if where in {"path", "environment"}:
        (tmp_path / "token").write_text("of-path-" + "0" * 56)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    if where == "environment":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "of-environment-" + "0" * 49)
    assert known_cluster._token_to_show(auto=auto) == authentication.token_to_show(auto=auto)


def test_a_process_that_ends_meanwhile_is_no_trouble() -> None:
    mine = [command for command in known_cluster._commands() if command[0]]
    assert any(b"python" in os.path.basename(command[0]) for command in mine) or not os.path.isdir("/proc/1")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_names_the_cluster_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import worker

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert cluster_to_join() == worker.global_worker.gcs_client.cluster_id.hex()
