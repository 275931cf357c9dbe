"""start, stop, status, ring, buckets."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from raykv.cli.main import cli
from raykv.cli.store_commands import ailing
from raykv.client.views import Status

if TYPE_CHECKING:
    from pathlib import Path

    import raykv


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == (1 if code else 0), result.stderr
    return result


def node(**changed: Any) -> dict[str, Any]:
    return {"node_id": "n1", "state": "up", "for_s": 3.0, "cause": "", "storage": {"complete": True}} | changed


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        (node(state="down", cause="its process ended", storage=None), "n1 is down for 3 s (its process ended)"),
        (node(storage=None), "n1 does not answer"),
        (node(storage={"complete": False}), "n1 lacks some of its data"),
    ],
)
def test_what_ails_a_store(ill: dict[str, Any], said: str) -> None:
    status = Status({"nodes": [node(node_id="n2"), ill]})
    assert not status.healthy
    assert ailing(status) == said


def test_a_repair_names_the_partitions_that_failed_by_text_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    import raykv.sim
    from raykv.cli import store_commands

    with raykv.sim.start(seed=5) as world:
        world.connect().put("k", "v")
        link = world._cluster.link(world._client())
        monkeypatch.setattr(store_commands, "link_to", lambda _: link)
        assert json.loads(CliRunner().invoke(cli, ["repair", "--json"]).stdout)["failed"] == {}
        world.cut("n2", for_s=10_000)
        result = CliRunner().invoke(cli, ["repair", "--json"])
        assert (result.exit_code, "could not be compared" in result.stderr) == (1, True)
        assert "n2" in json.loads(result.stdout)["failed"]["0"]
        assert "partitions failed" in CliRunner().invoke(cli, ["repair"]).stdout


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_store_is_started_loses_a_node_is_stopped_and_has_its_data_again(store_name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    config = tmp_path / "raykv.toml"
    config.write_text(f'[store]\nnodes = 5\npartitions = 16\npath = "{path}"\n[node]\nblock_cache_bytes = 1048576\n')
    named = ["--store", store_name]
    start = ["start", *named, "--nodes", "2", "--config", str(config)]
    try:
        first = json.loads(run(*start, "--json").stdout)
        assert (first["created"], first["ray_started"], first["path"]) == (True, False, path)
        assert [entry["state"] for entry in first["status"]["nodes"]] == ["up", "up"]
        assert first["status"]["config"]["partitions"] == 16
        assert "runs already" in run(*start).stdout
        run(*start, "--partitions", "32", code=2)
        run("put", *named, "k", "v")
        assert json.loads(run("status", *named, "--json").stdout)["healthy"] is True
        os.kill(first["status"]["nodes"][1]["pid"], signal.SIGKILL)
        ill = run_until_ill(store_name)
        assert "n2 is down" in ill.stderr
        assert "n2" in ill.stdout
        assert path in run("stop", *named).stdout
        run("get", *named, "k", code=1)
        run("stop", *named, code=1)
        assert "started" in run(*start).stdout
        assert run("get", *named, "k").stdout == "v\n"
    finally:
        assert json.loads(run("stop", *named, "--json").stdout) == {"store": store_name, "path": path, "stopped": True}


def run_until_ill(store_name: str) -> Result:
    for _ in range(100):
        result = CliRunner().invoke(cli, ["status", "--store", store_name])
        if result.exit_code == 1 and "is down" in result.stderr:
            return result
    raise AssertionError("the dead node never showed")


@pytest.mark.ray
@pytest.mark.usefixtures("shared_store")
def test_ring(tmp_path: Path) -> None:
    picture = tmp_path / "ring.svg"
    assert "partitions" in run("ring", "--store", "shared", "--svg", str(picture)).stdout
    assert picture.read_text().startswith("<svg")
    assert json.loads(run("ring", "--store", "shared", "--json").stdout)["copies"] == 3
    run("ring", "--store", "shared", "--svg", str(tmp_path / "none" / "ring.svg"), code=1)


@pytest.mark.ray
def test_buckets(shared_store: raykv.Store) -> None:
    shared_store.bucket("cli-short", ttl=60, r="one", codec="msgpack")
    text = run("buckets", "--store", "shared").stdout
    assert [line.split() for line in text.splitlines() if line.startswith("cli-short")] == [
        ["cli-short", "3", "1", "2", "vector", "strict", "msgpack", "60", "s"]
    ]
    listed = json.loads(run("buckets", "--store", "shared", "--json").stdout)
    assert "default" in [config["name"] for config in listed]


def test_status_is_watched_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the store does not answer."""
    from raykv.cli import store_commands
    from raykv.errors import StoreUnavailable

    looks: list[int] = []

    def look(*_: Any) -> Status:
        looks.append(1)
        if len(looks) == 2:
            raise StoreUnavailable("gone for a moment")
        if len(looks) > 3:
            raise KeyboardInterrupt
        return Status(
            name="s",
            nodes=[],
            buckets=[],
            config={"copies": 3, "partitions": 8, "durability": "group"},
            rebalancing=None,
        )

    monkeypatch.setattr(store_commands, "link_to", lambda _: None)
    monkeypatch.setattr(store_commands, "run", look)
    monkeypatch.setattr(store_commands.time, "sleep", lambda _: None)
    result = CliRunner().invoke(cli, ["status", "--watch", "1"])
    assert len(looks) == 4
    assert result.stdout.count("store 's'") == 2
    assert "StoreUnavailable: gone for a moment" in result.stdout
    assert CliRunner().invoke(cli, ["status", "--watch", "0"]).exit_code == 2
    looks.clear()
    lines = CliRunner().invoke(cli, ["status", "--watch", "1", "--json"]).stdout.splitlines()
    first, gone, last = map(json.loads, lines)
    assert first == last
    assert (first["name"], first["healthy"]) == ("s", True)
    assert gone == {"error": "StoreUnavailable", "message": "gone for a moment"}
