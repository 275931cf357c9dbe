from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest

from raykv.cli import cluster
from raykv.errors import StoreNotFound

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_cluster_there_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_joined", lambda: False)
    with pytest.raises(StoreNotFound, match="raykv start"):
        cluster.join_ray()


class Runner:
    """Stands in for subprocess.run."""

    def __init__(self, code: int, said: bytes = b"") -> None:
        self.code, self.said = code, said
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], *, stdout: Any, **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        stdout.write(self.said)
        return subprocess.CompletedProcess(command, self.code)


def test_a_head_is_started_small_and_by_this_pythons_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, joined = Runner(0), iter([False, True])
    monkeypatch.setattr(subprocess, "run", runner)
    monkeypatch.setattr(cluster, "_joined", lambda: next(joined))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.join_or_start_ray()
    (command,) = runner.commands
    assert command[0] == os.path.join(os.path.dirname(sys.executable), "ray")
    assert {"--head", "--include-dashboard=false", "--disable-usage-stats"} <= set(command)


def test_a_taken_port_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(0)
    monkeypatch.setattr(subprocess, "run", runner)
    with socket.create_server(("", 0)) as server:
        monkeypatch.setattr(cluster, "RAY_PORT", server.getsockname()[1])
        cluster._start_head()
    assert "--port=0" in runner.commands[0]


def test_no_head_is_started_where_another_cluster_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(0)
    monkeypatch.setattr(subprocess, "run", runner)
    monkeypatch.setattr(cluster, "_joined", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(click.ClickException, match=r"10\.0\.0\.1:6379"):
        cluster.join_or_start_ray()
    assert runner.commands == []


def test_a_head_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Runner(1, b"Traceback\n  ...\nConnectionError: the port is taken\n\n"))
    with pytest.raises(click.ClickException, match="the port is taken"):
        cluster._start_head()


def test_rays_own_messages_are_silenced_in_this_process_only() -> None:
    code = (
        "import os, sys; from raykv.cli.cluster import import_ray_quietly; import_ray_quietly(); "
        "from ray._private import ray_constants as c; "
        "sys.exit(c.RAY_DEDUP_LOGS_SKIP_REGEX != '.*' or 'RAY_DEDUP_LOGS_SKIP_REGEX' in os.environ)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_head_asks_for_a_token_that_only_this_user_can_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environments = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        environments.append(env)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    cluster._start_head()
    assert environments[0]["RAY_AUTH_MODE"] == "token"
    made = tmp_path / ".ray" / "auth_token"
    assert made.stat().st_mode & 0o777 == 0o600
    token = made.read_text()
    assert len(token) == 64
    made.chmod(0o644)
    cluster._start_head()
    assert (made.read_text(), made.stat().st_mode & 0o777) == (token, 0o600), "kept, and closed"


def test_no_head_is_started_that_is_open_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(0)
    monkeypatch.setattr(subprocess, "run", runner)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(click.ClickException, match="RAY_AUTH_MODE=disabled"):
        cluster._start_head()
    assert runner.commands == []
