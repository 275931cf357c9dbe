"""add-node, remove-node, set-weight, rebalance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import raykv
from raykv.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("words", [("add-node", "--weight", "much"), ("set-weight", "n1"), ("rebalance", "dance")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert run(*words, code=2).stderr.count("\n") == 1


def test_who_waits_in_vain_is_told_which_node_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    import raykv.sim
    from raykv.cli import node_commands

    with raykv.sim.start(seed=5) as world:
        link = world._cluster.link(world._client())
        monkeypatch.setattr(node_commands, "link_to", lambda _: link)
        run("rebalance", "pause")
        began_s = world.now_s
        result = run("add-node", "--timeout", "5", "--json", code=1)
        assert "node n4 was added, and partitions are still moving after 5 s" in result.stderr
        assert world.now_s - began_s < 15
        assert "was added" not in run("remove-node", "n1", "--timeout", "5", code=1).stderr
        run("rebalance", "resume")
        assert json.loads(run("set-weight", "n2", "1.5", "--json").stdout)["weight"] == 1.5


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_nodes_come_and_go(store_name: str, tmp_path: Path) -> None:
    raykv.start(store_name, nodes=2, path=str(tmp_path), partitions=8)
    named = ["--store", store_name]
    try:
        run("put", *named, "k", "v")
        added = run("add-node", *named, "--weight", "0.25")
        assert added.stdout == "node n3 joined\n"
        assert "partitions moved" in added.stderr
        run("set-weight", *named, "n3", "1.5")
        assert json.loads(run("remove-node", *named, "n1", "--json").stdout)["removed"] is True
        ids = [node["node_id"] for node in json.loads(run("status", *named, "--json").stdout)["nodes"]]
        assert ids == ["n2", "n3"]
        assert run("get", *named, "k").stdout == "v\n"
        assert "2 copies" in run("remove-node", *named, "n2", code=2).stderr
        assert run("rebalance", *named, "pause").stdout == "the moves are paused\n"
        assert run("rebalance", *named, "resume").stdout == "the moves go on\n"
    finally:
        raykv.shutdown(store_name)
