"""The peers' servers: started on a free port of the loopback with a directory of their own, and ended again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0


class Missing(Exception):
    """A peer is not installed here. The message says how to install it."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that listens on ``port``."""

    def __init__(self, program: str, words: list[str], port: int, directory: str) -> None:
        self.port = port
        log = Path(directory) / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [program, *words], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory
            )
        until_s = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > until_s:
                self.close()
                raise RuntimeError(f"{program} did not start: {log.read_text()[-500:]}")
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_redis(directory: str) -> Server:
    """Start Redis with its append-only file, synced every second. Raises ``Missing``."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("there is no redis-server here; apt install redis-server (or: brew install redis)")
    port = free_port()
    settings = {
        "port": str(port), "bind": "127.0.0.1", "dir": directory, "save": "", "appendonly": "yes",
        "appendfsync": "everysec", "daemonize": "no",
    }  # fmt: skip
    return Server(program, [word for name, value in settings.items() for word in (f"--{name}", value)], port, directory)


def start_etcd(directory: str) -> Server:
    """Start etcd, one member, which syncs each write. Raises ``Missing``."""
    program = shutil.which("etcd")
    if program is None:
        raise Missing("there is no etcd here; apt install etcd-server (or: brew install etcd)")
    port, peer_port = free_port(), free_port()
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    words = [
        "--data-dir", f"{directory}/data", "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
    ]  # fmt: skip
    return Server(program, words, port, directory)
