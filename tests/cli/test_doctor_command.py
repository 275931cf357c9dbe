"""doctor, explain, metrics: looks at a running store."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from raykv.cli.main import cli

if TYPE_CHECKING:
    import raykv


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    "args", [["metrics", "--grafana", "--alerts"], ["metrics", "--alerts", "--json"], ["explain"], ["doctor", "x"]]
)
def test_wrong_usage(args: list[str]) -> None:
    run(*args, code=2)


def test_files_for_grafana_and_prometheus_need_no_store() -> None:
    assert json.loads(run("metrics", "--grafana").stdout)["title"] == "raykv"
    assert "ray_raykv_node_up" in run("metrics", "--alerts").stdout
    assert "expr: raykv_node_up" in run("metrics", "--alerts", "--own-names").stdout


@pytest.mark.ray
def test_a_store_is_looked_at(start_store: Any, store_name: str) -> None:
    store: raykv.Store = start_store(nodes=3, partitions=8)
    store.put_many({f"k{number}": number for number in range(300)})
    named = ["--store", store_name]
    explained = run("explain", "k7", *named)
    assert "owners" in explained.stdout
    found = json.loads(run("explain", "nothing", *named, "--json").stdout)
    assert found["exists"] is False
    assert found["requests"][0]["outcome"] == "absent"
    text = run("metrics", *named).stdout
    assert f'raykv_node_up{{store="{store_name}",node="n1"' in text
    assert {row["name"] for row in json.loads(run("metrics", *named, "--json").stdout)} > {"raykv_records"}
    healthy = CliRunner().invoke(cli, ["doctor", *named, "--json"])
    assert healthy.exit_code in {0, 1}, healthy.output  # a busy machine is slow, which it says
    assert not [each for each in json.loads(healthy.stdout) if each["severity"] == "critical"]
    victim = store.status()["nodes"][0]
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        until_s = time.monotonic() + 60
        while (sick := CliRunner().invoke(cli, ["doctor", *named])).exit_code != 3:
            assert time.monotonic() < until_s, sick.output
            time.sleep(0.2)
        assert "critical" in sick.stdout
    finally:
        os.kill(victim["pid"], signal.SIGCONT)
