"""The command queue, against a simulated store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import raykv.sim
from raykv.cli import reading
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with raykv.sim.start(seed=5) as world:
        link = world._cluster.link(world._client())
        monkeypatch.setattr(reading, "link_to", lambda _: link)
        yield world


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["queue", "mails", *args])
    assert result.exit_code == code, result.output
    return result


def test_a_job_from_its_put_to_its_ack(world: Any) -> None:
    job_id = run("put", "to Ada").stdout.strip()
    assert run("peek").stdout == f"{job_id}\tto Ada\n"
    job, value = run("claim", "--lease", "60").stdout.strip().split("\t")
    assert (job.split("@")[0], value) == (job_id, "to Ada")
    assert run("claim").stdout == ""
    assert json.loads(run("stats", "--json").stdout)["claimed"] == 1
    run("renew", job)
    run("ack", job)
    assert "some of the 1 jobs were not held any more" in run("ack", job, code=1).stderr
    assert "done         1\n" in run("stats").stdout


def test_dead_letters(world: Any) -> None:
    run("put", "--json-value", '{"to": "Ada"}')
    world.store.queue("mails").put((1, 2))
    for _ in range(2):
        for line in (
            run("claim", "--max-deliveries", "2", "--count", "1").stdout.splitlines()
            + run("claim", "--count", "5", "--max-deliveries", "2").stdout.splitlines()
        ):
            run("nack", line.split("\t")[0], "--max-deliveries", "2")
    dead = [json.loads(line) for line in run("dead", "--count", "10", "--json").stdout.splitlines()]
    assert {"to": "Ada"} in [each["value"] for each in dead]
    assert any("pickled" in str(each["value"]) for each in dead), "nothing is unpickled for a look"
    assert run("requeue", dead[0]["job"]).stdout == "1\n"
    assert json.loads(run("remove", "--json").stdout) == {"remove": 1}


@pytest.mark.parametrize(
    "args", [("put",), ("claim", "3"), ("ack",), ("ack", "x"), ("unknown",), ("put", "--json-value", "{")]
)
def test_wrong_usage_is_refused(world: Any, args: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["queue", "mails", *args])
    assert result.exit_code != 0
    assert world.store.buckets() == ["default"]
