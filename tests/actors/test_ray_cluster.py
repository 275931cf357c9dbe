"""Finding the cluster to join, and never starting another in the place of one that was asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from raykv.actors import lifecycle, ray_cluster
from raykv.actors.ray_cluster import Choice, choose, is_here, join_ray, look, place_of
from raykv.errors import InvalidOption, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes((0, 4, 0, 0, 255, 255))


@pytest.fixture
def listener() -> Iterator[Callable[[bytes | None], int]]:
    """Starts servers that answer each connection with these bytes and hang up, or with None never answer: their ports."""
    with contextlib.ExitStack() as stack:
        threads = []

        def serve(server: socket.socket, answer: bytes) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(answer)

        def start(answer: bytes | None) -> int:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            if answer is not None:
                threads.append(threading.Thread(target=serve, args=(server, answer)))
                threads[-1].start()
                stack.callback(server.shutdown, socket.SHUT_RDWR)
            return int(server.getsockname()[1])

        yield start
    for thread in threads:
        thread.join()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def ray_remembers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Says what Ray remembers of this machine; in this test nobody may start a Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "_as_ray_resolves", lambda host: host)

    def remember(address: str | None) -> None:
        monkeypatch.setattr(ray_cluster, "_remembered", lambda: address)

    remember(None)
    return remember


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The addresses that ``ray.init`` was called with: it does nothing here."""
    import ray

    calls: list[str | None] = []
    monkeypatch.setattr(ray, "init", lambda address=None, **_: calls.append(address))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return calls


def test_a_listener_is_notified_at_once(
    listener: Callable[[bytes | None], int], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ray.init would wait a quarter of an hour for each of those that are not there."""
    assert look("127.0.0.1", listener(SETTINGS)) == "there"
    assert look("127.0.0.1", free_port) == "nobody"
    assert look("no such host.invalid", 6379) == "unreachable"
    assert look("a" * 70 + ".x", 6379) == "unreachable"
    for answer in (b"", b"-ERR unknown command 'PRI'\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", SETTINGS[:5]):
        assert look("127.0.0.1", listener(answer)) == "stranger", answer
    monkeypatch.setattr(ray_cluster, "ANSWER_TIMEOUT_S", 0.2)
    assert look("127.0.0.1", listener(None)) == "silent"
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert look("127.0.0.1", listener(SETTINGS)) == "stranger", "plain where TLS is spoken"
    assert look("127.0.0.1", listener(None)) == "silent"


def test_one_that_dribbles_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER_TIMEOUT_S", 0.5)
    over = threading.Event()

    def dribble(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            for byte in SETTINGS[:8]:
                connection.sendall(bytes([byte]))
                if over.wait(0.2):
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=dribble, args=(server,))
        thread.start()
        assert look("127.0.0.1", server.getsockname()[1]) == "silent"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("head.example:1", ("head.example", 1)),
        ("[fd00::1]:6379", ("fd00::1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("ray://[::1]:10001", ("::1", 10001)),
        ("anyscale://cluster", None),
    ],
)
def test_where_an_address_leads(address: str, place: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_as_ray_resolves", lambda host: host)
    assert place_of(address, "it") == place


@pytest.mark.parametrize(
    "address",
    ["", " ", "auto ", "head", "head:", "head:port", ":6379", "head:0", "head:65536", "head:-1", "head:٣", "a b:1",
     " head:1", "head:1 ", "::1:6379", "[::1]", "[]:1", "[head]:1", "a\0b:1", "a\n:1", "ray://", "ray://head", "x/y:1",
     "head:" + "1" * 5000],
)  # fmt: skip
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(InvalidOption, match=r"RAY_ADDRESS is .* no address") as caught:
        place_of(address, "RAY_ADDRESS")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head", "HTTP://h:1"])
def test_where_jobs_are_handed_in_no_cluster_is_joined(address: str) -> None:
    """Ray's job commands read their address from the same variable."""
    with pytest.raises(InvalidOption, match="jobs"):
        place_of(address, "RAY_ADDRESS")


def test_what_is_joined_is_what_ray_init_would_join(
    ray_remembers: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose() is None
    with pytest.raises(StoreUnavailable, match="no Ray cluster runs"):
        choose("auto")
    ray_remembers("10.0.0.1:6379")
    assert choose() == Choice("auto", ("10.0.0.1", 6379), ""), "as auto, for Ray then finds its token, too"
    assert choose("auto") == Choice("auto", ("10.0.0.1", 6379), "the address=auto")
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert choose() == Choice("auto", ("10.0.0.1", 6379), ""), "empty is unset"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert choose() == Choice("auto", ("10.0.0.1", 6379), "RAY_ADDRESS=auto")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:1")
    assert choose() == choose("auto") == Choice("10.0.0.2:1", ("10.0.0.2", 1), "RAY_ADDRESS=10.0.0.2:1")
    assert choose("10.0.0.3:1") == Choice("10.0.0.3:1", ("10.0.0.3", 1), "the address=10.0.0.3:1")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert choose() is None
    ray_remembers(None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(StoreUnavailable, match="RAY_ADDRESS=auto"):
        choose()


def test_what_is_asked_for_and_cannot_be_had_starts_nothing(
    ray_remembers: Callable[[str | None], None],
    inits: list[str | None],
    listener: Callable[[bytes | None], int],
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the store would be started in another Ray than the one that was meant, empty."""
    for address in (
        f"127.0.0.1:{free_port}",
        f"ray://127.0.0.1:{free_port}",
        f"127.0.0.1:{listener(b'x' * 99)}",
        "h:1",
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(StoreUnavailable, match="RAY_ADDRESS") as caught:
            lifecycle.ensure_ray()
        assert address in str(caught.value)
    monkeypatch.setenv("RAY_ADDRESS", "garbage")
    with pytest.raises(InvalidOption, match="RAY_ADDRESS is 'garbage'"):
        lifecycle.ensure_ray()
    monkeypatch.delenv("RAY_ADDRESS")
    ray_remembers(f"127.0.0.1:{listener(b'x' * 99)}")
    with pytest.raises(StoreUnavailable, match="ray stop"):
        lifecycle.ensure_ray()
    ray_remembers("192.0.2.1:6379")
    monkeypatch.setattr(ray_cluster, "look", lambda *_: "nobody")
    with pytest.raises(StoreUnavailable, match="ray stop"):
        lifecycle.ensure_ray()
    assert inits == []


def test_a_cluster_of_this_machine_that_has_ended_is_not_waited_for(
    ray_remembers: Callable[[str | None], None], inits: list[str | None], free_port: int
) -> None:
    ray_remembers(f"127.0.0.1:{free_port}")
    assert not join_ray()
    assert lifecycle.ensure_ray()
    assert inits == ["local"]


def test_rays_refusal_is_reported(
    ray_remembers: Callable[[str | None], None],
    listener: Callable[[bytes | None], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def refuse(address: str, **_: object) -> None:
        raise RuntimeError("\nVersion mismatch: 2.50.0 there\n  and 2.60.0 here")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener(SETTINGS)}")
    with pytest.raises(StoreUnavailable, match="cannot be joined: Version mismatch"):
        join_ray()


def test_an_address_of_this_machine() -> None:
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert not is_here("192.0.2.1")
    assert not is_here("no such host.invalid")


@pytest.mark.ray
def test_a_head_that_hangs_is_not_waited_for(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real head answers the greeting; frozen it does not, and neither start nor the command line starts another."""
    import ray

    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    assert look(host.strip("[]"), int(port)) == "there"
    pid = _listener_of(int(port))
    code = (
        "import sys, raykv\nfrom raykv.actors import ray_cluster\nray_cluster.ANSWER_TIMEOUT_S = 1.0\n"
        "try: raykv.start()\nexcept raykv.StoreUnavailable as error: print(error)\n"
        "import ray; sys.exit(ray.is_initialized())"
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        output = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True,
            timeout=180, check=True,
        ).stdout  # fmt: skip
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"RAY_ADDRESS={address} cannot be reached: it does not answer" in output


def _listener_of(port: int) -> int:
    """Return the process, one of this test's Ray, that listens at the port."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        if any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in child.net_connections()):
            return int(child.pid)
    raise AssertionError("the head was not found")
